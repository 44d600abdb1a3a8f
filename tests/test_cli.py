"""The command line: the whole way from a file to a folder, and every way in which input can be bad."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from dmplus import cli, network, volume
from dmplus.doctor import Check, table
from dmplus.runtime import rng
from dmplus.volume import Case

CPU = ["--device", "cpu", "--precision", "float32"]


# ------------------------------------------------------------------------------------- scans of one scene, any grid
@dataclasses.dataclass(frozen=True)
class Ball:
    """A lesion in scanner mm."""

    centre: tuple[float, float, float]
    radius: float
    brightness: float = 300.0

    @property
    def mm3(self) -> float:
        return 4 / 3 * np.pi * self.radius**3


LARGE = (Ball((11.0, -6.5, 4.0), 5.5), Ball((-12.5, 8.0, -7.5), 4.5), Ball((4.0, 10.5, 9.0), 5.0, 205.0))
EARLIER = (Ball((11.0, -6.5, 4.0), 4.5), Ball((-12.5, 8.0, -7.5), 4.5), Ball((-2.0, -14.0, -6.0), 4.0))
TINY = Ball((-7.0, -9.0, 10.0), 1.2)


def stored(
    folder: Path,
    name: str,
    *,
    axes: str = "RAS",
    spacing: float | tuple[float, float, float] = 1.0,
    balls: tuple[Ball, ...] = LARGE,
    extent: float = 48.0,
    tilt: float = 0.0,
    dtype: type = np.float32,
    slope: float = 1.0,
    codes: tuple[int, int] = (1, 1),
) -> Path:
    """A stripped brain with lesions as a scanner would store it: each voxel the mean of the scene over its volume."""
    edges = np.broadcast_to(np.asarray(spacing, float), 3)
    shape = tuple(int(round(extent / e)) for e in edges)
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(axes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        direction[row, axis] = 1 if letter in "RAS" else -1
    a = np.radians(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ direction @ np.diag(edges)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    image = np.zeros(shape)
    parts = (-0.25, 0.25)  # two samples an axis: the mean over a voxel
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    for shift in np.stack(np.meshgrid(parts, parts, parts), -1).reshape(-1, 3):
        world = (index + shift) @ affine[:3, :3].T + affine[:3, 3]
        radius = np.linalg.norm(world / (np.array([25, 26, 24]) * extent / 56), axis=-1)
        scene = np.where(radius < 1, 100 + 6 * np.sin(world[..., 0] / 3) + 4 * np.cos(world[..., 1] / 4), 0)
        for ball in balls:
            scene = np.where(np.linalg.norm(world - ball.centre, axis=-1) < ball.radius, ball.brightness, scene)
        image += scene / 8
    path = folder / f"{name}.nii.gz"
    header = nibabel.Nifti1Image(
        np.rint(image / slope).astype(dtype) if dtype != np.float32 else image.astype(dtype), None
    )
    header.set_sform(affine if codes[0] else None, codes[0])
    header.set_qform(affine, codes[1])
    if slope != 1:
        header.header.set_slope_inter(slope, 0)
    nibabel.save(header, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Two small networks, never trained."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        network.save(folder / f"{name}.safetensors", network.DeepMedic(network.preset("smoke")), info={"seed": seed})
    return folder


@pytest.fixture
def by_brightness(monkeypatch):
    """Replace both networks' maps by the brightness of the z-scored scan: 0.5 from 1.6 (sensitive), 4.5 (specific)."""
    levels = iter(())

    def predict_volume(model, image, *, prior=None, mask=None, machine=None, progress=False, **_):
        level = {0: 1.6, 1: 4.5}[model.info_seed]
        return np.where(mask, np.clip((image - level) / 4 + 0.5, 0, 1), 0).astype(np.float32)

    load = network.load

    def load_with_seed(source, **options):
        model = load(source, **options)
        model.info_seed = network.info(source)["info"]["seed"]
        return model

    monkeypatch.setattr("dmplus.inference.predict_volume", predict_volume)
    monkeypatch.setattr(network, "load", load_with_seed)
    return levels


def predict(weights: Path, *arguments: str | Path) -> int:
    pair = ["--sens", weights / "one.safetensors", "--spec", weights / "two.safetensors"]
    return cli.main([str(a) for a in ("predict", *arguments, *pair, *CPU)])


def error_line(capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr; nothing on stdout."""
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("dmplus: error: "), (out, err)
    return lines[0].removeprefix("dmplus: error: ")


# ---------------------------------------------------------------------------------------------- the whole way
WRITTEN = {
    "sens_probability.nii.gz", "spec_probability.nii.gz", "segmentation.nii.gz", "tiers.nii.gz", "lesions.nii.gz",
    "lesions.csv", "gone.csv", "triage.png", "run.json", WITH_PRIOR := "earlier_lesions.nii.gz",
}  # fmt: skip


def test_real_networks_from_file_to_folder(tmp_path, weights, capsys):
    scan = stored(tmp_path, "scan", axes="LPS", extent=26, codes=(0, 1), dtype=np.int16, slope=0.1)
    prior = stored(tmp_path, "earlier", axes="LPS", extent=26, codes=(0, 1), balls=EARLIER)
    assert predict(weights, scan, "--prior", prior, "-o", tmp_path / "new" / "out") == 0
    said = capsys.readouterr().out
    out = tmp_path / "new" / "out"
    assert {p.name for p in out.iterdir()} == WRITTEN and {p.name for p in out.parent.iterdir()} == {"out"}
    source = nibabel.load(scan)
    for path in out.glob("*.nii.gz"):
        image = nibabel.load(path)
        assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "quatern_b", "qoffset_x"):
            assert np.array_equal(image.header[field], source.header[field])
    prob = {role: nibabel.load(out / f"{role}_probability.nii.gz").get_fdata() for role in ("sens", "spec")}
    union = np.asarray(nibabel.load(out / "segmentation.nii.gz").dataobj)
    tiers = np.asarray(nibabel.load(out / "tiers.nii.gz").dataobj)
    assert np.array_equal(union, (prob["sens"] >= 0.5) | (prob["spec"] >= 0.5))  # stored at 1 mm: exact
    assert np.array_equal(tiers > 0, union > 0)
    report = json.loads((out / "run.json").read_text())
    assert report["prior"] == "earlier.nii.gz" and report["scan"]["file"] == "scan.nii.gz"
    assert report["scan"]["axes"] == "LPS" and report["precision"] == "float32"
    assert report["weights"]["spec"]["file"] == "two.safetensors" and len(report["weights"]["sens"]["sha256"]) == 64
    assert (
        report["counts"]["lesions"]
        == len(pd.read_csv(out / "lesions.csv"))
        == len(np.unique(tiers * 0 + 1)) * report["counts"]["lesions"]
    )
    assert str(tmp_path) not in (out / "run.json").read_text()
    assert f"{report['counts']['confirmed']} confirmed" in said and "Since the earlier scan" in said
    assert (out / "triage.png").read_bytes().startswith(b"\x89PNG")


GRIDS = [
    ("RAS", 1.0, 0),
    ("RAS", 0.5, 0),
    ("RAS", 2.0, 0),
    ("LPS", 1.0, 0),
    ("LPS", 0.5, 0),
    ("LPS", 2.0, 0),
    ("PIL", 1.0, 0),
    ("PIL", 0.5, 0),
    ("ASR", 2.0, 0),
    ("SAL", (0.7, 1.3, 1.0), 0),
    ("LAS", (0.9375, 0.9375, 1.2), 17),
]


@pytest.mark.parametrize(("axes", "spacing", "tilt"), GRIDS)
def test_one_patient_on_any_grid_has_the_same_lesions(tmp_path, weights, by_brightness, axes, spacing, tilt):
    scan = stored(tmp_path, "scan", axes=axes, spacing=spacing, tilt=tilt)
    prior = stored(tmp_path, "earlier", axes=axes, spacing=spacing, tilt=tilt, balls=EARLIER)
    assert predict(weights, scan, "--prior", prior, "-o", tmp_path / "out") == 0
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert len(lesions) == len(LARGE)
    labels = nibabel.load(tmp_path / "out" / "lesions.nii.gz")
    ids = np.asarray(labels.dataobj)
    tiers = np.asarray(nibabel.load(tmp_path / "out" / "tiers.nii.gz").dataobj)
    voxel = abs(np.linalg.det(labels.affine[:3, :3]))
    for ball, tier, change in zip(
        LARGE, ("confirmed", "confirmed", "candidate"), ("growing", "stable", "new"), strict=True
    ):
        apart = np.linalg.norm(lesions[["x_mm", "y_mm", "z_mm"]] - np.array(ball.centre), axis=1)
        row = lesions.iloc[int(np.argmin(apart))]
        assert apart.min() < 0.5
        assert row["volume_mm3"] == pytest.approx(ball.mm3, rel=0.3)
        assert (row["tier"], row["change"], row["stratum"]) == (tier, change, ">=0.1 cm3")
        here = ids == row["lesion"]
        place = np.argwhere(here).mean(axis=0) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        assert np.linalg.norm(place - ball.centre) < 1  # in the file, too, not only in the table
        assert here.sum() * voxel == pytest.approx(row["volume_mm3"], rel=1e-3)
        assert set(tiers[here]) == {2 if tier == "confirmed" else 1}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counts"]["gone"] == 1


def test_a_tiny_lesion_survives_a_coarse_grid(tmp_path, weights, by_brightness):
    fine = stored(tmp_path, "fine", balls=(*LARGE, TINY))
    assert predict(weights, fine, "-o", tmp_path / "fine") == 0
    table = pd.read_csv(tmp_path / "fine" / "lesions.csv")
    assert len(table) == 4 and table["change"].eq("unknown").all() and table["volume_ratio"].isna().all()
    assert table["volume_mm3"].min() < 20


def test_a_mask_decides_what_is_brain(tmp_path, weights, by_brightness):
    scan = stored(tmp_path, "scan")
    image = nibabel.load(scan)
    array = image.get_fdata(dtype=np.float32)
    right = np.zeros(array.shape, np.uint8)
    right[24:] = array[24:] > 0
    head = array + rng(1, "air").random(array.shape).astype(np.float32) * 20
    for name, values in (("head", head), ("mask", right)):
        nibabel.save(nibabel.Nifti1Image(values, image.affine), tmp_path / f"{name}.nii.gz")
    assert predict(weights, tmp_path / "head.nii.gz", "--mask", tmp_path / "mask.nii.gz", "-o", tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert len(table) == 2 and (table["x_mm"] > 0).all()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["mask"] == "mask.nii.gz"


def test_the_same_weights_twice_confirm_everything(tmp_path, weights, by_brightness):
    one = str(weights / "one.safetensors")
    scan = stored(tmp_path, "scan")
    assert cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), "--sens", one, "--spec", one, *CPU]) == 0
    assert set(pd.read_csv(tmp_path / "out" / "lesions.csv")["tier"]) == {"confirmed"}


@pytest.mark.parametrize("role", ["sens", "spec"])
def test_one_model_finds_lesions_without_tiers_and_says_so(tmp_path, weights, by_brightness, capsys, role):
    scan, one = stored(tmp_path, "scan"), str(weights / "one.safetensors")
    assert cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), f"--{role}", one, *CPU]) == 0
    assert "not sorted into tiers: only one model" in capsys.readouterr().out
    other = {"sens": "spec", "spec": "sens"}[role]
    assert {p.name for p in (tmp_path / "out").iterdir()} == WRITTEN - {f"{other}_probability.nii.gz", WITH_PRIOR}
    assert set(pd.read_csv(tmp_path / "out" / "lesions.csv")["tier"]) == {"untiered"}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["tiers"] is False


def test_a_scan_without_lesions_gives_a_whole_folder(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr("dmplus.inference.predict_volume", lambda model, image, **_: np.zeros(image.shape, np.float32))
    scan = stored(tmp_path, "scan", balls=())
    assert predict(weights, scan, "-o", tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == WRITTEN - {WITH_PRIOR}
    assert pd.read_csv(tmp_path / "out" / "lesions.csv").empty and "0 lesions" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- bad input
def edited(path: Path, edit) -> Path:
    """``path`` with its values (and affine) changed by ``edit(array, affine)``."""
    image = nibabel.load(path)
    array, affine = edit(image.get_fdata(dtype=np.float32), image.affine.copy())
    out = path.with_name(f"bad_{path.name}")
    nibabel.save(nibabel.Nifti1Image(array, affine), out)
    return out


def at(array: np.ndarray, value: float) -> np.ndarray:
    array[12, 12, 12] = value
    return array


def shifted(affine: np.ndarray, mm: float = 1.0) -> np.ndarray:
    affine[1, 3] += mm
    return affine


#: scan → another scan that cannot be used, and words of the message
BAD_VOLUMES = {
    "NaN": (lambda a, m: (at(a, np.nan), m), "NaN"),
    "infinite": (lambda a, m: (at(a, np.inf), m), "infinite"),
    "all zero": (lambda a, m: (a * 0, m), "only zeros"),
    "constant": (lambda a, m: (a * 0 + 5, m), "the constant 5"),
    "4-D": (lambda a, m: (np.stack([a, a], -1), m), "4 axes"),
    "2-D": (lambda a, m: (a[:, :, 9], m), "2 axes"),
    "too fine": (lambda a, m: (a, np.diag([0.2, 0.2, 0.2, 1])), "0.5 to 2 mm"),
    "too coarse": (lambda a, m: (a, np.diag([1, 1, 5, 1.0])), "0.5 to 2 mm"),
}


@pytest.fixture
def workplace(tmp_path, weights):
    """A folder with a good scan, mask and prior, and a check that a refused command leaves it as it was."""
    scan = stored(tmp_path, "scan", extent=30)
    mask = edited(scan, lambda a, m: ((a > 0).astype(np.uint8), m)).rename(tmp_path / "mask.nii.gz")
    prior = stored(tmp_path, "prior", extent=30, balls=EARLIER)
    return tmp_path, scan, mask, prior


def refused(capsys, folder: Path, weights: Path, *arguments: str | Path) -> str:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert predict(weights, *arguments) == 2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before, "something was left behind or changed"
    message = error_line(capsys)
    assert "expected" in message and "got" in message and str(folder) not in message
    return message


@pytest.mark.parametrize("kind", BAD_VOLUMES)
def test_a_bad_scan(workplace, weights, capsys, kind):
    folder, scan, *_ = workplace
    edit, words = BAD_VOLUMES[kind]
    bad = edited(scan, edit)
    assert words in refused(capsys, folder, weights, bad, "-o", folder / "out")


@pytest.mark.parametrize("kind", ["missing", "truncated", "truncated header", "not NIfTI", "folder"])
def test_a_scan_that_is_no_whole_nifti_file(workplace, weights, capsys, kind):
    folder, scan, *_ = workplace
    bad = folder / "bad.nii.gz"
    if kind == "truncated":
        bad.write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])
    elif kind == "truncated header":
        bad.write_bytes(scan.read_bytes()[:30])
    elif kind == "not NIfTI":
        bad.write_text("these are not the voxels you are looking for")
    elif kind == "folder":
        bad.mkdir()
    assert "bad.nii.gz" in refused(capsys, folder, weights, bad, "-o", folder / "out")


@pytest.mark.parametrize("kind", ["one bit flipped", "checksum gone"])
@pytest.mark.parametrize("what", ["scan", "prior", "mask"])
def test_damage_that_only_the_checksum_shows(workplace, weights, capsys, what, kind):
    folder, scan, mask, prior = workplace
    files = {"scan": scan, "prior": prior, "mask": mask}
    # stored without compression a flipped bit does not stop the reading
    content = bytearray(gzip.compress(gzip.decompress(files[what].read_bytes()), compresslevel=0))
    if kind == "one bit flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[-8:]
    files[what].write_bytes(content)
    nibabel.load(files[what]).get_fdata()  # the library sees nothing
    message = refused(capsys, folder, weights, scan, "--prior", prior, "--mask", mask, "-o", folder / "out")
    assert "truncated or damaged one; copy it again" in message and files[what].name in message


@pytest.mark.parametrize("kind", BAD_VOLUMES)
def test_a_bad_earlier_scan(workplace, weights, capsys, kind):
    folder, scan, _, prior = workplace
    edit, words = BAD_VOLUMES[kind]
    message = refused(capsys, folder, weights, scan, "--prior", edited(prior, edit), "-o", folder / "out")
    assert words in message and "prior bad_prior.nii.gz" in message


OTHER_GRIDS = {
    "another shape": (lambda a, m: (a[:-1], m), "shape (30, 30, 30); got (29, 30, 30)"),
    "another frame": (
        lambda a, m: (a, shifted(m, 5)),
        "frame (equal affine, corners within 0.05 mm); got corners up to 5.0 mm apart",
    ),
    "flipped axes": (lambda a, m: (a, m @ np.diag([-1, 1, 1, 1])), "got corners up to 58.0 mm apart"),
}


@pytest.mark.parametrize("what", ["prior", "mask"])
@pytest.mark.parametrize("kind", OTHER_GRIDS)
def test_earlier_scan_or_mask_of_another_shape_or_frame(workplace, weights, capsys, what, kind):
    folder, scan, mask, prior = workplace
    edit, words = OTHER_GRIDS[kind]
    bad = edited({"prior": prior, "mask": mask}[what], edit)
    message = refused(capsys, folder, weights, scan, f"--{what}", bad, "-o", folder / "out")
    assert words in message and f"resample the {what} to the scan's grid" in message


@pytest.mark.parametrize(
    ("kind", "edit", "words"),
    [
        ("empty", lambda a, m: (a * 0, m), "empty"),
        ("beyond 0 and 1", lambda a, m: (a * 2, m), "only the values 0 and 1"),
        (
            "one voxel",
            lambda a, m: (at(a * 0, 1), m),
            "mask bad_mask.nii.gz: expected a brain of at least 1000 mm3; got 1 voxels, 1 mm3; check the mask",
        ),
        ("soft", lambda a, m: (a * 0.5, m), "only the values 0 and 1"),
        (
            "beside the brain",
            lambda a, m: (np.roll((a * 0 + (np.arange(30) < 2)), 0, 2), m),
            "contrast inside the mask",
        ),
    ],
)
def test_a_bad_mask(workplace, weights, capsys, kind, edit, words):
    folder, scan, mask, _ = workplace
    bad = edited(mask, edit)
    if kind == "beside the brain":
        scan = edited(scan, lambda a, m: (np.where(np.arange(30) < 2, 0, a), m))
    assert words in refused(capsys, folder, weights, scan, "--mask", bad, "-o", folder / "out")


def test_a_brain_without_contrast_and_without_a_mask(workplace, weights, capsys):
    folder, scan, *_ = workplace
    flat = edited(scan, lambda a, m: ((a > 0) * np.float32(9), m))
    message = refused(capsys, folder, weights, flat, "-o", folder / "out")
    assert "contrast inside the brain; got a constant; check the export" in message and "mask" not in message
    dot = edited(scan, lambda a, m: (at(a * 0, 5), m))
    assert "image bad_scan.nii.gz: expected a brain of at least 1000 mm3" in refused(
        capsys, folder, weights, dot, "-o", folder / "out"
    )


def test_a_head_with_skull_needs_a_mask(workplace, weights, capsys):
    folder, scan, *_ = workplace
    head = edited(scan, lambda a, m: (a + 1 + rng(2, "air").random(a.shape).astype(np.float32), m))
    message = refused(capsys, folder, weights, head, "-o", folder / "out")
    assert "HD-BET or SynthStrip" in message and "--mask" in message


def test_an_output_that_exists_or_cannot_be_written(workplace, weights, capsys):
    folder, scan, *_ = workplace
    (folder / "out").mkdir()
    (folder / "out" / "run.json").write_text("{}")
    assert "--overwrite" in refused(capsys, folder, weights, scan, "-o", folder / "out")
    (folder / "file").write_text("")
    assert "a folder's name; got a file or a link" in refused(
        capsys, folder, weights, scan, "-o", folder / "file", "--overwrite"
    )
    refused(capsys, folder, weights, scan, "-o", folder / "file" / "below")
    refused(capsys, folder, weights, scan, "-o", "/proc/dmplus/out")
    # a slip of the hand must not delete somebody's scans
    for option in ([], ["--overwrite"]):  # nor be told to try it
        message = refused(capsys, folder, weights, scan, "-o", folder, *option)
        assert "results of this command alone" in message and "--overwrite" not in message
    assert scan.is_file()


def test_paths_without_a_name_are_called_as_they_were_given(workplace, weights, capsys, monkeypatch):
    folder, scan, *_ = workplace
    monkeypatch.chdir(folder)
    assert refused(capsys, folder, weights, ".", "-o", "out").startswith("scan .: expected a NIfTI file, or a folder")
    assert refused(capsys, folder, weights, scan, "-o", "/").startswith("output /: expected a folder that holds")
    assert cli.main(["predict", str(scan), "-o", "out", "--spec", ".", *CPU]) == 2
    message = error_line(capsys)
    assert message.startswith(".: expected weights") and "got a folder" in message
    assert cli.main(["evaluate", ".", "-o", "out", "--sens", str(weights / "one.safetensors"), *CPU]) == 2
    assert error_line(capsys).startswith("cohort .: expected a folder with cases.csv")


@pytest.mark.parametrize("command", ["predict", "synth", "train", "evaluate", "run"])
@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/dmplus", "/sys/dmplus"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_slow(
    tmp_path, capsys, monkeypatch, command, place
):
    import dmplus.training  # noqa: F401  # before runtime.machine is replaced: what is imported then would keep the substitute

    def slow(*_, **__):
        raise AssertionError("the output was not asked for first")

    for work in ("volume.read_cohort", "predict.read_cohort", "predict.read_case", "predict.load_weights",
                 "synthetic.patient", "course.run_notebook", "runtime.machine"):  # fmt: skip
        monkeypatch.setattr(f"dmplus.{work}", slow)
    (tmp_path / "file").write_text("")
    out = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}.get(place, Path(place))
    first = {"synth": ["--cohort", "smoke"], "run": ["00_start_here"]}.get(command, ["input"])
    assert cli.main([command, *first, "-o", str(out)]) == 2
    message = error_line(capsys)
    assert message.startswith(f"output {out.name}: expected a ") and "got" in message and "choose another" in message
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("command", ["train", "synth"])
def test_results_do_not_mix_with_other_files(cohort, tmp_path, capsys, command):
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    first = {"synth": ["--cohort", "smoke"], "train": [str(cohort), "--preset", "smoke"]}[command]
    assert cli.main([command, *first, "-o", str(cohort)]) == 2
    assert "expected a new or empty folder" in error_line(capsys)
    assert {p: p.stat().st_mtime_ns for p in cohort.rglob("*")} == before


def test_overwrite_replaces_a_result_as_a_whole(tmp_path, weights, by_brightness):
    scan = stored(tmp_path, "scan")
    assert predict(weights, scan, "-o", tmp_path / "out") == 0
    first = (tmp_path / "out" / "run.json").read_bytes()
    assert cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), "--sens", str(weights / "one.safetensors"),
                     "--overwrite", *CPU]) == 0  # fmt: skip
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "spec_probability.nii.gz" not in names and (tmp_path / "out" / "run.json").read_bytes() != first
    assert {p.name for p in tmp_path.iterdir()} == {"scan.nii.gz", "out"}


def test_a_folder_that_is_there_is_used_and_stays_the_same_folder(tmp_path, weights, by_brightness):
    """It may be a mount, or where a shell stands, and its permissions were somebody's choice."""
    scan, out = stored(tmp_path, "scan"), tmp_path / "out"
    out.mkdir(mode=0o2750)
    out.chmod(0o2750)
    (out / ".DS_Store").touch()
    before = out.stat()
    assert predict(weights, scan, "-o", out) == 0
    assert predict(weights, scan, "-o", out, "--overwrite") == 0
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert (out / "lesions.csv").is_file() and not list(out.glob(".part*"))


@pytest.mark.parametrize("kind", ["missing", "text", "foreign", "truncated"])
@pytest.mark.parametrize("role", ["sens", "spec"])
def test_weights_that_cannot_be_used(workplace, weights, capsys, role, kind):
    import safetensors.torch

    folder, scan, *_ = workplace
    bad = folder / "w.safetensors"
    if kind == "text":
        bad.write_text("weights")
    elif kind == "foreign":
        safetensors.torch.save_file({"conv.weight": torch.zeros(3)}, bad)
    elif kind == "truncated":
        bad.write_bytes((weights / "one.safetensors").read_bytes()[:-50])
    before = sorted(folder.rglob("*"))
    other = {"sens": "spec", "spec": "sens"}[role]
    good = str(weights / "one.safetensors")
    command = ["predict", str(scan), "-o", str(folder / "out"), f"--{role}", str(bad), f"--{other}", good, *CPU]
    assert cli.main(command) == 2
    assert "w.safetensors" in error_line(capsys) and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_nothing_half_written_after_an_interruption(tmp_path, weights, by_brightness, monkeypatch, error, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dmplus.figures.triage_board", fail)
    scan = stored(tmp_path, "scan")
    (tmp_path / "out").mkdir()
    code = predict(weights, scan, "-o", tmp_path / "deep" / "out")
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert {p.name for p in tmp_path.rglob("*")} == {"scan.nii.gz", "out"}
    err = capsys.readouterr().err
    assert ("No space left" in err) == isinstance(error, OSError) and "Traceback" not in err
    assert ("enough memory" in err) == isinstance(error, MemoryError)


def test_what_a_killed_run_left_does_not_block_its_folder(tmp_path, weights, by_brightness, capsys):
    scan = stored(tmp_path, "scan")
    (tmp_path / "out" / ".part-123").mkdir(parents=True)
    assert predict(weights, scan, "-o", tmp_path / "out") == 0 and (tmp_path / "out" / "run.json").is_file()


# ------------------------------------------------------------------------------------------------ the command line
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "expected a command"),
        (["predict", "a.nii", "b.nii", "-o", "c"], "expected one SCAN; got b.nii as well; did you mean --prior?"),
        (["info", "sens", "spec"], "expected one WEIGHTS; got spec as well; see"),
        (["doctor", "now"], "expected options only; got now as well; see"),
        (
            ["synth", "-o", "b", "patientz=3"],
            "expected a field of CohortConfig (did you mean patients?); got 'patientz'; "
            "`python -m pydoc dmplus.synthetic_config.CohortConfig` lists them all",
        ),
        (
            ["train", "nowhere", "-o", "b", "--config", "nodir.json"],
            "nodir.json: expected a training configuration as JSON; got No such file or directory; pass",
        ),
        (["train", "nowhere", "-o", "b", "learning_rate=nan"], "learning_rate above 0; got nan"),
        (["predcit"], "did you mean predict?"),
        (["predict", "a.nii", "-o", "b", "--presicion", "float32"], "did you mean --precision?"),
        (["predict", "a.nii", "-o", "b", "--prio", "c"], "unknown option --prio"),
        (["predict", "a.nii"], "-o"),
        (["predict", "a.nii", "-o", "b", "--device", "tpu"], "tpu"),
        (["--verbose"], "--verbose"),
        (["synth", "-o", "b", "--cohort", "huge"], "huge"),
        (["synth", "-o", "b", "--seed", "3"], "unknown option --seed"),
        (["train", "nowhere", "-o", "b", "alhpa=0.5"], "did you mean alpha?"),
        (["train", "nowhere", "-o", "b", "alpha=much"], "alpha: expected float"),
        (["train", "nowhere", "-o", "b", "alpha"], "expected name=value; got 'alpha'"),
        (["train", "nowhere", "-o", "b", "sampling.flap=1"], "did you mean flip?"),
        (["train", "nowhere", "-o", "b"], "cases.csv"),
        (["evaluate", "nowhere", "-o", "b", "--predictions", "p"], "cases.csv"),
        (["evaluate", "nowhere", "-o", "b", "--rule", "best"], "got 'best'"),
        (["evaluate", "nowhere", "-o", "b", "--predictions", "p", "--sens", "sens"], "drop one of them"),
        (["evaluate", "nowhere", "-o", "b", "--threshold", "0"], "threshold"),
        (["run"], "dmplus run --list"),
        (["run", "99_no_such_notebook"], "notebook"),
        (["info", "nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_a_command_line_that_cannot_be_used(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    message = error_line(capsys)
    assert words in message and len(message) < 300
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_there_is_bad_input(monkeypatch, capsys):
    def absent(source):
        raise FileNotFoundError(2, "No such file or directory", source)

    monkeypatch.setattr("dmplus.predict.describe_weights", absent)
    assert cli.main(["info", "w"]) == 2 and "w: No such file" in error_line(capsys)


COMMANDS = ("predict", "synth", "train", "evaluate", "convert", "run", "doctor", "info")


@pytest.mark.parametrize("command", ["predict", "synth", "train", "evaluate"])
def test_help_says_that_an_empty_folder_is_used(command, capsys):
    assert cli.main([command, "--help"]) == 0
    (option,) = (p for p in capsys.readouterr().out.split("\n  -") if p.startswith("o FOLDER"))
    assert "empty" in option


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_like_documentation(command, capsys):
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("example", f"dmplus {command}", "what comes out", "exit codes", "130"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_and_version_start_without_the_heavy_libraries(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {command} " in text for command in COMMANDS)
    code = (
        "import sys; from dmplus import cli\n"
        "for argv in (['--help'], ['predict', '--help'], ['--version'], ['predcit']): cli.main(argv)\n"
        "print(sorted({'torch', 'numpy', 'nibabel', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_allocator_is_cured_by_the_console_entry_alone(monkeypatch, capsys):
    cured = []
    monkeypatch.setattr("dmplus.runtime.cure_allocator", lambda *_: cured.append(True))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    command = ["predict", "no.nii", "-o", "never"]
    assert cli.main(command) == 2 and cured == []
    monkeypatch.setattr(sys, "argv", ["dmplus", *command])
    assert cli.main() == 2 and cured == [True]
    monkeypatch.setattr(sys, "argv", ["dmplus", "info", "no.safetensors"])
    assert cli.main() == 2 and cured == [True]


def test_settings_are_cast_by_the_field_they_change():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        share: float = 0.5

    @dataclasses.dataclass(frozen=True)
    class Outer:
        n: int = 1
        rate: float = 1.0
        on: bool = False
        name: str = "a"
        edges: tuple[float, ...] = (1.0, 2.0)
        inner: Inner = dataclasses.field(default_factory=Inner)

    done = cli._configured(Outer(), ["n=3", "rate=1e-3", "on=true", "name=1", "edges=[3, 4]", "inner.share=0.25"])
    assert done == Outer(3, 1e-3, True, "1", (3, 4), Inner(0.25))
    for wrong in ("n=1.5", "on=yes", "on=1", "edges=3,", "rate=", "inner=3", "other=1", "n", "inner.other=2"):
        with pytest.raises(ValueError, match="expected"):
            cli._configured(Outer(), [wrong])


# ------------------------------------------------------------------------------------------------ the other doors
@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Four small cases: two to train on, one to validate, one to test."""
    folder = tmp_path_factory.mktemp("cohort")
    listed = []
    for i, split in enumerate(("train", "train", "validation", "test")):
        scan = stored(folder, "raw", extent=28, balls=(Ball((3.0 * i - 4, 2.0, 1.0), 4.0), Ball((-4.0, -6, 5), 3.0)))
        array, affine = volume.read_image(scan)
        case = Case(name=f"p{i}_v0", patient=f"p{i}", image=array, mask=array > 0, affine=affine,
                    label=(array > 160).astype(np.uint8), prior=array[::-1] if i % 2 else None)  # fmt: skip
        listed.append(volume.write_case(folder, case, split=split))
        scan.unlink()
    volume.write_cohort(folder, listed)
    return folder


def test_train_then_go_on_then_evaluate_then_predict(cohort, tmp_path, capsys):
    run, options = tmp_path / "run", ["--preset", "smoke", *CPU]
    settings = ["steps=2", "batch=2", "alpha=0.9", "checkpoint_every=1", "sampling.rotate=0.25"]
    assert cli.main(["train", str(cohort), "-o", str(run), *options, *settings]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["alpha"], config["sampling"]["rotate"]) == (2, 0.9, 0.25)
    first = (run / "weights.safetensors").read_bytes()
    assert cli.main(["train", str(cohort), "-o", str(run), *CPU]) == 0  # the folder alone says how to go on
    assert (run / "weights.safetensors").read_bytes() == first
    capsys.readouterr()
    assert cli.main(["train", str(cohort), "-o", str(run), *options, "steps=3"]) == 2  # another run's folder
    assert "expected" in error_line(capsys)

    made = str(run / "weights.safetensors")
    assert cli.main(["info", made]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["info"]["alpha"] == 0.9 and described["parameters"] > 1000

    command = ["evaluate", str(cohort), "--split", "test", "--sens", made, "--spec", made, *CPU]
    assert cli.main([*command, "-o", str(tmp_path / "evaluation")]) == 0
    assert "1 volumes of 1 patients" in capsys.readouterr().out
    summary = pd.read_csv(tmp_path / "evaluation" / "summary.csv")
    assert summary["model"].unique().tolist() == ["sens", "spec", "union"]
    assert summary["lesions"][0] == 2 and len(summary) == 9
    rows = pd.read_csv(tmp_path / "evaluation" / "lesions.csv")
    assert (rows["kind"] == "lesion").sum() == 6
    report = json.loads((tmp_path / "evaluation" / "run.json").read_text())
    assert report["matching"] == "any overlap, 26-connected" and str(tmp_path) not in json.dumps(report)
    assert cli.main([*command, "-o", str(tmp_path / "evaluation")]) == 2
    assert "--overwrite" in error_line(capsys)


def test_evaluate_counts_each_model_and_their_union(cohort, tmp_path, weights, by_brightness, monkeypatch):
    def half(model, image, *, mask, **_):  # one model sees the patient's left, the other the right
        left = np.arange(image.shape[0])[:, None, None] < 14
        return np.where(mask & (left == (model.info_seed == 0)) & (image > 1.5), 0.9, 0).astype(np.float32)

    monkeypatch.setattr("dmplus.inference.predict_volume", half)
    pair = ["--sens", str(weights / "one.safetensors"), "--spec", str(weights / "two.safetensors")]
    command = ["evaluate", str(cohort), "--split", "test", "-o", str(tmp_path / "out"), *pair, *CPU]
    assert cli.main(command) == 0
    table = pd.read_csv(tmp_path / "out" / "summary.csv").query("stratum == 'all'").set_index("model")
    assert table["tp_ref"].to_dict() == {"sens": 1, "spec": 1, "union": 2} and table["lesions"].eq(2).all()
    rows = pd.read_csv(tmp_path / "out" / "lesions.csv").query("found")
    sides = {model: part["x"].round().tolist() for model, part in rows.groupby("model")}
    assert max(sides["sens"]) < 14 <= min(sides["spec"]) and len(sides["union"]) == 2


def test_evaluate_reads_a_folder_of_predictions(cohort, tmp_path, capsys):
    (tmp_path / "maps").mkdir()
    for files in volume.read_cohort(cohort):
        label = nibabel.load(files.label)
        array = np.asarray(label.dataobj).astype(np.float32) * 0.9
        array[1, 1, 1] = 0.7  # one false positive each
        nibabel.save(nibabel.Nifti1Image(array, label.affine), tmp_path / "maps" / f"{files.name}.nii.gz")
    command = ["evaluate", str(cohort), "--predictions", str(tmp_path / "maps"), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--rule", "iou", "--min-overlap", "0.9"]) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary.loc[0, ["model", "lesions", "tp_ref", "fp", "mdsc"]].tolist() == ["predictions", 8, 8, 4, 1.0]
    rows = pd.read_csv(tmp_path / "out" / "lesions.csv")
    affines = {f.name: nibabel.load(f.label).affine for f in volume.read_cohort(cohort)}
    for row in rows.itertuples():  # the scanner's frame, for whoever looks the place up
        mm = affines[row.case][:3, :3] @ [row.x, row.y, row.z] + affines[row.case][:3, 3]
        assert [row.x_mm, row.y_mm, row.z_mm] == pytest.approx(mm.tolist(), abs=1e-3)
    for path in (tmp_path / "maps").iterdir():  # as dmplus predict lays them out
        (tmp_path / "out of predict" / path.name.removesuffix(".nii.gz")).mkdir(parents=True)
        shutil.copy(path, tmp_path / "out of predict" / path.name.removesuffix(".nii.gz") / "segmentation.nii.gz")
    folder = ["evaluate", str(cohort), "--predictions", str(tmp_path / "out of predict"), "-o", str(tmp_path / "again")]
    assert cli.main([*folder, "--rule", "iou", "--min-overlap", "0.9"]) == 0
    assert (tmp_path / "again" / "lesions.csv").read_bytes() == (tmp_path / "out" / "lesions.csv").read_bytes()
    capsys.readouterr()
    broken = sorted((tmp_path / "out of predict").iterdir())[-1] / "segmentation.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), broken)
    assert cli.main([*folder, "--overwrite"]) == 2
    assert f"case {broken.parent.name}: prediction segmentation.nii.gz" in error_line(capsys)
    assert cli.main([*command, "--overwrite", "--split", "holdout"]) == 2
    assert "choose another split" in error_line(capsys) and (tmp_path / "out" / "summary.csv").is_file()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("beyond", "only the values 0 and 1"), ("shape", "scan's shape"), ("frame", "frame"), ("absent", "label")],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_cohort_with_a_bad_label(cohort, tmp_path, weights, capsys, command, kind, words):
    case = volume.read_cohort(cohort, split="train")[0].load()
    files = volume.write_case(tmp_path / "bad", case, split="train")
    label = nibabel.load(files.label)
    array, affine = np.asarray(label.dataobj), label.affine.copy()
    if kind == "absent":
        files = dataclasses.replace(files, label=None)
    else:
        array = {"beyond": array * 3, "shape": array[1:], "frame": array}[kind]
        affine[0, 3] += 2 if kind == "frame" else 0
        nibabel.save(nibabel.Nifti1Image(array, affine), files.label)
    volume.write_cohort(tmp_path / "bad", [files])
    options = ["--preset", "smoke"] if command == "train" else ["--sens", str(weights / "one.safetensors")]
    assert cli.main([command, str(tmp_path / "bad"), "-o", str(tmp_path / "out"), *options, *CPU]) == 2
    assert words in error_line(capsys) and {p.name for p in tmp_path.iterdir()} == {"bad"}


@pytest.mark.parametrize("what", ["label", "prior"])
def test_evaluate_reads_every_file_before_a_model_runs(cohort, tmp_path, weights, capsys, monkeypatch, what):
    def never(*_, **__):
        raise AssertionError("a model ran before the files were read")

    monkeypatch.setattr("dmplus.inference.predict_volume", never)
    rows = [volume.write_case(tmp_path / "c", f.load(), split="test") for f in volume.read_cohort(cohort)]
    bad = rows[-1].label if what == "label" else rows[-1].image.with_name("late.nii.gz")
    label = nibabel.load(rows[-1].label)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj)[what == "prior" :] * 3, label.affine), bad)
    rows[-1] = dataclasses.replace(rows[-1], **{what: bad})
    volume.write_cohort(tmp_path / "c", rows)
    command = ["evaluate", str(tmp_path / "c"), "-o", str(tmp_path / "out"), "--sens", str(weights / "one.safetensors")]
    assert cli.main([*command, *CPU]) == 2
    assert bad.name in error_line(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("spec", "tiling"), [("theirs", "released"), ("one", "aligned")])
def test_predict_and_evaluate_cut_the_volume_alike(cohort, tmp_path, weights, monkeypatch, spec, tiling):
    taken = []

    def predict_volume(model, image, *, tiling="aligned", **_):
        taken.append(tiling)
        return np.zeros(image.shape, np.float32)

    monkeypatch.setattr("dmplus.inference.predict_volume", predict_volume)
    theirs = tmp_path / "theirs.safetensors"
    network.save(theirs, network.load(weights / "one.safetensors"), info={"source": "TensorFlow checkpoint"})
    models = ["--sens", str(theirs), "--spec", str({"theirs": theirs}.get(spec, weights / f"{spec}.safetensors")), *CPU]
    scan = volume.read_cohort(cohort, split="test")[0].image
    for command in (["predict", str(scan)], ["evaluate", str(cohort), "--split", "test"]):
        assert cli.main([*command, "-o", str(tmp_path / command[0]), *models]) == 0
        assert set(taken) == {tiling}
        report = json.loads((tmp_path / command[0] / "run.json").read_text())
        assert (report["settings"] if command[0] == "predict" else report)["tiling"] == tiling
        taken.clear()


def test_doctor_prints_a_table_and_fails_with_a_check(monkeypatch, capsys):
    code = cli.main(["doctor", "--no-probe"])
    text = capsys.readouterr().out
    for what in (
        "python",
        "torch",
        "device, precision",
        "allocator",
        "memory",
        "disk",
        "weights sens",
        "notebook kernel",
    ):
        assert what in text
    assert code == (1 if "FAIL" in text else 0)
    rows = [Check("a", True, "fine"), Check("longer", False, "broken")]
    assert table(rows).splitlines() == ["a       OK    fine", "longer  FAIL  broken", "1 of 2 checks failed"]
    monkeypatch.setattr("dmplus.doctor.checks", lambda probe: rows)
    assert cli.main(["doctor"]) == 1
    monkeypatch.setattr("dmplus.doctor.checks", lambda probe: rows[:1])
    assert cli.main(["doctor"]) == 0


def test_doctor_answers_where_torch_is_missing():
    code = (
        "import sys, importlib.metadata as m\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'numpy'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'torch': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
        "from dmplus import cli; sys.exit(cli.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "pip install 'torch>=" in done.stdout and done.stderr == ""


def test_doctor_sees_a_version_that_is_too_old(monkeypatch):
    from dmplus import doctor

    versions = {"numpy": "1.26.4", "torch": "2.9.1+cu126"}
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    rows = {row.what: row.ok for row in doctor._packages()}
    assert not rows["numpy"] and not rows["torch"] and rows["scipy"]
    assert [row.what for row in doctor.checks() if not row.ok] == ["torch", "numpy"]  # and nothing that needs them
    monkeypatch.setattr(doctor, "available_gib", lambda: 2.9)
    assert not doctor._memory().ok


def test_run_reports_the_failing_cell_with_exit_code_one(monkeypatch, capsys):
    from dmplus import course

    def fail(notebook, settings, **options):
        assert (notebook, settings, options["out"]) == ("00", ["seed=3", "profile=smoke"], "elsewhere")
        raise course.NotebookFailed("00_start_here: cell 7 failed: ValueError: no")

    monkeypatch.setattr(course, "run_notebook", fail)
    assert cli.main(["run", "00", "seed=3", "-o", "elsewhere", "profile=smoke"]) == 1
    assert "cell 7 failed" in capsys.readouterr().err


def test_synth_hands_the_settings_to_the_generator(monkeypatch, tmp_path):
    from dmplus import synthetic

    made = []
    monkeypatch.setattr(
        synthetic, "generate", lambda config, folder, *, progress, processes: made.append((config, folder))
    )
    assert (
        cli.main(["synth", "patients=9", "-o", str(tmp_path / "c"), "--cohort", "smoke", "seed=5", "split=(4, 1, 2)"])
        == 0
    )
    ((config, folder),) = made
    assert (config.patients, config.seed, folder) == (9, 5, str(tmp_path / "c"))
    assert config == dataclasses.replace(synthetic.COHORTS["smoke"], patients=9, seed=5, split=(4, 1, 2))
