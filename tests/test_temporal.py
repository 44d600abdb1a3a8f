"""What the earlier scan adds: differences, false positives removed, misregistration, timelines."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case
from test_claims import collected, rows_of
from test_second_look import table

from dmplus import (
    claims,
    evidence,
    exercises_patients,
    followup,
    network,
    results,
    scoring,
    second_look,
    temporal,
    widgets,
)
from dmplus.results import Results
from dmplus.runtime import InputError, Machine, rng

CPU = Machine("cpu", "float32", "test")


def test_a_difference_is_in_standard_deviations_and_0_outside():
    case = ball_case(0)
    brighter = dataclasses.replace(case, prior=3 * case.image + 7)
    assert np.abs(temporal.difference(brighter)).max() < 1e-4  # another scale is no change
    made = temporal.difference(case)
    assert (made[~case.mask] == 0).all() and made[case.label > 0].mean() > 1
    assert np.allclose(made, exercises_patients.difference(case.image, case.prior, case.mask), atol=1e-4)
    with pytest.raises(InputError, match="has none; take a later visit"):
        temporal.difference(dataclasses.replace(case, prior=None))


def false(*places):
    return pd.DataFrame(
        [(c, 1, peak, x, y, z) for c, peak, x, y, z in places], columns=["case", "what", "peak", "x", "y", "z"]
    )


def test_a_false_positive_is_the_same_one_within_four_voxels_of_the_same_case():
    first = false(("a", 20, 10, 10, 10), ("a", 30, 50, 50, 50), ("b", 25, 10, 10, 10), ("a", 22, 30, 30, 30))
    second = false(("a", 9, 14, 10, 6), ("a", 9, 55, 50, 50), ("c", 9, 10, 10, 10))
    left = temporal.only_in_first(first, second)
    assert left[["case", "x"]].to_numpy().tolist() == [["a", 50], ["b", 10], ["a", 30]]  # strongest first
    assert len(temporal.only_in_first(first, second.iloc[:0])) == 4


@pytest.fixture(scope="module")
def r(tmp_path_factory):
    """A path with half the false positives of no prior, more when its prior moves; its controls like no prior."""
    draw = rng(0, "temporal")
    made = {f"jvss-0.995-s{s}": ("prior", rows_of(draw, found=34, false=8)) for s in range(2)}
    made |= {f"jvss-0.995-path-s{s}": ("prior", rows_of(draw, found=34, false=4)) for s in range(2)}
    made |= {f"bce-s{s}": ("prior", rows_of(rng(s, "seeds"), found=34, false=8)) for s in range(8)}  # what a seed does
    folder = collected(tmp_path_factory.mktemp("temporal") / "rows", made)
    rows, runs = (pd.read_csv(folder / n) for n in ("rows.csv.gz", "runs.csv"))
    more, lines = [], []
    for condition, n in (("zeroed", 8), ("0 mm", 4), ("1 mm", 5), ("2 mm", 6), ("3 mm", 8)):
        own = rows_of(draw, found=34, false=n).assign(run="jvss-0.995-path-s0", split="test", second_image=condition)
        odd = own["case"].str[1:].astype(int) % 2 == 1  # scored where there is a prior
        more.append(own[odd])
        lines.append(("jvss-0.995-path-s0", "test", condition, "prior", 5, 5000, "jvss", "trunk", "bfloat16"))
    pd.concat([rows, *(m[rows.columns] for m in more)]).to_csv(folder / "rows.csv.gz", index=False)
    pd.concat([runs, pd.DataFrame(lines, columns=runs.columns)]).to_csv(folder / "runs.csv", index=False)
    return Results(folder)


def test_ratios_are_those_of_false_positives_at_one_sensitivity_in_visits_with_a_prior(r):
    table = temporal.ratios(
        r,
        {"path": (r.seeds("jvss-0.995-path"), "prior"), "zeroed": (["jvss-0.995-path-s0"], "zeroed")},
        r.seeds("jvss-0.995"),
    ).set_index("model")
    one, base = (r.group(r.seeds(s), prior=True).sum(1).mean(0) for s in ("jvss-0.995-path", "jvss-0.995"))
    at = results.fp_at(claims.EQUAL)
    assert table.loc["path", "ratio"] == pytest.approx(float(at(one) / at(base)))
    zeroed, first = (r.group([n], second=s, prior=True).sum(1).mean(0)
                     for n, s in (("jvss-0.995-path-s0", "zeroed"), ("jvss-0.995-s0", "prior")))  # fmt: skip
    assert table.loc["zeroed", "ratio"] == pytest.approx(float(at(zeroed) / at(first)))  # seed beside seed
    assert at(first) != at(base)
    single = temporal.effect(r, {"no prior": r.seeds("jvss-0.995"), "path": ["jvss-0.995-path-s1"]})
    by_seed = [r.group([n], prior=True).sum(1).mean(0) for n in ("jvss-0.995-path-s1", "jvss-0.995-s1")]
    assert single.value == pytest.approx(float(at(by_seed[0]) / at(by_seed[1])))
    beside = temporal.ratios(r, {"zeroed": (["jvss-0.995-path-s0"], "zeroed")}, ["jvss-0.995-path-s0"]).iloc[0]
    own, away = (r.group(["jvss-0.995-path-s0"], second=s, prior=True) for s in ("prior", "zeroed"))
    e = claims.at_equal(away, own)  # one network: no other training could have made one of the two
    assert (beside["low"], beside["high"]) == (e.low, e.high)
    known, missing = temporal.controls(r, "jvss-0.995")
    assert list(known) == ["path", "path, prior zeroed in test"]  # what was not run is left out, and told
    assert all(runs == ["jvss-0.995-path-s0"] for runs, _ in known.values())  # controls were run with one seed
    assert len(missing) == 5 and "channel" in missing and temporal.POSITIVE in missing
    title, told = temporal.controls_words(r, "jvss-0.995")
    assert title == "Worse than the path: 1 of 1 controls"
    assert "Worse than the path (the whole interval): path, prior zeroed in test." in told
    assert "positive control was not run" in told
    assert table.loc["path", "low"] < table.loc["path", "ratio"] < 0.8 < table.loc["zeroed", "ratio"]
    assert len(temporal.draw_ratios(table.reset_index()).axes[0].containers) == 2


def test_ways_are_the_runs_of_a_stem_and_what_is_missing_is_said_to_be_missing(r):
    ways = temporal.ways(r, "jvss-0.995")
    assert ways == {temporal.NONE: r.seeds("jvss-0.995"), temporal.PATH: r.seeds("jvss-0.995-path")}
    e = temporal.effect(r, ways)
    assert e.value == pytest.approx(
        float(results.fp_at(claims.EQUAL)(r.group(ways["path"], prior=True).sum(1).mean(0)))
        / float(results.fp_at(claims.EQUAL)(r.group(ways["no prior"], prior=True).sum(1).mean(0)))
    )
    assert temporal.effect_words(e) == "has fewer false positives" and temporal.ratio_words(e).startswith("0.")
    assert temporal.effect(r, ways, "channel") is None and temporal.effect_words(None) == "was not run"
    assert temporal.ways(r, "jvss-0.7") == {} and temporal.ratio_words(None) == "not run"
    turned = claims.at_equal(r.group(ways["no prior"]), r.group(ways["path"]))
    assert temporal.effect_words(turned) == "has more false positives"
    table = temporal.yardstick(r, "jvss-0.995")
    one, other = (r.group([f"jvss-0.995-s{k}"], prior=True) for k in (1, 0))
    ratio = claims.at_equal(one, other).value
    order = "seed 1 / seed 0" if ratio < 1 else "seed 0 / seed 1"  # the way round in which it is below 1
    assert table["model"].tolist() == [f"no prior, {order}"]  # one run over another, never over itself
    assert table.loc[0, "ratio"] == pytest.approx(min(ratio, 1 / ratio))
    assert temporal.yardstick(r, "jvss-0.995-fresh")["model"][0] == f"no prior, trunk's patients, {order}"
    assert temporal.yardstick(r, "jvss-0.7").empty and temporal.seeds_beside(r, "jvss-0.7") == []
    assert temporal.ratios(r, {"path": (ways["path"], "prior")}, ways["no prior"]).loc[0, "verdict"] == "holds"
    levels = temporal.levels_of(r, ways)
    assert levels["path"] == temporal.level_at(r, "jvss-0.995-path-s0")
    with pytest.raises(InputError, match="expected a run that finds 2"):
        temporal.level_at(r, "jvss-0.995-s0", sensitivity=2)


def test_ways_of_a_stem_whose_rival_has_a_name_of_its_own():
    there = {"a-none-s0", "a-path-s0", "a-path-s1", "a-s0"}
    seeds = lambda stem: [f"{stem}-s{s}" for s in range(3) if f"{stem}-s{s}" in there]  # noqa: E731
    assert temporal.ways(SimpleNamespace(seeds=seeds), "a") == {
        "no prior": ["a-none-s0"], "path": ["a-path-s0", "a-path-s1"]
    }  # fmt: skip
    there |= {"jvss-0.5-fresh-path-s0", "jvss-0.995-path-s0", "jvss-0.995-fresh-none-s0"}
    there |= {"jvss-0.5-fresh-none-s0", "jvss-0.5-path-s0", "jvss-0.5-s0", "jvss-0.995-s0", "jvss-0.9-s0"}
    fake = SimpleNamespace(seeds=seeds, runs=pd.DataFrame({"alpha": [0.5, 0.9, 0.995]}))
    assert [temporal.stem_of(fake, a) for a in (0.5, 0.995)] == [
        "jvss-0.5-fresh",
        "jvss-0.995",
    ]  # none alone is not enough
    with pytest.raises(InputError, match="expected 0.5 or 0.995, where networks with a path were trained; got 0.3"):
        temporal.stem_of(fake, 0.3)
    has = lambda *names: there.issuperset(names)  # noqa: E731
    names = ("a-path-s0", "b-path-s0", "a-channel-s0", "a-path-healthy-s0")
    beside = [temporal._without(SimpleNamespace(has=has), n) for n in names]
    assert beside == ["a-none-s0", None, "a-none-s0", "a-none-s0"]


def test_the_same_comparison_after_more_training_stands_below(r, tmp_path):
    draw = rng(3, "longer")
    # false positives without a prior and with a path
    stems = {"fresh": (34, 8, 9), "fresh-20k": (34, 8, 4), "300k-fresh": (34, 8, 3)}
    made = {f"jvss-0.5-{k}-{way}-s0": ("prior", rows_of(draw, found=found, false=n))
            for k, (found, *both) in stems.items() for way, n in zip(("none", "path"), both, strict=True)}  # fmt: skip
    made |= {"jvss-0.5-path-s0": ("prior", rows_of(draw, found=34, false=1))}  # not on fresh patients
    folder = collected(tmp_path / "rows", made)
    runs = pd.read_csv(folder / "runs.csv")
    runs.loc[runs["run"].str.contains("20k|300k"), "segments"] = 20000
    runs.loc[runs["run"] == "jvss-0.5-path-s0", "segments"] = 300000  # stands for what the last pair went on from
    runs.loc[runs["run"].str.contains("300k"), "start"] = "jvss-0.5-path-s0"
    runs.to_csv(folder / "runs.csv", index=False)
    longer = Results(folder)
    table = temporal.by_length(longer)
    late = "20,000 segments after 300,000 without a path"
    assert table.index.tolist() == ["alpha 0.5, 5,000 segments", "alpha 0.5, 20,000 segments", f"alpha 0.5, {late}"]
    for k, words in zip(stems, table["path / no prior"], strict=True):
        both = [longer.group([f"jvss-0.5-{k}-{way}-s0"], prior=True) for way in ("path", "none")]
        assert words == temporal.ratio_words(claims.at_equal(*both))
    assert table["fewer"].tolist() == ["not shown", "holds", "holds"] and set(table["own / zeroed"]) == {"not run"}
    words = temporal.longer_words(longer, "jvss-0.5-fresh")
    assert words == [f"Trained longer, for {how}, the path has fewer false positives: {table['path / no prior'].iloc[i]} times "
                     "those without." for i, how in ((1, "20,000 segments"), (2, late))]  # fmt: skip
    assert temporal.longer_words(longer, "jvss-0.5") == []
    ratios = " → ".join(words.partition(" [")[0] for words in table["path / no prior"])
    assert temporal.length_words(table) == (
        f"alpha 0.5, from row to row: path / no prior {ratios}; peaks move by not run → not run → not run"
    )
    assert temporal.length_words(table.iloc[:1]) == ""
    assert temporal.by_length(r).empty  # a path, but on the trunk's own patients
    r20 = temporal.by_length(renamed_in(r, "jvss-0.995-path-s0", "jvss-0.995-fresh-path-s0"))
    own, zeroed = (r.group(["jvss-0.995-path-s0"], second=s, prior=True) for s in ("prior", "zeroed"))
    assert r20["own / zeroed"].tolist() == [temporal.ratio_words(claims.at_equal(own, zeroed))]
    moves = temporal.peaks_move(r, ("jvss-0.995-path-s0", "prior"), ("jvss-0.995-path-s0", "zeroed"))
    assert r20["peak moves by"].tolist() == [str(moves)] and moves.by > 0 and moves.known == moves.among


def renamed_in(r, name, new):
    """The same rows, with a run renamed and the run beside it that takes no prior."""
    names = {name: new, "jvss-0.995-s0": new.replace("-path-", "-none-")}
    renamed = Results.__new__(Results)
    renamed.visits = r.visits
    renamed.runs = r.runs.assign(run=r.runs["run"].replace(names))
    renamed.rows = {(names.get(n, n), *rest): t for (n, *rest), t in r.rows.items()}
    renamed._counts = {}
    return renamed


def test_a_network_that_does_not_read_its_prior_is_told_from_one_that_does(r):
    table = temporal.reads(r).set_index("run")
    assert list(table.index) == ["jvss-0.995-path-s0"]
    row = table.loc["jvss-0.995-path-s0"]
    own, zeroed = (r.group(["jvss-0.995-path-s0"], second=s, prior=True) for s in ("prior", "zeroed"))
    assert row["zeroed"].value == pytest.approx(claims.at_equal(own, zeroed).value) and row["zeroed"].value < 0.8
    assert row["other"] is None
    assert row["no_prior"].value == pytest.approx(claims.at_equal(own, r.group(["jvss-0.995-s0"], prior=True)).value)
    two = [r.rows["jvss-0.995-path-s0", "test", s].query("kind == 'lesion'") for s in ("prior", "zeroed")]
    both = two[0].set_index(["case", "id"])["top"].sub(two[1].set_index(["case", "id"])["top"]).dropna()
    assert row["moves"].by == pytest.approx(both.std(ddof=0) / 4) and row["moves"].by > 0
    words = temporal.reads_in_words(temporal.reads(r)).loc["jvss-0.995-path-s0"]
    assert words["own / another's"] == "not run" and words["fewer than zeroed"] == "holds"
    healthy = Results.__new__(Results)  # the same rows as a positive control: its own prior is "healthy"
    healthy.visits, healthy.runs = r.visits, pd.concat([
        r.runs, *(line.to_frame().T.assign(run="jvss-0.995-path-healthy-s0", second="healthy", second_image=image)
                  for image, line in zip(("healthy", "zeroed"), (r.runs.iloc[0], r.runs.iloc[0]), strict=True))
    ], ignore_index=True)  # fmt: skip
    healthy.rows = r.rows | {
        ("jvss-0.995-path-healthy-s0", "test", image): r.rows["jvss-0.995-path-s0", "test", own]
        for image, own in (("healthy", "prior"), ("zeroed", "zeroed"))
    }
    both = temporal.reads(healthy)
    assert both["control"].tolist() == [False, True] and both["zeroed"][1].value == pytest.approx(row["zeroed"].value)
    assert "(positive control)" in temporal.reads_in_words(both).index[1] and both["no_prior"][1] is not None
    deaf = Results.__new__(Results)
    deaf.runs, deaf.visits = r.runs, r.visits
    name = "jvss-0.995-path-s0"
    visits = r.visits.loc[r.visits["with_prior"], "case"]
    same = r.rows[name, "test", "prior"]
    deaf.rows = r.rows | {(name, "test", "zeroed"): same[same["case"].isin(visits)]}
    row = temporal.reads(deaf).iloc[0]
    assert row["moves"].by == 0 and row["zeroed"].value == 1 and claims.verdict(row["zeroed"], claims.FEWER) != "opposite"
    louder = same[same["case"].isin(visits)].assign(top=lambda t: t["top"] + 3)
    deaf.rows[name, "test", "zeroed"] = louder
    assert temporal.peaks_move(deaf, (name, "prior"), (name, "zeroed")).by == 0  # all alike: another threshold


def test_peaks_at_the_highest_level_with_both_priors_tell_nothing(r):
    name, top = "jvss-0.995-path-s0", len(temporal.LEVELS) - 1
    lesions = pd.DataFrame({"kind": "lesion", "case": "c", "id": range(5), "top": [10, 20, top, top, top]})
    other = lesions.assign(top=[12, 20, top - 4, top, top])
    censored = Results.__new__(Results)
    censored.rows = {(name, "test", "prior"): lesions, (name, "test", "zeroed"): other}
    move = temporal.peaks_move(censored, (name, "prior"), (name, "zeroed"))
    assert move.by == pytest.approx(np.std([-2, 0, 4]) / 4) and str(move) == "0.62 (3 of 5)"


def with_lesions(r):
    """The rows with what became of every lesion: number 1 new, 2 growing, 3 stable, 4 responding."""
    rows = r.rows["jvss-0.995-s0", "test", "prior"].query("kind == 'lesion'")
    before = {1: np.nan, 2: 0.5, 3: 1.0, 4: 2.0}
    state = {1: "new", 2: "growing", 3: "stable", 4: "responding"}
    lesions = rows[["case", "id", "volume_mm3"]].assign(
        state=rows["id"].map(state), previous_mm3=rows["volume_mm3"] * rows["id"].map(before)
    )
    made = Results.__new__(Results)
    made.runs, made.visits, made.rows, made.lesions = r.runs, r.visits, r.rows, lesions
    return made


def test_what_became_of_each_metastasis_and_who_sees_it(r):
    known = with_lesions(r)
    table = temporal.volume_changes(known)
    assert len(table) == 12 * 4  # of the visits with a prior
    assert table.groupby("state")["change"].unique().map(list).to_dict() == {
        "new": ["new"], "growing": ["growing"], "stable": ["stable"], "shrinking": ["shrinking"]
    }  # fmt: skip
    assert table.groupby("state")["ratio"].first().drop("new").to_dict() == {
        "growing": 2,
        "shrinking": 0.5,
        "stable": 1,
    }
    labels = [t.get_text() for t in temporal.draw_volume_changes(table).axes[0].get_yticklabels()]
    assert labels == ["shrinking (n = 12)", "stable (n = 12)", "growing (n = 12)", "new (n = 12)"]
    levels = (30, 36)
    seen = temporal.two_views(known, "jvss-0.995-s0", "jvss-0.995-path-s0", levels)
    tops = [
        r.rows[n, "test", "prior"].query("kind == 'lesion'").set_index(["case", "id"])["top"]
        for n in ("jvss-0.995-s0", "jvss-0.995-path-s0")
    ]
    for row in seen.itertuples():
        first, second = (t[row.case, row.id] for t in tops)
        assert (row.found_first, row.found_second) == (first >= 30, second >= 36)
        assert row.falls == (first - 30) - (second - 36)
    hidden = seen["found_first"] & ~seen["found_second"]
    n = int(hidden.sum())
    assert 0 < n < 48 and hidden.iloc[:n].all() and (seen["falls"].iloc[:n].diff().dropna() <= 0).all()
    counts = temporal.seen_by(seen, "a", "b")
    assert counts["all"].tolist() == [12] * 4 and counts.columns.tolist() == [
        "both",
        "only a",
        "only b",
        "neither",
        "all",
    ]
    assert counts["only a"].sum() == n and (counts.drop(columns="all").sum(axis=1) == counts["all"]).all()
    title, told = temporal.state_words(known, seen)
    net = counts["only b"] - counts["only a"]
    assert title == ", ".join(f"{s} {net[s]:+.0f} of 12" for s in ("new", "growing", "stable", "shrinking"))
    assert all(f"{s} {v / 12:.2f} [" in told for s, v in net.items())  # each differs in some metastasis
    surely = seen.assign(found_first=True, found_second=seen["state"] == "stable")
    told = temporal.state_words(known, surely)[1]
    assert told.endswith("excludes 0: new, growing, shrinking") and "stable 0 (all seen alike)" in told
    with pytest.raises(InputError, match="collect them again"):
        temporal.volume_changes(SimpleNamespace(lesions=None))


def test_what_a_count_of_hidden_ones_still_allows():
    assert temporal.at_most(0, 32) == pytest.approx(1 - 0.05 ** (1 / 32))
    for hidden, n in ((1, 20), (3, 32)):  # at the bound, so few or fewer happen once in twenty
        p = temporal.at_most(hidden, n)
        assert sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hidden + 1)) == pytest.approx(0.05)
    assert temporal.at_most(4, 4) == 1 and np.isnan(temporal.at_most(0, 0))


def test_the_answer_follows_the_rows(r, monkeypatch):
    known = with_lesions(r)
    ways = temporal.ways(r, "jvss-0.995")
    clear = pd.DataFrame(
        {"n": [3, 7], "patients": [2, 5], "chance": [0.9, 0.3], "low": [np.nan, 0.1], "high": [np.nan, 0.4]},
        index=["new", "stable"],
    )
    calm = pd.DataFrame({"found_first": [True, True, False], "found_second": [False, True, False]})

    def said(e):
        text = temporal.answer(known, ways, temporal.reads(r), e, calm).replace("\n", " ")
        return text

    text = said(clear)
    assert "Of 48 metastases" in text and "25% are new" in text and "as a path has fewer false positives" in text
    assert "as a channel was not run." in text and "The positive control was not run." in text
    assert "new 90% (n = 3 in 2 patients: too few for an interval), stable 30% [10%, 40%] (n = 7)." in text
    assert (
        "1 of 3 stable metastases are found without prior and missed by the path, which still allows up to 86%" in text
    )
    e = temporal.effect(r, ways)
    assert f"Up to {1 - e.low:.0%} fewer and up to 0% more are compatible" in text
    meet = "overlap" if e.low <= 0.71 and e.high >= 0.44 else "do not overlap"  # 5/9 · exp(± 1.96 · √(1/100 + 1/180))
    assert "the paper has 100 against 180, a ratio of 0.56 (as counts alone 0.44 to 0.71): the two intervals" in text
    assert f"intervals {meet}. That is at alpha 0.995 and threshold 0.5." in text and "of alpha" not in text
    half = {way: [name.replace("0.995", "0.5") for name in names] for way, names in ways.items()}
    monkeypatch.setattr(temporal, "effect", lambda *_: e)
    assert "; ours is of alpha 0.5, for which it prints all visits alone, 1 against 3." in temporal.way_words(r, half, "path")
    monkeypatch.undo()
    assert "in the difference image" not in said(clear[:0])
    name, control = "jvss-0.995-path-s0", "jvss-0.995-path-healthy-s0"
    for second, words in (("prior", "so the set-up can learn"), ("zeroed", "it is not shown that the set-up can")):
        known.rows[control, "test", "healthy"] = known.rows[name, "test", second]
        line = known.runs[(known.runs["run"] == name) & (known.runs["second_image"] == second)]
        runs, known.runs = (
            known.runs,
            pd.concat([known.runs, line.assign(run=control, second="healthy", second_image="healthy")]),
        )
        assert "every metastasis is new" in said(clear) and words in said(clear)
        known.runs = runs
        known.rows.pop((control, "test", "healthy"))


def test_the_curve_of_the_exercise_gives_the_ratio_of_the_claims(r):
    ways = temporal.ways(r, "jvss-0.995")
    path, none = (temporal.curve(r, ways[way]) for way in ("path", "no prior"))
    assert (np.diff(path[0]) >= 0).all() and path[0][0] == path[1][0] == 0 and np.isfinite(path[1]).all()
    ratio = exercises_patients.fp_ratio
    by_hand = ratio(*path, claims.EQUAL, ratio(*none, claims.EQUAL, 1.0))
    assert by_hand == pytest.approx(temporal.effect(r, ways).value)


def test_a_later_visit_settles_what_has_one_and_a_prior():
    visits = [("a_v0", "a", 0, False), ("a_v1", "a", 1, True), ("a_v2", "a", 2, True), ("b_v1", "b", 1, True)]
    r = SimpleNamespace(visits=pd.DataFrame(visits, columns=["case", "patient", "visit", "with_prior"]))
    table = pd.DataFrame({"case": ["a_v0", "a_v2", "a_v1", "b_v1"], "peak": [9, 8, 7, 6]})
    assert temporal.settled(r, table)["case"].tolist() == ["a_v1"]


def test_the_paper_beside_and_what_was_not_run():
    assert temporal.paper_fp(0.995) == (158, 247) and temporal.paper_fp(0.5) == (1, 3)
    assert temporal.paper_fp(0.995, prior=True) == (100, 180) and temporal.paper_fp(0.5, prior=True) == ()
    assert "not run: the path" in temporal.draw_not_run("the path").axes[0].texts[0].get_text()
    said = temporal.paper_words(0.5)
    assert "1 with the path, 3 without, a ratio of 0.33; " in said and said.endswith("earlier scan: not printed.")
    assert temporal.paper_words(0.995).endswith("earlier scan: 100 with the path, 180 without, a ratio of 0.56.")


def test_controls_have_their_own_second_image():
    there = {
        ("a-path-s0", "prior"),
        ("a-path-s0", "other"),
        ("a-path-other-s0", "other"),
        ("a-path-healthy-s0", "healthy"),
    }
    fake = SimpleNamespace(
        seeds=lambda stem: [n for n, s in sorted(there) if n == f"{stem}-s0" and s == "prior"],
        has=lambda *names, second: all((n, second) in there for n in names),
    )
    known, missing = temporal.controls(fake, "a")
    assert len(known) + len(missing) == 7
    assert known == {
        "path": (["a-path-s0"], "prior"),
        "path, another patient's prior in test": (["a-path-s0"], "other"),
        "path trained with another patient's prior": (["a-path-other-s0"], "other"),
        "positive control: no metastasis before": (["a-path-healthy-s0"], "healthy"),
    }


def test_misregistration_visits_and_kinds_each_have_their_rows(r):
    shifted = temporal.by_misregistration(r, {"path": "jvss-0.995-path-s0"}, r.seeds("jvss-0.995"))
    assert shifted["mm"].tolist() == [0, 1, 2, 3]
    assert shifted["ratio"].iloc[0] < shifted["ratio"].iloc[3]
    title, told, rises = temporal.rise_words(r, {"path": "jvss-0.995-path-s0"}, shifted)
    assert rises == "the channel's rise is not run, the path's holds"
    ends = (shifted["ratio"].iloc[i] for i in (0, 3))
    assert title == "From 0 mm to 3 mm: path {:.2f} → {:.2f}".format(*ends) and "(a rise: holds)" in told
    none = temporal.by_misregistration(r, {"path": "jvss-0.995-path-s1"}, r.seeds("jvss-0.995"))
    assert none.empty and list(none) == list(shifted)
    assert temporal.rise_words(r, {}, none)[1].startswith("Not run")
    assert temporal.tested(r, "jvss-0.995-s0") == "48 metastases in 12 visits of 12 patients with an earlier scan"
    assert temporal.tested(r, "jvss-0.995-s0", prior=False).endswith("12 visits of 12 patients without an earlier scan")
    x, y = temporal.draw_misregistration(shifted).axes[0].containers[0].lines[0].get_data()
    assert y == pytest.approx(shifted["ratio"].to_numpy())
    split = temporal.by_visit(r, {"path": r.seeds("jvss-0.995-path")}, r.seeds("jvss-0.995"))
    assert split["visits"].tolist() == ["with a prior", "without a prior"]
    kinds = temporal.by_kind(r, {"path": ["jvss-0.995-path-s0"]})
    level = temporal.level_at(r, "jvss-0.995-path-s0")
    counted = r.counts("jvss-0.995-path-s0", prior=True).sum(0)[level]
    assert kinds.loc["path", "vessel"] == pytest.approx(counted[results.FALSE] / 12)
    assert kinds.loc["path"].sum() == pytest.approx(kinds.loc["path", "vessel"])  # all of kind 1 in the made-up rows
    found = r.counts("jvss-0.995-path-s0", prior=True).sum(0)
    share = found[:, results.FOUND] / (found[:, results.FOUND] + found[:, results.MISSED])
    assert share[level] >= claims.EQUAL > share[level + 1]


def test_false_positives_at_a_level_are_those_that_stand_there(r):
    rows = r.rows["jvss-0.995-s0", "test", "prior"]
    for level in (10, 20, 30):
        assert len(temporal.false_at(r, "jvss-0.995-s0", level)) == scoring.counts(rows, level)[2]
    gone, come, n = temporal.go_and_come(r, "jvss-0.995-s0", "jvss-0.995-path-s0")
    first, second = (
        temporal.false_at(r, f"jvss-0.995{w}-s0", temporal.level_at(r, f"jvss-0.995{w}-s0"), prior=True)
        for w in ("", "-path")
    )
    assert n == len(first) and gone.equals(temporal.only_in_first(first, second))
    assert come.equals(temporal.only_in_first(second, first))
    both = [temporal.false_at(r, "jvss-0.995-s0", 20, prior=p) for p in (True, False)]
    assert sum(map(len, both)) == len(temporal.false_at(r, "jvss-0.995-s0", 20))
    assert all(int(c[1:]) % 2 for c in both[0]["case"]) and not any(int(c[1:]) % 2 for c in both[1]["case"])
    assert (
        temporal.kind_words(1) == "a vessel" and len({temporal.kind_words(k) for k in range(len(results.KINDS))}) == 6
    )


def test_a_prior_moves_by_millimetres_and_stays_inside_the_brain():
    case = ball_case(1)
    peak = np.unravel_index(np.argmax(case.prior), case.shape)
    case = dataclasses.replace(case, prior=np.where(np.indices(case.shape).sum(0) >= 0, case.prior, 0))
    point = np.zeros(case.shape, np.float32)
    point[peak] = 100
    moved = temporal.moved_prior(dataclasses.replace(case, prior=point), 2.0, direction=(0, 1, 0))
    assert np.unravel_index(np.argmax(moved.prior), case.shape) == (peak[0], peak[1] + 2, peak[2])
    assert (temporal.moved_prior(case, 3.0).prior[~case.mask] == 0).all()
    assert np.allclose(temporal.moved_prior(case, 0.0).prior, case.prior, atol=1e-4)
    near = temporal.around(case, (20, 22, 18), radius=2)
    assert near.sum() == 33 and near[20, 22, 20] and not near[20, 22, 21]


def test_visits_are_drawn_with_their_difference_and_the_next_visit():
    case = ball_case(0)
    assert len(temporal.draw_visits(case, (20, 22, 18)).axes) == 4  # with the colour bar
    four = temporal.draw_visits(case, (20, 22, 18), later=case, circle=5)
    assert len(four.axes) == 5 and four.get_size_inches()[0] * 110 <= 720


def test_the_shifter_answers_both_ends_of_its_controls():
    case = ball_case(0)
    torch.manual_seed(0)
    nets = {p: network.build(network.preset("smoke", prior=p)).eval() for p in ("path", "channel")}
    shifter = widgets.Shifter(case, (20, 22, 18), nets, machine=CPU)
    shifter.widget()
    c = shifter.controls
    seen = [(c["words"].value, c["picture"].png)]
    c["mm"].value = 6
    seen.append((c["words"].value, c["picture"].png))
    assert followup.displaced(case, (20, 22, 18), nets, (0.0, 6.0), machine=CPU).splitlines() == [w for w, _ in seen]
    c["direction"].value = "up"
    seen.append((c["words"].value, c["picture"].png))
    c["mm"].value = 0
    assert c["picture"].png != seen[1][1] and c["words"].value.split(": ")[1] == seen[0][0].split(": ")[1]
    assert len({w for w, _ in seen}) == len({p for _, p in seen}) == 3
    with pytest.raises(InputError, match="has none; take a later visit"):
        widgets.Shifter(dataclasses.replace(case, prior=None), (1, 1, 1), nets)


def test_what_a_reader_of_both_scans_gains_stands_beside_the_networks(r):
    assert temporal.told_by_prior(r, {}).empty  # nothing was measured
    looked = Results.__new__(Results)
    looked.__dict__ |= r.__dict__
    train, test = table(40, tells="growth"), table(24, tells="growth", seed=1)
    visits = r.visits[(r.visits["split"] == "test") & r.visits["with_prior"]].reset_index(drop=True)
    place = visits.iloc[test["patient"].str[1:].astype(int) % len(visits)].reset_index(drop=True)
    own = np.where(test["lesions"] == "", "", range(len(test)))
    test = test.assign(case=place["case"], patient=place["patient"], lesions=own)
    looked.candidates = pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)
    told = temporal.told_by_prior(looked, {"both": "jvss-0.995", "none": "jvss-0.3"}, sensitivities=(0.5, 0.8))
    counts = second_look.look(looked.candidates, visits)
    for s in (0.5, 0.8):
        at, (alone, both) = results.fp_at(s), counts.values()
        assert told.loc[f"{s:g}", "both / alone"] == evidence.in_words(claims.compare(at, both, alone, ratio=True))
    runs = temporal.ways(r, "jvss-0.995")
    pair = [r.group(runs[way], prior=True) for way in (temporal.PATH, temporal.NONE)]
    top = max(float(results.sensitivity(results.pooled(c)[0], -1)) for c in pair)
    column = told["network, path / no prior, both"]
    for s in (0.5, 0.8):
        at = results.fp_at(s)
        ratio = evidence.in_words(claims.compare(at, *pair, ratio=True, chance=r.chance(at, True)))
        assert column[f"{s:g}"] == (ratio if s > top else "above the rows")
    assert "network, path / no prior, none" not in told.columns and 0 < top < 0.9
    first, last = told["both / alone"]
    said = temporal.told_words(told)
    assert said.endswith(f": {first} at sensitivity 0.5, {last} at sensitivity 0.8")
    assert temporal.told_words(told.iloc[:0]) == "not run"
