"""The scanner: from a patient's anatomy and what enhances in it to one noisy visit, and a visit moved as a prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from dmplus.runtime import rng
from dmplus.synthetic_anatomy import MARGIN, Anatomy, sample, smooth_field
from dmplus.synthetic_config import CohortConfig
from dmplus.synthetic_lesions import Body
from dmplus.synthetic_lookalikes import Lookalikes


def scan(
    config: CohortConfig, key: tuple[int, int], host: Anatomy, others: Lookalikes, lesions: Sequence[Body], *,
    contrast_agent: bool = True, noise: bool = True, metastases: bool = True,
) -> np.ndarray:  # fmt: skip
    """The image of one visit on the window, float32 (X, Y, Z), raw scanner units, 0 outside the brain.

    ``key`` = (patient, visit): noise, bias field, contrast level and intensity scale belong to the visit. Without
    ``contrast_agent`` nothing enhances, without ``metastases`` the lesions are not there; all else, the noise too, stays the
    same. Without ``noise`` the image has neither noise nor bias field and white matter is 1.
    """
    random = rng(config.seed, "scanner", *key)
    shape = host.mask.shape
    grey, fluid = random.normal(0, config.contrast_jitter, 2)
    image = host.tissue + np.float32(grey - fluid) * host.grey - np.float32(fluid) * host.white
    image += np.float32(fluid)
    bolus = float(np.clip(random.normal(1, config.bolus), 1 - 2.5 * config.bolus, 1 + 2.5 * config.bolus))
    flow = smooth_field(random, shape, 30)
    wobble = random.normal(0, 0.06, len(others.bodies) + len(lesions))
    blood = others.blood
    if contrast_agent:
        blood = 1 + (others.level - 1) * np.clip(bolus * (1 + config.flow * flow), 0.4, 1.8)
    image += others.cover * (blood - image)
    for each, change in zip((*others.bodies, *(lesions if metastases else ())), wobble, strict=False):
        _put(config, image, each, host.white, bolus, float(change), contrast_agent)
    image = ndimage.gaussian_filter(image, config.psf_mm / 2.3548, truncate=3)
    image *= host.mask
    sigma = 1 / random.uniform(*config.snr)
    level = float(np.exp(random.uniform(*np.log(config.scanner_level))))
    if not noise:
        return image
    bias = smooth_field(random, shape, config.bias_spacing_mm)
    inside = bias[host.mask]
    middle, half = (inside.max() + inside.min()) / 2, max((inside.max() - inside.min()) / 2, 1e-6)
    image *= 1 + config.bias * (bias - middle) / half
    image += np.float32(sigma) * random.standard_normal(shape, dtype=np.float32)
    other = np.float32(sigma) * random.standard_normal(shape, dtype=np.float32)
    return np.sqrt(image**2 + other**2) * (np.float32(level) * host.mask)


def _put(
    config: CohortConfig, image: np.ndarray, each: Body, white: np.ndarray, bolus: float, wobble: float, agent: bool
) -> None:
    """Draw a body into the image, in place: oedema, enhancing part and necrotic core."""
    part = image[each.box]
    if each.oedema_mm > 0:
        halo = np.exp(-((np.maximum(each.distance, 0) / each.oedema_mm) ** 2)) * white[each.box]
        part += np.clip(halo, 0, 1) * np.minimum(config.oedema_level - part, 0)
    # A lesion follows the contrast level of the vessels by half, and varies by itself a little.
    level = 1 + (each.level - 1) * (1 + 0.5 * (bolus - 1) + wobble) if agent else 0.78
    solid = each.cover - each.core
    part += solid * (level - part) + each.core * (each.core_level - part)


def as_prior(config: CohortConfig, key: tuple[int, int], host: Anatomy, earlier: np.ndarray) -> np.ndarray:
    """The earlier visit's image (X, Y, Z) resampled with what registration leaves: a rigid motion and a smooth warp.

    Root mean square displacement in the brain: uniform in ``misregistration_mm``.
    """
    return sample(torch.from_numpy(earlier)[None], misregistration(config, key, host))[0] * host.mask


def misregistration(config: CohortConfig, key: tuple[int, int], host: Anatomy) -> np.ndarray:
    """Window position (3, X, Y, Z) in the earlier image of each voxel of the present one."""
    random = rng(config.seed, "misregistration", *key)
    shape = host.mask.shape
    at = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    every = (slice(None), *(slice(None, None, 4),) * 3)
    inside = host.mask[every[1:]]
    centre = (np.array(shape) / 2).reshape(3, 1, 1, 1)
    turn, shift = random.normal(0, 0.01, 3), random.normal(0, 0.6, 3)
    local = (at - centre).astype(np.float32)
    rigid = np.stack([
        shift[0] + turn[1] * local[2] - turn[2] * local[1],
        shift[1] + turn[2] * local[0] - turn[0] * local[2],
        shift[2] + turn[0] * local[1] - turn[1] * local[0],
    ]).astype(np.float32)  # fmt: skip
    smooth = np.stack([smooth_field(random, shape, 25) for _ in range(3)])
    total = random.uniform(*config.misregistration_mm)

    def size(field: np.ndarray) -> float:
        return float(np.sqrt((field[every] ** 2).sum(0)[inside].mean()))

    move = np.sqrt(config.misregistration_rigid) * rigid / size(rigid)
    move = move + np.sqrt(1 - config.misregistration_rigid) * smooth / size(smooth)
    move *= total / size(move)
    return at + np.clip(move, -MARGIN + 1, MARGIN - 1)
