"""Cut the golden files of the authors' program to fixtures of less than 1 MB: ``make_golden.py GOLDEN_FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import golden
import numpy as np


def _write(name: str, arrays: dict[str, np.ndarray]) -> None:
    path = golden.DATA / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    size = path.stat().st_size
    print(f"{path.name}: {len(arrays)} arrays, {size / 1e6:.2f} MB")
    assert size <= 1e6


def inference(folder: Path) -> None:
    """The variables that inference reads, and the foreground probabilities of the three sets."""
    full = np.load(folder / "deepmedic_plus_tiny.npz")
    for name, arrays in golden.inputs("inference").items():
        for k, x in arrays.items():
            assert np.array_equal(x, full[f"set0/{name}/{k}"]), (name, k)
    arrays = {k: full[k] for k in full.files if k.startswith("var/") and "sharedNew" not in k}
    arrays |= {f"{name}/prob": full[f"set0/{name}/prob"][:, 1] for name in golden.inputs("inference")}
    _write("deepmedic_plus_tiny", arrays)


def training(folder: Path) -> None:
    """One file per step: costs, probabilities, gradients, and the state after it; the BN rows that it wrote."""
    full = np.load(folder / "train_step_tiny.npz")
    tiny = np.load(folder / "deepmedic_plus_tiny.npz")
    order = [str(n) for n in full["trainable_order"]]
    for s, (step, inputs) in enumerate(golden.inputs("training").items()):
        for k, x in inputs.items():
            assert np.array_equal(x, full[f"{step}/in/{k}"]), (step, k)
        assert np.array_equal(full["step0/in/y"], full[f"{step}/in/y"])
        arrays = {"y": full["step0/in/y"].astype(np.uint8), "trainable_order": np.array(order)}
        arrays |= {f"cost/{k}": full[f"{step}/cost/{k}"] for k in ("xentr", "vss", "L1", "L2", "total")}
        arrays["prob_train_mode"] = full[f"{step}/prob_train_mode"][:, 1]
        # one flat array per kind, in trainable order; gradients in steps of 1e-6, a fiftieth of their tolerance
        gradient = np.concatenate([full[f"{step}/grad/{n}"].ravel() for n in order])
        arrays["grad"] = np.rint(gradient * 1e6).astype(np.int32)
        for kind in ("accu", "vel", "var"):
            arrays[kind] = np.concatenate([full[f"{kind}{s + 1}/{n}"].ravel() for n in order])
        names = [k.split("/", 1)[1] for k in full.files if k.startswith("var0/") and "sharedNew" not in k]
        rings = [n for n in names if "Rolling" in n]
        for name in rings:  # a step writes row s of the rings of batch statistics and no other
            assert np.array_equal(*(np.delete(full[f"var{i}/{name}"], s, 0) for i in (s, s + 1)))
        arrays["ring_names"] = np.array(rings)
        arrays["rings"] = np.concatenate([full[f"var{s + 1}/{n}"][s] for n in rings])
        if s == 0:  # both files start from the same variables
            assert all(np.array_equal(full[f"var0/{n}"], tiny[f"var/{n}"]) for n in names)
        _write(f"train_{step}", arrays)


def volume(folder: Path) -> None:
    """The volume with corners, skipped tiles and slipped grids; its map before the mask is applied."""
    full = np.load(folder / "deepmedic_plus_tiny_volume2.npz")
    arrays = {"image": full["channels"][0], "prior": full["prior"][0], "mask": full["roi_mask"]}
    arrays["prob_raw"] = np.rint(full["prob_raw_unpadded_before_roi"][1] * golden.SCALE).astype(np.uint16)
    _write("volume2", arrays)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for make in (inference, training, volume):
        make(source)
