"""The measured part of ``data_cards/synthetic.md`` and its figure: ``python -m dmplus.synthetic_card``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus.figures import AXIS, PLANES, draw_sides, plane_of
from dmplus.runtime import InputError, replacing
from dmplus.synthetic import COHORTS, VERSION, CohortConfig, count, patient
from dmplus.synthetic_checks import TOY, BlobDetector, blob_detector, cases_of_test, measure

#: Patient of the whole-brain cohort in the card's figure.
FIGURE_PATIENT = 12
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


def _parts(card: Path) -> tuple[str, str]:
    """What stands before and after the measured part of the card."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if text.count(MARKS[0]) != 1 or text.count(MARKS[1]) != 1:
        raise InputError(
            f"card {card.name}: expected the lines {MARKS[0]} and {MARKS[1]} once; got others; restore them"
        )
    return text.split(MARKS[0])[0], text.split(MARKS[1])[1]


def main(argv: list[str] | None = None) -> int:
    """Measure the ``quick`` cohort and write the numbers (and the figure) into its card."""
    parser = argparse.ArgumentParser(prog="python -m dmplus.synthetic_card", description=main.__doc__)
    parser.add_argument("--card", default="data_cards/synthetic.md", help="card to rewrite between its two marks")
    parser.add_argument("--brains", type=int, default=20, help="whole brains to render (10 s each; default: 20)")
    parser.add_argument("--patients", type=int, default=3000, help="patients for the laws (default: 3000)")
    parser.add_argument("--lesions", type=int, default=1000, help="lesions to draw (default: 1000)")
    parser.add_argument("--test-patients", type=int, default=None, help="test patients for the blob detector (all)")
    given = parser.parse_args(argv)
    config, card = COHORTS["quick"], Path(given.card)
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
