"""Exercises of the course: each has a reference, cases to compare on, and the misconceptions it recognises.

A notebook calls :func:`check` with the reader's function. The reference runs on a hand case, on random ones and on the
edges; a wrong answer that equals a known misconception on every case gets that misconception's words. Afterwards the
notebook goes on with :func:`reference`, so that an exercise left open breaks nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dmplus import exercises_patients
from dmplus.metrics import label_lesions, match_lesions
from dmplus.runtime import InputError, rng

STRICT = "DMPLUS_STRICT"  #: environment variable: raise instead of print, for "open" as well

Answer = Callable[..., Any]


class ExerciseError(AssertionError):
    """The answer is open or wrong (raised only with ``DMPLUS_STRICT=1``)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise: what a right answer is, where it is compared, and what is often thought instead."""

    expects: str  #: what a right answer returns, in words
    reference: Answer
    cases: Callable[[], Sequence[tuple[Any, ...]]]  #: arguments, the hand case first
    misconceptions: tuple[tuple[Answer, str], ...]  #: a plausible wrong answer, and what to say to it


def reference(name: str) -> Answer:
    """The reference answer of an exercise such as "0.1"; ``InputError`` for an unknown name."""
    return _exercise(name).reference


def check(name: str, answer: Answer | None) -> bool:
    """Check ``answer``, the reader's function, against exercise ``name``; print and return whether it passed.

    Prints "open" for None or a function that returns None, "passed", or what is wrong, in words. With
    ``DMPLUS_STRICT=1`` raises :class:`ExerciseError` instead of printing "open" or what is wrong.
    """
    verdict, message = _judge(_exercise(name), answer)
    text = f"Exercise {name}: {message}"
    if verdict != "passed" and os.environ.get(STRICT) == "1":
        raise ExerciseError(text)
    print(text)
    return verdict == "passed"


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise InputError(f"exercise: expected one of {', '.join(EXERCISES)}; got {name!r}; correct the number")
    return EXERCISES[name]


def _judge(exercise: Exercise, answer: Answer | None) -> tuple[str, str]:
    if answer is None:
        return "open", "open. Write the function and run the cell again."
    if not callable(answer):
        return "wrong", f"expected a function; got {type(answer).__name__}."
    cases = exercise.cases()
    answers = []
    for arguments in cases:
        try:
            given = answer(*copy.deepcopy(arguments))  # an answer that sorts a list in place must not sort ours
        except Exception as error:  # whatever a reader's code may raise is told, not passed on
            return "wrong", f"your function raised {type(error).__name__}: {error}, for {_words(arguments)}."
        if given is None:
            return "open", f"open. Your function returned None; a right answer is {exercise.expects}."
        answers.append(given)
    wrong = [i for i, (a, g) in enumerate(zip(cases, answers, strict=True)) if not same(g, exercise.reference(*a))]
    if not wrong:
        return "passed", f"passed ({len(cases)} cases)."
    for misconception, message in exercise.misconceptions:
        if all(same(g, misconception(*a)) for a, g in zip(cases, answers, strict=True)):
            return "wrong", message
    first = wrong[0]
    expected = exercise.reference(*cases[first])
    return "wrong", (
        f"not yet. For {_words(cases[first])} your function returned {_short(answers[first])}; expected "
        f"{_short(expected)}. A right answer is {exercise.expects}."
    )


def same(given: Any, expected: Any) -> bool:
    """Whether two answers agree: numbers and arrays to 1e-6 (NaN equals NaN), texts exactly, tuples and lists by item."""
    if isinstance(expected, (tuple, list)):
        try:
            items = list(given)
        except TypeError:
            return False
        return len(items) == len(expected) and all(map(same, items, expected))
    if isinstance(expected, np.ndarray):
        return np.shape(given) == expected.shape and bool(np.allclose(given, expected, rtol=1e-6, atol=1e-9))
    if isinstance(expected, str) or isinstance(given, str):
        return isinstance(given, str) and given == expected
    try:
        return math.isclose(float(given), float(expected), rel_tol=1e-6, abs_tol=1e-9) or (
            math.isnan(float(given)) and math.isnan(float(expected))
        )
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _words(arguments: tuple[Any, ...]) -> str:
    """Arguments in a sentence: arrays by their shape and how many voxels are true."""
    texts = []
    for a in arguments:
        if isinstance(a, np.ndarray) and a.size <= 12:
            texts.append(repr(a.tolist()))
        elif isinstance(a, np.ndarray):
            mask = f"a mask of shape {a.shape} with {int(a.sum())} voxels"
            texts.append(mask if a.dtype == bool else f"an array of shape {a.shape} with the sum {a.sum():.3f}")
        else:
            texts.append(repr(a))
    return ", ".join(texts)


# ----------------------------------------------------------------------------------------- notebook 00
def tier(peak_sens: float, peak_spec: float) -> str:
    """Tier of a group from the highest probability that each model gives it (design: threshold 0.5, inclusive)."""
    if peak_spec >= 0.5:
        return "confirmed"
    return "candidate" if peak_sens >= 0.5 else "none"


def _tier_cases() -> list[tuple[float, float]]:
    edges = [
        (0.9, 0.8),
        (0.9, 0.1),
        (0.2, 0.1),
        (0.1, 0.9),
        (0.5, 0.0),
        (0.9, 0.5),
        (0.9, 0.2),
        (0.45, 0.45),
        (0.0, 1.0),
    ]
    return edges + [tuple(np.round(rng(0, "exercise", "0.1", i).random(2), 3).tolist()) for i in range(40)]


def _tier_strictly(peak_sens: float, peak_spec: float) -> str:
    return "confirmed" if peak_spec > 0.5 else "candidate" if peak_sens > 0.5 else "none"


def _tier_of_mean(peak_sens: float, peak_spec: float) -> str:
    mean = (peak_sens + peak_spec) / 2
    return "confirmed" if mean >= 0.5 else "candidate" if peak_sens >= 0.5 else "none"


def _tier_of_both(peak_sens: float, peak_spec: float) -> str:
    if peak_sens >= 0.5 and peak_spec >= 0.5:
        return "confirmed"
    return "candidate" if peak_sens >= 0.5 else "none"


def _tier_swapped(peak_sens: float, peak_spec: float) -> str:
    return tier(peak_spec, peak_sens)


def detections(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    """(found, missed, false positives) of two bool masks by the any-overlap rule, 26-connected."""
    counts = match_lesions(reference, predicted)
    return counts.tp_ref, counts.fn, counts.fp


def _boxes(shape: tuple[int, int, int], n: int, key: int, which: str) -> np.ndarray:
    mask = np.zeros(shape, bool)
    draw = rng(0, "exercise", "0.2", key, which)
    for _ in range(n):
        low = draw.integers(0, np.array(shape) - 2)
        high = low + draw.integers(1, 4, 3)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def _detection_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    hand = np.zeros((2, 12, 6, 6), bool)
    hand[0, 1:3, 1:3, 1:3] = hand[0, 5:7, 1:3, 1:3] = hand[0, 9:11, 1:3, 1:3] = True  # three metastases
    hand[1, 2:6, 2, 2] = hand[1, 9, 5, 5] = True  # one group over two of them, one beside the third
    none, one, full = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool), np.ones((6, 6, 6), bool)
    one[3, 3, 3] = True
    diagonal = np.zeros((6, 6, 6), bool)
    diagonal[1, 1, 1] = diagonal[2, 2, 2] = True  # one metastasis: its voxels touch by a corner
    halves = np.zeros((6, 6, 6), bool)
    halves[2, 2, 2] = halves[4, 2, 2] = True  # two groups in one metastasis
    edges = [
        (none, none),
        (one, none),
        (none, one),
        (one, one),
        (full, one),
        (one, full),
        (diagonal, none),
        (full, halves),
    ]
    shapes = ((9, 9, 9), (12, 8, 6), (16, 16, 4))
    random = [
        (_boxes(shape, 4, i, "reference"), _boxes(shape, 5, i, "predicted")) for i, shape in enumerate(shapes * 3)
    ]
    return [(hand[0], hand[1]), *edges, *random]


def _detections_by_subtraction(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    found, missed, _ = detections(reference, predicted)
    return found, missed, label_lesions(predicted)[1] - found


def _detections_in_voxels(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    hit, missed, false = reference & predicted, reference & ~predicted, predicted & ~reference
    return int(hit.sum()), int(missed.sum()), int(false.sum())


def _detections_faces_only(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    counts = match_lesions(reference, predicted, connectivity=6)
    return counts.tp_ref, counts.fn, counts.fp


def _detections_by_groups(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int]:
    counts = match_lesions(reference, predicted)
    return counts.tp_pred, counts.fn, counts.fp


def precisions(tp_ref: int, tp_pred: int, fp: int) -> tuple[float, float]:
    """(the paper's precision, ours): found metastases, or true groups, over themselves plus fp; NaN without any."""
    paper = tp_ref / (tp_ref + fp) if tp_ref + fp else math.nan
    ours = tp_pred / (tp_pred + fp) if tp_pred + fp else math.nan
    return paper, ours


def _precision_cases() -> list[tuple[int, int, int]]:
    edges = [(8, 6, 2), (5, 5, 5), (0, 0, 3), (3, 3, 0), (0, 0, 0), (2, 1, 1), (1, 2, 1)]
    return edges + [tuple(rng(0, "exercise", "0.3", i).integers(0, 30, 3).tolist()) for i in range(20)]


def _precisions_swapped(tp_ref: int, tp_pred: int, fp: int) -> tuple[float, float]:
    paper, ours = precisions(tp_ref, tp_pred, fp)
    return ours, paper


def _precisions_alike(tp_ref: int, tp_pred: int, fp: int) -> tuple[float, float]:
    paper, _ = precisions(tp_ref, tp_pred, fp)
    return paper, paper


def _precisions_zero(tp_ref: int, tp_pred: int, fp: int) -> tuple[float, float]:
    paper, ours = precisions(tp_ref, tp_pred, fp)
    return 0.0 if math.isnan(paper) else paper, 0.0 if math.isnan(ours) else ours


# ----------------------------------------------------------------------------------------- notebook 01
_SPACE = (1, 2, 3)
_SMALL = 1e-7  # the "small value to avoid division by zero"


def sensitivity(prob: np.ndarray, target: np.ndarray) -> float:
    """Equation 1: best voxel inside the lesions of each segment, over the number of segments with a lesion."""
    return float((prob * target).max(_SPACE).sum() / (target.max(_SPACE).sum() + _SMALL))


def specificity(prob: np.ndarray, target: np.ndarray) -> float:
    """Equation 2: 1 − highest probability of each segment without lesion, over the number of those segments."""
    negative = 1 - target.max(_SPACE)
    return float((negative * (1 - prob.max(_SPACE))).sum() / (negative.sum() + _SMALL))


def _segment_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """(prob, target), both (B, X, Y, Z): a hand case, batches of one kind, exact 0 and 1, random ones."""
    hand_p = np.array([[0.1, 0.9, 0.6], [0.7, 0.3, 0.2], [0.2, 0.4, 0.1]])[:, None, None]
    hand_y = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])[:, None, None]
    made = [(hand_p, hand_y), (hand_p, np.zeros_like(hand_y)), (hand_p, np.ones_like(hand_y)), (hand_y, hand_y)]
    for i in range(8):
        draw = rng(0, "exercise", "1", i)
        prob, target = draw.random((5, 4, 3, 4)), (draw.random((5, 4, 3, 4)) > 0.8).astype(float)
        target[draw.random(5) > 0.5] = 0
        made.append((prob, target))
    return made


def _sensitivity_without_overlap(prob: np.ndarray, target: np.ndarray) -> float:
    positive = target.max(_SPACE)
    return float((prob.max(_SPACE) * positive).sum() / (positive.sum() + _SMALL))


def _sensitivity_over_all(prob: np.ndarray, target: np.ndarray) -> float:
    return float((prob * target).max(_SPACE).mean())


def _sensitivity_in_voxels(prob: np.ndarray, target: np.ndarray) -> float:
    return float((prob * target).sum() / (target.sum() + _SMALL))


def _sensitivity_counted(prob: np.ndarray, target: np.ndarray) -> float:
    return sensitivity((prob >= 0.5).astype(float), target)


def _sensitivity_undefined(prob: np.ndarray, target: np.ndarray) -> float:
    return sensitivity(prob, target) if target.any() else math.nan


def _specificity_of_all(prob: np.ndarray, target: np.ndarray) -> float:
    return float((1 - prob.max(_SPACE)).mean())


def _specificity_over_all(prob: np.ndarray, target: np.ndarray) -> float:
    return float(((1 - target.max(_SPACE)) * (1 - prob.max(_SPACE))).mean())


def _specificity_any_background(prob: np.ndarray, target: np.ndarray) -> float:
    background = (1 - target).max(_SPACE)
    return float((background * (1 - prob.max(_SPACE))).sum() / (background.sum() + _SMALL))


def _specificity_in_voxels(prob: np.ndarray, target: np.ndarray) -> float:
    return float(((1 - prob) * (1 - target)).sum() / ((1 - target).sum() + _SMALL))


def _specificity_released(prob: np.ndarray, target: np.ndarray) -> float:
    negative = 1 - target.max(_SPACE)
    return float(1 - (negative * prob.max(_SPACE)).sum() / (negative.sum() + 1))


def pulls(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    """Derivative of eq. 3 by a positive segment's best lesion voxel, by a negative segment's worst voxel (ε → 0)."""
    return (-alpha / n_pos if n_pos else 0.0), ((1 - alpha) / n_neg if n_neg else 0.0)


def _count_cases() -> list[tuple[float, int, int]]:
    edges = [(0.995, 2, 2), (0.5, 2, 2), (0.9, 5, 5), (0.9, 3, 7), (1.0, 4, 6), (0.0, 4, 6), (0.7, 0, 10), (0.7, 10, 0)]
    for i in range(12):
        draw = rng(0, "exercise", "1.3", i)
        edges.append((round(float(draw.random()), 3), int(draw.integers(1, 9)), int(draw.integers(1, 9))))
    return edges


def _pulls_upward(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    first, second = pulls(alpha, n_pos, n_neg)
    return -first, -second


def _pulls_over_all(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    n = n_pos + n_neg
    return (-alpha / n if n_pos else 0.0), ((1 - alpha) / n if n_neg else 0.0)


def _pulls_exchanged(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    return pulls(1 - alpha, n_pos, n_neg)


def _pulls_released(alpha: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    return (-alpha / (n_pos + 1) if n_pos else 0.0), ((1 - alpha) / (n_neg + 1) if n_neg else 0.0)


def released_floor(alpha: float, n_pos: int, n_neg: int) -> float:
    """What the released VSS costs when every probability is right: 1 − [α·N₊/(N₊+1) + (1−α)·1]."""
    return alpha / (n_pos + 1)


def _floor_of_the_paper(alpha: float, n_pos: int, n_neg: int) -> float:
    return 0.0 if n_pos and n_neg else alpha if n_neg else 1 - alpha


def _floor_over_all(alpha: float, n_pos: int, n_neg: int) -> float:
    return alpha / (n_pos + n_neg + 1)


def _floor_of_both(alpha: float, n_pos: int, n_neg: int) -> float:
    return alpha / (n_pos + 1) + (1 - alpha) / (n_neg + 1)


EXERCISES: dict[str, Exercise] = {
    "0.1": Exercise(
        expects="the word 'confirmed', 'candidate' or 'none'",
        reference=tier,
        cases=_tier_cases,
        misconceptions=(
            (_tier_strictly, "almost. A probability of exactly 0.5 counts as inside: use >= instead of >."),
            (_tier_of_mean, "you averaged the two models. They are not averaged: the specific model alone confirms."),
            (
                _tier_of_both,
                "you ask both models to agree before you confirm. The specific model alone confirms; a group that "
                "only it sees is rare, but it counts.",
            ),
            (_tier_swapped, "you confirmed with the sensitive model. The first argument is the sensitive one."),
        ),
    ),
    "0.2": Exercise(
        expects="three whole numbers: metastases found, metastases missed, false positive groups",
        reference=detections,
        cases=_detection_cases,
        misconceptions=(
            (
                _detections_by_subtraction,
                "you took false positives as groups minus found metastases. One group can find two metastases, and two "
                "groups one: count the groups that overlap no metastasis.",
            ),
            (_detections_in_voxels, "you counted voxels. Label each mask first, then count what is connected."),
            (
                _detections_faces_only,
                "voxels that touch by an edge or a corner belong together: connectivity 26, not 6.",
            ),
            (
                _detections_by_groups,
                "you counted true groups where found metastases were asked for: label the reference.",
            ),
        ),
    ),
    "0.3": Exercise(
        expects="two numbers from 0 to 1 (NaN where nothing was marked): the paper's precision, then ours",
        reference=precisions,
        cases=_precision_cases,
        misconceptions=(
            (_precisions_swapped, "the two are swapped: the paper's, which counts found metastases, comes first."),
            (
                _precisions_alike,
                "both are the paper's. Ours counts true groups, not found metastases, over groups in all.",
            ),
            (
                _precisions_zero,
                "0/0 is not 0: with nothing marked the precision is undefined. Return float('nan') there.",
            ),
        ),
    ),
    "1.1": Exercise(
        expects="one number from 0 to 1, and 0 for a batch without any lesion",
        reference=sensitivity,
        cases=_segment_cases,
        misconceptions=(
            (
                _sensitivity_without_overlap,
                "you let any bright voxel of a positive segment count. Multiply first, then take the maximum: the "
                "detection has to lie inside a lesion.",
            ),
            (_sensitivity_over_all, "you divided by all segments. Divide by those that hold a lesion."),
            (_sensitivity_in_voxels, "you weighed every lesion voxel. The unit is the segment: one best voxel each."),
            (_sensitivity_counted, "you counted with a threshold. That has no slope; keep the probability itself."),
            (_sensitivity_undefined, "0/0 for a batch without lesions. Add a small ε below: the result is then 0."),
        ),
    ),
    "1.2": Exercise(
        expects="one number from 0 to 1, and 0 for a batch without any lesion-free segment",
        reference=specificity,
        cases=_segment_cases,
        misconceptions=(
            (
                _specificity_of_all,
                "you asked every segment for silence, those with a lesion too. Only lesion-free segments count.",
            ),
            (_specificity_over_all, "you divided by all segments. Divide by the lesion-free ones."),
            (
                _specificity_any_background,
                "you took a segment with any background voxel for negative, which is nearly every segment: true "
                "detections would be punished. Negative means that no voxel is lesion.",
            ),
            (_specificity_in_voxels, "you weighed every voxel. The unit is the segment: its highest probability."),
            (
                _specificity_released,
                "that is the released program's specificity, with + 1 below and outside 1 − …. Write equation 2.",
            ),
        ),
    ),
    "1.3": Exercise(
        expects="two numbers: the first negative or 0, the second positive or 0",
        reference=pulls,
        cases=_count_cases,
        misconceptions=(
            (_pulls_upward, "the signs are turned: the loss falls when the best lesion voxel rises."),
            (_pulls_over_all, "you divided by all segments. Each half has its own number of segments."),
            (_pulls_exchanged, "alpha and 1 − alpha are exchanged: large alpha pulls at the lesions."),
            (_pulls_released, "that is the released form, with + 1 below. Here ε is small enough to forget."),
        ),
    ),
    "1.4": Exercise(
        expects="one number from 0 to 1: the loss of a perfect batch in the released form",
        reference=released_floor,
        cases=_count_cases,
        misconceptions=(
            (
                _floor_of_the_paper,
                "that is the paper's form. With N₊ + 1 below, a perfect batch still costs something.",
            ),
            (_floor_over_all, "the denominator counts positive segments only: N₊ + 1."),
            (
                _floor_of_both,
                "the specificity of the released form is 1 − Σ max p / (N₋ + 1): exactly 1 when nothing is marked.",
            ),
        ),
    ),
}

EXERCISES |= {n: Exercise(**fields) for n, fields in exercises_patients.EXERCISES.items()}
