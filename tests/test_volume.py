"""NIfTI in and out, the canonical 1 mm grid there and back, cohort folders, and what makes a scan stripped."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import ball_case
from scipy import ndimage

from dmplus import volume
from dmplus.grid import Grid, transfer_labels
from dmplus.runtime import InputError, rng
from dmplus.volume import Case

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "t1post_ms_patient07" / "T1POST.nii.gz"


# ------------------------------------------------------------------------------------------- a continuous phantom
def world_spots(world: np.ndarray) -> np.ndarray:
    """A smooth scene in scanner mm (..., 3), different along every axis and direction."""
    x, y, z = np.moveaxis(world, -1, 0)
    spots = [((12, -8, 5), 6.0, 1.0), ((-14, 10, -9), 5.0, 0.7), ((3, 15, 12), 4.5, 0.5)]
    scene = 0.004 * x + 0.002 * y + 0.001 * z + 1
    for (a, b, c), sd, height in spots:
        scene = scene + height * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * sd**2))
    return scene


def positions(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def stored(axes: str, spacing: tuple[float, float, float], *, extent: float = 60.0, tilt: float = 0.0) -> Grid:
    """A grid of ``extent`` mm around the origin whose axes run as ``axes``, rotated by ``tilt`` degrees about x."""
    shape = tuple(int(round(extent / s)) for s in spacing)
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(axes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        direction[row, axis] = 1 if letter in "RAS" else -1
    a = np.radians(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ direction @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


ORIENTATIONS = ("RAS", "LPS", "LAS", "ASR", "PIL", "SRA", "IAL")


@pytest.mark.parametrize("axes", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 0.5), (2, 2, 2), (0.6, 1.0, 1.7)])
def test_canonical_grid_shows_the_same_scene_at_the_same_place(axes, spacing):
    grid = stored(axes, spacing, tilt=12)
    canonical = grid.canonical
    assert nibabel.aff2axcodes(canonical.affine) == ("R", "A", "S")
    np.testing.assert_allclose(canonical.spacing, 1, atol=1e-9)
    image = grid.to_canonical(world_spots(positions(grid)))
    # away from the border, where nothing is extrapolated; a half-voxel slip changes the scene by 0.05 and more
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(image[inner], world_spots(positions(canonical))[inner], atol=0.04)
    back = grid.from_canonical(image)
    assert back.shape == grid.shape and back.dtype == np.float32 and back.flags.c_contiguous
    rim = tuple(slice(int(4 / s) + 1, -int(4 / s) - 1) for s in grid.spacing)
    np.testing.assert_allclose(back[rim], world_spots(positions(grid))[rim], atol=0.04)


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_one_millimetre_there_and_back_is_exact(axes):
    grid = stored(axes, (1, 1, 1), extent=17, tilt=30)
    values = rng(1, "exact").normal(size=grid.shape).astype(np.float32)
    assert np.array_equal(grid.from_canonical(grid.to_canonical(values)), values)
    labels = rng(2, "exact").integers(0, 5, grid.shape).astype(np.int32)
    assert np.array_equal(grid.from_canonical(grid.to_canonical(labels, kind="labels"), kind="labels"), labels)


def test_a_ramp_stays_a_ramp_at_every_spacing():
    for spacing in (0.5, 0.77, 0.9, 1.3, 2.0):
        grid = stored("RAS", (spacing,) * 3, extent=40)
        ramp = positions(grid)[..., 0].astype(np.float32)
        out = grid.to_canonical(ramp)[3:-3, 3:-3, 3:-3]
        np.testing.assert_allclose(out, positions(grid.canonical)[3:-3, 3:-3, 3:-3, 0], atol=2e-3)


def test_noise_of_fine_voxels_is_averaged_not_picked():
    for spacing, most in ((0.5, 0.32), (0.6, 0.4)):  # linear interpolation alone leaves 0.36 and 0.59
        grid = stored("RAS", (spacing,) * 3, extent=24)
        noise = rng(3, "noise").normal(size=grid.shape).astype(np.float32)
        assert grid.to_canonical(noise).std() < most


@pytest.mark.parametrize("outside", [0.0, 400.0])
@pytest.mark.parametrize("spacing", [0.5, 1.4, 2.0])
def test_what_lies_outside_the_brain_does_not_reach_its_rim(spacing, outside):
    grid = stored("PIL", (spacing,) * 3)
    ball = np.linalg.norm(positions(grid) - (3, 2, 1), axis=-1) < 18
    image = np.where(ball, 100, outside).astype(np.float32)
    small, mask = grid.to_canonical(image, inside=ball), grid.to_canonical(ball, kind="mask")
    np.testing.assert_allclose(small[mask], 100, rtol=1e-5)
    assert np.abs(grid.to_canonical(image)[mask] - 100).max() > 20  # plain interpolation mixes them
    assert small[0, 0, 0] == outside


def test_mask_keeps_its_volume():
    for spacing in (0.5, 0.8, 1.5, 2.0):
        grid = stored("LPS", (spacing,) * 3)
        ball = np.linalg.norm(positions(grid) - (3, 2, 1), axis=-1) < 18
        small = grid.to_canonical(ball, kind="mask")
        assert small.dtype == bool
        assert small.sum() == pytest.approx(ball.sum() * grid.voxel_mm3, rel=0.03)


@pytest.mark.parametrize("spacing", [(0.5,) * 3, (2,) * 3, (0.9, 0.9, 1.4), (1, 1, 2)])
@pytest.mark.parametrize("axes", ["RAS", "PIL"])
def test_labels_return_at_their_place_with_their_volume(axes, spacing):
    grid = stored(axes, spacing)
    world = positions(grid.canonical)
    labels = np.zeros(grid.canonical.shape, np.int32)
    balls = {1: ((-12.3, 4.2, 6.6), 7), 2: ((14.1, -9.4, 2.2), 6), 3: ((1.7, 15.2, -13.4), 5)}
    for i, (centre, radius) in balls.items():
        labels[np.linalg.norm(world - centre, axis=-1) < radius] = i
    native = grid.from_canonical(labels, kind="labels")
    place = positions(grid)
    for i in balls:
        # nearest-voxel sampling at 2 mm would move the centre by half a voxel of 1 mm along each axis: 0.87 mm
        moved = place[native == i].mean(axis=0) - world[labels == i].mean(axis=0)
        assert np.linalg.norm(moved) < 0.21
        assert (native == i).sum() * grid.voxel_mm3 == pytest.approx((labels == i).sum(), abs=grid.voxel_mm3)


@pytest.mark.parametrize("spacing", [0.5, 1.3, 2.0])
def test_no_lesion_vanishes(spacing):
    grid = stored("RAS", (spacing,) * 3)
    labels = np.zeros(grid.canonical.shape, np.int32)
    where = rng(4, "single voxels").permutation(np.argwhere(np.ones((18, 18, 18)))).astype(int)[:60] * 3 + 2
    for i, voxel in enumerate(where, 1):
        labels[tuple(voxel)] = i
    native = grid.from_canonical(labels, kind="labels")
    place, world = positions(grid), positions(grid.canonical)
    for i, voxel in enumerate(where, 1):
        assert (native == i).any()
        assert np.linalg.norm(place[native == i].mean(axis=0) - world[tuple(voxel)]) <= np.sqrt(3) * max(1, spacing) / 2


def test_crowded_lesions_still_get_a_voxel_each():
    labels = np.zeros((6, 6, 6), np.int32)
    labels[0, 0, 0], labels[2, 0, 0], labels[1, 2, 0], labels[3, 3, 0] = 1, 2, 3, 4
    out = transfer_labels(labels, np.ones(3), np.full(3, 2.0), (3, 3, 3))
    assert set(np.unique(out)) == {0, 1, 2, 3, 4}
    labels[:] = 0
    labels[0, 0, 0], labels[1, 1, 1], labels[0, 1, 1] = 1, 2, 3  # all in one coarse voxel
    out = transfer_labels(labels, np.ones(3), np.full(3, 2.0), (3, 3, 3))
    assert [(out == i).sum() for i in (1, 2, 3)] == [1, 1, 1] and (np.argwhere(out) <= 1).all()


def test_labels_to_canonical_keep_a_lesion_of_one_fine_voxel():
    grid = stored("RAS", (0.5,) * 3, extent=20)
    labels = np.zeros(grid.shape, np.int32)
    labels[10, 11, 12] = 7
    assert (grid.to_canonical(labels, kind="labels") == 7).sum() == 1


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1, 1, 0, 1.0]), "singular"),
        (np.full((4, 4), np.nan), "singular"),
        (np.diag([0.3, 1, 1, 1.0]), "0.5 to 2 mm; got 0.3 x 1 x 1"),
        (np.diag([1, 1, 3, 1.0]), "0.5 to 2 mm; got 1 x 1 x 3"),
        (np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "right angles"),
    ],
)
def test_unusable_grids_are_refused(affine, words):
    with pytest.raises(InputError, match=words):
        Grid((4, 4, 4), affine)


def test_same_frame_tolerates_rounding_and_nothing_more():
    grid = stored("LPS", (0.9, 0.9, 1.2), tilt=7)
    rounded = grid.affine.astype(np.float32).astype(float)
    assert grid.same_frame(grid.shape, rounded)
    shifted = grid.affine.copy()
    shifted[0, 3] += 0.1
    assert not grid.same_frame(grid.shape, shifted)
    turned = grid.affine.copy()  # equal origin: only the far corner tells
    turned[:3, :3] *= 1.002
    assert not grid.same_frame(grid.shape, turned)
    assert not grid.same_frame((grid.shape[0] + 1, *grid.shape[1:]), grid.affine)


# ---------------------------------------------------------------------------------------------------- files
def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def ramp(shape=(6, 7, 8), dtype=np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_read_image_gives_the_stored_values(tmp_path, dtype):
    array, affine = volume.read_image(save(tmp_path / "a.nii.gz", ramp(dtype=dtype)))
    assert array.dtype == np.float32
    assert np.array_equal(array, ramp(dtype=dtype).astype(np.float32))
    assert np.array_equal(affine, np.eye(4))


def test_read_image_applies_scaling_and_drops_trailing_axes(tmp_path):
    image = nibabel.Nifti1Image(ramp(dtype=np.int16)[..., None], np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    array, _ = volume.read_image(tmp_path / "a.nii")
    assert array.shape == (6, 7, 8)
    np.testing.assert_allclose(array, ramp() * 0.5 + 10, atol=1e-3)


def test_an_affine_from_the_quaternion_alone_is_used(tmp_path):
    image = nibabel.Nifti1Image(ramp(), None)
    affine = stored("LPS", (1.5, 1, 2), tilt=9).affine
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "q.nii")
    np.testing.assert_allclose(volume.read_image(tmp_path / "q.nii")[1], affine, atol=1e-4)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name → (file, words that its error must hold)."""
    good = save(folder / "good.nii.gz", rng(5, "bytes").normal(size=(20, 20, 20)).astype(np.float32))
    plain = save(folder / "good.nii", ramp())
    nan, infinite = ramp(), ramp()
    nan[1, 2, 3], infinite[0, 0, 1] = np.nan, np.inf
    (folder / "cut.nii.gz").write_bytes(good.read_bytes()[:-900])
    (folder / "cut.nii").write_bytes(plain.read_bytes()[:-100])
    (folder / "tail.nii.gz").write_bytes(good.read_bytes()[:-8])  # the checksum and the length
    flipped = bytearray(gzip.compress(plain.read_bytes(), compresslevel=0))  # so that inflating does not notice
    flipped[len(flipped) // 2] ^= 1
    (folder / "flipped.nii.gz").write_bytes(flipped)
    (folder / "bytes.nii").write_bytes(plain.read_bytes()[:-3])
    (folder / "stub.nii.gz").write_bytes(good.read_bytes()[:40])
    (folder / "text.nii.gz").write_text("no scan")
    (folder / "empty.nii").write_bytes(b"")
    (folder / "scan.png").write_bytes(b"\x89PNG")
    (folder / "folder.nii").mkdir()
    nibabel.save(nibabel.MGHImage(ramp(), np.eye(4)), folder / "scan.mgz")
    nowhere = nibabel.Nifti1Image(ramp(), None)
    nibabel.save(nowhere, folder / "nowhere.nii")
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), folder / "colour.nii")
    return {
        "missing": (folder / "no.nii.gz", "no such file"),
        "folder": (folder / "folder.nii", "a folder"),
        "truncated gz": (folder / "cut.nii.gz", "truncated"),
        "checksum gone": (folder / "tail.nii.gz", "truncated or damaged"),
        "one bit flipped": (folder / "flipped.nii.gz", "truncated or damaged"),
        "three bytes gone": (folder / "bytes.nii", "truncated or damaged"),
        "truncated": (folder / "cut.nii", "truncated"),
        "header only": (folder / "stub.nii.gz", "NIfTI file"),
        "text": (folder / "text.nii.gz", "NIfTI file"),
        "empty file": (folder / "empty.nii", "NIfTI file"),
        "png": (folder / "scan.png", "something else"),
        "mgz": (folder / "scan.mgz", "something else"),
        "4-D": (save(folder / "4d.nii", ramp((3, 4, 5, 2))), "4 axes"),
        "2-D": (save(folder / "2d.nii", ramp((3, 4))), "2 axes"),
        "slice": (save(folder / "slice.nii", ramp((9, 9, 1))), "slice"),
        "nan": (save(folder / "nan.nii", nan), "1 voxels that are NaN"),
        "inf": (save(folder / "inf.nii", infinite), "NaN or infinite"),
        "zero": (save(folder / "zero.nii", ramp() * 0), "only zeros"),
        "constant": (save(folder / "constant.nii", ramp() * 0 + 7), "the constant 7"),
        "no frame": (folder / "nowhere.nii", "sform_code and qform_code 0"),
        "colour": (folder / "colour.nii", "one number a voxel"),
        "thick": (save(folder / "thick.nii", ramp(), np.diag([1, 1, 5, 1.0])), "0.5 to 2 mm"),
    }


BAD = (
    "missing", "folder", "truncated gz", "truncated", "header only", "text", "empty file", "png", "mgz", "4-D", "2-D",
    "slice", "nan", "inf", "zero", "constant", "no frame", "colour", "thick",
    "checksum gone", "one bit flipped", "three bytes gone",
)  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_unusable_files_are_refused_in_one_line(tmp_path, kind):
    files = bad_files(tmp_path)
    assert set(files) == set(BAD)
    path, words = files[kind]
    with pytest.raises(InputError) as caught:
        volume.read_image(path, what="scan")
    message = str(caught.value)
    assert words in message and message.startswith(f"scan {path.name}: expected") and "; got" in message
    assert "\n" not in message and str(tmp_path) not in message


def test_masks_and_labels_are_checked_against_the_scan(tmp_path):
    like = Grid((6, 7, 8), np.eye(4))
    one = np.zeros((6, 7, 8), np.uint8)
    one[2, 3, 4] = 1
    assert volume.read_mask(save(tmp_path / "m.nii", one), like=like).sum() == 1
    assert volume.read_label(save(tmp_path / "l.nii", one * 0), like=like).sum() == 0
    shifted = np.eye(4)
    shifted[2, 3] = 1
    for name, array, affine, words in (
        ("empty", one * 0, None, "at least one voxel"),
        ("beyond", one * 2, None, "values 0 and 1"),
        ("half", one * 0.5, None, "values 0 and 1"),
        ("shape", one[:5], None, r"shape \(6, 7, 8\); got \(5, 7, 8\)"),
        ("frame", one, shifted, "frame .*; got corners up to 1.0 mm apart; register"),
        ("axes", one, np.diag([-1, 1, 1, 1.0]), "frame .*; got corners up to 10.0 mm apart"),
    ):
        with pytest.raises(InputError, match=words):
            volume.read_mask(save(tmp_path / f"{name}.nii", array, affine), like=like)
    huge = np.ones((140, 140, 140), np.uint8)
    with pytest.raises(InputError, match="at most 2.2 litres"):
        volume.read_mask(save(tmp_path / "huge.nii", huge), like=Grid(huge.shape, np.eye(4)))


def test_write_nifti_copies_position_codes_and_units_bit_by_bit(tmp_path):
    affine = stored("LPS", (0.7, 0.9, 1.1), tilt=11).affine
    for name, set_sform, set_qform in (("s", 4, 0), ("q", 0, 2), ("both", 1, 3)):
        source = nibabel.Nifti1Image(ramp(dtype=np.int16), None)
        source.set_sform(affine if set_sform else None, set_sform)
        source.set_qform(affine, set_qform)
        source.header.set_xyzt_units("mm", "sec")
        source.header["descrip"] = b"name of a patient"
        nibabel.save(source, tmp_path / f"{name}.nii")
        volume.write_nifti(tmp_path / "out.nii.gz", ramp() > 5, like=tmp_path / f"{name}.nii")
        old, new = nibabel.load(tmp_path / f"{name}.nii"), nibabel.load(tmp_path / "out.nii.gz")
        assert np.array_equal(old.affine, new.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "quatern_c", "qoffset_z"):
            assert np.array_equal(old.header[field], new.header[field]), field
        assert new.get_data_dtype() == np.uint8 and bytes(new.header["descrip"]).strip(b"\0") == b""
        assert np.array_equal(np.asarray(new.dataobj), (ramp() > 5).astype(np.uint8))
    with pytest.raises(InputError):
        volume.write_nifti(tmp_path / "never.nii", ramp())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.nii", "out.nii.gz", "q.nii", "s.nii"]


# --------------------------------------------------------------------------------------------------- cohort folders
def small_case(name: str = "p1_v0", **changes) -> Case:
    draw = rng(6, name)
    image = draw.gamma(4, 100, (20, 21, 22)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    image[~mask] = 0
    label = np.zeros(image.shape, np.uint8)
    label[8:11, 9:12, 10:12] = 1
    affine = np.diag([1, 1, 1, 1.0])
    affine[:3, 3] = (-9, 4, 7)
    case = Case(name=name, image=image, mask=mask, label=label, prior=image[::-1] * mask, affine=affine, patient="p1")
    return dataclasses.replace(case, **changes)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_written_case_comes_back(tmp_path, dtype):
    case = small_case()
    files = volume.write_case(tmp_path, case, split="train", days=12, dtype=dtype)
    volume.write_cohort(tmp_path, [files])
    (row,) = volume.read_cohort(tmp_path)
    assert dataclasses.asdict(row) == dataclasses.asdict(files)
    back = row.load()
    assert (back.name, back.patient, back.visit, row.split, row.days) == ("p1_v0", "p1", 0, "train", 12)
    step = case.image.max() / 32767 if dtype == "int16" else 0
    np.testing.assert_allclose(back.image, case.image, atol=step / 2 + 1e-3)
    assert np.array_equal(back.image == 0, case.image == 0)
    assert np.array_equal(back.mask, case.mask) and np.array_equal(back.label, case.label)
    np.testing.assert_allclose(back.prior, case.prior, atol=step)
    np.testing.assert_allclose(back.affine, case.affine)


def test_equal_cases_give_equal_bytes(tmp_path):
    first, second = (volume.write_case(tmp_path / n, small_case()) for n in ("a", "b"))
    for what in ("image", "prior", "label", "mask"):
        one, two = (hashlib.sha256(getattr(f, what).read_bytes()).digest() for f in (first, second))
        assert one == two
    header = first.image.read_bytes()[:10]
    assert header[4:8] == b"\0\0\0\0"  # no time of day in the gzip header


def test_a_case_without_prior_and_label(tmp_path):
    volume.write_cohort(tmp_path, [volume.write_case(tmp_path, small_case(prior=None, label=None))])
    (row,) = volume.read_cohort(tmp_path)
    assert row.prior is None and row.label is None
    assert row.load().prior is None
    assert ",,," not in (tmp_path / "cases.csv").read_text().splitlines()[0]


def test_splits_and_what_is_refused(tmp_path):
    cases = [volume.write_case(tmp_path, small_case(n, patient=n), split=s) for n, s in (("a", "train"), ("b", "test"))]
    volume.write_cohort(tmp_path, cases)
    assert [c.name for c in volume.read_cohort(tmp_path, split="test")] == ["b"]
    with pytest.raises(InputError, match="got none \\(splits: test, train\\)"):
        volume.read_cohort(tmp_path, split="validation")
    table = (tmp_path / "cases.csv").read_text()
    for words, text in (
        ("columns", table.replace("visit", "session", 1)),
        ("twice", table + table.splitlines()[1] + "\n"),
        ("whole numbers", table.replace("a,a,0,", "a,a,zero,")),
        ("one split; got a in train and b in test", table.replace("b,b,0", "b,a,0")),
        ("got 'val' for a", table.replace(",train,", ",val,")),
        ("one file for a and b", table.replace("b_image", "a_image")),
        ("earlier visit of its patient; got the image of a", table.replace("a_prior", "a_image")),
        ("earlier visit of its patient; got the image of b", table.replace("a_prior", "b_image")),
        ("got none for gone.nii.gz", table.replace("a_label.nii.gz", "gone.nii.gz")),
        ("an empty cell", table.replace("a_image.nii.gz", "")),
    ):
        (tmp_path / "cases.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            volume.read_cohort(tmp_path)
    with pytest.raises(InputError, match="dmplus synth"):
        volume.read_cohort(tmp_path / "elsewhere")
    as_saved_by_a_spreadsheet = "\ufeff" + table.replace("\n", ",note\n", 1).replace(",train,", ", train,") + ",,,,,,,,,\n"
    (tmp_path / "cases.csv").write_text(as_saved_by_a_spreadsheet, encoding="utf-8")
    assert volume.read_cohort(tmp_path) == cases


def test_a_prior_is_a_visit_before(tmp_path):
    """Visits that share their image files: the prior of the second is the image of the first, and not the other way round."""
    first, second = (
        volume.write_case(tmp_path, small_case(n, prior=None), split="train", days=d) for n, d in (("v0", 0), ("v1", 42))
    )
    volume.write_cohort(tmp_path, [first, dataclasses.replace(second, prior=first.image)])
    assert [c.prior and c.prior.name for c in volume.read_cohort(tmp_path)] == [None, "v0_image.nii.gz"]
    third = dataclasses.replace(second, name="v2", days=20, image=second.mask, prior=second.image)
    volume.write_cohort(tmp_path, [first, second, third])
    with pytest.raises(InputError, match="prior of v2 an earlier visit .* got the image of v1 .*day 42"):
        volume.read_cohort(tmp_path)
    volume.write_cohort(tmp_path, [dataclasses.replace(first, prior=second.image), second])  # of day 0, by a later one
    with pytest.raises(InputError, match="prior of v0 an earlier visit .* got the image of v1 .*day 42"):
        volume.read_cohort(tmp_path)
    unknown = dataclasses.replace(second, days=0, prior=first.image)  # without days nobody can tell
    volume.write_cohort(tmp_path, [first, unknown])
    assert volume.read_cohort(tmp_path)[1].prior


@pytest.mark.parametrize("between", [";", "\t"])
def test_a_table_of_a_spreadsheet_of_another_country_is_read(tmp_path, between):
    volume.write_cohort(tmp_path, [volume.write_case(tmp_path, small_case())])
    cases = volume.read_cohort(tmp_path)
    table = (tmp_path / "cases.csv").read_text()
    (tmp_path / "cases.csv").write_text(table.replace(",", between))
    assert volume.read_cohort(tmp_path) == cases


def test_a_hole_in_a_mask_is_brain(tmp_path):
    case = small_case()
    files = volume.write_case(tmp_path, case)
    image = nibabel.load(files.mask)
    holed = np.asarray(image.dataobj).copy()
    middle = tuple(np.argwhere(holed).mean(0).astype(int))
    assert holed[middle]
    holed[middle] = 0
    nibabel.save(nibabel.Nifti1Image(holed, image.affine), files.mask)
    assert np.array_equal(files.load().mask, case.mask)


def test_a_label_outside_the_brain_or_that_is_the_brain_is_refused(tmp_path):
    case = small_case()
    files = volume.write_case(tmp_path, case)
    label = case.label.copy()
    label[0, 0, 0] = 1
    assert not case.mask[0, 0, 0]
    image = nibabel.load(files.label)
    nibabel.save(nibabel.Nifti1Image(label, image.affine), files.label)
    x = ", ".join(f"{v:.0f}" for v in image.affine[:3, 3])
    with pytest.raises(InputError, match=f"expected lesions in the brain; got 1 of .* the mask, the first at \\({x}\\) mm"):
        files.load()
    label[0, 0, 0] = 0
    label |= case.mask  # the columns confused
    nibabel.save(nibabel.Nifti1Image(label, image.affine), files.label)
    with pytest.raises(InputError, match="of the brain's volume; check the columns label and mask"):
        files.load()


def test_no_data_of_a_prior_in_scaled_integers_is_no_data(tmp_path):
    """Integers with an intercept may have no number for 0; and another number for "no data" is named."""
    case = small_case()
    files = volume.write_case(tmp_path, case)
    image = nibabel.load(files.prior)
    prior = np.asarray(image.dataobj).astype(np.float32)
    half = prior.shape[0] // 2
    prior[:half] = 0
    slope = (prior.max() + 7.77) / 60000
    inter = -7.77 + 32000 * slope
    as_integers = nibabel.Nifti1Image(np.round((prior - inter) / slope).astype(np.int16), image.affine)
    as_integers.header.set_slope_inter(slope, inter)
    nibabel.save(as_integers, files.prior)
    back = nibabel.load(files.prior)
    assert back.dataobj.inter and (np.asarray(back.dataobj)[:half] != 0).all()
    assert not files.load().prior[:half].any()
    prior[:half] = -1024
    nibabel.save(nibabel.Nifti1Image(prior, image.affine), files.prior)
    with pytest.raises(InputError, match="prior .*: expected 0 where it has no data; got -1024 in .* of the brain"):
        files.load()


def test_a_prior_of_zeros_is_none(tmp_path):
    """The paper's "empty prior volume" (II.C); in a file it is rather a mistake, and the message says what to do."""
    case = ball_case(0)
    empty = dataclasses.replace(case, prior=np.zeros_like(case.image))
    assert empty.normalised().prior is None and case.normalised().prior is not None
    files = volume.write_case(tmp_path, small_case())
    image = nibabel.load(files.prior)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), files.prior)
    with pytest.raises(InputError, match="got only zeros; .* or leave it out if there was no earlier scan"):
        files.load()


def test_results_of_a_nifti_2_scan_are_nifti_2(tmp_path, capfd):
    array = np.zeros((4, 5, 6), np.float32)
    array[1:3, 1:3, 1:3] = 1
    nibabel.save(nibabel.Nifti2Image(array, np.diag([1, 1, 2, 1.0])), tmp_path / "scan.nii.gz")
    volume.write_nifti(tmp_path / "out.nii.gz", array, like=tmp_path / "scan.nii.gz")
    back = nibabel.load(tmp_path / "out.nii.gz")
    assert isinstance(back.header, nibabel.Nifti2Header) and np.array_equal(back.get_fdata(), array)
    assert np.allclose(back.affine, np.diag([1, 1, 2, 1.0])) and capfd.readouterr().err == ""


def test_a_file_that_cannot_be_read_names_its_case(tmp_path):
    files = volume.write_case(tmp_path, small_case())
    files.image.write_bytes(b"nothing")
    with pytest.raises(InputError, match="case p1_v0: image p1_v0_image.nii.gz"):
        files.load()


def test_the_scan_itself_is_no_earlier_scan(tmp_path):
    files = volume.write_case(tmp_path, small_case())
    with pytest.raises(InputError, match="expected an earlier scan; got the values of p1_v0_image.nii.gz itself"):
        dataclasses.replace(files, prior=files.image).load()


def test_a_prior_counts_where_it_has_data():
    """A shorter slab is not covered and not in the statistics; single zeros and a rim of misregistration are."""
    draw = rng(7, "covered")
    image, prior = (draw.gamma(4, 50, (30, 30, 30)).astype(np.float32) for _ in range(2))
    mask = np.zeros(image.shape, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    case = Case(name="c", image=image, mask=mask, prior=prior)
    assert case.covered is mask and not dataclasses.replace(case, prior=None).covered.any()
    rim = prior.copy()
    rim[:5], rim[:, :5], rim[10, 10, 10] = 0, 0, 0  # 3 voxels of the brain, more than 1000 mm³ of it
    assert (dataclasses.replace(case, prior=rim).covered == mask).all()
    slab = prior.copy()
    slab[:, :, 20:] = 0
    cut = dataclasses.replace(case, prior=slab)
    assert np.array_equal(cut.covered, mask & (np.arange(30) < 20))
    normal = cut.normalised().prior
    inside = normal[cut.covered]
    assert abs(inside.mean()) < 1e-4 and abs(inside.std() - 1) < 1e-4 and not normal[~cut.covered].any()


def test_loading_refuses_another_frame(tmp_path):
    files = volume.write_case(tmp_path, small_case())
    moved = small_case(affine=np.diag([1, 1, 1, 1.0]))
    for what in ("prior", "label", "mask"):
        other = volume.write_case(tmp_path / "other", moved)
        with pytest.raises(InputError, match=f"{what} .*frame"):
            dataclasses.replace(files, **{what: getattr(other, what)}).load()


def test_a_case_stored_fine_keeps_its_small_lesion(tmp_path):
    grid = stored("PIL", (0.5,) * 3, extent=30)
    image = (world_spots(positions(grid)) * 100).astype(np.float32)
    mask = np.linalg.norm(positions(grid), axis=-1) < 13
    label = np.zeros(grid.shape, np.uint8)
    label[30, 31, 32] = 1
    case = Case(name="fine", image=image * mask, mask=mask, label=label, affine=grid.affine)
    loaded = volume.write_case(tmp_path, case).load()
    assert loaded.shape == (30, 30, 30) and loaded.label.sum() == 1
    place = np.argwhere(loaded.label)[0] @ loaded.affine[:3, :3].T + loaded.affine[:3, 3]
    assert np.abs(place - positions(grid)[30, 31, 32]).max() <= 0.5


# ------------------------------------------------------------------------------------------------- brain or head
def head(*, noise: float, size: float = 1.0, step: int = 2, integer: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A head at ``step`` mm: brain, dark skull, bright scalp, air with Rician noise; and its brain mask."""
    world = np.stack(np.meshgrid(*[np.arange(-120, 120, step)] * 3, indexing="ij"), -1)
    radius = np.linalg.norm(world / (68 * size, 82 * size, 62 * size), axis=-1)
    draw = rng(7, "head")
    brain = radius < 1
    tissue = np.zeros(radius.shape)
    tissue[radius < 1.24] = 260  # scalp, fat
    tissue[radius < 1.13] = 12  # bone
    tissue[brain] = 120 + 25 * ndimage.gaussian_filter(draw.normal(size=radius.shape), 2)[brain] * 8
    signal = tissue + noise * draw.normal(size=radius.shape) + 1j * noise * draw.normal(size=radius.shape)
    out = np.abs(signal).astype(np.float32)
    return (np.rint(out) if integer else out), brain


SPACING = (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("noise", "integer"), [(6, False), (1.0, True), (0.3, True), (0, False)])
@pytest.mark.parametrize("size", [1.0, 0.85])
def test_a_head_with_skull_is_refused_with_what_to_do(noise, integer, size):
    image, _ = head(noise=noise, integer=integer, size=size)
    with pytest.raises(InputError, match="HD-BET or SynthStrip, or pass the brain mask with --mask"):
        volume.brain_mask(image, spacing=SPACING)


@pytest.mark.parametrize("rows", [slice(20, 75), slice(30, 110), slice(None, 60)])
def test_a_cropped_head_is_refused(rows):
    image, _ = head(noise=0)
    with pytest.raises(InputError, match="HD-BET"):
        volume.brain_mask(image[:, rows, :], spacing=SPACING)


@pytest.mark.parametrize("size", [0.6, 1.0, 1.12])
def test_the_same_brain_stripped_passes(size):
    image, brain = head(noise=6, size=size)
    image[~brain] = 0
    image[60, 60, 55:58] = 0  # a hole inside is brain, too
    assert np.array_equal(volume.brain_mask(image, spacing=SPACING), brain)


def test_crops_of_a_stripped_brain_pass_and_crumbs_are_left_out():
    image, brain = head(noise=6)
    image[~brain] = 0
    crop = (slice(20, 60), slice(15, 60), slice(30, 70))
    assert np.array_equal(volume.brain_mask(image[crop], spacing=SPACING), brain[crop])
    image[2:6, 2:6, 2:6] = 50
    assert np.array_equal(volume.brain_mask(image, spacing=SPACING), brain)


def test_a_background_of_another_number_is_named():
    image, brain = head(noise=6)
    image[~brain] = -1024
    with pytest.raises(InputError, match=f"got -1024 in {np.mean(~brain):.0%} of it; set that to 0, or pass the brain mask"):
        volume.brain_mask(image, spacing=SPACING)


def test_a_region_larger_than_any_brain_is_a_head():
    world = np.stack(np.meshgrid(*[np.arange(-100, 100, 2)] * 3, indexing="ij"), -1)
    scalp_and_all = np.where(np.linalg.norm(world, axis=-1) < 88, 100.0, 0)  # 2.85 litres, no dark shell to see
    with pytest.raises(InputError, match="at most 2.2 litres; got 2.9"):
        volume.brain_mask(scalp_and_all, spacing=SPACING)


def test_scattered_zeros_are_no_background():
    image = rng(8, "integers").integers(0, 8, (40, 40, 40)).astype(np.float32)  # 12 % zeros, everywhere
    with pytest.raises(InputError, match="no such background"):
        volume.brain_mask(image, spacing=(1.0, 1.0, 1.0))


def test_a_crop_inside_a_brain_or_head_cannot_tell_and_asks_for_a_mask():
    image, _ = head(noise=6)
    with pytest.raises(InputError, match="pass the brain mask"):
        volume.brain_mask(image[45:75, 45:75, 45:75], spacing=SPACING)


@pytest.mark.skipif(not REAL.is_file(), reason="the real scan is not part of the repository")
def test_the_real_stripped_scan_passes_and_returns_exactly():
    case, grid = volume.read_case(REAL)
    assert case.mask.sum() == 1135002 and nibabel.aff2axcodes(grid.affine) == ("L", "A", "S")
    assert np.array_equal(grid.from_canonical(case.image), nibabel.load(REAL).get_fdata(dtype=np.float32))


def test_a_trimmed_case_is_the_same_brain_at_the_same_place():
    case = ball_case(3)
    label = case.label.copy()
    label[1, 2, 3] = 1  # outside the brain: kept, too
    affine = np.array([[0, -1.1, 0, 9], [0.9, 0, 0, -7], [0, 0, 1.0, 4], [0, 0, 0, 1]])
    case = dataclasses.replace(case, label=label, affine=affine)
    small = case.trimmed()
    assert all(a < b for a, b in zip(small.shape, case.shape, strict=True))
    for field in ("image", "prior", "mask", "label"):  # nothing that counts is lost, or moved, or out of order
        places = []
        for each in (case, small):
            values = getattr(each, field)
            where = np.argwhere(values > 0)
            places.append(np.column_stack([where @ each.affine[:3, :3].T + each.affine[:3, 3], values[values > 0]]))
        assert np.allclose(*places)
    assert dataclasses.replace(case, mask=case.mask & False, label=None).trimmed().shape == case.shape
