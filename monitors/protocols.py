"""The records and the two plug points of `monitors`: what is measured, in which currency, and who measures it.

Arrays in, numbers out: nothing here knows of disks, clocks or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Records of the output form *scores*: one row per case.

    probability [n, c], rows sum to 1; target [n], class index, -1 where there is no label; unit [n], the patient.
    """

    probability: Float
    target: Int
    unit: NDArray[np.str_]
    _made: dict[Callable[[Scores], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.target)

    def once(self, make: Callable[[Scores], Made]) -> Made:
        """What `make` derives from the records, derived at the first call only: a bootstrap asks for every chunk."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


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
    """A pure rule over records before and after an update; the constructor arguments are margin, burden and alpha."""

    name: str

    def judge(self, before: Scores, after: Scores) -> Judgement: ...
