"""The whole cycle of a detection, by the commands: boxes in, an alarm without labels, an update, gates, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import NEW_PATIENTS, deployed, learnt

from agent.cases.boxes import read_boxes
from agent.cases.datafolder import read_folder
from agent.demo.stage import Stage
from agent.plan import RESPONSES, GateRule, Labels, Plan


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Deployed at the site of dark cells, with thirty of its patients kept for the feed."""
    # Some twenty-five anchors with few cells each can't show that home is unharmed to a twentieth, as masks can.
    tolerant = {name: GateRule(margin=0.1, burden="no_harm_found") for name in ("forgetting", "calibration")}
    by_lora = {
        name: response.model_copy(update={"recipes": ("lora_rehearsal",) if response.recipes else ()})
        for name, response in RESPONSES.items()
    }
    plan = Plan(mode="bounded_auto", labels=Labels(train_patients=12), responses=by_lora, gates=tolerant)
    scratch = tmp_path_factory.mktemp("boxes")
    stage, made = deployed(scratch, "detection", plan, patients=120, seed=1, epochs=60)
    assert made["metrics"].keys() == {"map50", "map", "froc"} and made["metrics"]["map50"] > 0.75
    return stage


@pytest.mark.slow
def test_a_new_stain_is_seen_without_labels_learnt_with_them_and_undone(stage: Stage) -> None:
    scratch = stage.root.parent
    before, verdicts = learnt(stage)
    assert all("F1" in v["says"] for v in verdicts if v["gate"].startswith(("gain", "forgetting")))
    after = stage.must("evaluate", scratch / "new")
    assert after["measures"]["map50"] > before["measures"]["map50"] + 0.2
    assert stage.must("evaluate", scratch / "quiet")["measures"]["map50"] > 0.65, "and home is kept"
    with stage.workspace.store.read() as connection:
        forms = {row["form"] for row in connection.execute("SELECT DISTINCT form FROM observations")}
        worth = [row["worth"] for row in connection.execute("SELECT worth FROM answers WHERE worth IS NOT NULL")]
    assert forms == {"boxes"} and len(worth) > NEW_PATIENTS and all(0 <= one <= 1 for one in worth)
    assert stage.must("verify")["ok"]
    while stage.must("status")["live"] != "v0":
        stage.must("rollback", "--by", "ada", "--reason", "a test")
    assert stage.must("evaluate", scratch / "new")["measures"] == before["measures"]


@pytest.mark.slow
def test_predict_tells_the_boxes_and_writes_them_as_labels_are_written(stage: Stage, tmp_path: Path) -> None:
    scratch = stage.root.parent
    row = read_folder(scratch / "quiet").rows[0]
    [said] = stage.must("predict", row.file, "--version", "v0", "--out", tmp_path / "found")
    assert said["prediction"].endswith(" cell") and 0.3 < said["expected_f1"] <= 1
    assert said["prediction"] == f"{len(said['boxes'])} cell"
    for box in said["boxes"]:
        assert box["score"] >= 0.5 and 0 <= box["box"][0] < box["box"][2] <= 64
    written = read_boxes(Path(said["boxes_file"]))
    assert len(written) >= len(said["boxes"]) and {box.label for box in written} == {"cell"}
