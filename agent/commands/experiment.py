"""experiment: asks one of three open questions of real data, prints its table and draws its figure."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from agent.answer import Answer, table
from agent.commands.report import to_write
from agent.errors import HomeostatError


def experiment(args: argparse.Namespace) -> Answer:
    """{"name", "rows", "figure"}."""
    asked: Any = importlib.import_module("benchmarks.experiments")  # the agent doesn't depend on them
    if args.name not in asked.EXPERIMENTS:
        raise HomeostatError(f"there is no experiment '{args.name}': there are {', '.join(asked.EXPERIMENTS)}")
    data = Path(args.data) if args.data else None
    if data is not None and not data.is_dir():
        raise HomeostatError(f"--data {data} is no folder: name the one that holds the data folders")
    found = asked.experiment(args.name, data, args.seed, to_write(args.figure or f"{args.name}.svg"))
    columns = list(dict.fromkeys(column for row in found["rows"] for column in row))
    return Answer(found, lambda: table(found["rows"], columns) + f"\n\nfigure: {found['figure']}")
