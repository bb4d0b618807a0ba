"""What late labels say of the live version: as they are, and weighted so that they stand for all cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.drift.labelled import UNTAUGHT
from agent.errors import HomeostatError
from agent.store import Connection
from agent.versions import registry
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monitors import Scores

WINDOW = 1000  # latest answered cases that are looked at
LEAST = 20  # labelled patients, and audited ones, below which nothing is said
RESAMPLES, SEED = 1000, 0


def performance(workspace: Workspace, window: int = WINDOW) -> dict[str, Any]:
    """Of the live version's latest `window` answers, by the time of the image: how many have a label by now, and what
    these say.

    `measured` takes each label once. `weighted` takes an audited one for all cases that the lot might have drawn, one
    that was asked for outright for itself, and leaves out those that came unasked; None without LEAST audited patients.
    Intervals are 95 %, of patients (bootstrap). Raises HomeostatError where no answer is there.
    """
    import numpy as np

    from monitors import Scores

    with workspace.store.read() as connection:
        version = registry.live(connection)["version"]
        rows = _answers(connection, version, window)
        classes = get_setting(connection, "classes", [])
    if not rows:
        raise HomeostatError(f"{version} has not answered a case yet: feed some, then 'homeostat run --until-idle'")
    told = [row for row in rows if row["value"] in classes]
    scores = Scores(
        probability=np.stack([np.frombuffer(row["scores"], "<f4") for row in told or rows]).astype(np.float64),
        target=np.array([classes.index(row["value"]) for row in told] or [-1] * len(rows), np.int64),
        unit=np.array([row["patient_key"] for row in told or rows], np.str_),
    )
    weight = np.array([1 / row["probability"] if row["probability"] else 0.0 for row in told], np.float64)
    audited = {row["patient_key"] for row in told if row["arm"] == "audit"}
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
        "measured": _measured(scores, np.ones(len(told)), classes) if len(patients) >= LEAST else None,
        "weighted": _measured(scores, weight, classes) if len(audited) >= LEAST else None,
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What a person is told of it first."""
    seen = f"{found['version']}: {found['labelled']} of its latest {found['cases']} answers have a label by now"
    if found["measured"] is None:
        return f"{seen}, of {found['patients']} patients: {LEAST} are needed to say anything"
    best = found["weighted"] or found["measured"]
    low, high = best["accuracy"]["interval"]
    of_all = "weighted to all cases" if found["weighted"] else "of those labelled, whoever chose them"
    return f"{seen}; accuracy {best['accuracy']['value']:.3f} ({low:.3f} to {high:.3f}), {of_all}"


def _answers(connection: Connection, version: str, window: int) -> list[Mapping[str, Any]]:
    """The latest answers first, with the label where there is one and the patient did not teach the version."""
    return connection.execute(
        f"""SELECT o.number, o.scores, c.patient_key, l.value, l.arm, l.probability
            FROM observations o JOIN cases c ON c.case_id = o.case_id
            LEFT JOIN labels l ON l.case_id = o.case_id AND l.kind = 'class'
            WHERE o.role = 'live' AND o.version = :version AND o.abstained = 0 AND {UNTAUGHT}
            ORDER BY o.number DESC LIMIT :window""",
        {"version": version, "window": window},
    ).fetchall()


def _measured(scores: Scores, weight: NDArray[np.floating], classes: Sequence[str]) -> dict[str, Any]:
    """accuracy, brier and calibration in the large of the top answer with intervals; sensitivity and specificity per
    class, at the answer that is given (the most probable class)."""
    import numpy as np

    from monitors import accuracy, brier, patient_weights

    answer, truth = scores.probability.argmax(axis=1), scores.target
    draws = np.concatenate([np.asarray(w, np.float64) for w in patient_weights(scores.unit, RESAMPLES, SEED)]) * weight

    def told(values: NDArray[np.floating]) -> dict[str, Any]:
        low, high = np.nanquantile(values[1:], (0.025, 0.975)) if np.isfinite(values[1:]).any() else (np.nan, np.nan)
        return {"value": _round(values[0]), "interval": [_round(low), _round(high)]}

    def share(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> dict[str, Any]:
        every = np.vstack([weight, draws])
        with np.errstate(invalid="ignore", divide="ignore"):
            return {**told((every @ (hit & among)) / (every @ among)), "n": int((among & (weight > 0)).sum())}

    every = np.vstack([weight, draws])
    return {
        "accuracy": told(accuracy(scores, every)),
        "brier": told(brier(scores, every)),
        "overconfidence": told(every @ (scores.probability.max(axis=1) - (answer == truth)) / every.sum(axis=1)),
        "by_class": {
            name: {
                "sensitivity": share(answer == k, truth == k),
                "specificity": share(answer != k, truth != k),
            }
            for k, name in enumerate(classes)
        },
    }


def _round(value: float) -> float | None:
    return round(float(value), 4) if value == value else None
