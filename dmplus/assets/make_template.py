"""Make template.npz: ``pip download --no-deps nilearn==0.14.1 && python make_template.py nilearn-0.14.1-*.whl``."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

MARGIN = 3  # voxels kept around the brain; the T1 is continued there, so that a warped border does not darken


def read(wheel: zipfile.ZipFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    content = wheel.read(f"nilearn/datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    image = nibabel.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(content)))
    return np.asarray(image.dataobj), image.affine


def main(path: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        (t1, affine), (gm, _), (wm, _) = (read(wheel, name) for name in ("t1", "gm", "wm"))
    # One voxel of the outermost fluid goes: patients' stripped brains end closer to the cortex than the atlas.
    mask = ndimage.binary_erosion(ndimage.binary_fill_holes(t1 > 0))
    box = tuple(
        slice(max(s.start - MARGIN, 0), s.stop + MARGIN) for s in ndimage.find_objects(mask.astype(np.uint8))[0]
    )
    t1, gm, wm, mask = t1[box], gm[box], wm[box], mask[box]
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    near = ndimage.binary_dilation(mask, iterations=MARGIN + 2)
    t1, gm, wm = (np.where(near, a[tuple(nearest)], 0) for a in (t1, gm, wm))
    # 17 levels of probability are enough for weights and compress to half the size.
    gm, wm = (np.rint(a / 255 * 16).astype(np.uint8) for a in (gm, wm))
    origin = affine[:3, 3] + [s.start for s in box]
    target = Path(__file__).with_name("template.npz")
    np.savez_compressed(
        target, t1=t1.astype(np.uint8), gm16=gm, wm16=wm, mask=np.packbits(mask), origin=origin.astype(np.float32)
    )
    print(target.name, t1.shape, f"{target.stat().st_size / 1e6:.1f} MB, origin {origin} mm")


if __name__ == "__main__":
    main(sys.argv[1])
