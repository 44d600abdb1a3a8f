"""Build and check the notebooks of the course: python notebooks/build.py COMMAND [NOTEBOOK ...]

lint      what can be said of a source (.py) without running it: header, parameters, exercises, headings, links
drift     does the executed notebook hold the same cells as its source?
outputs   do committed outputs read well: run in order, no errors, no local paths, small, described
student   write notebooks/student (--check: compare with what is committed instead)
execute   run a notebook through the strict door and keep its outputs and results (--profile quick)
clean     remove what papermill and widgets leave in the metadata
check     lint, drift, outputs and student --check, and files without a source; exit 1 if anything is found

NOTEBOOK is a name or a number; none means all. The .py is the only file edited by hand.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from dmplus import course, exercises, notebooks, paper
from dmplus.runtime import InputError, replacing
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SOLUTIONS = "link"  # student notebooks: "link" to the solved notebook, or "fold" the solution where it stands

COMMITTED = ("quick", "gpu")  # profiles of committed outputs; smoke is for tests
MAX_CELL_LINES, MAX_FUNCTION_LINES, MAX_OUTPUT_LINES, MAX_BYTES = 15, 20, 40, 1_000_000
# /any/folder, also without a last slash at the usual roots, ~/folder, C:\\folder; not </td>, a/b, https://, ../
LOCAL_PATH = re.compile(
    r"(?<![\w./~<:*)-])(?:~?/[A-Za-z][\w.-]*/|~/\w|/(?:home|root|Users|tmp|srv|mnt|media|scratch)\b)"
    r"|\b[A-Z]:\\\w|file://"
)
NOISE = ("widgets", "papermill")  # notebook metadata
CELL_NOISE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
CARD = re.compile(
    r"\*\*Exercise (?P<name>\d+\.\d+) · .+\*\* — difficulty [1-5] of 5 · importance [1-5] of 5 · about \d+ minutes"
)
HEADER = (
    "**Question.** ",
    "- **Needs**: ",
    "- **Reading**: ",
    "- **Quick**: ",
    "- **GPU**: ",
    "- **Data**: ",
    "- **Not claimed**: ",
)
HARDWARE = r"- \*\*Quick\*\*: .*\d+ CPU cores? .*\d+ GB of memory"
INSTALLS = r"\b(pip|conda|mamba)\W+install\b"
PROGRAMS = r"\bsubprocess\b|\bos\.(system|popen|exec|spawn)|\bget_ipython\b"
NETWORK = r"https?://|\b(urllib|requests|httpx|urlopen|urlretrieve|socket)\b|\bhub\.load|load_state_dict_from_url"
WORKING_FOLDER = r"\b(getcwd|chdir|cwd|expanduser)\("
FILE_NAME = re.compile(r"[\w./-]+\.[A-Za-z][A-Za-z0-9]{1,4}(\.gz)?")
REPR_OF_WIDGET = re.compile(r"\b(interactive|\w*Box|\w*Slider|\w*Widget)\(")


def tags(cell: NotebookNode) -> list[str]:
    return sorted(cell.metadata.get("tags", []))


def title_of(index: int, cell: NotebookNode) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f"cell {index + 1} ({first.strip()[:50]})"


# --------------------------------------------------------------------------------------------------------- lint
def lint(notebook: NotebookNode, name: str) -> list[str]:
    """Everything that is wrong with a source and can be seen without running it."""
    cells = notebook.cells
    return [
        *_lint_header(cells, name, notebook.metadata),
        *_lint_headings(cells, name),
        *_lint_parameters(notebook, name),
        *_lint_code(cells),
        *_lint_exercises(cells, name),
        *_lint_text(cells),
        *_lint_results(cells),
        *_lint_ending(cells),
    ]


def _lint_header(cells: list[NotebookNode], name: str, metadata: NotebookNode) -> list[str]:
    found = []
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", name):
        found.append(f"file name: expected NN_topic, got {name}")
    if metadata.get("kernelspec", {}).get("name") != course.KERNEL:
        found.append(f"header: expected kernelspec {course.KERNEL}")
    first = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    if not first.startswith(f"# {name[:2]} · "):
        found.append(f"cell 1: expected the title '# {name[:2]} · Topic'")
    lines = first.splitlines()
    found += [f"cell 1: expected a line {h.strip()!r}" for h in HEADER if not any(line.startswith(h) for line in lines)]
    for kind in ("Reading", "Quick", "GPU"):
        if f"- **{kind}**: " in first and not re.search(rf"- \*\*{kind}\*\*: .*\d.* minute", first):
            found.append(f"cell 1: {kind} does not say how many minutes")
    if "- **Quick**: " in first and not re.search(HARDWARE, first):
        found.append("cell 1: Quick does not say how many CPU cores and GB of memory")
    return found


def _headings(cells: list[NotebookNode]) -> list[tuple[int, int, str]]:
    """(cell, level, text) of every heading outside code fences."""
    found = []
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            found += [(index, len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE)]
    return found


def _lint_headings(cells: list[NotebookNode], name: str) -> list[str]:
    found, headings = [], _headings(cells)
    ones = [h for h in headings if h[1] == 1]
    if len(ones) != 1:
        found.append(f"headings: expected one title of level 1, got {len(ones)}")
    for (_, before, _), (index, level, text) in zip(headings, headings[1:], strict=False):
        if level > before + 1:
            found.append(f"cell {index + 1}: heading '{text}' skips from level {before} to {level}")
    return found


def _section(cells: list[NotebookNode], title: str) -> str | None:
    """Text of the section whose heading begins with ``title``, up to the next heading of its level or above."""
    inside, level, text = False, 0, []
    for cell in cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            match = re.match(r"^(#+) (.+)$", line)
            if match and inside and len(match[1]) <= level:
                return "\n".join(text)
            if match and match[2].strip().lower().startswith(title.lower()):
                inside, level = True, len(match[1])
                continue
            if inside:
                text.append(line)
    return "\n".join(text) if inside else None


def _bullets(text: str) -> list[str]:
    return [line[2:].strip() for line in text.splitlines() if line.startswith("- ")] + [
        re.sub(r"^\d+\. ", "", line).strip() for line in text.splitlines() if re.match(r"^\d+\. ", line)
    ]


def _lint_parameters(notebook: NotebookNode, name: str) -> list[str]:
    try:
        declared = course.parameters_of(notebook, name=name)
    except InputError as error:
        return [str(error)]
    found = [
        f"parameters: {need} is missing"
        for need in ("profile", "seed", "out_dir")
        if need not in {p.name for p in declared}
    ]
    for p in declared:
        if len(p.help) < 10:
            found.append(f"parameters: {p.name} has no help worth the name")
    seen = papermill_parameters(notebook)
    if seen != {p.name: p.help for p in declared}:
        found.append(f"parameters: papermill --help-notebook shows {sorted(seen)}, not what the cell declares")
    cells = notebook.cells
    at = next(i for i, cell in enumerate(cells) if "parameters" in tags(cell))
    after = next((c for c in cells[at + 1 :] if c.cell_type == "code"), None)
    if after is None or "course.start(" not in after.source:
        found.append("parameters: expected course.start(...) in the next code cell, which checks them")
        return found
    for p in declared:
        if f"{p.name}={p.name}" not in after.source:
            found.append(f"parameters: {p.name} is not given to course.start")
        if p.type.removeprefix("list[").rstrip("]") in ("int", "float") and p.name not in notebooks.RANGES:
            found.append(f"parameters: {p.name} has no range in dmplus.notebooks.RANGES")
    return found


def papermill_parameters(notebook: NotebookNode) -> dict[str, str]:
    """Name → help, as papermill reads them."""
    import papermill

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notebook.ipynb"
        nbformat.write(notebook, path)
        return {k: v["help"].strip() for k, v in papermill.inspect_notebook(str(path)).items()}


def _widget_names(cells: list[NotebookNode]) -> set[str]:
    """Names under which the code cells import ipywidgets, dmplus.widgets, or something of theirs."""
    names = {"widgets", "ipywidgets"}
    for node in (node for cell in cells if cell.cell_type == "code" for node in ast.walk(_parsed(cell.source))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            whole = getattr(node, "module", "") or ""
            names |= {a.asname or a.name for a in node.names if "widgets" in f"{whole}.{a.name}"}
    return names


def _parsed(code: str) -> ast.Module:
    """The code's tree; an empty one if it is not Python, which _lint_code reports."""
    try:
        return ast.parse(code)
    except SyntaxError:
        return ast.Module([], [])


def _unguarded(tree: ast.AST, names: set[str]) -> bool:
    """Whether something of ``names`` is called outside ``if course.interactive():``."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "course.interactive()":
        return any(_unguarded(child, names) for child in tree.orelse)
    if isinstance(tree, ast.Call) and ast.unparse(tree.func).split(".")[0] in names:
        return True
    return any(_unguarded(child, names) for child in ast.iter_child_nodes(tree))


def _own_files(tree: ast.AST) -> bool:
    """Whether a file is named by a text alone, so that it is looked for in the working directory or in a home."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("~"):
            return True
        first = node.args[0] if isinstance(node, ast.Call) and node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            if ast.unparse(node.func) == "open" or FILE_NAME.fullmatch(first.value):
                return True
    return False


def _lint_code(cells: list[NotebookNode]) -> list[str]:
    found, importing, widget_names = [], [], _widget_names(cells)
    for index, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        where = title_of(index, cell)
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            found.append(f"{where}: not plain Python ({error.msg}); magics and shell commands do not run everywhere")
            continue
        if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)):
            importing.append(where)
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]
        if len(lines) > MAX_CELL_LINES and "exercise" not in tags(cell):
            found.append(f"{where}: {len(lines)} lines of code, at most {MAX_CELL_LINES}; let the library do the work")
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
            ):
                found.append(f"{where}: {node.name} is longer than {MAX_FUNCTION_LINES} lines")
        if re.search(INSTALLS, cell.source):
            found.append(f"{where}: installs something")
        if re.search(PROGRAMS, cell.source):
            found.append(f"{where}: starts another program")
        if re.search(NETWORK, cell.source):
            found.append(f"{where}: uses the network")
        if re.search(WORKING_FOLDER, cell.source) or _own_files(tree):
            found.append(f"{where}: relies on the working directory or a home; use session.folder")
        if _unguarded(tree, widget_names):
            found.append(f"{where}: makes a widget without asking course.interactive()")
        if re.search(r"\b(tqdm|interact)\b", cell.source):
            found.append(f"{where}: progress bars and interact() leave nothing to read in a saved notebook")
        before = cells[index - 1] if index else None
        if before is not None and before.cell_type == "code" and not {"check"} & {*tags(cell), *tags(before)}:
            found.append(f"{where}: two code cells in a row; say why between them")
    if len(importing) != 1:
        found.append(f"imports: expected one cell that imports, got {len(importing)}: {'; '.join(importing)}")
    return found


def _lint_exercises(cells: list[NotebookNode], name: str) -> list[str]:
    found = []
    places = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    if len(places) < 2:
        found.append(f"exercises: expected at least two, got {len(places)}")
    for index in places:
        where = title_of(index, cells[index])
        above = "\n".join(c.source for c in cells[max(index - 3, 0) : index] if c.cell_type == "markdown")
        card = CARD.findall(above)
        if not card:
            found.append(f"{where}: no card '**Exercise N.M · title** — difficulty … importance … minutes' above it")
        elif "A right answer" not in " ".join(above[above.rfind("**Exercise ") :].split()):
            found.append(f"{where}: the card does not say what 'A right answer' is")
        if "<details>" not in above:
            found.append(f"{where}: no folded hint between card and cell")
        if not re.search(r"^ +# solution$", cells[index].source, re.MULTILINE):
            found.append(f"{where}: no line '# solution' inside the function; the student version begins there")
        check = next((c for c in cells[index + 1 : index + 3] if "check" in tags(c)), None)
        named = re.search(r'course\.check\("(\d+\.\d+)", \w+\)', check.source) if check else None
        if named is None:
            found.append(f'{where}: no cell tagged check with course.check("N.M", answer) within two cells')
        elif named[1] not in exercises.EXERCISES:
            found.append(f"{where}: dmplus.exercises knows no exercise {named[1]}")
        elif not exercises.EXERCISES[named[1]].misconceptions:
            found.append(f"{where}: exercise {named[1]} recognises no wrong answer")
        elif card and named[1] != card[-1]:
            found.append(f"{where}: the card says {card[-1]}, the check {named[1]}")
        solution = next((c for c in cells[index + 1 : index + 4] if "solution" in tags(c)), None)
        if solution is None or "<details>" not in solution.source or "hy" not in solution.source:
            found.append(f"{where}: no folded solution with its why (a cell tagged solution) within three cells")
    return found


def _lint_text(cells: list[NotebookNode]) -> list[str]:
    found = []
    for index, cell in enumerate(cells):
        where = title_of(index, cell)
        if LOCAL_PATH.search(cell.source):
            found.append(f"{where}: an absolute path")
        if cell.cell_type != "markdown":
            continue
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", cell.source):
            if len(alt) < 15:
                found.append(f"{where}: image {target} is described in less than 15 characters")
            if re.match(r"https?:", target):
                found.append(f"{where}: image {target} is not local")
        for image in re.findall(r"<img\b[^>]*>", cell.source, re.IGNORECASE):
            if not re.search(r'\balt="[^"]{15,}"', image, re.IGNORECASE):
                found.append(f"{where}: <img> without a description of 15 characters")
        for text, target in re.findall(r"(?<!!)\[([^\]]+)\]\(([^)#]+)\)", cell.source):
            if text.lower().strip() in ("here", "link", "this", "click here"):
                found.append(f"{where}: the link text '{text}' does not say where it leads")
            if not re.match(r"https?:|mailto:", target) and not (FOLDER / target).exists():
                found.append(f"{where}: the link to {target} leads nowhere")
        if cell.source.count("<details>") != cell.source.count("</details>"):
            found.append(f"{where}: <details> is not closed")
        if cell.source.count("<details>") != len(re.findall(r"<summary>[^<]{4,}</summary>", cell.source)):
            found.append(f"{where}: each <details> needs a <summary> in words")
        if re.search(r"\\(newcommand|label)\b", cell.source):
            found.append(f"{where}: custom macros and labels in formulas do not show everywhere")
    return found


PLAIN = r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|^\|.*?$|^#+ .*?$|\]\([^)]*\)|<details>.*?</details>"  # not prose


def _lint_results(cells: list[NotebookNode]) -> list[str]:
    """Typed results: numbers of three decimals or more in prose that neither the paper nor a code cell holds."""
    printed = [float(v) for v in paper.rows()["printed"] if re.fullmatch(r"[\d.]+", v)]
    known = [*printed, *paper.recount()["recounted"], paper.AREA_JVSS, 0.995, 0.005]
    for cell in cells:
        if cell.cell_type == "code":
            known += [
                node.value
                for node in ast.walk(_parsed(cell.source))
                if isinstance(node, ast.Constant) and isinstance(node.value, float)
            ]
    found = []
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            prose = re.sub(PLAIN, "", cell.source, flags=re.DOTALL | re.MULTILINE)
            for number in re.findall(r"(?<![\w./])\d+\.\d{3,}\b", prose):
                if not any(f"{k:.{len(number.partition('.')[2])}f}" == number for k in known):
                    found.append(f"{title_of(index, cell)}: {number} is a typed result; print it from a code cell")
    return found


def _lint_ending(cells: list[NotebookNode]) -> list[str]:
    found = []
    objectives, summary = _section(cells, "Objectives"), _section(cells, "Summary")
    goals, gains = _bullets(objectives or ""), _bullets(summary or "")
    if objectives is None or not 2 <= len(goals) <= 5:
        found.append(f"objectives: expected a section Objectives with 2 to 5 points, got {len(goals)}")
    found += [
        f"objectives: '{g}' cannot be tested" for g in goals if re.match(r"[*_]*(understand|know|learn)\b", g.lower())
    ]
    if summary is None or len(gains) != len(goals):
        found.append(f"summary: expected one point for each of the {len(goals)} objectives, got {len(gains)}")
    if _section(cells, "What could be wrong with this") is None:
        found.append("ending: no section 'What could be wrong with this'")
    questions = (_section(cells, "Self-test") or "").count("<details>")
    if questions != 5:
        found.append(f"ending: expected five self-test questions with folded answers, got {questions}")
    if "doi.org/" not in (_section(cells, "References") or ""):
        found.append("ending: no section References with a DOI")
    code = [cell for cell in cells if cell.cell_type == "code"]
    if not code or ".finish(" not in code[-1].source:
        found.append("ending: the last code cell does not write results.json (session.finish)")
    return found


# -------------------------------------------------------------------------------------------------------- drift
def drift(source: NotebookNode, executed: NotebookNode) -> list[str]:
    """Where source and executed notebook differ in the kernel, or type, text or tags of a cell; outputs do not matter."""
    found = []
    kernels = [n.metadata.get("kernelspec", {}).get("name") for n in (source, executed)]
    if kernels[0] != kernels[1]:
        found.append(f"drift: the source has the kernel {kernels[0]}, the notebook {kernels[1]}")
    if len(source.cells) != len(executed.cells):
        found.append(f"drift: the source has {len(source.cells)} cells, the notebook {len(executed.cells)}")
    for index, (a, b) in enumerate(zip(source.cells, executed.cells, strict=False)):
        if (a.cell_type, a.source.strip(), tags(a)) != (b.cell_type, b.source.strip(), tags(b)):
            found.append(f"drift: {title_of(index, a)} differs; run `python notebooks/build.py execute`")
            break
    return found


# ------------------------------------------------------------------------------------------------------ outputs
def outputs(notebook: NotebookNode, size: int) -> list[str]:
    """What a reader of the committed notebook would stumble over."""
    found = []
    if size > MAX_BYTES:
        found.append(f"outputs: {size / 1e6:.2f} MB, at most {MAX_BYTES / 1e6:.0f}")
    found += [f"outputs: metadata.{key} is left over; run clean" for key in NOISE if key in notebook.metadata]
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"outputs: not run once from top to bottom: execution counts {counts}")
    text, numbers = "", []
    for index, cell in enumerate(notebook.cells):
        where = f"outputs: {title_of(index, cell)}"
        found += [
            f"{where}: {key} is left over in the metadata; run clean" for key in CELL_NOISE if key in cell.metadata
        ]
        if {"injected-parameters", "papermill-error-cell-tag"} & set(tags(cell)):
            found.append(f"{where}: a cell that papermill put there")
        printed = "".join(_text(o) for o in cell.get("outputs", []) if o.output_type == "stream")
        for output in cell.get("outputs", []):
            said = _text(output)
            text += said
            found += [f"{where}: {problem}" for problem in _output_problems(output, said)]
            for sentence in _descriptions(output):
                numbers += [int(n) for n in re.findall(r"^Figure (\d+) shows ", sentence)]
                if sentence and " ".join(sentence.split()) not in " ".join(printed.split()):
                    found.append(f"{where}: the figure's sentence is not printed with it; use figures.show")
        if sum(_lines(o) for o in cell.get("outputs", [])) > MAX_OUTPUT_LINES:
            found.append(f"{where}: more than {MAX_OUTPUT_LINES} lines")
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"outputs: figures are numbered {numbers}")
    profile = re.search(r"profile (\w+) · (cpu|cuda), .* commit ", text)
    if profile is None:
        found.append("outputs: no line says profile, device and commit")
    elif profile[1] not in COMMITTED:
        found.append(f"outputs: executed at profile {profile[1]}; expected {' or '.join(COMMITTED)}")
    return found


def _descriptions(output: NotebookNode) -> list[str]:
    """The description of each picture in an output, '' for one that has none."""
    pictures = [k for k in output.get("data", {}) if k.startswith("image/") and k != "image/svg+xml"]
    return [output.get("metadata", {}).get(k, {}).get("alt", "") for k in pictures]


def _lines(output: NotebookNode) -> int:
    """Lines that a reader sees: of text, or of a table in HTML; none for a picture."""
    data = output.get("data", {})
    if any(k.startswith("image/") for k in data):
        return 0
    if "text/html" in data:
        return len(re.findall(r"<(?:tr|li|br|p|div)\b", "".join(data["text/html"])))
    return len(_text(output).splitlines())


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return "".join(output.text)
    data = output.get("data", {})
    return "".join("".join(data[kind]) for kind in ("text/plain", "text/markdown") if kind in data)


def _output_problems(output: NotebookNode, said: str) -> list[str]:
    found = []
    data = output.get("data", {})
    if output.output_type == "error":
        found.append(f"an error: {output.ename}")
    if output.output_type == "stream" and output.name == "stderr":
        found.append(f"a warning or a log on stderr: {said.strip()[:60]}")
    plain = "".join(data.get("text/plain", ""))
    if "application/vnd.jupyter.widget-view+json" in data or REPR_OF_WIDGET.match(plain):
        found.append("a widget, which a saved notebook cannot show")
    if "image/svg+xml" in data or any(key.startswith("application/vnd.plotly") for key in data):
        found.append("an SVG or plotly figure, which not every viewer shows")
    html = "".join(data.get("text/html", ""))
    if LOCAL_PATH.search(said) or LOCAL_PATH.search(html):
        found.append("a path of the machine it ran on")
    if any(len(sentence) < 15 for sentence in _descriptions(output)):
        found.append("a figure without description; use figures.show")
    return found


# ----------------------------------------------------------------------------------------- student version, clean
def student(source: NotebookNode, name: str) -> NotebookNode:
    """The notebook a student starts from: solutions gone, stubs that return None, no outputs."""
    made = nbformat.v4.new_notebook()
    made.metadata = nbformat.from_dict({"kernelspec": source.metadata["kernelspec"]})
    linked = False
    for cell in source.cells:
        if "solution" in tags(cell) and SOLUTIONS == "link":
            if not linked:
                text = f"The solution, and why: [solved notebook {name}](../{name}.ipynb)."
                made.cells.append(nbformat.v4.new_markdown_cell(text))
            linked = True
            continue
        linked = False
        text = stub(cell.source) if "exercise" in tags(cell) else cell.source
        if cell.cell_type == "markdown":
            text = re.sub(r"\]\((figures/|results/|notation\.md|\.\./)", lambda m: "](../" + m[1], text)
        new = nbformat.v4.new_code_cell(text) if cell.cell_type == "code" else nbformat.v4.new_markdown_cell(text)
        if tags(cell):
            new.metadata["tags"] = tags(cell)
        made.cells.append(new)
    return numbered(made)


def stub(source: str) -> str:
    """The exercise cell up to its line ``# solution``, then a place for the answer and ``return None``."""
    kept = []
    for line in source.splitlines():
        if line.strip() == "# solution":
            indent = line[: len(line) - len(line.lstrip())]
            return "\n".join([*kept, f"{indent}# write your code here", f"{indent}return None"])
        kept.append(line)
    return source


def numbered(notebook: NotebookNode) -> NotebookNode:
    """The same notebook with cell ids by position, so that generating it again changes nothing."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index + 1:02d}"
    return notebook


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without the metadata of papermill and widgets; outputs and execution counts stay."""
    for key in NOISE:
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in CELL_NOISE:
            cell.metadata.pop(key, None)
    return numbered(notebook)


def text_of(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    with replacing(path) as part:
        part.write_text(text_of(notebook), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ execute
def execute(name: str, *, profile: str, runs: Path) -> None:
    """Run ``name`` through the strict door and keep outputs and results beside the source."""
    source_path = FOLDER / f"{name}.py"
    source = notebooks.read_notebook(source_path)
    default = {p.name: p.default for p in course.parameters_of(source, name=name)}["profile"]
    asked = [] if profile == default else [f"profile={profile}"]
    run = course.run_notebook(source_path, asked, out=runs)
    done = nbformat.read(run.notebook, as_version=4)
    write(cleaned(merged(source, done)), FOLDER / f"{name}.ipynb")
    results = dict(run.results, parameters={k: v for k, v in run.results["parameters"].items() if k != "out_dir"})
    with replacing(FOLDER / "results" / f"{name}.{profile}.json") as part:
        part.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{name}.ipynb and results/{name}.{profile}.json written; now: python notebooks/build.py check {name}")


def merged(source: NotebookNode, done: NotebookNode) -> NotebookNode:
    """The source's cells with the outputs of ``done``; cells that papermill injected are left out, counts close up."""
    ran = [cell for cell in done.cells if "injected-parameters" not in tags(cell)]
    if [c.source for c in ran] != [c.source for c in source.cells]:
        raise InputError("execute: expected the cells of the source; the executed notebook has others; run it again")
    made = nbformat.v4.new_notebook()
    made.metadata = nbformat.from_dict(
        {k: source.metadata[k] for k in ("jupytext", "kernelspec") if k in source.metadata}
    )
    count = 0
    for a, b in zip(source.cells, ran, strict=True):
        if a.cell_type == "code":
            new = nbformat.v4.new_code_cell(a.source, outputs=b.outputs)
            if b.execution_count is not None:
                count += 1
                new.execution_count = count
                for output in new.outputs:
                    if "execution_count" in output:
                        output.execution_count = count
        else:
            new = nbformat.v4.new_markdown_cell(a.source)
        if tags(a):
            new.metadata["tags"] = tags(a)
        made.cells.append(new)
    return made


# ---------------------------------------------------------------------------------------------- what is on disk
def check_lint(name: str) -> list[str]:
    return lint(notebooks.read_notebook(FOLDER / f"{name}.py"), name)


def check_drift(name: str) -> list[str]:
    path = FOLDER / f"{name}.ipynb"
    if not path.exists():
        return ["drift: there is no executed notebook; run execute"]
    return drift(notebooks.read_notebook(FOLDER / f"{name}.py"), nbformat.read(path, as_version=4))


def check_outputs(name: str) -> list[str]:
    path = FOLDER / f"{name}.ipynb"
    if not path.exists():
        return ["outputs: there is no executed notebook; run execute"]
    found = outputs(nbformat.read(path, as_version=4), path.stat().st_size)
    said = notebooks.describe(FOLDER / f"{name}.py")
    for profile, stated in zip(COMMITTED, (said.quick, said.gpu), strict=True):
        results = FOLDER / "results" / f"{name}.{profile}.json"
        if results.exists():
            found += slower(profile, stated, json.loads(results.read_text())["seconds"])
    return found


def slower(profile: str, stated: str, seconds: float) -> list[str]:
    """Whether a run took longer than the header's minutes, such as '2 minutes'."""
    minutes = float(stated.split()[0]) if stated else 0.0
    if seconds <= 60 * minutes:
        return []
    return [f"outputs: {seconds:.0f} s at profile {profile}, the header says {stated or 'nothing'}"]


def orphans() -> list[str]:
    """Notebooks and results in the folder that belong to no source."""
    names = set(notebooks.notebook_names(FOLDER))
    files = [
        *FOLDER.glob("[0-9][0-9]_*.ipynb"), *FOLDER.glob("student/[0-9][0-9]_*.ipynb"), *FOLDER.glob("results/*.json")
    ]  # fmt: skip
    lost = sorted(str(p.relative_to(FOLDER)) for p in files if p.name.partition(".")[0] not in names)
    return [f"{path}: there is no source of it; delete it or restore the .py" for path in lost]


def check_student(name: str) -> list[str]:
    path = FOLDER / "student" / f"{name}.ipynb"
    made = text_of(student(notebooks.read_notebook(FOLDER / f"{name}.py"), name))
    if not path.exists() or path.read_text(encoding="utf-8") != made:
        return ["student: not what the source gives; run `python notebooks/build.py student`"]
    return []


CHECKS: dict[str, Any] = {"lint": check_lint, "drift": check_drift, "outputs": check_outputs, "student": check_student}


def report(names: list[str], which: list[str], more: list[str]) -> int:
    """Print what the checks find, and ``more``; 1 if there is anything."""
    problems = len(more)
    for problem in more:
        print(problem)
    for name in names:
        for kind in which:
            found = CHECKS[kind](name)
            problems += len(found)
            for problem in found:
                print(f"{name}: {problem}")
    print(
        f"{', '.join(which)}: {len(names)} notebook{'s' * (len(names) != 1)}, {problems} problem{'s' * (problems != 1)}"
    )
    return int(problems > 0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=(*CHECKS, "execute", "clean", "check"))
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--check", action="store_true", help="student: compare, do not write")
    parser.add_argument("--profile", default="quick", choices=COMMITTED, help="execute: default quick")
    parser.add_argument("--runs", type=Path, default=FOLDER.parent / "runs", help="execute: folder for the runs")
    options = parser.parse_intermixed_args(argv)  # options may stand between names
    every = notebooks.notebook_names(FOLDER)
    names = (
        [n for n in every if any(n.startswith(Path(asked).stem) for asked in options.notebooks)]
        if options.notebooks
        else every
    )
    if options.notebooks and not names:
        parser.error(f"no notebook {' '.join(options.notebooks)}; there are {', '.join(every)}")
    if options.command == "execute":
        for name in names:
            execute(name, profile=options.profile, runs=options.runs)
    elif options.command == "clean":
        for path in (FOLDER / f"{name}.ipynb" for name in names):
            write(cleaned(nbformat.read(path, as_version=4)), path)
    elif options.command == "student" and not options.check:
        for name in names:
            write(student(notebooks.read_notebook(FOLDER / f"{name}.py"), name), FOLDER / "student" / f"{name}.ipynb")
    else:
        whole = options.command == "check"
        more = orphans() if whole and not options.notebooks else []
        return report(names, list(CHECKS) if whole else [options.command], more)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, course.NotebookFailed) as error:
        sys.exit(f"build: error: {error}")
