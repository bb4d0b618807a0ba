"""The frame of every page: one HTML file that needs nothing else; no script, no font, no network."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from agent.errors import HomeostatError


def framed(title: str, body: str) -> str:
    """The whole file around the content of its <main>."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body><main>\n{body}\n</main></body>\n</html>\n'


def to_write(name: str) -> Path:
    """The path of a page that is about to be made. Raises HomeostatError where it couldn't be written, before the work
    that it takes."""
    path = Path(name)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise HomeostatError(f"{name} can't be written: name a file in a folder that exists and is yours")
    return path
