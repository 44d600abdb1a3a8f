"""What the earlier scan adds: differences of two visits, false positives that it removes, and what misregistration does.

Pictures and tables of notebook 03, from the rows of the experiments (:mod:`dmplus.results`) and from single patients.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from dmplus import claims, evidence, figures, paper, results, second_look, triage
from dmplus.evidence import COLOURS, DASHES, MARKERS
from dmplus.experiment import SHIFTS_MM
from dmplus.results import Estimate, Results, compare, of, pooled
from dmplus.review import LIES_THERE
from dmplus.runtime import InputError, rng
from dmplus.scoring import LEVELS
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
        *(titles or ("earlier", "now, outlined", "now − earlier")),
        *(["next visit"] if later is not None else []),
    ]
    figure, axes = figures.new_figure(6.5, 3.0 if len(names) == 3 else 2.6, columns=len(names))
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


# ------------------------------------------------------------------------------------------------------- which runs
NONE, CHANNEL, PATH = "no prior", "channel", "path"  #: the three ways to give a network the earlier scan


def stem_of(r: Results, alpha: float) -> str:
    """The runs that are compared at an alpha: "jvss-0.5-fresh", trained on patients that the trunk has never seen, where
    they were run with a path and without prior; else "jvss-0.5", on the trunk's own; ``InputError`` if neither was run.
    """

    def known(a: float) -> list[str]:
        return [s for s in (f"jvss-{a:g}-fresh", f"jvss-{a:g}") if {NONE, PATH} <= ways(r, s).keys()]

    if not known(alpha):
        there = " or ".join(f"{a:g}" for a in sorted(set(r.runs["alpha"])) if known(a))
        raise InputError(
            f"alpha: expected {there}, where networks with a path were trained; got {alpha:g}; choose one of those"
        )
    return known(alpha)[0]


def ways(r: Results, stem: str) -> dict[str, list[str]]:
    """Way → the scored runs of a stem ("jvss-0.5") that take the prior so, seed by seed; a way that was not run is left out.

    Without a prior: ``stem``-none, or ``stem`` itself.
    """
    runs = {NONE: r.seeds(f"{stem}-none") or r.seeds(stem), CHANNEL: r.seeds(f"{stem}-channel"),
            PATH: r.seeds(f"{stem}-path")}  # fmt: skip
    return {way: names for way, names in runs.items() if names}


def levels_of(r: Results, runs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The level (:func:`level_at`) of the first run of each way: there all find the same share of metastases."""
    return {way: level_at(r, names[0]) for way, names in runs.items()}


def effect(r: Results, runs: Mapping[str, Sequence[str]], way: str = PATH) -> Estimate | None:
    """False positives of a way over those without a prior, at sensitivity :data:`dmplus.claims.EQUAL`, in visits with a
    prior; None: not run."""
    if not {way, NONE} <= runs.keys():
        return None
    return _against(r, runs[way], runs[NONE], prior=True)


#: What a verdict on "fewer false positives" says of a model, in words.
EFFECTS = {
    "holds": "has fewer false positives", "weak": "may have fewer false positives", "opposite": "has more false positives",
    "not shown": "is not shown to have fewer false positives", "not run": "was not run",
}  # fmt: skip


def effect_words(e: Estimate | None) -> str:
    """A ratio of false positives as a verdict in words: 'has fewer false positives'."""
    return EFFECTS[claims.verdict(e, claims.FEWER)]


def ratio_words(e: Estimate | None) -> str:
    """'1.14 [0.83, 1.35]', or 'not run'."""
    return "not run" if e is None else evidence.in_words(e)


# ------------------------------------------------------------------------------------------------------------- tables
def volume_changes(r: Results) -> pd.DataFrame:
    """Every metastasis of the test visits with a prior: case, id, state (in words), volume_mm3, previous_mm3, ratio, change,
    x, y, z.

    ratio: volume now / at the visit before (NaN: new). change: by the volumes alone, as a reader would call it: new, growing
    (ratio from 1.25 on), shrinking (up to 0.8), or stable. x, y, z: centre, voxels. ``InputError`` for rows without known
    states.
    """
    if r.lesions is None:
        raise InputError("changes: expected rows of a synthetic cohort (lesions.csv); got none; collect them again")
    visits = r.visits.loc[(r.visits["split"] == "test") & r.visits["with_prior"], "case"]
    table = r.lesions[r.lesions["case"].isin(visits)].reset_index(drop=True)
    ratio = table["volume_mm3"] / table["previous_mm3"]
    table = table.assign(state=table["state"].map(evidence.STATES), ratio=ratio, change=triage.change_of(ratio))
    anyone = next(rows for (_, split, second), rows in r.rows.items() if (split, second) == ("test", "prior"))
    places = anyone.loc[anyone["kind"] == "lesion", ["case", "id", "x", "y", "z"]]
    return table.merge(places, on=["case", "id"], validate="one_to_one")


def two_views(r: Results, first: str, second: str, levels: tuple[int, int]) -> pd.DataFrame:
    """Every metastasis of :func:`volume_changes` as two runs see it, each at its level.

    Adds found_first, found_second, and falls: how many levels less the second leaves above its threshold than the
    first (each 0.25 on the logit). Those that the first finds and the second misses come first, the largest fall of them first.
    """
    keys = ["case", "id"]
    tables = []
    for name in (first, second):
        rows = r.rows[name, "test", "prior"]
        tables.append(rows.loc[rows["kind"] == "lesion", [*keys, "top"]])
    both = tables[0].merge(tables[1], on=keys, suffixes=("", "_second"), validate="one_to_one")
    margin, margin_second = both["top"] - levels[0], both["top_second"] - levels[1]
    both = both.assign(
        found_first=margin >= 0, found_second=margin_second >= 0, falls=margin - margin_second,
        hidden=(margin >= 0) & (margin_second < 0),
    )  # fmt: skip
    table = volume_changes(r).merge(both.drop(columns=["top", "top_second"]), on=keys, validate="one_to_one")
    order = table.sort_values(["hidden", "falls", "case"], ascending=[False, False, True], kind="stable")
    return order.drop(columns="hidden").reset_index(drop=True)


def seen_by(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The table of :func:`two_views` counted: a row per state, columns both, only each of the two, neither, all."""
    names = {(True, True): "both", (True, False): f"only {first}", (False, True): f"only {second}",
             (False, False): "neither"}  # fmt: skip
    pair = [names[bool(a), bool(b)] for a, b in zip(table["found_first"], table["found_second"], strict=True)]
    counts = pd.crosstab(table["state"], np.array(pair, object)).reindex(
        index=[s for s in dict.fromkeys(evidence.STATES.values()) if (table["state"] == s).any()],
        columns=list(names.values()), fill_value=0,
    )  # fmt: skip
    counts.index.name = counts.columns.name = None
    return counts.assign(all=counts.sum(axis=1))


def state_words(r: Results, table: pd.DataFrame) -> tuple[str, str]:
    """Second minus first of :func:`two_views` by what became of the metastases: as a title, in numbers of them; and in a
    sentence, as a difference of sensitivity with its interval, both networks on the same resampled patients."""
    patient = table["case"].map(r.visits.set_index("case")["patient"])
    counts, said, apart = [], [], []
    for state in [s for s in dict.fromkeys(evidence.STATES.values()) if (table["state"] == s).any()]:
        own = table[table["state"] == state].groupby(patient)[["found_first", "found_second"]].agg(["sum", "size"])
        first, second = (own[c].to_numpy(float)[None] for c in ("found_first", "found_second"))
        e = compare(lambda c: results.over(c[..., 0], c[..., 1]), second, first)
        counts.append(f"{state} {(second - first)[..., 0].sum():+.0f} of {first[..., 1].sum():.0f}")
        alike = table.loc[table["state"] == state].eval("found_first == found_second").all()  # then no resample differs
        said.append(f"{state} {'0 (all seen alike)' if alike else evidence.in_words(e)}")
        apart += [state] if e.low > 0 or e.high < 0 else []
    return ", ".join(counts), f"{', '.join(said)}; an interval that excludes 0: {', '.join(apart) or 'none'}"


def at_most(hidden: int, of_all: int) -> float:
    """The largest share that still goes with ``hidden`` of ``of_all`` (one-sided 95 %, exact binomial; NaN of none).

    >>> round(at_most(0, 32), 3) == round(1 - 0.05 ** (1 / 32), 3), at_most(3, 3)
    (True, 1.0)
    """
    if hidden >= of_all:
        return 1.0 if of_all else np.nan
    return float(stats.beta.ppf(0.95, hidden + 1, of_all - hidden))


def hidden_in(calm: pd.DataFrame) -> tuple[int, str]:
    """How many of the stable metastases of :func:`two_views` the first network finds and the second misses; and a sentence
    without its end, with the share that so many still allow."""
    hidden = int((calm["found_first"] & ~calm["found_second"]).sum())
    return hidden, (f"{hidden} of {len(calm)} stable metastases are found without prior and missed by the path, which still "
                    f"allows up to {at_most(hidden, len(calm)):.0%} (95 %, as if each were in a patient of its own)")  # fmt: skip


def reads(r: Results) -> pd.DataFrame:
    """Does a network read its prior at all? A row per run that takes one and was scored without it, or with another's.

    Columns: run; control (bool: the positive control, which comes last); loss; fp (at sensitivity :data:`dmplus.claims.EQUAL`,
    its own prior); zeroed, other: fp over those of the same network when the prior is zeroed, or another patient's
    (Estimates, below 1: the own prior helps; None: not run); moves: by how much the peaks of metastases move
    (:func:`peaks_move`) when it is zeroed (or another's, where only that was run); no_prior: fp over those of the run beside
    it that takes none. All on test visits with a prior.
    """
    away = r.runs["second_image"].isin(["zeroed", "other"]) & (r.runs["second_image"] != r.runs["second"])
    lines = []
    for run in r.runs[away & (r.runs["split"] == "test")].drop_duplicates("run").itertuples():
        name = str(run.run)
        own = pooled(r.group([name], prior=True))
        there = [s for s in ("zeroed", "other") if s != run.second and r.has(name, second=s)]
        against = {s: claims.at_equal(own, r.group([name], second=s, prior=True)) for s in there}
        beside = _without(r, name)
        lines.append({
            "run": name, "control": run.second == "healthy", "loss": run.loss, "fp": of(results.fp_at(claims.EQUAL), own),
            "zeroed": against.get("zeroed"), "other": against.get("other"),
            "moves": peaks_move(r, (name, run.second), (name, there[0])),
            "no_prior": _against(r, [name], [beside], prior=True) if beside else None,
        })  # fmt: skip
    table = pd.DataFrame(lines, columns=["run", "control", "loss", "fp", "zeroed", "other", "moves", "no_prior"])
    return table.sort_values("control", kind="stable", ignore_index=True)


def _without(r: Results, name: str) -> str | None:
    """The scored run beside one with a prior that takes none: "a-none-s0" or "a-s0" of "a-path-s0" and of its positive
    control; None: not run."""
    asked = (re.sub("-(path|channel)(-healthy)?", instead, name) for instead in ("-none", ""))
    return next((n for n in asked if n != name and r.has(n)), None)


@dataclasses.dataclass(frozen=True, order=True)
class Move:
    """By how much peaks move, and of how many metastases among all that is known."""

    by: float  #: standard deviation, logits; NaN where it is known of none
    known: int
    among: int

    def __str__(self) -> str:
        return f"{self.by:.2f} ({self.known} of {self.among})"


def peaks_move(r: Results, one: tuple[str, str], other: tuple[str, str]) -> Move:
    """By how much the peak of a metastasis differs between two (run, second image), in logits: the standard deviation over
    metastases. A shift that all have in common does not count: it is no more than another threshold.

    Over those of which one peak at least lies below the highest level of the rows: of the others nothing is known. Levels are a
    quarter of a logit apart, and rounding down to them alone makes up to 0.10.
    """
    tables = [r.rows[n, "test", s].query("kind == 'lesion'")[["case", "id", "top"]] for n, s in (one, other)]
    both = tables[0].merge(tables[1], on=["case", "id"])
    known = both[both[["top_x", "top_y"]].min(axis=1) < len(LEVELS) - 1]
    return Move(float((known["top_x"] - known["top_y"]).std(ddof=0) / 4), len(known), len(both))


def reads_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`reads` for a notebook, with a verdict on "the own prior removes false positives"."""
    words = {
        "loss": table["loss"].str.upper().to_list(),
        "FP a volume": [evidence.in_words(e, 1) for e in table["fp"]],
        "own / zeroed": [ratio_words(e) for e in table["zeroed"]],
        "own / another's": [ratio_words(e) for e in table["other"]],
        "peak moves by": [str(v) for v in table["moves"]],
        "own / no prior": [ratio_words(e) for e in table["no_prior"]],
        "fewer than zeroed": [claims.verdict(e, claims.FEWER) for e in table["zeroed"]],
    }
    names = table["run"] + np.where(table["control"], " (positive control)", "")
    return pd.DataFrame(words, index=pd.Index(names, name=None))


def by_length(r: Results) -> pd.DataFrame:
    """Had the path time enough? Trainings on fresh patients with a path, beside those without prior, in words: a row per
    alpha, number of segments without a path before, and with it, from few to many.

    Columns: false positives a volume of either and their ratio (all at sensitivity :data:`dmplus.claims.EQUAL`), the verdict
    on "fewer", the ratio to the same network with its prior zeroed, and by how much peaks then move (:func:`peaks_move`).
    Test visits with a prior, all seeds that were run; the last two of seed 0. Empty where nothing of it was run.
    """
    lines = {}
    for name in r.runs["run"].unique():
        found = re.fullmatch(r"(jvss-([\d.]+)(?:-\d+k)?-fresh(?:-\d+k)?)-path-s0", name)
        runs = ways(r, found[1]) if found else {}
        ratio = effect(r, runs)
        if ratio is None:
            continue
        at = {way: of(results.fp_at(claims.EQUAL), r.group(runs[way], prior=True)) for way in (NONE, PATH)}
        away = r.has(name, second="zeroed")
        own, zeroed = (r.group([name], second=s, prior=True) if away else None for s in (None, "zeroed"))
        lines[float(found[2]), *_segments(r, name)[::-1]] = {
            **{f"FP a volume, {way}": evidence.in_words(e, 1) for way, e in at.items()},
            "path / no prior": evidence.in_words(ratio), "fewer": claims.verdict(ratio, claims.FEWER),
            "own / zeroed": ratio_words(claims.at_equal(own, zeroed) if away else None),
            "peak moves by": str(peaks_move(r, (name, "prior"), (name, "zeroed"))) if away else "not run",
        }  # fmt: skip
    order = sorted(lines)
    index = pd.Index([f"alpha {alpha:g}, {_segments_words(n, before)}" for alpha, before, n in order], name="trained with")
    return pd.DataFrame([lines[key] for key in order], index=index)


def length_words(table: pd.DataFrame) -> str:
    """How ratio and peaks go from row to row of :func:`by_length`: a line for each alpha that was trained for several lengths."""
    lines = []
    for alpha, rows in table.groupby(table.index.str.partition(", ").get_level_values(0), sort=False):
        ratio, peaks = (" → ".join(w.partition(" [")[0] for w in rows[c]) for c in ("path / no prior", "peak moves by"))
        if len(rows) > 1:
            lines.append(f"{alpha}, from row to row: path / no prior {ratio}; peaks move by {peaks}")
    return "\n".join(lines)


def _segments(r: Results, name: str) -> tuple[int, int]:
    """The segments that a run saw, and those of the run before it whose weights it went on from (0: from the trunk)."""
    runs = r.runs.drop_duplicates("run").set_index("run")
    return int(runs["segments"][name]), int(runs["segments"].get(runs["start"][name], 0))


def _segments_words(segments: int, before: int) -> str:
    return f"{segments:,} segments" + (f" after {before:,} without a path" if before else "")


def told_by_prior(
    r: Results, pairs: Mapping[str, str], *, sensitivities: Sequence[float] = (0.6, 0.7, 0.8, claims.EQUAL, 0.9)
) -> pd.DataFrame:
    """What the earlier scan tells of a network's candidates (:mod:`dmplus.second_look`), in words: a row per sensitivity.

    Columns: false positives a volume of the reader of the current scan alone, of the reader of both, and the second over the
    first, with intervals over patients; and for every pair (label → stem, as of :func:`ways`) that was run the network with a
    path over the one without, "above the rows" where one of them finds as much at the highest level of its rows. Test visits
    with a prior. Empty where no candidates were measured.
    """
    if r.candidates is None:
        return pd.DataFrame()
    visits = r.visits[(r.visits["split"] == "test") & r.visits["with_prior"]]
    alone, both = (pooled(c) for c in second_look.look(r.candidates, visits).values())
    runs = {label: ways(r, stem) for label, stem in pairs.items()}
    networks = {
        label: [r.group(own[way], prior=True) for way in (PATH, NONE)]
        for label, own in runs.items() if {PATH, NONE} <= own.keys()
    }  # fmt: skip
    lines = {}
    for sensitivity in sensitivities:
        at = results.fp_at(sensitivity)
        lines[f"{sensitivity:g}"] = {
            "FP a volume, current scan alone": evidence.in_words(of(at, alone)),
            "FP a volume, both scans": evidence.in_words(of(at, both)),
            "both / alone": evidence.in_words(compare(at, both, alone, ratio=True)),
        }
        for label, pair in networks.items():
            known = all(results.sensitivity(pooled(counts)[0], -1) < sensitivity for counts in pair)
            ratio = compare(at, *pair, ratio=True, chance=r.chance(at, True))
            ratio = evidence.in_words(ratio) if known else "above the rows"
            lines[f"{sensitivity:g}"][f"network, path / no prior, {label}"] = ratio
    return pd.DataFrame(lines).T.rename_axis("sensitivity")


def told_words(table: pd.DataFrame) -> str:
    """The first and the last row of :func:`told_by_prior`: what the earlier scan is worth among the surest, and the last."""
    if table.empty:
        return "not run"
    ends = [f"{table['both / alone'].iloc[i]} at sensitivity {table.index[i]}" for i in (0, -1)]
    return f"false positives with both scans over those with the current one alone: {', '.join(ends)}"


def false_at(r: Results, name: str, level: int, *, prior: bool | None = None) -> pd.DataFrame:
    """The false positives of a run on test that stand at a level: case, what, peak (level), x, y, z.

    prior: only those in visits that have an earlier scan (True) or none (False).
    """
    rows = r.rows[name, "test", "prior"]
    stands = (rows["kind"] == "fp") & (rows["bottom"] <= level) & (level <= rows["top"])
    if prior is not None:
        stands &= rows["case"].isin(r.visits.loc[r.visits["with_prior"] == prior, "case"])
    table = rows.loc[stands, ["case", "what", "top", "x", "y", "z"]]
    return table.rename(columns={"top": "peak"}).reset_index(drop=True)


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

    names: legend → (runs, second image that they are scored with), each over the runs of ``baseline`` with its own seeds
    (:func:`alike`). Columns: model, ratio, low, high, seeds, verdict (on "fewer", :func:`dmplus.claims.verdict`).
    """
    lines = []
    for label, (runs, second) in names.items():
        e = _against(r, runs, baseline, prior=True, second=second)
        lines.append((label, e.value, e.low, e.high, len(runs), claims.verdict(e, claims.FEWER)))
    return pd.DataFrame(lines, columns=["model", "ratio", "low", "high", "seeds", "verdict"])


def _against(
    r: Results, runs: Sequence[str], baseline: Sequence[str], *, prior: bool, second: str | None = None
) -> Estimate:
    """False positives of ``runs`` over those of ``baseline`` with the same seeds, in visits with a prior or without; the interval
    over patients and, unless both are one network, over trainings."""
    both = r.group(runs, second=second, prior=prior), r.group(alike(baseline, runs), prior=prior)
    return claims.at_equal(*both, r.chance_between(results.fp_at(claims.EQUAL), runs, baseline, prior))


def alike(baseline: Sequence[str], runs: Sequence[str]) -> Sequence[str]:
    """The runs of ``baseline`` that have the seed of one of ``runs``, as a lucky seed of one side alone would pass for an
    effect; all, if none has.

    >>> alike(["bce-s0", "bce-s1"], ["path-s1"]), alike(["bce-s0"], ["path-s1"])
    (['bce-s1'], ['bce-s0'])
    """
    seeds = {name.rpartition("-s")[2] for name in runs}
    return [name for name in baseline if name.rpartition("-s")[2] in seeds] or baseline


def seeds_beside(r: Results, stem: str) -> list[str]:
    """Two runs or more without a prior that differ in their seed alone: those of a stem, else those on the trunk's own patients;
    none, if neither has two."""
    for runs in (ways(r, stem).get(NONE, []), r.seeds(stem.replace("-fresh", ""))):
        if len(runs) > 1:
            return runs
    return []


def yardstick(r: Results, stem: str) -> pd.DataFrame:
    """How far a seed alone moves a ratio: :func:`ratios` of each pair of :func:`seeds_beside`, in the order in which it is
    below 1, as no seed comes first; empty without a pair."""
    runs = seeds_beside(r, stem)
    words = NONE if runs == ways(r, stem).get(NONE) else f"{NONE}, trunk's patients"
    tables = []
    for pair in itertools.combinations(range(len(runs)), 2):
        both = [
            ratios(r, {f"{words}, seed {b} / seed {a}": ([runs[b]], "prior")}, [runs[a]]) for a, b in (pair, pair[::-1])
        ]
        tables.append(min(both, key=lambda table: table.loc[0, "ratio"]))
    return pd.concat(tables, ignore_index=True) if tables else ratios(r, {}, [])


def curve(r: Results, runs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity and false positives per volume of runs (seeds pooled) as the threshold falls, from 0 and 0 on down to
    the floor of their rows: (points,) each; visits with a prior."""
    found, _, fp = results.along(pooled(r.group(runs, prior=True))[0][::-1])
    known = np.isfinite(fp)
    return np.append(0.0, found[known]), np.append(0.0, fp[known])


def go_and_come(r: Results, one: str, other: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """False positives of ``one`` that ``other`` has not, those of ``other`` that ``one`` has not, and how many ``one`` has; each
    at its level for the same sensitivity (:func:`level_at`), in test visits with a prior."""
    first, second = (false_at(r, n, level_at(r, n), prior=True) for n in (one, other))
    return only_in_first(first, second), only_in_first(second, first), len(first)


POSITIVE = "positive control: no metastasis before"  #: in :func:`controls`


def controls(r: Results, stem: str) -> tuple[dict[str, tuple[Sequence[str], str]], list[str]]:
    """For :func:`ratios`: the prior path of a stem ("jvss-0.995"), its controls and the channel, all of the seed of the
    controls, 0; and the labels of those that were not run."""
    path = f"{stem}-path"
    asked = {
        PATH: (r.seeds(path)[:1], "prior"),
        "path, prior zeroed in test": ([f"{path}-s0"], "zeroed"),
        "path, another patient's prior in test": ([f"{path}-s0"], "other"),
        "path trained with another patient's prior": ([f"{path}-other-s0"], "other"),
        "second path trained with the current scan": ([f"{path}-current-s0"], "current"),
        CHANNEL: (r.seeds(f"{stem}-channel")[:1], "prior"),
        POSITIVE: ([f"{path}-healthy-s0"], "healthy"),
    }
    there = {label: (runs, second) for label, (runs, second) in asked.items() if runs and r.has(*runs, second=second)}
    return there, [label for label in asked if label not in there]


def controls_words(r: Results, stem: str) -> tuple[str, str]:
    """A title and sentences: which controls have more false positives than the path of the same seed (the whole interval
    of the ratio lies above 1), and whether the positive control has fewer than no prior."""
    asked, _ = controls(r, stem)
    beside = ratios(r, {k: v for k, v in asked.items() if k not in (PATH, CHANNEL, POSITIVE)}, asked[PATH][0])
    worse = beside.loc[beside["verdict"] == "opposite", "model"]
    said = [f"Over the path's own false positives: {row_words(beside) or 'no control was run'}.",
            f"Worse than the path (the whole interval): {', '.join(worse) or 'none'}.", positive_words(r, stem)]  # fmt: skip
    return f"Worse than the path: {len(worse) or 'none'} of {len(beside)} controls", " ".join(said)


def positive_words(r: Results, stem: str) -> str:
    """The positive control of a stem over no prior, in a sentence: can a prior be learnt in this set-up?"""
    control = f"{stem}-path-healthy-s0"
    if not r.has(control):
        return "The positive control was not run."
    e = _against(r, [control], ways(r, stem)[NONE][:1], prior=True)
    shown = "the set-up can learn to read a prior" if claims.verdict(e, claims.FEWER) == "holds" else (
        "it is not shown that the set-up can learn to read a prior")  # fmt: skip
    return f"Positive control, where every metastasis is new: {ratio_words(e)} times those without prior, so {shown}."


def row_words(table: pd.DataFrame) -> str:
    """The rows of a table of ratios in words: 'path 1.03 [0.61, 1.37], channel 0.87 [0.50, 1.09]'."""
    return ", ".join(f"{t.model} {t.ratio:.2f} [{t.low:.2f}, {t.high:.2f}]" for t in table.itertuples())


def tested(r: Results, run: str, *, prior: bool = True) -> str:
    """What the ratios are of, in words: '158 metastases in 51 visits of 34 patients with an earlier scan', or without one."""
    visits = r.visits[(r.visits["split"] == "test") & (r.visits["with_prior"] == prior)]
    rows = r.rows[run, "test", "prior"]
    n = int(((rows["kind"] == "lesion") & rows["case"].isin(visits["case"])).sum())
    where = f"{len(visits)} visits of {visits['patient'].nunique()} patients"
    return f"{n} metastases in {where} with{'' if prior else 'out'} an earlier scan"


def by_misregistration(r: Results, names: Mapping[str, str], baseline: Sequence[str]) -> pd.DataFrame:
    """As :func:`ratios`, for priors moved out of place in test: columns model, mm, ratio, low, high. What was not run is
    left out."""
    tables = [
        ratios(r, {label: ([name], f"{mm:g} mm")}, baseline).assign(mm=mm)
        for label, name in names.items()
        for mm in SHIFTS_MM
        if r.has(name, second=f"{mm:g} mm")
    ]
    table = pd.concat(tables or [ratios(r, {}, []).assign(mm=0.0)], ignore_index=True)
    return table[["model", "mm", "ratio", "low", "high"]]


def rise_words(r: Results, names: Mapping[str, str], table: pd.DataFrame) -> tuple[str, str, str]:
    """The table of :func:`by_misregistration` as a title; in a sentence: has each model more false positives with the
    largest displacement than with the smallest? And the verdicts on that of channel and path alone."""
    rises = dict.fromkeys((CHANNEL, PATH), "not run")
    if not len(table):
        return "", "Not run: priors further out of place.", _rises(rises)
    low, high = (f"{f(table['mm']):g} mm" for f in (min, max))
    ends, said = [], []
    for model, own in table.sort_values("mm").groupby("model", sort=False):
        ends.append(f"{model} {own['ratio'].iloc[0]:.2f} → {own['ratio'].iloc[-1]:.2f}")
        e = claims.at_equal(*(r.group([names[model]], second=s, prior=True) for s in (high, low)))
        verdict = claims.verdict(e, (1.0, np.inf))
        said.append(f"{model} {ratio_words(e)} (a rise: {verdict})")
        rises[str(model)] = verdict
    return (
        f"From {low} to {high}: {', '.join(ends)}",
        f"False positives at {high} over those at {low}: {'; '.join(said)}.",
        _rises(rises),
    )


def _rises(rises: Mapping[str, str]) -> str:
    return f"the channel's rise is {rises[CHANNEL]}, the path's {rises[PATH]}"


def by_visit(r: Results, names: Mapping[str, Sequence[str]], baseline: Sequence[str]) -> pd.DataFrame:
    """The ratio of :func:`ratios` among visits with a prior and among those without: columns model, visits, ratio, low, high."""
    lines = []
    for words, prior in (("with a prior", True), ("without a prior", False)):
        for label, runs in names.items():
            e = _against(r, runs, baseline, prior=prior)
            lines.append((label, words, e.value, e.low, e.high))
    return pd.DataFrame(lines, columns=["model", "visits", "ratio", "low", "high"])


def by_kind(r: Results, names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """False positives per volume by what lies there in visits with a prior, each run at its :func:`level_at`.

    A row per model, a column per kind of look-alike (:data:`dmplus.review.LIES_THERE`).
    """
    volumes = ((r.visits["split"] == "test") & r.visits["with_prior"]).sum()
    lines = {}
    for label, runs in names.items():
        false = pd.concat([false_at(r, name, level_at(r, name), prior=True)["what"] for name in runs])
        lines[label] = {kind: (false == k).sum() / volumes / len(runs) for k, kind in enumerate(LIES_THERE)}
    return pd.DataFrame(lines).T


def answer(
    r: Results, runs: Mapping[str, Sequence[str]], read: pd.DataFrame, clear: pd.DataFrame, calm: pd.DataFrame
) -> str:
    """What the rows say of the earlier scan, in sentences: runs as of :func:`ways`, with a path and without prior; read
    as of :func:`reads`, clear as of :func:`dmplus.followup.clearer`, calm: the stable metastases of :func:`two_views`.
    """
    changed = volume_changes(r)
    new, still = (changed["state"] == "new").mean(), (changed["change"] == "stable").mean()
    said = [f"Of {len(changed)} metastases in test visits with an earlier scan {new:.0%} are new, and {still:.0%} were there "
            "before with almost the same volume."]  # fmt: skip
    if len(clear):
        ends = clear.loc[[clear["chance"].idxmax(), clear["chance"].idxmin()]]
        said.append("Share of pairs in which a metastasis changes more than a look-alike in the difference image: "
                    f"{chance_words(ends)}.")  # fmt: skip
    stem = runs[PATH][0].rpartition("-path-s")[0]
    said += [way_words(r, runs, PATH), *longer_words(r, stem), way_words(r, runs, CHANNEL), positive_words(r, stem)]
    for row in read[(read["run"] == runs[PATH][0]) & read["zeroed"].notna()].itertuples():
        said.append(f"With its prior the path has {ratio_words(row.zeroed)} times the false positives that it has with a "
                    f"zeroed one (a gain by its prior: {claims.verdict(row.zeroed, claims.FEWER)}); the peak of a "
                    f"metastasis moves by {row.moves.by:.2f} logits.")  # fmt: skip
    said.append(f"{hidden_in(calm)[1]}.")
    return "\n".join(textwrap.fill(s, 100) for s in said)


def way_words(r: Results, runs: Mapping[str, Sequence[str]], way: str) -> str:
    """A way over no prior in sentences: the verdict, what the interval leaves possible, and the paper beside the path."""
    e = effect(r, runs, way)
    if e is None:
        return f"The prior as a {way} was not run."
    words = (f"The prior as a {way} {effect_words(e)}: {ratio_words(e)} times those without, at sensitivity {claims.EQUAL:g} in "
             f"visits that have one. Up to {max(0.0, 1 - e.low):.0%} fewer and up to {max(0.0, e.high - 1):.0%} more are "
             "compatible with these rows.")  # fmt: skip
    if way != PATH:
        return words
    with_path, without = paper_fp(0.995, prior=True)
    ratio, spread = with_path / without, math.exp(1.96 * math.sqrt(1 / with_path + 1 / without))
    meet = "overlap" if e.low <= ratio * spread and ratio / spread <= e.high else "do not overlap"
    alpha = float(runs[PATH][0].split("-")[1])
    few = "" if alpha == 0.995 else (f"; ours is of alpha {alpha:g}, for which it prints all visits alone, "
                                     "{:g} against {:g}".format(*paper_fp(alpha)))  # fmt: skip
    return (f"{words} Beside it, in visits with an earlier scan, the paper has {with_path:g} against {without:g}, a ratio of "
            f"{ratio:.2f} (as counts alone {ratio / spread:.2f} to {ratio * spread:.2f}): the two intervals {meet}. That is "
            f"at alpha 0.995 and threshold 0.5{few}.")  # fmt: skip


def longer_words(r: Results, stem: str) -> list[str]:
    """The path over no prior in trainings of a stem ("jvss-0.5-fresh") that had more segments, then or before ("-fresh-20k",
    "-300k-fresh"), a sentence for each."""
    said = []
    root = re.escape(stem.removesuffix("-fresh"))
    fresh = "-fresh" if stem.endswith("-fresh") else ""
    form = re.compile(rf"{root}(?:-\d+k{fresh}|{fresh}-\d+k)-path-s0")
    for name in sorted(filter(form.fullmatch, r.runs["run"].unique()), key=lambda n: _segments(r, n)[::-1]):
        e = effect(r, ways(r, name.removesuffix("-path-s0")))
        if e is not None:
            said.append(f"Trained longer, for {_segments_words(*_segments(r, name))}, the path {effect_words(e)}: "
                        f"{ratio_words(e)} times those without.")  # fmt: skip
    return said


def paper_fp(alpha: float, *, prior: bool = False) -> tuple[float, ...]:
    """The paper's false positives with JVSS of DeepMedic+ and of DeepMedic: in all volumes, or those with an earlier scan alone;
    empty where none are printed."""
    rows, table = paper.rows(), paper.table(1)
    if prior:
        gone = rows[(rows["quantity"] == "fewer fp, volumes with a prior") & (rows["alpha"] == alpha)][:1]
        return tuple(n for t in gone.itertuples() for n in (t.denominator - t.numerator, t.denominator))
    own = table[(table["loss"] == "JVSS") & (table["alpha"] == alpha)].set_index("network")["fp"]
    return tuple(float(own[n]) for n in ("DeepMedic+", "DeepMedic") if n in own)


def paper_words(alpha: float) -> str:
    """:func:`paper_fp` in a sentence, of all volumes and of those with an earlier scan."""
    asked = {f"in all {paper.VOLUMES} volumes": False, "in those with an earlier scan": True}
    pairs = {where: paper_fp(alpha, prior=prior) for where, prior in asked.items()}
    said = [f"{where}: {p[0]:g} with the path, {p[1]:g} without, a ratio of {p[0] / p[1]:.2f}" if len(p) == 2 else
            f"{where}: not printed" for where, p in pairs.items()]  # fmt: skip
    return f"Huang et al., alpha {alpha:g}, threshold 0.5, false positives {'; '.join(said)}."


def chance_words(clear: pd.DataFrame) -> str:
    """The table of :func:`dmplus.followup.clearer` in words: 'stable 26% [6%, 43%] (n = 7)'."""
    return ", ".join(
        f"{t.Index} {t.chance:.0%} (n = {t.n} in {t.patients} patients: too few for an interval)" if np.isnan(t.low)
        else f"{t.Index} {t.chance:.0%} [{t.low:.0%}, {t.high:.0%}] (n = {t.n})" for t in clear.itertuples()
    )  # fmt: skip


def settled(r: Results, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table (column case) whose visit has a prior and is followed by another visit of the patient."""
    last = r.visits.groupby("patient")["visit"].max()
    visits = r.visits[r.visits["with_prior"] & (r.visits["visit"] < r.visits["patient"].map(last))]
    return table[table["case"].isin(visits["case"])].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------------ pictures
def draw_not_run(what: str) -> Figure:
    """A figure that says what is missing, in the place of the figure that would show it."""
    figure, axes = figures.new_figure(6.5, 1.2)
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, f"not run: {what}", ha="center", va="center", fontsize=11, transform=axes[0, 0].transAxes)
    return figure


def draw_volume_changes(table: pd.DataFrame) -> Figure:
    """The table of :func:`volume_changes`: volume now / before of every metastasis, by what became of it; a look-alike keeps its
    volume (the line at 1), and what is new has no ratio (arrows at the right edge)."""
    figure, axes = figures.new_figure(6.5, 3.2)
    axis = axes[0, 0]
    states = [s for s in dict.fromkeys(evidence.STATES.values()) if (table["state"] == s).any()][::-1]
    right = 1.3 * max(table["ratio"].max(), 2.0)
    axis.axvspan(triage.SHRINKING, triage.GROWING, color="#DDDDDD", zorder=0)
    axis.axvline(1, color="#777777", lw=1, zorder=1)
    for k, state in enumerate(states):
        own = table[table["state"] == state]
        y = k + 0.5 * (rng(0, "jitter", k).random(len(own)) - 0.5)
        look = {"ls": "none", "color": COLOURS[k], "ms": 4, "alpha": 0.7}
        axis.plot(own["ratio"].fillna(right), y, marker=">" if own["ratio"].isna().all() else MARKERS[k], **look)
    n = table["state"].value_counts()
    axis.set_yticks(range(len(states)), [f"{s} (n = {n[s]})" for s in states])
    axis.set(xscale="log", xlabel="volume now / at the visit before (grey: 0.8 to 1.25)",
             ylim=(-0.6, len(states) - 0.4), xlim=(0.8 * min(table["ratio"].min(), 0.5), 1.1 * right))  # fmt: skip
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if axis.get_xlim()[0] <= t <= right]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    return figure


BEYOND = 1e3  #: length of the bar of an interval without an end, out of every picture


def _end(table: pd.DataFrame) -> float | None:
    """Where the axis of the ratios ends if an interval has no end (None: where its bars do)."""
    ends = table[["ratio", "high"]].to_numpy(float)
    return 1.3 * float(ends[np.isfinite(ends)].max(initial=1.0)) if np.isinf(ends).any() else None


def draw_ratios(table: pd.DataFrame) -> Figure:
    """The table of :func:`ratios`: a point with its interval per model; 1 is the model without prior."""
    figure, axes = figures.new_figure(6.5, 0.6 + 0.45 * len(table))
    axis = axes[0, 0]
    axis.axvline(1, color="#777777", lw=1)
    for k, row in enumerate(table.iloc[::-1].itertuples()):
        spread = np.clip([[row.ratio - row.low], [row.high - row.ratio]], 0, BEYOND)
        yardstick = row.model.startswith(NONE)
        look = {"color": "#777777", "marker": "|"} if yardstick else {"color": COLOURS[0], "marker": MARKERS[k % 6]}
        axis.errorbar(row.ratio, k, xerr=spread, elinewidth=1.2, **look)
    axis.set_xlim(right=_end(table))
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
        spread = np.clip([own["ratio"] - own["low"], own["high"] - own["ratio"]], 0, BEYOND)
        axis.errorbar(own["mm"] + 0.03 * k, own["ratio"], yerr=spread, color=COLOURS[k], marker=MARKERS[k], ls=DASHES[k],
                      elinewidth=0.8, label=model)  # fmt: skip
    axis.set_ylim(top=_end(table))
    axis.set(xlabel="residual misregistration of the prior in test, mm (root mean square)",
             ylabel=f"false positives at sensitivity\n{claims.EQUAL:g}, relative to no prior")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=len(axis.containers))
    return figure


def moved_prior(case: Case, mm: float, *, direction: Sequence[float] = (1.0, 0.0, 0.0)) -> Case:
    """The case with its prior moved by ``mm`` in one direction (voxel axes), cut to the mask: misregistration by hand."""
    from scipy import ndimage

    if case.prior is None:
        raise InputError(f"moved prior: expected a case with a prior; {case.name} has none; take a later visit")
    step = np.asarray(direction, float) / np.linalg.norm(direction) * mm / np.asarray(case.spacing)
    moved = ndimage.shift(case.prior.astype(np.float32), step, order=1, mode="nearest")
    return dataclasses.replace(case, prior=(moved * case.mask).astype(np.float32))


def level_at(r: Results, name: str, *, sensitivity: float = claims.EQUAL) -> int:
    """The highest level at which a run finds a share of the test lesions in visits with a prior; ``InputError`` if at none."""
    found, _, _ = results.along(r.counts(name, prior=True).sum(0))
    reached = np.flatnonzero(found >= sensitivity)
    if not len(reached):
        raise InputError(
            f"{name}: expected a run that finds {sensitivity:g} of the lesions; got {np.nanmax(found):.2f}"
        )
    return int(reached.max())


def kind_words(what: int) -> str:
    """What the generator put at a false positive, in words."""
    own = {"tissue": "nothing that enhances", "sinus or dura": "a venous sinus or the dura", "choroid plexus":
           "the choroid plexus", "elongated spot": "an elongated spot"}  # fmt: skip
    return own.get(LIES_THERE[int(what)], f"a {LIES_THERE[int(what)]}")


def around(case: Case, centre: Sequence[int], *, radius: int = 3) -> np.ndarray:
    """(X, Y, Z) bool: the ball of ``radius`` voxels around a place, inside the mask."""
    grid = np.ogrid[tuple(slice(0, n) for n in case.shape)]
    return (sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2) & case.mask
