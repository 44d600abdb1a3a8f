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
# # 00 · Start here
#
# **Question.** Can two networks find the metastases in a brain scan, and say which of them need a second look?
#
# - **Needs**: no other notebook; the package installed (`make course` or `make lab` does that).
# - **Reading**: 40 minutes, exercises included.
# - **Quick**: 2 minutes on 2 CPU cores with 4 GB of memory.
# - **GPU**: 2 minutes on one GPU with 8 GB of memory (an estimate; whole brains of 240 × 240 × 155 voxels).
# - **Data**: one synthetic patient, made on the spot from the ICBM152 2009a template (its notice is in
#   `dmplus/assets`); text CC BY 4.0, code BSD-3.
# - **Not claimed**: the patient does not exist, and one patient is an anecdote, not a result. Nothing here is
#   for clinical use.
#
# ## Objectives
#
# After this notebook you can
#
# - **state** what *confirmed* and *candidate* mean, and compute the tier of a group from two probabilities;
# - **count** found metastases, missed metastases and false positives by the any-overlap rule;
# - **explain** why the paper's precision and ours differ, and compute both;
# - **rerun** this notebook for another patient with one command.

# %% [markdown]
# ## Parameters and set-up
#
# Everything that can be changed stands in the next cell. Change it here, or leave the notebook alone and
# override it from the command line (see *Run it again* below).

# %% tags=["parameters"]
profile: str = "quick"  # smoke for tests, quick for a laptop, gpu for whole brains
seed: int = 2022  # seed of the synthetic cohort, the networks learnt from training patients of 2022 to 2086
patient: int = 2  # which patient of the test part, counted from 0, and round again after the last
out_dir: str = ""  # where results go, empty for runs/00_start_here and the profile

# %% [markdown]
# The next cell imports the package, checks the parameters and says what it runs on.

# %% tags=["setup"]
import dataclasses

import numpy as np
import pandas as pd
from dmplus import course, exercises, figures, metrics, network, review, synthetic, triage, widgets
from IPython.display import display

session = course.start("00_start_here", profile=profile, seed=seed, out_dir=out_dir, patient=patient)
cohort = dataclasses.replace(synthetic.COHORTS[session.profile.cohort], seed=seed)

# %% [markdown]
# ## Why this is hard
#
# A brain metastasis is a tumour that came from elsewhere, often the lung, the breast or the skin. On a
# T1-weighted MRI with contrast agent it shines. So do vessels, venous sinuses and the dura, and most of them
# look like a metastasis in at least one slice. A patient under radiosurgery is scanned every few weeks; the
# smallest metastases are a few voxels in a million. People miss some. A network that never misses one cries
# wolf at every vessel.
#
# [Huang et al. 2022](https://doi.org/10.1002/mp.15863) answer with three ideas, and this course takes them
# apart one by one:
#
# 1. **A loss that counts lesions, not voxels.** The volume-level sensitivity–specificity loss (VSS) has one
#    knob, alpha: large alpha trains a *sensitive* network, small alpha a *specific* one. Both look at the same
#    scan.
# 2. **The earlier scan as a second witness.** A vessel was there at the last visit; a new metastasis was not.
# 3. **Triage.** What the specific network sees is *confirmed*. What only the sensitive one sees is a
#    *candidate*, for an expert to decide.
#
# | word | meaning here | name in the code |
# |---|---|---|
# | scan, earlier scan | this visit's image, and the visit before on the same grid | `case.image`, `case.prior` |
# | reference | where the metastases truly are (known, because we made them) | `case.label` |
# | look-alike | what is bright and no metastasis: a vessel, a sinus, a spot | `visit.lookalikes` |
# | probability | what a network says of a voxel, 0 to 1; inside from 0.5 on | `prob_sens`, `prob_spec` |
# | union | voxels that either network puts inside | `union` |
# | group | touching voxels of a *prediction*; *true* if it shares a voxel with a metastasis | `labels`, `lesions` |
# | tier | of a group: confirmed or candidate | `tiers`, `lesions.tier` |
# | TP_ref, FN | metastases found, and missed | `tp_ref`, `fn` |
# | TP_pred, FP | true groups, and the other groups: false positives | `tp_pred`, `fp` |
#
# Voxels touch by a face, an edge or a corner. The package's tables and pages call a group a lesion, true or not, as a
# report would.

# %% [markdown]
# ## A patient who does not exist
#
# Real scans of patients are private, so the course makes its own: a template brain is warped, veins and sinuses
# grow through it, metastases are set into it and change from visit to visit, and a scanner adds blur, noise and
# shading. At `smoke` and `quick` a scan is a block cut out of the brain, so that a laptop keeps up; at `gpu` it is
# the whole brain. The patient belongs to the test part of the cohort, which the networks have not seen in training
# (except at `smoke`, which is for tests).

# %% tags=["setup"]
test_part = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "test"]
person = synthetic.patient(cohort, test_part[patient % len(test_part)])
visit = person.visits[-1]
case = visit.case
reference = case.label > 0
sizes = np.sort(visit.lesions["volume_mm3"].to_numpy(float))
small = int((sizes < metrics.BOUNDARY_MM3).sum())
spots = metrics.label_lesions(visit.lookalikes > 0)[1]
largest = f", the largest {figures.volume_words(sizes[-1])}" if len(sizes) else ""
if case.prior is None:
    print("This patient has no earlier scan.")
if not len(sizes):
    print("This patient has no metastasis at this visit: whatever the networks mark is false.")

# %% [markdown]
# > **Predict first.** Below is the slice that holds most of the reference. Which of the bright spots are metastases?
# > Say it aloud before you scroll on: what makes you sure?

# %%
level = figures.best_slice(reference)
earlier = ["prior"] if case.prior is not None else []
how_many = figures.count_words(len(sizes), "metastasis", "metastases")
figures.show(
    figures.slices(
        case, panels=[*earlier, "current"], index=level, title=f"In the whole scan: {how_many}, {spots} pieces of look-alikes"
    ),
    f"Figure 1 shows axial slice {level} of synthetic patient {person.name}, a scan of "
    f"{' × '.join(map(str, case.shape))} voxels of 1 mm. The whole scan holds {how_many}, {small} of them below "
    f"0.1 cm³{largest}, and {spots} bright pieces that are none (a vessel cut by the edge counts as several).",
)

# %% [markdown]
# And here they are.

# %%
here = np.unique(visit.numbers[:, :, level])
crossing = f"{np.count_nonzero(here)} of {how_many} in this slice"
figures.show(
    figures.slices(case, panels=["current", "reference"], index=level, title=crossing),
    f"Figure 2 shows the same slice with the reference outlined: {crossing}.",
)

# %% [markdown]
# ## Two networks look
#
# Both networks have the same architecture, DeepMedic+, and learnt from the same patients. They differ in two things: the loss
# they were fine-tuned with, and the threshold, which is then moved to 0.5. The paper's loss is JVSS: VSS plus binary
# cross-entropy (BCE), the usual loss of single voxels. So is ours, at other alphas, and both networks go on from one that was
# trained with it before. Only the order of the alphas carries over: 0.5 is the paper's specific network and our sensitive one.
# The thresholds were chosen on validation patients, by the budgets printed below, and every probability is shifted so that the
# threshold reads 0.5.

# %%
sensitive, specific = network.load("sens"), network.load("spec")
for name, role, theirs in (("sensitive", "sens", 0.995), ("specific", "spec", 0.5)):
    made = network.info(role)["info"]
    print(
        f"The {name} model: {network.loss_in_words(made)} (the paper's: JVSS, alpha {theirs:g}); threshold "
        f"{made['threshold_folded_in']:.6g}, for at most {made['budget_fp_per_volume']:g} false positives a volume (on "
        f"validation it has {made['validation']['fp_per_volume']:.1f})."
    )

# %% [markdown]
# Each looks at the current scan, with the earlier one beside it where there is one. Each looks at the earlier scan as
# well, so that we can say what has changed. No map is read from a file: the next cell computes them.
#
# > **Predict first.** Which of the two marks more voxels? Which will miss more metastases, and which will mark more that is
# > none? Write it down.

# %%
found = triage.triage_case(case, sensitive, specific, machine=session.machine)
maps = {"sensitive": found.prob_sens, "specific": found.prob_spec}
inside = {name: probability >= triage.THRESHOLD for name, probability in maps.items()}
groups = {name: metrics.label_lesions(mask)[1] for name, mask in inside.items()}

# %% [markdown]
# The maps below show the probability wherever it is 0.05 or more, in the slice of Figure 1.

# %%
many, few = groups["sensitive"], groups["specific"]
figures.show(
    figures.slices(
        case, found, panels=["current", "sens", "spec"], index=level,
        title=f"In the whole scan: {figures.count_words(many, 'group', 'groups')} (sensitive), {few} (specific)",
    ),
    f"Figure 3 shows both probability maps in axial slice {level}. In the whole volume the sensitive model marks "
    f"{inside['sensitive'].sum()} voxels in {figures.count_words(many, 'group', 'groups')}, the specific model "
    f"{inside['specific'].sum()} in {few}.",
)

# %% [markdown]
# ## From two maps to one list
#
# Take the union of both maps at 0.5 and cut it into groups. A group is *confirmed* if it holds a voxel that
# the specific model puts at 0.5 or more; otherwise it is a *candidate*. That is all there is to the triage, and
# you can write it.
#
# **Exercise 0.1 · the tier of a group** — difficulty 1 of 5 · importance 5 of 5 · about 5 minutes. Goal: from
# the highest probability that each model gives to a group, say its tier. A right answer is one of three words:
# `"confirmed"`, `"candidate"` or `"none"`: *none* if neither model reaches 0.5 (no such group is in the union, but your function
# may be asked).
#
# <details><summary>Hint: which model decides first?</summary>
#
# Ask the specific model first. If it says 0.5 or more, nothing else matters.
# </details>
#
# <details><summary>Hint: and exactly 0.5?</summary>
#
# A voxel is inside *from* 0.5 on. Use `>=`.
# </details>

# %% tags=["exercise"]
def tier(peak_sens: float, peak_spec: float) -> str:
    """Tier of a group from its highest probability in the sensitive and in the specific model."""
    # solution
    if peak_spec >= 0.5:
        return "confirmed"
    return "candidate" if peak_sens >= 0.5 else "none"

# %% tags=["check"]
course.check("0.1", tier)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 0.1, and why</summary>
#
# ```python
# if peak_spec >= 0.5:
#     return "confirmed"
# return "candidate" if peak_sens >= 0.5 else "none"
# ```
# Why not ask both models to agree? Because the specific model was tuned to raise few false alarms. *Confirmed* says that it
# agrees, not that the group is true: how often it is, the table below tells. The paper
# takes for granted that the sensitive model sees whatever the specific one sees. We do not: a group seen by
# the specific model alone is confirmed, counted and shown as such.
# </details>

# %% [markdown]
# Here is the whole list, confirmed groups first. *Where* counts millimetres from the scanner's origin: right or left, A
# (front) or P (back), S (up) or I (down). The *peak probability* is the highest of any voxel in it, by either network.
# *Change* compares with what the same two networks mark in the earlier scan, not with the truth.

# %%
display(figures.lesion_rows(found).set_index("lesion"))
tiers = f"{found.counts['confirmed']} confirmed, {figures.count_words(found.counts['candidate'], 'candidate', 'candidates')}"
print(f"{tiers}; seen by the specific model alone: {found.counts['seen_by_spec_alone']}")
print(f"new:     nothing marked within {triage.TOLERANCE_MM:g} mm of it in the earlier scan ({found.counts['new']})")
print(f"growing: at least {triage.GROWING:g} times the earlier volume; shrinking: at most {triage.SHRINKING:g} times;")
print("stable:  between the two")
print(f"gone:    marked in the earlier scan, nothing marked there now ({found.counts['gone']})")
print(f"unknown: no earlier scan to compare with, or none of that place ({found.counts['unknown']})")

# %% [markdown]
# The page below draws the first of them in two planes, with the earlier scan beside them where there is one;
# `dmplus predict` draws up to thirty in three planes.
#
# > **Predict first.** Of the candidates on this page, how many are metastases? Which pictures made you decide?

# %%
most = 8
page = figures.triage_board(case, found, planes=("axial", "coronal"), most=most, panel=1.05)
figures.show(
    page,
    f"Figure 4 shows the triage page of {case.name} ({tiers}): "
    f"{figures.count_words(min(most, len(found.lesions)), 'group', 'groups')} in two planes, each picture 48 mm wide"
    f"{', the earlier scan on the right' if earlier else ''}.",
    dpi=96,
)

# %% [markdown]
# ## Was it right?
#
# We know where the metastases are, so we can count. The rule of this course, **any overlap**: a metastasis is
# *found* if at least one of its voxels is marked. A group that shares no voxel with a metastasis is a *false
# positive*.
#
# **Exercise 0.2 · count found, missed and false** — difficulty 3 of 5 · importance 5 of 5 · about 10 minutes.
# Goal: from two masks, count metastases found, metastases missed and false positive groups. A right answer is three
# whole numbers.
#
# <details><summary>Hint: how do I number the pieces of a mask?</summary>
#
# `metrics.label_lesions(mask)` returns an array with 1, 2, 3, … on the connected pieces, and how many there are.
# </details>
#
# <details><summary>Hint: which numbers meet?</summary>
#
# `np.unique(labels[mask])` lists the pieces of `labels` that have a voxel under `mask`. Zero is background.
# </details>

# %% tags=["exercise"]
def detections(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    """Metastases found, metastases missed, false positive groups, by the any-overlap rule."""
    # solution
    metastases, n_metastases = metrics.label_lesions(reference)
    groups, n_groups = metrics.label_lesions(predicted)
    n_found = np.count_nonzero(np.unique(metastases[predicted]))
    n_true = np.count_nonzero(np.unique(groups[reference]))
    return n_found, n_metastases - n_found, n_groups - n_true

# %% tags=["check"]
course.check("0.2", detections)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 0.2, and why</summary>
#
# ```python
# metastases, n_metastases = metrics.label_lesions(reference)
# groups, n_groups = metrics.label_lesions(predicted)
# n_found = np.count_nonzero(np.unique(metastases[predicted]))
# n_true = np.count_nonzero(np.unique(groups[reference]))
# return n_found, n_metastases - n_found, n_groups - n_true
# ```
# Why two labellings? Because found metastases and true groups are different things: one group can cover two
# metastases, and two groups can lie in one. "Groups minus found metastases" goes wrong in both cases.
# </details>

# %% [markdown]
# From here on the reference answer of the package counts, whether or not you solved the exercise.

# %%
count = exercises.reference("0.2")
score = metrics.match_lesions(reference, found.union, spacing=case.spacing)
counts = {name: count(reference, mask) for name, mask in {**inside, "either": found.union}.items()}
for name, (hit, missed, false) in counts.items():
    print(f"{name:>9} model: {hit} found, {missed} missed, {false} false positives")
touched = {int(v) for v in np.unique(found.labels[reference]) if v}
true = found.lesions["lesion"].isin(touched)
for name, rows in true.groupby(found.lesions["tier"]):
    drawn = rows[rows.index < most]
    print(f"{name:>9} groups on the page: {drawn.sum()} of {len(drawn)} are true; in all {rows.sum()} of {len(rows)}")
wrong = {int(n): review.lies_there(visit.lookalikes, found.labels == n) for n in found.lesions.loc[~true, "lesion"]}
change = found.lesions.set_index("lesion")["change"]
which = ", ".join(f"{n} ({what}, {change[n]})" for n, what in wrong.items()) or "none"
print(f"true: {', '.join(map(str, sorted(touched))) or 'none'}; false: {which}")

# %% [markdown]
# Compare with what you wrote down. The word in brackets is the *change*: by itself it does not tell true from false, and
# notebook 03 asks what it is worth. One patient says little, so the table sets the same networks' numbers beside it, from the
# test patients of the `quick` cohort (blocks, not whole brains). Their intervals come from drawing patients again and again.

# %%
rows, share = {}, "{precision:.0%} ({precision_low:.0%} to {precision_high:.0%})"
for name, role in {"sensitive": "sens", "specific": "spec"}.items():
    test, (hit, missed, false) = network.card()["models"][role]["test"], counts[name]
    every, tiny, people = test["all"], test[metrics.STRATA[0]], f"{test['all']['patients']} patients"
    rows[name] = {
        "found here": f"{hit} of {hit + missed}", f"of {every['lesions']} in {people}": f"{every['sensitivity']:.0%}",
        "95 % interval": f"{every['sensitivity_low']:.0%} to {every['sensitivity_high']:.0%}",
        "of these below 0.1 cm³": f"{tiny['tp_ref']} of {tiny['lesions']}", "false here": false,
        f"per volume, {every['volumes']} volumes":
            "{fp_per_volume:.1f} ({fp_per_volume_low:.1f} to {fp_per_volume_high:.1f})".format(**every),
        "its groups that are true": share.format(**every), "those below 0.1 cm³": share.format(**tiny),
    }
display(pd.DataFrame(rows).T)

# %% [markdown]
# What the two were tuned for is a difference: many found on the one side, few false on the other.

# %%
found_more, false_more = (counts["sensitive"][k] - counts["specific"][k] for k in (0, 2))
print(f"Sensitive minus specific, in this patient: {found_more:+d} found, {false_more:+d} false positives:", end=" ")
print("what they were tuned for." if min(found_more, false_more) > 0 else "one patient does not show what they were tuned for.")

# %% [markdown]
# ## One word, two precisions
#
# "Precision" is the share of what is marked that is right. But what does one count? The paper's numbers only add up
# when found *metastases* are counted in the numerator; we count true *groups*:
#
# $$\text{paper: } \frac{TP_{ref}}{TP_{ref} + FP} \qquad \text{ours: } \frac{TP_{pred}}{TP_{pred} + FP}$$
#
# **Exercise 0.3 · both precisions** — difficulty 2 of 5 · importance 4 of 5 · about 5 minutes. Goal: compute
# both from three counts: found metastases, true groups, false positive groups. A right answer is two numbers
# between 0 and 1, the paper's first, and NaN where there is nothing to divide by.
#
# <details><summary>Hint: what if nothing was marked?</summary>
#
# 0/0 is not 0: a model that marks nothing has no precision. Return `float("nan")`.
# </details>

# %% tags=["exercise"]
def precisions(tp_ref: int, tp_pred: int, fp: int) -> tuple[float, float]:
    """The paper's precision and ours, NaN where the denominator is 0."""
    # solution
    paper = tp_ref / (tp_ref + fp) if tp_ref + fp else float("nan")
    ours = tp_pred / (tp_pred + fp) if tp_pred + fp else float("nan")
    return paper, ours

# %% tags=["check"]
course.check("0.3", precisions)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 0.3, and why</summary>
#
# ```python
# paper = tp_ref / (tp_ref + fp) if tp_ref + fp else float("nan")
# ours = tp_pred / (tp_pred + fp) if tp_pred + fp else float("nan")
# return paper, ours
# ```
# Why does it matter? A network that breaks one metastasis into three groups gains in our precision and gains
# nothing in the paper's; a network that melts two metastases into one group gains in the paper's. Say which one
# you report.
# </details>

# %%
metastases, marked = np.zeros((2, 12, 3, 3), bool)
metastases[1:3] = metastases[5:7] = True
marked[1:7] = marked[9] = True  # one group over both metastases, and one that is false
for name, c in {"by hand": metrics.match_lesions(metastases, marked), "this patient": score}.items():
    paper, ours = exercises.reference("0.3")(c.tp_ref, c.tp_pred, c.fp)
    words = f"{c.tp_ref} found metastases, {c.tp_pred} true groups, {c.fp} false positives"
    print(f"{name}: {words}: the paper's {paper:.2f}, ours {ours:.2f}")
if score.tp_ref == score.tp_pred:
    print("In this patient found metastases and true groups are equally many, so both precisions agree.")

# %% [markdown]
# ## Look for yourself
#
# First the still picture, then, in JupyterLab, the moving one. Question to answer with it: **which of the false
# positives would you have called a metastasis, and what would settle it?** Click on a bright spot to ask both
# networks about it.

# %%
doubt = figures.best_slice(np.isin(found.labels, [*wrong])) if wrong else level
what = f"{len(wrong)} of {len(found.lesions)} groups are false"
seen = [int(n) for n in np.unique(found.labels[:, :, doubt]) if n]
crossed = ", ".join(f"group {n} ({f'false: {wrong[n]}' if n in wrong else 'true'})" for n in seen) or "no group"
figures.show(
    figures.slices(
        case, found, panels=[*earlier, "current", "overlay"], index=doubt, title=f"{what}: would you have known?"
    ),
    f"Figure 5 shows axial slice {doubt}{', where most false voxels are,' if wrong else ''} with the "
    f"groups outlined on the right. In this slice: {crossed}. In this patient {what}: {which}.",
)

# %% [markdown]
# The viewer: a slider for the slice, three planes, the scans and the tiers, a list that jumps to a group, and a
# picture that answers clicks.

# %%
if course.interactive():
    display(widgets.viewer(case, found))
else:
    print("The viewer opens in JupyterLab (make lab).")

# %% [markdown]
# ## How the course goes on
#
# The next cell lists the notebooks that are in your copy, with their minutes and their questions.

# %%
for book in course.list_notebooks():
    print(f"{book.name}: {book.quick} (quick), {book.gpu} (GPU). {book.question}")

# %% [markdown]
# ## Run it again
#
# From the folder of the repository (after `source .venv/bin/activate`; with conda, `conda activate dmplus`):
#
# ```bash
# dmplus run 00 patient=5                       # another patient
# dmplus run 00 patient=5 seed=7 profile=smoke  # another cohort, a small crop, seconds
# dmplus run 00 --list                          # every parameter with its type and default
# ```
# The result is in `runs/00_start_here/<profile>/`: the executed notebook and `results.json`. A misspelt parameter is
# refused before anything runs. Plain papermill works too, with less care: `papermill
# notebooks/00_start_here.ipynb out.ipynb -p patient 5`.
#
# For a scan of your own: `dmplus predict scan.nii.gz --prior earlier.nii.gz -o out`.

# %% [markdown]
# ## Summary
#
# - **Tiers.** A group is confirmed if the specific model reaches 0.5 anywhere in it, a candidate if only the
#   sensitive one does.
# - **Counting.** Any overlap finds a metastasis; a group without overlap is a false positive; both masks are
#   labelled first.
# - **Precision.** The paper counts found metastases, and so do the trainings of notebooks 02 to 04; here and in `dmplus
#   evaluate` we count true groups. They differ when groups merge or split metastases.
# - **Running.** `dmplus run 00 patient=5` repeats all of this for another patient, with the same checks.
#
# ## What could be wrong with this
#
# One patient proves nothing: another gives other counts, and only a cohort carries an interval. The patient is synthetic
# and comes from the same generator as the training patients, which flatters every network. The weights are small ones,
# for a laptop. Any overlap is generous: one voxel is enough. *Confirmed* is no promise: the last column of the table has how
# often a small group of the specific network is true. And the earlier scan was segmented without an earlier scan
# of its own, so *new* can also mean *missed last time*.
#
# ## Self-test
#
# **1.** A group has 0.91 in the sensitive model and 0.49 in the specific one. Its tier?
#
# <details><summary>Answer to 1</summary>
# Candidate: the specific model stays below 0.5.
# </details>
#
# **2.** One predicted group covers two metastases, nothing else is marked. Found, missed, false?
#
# <details><summary>Answer to 2</summary>
# Two found, none missed, none false: TP_ref is 2 and TP_pred is 1.
# </details>
#
# **3.** Large alpha trains which of the two networks?
#
# <details><summary>Answer to 3</summary>
# The sensitive one: alpha weighs sensitivity.
# </details>
#
# **4.** The change of a group is "unknown". Why?
#
# <details><summary>Answer to 4</summary>
# There is no earlier scan to compare with, or it does not cover that place.
# </details>
#
# **5.** A model marks nothing at all. Its precision?
#
# <details><summary>Answer to 5</summary>
# Undefined (NaN), not 0 and not 1. Its sensitivity is 0.
# </details>
#
# **Next**: notebook 01 derives the loss.
#
# ## References
#
# - Huang Y. et al. *Deep learning for brain metastasis detection and segmentation in longitudinal MRI data.*
#   Medical Physics 2022. [doi.org/10.1002/mp.15863](https://doi.org/10.1002/mp.15863)
# - Kamnitsas K. et al. *Efficient multi-scale 3D CNN with fully connected CRF for accurate brain lesion
#   segmentation.* Medical Image Analysis 2017.
#   [doi.org/10.1016/j.media.2016.10.004](https://doi.org/10.1016/j.media.2016.10.004)
# - Fonov V. et al. *Unbiased average age-appropriate atlases for pediatric studies.* NeuroImage 2011.
#   [doi.org/10.1016/j.neuroimage.2010.07.033](https://doi.org/10.1016/j.neuroimage.2010.07.033)

# %% tags=["summary"]
session.finish(
    headline=f"{score.tp_ref} of {how_many} found, {score.fp} false positives (one synthetic patient)",
    metrics={
        "lesions": len(sizes), "found": score.tp_ref, "missed": score.fn, "false_positives": score.fp,
        "precision": ours, "precision_paper": paper, **{f"triage_{k}": v for k, v in found.counts.items()},
    },
)
