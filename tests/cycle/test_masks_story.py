"""The whole cycle of a segmentation, by the commands: masks in, an alarm without labels, an update, gates, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.cases.datafolder import read_folder
from agent.config import Config, render
from agent.demo.stage import Stage
from agent.plan import GATE_RULES, Labels, Plan, Portfolio
from agent.versions import pointer
from agent.workspace import Workspace
from benchmarks.tasks.agent import write
from benchmarks.tasks.generated import changes

HOME_PATIENTS, NEW_PATIENTS = 140, 90


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Deployed at the site of dark cells, with thirty of its patients kept for the feed."""
    scratch = tmp_path_factory.mktemp("masks")
    change, _ = changes(scratch, 0, (HOME_PATIENTS, NEW_PATIENTS))
    rows = read_folder(change.folder).rows
    home, new = ([row for row in rows if row.site == site] for site in ("dark", "bright"))
    write(scratch / "mine", home[30:], "segmentation")
    write(scratch / "quiet", home[:30], "segmentation")
    write(scratch / "new", new, "segmentation")
    wide = {name: GATE_RULES[name].model_copy(update={"margin": 0.1}) for name in ("forgetting", "calibration")}
    plan = Plan(mode="bounded_auto", labels=Labels(train_patients=12), portfolio=Portfolio(stop="first"), gates=wide)
    (scratch / "plan.yaml").write_text(render(Config(plan=plan)))
    stage = Stage.__new__(Stage)
    stage.root = scratch / "site"
    made = stage.must("fit", "--data", scratch / "mine", "--task", "segmentation", "--out", scratch / "base",
                      "--size", "64", "--epochs", "20")  # fmt: skip
    assert made["metrics"].keys() == {"dice", "hd95", "nsd"} and made["metrics"]["dice"] > 0.8
    stage.must("init", "--model", scratch / "base", "--reference", scratch / "mine", "--config", scratch / "plan.yaml")
    stage.scratch = scratch  # type: ignore[attr-defined]
    return stage


@pytest.mark.slow
def test_a_new_stain_is_seen_without_labels_learnt_with_them_and_undone(stage: Stage) -> None:
    scratch: Path = stage.scratch  # type: ignore[attr-defined]
    workspace = Workspace(stage.root)
    assert stage.must("feed", scratch / "quiet", "--no-labels")["accepted"] == 30
    stage.must("run", "--until-idle")
    assert stage.must("alarms", "--all") == [], "home goes on as it was"
    before = stage.must("evaluate", scratch / "new")
    stage.must("feed", scratch / "new", "--no-labels")
    stage.must("run", "--until-idle")
    alarms = [alarm for alarm in stage.must("alarms") if alarm["shift"] is not None]
    assert alarms and alarms[0]["opened_at_case"] <= 30 + 20, "within two ticks of ten"
    assert not {alarm["shift"] for alarm in alarms} & {"prevalence", "annotation"}
    assert pointer.read(workspace.path("live.json")).trust == "caution"
    assert stage.must("labels", "import", scratch / "new" / "cases.csv")["joined"] == NEW_PATIENTS
    stage.must("run", "--until-idle")
    versions = stage.must("versions")
    assert versions[-1]["state"] in ("probation", "active"), stage.must("show", "v1")["verdicts"]
    shown = stage.must("show", "v1")
    gates = {verdict["gate"].split(":")[0] for verdict in shown["verdicts"]}
    assert gates >= {"gain", "forgetting", "calibration", "negative_flips", "worst_structure"}
    assert all("Dice" in v["says"] for v in shown["verdicts"] if v["gate"].startswith(("gain", "forgetting")))
    after = stage.must("evaluate", scratch / "new")
    assert after["measures"]["dice"] > before["measures"]["dice"] + 0.2
    assert stage.must("evaluate", scratch / "quiet")["measures"]["dice"] > 0.75, "and home is kept"
    assert stage.must("verify")["ok"]
    assert stage.must("rollback", "--by", "ada", "--reason", "a test")["to"] == "v0"
    assert stage.must("evaluate", scratch / "new")["measures"] == before["measures"]


@pytest.mark.slow
def test_predict_tells_the_structures_and_writes_the_map(stage: Stage, tmp_path: Path) -> None:
    scratch: Path = stage.scratch  # type: ignore[attr-defined]
    row = read_folder(scratch / "quiet").rows[0]
    [said] = stage.must("predict", row.file, "--version", "v0", "--out", tmp_path / "maps")
    assert said["prediction"] == "structure 1, structure 2" and 0.5 < said["expected_dice"] <= 1
    assert sum(said["shares"].values()) == pytest.approx(1, abs=1e-4)
    drawn = np.array(Image.open(said["mask"]))
    assert drawn.shape == (64, 64) and {*np.unique(drawn)} == {0, 1, 2}
    true = np.array(Image.open(row.truths["mask"]))
    assert (drawn == true).mean() > 0.9
    assert json.dumps(said)
