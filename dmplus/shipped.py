"""How the weights inside the package were made: ``python -m dmplus.shipped COHORT RUNS``, resumable at any moment.

1. It starts from the experiments' trunk, a DeepMedic without prior (its weights are in the package, too).
2. That goes on for long, with JVSS, on :data:`SITES` small cohorts, each of a scanner, contrast agent and anatomy of its own
   (:func:`site`), so that it relies less on what all patients of one generator share.
3. From there it gets a prior path and is fine-tuned with JVSS at each of :data:`ALPHAS`, and with BCE alone.
4. On the validation visits of COHORT the most sensitive of these is chosen for a budget of candidates per volume
   (``sens``), and among the more specific ones for a budget of false positives (``spec``), each with its threshold. It is
   folded into the classifier's bias, so that a probability of 0.5 is the operating point everywhere.
5. Both are written to ``dmplus/weights`` and measured once on the test visits of COHORT; ``card.json`` holds every number.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dmplus import metrics, network, synthetic, training
from dmplus.experiment import GROWING_RATE, TUNING_RATE, trunk_config
from dmplus.inference import predict_volume
from dmplus.matching import match_lesions
from dmplus.network import DeepMedic
from dmplus.operating import LEVELS, along, best, choose, shift_threshold
from dmplus.runtime import Machine, Progress, cure_allocator, replacing, rng, versions, write_json
from dmplus.runtime import machine as choose_machine
from dmplus.synthetic import COHORTS, CohortConfig
from dmplus.volume import Case, read_cohort

CANDIDATES, FALSE_POSITIVES = 10.0, 0.5  #: false positives per validation volume that ``sens`` and ``spec`` may have
#: Of the fine-tunings, sensitive to specific. On validation 0.5 finds as much as 0.995 among ten false positives a volume
#: (notebooks/results/experiments/quick/operating_points.csv), at a threshold far below 1, so that outlines are not mere cores.
ALPHAS = (0.5, 0.05)
SITES, PATIENTS = 64, 6  #: cohorts of the second stage, and the patients of each

#: What differs from site to site: field of :class:`CohortConfig` → factors (least, most) of its value, drawn log-uniformly
#: and the same for all numbers of a field. Wider than the cohort's own laws, and than what was measured of real scans.
FACTORS = {
    "warp_mm": (0.8, 1.5), "rotation_deg": (0.7, 2.0), "sharpening": (0.3, 1.5), "sulcus_width_mm": (0.8, 1.3),
    "texture": (0.5, 1.8), "texture_mm": (0.75, 1.4), "surface_veins": (0.5, 1.5), "sulcal_vessels": (0.5, 1.5),
    "medullary_veins": (0.5, 2.0), "vessel_radius_mm": (0.8, 1.25), "vessel_level": (0.75, 1.15), "dura_share": (0.3, 2.5),
    "blobs": (0.4, 1.5), "spots": (0.4, 1.5), "bolus": (0.7, 1.5), "oedema_share": (0.6, 1.4), "psf_mm": (0.7, 1.5),
    "snr": (0.5, 1.2), "bias": (0.5, 1.8), "misregistration_mm": (0.4, 1.6),
}  # fmt: skip
#: The same, as values (least, most) of the mean of a law, drawn uniformly.
MEANS = {"grey": (0.68, 0.84), "fluid": (0.18, 0.38), "contrast": (1.3, 1.65)}

LONG = training.quick_config(
    prior="none", loss="jvss", alpha=0.5, steps=12000, batch=10, learning_rate=GROWING_RATE, validate_every=0, seed=12
)
_TUNING = training.quick_config(
    prior="path", loss="jvss", steps=1000, batch=10, learning_rate=TUNING_RATE, validate_every=0, seed=13
)
#: The fine-tunings. VSS is linear in a segment's peak, so that its optimum is 0 or 1 even where lesions and look-alikes cannot
#: be told apart: some stay above the surest threshold. BCE, a proper score, brings them down, but metastases with them,
#: so that within the smaller budget it finds less than the small alpha (the card's table of choices).
TUNED = {f"jvss-{a:g}": dataclasses.replace(_TUNING, alpha=a) for a in ALPHAS}
TUNED["bce"] = dataclasses.replace(_TUNING, loss="bce")


def site(number: int) -> CohortConfig:
    """The cohort of one site: that of ``quick`` with its own factors (:data:`FACTORS`) and means (:data:`MEANS`)."""
    base = COHORTS["quick"]
    draw = rng(base.seed, "site", number)
    changed: dict[str, Any] = {}
    for field, (least, most) in FACTORS.items():
        factor, own = math.exp(draw.uniform(math.log(least), math.log(most))), getattr(base, field)
        changed[field] = tuple(x * factor for x in own) if isinstance(own, tuple) else own * factor
    for field, (least, most) in MEANS.items():
        changed[field] = (draw.uniform(least, most), *getattr(base, field)[1:])
    changed["oedema_share"] = min(changed["oedema_share"], 1.0)
    return dataclasses.replace(
        base,
        **changed,
        name=f"site_{number:02d}",
        seed=base.seed + 1 + number,
        patients=PATIENTS,
        split=(PATIENTS, 0, 0),
    )


def make(cohort: Path, runs: Path, *, out: Path, machine: Machine, compile: bool | None = None) -> dict[str, Any]:
    """Train, choose operating points on validation, save, and measure on test; returns the card's numbers."""
    keywords: dict[str, Any] = {"machine": machine, "compile": compile}
    for number in range(SITES):
        synthetic.generate(site(number), runs / "sites" / site(number).name, processes=os.cpu_count() or 1)
    files = [f for n in range(SITES) for f in read_cohort(runs / "sites" / site(n).name)]
    varied = training.prepared((f.load() for f in files), machine)  # once for all trainings: the raw ones need not stay
    validation, test = ([f.load() for f in read_cohort(cohort, split=s)] for s in ("validation", "test"))
    print(f"{len(files)} volumes of {SITES} sites, {len(validation)} validation, {len(test)} test volumes", flush=True)
    long = training.train(LONG, varied, [], runs / "long", init=network.load("trunk"), **keywords)
    nets = {name: training.train(c, varied, [], runs / name, init=long, **keywords) for name, c in TUNED.items()}
    tables = {
        n: _kept(runs / n / "validation.json", training.fast(nets[n], machine, compile), validation, machine)
        for n in TUNED
    }
    names = list(TUNED)
    chosen = {"sens": choose({n: tables[n] for n in names[:-1]}, CANDIDATES)}
    after = names[names.index(chosen["sens"][0]) + 1 :]  # two models, as the paper's, not one with two thresholds
    chosen["spec"] = choose({n: tables[n] for n in after}, FALSE_POSITIVES)
    models = {}
    for role in network.SHIPPED:
        name, point = chosen[role]
        net = network.load(runs / name / "weights.safetensors")
        shift_threshold(net, point["threshold"])
        models[role] = _described(role, TUNED[name], point, len(validation))
        network.save(out / f"{role}.safetensors", net, info=models[role])
    for role, model in models.items():
        fast = training.fast(network.load(out / f"{role}.safetensors"), machine, compile)
        model["test"] = measure(fast, test, machine)
        print(role, model["test"], flush=True)
    trainings = ("long", *TUNED)
    histories = [pd.read_csv(runs / name / "history.csv") for name in trainings]
    card = {
        "versions": versions(), "machine": dataclasses.asdict(machine), "models": models,
        "trainings": {name: json.loads((runs / name / "versions.json").read_text(encoding="utf-8")) for name in trainings},
        "tilings": tilings(network.load(out / "sens.safetensors"), test[:10], machine),
        "volumes": {"sites": len(files), "validation": len(validation), "test": len(test)},
        "choice": {
            n: {"sens": best(t, CANDIDATES), "spec": best(t, FALSE_POSITIVES), "surest": t.iloc[-1].to_dict()}
            for n, t in tables.items()
        },
        "parameters": sum(p.numel() for p in network.load(out / "sens.safetensors").parameters()),
        "minutes": sum(h.seconds.iloc[-1] for h in histories) / 60,
    }  # fmt: skip
    write_json(out / "card.json", card)
    return card


def _described(role: str, config: training.TrainConfig, point: dict[str, float], volumes: int) -> dict[str, Any]:
    """What the card, and the weights file, say of a model."""
    return {
        "name": role,
        "loss": config.loss,
        "alpha": None if config.loss == "bce" else config.alpha,
        "weight_detection": None if config.loss == "bce" else config.weight_detection,
        "segments": config.batch * config.steps,
        "start": f"trunk, then {LONG.batch * LONG.steps:,} segments with JVSS {LONG.alpha:g} and no prior",
        "threshold_folded_in": point["threshold"],
        "budget_fp_per_volume": {"sens": CANDIDATES, "spec": FALSE_POSITIVES}[role],
        "data": f"synthetic: {SITES} sites",
        "validation": {k: point[k] for k in ("sensitivity", "fp_per_volume")} | {"volumes": volumes},
    }


def _kept(path: Path, net: DeepMedic, cases: Sequence[Case], machine: Machine) -> pd.DataFrame:
    """:func:`along`, read from ``path`` if an earlier call wrote it there (minutes a network on two cores)."""
    if path.exists():
        kept = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
        if np.array_equal(kept["threshold"], LEVELS):  # else of another list
            return kept
    table = along(net, cases, machine=machine, levels=LEVELS)
    write_json(path, table.to_dict("list"))
    return table


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
    models, volumes, trunk = card["models"], card["volumes"], trunk_config()
    stages = [stage for made in card["trainings"].values() for stage in (made, *made.get("earlier", []))]
    machines = {f"{stage['device']}, {stage['precision']}" for stage in stages}
    head = {
        "name": "dmplus shipped weights",
        "files": [f"dmplus/weights/{name}.safetensors" for name in models],
        "network": f"DeepMedic+ preset quick, {card['parameters']:,} parameters each",
        "data": f"synthetic-v1 (training part) for the start, then {volumes['sites']} volumes of {SITES} synthetic sites; "
        f"chosen on {volumes['validation']} validation, measured on {volumes['test']} test volumes of synthetic-v1",
        "command": "dmplus synth -o cohort/ && python -m dmplus.shipped cohort/ runs/shipped/",
        "device": f"{' and '.join(sorted(machines))}, {card['minutes']:.0f} minutes after the trunk",
        "versions": card["versions"],
    }
    lines = ["---", *(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()), "---", ""]
    lines += [
        "# Shipped weights: sens, spec",
        "",
        "Small DeepMedic+ networks for trying everything at once: the course, `dmplus predict`, the triage. Trained on",
        "**synthetic** patients, not, as the paper's, for 60 epochs on real ones. On real scans they raise false alarms and",
        "miss metastases: the README says how many on one. **Not for clinical use.**",
        "",
        f"All start from the experiments' trunk ({trunk.batch * trunk.steps:,} segments of {trunk.sampling.segment}³, BCE, "
        "from scratch, no prior), which",
        f"went on with JVSS, α = {LONG.alpha:g}, for {LONG.batch * LONG.steps:,} segments of {LONG.sampling.segment}³ on the "
        "sites: small cohorts that differ in",
        "contrast, texture, vessels, noise, blur, bias field, dura, and warp (`dmplus.shipped.FACTORS` and `MEANS`). Then each "
        "got a prior",
        "path and was fine-tuned there with a loss of its own.",
        "",
        "| weights | fine-tuning loss | segments of fine-tuning | operating point chosen on validation |",
        "|---|---|---|---|",
    ]
    for name, m in models.items():
        v = m["validation"]
        point = (
            f"at most {m['budget_fp_per_volume']:g} false positives a volume: threshold {m['threshold_folded_in']:.6g} "
            f"(sensitivity {v['sensitivity']:.3f} at {v['fp_per_volume']:.2f})"
        )
        lines.append(f"| `{name}` | {network.loss_in_words(m)} | {m['segments']:,} | {point} |")
    lines += [
        "",
        "Of these fine-tunings `sens` is the most sensitive within its budget, the last one aside, and `spec` the most sensitive",
        "within its own among those after it. They and their thresholds were chosen on validation alone:",
        "",
        f"| fine-tuned with | sensitivity within {CANDIDATES:g} false positives a volume | within {FALSE_POSITIVES:g} | "
        f"left at {LEVELS[-1]:.6g} |",
        "|---|---|---|---|",
    ]
    for name, points in card["choice"].items():
        cells = [
            f"{p['sensitivity']:.3f} (threshold {p['threshold']:.6g})" if p else "–"
            for p in (points["sens"], points["spec"])
        ]
        least = points["surest"]
        cells.append(f"{least['sensitivity']:.3f} with {least['fp_per_volume']:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The chosen threshold is folded into the classifier's bias, so that 0.5 is the operating point everywhere. Where it is",
        "far above 0.5, only the core of a lesion is left: its outline, and mDSC, are then too small.",
        "",
        "Measured on the synthetic test volumes at 0.5, any-overlap rule, 95 % intervals from resampling patients.",
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
    parser.add_argument("runs", type=Path, help="folder for the trainings of this cohort; run again to resume")
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
