"""The project of notebook 02: a loss of one's own beside the shipped ones, from its rows to what is handed in."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmplus import claims, evidence, figures
from dmplus.results import Results
from dmplus.runtime import InputError, replacing


def hand_in(folder: str | Path, beside: str | Path, *, profile: str = "quick") -> str:
    """What is handed in as the project of notebook 02, from collected rows in ``folder/experiments/<profile>``; its words.

    Writes the tables of :func:`dmplus.claims.make`, ``over_alpha.<profile>.png`` (Figure 2 of the notebook with the own loss) and
    ``project.<profile>.txt``: the areas, the own loss against JVSS, and both where each alpha finds as many metastases.
    """
    folder = Path(folder)
    rows = folder / "experiments" / profile
    claims.make(rows, folder, profile, beside)
    r = Results(rows, beside)
    curves = {"JVSS": "jvss"} | {stem: stem for stem in evidence.own_losses(r)}
    if len(curves) == 1:
        raise InputError(
            f"project {folder.name}: expected a loss with two alphas or more; got none; run `dmplus experiment own --loss FILE`"
        )
    equal = evidence.over_alpha_at_equal(r, curves)[["fewest", "most", "not reached by"]]
    words = "\n\n".join((
        evidence.areas_in_words(claims.table_of_areas(r).set_index("loss")).to_string(), evidence.against_jvss(r),
        f"false positives a volume at sensitivity {claims.EQUAL:g}, over alpha\n{equal.to_string()}",
    ))  # fmt: skip
    with replacing(folder / f"over_alpha.{profile}.png") as part:
        part.write_bytes(figures.png(evidence.over_alpha(r, curves, also={"BCE": r.seeds("bce")})))
    with replacing(folder / f"project.{profile}.txt") as part:
        part.write_text(words + "\n", encoding="utf-8")
    return words


def main() -> None:
    """``python -m dmplus.project FOLDER --beside ROWS``: :func:`hand_in`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds experiments/quick, as `dmplus experiment own --collect` wrote it")
    parser.add_argument("--beside", type=Path, required=True, metavar="ROWS", help="the shipped rows to compare with")
    arguments = parser.parse_args()
    print(hand_in(arguments.folder, arguments.beside))


if __name__ == "__main__":
    main()
