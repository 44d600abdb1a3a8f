"""Notebook files: found by name, read, described by their header; their parameters, cast by the declared type.

papermill reads the same parameters cell for its help. What it would forgive (a wrong name, text for a number, a line
that vanishes from the help) is refused here with one line, before a kernel starts.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmplus.runtime import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode


# -------------------------------------------------------------------------------------------- finding notebooks
def course_root() -> Path:
    """The folder that holds ``notebooks``: above the current folder, or beside the package; else the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if notebook_names(folder / "notebooks"):
            return folder
    return here


def notebooks_folder() -> Path:
    """The ``notebooks`` folder of the checkout (:func:`course_root`). ``InputError`` if there is none."""
    folder = course_root() / "notebooks"
    if not notebook_names(folder):
        raise InputError(
            "notebooks: expected a checkout with a folder notebooks, here or above; found none; go to your clone of "
            "the repository or give the path of a notebook"
        )
    return folder


def notebook_names(folder: Path | None = None) -> list[str]:
    """Names of the notebooks in number order, such as ["00_start_here", ...]: those that have a source, ``.py``."""
    return sorted(p.stem for p in (folder or notebooks_folder()).glob("[0-9][0-9]_*.py"))


def find_notebook(name: str | Path) -> Path:
    """The file of a notebook given as a path, a name ("00_start_here") or the beginning of one ("00").

    By name it is the source, ``.py``; an ``.ipynb`` without one is found by its path alone. Raises ``InputError`` when
    there is none, or several.
    """
    text = str(name)
    path = Path(text)
    if path.suffix in (".py", ".ipynb") and path.is_file():
        return path.resolve()
    if path.suffix in (".py", ".ipynb") and len(path.parts) > 1:
        raise InputError(f"notebook {path.name}: expected an existing file; found none; see `dmplus run --list`")
    stem = path.name.removesuffix(".py").removesuffix(".ipynb")
    folder = notebooks_folder()
    names = notebook_names(folder)
    matching = [n for n in names if n == stem] or [n for n in names if n.startswith(stem)]
    if len(matching) != 1:
        near = difflib.get_close_matches(stem, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"notebook: expected one of {', '.join(names)}; got {text!r}; {hint}see `dmplus run --list`")
    return folder / f"{matching[0]}.py"


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in ``path``, percent ``.py`` or ``.ipynb``. ``InputError`` if it cannot be read."""
    import jupytext

    try:
        notebook = jupytext.read(path)
    except Exception as error:  # jupytext and nbformat raise a dozen kinds for a file that is no notebook
        kind = type(error).__name__
        raise InputError(f"notebook {path.name}: expected a notebook; it cannot be read ({kind}); repair it") from None
    return notebook


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notebook:
    """What the header of a notebook says (``dmplus run --list``)."""

    name: str
    path: Path
    title: str
    question: str
    quick: str  #: minutes on 2 cores, in words
    gpu: str


def list_notebooks() -> list[Notebook]:
    """Every notebook of the checkout, in number order, with question and minutes from its header."""
    found = []
    for name in notebook_names():
        path = find_notebook(name)
        found.append(describe(path))
    return found


def describe(path: Path) -> Notebook:
    """Title, question and minutes from the first cell of a notebook ('' for what it does not say)."""
    cells = read_notebook(path).cells
    text = cells[0].source if cells and cells[0].cell_type == "markdown" else ""

    def line(pattern: str) -> str:
        match = re.search(pattern, text, re.MULTILINE)
        return match.group(1).strip() if match else ""

    return Notebook(
        name=path.stem,
        path=path,
        title=line(r"^# (.+)$"),
        question=line(r"^\*\*Question\.\*\* (.+)$"),
        quick=line(r"^- \*\*Quick\*\*: ([\d.]+ minutes?)"),
        gpu=line(r"^- \*\*GPU\*\*: ([\d.]+ minutes?)"),
    )


def notebook_table(notebooks: Sequence[Notebook] | None = None) -> str:
    """The list of notebooks as text: name, minutes at quick and on a GPU, question."""
    rows = [(n.name, n.quick, n.gpu, n.question) for n in (list_notebooks() if notebooks is None else notebooks)]
    return text_table([("notebook", "quick, 2 cores", "one GPU", "question"), *rows])


# ---------------------------------------------------------------------------------------------------- parameters
KINDS = ("str", "int", "float", "bool", "list[str]", "list[int]", "list[float]", "list[bool]")
_LINE = re.compile(r"^(?P<name>[a-z]\w*): (?P<type>[a-z\[\]]+) = (?P<value>.+?)  # (?P<help>[^#=]+)$")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # help``."""

    name: str
    type: str  #: one of ``KINDS``
    default: Any
    help: str


def parameters_of(notebook: NotebookNode, *, name: str = "notebook") -> list[Parameter]:
    """The declared parameters of a notebook, from its one cell tagged ``parameters``.

    Raises ``InputError`` without exactly one such cell, and for a line that is not ``name: type = literal  # help``:
    papermill would run with it and leave it out of its help.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{name}: expected exactly one cell tagged parameters; got {len(cells)}; tag one")
    found: list[Parameter] = []
    for line in cells[0].source.splitlines():
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None or match["type"] not in KINDS:
            raise InputError(
                f"{name}: expected each parameter as `name: type = literal  # help` (type {', '.join(KINDS)}; "
                f"no '=' or '#' in the help); got {line!r}; correct that line"
            )
        try:
            value = ast.literal_eval(match["value"])
            _typed(match["name"], match["type"], value)
        except (ValueError, SyntaxError, InputError):
            raise InputError(
                f"{name}: expected a literal of its declared type {match['type']}; got {line!r}; correct that line"
            ) from None
        if any(p.name == match["name"] for p in found):
            raise InputError(f"{name}: expected each parameter once; got {match['name']} twice; remove one")
        found.append(Parameter(match["name"], match["type"], value, match["help"].strip()))
    return found


def parameter_table(parameters: Sequence[Parameter]) -> str:
    """Names, types, defaults and help as text."""
    rows = [(p.name, p.type, repr(p.default), p.help) for p in parameters]
    return text_table([("parameter", "type", "default", "help"), *rows])


def cast(parameter: Parameter, value: Any) -> Any:
    """``value`` as the parameter's declared type: text from the command line, or what a YAML file holds.

    Numbers written as text are read as numbers (YAML takes ``1e-3`` for text). A bool is ``true`` or ``false`` and
    nothing else; an int has no fraction; numbers are finite. A list is ``[1, 2]`` or ``1,2``. Raises ``InputError``.
    """
    return _typed(parameter.name, parameter.type, value)


def _typed(name: str, kind: str, value: Any) -> Any:
    refusal = InputError(f"parameter {name}: expected {_EXPECTED[kind]}; got {value!r}; correct the value")
    if kind.startswith("list["):
        if isinstance(value, str):
            value = _items(value, refusal)
        if not isinstance(value, list):
            raise refusal
        try:
            return [_typed(name, kind[5:-1], v) for v in value]
        except InputError:
            raise refusal from None
    if kind == "str":
        if isinstance(value, str):
            return value
        raise refusal
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        raise refusal
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refusal
    if kind == "int":
        if isinstance(value, float) or (isinstance(value, str) and not re.fullmatch(r"[+-]?\d+", value)):
            raise refusal
        return int(value)
    try:
        number = float(value)
    except ValueError:
        raise refusal from None
    if number != number or number in (float("inf"), float("-inf")):
        raise refusal
    return number


_EXPECTED = {
    "str": "text (in a YAML file: in quotes)",
    "int": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
    **{f"list[{k}]": f"a list of {k} such as {v}" for k, v in
       (("str", "a,b"), ("int", "1,2"), ("float", "0.5,0.9"), ("bool", "true,false"))},
}  # fmt: skip


def _items(text: str, refusal: InputError) -> list[Any]:
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise refusal from None
    return [item.strip() for item in text.split(",")] if text else []


#: What a parameter of that name may be, in every notebook; refused by the door, and again where a notebook starts.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1), "alpha": (0, 1), "patient": (0, math.inf), "budget": (0.05, 50), "rank": (1, math.inf),
    "moved_mm": (0, 6),
}  # fmt: skip


def check_ranges(values: Mapping[str, Any]) -> None:
    """``InputError`` for the first number (or item of a list) outside the range of its name in ``RANGES``."""
    for name in [n for n in RANGES if n in values]:
        low, high = RANGES[name]
        given = values[name] if isinstance(values[name], list) else [values[name]]
        bad = [v for v in given if not low <= v <= high]
        if bad:
            words = f"from {low} to {high}" if high < math.inf else f"{low} or more"
            raise InputError(f"parameter {name}: expected {words}; got {bad[0]!r}; choose one inside")


def settle(
    parameters: Sequence[Parameter],
    assignments: Sequence[str],
    *,
    file: str | Path | None = None,
    name: str = "notebook",
) -> dict[str, Any]:
    """The overrides, cast: ``file`` (YAML mapping) first, then ``name=value`` texts, which win.

    Raises ``InputError`` for an unknown name (all valid ones are listed), a repeated one, or a value that does not fit
    or lies outside its range (:func:`check_ranges`).
    """
    known = {p.name: p for p in parameters}
    given: dict[str, Any] = {}
    if file is not None:
        given.update(_yaml(Path(file)))
    seen: set[str] = set()
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{name}: expected name=value; got {text!r}; valid names: {', '.join(known)}")
        if key in seen:
            raise InputError(f"{name}: expected each parameter once; got {key} twice; remove one")
        seen.add(key)
        given[key] = value
    unknown = [str(k) for k in given if k not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        valid = "; ".join(f"{p.name}: {p.type} = {p.default!r}, {p.help}" for p in parameters)
        raise InputError(f"{name}: unknown parameter {', '.join(unknown)}{hint}; the valid ones are: {valid}")
    settled = {key: cast(known[key], value) for key, value in given.items()}
    check_ranges(settled)
    return settled


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise InputError(f"parameters file {path.name}: expected an existing file; found none; check the path")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"parameters file {path.name}: expected YAML; got {first}; correct it") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise InputError(f"parameters file {path.name}: expected lines `name: value`; got {kind}; correct it")
    return content


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as aligned columns, the first row as heading."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
