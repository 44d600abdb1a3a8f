"""The tiler: DeepMedic's map is the same for every tile size, placed to the voxel, masked."""

import dataclasses

import golden
import numpy as np
import pytest
import torch
from conftest import ball_case

from dmplus import inference
from dmplus.inference import aligned_tiles, predict_volume
from dmplus.network import DeepMedic, preset
from dmplus.runtime import InputError, Machine

CPU = Machine("cpu", "float32", "test")


def trained_like(config, seed=0) -> DeepMedic:
    """A network with unequal weights and batch statistics, so that every path and place matters."""
    torch.manual_seed(seed)
    net = DeepMedic(config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if "conv" not in name else 0.05))
        for _, b in net.named_buffers():
            if b.is_floating_point():
                b.add_(torch.rand_like(b) * 0.5)
    return net.eval()


@pytest.mark.parametrize("grid", ["aligned", "released"])
@pytest.mark.parametrize("prior", ["none", "path"])
def test_same_map_for_every_tile_size(prior, grid):
    case = ball_case(0, shape=(47, 40, 33)).normalised()
    net = trained_like(dataclasses.replace(preset("smoke", prior=prior), low_grid=grid))
    before = case.prior if prior == "path" else None
    maps = [
        predict_volume(net, case.image, prior=before, mask=case.mask, tile=t, machine=CPU) for t in (15, 16, 60, None)
    ]
    assert maps[0].max() - maps[0][case.mask].min() > 0.02  # a map that has something to show
    for other in maps[1:]:
        assert np.abs(other - maps[0]).max() < 1e-5
    assert float(np.abs(maps[0][~case.mask]).max()) == 0


def test_map_equals_one_pass_over_the_padded_volume():
    """Independent of the tiler: pad by hand, sample the coarse grids by hand, run once."""
    case = ball_case(3, shape=(45, 30, 60)).normalised()
    net = trained_like(preset("smoke"))
    tiled = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)

    def padded(volume):
        return torch.from_numpy(np.pad(volume, 9))[None, None]

    low = []
    for f in (3, 5):
        # coarse voxel k is centred on the middle of block k: voxel f·k + f//2, from k = -9 on
        ks = [np.arange(-9, n // f + 9) for n in case.shape]
        wide = np.pad(case.image, 60)
        low.append(torch.from_numpy(wide[np.ix_(*[k * f + f // 2 + 60 for k in ks])])[None, None])
    with torch.inference_mode():
        whole = net.probabilities(padded(case.image), low, padded(case.prior))[0, 1].numpy()
    assert np.abs(np.where(case.mask, whole, 0) - tiled).max() < 1e-5


def test_a_bright_voxel_is_found_where_it_is():
    """The map of a brightness network peaks on the voxel itself, at any place and border."""
    net = DeepMedic(preset("smoke", prior="none"))
    for voxel in ((0, 0, 0), (20, 31, 3), (39, 43, 35)):
        image = np.zeros((40, 44, 36), np.float32)
        image[voxel] = 9.0
        for p in net.parameters():
            p.data.zero_()
        path = net.current.blocks
        for block in path:  # hand the centre voxel of channel 0 on
            block.conv.weight.data[0, 0, 1, 1, 1] = 1
            if hasattr(block, "slope"):
                block.norm.weight.data.fill_(1)
        for block in net.fully_connected.blocks:
            block.norm.weight.data.fill_(1)
            block.conv.weight.data[:, 0] = 0
            block.conv.weight.data[-1, 0] = 1
            block.conv.weight.data[0, 0] = 1
        net.fully_connected.blocks[-1].conv.weight.data[0] = 0
        prob = predict_volume(net, image, mask=np.ones(image.shape, bool), machine=CPU)
        assert np.unravel_index(prob.argmax(), prob.shape) == voxel
        assert (prob > prob.min() + 1e-3).sum() == 1


def test_tiles_cover_the_mask_once_and_skip_the_rest():
    net = DeepMedic(preset("smoke"))
    mask = np.zeros((100, 60, 70), bool)
    mask[50:53, 10:40, 69] = True
    mask[99, 59, 0] = True
    tiles = aligned_tiles(net, mask, 15)
    times = np.zeros(mask.shape, int)
    for start, size in tiles:
        assert all(s % 15 == 0 and n == 15 for s, n in zip(start, size, strict=True))
        block = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        times[block] += 1
        assert mask[block].any()  # no tile whose output misses the mask
    assert bool((times[mask] == 1).all()) and times.max() == 1
    assert aligned_tiles(net, np.zeros_like(mask)) == []


def test_absent_prior_empty_mask_and_small_volume():
    net = trained_like(preset("smoke"))
    image = ball_case(0, shape=(17, 9, 5)).normalised().image
    a = predict_volume(net, image, machine=CPU)
    zeros = predict_volume(net, image, prior=np.zeros_like(image), machine=CPU)
    assert a.shape == image.shape and np.allclose(a, zeros, atol=1e-6)
    assert float(predict_volume(net, image, mask=np.zeros(image.shape, bool), machine=CPU).max()) == 0
    assert np.isfinite(predict_volume(net, np.ones_like(image), machine=CPU)).all()


def test_half_precision_agrees_with_float32():
    case = ball_case(2, shape=(40, 40, 30)).normalised()
    net = trained_like(preset("quick"))
    full, half = (
        predict_volume(net, case.image, prior=case.prior, machine=Machine("cpu", p, "test"))
        for p in ("float32", "bfloat16")
    )
    difference = np.abs(full - half)[case.mask]
    assert 0 < difference.max() < 0.2 and difference.mean() < 0.02


def test_network_is_left_in_the_mode_it_was_in():
    net = DeepMedic(preset("smoke")).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    predict_volume(net, ball_case(0).normalised().image, machine=CPU)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_errors_say_what_to_do():
    net, image = DeepMedic(preset("smoke")), np.ones((20, 20, 20), np.float32)
    with pytest.raises(InputError, match="expected prior of shape"):
        predict_volume(net, image, prior=image[:10], machine=CPU)
    with pytest.raises(InputError, match="expected mask of shape"):
        predict_volume(net, image, mask=np.ones((20, 20), bool), machine=CPU)
    with pytest.raises(InputError, match="tiling"):
        predict_volume(net, image, tiling="gaussian", machine=CPU)


# ------------------------------------------------------------------------------------------- the authors' tiler
def released_case(path=None):
    """(image, prior, mask, foreground map before the mask) of a whole-volume run of the authors' program."""
    with np.load(path or golden.DATA / "volume2.npz") as z:
        if path is None:
            return z["image"], z["prior"], z["mask"] > 0, z["prob_raw"] / np.float32(golden.SCALE)
        return z["channels"][0], z["prior"][0], z["roi_mask"] > 0, z["prob_raw_unpadded_before_roi"][1]


UNCUT = [golden.FULL / f"deepmedic_plus_tiny_volume{n}.npz" for n in ("", "2")]


@pytest.mark.parametrize("path", [None, *[p for p in UNCUT if p.exists()]], ids=lambda p: p.stem if p else "fixture")
def test_released_tiling_reproduces_the_authors_map(path):
    image, prior, mask, raw = released_case(path)
    net = golden.tiny()
    with torch.inference_mode():
        before = inference.released_map(net, image, prior, mask, machine=CPU)
    assert np.array_equal(before == 0, raw == 0)  # the same tiles were skipped
    assert np.abs(before - raw).max() < 1e-4
    after = predict_volume(net, image, prior=prior, mask=mask, tiling="released", machine=CPU)
    assert np.array_equal(after, np.where(mask, before, 0))


def test_released_tiling_differs_from_aligned_and_says_what_it_cannot_do():
    image, prior, mask, raw = released_case()
    net = golden.tiny()
    aligned = predict_volume(net, image, prior=prior, mask=mask, machine=CPU)
    assert 0.01 < np.abs(aligned - raw)[mask].max()
    for bad, words in (({"tiling": "mirror"}, "aligned or released"), ({"image": image[:26]}, "at least 27 voxels")):
        arguments = {"image": image, "tiling": "released", "machine": CPU} | bad
        with pytest.raises(InputError, match=words):
            predict_volume(net, arguments.pop("image"), **arguments)
    one = predict_volume(net, image[:27, :27, :27], prior=prior[:27, :27, :27], tiling="released", machine=CPU)
    assert (one > 0).all()  # one tile, and without a mask every voxel is computed
