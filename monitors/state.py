"""A monitor's state as one flat dict of plain arrays, stamped with a version."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

VERSION = 1


def joined(own: Mapping[str, NDArray], **parts: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Own arrays, and those of the parts under `part.key`; copies, so that going on does not change what was saved."""
    flat = {"version": np.array(VERSION)} | {key: np.array(value) for key, value in own.items()}
    for name, state in parts.items():
        flat |= {f"{name}.{key}": np.array(value) for key, value in state.items()}
    return flat


def part(state: Mapping[str, NDArray], name: str) -> dict[str, NDArray]:
    """The arrays that `joined` put under `name`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def check_version(state: Mapping[str, NDArray]) -> None:
    """Raises ValueError for a state that a newer program wrote."""
    if int(state["version"]) > VERSION:
        raise ValueError(
            f"this state has version {int(state['version'])} and this program knows {VERSION}: an older program met a "
            "newer workspace; install the newer program"
        )
