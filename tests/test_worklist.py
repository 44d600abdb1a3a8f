"""A folder of visits through ``dmplus predict``: one list of lesions, gone on with where it stopped."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from test_cli import EARLIER, LARGE, by_brightness, error_line, predict, stored, weights  # noqa: F401

from dmplus import cli, worklist

HEAD = "name,patient,visit,days,split,image,prior,label,mask\n"


@pytest.fixture
def cohort(tmp_path):
    """Two visits of one patient, and one of another whose scan has no contrast at all."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    stored(folder, "a0", balls=EARLIER), stored(folder, "a1"), stored(folder, "b0", balls=LARGE[:1])
    shutil.copy(folder / "b0.nii.gz", tmp_path / "good.nii.gz")
    (folder / "b0.nii.gz").write_bytes(b"not a scan")
    rows = ["a_v0,a,0,0,test,a0.nii.gz,,,", "a_v1,a,1,56,test,a1.nii.gz,a0.nii.gz,,", "b_v0,b,0,0,train,b0.nii.gz,,,"]
    (folder / "cases.csv").write_text(HEAD + "\n".join(rows) + "\n")
    return folder


def computed(monkeypatch):
    """The scans that are computed from now on, by the names of their folders."""
    names, real = [], worklist.predict
    monkeypatch.setattr(worklist, "predict", lambda *a, **k: names.append(a[1].name) or real(*a, **k))
    return names


def test_a_folder_of_visits_becomes_one_list(tmp_path, cohort, weights, by_brightness, capsys, monkeypatch):  # noqa: F811
    out = tmp_path / "out"
    assert predict(weights, cohort, "-o", out) == 1  # one visit could not be used
    said = capsys.readouterr().out
    assert "2 visits of 1 patients: 6 lesions" in said and "in 1 visits that have one: 1 new, 1 growing, 1 stable" in said
    assert "1 visits could not be used:\n  b_v0: image b0.nii.gz: " in said
    table = pd.read_csv(out / "lesions.csv")
    assert table[["case", "patient", "visit", "days"]].drop_duplicates().to_numpy().tolist() == [
        ["a_v0", "a", 0, 0], ["a_v1", "a", 1, 56]]  # fmt: skip
    for name, extra in (("a_v0", ()), ("a_v1", ("--prior", cohort / "a0.nii.gz"))):
        assert predict(weights, cohort / f"{name[0]}{name[-1]}.nii.gz", *extra, "-o", tmp_path / name) == 0
        for file in ("lesions.csv", "tiers.nii.gz", "triage.png"):
            assert (out / name / file).read_bytes() == (tmp_path / name / file).read_bytes()  # as of one scan alone
        alone = pd.read_csv(tmp_path / name / "lesions.csv")
        same = table[table["case"] == name].drop(columns=list(worklist.OF_VISIT)).reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone)
    gone = pd.read_csv(out / "gone.csv")
    assert gone["case"].tolist() == ["a_v1"]
    place = gone.loc[0, ["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    assert np.linalg.norm(place - EARLIER[2].centre) < 0.5 and gone["volume_mm3"][0] == pytest.approx(EARLIER[2].mm3, rel=0.3)
    visits = pd.read_csv(out / "visits.csv").set_index("case")
    assert visits["lesions"].tolist()[:2] == [3, 3] and visits.loc["a_v1", ["new", "gone"]].tolist() == [1, 1]
    assert np.isnan(visits.loc["b_v0", "lesions"]) and visits["error"].notna().tolist() == [False, False, True]
    assert visits["prior_covers"].notna().tolist() == [False, True, False]
    assert {p.name for p in out.iterdir()} == {*worklist.FILES, "a_v0", "a_v1"}  # nothing of the third

    capsys.readouterr()
    before, names = (out / "lesions.csv").read_bytes(), computed(monkeypatch)
    shutil.copy(tmp_path / "good.nii.gz", cohort / "b0.nii.gz")
    assert predict(weights, cohort, "-o", out) == 0 and names == ["b_v0"]  # what is done is not done again
    assert (out / "lesions.csv").read_bytes().startswith(before)
    assert pd.read_csv(out / "lesions.csv")["case"].tolist() == ["a_v0"] * 3 + ["a_v1"] * 3 + ["b_v0"]
    assert "could not be used" not in capsys.readouterr().out
    assert predict(weights, cohort, "-o", out, "--overwrite") == 0 and names[1:] == ["a_v0", "a_v1", "b_v0"]
    assert predict(weights, cohort, "-o", tmp_path / "part", "--split", "train") == 0
    assert pd.read_csv(tmp_path / "part" / "visits.csv")["case"].tolist() == ["b_v0"]


def test_a_list_is_of_one_set_of_files_and_weights(tmp_path, cohort, weights, by_brightness, capsys):  # noqa: F811
    shutil.copy(tmp_path / "good.nii.gz", cohort / "b0.nii.gz")
    out = tmp_path / "out"
    assert predict(weights, cohort, "-o", out) == 0
    made = {p.name: p.read_bytes() for p in out.glob("*.csv")}
    capsys.readouterr()
    one = str(weights / "one.safetensors")
    assert cli.main(["predict", str(cohort), "-o", str(out), "--sens", one, "--spec", one, "--device", "cpu"]) == 2
    assert "expected a_v0 to be of the same weights" in error_line(capsys)
    assert predict(weights, cohort, "-o", out, "--tiling", "released") == 2
    assert "of the same tiling" in error_line(capsys)
    stored(cohort, "a0", balls=EARLIER[:2])  # the first visit, and the prior of the second
    assert predict(weights, cohort, "-o", out) == 2
    assert "expected a_v0 to be of the same files; it was made of others; remove that folder to" in error_line(capsys)
    assert made == {p.name: p.read_bytes() for p in out.glob("*.csv")}
    assert predict(weights, cohort, "-o", out, "--overwrite") == 0
    assert len(pd.read_csv(out / "gone.csv")) == 0 and pd.read_csv(out / "visits.csv")["gone"].tolist() == [0, 0, 0]


def test_one_visit_is_made_anew_and_a_split_fills_the_same_folder(tmp_path, cohort, weights, by_brightness, monkeypatch):  # noqa: F811
    shutil.copy(tmp_path / "good.nii.gz", cohort / "b0.nii.gz")
    out = tmp_path / "out"
    assert predict(weights, cohort, "-o", out) == 0
    shutil.rmtree(out / "b_v0")
    names = computed(monkeypatch)
    assert predict(weights, cohort, "-o", out, "--split", "test") == 0 and names == []  # beside what is not of that split
    assert predict(weights, cohort, "-o", out) == 0 and names == ["b_v0"]
    assert pd.read_csv(out / "visits.csv")["lesions"].notna().all()
    (out / "a_v0" / "lesions.csv").unlink()
    assert predict(weights, cohort, "-o", out) == 1  # named, and holds up no other
    assert "--overwrite" in pd.read_csv(out / "visits.csv").set_index("case")["error"]["a_v0"]


def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_made(tmp_path, cohort, weights, capsys):  # noqa: F811
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.docx").write_text("mine")
    assert predict(weights, cohort, "-o", out) == 2
    assert "output out: expected a new folder, or one with visits of this cohort alone; got thesis.docx" in error_line(capsys)
    assert [p.name for p in out.iterdir()] == ["thesis.docx"]
    assert predict(weights, cohort, "--prior", cohort / "a0.nii.gz", "-o", tmp_path / "new") == 2
    assert "names its priors and masks in cases.csv; got --prior" in error_line(capsys)
    assert predict(weights, cohort / "a0.nii.gz", "--split", "test", "-o", tmp_path / "new") == 2
    assert "expected a cohort folder with --split; got one scan" in error_line(capsys)
    text = (cohort / "cases.csv").read_text()
    for name in ("../b", ".b", "visits.csv"):
        (cohort / "cases.csv").write_text(text.replace("b_v0", name))
        assert predict(weights, cohort, "-o", tmp_path / "new") == 2
        assert f"case {name}: expected a name that a folder can have" in error_line(capsys)
    (cohort / "cases.csv").write_text(text)
    assert predict(weights, cohort, "-o", "/proc/dmplus") == 2 and error_line(capsys).startswith("output dmplus: expected a ")
    (cohort / "cases.csv").unlink()
    assert predict(weights, cohort, "-o", tmp_path / "new") == 2
    assert "scan cohort: expected a NIfTI file, or a folder with cases.csv; got a folder without" in error_line(capsys)
    assert not (tmp_path / "new").exists()
