"""A base model as a folder: the encoder in its ecosystem's own form, `head.safetensors`, and `base.json`.

One classifies images, another each of their pixels, a third finds things in them, as `base.json` names the task; of
classes that don't exclude each other an image may have any number.

Bases are fitted here or imported with the head that they came with; the digest of one binds every adapter to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from strategies.augmentation import upright
from strategies.families import families, family_of, load_backbone
from strategies.families.weights import read_weights
from strategies.findings import MOST
from strategies.model import Classifier, head_from, head_layers, head_sizes
from strategies.preprocessing import MOST_SLICES, Pixels, from_record, to_record
from strategies.protocols import Backbone, Boxed, Describing, Examples, Masked, Progress
from strategies.slices import apart
from strategies.tasks import Task, task_of
from strategies.training import Measure, train

FORMAT = 1
DEFAULT_BACKBONE = "mobilenet_v3_small"
DEFAULT_BACKBONES = {"segmentation": "monai:unet"}  # where it isn't DEFAULT_BACKBONE
DEFAULT_SIZES = {"detection": 256}  # where the backbone's own is for images of one thing each
DEFAULT_EPOCHS = 25


def fit_base(
    train_examples: Examples,
    develop: Examples,
    classes: Sequence[str],
    *,
    task: str = "classification",
    backbone: str | None = None,
    size: int | None = None,
    slices: int = 1,
    epochs: int = DEFAULT_EPOCHS,
    seed: int = 0,
    out: Path,
    measure: Measure,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains `backbone` and a head on the labelled examples and writes the base folder `out`.

    A segmentation's classes are the background and then each structure, and its examples have masks; those of a
    detection have boxes. `backbone` is the task's default where none is named. `size` is the side in pixels that images
    are brought to, where it isn't the backbone's own (a detection's: DEFAULT_SIZES), and `slices` how many of a volume
    make up a case. Keeps the epoch with the best `measure` on `develop`. Answers with the backbone, the counts, the
    measure, the epochs and the seconds. Raises ValueError where `out` is taken, a class has no example, only one class
    is there, a mask is of another size than its image, a box lies outside it, or the backbone takes no images of that
    size or does not serve the task.
    """
    _check_slices(task_of(task), slices)
    started = time.monotonic()
    kind, backbone = task_of(task), backbone or DEFAULT_BACKBONES.get(task, DEFAULT_BACKBONE)
    known = [np.flatnonzero(np.asarray(part.label) >= 0) for part in (train_examples, develop)]
    if not len(known[0]):
        raise ValueError("Training needs labelled cases of at least two classes, and there is none.")
    if not len(known[1]):
        raise ValueError("No labelled case is left to choose the best epoch with.")
    torch.manual_seed(seed)
    origin, size = load_backbone(backbone), DEFAULT_SIZES.get(task) if size is None else size
    if origin.sealed:
        raise ValueError(
            f"{_plain(backbone)} is a black box and learns nothing: deploy it as it is, with "
            f"'homeostat init --model {backbone}'."
        )
    origin = kind.backbone(origin)
    scale = _scale(train_examples, known[0])
    size = origin.preprocessing.size if size is None else size
    origin = _taking_its_size(origin.fed(replace(origin.preprocessing, scale=scale, size=size, slices=slices)))
    model = Classifier(origin, kind.head(origin, len(classes)), classes, task)
    parts = [Chosen(part, rows) for part, rows in zip((train_examples, develop), known, strict=True)]
    truth = [kind.target(part, origin.preprocessing) for part in parts]
    for target in truth:
        kind.check(target, classes)
    kind.check_whole(truth[0], classes)
    images = [Pixels(part, origin.preprocessing, progress=progress) for part in parts]
    sample = images[0][np.linspace(0, len(parts[0]) - 1, min(128, len(parts[0]))).astype(int).tolist()]
    up = upright(apart(sample, slices))
    inputs = [kind.inputs(part, target, up) for part, target in zip(images, truth, strict=True)]
    trained = train(
        model.backbone,
        model.head,
        model.parameters(),
        inputs[0],
        parts[0].label,
        develop=(inputs[1], parts[1].label),
        measure=measure,
        task=kind,
        truth=truth[1],
        loss=kind.fitted(truth[0], model.head),
        epochs=epochs,
        learning_rate=_learning_rate(model, kind.rate),
        seed=seed,
        patience=max(8, epochs // 3),
        progress=progress,
    )
    made = {"how": "fit", "spec": _plain(backbone), "seed": seed, **asdict(trained)}
    write_base(model, out, made)
    return {
        "out": str(out),
        "backbone": _plain(backbone),
        "n_train": len(parts[0]),
        "n_val": len(parts[1]),
        "metrics": {"develop": trained.develop[trained.best_epoch - 1]},
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "seconds": time.monotonic() - started,
    }


def import_base(
    spec: str,
    classes: Sequence[str],
    out: Path,
    *,
    size: int | None = None,
    slices: int = 1,
    task: str = "classification",
) -> str:
    """Writes the base folder `out` from a foreign model with the head it came with; answers with its digest.

    `size` is the side in pixels that it was trained at, where the files don't say it (torchvision's don't), and
    `slices` how many of a volume make up a case. Raises ValueError where `spec` holds no head, one of another number of
    classes, says itself that it answers otherwise, or takes no images of that size.
    """
    family = family_of(spec)
    named = task_of(task)
    _check_slices(named, slices)
    if isinstance(family, Describing) and (said := _described(family, spec)) not in (None, (task, (*classes,))):
        raise ValueError(f"{_plain(spec)} says itself that it is a {said[0]} of {', '.join(said[1])}: ask for that.")
    if task == "multilabel" and len(classes) > MOST:
        raise ValueError(f"A case has at most {MOST} findings; {len(classes)} are named.")
    head, origin = family.head(spec), family.load(spec)
    if (origin.stride is not None) != named.dense or (origin.detector is not None) != (named.name == "detection"):
        raise ValueError(f"The model {_plain(spec)} serves no {task}.")
    size = origin.preprocessing.size if size is None else size
    origin = _taking_its_size(origin.fed(replace(origin.preprocessing, size=size, slices=slices)))
    takes, outputs = head_sizes(head)
    if takes != origin.width:
        raise ValueError(f"The head of {_plain(spec)} takes {takes} features; the encoder gives {origin.width}.")
    if outputs != len(classes):
        raise ValueError(f"The head of {_plain(spec)} has {outputs} outputs, but {len(classes)} classes are named.")
    write_base(Classifier(origin, head, classes, task), out, {"how": "import", "spec": _plain(spec)})
    return base_digest(out)


def import_described(spec: str, out: Path) -> None:
    """Writes the base folder `out` from a model that says itself which task it serves and of which classes.

    Raises ValueError where it does not say, or is not what it says.
    """
    family = next((one for one in families() if one.claims(spec)), None)
    if not isinstance(family, Describing):
        raise ValueError(
            f"{_plain(spec)} is no base model: it holds no base.json, and does not say which classes it tells apart; "
            "'homeostat fit --backbone' makes a base of an encoder."
        )
    task, classes = family.describes(spec)
    import_base(spec, classes, out, task=task)


def write_base(model: Classifier, out: Path, made: dict[str, Any]) -> None:
    """Writes the base folder beside its place and renames it, so that `out` is whole or not there.

    Raises ValueError where `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; a base is written into a new folder.")
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model.origin.save(staging)
    save_file(model.head.state_dict(), staging / "head.safetensors")
    record = {
        "format": FORMAT,
        "task": model.task,
        "classes": list(model.classes),
        "preprocessing": to_record(model.origin.preprocessing),
        "head": head_layers(model.head),
        "sealed": model.origin.sealed,
        "made": made,
    }
    (staging / "base.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for file in staging.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    staging.replace(out)


def load_base(folder: Path) -> Classifier:
    """The model of a base folder, in eval mode. Raises ValueError where a file is missing, broken or another's."""
    record = read_record(folder)
    origin = task_of(record["task"]).backbone(load_backbone(str(folder)).fed(from_record(record["preprocessing"])))
    layers = record["head"]
    if record["task"] == "detection" and layers[-1] == "conv":  # as heads were written that left distances to the task
        layers = [*layers, "corners"]
    head = head_from(layers, read_weights(folder / "head.safetensors"))
    return Classifier(origin, head, record["classes"], record["task"]).eval()


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of base.json. Raises ValueError where the folder is no base, or one of a newer format."""
    file = folder / "base.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no base model: it holds no base.json; `fit` makes one.")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from error
    missing = {"format", "classes", "preprocessing", "head", "task"} - record.keys()
    if missing:
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}.")
    if record["format"] > FORMAT:
        raise ValueError(f"{file} is of format {record['format']}; this version reads up to {FORMAT}.")
    return record


def base_digest(folder: Path) -> str:
    """sha256 in hex over the weights, the architecture's configuration, the preprocessing, the head and the classes."""
    record = read_record(folder)
    digest = hashlib.sha256()
    meaning = {key: record[key] for key in ("classes", "preprocessing", "head", "task")}
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    for file in sorted({*folder.glob("*.safetensors"), *folder.glob("model.*"), folder / "config.json"}):
        with file.open("rb") as stream:
            digest.update(f"\0{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class Chosen:
    """Some rows of other examples, in the order of `rows`; their masks or boxes, where those have them."""

    def __init__(self, examples: Examples, rows: np.ndarray) -> None:
        self._examples, self._rows = examples, rows
        self.label = np.asarray(examples.label)[rows]
        self.patient = np.asarray(examples.patient)[rows]
        self.domain = np.asarray(examples.domain)[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, i: int) -> np.ndarray:
        return self._examples.image(int(self._rows[i]))

    def mask(self, i: int) -> np.ndarray:
        return cast(Masked, self._examples).mask(int(self._rows[i]))

    def boxes(self, i: int) -> np.ndarray:
        return cast(Boxed, self._examples).boxes(int(self._rows[i]))


def _check_slices(task: Task, slices: int) -> None:
    if not 1 <= slices <= MOST_SLICES:
        raise ValueError(f"A case can't be {slices} slices of a volume: 1 to {MOST_SLICES} can be.")
    if slices > 1 and not task.sliced:
        raise ValueError(f"A {task.name} answers for one slice of a volume: leave --slices out.")


def _described(family: Describing, spec: str) -> tuple[str, tuple[str, ...]] | None:
    """What the model's own files say; None where they don't."""
    try:
        return family.describes(spec)
    except ValueError:
        return None


def _taking_its_size(origin: Backbone) -> Backbone:
    """The backbone, once it has taken an image of its size."""
    size, slices = origin.preprocessing.size, origin.preprocessing.slices
    try:
        with torch.inference_mode():
            origin.module.eval()(torch.zeros(1, 3, slices * size, size))
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError, torch.jit.Error) as error:
        deep = f" and {slices} of its slices" if slices > 1 or getattr(origin.module, "volumes", False) else ""
        raise ValueError(f"The backbone takes no images of {size} pixels a side{deep}: {error}") from error
    return origin


def _scale(examples: Examples, rows: np.ndarray, looked_at: int = 64) -> str:
    """ "uint8" where the images lie in 0..255, else "minmax"; from evenly spaced examples."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(looked_at, len(rows))).astype(int)]
    images = [examples.image(int(i)) for i in chosen]
    return "uint8" if all(image.min() >= 0 and image.max() <= 255 for image in images) else "minmax"


def _learning_rate(model: nn.Module, rate: float) -> float:
    """Batch norms bear a rate at which a transformer, without them, learns nothing or unlearns what it brought."""
    return rate if any(isinstance(layer, _BatchNorm) for layer in model.modules()) else 5e-4


def _plain(spec: str) -> str:
    """The spec without the folders of this machine."""
    return ":".join(Path(part).name for part in spec.split(":"))
