"""The course: its profiles, the strict door to one notebook, and what a notebook says of its own run.

:func:`run_notebook` is behind ``dmplus run``. papermill alone forgives too much: it runs on with a warning when a
parameter's name is wrong and passes YAML's ``1e-3`` as text. Here names and types are settled before a kernel starts.
:func:`start` and :meth:`Session.finish` are called by the notebooks themselves. Exercises: :mod:`dmplus.exercises`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmplus import runtime
from dmplus.notebooks import (
    Notebook,
    Parameter,
    cast,
    check_ranges,
    course_root,
    describe,
    find_notebook,
    list_notebooks,
    notebook_names,
    notebook_table,
    parameter_table,
    parameters_of,
    read_notebook,
    settle,
    text_table,
)
from dmplus.runtime import InputError, clock, replacing, write_json

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "PROFILES", "Notebook", "NotebookFailed", "Parameter", "Profile", "Run", "Session", "bench", "cast", "check",
    "describe", "find_notebook", "interactive", "list_notebooks", "notebook_table", "parameter_table", "parameters_of",
    "profile", "render", "run_course", "run_notebook", "settle", "start",
]  # fmt: skip

KERNEL = "python3"  #: the only kernel a notebook of the course runs on
HEADLESS = "DMPLUS_HEADLESS"  #: environment variable that keeps widgets away
RUN_FOLDER = "DMPLUS_RUN_FOLDER"  #: environment variable: where a notebook run through the door writes


class NotebookFailed(RuntimeError):
    """A cell raised, or the kernel died. The message names the cell; the partial notebook and stderr are kept."""


# -------------------------------------------------------------------------------------------------- profiles
@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """How big everything is: one switch shared by notebooks, command line and tests."""

    name: str
    network: str  #: preset of :func:`dmplus.network.preset`
    cohort: str  #: preset of ``dmplus.synthetic.COHORTS``
    patients: int  #: patients that a notebook computes live
    steps: int  #: optimizer steps of a live training
    minutes: float  #: what one notebook may take (2 CPU cores; one GPU for ``gpu``)


PROFILES = {
    "smoke": Profile(name="smoke", network="smoke", cohort="smoke", patients=2, steps=4, minutes=0.8),
    "quick": Profile(name="quick", network="quick", cohort="quick", patients=3, steps=20, minutes=2.5),
    "gpu": Profile(name="gpu", network="paper", cohort="gpu", patients=10, steps=2000, minutes=20.0),
}


def profile(name: str) -> Profile:
    """The profile ``smoke`` (tests), ``quick`` (a laptop) or ``gpu``; ``InputError`` for any other name."""
    if name not in PROFILES:
        raise InputError(f"profile: expected {', '.join(PROFILES)}; got {name!r}; choose one of those")
    return PROFILES[name]


_profile = profile  # where a parameter has the same name


def interactive() -> bool:
    """Whether somebody can move a widget: a kernel that JupyterLab, Notebook, VS Code or Colab started.

    A kernel that a program drives (the door of this module, papermill, nbconvert, nbmake) gets none: a widget leaves
    nothing to see in a saved notebook. The environment variable ``DMPLUS_HEADLESS`` keeps widgets away everywhere.
    """
    shell = runtime.shell()
    if os.environ.get(HEADLESS) or not hasattr(shell, "kernel"):
        return False
    jupyter, code = bool(os.environ.get("JPY_SESSION_NAME")), "__vsc_ipynb_file__" in shell.user_ns
    return jupyter or code or "google.colab" in sys.modules


# ------------------------------------------------------------------------------------ inside a notebook
@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """One run of a notebook: made by :func:`start`, closed by :meth:`finish`."""

    notebook: str
    profile: Profile
    seed: int
    parameters: dict[str, Any]
    folder: Path  #: everything the notebook writes goes here
    machine: runtime.Machine
    started: float

    def fresh(self, name: str) -> Path:
        """An empty folder of that name inside the run's folder; what an earlier run left there is removed."""
        folder = self.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        return folder

    def finish(self, *, headline: str, metrics: Mapping[str, Any]) -> None:
        """Write ``results.json`` into the run's folder and print the headline.

        headline: one short line with the number that the notebook stands for. metrics: plain numbers and texts. Beside
        them: parameters, seed, versions, commit, device, precision and seconds.
        """
        path = self.folder / "results.json"
        seconds = round(time.monotonic() - self.started, 1)
        versions = runtime.versions()
        content = {
            "notebook": self.notebook,
            "headline": headline,
            "metrics": dict(metrics),
            "parameters": self.parameters,
            "seed": self.seed,
            "profile": self.profile.name,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "versions": {k: v for k, v in versions.items() if k != "commit"},
            "commit": versions["commit"],
            "seconds": seconds,
        }
        write_json(path, content)
        where = f"{self.machine.device}, profile {self.profile.name}"
        print(f"{headline}\nresults.json written after {clock(seconds)} on {where}")


def start(notebook: str, *, profile: str, seed: int, out_dir: str = "", **parameters: Any) -> Session:
    """Check a notebook's parameters, make its output folder and print what it runs on.

    notebook: its name, such as "00_start_here". out_dir: where it writes; "" is ``runs/<notebook>/<profile>`` of the
    checkout. Other parameters are passed by name and recorded. Raises ``InputError`` for an unknown profile and a value
    outside the range of its name (:data:`dmplus.notebooks.RANGES`), before anything is made.
    """
    chosen = _profile(profile)
    recorded = {"profile": profile, "seed": seed, **parameters}
    check_ranges(recorded)
    default = os.environ.get(RUN_FOLDER) or course_root() / "runs" / notebook / profile
    folder = Path(out_dir) if out_dir else Path(default)
    folder.mkdir(parents=True, exist_ok=True)
    machine = runtime.machine()
    versions = runtime.versions()
    print(
        f"profile {profile} · {machine.device}, {machine.precision} · dmplus {versions['dmplus']}, torch "
        f"{versions['torch']}, numpy {versions['numpy']}, Python {platform.python_version()} · commit "
        f"{versions['commit'] or 'unknown'} · seed {seed}"
    )
    return Session(
        notebook=notebook, profile=chosen, seed=seed, parameters=recorded, folder=folder, machine=machine,
        started=time.monotonic(),
    )  # fmt: skip


def check(name: str, answer: Any) -> None:
    """Check an exercise's answer and say in words what is right or wrong: :func:`dmplus.exercises.check`."""
    from dmplus import exercises

    exercises.check(name, answer)


# ------------------------------------------------------------------------------------------------- the strict door
@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: the executed notebook and what ``results.json`` beside it holds."""

    notebook: Path
    results: dict[str, Any]
    seconds: float

    @property
    def headline(self) -> str:
        return str(self.results.get("headline", ""))


def run_notebook(
    notebook: str | Path,
    assignments: Sequence[str] = (),
    *,
    file: str | Path | None = None,
    out: str | Path = "runs",
    progress: bool = True,
) -> Run:
    """Run a notebook from top to bottom with other parameters: the strict papermill door behind ``dmplus run``.

    notebook: name, number or path (:func:`find_notebook`). assignments: texts ``name=value``. file: YAML mapping of
    parameters; ``name=value`` wins over it. The result goes to ``out/<notebook>/<profile>/``, never over the notebook
    itself: the executed notebook, ``results.json`` and ``stderr.txt``. The kernel is ``python3`` and starts in the
    notebook's folder. progress: one line per cell on stdout.

    Raises ``InputError`` before a kernel starts for anything that cannot be used, and :class:`NotebookFailed` when a
    cell raises or the kernel dies; the partial notebook and stderr are then kept.
    """
    path = find_notebook(notebook)
    node = read_notebook(path)
    declared = parameters_of(node, name=path.stem)
    values = settle(declared, assignments, file=file, name=path.stem)
    settings = {p.name: p.default for p in declared} | values
    chosen = str(settings.get("profile", "default"))
    if "profile" in settings:
        profile(chosen)  # refuse an unknown one before a kernel starts
    folder = Path(out).resolve() / path.stem / chosen
    if folder == path.parent:
        raise InputError(f"output {folder.name}: expected another folder than the notebook's; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    target, errors = folder / f"{path.stem}.ipynb", folder / "stderr.txt"
    for old in (target, errors, folder / "results.json", folder / f"{path.stem}.html"):
        old.unlink(missing_ok=True)

    own = Path(settings["out_dir"]) if settings.get("out_dir") else folder
    say = print if progress else (lambda *_, **__: None)
    say(f"{path.stem} ({', '.join(f'{k}={v!r}' for k, v in settings.items())})", flush=True)
    started = time.monotonic()
    _execute(node, target, values, folder=folder, cwd=path.parent, errors=errors, progress=progress)
    seconds = round(time.monotonic() - started, 1)

    results = {}
    written = (path.parent / own / "results.json").resolve()  # a relative out_dir counts from the notebook's folder
    with contextlib.suppress(FileNotFoundError):
        results = json.loads(written.read_text())
    versions = runtime.versions()
    results |= {"notebook": path.stem, "parameters": settings, "seconds": seconds}
    results.setdefault("versions", {k: v for k, v in versions.items() if k != "commit"})
    results.setdefault("commit", versions["commit"])
    results.setdefault("device", runtime.machine().device)
    write_json(folder / "results.json", results)
    if not errors.stat().st_size:
        errors.unlink()
    say(f"{path.stem}: done in {clock(seconds)}, {results.get('headline', '')}", flush=True)
    return Run(notebook=target, results=results, seconds=seconds)


def kernel_environment(folder: Path | None = None) -> dict[str, str]:
    """Environment of a kernel that a program drives: no widgets, this package's allocator, quiet debugger."""
    environment = {
        **os.environ,
        **runtime.allocator_environment(),
        HEADLESS: "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # frozen modules make the debugger warn at every start of a kernel
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    return environment if folder is None else environment | {RUN_FOLDER: str(folder)}


def _execute(
    node: NotebookNode, target: Path, values: dict[str, Any], *, folder: Path, cwd: Path, errors: Path, progress: bool
) -> None:
    """Run ``node`` with papermill into ``target``; the kernel's stderr and the cells' go to ``errors``."""
    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines

    at = {"cell": 0}

    class Door(Engine):
        """papermill's own client, with one line per cell and the kernel process's stderr kept."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            client = PapermillNotebookClient(
                nb_man, timeout=None, startup_timeout=120, kernel_name=KERNEL, stderr_file=kwargs["stderr_file"]
            )
            report = _reporter(nb_man.nb, progress)
            start_cell, complete_cell = nb_man.cell_start, nb_man.cell_complete

            def begin(cell: Any, cell_index: int, **more: Any) -> None:
                at["cell"] = cell_index + 1
                start_cell(cell, cell_index, **more)
                report(cell_index, None)

            def end(cell: Any, cell_index: int, **more: Any) -> None:
                complete_cell(cell, cell_index, **more)
                report(cell_index, cell)

            nb_man.cell_start, nb_man.cell_complete = begin, end
            return client.execute(env=kernel_environment(folder), stderr=kwargs["stderr_file"])

    papermill_engines.register("dmplus", Door)
    import nbformat

    kept = f"partial notebook and stderr: {_short(target)}, {errors.name}"
    part = folder / ".input.ipynb"
    with errors.open("w") as stderr:
        nbformat.write(node, part)
        try:
            with _quiet():
                papermill.execute_notebook(
                    str(part), str(target), parameters=values, engine_name="dmplus", kernel_name=KERNEL,
                    progress_bar=False, log_output=False, stderr_file=stderr, cwd=str(cwd),
                )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            code = "\n".join(f"    {line}" for line in error.source.splitlines()[:12])
            number = f"cell {at['cell']} of {len(node.cells) + bool(values)} (In [{error.exec_count}])"
            stderr.write("\n" + re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)) + "\n")
            raise NotebookFailed(f"{number} raised {error.ename}: {error.evalue}\n{code}\n{kept}") from None
        except RuntimeError as error:  # nbclient: the kernel died or did not start
            stderr.flush()
            last = " ".join(_without_noise(errors).splitlines()[-3:]).strip()
            raise NotebookFailed(f"cell {at['cell']}: {error}{': ' + last if last else ''}\n{kept}") from None
        finally:
            part.unlink(missing_ok=True)
            stderr.flush()
            errors.write_text(_without_noise(errors))


def _without_noise(errors: Path) -> str:
    """The file's text without what ipykernel says of itself at every start (TCP on this machine alone) and stop."""
    noise = ("Kernel is running over TCP without encryption", "KeyboardInterrupt caught in kernel")
    lines = errors.read_text(errors="replace").splitlines(keepends=True)
    return "".join(line for line in lines if not any(text in line for text in noise))


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without papermill's log, whose place the lines per cell take, and the deprecations of its own libraries."""
    import logging
    import warnings

    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(papermill|nbclient|jupyter_client)\b")
        try:
            yield
        finally:
            logger.setLevel(level)


def _reporter(node: NotebookNode, progress: bool) -> Any:
    """A function (index, None at the start or the finished cell) that prints one line per code cell."""
    headings, heading = [], ""
    for cell in node.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
        headings.append(heading)
    clocks: dict[int, float] = {}

    def report(index: int, cell: Any) -> None:
        if cell is None:
            clocks[index] = time.monotonic()
        elif progress and cell.cell_type == "code":
            took = time.monotonic() - clocks[index]
            print(f"  cell {index + 1}/{len(headings)}  {took:5.1f} s  {headings[index]}", flush=True)

    return report


# ------------------------------------------------------------------------------------------------ the whole course
def render(notebook: Path) -> Path:
    """The executed notebook as one HTML page beside it. The classic template keeps the descriptions of figures."""
    from nbconvert import HTMLExporter

    # folded hints get their triangle back, lines of 100 characters fit, tables read from the left
    css = (
        "<style>.container { width: 1140px !important } summary { display: list-item; cursor: pointer; color: #0b5394 }"
        " .rendered_html th, .rendered_html td { text-align: left !important }</style></head>"
    )
    body, _ = HTMLExporter(template_name="classic").from_filename(str(notebook))
    target = notebook.with_suffix(".html")
    with replacing(target) as part:
        part.write_text(body.replace("</head>", css, 1), encoding="utf-8")
    return target


def run_course(*, profile: str = "quick", out: str | Path = "runs") -> int:
    """Run every notebook in number order, render each, print a table of minutes and headlines; 1 if any failed."""
    rows = [("notebook", "minutes", "headline")]
    failed = 0
    for name in notebook_names():
        started = time.monotonic()
        try:
            done = run_notebook(name, [f"profile={profile}"], out=out)
            print(f"  page: {_short(render(done.notebook))}", flush=True)
            headline = done.headline
        except NotebookFailed as error:
            failed += 1
            print(f"{name} FAILED: {error}", file=sys.stderr, flush=True)
            headline = "FAILED: " + str(error).splitlines()[0]
        rows.append((name, f"{(time.monotonic() - started) / 60:.1f}", headline))
    print("\n" + text_table(rows))
    return int(failed > 0)


def bench(*, seconds: float = 20.0, steps: int = 30, shape: tuple[int, int, int] = (112, 128, 96)) -> str:
    """Time prediction and training with the ``quick`` network here, plain and compiled, with and without prior; a table as text.
    On a GPU, where steps are recorded instead, with the paper's network, too, and ten times the steps.

    Predictions are repeated for ``seconds`` each (at least twice, after one that is not counted); trainings have ``steps``
    steps of 10 segments of 37³, the first third (and the compilation) not counted. The volume is noise in a ball, by default of
    the ``quick`` size: the time depends on neither the image nor the weights.
    """
    import tempfile

    import numpy as np
    import pandas as pd

    from dmplus import training
    from dmplus.inference import predict_volume
    from dmplus.network import DeepMedic, preset
    from dmplus.volume import Case

    machine = runtime.machine()
    ball = sum((g / (n / 2) - 1) ** 2 for g, n in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True)) < 0.9
    noise = runtime.rng(0, "bench").normal(size=(2, *shape)).astype(np.float32) * ball
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 2, n // 2 + 6) for n in shape)] = 1
    case = Case(name="bench", image=noise[0], prior=noise[1], mask=ball, label=label)
    how, networks = {"plain": False, "compiled": True}, ["quick"]
    if machine.device != "cpu":
        how, networks, steps = {"recorded": False}, ["quick", "paper"], 10 * steps
    elif not training.has_compiler():
        del how["compiled"]

    def predict(name: str, prior: str, compiled: bool) -> str:
        network, times = training.fast(DeepMedic(preset(name, prior=prior)).eval(), machine, compiled), []
        while sum(times[1:]) < seconds or len(times) < 3:
            started = time.perf_counter()
            predict_volume(
                network, case.image, prior=case.prior if prior == "path" else None, mask=ball, machine=machine
            )
            times.append(time.perf_counter() - started)
        return f"{np.median(times[1:]):.2f} s a volume of {ball.sum() / 1e6:.2f} million voxels (n = {len(times) - 1})"

    def train(name: str, prior: str, compiled: bool, folder: Path) -> str:
        config = training.quick_config(prior=prior, steps=steps, validate_every=0, checkpoint_every=max(steps // 3, 1))
        if name == "paper":
            config = dataclasses.replace(
                config, network=preset(name, prior=prior), optimizer="rmsprop", learning_rate=1e-3
            )
        training.train(config, [case], [], folder, machine=machine, compile=compiled, progress=False)
        history = pd.read_csv(folder / "history.csv")
        spent = history["seconds"].iloc[-1] - history["seconds"].iloc[0]
        seen = int(history["segments"].iloc[-1] - history["segments"].iloc[0])
        return f"{seen / spent:.1f} segments of 37³ a second (n = {seen})"

    rows = [("what", "network", "prior", "how", "speed")]
    for which, prior, name in itertools.product(networks, ("none", "path"), how):
        said = name if machine.device == "cpu" else "plain"
        rows.append(("predict", which, prior, said, predict(which, prior, how[name])))
    with tempfile.TemporaryDirectory() as folder:
        for which, prior, name in itertools.product(networks, ("none", "path"), how):
            speed = train(which, prior, how[name], Path(folder) / f"{which}_{prior}_{name}")
            rows.append(("train", which, prior, name, speed))
    return f"{machine.why}; allocator {'cured' if runtime.allocator_cured() else 'as it is'}\n" + text_table(rows)


def main() -> int:
    """``python -m dmplus.course run|bench``: what ``make course`` and ``make bench`` call."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m dmplus.course", description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=("run", "bench"), help="run: all notebooks; bench: time prediction and training"
    )
    parser.add_argument("--profile", default="quick", choices=tuple(PROFILES))
    parser.add_argument("--out", default="runs", help="folder for the executed notebooks (default: %(default)s)")
    options = parser.parse_args()
    runtime.cure_allocator()
    if options.what == "run":
        return run_course(profile=options.profile, out=options.out)
    print(bench())
    return 0


if __name__ == "__main__":
    sys.exit(main())
