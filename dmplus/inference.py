"""Tiles → probability map: the one tiler of prediction, validation and notebooks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from dmplus.network import DeepMedic
from dmplus.runtime import InputError, Machine, Progress
from dmplus.runtime import machine as choose_machine
from dmplus.sampling import crop

TILE = 60  #: largest output edge of a tile in voxels when none is asked for: about 1 GB of memory


def predict_volume(
    network: DeepMedic,
    image: np.ndarray,
    *,
    prior: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    tiling: str = "aligned",
    tile: int | None = None,
    machine: Machine | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Foreground probability of every voxel: (X, Y, Z) → float32 (X, Y, Z).

    image, prior: z-scored, 0 outside the brain, 1 mm grid (:meth:`dmplus.volume.Case.normalised`); prior None = absent.
    mask: bool (X, Y, Z); outside it the probability is 0 and tiles whose output misses it are not computed; None takes
    the voxels where the image is not 0. An empty mask gives 0 everywhere.

    tiling: "aligned": the coarse grids are fixed to the volume, so the map is the same for every tile size. For this,
    ``tile`` (output edge in voxels) is rounded up to a multiple of the low-resolution factors' least common multiple
    (15); None cuts the brain into equal tiles of at most 60.
    """
    if tiling != "aligned":
        raise InputError(f"predict_volume: expected tiling 'aligned'; got {tiling!r}")
    for name, array in (("image", image), ("prior", prior), ("mask", mask)):
        if array is not None and (array.ndim != 3 or array.shape != image.shape):
            raise InputError(
                f"predict_volume: expected {name} of shape (X, Y, Z), like the image's {image.shape}; got {array.shape}; "
                "resample it to the image's grid"
            )
    mask = image != 0 if mask is None else mask.astype(bool)
    image = np.ascontiguousarray(image, np.float32)
    if network.config.prior == "none":
        prior = None
    elif prior is not None:
        prior = np.ascontiguousarray(prior, np.float32)
    machine = machine or choose_machine()
    tiles = [(s, n) for s, n in aligned_tiles(network, mask, tile)]
    out = np.zeros(image.shape, np.float32)
    report = Progress(len(tiles), "tiles") if progress else None
    training = network.training
    network.eval().to(machine.device)
    try:
        with torch.inference_mode():
            for start, size in tiles:
                inside = tuple(slice(s, min(s + n, d)) for s, n, d in zip(start, size, image.shape, strict=True))
                block = _tile(network, image, prior, start, size, machine)
                out[inside] = block[tuple(slice(0, i.stop - i.start) for i in inside)]
                if report:
                    report.step()
    finally:
        network.train(training)
    out[~mask] = 0
    return out


def aligned_tiles(
    network: DeepMedic, mask: np.ndarray, tile: int | None = None
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, size) in voxels of the output blocks that together cover ``mask`` and each hold a voxel of it.

    Starts are multiples of the least common multiple of the low-resolution factors; the last block of an axis may reach
    beyond the volume.
    """
    if not mask.any():
        return []
    unit = math.lcm(*network.config.low_factors) if network.config.low_factors else 1
    if tile is not None and tile < 1:
        raise InputError(
            f"predict_volume: expected a tile of at least 1 voxel; got {tile}; leave it out for the default"
        )
    axes = []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first = int(occupied[0]) // unit * unit
        extent = int(occupied[-1]) + 1 - first
        count = math.ceil(extent / (math.ceil((tile or TILE) / unit) * unit))
        edge = math.ceil((extent / count if tile is None else tile) / unit) * unit
        axes.append([(s, edge) for s in range(first, first + extent, edge)])
    blocks = [(tuple(s for s, _ in b), tuple(n for _, n in b)) for b in itertools.product(*axes)]
    return [
        (start, size)
        for start, size in blocks
        if mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))].any()
    ]


def _tile(
    network: DeepMedic,
    image: np.ndarray,
    prior: np.ndarray | None,
    start: Sequence[int],
    size: Sequence[int],
    machine: Machine,
) -> np.ndarray:
    """Foreground probability of the output block of ``size`` voxels at ``start``: (X, Y, Z) float32."""
    config = network.config
    corner = [s - config.margin for s in start]

    def tensor(volume: np.ndarray, first: Sequence[int], edges: Sequence[int], step: int = 1) -> torch.Tensor:
        return torch.from_numpy(crop(volume, first, edges, step))[None, None].to(machine.device)

    edges = [n + 2 * config.margin for n in size]
    low = [
        tensor(image, [config.low_start(c, f) for c in corner], [config.low_size(n, f) for n in size], f)
        for f in config.low_factors
    ]
    current = tensor(image, corner, edges)
    before = None if prior is None else tensor(prior, corner, edges)
    with machine.autocast():
        return network.probabilities(current, low, before)[0, 1].float().cpu().numpy()
