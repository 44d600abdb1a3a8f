"""Small cases made of noise and bright balls, for tests that need no anatomy; the scripts beside the notebooks as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dmplus.volume import Case


def script(name: str) -> ModuleType:
    """The script notebooks/``name``.py, which is no part of the package."""
    path = Path(__file__).resolve().parents[1] / "notebooks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ball_case(seed: int, *, shape=(40, 44, 36), lesions=2, prior=True) -> Case:
    """Noise inside an ellipsoid with bright balls; the prior holds the first ball at half its radius."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    half = np.array(shape) / 2
    mask = (((grid - half + 0.5) / (half - 2)) ** 2).sum(-1) < 1
    image = draw.normal(100, 8, shape)
    earlier = draw.normal(100, 8, shape)
    label = np.zeros(shape, np.uint8)
    for k in range(lesions):
        centre = half + draw.uniform(-0.5, 0.5, 3) * half
        distance = np.linalg.norm(grid - centre, axis=-1)
        ball = (distance < draw.uniform(2, 4)) & mask
        image[ball] += 60
        label[ball] = 1
        if k == 0:
            earlier[distance < 1.5] += 60
    image, earlier = (np.where(mask, v, 0).astype(np.float32) for v in (image, earlier))
    return Case(
        name=f"case{seed}", image=image, mask=mask, prior=earlier if prior else None, label=label, patient=f"p{seed}"
    )


@pytest.fixture
def cases() -> list[Case]:
    return [ball_case(i, prior=i % 2 == 0) for i in range(4)]
