"""The flow of dmplus, drawn for ``flow.png``: every box holds a picture of one synthetic patient."""

from __future__ import annotations

import io

import numpy as np
from dmplus import figures, sampling
from dmplus.triage import THRESHOLD
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from triage_picture import GREY, SENS, SLAB, SPEC, Subject, centre_of, enlarged, page, panel, tag, zoom

BLUE, RED = "#0072B2", "#D55E00"
TEXT = {"fontsize": 10, "va": "top", "linespacing": 1.2}
BOLD = {"fontsize": 11.5, "fontweight": "bold", "va": "top"}


def draw_flow(who: Subject) -> Figure:
    """``flow.png``: two scans, one network trained twice, two maps, one union, two tiers; with pictures of one patient."""
    case, found, config = who.case, who.found, who.config
    figure, words = page(10.8, 6.45)
    title = "From two scans to a list of lesions: confirmed, or a candidate for review"
    words.text(0.15, 0.12, title, **BOLD | {"fontsize": 15})
    whose = f"Every picture: one synthetic patient ({case.patient}), two networks with the shipped weights. "
    whose += f"Maps: the brightest of {SLAB} slices."
    words.text(0.15, 0.48, whose, **TEXT)

    # the inputs of one segment, as the network gets them, each with its path
    words.text(0.15, 0.9, "1  Two scans", **BOLD)
    words.text(0.15, 1.14, "one segment of each,\nas the network gets it", **TEXT)
    words.text(2.5, 0.9, "2  DeepMedic+", **BOLD)
    path = f"a path each: {len(config.features)} layers of 3³,\nreceptive field {config.receptive_field}³ voxels"
    words.text(2.5, 1.14, path, **TEXT)
    normal, middle = case.normalised(), centre_of(enlarged(who)[0][0])
    low, high = figures.window(normal.image, case.mask)
    edge = sampling.SamplingConfig().segment
    start = middle - edge // 2
    rows = [("Current scan", BLUE, normal.image, 1, start, edge)]
    for factor in config.low_factors:
        begin = np.array([config.low_start(int(s), factor) for s in start])
        rows.append(
            ("and its context", BLUE, normal.image, factor, begin, config.low_size(edge - 2 * config.margin, factor))
        )
    rows.append(("Earlier scan", RED, normal.prior, 1, start, edge))
    side = 0.95
    for (title, colour, volume, factor, begin, size), top in zip(rows, (1.6, 2.68, 3.76, 5.04), strict=True):
        axes = panel(figure, 0.15, top, side, side)
        cube = sampling.crop(volume, begin, [size] * 3, factor)
        z = round((middle[2] - begin[2]) / factor)
        axes.imshow(figures.plane_of(cube, "axial", z), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=True, color=colour, linewidth=2.5)
        words.text(1.2, top + 0.12, title, **BOLD | {"fontsize": 10.5, "color": colour})
        words.text(1.2, top + 0.36, f"{size}³ voxels\nof {factor} mm", **TEXT)
        y = top + side / 2
        arrow(words, (2.17, y), (2.5, y), colour)
        for k in range(len(config.features)):
            box(words, 2.55 + 0.15 * k, y - 0.3, 0.12, 0.6, colour)
        words.text(2.55, y + 0.33, f"sees {config.receptive_field * factor} mm", **TEXT)
        arrow(words, (3.95, y), (4.33, y), colour)
    ones = f"{len(config.fully_connected) + 1} layers of 1³"
    for x, text in ((4.37, "paths joined"), (4.7, ones), (5.03, "softmax of two classes")):
        box(words, x, 1.6, 0.28, 4.39, GREY)
        words.text(x + 0.14, 3.8, text, **TEXT | {"color": "white", "rotation": 90, "ha": "center", "va": "center"})

    # two maps, their union, two tiers
    words.text(5.75, 0.9, "3  Trained twice", **BOLD)
    words.text(5.75, 1.14, "two losses: two sets of\nweights, two maps", **TEXT)
    inside = who.slab_found.tiers[:, :, who.level] > 0
    inside = inside if inside.any() else who.slab.mask[:, :, who.level]
    corners = np.argwhere(inside)
    window = (corners.min(0) + corners.max(0)) // 2, inside
    side = 1.5
    for name, text, top, y in (
        ("sens", f"{SENS}: {who.losses[0]}", 1.85, 2.35),
        ("spec", f"{SPEC}: {who.losses[1]}", 3.95, 2.75),
    ):
        words.text(5.75, top - 0.23, text, **TEXT)
        axes = panel(figure, 5.75, top, side, side)
        colours = figures.draw_panel(axes, who.slab, who.slab_found, name, index=who.level)
        zoom(axes, case, *window, least=28)
        arrow(words, (5.36, 3.8), (5.7, top + side / 2), GREY)
        arrow(words, (7.29, top + side / 2), (7.57, y), GREY)
    bar = figure.colorbar(
        colours, cax=panel(figure, 5.75, 5.55, side, 0.12), orientation="horizontal", ticks=[0, 0.5, 1]
    )
    bar.set_label("probability", fontsize=10, labelpad=1)
    words.text(7.6, 0.9, "4  Union, sorted into two tiers", **BOLD)
    words.text(7.6, 1.14, f"a lesion: voxels that touch, ≥ {THRESHOLD} in\neither map", **TEXT)
    axes = panel(figure, 7.6, 1.6, 1.75, 1.75)
    figures.draw_panel(axes, who.slab, who.slab_found, "overlay", index=who.level)
    zoom(axes, case, *window, least=28)
    tiers = (("confirmed", f"holds a voxel\nwith {SPEC} ≥ {THRESHOLD}"), ("candidate", "for an expert\nto review"))
    for y, (tier, text) in zip((1.75, 2.65), tiers, strict=True):
        words.text(9.5, y, tier, fontsize=10.5, fontweight="bold", va="center", bbox=tag(figures.TIER_LINES[tier][0]))
        words.text(9.45, y + 0.18, text, **TEXT)

    # what comes out
    arrow(words, (8.47, 3.4), (8.47, 3.7), GREY)
    words.text(7.6, 3.75, "5  lesions.csv and triage.png", **BOLD)
    table = figures.lesion_rows(found).groupby("tier", sort=False).head(2)
    for x, column in ((7.6, "lesion"), (8.15, "tier"), (9.15, "volume"), (10.0, "peak probability")):
        for k, cell in enumerate([column.split()[0], *table[column].astype(str)]):
            words.text(x, 4.15 + 0.167 * k, cell, fontsize=10, va="baseline")  # one by one: every row on one line
    board = Image.open(io.BytesIO(figures.png(figures.triage_board(case, found, most=2)))).convert("RGB")
    board.thumbnail((round(3.05 * 150), 1000), Image.Resampling.LANCZOS)
    axes = panel(figure, 7.6, 4.95, 3.05, 3.05 * board.height / board.width)
    axes.imshow(board, interpolation="antialiased", aspect="auto")
    axes.set(xticks=[], yticks=[])
    return figure


def arrow(words: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow between two places of the page."""
    words.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
    )


def box(words: Axes, left: float, top: float, width: float, height: float, colour: str) -> None:
    """A filled box."""
    words.fill([left, left + width, left + width, left], [top, top, top + height, top + height], color=colour, lw=0)
