"""Matching, rows, summaries, curves: the reference cases, properties on random masks, a naive implementation."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from dmplus import curves, matching, metrics
from dmplus.matching import Matching, contingency, decide, explain, label_lesions, match_lesions
from dmplus.metrics import evaluate, evaluate_cases, lesion_table, resample, stratum, summarise
from dmplus.runtime import InputError
from dmplus.volume import Case, write_case, write_cohort, write_nifti

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "metric_cases.json").read_text())
NAMES = sorted(CASES["cases"])
ALL_RULES = (
    dict(rule="any_overlap"),
    dict(rule="any_overlap", dilation_mm=1.5),
    dict(rule="iou", min_overlap=0.2),
    dict(rule="dice", min_overlap=0.3),
    dict(rule="one_to_one"),
    dict(rule="one_to_one", min_overlap=0.1, unmatched="ignore"),
)


@pytest.fixture(scope="module")
def masks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with np.load(DATA / "metric_cases.npz") as arrays:
        return {name: (arrays[f"{name}__ref"], arrays[f"{name}__pred"]) for name in NAMES}


def triple(counts: metrics.LesionCounts) -> list[int]:
    return [counts.tp_ref, counts.fp, counts.fn]


def random_masks(seed: int, shape: tuple[int, int, int] = (11, 9, 8)) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of a few irregular components that often touch each other."""
    g = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(g.normal(size=(2, *shape)), (0, 0.8, 0.8, 0.8))
    field[1] = 0.6 * field[0] + 0.8 * field[1]
    reference, predicted = field > np.quantile(field, g.uniform(0.8, 0.95), axis=(1, 2, 3), keepdims=True)
    return reference, predicted


def box(shape: tuple[int, int, int], *boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for b in boxes:
        mask[b] = True
    return mask


# ----------------------------------------------------------------------------------- reference cases
def test_there_are_18_reference_cases() -> None:
    assert len(NAMES) == 18


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_any_overlap_is_exact_on_the_reference_cases(masks, name: str, connectivity: int) -> None:
    counts = match_lesions(*masks[name], connectivity=connectivity)
    assert triple(counts) == CASES["expected"][f"any_overlap_{connectivity}"][name]


@pytest.mark.parametrize("name", NAMES)
def test_mdsc_of_the_reference_cases(masks, name: str) -> None:
    expected, got = CASES["mdsc_any_overlap_26"][name], match_lesions(*masks[name]).mdsc
    assert math.isnan(got) if expected is None else got == pytest.approx(expected, abs=1e-11)


# our rule, the same thing in another library, and the cases where that library does something we do not offer
CORRESPONDING = [
    ("panoptica_naive_IoU>=.5", dict(rule="iou", min_overlap=0.5), ()),
    ("monai_pq_IoU>.5", dict(rule="iou", min_overlap=float(np.nextafter(0.5, 1))), ()),
    ("picai_IoU>=.1_default", dict(rule="one_to_one", min_overlap=0.1, unmatched="ignore"), ()),
    ("picai_IoU>=.1_strictFP", dict(rule="one_to_one", min_overlap=0.1), ()),
    # greedy: one pair instead of two in the chain
    ("panoptica_naive_IoU>0", dict(rule="one_to_one"), ("18_chain_count_vs_sum",)),
    # largest sum, not largest number, in the chain
    ("panoptica_bipartite_IoU>=.1", dict(rule="one_to_one", min_overlap=0.1), ("18_chain_count_vs_sum",)),
    # one to one and greedy, where our dice rule is many to many
    (
        "panoptica_naive_DSC>=.1",
        dict(rule="dice", min_overlap=0.1),
        ("06_one_lesion_two_preds", "18_chain_count_vs_sum"),
    ),
    # lesions whose dilations touch are merged into one
    ("brats2023_MET", dict(dilation_mm=math.sqrt(2), min_volume_mm3=2.5), ("18_chain_count_vs_sum",)),
]


@pytest.mark.parametrize(("key", "rule", "different"), CORRESPONDING, ids=[c[0] for c in CORRESPONDING])
def test_other_rules_agree_with_the_libraries_that_have_them(masks, key: str, rule: dict, different: tuple) -> None:
    wrong = {n for n in NAMES if triple(match_lesions(*masks[n], **rule)) != CASES["expected"][key][n]}
    assert wrong == set(different)


@pytest.mark.parametrize("key, mm3, mm", [("mist_vol3_dil1", 3, math.sqrt(2)), ("mist_vol10_dil3_default", 10, 3.0)])
def test_an_exact_hit_on_an_ignored_lesion_is_no_false_positive(masks, key: str, mm3: float, mm: float) -> None:
    """The defect of MIST, which its own counts in the case file show (case 10: 0/1/0)."""
    assert CASES["expected"][key]["10_single_voxel_hit"] == [0, 1, 0]
    counts = match_lesions(*masks["10_single_voxel_hit"], connectivity=18, dilation_mm=mm, min_volume_mm3=mm3)
    assert triple(counts) == [0, 0, 0]
    assert (counts.ignored_ref, counts.ignored_pred) == (1, 1)


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_a_perfect_prediction_has_no_error_for_every_size_filter(masks, rule: dict) -> None:
    for seed, mm3 in itertools.product(range(6), (0, 1, 2, 5, 20, 1e6)):
        reference = random_masks(seed)[0]
        counts = match_lesions(reference, reference, min_volume_mm3=mm3, **rule)
        assert (counts.fp, counts.fn) == (0, 0)
        assert counts.n_ref == counts.n_pred > 0


# --------------------------------------------------------------------------- against a naive version
def naive(reference: np.ndarray, predicted: np.ndarray, rule: Matching, spacing: tuple[float, ...]) -> tuple:
    """Full-volume masks, loops and brute force over assignments: slow and plain."""
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[rule.connectivity])
    lesions, blobs = (
        [labels == i for i in range(1, n + 1)]
        for labels, n in (ndimage.label(m, structure) for m in (reference, predicted))
    )
    voxel = float(np.prod(spacing))
    small = [round(m.sum() * voxel, 4) < rule.min_volume_mm3 for m in lesions]
    grown = [ndimage.distance_transform_edt(~m, sampling=spacing) <= rule.dilation_mm + 1e-6 for m in lesions]
    scores = {}
    for (i, a), (j, b) in itertools.product(enumerate(grown), enumerate(blobs)):
        both = int((a & b).sum())
        iou, dice = both / int((a | b).sum()), 2 * both / (int(a.sum()) + int(b.sum()))
        score = dice if rule.rule == "dice" else iou
        if both and (rule.min_overlap is None or score >= rule.min_overlap):
            scores[i, j] = score
    matches = set(scores)
    if rule.rule == "one_to_one":
        matches = best_assignment({k: v for k, v in scores.items() if not small[k[0]]})
    found = {i for i, _ in matches if not small[i]}
    hit = {j for i, j in matches if not small[i]}
    excused = {j for i, j in scores if small[i] or rule.unmatched == "ignore"} - hit
    dices = []
    for i in sorted(found):
        touching = [b for b in blobs if (grown[i] & b).any()]
        union = np.logical_or.reduce(touching)
        dices.append(2 * (lesions[i] & union).sum() / (lesions[i].sum() + union.sum()))
    missed = len([i for i in range(len(lesions)) if i not in found and not small[i]])
    return len(found), len(hit), len(blobs) - len(hit) - len(excused), missed, sum(small), len(excused), sum(dices)


def best_assignment(scores: dict[tuple[int, int], float]) -> set[tuple[int, int]]:
    """Most pairs, then the largest sum, by trying everything."""
    best: tuple[int, float, set] = (0, 0.0, set())

    def extend(rest: list, chosen: set, total: float) -> None:
        nonlocal best
        if (len(chosen), total) > best[:2]:
            best = (len(chosen), total, set(chosen))
        for k, (i, j) in enumerate(rest):
            if all(i != a and j != b for a, b in chosen):
                extend(rest[k + 1 :], chosen | {(i, j)}, total + scores[i, j])

    extend(sorted(scores), set(), 0.0)
    return best[2]


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
@pytest.mark.parametrize("mm3", [0.0, 1.3])
def test_counts_equal_a_naive_implementation(rule: dict, mm3: float) -> None:
    spacing, total = (1.0, 0.5, 0.8), 0
    for seed in range(40):
        reference, predicted = random_masks(seed, (8, 8, 7))
        for connectivity in (6, 26):
            named = Matching(connectivity=connectivity, min_volume_mm3=mm3, **rule)
            c = match_lesions(reference, predicted, spacing=spacing, **dataclasses.asdict(named))
            got = (c.tp_ref, c.tp_pred, c.fp, c.fn, c.ignored_ref, c.ignored_pred)
            *expected, dice = naive(reference, predicted, named, spacing)
            assert got == tuple(expected), (seed, connectivity)
            assert c.dice_sum == pytest.approx(dice, abs=1e-12)
            total += c.tp_ref + c.fp + c.fn
    assert total > 150


def test_maximum_cardinality_comes_strictly_before_overlap() -> None:
    """Three weak pairs beat two strong ones, also where 1 + IoU as weight would choose the two."""
    iou = {(0, 0): 0.05, (1, 1): 0.05, (2, 2): 0.05, (0, 1): 0.9, (1, 2): 0.9}
    lesion, blob = (np.array(v) for v in zip(*iou, strict=True))
    score = np.array(list(iou.values()))
    one = np.ones(3, int)
    pairs = matching.Pairs(one, one, 1.0, lesion, blob, np.ones(5, int), score, score)
    assert decide(pairs, Matching(rule="one_to_one")).matched.tolist() == [True, True, True, False, False]


# -------------------------------------------------------------------------------------------- properties
@pytest.mark.parametrize("rule", ALL_RULES[:1] + ALL_RULES[2:5], ids=str)
def test_swapping_reference_and_prediction_swaps_the_counts(rule: dict) -> None:
    different = 0
    for seed in range(20):
        reference, predicted = random_masks(seed)
        a, b = match_lesions(reference, predicted, **rule), match_lesions(predicted, reference, **rule)
        assert (a.tp_ref, a.fn, a.tp_pred, a.fp) == (b.tp_pred, b.fp, b.tp_ref, b.fn)
        different += a.tp_ref != a.tp_pred
    assert different or rule["rule"] == "one_to_one"  # else the swap of the two kinds of TP was not seen


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_axes_flips_and_padding_change_nothing(rule: dict) -> None:
    spacing = (1.0, 0.7, 1.3)
    for seed in range(8):
        reference, predicted = random_masks(seed)

        def counts(change, spacing=spacing, reference=reference, predicted=predicted):
            c = match_lesions(change(reference), change(predicted), spacing=spacing, min_volume_mm3=2.0, **rule)
            return dataclasses.replace(c, spacing=None, dice_sum=round(c.dice_sum, 9))

        first = counts(lambda m: m)
        assert counts(lambda m: m.transpose(2, 0, 1), (1.3, 1.0, 0.7)) == first
        assert counts(lambda m: m[::-1, :, ::-1]) == first
        assert counts(lambda m: np.pad(m, 3)) == first
        assert counts(lambda m: np.asfortranarray(m).astype(np.float64)) == first


def test_spacing_axes_are_not_mixed_up() -> None:
    """A blob 2 voxels away along x: within 3 mm only where x is fine."""
    reference, predicted = np.zeros((2, 9, 9, 9), bool)
    reference[4, 4, 4] = predicted[6, 4, 4] = True
    assert match_lesions(reference, predicted, spacing=(1.5, 5, 5), dilation_mm=3).tp_ref == 1  # exactly 3 mm
    assert match_lesions(reference, predicted, spacing=(1.6, 1, 1), dilation_mm=3).tp_ref == 0


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_invariants_and_filter_zero_on_random_masks(rule: dict) -> None:
    ignored = 0
    for seed in range(20):
        reference, predicted = random_masks(seed)
        for connectivity in (6, 18, 26):
            c = match_lesions(reference, predicted, connectivity=connectivity, min_volume_mm3=4, **rule)
            assert c.n_ref == label_lesions(reference, connectivity=connectivity)[1]
            assert c.n_pred == label_lesions(predicted, connectivity=connectivity)[1]
            ignored += c.ignored_ref
        plain = match_lesions(reference, predicted, **rule)
        assert match_lesions(reference, predicted, min_volume_mm3=0, **rule) == plain
        assert plain.ignored_ref == 0
        assert plain.ignored_pred == 0 or rule.get("unmatched") == "ignore"
    assert ignored > 10


def test_a_small_lesion_never_takes_a_blob_from_one_that_counts() -> None:
    """One blob over a large and a small lesion, nearer in size to the small one."""
    reference = box((20, 3, 3), np.s_[0:12, 1:2, 1:2], np.s_[13:16, 1:2, 1:2])
    predicted = box((20, 3, 3), np.s_[11:16, 1:2, 1:2])
    table = explain(reference, predicted)
    assert table["iou"].tolist() == [1 / 16, 3 / 5]
    counts = match_lesions(reference, predicted, rule="one_to_one", min_volume_mm3=5)
    assert (counts.tp_ref, counts.fn, counts.ignored_ref, counts.fp) == (1, 0, 1, 0)


@pytest.mark.parametrize("rule", ["iou", "dice", "one_to_one"])
def test_raising_min_overlap_never_finds_more(rule: str) -> None:
    for seed in range(12):
        found = [match_lesions(*random_masks(seed), rule=rule, min_overlap=t).tp_ref for t in np.linspace(0.05, 1, 20)]
        assert all(a >= b for a, b in zip(found, found[1:], strict=False))


def test_components_and_scipy() -> None:
    several = 0
    for seed in range(20):
        reference, predicted = random_masks(seed)
        n = [label_lesions(reference, connectivity=c)[1] for c in (6, 18, 26)]
        assert n[0] >= n[1] >= n[2]
        several += n[0] > n[1] > n[2]
        for connectivity, structure in ((6, 1), (18, 2), (26, 3)):
            structure = ndimage.generate_binary_structure(3, structure)
            labels = [
                (label_lesions(mask, connectivity=connectivity)[0], ndimage.label(mask, structure)[0])
                for mask in (reference, predicted)
            ]
            ours, theirs = (contingency(*pair) for pair in zip(*labels, strict=True))
            rename = [np.argmax(contingency(cc3d_, scipy_), axis=1) for cc3d_, scipy_ in labels]
            assert ours.sum() == reference.size and ours.shape == theirs.shape
            assert np.array_equal(ours, theirs[np.ix_(*rename)])
    assert several


def test_nothing_wraps_around_the_border() -> None:
    reference, predicted = np.zeros((2, 6, 5, 4), bool)
    reference[0], predicted[-1] = True, True
    assert triple(match_lesions(reference, predicted)) == [0, 1, 1]
    assert triple(match_lesions(reference, predicted, dilation_mm=2)) == [0, 1, 1]
    assert label_lesions(reference | predicted)[1] == 2


@pytest.mark.parametrize("rule", ["iou", "dice", "one_to_one"])
def test_exactly_at_the_threshold_counts(rule: str) -> None:
    for inside, around in itertools.product(range(1, 12), range(0, 12)):
        reference = box((24, 1, 1), np.s_[:inside])
        predicted = box((24, 1, 1), np.s_[: inside + around])
        t = 2 * inside / (2 * inside + around) if rule == "dice" else inside / (inside + around)
        assert match_lesions(reference, predicted, rule=rule, min_overlap=t).tp_ref == 1
        if t < 1:
            assert match_lesions(reference, predicted, rule=rule, min_overlap=float(np.nextafter(t, 2))).tp_ref == 0


def test_volumes_exactly_at_the_boundary_belong_above() -> None:
    reference = box((10, 10, 1), np.s_[:])
    for spacing in ((1, 1, 1), (1, 1, 0.9999999), (1.0000001, 1, 1)):  # as affines in float32 have it
        assert match_lesions(reference, reference, spacing=spacing, min_volume_mm3=100).tp_ref == 1
        assert lesion_table("a", reference, reference, spacing=spacing)["stratum"].tolist() == [">=0.1 cm3"]
    assert match_lesions(reference, reference, min_volume_mm3=100.01).ignored_ref == 1
    assert match_lesions(reference, reference, spacing=(1, 1, 0.99), min_volume_mm3=100).ignored_ref == 1


def test_true_positives_of_both_kinds() -> None:
    """Two lesions under one blob and one lesion under two blobs: the precisions divide different things."""
    reference = box((30, 3, 3), np.s_[0:3], np.s_[5:8], np.s_[12:22])
    predicted = box((30, 3, 3), np.s_[0:8], np.s_[12:14], np.s_[16:18], np.s_[20:22], np.s_[25:27])
    c = match_lesions(reference, predicted)
    assert (c.tp_ref, c.tp_pred, c.fp, c.fn) == (3, 4, 1, 0)
    assert (c.sensitivity, c.precision, c.precision_paper) == (1.0, 4 / 5, 3 / 4)


def test_empty_masks_are_nan_and_never_a_convention() -> None:
    nothing, lesion = np.zeros((4, 4, 4), bool), box((4, 4, 4), np.s_[1:2])
    both = match_lesions(nothing, nothing)
    assert triple(both) == [0, 0, 0]
    assert all(math.isnan(v) for v in (both.sensitivity, both.precision, both.precision_paper, both.mdsc))
    assert both == match_lesions(nothing, nothing)
    missed = match_lesions(lesion, nothing)
    assert missed.sensitivity == 0 and math.isnan(missed.precision) and math.isnan(missed.mdsc)
    false = match_lesions(nothing, lesion)
    assert math.isnan(false.sensitivity) and false.precision == 0
    assert match_lesions(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))).n_ref == 0


def test_pooling_adds_counts_and_weighs_lesions(masks) -> None:
    a, b = match_lesions(*masks["24_two_shifted"]), match_lesions(*masks["01_perfect_single"], spacing=(1, 1, 2))
    pooled = sum([a, b])
    assert (pooled.tp_ref, pooled.volumes, pooled.spacing, pooled.fp_per_volume) == (3, 2, None, 0.0)
    assert pooled.mdsc == pytest.approx((2 * a.mdsc + 1) / 3) and pooled.mdsc != pytest.approx((a.mdsc + b.mdsc) / 2)
    with_empty = pooled + match_lesions(*masks["02_empty_both"])
    assert with_empty.mdsc == pooled.mdsc and with_empty.volumes == 3
    with pytest.raises(InputError, match="got connectivity 26 and 6"):
        a + match_lesions(*masks["01_perfect_single"], connectivity=6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.fp = 3


def test_a_blob_touching_only_through_dilation_lowers_the_dice_honestly() -> None:
    reference, predicted = box((9, 1, 1), np.s_[0:3]), box((9, 1, 1), np.s_[3:6])
    counts = match_lesions(reference, predicted, dilation_mm=1)
    assert (counts.tp_ref, counts.mdsc) == (1, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rule="any"), "expected a rule of any_overlap, iou, dice, one_to_one; got 'any'"),
        (dict(rule="iou"), "rule iou expects a min_overlap"),
        (dict(min_overlap=0.5), "any_overlap expects no min_overlap"),
        (dict(rule="iou", min_overlap=0.0), r"min_overlap in \(0, 1\]; got 0.0"),
        (dict(rule="dice", min_overlap=50), r"min_overlap in \(0, 1\]; got 50"),
        (dict(connectivity=8), "connectivity 6, 18 or 26; got 8"),
        (dict(unmatched="drop"), "unmatched 'fp' or 'ignore'; got 'drop'"),
        (dict(dilation_mm=-1), "dilation_mm >= 0; got -1"),
        (dict(min_volume_mm3=math.nan), "min_volume_mm3 >= 0; got nan"),
        (dict(spacing=(1, 1)), "three lengths in mm"),
        (dict(spacing=(1, 0, 1)), "three lengths in mm"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    mask = np.zeros((3, 3, 3), bool)
    with pytest.raises(InputError, match=message):
        match_lesions(mask, mask, **arguments)


def test_wrong_masks_are_named() -> None:
    mask = np.zeros((3, 3, 3), bool)
    with pytest.raises(InputError, match=r"one shape; got \(3, 3, 3\) and \(3, 3, 4\)"):
        match_lesions(mask, np.zeros((3, 3, 4)))
    with pytest.raises(InputError, match="a mask of 0 and 1; got values up to 0.5"):
        match_lesions(mask, mask + 0.5)
    with pytest.raises(InputError, match="got values up to 2"):
        match_lesions(mask + np.eye(3, dtype=np.uint8) * 2, mask)
    with pytest.raises(InputError, match=r"3-D mask \(X, Y, Z\); got shape \(1, 3, 3, 3\)"):
        label_lesions(mask[None])


def test_a_full_volume_takes_less_than_two_seconds() -> None:
    g = np.random.default_rng(3)
    reference, predicted = np.zeros((2, 240, 240, 155), bool)
    ball = np.linalg.norm(np.indices((21, 21, 21)) - 10, axis=0)
    for k in range(60):
        corner, radius = g.integers(0, (219, 219, 134)), g.uniform(1, 9)
        b = tuple(slice(c, c + 21) for c in corner)
        predicted[b] |= ball <= radius
        if k < 30:
            reference[b] |= ball <= radius + 0.5
    for rule in (*ALL_RULES, dict(dilation_mm=5)):
        start = time.perf_counter()
        counts = match_lesions(reference, predicted, **rule)
        assert time.perf_counter() - start < 2, rule
        assert counts.tp_ref > 15
    start = time.perf_counter()
    lesion_table("a", reference, predicted, probability=predicted * np.float32(0.7))
    assert time.perf_counter() - start < 2


# ---------------------------------------------------------------------------------------------- explain
def test_explain_says_why() -> None:
    reference = box((40, 1, 1), np.s_[0:7], np.s_[12:15], np.s_[20:21], np.s_[30:34])
    predicted = box((40, 1, 1), np.s_[0:4], np.s_[5:7], np.s_[14:19], np.s_[20:21], np.s_[25:26])
    table = explain(
        reference, predicted, spacing=(2, 1, 1), matching=Matching(rule="one_to_one", min_overlap=0.2, min_volume_mm3=4)
    )
    assert table[["lesion", "blob"]].values.tolist() == [[1, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 5]]
    assert table["verdict"].tolist() == [
        "match",
        "overlaps enough, but another pair was chosen; blob is a false positive",
        "overlap below the threshold; blob is a false positive",
        "lesion below the minimum volume: ignored; blob ignored",
        "lesion missed",
        "blob hits nothing: false positive",
    ]
    assert table["lesion_mm3"].tolist() == [14, 14, 6, 2, 8, 0] and table["overlap_mm3"].tolist() == [8, 4, 2, 2, 0, 0]
    assert table["iou"].tolist()[:3] == [4 / 7, 2 / 7, 1 / 7]
    assert len(explain(reference * 0, predicted * 0)) == 0


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_explain_adds_up_to_the_counts(rule: dict) -> None:
    for seed in range(8):
        reference, predicted = random_masks(seed)
        named = Matching(min_volume_mm3=3, **rule)
        counts = match_lesions(reference, predicted, **dataclasses.asdict(named))
        table = explain(reference, predicted, matching=named)
        match = table["verdict"] == "match"
        assert table.loc[match, "lesion"].nunique() == counts.tp_ref
        assert table.loc[match, "blob"].nunique() == counts.tp_pred
        assert table.loc[table["verdict"].str.contains("false positive"), "blob"].nunique() == counts.fp
        assert table.loc[table["verdict"].str.contains("blob ignored"), "blob"].nunique() == counts.ignored_pred


# --------------------------------------------------------------------------------------- rows and summary
@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_rows_add_up_to_the_counts(rule: dict) -> None:
    tables, pooled = [], 0
    for seed in range(10):
        reference, predicted = random_masks(seed)
        named = Matching(min_volume_mm3=2, **rule)
        counts = match_lesions(reference, predicted, spacing=(1, 1, 1.5), **dataclasses.asdict(named))
        table = lesion_table(f"c{seed}", reference, predicted, spacing=(1, 1, 1.5), matching=named)
        kinds = table["kind"].value_counts()
        assert kinds.get("false positive", 0) == counts.fp and kinds.get("ignored lesion", 0) == counts.ignored_ref
        assert table.loc[table["kind"] != "lesion", "blobs"].sum() == 0
        tables.append(table)
        pooled = counts + pooled if pooled else counts
    cases = {f"c{seed}": f"p{seed // 2}" for seed in range(10)}
    summary = summarise(pd.concat(tables, ignore_index=True), cases=cases, resamples=50).set_index("stratum")
    row = summary.loc["all"]
    assert (row["tp_ref"], row["tp_pred"], row["fp"], row["fn"]) == (
        pooled.tp_ref, pooled.tp_pred, pooled.fp, pooled.fn,
    )  # fmt: skip
    for name in ("sensitivity", "precision", "precision_paper", "mdsc", "fp_per_volume"):
        assert row[name] == pytest.approx(getattr(pooled, name), rel=1e-12)
        assert row[name + "_low"] <= row[name] <= row[name + "_high"]
    for name in ("lesions", "tp_ref", "tp_pred", "fn", "fp"):
        assert summary.loc["<0.1 cm3", name] + summary.loc[">=0.1 cm3", name] == row[name]


def test_strata_follow_the_lesion_for_true_blobs_and_the_blob_for_false_ones() -> None:
    reference = box((40, 10, 10), np.s_[0:2, 0:10, 0:10], np.s_[6:7, 0:5, 0:5])  # 200 and 25 mm³
    predicted = box(
        (40, 10, 10),
        np.s_[0:1, 0:2, 0:2],  # small, on the large lesion
        np.s_[6:8, 0:10, 0:10],  # large, on the small lesion
        np.s_[20:22, 0:10, 0:10],  # large and false
        np.s_[30:31, 0:2, 0:2],  # small and false
        np.s_[35:36, 0:2, 0:2],  # small and false
    )
    summary = summarise(lesion_table("a", reference, predicted), cases={"a": "p"}).set_index("stratum")
    assert summary.loc["<0.1 cm3", ["tp_ref", "tp_pred", "fp"]].tolist() == [1, 1, 2]
    assert summary.loc[">=0.1 cm3", ["tp_ref", "tp_pred", "fp"]].tolist() == [1, 1, 1]
    assert summary.loc[["<0.1 cm3", ">=0.1 cm3"], "mdsc"].tolist() == [2 * 25 / 225, 2 * 4 / 204]


def test_a_blob_on_two_lesions_counts_once_and_for_the_one_it_shares_most_with() -> None:
    reference = box((20, 10, 10), np.s_[0:2, 0:10, 0:10], np.s_[3:4, 0:1, 0:3])
    predicted = box((20, 10, 10), np.s_[1:4, 0:10, 0:10])
    table = lesion_table("a", reference, predicted)
    assert table["blobs"].tolist() == [1, 0] and table["found"].tolist() == [True, True]


def test_rows_say_where_how_sure_and_how_large() -> None:
    reference, predicted = box((12, 8, 6), np.s_[1:4, 2:3, 1:3]), box((12, 8, 6), np.s_[3:5, 2:3, 1:2], np.s_[8:9])
    probability = np.where(predicted, np.float32(0.75), np.float32(0.125))
    probability[1, 2, 1], probability[8, 0, 0] = 0.25, 1.0
    table = lesion_table("a", reference, predicted, spacing=(1, 2, 0.5), probability=probability)
    assert table["volume_mm3"].tolist() == [6, 48] and table["id"].tolist() == [1, 2]
    assert table["peak_probability"].tolist() == [0.75, 1.0]
    assert table[["x", "y", "z"]].values.tolist() == [[2, 2, 1.5], [8, 3.5, 2.5]]
    assert table["dice"].iloc[0] == 2 * 1 / (6 + 2) and math.isnan(table["dice"].iloc[1])
    missed = lesion_table("a", reference, predicted * 0, probability=probability)
    assert missed["dice"].isna().all() and missed["peak_probability"].tolist() == [0.75]
    with pytest.raises(InputError, match="case a: expected a probability map of shape"):
        lesion_table("a", reference, predicted, probability=probability[1:])
    empty = lesion_table("a", reference * 0, predicted * 0)
    assert len(empty) == 0 and list(empty.columns) == list(metrics.COLUMNS)


def test_volumes_without_rows_count_in_every_denominator() -> None:
    reference, predicted = box((9, 3, 3), np.s_[:3]), box((9, 3, 3), np.s_[2:4], np.s_[8:])
    table = lesion_table("a", reference, predicted)
    summary = summarise(table, cases={"a": "p", "b": "p", "c": "q", "d": "r"})
    assert summary.loc[0, ["volumes", "patients"]].tolist() == [4, 3]
    assert summary["fp_per_volume"].tolist() == [0.25, 0.25, 0.0]
    assert math.isnan(summary.loc[2, "sensitivity"]) and math.isnan(summary.loc[2, "sensitivity_high"])
    # resampled: p (1 FP in 2 volumes) drawn 0..3 times in 3
    assert summary.loc[0, "fp_per_volume_high"] == 0.5 and summary.loc[0, "fp_per_volume_low"] == 0
    with pytest.raises(InputError, match="got none for a; list every evaluated volume"):
        summarise(table, cases={"b": "p"})
    with pytest.raises(InputError, match="got none for any"):
        summarise(table[:0], cases={})
    nothing = summarise(table[:0], cases={"a": "p", "b": "q"})
    assert nothing["fp"].tolist() == [0, 0, 0] and nothing["sensitivity"].isna().all()
    assert nothing.loc[0, "fp_per_volume_high"] == 0


def test_intervals_resample_patients_and_not_lesions() -> None:
    """Each patient's lesions are all found or all missed: the interval is that of 20 coins, not of 200."""
    rows = pd.concat(
        [
            lesion_table(f"c{i}", mask, mask if i % 2 else mask * False)
            for i in range(20)
            for mask in [box((20, 3, 3), *(np.s_[2 * k : 2 * k + 1] for k in range(10)))]
        ]
    )
    row = summarise(rows, cases={f"c{i}": f"p{i}" for i in range(20)}).loc[0]
    width = row["sensitivity_high"] - row["sensitivity_low"]
    assert row["sensitivity"] == 0.5 and 0.35 <= width <= 0.5  # binomial(20, 0.5)/20: 0.3 to 0.7
    one = summarise(rows, cases={f"c{i}": "p" for i in range(20)}).loc[0]
    assert one["sensitivity"] == 0.5 and math.isnan(one["sensitivity_low"])


def test_resampling_is_seeded_paired_and_fast() -> None:
    counts = np.arange(12.0).reshape(6, 2)
    assert np.array_equal(resample(counts, seed=3), resample(counts, seed=3))
    assert not np.array_equal(resample(counts, seed=3), resample(counts, seed=4))
    assert np.array_equal(resample(counts)[:, 1], resample(counts[:, 1:])[:, 0])  # the same draws for two models
    # every patient once on average, variance n(1/n)(1-1/n)
    drawn = resample(np.eye(6), resamples=20000)
    assert np.allclose(drawn.mean(axis=0), 1, atol=0.03) and np.allclose(drawn.var(axis=0), 5 / 6, atol=0.03)
    assert (drawn.sum(axis=1) == 6).all()
    start = time.perf_counter()
    resample(np.ones((200, 3, 6)), resamples=2000)
    assert time.perf_counter() - start < 1
    with pytest.raises(InputError, match="at least one patient"):
        resample(np.ones((0, 2)))


def test_strata_boundary() -> None:
    assert stratum(np.array([99.9999, 100.0])).tolist() == list(metrics.STRATA)


# ------------------------------------------------------------------------------------------------ curves
def bumps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(g.normal(size=(14, 12, 10)), 1.0)
    other = 0.7 * field + 0.4 * ndimage.gaussian_filter(g.normal(size=field.shape), 1.0)
    probability = 1 / (1 + np.exp(-12 * (other - 0.25)))
    return field > np.quantile(field, 0.93), probability.astype(np.float32)


LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_relabelled_sweep_equals_matching_at_each_threshold(rule: dict) -> None:
    for seed in range(3):
        reference, probability = bumps(seed)
        swept = curves.sweep(reference, probability, thresholds=LEVELS, matching=Matching(**rule), spacing=(1, 2, 1))
        for level, row in zip(LEVELS, swept, strict=True):
            c = match_lesions(reference, probability >= level, spacing=(1, 2, 1), **rule)
            assert row[:4].tolist() == [c.tp_ref, c.fn, c.tp_pred, c.fp] and row[4] == c.dice_sum and row[5] == 1


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_with_fixed_components_a_higher_threshold_raises_nothing(rule: dict) -> None:
    falls = 0
    for seed in range(8):
        reference, probability = bumps(seed)
        swept = curves.sweep(reference, probability, thresholds=LEVELS, method="fixed", matching=Matching(**rule))
        lowest = match_lesions(reference, probability >= LEVELS[0], **rule)
        assert swept[0, :4].tolist() == [lowest.tp_ref, lowest.fn, lowest.tp_pred, lowest.fp]
        assert (np.diff(swept[:, 0]) <= 0).all()
        assert (np.diff(swept[:, 3]) <= 0).all() or rule.get("unmatched") == "ignore"
        assert (swept[:, 0] + swept[:, 1] == swept[0, 0] + swept[0, 1]).all()
        falls += swept[0, 3] > swept[-1, 3]
    assert falls


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_fixed_components_are_those_whose_peak_reaches_the_threshold(rule: dict) -> None:
    dropped = 0
    for seed in range(5):
        reference, probability = bumps(seed)
        blobs, n = label_lesions(probability >= LEVELS[0])
        peaks = ndimage.maximum(probability, blobs, range(1, n + 1))
        swept = curves.sweep(reference, probability, thresholds=LEVELS, method="fixed", matching=Matching(**rule))
        for level, row in zip(LEVELS, swept, strict=True):
            kept = np.flatnonzero(peaks >= level) + 1
            c = match_lesions(reference, np.isin(blobs, kept), **rule)
            assert row[:4].tolist() == [c.tp_ref, c.fn, c.tp_pred, c.fp]
            assert row[4] == pytest.approx(c.dice_sum, abs=1e-12)
            dropped += 0 < kept.size < n
    assert dropped


def test_a_fixed_component_below_the_threshold_leaves_the_dice() -> None:
    reference = box((9, 1, 1), np.s_[0:6])
    probability = np.array([0.9, 0.9, 0, 0, 0.3, 0.3, 0.3, 0, 0]).reshape(9, 1, 1)
    swept = curves.sweep(reference, probability, thresholds=(0.2, 0.5, 0.95), method="fixed")
    assert swept[:, 4].tolist() == [2 * 4 / (6 + 5), 2 * 2 / (6 + 2), 0]


def test_methods_differ_where_blobs_merge() -> None:
    """Two peaks joined by a bridge of 0.3: relabelled, two blobs above it; fixed, one blob for ever."""
    probability = np.array([0, 0.9, 0.3, 0.6, 0], np.float32).reshape(5, 1, 1)
    nothing = np.zeros((5, 1, 1), bool)
    assert curves.sweep(nothing, probability, thresholds=(0.2, 0.5, 0.7))[:, 3].tolist() == [1, 2, 1]
    assert curves.sweep(nothing, probability, thresholds=(0.2, 0.5, 0.7), method="fixed")[:, 3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("method", ["relabel", "fixed"])
def test_a_map_exactly_at_a_threshold_is_predicted(method: str) -> None:
    for level in curves.THRESHOLDS:
        probability = np.full((2, 2, 2), level, np.float32)  # 0.7 in float32 lies below 0.7 in float64
        row = curves.sweep(probability > 0, probability, thresholds=(level,), method=method)[0]
        assert row[0] == 1, level


def stacked(rows: dict[str, list], thresholds: list[float]) -> curves.Sweeps:
    return curves.stack([np.array(v, float) for v in rows.values()], patients=list(rows), thresholds=thresholds)


def test_froc_keeps_both_ends_and_interpolates_nothing() -> None:
    sweeps = stacked(
        {  # tp_ref, fn, tp_pred, fp, dice_sum, volumes at 0.1, 0.5, 0.9
            "p": [[4, 0, 4, 9, 3, 1], [3, 1, 3, 2, 2, 1], [1, 3, 1, 0, 1, 1]],
            "q": [[0, 1, 0, 3, 0, 1], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1]],
        },
        [0.1, 0.5, 0.9],
    )
    curve = curves.froc(sweeps)
    assert curve["threshold"].tolist() == [math.inf, 0.9, 0.5, 0.1]
    assert curve["fp_per_volume"].tolist() == [0, 0, 1, 6] and curve["sensitivity"].tolist() == [0, 0.2, 0.6, 0.8]
    assert (curve["sensitivity_low"] <= curve["sensitivity"]).all()
    assert (curve["sensitivity"] <= curve["sensitivity_high"]).all()
    read = curves.sensitivity_at_fp(sweeps)
    assert read["fp_per_volume"].tolist() == [0.25, 0.5, 1, 2, 4, 8]
    assert read["sensitivity"].tolist()[:5] == [0.2, 0.2, 0.6, 0.6, 0.6] and math.isnan(read["sensitivity"].iloc[5])
    at = curves.fp_at_sensitivity(sweeps, [0.2, 0.61, 0.8, 0.9])
    assert at["fp_per_volume"].tolist()[:3] == [0, 6, 6] and math.isnan(at["fp_per_volume"].iloc[3])
    assert (at["low"].iloc[:3] <= at["fp_per_volume"].iloc[:3]).all()


def test_precision_recall_and_its_area() -> None:
    sweeps = stacked({"p": [[4, 1, 8, 8, 3, 1], [3, 2, 3, 1, 2, 1], [0, 5, 0, 0, 0, 1]]}, [0.1, 0.5, 0.9])
    curve = curves.precision_recall(sweeps)
    assert curve["sensitivity"].tolist() == [0, 0, 0.6, 0.8]
    assert curve["precision"].tolist()[2:] == [0.75, 0.5] and curve["precision"].iloc[:2].isna().all()
    assert curve["precision_paper"].tolist()[2:] == [0.75, 4 / 12] and curve["mdsc"].tolist()[2:] == [2 / 3, 0.75]
    assert curves.average_precision(sweeps)[0] == pytest.approx(0.6 * 0.75 + 0.2 * 0.5)
    assert curves.average_precision(sweeps, precision="precision_paper")[0] == pytest.approx(0.6 * 0.75 + 0.2 / 3)
    assert all(math.isnan(v) for v in curves.average_precision(sweeps)[1:])
    # an operating point that finds less with less precision, as relabelling can give, changes nothing
    worse = stacked(
        {"p": [[4, 1, 8, 8, 3, 1], [2, 3, 2, 8, 1, 1], [3, 2, 3, 1, 2, 1], [0, 5, 0, 0, 0, 1]]}, [0.1, 0.3, 0.5, 0.9]
    )
    assert curves.average_precision(worse)[0] == pytest.approx(0.6 * 0.75 + 0.2 * 0.5)
    none = stacked({"p": [[0, 0, 0, 2, 0, 1]], "q": [[0, 0, 0, 2, 0, 1]]}, [0.5])
    assert math.isnan(curves.average_precision(none)[0]) and curves.froc(none)["sensitivity"].isna().all()
    assert math.isnan(curves.sensitivity_at_fp(none, [1])["sensitivity"].iloc[0])


def test_area_interval_covers_and_perfect_is_one() -> None:
    perfect = stacked({p: [[2, 0, 2, 0, 2, 1]] for p in "abc"}, [0.5])
    assert curves.average_precision(perfect) == (1.0, 1.0, 1.0)
    volumes, patients = [], []
    for seed in range(9):
        volumes.append(curves.sweep(*bumps(seed), thresholds=LEVELS))
        patients.append(f"p{seed // 2}")
    sweeps = curves.stack(volumes, patients=patients, thresholds=LEVELS)
    assert sweeps.patients == ("p0", "p1", "p2", "p3", "p4") and sweeps.counts[:, 0, 5].tolist() == [2, 2, 2, 2, 1]
    assert np.allclose(sweeps.counts.sum(axis=0), np.sum(volumes, axis=0), rtol=1e-12)
    area, low, high = curves.average_precision(sweeps)
    assert 0 < low < area < high < 1


def test_wrong_sweeps_are_named() -> None:
    reference, probability = bumps(0)
    for thresholds in ((), (0.5, 0.4), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(InputError, match="thresholds that rise within"):
            curves.sweep(reference, probability, thresholds=thresholds)
    with pytest.raises(InputError, match="method 'relabel' or 'fixed'"):
        curves.sweep(reference, probability, method="score")
    with pytest.raises(InputError, match="probability map of shape"):
        curves.sweep(reference, probability[1:])
    with pytest.raises(InputError, match=r"probabilities in \[0, 1\]"):
        curves.sweep(reference, probability * 9)
    with pytest.raises(InputError, match="one sweep of 2 thresholds for each of 1"):
        curves.stack([np.ones((1, 6))], patients=["p"], thresholds=(0.1, 0.5))
    with pytest.raises(InputError, match="precision or precision_paper"):
        curves.average_precision(stacked({"p": [[1, 0, 1, 0, 1, 1]]}, [0.5]), precision="recall")


# ------------------------------------------------------------------------------------------ whole cohorts
def make_case(name: str, patient: str, seed: int) -> Case:
    g = np.random.default_rng(seed)
    label = box((14, 13, 12), np.s_[2:5, 2:5, 2:5], np.s_[8:11, 8:11, 8:11]).astype(np.uint8)
    image = g.uniform(50, 100, label.shape).astype(np.float32)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    return Case(name=name, patient=patient, image=image, mask=image > 0, label=label, affine=affine)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path, list[Case]]:
    folder, predictions = tmp_path / "cohort", tmp_path / "predictions"
    cases = [make_case("a1", "a", 0), make_case("a2", "a", 1), make_case("b1", "b", 2)]
    files = [write_case(folder, c, split="test" if c.patient == "a" else "train") for c in cases]
    write_cohort(folder, files)
    predictions.mkdir()
    first = cases[0].label * np.float32(0.75)
    first[8:, 8:, 8:] *= 0.5
    first[12, 1, 1] = 0.5
    write_nifti(predictions / "a1.nii.gz", first, affine=cases[0].affine)
    write_nifti(predictions / "a2.nii", np.zeros(first.shape, np.uint8), affine=cases[0].affine)
    write_nifti(predictions / "b1.nii.gz", cases[2].label, affine=cases[0].affine)
    return folder, predictions, cases


def test_a_folder_is_evaluated_on_the_native_grid(cohort) -> None:
    folder, predictions, _ = cohort
    rows, summary = evaluate(folder, predictions)
    assert rows["case"].tolist() == ["a1"] * 3 + ["a2"] * 2 + ["b1"] * 2 and set(rows["patient"]) == {"a", "b"}
    assert rows["volume_mm3"].tolist() == [54, 54, 2, 54, 54, 54, 54]  # voxels of 2 mm³
    assert rows["peak_probability"].tolist()[:3] == [0.75, 0.375, 0.5] and rows["peak_probability"][3:].isna().all()
    first = summary.loc[0]
    assert first[["volumes", "patients", "tp_ref", "fn", "fp"]].tolist() == [3, 2, 3, 3, 1]
    assert first["fp_per_volume"] == pytest.approx(1 / 3) and first["matching"] == "any overlap, 26-connected"
    rows, summary = evaluate(folder, predictions, split="test", threshold=0.375, matching=Matching(connectivity=6))
    assert summary.loc[0, ["volumes", "patients", "tp_ref", "fn", "fp"]].tolist() == [2, 1, 2, 2, 1]
    assert (summary["threshold"] == 0.375).all() and (summary["matching"] == "any overlap, 6-connected").all()


def test_folder_errors_name_the_case(cohort) -> None:
    folder, predictions, cases = cohort
    with pytest.raises(InputError, match="cases.csv"):
        evaluate(predictions, predictions)
    label, affine = cases[0].label, cases[0].affine
    write_nifti(predictions / "a1.nii.gz", label * np.float32(1.5), affine=affine)
    with pytest.raises(InputError, match=r"case a1: expected a 0/1 mask or probabilities in \[0, 1\]; got .* 0 to 1.5"):
        evaluate(folder, predictions)
    write_nifti(predictions / "a1.nii.gz", label[1:], affine=affine)
    with pytest.raises(InputError, match="prediction a1.nii.gz: expected the scan's shape"):
        evaluate(folder, predictions)
    shifted = affine.copy()
    shifted[0, 3] = 4
    write_nifti(predictions / "a1.nii.gz", label, affine=shifted)
    with pytest.raises(InputError, match="prediction a1.nii.gz: expected the scan's frame"):
        evaluate(folder, predictions)
    (predictions / "a1.nii.gz").write_bytes((predictions / "a1.nii.gz").read_bytes()[:60])
    with pytest.raises(InputError, match="prediction a1.nii.gz"):
        evaluate(folder, predictions)
    (predictions / "a1.nii.gz").unlink()
    with pytest.raises(InputError, match="case a1: expected a prediction a1.nii.gz in predictions; got none"):
        evaluate(folder, predictions)


def test_a_cohort_without_labels_is_refused(cohort) -> None:
    folder, predictions, cases = cohort
    write_cohort(folder, [write_case(folder, dataclasses.replace(c, label=None)) for c in cases])
    with pytest.raises(InputError, match="case a1: expected a reference label; got none"):
        evaluate(folder, predictions)


def test_cases_in_memory_equal_the_folder(cohort) -> None:
    folder, predictions, cases = cohort
    first = cases[0].label * np.float32(0.75)
    first[8:, 8:, 8:] *= 0.5
    first[12, 1, 1] = 0.5
    maps = [first, np.zeros(first.shape, bool), cases[2].label]
    rows, summary = evaluate_cases(zip(cases, maps, strict=True))
    pd.testing.assert_frame_equal(rows, evaluate(folder, predictions)[0])
    pd.testing.assert_frame_equal(summary, evaluate(folder, predictions)[1])
    with pytest.raises(InputError, match="a1 twice"):
        evaluate_cases([(cases[0], first)] * 2)
    with pytest.raises(InputError, match="at least one case"):
        evaluate_cases([])
    with pytest.raises(InputError, match="case a1: expected a prediction of shape"):
        evaluate_cases([(cases[0], first[1:])])
    with pytest.raises(InputError, match=r"threshold in \(0, 1\]; got 0"):
        evaluate_cases([(cases[0], first)], threshold=0)
    with pytest.raises(InputError, match="got values from nan to nan"):
        evaluate_cases([(cases[0], first * np.nan)])


@pytest.mark.parametrize("module", [matching, metrics, curves], ids=lambda m: m.__name__)
def test_examples_in_the_documentation(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 6 and result.failed == 0
    public = [f for f in vars(module).values() if callable(f) and getattr(f, "__module__", "") == module.__name__]
    undocumented = [f.__name__ for f in public if not f.__name__.startswith("_") and not f.__doc__]
    assert not undocumented
