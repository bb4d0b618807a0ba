"""From a finished play and its workspace to the story that the page draws: reading only."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version as release_of
from itertools import groupby
from pathlib import Path
from typing import Any

from agent.clock import rfc3339
from agent.demo.audience import SIDES
from agent.demo.record import (
    Band,
    CandidateCard,
    Figure,
    Gallery,
    GateRow,
    Line,
    Mark,
    Panel,
    Picture,
    Reading,
    Step,
    Story,
    Timeline,
    Tone,
)
from agent.demo.story import Play
from agent.store import Connection

THUMBNAIL = 192  # pixels on a side
TRUST = {"normal": Tone.GOOD, "caution": Tone.WARN, "suspended": Tone.BAD}
OUTCOMES = {"rejected": Tone.BAD, "held": Tone.WARN, "abandoned": Tone.PLAIN, "candidate": Tone.PLAIN}


def told(play: Play, seconds: float) -> Story:
    """The story of a play that was performed."""
    facts = {step.step: step.facts for step in play.steps}
    with play.stage.workspace.store.read() as connection:
        timeline = _timeline(play, connection)
        candidates = tuple(
            _card(row, connection) for row in connection.execute("SELECT * FROM versions WHERE number > 0")
        )
    return Story(
        headline=_headline(play, facts),
        subline=f"{play.cast.described} All of it happened on one machine in {seconds:.0f} seconds, without a network, "
        "by the commands shown at the end.",
        figures=tuple(_figures(play, facts)),
        galleries=_galleries(play),
        timeline=timeline,
        panels=_panels(play, facts),
        measured_on=_measured_on(play),
        candidates=candidates,
        steps=tuple(play.steps),
        made=f"Made by homeostat {release_of('homeostat')} on {rfc3339(datetime.now(UTC))[:10]}, seed {play.seed}, in "
        f"{seconds:.0f} seconds on a machine of {os.cpu_count()} cores.",
        seconds=seconds,
    )


def _headline(play: Play, facts: dict[str, dict[str, Any]]) -> str:
    alarm, restored = facts["alarm"], facts.get("restored")
    noticed = f"noticed it after {alarm['after_cases']} cases" if alarm["after_cases"] else "did not notice it"
    start = f"A model met {play.cast.new_name}, {noticed}"
    if restored is None:
        return f"{start}, and kept its old version"
    lost = restored["before"]["home"] - restored["after"]["home"]
    return f"{start}, learnt it, and " + ("forgot nothing" if lost <= 0.02 else f"lost {100 * lost:.0f} points at home")


def _figures(play: Play, facts: dict[str, dict[str, Any]]) -> Iterable[Figure]:
    if after := facts["alarm"]["after_cases"]:
        yield Figure(value=f"{after} cases", means="from the change to the alarm; one false alarm a year is allowed")
    if restored := facts.get("restored"):
        old, new = restored["before"], restored["after"]
        yield Figure(
            value=f"{old['new']:.2f} → {new['new']:.2f}",
            means=f"balanced accuracy at {play.cast.new_name}, by the update",
            tone=Tone.OURS,
        )
        yield Figure(
            value=f"{old['home']:.2f} → {new['home']:.2f}",
            means=f"at {play.cast.home_name}, after the same update",
            tone=Tone.OURS,
        )
    if (naive := facts.get("naive")) and "after" in naive:
        before = play.audience.accuracies("v0")["home"]
        yield Figure(
            value=f"{before:.2f} → {naive['after']['home']:.2f}",
            means=f"at {play.cast.home_name}, by naive fine-tuning: {naive['state']}",
            tone=Tone.NAIVE,
        )
    if play.found.rollback_seconds is not None:
        equal = facts["rollback"]["byte_equal"]
        yield Figure(
            value=f"{play.found.rollback_seconds:.2f} s",
            means="to roll back, outputs equal to the byte" if equal else "to roll back, outputs differ",
        )


# images ---------------------------------------------------------------------------------------------------------------


def _galleries(play: Play) -> tuple[Gallery, ...]:
    shown = [("v0", "as deployed")]
    if play.found.promoted:
        shown.append((play.found.promoted, "updated"))
    if play.found.naive:
        shown.append((play.found.naive, "naive"))
    return tuple(
        Gallery(title=f"{when}: {name}", pictures=tuple(_pictures(play, side, shown)))
        for side, when, name in (("home", "Before", play.cast.home_name), ("new", "After", play.cast.new_name))
    )


def _pictures(play: Play, side: str, shown: list[tuple[str, str]]) -> Iterable[Picture]:
    """Up to three cases of different classes, those first that the updated model tells and another does not."""
    rows = play.audience.rows[side]
    scores = {version: play.audience.scores(version, side) for version, _ in shown}
    classes = _classes(play)
    said = {version: [classes[i] for i in one.probability.argmax(1)] for version, one in scores.items()}
    ours = said[play.found.promoted or "v0"]

    def telling(i: int) -> tuple[bool, int]:
        truth = rows[i].label
        return ours[i] != truth, -sum(answers[i] != truth for answers in said.values())

    chosen: dict[str, int] = {}
    for i in sorted(range(len(rows)), key=telling):
        chosen.setdefault(rows[i].label or "", i)
    for truth, i in sorted(chosen.items(), key=lambda item: telling(item[1]))[:3]:
        answers = tuple((name, said[version][i]) for version, name in shown)
        yield Picture(png=_png(rows[i].file), truth=truth, answers=answers)


def _classes(play: Play) -> list[str]:
    from agent.workspace import get_setting

    with play.stage.workspace.store.read() as connection:
        classes: list[str] = get_setting(connection, "classes")
    return classes


def _png(path: Path) -> bytes:
    """A thumbnail as a viewer would show it."""
    from PIL import Image

    from agent.cases.images import read_image

    picture = Image.fromarray(read_image(path).clip(0, 255).astype("uint8"))
    scale = THUMBNAIL / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# the stream -----------------------------------------------------------------------------------------------------------


def _timeline(play: Play, connection: Connection) -> Timeline:
    found, cases = play.found, play.found.cases
    rows = connection.execute(
        "SELECT at_case, log_e, threshold FROM signals WHERE monitor = 'family' AND at_case > 0 ORDER BY tick"
    ).fetchall()
    alarm = found.alarm
    silent = (alarm["opened_at_case"], cases.get("promoted", cases["end"])) if alarm else (cases["end"], cases["end"])
    readings = [Reading(case=row["at_case"], log_e=row["log_e"]) for row in rows]
    runs = (
        tuple(reading for reading in readings if reading.case <= silent[0]),
        tuple(reading for reading in readings if reading.case > silent[1]),
    )
    observed = connection.execute(
        "SELECT number, version, trust FROM observations WHERE role = 'live' ORDER BY number"
    ).fetchall()
    marks = [Mark(case=cases["labels"], name="labels arrive")]
    if found.promoted:
        marks.append(
            Mark(case=cases["promoted"], name=f"{found.promoted} promoted, killed, made whole", tone=Tone.OURS)
        )
    if found.naive:
        at = cases.get("naive", cases["labels"])
        marks.append(Mark(case=at, name=f"{found.naive}, naive, judged", tone=Tone.BAD))
    if "rollback" in cases:
        marks.append(Mark(case=cases["rollback"], name="rolled back", tone=Tone.WARN))
        marks.append(Mark(case=cases["forward"], name="forward again", tone=Tone.GOOD))
    return Timeline(
        cases=cases["end"],
        threshold=rows[0]["threshold"],
        runs=tuple(run for run in runs if run),
        change=Mark(case=cases["change"], name=f"{play.cast.new_name} arrives"),
        alarm=Mark(case=alarm["opened_at_case"], name=f"alarm at case {alarm['opened_at_case']}") if alarm else None,
        marks=tuple(marks),
        versions=_bands(observed, "version", lambda name: Tone.FROZEN if name == "v0" else Tone.OURS),
        trust=_bands(observed, "trust", TRUST.__getitem__),
    )


def _bands(observed: Iterable[Any], column: str, tone: Any) -> tuple[Band, ...]:
    bands = []
    for name, group in groupby(observed, key=lambda row: row[column]):
        numbers = [row["number"] for row in group]
        bands.append(Band(name=name, first=numbers[0] - 1, last=numbers[-1], tone=tone(name)))
    return tuple(bands)


def _panels(play: Play, facts: dict[str, dict[str, Any]]) -> tuple[Panel, ...]:
    """Accuracy of the three ways to live with the change, from the first case to the last, at both places."""
    restored, naive = facts.get("restored"), facts.get("naive")
    old = play.audience.accuracies("v0")
    cases = play.found.cases
    panels = []
    for side, name in (("home", play.cast.home_name), ("new", play.cast.new_name)):
        lines = [Line(name="frozen", tone=Tone.FROZEN, points=((0, old[side]),))]
        if naive and "after" in naive:
            points = ((0, old[side]), (cases["labels"], naive["after"][side]))
            lines.append(Line(name="naive", tone=Tone.NAIVE, points=points))
        if restored:
            points = ((0, old[side]), (cases["promoted"], restored["after"][side]))
            lines.append(Line(name="ours", tone=Tone.OURS, points=points))
        panels.append(Panel(title=name[:1].upper() + name[1:], lines=tuple(lines)))
    return tuple(panels)


def _measured_on(play: Play) -> str:
    n = {side: play.audience.patients(side) for side in SIDES}
    return (
        f"Balanced accuracy on {n['home']} patients of {play.cast.home_name} and {n['new']} of {play.cast.new_name}, "
        "whom no model has learnt from and no gate has looked at: the model left as it was, naive fine-tuning, "
        "and what the agent made live. The drill of the rollback is left out."
    )


# verdicts -------------------------------------------------------------------------------------------------------------


def _card(row: Any, connection: Connection) -> CandidateCard:
    verdicts = connection.execute(
        "SELECT * FROM verdicts WHERE version = :id ORDER BY role DESC, gate", {"id": row["id"]}
    ).fetchall()
    gates = tuple(
        GateRow(
            **{
                name: v[name]
                for name in ("gate", "role", "verdict", "n", "before", "after", "low", "high", "margin", "says")
            }
        )
        for v in verdicts
    )
    refusing = [gate for gate in gates if gate.role == "require" and gate.verdict != "PASS"]
    refusing.sort(key=lambda gate: (gate.verdict != "FAIL", not gate.gate.startswith("forgetting")))
    if refusing:
        verb = "refuses" if refusing[0].verdict == "FAIL" else "can't yet pass"
        says = f"The gate {refusing[0].gate} {verb} it: {refusing[0].says}."
    else:
        says = "Every required gate passed it."
    outcome = {"probation": "live", "active": "live"}.get(row["state"], row["state"])
    return CandidateCard(
        version=row["id"], recipe=row["recipe"], outcome=outcome, tone=OUTCOMES.get(row["state"], Tone.GOOD),
        says=says, gates=gates,
    )  # fmt: skip


def steps_as_json(steps: Iterable[Step]) -> list[dict[str, Any]]:
    return [step.as_json() for step in steps]
