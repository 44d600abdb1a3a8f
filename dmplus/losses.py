r"""The paper's losses: functions of foreground probability and target, both (B, X, Y, Z), B segments of X·Y·Z voxels.

============  =======================================  ==================================================
function      counts                                   source
============  =======================================  ==================================================
:func:`bce`   every voxel                              eq. 4, right-hand term
:func:`dice`  overlap of the whole batch               Huang et al. 2022, II.B ("DSC"); not in an equation
:func:`iou`   overlap of the whole batch               Huang et al. 2022, II.B ("IOU"); not in an equation
:func:`sse`   squared error per class, voxel level     eq. 5 (Brosch et al. 2015)
:func:`vss`   best voxel of each segment               eqs 1-3
:func:`jvss`  vss + bce                                eq. 4
============  =======================================  ==================================================

**Large alpha means sensitivity** in :func:`vss`, :func:`jvss` and :func:`sse`. ``form="paper"`` is the printed formula;
``form="released"`` is what the authors' program computes, which differs (each docstring says how). All functions
return a scalar, are finite with finite gradients for any probabilities in [0, 1], 0 and 1 included, and for batches
without any lesion or without any background. Half-precision input is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmplus.runtime import InputError

EPSILON = 1e-7  #: the "small value to avoid division by zero" of eqs 1 and 2, used in eq. 5, too; the paper gives no number


def bce(prob: Tensor, target: Tensor, *, form: str = "paper") -> Tensor:
    """Binary cross-entropy, the mean over voxels of −[y log p + (1−y) log(1−p)] (eq. 4).

    ``released``: −log(p + 1e-6) for lesion voxels and −log(1 − p + 1e-6) for the others, so that a wrong certainty
    costs 13.8. In the paper's form it costs 100 (torch's limit) where p is 0, and where p is 1 what the rounding of p
    leaves of it, 16.6 in float32. Where there are logits, :func:`bce_of_logits` has no such limits.

    >>> round(bce(torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[0.0, 1.0]]]])).item(), 4)
    0.6931
    """
    p, y = _checked(prob, target, form)
    if form == "released":
        return cross_entropy_classes(_two(p), _two(y))
    # A p that rounds to 1 has lost its 1 − p. Torch's slope there is 1e12, which a softmax, whose background is not rounded
    # away, hands on as some 1e4 times the true one: a single wrong certainty then ruins a training.
    rounding = torch.finfo(p.dtype).eps / 2
    with torch.autocast(p.device.type, enabled=False):  # which forbids it on a GPU, though p is float32
        return F.binary_cross_entropy(torch.minimum(p, 1 - rounding * (1 - y)), y)


def bce_of_logits(logits: Tensor, target: Tensor) -> Tensor:
    """:func:`bce` in the paper's form from log-odds log p − log(1 − p), (B, X, Y, Z) like the target: the same number, and a
    slope of p − y per voxel however certain and wrong the network is."""
    if logits.ndim != 4 or logits.shape != target.shape:
        raise InputError(
            f"loss: expected logits and target of one shape (B, X, Y, Z); got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}; subtract the background's logit from the foreground's"
        )
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def dice(prob: Tensor, target: Tensor, *, form: str = "paper") -> Tensor:
    """Soft Dice loss of the foreground, 1 − (2Σpy + s)/(Σp + Σy + s), sums over the whole batch, s = 1e-5.

    Without any lesion and with p = 0 it is 0. ``released``: mean over background and foreground of the same.

    >>> round(dice(torch.full((1, 1, 1, 4), 0.5), torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])).item(), 4)
    0.5
    """
    p, y = _checked(prob, target, form)
    return dice_classes(_two(p), _two(y)) if form == "released" else dice_classes(p[:, None], y[:, None])


def iou(prob: Tensor, target: Tensor, *, form: str = "paper") -> Tensor:
    """Soft intersection-over-union loss, 1 − (Σpy + s)/(Σp(1−y) + Σy + s), sums over the whole batch, s = 1e-5.

    Without any lesion and with p = 0 it is 0. ``released``: mean over background and foreground of the same.
    """
    p, y = _checked(prob, target, form)
    return iou_classes(_two(p), _two(y)) if form == "released" else iou_classes(p[:, None], y[:, None])


def sse(prob: Tensor, target: Tensor, *, alpha: float, form: str = "paper") -> Tensor:
    """Sensitivity-specificity error (eq. 5): α Σ(y−p)²y / Σy + (1−α) Σ(y−p)²(1−y) / Σ(1−y). Large α: sensitivity.

    Sums run over all voxels of the batch; a class without voxels contributes 0. ``released``: denominators + 1e-5
    (the released program defines it with α = 0.5 and never uses it).

    >>> round(sse(torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[1.0, 0.0]]]]), alpha=0.9).item(), 4)
    0.25
    """
    p, y = _checked(prob, target, form, alpha)
    small = 1e-5 if form == "released" else EPSILON
    error = (y - p) ** 2
    sensitivity_error = (error * y).sum() / (y.sum() + small)
    specificity_error = (error * (1 - y)).sum() / ((1 - y).sum() + small)
    return alpha * sensitivity_error + (1 - alpha) * specificity_error


def vss(prob: Tensor, target: Tensor, *, alpha: float, form: str = "paper", other: Tensor | None = None) -> Tensor:
    """Volume-level sensitivity-specificity loss, 1 − [α·sens + (1−α)·spec] (eqs 1-3). Large α: sensitivity.

    A segment with any lesion voxel is positive (N₊ of them), the others are negative (N₋)::

        sens = Σ max(p·y) / (N₊ + ε)                over the segments               (eq. 1)
        spec = Σ (1 − max p) / (N₋ + ε)             over the negative segments      (eq. 2)

    ``released``: sens with N₊ + 1, and spec = 1 − Σ max p / (N₋ + 1); a perfect batch then costs α/(N₊ + 1), not 0.
    Without positive segments sens is 0 in both forms (cost α, no gradient from it); without negative segments spec is
    0 in the paper's form (a constant cost of 1 − α) and 1 in the released one.

    The gradient reaches one voxel of each segment. Voxels that tie for the maximum share it equally (``amax``); a
    lesion with p = 0 everywhere ties with every other voxel of its segment, whose p·y is 0 too.

    other: (B, X, Y, Z), 1 on voxels of further classes in a multi-class task (the released program's labels 2, 3 ...).
    A segment that holds such voxels and no lesion counts as neither positive nor negative.

    >>> p = torch.tensor([0.8, 0.3]).view(2, 1, 1, 1)     # one positive segment, one negative segment
    >>> y = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    >>> round(vss(p, y, alpha=0.9).item(), 4)             # 1 − (0.9·0.8 + 0.1·0.7)
    0.21
    >>> round(vss(p, y, alpha=0.9, form="released").item(), 4)   # 1 − (0.9·0.8/2 + 0.1·(1 − 0.3/2))
    0.555
    """
    p, y = _checked(prob, target, form, alpha)
    space = (1, 2, 3)
    positive = y.amax(space)  # (B,) max(y_i), 1 or 0
    occupied = positive if other is None else torch.maximum(y, other.to(y.dtype)).amax(space)
    negative = 1 - occupied  # (B,)
    found = (p * y).amax(space)  # (B,) best voxel inside the lesions
    alarm = negative * p.amax(space)  # (B,) worst voxel of the negative segments
    if form == "released":
        sensitivity = found.sum() / (positive.sum() + 1)
        specificity = 1 - alarm.sum() / (negative.sum() + 1)
    else:
        sensitivity = found.sum() / (positive.sum() + EPSILON)
        specificity = (negative - alarm).sum() / (negative.sum() + EPSILON)
    return 1 - (alpha * sensitivity + (1 - alpha) * specificity)


def jvss(
    prob: Tensor,
    target: Tensor,
    *,
    alpha: float,
    weight_vss: float = 1.0,
    weight_segmentation: float = 1.0,
    segmentation: str = "bce",
    form: str = "paper",
) -> Tensor:
    """Joint loss: weight_vss · VSS + weight_segmentation · BCE (eq. 4 with both weights 1). Large α: sensitivity.

    segmentation: "bce" (the paper) or "dice". The released configurations use 0.5 and 0.5 with ``form="released"``.
    """
    if segmentation not in ("bce", "dice"):
        raise InputError(f"jvss: expected segmentation bce or dice; got {segmentation!r}; choose one of those")
    segment = bce if segmentation == "bce" else dice
    detection = vss(prob, target, alpha=alpha, form=form)
    return weight_vss * detection + weight_segmentation * segment(prob, target, form=form)


class VSSLoss(nn.Module):
    """VSS for other trainers (MONAI, nnU-Net): logits (B, C, X, Y, Z), target (B, X, Y, Z) or (B, 1, X, Y, Z).

    C = 1 is read through a sigmoid, C ≥ 2 through a softmax with class 0 as background. Any non-zero target is lesion; a
    one-hot target is an ``InputError``.
    Add it to a segmentation loss: the gradient of VSS alone reaches one voxel per segment.
    """

    def __init__(self, alpha: float = 0.995, *, form: str = "paper") -> None:
        super().__init__()
        self.alpha, self.form = alpha, form

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        prob = logits.float().sigmoid()[:, 0] if logits.shape[1] == 1 else 1 - logits.float().softmax(1)[:, 0]
        if target.ndim == logits.ndim and target.shape[1] != 1:
            raise InputError(
                f"VSSLoss: expected a target with one channel or none; got {target.shape[1]} channels; pass the label itself, "
                "not one-hot"
            )
        y = target[:, 0] if target.ndim == logits.ndim else target
        return vss(prob, (y > 0).float(), alpha=self.alpha, form=self.form)


# ------------------------------------------------------- several classes, as in the released program
def cross_entropy_classes(prob: Tensor, onehot: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """−Σ w_c y log(p + 1e-6) / number of voxels; prob and onehot (B, C, X, Y, Z), weights (C,) or None for 1."""
    cost = -torch.log(_float32(prob) + 1e-6) * onehot
    if weights is not None:
        cost = cost * weights.view(1, -1, *[1] * (prob.ndim - 2))
    return cost.sum() / (prob.numel() / prob.shape[1])


def dice_classes(prob: Tensor, onehot: Tensor) -> Tensor:
    """1 − mean over classes of (2Σpy + s)/(Σp + Σy + s), s = 1e-5; (B, C, X, Y, Z), sums over batch and space."""
    prob, onehot = _float32(prob), _float32(onehot)
    over = (0, *range(2, prob.ndim))
    overlap = 2 * (prob * onehot).sum(over) + 1e-5
    return 1 - (overlap / (prob.sum(over) + onehot.sum(over) + 1e-5)).mean()


def iou_classes(prob: Tensor, onehot: Tensor) -> Tensor:
    """1 − mean over classes of (Σpy + s)/(Σp(1−y) + Σy + s), s = 1e-5; (B, C, X, Y, Z), sums over batch and space."""
    prob, onehot = _float32(prob), _float32(onehot)
    over = (0, *range(2, prob.ndim))
    overlap = (prob * onehot).sum(over) + 1e-5
    return 1 - (overlap / ((prob * (1 - onehot)).sum(over) + onehot.sum(over) + 1e-5)).mean()


def _two(foreground: Tensor) -> Tensor:
    """(B, X, Y, Z) → (B, 2, X, Y, Z): background, foreground."""
    return torch.stack((1 - foreground, foreground), 1)


def _checked(prob: Tensor, target: Tensor, form: str, alpha: float = 0.0) -> tuple[Tensor, Tensor]:
    if prob.ndim != 4 or prob.shape != target.shape:
        raise InputError(
            f"loss: expected foreground probability and target of one shape (B, X, Y, Z); got {tuple(prob.shape)} and "
            f"{tuple(target.shape)}; select the foreground class and drop the channel axis"
        )
    if form not in ("paper", "released"):
        raise InputError(f"loss: expected form paper or released; got {form!r}; choose one of those")
    if not 0 <= alpha <= 1:
        raise InputError(f"loss: expected alpha between 0 and 1; got {alpha}; large alpha favours sensitivity")
    if not prob.is_floating_point():
        raise InputError(f"loss: expected probabilities as floating-point numbers; got {prob.dtype}; pass prob.float()")
    # not on a GPU, which would have to wait for the answer, nor in a compiled step, whose targets were looked at before
    if target.device.type == "cpu" and target.numel() and not torch.compiler.is_compiling():
        if not (target.min() >= 0 and target.max() <= 1):
            raise InputError(
                f"loss: expected a target from 0 to 1; got {target.min():g} to {target.max():g}; pass (label > 0).float()"
            )
    prob = _float32(prob)
    return prob, target.to(prob.dtype)


def _float32(x: Tensor) -> Tensor:
    """Half precision as float32: sums of thousands of voxels overflow there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
