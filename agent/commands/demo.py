"""demo: the whole story, on generated images or on one's own."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent.answer import Answer
from agent.errors import HomeostatError

if TYPE_CHECKING:
    from agent.demo.record import Step

DEFAULT = Path("demo-workspace")
MARK = "made-by-homeostat-demo"  # a folder that holds this file may be made anew without asking
OWN = ("data", "home", "new")


def demo(args: argparse.Namespace) -> Answer:
    """Plays the story in ./demo-workspace, made anew each time, or in a new folder named by --keep."""
    given = [name for name in OWN if getattr(args, name)]
    if given and len(given) < len(OWN):
        missing = ", ".join(f"--{name}" for name in OWN if name not in given)
        raise HomeostatError(f"your own images need {missing} too: demo --data DIR --home site=A --new site=B")
    root = _folder(args.keep)

    from agent.demo.cast import Size, cut_out, generated
    from agent.demo.page import page
    from agent.demo.story import Play
    from agent.demo.telling import steps_as_json, told
    from agent.workspace import write_atomically

    started = time.monotonic()
    teller = Teller()
    size = Size()
    teller.opening("preparing the images")
    data = root / "demo"
    cast = cut_out(data, Path(args.data), args.home, args.new, 0) if given else generated(data, size, 0)
    play = Play(root, cast, epochs=None if given else size.epochs, seed=0, tell=teller)
    play.perform()
    story = told(play, time.monotonic() - started)
    path = root / "story.html"
    write_atomically(path, page(story).encode())
    value = {
        "workspace": str(root),
        "story": steps_as_json(story.steps),
        "page": str(path),
        "seconds": round(story.seconds, 1),
    }
    return Answer(value, f"{story.headline}.\n\nThe story with its pictures: {path}\nThe workspace: {root}")


def _folder(keep: str | None) -> Path:
    """An empty folder to play in. Raises HomeostatError where something else is there already."""
    root = Path(keep) if keep else DEFAULT
    if not keep and (root / MARK).is_file():
        shutil.rmtree(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise HomeostatError(f"{root} is not empty, and the demo overwrites nothing: name a new folder with --keep")
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / MARK).write_text("This folder is made anew by 'homeostat demo' without --keep.\n", encoding="utf-8")
    except OSError as error:
        raise HomeostatError(f"{root} can't be made ({error.strerror}): name another folder with --keep") from error
    return root.resolve()


class Teller:
    """Says each step on standard error as it ends; the commands' own bars run in between."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.number = 0

    def opening(self, what: str) -> None:
        self.console.print(f"[dim]{what} ...[/dim]")

    def __call__(self, step: Step) -> None:
        from rich.markup import escape
        from rich.padding import Padding

        self.number += 1
        mark = "[red]![/red]" if step.trial else "[green]✓[/green]"
        self.console.print(
            f"{mark} [bold]{self.number:2d}. {escape(step.title)}[/bold] [dim]{step.seconds:.1f} s[/dim]"
        )
        self.console.print(Padding(escape(step.says), (0, 0, 0, 6)))
