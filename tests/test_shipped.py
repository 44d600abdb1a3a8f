"""The weights inside the package: readable, small, as their card says, and sane."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ball_case

from dmplus import network, shipped
from dmplus.inference import predict_volume
from dmplus.runtime import Machine
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
    shipped.shift_threshold(net, 0.9)
    after = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=CPU)
    certain = np.abs(before - 0.9) > 1e-4
    assert np.array_equal((before >= 0.9)[certain], (after >= 0.5)[certain])
    assert (before >= 0.9).any()


def test_operating_point_keeps_to_its_budget():
    net = network.load("bce")
    cases = [ball_case(i) for i in range(3)]
    for budget in (0.0, 1.0, 5.0):
        threshold, sensitivity, fp = shipped.operating_point(net, cases, budget, machine=CPU)
        assert 0.1 <= threshold < 1 and fp <= budget
        assert np.isnan(sensitivity) or 0 <= sensitivity <= 1
