"""Prints how many ticks pass, on average, to a false alarm of all monitors together, over what was promised.

    python tests/golden/run_lengths.py [--references 20] [--streams 1]
    python tests/golden/run_lengths.py --years 200
    python tests/golden/run_lengths.py --worlds

Each reference is new; each stream of unchanged cases is watched until the family rule alarms. The ratio must not lie
below 1 by more than its error; the theorem allows it to lie above. The figures stand in docs/false-alarms.md.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import chi2

sys.path[:0] = [str(Path(__file__).parents[1] / "monitors"), str(Path(__file__).parents[2])]

from streams import MONDAY, batch, reference, see  # noqa: E402

from benchmarks.drift.promised import OF_WORLD, STREAMS, TICKS, kept, realised  # noqa: E402
from benchmarks.drift.worlds import World  # noqa: E402
from monitors import OF_LABELS, Batch, Reference, default_monitors, family  # noqa: E402

PATIENCE = 12


def run_length(
    rng: np.random.Generator, n: int, promised: float, daily: bool, several: bool, looks: bool, seed: int
) -> tuple[int, bool]:
    """(ticks watched, whether the family alarmed) on one reference and one stream without a change."""
    monitors = default_monitors(promised, timed=daily, looks=looks)
    fixed = reference(rng, n)
    for monitor in monitors:
        monitor.fit(fixed)
    start = 1
    for tick in range(1, int(PATIENCE * promised) + 1):
        cases = rng.poisson(10 * (0.3 if daily and (tick - 1) % 7 > 4 else 1.0)) if daily else 10
        x, p = see(rng, cases)
        units = None
        if several:  # three images of a patient, one after the other: ticks cut through patients
            of = (start + np.arange(cases)) // 3
            patients = {one: see(np.random.default_rng((seed, int(one))), 1) for one in np.unique(of)}
            x, p = (np.concatenate([patients[one][k] for one in of]) for k in (0, 1))
            x = x + 0.1 * rng.standard_normal(x.shape)
            units = np.array([f"patient {one}" for one in of])
        day = MONDAY + (tick - 1) * 86_400.0 if daily else float("nan")
        tick_batch = batch(x, p, start=start, units=units, tick_time=day)
        if family([monitor.update(tick_batch) for monitor in monitors], None, promised).log_e >= np.log(promised):
            return tick, True
        start += cases
    return tick, False


def site_year(n: int, promised: float, days: int, seed: int) -> int:
    """False alarms of one site in so many unchanged days, the monitors begun anew after each.

    Three images of each patient, a weekly cycle, and two scanners that take turns by the day, declared as strata and
    unlike each other; every fifth patient gets labels. All monitors are on.
    """
    rng = np.random.default_rng((n, seed))
    known = [batch(*see(rng, m), start=start) for m, start in ((200, -1_000_000), (n, -500_000))]
    known = [_two_scanners(_sexes(part), np.arange(len(part)) % 2 == 0) for part in known]
    monitors = default_monitors(promised, facts=["sex"], looks=True, forms=True, labels=True, subgroups=["sex", "age"])
    alarms, start, patient = 0, 1, 0
    fixed = Reference(transform=known[0], calibrate=known[1])
    for monitor in monitors:
        monitor.fit(fixed)
    for day in range(days):
        patients = rng.poisson(10 * (0.3 if day % 7 > 4 else 1.0))
        x, p = (np.repeat(part, 3, axis=0) for part in see(rng, patients))
        units = np.array([f"patient {patient + i // 3}" for i in range(3 * patients)])
        today = batch(x + 0.1 * rng.standard_normal(x.shape), p, start=start, units=units,
                      tick_time=MONDAY + day * 86_400.0)  # fmt: skip
        today = _two_scanners(_sexes(today), np.full(len(today), day % 2 == 0))
        chosen = (patient + np.arange(len(today)) // 3) % 5 == 0
        labelled = replace(today, target=np.where(chosen, today.target, -1))
        start, patient = start + len(today), patient + patients
        read = [monitor.update(labelled if isinstance(monitor, OF_LABELS) else today) for monitor in monitors]
        if family(read, None, promised).log_e >= np.log(promised):
            alarms += 1
            for monitor in monitors:
                monitor.fit(fixed)
    return alarms


def _sexes(cases: Batch) -> Batch:
    """Of each patient, whatever scanner takes the image."""
    women = [zlib.crc32(unit.encode()) % 2 for unit in cases.unit]
    return replace(cases, facts={**cases.facts, "sex": np.where(women, "F", "M")})


def _two_scanners(cases: Batch, first: np.ndarray) -> Batch:
    x = cases.embedding + 0.8 * first[:, None] * (np.arange(cases.embedding.shape[1]) % 3 == 0)
    return replace(cases, embedding=x, stratum=np.where(first, "scanner A", "scanner B"))


def ratio(
    n: int,
    promised: float,
    references: int,
    streams: int,
    daily: bool = False,
    several: bool = False,
    looks: bool = False,
) -> tuple:
    """(realised over promised run length, its standard error, alarms): time watched over alarms."""
    found = [
        run_length(np.random.default_rng((n, r, s)), n, promised, daily, several, looks, seed=1000 * r + s)
        for r in range(references)
        for s in range(streams)
    ]
    alarms = sum(alarmed for _, alarmed in found)
    value = sum(ticks for ticks, _ in found) / max(alarms, 1) / promised
    return value, value / np.sqrt(max(alarms, 1)), alarms


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--references", type=int, default=20)
    arguments.add_argument("--streams", type=int, default=1)
    arguments.add_argument("--worlds", action="store_true", help="twenty references of bench drift instead")
    arguments.add_argument("--years", type=int, default=0, help="site-years with clusters, cycles and batches instead")
    arguments = arguments.parse_args()
    if arguments.worlds:
        each = np.array([realised(World(seed), i, TICKS, STREAMS) for seed in range(10) for i in range(OF_WORLD)])
        print({name: round(float(value), 3) for name, value in kept(each).items()})
        print(np.round(np.sort(each[:, 0]), 2).tolist())
        raise SystemExit
    if arguments.years:
        counted = [site_year(166, 365, 365, seed) for seed in range(arguments.years)]
        bound = chi2.ppf(0.95, 2 * (sum(counted) + 1)) / 2 / len(counted)
        print(f"{sum(counted)} false alarms in {len(counted)} site-years, at most {bound:.2f} a year (95 %)")
        print(f"sites by their alarms: {np.bincount(counted).tolist()}")
        raise SystemExit
    print("reference  ticks promised  kind                     realised/promised  error  alarms")
    rows = [(166, 100, {}), (415, 100, {}), (166, 100, {"several": True}), (166, 100, {"daily": True})]
    rows += [(166, 100, {"looks": True})]
    rows += [(166, 365, {}), (20, 40, {}), (166, 40, {})]
    for n, c, kind in rows:
        value, error, alarms = ratio(n, c, arguments.references, arguments.streams, **kind)
        print(
            f"{n:9d}  {c:14d}  {'+'.join(kind) or 'ten cases a tick':23s}  {value:17.2f}  {error:5.2f}  {alarms:6d}",
            flush=True,
        )
