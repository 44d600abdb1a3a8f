"""From a folder of visits to one list of lesions to review: what ``dmplus predict`` does with a cohort folder.

Every visit gets a folder of its own, as of :func:`dmplus.predict.predict`. What is done is not done again, so a run that was
stopped goes on, and a visit that cannot be used does not hold up the others.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from dmplus import runtime
from dmplus.predict import LEFT_BY_FILE_MANAGERS, Models, hashes, load_models, predict
from dmplus.runtime import InputError
from dmplus.volume import CaseFiles, read_cohort

#: What the folder holds beside the folders of the visits.
FILES = {
    "lesions.csv": "one row per lesion of every visit: case, patient, visit, days, then as in the visit's own lesions.csv",
    "gone.csv": "one row per lesion of an earlier scan that is no more: case, patient, visit, days, volume and centre there",
    "visits.csv": "one row per visit: counts, share of the brain that its earlier scan covers, seconds, or why it was not used",
}
OF_VISIT = ("case", "patient", "visit", "days")
COUNTS = ("lesions", "confirmed", "candidate", "new", "growing", "stable", "shrinking", "unknown", "gone")


def predict_folder(
    cohort: str | Path, out: str | Path, *, split: str | None = None, overwrite: bool = False, board: bool = True,
    progress: bool = True, **options: str | None,
) -> pd.DataFrame:  # fmt: skip
    """Find and triage the lesions of every visit of a cohort folder (``cases.csv``; labels are not read); returns what
    ``visits.csv`` holds. options: sens, spec, tiling, device and precision, as of :func:`dmplus.predict.load_models`.

    Columns: case, patient, visit, days; :data:`COUNTS`; prior_covers (NaN without an earlier scan), brain_litres, seconds,
    error (empty for a visit that was used; else its counts are NaN). A visit's folder that is there is kept if its files,
    the weights and the tiling are the same. Raises ``InputError`` before anything is computed for a table that cannot be used,
    for names that are none for a folder, for a folder that holds other things, and, without ``overwrite``, for visits that were
    made of other files or with other weights.
    """
    if not os.path.isfile(Path(cohort) / "cases.csv"):
        raise InputError(
            f"scan {runtime.named(cohort)}: expected a NIfTI file, or a folder with cases.csv; got a folder without; list its "
            "visits there (name,patient,visit,days,split,image,prior,label,mask), convert DICOM first (dcm2niix)"
        )
    cases = read_cohort(cohort, split=split)
    root = _root(out, cases, {c.name for c in read_cohort(cohort)})
    models = load_models(**options)  # type: ignore[arg-type]
    kept = {} if overwrite else {c.name: r for c in cases if (r := _kept(root / c.name, c, models)) is not None}
    runtime.make_folder(root, name=runtime.named(out))
    shown = runtime.Progress(len(cases), "visits", done=len(kept)) if progress else None
    lines = []
    for files in cases:
        error, report = "", kept.get(files.name)
        if report is None:
            try:
                _, report = predict(
                    files.image, root / files.name, prior=files.prior, mask=files.mask, overwrite=overwrite, board=board,
                    progress=False, models=models,
                )  # fmt: skip
            except InputError as why:  # of this visit: the others go on
                error = str(why)
            if shown:
                shown.step(note=files.name)
        of = report or {"counts": {}, "seconds": {}}
        lines.append({
            **_of(files), **{name: of["counts"].get(name, np.nan) for name in COUNTS},
            "prior_covers": np.nan if of.get("prior_covers") is None else of["prior_covers"],
            "brain_litres": of.get("brain_litres", np.nan), "seconds": of["seconds"].get("total", np.nan), "error": error,
        })  # fmt: skip
    visits = pd.DataFrame(lines).astype({name: "Int64" for name in COUNTS})
    used = [files for files, line in zip(cases, lines, strict=True) if not line["error"]]
    for name, table in (*((n, _joined(root, used, n)) for n in ("lesions.csv", "gone.csv")), ("visits.csv", visits)):
        with runtime.replacing(root / name) as part:
            table.to_csv(part, index=False, lineterminator="\n")
    return visits


def _of(files: CaseFiles) -> dict[str, object]:
    return {"case": files.name, "patient": files.patient, "visit": files.visit, "days": files.days}


def _root(out: str | Path, cases: list[CaseFiles], known: set[str]) -> Path:
    """The folder for the results, absolute, if every visit can have a folder in it and it holds nothing of anybody else.

    known: the names of all visits of the cohort, of which ``cases`` may be one split."""
    for name in (c.name for c in cases):
        if name != Path(name).name or name.startswith(".") or name in FILES:
            raise InputError(
                f"case {name}: expected a name that a folder can have, other than {', '.join(FILES)}; rename it in cases.csv"
            )
    root = runtime.writable_folder(out)
    ours = {*FILES, *known, *LEFT_BY_FILE_MANAGERS}
    held = sorted(p.name for p in root.iterdir()) if os.path.isdir(root) else []
    if others := [n for n in held if n not in ours and not n.startswith(".part-")]:  # .part-: of a run that was killed
        raise InputError(
            f"output {runtime.named(out)}: expected a new folder, or one with visits of this cohort alone; got {others[0]}; "
            "choose another name"
        )
    return root


def _kept(folder: Path, files: CaseFiles, models: Models) -> dict | None:
    """The report of a visit that is done already; None where there is none. ``InputError`` for one of other files or weights."""
    try:
        report = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not all((folder / name).is_file() for name in ("lesions.csv", "gone.csv")):  # somebody took one away
        return None
    same = {
        "files": (report.get("inputs_sha256"), hashes(scan=files.image, prior=files.prior, mask=files.mask)),
        "weights": tuple({k: w["sha256"] for k, w in each.items()} for each in (report.get("weights", {}), models.weights)),
        "tiling": (report.get("settings", {}).get("tiling"), models.tiling),
    }
    for what, (old, new) in same.items():
        if old != new:
            raise InputError(
                f"output {folder.parent.name}: expected {folder.name} to be of the same {what}; it was made of others; remove "
                "that folder to make it anew, pass --overwrite for all visits, or choose another folder"
            )
    return report


def _joined(root: Path, cases: list[CaseFiles], name: str) -> pd.DataFrame:
    """The visits' tables of one name, as they are written, with what tells the visits apart before them."""
    tables = []
    for files in cases:
        table = pd.read_csv(root / files.name / name, dtype=str, keep_default_na=False)
        for place, (column, value) in enumerate(_of(files).items()):
            table.insert(place, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(OF_VISIT))


def folder_summary(visits: pd.DataFrame, out: str | Path, started: float) -> str:
    """What ``dmplus predict`` prints of a cohort folder. started: of :func:`time.monotonic`."""
    used, failed = visits[visits["error"] == ""], visits[visits["error"] != ""]
    total, patients = used[list(COUNTS)].sum(), used["patient"].where(used["patient"] != "", used["case"]).nunique()
    lines = [
        f"{len(used)} visits of {patients} patients: {total['lesions']} lesions, {total['confirmed']} confirmed, "
        f"{total['candidate']} candidates."
    ]
    if n := int(used["prior_covers"].notna().sum()):
        change = ", ".join(f"{total[k]} {k}" for k in ("new", "growing", "stable", "shrinking", "gone"))
        lines.append(f"Since the earlier scan, in {n} visits that have one: {change}.")
    if len(failed):
        lines.append(f"{len(failed)} visits could not be used:")
        lines += [f"  {row.case}: {row.error}" for row in failed.itertuples()]
    seconds = runtime.clock(time.monotonic() - started)
    lines.append(
        f"Written to {out} in {seconds}: lesions.csv lists them all, gone.csv and visits.csv lie beside it. Not for clinical use."
    )
    return "\n".join(lines)
