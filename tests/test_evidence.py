"""Tables and pictures of results: every number drawn is one of the rows', choices look at validation alone."""

import copy

import numpy as np
import pandas as pd
import pytest
from test_claims import collected, rows_of

from dmplus import choosing, claims, evidence, results, scoring
from dmplus.claims import matched
from dmplus.results import FALSE, FOUND, MISSED, Results
from dmplus.runtime import InputError, rng
from dmplus.scoring import HALF, LEVELS
from dmplus.volume import Case


@pytest.fixture(scope="module")
def r(tmp_path_factory):
    """Made-up rows of BCE and JVSS on test, and on validation where the order of the two is turned."""
    draw = rng(0, "evidence")
    made = {f"bce-s{s}": ("prior", rows_of(draw, found=18, false=12)) for s in range(3)}
    made |= {
        f"jvss-{a:g}-s0": ("prior", rows_of(draw, found=f, false=5)) for a, f in ((0.995, 28), (0.9, 22), (0.5, 14))
    }
    made |= {f"sse-{a:g}-s0": ("prior", rows_of(draw, found=f, false=20)) for a, f in ((0.9, 24), (0.5, 12))}
    folder = collected(tmp_path_factory.mktemp("evidence") / "rows", made)
    validation = {"bce-s0": rows_of(draw, found=34, false=2), "jvss-0.5-s0": rows_of(draw, found=10, false=9)}
    rows, runs, visits = (pd.read_csv(folder / n) for n in ("rows.csv.gz", "runs.csv", "visits.csv"))
    more = pd.concat([t.assign(run=n, split="validation", second_image="prior") for n, t in validation.items()])
    pd.concat([rows, more[rows.columns]]).to_csv(folder / "rows.csv.gz", index=False)
    own = runs[runs["run"].isin(validation)].assign(split="validation")
    pd.concat([runs, own]).to_csv(folder / "runs.csv", index=False)
    pd.concat([visits, visits.assign(split="validation")]).to_csv(folder / "visits.csv", index=False)
    return Results(folder)


def test_the_choice_is_made_on_validation_whatever_the_test_says(r):
    table = evidence.choices(r, ["jvss-0.5-s0", "bce-s0"], budget=1.0)
    assert list(table.index) == ["bce-s0", "jvss-0.5-s0"]
    for name in table.index:
        level = int(table.loc[name, "level"])
        seen = r.group([name], split="validation").sum(1)[0]
        assert seen[level, FALSE] / 24 <= 1.0 == pytest.approx(1.0)
        assert table.loc[name, "validation FP"] == seen[level, FALSE] / 24
        test = r.group([name]).sum(1)[0][level]
        assert table.loc[name, "test sensitivity"].value == pytest.approx(test[FOUND] / (test[FOUND] + test[MISSED]))
    words = evidence.choices_in_words(table)
    assert "level" not in words and words.loc["bce-s0", "test FP"].count("[") == 1


def test_the_chooser_shows_the_test_once(r):
    chooser = choosing.Chooser(r, ["bce-s0", "jvss-0.5-s0"], budget=1.0)
    chooser.widget()
    c = chooser.controls
    seen = [(c["words"].value, c["picture"].png)]
    c["run"].value = "jvss-0.5-s0"
    seen.append((c["words"].value, c["picture"].png))
    for end in (0, len(LEVELS) - 1):
        c["level"].value = end
        seen.append((c["words"].value, c["picture"].png))
    assert len({w for w, _ in seen}) == len({p for _, p in seen}) == 4
    assert "On test" not in seen[-1][0] and "more than the rows hold" in seen[2][0]
    c["look"].click()
    assert "On test: " in c["words"].value and all(c[k].disabled for k in ("run", "level", "look"))
    with pytest.raises(InputError, match="expected one look at the test"):
        chooser.test()


def test_lesions_found_by_one_model_alone_are_listed_clearest_first(r):
    levels = (20, 16)
    found = evidence.found_by_one(r, "jvss-0.995-s0", "bce-s0", levels)
    rows = {
        n: r.rows[n, "test", "prior"].query("kind == 'lesion'").set_index(["case", "id"])
        for n in ("jvss-0.995-s0", "bce-s0")
    }
    one, other = rows.values()
    keys = [k for k in one.index if k in other.index and one.loc[k, "volume_mm3"] == other.loc[k, "volume_mm3"]]
    expected = {
        k for k in keys if one.loc[k, "top"] >= 20 and other.loc[k, "top"] < 16 and one.loc[k, "volume_mm3"] < 100
    }
    assert {(t.case, t.id) for t in found.itertuples()} == expected and len(found) > 1
    assert found["gap"].is_monotonic_decreasing


def test_sizes_are_counted_and_each_model_has_its_own_level(r):
    table = evidence.by_size(r, {"BCE": ["bce-s0"], "JVSS": ["jvss-0.5-s0"]}, levels={"BCE": 10})
    assert table[table.model == "BCE"]["lesions"].sum() == 96
    rows = r.rows["bce-s0", "test", "prior"].query("kind == 'lesion' and volume_mm3 < 100")
    line = table[(table.model == "BCE") & (table["size"] == "0.03–0.1")].iloc[0]
    assert line.sensitivity == pytest.approx((rows["top"] >= 10).mean())
    rows = r.rows["jvss-0.5-s0", "test", "prior"].query("kind == 'lesion' and volume_mm3 > 100")
    line = table[(table.model == "JVSS") & (table["size"] == "0.3–1")].iloc[0]
    assert line.sensitivity == pytest.approx((rows["top"] >= HALF).mean())
    assert len(evidence.draw_by_class(table).axes[0].containers) == 2


def test_states_are_counted_among_visits_with_a_prior(r):
    cases = [f"c{v:02d}" for v in range(1, 24, 2)]
    states = ["new", "growing", "stable", "first"]
    r.lesions = pd.DataFrame([(c, k + 1, states[k]) for c in cases for k in range(4)], columns=["case", "id", "state"])
    table = evidence.by_state(r, {"BCE": r.seeds("bce")}, levels={"BCE": 18})
    assert list(zip(table["state"], table["lesions"], strict=True)) == [("new", 12), ("growing", 12), ("stable", 12)]
    rows = pd.concat([r.rows[n, "test", "prior"] for n in r.seeds("bce")])
    new = rows[(rows["kind"] == "lesion") & rows["case"].isin(cases) & (rows["id"] == 1)]
    line = table[table["state"] == "new"].iloc[0]
    assert line.sensitivity == pytest.approx((new["top"] >= 18).mean()) and line.low < line.sensitivity < line.high
    assert "since the visit before" in evidence.draw_by_class(table).axes[0].get_xlabel()
    r.lesions = None
    with pytest.raises(InputError, match="collect them again"):
        evidence.by_state(r, {"BCE": ["bce-s0"]})


def drawn(axis):
    return [(line.get_xdata(), line.get_ydata()) for line in axis.lines]


def test_the_curve_over_alpha_draws_the_points_of_the_rows(r):
    figure = evidence.over_alpha(r, {"JVSS": "jvss", "SSE": "sse"}, also={"BCE": r.seeds("bce")}, moved="jvss-0.5-s0")
    for number, stem in enumerate(("jvss", "sse")):
        names = claims.curve_over_alpha(r, stem)
        counts = [r.group([n]).sum((0, 1)) for n in names]
        x, y = figure.axes[0].containers[number].lines[0].get_data()
        assert x == pytest.approx([float(results.sensitivity(c)) for c in counts])
        assert y == pytest.approx([float(results.precision(c)) for c in counts])
    words = [t.get_text() for t in figure.axes[1].texts]
    assert words == ["0.995", "0.5", "0.9", "0.5"]  # the ends of each curve
    assert not evidence.over_alpha(r, {"JVSS": "jvss"}).axes[0].get_legend() and figure.legends


def test_every_alpha_is_read_at_one_sensitivity(r):
    table = evidence.over_alpha_at_equal(r, {"JVSS": "jvss"}, sensitivity=0.5)
    each = table.loc["JVSS", "each"]
    at = {a: float(results.fp_at(0.5)(r.group([f"jvss-{a}-s0"]).sum((0, 1)))) for a in ("0.995", "0.9", "0.5")}
    assert {a: e.value for a, e in each.items()} == pytest.approx(at, nan_ok=True)
    known = {a: v for a, v in at.items() if not np.isnan(v)}
    assert table.loc["JVSS", "fewest"].endswith(f"(alpha {min(known, key=known.get)})")
    assert table.loc["JVSS", "not reached by"] == ", ".join(a for a in at if a not in known)


def test_one_is_better_from_a_budget_on(r):
    """JVSS 0.995 of the made-up rows has fewer false positives and higher peaks than SSE 0.5: better everywhere."""
    at = evidence.better_from(r, ["jvss-0.995-s0"], ["sse-0.5-s0"])
    assert 0.1 <= at < 20 and np.isnan(evidence.better_from(r, ["sse-0.5-s0"], ["jvss-0.995-s0"]))
    one, other = (r.group([n]).sum((0, 1)) for n in ("jvss-0.995-s0", "sse-0.5-s0"))
    for budget in (at * 1.01, 10.0, 20.0):
        assert results.sensitivity_at(budget)(one) > results.sensitivity_at(budget)(other)


def test_the_worst_alpha_of_a_loss_is_held_against_the_best_of_all_others(r):
    estimate = r.group(["jvss-0.9-s0"]), r.group(["sse-0.9-s0"]), r.group(["sse-0.5-s0"])
    fp = [results.of(results.fp_at(claims.EQUAL), c) for c in estimate]
    equal = pd.DataFrame({"JVSS": {"each": {"0.9": fp[0]}}, "SSE": {"each": {"0.9": fp[1], "0.5": fp[2]}}}).T
    worst, (best, name), ratio = evidence.worst_against_best(r, equal, "JVSS")
    known = {a: e.value for a, e in (("0.9", fp[1]), ("0.5", fp[2])) if not np.isnan(e.value)}
    assert worst == fp[0].value and best == min(known.values()) and ratio.value == pytest.approx(worst / best)
    assert name == f"SSE with alpha {min(known, key=known.get)}"


def test_budgets_compare_curves_and_say_only_what_is_sure(r):
    groups = {"BCE": r.seeds("bce"), "same": r.seeds("bce"), "better": ["jvss-0.995-s0"]}
    table = evidence.at_budgets(r, groups, budgets=(2,), against="BCE")
    value = float(results.sensitivity_at(2)(r.group(r.seeds("bce")).sum(1).mean(0)))
    assert (
        table.loc["BCE", "at 2 FP a volume"].startswith(f"{value:.2f} [") and table.loc["BCE", "minus BCE, at 2"] == ""
    )
    assert table.loc["same", "minus BCE, at 2"] == "0.00 [0.00, 0.00]"
    same, better = evidence.ahead_at_budgets(r, groups, budgets=(2,), against="BCE").splitlines()
    assert "no interval excludes 0" in same and better == "better against BCE: ahead at 2"
    turned = {"better": groups["better"], "BCE": groups["BCE"]}
    assert evidence.ahead_at_budgets(r, turned, budgets=(2,), against="better") == "BCE against better: behind at 2"


def test_gains_by_size_are_the_differences_of_the_figure_and_losses_are_said(r):
    shown, levels = {"BCE": "bce-s0", "JVSS": "jvss-0.5-s0"}, {"BCE": 10, "JVSS": 16}
    gain = evidence.gains(r, shown, levels)
    table = evidence.by_size(r, {k: [v] for k, v in shown.items()}, levels=levels).set_index(["model", "size"])
    for size, e in gain.items():
        expected = table.loc[("JVSS", size), "sensitivity"] - table.loc[("BCE", size), "sensitivity"]
        assert e.value == pytest.approx(expected, nan_ok=True)
    made = {k: results.estimate(v, np.array([v])) for k, v in (("a", 0.2), ("b", -0.1), ("c", 0.0))}
    made["d"] = results.estimate(-0.1, np.array([-0.3, 0.1]))  # may be none
    assert evidence.gains_in_words(made) == "JVSS gains most at a cm³, loses at b cm³"
    assert evidence.gains_in_words({k: made[k] for k in ("a", "c")}) == "JVSS gains most at a cm³"
    rows = r.rows["bce-s0", "test", "prior"].query("kind == 'lesion' and top < 10")
    first, second = evidence.misses_in_words(r, shown, levels).splitlines()
    assert first == f"BCE misses {len(rows)}, of which {(rows['volume_mm3'] < 100).sum()} below 0.1 cm³"
    assert second.startswith("JVSS misses ")


def test_a_rank_beyond_the_list_is_the_last_and_said(r):
    table = pd.DataFrame({"volume_mm3": [5.0, 7.0]})
    assert evidence.ranked(table, 1)[1] == "rank 1 of 2, a metastasis of 5 mm³"
    row, words = evidence.ranked(table, 9)
    assert row["volume_mm3"] == 7 and words == "rank 2 of 2 (asked for 9), a metastasis of 7 mm³"
    with pytest.raises(InputError, match="another budget"):
        evidence.ranked(table.iloc[:0], 1)


def test_the_rule_of_the_exercise_finds_the_librarys_choice(r):
    curve = evidence.validation_curve(r, "bce-s0")
    chosen = evidence.choices(r, ["bce-s0"], budget=1.0).iloc[0]
    allowed = curve[curve["fp"] <= 1.0]
    assert allowed["sensitivity"].max() == chosen["validation sensitivity"]
    assert curve.loc[chosen["level"], "fp"] == chosen["validation FP"] <= 1.0
    words = evidence.tested_in_words(chosen)
    gap = chosen["test sensitivity"].value - chosen["validation sensitivity"]
    assert f"{gap:+.2f}" in words and ("fewer" if gap < 0 else "more") in words


def test_trainings_are_listed_without_an_alpha_or_weight_that_is_not_theirs():
    runs = pd.DataFrame(
        [("bce", 37, 1.0, 1.0, 0.5, 5000, 60.0, "cpu", "float32"), ("sse", 37, 1.0, 1.0, 0.2, 5000, 60.0, "cpu", "float32"),
         ("jvss", 37, 2 / 3, 1 / 3, 0.95, 5000, 120.0, "cpu", "float32"),
         ("jvss", 37, 2 / 3, 1 / 3, 0.9, 5000, 240.0, "cpu", "float32"),
         ("jvss", 37, 2 / 3, 1 / 3, 0.9, 5000, 90.0, "cpu", "bfloat16"),
         ("jvss", 37, 2 / 3, 1 / 3, 0.9, 20000, 24.3, "cuda", "bfloat16")],
        columns=["loss", "segment", "detection", "segmentation", "alpha", "segments", "train_seconds", "device", "precision"],
    )  # fmt: skip
    table = evidence.trainings(runs)
    assert table.loc["BCE", ["alpha", "weight of VSS or SSE", "weight of BCE"]].tolist() == ["–", "–", "1"]
    assert table.loc["SSE", "weight of BCE"] == "–" and set(table.loc["JVSS", "weight of VSS or SSE"]) == {"0.67"}
    kept = table.loc["JVSS", ["alpha", "trainings", "segments", "minutes", "on"]]  # each length, machine and number format
    assert kept.to_numpy().tolist() == [["0.95, 0.9", 2, 5000, "2 to 4", "CPU, float32"],
                                        ["0.9", 1, 5000, "1.5", "CPU, bfloat16"],
                                        ["0.9", 1, 20000, "0.41", "GPU, bfloat16"]]  # fmt: skip


def test_a_watched_training_says_what_moved_and_has_no_before_from_scratch():
    history = pd.DataFrame({"loss": [3.0, 3, 3], "vss": [1.0, 2.0, 1.0], "bce": [1.0, 1.1, 1.0]})
    assert evidence.steadier(history) == "from point to point, relative to its mean: VSS moves by 75%, BCE moves by 10%"
    after = {"val_sensitivity": 0.5, "val_fp_per_volume": 3}
    label = np.zeros((9, 9, 9), np.uint8)
    label[1, 1, 1] = label[7, 7, 7] = 1
    one = Case(name="x", image=label, mask=label == 0, label=label, prior=None, affine=np.eye(4))
    assert "before" not in evidence.watched_in_words(None, after, one)
    said = evidence.watched_in_words({"val_sensitivity": 1.0, "val_fp_per_volume": 1}, after, one)
    assert said.endswith("with 2 metastases, at 0.5: 2 found and 1 false positive before, 1 found and 3 false positives after.")
    assert evidence.moves(history) == pytest.approx({"VSS": 0.75, "BCE": 0.1 / (3.1 / 3)})


def test_the_title_over_alpha_follows_the_verdicts_and_a_loss_of_ones_own_is_compared(r):
    table = claims.claims_table(r)
    said = evidence.ahead_in_words(table)
    assert said == "JVSS is more precise than SSE alone: holds; than SSE + BCE: not run"
    assert evidence.against_jvss(r) == ""  # no loss of one's own
    assert evidence.against_jvss(evidence.shipped(project=True)).startswith("focal_tversky minus JVSS: ")


def test_shared_recalls_lie_between_the_ends_of_all_curves(r):
    low, high = evidence.shared_recalls(r, {"JVSS": "jvss", "SSE": "sse"})
    ends = {
        stem: sorted(float(results.sensitivity(r.group([n]).sum((0, 1)))) for n in claims.curve_over_alpha(r, stem))
        for stem in ("jvss", "sse")
    }
    assert (low, high) == (max(e[0] for e in ends.values()), min(e[-1] for e in ends.values()))


def test_a_froc_curve_falls_with_its_threshold_and_is_marked_at_half(r):
    figure = evidence.froc(r, {"BCE": ["bce-s0"]})
    total = r.group(["bce-s0"]).sum((0, 1))
    x, y = drawn(figure.axes[0])[0]
    assert (np.diff(y) <= 0).all()  # levels rise
    marker = figure.axes[0].containers[0].lines[0].get_data()
    assert marker[0][0] == pytest.approx(total[HALF, FALSE] / 24)


def test_ours_stand_beside_the_papers(r):
    table = evidence.beside_the_paper(r, [("bce", "DeepMedic", None, "BCE"), ("jvss-0.9", "DeepMedic", 0.9, "JVSS"),
                                          ("jvss-1", "DeepMedic", 1, "JVSS")])  # fmt: skip
    assert list(table.index) == [
        "DeepMedic, BCE (3 seeds)",
        "DeepMedic, JVSS 0.9 (1 seed)",
    ]  # what was not run is left out
    assert table.loc["DeepMedic, BCE (3 seeds)", "paper sens."] == 0.853
    assert table["sensitivity"].str.contains(r"^0\.\d\d \[0\.\d\d, [01]\.\d\d\]$").all()


def test_losses_are_put_in_order_by_our_number_or_the_papers():
    names = ["3D U-Net, BCE (1 seed)", "3D U-Net, JVSS 0.9 (2 seeds)", "3D U-Net, JVSS 0.5 (1 seed)"]
    table = pd.DataFrame(
        {"FP/volume": ["70.9 [67, 74]", "139.9 [134, 145]", "15.0 [13, 16]"], "paper": [0.9, 0.8, 0.95]}, names
    )
    assert evidence.in_order(table, "FP/volume") == "JVSS 0.9 > BCE > JVSS 0.5"  # 139.9 above 70.9: numbers, not words
    assert evidence.in_order(table, "paper") == "JVSS 0.5 > BCE > JVSS 0.9"
    assert evidence.in_order(table.iloc[:0], "paper") == ""
    both = table.assign(
        precision=["0.03 [0, 1]", "0.02 [0, 1]", "0.1 [0, 1]"], **{"paper prec.": [0.667, 0.197, 0.835]}
    )
    assert evidence.moved_in_words(both, "BCE", "JVSS 0.9") == (
        "from BCE to JVSS 0.9 our precision goes from 0.03 to 0.02, the paper's from 0.667 to 0.197"
    )
    assert "0.918 for JVSS and 0.631 for SSE" in evidence.papers_areas()
    assert evidence.in_order(table.assign(same=[0.02, 0.05, 0.02]), "same") == "JVSS 0.9 > BCE = JVSS 0.5"


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """JVSS 0.5 of 1,000, 5,000 and 80,000 segments, ever fewer false positives, but for the last, which finds next to nothing."""
    draw = rng(1, "lengths")
    made = {name: ("prior", rows_of(draw, found=found, false=false)) for name, found, false in (
        ("jvss-0.5-s0", 30, 8), ("jvss-0.5-1k-s0", 30, 20), ("jvss-0.5-80k-s0", 2, 1), ("jvss-0.5-path-s0", 30, 9),
        ("jvss-0.5-scratch-s0", 1, 1), ("jvss-0.55-s0", 30, 3))}  # fmt: skip
    folder = collected(tmp_path_factory.mktemp("lengths") / "rows", made)
    runs = pd.read_csv(folder / "runs.csv")
    runs["segments"] = runs["run"].map({"jvss-0.5-1k-s0": 1000, "jvss-0.5-80k-s0": 80000}).fillna(5000).astype(int)
    runs.to_csv(folder / "runs.csv", index=False)
    told = pd.DataFrame({"run": ["a"] * 3 + ["b"] * 3 + ["c"], "step": [1, 2, 3, 1, 2, 3, 1], "segments": [10, 20, 30] * 2 + [10],
                         "rate": 0.1, "bce": [0.5, 0.1, 0.31, 0.5, 0.1, 0.29, np.nan]})  # fmt: skip
    told.to_csv(folder / "histories.csv", index=False)
    return Results(folder)


def test_outlines_are_compared_on_what_both_find(longer):
    """A lesion that the other misses counts for neither; sizes are apart; the interval is over patients."""
    r = copy.copy(longer)
    r.rows = dict(longer.rows)
    draw = rng(2, "outlines")
    for name, base in (("jvss-0.5-s0", 0.9), ("jvss-0.55-s0", 0.7)):  # a fifth of each is missed
        rows = r.rows[name, "test", "prior"].copy()
        found = rows["dice"].notna()
        rows.loc[found, "dice"] = np.where(draw.random(found.sum()) < 0.2, np.nan, base + 0.1 * draw.random(found.sum()))
        r.rows[name, "test", "prior"] = rows
    one, other = (r.rows[n, "test", "prior"].query("kind == 'lesion'").set_index(["case", "id"])
                  for n in ("jvss-0.5-s0", "jvss-0.55-s0"))  # fmt: skip
    gap = (one["dice"] - other["dice"]).dropna()
    assert 0 < len(gap) < min(one["dice"].notna().sum(), other["dice"].notna().sum())
    table = evidence.outlines(r, {"JVSS": ["jvss-0.5-1k-s0", "jvss-0.5-s0"]}, ["jvss-0.55-s0"])
    assert list(table.index) == ["JVSS, 5,000 segments"]  # the rival has no other length
    line, small = table.iloc[0], one.loc[gap.index, "volume_mm3"] < 100
    assert line["both find"] == len(gap) and small.any() and not small.all()
    for words, expected in (("all", gap), ("below 0.1 cm³", gap[small]), ("0.1 cm³ and more", gap[~small])):
        assert line[words].value == pytest.approx(expected.mean())
        assert line[words].low < line[words].value < line[words].high


def test_two_runs_stand_side_by_side_along_sensitivities(longer):
    a, b = "jvss-0.5-1k-s0", "jvss-0.5-s0"
    table = evidence.along_sensitivities(longer, a, b, sensitivities=(0.3, 0.5))
    assert table.index.tolist() == ["0.3", "0.5"] and table.columns.tolist() == [a, b, "ratio"]
    for s in (0.3, 0.5):
        both = [longer.group([name]) for name in (a, b)]
        ours = [evidence.in_words(results.of(results.fp_at(s), counts)) for counts in both]
        ratio = claims.compare(results.fp_at(s), *both, ratio=True)
        assert table.loc[f"{s:g}"].tolist() == [*ours, evidence.in_words(ratio)] and ratio.value > 1
    beyond = evidence.along_sensitivities(longer, "jvss-0.5-80k-s0", b, sensitivities=(0.5,))
    assert beyond.loc["0.5"].tolist() == ["beyond the rows", ours[1], "beyond the rows"]


def test_the_learning_curve_is_of_one_recipe_and_marks_what_is_not_reached(longer):
    curves = evidence.lengths(longer, {"JVSS 0.5": "jvss-0.5"})
    assert curves == {
        "JVSS 0.5": ["jvss-0.5-1k-s0", "jvss-0.5-s0", "jvss-0.5-80k-s0"]
    }  # by length; no other start, no path
    ours = [results.of(results.fp_at(0.5), longer.group([n])).value for n in curves["JVSS 0.5"]]
    assert ours[0] > ours[1] and np.isnan(ours[2])
    axis, at_half = evidence.learning_curve(longer, curves, sensitivity=0.5).axes
    line = axis.containers[0].lines[0]
    assert line.get_xdata().tolist() == [1000, 5000] and line.get_ydata().tolist() == pytest.approx(ours[:2])
    assert [t.get_text() for t in axis.texts] == ["not reached"] and axis.texts[0].xy[0] == 80000
    words = evidence.lengths_in_words(longer, curves, sensitivity=0.5)
    ratio = claims.compare(
        results.fp_at(0.5), *(longer.group([n]) for n in ("jvss-0.5-s0", "jvss-0.5-1k-s0")), ratio=True
    )
    assert f"{ours[0]:.3g} after 1,000, {ours[1]:.3g} after 5,000, not reached after 80,000" in words
    assert words.endswith(f"5,000 against 1,000 segments: {ratio} times") and ratio.value < 1
    half = [
        [results.of(f, longer.group([n])).value for n in curves["JVSS 0.5"]]
        for f in (results.fp_per_volume, results.sensitivity)
    ]
    assert at_half.containers[0].lines[0].get_ydata().tolist() == pytest.approx(half[0])
    words = evidence.lengths_in_words(longer, curves, sensitivity=None)
    assert (
        words.startswith("false positives per volume at threshold 0.5\n")
        and "; 80,000 against 5,000 segments: " in words
    )
    assert all(
        f"{fp:.3g} after {n:,} ({found:.1%} found)" in words
        for n, fp, found in zip((1000, 5000, 80000), *half, strict=True)
    )


def test_lengths_are_read_from_all_seeds_and_beside_the_rival(tmp_path):
    draw = rng(2, "rivals")
    made = {name: ("prior", rows_of(draw, found=30, false=false)) for name, false in (
        ("bce-s0", 40), ("bce-s1", 30), ("bce-80k-s0", 8), ("jvss-0.5-s0", 12), ("jvss-0.5-s1", 9), ("jvss-0.5-80k-s0", 9),
        ("jvss-0.5-300k-s0", 4))}  # fmt: skip
    folder = collected(tmp_path / "rows", made)
    runs = pd.read_csv(folder / "runs.csv")
    long = {"bce-80k-s0": 80000, "jvss-0.5-80k-s0": 80000, "jvss-0.5-300k-s0": 300000}
    runs["segments"] = runs["run"].map(long).fillna(5000).astype(int)
    runs.to_csv(folder / "runs.csv", index=False)
    r = Results(folder)
    curves = evidence.lengths(r, {"BCE": "bce", "JVSS 0.5": "jvss-0.5"})
    fp = results.fp_at(claims.EQUAL)
    known = {n: results.of(fp, r.group(names)).value for n, names in {
        "bce 5": ["bce-s0", "bce-s1"], "bce 80": ["bce-80k-s0"], "jvss 5": ["jvss-0.5-s0", "jvss-0.5-s1"],
        "jvss 80": ["jvss-0.5-80k-s0"]}.items()}  # fmt: skip
    first, last = known["jvss 5"] / known["bce 5"], known["jvss 80"] / known["bce 80"]
    assert first < 0.6 < last
    assert evidence.learning_title(r, curves, "BCE") == (
        f"JVSS 0.5 has {first:.2f}, {last:.2f} times BCE's false positives after 5, 80 thousand segments"
    )
    drawn = evidence.learning_curve(r, curves).axes[0].containers[0].lines[0].get_ydata()
    assert drawn.tolist() == pytest.approx([known["bce 5"], known["bce 80"]])
    assert f"{known['bce 5']:.3g} after 5,000, {known['bce 80']:.3g} after 80,000" in evidence.lengths_in_words(r, curves)
    head, bce, jvss = evidence.falls_in_words(r, curves).splitlines()
    assert "at sensitivity 0.85, as a multiple of those after 5,000" in head
    assert bce.startswith(f"BCE: {known['bce 80'] / known['bce 5']:.2f} [") and bce.endswith("] after 80,000")
    assert jvss.count("] after ") == 2 and "at threshold 0.5" in evidence.falls_in_words(r, curves, sensitivity=None)
    told = " ".join(evidence.leads_in_words(r, {"JVSS 0.5": curves["JVSS 0.5"]}, curves["BCE"]).split())
    assert f"{first:.2f} [" in told and f"{last:.2f} [" in told and "for 300,000 there is no BCE" in told
    assert evidence.seeds_in_words(r, curves) == "2 seeds after 5,000 segments, else one"
    assert evidence.seeds_in_words(r, {"JVSS 0.5": curves["JVSS 0.5"][:1]}) == "2 seeds after 5,000 segments"
    kinds = evidence.by_kind(r, curves["JVSS 0.5"])["5,000 segments"]
    assert kinds.tolist() == pytest.approx(list(r.false_by_kind(["jvss-0.5-s0", "jvss-0.5-s1"]).values()))
    del r.rows["bce-s1", "test", "prior"]
    assert evidence.seeds_in_words(r, curves) == "one seed"


def test_runs_stand_beside_each_other_at_one_threshold_and_at_one_sensitivity(longer):
    groups = {"short": ["jvss-0.5-1k-s0"], "lost": ["jvss-0.5-80k-s0"]}
    table = evidence.at_half_and_equal(longer, groups, sensitivity=0.5)
    assert table.index.tolist() == ["short", "lost"]
    found, missed, false = longer.group(["jvss-0.5-1k-s0"]).sum((0, 1))[HALF, [FOUND, MISSED, FALSE]]
    line = table.loc["short"]
    assert line["sensitivity"].startswith(f"{found / (found + missed):.2f} [")
    assert line["precision"].startswith(f"{found / (found + false):.2f} [")
    assert line["FP/volume"].startswith(f"{false / 24:.1f} [")
    equal = results.of(results.fp_at(0.5), longer.group(["jvss-0.5-1k-s0"])).value
    assert line["FP/volume at sensitivity 0.5"].startswith(f"{equal:.1f} [")
    assert table.loc["lost"].iloc[-1] == "beyond the rows"


def test_a_training_is_lost_whose_last_bce_is_more_than_three_times_its_lowest(longer):
    lost = evidence.broken_down(longer.histories)
    assert lost.index.tolist() == ["a"]
    assert lost.loc["a"].tolist() == [0.1, 20, 0.31, 30, 0.1]
    assert evidence.broken_down(longer.histories.iloc[3:]).empty


def test_lost_trainings_stand_beside_those_made_again():
    before = evidence.lost()
    assert set(evidence.broken_down(before).index) == {"jvss-0.5-scratch-s0", "jvss-0.995-80k-s0", "jvss-0.995-300k-s0"}
    after = pd.DataFrame({"run": "jvss-0.995-80k-s0", "segments": [100, 2000], "bce": [0.5, 0.25]})
    axes = evidence.draw_before_and_after(before, after).axes
    assert [a.get_title() for a in axes] == ["jvss-0.5-scratch", "jvss-0.995-80k", "jvss-0.995-300k"]
    drawn = {a.get_title(): [line.get_ydata().tolist() for line in a.lines] for a in axes}
    assert drawn["jvss-0.995-80k"][0] == before.loc[before["run"] == "jvss-0.995-80k-s0", "bce"].tolist()
    assert drawn["jvss-0.995-80k"][1] == [0.5, 0.25] and drawn["jvss-0.995-300k"][1] == []


def test_verdicts_in_words_keep_the_rows_asked_for(r):
    table = claims.claims_table(r)
    shown = evidence.verdicts(table, of_claims=["than BCE at equal"])
    assert len(shown) == 5 and set(shown["verdict"]) <= {"holds", "weak", "not shown", "opposite", "not run"}
    ratio = matched(r.group(r.seeds("jvss-0.995")), r.group(r.seeds("bce")))
    assert f"{ratio.value:.3g}" in shown["ours"].iloc[0]
    assert [evidence._claimed(n) for n in ("0 to ", " to 0", "-0.05 to 0.05")] == [
        "above 0",
        "below 0",
        "-0.05 to 0.05",
    ]
    assert shown["claimed"].tolist() == ["below 1"] * 5 and shown["what"].iloc[0].startswith("ratio of false positives")


def test_a_lesions_peak_is_read_inside_it_alone():
    from conftest import ball_case

    case = ball_case(3)
    inside = np.argwhere(case.label > 0)
    lesions = evidence.label_lesions(case.label > 0)[0]
    first = np.argwhere(lesions == 1).mean(0)
    probability = np.where(lesions == 1, 0.4, 0.9).astype(np.float32)
    assert len(inside) and evidence.peak_of_lesion(case, probability, first) == pytest.approx(0.4)
    figure = evidence.draw_maps(case, {"a": probability, "b": probability * 0}, {"a": 0.3, "b": 0.5}, first)
    titles = [a.get_title(loc="left") or a.get_title() for a in figure.axes]
    assert titles[1:3] == ["a\nfrom 0.3 on", "b\nfrom 0.5 on"] and len(figure.axes) == 4


def test_a_test_visit_is_made_anew_by_its_name_with_its_prior_elsewhere():
    shipped = evidence.shipped()
    visits = shipped.visits[(shipped.visits["split"] == "test") & shipped.visits["with_prior"]]
    name = visits["case"].iloc[0]
    case, moved = evidence.test_case(name), evidence.test_case(name, moved_mm=3.0)
    assert case.name == moved.name == name and np.array_equal(case.image, moved.image)
    assert np.abs(case.prior - moved.prior)[case.mask].mean() > 0
    lesions = shipped.rows["bce-s0", "test", "prior"].query("kind == 'lesion' and case == @name")
    assert evidence.label_lesions(case.label > 0)[1] == len(lesions)


def test_the_shipped_rows_are_read_with_and_without_the_project():
    shipped = evidence.shipped()
    assert shipped.has("bce-s0") and shipped.has("bce-s0", split="validation")
    assert scoring.LEVELS[HALF] == 0.5


def test_no_two_lines_look_alike():
    assert len({str(evidence.line_look(n)) for n in range(36)}) == 36
