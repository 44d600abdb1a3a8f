"""What the models leave to the reader: load, capture, calibration, and a gallery of every error, from the rows of runs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dmplus import claims, evidence, experiment, figures, metrics, network, paper, results, scoring
from dmplus.matching import label_lesions
from dmplus.results import Estimate, Results
from dmplus.review import LIES_THERE
from dmplus.runtime import InputError
from dmplus.scoring import LEVELS
from dmplus.volume import Case

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure

#: The numbers of a triage system: name → what is counted, and by what it is divided (columns of ``claims.TRIAGE``).
MEASURES = {
    "found": (("confirmed_found", "candidate_found"), ("lesions",)),
    "confirmed": (("confirmed_found",), ("lesions",)),
    "confirmed that are true": (("confirmed_found",), ("confirmed_found", "confirmed_false")),
    "candidates/volume": (("candidate_found", "candidate_false"), ("volumes",)),
    "true ones/volume": (("candidate_found",), ("volumes",)),
    "false ones/volume": (("candidate_false",), ("volumes",)),
}  # fmt: skip

#: The maps of ``experiment.SYSTEMS`` in words.
SOURCES = {"sens": "M_sens", "spec": "M_spec", "averaged": "mean of both", "majority": "middle one of three"}
PRIORS = {"none": "without the earlier scan", "path": "earlier scan in a path", "channel": "earlier scan as a channel"}


# ------------------------------------------------------------------------------------------- tiers of a system
def groups_of(r: Results, system: str, *, tier: str = "candidate") -> pd.DataFrame:
    """What a triage system marks in one tier on the test visits: case, patient, true, volume_mm3, peak.

    A metastasis counts once however many groups touch it. ``InputError`` for a system that was not run.
    """
    known = [] if r.tiers is None else list(dict.fromkeys(r.tiers["system"]))
    if system not in known:
        raise InputError(f"triage rows: expected a system of {known}; got {system!r}; run the set triage or choose one")
    rows = r.tiers[(r.tiers["system"] == system) & (r.tiers["tier"] == tier)]
    patient = r.visits.set_index("case")["patient"]
    table = rows.assign(patient=rows["case"].map(patient), true=rows["kind"] == "lesion")
    return table[["case", "patient", "true", "volume_mm3", "peak"]].reset_index(drop=True)


def systems_in_words(r: Results, names: Iterable[str] = experiment.SYSTEMS) -> pd.DataFrame:
    """What triage systems do: the mask of either tier, and its false positives per volume on validation."""
    if r.points is None:
        raise InputError("triage rows: expected operating points; got none; run the set triage")
    lines: dict[str, dict[str, str]] = {}
    for p in r.points[r.points["system"].isin(list(names))].itertuples():
        lines.setdefault(p.system, {}).update(
            {
                f"{p.tier} from": f"{SOURCES[p.source]} ≥ {_threshold(p.threshold)}",
                f"{p.tier}, FP/volume on validation": f"{p.validation_fp:.1f}",
            }
        )
    return pd.DataFrame(lines).T.rename_axis("system")


def _threshold(p: float) -> str:
    """0.99966; "1 − 1.2e-06" where a rounded one would be 1."""
    return f"{p:.5g}" if p < 0.99995 else f"1 − {1 - p:.1e}"


def budgets_in_words(r: Results) -> str:
    """The budgets that the thresholds keep to on validation, and the false positives of the paper's two networks beside them."""
    ours = r.points.dropna(subset="budget").groupby("tier")["budget"].first()
    own = paper.table(1).query("network == 'DeepMedic+'").set_index("alpha")["fp"] / paper.VOLUMES
    sens, spec = own[own.index.max()], own[own.index.min()]
    return (
        f"Thresholds were chosen on validation: as sensitive as {ours['candidate']:g} (candidates) and {ours['confirmed']:g} "
        f"(confirmed) false positives a volume allow.\nThe paper chose none; at 0.5 its M_sens makes {sens:.1f} on the test, "
        f"its M_spec {spec:.2f}."
    )


def networks_in_words(r: Results) -> str:
    """The networks behind the rows of the triage, and those whose weights are shipped: loss, alpha, second image, threshold."""
    runs = r.runs.drop_duplicates("run").set_index("run")
    rows, card = [], []
    for source in ("sens", "spec"):
        run = r.points.loc[r.points["source"] == source, "run"].iloc[0]
        rows.append(f"{SOURCES[source]} is {run} (alpha {runs.loc[run, 'alpha']:g}, {PRIORS[runs.loc[run, 'prior']]})")
        said = network.info(source)
        about, prior = said["info"], PRIORS[said["network"]["prior"]]
        card.append(
            f"{SOURCES[source]} {network.loss_in_words(about)}, {prior}, threshold {_threshold(about['threshold_folded_in'])}"
        )
    return (
        f"In the tables: {'; '.join(rows)}; the three that vote are {', '.join(experiment.VOTERS)}.\n"
        f"On your machine: {'; '.join(card)}. The thresholds are folded into the weights, so 0.5 is their operating point."
    )


def systems(r: Results, names: Iterable[str] = experiment.SYSTEMS) -> pd.DataFrame:
    """:data:`MEASURES` of triage systems on the test visits, of those that were run: Estimates, intervals over patients."""
    return _measured(r, names, lambda f, own: results.of(f, own[None]))


def differences(r: Results, system: str = "ensemble", names: Iterable[str] = experiment.SYSTEMS) -> pd.DataFrame:
    """``system`` minus every other of the systems that keeps to the budgets, pairwise over patients: Estimates of
    :data:`MEASURES`."""
    base = claims.triage_counts(r, system)[None]  # type: ignore[index]
    chosen = [s for s in names if s != system and (experiment.SYSTEMS | experiment.LONG_SYSTEMS)[s][-1]]
    return _measured(r, chosen, lambda f, own: results.compare(f, base, own[None]))


def _measured(
    r: Results, names: Iterable[str], of: Callable[[results.Statistic, np.ndarray], Estimate]
) -> pd.DataFrame:
    def ratio(names: Sequence[str], by: Sequence[str]) -> results.Statistic:
        above, below = ([claims.TRIAGE.index(n) for n in each] for each in (names, by))
        return lambda c: results.over(c[..., above].sum(-1), c[..., below].sum(-1))

    known = [s for s in names if claims.triage_counts(r, s) is not None]
    lines = {s: {m: of(ratio(*w), claims.triage_counts(r, s)) for m, w in MEASURES.items()} for s in known}  # type: ignore[arg-type]
    return pd.DataFrame(lines).T.rename_axis("system")


def differences_in_words(r: Results, table: pd.DataFrame, system: str = "ensemble") -> str:
    """A line for each rival of :func:`differences`: the tiers that both take from one mask, then each measure's verdict.

    Above, below, the same, or not told apart (the interval of the difference holds 0).
    """
    lines = []
    for other, row in table.iterrows():
        groups: dict[str, list[str]] = {"above": [], "below": [], "the same": []}
        for measure, e in row.items():
            verdict = "above" if e.low > 0 else "below" if e.high < 0 else "the same" if e.low == e.high else ""
            if verdict:
                groups[verdict].append(str(measure))
        said = [f"{k} in {', '.join(v)}" for k, v in groups.items() if v]
        rest = len(row) > sum(map(len, groups.values()))
        said += [f"not told apart in {'all else' if said else 'any'}"] if rest else []
        lines.append(f"{system} against {other}{_shared(r, system, str(other))}: {'; '.join(said)}")
    n = table.size
    return "\n".join([*lines, f"({n} intervals at 95 %: {0.05 * n:.0f} would leave 0 out by chance alone)"])


def _shared(r: Results, *systems: str) -> str:
    """' (both candidates from M_sens ≥ 0.996)': the tiers that two systems take from one map at one threshold; "" if none."""
    if r.points is None:
        return ""
    own = [r.points[r.points["system"] == s].set_index("tier")[["source", "run", "threshold"]] for s in systems]
    tiers = [t for t in own[0].index if own[0].loc[t].equals(own[1].loc[t])]
    return "".join(
        f" (both {'candidates' if t == 'candidate' else t} from {SOURCES[own[0].loc[t, 'source']]} ≥ "
        f"{_threshold(own[0].loc[t, 'threshold'])})"
        for t in tiers
    )


def load(r: Results, system: str) -> pd.DataFrame:
    """Candidates per test volume of every patient, the busiest first: patient, volumes, candidates, per_volume, true."""
    visits = r.visits[r.visits["split"] == "test"]
    groups = groups_of(r, system).groupby("patient")["true"].agg(["size", "sum"])
    table = visits.groupby("patient").size().to_frame("volumes").join(groups).fillna(0)
    table["per_volume"] = table["size"] / table["volumes"]
    table = table.rename(columns={"size": "candidates", "sum": "true"}).sort_values(
        "per_volume", ascending=False, kind="stable"
    )
    return table.reset_index()[["patient", "volumes", "candidates", "per_volume", "true"]]


def load_in_words(table: pd.DataFrame) -> str:
    """The table of :func:`load` in one line: who has no candidate, and how many the busiest has."""
    quiet, most = int((table["candidates"] == 0).sum()), table["per_volume"].max()
    first = f"{quiet} of {len(table)} patients have no candidate" if quiet else "Every patient has candidates"
    return f"{first}, the busiest has {most:.0f} a volume"


def _seen(r: Results, system: str) -> np.ndarray:
    """(patients, k + 1, 4): true candidates and all among the first k of each volume, true ones in random order, volumes.

    By falling peak; in random order a look finds the mean share of its volume. k from 0 to the longest list.
    """
    groups = groups_of(r, system).sort_values(["case", "peak"], ascending=[True, False], kind="stable")
    of_case = groups.groupby("case")["true"]
    place = of_case.cumcount().to_numpy(int)
    visits = r.visits[r.visits["split"] == "test"]
    patients, volumes = np.unique(visits["patient"], return_counts=True)
    seen = np.zeros((len(patients), int(place.max(initial=-1)) + 2, 4))
    at = np.searchsorted(patients, groups["patient"])
    for column, weight in enumerate((groups["true"], np.ones(len(groups)), of_case.transform("mean"))):
        np.add.at(seen[..., column], (at, place + 1), np.asarray(weight, float))
    seen = seen.cumsum(1)
    seen[..., 3] = volumes[:, None]
    return seen


def capture(r: Results, system: str) -> pd.DataFrame:
    """True candidates that a reader has seen after the first k of each volume, by falling peak.

    Columns: k; reviewed (candidates looked at), seen (true ones among them), low and high (its interval over patients),
    random (true ones in random order), all per volume; captured (seen / all true candidates, NaN without any).
    """
    both = results.pooled(_seen(r, system)[None])
    total = both[0]
    lines = []
    for k in range(len(total)):
        e = results.of(lambda c, k=k: results.over(c[..., k, 0], c[..., k, 3]), both)
        _, reviewed, random = (float(total[k, i] / total[k, 3]) for i in range(3))
        lines.append((k, reviewed, float(results.over(total[k, 0], total[-1, 0])), e.value, e.low, e.high, random))
    return pd.DataFrame(lines, columns=["k", "reviewed", "captured", "seen", "low", "high", "random"])


def looks(r: Results, system: str, *, share: float = 0.5, random: bool = False) -> Estimate:
    """Looks per volume until ``share`` of the true candidates is seen, by falling peak or in random order; NaN if none is true.

    Linear between the looks; the interval is over patients.
    """

    def statistic(c: np.ndarray) -> np.ndarray:  # (..., k + 1, 4)
        found, looked = c[..., 2 if random else 0], c[..., 1] / c[..., 3]
        found = results.over(found, found[..., -1:])
        k = np.maximum((found >= share).argmax(-1), 1)[..., None]
        (y0, y1), (x0, x1) = ([np.take_along_axis(v, k - i, -1)[..., 0] for i in (1, 0)] for v in (found, looked))
        return x0 + results.over(share - y0, y1 - y0) * (x1 - x0)

    return results.of(statistic, _seen(r, system)[None])


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
    """Tables of :func:`capture`: true candidates seen against candidates looked at; grey: the first system at random.

    The first system's interval is shaded.
    """
    figure, axes = figures.new_figure(6.5, 3.9)
    axis = axes[0, 0]
    for k, (system, table) in enumerate(tables.items()):
        if k == 0:
            axis.plot(table["reviewed"], table["random"], color="#777777", lw=1.2, label=f"{system}, random order")
            axis.fill_between(
                table["reviewed"], table["low"], table["high"], color=evidence.COLOURS[0], alpha=0.15, lw=0
            )
        axis.plot(table["reviewed"], table["seen"], **evidence.line_look(k), label=system)
    axis.set(
        xlabel="candidates looked at per volume", ylabel="true ones seen per volume", xlim=(0, None), ylim=(0, None)
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figures.titled(figure, title)


# ------------------------------------------------------------------------------------------- calibration
def _marked(r: Results, name: str, split: str, bins: int) -> pd.DataFrame:
    """What a run marks at 0.5 or more: case, peak, true, and bin, of equal numbers by rising peak."""
    rows = r.rows[name, split, "prior"]
    stands = ((rows["kind"] == "lesion") | (rows["bottom"] <= scoring.HALF)) & (rows["top"] >= scoring.HALF)
    rows = rows[stands].sort_values("top", kind="stable")
    parts = np.array_split(np.arange(len(rows)), min(bins, max(len(rows), 1)))
    return pd.DataFrame(
        {"case": rows["case"].to_numpy(), "peak": LEVELS[rows["top"]].astype(float),
         "true": (rows["kind"] == "lesion").to_numpy(float), "bin": np.repeat(np.arange(len(parts)), [*map(len, parts)])}
    )  # fmt: skip


def calibration(r: Results, name: str, *, split: str = "test", bins: int = 6) -> pd.DataFrame:
    """Peak probability of what a run marks at 0.5 or more, and how much of it is true, in bins of equal number.

    A found lesion counts once, with its own peak. Peaks are known as levels (steps of 0.25 on the logit). Columns: peak
    (mean), true (share), low, high (Wilson's interval, groups taken as independent), n.
    """
    lines = []
    for _, part in _marked(r, name, split, bins).groupby("bin"):
        n, share = len(part), part["true"].mean()
        middle, half = (
            (share + 1.92 / n) / (1 + 3.84 / n),
            1.96 * np.sqrt(share * (1 - share) / n + 0.96 / n**2) / (1 + 3.84 / n),
        )
        lines.append((part["peak"].mean(), share, max(middle - half, 0), min(middle + half, 1), n))
    return pd.DataFrame(lines, columns=["peak", "true", "low", "high", "n"])


def calibration_gap(
    r: Results, name: str, *, minus: str = "", split: str = "test", bins: int = 6, signed: bool = False
) -> Estimate:
    """Mean over what a run marks of |mean peak − share true| of its bin (:func:`calibration`), interval over patients.

    minus: another run, whose gap is taken off, pairwise over patients. signed: without the bars, so that too sure is above 0.
    """
    gap = (lambda c: c) if signed else np.abs

    def mean(c: np.ndarray) -> np.ndarray:
        return results.over(gap(c[..., 0]).sum(-1), c[..., 1].sum(-1))

    own = _gaps(r, name, split, bins)
    return results.compare(mean, own, _gaps(r, minus, split, bins)) if minus else results.of(mean, own)


def _gaps(r: Results, name: str, split: str, bins: int) -> np.ndarray:
    """(1, patients, bins, 2): peaks minus truths, and groups, of what a run marks."""
    marked = _marked(r, name, split, bins)
    visits = r.visits[r.visits["split"] == split].set_index("case")["patient"]
    patients = np.unique(visits)
    counts = np.zeros((1, len(patients), bins, 2))
    at = (0, np.searchsorted(patients, marked["case"].map(visits)), marked["bin"].to_numpy(int))
    np.add.at(counts[..., 0], at, (marked["peak"] - marked["true"]).to_numpy(float))
    np.add.at(counts[..., 1], at, 1)
    return counts


def nearest_in_words(r: Results, models: Mapping[str, str]) -> str:
    """Gap of the first model (legend → run), then of each other minus it, and whether 0 lies outside the interval."""
    (first, base), *others = models.items()
    lines = [f"mean gap: {first} {evidence.in_words(calibration_gap(r, base))}"]
    for label, name in others:
        e = calibration_gap(r, name, minus=base)
        verdict = "nearer to the truth" if e.high < 0 else "further from the truth" if e.low > 0 else "not told apart"
        lines.append(f"{label} minus {first}: {evidence.in_words(e)}, {verdict}")
    return "\n".join(lines)


def sure_in_words(r: Results, groups: Mapping[str, Sequence[str]], *, edges: Sequence[float] = (0.99, 0.999, 1.0)) -> str:
    """How much of what has a peak between two ``edges`` is true (:func:`_marked`), seed by seed: a line for each two edges.

    groups: legend → runs. "none" for a run that marks nothing there.
    """
    lines = []
    for low, high in itertools.pairwise(edges):
        said = []
        for label, names in groups.items():
            parts = [m.loc[(m["peak"] >= low) & (m["peak"] < high), "true"] for m in (_marked(r, n, "test", 1) for n in names)]
            said.append(f"{label} {', '.join(f'{p.mean():.2f}' if len(p) else 'none' for p in parts)}")
        lines.append(f"true of what has a peak from {low:g} to {high:g}, seed by seed: {'; '.join(said)}")
    return "\n".join(lines)


def calibration_in_words(r: Results, models: Mapping[str, str]) -> str:
    """Whether all models (legend → run) say more than is true, and from where to where their mean gap goes."""
    signed = [calibration_gap(r, n, signed=True) for n in models.values()]
    gaps = [calibration_gap(r, n).value for n in models.values()]
    first = "All are too sure: a" if all(e.low > 0 for e in signed) else "A"
    return f"{first} mean gap of {min(gaps):.2f} to {max(gaps):.2f}"


def draw_calibration(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Tables of :func:`calibration`: share true against peak (logit axis); on the grey line a peak means what it says."""
    figure, axes = figures.new_figure(6.5, 3.9)
    axis = axes[0, 0]
    line = scoring.LEVELS[scoring.HALF :].astype(float)
    axis.plot(line, line, color="#777777", lw=1.2, label="means what it says")
    for k, (label, table) in enumerate(tables.items()):
        spread = np.maximum([table["true"] - table["low"], table["high"] - table["true"]], 0)
        axis.errorbar(table["peak"], table["true"], yerr=spread, color=evidence.COLOURS[k], marker=evidence.MARKERS[k],
                      ls=evidence.DASHES[k], elinewidth=0.8, label=label)  # fmt: skip
    axis.set_xscale("logit")
    axis.set_xticks(ticks := [0.5, 0.9, 0.99, 0.999, 0.9999], [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="peak probability of a group", ylabel="share that is true", xlim=(0.47, line[-1]), ylim=(0, 1.02))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figures.titled(figure, title)


# ------------------------------------------------------------------------------------------- the gallery
def errors(r: Results, system: str) -> pd.DataFrame:
    """Every missed metastasis and every false group of a triage system on the test visits.

    Columns: kind ("missed", "false candidate", "false, confirmed"), case, patient, id (of the metastasis in its patient, 0 of
    a false group), volume_mm3, what (lies there, "" for a metastasis or if the system has no run of its own), peak, x, y, z.
    Missed ones first, the largest first; then the false ones, the strongest first.
    """
    rows = r.tiers[r.tiers["system"] == system]
    lesion = rows["kind"] == "lesion"
    missed = rows[lesion & (rows["tier"] == "missed")].assign(kind="missed", what="")
    false = rows[~lesion]
    words = false["tier"].map({"candidate": "false candidate", "confirmed": "false, confirmed"})
    false = false.assign(kind=words, what=_lying_there(r, system, false))
    both = pd.concat([missed.sort_values("volume_mm3", ascending=False, kind="stable"),
                      false.sort_values("peak", ascending=False, kind="stable")])  # fmt: skip
    both["patient"] = both["case"].map(r.visits.set_index("case")["patient"])
    return both[["kind", "case", "patient", "id", "volume_mm3", "what", "peak", "x", "y", "z"]].reset_index(drop=True)


def _lying_there(r: Results, system: str, false: pd.DataFrame, *, reach: float = 10.0) -> list[str]:
    """What lies at the false groups of a system: that of the nearest false positive of its candidate mask (``reach``: voxels)."""
    own = r.points[(r.points["system"] == system) & (r.points["tier"] == "candidate")].iloc[0]
    if not isinstance(own["run"], str) or not own["run"]:
        return [""] * len(false)
    rows = r.rows[own["run"], "test", "prior"]
    rows = rows[(rows["kind"] == "fp") & (rows["bottom"] <= own["level"]) & (rows["top"] >= own["level"])]
    of_case = dict(iter(rows.groupby("case")))
    words = []
    for group in false.itertuples():
        near = of_case.get(group.case, rows.iloc[:0])
        away = np.linalg.norm(near[["x", "y", "z"]].to_numpy(float) - [group.x, group.y, group.z], axis=1)
        at = away.argmin() if len(away) else 0
        words.append(LIES_THERE[int(near["what"].iloc[at])] if len(away) and away[at] <= reach else "")
    return words


@functools.lru_cache(maxsize=8)
def _patient_case(name: str) -> Case:
    return evidence.test_case(name)


class Gallery:
    """Pictures of a table of :func:`errors`, page by page, filtered by kind (missed, or false in which tier), size, look-alike.

    case: gives the case of a name (by default it is made anew, some seconds for each patient). per_page: thumbnails.
    """

    SIZES = {
        "any size": (0.0, np.inf), "below 10 mm³": (0.0, 10.0), "10 to 30 mm³": (10.0, 30.0),
        "30 to 100 mm³": (30.0, 100.0), "100 mm³ or more": (100.0, np.inf),
    }  # fmt: skip
    KINDS = {
        "missed": ("metastasis missed", "metastases missed"), "false candidate": ("false candidate", "false candidates"),
        "false, confirmed": ("false group confirmed", "false groups confirmed"),
    }  # fmt: skip

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
        t = t[(t["volume_mm3"] >= low) & (t["volume_mm3"] < high)]
        return t if self.what == "any" or self.kind == "missed" else t[t["what"] == self.what]

    @property
    def pages(self) -> int:
        """Pages that the filter leaves, at least one."""
        return max(1, -(-len(self.chosen) // self.per_page))

    def describe(self) -> str:
        """Filter, page and number of errors in words."""
        words = figures.count_words(len(self.chosen), *self.KINDS[self.kind])
        more = f", {self.what}" if self.kind != "missed" and self.what != "any" else ""
        return f"{words} ({self.size}{more}), page {self.page + 1} of {self.pages}"

    def draw(self, title: str = "") -> Figure:
        """The page: an axial square around each error, what it is above it. title: :meth:`describe` by default."""
        part = self.chosen.iloc[self.page * self.per_page : (self.page + 1) * self.per_page]
        columns = min(3, self.per_page)
        rows = -(-self.per_page // columns)
        figure, axes = figures.new_figure(2.15 * columns, 0.4 + 2.75 * rows, rows=rows, columns=columns)
        figure.get_layout_engine().set(h_pad=0.06)
        for axis in axes.flat:
            axis.set_axis_off()
        with figures.style():
            for axis, row in zip(axes.flat, part.itertuples(), strict=False):
                case = self.case_of(row.case)
                x, y, z = (round(float(v)) for v in (row.x, row.y, row.z))
                figures.draw_slice(axis, case, index=z, reference=True)
                at = figures.zoom(axis, case, x, y, 40)
                axis.plot(*at, marker="o", ms=26, mfc="none", mec="#F0E442", ls="none")
                words = (
                    f"{row.case}\n{figures.volume_words(row.volume_mm3)}, peak {row.peak:.4f}\n{row.what or row.kind}"
                )
                axis.set_title(words, fontsize=9, fontweight="normal")
            figure.suptitle(title or self.describe(), x=0.01, ha="left", fontsize=11, fontweight="bold")
        return figure

    def render(self) -> bytes:
        """The page as PNG."""
        return figures.png(self.draw())

    def widget(self) -> ipywidgets.VBox:
        """Controls and picture. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        from dmplus.widgets import picture_class

        kind = ipywidgets.ToggleButtons(options=list(self.KINDS), value=self.kind, description="errors")
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


def dice_in_words(table: pd.DataFrame, name: str) -> str:
    """'M_sens 0.90 to 0.94': the Dice of a mask in a table of :func:`dice_of_largest`, where it finds anything."""
    dice = table[name].dropna()
    return f"{name} " + (
        " to ".join(dict.fromkeys(f"{v:.2f}" for v in (dice.min(), dice.max()))) if len(dice) else "none"
    )


def fits_in_words(case: Case, masks: Mapping[str, np.ndarray], table: pd.DataFrame) -> str:
    """How much of the lesions of a table of :func:`dice_of_largest` each mask holds, and in how many its Dice is the highest."""
    own = np.isin(label_lesions(case.label > 0)[0], table.index)  # type: ignore[operator]
    if not own.any():
        return "No metastasis here, so no outline to compare."
    held = ", ".join(f"the outlines of {name} hold {mask[own].mean():.0%}" for name, mask in masks.items())
    dice = table[list(masks)].fillna(0)
    best = dice.eq(dice.max(axis=1), axis=0) & (dice > 0)
    highest = ", ".join(f"{name} in {best[name].sum()}" for name in masks)
    return (
        f"Of the reference's volume of these {len(table)}, {held}. Highest Dice of the two: {highest} of {len(table)}."
    )


def contours(case: Case, masks: Mapping[str, np.ndarray], table: pd.DataFrame, *, title: str = "") -> Figure:
    """Reference and masks around the lesions of a table of :func:`dice_of_largest`, their Dice above: Figure 8 of the paper.

    One axial square each, through the slice with most of the lesion. The reference is broad and lies below.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    reference, _ = label_lesions(case.label > 0)  # type: ignore[operator]
    looks = (("#56B4E9", "solid", 1.4), ("#F0E442", (0, (1, 1)), 2.2))
    lines = {"reference": (figures.REFERENCE_LINE[0], "solid", 4.5)} | dict(zip(masks, looks, strict=False))
    dark = [withStroke(linewidth=3.4, foreground="black")]
    figure, axes = figures.new_figure(2.15 * max(len(table), 1), 3.5, columns=max(len(table), 1))
    figure.get_layout_engine().set(h_pad=0.06)
    for axis in axes.flat:
        axis.set_axis_off()
    with figures.style():
        for axis, lesion in zip(axes[0], table.index, strict=False):
            own = reference == lesion
            z = figures.best_slice(own)
            x, y = np.argwhere(own)[:, :2].mean(0)
            figures.draw_slice(axis, case, index=z)
            for name, (colour, dash, width) in lines.items():
                shown = figures.plane_of(masks.get(name, reference > 0), "axial", z).astype(float)
                if shown.any():
                    drawn = axis.contour(shown, [0.5], colors=[colour], linestyles=[dash], linewidths=[width])
                    drawn.set_path_effects([] if name == "reference" else dark)
            figures.zoom(axis, case, x, y, max(24.0, 3 * table.loc[lesion, "volume_mm3"] ** (1 / 3)))
            figures.draw_sides(axis, "axial")
            said = (
                f"{n} {'missed' if np.isnan(table.loc[lesion, n]) else f'{table.loc[lesion, n]:.2f}'}" for n in masks
            )
            words = f"{figures.volume_words(table.loc[lesion, 'volume_mm3'])}\n{', '.join(said)}"
            axis.set_title(words, fontsize=9, fontweight="normal")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        handles = [Line2D([], [], color=c, ls=d, lw=w, label=n) for n, (c, d, w) in lines.items()]
        for handle in handles[1:]:
            handle.set_path_effects(dark)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), facecolor="#bbbbbb", frameon=True
        )
    return figure
