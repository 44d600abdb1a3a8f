"""The two pictures of the README: ``python notebooks/figures/make_figures.py`` (no network, about two minutes).

Writes ``flow.png`` (from two scans to a list of lesions) and ``triage.png`` (one patient found and triaged) beside this
file, each with its alternative text (``flow.txt``, ``triage.txt``). Every number in them is computed here.

Which patient, by a rule that looks at the reference alone and never at a result: of the test patients of the cohort
``quick`` whose last scan has an earlier one and holds metastases both below and from 0.1 cm³, the first one with the
median number of metastases (the lower one of two). Which slice: the one that shows most tiers, then most metastases, then
most lesions. Which lesions are enlarged: the largest, the middle and the smallest metastasis, and of the findings that
are no metastasis the one with the highest probability.
"""

from __future__ import annotations

import dataclasses
import io
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dmplus import figures, metrics, network, sampling, synthetic
from dmplus.runtime import replacing
from dmplus.triage import CANDIDATE, CONFIRMED, THRESHOLD, Triage, triage_case
from dmplus.volume import Case

HERE = Path(__file__).parent
DPI = 160  # 10 inches are 1600 pixels; half of that is shown in a browser, so 10 points are read as 8
BLUE, RED, GREY = "#0072B2", "#D55E00", "#555555"
TEXT = {"fontsize": 10, "va": "top", "linespacing": 1.2}
BOLD = {"fontsize": 11.5, "fontweight": "bold", "va": "top"}
SENS, SPEC = r"$M_{\mathrm{sens}}$", r"$M_{\mathrm{spec}}$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The chosen scan, what was found in it, and the reference lesion by lesion."""

    case: Case
    found: Triage
    reference: np.ndarray  #: int32 (X, Y, Z), number of each metastasis
    tier_of: np.ndarray  #: tier of metastases 1..n: 0 missed, 1 candidate, 2 confirmed
    false: np.ndarray  #: numbers of the lesions in ``found`` that touch no metastasis
    lookalikes: np.ndarray  #: uint8 (X, Y, Z), kinds of bright things that are no metastasis
    weeks: int  #: between the earlier scan and this one
    rule: str  #: how the patient was chosen, with the numbers
    level: int  #: the axial slice shown

    def tier(self, lesion: int) -> str:
        """Tier in words of a lesion in ``found``."""
        return str(self.found.lesions.set_index("lesion").loc[lesion, "tier"])


def choose() -> Subject:
    """Make the test patients, choose one by the rule of this file, and let the shipped networks triage it."""
    sens, spec = network.load("sens"), network.load("spec")  # first: without weights nothing below is of use
    cohort = synthetic.COHORTS["quick"]
    test = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "test"]
    eligible = []
    for index in (i for i in test if len(synthetic.schedule(cohort, i)[0]) > 1):
        visit = synthetic.patient(cohort, index).visits[-1]
        labels, n = metrics.label_lesions(visit.case.label > 0)
        sizes = np.bincount(labels.ravel())[1:]
        if n and sizes.min() < metrics.BOUNDARY_MM3 <= sizes.max():
            eligible.append((n, index, visit, labels))
    counts = sorted(n for n, *_ in eligible)
    n, index, visit, reference = next(e for e in eligible if e[0] == counts[(len(counts) - 1) // 2])
    found = triage_case(visit.case, sens, spec)
    tier_of = np.array([found.tiers[reference == k].max() for k in range(1, n + 1)])
    false = np.setdiff1d(found.lesions["lesion"], found.labels[reference > 0])
    days = synthetic.schedule(cohort, index)[0]
    rule = (
        f"first with the median number of metastases ({n}) among {len(eligible)} test patients with an earlier scan and "
        "metastases on both sides of 0.1 cm³"
    )

    def shown(z: int) -> tuple[int, int, int]:
        lesions, true = found.labels[:, :, z], reference[:, :, z]
        return len(np.unique(found.tiers[:, :, z])), len(np.unique(true)), len(np.unique(lesions))

    return Subject(
        case=visit.case, found=found, reference=reference, tier_of=tier_of, false=false, lookalikes=visit.lookalikes,
        weeks=round((days[-1] - days[-2]) / 7), rule=rule, level=max(range(reference.shape[2]), key=shown),
    )  # fmt: skip


def finding(who: Subject) -> str:
    """What the triage found, in numbers: '3 of 4 synthetic metastases found: 2 confirmed, 1 candidate; ...'."""
    n, tier = len(who.tier_of), who.tier_of
    candidates, false = int((tier == CANDIDATE).sum()), [who.tier(k) for k in who.false]
    words = [
        f"{(tier > 0).sum()} of {figures.count_words(n, 'synthetic metastasis', 'synthetic metastases')} found: "
        f"{(tier == CONFIRMED).sum()} confirmed, {figures.count_words(candidates, 'candidate', 'candidates')}",
        figures.count_words(false.count("candidate"), "false candidate", "false candidates") + " to review",
    ]
    if "confirmed" in false:
        words.append(f"{false.count('confirmed')} falsely confirmed")
    return "; ".join(words)


# ------------------------------------------------------------------------------------------------------------- drawing
def page(width: float, height: float) -> tuple[Figure, Axes]:
    """A white page and one axes over it whose units are inches from the top left corner."""
    with figures.style():
        figure = Figure(figsize=(width, height), layout="none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes for one picture at a place of the page in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def zoom(axes: Axes, case: Case, voxel: np.ndarray, inside: np.ndarray, *, least: int = 10) -> int:
    """Show a square around ``voxel`` that holds the lesion ``inside``, moved into the slice at its border; its edge in mm."""
    size = np.array(case.shape[:2])
    half = min(max(least, int(np.ptp(np.argwhere(inside)[:, :2], axis=0).max())), (min(size) - 1) // 2)
    column, row = np.clip(size - 1 - voxel[:2], half, size - 1 - half)  # display order runs against the voxel order
    axes.set(xlim=(column - half, column + half), ylim=(row + half, row - half))
    return round(2 * half * case.spacing[0])


def centre_of(inside: np.ndarray) -> np.ndarray:
    """The voxel of a lesion in the slice that holds most of it, nearest to the middle there."""
    z = figures.best_slice(inside)
    voxels = np.argwhere(inside[:, :, z])
    middle = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
    return np.array([*middle, z])


def write(figure: Figure, name: str, sentence: str) -> None:
    """The picture and its alternative text, each whole or not at all."""
    for suffix, content in (("png", figures.png(figure, dpi=DPI)), ("txt", (sentence + "\n").encode())):
        with replacing(HERE / f"{name}.{suffix}") as part:
            part.write_bytes(content)
    print(textwrap.fill(f"{name}.png: {sentence}", 100))


# --------------------------------------------------------------------------------------------------------- the patient
def facts(who: Subject, inside: np.ndarray, true: bool) -> tuple[str, str, str]:
    """Name, tier and facts of a metastasis (``true``) or of a finding that is none, given its voxels (X, Y, Z)."""
    met = np.unique(who.found.labels[inside])
    rows = who.found.lesions[who.found.lesions["lesion"].isin(met)]
    number = " + ".join(str(k) for k in rows["lesion"]) + " " if len(rows) else ""
    tier = "missed" if rows.empty else "confirmed" if (rows["tier"] == "confirmed").any() else "candidate"
    area = inside if rows.empty else np.isin(who.found.labels, rows["lesion"])
    peaks = f"peak {SENS} {who.found.prob_sens[area].max():.2f}, {SPEC} {who.found.prob_spec[area].max():.2f}"
    if true:
        name, volume = "metastasis", f"reference {figures.volume_words(inside.sum())}"
    else:
        counts = [(who.lookalikes[inside] == value).sum() for value in synthetic.LOOKALIKES.values()]
        name, volume = f"no metastasis: {list(synthetic.LOOKALIKES)[np.argmax(counts)] if any(counts) else 'tissue'}", ""
    if rows.empty:
        return name, tier, f"{volume}\n{peaks}"
    row = rows.iloc[0]
    volume = figures.volume_words(rows["volume_mm3"].sum()) + (f" ({volume})" if volume else "")
    change = figures.change_words(row.change, row.volume_ratio, row.prior_volume_mm3)
    change = "not found in the earlier scan" if row.change == "new" else textwrap.fill(change, 26)
    return name, number + tier, f"{volume}\n{peaks}\n{change}"


def enlarged(who: Subject) -> list[tuple[np.ndarray, bool]]:
    """Voxels of the lesions to enlarge, and whether each is a metastasis: see the rule of this file."""
    order = np.argsort(-np.bincount(who.reference.ravel())[1:], kind="stable") + 1
    few = order if len(order) <= 3 else order[[0, len(order) // 2, -1]]
    shown = [(who.reference == k, True) for k in few]
    others = who.found.lesions[who.found.lesions["lesion"].isin(who.false)].sort_values("peak_probability", ascending=False)
    return shown + [(who.found.labels == k, False) for k in others["lesion"].head(1)]


def draw_triage(who: Subject) -> None:
    """``triage.png``: one slice, the earlier one beside it, and four lesions enlarged with their facts in words."""
    case, found = who.case, who.found
    figure, words = page(10, 7.3)
    words.text(0.15, 0.15, textwrap.fill(finding(who), 72), fontsize=15, fontweight="bold", va="top")
    words.text(0.15, 0.86, f"{case.name}: a patient who does not exist. Two networks with the shipped weights.", fontsize=11)
    high, top = 3.3, 1.3
    wide = high * case.shape[0] / case.shape[1]
    for k, (image, title) in enumerate((("current", "Current scan"), ("prior", f"Earlier scan, {who.weeks} weeks before"))):
        axes = panel(figure, 0.15 + k * (wide + 0.1), top, wide, high)
        figures.draw_slice(axes, case, found, index=who.level, image=image)
        words.text(0.15 + k * (wide + 0.1), top - 0.08, title, fontsize=11, fontweight="bold")
        for lesion in np.unique(found.labels[:, :, who.level])[1:] if image == "current" else ():
            name(axes, who, lesion)
    key(words, 2 * wide + 0.5, top)
    cell, side, top = 2.43, 1.17, 5.0
    for k, (inside, true) in enumerate(enlarged(who)):
        left, at = 0.15 + k * cell, centre_of(inside)
        title, tier, text = facts(who, inside, true)
        for j, image in enumerate(("current", "prior")):
            axes = panel(figure, left + j * (side + 0.03), top, side, side)
            figures.draw_slice(axes, case, found, index=int(at[2]), image=image)
            for line in axes.collections if image == "current" else ():
                line.set_linewidth(3)  # the reference, thinner, stays visible on it
            if image == "current":
                figures.draw_slice(axes, case, index=int(at[2]), outlines=False, reference=True)
            edge = zoom(axes, case, at, inside)
            axes.text(0.03, 0.03, f"{edge} mm", color="white", fontsize=9, transform=axes.transAxes)
        colour = figures.TIER_LINES.get(tier.split()[-1], ("#CCCCCC",))[0]
        words.text(left + 0.05, top - 0.14, tier, fontsize=10.5, fontweight="bold", va="center", bbox=tag(colour))
        words.text(left, top + side + 0.08, title, fontsize=10.5, fontweight="bold", va="top")
        words.text(left, top + side + 0.28, text, fontsize=10, va="top", linespacing=1.3)
    write(figure, "triage", finding(who))


def tag(colour: str) -> dict[str, object]:
    """A coloured box behind a word in black."""
    return {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.2"}


def name(axes: Axes, who: Subject, lesion: int) -> None:
    """Number and tier of a lesion in the slice shown, beside it in the colour of its line, away from the border."""
    x, y = np.argwhere(who.found.labels[:, :, who.level] == lesion).mean(0)
    column, row = who.case.shape[0] - 1 - x, who.case.shape[1] - 1 - y
    right = column < who.case.shape[0] * 0.6
    axes.annotate(
        f"{lesion} {who.tier(lesion)}", (column, row), (9 if right else -9, 9), textcoords="offset points",
        ha="left" if right else "right", color="black", fontsize=10, fontweight="bold",
        bbox=tag(figures.TIER_LINES[who.tier(lesion)][0]),
    )  # fmt: skip


def key(words: Axes, left: float, top: float) -> None:
    """What the lines mean, in words."""
    words.text(left, top - 0.08, "How to read it", fontsize=11, fontweight="bold")
    lines = (
        (*figures.TIER_LINES["confirmed"], f"Confirmed: the specific network\n({SPEC}) sees it (p ≥ {THRESHOLD})"),
        (*figures.TIER_LINES["candidate"], f"Candidate, to review: only the\nsensitive network ({SENS}) sees it"),
        (*figures.EARLIER_LINE, "Lesion found in the earlier scan"),
        (*figures.REFERENCE_LINE, "Reference: the true border\n(enlarged pictures, current scan)"),
    )
    for k, (colour, dash, text) in enumerate(lines):
        y = top + 0.25 + 0.62 * k
        words.fill_between([left, left + 0.55], y - 0.13, y + 0.13, color="#555555")
        words.plot([left + 0.05, left + 0.5], [y, y], color=colour, ls=dash, lw=2.2)
        words.text(left + 0.68, y, text, fontsize=10.5, va="center", linespacing=1.2)
    words.text(left, top + 2.75, "Below: each lesion now and, to its right,\nthe same place in the earlier scan.", fontsize=10.5, va="top")
    words.text(left, top + 3.28, "Not for clinical use.", fontsize=10.5, va="bottom", color=GREY)


# ------------------------------------------------------------------------------------------------------------ the flow
def draw_flow(who: Subject) -> None:
    """``flow.png``: two scans, one network trained twice, two maps, one union, two tiers; with pictures of one patient."""
    case, found, config = who.case, who.found, network.load("sens").config
    alpha = {k: network.info(k)["info"]["alpha"] for k in ("sens", "spec")}
    figure, words = page(10.8, 6.2)
    words.text(0.15, 0.12, "From two scans to a list of lesions: confirmed, or a candidate for review", **BOLD | {"fontsize": 15})
    words.text(0.15, 0.48, f"Every picture: one synthetic patient ({case.patient}), two networks with the shipped weights.", **TEXT)

    # the inputs of one segment, as the network gets them, each with its path
    words.text(0.15, 0.9, "1  Two scans", **BOLD)
    words.text(2.5, 0.9, "2  DeepMedic+", **BOLD)
    words.text(2.5, 1.14, f"a path each: {len(config.features)} layers of 3³,\nreceptive field {config.receptive_field}³ voxels", **TEXT)
    normal, middle = case.normalised(), centre_of(found.labels == 1)
    low, high = figures.window(normal.image, case.mask)
    edge = sampling.SamplingConfig().segment
    start = middle - edge // 2
    rows = [("Current scan", BLUE, normal.image, 1, start, edge)]
    for factor in config.low_factors:
        begin = np.array([config.low_start(int(s), factor) for s in start])
        rows.append(("and its context", BLUE, normal.image, factor, begin, config.low_size(edge - 2 * config.margin, factor)))
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
    for x, text in ((4.37, "paths joined"), (4.7, f"{len(config.fully_connected) + 1} layers of 1³"), (5.03, "softmax of two classes")):
        box(words, x, 1.6, 0.28, 4.39, GREY)
        words.text(x + 0.14, 3.8, text, **TEXT | {"color": "white", "rotation": 90, "ha": "center", "va": "center"})

    # two maps, their union, two tiers
    words.text(5.75, 0.9, "3  Trained twice", **BOLD)
    words.text(5.75, 1.14, "two sets of weights,\ntwo probability maps", **TEXT)
    inside = found.labels[:, :, who.level : who.level + 1] > 0
    corners = np.argwhere(inside)
    window = np.array([*(corners.min(0) + corners.max(0)) // 2]), inside
    side = 1.5
    for name, text, top in (("sens", f"{SENS}: large α, {alpha['sens']:g}", 1.85), ("spec", f"{SPEC}: small α, {alpha['spec']:g}", 3.95)):
        words.text(5.75, top - 0.23, text, **TEXT)
        axes = panel(figure, 5.75, top, side, side)
        colours = figures.draw_panel(axes, case, found, name, index=who.level)
        zoom(axes, case, *window, least=28)
        arrow(words, (5.36, 3.8), (5.7, top + side / 2), GREY)
        arrow(words, (7.29, top + side / 2), (7.57, 2.5), GREY)
    bar = figure.colorbar(colours, cax=panel(figure, 5.75, 5.55, side, 0.12), orientation="horizontal", ticks=[0, 0.5, 1])
    bar.set_label("probability", fontsize=10, labelpad=1)
    words.text(7.6, 0.9, "4  Union, sorted into two tiers", **BOLD)
    words.text(7.6, 1.14, f"a lesion: voxels that touch, ≥ {THRESHOLD} in\neither map", **TEXT)
    axes = panel(figure, 7.6, 1.6, 1.75, 1.75)
    figures.draw_panel(axes, case, found, "overlay", index=who.level)
    zoom(axes, case, *window, least=28)
    for y, tier, text in ((1.75, "confirmed", f"holds a voxel\nwith {SPEC} ≥ {THRESHOLD}"), (2.65, "candidate", "for an expert\nto review")):
        words.text(9.5, y, tier, fontsize=10.5, fontweight="bold", va="center", bbox=tag(figures.TIER_LINES[tier][0]))
        words.text(9.45, y + 0.18, text, **TEXT)

    # what comes out
    arrow(words, (8.47, 3.4), (8.47, 3.7), GREY)
    words.text(7.6, 3.75, "5  Table and picture", **BOLD)
    table = figures.lesion_rows(found).groupby("tier", sort=False).head(2)
    for k, column in enumerate(("lesion", "tier", "volume", "peak probability")):
        cells = "\n".join([column.split()[0], *table[column].astype(str)])
        words.text((7.6, 8.15, 9.15, 10.0)[k], 4.02, cells, **TEXT)
    board = Image.open(io.BytesIO(figures.png(figures.triage_board(case, found, most=2))))
    axes = panel(figure, 7.6, 5.0, 3.05, 3.05 * board.height / board.width)
    axes.imshow(board.convert("RGB").resize((488 * 2, 976 * board.height // board.width), Image.Resampling.LANCZOS), interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    write(figure, "flow", "x" * 20)


def arrow(words: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow between two places of the page."""
    words.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0})


def box(words: Axes, left: float, top: float, width: float, height: float, colour: str) -> None:
    """A filled box."""
    words.fill([left, left + width, left + width, left], [top, top, top + height, top + height], color=colour, lw=0)


if __name__ == "__main__":
    subject = choose()
    draw_triage(subject)
    draw_flow(subject)
