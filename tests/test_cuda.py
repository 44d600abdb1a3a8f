"""What only a CUDA device does: volumes in its memory, recorded steps, maps. Skipped where there is none."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case

from dmplus import experiment, synthetic, training
from dmplus.inference import predict_volume
from dmplus.network import DeepMedic, load, preset
from dmplus.runtime import Machine
from dmplus.sampling import Sampler, SamplingConfig, Volumes
from dmplus.training import TrainConfig, quick_config, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = Machine("cuda", "float32", "test")
CASES = [ball_case(seed, prior=seed != 1) for seed in range(4)]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Products in full single precision, so that numbers can be compared with the processor's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def test_segments_are_those_of_the_processor():
    network, config = preset("quick"), SamplingConfig(shift_sd=1.0, scale_sd=0.1)
    here, there = (Sampler(Volumes([c.normalised() for c in CASES], device=d), network, config, seed=1).batch(2, 20)
                   for d in (None, "cuda"))  # fmt: skip
    assert all(t.is_cuda for t in there.tensors())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here.tensors(), there.tensors(), strict=True))


@pytest.mark.parametrize("prior", ["none", "channel", "path"])
@pytest.mark.parametrize("loss", ["jvss", "sse_bce", "dice"])
def test_a_recorded_step_is_the_plain_one(prior, loss):
    """Other batches than the one recorded, and parameters that an optimizer has moved since."""
    config = quick_config(prior=prior, loss=loss, alpha=0.9, l2=1e-4)
    config = dataclasses.replace(config, network=dataclasses.replace(preset("smoke", prior=prior), dropout=(0, 0, 0)))
    torch.manual_seed(0)
    recorded = DeepMedic(config.network).cuda().train()
    sampler = Sampler(Volumes([c.normalised() for c in CASES], device="cuda"), config.network, config.sampling, seed=0)
    replayed = training.Replayed(recorded, sampler.batch(0), config, GPU)
    optimizer = training.make_optimizer(recorded, config)
    for step in range(1, 4):
        segments = sampler.batch(step)
        plain = DeepMedic(config.network).cuda().train()
        plain.load_state_dict(recorded.state_dict())
        expected = training._gradients(plain, segments, config, None, GPU)
        parts = training.training_step(recorded, optimizer, segments, config, machine=GPU, replayed=replayed)
        assert list(parts) == list(expected)
        for name, value in expected.items():
            assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), (step, name)
        for (name, p), q in zip(recorded.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5), (step, name)
        for (name, b), c in zip(recorded.named_buffers(), plain.buffers(), strict=True):
            assert torch.allclose(b, c, rtol=1e-4, atol=1e-6), (step, name)


def test_dropout_is_drawn_anew_at_each_replay_and_repeats_with_its_seed():
    config = quick_config(prior="none", loss="bce")
    network = DeepMedic(dataclasses.replace(config.network, dropout=(0, 0.5, 0.5))).cuda().train()
    sampler = Sampler(Volumes([c.normalised() for c in CASES], device="cuda"), network.config, config.sampling, seed=0)
    segments = sampler.batch(0)
    replayed = training.Replayed(network, sampler.batch(0), config, GPU)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(replayed(segments)["loss"])

    assert loss(1) == pytest.approx(loss(1), rel=1e-5) and abs(loss(1) - loss(2)) > 1e-4 * loss(1)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_training_learns_and_goes_on_where_it_stopped(tmp_path, optimizer):
    config = TrainConfig(network=preset("smoke"), sampling=SamplingConfig(segment=25, centre="lesion"), loss="bce",
                         optimizer=optimizer, learning_rate=2e-3, schedule="cosine", steps=60, batch=4, l1=0.0, l2=0.0,
                         validate_every=30, checkpoint_every=15)  # fmt: skip
    whole = train(config, CASES[:3], CASES[3:], tmp_path / "whole", machine=GPU, progress=False)
    history = pd.read_csv(tmp_path / "whole" / "history.csv")
    assert history.bce.iloc[-1] < 0.7 * history.bce.iloc[0]
    train(config, CASES[:3], CASES[3:], tmp_path / "parts", machine=GPU, progress=False, stop_after=22)
    resumed = train(config, CASES[:3], CASES[3:], tmp_path / "parts", machine=GPU, progress=False)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        if a.is_floating_point():  # a GPU adds in any order
            assert torch.allclose(a, b, rtol=0.05, atol=0.01), name


def test_a_rate_that_ruins_the_network_is_said_in_one_line(tmp_path):
    config = quick_config(loss="jvss", steps=40, learning_rate=1e20, validate_every=0)
    config = dataclasses.replace(config, network=preset("smoke"))
    with pytest.raises(FloatingPointError, match="finite.*lower the learning rate"):
        train(config, CASES[:3], [], tmp_path, machine=GPU, progress=False)
    assert not (tmp_path / "weights.safetensors").exists()
    assert float(torch.ones(1, device="cuda") + 1) == 2  # the device is still there


def test_a_loss_that_looks_at_values_is_trained_without_a_recording(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(training.LOSSES, "own", ("own", None))
    monkeypatch.setitem(
        training.OWN, "own", lambda p, y, *, alpha: (p - y).square().mean() if y.sum() > -1 else p.sum()
    )
    config = quick_config(loss="own", steps=6, validate_every=0)
    config = dataclasses.replace(config, network=preset("smoke"))
    train(config, CASES[:3], [], tmp_path, machine=GPU, progress=False)
    assert "not recorded as a graph" in capsys.readouterr().out and (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("weights", ["sens", "spec"])
def test_maps_are_those_of_the_processor(weights):
    case = CASES[0].normalised()
    maps = [
        predict_volume(load(weights), case.image, prior=case.prior, mask=case.mask, machine=Machine(d, "float32", ""))
        for d in ("cpu", "cuda")
    ]
    assert np.abs(maps[0] - maps[1]).max() < 1e-3


def test_an_experiment_on_a_gpu_scores_its_maps_beside_it(tmp_path):
    config = dataclasses.replace(synthetic.COHORTS["smoke"], patients=3, split=(1, 1, 1), visits=(0.0, 1.0))
    synthetic.generate(config, tmp_path / "cohort", progress=False)
    runs = experiment.Experiments(tmp_path / "cohort", tmp_path / "runs", machine=GPU, start=load("trunk"))
    run = dataclasses.replace(experiment.RUNS["jvss-0.5-fresh-path-s0"], steps=3)
    experiment.main(["own"], runs, own=[run])
    tables = {p.name: pd.read_csv(p) for p in (tmp_path / "runs" / run.name).glob("rows.*.csv.gz")}
    assert len(tables) == 8 and all(len(t) for t in tables.values())
    alone = experiment.Experiments(tmp_path / "cohort", tmp_path / "runs", machine=Machine("cuda", "float32", ""))
    visits = alone.visits("test")
    network = load(tmp_path / "runs" / run.name / "weights.safetensors")
    rows = experiment.score_cases(network, visits, [v.case for v in visits], GPU)
    theirs = tables["rows.test.prior.csv.gz"]
    pd.testing.assert_frame_equal(rows[["case", "kind", "id"]], theirs[["case", "kind", "id"]])
