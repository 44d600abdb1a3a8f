"""What one looks at: slices with lesions drawn by tier, the triage page, and figures that carry their sentence.

Slices are shown as a radiologist expects: the patient's right on the left of axial and coronal slices, the front on the
left of sagittal ones. A tier is never colour alone: its outline has its own dash and its name stands in words.
Figures are plain :class:`matplotlib.figure.Figure` objects that no global list keeps alive.
"""

from __future__ import annotations

import contextlib
import io
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus.runtime import InputError, replacing
from dmplus.triage import Triage, change_of, probability_words
from dmplus.volume import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

STYLE = Path(__file__).with_name("dmplus.mplstyle")  #: for ``matplotlib.pyplot.style.use(figures.STYLE)``

#: Okabe-Ito colours that stand out on grey tissue, with the dash that says the same without colour.
TIER_LINES: dict[str, tuple[str, str]] = {
    "confirmed": ("#E69F00", "solid"),
    "candidate": ("#56B4E9", "dashed"),
    "untiered": ("#2FC79A", "solid"),
}
EARLIER_LINE = ("#F0E442", "dotted")  #: outlines of the earlier scan's lesions
OTHER_LINE = ("#E377C2", "dotted")  #: thin outlines of the other lesions beside the one that a row is about
REFERENCE_LINE = ("#D55E00", "dashdot")  #: outlines of the reference (synthetic truth, or an expert's)

PLANES = ("axial", "coronal", "sagittal")
AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}
_SIDES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}  # left edge, top edge
MAX_ROWS = 30  #: lesions drawn on one triage page; further ones are counted in its footer


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The figure style of this package, for figures made inside the ``with`` block (white, large enough, dashes)."""
    import matplotlib.style

    with matplotlib.style.context(STYLE):
        yield


def new_figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` by ``height`` inches and its axes (rows, columns), in this package's style."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(rows, columns, squeeze=False)


def titled(figure: Figure, text: str) -> Figure:
    """The figure with a title in this package's style over its first axes, wherever it was made; returns it."""
    figure.axes[0].set_title(text, loc="left", fontsize=11, fontweight="bold")
    return figure


def headed(figure: Figure, text: str) -> Figure:
    """The figure with a title over its whole width, where long names beside the axes or several panels leave none above them, on
    as many lines as it needs; returns it."""
    figure.suptitle(textwrap.fill(text, 70), x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as PNG bytes on white, red, green and blue in steps of 5: no eye sees it, and it takes half the space."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi, facecolor="white")
    picture = Image.open(full).convert("RGB").point([min(255, (v + 2) // 5 * 5) for v in range(256)] * 3)
    picture.save(small, format="png", optimize=True, dpi=(dpi, dpi))
    return small.getvalue()


def show(figure: Figure, sentence: str, *, dpi: int = 110) -> None:
    """Display the figure with ``sentence`` as its description, and print the sentence below it.

    Most readers of a notebook lose an image's alternative text, hence the printed copy. Outside IPython only the
    sentence is printed. Raises ``InputError`` for a description of less than 15 characters.
    """
    sentence = " ".join(sentence.split())
    if len(sentence) < 15:
        raise InputError(f"figure: expected a sentence of 15 characters or more; got {sentence!r}; say what it shows")
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        display(
            {"image/png": png(figure, dpi=dpi), "text/plain": sentence},
            raw=True,
            metadata={"image/png": {"alt": sentence}},
        )
    print(textwrap.fill(sentence, 88, break_on_hyphens=False), flush=True)


# ---------------------------------------------------------------------------------------------------- slices
def plane_of(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Slice ``index`` of (X, Y, Z) in display order: rows from top to bottom, columns from left to right.

    Axial (Y, X) with the front on top and the right on the left; coronal (Z, X), the right on the left; sagittal
    (Z, Y), the front on the left. Raises ``InputError`` for an unknown plane or an index outside the volume.
    """
    if plane not in AXIS:
        raise InputError(f"slice: expected plane axial, coronal or sagittal; got {plane!r}; choose one of those")
    n = volume.shape[AXIS[plane]]
    if not 0 <= index < n:
        raise InputError(f"slice: expected an {plane} index from 0 to {n - 1}; got {index}; choose one inside")
    return np.take(volume, index, axis=AXIS[plane])[::-1, ::-1].T


def window(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Grey levels shown as black and white: the 0.5 and 99.8 % points inside ``mask`` (everywhere, if it is empty)."""
    inside = image[mask] if mask.any() else image.ravel()
    low, high = (float(v) for v in np.percentile(inside, [0.5, 99.8]))
    return low, high if high > low else low + 1.0


def draw_slice(
    axes: Axes,
    case: Case,
    triage: Triage | None = None,
    *,
    plane: str = "axial",
    index: int,
    image: str = "current",
    outlines: bool = True,
    reference: bool = False,
) -> None:
    """Draw one slice on ``axes``: the current or the prior image, lesions outlined by tier (``triage`` of this case).

    image: "current" or "prior" (``InputError`` if the case has none). On the prior the outlines are the earlier scan's
    own lesions. reference: outline ``case.label`` as well. Units of the axes are voxels.
    """
    if image not in ("current", "prior"):
        raise InputError(f"slice: expected image current or prior; got {image!r}; choose one of those")
    volume = case.image if image == "current" else case.prior
    if volume is None:
        raise InputError(f"slice: expected a case with a prior; {case.name} has none; show its current image")
    low, high = window(volume, case.mask)
    axes.imshow(plane_of(volume, plane, index), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()
    if outlines and triage is not None:
        if image == "prior":
            if triage.earlier is not None:
                _outline(axes, plane_of(triage.earlier > 0, plane, index), EARLIER_LINE)
        else:
            labels = plane_of(triage.labels, plane, index)
            for tier, line in TIER_LINES.items():
                numbers = triage.lesions.loc[triage.lesions["tier"] == tier, "lesion"].to_numpy(int)
                _outline(axes, np.isin(labels, numbers), line)
    if reference and case.label is not None:
        _outline(axes, plane_of(case.label > 0, plane, index), REFERENCE_LINE)


def zoom(axes: Axes, case: Case, x: float, y: float, edge: float) -> tuple[float, float]:
    """Show an axial square of ``edge`` voxels around a place of :func:`draw_slice`, kept inside the scan where it fits.

    x, y: voxels. Returns the place's column and row on ``axes``.
    """
    at = (case.shape[0] - 1 - x, case.shape[1] - 1 - y)
    column, row = (
        np.clip(p, edge / 2 - 0.5, n - edge / 2 - 0.5) if n > edge else (n - 1) / 2
        for p, n in zip(at, case.shape, strict=False)
    )
    axes.set(xlim=(column - edge / 2, column + edge / 2), ylim=(row + edge / 2, row - edge / 2))
    return at


PANELS = {
    "current": "Current scan",
    "prior": "Earlier scan",
    "overlay": "Lesions by tier",
    "reference": "Reference",
    "sens": "Sensitive model",
    "spec": "Specific model",
}


def draw_panel(
    axes: Axes, case: Case, triage: Triage | None, panel: str, *, plane: str = "axial", index: int
) -> AxesImage | None:
    """Draw one of ``PANELS`` on ``axes``; returns the probability image of "sens" and "spec" for a colour bar.

    "current" and "prior" are bare; "overlay" has the lesions by tier, "reference" the outlines of ``case.label``,
    "sens" and "spec" the probability of that model in colour where it is 0.05 or more. ``InputError`` for any other
    name, and for a panel that needs a triage, a prior or a second model that is not there.
    """
    if panel not in PANELS:
        raise InputError(f"slice: expected a panel {', '.join(PANELS)}; got {panel!r}; choose one of those")
    if panel in ("overlay", "sens", "spec") and triage is None:
        raise InputError(f"slice: expected a triage for the panel {panel}; got none; triage the case first")
    image = "prior" if panel == "prior" else "current"
    draw_slice(
        axes, case, triage, plane=plane, index=index, image=image, outlines=panel == "overlay",
        reference=panel == "reference",
    )  # fmt: skip
    if panel not in ("sens", "spec"):
        return None
    probability = triage.prob_sens if panel == "sens" else triage.prob_spec
    if probability is None:
        raise InputError(f"slice: expected two models for the panel {panel}; got one; show the panel sens")
    shown = plane_of(probability, plane, index)
    return axes.imshow(np.ma.masked_less(shown, 0.05), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")


def slices(
    case: Case,
    triage: Triage | None = None,
    *,
    panels: Sequence[str],
    index: int,
    plane: str = "axial",
    title: str = "",
) -> Figure:
    """A row of ``panels`` (:func:`draw_panel`) of one slice under a title; each panel has its name above it."""
    rows, columns = plane_of(case.mask, plane, index).shape
    wide = min(2.45, 6.4 / len(panels))  # inches: a row fits the 720 pixels of a notebook
    figure, axes = new_figure(wide * len(panels) + 0.1, wide * rows / columns + 1.1, columns=len(panels))
    title = textwrap.fill(title, int(10 * figure.get_figwidth()), break_on_hyphens=False)  # 10 letters an inch
    image = None
    figure.get_layout_engine().set(h_pad=0.06)  # inches, between the title, the names of the panels and what is below
    with style():
        for a, panel in zip(axes[0], panels, strict=True):
            image = draw_panel(a, case, triage, panel, plane=plane, index=index) or image
            a.set_title(PANELS[panel], fontsize=10, fontweight="normal")
        draw_sides(axes[0, 0], plane)
        if image is not None:
            bar = figure.colorbar(image, ax=list(axes[0]), location="bottom", fraction=0.05, pad=0.02, aspect=40)
            bar.set_label("probability", fontsize=9)
        tiers = tuple(t for t in TIER_LINES if triage is not None and (triage.lesions["tier"] == t).any())
        handles = legend_lines(tiers if "overlay" in panels else (), reference="reference" in panels)
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), facecolor="#bbbbbb")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def best_slice(mask: np.ndarray, plane: str = "axial") -> int:
    """The slice of ``plane`` with the most voxels of ``mask`` (X, Y, Z); the middle one if there are none."""
    others = tuple(a for a in range(3) if a != AXIS[plane])
    area = mask.sum(axis=others)
    best = np.flatnonzero(area == area.max())  # several, where a lesion keeps its width
    return int(best[len(best) // 2])


def draw_sides(axes: Axes, plane: str) -> None:
    """Letters on a slice in display order: the patient's side at the left edge, and what is on top."""
    white = {"color": "white", "fontsize": 9, "fontweight": "bold", "transform": axes.transAxes}
    axes.text(0.02, 0.5, _SIDES[plane][0], va="center", **white)
    axes.text(0.5, 0.98, _SIDES[plane][1], ha="center", va="top", **white)


def _outline(
    axes: Axes,
    inside: np.ndarray,
    line: tuple[str, str],
    *,
    width: float = 1.4,
    extent: tuple[float, ...] | None = None,
) -> None:
    """Draw the border of a boolean slice. ``extent``: left, right, bottom, top of the image (voxels by default)."""
    if not inside.any():
        return
    rows, columns = inside.shape
    left, right, bottom, top = extent or (-0.5, columns - 0.5, rows - 0.5, -0.5)
    x = left + (np.arange(-1, columns + 1) + 0.5) * (right - left) / columns
    y = top + (np.arange(-1, rows + 1) + 0.5) * (bottom - top) / rows
    colour, dash = line
    # one voxel of background around it, so that a lesion cut by the border is closed
    axes.contour(x, y, np.pad(inside, 1).astype(float), [0.5], colors=[colour], linestyles=[dash], linewidths=[width])


def legend_lines(
    tiers: tuple[str, ...] = ("confirmed", "candidate"),
    *,
    earlier: bool = False,
    reference: bool = False,
    others: bool = False,
) -> list[Line2D]:
    """Line handles for a legend of the outlines that :func:`draw_slice` draws."""
    from matplotlib.lines import Line2D

    lines = {tier: TIER_LINES[tier] for tier in tiers}
    if others:
        lines["other lesions"] = OTHER_LINE
    if earlier:
        lines["earlier lesion"] = EARLIER_LINE
    if reference:
        lines["reference"] = REFERENCE_LINE
    return [Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in lines.items()]


# -------------------------------------------------------------------------------------------- the triage page
def triage_board(
    case: Case,
    triage: Triage,
    *,
    path: str | Path | None = None,
    planes: Sequence[str] = PLANES,
    most: int = MAX_ROWS,
    panel: float = 1.3,
) -> Figure:
    """One page: a row per lesion, confirmed ones first, in three planes, the prior beside it, and its facts in words.

    ``case`` holds raw intensities on the grid of ``triage``. At most ``most`` lesions are drawn, the others are counted
    below; without any lesion the page says so over three slices. ``path``: PNG written there, whole or not at all.
    ``planes`` and ``panel`` (inches) make a narrower page for a notebook.
    """
    triage.check_grid(case)
    if triage.lesions.empty:
        figure = _empty_page(case, triage)
    else:
        figure = _lesion_page(case, triage, planes=tuple(planes), most=most, panel=panel)
    if path is not None:
        with replacing(path) as part:
            part.write_bytes(png(figure))
    return figure


_GAP, _TEXT, _HEAD, _FOOT = 0.06, 2.6, 1.12, 0.5  # inches
_CROP_MM = 48.0  # edge of the square around a lesion
_NOTE = "Research and teaching only: not for clinical use. R patient's right, A front, S top."


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    """A white page with one axes whose units are inches from the top left corner."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


def _freeze(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")


def headline(triage: Triage) -> str:
    """The number of lesions and tiers in words: '3 lesions: 2 confirmed, 1 candidate'."""
    counts = triage.counts
    n = counts["lesions"]
    if n == 0:
        return "No lesion found"
    words = f"{n} lesion{'s' * (n != 1)}"
    if triage.prob_spec is None:
        return f"{words} (one model: no tiers)"
    candidates = counts["candidate"]
    return f"{words}: {counts['confirmed']} confirmed, {candidates} candidate{'s' * (candidates != 1)}"


def _changes(case: Case, triage: Triage) -> str:
    if case.prior is None:
        return "No earlier scan: change unknown."
    counts = triage.counts
    named = [f"{counts[k]} {k}" for k in ("new", "growing", "stable", "shrinking") if counts[k]]
    gone = counts["gone"]
    return "Since the earlier scan: " + ", ".join([*named, f"{gone} gone"]) + "."


def _lesion_page(case: Case, triage: Triage, *, planes: tuple[str, ...], most: int, panel: float) -> Figure:
    rows = triage.lesions.head(most)
    n = len(planes)
    panels = n if case.prior is None else 2 * n
    width = 0.2 + _TEXT + panels * (panel + _GAP) + (0.12 if panels > n else 0) + 0.1
    width = max(width, 7.0)  # for the words on top and below
    pitch = max(panel + 0.12, 1.2)
    height = _HEAD + len(rows) * pitch + _FOOT
    figure, axes = _page(width, height)
    _heading(axes, case, triage, width)
    first = 0.2 + _TEXT

    def left(k: int) -> float:
        return first + k * (panel + _GAP) + (0.12 if k >= n else 0)

    for k in range(panels):
        name = planes[k % n] + (", earlier" if k >= n else "")
        axes.text(left(k) + panel / 2, _HEAD - 0.07, name, ha="center", va="bottom", fontsize=9)
    windows = [window(v, case.mask) for v in (case.image, case.prior) if v is not None]
    half = np.maximum(np.round(_CROP_MM / 2 / np.array(case.spacing)).astype(int), 1)
    for i, row in enumerate(rows.itertuples(index=False)):
        top = _HEAD + i * pitch
        _facts(axes, row, top, earlier=case.prior is not None)
        centre = voxel_in_lesion(triage, int(row.lesion))
        tiers = _crop(triage.tiers, centre, half)
        this = _crop(triage.labels == row.lesion, centre, half)
        for k in range(panels):
            plane, volume = planes[k % n], case.image if k < n else case.prior
            extent = (left(k), left(k) + panel, top + panel, top)
            low, high = windows[k // n]
            middle = int(half[AXIS[plane]])
            shown = plane_of(_crop(volume, centre, half), plane, middle)
            axes.imshow(shown, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
            if k < n:
                others = plane_of((tiers > 0) & ~this, plane, middle)
                _outline(axes, others, OTHER_LINE, width=0.9, extent=extent)
                _outline(axes, plane_of(this, plane, middle), TIER_LINES[row.tier], extent=extent)
            elif triage.earlier is not None:
                earlier = _crop(triage.earlier > 0, centre, half)
                _outline(axes, plane_of(earlier, plane, middle), EARLIER_LINE, extent=extent)
            if i == 0:
                _sides(axes, plane, extent)
    more = len(triage.lesions) - len(rows)
    foot = f"{more} more lesion{'s' * (more != 1)} in the table, not drawn.\n" if more else ""
    axes.text(0.2, height - 0.2, foot + _NOTE, fontsize=9, color="#333333", va="bottom")
    _freeze(axes, width, height)
    return figure


def lesion_board(case: Case, triage: Triage, lesion: int, *, edge_mm: float = _CROP_MM, panel: float = 2.1) -> Figure:
    """One lesion large, in three planes, the earlier scan below it, the outlines named: what a reviewer looks at.

    edge_mm: edge of the square around it. panel: inches. Raises ``InputError`` for a number that is no lesion's.
    """
    triage.check_grid(case)
    if lesion not in set(triage.lesions["lesion"]):
        raise InputError(f"lesion board: expected a lesion from 1 to {len(triage.lesions)}; got {lesion}; choose one")
    tier = triage.lesions.set_index("lesion").loc[lesion, "tier"]
    volumes = [("now", case.image)] + ([] if case.prior is None else [("earlier", case.prior)])
    half = np.maximum(np.round(edge_mm / 2 / np.array(case.spacing)).astype(int), 1)
    centre = voxel_in_lesion(triage, lesion)
    figure, axes = new_figure(3 * panel, len(volumes) * (panel + 0.22) + 0.55, rows=len(volumes), columns=3)
    figure.get_layout_engine().set(h_pad=0.06)
    handles = legend_lines((tier,), earlier=triage.earlier is not None and case.prior is not None, others=True)
    with style():
        figure.suptitle(f"Lesion {lesion}, {tier}", x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), facecolor="#777777", frameon=True,
                      labelcolor="white")  # fmt: skip
        for row, (when, volume) in zip(axes, volumes, strict=True):
            low, high = window(volume, case.mask)
            for a, plane in zip(row, PLANES, strict=True):
                middle = int(half[AXIS[plane]])
                shown = plane_of(_crop(volume, centre, half), plane, middle)
                a.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
                a.set_axis_off()
                a.set_title(f"{plane}, {when}", fontsize=9, fontweight="normal")
                draw_sides(a, plane)
                if when == "now":
                    others = _crop((triage.labels > 0) & (triage.labels != lesion), centre, half)
                    _outline(a, plane_of(others, plane, middle), OTHER_LINE, width=0.9)
                    _outline(a, plane_of(_crop(triage.labels == lesion, centre, half), plane, middle), TIER_LINES[tier])
                elif triage.earlier is not None:
                    _outline(a, plane_of(_crop(triage.earlier > 0, centre, half), plane, middle), EARLIER_LINE)
    return figure


def _heading(axes: Axes, case: Case, triage: Triage, width: float) -> None:
    axes.text(0.2, 0.16, headline(triage), fontsize=14, fontweight="bold", va="top")
    axes.text(0.2, 0.46, f"{case.name}. {_changes(case, triage)}", fontsize=9.5, va="top", color="#333333")
    x = 0.2
    tiers = [t for t in TIER_LINES if (triage.lesions["tier"] == t).any()]
    lines = [(f"this lesion, {tier}", *TIER_LINES[tier]) for tier in tiers]
    if len(triage.lesions) > 1:
        lines.append(("other lesions", *OTHER_LINE))
    if case.prior is not None:
        lines.append(("earlier lesion", *EARLIER_LINE))
    for name, colour, dash in lines:
        # a dark stroke behind the light colours, which are chosen for grey tissue
        axes.plot([x, x + 0.35], [0.8, 0.8], color="#555555", lw=3.6)
        axes.plot([x, x + 0.35], [0.8, 0.8], color=colour, ls=dash, lw=2)
        axes.text(x + 0.42, 0.8, name, fontsize=9, va="center")
        x += 0.58 + 0.064 * len(name)


def _facts(axes: Axes, row: object, top: float, *, earlier: bool) -> None:
    """Number, tier, volume, peak probability, place and change of one lesion, in words."""
    axes.text(0.2, top + 0.12, f"{row.lesion}", fontsize=12, fontweight="bold", va="center")
    axes.text(
        0.52, top + 0.12, row.tier, fontsize=10, fontweight="bold", va="center",
        bbox={"facecolor": TIER_LINES[row.tier][0], "edgecolor": "none", "boxstyle": "round,pad=0.25"},
    )  # fmt: skip
    peak = f"peak probability {probability_words(row.peak_probability)}"
    if not np.isnan(row.peak_spec):
        peak += f"\n  sensitive {probability_words(row.peak_sens)}, specific {probability_words(row.peak_spec)}"
    if row.seen_by == "spec":
        peak += "\n  seen by the specific model alone"
    facts = [volume_words(row.volume_mm3) + f", {place_words(row.x_mm, row.y_mm, row.z_mm)}", peak]
    if earlier:
        facts.append(change_words(row.change, row.volume_ratio, row.prior_volume_mm3))
    axes.text(0.2, top + 0.32, "\n".join(facts), fontsize=9, va="top", linespacing=1.25)


def count_words(n: int, one: str, many: str) -> str:
    """'1 metastasis', '3 metastases'."""
    return f"{n} {one if n == 1 else many}"


def volume_words(volume_mm3: float) -> str:
    """Volume in mm³ below 0.1 cm³, else in cm³."""
    return f"{volume_mm3:.0f} mm³" if volume_mm3 < 100 else f"{volume_mm3 / 1000:.2f} cm³"


def place_words(x_mm: float, y_mm: float, z_mm: float) -> str:
    """Scanner coordinates in words: 'R 12, A 30, S 5 mm' (right or left, front or back, up or down)."""
    sides = ("LR"[int(x_mm >= 0)], "PA"[int(y_mm >= 0)], "IS"[int(z_mm >= 0)])
    return ", ".join(f"{s} {abs(v):.0f}" for s, v in zip(sides, (x_mm, y_mm, z_mm), strict=True)) + " mm"


def change_words(change: str, ratio: float, prior_volume_mm3: float) -> str:
    """The change since the earlier scan: 'growing: 1.8 × the earlier 0.12 cm³'."""
    if change in ("new", "unknown") or np.isnan(ratio):
        return {"new": "new: not found in the earlier scan", "unknown": "change unknown"}.get(change, change)
    shown = f"{ratio:.2g}"
    for digits in (3, 4, 5):  # more where two would round it over a limit: "stable: 0.804", not 0.8; "growing: 1.25", not 1.2
        if change_of(float(shown)) == change:
            break
        shown = f"{ratio:.{digits}g}"
    return f"{change}: {shown} × the earlier {volume_words(prior_volume_mm3)}"


def voxel_in_lesion(triage: Triage, lesion: int) -> np.ndarray:
    """The lesion's voxel that is nearest to its centre of mass (a ring or a crescent may not hold its own centre)."""
    voxels = np.argwhere(triage.labels == lesion)
    return voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]


def _crop(volume: np.ndarray, centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The box of ``2 * half + 1`` voxels around ``centre``, zeros beyond the volume."""
    out = np.zeros(2 * half + 1, volume.dtype)
    low, high = centre - half, centre + half + 1
    inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, volume.shape, strict=True))
    place = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inner, low, strict=True))
    out[place] = volume[inner]
    return out


def _sides(axes: Axes, plane: str, extent: tuple[float, float, float, float]) -> None:
    left, right, _, top = extent
    white = {"color": "white", "fontsize": 9, "fontweight": "bold"}
    axes.text(left + 0.04, (extent[2] + top) / 2, _SIDES[plane][0], va="center", **white)
    axes.text((left + right) / 2, top + 0.03, _SIDES[plane][1], ha="center", va="top", **white)


def _empty_page(case: Case, triage: Triage) -> Figure:
    """Three slices through the middle of the brain under the statement that nothing was found."""
    size, width, height = 2.9, 9.3, 4.6
    figure, axes = _page(width, height)
    _heading(axes, case, triage, width)
    sides = np.argwhere(case.mask) if case.mask.any() else np.array([[0, 0, 0], np.array(case.shape) - 1])
    middle = np.round(sides.mean(axis=0)).astype(int)
    low, high = window(case.image, case.mask)
    for k, plane in enumerate(PLANES):
        shown = plane_of(case.image, plane, int(middle[AXIS[plane]]))
        spacing = np.delete(np.array(case.spacing), AXIS[plane])  # mm along columns, rows
        tall, wide = shown.shape[0] * spacing[1], shown.shape[1] * spacing[0]
        scale = size / max(tall, wide)
        x, y = 0.2 + k * (size + 0.1) + (size - wide * scale) / 2, _HEAD + (size - tall * scale) / 2
        extent = (x, x + wide * scale, y + tall * scale, y)
        axes.imshow(shown, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
        _sides(axes, plane, extent)
        axes.text(0.2 + k * (size + 0.1) + size / 2, _HEAD - 0.07, plane, ha="center", va="bottom", fontsize=9)
    axes.text(0.2, height - 0.2, _NOTE, fontsize=9, color="#333333", va="bottom")
    _freeze(axes, width, height)
    return figure


# ------------------------------------------------------------------------------------------------- in three dimensions
VIEWS = {"from the front": (200.0, 12.0), "from above, face down": (180.0, 90.0)}  #: azimuth, elevation, degrees
TIER_SIGNS = {"confirmed": "✓", "candidate": "?", "untiered": ""}


def surface(case: Case, triage: Triage, *, views: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """The brain as glass with its lesions in it, coloured by tier and numbered (✓ confirmed, ? candidate), from several sides.

    views: title → (azimuth, elevation) in degrees; (180, 0) looks at the face, (180, 90) from above with the face down,
    (270, 0) at the patient's left. Every lesion is drawn over the brain, the nearest in front; each is grown by a voxel, or
    the small ones could not be seen. Numbers stand in the margins, at the ends of thin lines; in brackets where a lesion is
    hidden behind another one.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    views = views or VIEWS
    figure, axes = new_figure(3.25 * len(views), 4.0, columns=len(views))
    figure.suptitle(headline(triage), x=0.01, ha="left", fontsize=11, fontweight="bold")
    glass = ndimage.gaussian_filter(case.mask.astype(np.float32), 1.5)
    grown = ndimage.grey_dilation(triage.labels, footprint=ndimage.generate_binary_structure(3, 1))
    tier = dict(zip(triage.lesions["lesion"], triage.lesions["tier"], strict=True))
    for axis, (title, (azimuth, elevation)) in zip(axes[0], views.items(), strict=True):
        turn, size = _camera(azimuth, elevation), int(np.ceil(np.linalg.norm(case.shape)))
        centre = (np.array(case.shape) - 1) / 2
        offset = centre - turn @ np.full(3, (size - 1) / 2)

        brain, labels = (  # axes: down, right, away from the eye
            ndimage.affine_transform(v, turn, offset, (size,) * 3, order=o) for v, o in ((glass, 1), (grown, 0))
        )
        shade = 0.9 - 0.35 * (1 - _lit(brain > 0.5)) * (brain > 0.5).any(2)
        picture = np.repeat(shade[..., None], 3, 2)
        picture[~(brain > 0.5).any(2)] = 1
        hit = labels > 0
        front = np.take_along_axis(labels, hit.argmax(2)[..., None], 2)[..., 0]
        light = 0.75 + 0.25 * _lit(hit)
        at = {}
        for number, name in tier.items():
            own = front == number
            picture[own] = np.array(to_rgb(TIER_LINES[name][0])) * light[own][:, None]
            words = f"{number} {TIER_SIGNS[name]}".strip()
            words, own = (words, own) if own.any() else (f"({words})", (labels == number).any(2))
            if own.any():
                at[words] = np.argwhere(own).mean(0)[::-1]
        rows, columns = (np.flatnonzero((picture < 1).any((1 - a, 2))) for a in (0, 1))
        axis.imshow(picture, interpolation="bilinear")
        wide = 0.2 * (columns[-1] - columns[0])
        axis.set(xlim=(columns[0] - wide, columns[-1] + wide), ylim=(rows[-1] + 4, rows[0] - 4))
        axis.set_axis_off()
        _in_margins(axis, at)
        side = {-1: ", R on the left", 1: ", R on the right"}.get(int(np.round(turn[0, 1])), "")
        axis.set_title(title + side, loc="left", fontsize=10, fontweight="normal")
    present = [t for t in TIER_LINES if t in tier.values()]
    handles = [Patch(color=TIER_LINES[t][0], label=f"{t} {TIER_SIGNS[t]}") for t in present]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _in_margins(axes: Axes, at: Mapping[str, np.ndarray]) -> None:
    """Name places (column, row) at the nearer side of ``axes``, one below the other, each with a line to its place."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    step = (bottom - top) / 14
    for x, align in ((left, "left"), (right, "right")):
        own = sorted((p[1], name) for name, p in at.items() if (p[0] < (left + right) / 2) == (align == "left"))
        heights: list[float] = []
        for height, _ in own:  # from above, none nearer than a step to the one before
            heights.append(max([height, *(h + step for h in heights[-1:]), top + step / 2]))
        over = max([0.0, *(h - bottom + step / 2 for h in heights[-1:])])
        for k in range(len(heights) - 1, -1, -1):  # and back, where the last would lie below the picture
            limit = bottom - step / 2 - (len(heights) - 1 - k) * step
            heights[k] = min(heights[k], limit) if over else heights[k]
        for height, (_, name) in zip(heights, own, strict=True):
            axes.annotate(name, at[name], (x, height), fontsize=9, va="center", ha=align,
                          arrowprops={"arrowstyle": "-", "color": "#555555", "lw": 0.7, "shrinkA": 1, "shrinkB": 2})  # fmt: skip


def _camera(azimuth: float, elevation: float) -> np.ndarray:
    """(3, 3): columns are the steps down, right and away from the eye, in voxels (R, A, S)."""
    a, e = np.deg2rad([azimuth, elevation])
    eye = np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])  # from the middle towards the eye
    up = np.array([-np.sin(a) * np.sin(e), np.cos(a) * np.sin(e), np.cos(e)])
    return np.stack([-up, np.cross(up, eye), -eye], 1)


def _lit(inside: np.ndarray) -> np.ndarray:
    """How much the first surface along the last axis faces the eye, 0 to 1: (rows, columns)."""
    depth = ndimage.gaussian_filter(np.where(inside.any(2), inside.argmax(2), inside.shape[2]).astype(np.float32), 1.0)
    down, right = np.gradient(depth)
    return 1 / np.sqrt(1 + down**2 + right**2)


def lesion_rows(triage: Triage) -> pd.DataFrame:
    """The lesion table with the columns a reader needs first, in words: number, tier, volume, peak, change."""
    table = triage.lesions
    return pd.DataFrame(
        {
            "lesion": table["lesion"],
            "tier": table["tier"],
            "volume": [volume_words(v) for v in table["volume_mm3"]],
            "peak probability": table["peak_probability"].map(probability_words),
            "where": [place_words(*p) for p in table[["x_mm", "y_mm", "z_mm"]].to_numpy(float)],
            "change": [
                change_words(*row)
                for row in zip(table["change"], table["volume_ratio"], table["prior_volume_mm3"], strict=True)
            ],
        }
    )


# ---------------------------------------------------------------------------------------------- segments and losses
def segments(
    rows: Mapping[str, np.ndarray],
    target: np.ndarray,
    *,
    names: Sequence[str],
    title: str = "",
    signed: Sequence[str] = (),
    rings: np.ndarray | None = None,
) -> Figure:
    """A batch as a grid: a column for each segment, a row for each of ``rows``; the middle slice of every segment.

    rows: name → (B, X, Y, Z), probabilities from 0 to 1, or, for the names in ``signed``, numbers of both signs on a
    scale of their own, with how many differ from 0 and the largest below each panel. target: (B, X, Y, Z), outlined as
    the reference. names: one for each segment. rings: bool (B, X, Y, Z), voxels to circle in every row.
    """
    shapes = {np.shape(v) for v in (*rows.values(), target)}
    if len(shapes) != 1 or len(names) != len(target) or np.ndim(target) != 4:
        got = ", ".join(str(s) for s in shapes)
        raise InputError(
            f"segments: expected rows and target of one shape (B, X, Y, Z) and B names; got {got} and {len(names)} "
            "names; give all of one batch"
        )
    wide = 5.6 / max(len(names), 4)
    tall = wide * len(rows) + 0.42 * len(signed) + 0.1 * len(rows) + 0.5 + 0.16 * max(n.count("\n") + 1 for n in names)
    figure, axes = new_figure(wide * len(names) + 0.9, tall, rows=len(rows), columns=len(names))
    with style():
        for line, (row, values) in zip(axes, rows.items(), strict=True):
            values = np.asarray(values)
            most = float(np.abs(values).max()) or 1.0 if row in signed else 1.0
            for k, a in enumerate(line):
                image = _draw_segment(a, values[k], target[k], None if rings is None else rings[k], most, row in signed)
            line[0].set_ylabel(row, fontsize=9)
            bar = figure.colorbar(image, ax=list(line), fraction=0.03, pad=0.01, aspect=12)
            bar.ax.tick_params(labelsize=9)
            bar.set_ticks([-most, 0, most] if row in signed else [0, 0.5, 1])
            if row in signed:
                bar.set_ticklabels([f"{-most:.2g}".replace("-", "−"), "0", f"+{most:.2g}"])
        for a, name in zip(axes[0], names, strict=True):
            a.set_title(name, fontsize=9, fontweight="normal", loc="center")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _draw_segment(
    axes: Axes, values: np.ndarray, target: np.ndarray, rings: np.ndarray | None, most: float, signed: bool
) -> AxesImage:
    middle = values.shape[2] // 2
    scale = {"cmap": "PuOr", "vmin": -most, "vmax": most} if signed else {"cmap": "viridis", "vmin": 0, "vmax": 1}
    image = axes.imshow(values[:, :, middle].T, origin="lower", interpolation="nearest", **scale)
    _outline(axes, np.asarray(target)[:, :, middle].T > 0, REFERENCE_LINE, width=1.8)
    if rings is not None:
        x, y = np.nonzero(rings[:, :, middle])
        for colour, width in (("white", 3.2), ("black", 1.4)):  # seen on dark and on light
            axes.plot(x, y, "o", mfc="none", mec=colour, mew=width, ms=9, ls="none", clip_on=False, in_layout=False)
    columns, rows = values.shape[:2]
    axes.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.grid(False)
    for side in axes.spines.values():
        side.set(visible=True, color="#999999")
    if signed:
        flat = np.ravel(values)
        largest = flat[np.abs(flat).argmax()]
        words = f"{largest:+.4g}".replace("-", "−") if largest else "0"
        axes.set_xlabel(f"{count_words(np.count_nonzero(flat), 'voxel', 'voxels')}\n{words}", fontsize=9)
    return image


def vss_board(
    prob: np.ndarray, target: np.ndarray, *, alpha: float, form: str = "paper", names: Sequence[str] | None = None
) -> Figure:
    """What VSS makes of a batch: the probabilities, the voxel of each segment that it looks at, and its gradient.

    prob, target: (B, X, Y, Z). Static twin of :class:`dmplus.widgets.VSSExplorer`.
    """
    _, gradient = vss_gradient(prob, target, alpha=alpha, form=form)
    letters = [f"segment {chr(65 + k)}" for k in range(len(target))]
    return segments(
        {"probability": prob, "gradient of VSS": gradient}, target, names=names or letters, signed=["gradient of VSS"],
        rings=gradient != 0,
        title=f"Alpha {alpha:g} pulls lesions with {abs(gradient.min()):.4g}, pushes vessels with {gradient.max():.4g}",
    )  # fmt: skip


def vss_gradient(
    prob: np.ndarray, target: np.ndarray, *, alpha: float, form: str = "paper"
) -> tuple[float, np.ndarray]:
    """VSS of a batch (B, X, Y, Z), and its derivative by every probability."""
    import torch

    from dmplus.losses import vss

    p = torch.as_tensor(prob, dtype=torch.float32).clone().requires_grad_()
    value = vss(p, torch.as_tensor(target, dtype=torch.float32), alpha=alpha, form=form)
    (gradient,) = torch.autograd.grad(value, p)
    return value.item(), gradient.numpy()
