"""What a site declares: one YAML file, checked whole before anything runs, every error at once."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator

from agent.errors import HomeostatError
from agent.plan import Plan, Section
from agent.store.journal import canonical

Period = Annotated[str, StringConstraints(pattern=r"^\d+ ?(d|cases)$")]


class ConfigErrors(HomeostatError):
    """A configuration with one or more errors; `errors` holds a sentence for each."""

    def __init__(self, source: str, errors: list[str]) -> None:
        self.errors = errors
        count = f"{len(errors)} errors" if len(errors) > 1 else "an error"
        super().__init__(f"{source} has {count}: " + "; ".join(errors))


class FalseAlarms(Section):
    """How many false alarms are accepted in which period."""

    per: Period = Field("365d", description="days (each a decision), or '3650 cases' (each ten cases a decision)")
    at_most: int = Field(1, ge=1, description="false alarms accepted in that period, over all monitors together")

    @property
    def ticks(self) -> int:
        """Decisions to one false alarm: a decision falls on a day, or on ten cases where there are no times."""
        amount, unit = re.fullmatch(r"(\d+) ?(d|cases)", self.per).groups()  # type: ignore[union-attr]
        decisions = int(amount) if unit == "d" else int(amount) // CASES_PER_TICK
        return max(1, decisions // self.at_most)


CASES_PER_TICK = 10


class ModelSection(Section):
    """The deployed model."""

    task: Literal["classification", "multilabel", "segmentation", "detection"] = Field(
        "classification", description="what the deployed model does"
    )
    batch: int = Field(16, ge=1, le=1024, description="images in one forward pass")


class Intake(Section):
    """Where cases come from and what makes a domain."""

    domain_by: list[Literal["site", "scanner"]] = Field(
        ["site", "scanner"],
        min_length=1,
        description="columns whose values make a domain: anchors and memory per domain",
    )
    inbox: bool = Field(True, description="watch the folder inbox/ of the workspace")


class Monitors(Section):
    """What is watched, and the budget of false alarms."""

    false_alarms: FalseAlarms = Field(
        default_factory=FalseAlarms, description="the budget over all monitors and all time"
    )
    facts: list[str] = Field([], description="columns watched as a drift stream: scanner, age, sex, or any of yours")
    subgroups: list[str] = Field(
        ["sex", "age", "scanner"], description="columns whose groups a candidate must not harm"
    )

    @field_validator("facts", "subgroups")
    @classmethod
    def _not_a_giveaway(cls, names: list[str]) -> list[str]:
        for name in names:
            if name in {"site", "text", "licence", "label"}:
                raise ValueError(f"'{name}' gives the site or the answer away and can be neither stream nor subgroup")
        return names


class Memory(Section):
    """What is rehearsed."""

    size: int = Field(400, ge=0, le=100_000, description="cases kept for rehearsal, balanced over domains and classes")


class Alerts(Section):
    """Who is told, and how often."""

    channels: list[str] = Field(
        [], description="apprise URLs; ${NAME} is read from the environment, file:PATH from a file"
    )
    remind_every: Annotated[str, StringConstraints(pattern=r"^\d+d$")] = Field(
        "7d", description="reminder of an open alarm"
    )


class StoreSection(Section):
    """Where the record is kept."""

    url: str | None = Field(None, description="a PostgreSQL URL (a later part); empty: SQLite in the workspace")

    @field_validator("url")
    @classmethod
    def _sqlite_only(cls, url: str | None) -> str | None:
        if url:
            raise ValueError("PostgreSQL is brought by a later part; leave it empty for SQLite in the workspace")
        return url


class Config(Section):
    """One deployment."""

    model: ModelSection = Field(default_factory=ModelSection, description="the deployed model")
    intake: Intake = Field(default_factory=Intake, description="where cases come from")
    monitors: Monitors = Field(default_factory=Monitors, description="what is watched")
    memory: Memory = Field(default_factory=Memory, description="what is rehearsed")
    plan: Plan = Field(default_factory=Plan, description="the change-control plan, declared in advance")
    alerts: Alerts = Field(default_factory=Alerts, description="who is told")
    store: StoreSection = Field(default_factory=StoreSection, description="where the record is kept")

    @property
    def plan_digest(self) -> str:
        """What every version cites: the plan under which it was made, sha256 of its canonical JSON."""
        return sha256(canonical(self.plan.model_dump(mode="json")).encode()).hexdigest()


def parse_config(text: str, source: str) -> Config:
    """Raises ConfigErrors with every error at once."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigErrors(source, [f"it isn't YAML ({' '.join(str(error).split())})"]) from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigErrors(source, ["it must be a mapping with sections such as 'plan:'"])
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigErrors(source, [_sentence(e) for e in error.errors()]) from error


def read_config(path: Path) -> Config:
    """Raises HomeostatError when the file can't be read, ConfigErrors when it is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HomeostatError(f"the config {path} can't be read ({error}): name another with --config") from error
    return parse_config(text, str(path))


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: no such field"
    return f"{where}: {error['msg'].removeprefix('Value error, ')[:200]} (found {str(error['input'])[:60]!r})"


def render(config: Config) -> str:
    """The resolved configuration as YAML, with a comment that tells each field; reads back to the same Config."""
    lines = [
        "# Homeostat: the resolved configuration of this deployment. Check a change with 'homeostat validate'.",
        "",
    ]
    _render(config, lines, "")
    return "\n".join(lines) + "\n"


def _render(section: BaseModel, lines: list[str], indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        note = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            lines.append(f"{indent}{name}:{note}")
            _render(value, lines, indent + "  ")
        elif isinstance(value, dict) and value and all(isinstance(v, BaseModel) for v in value.values()):
            lines.append(f"{indent}{name}:{note}")
            for key, entry in value.items():
                flow = yaml.safe_dump(
                    entry.model_dump(mode="json", exclude_none=True),
                    default_flow_style=True,
                    sort_keys=False,
                    width=1000,
                )
                lines.append(f"{indent}  {key}: {flow.strip()}")
        else:
            plain = section.model_dump(mode="json")[name]
            flow = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
            lines.append(f"{indent}{name}: {flow.strip().removesuffix('...').strip()}{note}")


__all__ = ["CASES_PER_TICK", "Config", "ConfigErrors", "parse_config", "read_config", "render"]
