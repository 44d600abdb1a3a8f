"""The training step against the authors' program, the optimizer by hand, resuming, the files of a run."""

import dataclasses
import json

import golden
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dmplus import losses
from dmplus import network as N
from dmplus import training as T
from dmplus.network import NetworkConfig, build, preset
from dmplus.runtime import InputError, Machine
from dmplus.sampling import Sampler, SamplingConfig, Segments, Volumes
from dmplus.tf_checkpoint import variable_names
from dmplus.training import RMSPropNesterov, TrainConfig, quick_config, train

CPU = Machine("cpu", "float32", "test")


def test_rmsprop_by_hand():
    """Two steps of a ← ρa+(1−ρ)g², step = lr·g/√(a+ε), v ← m·v − step, p ← p + m·v − step."""
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = RMSPropNesterov([p], lr=0.1)
    x, a, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for g in ([0.3, -0.01], [-0.2, 0.5]):
        p.grad = torch.tensor(g)
        optimizer.step()
        g = np.array(g)
        a = 0.9 * a + 0.1 * g**2
        step = 0.1 * g / np.sqrt(a + 1e-4)
        v = 0.6 * v - step
        x = x + 0.6 * v - step
    assert np.allclose(p.detach().numpy(), x, atol=1e-6)
    q = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    torch_own = torch.optim.RMSprop([q], lr=0.1, alpha=0.9, eps=1e-4, momentum=0.6)
    q.grad = torch.tensor([0.3, -0.01])
    torch_own.step()
    assert abs(q[0].item() - (1 - 0.16 * 0.3 / np.sqrt(0.009 + 1e-4))) > 1e-3  # ours, after one step


LIMITS = {"prob": 4e-5, "grad": 5e-5, "a": 1e-6, "v": 5e-6, "params": 1e-5, "mean": 1e-4, "variance": 3e-4}
FREE_LIMITS = {"prob": 2e-4, "grad": 1e-3, "a": 1e-4, "v": 5e-4, "params": 2e-4, "mean": 1e-3, "variance": 1e-2}


@pytest.mark.parametrize("free", [False, True], ids=["each from the golden state", "three in a row"])
def test_three_steps_of_the_authors_program(free):
    """Costs, probabilities, gradients, parameters, optimizer state and batch statistics of every step."""
    config = TrainConfig(
        network=dataclasses.replace(golden.TINY, dropout=(0.0, 0.0, 0.0)),
        form="released",
        weight_detection=0.5,
        weight_segmentation=0.5,
    )
    net = golden.tiny(config.network).train()
    names = variable_names(net)
    optimizer = T.make_optimizer(net, config)
    limits = FREE_LIMITS if free else LIMITS
    for s, x in enumerate(golden.inputs("training").values()):
        z = dict(np.load(golden.DATA / f"train_step{s}.npz"))
        current, low, prior = golden.call(x)
        seen = []

        def forward(*inputs, seen=seen):
            logits = net(*inputs)
            seen.append(logits.float().softmax(1))
            return logits

        segments = Segments(current, low, prior, torch.from_numpy(z["y"]).float())
        parts = T.training_step(net, optimizer, segments, config, forward=forward)
        for ours, theirs in (("bce", "xentr"), ("vss", "vss"), ("l1", "L1"), ("l2", "L2")):
            assert float(parts[ours]) == pytest.approx(float(z[f"cost/{theirs}"]), rel=1e-3 if free else 5e-5), ours
        total = parts["loss"] + config.l1 * parts["l1"] + config.l2 * parts["l2"]
        assert float(total) == pytest.approx(float(z["cost/total"]), rel=1e-3 if free else 5e-5)

        mine = {names[n]: p for n, p in net.named_parameters()}
        order = [str(n) for n in z["trainable_order"]]
        assert set(mine) == set(order)

        def flat(tensors):
            return torch.cat([t.detach().reshape(-1) for t in tensors])

        apart = {"prob": seen[0][:, 1].detach() - torch.from_numpy(z["prob_train_mode"])}
        apart["grad"] = flat(mine[n].grad for n in order) - torch.from_numpy(z["grad"]).double() / 1e6
        length = float((torch.from_numpy(z["grad"]).double() / 1e6).norm())
        assert float(parts["gradient"]) == pytest.approx(length, rel=1e-2 if free else 1e-4)
        for kind, theirs in (("a", "accu"), ("v", "vel")):
            apart[kind] = flat(optimizer.state[mine[n]][kind] for n in order) - torch.from_numpy(z[theirs])
        apart["params"] = flat(mine[n] for n in order) - torch.from_numpy(z["var"])
        buffers = {names[n]: b for n, b in net.named_buffers() if n in names}
        rings = [str(n) for n in z["ring_names"]]
        assert set(buffers) == set(rings)
        rows = torch.from_numpy(z["rings"]).split([buffers[n].shape[1] for n in rings])
        for kind, what in (("mean", "muBns"), ("variance", "varBns")):
            apart[kind] = flat(buffers[n][s] - row for n, row in zip(rings, rows, strict=True) if what in n)
        worst = {k: float(v.abs().max()) for k, v in apart.items()}
        assert {k: v for k, v in worst.items() if v > limits[k]} == {}

        if not free:  # the next step starts from the golden state
            sizes = [mine[n].numel() for n in order]
            with torch.no_grad():
                for kind, theirs in (("p", "var"), ("a", "accu"), ("v", "vel")):
                    for n, value in zip(order, torch.from_numpy(z[theirs]).split(sizes), strict=True):
                        (mine[n] if kind == "p" else optimizer.state[mine[n]][kind]).copy_(value.view_as(mine[n]))


SMALL = TrainConfig(
    network=preset("smoke"),
    sampling=SamplingConfig(segment=25, centre="lesion"),
    optimizer="adamw",
    schedule="cosine",
    learning_rate=3e-3,
    steps=6,
    batch=4,
    validate_every=3,
    checkpoint_every=2,
    l1=0.0,
    l2=0.0,
)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_stopped_run_ends_with_the_same_weights(tmp_path, cases, optimizer):
    config = dataclasses.replace(SMALL, optimizer=optimizer)
    keywords = {"machine": CPU, "progress": False}
    whole = train(config, cases[:3], cases[3:], tmp_path / "whole", **keywords)
    for stop in (1, 3, 4):  # after a step of its own, at a validation, on a checkpoint
        train(config, cases[:3], cases[3:], tmp_path / "parts", stop_after=stop, **keywords)
        assert not (tmp_path / "parts" / "weights.safetensors").exists()
    parts = train(config, cases[:3], cases[3:], tmp_path / "parts", **keywords)
    assert all(torch.equal(v, parts.state_dict()[k]) for k, v in whole.state_dict().items())
    again = N.load(tmp_path / "parts" / "weights.safetensors")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    names = (
        "checkpoint.safetensors",
        "config.json",
        "history.csv",
        "result.json",
        "versions.json",
        "weights.safetensors",
    )
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == sorted(names)
    history = pd.read_csv(tmp_path / "parts" / "history.csv")
    assert history.step.is_monotonic_increasing and history.step.iloc[-1] == 6
    assert history.val_fp_per_volume.notna().sum() == 2
    assert TrainConfig.from_json(json.loads((tmp_path / "parts" / "config.json").read_text())) == config


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, cases, monkeypatch):
    """A crash between checkpoints loses steps, not determinism."""
    whole = train(SMALL, cases[:3], [], tmp_path / "whole", machine=CPU, progress=False)
    real, calls = T.training_step, []

    def dies(*args, **keywords):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **keywords)

    monkeypatch.setattr(T, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, cases[:3], [], tmp_path / "killed", machine=CPU, progress=False)
    monkeypatch.setattr(T, "training_step", real)
    resumed = train(SMALL, cases[:3], [], tmp_path / "killed", machine=CPU, progress=False)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_a_run_that_changes_its_machine_says_so(tmp_path, cases):
    """What is written when it goes on must not hide what it was begun with, nor what finds it finished count."""

    def go_on(why, stop=None, **changes):
        train(SMALL, cases[:3], [], tmp_path, machine=dataclasses.replace(CPU, why=why, **changes), stop_after=stop,
              progress=False)  # fmt: skip
        return json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))

    first = go_on("a", 1)
    assert first["precision"] == "float32" and "earlier" not in first
    assert go_on("b", 2) == first | {"why": "b"}  # a probe that came out another way is no other machine
    changed = go_on("c", 4, precision="bfloat16")
    assert changed["precision"] == "bfloat16" and changed["earlier"] == [{"until_step": 2} | first | {"why": "b"}]
    back = go_on("d")
    before = changed.pop("earlier")
    assert back["earlier"] == [*before, {"until_step": 4} | changed]
    result = (tmp_path / "result.json").read_bytes()
    assert go_on("e", precision="bfloat16") == back  # it was finished
    assert (tmp_path / "result.json").read_bytes() == result


def test_whether_a_run_is_compiled_does_not_depend_on_where_it_was_stopped(tmp_path, cases, monkeypatch):
    """Compiled and plain steps round differently, and a resumed run left uncompiled is two or three times slower."""
    asked = []

    def compiled(network, example, machine, steps, wanted, progress):
        asked.append(steps)

    monkeypatch.setattr(T, "_compiled", compiled)
    for stop in (1, 4, None, None):  # the last finds a finished run
        train(SMALL, cases[:3], [], tmp_path / "run", machine=CPU, progress=False, stop_after=stop)
    assert asked == [6, 6, 6, 0]


@pytest.mark.skipif(not T.has_compiler(), reason="no compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_step_is_the_plain_one(cases):
    """With the same dropout in both: a mask for each of the two layers."""
    small = NetworkConfig(prior="none", features=(16, 16), low_factors=(), fully_connected=(16, 16), residual_layers=(),
                          residual_fully_connected=(), dropout=(0, 0.25, 0.25), dropout_scaling="inverted")  # fmt: skip
    config = dataclasses.replace(SMALL, network=small, loss="jvss")
    torch.manual_seed(0)
    network = build(small).to(memory_format=torch.channels_last_3d).train()
    sampler = Sampler(Volumes([c.normalised() for c in cases[:3]]), small, config.sampling, seed=0)
    forward = T._compiled(network, sampler.batch(0, 4), CPU, 1000, True, False)
    segments = sampler.batch(1, 4)
    gradients = []
    for way in (None, forward):
        torch.manual_seed(1)
        loss = float(T._gradients(network, segments, config, way, CPU)["loss"])
        gradients.append([p.grad.clone() for p in network.parameters()])
        assert forward is not None and loss > 0
    for ours, plain in zip(*gradients, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-3, atol=1e-5)


def test_nothing_is_compiled_on_a_gpu(capsys):
    gpu = dataclasses.replace(CPU, device="cuda")
    assert T._compiled(build(SMALL.network), None, gpu, 10**6, None, False) is None and not capsys.readouterr().out
    assert T._compiled(build(SMALL.network), None, gpu, 10**6, True, False) is None
    assert "recorded" in capsys.readouterr().out


def test_a_checkpoint_from_before_a_setting_existed_is_resumed_at_its_default(tmp_path, cases):
    whole = train(SMALL, cases[:3], [], tmp_path / "whole", machine=CPU, progress=False)
    train(SMALL, cases[:3], [], tmp_path / "parts", machine=CPU, progress=False, stop_after=2)
    path = tmp_path / "parts" / "checkpoint.safetensors"
    with safe_open(path, "pt") as f:
        header = f.metadata()
    config = json.loads(header["config"])
    del config["beta2"]
    save_file(load_file(path), path, metadata=header | {"config": json.dumps(config)})
    parts = train(SMALL, cases[:3], [], tmp_path / "parts", machine=CPU, progress=False)
    assert pd.read_csv(tmp_path / "parts" / "history.csv").step.tolist() == [2, 3, 4, 6]
    assert all(torch.equal(v, parts.state_dict()[k]) for k, v in whole.state_dict().items())


def test_a_short_memory_bounds_the_step_after_one_large_gradient():
    """Many small gradients, then one large: AdamW moves by rate * 0.1 / sqrt(1 - beta2), and on for some steps."""
    moved = {}
    for beta2 in (0.999, 0.95):
        network = build(SMALL.network)
        optimizer = T.make_optimizer(network, dataclasses.replace(SMALL, beta2=beta2, learning_rate=1.0))
        weight = T.kernels(network)[0]
        for size in [1e-6] * 300 + [1.0]:
            before = weight.detach().clone()
            for p in network.parameters():
                p.grad = torch.full_like(p, size)
            optimizer.step()
        moved[beta2] = float((weight.detach() - before).abs().mean())
    assert moved[0.999] > 1.4 and moved[0.95] == pytest.approx(0.1 / 0.05**0.5, rel=0.01)


def test_another_configuration_is_not_resumed(tmp_path, cases):
    train(SMALL, cases[:3], [], tmp_path, machine=CPU, progress=False, stop_after=2)
    with pytest.raises(InputError, match="same configuration"):
        train(dataclasses.replace(SMALL, alpha=0.5), cases[:3], [], tmp_path, machine=CPU, progress=False)
    with pytest.raises(InputError, match="same configuration"):
        train(dataclasses.replace(SMALL, beta2=0.95), cases[:3], [], tmp_path, machine=CPU, progress=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="cannot be read"):
        train(SMALL, cases[:3], [], tmp_path, machine=CPU, progress=False)


def test_other_training_cases_are_not_gone_on_with(tmp_path, cases):
    train(SMALL, cases[:2], [], tmp_path / "run", machine=CPU, progress=False, stop_after=2)
    for others in (cases[1:3], cases[1::-1]):
        with pytest.raises(InputError, match="run: expected the training cases that this run was begun on; got others"):
            train(SMALL, others, [], tmp_path / "run", machine=CPU, progress=False)
    tensors, path = load_file(tmp_path / "run" / "checkpoint.safetensors"), tmp_path / "run" / "checkpoint.safetensors"
    with safe_open(path, "pt") as f:
        header = f.metadata()
    save_file(tensors, path, metadata={k: v for k, v in header.items() if k != "cases"})  # as older runs have it
    train(SMALL, cases[1:3], [], tmp_path / "run", machine=CPU, progress=False)


def test_validation_is_labelled_and_of_other_patients(tmp_path, cases):
    bare = dataclasses.replace(cases[3], label=None)
    with pytest.raises(InputError, match="expected a label for every validation case; case3 has none"):
        train(SMALL, cases[:3], [bare], tmp_path / "run", machine=CPU, progress=False)
    with pytest.raises(InputError, match="who are not trained on; got p1 in both"):
        train(SMALL, cases[:3], [cases[1]], tmp_path / "run", machine=CPU, progress=False)
    assert not (tmp_path / "run").exists()


def test_training_learns_bright_balls(tmp_path, cases):
    config = dataclasses.replace(SMALL, steps=60, validate_every=0, checkpoint_every=30, loss="bce")
    net = train(config, cases[:3], cases[3:], tmp_path, machine=CPU, progress=False)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.bce.iloc[-1] < 0.7 * history.bce.iloc[0]
    held_out = cases[3].normalised()
    prob = T.predict_volume(net, held_out.image, prior=held_out.prior, mask=held_out.mask, machine=CPU)
    inside = held_out.label > 0
    assert prob[inside].mean() > 2 * prob[held_out.mask & ~inside].mean()


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("loss", list(T.LOSSES))
def test_every_loss_is_wired(loss, form):
    """The parts are the formulas of dmplus.losses, with the alpha and the form that were asked for."""
    config = dataclasses.replace(SMALL, loss=loss, alpha=0.8, form=form, weight_detection=2.0, weight_segmentation=3.0)
    logits = torch.randn(3, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    target = (torch.rand(3, 5, 5, 5, generator=torch.Generator().manual_seed(2)) > 0.9).float()
    target[2] = 0
    parts = T.cost(logits, target, config)
    total = 0.0
    for name, weight in zip(T.LOSSES[loss], (2, 3), strict=True):
        if name:
            alpha = {"alpha": 0.8} if name in ("vss", "sse") else {}
            expected = float(getattr(losses, name)(logits.sigmoid(), target, form=form, **alpha))
            assert float(parts[name]) == pytest.approx(expected, rel=1e-5)
            total += weight * expected
    assert float(parts["loss"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "jvss"])
def test_a_certain_error_pulls_as_the_formula_says(loss):
    """p − y for each voxel of the mean, however far the logit: by way of the probability the slope once was 10,000 times as
    steep at 17, and 0 at 40, and long trainings were lost."""
    logits = torch.tensor([17.0, 25, 40, 200, -17, -25, -40, -200]).view(1, 2, 2, 2).requires_grad_()
    target = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).view(1, 2, 2, 2)
    parts = T.cost(logits, target, dataclasses.replace(SMALL, loss=loss))
    parts["loss"].backward()
    assert torch.allclose(logits.grad, (1 - 2 * target) / 8, atol=1e-6)
    assert float(parts["bce"].detach()) == pytest.approx((17 + 25 + 40 + 200) * 2 / 8)


def test_schedules():
    paper = TrainConfig()
    assert paper.steps == 60 * 20 * 1000 / 10
    assert paper.rate(0) == paper.rate(17 * 2000 + 1999) == 1e-3  # epochs 0 to 17
    assert paper.rate(18 * 2000) == 5e-4
    assert paper.rate(paper.steps - 1) == pytest.approx(1e-3 / 2**8)  # the release names eight epochs, and not 42
    quick = quick_config()
    assert quick.rate(0) == pytest.approx(2e-3 / 50) and quick.rate(quick.steps - 1) < 1e-7


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="expected only the keys .* got momentum"):
        TrainConfig.from_json({"momentum": 0.9})
    with pytest.raises(InputError, match="expected loss bce"):
        TrainConfig(loss="focal")
    with pytest.raises(InputError, match="large alpha"):
        TrainConfig(alpha=2)
    with pytest.raises(InputError, match="beta2 of at least 0 and below 1"):
        TrainConfig(beta2=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", v) for v in (float("nan"), float("inf"), 0.0, -1e-3)),
        *((n, v) for n in ("l1", "l2", "weight_detection", "weight_segmentation") for v in (float("nan"), -1.0)),
        *((n, 0) for n in ("steps", "batch", "steps_per_epoch", "checkpoint_every")),
        *((n, -1) for n in ("warmup", "validate_every", "seed", "steps")),
    ],
)
def test_nonsense_numbers_are_refused_with_a_remedy(name, value):
    with pytest.raises(InputError, match=f"expected a finite {name} .*; got {value}; correct it or leave it out"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("poisoned", ["weight", "statistics"])
def test_weights_that_are_not_finite_are_never_written(tmp_path, cases, monkeypatch, poisoned):
    """The loss of a step is that before its update: the last update may ruin the weights with the loss still finite."""
    real = T.training_step

    def ruins(network, *args, **keywords):
        parts = real(network, *args, **keywords)
        with torch.no_grad():
            (network.bias if poisoned == "weight" else network.fully_connected.blocks[0].norm.means)[:1] = torch.nan
        return parts

    monkeypatch.setattr(T, "training_step", ruins)
    config = dataclasses.replace(SMALL, steps=1)
    with pytest.raises(
        FloatingPointError, match=f"not finite after step 0; lower the learning rate of {tmp_path.name}"
    ):
        train(config, cases[:3], [], tmp_path, machine=CPU, progress=False)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "versions.json"}


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e9), ("adamw", 1e20), ("rmsprop", 1e20)])
def test_a_rate_that_ruins_the_network_is_said_in_one_line(tmp_path, cases, optimizer, rate):
    config = dataclasses.replace(SMALL, optimizer=optimizer, learning_rate=rate)
    with pytest.raises(FloatingPointError, match="finite.*lower the learning rate"):
        train(config, cases[:3], [], tmp_path, machine=CPU, progress=False)
    assert not (tmp_path / "weights.safetensors").exists()


def test_init_of_another_network_says_what_differs(tmp_path, cases):
    other = N.DeepMedic(dataclasses.replace(SMALL.network, fully_connected=(8, 16)))
    with pytest.raises(InputError) as caught:
        train(SMALL, cases[:3], [], tmp_path, init=other, machine=CPU, progress=False)
    assert str(caught.value) == (
        "train: expected init weights of a network with fully_connected=(16, 16); got one with fully_connected=(8, 16); "
        "train them with the same preset (prior='none' may grow into 'path' or 'channel')"
    )


def test_a_folder_with_other_files_is_no_run(tmp_path, cases):
    (tmp_path / "cases.csv").write_text("")
    with pytest.raises(InputError, match="without config.json that holds cases.csv; choose another"):
        train(SMALL, cases[:3], [], tmp_path, machine=CPU, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["cases.csv"]
