"""A site of masks, boxes or findings for the stories: generated images of two stains, a base fitted on the dark ones,
deployed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.cases.datafolder import read_folder
from agent.config import Config, render
from agent.demo.stage import Stage
from agent.plan import Plan
from agent.versions import pointer
from benchmarks.tasks.agent import write
from benchmarks.tasks.generated import changes

QUIET, NEW_PATIENTS = 30, 90  # of home for the feed; of the other site


FINDINGS = ("bar", "disc", "ring")
SIDE = 64


def deployed(scratch: Path, task: str, plan: Plan, *, patients: int, seed: int, epochs: int) -> tuple[Stage, Any]:
    """The stage of a workspace in `scratch`/site, and what `fit` answered; mine, quiet and new lie beside."""
    if task == "multilabel":
        folder = marked(scratch / "marked", seed, (patients, NEW_PATIENTS))
    else:
        folder = next(one.folder for one in changes(scratch, seed, (patients, NEW_PATIENTS)) if one.task == task)
    rows = read_folder(folder).rows
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


def marked(folder: Path, seed: int, patients: tuple[int, int]) -> Path:
    """A data folder of patients, one image each, dark ones and then bright ones: of FINDINGS each by itself is there or
    not, so that some images have none."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "label"])
        for site, n in zip(("dark", "bright"), patients, strict=True):
            for i in range(n):
                found = [name for name in FINDINGS if rng.random() < 0.45]
                picture = stained(drawn(found, rng), site, rng)
                Image.fromarray(picture).save(folder / f"{site}{i:03}.png")
                label = "|".join(rng.permutation(found)) if found else ("none", "No Finding")[i % 2]
                writer.writerow([f"{site}{i:03}.png", *[f"{site}{i} of {seed}"] * 2, site, label])
    return folder


def drawn(found: Sequence[str], rng: np.random.Generator) -> NDArray[np.intp]:
    """[h, w] the number of the finding that is there, from 1 on: each has a quarter of the image, a form, a shade."""
    y, x = np.mgrid[:SIDE, :SIDE]
    there = np.zeros((SIDE, SIDE), int)
    for name, corner in zip(found, rng.permutation([(0, 0), (0, 32), (32, 0), (32, 32)]), strict=False):
        middle, radius = corner + rng.uniform(13, 19, 2), rng.uniform(8, 11)
        distance = np.hypot(y - middle[0], x - middle[1])
        within = {
            "bar": (np.abs(y - middle[0]) < 4) & (np.abs(x - middle[1]) < 12),
            "disc": distance < radius,
            "ring": (distance < radius) & (distance > radius - 4),
        }
        there[within[name]] = 1 + FINDINGS.index(name)
    return there


def stained(there: NDArray[np.intp], site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[h, w, 3]: light on dark, or dark colours on a bright ground."""
    shades = {
        "dark": [[20, 20, 20], [90, 90, 90], [150, 150, 150], [220, 220, 220]],
        "bright": [[235, 220, 230], [190, 150, 190], [150, 90, 160], [90, 50, 120]],
    }[site]
    image = np.array(shades, float)[there] * rng.uniform(0.93, 1.07)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
