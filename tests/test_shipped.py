"""The weights inside the package: readable, small, as their card says, and sane."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ball_case

from dmplus import network, shipped
from dmplus.inference import predict_volume
from dmplus.runtime import InputError, Machine
from dmplus.synthetic import COHORTS, patient
from dmplus.triage import triage_case

CPU = Machine("cpu", "float32", "test")
WEIGHTS = Path(network.__file__).parent / "weights"


def test_files_load_and_are_small():
    total = 0
    for name in network.SHIPPED:
        net = network.load(name)
        assert net.config == network.preset("quick", prior="path")
        total += network.weights_path(name).stat().st_size
    assert total <= 10e6
    sens, spec = (network.info(n)["info"] for n in ("sens", "spec"))
    assert sens["alpha"] > spec["alpha"]
    assert sens["budget_fp_per_volume"] <= 10 and sens["validation"]["fp_per_volume"] <= sens["budget_fp_per_volume"]
    assert spec["validation"]["fp_per_volume"] <= spec["budget_fp_per_volume"]


def test_model_card_is_computed_from_the_numbers():
    card = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    text = (WEIGHTS.parents[1] / "data_cards" / "weights.md").read_text(encoding="utf-8")
    assert text == shipped.card_text(card)


def test_readme_says_what_the_card_says():
    models = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))["models"]
    sens, spec = (models[n]["test"]["all"] for n in ("sens", "spec"))
    sentence = (
        f"over {sens['volumes']} synthetic test volumes the sensitive model finds {sens['sensitivity']:.0%} of "
        f"{sens['lesions']} metastases with {sens['fp_per_volume']:.1f} false candidates a volume, the specific one "
        f"{spec['sensitivity']:.0%} with {spec['fp_per_volume']:.1f}"
    )
    text = " ".join((WEIGHTS.parents[1] / "README.md").read_text(encoding="utf-8").split()).replace(" %", "%")
    assert sentence in text, sentence


@pytest.mark.parametrize("index", [0, 1])
def test_sensitive_weights_in_both_slots_confirm_everything(index):
    config = COHORTS["smoke"]
    case = patient(config, index).visits[-1].case
    sens = network.load("sens")
    found = triage_case(case, sens, sens, machine=CPU)
    assert (found.lesions.tier == "confirmed").all() and (found.lesions.seen_by == "both").all()
    again = triage_case(case, network.load("sens"), network.load("sens"), machine=CPU)
    assert (again.lesions.tier == "confirmed").all()


def test_shifting_the_threshold_moves_half_there():
    net = network.load("bce")
    case = ball_case(0).normalised()
    before = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)
    level = float(np.quantile(before[case.mask], 0.999))  # some voxels lie on either side, whatever the weights
    shipped.shift_threshold(net, level)
    after = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)
    certain = case.mask & (np.abs(before / level - 1) > 1e-3)
    assert np.array_equal((before > level)[certain], (after > 0.5)[certain])
    assert (before > level)[certain].any() and (before < level)[certain].any()


def test_operating_point_keeps_to_its_budget():
    net = network.load("bce")
    cases = [ball_case(i) for i in range(3)]
    points = {b: shipped.operating_point(net, cases, b, machine=CPU) for b in (0.0, 1.0, 1e3)}
    for budget, (threshold, sensitivity, fp) in points.items():
        assert 0.0999 < threshold < 1 and fp <= budget
        assert 0 <= sensitivity <= 1
    assert points[0.0][1] <= points[1.0][1] <= points[1e3][1]  # a larger budget never costs sensitivity


def test_operating_point_says_when_no_threshold_keeps_to_the_budget():
    net = network.load("bce")
    with torch.no_grad():
        net.bias[1] += 100  # lesion everywhere: no threshold helps
    case = dataclasses.replace(ball_case(0), label=np.zeros_like(ball_case(0).label))
    with pytest.raises(InputError, match=r"at most 0 false positives per volume; the fewest are 0.5"):
        shipped.operating_point(net, [ball_case(0), case], 0.0, machine=CPU)
    with pytest.raises(InputError, match="expected a lesion among the validation volumes"):
        shipped.operating_point(net, [case], 0.0, machine=CPU)
