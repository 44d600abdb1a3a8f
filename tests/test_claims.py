"""From rows to numbers, intervals and verdicts."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmplus import claims, experiment, results, scoring
from dmplus.results import FALSE, FOUND, MISSED, VOLUMES, Results, compare, estimate
from dmplus.runtime import InputError, rng

TOP = len(scoring.LEVELS) - 1
PATIENTS = [f"p{i}" for i in range(12)]


def rows_of(draw, *, found, false, small=0.5):
    """Rows of 24 visits of 12 patients: four lesions each, peaks and false positives drawn."""
    lines = []
    for visit in range(24):
        case = f"c{visit:02d}"
        for lesion in range(4):
            top = int(np.clip(draw.normal(found, 8), -1, TOP))
            size = 50.0 if draw.random() < small else 500.0
            dice = 0.8 if top >= scoring.HALF else np.nan
            lines.append((case, "lesion", lesion + 1, size, top, 0, dice, 0, 0, 0, 0))
        for _ in range(draw.poisson(false)):
            top = int(draw.integers(5, 40))
            bottom = int(draw.integers(5, top + 1))
            lines.append(
                (case, "fp", 0, 20.0 if bottom <= scoring.HALF <= top else np.nan, top, bottom, np.nan, 1, 0, 0, 0)
            )
    return pd.DataFrame(lines, columns=["case", *scoring.COLUMNS])


def collected(folder, made):
    """Write a folder of collected tables; made: run name → (second image, rows)."""
    folder.mkdir()
    visits = pd.DataFrame(
        [(f"c{v:02d}", PATIENTS[v // 2], "test", v % 2, 70 * (v % 2), v % 2 == 1) for v in range(24)],
        columns=["case", "patient", "split", "visit", "days", "with_prior"],
    )
    visits.to_csv(folder / "visits.csv", index=False)
    runs = [(name, "test", second, "prior", 5, 5000, "jvss", "trunk", "bfloat16") for name, (second, _) in made.items()]
    columns = ["run", "split", "second_image", "second", "floor", "segments", "loss", "start", "precision"]
    pd.DataFrame(runs, columns=columns).to_csv(folder / "runs.csv", index=False)
    rows = pd.concat([t.assign(run=n, split="test", second_image=s) for n, (s, t) in made.items()])
    rows[["run", "split", "second_image", "case", *scoring.COLUMNS]].to_csv(folder / "rows.csv.gz", index=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good seeds of JVSS 0.995, three of BCE with more false positives, other alphas."""
    draw = rng(0, "claims")
    made = {f"bce-s{s}": ("prior", rows_of(draw, found=18, false=12)) for s in range(3)}
    made |= {f"jvss-0.995-s{s}": ("prior", rows_of(draw, found=28, false=6)) for s in range(3)}
    for alpha, found in ((1, 30), (0.99, 26), (0.95, 22), (0.9, 20)):
        made[f"jvss-{alpha:g}-s0"] = ("prior", rows_of(draw, found=found, false=4))
    made |= {f"jvss-0.5-s{s}": ("prior", rows_of(draw, found=14, false=1)) for s in range(3)}
    for alpha, found in ((0.995, 22), (0.5, 10)):
        made[f"sse-{alpha:g}-s0"] = ("prior", rows_of(draw, found=found, false=20))
    return collected(tmp_path_factory.mktemp("claims") / "rows", made)


def test_counts_are_those_of_the_rows_at_every_level(folder):
    r = Results(folder)
    counts = r.counts("bce-s0")
    rows = pd.read_csv(folder / "rows.csv.gz").query("run == 'bce-s0'")
    own = rows[rows["case"].isin(["c02", "c03"])]  # patient p1
    place = sorted(PATIENTS).index("p1")
    for level in range(5, len(scoring.LEVELS)):
        found, missed, false = scoring.counts(own, level)
        assert counts[place, level, [FOUND, MISSED, FALSE, VOLUMES]].tolist() == [found, missed, false, 2]
    assert np.isnan(counts[:, :5, FALSE]).all() and not np.isnan(counts[:, :5, FOUND]).any()
    with_prior = r.counts("bce-s0", prior=True)
    assert with_prior[place, 20, [FOUND, MISSED, FALSE]].tolist() == list(
        scoring.counts(rows[rows["case"] == "c03"], 20)
    )
    small = r.counts("bce-s0", most_mm3=100.0)
    assert (
        small[..., 20, FOUND].sum() + small[..., 20, MISSED].sum()
        == ((rows.kind == "lesion") & (rows.volume_mm3 < 100)).sum()
    )


def test_below_the_floor_only_half_is_known(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pd.read_csv(folder / "runs.csv").assign(floor=30).to_csv(tmp_path / "runs.csv", index=False)
    false = Results(tmp_path).counts("bce-s0")[..., FALSE]
    known = Results(folder).counts("bce-s0")[..., FALSE]
    assert np.isnan(false[:, [15, 17, 29]]).all()
    assert np.array_equal(false[:, [scoring.HALF, 30, 40]], known[:, [scoring.HALF, 30, 40]])


def test_a_paired_comparison_of_a_model_with_itself_has_no_width(folder):
    group = Results(folder).group(["bce-s0"])
    same = results.compare(results.sensitivity, group, group)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert (claims.matched(group, group).low, claims.matched(group, group).high) == (1, 1)


def test_intervals_hold_patients_and_seeds(folder):
    """By hand: resampling patients alone is narrower than patients and seeds when seeds differ and patients do not."""
    counts = np.zeros((2, 6, len(scoring.LEVELS), 5))
    counts[0, :, :, FOUND], counts[1, :, :, FOUND] = 4, 2
    counts[0, :, :, MISSED], counts[1, :, :, MISSED] = 0, 2
    both = results.of(results.sensitivity, counts)
    assert (both.value, both.low, both.high) == (0.75, 0.5, 1.0)
    one = results.of(results.sensitivity, counts[:1])
    assert (one.low, one.high) == (1.0, 1.0)


def test_false_positives_at_a_sensitivity_lie_on_straight_lines():
    counts = np.zeros((len(scoring.LEVELS), 5))
    counts[:, VOLUMES], counts[:, MISSED] = 2, 10
    counts[:30, FOUND], counts[:30, MISSED], counts[:30, FALSE] = 6, 4, 4  # sensitivity 0.6 at 2 FP per volume
    counts[:20, FOUND], counts[:20, MISSED], counts[:20, FALSE] = 8, 2, 20  # 0.8 at 10
    counts[:3, FALSE] = np.nan
    assert results.fp_at(0.6)(counts) == 2
    assert results.fp_at(0.7)(counts) == pytest.approx(6)
    assert results.fp_at(0.3)(counts) == pytest.approx(1)  # between nothing predicted and the first threshold
    assert np.isnan(results.fp_at(0.9)(counts))
    assert results.sensitivity_at(2.0)(counts) == 0.6 and results.sensitivity_at(1.9)(counts) == 0


def test_the_rule_is_tried_on_trainings_that_differ_by_their_seed_alone(folder):
    table = claims.same_recipe(Results(folder))
    assert table["pairs"].tolist() == [3 * 3] * 4  # three recipes with three seeds each
    assert [*table.index] == ["sensitivity at 0.5", "precision at 0.5", "mDSC at 0.5", "false positives at sensitivity 0.85"]
    columns = ["told apart, patients alone", "told apart, patients and trainings"]
    assert (table[columns].le(table["pairs"], axis=0)).all(axis=None)
    r = Results(folder)
    everything = r.counts("bce-s1").copy()
    everything[..., FALSE] *= 5
    counts = r.counts
    r.counts = lambda name, **where: everything if name == "bce-s1" else counts(name, **where)
    r.group = lambda names, **where: np.stack([r.counts(n, **where) for n in names])
    apart = claims.same_recipe(r).loc["precision at 0.5", columns]  # a seed unlike the others
    assert apart.iloc[0] >= 2 and apart.iloc[1] == 0


def test_a_recipe_with_several_seeds_says_what_a_seed_does(folder):
    """Pooled by hand, on log-odds and on logs; at an end there is no scale, and without two trainings no chance."""
    r = Results(folder)
    assert sorted(r.recipes()) == ["bce", "jvss-0.5", "jvss-0.995"]
    for statistic, scale in ((results.precision, lambda p: np.log(p / (1 - p))), (results.fp_per_volume, np.log)):
        each = [[float(scale(statistic(r.counts(f"{s}-s{k}").sum(0)))) for k in range(3)] for s in r.recipes()]
        chance = r.chance(statistic)
        assert chance == results.Chance(pytest.approx(np.sqrt(np.var(each, axis=1, ddof=1).mean())), 6, scale is np.log)
    with_prior = r.chance(results.precision, True)
    assert with_prior != r.chance(results.precision) and with_prior.df == 6
    assert r.chance(results.fp_at(0.85)).count
    assert r.chance(lambda counts: np.ones(counts.shape[:-2])) is None  # a share of 1
    assert r.chance(lambda counts: np.full(counts.shape[:-2], np.nan)) is None
    r.runs = r.runs[r.runs["run"].str.endswith("-s0")]
    r.rows = {k: v for k, v in r.rows.items() if k[0].endswith("-s0")}
    r._of_recipes = {}
    assert r.chance(results.precision) is None


def test_the_chance_of_training_widens_what_patients_leave_open():
    """Patients alike: all that is left is the chance, Student's t on its scale, smaller by the number of seeds."""
    chance, drawn = results.Chance(0.2, 10), np.full(results.RESAMPLES, 0.75)
    moved = chance(drawn, 1, "a")
    odds = np.log(moved / (1 - moved)) - np.log(3)
    assert np.percentile(odds, [2.5, 97.5]) == pytest.approx([-0.2 * 2.228, 0.2 * 2.228], rel=0.1)  # t of 10
    thirds = chance(drawn, 3, "a")
    assert np.log(thirds / (1 - thirds)) - np.log(3) == pytest.approx(odds / 3)
    assert np.array_equal(moved, chance(drawn, 1, "a")) and abs(np.corrcoef(moved, chance(drawn, 1, "b"))[0, 1]) < 0.1
    ends = np.array([0.0, 1.0, np.nan])
    assert np.array_equal(chance(ends, 1, "a"), ends, equal_nan=True)
    count = results.Chance(0.2, 10, True)
    assert np.log(count(np.full(results.RESAMPLES, 6.0), 1, "a") / 6) == pytest.approx(odds)

    a, b = np.zeros((2, 1, 5, len(scoring.LEVELS), 5))
    a[..., VOLUMES] = b[..., VOLUMES] = 1
    a[..., FOUND], a[..., FALSE], b[..., FOUND], b[..., FALSE] = 9, 4, 9, 5
    sure = results.compare(results.fp_per_volume, a, b, ratio=True)
    assert (sure.low, sure.high) == pytest.approx((0.8, 0.8))
    e = results.compare(results.fp_per_volume, a, b, ratio=True, chance=count)
    wide = 0.2 * np.sqrt(2) * 2.1  # two trainings; their difference has a little less of a tail
    assert e.value == pytest.approx(0.8) and np.log([e.low / 0.8, e.high / 0.8]) == pytest.approx([-wide, wide], rel=0.1)
    assert claims.verdict(sure, claims.FEWER) == "holds" and claims.verdict(e, claims.FEWER) == "not shown"
    assert claims.at_equal(a, b, count).high > 1 and claims.matched(a, b, count).high > 1
    points, draws = results.at_half({"x": a, "y": a}, (results.precision,), (chance,))
    assert points.tolist() == [[9 / 13], [9 / 13]] and draws.shape == (results.RESAMPLES, 2, 1)
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]) < 0.1  # two points of a curve are two trainings
    for count in (False, True):  # one degree of freedom: steps that no float holds
        far = results.Chance(0.5, 1, count)(np.full(2000, 0.3), 1, "a")
        assert np.isfinite(far).all() and far.min() >= 0 and (count or far.max() <= 1)


def test_what_two_trainings_are_compared_by_holds_the_chance_of_either(folder):
    r = Results(folder)
    table = claims.claims_table(r).query("verdict != 'not run'").set_index("claim")
    assert set(table["interval"]) == {"patients and trainings"}  # all of these rows compare two
    groups = [r.group(r.seeds(s)) for s in ("jvss-0.995", "bce")]
    line = table.loc["JVSS (alpha 0.995) has fewer false positives than BCE at equal sensitivity"]
    e = claims.matched(*groups, claims.chance_at_equal(r))
    alone = claims.matched(*groups)
    assert [line.low, line.high] == [round(e.low, 4), round(e.high, 4)]
    assert np.log(e.high / e.low) > np.log(alone.high / alone.low)


def test_one_network_has_no_chance_of_training():
    """The shipped claims: of a network's own tiers, or of its prior and none, the interval is over patients."""
    folder = Path(__file__).parents[1] / "notebooks" / "results"
    table = pd.read_csv(folder / "claims.quick.csv")
    alone = table["claim"].str.contains("reads its prior|confirmed|candidates|negative control")
    assert (table.loc[alone, "interval"] == "patients").all() and alone.sum() > 10
    assert (table.loc[~alone, "interval"] == "patients and trainings").all()
    assert set(pd.read_csv(folder / "claims.gpu.csv")["interval"]) == {"patients"}  # nothing was trained twice


def test_a_threshold_that_does_not_keep_to_its_budget_is_named():
    """The shipped claims beside the operating points: of the two ensembles one has more than its budget on validation."""
    folder = Path(__file__).parents[1] / "notebooks" / "results"
    points = pd.read_csv(folder / "experiments" / "quick" / "operating_points.csv").dropna(subset="budget")
    above = points[(points["validation_fp"] > points["budget"]) & (points["system"] == "ensemble, 300,000 segments")]
    assert len(above) == 1 and above["tier"].iloc[0] == "confirmed"
    table = pd.read_csv(folder / "claims.quick.csv")
    why = table.set_index("claim")["why"]
    assert why["few candidates are left to review, 300,000 segments"].endswith(
        f"no level kept to that: {above['validation_fp'].iloc[0]:g} confirmed at the highest"
    )
    assert "no level" not in why["few candidates are left to review"]


def test_resamples_that_do_not_get_there_count_at_both_ends():
    """Left out, the ratio would be that of the lucky resamples alone. Twenty patients; a finds 0.85 only where its weak ones are
    drawn seldom, and has at least 3 false positives a volume where it does not."""
    a, b = np.zeros((2, 1, 20, len(scoring.LEVELS), 5))
    a[..., VOLUMES] = b[..., VOLUMES] = 1
    a[..., FOUND], a[..., MISSED], a[..., FALSE] = 10, 0, 3
    a[0, :3, :, FOUND], a[0, :3, :, MISSED] = 1, 9  # 0.865 of all: the point gets there, a third of the resamples does not
    b[..., FOUND], b[..., FALSE] = 10, 6
    (_, drawn), statistic = results.pooled(a), results.fp_at(0.85)
    missing = np.isnan(statistic(drawn)).mean()
    assert 0.25 < missing < 0.55 and (statistic.least(drawn) == 3).all()
    e = claims.at_equal(a, b)
    assert 0.5 <= e.low < e.value < 0.6 and e.high == np.inf
    assert np.nanmax(e.draws) < 0.6 and claims.verdict(e, claims.FEWER) == "not shown"  # below 0.6 in all that get there
    other = claims.at_equal(b, a)
    assert other.low == 0 and other.high < np.inf and claims.verdict(other, claims.FEWER) == "not shown"
    a[0, :4, :, FOUND], a[0, :4, :, MISSED] = 1, 9  # 0.82: no number, and no interval of the lucky
    none = claims.at_equal(a, b)
    assert np.isnan([none.value, none.low, none.high]).all() and claims.verdict(none, claims.FEWER) == "not shown"


def test_what_lies_below_the_floor_is_no_lower_bound():
    """At 0.5 false positives are always known; above a floor beyond it they may be fewer, and that is what is known at least."""
    counts = np.zeros((len(scoring.LEVELS), 5))
    counts[:, VOLUMES], counts[:, FALSE], counts[:, MISSED] = 1, 40, 10
    counts[scoring.HALF, FALSE] = 160
    statistic = results.fp_at(0.85)
    assert statistic.least(counts) == 40
    counts[:30, FALSE] = np.where(np.arange(30) == scoring.HALF, 160, np.nan)
    assert statistic.least(counts) == 40 and np.isnan(statistic(counts))
    counts[:, FALSE] = np.nan
    assert statistic.least(counts) == 0


def test_a_resample_without_false_positives_below_makes_the_ratio_endless():
    """12 patients, b has its false positives in three of them: where none of the three is drawn the ratio is infinite."""
    a, b = np.zeros((2, 1, 12, len(scoring.LEVELS), 5))
    a[..., VOLUMES] = b[..., VOLUMES] = 1
    a[..., FALSE] = 1
    b[:, :3, :, FALSE] = 2
    e = compare(results.fp_per_volume, a, b, ratio=True)
    assert e.value == 2 and 0 < e.low < 1.2 and e.high == np.inf and np.isinf(e.draws).mean() > 0.025
    a[:, 3:, :, FALSE] = 0
    both = compare(results.fp_per_volume, a, b, ratio=True)  # 0 / 0 is not known: it may be anything
    assert both.value == 0.5 and both.low == 0 and both.high == np.inf


def test_a_training_of_another_length_borrows_what_a_seed_does(folder, tmp_path):
    table = claims.claims_table(Results(folder)).set_index("claim")["why"]
    assert not table.str.contains("was repeated").any()
    shutil.copytree(folder, tmp_path / "rows")

    def longer(seed):
        """Adds trainings of 20,000 segments with that seed."""
        more = {f"{stem}-s{seed}": f"{stem}-20k-s{seed}" for stem in ("bce", "jvss-0.995")}
        for name in ("runs.csv", "rows.csv.gz"):
            of = pd.read_csv(tmp_path / "rows" / name)
            extra = of[of["run"].isin(more)].assign(run=lambda t: t["run"].map(more))
            extra = extra.assign(segments=20000) if name == "runs.csv" else extra
            pd.concat([of, extra]).to_csv(tmp_path / "rows" / name, index=False)

    longer(seed=0)
    table = claims.claims_table(Results(tmp_path / "rows")).set_index("claim")["why"]
    words = "; no training of this length was repeated: what a seed does is that of 5,000 segments"
    told = table[table.str.endswith(words)].index
    assert "JVSS (alpha 0.995, 20,000 segments) has fewer false positives than BCE at equal sensitivity" in told
    assert told.str.contains("20,000 segments").all()
    longer(seed=1)
    r = Results(tmp_path / "rows")
    line = claims.claims_table(r).set_index("claim").loc[
        "JVSS (alpha 0.995, 20,000 segments) has fewer false positives than BCE at equal sensitivity"
    ]
    assert line["seeds"] == 2 and "was repeated" not in line["why"] and {"bce-20k", "jvss-0.995-20k"} < set(r.recipes())
    groups = [r.group([f"{stem}-20k-s{k}" for k in range(2)]) for stem in ("jvss-0.995", "bce")]
    assert line["ours"] == pytest.approx(claims.matched(*groups).value, abs=1e-4)
    words = claims.seeds_differ(Results(folder))
    assert words.startswith("standard deviation between seeds, of log false positives at sensitivity 0.85: bce ")


def test_the_table_of_runs_says_nothing_that_the_rows_do_not(folder, tmp_path):
    """Below the sensitivity at the highest level, and of a control in visits that it was not scored on."""
    shutil.copytree(folder, tmp_path / "rows")
    runs, rows = (pd.read_csv(folder / n) for n in ("runs.csv", "rows.csv.gz"))
    sure = rows[(rows["run"] == "bce-s0")].assign(run="sure-s0")
    sure.loc[(sure["kind"] == "lesion") & (sure["id"] < 4), "top"] = TOP  # three of four
    away = rows[(rows["run"] == "bce-s0") & (rows["case"].str[1:].astype(int) % 2 == 1)].assign(second_image="zeroed")
    lines = [runs[runs["run"] == "bce-s0"].assign(run="sure-s0"), runs[runs["run"] == "bce-s0"].assign(second_image="zeroed")]
    pd.concat([runs, *lines]).to_csv(tmp_path / "rows" / "runs.csv", index=False)
    pd.concat([rows, sure, away]).to_csv(tmp_path / "rows" / "rows.csv.gz", index=False)
    table = claims.table_of_runs(Results(tmp_path / "rows"))
    line = table[(table["run"] == "sure") & (table["visits"] == "all visits")].iloc[0]
    assert np.isnan(line["fp_at_0.5"]) and line["fp_at_0.8"] > 0
    control = table[table["second_image"] == "zeroed"]
    assert control["visits"].tolist() == ["with prior"]


def test_two_models_are_compared_at_the_sensitivity_of_the_second():
    """By hand, with patients alike: a has 6 FP a volume at the sensitivity 0.7 that b has at 0.5 with 4."""
    a, b = np.zeros((2, 1, 5, len(scoring.LEVELS), 5))
    a[..., VOLUMES] = b[..., VOLUMES] = 2
    a[..., MISSED], b[..., MISSED] = 10, 10
    a[..., :30, FOUND], a[..., :30, MISSED], a[..., :30, FALSE] = 6, 4, 4
    a[..., :20, FOUND], a[..., :20, MISSED], a[..., :20, FALSE] = 8, 2, 20
    b[..., :17, FOUND], b[..., :17, MISSED], b[..., :17, FALSE] = 7, 3, 8
    ours = claims.matched(a, b)
    assert [ours.value, ours.low, ours.high] == pytest.approx([1.5] * 3)


def test_priors_are_compared_at_one_sensitivity_for_both():
    """By hand, with patients alike: at 0.85 a has 3 FP a volume and b has 6."""
    a, b = np.zeros((2, 1, 5, len(scoring.LEVELS), 5))
    a[..., VOLUMES] = b[..., VOLUMES] = 1
    for each, false in ((a, 3), (b, 6)):
        each[..., :20, FOUND], each[..., :20, MISSED], each[..., :20, FALSE] = 17, 3, false
        each[..., 20:, MISSED] = 20
    ours = claims.at_equal(a, b)
    assert [ours.value, ours.low, ours.high] == pytest.approx([0.5] * 3)
    a[..., :20, FOUND], a[..., :20, MISSED] = 16, 4  # never 0.85
    assert np.isnan(claims.at_equal(a, b).value)


def test_the_area_is_that_of_the_stated_rule():
    points = np.array([[0.8, 0.5], [0.4, 1.0], [0.6, 0.4]])
    assert results.area(points, 0.0, 1.0) == pytest.approx(0.4 * 1 + 0.4 * 0.5)
    assert results.area(points, 0.2, 0.6) == pytest.approx((0.2 * 1 + 0.2 * 0.5) / 0.4)
    assert np.isnan(results.area(points, 0.6, 0.6))


@pytest.mark.parametrize(
    ("value", "draws", "null", "expected"),
    [
        (0.1, np.linspace(0.05, 0.15, 101), claims.UP, "holds"),
        (0.1, np.linspace(0.05, 0.15, 101), claims.DOWN, "opposite"),
        (0.1, np.linspace(-0.02, 0.2, 101), claims.UP, "weak"),
        (0.1, np.linspace(-0.1, 0.2, 101), claims.UP, "not shown"),
        (-0.01, np.linspace(-0.1, 0.2, 101), claims.UP, "not shown"),
        (0.0, np.zeros(101), claims.UP, "not shown"),
        (0.1, np.linspace(0.0, 0.2, 101), claims.UP, "holds"),
        (0.1, np.repeat([0.0, 0.2], [10, 91]), claims.UP, "weak"),
        (1.0, np.ones(101), claims.FEWER, "not shown"),
        (0.0, np.zeros(101), (0.0, 0.05), "holds"),
        (0.7, np.linspace(0.6, 0.9, 101), claims.FEWER, "holds"),
        (1.4, np.linspace(1.1, 1.9, 101), claims.FEWER, "opposite"),
        (0.0, np.linspace(-0.01, 0.01, 101), (-0.02, 0.02), "holds"),
        (0.0, np.linspace(-0.1, 0.1, 101), (-0.02, 0.02), "not shown"),
        (math.nan, np.array([math.nan]), claims.UP, "not shown"),
    ],
)
def test_the_verdict_follows_from_the_interval(value, draws, null, expected):
    assert claims.verdict(estimate(value, draws), null) == expected


def all_visits_of(runs, name):
    return runs[(runs.run == name) & (runs.visits == "all visits")].iloc[0]


def test_claims_of_made_up_rows_come_out_as_they_were_made(folder, tmp_path):
    table = claims.make(folder, tmp_path / "one", "quick").set_index("claim")
    said = table["verdict"].to_dict()
    assert said["sensitivity rises with alpha (JVSS, 0.995 against 0.5)"] == "holds"
    assert said["precision falls with alpha (JVSS, 0.995 against 0.5)"] == "holds"
    assert said["JVSS (alpha 0.995) has fewer false positives than BCE at equal sensitivity"] == "holds"
    assert said["JVSS is better than SSE alone (the paper's curve) over alpha"] == "holds"
    assert said["the prior path removes false positives (alpha 0.5, all visits)"] == "not run"
    first = table.iloc[0]
    assert (first.n_patients, first.n_lesions, first.seeds, first.paper) == (12, 96, 3, pytest.approx(0.144))
    claims.make(folder, tmp_path / "two", "quick")
    for name in ("claims", "runs", "curves", "areas", "triage"):
        made = [(tmp_path / t / f"{name}.quick.csv").read_bytes() for t in ("one", "two")]
        assert made[0] == made[1]
    runs = pd.read_csv(tmp_path / "one" / "runs.quick.csv")
    assert all_visits_of(runs, "bce").fp_vessel == pytest.approx(all_visits_of(runs, "bce").fp_per_volume, abs=1e-4)
    assert set(runs[runs.run == "bce"].fp_tissue) == {0}
    all_visits = runs[(runs.run == "bce") & (runs.visits == "all visits")].iloc[0]
    assert (all_visits.volumes, all_visits.lesions, all_visits.seeds) == (24, 96, 3)
    at = sum(
        np.array(scoring.counts(pd.read_csv(folder / "rows.csv.gz").query(f"run == 'bce-s{s}'"), 16)) for s in range(3)
    )
    assert all_visits.sensitivity == pytest.approx(at[0] / (at[0] + at[1]), abs=1e-4)
    assert all_visits.fp_per_volume == pytest.approx(at[2] / 72, abs=1e-4)


def test_a_weight_ratio_is_compared_with_the_curve_at_as_many_false_positives(tmp_path):
    draw = rng(0, "weights")
    made = {f"jvss-{a:g}-s0": ("prior", rows_of(draw, found=f, false=n)) for a, f, n in ((0.995, 30, 9), (0.5, 12, 2))}
    made["jvss-0.995-0.1to1-s0"] = made["jvss-0.995-s0"]  # the end of the curve: no difference from it
    made["jvss-0.95-2to1-s0"] = ("prior", rows_of(draw, found=6, false=9))  # as many false ones, but it finds little
    made["jvss-0.95-1to2-s0"] = ("prior", rows_of(draw, found=6, false=2))
    r = Results(collected(tmp_path / "rows", made))
    table = claims.claims_table(r).set_index("claim")
    rows = table[table.index.str.startswith("a weight ratio")]
    assert rows["verdict"].tolist() == ["opposite", "opposite", "holds"]
    last = rows.iloc[2]
    assert (last.ours, last.low, last.high) == (0, 0, 0)
    assert rows.iloc[0].ours < -0.3 and rows.iloc[0].paper == pytest.approx(-0.0061, abs=1e-4)
    # by hand: between the two points of a curve, on a straight line over the logarithm of false positives
    between = claims._on_line(np.log([[1.0, 4.0]]), np.array([[0.2, 0.8]]), np.log([2.0]))
    assert between == pytest.approx([0.5])


def test_longer_trainings_are_compared_with_bce_trained_as_long(tmp_path):
    draw = rng(0, "longer")
    made = {"jvss-0.995-20k-s0": (20, 2), "jvss-0.5-20k-s0": (20, 10), "bce-20k-s0": (20, 10), "bce-s0": (20, 2),
            "jvss-0.995-s0": (20, 10), "jvss-0.5-s0": (20, 2)}  # fmt: skip
    rows = {name: ("prior", rows_of(draw, found=found, false=false)) for name, (found, false) in made.items()}
    rows["jvss-0.5-20k-s0"] = rows["bce-20k-s0"]
    said = claims.claims_table(Results(collected(tmp_path / "rows", rows))).set_index("claim")
    words = "JVSS (alpha {}) has fewer false positives than BCE at equal sensitivity"
    at = said.loc[[words.format(a) for a in ("0.995, 20,000 segments", "0.5, 20,000 segments", "0.995", "0.5")]]
    assert at["verdict"].tolist() == ["holds", "not shown", "opposite", "not shown"]
    assert at["ours"].iloc[0] < 0.5 and at["ours"].iloc[1] == 1
    assert not said.index.str.contains("80,000").any()
    rows |= {f"{loss}-{k}k-s0": rows[f"{loss}-s0"] for loss in ("bce", "jvss-0.995") for k in (80, 1200)}
    longest = claims.claims_table(Results(collected(tmp_path / "longest", rows))).set_index("claim")
    for length in ("80,000", "1,200,000"):
        of_length = longest.loc[words.format(f"0.995, {length} segments"), "ours"]
        assert of_length == said.loc[words.format("0.995"), "ours"]
    assert words.format("0.5, 80,000 segments") not in longest.index


def test_a_network_that_finds_something_fails_the_negative_control(tmp_path):
    draw = rng(0, "control")
    verdicts = []
    for top in (-30, 20):
        made = {"permuted-s0": ("prior", rows_of(draw, found=top, false=2))}
        table = claims.claims_table(Results(collected(tmp_path / str(top), made))).set_index("claim")
        verdicts.append(table[table.index.str.startswith("negative control")]["verdict"].iloc[0])
    assert verdicts == ["holds", "opposite"]


def test_the_unet_is_compared_at_equal_sensitivity_too(tmp_path):
    draw = rng(0, "unet")
    made = {"unet-bce-s0": ("prior", rows_of(draw, found=14, false=12))}
    made |= {f"unet-jvss-{a:g}-s0": ("prior", rows_of(draw, found=28, false=n)) for a, n in ((0.9, 4), (0.5, 40))}
    table = claims.claims_table(Results(collected(tmp_path / "rows", made))).set_index("claim")
    said = table[table.index.str.startswith("VSS helps a 3D U-Net")]
    assert said["verdict"].iloc[0] == "holds" and said["ours"].iloc[0] < 0.6 < said["ours"].iloc[1]


def test_a_curve_falls_from_the_first_prediction_to_the_floor_of_the_rows(folder):
    curve = claims.table_of_curves(Results(folder)).query("run == 'bce'")
    assert curve.threshold.is_monotonic_decreasing
    assert curve.threshold.iloc[-1] == pytest.approx(scoring.LEVELS[5], abs=1e-4)
    assert curve.sensitivity.is_monotonic_increasing and not curve.isna().any().any()
    assert curve.threshold.is_unique
    rows = pd.read_csv(folder / "rows.csv.gz").query("run in ('bce-s0', 'bce-s1', 'bce-s2')")
    found, missed, false = scoring.counts(rows, 20)
    line = curve[np.isclose(curve.threshold, scoring.LEVELS[20], atol=1e-4)].iloc[0]
    expected = [found / (found + missed), found / (found + false), false / 72]
    assert line[["sensitivity", "precision", "fp_per_volume"]].tolist() == pytest.approx(expected, abs=1e-4)


def test_tiers_are_counted_per_patient(folder, tmp_path):
    tiers = pd.DataFrame(
        [("ensemble", "c00", "lesion", 1, 50.0, "confirmed", 0.9, 0, 0, 0),
         ("ensemble", "c01", "lesion", 1, 50.0, "candidate", 0.9, 0, 0, 0),
         ("ensemble", "c01", "lesion", 2, 500.0, "missed", 0.9, 0, 0, 0),
         ("ensemble", "c02", "fp", 0, 150.0, "candidate", 0.9, 0, 0, 0),
         ("ensemble", "c02", "fp", 0, 10.0, "confirmed", 0.9, 0, 0, 0)],
        columns=["system", "case", *scoring.TIER_COLUMNS],
    )  # fmt: skip
    rows = tmp_path / "rows"
    rows.mkdir()
    for path in folder.iterdir():
        (rows / path.name).write_bytes(path.read_bytes())
    tiers.to_csv(rows / "tiers.csv.gz", index=False)
    counted = claims.triage_counts(Results(rows), "ensemble")
    first, second = (
        dict(zip(claims.TRIAGE, counted[sorted(PATIENTS).index(p)].tolist(), strict=True)) for p in ("p0", "p1")
    )
    assert first == {
        "lesions": 3, "lesions_small": 2, "confirmed_found": 1, "confirmed_found_small": 1, "confirmed_false": 0,
        "confirmed_false_small": 0, "candidate_found": 1, "candidate_found_small": 1, "candidate_false": 0,
        "candidate_false_small": 0, "volumes": 2,
    }  # fmt: skip
    assert (second["candidate_false"], second["candidate_false_small"], second["confirmed_false_small"]) == (1, 0, 1)
    line = claims.table_of_triage(Results(rows)).iloc[0]
    assert (line.sensitivity, line.candidates_per_volume) == (
        pytest.approx(2 / 3, abs=1e-4),
        pytest.approx(2 / 24, abs=1e-4),
    )


def test_every_claim_has_one_line_and_no_run_is_asked_for_in_vain(folder, monkeypatch):
    made = [c.claim for c in claims.claims(Results(folder))]
    assert len(made) == len(set(made))
    asked = set()
    monkeypatch.setattr(Results, "seeds", lambda self, stem, **_: [f"{stem}-s0"])
    monkeypatch.setattr(claims, "_groups", lambda r, *runs, **_: asked.update(n for part in runs for n in part) or [])
    list(claims.claims(Results(folder)))
    known = {r.name for part in experiment.SETS.values() for r in part}
    assert len(asked) > 20 and asked <= known


def test_whole_brains_have_claims_of_their_own(folder, tmp_path, monkeypatch):
    """A path that removes most false positives, scores of 0.995 and 0.5 as they should be, and nothing of the other sets."""
    draw, made = rng(3, "whole"), {}
    for way, less in (("none", 1), ("path", 3)):
        for name, found, false in (("bce", 18, 12), ("jvss-0.995", 28, 6), ("jvss-0.5", 14, 3)):
            made[f"whole-{name}-{way}-s0"] = ("prior", rows_of(draw, found=found, false=false / less))
    r = Results(collected(tmp_path / "rows", made))
    table = claims.claims_table(r).set_index("claim")
    assert len(table) == 13 and table.index.str.contains("whole brains").all()
    said = table["verdict"]
    for claim in (
        "sensitivity rises with alpha (JVSS, 0.995 against 0.5, whole brains)",
        "JVSS (alpha 0.995, whole brains) has fewer false positives than BCE at equal sensitivity",
        "the prior path removes false positives (BCE, whole brains, visits with a prior)",
        "the prior path removes false positives (alpha 0.995, whole brains, all visits)",
    ):
        assert said[claim] == "holds", claim
    assert not table["why"].str.contains("went on|trained in").any()
    runs = r.runs.assign(start=r.runs["run"].map({"whole-jvss-0.5-none-s0": "whole-bce-none-s0"}).fillna("scratch"))
    runs.loc[runs["run"] == "whole-jvss-0.995-none-s0", "precision"] = "float32"
    runs.to_csv(tmp_path / "rows" / "runs.csv", index=False)
    why = claims.claims_table(Results(tmp_path / "rows")).set_index("claim")["why"]
    told = why[why.str.contains("JVSS went on from this very BCE for 5,000 segments, BCE did not")]
    assert told.index.tolist() == ["JVSS (alpha 0.5, whole brains) has fewer false positives than BCE at equal sensitivity"]
    told = why[why.str.contains("JVSS was trained in float32, BCE in bfloat16")].index
    assert len(told) == 2 and all("JVSS" in t and "0.995" in t and "BCE" in t for t in told)  # false positives, and mDSC
    rises = table["paper"].filter(like="sensitivity rises")
    assert rises.tolist() == pytest.approx([0.946 - 0.802, 0.932 - 0.842])
    both = tmp_path / "both"
    collected(both, {**made, "bce-s0": ("prior", rows_of(draw, found=18, false=12))})
    assert len(claims.claims(Results(both))) == 13 + len(claims.claims(Results(folder)))
    # each run of these sets is asked for
    asked = set()
    monkeypatch.setattr(claims, "_groups", lambda r, *runs, **_: asked.update(n for part in runs for n in part) or [])
    for stem in claims.WHOLE:
        list(claims._whole(r, stem, ""))
    assert asked == {run.name for name in claims.WHOLE for run in experiment.SETS[name]}


def test_own_runs_stand_beside_the_shipped_ones(folder, tmp_path):
    draw = rng(1, "own")
    own = collected(
        tmp_path / "own",
        {f"mine-{a:g}-s0": ("prior", rows_of(draw, found=f, false=5)) for a, f in ((0.9, 26), (0.5, 18))},
    )
    runs = pd.read_csv(own / "runs.csv").assign(loss="mine")
    runs.to_csv(own / "runs.csv", index=False)
    both = Results(own, folder)
    assert both.has("mine-0.9-s0", "bce-s0") and not Results(folder).has("mine-0.9-s0")
    assert np.array_equal(both.counts("bce-s0"), Results(folder).counts("bce-s0"), equal_nan=True)
    table = claims.table_of_areas(both).set_index("loss")
    assert list(table.index) == ["jvss", "sse", "mine"] and table.loc["mine", "alphas"] == 2
    visits = pd.read_csv(own / "visits.csv")
    visits.iloc[1:].to_csv(own / "visits.csv", index=False)
    with pytest.raises(InputError, match="expected the validation and test visits of rows; they differ"):
        Results(own, folder)


def test_a_folder_without_rows_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="expected runs.csv; it is not there; run `dmplus experiment"):
        Results(tmp_path)


def test_a_budget_that_no_level_keeps_has_no_sensitivity():
    counts = np.zeros((len(scoring.LEVELS), 5))
    counts[:, results.FOUND], counts[:, results.FALSE], counts[:, results.VOLUMES] = 5, 9, 10
    assert np.isnan(results.sensitivity_at(0.5)(counts)) and results.sensitivity_at(1)(counts) == 1
