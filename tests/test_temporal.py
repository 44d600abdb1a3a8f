"""What the earlier scan adds: differences, false positives removed, misregistration, timelines."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case
from test_claims import collected, rows_of

from dmplus import claims, exercises_patients, network, results, scoring, temporal, widgets
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
    folder = collected(tmp_path_factory.mktemp("temporal") / "rows", made)
    rows, runs = (pd.read_csv(folder / n) for n in ("rows.csv.gz", "runs.csv"))
    more, lines = [], []
    for condition, n in (("zeroed", 8), ("0 mm", 4), ("1 mm", 5), ("2 mm", 6), ("3 mm", 8)):
        own = rows_of(draw, found=34, false=n).assign(run="jvss-0.995-path-s0", split="test", second_image=condition)
        odd = own["case"].str[1:].astype(int) % 2 == 1  # scored where there is a prior
        more.append(own[odd])
        lines.append(("jvss-0.995-path-s0", "test", condition, "prior", 5, 5000, "jvss"))
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
    known = temporal.controls(r, "jvss-0.995")
    assert list(known) == ["path", "path, prior zeroed in test"]  # what was not run is left out
    assert table.loc["path", "low"] < table.loc["path", "ratio"] < 0.8 < table.loc["zeroed", "ratio"]
    assert len(temporal.draw_ratios(table.reset_index()).axes[0].containers) == 2


def test_misregistration_visits_and_kinds_each_have_their_rows(r):
    shifted = temporal.by_misregistration(r, {"path": "jvss-0.995-path-s0"}, r.seeds("jvss-0.995"))
    assert shifted["mm"].tolist() == [0, 1, 2, 3]
    assert shifted["ratio"].iloc[0] < shifted["ratio"].iloc[3]
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
    assert temporal.most_followed(r) == "b"
    table = temporal.timeline(r, "b", "run", 10)
    assert table.to_numpy().tolist() == [[0, 1, 100.0, False], [50, 1, 101.0, True], [50, 2, 201.0, True]]
    axis = temporal.draw_timeline(table, "t").axes[0]
    assert [line.get_markerfacecolor() == "white" and len(line.get_xdata()) for line in axis.lines] == [
        False,
        1,
        False,
        0,
    ]
    with pytest.raises(InputError, match="collect them again"):
        temporal.most_followed(SimpleNamespace(lesions=None))


def test_visits_are_drawn_with_their_difference_and_the_next_visit():
    case = ball_case(0)
    assert len(temporal.draw_visits(case, (20, 22, 18)).axes) == 4  # with the colour bar
    assert len(temporal.draw_visits(case, (20, 22, 18), later=case, circle=5).axes) == 5


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
    c["direction"].value = "up"
    seen.append((c["words"].value, c["picture"].png))
    c["mm"].value = 0
    assert c["picture"].png != seen[1][1] and c["words"].value.split(": ")[1] == seen[0][0].split(": ")[1]
    assert len({w for w, _ in seen}) == len({p for _, p in seen}) == 3
    with pytest.raises(InputError, match="has none; take a later visit"):
        widgets.Shifter(dataclasses.replace(case, prior=None), (1, 1, 1), nets)
