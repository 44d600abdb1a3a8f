"""How a synthetic cohort compares with published statistics, and how far a simple blob detector gets on it.

``python -m dmplus.synthetic_card`` measures everything and writes it into the card ``data_cards/synthetic.md``.
Definitions (enhancing blobs, high-pass energy) are those that were used on real contrast-enhanced brains.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus.runtime import InputError, Progress, rng
from dmplus.synthetic import COHORTS, CohortConfig, Visit, patient, schedule, split_of
from dmplus.synthetic_lesions import Metastasis, Shape, courses, draw_shape, grow, size_law
from dmplus.volume import Case

#: Accepted ranges: (check, low, high). The text says what is measured; both ends belong to the range.
BANDS: tuple[tuple[str, float, float], ...] = (
    ("share of lesions below 0.1 cm3", 0.41, 0.48),
    ("lesions per exam, mean", 2.4, 2.8),
    ("smallest lesion, voxels", 3, np.inf),
    ("necrosis, lesions < 0.1 cm3", 0.0, 0.15),
    ("necrosis, 0.1-0.5 cm3", 0.25, 0.45),
    ("necrosis, 0.5-1 cm3", 0.62, 0.82),
    ("necrosis, 1-5 cm3", 0.83, 1.0),
    ("necrosis, > 5 cm3", 0.90, 1.0),
    ("largest / equivalent diameter, median", 1.2, 1.4),
    ("untreated growing, ln ratio per 70 d, median", 0.3, 0.5),
    ("untreated growing, share that grows", 0.70, 0.85),
    ("responding, volume at 6 months / baseline, median", 0.0, 0.4),
    ("grey / white matter, median", 0.72, 0.80),
    ("fluid / white matter, median", 0.22, 0.32),
    ("lesion / white matter after the point spread, median", 1.25, 1.55),
    ("vessels / median lesion", 1.0, np.inf),
    ("enhancing blobs per brain, metastases left out, mean", 30, 60),
    ("high-pass energy, mean", 0.09, 0.15),
    ("white matter SNR, smallest", 20, np.inf),
    ("left-right mirror correlation, largest", -1.0, 0.95),
)


# ------------------------------------------------------------------------------------------------ measured on one volume
def enhancing_blobs(enhanced: np.ndarray, bare: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Enhancing blobs of 10 voxels or more in the inner brain, and enhancing voxels there; volumes (X, Y, Z), 1 mm.

    Both volumes are brought to median 0 and median absolute deviation 1 / 1.4826; enhancing = more than 2 apart, 5
    voxels or more below the surface; 6-connected. Three real brains without metastases: 52, 31, 58 blobs.
    """
    mask = mask.astype(bool)

    def robust(x: np.ndarray) -> np.ndarray:
        middle = np.median(x[mask])
        return (x - middle) / (1.4826 * np.median(np.abs(x[mask] - middle)))

    found = (robust(enhanced) - robust(bare) > 2) & ndimage.binary_erosion(mask, iterations=5)
    labels, _ = ndimage.label(found)
    return int((np.bincount(labels.ravel())[1:] >= 10).sum()), int(found.sum())


def high_pass_energy(image: np.ndarray) -> float:
    """Sharpness: sd of what a Gaussian of 1 voxel removes, relative to the 5-95 % range, inside the brain.

    image (X, Y, Z), stripped, 1 mm. Real contrast-enhanced T1: 0.09-0.15; bare templates 0.06-0.08.
    """
    inner = ndimage.binary_erosion(image > np.percentile(image[image > 0], 5), iterations=6)
    values = image[inner]
    spread = np.percentile(values, 95) - np.percentile(values, 5)
    return float(((image - ndimage.gaussian_filter(image, 1.0))[inner] / spread).std())


def mirror_correlation(image: np.ndarray, mask: np.ndarray) -> float:
    """Correlation of the brain with its left-right mirror image, at the best of all mirror planes within 8 voxels."""
    columns = np.flatnonzero(mask.any((1, 2)))
    middle = int(columns[0] + columns[-1])
    best = -1.0
    for twice in range(middle - 16, middle + 17):
        low, high = max(0, twice - image.shape[0] + 1), min(image.shape[0] - 1, twice)
        part, other = image[low : high + 1], image[low : high + 1][::-1]
        both = mask[low : high + 1] & mask[low : high + 1][::-1]
        if both.sum() > 0.5 * mask.sum():
            best = max(best, float(np.corrcoef(part[both], other[both])[0, 1]))
    return best


def diameter_ratio(shape: Shape, points: int = 600) -> float:
    """Largest diameter / diameter of the sphere of equal volume."""
    k = np.arange(points) + 0.5  # directions on a Fibonacci spiral
    polar, turn = np.arccos(1 - 2 * k / points), np.pi * (1 + 5**0.5) * k
    unit = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], 1)
    bumps = np.exp((np.cos(unit @ shape.waves.T + shape.phases) * shape.heights).sum(1))
    surface = (unit * bumps[:, None] * shape.axes) @ shape.turn.T
    largest = np.sqrt(((surface[:, None] - surface[None]) ** 2).sum(-1).max())
    return float(largest / (2 * np.mean(bumps**3) ** (1 / 3)))


# ------------------------------------------------------------------------------------------------------ the acceptance
def laws(config: CohortConfig, patients: int) -> pd.DataFrame:
    """Lesions of many patients without an image: the table of ``courses`` with patient, day, listed (bool)."""
    many = dataclasses.replace(config, patients=patients, split=(1, 0, 0))
    tables = []
    for index in range(patients):
        days, before = schedule(many, index)
        table = courses(many, rng(many.seed, "courses", index), days)
        tables.append(table.assign(patient=index, day=days[table["visit"]], listed=table["visit"] >= int(before)))
    return pd.concat(tables, ignore_index=True)


def response_at(config: CohortConfig, patients: int, *, days: float = 182) -> np.ndarray:
    """Volume of lesions that respond to treatment after ``days``, relative to their first; 0 = vanished."""
    treated = dataclasses.replace(
        config, course_share=(0, 0, 1), pseudo_share=0.0, new_lesions=0.0, seed=config.seed + 1
    )  # fmt: skip
    steps = round(days / float(np.mean(config.interval_days)))
    at = np.linspace(0, days, steps + 1)
    ratios = []
    for index in range(patients):
        table = courses(treated, rng(treated.seed, "courses", index), at)
        first = table[table["visit"] == 0].set_index("lesion")["volume_cm3"]
        last = table[table["visit"] == steps].set_index("lesion")["volume_cm3"].reindex(first.index, fill_value=0.0)
        ratios.append((last / first).to_numpy())
    return np.concatenate(ratios)


def law_rows(config: CohortConfig, patients: int = 1500) -> dict[str, tuple[float, int]]:
    """Checks that need no image: check → (value, n)."""
    table = laws(config, patients)
    listed = table[table["listed"]]
    exams = sum(len(d) - b for d, b in (
        schedule(dataclasses.replace(config, patients=patients, split=(1, 0, 0)), i) for i in range(patients)
    ))  # fmt: skip
    grown = table[table["state"] == "growing"].copy()
    before = table[["patient", "lesion", "visit", "day"]].assign(visit=table["visit"] + 1)
    grown = grown.merge(before, on=["patient", "lesion", "visit"], suffixes=("", "_before"))
    rate = np.log(grown["volume_cm3"] / grown["previous_cm3"]) * 70 / (grown["day"] - grown["day_before"])
    random = rng(config.seed, "shapes")
    shapes = [diameter_ratio(draw_shape(random, config.elongation, config.irregularity)) for _ in range(300)]
    response = response_at(config, min(patients, 400))
    return {
        "share of lesions below 0.1 cm3": (float((listed["volume_cm3"] < 0.1).mean()), len(listed)),
        "lesions per exam, mean": (len(listed) / exams, exams),
        "largest / equivalent diameter, median": (float(np.median(shapes)), len(shapes)),
        "untreated growing, ln ratio per 70 d, median": (float(rate.median()), len(rate)),
        "untreated growing, share that grows": (float((rate > 0).mean()), len(rate)),
        "responding, volume at 6 months / baseline, median": (float(np.median(response)), len(response)),
    }


def body_rows(config: CohortConfig, lesions: int = 600) -> dict[str, tuple[float, int]]:
    """Checks of drawn lesions (size law, shape, core) in plain tissue, without a patient: check → (value, n)."""
    random = rng(config.seed, "bodies")
    # As many lesions of each bin of necrosis, so that each share is known equally well.
    edges = (config.volume_cm3[0], *config.necrosis_edges_cm3, 20.0)
    cored: list[list[bool]] = [[] for _ in edges[:-1]]
    smallest = np.inf
    for number in range(lesions):
        which = number % len(cored)
        volume = float(size_law(config, random, 1, (edges[which], edges[which + 1]))[0])
        half = int(np.ceil(2.5 * (volume * 240) ** (1 / 3))) + 5
        tissue = np.full((2 * half,) * 3, 0.88, np.float32)
        lesion = Metastasis(
            lesion=number, centre=half + random.uniform(-0.5, 0.5, 3), level=1.4, core_level=0.6,
            core_rank=(number // len(cored) + 0.5) * 0.6180339887498949 % 1, oedema_mm=0.0,  # spread evenly
            rim_mm=float(config.rim_mm[0] * np.exp(random.normal(0, config.rim_mm[1]))),
        )  # fmt: skip
        drawn = grow(config, 0, lesion, volume, np.ones(tissue.shape, bool), tissue)
        cored[which].append(bool((drawn.label & ~drawn.solid).any()))
        smallest = min(smallest, int(drawn.label.sum()))
    names = [name for name, _, _ in BANDS if name.startswith("necrosis")]
    found = {name: (float(np.mean(part)), len(part)) for name, part in zip(names, cored, strict=True)}
    return {"smallest lesion, voxels": (smallest, lesions), **found}


def image_rows(visits: Iterable[Visit], config: CohortConfig) -> dict[str, tuple[float, int]]:
    """Checks on rendered visits that hold ``bare``, ``clean`` and ``tissues``: check → (value, n)."""
    grey, fluid, lesion, vessel, blobs, sharp, mirror = [], [], [], [], [], [], []
    for visit in visits:
        clean, mask, (gm, wm) = visit.clean, visit.case.mask, visit.tissues  # type: ignore[misc]
        plain = mask & (visit.lookalikes == 0) & (visit.numbers == 0)
        white = np.median(clean[plain & (wm > 0.95)])
        inner = ndimage.binary_erosion(mask, iterations=5)
        grey.append(np.median(clean[plain & (gm > 0.95)]) / white)
        fluid.append(np.median(clean[plain & inner & (gm + wm < 0.05)]) / white)
        for number in visit.lesions["lesion"]:
            own = visit.numbers == number
            bright = clean[own]
            # The necrotic core is not part of the enhancing tissue: left out below 0.8 of white matter.
            lesion.append(np.median(bright[bright > 0.8 * white] if (bright > 0.8 * white).any() else bright) / white)
        vessel.append(np.median(clean[(visit.lookalikes == 1) | (visit.lookalikes == 2)]) / white)
        # The band was measured on brains without metastases: ours are taken out before counting.
        near = ndimage.binary_dilation(visit.numbers > 0, iterations=3)
        blobs.append(enhancing_blobs(np.where(near, visit.bare, visit.case.image), visit.bare, mask)[0])
        sharp.append(high_pass_energy(visit.case.image))
        mirror.append(mirror_correlation(visit.case.image, mask))
    n = len(grey)
    return {
        "grey / white matter, median": (float(np.median(grey)), n),
        "fluid / white matter, median": (float(np.median(fluid)), n),
        "lesion / white matter after the point spread, median": (float(np.median(lesion)), len(lesion)),
        "vessels / median lesion": (float(np.median(vessel) / np.median(lesion)), n),
        "enhancing blobs per brain, metastases left out, mean": (float(np.mean(blobs)), n),
        "high-pass energy, mean": (float(np.mean(sharp)), n),
        "white matter SNR, smallest": (config.snr[0], n),
        "left-right mirror correlation, largest": (float(np.max(mirror)), n),
    }


def table_of(rows: dict[str, tuple[float, int]]) -> pd.DataFrame:
    """The checks beside their bands: columns check, low, high, value, n, ok."""
    found = [(name, low, high, *rows[name], low <= rows[name][0] <= high) for name, low, high in BANDS if name in rows]
    return pd.DataFrame(found, columns=["check", "low", "high", "value", "n", "ok"])


def measure(config: CohortConfig, *, patients: int, brains: int, lesions: int) -> pd.DataFrame:
    """All checks: laws on ``patients`` patients, shapes on ``lesions`` lesions, images on ``brains`` whole brains."""
    whole = dataclasses.replace(
        config, shape=COHORTS["gpu"].shape, visits=(1.0,), prior_share_train=0.0, patients=brains, split=(1, 0, 0)
    )  # fmt: skip
    shown = Progress(brains, "whole brains")

    def visits() -> Iterable[Visit]:
        for index in range(brains):
            yield patient(whole, index, without_contrast=True, clean=True).visits[0]
            shown.step()

    return table_of(law_rows(config, patients) | body_rows(config, lesions) | image_rows(visits(), whole))


# -------------------------------------------------------------------------------------------------- the blob detector
SIGMAS = (0.8, 1.1, 1.5, 2.1, 3.0, 4.2)  #: scales of the detector, voxels
#: Precision of the tuned blob detector above which a cohort is a toy.
TOY = 0.2


@dataclasses.dataclass(frozen=True)
class BlobDetector:
    """Best operating point of a Laplacian-of-Gaussian detector that was tuned on the very cases it is scored on."""

    precision: float
    sensitivity: float
    false_positives: float  #: per volume
    cases: int
    lesions: int
    settings: str  #: scales, distance to the surface, least intensity and spacing chosen


def blob_detector(cases: Iterable[Case], *, sensitivity: float = 0.85, reach: int = 2) -> BlobDetector:
    """Tune and score a multi-scale Laplacian-of-Gaussian detector of bright blobs inside the brain mask.

    Scales, spacing of candidates, distance to the brain's surface, least intensity and the threshold are chosen for
    the best precision at ``sensitivity`` or more, on the cases themselves. A candidate counts when its centre lies
    within ``reach`` voxels of a lesion; further candidates on the same lesion count neither way. Raises ``InputError``
    without a lesion.
    """
    groups = {"0.8-4.2": slice(0, 6), "0.8-2.1": slice(0, 4), "1.1-3.0": slice(1, 5), "1.5-4.2": slice(2, 6)}
    rows: dict[tuple[str, int], list[np.ndarray]] = {}
    lesions = number = 0
    ball = ndimage.distance_transform_edt(np.pad([[[0]]], reach, constant_values=1)) <= reach
    for number, case in enumerate(cases, start=1):  # noqa: B007
        image = case.normalised().image
        labels, n = ndimage.label(case.label, np.ones((3, 3, 3)))
        near = ndimage.grey_dilation(labels, footprint=ball)
        depth = ndimage.distance_transform_edt(np.pad(case.mask, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
        image = np.where(case.mask, image, np.median(image[case.mask]))  # no edge at the brain's border
        response = np.stack([-(s**2) * ndimage.gaussian_laplace(image, s, truncate=3) for s in SIGMAS])
        smooth = ndimage.gaussian_filter(image, 0.8)
        for name, part in groups.items():
            score = response[part].max(0)
            for spacing in (1, 3):
                peak = (score == ndimage.maximum_filter(score, 2 * spacing + 1)) & case.mask & (score > 0)
                at = np.flatnonzero(peak)
                at = at[np.argsort(-score.ravel()[at], kind="stable")[:6000]]
                hit = near.ravel()[at]
                columns = (score.ravel()[at], np.where(hit > 0, hit + lesions, 0), depth.ravel()[at],
                           smooth.ravel()[at], np.full(len(at), number))  # fmt: skip
                rows.setdefault((name, spacing), []).append(np.stack(columns, 1))
        lesions += n
    if not lesions:
        raise InputError("blob_detector: expected cases with at least one lesion; got none; pass labelled cases")
    best = BlobDetector(0.0, 0.0, np.inf, number, lesions, "none reaches the sensitivity")
    for (name, spacing), parts in rows.items():
        found = np.concatenate(parts)
        for surface, bright in itertools.product((0, 2, 4, 6), (-10.0, 0.5, 1.0, 1.5)):
            kept = found[(found[:, 2] > surface) & (found[:, 3] > bright)]
            kept = kept[np.argsort(-kept[:, 0], kind="stable")]
            hit = kept[:, 1] > 0
            first = np.zeros(len(kept), bool)
            first[np.unique(np.where(hit, kept[:, 1], -1), return_index=True)[1]] = True
            true, false = np.cumsum(first & hit), np.cumsum(~hit)
            enough = true >= sensitivity * lesions
            if not enough.any():
                continue
            precision = np.where(enough, true / np.maximum(true + false, 1), 0)
            k = int(precision.argmax())
            if precision[k] > best.precision:
                text = (
                    f"sigma {name} voxels, peaks {spacing} voxels apart, {surface} mm below the surface, z > {bright:g}"
                )
                best = BlobDetector(
                    float(precision[k]), float(true[k] / lesions), float(false[k] / number), number, lesions, text
                )
    return best


def cases_of_test(config: CohortConfig, most: int | None = None) -> Iterable[Case]:
    """The cases of the cohort's test patients (of the first ``most`` of them), one after the other."""
    chosen = [i for i in range(config.patients) if split_of(config, i) == "test"][:most]
    shown = Progress(len(chosen), "test patients")
    for index in chosen:
        yield from (visit.case for visit in patient(config, index).visits)
        shown.step()
