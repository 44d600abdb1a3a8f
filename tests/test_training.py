"""The training step against the authors' program, the optimizer by hand, resuming, the files of a run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dmplus import network as N
from dmplus import training as T
from dmplus.network import DeepMedic, NetworkConfig, preset
from dmplus.runtime import InputError, Machine
from dmplus.sampling import SamplingConfig, Segments
from dmplus.tf_checkpoint import assign, variable_names
from dmplus.training import RMSPropNesterov, TrainConfig, quick_config, train
from dmplus.volume import Case

FULL = Path(__file__).parents[2] / "shared" / "reference" / "golden" / "train_step_tiny.npz"
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
    assert not np.allclose(q.detach().numpy(), [1 - 0.16 * 0.3 / np.sqrt(0.009 + 1e-4), -2], atol=1e-3)


@pytest.mark.skipif(not FULL.exists(), reason="the authors' training steps lie in ../shared only")
def test_three_steps_of_the_authors_program():
    z = np.load(FULL)
    config = TrainConfig(
        network=NetworkConfig(features=tuple(range(4, 13)), fully_connected=(20, 20), dropout=(0.0, 0.0, 0.0)),
        form="released",
        weight_detection=0.5,
        weight_segmentation=0.5,
    )
    for s in range(3):
        variables = {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(f"var{s}/")}
        after = {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(f"var{s + 1}/")}
        net = assign(DeepMedic(config.network), variables).train()
        names = variable_names(net)
        for module in net.modules():
            if isinstance(module, N.BatchNorm):
                module.row.fill_(s)
        optimizer = T.make_optimizer(net, config)
        if s:
            for name, p in net.named_parameters():
                optimizer.state[p] = {k: torch.tensor(z[f"{n}{s}/{names[name]}"]) for k, n in (("a", "accu"), ("v", "vel"))}
        g = {k: torch.tensor(z[f"step{s}/in/{k}"]) for k in ("x", "x_prior", "x_sub_0", "x_sub_1", "y")}
        segments = Segments(g["x"], [g["x_sub_0"], g["x_sub_1"]], g["x_prior"], g["y"].float())
        parts = T.training_step(net, optimizer, segments, config)
        for ours, theirs in (("bce", "xentr"), ("vss", "vss"), ("l1", "L1"), ("l2", "L2")):
            assert parts[ours] == pytest.approx(float(z[f"step{s}/cost/{theirs}"]), rel=5e-5), ours
        worst = {"params": 0.0, "grad": 0.0, "mean": 0.0, "variance": 0.0, "a": 0.0, "v": 0.0}
        for ours, p in net.state_dict().items():
            if ours in names:
                kind = "mean" if ours.endswith("means") else "variance" if ours.endswith("variances") else "params"
                worst[kind] = max(worst[kind], float((p - torch.tensor(after[names[ours]])).abs().max()))
        assert {names[n] for n, _ in net.named_parameters()} == {str(n) for n in z["trainable_order"]}
        for ours, p in net.named_parameters():
            grad = torch.tensor(z[f"step{s}/grad/{names[ours]}"])
            worst["grad"] = max(worst["grad"], float((p.grad - grad).abs().max()))
            for k, n in (("a", "accu"), ("v", "vel")):
                theirs = torch.tensor(z[f"{n}{s + 1}/{names[ours]}"])
                worst[k] = max(worst[k], float((optimizer.state[p][k] - theirs).abs().max()))
        limits = {"params": 1e-5, "grad": 5e-5, "mean": 1e-4, "variance": 3e-4, "a": 1e-6, "v": 5e-6}
        assert {k: v for k, v in worst.items() if v > limits[k]} == {}
