"""The whole cycle of a segmentation, by the commands: masks in, an alarm without labels, an update, gates, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sites import deployed, learnt

from agent.cases.datafolder import read_folder
from agent.demo.stage import Stage
from agent.plan import GATE_RULES, Labels, Plan, Portfolio


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Deployed at the site of dark cells, with thirty of its patients kept for the feed."""
    wide = {name: GATE_RULES[name].model_copy(update={"margin": 0.1}) for name in ("forgetting", "calibration")}
    plan = Plan(mode="bounded_auto", labels=Labels(train_patients=12), portfolio=Portfolio(stop="first"), gates=wide)
    scratch = tmp_path_factory.mktemp("masks")
    stage, made = deployed(scratch, "segmentation", plan, patients=140, seed=0, epochs=20)
    assert made["metrics"].keys() == {"dice", "hd95", "nsd"} and made["metrics"]["dice"] > 0.8
    return stage


@pytest.mark.slow
def test_a_new_stain_is_seen_without_labels_learnt_with_them_and_undone(stage: Stage) -> None:
    scratch = stage.root.parent
    before, verdicts = learnt(stage)
    assert all("Dice" in v["says"] for v in verdicts if v["gate"].startswith(("gain", "forgetting")))
    after = stage.must("evaluate", scratch / "new")
    assert after["measures"]["dice"] > before["measures"]["dice"] + 0.2
    assert stage.must("evaluate", scratch / "quiet")["measures"]["dice"] > 0.75, "and home is kept"
    assert stage.must("verify")["ok"]
    assert stage.must("rollback", "--by", "ada", "--reason", "a test")["to"] == "v0"
    assert stage.must("evaluate", scratch / "new")["measures"] == before["measures"]


@pytest.mark.slow
def test_predict_tells_the_structures_and_writes_the_map(stage: Stage, tmp_path: Path) -> None:
    scratch = stage.root.parent
    row = read_folder(scratch / "quiet").rows[0]
    [said] = stage.must("predict", row.file, "--version", "v0", "--out", tmp_path / "maps")
    assert said["prediction"] == "structure 1, structure 2" and 0.5 < said["expected_dice"] <= 1
    assert sum(said["shares"].values()) == pytest.approx(1, abs=1e-4)
    drawn = np.array(Image.open(said["mask"]))
    assert drawn.shape == (64, 64) and {*np.unique(drawn)} == {0, 1, 2}
    true = np.array(Image.open(row.truths["mask"]))
    assert (drawn == true).mean() > 0.9
    assert json.dumps(said)
