"""Lesion-wise numbers: rows per lesion, and what is computed from them alone, with intervals.

:func:`match_lesions` counts one volume under a stated rule (:mod:`dmplus.matching`). :func:`lesion_table` writes one
row per reference lesion and per false positive, and :func:`summarise` turns rows into sensitivity, precision, false
positives per volume and mDSC, in all and by lesion size, each with a 95 % interval from resampling patients.
:func:`evaluate_cases` and :func:`evaluate` do this for a whole cohort. Curves over thresholds: :mod:`dmplus.curves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dmplus.matching import (
    LesionCounts,
    Matching,
    Spacing,
    compare,
    contingency,
    count,
    decide,
    explain,
    label_lesions,
    match_lesions,
)
from dmplus.runtime import InputError, Progress, rng
from dmplus.volume import Case, Grid, read_cohort, read_image, read_label, read_result

__all__ = [
    "BOUNDARY_MM3",
    "STRATA",
    "LesionCounts",
    "Matching",
    "contingency",
    "count",
    "evaluate",
    "evaluate_cases",
    "explain",
    "label_lesions",
    "lesion_table",
    "match_lesions",
    "percentiles",
    "ratios",
    "resample",
    "stratum",
    "summarise",
]

BOUNDARY_MM3 = 100.0  #: 0.1 cm³, about 6 mm across: the paper's small metastases lie below (section II.E.1)
STRATA = ("<0.1 cm3", ">=0.1 cm3")
COLUMNS = ("case", "kind", "id", "volume_mm3", "stratum", "found", "blobs", "dice", "peak_probability", "x", "y", "z")


def stratum(volume_mm3: np.ndarray | float) -> np.ndarray:
    """Name the size stratum of each volume in mm³: below 0.1 cm³, or from 0.1 cm³ on.

    >>> stratum([99.9, 100.0]).tolist()
    ['<0.1 cm3', '>=0.1 cm3']
    """
    return np.where(np.asarray(volume_mm3, float) >= BOUNDARY_MM3, STRATA[1], STRATA[0]).astype(object)


# -------------------------------------------------------------------------------------------- the rows
def lesion_table(
    case_name: str,
    reference: np.ndarray,
    predicted: np.ndarray,
    *,
    spacing: Spacing = (1.0, 1.0, 1.0),
    probability: np.ndarray | None = None,
    matching: Matching = Matching(),  # noqa: B008 (frozen)
) -> pd.DataFrame:
    """One row per reference lesion and per false positive blob of one volume; two (X, Y, Z) masks, spacing in mm.

    Columns: case; kind ("lesion", "false positive", or "ignored lesion" below ``matching.min_volume_mm3``); id (the
    number in :func:`label_lesions` of its mask); volume_mm3; stratum; found (False for a false positive); blobs
    (true positive blobs credited to this lesion: each blob to the matched lesion it shares most voxels with, so that
    the column adds up to tp_pred and a blob has one stratum); dice (of a found lesion with the union of the blobs that
    touch it, else NaN); peak_probability (highest value of ``probability`` inside the lesion or blob, NaN without a
    map); x, y, z (centre in voxels). Nothing anywhere gives a table without rows. Raises InputError as
    :func:`match_lesions`, and if ``probability`` has another shape.

    >>> reference, predicted = np.zeros((2, 9, 3, 3), bool)
    >>> reference[:3] = True; predicted[2:4] = True; predicted[8] = True
    >>> lesion_table("p1", reference, predicted)[["kind", "volume_mm3", "found", "dice", "x"]].values.tolist()
    [['lesion', 27.0, True, 0.4, 1.0], ['false positive', 9.0, False, nan, 8.0]]
    """
    if probability is not None and probability.shape != reference.shape:
        raise InputError(
            f"case {case_name}: expected a probability map of shape {reference.shape}; got {probability.shape}; "
            "bring it to the reference's grid"
        )
    pairs, ref_labels, pred_labels = compare(reference, predicted, matching, spacing=spacing)
    verdict = decide(pairs, matching)

    match = verdict.matched & verdict.found[pairs.lesion]
    order = np.flatnonzero(match)[np.lexsort((pairs.lesion[match], -pairs.shared[match], pairs.blob[match]))]
    first = np.unique(pairs.blob[order], return_index=True)[1]  # of each blob, the lesion with the most shared voxels
    credited = np.bincount(pairs.lesion[order[first]], minlength=len(pairs.lesion_mm3))

    centre, peak = _places(ref_labels, probability)
    lesions = pd.DataFrame(
        {
            "kind": np.where(verdict.small, "ignored lesion", "lesion").astype(object),
            "id": np.arange(1, len(centre) + 1),
            "volume_mm3": pairs.lesion_mm3,
            "found": verdict.found,
            "blobs": credited,
            "dice": np.where(verdict.found, verdict.dice, np.nan),
            "peak_probability": peak,
            **dict(zip("xyz", centre.T, strict=True)),
        }
    )
    centre, peak = _places(pred_labels, probability)
    false = np.flatnonzero(verdict.false)
    blobs = pd.DataFrame(
        {
            "kind": np.full(false.size, "false positive", object),
            "id": false + 1,
            "volume_mm3": pairs.blob_mm3[false],
            "found": np.zeros(false.size, bool),
            "blobs": np.zeros(false.size, int),
            "dice": np.full(false.size, np.nan),
            "peak_probability": peak[false],
            **dict(zip("xyz", centre[false].T, strict=True)),
        }
    )
    table = pd.concat([lesions, blobs], ignore_index=True)
    table["case"] = pd.Series(case_name, index=table.index, dtype=object)
    table["stratum"] = stratum(table["volume_mm3"])
    return table[list(COLUMNS)]


def in_mm(table: pd.DataFrame, affine: np.ndarray) -> pd.DataFrame:
    """Rows of :func:`lesion_table` with their centres in mm of the scanner's frame behind those in voxels: x_mm, y_mm, z_mm."""
    mm = table[["x", "y", "z"]].to_numpy(float) @ affine[:3, :3].T + affine[:3, 3]
    return table.assign(**dict(zip(("x_mm", "y_mm", "z_mm"), mm.T, strict=True)))


def _places(labels: np.ndarray, probability: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Centre (n, 3) in voxels and highest probability (n,) of each label."""
    where = np.nonzero(labels)
    index = labels[where] - 1
    n = int(index.max(initial=-1)) + 1
    size = np.bincount(index, minlength=n)
    centre = np.stack([np.bincount(index, axis, minlength=n) / size for axis in where], axis=1).reshape(n, 3)
    peak = np.full(n, np.nan)
    if probability is not None:
        peak[:] = -np.inf
        np.maximum.at(peak, index, probability[where])
    return centre, peak


# --------------------------------------------------------------------------------------- the summaries
def resample(counts: np.ndarray, *, seed: int = 0, resamples: int = 2000) -> np.ndarray:
    """Sums over patients drawn with replacement: counts (patients, ...) → (resamples, ...).

    The draws depend on ``seed`` and the number of patients alone: two models evaluated on the same patients in the same
    order are resampled alike, so a difference or ratio of their sums is a paired comparison.

    >>> resample(np.array([[1, 10], [1, 20]]), resamples=3)[:, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    counts = np.asarray(counts, np.float64)
    n = counts.shape[0]
    if n == 0:
        raise InputError("expected counts of at least one patient; got none; check the list of cases")
    times = rng(seed, "bootstrap").multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.tensordot(times.astype(np.float64), counts, axes=1)


def percentiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 % points along the first axis, over what is not NaN; NaN where nothing is left.

    >>> [float(v) for v in percentiles(np.array([np.nan, 0.0, 1.0]))]
    [0.025, 0.975]
    """
    values = np.asarray(values, float)
    empty = np.isnan(values).all(axis=0)
    low, high = np.nanpercentile(np.where(empty, 0.0, values), [2.5, 97.5], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def summarise(table: pd.DataFrame, *, cases: Mapping[str, str], seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Pool rows of :func:`lesion_table` over volumes: one row for all lesions and one per size stratum.

    cases: name of each evaluated volume → its patient. It sets the denominators, so that a volume without any row
    counts. Columns: stratum, volumes, patients, lesions, tp_ref, fn, tp_pred, fp, then sensitivity, precision
    (tp_pred), precision_paper (tp_ref), fp_per_volume and mdsc, which with fp carry ``_low`` and ``_high``: the 95 %
    percentile interval over patients drawn with replacement. A true blob belongs to the stratum of its lesion, a false
    one to that of its own volume. A ratio without denominator is NaN, and left out of the percentiles where it happens
    in a resample; with one patient the interval is NaN. Where every patient agrees (sensitivity 1) the interval has no
    width: read it with n. Raises InputError for rows of unlisted cases and for an empty list.

    >>> reference, predicted = np.zeros((2, 9, 3, 3), bool)
    >>> reference[:3] = True; predicted[2:4] = True; predicted[8] = True
    >>> rows = lesion_table("a", reference, predicted)
    >>> summary = summarise(rows, cases={"a": "p1", "empty": "p2"})
    >>> summary.loc[0, ["sensitivity", "precision", "fp_per_volume", "fp_per_volume_high"]].tolist()
    [1.0, 0.5, 0.5, 1.0]
    """
    unlisted = sorted(set(table["case"]) - set(cases))
    if unlisted or not cases:
        raise InputError(
            f"expected the patient of each case in the table; got none for {', '.join(unlisted) or 'any'}; "
            "list every evaluated volume"
        )
    patients = sorted(set(cases.values()))
    row_of = {patient: i for i, patient in enumerate(patients)}
    patient = np.array([row_of[cases[name]] for name in table["case"]], int)
    lesion, false = (table["kind"] == "lesion").to_numpy(), (table["kind"] == "false positive").to_numpy()
    found = table["found"].to_numpy(bool)
    columns = {
        "tp_ref": (lesion & found).astype(float),
        "fn": (lesion & ~found).astype(float),
        "tp_pred": np.where(lesion, table["blobs"], 0).astype(float),
        "fp": false.astype(float),
        "dice_sum": np.where(lesion & found, table["dice"].to_numpy(float), 0.0),
    }
    volumes = np.bincount([row_of[p] for p in cases.values()], minlength=len(patients))
    names = ("all", *STRATA)
    counts = np.zeros((len(patients), len(names), len(columns) + 1))  # (patient, stratum, count)
    for s, name in enumerate(names):
        inside = np.ones(len(table), bool) if s == 0 else (table["stratum"] == name).to_numpy(bool)
        for c, values in enumerate(columns.values()):
            counts[:, s, c] = np.bincount(patient, values * inside, minlength=len(patients))
    counts[:, :, -1] = volumes[:, None]

    total = counts.sum(axis=0)
    point, drawn = ratios(total), ratios(resample(counts, seed=seed, resamples=resamples))
    summary = pd.DataFrame({"stratum": names, "volumes": len(cases), "patients": len(patients)})
    summary["lesions"] = (total[:, 0] + total[:, 1]).astype(int)
    for c, name in enumerate(("tp_ref", "fn", "tp_pred", "fp")):
        summary[name] = total[:, c].astype(int)
    for name, value in point.items():
        low, high = percentiles(drawn[name]) if len(patients) > 1 else (np.nan, np.nan)
        summary[name] = summary["fp"] if name == "fp" else value
        summary[name + "_low"], summary[name + "_high"] = low, high
    return summary


def ratios(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of pooled counts (..., 6) = tp_ref, fn, tp_pred, fp, dice_sum, volumes; 0/0 is NaN.

    >>> {name: float(v) for name, v in ratios(np.array([263.0, 15, 263, 247, 0, 103])).items()}["precision_paper"]
    0.515686274509804
    """
    tp_ref, fn, tp_pred, fp, dice_sum, volumes = np.moveaxis(np.asarray(counts, float), -1, 0)

    def over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)

    return {
        "sensitivity": over(tp_ref, tp_ref + fn),
        "precision": over(tp_pred, tp_pred + fp),
        "precision_paper": over(tp_ref, tp_ref + fp),
        "fp": fp,
        "fp_per_volume": over(fp, volumes),
        "mdsc": over(dice_sum, tp_ref),
    }


# ----------------------------------------------------------------------------------------- whole cohorts
def evaluate_cases(
    cases: Iterable[tuple[Case, np.ndarray]],
    *,
    threshold: float = 0.5,
    matching: Matching = Matching(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and summary of labelled cases, each with a predicted mask or probability map (X, Y, Z) of its shape.

    A voxel is predicted where the map is >= threshold (0.5 in the paper). Returns the rows of :func:`lesion_table` with
    :func:`in_mm` and a column ``patient`` (the case's name where no patient is given), and :func:`summarise` with the columns
    ``threshold`` and ``matching``. Cases are read one by one, so a generator keeps memory small. Raises InputError for
    a case without label, a map of another shape or beyond 0..1, a name that comes twice and an empty list.

    >>> label = np.zeros((8, 8, 8), np.uint8); label[2:5, 2:5, 2:5] = 1
    >>> case = Case(name="a", patient="p", image=label * 1.0, mask=label > 0, label=label)
    >>> rows, summary = evaluate_cases([(case, label * 0.9)])
    >>> rows[["patient", "found", "peak_probability"]].values.tolist(), summary.loc[0, "matching"]
    ([['p', True, 0.9]], 'any overlap, 26-connected')
    """
    tables: list[pd.DataFrame] = []
    patients: dict[str, str] = {}
    for case, predicted in cases:
        if case.label is None:
            raise InputError(f"case {case.name}: expected a reference label; got none; evaluate labelled cases only")
        if case.name in patients:
            raise InputError(f"expected each case once; got {case.name} twice; give every volume its own name")
        patients[case.name] = case.patient or case.name
        tables.append(in_mm(_rows(case.name, case.label, predicted, case.spacing, threshold, matching), case.affine))
    return _finish(tables, patients, threshold, matching, seed)


def evaluate(
    cohort: str | Path,
    predictions: str | Path,
    *,
    split: str | None = None,
    threshold: float = 0.5,
    matching: Matching = Matching(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate a folder of predictions against a cohort folder: (rows, summary).

    Predictions: ``<name>.nii.gz`` (or .nii) for each case, or the folder that ``dmplus predict`` made of the cohort, of which
    ``<name>/segmentation.nii.gz`` is taken. Each is a 0/1 mask or a probability map on the grid of its case's image. Lesions
    are compared on that native grid, with its spacing, so that no label is resampled. split: "train", "validation", "test" or
    None for all. See :func:`evaluate_cases` for what comes back. Raises InputError, naming the case, for a missing prediction
    or label, a prediction on another grid and values beyond 0..1; all are looked for before anything is computed.

    >>> evaluate("no/such/cohort", "predictions")
    Traceback (most recent call last):
    dmplus.runtime.InputError: cohort cohort: expected a folder with cases.csv; got none; make one with `dmplus synth`
    """
    listed = read_cohort(cohort, split=split)
    found: list[Path] = []
    for files in listed:
        names = [Path(predictions) / f"{files.name}{ending}" for ending in (".nii.gz", ".nii", "/segmentation.nii.gz")]
        there = [path for path in names if path.is_file()]
        if not there:
            raise InputError(
                f"case {files.name}: expected a prediction {names[0].name} in {Path(predictions).name}; got none; "
                "predict every case of the cohort, or choose a split"
            )
        if files.label is None:
            raise InputError(f"case {files.name}: expected a reference label; got none; evaluate labelled cases only")
        found.append(there[0])
    shown = Progress(len(listed), "evaluating") if progress else None
    tables: list[pd.DataFrame] = []
    for files, path in zip(listed, found, strict=True):
        try:
            image, affine = read_image(files.image)
            grid = Grid(image.shape, affine)
            label = read_label(files.label, like=grid)  # type: ignore[arg-type]
            predicted = read_result(path, like=grid, what="prediction")
        except InputError as error:
            raise InputError(f"case {files.name}: {error}") from None
        tables.append(in_mm(_rows(files.name, label, predicted, grid.spacing, threshold, matching), affine))
        if shown:
            shown.step(note=files.name)
    return _finish(tables, {f.name: f.patient or f.name for f in listed}, threshold, matching, seed)


def _rows(
    name: str, label: np.ndarray, predicted: np.ndarray, spacing: Spacing, threshold: float, matching: Matching
) -> pd.DataFrame:
    if not 0 < threshold <= 1:
        raise InputError(f"expected a threshold in (0, 1]; got {threshold}; 0.5 is the paper's")
    if predicted.shape != label.shape:
        raise InputError(
            f"case {name}: expected a prediction of shape {label.shape}; got {predicted.shape}; "
            "bring it to the grid of the label"
        )
    # written so that NaN fails as well
    if predicted.size and not (predicted.min() >= 0 and predicted.max() <= 1):
        raise InputError(
            f"case {name}: expected a 0/1 mask or probabilities in [0, 1]; got values from {predicted.min():g} to "
            f"{predicted.max():g}; pass the probability map or the union mask"
        )
    mask = predicted >= float(threshold)
    graded = predicted.dtype.kind == "f" and bool(((predicted > 0) & (predicted < 1)).any())
    return lesion_table(
        name, label, mask, spacing=spacing, probability=predicted if graded else None, matching=matching
    )


def _finish(
    tables: list[pd.DataFrame], patients: dict[str, str], threshold: float, matching: Matching, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not patients:
        raise InputError("expected at least one case to evaluate; got none; check the list of cases")
    filled = [table for table in tables if len(table)] or tables[:1]  # rows of nothing would blur the column types
    rows = pd.concat(filled, ignore_index=True)
    summary = summarise(rows, cases=patients, seed=seed)
    rows.insert(1, "patient", rows["case"].map(patients).astype(object))
    return rows, summary.assign(threshold=float(threshold), matching=str(matching))
