"""What the record of a job and the plan say of an update, as the version's page and `show` have it."""

from __future__ import annotations

import json
from pathlib import Path

from agent.plan import Plan
from agent.updates.axes import burden, of_record, sentences

DIGEST = "ab" * 32
ENTRY = {"uri": f"objects/ab/{DIGEST}", "label": "a"}


def record(tmp_path: Path, plan: Plan, *, loose: bool = False) -> dict:
    job, parts = tmp_path / "job1", tmp_path / "job1" / "recipes" / "linear_probe"
    parts.mkdir(parents=True)
    (parts / "head.safetensors").write_bytes(b"x" * 100)
    new = [ENTRY, {"uri": "somewhere/image.png", "label": "b"}] if loose else [ENTRY]
    (job / "job.json").write_text(json.dumps({"new": new, "memory": [], "develop": [ENTRY]}))
    return of_record(plan, "linear_probe", {"seconds": 12.0, "peak_mib": 300.0}, job, parts, 24, 0.0512)


def test_every_input_is_named_by_its_hash(tmp_path: Path) -> None:
    """What lies under another name can't be traced by an auditor, and is counted as such."""
    assert record(tmp_path / "a", Plan())["auditability"] | {"spec": ""} == {
        "inputs": 2, "hashed": 2, "spec": "", "replays": None,
    }  # fmt: skip
    loose = record(tmp_path / "b", Plan(), loose=True)["auditability"]
    assert (loose["inputs"], loose["hashed"]) == (3, 2)


def test_cost_and_label_efficiency_are_numbers(tmp_path: Path) -> None:
    """Seconds, memory and bytes; what was gained from how many labelled patients."""
    axes = record(tmp_path, Plan())

    assert axes["cost"] == {"seconds": 12.0, "peak_mib": 300.0, "bytes": 100}
    assert axes["label_efficiency"] == {"labelled_patients": 24, "gained_on_develop": 0.0512}


def test_burden_cites_the_clause_of_the_plan() -> None:
    """What the plan declares may go live by itself where its mode says so; all else takes a person."""
    assert burden(Plan(mode="bounded_auto"), "linear_probe")["how"] == "automatic"
    assert "plan.responses.acquisition" in burden(Plan(mode="bounded_auto"), "linear_probe")["clauses"]
    assert burden(Plan(), "linear_probe")["how"] == "by approval"
    assert burden(Plan(mode="bounded_auto"), "full_finetune") == {"clauses": [], "how": "outside the plan, by approval"}


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    """A job that ran out of time has no depth; the other axes are told all the same."""
    said = dict(sentences(record(tmp_path, Plan())))

    assert said.keys() == {"label efficiency", "cost", "auditability", "burden"}
    assert "2 of 2 inputs by hash" in said["auditability"]
