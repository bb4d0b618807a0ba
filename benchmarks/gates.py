"""`homeostat bench gates`: the paired bootstrap beside a scikit-learn loop, and the gates on others' histories."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitors import Forgetting, Scores, Verdict, WorstSubgroup, accuracy, auroc, ece, paired_all, spend

CASES, RESAMPLES, ALPHA = 10_000, 2000, 0.05
LOOP = 50  # resamples of scikit-learn's loop that are timed where the long table is not asked for


def bench(data: Path | None, seed: int, input: Path | None, full: bool) -> dict[str, Any]:
    """Rows and ratios of the contract's `bench gates`; `data` is not used, the cases are generated.

    `input`: a folder of *.npz histories. Row k of before [k, n] and after [k, n] says whether each case was answered
    rightly by the incumbent and by the k-th candidate; patient [n], group [n]. Rows then answer {"file", "promoted"}.
    """
    if input is not None:
        histories = [{"file": file.name, "promoted": promoted(file, seed)} for file in sorted(input.glob("*.npz"))]
        return {"name": "gates", "rows": histories, "ratios": {}}
    before, after = _two_models(seed)
    ours = _seconds(lambda: paired_all([ece, accuracy, auroc], before, after, RESAMPLES, seed))
    timed = RESAMPLES if full else LOOP
    _scikit_learn(before, after, 1, seed)  # the import is not counted
    loop = _seconds(lambda: _scikit_learn(before, after, timed, seed)) * RESAMPLES / timed
    rows = [
        {"method": "homeostat", "cpu_seconds": ours, "resamples": RESAMPLES, "timed": RESAMPLES},
        {"method": "scikit-learn loop", "cpu_seconds": loop, "resamples": RESAMPLES, "timed": timed},
    ]
    return {"name": "gates", "rows": rows, "ratios": {"to_sklearn_loop": ours / loop, "cpu_seconds": ours}}


def promoted(history: Path, seed: int) -> list[int]:
    """The candidates, counted from 0, that the gates let through, one after the other, on one anchor set.

    Non-inferior to the incumbent beside them, and to the first one (what is not shown there adds up), and no group
    harmed; the level is spent over the candidates, for all of them stand before the same patients.
    """
    with np.load(history, allow_pickle=False) as file:
        before, after = np.atleast_2d(file["before"]), np.atleast_2d(file["after"])
        patient, group = file["patient"].astype(np.str_), file["group"].astype(np.str_)
    passed = []
    for k in range(len(after)):
        alpha = spend(ALPHA, k + 1)
        candidate = _correctness(after[k], patient)
        verdicts = [
            Forgetting(alpha=alpha, seed=seed).judge(_correctness(row, patient), candidate).verdict
            for row in (before[k], before[0])
        ]
        groups = WorstSubgroup(group, alpha=alpha, seed=seed).judge(_correctness(before[k], patient), candidate)
        if set(verdicts) == {Verdict.PASS} and groups.verdict is not Verdict.FAIL:
            passed.append(k)
    return passed


def _correctness(right: NDArray, patient: NDArray[np.str_]) -> Scores:
    """Of correctness alone a balanced accuracy is an accuracy: one class, answered rightly or not."""
    right = np.asarray(right, dtype=float)
    return Scores(
        probability=np.column_stack([1.0 - right, right]), target=np.ones(len(right), dtype=int), unit=patient
    )


def _two_models(seed: int) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, CASES)

    def model(noise: float) -> Scores:
        p = 1 / (1 + np.exp(-2.0 * (target - 0.5) - noise * rng.standard_normal(CASES)))
        return Scores(probability=np.column_stack([1 - p, p]), target=target, unit=np.arange(CASES).astype(np.str_))

    return model(1.0), model(1.1)


def _scikit_learn(before: Scores, after: Scores, resamples: int, seed: int) -> NDArray:
    """What people write: a loop over scikit-learn's measures, and ECE, which it lacks, in numpy."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(0, CASES, CASES)
        for scores in (before, after):
            target, p = scores.target[drawn], scores.probability[drawn, 1]
            top = np.maximum(p, 1 - p)
            gap = np.bincount(np.ceil(top * 15).astype(int) - 1, ((p > 0.5) == target) - top)
            found.append((np.abs(gap).sum() / CASES, accuracy_score(target, p > 0.5), roc_auc_score(target, p)))
    return np.array(found)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
