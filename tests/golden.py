"""The golden numbers of the authors' program that lie in ``tests/data``, cut by ``make_golden.py`` from the full files.

The network inputs are not stored: they are standard normal numbers of ``numpy.random.RandomState(SEEDS[...])``, drawn
again by :func:`inputs`; ``make_golden.py`` checks that they are the very same. Probabilities are those of the
foreground, the other class being one minus it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dmplus.network import DeepMedic, NetworkConfig
from dmplus.tf_checkpoint import assign

DATA = Path(__file__).parent / "data"
FULL = Path(__file__).parents[2] / "shared" / "reference" / "golden"  #: the uncut files, where they are
TINY = NetworkConfig(features=tuple(range(4, 13)), fully_connected=(20, 20))
INPUTS = ("x", "x_prior", "x_sub_0", "x_sub_1")
SEEDS = {"inference": 1235, "training": 99}
SHAPES = {  #: batch and edges of the inputs, in the order in which they were drawn
    "inference": [("train", 2, (37, 37, 25, 22)), ("test", 2, (45, 45, 27, 24)), ("val", 2, (19, 19, 19, 19))],
    "training": [(f"step{s}", 4, (37, 37, 25, 22)) for s in range(3)],
}
SCALE = 65535  #: the stitched map is stored in steps of 1/65535, a seventh of the tolerance


def inputs(kind: str) -> dict[str, dict[str, np.ndarray]]:
    """Set or step → input name → float32 (B, 1, X, Y, Z)."""
    random = np.random.RandomState(SEEDS[kind])
    return {
        name: {k: random.randn(b, 1, n, n, n).astype(np.float32) for k, n in zip(INPUTS, edges, strict=True)}
        for name, b, edges in SHAPES[kind]
    }


def variables() -> dict[str, np.ndarray]:
    """The authors' variables by name."""
    with np.load(DATA / "deepmedic_plus_tiny.npz") as z:
        return {k[4:]: z[k] for k in z.files if k.startswith("var/")}


def tiny(config: NetworkConfig = TINY) -> DeepMedic:
    """The authors' tiny network, ready for inference."""
    return assign(DeepMedic(config), variables()).eval()


def call(x: dict[str, np.ndarray]) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """The inputs as :meth:`DeepMedic.probabilities` takes them."""
    t = {k: torch.from_numpy(v) for k, v in x.items()}
    return t["x"], [t["x_sub_0"], t["x_sub_1"]], t["x_prior"]
