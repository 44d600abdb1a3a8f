"""The README's promises that a machine can check: links lead somewhere, code runs, commands exist."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dmplus import cli, worklist
from dmplus.notebooks import describe, notebook_names
from dmplus.volume import write_nifti

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", TEXT) if not t.startswith("http")]
    assert len(targets) > 10
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_table_of_notebooks_says_what_their_results_say():
    rows = dict(re.findall(r"^\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\) \| (.+) \|$", TEXT, re.M))
    assert list(rows) == notebook_names(ROOT / "notebooks")
    for name, cells in rows.items():
        question, headline, minutes = cells.split(" | ")
        results = json.loads((ROOT / "notebooks" / "results" / f"{name}.quick.json").read_text(encoding="utf-8"))
        assert headline == results["headline"] and results["seconds"] <= 60 * float(minutes)
        said = describe(ROOT / "notebooks" / f"{name}.py")
        assert question == said.question and minutes == said.quick.split()[0]


def test_the_review_of_what_was_written_runs(tmp_path, monkeypatch):
    """The files of the example, at another size: a brain with a bright ball, and the same without."""
    block, _ = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    mask = np.zeros((30, 30, 30), bool)
    mask[3:-3, 3:-3, 3:-3] = True
    noise = np.random.default_rng(0).normal(100, 5, (2, *mask.shape)) * mask
    noise[0, 12:16, 12:16, 12:16] = 300
    for name, image in zip(("scan", "earlier"), noise, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", image.astype(np.float32), affine=np.eye(4))
    (tmp_path / "cohort").mkdir()
    for name in ("scan", "earlier"):
        shutil.copy(tmp_path / f"{name}.nii.gz", tmp_path / "cohort")
    (tmp_path / "cohort" / "cases.csv").write_text(
        "name,patient,visit,days,split,image,prior,label,mask\np_v1,p,1,60,,scan.nii.gz,earlier.nii.gz,,\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["predict", "scan.nii.gz", "--prior", "earlier.nii.gz", "-o", "out/"]) == 0
    shutil.move("out", "one")
    assert cli.main(["predict", "cohort/", "-o", "out/"]) == 0
    for file in (tmp_path / "one").iterdir():  # the example has one name for both
        shutil.copy(file, tmp_path / "out")
    names = {}
    exec(block, names)
    names["found"].check_grid(names["case"])
    assert names["case"].prior is not None and names["found"].earlier is not None
    lesions = pd.read_csv(tmp_path / "decided.csv")
    assert len(lesions) == len(names["found"].lesions) and set(lesions["case"]) <= {"p_v1"}


def test_python_example_runs():
    _, block = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    prob = torch.rand(2, 4, 4, 4)
    names = {"prob": prob, "target": (prob > 0.8).float()}
    exec(block, names)
    assert torch.isfinite(names["loss"]) and names["criterion"](torch.rand(2, 2, 4, 4, 4), names["target"][:, None]) > 0


def test_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"course", "test"} <= set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.M)) <= targets
    known = cli.parser().format_help()
    for name in set(re.findall(r"(?<!from )dmplus ([a-z]+)[ `]", TEXT)):
        assert re.search(rf"^\s+{name}\b", known, re.M), name


def test_files_of_predict_are_the_ones_it_writes():
    from dmplus.predict import FILES

    named = set(re.findall(r"`([a-z_]+\.(?:png|csv|json|nii\.gz))`", TEXT))
    assert named <= set(FILES) | {"cases.csv"} and len(named) >= 8
    of_folder = set(re.findall(r"`out/([a-z_]+\.csv)`", TEXT))
    assert {"lesions.csv", "visits.csv"} <= of_folder <= set(worklist.FILES)


def examples() -> list[str]:
    """Every `dmplus ...` line of README and help, without what the shell does with its output."""
    subs = next(a for a in cli.parser()._actions if a.dest == "command").choices.values()
    pages = [TEXT, cli.parser().format_help(), *(s.format_help() for s in subs)]
    lines = [m for page in pages for m in re.findall(r"^ *(?:\.venv/bin/)?dmplus ((?!\[)[a-z]+ .*)$", page, re.M)]
    return sorted({re.split(r"  |#|&&|\|", line)[0].strip() for line in lines})


def test_there_are_examples_of_every_command():
    assert {"predict", "synth", "train", "evaluate", "run", "convert", "info"} <= {e.split()[0] for e in examples()}


@pytest.mark.parametrize("line", examples())
def test_examples_are_understood(line):
    cli._parse(shlex.split(line))
