"""Findings that don't exclude each other as the agent has them: how a label is read and kept, what an answer is worth,
what is measured and told."""

from __future__ import annotations

import json
from pathlib import Path

import deployed
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stocked import answered
from taking import make_workspace, rows, write_list, write_png

from agent.answer import Answer
from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples
from agent.cases.findings import as_text, findings_of
from agent.cases.intake import Intake
from agent.cases.labels import UNKNOWN, import_labels
from agent.cases.wanted import wanted
from agent.cli import parse
from agent.clock import rfc3339
from agent.commands import deploy
from agent.drift.performance import OF_KIND, sentence
from agent.drift.reference import classes_in
from agent.errors import HomeostatError
from agent.store import insert
from agent.tasks import TASKS, Task, answer, rows_of, task_for, task_named
from agent.tasks.task import Detailed
from agent.workspace import Workspace, get_setting, put_setting
from monitors import case_set_f1
from strategies.base import read_record
from strategies.findings import MOST
from strategies.protocols import Preprocessing

MULTILABEL = task_named("multilabel")
CLASSES = ["effusion", "mass", "nodule"]


def folder_of(root: Path, labels: list[str], first: int = 0) -> Path:
    for i, _ in enumerate(labels, first):
        write_png(root / f"{i}.png", i)
    return write_list(root, [{"file": f"{i}.png", "case_id": f"c{i}", "label": v} for i, v in enumerate(labels, first)])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = make_workspace(tmp_path / "ws")
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
        put_setting(connection, "task", "multilabel")
    return workspace


class Says:
    """A version that says the same of every image."""

    classes = CLASSES
    preprocessing = Preprocessing(size=4, mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self, *said: float, thresholds: tuple[float, ...] = (0.5,)) -> None:
        self.said, self.thresholds = np.array(said, np.float32), np.array(thresholds)

    def prepare(self, image: np.ndarray):
        return torch.zeros(3, 4, 4)

    def answer(self, batch) -> np.ndarray:
        return np.tile(self.said, (len(batch), 1))

    def decide(self, said: np.ndarray) -> np.ndarray:
        return said >= self.thresholds

    def observe(self, batch):
        from strategies.predictor import Observation

        return Observation(self.answer(batch), self.answer(batch), np.zeros((len(batch), 3), np.float32))


# Labels


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("mass", ["mass"]),
        ("nodule|effusion", ["effusion", "nodule"]),
        (" nodule | effusion |", ["effusion", "nodule"]),
        ("mass|mass", ["mass"]),
        ("none", []),
        ("No Finding", []),
        ("no_finding", []),
        ("None|no finding", []),
    ],
)
def test_a_label_names_findings_or_says_that_there_is_none(value: str, found: list[str]) -> None:
    """As they are written in public data; what is kept of it reads the same."""
    assert findings_of(value) == found == findings_of(as_text(found))


@pytest.mark.parametrize("value", ["none|mass", "mass|No Finding", "|", " | "])
def test_a_label_that_contradicts_itself_is_refused(value: str) -> None:
    """No finding beside one, and a separator between nothing: nobody can say what was meant."""
    with pytest.raises(ValueError, match="no finding"):
        findings_of(value)
    assert MULTILABEL.targets([value], CLASSES).tolist() == [-1]


def test_a_target_is_a_set_and_no_label_is_no_empty_one() -> None:
    """In any order; a finding that the model doesn't know makes the label none of its own."""
    values = ["mass", "mass|effusion", "effusion|mass", "none", None, "", "martian", "mass|martian"]
    assert MULTILABEL.targets(values, CLASSES).tolist() == [2, 3, 3, 0, -1, -1, -1, -1]


def test_the_findings_of_a_folder_to_learn_from(tmp_path: Path) -> None:
    """Sorted, `none` not among them; a contradiction is named by its line."""
    assert (
        MULTILABEL.classes(read_folder(folder_of(tmp_path / "a", ["mass|effusion", "none", "nodule"])).rows) == CLASSES
    )
    with pytest.raises(HomeostatError, match=r"line 3 of cases\.csv: 'none\|mass' says"):
        MULTILABEL.classes(read_folder(folder_of(tmp_path / "b", ["mass", "none|mass"])).rows)
    with pytest.raises(HomeostatError, match="every case is labelled as one without a finding"):
        MULTILABEL.classes(read_folder(folder_of(tmp_path / "c", ["none", "No Finding"])).rows)
    many = "|".join(f"f{i}" for i in range(MOST + 1))
    with pytest.raises(HomeostatError, match=f"{MOST + 1} different findings: a model has {MOST} at most"):
        MULTILABEL.classes(read_folder(folder_of(tmp_path / "d", [many])).rows)


def test_intake_keeps_one_order_and_an_unknown_finding_costs_the_label(workspace: Workspace, tmp_path: Path) -> None:
    """Every case is taken; the unknown name alone is told of; a contradiction is told by its line."""
    said: list[str] = []
    folder = folder_of(tmp_path / "in", ["nodule|effusion", "No Finding", "mass|martian", "none|mass", ""])
    taken = Intake(workspace, tell=said.append).take(folder)
    assert (taken["accepted"], taken["labels"], taken["unknown_classes"], taken["wrong_labels"]) == (5, 2, 1, 1)
    assert rows(workspace, "SELECT case_id, kind, value FROM labels ORDER BY case_id") == [
        {"case_id": "c0", "kind": "findings", "value": "effusion|nodule"},
        {"case_id": "c1", "kind": "findings", "value": "none"},
    ]
    with workspace.store.read() as connection:
        assert get_setting(connection, UNKNOWN) == ["martian"]
    assert len(said) == 1 and said[0].startswith(
        "line 5 of cases.csv: the case is taken without its label: 'none|mass'"
    )


def test_late_labels_are_sets_too(workspace: Workspace, tmp_path: Path) -> None:
    """The same findings in another order repeat a label, others conflict with it, and what can't be read is told."""
    Intake(workspace).take(folder_of(tmp_path / "in", [""] * 4))
    file = tmp_path / "late.csv"
    file.write_text("case_id,label\nc0,mass|effusion\nc1,None\nc2,mass|martian\nc3,none|mass\n")
    said: list[str] = []
    assert import_labels(workspace, file, tell=said.append) == {
        "joined": 2, "unknown": 0, "conflicts": 0, "refused": 2,
    }  # fmt: skip
    assert "line 4" in said[0] and "'martian' is none of the model's classes" in said[0]
    assert "line 5" in said[1] and "says that there is no finding, and names one" in said[1]
    file.write_text("case_id,label\nc0,effusion| mass\nc1,mass\nc2,none\n")
    assert import_labels(workspace, file) == {"joined": 1, "unknown": 0, "conflicts": 1, "refused": 0}
    with workspace.store.read() as connection:
        assert get_setting(connection, UNKNOWN) == ["martian"]
        labels = connection.execute("SELECT value FROM labels ORDER BY case_id").fetchall()
        assert classes_in(connection, labels).tolist() == [-1, -1, -1], "charts of classes read no sets"
    assert [row["value"] for row in labels] == ["effusion|mass", "none", "none"]


# The task


def test_a_classification_of_several_classes_per_case_is_this_task(tmp_path: Path) -> None:
    """By the contract of the data folder; without a separator nothing changes, nor for tasks whose labels are files."""
    several = read_folder(folder_of(tmp_path / "a", ["mass|effusion", "none"])).rows
    single = read_folder(folder_of(tmp_path / "b", ["mass", "none"])).rows
    assert task_for("classification", several).name == "multilabel" == task_for("multilabel", single).name
    assert task_for("classification", single).name == "classification"
    assert task_for("detection", several).name == "detection"
    with pytest.raises(HomeostatError, match="the task 'guessing' is none of classification, multilabel"):
        task_for("guessing", single)


def test_fit_says_which_task_it_took(tmp_path: Path) -> None:
    """`--task classification` on such a folder: the base is a multi-label one, and people are told."""
    folder = folder_of(tmp_path / "in", ["mass|effusion", "none", "mass", "effusion"] * 8)
    args = parse(["fit", "--data", str(folder), "--task", "classification", "--backbone", "test_resnet", "--size", "32",
                  "--epochs", "1", "--out", str(tmp_path / "base")])  # fmt: skip
    made: Answer = deploy.fit(args)
    assert made.value["task"] == "multilabel" == read_record(tmp_path / "base")["task"]
    assert made.value["classes"] == ["effusion", "mass"]
    assert made.value["metrics"].keys() == {*MULTILABEL.measures}
    text = made.text() if callable(made.text) else made.text
    assert text.startswith("several classes per case: it is fitted as --task multilabel\n")


def test_an_answer_is_worth_the_f1_of_its_set(tmp_path: Path) -> None:
    """By the store's row, the same figure as by its record; without a label what the row has; how sure it is, is the F1
    that it expects of itself."""
    scores = np.array([0.9, 0.7, 0.2], "<f4")

    def outcome(value: str | None, worth: float | None = None) -> tuple[float | None, float]:
        return MULTILABEL.outcome({"scores": scores.tobytes(), "value": value, "worth": worth, "sure": None}, CLASSES)

    worths = [outcome(value)[0] for value in ("mass|effusion", "effusion", "none", "nodule", "martian")]
    assert worths[:4] == pytest.approx([1, 2 / 3, 0, 0]) and worths[4] is None
    assert outcome(None) == (None, pytest.approx(2 * 1.6 / (2 + 1.8))) and outcome(None, 0.0)[0] == 0.0
    rows = rows_of(MULTILABEL, np.tile(scores, (2, 1)), None)
    record = MULTILABEL.record(rows, MULTILABEL.targets(["effusion", None], CLASSES), np.array(["a", "b"]))
    assert case_set_f1(record)[0] == pytest.approx(worths[1]) and record.known.tolist() == [True, False]
    nothing = np.array([0.1, 0.1, 0.1], "<f4").tobytes()
    assert MULTILABEL.outcome({"scores": nothing, "value": "none"}, CLASSES) == (1.0, pytest.approx(0.729))


def test_predict_tells_the_answer_as_a_label_is_written() -> None:
    """By the version's own thresholds; `none` where nothing is found; and nothing is kept beside the scores."""

    def told(predictor: Says) -> dict:
        said = answer(MULTILABEL, predictor, [predictor.prepare(np.zeros((4, 4)))], [(4, 4)])
        assert said.kept == [None]
        return MULTILABEL.told(predictor, said, 0)

    found = told(Says(0.9, 0.2, 0.6))
    assert found["prediction"] == "effusion|nodule" and findings_of(found["prediction"]) == ["effusion", "nodule"]
    assert found["probabilities"] == pytest.approx({"effusion": 0.9, "mass": 0.2, "nodule": 0.6}, abs=1e-6)
    assert found["probability"] == found["expected_f1"] == pytest.approx(2 * 1.5 / (2 + 1.7), abs=1e-4)
    assert told(Says(0.9, 0.2, 0.6, thresholds=(0.95, 0.1, 0.5)))["prediction"] == "mass|nodule"
    assert told(Says(0.1, 0.2, 0.3))["prediction"] == "none"
    assert json.dumps(found)


def test_evaluate_tells_each_finding_with_an_interval(tmp_path: Path) -> None:
    """The measures that the contract names for classes, as means over findings; a finding that no case has is None."""
    rng = np.random.default_rng(0)
    labels = [as_text([name for name in CLASSES[:2] if rng.random() < 0.5]) for _ in range(60)]
    examples = FolderExamples(read_folder(folder_of(tmp_path / "in", [*labels, ""])).rows[:60], CLASSES, MULTILABEL)

    class Knows(Says):
        def answer(self, batch) -> np.ndarray:
            true = np.array([[name in findings_of(label) for name in CLASSES] for label in labels[: len(batch)]])
            del labels[: len(batch)]
            return np.clip(0.25 + 0.5 * true + rng.normal(0, 0.2, true.shape), 0, 1).astype(np.float32)

    truth = [[name in findings_of(label) for name in CLASSES[:2]] for label in labels]
    found = MULTILABEL.measured(Knows(), examples, lambda *_: None)
    assert isinstance(found, Detailed) and len(found) == 60
    measures, details = found.measures(), found.details()
    assert (
        {"accuracy", "balanced_accuracy", "auroc", "ece", "brier", "nll"} <= measures.keys() == {*MULTILABEL.measures}
    )
    area = roc_auc_score(truth, found.record.probability[:, :2])
    assert measures["auroc"] == pytest.approx(area, abs=1e-5)
    assert details["by_finding"]["mass"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(np.array(truth)[:, 1], found.record.probability[:, 1]), abs=1e-4
    )
    assert np.mean([one["ece"] for one in details["by_finding"].values()]) == pytest.approx(measures["ece"], abs=1e-4)
    low, high = details["intervals"]["auroc"]
    assert low < area < high and details["by_finding"]["mass"]["n"] == np.sum(truth, axis=0)[1]
    nodule = details["by_finding"]["nodule"]
    assert nodule["n"] == 0 and nodule["auroc"]["value"] is None and nodule["sensitivity"]["value"] is None
    assert nodule["specificity"]["value"] > 0.7
    assert found.measures(np.zeros(60, bool))["f1"] is None
    others = [task for name, task in TASKS.items() if name != "multilabel"]
    assert len(others) == 3 and {task.exclusive for task in others} == {True}


def test_what_labels_show_is_the_f1_and_each_finding() -> None:
    """With intervals over patients; people are told the F1 first."""
    task: Task = MULTILABEL
    told = [
        {"scores": np.array(said, "<f4").tobytes(), "value": value, "worth": None, "sure": None, "patient_key": str(i)}
        for i, (said, value) in enumerate([((0.9, 0.1, 0.1), "effusion"), ((0.9, 0.1, 0.1), "effusion|mass")] * 12)
    ]
    found = OF_KIND["findings"](task, told, np.ones(24), CLASSES)
    assert found["n"] == 24 and found["f1"]["value"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    low, high = found["f1"]["interval"]
    assert low < found["f1"]["value"] < high
    assert found["overconfidence"]["value"] == pytest.approx(2 * 0.9 / 2.1 - 5 / 6, abs=1e-3)
    assert found["by_finding"]["mass"]["sensitivity"]["value"] == 0
    assert found["by_finding"]["effusion"]["sensitivity"]["value"] == 1
    said = {"version": "v0", "labelled": 24, "cases": 30, "measured": found, "weighted": None, "patients": 24}
    assert "f1 0.833" in sentence(said)


def test_the_least_sure_set_is_asked_for_first(tmp_path: Path) -> None:
    """A case of which nothing is likely is answered surely, though its largest probability is the smallest of all."""
    workspace = deployed.deploy(tmp_path / "site")
    now = rfc3339(workspace.now())
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
        put_setting(connection, "task", "multilabel")
        for i in range(1, 41):
            scores = (0.45, 0.45, 0.55) if i % 10 == 0 else (0.01, 0.02, 0.03)
            connection.execute("INSERT INTO patients VALUES (?, 'judge', ?)", (f"p{i}", now))
            insert(connection, "cases", case_id=f"c{i}", origin="feed", state="observed", patient_key=f"p{i}",
                   domain="home", received_at=now, facts="{}")  # fmt: skip
            answered(connection, workspace, f"c{i}", "v0", "live", scores, number=i)
    asked = {row["case_id"] for row in wanted(workspace, 8)}
    assert {"c10", "c20", "c30", "c40"} <= asked
