"""Losses: hand cases, the authors' golden values and gradients, limits, units, hygiene."""

import contextlib
import doctest
from pathlib import Path

import numpy as np
import pytest
import torch

from dmplus import losses
from dmplus.losses import VSSLoss, bce, dice, iou, jvss, sse, vss
from dmplus.runtime import InputError

GOLDEN = Path(__file__).parent / "data" / "losses_golden.npz"  # all batches of losses2, the ties of losses
FULL = Path(__file__).parents[2] / "shared" / "reference" / "golden"


def golden_batches():
    sources = [GOLDEN] + [p for n in ("losses", "losses2") if (p := FULL / f"{n}.npz").exists()]
    for path in sources:
        with np.load(path) as z:
            for i in sorted({int(k.split("/")[0]) for k in z.files}):
                yield pytest.param(path, i, id=f"{path.stem}-{i}")


def close(ours, reference):
    """|dg| <= 2e-5·max|g| (relative to the largest, as the magnitudes span 7e-6 to 2e4), or elementwise 1e-5."""
    reference = torch.as_tensor(reference)
    difference = (ours - reference).abs()
    assert bool(((difference <= 1e-5 * reference.abs()) | (difference <= 2e-5 * reference.abs().max())).all())


@pytest.mark.parametrize("path, i", list(golden_batches()))
def test_released_form_equals_the_authors_program(path, i):
    with np.load(path) as z:
        prob, label = torch.tensor(z[f"{i}/prob"]), torch.tensor(z[f"{i}/label"]).long()
        weights = torch.tensor(z[f"{i}/xentr_class_weights"])
        reference = {n: (z[f"{i}/{n}/value"], z[f"{i}/{n}/grad"]) for n in ("vss", "sse", "x_entr", "dsc", "iou")}
    classes = prob.shape[1]
    onehot = torch.nn.functional.one_hot(label, classes).movedim(-1, 1).float()
    y, other = onehot[:, 1], (label > 1).float()

    # the class-wise functions, classes independent as in the golden gradients
    independent = {
        "x_entr": lambda p: losses.cross_entropy_classes(p, onehot, weights=weights),
        "dsc": lambda p: losses.dice_classes(p, onehot),
        "iou": lambda p: losses.iou_classes(p, onehot),
        "vss": lambda p: vss(p[:, 1], y, alpha=0.995, form="released", other=other),
        "sse": lambda p: sse(p[:, 1], y, alpha=0.5, form="released"),
    }
    for name, loss in independent.items():
        p = prob.clone().requires_grad_()
        value = loss(p)
        value.backward()
        assert value.item() == pytest.approx(float(reference[name][0]), rel=1e-5), name
        close(p.grad, reference[name][1])

    # the public functions of the foreground equal the class-wise ones at (1 - p, p): same value, gradient g1 - g0
    if classes == 2 and bool((weights == 1).all()):
        for name, loss in {"x_entr": bce, "dsc": dice, "iou": iou}.items():
            p = prob[:, 1].clone().requires_grad_()
            value = loss(p, y, form="released")
            value.backward()
            pair = torch.stack((1 - prob[:, 1], prob[:, 1]), 1).requires_grad_()
            independent[name](pair).backward()
            assert value.item() == pytest.approx(float(reference[name][0]), rel=1e-5), name
            close(p.grad, pair.grad[:, 1] - pair.grad[:, 0])


def batch(*segments):
    """Segments of 1x1xN voxels given as lists."""
    return torch.tensor(segments, dtype=torch.float32)[:, None, None]


P = batch([0.1, 0.9, 0.6, 0.2], [0.3, 0.2, 0.1, 0.4])
Y = batch([0, 1, 1, 0], [0, 0, 0, 0])


@pytest.mark.parametrize(
    "value, expected",
    [
        (lambda: vss(P, Y, alpha=0.8), 1 - (0.8 * 0.9 + 0.2 * 0.6)),
        (lambda: vss(P, Y, alpha=0.8, form="released"), 1 - (0.8 * 0.9 / 2 + 0.2 * (1 - 0.4 / 2))),
        (lambda: sse(P, Y, alpha=0.8), 0.8 * (0.01 + 0.16) / 2 + 0.2 * (0.01 + 0.04 + 0.09 + 0.04 + 0.01 + 0.16) / 6),
        (lambda: dice(P, Y), 1 - 2 * 1.5 / (2.8 + 2)),
        (lambda: iou(P, Y), 1 - 1.5 / (1.3 + 2)),
        (lambda: bce(P, Y), -np.log([0.9, 0.9, 0.6, 0.8, 0.7, 0.8, 0.9, 0.6]).mean()),
        (lambda: jvss(P, Y, alpha=0.8), 0.16 - np.log([0.9, 0.9, 0.6, 0.8, 0.7, 0.8, 0.9, 0.6]).mean()),
        (lambda: jvss(P, Y, alpha=0.8, weight_vss=2, weight_segmentation=3, segmentation="dice"), 2 * 0.16 + 3 * 0.375),
    ],
)
def test_hand_cases(value, expected):
    assert value().item() == pytest.approx(expected, abs=1e-5)


def test_large_alpha_means_sensitivity():
    missed, false_alarm = batch([0.0, 0.0], [0.0, 0.0]), batch([1.0, 0.0], [1.0, 1.0])
    y = batch([1, 0], [0, 0])
    for loss in (vss, sse, jvss):
        keyword = {"weight_segmentation": 0.0} if loss is jvss else {}
        assert loss(missed, y, alpha=0.95, **keyword) > loss(false_alarm, y, alpha=0.95, **keyword)
        assert loss(missed, y, alpha=0.05, **keyword) < loss(false_alarm, y, alpha=0.05, **keyword)


def test_what_vss_sees_and_does_not():
    y = torch.zeros(2, 4, 4, 4)
    y[0, 0, 0, 0] = y[0, 3, 3, 3] = 1  # two lesions in one segment
    both, one = y.clone(), y.clone()
    one[0, 3, 3, 3] = 0
    assert vss(both, y, alpha=0.5) == vss(one, y, alpha=0.5)  # a missed second lesion is free
    slab = one.clone()
    slab[0, :, 1] = 1
    assert vss(slab, y, alpha=0.5) == vss(one, y, alpha=0.5)  # so are false positives in a positive segment
    outside = torch.zeros_like(y)
    outside[0, 1, 1, 1] = 1
    assert vss(outside, y, alpha=1.0) == 1  # detection must overlap the lesion: max(p·y), not max p · max y
    p = torch.full((2, 4, 4, 4), 0.2, requires_grad=True)
    with torch.no_grad():
        p[0, 0, 0, 0] = 0.6
        p[1, 2, 2, 2] = 0.4
    vss(p, y, alpha=0.5).backward()
    assert int((p.grad != 0).sum()) == 2  # one voxel per segment
    assert p.grad[0, 0, 0, 0].item() == pytest.approx(-0.5) and p.grad[1, 2, 2, 2].item() == pytest.approx(0.5)


def test_floor_of_a_perfect_batch():
    y = torch.zeros(4, 3, 3, 3)
    y[:2, 1, 1, 1] = 1
    assert vss(y, y, alpha=0.995).item() == pytest.approx(0, abs=1e-6)
    assert vss(y, y, alpha=0.995, form="released").item() == pytest.approx(0.995 / 3, abs=1e-6)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_batches_of_one_kind(form):
    empty, full = torch.zeros(3, 2, 2, 2), torch.ones(3, 2, 2, 2)
    assert vss(empty, empty, alpha=0.9, form=form).item() == pytest.approx(0.9, abs=1e-6)  # no positive: sens = 0
    expected = 0.1 if form == "paper" else 0.9 / 4  # no negative: spec = 0 against 1
    assert vss(full, full, alpha=0.9, form=form).item() == pytest.approx(expected, abs=1e-6)


LOSSES = {
    "bce": bce,
    "dice": dice,
    "iou": iou,
    "sse": lambda p, y, **k: sse(p, y, alpha=0.7, **k),
    "vss": lambda p, y, **k: vss(p, y, alpha=0.7, **k),
    "jvss": lambda p, y, **k: jvss(p, y, alpha=0.7, **k),
    "jvss-dice": lambda p, y, **k: jvss(p, y, alpha=0.7, segmentation="dice", **k),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_finite_everywhere(name, form):
    shape = (3, 4, 4, 4)
    targets = [torch.zeros(shape), torch.ones(shape), torch.eye(4).expand(shape)]
    probs = [torch.zeros(shape), torch.ones(shape), torch.full(shape, 0.5), torch.eye(4).expand(shape)]
    for y in targets:
        for start in [*probs, 1 - targets[2]]:
            p = start.clone().requires_grad_()
            value = LOSSES[name](p, y, form=form)
            value.backward()
            assert torch.isfinite(value) and bool(torch.isfinite(p.grad).all())
        logits = (start.logit(eps=1e-6) * 1e3).clone().requires_grad_()  # saturated softmax, as in training
        LOSSES[name](torch.stack((-logits, logits), 1).softmax(1)[:, 1], y, form=form).backward()
        assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_gradcheck_and_symmetry(name, form):
    g = torch.Generator().manual_seed(3)
    y = (torch.rand(3, 3, 3, 2, generator=g) > 0.7).double()
    y[2] = 0
    p = torch.rand(3, 3, 3, 2, dtype=torch.float64, generator=g).clamp(0.02, 0.98).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: LOSSES[name](q, y, form=form), p)
    value = LOSSES[name](p, y, form=form)
    for order in ((2, 0, 1),):
        assert LOSSES[name](p[list(order)], y[list(order)], form=form).item() == pytest.approx(value.item())
    assert LOSSES[name](p.flip(1, 3), y.flip(1, 3), form=form).item() == pytest.approx(value.item())
    half = LOSSES[name](p.detach().bfloat16(), y.bfloat16(), form=form)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(value.item(), abs=0.02)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("z", [15.0, 16.7, 17.0, 20.0, 25.0, 40.0, 120.0])
def test_a_certain_error_does_not_explode_through_a_softmax(form, z):
    """Where p rounds to 1, torch's slope of 1e12 times a background of e^-z, which is not rounded away, was up to 60,000."""
    logits = torch.tensor([0.0, z]).view(1, 2, 1, 1, 1).requires_grad_()
    target = torch.zeros(1, 1, 1, 1)
    bce(logits.softmax(1)[:, 1], target, form=form).backward()
    assert logits.grad.abs().max() < 1.5
    exact = torch.tensor(z).view(1, 1, 1, 1).requires_grad_()
    cost = losses.bce_of_logits(exact, target)
    cost.backward()
    assert float(cost.detach()) == pytest.approx(z, rel=1e-5) and float(exact.grad) == pytest.approx(1, abs=1e-6)


def test_bce_of_logits_is_bce():
    torch.manual_seed(0)
    z, y = 4 * torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 4, 5) < 0.2).float()
    assert float(losses.bce_of_logits(z, y)) == pytest.approx(float(bce(z.sigmoid(), y)), rel=1e-5)
    assert losses.bce_of_logits(z.bfloat16(), y).dtype == torch.float32
    with pytest.raises(InputError, match="subtract the background's logit"):
        losses.bce_of_logits(z[:, None], y)


def test_a_batch_is_more_than_its_segments():
    """VSS is not additive: the denominators belong to the batch."""
    whole = vss(P, Y, alpha=0.8)
    parts = (vss(P[:1], Y[:1], alpha=0.8) + vss(P[1:], Y[1:], alpha=0.8)) / 2
    assert abs(whole - parts) > 0.1


@contextlib.contextmanager
def autocast_on_cuda():
    """As ``torch.autocast("cuda")``, which turns itself off where there is no card."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_losses_run_inside_another_trainers_autocast_on_a_gpu():
    """Where AMP trainers compute them; torch forbids its own BCE there. Fake tensors: no card is needed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), autocast_on_cuda():
        prob = torch.empty(2, 5, 5, 5, device="cuda")
        for name in (bce, jvss, sse, vss):
            alpha = {} if name is bce else {"alpha": 0.5}
            assert name(prob, torch.empty(2, 5, 5, 5, device="cuda"), **alpha).dtype == torch.float32
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            torch.nn.functional.binary_cross_entropy(prob, prob)


def test_targets_that_are_no_labels_are_refused():
    prob, label = torch.full((1, 3, 3, 3), 0.5), torch.zeros(1, 3, 3, 3)
    label[0, 1, 1, 1] = 2
    for name in (bce, dice, iou):
        with pytest.raises(InputError, match="target from 0 to 1; got 0 to 2; pass"):
            name(prob, label)
    with pytest.raises(InputError, match="target from 0 to 1"):
        vss(prob, label, alpha=0.5)
    with pytest.raises(InputError, match="probabilities as floating-point numbers; got torch.bool"):
        sse(prob > 0, label > 0, alpha=0.5)
    assert vss(prob, label / 2, alpha=0.5) == vss(prob, label > 0, alpha=0.5)  # a boolean target is fine
    onehot = torch.stack((label == 0, label > 0), 1)
    with pytest.raises(InputError, match="one channel or none; got 2 channels; pass the label itself, not one-hot"):
        VSSLoss()(torch.zeros(1, 2, 3, 3, 3), onehot)


def test_sums_over_a_batch_of_half_precision_do_not_overflow():
    prob = torch.full((10, 2, 19, 19, 19), 0.5, dtype=torch.float16)
    onehot = torch.ones_like(prob)
    for name in (losses.dice_classes, losses.iou_classes, losses.cross_entropy_classes):
        assert name(prob, onehot).item() == pytest.approx(name(prob.float(), onehot.float()).item(), rel=1e-6)


def test_errors_say_what_to_do():
    with pytest.raises(InputError, match=r"\(B, X, Y, Z\); got \(2, 1, 1, 1, 4\)"):
        vss(P[:, None], Y[:, None], alpha=0.5)
    with pytest.raises(InputError, match="got 1.5"):
        vss(P, Y, alpha=1.5)
    with pytest.raises(InputError, match="'pytorch'"):
        bce(P, Y, form="pytorch")
    with pytest.raises(InputError, match="'focal'"):
        jvss(P, Y, alpha=0.5, segmentation="focal")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_vss_loss_module_equals_the_function(channels):
    logits = torch.randn(4, channels, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(4, 1, 5, 5, 5)
    target[:2, :, 2, 2, 2] = 1
    prob = logits.sigmoid()[:, 0] if channels == 1 else logits.softmax(1)[:, 1:].sum(1)
    expected = vss(prob, target[:, 0], alpha=0.9)
    assert VSSLoss(0.9)(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)
    assert VSSLoss(0.9)(logits, target[:, 0]).item() == pytest.approx(expected.item(), abs=1e-6)


def test_vss_loss_trains_another_network():
    """Three steps in someone else's trainer: a same-padded U-shaped network on logits (B, 2, X, Y, Z)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1),
        torch.nn.InstanceNorm3d(8),
        torch.nn.LeakyReLU(),
        torch.nn.Conv3d(8, 2, 3, padding=1),
    )
    image = torch.randn(4, 1, 12, 12, 12)
    target = torch.zeros(4, 1, 12, 12, 12)
    target[:2, :, 4:7, 4:7, 4:7] = 1
    image = image + 2 * target
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    history = []
    for _ in range(3):
        logits = net(image)
        loss = torch.nn.functional.cross_entropy(logits, target[:, 0].long()) + VSSLoss(0.9)(logits, target)
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[0] > history[1] > history[2]


def test_docstring_examples():
    result = doctest.testmod(losses)
    assert result.attempted >= 6 and result.failed == 0
