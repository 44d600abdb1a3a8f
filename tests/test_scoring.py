"""Rows of lesions and false positives: they must give what labelling the map anew at each level gives."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from dmplus import curves, scoring
from dmplus.metrics import match_lesions
from dmplus.runtime import InputError


def volume(seed, shape=(30, 28, 26)):
    """A map with many blobs of all heights that merge with each other and with lesions, and three lesions."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 1.6)
    logit = smooth / smooth.std() * 3.5 - 3
    label = np.zeros(shape, np.uint8)
    label[3:7, 4:9, 5:9] = label[20:22, 20:22, 20:22] = label[12:15, 3:6, 18:21] = 1
    logit[3:6, 4:8, 5:8] += 6
    return label, (1 / (1 + np.exp(-logit))).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_rows_count_what_relabelling_counts_at_every_level(seed):
    label, probability = volume(seed)
    rows = scoring.score(label, probability)
    swept = curves.sweep(label > 0, probability, thresholds=scoring.LEVELS.tolist())
    wanted = swept[:, [0, 1, 3]].astype(int).tolist()
    assert [list(scoring.counts(rows, k)) for k in range(len(scoring.LEVELS))] == wanted
    assert max(w[2] for w in wanted) > 10  # the case is not trivial
    assert (rows[rows.kind == "fp"].bottom > 0).any()  # some merge before the lowest level


def test_volume_and_dice_are_those_at_one_half():
    label, probability = volume(1)
    rows = scoring.score(label, probability)
    assert scoring.LEVELS[scoring.HALF] == 0.5
    counted = match_lesions(label > 0, probability >= 0.5)
    assert rows.dice.sum() == pytest.approx(counted.dice_sum)
    assert rows[rows.kind == "fp"].volume_mm3.notna().sum() == counted.fp
    blobs, _ = ndimage.label(probability >= 0.5, np.ones((3, 3, 3)))
    for row in rows[(rows.kind == "fp") & rows.volume_mm3.notna()].itertuples():
        at = (int(row.x), int(row.y), int(row.z))
        assert row.volume_mm3 == (blobs == blobs[at]).sum()
        assert probability[blobs == blobs[at]].max() == probability[at]


def test_equal_peaks_that_merge_count_once():
    probability = np.zeros((9, 3, 3), np.float32)
    probability[1, 1, 1] = probability[5, 1, 1] = 0.9
    probability[2:5, 1, 1] = 0.3
    rows = scoring.score(np.zeros((9, 3, 3)), probability)
    count = [scoring.counts(rows, int(scoring._level(np.array([p]), scoring.LEVELS)[0]))[2] for p in (0.85, 0.4, 0.25)]
    assert count == [2, 2, 1]


def test_what_a_false_positive_is_and_which_lesion_was_found():
    label, probability = volume(2)
    numbers = label.copy() * 0
    numbers[3:7, 4:9, 5:9], numbers[20:22, 20:22, 20:22], numbers[12:15, 3:6, 18:21] = 7, 3, 5
    kinds = np.zeros(label.shape, np.uint8)
    rows = scoring.score(label, probability, numbers=numbers)
    assert sorted(rows[rows.kind == "lesion"].id) == [3, 5, 7]
    false = rows[rows.kind == "fp"].iloc[0]
    kinds[int(false.x) + 2, int(false.y), int(false.z)] = 4
    again = scoring.score(label, probability, lookalikes=kinds)
    assert again[again.kind == "fp"].iloc[0].what == 4 and (again[again.kind == "fp"].what == 0).sum() > 3


def test_nothing_gives_no_rows_and_other_shapes_are_refused():
    nothing = np.zeros((8, 8, 8), np.float32)
    assert len(scoring.score(nothing, nothing)) == 0
    with pytest.raises(InputError, match="expected lookalikes of the label's shape"):
        scoring.score(nothing, nothing, lookalikes=nothing[1:])


def test_tiers_of_a_volume_by_hand():
    label, sens, spec = (np.zeros((9, 9, 12), bool) for _ in range(3))
    label[1:3, 1, 1], label[1, 5, 1], label[5, 1, 1], label[8, 8, 8] = True, True, True, True
    sens[1, 1, 1] = sens[1, 5, 1] = True  # the first lesion is seen by both, the second by sens alone,
    spec[2, 1, 1] = spec[5, 1, 1] = True  # the third by spec alone, the last by none
    sens[5:7, 5, 5] = spec[6, 5, 6] = True  # false: sens and spec touch, confirmed
    sens[1, 8, 8] = True  # false candidate
    made = scoring.tiers(label, sens, spec)
    lesions, false = made[made.kind == "lesion"], made[made.kind == "fp"]
    assert dict(zip(map(tuple, lesions[["x", "y", "z"]].to_numpy()), lesions.tier, strict=True)) == {
        (1.5, 1.0, 1.0): "confirmed", (1.0, 5.0, 1.0): "candidate", (5.0, 1.0, 1.0): "confirmed", (8.0, 8.0, 8.0): "missed",
    }  # fmt: skip
    assert sorted(zip(false.tier, false.volume_mm3, strict=True)) == [("candidate", 1.0), ("confirmed", 3.0)]
    assert made.peak.isna().all()
    probability = np.where(sens, 0.9, np.where(label, 0.3, 0.1)).astype(np.float32)
    probability[2, 1, 1], probability[1, 8, 8] = 0.95, 0.7
    peaks = scoring.tiers(label, sens, spec, probability=probability)
    assert dict(zip(peaks.x[:4], peaks.peak[:4], strict=True)) == {1.5: 0.95, 1.0: 0.9, 5.0: 0.3, 8.0: 0.3}
    assert sorted(peaks.peak[4:]) == [0.7, 0.9]
    numbers = np.where(label, 7, 0)
    assert set(scoring.tiers(label, sens, spec, numbers=numbers).query("kind == 'lesion'").id) == {7}
    nothing = np.zeros_like(label)
    assert len(scoring.tiers(nothing, nothing, nothing)) == 0
    assert scoring.tiers(label, nothing, nothing).tier.tolist() == ["missed"] * 4
    with pytest.raises(InputError, match="confirmed of the label's shape"):
        scoring.tiers(label, sens, spec[1:])


def test_the_operating_level_is_the_most_sensitive_within_the_budget():
    lesions = [("lesion", 40, 0)] * 4 + [("lesion", 29, 0)] * 2 + [("lesion", 19, 0)] * 2 + [("lesion", -1, 0)] * 2
    false = [("fp", 29, 0)] * 4 + [("fp", 19, 0)] * 16
    rows = pd.DataFrame(lesions + false, columns=["kind", "top", "bottom"])
    assert scoring.operating_level(rows, 2, 2) == 29  # of equals the highest threshold
    assert scoring.operating_level(rows, 10, 2) == 19
    assert scoring.operating_level(rows, 1.9, 2) == 40
    assert scoring.operating_level(rows, 10, 2, floor=25) == 29
    with pytest.raises(InputError, match="the fewest are 2; take a smaller alpha"):
        scoring.operating_level(rows.assign(top=54), 1.9, 10)


@pytest.mark.parametrize("empty", ["map", "reference"])
def test_whole_numbers_stay_whole_where_one_kind_of_rows_is_empty(empty):
    label, probability = volume(0)
    rows = scoring.score(label * (empty != "reference"), probability * np.float32(empty != "map"))
    assert set(rows["kind"]) == ({"lesion"} if empty == "map" else {"fp"})
    assert all(rows[c].dtype == np.int64 for c in ("id", "top", "bottom", "what"))


def test_finer_levels_begin_with_the_others_and_go_on():
    """A false positive that is surer than the highest level is told from one that is a little less sure."""
    assert np.array_equal(scoring.FINE[: len(scoring.LEVELS)], scoring.LEVELS) and scoring.FINE[-1] < 1
    label, p = np.zeros((20, 9, 9), np.uint8), np.zeros((20, 9, 9), np.float32)
    label[2, 4, 4] = 1
    p[2, 4, 4], p[9, 4, 4], p[16, 4, 4] = 1 - 1e-6, 1 - 1e-5, 0.9
    coarse, fine = scoring.score(label, p), scoring.score(label, p, levels=scoring.FINE)
    assert coarse["top"].tolist()[:2] == [len(scoring.LEVELS) - 1] * 2
    top = fine["top"].to_numpy()
    assert (scoring.FINE[top] <= p[p > 0]).all() and (scoring.FINE[top + 1] > p[p > 0]).all() and top[0] > top[1] > top[2]
    with pytest.raises(InputError, match="the fewest are 1"):
        scoring.operating_level(coarse, 0.5, 1)
    assert (np.diff(scoring.FINE) > 0).all() and scoring.FINE[-1] < 1  # every level is one of its own
    assert np.array_equal(scoring.FINE[: len(scoring.LEVELS)], scoring.LEVELS)
    level = scoring.operating_level(fine, 0.5, 1, levels=scoring.FINE)
    assert scoring.counts(fine, level) == (1, 0, 0)
    pd.testing.assert_frame_equal(coarse.drop(columns="top"), fine.drop(columns="top"))
