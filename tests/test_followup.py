"""Patients followed over visits: what changes, which networks are there, and a prior that is moved."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case

from dmplus import exercises_patients, followup, network, synthetic, temporal
from dmplus.review import LIES_THERE
from dmplus.runtime import InputError, Machine
from dmplus.temporal import CHANNEL, PATH

CPU = Machine("cpu", "float32", "test")
SMOKE = synthetic.COHORTS["smoke"]


def test_patients_are_followed_by_visits_then_by_part():
    order = followup.followed(SMOKE, 6)
    visits = [len(synthetic.schedule(SMOKE, i)[0]) for i in order]
    assert visits == sorted(visits, reverse=True) and min(visits) > 1
    most = [synthetic.split_of(SMOKE, i) == "test" for i, n in zip(order, visits, strict=True) if n == visits[0]]
    assert most == sorted(most, reverse=True)
    assert followup.followed(SMOKE, 1) == order[:1]
    with pytest.raises(InputError, match="choose another seed"):
        followup.followed(dataclasses.replace(SMOKE, visits=(1.0,), prior_share_train=0.0, prior_share_test=0.0), 2)


def test_a_visit_is_made_anew_with_the_one_after_it(monkeypatch):
    monkeypatch.setitem(synthetic.COHORTS, "quick", dataclasses.replace(SMOKE, name="quick"))
    followup._visits.cache_clear()
    index = followup.followed(SMOKE, 1)[0]
    names = [v.case.name for v in synthetic.patient(synthetic.COHORTS["quick"], index).visits]
    case, later = followup.visit_and_next(names[-2])
    assert (case.name, later.name) == (names[-2], names[-1])
    assert followup.visit_and_next(names[-1])[1] is None
    followup._visits.cache_clear()


def test_an_object_changes_by_its_largest_cube_of_three():
    labels = np.zeros((12, 12, 12), np.int32)
    labels[2:4, 2:4, 2:4] = 1
    labels[8, 8, 8] = 2
    local = np.zeros(labels.shape, np.float32)
    local[4, 3, 3], local[9, 8, 8], local[6, 6, 6] = 2.0, 3.0, 9.0
    assert followup._measured(labels, {1: "new", 2: "stable"}, local, lesion=True) == [
        ("new", True, 8, 2.0),
        ("stable", True, 1, 3.0),
    ]
    assert followup._measured(labels, {1: "vessel", 2: "vessel"}, local, lesion=False) == [("vessel", False, 8, 2.0)]
    assert followup._measured(labels, {1: None}, local, lesion=True) == []


def test_the_chance_of_a_larger_change_is_that_of_all_pairs(monkeypatch):
    table = pd.DataFrame(
        [("a_0_v1", "new", True, 3.0), ("a_1_v1", "new", True, 0.5), ("a_0_v2", "stable", True, 0.1),
         ("a_0_v1", "vessel", False, 1.0), ("a_1_v1", "elongated spot", False, 2.0)],
        columns=["case", "what", "lesion", "change"],
    )  # fmt: skip
    clear = followup.clearer(table)
    assert clear["chance"].to_dict() == {"new": 0.5, "stable": 0.0}  # pairs: 2 of 2, 0 of 2; 0 of 2
    assert clear["n"].to_dict() == {"new": 2, "stable": 1}
    assert clear["patients"].to_dict() == {"new": 2, "stable": 1} and clear[["low", "high"]].isna().all(axis=None)
    assert followup.changes_title(clear) == "What changes, and how much"  # two metastases make no title
    known = clear.assign(low=[np.nan, 0.0], high=[np.nan, 0.2])
    assert followup.changes_title(known) == "More change than in a look-alike: stable 0% of pairs"
    assert "stable 0% (n = 1 in 1 patients: too few for an interval)" in temporal.chance_words(clear)
    monkeypatch.setattr(followup, "LEAST_LESIONS", 2)
    monkeypatch.setattr(followup, "LEAST_PATIENTS", 2)
    clear = followup.clearer(table)
    assert clear.loc["new", ["low", "high"]].tolist() == [0, 1]  # of patient a_0 alone all pairs are won, of a_1 none
    assert clear.loc["stable", ["low", "high"]].isna().all()
    assert temporal.chance_words(clear).startswith("new 50% [0%, 100%] (n = 2), stable 0% (n = 1 in 1")
    assert followup.changes_title(clear[:0]) == "What changes, and how much"
    assert followup.clearer(table[table["lesion"]]).empty and followup.clearer(table[:0]).empty
    axis = followup.draw_changes(table).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "elongated spot (n = 1)", "vessel (n = 1)", "stable metastasis (n = 1)", "new metastasis (n = 2)"
    ]  # fmt: skip


def test_changes_of_a_cohort_hold_every_visit_with_a_prior():
    index = followup.followed(SMOKE, 1)[0]
    visits = synthetic.patient(SMOKE, index).visits
    table = followup.changes(SMOKE, [index])
    assert set(table["case"]) <= {v.case.name for v in visits if v.case.prior is not None} and len(table)
    lesions = sum(len(v.lesions) for v in visits if v.case.prior is not None)
    assert table["lesion"].sum() == lesions and (table["change"] >= 0).all()
    assert set(table.loc[~table["lesion"], "what"]) <= set(LIES_THERE)


def test_networks_of_the_nearest_stem_that_has_both(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "weights_path", lambda name: tmp_path / name if name == "sens" else name)
    assert followup.networks("jvss-0.5") == {}
    (tmp_path / "experiments").mkdir()
    for way, alphas in ((PATH, (0.5, 0.995)), (CHANNEL, (0.5,))):
        for alpha in alphas:
            net = network.build(network.preset("smoke", prior=way))
            network.save(tmp_path / "experiments" / f"jvss-{alpha:g}-{way}-s0.safetensors", net)
    assert {w: n for w, (n, _) in followup.networks("jvss-0.995-fresh").items()} == {
        CHANNEL: "jvss-0.5-channel-s0", PATH: "jvss-0.5-path-s0"
    }  # fmt: skip
    for way in (PATH, CHANNEL):
        net = network.build(network.preset("smoke", prior=way))
        network.save(tmp_path / "experiments" / f"jvss-0.995-fresh-{way}-s0.safetensors", net)
    assert followup.networks("jvss-0.5-fresh")[PATH][0] == "jvss-0.995-fresh-path-s0"
    assert followup.networks("jvss-0.5")[PATH][0] == "jvss-0.5-path-s0"
    (tmp_path / "experiments" / "jvss-0.5-channel-s0.safetensors").unlink()
    assert {w: n for w, (n, _) in followup.networks("jvss-0.9").items()} == {
        w: f"jvss-0.995-fresh-{w}-s0" for w in (CHANNEL, PATH)
    }  # of other training patients, where those alone have both
    (tmp_path / "experiments" / "jvss-0.995-fresh-channel-s0.safetensors").unlink()
    assert {w: n for w, (n, _) in followup.networks("jvss-0.9").items()} == {PATH: "jvss-0.995-path-s0"}


def moved_by_hand(case, before, after, monkeypatch):
    maps = iter([before, after])
    monkeypatch.setattr(followup, "_map", lambda net, case, machine: next(maps))
    return followup.Moved(case, 2.0, {CHANNEL: None}, {CHANNEL: 0.5})


def test_what_appears_as_a_prior_moves_is_counted_and_shown(monkeypatch):
    case = ball_case(0)
    free = np.argwhere(case.mask & (case.label == 0))
    truth = np.argwhere(case.label > 0)
    far = free[np.abs(free - truth.mean(0)).max(1) > 12]
    first, second = far[0], next(f for f in far if np.abs(f - far[0]).max() > 10)
    before, after = np.zeros(case.shape, np.float32), np.zeros(case.shape, np.float32)
    before[tuple(truth[0])] = after[tuple(truth[0])] = 0.9
    before[tuple(second)], after[tuple(second)] = 0.6, 0.7  # a false positive before and after
    after[tuple(first)] = 0.8  # one that appears
    made = moved_by_hand(case, before, after, monkeypatch)
    counts = made.counts().loc[CHANNEL]
    assert counts["false, in place"] == 1 and counts["false, 2 mm"] == 2 and counts["of these new"] == 1
    assert counts["found, in place"] == counts["found, 2 mm"] == 1
    place, why = made.place()
    assert place == tuple(first) and why == "the channel has a new false positive"
    assert made.title() == "One patient, moved by 2 mm: 1 new false positives of the channel"
    assert made.heard(place)[CHANNEL] == (0.0, pytest.approx(0.8))
    assert len(made.draw(place).axes) == 6 + 2  # with colour bars
    still = moved_by_hand(case, before, before, monkeypatch)
    (x, y, z), why = still.place()
    change = np.abs(temporal.difference(still.moved) - temporal.difference(case))
    assert why == "the difference image changes most" and case.mask[x, y, z]
    assert change[x, y, z] > np.median(change[case.mask])


def test_the_place_shown_is_one_that_is_counted_as_new(monkeypatch):
    """The largest rise lies at the rim of a group that stands in place, too; the new ones come first, largest rise first."""
    case = ball_case(0)
    free = np.argwhere(case.mask & (case.label == 0))
    far = free[np.abs(free - np.argwhere(case.label > 0).mean(0)).max(1) > 10]
    old = far[0]
    apart = far[np.abs(far - old).max(1) > 8]
    weak, clear = apart[0], apart[np.abs(apart - apart[0]).max(1) > 4][0]
    before, after = np.full(case.shape, 0.1, np.float32), np.full(case.shape, 0.1, np.float32)
    rim = old + [0, 0, 1]
    before[tuple(old)] = after[tuple(old)] = 0.9
    after[tuple(rim)] = 0.95
    before[tuple(weak)], after[tuple(weak)] = 0.48, 0.7
    after[tuple(clear)] = 0.6
    made = moved_by_hand(case, before, after, monkeypatch)
    assert made.counts().loc[CHANNEL, "of these new"] == 2
    assert made.appeared(CHANNEL) == [tuple(clear), tuple(weak)]
    assert [made.place(k)[0] for k in (1, 2)] == [tuple(clear), tuple(weak)]
    third, why = made.place(3)
    assert why != made.place()[1] and np.abs(np.array(third) - old).sum() > temporal.REACH


def test_networks_hear_their_own_prior_moved():
    case = ball_case(0)
    torch.manual_seed(0)
    nets = {p: network.build(network.preset("smoke", prior=p)).eval() for p in (CHANNEL, PATH)}
    made = followup.Moved(case, 3.0, nets, dict.fromkeys(nets, 0.5), machine=CPU)
    assert list(made.counts().index) == [CHANNEL, PATH]
    assert all((made.before[w] != made.after[w]).any() for w in nets)


def test_a_false_positive_is_drawn_with_the_visit_that_settles_it(monkeypatch):
    case = ball_case(0)
    monkeypatch.setattr(followup, "visit_and_next", lambda name: (case, case))
    table = pd.DataFrame([("a", 1, 20, 20, 22, 18), ("b", 4, 16, 20, 22, 18)], columns=["case", "what", "peak", *"xyz"])
    figure, said = followup.draw_one(table, 1, "a false positive")
    assert len(figure.axes) == 5 and "number 1 of 2" in said and "a vessel" in said and "0.73" in said
    assert "number 2 of 2" in followup.draw_one(table, 9, "a false positive")[1]
    assert "not run" in followup.draw_one(None, 1, "x")[1] and "none fits" in followup.draw_one(table[:0], 1, "x")[1]


def test_a_place_of_the_paper_is_told_from_one_that_does_not_change(monkeypatch):
    case = ball_case(0)
    monkeypatch.setattr(followup, "visit_and_next", lambda name: (case, None))
    for change, words in ((1.5, "as the false positive of the paper's Figure 7, bright"), (-0.3, "not bright there")):
        monkeypatch.setattr(followup, "difference", lambda case, change=change: np.full(case.shape, change))
        table = pd.DataFrame([("a", 1, 20, 20, 22, 18)], columns=["case", "what", "peak", *"xyz"])
        assert words in followup.draw_one(table, 1, "x", beside_paper=True)[1]
        said = followup.draw_one(table, 1, "x")[1]
        assert "Figure 7" not in said and said.endswith(f"single voxels by up to {abs(change):.1f}.")


def test_a_hidden_metastasis_is_said_to_be_hidden_only_if_it_is(monkeypatch):
    case = ball_case(0)
    monkeypatch.setattr(followup, "visit_and_next", lambda name: (case, None))
    calm = pd.DataFrame(
        {"case": ["a", "b", "c"], "x": 20, "y": 22, "z": 18, "volume_mm3": 50.0, "ratio": 1.0, "falls": [4, 2, 9],
         "found_first": [True, True, False], "found_second": [False, True, False]},
    )  # fmt: skip
    assert followup.hidden_words(calm).startswith("1 of 3 stable metastases are found without prior")
    assert "path misses it; its logit, counted from the threshold, changes by -1.00" in followup.draw_hidden(calm, 1)[1]
    assert "finds it, too" in followup.draw_hidden(calm, 2)[1] and followup.draw_hidden(calm, 9)[1].startswith("b, ")
    none = followup.hidden_words(calm[1:])
    assert none.startswith("0 of 2 stable metastases") and f"up to {1 - 0.05**0.5:.0%} (95 %" in none
    assert "there is none" in followup.draw_hidden(calm[2:], 1)[1]


def test_a_timeline_follows_each_lesion_of_the_patient_with_most_visits():
    """Patient b has as many visits as c, but more metastases; a has most metastases and one visit."""
    visits = [("a_v0", "a", 0), *((f"{p}_v{k}", p, 50 * k) for p in "cb" for k in range(2)), ("d_v0", "d", 0)]
    lesions = [("a_v0", k) for k in range(1, 9)]
    lesions += [("c_v0", 1), ("c_v1", 1), ("b_v0", 1), ("b_v1", 1), ("b_v1", 2)]
    top = {("b_v0", 1): 9, ("b_v1", 1): 10, ("b_v1", 2): 11}
    rows = [("lesion", case, k, 100.0 * k + int(case[-1]), top.get((case, k), 0)) for case, k in lesions]
    r = SimpleNamespace(
        visits=pd.DataFrame([(*v, "test") for v in visits], columns=["case", "patient", "days", "split"]),
        lesions=pd.DataFrame(lesions, columns=["case", "id"]),
        rows={("run", "test", "prior"): pd.DataFrame(rows, columns=["kind", "case", "id", "volume_mm3", "top"])},
    )
    assert followup.most_followed(r) == "b"
    table = followup.timeline(r, "b", "run", 10)
    assert table.to_numpy().tolist() == [[0, 1, 100.0, False], [50, 1, 101.0, True], [50, 2, 201.0, True]]
    axis = followup.draw_timeline(table, "t").axes[0]
    assert [line.get_markerfacecolor() == "white" and len(line.get_xdata()) for line in axis.lines] == [
        False,
        1,
        False,
        0,
    ]
    with pytest.raises(InputError, match="collect them again"):
        followup.most_followed(SimpleNamespace(lesions=None))


def test_doubling_times_are_those_of_each_interval():
    table = pd.DataFrame(
        [
            (0, 1, 100.0),
            (50, 1, 200.0),
            (100, 1, 100.0),
            (100, 2, 9.0),
            (0, 3, 80.0),
            (50, 3, 40.0),
            (0, 4, 7.0),
            (50, 4, 7.0),
        ],
        columns=["days", "id", "volume_mm3"],
    )
    times = followup.doubling(table, exercises_patients.doubling_days)
    assert list(times) == ["day 0 to 50", "day 50 to 100"]
    assert times.loc["lesion 1"].tolist() == pytest.approx([50, -50]) and times.loc["lesion 2"].isna().all()
    assert times.loc["lesion 3", "day 0 to 50"] == pytest.approx(-50) and np.isinf(times.loc["lesion 4", "day 0 to 50"])
    assert followup.course_words(times) == "0 growing, 1 shrinking, 1 both in turn, 1 seen once"
