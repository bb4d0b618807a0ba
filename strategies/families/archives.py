"""Programs in a file, TorchScript and torch.export: told from weights by their content, and looked through before torch
loads them.

TorchScript runs in an interpreter of torch's own, which knows no Python; of its operators two open files, and an
archive that names one is refused. `torch.export.load` runs Python if an archive wants it (pickled tensors and
constants, compiled libraries, any function below `torch` as an operator, expressions of sympy, names that go into
generated code), so an archive is read as data first and refused unless all of it is plain.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

TORCHSCRIPT, EXPORT, PICKLE = "TorchScript", "torch.export", "pickle"
PROGRAMS = (TORCHSCRIPT, EXPORT)

_FILES = ("from_file", "save")  # of torch's operators: they open what a program names
_RECORDS = re.compile(
    r"models/model\.json|archive_format|archive_version|version|byteorder|\.data/\w+|extra/[\w./-]+|"
    r"data/(?:weights/(?:weight_\d+|model_weights_config\.json)|sample_inputs/model\.pt|"
    r"constants/(?:tensor_\d+|model_constants_config\.json))"
)
_PYTHON = "getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_"
_OPERATOR = re.compile(
    rf"torch\.ops\.(?:aten|prims)\.(?!from_file\b)\w+(?:\.\w+)?|_operator\.(?:{_PYTHON})|math\.[a-z]\w*|torch\.sym_\w+|"
    r"torch\.ops\.higher_order\.(?:cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_NAME = re.compile(r"[\w.\[\]]*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SIZES = re.compile(r"[\w\s'()=,+*/<>-]*")
_OF_SIZES = re.compile(
    "[suz][0-9]+|Symbol|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|IntTrueDiv|Max|Min|"
    "Eq|Ne|Le|Lt|Ge|Gt|StrictLessThan|LessThan|GreaterThan|StrictGreaterThan|Equality|Unequality|"
    "True|False|positive|nonnegative|nonzero|integer"
)
_TREE = re.compile(r"builtins\.(?:tuple|list|dict)")


class Unsafe(ValueError):
    """An archive that might do more than compute."""


def kind_of(file: Path) -> str | None:
    """TORCHSCRIPT, EXPORT or PICKLE by what is in the file, whatever its name is; None for all else."""
    try:
        with file.open("rb") as stream:
            start = stream.read(2)
        if start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return PICKLE
        with zipfile.ZipFile(file) as archive:
            inside = {name.partition("/")[2] for name in archive.namelist()} | {*archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    if "archive_format" in inside or "serialized_exported_program.json" in inside:
        return EXPORT
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return TORCHSCRIPT
    return PICKLE if "data.pkl" in inside else None


def load_program(file: Path) -> Any:
    """What the archive holds, on the CPU and, of TorchScript, in eval mode: a ScriptModule, or an fx.GraphModule.

    Raises ValueError where it is no archive of either kind, names something that is not looked at further, or can't be
    loaded.
    """
    kind, content = kind_of(file), file.read_bytes()
    if kind not in PROGRAMS:
        raise ValueError(f"{file.name} is no module of TorchScript and no program of torch.export.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, and is what vendors ship
            if kind == TORCHSCRIPT:
                return _script(content, file.name)
            _plain(content, file.name)
            # Guards are code in the archive, made to be run; the shapes that a program takes are tried instead.
            return torch.export.load(io.BytesIO(content)).module(check_guards=False)
    except Unsafe:
        raise
    except Exception as error:  # an archive is foreign: whatever torch trips over in it is the archive's
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{file.name} can't be loaded as a program of {kind}: {reason}") from error


def _records(content: bytes) -> tuple[Any, list[str]]:
    """By the very reader that torch loads with, so that nothing else is loaded than was looked at."""
    reader: Any = torch._C.PyTorchFileReader(io.BytesIO(content))
    return reader, reader.get_all_records()


def _script(content: bytes, name: str) -> Any:
    """Looked through by its text, because what restores its state runs at loading, and by what it was compiled to."""
    reader, records = _records(content)
    code = b"\n".join(reader.get_record(record) for record in records if re.fullmatch(r"code/.*\.py", record))
    found = [word for word in _FILES if re.search(rf"\b{word}\b".encode(), code)]
    if not found:
        module: Any = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        found = [word for word in _FILES if list(module.inlined_graph.findAllNodes(f"aten::{word}"))]
    if found:
        raise Unsafe(f"{name} calls torch's {found[0]!r}, which opens files: it is not deployed.")
    return module


def _plain(content: bytes, name: str) -> None:
    """Raises ValueError unless nothing in the archive is run or unpickled when torch loads it."""
    reader, records = _records(content)
    odd = [record for record in records if not _RECORDS.fullmatch(record)]
    if len({record.lower() for record in records}) < len(records):
        odd.append("two records of one name")
    for record in ("weights", "constants"):
        config = json.loads(reader.get_record(f"data/{record}/model_{record}_config.json"))
        odd += _odd_names(config)
        odd += [f"the pickle {one['path_name']}" for one in config["config"].values() if one["use_pickle"]]
    odd += _odd(json.loads(reader.get_record("models/model.json")))
    if odd:
        raise Unsafe(
            f"{name} holds {odd[0][:80]!r}, which could run code or is not known here: it is not loaded. Save it by "
            "torch.export.save from a network of plain layers, or as TorchScript."
        )


def _odd_names(record: Any) -> Iterator[str]:
    """Keys and strings that are no names."""
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        if isinstance(key, str) and not _NAME.fullmatch(key):
            yield key
        if isinstance(value, dict | list):
            yield from _odd_names(value)
        elif isinstance(value, str) and not _NAME.fullmatch(value):
            yield value


def _odd(record: Any) -> Iterator[str]:
    """What of a program is more than plain operators on named tensors of sizes that are sums and products."""
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        if (isinstance(key, str) and not _NAME.fullmatch(key)) or (key == "guards_code" and value):
            yield str(key)
        elif key in ("metadata", "torch_version", "as_string"):
            continue  # read as text, or written with quotes
        elif key == "as_operator" or (key == "target" and "inputs" in record):
            if not _OPERATOR.fullmatch(value):
                yield value
        elif key in ("as_custom_obj", "custom_obj_values") and value:
            yield key
        elif key == "expr_str":
            if not _SIZES.fullmatch(value) or any(not _OF_SIZES.fullmatch(word) for word in _WORD.findall(value)):
                yield value
        elif key in ("in_spec", "out_spec"):
            yield from _odd_tree(json.loads(value)[1])
        elif isinstance(value, dict | list):
            yield from _odd(value)
        elif isinstance(value, str) and not _NAME.fullmatch(value):
            yield value


def _odd_tree(tree: Any) -> Iterator[str]:
    """What is no nest of tuples, lists and dicts by plain keys."""
    if tree["type"] is not None and not _TREE.fullmatch(tree["type"]):
        yield str(tree["type"])
    elif not re.fullmatch(r"[\w\s\",\[\].]*", str(tree["context"])):
        yield str(tree["context"])
    for child in tree["children_spec"]:
        yield from _odd_tree(child)
