"""Black boxes: a frozen module of TorchScript or torch.export, watched and recalibrated, and never adapted.

A folder holds the module and a `config.json`, which says once and by hand what no archive tells:

    {"library": "black_box", "module": "vendor.pt2", "task": "classification", "classes": ["normal", "pneumonia"],
     "output": "logits", "channels": 1,
     "preprocessing": {"size": 224, "mean": [0.5], "std": [0.25], "scale": "uint8"}}

`output` is "logits" or "probabilities"; a single number is that of the second of two classes, before or after its
sigmoid. Of one channel the mean of three is taken. The module takes float32 [b, channels, size, size] and answers
[b, k], or, as a segmentation, [b, k, size, size]. `"embedding": "features"` may name a submodule of TorchScript that
takes the same images: what it makes of them is what the monitors see.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strategies.families.archives import EXPORT, PICKLE, PROGRAMS, TORCHSCRIPT, kind_of, load_program
from strategies.families.backbone import ChainedBackbone, Encoder, unchanged
from strategies.families.weights import read_json
from strategies.preprocessing import from_record, to_record
from strategies.protocols import Preprocessing

# What a foreign program raises on an input that it does not take; what a script raises by itself is a jit.Error.
TRIPS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, torch.jit.Error)
LIBRARY = "black_box"
ROWS = 8  # of every pass, as a version serves; an archive that was made for another number is given that
LEAST = 1e-7  # a probability that is reckoned with: beyond it float32 tells no sigmoid from 1
DENSE = {"classification": False, "segmentation": True}
OUTPUTS = ("logits", "probabilities")
FIELDS = ("library", "module", "task", "classes", "output", "channels", "preprocessing")
STORED = {TORCHSCRIPT: "model.ts", EXPORT: "model.pt2"}  # in a base: a name that no other file of it has

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What is said of a module, `file`. output: None where that is to be told by its answers. preprocessing: of three
    channels, whatever the module takes."""

    file: Path
    task: str
    classes: tuple[str, ...]
    output: str | None
    channels: int
    preprocessing: Preprocessing
    embedding: str | None = None


class BlackBoxFamily:
    """A folder of a module and its config.json."""

    name = "black box"

    def claims(self, spec: str) -> bool:
        path = Path(spec)
        if path.is_dir():
            return read_json(path / "config.json").get("library") == LIBRARY
        return path.is_file() and kind_of(path) in PROGRAMS

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError for a config.json that lacks a field, a pickle, and a module that answers otherwise than it
        is declared."""
        return black_box(declared(Path(spec)))

    def head(self, spec: str) -> nn.Module:
        """One that changes nothing: the module's own head is inside it."""
        said = declared(Path(spec))
        return unchanged(len(said.classes), dense=DENSE[said.task])

    def describes(self, spec: str) -> tuple[str, tuple[str, ...]]:
        said = declared(Path(spec))
        return said.task, said.classes


def declared(folder: Path) -> Declared:
    """Raises ValueError, which names the field, where config.json does not say all, or nothing that is understood."""
    if folder.is_file():
        raise ValueError(
            f"{folder.name} is a program of {kind_of(folder)}, and doesn't say how it is fed: put it into a folder "
            f'with a config.json of "library": "{LIBRARY}" and {", ".join(FIELDS[1:])}.'
        )
    record = read_json(folder / "config.json")
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(
            f"The config.json of {folder.name} lacks {', '.join(missing)}: a black box tells nothing itself."
        )
    if odd := sorted(record.keys() - {*FIELDS, "embedding"}):
        raise ValueError(f"The config.json of {folder.name} has {odd[0]!r}, which is not read.")
    for name, known in (("task", tuple(DENSE)), ("output", OUTPUTS), ("channels", (1, 3))):
        if record[name] not in known:
            raise ValueError(
                f"The config.json of {folder.name} has {record[name]!r} as its {name}; known are "
                f"{' and '.join(map(str, known))}."
            )
    classes, file = record["classes"], folder / str(record["module"])
    if not isinstance(classes, list) or len(classes) < 2 or len({*map(str, classes)}) < len(classes):
        raise ValueError(f"The config.json of {folder.name} needs at least two classes, in the order of the outputs.")
    if file.name != record["module"] or not file.is_file() or file.is_symlink():
        raise ValueError(f"The config.json of {folder.name} names the module {record['module']!r}, no file beside it.")
    if kind_of(file) == PICKLE:
        raise ValueError(_pickled(file.name))
    return Declared(
        file=file,
        task=record["task"],
        classes=tuple(map(str, classes)),
        output=record["output"],
        channels=record["channels"],
        preprocessing=_preprocessing(folder.name, record["preprocessing"], record["channels"]),
        embedding=record.get("embedding"),
    )


def _preprocessing(name: str, record: Any, channels: int) -> Preprocessing:
    needed = ("size", "mean", "std", "scale")
    missing = [field for field in needed if field not in record] if isinstance(record, dict) else needed
    if missing:
        raise ValueError(f"The preprocessing in the config.json of {name} lacks {', '.join(missing)}.")
    try:
        if any(len(record[field]) not in (channels, 3) for field in ("mean", "std")):
            raise TypeError
        three = {field: [float(one) for one in record[field]] * (3 // len(record[field])) for field in ("mean", "std")}
        return from_record(record | three)
    except TypeError:
        raise ValueError(
            f"The preprocessing of {name} needs a mean and a deviation for each of {channels} channels."
        ) from None


def _pickled(name: str) -> str:
    return (
        f"{name} is a pickle, which can run code, and is not read: have it exported where it was made, by "
        "torch.jit.script(model.eval()).save('model.ts') or torch.export.save(torch.export.export(model.eval(), "
        "(images,)), 'model.pt2')."
    )


def black_box(said: Declared) -> ChainedBackbone:
    """Its features are its logits. Raises ValueError where the module is not what is declared of it."""
    program = load_program(said.file)
    taken, dense = _fitting(program, said), DENSE[said.task]
    said = _checked(taken, said)
    answers = Answers(taken, said.output, len(said.classes))
    seen = _seen(program, said)
    sense = None if seen is None and not dense else partial(Seen, taken if seen is None else seen)
    return ChainedBackbone(
        Encoder(answers, lambda network: [network]),
        len(said.classes),
        said.preprocessing,
        partial(_write, said),
        1 if dense else None,
        sense,
        lambda layer: False,
        sealed=True,
    )


class Fed:
    """[b, 3, s, s] -> what `run` says of them, in passes of `rows` images of `channels`; fewer are padded."""

    def __init__(self, run: Run, channels: int, rows: int) -> None:
        self.run, self.channels, self.rows = run, channels, rows

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = images if self.channels == 3 else images.mean(dim=1, keepdim=True)
        padded = torch.cat([images, images.new_zeros((-len(images) % self.rows, *images.shape[1:]))])
        return torch.cat([self.run(some) for some in padded.split(self.rows)])[: len(images)]


class Answers(nn.Module):
    """[b, 3, s, s] -> logits [b, k] or [b, k, s, s].

    The program is no submodule: it has no weights for anybody to move, and no mode of training.
    """

    def __init__(self, taken: Fed, output: str | None, classes: int) -> None:
        super().__init__()
        self._taken, self._output, self._classes = taken, output, classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        said = self._taken(images).float()
        said = said[:, None] if said.ndim == 1 else said
        alone = said.shape[1] == 1 and self._classes == 2
        if self._output == "logits":
            return torch.cat([torch.zeros_like(said), said], dim=1) if alone else said
        return (torch.cat([1 - said, said], dim=1) if alone else said).clamp_min(LEAST).log()


class Seen(nn.Module):
    """[b, 3, s, s] -> [b, d]: what `taken` makes of images, averaged over places [b, d, h, w] or tokens [b, ..., d]."""

    def __init__(self, taken: Run, _: nn.Module) -> None:
        super().__init__()
        self._taken = taken

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        made = self._taken(images).float()
        if made.ndim == 4:
            return made.mean(dim=(2, 3))
        return made.flatten(1, -2).mean(dim=1) if made.ndim > 2 else made.reshape(len(made), -1)


def _fitting(program: Any, said: Declared) -> Fed:
    """The program fed with as many images as it takes at once. Raises ValueError where it takes none."""
    size, reason = said.preprocessing.size, ""
    for rows in dict.fromkeys((ROWS, _made_for(program), 1)):
        try:
            with torch.inference_mode():
                found = program(torch.zeros(rows, said.channels, size, size))
        except TRIPS as error:
            reason = reason or str(error).strip().splitlines()[-1]
            continue
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"{said.file.name} answers with a {type(found).__name__}, and not with one tensor.")
        if len(found) == rows:
            return Fed(program, said.channels, rows)
        reason = reason or f"it answers with {tuple(found.shape)}"
    raise ValueError(f"{said.file.name} takes no images [b, {said.channels}, {size}, {size}]: {reason}.")


def _made_for(program: Any) -> int:
    """The number of images that a program of torch.export was made for; 1 where it takes any, or none is told."""
    for node in program.graph.nodes if isinstance(program, torch.fx.GraphModule) else ():
        shape: Any = getattr(node.meta.get("val"), "shape", ())
        if node.op == "placeholder" and len(shape) and isinstance(shape[0], int):
            return shape[0]
    return 1


@torch.inference_mode()
def _checked(taken: Fed, said: Declared) -> Declared:
    """With its output, where that was not said. Raises ValueError where answers to noise are of another shape or kind
    than declared, or are not each image's own."""
    name, size, classes = said.file.name, said.preprocessing.size, len(said.classes)
    images = torch.randn(ROWS, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        raw = taken(images).float()
    except TRIPS as error:
        raise ValueError(f"{name} fails on noise, where an image is: {str(error).strip().splitlines()[-1]}.") from error
    chances = bool((raw >= 0).all() and (raw <= 1).all())
    if raw.ndim > 1 and raw.shape[1] == classes:
        summed = chances and bool((raw.sum(dim=1) - 1).abs().max() < 1e-3)
        told = "probabilities" if summed else "logits"
        if told != (said.output or told):
            raise ValueError(f"{name} answers with {told}, by their sums; declared are {said.output}.")
        said = replace(said, output=told)
    elif said.output is None or (said.output == "probabilities" and not chances):
        raise ValueError(
            f"{name} answers with {tuple(raw.shape[1:])} for an image, which are no {classes} probabilities."
        )
    answers = Answers(taken, said.output, classes)
    logits, wanted = answers(images), (ROWS, classes, *((size, size) if DENSE[said.task] else ()))
    if logits.shape != wanted:
        raise ValueError(f"{name} answers {tuple(logits.shape)} for images where {said.task} needs {wanted}.")
    if not torch.isfinite(logits).all():
        raise ValueError(f"{name} answers with NaN or infinity.")
    alone = torch.cat([images[:1], torch.zeros_like(images[1:])])
    for again, why in ((images, "each time otherwise"), (alone, "by what lies beside an image in a batch")):
        if not torch.allclose(answers(again)[0], logits[0], rtol=1e-3, atol=1e-3):
            raise ValueError(f"{name} answers {why}: it was exported in training mode; export it after model.eval().")
    return said


def _seen(program: Any, said: Declared) -> Run | None:
    """The way to features within the program; None where there is none but its answers."""
    if kind_of(said.file) == EXPORT:
        try:
            found = _before_last_layer(program)
            return None if found is None else _fitting(found, said)
        except ValueError:  # a layer may read the places of all images as rows
            return None
    if said.embedding is None:
        return None
    inside = dict(program.named_modules())
    if said.embedding not in inside:
        raise ValueError(f"{said.file.name} has no submodule {said.embedding!r} to take the embedding from.")
    return _fitting(inside[said.embedding], said)


def _before_last_layer(program: torch.fx.GraphModule) -> torch.fx.GraphModule | None:
    """The same program, ending with what its last linear layer or convolution reads."""
    aten = torch.ops.aten
    places = {aten.linear.default: 0, aten.addmm.default: 1, aten.conv2d.default: 0, aten.convolution.default: 0}
    graph = copy.deepcopy(program.graph)
    layers = [node for node in graph.nodes if node.target in places]
    if len(layers) < 2:
        return None
    graph.output_node().args = ((layers[-1].args[places[layers[-1].target]],),)
    graph.eliminate_dead_code()
    return torch.fx.GraphModule(program, graph)


def _write(said: Declared, network: nn.Module, preprocessing: Preprocessing, folder: Path) -> None:
    """The module byte for byte, and a config.json that says all of it."""
    stored = STORED[str(kind_of(said.file))]
    record: Mapping[str, Any] = {
        "library": LIBRARY,
        "module": stored,
        "task": said.task,
        "classes": list(said.classes),
        "output": said.output,
        "channels": said.channels,
        "preprocessing": to_record(preprocessing),
    } | ({"embedding": said.embedding} if said.embedding else {})
    (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(said.file, folder / stored)
