"""Segments: the 37³ pieces that training sees, class-balanced and augmented, with their coarse context and prior.

Every segment depends on (seed, step, index) alone. Arrays are z-scored volumes (X, Y, Z) with 0 outside the brain; what
reaches beyond a volume is filled with that same 0, so a centre may lie anywhere, also at the border (in the authors'
release, lesions within 9 voxels of it are never centres).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import cc3d
import numpy as np
import torch
from torch import Tensor

from dmplus.network import NetworkConfig
from dmplus.runtime import InputError, require, rng, settle
from dmplus.volume import Case, occupied


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How segments are drawn. The defaults are the paper's; its rates for flips and rotations are not printed."""

    segment: int = 37  #: edge of the full-resolution input in voxels
    lesion_share: float = 0.5  #: probability that a segment is centred on a lesion voxel, else on background
    centre: str = "voxel"  #: lesion centres: every lesion "voxel" alike (the release), or every "lesion" alike
    shift_sd: float = 0.05  #: intensity (x + shift)·scale, shift ~ N(0, shift_sd) in units of the z-score
    scale_sd: float = 0.01  #: scale ~ N(1, scale_sd)
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)  #: probability of a flip along x, y, z
    rotate: float = 0.5  #: probability of one of the axis permutations (with flips: all rotations by 90°)

    def __post_init__(self) -> None:
        settle(self)
        require(self, "segment", "a whole number from 1", isinstance(self.segment, int) and self.segment >= 1)
        for name in ("lesion_share", "rotate"):
            require(self, name, "a share from 0 to 1", 0 <= getattr(self, name) <= 1)
        for name in ("shift_sd", "scale_sd"):
            require(self, name, "a finite number from 0", 0 <= getattr(self, name) < math.inf)
        require(self, "flip", "three shares from 0 to 1", len(self.flip) == 3 and all(0 <= p <= 1 for p in self.flip))
        if self.centre not in ("voxel", "lesion"):
            raise InputError(
                f"SamplingConfig: expected centre voxel or lesion; got {self.centre!r}; choose one of those"
            )


@dataclasses.dataclass(frozen=True)
class Segments:
    """A batch of B segments with an output edge of n = segment − 18 voxels."""

    current: Tensor  #: (B, 1, 37, 37, 37)
    low: list[Tensor]  #: (B, 1, ·, ·, ·) for each low-resolution factor
    prior: Tensor | None  #: (B, 1, 37, 37, 37), zeros where a case has none; None if the network takes none
    target: Tensor  #: (B, n, n, n) float 0/1, the label of the output block

    def to(self, device: str) -> Segments:
        """The same batch on another device."""
        prior = None if self.prior is None else self.prior.to(device)
        return Segments(self.current.to(device), [t.to(device) for t in self.low], prior, self.target.to(device))

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.current, *self.low, *([] if self.prior is None else [self.prior]), self.target]


def crop(volume: np.ndarray, start: Sequence[int], size: Sequence[int], step: int = 1) -> np.ndarray:
    """Voxels start, start+step, ... (``size`` of them) along each axis; 0 where that leaves the volume.

    (X, Y, Z) → ``size``, a new array. ``start`` may be negative.
    """
    out = np.zeros(tuple(size), volume.dtype)
    source, target = [], []
    for length, s, n in zip(volume.shape, start, size, strict=True):
        first = max(0, -(s // step)) if s < 0 else 0  # first index that lies inside: ceil(-s / step)
        last = min(n, (length - 1 - s) // step + 1)
        if last <= first:
            return out
        target.append(slice(first, last))
        source.append(slice(s + first * step, s + (last - 1) * step + 1, step))
    out[tuple(target)] = volume[tuple(source)]
    return out


class Volumes:
    """Cases that segments are drawn from (image and prior already z-scored), with their lesions, made once for all trainings.

    device: keep all of them there, and cut segments there; None: cut them out of the cases. Raises ``InputError`` for a case
    without label or with an empty mask, and where no case has a lesion.
    """

    def __init__(self, cases: Iterable[Case], *, device: str | None = None) -> None:
        self.cases = list(cases)
        self.lesions: list[list[np.ndarray]] = []  # per case, per lesion: (n, 3) voxel coordinates
        self.boxes: list[np.ndarray] = []  # per case: (3, 2), first and last + 1 voxel of the brain
        for case in self.cases:
            if case.label is None:
                raise InputError(
                    f"sampling: expected a label for every training case; {case.name} has none; add or drop it"
                )
            if not case.mask.any():
                raise InputError(f"sampling: expected a brain mask with voxels; that of {case.name} is empty")
            if not (case.mask & (np.asarray(case.label) == 0)).any():
                raise InputError(
                    f"sampling: expected brain around the lesions of {case.name}; its label covers the whole mask; check both"
                )
            labels, count = cc3d.connected_components(np.asarray(case.label, np.uint8), connectivity=26, return_N=True)
            where = np.argwhere(labels)
            ids = labels[tuple(where.T)]
            where = where[np.argsort(ids, kind="stable")]
            self.lesions.append(
                np.split(where, np.cumsum(np.bincount(ids, minlength=count + 1)[1:])[:-1]) if count else []
            )
            self.boxes.append(occupied(case.mask))
        self.every = [(c, k) for c, lesions in enumerate(self.lesions) for k in range(len(lesions))]
        self.affected = [c for c, lesions in enumerate(self.lesions) if lesions]
        if not self.affected:
            raise InputError(
                "sampling: expected at least one lesion among the training cases; found none; check the labels"
            )
        self.resident = None if device is None else _Resident(self.cases, device)


class Sampler:
    """Draws batches from cases with labels, or from :class:`Volumes` of them."""

    def __init__(
        self, cases: Sequence[Case] | Volumes, network: NetworkConfig, config: SamplingConfig, *, seed: int
    ) -> None:
        self.volumes = cases if isinstance(cases, Volumes) else Volumes(cases)
        self.network, self.config, self.seed = network, config, seed
        self.out = config.segment - 2 * network.margin
        if self.out < 1:
            raise InputError(
                f"sampling: expected segments of at least {network.receptive_field} voxels; got {config.segment}; raise it"
            )

    def batch(self, step: int, size: int = 10) -> Segments:
        """The ``size`` segments of training step ``step``."""
        drawn = [self._draw(rng(self.seed, "segment", step, i)) for i in range(size)]
        if self.volumes.resident is None:
            arrays = self._cut(drawn)
        else:
            arrays = self.volumes.resident.batch(drawn, [self._grids(d) for d in drawn])
        current, *more = (a[:, None] for a in arrays)
        low, rest = more[: len(self.network.low_factors)], more[len(self.network.low_factors) :]
        return Segments(current, low, rest[0] if len(rest) > 1 else None, rest[-1][:, 0])

    def centre(self, draw: np.random.Generator) -> tuple[int, np.ndarray]:
        """(case index, centre voxel): on a lesion with probability ``lesion_share``, else on brain without lesion."""
        held = self.volumes
        if draw.random() < self.config.lesion_share:
            if self.config.centre == "lesion":
                case, k = held.every[draw.integers(len(held.every))]
                voxels = held.lesions[case][k]
                return case, voxels[draw.integers(len(voxels))]
            case = held.affected[draw.integers(len(held.affected))]
            pick = draw.integers(sum(len(v) for v in held.lesions[case]))
            for voxels in held.lesions[case]:
                if pick < len(voxels):
                    return case, voxels[pick]
                pick -= len(voxels)
        case = int(draw.integers(len(held.cases)))
        box, mask, label = held.boxes[case], held.cases[case].mask, held.cases[case].label
        while True:
            voxel = draw.integers(box[:, 0], box[:, 1])
            if mask[tuple(voxel)] and not label[tuple(voxel)]:
                return case, voxel

    def lesion_counts(self, n: int = 1000, *, segment: int | None = None) -> np.ndarray:
        """Lesions with a voxel in the output block of each of ``n`` drawn segments: (n,) int.

        VSS sees the best voxel of all lesions of a segment as one detection, so two lesions in one segment are one to it.
        The paper argues that this is rare (section IV). segment: another input edge than the configuration's, as the 30³
        that the paper mentions. The draws are independent of those of training.
        """
        edge = (segment or self.config.segment) - 2 * self.network.margin
        counts = np.zeros(n, int)
        for i in range(n):
            case, centre = self.centre(rng(self.seed, "lesion counts", i))
            first = centre - edge // 2
            for voxels in self.volumes.lesions[case]:
                counts[i] += bool(((voxels >= first) & (voxels < first + edge)).all(axis=1).any())
        return counts

    def _draw(self, draw: np.random.Generator) -> _Drawn:
        case, centre = self.centre(draw)
        config = self.config
        order = _ROTATIONS[draw.integers(1, 6)] if draw.random() < config.rotate else _ROTATIONS[0]
        flips = tuple(bool(draw.random() < p) for p in config.flip)
        shape = self.volumes.cases[case].shape
        at = [shape[a] - 1 - centre[a] if f else centre[a] for a, f in zip(order, flips, strict=True)]
        start = tuple(int(c) - config.segment // 2 for c in at)
        # The coarse grids are of the same scan, so they share its shift and scale. The earlier scan has its own: scanners differ
        # between visits. (In the release it shares the scan's, so a difference image would stay clean; the paper does not say.)
        current, prior = ((draw.normal(0, config.shift_sd), draw.normal(1, config.scale_sd)) for _ in range(2))
        return _Drawn(case, order, flips, start, current, prior)

    def _grids(self, drawn: _Drawn) -> list[tuple[str, tuple[int, ...], int, int]]:
        """(what, first voxel, edge, step) of each array of a segment, in voxels of the turned volume."""
        start, network = drawn.start, self.network
        grids = [("current", start, self.config.segment, 1)]
        grids += [
            ("current", tuple(network.low_start(s, f) for s in start), network.low_size(self.out, f), f)
            for f in network.low_factors
        ]
        grids += [("prior", start, self.config.segment, 1)] * (network.prior != "none")
        return [*grids, ("label", tuple(s + network.margin for s in start), self.out, 1)]

    def _cut(self, drawn: list[_Drawn]) -> list[Tensor]:
        """The arrays of a batch, (B, edge, edge, edge) each, cut out of the cases."""
        return [torch.from_numpy(np.stack(a)) for a in zip(*(self._cut_one(d) for d in drawn), strict=True)]

    def _cut_one(self, drawn: _Drawn) -> list[np.ndarray]:
        # flips and permutations act on the volume, not on the segment, so that coarse and fine grids stay exactly aligned
        turn = tuple(slice(None, None, -1 if f else 1) for f in drawn.flips)
        case, out = self.volumes.cases[drawn.case], []
        for what, first, edge, step in self._grids(drawn):
            volume = {"current": case.image, "prior": case.prior, "label": case.label}[what]
            if volume is None:
                out.append(np.zeros((edge,) * 3, np.float32))
                continue
            x = crop(np.transpose(volume, drawn.order)[turn], first, (edge,) * 3, step).astype(np.float32)
            if what != "label":
                shift, scale = np.float32(getattr(drawn, what))
                x = np.where(x != 0, (x + shift) * scale, np.float32(0))  # outside stays outside
            out.append(x)
        return out


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What chance decides about a segment: where it lies in a turned volume, and its intensities."""

    case: int
    order: tuple[int, ...]  #: axis of the volume that each axis of the segment runs along
    flips: tuple[bool, ...]  #: whether it runs backwards
    start: tuple[int, ...]  #: first voxel, counted in the turned volume; may lie outside
    current: tuple[float, float]  #: shift and scale of the current scan's intensities
    prior: tuple[float, float]  #: of the earlier scan's


class _Resident:
    """All volumes on a device, cut to where they are not 0, one behind the other; segments are gathered there, batch by batch.

    Cutting the same segments out of the cases takes a processor longer than a GPU takes to train on them.
    """

    def __init__(self, cases: Sequence[Case], device: str) -> None:
        self.device, self.shapes = device, [c.shape for c in cases]
        given = [[v != 0 for v in (c.image, c.label, c.prior) if v is not None] for c in cases]
        self.boxes = [occupied(np.logical_or.reduce(each)) for each in given]
        sizes = [int(np.prod(b[:, 1] - b[:, 0])) for b in self.boxes]
        self.first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        kinds = {"current": torch.float32, "label": torch.uint8, "prior": torch.float32}
        self.volumes = {k: torch.zeros(sum(sizes), dtype=t, device=device) for k, t in kinds.items()}
        for case, box, first, size in zip(cases, self.boxes, self.first, sizes, strict=True):
            inside = tuple(slice(a, b) for a, b in box)
            for what, volume in (("current", case.image), ("prior", case.prior), ("label", case.label)):
                if volume is not None:
                    part = torch.from_numpy(np.ascontiguousarray(volume[inside])).flatten()
                    self.volumes[what][first : first + size] = part.to(device)

    def batch(self, drawn: list[_Drawn], grids: list[list[tuple[str, tuple[int, ...], int, int]]]) -> list[Tensor]:
        """The arrays of a batch, (B, edge, edge, edge) each; ``grids``: of each segment (:meth:`Sampler._grids`)."""
        number = np.array([d.case for d in drawn])
        order, flips = np.array([d.order for d in drawn]), np.array([d.flips for d in drawn])[..., None]
        length = np.take_along_axis(np.array([self.shapes[k] for k in number]), order, 1)[..., None]  # (B, 3, 1)
        box = np.stack([self.boxes[k] for k in number])  # (B, 3, 2)
        low, width = (np.take_along_axis(a, order, 1)[..., None] for a in (box[..., 0], box[..., 1] - box[..., 0]))
        edges = box[..., 1] - box[..., 0]
        strides = np.stack([edges[:, 1] * edges[:, 2], edges[:, 2], np.ones_like(number)], 1)
        strides = np.take_along_axis(strides, order, 1)[..., None]
        out = []
        for column in zip(*grids, strict=True):
            what, _, edge, step = column[0]
            view = np.array([g[1] for g in column])[..., None] + step * np.arange(edge)  # (B, 3, edge), turned volume
            place = np.where(flips, length - 1 - view, view) - low
            inside = (place >= 0) & (place < width)
            place = np.where(inside, place * strides, 0)
            place[:, 0] += self.first[number][:, None]
            x, y, z = self._sent(place).unbind(1)
            index = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
            x, y, z = self._sent(inside).unbind(1)
            values = self.volumes[what][index].float() * (
                x[:, :, None, None] & y[:, None, :, None] & z[:, None, None, :]
            )
            if what != "label":
                shift, scale = self._sent(np.float32([getattr(d, what) for d in drawn])).view(-1, 2, 1, 1, 1).unbind(1)
                values = torch.where(values != 0, (values + shift) * scale, 0)
            out.append(values)
        return out

    def _sent(self, array: np.ndarray) -> Tensor:
        """On the device, without waiting for it."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else tensor


_ROTATIONS = list(itertools.permutations(range(3)))  # the identity first
