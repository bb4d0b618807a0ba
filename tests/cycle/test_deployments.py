"""Every typical deployment in configs/ from the fit to the first answers, on few generated images of its task."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import published
import pytest
import torch

from agent.cases.datafolder import read_folder
from agent.cases.images import read_image
from agent.demo.stage import Stage
from agent.versions.serve import LiveModel
from benchmarks.tasks.agent import write
from benchmarks.tasks.generated import changes
from strategies.base import import_base

CONFIGS = Path(__file__).parents[2] / "configs"
DEPLOYMENTS = {
    "chest_xray": ("classification", "test_resnet"),
    "retinal_vessels": ("segmentation", "monai:unet"),
    "cell_segmentation": ("segmentation", "mobilenet_v3_small"),
    "blood_cells": ("detection", "mobilenet_v3_small"),
}
PLANS = {"default", "observe", "bounded_auto"}

pytestmark = pytest.mark.slow


def test_each_config_is_a_plan_or_a_deployment_that_is_tried_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == PLANS | {*DEPLOYMENTS}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_fitted_watched_and_measured(name: str, tmp_path: Path, home: Path) -> None:
    """The config's plan is the workspace's, cases are answered, and `evaluate` has the task's measures."""
    task, backbone = DEPLOYMENTS[name]
    if task == "classification":
        mine = shutil.copytree(home, tmp_path / "mine")
        feed = shutil.copytree(home, tmp_path / "feed")
        with (feed / "cases.csv").open() as file:
            listed = list(csv.reader(file))
        with (feed / "cases.csv").open("w", newline="") as file:
            csv.writer(file).writerows(listed[:11])
    else:
        change = next(one for one in changes(tmp_path, 0, (40, 12)) if one.task == task)
        rows = read_folder(change.folder).rows
        mine = write(tmp_path / "mine", [row for row in rows if row.site == "dark"], task)
        feed = write(tmp_path / "feed", [row for row in rows if row.site == "bright"], task)
    stage = Stage(tmp_path / "site")
    stage.must("fit", "--data", mine, "--task", task, "--backbone", backbone, "--out", tmp_path / "base",
               "--size", "32", "--epochs", "2")  # fmt: skip
    stage.must("init", "--model", tmp_path / "base", "--reference", mine, "--config", CONFIGS / f"{name}.yaml")
    stage.must("feed", feed, "--no-labels")
    ended = stage.must("run", "--until-idle")
    assert ended["live"] == "v0" and ended["quarantined"] == 0
    found = stage.must("evaluate", feed)
    wanted = {"classification": "accuracy", "segmentation": "dice", "detection": "map50"}[task]
    assert wanted in found["measures"] and found["n"] > 0
    served_as_told(stage, read_folder(feed).rows[0].file)
    assert stage.must("verify")["ok"]


@pytest.mark.parametrize("name", sorted(published.LOCAL))
def test_a_published_detector_is_deployed_with_its_own_head(name: str, tmp_path: Path) -> None:
    """Its answers by anchors or queries are kept, watched, told and measured as those of any detector."""
    torch.manual_seed(0)
    change = next(one for one in changes(tmp_path, 0, (40, 12)) if one.task == "detection")
    rows = read_folder(change.folder).rows
    mine = write(tmp_path / "mine", [row for row in rows if row.site == "dark"], "detection")
    feed = write(tmp_path / "feed", [row for row in rows if row.site == "bright"], "detection")
    (tmp_path / "theirs").mkdir()
    spec = published.LOCAL[name](tmp_path / "theirs", outputs=1 + (name == "retinanet"))
    import_base(spec, ("cell",), tmp_path / "base", size=published.SIDE, task="detection")
    stage = Stage(tmp_path / "site")
    stage.must("init", "--model", tmp_path / "base", "--reference", mine, "--config", CONFIGS / "blood_cells.yaml")
    stage.must("feed", feed, "--no-labels")
    ended = stage.must("run", "--until-idle")
    assert ended["live"] == "v0" and ended["quarantined"] == 0
    assert "map50" in stage.must("evaluate", feed)["measures"]
    assert "boxes" in served_as_told(stage, read_folder(feed).rows[0].file)
    assert stage.must("verify")["ok"]


def served_as_told(stage: Stage, file: Path) -> dict[str, Any]:
    """A service's handle answers as `predict` does, and gives the file that it writes; what that told."""
    out = stage.root.parent / "told"
    [told] = stage.must("predict", file, "--out", out)
    [served] = LiveModel(stage.root).predict([read_image(file)])
    assert (served.version, served.trust) == (told["version"], told["trust"])
    assert told["abstained"] or served.label == told["prediction"]
    assert [served.content] == ([one.read_bytes() for one in out.iterdir()] if out.exists() else [None])
    assert bool(served.probabilities) == (served.content is None)
    return told
