"""The second look: what is measured at a candidate, what is learnt from it, and what is counted."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ball_case

from dmplus import results, second_look
from dmplus.experiment import Visit
from dmplus.metrics import label_lesions
from dmplus.runtime import InputError, Machine, rng

CPU = Machine("cpu", "float32", "test")
COLUMNS = (*second_look.NOW, *second_look.BEFORE)


def table(n: int, *, tells: str, seed: int = 0) -> pd.DataFrame:
    """n patients of one visit with four candidates; true ones have a larger ``tells`` and are alike otherwise."""
    draw = rng(seed, "second look")
    rows = []
    for patient in range(n):
        for k in range(4):
            numbers = dict(zip(COLUMNS, draw.normal(size=len(COLUMNS)), strict=True))
            numbers[tells] += 3 * (k < 2)
            rows.append({"case": f"p{patient:03d}_v1", "patient": f"p{patient:03d}", "kind": "candidate",
                         "lesions": str(k + 1) if k < 2 else "", **numbers})  # fmt: skip
    return pd.DataFrame(rows)


def visits_of(found: pd.DataFrame) -> pd.DataFrame:
    return found[["case", "patient"]].drop_duplicates(ignore_index=True)


@pytest.mark.parametrize("tells", ["growth", "size"])
def test_both_scans_are_better_only_where_the_earlier_one_tells(tells):
    train, test = table(60, tells=tells), table(40, tells=tells, seed=1)
    both = pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)
    looked = second_look.look(both, visits_of(test))
    alone, two = (results.of(results.fp_at(0.85), c).value for c in looked.values())
    assert list(looked) == ["current scan alone", "both scans"]
    assert two < 0.5 < alone if tells == "growth" else alone < 0.5 and abs(two - alone) < 0.25


def test_readers_learn_from_training_patients_alone(monkeypatch):
    train, test = table(30, tells="growth").assign(split="train"), table(20, tells="growth", seed=1).assign(split="test")
    seen, fit = [], second_look.fit
    monkeypatch.setattr(second_look, "fit", lambda t, columns: seen.append((t, columns)) or fit(t, columns))
    second_look.look(pd.concat([test, train], ignore_index=True), visits_of(test))
    assert [columns for _, columns in seen] == [second_look.NOW, COLUMNS]
    assert all(len(t) == len(train) and set(t["split"]) == {"train"} for t, _ in seen)


def test_counts_are_those_of_a_hand_made_table():
    rows = [("a_v1", "a", "candidate", "1 2"), ("a_v1", "a", "candidate", ""), ("a_v1", "a", "candidate", "2"),
            ("b_v1", "b", "missed", "1"), ("b_v1", "b", "candidate", "")]  # fmt: skip
    found = pd.DataFrame(rows, columns=["case", "patient", "kind", "lesions"])
    visits = pd.DataFrame({"case": ["a_v1", "a_v2", "b_v1", "c_v1"], "patient": ["a", "a", "b", "c"]})
    counts = second_look.counts(found, np.array([0.0, 2.0, 3.0, -1.0]), visits)
    assert counts.shape == (1, 3, 4, 5)  # levels -1, 0, 2, 3
    of = dict(zip(("a", "b", "c"), counts[0], strict=True))
    assert of["a"][:, results.FOUND].tolist() == [2, 2, 1, 1] and of["a"][:, results.MISSED].tolist() == [0, 0, 1, 1]
    assert of["a"][:, results.FALSE].tolist() == [1, 1, 1, 0] and of["b"][:, results.FALSE].tolist() == [1, 0, 0, 0]
    assert of["b"][:, results.FOUND].tolist() == [0] * 4 and of["b"][:, results.MISSED].tolist() == [1] * 4
    assert [of[p][0, results.VOLUMES] for p in "abc"] == [2, 1, 1] and not of["c"][:, : results.VOLUMES].any()


def test_candidates_are_measured_in_both_scans(monkeypatch):
    case = ball_case(0)
    case = dataclasses.replace(case, label=(label_lesions(case.label > 0)[0] == 1).astype(np.uint8))
    prior = rng(0, "prior").normal(size=case.image.shape).astype(np.float32)
    probability = np.where(case.label > 0, 0.9, 0).astype(np.float32)
    probability[2:4, 2:4, 2:4] = 0.2  # a false one
    monkeypatch.setattr(second_look, "predict_volume", lambda *a, **k: probability)
    visit = Visit(dataclasses.replace(case, prior=prior), None, None, None)
    found = second_look.candidates(None, [visit], CPU)
    assert found["kind"].tolist() == ["candidate"] * 2 and sorted(found["lesions"]) == ["", "1"]
    true, false = (found[found["lesions"] == k].iloc[0] for k in ("1", ""))
    assert true["peak"] == pytest.approx(np.log(9), rel=1e-5) and false["peak"] == pytest.approx(np.log(0.25), rel=1e-5)
    assert true["size"] == pytest.approx(np.log((case.label > 0).sum())) and false["size"] == pytest.approx(np.log(8))
    ready = visit.case.normalised()
    inside = case.label > 0
    for column, image in (("bright", ready.image), ("bright before", ready.prior)):
        smooth = second_look.ndimage.gaussian_filter(image, second_look.BLUR)
        assert true[column] == pytest.approx(smooth[inside].mean(), rel=1e-5)
    assert true["brightest near before"] >= true["bright before"]
    same = dataclasses.replace(visit, case=dataclasses.replace(case, prior=case.image))
    again = second_look.candidates(None, [same], CPU)
    assert again["growth"].abs().max() == 0 and again["bright"].tolist() == again["bright before"].tolist()
    probability[:] = 0
    missed = second_look.candidates(None, [visit], CPU)
    assert missed[["kind", "lesions"]].to_numpy().tolist() == [["missed", "1"]] and missed[list(COLUMNS)].isna().all(axis=None)
    with pytest.raises(InputError, match="an earlier scan; got some without"):
        second_look.candidates(None, [dataclasses.replace(visit, case=dataclasses.replace(case, prior=None))], CPU)


def test_a_reader_needs_both_kinds_to_learn_from():
    only = table(3, tells="growth")
    with pytest.raises(InputError, match="got 6 of 6 true"):
        second_look.fit(only[only["lesions"] != ""], second_look.NOW)


def test_a_fit_is_the_ridge_regression():
    train = table(30, tells="growth")
    reader = second_look.fit(train, ("growth",))
    x = second_look._terms((train[["growth"]].to_numpy() - reader.mean) / reader.sd)
    p, y = 1 / (1 + np.exp(-reader.logits(train))), (train["lesions"] != "").to_numpy(float)
    slope = x.T @ (p - y) + second_look.RIDGE * np.array([1, 1, 0]) * reader.weights
    assert np.abs(slope).max() < 1e-6 and reader.weights[0] > 0
