"""The whole cycle of a multi-label classification, by the commands: sets of findings in, an alarm without labels, an
update, gates, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sites import FINDINGS, deployed, learnt, marked

from agent.cases.datafolder import read_folder
from agent.cases.findings import findings_of
from agent.demo.stage import Stage
from agent.plan import RESPONSES, GateRule, Labels, Plan


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Deployed at the site of dark images, with thirty of its patients kept for the feed."""
    # Some thirty anchors can't show that home is unharmed to a twentieth.
    tolerant = {name: GateRule(margin=0.1, burden="no_harm_found") for name in ("forgetting", "calibration")}
    by_lora = {
        name: response.model_copy(update={"recipes": ("lora_rehearsal",) if response.recipes else ()})
        for name, response in RESPONSES.items()
    }
    plan = Plan(mode="bounded_auto", labels=Labels(train_patients=12), responses=by_lora, gates=tolerant)
    stage, made = deployed(tmp_path_factory.mktemp("found"), "multilabel", plan, patients=200, seed=0, epochs=40)
    assert made["classes"] == [*FINDINGS] and made["metrics"]["balanced_accuracy"] > 0.8
    return stage


@pytest.mark.slow
def test_a_new_stain_is_seen_without_labels_learnt_with_them_and_undone(stage: Stage) -> None:
    scratch = stage.root.parent
    before, verdicts = learnt(stage)
    assert all("of findings" in v["says"] for v in verdicts if v["gate"].startswith(("gain", "forgetting")))
    [worst] = [v["says"] for v in verdicts if v["gate"] == "worst_structure:home"]
    assert any(f"of {name} " in worst for name in FINDINGS), "a verdict names the finding"
    with stage.workspace.store.read() as connection:
        [evidence] = [row["evidence"] for row in connection.execute("SELECT evidence FROM alarms WHERE shift != ''")]
        labels = {row["value"] for row in connection.execute("SELECT value FROM labels")}
    estimates = json.loads(evidence)["estimated"]
    assert estimates and {one["of"] for one in estimates.values()} == {"share of findings answered rightly"}
    assert "none" in labels and "bar|disc|ring" in labels, "in one order, whatever the list had"

    after = stage.must("evaluate", scratch / "new")
    assert after["measures"]["balanced_accuracy"] > before["measures"]["balanced_accuracy"] + 0.2
    assert {*after["by_finding"]} == {*FINDINGS}
    assert stage.must("evaluate", scratch / "quiet")["measures"]["balanced_accuracy"] > 0.75, "and home is kept"

    more = marked(scratch / "more", 9, (0, 20))
    stage.must("feed", more, "--where", "site=bright")
    stage.must("run", "--until-idle")
    assert stage.must("status")["live"] == "v1", "answers that don't sum to 1 are no broken outputs"
    seen = stage.must("performance")
    assert seen["labelled"] == 20 and {"f1", "by_finding"} <= seen["measured"].keys()
    assert stage.must("verify")["ok"]
    assert stage.must("rollback", "--by", "ada", "--reason", "a test")["to"] == "v0"
    assert stage.must("evaluate", scratch / "new")["measures"] == before["measures"]


@pytest.mark.slow
def test_predict_tells_the_findings_as_a_label_is_written(stage: Stage) -> None:
    rows = [row for row in read_folder(stage.root.parent / "quiet").rows if row.label]
    said = stage.must("predict", *(row.file for row in rows), "--version", "v0")
    right = 0
    for row, one in zip(rows, said, strict=True):
        found = findings_of(one["prediction"])
        assert found == [name for name in FINDINGS if one["probabilities"][name] >= 0.5]
        right += found == findings_of(row.label or "")
    assert right > len(rows) / 3, "of every third case each finding is right"


@pytest.mark.slow
def test_a_broken_or_unknown_label_costs_the_label_and_not_the_case(stage: Stage, tmp_path: Path) -> None:
    folder = marked(tmp_path / "odd", 5, (4, 0))
    listed = (folder / "cases.csv").read_text().splitlines()
    labels = ["none|bar", "martian|bar", "No Finding", "disc | bar"]
    rows = [f"{line.rpartition(',')[0]},{label}" for line, label in zip(listed[1:], labels, strict=True)]
    (folder / "cases.csv").write_text("\n".join([listed[0], *rows]) + "\n")
    taken = stage.must("feed", folder)
    assert (taken["accepted"], taken["quarantined"], taken["labels"]) == (4, 0, 2)
    assert (taken["unknown_classes"], taken["wrong_labels"]) == (1, 1)
    assert stage.must("status")["unknown_classes"] == ["martian"]
