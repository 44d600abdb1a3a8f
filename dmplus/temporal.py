"""What the earlier scan adds: differences of two visits, false positives that it removes, and what misregistration does.

Pictures and tables of notebook 03, from the rows of the experiments (:mod:`dmplus.results`) and from single patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dmplus import claims, figures, results
from dmplus.evidence import COLOURS, DASHES, MARKERS
from dmplus.experiment import SHIFTS_MM
from dmplus.results import Results, compare, pooled
from dmplus.runtime import InputError
from dmplus.volume import Case, zscore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 4  #: voxels within which two false positives are the same one


def difference(case: Case) -> np.ndarray:
    """Now minus earlier, each z-scored inside the mask: float32 (X, Y, Z), 0 outside. ``InputError`` without a prior."""
    if case.prior is None:
        raise InputError(f"difference: expected a case with a prior; {case.name} has none; take a later visit")
    return zscore(case.image, case.mask) - zscore(case.prior, case.mask)


def draw_visits(
    case: Case, centre: Sequence[float], *, later: Case | None = None, edge: int = 48, titles: Sequence[str] = (),
    circle: float | None = None,
) -> Figure:  # fmt: skip
    """An axial square around a place: the earlier scan, the scan now, their difference, and the visit after (if given).

    The difference is purple where it became darker and orange where it became brighter, from −3 to 3 standard deviations.
    The reference is outlined on the scan now; ``circle``: radius in voxels of a ring around the place.
    """
    from matplotlib.patches import Circle

    names = [
        *(titles or ("earlier", "now, reference outlined", "now − earlier")),
        *(["next visit"] if later is not None else []),
    ]
    figure, axes = figures.new_figure(2.2 * len(names), 3.0, columns=len(names))
    x, y, z = (round(float(c)) for c in centre)
    with figures.style():
        for k, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
            if k == 2:
                shown = figures.plane_of(difference(case), "axial", z)
                image = axis.imshow(shown, cmap="PuOr_r", vmin=-3, vmax=3)
                axis.set_axis_off()
            else:
                of_visit = later if k == 3 else case
                figures.draw_slice(
                    axis, of_visit, index=z, image="prior" if k == 0 else "current", reference=k in (1, 3)
                )
            at = figures.zoom(axis, case, x, y, edge)
            if circle is not None:
                axis.add_patch(
                    Circle(at, circle, fill=False, color="#F0E442" if k != 2 else "#333333", lw=1.4, ls="--")
                )
            axis.set_title(name, fontsize=9, fontweight="normal")
        figure.colorbar(image, ax=list(axes[0]), location="bottom", fraction=0.05, pad=0.02, aspect=40,
                        label="difference, standard deviations")  # fmt: skip
    return figure


# ------------------------------------------------------------------------------------------------------------- tables
def false_at(r: Results, name: str, level: int, *, second: str = "prior", split: str = "test") -> pd.DataFrame:
    """The false positives of a run that stand at a level: case, what, peak (level), x, y, z."""
    rows = r.rows[name, split, second]
    stands = (rows["kind"] == "fp") & (rows["bottom"] <= level) & (level <= rows["top"])
    return (
        rows.loc[stands, ["case", "what", "top", "x", "y", "z"]].rename(columns={"top": "peak"}).reset_index(drop=True)
    )


def only_in_first(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """False positives of ``first`` with none of ``second`` within :data:`REACH` voxels, the strongest first."""
    kept = []
    others = {case: t[["x", "y", "z"]].to_numpy(float) for case, t in second.groupby("case")}
    for row in first.itertuples():
        near = others.get(row.case)
        apart = np.inf if near is None else np.abs(near - [row.x, row.y, row.z]).max(1).min()
        kept.append(bool(apart > REACH))
    return first[kept].sort_values(["peak", "case", "x"], ascending=[False, True, True]).reset_index(drop=True)


def ratios(r: Results, names: Mapping[str, tuple[Sequence[str], str]], baseline: Sequence[str]) -> pd.DataFrame:
    """False positives at sensitivity :data:`dmplus.claims.EQUAL` over those of ``baseline``, visits with a prior.

    names: legend → (runs, second image that they are scored with). Columns: model, ratio, low, high, seeds.
    """
    base = pooled(r.group(baseline, prior=True))
    lines = []
    for label, (runs, second) in names.items():
        e = compare(results.fp_at(claims.EQUAL), r.group(runs, second=second, prior=True), base, ratio=True)
        lines.append((label, e.value, e.low, e.high, len(runs)))
    return pd.DataFrame(lines, columns=["model", "ratio", "low", "high", "seeds"])


def controls(r: Results, stem: str) -> dict[str, tuple[Sequence[str], str]]:
    """For :func:`ratios`: the prior path of a stem ("jvss-0.995"), its controls and the channel, as far as they were run."""
    path = f"{stem}-path"
    asked = {
        "path": (r.seeds(path), "prior"),
        "path, prior zeroed in test": ([f"{path}-s0"], "zeroed"),
        "path, another patient's prior in test": ([f"{path}-s0"], "other"),
        "path trained with another patient's prior": ([f"{path}-other-s0"], "other"),
        "second path trained with the current scan": ([f"{path}-current-s0"], "current"),
        "channel": (r.seeds(f"{stem}-channel"), "prior"),
    }
    return {label: (runs, second) for label, (runs, second) in asked.items() if runs and r.has(*runs, second=second)}


def by_misregistration(r: Results, names: Mapping[str, str], baseline: Sequence[str]) -> pd.DataFrame:
    """As :func:`ratios`, for priors moved out of place in test: one row per model and millimetre.

    Columns: model, mm, ratio, low, high, sensitivity and fp (at 0.5).
    """
    base = pooled(r.group(baseline, prior=True))
    lines = []
    for label, name in names.items():
        for mm in SHIFTS_MM:
            both = pooled(r.group([name], second=f"{mm:g} mm", prior=True))
            e = compare(results.fp_at(claims.EQUAL), both, base, ratio=True)
            at = [float(f(both[0])) for f in (results.sensitivity, results.fp_per_volume)]
            lines.append((label, mm, e.value, e.low, e.high, *at))
    return pd.DataFrame(lines, columns=["model", "mm", "ratio", "low", "high", "sensitivity", "fp"])


def by_visit(r: Results, names: Mapping[str, Sequence[str]], baseline: Sequence[str]) -> pd.DataFrame:
    """The ratio of :func:`ratios` among visits with a prior and among those without: columns model, visits, ratio, low, high."""
    lines = []
    for words, prior in (("with a prior", True), ("without a prior", False)):
        base = pooled(r.group(baseline, prior=prior))
        for label, runs in names.items():
            e = compare(results.fp_at(claims.EQUAL), r.group(runs, prior=prior), base, ratio=True)
            lines.append((label, words, e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["model", "visits", "ratio", "low", "high"])


def by_kind(r: Results, names: Mapping[str, Sequence[str]], *, sensitivity: float = claims.EQUAL) -> pd.DataFrame:
    """False positives per volume by what lies there, each model at the threshold that finds ``sensitivity`` with a prior.

    A row per model, a column per kind of look-alike (:data:`dmplus.results.KINDS`).
    """
    lines = {}
    for label, runs in names.items():
        total = dict.fromkeys(results.KINDS, 0.0)
        for name in runs:
            level = level_at(r, name, sensitivity=sensitivity)
            cases = r.visits.loc[(r.visits["split"] == "test") & r.visits["with_prior"], "case"]
            false = false_at(r, name, level)
            for what, n in false.loc[false["case"].isin(cases), "what"].value_counts().items():
                total[results.KINDS[int(what)]] += float(n) / len(cases) / len(runs)
        lines[label] = total
    return pd.DataFrame(lines).T


# ------------------------------------------------------------------------------------------------------------ pictures
def draw_ratios(table: pd.DataFrame) -> Figure:
    """The table of :func:`ratios`: a point with its interval per model; 1 is the model without prior."""
    figure, axes = figures.new_figure(6.5, 0.6 + 0.45 * len(table))
    axis = axes[0, 0]
    axis.axvline(1, color="#777777", lw=1)
    for k, row in enumerate(table.iloc[::-1].itertuples()):
        spread = np.maximum([[row.ratio - row.low], [row.high - row.ratio]], 0)
        axis.errorbar(row.ratio, k, xerr=spread, color=COLOURS[0], marker=MARKERS[k % 6], elinewidth=1.2)
    axis.set_yticks(range(len(table)), list(table["model"])[::-1])
    axis.set(
        xlabel=f"false positives at sensitivity {claims.EQUAL:g}, relative to no prior", ylim=(-0.6, len(table) - 0.4)
    )
    return figure


def draw_misregistration(table: pd.DataFrame) -> Figure:
    """The table of :func:`by_misregistration`: ratio against millimetres, a line per model."""
    figure, axes = figures.new_figure(6.5, 3.3)
    axis = axes[0, 0]
    axis.axhline(1, color="#777777", lw=1)
    for k, (model, own) in enumerate(table.groupby("model", sort=False)):
        spread = np.maximum([own["ratio"] - own["low"], own["high"] - own["ratio"]], 0)
        axis.errorbar(own["mm"] + 0.03 * k, own["ratio"], yerr=spread, color=COLOURS[k], marker=MARKERS[k], ls=DASHES[k],
                      elinewidth=0.8, label=model)  # fmt: skip
    axis.set(xlabel="residual misregistration of the prior in test, mm (root mean square)",
             ylabel=f"false positives at sensitivity\n{claims.EQUAL:g}, relative to no prior")  # fmt: skip
    axis.legend()
    return figure


def most_followed(r: Results) -> str:
    """The test patient with most visits; of equals the one with most metastases at all of them, then the first."""
    if r.lesions is None:
        raise InputError("timeline: expected rows of a synthetic cohort (lesions.csv); got none; collect them again")
    test = r.visits[r.visits["split"] == "test"]
    lesions = test.merge(r.lesions, on="case").groupby("patient").size()
    order = test.groupby("patient").size().to_frame("visits").assign(lesions=lesions).fillna(0)
    return str(order.sort_values(["visits", "lesions"], ascending=False, kind="stable").index[0])


def timeline(r: Results, patient: str, name: str, level: int) -> pd.DataFrame:
    """Every metastasis of a patient at every visit: columns days, id, volume_mm3, and whether a run finds it at a level.

    One row per visit and lesion that is there; id is the lesion's number, the same at all visits.
    """
    rows = r.rows[name, str(r.visits.loc[r.visits["patient"] == patient, "split"].iloc[0]), "prior"]
    own = rows[rows["kind"] == "lesion"].merge(r.visits[r.visits["patient"] == patient], on="case")
    own = own.assign(found=own["top"] >= level).sort_values(["id", "days"])
    return own[["days", "id", "volume_mm3", "found"]].reset_index(drop=True)


def draw_timeline(table: pd.DataFrame, title: str) -> Figure:
    """The table of :func:`timeline` on a logarithmic axis, where constant growth is a straight line; hollow: missed."""
    figure, axes = figures.new_figure(6.5, 3.4)
    for k, (number, own) in enumerate(table.groupby("id")):
        look = {"color": COLOURS[k % 6], "marker": MARKERS[k % 6]}
        axes[0, 0].plot(own["days"], own["volume_mm3"], ls=DASHES[k % 6], label=f"lesion {number}", **look)
        missed = own[~own["found"]]
        axes[0, 0].plot(missed["days"], missed["volume_mm3"], ls="none", mfc="white", zorder=3, **look)
    axes[0, 0].set(yscale="log", xlabel="days since the first visit", ylabel="volume, mm³")
    axes[0, 0].set_xlim(right=table["days"].max() * 1.3 + 1)  # room for the legend
    axes[0, 0].legend(loc="center right")
    return figures.titled(figure, title)


def moved_prior(case: Case, mm: float, *, direction: Sequence[float] = (1.0, 0.0, 0.0)) -> Case:
    """The case with its prior moved by ``mm`` in one direction (voxel axes), cut to the mask: misregistration by hand."""
    from scipy import ndimage

    if case.prior is None:
        raise InputError(f"moved prior: expected a case with a prior; {case.name} has none; take a later visit")
    step = np.asarray(direction, float) / np.linalg.norm(direction) * mm / np.asarray(case.spacing)
    moved = ndimage.shift(case.prior.astype(np.float32), step, order=1, mode="nearest")
    return dataclasses.replace(case, prior=(moved * case.mask).astype(np.float32))


def level_at(r: Results, name: str, *, sensitivity: float = claims.EQUAL) -> int:
    """The highest level at which a run finds a share of the test lesions in visits with a prior."""
    found, _, _ = results.along(r.counts(name, prior=True).sum(0))
    return int(np.flatnonzero(found >= sensitivity).max())


def kind_words(what: int) -> str:
    """What the generator put at a false positive, in words."""
    words = {"tissue": "nothing that enhances", "vessel": "a vessel", "sinus": "a venous sinus or the dura",
             "plexus": "the choroid plexus", "blob": "a persistent blob", "spot": "a persistent round spot"}  # fmt: skip
    return words[results.KINDS[int(what)]]


def around(case: Case, centre: Sequence[int], *, radius: int = 3) -> np.ndarray:
    """(X, Y, Z) bool: the ball of ``radius`` voxels around a place, inside the mask."""
    grid = np.ogrid[tuple(slice(0, n) for n in case.shape)]
    return (sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2) & case.mask
