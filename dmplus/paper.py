"""Huang et al. 2022 as data: Tables 1 and 2, counts and rates of the text, and the counts behind them.

Paper numbers stand beside ours, never for ours. Everything comes from one table, ``assets/huang2022.csv``, a row per
printed number. ``printed`` is text, because "0.930" says more than 0.93: to how many digits the paper commits itself.
``counts`` says where numerator and denominator come from: "printed" in the paper, here or elsewhere, or "deduced" as the
only whole numbers that give what is printed (but 1.75 candidates a volume: 25 + 157 in 103 are 1.77). Sections are the
paper's; 278 metastases in 103 volumes of 32 patients.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from dmplus.runtime import InputError

ASSET = Path(__file__).with_name("assets") / "huang2022.csv"

LESIONS, VOLUMES, PATIENTS = 278, 103, 32  #: the paper's test set (II.E.1)
WITH_PRIOR = 71  #: test volumes that have an earlier scan
AREA_JVSS, AREA_SSE = 0.9471, 0.8985  #: printed areas under the precision-recall curves of Figure 6


@functools.cache
def _rows() -> pd.DataFrame:
    text = dict.fromkeys(("source", "network", "loss", "quantity", "printed", "unit", "counts", "section"), str)
    table = pd.read_csv(ASSET, dtype=text, keep_default_na=False, na_values={"alpha": [""]})
    for column in ("numerator", "denominator"):
        table[column] = pd.to_numeric(table[column])
    return table


def rows() -> pd.DataFrame:
    """Every printed number: source, network, loss, alpha, quantity, printed, unit, numerator, denominator, counts, section.

    alpha, numerator and denominator are NaN where there are none. unit: "1" for a ratio, "%", "per volume", or what is
    counted.
    """
    return _rows().copy()


def table(number: int) -> pd.DataFrame:
    """Table 1 (DeepMedic, DeepMedic+) or 2 (3D U-Net) as printed, with the found and missed lesions behind each row.

    Columns: network, loss, alpha (NaN for BCE), sensitivity, precision, fp, mdsc, found, missed.
    """
    if number not in (1, 2):
        raise InputError(f"paper: expected table 1 or 2; got {number!r}; choose one of those")
    long = _rows()[_rows()["source"] == f"table {number}"]
    made = []
    for (network, loss, alpha), part in long.groupby(["network", "loss", "alpha"], sort=False, dropna=False):
        value = part.set_index("quantity")["printed"].astype(float)
        found = int(part.set_index("quantity")["numerator"]["sensitivity"])
        numbers = {k: value[k] for k in ("sensitivity", "precision")} | {"fp": int(value["fp"]), "mdsc": value["mdsc"]}
        made.append({"network": network, "loss": loss, "alpha": alpha, **numbers, "found": found})
    wide = pd.DataFrame(made)
    wide["missed"] = LESIONS - wide["found"]
    return wide


def recount() -> pd.DataFrame:
    """Every printed ratio computed again from its counts: columns of :func:`rows`, ``recounted`` and ``agrees``.

    agrees: the recounted value rounds to the printed one, at the printed number of digits.
    """
    table = rows().dropna(subset=["numerator"]).reset_index(drop=True)
    table["recounted"] = table["numerator"] / table["denominator"] * np.where(table["unit"] == "%", 100, 1)
    digits = table["printed"].str.partition(".")[2].str.len()
    table["agrees"] = (table["recounted"] - table["printed"].astype(float)).abs() <= 0.5 * 10.0**-digits + 1e-9
    return table


def areas(recall: np.ndarray, precision: np.ndarray) -> dict[str, float]:
    """Areas under a precision-recall curve of which only a few points are printed, by what one assumes between and beyond.

    recall and precision: the points, in any order. "trapezoid": straight lines between the points alone; "flat ends":
    the outermost precisions continued to recall 0 and 1; "anchored ends": straight to precision 1 at recall 0 and to 0
    at recall 1; "upper bound": the largest area of a falling curve through the points.

    >>> {k: round(v, 3) for k, v in areas([0.5, 1.0], [1.0, 0.5]).items()}
    {'trapezoid': 0.375, 'flat ends': 0.875, 'anchored ends': 0.875, 'upper bound': 1.0}
    """
    order = np.argsort(recall)
    r, p = np.asarray(recall, float)[order], np.asarray(precision, float)[order]

    def line(first: float, last: float) -> float:
        return float(np.trapezoid([first, *p, last], [0, *r, 1]))

    return {
        "trapezoid": float(np.trapezoid(p, r)),
        "flat ends": line(p[0], p[-1]),
        "anchored ends": line(1, 0),
        "upper bound": float(r[0] + np.sum(np.diff([*r, 1]) * p)),
    }
