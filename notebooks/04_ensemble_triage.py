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
# - **Reading**: 50 minutes, exercises included; the reading test takes as long as you like.
# - **Quick**: 2 minutes on 2 CPU cores with 4 GB of memory.
# - **GPU**: 10 minutes; the results are the committed ones, the patients shown are whole brains.
# - **Data**: committed rows of trainings on the synthetic cohort `synthetic-v1`; patients made here from the ICBM152 2009a
#   template (notice in `dmplus/assets`); the shipped weights; the printed numbers of Huang et al. 2022; text CC BY 4.0,
#   code BSD-3.
# - **Not claimed**: no radiologist took part. The patients are synthetic, and so are the readers of the saved version: one
#   who marks what is bright, one who knows the reference. Nothing here is for clinical use.
#
# ## Objectives
#
# After this notebook you can
#
# - **sort** the lesions of two networks into tiers, and say what each tier promises;
# - **compute** the load that candidates put on a reader, per volume and per patient;
# - **compare** the ensemble with cheaper systems: two thresholds on one network, averaged maps, a vote;
# - **explain** in which order to review, and what a peak probability is worth;
# - **review** a scan to its end, and be scored by the metrics that score the networks.

# %% [markdown]
# ## Parameters and set-up

# %% tags=["parameters"]
profile: str = "quick"  # smoke for tests, quick for a laptop, gpu for whole brains
seed: int = 2022  # seed of the synthetic cohort whose patient is reviewed
patient: int = 2  # which patient of the test part is reviewed, counted from 0, and round again after the last
out_dir: str = ""  # where results go, empty for runs/04_ensemble_triage and the profile

# %% [markdown]
# One cell imports everything, checks the parameters and says what it runs on.

# %% tags=["setup"]
import dataclasses

import numpy as np
from dmplus import claims, course, evidence, figures, metrics, network, reader, review, synthetic
from dmplus.scoring import HALF
from dmplus.triage import triage_case
from IPython.display import display

session = course.start("04_ensemble_triage", profile=profile, seed=seed, out_dir=out_dir, patient=patient)
rows = evidence.shipped()
table = claims.claims_table(rows)
cohort = dataclasses.replace(synthetic.COHORTS[session.profile.cohort], seed=seed)

# %% [markdown]
# ## Two networks, two promises
#
# $M_{\text{sens}}$ was trained with a large alpha: it misses little. $M_{\text{spec}}$ was trained with a small one: what it
# marks is nearly always true. Their union is one list of lesions in two tiers:
#
# | tier | rule | promise |
# |---|---|---|
# | confirmed | a voxel of the lesion has $M_{\text{spec}}$ ≥ 0.5 | take it as it is |
# | candidate | all others | look at it |
#
# Networks and thresholds were chosen on validation, for a budget of false positives a volume. Each row is one mask:

# %%
shown = ["system", "tier", "run", "threshold", "budget", "validation_sensitivity", "validation_fp"]
points = rows.points[shown].set_index(["system", "tier"]).round(4).rename(columns=lambda c: c.replace("_", " "))
display(points.astype(object).fillna(""))

# %% [markdown]
# Then the test was looked at once. These are the systems that were compared there, per volume, with 95 % intervals over
# patients:

# %%
tiers = claims.table_of_triage(rows).set_index("system")
columns = {
    "sensitivity": "found", "sensitivity_confirmed": "confirmed", "precision_confirmed": "confirmed that are true",
    "candidates_per_volume": "candidates/volume", "further_found_per_volume": "true ones",
    "further_false_per_volume": "false ones",
}
words = reader.with_intervals(tiers, columns)
display(words)
print(f"most found: {tiers['sensitivity'].drop('ensemble at 0.5').idxmax()}; "
      f"surest confirmed: {tiers['precision_confirmed'].idxmax()}; "
      f"fewest candidates: {tiers['candidates_per_volume'].idxmin()}")
display(evidence.verdicts(table, of_claims=["confirmed lesions", "candidates"]))

# %% [markdown]
# The paper's numbers stand in the second table, from networks trained far longer; the verdicts say how far ours are from
# them. Is it the *pair* of networks that pays? Compare the first row with the third and the fourth, which take one network
# and two thresholds, and look whether their intervals overlap.
#
# **Exercise 4.1 · the load** — difficulty 1 of 5 · importance 4 of 5 · about 4 minutes. Goal: from the tier and the case of
# every marked lesion and the number of volumes, the candidates per volume. A right answer is one number.
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
# Why not among volumes with candidates? The mean over those alone hides the best thing a triage can do, which is to leave
# nothing to review.
# </details>

# %% [markdown]
# A mean is not a day's work: some patients are quick, some are not.
#
# > **Predict first.** How many candidates a volume does the busiest patient have, if the mean is as above?

# %%
busy = reader.load(rows, "ensemble")
top = busy.iloc[0]
quiet = int((busy["candidates"] == 0).sum())
title = f"{quiet} of {len(busy)} patients need no review, the busiest {top['per_volume']:.0f} looks a volume"
figure = reader.draw_load(busy, title)
figures.show(
    figure,
    f"Figure 1 shows the candidates per volume of {len(busy)} test patients, true and false. The mean over volumes is "
    f"{busy['candidates'].sum() / busy['volumes'].sum():.1f}, the busiest patient has {top['per_volume']:.1f}; a fifth of the "
    f"patients makes {busy['candidates'].head(len(busy) // 5).sum() / busy['candidates'].sum():.0%} of the work.",
)

# %% [markdown]
# ## In which order?
#
# Nobody has to review to the end. If the most suspicious come first, most true candidates are seen early.
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
# > **Predict first.** How many looks a volume does it take to see half of the true candidates?

# %%
curves = {name: reader.capture(rows, name) for name in ("ensemble", "two thresholds on M_sens", "averaged probabilities")}
half = {name: float(np.interp(0.5, c["captured"], c["reviewed"])) for name, c in curves.items()}
figure = reader.draw_capture(curves, f"Half of the true candidates are seen after {half['ensemble']:.1f} looks a volume")
figures.show(
    figure,
    "Figure 2 shows the share of the true candidates seen against the candidates looked at, most suspicious first; shaded: 95 % "
    "interval over patients. Half of them after "
    + ", ".join(f"{v:.1f} looks ({k})" for k, v in half.items()) + ".",
)

# %% [markdown]
# ## What is a peak probability worth?
#
# A network says 0.97. Is that 97 in 100? For a loss that rewards the best voxel of a lesion, there is no reason why it should
# be.
#
# **Exercise 4.3 · calibration** — difficulty 4 of 5 · importance 3 of 5 · about 10 minutes. Goal: from peaks, truths and
# the edges of bins, the mean over blobs of the gap |mean peak − share true| of their bin. A right answer is one number from 0
# to 1, NaN without blobs.
#
# <details><summary>Hint: which bin is a peak in?</summary>
#
# `np.searchsorted(edges, peak, side="right") - 1`, cut to the last bin with `np.clip`, so that 1.0 belongs to it.
# </details>

# %% tags=["exercise"]
def calibration_error(peak: list[float], true: list[bool], edges: list[float]) -> float:
    """Mean gap between what is said and what is so, weighted by blobs."""
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
# Why weigh by blobs? An almost empty bin has a wild share. And why the absolute value? Too sure here and too shy there must
# not cancel.
# </details>

# %%
models = {"BCE": "bce-s0", "JVSS, alpha 0.5": "jvss-0.5-s0", "JVSS, alpha 0.995": "jvss-0.995-s0"}
said = {label: reader.calibration(rows, name) for label, name in models.items()}
gap = {label: float((c["n"] * (c["peak"] - c["true"]).abs()).sum() / c["n"].sum()) for label, c in said.items()}
sure = all((c["n"] * (c["peak"] - c["true"])).sum() > 0 for c in said.values())
title = f"{'All are too sure: a' if sure else 'A'} mean gap of {min(gap.values()):.2f} to {max(gap.values()):.2f}"
figure = reader.draw_calibration(said, title)
figures.show(
    figure,
    "Figure 3 shows how much of what has a certain peak is true, for everything marked at 0.5 on the test volumes. Mean gap: "
    + ", ".join(f"{k} {v:.2f}" for k, v in gap.items()) + ". The grey line is a probability that means what it says.",
)

# %% [markdown]
# So a peak is good for *sorting*, and its number means what validation says it means.
#
# ## A patient
#
# Now one patient of the test part, with the shipped networks, on your machine. This one is here because every outcome occurs
# in it: found, missed, confirmed and not; others are one parameter away.

# %%
test_part = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "test"]
person = synthetic.patient(cohort, test_part[patient % len(test_part)])
case = person.visits[-1].case
sens, spec = network.load("sens"), network.load("spec")
found = triage_case(case, sens, spec, machine=session.machine)
score = metrics.match_lesions(case.label > 0, found.union, spacing=case.spacing)
print(f"{figures.headline(found)}; {score.tp_ref} of {score.n_ref} metastases found, {score.fp} false positives")

# %% [markdown]
# In three dimensions, as in Figure 9 of the paper:

# %%
figure = figures.surface(case, found)
figures.show(
    figure,
    f"Figure 4 shows the lesions of {case.name} in the brain, from the front and from above: {found.counts['confirmed']} "
    f"confirmed (✓) and {found.counts['candidate']} candidates (?), numbered as in the list.",
)

# %% [markdown]
# In JupyterLab you can turn it.

# %%
if course.interactive():
    display(review.turnable(case, found))
else:
    print("The turnable brain opens in JupyterLab (make lab).")

# %% [markdown]
# How well do the outlines fit? Figure 8 of the paper shows contours of both networks, with their Dice.

# %%
masks = {"M_sens": found.prob_sens >= 0.5, "M_spec": found.prob_spec >= 0.5}
largest = reader.dice_of_largest(case, masks)
figure = reader.contours(case, masks, largest)
means = ", ".join(f"{name} {largest[name].mean():.2f}" for name in masks if largest[name].notna().any())
figures.show(
    figure,
    f"Figure 5 shows the reference and the outlines of both networks for the {len(largest)} largest metastases of {case.name}, "
    f"Dice above. Mean Dice of what is found: {means or 'nothing is'}. A high threshold leaves only the core of a lesion.",
)

# %% [markdown]
# ## The review board
#
# One candidate at a time, in three planes, the earlier scan below: accept, reject, or later. Every decision is written to a
# CSV at once; close the notebook, open it again, go on where you were.

# %%
board = review.Review(case, found, session.folder / "decisions.csv")
print(board.describe())
if len(board.table):
    one = int(board.table.loc[0, "lesion"])
    figure = figures.lesion_board(case, found, one)
    figures.show(figure, f"Figure 6 shows the first candidate to review, number {one}, outlined: now above, earlier below.")

# %% [markdown]
# > **Question.** Which of the candidates do you accept, and what in the earlier scan decides?

# %%
if course.interactive():
    display(board.widget())
else:
    print("The review board opens in JupyterLab (make lab). Here somebody decides who knows the reference:")
    known = review.Review(case, found, session.fresh("known") / "decisions.csv")
    review.perfect_review(known)
    after = metrics.match_lesions(case.label > 0, known.mask(), spacing=case.spacing)
    print(known.describe(), f"false positives {score.fp} → {after.fp}, found {score.tp_ref} → {after.tp_ref}", sep="\n")

# %% [markdown]
# ## You against the models
#
# Mark what you take for a metastasis: first in the scan alone, then with the triage outlined. Both passes are scored by the
# metrics that score the networks, against the reference that you have not seen.
#
# > **Predict first.** How many of the metastases will you find alone? And how many false marks will you make?

# %%
marks = session.folder / "marks.csv"
if course.interactive():
    display(review.Reading(case, found, marks).widget())
else:
    print("The reading test opens in JupyterLab (make lab). Here somebody reads who marks the brightest spots:")
    reading = review.Reading(case, found, session.fresh("bright") / "marks.csv")
    for voxel in review.bright_reader(case, n=max(score.n_ref, 3)):
        reading.mark(voxel)
    reading.next_pass()
    for voxel in review.centres(found, tier="confirmed"):
        reading.mark(voxel)
    display(reading.score().round(2))

# %% [markdown]
# "Bright" finds vessels. What else did you look at: shape, place, the neighbouring slices, the earlier scan?
#
# ## Every error
#
# Numbers say how many; pictures say which. The gallery holds **every** missed metastasis and **every** false positive of a
# network on the test part, filterable by size and by what lies there. Here is its first page, by rule: the largest metastases
# that the network trained with JVSS 0.5 misses at 0.5.

# %%
wrong = reader.errors(rows, "jvss-0.5-s0", HALF)
gallery = reader.Gallery(wrong, per_page=3)
figure = gallery.draw()
first = wrong[wrong["kind"] == "missed"].iloc[0]
figures.show(
    figure,
    f"Figure 7 shows the {min(3, len(gallery.chosen))} largest of {len(gallery.chosen)} missed metastases, reference outlined, "
    f"with the highest probability that each got. The largest has {figures.volume_words(first['volume_mm3'])}.",
)
false = wrong[wrong["kind"] == "false"]["what"].value_counts(normalize=True)
print("false positives by what lies there: " + ", ".join(f"{k} {v:.0%}" for k, v in false.items()))

# %% [markdown]
# > **Question.** Page through the false positives of one kind. Which could you tell from a metastasis in one slice, which only
# > with the earlier scan?

# %%
if course.interactive():
    display(gallery.widget())
else:
    print(f"The gallery of {len(wrong)} errors opens in JupyterLab (make lab).")

# %% [markdown]
# ## Run it again
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
# - **Tiers**: confirmed if the specific network sees it, else candidate; each threshold chosen on validation for a budget.
# - **Load** is a mean over all volumes, and a distribution over patients: Figure 1 says how uneven.
# - **Cheaper systems** stand in the table of systems; whether two networks beat two thresholds on one is a number, not a creed.
# - **Order and calibration**: the most suspicious first; a peak sorts well and means little as a probability.
# - **Review**: one candidate at a time, decisions kept; you and the networks are scored alike.
#
# ## What could be wrong with this
#
# The candidates' load depends on the generator's look-alikes as much as on the networks: a brain with more vessels has more
# candidates. Thresholds were chosen on few validation volumes: they keep to their budget there, not on every test. The
# readers here are rules, not people; people tire, learn, and are swayed by an outline (automation bias), none of which is
# measured. And a candidate that is accepted is only as good as the reviewer.
#
# ## Self-test
#
# **1.** A lesion has a peak of 0.99 in the sensitive map and 0.49 in the specific one. Its tier?
#
# <details><summary>Answer to 1</summary>
# Candidate: the specific network does not reach 0.5.
# </details>
#
# **2.** You raise the specific network's threshold. What happens to confirmed precision, and to the load?
#
# <details><summary>Answer to 2</summary>
# Precision rises or stays; lesions that lose their confirmation become candidates, so the load rises.
# </details>
#
# **3.** 20 candidates in 10 volumes, all of them in 4 volumes. What is the load?
#
# <details><summary>Answer to 3</summary>
# 2 per volume. The 6 empty volumes count.
# </details>
#
# **4.** All peaks are moved by the same monotone function. What happens to capture, and to calibration?
#
# <details><summary>Answer to 4</summary>
# Capture stays: the order is the same. Calibration changes.
# </details>
#
# **5.** Why does a triage not simply average the two maps?
#
# <details><summary>Answer to 5</summary>
# It could; then the specific network's no would dilute the sensitive one's yes. The table of systems says what that costs here.
# </details>
#
# **Next**: your own data. `dmplus predict scan.nii.gz --prior earlier.nii.gz -o out/` writes the same list and the same page.
#
# ## References
#
# - Huang Y. et al. *Deep learning for brain metastasis detection and segmentation in longitudinal MRI data.*
#   Medical Physics 2022. [doi.org/10.1002/mp.15863](https://doi.org/10.1002/mp.15863)
# - Guo C. et al. *On calibration of modern neural networks.* ICML 2017.
#   [proceedings.mlr.press/v70/guo17a.html](https://proceedings.mlr.press/v70/guo17a.html)
# - Wilson E. B. *Probable inference, the law of succession, and statistical inference.* JASA 1927.
#   [doi.org/10.1080/01621459.1927.10502953](https://doi.org/10.1080/01621459.1927.10502953)

# %% tags=["summary"]
ensemble = tiers.loc["ensemble"]
about = table.set_index("claim")["verdict"]
session.finish(
    headline=f"{ensemble['precision_confirmed']:.0%} of what is confirmed is true; "
    f"{ensemble['candidates_per_volume']:.1f} candidates a volume to review",
    metrics={
        "systems": {k: {c: float(t[c]) for c in columns} for k, t in tiers.iterrows()}, "busiest": float(top["per_volume"]),
        "quiet_patients": quiet, "looks_for_half": half, "calibration_gap": gap, "found": score.tp_ref, "false": score.fp,
        "lesions": score.n_ref, "verdicts": about[about.index.str.contains("candidate|confirmed")].to_dict(),
    },
)
