"""What predict wrote is opened again for review, without the networks: one scan, and a folder of visits."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from test_cli import CPU, EARLIER, LARGE, TINY, by_brightness, predict, stored, weights  # noqa: F401
from test_worklist import HEAD

from dmplus import cli, network, review, rounds, triage, volume
from dmplus.runtime import InputError


def no_network(monkeypatch):
    monkeypatch.setattr("dmplus.inference.predict_volume", lambda *a, **k: pytest.fail("a network ran"))


def test_a_finished_folder_shows_what_the_networks_found(tmp_path, weights, by_brightness, monkeypatch):  # noqa: F811
    scan, prior = stored(tmp_path, "scan", balls=(*LARGE, TINY)), stored(tmp_path, "earlier", balls=EARLIER)
    assert predict(weights, scan, "--prior", prior, "-o", tmp_path / "out") == 0
    case, _ = volume.read_case(scan, prior=prior)
    made = triage.triage_case(case, *(network.load(weights / f"{n}.safetensors") for n in ("one", "two")))
    no_network(monkeypatch)
    opened, found = rounds.reopen(tmp_path / "out", scan, prior=prior, name="p1", patient="p", visit=2)
    assert (opened.name, opened.patient, opened.visit) == ("p1", "p", 2) and np.array_equal(opened.image, case.image)
    for what in ("union", "tiers", "labels", "earlier"):
        assert np.array_equal(getattr(found, what), getattr(made, what)), what
    for what in ("prob_sens", "prob_spec", "affine"):
        assert np.allclose(getattr(found, what), getattr(made, what), atol=1e-6), what
    pd.testing.assert_frame_equal(found.lesions, made.lesions, check_dtype=False, atol=1e-4)
    pd.testing.assert_frame_equal(found.gone, made.gone, check_dtype=False, atol=1e-4)
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]
    assert found.counts == counts and counts["gone"] == 1


@pytest.mark.parametrize(("axes", "spacing", "tilt"), [("PIL", 0.5, 0), ("LAS", (0.9375, 0.9375, 1.2), 17), ("SAL", 2.0, 0)])
def test_a_finished_folder_of_any_grid_opens_on_the_1_mm_grid(
    tmp_path, weights, by_brightness, monkeypatch, axes, spacing, tilt  # noqa: F811
):  # fmt: skip
    scan = stored(tmp_path, "scan", axes=axes, spacing=spacing, tilt=tilt)
    assert predict(weights, scan, "-o", tmp_path / "out") == 0
    no_network(monkeypatch)
    case, found = rounds.reopen(tmp_path / "out", scan)
    found.check_grid(case)
    assert found.earlier is None and sorted(found.lesions["tier"]) == ["candidate", "confirmed", "confirmed"]
    for row in found.lesions.itertuples():
        own = np.argwhere(found.labels == row.lesion)
        place = own.mean(axis=0) @ case.affine[:3, :3].T + case.affine[:3, 3]
        assert np.linalg.norm(place - [row.x_mm, row.y_mm, row.z_mm]) < 0.7
        assert len(own) == pytest.approx(row.volume_mm3, rel=0.2)
        assert set(found.tiers[found.labels == row.lesion]) == {2 if row.tier == "confirmed" else 1}
        if spacing != 2.0:  # coarse voxels bring a rim of lower probability with them
            assert found.prob_sens[found.labels == row.lesion].min() > 0.3
    board = review.Review(case, found, tmp_path / "decisions.csv")
    assert board.table["volume_mm3"].tolist() == found.lesions.query("tier == 'candidate'")["volume_mm3"].round(1).tolist()
    assert board.render().startswith(b"\x89PNG")


def test_one_model_and_no_lesion_open_too(tmp_path, weights, by_brightness):  # noqa: F811
    scan = stored(tmp_path, "scan", balls=LARGE[:1])
    alone = ["--sens", weights / "one.safetensors", *CPU]
    assert cli.main([str(a) for a in ("predict", scan, "-o", tmp_path / "one", *alone)]) == 0
    found = rounds.reopen(tmp_path / "one", scan)[1]
    assert found.prob_spec is None and found.lesions["tier"].tolist() == ["untiered"]
    empty = stored(tmp_path, "empty", balls=())
    assert predict(weights, empty, "-o", tmp_path / "none") == 0
    case, found = rounds.reopen(tmp_path / "none", empty)
    assert len(found.lesions) == 0 and not found.union.any() and found.counts["lesions"] == 0
    assert review.Review(case, found, tmp_path / "d.csv").done


def test_what_does_not_belong_together_is_refused(tmp_path, weights, by_brightness):  # noqa: F811
    scan, prior = stored(tmp_path, "scan"), stored(tmp_path, "earlier", balls=EARLIER)
    other = stored(tmp_path, "other", balls=LARGE[:2])
    assert predict(weights, scan, "--prior", prior, "-o", tmp_path / "out") == 0

    def opening(*arguments, **options):
        with pytest.raises(InputError) as error:
            rounds.reopen(*arguments, **options)
        return str(error.value)

    assert "folder out: expected the prior it was made with; got none" in opening(tmp_path / "out", scan)
    assert "expected the scan it was made of; got one of other" in opening(tmp_path / "out", other, prior=prior)
    assert "expected the prior it was made of; got one of other" in opening(tmp_path / "out", scan, prior=other)
    assert "expected no mask" in opening(tmp_path / "out", scan, prior=prior, mask=scan)
    assert "got no such run.json" in opening(tmp_path, scan, prior=prior)
    path = tmp_path / "out" / "lesions.nii.gz"
    image = nibabel.load(path)
    edited = np.asarray(image.dataobj).copy()
    edited[edited == 2] = 0
    nibabel.save(nibabel.Nifti1Image(edited, image.affine, image.header), path)
    assert "expected the 3 lesions of its table in its map" in opening(tmp_path / "out", scan, prior=prior)
    path.unlink()
    assert "lesions.nii.gz" in opening(tmp_path / "out", scan, prior=prior)


@pytest.fixture
def predicted(tmp_path, weights, by_brightness):  # noqa: F811
    """A cohort of four visits and what predict made of three of them: 0, 1 and 1 candidates."""
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    stored(cohort, "a0", balls=EARLIER), stored(cohort, "a1"), stored(cohort, "b0", balls=LARGE[::2])
    stored(cohort, "c0", balls=LARGE[1:])
    rows = ["a_v0,0012,0,0,test,a0.nii.gz,,,", "a_v1,0012,1,56,test,a1.nii.gz,a0.nii.gz,,", "b_v0,b,0,0,test,b0.nii.gz,,,"]
    (cohort / "cases.csv").write_text(HEAD + "\n".join(rows) + "\n")
    assert predict(weights, cohort, "-o", tmp_path / "out") == 0
    with (cohort / "cases.csv").open("a") as table:
        table.write("c_v0,c,0,0,test,c0.nii.gz,,,\n")
    return cohort


def test_a_folder_of_visits_is_decided_on_visit_by_visit(tmp_path, predicted, monkeypatch):
    no_network(monkeypatch)
    at = (predicted, tmp_path / "out", tmp_path / "new" / "decisions")
    board = rounds.Rounds(*at)
    assert list(board.visits) == ["a_v0", "a_v1", "b_v0"]  # the fourth was not predicted
    assert board.left().to_dict() == {"a_v0": 0, "a_v1": 1, "b_v0": 1}
    assert board.review.case.name == "a_v1" and board.review.case.visit == 1  # the first with something to decide
    assert board.describe() == "2 lesions left to decide, in 2 of 3 visits"
    board.review.decide("reject")
    assert board.next_open() == "b_v0" and board.left().sum() == 1
    board.open("b_v0").decide("later")
    assert board.left().to_dict() == {"a_v0": 0, "a_v1": 0, "b_v0": 1}  # put off is not decided
    table = board.table()
    written = pd.read_csv(tmp_path / "out" / "lesions.csv", dtype={"patient": str})
    pd.testing.assert_frame_equal(table.drop(columns="decision"), written, check_dtype=False)
    decided = table[table["decision"] != ""]
    assert decided[["case", "tier", "decision"]].values.tolist() == [
        ["a_v1", "candidate", "reject"], ["b_v0", "candidate", "later"]]  # fmt: skip

    again = rounds.Rounds(*at)
    assert again.review.case.name == "b_v0" and again.left().sum() == 1
    again.review.decide("accept")
    assert again.next_open() is None and again.describe() == "0 lesions left to decide, in 0 of 3 visits"
    assert rounds.Rounds(*at).review.case.name == "a_v0"  # all done: the first
    every = rounds.Rounds(predicted, tmp_path / "out", tmp_path / "all", tiers=("candidate", "confirmed"))
    assert every.left().tolist() == [3, 3, 2]


def test_decisions_on_other_lesions_do_not_count(tmp_path, predicted, weights, by_brightness):  # noqa: F811
    rounds.Rounds(predicted, tmp_path / "out", tmp_path / "decisions").open("b_v0").decide("accept")
    stored(predicted, "b0", balls=LARGE[1:])  # corrected, and predicted again
    assert predict(weights, predicted, "-o", tmp_path / "out", "--overwrite") == 0
    again = rounds.Rounds(predicted, tmp_path / "out", tmp_path / "decisions")
    assert (again.table()["decision"] == "").all() and again.left()["b_v0"] == 1
    with pytest.raises(InputError, match="another triage"):
        again.open("b_v0")


def test_lesions_of_a_single_model_are_reviewed_and_labels_not_read(tmp_path, predicted, weights, by_brightness):  # noqa: F811
    alone = ["--sens", str(weights / "one.safetensors"), *CPU]
    assert cli.main(["predict", str(predicted), "-o", str(tmp_path / "alone"), *alone]) == 0
    board = rounds.Rounds(predicted, tmp_path / "alone", tmp_path / "decisions")
    assert board.left().sum() == len(board.table()) > 0
    table = (predicted / "cases.csv").read_text()
    (predicted / "cases.csv").write_text(table.replace("b0.nii.gz,,,", "b0.nii.gz,,b0.nii.gz,"))  # not even 0 and 1
    assert rounds.Rounds(predicted, tmp_path / "alone", tmp_path / "decisions").open("b_v0").case.label is None


def test_every_control_of_the_rounds_answers(tmp_path, predicted):
    board = rounds.Rounds(predicted, tmp_path / "out", tmp_path / "decisions", tiers=("candidate", "confirmed"))
    board.widget()
    controls = board.controls
    assert controls["visit"].value == "a_v0" and "8 lesions left" in controls["words"].value
    first = board.review.controls["picture"].png
    for _ in range(3):
        board.review.controls["accept"].click()
    assert "5 lesions left to decide, in 2 of 3" in controls["words"].value
    controls["further"].click()
    assert controls["visit"].value == "a_v1" and board.review.controls["picture"].png != first
    controls["further"].click()
    assert controls["visit"].value == "b_v0"  # what is left in a_v1 waits
    for _ in range(2):
        board.review.controls["reject"].click()
    controls["further"].click()
    assert controls["visit"].value == "a_v1" and not controls["further"].disabled
    for _ in range(3):
        board.review.controls["accept"].click()
    assert controls["further"].disabled and "0 lesions left" in controls["words"].value
    (tmp_path / "out" / "b_v0" / "lesions.nii.gz").unlink()
    controls["visit"].value = "b_v0"  # what cannot be opened is said, and shows nothing of another visit
    assert "lesions.nii.gz" in controls["words"].value and controls["place"].children == ()
    controls["visit"].value = "a_v0"
    assert controls["place"].children and "0 lesions left" in controls["words"].value


def test_rounds_of_nothing_say_what_to_do(tmp_path, predicted):
    with pytest.raises(InputError, match="expected a folder of dmplus predict with visits of cohort; got none of them"):
        rounds.Rounds(predicted, tmp_path, tmp_path / "decisions")
    assert not (tmp_path / "decisions").exists()
    with pytest.raises(InputError, match="expected one of a_v0, a_v1, b_v0; got 'c_v0'"):
        rounds.Rounds(predicted, tmp_path / "out", tmp_path / "decisions").open("c_v0")
