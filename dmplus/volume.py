"""One subject-visit: the :class:`Case`, its z-score, NIfTI in and out, and the cohort folder.

Axes of a :class:`Case` are always (X, Y, Z) in RAS+ order (x to the patient's right, y to the front, z to the top);
sizes are in voxels or in mm, and say which. Files may have any orientation: :class:`~dmplus.grid.Grid` takes them to
the canonical 1 mm grid and back.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from dmplus.grid import Grid
from dmplus.runtime import InputError, named, replacing

__all__ = [
    "BRAIN_LITRES", "Case", "CaseFiles", "Grid", "brain_mask", "occupied", "read_cohort", "read_image", "read_label", "read_map",
    "read_mask", "read_result", "write_case", "write_cohort", "write_nifti", "zscore",
]  # fmt: skip

#: No stripped brain is larger (litres, holes filled). Adult brains with their fluid reach 2.0, heads start at 3.
BRAIN_LITRES = 2.2
#: A smaller mask (mm³) is a slip, not a brain: z-scores need some tissue.
BRAIN_MM3 = 1000
#: A piece of the brain of at least so many mm³ in which an earlier scan is exactly 0 was not scanned then.
UNCOVERED_MM3 = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One visit of one patient on one grid. All arrays are (X, Y, Z).

    An absent prior is ``None`` here; networks receive a volume of zeros in its place, the value that everything
    outside the brain has after :meth:`normalised`.
    """

    name: str
    image: np.ndarray  #: float32 (X, Y, Z), contrast-enhanced T1 of this visit
    mask: np.ndarray  #: bool (X, Y, Z), brain
    prior: np.ndarray | None = None  #: float32 (X, Y, Z), an earlier visit on the same grid, or None
    label: np.ndarray | None = None  #: uint8 (X, Y, Z) 0/1, reference metastases, or None
    affine: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))  #: voxel index → scanner mm (RAS+)
    patient: str = ""
    visit: int = 0

    def __post_init__(self) -> None:
        for field in ("mask", "prior", "label"):
            array = getattr(self, field)
            if array is not None and array.shape != self.image.shape:
                raise InputError(
                    f"case {self.name}: expected {field} of the image's shape {self.image.shape}; got {array.shape}; "
                    "resample it to the image's grid"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image.shape  # type: ignore[return-value]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]

    @property
    def covered(self) -> np.ndarray:
        """Where in the brain the prior has data: bool (X, Y, Z). All of the mask, but its regions of exactly 0 of at least
        :data:`UNCOVERED_MM3`, which resampling a smaller field of view leaves, and not the rim, thinner than 5 voxels, that
        misregistration leaves. Nowhere without a prior."""
        if self.prior is None:
            return np.zeros_like(self.mask)
        empty = self.mask & (self.prior == 0)
        voxel_mm3 = float(np.prod(self.spacing))
        deep = ndimage.minimum_filter(empty, 5)
        if not deep.any():
            return self.mask
        regions, _ = ndimage.label(empty)
        large = (np.bincount(regions.ravel()) * voxel_mm3 >= UNCOVERED_MM3) & (np.bincount(regions.ravel(), deep.ravel()) > 0)
        return self.mask & ~large[regions]

    def normalised(self) -> Case:
        """The same case with image and prior z-scored inside the mask and 0 outside (:func:`zscore`); the prior where it has
        data (:attr:`covered`). One without any, the paper's "empty prior volume" (II.C), is none."""
        covered = self.covered
        prior = zscore(self.prior, covered) if self.prior is not None and covered.any() else None
        return dataclasses.replace(self, image=zscore(self.image, self.mask), prior=prior)

    def trimmed(self) -> Case:
        """The same case on the smallest grid that holds its brain and its label; an empty one stays as it is."""
        inside = self.mask if self.label is None else self.mask | (self.label > 0)
        if not inside.any():
            return self
        box = occupied(inside)
        cut = tuple(slice(a, b) for a, b in box)
        arrays = {k: getattr(self, k) for k in ("image", "mask", "prior", "label")}
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ box[:, 0]
        return dataclasses.replace(
            self, affine=affine, **{k: None if v is None else np.ascontiguousarray(v[cut]) for k, v in arrays.items()}
        )


def occupied(inside: np.ndarray) -> np.ndarray:
    """First and last + 1 voxel of ``inside`` (X, Y, Z) along each axis: (3, 2) int; of one corner where there is none."""
    found = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return np.array([[f[0], f[-1] + 1] if len(f) else [0, 1] for f in found])


def zscore(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Zero mean and unit standard deviation inside ``mask``, exactly 0 outside; (X, Y, Z) → float32 (X, Y, Z).

    Bright outliers (vessels, lesions) are part of the statistics, as in the paper's preparation. An empty mask is an
    error; a constant image gives 0 everywhere.
    """
    if image.shape != mask.shape:
        raise InputError(f"zscore: expected a mask of shape {image.shape}; got {mask.shape}; resample it to the image")
    inside = image[mask.astype(bool)].astype(np.float64)
    if inside.size == 0:
        raise InputError("zscore: expected a mask with at least one voxel; got an empty one; check the brain mask")
    mean, std = inside.mean(), inside.std()
    out = np.zeros(image.shape, np.float32)
    if std > 0:
        out[mask.astype(bool)] = ((inside - mean) / std).astype(np.float32)
    return out


# ------------------------------------------------------------------------------------------------- NIfTI in and out
def _load(path: str | Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Values as float32 with the header's scaling, three-dimensional and finite, and the affine.

    Raises ``InputError`` for everything else, also for a compressed file whose checksum or length is not the stored one.
    """
    path = Path(path)
    if not path.is_file():
        came = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{what} {named(path)}: expected a NIfTI file (.nii or .nii.gz); got {came}; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
            if not isinstance(image, nibabel.Nifti1Pair):
                raise nibabel.filebasedimages.ImageFileError(f"a {type(image).__name__}")
            if image.get_data_dtype().kind not in "iufb":
                raise InputError(
                    f"{what} {path.name}: expected one number a voxel; got voxels of type "
                    f"{image.get_data_dtype()}; export a grey-value volume"
                )
            shape = image.shape
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            if len(shape) != 3:
                raise InputError(
                    f"{what} {path.name}: expected one three-dimensional volume; got {len(image.shape)} axes "
                    f"{image.shape}; extract the volume you mean"
                )
            if min(shape) < 2:
                raise InputError(
                    f"{what} {path.name}: expected at least two voxels along every axis; got {shape}, a single slice; "
                    "pass the whole volume"
                )
            if path.suffix.lower() == ".gz":  # nibabel stops before the checksum at the end of the file
                with gzip.open(path) as stream:
                    while stream.read(1 << 20):
                        pass
            array = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    except (nibabel.spatialimages.HeaderDataError, MemoryError, OverflowError):
        raise InputError(
            f"{what} {path.name}: expected a whole NIfTI file; got a header that cannot be read; copy or convert it again"
        ) from None
    except nibabel.filebasedimages.ImageFileError:
        raise InputError(
            f"{what} {path.name}: expected a NIfTI file (.nii or .nii.gz); got something else; "
            "convert it, for example with dcm2niix"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, PermissionError):
            raise InputError(
                f"{what} {path.name}: expected a readable file; got no permission; change its permissions"
            ) from None
        raise InputError(
            f"{what} {path.name}: expected a whole NIfTI file; got a truncated or damaged one; copy it again"
        ) from None
    header = image.header
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise InputError(
            f"{what} {path.name}: expected a position in the scanner's frame; got sform_code and qform_code 0; "
            "convert the scan again with its orientation"
        )
    if image.dataobj.inter and image.get_data_dtype().kind in "iu":
        # integers with an intercept may have no number for 0: "no data" reads as the nearest one they have
        array[np.abs(array) <= 0.501 * abs(image.dataobj.slope)] = 0
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise InputError(
            f"{what} {path.name}: expected finite values; got {bad} voxels that are NaN or infinite; "
            "replace them, 0 outside the brain"
        )
    return array, np.asarray(image.affine, np.float64)


def read_image(path: str | Path, *, what: str = "image") -> tuple[np.ndarray, np.ndarray]:
    """Read a scan: float32 (X, Y, Z) as stored (scaling applied) and its affine (4, 4), voxel index → scanner mm.

    Trailing axes of length 1 are dropped. Raises ``InputError`` (one line, with ``what`` and the file's name) when the
    file is missing, truncated, damaged, no NIfTI, has not three axes, no or a singular affine, voxel edges outside 0.5–2 mm,
    NaN or infinite values, or is all zero or constant.
    """
    array, affine = _load(path, what)
    try:
        Grid(array.shape, affine)
    except InputError as error:
        raise InputError(f"{what} {Path(path).name}: {error}") from None
    low, high = float(array.min()), float(array.max())
    if low == high:
        came = "only zeros" if low == 0 else f"the constant {low:g}"
        leave_out = ", or leave it out if there was no earlier scan" if what == "prior" else ""
        raise InputError(
            f"{what} {Path(path).name}: expected a scan with contrast; got {came}; check the export of this volume{leave_out}"
        )
    return array, affine


def read_map(path: str | Path, *, what: str = "map") -> np.ndarray:
    """Read a map of small whole numbers (lesions' numbers, look-alikes): uint8 (X, Y, Z), all zero where there is nothing.

    Raises ``InputError`` as :func:`read_image` does, and for values that are not whole numbers from 0 to 255.
    """
    array, _ = _load(path, what)
    with np.errstate(invalid="ignore"):  # what does not fit is refused below
        whole = array.astype(np.uint8)
    if not np.array_equal(whole, array):
        raise InputError(
            f"{what} {Path(path).name}: expected whole numbers from 0 to 255; got values from {array.min():g} to "
            f"{array.max():g}; check the export of this map"
        )
    return whole


def check_frame(path: str | Path, shape: tuple[int, ...], affine: np.ndarray, *, like: Grid, what: str) -> None:
    """Raise ``InputError`` unless ``shape`` and ``affine`` (of ``path``) are the grid ``like``, within 0.05 mm."""
    name = f"{what} {Path(path).name}"
    if tuple(shape) != tuple(like.shape):
        raise InputError(
            f"{name}: expected the scan's shape {tuple(like.shape)}; got {tuple(shape)}; "
            f"register and resample the {what} to the scan's grid"
        )
    if not like.same_frame(shape, affine):
        raise InputError(
            f"{name}: expected the scan's frame (equal affine, corners within 0.05 mm); got corners up to "
            f"{like.apart_mm(affine):.1f} mm apart; register and resample the {what} to the scan's grid"
        )


def read_result(path: str | Path, *, like: Grid, what: str = "result") -> np.ndarray:
    """Read a map that was made of a scan: float32 (X, Y, Z) on the grid ``like``, any finite values, all alike will do.

    Raises ``InputError`` as :func:`read_image` does for files, and for another grid.
    """
    array, affine = _load(path, what)
    check_frame(path, array.shape, affine, like=like, what=what)
    return array


def _binary(path: str | Path, like: Grid, what: str) -> np.ndarray:
    array = read_result(path, like=like, what=what)
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise InputError(
            f"{what} {Path(path).name}: expected only the values 0 and 1; got {wrong.size} other voxels, the first "
            f"{wrong[0]:g}; binarise the {what}"
        )
    return array != 0


def read_mask(path: str | Path, *, like: Grid, what: str = "mask") -> np.ndarray:
    """Read a brain mask: bool (X, Y, Z) on the grid ``like``.

    Holes are filled: what strippers leave out inside a brain may be a lesion. Raises ``InputError`` as :func:`read_image`,
    and for another shape or frame, values beyond 0 and 1, an empty mask, and one larger than any brain (``BRAIN_LITRES``).
    """
    mask = _binary(path, like, what)
    if not mask.any():
        raise InputError(
            f"{what} {Path(path).name}: expected a mask with at least one voxel of 1; got an empty one; "
            "check the skull stripping"
        )
    litres = np.count_nonzero(mask) * like.voxel_mm3 / 1e6
    if litres > BRAIN_LITRES:
        raise InputError(
            f"{what} {Path(path).name}: expected a brain mask of at most {BRAIN_LITRES} litres; got {litres:.1f}; "
            "make it with a skull stripper such as HD-BET or SynthStrip"
        )
    return ndimage.binary_fill_holes(mask)


def read_label(path: str | Path, *, like: Grid, what: str = "label") -> np.ndarray:
    """Read reference lesions: uint8 0/1 (X, Y, Z) on the grid ``like``; no lesion at all is fine.

    Raises ``InputError`` as :func:`read_mask`, but accepts an empty volume.
    """
    return _binary(path, like, what).astype(np.uint8)


def write_nifti(
    path: str | Path, array: np.ndarray, *, affine: np.ndarray | None = None, like: str | Path | None = None
) -> None:
    """Write ``array`` (X, Y, Z) with its own number type, whole or not at all; equal content gives equal bytes.

    Position comes from ``like`` (a NIfTI file whose sform, qform, their codes and units are copied bit by bit) or from
    ``affine``. bool is stored as uint8; ``.gz`` is compressed at level 1.
    """
    array = array.astype(np.uint8) if array.dtype == bool else array
    if like is not None:
        source = nibabel.load(like)
        header = source.header.__class__()
        for field in ("sform_code", "qform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d",
                      "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):  # fmt: skip
            header[field] = source.header[field]
        header.set_data_shape(array.shape)
        header["pixdim"][:4] = source.header["pixdim"][:4]
        header.set_data_dtype(array.dtype)
        kind = nibabel.Nifti2Image if isinstance(source.header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        image = kind(array, None, header)
    elif affine is not None:
        image = nibabel.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
    else:
        raise InputError("write_nifti: expected an affine or a file to be like; got neither; pass one")
    with replacing(path) as part:
        nibabel.save(image, part)


# -------------------------------------------------------------------------------------------------- the brain's mask
def brain_mask(image: np.ndarray, *, spacing: tuple[float, float, float], name: str = "scan") -> np.ndarray:
    """The brain of a skull-stripped scan: bool (X, Y, Z), the largest non-zero region with its holes filled.

    A stripped scan is recognised by its background: exactly 0, in one piece of at least 1 % of the volume, with nothing
    else in it, around a region no larger than a brain and without the dark shell (bone) below a bright one (scalp)
    that a head has. Everything else raises ``InputError``: stripping is the work of other programs.
    """
    remedy = "strip the skull first, for example with HD-BET or SynthStrip, or pass the brain mask with --mask"
    block = np.ones((3, 3, 3), bool)

    # Noisy air has single zeros after rounding to integers: opening by 3 x 3 x 3 voxels leaves none of them.
    def solid(value: float) -> np.ndarray:
        return ndimage.binary_opening(np.pad(image == value, 1, constant_values=True), block)[1:-1, 1:-1, 1:-1]

    background = solid(0)
    if background.mean() < 0.01:
        came, corner = "no such background", float(image[0, 0, 0])
        if (share := float(solid(corner).mean())) > 0.2:  # stripped, but its background is another number
            came, remedy = f"{corner:g} in {share:.0%} of it", "set that to 0, or pass the brain mask with --mask"
        raise InputError(f"{name}: expected a skull-stripped scan, exactly 0 outside the brain; got {came}; {remedy}")
    regions, n = ndimage.label(~background & (image != 0), block)
    sizes = np.bincount(regions.ravel(), minlength=2)[1:]
    brain = ndimage.binary_fill_holes(regions == np.argmax(sizes) + 1)
    if sizes.sum() - sizes.max() > 0.05 * sizes.max():
        raise InputError(
            f"{name}: expected a skull-stripped scan, one brain and 0 around it; got {n} separate regions; {remedy}"
        )
    litres = np.count_nonzero(brain) * float(np.prod(spacing)) / 1e6
    if litres > BRAIN_LITRES:
        raise InputError(
            f"{name}: expected a brain of at most {BRAIN_LITRES} litres; got {litres:.1f}, a head with skull; {remedy}"
        )
    if _has_skull(image, brain, spacing):
        raise InputError(
            f"{name}: expected a skull-stripped scan; got a dark shell below a bright one, a head with skull; {remedy}"
        )
    return brain


def _has_skull(image: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float]) -> bool:
    """Whether intensity falls into a trough on the way from the surface inwards, as bone below scalp does."""
    coarse = tuple(max(1, round(2 / s)) for s in spacing)  # 2 mm are enough for a shell of several mm
    every = tuple(slice(None, None, c) for c in coarse)
    small, inside = image[every], brain[every]
    # Cropped faces are no surface: only the background that lies inside the volume counts.
    depth = ndimage.distance_transform_edt(inside, sampling=[c * s for c, s in zip(coarse, spacing, strict=True)])
    core = small[inside & (depth > 25)]
    if core.size < 500:
        return False
    level = float(np.median(core))
    shells = [small[inside & (depth > d) & (depth <= d + 2)] for d in range(0, 20, 2)]
    profile = [float(np.median(s)) / level if s.size > 50 else np.nan for s in shells]
    for trough in range(1, len(profile)):
        outside, below = np.nanmax(profile[:trough]), profile[trough]
        if below < 0.4 and outside > 2 * below and outside > 0.5:
            return True
    return False


# ----------------------------------------------------------------------------------------------------- cohort folders
COLUMNS = ("name", "patient", "visit", "days", "split", "image", "prior", "label", "mask")


@dataclasses.dataclass(frozen=True)
class CaseFiles:
    """One row of a cohort's ``cases.csv``: the files of one visit. ``days`` counts from the patient's first visit."""

    name: str
    patient: str
    visit: int
    days: int
    split: str
    image: Path
    prior: Path | None = None
    label: Path | None = None
    mask: Path | None = None

    def load(self) -> Case:
        """Read everything and bring it to the canonical 1 mm grid; raises ``InputError``, which names the case, if frames
        differ."""
        try:
            return read_case(
                self.image, prior=self.prior, mask=self.mask, label=self.label, name=self.name, patient=self.patient,
                visit=self.visit,
            )[0]  # fmt: skip
        except InputError as error:
            raise InputError(f"case {self.name}: {error}") from None


def read_case(
    image: str | Path,
    *,
    prior: str | Path | None = None,
    mask: str | Path | None = None,
    label: str | Path | None = None,
    name: str | None = None,
    patient: str = "",
    visit: int = 0,
) -> tuple[Case, Grid]:
    """Read the files of one visit into a :class:`Case` on the canonical 1 mm grid, and the native :class:`Grid`.

    Prior, mask and label must lie on the image's grid (``InputError`` otherwise). Without a mask the scan must be
    skull-stripped (:func:`brain_mask`). Raises ``InputError`` for a brain below ``BRAIN_MM3`` and for one without contrast,
    for a prior that is mostly one number other than 0, and for a label with a lesion wholly outside the brain or that is
    most of it, too. A label keeps every lesion, however small (26-connected components).
    """
    path = Path(image)
    array, affine = read_image(path)
    grid = Grid(array.shape, affine)
    before = lesions = None
    if prior is not None:
        before, prior_affine = read_image(prior, what="prior")
        check_frame(prior, before.shape, prior_affine, like=grid, what="prior")
        if np.array_equal(before, array):
            raise InputError(
                f"prior {Path(prior).name}: expected an earlier scan; got the values of {path.name} itself; pass the visit "
                "before"
            )
    if label is not None:
        reference = read_label(label, like=grid)
        components, _ = ndimage.label(reference, np.ones((3, 3, 3)))
        lesions = (grid.to_canonical(components, kind="labels") > 0).astype(np.uint8)
    if mask is not None:
        inside = read_mask(mask, like=grid)
    else:
        inside = brain_mask(array, spacing=grid.spacing, name=f"image {path.name}")
    if label is not None:
        n = int(components.max())
        lost = np.flatnonzero(np.bincount(components[inside], minlength=n + 1)[1:] == 0) + 1
        if len(lost):
            at = np.argwhere(components == lost[0]).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
            raise InputError(
                f"label {Path(label).name}: expected lesions in the brain; got {len(lost)} of {n} wholly outside the "
                f"{'mask' if mask is not None else 'stripped brain'}, the first at ({', '.join(f'{v:.0f}' for v in at)}) mm; "
                "correct the label or the mask"
            )
        share = np.count_nonzero(reference) / np.count_nonzero(inside)
        if share > 0.5:
            raise InputError(
                f"label {Path(label).name}: expected lesions; got {share:.0%} of the brain's volume; check the columns label and "
                "mask"
            )
    small = grid.to_canonical(inside, kind="mask")
    if np.count_nonzero(small) < BRAIN_MM3:
        of, remedy = (f"mask {Path(mask).name}", "the mask") if mask is not None else (f"image {path.name}", "the scan")
        raise InputError(
            f"{of}: expected a brain of at least {BRAIN_MM3} mm3; got {np.count_nonzero(inside)} voxels, "
            f"{np.count_nonzero(inside) * grid.voxel_mm3:.3g} mm3; check {remedy}"
        )
    where, remedy = "brain", "check the export of this volume"
    if mask is not None:
        where, remedy = "mask", "check that mask and scan belong together"
    for what, file, values in (("image", path, array), ("prior", prior, before)):
        if values is not None and np.ptp(values[inside]) == 0:
            raise InputError(
                f"{what} {Path(file).name}: expected contrast inside the {where}; got a constant; {remedy}"  # type: ignore[arg-type]
            )
    if before is not None:
        values, counts = np.unique(before[inside], return_counts=True)
        common, share = float(values[counts.argmax()]), counts.max() / counts.sum()
        if common != 0 and share > 0.2:
            raise InputError(
                f"prior {Path(prior).name}: expected 0 where it has no data; got {common:g} in {share:.0%} of the brain; "  # type: ignore[arg-type]
                "set that to 0"
            )
    case = Case(
        name=name or base_name(path),
        image=grid.to_canonical(array, inside=inside),
        mask=small,
        prior=None if before is None else grid.to_canonical(before, inside=inside),
        label=lesions,
        affine=grid.canonical.affine,
        patient=patient,
        visit=visit,
    )
    return case, grid


def base_name(path: str | Path) -> str:
    """The file's name without folder and without ``.nii`` or ``.nii.gz``."""
    name = Path(path).name
    return name.removesuffix(".gz").removesuffix(".nii")


def read_cohort(folder: str | Path, *, split: str | None = None) -> list[CaseFiles]:
    """The cases of a cohort folder in the order of its ``cases.csv``, of one ``split`` or of all.

    Paths in the table are relative to the folder; empty means absent. Raises ``InputError`` for a missing or malformed
    table, a listed file that is not there, a name listed twice, and a split without cases.
    """
    folder = Path(folder)
    table = folder / "cases.csv"
    if not table.is_file():
        raise InputError(
            f"cohort {named(folder)}: expected a folder with cases.csv; got none; make one with `dmplus synth`"
        )
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:  # with the mark that spreadsheets put before it
            head = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, restkey="", delimiter=max(",;\t", key=head.count))
            rows, columns = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error):
        raise InputError(
            f"cohort {named(folder)}: expected cases.csv as UTF-8 text; got other bytes; save it again"
        ) from None
    if missing := [c for c in COLUMNS if c not in columns]:
        raise InputError(
            f"cohort {named(folder)}: expected the columns {','.join(COLUMNS)} in cases.csv; got {','.join(columns)}, without "
            f"{','.join(missing)}; rename or add them"
        )
    cells = [{c: (row[c] or "").strip() for c in COLUMNS} for row in rows]
    cases = [_row(folder, row) for row in cells if any(row.values())]
    names = [c.name for c in cases]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"cohort {named(folder)}: expected each name once in cases.csv; got {twice[0]} twice; rename")
    _check_cohort(named(folder), cases)
    chosen = [c for c in cases if split is None or c.split == split]
    if not chosen:
        splits = ", ".join(sorted({c.split for c in cases if c.split})) or "none"
        raise InputError(
            f"cohort {named(folder)}: expected cases{f' of split {split}' if split else ''}; got none "
            f"(splits: {splits}); choose another split"
        )
    return chosen


SPLITS = ("train", "validation", "test", "")  #: of a cohort's visits; the last: not used


def _check_cohort(name: str, cases: Sequence[CaseFiles]) -> None:
    """Raise ``InputError`` for what would make a comparison worthless: a patient in two splits, an image listed twice, a prior
    that is not an earlier visit of the same patient."""
    of_image: dict[Path, CaseFiles] = {}
    splits: dict[str, CaseFiles] = {}
    for case in cases:
        if case.split not in SPLITS:
            raise InputError(
                f"cohort {name}: expected split train, validation, test or nothing; got {case.split!r} for {case.name}; "
                "correct cases.csv"
            )
        first = splits.setdefault(case.patient or case.name, case)
        if first.split != case.split:
            raise InputError(
                f"cohort {name}: expected all visits of a patient in one split; got {first.name} in {first.split or 'none'} and "
                f"{case.name} in {case.split or 'none'}; correct cases.csv"
            )
        twin = of_image.setdefault(case.image.resolve(), case)
        if twin is not case:
            raise InputError(
                f"cohort {name}: expected an image of its own for each case; got one file for {twin.name} and {case.name}; "
                "correct cases.csv"
            )
    for case in cases:
        before = of_image.get(case.prior.resolve()) if case.prior else None
        if not before:
            continue
        later = before.days >= case.days and before.days + case.days > 0  # where all days are 0, they are not known
        if before is case or before.patient != case.patient or later:
            raise InputError(
                f"cohort {name}: expected as prior of {case.name} an earlier visit of its patient; got the image of "
                f"{before.name} (patient {before.patient or 'unknown'}, day {before.days}); correct cases.csv"
            )


def _row(folder: Path, row: dict[str, str]) -> CaseFiles:
    name = row["name"] or "(without a name)"
    try:
        visit, days = int(row["visit"]), int(row["days"])
    except (TypeError, ValueError):
        raise InputError(
            f"cohort {named(folder)}: expected whole numbers for visit and days of {name}; got {row['visit']!r} and "
            f"{row['days']!r}; correct cases.csv"
        ) from None
    paths = {k: folder / row[k] if row[k] else None for k in ("image", "prior", "label", "mask")}
    missing = [p for p in paths.values() if p is not None and not p.is_file()]
    if missing or paths["image"] is None or not row["name"]:
        came = missing[0].name if missing else "an empty cell"
        raise InputError(
            f"cohort {named(folder)}: expected the files of {name}; got none for {came}; make the cohort again or "
            "correct cases.csv"
        )
    return CaseFiles(row["name"], row["patient"], visit, days, row["split"], **paths)  # type: ignore[arg-type]


def write_cohort(folder: str | Path, cases: Sequence[CaseFiles]) -> None:
    """Write ``cases.csv`` for files that lie inside ``folder``, whole or not at all."""
    folder = Path(folder)
    with replacing(folder / "cases.csv") as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in cases:
            writer.writerow([_cell(getattr(case, column), folder) for column in COLUMNS])


def _cell(value: object, folder: Path) -> object:
    if isinstance(value, Path):
        return Path(os.path.relpath(value, folder)).as_posix()
    return "" if value is None else value


def write_case(folder: str | Path, case: Case, *, split: str = "", days: int = 0, dtype: str = "int16") -> CaseFiles:
    """Write the volumes of ``case`` into ``folder`` as ``<name>_<what>.nii.gz``; returns their row for ``cases.csv``.

    dtype: "int16" stores image and prior as integers with one factor per volume (scl_slope; error at most half of
    1/32767 of the brightest value; exact 0 stays exact 0), "float32" stores them as they are. Equal cases, equal bytes.
    """
    if dtype not in ("int16", "float32"):
        raise InputError(f"write_case: expected dtype int16 or float32; got {dtype!r}; choose one of those")
    folder = Path(folder)
    files: dict[str, Path | None] = {}
    for what in ("image", "prior", "label", "mask"):
        array = getattr(case, what)
        files[what] = None if array is None else folder / f"{case.name}_{what}.nii.gz"
        if array is None:
            continue
        if what in ("image", "prior") and dtype == "int16":
            _write_scaled(files[what], array, case.affine)  # type: ignore[arg-type]
        else:
            kind = np.float32 if what in ("image", "prior") else np.uint8
            write_nifti(files[what], array.astype(kind), affine=case.affine)  # type: ignore[arg-type]
    return CaseFiles(case.name, case.patient, case.visit, days, split, **files)  # type: ignore[arg-type]


def _write_scaled(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"{path.name}: expected finite values to write; got NaN or infinity; correct the volume")
    slope = float(np.abs(array).max()) / 32767 or 1.0
    image = nibabel.Nifti1Image(np.rint(array / slope).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    # The stored integers are already scaled: nibabel shall write them as they are, with this slope.
    image.header.set_slope_inter(slope, 0)
    with replacing(path) as part:
        nibabel.save(image, part)
