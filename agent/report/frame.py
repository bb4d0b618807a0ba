"""The frame of every page: one HTML file that needs nothing else; no script, no font, no network."""

from __future__ import annotations

from html import escape
from pathlib import Path


def framed(title: str, body: str) -> str:
    """The whole file around the content of its <main>."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body><main>\n{body}\n</main></body>\n</html>\n'
