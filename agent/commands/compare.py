"""check: has a data folder drifted from another; needs no workspace."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.answer import Answer
from agent.comparison.compare import Comparison, compare
from agent.comparison.words import headline, sentences
from agent.progress import progress_bar
from agent.report.frame import to_write


def check(args: argparse.Namespace) -> Answer:
    """Exit 0 no drift, 1 drift, 3 too few patients. With --out, the page too."""
    out = to_write(args.out) if args.out else None
    with progress_bar() as progress:
        found = compare(
            Path(args.new),
            Path(args.against),
            model=Path(args.model) if args.model else None,
            where=args.where,
            against_where=args.against_where,
            seed=args.seed,
            progress=progress,
        )
    if out:
        from agent.comparison.page import page

        out.write_text(page(found), encoding="utf-8")
    value = _value(found)
    lines = [headline(found), *sentences(found), *([f"the page is {args.out}"] if args.out else [])]
    return Answer(value, "\n".join(lines), 3 if found.drift is None else int(found.drift))


def _value(found: Comparison) -> dict[str, Any]:
    answer = found.answer
    return {
        "drift": found.drift,
        "shift": answer.shift.value if found.drift else None,
        "driver": _driver(found) if found.drift else None,
        "n": found.patients[0],
        "evidence": {
            "p": found.p,
            "p_weighed": answer.p_after,
            "prevalence": [round(share, 4) for share in answer.prevalence],
            "prevalence_before": [round(share, 4) for share in answer.was],
            "part": answer.part,
            "distance": answer.distance,
            "facts": dict(answer.facts),
            "moved": found.moved,
            "reference": found.patients[1],
            "unreadable": found.unreadable,
            "by": found.by,
            "says": " ".join(sentences(found)),
        },
    }


def _driver(found: Comparison) -> str:
    """Where the images themselves have changed, the feature that moved most; else the fact, or the answers."""
    by_look = found.moved and found.answer.driver in ("embedding", "far-out")
    return next(iter(found.moved)) if by_look else found.answer.driver
