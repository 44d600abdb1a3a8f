"""Patients followed over their visits: how much each thing in the brain changes, and what networks say when a prior moves.

The live part of notebook 03. Tables of whole cohorts, from the rows of the experiments: :mod:`dmplus.temporal`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus import evidence, figures, network, synthetic, temporal
from dmplus.inference import predict_volume
from dmplus.matching import label_lesions, match_lesions
from dmplus.network import DeepMedic
from dmplus.results import RESAMPLES, Results, estimate, over
from dmplus.review import LIES_THERE
from dmplus.runtime import InputError, Machine, rng
from dmplus.scoring import LEVELS
from dmplus.synthetic import CohortConfig
from dmplus.temporal import CHANNEL, PATH, REACH, difference, moved_prior
from dmplus.triage import probability_words
from dmplus.volume import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LEAST_VOXELS = 4  #: smaller look-alikes are not measured
LEAST_LESIONS, LEAST_PATIENTS = 5, 4  #: below these many metastases, or patients with one, there is no interval
BRIGHT = 1.0  #: mean change of a place, standard deviations, from which on it counts as brighter


# ------------------------------------------------------------------------------------------------------------ patients
@functools.lru_cache(maxsize=2)
def _visits(patient: int) -> tuple[Case, ...]:
    return tuple(v.case for v in synthetic.patient(synthetic.COHORTS["quick"], patient).visits)


def visit_and_next(name: str) -> tuple[Case, Case | None]:
    """A visit of the cohort ``quick`` by the name it has in the rows, made anew (seconds), and the visit after it, if any."""
    visits = _visits(int(name.split("_")[1]))
    place = [c.name for c in visits].index(name)
    return visits[place], visits[place + 1] if place + 1 < len(visits) else None


def draw_one(table: pd.DataFrame | None, rank: int, words: str, *, beside_paper: bool = False) -> tuple[Figure, str]:
    """A false positive of a table (:func:`dmplus.temporal.false_at`) over its visits: earlier, now, difference, next visit; and
    what it shows, in words. rank: 1 for the first row; the last one, if there are fewer. None: it was not run. beside_paper: say
    whether the place is bright, as the false positive of the paper's Figure 7.
    """
    if table is None or not len(table):
        why = "not run" if table is None else "none fits the rule"
        return temporal.draw_not_run(f"{words} ({why})"), f"nothing: {why}."
    row = table.iloc[min(rank, len(table)) - 1]
    case, later = visit_and_next(row["case"])
    centre = tuple(float(v) for v in row[["x", "y", "z"]])
    figure = temporal.draw_visits(case, centre, later=later, circle=6)
    near = temporal.around(case, [round(c) for c in centre])
    change = difference(case)[near]
    what = temporal.kind_words(int(row["what"]))
    figures.headed(figure, f"{words[:1].upper()}{words[1:]}: {what}")
    bright = change.mean() >= BRIGHT
    paper = f": {'as' if bright else 'unlike'} the false positive of the paper's Figure 7, {'' if bright else 'not '}bright there"
    peak = probability_words(LEVELS[int(row["peak"])])
    return figure, (
        f"{words} (ring) in {case.name}, number {min(rank, len(table))} of {len(table)}: what lies there is {what}. Its peak "
        f"was {peak}; the mean within 3 voxels changed by {change.mean():+.2f} standard deviations, "
        f"single voxels by up to {np.abs(change).max():.1f}{paper if beside_paper else ''}."
    )


def hidden_words(calm: pd.DataFrame) -> str:
    """Of the stable metastases of :func:`dmplus.temporal.two_views`: are there some that the first network finds and the
    second misses, what does that still allow, and which one is shown?"""
    hidden, said = temporal.hidden_in(calm)
    shown = (
        "they are shown first" if hidden else "the one whose logit falls most among those found without prior is shown"
    )
    return f"{said}; {shown}"


def draw_hidden(calm: pd.DataFrame, rank: int) -> tuple[Figure, str]:
    """Of the stable metastases that the network without prior finds (:func:`dmplus.temporal.two_views`, whose order holds)
    number ``rank``, or the last: its two visits, and what the figure shows, in words."""
    found = calm[calm["found_first"]]
    if not len(found):
        return temporal.draw_not_run("a stable metastasis that is found (there is none)"), "nothing: there is none."
    one = found.iloc[min(rank, len(found)) - 1]
    case, _ = visit_and_next(one["case"])
    figure = temporal.draw_visits(case, one[["x", "y", "z"]], circle=8)
    near = temporal.around(case, [round(v) for v in one[["x", "y", "z"]]], radius=2)
    change = float(difference(case)[near].mean())
    misses = "finds it, too" if one["found_second"] else "misses it"
    figures.headed(figure, f"A stable metastasis, found without prior: the path {misses}")
    return figure, (
        f"{one['case']}, a stable metastasis of {figures.volume_words(one['volume_mm3'])}, {one['ratio']:.2f} times its volume "
        f"before (ring). The network without prior finds it, the path {misses}; its logit, counted from the threshold, "
        f"changes by {-one['falls'] / 4:+.2f}. In its middle the scan changed by {change:+.2f} standard deviations."
    )


def followed(config: CohortConfig, most: int) -> list[int]:
    """Patients of a cohort who have an earlier scan, without making an image: those with most visits first, of equals the test
    part before the others. ``InputError`` if there is none."""
    found = [(i, len(synthetic.schedule(config, i)[0])) for i in range(config.patients)]
    order = sorted((-n, synthetic.split_of(config, i) != "test", i) for i, n in found if n > 1)
    if not order:
        raise InputError(
            f"cohort {config.name}: expected a patient with an earlier scan; got none; choose another seed"
        )
    return [i for _, _, i in order[:most]]


def last_visit(config: CohortConfig, patient: int) -> Case:
    """The last visit of a patient of a cohort."""
    return synthetic.patient(config, patient).visits[-1].case


# ------------------------------------------------------------------------------------------- how much an object changes
def changes(config: CohortConfig, patients: Sequence[int]) -> pd.DataFrame:
    """How much each metastasis and each look-alike changes in the difference image of every visit with a prior.

    Columns: case, what (its state in words, or the kind of look-alike, :data:`dmplus.review.LIES_THERE`), lesion (bool),
    voxels, change: the largest mean of 3 × 3 × 3 voxels of |now − earlier| (standard deviations) within a voxel of it.
    """
    lines: list[tuple[str, str, bool, int, float]] = []
    for index in patients:
        for visit in synthetic.patient(config, index).visits:
            if visit.case.prior is None:
                continue
            local = np.abs(ndimage.uniform_filter(difference(visit.case), 3))
            words = {
                int(n): evidence.STATES.get(s)
                for n, s in zip(visit.lesions["lesion"], visit.lesions["state"], strict=True)
            }
            maps = [(visit.numbers.astype(np.int32), words)]
            for number in synthetic.LOOKALIKES.values():
                labels, count = label_lesions(visit.lookalikes == number)
                maps.append((labels.astype(np.int32), dict.fromkeys(range(1, count + 1), LIES_THERE[number])))
            for place, (labels, named) in enumerate(maps):
                lines += [(visit.case.name, *line) for line in _measured(labels, named, local, lesion=place == 0)]
    return pd.DataFrame(lines, columns=["case", "what", "lesion", "voxels", "change"])


def _measured(
    labels: np.ndarray, named: Mapping[int, str | None], local: np.ndarray, *, lesion: bool
) -> list[tuple[str, bool, int, float]]:
    """What, whether it is a lesion, size and largest change of every object of a label image."""
    sizes = np.bincount(labels.ravel(), minlength=max(named, default=0) + 1)
    kept = [n for n, words in named.items() if words and sizes[n] >= (1 if lesion else LEAST_VOXELS)]
    if not kept:
        return []
    largest = ndimage.maximum(local, ndimage.grey_dilation(labels, size=3), kept)
    return [(str(named[n]), lesion, int(sizes[n]), float(v)) for n, v in zip(kept, largest, strict=True)]


def clearer(table: pd.DataFrame) -> pd.DataFrame:
    """For each state of a metastasis the chance that it changes more than a look-alike does, both drawn at random (0.5:
    the change says nothing), from the table of :func:`changes`.

    A row per state, columns n (metastases), patients (that have one), chance, low, high (95 %, patients resampled; NaN below
    :data:`LEAST_LESIONS` or :data:`LEAST_PATIENTS`). Empty without a look-alike.
    """
    columns = ["n", "patients", "chance", "low", "high"]
    if table["lesion"].all():
        return pd.DataFrame(columns=columns, dtype=float)
    patient = table["case"].str.replace(r"_v\d+$", "", regex=True)
    names = sorted(set(patient))
    others = [np.sort(table.loc[(patient == p) & ~table["lesion"], "change"]) for p in names]
    drawn = rng(0, "clearer").multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    lines = {}
    for state in dict.fromkeys(evidence.STATES.values()):
        own = [table.loc[(patient == p) & table["lesion"] & (table["what"] == state), "change"] for p in names]
        pairs = np.outer([len(a) for a in own], [len(o) for o in others])  # of patients: metastases × look-alikes
        won = np.array([[np.searchsorted(o, a).sum() for o in others] for a in own]).reshape(pairs.shape)
        if pairs.any():
            sums = [np.einsum("dp,pq,dq->d", drawn, each, drawn) for each in (won, pairs)]
            e = estimate(won.sum() / pairs.sum(), over(*sums))
            n, having = sum(map(len, own)), sum(map(bool, map(len, own)))
            known = n >= LEAST_LESIONS and having >= LEAST_PATIENTS
            lines[state] = (n, having, e.value, *((e.low, e.high) if known else (np.nan, np.nan)))
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def changes_title(clear: pd.DataFrame) -> str:
    """A title from the table of :func:`clearer`: the chances of the states that have an interval."""
    said = [f"{t.Index} {t.chance:.0%}" for t in clear.dropna(subset=["low"]).itertuples()]
    return f"More change than in a look-alike: {', '.join(said)} of pairs" if said else "What changes, and how much"


def draw_changes(table: pd.DataFrame) -> Figure:
    """The table of :func:`changes`: a point per object, metastases by what became of them above look-alikes by kind; the
    line is the median, the grey band holds nine tenths of the look-alikes."""
    figure, axes = figures.new_figure(6.5, 3.8)
    axis = axes[0, 0]
    known = [*dict.fromkeys(evidence.STATES.values()), *LIES_THERE]
    whats = [w for w in known if (table["what"] == w).any()][::-1]
    others = table.loc[~table["lesion"], "change"]
    if len(others):
        axis.axvspan(*np.quantile(others, [0.05, 0.95]), color="#DDDDDD", zorder=0)
    for k, what in enumerate(whats):
        own = table[table["what"] == what]
        lesion = bool(own["lesion"].iloc[0])
        y = k + 0.5 * (rng(0, "jitter", k).random(len(own)) - 0.5)
        axis.plot(own["change"], y, ls="none", ms=4, alpha=0.5, marker="o" if lesion else "s",
                  color=evidence.COLOURS[0 if lesion else 1])  # fmt: skip
        axis.plot([own["change"].median()] * 2, [k - 0.32, k + 0.32], color="black", lw=2, ls="-")
    n = table["what"].value_counts()
    kind = table.groupby("what")["lesion"].first()
    axis.set_yticks(range(len(whats)), [f"{w}{' metastasis' if kind[w] else ''} (n = {n[w]})" for w in whats])
    axis.set(xscale="log", ylim=(-0.6, len(whats) - 0.4),
             xlabel="largest local change since the visit before, standard deviations")  # fmt: skip
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    return figure


# ------------------------------------------------------------------------------------------------ a prior out of place
def networks(stem: str) -> dict[str, tuple[str, DeepMedic]]:
    """Way (channel, path) → the name of a run and its network: those of a stem ("jvss-0.5-fresh"), or of the nearest one whose
    weights come with the course: another alpha, or other training patients.

    Empty where none do. Both ways have the same stem, if there is one that has both.
    """
    folder = network.weights_path("sens").parent / "experiments"
    alpha = float(stem.split("-")[1])
    near = sorted({alpha, 0.5, 0.995}, key=lambda a: abs(a - alpha))
    stems = [stem.replace(f"jvss-{alpha:g}", f"jvss-{a:g}") for a in near]
    stems += [f"jvss-{a:g}{patients}" for patients in ("", "-fresh") for a in near]
    asked = [{w: f"{s}-{w}-s0" for w in (CHANNEL, PATH)} for s in stems]
    there = [{w: n for w, n in names.items() if (folder / f"{n}.safetensors").is_file()} for names in asked]
    chosen = max(there, key=len)  # of equals the first: the nearest
    return {way: (name, network.load(folder / f"{name}.safetensors")) for way, name in chosen.items()}


class Moved:
    """One visit whose prior is moved, and what networks say of it in place and moved.

    case: raw, with a prior. networks: way → network. thresholds: way → the probability from which on it marks a voxel.
    """

    def __init__(
        self, case: Case, mm: float, networks: Mapping[str, DeepMedic], thresholds: Mapping[str, float], *,
        machine: Machine | None = None,
    ) -> None:  # fmt: skip
        self.case, self.mm, self.thresholds = case, mm, dict(thresholds)
        self.moved = moved_prior(case, mm)
        self.truth = case.label > 0  # type: ignore[operator]
        self.before, self.after = (
            {way: _map(net, c, machine) for way, net in networks.items()} for c in (case, self.moved)
        )

    def appeared(self, way: str) -> list[tuple[int, int, int]]:
        """The peak voxels of the groups of a way that are new with the prior moved: they touch neither a metastasis nor
        what is marked with the prior in place. Where the probability rose most comes first."""
        labels, count = label_lesions(self.after[way] >= self.thresholds[way])
        old = set(labels[self.truth | (self.before[way] >= self.thresholds[way])].tolist())
        new = [n for n in range(1, count + 1) if n not in old]
        peaks = [tuple(map(int, p)) for p in ndimage.maximum_position(self.after[way], labels, new)] if new else []
        return sorted(peaks, key=lambda p: self.before[way][p] - self.after[way][p])

    def counts(self) -> pd.DataFrame:
        """A row per way: metastases found and false positives with the prior in place and moved, and how many of the latter
        are new (:meth:`appeared`)."""
        lines = {}
        for way, threshold in self.thresholds.items():
            a, b = (match_lesions(self.truth, m[way] >= threshold) for m in (self.before, self.after))
            lines[way] = {
                "metastases": a.n_ref, "found, in place": a.tp_ref, f"found, {self.mm:g} mm": b.tp_ref,
                "false, in place": a.fp, f"false, {self.mm:g} mm": b.fp, "of these new": len(self.appeared(way)),
            }  # fmt: skip
        return pd.DataFrame(lines).T

    def title(self) -> str:
        """'One patient, moved by 2 mm: 2 new false positives of the channel, 0 of the path'."""
        n = [
            f"{len(self.appeared(way))} {'' if k else 'new false positives '}of the {way}"
            for k, way in enumerate(self.before)
        ]
        return f"One patient, moved by {self.mm:g} mm: {', '.join(n)}"

    def place(self, rank: int = 1) -> tuple[tuple[int, int, int], str]:
        """A voxel outside all metastases, and the rule that chose it, in words; ``rank`` 2 for the next one, and so on.

        First the new false positives (:meth:`appeared`) of the channel network, or of the path's if there is no channel.
        Then, away from what is marked in place, where its probability rises most, if it rises by
        0.01 or more anywhere; else where the difference image changes most.
        """
        way = CHANNEL if CHANNEL in self.before else next(iter(self.before))
        new = self.appeared(way)
        if rank <= len(new):
            return new[rank - 1], f"the {way} has a new false positive"
        rise = self.after[way] - self.before[way]
        known = self.truth | (self.before[way] >= self.thresholds[way])
        free = self.case.mask & ~ndimage.binary_dilation(known, iterations=REACH)
        rises = bool((rise[free] >= 0.01).any())
        score = rise if rises else np.abs(difference(self.moved) - difference(self.case))
        score = np.where(free, score, -np.inf)
        for best in new:
            score[_box(best)] = -np.inf
        for _ in range(rank - len(new)):
            best = tuple(int(b) for b in np.unravel_index(int(np.argmax(score)), score.shape))
            score[_box(best)] = -np.inf
        words = f"the probability of the {way} rises most" if rises else "the difference image changes most"
        return best, words  # type: ignore[return-value]

    def heard(self, place: tuple[int, int, int]) -> dict[str, tuple[float, float]]:
        """Way → probability at a place with the prior in place, and moved."""
        return {way: (float(self.before[way][place]), float(self.after[way][place])) for way in self.before}

    def draw(self, place: tuple[int, int, int], *, edge: int = 40) -> Figure:
        """The place with the prior in place (above) and moved (below): earlier scan, difference, and each network's map.

        Purple became darker, orange brighter; a map is coloured from 0.05 on and outlined from its threshold on.
        """
        rows = (("in place", self.case, self.before), (f"moved {self.mm:g} mm", self.moved, self.after))
        columns = 2 + len(self.before)
        figure, axes = figures.new_figure(6.5, 1.1 + 6.5 / columns * 2.1, rows=2, columns=columns)
        x, y, z = place
        below = {"location": "bottom", "fraction": 0.05, "pad": 0.02, "aspect": 30}
        with figures.style():
            for line, (words, case, maps) in zip(axes, rows, strict=True):
                figures.draw_slice(line[0], case, index=z, image="prior")
                shown = figures.plane_of(difference(case), "axial", z)
                change = line[1].imshow(shown, cmap="PuOr_r", vmin=-3, vmax=3)
                line[1].set_axis_off()
                for axis, way in zip(line[2:], maps, strict=True):
                    said = _draw_map(axis, case, maps[way], z, self.thresholds[way])
                for axis, name in zip(line, (f"earlier, {words}", "now − earlier", *(f"{w}, {words}" for w in maps)),
                                      strict=True):  # fmt: skip
                    at = figures.zoom(axis, case, x, y, edge)
                    axis.plot(*at, marker="o", ms=24, mfc="none", mec="#009E73", mew=1.6, ls="none")
                    axis.set_title(name, fontsize=9, fontweight="normal")
            figure.colorbar(change, ax=list(axes[:, :2].flat), label="difference, standard deviations", **below)
            figure.colorbar(said, ax=list(axes[:, 2:].flat), label="probability", **below)
        return figure


def displaced(
    case: Case, place: tuple[int, int, int], networks: dict[str, DeepMedic], mm: Sequence[float], *,
    machine: Machine | None = None,
) -> str:  # fmt: skip
    """What networks say near a place with the prior moved to the right by each of ``mm``, a line each: the static twin of
    :class:`dmplus.widgets.Shifter`."""
    from dmplus.widgets import Shifter

    shifter, lines = Shifter(case, place, networks, machine=machine), []
    for shifter.mm in mm:
        lines.append(shifter.describe())
    return "\n".join(lines)


def _box(place: Sequence[int]) -> tuple[slice, ...]:
    """Within 2 * :data:`REACH` voxels of a place."""
    return tuple(slice(max(int(p) - 2 * REACH, 0), int(p) + 2 * REACH + 1) for p in place)


def _draw_map(axis: Axes, case: Case, probability: np.ndarray, index: int, threshold: float) -> AxesImage:
    """One axial slice with a map over it, outlined from a threshold on, and the reference outlined."""
    figures.draw_slice(axis, case, index=index, reference=True)
    shown = figures.plane_of(probability, "axial", index)
    inside = (shown >= threshold).astype(float)
    if inside.any():
        axis.contour(inside, [0.5], colors=["#E69F00"], linewidths=[1.4])
    return axis.imshow(np.ma.masked_less(shown, 0.05), cmap="viridis", vmin=0, vmax=1, alpha=0.85)


def _map(net: DeepMedic, case: Case, machine: Machine | None) -> np.ndarray:
    ready = case.normalised()
    return predict_volume(net, ready.image, prior=ready.prior, mask=ready.mask, machine=machine)


# ---------------------------------------------------------------------------------------------- one patient over time
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
        look = {"color": evidence.COLOURS[k % 6], "marker": evidence.MARKERS[k % 6]}
        axes[0, 0].plot(own["days"], own["volume_mm3"], ls=evidence.DASHES[k % 6], label=f"lesion {number}", **look)
        missed = own[~own["found"]]
        axes[0, 0].plot(missed["days"], missed["volume_mm3"], ls="none", mfc="white", zorder=3, **look)
    axes[0, 0].set(yscale="log", xlabel="days since the first visit", ylabel="volume, mm³")
    figure.legend(loc="outside center right")
    return figures.headed(figure, title)


def doubling(table: pd.DataFrame, days: Callable[[float, float, float], float]) -> pd.DataFrame:
    """Doubling times by ``days(before, now, days between)`` in a :func:`timeline`, in days: a row per lesion, a column per
    interval between visits; NaN where the lesion is not there at both."""
    volumes = table.pivot(index="id", columns="days", values="volume_mm3")
    made = {}
    for a, b in itertools.pairwise(volumes.columns):
        pairs = zip(volumes[a], volumes[b], strict=True)
        made[f"day {a:g} to {b:g}"] = [np.nan if np.isnan(v + w) else days(v, w, float(b - a)) for v, w in pairs]
    return pd.DataFrame(made, index=[f"lesion {n}" for n in volumes.index])


def course_words(times: pd.DataFrame) -> str:
    """The table of :func:`doubling` in words: how many lesions grow, shrink, or do both, one interval after the other."""
    up, down = ((times > 0) & np.isfinite(times)).any(axis=1), (times < 0).any(axis=1)
    once = int(times.isna().all(axis=1).sum())
    words = f"{(up & ~down).sum()} growing, {(down & ~up).sum()} shrinking, {(up & down).sum()} both in turn"
    return words + (f", {once} seen once" if once else "")
