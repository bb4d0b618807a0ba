"""Weights files: safetensors, or NumPy's npz without pickle. What is missing or too much is named, never ignored."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from strategies.families.archives import PROGRAMS, kind_of

PICKLES = (".pth", ".pt", ".ckpt", ".pkl")
LISTED = 6  # names in a sentence


def pickled(name: str) -> str:
    """Why a file of this name is not read, and the way to convert it."""
    kept = Path(name).with_suffix(".safetensors").name
    return (
        f'{name} is a pickle, which can run code, and is not read: convert it once with python -c "import torch; '
        f"from safetensors.torch import save_file; save_file(torch.load('{name}', weights_only=True), '{kept}')\", "
        f"and name {kept}."
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file by name. Raises ValueError where the file is of another kind, truncated or pickled."""
    if (kind := kind_of(path)) in PROGRAMS:
        raise ValueError(
            f"{path.name} is a program of {kind} and no weights file: deploy it as a black box, a folder with a "
            "config.json beside it."
        )
    if path.suffix in PICKLES:
        raise ValueError(pickled(path.name))
    if path.suffix not in _READERS:
        raise ValueError(f"The weights file {path.name} is neither .safetensors nor .npz; nothing else is read.")
    try:
        return _READERS[path.suffix](path)
    except (SafetensorError, zipfile.BadZipFile, ValueError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"The weights file {path.name} can't be read: {error}.") from error


def _npz(path: Path) -> dict[str, torch.Tensor]:
    if path.is_file() and not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and say how to read one
        raise ValueError("it is no archive of arrays")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}


def tensor_names(file: Path) -> list[str]:
    """Of the tensors in a weights file, without reading them; none where it is no weights file."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np") as opened:
                return list(opened.keys())
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
    except (SafetensorError, zipfile.BadZipFile, OSError):
        pass
    return []


_READERS: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {".safetensors": load_file, ".npz": _npz}


def load_exactly(module: nn.Module, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Loads `weights` into `module`. Raises ValueError as `same_tensors` does."""
    same_tensors(module.state_dict(), weights, what)
    module.load_state_dict(weights)


def same_tensors(wanted: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises ValueError that names what `weights` lack, have too much, or have in another shape than `wanted`."""
    for fault, names in (
        ("lacks the", wanted.keys() - weights.keys()),
        ("has the odd", weights.keys() - wanted.keys()),
    ):
        if names:
            first = ", ".join(map(repr, sorted(names)[:LISTED]))
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            several = "s" if len(names) > 1 else ""
            raise ValueError(f"{what} {fault} tensor{several} {first}{more}: it belongs to another model.")
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(
                f"{what} has {name!r} of shape {tuple(weights[name].shape)} where {tuple(tensor.shape)} is needed: "
                "it belongs to another model."
            )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`, empty where there is no file. Raises ValueError where it holds something else."""
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file} holds no JSON object.")
    return record
