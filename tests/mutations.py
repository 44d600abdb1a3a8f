"""Planted faults, each of which must make a test fail: ``python tests/mutations.py [NAME ...]`` (minutes, all cores).

Every fault changes a copy of the package in a temporary folder and runs the tests that should notice there. Exit code 1
if one goes unnoticed. ``tests/test_mutations.py`` checks in seconds that each fault still fits the source.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Replace each text by its successor in ``dmplus/<module>.py``; ``tests``: what must then fail."""

    name: str
    module: str
    changes: tuple[tuple[str, str], ...]
    tests: str

    def apply(self, package: Path) -> None:
        path = package / f"{self.module}.py"
        text = path.read_text(encoding="utf-8")
        for old, new in self.changes:
            assert text.count(old) == 1, f"{self.name}: {self.module}.py has {text.count(old)} times {old!r}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def fault(name: str, module: str, *changes: tuple[str, str], tests: str) -> Fault:
    return Fault(name, module, changes, tests)


NETWORK = "test_network.py::test_reproduces_the_authors_program"
STEP = "test_training.py::test_three_steps_of_the_authors_program"
VOLUME = "test_inference.py::test_released_tiling_reproduces_the_authors_map"
LOSSES = "test_losses.py"

FAULTS = (
    # ------------------------------------------------------------------------------------- the network
    fault("BN epsilon 1e-5", "network", ("FLOAT32_TINY = 1.1754944e-38", "FLOAT32_TINY = 1e-5"), tests=NETWORK),
    fault("one residual missing", "network", ("        4,\n        6,\n        8,\n", "4, 6"), tests=NETWORK),
    fault(
        "1³ residual missing",
        "network",
        ("residual_fully_connected: tuple[int, ...] = (2,)", "residual_fully_connected: tuple[int, ...] = ()"),
        tests=NETWORK,
    ),
    fault(
        "low-resolution paths swapped",
        "network",
        (
            "zip(self.config.low_factors, self.low, low, strict=True)",
            "zip(self.config.low_factors, self.low[::-1], low)",
        ),
        tests=NETWORK,
    ),
    fault(
        "upsampling crop shifted by one",
        "network",
        ("x[:, :, : out[0], : out[1], : out[2]]", "x[:, :, 1 : out[0] + 1, 1 : out[1] + 1, 1 : out[2] + 1]"),
        tests=NETWORK,
    ),
    fault(
        "residual crop shifted by one",
        "network",
        ("(x.shape[axis] - m) // 2, m)", "(x.shape[axis] - m) // 2 + 1, m)"),
        tests=NETWORK,
    ),
    fault(
        "inverted dropout",
        "network",
        ('    dropout_scaling: str = "released"', '    dropout_scaling: str = "inverted"'),
        tests=NETWORK,
    ),
    fault(
        "centre-aligned low-resolution grid",
        "network",
        ('"released"  #: low-resolution', '"aligned"  #:'),
        tests=VOLUME,
    ),
    fault(
        "standard deviation averaged over the rows instead of the variance",
        "network",
        ("self.variances.mean(0)", "self.variances.sqrt().mean(0) ** 2"),
        tests=NETWORK,
    ),
    fault(
        "unbiased batch variance",
        "network",
        (
            "square().mean(EACH)",
            "square().sum(EACH) / (wide[:, 0].numel() - 1)",
        ),
        tests=STEP,
    ),
    fault("dropout keeps what it should drop", "network", ("+ (1 - rate)", "+ rate"), tests="test_network.py"),
    fault(
        "the first layer's shift is left out",
        "network",
        (
            'torch.einsum("oixyz,i->o", self.conv.weight, self.shift)',
            'torch.einsum("oixyz,i->o", self.conv.weight, 0 * self.shift)',
        ),
        tests=NETWORK,
    ),
    fault(
        "a false positive outlives a stronger one it merges with",
        "scoring",
        ("alive & (true[own] | (best[own] != peaks))", "alive & true[own]"),
        tests="test_scoring.py",
    ),
    fault(
        "a false positive that merges with a lesion's blob stays one",
        "scoring",
        ("alive & (true[own] | (best[own] != peaks))", "alive & (best[own] != peaks)"),
        tests="test_scoring.py",
    ),
    fault(
        "another patient's prior may be the patient's own",
        "experiment",
        ("if cases[j].patient != cases[i].patient", "if True"),
        tests="test_experiment.py",
    ),
    fault(
        "any blob of the union is confirmed",
        "scoring",
        ("best[np.unique(blobs[confirmed])] = 2", "best[np.unique(blobs[candidate])] = 2"),
        tests="test_scoring.py",
    ),
    fault(
        "triage thresholds exchange their budgets",
        "experiment",
        ("(CANDIDATES, CONFIRMED), strict=True", "(CONFIRMED, CANDIDATES), strict=True"),
        tests="test_experiment.py",
    ),
    fault(
        "the vote is the mean",
        "experiment",
        ('("majority", VOTERS, np.median)', '("majority", VOTERS, np.mean)'),
        tests="test_experiment.py::test_triage_is_chosen_on_validation_and_sorts_the_test_visits",
    ),
    fault(
        "a triage looks for thresholds among the rows' alone",
        "experiment",
        ("len(visits), levels=scoring.FINE)", "len(visits))"),
        ("level = len(scoring.FINE) - 1", "level = len(scoring.LEVELS) - 1"),
        tests="test_experiment.py::test_a_budget_that_no_threshold_keeps_gets_the_highest_and_says_what_it_leaves",
    ),
    fault(
        "collecting one triage drops the other",
        "experiment",
        ("table = pd.concat([earlier[~earlier", "pd.concat([earlier[~earlier"),
        tests="test_experiment.py::test_the_triage_of_the_longest_trainings_stands_beside_the_other",
    ),
    fault(
        "a metastasis that no candidate touches is forgotten in the second look",
        "second_look",
        ("return rows + [", "return rows or ["),
        ("k = 0 if np.isnan(logit) else", "k = len(levels) if np.isnan(logit) else"),
        tests="test_second_look.py",
    ),
    fault(
        "the second look measures the current scan twice",
        "second_look",
        ("here, then, around = now[box], before[box]", "here, then, around = now[box], now[box]"),
        tests="test_second_look.py::test_candidates_are_measured_in_both_scans",
    ),
    fault(
        "the second look learns from the test patients",
        "second_look",
        ("fit(train, (*NOW", "fit(test, (*NOW"),
        tests="test_second_look.py::test_readers_learn_from_training_patients_alone",
    ),
    fault(
        "a budget that no level keeps counts as nothing found",
        "results",
        ("np.where(fp <= budget, s, 0.0).max(-1), np.nan)", "np.where(fp <= budget, s, 0.0).max(-1), 0.0)"),
        tests="test_claims.py::test_a_budget_that_no_level_keeps_has_no_sensitivity",
    ),
    fault(
        "false positives are counted below the floor",
        "results",
        ("FALSE] = np.nan", "FALSE] += 0"),
        tests="test_claims.py",
    ),
    fault(
        "a false positive ends one level early",
        "results",
        ("top[which] + 1), -1", "top[which]), -1"),
        tests="test_claims.py",
    ),
    fault(
        "seeds are not resampled",
        "results",
        (
            "multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)",
            "multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) * 0 + 1",
        ),
        tests="test_claims.py",
    ),
    fault(
        "two models are resampled apart",
        "results",
        ('rng(0, "resampled patients", patients)', "np.random.default_rng()"),
        ("@functools.lru_cache(maxsize=16)\n", ""),
        tests="test_claims.py",
    ),
    fault(
        "precision of the last point, not of the best",
        "results",
        ("np.maximum.accumulate(np.nan_to_num(height)[..., ::-1], -1)[..., ::-1]", "np.nan_to_num(height)"),
        tests="test_claims.py",
    ),
    fault(
        "no difference is on the paper's side",
        "claims",
        ("direction = math.isinf(low) or math.isinf(high)", "direction = False"),
        tests="test_claims.py",
    ),
    fault(
        "two layers of dropout share a mask when compiled",
        "network",
        ("_random_bytes(x.detach())", "_random_bytes(torch.zeros(x.shape, device=x.device))"),
        tests="test_training.py",
    ),
    fault("a weak verdict needs nothing", "claims", ("WEAK = 0.8", "WEAK = 0.0"), tests="test_claims.py"),
    fault(
        "the rival's false positives are moved instead",
        "claims",
        (
            "float(results.fp_at(results.sensitivity(pb))(pa)), float(results.fp_per_volume(pb))",
            "float(results.fp_at(results.sensitivity(pa))(pb)), float(results.fp_per_volume(pa))",
        ),
        tests="test_claims.py",
    ),
    fault(
        "a U-Net one voxel beside its block",
        "unet",
        ("slice(m, n - m)", "slice(m + 1, n - m + 1)"),
        tests="test_unet.py",
    ),
    fault(
        "the residual's gradient shifted by one",
        "network",
        ("(n - m) // 2, n - m - (n - m) // 2]", "(n - m) // 2 + 1, n - m - (n - m) // 2 - 1]"),
        tests="test_network.py::test_a_residual_connection_adds_the_centre_of_the_shared_channels",
    ),
    fault(
        "the mean moves with no voxel",
        "network",
        ("-scale * d_bias / n - slant * mean", "-slant * mean"),
        tests="test_network.py::test_the_written_out_gradients_are_those_of_the_formula",
    ),
    fault(
        "the variance moves with no voxel",
        "network",
        ("slant = -scale *", "slant = 0 * -scale *"),
        tests="test_network.py::test_the_written_out_gradients_are_those_of_the_formula",
    ),
    fault("batch statistics always in one row", "network", ("(self.row + 1)", "(self.row + 0)"), tests=STEP),
    fault(
        "classifier bias dropped", "network", ("logits + self.bias.view", "logits + 0 * self.bias.view"), tests=NETWORK
    ),
    fault(
        "a channel without variance divides by it",
        "network",
        ("return variance > 1e-10 * mean**2 + 1e-16", "return variance > -1"),
        tests="test_network.py::test_finite_on_degenerate_input",
    ),
    # ------------------------------------------------------------------------------------- the tiler
    fault(
        "corner fill 0",
        "inference",
        ("np.full((edge,) * 3, fill, np.float32)", "np.zeros((edge,) * 3, np.float32)"),
        tests=VOLUME,
    ),
    fault(
        "tiles skipped on the output window",
        "inference",
        (
            "slice(s, s + RELEASED_TILE) for s in c)].any()",
            "slice(s + margin, s + margin + out_edge) for s in c)].any()",
        ),
        tests=VOLUME,
    ),
    fault(
        "no slip of the coarse grid",
        "inference",
        ("begin = max(0, s)", "begin = s % factor if s < 0 else s"),
        tests=VOLUME,
    ),
    fault(
        "padding repeats the edge voxel",
        "inference",
        ('np.pad(image, margin, "reflect")', 'np.pad(image, margin, "symmetric")'),
        tests=VOLUME,
    ),
    fault("last tile not moved back", "inference", ("out_edge), d - RELEASED_TILE]", "out_edge)]"), tests=VOLUME),
    fault("mask not applied", "inference", ("    out[~mask] = 0\n", ""), tests="test_inference.py"),
    fault(
        "aligned tile one voxel off",
        "inference",
        ("corners = [[s - config.margin for s in start]", "corners = [[s - config.margin + 1 for s in start]"),
        tests="test_inference.py",
    ),
    fault(
        "one tile for both of a pass",
        "inference",
        ("for first in firsts])", "for first in firsts[:1] * len(firsts)])"),
        tests="test_inference.py",
    ),
    # ------------------------------------------------------------------------------------- losses
    fault(
        "alpha swapped",
        "losses",
        ("1 - (alpha * sensitivity + (1 - alpha)", "1 - ((1 - alpha) * sensitivity + alpha"),
        tests=LOSSES,
    ),
    fault(
        "VSS with max(dim)",
        "losses",
        ("found = (p * y).amax(space)", "found = (p * y).flatten(1).max(1).values"),
        tests=LOSSES,
    ),
    fault(
        "denominators without +1",
        "losses",
        ("found.sum() / (positive.sum() + 1)", "found.sum() / (positive.sum() + EPSILON)"),
        tests=LOSSES,
    ),
    fault(
        "false alarms counted in positive segments too",
        "losses",
        ("alarm = negative * p.amax", "alarm = p.amax"),
        tests=LOSSES,
    ),
    fault(
        "SSE divides the misses by the background",
        "losses",
        ("error * y).sum() / (y.sum() + small)", "error * y).sum() / ((1 - y).sum() + small)"),
        tests=LOSSES,
    ),
    fault(
        "log without its 1e-6", "losses", ("torch.log(_float32(prob) + 1e-6) * onehot", "torch.log(prob) * onehot"),
        tests=LOSSES,
    ),
    # ------------------------------------------------------------------------------------- the step
    fault(
        "epsilon outside the square root",
        "training",
        (
            'torch._foreach_add(a, group["eps"])\n            torch._foreach_sqrt_(root)',
            'torch._foreach_sqrt(a)\n            torch._foreach_add_(root, group["eps"])',
        ),
        tests=STEP,
    ),
    fault(
        "momentum before the learning rate",
        "training",
        ('            torch._foreach_mul_(scaled, group["lr"])\n', ""),
        (
            'torch._foreach_add_(params, v, alpha=group["momentum"])',
            'torch._foreach_add_(params, v, alpha=group["momentum"] * group["lr"])',
        ),
        ("torch._foreach_sub_(params, scaled)", 'torch._foreach_sub_(params, scaled, alpha=group["lr"])'),
        tests=STEP,
    ),
    fault(
        "no Nesterov",
        "training",
        ('            torch._foreach_add_(params, v, alpha=group["momentum"])\n', ""),
        ("torch._foreach_sub_(params, scaled)", "torch._foreach_add_(params, v)"),
        tests=STEP,
    ),
    fault("L2 with a half", "training", ("config.l2 * parts", "0.5 * config.l2 * parts"), tests=STEP),
    fault("L1 and L2 on every parameter", "training", ('if name.endswith("conv.weight")', "if True"), tests=STEP),
    fault(
        "loss weights swapped for 1 and 1", "training", ("config.weight_detection * parts", "1.0 * parts"), tests=STEP
    ),
    fault(
        "an earlier machine forgotten",
        "training",
        ('earlier = before.pop("earlier", [])', 'earlier = before.pop("earlier", []) and []'),
        tests="test_training.py::test_a_run_that_changes_its_machine_says_so",
    ),
    fault(
        "BCE by way of a probability that rounds to 1",
        "training",
        ('exact = segmentation == "bce" and config.form == "paper"', "exact = False"),
        tests="test_training.py::test_a_certain_error_pulls_as_the_formula_says",
    ),
    fault(
        "background's logit minus the foreground's",
        "training",
        ("both[:, 1] - both[:, 0]", "both[:, 0] - both[:, 1]"),
        tests=STEP,
    ),
    fault(
        "the slope of a rounded probability",
        "losses",
        ("rounding = torch.finfo(p.dtype).eps / 2", "rounding = 0.0"),
        tests="test_losses.py::test_a_certain_error_does_not_explode_through_a_softmax",
    ),
    fault(
        "rate halved an epoch early",
        "training",
        ("self.steps_per_epoch > e", "self.steps_per_epoch >= e"),
        tests="test_training.py::test_schedules",
    ),
    fault(
        "dropout seed forgotten",
        "training",
        ("SeedSequence([config.seed, step])", "SeedSequence()"),
        tests="test_training.py",
    ),
    # ------------------------------------------------------------------------------------- segments
    fault(
        "label one voxel off",
        "sampling",
        ("s + network.margin for s in start", "s + network.margin + 1 for s in start"),
        tests="test_sampling.py",
    ),
    fault(
        "segment one voxel off its centre",
        "sampling",
        ("int(c) - config.segment // 2 for c", "int(c) - config.segment // 2 + 1 for c"),
        tests="test_sampling.py",
    ),
    fault(
        "prior not flipped with the scan",
        "sampling",
        (
            "crop(np.transpose(volume, drawn.order)[turn]",
            'crop(np.transpose(volume, drawn.order)[turn if what != "prior" else ()]',
        ),
        tests="test_sampling.py",
    ),
    fault(
        "background segments centred on lesions",
        "sampling",
        (" and not label[tuple(voxel)]", ""),
        tests="test_sampling.py",
    ),
    fault(
        "every step draws the same segments",
        "sampling",
        ('rng(self.seed, "segment", step, i)', 'rng(self.seed, "segment", i)'),
        tests="test_sampling.py",
    ),
    fault(
        "absent prior shifted like the scan",
        "sampling",
        ("np.where(x != 0, (x +", "np.where(x < 1e9, (x +"),
        tests="test_sampling.py",
    ),
    fault(
        "coarse grids shifted unlike their scan",
        "sampling",
        ("np.float32(getattr(drawn, what))\n", "np.float32(getattr(drawn, what)) + np.float32([step > 1, 0])\n"),
        tests="test_sampling.py",
    ),
    fault(
        "volumes on a device: one voxel off",
        "sampling",
        ("- view, view) - low", "- view, view) - low + 1"),
        tests="test_sampling.py",
    ),
    fault(
        "volumes on a device: the prior has the scan's shift",
        "sampling",
        ("[getattr(d, what) for d in drawn]", "[d.current for d in drawn]"),
        tests="test_sampling.py",
    ),
    fault(
        "volumes on a device: the neighbour's voxels beyond the box",
        "sampling",
        ("inside = (place >= 0) & (place < width)", "inside = (place >= 0) & (place < length)"),
        tests="test_sampling.py",
    ),
    fault(
        "trimmed to the brain without its origin",
        "volume",
        ("affine[:3, 3] += affine[:3, :3] @ box[:, 0]", "pass"),
        tests="test_volume.py",
    ),
    # ------------------------------------------------------------------------------------- metrics and triage
    fault(
        "6-connected lesions by default",
        "matching",
        (
            'rule: str = "any_overlap",\n    connectivity: int = 26,',
            'rule: str = "any_overlap",\n    connectivity: int = 6,',
        ),
        tests="test_metrics.py",
    ),
    fault(
        "true positives counted as found lesions",
        "matching",
        ("_ratio(self.tp_pred, self.tp_pred + self.fp)", "_ratio(self.tp_ref, self.tp_ref + self.fp)"),
        tests="test_metrics.py",
    ),
    fault(
        "mDSC over all lesions",
        "matching",
        ("_ratio(self.dice_sum, self.tp_ref)", "_ratio(self.dice_sum, self.n_ref)"),
        tests="test_metrics.py",
    ),
    fault(
        "a half is outside in the sensitive map",
        "triage",
        ("in_sens = prob_sens >= threshold", "in_sens = prob_sens > threshold"),
        tests="test_triage.py",
    ),
    fault(
        "models swapped in the triage",
        "triage",
        ("maps[0], None if spec is None else maps[-1]", "maps[-1], None if spec is None else maps[0]"),
        tests="test_triage.py",
    ),
    fault(
        "authors' weights on the other tiling",
        "predict",
        ('return "released" if theirs else "aligned"', 'return "aligned"'),
        tests="test_tf_checkpoint.py::test_convert_then_predict_is_predict",
    ),
    fault(
        "a half is outside in the specific map",
        "triage",
        ("else prob_spec >= threshold", "else prob_spec > threshold"),
        tests="test_triage.py",
    ),
    # ------------------------------------------------------------------------------------- the evidence read
    fault("0.5 is unknown below the floor", "results", ("        unknown[HALF] = False\n", ""), tests="test_claims.py"),
    fault(
        "rows are cut at the lowest level with few false positives",
        "experiment",
        (
            "floor = min(many[-1] + 1, len(scoring.LEVELS) - 1) if many else 0",
            "floor = 0 if 0 not in many else many[-1] + 1",
        ),
        tests="test_experiment.py",
    ),
    fault(
        "the second test set is the first",
        "experiment",
        (
            '(self.second_test, "test") if second else (self.cohort, split)',
            '(self.cohort, "test" if second else split)',
        ),
        tests="test_experiment.py",
    ),
    fault(
        "own alpha is not given to an own loss",
        "training",
        ("OWN[detection](prob, target, alpha=config.alpha)", "OWN[detection](prob, target, alpha=0.5)"),
        tests="test_experiment.py",
    ),
    fault(
        "the operating point is chosen on test",
        "evidence",
        ('rows = r.rows[name, "validation", "prior"]', 'rows = r.rows[name, "test", "prior"]'),
        tests="test_evidence.py",
    ),
    fault(
        "the choice is the most sensitive on test",
        "evidence",
        (
            '        lines[name] = {\n            "level": level,',
            '        seen = both[0]\n        lines[name] = {\n            "level": level,',
        ),
        tests="test_evidence.py",
    ),
    fault(
        "gained lesions include what both find",
        "evidence",
        ('(both["top_other"] < levels[1])', '(both["top_other"] < 99)'),
        tests="test_evidence.py",
    ),
    fault(
        "a false positive is the same one anywhere", "temporal", ("REACH = 4", "REACH = 400"), tests="test_temporal.py"
    ),
    fault(
        "a healthy prior still has its metastases",
        "synthetic_scanner",
        ("(lesions if metastases else ())", "lesions"),
        tests="test_experiment.py::test_a_healthy_prior_is_the_same_scan_before_any_metastasis",
    ),
    fault(
        "a frozen scan is 1 % less sharp",
        "synthetic_scanner",
        ("config.psf_mm / 2.3548", "1.01 * config.psf_mm / 2.3548"),
        tests="test_synthetic.py::test_the_frozen_cohort_is_as_it_was",
    ),
    fault(
        "frozen lesions are 5 % brighter",
        "synthetic_scanner",
        ("level = 1 + (each.level - 1) *", "level = 1 + 1.05 * (each.level - 1) *"),
        tests="test_synthetic.py::test_the_frozen_cohort_is_as_it_was",
    ),
    fault(
        "frozen priors lie 5 % further off",
        "synthetic_scanner",
        (
            "total = random.uniform(*config.misregistration_mm)",
            "total = 1.05 * random.uniform(*config.misregistration_mm)",
        ),
        tests="test_synthetic.py::test_the_frozen_cohort_is_as_it_was",
    ),
    fault(
        "frozen visits at other days",
        "synthetic",
        ('rng(config.seed, "days", index)', 'rng(config.seed + 1, "days", index)'),
        tests="test_synthetic.py::test_the_frozen_cohort_is_as_it_was",
    ),
    fault(
        "priors are compared in all visits",
        "temporal",
        (
            "r.group(runs, second=second, prior=prior), r.group(alike(baseline, runs), prior=prior)",
            "r.group(runs, second=second), r.group(alike(baseline, runs))",
        ),
        tests="test_temporal.py",
    ),
    fault(
        "a control of one seed stands over all seeds",
        "temporal",
        (
            "second=second, prior=prior), r.group(alike(baseline, runs), prior",
            "second=second, prior=True), r.group(baseline, prior",
        ),
        tests="test_temporal.py",
    ),
    fault(
        "the difference is earlier minus now",
        "temporal",
        (
            "return zscore(case.image, case.mask) - zscore(case.prior, case.mask)",
            "return zscore(case.prior, case.mask) - zscore(case.image, case.mask)",
        ),
        tests="test_temporal.py",
    ),
    fault(
        "what is put off stands after review",
        "review",
        ('decided[n] == "accept"]', 'decided[n] != "reject"]'),
        tests="test_review.py",
    ),
    fault(
        "marks of both passes are scored together",
        "review",
        ("if n == number and kind", "if kind"),
        tests="test_review.py",
    ),
    fault(
        "a constant of a large batch is taken to vary",
        "network",
        ("variance > 1e-10 * mean**2", "variance > 1e-12 * mean**2"),
        tests="test_network.py::test_a_constant_channel_of_a_large_batch_has_no_gradient",
    ),
    fault(
        "halved once more, after epoch 42",
        "training",
        ("        37,\n        47,\n", "        37,\n        42,\n        47,\n"),
        tests="test_training.py::test_schedules",
    ),
    fault(
        "SSE trained as VSS",
        "training",
        ('losses.vss if detection == "vss" else losses.sse', "losses.vss"),
        tests="test_training.py::test_every_loss_is_wired",
    ),
    fault(
        "alpha turned round in training",
        "training",
        ("function(prob, target, alpha=config.alpha, form", "function(prob, target, alpha=1 - config.alpha, form"),
        tests="test_training.py::test_every_loss_is_wired",
    ),
    fault(
        "resamples that do not get there are left out",
        "results",
        ("if np.isfinite(draws).all() or np.isnan(value):", "if True:"),
        tests="test_claims.py::test_resamples_that_do_not_get_there_count_at_both_ends",
    ),
    fault(
        "labels permuted over visits",
        "experiment",
        ("most if 2 * most <= len(order) else 1", "1"),
        tests="test_experiment.py::test_permuted_labels_come_from_other_patients",
    ),
    fault(
        "what was not scanned is in the prior's statistics",
        "volume",
        ("zscore(self.prior, covered)", "zscore(self.prior, self.mask)"),
        tests="test_volume.py::test_a_prior_counts_where_it_has_data",
    ),
    fault(
        "the rim of misregistration counts as not scanned",
        "volume",
        ("deep = ndimage.minimum_filter(empty, 5)", "deep = empty"),
        tests="test_volume.py::test_a_prior_counts_where_it_has_data",
    ),
    fault(
        "new where nothing was scanned",
        "triage",
        ('np.where(outside, "unknown", change_of(ratio))', "change_of(ratio)"),
        tests="test_triage.py",
    ),
    fault(
        "a list is handed out to be sorted",
        "exercises",
        ("answer(*copy.deepcopy(arguments))", "answer(*arguments)"),
        tests="test_course.py::test_an_answer_that_changes_what_it_gets_is_not_right_for_that",
    ),
    fault(
        "a name of digits read as a number",
        "review",
        ('keep_default_na=False, dtype={"case": str}', "keep_default_na=False"),
        tests="test_review.py",
    ),
    fault(
        "the camera is on the other side",
        "figures",
        ("np.cross(up, eye)", "np.cross(eye, up)"),
        tests="test_figures.py",
    ),
    # ------------------------------------------------------------------------------------- the chance of training
    fault("the chance of training left out of ratios", "claims",
          ("compare(results.fp_at(EQUAL), a, b, ratio=True, chance=chance)", "compare(results.fp_at(EQUAL), a, b, ratio=True)"),
          tests="test_claims.py"),
    fault("both sides share their chance", "results",
          ('zip(draws, (a, b), "ab", strict=True)', 'zip(draws, (a, b), "aa", strict=True)'), tests="test_claims.py"),
    fault("three seeds as uncertain as one", "results", ("* self.sd / seeds\n", "* self.sd\n"), tests="test_claims.py"),
    fault("a share moved beyond 1", "results", ("drawn * moved / (1 - drawn + drawn * moved)", "drawn * moved"),
          tests="test_claims.py"),
    fault("sd over trainings with n", "results", ("df += max(len(each) - 1, 0)", "df += len(each)"), tests="test_claims.py"),
    fault("points of a curve share their chance", "results", ('c(d, len(counts), f"{name} {i}")', 'c(d, len(counts), f"{i}")'),
          tests="test_claims.py"),
    fault("one network against itself with a chance", "results",
          ("None if set(a) & set(b) else self.chance(statistic, prior)", "self.chance(statistic, prior)"),
          tests="test_temporal.py"),
    fault("a run beside itself with a chance", "results",
          ("None if set(a) & set(b) else self.chance(statistic, prior)", "self.chance(statistic, prior)"),
          tests="test_evidence.py"),
    # ------------------------------------------------------------------------------------- a folder of visits
    fault("a visit of other files is kept", "worklist", ("        if old != new:\n", "        if False:\n"),
          tests="test_worklist.py"),
    fault("what is done is done again", "worklist", ('error, report = "", kept.get(files.name)', 'error, report = "", None'),
          tests="test_worklist.py"),
    fault("one bad visit stops the others", "worklist", ("except InputError as why:", "except OSError as why:"),
          tests="test_worklist.py"),
    fault("one seed alone in the learning curve", "evidence",
          ("of(_measured(sensitivity), r.group(_seeds(r, n)))", "of(_measured(sensitivity), r.group([n]))"),
          tests="test_evidence.py"),
    fault("one seed alone under what lies there", "evidence", ("r.false_by_kind(_seeds(r, n))", "r.false_by_kind([n])"),
          tests="test_evidence.py"),
    fault("a length has as many seeds as its best-known loss", "evidence", ("min(k for m, k", "max(k for m, k"),
          tests="test_evidence.py"),
    fault("one seed alone of a longer training", "claims",
          ('{a: r.seeds(f"jvss-{a:g}-{thousand}k") for a in alphas}', '{a: [f"jvss-{a:g}-{thousand}k-s0"] for a in alphas}'),
          tests="test_claims.py"),
    fault("outlines of what one of the two misses", "evidence", (' & rows["dice"].notna()', ""), tests="test_evidence.py"),
    fault("outlines by pairs the wrong way round", "evidence", ('of_size["dice"] - of_size["dice_other"]',
          'of_size["dice_other"] - of_size["dice"]'), tests="test_evidence.py"),
    fault("a longer training beside BCE goes unsaid", "claims", ('own["start"].isin(other)', 'own["run"].isin(other)'),
          tests="test_claims.py"),
    fault("a wrong certainty inside another's autocast", "losses",
          ("with torch.autocast(p.device.type, enabled=False)", "with torch.enable_grad()"), tests=LOSSES),
    fault("one-hot targets read as background", "losses", ("and target.shape[1] != 1", "and False"), tests=LOSSES),
    fault("targets beyond 1", "losses", ("and target.max() <= 1", ""), tests=LOSSES),
    fault("coarse grids of even blocks", "network", ("f >= 1 and f % 2", "f >= 1"), tests="test_network.py"),
    fault("lists that stay lists", "runtime", ("_tuples(getattr(config, field.name))", "getattr(config, field.name)"),
          tests="test_network.py"),
    fault("a brain that is all lesion", "sampling", ("(case.mask & (np.asarray(case.label) == 0)).any()", "case.mask.any()"),
          tests="test_sampling.py::test_a_label_that_covers_its_whole_mask_is_refused"),
    fault("a finished run signed by its finder", "training",
          ("if last == config.steps and not (", "if last == config.steps or not ("),
          tests="test_training.py::test_a_run_that_changes_its_machine_says_so"),
    fault("gone on with other cases", "training", ("if begun != _mark(training)", "if not begun"), tests="test_training.py"),
    fault("validation on trained patients", "training",
          ("& {c.patient for c in validation}", "- {c.patient for c in training}"),
          tests="test_training.py"),
    fault("an intercept hides where a prior has no data", "volume", ("<= 0.501 * abs", "< 0 * abs"), tests="test_volume.py"),
    fault("holes of a mask stay", "volume", ("return ndimage.binary_fill_holes(mask)", "return mask"), tests="test_volume.py"),
    fault("a lesion outside the brain", "volume", ("if len(lost):", "if len(lost) < 0:"), tests="test_volume.py"),
    fault("a later prior at day 0", "volume", ("before.days + case.days > 0", "case.days > 0"), tests="test_volume.py"),
    fault("centres in voxels as mm", "metrics", ("@ affine[:3, :3].T + affine[:3, 3]", "+ 0"),
          tests="test_cli.py::test_evaluate_reads_a_folder_of_predictions"),
    fault("old decisions on new lesions", "rounds",
          ('made.merge(now, on=["lesion", "tier", "volume_mm3"])', 'made.merge(now, on=["lesion"])'),
          tests="test_rounds.py::test_decisions_on_other_lesions_do_not_count"),
    fault("a single model leaves nothing to review", "rounds", ('("candidate", "untiered")', '("candidate",)'),
          tests="test_rounds.py"),
    fault("one huge region is the best operating point", "operating", ("MOST_MARKED = 0.05", "MOST_MARKED = 1.0"),
          tests="test_operating.py"),
    fault("peaks beyond the rows count as still", "temporal", ("< len(LEVELS) - 1", "< len(LEVELS)"), tests="test_temporal.py"),
    fault("0.5 below the floor as a lower bound", "results",
          ("fp.shape[-1] - np.argmin(known[..., ::-1], -1)", "known.argmax(-1)"), tests="test_claims.py"),
    fault("an infinite ratio left out", "results", ("if np.isfinite(draws).all()", "if not np.isnan(draws).any()"),
          tests="test_claims.py"),
    fault("false positives above the rows", "claims", ("if s >= highest else math.nan", ""), tests="test_claims.py"),
    fault("a killed run blocks its folder", "predict", ('and not n.startswith(".part-")', ""),
          tests="test_cli.py::test_what_a_killed_run_left_does_not_block_its_folder"),
    fault("another number format beside BCE goes unsaid", "claims", ("bce and jvss != bce", "bce and jvss == bce"),
          tests="test_claims.py"),
    fault("a step of the chance of training that no float holds", "results", ("np.clip(step, -50, 50)", "step"),
          tests="test_claims.py"),
    # ------------------------------------------------------------------------------------- what was written, reviewed
    fault("a finished folder of other files is opened", "rounds", ("        if own != made_of[what]:\n", "        if False:\n"),
          tests="test_rounds.py"),
    fault("a finished folder's tiers the wrong way round", "rounds", ("CONFIRMED, CANDIDATE)])", "CANDIDATE, CONFIRMED)])"),
          tests="test_rounds.py"),
    fault("put off is decided", "rounds", ('isin(["accept", "reject"])', 'isin(["accept", "reject", "later"])'),
          tests="test_rounds.py"),
    fault("the next open visit is always the first", "rounds", ("names[first:] + names[:first]", "names"),
          tests="test_rounds.py"),
    fault("the decisions of another visit", "rounds",
          ('self.decisions / f"{name}.csv", tiers', 'self.decisions / "d.csv", tiers'), tests="test_rounds.py"),
    # ------------------------------------------------------------------------------------- operating points
    fault("a threshold folded in the wrong way", "operating", ("net.bias[1] -= math", "net.bias[1] += math"),
          tests="test_operating.py"),
    fault("an operating point of all splits", "operating", ('split="validation")', "split=None)"), tests="test_operating.py"),
    fault("the threshold of before forgotten", "operating", ('about.get("threshold_folded_in")', 'about.get("before")'),
          tests="test_operating.py"),
)


def copy(folder: Path) -> Path:
    """A copy of package and tests that can be broken; returns its root."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("dmplus", "tests", "notebooks", "data_cards"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def noticed(wrong: Fault) -> bool:
    """Whether the tests fail with the fault planted (exit code 1: tests ran, and some failed).

    A fault without changes is the control: the same tests in a sound copy, where nothing may fail.
    """
    with tempfile.TemporaryDirectory() as name:
        root = copy(Path(name))
        wrong.apply(root / "dmplus")
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{wrong.tests}"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"{wrong.name}: the tests could not run\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.returncode == 1


def main(names: list[str]) -> int:
    chosen = [f for f in FAULTS if not names or f.name in names]
    start, missed = time.monotonic(), []
    for tests in sorted({f.tests for f in chosen}):
        if noticed(Fault("control", "network", (), tests)):
            raise SystemExit(f"{tests} fails without any fault: mend that first")
        print(f"control: {tests} passes", flush=True)
    for i, one in enumerate(chosen, 1):
        seen = noticed(one)
        missed += [] if seen else [one.name]
        print(f"{i:2}/{len(chosen)} {'noticed' if seen else 'MISSED'} {one.name} ({one.tests})", flush=True)
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} faults noticed in {(time.monotonic() - start) / 60:.1f} minutes"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
