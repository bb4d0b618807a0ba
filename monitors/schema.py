"""Do cases still come in the form that they used to: the same columns filled, the same kind of files?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitors.chart import first_of_each
from monitors.evidence import EDetector
from monitors.protocols import Batch, Reference, Signal
from monitors.state import check_version, joined, part


class SchemaStream:
    """How common the form of each new case is among all cases so far, itself included: a column that is filled no more,
    another type of file.

    A form's score is the sum over `Batch.form` of the log share of cases with the same value, its log likelihood were
    the columns independent; its rank among the scores of all cases gives the p-value, ties broken at random, and
    those of a tick's patients are joined by Fisher's method (1932). Theorem, under exchangeability of patients: ranks
    among all cases so far are independent and uniform (Vovk, Gammerman and Shafer 2005). The past cases are the
    stream's own: a reference is often an export that came in another form than the feed ever does.

    Memory grows with the number of different forms, and not with the cases. `statistic` is the tick's p-value on the
    scale -log10; `threshold` belongs to `log_e`; evidence names the `column` of which the values are rarest.
    """

    name = "schema"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Begins with no past cases; nothing of the reference is read."""
        self.columns: list[str] = []
        self._know([])
        self.counts = np.array([], dtype=float)
        self.tick = 0
        self.unusual = 0.0
        self.rarest = ""
        self.detector = EDetector()

    def update(self, batch: Batch) -> Signal:
        self.tick += 1
        if len(batch) and batch.form:
            self._take(batch)
        evidence: dict[str, float | int | str] = {"guarantee": "theorem, under exchangeability of patients"}
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
            "counts": self.counts,
            "numbers": np.array([self.tick, self.unusual]),
            "rarest": np.array(self.rarest),
        }
        return joined(own, detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.columns = [str(column) for column in state["columns"]]
        self._know([tuple(str(value) for value in form) for form in state["forms"]])
        self.counts = np.array(state["counts"])
        self.tick, self.unusual = int(state["numbers"][0]), float(state["numbers"][1])
        self.rarest = str(state["rarest"])
        self.detector.restore(part(state, "detector"))

    def _take(self, batch: Batch) -> None:
        from scipy.special import gammaincc

        self.columns = self.columns or sorted(batch.form)
        first, rng = first_of_each(batch.unit), np.random.default_rng(self.tick)
        forms = [tuple(str(batch.form[column][i]) for column in self.columns) for i in first]
        ranked = [self._rank(form, rng.random()) for form in forms]
        p = np.array([one for one, _ in ranked])
        joint = max(float(gammaincc(len(p), -np.log(p).sum())), 1e-300)  # of chi-squared, 2n degrees of freedom
        self.unusual, self.rarest = -float(np.log10(joint)), ranked[int(p.argmin())][1]
        self.detector.update(joint, int(batch.index[0]))

    def _rank(self, form: tuple[str, ...], chance: float) -> tuple[float, str]:
        """(the p-value of one more case of this form, its column with the rarest value); `chance`, 0 <= chance < 1,
        breaks ties."""
        if form not in self.forms:
            self._know([*self.forms, form])
            self.counts = np.append(self.counts, 0.0)
        place = self.forms.index(form)
        self.counts[place] += 1
        shares = np.einsum("fgc,g->fc", self.same, self.counts) / self.counts.sum()
        scores = np.log(shares).sum(axis=1)
        ties = np.abs(scores - scores[place]) < 1e-9
        rarer = (scores < scores[place]) & ~ties
        p = (self.counts[rarer].sum() + (1 - chance) * self.counts[ties].sum()) / self.counts.sum()
        return float(p), self.columns[int(shares[place].argmin())]

    def _know(self, forms: list[tuple[str, ...]]) -> None:
        """Sets the different forms; `same` [forms, forms, columns] says which have a value in common."""
        values = np.array(forms, np.str_).reshape(len(forms), len(forms[0]) if forms else 0)
        self.forms, self.same = forms, (values[:, None] == values[None]).astype(float)
