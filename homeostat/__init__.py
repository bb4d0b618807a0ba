"""What users of a deployment import; the work is done in `agent`, `strategies` and `monitors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.versions.serve import LiveModel
    from agent.workspace import Workspace

__all__ = ["LiveModel", "Workspace"]

_HOME = {"LiveModel": "agent.versions.serve", "Workspace": "agent.workspace"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'homeostat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
