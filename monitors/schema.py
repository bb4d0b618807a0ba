"""Do cases still come in the form that they used to: the same columns filled, the same files, as few refused?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from monitors.chart import REMEMBERED, first_of_each
from monitors.evidence import EDetector
from monitors.protocols import NOTHING, Batch, Float, Reference, Signal
from monitors.state import check_version, joined, part
from monitors.volume import DAY, is_weekend

INTAKE = "intake"
SEED = 1932


class SchemaStream:
    """How common the form of each new case is among all cases so far, itself included: a column that is filled no more,
    another type of file. Beside it, how common it is for one that comes to be refused for such a reason.

    A form's score is the sum over `Batch.form` of the log share of cases with the same value, its log likelihood were
    the columns independent; its rank among the scores of all past cases of its kind (stratum, and weekend or not)
    gives the p-value, ties broken by the patient's pseudonym, which is as good as chance and the same after a restart;
    those of a tick's patients are joined by Fisher's method (1932). Theorem, under exchangeability of patients of one
    kind: ranks among all so far are independent and uniform (Vovk, Gammerman and Shafer 2005). The past cases are the
    stream's own: a reference is often an export that came in another form than the feed ever does. A patient counts
    once, and not again within the next REMEMBERED. `Batch.arrivals` are read in the same way, as patients of one
    stratum with one column; each of the two has half of the budget, and log_e is that of the higher one.

    Memory grows with the number of different forms and kinds, and not with the cases. `statistic` is the tick's p-value
    on the scale -log10; `threshold` belongs to `log_e`; evidence names the `column` of which the values are rarest, or
    what more arrivals fared like at the `intake`.
    """

    name = "schema"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Begins with no past cases; nothing of the reference is read."""
        self.cases, self.arrivals = _Forms(), _Forms()
        self.recent: list[str] = []
        self.last = 0

    def update(self, batch: Batch) -> Signal:
        weekend = not np.isnan(batch.tick_time) and bool(is_weekend(np.array([batch.tick_time // DAY]))[0])
        first = int(batch.index[0]) if len(batch) else self.last + 1
        if len(batch) and batch.form:
            self._take_cases(batch, weekend, first)
        if came := sum(batch.arrivals.values()):
            forms = [(what,) for what, n in sorted(batch.arrivals.items()) for _ in range(n)]
            luck = np.random.default_rng((SEED, self.arrivals.seen))
            order, chance = luck.permutation(came), luck.random(came)
            self.arrivals.take([INTAKE], [forms[i] for i in order], [str(weekend)] * came, chance, first)
        self.last = int(batch.index[-1]) if len(batch) else self.last
        return self._signal(len(batch))

    def begin_anew(self) -> None:
        """Forgets the evidence, and not the forms that have come."""
        self.cases.detector, self.arrivals.detector = EDetector(), EDetector()

    def state(self) -> dict[str, NDArray]:
        own = {"recent": np.array(self.recent, np.str_), "last": np.array(self.last)}
        return joined(self.cases.state() | own, arrivals=self.arrivals.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        check_version(state)
        self.recent = [str(unit) for unit in state["recent"]]
        self.cases.restore(state)
        if arrivals := part(state, "arrivals"):  # a state of before they were read has none
            self.arrivals.restore(arrivals)
            self.last = int(state["last"])

    def _take_cases(self, batch: Batch, weekend: bool, index: int) -> None:
        first = first_of_each(batch.unit, self.recent)
        if not len(first):
            return
        self.recent = [*self.recent, *batch.unit[first].tolist()][-REMEMBERED:]
        columns = self.cases.columns or sorted(batch.form)
        forms = [tuple(str(batch.form[column][i]) for column in columns) for i in first]
        kinds = [f"{batch.stratum[i]} {weekend}" for i in first]
        chance = [crc32(unit.encode()) / 2**32 for unit in batch.unit[first].tolist()]
        self.cases.take(columns, forms, kinds, chance, index)

    def _signal(self, n: int) -> Signal:
        lead = max((self.cases, self.arrivals), key=lambda forms: forms.detector.log_e)
        evidence: dict[str, float | int | str] = {
            "guarantee": "theorem, under exchangeability of patients of one stratum and kind of day",
            "cases": self.cases.seen,
            "arrivals": self.arrivals.seen,
        }
        if lead.detector.since is not None:
            column, value = lead.rarest
            evidence |= {INTAKE: value} if lead is self.arrivals else {"column": column}
        return Signal(
            monitor=self.name,
            log_e=max(NOTHING, lead.detector.log_e - float(np.log(2))),
            statistic=lead.unusual,
            threshold=float(np.log(self.run_length)),
            n=n,
            since=lead.detector.since,
            evidence=evidence,
        )


class _Forms:
    """How often each form has come so far, by kind, and the evidence that rare ones come more often than they did."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self._know([])
        self.kinds: list[str] = []
        self.counts = np.zeros((0, 0))
        self.unusual = 0.0
        self.rarest = ("", "")
        self.detector = EDetector()

    @property
    def seen(self) -> int:
        return int(self.counts.sum())

    def take(
        self,
        columns: Sequence[str],
        forms: Sequence[tuple[str, ...]],
        kinds: Sequence[str],
        chance: Sequence[float] | Float,
        index: int,
    ) -> None:
        """A tick's patients, in order: the form of each, a value per column; its kind; and what breaks its ties, 0 <=
        chance < 1. `index` is the number of the tick's first case."""
        from scipy.special import gammaincc

        self.columns = [*columns]
        ranked = [self._rank(*one) for one in zip(forms, kinds, chance, strict=True)]
        p = np.array([one for one, _ in ranked])
        joint = max(float(gammaincc(len(p), -np.log(p).sum())), 1e-300)  # of chi-squared, 2n degrees of freedom
        self.unusual, self.rarest = -float(np.log10(joint)), ranked[int(p.argmin())][1]
        self.detector.update(joint, index)

    def state(self) -> dict[str, NDArray]:
        own = {
            "columns": np.array(self.columns, np.str_),
            "forms": np.array(self.forms, np.str_),
            "kinds": np.array(self.kinds, np.str_),
            "counts": self.counts,
            "unusual": np.array(self.unusual),
            "rarest": np.array(self.rarest),
        }
        return joined(own, detector=self.detector.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self.columns = [str(column) for column in state["columns"]]
        self._know([tuple(str(value) for value in form) for form in state["forms"]])
        self.kinds = [str(kind) for kind in state["kinds"]]
        self.counts, self.unusual = np.array(state["counts"]), float(state["unusual"])
        column, *value = np.atleast_1d(state["rarest"]).tolist()  # older states have the column alone
        self.rarest = (str(column), "".join(value))
        self.detector.restore(part(state, "detector"))

    def _rank(self, form: tuple[str, ...], kind: str, chance: float) -> tuple[float, tuple[str, str]]:
        """(the p-value of one more case of this form and kind, its column with the rarest value and that value);
        `chance` breaks ties."""
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
        rarest = int(shares[place].argmin())
        return float(p), (self.columns[rarest], form[rarest])

    def _know(self, forms: list[tuple[str, ...]]) -> None:
        """Sets the different forms; `same` [forms, forms, columns] says which have a value in common."""
        values = np.array(forms, np.str_).reshape(len(forms), len(forms[0]) if forms else 0)
        self.forms, self.same = forms, (values[:, None] == values[None]).astype(float)
