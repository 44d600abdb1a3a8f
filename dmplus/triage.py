"""Two models, one list of lesions: confirmed or candidate, and what changed since the earlier scan.

Huang et al. 2022, section II.D: one network trained for high sensitivity (M_sens), one for high specificity (M_spec);
the segmentation is their union, M_spec's lesions have high confidence, the others are candidates for an expert.
A lesion is a 26-connected component of the union (probability >= 0.5 in either map). It is *confirmed* if it holds a
voxel with M_spec >= 0.5, else *candidate*. Section III.C takes for granted that M_sens sees whatever M_spec sees;
lesions seen by M_spec alone are counted here, and shown.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage, sparse

from dmplus.grid import Grid
from dmplus.metrics import BOUNDARY_MM3, STRATA, label_lesions
from dmplus.runtime import InputError, Machine
from dmplus.volume import Case

if TYPE_CHECKING:
    from dmplus.network import DeepMedic

THRESHOLD = 0.5  #: a voxel is inside at this probability or above (section II.D)
CANDIDATE, CONFIRMED = 1, 2  #: values of the tier map; 0 is background
GROWING = 1.25  #: volume ratio (now / earlier) from which a lesion is called growing
SHRINKING = 0.8  #: volume ratio up to which it is called shrinking; between the two it is stable
TOLERANCE_MM = 2.0  #: a lesion and an earlier one are the same if this close: registration leaves 1 to 2 mm

COLUMNS = (
    "lesion", "tier", "volume_mm3", "x_mm", "y_mm", "z_mm", "peak_probability", "peak_sens", "peak_spec", "stratum",
    "change", "prior_volume_mm3", "volume_ratio", "seen_by",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Triage:
    """The lesions of one scan, as maps and as a table. Maps are (X, Y, Z) on one grid."""

    union: np.ndarray  #: bool, the segmentation
    tiers: np.ndarray  #: uint8, 0 background, 1 candidate, 2 confirmed
    labels: np.ndarray  #: int32, the lesion's number, 0 background; 1 is the largest confirmed one
    lesions: pd.DataFrame  #: one row per lesion, see :func:`triage`
    gone: pd.DataFrame  #: lesions of the earlier scan that are no more: volume_mm3, x_mm, y_mm, z_mm
    prob_sens: np.ndarray  #: float32, probability of M_sens (of the only model, where there is one)
    prob_spec: np.ndarray | None  #: float32, probability of M_spec; None: one model, no tiers
    earlier: np.ndarray | None  #: int32, the earlier scan's lesions; None without one
    links: np.ndarray  #: (n, 2) pairs (lesion, earlier lesion) taken for the same
    affine: np.ndarray  #: (4, 4), voxel index → scanner mm

    @property
    def counts(self) -> dict[str, int]:
        """How many lesions of each tier, seen by M_spec alone, of each change, and gone."""
        tier, change = self.lesions["tier"], self.lesions["change"]
        return {
            "lesions": len(self.lesions),
            "confirmed": int((tier == "confirmed").sum()),
            "candidate": int((tier == "candidate").sum()),
            "seen_by_spec_alone": int((self.lesions["seen_by"] == "spec").sum()),
            **{name: int((change == name).sum()) for name in ("new", "growing", "stable", "shrinking", "unknown")},
            "gone": len(self.gone),
        }

    def check_grid(self, case: Case) -> None:
        """Raise ``InputError`` unless these are lesions on the grid of ``case``: else outlines lie beside what they outline."""
        if self.union.shape != case.shape or not np.allclose(self.affine, case.affine, atol=1e-3):
            raise InputError(
                f"case {case.name}: expected a triage on its own grid, {case.shape} voxels of 1 mm; got one on a grid of "
                f"{self.union.shape} with another affine; make it with triage_case(case, ...), predict() returns the file's grid"
            )

    def on_grid(self, grid: Grid) -> Triage:
        """The same lesions on the native ``grid`` whose canonical grid this is, with their volumes measured there.

        No lesion vanishes. Centres, peaks and change (earlier volume, ratio, class) stay as measured at 1 mm: they do
        not depend on how the scan was stored. Probabilities are interpolated linearly; the segmentation follows the
        lesions' numbers, not a new threshold.
        """
        labels = grid.from_canonical(self.labels, kind="labels")
        table = self.lesions.copy()
        table["volume_mm3"] = _volumes(labels, len(table), grid.voxel_mm3)
        table["stratum"] = _strata(table["volume_mm3"].to_numpy(float))
        tiers = np.concatenate([[0], np.where(table["tier"] == "confirmed", CONFIRMED, CANDIDATE)]).astype(np.uint8)
        return dataclasses.replace(
            self,
            union=labels > 0,
            tiers=tiers[labels],
            labels=labels,
            lesions=table,
            prob_sens=grid.from_canonical(self.prob_sens),
            prob_spec=None if self.prob_spec is None else grid.from_canonical(self.prob_spec),
            earlier=None if self.earlier is None else grid.from_canonical(self.earlier, kind="labels"),
            affine=grid.affine,
        )


def triage(
    prob_sens: np.ndarray,
    prob_spec: np.ndarray | None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    affine: np.ndarray | None = None,
    earlier: np.ndarray | None = None,
    covered: np.ndarray | None = None,
    threshold: float = THRESHOLD,
    connectivity: int = 26,
) -> Triage:
    """Sort the lesions of two probability maps (X, Y, Z) into confirmed and candidate; one table, one row per lesion.

    ``prob_spec=None``: one model, every lesion's tier is "untiered" (1 in the map). ``earlier``: bool (X, Y, Z), the
    union of the earlier scan by the same models, or None (change "unknown"). ``covered``: bool (X, Y, Z), where the earlier
    scan has data (None: everywhere); the change of a lesion that is not wholly there is "unknown". ``spacing``: mm, used
    without ``affine``.

    Columns: ``lesion`` number (confirmed first, then by size); ``tier``; ``volume_mm3``; ``x_mm, y_mm, z_mm`` centre of
    mass by the affine; ``peak_probability`` of either map, ``peak_sens``, ``peak_spec``; ``stratum`` below or from
    0.1 cm³; ``change`` new, growing (ratio >= 1.25), stable, shrinking (<= 0.8) or unknown; ``prior_volume_mm3`` (0 if
    new) and ``volume_ratio`` now / earlier; ``seen_by`` both, sens or spec. A lesion and an earlier one are the same
    within 2 mm; lesions that merged or split are compared as one group. No lesion: an empty table with these columns.

    Raises ``InputError`` for maps of different shapes, not three-dimensional, or not within 0 and 1.
    Source: Huang et al. 2022, sections II.D and III.C.
    """
    for what, array in (("prob_sens", prob_sens), ("prob_spec", prob_spec), ("earlier", earlier)):
        if array is None:
            continue
        if array.ndim != 3 or array.shape != prob_sens.shape:
            raise InputError(
                f"triage: expected {what} of shape (X, Y, Z) like prob_sens {prob_sens.shape}; got {array.shape}; "
                "pass maps of one grid"
            )
        if what != "earlier" and array.size and not (array.min() >= 0 and array.max() <= 1 + 1e-5):
            raise InputError(
                f"triage: expected probabilities from 0 to 1 in {what}; got {array.min():g} to {array.max():g}; "
                "pass foreground probabilities"
            )
    if affine is None:
        affine = np.diag([*spacing, 1.0])
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    in_sens = prob_sens >= threshold
    in_spec = np.zeros_like(in_sens) if prob_spec is None else prob_spec >= threshold
    labels, n = label_lesions(in_sens | in_spec, connectivity=connectivity)

    where = np.flatnonzero(labels)  # every voxel of a lesion, once; all below runs over these alone
    ids = labels.ravel()[where]
    voxels = np.bincount(ids, minlength=n + 1)[1:]
    by_sens = np.bincount(ids, in_sens.ravel()[where], minlength=n + 1)[1:] > 0
    by_spec = np.bincount(ids, in_spec.ravel()[where], minlength=n + 1)[1:] > 0
    centres = _centres(labels, n, affine)
    peak_sens = _peaks(prob_sens, where, ids, n)
    peak_spec = np.full(n, np.nan) if prob_spec is None else _peaks(prob_spec, where, ids, n)

    # Number 1 is the largest confirmed lesion; ties by position, so that storage order does not decide.
    order = np.lexsort((*np.round(centres, 3).T, -voxels, ~by_spec))
    renumber = np.zeros(n + 1, np.int32)
    renumber[order + 1] = np.arange(1, n + 1)
    labels = renumber[labels]
    confirmed = by_spec[order]
    tier = np.where(confirmed, "confirmed", "candidate") if prob_spec is not None else np.full(n, "untiered")
    table = pd.DataFrame(
        {
            "lesion": np.arange(1, n + 1),
            "tier": tier.astype(object),
            "volume_mm3": np.round(voxels[order] * voxel_mm3, 4),
            "x_mm": centres[order, 0],
            "y_mm": centres[order, 1],
            "z_mm": centres[order, 2],
            "peak_probability": np.fmax(peak_sens, peak_spec)[order],
            "peak_sens": peak_sens[order],
            "peak_spec": peak_spec[order],
            "seen_by": np.where(by_sens & by_spec, "both", np.where(by_spec, "spec", "sens")).astype(object)[order],
        }
    )
    before, links = None, np.zeros((0, 2), int)
    if earlier is not None:
        before, _ = label_lesions(earlier.astype(bool), connectivity=connectivity)
        links = _links(labels, before, np.linalg.norm(affine[:3, :3], axis=0))
    outside = np.zeros(n, bool) if covered is None else np.isin(np.arange(1, n + 1), labels[~covered])
    tiers = np.concatenate([[0], np.where(confirmed, CONFIRMED, CANDIDATE)]).astype(np.uint8)
    return Triage(
        union=labels > 0,
        tiers=tiers[labels],
        labels=labels,
        lesions=_changes(table, before, links, voxel_mm3, outside),
        gone=_gone(before, links, affine, voxel_mm3),
        prob_sens=prob_sens,
        prob_spec=prob_spec,
        earlier=before,
        links=links,
        affine=affine,
    )


def triage_case(
    case: Case,
    sens: DeepMedic,
    spec: DeepMedic | None,
    *,
    tiling: str = "aligned",
    machine: Machine | None = None,
    progress: bool = False,
) -> Triage:
    """Run both networks on a case (raw intensities, 1 mm canonical grid) and triage what they find.

    ``spec=None``: one model, no tiers. With a prior, the earlier scan is segmented by the same models (without a prior
    of its own) and lesions are compared with it. Outside the mask there is no lesion. ``tiling``: see
    :func:`dmplus.inference.predict_volume`.
    """
    from dmplus.inference import predict_volume

    normal, covered = case.normalised(), case.covered

    def probability(network: DeepMedic, image: np.ndarray, prior: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
        return predict_volume(network, image, prior=prior, mask=mask, tiling=tiling, machine=machine, progress=progress)

    networks = [sens] if spec is None or spec is sens else [sens, spec]
    maps = [probability(network, normal.image, normal.prior, case.mask) for network in networks]
    earlier = None
    if normal.prior is not None:
        earlier = np.zeros(case.shape, bool)
        for network in networks:
            earlier |= probability(network, normal.prior, None, covered) >= THRESHOLD
    return triage(
        maps[0], None if spec is None else maps[-1], affine=case.affine, earlier=earlier,
        covered=covered | ~case.mask,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- measuring
def _volumes(labels: np.ndarray, n: int, voxel_mm3: float) -> np.ndarray:
    """Volume of labels 1..n in mm³; rounded, since affines are stored in float32 and strata are read with >=."""
    return np.round(np.bincount(labels.ravel(), minlength=n + 1)[1:] * voxel_mm3, 4)


def _strata(volumes: np.ndarray) -> np.ndarray:
    return np.where(volumes < BOUNDARY_MM3, *STRATA).astype(object)


def _centres(labels: np.ndarray, n: int, affine: np.ndarray) -> np.ndarray:
    """Centre of mass of labels 1..n in mm: (n, 3)."""
    where = np.flatnonzero(labels)
    ids = labels.ravel()[where]
    voxels = np.maximum(np.bincount(ids, minlength=n + 1)[1:], 1)
    index = [np.bincount(ids, i, minlength=n + 1)[1:] / voxels for i in np.unravel_index(where, labels.shape)]
    return np.stack(index, axis=1) @ affine[:3, :3].T + affine[:3, 3]


def probability_words(p: float) -> str:
    """'0.62', but as many digits as tell it from 1: '0.996', '0.9996', '> 0.9999'. Above 0.99 never rounded up."""
    p = round(float(p), 6)  # a float32 of 0.9996 is a little less
    if p <= 0.99:
        return f"{p:.2f}"
    if p > 0.9999:
        return "> 0.9999"
    digits = 4 if p > 0.999 else 3
    return f"{math.floor(p * 10**digits + 1e-6) / 10**digits:.{digits}f}"


def _peaks(prob: np.ndarray, where: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    peaks = np.zeros(n + 1)
    np.maximum.at(peaks, ids, prob.ravel()[where])
    return peaks[1:]


# ------------------------------------------------------------------------------------------- change since the prior
def _links(labels: np.ndarray, earlier: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Pairs (lesion, earlier lesion) with voxels within ``TOLERANCE_MM`` of each other: (n, 2)."""
    reach = np.ceil(TOLERANCE_MM / spacing).astype(int)
    pairs = []
    for lesion, box in enumerate(ndimage.find_objects(labels), 1):
        near = tuple(slice(max(b.start - r, 0), b.stop + r) for b, r in zip(box, reach, strict=True))
        if not earlier[near].any():
            continue
        distance = ndimage.distance_transform_edt(labels[near] != lesion, sampling=spacing)
        met = np.unique(earlier[near][distance <= TOLERANCE_MM + 1e-6])
        pairs += [(lesion, int(e)) for e in met if e]
    return np.array(pairs, int).reshape(-1, 2)


def _changes(
    table: pd.DataFrame, earlier: np.ndarray | None, links: np.ndarray, voxel_mm3: float, outside: np.ndarray
) -> pd.DataFrame:
    """The table with stratum, change, earlier volume and ratio from its ``volume_mm3``, columns in their order.

    outside: bool (n,), lesions that the earlier scan does not cover: their change is unknown.
    """
    table = table.copy()
    n = len(table)
    volumes = table["volume_mm3"].to_numpy(float)
    table["stratum"] = _strata(volumes)
    change, prior, ratio = np.full(n, "unknown", object), np.full(n, np.nan), np.full(n, np.nan)
    if earlier is not None:
        m = int(earlier.max(initial=0))
        before = _volumes(earlier, m, voxel_mm3)
        graph = sparse.coo_array((np.ones(len(links)), (links[:, 0] - 1, n + links[:, 1] - 1)), (n + m, n + m))
        _, group = sparse.csgraph.connected_components(graph, directed=False)
        group_now = np.bincount(group[:n], volumes, minlength=n + m)
        prior = np.bincount(group[n:], before, minlength=n + m)[group[:n]]
        known = prior > 0
        ratio[known] = np.round(group_now[group[:n]][known] / prior[known], 4)
        prior, ratio = np.where(outside, np.nan, prior), np.where(outside, np.nan, ratio)
        change = np.where(outside, "unknown", change_of(ratio))
    table["change"], table["prior_volume_mm3"], table["volume_ratio"] = change.astype(object), prior, ratio
    return table[list(COLUMNS)]


def change_of(ratio: np.ndarray | float) -> np.ndarray:
    """Volume ratios now / earlier (NaN: nothing earlier) → "new", "growing", "stable" or "shrinking", of their shape."""
    ratio = np.asarray(ratio, float)
    kinds = [np.isnan(ratio), ratio >= GROWING, ratio <= SHRINKING]
    return np.select(kinds, ["new", "growing", "shrinking"], "stable")


def _gone(earlier: np.ndarray | None, links: np.ndarray, affine: np.ndarray, voxel_mm3: float) -> pd.DataFrame:
    """The earlier lesions without a successor."""
    earlier = np.zeros((1, 1, 1), np.int32) if earlier is None else earlier
    n = int(earlier.max(initial=0))
    lost = np.setdiff1d(np.arange(n), links[:, 1] - 1)
    table = pd.DataFrame(_centres(earlier, n, affine)[lost], columns=["x_mm", "y_mm", "z_mm"])
    table.insert(0, "volume_mm3", _volumes(earlier, n, voxel_mm3)[lost])
    return table
