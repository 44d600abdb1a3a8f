"""Two models on a real scan without metastases, and on copies of it with implants: what ``python -m dmplus.implants`` does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus import runtime
from dmplus.implants import implant, tissue
from dmplus.metrics import label_lesions, lesion_table, summarise
from dmplus.runtime import InputError, rng
from dmplus.triage import CONFIRMED, THRESHOLD, triage
from dmplus.volume import Case, read_case, zscore

if TYPE_CHECKING:
    from dmplus.network import DeepMedic

NEAR = 10.0  #: mm around an implant within which copies are predicted and their false positives counted
MOST = 40  #: implants drawn in the montage
FILES = {
    "lesions.csv": "one row per implant and per false positive, for each model",
    "summary.csv": "numbers of each model on the untouched scan and on the copies, with 95 % intervals over copies",
    "run.json": "what was done",
    "implants.png": "implants without, with, and with the models' outlines",
}
LINES = {"implant": ("#F0E442", "dotted"), "sens": ("#56B4E9", "dashed"), "spec": ("#E69F00", "solid")}


def measure(
    case: Case, networks: dict[str, DeepMedic], *, copies: int, per_copy: int, seed: int = 0, whole: bool = False,
    tiling: str = "aligned", machine: runtime.Machine | None = None, progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:  # fmt: skip
    """Run ``networks`` ("sens", "spec" or one) on a 1 mm case without metastases and on copies of it with implants.

    Returns rows, summary and pictures. Rows: :func:`dmplus.metrics.lesion_table` by ``model`` (each network, "union", and
    "confirmed": the union's blobs with a voxel of "spec"; the peaks of both are those of the larger map), where case is
    "untouched" or "copy 1", ...; implants carry their columns of :func:`dmplus.implants.implant`, and ``found_untouched``:
    the model marks a voxel of theirs on the untouched scan. Summary: a row per model, scan ("untouched" or "implanted")
    and size; its intervals are over copies of one brain, and say nothing of other patients.

    A copy has a z-score of its own and is predicted within 10 mm of its implants, where its map is that of a prediction of
    the whole copy. A false positive of a copy is a blob that touches neither an implant nor, by less than 2 voxels, what
    the model marks on the untouched scan: one that the implants add. Through the coarse paths and the z-score they may
    add more beyond 10 mm; ``whole=True`` predicts whole copies to count these too. Raises InputError without a copy or an
    implant, and as :func:`dmplus.implants.implant`.
    """
    from dmplus.inference import predict_volume

    if copies < 1 or per_copy < 1:
        raise InputError(f"expected at least 1 copy and 1 implant in each; got {copies} and {per_copy}; ask for more")
    seen = tissue(case.image, case.mask)

    def marked(image: np.ndarray, windows: list[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mask and probability of every model, computed window by window."""
        normal, maps = zscore(image, case.mask), []
        for network in networks.values():
            parts = [predict_volume(network, normal, mask=w, tiling=tiling, machine=machine) for w in windows]
            maps.append(np.maximum.reduce(parts))
        found = {role: (prob >= THRESHOLD, prob) for role, prob in zip(networks, maps, strict=True)}
        if len(maps) == 2:
            both, larger = triage(*maps), np.maximum(*maps)
            found |= {"union": (both.union, larger), "confirmed": (both.tiers == CONFIRMED, larger)}
        return found

    report = runtime.Progress(copies + 1, "scans") if progress else None
    before = marked(case.image, [case.mask])
    tables = []
    for model, (mask, prob) in before.items():
        tables.append(lesion_table("untouched", case.mask & False, mask, probability=prob).assign(model=model))
    names, pictures = [f"copy {c}" for c in range(1, copies + 1)], []
    for c, name in enumerate(names):
        if report:
            report.step(note=name)
        own = int(rng(seed, "implanted copy", c).integers(2**31))
        image, labels, table = implant(case.image, case.mask, count=per_copy, seed=own, seen=seen)
        near = [case.mask & (ndimage.distance_transform_edt(labels != i) <= NEAR) for i in table["id"]]
        after = marked(image, [case.mask] if whole else near)
        for model, (mask, prob) in after.items():
            part = lesion_table(name, labels > 0, mask, probability=prob)
            blobs, n = label_lesions(mask)
            known = np.zeros(max(n, len(table)) + 1, bool)
            known[blobs[ndimage.binary_dilation(before[model][0], np.ones((3, 3, 3)))]] = True
            part = part[(part["kind"] == "lesion") | ~known[part["id"]]]
            facts = table[["id", "drawn_mm3", "contrast", "white_matter", "core_share"]].assign(kind="lesion")
            facts["found_untouched"] = [bool(before[model][0][labels == i].any()) for i in table["id"]]
            tables.append(part.merge(facts, on=["id", "kind"], how="left").assign(model=model))
        for row in table.itertuples():
            found = {model: bool(mask[labels == row.id].any()) for model, (mask, _) in after.items()}
            pictures.append({"copy": name, "row": row, "found": found} | _crop(case.image, image, labels, after, row))
    rows = pd.concat([t for t in tables if len(t)], ignore_index=True)
    return rows, _summary(rows, list(before), names), pictures


def _summary(rows: pd.DataFrame, models: list[str], copies: list[str]) -> pd.DataFrame:
    """What :func:`dmplus.metrics.summarise` says of each model on the untouched scan and on the copies."""
    parts = []
    for model in models:
        for scan, names in (("untouched", ["untouched"]), ("implanted", copies)):
            part = rows[(rows["model"] == model) & rows["case"].isin(names)]
            table = summarise(part, cases={name: name for name in names}).rename(columns={"patients": "copies"})
            before = part[(part["kind"] == "lesion") & (part["found_untouched"] == True)]  # noqa: E712 (NaN among them)
            sizes = before["stratum"].value_counts().to_dict() | {"all": len(before)}
            table["found_untouched"] = [sizes.get(s, 0) for s in table["stratum"]]
            table.insert(0, "model", model)
            table.insert(1, "scan", scan)
            parts.append(table[[c for c in table if not c.startswith(("precision", "volumes"))]])
    return pd.concat(parts, ignore_index=True)


def _crop(scan: np.ndarray, image: np.ndarray, labels: np.ndarray, after: dict[str, Any], row: Any) -> dict[str, Any]:
    """Axial views of 44 mm around one implant, without and with it, and what is outlined, in display order."""
    from dmplus import figures

    own = labels == row.id
    z = figures.best_slice(own)
    sides = [slice(max(0, min(round(c) - 22, n - 44)), max(0, min(round(c) - 22, n - 44)) + 44)
             for c, n in zip((row.x, row.y), scan.shape, strict=False)]  # fmt: skip
    views = {"without": scan, "with": image, "implant": own} | {k: after[k][0] for k in ("sens", "spec") if k in after}
    box = (*sides, slice(z, z + 1))
    return {name: figures.plane_of(volume[box], "axial", 0).copy() for name, volume in views.items()}


def montage(pictures: list[dict[str, Any]], path: Path) -> None:
    """Draw up to 40 implants of :func:`measure` as PNG, by size: without, with, and with the models' outlines.

    Grey levels: 0.2 to 1.7 times the white matter around. Raises InputError without a picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from dmplus import figures

    if not pictures:
        raise InputError("montage: expected at least one implant to draw; got none; implant some")
    ordered = sorted(pictures, key=lambda p: p["row"].volume_mm3)
    steps = np.linspace(0, len(ordered) - 1, min(MOST, len(ordered)))
    shown = [ordered[k] for k in np.unique(steps.round().astype(int))]
    across = min(3, len(shown))
    deep = -(-len(shown) // across)
    height = 1.85 * deep + 0.7  # inches
    with figures.style():
        figure = Figure(figsize=(4.7 * across, height), layout="none")
        columns = [1, 1, 1, 0.15] * across  # the narrow ones part the implants
        axes = figure.subplots(deep, len(columns), squeeze=False, width_ratios=columns)
    figure.subplots_adjust(0.01, 0.05 / height, 1, 1 - 0.8 / height, wspace=0.05, hspace=0.2)
    for ax in axes.flat:
        ax.set_axis_off()
    roles = [role for role in LINES if role in shown[0]]
    for k, picture in enumerate(shown):
        panels = axes[k // across, 4 * (k % across) : 4 * (k % across) + 3]
        row = picture["row"]
        for ax, view in zip(panels, ("without", "with", "with"), strict=True):
            ax.imshow(picture[view], cmap="gray", vmin=0.2 * row.white_matter, vmax=1.7 * row.white_matter)
        for role in roles:
            figures._outline(panels[2], picture[role], LINES[role], width=1.3)
        hits = [model for model, found in picture["found"].items() if found]
        verdict = "confirmed" if "confirmed" in hits else ", ".join(h for h in hits if h != "union") or "missed"
        verdict = "candidate" if verdict == "sens" and "union" in hits else verdict
        core = ", core" if row.core_share else ""
        words = f"{row.volume_mm3 / 1000:.2f} cm³, {row.contrast:.2f} × white matter{core}: {verdict}"
        panels[0].set_title(words, fontsize=9, fontweight="normal", loc="left")
    words = f"{len(shown)} of {len(pictures)} implants in one real scan: without, with, outlined (axial, 44 mm)"
    figure.text(0.01, 1 - 0.12 / height, words if across > 1 else "\n".join(words.split(": ")), va="top", fontsize=10)
    lines = [Line2D([], [], color=LINES[r][0], linestyle=LINES[r][1], label=r) for r in roles]
    figure.legend(handles=lines, loc="upper right", ncols=3, facecolor="0.3", frameon=True, labelcolor="white")
    with runtime.replacing(path) as part:
        part.write_bytes(figures.png(figure))


def trial(
    scan: str | Path, out: str | Path, *, mask: str | Path | None = None, sens: str | None = None,
    spec: str | None = None, copies: int = 10, per_copy: int = 4, seed: int = 0, whole: bool = False,
    overwrite: bool = False, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """:func:`measure` the models on a NIfTI scan that holds no metastasis and write ``FILES``; returns the summary.

    sens, spec: weights as :func:`dmplus.predict.load_weights` takes them. Everything happens on the canonical 1 mm grid;
    centres in lesions.csv are mm of the scanner's frame. The folder appears as a whole or not at all. Raises InputError
    for all that cannot be used.
    """
    from dmplus.predict import load_weights, output_folder, tiling_of

    started = time.perf_counter()
    with output_folder(out, overwrite=overwrite, files=FILES) as folder:
        case, grid = read_case(scan, mask=mask)
        machine = runtime.machine()
        networks, weights = load_weights(sens, spec, device=machine.device)
        tiling = tiling_of(weights)
        rows, table, pictures = measure(
            case, networks, copies=copies, per_copy=per_copy, seed=seed, whole=whole, tiling=tiling, machine=machine,
            progress=progress,
        )  # fmt: skip
        centres = rows[["x", "y", "z"]].to_numpy(float) @ case.affine[:3, :3].T + case.affine[:3, 3]
        rows = rows.drop(columns=["x", "y", "z"]).assign(**dict(zip(("x_mm", "y_mm", "z_mm"), centres.T, strict=True)))
        rows.insert(0, "model", rows.pop("model"))
        for name, frame in (("lesions.csv", rows), ("summary.csv", table)):
            frame.to_csv(folder / name, index=False, float_format="%.6g", lineterminator="\n")
        montage(pictures, folder / "implants.png")
        report = {
            "command": "implants",
            "note": "Real scan taken to hold no metastasis; implants are not patients' lesions. Not for clinical use.",
            "interval": "95 %, copies of one brain drawn with replacement: not over patients",
            "false_positives": "untouched: the whole brain; implanted: blobs that the implants add, in "
            + ("the whole brain" if whole else f"what lies within {NEAR:g} mm of one"),
            "scan": {"file": Path(scan).name, "shape": grid.shape, "spacing_mm": [round(s, 4) for s in grid.spacing]},
            "mask": "the scan's non-zero region" if mask is None else Path(mask).name,
            "copies": copies,
            "per_copy": per_copy,
            "seed": seed,
            "weights": weights,
            "tiling": tiling,
            "threshold": THRESHOLD,
            "device": machine.device,
            "precision": machine.precision,
            "seconds": round(time.perf_counter() - started, 2),
            "versions": runtime.versions(),
        }
        runtime.write_json(folder / "run.json", report)
    return table


def text(table: pd.DataFrame) -> str:
    """What the door prints of a summary: false positives of each model, then sensitivity by size."""
    lines = []
    for model, part in table.groupby("model", sort=False):
        alone = part[(part["scan"] == "untouched") & (part["stratum"] == "all")].iloc[0]
        lines.append(f"{model}: {alone['fp']} false positives in the untouched scan")
        for row in part[part["scan"] == "implanted"].itertuples():
            line = f"  {row.stratum:<9} found {row.tp_ref} of {row.lesions}"
            line += f", sensitivity {row.sensitivity:.2f}" if row.lesions else ""
            if not np.isnan(row.sensitivity_low):
                line += f" ({row.sensitivity_low:.2f} to {row.sensitivity_high:.2f})"
            lines.append(line + f"; {row.fp} false positives added, {row.found_untouched} hit without the implant")
    lines.append("Intervals are over copies of one brain, not over patients. Not for clinical use.")
    return "\n".join(lines)
