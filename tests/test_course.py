"""The strict door: every rule of it, on a small notebook that can be told to fail."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from dmplus import course, exercises, notebooks
from dmplus.cli import main
from dmplus.runtime import InputError

TOY = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Toy
#
# **Question.** Does it run?
#
# - **Quick**: 1 minute on 2 CPU cores
# - **GPU**: 2 minutes on one GPU

# %% tags=["parameters"]
profile: str = "quick"  # size of everything
seed: int = 3  # seed of the randomness
out_dir: str = ""  # where results go, empty for the run's own folder
alpha: float = 0.5  # a number
sizes: list[int] = [1, 2]  # whole numbers
verbose: bool = False  # say more
fail: str = ""  # raise, die or nothing

# %%
from dmplus import course
import os, sys
session = course.start("00_toy", profile=profile, seed=seed, out_dir=out_dir, alpha=alpha, sizes=sizes)
print(os.path.basename(os.getcwd()), course.interactive(), type(alpha).__name__)
print("a word on stderr", file=sys.stderr)

# %% [markdown]
# ## The failing part

# %%
if fail == "raise":
    raise ValueError("as asked")
if fail == "die":
    os.write(2, b"native last words\\n")
    os._exit(9)

# %%
session.finish(headline=f"alpha {alpha}, sizes {sizes}", metrics={"verbose": verbose})
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "notebooks"
    folder.mkdir()
    (folder / "00_toy.py").write_text(TOY)
    return folder / "00_toy.py"


def source(text: str = TOY) -> nbformat.NotebookNode:
    import jupytext

    return jupytext.reads(text, fmt="py:percent")


@pytest.fixture(scope="module")
def declared() -> dict[str, notebooks.Parameter]:
    return {p.name: p for p in notebooks.parameters_of(source())}


# ----------------------------------------------------------------------------------------------------- parameters
def test_parameters_are_what_papermill_shows(
    toy: Path, tmp_path: Path, declared: dict[str, notebooks.Parameter]
) -> None:
    import papermill

    nbformat.write(source(), tmp_path / "toy.ipynb")
    shown = papermill.inspect_notebook(str(tmp_path / "toy.ipynb"))
    assert {k: v["help"].strip() for k, v in shown.items()} == {p.name: p.help for p in declared.values()}
    assert declared["sizes"].default == [1, 2] and declared["alpha"].type == "float"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("alpha", "1e-3", 0.001),
        ("alpha", "2", 2.0),
        ("alpha", 2, 2.0),
        ("seed", "7", 7),
        ("seed", "-7", -7),
        ("verbose", "true", True),
        ("verbose", False, False),
        ("sizes", "4,5", [4, 5]),
        ("sizes", "[4, 5]", [4, 5]),
        ("sizes", "", []),
        ("sizes", [4], [4]),
        ("fail", "0.5", "0.5"),
    ],
)
def test_values_are_cast_by_their_declared_type(
    declared: dict[str, notebooks.Parameter], name: str, text: object, value: object
) -> None:
    cast = notebooks.cast(declared[name], text)
    assert cast == value and type(cast) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alpha", "much"),
        ("alpha", "nan"),
        ("alpha", "inf"),
        ("alpha", True),
        ("alpha", [0.5]),
        ("seed", "1.5"),
        ("seed", 1.0),
        ("seed", "true"),
        ("seed", True),
        ("verbose", "yes"),
        ("verbose", "True"),
        ("verbose", "1"),
        ("verbose", 1),
        ("sizes", "1,x"),
        ("sizes", "[1, 2"),
        ("sizes", "[1, 2.5]"),
        ("sizes", 3),
        ("fail", 3),
        ("fail", True),
    ],
)
def test_values_that_do_not_fit_are_refused(declared: dict[str, notebooks.Parameter], name: str, text: object) -> None:
    with pytest.raises(InputError, match=f"parameter {name}: expected"):
        notebooks.cast(declared[name], text)


def test_yaml_numbers_written_as_text_arrive_as_numbers(
    declared: dict[str, notebooks.Parameter], tmp_path: Path
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("alpha: 1e-3\nsizes: [4, 5]\nverbose: true\nseed: 9\n")
    settled = notebooks.settle(list(declared.values()), ["seed=8"], file=file)
    assert settled == {"alpha": 0.001, "sizes": [4, 5], "verbose": True, "seed": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [("- 1\n", "expected lines"), ("a: [", "expected YAML"), ("alhpa: 1\n", "did you mean alpha"), (None, "existing")],
)
def test_bad_yaml_is_refused(
    declared: dict[str, notebooks.Parameter], tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "p.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        notebooks.settle(list(declared.values()), [], file=file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('# %% tags=["parameters"]', "# %%", "exactly one cell tagged parameters; got 0"),
        ("# %%\nfrom", '# %% tags=["parameters"]\nfrom', "exactly one cell tagged parameters; got 2"),
        ("seed: int = 3  #", "seed = 3  #", "name: type = literal"),
        ("seed: int = 3  # seed of the randomness", "seed: int = 3", "name: type = literal"),
        ("# seed of the randomness", "# seed, default=3", "no '='"),
        ("# seed of the randomness", "# seed # of it", "no '='"),
        ("seed: int = 3", "seed: int | None = 3", "name: type = literal"),
        ("seed: int = 3", "seed: int = 2 + 1", "literal of its declared type"),
        ("seed: int = 3", "seed: int = 3.5", "literal of its declared type"),
        ("seed: int = 3", "profile: int = 3", "profile twice"),
    ],
)
def test_parameters_that_would_vanish_are_refused(old: str, new: str, message: str) -> None:
    assert old in TOY
    with pytest.raises(InputError, match=message):
        notebooks.parameters_of(source(TOY.replace(old, new, 1)))


# ----------------------------------------------------------------------------------------------------- the door
def test_the_door_runs_a_notebook_with_other_values(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.parent.parent)
    (tmp_path / "p.yaml").write_text("alpha: 1e-3\nverbose: true\n")
    before = toy.read_text()
    arguments = [
        "run",
        "00",
        "sizes=4,5",
        "profile=smoke",
        "-f",
        str(tmp_path / "p.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    folder = tmp_path / "out" / "00_toy" / "smoke"
    said = capfd.readouterr().out
    lines = [line.split()[1] for line in said.splitlines() if line.startswith("  cell ")]
    assert lines == ["2/7", "3/7", "4/7", "6/7", "7/7"]  # one line per code cell, the injected one included
    results = json.loads((folder / "results.json").read_text())
    assert results["headline"] == "alpha 0.001, sizes [4, 5]" and results["metrics"] == {"verbose": True}
    assert results["parameters"]["alpha"] == 0.001 and results["parameters"]["seed"] == 3
    assert {"versions", "commit", "device", "seconds", "precision"} <= set(results)
    executed = nbformat.read(folder / "00_toy.ipynb", as_version=4)
    text = "".join(o.get("text", "") for c in executed.cells for o in c.get("outputs", []))
    assert "notebooks False float" in text  # the notebook's own folder, no widgets, a float
    assert executed.metadata.kernelspec.name == "python3"
    assert "a word on stderr" in (folder / "stderr.txt").read_text()
    assert toy.read_text() == before and sorted(p.name for p in toy.parent.iterdir()) == ["00_toy.py"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("alhpa=1", "unknown parameter alhpa .did you mean alpha.*alpha: float = 0.5, a number"),
        ("alpha=x", "parameter alpha: expected a finite number; got 'x'"),
        ("verbose=yes", "parameter verbose: expected true or false"),
        ("profile=huge", "profile: expected smoke, quick, gpu; got 'huge'"),
        ("alpha", "expected name=value; got 'alpha'"),
        ("alpha=7", "parameter alpha: expected from 0 to 1; got 7.0"),
        ("seed=-1", "parameter seed: expected from 0 to 4294967295; got -1"),
    ],
)
def test_the_door_refuses_before_a_kernel_starts(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    setting: str,
    message: str,
) -> None:
    import re

    monkeypatch.chdir(toy.parent.parent)
    monkeypatch.setattr(course, "_execute", lambda *_, **__: pytest.fail("a kernel would start"))
    assert main(["run", "00_toy", setting, "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and re.search(message, said)
    assert not (tmp_path / "out").exists()


def test_a_failing_cell_is_named_and_what_it_left_is_kept(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.parent.parent)
    folder = tmp_path / "out" / "00_toy" / "quick"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")  # of an earlier run: it must not stand beside a failure
    assert main(["run", "00", "fail=raise", "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert "cell 6 of 7" in said and "ValueError: as asked" in said and 'if fail == "raise":' in said
    assert sorted(p.name for p in folder.iterdir()) == ["00_toy.ipynb", "stderr.txt"]
    errors = (folder / "stderr.txt").read_text()
    assert "a word on stderr" in errors and "ValueError: as asked" in errors and "TCP" not in errors
    executed = nbformat.read(folder / "00_toy.ipynb", as_version=4)
    assert any(o.get("text", "").startswith("profile quick") for c in executed.cells for o in c.get("outputs", []))


def test_a_kernel_that_dies_leaves_its_last_words(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(course.NotebookFailed, match="native last words"):
        course.run_notebook(toy, ["fail=die"], out=tmp_path, progress=False)
    assert "native last words" in (tmp_path / "00_toy" / "quick" / "stderr.txt").read_text()


def test_the_list_says_question_and_minutes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.parent.parent)
    assert main(["run", "--list"]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    shutil.copytree(toy.parent, tmp_path / "notebooks")
    nbformat.write(source(), tmp_path / "notebooks" / "07_orphan.ipynb")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--list"]) == 0
    assert "07_orphan" not in capfd.readouterr().out  # no source: nobody knows what it is
    assert last.split("  ")[0] == "00_toy" and "1 minute" in last and "2 minutes" in last and "Does it run?" in last


@pytest.mark.parametrize("name", ["07", "nothing", "no/such.ipynb"])
def test_unknown_notebooks_are_refused(toy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(toy.parent.parent)
    with pytest.raises(InputError, match="expected"):
        notebooks.find_notebook(name)


def test_the_door_never_writes_over_the_notebook_itself(tmp_path: Path) -> None:
    folder = tmp_path / "00_toy" / "quick"  # where the door would write
    folder.mkdir(parents=True)
    (folder / "00_toy.py").write_text(TOY)
    with pytest.raises(InputError, match="another folder"):
        course.run_notebook(folder / "00_toy.py", out=tmp_path)


def test_a_broken_notebook_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00_x.ipynb"
    path.write_text("{ not json")
    with pytest.raises(InputError, match="cannot be read"):
        notebooks.read_notebook(path)


# -------------------------------------------------------------------------------------------- profiles, sessions
def test_profiles_name_presets_that_exist() -> None:
    from dmplus.network import preset
    from dmplus.synthetic import COHORTS

    for name, profile in course.PROFILES.items():
        assert profile.name == name and profile.cohort in COHORTS and preset(profile.network)
    with pytest.raises(InputError, match="profile: expected smoke, quick, gpu"):
        course.profile("full")


def test_nothing_is_interactive_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    assert not course.interactive()
    shell = type("Shell", (), {"kernel": object(), "user_ns": {}})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.delenv(course.HEADLESS, raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not course.interactive()  # a kernel that papermill or nbconvert started
    monkeypatch.setenv("JPY_SESSION_NAME", "00_start_here.ipynb")
    assert course.interactive()  # JupyterLab
    monkeypatch.setenv(course.HEADLESS, "1")
    assert not course.interactive()


def test_a_session_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    good = {"profile": "smoke", "seed": 1, "out_dir": str(tmp_path / "out")}
    for name, value in (
        ("profile", "huge"),
        ("seed", -1),
        ("seed", 2**32),
        ("alpha", 7.0),
        ("alpha", -0.1),
        ("alpha", [0.5, 7.0]),
        ("patient", -1),
    ):
        with pytest.raises(InputError, match=f"{name}: expected") as refusal:
            course.start("00_toy", **{**good, name: value})
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()  # nothing ran before
    assert course.start("00_toy", **good, alpha=[0, 1.0], patient=99).parameters["patient"] == 99


def test_a_session_prints_where_it_ran_and_writes_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = course.start("00_toy", profile="smoke", seed=1, out_dir=str(tmp_path / "x"), size=2)
    session.finish(headline="42 found", metrics={"found": 42, "none": float("nan")})
    said = capsys.readouterr().out
    assert said.startswith("profile smoke · ") and " commit " in said and "42 found" in said
    assert str(tmp_path) not in said
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert results["metrics"] == {"found": 42, "none": None} and results["parameters"]["size"] == 2


# ----------------------------------------------------------------------------------------------------- exercises
@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_exercises_accept_the_reference_and_name_each_misconception(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exercise = exercises.EXERCISES[name]
    monkeypatch.delenv(exercises.STRICT, raising=False)
    assert exercises.check(name, exercise.reference)
    assert "passed" in capsys.readouterr().out
    assert exercise.misconceptions
    for wrong, message in exercise.misconceptions:
        assert not exercises.check(name, wrong)
        assert message in capsys.readouterr().out
        monkeypatch.setenv(exercises.STRICT, "1")
        with pytest.raises(exercises.ExerciseError):
            exercises.check(name, wrong)
        monkeypatch.delenv(exercises.STRICT)


def test_an_answer_that_changes_what_it_gets_is_not_right_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are sorted in place before the rest: right numbers of a list that is no longer the one that was asked about."""
    monkeypatch.delenv(exercises.STRICT, raising=False)

    def shares(sizes: list[int]) -> list[float]:
        sizes.sort()
        return [n / sum(sizes) for n in sizes]

    def captured(peak: list[float], true: list[bool], first: int) -> float:
        peak.sort(reverse=True)
        return sum(true[:first]) / sum(true) if any(true) else float("nan")

    assert not exercises.check("2.2", shares) and not exercises.check("4.2", captured)


def test_wrong_answers_that_only_an_edge_tells() -> None:
    def last_of_equals(sensitivity: list[float], fp: list[float], budget: float) -> int:
        best = -1
        for i, n in enumerate(fp):
            if n <= budget and (best < 0 or sensitivity[i] >= sensitivity[best]):
                best = i
        return best

    def never_its_last_point(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
        return float("nan") if wanted >= max(sensitivity) else exercises.reference("3.2")(sensitivity, fp, wanted, rival)

    assert not exercises.check("2.3", last_of_equals) and not exercises.check("3.2", never_its_last_point)


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_exercises_say_open_and_what_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(exercises.STRICT, raising=False)
    for answer, words in (
        (None, "open"),
        (lambda *_: None, "open"),
        (3, "expected a function"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda: 1, "TypeError"),
        (lambda *_: "nonsense", "not yet"),
        (lambda *_: (1, 2, 3, 4), "not yet"),
    ):
        assert not exercises.check(name, answer)
        assert words in capsys.readouterr().out
    monkeypatch.setenv(exercises.STRICT, "1")
    with pytest.raises(exercises.ExerciseError, match="open"):
        exercises.check(name, lambda *_: None)


def test_a_check_hands_out_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that writes into its arguments is judged on the same cases as any other."""
    monkeypatch.setenv(exercises.STRICT, "1")

    def answer(reference, predicted):  # noqa: ANN001, ANN202
        right = exercises.detections(reference, predicted)
        reference[:] = predicted[:] = False
        return right

    assert exercises.check("0.2", answer)


def test_unknown_exercises_are_refused() -> None:
    with pytest.raises(InputError, match="expected one of 0.1"):
        exercises.check("9.9", None)


# --------------------------------------------------------------------------------- what sets the course up
ROOT = Path(__file__).resolve().parent.parent


def _requirements() -> dict[str, str]:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {Requirement(r).name.lower(): str(Requirement(r).specifier) for r in named}


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines), "constraints.txt: expected name==version on every line"
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


def test_every_dependency_is_pinned_within_what_the_package_allows() -> None:
    from packaging.specifiers import SpecifierSet

    pins = _pins()
    for name, allowed in _requirements().items():
        assert name.replace("_", "-") in pins, f"{name} is not pinned in constraints.txt"
        assert SpecifierSet(allowed).contains(pins[name]), f"{name}: {pins[name]} is pinned, {allowed} is allowed"


def test_everything_that_gets_installed_here_is_pinned() -> None:
    """All that the package and its tests need, however far away."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    pins, seen, todo = _pins(), set(), [(name, frozenset[str]()) for name in _requirements()]
    while todo:
        name, extras = todo.pop()
        key = name.lower().replace("_", "-").replace(".", "-")
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue  # what another platform or Python version needs
        assert key in pins, f"{name} is needed and not pinned in constraints.txt"
        for text in needs:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *extras)):
                todo.append((need.name, frozenset(need.extras)))
    assert len(seen) > 80


def test_the_pins_name_nothing_that_only_one_platform_has() -> None:
    pins = _pins()
    assert pins["torch"].count("+") == 0
    assert not [n for n in pins if n.startswith(("nvidia-", "triton", "pywin", "appnope", "colorama"))]


def test_environment_yml_leaves_everything_to_pyproject() -> None:
    import tomllib

    import yaml

    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, rest = content["dependencies"]
    assert pip == "pip" and rest == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert python == f"python{lowest}"  # no bound of its own: make and conda take the same interpreters


def test_ci_calls_make_test_and_the_workflow_calls_ci() -> None:
    import yaml

    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "make test"] and os.access(ROOT / ".ci" / "run", os.X_OK)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert all(isinstance(v, str) for v in job["strategy"]["matrix"]["python"])  # 3.10 unquoted reads as 3.1
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_the_workflow_takes_the_pins_and_weekly_the_newest_and_always_the_oldest() -> None:
    import tomllib

    import yaml

    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    text = job["env"]["CONSTRAINTS"].strip("${} ").replace("&&", "and").replace("||", "or")

    def constraints(event: str, pins: str) -> str:
        return eval(text.replace("github.event_name", repr(event)).replace("matrix.pins", repr(pins)))

    matrix = job["strategy"]["matrix"]
    (oldest,) = matrix["include"]
    assert matrix["pins"] == ["constraints.txt"]
    assert (
        constraints("push", "constraints.txt") == "constraints.txt" and constraints("schedule", "constraints.txt") == ""
    )
    assert constraints("push", oldest["pins"]) == constraints("schedule", oldest["pins"]) == oldest["pins"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert oldest["python"] == project["requires-python"].removeprefix(">=")
    (made,) = [step["run"] for step in job["steps"] if oldest["pins"] in step.get("run", "")]
    assert f"torch=={_requirements()['torch'].removeprefix('>=')}.*" in made


def test_the_workflow_keeps_what_the_tests_write() -> None:
    import yaml

    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    folder = job["env"]["PYTEST_ADDOPTS"].removeprefix("--basetemp=")
    assert f"{folder}/" in (ROOT / ".gitignore").read_text().split()  # else `make check` lints what the tests wrote
    kept = job["steps"][-1]["with"]["path"].split()
    assert kept and all(path.startswith(f"{folder}/") for path in kept)


@pytest.mark.parametrize(
    ("given", "said"), [(None, ["-c", "constraints.txt"]), ("oldest.txt", ["-c", "oldest.txt"]), ("", [])]
)
def test_make_takes_other_constraints_or_none(given: str | None, said: list[str]) -> None:
    import subprocess

    environment = {k: v for k, v in os.environ.items() if k not in ("CONSTRAINTS", "TORCH")}
    environment |= {} if given is None else {"CONSTRAINTS": given}
    done = subprocess.run(
        ["make", "-n", "-B", "install"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    (command,) = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert command.partition("--disable-pip-version-check")[2].split() == [*said, "-e", "'.[dev]'"]


def test_make_names_a_missing_interpreter_in_a_clean_line(tmp_path: Path) -> None:
    import subprocess

    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    quiet = ["make", "--no-print-directory", "test", "PYTHON=nopython"]  # these tests may run under make themselves
    done = subprocess.run(quiet, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stdout.splitlines()[0] == "dmplus needs Python 3.11 or newer; 'nopython' is missing."
    assert "not found" not in done.stdout + done.stderr


def test_make_says_what_to_do_about_an_old_python(tmp_path: Path) -> None:
    import subprocess

    make = shutil.which("make")
    if make is None:
        pytest.fail("GNU make is part of what the course needs")
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.1";; *) exit 1;; esac\n')
    old.chmod(0o755)
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    done = subprocess.run(
        [make, "--no-print-directory", "test", f"PYTHON={old}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0 and "needs Python 3.11 or newer" in done.stdout and "3.9.1" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_the_interpreter_is_new_enough() -> None:
    assert sys.version_info >= (3, 11)


def test_the_bench_times_prediction_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmplus import network, runtime, training

    smoke = network.preset("smoke", prior="path")
    monkeypatch.setattr(network, "preset", lambda name, prior: dataclasses.replace(smoke, prior=prior))
    monkeypatch.setattr(training, "preset", network.preset)
    monkeypatch.setattr(training, "has_compiler", lambda: False)
    monkeypatch.setattr(runtime, "machine", lambda: runtime.Machine("cpu", "float32", "test"))
    table = course.bench(seconds=0.0, steps=6, shape=(48, 48, 48))
    lines = [line.split() for line in table.splitlines()[1:]]
    assert [line[:4] for line in lines[-4:]] == [
        [w, "quick", p, "plain"] for w in ("predict", "train") for p in ("none", "path")
    ]
    assert all(float(line[4]) > 0 for line in lines[-4:]) and "(n = 40)" in table
