"""A vendor's frozen classifier through the whole cycle, by the commands: watched, recalibrated, and never adapted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import vendors
from chapters import work_off
from PIL import Image
from torch import nn

from agent.config import Config, render
from agent.demo.stage import Stage
from agent.plan import GATE_RULES, RESPONSES, Labels, Plan, Response
from agent.updates.decide import SEALED
from agent.versions import pointer
from agent.workspace import Workspace
from benchmarks.year.play import at_once

QUIET, NEW = 30, 90


def test_a_black_box_is_deployed_watched_recalibrated_and_rolled_back(tmp_path: Path) -> None:
    """Another scanner tilts the brightness: an alarm without labels, and trust falls; with labels the recipes that move
    weights are left out with a reason, and a bias that undoes most of it passes the gates."""
    (tmp_path / "vendor").mkdir()
    module = vendors.scripted(vendors.Halves(), tmp_path / "vendor" / "classifier.pt")
    vendor = vendors.declare(module)
    home = vendors.write(tmp_path / "home", "harbour", 160, 1)
    quiet = vendors.write(tmp_path / "quiet", "harbour", QUIET, 2)
    new = vendors.write(tmp_path / "new", "hillside", NEW, 3, tilt=vendors.TILT)
    wide = {name: GATE_RULES[name].model_copy(update={"margin": 0.2}) for name in ("forgetting", "calibration")}
    plan = Plan(mode="bounded_auto", labels=Labels(train_patients=20), gates=wide)
    (tmp_path / "plan.yaml").write_text(render(Config(plan=plan)))

    stage = Stage(tmp_path / "site")
    assert "learns nothing" in stage.give("fit", "--data", home, "--task", "classification", "--backbone", vendor,
                                          "--out", tmp_path / "base").value["error"]  # fmt: skip
    made = stage.must("init", "--model", vendor, "--reference", home, "--config", tmp_path / "plan.yaml")
    assert made["sealed"] and made["unseen"] == "unknown"
    assert (stage.root / "base" / "model.ts").read_bytes() == module.read_bytes()
    workspace = Workspace(stage.root, executor=at_once)
    before = stage.must("evaluate", quiet)["measures"]["accuracy"]
    assert before > 0.95

    stage.must("feed", quiet, "--no-labels")
    work_off(workspace)
    assert stage.must("alarms", "--all") == []
    stage.must("feed", new, "--no-labels")
    work_off(workspace)
    assert [alarm for alarm in stage.must("alarms") if alarm["shift"] is not None]
    assert pointer.read(stage.workspace.path("live.json")).trust == "caution"
    status = stage.must("status")
    assert status["sealed"] and status["drift"]["state"] == "drift"
    was = stage.must("evaluate", new)["measures"]["accuracy"]
    assert was < 0.8

    refused = stage.give("update", "--recipe", "lora_rehearsal")
    assert refused.exit_code == 2 and SEALED in refused.value["error"]
    stage.must("labels", "import", new / "cases.csv")
    work_off(workspace)
    says = [e["body"]["says"] for e in stage.must("journal") if e["event"] == "update_decided"]
    assert says and f"linear_probe, lora_rehearsal and full_rehearsal are left out ({SEALED})" in says[0]
    _, v1 = stage.must("versions")
    assert (v1["recipe"], v1["state"]) == ("recalibrate", "probation"), stage.must("show", "v1")["verdicts"]
    assert stage.must("evaluate", new)["measures"]["accuracy"] > was + 0.1
    assert stage.must("evaluate", quiet)["measures"]["accuracy"] > before - 0.1
    assert stage.must("verify")["ok"]
    stage.must("rollback", "--by", "ada", "--reason", "a test")
    assert stage.must("evaluate", new)["measures"]["accuracy"] == was

    flipped = bytearray((stage.root / "base" / "model.ts").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (stage.root / "base" / "model.ts").write_bytes(flipped)
    assert not stage.must("verify")["ok"], "the module is part of the base's digest"


def test_a_plan_that_knows_only_weights_says_once_that_nothing_can_be_tried(tmp_path: Path) -> None:
    """The journal has the reason, and the agent does not turn in circles."""
    (tmp_path / "vendor").mkdir()
    vendor = vendors.declare(vendors.scripted(vendors.Halves(), tmp_path / "vendor" / "m.ts"))
    plan = Plan(
        responses=dict.fromkeys(RESPONSES, Response(recipes=("lora_rehearsal",))), labels=Labels(train_patients=10)
    )
    (tmp_path / "plan.yaml").write_text(render(Config(plan=plan)))
    stage = Stage(tmp_path / "site")
    home, new = vendors.write(tmp_path / "home", "harbour", 80, 1), tmp_path / "new"
    stage.must("init", "--model", vendor, "--reference", home, "--config", tmp_path / "plan.yaml")
    stage.must("feed", vendors.write(new, "hillside", 70, 3, tilt=vendors.TILT))
    work_off(Workspace(stage.root, executor=at_once))
    told = [event["body"]["says"] for event in stage.must("journal") if event["event"] == "update_left_out"]
    assert len(told) == 1 and f"linear_probe and lora_rehearsal are left out ({SEALED})" in told[0]
    assert [version["id"] for version in stage.must("versions")] == ["v0"]


def masked(folder: Path, patients: int, seed: int, bright: int) -> Path:
    """Grey images with a square of so many grey values on ground of 60, and its mask."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows = ["file,case_id,patient_id,site,mask"]
    for i in range(patients):
        image, mask = rng.normal(60, 8, (vendors.SIDE,) * 2), np.zeros((vendors.SIDE,) * 2, np.uint8)
        y, x = rng.integers(2, 10, 2)
        size = rng.integers(6, 12)
        mask[y : y + size, x : x + size] = 1
        image[mask > 0] += bright - 60
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"{i}.mask.png")
        rows.append(f"{i}.png,{seed}-{i},{seed}-p{i},site{seed},{i}.mask.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_bundle_of_torchscript_is_deployed_for_masks_and_watched(tmp_path: Path) -> None:
    """By its metadata alone; home goes on without an alarm, and structures that fade raise one."""
    network = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([-10.0, 10.0]).view(2, 1, 1, 1))
        network.bias.copy_(torch.tensor([5.0, -5.0]))
    for name in ("configs", "models"):
        (tmp_path / "bundle" / name).mkdir(parents=True)
    vendors.scripted(network, tmp_path / "bundle" / "models" / "model.ts")
    image = {"num_channels": 1, "spatial_shape": [vendors.SIDE] * 2, "value_range": [0, 1]}
    pred = {"format": "segmentation", "channel_def": {"0": "background", "1": "spot"}}
    told = {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text(json.dumps(told))
    scaled = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255}
    config = {"network_def": "$import_nothing()", "preprocessing": {"_target_": "Compose", "transforms": [scaled]}}
    (tmp_path / "bundle" / "configs" / "inference.json").write_text(json.dumps(config))
    stage = Stage(tmp_path / "site")
    made = stage.must("init", "--model", tmp_path / "bundle", "--reference", masked(tmp_path / "home", 80, 1, 190))
    assert made["sealed"]
    workspace = Workspace(stage.root, executor=at_once)
    quiet, new = masked(tmp_path / "quiet", 30, 2, 190), masked(tmp_path / "new", 30, 3, 120)
    assert stage.must("evaluate", quiet)["measures"]["dice"] > 0.95
    assert stage.must("evaluate", new)["measures"]["dice"] < 0.5
    stage.must("feed", quiet, "--no-labels")
    work_off(workspace)
    assert stage.must("alarms", "--all") == []
    stage.must("feed", new, "--no-labels")
    work_off(workspace)
    assert [alarm for alarm in stage.must("alarms") if alarm["shift"] is not None]
