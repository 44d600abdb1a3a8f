"""The operating point of a network, chosen on validation for a budget of false positives: what ``dmplus operate`` does.

A network trained with a large alpha marks a hundred places a volume at 0.5. Which threshold a reader can live with is a
question for validation patients, never for the test's. The answer is folded into the classifier's bias, so that a probability
of 0.5 is the operating point everywhere: in ``dmplus predict``, in ``dmplus evaluate``, in the notebooks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dmplus import curves, network, runtime
from dmplus.inference import predict_volume
from dmplus.network import DeepMedic
from dmplus.runtime import InputError, Machine, Progress
from dmplus.volume import Case, CaseFiles, read_cohort

#: Thresholds among which operating points are chosen.
LEVELS = 1 - np.geomspace(0.9, 1e-6, 90)
#: Largest share of a brain that may be marked: by the any-overlap rule one huge region finds whatever it covers, and no false
#: positive is left. So a network that learnt nothing would be the best of all, at a low threshold.
MOST_MARKED = 0.05


def along(
    net: DeepMedic, cases: Sequence[Case | CaseFiles], *, machine: Machine, levels: np.ndarray = LEVELS
) -> pd.DataFrame:
    """threshold, sensitivity, fp_per_volume and marked (the largest share of a brain) of a network at every one of ``levels``;
    InputError without a lesion.

    cases: with labels; of files one is in memory at a time.
    """
    table, marked = np.zeros((len(levels), 6)), np.zeros(len(levels))
    report = Progress(len(cases), "validation maps")
    for one in cases:
        case = (one.load() if isinstance(one, CaseFiles) else one).normalised()
        prob = predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=machine)
        table += curves.sweep(case.label > 0, prob, thresholds=levels, spacing=case.spacing)
        inside = np.sort(prob[case.mask])
        marked = np.maximum(marked, 1 - np.searchsorted(inside, levels) / len(inside))
        report.step()
    columns = {name: table[:, i] for i, name in enumerate(curves.COUNTS)}
    lesions = columns["tp_ref"] + columns["fn"]
    if not lesions.all():
        raise InputError("operating point: expected a lesion among the validation volumes; there is none; add some")
    return pd.DataFrame(
        {"threshold": levels, "sensitivity": columns["tp_ref"] / lesions, "fp_per_volume": columns["fp"] / len(cases),
         "marked": marked}
    )  # fmt: skip


def best(table: pd.DataFrame, budget: float) -> dict[str, float] | None:
    """The most sensitive line within a budget of false positives per volume that marks at most :data:`MOST_MARKED`, of equals the
    one with fewest; or None."""
    allowed = table[(table["fp_per_volume"] <= budget) & (table["marked"] <= MOST_MARKED)]
    if allowed.empty:
        return None
    order = allowed.sort_values(["sensitivity", "fp_per_volume"], ascending=[False, True], kind="stable")
    return {k: float(v) for k, v in order.iloc[0].items()}


def choose(tables: Mapping[str, pd.DataFrame], budget: float) -> tuple[str, dict[str, float]]:
    """The network, by name, that finds most within a budget of false positives per volume, and its threshold, sensitivity
    and false positives per volume. Of equals the one with the lower threshold: its outlines are larger than a lesion's core.

    ``InputError`` where no threshold of any keeps to the budget.
    """
    points = {name: point for name, table in tables.items() if (point := best(table, budget))}
    if not points:
        least = [t.loc[t["marked"] <= MOST_MARKED, "fp_per_volume"].min() for t in tables.values()]
        fewest = f"the fewest are {min(least):g}" if np.isfinite(least).any() else f"all mark over {MOST_MARKED:.0%} of a brain"
        raise InputError(
            f"operating point: expected a threshold with at most {budget:g} false positives per volume; {fewest}; take a "
            "smaller alpha, raise the budget or, if it has hardly learnt, train longer"
        )
    name = max(points, key=lambda n: (points[n]["sensitivity"], -points[n]["threshold"]))
    return name, points[name]


def shift_threshold(net: DeepMedic, threshold: float) -> None:
    """Move the classifier's bias so that what had probability ``threshold`` has 0.5; the order of voxels is unchanged."""
    with torch.no_grad():
        net.bias[1] -= math.log(threshold / (1 - threshold))


def operate(
    weights: Sequence[str | Path], cohort: str | Path, out: str | Path, *, budget: float, overwrite: bool = False,
    device: str = "auto", precision: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Of one or more weights, choose the network and the threshold that find most within ``budget`` false positives per
    volume on the split ``validation`` of a cohort folder, and write it to ``out`` with that threshold at 0.5.

    Returns what the file then says of itself beside what it said before: chosen (file name, and those it was chosen among),
    threshold_folded_in (with what was folded in before), budget_fp_per_volume, validation (sensitivity, fp_per_volume,
    volumes). Raises ``InputError`` for weights or a cohort that cannot be used, visits without a label, a budget that is not
    above 0 or that no threshold keeps to, another suffix than .safetensors, and, without ``overwrite``, a file that exists.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"output {out.name}: expected a name that ends in .safetensors; got another; correct it")
    if out.is_dir() or (out.exists() and not overwrite):
        raise InputError(f"output {out.name}: expected a new file; got one that exists; pass --overwrite or choose another")
    if not budget > 0:
        raise InputError(f"expected a budget above 0 false positives a volume; got {budget:g}; 10 is a sensitive model's")
    runtime.writable_folder(out.parent)
    cases = read_cohort(cohort, split="validation")
    if bare := [c.name for c in cases if c.label is None]:
        raise InputError(f"case {bare[0]}: expected a reference label; got none; choose on labelled validation visits")
    for files in cases:  # a bad file of the last visit shall not come to light after hours
        files.load()
    machine = runtime.machine(device, precision)
    nets = {str(w): network.load(w, device=machine.device) for w in weights}
    if others := [Path(w).name for w, net in nets.items() if not isinstance(net, DeepMedic)]:
        raise InputError(f"weights {others[0]}: expected a DeepMedic; got another network; its threshold cannot be folded in")
    tables = {w: along(net, cases, machine=machine) for w, net in nets.items()}
    name, point = choose(tables, budget)
    threshold, about = point["threshold"], dict(network.info(name)["info"])
    net = network.load(name)
    shift_threshold(net, threshold)
    if before := about.get("threshold_folded_in"):  # log-odds add up
        odds = before / (1 - before) * threshold / (1 - threshold)
        threshold = odds / (1 + odds)
    about |= {
        "chosen": Path(name).name, "chosen_among": [Path(w).name for w in nets], "threshold_folded_in": threshold,
        "budget_fp_per_volume": budget,
        "validation": {k: point[k] for k in ("sensitivity", "fp_per_volume")} | {"volumes": len(cases)},
    }  # fmt: skip
    network.save(out, net, info=about)
    return about
