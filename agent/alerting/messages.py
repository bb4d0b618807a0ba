"""What people are told: alarms, and the events of the journal that ask for a person. Nothing of a patient is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.drift.domains import NEW
from agent.drift.estimated import in_words
from agent.store import Connection


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What happened, since when, on which evidence, and what to do next.

    `since` counts observed cases. `evidence` carries numbers only, TypeError else: a text could carry a patient's name
    into a chat room.
    """

    title: str
    what: str
    since: int | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    next_step: str

    def __post_init__(self) -> None:
        for name, value in self.evidence.items():
            if not isinstance(value, int | float):
                raise TypeError(f"the evidence {name!r} of an alert must be a number")

    def text(self) -> str:
        """The message, in lines."""
        lines = [self.what]
        if self.since is not None:
            lines.append(f"Since: case {self.since}")
        if self.evidence:
            lines.append("Evidence: " + ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items()))
        return "\n".join([*lines, f"Next: {self.next_step}"])


def of_alarm(alarm: Mapping[str, Any], *, reminder: bool = False) -> Alert:
    """The alert of a row of `alarms`. Of its stored evidence only the numbers are told."""
    shift = alarm["shift"]
    whose = "cases of a site or scanner that is new here" if alarm["stream"] == NEW else "the cases"
    stored = json.loads(alarm["evidence"])
    harm = in_words(stored)
    flow = f"cases come in another form ({stored['column']})" if "column" in stored else "the flow of cases changed"
    if "intake" in stored:
        flow = f"more of what comes is '{stored['intake']}' at the intake"
    moved = f"; of their images, {stored['measure']} moved most" if "measure" in stored else ""
    looks = f"{whose} look different from the approved reference ({shift}){moved}"
    if "outcome" in stored:
        looks = f"labels disagree with the answers more than on the approved reference ({shift})"
    what = looks if shift else flow
    evidence = {"score": alarm["score"], "statistic": alarm["statistic"], "threshold": alarm["threshold"], **stored}
    return Alert(
        title=f"{'Reminder: ' if reminder else ''}alarm {alarm['id']} ({alarm['monitor']})",
        what=f"The monitor '{alarm['monitor']}' says that {what}.{f' {harm}' if harm else ''}",
        since=alarm["since_case"] or alarm["opened_at_case"],
        evidence={k: v for k, v in evidence.items() if isinstance(v, int | float) and not isinstance(v, bool)},
        next_step=(
            "look at 'homeostat status' and 'homeostat alarms', then acknowledge it with "
            f"'homeostat alarms ack {alarm['id']} --by NAME'."
        ),
    )


@dataclass(frozen=True)
class News:
    """How an event of the journal is told. `{version}` and the like are filled from its body; reasons are left out."""

    title: str
    what: str
    next_step: str
    in_state: str | None = None  # told only while the version is in this state


NEWS = {
    "version_judged": News(
        "{version} passed its gates",
        "The candidate {version} passed every required gate, and waits.",
        "read 'homeostat show {version}'; then 'homeostat approve {version}', or 'homeostat reject {version}'.",
        in_state="candidate",
    ),
    "version_held": News(
        "{version} waits for labels",
        "There are too few labels to judge {version}.",
        "'homeostat show {version}' says how many labelled patients would decide.",
    ),
    "version_promoted": News(
        "{version} is live",
        "{version} answers instead of {previous} and is on probation.",
        "nothing, if that is what you meant; 'homeostat rollback' takes it back.",
    ),
    "version_rolled_back": News(
        "rolled back to {version}",
        "{version} is live again instead of {previous}; automatic promotion is paused.",
        "read 'homeostat history'; 'homeostat resume' lets the agent go on.",
    ),
    "alarm_cleared": News(
        "alarm {alarm} has ended",
        "Labels show that what changed did no harm beyond the plan's margin; what has come since joins the reference.",
        "read 'homeostat alarms'; 'homeostat suspend' if you know better.",
    ),
    "feed_restored": News(
        "alarm {alarm} has ended",
        "It was about the feed, and cases come as they did before it: four weeks of decisions or more show no change.",
        "nothing; 'homeostat alarms --all' keeps it.",
    ),
    "domains_suspended": News(
        "answers for a site or scanner are suspended",
        "Labels show that {version} serves it worse than approved; its cases carry trust 'suspended' from now on.",
        "'homeostat status' names it; its labels are what the next version learns from.",
    ),
    "rollback_failed": News(
        "{version} does harm and there is no way back",
        "The agent wanted to leave {version}, and no older version can go live; trust is suspended.",
        "stop using its answers; restore versions/ from a backup ('homeostat verify' tells what is damaged), then "
        "'homeostat rollback'.",
    ),
    "shadow_failed": News(
        "{version}, the way back, is damaged",
        "The version before the one on probation can't answer beside it, so that harm can't be shown by pairs.",
        "'homeostat verify' tells what is damaged; restore it from a backup.",
    ),
    "job_failed": News(
        "an update failed",
        "The job {job} ended without a result; what is live was not touched.",
        "read 'homeostat journal' for the reason, then 'homeostat update' tries again.",
    ),
    "class_unknown": News(
        "labels name classes that the model does not know",
        "Labels have come with {names} new class names that the model does not have. Such labels are left out.",
        "'homeostat status' tells the names: correct the labels, or ask for a model that knows these classes.",
    ),
    "monitor_failed": News(
        "the monitor '{monitor}' can't read its input",
        "The monitor '{monitor}' was passed over; the others go on.",
        "read 'homeostat journal', and 'homeostat verify'.",
    ),
}


def news(connection: Connection, since: int) -> Iterator[tuple[int, str, Alert]]:
    """(number of the event, name of the episode, alert) of what the journal holds after event `since`.

    A monitor that fails at every decision is one episode.
    """
    marks = ", ".join(f"'{event}'" for event in NEWS)
    found = connection.execute(
        f"SELECT seq, event, body FROM journal WHERE event IN ({marks}) AND seq > :since ORDER BY seq", {"since": since}
    )
    for row in found.fetchall():
        body, kind = json.loads(row["body"]), NEWS[row["event"]]
        if kind.in_state and _state(connection, body["version"]) != kind.in_state:
            continue
        alert = Alert(
            title=kind.title.format(**body), what=kind.what.format(**body), next_step=kind.next_step.format(**body)
        )
        yield row["seq"], f"monitor-{body['monitor']}" if "monitor" in body else f"event-{row['seq']}", alert


def _state(connection: Connection, version: str) -> str | None:
    row = connection.execute("SELECT state FROM versions WHERE id = :id", {"id": version}).fetchone()
    return row["state"] if row else None
