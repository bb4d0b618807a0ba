"""bench: runs one of the project's benchmarks and prints its rows and ratios."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.answer import Answer, table
from agent.errors import HomeostatError
from agent.report.frame import to_write


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """`module` has `bench(data, seed, input, full)`, which returns {"rows": [...], "ratios": {...}}.

    One that `draws` takes a `figure` too, the SVG to write.
    """

    module: str
    shows: str
    draws: bool = False


BENCHMARKS = {
    "loop": Benchmark(
        module="benchmarks.loop",
        shows="what each way of updating gains on a new site and forgets on the old one",
    ),
    "mechanisms": Benchmark(
        module="benchmarks.mechanisms", shows="what each mechanism on trial moves by itself, switched on and off"
    ),
    "recovery": Benchmark(
        module="benchmarks.recovery",
        shows="CPU seconds until a new site is served well and the old one as before, by what is moved",
        draws=True,
    ),
    "continual": Benchmark(
        module="benchmarks.continual",
        shows="what is learnt and what forgotten over three sites in turn, beside avalanche's strategies",
        draws=True,
    ),
    "families": Benchmark(
        module="benchmarks.families", shows="five ways of coming by a model for three sites, and a bank of adapters"
    ),
    "tasks": Benchmark(
        module="benchmarks.tasks",
        shows="the loop on masks and on boxes: what is learnt at a new site, what is forgotten, how soon it is alarmed",
    ),
    "deployed": Benchmark(
        module="benchmarks.deployed",
        shows="two published models, imported with their own heads and watched at home and at another hospital",
    ),
    "stream": Benchmark(
        module="benchmarks.stream", shows="how soon a new site is alarmed, and how often an alarm comes in vain"
    ),
    "gates": Benchmark(module="benchmarks.gates", shows="the gates' bootstrap beside a loop over scikit-learn"),
    "registry": Benchmark(
        module="benchmarks.registry", shows="promote and rollback, from ten versions to ten thousand"
    ),
    "year": Benchmark(
        module="benchmarks.year",
        shows="wrong answers given in good faith in a year of drift, by policy and with each organ removed",
        draws=True,
    ),
    "drift": Benchmark(
        module="benchmarks.drift",
        shows="how soon each detector speaks after a change, all tuned to be equally seldom wrong",
        draws=True,
    ),
    "attribution": Benchmark(
        module="benchmarks.attribution", shows="what a change is called, over changes of which the kind is known"
    ),
    "estimates": Benchmark(
        module="benchmarks.estimates",
        shows="accuracy as estimated without labels, beside the true one and the guess that nothing has changed",
    ),
    "adapters": Benchmark(
        module="benchmarks.adapters", shows="what each way of moving weights costs at serving, in weights and in bytes"
    ),
    "monitors": Benchmark(
        module="benchmarks.monitors", shows="what a case costs all monitors, and whether that grows with the stream"
    ),
    "outcomes": Benchmark(
        module="benchmarks.outcomes", shows="what late labels add: answers that became wrong while no image changed"
    ),
    "clearing": Benchmark(
        module="benchmarks.clearing", shows="how soon labels end an alarm that does no harm, and how seldom another"
    ),
    "update": Benchmark(
        module="benchmarks.update", shows="seconds, memory and bytes of a training step, by what is trained and how"
    ),
    "sam": Benchmark(
        module="benchmarks.sam",
        shows="seconds of an epoch on SAM's cached image embeddings, beside computing them anew",
    ),
    "saliency": Benchmark(
        module="benchmarks.saliency",
        shows="whether a model that learnt a marker instead of the cell is found out by where it looks",
    ),
    "overhead": Benchmark(
        module="benchmarks.overhead", shows="what the training loop costs a step beside a bare PyTorch loop"
    ),
    "soak": Benchmark(module="benchmarks.soak", shows="the daemon's memory while it works off ten thousand cases"),
}


def bench(args: argparse.Namespace) -> Answer:
    """{"name", "rows", "ratios"}; with --list, the names and what each shows."""
    if args.list:
        rows = [{"name": name, "shows": benchmark.shows} for name, benchmark in BENCHMARKS.items()]
        return Answer(rows, lambda: table(rows, ["name", "shows"]))
    if args.name is None:
        raise HomeostatError("which benchmark: 'homeostat bench --list' names them")
    if args.name not in BENCHMARKS:
        raise HomeostatError(f"there is no benchmark '{args.name}': 'homeostat bench --list' names them")
    benchmark = BENCHMARKS[args.name]
    data, given = _folder(args.data, "--data"), _folder(args.input, "--input")
    module: Any = importlib.import_module(benchmark.module)
    drawn = {"figure": to_write(args.figure)} if args.figure else {}
    if drawn and not benchmark.draws:
        raise HomeostatError(f"the benchmark '{args.name}' has no picture: leave --figure out")
    result = module.bench(data=data, seed=args.seed, input=given, full=args.full, **drawn)
    value = {**result, "name": args.name}
    return Answer(value, lambda: _text(value))


def _folder(given: str | None, flag: str) -> Path | None:
    if given is None:
        return None
    if not Path(given).is_dir():
        raise HomeostatError(f"{flag} {given} is no folder: name the one that holds the files")
    return Path(given)


def _text(value: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(column for row in value["rows"] for column in row))
    ratios = [f"{name} = {ratio if ratio is None else format(ratio, '.4g')}" for name, ratio in value["ratios"].items()]
    return "\n".join([table(value["rows"], columns), "", *ratios])
