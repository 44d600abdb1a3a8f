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
#: Tiles in one pass, for half a GB more. A single one's small maps (the coarse grids, the image itself) torch gives to a slow
#: convolution on a CPU: two at once take 0.7 to 0.8 of the time (two cores, AVX2, float32).
TOGETHER = 2


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
    (15); None cuts the brain into equal tiles of at most 60. A unet's map depends on its tiles: each begins its strides anew,
    and is padded with zeros.
    "released": as the authors' program, see :func:`released_map`; ``tile`` does not apply, and without a mask the whole
    volume is computed. The two differ near the border of the volume and, because each tile of the release has coarse
    grids of its own, by a shift of these grids elsewhere; data_cards/weights.md measures by how much.
    """
    if tiling not in ("aligned", "released"):
        raise InputError(f"predict_volume: expected tiling aligned or released; got {tiling!r}; choose one of those")
    for name, array in (("image", image), ("prior", prior), ("mask", mask)):
        if array is not None and (array.ndim != 3 or array.shape != image.shape):
            raise InputError(
                f"predict_volume: expected {name} of shape (X, Y, Z), like the image's {image.shape}; got {array.shape}; "
                "resample it to the image's grid"
            )
    if mask is None:
        mask = image != 0 if tiling == "aligned" else np.ones(image.shape, bool)
    mask = mask.astype(bool)
    image = np.ascontiguousarray(image, np.float32)
    if network.config.prior == "none":
        prior = None
    elif prior is not None:
        prior = np.ascontiguousarray(prior, np.float32)
    machine = machine or choose_machine()
    training = network.training
    # with channels last no convolution has to rearrange the maps before and after: 0.8 of the time on a CPU with AVX2
    network.eval().to(machine.device, memory_format=torch.channels_last_3d)
    try:
        with torch.inference_mode():
            if tiling == "released":
                out = released_map(network, image, prior, mask, machine=machine, progress=progress)
            else:
                out = _aligned_map(network, image, prior, mask, tile=tile, machine=machine, progress=progress)
    finally:
        network.train(training)
    out[~mask] = 0
    return out


def _aligned_map(
    network: DeepMedic,
    image: np.ndarray,
    prior: np.ndarray | None,
    mask: np.ndarray,
    *,
    tile: int | None,
    machine: Machine,
    progress: bool,
) -> np.ndarray:
    """The map of :func:`predict_volume` before the mask is applied."""
    tiles = aligned_tiles(network, mask, tile)
    out = np.zeros(image.shape, np.float32)
    report = Progress(len(tiles), "tiles") if progress else None
    for first in range(0, len(tiles), TOGETHER):
        group = tiles[first : first + TOGETHER]
        blocks = _blocks(network, image, prior, [start for start, _ in group], group[0][1], machine)
        for (start, size), block in zip(group, blocks, strict=True):
            inside = tuple(slice(s, min(s + n, d)) for s, n, d in zip(start, size, image.shape, strict=True))
            out[inside] = block[tuple(slice(0, i.stop - i.start) for i in inside)]
        if report:
            report.step(len(group))
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


def _blocks(
    network: DeepMedic,
    image: np.ndarray,
    prior: np.ndarray | None,
    starts: Sequence[Sequence[int]],
    size: Sequence[int],
    machine: Machine,
) -> np.ndarray:
    """Foreground probability of the output blocks of ``size`` voxels at ``starts``: (B, X, Y, Z) float32."""
    config = network.config
    corners = [[s - config.margin for s in start] for start in starts]

    def tensor(volume: np.ndarray, firsts: list[list[int]], edges: list[int], step: int = 1) -> torch.Tensor:
        crops = np.stack([crop(volume, first, edges, step) for first in firsts])
        return torch.from_numpy(crops)[:, None].to(machine.device)

    edges = [n + 2 * config.margin for n in size]
    low = []
    for f in config.low_factors:
        coarse = [[config.low_start(c, f) for c in corner] for corner in corners]
        low.append(tensor(image, coarse, [config.low_size(n, f) for n in size], f))
    current = tensor(image, corners, edges)
    before = None if prior is None else tensor(prior, corners, edges)
    with machine.autocast():
        return network.probabilities(current, low, before)[:, 1].float().cpu().numpy()


# ------------------------------------------------------------------------------------------- the authors' program
RELEASED_TILE = 45  #: input edge of a tile in the authors' program


def released_map(
    network: DeepMedic,
    image: np.ndarray,
    prior: np.ndarray | None,
    mask: np.ndarray,
    *,
    machine: Machine,
    progress: bool = False,
) -> np.ndarray:
    """Foreground probability as the authors' program stitches it, before the mask is applied: float32 (X, Y, Z).

    Everything is padded by reflection; tiles of 45³ voxels (27³ of output) lie side by side, the last of each axis moved
    back to end at the border; a tile is left out, and stays 0, where its whole input misses the mask. What the coarse
    paths see beyond the padded volume is the mean of its eight corners, and where they begin before it, their grid slips
    (:func:`_released_low`). Source: DeepMedicPlus, routines/testing.py and sampling.py. Raises ``InputError`` for a
    volume of less than 27 voxels along an axis, which the program refuses too.
    """
    config = network.config
    margin, out_edge = config.margin, RELEASED_TILE - 2 * config.margin
    if min(image.shape) < out_edge:
        raise InputError(
            f"predict_volume: expected at least {out_edge} voxels along each axis for tiling released; got {image.shape}; "
            "use tiling aligned"
        )
    padded = np.pad(image, margin, "reflect")
    earlier = None if prior is None else np.pad(prior, margin, "reflect")
    around = np.pad(mask, margin, "reflect")
    corners = padded[:: padded.shape[0] - 1, :: padded.shape[1] - 1, :: padded.shape[2] - 1].mean()
    axes = [[*range(0, d - RELEASED_TILE, out_edge), d - RELEASED_TILE] for d in padded.shape]
    # z outermost: where moved-back tiles overlap, the later one wins, as in the release
    corner_list = [(x, y, z) for z in axes[2] for y in axes[1] for x in axes[0]]
    tiles = [c for c in corner_list if around[tuple(slice(s, s + RELEASED_TILE) for s in c)].any()]
    out = np.zeros(image.shape, np.float32)
    report = Progress(len(tiles), "tiles") if progress else None

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None].to(machine.device)

    for start in tiles:
        window = tuple(slice(s, s + RELEASED_TILE) for s in start)
        low = [
            tensor(
                _released_low(padded, corners, [config.low_start(s, f) for s in start], config.low_size(out_edge, f), f)
            )
            for f in config.low_factors
        ]
        before = None if earlier is None else tensor(earlier[window])
        with machine.autocast():
            block = network.probabilities(tensor(padded[window]), low, before)[0, 1].float().cpu().numpy()
        out[tuple(slice(s, s + out_edge) for s in start)] = block  # the output of a padded tile, in voxels of the image
        if report:
            report.step()
    return out


def _released_low(padded: np.ndarray, fill: float, first: Sequence[int], edge: int, factor: int) -> np.ndarray:
    """(edge, edge, edge) voxels, every ``factor``-th from ``first`` on; ``fill`` where that leaves the padded volume.

    A first voxel before the volume gives ⌊|first| / factor⌋ filled ones and then voxels 0, factor, ...: unless |first| is
    a multiple of the factor, that is a grid shifted by |first| mod factor voxels. The release does this; so do we here.
    """
    out = np.full((edge,) * 3, fill, np.float32)
    source, target = [], []
    for length, s in zip(padded.shape, first, strict=True):
        skipped = max(0, -s) // factor
        begin = max(0, s)
        count = max(0, min(edge - skipped, math.ceil((length - begin) / factor)))
        source.append(slice(begin, begin + count * factor, factor))
        target.append(slice(skipped, skipped + count))
    out[tuple(target)] = padded[tuple(source)]
    return out
