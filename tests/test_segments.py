"""Pictures of a batch of segments, and the VSS explorer: what they show is what the loss computes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dmplus import figures, losses, widgets
from dmplus.runtime import InputError


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Four segments of 6 x 5 x 3: the first two hold a lesion; the loudest voxels lie in the middle slice."""
    prob = np.full((4, 6, 5, 3), 0.1)
    target = np.zeros_like(prob)
    target[0, 1:3, 1:3, 1] = target[1, 4, 3, 1] = 1
    prob[0, 2, 2, 1], prob[1, 4, 3, 1], prob[2, 5, 4, 1], prob[3, 0, 0, 1] = 0.9, 0.3, 0.2, 0.7
    prob[0, 5, 0, 1] = 0.95  # beside the lesion: of no interest to VSS
    return prob, target


def said(figure: object) -> list[str]:
    return [a.get_xlabel() for a in figure.axes if a.get_xlabel()]


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_the_gradient_is_that_of_the_loss(alpha: float, form: str) -> None:
    prob, target = batch()
    value, gradient = figures.vss_gradient(prob, target, alpha=alpha, form=form)
    p, y = torch.tensor(prob).requires_grad_(), torch.tensor(target)
    loss = losses.vss(p, y, alpha=alpha, form=form)
    loss.backward()
    assert value == pytest.approx(loss.item(), abs=1e-6)
    np.testing.assert_allclose(gradient, p.grad.numpy(), atol=1e-6)


def test_the_board_rings_the_voxels_that_vss_moves_and_says_how_strongly() -> None:
    prob, target = batch()
    figure = figures.vss_board(prob, target, alpha=0.9)
    assert said(figure) == ["1 voxel\n−0.45", "1 voxel\n−0.45", "1 voxel\n+0.05", "1 voxel\n+0.05"]
    assert figure.get_suptitle() == "Alpha 0.9 pulls lesions with 0.45, pushes vessels with 0.05"
    panels = [a for a in figure.axes if a.get_images() and a.get_xlim() == (-0.5, 5.5)]
    assert len(panels) == 8 and [a.get_title(loc="center") for a in panels[:4]] == [f"segment {c}" for c in "ABCD"]
    rings = [tuple(np.ravel(line.get_xydata())) for a in panels[:4] for line in a.lines[:1]]
    assert rings == [(2, 2), (4, 3), (5, 4), (0, 0)]


def test_panels_have_the_same_frame_with_and_without_a_lesion() -> None:
    prob, target = batch()
    figure = figures.segments({"p": prob}, target, names=["a"] * 4)
    assert {a.get_ylim() for a in figure.axes if a.get_xlim() == (-0.5, 5.5)} == {(-0.5, 4.5)}
    assert not said(figure)  # only signed rows say numbers


def test_a_gradient_of_nothing_is_said_to_be_0() -> None:
    prob, target = batch()
    figure = figures.segments({"g": 0 * prob}, target, names=list("abcd"), signed=["g"])
    assert said(figure) == ["0 voxels\n0"] * 4


def test_a_batch_of_other_shapes_is_refused() -> None:
    prob, target = batch()
    with pytest.raises(InputError, match=r"one shape \(B, X, Y, Z\)"):
        figures.segments({"p": prob[:, :4]}, target, names=list("abcd"))
    with pytest.raises(InputError, match="3 names"):
        figures.segments({"p": prob}, target, names=list("abc"))


def test_the_explorer_answers_its_knobs() -> None:
    prob, target = batch()
    explorer = widgets.VSSExplorer(prob, target, names=["A\nbig", "B", "C", "D"])
    box = explorer.widget()
    controls = explorer.controls
    assert len(box.children) == 6
    first, before = controls["picture"].png, controls["words"].value
    assert Image.open(io.BytesIO(first)).format == "PNG" and "A big -0.2500" in before and "D +0.2500" in before
    controls["alpha"].value = 1.0
    assert explorer.alpha == 1.0 and controls["picture"].png != first
    assert controls["picture"].alt == controls["words"].value == explorer.describe()
    assert "A big -0.5000" in explorer.describe() and "D 0" in explorer.describe()
    controls["form"].value = "released"
    assert "(released form)" in controls["words"].value and "A big -0.3333" in controls["words"].value
    controls["segment"].value = 3
    for loudness in (controls["loudness"].min, controls["loudness"].max):
        controls["loudness"].value = loudness
        spot = prob[3] >= 0.35
        assert set(explorer.prob[3][spot]) == set(np.minimum(prob[3][spot] * loudness, 1))
        assert (explorer.prob[:3] == prob[:3]).all() and (explorer.prob[3][~spot] == prob[3][~spot]).all()
    assert widgets.vss_explorer(prob, target).children
