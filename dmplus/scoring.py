"""Rows from which every detection curve can be computed afterwards: one per lesion and one per false positive.

A probability map is cut at each of :data:`LEVELS`. A lesion is found at every level up to its highest probability
(any-overlap rule), so its row holds that level. A false positive is a blob that touches no lesion; as the level falls it
appears (``top``), grows, and ends when it merges with a stronger blob or with one that touches a lesion (``bottom`` is the
last level at which it stands alone). Hence, at level k, found = lesions with top >= k and false positives = rows with
bottom <= k <= top: exactly what labelling the map anew at that level gives (:func:`dmplus.curves.sweep`, "relabel").
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dmplus.matching import contingency, label_lesions
from dmplus.runtime import InputError

#: Thresholds of the rows: 0.018 to 0.999925 in steps of 0.25 on the logit; LEVELS[HALF] is 0.5.
LEVELS: np.ndarray = (1 / (1 + np.exp(-np.arange(-16, 39) / 4))).astype(np.float32)
HALF = 16
#: The same, and on to 1 − 1.2e-7, beyond which float32 has no two steps: a network that was trained long is surer than LEVELS go.
FINE: np.ndarray = (1 / (1 + np.exp(-np.arange(-16, 64) / 4))).astype(np.float32)
COLUMNS = ("kind", "id", "volume_mm3", "top", "bottom", "dice", "what", "x", "y", "z")
WHOLE = dict.fromkeys(("id", "top", "bottom", "what"), "int64")  #: columns of whole numbers, and their type
TIER_COLUMNS = ("kind", "id", "volume_mm3", "tier", "peak", "x", "y", "z")


def score(
    label: np.ndarray,
    probability: np.ndarray,
    *,
    numbers: np.ndarray | None = None,
    lookalikes: np.ndarray | None = None,
    voxel_mm3: float = 1.0,
    levels: np.ndarray = LEVELS,
) -> pd.DataFrame:
    """Rows of one volume: reference mask and map (X, Y, Z), both on one grid. levels: LEVELS, or FINE, which begins with them.

    Columns: kind ("lesion" or "fp"); id (the lesion's number in ``numbers`` where most of it lies, else its rank; 0 for a
    false positive); volume_mm3 (of the lesion; of the false positive at 0.5, NaN if it does not stand there); top, bottom
    (indices into the levels, top -1: found at none; bottom is 0 for lesions); dice (at 0.5, of a lesion found there, with the
    blobs that touch it); what (of a false positive: the commonest value of ``lookalikes`` other than 0 within 2 voxels of
    its peak, 0 without); x, y, z (centre of the lesion, peak of the false positive, voxels). An empty map or reference
    gives no rows of that kind. Raises ``InputError`` for arrays of different shapes.
    """
    for name, array in (("probability", probability), ("numbers", numbers), ("lookalikes", lookalikes)):
        if array is not None and array.shape != label.shape:
            raise InputError(
                f"score: expected {name} of the label's shape {label.shape}; got {array.shape}; resample it"
            )
    reference, count = label_lesions(label > 0)
    found = pd.concat([_lesions(reference, count, probability, numbers, voxel_mm3, levels),
                       _false(reference > 0, probability, lookalikes, voxel_mm3, levels)], ignore_index=True)  # fmt: skip
    return found[list(COLUMNS)].astype(WHOLE)  # joined with an empty table they would not stay whole numbers


def _level(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Index of the highest level that is at most each value, -1 below all."""
    return np.searchsorted(levels, values.astype(np.float32), side="right") - 1


def _lesions(
    reference: np.ndarray, count: int, probability: np.ndarray, numbers: np.ndarray | None, voxel_mm3: float,
    levels: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    where = np.nonzero(reference)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, reference[where] - 1, probability[where])
    blobs, _ = label_lesions(probability >= levels[HALF])
    table = contingency(reference, blobs)
    shared = table[1:, 1:]
    union = ((shared > 0) * table.sum(0)[1:]).sum(1)
    size = table.sum(1)[1:]
    dice = np.where(shared.any(1), 2 * shared.sum(1) / np.maximum(size + union, 1), np.nan)
    return pd.DataFrame(
        {
            "kind": np.full(count, "lesion", object),
            "id": _ids(reference, count, numbers),
            "top": _level(peak, levels),
            "bottom": 0,
            "dice": dice,
            "what": 0,
            **_places(reference, count, voxel_mm3),
        }
    )


def _ids(reference: np.ndarray, count: int, numbers: np.ndarray | None) -> np.ndarray:
    """The number in which most of each reference lesion lies, or its rank."""
    if numbers is None or not count:
        return np.arange(1, count + 1)
    return contingency(reference, numbers.astype(np.int32))[1:, 1:].argmax(1) + 1


def _places(labels: np.ndarray, count: int, voxel_mm3: float) -> dict[str, np.ndarray]:
    """Volume and centre of each component."""
    where = np.nonzero(labels)
    index = labels[where] - 1
    size = np.bincount(index, minlength=count)
    centre = {
        c: np.round(np.bincount(index, a, minlength=count) / np.maximum(size, 1), 1)
        for c, a in zip("xyz", where, strict=True)
    }
    return {"volume_mm3": np.round(size * voxel_mm3, 4), **centre}


def _false(
    reference: np.ndarray, probability: np.ndarray, lookalikes: np.ndarray | None, voxel_mm3: float, levels: np.ndarray
) -> pd.DataFrame:
    above = np.argwhere(probability >= levels[0])
    if not len(above):
        return pd.DataFrame({c: [] for c in COLUMNS})
    box = tuple(slice(a, b + 1) for a, b in zip(above.min(0), above.max(0), strict=True))
    inside, lesion = np.ascontiguousarray(probability[box]), reference[box]
    flat = inside.ravel()
    peaks = np.zeros(0, np.int64)  # of the false positives seen so far: flat index of the peak,
    top, bottom = np.zeros(0, int), np.zeros(0, int)  # first and last level (bottom stays 0 while alive),
    alive, volume = np.zeros(0, bool), np.zeros(0)
    for k in range(int(_level(flat.max()[None], levels)[0]), -1, -1):
        blobs, n = label_lesions(inside >= levels[k])
        where = np.flatnonzero(blobs)
        index = blobs.ravel()[where] - 1
        true = np.zeros(n, bool)
        true[index[lesion.ravel()[where]]] = True
        # The strongest voxel of each blob: the last of its voxels in rising order, the first of equals.
        order = np.lexsort((-where, flat[where], index))
        last = np.flatnonzero(np.diff(index[order], append=n))
        best = where[order[last]]
        own = blobs.ravel()[peaks] - 1  # the blob in which each earlier false positive lies now
        ends = alive & (true[own] | (best[own] != peaks)) if len(peaks) else alive
        bottom[ends], alive[ends] = k + 1, False
        taken = np.zeros(n, bool)
        taken[own[alive]] = True
        new = np.flatnonzero(~true & ~taken)
        peaks = np.concatenate([peaks, best[new]])
        top, bottom = np.concatenate([top, np.full(len(new), k)]), np.concatenate([bottom, np.zeros(len(new), int)])
        alive, volume = (
            np.concatenate([alive, np.ones(len(new), bool)]),
            np.concatenate([volume, np.full(len(new), np.nan)]),
        )
        if k == HALF:
            size = np.bincount(index, minlength=n)
            volume[alive] = np.round(size[blobs.ravel()[peaks[alive]] - 1] * voxel_mm3, 4)
    place = np.stack(np.unravel_index(peaks, inside.shape), 1) + [s.start for s in box]
    return pd.DataFrame(
        {
            "kind": np.full(len(peaks), "fp", object),
            "id": 0,
            "volume_mm3": volume,
            "top": top,
            "bottom": bottom,
            "dice": np.nan,
            "what": _kinds(lookalikes, place),
            **dict(zip("xyz", place.T, strict=True)),
        }
    )


def _kinds(lookalikes: np.ndarray | None, places: np.ndarray, reach: int = 2) -> np.ndarray:
    """The commonest value other than 0 within ``reach`` voxels of each place, 0 where there is none."""
    if lookalikes is None or not len(places):
        return np.zeros(len(places), int)
    padded = np.pad(lookalikes, reach)
    span = np.arange(2 * reach + 1)
    cube = np.stack(np.meshgrid(span, span, span, indexing="ij"), -1).reshape(-1, 3)
    values = padded[tuple((places[:, None] + cube[None]).T)].T  # (places, voxels of the cube)
    counts = np.stack(
        [(values == v).sum(1) for v in range(1, int(lookalikes.max(initial=0)) + 1)] or [np.zeros(len(places))]
    )
    return np.where(counts.max(0) > 0, counts.argmax(0) + 1, 0)


def tiers(
    label: np.ndarray, candidate: np.ndarray, confirmed: np.ndarray, *, probability: np.ndarray | None = None,
    numbers: np.ndarray | None = None, voxel_mm3: float = 1.0,
) -> pd.DataFrame:  # fmt: skip
    """Rows of one volume after triage: reference mask and the two predicted masks (X, Y, Z), bool.

    Blobs are the components of the union; one that holds a confirmed voxel is confirmed, any other a candidate. Columns:
    kind ("lesion": reference lesion, "fp": blob that touches none), id (as in :func:`score`), volume_mm3 (of the lesion or
    the blob), tier ("confirmed", "candidate", "missed"; a lesion has the best tier of the blobs that touch it), peak (of
    ``probability`` in the blob, or in the lesion and the blobs that touch it; NaN without a map), x, y, z (centre). Empty
    masks give no rows of that kind. Raises ``InputError`` for arrays of different shapes.
    """
    arrays = {"candidate": candidate, "confirmed": confirmed, "probability": probability, "numbers": numbers}
    for name, array in arrays.items():
        if array is not None and array.shape != label.shape:
            raise InputError(
                f"tiers: expected {name} of the label's shape {label.shape}; got {array.shape}; resample it"
            )
    reference, count = label_lesions(label > 0)
    blobs, n = label_lesions(candidate | confirmed)
    best = np.ones(n + 1, int)  # of each blob, from 1: 1 candidate, 2 confirmed
    best[np.unique(blobs[confirmed])] = 2
    shared = contingency(reference, blobs)[1:, 1:] > 0
    names = np.array(["missed", "candidate", "confirmed"], object)
    inside, of_blob = (_highest(probability, labels, k) for labels, k in ((reference, count), (blobs, n)))
    touching = np.where(shared, of_blob, -np.inf).max(1, initial=-np.inf)
    lesion = pd.DataFrame(
        {"kind": np.full(count, "lesion", object), "id": _ids(reference, count, numbers),
         "tier": names[(shared * best[1:]).max(1, initial=0)], "peak": np.maximum(inside, touching),
         **_places(reference, count, voxel_mm3)}
    )  # fmt: skip
    false = pd.DataFrame(
        {
            "kind": np.full(n, "fp", object),
            "id": 0,
            "tier": names[best[1:]],
            "peak": of_blob,
            **_places(blobs, n, voxel_mm3),
        }
    )[~shared.any(0)]
    return pd.concat([lesion, false], ignore_index=True)[list(TIER_COLUMNS)]


def _highest(probability: np.ndarray | None, labels: np.ndarray, count: int) -> np.ndarray:
    """Highest probability in each component, to six digits; NaN without a map."""
    if probability is None or not count:
        return np.full(count, np.nan)
    where = np.nonzero(labels)
    peak = np.zeros(count)
    np.maximum.at(peak, labels[where] - 1, probability[where])
    return np.round(peak, 6)


def counts(rows: pd.DataFrame, level: int) -> tuple[int, int, int]:
    """(found lesions, missed lesions, false positives) of rows at a level."""
    lesion = (rows["kind"] == "lesion").to_numpy()
    stands = ((rows["bottom"] <= level) & (level <= rows["top"])).to_numpy()
    return int((lesion & stands).sum()), int((lesion & ~stands).sum()), int((~lesion & stands).sum())


def operating_level(
    rows: pd.DataFrame, budget: float, volumes: int, *, floor: int = 0, levels: np.ndarray = LEVELS
) -> int:
    """The most sensitive level with at most ``budget`` false positives per volume, of equals the highest.

    rows: of ``volumes`` validation volumes, complete from level ``floor`` on; levels: those that they were scored at. Raises
    ``InputError`` if there is none.
    """
    counted = {k: counts(rows, k) for k in range(floor, len(levels))}
    allowed = [(found, k) for k, (found, _, false) in counted.items() if false <= budget * volumes]
    if not allowed:
        raise InputError(
            f"operating point: expected a threshold with at most {budget:g} false positives per volume; the fewest are "
            f"{min(c[2] for c in counted.values()) / volumes:g}; take a smaller alpha or raise the budget"
        )
    return max(allowed)[1]
