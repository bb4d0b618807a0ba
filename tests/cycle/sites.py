"""A site of masks or boxes for the stories: generated cells of two stains, a base fitted on the dark ones, deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.cases.datafolder import read_folder
from agent.config import Config, render
from agent.demo.stage import Stage
from agent.plan import Plan
from agent.versions import pointer
from benchmarks.tasks.agent import write
from benchmarks.tasks.generated import changes

QUIET, NEW_PATIENTS = 30, 90  # of home for the feed; of the other site


def deployed(scratch: Path, task: str, plan: Plan, *, patients: int, seed: int, epochs: int) -> tuple[Stage, Any]:
    """The stage of a workspace in `scratch`/site, and what `fit` answered; mine, quiet and new lie beside."""
    change = next(one for one in changes(scratch, seed, (patients, NEW_PATIENTS)) if one.task == task)
    rows = read_folder(change.folder).rows
    home, new = ([row for row in rows if row.site == site] for site in ("dark", "bright"))
    for name, some in {"mine": home[QUIET:], "quiet": home[:QUIET], "new": new}.items():
        write(scratch / name, some, task)
    (scratch / "plan.yaml").write_text(render(Config(plan=plan)))
    stage = Stage(scratch / "site")
    made = stage.must("fit", "--data", scratch / "mine", "--task", task, "--out", scratch / "base",
                      "--size", "64", "--epochs", str(epochs))  # fmt: skip
    stage.must("init", "--model", scratch / "base", "--reference", scratch / "mine", "--config", scratch / "plan.yaml")
    return stage, made


def learnt(stage: Stage) -> tuple[Any, list[dict[str, Any]]]:
    """Home goes on and nobody is called; the new site comes without labels and is alarmed; labels come, and a version
    goes live. Answers with what v0 was worth at the new site, and the verdicts on the version."""
    scratch = stage.root.parent
    assert stage.must("feed", scratch / "quiet", "--no-labels")["accepted"] == QUIET
    stage.must("run", "--until-idle")
    assert stage.must("alarms", "--all") == [], "home goes on as it was"
    before = stage.must("evaluate", scratch / "new")
    stage.must("feed", scratch / "new", "--no-labels")
    stage.must("run", "--until-idle")
    alarms = [alarm for alarm in stage.must("alarms") if alarm["shift"] is not None]
    assert alarms and alarms[0]["opened_at_case"] <= QUIET + 20, "within two ticks of ten"
    assert not {alarm["shift"] for alarm in alarms} & {"prevalence", "annotation"}
    assert pointer.read(stage.workspace.path("live.json")).trust == "caution"
    assert stage.must("labels", "import", scratch / "new" / "cases.csv")["joined"] == NEW_PATIENTS
    stage.must("run", "--until-idle")
    version = stage.must("versions")[-1]
    verdicts = stage.must("show", version["id"])["verdicts"]
    assert version["state"] in ("probation", "active"), verdicts
    gates = {verdict["gate"].split(":")[0] for verdict in verdicts}
    assert gates >= {"gain", "forgetting", "calibration", "negative_flips", "worst_structure"}
    return before, verdicts
