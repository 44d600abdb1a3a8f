"""Detection curves over the probability threshold, pooled over volumes: FROC and precision-recall.

:func:`sweep` counts one volume at every threshold; :func:`stack` gathers volumes; :func:`froc` and
:func:`precision_recall` pool them and divide. Curves are step functions: nothing is interpolated between operating
points, the lowest threshold is one of them, and so is the end where nothing is predicted.

Components change with the threshold, so a curve must say how they were made (``method``):

* ``"relabel"``: label the map anew at every threshold and match again. Each point is what a user of that threshold
  would get. Blobs merge as the threshold falls, so FP may fall with it: the curve need not be monotonic.
* ``"fixed"``: label once, at the lowest threshold, and score each component by its highest probability. Matching uses
  those (largest) extents at all thresholds. A higher threshold never raises FP or sensitivity; mDSC is that of the
  large extents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from dmplus.matching import Matching, Spacing, Verdict, compare, decide, label_lesions, touching_pairs
from dmplus.metrics import percentiles, ratios, resample
from dmplus.runtime import InputError

THRESHOLDS = (0.01, 0.02, 0.05, *(round(0.1 * k, 1) for k in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.999)
FP_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  #: false positives per volume at which sensitivity is read
COUNTS = ("tp_ref", "fn", "tp_pred", "fp", "dice_sum", "volumes")


# ------------------------------------------------------------------------------------------- counting
def sweep(
    reference: np.ndarray,
    probability: np.ndarray,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    method: str = "relabel",
    spacing: Spacing = (1.0, 1.0, 1.0),
    matching: Matching = Matching(),  # noqa: B008 (frozen)
) -> np.ndarray:
    """Count one volume at every threshold: mask and map (X, Y, Z) → float64 (thresholds, 6), columns ``COUNTS``.

    A voxel is predicted where the map is >= threshold, compared in the map's own precision. spacing: mm. A volume
    without lesions or predictions gives zeros there. Raises InputError for thresholds that do not rise within (0, 1],
    an unknown method, another shape, and values beyond 0..1.

    >>> reference = np.zeros((9, 3, 3), bool); reference[:2] = True
    >>> probability = np.where(reference, 0.6, 0.0); probability[8] = 0.3
    >>> sweep(reference, probability, thresholds=(0.2, 0.5, 0.9))[:, :4].astype(int).tolist()
    [[1, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]]
    """
    levels = _levels(thresholds)
    if method not in ("relabel", "fixed"):
        raise InputError(f"expected method 'relabel' or 'fixed'; got {method!r}; choose one of those")
    if reference.shape != probability.shape:
        raise InputError(
            f"expected a probability map of shape {reference.shape}; got {probability.shape}; "
            "bring it to the reference's grid"
        )
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise InputError(
            f"expected probabilities in [0, 1]; got {probability.min():g} to {probability.max():g}; pass the softmax"
        )
    out = np.zeros((len(levels), len(COUNTS)))
    if method == "relabel":
        ref_labels, _ = label_lesions(reference, connectivity=matching.connectivity)
        for k, level in enumerate(levels):
            blobs, _ = label_lesions(probability >= level, connectivity=matching.connectivity)
            pairs = touching_pairs(ref_labels, blobs, spacing=spacing, dilation_mm=matching.dilation_mm)
            out[k] = _row(decide(pairs, matching))
        return out
    pairs, _, blobs = compare(reference, probability >= levels[0], matching, spacing=spacing)
    where = np.nonzero(blobs)
    score = np.zeros(len(pairs.blob_voxels), probability.dtype)
    np.maximum.at(score, blobs[where] - 1, probability[where])
    for k, level in enumerate(levels):
        out[k] = _row(decide(pairs, matching, keep=score >= level))
    return out


def _levels(thresholds: Sequence[float]) -> list[float]:
    levels = [float(t) for t in thresholds]  # python floats: numpy compares them in the map's own precision
    rising = all(a < b for a, b in zip(levels, levels[1:], strict=False))
    if not levels or not rising or levels[0] <= 0 or levels[-1] > 1:
        raise InputError(f"expected thresholds that rise within (0, 1]; got {levels}; sort them and drop others")
    return levels


def _row(verdict: Verdict) -> tuple[float, ...]:
    found = verdict.found
    return (found.sum(), verdict.missed.sum(), verdict.hit.sum(), verdict.false.sum(), verdict.dice[found].sum(), 1)


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """Counts of several volumes at the same thresholds, gathered by patient (:func:`stack`)."""

    thresholds: tuple[float, ...]
    patients: tuple[str, ...]
    counts: np.ndarray  #: float64 (patients, thresholds, 6), columns ``COUNTS``


def stack(
    volumes: Iterable[np.ndarray], *, patients: Sequence[str], thresholds: Sequence[float] = THRESHOLDS
) -> Sweeps:
    """Gather the :func:`sweep` of each volume; ``patients`` names the patient of each, in the same order.

    Raises InputError without volumes, or when patients or thresholds do not fit them.

    >>> stack([np.ones((1, 6)), np.ones((1, 6))], patients=["p", "p"], thresholds=[0.5]).counts.shape
    (1, 1, 6)
    """
    levels, swept = _levels(thresholds), [np.asarray(v, float) for v in volumes]
    if not swept or len(swept) != len(patients) or {v.shape for v in swept} != {(len(levels), len(COUNTS))}:
        raise InputError(
            f"expected one sweep of {len(levels)} thresholds for each of {len(patients)} patients' volumes; got "
            f"{len(swept)} of shapes {sorted({v.shape for v in swept})}; sweep every volume with the same thresholds"
        )
    names, row = np.unique(np.asarray(patients, object).astype(str), return_inverse=True)
    counts = np.zeros((len(names), len(levels), len(COUNTS)))
    np.add.at(counts, row, np.stack(swept))
    return Sweeps(tuple(levels), tuple(str(n) for n in names), counts)


# --------------------------------------------------------------------------------------------- curves
def froc(sweeps: Sweeps, *, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Sensitivity against false positives per volume: one row per threshold, falling, after the point (0, 0).

    Columns threshold, fp_per_volume, sensitivity, each of the last two with ``_low`` and ``_high``, the 95 % interval
    at that threshold over resampled patients (NaN for one patient). The first row has threshold infinity: nothing
    predicted, 0 FP, sensitivity 0. Without any lesion sensitivity is NaN.

    >>> one = [[2, 0, 2, 3, 2, 1], [1, 1, 1, 0, 1, 1]]  # tp_ref, fn, tp_pred, fp, dice_sum, volumes at 0.5 and 0.9
    >>> froc(stack([one], patients=["p"], thresholds=[0.5, 0.9])).iloc[:, :3].values.tolist()
    [[inf, 0.0, 0.0], [0.9, 0.0, 0.5], [0.5, 3.0, 1.0]]
    """
    return _curve(sweeps, ("fp_per_volume", "sensitivity"), seed, resamples)


def precision_recall(sweeps: Sweeps, *, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Precision against sensitivity (recall): one row per threshold, falling, after the point where nothing is found.

    Columns threshold, sensitivity, precision (tp_pred), precision_paper (tp_ref), mdsc, each with ``_low`` and
    ``_high`` as in :func:`froc`. Where nothing is predicted precision is NaN, the first row (threshold infinity)
    included: no convention makes it 1.

    >>> one = [[2, 0, 2, 3, 2, 1], [1, 1, 1, 0, 1, 1]]
    >>> precision_recall(stack([one], patients=["p"], thresholds=[0.5, 0.9]))["precision"].tolist()
    [nan, 1.0, 0.4]
    """
    return _curve(sweeps, ("sensitivity", "precision", "precision_paper", "mdsc"), seed, resamples)


def _with_end(counts: np.ndarray) -> np.ndarray:
    """Counts (..., thresholds, 6) with thresholds falling, after the operating point where nothing is predicted."""
    falling = counts[..., ::-1, :]
    end = np.zeros_like(falling[..., :1, :])
    end[..., 1] = falling[..., :1, 0] + falling[..., :1, 1]  # every lesion missed
    end[..., 5] = falling[..., :1, 5]
    return np.concatenate([end, falling], axis=-2)


def _curve(sweeps: Sweeps, names: tuple[str, ...], seed: int, resamples: int) -> pd.DataFrame:
    counts = _with_end(sweeps.counts)
    point = ratios(counts.sum(axis=0))
    drawn = ratios(resample(counts, seed=seed, resamples=resamples)) if len(sweeps.patients) > 1 else None
    curve = pd.DataFrame({"threshold": [np.inf, *sweeps.thresholds[::-1]], **{name: point[name] for name in names}})
    for name in names:
        low, high = percentiles(drawn[name]) if drawn else (np.nan, np.nan)
        curve[name + "_low"], curve[name + "_high"] = low, high
    return curve


# -------------------------------------------------------------------------------------------- readings
def sensitivity_at_fp(
    sweeps: Sweeps, rates: Sequence[float] = FP_RATES, *, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """Sensitivity at given false positives per volume: the highest of any operating point with at most that many.

    Columns fp_per_volume, sensitivity, low, high. NaN where the curve does not reach the rate (no operating point has
    as many FP: a lower threshold might have). Resamples that do not reach it are left out of the interval.

    >>> one = [[2, 0, 2, 3, 2, 1], [1, 1, 1, 0, 1, 1]]
    >>> sensitivity_at_fp(stack([one], patients=["p"], thresholds=[0.5, 0.9]), [1, 3, 8])["sensitivity"].tolist()
    [0.5, 1.0, nan]
    """

    def read(counts: np.ndarray, rate: float) -> np.ndarray:
        values = ratios(counts)
        fp, sensitivity = values["fp_per_volume"], values["sensitivity"]
        best = np.where(fp <= rate, sensitivity, -np.inf).max(axis=-1)  # the end with 0 FP is always at most the rate
        return np.where(fp.max(axis=-1) >= rate, best, np.nan)

    return _read(sweeps, read, ("fp_per_volume", "sensitivity"), rates, seed, resamples)


def fp_at_sensitivity(
    sweeps: Sweeps, levels: Sequence[float] = (0.85, 0.9, 0.95), *, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """False positives per volume at given sensitivities: the fewest of any operating point with at least that much.

    Columns sensitivity, fp_per_volume, low, high. NaN where no threshold reaches the sensitivity; resamples that do not
    are left out of the interval.

    >>> one = [[2, 0, 2, 3, 2, 1], [1, 1, 1, 0, 1, 1]]
    >>> fp_at_sensitivity(stack([one], patients=["p"], thresholds=[0.5, 0.9]), [0.5, 0.6])["fp_per_volume"].tolist()
    [0.0, 3.0]
    """

    def read(counts: np.ndarray, level: float) -> np.ndarray:
        values = ratios(counts)
        fewest = np.where(values["sensitivity"] >= level, values["fp_per_volume"], np.inf).min(axis=-1)
        return np.where(np.isinf(fewest), np.nan, fewest)

    return _read(sweeps, read, ("sensitivity", "fp_per_volume"), levels, seed, resamples)


def _read(
    sweeps: Sweeps,
    read: Callable[[np.ndarray, float], np.ndarray],
    names: tuple[str, str],
    at: Sequence[float],
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    counts = _with_end(sweeps.counts)
    drawn = resample(counts, seed=seed, resamples=resamples) if len(sweeps.patients) > 1 else None
    rows = []
    for value in at:
        low, high = percentiles(read(drawn, value)) if drawn is not None else (np.nan, np.nan)
        rows.append((float(value), float(read(counts.sum(axis=0), value)), float(low), float(high)))
    return pd.DataFrame(rows, columns=[*names, "low", "high"])


def average_precision(
    sweeps: Sweeps, *, precision: str = "precision", seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """Area under the precision-recall curve and its 95 % interval: (area, low, high).

    Rule: at recall r the precision is the best of any operating point with recall >= r; this step function is
    integrated from 0 to the highest recall reached, and recall never reached adds nothing. precision: "precision" or
    "precision_paper". NaN without lesions. Compare areas of equal threshold lists only.

    >>> one = [[2, 0, 2, 3, 2, 1], [1, 1, 1, 0, 1, 1]]
    >>> average_precision(stack([one], patients=["p"], thresholds=[0.5, 0.9]))[0]
    0.7
    """
    if precision not in ("precision", "precision_paper"):
        raise InputError(f"expected precision or precision_paper; got {precision!r}; choose one of those")

    def area(counts: np.ndarray) -> np.ndarray:
        values = ratios(counts)
        recall, height = values["sensitivity"], np.nan_to_num(values[precision], nan=0.0)
        order = np.argsort(recall, axis=-1, kind="stable")
        recall, height = np.take_along_axis(recall, order, -1), np.take_along_axis(height, order, -1)
        best = np.maximum.accumulate(height[..., ::-1], axis=-1)[..., ::-1]
        return (np.diff(recall, axis=-1, prepend=0.0) * best).sum(axis=-1)

    counts = _with_end(sweeps.counts)
    point = float(area(counts.sum(axis=0)))
    if len(sweeps.patients) == 1:
        return point, float("nan"), float("nan")
    low, high = percentiles(area(resample(counts, seed=seed, resamples=resamples)))
    return point, float(low), float(high)
