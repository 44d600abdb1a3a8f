"""Another network behind the same interface: shapes, tiles, training, files."""

import dataclasses

import numpy as np
import pytest
import torch

from dmplus import network
from dmplus.inference import predict_volume
from dmplus.network import NetworkConfig, build, preset
from dmplus.runtime import InputError, Machine
from dmplus.training import quick_config, train
from dmplus.volume import Case

pytest.importorskip("monai", reason="dmplus[experiments] is not installed")

CPU = Machine("cpu", "float32", "test")
TINY = dataclasses.replace(preset("unet", prior="none"), features=(4, 8, 8))


def test_inner_block_of_any_segment_and_where_it_lies():
    torch.manual_seed(0)
    net = build(TINY).eval()
    for edges in ((37, 37, 37), (25, 30, 41)):
        x = torch.randn(2, 1, *edges)
        p = net.probabilities(x, [])
        assert p.shape == (2, 2, *(n - 18 for n in edges))
        assert torch.allclose(p.sum(1), torch.ones(()), atol=1e-6)
    x = torch.zeros(1, 1, 40, 40, 40)
    whole = net.layers(x)[:, :, 9:31, 9:31, 9:31]
    assert torch.equal(net(x), whole)


def test_what_it_cannot_take_is_refused():
    net = build(TINY)
    with pytest.raises(InputError, match="more than 18 voxels"):
        net(torch.zeros(1, 1, 18, 20, 20))
    with pytest.raises(InputError, match="alone; got coarse inputs or a prior"):
        net(torch.zeros(1, 1, 20, 20, 20), [torch.zeros(1)])
    with pytest.raises(InputError, match="prior='none' and low_factors"):
        NetworkConfig(architecture="unet")
    with pytest.raises(InputError, match="deepmedic or unet"):
        NetworkConfig(architecture="vnet")
    with pytest.raises(InputError, match="without prior"):
        preset("unet", prior="path")


def test_trains_stores_and_predicts_like_a_deepmedic(tmp_path):
    draw = np.random.default_rng(0)
    image = draw.normal(100, 10, (40, 40, 40)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[18:23, 18:23, 18:23] = 1
    image[label > 0] += 150
    case = Case(name="a", patient="a", image=image, mask=np.ones(image.shape, bool), label=label)
    config = quick_config(prior="none", loss="jvss", alpha=0.5, steps=60, batch=4, validate_every=0, learning_rate=5e-3)
    config = dataclasses.replace(config, network=TINY)
    net = train(config, [case], [], tmp_path / "run", machine=CPU, compile=False, progress=False)
    again = network.load(tmp_path / "run" / "weights.safetensors")
    ready = case.normalised()
    maps = [predict_volume(n, ready.image, mask=ready.mask, machine=CPU) for n in (net, again)]
    assert np.array_equal(*maps)
    assert maps[0][19:22, 19:22, 19:22].mean() > 10 * maps[0][:15].mean()


def test_goes_on_from_its_own_weights_only(tmp_path):
    config = dataclasses.replace(quick_config(prior="none", loss="bce", steps=1), network=TINY)
    with pytest.raises(InputError, match="architecture='unet'"):
        train(config, [], [], tmp_path / "run", init=build(preset("smoke", prior="none")), machine=CPU, progress=False)
