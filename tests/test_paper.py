"""The paper as data: complete, recounted from its counts, and what does not add up is exactly what notebook 01 says."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import yaml

from dmplus import paper
from dmplus.runtime import InputError

ROWS = paper.rows()


def value(quantity: str, section: str = "II.E.1") -> float:
    (printed,) = ROWS.loc[(ROWS["quantity"] == quantity) & (ROWS["section"] == section), "printed"].unique()
    return float(printed)


def test_both_tables_are_whole() -> None:
    one, two = paper.table(1), paper.table(2)
    assert one.shape == (9, 9) and two.shape == (3, 9) and not one.drop(columns="alpha").isna().any(axis=None)
    assert one["alpha"].isna().sum() == 1 and list(one["alpha"].dropna()) == [
        1,
        0.995,
        0.99,
        0.95,
        0.9,
        0.5,
        0.995,
        0.5,
    ]
    best = one.set_index(["network", "alpha"]).loc[("DeepMedic+", 0.5)]
    assert (best["sensitivity"], best["precision"], best["fp"], best["found"], best["missed"]) == (
        0.842,
        0.996,
        1,
        234,
        44,
    )
    assert list(two["fp"]) == [100, 939, 38] and list(two["found"]) == [200, 230, 193]
    assert one["mdsc"].between(0.7, 0.9).all()
    with pytest.raises(InputError, match="table 1 or 2; got 3"):
        paper.table(3)


def test_printed_numbers_keep_their_digits_and_rows_cannot_be_spoilt() -> None:
    assert {"0.930", "0.720", "2.40"} <= set(ROWS["printed"])
    spoilt = paper.rows()
    spoilt["printed"] = "0"
    assert not (paper.rows()["printed"] == "0").any()


def test_exactly_these_numbers_do_not_follow_from_their_counts() -> None:
    table = paper.recount()
    wrong = table[~table["agrees"]]
    found = [(r.source, r.section, r.printed, int(r.numerator), int(r.denominator)) for r in wrong.itertuples()]
    assert found == [
        ("table 2", "III.A", "0.720", 200, 278),
        ("text", "III.A", "0.275", 271, 989),
        ("text", "III.A", "0.720", 200, 278),
        ("text", "IV", "1.75", 182, 103),
    ]
    assert wrong["recounted"].to_numpy() == pytest.approx([0.71942, 0.27401, 0.71942, 1.76699], abs=1e-5)
    assert len(table) == 68


def test_counts_fit_the_false_positives_and_the_missed() -> None:
    for number in (1, 2):
        for row in paper.table(number).itertuples():
            assert row.found + row.missed == paper.LESIONS
            assert row.precision == pytest.approx(row.found / (row.found + row.fp), abs=6e-4)
            assert row.sensitivity == pytest.approx(row.found / paper.LESIONS, abs=6e-4)


def test_deduced_counts_are_the_only_ones_possible() -> None:
    """One number of found lesions, and no other, gives both the printed sensitivity and the printed precision."""
    deduced = ROWS[(ROWS["counts"] == "deduced") & (ROWS["quantity"] == "sensitivity")]
    assert sorted(deduced["printed"]) == ["0.802", "0.906", "0.906", "0.914"]
    for row in deduced.itertuples():
        found = np.arange(paper.LESIONS + 1)
        fits = found[np.round(found / paper.LESIONS, 3) == float(row.printed)]
        assert list(fits) == [int(row.numerator)]


def test_the_text_repeats_the_tables() -> None:
    """The same model and quantity has the same digits everywhere, but for one precision."""
    named = ROWS[ROWS["quantity"].isin(["sensitivity", "precision"]) & (ROWS["unit"] == "1")]
    keys = ["network", "loss", "alpha", "quantity"]
    differing = [key for key, part in named.groupby(keys, dropna=False) if part["printed"].nunique() > 1]
    assert differing == [("DeepMedic", "JVSS", 1.0, "precision")]


def test_the_data_set_adds_up() -> None:
    assert value("training volumes") + value("validation volumes") + value("test volumes") == value("volumes")
    assert value("test volumes") == paper.VOLUMES and value("test lesions") == paper.LESIONS
    assert value("test patients") == paper.PATIENTS and value("test volumes with a prior") == paper.WITH_PRIOR
    assert paper.VOLUMES - paper.WITH_PRIOR == paper.PATIENTS  # each patient's first volume has no prior
    assert value("training patients") + value("test patients") < value("patients")


def test_the_card_of_the_private_cohort_has_the_same_numbers() -> None:
    text = (Path(__file__).parents[1] / "data_cards" / "uker_private.md").read_text(encoding="utf-8")
    card = yaml.safe_load(text.split("---\n")[1])
    parts = {"train": "training", "validation": "validation", "test": "test"}
    below = ROWS[(ROWS["section"] == "II.E.1") & (ROWS["unit"] == "%")].set_index("quantity")
    told = {}
    for what, row in (("volumes", "volumes"), ("patients", "patients"), ("volumes_with_prior", "volumes with a prior"),
                      ("lesions", "lesions"), ("lesions_below_0.1_cm3_percent_printed", "lesions below 0.1 cm3")):  # fmt: skip
        told |= {f"{parts[part]} {row}" if part in parts else row: n for part, n in card[what].items()}
    assert told == {name: value(name) for name in ROWS.loc[ROWS["section"] == "II.E.1", "quantity"]}
    for part, number in card["lesions_below_0.1_cm3"].items():
        row = below.loc[f"{parts[part]} lesions below 0.1 cm3"]
        assert (number, card["lesions"][part]) == (row["numerator"], row["denominator"])


def test_areas_of_the_printed_points_fall_short_of_the_printed_area() -> None:
    jvss = paper.table(1).query("network == 'DeepMedic' and loss == 'JVSS'")
    area = paper.areas(jvss["sensitivity"], jvss["precision"])
    assert area["trapezoid"] == pytest.approx(0.1338, abs=1e-4)
    assert area["flat ends"] == pytest.approx(0.9322, abs=1e-4)
    assert area["anchored ends"] == pytest.approx(0.9340, abs=1e-4)
    assert area["upper bound"] == pytest.approx(0.9544, abs=1e-4)
    assert max(area["flat ends"], area["anchored ends"]) < paper.AREA_JVSS < area["upper bound"]
    shuffled = jvss.sample(frac=1, random_state=0)
    assert paper.areas(shuffled["sensitivity"], shuffled["precision"]) == area
    assert ROWS.loc[ROWS["quantity"].str.startswith("area"), "printed"].astype(float).tolist() == [
        paper.AREA_JVSS, paper.AREA_SSE,
    ]  # fmt: skip


def test_docstring_examples() -> None:
    done = doctest.testmod(paper)
    assert done.attempted >= 1 and done.failed == 0
