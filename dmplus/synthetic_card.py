"""The measured part of ``data_cards/synthetic.md`` and its figures.

``python -m dmplus.synthetic_card`` measures and writes the numbers and ``synthetic.png``; with ``--real FILE`` it draws
``synthetic_and_real.png`` instead, a synthetic brain beside the real one of FILE, which is not part of dmplus.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus.figures import AXIS, PLANES, REFERENCE_LINE, draw_sides, plane_of
from dmplus.runtime import InputError, replacing
from dmplus.synthetic import COHORTS, VERSION, CohortConfig, count, patient
from dmplus.synthetic_checks import TOY, BlobDetector, blob_detector, cases_of_test, high_pass_energy, measure
from dmplus.volume import Case, read_case

#: Patient of the whole-brain cohort in the card's figure.
FIGURE_PATIENT = 12
#: The real brain of ``--real``.
REAL_SOURCE = (
    "Lesjak et al. 2017, Neuroinformatics, doi 10.1007/s12021-017-9348-7, CC BY: T1 with contrast agent of patient 07, "
    "multiple sclerosis, no metastases"
)
LEVELS = (0.30, 0.44, 0.60, 0.76)  #: axial slices of that figure, parts of the brain's height from below
SLAB = 0.36, 15  #: its projection: middle (part of the height) and thickness (mm)
SHARES = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])  #: of fluid, grey, white in a class
BRIGHT = 1.25  #: x white matter: brighter voxels are no tissue but vessels, sinuses, dura
#: The card is rewritten between these lines.
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


def as_markdown(table: pd.DataFrame, detector: BlobDetector, config: CohortConfig) -> str:
    """The measured part of the card."""

    def number(value: float) -> str:
        return "–" if not np.isfinite(value) else f"{value:.3g}"

    splits = count(config)
    lines = [
        f"Generator version {VERSION}, cohort `{config.name}`, seed {config.seed}.",
        "",
        "| split | patients | visits | visits with a prior |",
        "|---|---|---|---|",
        *(f"| {k} | {r.patients} | {r.visits} | {r.with_prior} ({r.with_prior / r.visits:.0%}) |"
          for k, r in splits.iterrows()),
        "",
        "| check | band | measured | n | |",
        "|---|---|---|---|---|",
        *(f"| {r.check} | {number(r.low)} to {number(r.high)} | {number(r.value)} "
          f"| {r.n} | {'inside' if r.ok else 'outside'} |" for r in table.itertuples()),
        "",
        "**Blob detector.** A multi-scale Laplacian of Gaussian, its scales, spacing, distance to the surface, least "
        f"intensity and threshold tuned on the very {detector.cases} test visits ({detector.lesions} lesions) it is "
        f"scored on, reaches a precision of **{detector.precision:.3f}** at a sensitivity of "
        f"{detector.sensitivity:.3f} ({detector.false_positives:.0f} false positives a visit; {detector.settings}). "
        "The cohort counts as a toy above 0.2.",
    ]  # fmt: skip
    return "\n".join(lines)


def figure(config: CohortConfig, index: int, path: str | Path) -> None:
    """Draw one patient at its last two visits: three planes through a lesion, and the brightest voxel from above."""
    import matplotlib.pyplot as plt

    two = patient(config, index).visits[-2:]
    if len(two) < 2:
        raise InputError(f"figure: expected a patient with two visits; got one for {index}; choose another patient")
    rows = two[-1].lesions
    largest = rows.loc[rows["volume_mm3"].idxmax()]
    x, y, z = (int(round(largest[k])) for k in "xyz")
    box = ndimage.find_objects(two[-1].case.mask.astype(np.uint8))[0]
    with plt.rc_context({"font.size": 11, "savefig.facecolor": "white"}):
        fig, axes = plt.subplots(2, 4, figsize=(11, 6.4), layout="constrained")
        for line, visit in zip(axes, two, strict=True):
            image, label, mask = visit.case.image, visit.case.label, visit.case.mask
            white = np.quantile(image[mask], 0.75)
            inner = image * ndimage.binary_erosion(mask, iterations=5)
            above = inner.max(2, keepdims=True), label.max(2, keepdims=True)
            views = {
                "axial": (image[:, :, [z]], label[:, :, [z]]),
                "coronal": (image[:, [y]], label[:, [y]]),
                "sagittal": (image[[x]], label[[x]]),
                "brightest from above": above,
            }
            for axis, (title, pair) in zip(line, views.items(), strict=True):
                plane = title if title in PLANES else "axial"
                inside = [box[a] if a != AXIS[plane] else slice(None) for a in range(3)]
                picture, lesion = (plane_of(volume[*inside], plane, 0) for volume in pair)
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1.9 * white)
                if lesion.any():
                    axis.contour(lesion, [0.5], colors="#E69F00", linewidths=1.2)
                draw_sides(axis, plane)
                axis.set(xticks=[], yticks=[])
                if visit is two[0]:
                    axis.set_title(title, fontsize=11)
            line[0].set_ylabel(f"day {visit.days}: {len(visit.lesions)} metastases")
        sides = "R patient's right, A front, S top"
        fig.suptitle(f"Synthetic patient, two visits; metastases outlined in orange; {sides}", fontsize=12)
        with replacing(path) as part:
            fig.savefig(part, dpi=90, pil_kwargs={"optimize": True})
        plt.close(fig)


# ------------------------------------------------------------------------------------------- beside a real brain
def white_level(image: np.ndarray, mask: np.ndarray) -> float:
    """Intensity of white matter: the upper large peak of the histogram of the inner brain; image (X, Y, Z), 1 mm."""
    inner = ndimage.gaussian_filter(image, 0.7)[ndimage.binary_erosion(mask, iterations=5)]
    counts, edges = np.histogram(inner, 200, (0, 2 * np.median(inner)))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2)
    peaks = (smooth == ndimage.maximum_filter1d(smooth, 5)) & (smooth > 0.5 * smooth.max())
    return float((edges[:-1] + edges[1:])[np.flatnonzero(peaks)[-1]] / 2)


def tissues(
    image: np.ndarray, mask: np.ndarray, *, bias_mm: float = 20, steps: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of fluid, grey and white matter (3, X, Y, Z) by intensity alone, and the image without its bias field.

    Expectation maximisation of five Gaussians of one width: the three tissues and, half-way between two of them, voxels
    that hold both, under a smooth field (Gaussian, sigma ``bias_mm``). The classes' sizes are given, or the broad grey
    would swallow its neighbours; a voxel's prior is that size times the root of what its neighbours are, which keeps noise
    out of the maps. Outside the mask and above ``BRIGHT`` all shares are 0.
    """
    white = white_level(image, mask)
    mask = mask & (image < BRIGHT * white)
    mean, sd, field, around = np.array([0.2, 0.8, 1.0]) * white, 0.07 * white, np.ones_like(image), 1.0
    size = np.array([[0.05, 0.1, 0.4, 0.2, 0.25]]).T
    reach = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)[mask]

    def filled(values: np.ndarray) -> np.ndarray:
        volume = np.zeros(mask.shape, np.float32)
        volume[mask] = values
        return volume

    for _ in range(steps):
        value = (image / field)[mask]
        chance = size * around * np.exp(-0.5 * np.square((value - (SHARES @ mean)[:, None]) / sd)) + 1e-12
        chance /= chance.sum(0)  # (5, voxels)
        pure = chance[::2]
        mean = (pure @ value) / pure.sum(1)
        sd = np.sqrt((pure * np.square(value - mean[:, None]))[1:].sum() / pure[1:].sum())  # fluid is too uneven
        around = np.stack([ndimage.gaussian_filter(filled(c), 1.0)[mask] / reach for c in chance]) ** 0.5 + 0.02
        # The field: by how much grey and white matter are too bright or too dark, smoothed.
        weight = chance[2] + chance[4]
        excess = weight * (image[mask] / (SHARES @ mean @ chance) - 1)
        part, whole = (
            ndimage.gaussian_filter(filled(a)[::3, ::3, ::3], bias_mm / 3, truncate=3) for a in (excess, weight)
        )
        field = ndimage.zoom(1 + part / (whole + 1e-3), 3, order=1, grid_mode=True, mode="nearest")
        field = field[tuple(slice(n) for n in mask.shape)]
        field /= field[mask].mean()
    return np.stack([filled(c) for c in SHARES.T @ chance]), image / field


def appearance(case: Case) -> dict[str, float]:
    """What can be measured on one contrast-enhanced T1 without a label of its tissues, the same way on any brain.

    Tissue levels are medians over voxels whose six neighbours are of the same tissue (:func:`tissues`). Lesions of the
    case's label, with 3 mm around them, are not counted as bright.
    """
    maps, image = tissues(case.image, case.mask)
    core = [ndimage.binary_erosion(m > 0.5) for m in maps]
    inner = ndimage.binary_erosion(case.mask, iterations=5)
    fluid, grey, white = (float(np.median(image[c])) for c in (core[0] & inner, *core[1:]))
    bright = inner & (image > BRIGHT * white)
    if case.label is not None:
        bright &= ~ndimage.binary_dilation(case.label > 0, iterations=3)
    return {
        "high-pass energy": high_pass_energy(case.image),
        "grey / white matter": grey / white,
        "fluid / white matter": fluid / white,
        f"above {BRIGHT} x white, ml/litre": float(1e3 * bright.sum() / inner.sum()),
    }


def real_figure(real: Case, made: Case, path: str | Path, *, source: str = REAL_SOURCE) -> dict[str, list[float]]:
    """Draw a real brain above a synthetic one: four axial levels, the brightest voxel of a slab, and what is measured.

    Both in the same intensity window relative to white matter. Returns the numbers: measure → [real, synthetic].
    """
    import matplotlib.pyplot as plt

    rows = {f"real: {real.name}": real, f"synthetic: {made.name}": made}
    numbers = [appearance(case) for case in rows.values()]
    colours = ("#595959", "#0072B2")
    with plt.rc_context({"font.size": 11, "savefig.facecolor": "white"}):
        fig = plt.figure(figsize=(13, 8.6), layout="constrained")
        fig.get_layout_engine().set(h_pad=0.02, hspace=0)
        pictures, bars = fig.subfigures(2, 1, height_ratios=(6.6, 1.4))
        for line, (title, case) in zip(pictures.subplots(2, 5), rows.items(), strict=True):
            white = white_level(case.image, case.mask)
            box = ndimage.find_objects(case.mask.astype(np.uint8))[0]
            image, mask = case.image[box], case.mask[box]
            label = np.zeros_like(mask) if case.label is None else case.label[box] > 0
            first = round(SLAB[0] * image.shape[2] - SLAB[1] / 2)
            slab = slice(first, first + SLAB[1])
            views = [(image[:, :, [int(h * image.shape[2])]], label[:, :, [int(h * image.shape[2])]]) for h in LEVELS]
            views.append((image[:, :, slab].max(2, keepdims=True), label[:, :, slab].max(2, keepdims=True)))
            names = [f"axial, {h:.0%} of the height" for h in LEVELS] + [
                f"brightest of {SLAB[1]} mm around {SLAB[0]:.0%}"
            ]
            for axis, name, pair in zip(line, names, views, strict=True):
                picture, lesion = (plane_of(volume, "axial", 0) for volume in pair)
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1.9 * white)
                if lesion.any():
                    axis.contour(lesion, [0.5], colors=REFERENCE_LINE[0], linewidths=1.2)
                draw_sides(axis, "axial")
                axis.set(xticks=[], yticks=[])
                if case is real:
                    axis.set_title(name, fontsize=10)
            line[0].set_ylabel(title)
        for axis, name in zip(bars.subplots(1, len(numbers[0])), numbers[0], strict=True):
            values = [measured[name] for measured in numbers]
            drawn = axis.barh(["real", "synthetic"], values, color=colours)
            axis.bar_label(drawn, fmt="%.3g", padding=3)
            axis.set(xlim=(0, 1.35 * max(values)), xticks=[])
            axis.set_title(name, fontsize=10)
            axis.invert_yaxis()
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        fig.suptitle(
            "A real and a synthetic brain, grey from 0 to 1.9 x white matter; metastases outlined", fontsize=12
        )
        bars.supxlabel(
            f"Real: {source}.\nSynthetic: patient of the cohort gpu. One brain each, measured in the same way by "
            "intensity alone. R patient's right, A front.", fontsize=9,
        )  # fmt: skip
        with replacing(path) as part:
            fig.savefig(part, dpi=90, pil_kwargs={"optimize": True})
        plt.close(fig)
    return {name: [measured[name] for measured in numbers] for name in numbers[0]}


def _parts(card: Path) -> tuple[str, str]:
    """What stands before and after the measured part of the card."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if text.count(MARKS[0]) != 1 or text.count(MARKS[1]) != 1:
        raise InputError(
            f"card {card.name}: expected the lines {MARKS[0]} and {MARKS[1]} once; got others; restore them"
        )
    return text.split(MARKS[0])[0], text.split(MARKS[1])[1]


def main(argv: list[str] | None = None) -> int:
    """Measure the ``quick`` cohort and write the numbers (and the figure) into its card; --real: the other figure."""
    parser = argparse.ArgumentParser(prog="python -m dmplus.synthetic_card", description=main.__doc__)
    parser.add_argument("--card", default="data_cards/synthetic.md", help="card to rewrite between its two marks")
    parser.add_argument("--brains", type=int, default=20, help="whole brains to render (10 s each; default: 20)")
    parser.add_argument("--patients", type=int, default=3000, help="patients for the laws (default: 3000)")
    parser.add_argument("--lesions", type=int, default=1000, help="lesions to draw (default: 1000)")
    parser.add_argument("--test-patients", type=int, default=None, help="test patients for the blob detector (all)")
    parser.add_argument(
        "--real", metavar="FILE", help="only draw synthetic_and_real.png beside the card: T1POST.nii.gz of patient 07 of "
        "Lesjak et al. 2017 (stripped)"
    )  # fmt: skip
    given = parser.parse_args(argv)
    config, card = COHORTS["quick"], Path(given.card)
    if given.real:
        real = read_case(given.real)[0]
        made = patient(COHORTS["gpu"], FIGURE_PATIENT).visits[-1].case
        for name, pair in real_figure(real, made, card.with_name("synthetic_and_real.png")).items():
            print(f"{name}: real {pair[0]:.3g}, synthetic {pair[1]:.3g}")
        return 0
    _parts(card)  # refuse before the minutes of work, not after
    table = measure(config, patients=given.patients, brains=given.brains, lesions=given.lesions)
    detector = blob_detector(cases_of_test(config, given.test_patients))
    measured = as_markdown(table, detector, config)
    head, tail = _parts(card)
    with replacing(card) as part:
        part.write_text(f"{head}{MARKS[0]}\n{measured}\n{MARKS[1]}{tail}", encoding="utf-8")
    figure(COHORTS["gpu"], FIGURE_PATIENT, card.with_name("synthetic.png"))
    print(measured)
    return 0 if table["ok"].all() and detector.precision <= TOY else 1


if __name__ == "__main__":
    raise SystemExit(main())
