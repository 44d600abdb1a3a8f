"""A person and the triage: a review board whose decisions are kept, and a reading test against the models.

:class:`Review` goes through the candidates of one scan, one by one. :class:`Reading` lets a person mark metastases
without help and then with the triage in view. Both are scored by the metrics that score the models. What either keeps
lies in one CSV, written whole after every decision: close the notebook, open it again, go on; or start again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus import figures
from dmplus.matching import label_lesions, match_lesions
from dmplus.runtime import InputError, replacing
from dmplus.triage import CONFIRMED, Triage, probability_words
from dmplus.volume import Case
from dmplus.widgets import Viewer, picture_class

if TYPE_CHECKING:
    import ipywidgets

DECISIONS = ("accept", "reject", "later")
MARK_MM = 2.0  #: a mark stands for a ball of this radius


def _score(case: Case, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Masks (X, Y, Z) against the reference by the any-overlap rule: who, marks, found, missed, false, sensitivity, precision."""
    lines = []
    for who, mask in answers.items():
        n = match_lesions(case.label > 0, mask, spacing=case.spacing)  # type: ignore[operator]
        lines.append((who, n.tp_pred + n.fp, n.tp_ref, n.fn, n.fp, n.sensitivity, n.precision))
    columns = ["who", "marks", "found", "missed", "false", "sensitivity", "precision"]
    return pd.DataFrame(lines, columns=columns).round(2).set_index("who")


def _set_aside(path: Path) -> None:
    """Rename a file to ``<stem>.old<n>.csv``, the first n that is free; nothing happens if it is not there."""
    if path.is_file():
        free = (path.with_name(f"{path.stem}.old{n}.csv") for n in itertools.count(1))
        path.rename(next(p for p in free if not p.exists()))


# ------------------------------------------------------------------------------------------- the board
class Review:
    """The lesions of one scan that a person is to decide on, in the order of their peak probability.

    path: CSV with one row per lesion: case, lesion, tier, volume_mm3, x_mm, y_mm, z_mm, peak_probability, decision ("" if
    open), seconds. A file that is there is gone on with; one of another triage is refused (``InputError``), since its
    decisions are on other lesions. tiers: which lesions are shown; the other tier is taken as it stands.
    """

    def __init__(self, case: Case, triage: Triage, path: str | Path, *, tiers: Sequence[str] = ("candidate", "untiered")) -> None:
        triage.check_grid(case)
        self.case, self.triage, self.path, self.tiers = case, triage, Path(path), tuple(tiers)
        self._begin()
        if self.path.is_file():
            self._resume()
        self.position = self._next_open(-1)

    def _begin(self) -> None:
        """Every lesion open."""
        triage = self.triage
        shown = triage.lesions[triage.lesions["tier"].isin(self.tiers)]
        shown = shown.sort_values("peak_probability", ascending=False, kind="stable")
        facts = ["lesion", "tier", "volume_mm3", "x_mm", "y_mm", "z_mm", "peak_probability"]
        self.table = shown[facts].round({"volume_mm3": 1, "x_mm": 1, "y_mm": 1, "z_mm": 1, "peak_probability": 6})
        self.table = self.table.reset_index(drop=True).assign(decision="", seconds=0.0)
        self.table.insert(0, "case", self.case.name)
        self.position = self._next_open(-1)
        self._since = time.monotonic()

    def _resume(self) -> None:
        kept = pd.read_csv(self.path, keep_default_na=False, dtype={"case": str})
        keys = ["case", "lesion", "tier", "volume_mm3"]
        if list(kept.columns) != list(self.table.columns) or not kept[keys].equals(
            self.table[keys].astype(kept[keys].dtypes)
        ):
            raise InputError(
                f"review {self.path.name}: expected decisions on the {len(self.table)} lesions of {self.case.name} as they "
                "are triaged now; got those of another triage; move that file away or give another path"
            )
        self.table = kept.astype({"seconds": float})

    def restart(self) -> None:
        """Begin anew; the decisions so far are kept beside it as ``.old1.csv``, ``.old2.csv``, ..."""
        _set_aside(self.path)
        self._begin()

    def _next_open(self, position: int) -> int:
        """The next lesion without a decision after ``position``, then those put off; the number of lesions if none."""
        for wanted in ("", "later"):
            still = np.flatnonzero(self.table["decision"] == wanted)
            after = still[still > position]
            if len(still):
                return int(after[0] if len(after) else still[0])
        return len(self.table)

    @property
    def done(self) -> bool:
        """Whether every lesion is accepted or rejected."""
        return bool(self.table["decision"].isin(["accept", "reject"]).all())

    def decide(self, decision: str) -> None:
        """Decide on the lesion in view, save, and go to the next one that is open."""
        if decision not in DECISIONS:
            raise InputError(f"review: expected {', '.join(DECISIONS)}; got {decision!r}; choose one of those")
        if self.position >= len(self.table):
            raise InputError("review: expected a lesion in view; every one is decided; go back to change one")
        now = time.monotonic()
        self.table.loc[self.position, "decision"] = decision
        self.table.loc[self.position, "seconds"] = round(
            float(self.table.loc[self.position, "seconds"]) + now - self._since, 1
        )
        self._since = now
        with replacing(self.path) as part:
            self.table.to_csv(part, index=False, lineterminator="\n")
        self.position = self._next_open(self.position)

    def go(self, step: int) -> None:
        """Look at the next (+1) or the previous (−1) lesion without deciding."""
        self.position = int(np.clip(self.position + step, 0, max(len(self.table) - 1, 0)))

    def mask(self) -> np.ndarray:
        """(X, Y, Z) bool: every lesion that stands after review: not rejected, and accepted if it was to be reviewed.

        A lesion that is still open or put off does not stand.
        """
        decided = self.table.set_index("lesion")["decision"]
        stands = [n for n in self.triage.lesions["lesion"] if n not in decided.index or decided[n] == "accept"]
        return np.isin(self.triage.labels, stands) & (self.triage.labels > 0)

    def score(self) -> pd.DataFrame:
        """The triage before review, its confirmed lesions alone, and what stands after review, scored like a model."""
        tiers = self.triage.tiers
        return _score(
            self.case,
            {
                "triage, before review": self.triage.union,
                "confirmed alone": tiers == CONFIRMED,
                "after review": self.mask(),
            },
        )

    def answers(self, lookalikes: np.ndarray | None = None) -> pd.DataFrame:
        """What the reference says of each lesion accepted or rejected: lesion, peak, decision, in truth, right.

        lookalikes: uint8 (X, Y, Z), what lies there in a synthetic scan (``Visit.lookalikes``), to name what is no metastasis.
        """
        lines = []
        for row in self.table[self.table["decision"].isin(DECISIONS[:2])].itertuples():
            own = self.triage.labels == row.lesion
            true = bool((self.case.label[own] > 0).any())  # type: ignore[index]
            right = "yes" if (row.decision == "accept") == true else "no"
            truth = "metastasis" if true else lies_there(lookalikes, own)
            lines.append((row.lesion, probability_words(row.peak_probability), row.decision, truth, right))
        return pd.DataFrame(lines, columns=["lesion", "peak", "decision", "in truth", "right"]).set_index("lesion")

    def describe(self) -> str:
        """The lesion in view and how far the review is, in words."""
        counts = self.table["decision"].value_counts()
        far = ", ".join(
            f"{counts.get(d, 0)} {w}" for d, w in zip(DECISIONS, ("accepted", "rejected", "put off"), strict=True)
        )
        left = len(self.table) - counts.get("accept", 0) - counts.get("reject", 0)
        if self.position >= len(self.table):
            return f"{self.case.name}: nothing left to decide ({far})"
        row = self.table.loc[self.position]
        facts = self.triage.lesions.set_index("lesion").loc[row["lesion"]]
        change = figures.change_words(facts["change"], facts["volume_ratio"], facts["prior_volume_mm3"])
        peak = probability_words(row["peak_probability"])
        return (
            f"{self.case.name}, lesion {row['lesion']} ({row['tier']}): {figures.volume_words(row['volume_mm3'])}, "
            f"{figures.place_words(facts['x_mm'], facts['y_mm'], facts['z_mm'])}, peak {peak}, {change}; "
            f"{left} to decide ({far})"
        )

    def render(self) -> bytes:
        """The lesion in view as PNG: three planes, the earlier scan below."""
        if self.position < len(self.table):
            lesion = int(self.table.loc[self.position, "lesion"])
            return figures.png(figures.lesion_board(self.case, self.triage, lesion))
        panels = ("current", "overlay")
        index = figures.best_slice(self.triage.union)
        return figures.png(figures.slices(self.case, self.triage, panels=panels, index=index, title="All decided"))

    def widget(self) -> ipywidgets.VBox:
        """Buttons, picture and words. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        picture = picture_class()(png=self.render(), alt=self.describe())
        words = ipywidgets.HTML(self.describe())
        buttons = {d: ipywidgets.Button(description=d.capitalize()) for d in DECISIONS}
        moves = {-1: ipywidgets.Button(description="Previous"), 1: ipywidgets.Button(description="Next")}
        again = ipywidgets.Button(description="Start again")

        def refresh() -> None:
            for button in buttons.values():
                button.disabled = self.position >= len(self.table)
            picture.alt = words.value = self.describe()
            picture.png = self.render()

        def deciding(decision: str) -> Any:
            def act(_: Any) -> None:
                self.decide(decision)
                refresh()

            return act

        def moving(step: int) -> Any:
            def act(_: Any) -> None:
                self.go(step)
                refresh()

            return act

        def on_again(_: Any) -> None:
            self.restart()
            refresh()

        again.on_click(on_again)
        for decision, button in buttons.items():
            button.on_click(deciding(decision))
        for step, button in moves.items():
            button.on_click(moving(step))
        refresh()
        self.controls = {**buttons, "previous": moves[-1], "next": moves[1], "again": again, "picture": picture,
                         "words": words}  # fmt: skip
        return ipywidgets.VBox([ipywidgets.HBox([*buttons.values(), *moves.values(), again]), words, picture])


# ------------------------------------------------------------------------------------------- you against the model
class Reading:
    """A person marks metastases in two passes: the scan alone, then with the triage outlined; both are scored.

    path: CSV with the columns case, pass, kind ("begin", "mark"), x, y, z (voxels), seconds since the pass began; gone on
    with if it is there, refused if it is another case's. The case needs its label (``InputError``), which is never shown
    before :meth:`score`. who: the reader's name in the score.
    """

    PASSES = ("alone", "with triage")

    def __init__(self, case: Case, triage: Triage, path: str | Path, *, who: str = "you") -> None:
        if case.label is None:
            raise InputError(f"reading: expected a case with its reference; {case.name} has no label; take another")
        self.case, self.triage, self.path, self.who = case, triage, Path(path), who
        self.view = Viewer(case, triage)
        self.earlier = False  #: whether the earlier scan is in view, where there is one
        self.view.index = case.shape[2] // 2
        self.rows = [(1, "begin", -1, -1, -1, 0.0)]
        if self.path.is_file():
            self._resume()
        self._since = time.monotonic() - self.rows[-1][5]
        self._show()

    def _resume(self) -> None:
        kept = pd.read_csv(self.path, dtype={"case": str})
        inside = all(
            kept.loc[kept["kind"] == "mark", c].between(0, n - 1).all() for c, n in zip("xyz", self.case.shape, strict=True)
        ) if list(kept.columns) == ["case", *_READING] else False  # fmt: skip
        own = inside and (kept["case"] == self.case.name).all()
        if not own or not kept["pass"].isin([1, 2]).all() or not len(kept):
            raise InputError(
                f"reading {self.path.name}: expected the marks of an earlier reading of {self.case.name}; got another file; "
                "move it away or give another path"
            )
        self.rows = [tuple(row) for row in kept[list(_READING)].itertuples(index=False)]

    def restart(self) -> None:
        """Begin anew with the first pass; the marks so far are kept beside it as ``.old1.csv``, ``.old2.csv``, ..."""
        _set_aside(self.path)
        self.rows = [(1, "begin", -1, -1, -1, 0.0)]
        self._since = time.monotonic()
        self._show()

    @property
    def current(self) -> int:
        """The pass that is read now, 1 or 2."""
        return int(self.rows[-1][0])

    def marks(self, number: int | None = None) -> list[tuple[int, int, int]]:
        """Voxels marked in a pass, the current one by default."""
        number = number or self.current
        return [(int(x), int(y), int(z)) for n, kind, x, y, z, _ in self.rows if n == number and kind == "mark"]

    def click(self, right: float, down: float) -> str:
        """Mark what is at a place of the picture, or take a mark there away (within 3 voxels); says which."""
        voxel = self.view.voxel(right, down)
        near = [m for m in self.marks() if max(abs(a - b) for a, b in zip(m, voxel, strict=True)) <= 3]
        if near:
            self.rows = [r for r in self.rows if not (r[0] == self.current and r[1] == "mark" and r[2:5] in near)]
        else:
            self.mark(voxel)
        self._save()
        return f"{'taken away' if near else 'marked'} at voxel {voxel}: {self.describe()}"

    def mark(self, voxel: tuple[int, int, int]) -> None:
        """Mark a voxel in the current pass."""
        self.rows.append((self.current, "mark", *(int(v) for v in voxel), round(time.monotonic() - self._since, 1)))
        self._save()

    def next_pass(self) -> None:
        """Go on to the second pass: the triage is outlined, and the marks of the first are there to be changed."""
        if self.current == 2:
            raise InputError("reading: expected the first pass; the second is under way; call score")
        first = self.marks()
        self._since = time.monotonic()
        self.rows.append((2, "begin", -1, -1, -1, 0.0))
        self.rows += [(2, "mark", *m, 0.0) for m in first]
        self._save()

    def _save(self) -> None:
        with replacing(self.path) as part:
            table = pd.DataFrame(self.rows, columns=list(_READING))
            table.insert(0, "case", self.case.name)
            table.to_csv(part, index=False, lineterminator="\n")
        self._show()

    def _show(self) -> None:
        self.view.marks = self.marks()
        own = "current" if self.current == 1 else "overlay"
        self.view.panel = "prior" if self.earlier and self.case.prior is not None else own

    def look(self, *, earlier: bool) -> None:
        """Show the earlier scan in place of the current one, without any outline, or the current one again."""
        self.earlier = earlier
        self._show()

    def mask(self, number: int) -> np.ndarray:
        """(X, Y, Z) bool: balls of ``MARK_MM`` around the marks of a pass."""
        points = np.ones(self.case.shape, bool)
        for voxel in self.marks(number):
            points[voxel] = False
        if points.all():
            return ~points
        return ndimage.distance_transform_edt(points, sampling=self.case.spacing) <= MARK_MM

    def score(self) -> pd.DataFrame:
        """Who found what: a row per pass that was read, and for the models' confirmed lesions, and all they mark.

        Index: who; columns: marks, found, missed, false, sensitivity, precision (of the marks), by the any-overlap rule.
        """
        passes = {f"{self.who}, {name}": self.mask(n) for n, name in enumerate(self.PASSES, 1) if n <= self.current}
        models = {"models, confirmed": self.triage.tiers == CONFIRMED, "models, all": self.triage.union}
        return _score(self.case, passes | models)

    def change(self) -> str:
        """What the second pass changed, in words; that it was not read, if so."""
        if self.current < 2:
            return "The second pass, with the triage, was not read."
        before, after = (_score(self.case, {"": self.mask(n)}).iloc[0] for n in (1, 2))
        first, second = (set(self.marks(n)) for n in (1, 2))
        changed = f"{figures.count_words(len(second - first), 'mark', 'marks')} added, {len(first - second)} taken away"
        counts = "; ".join(f"{what} {before[what]:.0f} → {after[what]:.0f}" for what in ("found", "false"))
        return f"With the triage in view: {changed}; {counts}" + (
            ", so no score changed." if before.equals(after) else "."
        )

    def false_marks(self, lookalikes: np.ndarray | None) -> str:
        """What lies under the marks of the first pass that touch no metastasis, in words, with how many of each."""
        balls, n = label_lesions(self.mask(1))
        false = [balls == k for k in range(1, n + 1) if not self.case.label[balls == k].any()]  # type: ignore[index]
        counts = pd.Series([lies_there(lookalikes, own) for own in false], dtype=object).value_counts()
        under = ", ".join(f"{what} ({k})" for what, k in counts.items())
        return f"Under the false marks of the first pass lies: {under or 'nothing, there are none'}."

    def describe(self) -> str:
        """The pass, the number of marks and the slice in view, in words."""
        marks = figures.count_words(len(self.marks()), "mark", "marks")
        scan = "earlier scan, " if self.view.panel == "prior" else ""
        return (
            f"{self.case.name}, pass {self.current} ({self.PASSES[self.current - 1]}): {marks}; {scan}slice "
            f"{self.view.index + 1} of {self.view.slices}"
        )

    def widget(self) -> ipywidgets.VBox:
        """Slice, picture, buttons and words. Their callbacks call the methods above and nothing else."""
        import ipywidgets

        slider = ipywidgets.IntSlider(
            self.view.index, 0, self.view.slices - 1, description="Slice", layout={"width": "520px"}
        )
        scan = ipywidgets.ToggleButtons(options={"Current scan": False, "Earlier scan": True}, value=self.earlier)
        scan.disabled = self.case.prior is None
        picture = picture_class()(png=self.view.render(), alt=self.describe())
        words = ipywidgets.HTML("Click on what you take for a metastasis; click again to take the mark away.")
        further = ipywidgets.Button(description="Show the triage", disabled=self.current == 2)
        ask = ipywidgets.Button(description="Score me")
        again = ipywidgets.Button(description="Start again")
        answer = ipywidgets.HTML()

        def refresh() -> None:
            picture.alt = self.describe()
            picture.png = self.view.render()

        def on_slice(change: Any) -> None:
            self.view.index = change["new"]
            refresh()

        def on_scan(change: Any) -> None:
            self.look(earlier=change["new"])
            words.value = self.describe()
            refresh()

        def on_click(change: Any) -> None:
            if change["new"]:
                words.value = self.click(*change["new"])
                refresh()

        def on_further(_: Any) -> None:
            self.next_pass()
            further.disabled = True
            words.value = self.describe()
            refresh()

        def on_score(_: Any) -> None:
            answer.value = self.score().to_html()

        def on_again(_: Any) -> None:
            self.restart()
            further.disabled, answer.value, words.value = False, "", self.describe()
            refresh()

        slider.observe(on_slice, "value")
        scan.observe(on_scan, "value")
        picture.observe(on_click, "click")
        further.on_click(on_further)
        ask.on_click(on_score)
        again.on_click(on_again)
        self.controls = {
            "slice": slider, "scan": scan, "picture": picture, "words": words, "further": further, "score": ask, "again": again,
            "answer": answer,
        }  # fmt: skip
        return ipywidgets.VBox([slider, scan, picture, words, ipywidgets.HBox([further, ask, again]), answer])


_READING = ("pass", "kind", "x", "y", "z", "seconds")


#: What lies at a voxel of a synthetic scan, by the number in a visit's ``lookalikes``.
LIES_THERE = ("tissue", "vessel", "sinus or dura", "choroid plexus", "elongated spot", "round spot")


def lies_there(lookalikes: np.ndarray | None, where: np.ndarray) -> str:
    """The commonest look-alike in a mask (X, Y, Z) in words: "tissue" if none lies there, "no metastasis" without a map."""
    if lookalikes is None:
        return "no metastasis"
    counts = np.bincount(lookalikes[where], minlength=2)
    counts[0] = 0
    return LIES_THERE[int(counts.argmax())]


def bright_reader(case: Case, n: int, *, sigma_mm: float = 1.5, depth_mm: float = 4.0) -> list[tuple[int, int, int]]:
    """Marks of a made-up reader who knows nothing but "metastases are bright": the ``n`` brightest blobs.

    The voxels of the largest peaks of the smoothed scan, at least ``depth_mm`` inside the brain (the vessels of its surface
    are too easy to tell) and 6 mm apart; fewer if there are no more.
    """
    sigma = [sigma_mm / s for s in case.spacing]
    smooth = ndimage.gaussian_filter(case.image.astype(np.float32), sigma)
    inside = ndimage.distance_transform_edt(case.mask, sampling=case.spacing) >= depth_mm
    size = [int(np.ceil(6 / s)) | 1 for s in case.spacing]
    peaks = (smooth == ndimage.maximum_filter(smooth, size)) & inside
    where = np.argwhere(peaks)
    order = np.argsort(-smooth[tuple(where.T)], kind="stable")[:n]
    return [(int(x), int(y), int(z)) for x, y, z in where[order]]


def perfect_review(review: Review) -> None:
    """Decide as somebody would who knows the reference: accept what touches it. For a static picture of the board."""
    label = review.case.label
    if label is None:
        raise InputError(f"review: expected a case with its reference; {review.case.name} has no label; take another")
    while not review.done:
        lesion = int(review.table.loc[review.position, "lesion"])
        review.decide("accept" if (label[review.triage.labels == lesion] > 0).any() else "reject")


def centres(triage: Triage, *, tier: str) -> list[tuple[int, int, int]]:
    """A voxel inside each lesion of a tier, nearest to its middle: where a reader who believes the models would click."""
    numbers = triage.lesions.loc[triage.lesions["tier"] == tier, "lesion"]
    return [tuple(int(v) for v in figures.voxel_in_lesion(triage, int(n))) for n in numbers]  # type: ignore[misc]


def turnable(case: Case, triage: Triage) -> Any:
    """The scan and its tiers as a brain to be turned in JupyterLab (ipyniivue). Its static twin is ``figures.surface``.

    Candidates are blue and confirmed lesions orange, as everywhere.
    """
    import ipyniivue
    import nibabel
    from matplotlib.colors import to_rgb

    def volume(array: np.ndarray, name: str, **look: Any) -> Any:
        image = nibabel.Nifti1Image(array, case.affine)
        return ipyniivue.Volume(data=image.to_bytes(), name=f"{name}.nii", **look)

    colours = [(0, 0, 0), *(to_rgb(figures.TIER_LINES[t][0]) for t in ("candidate", "confirmed"))]
    tiers = volume(triage.tiers.astype(np.uint8), "tiers")
    tiers.set_colormap_label(
        {c: [round(255 * rgb[k]) for rgb in colours] for k, c in enumerate("RGB")}
        | {"A": [0, 255, 255], "I": [0, 1, 2], "labels": ["", "candidate", "confirmed"]}
    )
    view = ipyniivue.NiiVue(height=420, back_color=(1, 1, 1, 1), is_colorbar=False)
    view.set_slice_type(ipyniivue.SliceType.RENDER)
    view.load_volumes([volume(case.image.astype(np.float32), "scan", opacity=0.3), tiers])
    return view
