"""What enhances without being a metastasis: vessels, sinuses and dura, choroid plexus, persistent blobs and spots.

Vessels are drawn as unions of densely spaced balls along smooth tapered curves, so that thin ones do not break into
beads on the voxel grid. Everything here is drawn once per patient; the scanner varies its brightness between visits.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from dmplus.runtime import rng
from dmplus.synthetic_anatomy import Anatomy, smooth_field
from dmplus.synthetic_config import CohortConfig
from dmplus.synthetic_lesions import Body, body, contrasts, recovery, size_law

#: Values of a visit's ``lookalikes`` map.
LOOKALIKES = {"vessel": 1, "sinus or dura": 2, "choroid plexus": 3, "blob": 4, "spot": 5}

STEP_MM = 0.5  #: spacing of the balls along a vessel
TAPER_MM = 4.0  #: a vessel's end narrows over this length
SHOWN = 0.35  #: covered share of a voxel from which it belongs to the map of look-alikes

# Vessels with a name: (points in MNI mm, radius at both ends in mm). Right side; x is mirrored for the left.
_NAMED = {
    "basilar": ([(0, -30, -50), (1, -26, -38), (0, -20, -28), (0, -17, -19)], 1.7, 1.5),
    "middle cerebral": ([(6, -1, -16), (18, 3, -17), (30, 2, -18), (38, 0, -10), (41, -8, 2), (42, -22, 14)], 1.5, 0.8),
    "middle cerebral 2": ([(32, 4, -18), (40, 12, -8), (42, 16, 4), (46, 10, 18)], 1.1, 0.7),
    "anterior cerebral": ([(5, 1, -15), (3, 14, -14), (3, 28, -8), (3, 38, 4), (3, 34, 20), (3, 16, 32), (3, -8, 38)], 1.3, 0.7),
    "posterior cerebral": ([(3, -17, -19), (15, -20, -17), (22, -32, -10), (18, -48, -2), (12, -66, 4)], 1.3, 0.7),
    "internal cerebral vein": ([(2, -2, 12), (3, -14, 14), (3, -28, 12), (1, -40, 8)], 0.9, 1.2),
    "basal vein": ([(12, -6, -14), (18, -20, -12), (14, -32, -4), (3, -40, 6)], 0.8, 1.1),
    "thalamostriate vein": ([(14, -24, 20), (11, -12, 19), (6, -4, 16), (2, -2, 12)], 0.7, 0.9),
}  # fmt: skip
_PLEXUS = [(5, -6, 14), (10, -16, 18), (16, -28, 18), (22, -38, 12), (25, -42, 6), (28, -36, -2), (30, -26, -10)]
_STRAIGHT = [(0, -41, 7), (0, -52, 2), (0, -66, -3), (0, -82, -8), (0, -97, -10)]
_TRANSVERSE = [(2, -100, -10), (20, -96, -16), (38, -84, -22), (52, -66, -28), (57, -52, -32), (50, -42, -44)]


@dataclasses.dataclass(frozen=True)
class Lookalikes:
    """Enhancing structures of one patient on its window, (X, Y, Z)."""

    cover: np.ndarray  #: float32, share of the voxel inside a vessel, sinus, dura or plexus
    level: np.ndarray  #: float32, its intensity with contrast agent (white matter = 1), 0 elsewhere
    blood: np.ndarray  #: float32, its intensity without contrast agent
    bodies: tuple[Body, ...]  #: blobs and spots
    kinds: np.ndarray  #: uint8, LOOKALIKES


@dataclasses.dataclass(frozen=True)
class _Tubes:
    """Balls along curves: positions (N, 3) in voxels, radius and level (N,)."""

    at: np.ndarray
    radius: np.ndarray
    level: np.ndarray

    @staticmethod
    def join(parts: list[_Tubes]) -> _Tubes:
        return _Tubes(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("at", "radius", "level")))


def lookalikes(config: CohortConfig, index: int, host: Anatomy, taken: np.ndarray) -> Lookalikes:
    """Draw everything that enhances without being a metastasis in patient ``index``.

    ``taken`` bool (X, Y, Z): voxels near a metastasis at any visit, where no blob or spot may lie.
    """
    random = rng(config.seed, "vessels", index)
    vessels = _Tubes.join([_free_vessels(config, random, host), _named_vessels(config, random, host)])
    sinuses = _sinuses(config, random, host)
    plexus = _plexus(random, host)
    shape = host.mask.shape
    cover, level = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    kinds, blood = np.zeros(shape, np.uint8), np.full(shape, config.blood, np.float32)
    for kind, tubes in (("vessel", vessels), ("sinus or dura", sinuses), ("choroid plexus", plexus)):
        _paint(tubes, kind, cover, level, kinds)
    _dura(config, random, host, cover, level, kinds)
    blood[kinds == LOOKALIKES["choroid plexus"]] = 0.6
    cover *= host.mask
    kinds *= host.mask
    bodies = _bodies(config, index, host, taken, kinds)
    for each in bodies:
        part = kinds[each.box]
        part[each.label] = LOOKALIKES[each.kind]
    return Lookalikes(cover, level, blood, bodies, kinds)


def _paint(tubes: _Tubes, kind: str, cover: np.ndarray, level: np.ndarray, kinds: np.ndarray) -> None:
    """Draw balls into ``cover`` (the larger one wins), ``level`` (mean weighted by cover) and ``kinds``, in place."""
    shape = np.array(cover.shape)
    own = np.zeros(cover.size, np.float32)
    weight, weighted = np.zeros(cover.size), np.zeros(cover.size)
    for reach in range(1, 7):  # balls by size, so that each is compared only with the voxels it can touch
        chosen = np.ceil(tubes.radius + 0.5).astype(int) == reach
        if reach == 1:
            chosen |= tubes.radius <= 0.5
        at, radius, value = tubes.at[chosen], tubes.radius[chosen], tubes.level[chosen]
        near = np.rint(at).astype(int)
        inside = np.all((near >= reach) & (near < shape - reach), axis=1)
        at, radius, value, near = at[inside], radius[inside], value[inside], near[inside]
        if not len(at):
            continue
        span = np.arange(-reach, reach + 1)
        offsets = np.stack(np.meshgrid(span, span, span, indexing="ij"), -1).reshape(-1, 3)
        offsets = offsets[(offsets**2).sum(1) <= (reach + 1) ** 2]
        delta = near - at  # (N, 3), within half a voxel
        squared = (delta**2).sum(1)[:, None] + 2 * delta @ offsets.T + (offsets**2).sum(1)[None]
        share = np.clip(0.5 + radius[:, None] - np.sqrt(np.maximum(squared, 0)), 0, 1).astype(np.float32)
        flat = np.ravel_multi_index(near.T, cover.shape)[:, None] + offsets @ np.array(
            [shape[1] * shape[2], shape[2], 1]
        )
        used = share > 0
        flat, share = flat[used], share[used]
        np.maximum.at(own, flat, share)
        values = np.broadcast_to(value[:, None], used.shape)[used]
        weight += np.bincount(flat, share, minlength=own.size)
        weighted += np.bincount(flat, share * values, minlength=own.size)
    own = own.reshape(cover.shape)
    better = own > cover
    mean = (weighted / np.maximum(weight, 1e-6)).reshape(cover.shape)
    level[better] = mean[better]
    cover[better] = own[better]
    kinds[better & (own >= SHOWN)] = LOOKALIKES[kind]


# -------------------------------------------------------------------------------------------------------------- vessels
def _free_vessels(config: CohortConfig, random: np.random.Generator, host: Anatomy) -> _Tubes:
    """Veins on the cortex, vessels along sulci, thin veins in white matter; all walk at once, then their branches."""
    least, most = config.vessel_radius_mm
    fluid = np.clip(1 - host.grey - host.white, 0, 1) * host.mask
    half = ndimage.gaussian_filter(fluid[::2, ::2, ::2], 1.0)
    pull = np.stack(np.gradient(half))  # towards fluid
    depth = host.depth[::2, ::2, ::2]
    inwards = np.stack(np.gradient(ndimage.gaussian_filter(depth, 1.0)))
    white = host.white[::2, ::2, ::2]
    kinds = (
        # per litre, where they start, mean length and sd of ln, radius spread, pull to fluid, wanted depth (None: free)
        (config.surface_veins, (depth > 0) & (depth < 4), 26.0, 0.55, 1.0, 1.5),
        (config.sulcal_vessels, (depth >= 4) & (depth < 34) & (half > 0.25), 18.0, 0.15, 2.5, None),
        (config.medullary_veins, (depth > 14) & (white > 0.8), 16.0, 0.05, 0.0, None),
    )
    parts = []
    for density, where, length, spread, strength, wanted in kinds:
        places = np.argwhere(where)
        count = int(random.poisson(density * host.litres))
        if not count or not len(places):
            continue
        at = 2.0 * places[random.integers(len(places), size=count)] + random.uniform(-1, 1, (count, 3))
        heading = random.standard_normal((count, 3))
        radius = np.clip(least + random.exponential(spread, count), least, most)
        reach = length * np.exp(random.normal(0, 0.5, count)) * (0.7 + 0.3 * radius / least)
        level = random.uniform(*config.vessel_level, count)
        for generation in range(3):
            walked = _walk(random, at, heading, radius, reach, level, pull, strength, inwards, depth, wanted)
            parts.append(walked[0])
            if generation == 2:
                break
            at, heading, radius, level, reach = _branches(config, random, walked, radius, level, reach)
            if not len(at):
                break
    if not parts:
        return _Tubes(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    return _Tubes.join(parts)


def _walk(
    random: np.random.Generator, at: np.ndarray, heading: np.ndarray, radius: np.ndarray, reach: np.ndarray,
    level: np.ndarray, pull: np.ndarray, strength: float, inwards: np.ndarray, depth: np.ndarray, wanted: float | None,
) -> tuple[_Tubes, np.ndarray, np.ndarray]:  # fmt: skip
    """Smooth random walks: (balls, positions (steps, N, 3), headings). The turn itself is a smooth random process."""
    limit = np.array(depth.shape) - 1
    heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
    steps = np.minimum(np.ceil(reach / STEP_MM).astype(int), 160)
    track, headings = [at], [heading]
    turn = random.standard_normal(at.shape) * 0.05
    for _ in range(int(steps.max()) - 1):
        i, j, k = np.clip(np.rint(at / 2).astype(int), 0, limit).T
        turn = 0.93 * turn + 0.018 * random.standard_normal(at.shape)
        steer = turn + 0.05 * strength * pull[:, i, j, k].T
        if wanted is not None:
            off = np.clip((wanted - depth[i, j, k]) / 4, -0.5, 0.5)[:, None]
            steer = steer + 0.15 * off * inwards[:, i, j, k].T
        heading = heading + steer
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        at = at + STEP_MM * heading
        track.append(at)
        headings.append(heading)
    path, ways = np.stack(track), np.stack(headings)
    order = np.arange(len(path))[:, None]
    alive = order < steps[None]
    left = (steps[None] - order) * STEP_MM
    thick = radius[None] * (1 - 0.35 * order / steps[None])
    thick = np.maximum(thick, 0.55) * np.clip(0.35 + 0.65 * left / TAPER_MM, 0, 1)
    tubes = _Tubes(path[alive], thick[alive], np.broadcast_to(level[None], alive.shape)[alive])
    return tubes, path, ways


def _branches(
    config: CohortConfig, random: np.random.Generator, walked: tuple[_Tubes, np.ndarray, np.ndarray],
    radius: np.ndarray, level: np.ndarray, reach: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Starts of branches on the walks: position, heading (30-60 degrees off), radius, level, length."""
    _, path, ways = walked
    parent = np.repeat(np.arange(len(radius)), random.poisson(config.vessel_branches, len(radius)))
    steps = np.minimum(np.ceil(reach / STEP_MM).astype(int), len(path))
    where = (random.uniform(0.1, 0.85, len(parent)) * steps[parent]).astype(int)
    way = ways[where, parent]
    side = random.standard_normal(way.shape)
    side -= (side * way).sum(1, keepdims=True) * way
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    angle = random.uniform(0.5, 1.05, (len(parent), 1))
    thick = np.maximum(radius[parent] * random.uniform(0.6, 0.9, len(parent)), config.vessel_radius_mm[0])
    length = reach[parent] * random.uniform(0.4, 0.8, len(parent))
    return path[where, parent], np.cos(angle) * way + np.sin(angle) * side, thick, level[parent], length


def _curve(host: Anatomy, points: np.ndarray, radii: np.ndarray, level: float, *, border: bool = False) -> _Tubes:
    """Balls along a smooth curve through ``points`` (N, 3) in MNI mm; ``border`` moves it onto the brain's border."""
    corner = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    along = np.arange(0, corner[-1], STEP_MM)
    line = np.stack([np.interp(along, corner, points[:, k]) for k in range(3)], 1)
    line = ndimage.gaussian_filter1d(line, 4 / STEP_MM, axis=0, mode="nearest")
    if border:
        inwards, origin = host.source.inwards, host.source.origin
        slope = np.stack(np.gradient(ndimage.gaussian_filter(inwards, 1.0)), -1) / 2
        for _ in range(12):
            i, j, k = np.clip(np.rint((line - origin) / 2).astype(int), 0, np.array(inwards.shape) - 1).T
            line = line + np.clip(1.5 - inwards[i, j, k], -4, 4)[:, None] * 0.5 * slope[i, j, k]
            line = ndimage.gaussian_filter1d(line, 2 / STEP_MM, axis=0, mode="nearest")
    at = host.from_mni(line)
    radius = np.interp(along, corner, radii)
    return _Tubes(at, radius, np.full(len(at), level))


def _named_vessels(config: CohortConfig, random: np.random.Generator, host: Anatomy) -> _Tubes:
    parts = []
    for name, (points, first, last) in _NAMED.items():
        for side in (1, -1) if name != "basilar" else (1,):
            if random.random() < 0.12:  # not every scan shows every vessel
                continue
            moved = np.array(points, float) * (side, 1, 1) + random.normal(0, 2.0, (len(points), 3)) * (0.5, 1, 1)
            size = np.linspace(first, last, len(points)) * 0.75 * np.exp(random.normal(0, 0.2))
            level = random.uniform(*config.vessel_level)
            parts.append(_curve(host, moved, np.clip(size, *config.vessel_radius_mm), level))
    return _Tubes.join(parts)


def _sinuses(config: CohortConfig, random: np.random.Generator, host: Anatomy) -> _Tubes:
    """Superior sagittal, straight and transverse sinuses along the template's border."""
    low, high = config.vessel_level
    level = random.uniform(low + 0.5 * (high - low), high)
    source = host.source
    middle, distance = np.array([0.0, -18.0, 8.0]), np.arange(20, 110, 1.0)
    points = []
    for angle in np.radians(np.linspace(60, -155, 30)):  # from the forehead over the vertex to the occiput
        ray = middle + distance[:, None] * np.array([0.0, np.sin(angle), np.cos(angle)])
        voxel = np.clip(np.rint((ray - source.origin) / 2).astype(int), 0, np.array(source.inwards.shape) - 1)
        inside = source.inwards[tuple(voxel.T)] > 0
        points.append(ray[np.flatnonzero(inside)[-1]] if inside.any() else ray[0])
    sagittal = np.array(points)
    sagittal = sagittal[sagittal[:, 2] > -12]
    grow = np.exp(random.normal(0, 0.12))
    bend = np.cumsum(random.normal(0, 0.35, len(sagittal)))  # the sinus is rarely exactly in the middle
    sagittal[:, 0] += bend - bend.mean()
    parts = [_curve(host, sagittal, np.linspace(1.3, 3.6, len(sagittal)) * grow, level, border=True)]
    straight = np.array(_STRAIGHT, float) + random.normal(0, 1.0, (len(_STRAIGHT), 3))
    parts.append(_curve(host, straight, np.linspace(1.6, 2.2, len(straight)) * grow, level))
    dominant = random.uniform(0.65, 1.0, 2)
    for side, size in zip((1, -1), dominant, strict=True):
        points = np.array(_TRANSVERSE, float) * (side, 1, 1) + random.normal(0, 1.5, (len(_TRANSVERSE), 3))
        parts.append(_curve(host, points, np.full(len(points), 3.4 * size) * grow, level, border=True))
    return _Tubes.join(parts)


def _plexus(random: np.random.Generator, host: Anatomy) -> _Tubes:
    """Choroid plexus of the lateral ventricles: lumpy strands, most of them in the atrium."""
    parts = []
    for side in (1, -1):
        level = random.uniform(1.35, 1.9)
        size = np.exp(random.normal(0, 0.15))
        for _ in range(int(random.integers(3, 6))):
            first = int(random.integers(0, 4))
            some = np.array(_PLEXUS[first : first + 4], float)
            some = some * (side, 1, 1) + random.normal(0, 1.0, some.shape)
            tubes = _curve(host, some, np.full(len(some), 0.9 * size), level)
            wave = ndimage.gaussian_filter1d(random.standard_normal((len(tubes.at), 3)), 4, axis=0)
            lumps = np.exp(ndimage.gaussian_filter1d(random.normal(0, 1.5, len(tubes.radius)), 3))
            parts.append(_Tubes(tubes.at + 3.5 * wave, np.clip(tubes.radius * lumps, 0.4, 2.2), tubes.level))
    return _Tubes.join(parts)


def _dura(
    config: CohortConfig, random: np.random.Generator, host: Anatomy, cover: np.ndarray, level: np.ndarray,
    kinds: np.ndarray,
) -> None:  # fmt: skip
    """Patches of the brain's border where dura enhances, in place."""
    inner = ndimage.binary_erosion(host.mask, border_value=1)
    shell = host.mask & ~inner
    patch = smooth_field(random, host.mask.shape, 14)
    edge = np.quantile(patch[shell], 1 - config.dura_share) if shell.any() else 0
    share = np.clip((patch - edge) / 0.4, 0, 1) * 0.8 * shell
    better = share > cover
    cover[better] = share[better]
    level[better] = random.uniform(config.vessel_level[0], sum(config.vessel_level) / 2)
    kinds[better & (share >= SHOWN)] = LOOKALIKES["sinus or dura"]


# ------------------------------------------------------------------------------------------------------ blobs and spots
def _bodies(config: CohortConfig, index: int, host: Anatomy, taken: np.ndarray, kinds: np.ndarray) -> tuple[Body, ...]:
    """Persistent ambiguous blobs (elongated, anywhere) and round spots with size and contrast of small metastases."""
    random = rng(config.seed, "persistent", index)
    blocked = taken.copy()
    grid = _grid_box(config, host)
    litres = float(np.count_nonzero(host.mask[grid])) / 1e6
    allowed = np.zeros_like(blocked)
    allowed[grid] = host.mask[grid] & (host.depth[grid] > 4)
    found = []
    for kind, density in (("blob", config.blobs), ("spot", config.spots)):
        for _ in range(int(random.poisson(density * litres))):
            if kind == "spot":
                volume = size_law(config, random, 1, config.spot_volume_cm3)[0]
                long, rough, weight = 0.06, 0.02, host.grey * host.white
            else:
                low, high = np.log(config.blob_volume_cm3)
                volume = float(np.exp(random.uniform(low, high)))
                long, rough, weight = 0.38, 0.12, 0.05 + np.clip(1 - host.white, 0, 1)
            radius = (3 * volume * 1000 / (4 * np.pi)) ** (1 / 3)
            places = np.argwhere(allowed & ~blocked & (host.depth > radius + 2))
            if not len(places):
                continue
            chances = weight[tuple(places.T)].astype(np.float64) + 1e-6
            centre = places[random.choice(len(places), p=chances / chances.sum())] + random.uniform(-0.5, 0.5, 3)
            shape_seed = int(random.integers(2**31))
            level = float(contrasts(config, random, 1)[0])
            drawn = body(
                rng(shape_seed, "shape"), kind=kind, centre=centre, volume_mm3=volume * 1000, within=host.mask,
                elongation=long, irregularity=rough, least_voxels=config.least_voxels,
            )  # fmt: skip
            found.append(dataclasses.replace(drawn, level=recovery(config, drawn, host.tissue, level)))
            reach = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in drawn.box)
            blocked[reach] = True
    return tuple(found)


def _grid_box(config: CohortConfig, host: Anatomy) -> tuple[slice, ...]:
    """The part of the window that lies on the patient's grid."""
    return tuple(
        slice(max(-o, 0), min(n - o, w)) for o, n, w in zip(host.origin, config.shape, host.mask.shape, strict=True)
    )
