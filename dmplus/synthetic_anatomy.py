"""Anatomy of a synthetic patient: an asymmetric smooth warp of a template (ICBM152), with sulci of its own.

Everything is computed in a window: the part of the patient's grid that holds brain, plus a margin, in voxels of 1 mm.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from dmplus.runtime import InputError, named, rng
from dmplus.synthetic_config import CohortConfig

MARGIN = 6  #: voxels around the window, so that blurring and misregistration never reach an edge
WHITE = 223  #: median of white matter in a template's T1
DETAIL_MM = 1.5  #: scale of the detail that sharpening adds again


@dataclasses.dataclass(frozen=True)
class Template:
    """A template around the brain, 1 mm, RAS+; ``origin`` = voxel (0, 0, 0) in MNI mm."""

    channels: torch.Tensor  #: (4, X, Y, Z) float32: T1 / white matter, grey, white probability, brain mask
    detail: torch.Tensor  #: (1, X, Y, Z) float32: what the T1 loses by smoothing with DETAIL_MM
    inwards: np.ndarray  #: (X/2, Y/2, Z/2) float32: mm to the brain's border, negative outside
    origin: np.ndarray  #: (3,) mm
    sha256: str  #: of the file it was read from


def template(path: str = "") -> Template:
    """The shipped template (ICBM152 2009a, assets/template.npz; copyright notice beside it), or that of the .npz at
    ``path``, made by assets/make_colin27.py. Each is read once. Raises ``InputError`` for a file that is none."""
    return _template(os.path.abspath(path) if path else "")


@functools.cache
def _template(path: str) -> Template:
    source = Path(path) if path else importlib.resources.files("dmplus") / "assets" / "template.npz"
    try:
        content = source.read_bytes()
        t1, gm, wm, mask, origin = _arrays(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        came = (
            error.strerror if isinstance(error, OSError) else error if type(error) is ValueError else "a damaged file"
        )
        raise InputError(
            f"anatomy {named(path)}: expected an .npz made by dmplus/assets/make_colin27.py; got {came}; make it as its "
            "first lines say, and give the path as anatomy="
        ) from None
    t1 = t1.astype(np.float32) / WHITE
    channels = np.stack([t1, gm.astype(np.float32) / 16, wm.astype(np.float32) / 16, mask.astype(np.float32)])
    detail = t1 - ndimage.gaussian_filter(t1, DETAIL_MM)
    half = np.pad(mask[::2, ::2, ::2], 2)  # padded, so that the template's faces are borders, too
    inwards = 2 * (ndimage.distance_transform_edt(half) - ndimage.distance_transform_edt(1 - half))[2:-2, 2:-2, 2:-2]
    return Template(
        torch.from_numpy(channels), torch.from_numpy(detail)[None], inwards.astype(np.float32), origin,
        hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


def _arrays(content: bytes) -> tuple[np.ndarray, ...]:
    """t1, gm16, wm16, mask (X, Y, Z) uint8 and origin (3,) of a template's file; ValueError says what is wrong."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("another kind of file")
    with np.load(io.BytesIO(content), allow_pickle=False) as z:
        missing = [k for k in ("t1", "gm16", "wm16", "mask", "origin") if k not in z]
        if missing:
            raise ValueError(f"a file without {', '.join(missing)}")
        t1, gm, wm, packed, origin = (z[k] for k in ("t1", "gm16", "wm16", "mask", "origin"))
    volumes = [a.dtype == np.uint8 and a.ndim == 3 and a.shape == t1.shape for a in (t1, gm, wm)]
    if not all(volumes) or packed.dtype != np.uint8 or packed.size != -(-t1.size // 8) or origin.shape != (3,):
        raise ValueError(f"arrays of other types or shapes (t1 {t1.dtype} {t1.shape})")
    mask = np.unpackbits(packed, count=t1.size).reshape(t1.shape)
    white = t1[(wm >= 15) & (mask > 0)]
    if not len(white) or abs(np.median(white) - WHITE) > 0.05 * WHITE:
        raise ValueError(
            f"white matter at {np.median(white):.0f} instead of {WHITE}" if len(white) else "no white matter"
        )
    return t1, gm, wm, mask, origin.astype(np.float64)


# --------------------------------------------------------------------------------------------------- smooth random fields
def _spline(n: int, spacing: float, derivative: bool = False) -> np.ndarray:
    """Cubic B-spline basis (n, control points) at voxels 0..n-1, or its derivative per voxel."""
    count = int(np.ceil(n / spacing)) + 4
    at = np.arange(n)[:, None] / spacing - (np.arange(count)[None] - 1.5)
    a = np.abs(at)
    if derivative:
        slope = np.where(a < 1, -2 * a + 1.5 * a**2, np.where(a < 2, -0.5 * (2 - a) ** 2, 0))
        return (np.sign(at) * slope / spacing).astype(np.float32)
    return np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.where(a < 2, (2 - a) ** 3 / 6, 0)).astype(np.float32)


def smooth_field(
    random: np.random.Generator, shape: tuple[int, ...], spacing: float, *, gradient: bool = False
) -> np.ndarray:
    """A smooth Gaussian random field (X, Y, Z) of unit variance, twice differentiable: cubic B-splines on a control
    grid of ``spacing`` voxels. With ``gradient``, (4, X, Y, Z): the field and its three derivatives per voxel."""
    bases = [_spline(n, spacing) for n in shape]
    control = random.standard_normal([b.shape[1] for b in bases], dtype=np.float32)
    control /= 0.479**1.5  # the mean sum of squares of a cubic B-spline basis along one axis is 0.479

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        out = np.tensordot(a, control, (1, 0))  # (X, b, c)
        out = np.matmul(b, out)  # (X, Y, c)
        return (out.reshape(-1, len(c.T)) @ c.T).reshape(len(a), len(b), len(c))  # one product of two matrices

    if not gradient:
        return product(*bases)
    slopes = [_spline(n, spacing, derivative=True) for n in shape]
    a, b, c = bases
    return np.stack([product(a, b, c), product(slopes[0], b, c), product(a, slopes[1], c), product(a, b, slopes[2])])


def sample(volume: torch.Tensor, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of ``volume`` (C, X, Y, Z) at voxel positions ``at`` (3, ...) → (C, ...); clamped at edges."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32)
    points = torch.from_numpy(np.ascontiguousarray(at, np.float32)).reshape(3, 1, 1, -1)
    scaled = points * (2 / (size - 1)).view(3, 1, 1, 1) - 1
    grid = scaled.flip(0).movedim(0, -1)[None]  # torch orders the last axis first
    out = torch.nn.functional.grid_sample(volume[None], grid, align_corners=True, padding_mode="border")
    return out[0].reshape(volume.shape[0], *at.shape[1:]).numpy()


# ------------------------------------------------------------------------------------------------------------- anatomy
@dataclasses.dataclass(frozen=True)
class Anatomy:
    """A patient without contrast agent and without lesions. Arrays are (X, Y, Z) of the window, float32 unless noted."""

    origin: tuple[int, int, int]  #: the window's first voxel on the patient's grid (negative in a crop's margin)
    tissue: np.ndarray  #: intensity, white matter = 1
    grey: np.ndarray  #: share of grey matter
    white: np.ndarray  #: share of white matter
    mask: np.ndarray  #: bool, brain
    depth: np.ndarray  #: mm to the brain's border, 0 outside; a crop's faces are no border
    mni: np.ndarray  #: (3, X/4, Y/4, Z/4) position in the template, mm, at every fourth voxel
    place: Placement
    warp: np.ndarray  #: (3, X/4, Y/4, Z/4) displacement in template voxels, at every fourth voxel
    source: Template

    @property
    def litres(self) -> float:
        return float(np.count_nonzero(self.mask)) / 1e6

    def from_mni(self, points: np.ndarray) -> np.ndarray:
        """Window positions (N, 3) in voxels of template positions (N, 3) in mm: the inverse of the warp, by iteration."""
        target = points - self.source.origin
        at = self.place.to_window(target)
        for _ in range(8):
            shift = self.coarse(self.warp, at)
            at = self.place.to_window(target - shift)
        return at

    def coarse(self, field: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Values (N, C) of a field (C, X/4, Y/4, Z/4) at window positions (N, 3), linear."""
        return sample(torch.from_numpy(field), (at / 4).T).T


@dataclasses.dataclass(frozen=True)
class Placement:
    """Rigid and scaling part of window → template: template voxel = matrix @ (window voxel - centre) + middle."""

    matrix: np.ndarray
    centre: np.ndarray
    middle: np.ndarray

    def to_window(self, voxels: np.ndarray) -> np.ndarray:
        return (voxels - self.middle) @ np.linalg.inv(self.matrix).T + self.centre

    def to_template(self, voxels: np.ndarray) -> np.ndarray:
        return (voxels - self.centre) @ self.matrix.T + self.middle


def anatomy(config: CohortConfig, index: int) -> Anatomy:
    """The brain of patient ``index``: head size, tilt and asymmetric warp of the template, contrast, sulci, texture."""
    random = rng(config.seed, "anatomy", index)
    source = template(config.anatomy)
    place, origin, shape = _placement(config, random, source)
    warp = np.zeros((3, *shape), np.float32)
    for amplitude, spacing in zip(config.warp_mm, config.warp_spacing_mm, strict=True):
        for axis in range(3):
            warp[axis] += amplitude * smooth_field(random, shape, spacing)
    at = _affine_grid(place, shape)
    at += warp
    t1, grey, white, inside = sample(source.channels, at)
    t1 += config.sharpening * sample(source.detail, at)[0]
    mask = inside >= 0.5
    depth = _depth(mask)
    mni = at[:, ::4, ::4, ::4] + source.origin[:, None, None, None].astype(np.float32)
    levels = {k: float(np.clip(random.normal(*v), v[0] - 2 * v[1], v[0] + 2 * v[1])) for k, v in
              (("grey", config.grey), ("fluid", config.fluid))}  # fmt: skip
    tissue = np.interp(t1, (0, 0.30, 0.735, 1.0, 1.3), (0.05, levels["fluid"], levels["grey"], 1.0, 1.2)).astype(
        np.float32
    )
    _sulci(config, random, tissue, grey, white, depth, mni, levels)
    noise = ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), config.texture_mm)
    tissue += (config.texture / max(float(noise.std()), 1e-6)) * noise * np.clip(grey + white, 0, 1)
    return Anatomy(
        origin, np.maximum(tissue, 0.02), grey, white, mask, depth, mni, place, warp[:, ::4, ::4, ::4].copy(), source
    )


def _placement(
    config: CohortConfig, random: np.random.Generator, source: Template
) -> tuple[Placement, tuple[int, int, int], tuple[int, int, int]]:
    """Head size and tilt, and the window: the grid where the brain can be, or the crop with its margin."""
    mean, sd, least, most = config.scale
    scale = float(np.clip(random.normal(mean, sd), least, most))
    a, b, c = np.radians(np.clip(random.normal(0, config.rotation_deg, 3), -10, 10))
    ca, sa, cb, sb, cc, sc = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(c), np.sin(c)
    turn = (
        np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        @ np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        @ np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    )
    size = np.array(source.channels.shape[1:])
    reach = size * scale / 2 + 4  # half the brain's box and what a tilt adds
    grid = np.array(config.shape)
    # Where the brain's middle lies on the patient's grid: a crop may lie anywhere inside the brain, most often centred.
    slack = np.maximum(reach - 6 - grid / 2, 0)
    centre = grid / 2 - 0.5 + random.uniform(-0.85, 0.85, 3) * slack
    first = np.maximum(np.floor(centre - reach - MARGIN), -MARGIN).astype(int)
    last = np.minimum(np.ceil(centre + reach + MARGIN), grid + MARGIN).astype(int)
    place = Placement(turn / scale, centre - first, (size - 1) / 2)
    return place, tuple(int(v) for v in first), tuple(int(v) for v in last - first)  # type: ignore[return-value]


def _affine_grid(place: Placement, shape: tuple[int, int, int]) -> np.ndarray:
    """Template voxel of every window voxel, (3, X, Y, Z) float32."""
    start = place.to_template(np.zeros((1, 3)))[0]
    steps = [place.matrix[:, k, None, None, None] * np.arange(n).reshape([-1 if k == j else 1 for j in range(3)])
             for k, n in enumerate(shape)]  # fmt: skip
    return (start[:, None, None, None] + steps[0] + steps[1] + steps[2]).astype(np.float32)


def _depth(mask: np.ndarray) -> np.ndarray:
    """mm to the nearest voxel outside the brain, on a 2 mm grid interpolated back (faces of the window do not count)."""
    if mask.all():
        return np.full(mask.shape, 60, np.float32)
    half = ndimage.distance_transform_edt(mask[::2, ::2, ::2]).astype(np.float32) * 2
    back = torch.nn.functional.interpolate(torch.from_numpy(half)[None, None], scale_factor=2, mode="trilinear")
    back = back[0, 0].numpy()[: mask.shape[0], : mask.shape[1], : mask.shape[2]]
    return back * mask


def _sulci(
    config: CohortConfig, random: np.random.Generator, tissue: np.ndarray, grey: np.ndarray, white: np.ndarray,
    depth: np.ndarray, mni: np.ndarray, levels: dict[str, float],
) -> None:  # fmt: skip
    """Give the averaged cortex folds of its own, in place: sheets of fluid with a ribbon of grey matter on both sides.

    The sheets are the zero surfaces of a smooth random field, |field| / |gradient| being the distance to them.
    """
    field, *slopes = smooth_field(random, tissue.shape, config.sulcus_spacing_mm, gradient=True)
    distance = np.abs(field) / np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2 + 1e-4)
    # Folds belong to the cortex: near the surface, where the template (smoothed) shows grey matter.
    cortex = ndimage.zoom(ndimage.gaussian_filter(grey[::4, ::4, ::4], 1.0), 4, order=1, grid_mode=True, mode="nearest")
    cortex = cortex[: grey.shape[0], : grey.shape[1], : grey.shape[2]]
    band = np.clip((22 - depth) / 10, 0, 1) * np.clip((cortex - 0.2) / 0.3, 0, 1)
    band *= np.clip(0.55 + 0.5 * smooth_field(random, tissue.shape, 9), 0, 1)  # folds differ in depth and end somewhere
    x, y, z = (ndimage.zoom(m, 4, order=1, grid_mode=True, mode="nearest") for m in mni)
    stem = (np.abs(x) < 18) & (y > -44) & (y < 0) & (z < -8)
    band[stem[tuple(slice(n) for n in band.shape)]] = 0
    ribbon = np.exp(-((distance / 2.6) ** 4)) * band * white
    tissue += ribbon * (levels["grey"] - tissue)
    grey += ribbon
    white -= ribbon
    width = random.uniform(*config.sulcus_width_mm)
    sheet = config.sulcus_depth * np.exp(-((distance / width) ** 2)) * band
    tissue += sheet * (levels["fluid"] - tissue)
    grey *= 1 - sheet
    white *= 1 - sheet
