"""The paper's experiments on a cohort: ``dmplus experiment SET --cohort COHORT -o FOLDER``, resumable at any moment.

Every training is a :class:`Run` with a name. ``quick`` runs start from one DeepMedic trained with BCE (the trunk) and are
fine-tuned with their own loss for some thousand segments; runs with ``start="scratch"`` show what that hides. A run's
folder holds its training (:mod:`dmplus.training`) and one table of rows (:mod:`dmplus.scoring`) for each condition under
which it was scored. :func:`collect` joins them into tables: every number, curve and verdict is computed from those.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmplus import network, scoring, second_look, synthetic, training
from dmplus.inference import predict_volume
from dmplus.network import DeepMedic
from dmplus.runtime import (
    InputError,
    Machine,
    Progress,
    ahead,
    cores,
    from_dict,
    named,
    replacing,
    rng,
    versions,
    workers,
    write_json,
)
from dmplus.sampling import Volumes
from dmplus.synthetic import CohortConfig
from dmplus.volume import Case, CaseFiles, read_cohort, read_map

ALPHAS = (1.0, 0.995, 0.99, 0.95, 0.9, 0.5)  #: of Table 1
SSE_ALPHAS = (0.995, 0.95, 0.8, 0.5, 0.2, 0.05)  #: SSE weighs voxels, so its own range of trade-offs
RATE, TUNING_RATE = 2.5e-2, 1.5e-3  #: from scratch and from trained weights; chosen on BCE and validation visits
GROWING_RATE = 5e-3  #: of the trunk's second part, where a path for the earlier scan is learnt
PAPER_RATE, PAPER_TUNING_RATE = 1e-3, 1e-4  #: of the paper's network and optimizer: its first rate, and a tenth of it
PAPER_STEPS = 1500  #: of 10 segments from scratch, where the paper takes 120,000
MOST = 60  #: false positives per volume (mean) kept in the rows: curves are read far below
SHIFTS_MM = (0.0, 1.0, 2.0, 3.0)  #: residual misregistration of the prior, root mean square, in test alone

CANDIDATES, CONFIRMED = 10.0, 0.5  #: budgets of the triage: false positives per validation volume of either mask
#: Runs among which the triage chooses its models on validation, with the prior and without, and the three that vote.
POOLS = {
    "sens": ("jvss-0.995-s0", "jvss-0.995-0.1to1-s0", "jvss-0.995-path-s0"),
    "spec": ("jvss-0.5-s0", "jvss-0.5-path-s0"),
}
VOTERS = tuple(f"jvss-0.995-s{s}" for s in range(3))
#: Triage systems: the map that makes candidates, the map that confirms, and whether their thresholds are chosen (or 0.5).
SYSTEMS = {
    "ensemble": ("sens", "spec", True),
    "ensemble at 0.5": ("sens", "spec", False),
    "two thresholds on M_sens": ("sens", "sens", True),
    "two thresholds on M_spec": ("spec", "spec", True),
    "averaged probabilities": ("averaged", "averaged", True),
    "majority of three": ("majority", "majority", True),
}
#: What of the ensemble's shortfall is short training? Some of these systems, of the two networks that were trained longest.
LONG_POOLS = {"sens": ("jvss-0.995-300k-s0",), "spec": ("jvss-0.5-300k-s0",)}
LONGEST = ", 300,000 segments"  #: what their names end in
#: Whose candidates are looked at again, in either scan (dmplus.second_look), and what the set prior-late goes on from.
SECOND_LOOK = "jvss-0.5-300k-s0"
LONG_SYSTEMS = {
    f"{system}{LONGEST}": SYSTEMS[system]
    for system in ("ensemble", "ensemble at 0.5", "two thresholds on M_sens", "two thresholds on M_spec")
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training and how it is scored."""

    name: str
    loss: str = "bce"
    alpha: float = 0.5  #: of no meaning for BCE
    detection: float = 1.0  #: weight of VSS or SSE
    segmentation: float = 1.0  #: weight of BCE
    prior: str = "none"  #: how the network takes the second image: none, channel or path
    #: What the second image is: the patient's "prior", a "healthy" one (as before any metastasis), the "current" scan again,
    #: or the prior of an "other" patient.
    second: str = "prior"
    patients: str = "own"  #: trained on the cohort's "own" training patients, or on as many "fresh" ones
    labels: str = "own"  #: "own", or "permuted" over the training visits (negative control)
    segment: int = 37
    seed: int = 0
    start: str = "trunk"  #: "trunk", "scratch", or the name of the run whose weights it goes on from
    network: str = "quick"  #: a preset of dmplus.network
    steps: int = 500  #: 0: nothing is trained, the weights it starts from are scored
    batch: int = 10  #: segments of a step
    rate: float = 0.0  #: learning rate; 0: that of a training from scratch, or of fine-tuning
    validated: bool = False  #: scored on validation, too, because operating points are chosen there
    controls: bool = False  #: scored with misregistered, zeroed and exchanged priors, too
    second_test: bool = False  #: scored on the second test set, too, where there is one


def _runs() -> dict[str, list[Run]]:
    seeds = range(3)

    def jvss(alpha: float, seed: int = 0, **more: Any) -> Run:
        prior = "" if more.get("prior", "none") == "none" else f"-{more['prior']}"
        return Run(name=f"jvss-{alpha:g}{prior}-s{seed}", loss="jvss", alpha=alpha, seed=seed, **more)

    def longer(of: str, thousand: int, seed: int = 0) -> Run:
        loss, _, alpha = of.partition("-")
        return Run(name=f"{of}-{thousand}k-s{seed}", loss=loss, alpha=float(alpha or 0.5), seed=seed, steps=thousand * 100,
                   validated=thousand >= (80 if loss == "bce" else 1200))  # fmt: skip

    def first(alpha: float, seed: int) -> dict[str, bool]:  # the runs that are scored on everything
        return {"validated": seed == 0, "second_test": seed == 0 and alpha in (0.995, 0.5)}

    alpha = [Run(name=f"bce-s{s}", seed=s, **first(0.5, s)) for s in seeds]
    alpha += [jvss(a, s, **first(a, s)) for a in ALPHAS for s in (seeds if a in (0.995, 0.5) else [0])]
    weights = [
        Run(name="jvss-0.95-2to1-s0", loss="jvss", alpha=0.95, detection=2 / 3, segmentation=1 / 3),
        Run(name="jvss-0.95-1to2-s0", loss="jvss", alpha=0.95, detection=1 / 3, segmentation=2 / 3),
        Run(name="jvss-0.995-0.1to1-s0", loss="jvss", alpha=0.995, detection=0.1, validated=True),
    ]
    segments = [
        Run(name="bce-30-s0", segment=30),
        Run(name="jvss-0.95-30-s0", loss="jvss", alpha=0.95, segment=30),
        Run(name="jvss-0.5-30-s0", loss="jvss", alpha=0.5, segment=30),
    ]
    sse = [
        Run(name=f"{loss.replace('_', '+')}-{a:g}-s0", loss=loss, alpha=a)
        for loss in ("sse", "sse_bce")
        for a in SSE_ALPHAS
    ]
    # How the second image is given, and what it is. On patients that the trunk has never seen: those it was trained on it
    # knows by heart, so that an earlier scan of theirs has nothing to add, and nothing is learnt of it.
    ways = {"none": ("none", "prior"), "path": ("path", "prior"), "channel": ("channel", "prior"),
            "path-healthy": ("path", "healthy"), "path-other": ("path", "other"),
            "path-current": ("path", "current")}  # fmt: skip

    def fresh(alpha: float, way: str, seed: int = 0) -> Run:
        prior, second = ways[way]
        return Run(
            name=f"jvss-{alpha:g}-fresh-{way}-s{seed}", loss="jvss", alpha=alpha, prior=prior, second=second, seed=seed,
            patients="fresh", validated=seed == 0 and second != "healthy", second_test=way in ("none", "path") and seed == 0,
            controls=way in ("path", "channel", "path-healthy") and seed == 0,
        )  # fmt: skip

    second = [fresh(a, way) for a in (0.5, 0.995) for way in ways]
    second += [fresh(0.995, way, s) for s in (1, 2) for way in ("none", "path")]
    # had the path time enough to learn? With four times the segments
    second += [
        dataclasses.replace(fresh(0.5, way), name=f"jvss-0.5-fresh-20k-{way}-s0", steps=2000, validated=False, second_test=False)
        for way in ("none", "path")
    ]
    # on those that it was trained on
    known = [jvss(a, prior="path", validated=True, controls=True) for a in (0.5, 0.995)]
    # the paper's own way: DeepMedic+ from scratch, as long as the trunk, which stands beside it as it is
    trunks = [
        Run(name="trunk-none-s11", steps=0, seed=11, validated=True),
        Run(name="trunk-path-s11", prior="path", start="scratch", segment=49, batch=6, steps=4000, seed=11, validated=True,
            controls=True),
    ]  # fmt: skip
    # between the two: the trunk goes on with a path for 9,000 segments
    grown = [Run(name="grown-path-s0", prior="path", segment=49, batch=6, steps=1500, rate=GROWING_RATE, validated=True,
                 controls=True)]  # fmt: skip
    needed = {*VOTERS, *(n for pool in POOLS.values() for n in pool)}
    triage = [r for r in (*alpha, *weights, *known) if r.name in needed]
    unet = [Run(name="unet-trunk-s0", network="unet", start="scratch", steps=2000)]
    unet += [Run(name="unet-bce-s0", network="unet", start="unet-trunk-s0")]
    unet += [
        Run(name=f"unet-jvss-{a:g}-s0", loss="jvss", alpha=a, network="unet", start="unet-trunk-s0") for a in (0.9, 0.5)
    ]
    three = ("bce", "jvss-0.995", "jvss-0.5")
    length = [longer(of, thousand) for thousand in (1, 20, 300) for of in three] + [longer(of, 80) for of in three[:2]]
    length += [longer(of, 20, seed=1) for of in three]  # the longest that could be afforded more than once
    full = [longer(of, 1200) for of in three]  # as long as the paper's
    longest = [run for run in length if run.name == SECOND_LOOK]
    # An earlier scan where one scan has little left to teach: what is still false is then mostly what it cannot tell apart.
    late = [
        dataclasses.replace(run, name=f"jvss-0.5-300k-fresh-{run.prior}-s0", start=SECOND_LOOK)
        for run in second if "-fresh-20k-" in run.name
    ]  # fmt: skip
    # Whole brains on one GPU, with the quick network and with the paper's; the networks with a path have it from the start.
    whole, paper = (_whole(network, stem) for network, stem in (("quick", "whole"), ("paper", "paper")))
    control = [Run(name="permuted-s0", labels="permuted", start="scratch", steps=1500)]
    scratch = [Run(name="jvss-0.5-scratch-s0", loss="jvss", alpha=0.5, start="scratch", steps=6000)]
    return {
        "alpha": alpha, "weights": weights, "segments": segments, "sse": sse,
        "prior": [*second, *known, *trunks, *grown], "triage": triage, "unet": unet, "length": length, "full": full,
        "prior-late": [*longest, *late], "second-look": longest,
        "triage-long": [run for run in length if run.name in {n for pool in LONG_POOLS.values() for n in pool}],
        "control": control, "scratch": scratch, "whole": whole, "paper": paper,
    }  # fmt: skip


def _whole(network: str, stem: str) -> list[Run]:
    """BCE from scratch, and JVSS from there, with and without the prior path."""
    long: dict[str, Any] = {"segment": 49, "batch": 6, "steps": 4000} if network == "quick" else {"steps": PAPER_STEPS}
    found = []
    for prior in ("none", "path"):
        first = f"{stem}-bce-{prior}-s0"
        found.append(Run(name=first, network=network, prior=prior, start="scratch", **long))
        found += [
            Run(name=f"{stem}-jvss-{a:g}-{prior}-s0", loss="jvss", alpha=a, network=network, prior=prior, start=first)
            for a in (0.995, 0.5)
        ]
    return found


SETS: dict[str, list[Run]] = _runs()
ON_GPU = ("whole", "paper", "full")  #: sets for one GPU, which "all" leaves out; the first two for whole brains (cohort ``gpu``)
RUNS: dict[str, Run] = {run.name: run for runs in SETS.values() for run in runs}


def own_runs(loss: str, alphas: Sequence[float]) -> list[Run]:
    """The runs of somebody's own loss (:func:`dmplus.training.add_loss`): its curve over alpha, from the same trunk."""
    return [Run(name=f"{loss}-{a:g}-s0", loss=loss, alpha=a, validated=True) for a in sorted(alphas, reverse=True)]


def trunk_config(seed: int = 11) -> training.TrainConfig:
    """The training that all fine-tuned runs start from: BCE, where a larger segment gives more voxels for the work."""
    config = training.quick_config(
        prior="none", loss="bce", steps=4000, batch=6, learning_rate=RATE, validate_every=2000, seed=seed
    )
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, segment=49))


def config_of(run: Run) -> training.TrainConfig:
    """The training configuration of a run: of the profile ``quick``, or, for the paper's network, the paper's with another
    schedule, since its own takes 120,000 steps."""
    if run.network == "paper":
        rate = run.rate or (PAPER_RATE if run.start == "scratch" else PAPER_TUNING_RATE)
        return training.TrainConfig(
            network=network.preset("paper", prior=run.prior), loss=run.loss, alpha=run.alpha, steps=run.steps, batch=run.batch,
            seed=run.seed, schedule="cosine", learning_rate=rate, validate_every=0,
        )  # fmt: skip
    config = training.quick_config(
        prior=run.prior, loss=run.loss, alpha=run.alpha, weight_detection=run.detection,
        weight_segmentation=run.segmentation, steps=max(run.steps, 1), seed=run.seed, validate_every=0,
        batch=run.batch, learning_rate=run.rate or (RATE if run.start == "scratch" else TUNING_RATE),
    )  # fmt: skip
    if run.network != "quick":
        config = dataclasses.replace(config, network=network.preset(run.network, prior=run.prior))
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, segment=run.segment))


# ------------------------------------------------------------------------------------------------------------ the cases
@dataclasses.dataclass(frozen=True)
class Visit:
    """One visit to be scored, with the generator's knowledge of it (None where a cohort has none)."""

    case: Case  #: raw, with label
    files: CaseFiles
    numbers: np.ndarray | None  #: the label with each lesion's number
    lookalikes: np.ndarray | None


def read_visits(cohort: str | Path, split: str) -> list[Visit]:
    """All visits of a split; ``InputError`` where one has no label or there is none."""
    listed = read_cohort(cohort, split=split)
    shown = Progress(len(listed), f"reading {split}")

    def read(files: CaseFiles) -> Visit:
        extra = [Path(cohort) / f"{files.name}_{what}.nii.gz" for what in ("numbers", "lookalikes")]
        return Visit(files.load(), files, *(read_map(p) if p.is_file() else None for p in extra))

    found = []
    for visit in ahead(read, listed):
        found.append(visit)
        shown.step()
    if not found or any(v.case.label is None for v in found):
        raise InputError(
            f"cohort {named(cohort)}: expected labelled visits of split {split}; got {len(found)} visits, some without "
            "label; correct cases.csv"
        )
    return found


def with_second(cases: Sequence[Case], second: str) -> list[Case]:
    """Raw cases whose prior is what a run's second image is: "prior", "zeroed" (absent), the "current" scan, or that of an
    "other" patient (the next patient in order who has one; visits without a prior keep none). A "healthy" one, or one out of
    place, has to be made (:func:`remade_priors`)."""
    if second == "prior":
        return list(cases)
    if second == "zeroed":
        return [dataclasses.replace(c, prior=None) for c in cases]
    if second == "current":
        return [dataclasses.replace(c, prior=c.image) for c in cases]
    if second != "other":
        raise InputError(f"expected a second image prior, zeroed, current or other; got {second!r}")
    with_prior = [i for i, c in enumerate(cases) if c.prior is not None]
    given = {}
    for place, i in enumerate(with_prior):
        later = [j for j in with_prior[place + 1 :] + with_prior[:place] if cases[j].patient != cases[i].patient]
        given[i] = cases[later[0]].prior * cases[i].mask if later else None
    return [dataclasses.replace(c, prior=given[i]) if i in given else c for i, c in enumerate(cases)]


def permuted(cases: Sequence[Case], seed: int) -> list[Case]:
    """Cases with labels of other patients, cut to the brain (of other visits, where one patient has more than half of them)."""
    drawn = rng(seed, "permuted labels").permutation(len(cases))
    who = [cases[i].patient for i in drawn]
    order = sorted(range(len(cases)), key=lambda k: who.index(who[k]))  # the visits of a patient side by side
    order = [int(drawn[k]) for k in order]
    most = max(map(who.count, who), default=0)  # so far on is somebody else
    label = {a: cases[b].label for a, b in zip(order, np.roll(order, most if 2 * most <= len(order) else 1), strict=True)}
    return [dataclasses.replace(c, label=label[i] * c.mask) for i, c in enumerate(cases)]  # type: ignore[operator]


def fresh_patients(cohort: str | Path, folder: str | Path) -> Path:
    """A folder with as many training patients as a synthetic cohort has, by the same laws and with another seed; made there
    if it is not there. ``InputError`` where the cohort is none of ours."""
    described = Path(cohort) / "cohort.json"
    if not described.is_file():
        raise InputError(
            f"cohort {named(cohort)}: expected a synthetic cohort, of which fresh patients can be made; it has no "
            "cohort.json; leave out the runs on fresh patients"
        )
    config = from_dict(CohortConfig, json.loads(described.read_text(encoding="utf-8"))["config"])
    train = config.split[0]
    config = dataclasses.replace(config, name="fresh", seed=config.seed + 1000, patients=train, split=(train, 0, 0))
    synthetic.generate(config, folder, processes=os.cpu_count() or 1)
    return Path(folder)


def remade_priors(
    cohort: str | Path, cases: Sequence[Case], *, mm: float | None = None, healthy: bool = False, pool: Executor | None = None
) -> dict[str, np.ndarray]:  # fmt: skip
    """The prior of each case that has one, by the case's name, made anew by the cohort's generator: ``mm`` (root mean square)
    out of place, or ``healthy``, as before any metastasis, when everything else was as it was. The second is a positive
    control: where all metastases are new, a prior says most that it can. pool: of processes that make patients."""
    stored = json.loads((Path(cohort) / "cohort.json").read_text(encoding="utf-8"))["config"]
    config = from_dict(CohortConfig, stored)
    if mm is not None:
        config = dataclasses.replace(config, misregistration_mm=(mm, mm))
    wanted = {c.name for c in cases if c.prior is not None}
    patients = sorted({int(c.patient.rpartition("_")[2]) for c in cases if c.name in wanted})
    shown = Progress(len(patients), "healthy priors" if healthy else f"priors {mm:g} mm out of place")
    made: dict[str, Any] = {}
    for priors in (pool.map if pool else map)(functools.partial(_priors, config, healthy), patients):
        made |= priors
        shown.step()
    return {name: made[name] for name in wanted}


def _priors(config: CohortConfig, healthy: bool, index: int) -> dict[str, np.ndarray | None]:
    """The priors of a patient's visits, by the visits' names."""
    return {v.case.name: v.case.prior for v in synthetic.patient(config, index, healthy_prior=healthy).visits}


# ------------------------------------------------------------------------------------------------------------- the work
class Experiments:
    """All runs on one cohort in one folder; what is done is not done again."""

    def __init__(
        self, cohort: str | Path, folder: str | Path, *, machine: Machine, compile: bool | None = None,
        config: Callable[[Run], training.TrainConfig] = config_of, trunk: training.TrainConfig | None = None,
        second_test: str | Path | None = None, start: DeepMedic | None = None,
    ) -> None:  # fmt: skip
        """start: a trained network that takes the trunk's place, so that none is trained."""
        self.start = start
        self.cohort, self.folder, self.machine, self.compile = Path(cohort), Path(folder), machine, compile
        self.second_test = second_test
        self.config, self.trunk_config = config, trunk or trunk_config()
        self._cases: dict[str, Any] = {}
        self._made: dict[tuple[str, str], dict[str, np.ndarray]] = {}  # priors, by visits and what they are
        self._volumes: dict[tuple[Any, ...], Volumes] = {}  #: by how :meth:`_training` was called
        self.pool: Executor | None = None  #: processes that score maps and make priors beside a GPU

    def use(self, stack: contextlib.ExitStack) -> None:
        """Have the processor's idle cores score maps and make priors beside a GPU, until ``stack`` is left."""
        if self.machine.device != "cpu":
            self.pool = stack.enter_context(workers(max(1, cores() - 2)))

    def visits(self, split: str) -> list[Visit]:
        """The visits of a split, read once; split "second_test": those that the other cohort has for testing."""
        if split not in self._cases:
            second = self.second_test is not None and split == "second_test"
            self._cases[split] = read_visits(*(self.second_test, "test") if second else (self.cohort, split))
        return self._cases[split]

    def trunk(self) -> DeepMedic:
        """The trained trunk, trained now if it is not there and nothing was given in its place."""
        return self.start or self._trained(
            self.folder / "trunk", self.trunk_config, functools.partial(self._prepared, "prior", "own", 0, "own"),
            watched=lambda: [v.case for v in self.visits("validation")[:12]],
        )  # fmt: skip

    def _training(self, second: str = "prior", labels: str = "own", seed: int = 0, patients: str = "own") -> list[Case]:
        cases = self._with_second(list(self._read_training(patients)), second, patients, f"train, {patients}")
        return permuted(cases, seed) if labels == "permuted" else cases

    def _prepared(self, second: str, labels: str, seed: int, patients: str) -> Volumes:
        """What :meth:`_training` gives, as trainings take it; a GPU keeps all of them, a laptop's memory holds one."""
        how = second, labels, seed, patients
        if how not in self._volumes:
            if self.machine.device == "cpu":
                self._volumes.clear()
            as_they_are = second == "prior" and labels == "own"  # no two of them are needed at a time
            cases = self._read_training(patients) if as_they_are else self._training(*how)
            self._volumes[how] = training.prepared(cases, self.machine)
        return self._volumes[how]

    def _read_training(self, patients: str) -> Iterator[Case]:
        if patients == "fresh":
            fresh_patients(self.cohort, self.folder / "fresh")
        files = read_cohort(self._cohort(patients), split="train")
        return ahead(CaseFiles.load, files)

    def _cohort(self, patients: str) -> Path:
        return self.folder / "fresh" if patients == "fresh" else self.cohort

    def _with_second(self, cases: Sequence[Case], second: str, patients: str, which: str) -> list[Case]:
        """:func:`with_second`, and the second images that have to be made, made once for the visits called ``which``."""
        if second != "healthy" and not second.endswith("mm"):
            return with_second(cases, second)
        if (which, second) not in self._made:
            how: dict[str, Any] = {"healthy": True} if second == "healthy" else {"mm": float(second.split()[0])}
            self._made[which, second] = remade_priors(self._cohort(patients), cases, pool=self.pool, **how)
        made = self._made[which, second]
        return [dataclasses.replace(c, prior=made[c.name]) if c.name in made else c for c in cases]

    def _trained(
        self, folder: Path, config: training.TrainConfig, cases: Callable[[], Volumes],
        init: DeepMedic | None = None, watched: Callable[[], list[Case]] = list,
    ) -> DeepMedic:  # fmt: skip
        """The network trained in ``folder``, now if it is not there; ``watched``: visits to validate on while training."""
        weights = folder / "weights.safetensors"
        if weights.is_file():
            return network.load(weights)
        return training.train(config, cases(), watched(), folder, init=init, machine=self.machine, compile=self.compile)

    def _as_it_is(self, folder: Path, init: DeepMedic | None) -> DeepMedic:
        """A run that trains nothing: the weights it starts from, with the files that a training leaves."""
        if init is None:
            raise InputError(f"{folder.name}: expected weights to start from, as it takes no step; got start scratch")
        folder.mkdir(parents=True, exist_ok=True)
        network.save(folder / "weights.safetensors", init, info={"segments": 0})
        write_json(folder / "versions.json", versions())
        machine = {"device": self.machine.device, "precision": self.machine.precision}
        write_json(folder / "result.json", {"step": 0, "segments": 0, "seconds": 0.0} | machine)
        return init

    def do(self, run: Run) -> None:
        """Train and score one run, or what is missing of it."""
        folder = self.folder / run.name
        init = self._init(run)
        if run.steps == 0:
            net = self._as_it_is(folder, init)
        else:
            cases = functools.partial(self._prepared, run.second, run.labels, run.seed, run.patients)
            net = self._trained(folder, self.config(run), cases, init)
        write_json(folder / "run.json", run)
        also = {"validation": run.validated, "second_test": run.second_test and self.second_test is not None}
        for split in ("test", *(name for name, wanted in also.items() if wanted)):
            self._score(run, net, split, run.second)
        if run.controls and any(v.case.prior is not None for v in self.visits("test")):
            made = (self.cohort / "cohort.json").is_file()  # by the generator, which alone can move a prior
            shifted = [f"{mm:g} mm" for mm in SHIFTS_MM] if made else []
            for second in ("zeroed", "prior") if run.second == "healthy" else ("zeroed", "other", *shifted):
                self._score(run, net, "test", second)

    def _init(self, run: Run) -> DeepMedic | None:
        """The weights that a run goes on from."""
        if run.start == "scratch":
            return None
        if run.start == "trunk":
            return self.trunk()
        weights = self.folder / run.start / "weights.safetensors"
        if not weights.is_file():
            raise InputError(f"{run.name}: expected the weights of run {run.start}; they are not there; run it first")
        return network.load(weights)

    def _score(self, run: Run, net: DeepMedic, split: str, second: str) -> None:
        target = self.folder / run.name / f"rows.{split}.{second.replace(' ', '')}.csv.gz"
        if target.is_file():
            return
        visits = self.visits(split)
        cases = self._with_second([v.case for v in visits], second, "own", split)
        if second != run.second:  # a control: without a prior nothing changes
            kept = [i for i, v in enumerate(visits) if v.case.prior is not None]
            visits, cases = [visits[i] for i in kept], [cases[i] for i in kept]
        begun = time.monotonic()
        what = f"{run.name}, {split}, {second}"
        rows = score_cases(self._fast(net), visits, cases, self.machine, what=what, pool=self.pool)
        rows = rows.assign(run=run.name, split=split, second=second, seconds=round(time.monotonic() - begun, 1))
        with replacing(target) as part:
            _csv(rows, part)

    def triage(self, name: str = "triage") -> None:
        """Sort the lesions of the test visits into tiers by the ensemble and by what it is compared with.

        Each system is two masks (:data:`SYSTEMS`): what is a candidate and what is confirmed. Models are chosen among those
        of one kind, and every threshold, on validation alone, for at most :data:`CANDIDATES` and :data:`CONFIRMED` false
        positives per volume, or as few as the highest threshold leaves. name: "triage" or "triage-long"
        (:data:`LONG_SYSTEMS`), whose runs must be there. In its folder ``tiers.csv.gz`` has one row per lesion and per false
        positive of each system; ``operating_points.csv`` says what was chosen.
        """
        folder = self.folder / name
        if (folder / "operating_points.csv").is_file():
            return
        systems, pools = (LONG_SYSTEMS, LONG_POOLS) if name == "triage-long" else (SYSTEMS, POOLS)
        budgets = {"sens": CANDIDATES, "spec": CONFIRMED}
        chosen = {kind: self._best(pool, budgets[kind]) for kind, pool in pools.items()}
        points = self._operating_points(chosen, systems)
        visits, maps = self._triage_maps(chosen, systems, "test")
        tables = []
        for system, pair in points.groupby("system", sort=False):
            candidate, confirmed = zip(pair["source"], scoring.FINE[pair["level"]], strict=True)
            for i, visit in enumerate(visits):
                masks = (maps[source][i] >= level for source, level in (candidate, confirmed))
                seen = maps[candidate[0]][i]
                rows = scoring.tiers(visit.case.label, *masks, probability=seen, numbers=visit.numbers)  # type: ignore[arg-type]
                tables.append(rows.assign(system=system, case=visit.case.name))
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "tiers.csv.gz") as part:
            _csv(pd.concat(tables, ignore_index=True)[["system", "case", *scoring.TIER_COLUMNS]], part)
        with replacing(folder / "operating_points.csv") as part:
            points.round(9).to_csv(part, index=False, lineterminator="\n")

    def second_look(self) -> None:
        """The candidates of :data:`SECOND_LOOK` in visits with a prior, as :mod:`dmplus.second_look` measures them: of the fresh
        patients, which it was not trained on (split "train"), and of the test. In the folder ``second-look``."""
        target = self.folder / "second-look" / "candidates.csv.gz"
        if target.is_file():
            return
        weights = self.folder / SECOND_LOOK / "weights.safetensors"
        if not weights.is_file():
            raise InputError(f"second-look: expected the weights of run {SECOND_LOOK}; they are not there; run it first")
        net, tables = self._fast(network.load(weights)), []
        fresh_patients(self.cohort, self.folder / "fresh")
        for split, patients in (("train", "fresh"), ("test", "own")):
            visits = [v for v in read_visits(self._cohort(patients), split) if v.case.prior is not None]
            tables.append(second_look.candidates(net, visits, self.machine, what=f"candidates, {split}").assign(split=split))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            _csv(pd.concat(tables, ignore_index=True).round(4), part)

    def _best(self, pool: Sequence[str], budget: float) -> str:
        """The run that finds most of the validation lesions within a budget of false positives per volume."""
        if len(pool) == 1:
            return pool[0]
        found = {}
        for name in pool:
            path = self.folder / name / "rows.validation.prior.csv.gz"
            if not path.is_file():
                raise InputError(
                    f"triage: expected run {name}, scored on validation; it is not there; run the set triage first"
                )
            rows = pd.read_csv(path)
            volumes, floor = len(self.visits("validation")), int(rows["floor"].iloc[0])
            found[name] = scoring.counts(rows, scoring.operating_level(rows, budget, volumes, floor=floor))[0]
        return max(pool, key=lambda n: found[n])

    def _triage_maps(
        self, chosen: dict[str, str], systems: dict[str, tuple[str, str, bool]], split: str
    ) -> tuple[list[Visit], dict[str, list[np.ndarray]]]:
        """The visits of a split and, for each source of the systems, their maps."""
        visits = self.visits(split)
        sources = {source for *pair, _ in systems.values() for source in pair}
        maps = {}
        for name in sorted({*chosen.values(), *(VOTERS if "majority" in sources else ())}):
            weights = self.folder / name / "weights.safetensors"
            if not weights.is_file():
                raise InputError(f"triage: expected the weights of run {name}; they are not there; run it first")
            net = self._fast(network.load(weights))
            shown = Progress(len(visits), f"maps of {name}, {split}")
            maps[name] = []
            for visit in visits:
                maps[name].append(_map(net, visit.case.normalised(), self.machine))
                shown.step()
        joined = {kind: maps[name] for kind, name in chosen.items()}
        for source, names, join in (("averaged", chosen.values(), np.mean), ("majority", VOTERS, np.median)):
            if source in sources:
                several = zip(*(maps[n] for n in names), strict=True)
                joined[source] = [join(m, 0).astype(np.float32) for m in several]
        return visits, joined

    def _operating_points(self, chosen: dict[str, str], systems: dict[str, tuple[str, str, bool]]) -> pd.DataFrame:
        """One line per system and tier: the map, the run behind it, and the level chosen on validation."""
        visits, maps = self._triage_maps(chosen, systems, "validation")
        rows = {
            source: pd.concat(
                [scoring.score(v.case.label, p, levels=scoring.FINE) for v, p in zip(visits, own, strict=True)]  # type: ignore[arg-type]
            )
            for source, own in maps.items()
        }
        lines = []
        for system, (*pair, chooses) in systems.items():
            for tier, source, budget in zip(("candidate", "confirmed"), pair, (CANDIDATES, CONFIRMED), strict=True):
                level = scoring.HALF
                if chooses:
                    try:
                        level = scoring.operating_level(rows[source], budget, len(visits), levels=scoring.FINE)
                    except InputError:  # no level keeps to the budget: the highest; validation_fp tells
                        level = len(scoring.FINE) - 1
                found, missed, false = scoring.counts(rows[source], level)
                lines.append(
                    {"system": system, "tier": tier, "source": source, "run": chosen.get(source, ""), "level": level,
                     "threshold": float(scoring.FINE[level]), "budget": budget if chooses else np.nan,
                     "validation_sensitivity": found / max(found + missed, 1), "validation_fp": false / len(visits)}
                )  # fmt: skip
        return pd.DataFrame(lines)

    def _fast(self, net: DeepMedic) -> DeepMedic:
        return training.fast(net, self.machine, self.compile)


def _map(net: DeepMedic, case: Case, machine: Machine) -> np.ndarray:
    """The probability map of a normalised case."""
    return predict_volume(net, case.image, prior=case.prior, mask=case.mask, machine=machine)


def score_cases(
    net: DeepMedic, visits: Sequence[Visit], cases: Sequence[Case], machine: Machine, *, what: str = "scoring",
    pool: Executor | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Rows of all cases (column case first), complete at 0.5 and at the levels above all with over ``MOST`` false positives
    per volume.

    The column floor holds the lowest of these: below it, but for 0.5, the rows say nothing of false positives. pool: of
    processes that score the maps while the next are made.
    """
    shown = Progress(len(visits), what)
    ready = ahead(Case.normalised, cases, threads=None if pool else 1)
    results = []
    for visit, case in zip(visits, ready, strict=True):
        arguments = case.name, case.label, _map(net, case, machine), visit.numbers, visit.lookalikes
        results.append(pool.submit(_scored, *arguments) if pool else _scored(*arguments))
        shown.step()
    tables = [r if isinstance(r, pd.DataFrame) else r.result() for r in results]
    rows = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    many = [k for k in range(len(scoring.LEVELS)) if scoring.counts(rows, k)[2] > MOST * len(visits)]
    floor = min(many[-1] + 1, len(scoring.LEVELS) - 1) if many else 0  # below, blobs merge and may be few again
    at_half = (rows["bottom"] <= scoring.HALF) & (scoring.HALF <= rows["top"])
    kept = (rows["kind"] == "lesion") | (rows["top"] >= floor) | at_half
    return rows[kept].reset_index(drop=True).assign(floor=floor)


def _scored(name: str, label: np.ndarray, map_: np.ndarray, numbers: Any, lookalikes: Any) -> pd.DataFrame:
    rows = scoring.score(label, map_, numbers=numbers, lookalikes=lookalikes)
    rows.insert(0, "case", name)
    return rows


def _csv(table: pd.DataFrame, path: Path) -> None:
    """Gzipped text whose bytes depend on the table alone."""
    table.to_csv(path, index=False, lineterminator="\n", compression={"method": "gzip", "mtime": 0})


# ----------------------------------------------------------------------------------------------------------- the tables
def _precisions(made: dict[str, Any], result: dict[str, Any]) -> str:
    """The number formats that a run was trained in: of all its parts, where it changed its machine (``versions.json``)."""
    parts = [each["precision"] for each in (made, *made.get("earlier", [])) if "precision" in each]
    return " and ".join(sorted(set(parts or [result["precision"]])))


def collect(cohort: str | Path, folder: str | Path, out: str | Path, *, second_test: str | Path | None = None) -> None:
    """Join everything scored in ``folder`` into ``runs.csv``, ``visits.csv``, ``rows.csv.gz`` and ``histories.csv`` in ``out``.

    runs: one line per run, split and second image, with configuration, device, seconds of training and scoring, and the
    floor of its rows. histories: the losses of every training, the trunk's among them. visits: every scored visit, its
    patient, whether it has a prior. rows: :mod:`dmplus.scoring`. Of a synthetic cohort also ``lesions.csv``: what became of
    each lesion since the visit before (state), and its volume then.

    Runs that ``out`` holds already and ``folder`` does not stay: experiments may be made in parts, on several machines.
    ``InputError`` where nothing was scored, where the second test set is needed and not named, and where ``out`` holds runs
    on other visits.
    """
    runs, rows = [], []
    for path in sorted(Path(folder).glob("*/rows.*.csv.gz")):
        table = pd.read_csv(path)
        first = table.iloc[0]
        described = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
        result = json.loads((path.parent / "result.json").read_text(encoding="utf-8"))
        made = json.loads((path.parent / "versions.json").read_text(encoding="utf-8"))
        for scored in ("validated", "controls", "second_test"):
            described.pop(scored, None)
        runs.append(
            {"run": described.pop("name"), "split": first["split"], "second_image": first["second"], **described,
             "segments": result["segments"], "train_seconds": result["seconds"], "score_seconds": first["seconds"],
             "floor": int(first["floor"]), "device": result["device"], "precision": _precisions(made, result),
             "commit": made["commit"]}
        )  # fmt: skip
        rows.append(table.drop(columns=["seconds", "floor"]).rename(columns={"second": "second_image"}))
    if not runs:
        raise InputError(
            f"{named(folder)}: expected runs of `dmplus experiment`; found none that was scored; run it first"
        )
    files = [(split, f) for split in ("validation", "test") for f in read_cohort(cohort, split=split)]
    if second_test is not None:
        files += [("second_test", f) for f in read_cohort(second_test, split="test")]
    elif "second_test" in {r["split"] for r in runs}:
        raise InputError(
            f"{named(folder)}: expected the second test set that some runs were scored on; got none; name its cohort"
        )
    visits = pd.DataFrame(
        [(f.name, f.patient, split, f.visit, f.days, f.prior is not None) for split, f in files],
        columns=["case", "patient", "split", "visit", "days", "with_prior"],
    )
    trained = [p for p in sorted(Path(folder).glob("*/history.csv")) if (p.parent / "result.json").is_file()]
    histories = [pd.read_csv(p).assign(run=p.parent.name) for p in trained]
    names = ["run", "split", "second_image", "case", *scoring.COLUMNS]
    tables = {"runs.csv": pd.DataFrame(runs), "visits.csv": visits,
              "rows.csv.gz": pd.concat(rows, ignore_index=True)[names].round({"dice": 4})}  # fmt: skip
    if histories:
        joined = pd.concat(histories, ignore_index=True)
        tables["histories.csv"] = joined[["run", *(c for c in joined.columns if c != "run")]]
    known = [p for c in (cohort, second_test) if c is not None and (p := Path(c) / "lesions.csv").is_file()]
    if known:  # the generator's: a real cohort has none
        lesions = pd.concat([pd.read_csv(p) for p in known], ignore_index=True)
        lesions = lesions.rename(columns={"name": "case", "lesion": "id"})
        lesions = lesions[lesions["case"].isin(visits["case"])]
        tables["lesions.csv"] = lesions[["case", "id", "state", "volume_mm3", "previous_mm3"]]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in _added(tables, out).items():
        with replacing(out / name) as part:
            if name == "rows.csv.gz":
                _csv(table.astype(scoring.WHOLE), part)
            else:
                table.to_csv(part, index=False, lineterminator="\n")
    write_json(out / "versions.json", versions())
    if (looked := Path(folder) / "second-look" / "candidates.csv.gz").is_file():
        with replacing(out / looked.name) as part:
            part.write_bytes(looked.read_bytes())
    for name in ("tiers.csv.gz", "operating_points.csv"):
        made = [pd.read_csv(path) for path in sorted(Path(folder).glob(f"triage*/{name}"))]
        if made:
            table = pd.concat(made, ignore_index=True)
            if (out / name).is_file():
                earlier = pd.read_csv(out / name)
                table = pd.concat([earlier[~earlier["system"].isin(table["system"])], table], ignore_index=True)
            place = {system: i for i, system in enumerate(SYSTEMS | LONG_SYSTEMS)}
            table = table.sort_values("system", key=lambda s: s.map(place), kind="stable")
            with replacing(out / name) as part:
                if name == "tiers.csv.gz":
                    _csv(table, part)
                else:
                    table.to_csv(part, index=False, lineterminator="\n")


def _added(tables: dict[str, pd.DataFrame], out: Path) -> dict[str, pd.DataFrame]:
    """The tables with what ``out`` holds of other runs, in the order of the runs' names, and of other splits."""
    earlier = {n: pd.read_csv(out / n) for n in tables if (out / n).is_file()}
    if "visits.csv" not in earlier:
        return tables
    visits, before = tables["visits.csv"], earlier["visits.csv"]
    for split, own in visits.groupby("split"):
        there = before[before["split"] == split]
        if len(there) and not there.reset_index(drop=True).equals(own.reset_index(drop=True)):
            raise InputError(
                f"{named(out)}: expected runs on the visits of its own ({split}); got other visits; collect another cohort "
                "into another folder"
            )
    joined = dict(tables)
    for name in earlier.keys() & {"runs.csv", "rows.csv.gz", "histories.csv"}:
        new, old = tables[name], earlier[name]
        both = pd.concat([new, old[~old["run"].isin({*tables["runs.csv"]["run"], *new["run"]})]], ignore_index=True)
        columns = [*old.columns, *(c for c in new.columns if c not in old.columns)]
        joined[name] = both.sort_values("run", kind="stable", ignore_index=True)[columns]
    more = before[~before["split"].isin(visits["split"])]
    joined["visits.csv"] = pd.concat([visits, more], ignore_index=True)
    if "lesions.csv" in earlier:
        old = earlier["lesions.csv"]
        joined["lesions.csv"] = pd.concat(
            [tables["lesions.csv"], old[old["case"].isin(more["case"])]], ignore_index=True
        )
    return joined


def main(names: Sequence[str], experiments: Experiments, *, own: Sequence[Run] = ()) -> None:
    """Do the runs of the named sets (or single runs, by name), in order, saying which is next; the set "own" is given here."""
    sets = {name: [run] for name, run in RUNS.items()} | SETS | {"own": list(own)}
    todo = list({run.name: run for name in names for run in sets[name]}.values())
    with contextlib.ExitStack() as stack:
        experiments.use(stack)
        for number, run in enumerate(todo, 1):
            print(f"[{number}/{len(todo)}] {run.name}", flush=True)
            experiments.do(run)
        for name in ("triage", "triage-long"):
            if name in names:
                experiments.triage(name)
        if "second-look" in names:
            experiments.second_look()
