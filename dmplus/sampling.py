"""Segments: the 37³ pieces that training sees, class-balanced and augmented, with their coarse context and prior.

Every segment depends on (seed, step, index) alone. Arrays are z-scored volumes (X, Y, Z) with 0 outside the brain; what
reaches beyond a volume is filled with that same 0, so a centre may lie anywhere, also at the border (in the authors'
release, lesions within 9 voxels of it are never centres).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import cc3d
import numpy as np
import torch
from torch import Tensor

from dmplus.network import NetworkConfig
from dmplus.runtime import InputError, rng
from dmplus.volume import Case


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


class Sampler:
    """Draws batches from cases with labels (image and prior already z-scored, see :meth:`Case.normalised`)."""

    def __init__(self, cases: Sequence[Case], network: NetworkConfig, config: SamplingConfig, *, seed: int) -> None:
        self.cases, self.network, self.config, self.seed = list(cases), network, config, seed
        self.out = config.segment - 2 * network.margin
        if self.out < 1:
            raise InputError(
                f"sampling: expected segments of at least {network.receptive_field} voxels; got {config.segment}; raise it"
            )
        self.lesions: list[list[np.ndarray]] = []  # per case, per lesion: (n, 3) voxel coordinates
        for case in self.cases:
            if case.label is None:
                raise InputError(
                    f"sampling: expected a label for every training case; {case.name} has none; add or drop it"
                )
            labels, count = cc3d.connected_components(np.asarray(case.label, np.uint8), connectivity=26, return_N=True)
            where = np.argwhere(labels)
            ids = labels[tuple(where.T)]
            where = where[np.argsort(ids, kind="stable")]
            self.lesions.append(
                np.split(where, np.cumsum(np.bincount(ids, minlength=count + 1)[1:])[:-1]) if count else []
            )
        self.every = [(c, k) for c, lesions in enumerate(self.lesions) for k in range(len(lesions))]
        self.affected = [c for c, lesions in enumerate(self.lesions) if lesions]
        if not self.affected:
            raise InputError(
                "sampling: expected at least one lesion among the training cases; found none; check the labels"
            )
        self.boxes = []
        for case in self.cases:
            box = [np.flatnonzero(case.mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
            if any(len(b) == 0 for b in box):
                raise InputError(f"sampling: expected a brain mask with voxels; that of {case.name} is empty")
            self.boxes.append(np.array([[b[0], b[-1] + 1] for b in box]))

    def batch(self, step: int, size: int = 10) -> Segments:
        """The ``size`` segments of training step ``step``."""
        drawn = [self._draw(rng(self.seed, "segment", step, i)) for i in range(size)]
        current, prior, target = (np.stack([d[i] for d in drawn]) for i in (0, 1, 2))
        low = [np.stack([d[3][i] for d in drawn]) for i in range(len(self.network.low_factors))]
        return Segments(
            torch.from_numpy(current)[:, None],
            [torch.from_numpy(x)[:, None] for x in low],
            torch.from_numpy(prior)[:, None] if self.network.prior != "none" else None,
            torch.from_numpy(target),
        )

    def centre(self, draw: np.random.Generator) -> tuple[int, np.ndarray]:
        """(case index, centre voxel): on a lesion with probability ``lesion_share``, else on brain without lesion."""
        if draw.random() < self.config.lesion_share:
            if self.config.centre == "lesion":
                case, k = self.every[draw.integers(len(self.every))]
                voxels = self.lesions[case][k]
                return case, voxels[draw.integers(len(voxels))]
            case = self.affected[draw.integers(len(self.affected))]
            pick = draw.integers(sum(len(v) for v in self.lesions[case]))
            for voxels in self.lesions[case]:
                if pick < len(voxels):
                    return case, voxels[pick]
                pick -= len(voxels)
        case = int(draw.integers(len(self.cases)))
        box, mask, label = self.boxes[case], self.cases[case].mask, self.cases[case].label
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
            for voxels in self.lesions[case]:
                counts[i] += bool(((voxels >= first) & (voxels < first + edge)).all(axis=1).any())
        return counts

    def _draw(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        index, centre = self.centre(draw)
        case, config, network = self.cases[index], self.config, self.network
        order = list(_ROTATIONS[draw.integers(1, 6)] if draw.random() < config.rotate else _ROTATIONS[0])
        flips = [draw.random() < p for p in config.flip]

        # flips and permutations act on the volume, not on the segment, so that coarse and fine grids stay exactly aligned
        def view(volume: np.ndarray) -> np.ndarray:
            return np.transpose(volume, order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]

        image = view(case.image)
        at = [n - 1 - c if f else c for n, c, f in zip(image.shape, centre[order], flips, strict=True)]
        start = [int(c) - config.segment // 2 for c in at]
        shift, scale = draw.normal(0, config.shift_sd), draw.normal(1, config.scale_sd)

        def take(volume: np.ndarray, first: Sequence[int], edge: int, step: int = 1) -> np.ndarray:
            x = crop(volume, first, (edge,) * 3, step)
            return np.where(x != 0, (x + np.float32(shift)) * np.float32(scale), np.float32(0))  # outside stays outside

        current = take(image, start, config.segment)
        low = [  # of the same scan, so with the same shift and scale; the earlier scan has its own
            take(image, [network.low_start(s, f) for s in start], network.low_size(self.out, f), f)
            for f in network.low_factors
        ]
        if case.prior is None:
            prior = np.zeros_like(current)
        else:
            shift, scale = draw.normal(0, config.shift_sd), draw.normal(1, config.scale_sd)
            prior = take(view(case.prior), start, config.segment)
        inner = [s + network.margin for s in start]
        return current, prior, crop(view(case.label), inner, (self.out,) * 3).astype(np.float32), low


_ROTATIONS = list(itertools.permutations(range(3)))  # the identity first
