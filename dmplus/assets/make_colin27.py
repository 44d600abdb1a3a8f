"""Make colin27.npz, a second anatomy for ``dmplus synth anatomy=colin27.npz``: one real brain instead of an average.

``apt-get download mricron-data && dpkg -x mricron-data_*.deb mricron``, then
``python make_colin27.py mricron/usr/share/mricron/templates colin27.npz`` (a minute). It is not shipped with dmplus.

Colin27 is the mean of 27 scans of one man (Holmes et al. 1998, J Comput Assist Tomogr 22, 324-333). ``ch2.nii.gz`` holds
his head, ``ch2bet.nii.gz`` the brain cut out of it; there are no tissue maps. They are derived here from the intensities:
Gaussians for fluid, grey and white matter under a smooth bias field, by expectation maximisation. Debian lists the
package's files under BSD-3-Clause; whether that covers the image is not verified, so keep what is made of it to yourself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from dmplus.synthetic_card import tissues

MARGIN = 3  # voxels kept around the brain, as in make_template.py
LEVELS = (66.0, 164.0, 223.0)  # fluid, grey and white matter of the shipped template, which the generator is built for


def ball(radius: int) -> np.ndarray:
    return (np.square(np.indices((2 * radius + 1,) * 3) - radius).sum(0)) <= radius**2


def brain(cut: np.ndarray) -> np.ndarray:
    """The brain's mask from the cut-out brain: without the streaks of its border, with the fluid in its sulci."""
    mask = ndimage.binary_opening(np.pad(cut, 8), ball(2))
    labels, _ = ndimage.label(mask)
    mask = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return ndimage.binary_fill_holes(ndimage.binary_closing(mask, ball(5)))[8:-8, 8:-8, 8:-8]


def main(folder: str, target: str) -> None:
    head, cut = (nibabel.load(Path(folder) / name) for name in ("ch2.nii.gz", "ch2bet.nii.gz"))
    t1, mask = np.asarray(head.dataobj).astype(np.float32), brain(np.asarray(cut.dataobj) > 0)
    # The file knows few grey levels: noise of the width of one level, so that stretching leaves no gaps between them.
    t1 += np.random.default_rng(27).uniform(-0.5, 0.5, t1.shape).astype(np.float32)
    maps, t1 = tissues(t1, mask)
    # Three tissues at the levels of the shipped template; straight lines between and beyond them.
    found = [float(np.median(t1[mask & (m > 0.95)])) for m in maps]
    slope = (LEVELS[2] - LEVELS[1]) / (found[2] - found[1])
    t1 = np.interp(t1, (0, *found, 2 * found[2]), (0, *LEVELS, LEVELS[2] + slope * found[2]))
    print("found", np.round(found, 1), "share of white", np.round(np.array(found) / found[2], 3))
    box = tuple(
        slice(max(s.start - MARGIN, 0), s.stop + MARGIN) for s in ndimage.find_objects(mask.astype(np.uint8))[0]
    )
    t1, grey, white, mask = t1[box], maps[1][box], maps[2][box], mask[box]
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    near = ndimage.binary_dilation(mask, iterations=MARGIN + 2)
    t1, grey, white = (np.where(near, a[tuple(nearest)], 0) for a in (t1, grey, white))
    origin = head.affine[:3, 3] + [s.start for s in box]
    np.savez_compressed(
        target, t1=np.clip(np.rint(t1), 0, 255).astype(np.uint8), gm16=np.rint(grey * 16).astype(np.uint8),
        wm16=np.rint(white * 16).astype(np.uint8), mask=np.packbits(mask), origin=origin.astype(np.float32),
    )  # fmt: skip
    print(target, t1.shape, f"{Path(target).stat().st_size / 1e6:.1f} MB, origin {origin} mm")


if __name__ == "__main__":
    main(*sys.argv[1:])
