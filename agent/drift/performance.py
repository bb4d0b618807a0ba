"""What late labels say of the live version: as they are, and weighted so that they stand for all cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.drift.labelled import UNTAUGHT
from agent.errors import HomeostatError
from agent.store import Connection
from agent.tasks import Task, task_of
from agent.tasks.intervals import drawn, share, with_interval
from agent.tasks.multilabel import by_finding
from agent.versions import registry
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


WINDOW = 1000  # latest answered cases that are looked at
LEAST = 20  # labelled patients, and audited ones, below which nothing is said


def performance(workspace: Workspace, window: int = WINDOW) -> dict[str, Any]:
    """Of the live version's latest `window` answers, by the time of the image: how many have a label by now, and what
    these say.

    `measured` takes each label once. `weighted` takes what was drawn by lot for all that its lot might have drawn, and
    nothing else; None without LEAST such patients. It assumes that who answers for a drawn case does not depend on
    it. Intervals are 95 %: of shares by Wilson (1927) on the effective number of patients (Kish 1965), else of patients
    by the bootstrap. Raises HomeostatError where no answer is there.
    """
    import numpy as np

    if window < 1:
        raise HomeostatError(f"--last is how many answers are looked at, 1 or more, not {window}")
    with workspace.store.read() as connection:
        version = registry.live(connection)["version"]
        rows = _answers(connection, version, window)
        classes, task = get_setting(connection, "classes", []), task_of(connection)
    if not rows:
        raise HomeostatError(f"{version} has not answered a case yet: feed some, then 'homeostat run --until-idle'")
    known = task.targets([row["value"] for row in rows], classes) >= 0
    told = [row for row, one in zip(rows, known, strict=True) if one and task.outcome(row, classes)[0] is not None]
    measured = OF_KIND[task.kind]
    weight = np.array([1 / row["chance"] if row["chance"] else 0.0 for row in told], np.float64)
    audited = {row["patient_key"] for row in told if row["chance"]}
    patients = {row["patient_key"] for row in told}
    return {
        "version": version,
        "from_case": rows[-1]["number"],
        "to_case": rows[0]["number"],
        "cases": len(rows),
        "labelled": len(told),
        "patients": len(patients),
        "coverage": round(len(told) / len(rows), 4),
        "arms": dict(Counter(row["arm"] for row in told)),
        "measured": measured(task, told, np.ones(len(told)), classes) if len(patients) >= LEAST else None,
        "weighted": measured(task, told, weight, classes) if len(audited) >= LEAST else None,
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What a person is told of it first."""
    seen = f"{found['version']}: {found['labelled']} of its latest {found['cases']} answers have a label by now"
    if found["measured"] is None:
        return f"{seen}, of {found['patients']} patients: {LEAST} are needed to say anything"
    best = found["weighted"] or found["measured"]
    name = next(name for name in ("accuracy", "dice", "f1") if name in best)
    low, high = best[name]["interval"]
    of_all = "weighted to all cases" if found["weighted"] else "of those labelled, whoever chose them"
    return f"{seen}; {name} {best[name]['value']:.3f} ({low:.3f} to {high:.3f}), {of_all}"


def _answers(connection: Connection, version: str, window: int) -> list[Mapping[str, Any]]:
    """The latest answers first, with the label where there is one and the patient did not teach the version."""
    return connection.execute(
        f"""SELECT o.number, o.scores, said.worth, said.sure, c.patient_key, l.value, l.arm, a.probability AS chance
            FROM observations o JOIN cases c ON c.case_id = o.case_id
            LEFT JOIN labels l ON l.case_id = o.case_id
            LEFT JOIN answers said ON said.observation = o.id
            LEFT JOIN asked a ON a.case_id = o.case_id AND a.arm = 'audit'
            WHERE o.role = 'live' AND o.version = :version AND o.abstained = 0 AND {UNTAUGHT}
            ORDER BY o.number DESC LIMIT :window""",
        {"version": version, "window": window},
    ).fetchall()


def _of_worths(
    measure: str, task: Task, told: Sequence[Mapping[str, Any]], weight: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    """Of answers with masks or boxes: their worth, Dice or F1, at the size of the answer, and how far the model's own
    expectation of it is above."""
    import numpy as np

    found = np.array([task.outcome(row, classes) for row in told], np.float64)
    unit = np.array([row["patient_key"] for row in told], np.str_)
    every = drawn(weight, unit)
    total = every.sum(axis=1)
    return {
        "n": int((weight > 0).sum()),
        measure: with_interval(every @ found[:, 0] / total),
        "overconfidence": with_interval(every @ (found[:, 1] - found[:, 0]) / total),
    }


def _of_scores(
    _: Task, told: Sequence[Mapping[str, Any]], weight: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    """Of answers with labels: accuracy, Brier score and overconfidence with intervals; sensitivity and specificity per
    class, at the answer that is given (the most probable class)."""
    import numpy as np

    from monitors import Scores, brier

    scores = Scores(
        probability=np.stack([np.frombuffer(row["scores"], "<f4") for row in told]).astype(np.float64),
        target=np.array([classes.index(row["value"]) for row in told], np.int64),
        unit=np.array([row["patient_key"] for row in told], np.str_),
    )
    answer, truth = scores.probability.argmax(axis=1), scores.target
    hit = answer == truth
    every = drawn(weight, scores.unit)

    def asked(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> dict[str, Any]:
        return share(hit, among, weight, scores.unit)

    return {
        "n": int((weight > 0).sum()),
        "accuracy": asked(hit, np.ones(len(truth), bool)),
        "brier": with_interval(brier(scores, every)),
        "overconfidence": with_interval(every @ (scores.probability.max(axis=1) - hit) / every.sum(axis=1)),
        "by_class": {
            name: {
                "sensitivity": asked(answer == k, truth == k),
                "specificity": asked(answer != k, truth != k),
            }
            for k, name in enumerate(classes)
        },
    }


def _of_findings(
    task: Task, told: Sequence[Mapping[str, Any]], weight: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    """Of sets of findings: the F1 of the set, how far the model's own expectation of it is above, and the Brier score;
    AUROC, sensitivity and specificity of each finding."""
    import numpy as np

    from monitors import finding_brier, set_f1
    from monitors.protocols import Findings

    unit = np.array([row["patient_key"] for row in told], np.str_)
    said = np.stack([np.frombuffer(row["scores"], "<f4") for row in told]).astype(np.float64)
    record = task.record(said, task.targets([row["value"] for row in told], classes), unit)
    assert isinstance(record, Findings)
    expected, every = np.array([task.outcome(row, classes)[1] for row in told]), drawn(weight, unit)
    return {
        "n": int((weight > 0).sum()),
        "f1": with_interval(set_f1(record, every)),
        "overconfidence": with_interval(every @ expected / every.sum(axis=1) - set_f1(record, every)),
        "brier": with_interval(finding_brier(record, every)),
        "by_finding": by_finding(record, every, classes),
    }


OF_KIND: dict[str, Callable[..., dict[str, Any]]] = {
    "class": _of_scores,
    "findings": _of_findings,
    "mask": partial(_of_worths, "dice"),
    "boxes": partial(_of_worths, "f1"),
}  # by the kind of label
