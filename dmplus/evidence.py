"""Pictures of the experiments' results: each takes :class:`dmplus.results.Results` and draws one idea.

Colour and marker say which loss or network, so that no line is known by its colour alone. Bars and crosses are 95 %
intervals over patients (and seeds, where there are several). Everything drawn is computed from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dmplus import figures, results
from dmplus.claims import curve_over_alpha
from dmplus.results import Results, of, pooled
from dmplus.scoring import HALF, LEVELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
SIZES_MM3 = (0.0, 30.0, 100.0, 300.0, 1000.0, np.inf)  #: edges of the size classes of lesions


def over_alpha(
    r: Results, curves: Mapping[str, str], *, also: Mapping[str, Sequence[str]] | None = None,
    moved: str | None = None, split: str = "test",
) -> Figure:  # fmt: skip
    """Precision against recall at threshold 0.5, one point per alpha (Figure 6 of the paper).

    curves: legend → stem of the runs ("jvss", "sse+bce"). also: legend → runs drawn as one point (seeds pooled). moved: a
    run whose threshold is moved, drawn as a grey line. Left the whole square, right the part where the points lie.
    """
    figure, axes = figures.new_figure(7.0, 3.7, columns=2)
    reached = []
    for axis, close in ((axes[0, 0], False), (axes[0, 1], True)):
        if moved is not None:
            line = r.group([moved], split=split).sum(1).mean(0)
            x, y = ([f(line, k) for k in range(len(LEVELS))] for f in (results.sensitivity, results.precision))
            axis.plot(x, y, color="#999999", lw=1.2, ls="-", zorder=1, label="one model, threshold moved")
        for number, (label, stem) in enumerate(curves.items()):
            names = curve_over_alpha(r, stem)
            at = [_point(r.group([n], split=split)) for n in names]
            reached += [(x.value, y.value) for x, y in at]
            _crosses(axis, at, number, label)
            for name, (x, y) in zip(names, at, strict=True) if close else ():
                alpha = name.removeprefix(f"{stem}-").partition("-")[0]
                axis.annotate(alpha, (x.value, y.value), (4, 4), textcoords="offset points", fontsize=8)
        for number, (label, runs) in enumerate((also or {}).items(), len(curves)):
            at = [_point(r.group(runs, split=split))]
            reached += [(x.value, y.value) for x, y in at]
            _crosses(axis, at, number, label)
        axis.set(xlabel="sensitivity (recall)", xlim=(0, 1.02), ylim=(0, 1.02))
    x, y = zip(*reached, strict=True)
    axes[0, 1].set(
        xlim=(max(0, min(x) - 0.05), min(1.01, max(x) + 0.08)), ylim=(max(0, min(y) - 0.08), min(1.01, max(y) + 0.1))
    )
    axes[0, 0].set(ylabel="precision")
    axes[0, 0].legend(loc="best", fontsize=8)
    return figure


def _point(counts: np.ndarray) -> tuple[results.Estimate, results.Estimate]:
    both = pooled(counts)
    return of(results.sensitivity, both), of(results.precision, both)


def _crosses(axis: Axes, at: Sequence[tuple[results.Estimate, results.Estimate]], number: int, label: str) -> None:
    """Points with their intervals in both directions, joined in order."""
    colour, marker, dash = (each[number % len(COLOURS)] for each in (COLOURS, MARKERS, DASHES))
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
        x, y = (f(both[0][None])[0] for f in (_all_fp, _all_sensitivity))
        kept = np.isfinite(x) & (x > 0)
        colour, marker, dash = (each[number % len(COLOURS)] for each in (COLOURS, MARKERS, DASHES))
        axis.plot(x[kept], y[kept], color=colour, ls=dash, label=label)
        fp, found = of(results.fp_per_volume, both), of(results.sensitivity, both)
        if np.isfinite(fp.value):
            axis.errorbar(
                fp.value, found.value, xerr=[[fp.value - fp.low], [fp.high - fp.value]],
                yerr=[[found.value - found.low], [found.high - found.value]], color=colour, marker=marker, elinewidth=0.8,
            )  # fmt: skip
    axis.set(xscale="log", xlim=(0.1, most), ylim=(0, 1.02), xlabel="false positives per volume", ylabel="sensitivity")
    axis.set_xticks([0.1, 0.5, 1, 2, 5, 10, 20, 40], ["0.1", "0.5", "1", "2", "5", "10", "20", "40"])
    axis.minorticks_off()
    axis.legend(loc="lower right")
    return figure


def _all_sensitivity(counts: np.ndarray) -> np.ndarray:
    return results.over(counts[..., results.FOUND], counts[..., results.FOUND] + counts[..., results.MISSED])


def _all_fp(counts: np.ndarray) -> np.ndarray:
    return results.over(counts[..., results.FALSE], counts[..., results.VOLUMES])


def by_size(r: Results, groups: Mapping[str, Sequence[str]], *, level: int = HALF, split: str = "test") -> pd.DataFrame:
    """Lesions of each size class, and the share that each group finds at a level, with its interval.

    Columns: model, size (cm3, in words), lesions, sensitivity, low, high.
    """
    lines = []
    for label, names in groups.items():
        for low, high in zip(SIZES_MM3, SIZES_MM3[1:], strict=False):
            counts = r.group(names, split=split, least_mm3=low, most_mm3=high)
            e = of(lambda c: results.sensitivity(c, level), counts)
            at = counts[0, :, level]
            n = int((at[:, results.FOUND] + at[:, results.MISSED]).sum())
            words = f"{low / 1000:g}–{high / 1000:g}" if high < np.inf else f"over {low / 1000:g}"
            lines.append((label, words, n, e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["model", "size", "lesions", "sensitivity", "low", "high"])


def draw_by_size(table: pd.DataFrame) -> Figure:
    """The table of :func:`by_size`: one group of points for each size class."""
    figure, axes = figures.new_figure(6.5, 3.4)
    axis = axes[0, 0]
    sizes, models = list(dict.fromkeys(table["size"])), list(dict.fromkeys(table["model"]))
    for number, model in enumerate(models):
        own = table[table["model"] == model].reset_index(drop=True)
        x = np.arange(len(sizes)) + 0.16 * (number - (len(models) - 1) / 2)
        spread = np.maximum([own["sensitivity"] - own["low"], own["high"] - own["sensitivity"]], 0)
        axis.errorbar(
            x, own["sensitivity"], yerr=spread, ls="none", color=COLOURS[number], marker=MARKERS[number], label=model
        )
    n = table[table["model"] == models[0]]["lesions"].tolist()
    axis.set_xticks(range(len(sizes)), [f"{s}\nn = {k}" for s, k in zip(sizes, n, strict=True)])
    axis.set(xlabel="volume of the metastasis, cm³", ylabel="sensitivity", ylim=(-0.02, 1.05))
    axis.legend(loc="lower right")
    return figure


def learning_curve(r: Results, curves: Mapping[str, Sequence[str]], *, sensitivity: float = 0.8) -> Figure:
    """False positives per volume at one sensitivity against the segments of fine-tuning.

    curves: legend → runs of one loss with more and more segments. Runs that do not reach the sensitivity above the floor
    of their rows have no point.
    """
    figure, axes = figures.new_figure(6.5, 3.4)
    axis = axes[0, 0]
    for number, (label, names) in enumerate(curves.items()):
        seen = [int(r.runs.loc[r.runs["run"] == n, "segments"].iloc[0]) for n in names]
        at = [of(results.fp_at(sensitivity), r.group([n])) for n in names]
        y = np.array([e.value for e in at])
        spread = np.nan_to_num(np.maximum([y - [e.low for e in at], [e.high for e in at] - y], 0))
        axis.errorbar(seen, y, yerr=spread, color=COLOURS[number], marker=MARKERS[number], ls=DASHES[number],
                      elinewidth=0.8, label=label)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="segments of 37³ seen in fine-tuning",
             ylabel=f"false positives per volume\nat sensitivity {sensitivity:g}")  # fmt: skip
    axis.legend()
    return figure


def verdicts(table: pd.DataFrame, *, of_claims: Sequence[str] | None = None) -> pd.DataFrame:
    """The claims table in words for a notebook: claim, paper, ours with its interval, verdict.

    of_claims: only claims that hold one of these texts.
    """
    chosen = table if of_claims is None else table[[any(t in c for t in of_claims) for c in table["claim"]]]
    ours = ["" if np.isnan(t.ours) else f"{t.ours:.3g} [{t.low:.3g}, {t.high:.3g}]" for t in chosen.itertuples()]
    paper = ["" if np.isnan(p) else f"{p:.3g}" for p in chosen["paper"]]
    return pd.DataFrame(
        {"paper": paper, "ours": ours, "seeds": chosen["seeds"].to_list(), "verdict": chosen["verdict"].to_list()},
        index=pd.Index(chosen["claim"], name="claim"),
    )
