"""What the models leave to the reader: load, capture, calibration and the gallery, each against counts by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ball_case
from test_claims import PATIENTS, collected, rows_of

from dmplus import exercises_patients, reader, scoring
from dmplus.matching import label_lesions
from dmplus.results import Results
from dmplus.runtime import InputError, rng
from dmplus.scoring import HALF, LEVELS

TIERS = [  # case, kind, tier, peak: cases c00 and c01 are of p0, c02 of p1
    ("c00", "lesion", "candidate", 0.9), ("c00", "fp", "candidate", 0.95), ("c00", "fp", "candidate", 0.6),
    ("c01", "lesion", "candidate", 0.7), ("c01", "lesion", "confirmed", 0.99), ("c02", "fp", "candidate", 0.8),
    ("c02", "lesion", "candidate", 0.75), ("c02", "lesion", "missed", 0.2), ("c02", "fp", "confirmed", 0.97),
]  # fmt: skip


@pytest.fixture(scope="module")
def r(tmp_path_factory):
    draw = rng(0, "reader")
    folder = collected(
        tmp_path_factory.mktemp("reader") / "rows", {"sens-s0": ("prior", rows_of(draw, found=22, false=6))}
    )
    lines = [("ensemble", c, k, 1, 50.0, t, p, 0, 0, 0) for c, k, t, p in TIERS]
    pd.DataFrame(lines, columns=["system", "case", *scoring.TIER_COLUMNS]).to_csv(folder / "tiers.csv.gz", index=False)
    return Results(folder)


def test_the_load_counts_candidates_and_volumes_without_any(r):
    table = reader.load(r, "ensemble").set_index("patient")
    assert table.loc["p0", ["volumes", "candidates", "per_volume", "true"]].tolist() == [2, 4, 2.0, 2]
    assert table.loc["p1", ["volumes", "candidates", "per_volume", "true"]].tolist() == [2, 2, 1.0, 1]
    assert len(table) == len(PATIENTS) and table["per_volume"].is_monotonic_decreasing
    candidates = [t for t in TIERS if t[2] == "candidate"]
    by_hand = exercises_patients.review_load([t[2] for t in TIERS], [t[0] for t in TIERS], 24)
    assert table["candidates"].sum() / 24 == by_hand == len(candidates) / 24
    assert len(reader.draw_load(table.reset_index(), "t").axes[0].patches) == 24
    with pytest.raises(InputError, match="expected a system of"):
        reader.load(r, "other")


def test_capture_follows_the_falling_peak_within_each_volume(r):
    """By hand: of c00 0.95 false, 0.9 true, 0.6 false; of c01 0.7 true; of c02 0.8 false, 0.75 true."""
    table = reader.capture(r, "ensemble")
    assert table["captured"].tolist() == pytest.approx([0, 1 / 3, 1, 1])
    assert (table["reviewed"] * 24).tolist() == pytest.approx([0, 3, 5, 6])
    assert (table["low"] <= table["captured"]).all() and table["high"].iloc[-1] == 1
    figure = reader.draw_capture({"ensemble": table}, "t")
    assert figure.axes[0].get_ylabel() == "share of the true\ncandidates seen"


def test_a_table_in_words_keeps_value_and_interval_together():
    table = pd.DataFrame({"a": [0.5], "a_low": [0.25], "a_high": [0.75]}, index=["x"])
    assert reader.with_intervals(table, {"a": "A"}).loc["x", "A"] == "0.50 [0.25, 0.75]"


def test_calibration_counts_what_stands_at_half(r):
    table = reader.calibration(r, "sens-s0", bins=4)
    rows = r.rows["sens-s0", "test", "prior"]
    stands = rows[(rows["top"] >= HALF) & ((rows["kind"] == "lesion") | (rows["bottom"] <= HALF))]
    assert table["n"].sum() == len(stands) and len(table) == 4
    assert (table["true"] * table["n"]).sum() == pytest.approx((stands["kind"] == "lesion").sum())
    assert table["peak"].is_monotonic_increasing
    assert (table["low"] <= table["true"]).all() and (table["true"] <= table["high"]).all()
    assert len(reader.draw_calibration({"sens": table}, "t").axes[0].containers) == 1


def test_every_error_of_a_level_is_listed(r):
    rows = r.rows["sens-s0", "test", "prior"]
    for level in (HALF, 25):
        table = reader.errors(r, "sens-s0", level)
        found, missed, false = scoring.counts(rows, level)
        assert (table["kind"] == "missed").sum() == missed and (table["kind"] == "false").sum() == false
        assert (table.loc[table["kind"] == "missed", "peak"] < LEVELS[level]).all()
        assert table.loc[table["kind"] == "missed", "volume_mm3"].is_monotonic_decreasing
    assert set(table.loc[table["kind"] == "false", "what"]) == {"vessel"}


def test_the_gallery_filters_pages_and_draws(r):
    table = reader.errors(r, "sens-s0", 25)
    gallery = reader.Gallery(table, case=lambda name: ball_case(int(name[1:])), per_page=6)
    gallery.widget()
    c = gallery.controls
    seen = [(c["words"].value, c["picture"].png)]
    c["page"].value = gallery.pages
    seen.append((c["words"].value, c["picture"].png))
    c["size"].value = "below 0.1 cm³"
    seen.append((c["words"].value, c["picture"].png))
    assert gallery.page == 0 and (gallery.chosen["volume_mm3"] < 100).all()
    c["size"].value = "any size"
    c["kind"].value = "false"
    seen.append((c["words"].value, c["picture"].png))
    assert len({w for w, _ in seen}) == len({p for _, p in seen}) == 4
    c["what"].value = "vessel"
    assert "vessel" in c["words"].value and len(gallery.chosen) == (table["kind"] == "false").sum()
    empty = reader.Gallery(table.iloc[:0], case=ball_case)
    assert empty.pages == 1 and len(empty.render()) > 500


def test_contours_say_the_dice_of_the_largest_lesions():
    case = next(c for c in map(ball_case, range(9)) if label_lesions(c.label > 0)[1] == 2)
    numbers, _ = label_lesions(case.label > 0)
    sizes = np.bincount(numbers.ravel())[1:]
    large, small = np.argsort(-sizes, kind="stable") + 1
    masks = {"all": numbers > 0, "large": numbers == large}
    table = reader.dice_of_largest(case, masks)
    assert table.index.tolist() == [large, small] and table["volume_mm3"].tolist() == sorted(sizes, reverse=True)
    assert table["all"].tolist() == [1, 1] and table.loc[large, "large"] == 1 and np.isnan(table.loc[small, "large"])
    assert reader.dice_of_largest(case, masks, most=1).index.tolist() == [large]
    titles = [a.get_title(loc="left") or a.get_title() for a in reader.contours(case, masks, table).axes]
    assert titles[0].endswith("all 1.00, large 1.00") and titles[1].endswith("all 1.00, large missed")
    empty = dataclasses.replace(case, label=np.zeros_like(case.label))
    nothing = reader.dice_of_largest(empty, masks)
    assert len(nothing) == 0 and reader.contours(empty, masks, nothing).axes
