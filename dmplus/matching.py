"""Pairing lesions with blobs: one contingency table that every matching rule, count, curve and Dice reads.

A *lesion* is a connected component of the reference, a *blob* one of the prediction. Both masks are labelled once
(:func:`label_lesions`); one ``bincount`` gives N[i, j], the voxels that lesion i and blob j share
(:func:`contingency`). A :class:`Matching` names the rule, :func:`match_lesions` counts, :func:`explain` says which
pair was matched and why.

Every threshold is read as ``>=``, overlaps in float64. Huang et al. 2022 (section II.E.3) count metastases but state
neither overlap criterion nor connectivity; ``any_overlap`` with 26-connectivity is our reading of their text.
"""

from __future__ import annotations

import dataclasses

import cc3d
import numpy as np
import pandas as pd
from scipy import ndimage, optimize

from dmplus.runtime import InputError

RULES = ("any_overlap", "iou", "dice", "one_to_one")
Spacing = tuple[float, float, float]  #: voxel edge lengths in mm


# ------------------------------------------------------------------------------------------- the table
def label_lesions(mask: np.ndarray, *, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Number the connected components of a mask: (X, Y, Z) bool or 0/1 → (int32 (X, Y, Z), count); 0 is background.

    connectivity: 6 (faces), 18 (and edges) or 26 (and corners). An empty mask gives (zeros, 0). Raises InputError for
    an array that is not 3-D or holds other values than 0 and 1 (threshold a probability map first).

    >>> label_lesions(np.eye(3)[None])[1], label_lesions(np.eye(3)[None], connectivity=6)[1]
    (1, 3)
    """
    if connectivity not in (6, 18, 26):
        raise InputError(f"expected connectivity 6, 18 or 26; got {connectivity!r}; choose one of those")
    binary = np.ascontiguousarray(_binary(mask), dtype=np.uint8)
    if binary.size == 0:
        return np.zeros(binary.shape, np.int32), 0
    labels, count = cc3d.connected_components(binary, connectivity=connectivity, return_N=True, binary_image=True)
    return np.ascontiguousarray(labels, dtype=np.int32), int(count)


def _binary(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise InputError(f"expected a 3-D mask (X, Y, Z); got shape {mask.shape}; pass one volume at a time")
    if mask.dtype == bool:
        return mask
    binary = mask == 1
    if not (binary | (mask == 0)).all():
        raise InputError(f"expected a mask of 0 and 1; got values up to {mask.max()}; threshold it first (map >= 0.5)")
    return binary


def contingency(ref_labels: np.ndarray, pred_labels: np.ndarray) -> np.ndarray:
    """Voxels shared by each lesion and each blob: two label volumes of one shape → int64 (n_ref + 1, n_pred + 1).

    Row 0 and column 0 are background, so row sums are lesion sizes and column sums blob sizes, in voxels. Two volumes
    without labels give a 1×1 table. Raises InputError if the shapes differ.

    >>> contingency(np.array([[[1, 1, 0, 2]]]), np.array([[[0, 1, 1, 0]]])).tolist()
    [[0, 1], [1, 1], [1, 0]]
    """
    if ref_labels.shape != pred_labels.shape:
        raise InputError(
            f"expected reference and prediction of one shape; got {ref_labels.shape} and {pred_labels.shape}; "
            "bring the prediction to the reference's grid"
        )
    n_ref, n_pred = int(ref_labels.max(initial=0)), int(pred_labels.max(initial=0))
    keys = ref_labels.ravel().astype(np.int64) * (n_pred + 1) + pred_labels.ravel()
    return np.bincount(keys, minlength=(n_ref + 1) * (n_pred + 1)).reshape(n_ref + 1, n_pred + 1)


def _dilated(ref: np.ndarray, pred: np.ndarray, shape: tuple[int, int], spacing: Spacing, mm: float) -> np.ndarray:
    """The same table with each lesion grown by ``mm``, in its own bounding box: grown lesions may share voxels."""
    table = np.zeros(shape, np.int64)
    reach = [int(np.ceil(mm / s)) for s in spacing]
    for lesion, box in enumerate(ndimage.find_objects(ref), start=1):
        near = tuple(slice(max(b.start - r, 0), b.stop + r) for b, r in zip(box, reach, strict=True))
        grown = ndimage.distance_transform_edt(ref[near] != lesion, sampling=spacing) <= mm + 1e-6
        table[lesion] = np.bincount(pred[near][grown], minlength=shape[1])
    return table


# ------------------------------------------------------------------------------------------- the rules
@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching:
    """How lesions and blobs are paired: every choice that changes a count, in one place.

    >>> str(Matching(rule="iou", min_overlap=0.5))
    'iou >= 0.5, 26-connected'
    """

    rule: str = "any_overlap"
    """``any_overlap``: a shared voxel, many to many. ``iou``, ``dice``: that score >= min_overlap, many to many.
    ``one_to_one``: among pairs with IoU >= min_overlap (None: a shared voxel), as many disjoint pairs as possible,
    then the largest sum of IoU."""
    connectivity: int = 26
    min_overlap: float | None = None  #: in (0, 1]; needed by iou and dice, optional for one_to_one
    dilation_mm: float = 0.0  #: lesions grow by this distance before they are compared (never for mDSC's intersections)
    min_volume_mm3: float = 0.0
    """Smaller *lesions* are ignored: neither found nor missed; a blob that hits only such lesions is neither true nor
    false. Matching comes first, so an exact hit on a small lesion is never a false positive."""
    unmatched: str = "fp"  #: one_to_one: a blob that overlaps enough but lost its lesion to another is "fp" or "ignore"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"expected a rule of {', '.join(RULES)}; got {self.rule!r}; choose one of those")
        if self.connectivity not in (6, 18, 26):
            raise InputError(f"expected connectivity 6, 18 or 26; got {self.connectivity!r}; choose one of those")
        if self.unmatched not in ("fp", "ignore"):
            raise InputError(f"expected unmatched 'fp' or 'ignore'; got {self.unmatched!r}; choose one of those")
        if self.rule == "any_overlap" and self.min_overlap is not None:
            raise InputError(
                f"any_overlap expects no min_overlap; got {self.min_overlap}; use rule iou, dice or one_to_one"
            )
        if self.rule in ("iou", "dice") and self.min_overlap is None:
            raise InputError(f"rule {self.rule} expects a min_overlap in (0, 1]; got none; give one, for example 0.5")
        if self.min_overlap is not None and not 0 < self.min_overlap <= 1:
            raise InputError(f"expected min_overlap in (0, 1]; got {self.min_overlap}; give a fraction")
        for name in ("dilation_mm", "min_volume_mm3"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"expected {name} >= 0; got {getattr(self, name)}; 0 switches it off")

    def __str__(self) -> str:
        parts = [self.rule.replace("_", " ") + ("" if self.min_overlap is None else f" >= {self.min_overlap:g}")]
        parts[0] = parts[0].replace("one to one >=", "one to one, iou >=")
        parts.append(f"{self.connectivity}-connected")
        parts += [f"lesions dilated by {self.dilation_mm:g} mm"] if self.dilation_mm else []
        parts += [f"lesions < {self.min_volume_mm3:g} mm3 ignored"] if self.min_volume_mm3 else []
        parts += ["unmatched overlapping blobs ignored"] if self.unmatched == "ignore" else []
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sizes of all lesions and blobs, and the pairs that touch (share a voxel, after dilation where asked for)."""

    lesion_voxels: np.ndarray  #: (n_ref,)
    blob_voxels: np.ndarray  #: (n_pred,)
    voxel_mm3: float
    lesion: np.ndarray  #: (pairs,) index of the lesion, from 0
    blob: np.ndarray  #: (pairs,) index of the blob, from 0
    shared: np.ndarray  #: (pairs,) voxels shared, before dilation
    iou: np.ndarray  #: (pairs,) of the dilated lesion and the blob
    dice: np.ndarray  #: (pairs,) of the dilated lesion and the blob

    @property
    def lesion_mm3(self) -> np.ndarray:
        return _mm3(self.lesion_voxels, self.voxel_mm3)

    @property
    def blob_mm3(self) -> np.ndarray:
        return _mm3(self.blob_voxels, self.voxel_mm3)


def _mm3(voxels: np.ndarray, voxel_mm3: float) -> np.ndarray:
    # affines are stored in float32: rounding keeps 100 voxels of 0.9999999 mm³ at 100 mm³, on the right side of >=
    return np.round(voxels * voxel_mm3, 4)


def touching_pairs(
    ref_labels: np.ndarray, pred_labels: np.ndarray, *, spacing: Spacing, dilation_mm: float = 0.0
) -> Pairs:
    """Find the touching pairs of two label volumes (X, Y, Z), with overlap, IoU and Dice of each; spacing in mm.

    Volumes without labels give empty arrays. Raises InputError if the shapes differ or the spacing is not three
    positive lengths.

    >>> pairs = touching_pairs(np.array([[[1, 1, 0, 2]]]), np.array([[[0, 1, 1, 0]]]), spacing=(1, 1, 1))
    >>> pairs.lesion.tolist(), pairs.blob.tolist(), pairs.shared.tolist(), pairs.dice.tolist()
    ([0], [0], [1], [0.5])
    """
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"expected spacing as three lengths in mm above 0; got {spacing}; take it from the affine")
    table = contingency(ref_labels, pred_labels)
    compared = _dilated(ref_labels, pred_labels, table.shape, spacing, dilation_mm) if dilation_mm else table
    lesion, blob = np.nonzero(compared[1:, 1:])
    lesion_voxels, blob_voxels = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
    overlap = compared[1:, 1:][lesion, blob].astype(np.float64)
    both = compared.sum(axis=1)[1:][lesion] + blob_voxels[blob]
    return Pairs(
        lesion_voxels=lesion_voxels,
        blob_voxels=blob_voxels,
        voxel_mm3=float(np.prod(np.asarray(spacing, np.float64))),
        lesion=lesion,
        blob=blob,
        shared=table[1:, 1:][lesion, blob],
        iou=overlap / (both - overlap),
        dice=2 * overlap / both,
    )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a rule makes of :class:`Pairs`: one boolean per pair, lesion or blob, and the Dice of each lesion."""

    enough: np.ndarray  #: (pairs,) the pair overlaps enough
    matched: np.ndarray  #: (pairs,) the pair is a match
    small: np.ndarray  #: (n_ref,) lesion below min_volume_mm3: ignored
    found: np.ndarray  #: (n_ref,) true positive lesion
    missed: np.ndarray  #: (n_ref,) false negative lesion
    hit: np.ndarray  #: (n_pred,) true positive blob
    false: np.ndarray  #: (n_pred,) false positive blob
    ignored: np.ndarray  #: (n_pred,) blob that counts as neither
    dice: np.ndarray  #: (n_ref,) Dice of a lesion with the union of the blobs that touch it; 0 where none does


def decide(pairs: Pairs, matching: Matching, *, keep: np.ndarray | None = None) -> Verdict:
    """Apply a rule to touching pairs; ``keep`` (n_pred,) bool leaves out blobs, as if they had not been predicted.

    >>> pairs = touching_pairs(np.array([[[1, 1, 0, 2]]]), np.array([[[0, 1, 1, 0]]]), spacing=(1, 1, 1))
    >>> decide(pairs, Matching()).found.tolist(), decide(pairs, Matching(rule="dice", min_overlap=0.6)).false.tolist()
    ([True, False], [True])
    """
    n_ref, n_pred = len(pairs.lesion_voxels), len(pairs.blob_voxels)
    keep = np.ones(n_pred, bool) if keep is None else keep
    touching = keep[pairs.blob]
    score = pairs.dice if matching.rule == "dice" else pairs.iou
    enough = touching if matching.min_overlap is None else touching & (score >= matching.min_overlap)
    small = pairs.lesion_mm3 < matching.min_volume_mm3
    counts = ~small[pairs.lesion]
    # one to one: a small lesion, ignored anyway, must not take a blob away from a lesion that counts
    matched = _one_to_one(pairs, enough & counts) if matching.rule == "one_to_one" else enough
    found = _any(pairs.lesion, matched & counts, n_ref)
    hit = _any(pairs.blob, matched & counts, n_pred)
    excused = enough if matching.unmatched == "ignore" else enough & ~counts
    ignored = keep & ~hit & _any(pairs.blob, excused, n_pred)
    shared = np.bincount(pairs.lesion, pairs.shared * touching, minlength=n_ref)
    blobs = np.bincount(pairs.lesion, pairs.blob_voxels[pairs.blob] * touching, minlength=n_ref)
    return Verdict(
        enough=enough,
        matched=matched,
        small=small,
        found=found,
        missed=~found & ~small,
        hit=hit,
        false=keep & ~hit & ~ignored,
        ignored=ignored,
        dice=2 * shared / (pairs.lesion_voxels + blobs),
    )


def _any(index: np.ndarray, true: np.ndarray, n: int) -> np.ndarray:
    out = np.zeros(n, bool)
    out[index[true]] = True
    return out


def _one_to_one(pairs: Pairs, allowed: np.ndarray) -> np.ndarray:
    """Maximum number of disjoint pairs, then maximum sum of IoU (case 18 tells it from the sum alone)."""
    matched = np.zeros(len(allowed), bool)
    which = np.flatnonzero(allowed)
    if which.size == 0:
        return matched
    lesions, row = np.unique(pairs.lesion[which], return_inverse=True)
    blobs, column = np.unique(pairs.blob[which], return_inverse=True)
    weight = np.zeros((lesions.size, blobs.size))
    # one more pair is worth more than all the IoU there can be, whatever is given up for it
    weight[row, column] = min(weight.shape) + 1 + pairs.iou[which]
    chosen = np.zeros(weight.shape, bool)
    chosen[optimize.linear_sum_assignment(weight, maximize=True)] = True
    matched[which] = chosen[row, column]
    return matched


# ------------------------------------------------------------------------------------------ the counts
@dataclasses.dataclass(frozen=True, kw_only=True)
class LesionCounts:
    """Counts of one volume, or of several added with ``+``, and the rule that produced them.

    Two invariants: tp_ref + fn + ignored_ref = n_ref and tp_pred + fp + ignored_pred = n_pred. A ratio without a
    denominator is NaN, never 0 or 1 by convention.
    """

    tp_ref: int  #: lesions found
    tp_pred: int  #: blobs that hit a lesion: under a many-to-many rule another number than tp_ref
    fp: int  #: blobs that hit none
    fn: int  #: lesions missed
    dice_sum: float = 0.0  #: sum of the Dice of the found lesions, so that pooled mDSC weighs lesions, not volumes
    ignored_ref: int = 0
    ignored_pred: int = 0
    volumes: int = 1
    rule: str = "any_overlap"
    connectivity: int = 26
    min_overlap: float | None = None
    dilation_mm: float = 0.0
    min_volume_mm3: float = 0.0
    unmatched: str = "fp"
    spacing: Spacing | None = None  #: mm; None once volumes of different spacing were added

    @property
    def n_ref(self) -> int:
        return self.tp_ref + self.fn + self.ignored_ref

    @property
    def n_pred(self) -> int:
        return self.tp_pred + self.fp + self.ignored_pred

    @property
    def sensitivity(self) -> float:
        """tp_ref / (tp_ref + fn)."""
        return _ratio(self.tp_ref, self.tp_ref + self.fn)

    @property
    def precision(self) -> float:
        """tp_pred / (tp_pred + fp): the share of blobs that hit a lesion."""
        return _ratio(self.tp_pred, self.tp_pred + self.fp)

    @property
    def precision_paper(self) -> float:
        """tp_ref / (tp_ref + fp): lesions over lesions and blobs, as Table 1 of Huang et al. 2022 (263/(263 + 247))."""
        return _ratio(self.tp_ref, self.tp_ref + self.fp)

    @property
    def fp_per_volume(self) -> float:
        """False positives per volume ("per patient" in the paper divides by volumes: 247/103)."""
        return _ratio(self.fp, self.volumes)

    @property
    def mdsc(self) -> float:
        """Mean over found lesions of the Dice between lesion and union of the blobs that touch it (our reading)."""
        return _ratio(self.dice_sum, self.tp_ref)

    def __add__(self, other: LesionCounts) -> LesionCounts:
        if not isinstance(other, LesionCounts):
            return NotImplemented
        added = ("tp_ref", "tp_pred", "fp", "fn", "dice_sum", "ignored_ref", "ignored_pred", "volumes")
        new = {name: getattr(self, name) + getattr(other, name) for name in added}
        for name in (f.name for f in dataclasses.fields(Matching)):
            if getattr(self, name) != getattr(other, name):
                raise InputError(
                    f"expected counts of one matching rule; got {name} {getattr(self, name)} and "
                    f"{getattr(other, name)}; match all volumes in the same way before adding"
                )
        return dataclasses.replace(self, **new, spacing=self.spacing if self.spacing == other.spacing else None)

    def __radd__(self, other: int) -> LesionCounts:
        return self if other == 0 else NotImplemented  # lets sum() start from its 0


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")


def match_lesions(
    reference: np.ndarray,
    predicted: np.ndarray,
    *,
    spacing: Spacing = (1.0, 1.0, 1.0),
    rule: str = "any_overlap",
    connectivity: int = 26,
    min_overlap: float | None = None,
    dilation_mm: float = 0.0,
    min_volume_mm3: float = 0.0,
    unmatched: str = "fp",
) -> LesionCounts:
    """Count found and missed lesions and false blobs of one volume: two (X, Y, Z) masks → :class:`LesionCounts`.

    spacing: mm. The other arguments are the fields of :class:`Matching`. No lesion: sensitivity is NaN; no blob:
    precision is NaN. Raises InputError for shapes that differ, masks beyond 0/1 and rules that do not exist.

    >>> reference = np.zeros((8, 8, 8), bool); reference[1:4, 1:4, 1:4] = True
    >>> predicted = np.roll(reference, 1, axis=0); predicted[7, 7, 7] = True
    >>> counts = match_lesions(reference, predicted)
    >>> counts.tp_ref, counts.fp, counts.fn, round(counts.mdsc, 3)
    (1, 1, 0, 0.667)
    >>> match_lesions(reference, predicted, rule="iou", min_overlap=0.6).tp_ref
    0
    """
    matching = Matching(
        rule=rule,
        connectivity=connectivity,
        min_overlap=min_overlap,
        dilation_mm=dilation_mm,
        min_volume_mm3=min_volume_mm3,
        unmatched=unmatched,
    )
    pairs = compare(reference, predicted, matching, spacing=spacing)[0]
    return count(decide(pairs, matching), matching, spacing=tuple(float(s) for s in spacing))  # type: ignore[arg-type]


def compare(
    reference: np.ndarray, predicted: np.ndarray, matching: Matching, *, spacing: Spacing
) -> tuple[Pairs, np.ndarray, np.ndarray]:
    """Label two (X, Y, Z) masks as ``matching`` says: (touching pairs, lesion labels, blob labels).

    >>> compare(np.eye(3)[None], np.eye(3)[None], Matching(connectivity=6), spacing=(1, 1, 1))[0].iou.tolist()
    [1.0, 1.0, 1.0]
    """
    ref_labels, _ = label_lesions(reference, connectivity=matching.connectivity)
    pred_labels, _ = label_lesions(predicted, connectivity=matching.connectivity)
    pairs = touching_pairs(ref_labels, pred_labels, spacing=spacing, dilation_mm=matching.dilation_mm)
    return pairs, ref_labels, pred_labels


def count(verdict: Verdict, matching: Matching, *, spacing: Spacing | None = None) -> LesionCounts:
    """Add a verdict up to :class:`LesionCounts` of one volume; spacing in mm is recorded, not used.

    >>> pairs = compare(np.eye(3)[None], np.eye(3)[None], Matching(), spacing=(1, 1, 1))[0]
    >>> count(decide(pairs, Matching()), Matching()).tp_ref
    1
    """
    return LesionCounts(
        tp_ref=int(verdict.found.sum()),
        tp_pred=int(verdict.hit.sum()),
        fp=int(verdict.false.sum()),
        fn=int(verdict.missed.sum()),
        dice_sum=float(verdict.dice[verdict.found].sum()),
        ignored_ref=int(verdict.small.sum()),
        ignored_pred=int(verdict.ignored.sum()),
        spacing=spacing,
        **dataclasses.asdict(matching),
    )


def explain(
    reference: np.ndarray,
    predicted: np.ndarray,
    *,
    spacing: Spacing = (1.0, 1.0, 1.0),
    matching: Matching = Matching(),  # noqa: B008 (frozen)
) -> pd.DataFrame:
    """Answer "how was this matched?": one row per touching pair, missed lesion and blob that touches nothing.

    Two (X, Y, Z) masks → columns lesion, blob (numbers of :func:`label_lesions`, 0 = none), lesion_mm3, blob_mm3,
    overlap_mm3 (before dilation), iou, dice and the verdict in words. Two empty masks give a table without rows.

    >>> reference, predicted = np.zeros((2, 9, 1, 1), bool)
    >>> reference[[0, 1, 2, 8]] = True; predicted[[2, 5]] = True
    >>> explain(reference, predicted)[["lesion", "blob", "verdict"]].values.tolist()
    [[1, 1, 'match'], [2, 0, 'lesion missed'], [0, 2, 'blob hits nothing: false positive']]
    """
    pairs, _, _ = compare(reference, predicted, matching, spacing=spacing)
    verdict = decide(pairs, matching)
    rows: list[tuple[int, int, int, float, float, str]] = []
    for k, (i, j) in enumerate(zip(pairs.lesion, pairs.blob, strict=True)):
        if verdict.small[i]:
            words = "lesion below the minimum volume: ignored"
        elif verdict.matched[k]:
            words = "match"
        elif not verdict.enough[k]:
            words = "overlap below the threshold"
        else:
            words = "overlaps enough, but another pair was chosen"
        rows.append((i + 1, j + 1, pairs.shared[k], pairs.iou[k], pairs.dice[k], words + _blob_fate(verdict, j)))
    for i in np.setdiff1d(np.arange(len(pairs.lesion_voxels)), pairs.lesion):
        words = "lesion below the minimum volume: ignored" if verdict.small[i] else "lesion missed"
        rows.append((i + 1, 0, 0, 0.0, 0.0, words))
    for j in np.setdiff1d(np.arange(len(pairs.blob_voxels)), pairs.blob):
        rows.append((0, j + 1, 0, 0.0, 0.0, "blob hits nothing: false positive"))
    table = pd.DataFrame(rows, columns=["lesion", "blob", "overlap_mm3", "iou", "dice", "verdict"])
    volumes = [np.concatenate([[0.0], mm3]) for mm3 in (pairs.lesion_mm3, pairs.blob_mm3)]
    table.insert(2, "lesion_mm3", volumes[0][table["lesion"].to_numpy(int)])
    table.insert(3, "blob_mm3", volumes[1][table["blob"].to_numpy(int)])
    table["overlap_mm3"] = _mm3(table["overlap_mm3"].to_numpy(float), pairs.voxel_mm3)
    return table


def _blob_fate(verdict: Verdict, blob: int) -> str:
    return "; blob is a false positive" if verdict.false[blob] else "; blob ignored" if verdict.ignored[blob] else ""
