"""From one scan file to one folder of results: what ``dmplus predict`` does.

Reads scan, earlier scan and mask, brings them to the canonical 1 mm grid, runs both models, triages, takes everything
back to the scan's own grid and writes it. The folder appears as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pandas as pd

from dmplus import metrics, runtime
from dmplus.runtime import InputError
from dmplus.triage import GROWING, SHRINKING, THRESHOLD, TOLERANCE_MM, Triage, probability_words, triage_case
from dmplus.volume import CaseFiles, Grid, read_case, read_cohort, write_nifti

if TYPE_CHECKING:
    from dmplus.network import DeepMedic

#: What the output folder may hold; ``--overwrite`` replaces no folder that holds anything else.
FILES = {
    "sens_probability.nii.gz": "probability of the high-sensitivity model, 0 to 1",
    "spec_probability.nii.gz": "probability of the high-specificity model, 0 to 1",
    "segmentation.nii.gz": "the union of both models, 0 or 1",
    "tiers.nii.gz": "1 candidate, 2 confirmed",
    "lesions.nii.gz": "the lesion's number in lesions.csv",
    "earlier_lesions.nii.gz": "the lesions of the earlier scan, numbered; only with one",
    "lesions.csv": "one row per lesion: tier, volume, centre, peak probability, stratum, change",
    "gone.csv": "one row per lesion of the earlier scan that is no more: volume and centre there",
    "triage.png": "the first 30 lesions in three planes, the earlier scan beside them",
    "run.json": "what was done: versions, hashes of weights and inputs, device, seconds, thresholds, counts",
}


LEFT_BY_FILE_MANAGERS = (".DS_Store", "Thumbs.db", "desktop.ini")  #: nobody's data


@contextlib.contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False, files: dict[str, str] = FILES) -> Iterator[Path]:
    """Yield a new folder; on success it becomes ``path``, on failure nothing is left behind.

    A folder that exists (empty, or an earlier result to overwrite) keeps its place, owner and permissions: it may be where
    something is mounted, or where a shell stands; the files are moved into it at the end. Raises ``InputError`` when ``path``
    cannot be written, exists without ``overwrite`` (an empty folder will do), or holds anything but ``files`` (an earlier
    result) and what file managers leave: a slip of the hand must not delete other people's data.
    """
    name = runtime.named(path)
    path = runtime.output_path(path, links=False)
    there = os.path.isdir(path)
    kept = [p.name for p in path.iterdir()] if there else []  # .part-: of a run that was killed
    held = sorted(n for n in kept if n not in LEFT_BY_FILE_MANAGERS and not n.startswith(".part-"))
    others = [n for n in held if n not in files]
    if others:  # first of all: --overwrite would not help
        raise InputError(
            f"output {name}: expected a folder that holds results of this command alone; got {others[0]}; "
            "choose another name"
        )
    if held and not overwrite:
        raise InputError(
            f"output {name}: expected a new folder; got one that exists; pass --overwrite or choose another"
        )
    part = path / f".part-{os.getpid()}" if there else path.with_name(f".part-{os.getpid()}-{path.name}")
    made = runtime.make_folder(part, name=name)
    try:
        yield part
        if there:
            new = sorted(p.name for p in part.iterdir())
            for old in set(held) - set(new):
                (path / old).unlink()
            for file in new:
                os.replace(part / file, path / file)
        else:
            part.rename(path)
        made = []
    finally:
        shutil.rmtree(part, ignore_errors=True)
        runtime.remove_folders(made)


def load_weights(
    sens: str | None, spec: str | None, *, device: str = "cpu"
) -> tuple[dict[str, DeepMedic], dict[str, Any]]:
    """The networks by role ("sens", "spec") and what ``run.json`` says of them.

    Neither given: the shipped pair. One given: that model alone, and no tiers. The same file twice is loaded once.
    """
    from dmplus import network

    if sens is None and spec is None:
        sens, spec = "sens", "spec"
    networks: dict[str, DeepMedic] = {}
    said: dict[str, Any] = {}
    for role, source in (("sens", sens), ("spec", spec)):
        if source is None:
            continue
        same = role == "spec" and source == sens
        networks[role] = networks["sens"] if same else network.load(source, device=device)
        said[role] = {k: v for k, v in describe_weights(source).items() if k != "network"}
    return networks, said


def tiling_of(weights: dict[str, Any]) -> str:
    """How a volume is cut for ``weights`` (:func:`load_weights`): as the authors' program does if all are its own."""
    theirs = all(w["info"].get("source") == "TensorFlow checkpoint" for w in weights.values())
    return "released" if theirs else "aligned"


@dataclasses.dataclass(frozen=True)
class Models:
    """What maps are made with, loaded once for any number of scans."""

    networks: dict[str, DeepMedic]
    weights: dict[str, Any]  #: what ``run.json`` says of them
    tiling: str
    machine: runtime.Machine


def load_models(
    sens: str | None = None, spec: str | None = None, *, tiling: str = "auto", device: str = "auto", precision: str = "auto"
) -> Models:
    """:class:`Models` by the options of :func:`predict`; raises ``InputError`` as it does."""
    machine = runtime.machine(device, precision)
    networks, weights = load_weights(sens, spec, device=machine.device)
    return Models(networks, weights, tiling_of(weights) if tiling == "auto" else tiling, machine)


def hashes(**files: str | Path | None) -> dict[str, str]:
    """SHA-256 of each file that is given, as it lies on the disk."""
    return {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items() if path is not None}


def describe_weights(source: str | Path) -> dict[str, Any]:
    """What a weights file says of itself: file name, SHA-256, parameters, network configuration, training.

    Of a TensorFlow checkpoint: the name of its index, the SHA-256 of all its files one after another.
    """
    from dmplus import network

    content = network.info(source)
    files = network.weights_files(source)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return {
        "file": files[0].name,
        "sha256": digest.hexdigest(),
        "parameters": sum(p.numel() for p in network.load(source).parameters()),
        **content,
    }


def predict(
    scan: str | Path,
    out: str | Path,
    *,
    prior: str | Path | None = None,
    mask: str | Path | None = None,
    sens: str | None = None,
    spec: str | None = None,
    tiling: str = "auto",
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    board: bool = True,
    progress: bool = True,
    models: Models | None = None,
) -> tuple[Triage, dict[str, Any]]:
    """Find and triage the lesions of one scan; returns them on the scan's grid, and what ``run.json`` holds.

    scan, prior, mask: NIfTI files on one grid. sens, spec: weights files, names of shipped ones or TensorFlow
    checkpoints of the authors' program; with one of the two alone lesions are "untiered". tiling: "aligned", "released"
    (:func:`dmplus.inference.predict_volume`), or "auto" (:func:`tiling_of`). models: what ``sens``, ``spec``, ``tiling``,
    ``device`` and ``precision`` would load, where it is loaded already.
    Raises ``InputError`` (one line) for every input that cannot be used and then leaves nothing behind.
    """
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - started - sum(seconds.values()), 2)

    with output_folder(out, overwrite=overwrite) as folder:
        case, grid = read_case(scan, prior=prior, mask=mask)
        lap("read")
        models = models or load_models(sens, spec, tiling=tiling, device=device, precision=precision)
        machine, networks = models.machine, list(models.networks.values())
        found = triage_case(
            case,
            networks[0],
            networks[1] if len(networks) == 2 else None,
            tiling=models.tiling,
            machine=machine,
            progress=progress,
        )
        lap("models")
        native = found.on_grid(grid)
        write_maps(folder, native, grid, scan, roles=tuple(models.networks))
        for name, table in (("lesions.csv", native.lesions), ("gone.csv", native.gone)):
            table.to_csv(folder / name, index=False, float_format="%.4f", lineterminator="\n")
        lap("maps")
        if board:
            from dmplus import figures

            # drawn at 1 mm, with the volumes that lesions.csv gives
            shown = dataclasses.replace(found, lesions=native.lesions)
            figures.triage_board(case, shown, path=folder / "triage.png")
            lap("board")
        seconds["total"] = round(time.perf_counter() - started, 2)
        report = {
            "command": "predict",
            "note": "Research and teaching only: not for clinical use.",
            "scan": {
                "file": Path(scan).name,
                "shape": grid.shape,
                "spacing_mm": [round(s, 4) for s in grid.spacing],
                "axes": "".join(nibabel.aff2axcodes(grid.affine)),
                "canonical_shape": case.shape,
            },
            "prior": None if prior is None else Path(prior).name,
            "prior_covers": None if prior is None else round(float(case.covered[case.mask].mean()), 4),
            "mask": "the scan's non-zero region" if mask is None else Path(mask).name,
            "inputs_sha256": hashes(scan=scan, prior=prior, mask=mask),
            "brain_litres": round(np.count_nonzero(case.mask) * grid.canonical.voxel_mm3 / 1e6, 3),
            "weights": models.weights,
            "tiers": len(networks) == 2,
            "counts": native.counts,
            "gone": native.gone.round(2).to_dict("records"),
            "settings": {
                "tiling": models.tiling,
                "threshold": THRESHOLD,
                "connectivity": 26,
                "growing_from_ratio": GROWING,
                "shrinking_to_ratio": SHRINKING,
                "same_lesion_within_mm": TOLERANCE_MM,
            },
            "device": machine.device,
            "precision": machine.precision,
            "why": machine.why,
            "seconds": seconds,
            "versions": runtime.versions(),
        }
        runtime.write_json(folder / "run.json", report)
    return native, report


def write_maps(folder: Path, native: Triage, grid: Grid, like: str | Path, *, roles: tuple[str, ...]) -> None:
    """Write probability maps, segmentation, tiers and lesion numbers with the position and header codes of ``like``."""
    maps = [native.prob_sens, native.prob_spec]
    for role, prob in zip(roles, maps[: len(roles)], strict=True):
        assert prob is not None
        write_nifti(folder / f"{role}_probability.nii.gz", prob, like=like)
    write_nifti(folder / "segmentation.nii.gz", native.union, like=like)
    write_nifti(folder / "tiers.nii.gz", native.tiers, like=like)
    write_nifti(folder / "lesions.nii.gz", native.labels.astype(np.int32), like=like)
    if native.earlier is not None:
        write_nifti(folder / "earlier_lesions.nii.gz", native.earlier.astype(np.int32), like=like)


def summary(found: Triage, report: dict[str, Any], out: str | Path) -> str:
    """What ``dmplus predict`` prints: counts, the first lesions, where the rest is."""
    counts = report["counts"]
    if report["tiers"]:
        head = f"{counts['lesions']} lesions: {counts['confirmed']} confirmed, {counts['candidate']} candidates"
        if counts["seen_by_spec_alone"]:
            head += f" ({counts['seen_by_spec_alone']} seen by the specific model alone)"
    else:
        head = f"{counts['lesions']} lesions, not sorted into tiers: only one model was given (--sens or --spec)"
    if report["prior"] is None:
        change = "No earlier scan: change unknown."
    else:
        change = ", ".join(f"{counts[k]} {k}" for k in ("new", "growing", "stable", "shrinking", "gone"))
        change = f"Since the earlier scan: {change}."
        if report["prior_covers"] < 1:
            change += (
                f" It covers {report['prior_covers']:.0%} of the brain; where it does not, change is unknown "
                f"({counts['unknown']} lesions)."
            )
    lines = [head + ".", change]
    for row in found.lesions.head(12).itertuples():
        place = ", ".join(f"{v:.1f}" for v in (row.x_mm, row.y_mm, row.z_mm))
        lines.append(
            f"  {row.lesion:>3}  {row.tier:<9}  {row.volume_mm3:>9.1f} mm3  at ({place}) mm  "
            f"peak {probability_words(row.peak_probability):<8}  {row.change}"
        )
    if len(found.lesions) > 12:
        lines.append(f"  and {len(found.lesions) - 12} more in lesions.csv")
    seconds = runtime.clock(report["seconds"]["total"])
    lines.append(f"Written to {out} in {seconds} ({report['why']}). Not for clinical use.")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- whole cohorts
EVALUATION_FILES = {
    "lesions.csv": "one row per reference lesion and per false positive, for each model",
    "summary.csv": "numbers with 95 % intervals, for each model and stratum",
    "run.json": "what was done",
}


def evaluate_folder(
    cohort: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    predictions: str | Path | None = None,
    sens: str | None = None,
    spec: str | None = None,
    threshold: float = THRESHOLD,
    rule: str = "any_overlap",
    min_overlap: float | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate models, or a folder of ``predictions``, on a cohort folder; returns what ``summary.csv`` holds.

    With models: the sensitive one, the specific one and the union of both, on the canonical 1 mm grid, in the tiles that
    :func:`predict` takes for them. Raises ``InputError`` for everything that cannot be used, and for cases without a
    label, before the models run; then nothing is left behind.
    """
    matching = metrics.Matching(rule=rule, min_overlap=min_overlap)
    if not 0 < threshold <= 1:
        raise InputError(f"expected a threshold in (0, 1]; got {threshold}; 0.5 is the paper's")
    if predictions is not None and (sens or spec):
        raise InputError("expected either --predictions or --sens and --spec; got both; drop one of them")
    started = time.perf_counter()
    with output_folder(out, overwrite=overwrite, files=EVALUATION_FILES) as folder:
        said: dict[str, Any] = {}
        if predictions is not None:
            rows, table = metrics.evaluate(
                cohort, predictions, split=split, threshold=threshold, matching=matching, progress=progress
            )
            rows.insert(0, "model", "predictions")
            table.insert(0, "model", "predictions")
        else:
            machine = runtime.machine(device, precision)
            networks, said["weights"] = load_weights(sens, spec, device=machine.device)
            said |= {"tiling": tiling_of(said["weights"]), "device": machine.device, "precision": machine.precision}
            said["why"] = machine.why
            rows, table = _evaluate_models(
                read_cohort(cohort, split=split), networks, machine, tiling=said["tiling"], threshold=threshold,
                matching=matching, progress=progress,
            )  # fmt: skip
        rows.to_csv(folder / "lesions.csv", index=False, float_format="%.6g", lineterminator="\n")
        table.to_csv(folder / "summary.csv", index=False, float_format="%.6g", lineterminator="\n")
        report = {
            "command": "evaluate",
            "cohort": Path(cohort).resolve().name,
            "split": split,
            "cases": int(table["volumes"].iloc[0]),
            "predictions": None if predictions is None else Path(predictions).resolve().name,
            "threshold": threshold,
            "matching": str(matching),
            **said,
            "seconds": round(time.perf_counter() - started, 2),
            "versions": runtime.versions(),
        }
        runtime.write_json(folder / "run.json", report)
    return table


def _evaluate_models(
    cases: list[CaseFiles],
    networks: dict[str, DeepMedic],
    machine: runtime.Machine,
    *,
    tiling: str,
    threshold: float,
    matching: metrics.Matching,
    progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    unlabelled = [c.name for c in cases if c.label is None]
    if unlabelled:
        raise InputError(f"case {unlabelled[0]}: expected a reference label; got none; evaluate labelled cases only")
    for files in cases:  # a bad file of the last case shall not come to light after hours
        files.load()
    from dmplus.inference import predict_volume

    models = [*networks, "union"] if len(networks) == 2 else list(networks)
    parts: dict[str, list[pd.DataFrame]] = {model: [] for model in models}
    shown = runtime.Progress(len(cases), "cases") if progress else None
    for files in cases:
        case = files.load()
        normal = case.normalised()
        maps = {
            role: predict_volume(
                model, normal.image, prior=normal.prior, mask=case.mask, tiling=tiling, machine=machine
            )
            for role, model in networks.items()
        }
        if "union" in models:  # at one threshold the union of two masks is the mask of the larger probability
            maps["union"] = np.maximum(maps["sens"], maps["spec"])
        for model in models:
            rows = metrics.lesion_table(
                case.name, case.label, maps[model] >= threshold, spacing=case.spacing, probability=maps[model],
                matching=matching,
            )  # fmt: skip
            parts[model].append(metrics.in_mm(rows, case.affine))
        if shown:
            shown.step(note=files.name)
    patients = {c.name: c.patient or c.name for c in cases}
    rows, tables = [], []
    for model in models:
        filled = [part for part in parts[model] if len(part)] or parts[model][:1]
        table = pd.concat(filled, ignore_index=True)
        summed = metrics.summarise(table, cases=patients).assign(threshold=threshold, matching=str(matching))
        table.insert(1, "patient", table["case"].map(patients).astype(object))
        for frame in (table, summed):
            frame.insert(0, "model", model)
        rows.append(table)
        tables.append(summed)
    kept = [table for table in rows if len(table)] or rows[:1]
    return pd.concat(kept, ignore_index=True), pd.concat(tables, ignore_index=True)


def evaluation_text(table: pd.DataFrame) -> str:
    """What ``dmplus evaluate`` prints: one line per model and stratum, each number with its 95 % interval."""
    first = table.iloc[0]
    lines = [
        f"{first['volumes']} volumes of {first['patients']} patients; threshold {first['threshold']:g}; "
        f"{first['matching']}; 95 % intervals: patients resampled"
    ]
    for _, row in table.iterrows():
        numbers = [f"{row['lesions']} lesions", f"{row['fp']} FP"]
        for name in ("sensitivity", "precision", "precision_paper", "fp_per_volume", "mdsc"):
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            numbers.append(f"{name} " + ("n/a" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"))
        lines.append(f"{row['model']:<11} {row['stratum']:<9}  " + ", ".join(numbers))
    return "\n".join(lines).replace(" (nan to nan)", "")
