"""What does the earlier scan know? A second look, at the candidates of a network that takes none, by a reader with a few numbers.

If a network with a prior path has no fewer false positives, either the earlier scan does not tell metastases from look-alikes,
or the network has not learnt what it tells. This separates the two. Every place that a network without prior marks is a
candidate; a few numbers are measured there in the current scan (:data:`NOW`) and in the earlier one (:data:`BEFORE`); two
logistic regressions, one on the first and one on all, learn from patients the network was not trained on which candidates are
metastases. What the second gains on test patients was in the earlier scan. It is a lower bound: another reader may see more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from dmplus import results
from dmplus.inference import predict_volume
from dmplus.metrics import label_lesions
from dmplus.runtime import InputError, Machine, Progress, ahead
from dmplus.volume import Case

if TYPE_CHECKING:
    from dmplus.experiment import Visit
    from dmplus.network import DeepMedic

LOW = 0.05  #: a blob at least as probable is a candidate
BLUR = 0.7  #: standard deviation of what both images are smoothed with, voxels
NEAR = 2  #: how far the earlier scan may be out of place, voxels
BOX = 3  #: how much is seen around a blob, voxels
#: Logit of the highest probability; log of the number of voxels; mean and highest value.
NOW = ("peak", "size", "bright", "brightest")
#: In the earlier scan: mean and highest value; mean of the highest within :data:`NEAR`. Growth: log of the bright voxels in the
#: box now over those then.
BEFORE = ("bright before", "brightest before", "brightest near before", "growth")
RIDGE = 10.0  #: of the regressions; with these numbers and their squares chosen on the training patients, five-fold


def candidates(net: DeepMedic, visits: Sequence[Visit], machine: Machine, *, what: str = "candidates") -> pd.DataFrame:
    """A row per candidate, and per metastasis that none touches: case, patient, kind ("candidate", "missed"), lesions (the
    ranks of the touched metastases, joined by spaces; empty: it is false), :data:`NOW`, :data:`BEFORE` (NaN of a missed one).

    net: takes no prior. visits: each with label and prior, else ``InputError``. Empty where there is neither.
    """
    if any(v.case.prior is None or v.case.label is None for v in visits):
        raise InputError(
            "second look: expected visits with a label and an earlier scan; got some without; leave them out"
        )
    shown, rows = Progress(len(visits), what), []
    for case in ahead(Case.normalised, [v.case for v in visits], threads=1):
        probability = predict_volume(net, case.image, mask=case.mask, machine=machine)
        rows += [{"case": case.name, "patient": case.patient, **row} for row in _of_case(case, probability)]
        shown.step()
    return pd.DataFrame(rows, columns=["case", "patient", "kind", "lesions", *NOW, *BEFORE])


def _of_case(case: Case, probability: np.ndarray) -> list[dict[str, object]]:
    reference, count = label_lesions(case.label > 0)  # type: ignore[operator]
    blobs, _ = label_lesions(probability >= LOW)
    now, before = (ndimage.gaussian_filter(image, BLUR) for image in (case.image, case.prior))
    near = ndimage.maximum_filter(before, 2 * NEAR + 1)
    rows: list[dict[str, object]] = []
    for number, tight in enumerate(ndimage.find_objects(blobs), 1):
        box = tuple(slice(max(s.start - BOX, 0), s.stop + BOX) for s in tight)
        own = blobs[box] == number
        here, then, around = now[box], before[box], near[box][own]
        lesions = np.unique(reference[box][own])
        peak = float(np.clip(probability[box][own].max(), None, 1 - 1e-7))
        level = 0.6 * here[own].max() + 0.4 * np.median(here)
        numbers = (
            np.log(peak / (1 - peak)), np.log(own.sum()), here[own].mean(), here[own].max(), then[own].mean(), then[own].max(),
            around.mean(), np.log1p((here > level).sum()) - np.log1p((then > level).sum()),
        )  # fmt: skip
        rows.append({"kind": "candidate", "lesions": " ".join(str(k) for k in lesions[lesions > 0]),
                     **dict(zip((*NOW, *BEFORE), map(float, numbers), strict=True))})  # fmt: skip
    touched = {k for row in rows for k in str(row["lesions"]).split()}
    return rows + [{"kind": "missed", "lesions": str(k)} for k in range(1, count + 1) if str(k) not in touched]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A logistic regression on some columns of :func:`candidates`, their squares and products."""

    columns: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    weights: np.ndarray  #: the last is the intercept

    def logits(self, table: pd.DataFrame) -> np.ndarray:
        """How surely each candidate is a metastasis (n,)."""
        return _terms((table[list(self.columns)].to_numpy(float) - self.mean) / self.sd) @ self.weights


def _terms(x: np.ndarray) -> np.ndarray:
    """(n, k) → (n, k + k (k + 1) / 2 + 1): numbers, cut at 4 standard deviations, squares and products, and 1."""
    x = np.clip(x, -4, 4)
    i, j = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, i] * x[:, j], np.ones((len(x), 1))], 1)


def fit(table: pd.DataFrame, columns: Sequence[str]) -> Reader:
    """The regression that tells true candidates from false ones by ``columns``, with a ridge of :data:`RIDGE` (Newton's steps).

    ``InputError`` without a candidate of either kind.
    """
    own = table[table["kind"] == "candidate"]
    true = (own["lesions"] != "").to_numpy(float)
    if not 0 < true.sum() < len(true):
        raise InputError(
            f"second look: expected true and false candidates to learn from; got {true.sum():.0f} of {len(true)} true; "
            "give more patients"
        )
    values = own[list(columns)].to_numpy(float)
    mean, sd = values.mean(0), np.maximum(values.std(0), 1e-9)
    x = _terms((values - mean) / sd)
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 0
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ weights)))
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(ridge), x.T @ (p - true) + ridge * weights)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return Reader(tuple(columns), mean, sd, weights)


def counts(table: pd.DataFrame, logits: np.ndarray, visits: pd.DataFrame) -> np.ndarray:
    """(1, patients, levels, 5) as of :meth:`dmplus.results.Results.counts`: the levels are the candidates' own logits, rising.

    table: as of :func:`candidates`; logits: of its candidates, in order; visits: case and patient of every visit looked at,
    also of those that have no row.
    """
    patients = np.unique(visits["patient"])
    own = table[table["kind"] == "candidate"].assign(logit=logits)
    levels = np.unique(logits)
    out = np.zeros((1, len(patients), len(levels), 5))
    out[0, :, :, results.VOLUMES] = visits["patient"].value_counts()[patients].to_numpy()[:, None]
    place = dict(zip(patients, range(len(patients)), strict=True))
    for row in own[own["lesions"] == ""].itertuples():
        out[0, place[row.patient], : np.searchsorted(levels, row.logit, "right"), results.FALSE] += 1
    every = table.assign(lesion=table["lesions"].str.split()).explode("lesion").dropna(subset="lesion")
    best = every.assign(logit=own["logit"].reindex(every.index)).groupby(["case", "patient", "lesion"])["logit"].max()
    for (_, patient, _), logit in best.items():  # type: ignore[misc]
        k = 0 if np.isnan(logit) else int(np.searchsorted(levels, logit, "right"))  # missed: found at no level
        out[0, place[patient], :k, results.FOUND] += 1
        out[0, place[patient], k:, results.MISSED] += 1
    return out


def look(table: pd.DataFrame, visits: pd.DataFrame) -> dict[str, np.ndarray]:
    """The :func:`counts` on test of two readers fitted to the training patients: "current scan alone" and "both scans".

    table: as of :func:`candidates` with a column split ("train", "test"); visits: case and patient of the test visits.
    """
    train, test = (table[table["split"] == s].reset_index(drop=True) for s in ("train", "test"))
    readers = {"current scan alone": fit(train, NOW), "both scans": fit(train, (*NOW, *BEFORE))}
    seen = test[test["kind"] == "candidate"]
    return {name: counts(test, reader.logits(seen), visits) for name, reader in readers.items()}
