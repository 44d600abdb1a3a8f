"""One patient found and triaged, drawn for ``triage.png``: a slice, the earlier one, four lesions enlarged."""

from __future__ import annotations

import dataclasses
import textwrap

import numpy as np
from dmplus import figures
from dmplus.network import NetworkConfig
from dmplus.review import lies_there
from dmplus.triage import CANDIDATE, CONFIRMED, THRESHOLD, Triage, probability_words
from dmplus.volume import Case
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

GREY = "#555555"
SLAB = 15  # slices whose brightest voxel is shown
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
    slab: Case  #: the brightest of ``SLAB`` axial slices around each
    slab_found: Triage
    level: int  #: the axial slice of these that is shown
    config: NetworkConfig  #: of both networks
    losses: tuple[str, str]  #: that M_sens and M_spec were fine-tuned with, in words

    def tier(self, lesion: int) -> str:
        """Tier in words of a lesion in ``found``."""
        return str(self.found.lesions.set_index("lesion").loc[lesion, "tier"])


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


def tag(colour: str) -> dict[str, object]:
    """A coloured box behind a word in black."""
    return {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.2"}


def facts(who: Subject, inside: np.ndarray, true: bool) -> tuple[str, str, str]:
    """Name, tier and facts of a metastasis (``true``) or of a finding that is none, given its voxels (X, Y, Z)."""
    met = np.unique(who.found.labels[inside])
    rows = who.found.lesions[who.found.lesions["lesion"].isin(met)]
    number = " + ".join(str(k) for k in rows["lesion"]) + " " if len(rows) else ""
    tier = "missed" if rows.empty else "confirmed" if (rows["tier"] == "confirmed").any() else "candidate"
    area = inside if rows.empty else np.isin(who.found.labels, rows["lesion"])
    sensitive, specific = (probability_words(m[area].max()) for m in (who.found.prob_sens, who.found.prob_spec))
    peaks = f"{SENS} {sensitive}, {SPEC} {specific}"
    if true:
        name, volume = "metastasis", f"reference {figures.volume_words(inside.sum())}"
    else:
        name, volume = f"false: {lies_there(who.lookalikes, inside)}", ""
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
    others = who.found.lesions[who.found.lesions["lesion"].isin(who.false)]
    others = others.sort_values(["tier", "peak_probability"], ascending=False)
    return shown + [(who.found.labels == k, False) for k in others["lesion"].head(1)]


def draw_triage(who: Subject) -> Figure:
    """``triage.png``: one slice, the earlier one beside it, and four lesions enlarged with their facts in words."""
    case, found = who.case, who.found
    figure, words = page(10, 7.3)
    words.text(0.15, 0.15, finding(who).replace("; ", ";\n", 1), fontsize=15, fontweight="bold", va="top")
    whose = f"{case.name}: a patient who does not exist. Two networks with the shipped weights."
    words.text(0.15, 0.86, whose, fontsize=11)
    high, top = 3.3, 1.3
    wide = high * case.shape[0] / case.shape[1]
    views = (("current", f"Now (brightest of {SLAB} slices)"), ("prior", f"{who.weeks} weeks before"))
    for k, (image, title) in enumerate(views):
        axes = panel(figure, 0.15 + k * (wide + 0.1), top, wide, high)
        figures.draw_slice(axes, who.slab, who.slab_found, index=who.level, image=image)
        words.text(0.15 + k * (wide + 0.1), top - 0.08, title, fontsize=11, fontweight="bold")
        if image == "current":
            name_lesions(axes, who)
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
            scale = axes.text(0.03, 0.03, f"{edge} mm", color="white", fontsize=9, transform=axes.transAxes)
            scale.set_path_effects([withStroke(linewidth=2.5, foreground="black")])  # to be read on a white sinus
        colour = figures.TIER_LINES.get(tier.split()[-1], ("#CCCCCC",))[0]
        words.text(left + 0.05, top - 0.14, tier, fontsize=10.5, fontweight="bold", va="center", bbox=tag(colour))
        words.text(left, top + side + 0.08, title, fontsize=10.5, fontweight="bold", va="top")
        words.text(left, top + side + 0.28, text, fontsize=10, va="top", linespacing=1.3)
    return figure


def name_lesions(axes: Axes, who: Subject) -> None:
    """The number of each lesion in the slice shown, on the colour of its tier, at the corner with most room around it."""
    labels = figures.plane_of(who.slab_found.labels, "axial", who.level)
    places = {k: np.argwhere(labels == k).mean(0) for k in np.unique(labels[labels > 0])}
    taken = list(places.values())
    for lesion, at in places.items():
        corners = np.clip([at + (y, x) for x in (-9, 9) for y in (-7, 7)], 5, np.array(labels.shape) - 6)
        spot = max(corners, key=lambda c: min((np.hypot(*(c - t)) for t in taken if t is not at), default=0))
        taken.append(spot)
        axes.text(
            spot[1], spot[0], f"{lesion}", ha="center", va="center", fontsize=10, fontweight="bold",
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
    below = "Numbers as in the lesion table. Below: each\nlesion now and before, its peak probabilities."
    words.text(left, top + 2.72, below, fontsize=10.5, va="top")
    words.text(left, top + 3.3, "Research and teaching: not for clinical use.", fontsize=10.5, va="bottom", color=GREY)
