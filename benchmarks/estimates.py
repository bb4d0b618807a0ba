"""Estimates of accuracy without labels: beside the true one, and beside the guess that nothing has changed.

Seeded shifts in synthetic worlds (those of `bench drift`), at 500 patients; home's unseen patients of real images as
they are and in another mix, and every other site, only with `--data`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import HomeostatError
from benchmarks.drift.worlds import SHIFTS, Stream, World
from benchmarks.stream import CHANGES, MIXES, Change, fit_home, hold_back, observed
from monitors import CBPE, ESTIMATORS, Estimator, Scores, accuracy, estimate
from monitors.estimates import FEWEST

HOW: dict[str, tuple[Estimator, bool]] = {
    f"{kind.name}{' by class' if by_class else ''}": (kind(), by_class)
    for kind in ESTIMATORS
    for by_class in (False, True)
}
HOW[CBPE(other_mix=True).name] = (CBPE(other_mix=True), False)
REFERENCE, RISEN, AFTER = 1000, 600, 500  # RISEN: cases after which a ramp has reached its height
WORLDS, SHORT, STREAMS = 10, 3, 2
SEEDS = 3  # of a base and of who taught it, in the full form
REDRAWN = 20  # halves of home's unseen patients, compared with the other half
LEFT = {"more": 0.25, "mostly": 0.1}  # another mix: of all classes but one, this share is left
SURE, LESS = 0.9, 0.33  # another population: of the cases that are this sure, this share comes

Progress = Callable[[str, int, int], None]


def bench(
    data: Path | None, seed: int, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}; the short form plays three worlds and one base a home. Real sites need `data`.

    Raises HomeostatError where `input` is given: nobody else's answers are read.
    """
    if input is not None:
        raise HomeostatError("the benchmark 'estimates' reads no streams: leave --input out")
    tell = progress or _tell
    rows = list(seeded(range(seed, seed + (WORLDS if full else SHORT)), tell))
    if data is not None:
        homes = {change.folder: change for change in (*CHANGES, *MIXES)}
        for change in homes.values():
            for at in range(seed, seed + (SEEDS if full else 1)):
                with tempfile.TemporaryDirectory() as scratch:
                    rows += real(data, change, at, Path(scratch), tell)
    return {"name": "estimates", "rows": summary(rows), "ratios": ratios(rows)}


def seeded(worlds: Sequence[int], progress: Progress) -> Iterator[dict[str, Any]]:
    """One row per stream and estimator. `other patients` are more of the unsure ones: labels given images stay."""
    for number, at in enumerate(worlds):
        world = World(at)
        known = _scores(world.stream(REFERENCE, (at, 1)))
        progress(f"world {at}", number, len(worlds))
        for i in range(STREAMS):
            for shift in (None, *SHIFTS):
                new = _scores(world.stream(RISEN + AFTER, (at, 2, i), shift))
                new = _taken(new, np.arange(RISEN, len(new)))
                yield from compared("worlds", shift or "unchanged", "made", known, new)
            new = _scores(world.stream(4 * AFTER, (at, 3, i)))
            rng, sure = np.random.default_rng((at, i)), new.probability.max(axis=1) >= SURE
            kept = np.flatnonzero(~sure | (rng.random(len(new)) < LESS))[:AFTER]
            yield from compared("worlds", "other patients", "made", known, _taken(new, kept))


def real(data: Path, change: Change, seed: int, scratch: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    """A base fitted on half of home's patients. The others are drawn anew REDRAWN times: one half has labels to learn
    from; of the other come all cases, and then all of each class with a share only (LEFT) of the rest, where these are
    20 patients. Then every other site that has as many labelled, by what the last half says.

    Raises HomeostatError without the data folder.
    """
    from agent.cases.datafolder import read_folder

    folder = data / change.folder
    if not (folder / "cases.csv").exists():
        raise HomeostatError(f"{folder} is no data folder: name the one that holds it with --data")
    sites: dict[str, list[Any]] = {}
    for row in read_folder(folder, ()).rows:
        if row.label:
            sites.setdefault(row.site or "", []).append(row)
    home = sites.pop(change.home)
    taught, unseen = hold_back(home, len(home) // 2, seed)
    progress(f"{change.folder}: fits on {change.home}, seed {seed}", 0, 1)
    fit_home(data, change, taught, scratch, seed)
    names = sorted({row.label for row in home})
    said = _said(scratch / "base", unseen, names)
    mark, patients = f"{change.folder}: {change.home}", np.unique(said.unit)
    for i in range(REDRAWN):
        rng = np.random.default_rng((seed, i))
        first = np.isin(said.unit, rng.permutation(patients)[: len(patients) // 2])
        known, new = (_taken(said, np.flatnonzero(side)) for side in (first, ~first))
        yield from compared(mark, "unchanged", "unchanged", known, new)
        for (word, left), at in product(LEFT.items(), range(len(names))):
            mixed = _taken(new, np.flatnonzero((new.target == at) | (rng.random(len(new)) < left)))
            yield from compared(mark, f"{word} {names[at]}", "mix", known, mixed)
    for site, rows in sorted(sites.items()):
        if len({row.patient_id for row in rows}) >= FEWEST:
            progress(f"{change.folder}: looks at {site}, seed {seed}", 0, 1)
            yield from compared(mark, f"to {site}", "site", known, _said(scratch / "base", rows, names))


def compared(source: str, shift: str, kind: str, known: Scores, new: Scores) -> Iterator[dict[str, Any]]:
    """One row per estimator; `unchanged` is the error of guessing that the accuracy is the reference's."""
    true = float(accuracy(new)[0])
    for name, (how, by_class) in HOW.items():
        found = estimate(how, known, new.probability, new.unit, by_class)
        if found.value is not None and found.before is not None:
            yield {
                "source": source, "shift": shift, "kind": kind, "patients": found.n, "estimator": name,
                "before": found.before, "true": true, "estimated": found.value, "low": found.low, "high": found.high,
                "error": abs(found.value - true), "unchanged": abs(found.before - true),
            }  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per source, shift and estimator: means over its streams, and in how many the band held the true value."""
    gathered: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        gathered.setdefault((row["source"], row["shift"], row["estimator"]), []).append(row)
    numbers = ("before", "true", "estimated", "low", "high", "error", "unchanged")
    return [
        {
            "source": source,
            "shift": shift,
            "estimator": name,
            "patients": int(np.mean([row["patients"] for row in of])),
            **{number: round(float(np.mean([row[number] for row in of])), 3) for number in numbers},
            "inside": f"{sum(row['low'] <= row['true'] <= row['high'] for row in of)} of {len(of)}",
        }
        for (source, shift, name), of in gathered.items()
    ]


def ratios(rows: Sequence[dict[str, Any]]) -> Mapping[str, float]:
    """The mean absolute error of each estimator over that of guessing `unchanged`, of real changes of site (each site
    counts once), of real changes of mix and of made shifts."""
    found = {}
    for kind, prefix in (("site", ""), ("mix", "mix."), ("made", "worlds.")):
        for name in HOW:
            of = [row for row in rows if row["kind"] == kind and row["estimator"] == name]
            if of:
                error, guess = (sum(row[what] for row in of) for what in ("error", "unchanged"))
                found[f"{prefix}{name}.error_to_unchanged"] = error / guess
    return found


def _said(base: Path, rows: Sequence[Any], names: Sequence[str]) -> Scores:
    return Scores(
        probability=np.stack([reading.scores for reading in observed(base, rows)]),
        target=np.array([names.index(row.label) if row.label in names else len(names) for row in rows]),
        unit=np.array([row.patient_id for row in rows]),
    )


def _scores(stream: Stream) -> Scores:
    unit = np.array([f"patient {i}" for i in range(len(stream.score))])
    probability = np.column_stack([1 - stream.score, stream.score])
    return Scores(probability=probability, target=stream.label.astype(np.int64), unit=unit)


def _taken(scores: Scores, places: np.ndarray) -> Scores:
    return Scores(probability=scores.probability[places], target=scores.target[places], unit=scores.unit[places])


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
