"""Exercises of notebooks 02 to 04: references, cases and misconceptions. The engine is :mod:`dmplus.exercises`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dmplus.runtime import rng


# ----------------------------------------------------------------------------------------- notebook 02
def sse(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    """Equation 5, with ε = 1e-7: arrays (B, X, Y, Z)."""
    error = (target - prob) ** 2
    missed = (error * target).sum() / (target.sum() + 1e-7)
    alarmed = (error * (1 - target)).sum() / ((1 - target).sum() + 1e-7)
    return float(alpha * missed + (1 - alpha) * alarmed)


def _sse_cases() -> list[tuple[np.ndarray, np.ndarray, float]]:
    draw = rng(0, "exercise 2.1")
    target = np.zeros((2, 3, 3, 3))
    target[0, 1, 1, 1] = 1
    cases = [(np.full((2, 3, 3, 3), 0.5), target, 0.9)]
    for alpha in (0.995, 0.5, 0.0, 1.0):
        shape = tuple(draw.integers(2, 5, 4))
        cases.append((draw.random(shape), (draw.random(shape) < 0.2).astype(float), alpha))
    cases.append((draw.random((1, 2, 2, 2)), np.zeros((1, 2, 2, 2)), 0.8))  # no lesion
    cases.append((draw.random((1, 2, 2, 2)), np.ones((1, 2, 2, 2)), 0.8))  # nothing else
    return cases


def _sse_over_all(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    error = (target - prob) ** 2
    return float((alpha * error * target + (1 - alpha) * error * (1 - target)).mean())


def _sse_absolute(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    return sse(target - np.sqrt(np.abs(target - prob)), target, alpha)


def _sse_exchanged(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    return sse(prob, target, 1 - alpha)


def _sse_as_rates(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    return sse((prob >= 0.5).astype(float), target, alpha)


def _sse_per_segment(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    return float(np.mean([sse(p[None], t[None], alpha) for p, t in zip(prob, target, strict=True)]))


def shares(sizes: list[int]) -> list[float]:
    """Share of SSE's pull towards sensitivity that each of several missed lesions gets; ``sizes`` in voxels."""
    return [n / sum(sizes) for n in sizes]


def _size_cases() -> list[tuple[list[int]]]:
    return [([8, 512],), ([1],), ([5, 5, 5],), ([1, 3000, 40, 40],), ([27, 125],)]


def _shares_alike(sizes: list[int]) -> list[float]:
    return [1 / len(sizes) for _ in sizes]


def _shares_squared(sizes: list[int]) -> list[float]:
    return [n**2 / sum(m**2 for m in sizes) for n in sizes]


def _shares_inverse(sizes: list[int]) -> list[float]:
    return [(1 / n) / sum(1 / m for m in sizes) for n in sizes]


def operating_point(sensitivity: list[float], fp: list[float], budget: float) -> int:
    """Index of the most sensitive point with at most ``budget`` false positives a volume, the fewest of equals; -1: none."""
    allowed = [i for i, n in enumerate(fp) if n <= budget]
    return max(allowed, key=lambda i: (sensitivity[i], -fp[i]), default=-1)


def _point_cases() -> list[tuple[list[float], list[float], float]]:
    return [
        ([0.5, 0.7, 0.8, 0.9], [0.5, 2.0, 3.9, 9.0], 4.0),
        ([0.5, 0.7, 0.8, 0.9], [0.5, 2.0, 4.2, 9.0], 4.0),  # 4.2 is nearer to 4 than 2
        ([0.5, 0.7, 0.7, 0.9], [0.5, 3.0, 2.0, 9.0], 4.0),  # equals, the better one last
        ([0.5, 0.7, 0.7], [0.5, 2.0, 3.0], 4.0),  # and first
        ([0.6, 0.9], [5.0, 7.0], 4.0),  # none
        ([0.9, 0.8, 0.6], [4.0, 1.0, 0.2], 4.0),  # exactly the budget, falling order
        ([0.9, 0.8, 0.6], [9.0, 3.0, 0.2], 4.0),  # falling order, the first is over the budget
    ]


def _point_nearest(sensitivity: list[float], fp: list[float], budget: float) -> int:
    return min(range(len(fp)), key=lambda i: abs(fp[i] - budget))


def _point_largest(sensitivity: list[float], fp: list[float], budget: float) -> int:
    return max(range(len(fp)), key=lambda i: sensitivity[i])


def _point_fewest(sensitivity: list[float], fp: list[float], budget: float) -> int:
    allowed = [i for i, n in enumerate(fp) if n <= budget]
    return min(allowed, key=lambda i: fp[i], default=-1)


def _point_below(sensitivity: list[float], fp: list[float], budget: float) -> int:
    allowed = [i for i, n in enumerate(fp) if n < budget]
    return max(allowed, key=lambda i: (sensitivity[i], -fp[i]), default=-1)


def _point_of_allowed(sensitivity: list[float], fp: list[float], budget: float) -> int:
    allowed = [(s, -n) for s, n in zip(sensitivity, fp, strict=True) if n <= budget]
    return allowed.index(max(allowed)) if allowed else -1


def _point_until_over(sensitivity: list[float], fp: list[float], budget: float) -> int:
    over = next((i for i, n in enumerate(fp) if n > budget), len(fp))
    return max(range(over), key=lambda i: (sensitivity[i], -fp[i]), default=-1)


# ----------------------------------------------------------------------------------------- notebook 03
def difference(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Current minus prior, each z-scored inside ``mask``; 0 outside. (X, Y, Z)."""

    def z(image: np.ndarray) -> np.ndarray:
        inside = image[mask]
        return np.where(mask, (image - inside.mean()) / inside.std(), 0.0)

    return z(current) - z(prior)


def _scan_cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    draw = rng(0, "exercise 3.1")
    cases = []
    for shape, gain in (((3, 3, 3), 2.0), ((4, 3, 2), 1.0), ((5, 4, 3), 0.3)):
        mask = draw.random(shape) < 0.7
        image = draw.normal(100, 10, shape)
        cases.append((image, gain * (image + draw.normal(0, 2, shape)) + 5, mask))
    return cases


def _difference_raw(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, current - prior, 0.0)


def _difference_everywhere(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return difference(current, prior, np.ones_like(mask)) * mask


def _difference_unmasked(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    def z(image: np.ndarray) -> np.ndarray:
        return (image - image[mask].mean()) / image[mask].std()

    return z(current) - z(prior)


def _difference_of_samples(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    n = np.count_nonzero(mask)
    return difference(current, prior, mask) * np.sqrt((n - 1) / n)


def _difference_turned(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return difference(prior, current, mask)


def fp_ratio(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
    """False positives of a model at sensitivity ``wanted``, by a straight line between its points, over the rival's.

    sensitivity and fp: the model's points as its threshold falls, both rising. NaN where it does not reach ``wanted``.
    """
    if wanted > max(sensitivity):
        return math.nan
    return float(np.interp(wanted, sensitivity, fp)) / rival


def _ratio_cases() -> list[tuple[list[float], list[float], float, float]]:
    return [
        ([0.5, 0.7, 0.9], [1.0, 2.0, 8.0], 0.8, 10.0),
        ([0.5, 0.7, 0.9], [1.0, 2.0, 8.0], 0.7, 4.0),
        ([0.4, 0.6], [0.5, 3.0], 0.8, 4.0),
        ([0.2, 0.6, 0.8], [0.1, 1.0, 5.0], 0.65, 1.0),
        ([0.5, 0.7, 0.9], [1.0, 2.0, 8.0], 0.9, 4.0),  # its last point is reached
    ]


def _ratio_next_point(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
    reached = [n for s, n in zip(sensitivity, fp, strict=True) if s >= wanted]
    return reached[0] / rival if reached else math.nan


def _ratio_turned(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
    return 1 / fp_ratio(sensitivity, fp, wanted, rival)


def _ratio_beyond(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
    return float(np.interp(wanted, sensitivity, fp)) / rival


def doubling_days(before: float, now: float, days: float) -> float:
    """Days in which the volume doubles at constant relative growth; infinite without change, negative: it halves."""
    return math.inf if now == before else days * math.log(2) / math.log(now / before)


def _growth_cases() -> list[tuple[float, float, float]]:
    return [(100.0, 200.0, 60.0), (100.0, 400.0, 60.0), (50.0, 50.0, 42.0), (200.0, 100.0, 70.0), (30.0, 45.0, 84.0)]


def _doubling_linear(before: float, now: float, days: float) -> float:
    return math.inf if now == before else days * before / (now - before)


def _doubling_of_the_diameter(before: float, now: float, days: float) -> float:
    return 3 * doubling_days(before, now, days)


# ----------------------------------------------------------------------------------------- notebook 04
def review_load(tiers: list[str], cases: list[str], volumes: int) -> float:
    """Candidates per volume over all ``volumes``: one entry of ``tiers`` and ``cases`` for each marked lesion."""
    return sum(t == "candidate" for t in tiers) / volumes


def _load_cases() -> list[tuple[list[str], list[str], int]]:
    return [
        (["candidate", "confirmed", "candidate"], ["a", "a", "b"], 4),
        ([], [], 3),
        (["confirmed"] * 3, ["a", "b", "c"], 3),
        (["candidate"] * 6 + ["confirmed"], ["a"] * 6 + ["b"], 5),
    ]


def _load_of_all(tiers: list[str], cases: list[str], volumes: int) -> float:
    return len(tiers) / volumes


def _load_where_there_are(tiers: list[str], cases: list[str], volumes: int) -> float:
    with_any = {c for t, c in zip(tiers, cases, strict=True) if t == "candidate"}
    return sum(t == "candidate" for t in tiers) / max(len(with_any), 1)


def captured(peak: list[float], true: list[bool], first: int) -> float:
    """Share of the true candidates among the ``first`` with the highest peak; NaN if none is true."""
    if not any(true):
        return math.nan
    order = sorted(range(len(peak)), key=lambda i: -peak[i])[:first]
    return sum(true[i] for i in order) / sum(true)


def _capture_cases() -> list[tuple[list[float], list[bool], int]]:
    return [
        ([0.9, 0.6, 0.8, 0.7], [True, True, False, False], 2),
        ([0.9, 0.6, 0.8, 0.7], [True, True, False, False], 4),
        ([0.6, 0.9], [False, False], 1),
        ([0.51, 0.97, 0.6, 0.95, 0.7], [False, True, True, True, False], 3),
        ([0.9, 0.8], [True, False], 0),
    ]


def _captured_precision(peak: list[float], true: list[bool], first: int) -> float:
    order = sorted(range(len(peak)), key=lambda i: -peak[i])[:first]
    return sum(true[i] for i in order) / max(len(order), 1) if any(true) else math.nan


def _captured_rising(peak: list[float], true: list[bool], first: int) -> float:
    return captured([-p for p in peak], true, first)


def _captured_unsorted(peak: list[float], true: list[bool], first: int) -> float:
    return sum(true[:first]) / sum(true) if any(true) else math.nan


def calibration_error(peak: list[float], true: list[bool], edges: list[float]) -> float:
    """Mean over groups of |mean peak − share true| of their bin; bins [edge, next edge), the last one closed."""
    which = np.clip(np.searchsorted(edges, peak, side="right") - 1, 0, len(edges) - 2)
    return _calibration_in(which, peak, true)


def _calibration_cases() -> list[tuple[list[float], list[bool], list[float]]]:
    draw = rng(0, "exercise 4.3")
    peak = [round(float(v), 3) for v in draw.uniform(0.5, 1, 12)]
    return [
        ([0.55, 0.65, 0.95, 0.95], [False, True, True, True], [0.5, 0.75, 1.0]),
        ([0.6, 0.9, 0.95, 0.99, 1.0], [True, False, True, True, False], [0.5, 0.75, 1.0]),
        ([0.6, 0.75, 0.9, 1.0], [True, True, True, False], [0.5, 0.75, 1.0]),  # a peak on an edge, and on the last one
        (peak, [bool(v < 0.6) for v in draw.random(12)], [0.5, 0.6, 0.8, 0.9, 1.0]),
        ([], [], [0.5, 1.0]),
    ]


def _calibration_of_bins(peak: list[float], true: list[bool], edges: list[float]) -> float:
    p, t = np.asarray(peak, float), np.asarray(true, float)
    which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
    return (
        float(np.mean([abs(p[which == k].mean() - t[which == k].mean()) for k in np.unique(which)]))
        if len(p)
        else math.nan
    )


def _calibration_left(peak: list[float], true: list[bool], edges: list[float]) -> float:
    below = [np.nextafter(e, 0) if e in edges[1:-1] else e for e in peak]  # a peak on an edge goes to the bin below
    which = np.clip(np.searchsorted(edges, below, side="right") - 1, 0, len(edges) - 2)
    return _calibration_in(which, peak, true)


def _calibration_open(peak: list[float], true: list[bool], edges: list[float]) -> float:
    return _calibration_in(np.searchsorted(edges, peak, side="right") - 1, peak, true)


def _calibration_in(which: np.ndarray, peak: list[float], true: list[bool]) -> float:
    p, t = np.asarray(peak, float), np.asarray(true, float)
    return float(np.mean([abs(p[which == k].mean() - t[which == k].mean()) for k in which])) if len(p) else math.nan


def _calibration_signed(peak: list[float], true: list[bool], edges: list[float]) -> float:
    return float(np.mean(np.asarray(peak) - np.asarray(true, float))) if peak else math.nan


def _calibration_of_each(peak: list[float], true: list[bool], edges: list[float]) -> float:
    return float(np.mean(np.abs(np.asarray(peak) - np.asarray(true, float)))) if peak else math.nan


#: The fields of :class:`dmplus.exercises.Exercise`, by number.
EXERCISES: dict[str, dict[str, Any]] = {
    "2.1": dict(
        expects="one number from 0 to 1",
        reference=sse,
        cases=_sse_cases,
        misconceptions=(
            (
                _sse_over_all,
                "you divided both sums by all voxels. Each class has its own mean; lesions are a thousandth.",
            ),
            (_sse_absolute, "you took absolute errors. The S in SSE's formula is squared: small errors count little."),
            (_sse_exchanged, "alpha and 1 − alpha are exchanged: large alpha weighs the errors on lesion voxels."),
            (_sse_as_rates, "you thresholded. SSE is a squared error of probabilities, not a rate; it needs a slope."),
            (_sse_per_segment, "you averaged over segments. Equation 5 sums over all voxels of the batch."),
        ),
    ),
    "2.2": dict(
        expects="a list of numbers that sum to 1, one for each lesion",
        reference=shares,
        cases=_size_cases,
        misconceptions=(
            (_shares_alike, "that is VSS, where a lesion is a lesion. SSE gives every *voxel* the same pull."),
            (_shares_squared, "the error is squared, the volume is not: count voxels."),
            (_shares_inverse, "it is the other way round: the large lesion has more voxels, so it pulls more."),
        ),
    ),
    "2.3": dict(
        expects="the index of one point, or -1 if none keeps to the budget",
        reference=operating_point,
        cases=_point_cases,
        misconceptions=(
            (_point_nearest, "you took the point nearest to the budget. A budget is a limit: 4.2 is over 4."),
            (_point_largest, "you forgot the budget: the most sensitive point of all may drown the reader."),
            (
                _point_fewest,
                "you took the fewest false positives. Spend the budget: the most *sensitive* point within it.",
            ),
            (_point_below, "exactly the budget is within the budget: <=, not <."),
            (_point_of_allowed, "that is an index among the points within the budget. Give the one in the whole list."),
            (_point_until_over, "you stopped at the first point over the budget. Later ones may be within it: look at all."),
        ),
    ),
    "3.1": dict(
        expects="an array of the scans' shape, 0 outside the mask",
        reference=difference,
        cases=_scan_cases,
        misconceptions=(
            (_difference_raw, "the two scans have different scales: z-score each inside the mask before you subtract."),
            (_difference_everywhere, "mean and standard deviation are those of the brain: take them inside the mask."),
            (_difference_unmasked, "outside the mask the difference is 0: there is nothing to compare."),
            (
                _difference_of_samples,
                "you divided by n − 1, as `std(ddof=1)` and torch do. In a brain of a million voxels that is the same; here "
                "take the standard deviation of all voxels inside: `np.std`.",
            ),
            (_difference_turned, "that is earlier minus now. What is new should come out bright: now minus earlier."),
        ),
    ),
    "3.2": dict(
        expects="one number, below 1 if the model makes fewer false positives, NaN if it never finds so many",
        reference=fp_ratio,
        cases=_ratio_cases,
        misconceptions=(
            (
                _ratio_next_point,
                "you took the next point of the curve. Draw a straight line between the two beside it.",
            ),
            (_ratio_turned, "that is the rival's over the model's. Below 1 should mean that the model is better."),
            (_ratio_beyond, "the model never reaches that sensitivity: the answer is NaN, not its last point."),
        ),
    ),
    "3.3": dict(
        expects="days, infinite without change, negative for a lesion that shrinks",
        reference=doubling_days,
        cases=_growth_cases,
        misconceptions=(
            (
                _doubling_linear,
                "that is growth by the same amount each day. Tumours grow by the same *share*: use logarithms.",
            ),
            (_doubling_of_the_diameter, "that is the diameter's doubling time. The volume's is a third of it."),
        ),
    ),
    "4.1": dict(
        expects="one number: candidates per volume, volumes without any included",
        reference=review_load,
        cases=_load_cases,
        misconceptions=(
            (_load_of_all, "you counted the confirmed ones. Only candidates wait for the reader."),
            (_load_where_there_are, "a volume without candidates counts, too: divide by all volumes."),
        ),
    ),
    "4.2": dict(
        expects="a share from 0 to 1, NaN if no candidate is true",
        reference=captured,
        cases=_capture_cases,
        misconceptions=(
            (_captured_precision, "that is how many of the *reviewed* are true. Divide by all true candidates."),
            (_captured_rising, "you began with the lowest peak. Review the most suspicious first."),
            (_captured_unsorted, "you took them in the order of the list. Sort by peak, the highest first."),
        ),
    ),
    "4.3": dict(
        expects="one number from 0 to 1, NaN without groups",
        reference=calibration_error,
        cases=_calibration_cases,
        misconceptions=(
            (_calibration_of_bins, "every bin counted alike. Weigh each by its groups, or an almost empty one rules."),
            (_calibration_left, "a peak on an edge belongs to the bin above it: [edge, next edge)."),
            (_calibration_open, "a peak of 1.0 belongs to the last bin, which is closed: cut the number with np.clip."),
            (_calibration_signed, "too high and too low cancelled. Take the absolute gap of each bin."),
            (_calibration_of_each, "you compared each group with 0 or 1. Only the mean of a bin can be calibrated."),
        ),
    ),
}
