"""Pictures of the experiments' results: each takes :class:`dmplus.results.Results` and draws one idea.

Colour and marker say which loss or network, so that no line is known by its colour alone. Bars and crosses are 95 %
intervals over patients (and seeds, where there are several). Everything drawn is computed from the rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dmplus import figures, paper, results, scoring, synthetic
from dmplus.claims import EQUAL, areas, at_equal, chance_at_equal, curve_over_alpha, losses_over_alpha
from dmplus.experiment import trunk_config
from dmplus.matching import label_lesions
from dmplus.notebooks import notebooks_folder
from dmplus.results import Estimate, Results, compare, of, pooled
from dmplus.review import LIES_THERE
from dmplus.runtime import InputError
from dmplus.scoring import HALF, LEVELS
from dmplus.volume import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
SIZES_MM3 = (0.0, 30.0, 100.0, 300.0, 1000.0, np.inf)  #: edges of the size classes of lesions


def line_look(number: int) -> dict[str, Any]:
    """Colour and dash of one of up to 36 lines, no two alike."""
    return {"color": COLOURS[number % 6], "ls": DASHES[(number + number // 6) % 6]}


def shipped(profile: str = "quick", *, project: bool = False) -> Results:
    """The rows that are committed with the course, on request with those of the solved project of notebook 02.

    ``InputError`` outside a checkout.
    """
    folder = notebooks_folder()
    rows = folder / "results" / "experiments" / profile
    return Results(folder / "project" / "results", beside=rows) if project else Results(rows)


def project_text() -> str:
    """The solved project of notebook 02: a loss in twenty lines."""
    return (notebooks_folder() / "project" / "focal_tversky.py").read_text(encoding="utf-8").strip()


# ------------------------------------------------------------------------------------------------------------- tables
def beside_the_paper(
    r: Results, rows: Sequence[tuple[str, str, float | None, str]], *, number: int = 1
) -> pd.DataFrame:
    """Our synthetic test set beside the paper's table: a row for each (stem of runs, network, alpha, loss) that was run.

    Ours at threshold 0.5 with intervals, seeds pooled: sensitivity, precision, false positives per volume, mDSC. Columns
    that begin with "paper" are printed in Huang et al. 2022; false positives there are divided by the 103 volumes.
    """
    printed = paper.table(number)
    lines = {}
    for stem, name, alpha, loss in rows:
        runs = r.seeds(stem)
        if not runs:
            continue
        both = pooled(r.group(runs))
        own = printed[(printed["network"] == name) & (printed["loss"] == loss)]
        own = own[own["alpha"].isna() if alpha is None else own["alpha"] == alpha].iloc[0]
        label = (
            f"{name}, {loss}" + ("" if alpha is None else f" {alpha:g}") + f" ({len(runs)} seed{'s' * (len(runs) > 1)})"
        )
        lines[label] = {
            "sensitivity": in_words(of(results.sensitivity, both)), "paper sens.": own["sensitivity"],
            "precision": in_words(of(results.precision, both)), "paper prec.": own["precision"],
            "FP/volume": in_words(of(results.fp_per_volume, both), 1), "paper FP/v.": round(own["fp"] / paper.VOLUMES, 2),
            "mDSC": in_words(of(results.mdsc, both)), "paper mDSC": own["mdsc"],
        }  # fmt: skip
    return pd.DataFrame(lines).T


#: Losses by their names in the rows, and how they are written.
NAMES = {"bce": "BCE", "jvss": "JVSS", "sse_bce": "SSE + BCE", "sse": "SSE"}


def trainings(runs: pd.DataFrame) -> pd.DataFrame:
    """What was trained, a row per loss, segment edge, weights and length: alphas, trainings, minutes (the median; fewest to most
    where they differ by half or more), on what and in which number format (of a training that changed its machine, the last one).

    runs: rows of ``Results.runs``. Weights are those of the detection part (VSS or SSE) and of BCE; "–" where there is none.
    """
    lines = []
    parts = ["loss", "segment", "detection", "segmentation", "segments", "device", "precision"]
    for (loss, edge, detection, own, segments, device, precision), each in runs.groupby(parts, sort=False):
        minutes = each["train_seconds"] / 60
        spread = minutes.max() >= 1.5 * minutes.min()
        lines.append({
            "loss": NAMES.get(loss, loss), "edge of a segment": edge,
            "alpha": "–" if loss == "bce" else ", ".join(f"{a:g}" for a in sorted(set(each["alpha"]), reverse=True)),
            "weight of VSS or SSE": "–" if loss == "bce" else f"{detection:.2g}",
            "weight of BCE": "–" if loss == "sse" else f"{own:.2g}", "trainings": len(each),
            "segments": segments,
            "minutes": f"{minutes.min():.2g} to {minutes.max():.3g}" if spread else f"{minutes.median():.2g}",
            "on": f"{'GPU' if device == 'cuda' else 'CPU'}, {precision}",
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("loss")


def length_in_words(r: Results, name: str) -> str:
    """How long a run was trained, and before it the network that it started from."""
    runs = r.runs.drop_duplicates("run").set_index("run")
    if name not in runs.index:
        return f"{name} was not run"
    run = runs.loc[name]
    first = runs["segments"].get(run["start"])
    trunk = "" if first is None else f"{int(first):,} segments of its trunk, then "
    if run["start"] == "trunk":
        config = trunk_config()
        trunk = f"{config.batch * config.steps:,} segments of {config.sampling.segment}³ as the trunk (BCE), then "
    return f"trained on {trunk}{int(run['segments']):,} segments with its own loss"


def orders_in_words(table: pd.DataFrame) -> str:
    """The orders of the losses in :func:`beside_the_paper` by each quantity, ours beside the paper's: a line each."""
    lines = []
    for what, printed in (("sensitivity", "paper sens."), ("precision", "paper prec."), ("FP/volume", "paper FP/v."),
                          ("mDSC", "paper mDSC")):  # fmt: skip
        ours, theirs = in_order(table, what), in_order(table, printed)
        lines.append(f"by {what}: {ours}; in the paper " + ("the same" if ours == theirs else theirs))
    return "\n".join(lines)


def moved_in_words(table: pd.DataFrame, one: str, other: str) -> str:
    """How the precision of :func:`beside_the_paper` goes from one loss to another, ours and the paper's."""
    precision = {}
    for loss in (one, other):
        row = table.loc[next(k for k in table.index if f", {loss} (" in k)]
        precision[loss] = float(row["precision"].split()[0]), row["paper prec."]
    (a, paper_a), (b, paper_b) = precision[one], precision[other]
    return f"from {one} to {other} our precision goes from {a:.2f} to {b:.2f}, the paper's from {paper_a} to {paper_b}"


def areas_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`dmplus.claims.table_of_areas`, by loss, for a notebook: each number with its interval in one cell."""
    words = {"alphas": table["alphas"]}
    for column, head in (("mean_precision", "mean precision"), ("area", "area from 0 to 1")):
        each = table[[column, f"{column}_low", f"{column}_high"]].to_numpy(float)
        words[head] = ["{:.3f} [{:.3f}, {:.3f}]".format(*row) for row in each]
    return pd.DataFrame(words, index=table.index)


def papers_areas() -> str:
    """What the paper prints of Figure 6: areas, and precisions at one sensitivity."""
    text = paper.rows()
    near = text[text["quantity"] == "precision at sensitivity about 0.88"].set_index("loss")["printed"]
    return (
        f"the paper prints areas of {paper.AREA_JVSS} for JVSS and {paper.AREA_SSE} for SSE, by a rule that it does not state;\n"
        "their difference stands in the column paper: another quantity than ours. Near sensitivity 0.88 it has precision\n"
        f"{near['JVSS']} for JVSS and {near['SSE']} for SSE"
    )


def in_order(table: pd.DataFrame, column: str) -> str:
    """The losses of :func:`beside_the_paper` by a column, the largest printed number first: "JVSS 0.9 > BCE = JVSS 1"."""
    numbers = table[column].astype(str).str.split().str[0].astype(float).sort_values(ascending=False, kind="stable")
    names = [name.rpartition(", ")[2].partition(" (")[0] for name in numbers.index]
    signs = [" = " if a == b else " > " for a, b in itertools.pairwise(numbers)]
    return "".join(name + sign for name, sign in zip(names, [*signs, ""], strict=False))


def over_alpha_at_equal(r: Results, curves: Mapping[str, str], *, sensitivity: float = EQUAL) -> pd.DataFrame:
    """False positives per volume of every alpha of a loss where its falling threshold finds ``sensitivity`` of the test lesions.

    curves: legend → stem. A row per loss: the fewest and the most over its alphas, with the alpha, and the numbers behind
    (column each, alpha → Estimate). NaN where a run does not get there above the floor of its rows.
    """
    lines = {}
    for label, stem in curves.items():
        each = {
            name.removeprefix(f"{stem}-").partition("-")[0]: of(results.fp_at(sensitivity), r.group([name]))
            for name in curve_over_alpha(r, stem)
        }
        known = {a: e for a, e in each.items() if not np.isnan(e.value)}
        low, high = (f(known, key=lambda a: known[a].value) for f in (min, max))
        lines[label] = {
            "fewest": f"{in_words(known[low], 1)} (alpha {low})", "most": f"{in_words(known[high], 1)} (alpha {high})",
            "not reached by": ", ".join(a for a in each if a not in known), "each": each,
        }  # fmt: skip
    return pd.DataFrame(lines).T


def worst_against_best(r: Results, equal: pd.DataFrame, own: str) -> tuple[float, tuple[float, str], Estimate]:
    """Of :func:`over_alpha_at_equal`: the most that a loss needs at any alpha, the fewest of any other, and their ratio.

    The most, the fewest with its name in words, and most / fewest with the interval over the same patients and trainings.
    """
    stems = {"JVSS": "jvss", "SSE + BCE": "sse+bce", "SSE": "sse"}
    known = {(k, a): e.value for k in equal.index for a, e in equal.loc[k, "each"].items() if not np.isnan(e.value)}
    worst = max((at for at in known if at[0] == own), key=known.__getitem__)
    best = min((at for at in known if at[0] != own), key=known.__getitem__)
    a, b = (r.group([f"{stems[k]}-{alpha}-s0"]) for k, alpha in (worst, best))
    ratio = at_equal(a, b, chance_at_equal(r))
    return known[worst], (known[best], f"{best[0]} with alpha {best[1]}"), ratio


def at_budgets(
    r: Results, groups: Mapping[str, Sequence[str]], *, budgets: Sequence[float] = (1, 4, 10), against: str = ""
) -> pd.DataFrame:
    """Sensitivity at budgets of false positives per test volume, with intervals; minus that of ``against`` where one is named.

    groups: legend → runs (seeds pooled). The threshold of each is the best for the budget on these very patients: it compares
    curves, and is no operating point.
    """
    both = {label: pooled(r.group(names)) for label, names in groups.items()}
    table = {}
    for label, counts in both.items():
        line = {f"at {b:g} FP a volume": in_words(of(results.sensitivity_at(b), counts)) for b in budgets}
        if against and label != against:
            gains = {b: _gain_at(r, b, groups[label], groups[against]) for b in budgets}
            line |= {f"minus {against}, at {b:g}": in_words(e) for b, e in gains.items()}
        table[label] = line
    return pd.DataFrame(table).T.fillna("")


def at_half_and_equal(r: Results, groups: Mapping[str, Sequence[str]], *, sensitivity: float = EQUAL) -> pd.DataFrame:
    """Groups of runs (legend → runs, seeds pooled) at threshold 0.5, and where each finds ``sensitivity`` of the test lesions.

    A row per group, with intervals; false positives at that sensitivity are "beyond the rows" where a network finds so many
    only with more false positives than its rows hold.
    """
    table = {}
    for label, names in groups.items():
        both = pooled(r.group(names))
        equal = of(results.fp_at(sensitivity), both)
        table[label] = {
            "sensitivity": in_words(of(results.sensitivity, both)), "precision": in_words(of(results.precision, both)),
            "FP/volume": in_words(of(results.fp_per_volume, both), 1), "mDSC": in_words(of(results.mdsc, both)),
            f"FP/volume at sensitivity {sensitivity:g}":
                "beyond the rows" if np.isnan(equal.value) else in_words(equal, 1),
        }  # fmt: skip
    return pd.DataFrame(table).T


def _gain_at(r: Results, budget: float, a: Sequence[str], b: Sequence[str]) -> Estimate:
    return trained_apart(r, results.sensitivity_at(budget), a, b)


def trained_apart(
    r: Results, statistic: results.Statistic, a: Sequence[str], b: Sequence[str], *, ratio: bool = False
) -> Estimate:
    """:func:`dmplus.results.compare` of two groups of runs, its interval over patients and, unless they share one, trainings."""
    return compare(statistic, r.group(a), r.group(b), ratio=ratio, chance=r.chance_between(statistic, a, b))


def ahead_at_budgets(
    r: Results, groups: Mapping[str, Sequence[str]], *, budgets: Sequence[float] = (1, 4, 10), against: str
) -> str:
    """In words, at which budgets a group is ahead of ``against`` (or behind): where the interval excludes 0."""
    lines = []
    for label, names in groups.items():
        if label == against:
            continue
        gains = {b: _gain_at(r, b, names, groups[against]) for b in budgets}
        ahead = [f"{b:g}" for b, e in gains.items() if e.low > 0]
        behind = [f"{b:g}" for b, e in gains.items() if e.high < 0]
        words = [f"{w} at {', '.join(at)}" for w, at in (("ahead", ahead), ("behind", behind)) if at]
        lines.append(
            f"{label} against {against}: " + (", ".join(words) or "no interval excludes 0 at any of these")
        )
    return "\n".join(lines)


def ahead_in_words(table: pd.DataFrame) -> str:
    """JVSS against its two rivals over alpha, by the verdicts of the claims table: the title of Figure 2 of notebook 02."""
    verdict = {
        rival: table.loc[table["claim"].str.startswith(f"JVSS is better than {rival}"), "verdict"].iloc[0]
        for rival in ("SSE alone", "SSE + BCE")
    }
    return "JVSS is more precise " + "; ".join(f"than {rival}: {v}" for rival, v in verdict.items())


def own_losses(r: Results) -> list[str]:
    """Losses of somebody's own that have a curve over alpha, by the stem of their runs."""
    return [s for s in losses_over_alpha(r) if s not in ("jvss", "sse+bce", "sse") and len(curve_over_alpha(r, s)) > 1]


def against_jvss(r: Results) -> str:
    """Every loss of somebody's own against JVSS: mean precision over the recalls that the two share, patient by patient."""
    lines = []
    for stem in own_losses(r):
        common, _ = areas(r, [stem, "jvss"])
        e = results.estimate(common[stem].value - common["jvss"].value, common[stem].draws - common["jvss"].draws)
        low, high = shared_recalls(r, {"JVSS": "jvss", stem: stem})
        where = f"over the recalls {low:.2f} to {high:.2f} that both reach"
        lines.append(f"{stem} minus JVSS: {in_words(e, 3)} of mean precision, {where}")
    return "\n".join(lines)


def shared_recalls(r: Results, curves: Mapping[str, str]) -> tuple[float, float]:
    """The recalls at 0.5, lowest and highest, that the curves over alpha of all losses reach: where areas are compared."""
    reached = [
        [float(results.sensitivity(r.group([n]).sum((0, 1)))) for n in curve_over_alpha(r, stem)]
        for stem in curves.values()
    ]
    return max(map(min, reached)), min(map(max, reached))


def in_words(e: Estimate, digits: int = 2) -> str:
    """'0.81 [0.75, 0.87]'."""
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def level_for(r: Results, name: str, budget: float) -> int:
    """The level at which a run finds most validation lesions with at most ``budget`` false positives per volume."""
    rows = r.rows[name, "validation", "prior"]
    volumes = int((r.visits["split"] == "validation").sum())
    of_run = (r.runs["run"] == name) & (r.runs["split"] == "validation")
    return scoring.operating_level(rows, budget, volumes, floor=int(r.runs.loc[of_run, "floor"].iloc[0]))


def choices(r: Results, names: Sequence[str], budget: float) -> pd.DataFrame:
    """Each run at its level for ``budget`` on validation, and what it then does on test, once.

    Columns: level, threshold, validation sensitivity and fp, test sensitivity and fp (Estimates). The most sensitive on
    validation comes first: that is the choice, whatever the test says.
    """
    lines = {}
    for name in names:
        level = level_for(r, name, budget)
        seen = r.group([name], split="validation").sum(1).mean(0)
        both = pooled(r.group([name]))
        lines[name] = {
            "level": level, "threshold": float(LEVELS[level]),
            "validation sensitivity": float(results.sensitivity(seen, level)),
            "validation FP": float(results.fp_per_volume(seen, level)),
            "test sensitivity": of(lambda c, k=level: results.sensitivity(c, k), both),
            "test FP": of(lambda c, k=level: results.fp_per_volume(c, k), both),
        }  # fmt: skip
    table = pd.DataFrame(lines).T
    return table.sort_values(["validation sensitivity", "validation FP"], ascending=[False, True], kind="stable")


def validation_curve(r: Results, name: str) -> pd.DataFrame:
    """Sensitivity and false positives per volume of a run on validation at every level of its rows."""
    found, _, fp = results.along(r.group([name], split="validation").sum(1).mean(0))
    return pd.DataFrame({"sensitivity": found, "fp": fp}).dropna()


def tested_in_words(choice: pd.Series) -> str:
    """A row of :func:`choices`: what the chosen model does on test, beside what it did on validation."""
    seen, test = choice["validation sensitivity"], choice["test sensitivity"]
    word = "fewer" if test.value < seen else "more" if test.value > seen else "as many"
    return (
        f"on validation it finds {seen:.2f}, on test {in_words(test)} at {in_words(choice['test FP'], 1)} false positives a "
        f"volume: {word}"
        + (f" than the choice promised ({test.value - seen:+.2f})" if word != "as many" else " as promised")
    )


def choices_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`choices` for a notebook."""
    shown = table.drop(columns="level").copy()
    digits = {"threshold": 4, "validation sensitivity": 2, "validation FP": 1, "test sensitivity": 2, "test FP": 1}
    for column, n in digits.items():
        shown[column] = [in_words(v, n) if isinstance(v, Estimate) else f"{v:.{n}f}" for v in table[column]]
    return shown


def found_by_one(
    r: Results, finder: str, other: str, levels: tuple[int, int], *, most_mm3: float = results.SMALL_MM3
) -> pd.DataFrame:
    """Test lesions below ``most_mm3`` that ``finder`` finds at its level and ``other`` misses at its own.

    Columns: case, id, volume_mm3, x, y, z, peak of finder and other (as levels). The clearest comes first: the largest
    difference of levels, of equals the smaller lesion.
    """
    keys = ["case", "id", "volume_mm3", "x", "y", "z"]
    tables = []
    for name in (finder, other):
        rows = r.rows[name, "test", "prior"]
        tables.append(rows[rows["kind"] == "lesion"][[*keys, "top"]])
    both = tables[0].merge(tables[1], on=keys, suffixes=("", "_other"), validate="one_to_one")
    gained = (both["top"] >= levels[0]) & (both["top_other"] < levels[1]) & (both["volume_mm3"] < most_mm3)
    both = both[gained].assign(gap=lambda t: (t["top"] - levels[0]) + (levels[1] - t["top_other"]))
    return both.sort_values(["gap", "volume_mm3", "case"], ascending=[False, True, True]).reset_index(drop=True)


def ranked(table: pd.DataFrame, rank: int) -> tuple[pd.Series, str]:
    """The row of :func:`found_by_one` of a rank, from 1, and in words which it is; the last where there are not so many.

    ``InputError`` for an empty table.
    """
    if not len(table):
        raise InputError(
            "ranked: expected a lesion that one finds and the other misses; there is none; take another budget"
        )
    place = min(rank, len(table))
    words = f"rank {place} of {len(table)}" + (f" (asked for {rank})" if rank != place else "")
    return table.iloc[place - 1], f"{words}, a metastasis of {table['volume_mm3'].iloc[place - 1]:.0f} mm³"


# ------------------------------------------------------------------------------------------------------------ pictures
def over_alpha(
    r: Results, curves: Mapping[str, str], *, also: Mapping[str, Sequence[str]] | None = None,
    moved: str | None = None, split: str = "test",
) -> Figure:  # fmt: skip
    """Precision against recall at threshold 0.5, one point per alpha (Figure 6 of the paper).

    curves: legend → stem of the runs ("jvss", "sse+bce"). also: legend → runs drawn as one point (seeds pooled). moved: a
    run whose threshold is moved, drawn as a grey line. Left the whole square, right the part where the points lie, precision
    on a logarithmic axis, with the largest and the smallest alpha of each curve.
    """
    figure, axes = figures.new_figure(6.5, 4.2, columns=2)
    reached = []
    for axis, close in ((axes[0, 0], False), (axes[0, 1], True)):
        if moved is not None:
            x, y, _ = results.along(r.group([moved], split=split).sum((0, 1)))
            axis.plot(x, y, color="#999999", lw=1.2, ls="-", zorder=1, label="one model, threshold moved")
        for number, (label, stem) in enumerate(curves.items()):
            names = curve_over_alpha(r, stem)
            at = [_point(r.group([n], split=split)) for n in names]
            reached += [(x.value, y.value) for x, y in at]
            _crosses(axis, at, number, label)
            ends = {0: (6, (-3, 3, -9)[number % 3]), len(names) - 1: (4, 5)} if close else {}  # its largest and smallest alpha
            for place, shift in ends.items():
                alpha = names[place].removeprefix(f"{stem}-").partition("-")[0]
                corner = [e.value for e in at[place]]
                axis.annotate(alpha, corner, shift, textcoords="offset points", fontsize=9, color=COLOURS[number])
        for number, (label, runs) in enumerate((also or {}).items(), len(curves)):
            at = [_point(r.group(runs, split=split))]
            reached += [(x.value, y.value) for x, y in at]
            _crosses(axis, at, number, label)
        axis.set(xlabel="sensitivity (recall)", xlim=(0, 1.02), ylim=(0, 1.02))
    x, y = zip(*reached, strict=True)
    axes[0, 1].set(yscale="log", xlim=(max(0, min(x) - 0.06), 1.06), ylim=(min(y) / 1.6, min(1.0, max(y) * 1.6)))
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if min(y) / 1.6 <= t <= max(y) * 1.6]
    axes[0, 1].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[0, 1].minorticks_off()
    axes[0, 0].set(ylabel="precision")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _point(counts: np.ndarray) -> tuple[results.Estimate, results.Estimate]:
    both = pooled(counts)
    return of(results.sensitivity, both), of(results.precision, both)


def _crosses(axis: Axes, at: Sequence[tuple[results.Estimate, results.Estimate]], number: int, label: str) -> None:
    """Points with their intervals in both directions, joined in order."""
    colour, marker, dash = (each[number % len(COLOURS)] for each in (COLOURS, MARKERS, DASHES))
    dash = dash if len(at) > 1 else "none"
    x, y = ([e[i].value for e in at] for i in (0, 1))
    spread = [[[e[i].value - e[i].low for e in at], [e[i].high - e[i].value for e in at]] for i in (0, 1)]
    axis.errorbar(x, y, xerr=np.maximum(spread[0], 0), yerr=np.maximum(spread[1], 0), color=colour, marker=marker, ls=dash,
                  lw=1.6, elinewidth=0.7, label=label)  # fmt: skip


def froc(
    r: Results, groups: Mapping[str, Sequence[str]], *, split: str = "test", prior: bool | None = None,
    most: float = 40.0,
) -> Figure:  # fmt: skip
    """Sensitivity against false positives per volume as the threshold moves; the marker is threshold 0.5, with intervals.

    groups: legend → runs (seeds pooled). prior: as in :meth:`Results.counts`.
    """
    figure, axes = figures.new_figure(6.5, 3.8)
    axis = axes[0, 0]
    for number, (label, names) in enumerate(groups.items()):
        both = pooled(r.group(names, split=split, prior=prior))
        y, _, x = results.along(both[0])
        kept = np.isfinite(x) & (x > 0)
        colour, marker, dash = (each[number % len(COLOURS)] for each in (COLOURS, MARKERS, DASHES))
        axis.plot(x[kept], y[kept], color=colour, ls=dash, marker=marker, markevery=[], label=label)  # in the legend
        fp, found = of(results.fp_per_volume, both), of(results.sensitivity, both)
        if np.isfinite(fp.value):
            axis.errorbar(
                fp.value, found.value, xerr=[[fp.value - fp.low], [fp.high - fp.value]],
                yerr=[[found.value - found.low], [found.high - found.value]], color=colour, marker=marker, elinewidth=0.8,
            )  # fmt: skip
    axis.set(xscale="log", xlim=(0.1, most), ylim=(0, 1.02), xlabel="false positives per volume", ylabel="sensitivity")
    ticks = [t for t in (0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if t <= most]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.legend(loc="lower right")
    return figure


def better_from(r: Results, one: Sequence[str], other: Sequence[str], *, split: str = "test") -> float:
    """False positives per volume from which on ``one`` finds more than ``other`` at every budget up to 20; NaN if at none."""
    sums = [pooled(r.group(names, split=split))[0] for names in (one, other)]
    budgets = np.geomspace(0.1, 20, 400)
    ahead = np.array([results.sensitivity_at(b)(sums[0]) > results.sensitivity_at(b)(sums[1]) for b in budgets])
    if not ahead[-1]:
        return float("nan")
    behind = np.flatnonzero(~ahead)
    return float(budgets[behind[-1] + 1] if len(behind) else budgets[0])


def size_classes() -> dict[str, tuple[float, float]]:
    """Size classes of lesions in words (cm3) → from, to (mm3)."""
    edges = zip(SIZES_MM3, SIZES_MM3[1:], strict=False)
    return {f"{a / 1000:g}–{b / 1000:g}" if b < np.inf else f"over {a / 1000:g}": (a, b) for a, b in edges}


def gains(r: Results, shown: Mapping[str, str], levels: Mapping[str, int]) -> dict[str, Estimate]:
    """Sensitivity of the second run minus that of the first, each at its level, for every size class, over the same patients."""
    (a, first), (b, second) = shown.items()
    out = {}
    for words, (low, high) in size_classes().items():
        p, q = (pooled(r.group([n], least_mm3=low, most_mm3=high)) for n in (first, second))
        at_p, at_q = (results.sensitivity(x, levels[b]) for x in q), (results.sensitivity(x, levels[a]) for x in p)
        (value_q, drawn_q), (value_p, drawn_p) = at_p, at_q
        out[words] = results.estimate(float(value_q - value_p), drawn_q - drawn_p)
    return out


def gains_in_words(gain: Mapping[str, Estimate]) -> str:
    """A title for :func:`gains`: where the gain is largest, and every class whose whole interval is a loss."""
    best = max(gain, key=lambda k: gain[k].value)
    losses = [k for k, e in gain.items() if e.high < 0]
    return f"JVSS gains most at {best} cm³" + (f", loses at {' and '.join(losses)} cm³" if losses else "")


def misses_in_words(r: Results, shown: Mapping[str, str], levels: Mapping[str, int]) -> str:
    """How many lesions each run misses at its level, and how many of these are small."""
    lines = []
    for label, name in shown.items():
        counts = [
            r.group([name], most_mm3=most)[..., levels[label], results.MISSED].sum()
            for most in (np.inf, results.SMALL_MM3)
        ]
        lines.append(f"{label} misses {counts[0]:.0f}, of which {counts[1]:.0f} below {results.SMALL_MM3 / 1000:g} cm³")
    return "\n".join(lines)


def by_size(
    r: Results, groups: Mapping[str, Sequence[str]], *, levels: Mapping[str, int] | None = None, split: str = "test"
) -> pd.DataFrame:
    """Lesions of each size class, and the share that each group finds at its level (0.5 by default), with its interval.

    Columns: model, size (cm3, in words), lesions, sensitivity, low, high.
    """
    lines = []
    for label, names in groups.items():
        level = (levels or {}).get(label, HALF)
        for words, (low, high) in size_classes().items():
            counts = r.group(names, split=split, least_mm3=low, most_mm3=high)
            e = of(lambda c, level=level: results.sensitivity(c, level), counts)
            at = counts[0, :, level]
            n = int((at[:, results.FOUND] + at[:, results.MISSED]).sum())
            lines.append((label, words, n, e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["model", "size", "lesions", "sensitivity", "low", "high"])


#: What became of a lesion since the visit before, in the words of the generator and in ours.
STATES = {
    "new": "new",
    "growing": "growing",
    "pseudo-progression": "growing",
    "stable": "stable",
    "responding": "shrinking",
}


def by_state(
    r: Results, groups: Mapping[str, Sequence[str]], *, levels: Mapping[str, int] | None = None,
    second: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Lesions of test visits with a prior by what became of them, and the share that each group finds at its level.

    second: the second image under which a group was scored, where it is not its own. Intervals are over patients and
    seeds. Columns: model, state, lesions, sensitivity, low, high. ``InputError`` for rows without known states.
    """
    if r.lesions is None:
        raise InputError("by_state: expected rows of a synthetic cohort (lesions.csv); got none; collect them again")
    states = r.lesions.assign(state=r.lesions["state"].map(STATES)).dropna(subset=["state"])
    patient = r.visits.set_index("case")["patient"].to_dict()
    lines = []
    for label, names in groups.items():
        level = (levels or {}).get(label, HALF)
        rows = pd.concat([r.rows[n, "test", (second or {}).get(label, "prior")].assign(run=n) for n in names])
        rows = rows[rows["kind"] == "lesion"].merge(states[["case", "id", "state"]], on=["case", "id"])
        rows = rows.assign(patient=rows["case"].map(patient), found=rows["top"] >= level)
        for state in [s for s in dict.fromkeys(STATES.values()) if (rows["state"] == s).any()]:
            each = rows[rows["state"] == state].groupby(["run", "patient"])["found"].agg(["sum", "count"])
            counts = np.stack([each.loc[n].to_numpy(float) for n in names])  # (seeds, patients, found and all)
            e = of(lambda c: results.over(c[..., 0], c[..., 1]), counts)
            lines.append((label, state, int(counts[0, :, 1].sum()), e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["model", "state", "lesions", "sensitivity", "low", "high"])


def draw_by_class(table: pd.DataFrame) -> Figure:
    """The table of :func:`by_size` or :func:`by_state`: one group of points for each class of lesions."""
    figure, axes = figures.new_figure(6.5, 3.4)
    axis = axes[0, 0]
    kind = "size" if "size" in table else "state"
    words = {"size": "volume of the metastasis, cm³", "state": "since the visit before the metastasis is"}[kind]
    sizes, models = list(dict.fromkeys(table[kind])), list(dict.fromkeys(table["model"]))
    for number, model in enumerate(models):
        own = table[table["model"] == model].reset_index(drop=True)
        x = np.arange(len(sizes)) + 0.16 * (number - (len(models) - 1) / 2)
        spread = np.maximum([own["sensitivity"] - own["low"], own["high"] - own["sensitivity"]], 0)
        axis.errorbar(
            x, own["sensitivity"], yerr=spread, ls="none", color=COLOURS[number], marker=MARKERS[number], label=model
        )
    n = table[table["model"] == models[0]]["lesions"].tolist()
    axis.set_xticks(range(len(sizes)), [f"{s}\nn = {k}" for s, k in zip(sizes, n, strict=True)])
    axis.set(xlabel=words, ylabel="sensitivity", ylim=(-0.02, 1.05))
    axis.legend(loc="lower right")
    return figure


def test_case(name: str, *, moved_mm: float | None = None) -> Case:
    """A visit of the cohort ``quick`` by the name it has in the rows, made anew (seconds).

    moved_mm: residual misregistration of its prior, root mean square, instead of the cohort's own.
    """
    config = synthetic.COHORTS["quick"]
    if moved_mm is not None:
        config = dataclasses.replace(config, misregistration_mm=(moved_mm, moved_mm))
    return next(v.case for v in synthetic.patient(config, int(name.split("_")[1])).visits if v.case.name == name)


def peak_of_lesion(case: Case, probability: np.ndarray, centre: Sequence[float]) -> float:
    """The highest value of a map inside the reference lesion nearest to a place (voxels)."""
    lesions, count = label_lesions(case.label > 0)  # type: ignore[operator]
    middles = [np.argwhere(lesions == n).mean(0) for n in range(1, count + 1)]
    nearest = 1 + int(np.argmin([np.linalg.norm(m - np.asarray(centre, float)) for m in middles]))
    return float(probability[lesions == nearest].max())


def draw_maps(
    case: Case, maps: Mapping[str, np.ndarray], thresholds: Mapping[str, float], centre: Sequence[float], *,
    edge: int = 48,
) -> Figure:  # fmt: skip
    """An axial square of ``edge`` voxels around a place: the scan with the reference outlined, then each map over the scan.

    A map is coloured from 0.05 on; what reaches its threshold is outlined. Voxels are those of the case.
    """
    figure, axes = figures.new_figure(2.15 * (len(maps) + 1), 3.35, columns=len(maps) + 1)
    x, y, z = (round(float(c)) for c in centre)
    image = None
    with figures.style():
        for axis, name in zip(axes[0], ["scan and reference", *maps], strict=True):
            figures.draw_slice(axis, case, index=z, reference=name not in maps)
            if name in maps:
                shown = figures.plane_of(maps[name], "axial", z)
                image = axis.imshow(np.ma.masked_less(shown, 0.05), cmap="viridis", vmin=0, vmax=1, alpha=0.85)
                inside = (shown >= thresholds[name]).astype(float)
                if inside.any():
                    axis.contour(inside, [0.5], colors=["#E69F00"], linewidths=[1.4])
            figures.zoom(axis, case, x, y, edge)
            words = f"{name}\nfrom {thresholds[name]:.4g} on" if name in thresholds else name
            axis.set_title(words, fontsize=9, fontweight="normal")
        if image is not None:
            figure.colorbar(
                image, ax=list(axes[0]), location="bottom", fraction=0.05, pad=0.02, aspect=40, label="probability"
            )
    return figure


def draw_history(history: pd.DataFrame, *, title: str) -> Figure:
    """The parts of the loss of a training (``history.csv``) against the segments seen."""
    figure, axes = figures.new_figure(6.5, 3.0)
    parts = [c for c in ("loss", "vss", "sse", "bce") if c in history]
    for number, part in enumerate(parts):
        look = {"marker": MARKERS[number], "color": COLOURS[number], "ls": DASHES[number]}
        axes[0, 0].plot(history["segments"], history[part], label="sum" if part == "loss" else part.upper(), **look)
    axes[0, 0].set(xlabel="segments seen", ylabel="mean since the last point")
    axes[0, 0].legend()
    return figures.titled(figure, title)


def watched_in_words(before: Mapping[str, float] | None, after: Mapping[str, float], case: Case) -> str:
    """Lesions found and false positives of the ``case`` that a training did not see, before and after it."""
    lesions = label_lesions(case.label > 0)[1]  # type: ignore[operator]

    def words(at: Mapping[str, float]) -> str:
        false = figures.count_words(round(at["val_fp_per_volume"]), "false positive", "false positives")
        return f"{round(at['val_sensitivity'] * lesions)} found and {false}"

    whose = f"One unseen patient with {figures.count_words(lesions, 'metastasis', 'metastases')}, at 0.5"
    if before is None:
        return f"From scratch. {whose}: {words(after)}."
    return f"{whose}: {words(before)} before, {words(after)} after."


def moves(history: pd.DataFrame) -> dict[str, float]:
    """How far each part of a loss moved from point to point, on the mean, relative to its mean."""
    parts = [p for p in ("vss", "sse", "bce") if p in history]
    return {p.upper(): float(history[p].diff().abs().mean() / history[p].mean()) for p in parts}


def steadier(history: pd.DataFrame) -> str:
    """:func:`moves` in words."""
    words = ", ".join(f"{k} moves by {v:.0%}" for k, v in moves(history).items())
    return f"from point to point, relative to its mean: {words}"


def lengths(r: Results, stems: Mapping[str, str]) -> dict[str, list[str]]:
    """Runs of one recipe by how long they were trained from the trunk: label → its names of seed 0, from label → stem."""
    found = {}
    for label, stem in stems.items():
        form = re.compile(rf"{re.escape(stem)}(-\d+k)?-s0")
        names = [n for n in r.runs["run"].unique() if form.fullmatch(n) and r.has(n)]
        found[label] = sorted(names, key=lambda n: _segments(r, n))
    return found


def _segments(r: Results, name: str) -> int:
    return int(r.runs.loc[r.runs["run"] == name, "segments"].iloc[0])


def _seeds(r: Results, name: str) -> list[str]:
    """A run and those that differ from it by their seed alone."""
    return r.seeds(name.rpartition("-s")[0])


def seeds_in_words(r: Results, curves: Mapping[str, Sequence[str]]) -> str:
    """How many seeds stand behind each length of :func:`lengths`: "3 seeds after 5,000 segments, else one". The fewest of a
    loss."""
    known = [(_segments(r, n), len(_seeds(r, n))) for names in curves.values() for n in names]
    fewest = {n: min(k for m, k in known if m == n) for n, _ in sorted(known)}
    words = [f"{k} seeds after {n:,} segments" for n, k in fewest.items() if k > 1]
    return ", ".join(words + ["else one" if words else "one seed"] * (len(words) < len(fewest)))


def learning_curve(r: Results, curves: Mapping[str, Sequence[str]], *, sensitivity: float = EQUAL) -> Figure:
    """False positives per volume against the segments of fine-tuning: at one sensitivity (left), at threshold 0.5 (right).

    curves: legend → runs of one loss with more and more segments (:func:`lengths`), all seeds of each. A run that does not reach
    the sensitivity above the floor of its rows is a cross at the upper edge.
    """
    figure, axes = figures.new_figure(6.5, 3.6, columns=2)
    for axis, at in zip(axes[0], (sensitivity, None), strict=True):
        missing = []
        for number, (label, names) in enumerate(curves.items()):
            found = _along_lengths(r, names, at)
            reached = {n: e for n, e in found.items() if np.isfinite(e.value)}
            missing += [(n, number) for n in found if n not in reached]
            y, low, high = (np.array([getattr(e, k) for e in reached.values()]) for k in ("value", "low", "high"))
            spread = np.maximum(np.nan_to_num([y - low, high - y]), 0)
            beside = [n * 1.04**number for n in reached]  # so that bars of one length do not cover each other
            axis.errorbar(beside, y, yerr=spread, color=COLOURS[number], marker=MARKERS[number], ls=DASHES[number],
                          elinewidth=0.8, capsize=3, label=label)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="thousand segments seen in fine-tuning", title=_read_where(at))
        ticks = sorted({_segments(r, n) for names in curves.values() for n in names})
        axis.set_xticks(ticks, [f"{n / 1000:g}" for n in ticks])
        axis.minorticks_off()
        low, high = axis.get_ylim()
        heights = [t for t in (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 100, 200) if low <= t <= high]
        axis.set_yticks(heights, [f"{t:g}" for t in heights])
        for n, number in missing:
            axis.plot(n, 1, marker="x", ms=9, mew=2, color=COLOURS[number], clip_on=False, zorder=5,
                      transform=axis.get_xaxis_transform())  # fmt: skip
            axis.annotate("not reached", (n, 1), (-8, -12), textcoords="offset points", ha="right", fontsize=8,
                          xycoords=axis.get_xaxis_transform(), color=COLOURS[number])  # fmt: skip
    axes[0, 0].set_ylabel("false positives per volume")
    axes[0, 0].legend(loc="lower left")
    return figure


def _read_where(sensitivity: float | None) -> str:
    return "at threshold 0.5" if sensitivity is None else f"at sensitivity {sensitivity:g}"


def _measured(sensitivity: float | None) -> Any:
    return results.fp_per_volume if sensitivity is None else results.fp_at(sensitivity)


def _along_lengths(r: Results, names: Sequence[str], sensitivity: float | None) -> dict[int, Estimate]:
    """Segments → false positives per volume at that sensitivity, or, without one, at threshold 0.5; all seeds."""
    return {_segments(r, n): of(_measured(sensitivity), r.group(_seeds(r, n))) for n in names}


def lengths_in_words(r: Results, curves: Mapping[str, Sequence[str]], *, sensitivity: float | None = EQUAL) -> str:
    """The numbers of :func:`learning_curve`: a line each, and what the longest that got there has against the next shorter.

    Without a sensitivity: those at threshold 0.5, with the share of the metastases that is found there.
    """
    lines = [f"false positives per volume {_read_where(sensitivity)}"]
    for label, names in curves.items():
        at = _along_lengths(r, names, sensitivity)
        words = [f"{e.value:.3g} after {n:,}" for n, e in at.items() if np.isfinite(e.value)]
        words += [f"not reached after {n:,}" for n, e in at.items() if not np.isfinite(e.value)]
        if sensitivity is None:
            shares = [of(results.sensitivity, r.group(_seeds(r, n))).value for n in names]
            words = [f"{w} ({share:.1%} found)" for w, share in zip(words, shares, strict=True)]
        reached = [name for name, e in zip(names, at.values(), strict=True) if np.isfinite(e.value)]
        ratio = ""
        if len(reached) > 1:
            gain = trained_apart(r, _measured(sensitivity), *(_seeds(r, n) for n in reached[:-3:-1]), ratio=True)
            long, short = (f"{_segments(r, n):,}" for n in reached[:-3:-1])
            ratio = f"; {long} against {short} segments: {gain} times"
        lines.append(f"{label}: {', '.join(words)}{ratio}")
    return "\n".join(lines)


def learning_title(r: Results, curves: Mapping[str, Sequence[str]], rival: str) -> str:
    """A title for :func:`learning_curve`: the first loss beside its rival, after every length that both have."""
    label = next(k for k in curves if k != rival)
    known = {n: e for n, e in _leads(r, curves[label], curves[rival], EQUAL).items() if np.isfinite(e.value)}
    ratios, lengths = ", ".join(f"{e.value:.2f}" for e in known.values()), ", ".join(f"{n / 1000:g}" for n in known)
    return f"{label} has {ratios} times {rival}'s false positives after {lengths} thousand segments"


def falls_in_words(
    r: Results, curves: Mapping[str, Sequence[str]], *, begin: int = 5000, sensitivity: float | None = EQUAL
) -> str:
    """What more training is worth to each loss: a line each, its false positives after more segments over those after ``begin``.

    curves: legend → runs of one loss (:func:`lengths`). Read at one sensitivity, or, without one, at threshold 0.5.
    """
    lines = [f"false positives {_read_where(sensitivity)}, as a multiple of those after {begin:,} segments"]
    for label, names in curves.items():
        at = {_segments(r, n): _seeds(r, n) for n in names}
        falls = [
            f"{in_words(trained_apart(r, _measured(sensitivity), at[n], at[begin], ratio=True))} after {n:,}"
            for n in at
            if n > begin
        ]
        lines.append(f"{label}: {', '.join(falls)}")
    return "\n".join(lines)


def by_kind(r: Results, names: Sequence[str]) -> pd.DataFrame:
    """False positives per volume at 0.5 of runs of more and more segments, a column each (all seeds), by what lies there."""
    lies = dict(zip(results.KINDS, LIES_THERE, strict=True))
    return pd.DataFrame({f"{_segments(r, n):,} segments": r.false_by_kind(_seeds(r, n)) for n in names}).rename(lies)


def found_in_words(r: Results, names: Sequence[str]) -> str:
    """The share of the test metastases that runs of more and more segments find at 0.5, all their seeds: "0.81 after 5,000"."""
    found = {n: of(results.sensitivity, r.group(_seeds(r, n))) for n in names}
    return ", ".join(f"{e.value:.2f} after {_segments(r, n):,}" for n, e in found.items())


def leads_in_words(
    r: Results, curves: Mapping[str, Sequence[str]], rival: Sequence[str], *, sensitivity: float = EQUAL
) -> str:
    """Losses against BCE at one sensitivity, after each number of segments that both were trained for: a line per loss.

    curves: legend → runs of one loss with more and more segments (:func:`lengths`); rival: those of BCE. The ratio of false
    positives with its interval, whether a lead is shown at the last, and the longer lengths that BCE lacks.
    """
    lines = []
    for label, names in curves.items():
        ratios = _leads(r, names, rival, sensitivity)
        known = {n: e for n, e in ratios.items() if np.isfinite(e.value)}
        if not known:
            continue
        last = [*known.values()][-1]
        led = any(e.high < 1 for e in known.values())
        verdict = "ahead" if last.high < 1 else "behind" if last.low > 1 else f"no lead is shown{' any more' * led}"
        alone = [f"{n:,}" for n in (_segments(r, name) for name in names) if n > max(known)]
        lines += textwrap.wrap(
            f"{label}, at sensitivity {sensitivity:g}: {', '.join(f'{in_words(e)} after {n:,}' for n, e in known.items())}: "
            + verdict
            + (f"; for {' and '.join(alone)} there is no BCE to compare with" if alone else ""),
            100,
            subsequent_indent="    ",
        )
    return "\n".join(lines)


def outlines(r: Results, curves: Mapping[str, Sequence[str]], rival: Sequence[str]) -> pd.DataFrame:
    """Dice of losses minus that of BCE on the test metastases that **both** find at 0.5, after each number of segments of both.

    A difference of mDSC may come from the metastases that one of the two misses; here each is judged on the same. Seeds go in
    pairs of equal number. curves, rival: as for :func:`leads_in_words`. One row per loss and length; columns: both find (of a
    pair); for all, below and from 0.1 cm3 the mean difference, over patients and pairs, NaN where there are none.
    """
    patients = r.visits.loc[r.visits["split"] == "test"].set_index("case")["patient"]
    place = pd.Series(pd.factorize(patients, sort=True)[0], patients.index)
    sizes = {"all": (0.0, np.inf), "below 0.1 cm³": (0.0, results.SMALL_MM3), "0.1 cm³ and more": (results.SMALL_MM3, np.inf)}
    others = {_segments(r, n): n for n in rival}
    lines = {}
    for label, names in curves.items():
        for n, name in ((_segments(r, name), name) for name in names if _segments(r, name) in others):
            pairs = [_found_by_both(r, *pair) for pair in zip(_seeds(r, name), _seeds(r, others[n]), strict=False)]
            line: dict[str, Any] = {"both find": np.mean([len(p) for p in pairs])}
            for words, (low, high) in sizes.items():
                sums = np.zeros((len(pairs), patients.nunique(), 2))  # of Dice differences, of lesions
                for at, pair in zip(sums, pairs, strict=True):
                    of_size = pair[(pair["volume_mm3"] >= low) & (pair["volume_mm3"] < high)]
                    gap = of_size["dice"] - of_size["dice_other"]
                    np.add.at(at, place[of_size["case"]].to_numpy(), np.stack([gap, np.ones_like(gap)], -1))
                line[words] = of(lambda c: results.over(c[..., 0], c[..., 1]), sums)
            lines[f"{label}, {n:,} segments"] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def _found_by_both(r: Results, one: str, other: str) -> pd.DataFrame:
    """Test lesions that both runs find at 0.5: case, id, volume_mm3, dice and dice_other."""
    all_rows = (r.rows[n, "test", "prior"] for n in (one, other))
    tables = [rows[(rows["kind"] == "lesion") & rows["dice"].notna()] for rows in all_rows]
    return tables[0][["case", "id", "volume_mm3", "dice"]].merge(
        tables[1][["case", "id", "dice"]], on=["case", "id"], suffixes=("", "_other"), validate="one_to_one"
    )


def _leads(r: Results, names: Sequence[str], rival: Sequence[str], sensitivity: float) -> dict[int, Estimate]:
    """Segments → false positives of a loss over its rival's, at one sensitivity, for the lengths of both, all seeds."""
    others = {_segments(r, n): n for n in rival}
    pairs = {_segments(r, n): (n, others.get(_segments(r, n))) for n in names}
    return {
        n: trained_apart(r, results.fp_at(sensitivity), *(_seeds(r, x) for x in pair), ratio=True)
        for n, pair in pairs.items()
        if pair[1]
    }


def along_sensitivities(
    r: Results, a: str, b: str, *, sensitivities: Sequence[float] = (EQUAL, 0.9, 0.95, 0.98)
) -> pd.DataFrame:
    """Two runs where each finds the same share of the metastases, and not at one share alone: a row per sensitivity.

    Columns: false positives a volume of ``a`` and of ``b``, and the first over the second with its interval, in words.
    "beyond the rows": found only with more false positives than the rows hold.
    """

    def words(e: Estimate) -> str:
        return "beyond the rows" if np.isnan(e.value) else in_words(e)

    both = [pooled(r.group([name])) for name in (a, b)]
    at = {s: results.fp_at(s) for s in sensitivities}
    columns = {name: [words(of(fp, counts)) for fp in at.values()] for name, counts in zip((a, b), both, strict=True)}
    columns["ratio"] = [words(trained_apart(r, fp, [a], [b], ratio=True)) for fp in at.values()]
    return pd.DataFrame(columns, index=pd.Index([f"{s:g}" for s in at], name="sensitivity"))


def lost() -> pd.DataFrame:
    """The histories of trainings that were lost to a wrong slope of BCE, before it was mended: ``histories.csv`` of
    ``experiments/lost``."""
    return pd.read_csv(notebooks_folder() / "results" / "experiments" / "lost" / "histories.csv")


def draw_before_and_after(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """BCE on the own segments of the trainings ``before`` (a panel each), and of those of the same name ``after``, if any."""
    names = list(dict.fromkeys(before["run"]))
    figure, axes = figures.new_figure(6.5, 3.2, columns=len(names))
    for axis, name in zip(axes[0], names, strict=True):
        for number, (label, histories) in enumerate((("slope of a rounded p", before), ("slope from logits", after))):
            own = histories[histories["run"] == name]
            axis.plot(own["segments"] / 1000, own["bce"], color=COLOURS[number], ls=DASHES[number], label=label)
        axis.set(yscale="log", ylim=(0.003, 9), xlabel="thousand segments", title=name.removesuffix("-s0"))
    axes[0, 0].set_ylabel("BCE, mean since the last point")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def broken_down(histories: pd.DataFrame) -> pd.DataFrame:
    """Trainings whose last BCE is more than three times their lowest: both, and the segments seen by then, a row per run."""
    lines = {}
    for name, each in histories.dropna(subset=["bce"]).groupby("run"):
        lowest, last = each.loc[each["bce"].idxmin()], each.iloc[-1]
        if last["bce"] > 3 * lowest["bce"]:
            lines[name] = {"lowest BCE": round(lowest["bce"], 3), "after segments": int(lowest["segments"]),
                           "last BCE": round(last["bce"], 3), "of segments": int(last["segments"]),
                           "first rate": float(each["rate"].max())}  # fmt: skip
    return pd.DataFrame(lines.values(), index=pd.Index(lines, name="run"))


def _claimed(null: str) -> str:
    """The paper's side of a claim: "0 to " → "above 0"."""
    low, high = (part.strip() for part in null.split("to"))
    return f"{low} to {high}" if low and high else f"above {low}" if low else f"below {high}"


def verdicts(table: pd.DataFrame, *, of_claims: Sequence[str] | None = None) -> pd.DataFrame:
    """The claims table in words for a notebook: what the number is, what is claimed of it, paper, ours, verdict.

    of_claims: only claims that hold one of these texts.
    """
    chosen = table if of_claims is None else table[[any(t in c for t in of_claims) for c in table["claim"]]]
    ours = ["" if np.isnan(t.ours) else f"{t.ours:.3g} [{t.low:.3g}, {t.high:.3g}]" for t in chosen.itertuples()]
    paper = ["" if np.isnan(p) else f"{p:.3g}" for p in chosen["paper"]]
    return pd.DataFrame(
        {"what": [w.split(";")[0] for w in chosen["why"]], "claimed": [_claimed(n) for n in chosen["null"]], "paper": paper,
         "ours": ours, "over": chosen["interval"].str.replace(" and", ",").to_list(), "seeds": chosen["seeds"].to_list(),
         "verdict": chosen["verdict"].to_list()},
        index=pd.Index(chosen["claim"], name="claim"),
    )  # fmt: skip
