"""What the models leave to the reader: load, capture, calibration, and a gallery of every error, from the rows of runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dmplus import evidence, figures, metrics, results, scoring
from dmplus.matching import label_lesions
from dmplus.results import Results
from dmplus.runtime import InputError
from dmplus.scoring import LEVELS
from dmplus.volume import Case

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure


# ------------------------------------------------------------------------------------------- tiers of a system
def blobs_of(r: Results, system: str, *, tier: str = "candidate") -> pd.DataFrame:
    """What a triage system marks in one tier on the test visits: case, patient, true, volume_mm3, peak.

    A metastasis counts once however many blobs touch it. ``InputError`` for a system that was not run.
    """
    known = [] if r.tiers is None else list(dict.fromkeys(r.tiers["system"]))
    if system not in known:
        raise InputError(f"triage rows: expected a system of {known}; got {system!r}; run the set triage or choose one")
    rows = r.tiers[(r.tiers["system"] == system) & (r.tiers["tier"] == tier)]
    patient = r.visits.set_index("case")["patient"]
    table = rows.assign(patient=rows["case"].map(patient), true=rows["kind"] == "lesion")
    return table[["case", "patient", "true", "volume_mm3", "peak"]].reset_index(drop=True)


def load(r: Results, system: str) -> pd.DataFrame:
    """Candidates per test volume of every patient, the busiest first: patient, volumes, candidates, per_volume, true."""
    visits = r.visits[r.visits["split"] == "test"]
    blobs = blobs_of(r, system).groupby("patient")["true"].agg(["size", "sum"])
    table = visits.groupby("patient").size().to_frame("volumes").join(blobs).fillna(0)
    table["per_volume"] = table["size"] / table["volumes"]
    table = table.rename(columns={"size": "candidates", "sum": "true"}).sort_values(
        "per_volume", ascending=False, kind="stable"
    )
    return table.reset_index()[["patient", "volumes", "candidates", "per_volume", "true"]]


def capture(r: Results, system: str) -> pd.DataFrame:
    """Share of the true candidates that a reader has seen after the first k of each volume, by falling peak.

    Columns: k, reviewed (candidates per volume looked at, mean), captured, low, high (intervals over patients). k runs
    from 0 to the longest list. No true candidate gives NaN.
    """
    blobs = blobs_of(r, system).sort_values(["case", "peak"], ascending=[True, False], kind="stable")
    blobs["place"] = blobs.groupby("case").cumcount()
    visits = r.visits[r.visits["split"] == "test"]
    patients = np.unique(visits["patient"])
    most = int(blobs["place"].max()) + 1 if len(blobs) else 0
    seen = np.zeros((len(patients), most + 1, 2))  # true and all candidates among the first k
    at = np.searchsorted(patients, blobs["patient"])
    for column, weight in enumerate((blobs["true"].to_numpy(float), np.ones(len(blobs)))):
        np.add.at(seen[..., column], (at, blobs["place"].to_numpy(int) + 1), weight)
    seen = seen.cumsum(1)
    both = results.pooled(seen[None])
    lines = []
    for k in range(most + 1):
        e = results.of(lambda c, k=k: results.over(c[..., k, 0], c[..., -1, 0]), both)
        lines.append((k, seen[:, k, 1].sum() / len(visits), e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["k", "reviewed", "captured", "low", "high"])


def with_intervals(table: pd.DataFrame, columns: Mapping[str, str], *, digits: int = 2) -> pd.DataFrame:
    """Columns of a table of :mod:`dmplus.claims` in words, '0.81 [0.75, 0.87]', under new names."""
    made = {}
    for old, new in columns.items():
        made[new] = [
            f"{v:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            for v, low, high in zip(table[old], table[f"{old}_low"], table[f"{old}_high"], strict=True)
        ]
    return pd.DataFrame(made, index=table.index)


def draw_load(table: pd.DataFrame, title: str) -> Figure:
    """The table of :func:`load`: one bar per patient, the true candidates at its foot."""
    figure, axes = figures.new_figure(6.5, 3.0)
    axis = axes[0, 0]
    x = np.arange(len(table))
    true = table["true"] / table["volumes"]
    axis.bar(x, true, color="#0072B2", label="true", hatch="//", edgecolor="white")
    axis.bar(x, table["per_volume"] - true, bottom=true, color="#E69F00", label="false")
    axis.set(
        xlabel="test patients, the busiest first",
        ylabel="candidates per volume",
        xlim=(-0.7, len(x) - 0.3),
    )
    axis.legend()
    return figures.titled(figure, title)


def draw_capture(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Tables of :func:`capture` of several systems: share captured against candidates looked at."""
    figure, axes = figures.new_figure(6.5, 3.2)
    axis = axes[0, 0]
    for k, (system, table) in enumerate(tables.items()):
        colour, dash = evidence.COLOURS[k % 6], evidence.DASHES[k % 6]
        axis.plot(table["reviewed"], table["captured"], color=colour, ls=dash, label=system)
        if k == 0:
            axis.fill_between(table["reviewed"], table["low"], table["high"], color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="candidates looked at per volume", ylabel="share of the true\ncandidates seen",
             ylim=(0, 1.03))  # fmt: skip
    axis.legend(loc="lower right", fontsize=8)
    return figures.titled(figure, title)


# ------------------------------------------------------------------------------------------- calibration
def calibration(r: Results, name: str, *, split: str = "test", bins: int = 6) -> pd.DataFrame:
    """Peak probability of what a run marks at 0.5 or more, and how much of it is true, in bins of equal number.

    A found lesion counts once, with its own peak. Peaks are known as levels (steps of 0.25 on the logit). Columns: peak
    (mean), true (share), low, high (Wilson's interval), n.
    """
    rows = r.rows[name, split, "prior"]
    stands = ((rows["kind"] == "lesion") | (rows["bottom"] <= scoring.HALF)) & (rows["top"] >= scoring.HALF)
    rows = rows[stands].sort_values("top", kind="stable")
    peak, true = LEVELS[rows["top"]].astype(float), (rows["kind"] == "lesion").to_numpy(float)
    lines = []
    for part in np.array_split(np.arange(len(rows)), min(bins, max(len(rows), 1))):
        n = len(part)
        if n:
            share = true[part].mean()
            middle, half = (
                (share + 1.92 / n) / (1 + 3.84 / n),
                1.96 * np.sqrt(share * (1 - share) / n + 0.96 / n**2) / (1 + 3.84 / n),
            )
            lines.append((peak[part].mean(), share, max(middle - half, 0), min(middle + half, 1), n))
    return pd.DataFrame(lines, columns=["peak", "true", "low", "high", "n"])


def draw_calibration(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Tables of :func:`calibration`: share true against peak; on the diagonal a probability means what it says."""
    figure, axes = figures.new_figure(4.6, 3.6)
    axis = axes[0, 0]
    axis.plot([0.5, 1], [0.5, 1], color="#777777", lw=1, ls="-")
    for k, (label, table) in enumerate(tables.items()):
        spread = np.maximum([table["true"] - table["low"], table["high"] - table["true"]], 0)
        axis.errorbar(table["peak"], table["true"], yerr=spread, color=evidence.COLOURS[k], marker=evidence.MARKERS[k],
                      ls=evidence.DASHES[k], elinewidth=0.8, label=label)  # fmt: skip
    axis.set(xlabel="peak probability of a blob", ylabel="share that is true", xlim=(0.48, 1.02), ylim=(0, 1.02))
    axis.legend(loc="upper left")
    return figures.titled(figure, title)


# ------------------------------------------------------------------------------------------- the gallery
def errors(r: Results, name: str, level: int, *, split: str = "test") -> pd.DataFrame:
    """Every missed metastasis and every false positive of a run at a level: kind, case, volume_mm3, what, peak, x, y, z.

    kind: "missed" or "false"; what: in words, "" for a metastasis; volume_mm3 of a false positive at 0.5 (NaN if it does
    not stand there). Missed ones first, the largest of them first; then false positives, the strongest first.
    """
    rows = r.rows[name, split, "prior"]
    lesion = rows["kind"] == "lesion"
    missed = rows[lesion & (rows["top"] < level)].assign(kind="missed", what="")
    false = rows[~lesion & (rows["bottom"] <= level) & (rows["top"] >= level)]
    false = false.assign(kind="false", what=[results.KINDS[int(w)] for w in false["what"]])
    both = pd.concat(
        [
            missed.sort_values("volume_mm3", ascending=False, kind="stable"),
            false.sort_values("top", ascending=False, kind="stable"),
        ]
    )
    peak = np.where(both["top"] >= 0, LEVELS[np.maximum(both["top"], 0)], 0.0)
    return both.assign(peak=peak)[["kind", "case", "volume_mm3", "what", "peak", "x", "y", "z"]].reset_index(drop=True)


@functools.lru_cache(maxsize=8)
def _patient_case(name: str) -> Case:
    return evidence.test_case(name)


class Gallery:
    """Pictures of a table of :func:`errors`, page by page, filtered by kind, size and look-alike.

    case: gives the case of a name (by default it is made anew, some seconds for each patient). per_page: thumbnails.
    """

    SIZES = {"any size": (0.0, np.inf), "below 0.1 cm³": (0.0, 100.0), "0.1 cm³ or more": (100.0, np.inf)}

    def __init__(self, table: pd.DataFrame, *, case: Any = None, per_page: int = 6) -> None:
        self.table, self.case_of, self.per_page = table, case or _patient_case, per_page
        self.kind, self.size, self.what, self.page = "missed", "any size", "any", 0

    @property
    def whats(self) -> list[str]:
        """Kinds of look-alikes that can be asked for."""
        return ["any", *sorted({w for w in self.table["what"] if w})]

    @property
    def chosen(self) -> pd.DataFrame:
        """The errors that pass the filter."""
        low, high = self.SIZES[self.size]
        t = self.table[self.table["kind"] == self.kind]
        t = t[(t["volume_mm3"].fillna(0) >= low) & (t["volume_mm3"].fillna(0) < high)]
        return t if self.what == "any" or self.kind == "missed" else t[t["what"] == self.what]

    @property
    def pages(self) -> int:
        """Pages that the filter leaves, at least one."""
        return max(1, -(-len(self.chosen) // self.per_page))

    def describe(self) -> str:
        """Filter, page and number of errors in words."""
        n = len(self.chosen)
        one, many = {
            "missed": ("metastasis missed", "metastases missed"), "false": ("false positive", "false positives")
        }[self.kind]  # fmt: skip
        words = figures.count_words(n, one, many)
        more = f", {self.what}" if self.kind == "false" and self.what != "any" else ""
        return f"{words} ({self.size}{more}), page {self.page + 1} of {self.pages}"

    def draw(self) -> Figure:
        """The page: an axial square around each error, what it is above it."""
        part = self.chosen.iloc[self.page * self.per_page : (self.page + 1) * self.per_page]
        columns = min(3, self.per_page)
        rows = -(-self.per_page // columns)
        figure, axes = figures.new_figure(2.2 * columns, 2.5 * rows, rows=rows, columns=columns)
        for axis in axes.flat:
            axis.set_axis_off()
        with figures.style():
            for axis, row in zip(axes.flat, part.itertuples(), strict=False):
                case = self.case_of(row.case)
                x, y, z = (round(float(v)) for v in (row.x, row.y, row.z))
                figures.draw_slice(axis, case, index=z, reference=True)
                at = figures.zoom(axis, case, x, y, 40)
                axis.plot(*at, marker="o", ms=26, mfc="none", mec="#F0E442", ls="none")
                size = "" if np.isnan(row.volume_mm3) else figures.volume_words(row.volume_mm3) + ", "
                axis.set_title(
                    f"{row.case}\n{size}{row.what or 'missed'}, {row.peak:.3f}", fontsize=8, fontweight="normal"
                )
        return figure

    def render(self) -> bytes:
        """The page as PNG."""
        return figures.png(self.draw())

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        from dmplus.widgets import picture_class

        kind = ipywidgets.ToggleButtons(options=["missed", "false"], value=self.kind, description="errors")
        size = ipywidgets.Dropdown(options=list(self.SIZES), value=self.size, description="size")
        what = ipywidgets.Dropdown(options=self.whats, value=self.what, description="look-alike")
        page = ipywidgets.BoundedIntText(1, min=1, max=self.pages, description="page")
        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML(self.describe())

        def show() -> None:
            words.value = picture.alt = self.describe()
            picture.png = self.render()

        def on_filter(_: Any) -> None:
            self.kind, self.size, self.what, self.page = kind.value, size.value, what.value, 0
            page.max, page.value = self.pages, 1
            show()

        def on_page(change: Any) -> None:
            self.page = change["new"] - 1
            show()

        for control in (kind, size, what):
            control.observe(on_filter, "value")
        page.observe(on_page, "value")
        self.controls = {"kind": kind, "size": size, "what": what, "page": page, "picture": picture, "words": words}
        return ipywidgets.VBox([kind, size, what, page, picture, words])


def gallery(table: pd.DataFrame, *, case: Any = None) -> ipywidgets.VBox:
    """The :class:`Gallery` of a table of errors as a widget to display."""
    return Gallery(table, case=case).widget()


def dice_of_largest(case: Case, masks: Mapping[str, np.ndarray], *, most: int = 3) -> pd.DataFrame:
    """The largest metastases of a case: volume_mm3, and the Dice that each mask (X, Y, Z) reaches, NaN where it misses it.

    The index is the lesion's number among the reference's components. No lesion gives a table without rows.
    """
    tables = {
        name: metrics.lesion_table(case.name, case.label > 0, mask, spacing=case.spacing)  # type: ignore[operator]
        for name, mask in masks.items()
    }
    own = {name: t[t["kind"] == "lesion"].set_index("id") for name, t in tables.items()}
    volume = next(iter(own.values()))["volume_mm3"]
    return pd.DataFrame({"volume_mm3": volume} | {n: t["dice"] for n, t in own.items()}).nlargest(most, "volume_mm3")


def contours(case: Case, masks: Mapping[str, np.ndarray], table: pd.DataFrame) -> Figure:
    """Reference and masks around the lesions of a table of :func:`dice_of_largest`, their Dice above: Figure 8 of the paper.

    One axial square each, through the slice with most of the lesion.
    """
    from matplotlib.lines import Line2D

    reference, _ = label_lesions(case.label > 0)  # type: ignore[operator]
    lines = dict(zip(masks, (("#56B4E9", "solid"), ("#F0E442", "dotted")), strict=False))
    figure, axes = figures.new_figure(2.5 * max(len(table), 1), 3.3, columns=max(len(table), 1))
    with figures.style():
        for axis, lesion in zip(axes[0], table.index, strict=False):
            own = reference == lesion
            z = figures.best_slice(own)
            x, y = np.argwhere(own)[:, :2].mean(0)
            figures.draw_slice(axis, case, index=z, reference=True)
            for name, (colour, dash) in lines.items():
                shown = figures.plane_of(masks[name], "axial", z).astype(float)
                if shown.any():
                    axis.contour(shown, [0.5], colors=[colour], linestyles=[dash], linewidths=[1.8])
            figures.zoom(axis, case, x, y, max(24.0, 3 * table.loc[lesion, "volume_mm3"] ** (1 / 3)))
            said = (
                f"{n} {'missed' if np.isnan(table.loc[lesion, n]) else f'{table.loc[lesion, n]:.2f}'}" for n in masks
            )
            axis.set_title(
                f"{figures.volume_words(table.loc[lesion, 'volume_mm3'])}\n{', '.join(said)}",
                fontsize=9,
                fontweight="normal",
            )
        lines["reference"] = figures.REFERENCE_LINE
        handles = [Line2D([], [], color=c, ls=d, label=n) for n, (c, d) in lines.items()]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), facecolor="#bbbbbb", frameon=True
        )
    return figure
