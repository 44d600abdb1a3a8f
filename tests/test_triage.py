"""Union, tiers, change since the prior: hand cases on small grids, and properties on random maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dmplus import figures, network, widgets
from dmplus.grid import Grid
from dmplus.metrics import STRATA
from dmplus.runtime import InputError, Machine, rng
from dmplus.triage import COLUMNS, Triage, probability_words, triage, triage_case
from dmplus.volume import Case

SHAPE = (40, 42, 44)
CPU = Machine("cpu", "float32", "test")


def maps() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)


def cube(start: tuple[int, int, int], edge: int) -> tuple[slice, ...]:
    return tuple(slice(s, s + edge) for s in start)


def union_of(*cubes: tuple[tuple[int, int, int], int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for start, edge in cubes:
        mask[cube(start, edge)] = True
    return mask


def rows(result: Triage) -> list[tuple]:
    return list(result.lesions[["tier", "seen_by", "volume_mm3"]].itertuples(index=False, name=None))


# ------------------------------------------------------------------------------------------------------ tiers
def test_one_voxel_of_the_specific_model_confirms_the_whole_component():
    sens, spec = maps()
    sens[cube((5, 5, 5), 4)] = 0.9
    spec[8, 8, 8] = 0.6  # a corner of that lesion
    sens[cube((20, 20, 20), 3)] = 0.7
    spec[cube((20, 20, 20), 3)] = 0.49
    result = triage(sens, spec)
    assert rows(result) == [("confirmed", "both", 64.0), ("candidate", "sens", 27.0)]
    assert np.array_equal(np.unique(result.tiers[cube((5, 5, 5), 4)]), [2])
    assert np.array_equal(np.unique(result.tiers[cube((20, 20, 20), 3)]), [1])
    assert result.tiers.dtype == np.uint8 and np.array_equal(result.tiers > 0, result.union)
    assert result.union.dtype == bool and result.labels.dtype == np.int32
    assert result.lesions["peak_sens"].tolist() == pytest.approx([0.9, 0.7])
    assert result.lesions["peak_spec"].tolist() == pytest.approx([0.6, 0.49])
    assert result.lesions["peak_probability"].tolist() == pytest.approx([0.9, 0.7])


def test_a_lesion_seen_by_the_specific_model_alone_is_confirmed_and_counted():
    sens, spec = maps()
    spec[10, 10, 10] = 0.8
    sens[10, 10, 10] = 0.3
    result = triage(sens, spec)
    assert rows(result) == [("confirmed", "spec", 1.0)]
    assert result.counts["seen_by_spec_alone"] == 1 and result.counts["confirmed"] == 1
    assert result.union[10, 10, 10] and result.lesions["peak_probability"][0] == pytest.approx(0.8)


def test_exactly_one_half_is_inside_in_both_maps():
    sens, spec = maps()
    below = np.nextafter(np.float32(0.5), np.float32(0))
    sens[3, 3, 3], sens[9, 9, 9], sens[15, 15, 15], spec[15, 15, 15] = 0.5, below, 0.9, 0.5
    sens[21, 21, 21], spec[21, 21, 21] = 0.9, below
    result = triage(sens, spec)
    assert result.lesions[["x_mm", "tier"]].values.tolist() == [
        [15.0, "confirmed"],
        [3.0, "candidate"],
        [21.0, "candidate"],
    ]


def test_corners_connect_a_lesion_and_the_connectivity_is_an_argument():
    sens, spec = maps()
    sens[4, 4, 4] = sens[5, 5, 5] = 0.9
    assert len(triage(sens, spec).lesions) == 1
    assert len(triage(sens, spec, connectivity=18).lesions) == 2


def test_a_bridge_of_either_model_joins_what_both_see():
    # the component is one of the union: the specific model's voxel lies beyond a bridge only the sensitive one sees
    sens, spec = maps()
    sens[10:20, 10, 10] = 0.6
    spec[20:22, 10, 10] = 0.9
    assert rows(triage(sens, spec)) == [("confirmed", "both", 12.0)]


def test_swapping_the_models_changes_the_tiers():
    sens, spec = maps()
    sens[cube((5, 5, 5), 3)] = 0.9
    sens[cube((20, 20, 20), 3)] = 0.9
    spec[cube((5, 5, 5), 3)] = 0.9
    assert triage(sens, spec).counts["candidate"] == 1
    swapped = triage(spec, sens)
    assert swapped.counts["candidate"] == 0 and swapped.counts["seen_by_spec_alone"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_sensitive_map_in_both_slots_confirms_everything(seed):
    prob = rng(seed, "both slots").random(SHAPE).astype(np.float32) ** 4
    result = triage(prob, prob)
    assert len(result.lesions) > 20
    assert set(result.lesions["tier"]) == {"confirmed"} and set(result.lesions["seen_by"]) == {"both"}
    assert np.array_equal(result.tiers == 2, prob >= 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_invariants_on_random_maps(seed):
    draw = rng(seed, "random maps")
    sens, spec = (draw.random(SHAPE).astype(np.float32) ** k for k in (4, 6))
    result = triage(sens, spec, earlier=draw.random(SHAPE) > 0.995)
    table = result.lesions
    assert np.array_equal(result.union, (sens >= 0.5) | (spec >= 0.5))
    assert table["volume_mm3"].sum() == result.union.sum()
    for row in table.sample(20, random_state=seed).itertuples():
        here = result.labels == row.lesion
        assert here.sum() == row.volume_mm3
        assert row.tier == ("confirmed" if (spec[here] >= 0.5).any() else "candidate")
        assert row.peak_sens == sens[here].max() and row.peak_spec == spec[here].max()
        np.testing.assert_allclose((row.x_mm, row.y_mm, row.z_mm), np.argwhere(here).mean(axis=0))
    # confirmed first, each tier by falling volume, numbered from 1
    assert table["lesion"].tolist() == list(range(1, len(table) + 1))
    for _, part in table.groupby("tier", sort=False):
        assert part["volume_mm3"].is_monotonic_decreasing
    assert table["tier"].tolist() == sorted(table["tier"], reverse=True)


def test_storage_order_does_not_change_the_table():
    draw = rng(9, "flip")
    sens, spec = (draw.random((20, 21, 22)).astype(np.float32) ** k for k in (5, 7))
    flipped = np.diag([-1, 1, -1, 1.0])
    flipped[:3, 3] = (19, 0, 21)
    one = triage(sens, spec).lesions
    other = triage(np.flip(sens, (0, 2)), np.flip(spec, (0, 2)), affine=flipped).lesions
    for column in COLUMNS:
        values = one[column], other[column]
        if one[column].dtype.kind == "f":
            np.testing.assert_allclose(*values, atol=1e-9)
        else:
            assert values[0].tolist() == values[1].tolist()


def test_millimetres_come_from_the_affine():
    sens, spec = maps()
    sens[10:12, 20, 30] = 0.9
    affine = np.array([[0, 0, 2, 5], [-0.5, 0, 0, 7], [0, -1, 0, 9], [0, 0, 0, 1.0]])
    row = triage(sens, spec, affine=affine).lesions.iloc[0]
    assert row[["x_mm", "y_mm", "z_mm"]].tolist() == [65.0, 7 - 0.5 * 10.5, -11.0]
    assert row["volume_mm3"] == 2.0
    assert triage(sens, spec, spacing=(1, 2, 3)).lesions["volume_mm3"][0] == 12.0


def test_strata_begin_at_a_tenth_of_a_cubic_centimetre():
    sens, spec = maps()
    sens[2, 2, 2:22] = sens[3, 2, 2:22] = sens[4, 2, 2:22] = sens[5, 2, 2:22] = sens[6, 2, 2:22] = 0.9  # 100 mm3
    sens[20, 20, 2:35] = sens[21, 20, 2:35] = sens[22, 20, 2:35] = 0.9  # 99 mm3
    table = triage(sens, spec).lesions
    assert table[["volume_mm3", "stratum"]].values.tolist() == [[100.0, STRATA[1]], [99.0, STRATA[0]]]


def test_nothing_found_gives_an_empty_table_with_its_columns():
    result = triage(*maps(), earlier=union_of(((5, 5, 5), 3)))
    assert list(result.lesions.columns) == list(COLUMNS) and result.lesions.empty
    assert not result.union.any() and result.counts["gone"] == 1 and result.counts["lesions"] == 0
    assert triage(*maps()).counts["gone"] == 0


def test_one_model_gives_lesions_without_tiers():
    sens, _ = maps()
    sens[cube((5, 5, 5), 3)] = 0.9
    result = triage(sens, None)
    assert result.lesions["tier"].tolist() == ["untiered"] and result.prob_spec is None
    assert result.tiers.max() == 1 and np.isnan(result.lesions["peak_spec"][0])
    assert result.counts["confirmed"] == result.counts["candidate"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prob_spec": np.zeros((4, 4, 4))}, "prob_spec of shape"),
        ({"earlier": np.zeros((4, 4, 4), bool)}, "earlier of shape"),
        ({"prob_sens": np.zeros((4, 4)), "prob_spec": np.zeros((4, 4))}, "shape \\(X, Y, Z\\)"),
        ({"prob_sens": np.full(SHAPE, 3.0)}, "0 to 1 in prob_sens; got 3 to 3"),
        ({"prob_spec": np.full(SHAPE, np.nan)}, "0 to 1 in prob_spec"),
    ],
)
def test_maps_that_cannot_be_triaged(change, words):
    sens, spec = maps()
    given = {"prob_sens": sens, "prob_spec": spec, "earlier": None} | change
    with pytest.raises(InputError, match=words):
        triage(given["prob_sens"], given["prob_spec"], earlier=given["earlier"])


# ------------------------------------------------------------------------------------------------------ change
def changes(now: np.ndarray, earlier: np.ndarray | None) -> Triage:
    return triage(now.astype(np.float32), np.zeros(SHAPE, np.float32), earlier=earlier)


@pytest.mark.parametrize(
    ("now", "before", "change", "ratio"),
    [
        (125, 100, "growing", 1.25),
        (124, 100, "stable", 1.24),
        (100, 100, "stable", 1.0),
        (81, 100, "stable", 0.81),
        (80, 100, "shrinking", 0.8),
        (20, 100, "shrinking", 0.2),
    ],
)
def test_the_volume_ratio_and_its_class(now, before, change, ratio):
    current, earlier = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for mask, n in ((current, now), (earlier, before)):
        block = np.zeros(200, bool)
        block[:n] = True
        mask[10:20, 10:30, 10] = block.reshape(10, 20)
    row = changes(current, earlier).lesions.iloc[0]
    assert (row["change"], row["volume_ratio"], row["prior_volume_mm3"]) == (change, ratio, before)


def test_new_gone_and_unknown():
    now, before = union_of(((5, 5, 5), 3), ((20, 20, 20), 4)), union_of(((5, 5, 5), 3), ((30, 30, 5), 2))
    result = changes(now, before)
    table = result.lesions.set_index("volume_mm3")
    assert table.loc[27.0, "change"] == "stable" and table.loc[64.0, "change"] == "new"
    assert table.loc[64.0, "prior_volume_mm3"] == 0 and np.isnan(table.loc[64.0, "volume_ratio"])
    assert result.gone.values.tolist() == [[8.0, 30.5, 30.5, 5.5]]
    assert {k: result.counts[k] for k in ("new", "stable", "gone", "unknown")} == {
        "new": 1,
        "stable": 1,
        "gone": 1,
        "unknown": 0,
    }
    unknown = changes(now, None)
    assert set(unknown.lesions["change"]) == {"unknown"} and unknown.lesions["volume_ratio"].isna().all()
    # an earlier scan without any lesion is not an unknown one
    assert set(changes(now, np.zeros(SHAPE, bool)).lesions["change"]) == {"new"}


def test_what_the_earlier_scan_does_not_cover_is_not_new():
    """Of three lesions that look new one lies outside, one across the edge, one inside of what was scanned then."""
    now = union_of(((5, 5, 5), 3), ((20, 20, 8), 4), ((30, 30, 30), 3))
    prob = np.where(now, 0.9, 0.0).astype(np.float32)
    covered = np.arange(SHAPE[2]) < 11 + np.zeros(SHAPE, int)
    result = triage(prob, prob, earlier=union_of(((20, 20, 8), 3)), covered=covered)
    assert dict(zip(result.lesions["z_mm"].round(), result.lesions["change"], strict=True)) == {
        6.0: "new", 10.0: "unknown", 31.0: "unknown"
    }  # fmt: skip
    assert result.lesions.loc[result.lesions["change"] == "unknown", ["prior_volume_mm3", "volume_ratio"]].isna().all(axis=None)
    assert set(triage(prob, prob, earlier=np.zeros(SHAPE, bool)).lesions["change"]) == {"new"}


@pytest.mark.parametrize(("gap", "change"), [(0, "stable"), (1, "stable"), (2, "new")])
def test_two_millimetres_of_misregistration_are_forgiven(gap, change):
    # the last voxel of one and the first of the other lie gap + 1 mm apart
    now, before = union_of(((10, 10, 10), 3)), union_of(((13 + gap, 10, 10), 3))
    assert changes(now, before).lesions["change"].tolist() == [change]


@pytest.mark.parametrize(("offset", "change"), [((1, 1, 1), "stable"), ((2, 2, 0), "new"), ((0, -2, 0), "stable")])
def test_the_tolerance_is_a_distance_not_a_box(offset, change):
    now, before = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    now[10, 10, 10] = before[tuple(np.add((10, 10, 10), offset))] = True
    assert changes(now, before).lesions["change"].tolist() == [change]


def test_the_tolerance_is_in_millimetres():
    sens, spec = maps()
    sens[10, 10, 10] = 0.9
    earlier = np.zeros(SHAPE, bool)
    earlier[14, 10, 10] = True
    assert triage(sens, spec, spacing=(0.5, 1, 1), earlier=earlier).lesions["change"][0] == "stable"
    assert triage(sens, spec, spacing=(1, 1, 1), earlier=earlier).lesions["change"][0] == "new"


def test_merged_and_split_lesions_are_compared_as_one_group():
    whole, parts = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    whole[10:20, 10, 10] = True
    parts[10:14, 10, 10] = parts[16:20, 10, 10] = True
    split = changes(parts, whole).lesions
    assert split["prior_volume_mm3"].tolist() == [10.0, 10.0]
    assert split["volume_ratio"].tolist() == [0.8, 0.8]
    merged = changes(whole, parts)
    assert merged.lesions["volume_ratio"].tolist() == [1.25] and merged.counts["gone"] == 0


# ------------------------------------------------------------------------------------------- back to the scan's grid
@pytest.mark.parametrize("spacing", [0.5, 2.0])
def test_on_the_scans_grid_every_lesion_keeps_number_tier_and_change(spacing):
    affine = np.diag([-spacing, spacing, -spacing, 1.0])
    affine[:3, 3] = (3, 4, 5)
    grid = Grid(tuple(int(n / spacing) for n in SHAPE), affine)
    sens, spec = maps()
    sens[cube((5, 6, 7), 6)] = spec[7, 8, 9] = 0.9
    sens[30, 31, 32] = 0.7  # one voxel
    sens[cube((20, 20, 20), 3)] = 0.6
    result = triage(sens, spec, affine=grid.canonical.affine, earlier=union_of(((5, 6, 7), 4), ((30, 5, 5), 4)))
    native = result.on_grid(grid)
    assert native.labels.shape == native.tiers.shape == native.prob_sens.shape == grid.shape
    assert np.array_equal(native.union, native.labels > 0) and native.union.dtype == bool
    for row, small in zip(native.lesions.itertuples(), result.lesions.itertuples(), strict=True):
        here = native.labels == row.lesion
        assert row.volume_mm3 == pytest.approx(here.sum() * grid.voxel_mm3) and here.any()
        assert set(native.tiers[here]) == {2 if row.tier == "confirmed" else 1}
        assert abs(row.volume_mm3 - small.volume_mm3) <= grid.voxel_mm3
        centre = np.argwhere(here).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        assert np.abs(centre - (row.x_mm, row.y_mm, row.z_mm)).max() < 1
    kept = ["lesion", "tier", "x_mm", "change", "prior_volume_mm3", "volume_ratio", "peak_sens", "seen_by"]
    assert native.lesions[kept].equals(result.lesions[kept])
    assert native.counts == result.counts


def test_the_stratum_follows_the_volume_that_is_given():
    grid = Grid((20, 21, 22), np.diag([2, 2, 2, 1.0]))
    sens, spec = maps()
    sens[2, 2, 2:22] = sens[3, 2, 2:22] = sens[4, 2, 2:22] = sens[5, 2, 2:22] = sens[6, 2, 2:22] = 0.9  # 100 mm3
    result = triage(sens, spec)
    native = result.on_grid(grid)
    assert result.lesions["stratum"].tolist() == [STRATA[1]] and result.lesions["volume_mm3"].tolist() == [100.0]
    assert native.lesions["volume_mm3"].tolist() == [96.0] and native.lesions["stratum"].tolist() == [STRATA[0]]


# ------------------------------------------------------------------------------------------------- with networks
@pytest.fixture(scope="module")
def pair() -> tuple[network.DeepMedic, network.DeepMedic]:
    torch.manual_seed(3)
    return tuple(network.DeepMedic(network.preset("smoke")).eval() for _ in range(2))  # type: ignore[return-value]


def scan(prior: bool) -> Case:
    draw = rng(11, "scan")
    shape = (15, 14, 17)
    mask = np.zeros(shape, bool)
    mask[1:, 2:, :15] = True  # one tile
    image, earlier = (draw.gamma(4, 50, shape).astype(np.float32) for _ in range(2))
    return Case(name="scan", image=image, mask=mask, prior=earlier if prior else None)


def test_the_same_network_twice_confirms_everything(pair):
    result = triage_case(scan(True), pair[0], pair[0], machine=CPU)
    assert len(result.lesions) and set(result.lesions["tier"]) == {"confirmed"}
    assert not result.union[~scan(True).mask].any()


def test_networks_are_used_in_their_own_slot(pair):
    result = triage_case(scan(False), *pair, machine=CPU)
    alone = [triage_case(scan(False), model, None, machine=CPU) for model in pair]
    assert np.array_equal(result.prob_sens, alone[0].prob_sens) and np.array_equal(result.prob_spec, alone[1].prob_sens)
    assert not np.array_equal(result.prob_sens, result.prob_spec)
    assert result.earlier is None and alone[0].prob_spec is None


def test_the_earlier_scan_is_segmented_without_a_prior_of_its_own(pair):
    case = scan(True)
    result = triage_case(case, *pair, machine=CPU)
    before = triage_case(dataclasses.replace(case, image=case.prior, prior=None), *pair, machine=CPU)
    assert result.earlier is not None and np.array_equal(result.earlier > 0, before.union)
    assert "unknown" not in set(result.lesions["change"])
    # the prior reaches the current scan's maps, too
    assert not np.array_equal(result.prob_sens, triage_case(scan(False), *pair, machine=CPU).prob_sens)


def test_a_case_whose_prior_is_a_shorter_slab(pair):
    case = scan(True)
    case.prior[:, :, 8:] = 0
    case = dataclasses.replace(case, affine=np.diag([3.0, 3, 3, 1]))  # 27 mm³ a voxel: the rest is large enough to matter
    result = triage_case(case, *pair, machine=CPU)
    beyond = np.unique(result.labels[:, :, 8:])
    changes = result.lesions.set_index("lesion")["change"]
    assert len(changes) and set(changes.loc[[n for n in beyond if n]]) == {"unknown"}
    assert not (result.earlier[:, :, 8:] > 0).any()


def test_lesions_of_another_grid_are_refused():
    case = scan(False)
    found = triage(np.zeros(case.shape, np.float32), None)
    found.check_grid(case)
    for other in (np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, 1.8, 1])):
        with pytest.raises(InputError, match=r"expected a triage on its own grid.* make it with triage_case"):
            dataclasses.replace(found, affine=other).check_grid(case)
        for shows in (figures.triage_board, widgets.Viewer):  # what draws outlines asks first
            with pytest.raises(InputError, match="expected a triage on its own grid"):
                shows(case, dataclasses.replace(found, affine=other))


def test_a_network_without_prior_path_runs_on_a_case_with_prior():
    torch.manual_seed(4)
    plain = network.DeepMedic(network.preset("smoke", prior="none")).eval()
    with_prior, without = (triage_case(scan(p), plain, plain, machine=CPU) for p in (True, False))
    assert np.array_equal(with_prior.prob_sens, without.prob_sens)
    assert with_prior.earlier is not None and without.earlier is None


def test_a_peak_in_words_is_told_from_certainty_and_never_rounded_up():
    said = {
        0.0: "0.00", 0.6249: "0.62", 0.99: "0.99", 0.9949: "0.994", 0.996: "0.996", 0.99899: "0.998", 0.999: "0.999",
        0.9996: "0.9996", 0.99989: "0.9998", 0.9999: "0.9999", 0.99995: "> 0.9999", 1.0: "> 0.9999",
    }  # fmt: skip
    assert {p: probability_words(p) for p in said} == said
    assert probability_words(np.float32(0.9996)) == "0.9996"
