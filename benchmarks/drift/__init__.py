"""Drift: how soon each detector speaks after a change, all of them tuned to be equally seldom wrong.

Synthetic worlds (`worlds`), the field's statistics (`charts`, `scalars`) and the product's monitors (`watch`) as charts
over them, one run length for all (`lengths`) and the thresholds they bring along (`own`), and whether the product's
promise is kept (`promised`). `--input FOLDER` runs the product's monitors over *.npz streams that somebody else made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agent.errors import HomeostatError
from benchmarks.drift.charts import CHARTS, REFERENCE, UNTUNED, Cases, cusum
from benchmarks.drift.figure import draw
from benchmarks.drift.lengths import Chart, delay, first_of, run_length, threshold_for, together
from benchmarks.drift.own import LIMITS
from benchmarks.drift.promised import promise
from benchmarks.drift.watch import PRODUCT, TICK, Watch
from benchmarks.drift.worlds import SHIFTS, Stream, World
from monitors import EXPERIMENTAL, attribute

RUN_LENGTHS = (1000, 5000)  # cases to a false alarm
ONSET, HORIZON = 300, 1500
QUIET, CHANGED = 6, 4  # streams of each reference without a change and with each of them
LENGTH = 6000  # of a stream without a change
SETTLED = 500  # latest cases since the onset that a change is named by
DIM, WIDE = 64, 384  # features
WORLDS, SHORT = 10, 2
WIDE_WORLDS, WIDE_SHORT = 5, 1
UNION = "union"
TRIALS = {kind.name: f"{PRODUCT} + {kind.name}" for kind in EXPERIMENTAL}
UNIONS: Mapping[str, Sequence[str]] = {
    UNION: ("mewma", "neighbours"),
    "union + answers": ("mewma", "neighbours", "answers"),
}

WIDE_CHARTS = (*UNIONS[UNION], PRODUCT, *TRIALS, *TRIALS.values())

Progress = Callable[[str, int, int], None]
Charts = dict[str, dict[str, list[Chart]]]  # chart -> shift, or "none" -> one array per reference


def bench(
    data: Path | None,
    seed: int,
    input: Path | None = None,
    full: bool = False,
    figure: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}; the short form plays two worlds, and one with WIDE features. Draws them too, with a
    `figure`.

    Raises HomeostatError where `input` has no stream.
    """
    if input is not None:
        return {"name": "drift", "rows": list(answered(input)), "ratios": {}}
    tell = progress or _tell
    seeds = range(seed, seed + (WORLDS if full else SHORT))
    wide_seeds = range(seed, seed + (WIDE_WORLDS if full else WIDE_SHORT))
    charts, wide = play(seeds, tell), play(wide_seeds, tell, WIDE_CHARTS, dim=WIDE, oracle=False)
    rows, wide_rows = tables(charts, DIM), tables(wide, WIDE)
    if figure is not None:
        draw(rows, figure)
    found = {**ratios(rows), **{f"{WIDE}d.{name}": ratio for name, ratio in ratios(wide_rows).items()}}
    found |= promise(range(seed, seed + WORLDS), tell)
    return {"name": "drift", "rows": [*rows, *own(charts, DIM), *wide_rows], "ratios": found}


def play(
    worlds: Sequence[int],
    progress: Progress,
    names: Sequence[str] = tuple(CHARTS),
    length: int = LENGTH,
    dim: int = DIM,
    oracle: bool = True,
) -> Charts:
    """Every chart over every stream of two references of each world; the oracle costs most with many features."""
    found: Charts = {name: {shift: [] for shift in ("none", *SHIFTS)} for name in (*names, "oracle")}
    for number, seed in enumerate(worlds):
        world = World(seed, dim)
        for which in range(2):
            reference = world.stream(REFERENCE, (100 * seed + which, 1))
            for kind, shift in enumerate(("none", *SHIFTS)):
                n, of = (length, QUIET) if shift == "none" else (ONSET + HORIZON, CHANGED)
                streams = [world.stream(n, (seed, which, kind, i), _named(shift), ONSET) for i in range(of)]
                x, score = np.stack([s.x for s in streams], axis=1), np.stack([s.score for s in streams], axis=1)
                cases = Cases(reference, x, score, seed=seed)
                for name in names:
                    found[name][shift].append(CHARTS[name](cases))
                    progress(f"world {seed}, reference {which}, {shift}: {name}", number, len(worlds))
                if oracle:
                    _oracle(found["oracle"], world, shift, streams)
    return found


def tables(charts: Charts, dim: int) -> list[dict[str, Any]]:
    """`table` at each of RUN_LENGTHS."""
    return [{"dim": dim} | row for wanted in RUN_LENGTHS for row in table(charts, wanted)]


def table(charts: Charts, wanted: int) -> list[dict[str, Any]]:
    """One row per detector, all with a run length of `wanted` cases: mean delay per shift, and the share alarmed."""
    rows = []
    single = [name for name in charts if name not in ("oracle", *UNTUNED)]
    for name, members in {**{name: (name,) for name in single}, **UNIONS}.items():
        if not {*members} <= {*charts}:
            continue
        thresholds = together({member: charts[member]["none"] for member in members}, wanted)
        as_one = {
            shift: first_of({member: charts[member][shift] for member in members}, thresholds)
            for shift in ("none", *SHIFTS)
        }
        row = {"detector": name, "run_length": wanted, "realised": _finite(run_length(as_one["none"], 1.0))}
        rows.append(row | {key: value for shift in SHIFTS for key, value in _delays(as_one[shift], 1.0, shift).items()})
    known = {shift: charts["oracle"][shift] for shift in SHIFTS if charts["oracle"][shift]}
    row = {"detector": "oracle", "run_length": wanted, "realised": wanted}
    for shift, changed in known.items():
        row |= _delays(changed, threshold_for(charts["oracle"][f"none {shift}"], wanted), shift)
    rows += [row] if known else []
    every = {key: value for shift in SHIFTS for key, value in ((shift, 1.0), (f"{shift}_alarmed", 1.0))}
    rows.append({"detector": "always", "run_length": wanted, "realised": 1} | every)
    never = {key: v for shift in SHIFTS for key, v in ((shift, float(HORIZON)), (f"{shift}_alarmed", 0.0))}
    rows.append({"detector": "never", "run_length": wanted, "realised": None} | never)
    return rows


def own(charts: Charts, dim: int) -> list[dict[str, Any]]:
    """One row per detector that brings a threshold along, read at that: what run length it realises, and its delays.
    Its `run_length` is the promised one; None where none is promised."""
    rows = []
    for name in (name for name in LIMITS if name in charts):
        for promised, threshold in LIMITS[name](RUN_LENGTHS, dim):
            quiet = _finite(run_length(charts[name]["none"], threshold))
            row = {"dim": dim, "detector": f"{name}, as it comes", "run_length": promised, "realised": quiet}
            each = [_delays(charts[name][shift], threshold, shift) for shift in SHIFTS]
            rows.append(row | {key: value for found in each for key, value in found.items()})
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The product's delay in ratio to the union's, per shift and as a geometric mean; its delay to the oracle's; and
    that of the product with each monitor on trial in ratio to the product's."""
    found: dict[str, float] = {}
    for wanted in dict.fromkeys(row["run_length"] for row in rows):
        of = {row["detector"]: row for row in rows if row["run_length"] == wanted}
        if not {PRODUCT, UNION} <= {*of}:
            continue
        found |= _compared(of[PRODUCT], of[UNION], f"{wanted}.{{}}.to_union")
        if "oracle" in of:
            found[f"{wanted}.prevalence.to_oracle"] = of[PRODUCT]["prevalence"] / of["oracle"]["prevalence"]
        for trial, name in TRIALS.items():
            if name in of:
                found |= _compared(of[name], of[PRODUCT], f"{wanted}.{{}}.with_{trial}")
    return found


def _compared(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> dict[str, float]:
    each = {shift: one[shift] / other[shift] for shift in SHIFTS}
    each["geometric_mean"] = float(np.exp(np.mean(np.log([*each.values()]))))
    return {name.format(shift): ratio for shift, ratio in each.items()}


def answered(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows {"file", "method", "alarms", "shift"} of the streams *.npz of a folder: the monitors restarted after each
    alarm, and what the latest cases since the first alarm's onset are called, None without one.

    Raises HomeostatError without any stream, and where one is none: broken, an array missing or of another shape, NaN,
    no run length.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise HomeostatError(f"{folder} holds no stream: *.npz with ref_x, ref_score, x, score and run_length")
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                alarms, shift = _read(dict(arrays))
        except (KeyError, ValueError, OSError, BadZipFile) as error:
            raise HomeostatError(f"{file.name} is no stream: {error}") from error
        yield {"file": file.name, "method": "homeostat", "alarms": alarms, "shift": shift}


def _read(arrays: Mapping[str, NDArray]) -> tuple[list[int], str | None]:
    known, score = arrays["ref_x"], arrays["ref_score"]
    x, said, cases = arrays["x"], arrays["score"], float(arrays["run_length"])
    if not (
        known.ndim == x.ndim == 2 and known.shape[1] == x.shape[1] and (len(known), len(x)) == (len(score), len(said))
    ):
        raise ValueError("ref_x and x are cases by features, as many in both, with one score a case")
    if not cases >= TICK:
        raise ValueError(f"run_length is the cases to a false alarm, {TICK} or more, not {cases:g}")
    watch, alarms, onset = Watch(known, score, cases / TICK), list[int](), len(x)
    for start in range(0, len(x), TICK):
        rule = watch.read(x[start : start + TICK], said[start : start + TICK])
        if rule.log_e >= rule.threshold:
            if not alarms:
                onset = (rule.since or start + 1) - 1
            alarms.append(min(start + TICK, len(x)) - 1)
            watch = Watch(known, score, cases / TICK)
    if not alarms:
        return alarms, None
    latest = slice(max(onset, len(x) - SETTLED), None)
    labels = arrays.get("ref_label")
    answer = attribute(
        watch.reference,
        Watch.batch(x[latest], said[latest], len(known) + 1),
        None if labels is None else labels[len(known) - len(watch.reference.calibrate) :].astype(int),
    )
    return alarms, answer.shift.value


def _delays(charts: Sequence[Chart], threshold: float, shift: str) -> dict[str, float | None]:
    mean, share = delay(charts, threshold, ONSET, HORIZON)
    return {shift: _finite(mean), f"{shift}_alarmed": round(share, 3) if np.isfinite(share) else None}


def _oracle(found: dict[str, list[Chart]], world: World, shift: str, streams: Sequence[Stream]) -> None:
    """Where nothing changes there is an oracle for each change that it might have been."""
    for kind in (kind for kind in SHIFTS if kind != "ramp" and shift in ("none", kind)):
        ratio = np.stack([world.log_ratio(stream.x, kind) for stream in streams], axis=1)
        found.setdefault(f"none {kind}" if shift == "none" else kind, []).append(cusum(ratio))


def _finite(cases: float) -> float | None:
    """None where there was no alarm to estimate a run length by, or no stream that was silent before the change."""
    return round(float(cases), 1) if np.isfinite(cases) else None


def _named(shift: str) -> str | None:
    return None if shift == "none" else shift


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
