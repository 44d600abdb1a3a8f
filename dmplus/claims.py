"""Every claim of the paper that the experiments speak to, with a verdict by rule, and the tables behind: ``make results``.

A claim is a number (a difference or a ratio), the side of a null on which the paper sees it, and an interval. The verdict
follows from these alone (:func:`verdict`): **holds** (the interval lies on the paper's side), **opposite** (it lies on the
other), **weak** (the value and at least 80 % of the resamples lie on the paper's side), **not shown** (all else). A claim of
no difference has an upper and a lower null instead: it holds when the interval lies between them and is opposite when it
lies outside. A claim whose runs are missing is **not run**. No number and no verdict is typed by hand.

Intervals hold the patients and, where two trainings are compared, what another seed would have done to either
(:class:`dmplus.results.Chance`, from the recipes with several seeds): column ``interval``. Those of one network (its tiers, its
prior zeroed), and all where no recipe has several seeds, hold the patients alone. :func:`same_recipe` is the yardstick.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dmplus import paper, results, training
from dmplus.experiment import CANDIDATES, CONFIRMED, LONGEST
from dmplus.results import Chance, Estimate, Results, compare, estimate, of, over, pooled
from dmplus.runtime import InputError, replacing
from dmplus.scoring import HALF, LEVELS

COLUMNS = (
    "claim", "paper", "ours", "low", "high", "interval", "null", "n_patients", "n_lesions", "seeds", "verdict", "why",
)  # fmt: skip
WEAK = 0.8  #: least share of the resamples on the paper's side
MDSC_MARGIN = 0.02  #: a smaller loss of mDSC counts as none
MARGIN = 0.05  #: a smaller difference of sensitivity counts as none
RATIO_MARGIN = 1.25  #: a ratio of false positives nearer to 1 than this counts as none
NEAR_CERTAIN = 0.95  #: least precision of "almost 100 %"
EQUAL = 0.85  #: sensitivity at which priors and segments are compared: that of the paper's DeepMedic with BCE


@dataclasses.dataclass(frozen=True)
class Claim:
    """One line before its verdict."""

    claim: str
    paper: float  #: the paper's number in the same unit, NaN where it prints none
    ours: Estimate | None  #: None: not run
    null: tuple[float, float]  #: the paper's side is from the first to the second
    counts: Sequence[np.ndarray] = ()  #: the groups compared, for n
    why: str = ""  #: what the number is, and what else one should know


def verdict(ours: Estimate | None, null: tuple[float, float]) -> str:
    """The rule; see the module's text.

    >>> up = estimate(0.1, np.linspace(0.05, 0.15, 100))
    >>> verdict(up, (0, math.inf)), verdict(up, (-math.inf, 0)), verdict(up, (0.12, math.inf)), verdict(None, (0, 1))
    ('holds', 'opposite', 'not shown', 'not run')
    """
    if ours is None:
        return "not run"
    if math.isnan(ours.value) or math.isnan(ours.low):
        return "not shown"
    low, high = null
    direction = math.isinf(low) or math.isinf(high)  # then the null itself is not on the paper's side

    def inside(x: np.ndarray | float) -> np.ndarray | bool:
        return (low < x) & (x < high) if direction else (low <= x) & (x <= high)

    if inside(ours.low) and inside(ours.high):
        return "holds"
    if ours.high < low or ours.low > high:
        return "opposite"
    return "weak" if inside(ours.value) and np.mean(inside(ours.draws)) >= WEAK else "not shown"  # NaN: not inside


UP, DOWN = (0.0, math.inf), (-math.inf, 0.0)
FEWER = (-math.inf, 1.0)  #: of a ratio


# ------------------------------------------------------------------------------------------------------------ the claims
#: Runs on whole brains, and what a claim says of them.
WHOLE = {"whole": "whole brains", "paper": "whole brains, the paper's network"}


def claims(r: Results) -> list[Claim]:
    """All claims, in the order of the paper; those of whole brains where such were run, the others where others were."""
    kinds = r.runs["run"].str.partition("-")[0]
    found = [c for stem, words in WHOLE.items() if stem in set(kinds) for c in _whole(r, stem, words)]
    if kinds.isin(list(WHOLE)).all():
        return found
    jvss = {alpha: r.seeds(f"jvss-{alpha:g}") for alpha in (0.995, 0.9, 0.5)}
    return [*_alpha(r, jvss), *_against_bce(r, jvss, r.seeds("bce")), *_longer(r), *_against_sse(r), *_weights(r), *_prior(r),
            *_triage(r), *_unet(r), *_segments(r), *_control(r), *found]  # fmt: skip


def _table(loss: str, alpha: float | None, quantity: str, network: str = "DeepMedic") -> float:
    """A number of the paper's tables."""
    table = paper.table(2 if network == "3D U-Net" else 1)
    rows = table[(table["network"] == network) & (table["loss"] == loss)]
    rows = rows[rows["alpha"].isna() if alpha is None else rows["alpha"] == alpha]
    return float(rows[quantity].iloc[0])


def _printed(quantity: str, network: str, loss: str, alpha: float | None = None) -> float:
    """A number of the paper's text."""
    rows = paper.rows()
    rows = rows[(rows["quantity"] == quantity) & (rows["network"] == network) & (rows["loss"] == loss)]
    if alpha is not None:
        rows = rows[rows["alpha"] == alpha]
    return float(rows["printed"].iloc[0])


def _printed_ratio(alpha: float) -> float:
    """False positives with the prior path over those without, of the paper's Table 1."""
    return _table("JVSS", alpha, "fp", "DeepMedic+") / _table("JVSS", alpha, "fp")


def _groups(
    r: Results, *runs: Sequence[str], prior: bool | None = None, second: Sequence[str | None] = ()
) -> list[np.ndarray]:
    """Counts of the groups of runs to be compared, each with its own second image; none if one of them was not run."""
    asked = list(zip(runs, second or [None] * len(runs), strict=True))
    if not all(n and r.has(*n, second=s) for n, s in asked):
        return []
    return [r.group(n, prior=prior, second=s) for n, s in asked]


Names = Sequence[str]  #: of the seeds of a run


def _alpha(r: Results, jvss: Mapping[float, Names], words: str = "", network: str = "DeepMedic") -> Iterator[Claim]:
    """jvss: runs by alpha; words: what to say of them beside their alphas; network: whose numbers of the paper."""
    groups = _groups(r, jvss[0.995], jvss[0.5])
    for quantity, side, word in (("sensitivity", UP, "rises"), ("precision", DOWN, "falls")):
        statistic = getattr(results, quantity)
        chance = r.chance(statistic)
        yield Claim(
            f"{quantity} {word} with alpha (JVSS, 0.995 against 0.5{words})",
            _table("JVSS", 0.995, quantity, network) - _table("JVSS", 0.5, quantity, network),
            compare(statistic, *groups, chance=chance) if groups else None, side, groups,
            f"difference of {quantity} at threshold 0.5",
        )  # fmt: skip


def matched(a: np.ndarray, b: np.ndarray, chance: Chance | None = None) -> Estimate:
    """False positives of ``a`` / those of ``b``, at the sensitivity that ``b`` has at threshold 0.5.

    chance: that of false positives at one sensitivity (:func:`chance_at_equal`).
    """
    (pa, da), (pb, db) = pooled(a), pooled(b)
    point = float(results.fp_at(results.sensitivity(pb))(pa)), float(results.fp_per_volume(pb))
    fp = results.fp_at(results.sensitivity(db))
    above, below = fp(da), results.fp_per_volume(db)
    if chance:
        above, below = chance(above, len(a), "a"), chance(below, len(b), "b")
    e = results.quotient(point, above, below, (fp.least(da), np.zeros(len(db))))  # type: ignore[attr-defined]
    return dataclasses.replace(e, trainings=chance is not None)


def at_equal(a: np.ndarray | results.Pooled, b: np.ndarray | results.Pooled, chance: Chance | None = None) -> Estimate:
    """False positives of ``a`` / those of ``b``, each where its falling threshold reaches sensitivity :data:`EQUAL`.

    Not at a sensitivity that one of them has at 0.5: a short training with a large alpha finds everything there, among some
    hundred false positives. chance: :func:`chance_at_equal`, where the two were trained apart.
    """
    return compare(results.fp_at(EQUAL), a, b, ratio=True, chance=chance)


def chance_at_equal(r: Results, prior: bool | None = None) -> Chance | None:
    """What a seed does to the false positives at sensitivity :data:`EQUAL`."""
    return r.chance(results.fp_at(EQUAL), prior)


def _went_on(r: Results, names: Names, other: Names) -> str:
    """That the one group was trained on from the other, which had no more: their difference is the longer training's, too."""
    own = r.runs[r.runs["run"].isin(names)]
    more = own.loc[own["start"].isin(other), "segments"]
    return f"; JVSS went on from this very BCE for {more.max():,} segments, BCE did not" if len(more) else ""


def _other_precision(r: Results, names: Names, other: Names) -> str:
    """That the two groups were trained in other number formats, where they were: their difference may be that, too."""
    jvss, bce = (sorted(set(r.runs.loc[r.runs["run"].isin(n), "precision"])) for n in (names, other))
    return f"; JVSS was trained in {' and '.join(jvss)}, BCE in {' and '.join(bce)}" if jvss and bce and jvss != bce else ""


def _borrowed(r: Results, *groups: Names) -> str:
    """That no training as long as these was repeated, where that is so and the interval holds what a seed does."""
    known = r.runs.loc[r.runs["run"].isin([n for names in r.recipes().values() for n in names]), "segments"]
    these = r.runs.loc[r.runs["run"].isin([n for names in groups for n in names]), "segments"]
    if not len(known) or these.isin(known).all():
        return ""
    lengths = " and ".join(f"{n:,}" for n in sorted(set(known)))
    return f"; no training of this length was repeated: what a seed does is that of {lengths} segments"


def _against_bce(r: Results, jvss: Mapping[float, Names], bce: Names, words: str = "") -> Iterator[Claim]:
    chance = chance_at_equal(r)
    for alpha, names in jvss.items():
        printed = _table("JVSS", 0.9, "fp") / _table("BCE", None, "fp") if alpha == 0.9 else math.nan
        groups = _groups(r, names, bce)
        yield Claim(
            f"JVSS (alpha {alpha:g}{words}) has fewer false positives than BCE at equal sensitivity", printed,
            matched(*groups, chance) if groups else None, FEWER, groups,
            "ratio of false positives at the sensitivity of BCE at 0.5, JVSS's threshold moved"
            + ("; the paper's alpha 0.9 is at 0.860 against 0.853" if alpha == 0.9 else "") + _went_on(r, names, bce)
            + _other_precision(r, names, bce) + _borrowed(r, names, bce),
        )  # fmt: skip
    groups, chance = _groups(r, jvss[0.995], bce), r.chance(results.mdsc)
    yield Claim(
        f"VSS does not harm the segmentation of what is found (mDSC, JVSS 0.995 against BCE{words})",
        _table("JVSS", 0.995, "mdsc") - _table("BCE", None, "mdsc"),
        compare(results.mdsc, *groups, chance=chance) if groups else None, (-MDSC_MARGIN, math.inf), groups,
        f"difference of mDSC at 0.5; a loss below {MDSC_MARGIN} counts as none; the two find different lesions"
        + _went_on(r, jvss[0.995], bce) + _other_precision(r, jvss[0.995], bce) + _borrowed(r, jvss[0.995], bce),
    )  # fmt: skip


def _longer(r: Results) -> Iterator[Claim]:
    """Is what JVSS has before BCE only a better start? Both with 4 to 240 times the segments."""
    for thousand, alphas in ((20, (0.995, 0.5)), (80, (0.995,)), (300, (0.995, 0.5)), (1200, (0.995, 0.5))):
        jvss, bce = {a: r.seeds(f"jvss-{a:g}-{thousand}k") for a in alphas}, r.seeds(f"bce-{thousand}k")
        if thousand == 20 or bce:
            yield from _against_bce(r, jvss, bce, f", {thousand * 1000:,} segments")


def curve_over_alpha(r: Results, stem: str) -> list[str]:
    """Scored runs of one loss over its alphas, seed 0, in falling order of alpha."""
    names = [
        n for n in r.runs["run"].unique() if n.startswith(f"{stem}-") and n.removeprefix(f"{stem}-").count("-") == 1
    ]
    found = []
    for name in names:
        alpha, _, seed = name.removeprefix(f"{stem}-").partition("-")
        if seed == "s0" and r.has(name):
            found.append((-float(alpha), name))
    return [name for _, name in sorted(found)]


def losses_over_alpha(r: Results) -> list[str]:
    """Losses that may have a curve over alpha: the paper's, SSE's two, and somebody's own."""
    own = sorted(set(r.runs["loss"]) - set(training.LOSSES))
    return ["jvss", "sse+bce", "sse", *own]


def areas(r: Results, stems: Sequence[str]) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Mean precision over the recalls that the curves over alpha of all ``stems`` share, and the area from 0 to 1."""
    statistics = (results.sensitivity, results.precision)
    chances = [r.chance(s) for s in statistics]
    groups = {s: {n: r.group([n]) for n in curve_over_alpha(r, s)} for s in stems}
    points = {s: results.at_half(each, statistics, chances) for s, each in groups.items()}
    shared: list[tuple[np.ndarray, np.ndarray]] = []
    for i in (0, 1):
        recalls = [p[i][..., 0] for p in points.values()]
        shared.append((np.max([x.min(-1) for x in recalls], 0), np.min([x.max(-1) for x in recalls], 0)))
    common = {
        s: estimate(float(results.area(p[0], *shared[0])), results.area(p[1], *shared[1])) for s, p in points.items()
    }
    whole = {s: estimate(float(results.area(p[0], 0.0, 1.0)), results.area(p[1], 0.0, 1.0)) for s, p in points.items()}
    return common, whole


def _against_sse(r: Results) -> Iterator[Claim]:
    printed = paper.AREA_JVSS - paper.AREA_SSE
    for stem, words in (("sse+bce", "SSE + BCE (as JVSS holds BCE)"), ("sse", "SSE alone (the paper's curve)")):
        ours, groups = None, []
        if len(curve_over_alpha(r, "jvss")) > 1 and len(curve_over_alpha(r, stem)) > 1:
            common, _ = areas(r, ["jvss", stem])
            ours = estimate(common["jvss"].value - common[stem].value, common["jvss"].draws - common[stem].draws)
            ours = dataclasses.replace(ours, trainings=r.chance(results.precision) is not None)
            groups = [r.group([n]) for n in curve_over_alpha(r, "jvss") + curve_over_alpha(r, stem)]
        yield Claim(
            f"JVSS is better than {words} over alpha", printed if stem == "sse" else math.nan, ours, UP, groups,
            "difference of mean precision at threshold 0.5 over the recalls both curves reach; the paper's is a difference "
            "of areas by a rule it does not state",
        )  # fmt: skip


def _weights(r: Results) -> Iterator[Claim]:
    """Whether a weight ratio lies on the curve over alpha: its sensitivity against that of the curve at as many false positives.

    At equal false positives, not at equal sensitivity: alphas that find (nearly) everything share a sensitivity, never a
    number of false positives.
    """
    line = curve_over_alpha(r, "jvss")
    statistics = (results.fp_per_volume, results.sensitivity)
    chances = [r.chance(s) for s in statistics]
    table = paper.table(1).query("network == 'DeepMedic' and loss == 'JVSS'")
    curve = np.log(table["fp"].to_numpy(float)), table["sensitivity"].to_numpy(float)
    text = paper.rows()
    for name, ratio in (("jvss-0.95-2to1-s0", "2"), ("jvss-0.95-1to2-s0", "0.5"), ("jvss-0.995-0.1to1-s0", None)):
        printed = math.nan
        if ratio:
            rows = text[text["loss"] == f"JVSS, VSS:BCE = {ratio}"].set_index("quantity")["printed"].astype(float)
            printed = float(rows["sensitivity"] - _on_line(*(c[None] for c in curve), np.log([rows["fp"]]))[0])
        ours, groups = None, []
        if len(line) > 1 and r.has(name):
            groups = [r.group([name])]
            point, drawn = results.at_half({n: r.group([n]) for n in (name, *line)}, statistics, chances)
            gaps = []
            for each in (point[None], drawn):  # (k, runs, 2): the point, then the resamples; the run before its rivals
                fp, found = np.log(each[..., 0]), each[..., 1]
                gaps.append(found[:, 0] - _on_line(fp[:, 1:], found[:, 1:], fp[:, 0]))
            ours = dataclasses.replace(estimate(float(gaps[0][0]), gaps[1]), trainings=chances[1] is not None)
        alpha = name.split("-")[1]
        yield Claim(
            f"a weight ratio VSS:BCE of {ratio or '0.1'} (alpha {alpha}) does what another alpha does", printed, ours,
            (-MARGIN, MARGIN), groups,
            "difference of sensitivity from the curve over alpha (weight 1:1) at as many false positives, threshold 0.5; "
            f"straight lines over log FP between its points, its end beyond; within {MARGIN} counts as none; near its ceiling "
            "only a loss can show",
        )  # fmt: skip


def _on_line(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Curves (k, n) of x and y at ``at`` (k,): straight lines, constant beyond the ends."""
    order = np.argsort(x, -1)
    x, y = np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1)
    return np.array([np.interp(*each) for each in zip(at, x, y, strict=True)])


def _prior(r: Results) -> Iterator[Claim]:
    fewer = _printed("fewer fp, volumes with a prior", "DeepMedic+", "JVSS", 0.995)
    ways = {"alpha 0.995": (0.995, "jvss-0.995-fresh"), "alpha 0.5": (0.5, "jvss-0.5-fresh"),
            "alpha 0.5, 20,000 segments": (0.5, "jvss-0.5-fresh-20k"),
            "alpha 0.5, 20,000 segments after 300,000 without": (0.5, "jvss-0.5-300k-fresh")}  # fmt: skip
    for recipe, (alpha, stem) in ways.items():
        path, none = (r.seeds(f"{stem}-{way}") for way in ("path", "none"))
        for prior, words, printed in (
            (None, "all visits", _printed_ratio(alpha)),
            (True, "visits with a prior", 1 - fewer / 100 if alpha == 0.995 else math.nan),
        ):
            groups = _groups(r, path, none, prior=prior)
            why = f"ratio of false positives at sensitivity {EQUAL:g}"
            if groups:
                both = [compare(s, *groups, ratio=ratio, chance=r.chance(s, prior))
                        for s, ratio in ((results.fp_per_volume, True), (results.sensitivity, False))]  # fmt: skip
                why += f"; both at 0.5: ratio {both[0]}, difference of sensitivity {both[1]}" + _borrowed(r, path, none)
            yield Claim(
                f"the prior path removes false positives ({recipe}, {words})", printed,
                at_equal(*groups, chance_at_equal(r, prior)) if groups else None, FEWER, groups, why,
            )  # fmt: skip
    chance = chance_at_equal(r, True)
    others = [("BCE from scratch", "trunk-path-s11", "trunk-none-s11")]
    others += [
        (f"alpha {a:g}, trained on the trunk's own patients", f"jvss-{a:g}-path-s0", f"jvss-{a:g}-s0")
        for a in (0.995, 0.5)
    ]
    for words, path, none in others:
        groups = _groups(r, [path], [none], prior=True)
        yield Claim(
            f"the prior path removes false positives ({words}, visits with a prior)", math.nan,
            at_equal(*groups, chance) if groups else None, FEWER, groups,
            f"ratio of false positives at sensitivity {EQUAL:g}" + (_borrowed(r, [path], [none]) if groups else ""),
        )  # fmt: skip
    for alpha in (0.995, 0.5):
        groups = _groups(r, [f"jvss-{alpha:g}-fresh-path-healthy-s0"], [f"jvss-{alpha:g}-fresh-none-s0"], prior=True)
        yield Claim(
            f"positive control: the prior path removes false positives where every metastasis is new (alpha {alpha:g})",
            math.nan, at_equal(*groups, chance) if groups else None, FEWER, groups,
            f"ratio of false positives at sensitivity {EQUAL:g}, visits with a prior, trained and tested on priors as they were "
            "before any metastasis",
        )  # fmt: skip
    for alpha in (0.995, 0.5):
        stem = f"jvss-{alpha:g}-fresh"
        pairs = (
            (f"{stem}-channel-s0", "the prior works better as a path than as a channel"),
            (f"{stem}-path-current-s0", "the gain is not that of a second path (fed with the current scan)"),
            (f"{stem}-path-other-s0", "the gain is not that of any earlier scan (trained with another patient's)"),
        )
        for rival, words in pairs:
            groups = _groups(r, [f"{stem}-path-s0"], [rival], prior=True)
            yield Claim(
                f"{words} (alpha {alpha:g})", math.nan, at_equal(*groups, chance) if groups else None, FEWER, groups,
                f"ratio of false positives at sensitivity {EQUAL:g}, visits with a prior",
            )  # fmt: skip
    read = {recipe: f"{stem}-path-s0" for recipe, (_, stem) in ways.items()}
    read |= {f"alpha {a:g}, the trunk's own patients": f"jvss-{a:g}-path-s0" for a in (0.995, 0.5)}
    read |= {"BCE, path grown on the trunk's own patients": "grown-path-s0", "BCE from scratch": "trunk-path-s11"}
    for words, name in read.items():
        groups = _groups(r, [name], [name], prior=True, second=("prior", "zeroed"))
        yield Claim(
            f"the network reads its prior ({words})", math.nan, at_equal(*groups) if groups else None, FEWER, groups,
            f"ratio of false positives at sensitivity {EQUAL:g} of one network with the prior and with it zeroed, visits with "
            "a prior",
        )  # fmt: skip


def _triage(r: Results) -> Iterator[Claim]:
    """The ensemble's tiers; and, once they are there, those of the networks that were trained longest."""
    yield from _tiers(r, "ensemble")
    if triage_counts(r, f"ensemble{LONGEST}") is not None:
        yield from _tiers(r, f"ensemble{LONGEST}", LONGEST)


def _tiers(r: Results, system: str, words: str = "") -> Iterator[Claim]:
    small_all = float(paper.rows().query("quantity == 'test lesions below 0.1 cm3'")["printed"].iloc[0]) / 100
    printed = {
        "sure": _table("JVSS", 0.5, "precision", "DeepMedic+"),
        "load": _printed("candidates left per volume", "DeepMedic+", "ensemble"),
        "gained": _printed("further found lesions below 0.1 cm3", "DeepMedic+", "ensemble") / 100,
        "false": _printed("further fp below 0.1 cm3", "DeepMedic+", "ensemble") / 100,
    }
    gained = _printed("further found lesions per volume", "DeepMedic+", "ensemble") / printed["load"]
    t = triage_counts(r, system)
    point, drawn = (None, None) if t is None else pooled(t[None])

    def value(f: object) -> Estimate | None:
        return None if point is None else estimate(float(f(point)), f(drawn))  # type: ignore[operator]

    def share(x: np.ndarray, found: str, false: str) -> np.ndarray:
        return over(_col(x, found), _col(x, found) + _col(x, false))

    budgets = f"thresholds chosen on validation for {CANDIDATES:g} candidates and {CONFIRMED:g} confirmed FP a volume"
    points = pd.DataFrame() if r.points is None else r.points[(r.points["system"] == system) & r.points["budget"].notna()]
    for over_it in points[points["validation_fp"] > points["budget"]].itertuples() if len(points) else ():
        budgets += f", but no level kept to that: {over_it.validation_fp:g} {over_it.tier} at the highest"
    groups = [] if t is None else [t[None]]
    yield Claim(
        f"confirmed lesions are almost surely metastases{words}", printed["sure"],
        value(lambda x: share(x, "confirmed_found", "confirmed_false")), (NEAR_CERTAIN, 1.0), groups,
        f"precision of the confirmed tier; at least {NEAR_CERTAIN} counts as almost sure; {budgets}",
    )  # fmt: skip
    yield Claim(
        f"confirmed lesions are surer than candidates{words}", printed["sure"] - gained,
        value(lambda x: share(x, "confirmed_found", "confirmed_false") - share(x, "candidate_found", "candidate_false")),
        UP, groups, "difference of precision between the two tiers",
    )  # fmt: skip
    yield Claim(
        f"few candidates are left to review{words}", printed["load"],
        value(lambda x: over(_col(x, "candidate_found") + _col(x, "candidate_false"), _col(x, "volumes"))),
        (0.0, 2 * printed["load"]), groups, f"candidates per volume, true or false; up to twice the paper's are few; {budgets}",
    )  # fmt: skip
    yield Claim(
        f"what the candidates add is mostly small{words}", printed["gained"] - small_all,
        value(
            lambda x: over(_col(x, "candidate_found_small"), _col(x, "candidate_found"))
            - over(_col(x, "lesions_small"), _col(x, "lesions"))
        ),
        UP, groups, "share below 0.1 cm3 among the metastases that are candidates, minus that among all metastases",
    )  # fmt: skip
    yield Claim(
        f"false candidates are mostly small{words}", printed["false"],
        value(lambda x: over(_col(x, "candidate_false_small"), _col(x, "candidate_false"))), (0.5, 1.0), groups,
        "share below 0.1 cm3 among the false candidates",
    )  # fmt: skip


#: Columns of :func:`triage_counts`.
TRIAGE = (
    "lesions", "lesions_small", "confirmed_found", "confirmed_found_small", "confirmed_false", "confirmed_false_small",
    "candidate_found", "candidate_found_small", "candidate_false", "candidate_false_small", "volumes",
)  # fmt: skip


def _col(x: np.ndarray, name: str) -> np.ndarray:
    return x[..., TRIAGE.index(name)]


def triage_counts(r: Results, system: str) -> np.ndarray | None:
    """(patients, columns of :data:`TRIAGE`) of a triage system on the test visits, None where it was not run."""
    if r.tiers is None or system not in set(r.tiers["system"]):
        return None
    visits = r.visits[r.visits["split"] == "test"]
    patients = np.unique(visits["patient"])
    place = dict(zip(visits["case"], np.searchsorted(patients, visits["patient"]), strict=True))
    rows = r.tiers[r.tiers["system"] == system]
    of_ = rows["case"].map(place).to_numpy(int)
    small = (rows["volume_mm3"] < results.SMALL_MM3).to_numpy()
    lesion = (rows["kind"] == "lesion").to_numpy()
    which = {"lesions": lesion}
    for tier in ("confirmed", "candidate"):
        own = (rows["tier"] == tier).to_numpy()
        which |= {f"{tier}_found": own & lesion, f"{tier}_false": own & ~lesion}
    which |= {f"{k}_small": v & small for k, v in which.items()}
    out = np.zeros((len(patients), len(TRIAGE)))
    for column, name in enumerate(TRIAGE[:-1]):
        out[:, column] = np.bincount(of_[which[name]], minlength=len(patients))
    out[:, -1] = np.bincount(list(place.values()), minlength=len(patients))
    return out


def _unet(r: Results) -> Iterator[Claim]:
    borrowed = "; no U-Net was trained twice: what a seed does is DeepMedic's"
    for alpha, quantity in ((0.9, "sensitivity"), (0.5, "precision")):
        groups = _groups(r, [f"unet-jvss-{alpha:g}-s0"], ["unet-bce-s0"])
        statistic = getattr(results, quantity)
        chance = r.chance(statistic)
        yield Claim(
            f"alpha moves a 3D U-Net, too: {quantity} of JVSS {alpha:g} above BCE",
            _table("JVSS", alpha, quantity, "3D U-Net") - _table("BCE", None, quantity, "3D U-Net"),
            compare(statistic, *groups, chance=chance) if groups else None, UP, groups,
            f"difference of {quantity} at threshold 0.5{borrowed if chance else ''}",
        )  # fmt: skip
    chance = chance_at_equal(r)
    for alpha in (0.9, 0.5):
        groups = _groups(r, [f"unet-jvss-{alpha:g}-s0"], ["unet-bce-s0"])
        yield Claim(
            f"VSS helps a 3D U-Net: fewer false positives than with BCE at equal sensitivity (alpha {alpha:g})", math.nan,
            matched(*groups, chance) if groups else None, FEWER, groups,
            f"ratio of false positives at the sensitivity of BCE at 0.5, JVSS's threshold moved{borrowed if chance else ''}",
        )  # fmt: skip


def _segments(r: Results) -> Iterator[Claim]:
    chance = chance_at_equal(r)
    change = "segments of 30 voxels, which hold two metastases more rarely, change little"
    for loss, words, why in (
        ("jvss-0.95", "alpha 0.95", "the paper expects no big impact"),
        ("jvss-0.5", "alpha 0.5", "the paper expects no big impact"),
        ("bce", "BCE, a yardstick", "BCE counts no segments: what fewer voxels to learn from do"),
    ):
        groups = _groups(r, [f"{loss}-30-s0"], [f"{loss}-s0"])
        yield Claim(
            f"{change} ({words})", math.nan, at_equal(*groups, chance) if groups else None, (1 / RATIO_MARGIN, RATIO_MARGIN),
            groups, f"ratio of false positives, 30 against 37, at sensitivity {EQUAL:g}; {why}",
        )  # fmt: skip


def _control(r: Results) -> Iterator[Claim]:
    groups = _groups(r, ["permuted-s0"])
    why = f"sensitivity at {CANDIDATES:g} false positives a volume; at most {MARGIN} counts as nothing"
    if groups:
        why += (f"; at 0.5: sensitivity {of(results.sensitivity, groups[0])}, {of(results.fp_per_volume, groups[0])} false "
                "positives a volume; far below it a flat map marks few, large regions, which touch many metastases")  # fmt: skip
    yield Claim(
        "negative control: trained on the metastases of other patients, a network finds nothing", math.nan,
        of(results.sensitivity_at(CANDIDATES), groups[0]) if groups else None, (0.0, MARGIN), groups, why,
    )  # fmt: skip


def _whole(r: Results, stem: str, words: str) -> Iterator[Claim]:
    """What the networks trained and scored on whole brains say: alpha, JVSS against BCE, and the prior path from scratch."""
    bce = {way: [f"{stem}-bce-{way}-s0"] for way in ("none", "path")}
    jvss = {way: {a: [f"{stem}-jvss-{a:g}-{way}-s0"] for a in (0.995, 0.5)} for way in bce}
    yield from _alpha(r, jvss["none"], f", {words}")
    yield from _alpha(r, jvss["path"], f", {words}, prior path", "DeepMedic+")
    yield from _against_bce(r, jvss["none"], bce["none"], f", {words}")
    for loss, path, none, number in (
        ("BCE", bce["path"], bce["none"], math.nan),
        *((f"alpha {a:g}", jvss["path"][a], jvss["none"][a], _printed_ratio(a)) for a in (0.995, 0.5)),
    ):
        for prior, visits in ((None, "all visits"), (True, "visits with a prior")):
            groups = _groups(r, path, none, prior=prior)
            yield Claim(
                f"the prior path removes false positives ({loss}, {words}, {visits})", math.nan if prior else number,
                at_equal(*groups, chance_at_equal(r, prior)) if groups else None, FEWER, groups,
                f"ratio of false positives at sensitivity {EQUAL:g}",
            )  # fmt: skip


def same_recipe(r: Results) -> pd.DataFrame:
    """How often the rule of the verdicts tells two trainings apart that differ by their seed alone: a yardstick, as nothing
    should be told apart but by chance (one pair in twenty).

    A row per quantity: pairs (of one recipe, scored alike on test), and how many have an interval that excludes 0 (1 of a ratio),
    over patients alone, and with the chance of training as in the claims. That chance is from these very pairs.
    """
    pairs = [p for names in r.recipes().values() for p in itertools.combinations(names, 2)]
    quantities: dict[str, tuple[results.Statistic, bool]] = {
        "sensitivity at 0.5": (results.sensitivity, False), "precision at 0.5": (results.precision, False),
        "mDSC at 0.5": (results.mdsc, False), f"false positives at sensitivity {EQUAL:g}": (results.fp_at(EQUAL), True),
    }  # fmt: skip
    lines = {}
    for name, (statistic, ratio) in quantities.items():
        lines[name] = {"pairs": 0}
        for words, chance in (("patients alone", None), ("patients and trainings", r.chance(statistic))):
            found = [compare(statistic, *(r.group([n]) for n in p), ratio=ratio, chance=chance) for p in pairs]
            known = [e for e in found if not np.isnan(e.value)]
            apart = sum(not e.low <= (1 if ratio else 0) <= e.high for e in known)
            lines[name] |= {"pairs": len(known), f"told apart, {words}": apart}
    return pd.DataFrame(lines).T


def seeds_differ(r: Results) -> str:
    """How far seeds of each recipe lie apart, in words: the standard deviation of log false positives at :data:`EQUAL`."""
    found = {s: np.log(results.fp_at(EQUAL)(r.group(names).sum(1))) for s, names in r.recipes().items()}
    each = ", ".join(f"{s} {x.std(ddof=1):.2f}" for s, x in found.items())
    return f"standard deviation between seeds, of log false positives at sensitivity {EQUAL:g}: {each}"


def claims_table(r: Results) -> pd.DataFrame:
    """One line per claim: :data:`COLUMNS`."""
    lines = []
    for c in claims(r):
        e = c.ours or estimate(math.nan, np.array([math.nan]))
        seeds = min((len(g) for g in c.counts), default=0)  # of the side with fewer
        null = " to ".join("" if math.isinf(x) else f"{x:.4g}" for x in c.null)
        lines.append(
            (c.claim, c.paper, e.value, e.low, e.high, "patients and trainings" if e.trainings else "patients", null,
             *_n(c.counts), seeds, verdict(c.ours, c.null), c.why)  # fmt: skip
        )
    return pd.DataFrame(lines, columns=list(COLUMNS)).round(4)


def _n(groups: Sequence[np.ndarray]) -> tuple[int, int]:
    """Patients with a volume, and lesions, in the (equal) visits of the groups."""
    if not groups:
        return 0, 0
    first = groups[0][0]
    if first.ndim == 2:  # triage
        return len(first), int(_col(first, "lesions").sum())
    at = first[:, -1]
    return int((at[:, results.VOLUMES] > 0).sum()), int(at[:, results.FOUND].sum() + at[:, results.MISSED].sum())


# ------------------------------------------------------------------------------------------------------------ the tables
LEVELS_AT = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  #: sensitivities at which false positives are read
BUDGETS = (0.5, 1.0, 2.0, 4.0, 10.0)  #: false positives per volume at which sensitivity is read


def _with(prefix: str, e: Estimate) -> dict[str, float]:
    return {prefix: e.value, f"{prefix}_low": e.low, f"{prefix}_high": e.high}


def _stems(r: Results) -> dict[tuple[str, str, str], list[str]]:
    """(split, run without its seed, second image) → the names of its seeds."""
    stems: dict[tuple[str, str, str], list[str]] = {}
    for row in r.runs.itertuples():
        stem = str(row.run).rpartition("-s")[0]
        stems.setdefault((str(row.split), stem, str(row.second_image)), []).append(str(row.run))
    return stems


def table_of_runs(r: Results) -> pd.DataFrame:
    """Every scored run (seeds pooled) at threshold 0.5 and along its own curve: intervals where patients were resampled.

    fp_at_<sensitivity>: NaN where the rows do not say, at their highest level or below their floor. Controls are scored on visits
    with a prior alone. segments: that were trained on, without those of the run that it started from. missed_small: share below
    0.1 cm3 among the missed lesions; fp_<kind>: false positives per volume at 0.5 by what lies there in the synthetic scan.
    """
    lines = []
    for (split, stem, second), names in sorted(_stems(r).items()):
        for subset, prior in (("all visits", None), ("with prior", True), ("without prior", False)):
            counts = r.group(names, split=split, second=second, prior=prior)
            control = second not in set(r.runs.loc[r.runs["run"] == names[0], "second"])  # visits with a prior alone
            if not counts[..., results.VOLUMES].any() or (control and not prior):
                continue
            at = counts[0, :, -1]
            line = {"run": stem, "split": split, "second_image": second, "visits": subset, "seeds": len(names),
                    "segments": int(r.runs.loc[r.runs["run"] == names[0], "segments"].iloc[0]),
                    "volumes": int(at[:, results.VOLUMES].sum()),
                    "lesions": int((at[:, results.FOUND] + at[:, results.MISSED]).sum())}  # fmt: skip
            both = pooled(counts)
            for name in ("sensitivity", "precision", "fp_per_volume", "mdsc"):
                line |= _with(name, of(getattr(results, name), both))
            small = r.group(names, split=split, second=second, prior=prior, most_mm3=results.SMALL_MM3).sum(1).mean(0)
            line["sensitivity_small"] = float(results.sensitivity(small))
            missed = float(both[0][HALF, results.MISSED])
            line["missed_small"] = float(small[HALF, results.MISSED]) / missed if missed else math.nan
            highest = results.sensitivity(both[0], -1)  # below what it finds there the rows do not say
            line |= {f"fp_at_{s:g}": float(results.fp_at(s)(both[0])) if s >= highest else math.nan for s in LEVELS_AT}
            line |= {f"sensitivity_at_{b:g}": float(results.sensitivity_at(b)(both[0])) for b in BUDGETS}
            line |= {
                f"fp_{kind}": n for kind, n in r.false_by_kind(names, split=split, second=second, prior=prior).items()
            }
            lines.append(line)
    return pd.DataFrame(lines).round(4)


def table_of_curves(r: Results) -> pd.DataFrame:
    """Every scored run (seeds pooled, all scored visits) along its falling threshold, down to its floor, and at 0.5.

    The threshold of one map moved: its curve stands beside the curve over alpha, where each model stays at 0.5.
    """
    tables = []
    for (split, stem, second), names in sorted(_stems(r).items()):
        total = r.group(names, split=split, second=second).sum(1).mean(0)  # (levels, 5)
        table = pd.DataFrame(
            {"run": stem, "split": split, "second_image": second, "threshold": LEVELS.astype(float),
             **dict(zip(("sensitivity", "precision", "fp_per_volume"), results.along(total), strict=True))}
        )  # fmt: skip
        shown = (total[:, results.FOUND] + total[:, results.FALSE]) > 0  # False where NaN: below the floor
        tables.append(table[shown].iloc[::-1])
    joined = pd.concat(tables, ignore_index=True)
    return joined.round(dict.fromkeys(joined.columns[4:], 4)).round({"threshold": 6})  # 0.9999 would be three levels


def table_of_areas(r: Results) -> pd.DataFrame:
    """Figure 6: mean precision over the recalls shared by all losses that were run, and the area from recall 0 to 1."""
    stems = [s for s in losses_over_alpha(r) if len(curve_over_alpha(r, s)) > 1]
    if not stems:
        return pd.DataFrame(columns=["loss", "alphas"])
    common, whole = areas(r, stems)
    return pd.DataFrame(
        [{"loss": s, "alphas": len(curve_over_alpha(r, s)), **_with("mean_precision", common[s]), **_with("area", whole[s])}
         for s in stems]
    ).round(4)  # fmt: skip


def table_of_triage(r: Results) -> pd.DataFrame:
    """Every triage system: tiers per volume, precision of each, small shares, with intervals."""
    lines = []
    for system in [] if r.tiers is None else list(dict.fromkeys(r.tiers["system"])):
        t = triage_counts(r, system)
        point, drawn = pooled(t[None])  # type: ignore[index]

        def ratio(a: Sequence[str], b: Sequence[str], point: np.ndarray = point, drawn: np.ndarray = drawn) -> Estimate:
            p, d = (over(sum(_col(x, n) for n in a), sum(_col(x, n) for n in b)) for x in (point, drawn))  # type: ignore[arg-type]
            return estimate(float(p), d)

        confirmed, candidate = (("confirmed_found", "confirmed_false"), ("candidate_found", "candidate_false"))
        lines.append({
            "system": system, "volumes": int(_col(point, "volumes")), "lesions": int(_col(point, "lesions")),
            **_with("sensitivity", ratio(("confirmed_found", "candidate_found"), ("lesions",))),
            **_with("sensitivity_confirmed", ratio(("confirmed_found",), ("lesions",))),
            **_with("precision_confirmed", ratio(("confirmed_found",), confirmed)),
            **_with("precision_candidates", ratio(("candidate_found",), candidate)),
            **_with("candidates_per_volume", ratio(candidate, ("volumes",))),
            **_with("further_found_per_volume", ratio(("candidate_found",), ("volumes",))),
            **_with("further_false_per_volume", ratio(("candidate_false",), ("volumes",))),
            **_with("confirmed_false_per_volume", ratio(("confirmed_false",), ("volumes",))),
            **_with("small_share_further_found", ratio(("candidate_found_small",), ("candidate_found",))),
            **_with("small_share_further_false", ratio(("candidate_false_small",), ("candidate_false",))),
        })  # fmt: skip
    return pd.DataFrame(lines, columns=None if lines else ["system"]).round(4)


def make(rows: str | Path, out: str | Path, profile: str, beside: str | Path | None = None) -> pd.DataFrame:
    """Write ``claims``, ``runs``, ``curves``, ``areas`` and ``triage`` ``.<profile>.csv`` into ``out``, from the rows alone."""
    r = Results(rows, beside)
    out = Path(out)
    tables = {
        "claims": claims_table(r),
        "runs": table_of_runs(r),
        "curves": table_of_curves(r),
        "areas": table_of_areas(r),
        "triage": table_of_triage(r),
    }
    for name, table in tables.items():
        with replacing(out / f"{name}.{profile}.csv") as part:
            table.to_csv(part, index=False, lineterminator="\n")
    return tables["claims"]


def main() -> None:
    """``python -m dmplus.claims``: every collected profile under ``notebooks/results/experiments``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("notebooks/results"), help="default: notebooks/results"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="ROWS",
        help="a folder of collected rows to compare yours with, such as the shipped",
    )
    arguments = parser.parse_args()
    folder = arguments.folder
    profiles = sorted(p.name for p in (folder / "experiments").glob("*") if (p / "rows.csv.gz").is_file())
    if not profiles:
        raise InputError(f"results: expected collected rows under {folder}/experiments; there are none")
    for profile in profiles:
        table = make(folder / "experiments" / profile, folder, profile, arguments.beside)
        print(f"{profile}: " + ", ".join(f"{v} {n}" for v, n in table["verdict"].value_counts().items()))
        print(table[["verdict", "claim", "ours", "low", "high", "paper"]].to_string(index=False))


if __name__ == "__main__":
    main()
