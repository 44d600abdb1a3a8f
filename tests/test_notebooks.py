"""Every notebook of the course, and proof that each check of notebooks/build.py catches what it is for."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import script
from nbformat import NotebookNode

from dmplus import course, exercises, notebooks

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NAMES = sorted(p.stem for p in FOLDER.glob("[0-9][0-9]_*.py"))

#: For each notebook, values unlike the defaults for a run at the smoke profile.
OTHER_VALUES = {
    "00_start_here": ["patient=1", "seed=7"],
    "01_vss_derivation": ["alpha=0.5", "seed=7"],
    "02_sse_comparison": ["alpha=0.995", "budget=2.0", "rank=2"],
    "03_temporal_prior_ablation": ["rank=2", "moved_mm=1.5", "seed=7"],
    "04_ensemble_triage": ["patient=1", "seed=7"],
}


build = script("build")


def source(name: str = "00_start_here") -> NotebookNode:
    return notebooks.read_notebook(FOLDER / f"{name}.py")


# ------------------------------------------------------------------------------------- every notebook, as committed
def test_there_are_notebooks_with_other_values_to_try() -> None:
    assert NAMES and sorted(OTHER_VALUES) == NAMES


@pytest.mark.parametrize("kind", build.CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_committed_notebooks_pass(name: str, kind: str) -> None:
    assert build.CHECKS[kind](name) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_instructor_notes_speak_of_the_notebook_as_it_is(name: str) -> None:
    """Every objective and exercise stands in them, and every section and figure that they name is there."""
    notes = (FOLDER / "instructor.md").read_text(encoding="utf-8")
    text = "\n".join(c.source for c in source(name).cells if c.cell_type == "markdown")
    section = text.partition("## Objectives")[2].partition("\n#")[0]
    objectives = [" ".join(o.split()).rstrip(";.") for o in section.split("\n- ")[1:]]
    assert len(objectives) > 2 and [o for o in objectives if f"| {name[:2]} | {o} |" not in notes] == []
    numbers = re.findall(r"\*\*Exercise (\d\.\d)", text)
    assert numbers and [n for n in numbers if n not in notes] == []
    headings = re.findall(r"(?m)^## (.+)$", text)
    for line in notes.partition("### Half a day")[0].splitlines():
        if re.match(rf"\| \d+–\d+ \| {name[:2]},", line):
            named = re.findall(r'"([^"]+)"', line.split("|")[2])
            assert named and [n for n in named if not any(h.startswith(n) for h in headings)] == []


def test_nothing_is_left_of_a_notebook_that_went() -> None:
    assert build.orphans() == []


def test_all_notebooks_together_stay_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*.ipynb")) < 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_committed_results_belong_to_the_notebook(name: str) -> None:
    results = json.loads((FOLDER / "results" / f"{name}.quick.json").read_text())
    assert results["notebook"] == name and results["headline"] and results["metrics"]
    assert {"parameters", "seed", "profile", "device", "versions", "commit", "seconds"} <= set(results)
    assert results["seconds"] <= 60 * course.PROFILES["quick"].minutes


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_with_other_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole notebook, through the strict door, every exercise check strict."""
    monkeypatch.setenv(exercises.STRICT, "1")
    before = os.times()
    run = course.run_notebook(name, ["profile=smoke", *OTHER_VALUES[name]], out=tmp_path)
    assert run.headline and run.results["profile"] == "smoke"
    for setting in OTHER_VALUES[name]:
        key, _, value = setting.partition("=")
        assert str(run.results["parameters"][key]) == value
    assert build.drift(source(name), build.merged(source(name), nbformat.read(run.notebook, as_version=4))) == []
    page = course.render(run.notebook).read_text()
    assert 'alt="Figure' in page and "<summary>" in page
    after = os.times()  # processor seconds of the kernel: a busy machine does not count against the notebook
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert 0.5 < spent < 3 * 60 * course.PROFILES["smoke"].minutes  # the slowest moment seen took 1.7 times the budget


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_alpha_pass_through_notebook_01(alpha: float) -> None:
    """The cells of its parameter alone, without those that train or make patients."""
    code = [c.source for c in source("01_vss_derivation").cells if c.cell_type == "code"]
    space: dict[str, Any] = {"alpha": alpha, "seed": 1, "forces": exercises.reference("1.3")}
    exec("\n".join(line for c in code for line in c.splitlines() if re.match("(import|from) ", line)), space)
    space["display"] = lambda table: None
    wanted = (
        "= torch.meshgrid(torch.arange(15.0)",
        "vss_board(",
        "def cost(",
        "counts = np.arange(11)",
        "ugly = {",
        "in ugly.items()",
    )
    for part in wanted:
        (cell,) = (c for c in code if part in c)
        exec(cell, space)
    assert space["table"].loc["all 0.3 (ties)", "voxels moved"] == {0.0: 250, 1.0: 6}[alpha]


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_left_open_breaks_nothing(name: str, tmp_path: Path) -> None:
    """The student version, as handed out, runs to its end."""
    run = course.run_notebook(FOLDER / "student" / f"{name}.ipynb", ["profile=smoke"], out=tmp_path, progress=False)
    said = "".join(
        o.get("text", "") for c in nbformat.read(run.notebook, as_version=4).cells for o in c.get("outputs", [])
    )
    checks = [cell for cell in source(name).cells if "check" in build.tags(cell)]
    assert said.count(": open.") == len(checks) and run.headline


# ------------------------------------------------------------------------------------------ exercises have teeth
def _exercises() -> list[tuple[str, str, str]]:
    """(notebook, exercise number, name of the function) of each exercise cell."""
    found = []
    for name in NAMES:
        for cell in source(name).cells:
            if "check" in build.tags(cell):
                call = ast.parse(cell.source).body[0].value  # type: ignore[attr-defined]
                found.append((name, call.args[0].value, call.args[1].id))
    return found


def _cells(notebook: NotebookNode, function: str) -> tuple[str, str, str]:
    """Sources of the imports, the exercise and its check."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    trees = [(cell, ast.parse(cell.source)) for cell in code]
    imports = [
        ast.unparse(node) for _, tree in trees for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    exercise = next(c for c in code if "exercise" in build.tags(c) and f"def {function}(" in c.source)
    check = next(c for c in code if "check" in build.tags(c) and f", {function})" in c.source)
    return "\n".join(imports), exercise.source, check.source


@pytest.mark.parametrize(("name", "number", "function"), _exercises())
def test_checks_pass_the_solution_and_raise_on_the_stub(
    name: str, number: str, function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(exercises.STRICT, "1")
    imports, exercise, check = _cells(source(name), function)
    space: dict[str, Any] = {}
    exec(imports + "\n" + exercise, space)
    exec(check, space)
    assert f"Exercise {number}: passed" in capsys.readouterr().out

    imports, stub, check = _cells(build.student(source(name), name), function)
    assert stub != exercise and stub.endswith("return None")
    space = {}
    exec(imports + "\n" + stub, space)
    with pytest.raises(exercises.ExerciseError, match=f"Exercise {number}: open"):
        exec(check, space)

    for wrong, _ in exercises.EXERCISES[number].misconceptions:
        with pytest.raises(exercises.ExerciseError, match=f"Exercise {number}: (?!open)"):
            exec(check, {**space, function: wrong})


def test_every_exercise_of_the_package_is_in_a_notebook() -> None:
    assert [number for _, number, _ in _exercises()] == list(exercises.EXERCISES)


# ------------------------------------------------------------------------------------- each check catches its fault
TEXT = (FOLDER / "00_start_here.py").read_text()


def _lint(text: str, name: str = "00_start_here") -> list[str]:
    import jupytext

    return build.lint(jupytext.reads(text, fmt="py:percent"), name)


LINT_FAULTS = {
    "title of another number": ("# # 00 · Start here", "# # 01 · Start here", "expected the title"),
    "two titles": ("# ## Summary", "# # Summary", "one title of level 1"),
    "a level skipped": ("# ## Summary", "# #### Summary", "skips from level"),
    "no question": ("# **Question.** ", "# Question: ", "**Question.**"),
    "no reading minutes": ("# - **Reading**: 40 minutes", "# - **Reading**: a while", "how many minutes"),
    "no hardware": ("2 minutes on 2 CPU cores with 4 GB of memory", "2 minutes on a laptop", "how many CPU cores"),
    "no licence line": ("# - **Data**: ", "# - Data: ", "**Data**"),
    "another kernel": ("#     name: python3", "#     name: ir", "kernelspec python3"),
    "no parameters": ('# %% tags=["parameters"]', "# %%", "exactly one cell tagged parameters; got 0"),
    "second parameters cell": ('# %% tags=["exercise"]', '# %% tags=["parameters"]', "tagged parameters; got 2"),
    "help with an equals sign": ("counted from 0", "counted from i=0", "no '='"),
    "parameter without type": ("patient: int = 2", "patient = 5", "name: type = literal"),
    "computed parameter": ("patient: int = 2", "patient: int = 2 + 3", "literal of its declared type"),
    "no seed": ("seed: int = 2022", "sead: int = 2022", "seed is missing"),
    "help of one word": (
        "# which patient of the test part, counted from 0, and round again after the last",
        "# number",
        "no help worth",
    ),
    "parameter not checked": (
        "out_dir=out_dir, patient=patient)",
        "out_dir=out_dir)",
        "patient is not given to course.start",
    ),
    "parameter without range": ("patient: int = 2", "person_no: int = 5", "person_no has no range"),
    "parameters not checked": ("session = course.start(", "session = dict(", "course.start"),
    "second import cell": ("level = figures.best_slice(reference)", "import os", "one cell that imports, got 2"),
    "a shell command": ("level = figures.best_slice(reference)", "!pip install torch", "not plain Python"),
    "an installation": ("level = figures.best_slice(reference)", 'x = "pip install torch"', "installs something"),
    "a download": ("level = figures.best_slice(reference)", 'x = "https://example.org"', "uses the network"),
    **{
        f"code {code}": ("level = figures.best_slice(reference)", code, message)
        for code, message in (
            ('get_ipython().system("pip  install torch")', "installs something"),
            ('subprocess.run(["pip", "install", "torch"])', "installs something"),
            ('get_ipython().system("ls")', "starts another program"),
            ('os.system("ls")', "starts another program"),
            ('torch.hub.load("a/b", "c")', "uses the network"),
            ("ipywidgets.IntSlider()", "without asking course.interactive()"),
            ('open("data.csv")', "relies on the working directory"),
            ('np.load("maps/first.npy")', "relies on the working directory"),
            ("os.getcwd()", "relies on the working directory"),
            ('x = "~"', "relies on the working directory"),
            ('x = "~/data"', "an absolute path"),
            ('x = "/srv/data"', "an absolute path"),
            ('x = "/srv"', "an absolute path"),
            ('x = "/elsewhere/data"', "an absolute path"),
        )
    },
    "an absolute path": ("level = figures.best_slice(reference)", 'x = "/home/me/x"', "an absolute path"),
    "a long cell": ("level = figures.best_slice(reference)", "x = 0\n" * 16, "lines of code, at most 15"),
    "a long function": (
        "level = figures.best_slice(reference)",
        "def f():\n" + "    # a\n" * 20 + "    return 0",
        "f is longer than 20 lines",
    ),
    "a widget for a program": ("if course.interactive():", "if True:", "without asking course.interactive()"),
    "a widget in the other branch": (
        'print("The viewer opens in JupyterLab (make lab).")',
        "widgets.viewer(case, found)",
        "without asking course.interactive()",
    ),
    "an imported widget": (
        "session = course.start(",
        "from ipywidgets import IntSlider as Slider\nSlider()\nsession = course.start(",
        "without asking course.interactive()",
    ),
    "code after code": ("# %% [markdown]\n# The maps below", "# %%\n# The maps below", "two code cells in a row"),
    "a progress bar": ("level = figures.best_slice(reference)", "for i in tqdm(range(3)): pass", "progress bars"),
    "no card": ("# **Exercise 0.1 · the tier of a group** —", "# **Exercise one** —", "no card"),
    "a card without a right answer": ("A right answer is one of three words", "It is one of three", "'A right answer'"),
    "card of another exercise": (
        "**Exercise 0.2 · count",
        "**Exercise 0.3 · count",
        "the card says 0.3, the check 0.2",
    ),
    "unknown exercise": ('course.check("0.2", detections)', 'course.check("0.9", detections)', "knows no exercise 0.9"),
    "no check": ('course.check("0.1", tier)', 'print("0.1")', "no cell tagged check"),
    "no line to cut at": ("    # solution\n    if peak_spec", "    if peak_spec", "no line '# solution'"),
    "no solution": (
        '# %% [markdown] tags=["solution"]\n# <details><summary>Solution to 0.1',
        "# %% [markdown]\n# <details><summary>Solution to 0.1",
        "no folded solution",
    ),
    "image without description": ("# ## Why this is hard", "# ![a picture](build.py)", "less than 15 characters"),
    "remote image": (
        "# ## Why this is hard",
        "# ![a picture of a brain](https://example.org/x.png)",
        "is not local",
    ),
    "img without alt": ("# ## Why this is hard", '# <img src="build.py">', "<img> without a description"),
    "IMG without alt": ("# ## Why this is hard", '# <IMG SRC="build.py">', "<img> without a description"),
    "a typed result": ("# ## Why this is hard", "# We find 0.873 of them.", "0.873 is a typed result"),
    "link to nowhere": ("notebook 01 derives the loss", "[notebook 01](01_x.ipynb) derives it", "leads nowhere"),
    "link called here": ("[Huang et al. 2022](", "[here](", "does not say where it leads"),
    "details left open": (
        "# Candidate: the specific model stays below 0.5.\n# </details>",
        "# Candidate.",
        "not closed",
    ),
    "details without words": ("<summary>Answer to 1</summary>", "", "needs a <summary>"),
    "a macro": ("# ## Why this is hard", "# $\\newcommand{\\x}{y}$", "custom macros"),
    "an objective that cannot be tested": ("# - **count** found", "# - Understand found", "cannot be tested"),
    "a bold objective that cannot be tested": ("# - **count** found", "# - **understand** found", "cannot be tested"),
    "an objective without summary": ("# - **Counting.** ", "# **Counting.** ", "one point for each of the 4"),
    "no limits": ("# ## What could be wrong with this", "# ## Outlook", "What could be wrong"),
    "four questions": ("# <details><summary>Answer to 5</summary>\n# Undefined", "# Undefined", "five self-test"),
    "no references": ("# ## References", "# ## Thanks", "References with a DOI"),
    "no results": ("session.finish(", "print(", "does not write results.json"),
}


@pytest.mark.parametrize("fault", LINT_FAULTS)
def test_lint_catches(fault: str) -> None:
    old, new, message = LINT_FAULTS[fault]
    assert old in TEXT, f"the fault is not planted: {old!r} is not in the notebook"
    found = _lint(TEXT.replace(old, new, 1))
    assert any(message in problem for problem in found), found


def test_lint_wants_two_exercises_and_a_proper_name() -> None:
    assert any("at least two" in p for p in _lint(TEXT.replace('tags=["exercise"]', 'tags=["other"]')))
    assert any("expected NN_topic" in p for p in _lint(TEXT, "start"))


def test_lint_lets_numbers_of_the_paper_of_code_and_of_formulas_stand() -> None:
    right = "an mDSC of 0.789, alpha 0.995 or 0.005, `0.873`, $0.873$, 0.87, version 1.2.345, 4.25 apart"
    code = ("level = figures.best_slice(reference)", "level = 0.9985")
    more = "\n# | 0.873 |\n#\n# and 0.9985"
    assert _lint(TEXT.replace("# ## Why this is hard", f"# {right}\n#{more}\n#\n# ## Why", 1).replace(*code)) == []


def test_what_is_no_path_of_this_machine() -> None:
    for text in ("<td>1</td>", "a/b/c", "https://x.org/a/b", "](../data/x.md)", "3 / 4 / 5", "data/x", "and/or", "~ 5"):
        assert not build.LOCAL_PATH.search(text), text
    for text in ("/srv", "/srv/x", "(/nfs/x)", "~/x", "'/opt/x'", "file://x", "](/data/x)", "=/etc/x"):
        assert build.LOCAL_PATH.search(text), text


def executed() -> NotebookNode:
    """A small notebook as it is committed: run once, one figure with its sentence."""
    import jupytext

    text = '# %% [markdown]\n# # 00 · Toy\n\n# %% tags=["parameters"]\na = 1\n\n# %%\nprint(a)\n\n# %%\nfigure\n'
    notebook = jupytext.reads(text, fmt="py:percent")
    outputs: list[list[dict[str, Any]]] = [
        [],
        [stream("profile quick · cpu, float32 · dmplus 0.1.0 · commit abc · seed 1\n")],
        [
            {
                "output_type": "display_data",
                "data": {"image/png": "aGVsbG8=", "text/plain": "Figure 1 shows a."},
                "metadata": {"image/png": {"alt": "Figure 1 shows a."}},
            },
            stream("Figure 1\nshows a.\n"),
        ],
    ]
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.from_dict(o) for o in outputs[count - 1]]
    return notebook


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def display(data: dict[str, str], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def test_a_good_notebook_has_nothing_to_report() -> None:
    assert build.outputs(executed(), 1000) == []


OUTPUT_FAULTS = {
    "an error": (
        {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []},
        "an error: ValueError",
    ),
    "a warning": (stream("UserWarning: x\n", "stderr"), "on stderr"),
    "a widget": (
        {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}, "metadata": {}},
        "a widget",
    ),
    "a widget without its view": (display({"text/plain": "interactive(children=(IntSlider(value=0),))"}), "a widget"),
    "a path of a server": (stream("saved to /srv\n"), "a path of the machine"),
    "a path at home": (stream("saved to ~/x\n"), "a path of the machine"),
    "a JPEG without description": (display({"image/jpeg": "aGVsbG8="}), "without description"),
    "a long table": (display({"text/html": "<tr><td>x</td></tr>\n" * 41, "text/plain": "x"}), "more than 40 lines"),
    "a local path": (stream("saved to /home/me/runs/x\n"), "a path of the machine"),
    "a local path in a table": (
        {"output_type": "display_data", "data": {"text/html": "<td>/tmp/x</td>"}, "metadata": {}},
        "a path of the machine",
    ),
    "a Windows path": (stream("saved to C:\\me\\x\n"), "a path of the machine"),
    "41 lines": (stream("x\n" * 41), "more than 40 lines"),
    "a figure without description": (
        {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}, "metadata": {}},
        "without description",
    ),
    "an SVG": ({"output_type": "display_data", "data": {"image/svg+xml": "<svg/>"}, "metadata": {}}, "an SVG"),
}


@pytest.mark.parametrize("fault", OUTPUT_FAULTS)
def test_output_check_catches(fault: str) -> None:
    output, message = OUTPUT_FAULTS[fault]
    notebook = executed()
    notebook.cells[2].outputs.append(nbformat.from_dict(output))
    found = build.outputs(notebook, 1000)
    assert len(found) == 1 and message in found[0]


def test_forty_lines_a_cell_are_allowed() -> None:
    notebook = executed()
    notebook.cells[1].outputs = [nbformat.from_dict(stream("x\n" * 20)), nbformat.from_dict(stream("x\n" * 20))]
    assert build.outputs(notebook, 1000) == []
    notebook.cells[1].outputs.append(nbformat.from_dict(stream("x")))
    (found,) = build.outputs(notebook, 1000)
    assert "more than 40 lines" in found


def test_output_check_catches_size_order_metadata_and_missing_provenance() -> None:
    def problem(change: Any) -> str:
        notebook = executed()
        size = change(notebook) or 1000
        (found,) = build.outputs(notebook, size)
        return found

    def swap(n: NotebookNode) -> None:
        n.cells[1].execution_count, n.cells[2].execution_count = 2, 1

    def never_run(n: NotebookNode) -> None:
        n.cells[3].execution_count = None

    def anonymous(n: NotebookNode) -> None:
        n.cells[2].outputs = []

    def small(n: NotebookNode) -> None:
        n.cells[2].outputs = [nbformat.from_dict(stream("profile smoke · cpu, float32 · commit abc · seed 1\n"))]

    def unsaid(n: NotebookNode) -> None:
        n.cells[3].outputs.pop()

    def misnumbered(n: NotebookNode) -> None:
        n.cells[3].outputs[0].metadata["image/png"].alt = n.cells[3].outputs[1].text = "Figure 2 shows a."

    def injected(n: NotebookNode) -> None:
        n.cells[1].metadata["tags"] = ["injected-parameters"]

    assert "1.00 MB" in problem(lambda n: 1_000_001)
    assert "execution counts [2, 1, 3]" in problem(swap)
    assert "execution counts [1, 2, None]" in problem(never_run)
    assert "no line says profile" in problem(anonymous)
    assert "executed at profile smoke; expected quick or gpu" in problem(small)
    assert "sentence is not printed" in problem(unsaid)
    assert "figures are numbered [2]" in problem(misnumbered)
    assert "papermill put there" in problem(injected)
    assert "metadata.widgets" in problem(lambda n: n.metadata.update(widgets={}))
    assert "metadata.papermill" in problem(lambda n: n.metadata.update(papermill={}))
    assert "execution is left over" in problem(lambda n: n.cells[1].metadata.update(execution={}))


def test_clean_leaves_outputs_and_counts() -> None:
    notebook = executed()
    notebook.metadata["widgets"] = notebook.metadata["papermill"] = {}
    notebook.cells[1].metadata.update(papermill={}, execution={})
    cleaned = build.cleaned(copy.deepcopy(notebook))
    assert build.outputs(cleaned, 1000) == []
    assert [c.get("outputs") for c in cleaned.cells] == [c.get("outputs") for c in notebook.cells]


def test_a_run_longer_than_the_header_says_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "00_start_here.py").write_text(TEXT)  # says 2 minutes at both profiles
    nbformat.write(executed(), tmp_path / "00_start_here.ipynb")
    for seconds, found in ((120, []), (126.4, ["outputs: 126 s at profile gpu, the header says 2 minutes"])):
        for profile, took in (("quick", 120), ("gpu", seconds)):
            (tmp_path / "results" / f"00_start_here.{profile}.json").write_text(json.dumps({"seconds": took}))
        assert build.check_outputs("00_start_here") == found


def test_drift_is_seen_in_text_tags_type_and_number() -> None:
    good = executed()
    assert build.drift(good, executed()) == []
    for change in (
        lambda n: n.cells[2].update(source="print(2)"),
        lambda n: n.cells[1].metadata.update(tags=[]),
        lambda n: n.cells[0].update(cell_type="raw"),
        lambda n: n.cells.pop(),
        lambda n: n.cells.append(nbformat.v4.new_markdown_cell("x")),
        lambda n: n.cells.reverse(),
    ):
        other = executed()
        change(other)
        assert build.drift(good, other)
    other = executed()
    other.metadata["kernelspec"] = {"name": "conda-env"}
    (found,) = build.drift(good, other)
    assert "the notebook conda-env" in found
    other = executed()
    other.cells[2].update(source="print(a)  \n", outputs=[], execution_count=None)
    assert build.drift(good, other) == []  # outputs, counts and trailing blanks are no drift


def test_merging_drops_what_papermill_injected_and_closes_the_counts() -> None:
    good, done = executed(), executed()
    injected = nbformat.v4.new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}, execution_count=2)
    done.cells.insert(2, injected)
    for count, cell in enumerate((c for c in done.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    good.metadata["kernelspec"] = {"name": "python3"}
    merged = build.merged(good, done)
    assert build.drift(good, merged) == [] and build.outputs(merged, 1000) == []
    assert merged.cells[2].outputs == done.cells[3].outputs


# ----------------------------------------------------------------------------------------------- student versions
def test_student_versions_hold_no_solution_and_no_output() -> None:
    made = build.student(source(), "00_start_here")
    text = "\n".join(c.source for c in made.cells)
    assert "# solution" not in text and "Solution to" not in text and "np.unique(lesions" not in text
    assert text.count("# write your code here\n    return None") == 3
    assert text.count("[solved notebook 00_start_here](../00_start_here.ipynb)") == 3
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in made.cells)
    assert build.text_of(made) == build.text_of(build.student(source(), "00_start_here"))  # the same again


def test_a_student_version_that_was_edited_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "00_start_here.py").write_text(TEXT)
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    assert build.main(["student", "00"]) == 0
    assert build.main(["student", "--check", "00"]) == 0
    path = tmp_path / "student" / "00_start_here.ipynb"
    path.write_text(path.read_text().replace("return None", "return 0", 1))
    assert build.main(["student", "--check", "00"]) == 1
    path.unlink()
    assert build.main(["student", "--check"]) == 1


def test_a_stub_keeps_the_signature_and_returns_none() -> None:
    assert build.stub("def f(x):\n    '''Doc.'''\n    # solution\n    return 1\n") == (
        "def f(x):\n    '''Doc.'''\n    # write your code here\n    return None"
    )


def test_links_of_a_student_version_start_one_folder_deeper() -> None:
    notebook = source()
    notebook.cells.insert(
        1, nbformat.v4.new_markdown_cell("![a b c d e f g h i](figures/a.png) [card](../data_cards/x.md)")
    )
    text = build.student(notebook, "00_start_here").cells[1].source
    assert text == "![a b c d e f g h i](../figures/a.png) [card](../../data_cards/x.md)"


def test_the_configuration_pairs_sources_and_leaves_student_versions_alone() -> None:
    import tomllib

    outer = tomllib.loads((FOLDER / "jupytext.toml").read_text())
    assert outer["formats"] == "ipynb,py:percent" and "tags" in outer["cell_metadata_filter"]
    assert tomllib.loads((FOLDER / "student" / "jupytext.toml").read_text()) == {"formats": "ipynb"}


def test_check_reports_and_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "00_start_here.py").write_text(TEXT.replace("# ## References", "# ## Thanks"))
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    assert build.main(["check"]) == 1
    said = capsys.readouterr().out
    for words in ("References with a DOI", "there is no executed notebook", "student: not what the source gives"):
        assert words in said


def test_files_without_a_source_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    (tmp_path / "00_start_here.py").write_text(TEXT)
    lost = ["07_orphan.ipynb", "results/08_gone.quick.json", "student/09_lost.ipynb"]
    for path in (*lost, "00_start_here.ipynb", "student/00_start_here.ipynb", "results/00_start_here.quick.json"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        nbformat.write(executed(), tmp_path / path)
    assert [problem.partition(":")[0] for problem in build.orphans()] == lost
    monkeypatch.setattr(build, "CHECKS", {})
    assert build.main(["check"]) == 1
    assert "07_orphan.ipynb: there is no source of it" in capsys.readouterr().out
    assert notebooks.notebook_names(tmp_path) == ["00_start_here"]  # what `dmplus run --list` and `make course` take
