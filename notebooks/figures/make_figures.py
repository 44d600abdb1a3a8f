"""The two pictures of the README: ``python notebooks/figures/make_figures.py`` (no network, about two minutes).

Writes ``flow.png`` (from two scans to a list of lesions) and ``triage.png`` (one patient found and triaged) beside this
file, each with its alternative text (``flow.txt``, ``triage.txt``). Every number in them is computed here.

Which patient: that of notebook 00. Which slab of 15 slices (the brightest of them is shown): of those
through a metastasis the one with most tiers, then most metastases, then most lesions. Which lesions are enlarged: the
largest, the middle and the smallest metastasis; of the findings that are no metastasis a confirmed one if there is any,
and the one with the highest probability.
"""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

import numpy as np
from dmplus import figures, metrics, network, synthetic
from dmplus.runtime import replacing
from dmplus.triage import THRESHOLD, Triage, triage_case
from dmplus.volume import Case
from flow_picture import draw_flow
from matplotlib.figure import Figure
from scipy.ndimage import maximum_filter1d
from triage_picture import SLAB, Subject, draw_triage, finding

HERE = Path(__file__).parent
PATIENT = 2  #: of the test part, as in notebook 00
DPI = 150  # about 1600 pixels in width; half of that is shown in a browser


def choose() -> Subject:
    """Make the test patients, choose one by the rule of this file, and let the shipped networks triage it."""
    sens, spec = network.load("sens"), network.load("spec")  # first: without weights nothing below is of use
    notes = [network.info(name)["info"] for name in ("sens", "spec")]
    cohort = synthetic.COHORTS["quick"]
    test = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "test"]
    index = test[PATIENT]
    visit = synthetic.patient(cohort, index).visits[-1]
    reference, n = metrics.label_lesions(visit.case.label > 0)
    found = triage_case(visit.case, sens, spec)
    tier_of = np.array([found.tiers[reference == k].max() for k in range(1, n + 1)])
    false = np.setdiff1d(found.lesions["lesion"], found.labels[reference > 0])
    days = synthetic.schedule(cohort, index)[0]
    rule = "the one of notebook 00"

    slab, slab_found = thick(visit.case, found)
    true = maximum_filter1d(reference, SLAB, axis=2)

    def shown(z: int) -> tuple[bool, int, int, int]:
        tiers, lesions = slab_found.tiers[:, :, z], slab_found.labels[:, :, z]
        return bool(true[:, :, z].any()), len(np.unique(tiers)), len(np.unique(true[:, :, z])), len(np.unique(lesions))

    sensitive, specific = (network.loss_in_words(n) for n in notes)
    return Subject(
        case=visit.case, found=found, reference=reference, tier_of=tier_of, false=false, lookalikes=visit.lookalikes,
        weeks=round((days[-1] - days[-2]) / 7), rule=rule, level=max(range(reference.shape[2]), key=shown),
        slab=slab, slab_found=slab_found, config=sens.config, losses=(sensitive, specific),
    )  # fmt: skip


def thick(case: Case, found: Triage) -> tuple[Case, Triage]:
    """The same, with each axial slice the brightest of the ``SLAB`` slices around it: more lesions in one picture."""

    def brightest(volume: np.ndarray | None) -> np.ndarray | None:
        return None if volume is None else maximum_filter1d(volume, SLAB, axis=2)

    maps = ("labels", "tiers", "prob_sens", "prob_spec", "earlier")
    return (
        dataclasses.replace(case, image=brightest(case.image), prior=brightest(case.prior)),
        dataclasses.replace(found, **{name: brightest(getattr(found, name)) for name in maps}),
    )


def flow_words(who: Subject) -> str:
    """The alternative text of ``flow.png``."""
    config = who.config
    return (
        f"The flow of dmplus, with pictures of the synthetic patient {who.case.patient}: the current scan at full resolution "
        f"and on grids {' and '.join(map(str, config.low_factors))} times coarser, and the earlier scan, each enter a path "
        f"of {len(config.features)} layers of 3³ (receptive field {config.receptive_field}³); the paths are joined, "
        "layers of 1³ follow, then a softmax of two classes. Two sets of weights, M_sens "
        f"({who.losses[0]}) and M_spec ({who.losses[1]}), give two probability maps. Their union at "
        f"{THRESHOLD} is sorted into {figures.headline(who.found)}, listed in lesions.csv and drawn in triage.png."
    )


def triage_words(who: Subject) -> str:
    """The alternative text of ``triage.png``."""
    return (
        f"{finding(who)}. The brightest of {SLAB} axial slices of {who.case.name}, a synthetic patient ({who.rule}), with "
        f"confirmed lesions outlined solid and candidates dashed; beside it the scan of {who.weeks} weeks before; below, "
        "enlarged with the reference outline: the largest, the middle and the smallest metastasis, and one false finding."
    )


def write(figure: Figure, name: str, sentence: str) -> None:
    """The picture and its alternative text, each whole or not at all."""
    for suffix, content in (("png", figures.png(figure, dpi=DPI)), ("txt", (sentence + "\n").encode())):
        with replacing(HERE / f"{name}.{suffix}") as part:
            part.write_bytes(content)
    print(textwrap.fill(f"{name}.png: {sentence}", 100), flush=True)


if __name__ == "__main__":
    subject = choose()
    write(draw_flow(subject), "flow", flow_words(subject))
    write(draw_triage(subject), "triage", triage_words(subject))
