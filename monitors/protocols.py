"""The records and the two plug points of `monitors`: what is measured, in which currency, and who measures it.

Arrays in, numbers out: nothing here knows of disks, clocks or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]
Int = NDArray[np.integer]
Made = TypeVar("Made")

NOTHING = -700.0
"""The log of an e-detector that has seen nothing yet: finite, so that it can be written down."""


class Shift(StrEnum):
    """Kinds of dataset shift in medical imaging, in the causal terms of Castro, Walker and Glocker (2020)."""

    NONE = "none"
    ACQUISITION = "acquisition"
    POPULATION = "population"
    PREVALENCE = "prevalence"
    MANIFESTATION = "manifestation"
    ANNOTATION = "annotation"
    MIXED = "mixed"
    FAR_OUT = "far-out"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The cases of one decision tick (a day, or ten cases where there are no times), in order of observation.

    A batch may be empty: a day without cases is an observation of the case volume.

    index      [n] running number of the case, from 1
    unit       [n] what is exchangeable: the patient's pseudonym
    stratum    [n] what p-values are conditional on (weekday, scanner); one constant where nothing is declared
    time       [n] acquisition time in seconds since the epoch, NaN where unknown
    outputs    [n, c] what the live version said, a probability per class; rows sum to 1 where these exclude each other
    embedding  [n, d] what the pinned sensor saw
    tick_time  start of the tick in seconds since the epoch; NaN for a tick that is a count of cases
    facts      {name: [n]} what is known of each case: text, empty where unknown, or numbers, NaN where unknown
    form       {column: [n]} what came with the case, as text: the type of file, "there" or "" for what may be missing
    arrivals   {what became of them: how many patients came since the last tick}: "taken", or why they were refused
    quality    [n, q] what the image looks like, in the numbers of monitors.quality; [n, 0] where that is not known
    target     [n] class index, -1 where there is no label; empty where labels were not asked for
    """

    index: Int
    unit: NDArray[np.str_]
    stratum: NDArray[np.str_]
    time: Float
    outputs: Float
    embedding: Float
    version: str
    sensor: str
    tick_time: float = float("nan")
    facts: Mapping[str, NDArray] = field(default_factory=dict)
    form: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    arrivals: Mapping[str, int] = field(default_factory=dict)
    quality: Float = field(default_factory=lambda: np.empty((0, 0)))
    target: Int = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not self.quality.size:
            object.__setattr__(self, "quality", np.empty((len(self.index), 0)))

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The approved cases that a monitor compares with; no patient stands in both parts.

    `transform` may hold patients that the model was trained on: scales, kernels and directions are learnt from it.
    `calibrate` holds none of them: it is exchangeable with unseen cases, and ranks are taken among it.
    Learning a transform on the calibration part breaks the promise of false alarms threefold (docs/false-alarms.md).
    """

    transform: Batch
    calibrate: Batch


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One monitor's reading after one tick.

    `log_e` is the natural logarithm of the ticks that pass, on average, until a reading as high as this one while
    nothing has changed. That of an e-detector is one: for every stopping time T, E[exp(log_e_T)] <= E[T], T counted in
    ticks, so that it reaches c after at least c ticks on average (Shin, Ramdas and Rinaldo 2024); that of a chart is
    simulated.
    `since` is the index of the first case after the estimated onset, or None while there is no evidence.
    """

    monitor: str
    log_e: float
    statistic: float
    threshold: float
    n: int
    since: int | None = None
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


class OtherVersion(ValueError):
    """The tick was answered by another version than the reference: its answers can't be compared."""


@runtime_checkable
class Monitor(Protocol):
    """Watches one aspect of the stream against a fixed reference.

    The constructor arguments are the whole configuration. `state()` returns plain arrays, `"version"` among them;
    `restore` after `fit` on the same reference continues identically, and refuses a newer version with ValueError.
    `update` never changes its input; NaN in what it reads raises ValueError.
    """

    name: str

    def fit(self, reference: Reference) -> None: ...

    def update(self, batch: Batch) -> Signal: ...

    def state(self) -> dict[str, NDArray]: ...

    def restore(self, state: Mapping[str, NDArray]) -> None: ...


class Record(Protocol):
    """What a version said of some cases and what is true of them, in one output form; see `monitors.forms`.

    unit [n], the patient; known [n], whether there is a label, without which a case has no weight in any measure.
    """

    @property
    def unit(self) -> NDArray[np.str_]: ...

    @property
    def known(self) -> NDArray[np.bool_]: ...

    def __len__(self) -> int: ...

    def take(self, which: NDArray) -> Self:
        """These cases only: bool [n], or places [k]."""

    def once(self, make: Callable[[Any], Made]) -> Made:
        """What `make` derives from the records, derived at the first call only: a bootstrap asks for every chunk."""


@dataclass(frozen=True, kw_only=True)
class _Derived:
    _made: dict[Callable[[Any], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, make: Callable[[Any], Made]) -> Made:
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


@dataclass(frozen=True, kw_only=True)
class Scores(_Derived):
    """Records of the output form *scores*: one row per case.

    probability [n, c], rows sum to 1; target [n], class index, -1 where there is no label; unit [n], the patient.
    """

    probability: Float
    target: Int
    unit: NDArray[np.str_]

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.target >= 0

    def __len__(self) -> int:
        return len(self.target)

    def take(self, which: NDArray) -> Scores:
        return Scores(probability=self.probability[which], target=self.target[which], unit=self.unit[which])


@dataclass(frozen=True, kw_only=True)
class Findings(_Derived):
    """Records of the output form *findings*: one row per case, which may have any number of c findings.

    probability [n, c] of each, 0..1; target [n, c], whether the case has it; known [n], whether there is a label,
    without which the target is not read; unit [n], the patient.
    """

    probability: Float
    target: NDArray[np.bool_]
    known: NDArray[np.bool_]
    unit: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.known)

    def take(self, which: NDArray) -> Findings:
        return Findings(
            probability=self.probability[which],
            target=self.target[which],
            known=self.known[which],
            unit=self.unit[which],
        )


@dataclass(frozen=True, kw_only=True)
class Regions(_Derived):
    """Records of the output form *regions*: one row per case, whose structures are told pixel by pixel.

    overlap [n, s, 3]: of each structure the pixels that are in both, in what was said, and in what is true; brier [n],
    0..1, and nll [n], in nats: means over the case's pixels; known [n], whether there is a mask; unit [n], the patient.
    What is told of a case without a mask is not read, and may be NaN.
    """

    overlap: Float
    brier: Float
    nll: Float
    known: NDArray[np.bool_]
    unit: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.known)

    def take(self, which: NDArray) -> Regions:
        return Regions(
            overlap=self.overlap[which],
            brier=self.brier[which],
            nll=self.nll[which],
            known=self.known[which],
            unit=self.unit[which],
        )


def regions(rows: Float, label: Int, unit: NDArray[np.str_]) -> Regions:
    """Of rows [n, 3 * s + 2]: for each structure in order the pixels in both, said and true; then Brier score and
    log-loss. label [n] is -1 where there is no mask. Raises ValueError for another number of columns."""
    n, columns = np.shape(rows)
    if columns < 5 or columns % 3 != 2:
        raise ValueError(f"a row has three numbers per structure and two losses: {columns} is no such number")
    return Regions(
        overlap=rows[:, :-2].reshape(n, -1, 3),
        brier=rows[:, -2],
        nll=rows[:, -1],
        known=np.asarray(label) >= 0,
        unit=np.asarray(unit, dtype=np.str_),
    )


@dataclass(frozen=True, kw_only=True)
class Boxes(_Derived):
    """Records of the output form *boxes*: n cases and the m boxes that were said of them, those of a case together.

    case [m], whose box it is, ascending; label [m], its class; score [m], 0..1; matched [m, 10], whether it found a
    true box at the IoU thresholds 0.5, 0.55, ..., 0.95 (see `monitors.detection.match`); true [n, c], how many boxes of
    each class there are; known [n], whether the true boxes are known (there may be none); unit [n], the patient.
    threshold: score from which a box is shown, and counts for the worth of a case.
    """

    case: Int
    label: Int
    score: Float
    matched: NDArray[np.bool_]
    true: Int
    known: NDArray[np.bool_]
    unit: NDArray[np.str_]
    threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.known)

    def take(self, which: NDArray) -> Boxes:
        places = np.arange(len(self))[which]
        start, stop = np.searchsorted(self.case, places), np.searchsorted(self.case, places, side="right")
        case = np.repeat(np.arange(len(places)), stop - start)
        own = np.arange(len(case)) + (start - np.cumsum(stop - start) + (stop - start))[case]
        return Boxes(
            case=case,
            label=self.label[own],
            score=self.score[own],
            matched=self.matched[own],
            true=self.true[places],
            known=self.known[places],
            unit=self.unit[places],
            threshold=self.threshold,
        )


class Verdict(StrEnum):
    """What a gate says of a candidate."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"


class Burden(StrEnum):
    """Who has to show it: the candidate that it is not worse, or the gate that it does harm."""

    NON_INFERIORITY = "non_inferiority"
    NO_HARM_FOUND = "no_harm_found"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a gate says. Measures are oriented so that the interval is of the change, candidate minus incumbent.

    n is the number of labelled patients; `needed` how many of them would decide, where the verdict is INSUFFICIENT.
    """

    gate: str
    verdict: Verdict
    n: int
    before: float | None
    after: float | None
    interval: tuple[float, float] | None
    margin: float
    says: str
    needed: int | None = None


@runtime_checkable
class Gate(Protocol):
    """A pure rule over records of any output form before and after an update, both of the same form; the constructor
    arguments are margin, burden and alpha."""

    name: str

    def judge(self, before: Record, after: Record) -> Judgement: ...
