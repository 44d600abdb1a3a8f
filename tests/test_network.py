"""The network against the authors' program, its shapes, its hygiene, its files."""

import dataclasses
import json

import golden
import numpy as np
import pytest
import torch

from dmplus import network as N
from dmplus.network import DeepMedic, NetworkConfig, preset
from dmplus.runtime import InputError
from dmplus.tf_checkpoint import variable_names


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_reproduces_the_authors_program(name):
    net, x = golden.tiny(), golden.inputs("inference")[name]
    with np.load(golden.DATA / "deepmedic_plus_tiny.npz") as z, torch.inference_mode():
        prob = net.probabilities(*golden.call(x))
        assert (prob[:, 1] - torch.from_numpy(z[f"{name}/prob"])).abs().max() < 1e-5
    assert torch.allclose(prob.sum(1), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        {"norm_epsilon": 1e-5},
        {"residual_layers": (4, 6)},
        {"residual_fully_connected": ()},
        {"dropout_scaling": "inverted"},
    ],
    ids=lambda f: next(iter(f)),
)
def test_every_choice_of_the_release_shows(fault):
    x = golden.inputs("inference")["train"]
    with torch.inference_mode():
        true = golden.tiny().probabilities(*golden.call(x))
        other = golden.tiny(dataclasses.replace(golden.TINY, **fault)).probabilities(*golden.call(x))
    assert (other - true).abs().max() > 1e-5


def test_sizes_of_the_paper():
    assert sum(p.numel() for p in DeepMedic(preset("paper")).parameters()) == 4_900_806
    config = preset("paper")
    assert config.receptive_field == 19
    assert [config.low_size(19, f) for f in (3, 5)] == [25, 22]
    assert [config.low_size(27, f) for f in (3, 5)] == [27, 24]
    assert [config.low_start(100, f) for f in (3, 5)] == [82, 64]  # s - 18 and s - 36
    assert [preset("quick").low_start(100, f) for f in (3, 5)] == [83, 66]  # one and two voxels on: block centres
    names = variable_names(DeepMedic(config))
    assert len(names) == len(set(names.values())) == len(DeepMedic(config).state_dict()) - 35  # the row counters


def inputs(config, batch=2, edge=21, seed=0):
    g = torch.Generator().manual_seed(seed)
    low = [torch.randn(batch, 1, *[config.low_size(edge - 18, f)] * 3, generator=g) for f in config.low_factors]
    current = torch.randn(batch, 1, edge, edge, edge, generator=g)
    return current, low, torch.randn(batch, 1, edge, edge, edge, generator=g)


@pytest.mark.parametrize("prior", ["none", "channel", "path"])
@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_probabilities(name, prior):
    config = preset(name, prior=prior)
    net = DeepMedic(config).eval()
    current, low, earlier = inputs(config)
    before = None if prior == "none" else earlier
    with torch.inference_mode():
        p = net.probabilities(current, low, before)
        assert p.shape == (2, 2, 3, 3, 3)
        assert torch.allclose(p.sum(1), torch.ones(2, 3, 3, 3), atol=1e-6)
        absent = net.probabilities(current, low)
        if prior != "none":
            assert torch.allclose(absent, net.probabilities(current, low, torch.zeros_like(current)), atol=1e-6)
            assert not torch.equal(absent, p)  # the prior matters


@pytest.mark.parametrize(("channels", "edge"), [(40, 33), (50, 31)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_constant_channel_of_a_large_batch_has_no_gradient(channels, edge, seed):
    """At the paper's batch the mean of a constant, summed in float32, is not that constant; without an epsilon what is left would
    be divided by nearly nothing."""
    torch.manual_seed(seed)
    norm = N.BatchNorm(channels, N.FLOAT32_TINY, 60).train()
    values = torch.randn(channels, 1, 1, 1).expand(channels, edge, edge, edge)
    x = values.expand(10, *values.shape).clone().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    y = norm(x, torch.full((channels,), 0.01))
    assert not y.any()  # the bias alone
    y.backward(torch.randn_like(y))
    assert not x.grad.any()


@pytest.mark.parametrize("name", ["paper", "smoke"])
@pytest.mark.parametrize("prior", ["channel", "path"])
@pytest.mark.parametrize("what", ["zero prior", "constant image", "all zero"])
def test_finite_on_degenerate_input(name, prior, what):
    config = preset(name, prior=prior)
    if name == "paper":  # the paper's choices at a tenth of its width
        config = dataclasses.replace(config, features=tuple(range(3, 12)), fully_connected=(30, 30))
    torch.manual_seed(0)
    net = DeepMedic(config).train()
    current, low, earlier = inputs(config)
    if what == "zero prior":
        earlier = torch.zeros_like(earlier)
    elif what == "constant image":
        current, low = torch.full_like(current, 0.7), [torch.full_like(x, 0.7) for x in low]
    else:
        current, earlier, low = current * 0, earlier * 0, [x * 0 for x in low]
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for step in range(6):
        if step == 3:
            for _ in range(60):  # until none of the initial rows of the batch statistics is left
                with torch.no_grad():
                    net(current, low, earlier)
        p = net.probabilities(current, low, earlier)
        loss = -torch.log(p[:, 0] + 1e-6).mean()  # a batch without lesion
        optimizer.zero_grad()
        loss.backward()
        assert all(bool(torch.isfinite(q.grad).all()) for q in net.parameters())
        assert max(float(q.grad.abs().max()) for q in net.parameters()) < 1e4
        optimizer.step()
    with torch.inference_mode():
        net.eval()
        for volume in (current, torch.randn_like(current)):
            assert bool(torch.isfinite(net.probabilities(volume, low, earlier)).all())


def test_batch_statistics_are_the_mean_of_the_last_batches():
    norm = N.BatchNorm(3, 1e-5, 4).train()
    xs = [torch.randn(2, 3, 4, 4, 4) * (i + 1) + i for i in range(6)]
    for x in xs:
        norm(x, torch.ones(3))
    kept = xs[2:]
    assert torch.allclose(norm.means.mean(0), torch.stack([x.mean((0, 2, 3, 4)) for x in kept]).mean(0), atol=1e-5)
    biased = torch.stack([x.var((0, 2, 3, 4), correction=0) for x in kept]).mean(0)
    assert torch.allclose(norm.variances.mean(0), biased, rtol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-5, N.FLOAT32_TINY])
def test_the_written_out_gradients_are_those_of_the_formula(epsilon):
    """Values and all gradients of normalisation and PReLU against automatic differentiation; a constant channel has none."""
    torch.manual_seed(0)
    norm = N.BatchNorm(4, epsilon, 4).train()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.7, 0.3, 2.0]))
        norm.bias.copy_(torch.tensor([0.2, 0.1, -0.4, -0.3]))
    slope = torch.tensor([0.01, 0.25, -0.3, 0.5], requires_grad=True)
    x = (torch.randn(2, 4, 5, 6, 7) * torch.tensor([1.0, 3.0, 0.1, 1.0]).view(4, 1, 1, 1) + 2).requires_grad_()
    with torch.no_grad():
        x[:, 3] = 1.7
    wide = x.double()
    mean = wide.mean((0, 2, 3, 4), keepdim=True)
    variance = (wide - mean).square().mean((0, 2, 3, 4), keepdim=True)
    weight, bias = (p.double().view(1, 4, 1, 1, 1) for p in (norm.weight, norm.bias))
    varies = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 4, 1, 1, 1)
    root = torch.where(varies > 0, variance, 1).add(epsilon).rsqrt()
    expected = torch.nn.functional.prelu((wide - mean) * root * weight * varies + bias, slope.double())
    y = norm(x, slope)
    assert torch.allclose(y.double(), expected, atol=1e-5)
    weights = torch.randn_like(y)
    asked = (x, norm.weight, norm.bias, slope)
    ours, wanted = (
        torch.autograd.grad((y * weights).sum(), asked),
        torch.autograd.grad((expected * weights).sum(), asked),
    )
    for name, a, b in zip(("x", "weight", "bias", "slope"), ours, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max())), name
    assert float(ours[0][:, 3].abs().max()) == 0 and float(ours[1][3]) == 0


@pytest.mark.parametrize(("channels", "earlier"), [(5, 3), (3, 5), (4, 4)])
def test_a_residual_connection_adds_the_centre_of_the_shared_channels(channels, earlier):
    y = torch.randn(2, channels, 3, 4, 5, requires_grad=True)
    early = torch.randn(2, earlier, 7, 8, 9, requires_grad=True)
    shared = min(channels, earlier)
    expected = torch.cat((y[:, :shared] + early[:, :shared, 2:5, 2:6, 2:7], y[:, shared:]), 1)
    ours = N._add(y, early)
    assert torch.equal(ours, expected)
    weights = torch.randn_like(expected)
    pairs = (torch.autograd.grad((z * weights).sum(), (y, early)) for z in (ours, expected))
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


def test_add_prior_path_starts_as_the_same_function():
    torch.manual_seed(0)
    plain = DeepMedic(preset("smoke", prior="none"))
    current, low, earlier = inputs(plain.config, edge=25)
    plain.train()
    plain(current, low)
    plain.eval()
    grown = N.add_prior_path(plain)
    with torch.inference_mode():
        assert torch.allclose(plain(current, low), grown(current, low, earlier), atol=1e-5)
    grown.train()
    grown(current, low, earlier).square().sum().backward()
    assert float(grown.fully_connected.blocks[0].conv.weight.grad[:, 4:8].abs().max()) > 0  # and it can learn
    with pytest.raises(InputError, match="add_prior_path"):
        N.add_prior_path(DeepMedic(preset("smoke", prior="path")))


def test_weights_file_round_trip(tmp_path):
    net = DeepMedic(preset("smoke")).train()
    current, low, earlier = inputs(net.config)
    net(current, low, earlier)
    N.save(tmp_path / "w.safetensors", net, info={"loss": "jvss", "alpha": 0.995})
    again = N.load(tmp_path / "w.safetensors")
    assert again.config == net.config and not again.training
    assert N.info(tmp_path / "w.safetensors")["info"] == {"loss": "jvss", "alpha": 0.995}
    with torch.inference_mode():
        assert torch.equal(net.eval()(current, low, earlier), again(current, low, earlier))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_foreign_weights_are_refused(tmp_path):
    import safetensors.torch

    with pytest.raises(InputError, match="no such file"):
        N.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(InputError, match="not a readable safetensors"):
        N.load(tmp_path / "text.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another program"):
        N.load(tmp_path / "other.safetensors")
    header = {"dmplus": json.dumps({"network": dataclasses.asdict(preset("smoke")), "info": {}})}
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "cut.safetensors", metadata=header)
    with pytest.raises(InputError, match="do not fit"):
        N.load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    net = DeepMedic(preset("smoke"))
    with torch.no_grad():
        net.bias[1] = value
    net.fully_connected.blocks[0].norm.variances[3, :2] = value  # a buffer counts as well
    N.save(tmp_path / "w.safetensors", net)
    with pytest.raises(InputError, match="^w.safetensors: expected finite weights; got 3 that are not; train again"):
        N.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("low_factors", (2, 4), "odd numbers"), ("dropout", (0, 0.5, 1), "from 0 to below 1"), ("norm_window", 0, "from 1"),
     ("residual_layers", (4, 12), "layers from 2 to 9"), ("residual_layers", (1,), "layers from 2 to 9"),
     ("residual_fully_connected", (3,), "layers from 2 to 2")],
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(name, value, words):
    """An even block has no middle voxel: its coarse grid would lie beside the scan."""
    with pytest.raises(InputError, match=f"expected {name} to be .*{words}; got"):
        NetworkConfig(**{name: value})


def test_a_configuration_of_lists_is_that_of_tuples():
    assert NetworkConfig(features=[30, 40, 50, 60, 70, 80, 90, 100, 110], dropout=[0.0, 0.5, 0.5]) == NetworkConfig()


def test_wrong_shapes_say_what_was_expected():
    net = DeepMedic(preset("smoke"))
    current, low, earlier = inputs(net.config)
    with pytest.raises(InputError, match=r"at least 19 voxels"):
        net(current[:, :, :10], low, earlier)
    with pytest.raises(InputError, match=r"factor 3\) of shape \(2, 1, 19, 19, 19\)"):
        net(current, [low[0][:, :, 1:], low[1]], earlier)
    with pytest.raises(InputError, match="prior of the current scan's shape"):
        net(current, low, earlier[:1])
    with pytest.raises(InputError, match="no prior"):
        DeepMedic(preset("smoke", prior="none"))(current, low, earlier)
    with pytest.raises(InputError, match="prior none or channel or path"):
        preset("quick", prior="maybe")


def test_dropout_drops_the_share_it_should_and_follows_the_seed():
    x = torch.zeros(2, 8, 20, 20, 20)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(N._kept(x, 0.25))
    assert masks[0].shape == x.shape and set(masks[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    share = masks[0].mean((0, 2, 3, 4))  # of each channel: 16,000 draws, standard deviation 0.0034
    assert ((share - 0.75).abs() < 0.015).all()
    flat = masks[0].movedim(1, -1).flatten()  # neighbours in memory come from the same 64-bit number
    assert abs(float(torch.corrcoef(torch.stack((flat[1:], flat[:-1])))[0, 1])) < 0.02
