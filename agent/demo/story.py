"""The play: a deployment's year in minutes, told with the product's own commands, one act after the other.

What an act says is what it found; where the data do not carry the story (no alarm, a candidate that the gates hold or
refuse), the act says that, and those that rest on it are left out.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.cases.datafolder import read_folder
from agent.demo.audience import Audience
from agent.demo.cast import LATER, Cast
from agent.demo.record import Step
from agent.demo.stage import Stage
from agent.errors import HomeostatError
from agent.versions.serve import LiveModel

Tell = Callable[[Step], None]
BY = ("--by", "demo")
NAIVE = "full_finetune"
# What differs from the default plan. Log-loss has heavy tails: to show within 5 points that it is not worse takes some
# 900 patients, so here harm has to be shown instead. Less is rehearsed than might be, to save a minute.
# Of the default ladder what so small a network needs: all its weights move as cheaply as an adapter.
CONFIG = """
memory: {size: 240}
plan:
  responses:
    undetermined: {trust: caution, recipes: [recalibrate, linear_probe, full_rehearsal]}
  gates:
    calibration: {margin: 0.05, burden: no_harm_found}
"""
LEARNT = (
    "adapter_model.safetensors",
    "weights.safetensors",
    "head.safetensors",
    "recalibrator.json",
)  # whichever first


@dataclass
class Found:
    """What the acts learnt, for the acts after them and for the page."""

    alarm: dict[str, Any] | None = None
    candidate: str | None = None
    promoted: str | None = None
    naive: str | None = None
    cases: dict[str, int] = field(default_factory=dict)  # number of the last case when something happened
    rollback_seconds: float | None = None


class Play:
    """One performance in the workspace folder `root`; `steps` grows as it goes."""

    def __init__(self, root: Path, cast: Cast, *, epochs: int | None, seed: int, tell: Tell) -> None:
        self.stage, self.cast, self.epochs, self.seed, self.tell = Stage(root), cast, epochs, seed, tell
        self.audience = Audience(self.stage.root, cast)
        self.found = Found()
        self.steps: list[Step] = []
        self.first_answers: bytes = b""

    def perform(self) -> None:
        """Plays every act. Raises HomeostatError where the product can't even start on these images."""
        for act in (
            self.fit, self.deploy, self.quiet, self.change, self.labels, self.update, self.approve, self.kill,
            self.restore, self.naive, self.flip, self.back, self.forward, self.end,
        ):  # fmt: skip
            started = time.monotonic()
            for step in act():
                seconds = step.seconds or time.monotonic() - started
                self.steps.append(Step(**{**vars(step), "seconds": seconds}))
                self.tell(self.steps[-1])

    # before the change ------------------------------------------------------------------------------------------------

    def fit(self) -> Iterator[Step]:
        base = self.cast["base"]
        epochs = ["--epochs", str(self.epochs)] if self.epochs else []
        size = ["--size", str(self.cast.pixels)] if self.cast.pixels else []
        made = self.stage.must(
            "fit", "--data", self.cast["home"], "--task", "classification", "--out", base,
            "--seed", str(self.seed), *epochs, *size,
        )  # fmt: skip
        accuracy = made["metrics"]["balanced_accuracy"]
        yield Step(
            step="fit",
            title=f"A model is fitted on {self.cast.home_name}",
            says=f"{made['backbone']} learns from {made['n_train']} images; on patients that it has never seen its "
            f"balanced accuracy is {accuracy:.2f}.",
            command=" ".join(["homeostat fit --data home --task classification --out base", *epochs, *size]),
            facts={"n_train": made["n_train"], "balanced_accuracy": accuracy},
        )

    def deploy(self) -> Iterator[Step]:
        config = self.cast["homeostat.yaml"]
        config.write_text(CONFIG, encoding="utf-8")
        folders = ("--model", self.cast["base"], "--reference", self.cast["home"])
        made = self.stage.must("init", *folders, "--config", config)
        self.first_answers = self.audience.answers(LiveModel(self.stage.root))
        decidable = made["decidable"]
        yield Step(
            step="init",
            title="It is deployed as v0",
            says=f"{made['reference']['n']} approved cases are the monitors' reference, {made['anchor']['n']} of them, "
            f"of unseen patients, the anchors: enough to tell a loss of {decidable['smallest_margin'] or 1:.1%}.",
            command="homeostat init --model base --reference home --config homeostat.yaml",
            facts={"live": made["live"], "anchor": made["anchor"], "decidable": decidable},
        )

    def quiet(self) -> Iterator[Step]:
        done = self._feed("quiet")
        self.found.cases["change"] = done["cases"]
        says = "nothing has changed, and nobody is called" if not done["alarms"] else f"{done['alarms']} false alarms"
        yield Step(
            step="quiet",
            title="Quiet days",
            says=f"{done['cases']} cases of {self.cast.home_name} come in: {says}.",
            command="homeostat feed quiet && homeostat run --until-idle",
            facts={"cases": done["cases"], "alarms": done["alarms"]},
        )

    # the change -------------------------------------------------------------------------------------------------------

    def change(self) -> Iterator[Step]:
        before = self.found.cases["change"]
        done = self._feed("arrival", "--no-labels")
        self.found.cases["labels"] = done["cases"]
        alarms = [a for a in self.stage.must("alarms", "--all") if a["shift"] and a["opened_at_case"] > before]
        trust = self.stage.must("status")["trust"]
        alarm = self.found.alarm = alarms[0] if alarms else None
        if alarm:
            after = alarm["opened_at_case"] - before
            says = f"The alarm comes after {after} cases, by the monitor '{alarm['monitor']}'; trust is set to {trust}."
        else:
            after, says = None, f"{done['cases'] - before} cases go by without an alarm; a person asks for the update."
        yield Step(
            step="alarm",
            title=f"{self._title(self.cast.new_name)} arrives",
            says=says,
            command="homeostat feed arrival --no-labels && homeostat run --until-idle",
            facts={"change_at_case": before + 1, "after_cases": after, "trust": trust,
                   "alarm": alarm and alarm["id"], "monitor": alarm and alarm["monitor"]},
        )  # fmt: skip

    def labels(self) -> Iterator[Step]:
        path = self.cast["labels.csv"]
        rows = read_folder(self.cast["arrival"]).rows
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("case_id", "label"), *((row.case_id, row.label) for row in rows)])
        joined = self.stage.must("labels", "import", path)
        yield Step(
            step="labels",
            title="Labels arrive, late",
            says=f"{joined['joined']} labels are joined to the cases that they belong to.",
            command="homeostat labels import labels.csv",
            facts=joined,
        )

    def update(self) -> Iterator[Step]:
        self.stage.must("run", "--until-idle")
        versions = self.stage.must("versions")
        command = "homeostat run --until-idle"
        if len(versions) == 1:
            reply = self.stage.give("update")
            command = "homeostat update"
            if "error" in reply.value:
                yield Step(step="update", title="No update", says=reply.value["error"], command=command)
                return
        shown = self.stage.must("show", "v1")
        self.found.candidate = "v1"
        yield Step(
            step="update",
            title="A candidate is made and judged",
            says=f"The cheapest sufficient recipe is {shown['recipe']}. {self._verdicts(shown['verdicts'])}",
            command=command,
            facts={"candidate": "v1", "recipe": shown["recipe"], "state": shown["state"],
                   "verdicts": {row["gate"]: row["verdict"] for row in shown["verdicts"]}},
        )  # fmt: skip

    def approve(self) -> Iterator[Step]:
        if self.found.candidate is None:
            return
        reply = self.stage.give("approve", self.found.candidate, *BY, "--reason", "the gates passed it")
        approved = reply.exit_code == 0
        yield Step(
            step="approve",
            title="A person approves" if approved else "The approval is refused",
            says="The plan only recommends; a named person decides." if approved else reply.value["error"],
            command=f'homeostat approve {self.found.candidate} --by demo --reason "the gates passed it"',
            facts={"exit_code": reply.exit_code},
        )
        if not approved:
            self.found.candidate = None

    # promoted, and killed in the middle -------------------------------------------------------------------------------

    def kill(self) -> Iterator[Step]:
        version = self.found.candidate
        if version is None:
            return
        words = ("promote", version, *BY, "--reason", "approved")
        status = self.stage.kill_in_the_middle(version, *words)
        half = {"store": self.stage.live(), "live.json": self.stage.pointed(), "exit_status": status}
        yield Step(
            step="kill",
            title="kill -9 in the middle of the promotion",
            says=f"The process dies between its commit and the pointer: the store says {half['store']}, live.json says "
            f"{half['live.json']}, and services go on answering with {half['live.json']}; nothing is torn.",
            command=f'homeostat promote {version} --by demo --reason "approved"   # killed',
            trial=True,
            facts=half,
        )
        started = time.monotonic()
        done = self._feed(LATER[0])
        self.found.promoted = version
        self.found.cases["promoted"] = self.found.cases["labels"]
        self.found.cases["naive"] = done["cases"]
        healthy = self.stage.must("verify")
        yield Step(
            step="recover",
            title="The next start makes it whole",
            says=f"The agent starts again and publishes what was committed: {self.stage.pointed()} is live, "
            + ("and everything verifies." if healthy["ok"] else f"but verify finds {healthy['problems'][0]['what']}."),
            command="homeostat run --until-idle && homeostat verify",
            seconds=time.monotonic() - started,
            facts={"live": self.stage.pointed(), "ok": healthy["ok"]},
        )

    def restore(self) -> Iterator[Step]:
        if self.found.promoted is None:
            return
        old, new = self.audience.accuracies("v0"), self.audience.accuracies(self.found.promoted)
        yield Step(
            step="restored",
            title="Accuracy is back",
            says=f"At {self.cast.new_name} {old['new']:.2f} becomes {new['new']:.2f}, at {self.cast.home_name} "
            f"{old['home']:.2f} becomes {new['home']:.2f}, on patients whom nothing else has seen.",
            command=f"homeostat evaluate test-new --version {self.found.promoted}",
            facts={"before": old, "after": new},
        )

    def naive(self) -> Iterator[Step]:
        reply = self.stage.give("update", "--recipe", NAIVE)
        if "error" in reply.value:
            yield Step(step="naive", title="No naive update", says=reply.value["error"])
            return
        version = self.found.naive = reply.value["candidate"]
        old, new = self.audience.accuracies("v0"), self.audience.accuracies(version)
        failed = [row for row in reply.value["verdicts"] if row["role"] == "require" and row["verdict"] == "FAIL"]
        yield Step(
            step="naive",
            title="Naive fine-tuning is refused" if failed else f"Naive fine-tuning is {reply.value['state']}",
            says=f"{version}, fine-tuned on the new cases alone, reaches {new['new']:.2f} at {self.cast.new_name} and "
            f"falls from {old['home']:.2f} to {new['home']:.2f} at {self.cast.home_name}. {_because(failed)}",
            command=f"homeostat update --recipe {NAIVE}",
            trial=True,
            facts={"candidate": version, "state": reply.value["state"], "exit_code": reply.exit_code,
                   "refused_by": [row["gate"] for row in failed], "after": new},
        )  # fmt: skip

    # bad days ---------------------------------------------------------------------------------------------------------

    def flip(self) -> Iterator[Step]:
        if self.found.promoted is None:
            return
        running = LiveModel(self.stage.root)
        folder = self.stage.workspace.path("versions", self.found.promoted)
        path = next(folder / name for name in LEARNT if (folder / name).exists())
        whole = path.read_bytes()
        _overwrite(path, flipped(whole))
        try:
            found = self.stage.give("verify")
            try:
                LiveModel(self.stage.root)
                refusal = None
            except HomeostatError as error:
                refusal = str(error)
            goes_on = running.predict(self.audience.probes()[:1])[0].version
        finally:
            _overwrite(path, whole)
        again = self.stage.must("verify")
        problems = "; ".join(problem["what"] for problem in found.value["problems"])
        yield Step(
            step="flipped-byte",
            title="One flipped byte",
            says=f"In {path.name} of {self.found.promoted}: verify finds it ({problems}), a starting service refuses "
            f"it, the one that runs goes on with {goes_on}. Restored from its copy, everything verifies.",
            command="homeostat verify",
            trial=True,
            facts={"file": f"versions/{self.found.promoted}/{path.name}", "exit_code": found.exit_code,
                   "problems": found.value["problems"], "refused": refusal is not None, "refusal": refusal,
                   "ok_again": again["ok"]},
        )  # fmt: skip

    def back(self) -> Iterator[Step]:
        if self.found.promoted is None:
            return
        words = ("rollback", *BY, "--reason", "a doubt at night")
        reply = self.stage.give_apart(*words)
        if reply.exit_code != 0:
            raise HomeostatError(f"the story ends at 'homeostat rollback': {reply.value['error']}")
        equal = self.audience.answers(LiveModel(self.stage.root)) == self.first_answers
        self.found.rollback_seconds = reply.seconds
        self.found.cases["rollback"] = self.found.cases["naive"]
        self.found.cases["forward"] = self._feed(LATER[1])["cases"]
        yield Step(
            step="rollback",
            title="Rollback",
            says=f"{reply.value['to']} is live again after {reply.seconds:.2f} s, as a whole process; its answers are "
            + ("equal to the first ones to the byte." if equal else "NOT equal to the first ones."),
            command='homeostat rollback --by demo --reason "a doubt at night"',
            seconds=reply.seconds,
            trial=True,
            facts={"from": reply.value["from"], "to": reply.value["to"], "byte_equal": equal},
        )

    def forward(self) -> Iterator[Step]:
        if self.found.promoted is None:
            return
        forth = self.stage.must("rollback", "--to", self.found.promoted, *BY, "--reason", "the doubt was unfounded")
        now = self.stage.must("resume", *BY, "--reason", "checked")
        yield Step(
            step="resume",
            title="And forward again",
            says=f"{forth['to']} is live by the same command; automatic promotion goes on, trust is {now['trust']}.",
            command=f"homeostat rollback --to {forth['to']} && homeostat resume",
            facts={"live": forth["to"], "trust": now["trust"]},
        )

    def end(self) -> Iterator[Step]:
        done = self._feed(LATER[2])
        status = self.stage.must("status")
        self.found.cases["end"] = done["cases"]
        yield Step(
            step="end",
            title="The days go on",
            says=f"{done['cases']} cases in all; {status['live']} is live, trust is {status['trust']}.",
            command="homeostat status",
            facts={"cases": done["cases"], "live": status["live"], "trust": status["trust"]},
        )

    # pieces -----------------------------------------------------------------------------------------------------------

    def _feed(self, part: str, *options: str) -> dict[str, Any]:
        self.stage.must("feed", self.cast[part], *options)
        done: dict[str, Any] = self.stage.must("run", "--until-idle")
        return done

    @staticmethod
    def _title(name: str) -> str:
        return name[:1].upper() + name[1:]

    @staticmethod
    def _verdicts(rows: list[dict[str, Any]]) -> str:
        required = [row for row in rows if row["role"] == "require"]
        passed = sum(row["verdict"] == "PASS" for row in required)
        others = [f"{row['gate']} {row['verdict']}" for row in required if row["verdict"] != "PASS"]
        return f"{passed} of {len(required)} required gates pass" + (f"; {', '.join(others)}." if others else ".")


def flipped(whole: bytes) -> bytes:
    """The same bytes but for one bit in their middle."""
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


def _overwrite(path: Path, data: bytes) -> None:
    """Writes into a file of a bundle, which is read-only for a reason."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def _because(failed: list[dict[str, Any]]) -> str:
    forgetting = [row for row in failed if row["gate"].startswith("forgetting")]
    return f"The gate {(forgetting or failed)[0]['gate']} refuses it." if failed else ""
