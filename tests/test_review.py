"""A review that is kept and resumed, and a reading that is scored like a model."""

import dataclasses
import io
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_figures import scene

from dmplus import figures
from dmplus.review import Reading, Review, bright_reader, centres, perfect_review, turnable
from dmplus.runtime import InputError

CENTRES = [(10, 12, 14), (20, 30, 10), (5, 30, 18), (22, 8, 6)]  # the first is confirmed, three are candidates


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_review_is_kept_and_goes_on_where_it_stopped(tmp_path):
    case, found = scene(CENTRES)
    path = tmp_path / "decisions.csv"
    first = Review(case, found, path)
    assert list(first.table["tier"]) == ["candidate"] * 3 and not path.exists()
    lesions = list(first.table["lesion"])
    first.decide("accept")
    first.decide("later")
    again = Review(case, found, path)
    assert list(again.table["decision"]) == ["accept", "later", ""] and again.position == 2
    assert not again.mask()[np.isin(found.labels, lesions[1:])].any()  # put off and open: neither stands
    again.decide("reject")
    assert again.position == 1 and not again.done  # what was put off comes back
    again.decide("reject")
    assert again.done and again.position == 3 and "nothing left" in again.describe()
    kept = pd.read_csv(path)
    assert list(kept["decision"]) == ["accept", "reject", "reject"] and (kept["seconds"] >= 0).all()
    stands = {int(n) for n in np.unique(found.labels[again.mask()])}
    confirmed = set(found.lesions.loc[found.lesions["tier"] == "confirmed", "lesion"])
    assert stands == confirmed | {lesions[0]}
    with pytest.raises(InputError, match="every one is decided"):
        again.decide("accept")
    again.go(-1)
    again.decide("accept")  # a decision can be changed
    assert list(pd.read_csv(path)["decision"]) == ["accept", "reject", "accept"]


def test_decisions_on_other_lesions_are_refused(tmp_path):
    case, found = scene(CENTRES)
    Review(case, found, tmp_path / "a.csv").decide("accept")
    other, moved = scene(CENTRES[:3])
    with pytest.raises(InputError, match="got those of another triage"):
        Review(other, moved, tmp_path / "a.csv")
    with pytest.raises(InputError, match="got those of another triage"):
        Review(dataclasses.replace(case, name="somebody else"), found, tmp_path / "a.csv")
    with pytest.raises(InputError, match="expected accept, reject, later"):
        Review(case, found, tmp_path / "b.csv").decide("yes")


def test_a_review_of_nothing_says_so(tmp_path):
    case, found = scene(CENTRES[:1])  # one confirmed lesion, no candidate
    review = Review(case, found, tmp_path / "a.csv")
    assert review.done and review.mask().sum() == (found.labels == 1).sum() and len(review.render()) > 1000


def test_a_reviewer_who_knows_the_reference_removes_what_is_false(tmp_path):
    case, found = scene(CENTRES)
    case = dataclasses.replace(case, label=case.label * (found.labels != 3))
    review = Review(case, found, tmp_path / "a.csv")
    perfect_review(review)
    assert not review.mask()[found.labels == 3].any() and review.mask()[found.labels == 2].all()
    score = review.score()
    assert score.loc["triage, before review", ["found", "false"]].tolist() == [3, 1]
    assert score.loc["after review", ["found", "false"]].tolist() == [3, 0]


def test_the_reference_answers_lesion_by_lesion(tmp_path):
    case, found = scene(CENTRES)
    case = dataclasses.replace(case, label=case.label * (found.labels != 3))
    there = np.where(found.labels == 3, 3, 0).astype(np.uint8)
    review = Review(case, found, tmp_path / "a.csv")
    for decision in ("accept", "reject"):
        review.decide(decision)
    review.decide("later")
    answers = review.answers(there)
    assert answers.index.tolist() == review.table["lesion"].tolist()[:2]  # of what is put off or open, no answer yet
    review.decide("accept")
    answers = review.answers(there)
    assert sorted(answers["in truth"]) == ["choroid plexus", "metastasis", "metastasis"]
    assert answers.loc[3, "in truth"] == "choroid plexus"
    assert answers["decision"].tolist() == ["accept", "reject", "accept"]
    for line in answers.itertuples():
        assert line.right == ("yes" if (line.decision == "accept") == (line.Index != 3) else "no")
    assert review.answers().loc[3, "in truth"] == "no metastasis"


def test_a_review_and_a_reading_start_again_and_keep_what_was(tmp_path):
    case, found = scene(CENTRES)
    review = Review(case, found, tmp_path / "d.csv")
    review.widget()
    for n, restart in ((1, review.restart), (2, review.controls["again"].click)):
        review.decide("reject")
        restart()
        assert review.position == 0 and (review.table["decision"] == "").all() and not review.path.exists()
        assert list(pd.read_csv(tmp_path / f"d.old{n}.csv", keep_default_na=False)["decision"])[0] == "reject"
    reading = Reading(case, found, tmp_path / "m.csv")
    reading.mark(CENTRES[0])
    reading.next_pass()
    reading.widget()
    reading.controls["again"].click()
    assert reading.current == 1 and reading.marks() == [] and not reading.controls["further"].disabled
    assert (tmp_path / "m.old1.csv").is_file() and Reading(case, found, tmp_path / "m.csv").marks() == []


def test_marks_of_another_patient_are_refused(tmp_path):
    case, found = scene(CENTRES)
    Reading(case, found, tmp_path / "m.csv").mark(CENTRES[0])
    with pytest.raises(InputError, match="expected the marks of an earlier reading of somebody else"):
        Reading(dataclasses.replace(case, name="somebody else"), found, tmp_path / "m.csv")


def test_the_notebook_reads_before_it_shows_the_triage():
    """The reading test is worth nothing once the triage, or the reference, is on the page."""
    text = (Path(__file__).parents[1] / "notebooks" / "04_ensemble_triage.py").read_text(encoding="utf-8")
    shown = ("reading.widget()", "figures.headline(found)", "figures.lesion_rows(found)", "figures.surface(", "board.widget()",
             "board.answers(", "reader.contours(")  # fmt: skip
    places = [text.index(s) for s in shown]
    assert places == sorted(places)
    used = text[text.index("found = triage_case(") : places[0]].split("found")[2:]
    assert [u[:6] for u in used] == [", kept"]  # before it, the triage goes into the reading and nowhere else


def test_every_button_of_the_board_answers_in_words_and_picture(tmp_path):
    case, found = scene(CENTRES)
    review = Review(case, found, tmp_path / "a.csv")
    review.widget()
    c = review.controls
    seen = [c["picture"].png]
    words = [c["words"].value]
    for name in ("next", "previous", "accept", "later", "reject"):
        c[name].click()
        seen.append(c["picture"].png)
        words.append(c["words"].value)
    assert seen[1] != seen[0] and seen[2] == seen[0] and seen[3] != seen[2] and len(set(words)) == 5
    c["reject"].click()
    assert all(c[d].disabled for d in ("accept", "reject", "later")) and "nothing left" in c["words"].value
    assert list(pd.read_csv(tmp_path / "a.csv")["decision"]) == ["accept", "reject", "reject"]


def test_a_lesion_hidden_behind_another_is_numbered_in_brackets():
    case, found = scene([(10, 30, 14), (10, 12, 14)])
    labels = found.labels.copy()
    labels[labels == 2] = 0
    labels[10, 12, 14] = 2  # one voxel, behind the first when seen from the front
    figure = figures.surface(case, dataclasses.replace(found, labels=labels), views={"face": (180.0, 0.0)})
    assert {t.get_text() for t in figure.axes[0].texts} == {"1 ✓", "(2 ?)"}


def test_a_lesion_is_drawn_in_three_planes_now_and_earlier():
    case, found = scene(CENTRES)
    figure = figures.lesion_board(case, found, 2)
    titles = [a.get_title(loc="left") for a in figure.axes]
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert named == ["candidate", "other lesions", "earlier lesion"]
    assert titles == [f"{p}, {w}" for w in ("now", "earlier") for p in figures.PLANES]
    alone, _ = scene(CENTRES, prior=False)
    assert len(figures.lesion_board(alone, found, 2).axes) == 3
    with pytest.raises(InputError, match="expected a lesion from 1 to 4"):
        figures.lesion_board(case, found, 5)


def place(view, voxel):
    """Where in the picture a voxel of the shown axial slice is, as fractions."""
    marked = np.zeros(view.case.shape)
    marked[voxel] = 1
    ((row, column),) = np.argwhere(figures.plane_of(marked, "axial", voxel[2]))
    return (column + 0.5) / view.case.shape[0], (row + 0.5) / view.case.shape[1]


def test_marks_are_scored_by_the_metrics_of_the_models(tmp_path):
    """By hand: one of four metastases marked, one mark beside; with the triage a second one found, the false one gone."""
    case, found = scene(CENTRES)
    reading = Reading(case, found, tmp_path / "marks.csv")
    wrong = (15, 20, 14)
    for voxel in (CENTRES[0], wrong):
        reading.view.index = voxel[2]
        assert reading.click(*place(reading.view, voxel)).startswith(f"marked at voxel {voxel}")
    assert reading.view.panel == "current"
    reading.next_pass()
    assert reading.view.panel == "overlay" and reading.marks() == [CENTRES[0], wrong]
    assert reading.click(*place(reading.view, wrong)).startswith("taken away")
    reading.mark(CENTRES[1])
    again = Reading(case, found, tmp_path / "marks.csv")
    assert again.current == 2 and again.marks(1) == [CENTRES[0], wrong] and again.marks() == list(CENTRES[:2])
    table = again.score()
    assert again.change() == "With the triage in view: 1 mark added, 1 taken away; found 1 → 2; false 1 → 0."
    there = np.full(case.shape, 2, np.uint8)
    assert again.false_marks(there) == "Under the false marks of the first pass lies: sinus or dura (1)."
    assert table.loc["you, alone", ["found", "missed", "false"]].tolist() == [1, 3, 1]
    assert table.loc["you, with triage", ["found", "missed", "false"]].tolist() == [2, 2, 0]
    assert table.loc["models, confirmed", ["found", "missed", "false"]].tolist() == [1, 3, 0]
    assert table.loc["models, all", ["found", "missed", "false", "precision"]].tolist() == [4, 0, 0, 1.0]
    assert table.loc["you, alone", "precision"] == 0.5
    with pytest.raises(InputError, match="the second is under way"):
        again.next_pass()


def test_a_reading_without_marks_a_case_without_reference_and_a_wrong_file(tmp_path):
    case, found = scene(CENTRES)
    reading = Reading(case, found, tmp_path / "a.csv")
    line = reading.score().loc["you, alone"]
    reading.next_pass()
    assert reading.change().endswith("0 marks added, 0 taken away; found 0 → 0; false 0 → 0, so no score changed.")
    reading.restart()
    assert "was not read" in reading.change() and "there are none" in reading.false_marks(None)
    assert (line["found"], line["false"], line["marks"]) == (0, 0, 0)
    with pytest.raises(InputError, match="has no label"):
        Reading(dataclasses.replace(case, label=None), found, tmp_path / "b.csv")
    reading.mark((29, 39, 23))
    (tmp_path / "c.csv").write_text(f"case,pass,kind,x,y,z,seconds\n{case.name},1,mark,99,0,0,1\n")
    with pytest.raises(InputError, match="expected the marks of an earlier reading"):
        Reading(case, found, tmp_path / "c.csv")


def test_every_control_of_the_reading_answers(tmp_path):
    case, found = scene(CENTRES)
    reading = Reading(case, found, tmp_path / "a.csv")
    reading.widget()
    c = reading.controls
    pictures = []
    for index in (0, case.shape[2] - 1, CENTRES[0][2]):
        c["slice"].value = index
        pictures.append(pixels(c["picture"].png))
    c["picture"].click = list(place(reading.view, CENTRES[0]))
    assert c["words"].value.startswith("marked") and (pixels(c["picture"].png) != pictures[-1]).any()
    before = pixels(c["picture"].png)
    c["scan"].value = True
    assert reading.view.panel == "prior" and "earlier scan" in c["words"].value
    assert (pixels(c["picture"].png) != before).any()
    c["scan"].value = False
    assert (pixels(c["picture"].png) == before).all()
    c["further"].click()
    assert c["further"].disabled and (pixels(c["picture"].png) != before).any()
    c["score"].click()
    assert "you, with triage" in c["answer"].value and "models, all" in c["answer"].value


def test_the_bright_reader_marks_bright_places_inside_the_brain_and_apart():
    case, _ = scene(CENTRES)
    marks = bright_reader(case, 3)
    assert len(marks) == 3 and len(set(marks)) == 3
    assert all(min(max(abs(a - b) for a, b in zip(m, c, strict=True)) for c in CENTRES) <= 2 for m in marks)
    assert bright_reader(case, 3) == marks


def test_the_turnable_brain_holds_scan_and_tiers_in_their_colours():
    case, found = scene(CENTRES)
    view = turnable(case, found)
    scan, tiers = view.volumes
    assert np.array_equal(nibabel.Nifti1Image.from_bytes(tiers.data).get_fdata(), found.tiers)
    assert np.allclose(nibabel.Nifti1Image.from_bytes(scan.data).affine, case.affine)
    lut = np.asarray(tiers.colormap_label.lut).reshape(-1, 4)
    assert lut[1, :3].tolist() == [0x56, 0xB4, 0xE9] and lut[2, :3].tolist() == [0xE6, 0x9F, 0x00] and lut[0, 3] == 0
    assert centres(found, tier="confirmed") == [CENTRES[0]]
    assert {tuple(c) for c in centres(found, tier="candidate")} == set(CENTRES[1:])


@pytest.mark.parametrize("name", ["0012", "1e5", "patient_a"])
def test_a_patient_whose_name_looks_like_a_number_keeps_it(tmp_path, name):
    case, found = scene(CENTRES)
    case = dataclasses.replace(case, name=name)
    Review(case, found, tmp_path / "r.csv").decide("accept")
    again = Review(case, found, tmp_path / "r.csv")
    again.decide("reject")
    kept = pd.read_csv(tmp_path / "r.csv", dtype=str)
    assert set(kept["case"]) == {name} and kept["decision"].notna().sum() == 2
    with pytest.raises(InputError, match="expected"):
        Review(dataclasses.replace(case, name="12"), found, tmp_path / "r.csv")
    reading = Reading(case, found, tmp_path / "m.csv")
    reading.mark((10, 12, 14))
    assert len(Reading(case, found, tmp_path / "m.csv").rows) == len(reading.rows)
