"""The project of notebook 02: the documented command writes what is handed in, from collected rows alone."""

import io
import sys

import pandas as pd
import pytest
from PIL import Image
from test_claims import collected, rows_of

from dmplus import evidence, project
from dmplus.notebooks import notebooks_folder
from dmplus.results import Results
from dmplus.runtime import InputError, rng


@pytest.fixture
def folders(tmp_path):
    """Made-up rows of JVSS, SSE and BCE, as shipped, and those of a loss of one's own with two alphas."""
    draw = rng(0, "project")
    shipped = {f"bce-s{s}": ("prior", rows_of(draw, found=18, false=12)) for s in range(2)}
    shipped |= {f"{loss}-{a:g}-s0": ("prior", rows_of(draw, found=f, false=false)) for loss, false in (("jvss", 5), ("sse", 9))
                for a, f in ((0.9, 28), (0.5, 20))}  # fmt: skip
    own = {f"mine-{a:g}-s0": ("prior", rows_of(draw, found=f, false=5)) for a, f in ((0.9, 26), (0.5, 18))}
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    mine = collected(tmp_path / "mine" / "experiments" / "quick", own)
    runs = pd.read_csv(mine / "runs.csv").assign(loss="mine")
    runs.to_csv(mine / "runs.csv", index=False)
    return tmp_path / "mine", collected(tmp_path / "shipped", shipped)


def test_what_is_handed_in_is_written_beside_the_tables(folders, monkeypatch, capsys):
    mine, shipped = folders
    monkeypatch.setattr(sys, "argv", ["project", str(mine), "--beside", str(shipped)])
    project.main()
    words = (mine / "project.quick.txt").read_text()
    assert capsys.readouterr().out.rstrip() == words.rstrip()
    r = Results(mine / "experiments" / "quick", shipped)
    assert evidence.own_losses(r) == ["mine"] and evidence.own_losses(Results(shipped)) == []
    assert evidence.against_jvss(r) in words and "mine minus JVSS: " in words
    equal = evidence.over_alpha_at_equal(r, {"JVSS": "jvss", "mine": "mine"})
    assert all(line in words for line in equal["fewest"])
    assert Image.open(io.BytesIO((mine / "over_alpha.quick.png").read_bytes())).size[0] > 500
    assert pd.read_csv(mine / "areas.quick.csv")["loss"].tolist() == ["jvss", "sse", "mine"]


def test_rows_without_a_loss_of_ones_own_are_no_project(folders):
    _, shipped = folders
    (shipped.parent / "none" / "experiments").mkdir(parents=True)
    shipped.rename(shipped.parent / "none" / "experiments" / "quick")
    with pytest.raises(InputError, match="project none: expected a loss with two alphas or more; got none"):
        project.hand_in(shipped.parent / "none", shipped.parent / "none" / "experiments" / "quick")


def test_the_page_and_the_example_name_this_command():
    command = "python -m dmplus.project runs/mine --beside notebooks/results/experiments/quick"
    for file in ("02_sse_comparison.py", "project/focal_tversky.py"):
        assert command in (notebooks_folder() / file).read_text(encoding="utf-8")
