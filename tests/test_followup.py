"""Patients followed over visits: what changes, which networks are there, and a prior that is moved."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case

from dmplus import followup, network, synthetic, temporal
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


def test_the_chance_of_a_larger_change_is_that_of_all_pairs():
    table = pd.DataFrame(
        [("new", True, 3.0), ("new", True, 0.5), ("stable", True, 0.1), ("vessel", False, 1.0), ("blob", False, 2.0)],
        columns=["what", "lesion", "change"],
    )
    clear = followup.clearer(table)
    assert clear.to_dict() == {"new": 0.5, "stable": 0.0}  # pairs: 2 of 2, 0 of 2; 0 of 2
    assert followup.clearer(table[table["lesion"]]).isna().all() and followup.clearer(table[:0]).empty
    axis = followup.draw_changes(table).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "blob (n = 1)", "vessel (n = 1)", "stable metastasis (n = 1)", "new metastasis (n = 2)"
    ]  # fmt: skip


def test_changes_of_a_cohort_hold_every_visit_with_a_prior():
    index = followup.followed(SMOKE, 1)[0]
    visits = synthetic.patient(SMOKE, index).visits
    table = followup.changes(SMOKE, [index])
    assert set(table["case"]) <= {v.case.name for v in visits if v.case.prior is not None} and len(table)
    lesions = sum(len(v.lesions) for v in visits if v.case.prior is not None)
    assert table["lesion"].sum() == lesions and (table["change"] >= 0).all()
    assert set(table.loc[~table["lesion"], "what"]) <= set(synthetic.LOOKALIKES)


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
    place, rises = made.place()
    assert rises and place == tuple(first) and made.place(2)[0] == tuple(second)
    assert made.heard(place)[CHANNEL] == (0.0, pytest.approx(0.8))
    assert len(made.draw(place).axes) == 6 + 2  # with colour bars
    still = moved_by_hand(case, before, before, monkeypatch)
    (x, y, z), rises = still.place()
    change = np.abs(temporal.difference(still.moved) - temporal.difference(case))
    assert not rises and case.mask[x, y, z] and change[x, y, z] > np.median(change[case.mask])


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
