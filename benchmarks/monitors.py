"""Monitors: what a case costs, and whether that or the memory grows as the stream does.

The product's monitors at 768 dimensions and a reference of 1,000, one thread, CPU time; beside them those on trial,
what the field's detectors cost on one number per case, and a full permutation test of the maximum mean discrepancy.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import HomeostatError
from benchmarks.drift.watch import Watch
from monitors import EXPERIMENTAL
from monitors.whitening import squared_distances

DIMENSION, REFERENCE = 768, 1000
PER_TICK = 10  # cases
STREAM = 1_000_000  # cases
SHARES = (0.001, 0.01, 0.1, 1.0)  # of the stream, at which the cost is looked at
LOOK = 2_000  # cases that a look is over
SCALARS, SLOW = 100_000, 1_000  # numbers given to a scalar detector; to one that is slow
WINDOW, PERMUTATIONS = 100, 100

Progress = Callable[[str, int, int], None]


def bench(
    data: Path | None, seed: int, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}; there is one form only. Raises HomeostatError with `input`: there is nothing to
    read."""
    if input is not None:
        raise HomeostatError("the benchmark 'monitors' makes its own cases: leave --input out")
    tell, rng = progress or _tell, np.random.default_rng(seed)
    rows = [*_product(rng, STREAM, tell), *_trials(rng), *_peers(rng), _permutations(rng), *_others_tests(rng)]
    of = {row["what"]: row for row in rows}
    first, last = of["first cases"], of["last cases"]
    ratios = {
        "ms_per_case": first["ms_per_case"],
        f"ms_per_case_at_{STREAM}": last["ms_per_case"],
        "growth": last["ms_per_case"] / first["ms_per_case"],
        "rss_growth": last["rss_mib"] / first["rss_mib"],
        "setup_seconds": of["set-up"]["seconds"],
        "permutation_ms": of["permutation MMD"]["ms_per_case"],
    }
    for kind in EXPERIMENTAL:
        ratios[f"{kind.name}_ms_per_case"] = of[f"{kind.name}, on trial"]["ms_per_case"]
        ratios[f"{kind.name}_setup_seconds"] = of[f"{kind.name}, on trial: set-up"]["seconds"]
    return {"name": "monitors", "rows": rows, "ratios": ratios}


def _product(rng: np.random.Generator, cases: int, tell: Progress) -> list[dict[str, Any]]:
    """All monitors, a tick of PER_TICK cases at a time; first one tick, so that set-up is not counted as reading."""
    drawn = _drawn(rng)
    started = time.process_time()
    watch = Watch(*drawn(REFERENCE))
    watch.read(*drawn(PER_TICK))
    rows: list[dict[str, Any]] = [{"what": "set-up", "seconds": time.process_time() - started}]
    pool = drawn(LOOK)  # drawing anew would cost more than what is measured
    looks = sorted({min(cases - LOOK, int(share * cases)) // LOOK * LOOK for share in SHARES})
    for start in range(0, cases, LOOK):
        if start not in looks:  # what lies between two looks is read in large ticks: the states are what counts
            watch.read(*pool)
            continue
        tell(f"reads {cases} cases", start, cases)
        before = time.process_time()
        for at in range(0, LOOK, PER_TICK):
            watch.read(pool[0][at : at + PER_TICK], pool[1][at : at + PER_TICK])
        spent = (time.process_time() - before) / LOOK
        name = "first cases" if start == looks[0] else "last cases" if start == looks[-1] else f"from case {start + 1}"
        rows.append({"what": name, "ms_per_case": 1000 * spent, "rss_mib": _rss()})
    one = time.process_time()
    for at in range(LOOK // 4):
        watch.read(pool[0][at : at + 1], pool[1][at : at + 1])
    rows.append({"what": "a tick per case", "ms_per_case": 1000 * (time.process_time() - one) / (LOOK // 4)})
    return rows


def _trials(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """The monitors on trial, each alone, a decision after every case and after PER_TICK; the first isn't counted."""
    drawn = _drawn(rng)
    reference, pool = Watch(*drawn(REFERENCE)).reference, drawn(LOOK)
    for kind in EXPERIMENTAL:
        started, monitor = time.process_time(), kind()
        monitor.fit(reference)
        monitor.update(Watch.batch(*drawn(PER_TICK), REFERENCE + 1))
        yield {"what": f"{kind.name}, on trial: set-up", "seconds": time.process_time() - started}
        for what, size in (("", 1), (f": ticks of {PER_TICK}", PER_TICK)):
            ticks = [Watch.batch(pool[0][at : at + size], pool[1][at : at + size], REFERENCE + PER_TICK + at)
                     for at in range(0, LOOK, size)]  # fmt: skip
            before = time.process_time()
            for tick in ticks:
                monitor.update(tick)
            yield {"what": f"{kind.name}, on trial{what}", "ms_per_case": 1000 * (time.process_time() - before) / LOOK}


def _drawn(rng: np.random.Generator) -> Callable[[int], tuple[Any, Any]]:
    """n -> (n embeddings of one mixture, the scores beside them)."""
    mix = rng.standard_normal((DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
    return lambda n: (rng.standard_normal((n, DIMENSION)) @ mix, rng.beta(0.3, 0.7, n))


def _peers(rng: np.random.Generator) -> list[dict[str, Any]]:
    """river's detectors on one number per case."""
    from river.drift import ADWIN, KSWIN, PageHinkley

    rows = []
    for name, detector, n in (("river ADWIN", ADWIN(), SCALARS), ("river Page-Hinkley", PageHinkley(), SCALARS),
                              ("river KSWIN", KSWIN(seed=0), SLOW)):  # fmt: skip
        values = rng.standard_normal(n).tolist()
        before = time.process_time()
        for value in values:
            detector.update(value)
        rows.append({"what": name, "ms_per_case": 1000 * (time.process_time() - before) / n})
    return rows


def _permutations(rng: np.random.Generator) -> dict[str, Any]:
    """One test of a window against a reference of which the kernel is at hand: all permutations as one product."""
    known, window = (rng.standard_normal((n, DIMENSION)).astype(np.float32) for n in (REFERENCE, WINDOW))
    gamma = 1 / (2 * DIMENSION)
    total = REFERENCE + WINDOW
    kernel = np.empty((total, total), np.float32)
    kernel[:REFERENCE, :REFERENCE] = np.exp(-gamma * squared_distances(known, known))
    chosen = np.zeros((PERMUTATIONS, total), np.float32)
    for row in chosen:
        row[rng.permutation(total)[:WINDOW]] = 1
    spent = []
    for _ in range(5):
        before = time.process_time()
        cross = np.exp(-gamma * squared_distances(window, known))
        kernel[REFERENCE:, :REFERENCE], kernel[:REFERENCE, REFERENCE:] = cross, cross.T
        kernel[REFERENCE:, REFERENCE:] = np.exp(-gamma * squared_distances(window, window))
        sums = kernel.sum(axis=1)
        within = np.einsum("pn,pn->p", chosen @ kernel, chosen)
        to_all = chosen @ sums
        rest = sums.sum() - 2 * to_all + within
        np.sort(within / WINDOW**2 + rest / REFERENCE**2 - 2 * (to_all - within) / (WINDOW * REFERENCE))
        spent.append(time.process_time() - before)
    return {"what": "permutation MMD", "ms_per_case": 1000 * float(np.median(spent))}


def _others_tests(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What the tests of a whole window cost that torchdrift and menelaus run, where they are installed (the optional
    group `peers`): the same window, reference and permutations."""
    known, window = (rng.standard_normal((n, DIMENSION)).astype(np.float32) for n in (REFERENCE, WINDOW))
    if find_spec("torchdrift"):
        import torch
        from torchdrift.detectors import KernelMMDDriftDetector

        kernel = KernelMMDDriftDetector(n_perm=PERMUTATIONS)
        kernel.fit(torch.from_numpy(known))
        yield {
            "what": "torchdrift MMD",
            "ms_per_case": _spent(lambda: kernel.compute_p_value(torch.from_numpy(window))),
        }
    if find_spec("menelaus"):
        from menelaus.data_drift import HDDDM

        histograms = HDDDM()
        histograms.set_reference(known.astype(np.float64))
        yield {"what": "menelaus HDDDM", "ms_per_case": _spent(lambda: histograms.update(window.astype(np.float64)))}


def _spent(look: Callable[[], Any], looks: int = 3) -> float:
    """Milliseconds of CPU time of a look, the median of some."""
    spent = []
    for _ in range(looks):
        before = time.process_time()
        look()
        spent.append(time.process_time() - before)
    return 1000 * float(np.median(spent))


def _rss() -> float:
    """MiB resident now where the system tells, else the largest so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
