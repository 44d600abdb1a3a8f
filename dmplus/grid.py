"""A native voxel grid, and the way to the canonical 1 mm RAS+ grid and back.

The canonical grid keeps the scan's own axes: they are reordered and flipped so that they run to the patient's right,
front and top as closely as they can, and are rescaled to 1 mm. An oblique scan stays oblique (its affine says so), so
nothing is ever interpolated across axes, and an axis that already has 1 mm is only reordered: there and back is exact.
Both grids start at the same face of the field of view; half a native voxel is not half a canonical one.
"""

from __future__ import annotations

import dataclasses
import functools

import nibabel
import numpy as np
from scipy import ndimage

from dmplus.runtime import InputError

#: Accepted voxel edges in mm: 0.5 to 2, with room for the common 240/512 mm and for rounding.
SPACING_MM = (0.45, 2.1)
#: Largest accepted cosine between two voxel axes: beyond it the grid is sheared and edges are not lengths of a box.
SHEAR = 0.02
#: Two grids are the same frame when no corner of the volume lies further apart than this (mm): rounding of stored
#: affines stays below 0.01 mm, the smallest shift that would matter is a tenth of a voxel.
FRAME_MM = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The grid a volume is stored on: ``shape`` in voxels and ``affine``, voxel index → scanner mm (RAS+).

    Raises ``InputError`` for a singular or sheared affine and for voxel edges outside 0.5–2 mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.affine.shape != (4, 4):
            raise InputError(
                f"expected a grid of three axes and a 4 x 4 affine; got shape {self.shape} and {self.affine.shape}; "
                "pass one three-dimensional volume"
            )
        axes = self.affine[:3, :3]
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(axes)) < 1e-6:
            raise InputError(
                "expected an invertible affine (voxel index to scanner mm); got a singular one; "
                "repair the sform or qform in the header"
            )
        low, high = SPACING_MM
        if not all(low <= s <= high for s in self.spacing):
            edges = " x ".join(f"{s:.3g}" for s in self.spacing)
            raise InputError(
                f"expected voxel edges of 0.5 to 2 mm; got {edges} mm; resample the scan, or correct the units in "
                "its header"
            )
        unit = axes / self.spacing
        cosine = np.abs(unit.T @ unit - np.eye(3)).max()
        if cosine > SHEAR:
            raise InputError(
                f"expected voxel axes at right angles; got axes {np.degrees(np.arccos(cosine)):.0f} degrees apart; "
                "resample the scan to an unsheared grid"
            )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def same_frame(self, shape: tuple[int, ...], affine: np.ndarray) -> bool:
        """Whether ``shape`` and ``affine`` describe this grid: equal shape, every corner within ``FRAME_MM``."""
        return tuple(shape) == tuple(self.shape) and self.apart_mm(affine) <= FRAME_MM  # False for NaN

    def apart_mm(self, affine: np.ndarray) -> float:
        """The largest distance in mm between a corner voxel of this grid and the same one by another ``affine``."""
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], (1,), indexing="ij"), -1).reshape(-1, 4)
        return float(np.linalg.norm(corners @ (affine - self.affine).T, axis=1).max())

    # ------------------------------------------------------------------------------------ reordering the axes
    @functools.cached_property
    def _order(self) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """(native axis behind each canonical axis, canonical axes to flip)."""
        orientation = nibabel.io_orientation(self.affine)  # per native axis: canonical axis, direction
        order = tuple(int(np.flatnonzero(orientation[:, 0] == a)[0]) for a in range(3))
        return order, tuple(a for a in range(3) if orientation[order[a], 1] < 0)  # type: ignore[return-value]

    @functools.cached_property
    def _edges(self) -> np.ndarray:
        """Native voxel edges (mm) along the canonical axes; exactly 1 where the axis is already at 1 mm."""
        order, _ = self._order
        edges = np.array([self.spacing[a] for a in order])
        sizes = np.array([self.shape[a] for a in order])
        return np.where(np.abs(edges - 1) * sizes < FRAME_MM, 1.0, edges)

    def _sizes(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self._order[0])

    @functools.cached_property
    def canonical(self) -> Grid:
        """The RAS+ grid at 1 mm on the scan's own axes; it covers the native field of view."""
        order, flips = self._order
        sizes = np.array(self._sizes())
        to_native = np.zeros((4, 4))  # reordered index → native index
        to_native[3, 3] = 1
        for a, native in enumerate(order):
            to_native[native, a] = -1 if a in flips else 1
            to_native[native, 3] = sizes[a] - 1 if a in flips else 0
        scale = np.eye(4)  # canonical index → reordered index; both start at the same face, hence the half voxels
        for a, edge in enumerate(self._edges):
            scale[a, a] = 1 / edge
            scale[a, 3] = 0.5 / edge - 0.5
        shape = tuple(int(np.ceil(n * e - 0.01)) for n, e in zip(sizes, self._edges, strict=True))
        return _unchecked(shape, self.affine @ to_native @ scale)

    def _reorder(self, array: np.ndarray) -> np.ndarray:
        order, flips = self._order
        return np.flip(np.transpose(array, order), flips)

    def _restore(self, array: np.ndarray) -> np.ndarray:
        order, flips = self._order
        return np.ascontiguousarray(np.transpose(np.flip(array, flips), np.argsort(order)))

    # ---------------------------------------------------------------------------------------- there and back
    def to_canonical(self, array: np.ndarray, *, kind: str = "image", inside: np.ndarray | None = None) -> np.ndarray:
        """Native (X, Y, Z) → canonical (X, Y, Z).

        kind: "image" interpolates linearly, after averaging over 1 mm where voxels are finer (anti-aliasing), and
        gives float32; "mask" does the same and keeps what is at least half covered (bool); "labels" keeps integer
        ids and loses none (:func:`transfer_labels`). An axis at 1 mm is not interpolated. ``inside``: bool (X, Y, Z),
        the brain; its voxels are then interpolated from each other alone, so that neither the 0 around a stripped brain
        nor the bone around another darkens its rim (voxels that no brain voxel reaches stay as without it).
        """
        self._check(array, self.shape)
        array = self._reorder(array)
        if kind == "labels":
            return transfer_labels(array, self._edges, np.ones(3), self.canonical.shape)
        if kind not in ("image", "mask"):
            raise InputError(f"expected kind image, mask or labels; got {kind!r}; choose one of those")
        matrices = []
        for n, m, edge in zip(array.shape, self.canonical.shape, self._edges, strict=True):
            positions = (np.arange(m) + 0.5) / edge - 0.5
            # A native voxel is itself an average over its edge: widen it to the average over 1 mm, no further.
            width = np.sqrt(max(0.0, 1 - edge**2)) / edge
            matrices.append(None if edge == 1 else _linear(positions, n, width))
        array = array.astype(np.float32, copy=False)
        out = _apply(array, matrices)
        if inside is not None and any(m is not None for m in matrices):
            weight = self._reorder(inside).astype(np.float32)
            within, weight = _apply(array * weight, matrices), _apply(weight, matrices)
            np.divide(within, weight, out=out, where=weight > 0.01)
        return out >= 0.5 if kind == "mask" else out

    def from_canonical(self, array: np.ndarray, *, kind: str = "probability") -> np.ndarray:
        """Canonical (X, Y, Z) → native (X, Y, Z).

        kind: "probability" (any continuous map) interpolates linearly and gives float32; "labels" keeps integer ids
        and loses none (:func:`transfer_labels`).
        """
        self._check(array, self.canonical.shape)
        sizes = self._sizes()
        if kind == "labels":
            return self._restore(transfer_labels(array, np.ones(3), self._edges, sizes))
        if kind != "probability":
            raise InputError(f"expected kind probability or labels; got {kind!r}; choose one of those")
        matrices = [
            None if edge == 1 else _linear((np.arange(n) + 0.5) * edge - 0.5, m)
            for n, m, edge in zip(sizes, array.shape, self._edges, strict=True)
        ]
        return self._restore(_apply(array.astype(np.float32, copy=False), matrices))

    @staticmethod
    def _check(array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != tuple(shape):
            raise InputError(f"expected an array of shape {shape}; got {array.shape}; pass a volume of this grid")


def _unchecked(shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    """A grid derived from one that was checked already."""
    grid = object.__new__(Grid)
    object.__setattr__(grid, "shape", shape)
    object.__setattr__(grid, "affine", affine)
    return grid


def _linear(positions: np.ndarray, n: int, width: float = 0.0) -> np.ndarray:
    """Matrix (outputs, n): linear interpolation at ``positions`` (input index), averaged over ``width`` voxels."""
    samples = 1 if width == 0 else 16
    offsets = ((np.arange(samples) + 0.5) / samples - 0.5) * width
    x = np.clip(positions[:, None] + offsets, 0, n - 1)
    low = np.minimum(np.floor(x).astype(int), max(n - 2, 0))
    high = np.minimum(low + 1, n - 1)
    rows = np.broadcast_to(np.arange(len(positions))[:, None], x.shape)
    matrix = np.zeros((len(positions), n), np.float32)
    np.add.at(matrix, (rows, low), (1 - (x - low)) / samples)
    np.add.at(matrix, (rows, high), (x - low) / samples)
    return matrix


def _apply(array: np.ndarray, matrices: list[np.ndarray | None]) -> np.ndarray:
    """Apply one matrix per axis (None = leave the axis alone); returns a new contiguous array."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    return np.array(array, order="C")


def _coverage(n_out: int, n_in: int, edge_out: float, edge_in: float) -> np.ndarray:
    """Matrix (n_out, n_in): the share of each output voxel that each input voxel covers; both start at one face."""
    low_out, low_in = np.arange(n_out)[:, None] * edge_out, np.arange(n_in) * edge_in
    overlap = np.minimum(low_out + edge_out, low_in + edge_in) - np.maximum(low_out, low_in)
    return (np.maximum(overlap, 0) / edge_out).astype(np.float32)


def transfer_labels(
    labels: np.ndarray, edges_in: np.ndarray, edges_out: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Carry integer ids (X, Y, Z) to another spacing on the same axes; returns int32 of ``shape``; none vanishes.

    Each lesion takes as many output voxels as make up its volume, at least one: those it covers most, among equals the
    ones nearest to its centre. (A fixed rule biases volumes or centres: "half covered" counts every tie and adds 15 %
    to a lesion of 1 cm³ at 1 x 1 x 2 mm; the id at a voxel's centre is off by half an input voxel at 2 mm.) Where two
    lesions compete for a voxel the smaller one comes first. ``edges_*``: voxel edges in mm; both grids start at one
    face of the field of view.
    """
    labels = np.ascontiguousarray(labels)
    ratio = np.asarray(edges_in, float) / np.asarray(edges_out, float)
    if np.all(ratio == 1) and labels.shape == tuple(shape):
        return labels.astype(np.int32)
    out = np.zeros(shape, np.int32)
    matrices = [
        _coverage(m, n, float(eo), float(ei))
        for m, n, eo, ei in zip(shape, labels.shape, edges_out, edges_in, strict=True)
    ]
    boxes = {i: box for i, box in enumerate(ndimage.find_objects(labels), 1) if box is not None}
    voxels = np.bincount(labels.ravel())
    for i in sorted(boxes, key=lambda j: (voxels[j], j)):
        lesion = labels[boxes[i]] == i
        centre = np.argwhere(lesion).mean(axis=0) + [b.start for b in boxes[i]]
        centre = (centre + 0.5) * ratio - 0.5  # as an index of the output
        columns = [m[:, b] for m, b in zip(matrices, boxes[i], strict=True)]
        rows = [np.flatnonzero(c.any(axis=1)) for c in columns]
        taken = 0
        if all(len(r) for r in rows):  # else wholly outside the output's field of view
            target = tuple(slice(r[0], r[-1] + 1) for r in rows)
            share = _apply(lesion.astype(np.float32), [c[t] for c, t in zip(columns, target, strict=True)])
            share[out[target] > 0] = 0
            where = np.argwhere(share > 1e-6)
            apart = ((where + [t.start for t in target] - centre) ** 2).sum(axis=1)
            order = np.lexsort((np.round(apart, 6), -np.round(share[tuple(where.T)], 4)))
            chosen = where[order[: max(1, round(voxels[i] * float(np.prod(ratio))))]]
            out[target][tuple(chosen.T)] = i
            taken = len(chosen)
        if taken == 0:
            _place(out, i, centre)
    return out


def _place(out: np.ndarray, label: int, centre: np.ndarray) -> None:
    """Write ``label`` into the free voxel of ``out`` nearest to ``centre`` (output index)."""
    start = np.clip(np.rint(centre).astype(int), 0, np.array(out.shape) - 1)
    for reach in (2, max(out.shape)):
        low = np.maximum(start - reach, 0)
        window = out[tuple(slice(a, b + reach + 1) for a, b in zip(low, start, strict=True))]
        free = np.argwhere(window == 0) + low
        if len(free):
            out[tuple(free[np.argmin(((free - centre) ** 2).sum(axis=1))])] = label
            return
