"""What the models leave to the reader: load, capture, calibration and the gallery, each against counts by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ball_case
from test_claims import PATIENTS, collected, rows_of

from dmplus import evidence, exercises, exercises_patients, reader, scoring
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
    points = [("ensemble", "candidate", "sens", "sens-s0", 25), ("ensemble", "confirmed", "spec", "spec-s0", 40)]
    table = pd.DataFrame(points, columns=["system", "tier", "source", "run", "level"])
    table.assign(threshold=LEVELS[table["level"]], validation_fp=[9.0, 0.5], budget=[12.0, 0.75]).to_csv(
        folder / "operating_points.csv", index=False
    )
    return Results(folder)


@pytest.fixture(scope="module")
def rivals(tmp_path_factory):
    """Two systems whose intervals overlap, though one has a false candidate more in every volume."""
    draw = rng(0, "rivals")
    folder = collected(
        tmp_path_factory.mktemp("rivals") / "rows", {"sens-s0": ("prior", rows_of(draw, found=22, false=6))}
    )
    lines = []
    for visit in range(24):
        for system, more in (("ensemble", 0), ("two thresholds on M_sens", 1), ("ensemble at 0.5", 50)):
            lines.append((system, f"c{visit:02d}", "lesion", 1, 50.0, "candidate", 0.9, 0, 0, 0))
            false = [(system, f"c{visit:02d}", "fp", 0, 50.0, "candidate", 0.8, 0, 0, 0)]
            lines += false * (1 + visit // 2 + more)
    pd.DataFrame(lines, columns=["system", "case", *scoring.TIER_COLUMNS]).to_csv(folder / "tiers.csv.gz", index=False)
    return Results(folder)


def test_systems_are_compared_pairwise_and_not_by_overlap(rivals):
    table = reader.systems(rivals)["candidates/volume"]
    own, other = table["ensemble"], table["two thresholds on M_sens"]
    assert own.value == 7.5 and other.value == 8.5 and own.high > other.low  # the intervals overlap
    gaps = reader.differences(rivals)
    assert list(gaps.index) == ["two thresholds on M_sens"]  # 0.5 keeps to no budget: no rival
    gap = gaps["candidates/volume"].iloc[0]
    assert gap.low == pytest.approx(-1) and gap.high == pytest.approx(-1)
    words = reader.differences_in_words(rivals, gaps).splitlines()
    below, same = "candidates/volume, false ones/volume", "found, confirmed, true ones/volume"
    against = "ensemble against two thresholds on M_sens"
    assert (
        words[0] == f"{against}: below in {below}; the same in {same}; not told apart in all else"
    )  # none is confirmed
    left = reader.differences_in_words(rivals, gaps[["confirmed that are true"]]).splitlines()
    assert left[0] == f"{against}: not told apart in any"


def test_the_systems_in_words_name_mask_and_threshold(r, rivals):
    words = reader.systems_in_words(r)
    assert words.loc["ensemble", "candidate from"] == f"M_sens ≥ {LEVELS[25]:.5g}"
    assert words.loc["ensemble", "confirmed, FP/volume on validation"] == "0.5"
    budgets = reader.budgets_in_words(r)
    assert "as sensitive as 12 (candidates) and 0.75 (confirmed)" in budgets  # of the rows, not of the code
    assert "M_sens makes 1.5" in budgets and "M_spec 0.01" in budgets  # 158 and 1 of Table 1, in 103 volumes
    with pytest.raises(InputError, match="expected operating points"):
        reader.systems_in_words(rivals)


def test_the_load_counts_candidates_and_volumes_without_any(r):
    table = reader.load(r, "ensemble").set_index("patient")
    assert table.loc["p0", ["volumes", "candidates", "per_volume", "true"]].tolist() == [2, 4, 2.0, 2]
    assert table.loc["p1", ["volumes", "candidates", "per_volume", "true"]].tolist() == [2, 2, 1.0, 1]
    assert len(table) == len(PATIENTS) and table["per_volume"].is_monotonic_decreasing
    candidates = [t for t in TIERS if t[2] == "candidate"]
    by_hand = exercises_patients.review_load([t[2] for t in TIERS], [t[0] for t in TIERS], 24)
    assert table["candidates"].sum() / 24 == by_hand == len(candidates) / 24
    assert reader.load_in_words(table) == "10 of 12 patients have no candidate, the busiest has 2 a volume"
    assert reader.load_in_words(table.iloc[:2]) == "Every patient has candidates, the busiest has 2 a volume"
    assert len(reader.draw_load(table.reset_index(), "t").axes[0].patches) == 24
    with pytest.raises(InputError, match="expected a system of"):
        reader.load(r, "other")


def test_capture_follows_the_falling_peak_within_each_volume(r):
    """By hand: of c00 0.95 false, 0.9 true, 0.6 false; of c01 0.7 true; of c02 0.8 false, 0.75 true."""
    table = reader.capture(r, "ensemble")
    assert table["captured"].tolist() == pytest.approx([0, 1 / 3, 1, 1])
    assert (table["reviewed"] * 24).tolist() == pytest.approx([0, 3, 5, 6])
    assert (table["seen"] * 24).tolist() == pytest.approx([0, 1, 3, 3])
    # in random order a look finds 1/3 in c00, 1 in c01, 1/2 in c02
    assert (table["random"] * 24).tolist() == pytest.approx([0, 1 / 3 + 1 + 1 / 2, 2 / 3 + 2, 3])
    assert (table["low"] <= table["seen"]).all() and (table["seen"] <= table["high"]).all()
    figure = reader.draw_capture({"ensemble": table}, "t")
    assert len(figure.axes[0].lines) == 2  # by peak and at random
    half = reader.looks(r, "ensemble")  # 1/3 after 3 looks, all after 5: half after 3.5
    assert half.value * 24 == pytest.approx(3.5) and half.low <= half.value <= half.high
    at_random = reader.looks(r, "ensemble", random=True)
    assert at_random.value * 24 == pytest.approx(3 * 1.5 / (1 / 3 + 1 + 1 / 2))


def test_calibration_counts_what_stands_at_half(r):
    table = reader.calibration(r, "sens-s0", bins=4)
    rows = r.rows["sens-s0", "test", "prior"]
    stands = rows[(rows["top"] >= HALF) & ((rows["kind"] == "lesion") | (rows["bottom"] <= HALF))]
    assert table["n"].sum() == len(stands) and len(table) == 4
    assert (table["true"] * table["n"]).sum() == pytest.approx((stands["kind"] == "lesion").sum())
    assert table["peak"].is_monotonic_increasing
    assert (table["low"] <= table["true"]).all() and (table["true"] <= table["high"]).all()
    assert len(reader.draw_calibration({"sens": table}, "t").axes[0].containers) == 1
    gap = reader.calibration_gap(r, "sens-s0", bins=4)
    assert gap.value == pytest.approx((table["n"] * (table["peak"] - table["true"]).abs()).sum() / table["n"].sum())
    assert reader.calibration_gap(r, "sens-s0", bins=4, signed=True).value <= gap.value and gap.low <= gap.high
    assert f"mean gap of {reader.calibration_gap(r, 'sens-s0').value:.2f}" in reader.calibration_in_words(
        r, {"a": "sens-s0"}
    )


def test_the_gap_of_a_model_is_set_beside_the_first_one(r):
    assert reader.calibration_gap(r, "sens-s0", minus="sens-s0").high == 0
    words = reader.nearest_in_words(r, {"a": "sens-s0", "b": "sens-s0"}).splitlines()
    assert words == [
        f"mean gap: a {evidence.in_words(reader.calibration_gap(r, 'sens-s0'))}",
        "b minus a: 0.00 [0.00, 0.00], not told apart",
    ]


def test_what_networks_are_sure_of_is_counted_seed_by_seed(r):
    marked = reader._marked(r, "sens-s0", "test", 1)
    low, middle, high = 0.5, float(marked["peak"].median()), 1.0
    first, second = reader.sure_in_words(r, {"a": ["sens-s0", "sens-s0"]}, edges=(low, middle, high)).splitlines()
    below, above = (marked.loc[m, "true"].mean() for m in (marked["peak"] < middle, marked["peak"] >= middle))
    assert first.endswith(f"seed by seed: a {below:.2f}, {below:.2f}") and second.endswith(f": a {above:.2f}, {above:.2f}")
    assert reader.sure_in_words(r, {"a": ["sens-s0"]}, edges=(1.0, 2.0)).endswith("a none")


def test_systems_that_share_a_mask_are_named(r):
    other = r.points.assign(system="other", threshold=r.points["threshold"] * [1, 0.9])
    points = pd.concat([r.points, other])
    both = dataclasses.make_dataclass("Rows", ["points"])(points)
    assert reader._shared(both, "ensemble", "other") == f" (both candidates from M_sens ≥ {LEVELS[25]:.5g})"


@pytest.mark.parametrize("side, last", [("left", True), ("right", False)])
def test_a_peak_on_an_edge_and_on_the_last_one_are_asked_for(side, last, capsys):
    """Exercise 4.3: bins open at the wrong end do not pass, and the message says so."""

    def answer(peak, true, edges):
        p, t = np.asarray(peak, float), np.asarray(true, float)
        which = np.searchsorted(edges, p, side=side) - 1
        which = np.clip(which, 0, len(edges) - 2) if last else which
        return float(np.mean([abs(p[which == k].mean() - t[which == k].mean()) for k in which])) if len(p) else np.nan

    assert not exercises.check("4.3", answer)
    assert ("belongs to the last bin" if last is False else "belongs to the bin above") in capsys.readouterr().out


def test_every_error_of_a_system_is_listed_with_what_lies_there(r):
    table = reader.errors(r, "ensemble")
    expected = {"missed": 1, "false candidate": 3, "false, confirmed": 1}
    assert table["kind"].value_counts().to_dict() == expected and table["kind"].iloc[0] == "missed"
    assert table.iloc[0][["case", "patient", "id"]].tolist() == ["c02", "p1", 1]
    false = table.iloc[1:]
    assert (
        false["peak"].is_monotonic_decreasing
        and (table["patient"] == table["case"].map({"c00": "p0", "c02": "p1"})).all()
    )
    rows = r.rows["sens-s0", "test", "prior"]
    there = set(rows.loc[(rows["kind"] == "fp") & (rows["bottom"] <= 25) & (rows["top"] >= 25), "case"])
    assert there & {"c00", "c02"}  # all false positives of the rows lie at 0, 0, 0 and are vessels
    assert false["what"].tolist() == ["vessel" if c in there else "" for c in false["case"]]
    far = r.tiers.loc[(r.tiers["kind"] == "fp")].assign(x=50.0)
    assert set(reader._lying_there(r, "ensemble", far)) == {""}


def test_the_gallery_filters_pages_and_draws():
    sizes = [400.0, 90.0, 20.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    lines = [("missed", f"c{k}", "p", k, v, "", 0.1, 5, 5, 5) for k, v in enumerate(sizes)]
    lines += [("false candidate", f"c{k}", "p", 0, 20.0, ("vessel", "")[k], 0.9, 5, 5, 5) for k in (0, 1)]
    table = pd.DataFrame(lines, columns=["kind", "case", "patient", "id", "volume_mm3", "what", "peak", "x", "y", "z"])
    gallery = reader.Gallery(table, case=lambda name: ball_case(int(name[1:])), per_page=6)
    gallery.widget()
    c = gallery.controls
    seen = [(c["words"].value, c["picture"].png)]
    c["page"].value = gallery.pages
    seen.append((c["words"].value, c["picture"].png))
    c["size"].value = "10 to 30 mm³"
    seen.append((c["words"].value, c["picture"].png))
    assert gallery.page == 0 and gallery.chosen["volume_mm3"].tolist() == [20.0]
    counts = []
    for size in c["size"].options:
        c["size"].value = size
        counts.append(len(gallery.chosen))
    assert counts == [8, 5, 1, 1, 1]  # every class holds something, and together they hold all
    c["size"].value = "any size"
    c["kind"].value = "false candidate"
    seen.append((c["words"].value, c["picture"].png))
    assert len({w for w, _ in seen}) == len({p for _, p in seen}) == 4
    c["what"].value = "vessel"
    assert "vessel" in c["words"].value and len(gallery.chosen) == 1
    c["kind"].value = "false, confirmed"
    assert c["words"].value.startswith("0 false groups confirmed")
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
    assert reader.dice_in_words(table, "all") == "all 1.00"
    assert reader.dice_in_words(table.assign(none=np.nan), "none") == "none none"
    titles = [a.get_title(loc="left") or a.get_title() for a in reader.contours(case, masks, table).axes]
    assert titles[0].endswith("all 1.00, large 1.00") and titles[1].endswith("all 1.00, large missed")
    fits = reader.fits_in_words(case, masks, table)
    assert f"the outlines of all hold 100%, the outlines of large hold {sizes[large - 1] / sizes.sum():.0%}" in fits
    assert fits.endswith("all in 2, large in 1 of 2.")
    empty = dataclasses.replace(case, label=np.zeros_like(case.label))
    nothing = reader.dice_of_largest(empty, masks)
    assert "No metastasis here" in reader.fits_in_words(empty, masks, nothing)
    assert len(nothing) == 0 and reader.contours(empty, masks, nothing).axes
