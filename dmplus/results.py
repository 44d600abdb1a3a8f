"""From the committed rows of the experiments to numbers with intervals: what every table, curve and claim is made of.

:class:`Results` reads ``runs.csv``, ``visits.csv`` and ``rows.csv.gz`` (:func:`dmplus.experiment.collect`) and counts, for
any group of runs, found and missed lesions and false positives per patient and threshold. Intervals are 95 % percentiles
over 2000 resamples: patients with replacement and, where a group has several seeds, seeds with replacement. Draws depend
on nothing but the number of patients and seeds, so that two groups are compared pairwise. Where two groups were trained apart,
a difference also holds what another seed would have done to either (:class:`Chance`): with one training a side, patients alone
would tell two trainings of one recipe apart.

Precision is the paper's, found / (found + false): rows do not say into how many blobs a found lesion falls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dmplus.metrics import percentiles
from dmplus.runtime import InputError, named, rng
from dmplus.scoring import HALF, LEVELS

RESAMPLES = 2000
SMALL_MM3 = 100.0  #: below it a metastasis is small (0.1 cm3, as in the paper)
KINDS = ("tissue", "vessel", "sinus", "plexus", "blob", "spot")  #: of false positives, by the number in the rows (what)
FOUND, MISSED, FALSE, VOLUMES, DICE = range(5)  #: last axis of the counts; DICE: summed over lesions found at 0.5

Statistic = Callable[[np.ndarray], np.ndarray]  #: counts (..., levels, 5) → (...)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, its interval, and the resamples it comes from (2000,)."""

    value: float
    low: float
    high: float
    draws: np.ndarray = dataclasses.field(repr=False, compare=False)
    trainings: bool = False  #: whether the interval holds the chance of training (:class:`Chance`), not patients alone

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(value: float, draws: np.ndarray) -> Estimate:
    """With the 95 % interval of the draws that exist; without one where the number itself does not (NaN)."""
    low, high = percentiles(draws) if not np.isnan(value) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), draws)


def quotient(point: tuple[float, float], a: np.ndarray, b: np.ndarray, least: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """a / b, its value from ``point`` and its interval from the resamples a and b (2000,), either NaN where it is not known but
    is at least ``least``.

    A resample that is not known (0 / 0 is not) counts for the lower end with the smallest ratio that it can have and for the
    upper end with the largest, which may be infinite: left out, the interval would be that of the lucky ones alone.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value, draws = np.divide(*point), a / b
        if np.isfinite(draws).all() or np.isnan(value):
            return estimate(float(value), draws)
        smallest = np.where(np.isnan(a), least[0], a) / np.where(np.isnan(b), np.inf, b)
        largest = np.where(np.isnan(a), np.inf, a) / np.where(np.isnan(b), least[1], b)
    low = np.percentile(np.nan_to_num(smallest, nan=0.0, posinf=np.inf), 2.5, method="lower")
    high = np.percentile(np.nan_to_num(largest, nan=np.inf, posinf=np.inf), 97.5, method="higher")
    return Estimate(float(value), float(low), float(high), draws)


@dataclasses.dataclass(frozen=True)
class Chance:
    """How far its seed alone moves a statistic of a training: the standard deviation over trainings of one recipe, on the scale
    of log-odds for a share and of logs for a count (:attr:`count`), where it depends least on the recipe; pooled over recipes of
    few trainings each, which cannot show that it is the same in all."""

    sd: float
    df: int  #: degrees of freedom: trainings − recipes
    count: bool = False

    def __call__(self, drawn: np.ndarray, seeds: int, of: str) -> np.ndarray:
        """The resamples (2000,) of the mean over ``seeds`` trainings, each with a chance of its own; 0, 1 and NaN stay.

        Resampling n seeds already holds (n − 1) / n of the variance of their mean, sd² / n: what is added is the rest,
        sd² / n². The chance is Student's t, as sd is itself from few trainings. of: a name; other names are other trainings.
        """
        step = rng(0, "chance of training", of).standard_t(self.df, len(drawn)) * self.sd / seeds
        moved = np.exp(np.clip(step, -50, 50))  # t of one degree of freedom goes beyond what a float holds
        return drawn * moved if self.count else drawn * moved / (1 - drawn + drawn * moved)


class Results:
    """The rows of one folder of collected experiments, and of another one's runs beside them (your own and the shipped).

    Raises ``InputError`` where one of its tables is missing, and where both folders share test or validation visits that
    are not the same.
    """

    def __init__(self, folder: str | Path, beside: str | Path | None = None) -> None:
        folders = [Path(f) for f in (folder, beside) if f is not None]
        for each in folders:
            for name in ("runs.csv", "visits.csv", "rows.csv.gz"):
                if not (each / name).is_file():
                    raise InputError(
                        f"results {named(each)}: expected {name}; it is not there; run `dmplus experiment ... --collect`"
                    )
        runs, visits, rows = ([pd.read_csv(f / n) for f in folders] for n in ("runs.csv", "visits.csv", "rows.csv.gz"))
        if len(folders) > 1:
            own, other = (v[v["split"].isin(["validation", "test"])].reset_index(drop=True) for v in visits)
            if not own.equals(other):
                raise InputError(
                    f"results {named(folders[0])}: expected the validation and test visits of {named(folders[1])}; they "
                    "differ; run both on one cohort"
                )
            known = set(runs[0]["run"])
            runs[1], rows[1] = (t[~t["run"].isin(known)] for t in (runs[1], rows[1]))
        joined = pd.concat(runs, ignore_index=True)
        self.runs = joined.assign(patients=joined.get("patients", "own")).fillna(
            {"patients": "own"}
        )  # older rows lack it
        self.visits = max(visits, key=len)
        tiers = next((f / "tiers.csv.gz" for f in folders if (f / "tiers.csv.gz").is_file()), None)
        self.tiers = None if tiers is None else pd.read_csv(tiers)
        points = next((f / "operating_points.csv" for f in folders if (f / "operating_points.csv").is_file()), None)
        self.points = None if points is None else pd.read_csv(points)  #: run and threshold of each system and tier
        looked = next((f / "candidates.csv.gz" for f in folders if (f / "candidates.csv.gz").is_file()), None)
        #: as of :func:`dmplus.second_look.candidates`
        self.candidates = None if looked is None else pd.read_csv(looked, dtype={"lesions": str}).fillna({"lesions": ""})
        lesions = next((f / "lesions.csv" for f in folders if (f / "lesions.csv").is_file()), None)
        self.lesions = None if lesions is None else pd.read_csv(lesions)  #: what became of each, in a synthetic cohort
        told = [pd.read_csv(f / "histories.csv") for f in folders if (f / "histories.csv").is_file()]
        self.histories = pd.concat(told).drop_duplicates(["run", "step"]) if told else None  #: losses of the trainings
        self.rows = dict(iter(pd.concat(rows, ignore_index=True).groupby(["run", "split", "second_image"])))

    # -------------------------------------------------------------------------------------------------- counts
    def has(self, *names: str, split: str = "test", second: str | None = None) -> bool:
        """Whether all these runs were scored there."""
        return all((n, split, self._second(n, second)) in self.rows for n in names)

    def seeds(self, stem: str, *, split: str = "test") -> list[str]:
        """Names of the scored runs ``stem``-s0, -s1, ..."""
        found = []
        while self.has(f"{stem}-s{len(found)}", split=split):
            found.append(f"{stem}-s{len(found)}")
        return found

    def _second(self, name: str, second: str | None) -> str:
        """What a run was trained with, unless another second image is asked for."""
        if second is not None:
            return second
        own = self.runs.loc[self.runs["run"] == name, "second"]
        return str(own.iloc[0]) if len(own) else ""

    def counts(
        self, name: str, *, split: str = "test", second: str | None = None, prior: bool | None = None,
        least_mm3: float = 0.0, most_mm3: float = np.inf,
    ) -> np.ndarray:  # fmt: skip
        """(patients, levels, 5): found, missed, false, volumes, and the Dice sum of what is found at 0.5 (there alone).

        prior: only visits that have an earlier scan (True) or none (False); patients without such a visit count 0.
        Sizes select lesions by their own volume and false positives by theirs at 0.5. False positives at levels below the
        floor of the run's rows are NaN, but for 0.5. Raises ``InputError`` for a run that was not scored there.
        """
        rows, place, patients = self._chosen(name, split, second, prior)
        if least_mm3 > 0 or most_mm3 < np.inf:
            rows = rows[(rows["volume_mm3"] >= least_mm3) & (rows["volume_mm3"] < most_mm3)]
        of = rows["case"].map(place).to_numpy(int)
        lesion = (rows["kind"] == "lesion").to_numpy()
        top, bottom = rows["top"].to_numpy(int), rows["bottom"].to_numpy(int)
        out = np.zeros((patients, len(LEVELS) + 1, 5))
        for column, which in ((FOUND, lesion & (top >= 0)), (FALSE, ~lesion)):
            # +1 at the first level, -1 after the last
            np.add.at(out[..., column], (of[which], bottom[which]), 1)
            np.add.at(out[..., column], (of[which], top[which] + 1), -1)
        out = np.cumsum(out, axis=1)[:, :-1]
        out[..., MISSED] = np.bincount(of[lesion], minlength=patients)[:, None] - out[..., FOUND]
        out[..., VOLUMES] = np.bincount(list(place.values()), minlength=patients)[:, None]
        dice = rows["dice"].fillna(0).to_numpy()
        out[:, HALF, DICE] = np.bincount(of[lesion], dice[lesion], minlength=patients)
        of_run = (self.runs["run"] == name) & (self.runs["split"] == split)
        scored = self.runs[of_run & (self.runs["second_image"] == self._second(name, second))]
        unknown = np.arange(len(LEVELS)) < int(scored["floor"].iloc[0])
        unknown[HALF] = False
        out[:, unknown, FALSE] = np.nan
        return out

    def _chosen(
        self, name: str, split: str, second: str | None, prior: bool | None
    ) -> tuple[pd.DataFrame, dict[str, int], int]:
        """Rows of a run, case → place of its patient for the visits that count, and the number of patients."""
        own, second = self._second(name, None), self._second(name, second)
        if (name, split, second) not in self.rows:
            raise InputError(
                f"results: expected a run {name} scored on {split} with {second or 'its second image'}; there is none; "
                f"choose from {', '.join(sorted({k[0] for k in self.rows}))}"
            )
        visits = self.visits[self.visits["split"] == split]
        patients = np.unique(visits["patient"])
        if second != own:  # controls are scored where there is a prior to replace
            visits = visits[visits["with_prior"]]
        if prior is not None:
            visits = visits[visits["with_prior"] == prior]
        place = dict(zip(visits["case"], np.searchsorted(patients, visits["patient"]).tolist(), strict=True))
        rows = self.rows[name, split, second]
        return rows[rows["case"].isin(place)], place, len(patients)

    def false_by_kind(
        self, names: Sequence[str], *, split: str = "test", second: str | None = None, prior: bool | None = None
    ) -> dict[str, float]:
        """False positives per volume at 0.5, mean over runs, by what lies there: tissue, vessel, sinus, ..."""
        out = dict.fromkeys(KINDS, 0.0)
        for name in names:
            rows, place, _ = self._chosen(name, split, second, prior)
            false = rows[(rows["kind"] == "fp") & (rows["bottom"] <= HALF) & (rows["top"] >= HALF)]
            for what, n in false["what"].value_counts().items():
                out[KINDS[int(what)]] += float(n) / len(place) / len(names)
        return out

    def group(self, names: Sequence[str], **where: object) -> np.ndarray:
        """Counts of several seeds: (seeds, patients, levels, 5)."""
        return np.stack([self.counts(n, **where) for n in names])  # type: ignore[arg-type]

    def recipes(self) -> dict[str, list[str]]:
        """Recipes that were trained with several seeds and scored on test: name → runs."""
        kept = self.runs[(self.runs["split"] == "test") & (self.runs["second_image"] == self.runs["second"])]
        stems = {s: self.seeds(s) for s in kept["run"].str.rpartition("-s")[0].drop_duplicates()}
        return {s: names for s, names in stems.items() if len(names) > 1}

    def chance(self, statistic: Statistic, prior: bool | None = None) -> Chance | None:
        """That of a statistic, pooled over :meth:`recipes`; None where no recipe has two trainings in which it exists and is not
        at an end (a share of 0 or 1, a count of 0)."""
        count = getattr(statistic, "count", False)
        squares, df = 0.0, 0
        kept = self.__dict__.setdefault("_of_recipes", {})  # counting takes most of the time
        if prior not in kept:
            kept[prior] = [self.group(names, prior=prior).sum(1) for names in self.recipes().values()]
        for counts in kept[prior]:
            each = statistic(counts)
            with np.errstate(divide="ignore", invalid="ignore"):
                each = np.log(each) if count else np.log(each / (1 - each))
            each = each[np.isfinite(each)]
            squares += float(((each - each.mean()) ** 2).sum()) if len(each) else 0.0
            df += max(len(each) - 1, 0)
        return Chance(float(np.sqrt(squares / df)), df, count) if df else None

    def chance_between(
        self, statistic: Statistic, a: Sequence[str], b: Sequence[str], prior: bool | None = None
    ) -> Chance | None:
        """:meth:`chance`, unless two groups of runs share one: no other training could have made only one of the two."""
        return None if set(a) & set(b) else self.chance(statistic, prior)


# ------------------------------------------------------------------------------------------------------------ resampling
@functools.lru_cache(maxsize=16)
def _weights(patients: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each patient, and each seed, is drawn in each resample; seeds as shares."""
    who = rng(0, "resampled patients", patients).multinomial(patients, np.full(patients, 1 / patients), RESAMPLES)
    which = rng(0, "resampled seeds", seeds).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    return who.astype(float), which / seeds


Pooled = tuple[np.ndarray, np.ndarray]  #: sums (..., ) over everything, and of each resample (2000, ...)


def pooled(counts: np.ndarray | Pooled) -> Pooled:
    """(seeds, patients, ...) → (...) summed over patients and averaged over seeds, and of each resample (2000, ...).

    What is pooled already comes back as it is.
    """
    if isinstance(counts, tuple):
        return counts
    seeds, patients = counts.shape[:2]
    who, which = _weights(patients, seeds)
    drawn = np.zeros((RESAMPLES, *counts.shape[2:]))
    for s in range(seeds):
        drawn += which[:, s].reshape(-1, *(1,) * (counts.ndim - 2)) * np.tensordot(who, counts[s], axes=1)
    return counts.sum(1).mean(0), drawn


def of(statistic: Statistic, counts: np.ndarray | Pooled) -> Estimate:
    """A statistic of one group."""
    point, drawn = pooled(counts)
    return estimate(float(statistic(point)), statistic(drawn))


def compare(
    statistic: Statistic, a: np.ndarray | Pooled, b: np.ndarray | Pooled, *, ratio: bool = False, chance: Chance | None = None
) -> Estimate:
    """a − b (or a / b, :func:`quotient`) of a statistic of two groups, pairwise over patients.

    chance: that of the statistic (:meth:`Results.chance`), where the groups were trained apart; without it the interval is that
    of these very networks. It needs counts that are not pooled, as it depends on the number of seeds.
    """
    (point_a, drawn_a), (point_b, drawn_b) = pooled(a), pooled(b)
    values, draws = [float(statistic(p)) for p in (point_a, point_b)], [statistic(d) for d in (drawn_a, drawn_b)]
    if chance:
        draws = [chance(d, len(c), side) for d, c, side in zip(draws, (a, b), "ab", strict=True)]
    if ratio:
        least = getattr(statistic, "least", lambda counts: np.zeros(counts.shape[:-2]))
        e = quotient((values[0], values[1]), draws[0], draws[1], (least(drawn_a), least(drawn_b)))
    else:
        e = estimate(values[0] - values[1], draws[0] - draws[1])
    return dataclasses.replace(e, trainings=chance is not None)


# ------------------------------------------------------------------------------------------------------------ statistics
def over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN without denominator."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / b, np.nan)


def along(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sensitivity, precision (the paper's) and false positives per volume at every level: (..., levels) each."""
    found, false = counts[..., FOUND], counts[..., FALSE]
    return over(found, found + counts[..., MISSED]), over(found, found + false), over(false, counts[..., VOLUMES])


def sensitivity(counts: np.ndarray, level: int = HALF) -> np.ndarray:
    """Found / all lesions."""
    c = counts[..., level, :]
    return over(c[..., FOUND], c[..., FOUND] + c[..., MISSED])


def precision(counts: np.ndarray, level: int = HALF) -> np.ndarray:
    """Found / (found + false): the paper's."""
    c = counts[..., level, :]
    return over(c[..., FOUND], c[..., FOUND] + c[..., FALSE])


def fp_per_volume(counts: np.ndarray, level: int = HALF) -> np.ndarray:
    """False positives per volume."""
    c = counts[..., level, :]
    return over(c[..., FALSE], c[..., VOLUMES])


fp_per_volume.count = True  # type: ignore[attr-defined]


def mdsc(counts: np.ndarray) -> np.ndarray:
    """Mean Dice of the lesions found at 0.5."""
    c = counts[..., HALF, :]
    return over(c[..., DICE], c[..., FOUND])


def fp_at(wanted: float | np.ndarray) -> Statistic:
    """False positives per volume where the falling threshold first reaches a sensitivity, linear between thresholds.

    NaN where it is not reached above the floor of the rows; ``.least`` of the statistic is what it then is at least: the false
    positives at that floor. A sensitivity below that of the highest level is taken from the line to there from nothing predicted.
    """

    def least(counts: np.ndarray) -> np.ndarray:
        fp = along(counts)[2]
        known = ~np.isnan(fp)
        first = fp.shape[-1] - np.argmin(known[..., ::-1], -1)  # lowest level of the unbroken run from the highest: 0.5 is
        lowest = np.where(known.all(-1), 0, np.minimum(first, fp.shape[-1] - 1))[..., None]  # known below the floor, too
        return np.nan_to_num(np.take_along_axis(fp, lowest, -1)[..., 0])

    def statistic(counts: np.ndarray) -> np.ndarray:
        s, _, fp = along(counts[..., ::-1, :])  # as the threshold falls
        s = np.concatenate([np.zeros_like(s[..., :1]), s], -1)  # nothing predicted: 0 found, 0 false
        fp = np.concatenate([np.zeros_like(fp[..., :1]), fp], -1)
        reached = np.where(np.isnan(fp), False, s >= np.asarray(wanted)[..., None])
        k = reached.argmax(-1)[..., None]
        before = np.maximum(k - 1, 0)
        s0, s1 = (np.take_along_axis(s, i, -1)[..., 0] for i in (before, k))
        f0, f1 = (np.take_along_axis(fp, i, -1)[..., 0] for i in (before, k))
        share = np.where(s1 > s0, (wanted - s0) / np.where(s1 > s0, s1 - s0, 1), 1.0)
        return np.where(reached.any(-1), f0 + share * (f1 - f0), np.nan)

    statistic.least, statistic.count = least, True  # type: ignore[attr-defined]
    return statistic


def sensitivity_at(budget: float) -> Statistic:
    """The best sensitivity of any threshold with at most ``budget`` false positives per volume; NaN where none of the levels
    keeps to it."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        s, _, fp = along(counts)
        return np.where((fp <= budget).any(-1), np.where(fp <= budget, s, 0.0).max(-1), np.nan)

    return statistic


def area(points: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Mean precision over the recalls from ``low`` to ``high`` of points (..., n, 2) = (recall, precision).

    Rule: at recall r the precision is that of the best point with recall >= r, and 0 beyond the last. (..., ) NaN where
    the range is empty. For ``low`` = 0 and ``high`` = 1 it is the area under this step function.
    """
    order = np.argsort(points[..., 0], -1, kind="stable")
    recall, height = (np.take_along_axis(points[..., i], order, -1) for i in (0, 1))
    best = np.maximum.accumulate(np.nan_to_num(height)[..., ::-1], -1)[..., ::-1]
    low, high = np.asarray(low)[..., None], np.asarray(high)[..., None]
    edges = np.clip(np.concatenate([np.zeros_like(recall[..., :1]), recall], -1), low, np.maximum(low, high))
    width = (high - low)[..., 0]
    return np.where(width > 0, (np.diff(edges, axis=-1) * best).sum(-1) / np.where(width > 0, width, 1), np.nan)


def at_half(
    groups: Mapping[str, np.ndarray], statistics: Sequence[Statistic], chances: Sequence[Chance | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of each group: (groups, statistics), and of the resamples, (2000, groups, statistics).

    groups: the name of a training (no two share their chance) → counts; chances: of each statistic, None: patients alone.
    """
    points, draws = [], []
    for name, counts in groups.items():
        point, drawn = pooled(counts)
        points.append([float(s(point)) for s in statistics])
        each = [s(drawn) for s in statistics]
        draws.append([c(d, len(counts), f"{name} {i}") if c else d for i, (c, d) in enumerate(zip(chances, each, strict=True))])
    return np.array(points), np.moveaxis(np.array(draws), -1, 0)
