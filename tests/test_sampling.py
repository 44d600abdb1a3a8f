"""Segments: what is cut, where, how often, and that nothing shifts by a voxel."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import ball_case

from dmplus.network import preset
from dmplus.runtime import InputError, rng
from dmplus.sampling import Sampler, SamplingConfig, Volumes, crop
from dmplus.volume import Case

PLAIN = SamplingConfig(shift_sd=0, scale_sd=0, flip=(0, 0, 0), rotate=0)


def test_crop_equals_a_voxel_by_voxel_copy():
    draw = np.random.default_rng(0)
    volume = draw.random((11, 9, 7))
    for _ in range(300):
        start, size, step = draw.integers(-20, 15, 3), draw.integers(1, 9, 3), int(draw.integers(1, 6))
        expected = np.zeros(size)
        for index in np.ndindex(*size):
            voxel = start + np.array(index) * step
            if (voxel >= 0).all() and (voxel < volume.shape).all():
                expected[index] = volume[tuple(voxel)]
        assert np.array_equal(crop(volume, start.tolist(), size.tolist(), step), expected)


def coordinates_case(shape=(50, 46, 54)) -> Case:
    """An image whose value is the voxel's own index, so that a crop tells where it came from."""
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    label = np.zeros(shape, np.uint8)
    label[20:23, 30:33, 10:13] = 1
    return Case(name="c", image=image, mask=np.ones(shape, bool), prior=-image, label=label)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", ["paper", "smoke"])
def test_every_input_shows_the_same_place(name, augment):
    """Target, prior, coarse grids and current scan agree, through flips and rotations."""
    case, network = coordinates_case(), preset(name)
    config = dataclasses.replace(PLAIN, flip=(0.5, 0.5, 0.5), rotate=1.0) if augment else PLAIN
    segments = Sampler([case], network, config, seed=1).batch(0, 12)
    assert segments.current.shape == (12, 1, 37, 37, 37) and segments.target.shape == (12, 19, 19, 19)
    assert [tuple(t.shape[2:]) for t in segments.low] == [(25,) * 3, (22,) * 3]
    assert torch.equal(segments.prior, -segments.current)
    label = torch.from_numpy(case.label).flatten()
    for i in range(12):
        where = segments.current[i, 0].long() - 1  # index of each voxel in the volume, -1 outside
        inner = where[9:28, 9:28, 9:28]
        expected = torch.where(inner >= 0, label[inner.clamp_min(0)].float(), 0.0)
        assert torch.equal(segments.target[i], expected)
        for factor, low in zip((3, 5), segments.low, strict=True):
            # coarse voxel k lies at segment voxel first + factor·k
            first = network.low_start(0, factor)
            for k in range(low.shape[-1]):
                s = first + factor * k
                if 0 <= s < 37:
                    assert low[i, 0, 9, 9, k] == segments.current[i, 0, first + 9 * factor, first + 9 * factor, s]


def test_share_of_lesion_centres_and_even_lesions():
    """Half of the centres on lesions; "voxel" in proportion to lesion size, "lesion" evenly (chi-square-like bounds)."""
    case = coordinates_case()
    label = case.label.copy()
    label[40, 40, 40] = 1  # a lesion of one voxel beside one of 27
    case = dataclasses.replace(case, label=label)
    n = 4000
    for centre, small in (("voxel", 1 / 28), ("lesion", 0.5)):
        sampler = Sampler([case], preset("smoke"), dataclasses.replace(PLAIN, centre=centre), seed=3)
        drawn = [sampler.centre(rng(3, "test", i))[1] for i in range(n)]
        inside = [tuple(v) for v in drawn if label[tuple(v)]]
        assert len(inside) / n == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / n))
        share = sum(v == (40, 40, 40) for v in inside) / len(inside)
        assert share == pytest.approx(small, abs=4 * np.sqrt(small * (1 - small) / len(inside)))
    sampler = Sampler([case], preset("smoke"), dataclasses.replace(PLAIN, lesion_share=1.0), seed=3)
    assert all(label[tuple(sampler.centre(rng(0, "x", i))[1])] for i in range(200))


def test_background_covers_the_brain_and_never_a_lesion():
    case = ball_case(1)
    sampler = Sampler([case], preset("smoke"), dataclasses.replace(PLAIN, lesion_share=0.0), seed=0)
    drawn = np.array([sampler.centre(rng(5, "b", i))[1] for i in range(3000)])
    assert all(case.mask[tuple(v)] and not case.label[tuple(v)] for v in drawn)
    inside = np.argwhere(case.mask & (case.label == 0))
    assert np.allclose(drawn.mean(0), inside.mean(0), atol=0.8) and np.allclose(drawn.std(0), inside.std(0), rtol=0.06)


def test_lesions_at_the_border_are_reachable():
    case = coordinates_case()
    label = np.zeros_like(case.label)
    label[0, 0, 53] = 1
    case = dataclasses.replace(case, label=label)
    segments = Sampler([case], preset("smoke"), dataclasses.replace(PLAIN, lesion_share=1.0), seed=0).batch(0, 4)
    assert bool((segments.target[:, 9, 9, 9] == 1).all()) and float(segments.target.sum()) == 4


def test_streams_repeat_on_request_only():
    sampler = Sampler([ball_case(0), ball_case(1)], preset("smoke"), SamplingConfig(), seed=7)
    a, again, other = sampler.batch(5, 6), sampler.batch(5, 6), sampler.batch(6, 6)
    assert torch.equal(a.current, again.current) and torch.equal(a.low[1], again.low[1])
    drawn = {tuple(x.flatten()[::997].tolist()) for x in [*a.current, *other.current]}
    assert len(drawn) == 12  # no two segments alike, within and between steps
    elsewhere = Sampler([ball_case(0), ball_case(1)], preset("smoke"), SamplingConfig(), seed=8)
    assert not torch.equal(elsewhere.batch(5, 6).current, a.current)


def test_no_stream_repeats():
    """20,000 segments of 2,000 steps: every one has a stream of its own, as have other seeds."""
    first = {
        (seed, step, i): tuple(rng(seed, "segment", step, i).integers(0, 2**63, 2))
        for seed, steps in ((7, 2000), (8, 100))
        for step in range(steps)
        for i in range(10)
    }
    assert len(set(first.values())) == len(first)


def test_lesions_per_segment_are_counted_in_the_output_block():
    case = coordinates_case()
    label = np.zeros_like(case.label)
    label[30, 30, 30] = label[30, 30, 39] = label[30, 30, 40] = 1  # one voxel, and a pair 9 to 10 voxels away
    sampler = Sampler([dataclasses.replace(case, label=label)], preset("smoke"), PLAIN, seed=0)
    counts = sampler.lesion_counts(600)
    assert sampler.centre(rng(0, "lesion counts", 0))[0] == 0
    for i in range(600):  # 19 voxels of output reach 9 to either side of the centre
        centre = sampler.centre(rng(0, "lesion counts", i))[1]
        inside = [np.abs(centre - v).max() <= 9 for v in ((30, 30, 30), (30, 30, 39), (30, 30, 40))]
        assert counts[i] == int(inside[0]) + int(inside[1] or inside[2])
    assert (counts == 2).any() and (counts == 1).any() and (counts == 0).any()
    assert (sampler.lesion_counts(600, segment=30) > 1).sum() == 0  # 12 voxels never hold both: 6 before, 5 behind
    assert (sampler.lesion_counts(600, segment=41) > 1).mean() > (counts > 1).mean()


def test_augmentation_leaves_outside_and_absent_priors_at_zero():
    case = ball_case(0, prior=False).normalised()
    strong = SamplingConfig(shift_sd=1.0, scale_sd=0.1)
    segments = Sampler([case], preset("smoke"), strong, seed=0).batch(0, 8)
    assert float(segments.prior.abs().max()) == 0
    plain = Sampler([case], preset("smoke"), dataclasses.replace(strong, shift_sd=0, scale_sd=0), seed=0).batch(0, 8)
    assert torch.equal(segments.current == 0, plain.current == 0) and not torch.equal(segments.current, plain.current)


def test_errors_say_what_to_do():
    case = ball_case(0)
    with pytest.raises(InputError, match="at least one lesion"):
        Sampler([dataclasses.replace(case, label=np.zeros_like(case.label))], preset("smoke"), PLAIN, seed=0)
    with pytest.raises(InputError, match="label for every training case"):
        Sampler([dataclasses.replace(case, label=None)], preset("smoke"), PLAIN, seed=0)
    with pytest.raises(InputError, match="at least 19 voxels"):
        Sampler([case], preset("smoke"), dataclasses.replace(PLAIN, segment=18), seed=0)
    with pytest.raises(InputError, match="centre voxel or lesion"):
        SamplingConfig(centre="patient")


@pytest.mark.parametrize(
    ("name", "value"),
    [("lesion_share", float("nan")), ("rotate", 2), ("shift_sd", -1), ("scale_sd", float("inf")), ("flip", (0.5, 0.5)),
     ("flip", (0, 0, 1.5)), ("segment", 37.5)],
)  # fmt: skip
def test_settings_that_no_segment_can_be_drawn_with_are_refused(name, value):
    with pytest.raises(InputError, match=f"SamplingConfig: expected {name} to be "):
        SamplingConfig(**{name: value})


def test_a_label_that_covers_its_whole_mask_is_refused():
    """There would be no background to draw, for ever."""
    case = ball_case(0)
    with pytest.raises(InputError, match="expected brain around the lesions of .* covers the whole mask"):
        Volumes([dataclasses.replace(case, mask=case.label > 0)])


def test_the_coarse_grids_have_the_shift_and_scale_of_their_own_scan():
    """Image and prior are constant: a crop's value is its shift and scale, alike on every grid of the current scan."""
    one = np.ones((50, 46, 54), np.float32)
    label = np.zeros(one.shape, np.uint8)
    label[20:23, 30:33, 10:13] = 1
    case = Case(name="c", image=one, mask=one > 0, prior=one, label=label)
    drawn = Sampler([case], preset("smoke"), SamplingConfig(shift_sd=1.0, scale_sd=0.1), seed=0).batch(0, 8)
    own = drawn.current.amax((1, 2, 3, 4)), drawn.current.amin((1, 2, 3, 4))
    value = torch.where(own[0] != 0, own[0], own[1])
    assert len(value.unique()) == 8
    for low in drawn.low:
        inside = [x[x != 0].unique() for x in low]
        assert all(len(x) == 1 and x == v for x, v in zip(inside, value, strict=True))
    assert all((p[p != 0] != v).all() for p, v in zip(drawn.prior, value, strict=True))


@pytest.mark.parametrize("prior", ["none", "channel", "path"])
@pytest.mark.parametrize("name", ["paper", "quick"])
def test_volumes_on_a_device_give_the_same_segments(name, prior):
    """Gathered from one long tensor or cut out of the cases: equal to the last bit, with cases of several shapes, absent
    priors, an empty rim around the brain, and segments that reach beyond the volume."""
    draw = np.random.default_rng(4)
    cases = []
    for shape, before in (((50, 46, 54), True), ((41, 60, 39), False), ((64, 38, 43), True)):
        brain = np.zeros(shape, bool)
        brain[3:-2, 1:-4, 5:-1] = True
        image, earlier = (draw.normal(size=shape).astype(np.float32) * brain for _ in range(2))
        label = np.zeros(shape, np.uint8)
        label[4:7, 20:24, 30:33] = label[-6:-3, -9:-7, 8:12] = 1
        cases.append(Case(name="c", image=image, mask=brain, prior=earlier if before else None, label=label))
    network = preset(name, prior=prior)
    for config in (SamplingConfig(shift_sd=1.0, scale_sd=0.1), dataclasses.replace(PLAIN, centre="lesion", segment=27)):
        cut, gathered, trimmed = (
            Sampler(volumes, network, config, seed=2).batch(3, 40)
            for volumes in (cases, Volumes(cases, device="cpu"), Volumes(c.trimmed() for c in cases))
        )
        assert all(map(torch.equal, cut.tensors(), trimmed.tensors()))  # what surrounds the brain is 0 on every grid
        assert (cut.prior is None) == (gathered.prior is None) == (prior == "none")
        pairs = [(cut.current, gathered.current), *zip(cut.low, gathered.low, strict=True)]
        pairs += [(cut.target, gathered.target)] + ([] if prior == "none" else [(cut.prior, gathered.prior)])
        assert all(a.dtype == b.dtype == torch.float32 and torch.equal(a, b) for a, b in pairs)
