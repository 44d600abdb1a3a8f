"""The README's promises that a machine can check: links lead somewhere, code runs, commands exist."""

import re
from pathlib import Path

import torch

from dmplus import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", TEXT) if not t.startswith("http")]
    assert len(targets) > 10
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_python_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
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
    assert named <= set(FILES) | {"lesions.csv"} and len(named) >= 7
