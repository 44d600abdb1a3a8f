# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,dmplus,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Ensemble triage
#
# **Question.** What should two networks hand to a radiologist, and what is left for the radiologist to do?
#
# - **Needs**: notebook 02 for operating points; notebook 00 for the tiers.
# - **Reading**: 60 minutes, exercises included; the reading test takes as long as you like.
# - **Quick**: 2 minutes on 2 CPU cores with 4 GB of memory.
# - **GPU**: 10 minutes on one card with 16 GB (an estimate); the results are the committed ones, the patients shown are whole
#   brains.
# - **Data**: committed rows of trainings on the synthetic cohort `synthetic-v1`; patients made here from the ICBM152 2009a
#   template (notice in `dmplus/assets`); the shipped weights; the printed numbers of Huang et al. 2022; text CC BY 4.0,
#   code BSD-3.
# - **Not claimed**: no radiologist took part. The patients are synthetic. The readers of the saved version are two rules: one
#   marks what is bright, one knows the reference. Nothing here is for clinical use.
#
# ## Objectives
#
# After this notebook you can
#
# - **sort** the lesions of two networks into tiers, and say what each tier promises;
# - **compute** the load that candidates put on a reader, per volume and per patient;
# - **compare** the ensemble with rival systems: two thresholds on one network, averaged maps, a vote;
# - **explain** in which order to review, and what a peak probability is worth;
# - **review** a scan to its end, and be scored by the metrics that score the networks.

# %% [markdown]
# ## Parameters and set-up

# %% tags=["parameters"]
profile: str = "quick"  # smoke for tests, quick for a laptop, gpu for whole brains
seed: int = 2022  # seed of the synthetic cohort whose patient is reviewed
patient: int = 7  # which patient of the test part is reviewed, from 0; 2 is that of notebook 00, whose answers you know
out_dir: str = ""  # where results go, empty for runs/04_ensemble_triage and the profile

# %% [markdown]
# One cell imports everything, checks the parameters and says what it runs on.

# %% tags=["setup"]
import dataclasses

import numpy as np
import pandas as pd
from dmplus import claims, course, evidence, experiment, figures, network, reader, review, synthetic
from dmplus.triage import triage_case
from IPython.display import display

session = course.start("04_ensemble_triage", profile=profile, seed=seed, out_dir=out_dir, patient=patient)
rows = evidence.shipped()
table = claims.claims_table(rows)
cohort = dataclasses.replace(synthetic.COHORTS[session.profile.cohort], seed=seed)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## Two networks, two tiers
#
# At *one* threshold a network cannot both miss little and raise few false alarms. The paper trains it twice; one network with
# two thresholds is the rival below. $M_{\text{sens}}$ is meant to miss little: its loss, JVSS (notebook 01), has the larger
# alpha. $M_{\text{spec}}$ is *meant* to mark only what is true: it has the smaller.
#
# Mark every voxel that $M_{\text{sens}}$ gives at least $t_{\text{sens}}$, or $M_{\text{spec}}$ at least $t_{\text{spec}}$.
# Voxels that touch are a **group**; its **peak** is the highest probability inside it (all words: [notation and
# glossary](notation.md)). One rule sorts the groups:
#
# $$\text{a group } G \text{ is confirmed} \iff \max_{v \in G} M_{\text{spec}}(v) \ge t_{\text{spec}},
# \text{ else it is a candidate.}$$
#
# | tier | rule | promise |
# |---|---|---|
# | confirmed | $M_{\text{spec}}$ reaches its threshold | meant to be taken as it is; how often that is right, see below |
# | candidate | only $M_{\text{sens}}$ reaches its threshold | look at it |
#
# > **Question.** Both thresholds are 0.9. Four places have the peaks (in $M_{\text{sens}}$, in $M_{\text{spec}}$)
# > A (0.99, 0.95), B (0.99, 0.89), C (0.60, 0.92), D (0.85, 0.40). Which tier?
#
# <details><summary>Answer: A to D</summary>
# A and C are confirmed: the second number alone decides. B is a candidate. D is not marked at all.
# </details>

# %% [markdown]
# ## The rivals
#
# Is it the *pair* that pays? Six systems are compared:
#
# - **ensemble**: $M_{\text{sens}}$ makes candidates, $M_{\text{spec}}$ confirms;
# - **ensemble at 0.5**: the same with both thresholds at 0.5, as in the paper;
# - **two thresholds on $M_{\text{sens}}$**, or **on $M_{\text{spec}}$**: one network, a lower threshold for candidates, a higher
#   one to confirm;
# - **averaged probabilities**: the mean of the two maps, with two thresholds;
# - **majority of three**: three trainings that differ by their seed, of each voxel the middle probability, with two thresholds.
#
# Networks and thresholds were chosen on validation, within a **budget** of false positives a volume for each tier. The budgets
# are ours. "Middle one of three" marks a voxel where two of three do.

# %%
display(reader.systems_in_words(rows))
print(reader.budgets_in_words(rows), reader.networks_in_words(rows), sep="\n")

# %% [markdown]
# The tables hold for the first pair alone. The second one reviews the patient below. Alpha is larger *within* a pair: the second
# pair's $M_{\text{sens}}$ may have the alpha of the first pair's $M_{\text{spec}}$.
#
# > **Predict first.** In the paper nearly all that is confirmed is true. How much is it here, with thresholds chosen on
# > validation?
#
# Then the test was looked at once at these thresholds: per volume, with 95 % intervals over patients.

# %%
systems = reader.systems(rows)
ensemble = systems.loc["ensemble"]
display(systems.map(evidence.in_words))
false = 1 - ensemble["confirmed that are true"].value
print(f"{false:.0%} of what the ensemble confirms is false; at 0.5 it would leave "
      f"{systems.loc['ensemble at 0.5', 'candidates/volume'].value:.0f} candidates a volume")
of_these = table[~table["claim"].str.endswith(claims.LONGEST)]  # the longest trained come below
display(evidence.verdicts(of_these, of_claims=["confirmed lesions", "candidates"]))

# %% [markdown]
# So load and confirmed precision are first of all the budgets. What the networks decide is how much is *found* within them. A
# stricter budget for *confirmed* would usually be surer, and confirm less.
#
# In these tables, and in the figures below, a metastasis counts once, in the best tier of the groups that touch it: where one is
# marked in pieces, the load is a little too low.
#
# The third table sets the paper's claims beside ours. A verdict says on which side of a claim our interval lies, not how far;
# the column *seeds* says how many trainings stand behind it (of the side that has fewer).
#
# All systems saw the same patients. So do not ask whether two intervals overlap. Ask for the interval of the **difference**,
# patient by patient.
#
# > **Predict first.** Does the pair find more metastases than one network with two thresholds?

# %%
gaps = reader.differences(rows)
display(gaps.map(lambda e: evidence.in_words(e, 3)).rename_axis("ensemble minus"))
print(reader.differences_in_words(rows, gaps))

# %% [markdown]
# The first two lines answer, for this measure and for the others: is it the *pair* that pays? *Above* and *below* mean that the
# interval of the difference leaves out 0. Where a line says that both take their candidates from one network at one threshold,
# the other network decides the tier; *found* then differs only by what it alone marks, and by exactly 0 if that is nothing. One
# warning: where a system used less of its budget on validation (first table of this section), either the next threshold would
# break it, or a lower one finds no more there. Only the first is a handicap.
#
# ### Had the networks time enough?
#
# All of these were fine-tuned for a few minutes. Perhaps the tiers are that bad for no other reason. Here are the two networks
# that were trained longest (300,000 segments each, notebook 02, "Trained longer"), in the same machinery: thresholds chosen on
# validation for the same budgets. But it is a *second* look at the same test patients, after the first had disappointed: take
# what follows for a question, not for an answer.
#
# > **Predict first.** A budget holds the number of false alarms. What can a longer training change then, and what not? And does
# > the pair pay now?

# %%
longest = [*experiment.LONG_SYSTEMS]
display(reader.systems_in_words(rows, longest))
display(reader.systems(rows, ["ensemble", *longest]).map(evidence.in_words))
of_longest = table[table["claim"].str.endswith(claims.LONGEST)]
display(evidence.verdicts(of_longest, of_claims=["confirmed lesions", "candidates"]))
long_gaps = reader.differences(rows, longest[0], ["ensemble", *longest])
display(long_gaps.map(lambda e: evidence.in_words(e, 3)).rename_axis("the longest trained ensemble minus"))
print(reader.differences_in_words(rows, long_gaps, longest[0]))

# %% [markdown]
# The first line of differences says what the time bought: at the same budgets, set on validation, nearly every metastasis, and
# more of what is confirmed is true; that it leaves more on the test, too, it says as well. The others ask for the pair again.
# Where
# *found* is not among what is above, and *false ones/volume* is, one network with two thresholds does as well and leaves less to
# look at: so it is here with those of $M_{\text{spec}}$. (The specific network of the first ensemble has the earlier scan in a
# path, this one has not.)
#
# It is not the paper's tier yet, and more of the same training would hardly make it so. Look at the first table: not even the
# highest of our thresholds, one ten-millionth below 1, keeps to the budget on validation. What is left to $M_{\text{spec}}$ are
# spots, round or elongated, which look much as a metastasis does (notebook 02, "Trained longer"), and it is as sure of them.
#
# ## How much work is left?
#
# **Exercise 4.1 · the load** — difficulty 1 of 5 · importance 4 of 5 · about 4 minutes. Goal: from the tier and
# the case (the volume it lies in) of every group, and the number of volumes, the candidates per volume. You may not need all
# three. A right answer is one number.
#
# <details><summary>Hint: which volumes?</summary>
#
# All of them. A volume without any candidate is a volume that a reader finishes at once.
# </details>

# %% tags=["exercise"]
def review_load(tiers: list[str], cases: list[str], volumes: int) -> float:
    """Candidates per volume."""
    # solution
    return sum(t == "candidate" for t in tiers) / volumes

# %% tags=["check"]
course.check("4.1", review_load)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 4.1, and why</summary>
#
# ```python
# return sum(t == "candidate" for t in tiers) / volumes
# ```
# Why not among volumes with candidates, which is what `cases` would give? The mean over those alone hides the best thing a
# triage can do, which is to leave nothing to review.
# </details>

# %% [markdown]
# A mean is not a day's work: some patients are quick, some are not.
#
# > **Predict first.** How many candidates a volume does the busiest patient have, if the mean is as above?

# %%
busy = reader.load(rows, "ensemble")
marked = np.unique(reader.groups_of(rows, "ensemble")["case"]).size
most, least = busy["per_volume"].max(), busy["per_volume"].min()
fifth = busy.head(len(busy) // 5)
share = fifth["candidates"].sum() / busy["candidates"].sum()
figures.show(
    reader.draw_load(busy, reader.load_in_words(busy)),
    f"Figure 1 shows the candidates per volume of {len(busy)} test patients, true and false. The mean over volumes is "
    f"{busy['candidates'].sum() / busy['volumes'].sum():.1f}; the busiest patient has {most:.1f}, the quietest {least:.1f}. The "
    f"busiest fifth, with {fifth['volumes'].sum()} of {busy['volumes'].sum()} volumes, makes {share:.0%} of the work. {marked} "
    "volumes have a candidate.",
)

# %% [markdown]
# ## In which order?
#
# Every candidate is to be reviewed. The order decides what is seen first: say, by falling peak. A **look** is one candidate
# looked at.
#
# **Exercise 4.2 · capture** — difficulty 3 of 5 · importance 4 of 5 · about 7 minutes. Goal: from the peak probability of
# every candidate of a volume and whether it is true, the share of the true ones among the `first` with the highest peak. A
# right answer is a share from 0 to 1, NaN if none is true.
#
# <details><summary>Hint: sort indices, not peaks</summary>
#
# `sorted(range(len(peak)), key=lambda i: -peak[i])` gives the places of the candidates, the highest peak first.
# </details>

# %% tags=["exercise"]
def captured(peak: list[float], true: list[bool], first: int) -> float:
    """Share of the true candidates among the ``first`` with the highest peak."""
    # solution
    if not any(true):
        return float("nan")
    order = sorted(range(len(peak)), key=lambda i: -peak[i])[:first]
    return sum(true[i] for i in order) / sum(true)

# %% tags=["check"]
course.check("4.2", captured)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 4.2, and why</summary>
#
# ```python
# if not any(true):
#     return float("nan")
# order = sorted(range(len(peak)), key=lambda i: -peak[i])[:first]
# return sum(true[i] for i in order) / sum(true)
# ```
# Why divide by all true ones? Capture asks what a reader has *not missed* so far. How many of the looks were worth it is
# precision.
# </details>

# %% [markdown]
# > **Predict first.** How many looks a volume does it take to see half of the true candidates, by falling peak? And how many in
# > random order?

# %%
curves = {name: reader.capture(rows, name) for name in ["ensemble", *gaps.index]}
half = {name: reader.looks(rows, name) for name in curves} | {"random": reader.looks(rows, "ensemble", random=True)}
title = f"Ensemble: {half['ensemble'].value:.1f} looks for half of the true ones, {half['random'].value:.1f} at random"
figures.show(
    reader.draw_capture(curves, title),
    f"Figure 2 shows the true candidates seen against the candidates looked at, highest peak first, mean of "
    f"{busy['volumes'].sum()} volumes; grey: the ensemble's in random order; shaded: its 95 % interval over patients. Half of "
    "its own true candidates a system shows after (looks a volume): "
    + "; ".join(f"{name} {evidence.in_words(e, 1)}" for name, e in half.items()) + ".",
)

# %% [markdown]
# The height above the grey line is what sorting is worth. Curves end where their lists end. They are counts, not shares:
# each system has true candidates of its own, and a share of few looks better than it is.
#
# ## What is a peak probability worth?
#
# A network says 0.97. Is that 97 in 100? BCE asks for that, but voxel by voxel, and on training segments. VSS does not ask.
# Neither asks it of a group.
#
# **Exercise 4.3 · calibration** — difficulty 4 of 5 · importance 3 of 5 · about 10 minutes. Goal: from peaks, truths and
# the edges of bins, the mean over groups of the gap |mean peak − share true| of their bin. A bin holds its lower edge and not
# its upper one: [edge, next edge); the last one holds both. A right answer is one number from 0 to 1, NaN without groups.
#
# <details><summary>Hint: which bin is a peak in?</summary>
#
# `np.searchsorted(edges, peak, side="right") - 1`, cut to the last bin with `np.clip`, so that 1.0 belongs to it.
# </details>
#
# <details><summary>Hint: and then?</summary>
#
# For each bin that holds a group: |mean peak − share true|. Give every group the gap of its bin, and take the mean over groups.
# </details>

# %% tags=["exercise"]
def calibration_error(peak: list[float], true: list[bool], edges: list[float]) -> float:
    """Mean gap between what is said and what is so, weighted by groups."""
    # solution
    p, t = np.asarray(peak, float), np.asarray(true, float)
    if not len(p):
        return float("nan")
    which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
    gaps = {k: abs(p[which == k].mean() - t[which == k].mean()) for k in set(which.tolist())}
    return float(np.mean([gaps[k] for k in which.tolist()]))

# %% tags=["check"]
course.check("4.3", calibration_error)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 4.3, and why</summary>
#
# ```python
# p, t = np.asarray(peak, float), np.asarray(true, float)
# if not len(p):
#     return float("nan")
# which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
# gaps = {k: abs(p[which == k].mean() - t[which == k].mean()) for k in set(which.tolist())}
# return float(np.mean([gaps[k] for k in which.tolist()]))
# ```
# Why weigh by groups? An almost empty bin has a wild share. And why the absolute value? Too sure here and too shy there must
# not cancel.
# </details>

# %% [markdown]
# > **Predict first.** Which network is nearest to meaning what it says: the one trained with BCE, or one with VSS?

# %%
pair = rows.points.drop_duplicates("source").set_index("source")["run"]
models = {"BCE": "bce-s0", "JVSS, alpha 0.5": "jvss-0.5-s0", "M_sens": pair["sens"], "M_spec": pair["spec"]}
said = {label: reader.calibration(rows, name) for label, name in models.items()}
gap = {label: reader.calibration_gap(rows, name) for label, name in models.items()}
figures.show(
    reader.draw_calibration(said, reader.calibration_in_words(rows, models)),
    "Figure 3 shows how much of what has a certain peak is true, for every group marked at 0.5 on the test volumes, in bins of "
    "equal number; bars: 95 % intervals by Wilson, as if groups were independent. Mean gap [95 % interval over patients], and "
    "groups: " + "; ".join(f"{k} {evidence.in_words(gap[k])}, {said[k]['n'].sum()}" for k in said)
    + ". The grey line is a probability that means what it says.",
)
print(reader.nearest_in_words(rows, models))
print(reader.sure_in_words(rows, {"BCE": rows.seeds("bce"), "JVSS, alpha 0.5": rows.seeds("jvss-0.5")}))

# %% [markdown]
# The second line compares the two losses by the mean gap, of one training each; the next two differ in alpha or in the earlier
# scan, too. But the mean hangs on what is marked: BCE marks more groups, most of them with a low peak. So read the curves, or
# the last lines: where both are sure, which is right more often, and is it so for every seed? (JVSS is VSS + BCE: it asks every
# voxel as BCE does, and pulls the peaks besides.)
#
# Two things inflate all peaks: a peak is the largest of many voxels, and half of the training segments were centred on a
# metastasis, as in the paper. And a network that marks more groups has more false ones to be sure of: compare curves, not only
# gaps.
#
# A peak is there to *sort* by. What it means as a number has to be measured, on validation.
#
# ## You against the models
#
# Now one patient of the test part, on your machine. The triage is computed, and nothing of it is shown yet. Another patient is
# one parameter away.

# %%
test_part = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "test"]
visit = synthetic.patient(cohort, test_part[patient % len(test_part)]).visits[-1]
case = visit.case
found = triage_case(case, network.load("sens"), network.load("spec"), machine=session.machine)
live = course.interactive()
kept = session.folder if live else session.fresh("rule")
key = f"{case.name}_seed{seed}.csv"  # decisions and marks of one patient are no other's
panels = ["current", "prior"] if case.prior is not None else ["current"]
figure = figures.slices(case, panels=panels, index=case.shape[2] // 2, title=f"{case.name}: where are the metastases?")
figures.show(
    figure,
    f"Figure 4 shows the middle one of {case.shape[2]} axial slices of {case.name}, now"
    + (" and earlier" if len(panels) > 1 else "") + ". The reading begins here.",
)

# %% [markdown]
# Mark what you take for a metastasis: first without help, then with the triage outlined. The networks get the earlier scan, and
# so do you: *Earlier scan* shows the same slice of it, where there is one. Both passes are scored by the metrics that score the
# networks, against the reference, which you have not seen.
#
# > **Predict first.** What share of the metastases will you find alone? And how many false marks will you make?

# %%
reading = review.Reading(case, found, kept / f"marks_{key}", who="you" if live else "rule")
if live:
    display(reading.widget())
else:
    print("The reading test opens in JupyterLab (make lab). Here a rule reads. Alone, it marks the eight brightest spots;")
    print("with the triage in view, it marks the confirmed lesions as well. Marks at most 4 mm apart count as one.")
    for voxel in review.bright_reader(case, n=8):  # as many for every patient: it knows nothing of this one
        reading.mark(voxel)
    reading.next_pass()
    for voxel in review.centres(found, tier="confirmed"):
        reading.mark(voxel)
    display(reading.score())

# %% [markdown]
# When both passes are read, run the next cell: what the triage changed, and what lies under the false marks.
#
# > **Question.** What did you look at besides brightness: shape, place, the neighbouring slices, the earlier scan? Compare.

# %%
print(reading.change(), reading.false_marks(visit.lookalikes), sep="\n")

# %% [markdown]
# Read to the end before you go on: from here on the triage is shown.
#
# ## What the networks hand over
#
# In the list, a *lesion* is whatever the two networks mark, true or false. Confirmed ones come first, the largest of a tier
# first.

# %%
print(figures.headline(found))
display(figures.lesion_rows(found).set_index("lesion"))

# %% [markdown]
# In three dimensions, as in Figure 9 of the paper:

# %%
size = " × ".join(f"{n * s:.0f}" for n, s in zip(case.shape, case.spacing, strict=True))
figures.show(
    figures.surface(case, found),
    f"Figure 5 shows the lesions of {case.name}: {found.counts['confirmed']} confirmed (✓) and {found.counts['candidate']} "
    "candidates (?), numbered as in the list; a number in brackets belongs to one that is hidden behind another. The grey body "
    f"is the part of the brain in this scan, {size} mm.",
)

# %% [markdown]
# In JupyterLab you can turn it.
#
# > **Question.** Which candidates lie at the surface or in the midline, where the large vessels run? Would you review those first
# > or last?
#
# <details><summary>An answer</summary>
# Last, if time is short: vessels and choroid plexus lie in known places. But every candidate is to be reviewed.
# </details>

# %%
if live:
    display(review.turnable(case, found))
else:
    print("The turnable brain opens in JupyterLab (make lab).")

# %% [markdown]
# ## The review board
#
# One candidate at a time, in three planes, the earlier scan below: accept, reject, or later. Every decision is written to a
# CSV at once; close the notebook, open it again, go on where you were. *Start again* puts that file aside and begins anew.

# %%
board = review.Review(case, found, kept / f"decisions_{key}")
print(board.describe())
if len(board.table):
    one = int(board.table.loc[0, "lesion"])
    figures.show(
        figures.lesion_board(case, found, one),
        f"Figure 6 shows the candidate with the highest peak, number {one}, outlined: now"
        + (" above, earlier below." if len(panels) > 1 else "."),
    )

# %% [markdown]
# > **Question.** Which of the candidates do you accept, and what in the earlier scan decides?

# %%
if live:
    display(board.widget())
else:
    print("The review board opens in JupyterLab (make lab). Here a rule decides that knows the reference.")
    review.perfect_review(board)
    print(board.describe())

# %% [markdown]
# What does the reference say? The next cell answers for each candidate that you have accepted or rejected, one or all. The
# score waits until every candidate is decided.

# %%
display(board.answers(visit.lookalikes))
if board.done:
    display(board.score())
else:
    print("Accept or reject more candidates, then run this cell again: the score comes when none is left.")

# %% [markdown]
# Set *change* in the list beside *in truth* here. Growth alone does not decide: a look-alike may seem to grow by noise, bolus or
# registration, and a metastasis may shrink.
#
# Review takes away what is false. It cannot bring back what neither network marked.
#
# How well do the outlines fit? Figure 8 of the paper shows contours of both networks, with their Dice.
#
# > **Predict first.** Whose outline fits better? Is one of them too small?

# %%
masks = {"M_sens": found.prob_sens >= 0.5, "M_spec": found.prob_spec >= 0.5}
largest = reader.dice_of_largest(case, masks)
title = "Dice: " + "; ".join(reader.dice_in_words(largest, name) for name in masks)
figures.show(
    reader.contours(case, masks, largest, title=title),
    f"Figure 7 shows the {len(largest)} largest metastases of {case.name} with the reference (broad) and the outlines of both "
    "networks, Dice above each; each in its largest slice, beside which a small outline may lie. "
    + ", ".join(f"{name} finds {largest[name].notna().sum()}" for name in masks) + " of them.",
)
print(reader.fits_in_words(case, masks, largest))
shift = network.info("spec")["info"]["threshold_folded_in"]  # what reads 0.5 above is this; its own 0.5 reads 1 - shift
own = {"M_spec at 0.5 of its own": found.prob_spec >= 1 - shift}
print("without the shift: Dice of", reader.dice_in_words(reader.dice_of_largest(case, own), *own))

# %% [markdown]
# $M_{\text{spec}}$ is drawn at the threshold that was chosen for it ("The rivals" has it), far above 0.5. Only the core of a
# metastasis reaches that, whatever the network learnt: the last line has its outline at 0.5, where the paper draws both.
#
# What is handed over is the **union** of both. So where $M_{\text{spec}}$, at its threshold, draws too little, the outline of
# $M_{\text{sens}}$ is kept (paper, III.B); $M_{\text{spec}}$ only says *confirmed*.
#
# ## Every error
#
# Numbers say how many; pictures say which. The gallery holds **every** missed metastasis and **every** false group of the
# ensemble of the tables on the test part, by tier, size, and what lies there.
#
# Found means here: at least one voxel is marked. By a stricter rule (half of the voxels, say) more would be missed.

# %%
wrong = reader.errors(rows, "ensemble")
missed = wrong[wrong["kind"] == "missed"]
once = missed.drop_duplicates(["patient", "id"])  # a metastasis missed at two visits is one picture
gallery = reader.Gallery(once, per_page=3)
small, shown = (once["volume_mm3"] < 100).sum(), min(gallery.per_page, len(once))
from_on = rows.points.set_index(["system", "tier"]).loc[("ensemble", "candidate"), "threshold"]
figures.show(
    gallery.draw(f"{small} of {len(once)} missed metastases are below 0.1 cm³; the {shown} largest"),
    f"Figure 8 shows the {shown} largest of {len(once)} missed metastases ({len(missed)} misses, visits counted), "
    f"in the circle; reference outlined; peak: the highest probability that M_sens gave it; marked from {from_on:.4f} on.",
)
what = wrong.loc[wrong["kind"] != "missed", "what"].replace("", "not known").value_counts(normalize=True)
print("false groups by what lies there: " + ", ".join(f"{k} {v:.0%}" for k, v in what.items()))

# %% [markdown]
# > **Question.** Page through the false groups of one kind. Which could you tell from a metastasis in one slice, which only with
# > the earlier scan? Are those that were confirmed of another kind?

# %%
if live:
    display(reader.gallery(wrong))
else:
    print(f"The gallery of {len(wrong)} errors opens in JupyterLab (make lab).")

# %% [markdown]
# ## Run it again
#
# From the folder of the repository (after `source .venv/bin/activate`; with conda, `conda activate dmplus`):
#
# ```bash
# dmplus run 04 patient=4               # another patient to review
# dmplus run 04 patient=4 seed=7        # of another cohort
# dmplus run 04 --list                  # every parameter with its type and default
# ```
# The result lies in `runs/04_ensemble_triage/`. Papermill works too, with less care: `papermill
# notebooks/04_ensemble_triage.ipynb out.ipynb -p patient 4`.

# %% [markdown]
# ## Summary
#
# - **Tiers**: confirmed where the specific network reaches its threshold, else candidate. *Confirmed* promises no more than its
#   precision on patients that took no part in any choice.
# - **Load** is a mean over all volumes, and a distribution over patients.
# - **Rival systems** are compared by the interval of the difference, at budgets set on validation.
# - **Order and calibration**: the most suspicious first, against random order as the baseline. A peak need not be a probability.
# - **Review**: one candidate at a time, decisions kept; you and the networks are scored alike.

# %%
rivals = "; ".join(f"{evidence.in_words(gaps.loc[name, 'found'], 3)} ({name})"
                   for name in ("two thresholds on M_spec", "averaged probabilities"))
print(f"tiers: {evidence.in_words(ensemble['confirmed that are true'])} of what is confirmed is true\n"
      f"load: {evidence.in_words(ensemble['candidates/volume'], 1)} candidates a volume, {most:.0f} for the busiest patient\n"
      f"rivals: found, minus that of one: {rivals}\n"
      f"order: {half['ensemble'].value:.1f} looks for half, {half['random'].value:.1f} at random; "
      f"calibration: a gap of {min(e.value for e in gap.values()):.2f} or more\n"
      f"review of this patient: false {board.score()['false'].iloc[0]} → {board.score()['false'].iloc[-1]}"
      + ("" if board.done else " (what is not decided counts as rejected)"))

# %% [markdown]
# ## What could be wrong with this
#
# The load is the budget that we set. What look-alikes and networks decide is how many metastases that budget buys: in brains
# with more vessels, fewer. Thresholds were chosen on few validation volumes: they keep to their budget there, not on every
# test. The readers here are rules, not people; people tire, learn, and are swayed by an outline (automation bias: Goddard et
# al.), none of which is measured. Each system was trained once, so the intervals know nothing of another training. And a
# candidate that is accepted is only as good as the reviewer.
#
# ## Self-test
#
# **1.** Both thresholds are 0.5. A group has a peak of 0.99 in the sensitive map and 0.49 in the specific one. Its tier?
#
# <details><summary>Answer to 1</summary>
# Candidate: the specific network does not reach 0.5.
# </details>
#
# **2.** You raise the specific network's threshold. What happens to confirmed precision, and to the load?
#
# <details><summary>Answer to 2</summary>
# Precision usually rises, but not always: a true lesion may lose its confirmation before a false one. Lesions that
# $M_{\text{sens}}$ still marks become candidates: the load rises.
# </details>
#
# **3.** 20 candidates in 10 volumes, all of them in 4 volumes. What is the load?
#
# <details><summary>Answer to 3</summary>
# 2 per volume. The 6 empty volumes count.
# </details>
#
# **4.** All peaks are moved by the same strictly increasing function. What happens to capture, and to calibration?
#
# <details><summary>Answer to 4</summary>
# Capture stays: the order is the same. Calibration changes.
# </details>
#
# **5.** Why does a triage not simply average the two maps?
#
# <details><summary>Answer to 5</summary>
# It could. Averaging is a fair rival: see the table of differences for what it gains and costs here. What it lacks is two
# separate questions, one network per tier.
# </details>
#
# **Next**: your own data. `dmplus predict scan.nii.gz --prior earlier.nii.gz -o out/` writes the same list and the same page.
#
# ## References
#
# - Huang Y. et al. *Deep learning for brain metastasis detection and segmentation in longitudinal MRI data.*
#   Medical Physics 2022. [doi.org/10.1002/mp.15863](https://doi.org/10.1002/mp.15863)
# - Guo C. et al. *On calibration of modern neural networks.* ICML 2017.
#   [doi.org/10.48550/arXiv.1706.04599](https://doi.org/10.48550/arXiv.1706.04599)
# - Goddard K. et al. *Automation bias: a systematic review of frequency, effect mediators, and mitigators.* JAMIA 2012.
#   [doi.org/10.1136/amiajnl-2011-000089](https://doi.org/10.1136/amiajnl-2011-000089)
# - Wilson E. B. *Probable inference, the law of succession, and statistical inference.* JASA 1927.
#   [doi.org/10.1080/01621459.1927.10502953](https://doi.org/10.1080/01621459.1927.10502953)

# %% tags=["summary"]
about = table.set_index("claim")["verdict"]
before, after = (board.score().iloc[k] for k in (0, -1))
session.finish(
    headline=f"{ensemble['confirmed that are true'].value:.0%} of what is confirmed is true; "
    f"{ensemble['candidates/volume'].value:.1f} candidates a volume to review",
    metrics={
        "systems": {k: {c: round(e.value, 4) for c, e in row.items()} for k, row in systems.iterrows()},
        "differences": {k: {c: round(e.value, 4) for c, e in row.items()} for k, row in gaps.iterrows()},
        "busiest": float(most), "looks_for_half": {k: e.value for k, e in half.items()},
        "calibration_gap": {k: e.value for k, e in gap.items()}, "found": int(before["found"]), "false": int(before["false"]),
        "lesions": int(before["found"] + before["missed"]), "false_after_review": int(after["false"]),
        "verdicts": about[about.index.str.contains("candidate|confirmed")].to_dict(),
    },
)
