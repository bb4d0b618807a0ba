"""experiment: asks one of three open questions of real data, prints its table and draws its figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.answer import Answer, table
from agent.commands.report import to_write
from agent.errors import HomeostatError


def experiment(args: argparse.Namespace) -> Answer:
    """{"name", "rows", "figure"}."""
    from benchmarks.experiments import EXPERIMENTS
    from benchmarks.experiments import experiment as ask

    if args.name not in EXPERIMENTS:
        raise HomeostatError(f"there is no experiment '{args.name}': there are {', '.join(EXPERIMENTS)}")
    data = Path(args.data) if args.data else None
    if data is not None and not data.is_dir():
        raise HomeostatError(f"--data {data} is no folder: name the one that holds the data folders")
    found = ask(args.name, data, args.seed, to_write(args.figure or f"{args.name}.svg"))
    columns = list(dict.fromkeys(column for row in found["rows"] for column in row))
    return Answer(found, lambda: table(found["rows"], columns) + f"\n\nfigure: {found['figure']}")
