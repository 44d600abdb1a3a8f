"""What the card of the synthetic cohort says of trained networks is what the committed rows give."""

from pathlib import Path

import numpy as np
import pytest

from dmplus import evidence, results
from dmplus.claims import EQUAL

CARD = Path(__file__).parents[1] / "data_cards" / "synthetic.md"


@pytest.fixture(scope="module")
def rows():
    return evidence.shipped()


def at_equal(rows, name):
    """The highest threshold at which a network finds that share of the validation metastases, and its counts there."""
    counts = rows.group([name], split="validation")
    sensitivity = results.along(counts.sum((0, 1)))[0]
    level = int(np.nonzero(sensitivity >= EQUAL)[0].max())
    return level, counts.sum((0, 1))[level], results.of(results.fp_at(EQUAL), counts)


@pytest.fixture(scope="module")
def said():
    return " ".join(CARD.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", ["bce-s0", "bce-80k-s0", "bce-300k-s0"])
def test_found_false_and_precision_of_bce(rows, said, name):
    _, counts, _ = at_equal(rows, name)
    found, false = counts[results.FOUND], counts[results.FALSE]
    assert f"{found:.0f} of 90 found, {false:.0f} false" in said or f"{found:.0f} found, {false:.0f} false positives" in said
    assert f" {found / (found + false):.2f} (" in said


def test_intervals_and_what_the_longest_misses_and_marks(rows, said):
    for name, digits, words in (("bce-s0", 1, "of them where"), ("bce-300k-s0", 2, "a volume at 0.85")):
        fp = at_equal(rows, name)[2]
        assert f"{fp.value:.{digits}f} [{fp.low:.{digits}f}, {fp.high:.{digits}f}] {words}" in said
    level = at_equal(rows, "bce-300k-s0")[0]
    table = rows.rows["bce-300k-s0", "validation", "prior"]
    missed = table[(table["kind"] == "lesion") & (table["top"] < level)]
    small = (missed["volume_mm3"] < results.SMALL_MM3).sum()
    assert f"Of its {len(missed)} misses there {small} are below 0.1 cm³" in said
    false = table[(table["kind"] == "fp") & (table["bottom"] <= level) & (table["top"] >= level)]
    kinds = {results.KINDS[int(k)]: n for k, n in false["what"].value_counts().items()}
    assert f"spots ({kinds.pop('spot')}), blobs ({kinds.pop('blob')}) and choroid plexus ({kinds.pop('plexus')})" in said
    assert not kinds


def test_interval_of_the_longest_jvss_on_test(rows, said):
    counts = rows.group(["jvss-0.5-300k-s0"])
    fp = results.of(results.fp_at(EQUAL), counts)
    assert f"{fp.value:.2f} [{fp.low:.2f}, {fp.high:.2f}] false positives a volume at sensitivity 0.85" in said
    at_half = counts.sum((0, 1))[results.HALF]
    found = EQUAL * at_half[[results.FOUND, results.MISSED]].sum() / at_half[results.VOLUMES]
    assert f"a precision of {found / (found + fp.value):.2f} (found" in said
