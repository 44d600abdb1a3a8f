"""One synthetic patient stored on several grids: the same large lesions, at the same place."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from dmplus import cli, network, synthetic
from dmplus.volume import Case

LARGE_MM3 = 100.0
CPU = ["--device", "cpu", "--precision", "float32"]
OTHER_GRIDS = [("RAS", 0.5), ("RAS", 2.0), ("LPS", 1.0), ("ASR", 2.0), ("PIL", 0.5)]


def resampled(array: np.ndarray, spacing: float) -> np.ndarray:
    """What a scanner with voxels of ``spacing`` mm would store of a 1 mm volume: block means, or a cubic spline."""
    if spacing == 2.0:
        x, y, z = (n // 2 for n in array.shape)
        return array.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    return ndimage.zoom(array, 1 / spacing, order=3, mode="nearest", grid_mode=True) if spacing != 1 else array


def store(case: Case, folder: Path, *, axes: str, spacing: float) -> list[str]:
    """Write scan, earlier scan and mask of a 1 mm RAS case on another grid; returns `dmplus predict`'s arguments."""
    affine = case.affine @ np.diag([spacing, spacing, spacing, 1.0])
    # the first voxel's centre moves with the voxel's edge; its outer corner stays
    affine[:3, 3] = case.affine[:3, 3] + case.affine[:3, :3] @ np.full(3, (spacing - 1) / 2)
    share = resampled(case.mask.astype(np.float64), spacing)
    inside = share >= 0.5
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    arguments = []
    for option, array in (("", case.image), ("--prior", case.prior), ("--mask", case.mask)):
        if array is None:
            continue
        # a stripped scan: brain voxels are means over brain alone, as when the scanner had used this grid
        values = inside.astype(np.uint8)
        if option != "--mask":
            values = np.where(inside, resampled(array, spacing) / np.maximum(share, 0.5), 0).astype(np.float32)
        image = nibabel.Nifti1Image(values, affine).as_reoriented(turn)
        assert "".join(nibabel.aff2axcodes(image.affine)) == axes
        path = folder / f"{option.strip('-') or 'scan'}.nii.gz"
        nibabel.save(image, path)
        arguments += [option, str(path)] if option else [str(path)]
    return arguments


def lesions(case: Case, folder: Path, weights: list[str], *, axes: str, spacing: float) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    arguments = store(case, folder, axes=axes, spacing=spacing)
    assert cli.main(["predict", *arguments, "-o", str(folder / "out"), *weights, *CPU]) == 0
    table = pd.read_csv(folder / "out" / "lesions.csv")
    ids = nibabel.load(folder / "out" / "lesions.nii.gz")
    for row in table.itertuples():  # the map says the same as the table
        place = np.argwhere(np.asarray(ids.dataobj) == row.lesion).mean(axis=0)
        place = place @ ids.affine[:3, :3].T + ids.affine[:3, 3]
        within = (
            1 if row.volume_mm3 >= LARGE_MM3 else max(1, spacing)
        )  # a few voxels: their centre is as coarse as they
        assert np.abs(place - (row.x_mm, row.y_mm, row.z_mm)).max() < within
    return table


def nearest(table: pd.DataFrame, row: pd.Series) -> tuple[pd.Series, float]:
    apart = np.linalg.norm(
        table[["x_mm", "y_mm", "z_mm"]].to_numpy() - row[["x_mm", "y_mm", "z_mm"]].to_numpy(float), axis=1
    )
    return table.iloc[int(np.argmin(apart))], float(apart.min())


def assert_same_large_lesions(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Each lesion of 0.1 cm3 in one table is in the other, within 1 mm and a third of its volume."""
    assert (one["volume_mm3"] >= LARGE_MM3).any()
    for here, there in ((one, other), (other, one)):
        # one third of the volume may be lost on the way: ask for those that stay large
        for _, row in here[here["volume_mm3"] >= LARGE_MM3 * 1.4].iterrows():
            match, apart = nearest(there, row)
            assert apart < 1
            assert match["volume_mm3"] == pytest.approx(row["volume_mm3"], rel=0.35)
            assert match["tier"] == row["tier"]


@pytest.fixture(scope="module", params=[0, 3])
def case(request) -> Case:
    return synthetic.patient(synthetic.COHORTS["smoke"], request.param).visits[-1].case


@pytest.mark.parametrize(("axes", "spacing"), OTHER_GRIDS)
def test_blobs_of_a_synthetic_patient(case, tmp_path, monkeypatch, axes, spacing):
    """A blob filter in the networks' place: everything but the networks, on anatomy with vessels."""

    def predict_volume(model, image, *, mask, **_):
        blobs = ndimage.gaussian_filter(image, 1.7)
        blobs = (blobs - blobs[mask].mean()) / blobs[mask].std()  # noise and texture differ between the grids
        return np.where(mask, np.clip((blobs - model.level) / 3 + 0.5, 0, 1), 0).astype(np.float32)

    def load(source, **_):
        model = network.DeepMedic(network.preset("smoke"))
        model.level = 2.5 if source == "sens" else 4.0
        return model

    monkeypatch.setattr("dmplus.inference.predict_volume", predict_volume)
    monkeypatch.setattr(network, "load", load)
    monkeypatch.setattr("dmplus.predict.describe_weights", lambda source: {"file": source, "info": {}})
    monkeypatch.setattr("dmplus.figures.triage_board", lambda case, triage, *, path: path.write_bytes(b"png"))
    tables = [lesions(case, tmp_path / f"{a}{s}", [], axes=a, spacing=s) for a, s in (("RAS", 1.0), (axes, spacing))]
    assert_same_large_lesions(*tables)
    if spacing == 1:  # only the order of the voxels differs
        pd.testing.assert_frame_equal(*tables)


def test_the_shipped_models_on_a_synthetic_patient(tmp_path):
    case = synthetic.patient(synthetic.COHORTS["smoke"], 3).visits[-1].case
    first = lesions(case, tmp_path / "first", [], axes="RAS", spacing=1.0)
    for axes, spacing in OTHER_GRIDS:
        assert_same_large_lesions(first, lesions(case, tmp_path / f"{axes}{spacing}", [], axes=axes, spacing=spacing))
