"""Synthetic longitudinal patients with brain metastases on contrast-enhanced T1, and cohorts of them on disk.

The patients do not exist. Their anatomy is a warped template (ICBM152, if no other is given); vessels, look-alikes and
metastases are drawn by the laws of :class:`CohortConfig`. Everything follows from (seed, patient): the same configuration
gives the same arrays and, with :func:`generate`, the same bytes.

``patient(COHORTS["quick"], 0).visits[0].case`` is a :class:`~dmplus.volume.Case`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmplus.runtime import InputError, Progress, replacing, rng, workers, writable_folder, write_json
from dmplus.synthetic_anatomy import Anatomy, anatomy, template
from dmplus.synthetic_config import COHORTS, CohortConfig
from dmplus.synthetic_lesions import Body, courses, grow, place
from dmplus.synthetic_lookalikes import LOOKALIKES, lookalikes
from dmplus.synthetic_scanner import as_prior, scan
from dmplus.volume import Case, CaseFiles, write_case, write_cohort, write_nifti

__all__ = [
    "COHORTS", "LOOKALIKES", "VERSION", "CohortConfig", "Patient", "Visit", "count", "generate", "patient", "schedule",
    "split_of",
]  # fmt: skip

#: Version of the generator: patients of the same configuration differ between versions.
VERSION = "1"

SPLITS = ("train", "validation", "test")

#: Columns of ``Visit.lesions`` and of a cohort's ``lesions.csv``.
LESION_COLUMNS = (
    "lesion", "state", "volume_mm3", "previous_mm3", "x", "y", "z", "level", "core_mm3", "oedema_mm", "planned_mm3",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """One visit of a synthetic patient."""

    case: Case  #: raw intensities; prior = the visit before, resampled with residual misregistration, or None
    days: int  #: since the patient's first visit (which may lie before the cohort's first)
    #: one row per lesion: lesion (identity over visits), state (since the visit before: first, new, growing, stable,
    #: responding, pseudo-progression), volume_mm3 (label voxels), previous_mm3 (at the visit before, NaN when it was
    #: not there), x, y, z (centre of mass, voxels), level (enhancing part as drawn, white matter = 1), core_mm3,
    #: oedema_mm, planned_mm3 (before rasterisation)
    lesions: pd.DataFrame
    lookalikes: np.ndarray  #: uint8 (X, Y, Z), enhancing non-lesions by kind (LOOKALIKES), for the analysis of errors
    numbers: np.ndarray  #: uint8 (X, Y, Z), the label with each lesion's number
    bare: np.ndarray | None = None  #: float32 (X, Y, Z), the same visit without contrast agent, on request
    clean: np.ndarray | None = None  #: float32 (X, Y, Z), without noise and bias field, white matter = 1, on request
    tissues: np.ndarray | None = None  #: float32 (2, X, Y, Z), shares of grey and white matter, with ``clean``


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patient:
    """One synthetic patient with the visits that belong to the cohort, in order of time."""

    name: str
    index: int
    split: str  #: "train", "validation" or "test"
    visits: tuple[Visit, ...]


# -------------------------------------------------------------------------------------------------- who, when, how many
def split_of(config: CohortConfig, index: int) -> str:
    """The split of patient ``index``: the first patients train, then validation, then test, in the cohort's parts."""
    return _position(config, index)[0]


def _position(config: CohortConfig, index: int) -> tuple[str, int]:
    """Split and rank within it. Parts are rounded so that every split with a share gets its patients."""
    if not 0 <= index < config.patients:
        raise InputError(
            f"cohort {config.name}: expected a patient from 0 to {config.patients - 1}; got {index}; choose one of those"
        )
    bounds = np.rint(np.cumsum(config.split) / sum(config.split) * config.patients).astype(int)
    which = int(np.searchsorted(bounds, index, side="right"))
    return SPLITS[which], index - (int(bounds[which - 1]) if which else 0)


def schedule(config: CohortConfig, index: int) -> tuple[np.ndarray, bool]:
    """Days of all visits of a patient, (V,) from 0, and whether the first lies before the cohort (a prior only).

    Numbers of visits and earlier scans are spread evenly over the patients, so that the shares of the configuration
    (visits with a prior among them) hold closely in every cohort.
    """
    split, rank = _position(config, index)
    shares = np.cumsum(config.visits) / sum(config.visits)
    listed = int(np.searchsorted(shares, (0.5 + rank * 0.6180339887498949) % 1.0, side="right")) + 1
    mean = float(np.average(np.arange(1, len(shares) + 1), weights=config.visits))
    share = config.prior_share_test if split == "test" else config.prior_share_train
    earlier = float(np.clip(1 - (1 - share) * mean, 0, 1))
    before = math.floor((rank + 1) * earlier + 0.5) > math.floor(rank * earlier + 0.5)
    steps = rng(config.seed, "days", index).integers(
        config.interval_days[0], config.interval_days[1] + 1, listed + before - 1
    )
    return np.concatenate([[0], np.cumsum(steps)]).astype(int), before


def count(config: CohortConfig) -> pd.DataFrame:
    """Patients, visits and visits with a prior of each split, without making an image."""
    rows = []
    for index in range(config.patients):
        days, before = schedule(config, index)
        rows.append((split_of(config, index), 1, len(days) - before, len(days) - 1))
    table = pd.DataFrame(rows, columns=["split", "patients", "visits", "with_prior"])
    return table.groupby("split", sort=False).sum()


# ------------------------------------------------------------------------------------------------------------- patients
def patient(
    config: CohortConfig,
    index: int,
    *,
    without_contrast: bool = False,
    clean: bool = False,
    healthy_prior: bool = False,
) -> Patient:
    """Make patient ``index`` of a cohort with all its visits.

    ``without_contrast`` adds to each visit the image without contrast agent (``Visit.bare``), ``clean`` the one without
    noise and bias field (``Visit.clean``). ``healthy_prior``: the earlier scans are as before any metastasis, so that all
    are new; nothing else differs. Volumes are (X, Y, Z) of ``config.shape``, 1 mm, RAS+; image and prior are
    exactly 0 outside the brain. Raises ``InputError`` for an index outside the cohort.
    """
    split, _ = _position(config, index)
    days, before = schedule(config, index)
    host = anatomy(config, index)
    table = courses(config, rng(config.seed, "courses", index), days)
    placed = {m.lesion: m for m in place(config, index, host, table)}
    table = table[table["lesion"].isin(placed)]
    drawn = {
        (int(row.lesion), int(row.visit)): grow(
            config, index, placed[int(row.lesion)], float(row.volume_cm3), host.mask, host.tissue
        )
        for row in table.itertuples()
    }
    taken = np.zeros(host.mask.shape, bool)
    for each in drawn.values():
        taken[each.box] |= each.distance < 4
    others = lookalikes(config, index, host, taken)
    crop = _Crop(config, host)
    name = f"{config.name}_{index:04d}"
    visits: list[Visit] = []
    earlier: np.ndarray | None = None
    sizes: dict[int, int] = {}
    for visit, day in enumerate(days):
        rows = table[table["visit"] == visit]
        bodies = [drawn[(int(lesion), visit)] for lesion in rows["lesion"]]
        image = scan(config, (index, visit), host, others, bodies)
        numbers = np.zeros(host.mask.shape, np.uint8)
        for lesion, each in zip(rows["lesion"], bodies, strict=True):
            numbers[each.box][each.label] = lesion
        label = crop(numbers)
        lesions = _describe(rows, bodies, host, sizes)
        sizes = dict(zip(lesions["lesion"], lesions["volume_mm3"], strict=True))
        if visit or not before:
            kinds = others.kinds * (numbers == 0)
            case = Case(
                name=f"{name}_v{visit}", image=crop(image), mask=crop(host.mask),
                prior=None if earlier is None else crop(as_prior(config, (index, visit), host, earlier)),
                label=(label > 0).astype(np.uint8), affine=crop.affine, patient=name, visit=visit,
            )  # fmt: skip
            extra = {}
            if without_contrast:
                extra["bare"] = crop(scan(config, (index, visit), host, others, bodies, contrast_agent=False))
            if clean:
                extra["clean"] = crop(scan(config, (index, visit), host, others, bodies, noise=False))
                extra["tissues"] = np.stack([crop(host.grey), crop(host.white)])
            visits.append(
                Visit(case=case, days=int(day), lesions=lesions, lookalikes=crop(kinds), numbers=label, **extra)
            )
        earlier = scan(config, (index, visit), host, others, bodies, metastases=False) if healthy_prior else image
    return Patient(name=name, index=index, split=split, visits=tuple(visits))


class _Crop:
    """From the window to the patient's grid; outside the window there is no brain."""

    def __init__(self, config: CohortConfig, host: Anatomy) -> None:
        self.shape = config.shape
        first = np.array(host.origin)
        self.source = tuple(
            slice(max(-o, 0), min(n - o, w)) for o, n, w in zip(first, config.shape, host.mask.shape, strict=True)
        )
        self.target = tuple(slice(s.start + int(o), s.stop + int(o)) for s, o in zip(self.source, first, strict=True))
        # Scanner coordinates have their origin at the middle of the brain.
        self.affine = np.eye(4)
        self.affine[:3, 3] = -np.rint(host.place.centre + first)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        out = np.zeros(self.shape, array.dtype)
        out[self.target] = array[self.source]
        return out


def _describe(rows: pd.DataFrame, bodies: list[Body], host: Anatomy, sizes: dict[int, int]) -> pd.DataFrame:
    """``Visit.lesions``: see there."""
    found = []
    for row, each in zip(rows.itertuples(), bodies, strict=True):
        centre = np.argwhere(each.label).mean(0) + [s.start for s in each.box] + host.origin
        found.append((
            int(row.lesion), row.state, int(each.label.sum()), float(sizes.get(int(row.lesion), np.nan)),
            *(round(float(c), 2) for c in centre), round(each.level, 4), int((each.label & ~each.solid).sum()),
            round(each.oedema_mm, 2), round(float(row.volume_cm3) * 1000, 3),
        ))  # fmt: skip
    return pd.DataFrame(found, columns=list(LESION_COLUMNS))


# -------------------------------------------------------------------------------------------------------------- cohorts
def generate(config: CohortConfig, folder: str | Path, *, progress: bool = True, processes: int = 1) -> None:
    """Write the cohort into ``folder``: NIfTI files, ``cases.csv``, ``lesions.csv`` and ``cohort.json``.

    Patients are written one by one; a stopped run goes on with the first patient that is not complete, and the same
    configuration gives the same bytes. ``cases.csv`` appears last. ``*_lookalikes.nii.gz`` lies beside each case.
    ``processes``: patients made at the same time, each on one core (a script that asks for more than 1 needs the usual
    ``if __name__ == "__main__"``).
    Raises ``InputError`` when the folder cannot be written or holds a cohort of another configuration or anything else,
    and for an ``anatomy`` that cannot be read.
    """
    folder = writable_folder(folder, own="cohort.json")
    described = _described(config)
    stored = folder / "cohort.json"
    if stored.is_file():
        try:
            same = json.loads(stored.read_text(encoding="utf-8")) == described
        except ValueError:
            same = False
        if not same:
            raise InputError(
                f"cohort {folder.name}: expected an empty folder or this cohort unfinished; got another cohort's "
                "cohort.json; choose another folder"
            )
    else:
        write_json(stored, described)
    missing = [index for index in range(config.patients) if _stored(config, index, folder) is None]
    shown = Progress(config.patients, "patients", done=config.patients - len(missing)) if progress else None
    for _ in _written(config, missing, folder, processes):
        if shown:
            shown.step()
    cases: list[CaseFiles] = []
    lesions: list[pd.DataFrame] = []
    for index in range(config.patients):
        files, table = _stored(config, index, folder)  # type: ignore[misc]
        cases += files
        if len(table):
            lesions.append(table)
    columns = ["name", "patient", "split", *LESION_COLUMNS]
    _csv(pd.concat(lesions, ignore_index=True) if lesions else pd.DataFrame(columns=columns), folder / "lesions.csv")
    write_cohort(folder, cases)


def _described(config: CohortConfig) -> dict[str, Any]:
    """What ``cohort.json`` says. Of another anatomy the file's name and its content's hash, never where it lies here."""
    content = json.loads(json.dumps(dataclasses.asdict(config)))
    if not content.pop("anatomy"):
        return {"version": VERSION, "config": content}
    content["anatomy"] = Path(config.anatomy).name
    return {"version": VERSION, "config": content, "anatomy_sha256": template(config.anatomy).sha256}


def _written(config: CohortConfig, missing: list[int], folder: Path, processes: int) -> Iterator[None]:
    """Write the missing patients, yielding after each."""
    if min(processes, len(missing)) <= 1:
        for index in missing:
            yield _write(config, index, folder)
        return
    with workers(min(processes, len(missing))) as pool:
        for done in as_completed([pool.submit(_write, config, index, folder) for index in missing]):
            yield done.result()


def _write(config: CohortConfig, index: int, folder: Path) -> None:
    """Make one patient and write its files; its table of lesions is last and says that the patient is complete."""
    made = patient(config, index)
    tables = []
    for visit in made.visits:
        write_case(folder, visit.case, split=made.split, days=visit.days)
        for what in ("lookalikes", "numbers"):
            write_nifti(folder / f"{visit.case.name}_{what}.nii.gz", getattr(visit, what), affine=visit.case.affine)
        tables.append(visit.lesions.assign(name=visit.case.name, patient=made.name, split=made.split))
    filled = [t for t in tables if len(t)] or tables[:1]
    table = pd.concat(filled, ignore_index=True)[["name", "patient", "split", *LESION_COLUMNS]]
    _csv(table, folder / "patients" / f"{made.name}.csv")


def _stored(config: CohortConfig, index: int, folder: Path) -> tuple[list[CaseFiles], pd.DataFrame] | None:
    """Files and lesions of a patient that is complete in ``folder``, or None."""
    name = f"{config.name}_{index:04d}"
    path = folder / "patients" / f"{name}.csv"
    days, before = schedule(config, index)
    files = []
    for visit in range(int(before), len(days)):
        case = f"{name}_v{visit}"
        present = ("image", "label", "mask") + (("prior",) if visit else ())
        paths = {what: folder / f"{case}_{what}.nii.gz" for what in present}
        files.append(CaseFiles(case, name, visit, int(days[visit]), split_of(config, index), **paths))
        if not all(p.is_file() for p in paths.values()):
            return None
    # As text: numbers go into the cohort's table as they were written.
    return (files, pd.read_csv(path, dtype=str, keep_default_na=False)) if path.is_file() else None


def _csv(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")
