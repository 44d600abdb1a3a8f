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
# # 03 · Temporal prior ablation
#
# **Question.** Why should an earlier scan tell a metastasis from a vessel, and what is left of that in a trained network?
#
# - **Needs**: notebook 02 for comparing at equal sensitivity.
# - **Reading**: 90 minutes, exercises included.
# - **Quick**: 2.5 minutes on 2 CPU cores with 4 GB of memory.
# - **GPU**: 15 minutes on one card with 16 GB (an estimate); the results are the committed ones, the patients followed live
#   are whole brains.
# - **Data**: committed rows of trainings on the synthetic cohort `synthetic-v1`, one per lesion and per false positive;
#   patients made here from the ICBM152 2009a template (notice in `dmplus/assets`); the printed numbers of Huang et al.
#   2022; text CC BY 4.0, code BSD-3.
# - **Not claimed**: all patients are synthetic, most trainings have one seed, and all are short beside the paper's. What an
#   earlier scan is worth here depends on how much these patients change, which a generator decided. Nothing here is for
#   clinical use.
#
# ## Objectives
#
# After this notebook you can
#
# - **compute** a difference image that means something, and say what is left in it;
# - **compare** no prior, prior as a channel and prior as a path at equal sensitivity;
# - **decide** from its controls whether a gain is the prior's;
# - **predict** what misregistration does, and check it;
# - **compute** a metastasis' doubling time, and look for metastases that a prior hides.

# %% [markdown]
# ## Parameters and set-up

# %% tags=["parameters"]
profile: str = "quick"  # smoke for tests, quick for a laptop, gpu for whole brains in the live parts
seed: int = 2022  # seed of the synthetic cohort whose patients are followed live
alpha: float = 0.5  # alpha of the trainings that are compared, 0.5 or 0.995
rank: int = 1  # which false positive or lesion of a printed rule is shown, 1 for the first
moved_mm: float = 2.0  # by how much the prior is moved by hand in the live part, mm
out_dir: str = ""  # where results go, empty for runs/03_temporal_prior_ablation and the profile

# %% [markdown]
# One cell imports everything, checks the parameters and says what it runs on.

# %% tags=["setup"]
import dataclasses

import numpy as np
import pandas as pd
from dmplus import claims, course, evidence, exercises, figures, followup, results, synthetic, temporal, widgets
from dmplus.experiment import SHIFTS_MM
from dmplus.scoring import HALF, LEVELS
from IPython.display import display

session = course.start(
    "03_temporal_prior_ablation", profile=profile, seed=seed, out_dir=out_dir, alpha=alpha, rank=rank, moved_mm=moved_mm
)
cohort = dataclasses.replace(synthetic.COHORTS[session.profile.cohort], seed=seed)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# Which trainings are compared follows from `alpha`. Their results come with the course, one row per metastasis and per false
# positive; what was not run is left out below, and said to be. All go on from the **trunk**, one network trained with BCE; words
# like this one are in [notation and glossary](notation.md).

# %%
rows = evidence.shipped()
stem = temporal.stem_of(rows, alpha)  # the one place where the runs get their name
ways = temporal.ways(rows, stem)
levels = temporal.levels_of(rows, ways)
several = max(map(len, ways.values())) > 1
print("; ".join(f"{way} ({', '.join(runs)})" for way, runs in ways.items()) + ("" if "channel" in ways else "; not run: channel"))
of_stem = rows.runs[rows.runs["run"].isin(sum(ways.values(), []))].drop_duplicates("run")
for (start, patients), runs in of_stem.groupby(["start", "patients"]):
    print(f"{len(runs)} trainings from {start} on, {patients} training patients, {runs['segments'].min():,} segments or more")

# %% [markdown]
# ## A vessel stays, a metastasis changes
#
# Cut a vessel across, and it looks like a small metastasis: round and bright. One scan cannot always say which it is. Two
# scans can: six weeks later the vessel is where it was, and the metastasis is new, or larger, or smaller.
#
# That is the **temporal prior**: the network gets the visit before, registered to this one, as a second image. What a human
# reader does with two scans is to subtract them. The numbers of two scans have different scales, though, so each is first
# brought to mean 0 and standard deviation 1 inside the brain:
#
# $$d = \frac{I_{\text{now}} - \mu_{\text{now}}}{\sigma_{\text{now}}} -
# \frac{I_{\text{earlier}} - \mu_{\text{earlier}}}{\sigma_{\text{earlier}}}$$
#
# | symbol | meaning | name in the code |
# |---|---|---|
# | $I_{\text{now}}$, $I_{\text{earlier}}$ | the two scans, registered | `current`, `prior`, (X, Y, Z) |
# | $\mu$, $\sigma$ | mean and standard deviation of a scan inside the brain | `image[mask].mean()`, `.std()` |
# | $d$ | the difference image, 0 outside the brain | `temporal.difference(case)` |
#
# **Exercise 3.1 · a difference that means something** — difficulty 2 of 5 · importance 4 of 5 · about 6 minutes. Goal: the
# difference image of two scans. A right answer is an array of the scans' shape, bright where the scan is brighter *now*.
#
# <details><summary>Hint: what is inside the brain?</summary>
#
# `current[mask]` are the numbers inside. Take mean and standard deviation from those alone, and set everything outside to 0:
# `np.where(mask, ..., 0.0)`.
# </details>

# %% tags=["exercise"]
def difference(current: np.ndarray, prior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Now minus earlier, each z-scored inside ``mask``; 0 outside."""
    # solution
    def z(image: np.ndarray) -> np.ndarray:
        inside = image[mask]
        return np.where(mask, (image - inside.mean()) / inside.std(), 0.0)

    return z(current) - z(prior)

# %% tags=["check"]
course.check("3.1", difference)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 3.1, and why</summary>
#
# ```python
# def z(image: np.ndarray) -> np.ndarray:
#     inside = image[mask]
#     return np.where(mask, (image - inside.mean()) / inside.std(), 0.0)
#
# return z(current) - z(prior)
# ```
# Why inside the mask? Most of a volume is air. With air in the mean, the same tissue would get another number whenever the
# head fills more of the picture.
# </details>

# %% [markdown]
# Here is what one hopes for: a new metastasis. A picture chosen by hand proves nothing, so there is a rule: new metastases of
# the test part, the largest first; the parameter `rank` says which.
#
# > **Predict first.** A new metastasis will shine in the difference image. What will the vessels around it do?

# %%
changed = temporal.volume_changes(rows)
new = changed[changed["state"] == "new"].sort_values(["volume_mm3", "case"], ascending=[False, True])
picked = new.iloc[min(rank, len(new)) - 1]
case, _ = followup.visit_and_next(picked["case"])
centre = [round(v) for v in picked[["x", "y", "z"]]]
d = temporal.difference(case)
assert np.allclose(exercises.reference("3.1")(case.image, case.prior, case.mask), d, atol=1e-3)
lesion = temporal.around(case, centre, radius=2)
outside = np.abs(d[case.mask & ~(case.label > 0)])
print(f"rule: {len(new)} new metastases of the test part, the largest first; this is number {min(rank, len(new))}")

# %% [markdown]
# The earlier scan, the scan now, and their difference.

# %%
figure = temporal.draw_visits(case, centre, circle=8)
figures.headed(figure, f"A new metastasis: {d[lesion].mean():.1f} standard deviations brighter")
figures.show(
    figure,
    f"Figure 1 shows {case.name}, a new metastasis of {figures.volume_words(picked['volume_mm3'])} (ring; orange outline: the "
    "reference). In its middle the "
    f"scan became {d[lesion].mean():.1f} standard deviations brighter. Elsewhere in the brain, where nothing is new, one voxel "
    f"in a thousand differs by {np.quantile(outside, 0.999):.1f} or more.",
)

# %% [markdown]
# The metastasis shines. But it is not alone: faint lines follow the edges around it, and the last sentence says how far single
# voxels of the rest of the brain differ. The two scans do not lie *exactly* on each other, and a vessel, thin and bright, that is
# off by a millimetre leaves a bright and a dark line. So what counts is not whether something changed, but whether a metastasis
# changes **more than the rest**.
#
# ## How much is there to see?
#
# Before one builds a network for change, one should ask how much of it there is. The generator knows what became of every
# metastasis since the visit before. *State* is the course that it drew: untreated growth scatters and may shrink between two
# visits, treated metastases may swell first. How much one *changed* goes by its volumes alone.
#
# > **Predict first.** Of the metastases in a visit with an earlier scan, which share is *new*? And which share was there before
# > and has hardly changed its volume, to between 0.8 and 1.25 times? Write both down.

# %%
share = {s: (changed["state"] == s).mean() for s in ("new", "growing", "stable", "shrinking")}
still = (changed["change"] == "stable").mean()
table = changed.groupby("state", sort=False)["ratio"].describe(percentiles=[0.25, 0.5, 0.75])
table.insert(0, "metastases", changed["state"].value_counts())
table.insert(1, "share", {s: f"{v:.0%}" for s, v in share.items()})
display(table.drop(columns=["count", "mean", "std"]).loc[list(share)].round(2).rename_axis("volume now / before"))
own = changed.assign(patient=changed["case"].str.rpartition("_v")[0])
print(f"a metastasis counts in every visit that has an earlier scan: {own.groupby(['patient', 'id']).ngroups} different ones, "
      f"{len(own)} times, in {own['case'].nunique()} visits of {own['patient'].nunique()} patients")

# %% [markdown]
# A vessel keeps its volume: its ratio is 1. The same as a picture, a point for every metastasis.

# %%
figure = temporal.draw_volume_changes(changed)
figures.headed(figure, f"{share['new']:.0%} of the metastases are new, {still:.0%} hardly changed their volume")
figures.show(
    figure,
    f"Figure 2 shows the {len(changed)} metastases of the test visits with an earlier scan, by what became of them. "
    f"{share['new']:.0%} are new (arrows: no volume before). {still:.0%} were there before and have 0.8 to 1.25 times that "
    "volume (grey), which is where a look-alike stands that does not change at all.",
)

# %% [markdown]
# Volumes are what the generator knows. A network sees a difference image. So let us measure there, in patients made now: for
# every metastasis and every look-alike the largest change, brighter or darker, of the mean of 3 × 3 × 3 voxels, in it or one
# voxel beside it. The clearest case first, the doubtful ones later: *new*, *growing*, *stable*, *shrinking*; then vessels,
# sinuses and the rest, which are not supposed to change.
#
# > **Predict first.** Draw one metastasis and one look-alike at random. How often does the metastasis show the larger change?
# > Guess for a new one, and for a stable one.

# %%
people = followup.followed(cohort, 2 if profile == "smoke" else 9)
objects = followup.changes(cohort, people)
clear = followup.clearer(objects)
figure = followup.draw_changes(objects)
figures.headed(figure, followup.changes_title(clear))
figures.show(
    figure,
    f"Figure 3 shows the largest local change of {int(objects['lesion'].sum())} metastases (circles) and "
    f"{int((~objects['lesion']).sum())} look-alikes (squares) in {objects['case'].nunique()} visits of {len(people)} patients; "
    "the line is the median, nine tenths of the look-alikes lie in the grey. Chance that a metastasis changes more than "
    "a look-alike, with 95 % intervals over "
    f"patients: {temporal.chance_words(clear) or 'none to see'}.",
)

# %% [markdown]
# A chance of one half means that the change says nothing. A number above is what an earlier scan has to offer; a number below
# means that it would *mislead*: whatever learns "no change, no metastasis" throws these away. Keep the numbers in mind, and how
# wide their intervals are (a handful of metastases has none worth printing): before a single network is trained they say how
# far one would get that looked for change alone.
#
# ## Three ways to give it
#
# | way | where the earlier scan goes in | what is compared |
# |---|---|---|
# | none | nowhere | nothing |
# | channel | second channel of the first layer | voxel with voxel: what is 2 mm off looks new |
# | path | layers of its own, joined with the others near the end | features of some neighbourhood: 2 mm off is still near |
#
# The paper proposes the path, and calls the network DeepMedic+. In visits without an earlier scan the path gets zeros.
#
# Whether it pays is asked as in notebook 02: at the same sensitivity, who has fewer false positives? Here as a ratio.
#
# **Exercise 3.2 · a ratio at equal sensitivity** — difficulty 3 of 5 · importance 5 of 5 · about 8 minutes. Goal: from the
# points of a model as its threshold falls, its false positives at the sensitivity `wanted`, by a straight line between its
# points, over the `rival`'s. A right answer is one number, below 1 if the model has fewer; NaN if it never
# reaches that sensitivity.
#
# <details><summary>Hint: which function draws the straight line?</summary>
#
# `np.interp(wanted, sensitivity, fp)`. Beyond the last point it goes on with the last value, which is not what you want: ask
# for that case first.
# </details>

# %% tags=["exercise"]
def fp_ratio(sensitivity: list[float], fp: list[float], wanted: float, rival: float) -> float:
    """False positives at sensitivity ``wanted`` over the rival's; sensitivity and fp rise as the threshold falls."""
    # solution
    if wanted > max(sensitivity):
        return float("nan")
    return float(np.interp(wanted, sensitivity, fp)) / rival

# %% tags=["check"]
course.check("3.2", fp_ratio)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 3.2, and why</summary>
#
# ```python
# if wanted > max(sensitivity):
#     return float("nan")
# return float(np.interp(wanted, sensitivity, fp)) / rival
# ```
# Why NaN and not the last point? A model that finds 60 of 100 has few false positives *because* it finds 60. Beside one that
# finds 85, its few count for nothing.
# </details>

# %% [markdown]
# Now on the rows. The cell takes the reference of exercise 3.2, the path's curve, and the curve without prior as the rival, and
# checks that the ratio is the one of Figure 4 below. What would you expect? This is what the paper prints:

# %%
fp_over = exercises.reference("3.2")
with_path, without = (temporal.curve(rows, ways[way]) for way in ("path", "no prior"))
by_hand = fp_over(*with_path, claims.EQUAL, fp_over(*without, claims.EQUAL, 1.0))
effects = {way: temporal.effect(rows, ways, way) for way in ("channel", "path")}
assert np.isclose(by_hand, effects["path"].value)
print(temporal.paper_words(alpha))

# %% [markdown]
# > **Predict first.** Ours, at equal sensitivity and in visits with an earlier scan: below 1, and by how much? And the channel?
#
# The blue rows went on from the same trunk with as many segments, with JVSS and the same `alpha`; they differ from no prior in
# the second image, and in the weights that take it (Figure 5 tells the two apart). The grey rows are the
# yardstick: one training *without* prior over another one, which differs in its seed alone (the labels say so where these saw
# other training patients). No seed comes first, so a grey row can be turned round, and each is shown the way it lies below 1.
# That much a ratio moves by chance of training, and every interval here allows for it: the grey ones should hold 1.

# %%
asked = {way: (runs, "prior") for way, runs in ways.items() if way != "no prior"}
own, yardstick = temporal.ratios(rows, asked, ways["no prior"]), temporal.yardstick(rows, stem)
ratios = pd.concat([own, yardstick], ignore_index=True) if len(yardstick) else own
display(ratios.set_index("model").round(2))
tested = temporal.tested(rows, ways["path"][0])
words = {way: temporal.effect_words(e) + (f" ({temporal.ratio_words(e)})" if e else "") for way, e in effects.items()}
figure = figures.headed(temporal.draw_ratios(ratios), f"The prior as a path {temporal.effect_words(effects['path'])}")
figures.show(
    figure,
    f"Figure 4 shows false positives relative to no prior at sensitivity {claims.EQUAL:g}: {tested}; 95 % intervals over "
    f"patients and trainings ({'several seeds' if several else 'one seed'} each). By these rows "
    + "; ".join(f"the {way} {w}" for way, w in words.items()) + ".",
)

# %% [markdown]
# The verdict is a rule, not a judgement. *Holds*: the whole interval lies below 1. *Opposite*: it lies above. *Weak*: the value
# and four fifths of the resamples lie below 1, it may have fewer. *Not shown*: anything else, and that is not the same as no
# gain. Of twenty intervals at 95 % one misses the truth by chance alone, and this notebook has dozens. The intervals hold other
# patients, and other trainings by the same recipe; what a seed does is known from the recipes that were trained more than once
# (notebook 02). Look at the yardstick before you believe a point: a mere seed does as much.
#
# An effect of the prior has to be where the prior is. So the same ratio in the visits that have none:

# %%
visits = temporal.by_visit(rows, {w: n for w, n in ways.items() if w != "no prior"}, ways["no prior"])
display(visits.set_index(["model", "visits"]).round(2))
blind = visits[visits["visits"] == "without a prior"]
apart = blind.loc[(blind["low"] > 1) | (blind["high"] < 1), "model"]
print(f"where there is no prior: {temporal.row_words(blind)}; an interval that excludes 1: {', '.join(apart) or 'none'}")
print(f"there: {temporal.tested(rows, ways['path'][0], prior=False)}")

# %% [markdown]
# Whatever lies apart from 1 there is not the prior's doing.
#
# And the lower part of the paper's Table 1, ours beside it, at threshold 0.5 and in all visits. The numbers differ and should:
# our patients come from a generator, with look-alikes of its own, and our trainings are short. Compare how a row differs from the
# row without prior.

# %%
printed = {"no prior": "DeepMedic", "path": "DeepMedic+"}
named = [(ways[w][0].rpartition("-s")[0], name, alpha, "JVSS") for w, name in printed.items()]
display(evidence.beside_the_paper(rows, named))
both = [rows.group(ways[w]) for w in ("path", "no prior")]
change = {}
for f in (results.sensitivity, results.precision, results.fp_per_volume, results.mdsc):
    change[f.__name__] = results.compare(f, *both, chance=rows.chance(f))
print("ours, path minus no prior: " + ", ".join(f"{q} {evidence.in_words(e)}" for q, e in change.items()))

# %% [markdown]
# All that the rows say of the paper's claims on the prior, at both alphas:

# %%
verdicts = claims.claims_table(rows)
texts = ["the prior path removes", "path than as a channel", "the gain is not that"]
display(evidence.verdicts(verdicts, of_claims=texts))

# %% [markdown]
# And on **whole brains** (240 × 240 × 155 voxels) of other patients, trained on one GPU (`dmplus experiment whole`). Here the
# path was there from the start, as in the paper.

# %%
brains = claims.claims_table(evidence.shipped("gpu"))
display(evidence.verdicts(brains, of_claims=texts))
fewest = brains[brains["claim"].str.contains(texts[0])].iloc[-1]
print(f"visits with a prior: {fewest['n_lesions']} metastases of {fewest['n_patients']} test patients, one seed")

# %% [markdown]
# These intervals are over patients alone: nothing on whole brains was trained twice, so that what a seed does is not in them, and
# a *weak* here is weaker than above. And so few metastases could hardly show a gain (last line).
#
# ## Does the network read it?
#
# Suppose the path has fewer false positives. Is that the *prior*? DeepMedic+ also has more weights, and a second look at
# something. Suppose it has not fewer. Does it read the prior and gain nothing, or has it never learnt to read? Each
# explanation has its control:
#
# | it could be | control | then the ratio |
# |---|---|---|
# | the prior | zero the prior in test | rises towards, or beyond, that of no prior |
# | *some* earlier scan | another patient's prior, in test or in training | stays, though nothing fits |
# | the larger network | second path trained with the current scan again | is as good as with the prior |
# | it cannot be learnt like this | positive control: priors as before any metastasis, in training and test | stays near 1 |
#
# The positive control has the same patients, network and training, but every metastasis is new: if a prior ever says something,
# it says it there.
#
# > **Predict first.** Which controls will have clearly more false positives than the path with its own prior?

# %%
asked, missing = temporal.controls(rows, stem)
controls = temporal.ratios(rows, asked, ways["no prior"])
title, told = temporal.controls_words(rows, stem)
figures.show(
    figures.headed(temporal.draw_ratios(controls), title),
    f"Figure 5 shows false positives relative to no prior at sensitivity {claims.EQUAL:g}, one seed each, 95 % intervals over "
    f"patients and trainings: {tested}. {temporal.row_words(controls)}. The title goes by the ratios over the path, below."
    + (f" Not run: {', '.join(missing)}." if missing else ""),
)
print(told)

# %% [markdown]
# Read it so: a gain of the path is its prior's only if the controls lose it. And where the path has no gain to lose, only the
# positive control can say whether that is the prior's fault or the training's.
#
# Now all networks that were tested with their prior taken away, whatever their loss. In one line each: its false positives
# with its own prior, over those of the *same* network with a zeroed one, or another patient's. Below 1: it gains by its own.
#
# The column *peak moves by* needs no gain at all. The **peak** of a metastasis is the highest probability $p$ that a network
# gives inside it; its **logit** is $\log(p / (1 - p))$. When the prior is taken away some peaks rise and some fall: the column is
# the standard deviation, over metastases, of that change in logits. (A shift that all share does not count: a threshold undoes
# it.) A network that does not read its prior has 0 there; but it says nothing of look-alikes. In brackets: of how many
# metastases, as nothing is known of those whose peak is at the highest level of the rows with the prior and without. (Levels are
# a quarter of a logit apart: rounding alone makes up to 0.10.) Each row is one seed, while Figure 4 pools all seeds. For
# comparison the last rows are the positive controls.

# %%
reads = temporal.reads(rows)
display(temporal.reads_in_words(reads) if len(reads) else "not run: no network was scored without its prior")
tried = reads[~reads["control"]]
gains = [e for e in tried["zeroed"] if claims.verdict(e, claims.FEWER) == "holds"]
if len(tried):
    print(f"{len(gains)} of {len(tried)} networks have fewer false positives (the whole interval) with their own prior than "
          f"with a zeroed one; without it peaks move by {tried['moves'].min().by:.2f} to {tried['moves'].max().by:.2f} logits")
seeds = temporal.seeds_beside(rows, stem)[:2]
if seeds:
    move = temporal.peaks_move(rows, *((name, "prior") for name in seeds))
    print(f"yardstick: from {seeds[0]} to {seeds[1]}, another seed without prior, they move by {move}")
bce = results.of(results.fp_at(claims.EQUAL), rows.group(["bce-s0"], prior=True))
print(f"BCE without any prior (bce-s0) has {evidence.in_words(bce, 1)} false positives a volume there")

# %% [markdown]
# A logit of 0.25 turns a probability of 0.50 into 0.56. So these lines say how much the prior rearranges the metastases, and the
# table whether that is of use: a network may hear its prior and gain nothing. The yardstick belongs beside it: another seed
# rearranges them, too. Many false positives may also come from the loss, which the table names: the run `grown-path-s0` is the
# trunk that went on with BCE and a new path, `trunk-path-s11` is BCE with the path from scratch, and the last line says what BCE
# has without any prior (not trained alike: fewer and smaller segments). *inf*: in too many resamples the network does not find
# 85 % within its rows, so that its ratio has no upper end.
#
# Training has no duty to use every input. If the current scan alone lowers the loss quickly, and what the prior adds is small,
# its path gets small gradients and learns slowly. And a network that knows its training patients by heart has no need
# of their earlier scans: there is nothing left to explain. Trainings whose names say *fresh* therefore went on with patients that
# the trunk had never seen.
#
# ### Had it time enough?
#
# The paper trained for 60 epochs, ours for the segments printed at the top. That is the first excuse one thinks of, so it was put
# to the test: four times the segments, with the path and without.
#
# And the second: while the current scan still has vessels and plexus to teach, an earlier one has little to add. So a last pair
# went on from the longest training of JVSS 0.5 in notebook 02, which took no prior. What it still marks falsely is mostly spots,
# which look much as a metastasis does in *one* scan, and were there before.
#
# > **Predict first.** With more training, does the ratio of path to no prior fall? And do the peaks move by more when the prior
# > is zeroed, that is, does the network come to listen?

# %%
lengths = temporal.by_length(rows)
display(lengths)
print(temporal.length_words(lengths))

# %% [markdown]
# (False positives and ratio are of all seeds, the last two columns of seed 0.) Five answers are possible. The ratio falls, and
# *own / zeroed* with it: time was what the path lacked. The peaks move by more, but the ratio stays: it hears, and has no use
# for what it hears. Neither moves: time is not the reason, or four times is not enough. The ratio falls, and *own / zeroed*
# stays at 1: that is another network, not the prior. The peaks move by less: the current scan says enough by itself by then,
# and the prior is heard less (if that is still known of most: see the brackets). And read the intervals: a change from one row to
# the next is one only where they leave room for it.
#
# ### Is it in the pictures at all?
#
# If a path gains nothing, there are two reasons left: the earlier scan does not tell metastases from look-alikes, or the
# network has not learnt what it tells. Ask someone simpler than a network. The longest training of JVSS 0.5 in notebook 02 took
# no prior. At every place that it marks with a probability of 0.05 or more, four numbers are measured in the current scan (the
# peak's logit, the size, mean and highest brightness) and four more with the earlier one (mean and highest brightness there,
# the highest nearby, and how much larger the bright spot has become). Two logistic regressions, with squares and products, one
# on the first four and one on all eight, learn which of these places are metastases from patients the network was not trained
# on, and are tested on the test patients.
#
# > **Predict first.** Where will the earlier scan help more: for the surest 60 % of the metastases, or for the last that are
# > found? Think of which metastases are new, and of what Figure 3 says of stable ones.

# %%
looked = temporal.told_by_prior(rows, {"20,000 segments": f"{stem}-20k", "after 300,000": "jvss-0.5-300k-fresh"})
display(looked if len(looked) else "not run: nothing was measured")
print(temporal.told_words(looked))

# %% [markdown]
# A ratio below 1 is what the earlier scan knows and the current one does not. It is a lower bound: eight numbers are few, and a
# better reader may see more. Beside it stand pairs of networks (*above the rows*: at the highest level that is kept of a map
# they find more than that). What the regression gets out of the earlier scan and a path does not is the *training's* fault; what
# neither gets may be the *cohort's*. And read how the ratio runs down the rows. To miss nearly nothing one has to keep the
# metastases that have not changed, and with them every look-alike that has not changed either.
#
# Take it for a question, not for an answer: before these eight numbers other sets had been tried on the same test patients.
#
# ## Whom does it help, whom does it harm?
#
# A mean over all metastases can hide a gain and a loss. So split by what became of the metastasis, each network at the
# threshold at which it finds the same share of all.
#
# > **Predict first.** If a network listens to its prior, which metastases will it find more often than the one without? Which
# > less?

# %%
firsts = {way: runs[:1] for way, runs in ways.items()}
states = evidence.by_state(rows, firsts, levels=levels)
seen = temporal.two_views(rows, ways["no prior"][0], ways["path"][0], (levels["no prior"], levels["path"]))
more, differ = temporal.state_words(rows, seen)
figures.show(
    figures.headed(evidence.draw_by_class(states), f"Path minus no prior: {more}"),
    f"Figure 6 shows the share of metastases found, by what became of them, each network at the threshold that finds "
    f"{claims.EQUAL:.0%} in visits with an earlier scan (one seed each, 95 % intervals over patients). Path minus no prior, "
    f"with the intervals of the difference: {differ}.",
)

# %% [markdown]
# One metastasis more or less is no finding. The networks saw the same patients, so ask for the interval of the *difference*
# (caption), not whether two intervals overlap.
#
# The other side of the coin: false positives per volume at the same thresholds, by what lies there. Vessels, sinuses and plexus
# do not change. What a prior removes should be missing here. Without intervals: one patient with many vessels moves a column.
# Only the sum is compared with an interval (Figure 4).

# %%
kinds = temporal.by_kind(rows, firsts)
display(kinds.round(2).rename_axis("false positives a volume"))
less = (kinds.loc["path"] - kinds.loc["no prior"]).map("{:+.2f}".format)
words = ", ".join(f"{kind} {v}" for kind, v in less.items())
print(f"most of the path's are in: {kinds.loc['path'].idxmax()}; path minus no prior: {words}")

# %% [markdown]
# ## One that goes, one that stays
#
# Now single false positives, each by a rule. As in the paper's Figure 5: what the network without prior marks and the path does
# not. What is it? We ask for a visit that is followed by another one: as a rule **the later visit settles it**. A metastasis has
# grown, or shrunk under treatment; a look-alike is still there. A *stable* metastasis is still there, too (Figure 2 counts
# them); here the reference decides.

# %%
pairs = {"the path": (ways["no prior"][0], ways["path"][0])} | ({"another seed": seeds} if seeds else {})
for words, (one, other) in pairs.items():
    less, more, n = temporal.go_and_come(rows, one, other)
    print(f"{one}: {n} false positives, of which {len(less)} go with {words}, and {len(more)} others come ({other})")
gone = temporal.settled(rows, temporal.go_and_come(rows, *pairs["the path"])[0])
print(f"rule: the {len(gone)} that go with the path in visits with an earlier and a later scan, the strongest first")

# %% [markdown]
# Networks of two trainings never agree on every place, so some go and others come whatever the second image is: see the second
# seed. A gain is when more go than come.

# %%
figure, said = followup.draw_one(gone, rank, "a false positive that goes with the path")
figures.show(figure, f"Figure 7 shows {said} Orange outline, where there is one: the reference.")

# %% [markdown]
# > **Question.** Does this place change between the three visits? Could you have told without the first and the last picture?
#
# <details><summary>Answer: compare the pictures with the caption</summary>
#
# The caption says how much the place changed, in the mean and in single voxels, and what the generator put there. Where single
# voxels change much and the mean does not, look at the edge: bright on one side and dark on the other is registration, as in
# Figure 1, not growth. To the network without prior one scan looked like a metastasis. A place that has the same form in all
# three visits is a look-alike, or a stable metastasis.
# </details>
#
# And as in the paper's Figure 7: what the path marks, and no metastasis is there. There the difference image was bright, and the
# visit after showed nothing. Rule: the false positives of the path, the strongest first, again with an earlier and a later visit.

# %%
false = temporal.false_at(rows, ways["path"][0], levels["path"], prior=True)
stays = temporal.settled(rows, false.sort_values(["peak", "case"], ascending=[False, True]))
figure, said = followup.draw_one(stays, rank, "a false positive of the path", beside_paper=True)
figures.show(figure, f"Figure 8 shows {said} Orange outline, where there is one: the reference.")

# %% [markdown]
# If the caption says *not bright*, an unchanged look-alike is exactly what a prior could have removed, and the path marks it all
# the same. If it says *bright*, the prior itself misled, as in the paper.

# %% [markdown]
# ## Out of place
#
# Registration is never perfect: a head that moved, or a brain that shifted after surgery, leaves millimetres. The paper expects
# a *channel* to suffer from it: it compares voxel with voxel, and a vessel beside its own shadow looks new. A path compares
# features, which are blurred. So the same networks were tested with priors that the generator put further out of place.

# %%
off = synthetic.COHORTS["quick"].misregistration_mm
print(f"misregistration (root mean square): {off[0]:g} to {off[1]:g} mm in training, up to {max(SHIFTS_MM):g} mm in test")

# %% [markdown]
# > **Predict first.** Sketch false positives against misregistration over this range: a line for the channel, one for the path.
# > Where will each be at 0?

# %%
swept = {way: names[0] for way, names in ways.items() if way != "no prior"}
table = temporal.by_misregistration(rows, swept, firsts["no prior"])
title, told, rises = temporal.rise_words(rows, swept, table)
figure = figures.headed(temporal.draw_misregistration(table), title) if len(table) else temporal.draw_not_run("moved priors")
figures.show(
    figure,
    f"Figure 9 shows false positives relative to no prior against the misregistration of the prior in test, bars: 95 % intervals "
    f"over patients and trainings: {tested}. Of one network, over patients alone: {told}",
)
print(f"The paper expects the channel to rise and the path to stay: here {rises}.")

# %% [markdown]
# *A rise* is judged by the same rule, above 1: false positives furthest out of place over those in place. A line that is flat
# means one of two things: the network copes with misregistration, or it does not look. The column *peak moves by* of the table
# above helps to tell which.
#
# Now live, as in the paper's Figure 2: one patient, made now, whose prior is moved by `moved_mm` to the patient's right. The
# networks look at the same scan twice, once with the prior in place, once moved.

# %%
live = followup.networks(stem)
watched = followup.last_visit(cohort, people[0])
limits = {way: float(LEVELS[temporal.level_at(rows, name) if rows.has(name) else HALF]) for way, (name, _) in live.items()}
nets = {way: net for way, (_, net) in live.items()}
if nets:
    moved = followup.Moved(watched, moved_mm, nets, limits, machine=session.machine)
    place, why = moved.place(rank)
    display(moved.counts())
    print(moved.title())
said = ", ".join(f"{name} from {limits[way]:.3f} on" for way, (name, _) in live.items())
print(f"networks, the nearest to {stem} whose weights come with the course: {said or 'not run, there are none'}")

# %% [markdown]
# Rule for the picture: the new false positives of the channel network (the path's, if there is no channel), the largest rise of
# the probability first. If there are fewer than `rank`: where its probability rises most, away from what it marks already; if it
# rises nowhere, where the difference image changes most.

# %%
figure, said = temporal.draw_not_run("no weights of path and channel beside the others"), "nothing: not run."
if nets:
    figure = figures.headed(moved.draw(place), moved.title())
    heard = moved.heard(place).items()
    told = ", ".join(f"{way} {a:.3f} in place and {b:.3f} moved, marked from {limits[way]:.3f} on" for way, (a, b) in heard)
    said = (f"one patient ({watched.name}), with the prior in place (above) and moved by {moved_mm:g} mm (below). Ring: {why}. "
            f"Probability there: {told}. Solid orange line: what is marked; dash-dotted: the "
            "reference. Purple became darker, orange brighter. This is one "
            f"patient; over all (Figure 9) {rises}.")
figures.show(figure, f"Figure 10 shows {said}")

# %% [markdown]
# Nothing in the patient has changed between the two rows. Whatever a network marks in the lower row alone is made by
# registration; the title counts it. Read the numbers, too: a step of a hundredth over a threshold counts as much as a jump from
# 0. And one patient shows how it happens; how often, Figure 9 says (last sentence of the caption).
#
# In JupyterLab the slider moves the prior, and both networks answer, with their highest probability within 3 voxels of the place.
#
# > **Question.** From how many millimetres on does a network call this place a metastasis? Does the direction matter?

# %%
if nets:
    print(f"moved to the right; marked from {', '.join(f'{limits[way]:.3f} ({way})' for way in nets)} on")
    print(followup.displaced(watched, place, nets, (0.0, 1.0, 2.0, 4.0), machine=session.machine))
if course.interactive():
    display(widgets.shifter(watched, place, nets, machine=session.machine) if nets else "not run: no weights of the networks")
else:
    print("The slider opens in JupyterLab (make lab).")

# %% [markdown]
# ## One patient over time
#
# So far: two visits. A patient in follow-up has many, and a clinician reads growth from them. If a metastasis grows by the same
# *share* each week, its volume is a straight line on a logarithmic axis, and one number says it all: the **doubling time**. A
# bend, when a treatment begins to work, needs a number for each interval between two visits.
#
# **Exercise 3.3 · doubling time** — difficulty 2 of 5 · importance 3 of 5 · about 6 minutes. Goal: from two volumes and the days
# between them, the days in which the volume doubles. A right answer is a number of days: infinite without change, negative for
# a metastasis that shrinks (then it is the time in which it halves).
#
# <details><summary>Hint: write the law down</summary>
#
# now = before · 2^(days / doubling time). Take the logarithm of both sides and solve for the doubling time; `np.log` is the
# natural logarithm.
# </details>

# %% tags=["exercise"]
def doubling_days(before: float, now: float, days: float) -> float:
    """Days in which the volume doubles at constant relative growth."""
    # solution
    if now == before:
        return float("inf")
    return float(days * np.log(2) / np.log(now / before))

# %% tags=["check"]
course.check("3.3", doubling_days)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 3.3, and why</summary>
#
# ```python
# if now == before:
#     return float("inf")
# return float(days * np.log(2) / np.log(now / before))
# ```
# Why not mm³ per day? A metastasis of 10 mm³ that gains 10 in a month is a worse sign than one of 1000 that does. The doubling
# time says so, and does not depend on size.
# </details>

# %% [markdown]
# Rule: the test patient with most visits, of equals the one with most metastases.
#
# > **Predict first.** How many of this patient's metastases will grow, how many shrink, how many do both in turn?

# %%
patient = followup.most_followed(rows)
line = followup.timeline(rows, patient, ways["path"][0], levels["path"])
times = followup.doubling(line, exercises.reference("3.3"))
figures.show(
    followup.draw_timeline(line, f"Metastases: {followup.course_words(times)}"),
    f"Figure 11 shows the volumes of the {line['id'].nunique()} metastases of {patient} over {line['days'].nunique()} visits; a "
    f"straight line is constant growth; hollow: missed by the path ({int((~line['found']).sum())} of {len(line)} lesion-visits).",
)

# %% [markdown]
# The same in numbers: the days in which each doubled (negative: halved), between one visit and the next. A lesion that was not
# there at both has none.

# %%
display(times.round(0).rename_axis("doubling time, days"))
fast = times[(times > 0) & (times < np.inf)].min().min()
print(followup.course_words(times) + (f"; the fastest doubles in {fast:.0f} days" if fast > 0 else ""))

# %% [markdown]
# ## Does a prior hide a metastasis?
#
# "A vessel stays." So does a stable metastasis: one that a treatment holds, or that grows slowly. A network that has learnt "what
# stays is harmless" will let go of it. Let us look for these: every metastasis in a visit with an earlier scan, seen by the
# network without prior and by the path, each at its threshold for the same sensitivity.
#
# > **Predict first.** Of the stable metastases, will more be found without prior alone, or with the path alone?

# %%
display(temporal.seen_by(seen, "no prior", "path"))
calm = seen[seen["state"] == "stable"].reset_index(drop=True)
hidden, _ = temporal.hidden_in(calm)
print(f"rule: {followup.hidden_words(calm)}")

# %% [markdown]
# Read the table across: what does the path gain, what does it give away, and in which row? None hidden would not be harmless:
# the line says what so few metastases still allow, and a network that hardly reads its prior (*peak moves by*) cannot hide much.
# Ask again of one that reads it.

# %%
figure, said = followup.draw_hidden(calm, rank)
figures.show(figure, f"Figure 12 shows {said} Orange outline: the reference.")

# %% [markdown]
# A stable metastasis keeps its volume; its brightness may change, as the caption says. Where it does not, nothing that looks at
# change alone can find it: the scan now has to.
#
# ## The answer, computed
#
# What was found here, in sentences that a program writes from the rows:

# %%
print(temporal.answer(rows, ways, reads, clear, calm))

# %% [markdown]
# *Not shown* is not *no gain*: the intervals say what is still possible. Figures 2, 3 and 5 say what a prior has to work with
# here. None of this says that the paper is wrong: its patients are real, and its networks trained for 60 epochs.

# %% [markdown]
# ## Run it again
#
# From the folder of the repository (after `source .venv/bin/activate`; with conda, `conda activate dmplus`):
#
# ```bash
# dmplus run 03 alpha=0.995             # the sensitive networks
# dmplus run 03 rank=2 moved_mm=4       # the next of each rule, a prior further out of place
# dmplus run 03 --list                  # every parameter with its type and default
# ```
# The result lies in `runs/03_temporal_prior_ablation/`. Papermill works too, with less care: `papermill
# notebooks/03_temporal_prior_ablation.ipynb out.ipynb -p rank 2`. The trainings are those of `dmplus experiment prior`.

# %% [markdown]
# ## Summary
#
# - **A difference image** needs a common scale inside the brain. What is left in it is change, and the edges of everything that
#   registration did not bring into place.
# - **None, channel, path** are compared by false positives at equal sensitivity, in visits that have a prior, with another seed
#   as the yardstick.
# - **Controls**: zero it, exchange it, give the capacity without it. Only a gain that vanishes with the prior is the prior's. A
#   positive control says whether the set-up could have shown a gain.
# - **Misregistration** moves what is compared voxel by voxel; a flat line means robust only for a network that reads its prior.
# - **Doubling time** describes growth without size. A metastasis that does not grow looks like a vessel in time: a prior *can*
#   hide it. The last sentence of the answer says how many it hid here.
#
# ## What could be wrong with this
#
# How much metastases change is a law of the generator, and so is what a prior is worth here; real patients under radiotherapy may
# change more, and real look-alikes less. Most runs have one seed: what another would have done is in the intervals of their
# ratios, but taken from recipes of 5,000 and 20,000 segments. The thresholds
# for equal sensitivity are read from the test patients themselves: fair between networks, not a promise for the next patient.
# Figure 3 takes the largest change in an object, which favours large ones, as a look at the difference image does.
# Paths were added in fine-tuning, with four times the segments at most; the paper trains its path from scratch, and ours that
# were trained so (the rows *BCE from scratch* and *whole brains*) saw few segments beside the paper's. And zeroing a prior in
# test shows a network something it knows from first visits; another patient's prior is something it has never seen. The
# trainings of 5,000 segments and those from scratch were made before two faults were mended (notebook 02, "What could be wrong
# with this"), those of 20,000 after: a part of the step from the one to the other may be that.
#
# ## Self-test
#
# **1.** Both scans of a patient are multiplied by different factors. What happens to the difference image?
#
# <details><summary>Answer to 1</summary>
# Nothing: each is z-scored inside the brain, and a factor does not survive that.
# </details>
#
# **2.** The path halves the false positives. With another patient's prior in test it still halves them. Whose gain is it?
#
# <details><summary>Answer to 2</summary>
# Not the prior's: nothing in another patient's scan fits. Look at capacity, training time and seed.
# </details>
#
# **3.** With the prior zeroed, nothing changes. Two explanations, and what tells them apart?
#
# <details><summary>Answer to 3</summary>
# The network does not read it, or it reads it without gain. See how far its probabilities move: 0 means not read.
# </details>
#
# **4.** A channel's false positives do not depend on misregistration. Good news?
#
# <details><summary>Answer to 4</summary>
# Only if it reads its prior. A network that ignores it has the same flat line.
# </details>
#
# **5.** A metastasis has 200 mm³, and 60 days earlier it had 100. And one that had 200, 60 days ago, and now has 100?
#
# <details><summary>Answer to 5</summary>
# The doubling times are 60 days and −60 days: the second one halves in 60 days.
# </details>
#
# **Next**: notebook 04 makes a triage of two networks, and leaves the rest to a reader.
#
# ## References
#
# - Huang Y. et al. *Deep learning for brain metastasis detection and segmentation in longitudinal MRI data.*
#   Medical Physics 2022. [doi.org/10.1002/mp.15863](https://doi.org/10.1002/mp.15863)
# - Kamnitsas K. et al. *Efficient multi-scale 3D CNN with fully connected CRF for accurate brain lesion segmentation.*
#   Medical Image Analysis 2017. [doi.org/10.1016/j.media.2016.10.004](https://doi.org/10.1016/j.media.2016.10.004)

# %% tags=["summary"]
effect = effects["path"]
number = temporal.ratio_words(effect)
session.finish(
    headline=f"the earlier scan as a path {temporal.effect_words(effect)}: {number} times those of no prior",
    metrics={
        "ratio": {w: None if e is None else e.value for w, e in effects.items()}, "new_share": float(share["new"]),
        "hardly_changed": float(still), "clearer": clear["chance"].to_dict(), "networks_that_gain": len(gains),
        "networks": len(tried), "moves": reads.set_index("run")["moves"].to_dict(), "gone": len(gone), "hidden": hidden,
        "course": followup.course_words(times), "fastest_doubling_days": float(fast) if fast > 0 else None,
        "new_live": {} if not nets else {w: int(n) for w, n in moved.counts()["of these new"].items()},
        "verdicts": verdicts[verdicts["claim"].str.contains("prior")].set_index("claim")["verdict"].to_dict(),
    },
)
