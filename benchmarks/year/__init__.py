"""The year on trial: how many wrong answers are given in good faith, under the policies of today and under the agent.

`homeostat bench year` plays some ten thousand cases of three sites through each policy, with late and few labels and
with drift that comes and goes. `--data DIR` plays white cells (`DIR/wbc`), `--input FOLDER` the three largest sites of
any data folder; without either, generated heads. `--full` plays twenty years, and removes each organ of the agent:
that is most of a day on two cores, so years may be played one by one, and `--input FOLDER` with their answers in it
(*.json, as `--json` gave them) sums them up.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import HomeostatError
from benchmarks.workers import workers
from benchmarks.year.pictures import Sites, generated_sites, real_sites
from benchmarks.year.play import Trace
from benchmarks.year.policies import AGENT, DERIVED, MORE, NEVER, ORACLE, POLICIES, Policy
from benchmarks.year.schedule import DAYS
from benchmarks.year.score import score
from benchmarks.year.trial import Accuracies, Trial, foretell, prepare, run, stage

SEEDS = 20
MODEL = "mobilenetv3_small_kermany_cxr.npz"
GENERATED = 720  # patients of the home scanner, where no data are given
NAIVE = "naive"
SHOWS = {
    NEVER: "the model as deployed, every answer in good faith",
    ORACLE: "fine-tuned on the training patients of all conditions at once, with all their labels",
    **{policy.name: policy.shows for policy in POLICIES + MORE},
    **{name: says for name, (_, says) in DERIVED.items()},
}
DRAWN = {NEVER: "Never updated", NAIVE: "Fine-tuned at each alarm", AGENT: "Homeostat"}  # rows of the picture

Progress = Callable[[str, int, int], None]
Played = tuple[dict[str, Trace], dict[str, Accuracies]]


def bench(
    data: Path | None,
    seed: int = 0,
    input: Path | None = None,
    full: bool = False,
    figure: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{"name", "rows", "ratios", "intervals", "years"}: a row per policy, with medians over the seeds and their range.

    Short form: the year of `seed` alone, without the removed organs. `figure` is drawn of the first year. Raises
    HomeostatError where the data have fewer than three sites.
    """
    if input is not None and (answers := sorted(input.glob("*.json"))) and not (input / "cases.csv").exists():
        found = gathered(answers)
        return _answer(found)
    seeds = range(seed, seed + SEEDS) if full else range(seed, seed + 1)
    return years(data, seeds, input, POLICIES + MORE if full else POLICIES, figure, progress or _tell)


def years(
    data: Path | None,
    seeds: Sequence[int],
    input: Path | None,
    policies: Sequence[Policy],
    figure: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """The answer of these seeds, each year's own rows under "years"."""
    found = []
    for number, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory(prefix="homeostat-year-") as scratch:
            sites, backbone = _sites(data, input, Path(scratch), seed)
            trial = stage(sites, Path(scratch) / "trial", seed)
            played = play_all(trial, backbone, policies, progress)
            found.append(scored(trial, played))
            if figure is not None and number == 0:
                from benchmarks.year.figure import draw

                draw(trial.year, played[0], DRAWN, figure)
        progress(f"year {seed}", number + 1, len(seeds))
    return _answer(found)


def _answer(found: list[list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "name": "year",
        "rows": summary(found),
        "ratios": ratios(found),
        "intervals": intervals(found),
        "years": found,
    }


def gathered(answers: Sequence[Path]) -> list[list[dict[str, Any]]]:
    """The years of several runs in order of their seeds; those of one seed are one year, with the policies of all.

    Raises HomeostatError where a file is no answer of this benchmark.
    """
    by_seed: dict[int, dict[str, dict[str, Any]]] = {}
    for file in answers:
        try:
            for row in (row for year in json.loads(file.read_text())["years"] for row in year):
                by_seed.setdefault(row["seed"], {}).setdefault(row["policy"], row)
        except (ValueError, KeyError, TypeError) as error:
            raise HomeostatError(
                f"{file} is no answer of 'bench year --json': name a folder that holds nothing else"
            ) from error
    return [list(by_seed[seed].values()) for seed in sorted(by_seed)]


def play_all(trial: Trial, backbone: str, policies: Sequence[Policy], progress: Progress) -> Played:
    """Every policy in a process of its own, once the base that all of them start from is there."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    never = prepare(trial, backbone, progress)
    traces, truths = {NEVER: never[0]}, {NEVER: never[1]}
    with workers(4, tasks_each=1) as pool:
        waiting = {ORACLE: pool.submit(foretell, trial, partial(_tell_at_end, trial.seed))}
        waiting |= {policy.name: pool.submit(run, trial, policy, partial(_month, policy.name)) for policy in policies}
        for done, (name, future) in enumerate(waiting.items(), 1):
            traces[name], truths[name] = future.result()
            progress(f"seed {trial.seed}: {name}", done, len(waiting))
    return traces, truths


def scored(trial: Trial, played: Played) -> list[dict[str, Any]]:
    """A row per policy of one year, those that follow from another run among them."""
    traces, truths = played
    rows = []
    for name, (source, as_if) in {**{name: (name, "") for name in traces}, **_follow(traces)}.items():
        trace = traces[source] if not as_if else as_if_removed(traces[source], as_if)

        def truth(policy: str, version: str, source: str = source) -> Mapping[str, float]:
            return truths[ORACLE if policy == ORACLE else source][version]

        row = score(trace, traces[ORACLE], trial.year, truth, trial.sites.classes)
        rows.append({**row, "policy": name, "seed": trial.seed})
    return rows


def as_if_removed(trace: Trace, organ: str) -> Trace:
    """The same run without what `organ` says: every answer in good faith for "trust", itself otherwise."""
    if organ != "trust":
        return trace
    return replace(trace, rows=[(*row[:4], "normal", False, row[6]) for row in trace.rows], trust=[])


def summary(found: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Medians over the years, with their range; worse versions as the number of years that had any."""
    rows = []
    for name in dict.fromkeys(row["policy"] for year in found for row in year):
        some = [row for year in found for row in year if row["policy"] == name]
        row: dict[str, Any] = {"policy": name, "shows": SHOWS[name], "seeds": len(some)}
        for key, value in some[0].items():
            if key in ("policy", "seed", "recovery"):
                continue
            values = [float(one[key]) for one in some]
            row[key] = round(float(np.median(values)), 4)
            if len(some) > 1:
                row[f"{key}_range"] = [round(min(values), 4), round(max(values), 4)]
            assert isinstance(value, int | float)
        row["years_with_worse_versions"] = sum(one["worse_versions"] > 0 for one in some)
        for change in some[0]["recovery"]:
            reached = [one["recovery"][change] for one in some if one["recovery"][change] is not None]
            row[f"recovered_{change}"] = f"{len(reached)}/{len(some)}"
            if reached:
                row[f"cases_until_{change}"], row[f"labels_until_{change}"] = np.median(reached, axis=0).tolist()
        rows.append(row)
    return rows


def ratios(found: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Medians over the years of the agent's figures in ratio to the others', rates as means over the years; in ratio to
    naive fine-tuning over the years in which that was played.

    Empty where it was played in none, or one of the others not in all.
    """
    by_year = [{row["policy"]: row for row in year} for year in found]
    if not all({AGENT, NEVER} <= {*year} for year in by_year) or not any(NAIVE in year for year in by_year):
        return {}

    def median(figure: Callable[[Mapping[str, Mapping[str, Any]]], float]) -> float:
        return float(np.nanmedian([figure(year) for year in by_year]))

    def to(what: str, other: str) -> Callable[[Mapping[str, Mapping[str, Any]]], float]:
        def ratio(year: Mapping[str, Mapping[str, Any]]) -> float:
            played = year.get(other)
            return year[AGENT][what] / played[what] if played and played[what] > 0 else float("nan")

        return ratio

    return {
        "agent.silent_errors_to_never": median(to("silent_errors", NEVER)),
        "agent.excess_errors_to_never": median(to("excess_errors", NEVER)),
        "agent.excess_errors_to_naive": median(to("excess_errors", NAIVE)),
        "agent.deferred": median(lambda year: year[AGENT]["deferred"]),
        "agent.withheld": median(lambda year: year[AGENT]["withheld"]),
        "agent.worse_versions_live": float(np.mean([year[AGENT]["worse_versions"] > 0 for year in by_year])),
        "agent.false_alarms_per_year": float(np.mean([year[AGENT]["false_alarms"] for year in by_year])),
    }


def intervals(found: Sequence[Sequence[Mapping[str, Any]]], draws: int = 1000) -> dict[str, list[float]]:
    """{ratio: [low, high]}: 95 % of each ratio over years drawn with replacement; empty for a single year."""
    if len(found) < 2:
        return {}
    rng = np.random.default_rng(0)
    drawn = [ratios([found[i] for i in rng.integers(0, len(found), len(found))]) for _ in range(draws)]
    return {
        name: np.nanquantile([one[name] for one in drawn if one], (0.025, 0.975)).round(4).tolist()
        for name in ratios(found)
    }


def _follow(traces: Mapping[str, Trace]) -> dict[str, tuple[str, str]]:
    """The removed organs whose year follows from one that was played: {name: (the run, the organ)}."""
    return {
        name: (source, name.removeprefix(f"{AGENT} - ")) for name, (source, _) in DERIVED.items() if source in traces
    }


def _sites(data: Path | None, input: Path | None, scratch: Path, seed: int) -> tuple[Sites, str]:
    if input is None and data is None:
        return generated_sites(scratch / "generated", seed, GENERATED), "mobilenet_v3_small"
    home = input or (data or Path()) / "wbc"
    beside = data or home.parent
    weights = beside / "models" / MODEL
    backbone = f"mobilenet_v3_small:{weights}" if weights.is_file() else "mobilenet_v3_small"
    return real_sites(home, beside / "busi"), backbone


def _month(policy: str, day: int) -> None:
    """Told in the process that plays the policy: a year takes minutes."""
    if day % 28 == 0:
        _tell(policy, day, DAYS)


def _tell_at_end(seed: int, what: str, done: int, of: int) -> None:
    if done == of:
        _tell(f"seed {seed}: {ORACLE}, {what}", done, of)


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
