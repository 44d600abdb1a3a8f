"""The weights inside the package: readable, small, as their card says, and sane."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ball_case

from dmplus import network, shipped
from dmplus.predict import describe_weights
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
    assert spec["loss"] == "bce" or sens["alpha"] > spec["alpha"]
    assert sens["budget_fp_per_volume"] <= 10 and sens["validation"]["fp_per_volume"] <= sens["budget_fp_per_volume"]
    assert spec["validation"]["fp_per_volume"] <= spec["budget_fp_per_volume"]


def test_the_loss_of_weights_in_words():
    for name in network.SHIPPED:
        about = network.info(name)["info"]
        assert network.loss_in_words(about) == f"JVSS, alpha {about['alpha']}"
    assert network.loss_in_words({"loss": "bce", "alpha": None}) == network.loss_in_words({"loss": "bce"}) == "BCE"


def test_model_card_is_computed_from_the_numbers():
    card = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    text = (WEIGHTS.parents[1] / "data_cards" / "weights.md").read_text(encoding="utf-8")
    assert text == shipped.card_text(card)


def test_readme_says_what_the_card_says():
    models = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))["models"]
    sens, spec = (models[n]["test"]["all"] for n in ("sens", "spec"))
    sentence = (
        f"over {sens['volumes']} synthetic test volumes the sensitive model finds {sens['sensitivity']:.0%} of "
        f"{sens['lesions']} metastases with {sens['fp_per_volume']:.1f} false positives a volume, the specific one "
        f"{spec['sensitivity']:.0%} with {spec['fp_per_volume']:.1f}"
    )
    text = " ".join((WEIGHTS.parents[1] / "README.md").read_text(encoding="utf-8").split()).replace(" %", "%")
    assert sentence in text, sentence


def test_readme_says_what_happened_on_the_real_scan():
    folder = WEIGHTS.parents[1] / "notebooks" / "results" / "real_scan"
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name in ("sens", "spec"):  # those that are shipped, not earlier ones
        assert run["weights"][name]["sha256"] == describe_weights(name)["sha256"]
    table = pd.read_csv(folder / "summary.csv").query("stratum == 'all'").set_index(["model", "scan"])
    fp = {m: table.loc[(m, "untouched"), "fp"] for m in ("sens", "spec")}
    found = {m: table.loc[(m, "implanted"), "tp_ref"] for m in ("sens", "spec")}
    sentence = (
        f"On one real scan without metastases the sensitive model marks {fp['sens']} places, the specific one {fp['spec']}; "
        f"of {table.loc[('sens', 'implanted'), 'lesions']} metastases implanted into it they find {found['sens']} and "
        f"{found['spec']}"
    )
    assert sentence in " ".join((WEIGHTS.parents[1] / "README.md").read_text(encoding="utf-8").split()), sentence


@pytest.mark.parametrize("index", [0, 1])
def test_sensitive_weights_in_both_slots_confirm_everything(index):
    config = COHORTS["smoke"]
    case = patient(config, index).visits[-1].case
    sens = network.load("sens")
    found = triage_case(case, sens, sens, machine=CPU)
    assert (found.lesions.tier == "confirmed").all() and (found.lesions.seen_by == "both").all()
    again = triage_case(case, network.load("sens"), network.load("sens"), machine=CPU)
    assert (again.lesions.tier == "confirmed").all()


def test_sites_differ_within_their_ranges():
    base, sites = COHORTS["quick"], [shipped.site(n) for n in range(shipped.SITES)]
    for field, (least, most) in shipped.FACTORS.items():
        own = np.atleast_1d(getattr(base, field))
        ratios = np.array([np.atleast_1d(getattr(s, field)) / own for s in sites])
        assert np.ptp(ratios, axis=1).max() < 1e-9  # one factor for all numbers of a field
        top = min(most, 1 / own.max()) if field == "oedema_share" else most
        assert ratios.min() >= least * (1 - 1e-9) and ratios.max() <= top * (1 + 1e-9)
        assert ratios.max() / ratios.min() > 1.3  # and not the same everywhere
    for field, (least, most) in shipped.MEANS.items():
        means = [getattr(s, field)[0] for s in sites]
        assert least <= min(means) < max(means) <= most
        assert all(getattr(s, field)[1:] == getattr(base, field)[1:] for s in sites)
    assert len({s.seed for s in sites} | {base.seed}) == len(sites) + 1  # no patient twice, none of the test's
    assert patient(sites[0], 0).visits
    text = (WEIGHTS.parents[1] / "notebooks" / "00_start_here.py").read_text(encoding="utf-8")
    assert f"training patients of {base.seed} to {max(s.seed for s in sites)}" in text


def test_a_scored_network_is_not_scored_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "LEVELS", shipped.LEVELS[::12])
    path, cases = tmp_path / "validation.json", [ball_case(0)]
    first = shipped._kept(path, network.load("sens"), cases, CPU)
    monkeypatch.setattr(shipped, "along", lambda *_, **__: pytest.fail("scored again"))
    pd.testing.assert_frame_equal(shipped._kept(path, network.load("sens"), cases, CPU), first, check_exact=True)
    monkeypatch.setattr(shipped, "along", lambda *_, **__: first.tail(3))
    monkeypatch.setattr(shipped, "LEVELS", shipped.LEVELS[-3:])  # another list: the old table does not answer
    assert len(shipped._kept(path, network.load("sens"), cases, CPU)) == 3
