"""Decks of slides from the executed notebooks, by their cells' tags: python notebooks/slides.py [NOTEBOOK ...]

A tag ``slide``, ``subslide``, ``fragment``, ``notes`` or ``skip`` says where a cell goes (Jupyter's own words). Without
one: a heading begins a slide; a question, a figure, a table or an exercise goes below it, and what a cell prints below the text
before it; code stays in the notebook, as do parameters, checks and solutions, progress, and how to run it again. The deck is one
HTML file for the browser: arrow keys move on, ``S`` opens the speaker's view, ``?print-pdf`` in the address prints.

What turns the pages and sets the formulas comes from the net when a deck is opened. For a lecture room without one, once:
``npm install --prefix runs/slides reveal.js@4.6.1 requirejs@2.3.7 jquery@2.2.4 mathjax@2.7.9``; then ``--offline``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import nbformat
from dmplus import notebooks
from dmplus.runtime import InputError, replacing
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
TYPES = ("slide", "subslide", "fragment", "notes", "skip")
LEFT_OUT = {"parameters", "setup", "check", "solution", "summary"}
BESIDE = 160  #: characters of a text that still fit below a figure or a table; a longer one gets a slide of its own
FEW_LINES = 6  #: of print that still fit below a text; more get a slide of their own
NOT_SHOWN = ("opens in JupyterLab", " left, loss ")  #: prints of a control that is not there, and of progress
SECTIONS_LEFT_OUT = {"Parameters and set-up", "Run it again", "References"}


def deck(notebook: NotebookNode) -> NotebookNode:
    """The notebook with every cell's slide type; a cell of several slides is cut into as many."""
    cells, section, last = [], "", ""
    for cell in notebook.cells:
        for piece in _pieces(cell) if cell.cell_type == "markdown" else [cell]:
            heading = re.match(r"## (.+)", piece.source) if piece.cell_type == "markdown" else None
            section = heading[1] if heading else section
            kind = _type(piece, section)
            below = (
                bool(cells)
                and cells[-1].cell_type == "code"
                and cells[-1].metadata["slideshow"]["slide_type"] != "skip"
            )
            if kind == "-" and below and len(piece.source) > BESIDE:
                kind = "subslide"
            if kind == "-" and piece.cell_type == "code" and last.startswith(">"):
                kind = "subslide"  # an answer does not stand below its question
            last = piece.source if kind != "skip" else last
            piece.metadata["slideshow"] = {"slide_type": kind}
            cells.append(piece)
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def _pieces(cell: NotebookNode) -> list[NotebookNode]:
    """A text cut before its headings, predictions and exercises; of the first cell the title and the question remain."""
    texts = re.split(r"(?m)^(?=## |> \*\*(?:Predict first|Question)|\*\*Exercise )", cell.source)
    if cell.source.startswith("# "):
        texts[0] = texts[0].partition("\n- **")[0]
    return [
        nbformat.v4.new_markdown_cell(text.strip(), metadata=nbformat.from_dict(dict(cell.metadata)))
        for text in texts
        if text.strip()
    ]


def _type(cell: NotebookNode, section: str) -> str:
    tags = cell.metadata.get("tags", [])
    asked = [t for t in TYPES if t in tags]
    if asked:
        return asked[0]
    if LEFT_OUT & {*tags} or section in SECTIONS_LEFT_OUT:
        return "skip"
    if cell.cell_type == "markdown":
        return "slide" if cell.source.startswith("#") else "subslide" if cell.source.startswith((">", "**Ex")) else "-"
    outputs = cell.get("outputs", [])
    if any({"image/png", "text/html"} & {*o.get("data", {})} for o in outputs):
        return "subslide"
    printed = "".join(o.get("text", "") for o in outputs if o.output_type == "stream").strip()
    if not printed or any(words in printed for words in NOT_SHOWN):
        return "skip"
    return "-" if printed.count("\n") < FEW_LINES else "subslide"


def render(name: str, out: Path, *, offline: bool = False) -> Path:
    """Write the deck of one executed notebook; ``InputError`` where there is none.

    offline: what the deck loads lies in ``node_modules`` beside it.
    """
    from nbconvert import SlidesExporter

    path = FOLDER / f"{name}.ipynb"
    if not path.is_file():
        raise InputError(
            f"{name}: expected the executed notebook; there is none; run notebooks/build.py execute {name}"
        )
    exporter = SlidesExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.reveal_scroll, exporter.reveal_transition, exporter.reveal_number = True, "none", "c/t"
    exporter.reveal_url_prefix = "https://unpkg.com/reveal.js@4.6.1"
    if offline:
        if not (out / "node_modules").is_dir():
            raise InputError(f"slides: expected node_modules in {out.name}; it is not there; see slides.py --help")
        exporter.reveal_url_prefix = "node_modules/reveal.js"
        exporter.require_js_url, exporter.jquery_url = (
            "node_modules/requirejs/require.js",
            "node_modules/jquery/dist/jquery.js",
        )
        exporter.mathjax_url = "node_modules/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML"
    body, _ = exporter.from_notebook_node(deck(nbformat.read(path, as_version=4)))
    style = (
        "<style>.reveal { font-size: 24px } .reveal h1 { font-size: 1.9em } .reveal h2 { font-size: 1.5em }"
        " .reveal img { max-height: 64vh }"
        " .reveal pre { font: 0.75em sans-serif !important; white-space: pre-wrap !important; word-break: normal !important }"
        " .reveal table { font-size: 0.66em; line-height: 1.15 } .reveal td, .reveal th { padding: 0.2em 0.5em }"
        " summary { cursor: pointer }</style></head>"
    )
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{name}.slides.html"
    with replacing(target) as part:
        part.write_text(body.replace("</head>", style, 1), encoding="utf-8")
    return target


def main(argv: list[str] | None = None) -> int:
    """Command line of the decks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="names or numbers; all if none is given")
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "runs" / "slides", help="folder for the decks")
    parser.add_argument("--offline", action="store_true", help="decks that need no net: from node_modules beside them")
    options = parser.parse_args(argv)
    every = notebooks.notebook_names(FOLDER)
    names = [n for n in every if not options.notebooks or any(n.startswith(Path(a).stem) for a in options.notebooks)]
    if not names:
        parser.error(f"no notebook {' '.join(options.notebooks)}; there are {', '.join(every)}")
    for name in names:
        print(render(name, options.out, offline=options.offline).name)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"slides: error: {error}")
