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
# # 01 · The VSS loss derived
#
# **Question.** Why does a loss that counts lesions have to look at single voxels?
#
# - **Needs**: notebook 00 for the words; how a gradient trains a network.
# - **Reading**: 90 minutes, exercises included.
# - **Quick**: 2 minutes on 2 CPU cores with 2 GB of memory.
# - **GPU**: 10 minutes with 8 GB of memory (an estimate); nothing here needs a GPU, but whole brains take the processor
#   that long to make.
# - **Data**: toy segments made in the notebook; synthetic patients from the ICBM152 2009a template (its notice
#   is in `dmplus/assets`); the printed numbers of Huang et al. 2022; text CC BY 4.0, code BSD-3.
# - **Not claimed**: no network is trained here beyond one neuron, so nothing is said about which loss is better on
#   scans. Nothing here is for clinical use.
#
# ## Objectives
#
# After this notebook you can
#
# - **derive** equations 1 to 4 of the paper from the sensitivity and specificity of a test, and code them;
# - **compute** which voxel the loss moves and how strongly, for any alpha;
# - **explain** why a segmentation loss has to stand beside it, and what the weight between them does;
# - **name** three errors that VSS cannot see, and three places where the released program differs from the paper;
# - **recount** the paper's tables, and say what a difference of 3 and 1 false positives can prove.

# %% [markdown]
# ## Parameters and set-up

# %% tags=["parameters"]
profile: str = "quick"  # smoke for tests, quick for a laptop, gpu for more patients
seed: int = 2022  # seed of the toy segments and of the synthetic cohort
alpha: float = 0.995  # weight of sensitivity in VSS from 0 to 1, the paper's sensitive model has 0.995
out_dir: str = ""  # where results go, empty for runs/01_vss_derivation and the profile

# %% [markdown]
# One cell imports everything, checks the parameters and says what it runs on.

# %% tags=["setup"]
import dataclasses
import inspect

import numpy as np
import pandas as pd
import torch
from dmplus import course, exercises, figures, losses, network, paper, runtime, sampling, synthetic, widgets
from IPython.display import display
from scipy import stats

session = course.start("01_vss_derivation", profile=profile, seed=seed, out_dir=out_dir, alpha=alpha)
repeats = session.profile.patients  # fresh draws behind every mean of this notebook

# %% [markdown]
# ## What we want
#
# A radiologist asks two questions of a detector. *If there is a metastasis, does it speak?* That is sensitivity.
# *If there is none, is it silent?* That is specificity. Both are counts of **patients**, or of the pieces of a
# scan, called segments, that a network sees in training. Neither is a count of voxels.
#
# Here are four segments, two with a lesion (in this notebook: a metastasis in a segment) and two without. They are flat,
# 15 × 15 × 1, so that no voxel hides; in training they are cubes of 37 voxels a side, of which the network answers the
# inner 19 × 19 × 19, the block the loss sees. A made-up network has given each voxel a probability.
#
# | symbol | meaning | name in the code |
# |---|---|---|
# | $i = 1 \dots B$ | segments of a batch | first axis |
# | $\mathbf{y}_i$ | reference, 1 on lesion voxels | `target`, (B, X, Y, Z) |
# | $\hat{\mathbf{y}}_i$ | probability of each voxel | `prob`, (B, X, Y, Z) |
# | $N_+$, $N_-$ | segments with a lesion, and without | `n_pos`, `n_neg` |
# | $\alpha$ | weight of sensitivity, 0 to 1 | `alpha` |
# | $\epsilon$ | a small number against division by zero | `losses.EPSILON` |
# | $\eta_{\text{sens}}$, $\eta_{\text{spec}}$ | sensitivity and specificity of a batch (equations 1 and 2) | in `losses.vss` |
# | $z$ | logit of a voxel; its probability is $1/(1 + e^{-z})$ | `logit` |
# | $w$ | weight of VSS beside BCE | `weight_vss` |

# %%
at_i, at_j = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing="ij")

def bump(at_x: float, at_y: float, width: float, peak: float) -> torch.Tensor:
    """A round spot (15, 15) that falls off like a bell."""
    return peak * torch.exp(-((at_i - at_x) ** 2 + (at_j - at_y) ** 2) / (2 * width**2))

noise = 0.1 * torch.rand(4, 15, 15, generator=torch.Generator().manual_seed(seed))
spots = [bump(5, 9, 2.2, 0.85), bump(10, 5, 1.1, 0.3), bump(7, 7, 1, 0), bump(9, 4, 1.6, 0.65)]
prob = (torch.stack(spots) + noise)[..., None]  # (4, 15, 15, 1)
lesions = [bump(5, 9, 2.2, 1) > 0.5, bump(10, 5, 1.1, 1) > 0.5, at_i < 0, at_i < 0]
target = torch.stack(lesions).float()[..., None]
names = ["A: large lesion\nfound", "B: tiny lesion\nfaint", "C: no lesion\nquiet", "D: no lesion\nbright vessel"]

# %% [markdown]
# Count at the usual threshold of 0.5. A positive segment is *found* if a voxel inside its lesion reaches 0.5; a
# negative segment is *silent* if no voxel does.

# %%
found = [bool((prob[i] * target[i] >= 0.5).any()) for i in (0, 1)]
silent = [not bool((prob[i] >= 0.5).any()) for i in (2, 3)]
assert (found, silent) == ([True, False], [True, False])
figure = figures.segments(
    {"probability": prob.numpy()}, target.numpy(), names=names,
    title=f"Counted at 0.5: {sum(found)} of 2 found, {sum(silent)} of 2 silent",
)
figures.show(
    figure,
    f"Figure 1 shows the probabilities of the four segments, the reference outlined. At 0.5 the sensitivity is "
    f"{sum(found)}/2 and the specificity {sum(silent)}/2.",
)

# %% [markdown]
# ## A count has no slope
#
# We would like to train for these counts. Let the faint lesion B become brighter, from 0 to 1, and watch the
# sensitivity.
#
# > **Predict first.** At which brightness does the count tell the network that it is on the right track?

# %%
peaks = np.linspace(0, 1, 101)
counted = (1 + (peaks >= 0.5)) / 2  # A is found; B from 0.5 on
graded = (prob[0].max().item() + peaks) / 2
with figures.style():
    figure, axes = figures.new_figure(6.5, 2.9)
    axes[0, 0].plot(peaks, counted, label="counted: any voxel ≥ 0.5")
    axes[0, 0].plot(peaks, graded, label="graded: highest probability")
    axes[0, 0].set(xlabel="probability of the best voxel in lesion B", ylabel="sensitivity of 2 segments", ylim=(0, 1.1))
    axes[0, 0].set_title("The count is flat where learning has to happen")
    axes[0, 0].legend(loc="lower right")
flat = np.mean(np.diff(counted) == 0)
assert flat > 0.98

# %% [markdown]
# Look at the solid line, left and right of its step.

# %%
figures.show(
    figure,
    f"Figure 2 shows the sensitivity of the two positive segments as lesion B brightens. The count has slope 0 over "
    f"{flat:.0%} of the range; with the highest probability in its place the slope is 1/2 everywhere.",
)

# %% [markdown]
# Nowhere: it is flat, jumps once, and is flat again. A network follows slopes, so the count teaches nothing.
#
# The way out is one word. "*Any* voxel is inside" is the **maximum** over voxels of "is inside", which is 0 or 1.
# Keep the maximum and drop the threshold: take the maximum of the *probabilities*. It is the count when the
# network is certain, and has a slope when it is not. That is the whole idea of VSS, and the reason why a loss that
# counts lesions looks at single voxels: a maximum is always *some voxel's* probability.
#
# ## Sensitivity: equation 1
#
# $$\eta_{\text{sens}} = \frac{\sum_{i=1}^{B} \max(\hat{\mathbf{y}}_i \cdot \mathbf{y}_i)}
# {\sum_{i=1}^{B} \max(\mathbf{y}_i) + \epsilon} \qquad (1)$$
#
# Below stands $N_+$: the maximum of a reference is 1 if there is a lesion. Above, the product
# $\hat{\mathbf{y}}_i \cdot \mathbf{y}_i$ keeps the probabilities inside the lesion and puts 0 elsewhere; its maximum
# is the lesion's best voxel.
#
# **Exercise 1.1 · volume-level sensitivity** — difficulty 2 of 5 · importance 5 of 5 · about 7 minutes. Goal: write
# equation 1 for arrays `prob` and `target`, (B, X, Y, Z). A right answer is one number between 0 and 1, and 0 for a
# batch without any lesion.
#
# <details><summary>Hint: how do I get one maximum per segment?</summary>
#
# `array.max(axis=(1, 2, 3))` leaves one number for each segment.
# </details>
#
# <details><summary>Hint: why not max of prob times max of target?</summary>
#
# Then a vessel beside the lesion would count as a detection. Multiply first, take the maximum afterwards.
# </details>

# %% tags=["exercise"]
def sensitivity(prob: np.ndarray, target: np.ndarray) -> float:
    """Equation 1, with ε = 1e-7."""
    # solution
    space = (1, 2, 3)
    return (prob * target).max(space).sum() / (target.max(space).sum() + 1e-7)

# %% tags=["check"]
course.check("1.1", sensitivity)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 1.1, and why</summary>
#
# ```python
# space = (1, 2, 3)
# return (prob * target).max(space).sum() / (target.max(space).sum() + 1e-7)
# ```
# Why the product inside the maximum? A detection has to overlap the lesion. With two maxima, one bright vessel in a
# positive segment would be rewarded as a found metastasis.
# </details>

# %% [markdown]
# ## Specificity: equation 2
#
# $$\eta_{\text{spec}} = \frac{\sum_{i=1}^{B} (1 - \max(\mathbf{y}_i)) \cdot (1 - \max(\hat{\mathbf{y}}_i))}
# {\sum_{i=1}^{B} (1 - \max(\mathbf{y}_i)) + \epsilon} \qquad (2)$$
#
# The factor $1 - \max(\mathbf{y}_i)$ is 1 for a segment without lesion and 0 for the others, so below stands $N_-$.
# The other factor is how silent the segment's *loudest* voxel is.
#
# **Exercise 1.2 · volume-level specificity** — difficulty 2 of 5 · importance 5 of 5 · about 7 minutes. Goal: write
# equation 2. A right answer is one number between 0 and 1, and 0 for a batch in which every segment has a lesion.
#
# <details><summary>Hint: which segments are negative?</summary>
#
# `negative = 1 - target.max(axis=(1, 2, 3))` is 1 exactly where *no* voxel is lesion.
# </details>

# %% tags=["exercise"]
def specificity(prob: np.ndarray, target: np.ndarray) -> float:
    """Equation 2, with ε = 1e-7."""
    # solution
    space = (1, 2, 3)
    negative = 1 - target.max(space)
    return (negative * (1 - prob.max(space))).sum() / (negative.sum() + 1e-7)

# %% tags=["check"]
course.check("1.2", specificity)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 1.2, and why</summary>
#
# ```python
# space = (1, 2, 3)
# negative = 1 - target.max(space)
# return (negative * (1 - prob.max(space))).sum() / (negative.sum() + 1e-7)
# ```
# Why "no voxel is lesion" and not "some voxel is background"? Nearly every segment has background. Whoever takes
# those for negative punishes true detections; a later program of the authors does so by accident (a maximum where
# a minimum belongs).
# </details>

# %% [markdown]
# ## The loss: equation 3
#
# $$\ell_{\text{VSS}} = 1 - (\alpha \cdot \eta_{\text{sens}} + (1 - \alpha) \cdot \eta_{\text{spec}}) \qquad (3)$$
#
# Large alpha: sensitivity. The package has the three equations in `losses.vss` (`dmplus/losses.py`). Here are its own
# lines, run on our four segments. (`occupied` is `positive` as long as there is one kind of lesion.)

# %%
sens = float(exercises.reference("1.1")(prob.numpy(), target.numpy()))
spec = float(exercises.reference("1.2")(prob.numpy(), target.numpy()))
by_hand, by_package = 1 - (0.5 * sens + 0.5 * spec), losses.vss(prob, target, alpha=0.5).item()
assert abs(by_hand - by_package) < 1e-6
code = {k: v for k, _, v in (line.strip().partition(" = ") for line in inspect.getsource(losses.vss).splitlines())}
formulas = {"positive": "max(y)", "negative": "1 − max(y)", "found": "max(ŷ·y)", "alarm": "(1 − max(y))·max(ŷ)"}
values = {"p": prob, "y": target, "space": (1, 2, 3), "EPSILON": losses.EPSILON, "occupied": target.amax((1, 2, 3))}
rows = []
for name, formula in {**formulas, "sensitivity": "η sens", "specificity": "η spec"}.items():
    line = code[name].partition("  #")[0]
    values[name] = eval(line, values)
    rows.append((formula, f"{name} = {line}", values[name].numpy().round(3)))
pd.set_option("display.max_colwidth", None)
display(pd.DataFrame(rows, columns=["formula", "code", "segments A to D"]).set_index("formula"))

# %% [markdown]
# The loss is then equation 3. By hand and by the package it is the same number.

# %%
print(f"VSS at alpha 0.5: {by_hand:.4f} from equations 1 and 2, {by_package:.4f} from the package")

# %% [markdown]
# ## The gradient: which voxel, and how big
#
# What does one step of training change? Differentiate equation 3 by the probability of a voxel. A maximum has
# slope 1 at its voxel and 0 at all others, so in each segment **one voxel** gets all of it:
#
# - the best voxel inside the lesion of a positive segment is pulled up;
# - the loudest voxel of a negative segment is pushed down.
#
# > **Predict first.** With alpha = 0.995 and as many positive as negative segments, how many times stronger is the
# > pull on a lesion than the push on a vessel? Write it down.
#
# **Exercise 1.3 · the two forces** — difficulty 2 of 5 · importance 4 of 5 · about 5 minutes. Goal: from `alpha`,
# `n_pos` and `n_neg`, the derivative at a positive segment's best lesion voxel, and that at a negative segment's
# loudest voxel; 0 where there is no such segment. Forget ε. A right answer is two numbers.
#
# <details><summary>Hint: which sign?</summary>
#
# The loss *falls* when the best lesion voxel rises: its derivative is negative.
# </details>
#
# <details><summary>Hint: how large?</summary>
#
# In equation 3 the best voxel of one lesion stands once, inside the sensitivity: with alpha in front, and the number of positive
# segments below.
# </details>

# %% tags=["exercise"]
def pulls(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    """Derivative of equation 3 at a lesion's best voxel, and at a negative segment's loudest voxel."""
    # solution
    up = -alpha / n_pos if n_pos else 0.0
    down = (1 - alpha) / n_neg if n_neg else 0.0
    return up, down

# %% tags=["check"]
course.check("1.3", pulls)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 1.3, and why</summary>
#
# ```python
# up = -alpha / n_pos if n_pos else 0.0
# down = (1 - alpha) / n_neg if n_neg else 0.0
# return up, down
# ```
# Why not divide by all segments? Each half of the loss is a mean over its own kind of segment. That is why class
# imbalance between segments does not matter to VSS, as long as both kinds are in the batch.
# </details>

# %%
forces = exercises.reference("1.3")
rows = []
for a in (0.5, 0.9, 0.95, 0.99, 0.995, 1.0):
    _, gradient = figures.vss_gradient(prob.numpy(), target.numpy(), alpha=a)
    up, down = gradient[0].min(), gradient[3].max()
    assert np.allclose([up, down], forces(a, 2, 2), atol=1e-6)
    rows.append((a, f"{up:.4f}", f"{down:+.4f}", f"{a / (1 - a):.0f}" if a < 1 else "no push at all"))
columns = ["alpha", "at a lesion's best voxel", "at a vessel's loudest voxel", "ratio"]
display(pd.DataFrame(rows, columns=columns).set_index("alpha"))

# %% [markdown]
# So the derivative is $-\alpha / N_+$ at the best voxel of a lesion, and $+(1-\alpha) / N_-$ at the loudest of a negative
# segment. At 0.995 the pull is 199 times the push; at 1 nothing holds a vessel down. Now see where they act, and compare with
# two losses that look at every voxel: binary cross-entropy, BCE, and the voxel-level sensitivity–specificity error, SSE
# (equation 5, the subject of notebook 02).

# %%
def gradient_of(loss) -> np.ndarray:
    """Derivative of a loss of (prob, target) by every probability of the toy batch."""
    p = prob.clone().requires_grad_()
    return torch.autograd.grad(loss(p, target), p)[0].numpy()

maps = {"VSS": gradient_of(lambda p, t: losses.vss(p, t, alpha=0.5)), "BCE": gradient_of(losses.bce)}
maps["SSE"] = gradient_of(lambda p, t: losses.sse(p, t, alpha=0.5))
moved, total = int((maps["VSS"] != 0).sum()), prob.numel()
assert moved == len(prob) and (maps["BCE"] != 0).all()
figure = figures.segments(
    maps, target.numpy(), names=names, signed=list(maps), rings=maps["VSS"] != 0,
    title="VSS moves one voxel of a segment, BCE and SSE move all",
)

# %% [markdown]
# Rings mark the voxels that VSS moves. Orange is pulled up, purple is pushed down; every row has its own scale. Below
# each panel: how many voxels feel the loss, and the largest derivative.

# %%
quiet, strong = abs(maps["SSE"][2:]).max(), abs(maps["SSE"]).max()
figures.show(
    figure,
    f"Figure 3 shows the gradient of three losses, alpha 0.5. VSS reaches {moved} of {total} voxels, each with "
    f"{abs(maps['VSS']).max():.2f}; BCE reaches all {total}, the strongest with {abs(maps['BCE']).max():.4f}. "
    f"SSE reaches all as well; its row looks blank in C and D because the strongest push there, {quiet:+.4f}, is "
    f"{quiet / strong:.0%} of the row's scale.",
)

# %% [markdown]
# Look at the tiny lesion B. How hard is it pulled, in one voxel and in all of them together?

# %%
lesion = target.numpy() > 0
for name in ("BCE", "VSS"):
    own = [maps[name][k][lesion[k]] for k in (0, 1)]
    behind = maps[name][1][~lesion[1]].sum()
    print(
        f"{name}, strongest voxel: A {own[0].min():+.4f}, B {own[1].min():+.4f}; "
        f"in all: A {own[0].sum():+.3f}, B {own[1].sum():+.3f}, the background of B {behind:+.3f}"
    )

# %% [markdown]
# Per voxel BCE pulls B harder than A, because B is fainter. But B has few voxels: in all it is pulled less than A, and far
# less than its own background is pushed down. VSS gives A and B the same, because it is a mean over *segments*, and it
# leaves the background alone. That is the argument for VSS in one picture, and its price is in the same picture: no other
# voxel hears anything.
#
# Now with alpha as the parameter of this notebook says.

# %%
figure = figures.vss_board(prob.numpy(), target.numpy(), alpha=alpha, names=names)
up, down = forces(alpha, 2, 2)
figures.show(
    figure,
    f"Figure 4 shows probability and VSS gradient at alpha {alpha:g}. The derivative at each lesion's best "
    f"voxel is {up:.4f} (a pull up), at each negative segment's loudest voxel {down:+.4f} (a push down).",
)

# %% [markdown]
# In JupyterLab the picture moves. Question to answer with it: **choose D under *segment*, and make its vessel quieter (*spot,
# times*) until the ring moves. Where does it go, and does the push become weaker?**

# %%
if course.interactive():
    display(widgets.vss_explorer(prob.numpy(), target.numpy(), names=names))
else:
    print("The board moves in JupyterLab (make lab).")

# %% [markdown]
# The ring jumps to the next loudest voxel, at the rim of the vessel, which stays as it was, with the same push: how loud the
# voxel is does not matter, only that it is the loudest. (On the way through a sigmoid, p(1 − p) weakens it for small p.)

# %% [markdown]
# ## Why BCE stands beside it: equation 4
#
# $$\ell_{\text{JVSS}} = \ell_{\text{VSS}} + \ell_{\text{BCE}} \qquad (4)$$
#
# Let us train without a network. Every voxel has a *logit* of its own, any number $z$, which the sigmoid
# $\sigma(z) = 1/(1 + e^{-z})$ turns into a probability; 100 steps with Adam move the logits. We let all probabilities
# start between 0.1 and 0.2, so that nothing is marked at first (an untrained network starts near 0.5).
#
# > **Predict first.** With VSS alone, how many voxels of lesion A will be above 0.5 in the end?

# %%
def train_voxels(loss, steps: int = 100) -> torch.Tensor:
    """Probabilities after training every voxel's logit by itself."""
    logit = (0.1 + noise[..., None]).logit().requires_grad_()
    optimizer = torch.optim.Adam([logit], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(logit.sigmoid(), target).backward()
        optimizer.step()
    return logit.sigmoid().detach()

after = {
    "VSS alone": train_voxels(lambda p, t: losses.vss(p, t, alpha=0.5)),
    "BCE alone": train_voxels(losses.bce),
    "JVSS": train_voxels(lambda p, t: losses.jvss(p, t, alpha=0.5)),
}

# %% [markdown]
# The Dice coefficient below compares the voxels at 0.5 or more with the reference, over the whole batch.

# %%
size_a = int(target[0].sum())
inside_a = {k: int(((p[0] >= 0.5) * target[0]).sum()) for k, p in after.items()}
overlap = {k: 1 - losses.dice((p >= 0.5).float(), target).item() for k, p in after.items()}
for name in after:
    print(f"{name}: {inside_a[name]} of {size_a} voxels of lesion A inside; Dice {overlap[name]:.2f}")
figures.show(
    figures.segments(
        {k: p.numpy() for k, p in after.items()}, target.numpy(), names=[n.split("\n")[0] for n in names],
        title="VSS alone detects, and does not segment",
    ),
    f"Figure 5 shows the probabilities after 100 steps, alpha 0.5. VSS alone has lit {inside_a['VSS alone']} of the {size_a} "
    f"voxels of lesion A (Dice of the batch {overlap['VSS alone']:.2f}); with BCE beside it {inside_a['JVSS']}.",
)

# %% [markdown]
# The winner takes it all: only the best voxel of a lesion is pulled, so it stays the best. Both lesions count as found,
# and their volumes, which a follow-up needs, are not there. In the negative segments VSS planes the loudest voxels down
# one after another and leaves the rest. The paper says it in words: the "discrepancies between predictions and ground
# truth in the ambiguous periphery of metastases" do not affect VSS. BCE, or Dice, has to do the segmenting.
#
# ## What alpha does: the smallest network
#
# Free voxels can all be right at once, so nothing has to be traded. A network cannot: a vessel and a metastasis of
# the same brightness get the same answer. The smallest network that has to trade is one neuron that sees one voxel's
# brightness $v$ and answers $p = \sigma(k v + c)$. Lesions are bright on average, look-alikes less, and the two
# overlap.

# %%
def crowd(draw: int, n: int = 40, edge: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """n noisy segments (n, 7, 7, 7) with a spot each: the first half lesions, the second look-alikes; and the labels."""
    g = torch.Generator().manual_seed(1000 * seed + draw)
    axis = torch.arange(edge) - edge // 2
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0)
    spot = distance < torch.randint(1, 7, (n, 1, 1, 1), generator=g)
    lesion = (torch.arange(n) < n // 2).view(n, 1, 1, 1)
    brightness = torch.where(lesion, 3.0, 1.5) + torch.randn(n, 1, 1, 1, generator=g)
    image = 0.5 * torch.randn(n, edge, edge, edge, generator=g) + brightness * spot
    return image, (spot & lesion).float()

# %% [markdown]
# Train it with any loss, then count on 400 fresh segments at 0.5: found lesions, false alarms, Dice.

# %%
def train_neuron(loss, draw: int, steps: int = 200) -> tuple[float, float, float]:
    """Share of lesions found, share of lesion-free segments with an alarm, and Dice, on fresh segments."""
    image, label = crowd(draw)
    weight = torch.tensor([1.0, -2.0], requires_grad=True)  # k, c
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss((weight[0] * image + weight[1]).sigmoid(), label).backward()
        optimizer.step()
    image, label = crowd(draw + 500, n=400)
    inside = ((weight[0] * image + weight[1]) >= 0).float()
    hit, loud = (inside * label).amax((1, 2, 3)), inside.amax((1, 2, 3))
    return hit[:200].mean().item(), loud[200:].mean().item(), 1 - losses.dice(inside, label).item()

# %% [markdown]
# > **Predict first.** Order these by false alarms: BCE alone, JVSS with alpha 0.5, JVSS with alpha 0.995, VSS alone
# > with alpha 0.995.

# %%
recipes = {"BCE alone": losses.bce}
for a in (0.5, 0.9, 0.95, 0.995, 1.0):
    recipes[f"JVSS, alpha {a:g}"] = lambda p, t, a=a: losses.jvss(p, t, alpha=a)
for w in (0.5, 2.0):
    recipes[f"{w:g} · VSS + BCE, alpha 0.95"] = lambda p, t, w=w: losses.jvss(p, t, alpha=0.95, weight_vss=w)
for a in (0.5, 0.995):
    recipes[f"VSS + Dice, alpha {a:g}"] = lambda p, t, a=a: losses.jvss(p, t, alpha=a, segmentation="dice")
recipes["VSS alone, alpha 0.995"] = lambda p, t: losses.vss(p, t, alpha=0.995)
scores = {k: np.array([train_neuron(loss, d) for d in range(repeats)]) for k, loss in recipes.items()}
columns = ["lesions found", "false alarms", "Dice"]
neuron = pd.DataFrame({k: v.mean(axis=0) for k, v in scores.items()}, index=columns).T
display(neuron.round(2))

# %% [markdown]
# The first six rows answer for alpha. The figure shows them with the spread over fresh draws of segments.

# %%
knob = list(recipes)[:6]
with figures.style():
    figure, axes = figures.new_figure(6.5, 3.1)
    for column, (marker, look, colour, shift) in enumerate((("o", "-", "#0072B2", -0.06), ("s", "--", "#D55E00", 0.06))):
        draws, at = np.array([scores[k][:, column] for k in knob]), np.arange(len(knob)) + shift
        reach = np.abs(np.quantile(draws, (0, 1), axis=1) - draws.mean(axis=1))
        axes[0, 0].errorbar(
            at, draws.mean(axis=1), reach, marker=marker, ls="none", color=colour, capsize=3, label=columns[column]
        )
        axes[0, 0].plot(at[1:], draws.mean(axis=1)[1:], look, color=colour)  # BCE has no alpha
    axes[0, 0].set_xticks(range(len(knob)), [k.replace("JVSS, ", "").replace(" ", "\n", 1) for k in knob])
    axes[0, 0].set(ylim=(0, 1.05), ylabel="share of segments", title="Alpha trades missed lesions for false alarms")
    axes[0, 0].legend(loc="lower right")

# %% [markdown]
# Compare with your order before you read on.

# %%
low, high = neuron.loc["JVSS, alpha 0.5"], neuron.loc["JVSS, alpha 0.995"]
figures.show(
    figure,
    f"Figure 6 shows lesions found and false alarms of one neuron, mean and range of {repeats} draws of 40 training "
    f"segments. From alpha 0.5 to 0.995 the lesions found go from {low.iloc[0]:.2f} to {high.iloc[0]:.2f}, the false "
    f"alarms from {low.iloc[1]:.2f} to {high.iloc[1]:.2f}.",
)
alarms, printed = neuron["false alarms"], paper.table(1).query("network == 'DeepMedic'").set_index("alpha")["fp"]
asked = ["BCE alone", "JVSS, alpha 0.5", "JVSS, alpha 0.995", "VSS alone, alpha 0.995"]
print("False alarms in order: " + "; ".join(f"{k} {v:.2f}" for k, v in alarms[asked].sort_values().items()))
print(f"VSS alone, alpha 0.995: Dice {neuron.loc[asked[-1], 'Dice']:.2f}")
print(f"From BCE to alpha 0.9: ours {alarms['BCE alone']:.2f} to {alarms['JVSS, alpha 0.9']:.2f}, the paper's network "
      f"{printed[np.nan]} to {printed[0.9]} false positives")
print("From alpha 0.9 to 1: ours " + " to ".join(f"{alarms[f'JVSS, alpha {a}']:.2f}" for a in ("0.9", "1")), end=", ")
print(f"the paper's network {printed[0.9]} to {printed[1.0]} false positives (Table 1)")

# %% [markdown]
# VSS *alone* at 0.995 has every reason to call everything a lesion: in positive segments that costs nothing at all, and in
# negative ones 199 times less than a missed lesion. BCE is not only there for the outlines. **At large alpha it is all
# that keeps the network from saying yes to everything.**
#
# From 0.9 to 1 there is little push left to take away from our neuron, and BCE does the rest. The paper's network still
# changes much. Along alpha one neuron shows the direction, not the size. And it does not show where BCE belongs: the line above
# has the step from BCE to alpha 0.9, ours and that of the paper's network, which finds as much at 0.9 and is more precise. All
# that our neuron can learn is a threshold.
#
# ## Two knobs: alpha and the weight ratio
#
# The paper gives both losses the weight 1 and says of other weights that "comparable performance (likely not the exactly same
# performance) can also be achieved by tuning the alpha value" (IV). Write JVSS with a weight $w$ on VSS:
#
# $$w \cdot \ell_{\text{VSS}} + \ell_{\text{BCE}} = w - \underbrace{w\alpha}_{\text{all pull}} \eta_{\text{sens}} -
# \underbrace{w(1-\alpha)}_{\text{all push}} \eta_{\text{spec}} + \ell_{\text{BCE}}$$
#
# Alpha moves along the line on which the two sum to 1; $w$ leaves it. Two knobs, two numbers: they are not the same knob. How
# far apart are they?
#
# > **Predict first.** At alpha 0.95, does twice the weight on VSS bring more false alarms or fewer? Can alpha alone, at
# > weight 1, bring as many?

# %%
by_draw = {k: v[:, 1] for k, v in scores.items()}
half, once, twice = (by_draw[k] for k in ("0.5 · VSS + BCE, alpha 0.95", "JVSS, alpha 0.95", "2 · VSS + BCE, alpha 0.95"))
loudest = np.max([by_draw[k] for k in knob[1:]], axis=0)
steps = {"weight 0.5 → 1": once - half, "weight 1 → 2": twice - once, "the loudest alpha → weight 2": twice - loudest}
for name, more in steps.items():
    sure = "one sign in every draw" if (more > 0).all() or (more < 0).all() else "not one sign in every draw"
    print(f"false alarms, {name}: {more.mean():+.3f} (by draw: {', '.join(f'{m:+.3f}' for m in more)}): {sure}")
print(f"(by chance alone {len(half)} draws have one sign once in {2 ** (len(half) - 1)} times)")
for partner, start, end in (("BCE", "JVSS, alpha 0.5", "JVSS, alpha 0.995"), ("Dice", *list(recipes)[8:10])):
    print(f"false alarms with {partner} beside VSS, alpha 0.5 to 0.995: {alarms[start]:.2f} to {alarms[end]:.2f}")
fp = paper.rows().query("quantity == 'fp' and loss.str.contains('VSS:BCE')").set_index("loss")["printed"]
ratios = {"0 (BCE)": printed[np.nan], "0.5": fp["JVSS, VSS:BCE = 0.5"], "1": printed[0.95], "2": fp["JVSS, VSS:BCE = 2"]}
print("the paper's false positives, alpha 0.95: " + ", ".join(f"{n} at VSS:BCE {r}" for r, n in ratios.items()))
print(f"so twice the weight has {'more' if twice.mean() > once.mean() else 'no more'} false alarms ({once.mean():.2f} to "
      f"{twice.mean():.2f}); the loudest alpha has {loudest.mean():.2f}")

# %% [markdown]
# The last line answers, as far as a hint does: a step with one sign in every draw is no more, and the line in brackets says how
# easily chance does that. Where the first two have it, more weight seems to act like more alpha; where the third has it, it
# seems to go further than any alpha. The paper expects of another alpha comparable performance, "likely not the exactly same".
# Its own runs go down and up again. More weight is more pull *and* more push, so it need not go one way: half the weight may
# still be near BCE, twice the weight near a larger alpha. Or it is chance: each is a single training. Vary one of the two, and
# repeat.
#
# **VSS + Dice** (`losses.jvss(..., segmentation="dice")`) is the paper's other choice; BCE is its "default". Dice is not
# diluted by the many background voxels as BCE is, so it should leave alpha less room: compare the two ranges above.

# %% [markdown]
# ## What VSS cannot see
#
# One maximum per segment is little to go by. Here is one segment with two lesions in four versions, beside a silent
# negative one, which is not drawn. In every answer yes is 0.99 and no 0.01, so that even the right one costs a little.
#
# > **Predict first.** Which of the three mistakes does VSS notice?

# %%
pair = (bump(4, 10, 1.6, 1) > 0.5) | (bump(10, 4, 1.6, 1) > 0.5)
first = bump(4, 10, 1.6, 1) > 0.5
slab = at_i > 12
answers = {"right": pair, "one missed": first, "one missed + slab": first | slab, "all missed + slab": slab}
label = torch.stack([pair, at_i < 0]).float()[..., None]
costs = {}
for name, mask in answers.items():
    p = torch.stack([mask, at_i < 0]).float()[..., None] * 0.98 + 0.01
    costs[name] = (losses.vss(p, label, alpha=0.5).item(), losses.bce(p, label).item())
titles = [f"{k}\nVSS {v:.3f}\nBCE {b:.3f}" for k, (v, b) in costs.items()]
shown = torch.stack(list(answers.values())).float()[..., None].numpy()
vss_costs = [v for v, _ in costs.values()]
assert np.allclose(vss_costs[:3], vss_costs[0]) and vss_costs[3] > 0.4
assert (np.diff([b for _, b in costs.values()]) > 0).all()

# %% [markdown]
# Only the last one, where nothing of either lesion is left.

# %%
figures.show(
    figures.segments(
        {"probability": shown}, np.repeat(label[:1].numpy(), 4, axis=0), names=titles,
        title="A missed second lesion and a false slab are free",
    ),
    f"Figure 7 shows four answers to one segment with two lesions. VSS (alpha 0.5) is {vss_costs[0]:.3f} for the first "
    f"three and {vss_costs[3]:.3f} for the last; BCE rises from {costs['right'][1]:.3f} with every mistake.",
)

# %% [markdown]
# VSS cannot see
#
# 1. **a second lesion in the same segment** that is missed. The paper: a few such segments "do not make a significant
#    difference due to their low incidence" (IV);
# 2. **a false positive in a positive segment**;
# 3. **a wrong outline** (Figure 5: one voxel is enough).
#
# BCE has to see the third. The first two depend on what shares a segment, that is, on how large segments are and where
# they are centred. So the **sampling is part of the loss**.
#
# How often is that? Cut segments as the paper's training does, half of them centred on a lesion voxel, from synthetic training
# patients, and look at what is in the block of 19 × 19 × 19 that the loss sees. Once from the course's usual cohort, once from
# one whose patients have ten times as many lesions beyond their first. The paper also mentions segments of 30 voxels a side
# (section IV), whose block is only 12 × 12 × 12.

# %%
usual = dataclasses.replace(synthetic.COHORTS[session.profile.cohort], seed=seed)
crowded = dataclasses.replace(usual, lesions_extra=10 * usual.lesions_extra)

def look(cohort: synthetic.CohortConfig, n: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Of n blocks: lesions in each, whether it touches a look-alike; lesions in n smaller ones; and the visits."""
    train_part = [i for i in range(cohort.patients) if synthetic.split_of(cohort, i) == "train"][:repeats]
    visits = [v for i in train_part for v in synthetic.patient(cohort, i).visits]
    cases, config = [v.case for v in visits], sampling.SamplingConfig()
    sampler, seen = sampling.Sampler(cases, network.preset("paper"), config, seed=seed), []
    for k in range(n):
        which, centre = sampler.centre(runtime.rng(seed, "01", k))
        block = [sampling.crop(v, centre - 9, (19,) * 3) for v in (visits[which].numbers, visits[which].lookalikes)]
        seen.append((np.unique(block[0][block[0] > 0]).size, block[1].any()))
    return *np.array(seen).T, sampler.lesion_counts(n, segment=30), visits

looks = {"usual cohort": look(usual), "many more lesions": look(crowded)}

# %% [markdown]
# > **Predict first.** Of the segments with a lesion, how many hold a second one, in each of the two cohorts?

# %%
shares, two, unseen = {}, [], []
for name, (number, alike, smaller, visits) in looks.items():
    positive = number > 0
    per_visit = f"{np.mean([len(v.lesions) for v in visits]):.1f}"
    shares[name] = {"visits": len(visits), "lesions per visit": per_visit, "segments cut": len(number)}
    for what, hits in {
        "positive segments": positive,
        "of these with two lesions or more": number[positive] > 1,
        "the same for segments of 30³": smaller[smaller > 0] > 1,
        "of the positive, with a look-alike": alike[positive] > 0,
    }.items():
        ends = stats.binomtest(int(hits.sum()), hits.size).proportion_ci(method="exact")
        shares[name][what] = f"{hits.mean():.1%} ({ends.low:.1%} to {ends.high:.1%})"
    two, unseen = [*two, (number[positive] > 1).mean()], [*unseen, (alike[positive] > 0).mean()]
display(pd.DataFrame(shares))

# %% [markdown]
# In brackets: exact 95 % intervals, as if the segments were independent. They come from few visits, so that the truth is
# less certain than that. Which of the two blind spots is larger?

# %%
for name, a, b in zip(looks, two, unseen, strict=True):
    print(f"{name}: of the positive segments {a:.1%} hold a second lesion, {b:.0%} a look-alike;")
    print(f"    the blind spot that the paper discusses is the {'smaller' if a < b else 'larger'} one.")

# %% [markdown]
# The numbers are of blocks cut out of brains (112 × 128 × 96 mm at `quick`, less at `smoke`); in whole brains, at `gpu`,
# the same lesions lie further apart. The paper does not discuss look-alikes that share a segment with a metastasis. They
# are out of sight of the specificity half; there, BCE alone teaches. Count both in your own data
# (`sampler.lesion_counts` does the first).
#
# ## Paper and release
#
# The authors published their program. It computes another VSS than the paper prints:
#
# With $F = \sum \max(\hat{\mathbf{y}}_i \cdot \mathbf{y}_i)$, found, and $L = \sum_{neg} \max \hat{\mathbf{y}}_i$, loud:
#
# | | paper | released program |
# |---|---|---|
# | sensitivity | $F / (N_+ + \epsilon)$ | $F / (N_+ + 1)$ |
# | specificity | $(N_- - L) / (N_- + \epsilon)$ | $1 - L / (N_- + 1)$ |
# | weights VSS : BCE | 1 : 1 | 0.5 : 0.5 |
# | alpha | a parameter | 0.995, changed in the source |
# | cross-entropy | $\log p$ | $\log(p + 10^{-6})$ |
#
# In `dmplus` the paper's is the default and `form="released"` the other one, tested against values of the authors'
# program.
#
# > **Predict first.** A batch is answered perfectly: 1 in the lesions, 0 elsewhere. What does VSS cost in the released
# > form?
#
# **Exercise 1.4 · the floor** — difficulty 3 of 5 · importance 3 of 5 · about 7 minutes. Goal: from `alpha`, `n_pos` and
# `n_neg`, the loss of a perfect batch in the released form. A right answer is one number between 0 and 1.
#
# <details><summary>Hint: what are the two halves?</summary>
#
# Every positive segment contributes 1, so the sensitivity is N₊/(N₊ + 1). No negative segment marks anything, so the
# specificity is 1 − 0.
# </details>

# %% tags=["exercise"]
def floor(alpha: float, n_pos: int, n_neg: int) -> float:
    """Released VSS of a perfect batch."""
    # solution
    sensitivity, specificity = n_pos / (n_pos + 1), 1.0
    return 1 - (alpha * sensitivity + (1 - alpha) * specificity)

# %% tags=["check"]
course.check("1.4", floor)

# %% [markdown] tags=["solution"]
# <details><summary>Solution to 1.4, and why</summary>
#
# ```python
# sensitivity, specificity = n_pos / (n_pos + 1), 1.0
# return 1 - (alpha * sensitivity + (1 - alpha) * specificity)
# ```
# which is α/(N₊ + 1). Why does it matter? The floor moves with the batch: a curve of this loss goes up and down with
# the number of positive segments even when the network is perfect, and never reaches 0.
# </details>

# %%
def cost(n_pos: int, n_neg: int, form: str, answer: float = 1.0) -> float:
    """VSS of a batch of one-voxel segments; every lesion voxel is answered with ``answer``, the others with 0."""
    t = torch.zeros(n_pos + n_neg, 1, 1, 1)
    t[:n_pos] = 1
    return losses.vss(answer * t, t, alpha=alpha, form=form).item()

batches = {"5 + 5, perfect": (5, 5), "2 + 2, perfect": (2, 2), "10 + 0, perfect": (10, 0), "0 + 10, perfect": (0, 10)}
rows = {k: [cost(*n, form) for form in ("paper", "released")] for k, n in batches.items()}
rows["5 + 5, all silent"] = [cost(5, 5, form, answer=0.0) for form in ("paper", "released")]
for n in range(11):
    assert abs(cost(n, 10 - n, "released") - exercises.reference("1.4")(alpha, n, 10 - n)) < 1e-6
display(pd.DataFrame(rows, index=["paper", "released"]).T.rename_axis(f"positive + negative, alpha {alpha:g}").round(4))

# %% [markdown]
# In the paper's form a perfect batch is free, unless a kind of segment is missing: then its half is 0 and costs a
# constant. The figure shows the floor for batches of ten.

# %%
counts = np.arange(11)
with figures.style():
    figure, axes = figures.new_figure(6.5, 3.0)
    for form, marker in (("paper", "o"), ("released", "s")):
        axes[0, 0].plot(counts, [cost(n, 10 - n, form) for n in counts], marker=marker, label=f"{form} form")
    axes[0, 0].set(xlabel="positive segments among ten", ylabel="VSS of a perfect batch", ylim=(-0.04, 1.05))
    axes[0, 0].set_title("In the released form a perfect network still pays")
    axes[0, 0].legend()
floor_5 = cost(5, 5, "released")
figures.show(
    figure,
    f"Figure 8 shows VSS for perfect answers to ten segments, alpha {alpha:g}. With 5 positive ones the paper's form "
    f"costs {abs(cost(5, 5, 'paper')):.3f} and the released one {floor_5:.3f}.",
)

# %% [markdown]
# The difference is not only a constant. The pull on a lesion is α/(N₊ + 1) instead of α/N₊: with one positive segment
# half of the paper's, with ten nine tenths. And halving both weights is not a mere scale either, because the weight
# decay beside them is not halved.
#
# ## Numerical hygiene
#
# A loss meets ugly batches: probabilities of exactly 0 or 1, ties, no lesion at all, half precision. Each row below is
# one such batch; the value and every gradient have to be finite.

# %%
shape = (4, 5, 5, 5)
one_lesion, nothing = torch.zeros(shape), torch.zeros(shape)
one_lesion[:2, 2, 2, 1:4] = 1
ugly = {
    "all 0": (torch.zeros(shape), one_lesion), "all 1": (torch.ones(shape), one_lesion),
    "all 0.3 (ties)": (torch.full(shape, 0.3), one_lesion), "exactly right": (one_lesion.clone(), one_lesion),
    "exactly wrong": (1 - one_lesion, one_lesion), "no lesion": (torch.full(shape, 0.3), nothing),
    "no background": (torch.full(shape, 0.3), 1 - nothing), "bf16": (torch.full(shape, 0.3).bfloat16(), one_lesion),
}

# %% [markdown]
# The last column counts the voxels that VSS moves.
#
# > **Predict first.** In which of these batches does VSS move more than one voxel of a segment?

# %%
rows = {}
for name, (p, t) in ugly.items():
    p = p.clone().requires_grad_()
    v, j = losses.vss(p, t, alpha=alpha), losses.jvss(p, t, alpha=alpha)
    g, both = torch.autograd.grad(v, p, retain_graph=True)[0], torch.autograd.grad(v + j, p)[0]
    assert bool(g.isfinite().all() and both.isfinite().all()) and j.isfinite() and v.dtype == torch.float32
    rows[name] = [v.item(), j.item(), int((g != 0).sum())]
table = pd.DataFrame(rows, index=["VSS", "JVSS", "voxels moved"]).T.astype({"voxels moved": int})
tied = 2 * 3 * (alpha > 0) + 2 * 125 * (alpha < 1)  # the lesions, and whole negative segments
assert table.loc["all 0.3 (ties)", "voxels moved"] == tied
p = torch.zeros(shape, requires_grad=True)
(lost,) = torch.autograd.grad(losses.vss(p, one_lesion, alpha=1.0), p)
assert np.isclose(lost[0].sum().item(), -0.5 * 3 / 125)  # 3 of the 125 voxels that tie at 0
print(torch.tensor([0.9975, 0.9985]).bfloat16().tolist(), "is what bf16 makes of 0.9975 and 0.9985")
display(table.round(3))

# %% [markdown]
# In all of them: every segment of these batches has ties. What to remember:
#
# - **Ties share** the gradient equally (`amax`); `max(dim)` would give all of it to whichever voxel comes first. A
#   constant or saturated map is one big tie.
# - **A lesion that is exactly 0 everywhere** ties with its whole segment, where the product is 0 too. Its 3 voxels get
#   3/125 of the pull, and the rest is lost on voxels whose product cannot change. A sigmoid hardly ever gives exact
#   zeros; masking and rounding do.
# - **Wrong with certainty** costs, in the paper's BCE, 100 where the probability is exactly 0 (PyTorch's limit) and 16.6
#   where it is exactly 1 (all that float32 knows of its distance to 1); in the released one 13.8 on both sides.
# - **bf16**: the loss is computed in float32, but what was rounded before stays rounded. A probability of 0.9985
#   becomes exactly 1, and how wrong it was is gone. Keep the last layer's sigmoid in float32.
#
# ### A finite slope that ruins a training
#
# Finite is not enough. Towards its logit $z$, BCE has the slope $p - y$: a voxel that is certain and wrong is moved with slope 1,
# never with more. Now a background voxel that the network calls a lesion, ever more surely. Its probability comes from a
# softmax over two logits, background 0 and lesion $z$, in float32, and goes into PyTorch's own BCE.
#
# > **Predict first.** From some $z$ on, $p$ rounds to exactly 1. Will the slope at such a voxel vanish, stay 1, or grow?

# %%
z = torch.tensor([5.0, 10, 15, 17, 18, 20, 25, 30, 40])
wrong = torch.zeros(1, 1, 1, len(z))  # background
logits = torch.stack((torch.zeros_like(z), z)).requires_grad_()  # (2, n): background, lesion
p = logits.softmax(0)[1]
(by_torch,) = torch.autograd.grad(torch.nn.functional.binary_cross_entropy(p, wrong[0, 0, 0], reduction="sum"), logits)
odds = z.view_as(wrong).requires_grad_()
(exact,) = torch.autograd.grad(losses.bce_of_logits(odds, wrong) * len(z), odds)
assert torch.allclose(exact, torch.ones_like(exact), atol=0.01) and -by_torch[0].min() > 1e4
slopes = {"1 − p in float32": 1 - p.detach(), "background's logit, up": -by_torch[0],
          "lesion's logit, down": by_torch[1], "from the logits themselves": exact.flatten()}  # fmt: skip
display(pd.DataFrame(slopes, index=pd.Index(z.int().tolist(), name="z")).map("{:.3g}".format))

# %% [markdown]
# It grows ten-thousandfold, and later it vanishes. Where $p$ is 1, PyTorch divides by 10⁻¹² instead of by $p(1-p) = 0$; the
# softmax multiplies by the *background's* probability, which is small but was not rounded away. One such voxel outshouts the
# whole batch. `dmplus train` takes BCE from the logits (the last column; the same formula), and `losses.bce` no longer hands
# on such a slope. Three long trainings of ours had been lost to it before we looked: notebook 02 shows one, before and after.
#
# ## The paper as data
#
# A paper's numbers are data like any other: one can load and recount them. `dmplus.paper` holds Tables 1 and
# 2 and the counts and rates of the text, with the counts behind them. This is Table 1 as printed, with found and missed
# lesions out of 278.

# %%
table_1 = paper.table(1)
shown = table_1.assign(alpha=table_1["alpha"].map("{:g}".format).replace("nan", ""))
display(shown.set_index(["network", "loss", "alpha"]))
assert list(table_1["fp"][[1, 4, 5]]) == [718, 22, 18] and list(table_1["mdsc"][[0, 6]]) == [0.789, 0.755]

# %% [markdown]
# > **Recount first** (3 minutes). Take the row with alpha 1. From its found lesions and its false positives, compute the
# > precision as the paper counts it, to three digits. Is it what the table prints? The text of section III.A prints
# > 0.275: which of the two would you correct?

# %%
top = table_1[table_1["alpha"] == 1].iloc[0]
counted = f"{top['found']}/({top['found']} + {top['fp']}) = {top['found'] / (top['found'] + top['fp']):.4f}"
print(f"DeepMedic, alpha 1: {counted}; Table 1 prints {top['precision']}")
recount = paper.recount()
odd = recount[~recount["agrees"]]
print(f"{len(recount)} printed ratios recounted from their counts; {len(odd)} do not round to what is printed:")
for r in odd.itertuples():
    where = r.source if r.source != "text" else f"section {r.section}"
    print(f"  {where}, {r.network}: {r.quantity} {r.printed}; {r.numerator:.0f}/{r.denominator:.0f} = {r.recounted:.4f}")
assert (len(recount), len(odd)) == (68, 4) and {"36.0", "44.4"} <= set(recount["printed"])

# %% [markdown]
# That is a careful paper: four prints in sixty-eight, each off by one or two in the last digit, none of which
# changes a conclusion. Table 1 says 0.274 where the text says 0.275; 200/278 is 0.719; and (25 + 157)/103 is 1.77, not 1.75.
# Two words matter more. **"Per patient"** means per volume: 103 volumes belong to 32 patients. And the abstract's
# **44.4 %** fewer false positives is for the 71 volumes with an earlier scan; for all of them it is 36.0 %.
#
# ### What can 3 against 1 prove?
#
# DeepMedic makes 3 false positives at alpha 0.5, DeepMedic+ makes 1. The paper says that those three went away and one
# new one came. If the earlier scan changed nothing, each of the four could as well have been on the other side.
#
# > **Predict first.** Toss a coin four times. How often is the result 3 to 1 or more extreme?

# %%
plus = table_1[table_1["network"] == "DeepMedic+"].set_index("alpha")
base = table_1[(table_1["network"] == "DeepMedic") & (table_1["loss"] == "JVSS")].set_index("alpha")
chance = {a: stats.binomtest(int(plus["fp"][a]), int(plus["fp"][a] + base["fp"][a])).pvalue for a in (0.5, 0.995)}
spans = {}
for name, row in {"DeepMedic": base.loc[0.5], "DeepMedic+": plus.loc[0.5]}.items():
    found_of = int(row["found"] + row["fp"])
    spans[name] = stats.binomtest(int(row["found"]), found_of).proportion_ci(method="exact")
    low, high = spans[name]
    print(f"{name}, alpha 0.5: precision {row['found']}/{found_of}, 95 % interval {low:.4f} to {high:.4f}")
print(f"3 against 1: p = {chance[0.5]:.3f}; 247 against 158: p = {chance[0.995]:.1e}")
print(f"smallest n for which n against 0 has p < 0.05: {next(n for n in range(1, 20) if 2 * 0.5**n < 0.05)}")
assert chance[0.5] > 0.6 and chance[0.995] < 1e-4 and spans["DeepMedic+"].low < spans["DeepMedic"].high

# %% [markdown]
# Five times in eight. 3 → 1 proves nothing (the two intervals of precision overlap), and 3 → 0 would not have either: it takes
# six against none. The effect of the earlier scan is in the other row, 247 → 158. Some of that is where there is no earlier
# scan:

# %%
# with an earlier scan, as section III.B prints it; without one is the rest of Table 1
text = paper.rows().query("quantity == 'fp per volume, volumes with a prior'").set_index("network")["numerator"].astype(int)
(was, of_was), (now, of_now) = ((text[n], t["fp"][0.995]) for n, t in (("DeepMedic", base), ("DeepMedic+", plus)))
print(f"alpha 0.995: {was} to {now} with an earlier scan, {of_was - was} to {of_now - now} without one")

# %% [markdown]
# Where there is none it cannot be the reason. Two remarks. False positives that both networks mark say nothing of the
# difference and should not count, as above; how many they are the paper does not print, and leaving them out would make p
# smaller. But false positives come in clusters (the same vessel at every visit of a patient), so that 405 of them are fewer
# independent observations than 405, and each row is one training: that makes it larger. Patients would have to be resampled,
# which needs the data.
#
# ### An area from six points
#
# The paper gives an area under the precision–recall curve of 0.9471 for JVSS. The points of Table 1 are printed. Join
# them.
#
# > **Predict first.** Recall runs from 0 to 1. Does most of the area lie under the points, or where there are none?

# %%
recall, precision = base["sensitivity"].to_numpy(), base["precision"].to_numpy()
with figures.style():
    figure, axes = figures.new_figure(6.5, 3.4, columns=2)
    for a, start in ((axes[0, 0], 0), (axes[0, 1], 0.78)):
        a.fill_between([start, recall.min()], precision.max(), color="#dddddd")
        a.plot(recall, precision, marker="o", label="JVSS, DeepMedic")
        a.plot(*table_1.loc[0, ["sensitivity", "precision"]], marker="s", ls="none", label="BCE, DeepMedic")
        a.set(xlabel="sensitivity (recall)", xlim=(start, 1.01), ylim=(0, 1.08))
    for number, *at in zip(base.index, recall, precision, strict=True):
        axes[0, 1].annotate(f"{number:g}", at, (5, 3), textcoords="offset points")
    axes[0, 0].text(0.4, 0.6, "nothing\nmeasured here", ha="center")
    axes[0, 0].set(ylabel="precision", title="Most of the area lies where nothing was measured")
    axes[0, 1].legend(loc="lower left")

# %% [markdown]
# On the right the same points, enlarged, with their alpha. Every point is another training, read at the threshold 0.5.

# %%
area = paper.areas(recall, precision)
best, left = area["anchored ends"], recall.min() * (1 + precision.max()) / 2  # from (0, 1) to the first point
assert area["flat ends"] <= best < paper.AREA_JVSS < area["upper bound"] and left / best > 0.8
figures.show(
    figure,
    f"Figure 9 shows the six points of JVSS in Table 1. Straight lines with any usual end give an area of at most "
    f"{best:.3f}, of which {left:.3f} lies left of the first point; the paper prints {paper.AREA_JVSS}.",
)
for name, value in area.items():
    print(f"{name}: {value:.4f}")

# %% [markdown]
# 0.947 cannot be had from these points by straight lines; it is below what a falling curve through them could reach
# (the upper bound). Figure 6 of the paper may hold more points than its Table 1, or another rule at the ends. Either way
# the printed area is mostly the rectangle left of the first point. Compare losses at one operating point, or over the
# range that both cover, and say which.
#
# One more sentence to read twice: "without decline in dice score coefficient" (abstract). Table 1 has an mDSC of 0.789
# for BCE and 0.755 for alpha 0.5. And mDSC is a mean over *found* lesions: a model that finds different lesions averages
# over different lesions.

# %% [markdown]
# ## Run it again
#
# From the folder of the repository (after `source .venv/bin/activate`; with conda, `conda activate dmplus`):
#
# ```bash
# dmplus run 01 alpha=0.5               # the alpha of the paper's specific model
# dmplus run 01 seed=7 profile=smoke    # other toy segments, other patients, seconds
# dmplus run 01 --list                  # every parameter with its type and default
# ```
# The result is in `runs/01_vss_derivation/<profile>/`. Papermill works too, with less care: `papermill
# notebooks/01_vss_derivation.ipynb out.ipynb -p alpha 0.5`.

# %% [markdown]
# ## Summary
#
# - **Equations 1 to 4.** "Any voxel" is a maximum; a maximum of probabilities is a count with a slope. Sensitivity over
#   segments with a lesion, specificity over those without, alpha between them, BCE beside them.
# - **The gradient.** One voxel per segment: −α/N₊ at a lesion's best voxel, (1−α)/N₋ at a negative segment's loudest.
# - **The partner.** VSS alone lights one voxel per lesion, and at large alpha says yes to everything; the weight on VSS
#   is a second knob beside alpha.
# - **Blind spots and differences.** A second lesion, a false positive in a positive segment, a wrong outline; so the
#   sampling is part of the loss. The release has + 1 below (a floor of α/(N₊ + 1)), weights of one half, and 1e-6 in its
#   logarithm.
# - **The paper's counts.** 64 of 68 ratios recount exactly; 3 against 1 is a coin tossed four times; straight lines
#   through the six printed points do not give an area of 0.947.
#
# ## What could be wrong with this
#
# The segments are toys: flat, few, and as noisy as we chose. One neuron sees brightness and nothing else; all it can
# learn is a threshold, so every loss moves it along the same curve, and nothing here says that VSS gives a *better*
# curve than another loss. The shares of segments with two lesions come from synthetic patients, whose number of
# lesions we set. And the recount trusts the text: a number that is consistent can still be wrong.
#
# ## Self-test
#
# **1.** A batch has 5 positive and 5 negative segments, alpha 0.5. What is the derivative of VSS at a voxel beside the
# lesion of a positive segment that has the highest probability of the segment?
#
# <details><summary>Answer to 1</summary>
# Zero. Outside the lesion the product is 0, and positive segments do not enter the specificity.
# </details>
#
# **2.** You double the number of negative segments in each batch. What happens to the total push on vessels?
#
# <details><summary>Answer to 2</summary>
# In the paper's form nothing: it is 1 − α, shared by more segments.
# </details>
#
# **3.** A colleague's VSS curve never falls below 0.17, although detection is perfect. alpha is 0.995, batches have 5
# positive segments. Is the training stuck?
#
# <details><summary>Answer to 3</summary>
# No: 0.995/6 is 0.166, the floor of the released form.
# </details>
#
# **4.** VSS alone at alpha 0.995: what does the network end up saying? And what does doubling the weight on VSS do, with BCE
# beside it?
#
# <details><summary>Answer to 4</summary>
# Yes to everything: a false alarm costs 199 times less than a missed lesion, and nothing in a positive segment; hence BCE.
# Doubling the weight doubles pull and push alike against BCE, so the sum of the two is no longer 1: alpha cannot do that.
# </details>
#
# **5.** Two models make 5 and 0 false positives on the same scans. Is the second one better?
#
# <details><summary>Answer to 5</summary>
# Not shown: by chance alone 5 against 0 (either way) happens once in sixteen times, p = 0.0625.
# </details>
#
# **Next**: notebook 02 compares VSS with SSE, on patients.
#
# ## References
#
# - Huang Y. et al. *Deep learning for brain metastasis detection and segmentation in longitudinal MRI data.*
#   Medical Physics 2022. [doi.org/10.1002/mp.15863](https://doi.org/10.1002/mp.15863)
# - Brosch T. et al. *Deep convolutional encoder networks for multiple sclerosis lesion segmentation.* MICCAI 2015.
#   [doi.org/10.1007/978-3-319-24574-4_1](https://doi.org/10.1007/978-3-319-24574-4_1)
# - Clopper C. J., Pearson E. S. *The use of confidence or fiducial limits illustrated in the case of the binomial.*
#   Biometrika 1934. [doi.org/10.1093/biomet/26.4.404](https://doi.org/10.1093/biomet/26.4.404)

# %% tags=["summary"]
session.finish(
    headline=f"VSS moves {moved} of {total} voxels; a perfect batch costs 0, as released {floor_5:.3f} (alpha {alpha:g})",
    metrics={
        "voxels_moved": moved, "voxels": total, "floor_released_5_of_10": floor_5, "loss_by_hand": by_hand,
        "neuron_false_alarms": {k: neuron.loc[f"JVSS, alpha {k}", "false alarms"] for k in ("0.5", "0.995")},
        "two_lesions_in_segment": two, "paper_ratios": len(recount), "paper_ratios_off": len(odd),
        "p_3_against_1": chance[0.5], "area_at_most": best,
    },
)
