"""One subject-visit: the :class:`Case`, its z-score, and NIfTI in and out.

Axes are always (X, Y, Z) in RAS+ order (x to the patient's right, y to the front, z to the top); sizes are in voxels or
in mm, and say which.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dmplus.runtime import InputError


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

    def normalised(self) -> Case:
        """The same case with image and prior z-scored inside the mask and 0 outside (:func:`zscore`)."""
        prior = None if self.prior is None else zscore(self.prior, self.mask)
        return dataclasses.replace(self, image=zscore(self.image, self.mask), prior=prior)


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
