"""What ``dmplus predict`` has written, opened again to be reviewed: one scan, or one visit of a folder after another.

No network runs. Decisions are on the lesions of ``lesions.csv``, by its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dmplus.figures import count_words
from dmplus.predict import hashes
from dmplus.review import Review
from dmplus.runtime import InputError, make_folder, named
from dmplus.triage import CANDIDATE, CONFIRMED, Triage
from dmplus.volume import Case, read_case, read_cohort, read_result

if TYPE_CHECKING:
    import ipywidgets

#: Columns of words, in a table of no lesion, too.
WORDS = {name: object for name in ("tier", "stratum", "change", "seen_by")}


def reopen(
    folder: str | Path, scan: str | Path, *, prior: str | Path | None = None, mask: str | Path | None = None, **of: Any
) -> tuple[Case, Triage]:
    """The case and its lesions on the 1 mm grid, from a folder of :func:`dmplus.predict.predict` and the files it was made of.

    of: name, patient, visit and label of the case, as of :func:`dmplus.volume.read_case`. Numbers, volumes and everything else
    in the table are those of ``lesions.csv``; maps and outlines are brought to 1 mm from the scan's grid, which loses no lesion.
    Raises ``InputError`` for a folder without a result, for other files (by SHA-256), and for lesions that are not the table's.
    """
    folder, files = Path(folder), {"scan": scan, "prior": prior, "mask": mask}
    expected = f"folder {named(folder)}: expected"
    try:
        report = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        roles, made_of = list(report["weights"]), report["inputs_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{expected} what dmplus predict wrote; got no such run.json; pass a folder that it made"
        ) from None
    for what, file in files.items():
        if file is None and what in made_of:
            raise InputError(f"{expected} the {what} it was made with; got none; pass it, too")
        if file is not None and what not in made_of:
            raise InputError(f"{expected} no {what}, it was made without; got {Path(file).name}; leave it out")
    case, grid = read_case(scan, prior=prior, mask=mask, **of)
    for what, own in hashes(**files).items():
        if own != made_of[what]:
            raise InputError(
                f"{expected} the {what} it was made of; got one of other contents; pass that, or predict anew"
            )

    def brought(name: str, kind: str) -> np.ndarray:
        native = read_result(folder / name, like=grid)
        return grid.to_canonical(np.rint(native).astype(np.int32) if kind == "labels" else native, kind=kind)

    lesions = pd.read_csv(folder / "lesions.csv", dtype=WORDS)
    labels = brought("lesions.nii.gz", "labels")
    if set(np.unique(labels)) - {0} != set(lesions["lesion"]):
        raise InputError(
            f"{expected} the {len(lesions)} lesions of its table in its map; got other numbers; predict anew"
        )
    tiers = np.concatenate([[0], np.where(lesions["tier"] == "confirmed", CONFIRMED, CANDIDATE)]).astype(np.uint8)
    maps = [np.clip(brought(f"{role}_probability.nii.gz", "image"), 0, 1) for role in roles]
    found = Triage(
        union=labels > 0,
        tiers=tiers[labels],
        labels=labels,
        lesions=lesions,
        gone=pd.read_csv(folder / "gone.csv"),
        prob_sens=maps[0],
        prob_spec=maps[1] if len(maps) == 2 else None,
        earlier=None if prior is None else brought("earlier_lesions.nii.gz", "labels"),
        links=np.zeros((0, 2), int),
        affine=case.affine,
    )
    return case, found


class Rounds:
    """The visits of a cohort folder that ``dmplus predict`` went through, one review board after another.

    cohort: the folder with ``cases.csv``; out: what ``dmplus predict cohort -o out`` wrote; decisions: a folder for one CSV a
    visit, as :class:`dmplus.review.Review` keeps it, gone on with if they are there. tiers: which lesions are decided on.
    Labels are not read, as ``dmplus predict`` reads none. Raises ``InputError`` if no visit of the cohort is in ``out``.
    """

    def __init__(
        self, cohort: str | Path, out: str | Path, decisions: str | Path, *, tiers: Sequence[str] = ("candidate", "untiered")
    ) -> None:
        self.out, self.decisions, self.tiers = Path(out), Path(decisions), tuple(tiers)
        self.visits = {c.name: c for c in read_cohort(cohort) if (self.out / c.name / "run.json").is_file()}
        if not self.visits:
            raise InputError(
                f"rounds {named(out)}: expected a folder of dmplus predict with visits of {named(cohort)}; got none of them; run "
                f"dmplus predict {named(cohort)}/ -o {named(out)}/"
            )
        make_folder(self.decisions.absolute(), name=named(decisions))
        self.open(self.next_open() or next(iter(self.visits)))

    def open(self, name: str) -> Review:
        """The board of a visit by its name in ``cases.csv``; it is ``self.review`` then."""
        if name not in self.visits:
            raise InputError(f"rounds: expected one of {', '.join(self.visits)}; got {name!r}; choose one of those")
        files = self.visits[name]
        case, found = reopen(
            self.out / name, files.image, prior=files.prior, mask=files.mask, name=name,
            patient=files.patient, visit=files.visit,
        )  # fmt: skip
        self.review = Review(case, found, self.decisions / f"{name}.csv", tiers=self.tiers)
        return self.review

    def table(self) -> pd.DataFrame:
        """Every lesion of every visit: case, patient, visit, days, the columns of ``lesions.csv``, and ``decision``.

        decision: accept, reject or later; "" where none was made, and for the tiers that are not decided on.
        """
        tables = []
        for name, files in self.visits.items():
            lesions = pd.read_csv(self.out / name / "lesions.csv", dtype=WORDS)
            for place, column in enumerate(("case", "patient", "visit", "days")):
                lesions.insert(place, column, name if column == "case" else getattr(files, column))
            kept = self.decisions / f"{name}.csv"
            made = {}
            if kept.is_file():
                made = pd.read_csv(kept, keep_default_na=False)
                now = lesions.round({"volume_mm3": 1})[["lesion", "tier", "volume_mm3"]]
                same = made.merge(now, on=["lesion", "tier", "volume_mm3"])
                # of another triage: they are on other lesions, and opening the visit says so
                made = same.set_index("lesion")["decision"].to_dict() if len(same) == len(made) else {}
            tables.append(lesions.assign(decision=[made.get(lesion, "") for lesion in lesions["lesion"]]))
        return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)

    def left(self) -> pd.Series:
        """How many lesions of each visit are not decided on (put off counts), by the visit's name."""
        table = self.table()
        open_ = table[table["tier"].isin(self.tiers) & ~table["decision"].isin(["accept", "reject"])]
        return open_["case"].value_counts().reindex(list(self.visits), fill_value=0)

    def next_open(self, after: str | None = None) -> str | None:
        """The first visit after one (None: from the start) in which something is left to decide; None if there is none."""
        names, left = list(self.visits), self.left()
        first = 0 if after is None else names.index(after) + 1
        return next((name for name in names[first:] + names[:first] if left[name]), None)

    def describe(self) -> str:
        """How far the round is, in words."""
        left = self.left()
        lesions = count_words(int(left.sum()), "lesion", "lesions")
        return f"{lesions} left to decide, in {int((left > 0).sum())} of {count_words(len(left), 'visit', 'visits')}"

    def widget(self) -> ipywidgets.VBox:
        """A choice of the visit, a way to the next that is open, and its board."""
        import ipywidgets

        choice = ipywidgets.Dropdown(options=list(self.visits), value=self.review.case.name, description="Visit")
        further = ipywidgets.Button(description="Next open visit")
        words, place = ipywidgets.HTML(), ipywidgets.VBox()

        def refresh(_: Any = None) -> None:
            words.value = self.describe()
            further.disabled = self.next_open() is None

        def show() -> None:
            place.children = (self.review.widget(),)
            self.review.controls["words"].observe(refresh, "value")  # every decision changes them
            refresh()

        def on_choice(change: Any) -> None:
            try:
                self.open(change["new"])
            except InputError as why:  # in a widget's callback nobody would see it
                place.children, words.value = (), str(why)
            else:
                show()

        def on_further(_: Any) -> None:
            choice.value = self.next_open(after=choice.value) or choice.value

        choice.observe(on_choice, "value")
        further.on_click(on_further)
        show()
        self.controls = {"visit": choice, "further": further, "words": words, "place": place}
        return ipywidgets.VBox([ipywidgets.HBox([choice, further, words]), place])
