"""The decks of slides: every section and figure is in, nothing that gives an answer away."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from conftest import script

from dmplus import notebooks
from dmplus.runtime import InputError

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


slides = script("slides")


def types(*cells: nbformat.NotebookNode) -> list[str]:
    made = slides.deck(nbformat.v4.new_notebook(cells=list(cells)))
    return [c.metadata["slideshow"]["slide_type"] for c in made.cells]


@pytest.mark.parametrize("name", notebooks.notebook_names(FOLDER))
def test_a_deck_has_every_section_figure_and_question_and_no_answer(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    shown = [c for c in slides.deck(notebook).cells if c.metadata["slideshow"]["slide_type"] != "skip"]
    text = "\n".join(c.source for c in shown if c.cell_type == "markdown")
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("## ") and line[3:] not in slides.SECTIONS_LEFT_OUT:
                assert f"{line}\n" in text + "\n"
    figures = [c for c in notebook.cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]
    assert figures and all(any(c.get("outputs") == f.outputs for c in shown) for f in figures)
    assert sum(c.source.startswith("> **Predict first") for c in shown) == str(notebook).count("> **Predict first")
    assert text.count("**Exercise ") == sum("check" in c.metadata.get("tags", []) for c in notebook.cells) > 0
    assert "Solution to" not in text and "papermill" not in text


@pytest.mark.parametrize("name", notebooks.notebook_names(FOLDER))
def test_what_a_text_announces_is_on_the_slides(name: str) -> None:
    """A text that ends in a colon is followed by what the next cell shows."""
    cells = slides.deck(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)).cells
    kinds = [c.metadata["slideshow"]["slide_type"] for c in cells]
    told = [i for i, c in enumerate(cells[:-1]) if c.source.rstrip().endswith(":") and kinds[i] != "skip"]
    assert name != "02_sse_comparison" or len(told) > 3
    for i in told:
        assert kinds[i + 1] != "skip" or not cells[i + 1].get("outputs"), cells[i].source[-80:]


def test_tags_win_over_the_rule() -> None:
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    assert types(text("# T\n\n**Question.** Why?\n\n- **Needs**: x"), text("## A"), text("b"), code("c")) == [
        "slide", "slide", "-", "skip"
    ]  # fmt: skip
    for wanted in slides.TYPES:
        assert types(text("b", metadata={"tags": [wanted]}), code("c", metadata={"tags": [wanted]})) == [wanted] * 2
    assert types(text("## A\n\nb\n\n> **Predict first.** c\n\n**Exercise 1.1 · d**")) == [
        "slide",
        "subslide",
        "subslide",
    ]
    seen = [nbformat.v4.new_output("display_data", {"text/html": "<table>"})]
    first, second, (a, b, c, d) = code("c", outputs=seen), code("c", outputs=seen), (text("b" * 200) for _ in range(4))
    assert types(text("## A"), a, first, text("b"), second, b, c, code("c"), d) == [
        "slide", "-", "subslide", "-", "subslide", "subslide", "-", "skip", "-"
    ]  # fmt: skip
    few, again, many, widget, progress = (
        code("p", outputs=[nbformat.v4.new_output("stream", text=t)])
        for t in ("3 of 4\n", "3 of 4\n", "line\n" * 20, "The viewer opens in JupyterLab.", "x: 10/30, 0:12 left, loss 0.1\n")
    )
    assert types(text("a:"), few, text("> **Predict first.** b"), again, text("c"), many, widget, progress) == [
        "-", "-", "subslide", "subslide", "-", "subslide", "skip", "skip"
    ]  # fmt: skip
    assert types(text("## Run it again"), text("b"), text("## C")) == ["skip", "skip", "slide"]


def test_a_deck_is_one_page_that_says_where_it_loads_from(tmp_path: Path) -> None:
    name = notebooks.notebook_names(FOLDER)[0]
    page = slides.render(name, tmp_path).read_text(encoding="utf-8")
    assert page.count("<section") > 10 and "https://unpkg.com/reveal.js" in page
    with pytest.raises(InputError, match="expected node_modules"):
        slides.render(name, tmp_path, offline=True)
    (tmp_path / "node_modules").mkdir()
    page = slides.render(name, tmp_path, offline=True).read_text(encoding="utf-8")
    assert "node_modules/reveal.js" in page and "unpkg.com/reveal" not in page
