"""Metastases: how many, how large, which shape and contrast, and how they change from visit to visit.

The laws are those of published cohorts (sources beside the fields of :class:`~dmplus.synthetic_config.CohortConfig`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus.runtime import rng
from dmplus.synthetic_anatomy import Anatomy
from dmplus.synthetic_config import CohortConfig


# ------------------------------------------------------------------------------------------------------------ the laws
def size_law(
    config: CohortConfig, random: np.random.Generator, n: int, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """``n`` volumes in cm3: ln V ~ N(mean, sd2), redrawn until inside ``limits`` (default: the cohort's)."""
    low, high = limits or config.volume_cm3
    out = np.zeros(0)
    while len(out) < n:
        drawn = np.exp(random.normal(config.size_log_mean, config.size_log_sd, 4 * n + 16))
        out = np.concatenate([out, drawn[(drawn >= low) & (drawn <= high)]])
    return out[:n]


def contrasts(config: CohortConfig, random: np.random.Generator, n: int) -> np.ndarray:
    """``n`` intensities of enhancing tissue (white matter = 1) as they shall appear in the image, log-normal, cut."""
    mean, sd, least, most = config.contrast
    variance = np.log(1 + (sd / mean) ** 2)
    out = np.zeros(0)
    while len(out) < n:
        drawn = np.exp(random.normal(np.log(mean) - variance / 2, np.sqrt(variance), 2 * n + 8))
        out = np.concatenate([out, drawn[(drawn >= least) & (drawn <= most)]])
    return out[:n]


def courses(config: CohortConfig, random: np.random.Generator, days: np.ndarray) -> pd.DataFrame:
    """Lesions of one patient over its visits: one row per lesion and visit at which it is there.

    days (V,): day of each visit. Columns: lesion (from 1), visit, state (first, new, growing, stable, responding,
    pseudo-progression: what happened since the visit before), volume_cm3, previous_cm3 (NaN when new). A lesion that
    vanished has no row.
    """
    extra = config.lesions_extra
    count = 1
    if extra > 0:
        r = config.lesions_dispersion
        count += int(random.negative_binomial(r, r / (r + extra)))
    start = size_law(config, random, min(count, config.lesions_most), (config.volume_cm3[0], _largest(config)))
    alive = [_Course(i + 1, float(v), *_therapy(config, random)) for i, v in enumerate(start)]
    rows = [(c.lesion, 0, "first", c.volume, np.nan) for c in alive]
    number = len(alive)
    for visit in range(1, len(days)):
        step = float(days[visit] - days[visit - 1])
        after = []
        for course in alive:
            before = course.volume
            state = course.step(config, random, step)
            if course.volume >= config.volume_cm3[0]:
                rows.append((course.lesion, visit, state, course.volume, before))
                after.append(course)
        for volume in size_law(config, random, int(random.poisson(config.new_lesions)), config.new_volume_cm3):
            number += 1
            if len(after) < config.lesions_most:
                after.append(_Course(number, float(volume), *_therapy(config, random)))
                rows.append((number, visit, "new", float(volume), np.nan))
        alive = after
    return pd.DataFrame(rows, columns=["lesion", "visit", "state", "volume_cm3", "previous_cm3"])


def _largest(config: CohortConfig) -> float:
    """Largest lesion that a small grid can hold, cm3: a quarter of its shortest side as radius."""
    return min(config.volume_cm3[1], 4 / 3 * np.pi * (min(config.shape) / 5) ** 3 / 1000)


def _therapy(config: CohortConfig, random: np.random.Generator) -> tuple[str, int]:
    """Course of a lesion and, when treated, the visits of transient growth before it responds."""
    shares = np.array(config.course_share) / sum(config.course_share)
    kind = ("growing", "stable", "treated")[int(random.choice(3, p=shares))]
    return kind, _transient(config, random) if kind == "treated" else 0


def _transient(config: CohortConfig, random: np.random.Generator) -> int:
    return int(random.integers(1, 3)) if random.random() < config.pseudo_share else 0


@dataclasses.dataclass
class _Course:
    lesion: int
    volume: float  # cm3
    kind: str
    transient: int
    treated_for: int = 0

    def step(self, config: CohortConfig, random: np.random.Generator, days: float) -> str:
        """Advance by ``days``; returns the state. Volume 0 = gone."""
        most = _largest(config)
        if self.kind == "growing" and random.random() < config.treatment:
            self.kind, self.transient = "treated", _transient(config, random)
        if self.kind == "growing":
            df, location, scale = config.growth
            change = np.clip((location + scale * random.standard_t(df)) * days / 70, -1.5, 2.5)
            self.volume = float(np.clip(self.volume * np.exp(change), config.volume_cm3[0], most))
            return "growing"
        if self.kind == "stable":
            change = random.normal(0, config.stable_log_sd)
            self.volume = float(np.clip(self.volume * np.exp(change), config.volume_cm3[0], most))
            return "stable"
        self.treated_for += 1
        if self.transient > 0:
            self.transient -= 1
            ratio = random.uniform(*config.pseudo_ratio)
            self.volume = min(self.volume * ratio, most)
            return "pseudo-progression"
        ratio, spread = config.response
        self.volume *= ratio * np.exp(random.normal(0, spread))
        first, chance = config.vanish
        if self.treated_for >= first and random.random() < chance:
            self.volume = 0.0
        return "responding"


def necrosis_share(config: CohortConfig, volume_cm3: float) -> float:
    """Share of lesions of this volume that have a necrotic core."""
    return config.necrosis_share[int(np.searchsorted(config.necrosis_edges_cm3, volume_cm3, side="right"))]


# ---------------------------------------------------------------------------------------------------------- the shapes
@dataclasses.dataclass(frozen=True)
class Body:
    """One compact enhancing body on its box of the window; arrays have the box's shape."""

    kind: str  #: "metastasis", "blob" or "spot"
    box: tuple[slice, ...]
    cover: np.ndarray  #: float32, share of the voxel inside the body
    core: np.ndarray  #: float32, share of the voxel inside its necrotic core
    label: np.ndarray  #: bool, at least half inside
    distance: np.ndarray  #: float32, mm outside the body's surface (negative inside)
    level: float = 1.0  #: intensity of the enhancing part before blurring
    core_level: float = 0.6  #: intensity of the core
    oedema_mm: float = 0.0  #: reach of the oedema around it, 0 = none

    @property
    def solid(self) -> np.ndarray:
        """bool: enhancing part of the label."""
        return self.label & (self.core < 0.5)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A star-shaped body of unit size: an ellipsoid with bumps. The same shape is scaled from visit to visit."""

    turn: np.ndarray  # (3, 3) rotation
    axes: np.ndarray  # (3,) relative half axes, geometric mean 1
    waves: np.ndarray  # (K, 3) wave vectors of the bumps
    phases: np.ndarray  # (K,)
    heights: np.ndarray  # (K,)

    @property
    def reach(self) -> float:
        """Largest distance of the surface from the centre for radius 1 (a bound)."""
        return float(self.axes.max() * np.exp(np.abs(self.heights).sum() * 0.8))

    def outside(self, offset: np.ndarray, radius: float) -> np.ndarray:
        """Approximate distance (mm) of points at ``offset`` (..., 3) from the surface; negative inside."""
        local = offset @ (self.turn / self.axes).astype(np.float32)
        length = np.sqrt(np.einsum("...i,...i", local, local))
        unit = local / np.maximum(length, 1e-6)[..., None]
        bumps = np.cos(unit @ self.waves.T.astype(np.float32) + self.phases.astype(np.float32))
        surface = radius * np.exp(bumps @ self.heights.astype(np.float32))
        # Along the ray from the centre; the factor brings it back from the ellipsoid's to true lengths.
        stretch = np.sqrt(np.einsum("...i,...i", offset, offset)) / np.maximum(length, 1e-6)
        return (length - surface) * stretch


def draw_shape(random: np.random.Generator, elongation: float, irregularity: float) -> Shape:
    """A random :class:`Shape`: ``elongation`` = sd of ln of the half axes, ``irregularity`` = height of the bumps."""
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    log = random.normal(0, elongation, 3)
    frequency = random.uniform(2, 5, (6, 1))
    way = random.standard_normal((6, 3))
    waves = frequency * way / np.linalg.norm(way, axis=1, keepdims=True)
    heights = irregularity * random.standard_normal(6)
    return Shape(turn, np.exp(log - log.mean()), waves, random.uniform(0, 2 * np.pi, 6), heights)


def body(
    random: np.random.Generator, *, kind: str, centre: np.ndarray, volume_mm3: float, within: np.ndarray,
    elongation: float, irregularity: float, least_voxels: int, core_mm3: float = 0.0,
    halo_mm: float = 0.0,
) -> Body:  # fmt: skip
    """Rasterise a body of ``volume_mm3`` at ``centre`` (window voxels), cut to ``within`` bool (X, Y, Z).

    ``random`` gives the shape, so equal streams give the same lesion at another size. The label (half of the voxel or
    more) has at least ``least_voxels`` voxels. ``core_mm3``: volume of the necrotic core, ``halo_mm``: reach of the
    oedema around it, 0 = none.
    """
    shape, inner = draw_shape(random, elongation, irregularity), draw_shape(random, 0.12, irregularity)
    aside = random.normal(0, 0.15, 3)
    radius = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)
    reach = int(np.ceil(radius * shape.reach + 3 + halo_mm))
    near = np.rint(centre).astype(int)
    box = tuple(
        slice(max(int(c) - reach, 0), min(int(c) + reach + 1, n)) for c, n in zip(near, within.shape, strict=True)
    )
    factor = (
        3 if radius < 4 else 1
    )  # partial volume of small bodies from 27 sub-voxels, of large ones from the distance
    inside = within[box]
    size = radius
    for _ in range(3):
        cover, distance = _rasterise(shape, centre, size, box, factor)
        size *= (volume_mm3 / max(float(cover.sum()), 1e-3)) ** (1 / 3)
    cover, distance = _rasterise(shape, centre, size, box, factor)
    # Small convex bodies fill fewer voxels by half than their volume: they grow until the label has it.
    wanted = max(least_voxels, round(volume_mm3) if volume_mm3 < 150 else 0)
    while np.count_nonzero(cover >= 0.5) < wanted or np.count_nonzero((cover >= 0.5) & inside) < least_voxels:
        size *= 1.01
        cover, distance = _rasterise(shape, centre, size, box, factor)
        if size > radius + 3:  # a place without room
            break
    core = np.zeros_like(cover)
    if core_mm3 > 0:
        small = (3 * core_mm3 / (4 * np.pi)) ** (1 / 3)
        middle = centre + aside * (size - small)
        for _ in range(2):
            core, _ = _rasterise(inner, middle, small, box, factor)
            small *= (core_mm3 / max(float(core.sum()), 1e-3)) ** (1 / 3)
        core, _ = _rasterise(inner, middle, small, box, factor)
        core = np.minimum(core, cover)
    cover = cover * inside
    return Body(kind, box, cover, core * inside, cover >= 0.5, distance, oedema_mm=halo_mm)


def _rasterise(
    shape: Shape, centre: np.ndarray, radius: float, box: tuple[slice, ...], factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each voxel inside (by ``factor`` ** 3 sub-voxels with a soft edge), and distance at voxel centres."""
    sub = (np.arange(factor) + 0.5) / factor - 0.5
    axes = [(np.arange(s.start, s.stop)[:, None] + sub[None]).ravel() - c for s, c in zip(box, centre, strict=True)]
    offset = np.stack(np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij"), -1)
    outside = shape.outside(offset, radius)
    share = np.clip(0.5 - outside * factor, 0, 1)
    if factor > 1:
        n = [s.stop - s.start for s in box]
        blocks = (n[0], factor, n[1], factor, n[2], factor)
        share = share.reshape(blocks).mean((1, 3, 5))
        outside = outside.reshape(blocks)[:, factor // 2, :, factor // 2, :, factor // 2]
    return share.astype(np.float32), outside.astype(np.float32)


def recovery(config: CohortConfig, drawn: Body, tissue: np.ndarray, level: float) -> float:
    """Intensity before blurring that shows ``level`` as the mean of the enhancing part after it (at most 3).

    Small bodies lose contrast to partial volume and to the point spread; published contrasts were measured after both.
    """
    sigma = config.psf_mm / 2.3548
    solid = drawn.solid
    if not solid.any():
        return level
    share = ndimage.gaussian_filter(drawn.cover - drawn.core, sigma)[solid].mean()
    core = ndimage.gaussian_filter(drawn.core, sigma)[solid].mean()
    around = tissue[drawn.box][solid].mean()
    rest = (1 - share - core) * around + core * drawn.core_level
    return float(np.clip((level - rest) / max(float(share), 0.15), 1.0, 3.0))


# ------------------------------------------------------------------------------------------------------ where they lie
@dataclasses.dataclass(frozen=True)
class Metastasis:
    """What stays of a lesion over all visits: identity, place and contrast (its shape follows from its number)."""

    lesion: int
    centre: np.ndarray  #: (3,) window voxels
    level: float  #: enhancing part as it shall appear in the image (white matter = 1)
    core_level: float
    core_rank: float  #: 0-1: the core shows when this lies below the share for the lesion's size
    rim_mm: float
    oedema_mm: float  #: 0 = none


def place(config: CohortConfig, index: int, host: Anatomy, table: pd.DataFrame) -> list[Metastasis]:
    """Give each lesion of ``courses`` a place: near the grey-white junction, inside brain and grid, two voxels or more
    from every other lesion at any visit. A lesion for which a small crop has no room left gets none."""
    random = rng(config.seed, "place", index)
    largest = table.groupby("lesion")["volume_cm3"].max().sort_values(ascending=False, kind="stable")
    every = (slice(None, None, 2),) * 3
    chance = junction(config, host)[every]
    depth = host.depth[every]
    grid = np.stack(np.meshgrid(*(np.arange(0, n, 2, dtype=np.float32) for n in host.mask.shape), indexing="ij"))
    low = -np.array(host.origin, np.float32)[:, None, None, None]  # the patient's grid within the window
    high = low + np.array(config.shape, np.float32)[:, None, None, None] - 1
    face = np.minimum(grid - low, high - grid).min(0)
    placed: list[Metastasis] = []
    taken: list[tuple[np.ndarray, float]] = []
    for lesion, volume in largest.items():
        shape = lesion_shape(config, index, int(lesion))
        reach = (3 * volume * 1000 / (4 * np.pi)) ** (1 / 3) * shape.reach
        inside = (face > reach + 2) & (depth > (reach + 2.5 if reach < 8 else 0.8 * reach + 2))
        for centre, other in taken:
            inside &= ((grid - centre[:, None, None, None]) ** 2).sum(0) > (reach + other + 4) ** 2
        weight = np.cumsum(np.where(inside, chance, 0).ravel(), dtype=np.float64)
        drawn, jitter = random.random(), random.uniform(-0.9, 0.9, 3)
        oedema = random.uniform(*config.oedema_mm) if random.random() < config.oedema_share else 0.0
        found = Metastasis(
            lesion=int(lesion),  # type: ignore[call-overload]
            centre=jitter,
            level=float(contrasts(config, random, 1)[0]),
            core_level=float(random.uniform(*config.necrosis_level)),
            core_rank=float(random.random()),
            rim_mm=float(config.rim_mm[0] * np.exp(random.normal(0, config.rim_mm[1]))),
            oedema_mm=float(oedema),
        )
        if weight[-1] <= 0:
            continue
        at = np.unravel_index(int(np.searchsorted(weight, drawn * weight[-1], side="right")), inside.shape)
        centre = 2.0 * np.array(at) + jitter
        placed.append(dataclasses.replace(found, centre=centre))
        taken.append((centre, float(reach)))
    return placed


def junction(config: CohortConfig, host: Anatomy) -> np.ndarray:
    """Relative chance of a metastasis at each voxel (X, Y, Z): grey-white junction times the region's weight."""
    chance = host.grey * host.white * 4 + 0.03 * (host.grey + host.white)
    x, y, z = (ndimage.zoom(m, 4, order=0)[tuple(slice(n) for n in host.mask.shape)] for m in host.mni)
    cerebellum, parietal, occipital, deep = config.regions
    weight = np.ones_like(chance)
    weight[(y < -20) & (y >= -70) & (z > 30)] = parietal
    weight[(y < -70) & (z > -15)] = occipital
    weight[(y < -42) & (z < -18)] = cerebellum
    weight[(np.abs(x) < 16) & (y > -42) & (y < 20) & (z < 22)] = deep  # brain stem, diencephalon, callosal body
    return np.clip(chance, 0, None) * weight * host.mask


def lesion_shape(config: CohortConfig, index: int, lesion: int) -> Shape:
    """The shape of a lesion, the same at every visit."""
    return draw_shape(rng(config.seed, "shape", index, lesion), config.elongation, config.irregularity)


def grow(
    config: CohortConfig, index: int, lesion: Metastasis, volume_cm3: float, within: np.ndarray, tissue: np.ndarray
) -> Body:
    """A metastasis at one visit: shape scaled to its volume, core and oedema by size, contrast as after blurring.

    A core leaves the lesion's rim (``rim_mm``) and fills between 3 % and ``core_share_most`` of the lesion.
    """
    volume = volume_cm3 * 1000
    core = 0.0
    if lesion.core_rank < necrosis_share(config, volume_cm3):
        radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
        free = 4 / 3 * np.pi * max(radius - lesion.rim_mm, 0) ** 3
        core = float(np.clip(free, max(0.03 * volume, 2.5), max(config.core_share_most * volume, 2.5)))
    drawn = body(
        rng(config.seed, "shape", index, lesion.lesion), kind="metastasis", centre=lesion.centre, volume_mm3=volume,
        within=within, elongation=config.elongation, irregularity=config.irregularity,
        least_voxels=config.least_voxels, core_mm3=core,
        halo_mm=lesion.oedema_mm if volume_cm3 >= config.oedema_from_cm3 else 0.0,
    )  # fmt: skip
    drawn = dataclasses.replace(drawn, core_level=lesion.core_level)
    return dataclasses.replace(drawn, level=recovery(config, drawn, tissue, lesion.level))
