"""Do cases still come in the form that they used to: the same columns filled, the same kind of files?"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from monitors.chart import REMEMBERED, first_of_each
from monitors.evidence import EDetector
from monitors.protocols import Batch, Reference, Signal
from monitors.state import check_version, joined, part
from monitors.volume import DAY, is_weekend


class SchemaStream:
    """How common the form of each new case is among all cases so far, itself included: a column that is filled no more,
    another type of file.

    A form's score is the sum over `Batch.form` of the log share of cases with the same value, its log likelihood were
    the columns independent; its rank among the scores of all past cases of its kind (stratum, and weekend or not)
    gives the p-value, ties broken by the patient's pseudonym, which is as good as chance and the same after a restart;
    those of a tick's patients are joined by Fisher's method (1932). Theorem, under exchangeability of patients of one
    kind: ranks among all so far are independent and uniform (Vovk, Gammerman and Shafer 2005). The past cases are the
    stream's own: a reference is often an export that came in another form than the feed ever does. A patient counts
    once, and not again within the next REMEMBERED.

    Memory grows with the number of different forms and kinds, and not with the cases. `statistic` is the tick's p-value
    on the scale -log10; `threshold` belongs to `log_e`; evidence names the `column` of which the values are rarest.
    """

    name = "schema"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Begins with no past cases; nothing of the reference is read."""
        self.columns: list[str] = []
        self._know([])
        self.kinds: list[str] = []
        self.counts = np.zeros((0, 0))
        self.recent: list[str] = []
        self.unusual = 0.0
        self.rarest = ""
        self.detector = EDetector()

    def update(self, batch: Batch) -> Signal:
        if len(batch) and batch.form:
            self._take(batch)
        evidence: dict[str, float | int | str] = {
            "guarantee": "theorem, under exchangeability of patients of one stratum and kind of day"
        }
        evidence["cases"] = int(self.counts.sum())
        if self.detector.since is not None:
            evidence["column"] = self.rarest
        return Signal(
            monitor=self.name,
            log_e=self.detector.log_e,
            statistic=self.unusual,
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=self.detector.since,
            evidence=evidence,
        )

    def state(self) -> dict[str, NDArray]:
        own = {
            "columns": np.array(self.columns, np.str_),
            "forms": np.array(self.forms, np.str_),
            "kinds": np.array(self.kinds, np.str_),
            "counts": self.counts,
            "recent": np.array(self.recent, np.str_),
            "unusual": np.array(self.unusual),
            "rarest": np.array(self.rarest),
        }
        return joined(own, detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.columns = [str(column) for column in state["columns"]]
        self._know([tuple(str(value) for value in form) for form in state["forms"]])
        self.kinds = [str(kind) for kind in state["kinds"]]
        self.counts, self.unusual = np.array(state["counts"]), float(state["unusual"])
        self.recent = [str(unit) for unit in state["recent"]]
        self.rarest = str(state["rarest"])
        self.detector.restore(part(state, "detector"))

    def _take(self, batch: Batch) -> None:
        from scipy.special import gammaincc

        self.columns = self.columns or sorted(batch.form)
        first = first_of_each(batch.unit, self.recent)
        if not len(first):
            return
        self.recent = [*self.recent, *batch.unit[first].tolist()][-REMEMBERED:]
        weekend = not np.isnan(batch.tick_time) and bool(is_weekend(np.array([batch.tick_time // DAY]))[0])
        forms = [tuple(str(batch.form[column][i]) for column in self.columns) for i in first]
        kinds = [f"{batch.stratum[i]} {weekend}" for i in first]
        chance = [crc32(unit.encode()) / 2**32 for unit in batch.unit[first].tolist()]
        ranked = [self._rank(*one) for one in zip(forms, kinds, chance, strict=True)]
        p = np.array([one for one, _ in ranked])
        joint = max(float(gammaincc(len(p), -np.log(p).sum())), 1e-300)  # of chi-squared, 2n degrees of freedom
        self.unusual, self.rarest = -float(np.log10(joint)), ranked[int(p.argmin())][1]
        self.detector.update(joint, int(batch.index[0]))

    def _rank(self, form: tuple[str, ...], kind: str, chance: float) -> tuple[float, str]:
        """(the p-value of one more case of this form and kind, its column with the rarest value); `chance`,
        0 <= chance < 1, breaks ties."""
        if form not in self.forms:
            self._know([*self.forms, form])
            self.counts = np.pad(self.counts, ((0, 0), (0, 1)))
        if kind not in self.kinds:
            self.kinds.append(kind)
            self.counts = np.pad(self.counts, ((0, 1), (0, 0)))
        place, counts = self.forms.index(form), self.counts[self.kinds.index(kind)]
        counts[place] += 1
        shares = np.einsum("fgc,g->fc", self.same, counts) / counts.sum()
        scores = np.log(np.maximum(shares, 1e-300)).sum(axis=1)
        ties = np.abs(scores - scores[place]) < 1e-9
        rarer = (scores < scores[place]) & ~ties
        p = (counts[rarer].sum() + (1 - chance) * counts[ties].sum()) / counts.sum()
        return float(p), self.columns[int(shares[place].argmin())]

    def _know(self, forms: list[tuple[str, ...]]) -> None:
        """Sets the different forms; `same` [forms, forms, columns] says which have a value in common."""
        values = np.array(forms, np.str_).reshape(len(forms), len(forms[0]) if forms else 0)
        self.forms, self.same = forms, (values[:, None] == values[None]).astype(float)
