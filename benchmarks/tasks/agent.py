"""The agent on a change: deployed at home, it sees more of home, then the new site without labels; then with them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.cases.datafolder import Row
from agent.cases.examples import FolderExamples
from agent.cases.intake import Intake
from agent.cases.labels import COLUMNS, import_labels
from agent.config import Config, render
from agent.daemon import work_off
from agent.deploy import init
from agent.plan import Labels, Plan
from agent.tasks import task_named
from agent.versions import registry
from agent.workspace import Workspace
from benchmarks.tasks import Change, split_of

PLAN = Plan(mode="bounded_auto", labels=Labels(train_patients=12))


def watch(change: Change, seed: int, rows: Mapping[tuple[str, str], Sequence[Row]], scratch: Path) -> dict[str, Any]:
    """What became of it: `false_alarms` while home went on, `alarm_after_cases` of the new site (None without one),
    `shift` as it was named, the state and recipe of the last version, the gates that did not pass, and what is live."""
    from strategies.predictor import Predictor

    patients = sorted({row.patient_id for row in rows["home", "develop"]})
    quiet_ones = {*patients[seed % 2 :: 2]}  # of those who taught nothing and don't judge
    quiet = [row for row in rows["home", "develop"] if row.patient_id in quiet_ones]
    known = [row for part in ("train", "develop", "judge") for row in rows["home", part] if row not in quiet]
    new = [row for part in ("train", "develop", "judge") for row in rows["new", part]]
    base, root = scratch / "deployed", scratch / "site"
    shutil.copytree(scratch / "base", base)
    split_of(change, seed).write(base)
    config = scratch / "homeostat.yaml"
    config.write_text(render(Config(plan=PLAN)))
    write(scratch / "reference", known, change.task)
    init(root, base, scratch / "reference", where=(), config=config, progress=lambda *_: None)
    workspace = Workspace(root)
    fed = {"quiet": quiet, "new": new}
    alarms: dict[str, list[Any]] = {}
    for name, some in fed.items():
        Intake(workspace).take(write(scratch / name, some, change.task), labels=False)
        work_off(workspace)
        with workspace.store.read() as connection:
            found = connection.execute("SELECT * FROM alarms WHERE shift IS NOT NULL ORDER BY id").fetchall()
        alarms[name] = found
    late = scratch / "new" / "cases.csv"
    import_labels(workspace, late)
    work_off(workspace)
    with workspace.store.read() as connection:
        version = registry.versions(connection)[-1]
        verdicts = registry.verdicts(connection, version["id"])
        live = registry.live(connection)["version"]
    after = [alarm for alarm in alarms["new"] if alarm["id"] not in {one["id"] for one in alarms["quiet"]}]
    parts = None if live == "v0" else workspace.path("versions", live)
    predictor, task = Predictor.load(workspace.base, parts), task_named(change.task)
    classes = task.classes([row for some in rows.values() for row in some])
    worth = {
        site: task.measured(predictor, FolderExamples(rows[site, "judge"], classes, task), lambda *_: None).measures()
        for site in ("home", "new")
    }
    return {
        "false_alarms": len(alarms["quiet"]),
        "alarm_after_cases": after[0]["opened_at_case"] - len(quiet) if after else None,
        "shift": after[0]["shift"] if after else None,
        "estimated": json.loads(after[0]["evidence"]).get("estimated") if after else None,
        "version": version["id"],
        "recipe": version["recipe"],
        "state": version["state"],
        "live": live,
        "not_passed": [f"{v['gate']}: {v['verdict']} (n={v['n']})" for v in verdicts if v["verdict"] != "PASS"],
        **{site: measures[task.column] for site, measures in worth.items()},
    }


def write(folder: Path, rows: Sequence[Row], task: str) -> Path:
    """A data folder of copies, with the labels of its task."""
    folder.mkdir(parents=True)
    column = COLUMNS[task_named(task).kind]
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as listed:
        writer = csv.writer(listed)
        writer.writerow(["file", "case_id", "patient_id", "site", "scanner", column])
        for i, row in enumerate(rows):
            image = f"{i:05}{row.file.suffix}"
            shutil.copyfile(row.file, folder / image)
            label = row.label
            if file := row.truths.get(column):
                label = f"{i:05}.{column}{file.suffix}"
                shutil.copyfile(file, folder / label)
            writer.writerow([image, row.case_id, row.patient_id, row.site or "", row.scanner or "", label])
    return folder
