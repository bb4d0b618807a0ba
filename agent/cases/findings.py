"""Findings of a case as text, as a data folder and late labels have them: names that don't exclude each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SEPARATOR = "|"
NONE = "none"
NO_FINDING = (NONE, "no finding")  # in any case, with a space or an underscore: public chest films have "No Finding"


def findings_of(value: str) -> list[str]:
    """The names in a label, each once and sorted; none of `none`, which is a label and not the lack of one.

    Raises ValueError where it names nothing, or no finding beside one.
    """
    names = sorted({name for part in value.split(SEPARATOR) if (name := part.strip())})
    found = [name for name in names if name.casefold().replace("_", " ") not in NO_FINDING]
    if not names:
        raise ValueError(f"{value!r} names no finding: write {NONE!r} where there is none")
    if found and len(found) < len(names):
        raise ValueError(f"{value!r} says that there is no finding, and names one")
    return found


def is_finding(name: str) -> bool:
    """Whether a label may have this name for one finding."""
    try:
        return findings_of(name) == [name]
    except ValueError:
        return False


def as_text(findings: Iterable[str]) -> str:
    """Findings in this order as a label is written."""
    return SEPARATOR.join(findings) or NONE


def answered(classes: Sequence[str], yes: Iterable[bool]) -> str:
    """An answer to each finding as a label is written."""
    return as_text(sorted(name for name, one in zip(classes, yes, strict=True) if one))
