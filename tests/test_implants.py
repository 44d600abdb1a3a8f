"""Implants: the table says what is in the image, they lie apart and inside, and the trial counts what it says it counts."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from dmplus import implant_trial, implants
from dmplus.implants import implant, tissue
from dmplus.metrics import label_lesions
from dmplus.runtime import InputError, Machine, rng
from dmplus.volume import Case, read_case, write_nifti

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "t1post_ms_patient07" / "T1POST.nii.gz"
N = 64


@pytest.fixture(scope="module")
def brain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan, mask and true white matter level of a ball of folded tissue with a bias of ± 10 %, noise and a vessel."""
    draw = rng(0, "phantom brain")
    x, y, z = np.indices((N, N, N)) - (N - 1) / 2
    mask = x**2 + y**2 + z**2 < 30**2
    folds = ndimage.gaussian_filter(draw.normal(size=mask.shape), 4)
    level = 100 * (1 + 0.1 * x / 30)
    classes = np.select([folds > -0.2 * folds.std(), folds > -1.4 * folds.std()], [1.0, 0.76], 0.28)
    image = ndimage.gaussian_filter(classes, 0.6) * level + draw.normal(0, 3, mask.shape)
    image[(y**2 + z**2 < 4) & mask] = 190
    return np.where(mask, image, 0).astype(np.float32), mask, level


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes that find room in a brain of 64 voxels."""
    size = implants._size
    monkeypatch.setattr(implants, "_size", lambda seed, i: min(size(seed, i), 350.0))


@pytest.fixture(scope="module")
def implanted(brain) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implants, "_size", lambda seed, i: (40.0, 120.0, 350.0)[i])
        patch.setattr(implants, "RING", ((300.0, 0.0), (np.inf, 1.0)))  # the largest has a core
        return implant(brain[0], brain[1], count=3, seed=2)


def check(brain, image: np.ndarray, labels: np.ndarray, table: pd.DataFrame) -> None:
    """Everything that holds for every result of ``implant``."""
    scan, mask, level = brain
    numbered, n = label_lesions(labels > 0)
    assert n == len(table) and np.array_equal(numbered, labels)
    inner = ndimage.distance_transform_edt(mask & (scan < 1.4 * level)) > implants.GAP
    assert inner[labels > 0].all(), "inside the brain, away from the vessel"
    assert np.array_equal(image[~mask], scan[~mask])
    for row in table.itertuples():
        own = labels == row.id
        others = np.argwhere((labels > 0) & ~own)
        apart = [np.linalg.norm(others - voxel, axis=1).min() for voxel in np.argwhere(own)] if len(others) else [99]
        assert min(apart) > implants.APART
        assert own.sum() == row.volume_mm3 == round(row.drawn_mm3)
        assert np.allclose(np.argwhere(own).mean(0), (row.x, row.y, row.z))
        assert row.white_matter == pytest.approx(level[own].mean(), rel=0.04)
        if row.core_share == 0:
            assert image[own].mean() / row.white_matter == pytest.approx(row.contrast, rel=1e-4)
        else:
            depth = ndimage.distance_transform_edt(own)
            if (depth > 3).any():
                assert image[own & (depth < 2)].mean() > image[depth > 3].mean()


def test_the_table_says_what_is_in_the_image(brain, implanted):
    image, labels, table = implanted
    check(brain, image, labels, table)
    assert table["core_share"].gt(0).sum() == 1 and table["contrast"].min() >= 1.1
    far = ndimage.distance_transform_edt(labels == 0) > 6
    assert np.array_equal(image[far], brain[0][far])


FAULTS = {
    "not_measured_after_blurring": (
        "amplitude = (contrast * unit - without[bright].mean()) /",
        "amplitude = contrast * unit #",
    ),
    "pasted_flat": ("cover * texture[box]", "0 * texture[box]"),
    "table_of_another_place": ("*voxels.mean(0)", "*voxels.mean(0)[::-1]"),
    "label_of_half_coverage": ("labels[box][body]", "labels[box][cover > 0.5]"),
    "too_near_to_others": ("> APART).all()", "> -1).all()"),
    "into_vessels": ("voxels.T)].min() > GAP", "voxels.T)].min() > -1"),
    "bright_core": ("draw.uniform(0.5, 0.75) * unit", "draw.uniform(2, 3) * unit"),
    "one_white_matter": ("unit = float(seen.white[tuple(place)])", "unit = float(np.median(seen.white[mask]))"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_noticed(brain, fault, monkeypatch):
    old, new = FAULTS[fault]
    source = Path(implants.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    module = types.ModuleType("faulty_implants")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source.replace(old, new), module.__dict__)
    monkeypatch.setattr(module, "_size", lambda seed, i: (40.0, 120.0, 350.0)[i % 3])
    monkeypatch.setattr(module, "RING", ((300.0, 0.0), (np.inf, 1.0)))
    if fault == "pasted_flat":  # the mean is right, the noise is gone
        with pytest.raises(AssertionError):
            check_noise(brain, module.implant)
        return
    seen = module.tissue(brain[0], brain[1])
    with pytest.raises(AssertionError):
        for seed in range(4):
            check(brain, *module.implant(brain[0], brain[1], count=6, seed=seed, seen=seen))


def test_equal_seeds_agree_and_others_differ(brain):
    scan, mask, _ = brain
    seen, kept = tissue(scan, mask), scan.copy()
    one, same, other = (implant(scan, mask, count=2, seed=s, seen=seen) for s in (3, 3, 4))
    assert np.array_equal(one[0], same[0]) and np.array_equal(one[1], same[1]) and one[2].equals(same[2])
    assert not np.array_equal(one[1], other[1]) and not set(one[2]["contrast"]) & set(other[2]["contrast"])
    assert np.array_equal(scan, kept)
    for result in (one, other):
        check(brain, *result)
    tenfold = implant(10 * scan, mask, count=2, seed=3)  # the scan's unit does not matter
    assert np.array_equal(one[1], tenfold[1]) and np.allclose(tenfold[0], 10 * one[0], rtol=1e-3, atol=0.5)


def check_noise(brain, do) -> None:
    scan, mask, _ = brain
    seen, noise = tissue(scan, mask), rng(0, "more noise").normal(0, 2, scan.shape)
    quiet, loud = (do(v, mask, count=2, seed=3, seen=seen) for v in (scan, scan + noise * mask))
    inside = ndimage.binary_erosion(quiet[1] > 0)
    assert np.polyfit(noise[inside], (loud[0] - quiet[0])[inside], 1)[0] > 0.75  # nearly 1: none of it is lost


def test_the_scans_own_noise_stays_under_an_implant(brain):
    check_noise(brain, implant)


def test_sizes_follow_the_law_and_shapes_are_not_round(monkeypatch):
    monkeypatch.undo()
    sizes = np.array([implants._size(1, i) for i in range(500)])
    assert sizes.min() >= 10 and sizes.max() <= 5000 and 0.34 < (sizes < 100).mean() < 0.48  # 0.41 by the law
    longest = []
    for i in range(12):
        label, cover, core, share = implants.shape(200.0, seed=1, index=i)
        assert label.sum() == 200 and label_lesions(label)[1] == 1 and (core.max() > 0) == (share > 0)
        assert cover.sum() == pytest.approx(200, rel=0.02) and (core <= cover + 1e-6).all()
        spread = np.linalg.eigvalsh(np.cov(np.argwhere(label).T))
        longest.append(np.sqrt(spread[-1] / spread.mean()))
    assert 1.05 < np.median(longest) < 1.4


def test_nothing_to_implant_and_what_cannot_be_used(brain):
    scan, mask, _ = brain
    seen = tissue(scan, mask)
    image, labels, table = implant(scan, mask, count=0, seed=0, seen=seen)
    assert np.array_equal(image, scan) and not labels.any() and table.empty and list(table) == list(implants.COLUMNS)
    for use, said in (
        (lambda: implant(scan, mask, count=-1, seed=0, seen=seen), "count from 0"),
        (lambda: implant(scan, mask, count=40, seed=0, seen=seen), "implant fewer"),
        (lambda: tissue(scan, mask[1:]), "that shape"),
        (lambda: tissue(scan, mask & False), "not empty"),
        (lambda: tissue(mask * 5.0, mask), "white matter"),
        (lambda: implants.shape(0.0, seed=0, index=0), "above 0 mm3"),
    ):
        with pytest.raises(InputError, match=said):
            use()


def test_no_code_of_the_synthetic_cohort():
    for module in (implants, implant_trial):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            names = [getattr(node, "module", None) or "", *(a.name for a in getattr(node, "names", []))]
            assert not any("synthetic" in name for name in names)


# ------------------------------------------------------------------------------------------------------ the trial
class Fake:
    """A "network" that marks what is brighter than so many standard deviations."""

    def __init__(self, limit: float) -> None:
        self.limit = limit


@pytest.fixture
def fakes(monkeypatch):
    def predict_volume(network, image, *, mask, **_):
        return (
            np.where(mask & (ndimage.gaussian_filter(image, 0.5) > network.limit), 0.9, 0.1).astype(np.float32) * mask
        )

    monkeypatch.setattr("dmplus.inference.predict_volume", predict_volume)
    said = {role: {"file": role, "sha256": "0", "info": {}} for role in ("sens", "spec")}
    models = {"sens": Fake(1.3), "spec": Fake(2.0)}
    monkeypatch.setattr("dmplus.predict.load_weights", lambda *a, **k: (models, said))
    monkeypatch.setattr("dmplus.runtime.machine", lambda: Machine("cpu", "float32", "fake"))
    return models


def test_trial_counts_implants_and_the_false_positives_they_add(brain, fakes):
    case = Case(name="phantom", image=brain[0], mask=brain[1])
    rows, table, pictures = implant_trial.measure(case, fakes, copies=2, per_copy=2)
    alone = table[(table["scan"] == "untouched") & (table["stratum"] == "all")].set_index("model")
    on = table[(table["scan"] == "implanted") & (table["stratum"] == "all")].set_index("model")
    assert list(alone.index) == ["sens", "spec", "union", "confirmed"]
    assert alone.loc["spec", "fp"] == alone.loc["confirmed", "fp"] == 1  # the vessel
    assert (on["lesions"] == 4).all() and (on["copies"] == 2).all() and (on["found_untouched"] == 0).all()
    assert (
        on.loc["spec", "tp_ref"]
        == on.loc["confirmed", "tp_ref"]
        <= on.loc["sens", "tp_ref"]
        == on.loc["union", "tp_ref"]
    )
    assert on.loc["sens", "tp_ref"] > 0 and on.loc["spec", "fp"] == 0, "the vessel is no false positive of the copies"
    found = rows[rows["kind"] == "lesion"].groupby("model")["found"].sum()
    assert all(sum(p["found"][m] for p in pictures) == found[m] for m in found.index)
    one = implant_trial.measure(case, {"spec": fakes["spec"]}, copies=1, per_copy=1, whole=True)
    assert set(one[1]["model"]) == {"spec"}
    with pytest.raises(InputError, match="at least 1 copy"):
        implant_trial.measure(case, fakes, copies=0, per_copy=1)


def test_door_writes_everything_or_nothing(brain, fakes, tmp_path, capsys):
    write_nifti(tmp_path / "scan.nii.gz", brain[0], affine=np.diag([1.0, 1, 1, 1]))
    door = [str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "--copies", "2", "--per-copy", "1"]
    assert implants.main(door) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(implant_trial.FILES)
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert said["weights"]["sens"]["sha256"] and str(tmp_path) not in json.dumps(said)
    rows = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert (rows["kind"] == "lesion").sum() == 2 * 4 and {"x_mm", "contrast", "found"} <= set(rows)
    assert "over copies of one brain" in capsys.readouterr().out
    assert implants.main(door) == 2 and "--overwrite" in capsys.readouterr().err
    assert implants.main([str(tmp_path / "none.nii.gz"), "-o", str(tmp_path / "new")]) == 2
    assert implants.main([*door[:2], str(tmp_path / "new"), "--per-copy", "40"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "scan.nii.gz"]


@pytest.mark.skipif(not REAL.is_file(), reason="the real scan is not part of the repository")
def test_real_scan():
    case, _ = read_case(REAL)
    corner = (slice(20, 100), slice(40, 150), slice(60, 130))
    image, mask = case.image[corner], case.mask[corner]
    seen = tissue(image, mask)
    assert 300 < np.median(seen.white[mask]) < 340 and 0.05 < seen.junction.sum() / mask.sum() < 0.4
    out, labels, table = implant(image, mask, count=4, seed=1, seen=seen)
    assert len(table) == 4 and (image[labels > 0] < 1.4 * 320).all()
    assert np.array_equal(out[~mask], image[~mask])
