"""Metastases implanted into a real scan that holds none: how do models do on anatomy that nobody simulated?

``python -m dmplus.implants SCAN -o FOLDER`` (:mod:`dmplus.implant_trial`). Nothing here is shared with the synthetic
cohort that the models were trained on: an implant is a level set of a few overlapping blobs, as bright as the white
matter around it makes it, and keeps the scan's own noise. It has no oedema and displaces nothing: read results as a
check of transfer to real anatomy, not as a model's sensitivity in patients.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from dmplus import runtime
from dmplus.metrics import label_lesions
from dmplus.runtime import InputError, rng

FINE = 3  #: sub-voxels along each edge: partial volume
BLUR = (0.5, 0.9)  #: standard deviation (voxels) of scanner's blur and soft margin together: 1.2 to 2.1 mm FWHM
BRIGHT = 1.25  #: from this multiple of local white matter on, tissue is a vessel or another bright structure
GAP = 2.0  #: least distance in voxels of an implant from bright structures and from the brain's surface
APART = 8.0  #: least distance in voxels of two implants
RING = ((100, 0.05), (500, 0.35), (1000, 0.72), (np.inf, 0.93))  #: up to so many mm³, this share has a dark core
COLUMNS = ("id", "volume_mm3", "drawn_mm3", "contrast", "white_matter", "core_share", "x", "y", "z")


# ------------------------------------------------------------------------------------------- what the scan tells
@dataclasses.dataclass(frozen=True, eq=False)
class Tissue:
    """What the intensities of a scan tell; arrays are (X, Y, Z)."""

    white: np.ndarray  #: float32, white matter's intensity around each voxel, in the image's unit
    junction: np.ndarray  #: bool, where grey and white matter meet within 20 mm of the surface
    clearance: np.ndarray  #: voxels to the next bright structure or the brain's surface; 0 in and beyond them
    noise: float  #: standard deviation of the white matter's fine texture


def tissue(image: np.ndarray, mask: np.ndarray) -> Tissue:
    """Read off a contrast-enhanced T1 brain where its tissues are: image (X, Y, Z) in any unit, mask bool, 1 mm voxels.

    Three classes (Otsu) of the smoothed brain are taken for fluid, grey and white matter. Raises InputError for an empty
    mask, one of another shape, and where no white matter shows (a constant image among others).
    """
    if image.ndim != 3 or mask.shape != image.shape or not mask.any():
        raise InputError(
            f"implant: expected (X, Y, Z) and a brain mask of that shape that is not empty; got {image.shape} and "
            f"{mask.shape} with {np.count_nonzero(mask)} voxels; pass scan and mask on one 1 mm grid"
        )
    smooth = lowpass(image, mask, 0.7)
    lowest, highest = np.percentile(smooth[mask], [0.5, 99])
    counts, edges = np.histogram(smooth[mask], 100, (lowest, max(highest, lowest + 1e-6)))
    n, total = (np.cumsum(np.append(0, c)) for c in (counts, counts * (edges[:-1] + edges[1:]) / 2))
    low, high = np.triu_indices(99, 1)  # classes up to bin low, up to bin high, and above
    parts = ((n[low + 1], total[low + 1]), (n[high + 1] - n[low + 1], total[high + 1] - total[low + 1]))
    parts += ((n[-1] - n[high + 1], total[-1] - total[high + 1]),)
    best = np.argmax(sum(t**2 / np.maximum(k, 1) for k, t in parts))
    fluid, grey = edges[low[best] + 1], edges[high[best] + 1]

    depth = ndimage.distance_transform_edt(mask)
    white = mask & (smooth > grey) & (depth > 2)
    white &= smooth < 1.15 * (np.median(smooth[white]) if white.any() else 0)
    if np.count_nonzero(white) < 0.05 * np.count_nonzero(mask):
        raise InputError(
            f"implant: expected white matter, the brightest large tissue; found {np.count_nonzero(white)} such voxels; "
            "pass a contrast-enhanced T1 scan"
        )
    level = lowpass(image, white, 15.0)
    # a mixture of grey and white matter around, hardly any fluid: neither a ventricle's wall nor the depth of white matter
    inside, share = mask & (smooth > fluid), {}
    for name, part in (("white", white), ("grey", inside & (smooth <= grey)), ("fluid", mask & (smooth <= fluid))):
        share[name] = ndimage.uniform_filter(part.astype(np.float32), 7)
    junction = (share["white"] > 0.3) & (share["grey"] > 0.25) & (share["fluid"] < 0.15) & inside & (depth < 20)
    bright, _ = label_lesions(mask & (smooth > BRIGHT * level))
    large = np.bincount(bright.ravel()) >= 4  # fewer voxels are noise
    clearance = ndimage.distance_transform_edt(mask & ~(large[bright] & (bright > 0)))
    texture = (image - lowpass(image, mask, 1.5))[white]
    return Tissue(level, junction, clearance, 1.4826 * float(np.median(np.abs(texture))))


def lowpass(image: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean (X, Y, Z) over the voxels of ``mask`` alone, ``sigma`` in voxels; 0 where none is near.

    >>> lowpass(np.full((3, 3, 3), 5.0), np.ones((3, 3, 3), bool), 1.0)[0, 0, 0].round(3)
    np.float32(5.0)
    """
    above, below = (
        ndimage.gaussian_filter(a.astype(np.float32), sigma, mode="constant", truncate=3.0)
        for a in (np.where(mask, image, 0), mask)
    )
    return np.where(below > 1e-4, above / np.maximum(below, 1e-4), 0).astype(np.float32)


# ------------------------------------------------------------------------------------------------- one implant
def shape(volume_mm3: float, *, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Label (bool), coverage and core (0..1, blurred), each (N, N, N) of 1 mm voxels, N odd, and the core's share.

    The form: a level set of the sum of 4 to 8 Gaussian blobs, at the level that encloses ``volume_mm3``, in one piece.
    The core, where there is one, is a level set of a sum with other weights. Label: the voxels of highest coverage.
    Raises InputError for a volume that is not positive.
    """
    if not volume_mm3 > 0:
        raise InputError(f"implant: expected a volume above 0 mm3; got {volume_mm3:g}; choose one from 10 to 5000")
    radius = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)
    edge = 2 * int(np.ceil(2 * radius + 3)) + 1
    draw = rng(seed, "implant kind", index)
    blur = draw.uniform(*BLUR)
    share = float(np.clip(np.exp(draw.normal(np.log(0.1), 0.8)), 0.03, 0.45))
    share *= draw.random() < next(chance for top, chance in RING if volume_mm3 < top)

    def voxels(fine: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(fine.reshape(edge, FINE, edge, FINE, edge, FINE).mean((1, 3, 5)), blur)

    axis = (np.arange(edge * FINE) + 0.5) / FINE - edge / 2
    for attempt in range(100):
        draw = rng(seed, "implant shape", index, attempt)
        field, inner = np.zeros((2, *(edge * FINE,) * 3), np.float32)
        shift = draw.uniform(-0.5, 0.5, 3)
        for _ in range(draw.integers(4, 9)):
            centre, width = shift + draw.normal(0, 0.5 * radius, 3), radius * draw.uniform(0.35, 0.65)
            x, y, z = (np.exp(-((axis - c) ** 2) / (2 * width**2)).astype(np.float32) for c in centre)
            blob = x[:, None, None] * y[:, None] * z
            field += blob
            inner += blob * draw.uniform(0.2, 1)
        body = field >= _level(field, volume_mm3 * FINE**3)
        cover = voxels(body)
        label = cover >= _level(cover, volume_mm3)
        whole = label_lesions(label)[1] == 1 == ndimage.label(body)[1]
        if whole and not any(body.take((0, -1), a).any() for a in range(3)):
            break
    else:
        raise InputError(f"implant: expected a shape in one piece; got none of {volume_mm3:g} mm3; choose another seed")
    core = body & (inner >= _level(np.where(body, inner, 0), share * body.sum())) if share else np.zeros_like(body)
    return label, cover, voxels(core), share


def _level(field: np.ndarray, voxels: float) -> np.float32:
    """The value that the ``voxels`` largest elements of the field reach."""
    k = field.size - max(1, round(float(voxels)))
    return np.partition(field.ravel(), k)[k]


# ------------------------------------------------------------------------------------------------- a whole scan
def implant(
    image: np.ndarray, mask: np.ndarray, *, count: int, seed: int, seen: Tissue | None = None
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Implant ``count`` metastases into a scan: (image float32, labels int32, table), arrays (X, Y, Z) of 1 mm voxels.

    image in any unit, mask bool (X, Y, Z); ``seen``: :func:`tissue` of the two, to spare its seconds. Sizes:
    ln V[cm³] ~ N(−2.1, 1.8²) within 0.01 to 5. Contrast: mean intensity of the enhancing voxels of the label, after
    blurring, over that of the white matter around: log-normal (mean 1.4, sd 0.35), at least 1.1. A core has 0.5 to 0.75.
    Within an implant the coarse anatomy is replaced; the scan's fine texture stays, up to 3 sd of its noise.

    Labels are numbered as :func:`dmplus.metrics.label_lesions` numbers them. Table, a row per label: id, volume_mm3
    (of the label), drawn_mm3, contrast, white_matter (unit of the image), core_share, x, y, z (centre in voxels). Equal
    arguments give equal results; ``count=0`` gives the scan, zeros and no rows. Raises InputError for a negative count,
    as :func:`tissue`, and where there is no room.
    """
    if count < 0:
        raise InputError(f"implant: expected a count from 0 on; got {count}; choose how many metastases to implant")
    seen = seen or tissue(image, mask)
    out, labels = image.astype(np.float32), np.zeros(image.shape, np.int32)
    texture = np.clip(out - lowpass(out, mask, 1.5), -3 * seen.noise, 3 * seen.noise)
    taken, rows = np.zeros((0, 3), int), []
    sizes = sorted((_size(seed, i) for i in range(count)), reverse=True)  # the rarest places go to the largest
    for i, drawn in enumerate(sizes):
        body, cover, core, share = shape(drawn, seed=seed, index=i)
        place, voxels = _place(body, seen, taken, drawn, seed=seed, index=i)
        taken = np.concatenate([taken, voxels])
        half = len(body) // 2
        box = tuple(slice(max(p - half, 0), p + half + 1) for p in place)  # the volume may end within the cube
        cut = tuple(slice(max(half - p, 0), half + n - p) for p, n in zip(place, image.shape, strict=True))
        body, cover, core = body[cut], cover[cut], core[cut]

        draw = rng(seed, "implant contrast", i)
        spread = np.log1p((0.35 / 1.4) ** 2)
        contrast = max(1.1, draw.lognormal(np.log(1.4) - spread / 2, np.sqrt(spread)))
        uneven = ndimage.gaussian_filter(draw.normal(size=body.shape), 1.5)
        enhancing = (cover - core) * (1 + 0.1 * uneven / uneven.std()).clip(0.75, 1.25)
        unit = float(seen.white[tuple(place)])
        without = (1 - cover) * out[box] + cover * texture[box] + draw.uniform(0.5, 0.75) * unit * core
        bright = body & (cover - core >= 0.5 * (cover - core).max()) if share else body
        amplitude = (contrast * unit - without[bright].mean()) / enhancing[bright].mean()
        out[box] = np.where(mask[box], without + amplitude * enhancing, out[box])
        labels[box][body] = i + 1
        rows.append((i + 1, len(voxels), drawn, contrast, unit, share, *voxels.mean(0)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbered, _ = label_lesions(labels > 0)
    table["id"] = [int(numbered[labels == i].max()) for i in table["id"]]
    return out, numbered, table.sort_values("id", ignore_index=True)


def _size(seed: int, index: int) -> float:
    """A volume in mm³ of the truncated log-normal law."""
    draws = 1000 * np.exp(rng(seed, "implant size", index).normal(-2.1, 1.8, 1000))
    return float(draws[(draws >= 10) & (draws <= 5000)][0])


def _place(
    body: np.ndarray, seen: Tissue, taken: np.ndarray, volume_mm3: float, *, seed: int, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the cube's centre goes (3,), and the voxels (n, 3) that ``body`` then has, away from ``taken`` ones (m, 3)."""
    places = np.argwhere(seen.junction & (seen.clearance >= (0.75 * volume_mm3 / np.pi) ** (1 / 3) + GAP))
    offsets, others = np.argwhere(body) - len(body) // 2, cKDTree(taken)
    order = rng(seed, "implant place", index).integers(0, max(len(places), 1), 1000)
    for place in places[order] if len(places) else ():
        voxels = place + offsets
        inside = (voxels >= 0).all() and (voxels < seen.junction.shape).all()
        if inside and seen.clearance[tuple(voxels.T)].min() > GAP and (others.query(voxels)[0] > APART).all():
            return place, voxels
    raise InputError(
        f"implant: expected room for a metastasis of {volume_mm3:.0f} mm3 at the grey-white junction, away from vessels "
        f"and {len(taken)} voxels implanted before; found none; implant fewer or choose another seed"
    )


# ------------------------------------------------------------------------------------------------------ the door
def main(argv: Sequence[str] | None = None) -> int:
    """``python -m dmplus.implants``: 0, or 2 after one line about input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m dmplus.implants", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="False positives of two models on a real scan WITHOUT METASTASES, and their sensitivity to metastases\n"
        "implanted into copies of it. A metastasis that the scan holds would count as a false positive.",
        epilog="The copies share one brain: intervals are over copies, not over patients. Without --sens and --spec the\n"
        "shipped models run. No earlier scan is used. About 15 s a model and scan, 3 s a copy, on two cores.",
    )  # fmt: skip
    parser.add_argument("scan", help="contrast-enhanced T1 (NIfTI) without metastases, skull-stripped or with --mask")
    parser.add_argument(
        "-o", "--out", required=True, help="folder for lesions.csv, summary.csv, run.json, implants.png"
    )
    parser.add_argument("--mask", help="brain mask on the scan's grid")
    parser.add_argument("--sens", help="weights of the sensitive model: a file, or the name of a shipped one")
    parser.add_argument("--spec", help="weights of the specific model; with one of the two alone there are no tiers")
    parser.add_argument("--copies", type=int, default=10, help="how many copies with implants (default 10)")
    parser.add_argument("--per-copy", type=int, default=4, help="implants in each (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="predict whole copies, not only around the implants")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    from dmplus.implant_trial import text, trial

    arguments = vars(parser.parse_args(argv))
    try:
        print(text(trial(arguments.pop("scan"), arguments.pop("out"), **arguments)))
    except InputError as error:
        print("dmplus.implants: error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    runtime.cure_allocator()
    sys.exit(main())
