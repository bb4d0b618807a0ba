"""What a plan asks of a finalist beside its measures: the curve over labelled patients, and domains never seen."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from agent.plan import Portfolio, Question
from agent.updates import replay, worker
from agent.updates.asked import QUESTIONS, SCRATCH, Finalist, label_curve, unseen_domain
from agent.updates.axes import joined, sentences


class Cases:
    """Of patients, two cases each, of which nobody looks at the images."""

    def __init__(self, **domains: range) -> None:
        named = [(f"p{i:03}", domain) for domain, patients in domains.items() for i in patients for _ in range(2)]
        self.patient = np.array([patient for patient, _ in named], np.str_)
        self.domain = np.array([domain for _, domain in named], np.str_)
        self.label = np.arange(len(named)) % 2

    def __len__(self) -> int:
        return len(self.patient)

    def image(self, i: int) -> np.ndarray:
        raise AssertionError("no image is needed")


@dataclass
class Told:
    """What every training again was given; it gains with the patients, and fails where it is told to."""

    fails_at: str = "nowhere"
    had: list[dict] = field(default_factory=list)

    def __call__(self, at, *, afresh=False, new, memory, develop):
        self.had.append({"at": at, "afresh": afresh, "new": new, "memory": memory, "develop": develop})
        gained = len({*new.patient.tolist()}) / 1000
        return ({}, "it diverged") if self.fails_at in at else (measured(home=0.9, vale=0.4 + gained, hill=0.5), "")


def measured(**domains: float) -> dict[str, dict[str, float]]:
    return {domain: {"quality": value, "brier": 0.1, "n": 100} for domain, value in domains.items()}


def finalist(**changes) -> Finalist:
    known = {
        "new": Cases(vale=range(40)),
        "memory": Cases(home=range(100, 120), hill=range(200, 210)),
        "develop": Cases(home=range(300, 310), vale=range(310, 320), hill=range(320, 330)),
        "live_learnt": ["hill"],
        "before": measured(home=0.9, vale=0.4, hill=0.5),
        "after": measured(home=0.9, vale=0.7, hill=0.5),
        "seed": 3,
    }
    return Finalist(**{**known, **changes})


def patients(examples) -> set[str]:
    return {*examples.patient.tolist()}


def test_every_question_that_a_plan_may_name_is_answered() -> None:
    assert {*get_args(Question)} == {*QUESTIONS}
    assert Portfolio().asked == ()
    with pytest.raises(ValueError, match="asked"):
        Portfolio(asked=["everything"])


def test_the_curve_is_of_nested_whole_patients_and_ends_with_the_finalist() -> None:
    """More labels never mean other patients: what is gained is gained by those that came beside."""
    told = Told()
    found = list(label_curve(finalist(), told))[-1]["label_efficiency"]

    eight, sixteen, more = (one["new"] for one in told.had)
    assert patients(eight) < patients(sixteen) < patients(more) < patients(finalist().new)
    assert [len(patients(one)) for one in (eight, sixteen, more)] == found["curve_of"] == [8, 16, 32]
    assert [point["cases"] for point in found["curve"]] == [16, 32, 64]
    assert found["curve"][0] == {"patients": 8, "cases": 16, "gained_on_develop": round(0.008 / 3, 4),
                                 "quality": round(1.808 / 3, 4), "learnt": {"vale": 0.408}}  # fmt: skip
    assert all(patients(one["memory"]) == patients(finalist().memory) and not one["afresh"] for one in told.had)
    again = Told()
    list(label_curve(finalist(), again))
    assert [patients(one["new"]) for one in again.had] == [patients(one["new"]) for one in told.had]
    other = Told()
    list(label_curve(finalist(seed=4), other))
    assert patients(other.had[0]["new"]) != patients(eight)


def test_a_point_of_all_patients_is_the_finalist_and_is_not_trained_again() -> None:
    told = Told()
    found = list(label_curve(finalist(new=Cases(vale=range(16))), told))[-1]["label_efficiency"]
    assert [one["at"] for one in told.had] == ["8 labelled patients (1/2)"]
    assert found["curve"][-1]["gained_on_develop"] == 0.1 and found["curve"][-1]["learnt"] == {"vale": 0.7}


def test_a_new_patient_who_is_not_drawn_is_not_remembered_either() -> None:
    """A domain that had labels before it could be judged is in the memory: its patients would be learnt as well."""
    told = Told()
    list(label_curve(finalist(memory=Cases(home=range(100, 120), vale=range(30))), told))
    for one in told.had:
        assert patients(one["memory"]) <= {f"p{i:03}" for i in range(100, 120)} | patients(one["new"])


def test_each_point_is_told_as_soon_as_it_is_known_and_a_failure_is_one() -> None:
    """A job that is killed in the curve has what came before, and how many there were to be."""
    steps = [json.loads(json.dumps(found)) for found in label_curve(finalist(), Told(fails_at="16 labelled"))]
    lengths = [len(step["label_efficiency"]["curve"]) for step in steps]
    assert lengths == [0, 1, 2, 3] and all(step["label_efficiency"]["curve_of"] == [8, 16, 32] for step in steps)
    assert steps[-1]["label_efficiency"]["curve"][1] == {
        "patients": 16, "cases": 32, "gained_on_develop": None, "quality": None, "learnt": {},
        "failed": "it diverged",
    }  # fmt: skip

    def said(step: dict) -> str:
        record = {"label_efficiency": {"labelled_patients": 40, "gained_on_develop": 0.1}}
        return dict(sentences(joined(record, step)))["label efficiency"]

    assert said(steps[1]).endswith("from 40 labelled patients; curve: +0.003 from 8 (ended after 1 of 3 points)")
    assert said(steps[-1]).endswith("curve: +0.003 from 8, failed from 16, +0.011 from 32")
    assert said(list(label_curve(finalist(new=Cases(vale=range(7))), Told()))[-1]).endswith("; too few for a curve")


def test_an_unseen_domain_is_neither_learnt_nor_remembered_nor_selected_by() -> None:
    """And where the live version had learnt it, the recipe doesn't go on from that."""
    new = Cases(vale=range(10), hill=range(40, 50), home=range(60, 65))
    told = Told()
    found = list(unseen_domain(finalist(new=new), told))[-1]["robustness"]

    assert found["unseen_of"] == [entry["domain"] for entry in found["unseen"]] == ["hill", "vale"]
    for one, domain in zip(told.had, ("hill", "vale"), strict=True):
        assert not any(domain in one[part].domain for part in ("new", "memory", "develop"))
        assert {*one["develop"].domain.tolist()} == {"home", "hill", "vale"} - {domain}
    assert [one["afresh"] for one in told.had] == [True, False]
    assert found["unseen"][0] == {
        "domain": "hill", "n": 100, "quality": 0.5, "before": 0.5, "live_learnt": True,
    }  # fmt: skip
    assert found["unseen_skipped"] == {}


def test_a_domain_that_cannot_be_left_out_has_a_reason() -> None:
    """One new domain beside home: without it there is nothing to learn, and the sentence says so."""

    def asked(**changes) -> tuple[dict, str]:
        found = list(unseen_domain(finalist(**changes), Told(fails_at="hill")))[-1]
        robust = {"worst_domain": {"domain": "vale", "quality": 0.7}, "n": 9,
                  "corrupted": {"before": {"noise": 0.5}, "after": {"noise": 0.6}}}  # fmt: skip
        return found["robustness"], dict(sentences(joined({"robustness": robust}, found)))["robustness"]

    found, says = asked(memory=Cases(home=range(100, 120)))
    assert (found["unseen"], found["unseen_of"]) == ([], [])
    assert says.endswith("; vale not left out: without it there is nothing new to learn")
    assert asked(memory=Cases(), new=Cases(home=range(9)))[1].endswith("; no domain beside home to leave out")
    found, says = asked(develop=Cases(home=range(300, 310), vale=range(310, 320)))
    assert found["unseen_skipped"]["hill"] == "it has no develop case"
    found, says = asked()
    assert found["unseen"][0]["quality"] is None
    assert "; hill failed unseen, live 0.500 (which has learnt it); vale not left out" in says


def test_a_worker_answers_what_is_asked_and_keeps_nothing_of_it(
    tmp_path: Path, home: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalist that won't be judged is asked nothing, a replay trains the version alone, and a job that dies in the
    curve has its candidate and what the curve had come to."""
    rows = list(csv.DictReader((home / "cases.csv").open()))[:80]
    cases = [
        {"uri": f"home/{row['file']}", "media_type": "image/png", "label": row["label"], "patient": row["patient_id"],
         "domain": "vale" if i % 2 else "home"}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    shutil.copytree(home, tmp_path / "home")
    shutil.copytree(base, tmp_path / "base")
    spec = {"kind": "train", "task": "classification", "threads": 1, "base": "base", "live": None,
            "recipes": ["recalibrate"],
            "new": cases[:24], "memory": [], "develop": cases[40:], "classes": sorted({row["label"] for row in rows}),
            "seed": 0, "batch": 16, "margin": 0.05, "shown": True, "stop": "all", "change": 1.0, "learnt": [],
            "asked": ["label_curve", "unseen_domain"], "spares": False}  # fmt: skip
    folder = tmp_path / "jobs" / "job1"
    folder.mkdir(parents=True)

    def result(**changes) -> dict:
        (folder / "job.json").write_text(json.dumps({**spec, **changes}))
        assert worker.main(folder) == 0
        assert not (folder / SCRATCH).exists() and [*(folder / "recipes").iterdir()] == [folder / "recipes/recalibrate"]
        return json.loads((folder / "result.json").read_text())

    kept = result(asked=[])
    parts = {file.name: file.read_bytes() for file in (folder / "recipes" / "recalibrate").iterdir()}
    assert "curve" not in kept["axes"].get("label_efficiency", {}) and "unseen" not in kept["axes"]["robustness"]
    found = result()
    assert parts == {file.name: file.read_bytes() for file in (folder / "recipes" / "recalibrate").iterdir()}
    assert [point["patients"] for point in found["axes"]["label_efficiency"]["curve"]] == [8, 16]
    assert [one["domain"] for one in found["axes"]["robustness"]["unseen"]] == ["vale"]
    assert found["axes"]["robustness"]["n"] == kept["axes"]["robustness"]["n"]
    assert not found["worth_judging"] and "label_efficiency" not in result(spares=True)["axes"]

    again = tmp_path / "jobs" / ".replay-v1"
    (folder / "job.json").write_text(json.dumps(spec))
    replay._train_again(again, folder / "job.json", "recalibrate", lambda *_: None)
    replayed = json.loads((again / "result.json").read_text())["axes"]
    assert "label_efficiency" not in replayed and "unseen" not in replayed["robustness"]

    class Killed(BaseException):
        pass

    def killed_at_sixteen(self, name, at, again=worker._Training.again, **taught):
        if at.startswith("16"):
            raise Killed
        return again(self, name, at, **taught)

    monkeypatch.setattr(worker._Training, "again", killed_at_sixteen)
    with pytest.raises(Killed):
        result()
    left = json.loads((folder / "result.json").read_text())
    assert left["finalist"] == "recalibrate" and left["axes"]["depth"]["of"] > 0
    assert left["axes"]["label_efficiency"] | {"curve": len(left["axes"]["label_efficiency"]["curve"])} == {
        "curve": 1, "curve_of": [8, 16],
    }  # fmt: skip
