"""Operating points: chosen on validation, within a budget, and folded into the weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ball_case

from dmplus import cli, network, operating
from dmplus.inference import predict_volume
from dmplus.runtime import InputError, Machine
from dmplus.volume import write_case, write_cohort

CPU = Machine("cpu", "float32", "test")


def test_shifting_the_threshold_moves_half_there():
    net = network.load("sens")
    case = ball_case(0).normalised()
    before = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)
    level = float(np.quantile(before[case.mask], 0.999))  # some voxels lie on either side, whatever the weights
    operating.shift_threshold(net, level)
    after = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)
    certain = case.mask & (np.abs(before / level - 1) > 1e-3)
    assert np.array_equal((before > level)[certain], (after > 0.5)[certain])
    assert (before > level)[certain].any() and (before < level)[certain].any()


def table(*points: tuple[float, ...]) -> pd.DataFrame:
    """threshold, sensitivity, false positives and, if it is not small, the share that is marked."""
    lines = [(*p, 0.01) if len(p) == 3 else p for p in points]
    return pd.DataFrame(lines, columns=["threshold", "sensitivity", "fp_per_volume", "marked"])


def test_the_most_sensitive_network_within_the_budget_is_chosen():
    tables = {
        "a": table((0.5, 0.9, 30.0), (0.8, 0.8, 9.0), (0.9, 0.8, 7.0)),
        "b": table((0.5, 0.85, 10.0), (0.9, 0.6, 0.5), (0.99, 0.5, 0.1)),
        "c": table((0.3, 0.6, 0.5), (0.9, 0.1, 0.0)),
    }
    assert operating.choose(tables, 10.0)[0] == "b"
    assert operating.choose(tables, 8.0) == (
        "a", {"threshold": 0.9, "sensitivity": 0.8, "fp_per_volume": 7.0, "marked": 0.01})
    name, point = operating.choose(tables, 0.5)
    assert (name, point["threshold"]) == ("c", 0.3)  # of equals the lower threshold
    with pytest.raises(InputError, match="at most 0.05 false positives per volume; the fewest are 0.1"):
        operating.choose({k: tables[k] for k in "ab"}, 0.05)
    tables["huge"] = table((0.1, 1.0, 0.0, 0.9), (0.9, 0.3, 400.0, 0.04))  # one region over everything finds everything
    assert operating.choose(tables, 10.0)[0] == "b"
    with pytest.raises(InputError, match="the fewest are 400"):
        operating.choose({"huge": tables["huge"]}, 10.0)


def test_a_network_that_learnt_nothing_is_not_the_best():
    torch.manual_seed(0)
    net = network.DeepMedic(network.preset("smoke")).eval()
    found = operating.along(net, [ball_case(i) for i in range(2)], machine=CPU, levels=operating.LEVELS[::12])
    trap = found[(found["fp_per_volume"] <= 1) & (found["sensitivity"] > 0.9)]
    assert len(trap) and (trap["marked"] > operating.MOST_MARKED).all()
    first = found.iloc[0]
    prob = [predict_volume(net, c.image, prior=c.prior, mask=c.mask, machine=CPU)[c.mask]
            for c in (ball_case(i).normalised() for i in range(2))]  # fmt: skip
    assert first["marked"] == pytest.approx(max((p >= first["threshold"]).mean() for p in prob))


def test_a_network_is_followed_along_its_thresholds():
    levels = operating.LEVELS[::12]
    net = network.load("sens")
    found = operating.along(net, [ball_case(i) for i in range(3)], machine=CPU, levels=levels)
    assert len(found) == len(levels) and found["threshold"].is_monotonic_increasing
    assert found["sensitivity"].between(0, 1).all() and found["sensitivity"].is_monotonic_decreasing
    with torch.no_grad():
        net.bias[1] += 100  # lesion everywhere: one false positive in the volume without a lesion, at every threshold
    empty = dataclasses.replace(ball_case(0), label=np.zeros_like(ball_case(0).label))
    found = operating.along(net, [ball_case(0), empty], machine=CPU, levels=levels)
    assert (found["sensitivity"] == 1).all() and (found["fp_per_volume"] == 0.5).all()
    with pytest.raises(InputError, match="expected a lesion among the validation volumes"):
        operating.along(net, [empty], machine=CPU, levels=levels)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four visits of validation, and one of the test without a label: it must not be read."""
    folder = tmp_path_factory.mktemp("operating") / "cohort"
    folder.mkdir()
    files = [write_case(folder, dataclasses.replace(ball_case(i), name=f"v{i}", patient=f"p{i}"), split="validation")
             for i in range(4)]  # fmt: skip
    bare = dataclasses.replace(ball_case(9), name="t", patient="t", label=None)
    write_cohort(folder, [*files, write_case(folder, bare, split="test")])
    return folder


def test_the_threshold_of_a_budget_is_chosen_on_validation_and_folded_in(cohort, tmp_path, capsys, monkeypatch):
    """The map of the cases' brightness stands for a network's: then what should be chosen can be counted by hand."""
    rivals = []
    for k in range(2):
        torch.manual_seed(k)
        rivals.append(tmp_path / f"net{k}.safetensors")
        network.save(rivals[k], network.DeepMedic(network.preset("smoke")), info={"loss": "jvss", "alpha": 0.995, "k": k})

    def along(net, cases, *, machine, levels=operating.LEVELS):
        assert [c.name for c in cases] == ["v0", "v1", "v2", "v3"]
        second = torch.equal(net.state_dict()[key], nets[1].state_dict()[key])
        lines = [(0.5, 0.9, 40.0), (0.9, 0.8 + 0.05 * second, 9.0), (0.99, 0.4, 0.25)]
        return table(*lines)

    nets = [network.load(r) for r in rivals]
    key = next(k for k, v in nets[0].state_dict().items() if not torch.equal(v, nets[1].state_dict()[k]))
    monkeypatch.setattr(operating, "along", along)
    out = tmp_path / "sens.safetensors"
    asked = ["operate", *map(str, rivals), "--cohort", str(cohort), "--budget", "10", "-o", str(out), "--device", "cpu"]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "net1.safetensors (of 2 networks): 85% found with 9.00 false positives a volume on 4 validation visits" in said
    about = network.info(out)["info"]
    assert about["threshold_folded_in"] == 0.9 and about["chosen"] == "net1.safetensors" and about["alpha"] == 0.995
    assert about["validation"] == {"sensitivity": 0.8500000000000001, "fp_per_volume": 9.0, "volumes": 4}
    assert about["chosen_among"] == ["net0.safetensors", "net1.safetensors"] and about["budget_fp_per_volume"] == 10
    moved = network.load(out).bias - nets[1].bias
    assert moved.tolist() == pytest.approx([0, -np.log(9)], rel=1e-5)  # 0.9 is 0.5 now
    assert cli.main([*asked[:1], str(out), *asked[3:], "--overwrite"]) == 0  # once more, from there
    again = network.info(out)["info"]
    assert again["threshold_folded_in"] == pytest.approx(81 / 82)  # 0.9 of what 0.9 had made 0.5
    assert (network.load(out).bias - nets[1].bias)[1].item() == pytest.approx(-np.log(81), rel=1e-5)
    assert str(tmp_path) not in str(again)


def test_what_was_chosen_holds_on_these_visits(cohort, tmp_path):
    """A real network from weights to weights: at 0.5 it has what was said of its threshold."""
    net, out = network.load("sens"), tmp_path / "own.safetensors"
    with torch.no_grad():
        net.bias[1] += 6  # marks far too much at 0.5, as a large alpha does
    network.save(tmp_path / "loose.safetensors", net)
    done = operating.operate([tmp_path / "loose.safetensors"], cohort, out, budget=2, device="cpu", precision="float32")
    held = operating.along(network.load(out), [ball_case(i) for i in range(4)], machine=CPU, levels=np.array([0.5]))
    loose = operating.along(net, [ball_case(i) for i in range(4)], machine=CPU, levels=np.array([0.5]))
    assert held["fp_per_volume"][0] == done["validation"]["fp_per_volume"] <= 2
    assert held["sensitivity"][0] == done["validation"]["sensitivity"]
    assert loose["fp_per_volume"][0] != held["fp_per_volume"][0] or loose["sensitivity"][0] != held["sensitivity"][0]


def test_a_network_without_the_bias_is_refused(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "load", lambda *_, **__: torch.nn.Conv3d(1, 2, 1))  # as a U-Net: no DeepMedic
    with pytest.raises(InputError, match="weights unet.safetensors: expected a DeepMedic; got another network"):
        operating.operate(["folder/unet.safetensors"], cohort, tmp_path / "out.safetensors", budget=1, device="cpu")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_cannot_be_chosen_is_refused(cohort, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a name that ends in .safetensors"):
        operating.operate(["sens"], cohort, tmp_path / "a.pt", budget=1)
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match="got one that exists; pass --overwrite"):
        operating.operate(["sens"], cohort, tmp_path / "a.safetensors", budget=1)
    for budget in (0, -1, float("nan")):
        with pytest.raises(InputError, match="expected a budget above 0"):
            operating.operate(["sens"], cohort, tmp_path / "b.safetensors", budget=budget)
    text = (cohort / "cases.csv").read_text()
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in cohort.iterdir():
        (bare / path.name).write_bytes(path.read_bytes())
    (bare / "cases.csv").write_text(text.replace("v1_label.nii.gz", ""))
    with pytest.raises(InputError, match="case v1: expected a reference label; got none"):
        operating.operate(["sens"], bare, tmp_path / "b.safetensors", budget=1)
    broken = text.replace("v3_prior.nii.gz", "v3_mask.nii.gz")  # a prior that is none, of the last visit
    (bare / "cases.csv").write_text(broken)
    with pytest.raises(InputError, match="case v3: prior v3_mask.nii.gz"), monkeypatch.context() as patched:
        patched.setattr(operating, "along", lambda *_, **__: pytest.fail("a network ran first"))
        operating.operate(["sens"], bare, tmp_path / "b.safetensors", budget=1)
    (bare / "cases.csv").write_text(text.replace("validation", "train"))
    with pytest.raises(InputError, match="expected cases of split validation"):
        operating.operate(["sens"], bare, tmp_path / "b.safetensors", budget=1)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["a.safetensors"]
