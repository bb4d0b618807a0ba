"""The story as data: what `page` draws and what `--json` answers, with nothing of torch, stores or files in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Tone(StrEnum):
    """What a mark means; the page gives each its colour and, beside the colour, a word or a shape."""

    OURS = "ours"
    FROZEN = "frozen"
    NAIVE = "naive"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the play. `trial` marks what was broken on purpose; `facts` go into `--json` as they are."""

    step: str
    title: str
    says: str
    command: str = ""
    seconds: float = 0.0
    trial: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"step": self.step, "says": self.says, "seconds": round(self.seconds, 2), **self.facts}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One headline number with what it means."""

    value: str
    means: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A case with what is true and what each model said of it; `png` is the file's bytes."""

    png: bytes
    truth: str
    answers: tuple[tuple[str, str], ...]  # (model, answer)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures side by side under one title."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The evidence of all monitors together after the tick that ended with `case`; log_e is natural."""

    case: int
    log_e: float


@dataclass(frozen=True, kw_only=True)
class Band:
    """What held from one case to another: a version, or a trust state."""

    name: str
    first: int
    last: int
    tone: Tone


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment on the axis of cases."""

    case: int
    name: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The stream: evidence against its threshold, the natural logarithm of the budget in ticks, and what held.

    Between two runs of readings an alarm was open, and its evidence was not counted on.
    """

    cases: int
    threshold: float
    runs: tuple[tuple[Reading, ...], ...]
    change: Mark
    alarm: Mark | None
    marks: tuple[Mark, ...]
    versions: tuple[Band, ...]
    trust: tuple[Band, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model's accuracy (0..1) from each case on; a step function."""

    name: str
    tone: Tone
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart: lines under one title."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One verdict as stored: the interval is of the change for the better, unless `rising_is_worse`."""

    gate: str
    role: str
    verdict: str
    n: int
    before: float | None
    after: float | None
    low: float | None
    high: float | None
    margin: float
    says: str

    @property
    def rising_is_worse(self) -> bool:
        return self.gate.startswith(("negative_flips", "negative-flips"))


@dataclass(frozen=True, kw_only=True)
class CandidateCard:
    """One candidate, what became of it, and why."""

    version: str
    recipe: str
    outcome: str
    tone: Tone
    says: str
    gates: tuple[GateRow, ...]


@dataclass(frozen=True, kw_only=True)
class Story:
    """The whole play. Every text is plain; the page escapes it."""

    headline: str
    subline: str
    figures: tuple[Figure, ...]
    galleries: tuple[Gallery, ...]
    timeline: Timeline
    panels: tuple[Panel, ...]
    measured_on: str
    candidates: tuple[CandidateCard, ...]
    steps: tuple[Step, ...]
    made: str  # how, when, with which release
    seconds: float
