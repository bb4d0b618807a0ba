"""Deployed: models that somebody else trained are imported with their own heads, watched at home, then elsewhere.

`homeostat bench deployed --data DIR` takes the two in `DIR/models`: a MobileNetV3 of children's chest films (`DIR/cxr`:
Guangzhou, then Bethesda's adults) and a W-Net of retinal vessels (`DIR/retina`: DRIVE, then CHASE_DB1). Half of home's
patients, drawn by the seed, are the reference; the other half comes first, then the other site, all without labels.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cases.datafolder import Row, read_folder
from agent.cases.examples import FolderExamples
from agent.cases.intake import Intake
from agent.daemon import work_off
from agent.deploy import init
from agent.errors import HomeostatError
from agent.tasks import task_named
from agent.workspace import Workspace
from benchmarks.tasks.agent import write

SHUFFLES = 5  # of --full

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Deployed:
    """A model's file in `models`, as a backbone's name asks for it, and the two sites of a data folder."""

    name: str
    spec: str
    folder: str
    home: str
    new: str
    classes: tuple[str, ...]
    task: str = "classification"
    size: int | None = None


REAL = (
    Deployed(
        "chest",
        "mobilenet_v3_small:{models}/mobilenetv3_small_kermany_cxr.npz",
        "cxr",
        "kermany_guangzhou",
        "nih_bethesda",
        ("normal", "pneumonia"),
        size=224,
    ),
    Deployed(
        "vessels",
        "{models}/lwnet_wnet_drive.npz",
        "retina",
        "drive_nl",
        "chase_uk",
        ("background", "mask"),
        "segmentation",
    ),
)


def bench(
    data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per model and shuffle. Raises HomeostatError without the data.

    Ratios by model, medians over shuffles: `new_to_home` of what its answers are worth there and here, and
    `alarm_after_cases` of the new site, None where one shuffle raised none.
    """
    if data is None:
        raise HomeostatError("bench deployed needs --data DIR, the folder that holds models, cxr and retina")
    rows = []
    played = [(one, seed + i) for one in REAL for i in range(SHUFFLES if full else 1)]
    for number, (one, shuffle) in enumerate(played, 1):
        with tempfile.TemporaryDirectory(prefix="homeostat-deployed-") as scratch:
            rows.append(play(one, data, shuffle, Path(scratch)))
        if progress is not None:
            progress(f"{one.name}, seed {shuffle}", number, len(played))
    ratios: dict[str, Any] = {}
    for one in REAL:
        from statistics import median

        mine = [row for row in rows if row["model"] == one.name]
        after = [row["alarm_after_cases"] for row in mine]
        ratios[f"{one.name}.new_to_home"] = round(median(row["new"] / row["home"] for row in mine), 4)
        ratios[f"{one.name}.alarm_after_cases"] = None if None in after else median(after)
    return {"name": "deployed", "rows": rows, "ratios": ratios}


def play(one: Deployed, data: Path, seed: int, scratch: Path) -> dict[str, Any]:
    """What its answers are worth at both sites by the task's own measure; `false_alarms` while home went on,
    `alarm_after_cases` of the new site (None without one), and `shift` as the alarm was named."""
    from strategies.base import import_base
    from strategies.predictor import Predictor

    task = task_named(one.task)
    sites = {
        name: [row for row in read_folder(data / one.folder, (f"site={site}",)).rows if task.said(row)]
        for name, site in (("home", one.home), ("new", one.new))
    }
    patients = sorted({row.patient_id for row in sites["home"]})
    random.Random(f"deployed {seed}").shuffle(patients)
    known = {*patients[: len(patients) // 2]}
    parts: dict[str, Sequence[Row]] = {
        "reference": [row for row in sites["home"] if row.patient_id in known],
        "quiet": [row for row in sites["home"] if row.patient_id not in known],
        "new": sites["new"],
    }
    base, root = scratch / "base", scratch / "site"
    import_base(one.spec.format(models=data / "models"), one.classes, base, size=one.size, task=one.task)
    init(root, base, write(scratch / "reference", parts["reference"], one.task), where=(), config=None,
         progress=lambda *_: None)  # fmt: skip
    workspace = Workspace(root)
    opened: dict[str, list[Any]] = {}
    for name in ("quiet", "new"):
        Intake(workspace).take(write(scratch / name, parts[name], one.task), labels=False)
        work_off(workspace)
        with workspace.store.read() as connection:
            opened[name] = connection.execute("SELECT * FROM alarms ORDER BY id").fetchall()
    after = opened["new"][len(opened["quiet"]) :]
    predictor = Predictor.load(workspace.base)
    worth = {
        name: task.measured(predictor, FolderExamples(parts[name], one.classes, task), lambda *_: None).measures()
        for name in ("quiet", "new")
    }
    column = task.column
    return {
        "model": one.name,
        "seed": seed,
        "n_home": len(parts["quiet"]),
        "n_new": len(parts["new"]),
        "home": worth["quiet"][column],
        "new": worth["new"][column],
        "home_measures": worth["quiet"],
        "new_measures": worth["new"],
        "false_alarms": len(opened["quiet"]),
        "alarm_after_cases": after[0]["opened_at_case"] - len(parts["quiet"]) if after else None,
        "shift": after[0]["shift"] if after else None,
    }
