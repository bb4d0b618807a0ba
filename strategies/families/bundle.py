"""MONAI bundles: a folder with `configs/metadata.json`, `configs/inference.json` (or .yaml) and `models/`.

The configuration of a bundle is a program: MONAI evaluates what begins with `$` and imports what `_target_` names. Here
it is data. Of `network_def` plain values are read, references (`@key`) are followed to plain values, and the network is
one of those that `monai:NAME` knows. Of `preprocessing` the names of the transforms are read: one that can't be had
here is a reason to refuse. Whatever else the file holds is never looked at. How images are fed, and what the outputs
are called, stands in metadata.json. A bundle without safetensors that has a `model.ts` is a black box.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from strategies.families.archives import PROGRAMS, kind_of
from strategies.families.backbone import ChainedBackbone, unchanged
from strategies.families.black_box import Declared, black_box
from strategies.families.monai import DESIGNS, backbone_of, built
from strategies.families.weights import load_exactly, pickled, read_json, read_weights
from strategies.protocols import Preprocessing

METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
TASKS = {"segmentation": "segmentation", "classes": "classification"}  # by the format of the output
NETWORKS = {design.network: name for name, design in DESIGNS.items() if design.dimensions == 2}
PLACE = "monai.networks.nets."
READ = ("LoadImage", "EnsureChannelFirst", "AsChannelFirst", "AddChannel", "Resize", "EnsureType", "CastToType",
        "ToTensor", "ToDevice")  # fmt: skip
OWN_RANGE, OF_8_BITS = "ScaleIntensity", "ScaleIntensityRange"  # transforms, each with its scale here


@dataclass(frozen=True, kw_only=True)
class Told:
    """What metadata.json says. preprocessing: of three channels, whatever the network takes."""

    task: str
    classes: tuple[str, ...]
    channels: int
    preprocessing: Preprocessing


class BundleFamily:
    """A folder in the layout of MONAI's bundles."""

    name = "MONAI bundle"

    def claims(self, spec: str) -> bool:
        return (Path(spec) / METADATA).is_file()

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError for metadata that say too little, an expression or an unknown network in `network_def`,
        a pickle, and other tensors than the network's."""
        folder, told = Path(spec), read_metadata(Path(spec))
        weights = folder / "models" / "model.safetensors"
        if not weights.is_file():
            return black_box(Declared(file=_program(folder), output=None, **vars(told)))
        name, arguments = read_network(folder)
        if arguments.get("in_channels") != told.channels or arguments.get("out_channels") != len(told.classes):
            raise ValueError(
                f"The bundle {folder.name} has a network of {arguments.get('in_channels')} to "
                f"{arguments.get('out_channels')} channels, and metadata of {told.channels} to {len(told.classes)}."
            )
        network = built(name, arguments)
        load_exactly(network, read_weights(weights), f"The bundle {folder.name}")
        return backbone_of(name, arguments, network, told.preprocessing)

    def head(self, spec: str) -> nn.Module:
        """One that changes nothing: the network gives logits."""
        told = read_metadata(Path(spec))
        return unchanged(len(told.classes), dense=told.task == "segmentation")

    def describes(self, spec: str) -> tuple[str, tuple[str, ...]]:
        told = read_metadata(Path(spec))
        return told.task, told.classes


def read_metadata(folder: Path) -> Told:
    """Raises ValueError, which names the field, where it is none of a network of images and classes."""
    name, record = folder.name, read_json(folder / METADATA)
    image, answer = (_only(record, name, kind) for kind in ("inputs", "outputs"))
    channels, shape, values = image.get("num_channels"), image.get("spatial_shape"), image.get("value_range")
    if channels not in (1, 3):
        raise ValueError(f"The bundle {name} takes {channels} channels; images here have 1 or 3 (num_channels).")
    if not (isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], int) and shape[0] == shape[1] > 0):
        raise ValueError(
            f"The bundle {name} takes images of {shape}; here they are squares of one size (spatial_shape)."
        )
    if not (isinstance(values, list) and len(values) == 2 and _numbers(values) and values[0] < values[1]):
        raise ValueError(f"The bundle {name} says no [lowest, highest] value of its input (value_range).")
    said, classes = answer.get("format"), answer.get("channel_def")
    if said not in TASKS:
        raise ValueError(f"The bundle {name} answers with {said!r}; known formats are {' and '.join(TASKS)}.")
    if not isinstance(classes, dict) or len(classes) < 2 or {*classes} != {*map(str, range(len(classes)))}:
        raise ValueError(f"The bundle {name} doesn't name two or more classes by their numbers (channel_def).")
    if image.get("is_patch_data"):
        raise ValueError(f"The bundle {name} is fed patches of images (is_patch_data); here they are resized whole.")
    low, high = map(float, values)
    scale, clip = _scaled(folder, channels)
    return Told(
        task=TASKS[said],
        classes=tuple(str(classes[str(i)]) for i in range(len(classes))),
        channels=channels,
        preprocessing=Preprocessing(
            size=shape[0],
            mean=(-low / (high - low),) * 3,
            std=(1 / (high - low),) * 3,
            scale=scale,
            clip=clip,
        ),
    )


def _scaled(folder: Path, channels: int) -> tuple[str, tuple[float, float]]:
    """The scale of intensities by the bundle's own transforms, and the percentiles that it clips to; where none of them
    scales, three channels are taken for 8-bit colours, and one goes by the image's own range.

    Raises ValueError where a transform changes images in a way that is not done here.
    """
    whole, robust = (0.0, 100.0), (0.5, 99.5)
    found = ("uint8", robust) if channels == 3 else ("minmax", robust)
    for step in _steps(folder) if any((folder / one).is_file() for one in CONFIGS) else ():
        told = step if isinstance(step, dict) else {"_target_": step}
        name = str(told.get("_target_"))
        kind = re.sub("(?:d|D|Dict)$", "", name.rpartition(".")[2])
        if kind == OWN_RANGE:
            found = ("minmax", whole)
        elif kind == OF_8_BITS and (told.get("a_min"), told.get("a_max")) == (0, 255):
            found = ("uint8", robust)
        elif kind not in READ:
            raise ValueError(f"The bundle {folder.name} feeds images through {name}, which is not done here.")
    return found


def _steps(folder: Path) -> list[Any]:
    """The transforms of the bundle's preprocessing in their order, references followed. Raises ValueError where they
    are no list as they stand: what they do to an image could not be read."""
    config = _inference(folder)
    try:
        steps = _followed(config, config.get("preprocessing", []), "preprocessing")
        if isinstance(steps, dict):
            steps = _followed(config, steps.get("transforms", [steps]), "preprocessing::transforms")
        if isinstance(steps, list):
            return [_followed(config, step, "preprocessing") for step in steps]
    except ValueError as error:
        raise ValueError(f"In the inference config of {folder.name} {error}.") from None
    raise ValueError(
        f"The preprocessing of the bundle {folder.name} is no list of transforms as it stands, so how it scales images "
        "can't be read: write the transforms out."
    )


def _only(record: Mapping[str, Any], name: str, kind: str) -> Mapping[str, Any]:
    found = record.get("network_data_format", {}).get(kind)
    if not isinstance(found, dict) or len(found) != 1 or not isinstance(one := next(iter(found.values())), dict):
        raise ValueError(f"The metadata.json of {name} needs one entry of network_data_format, {kind}.")
    return one


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _program(folder: Path) -> Path:
    """The bundle's module of TorchScript. Raises ValueError where it has none."""
    files = [file for name in ("model.ts", "model.pt") if (file := folder / "models" / name).is_file()]
    for file in files:
        if kind_of(file) in PROGRAMS:
            return file
    if files:
        raise ValueError(f"In models/ of the bundle {folder.name}: {pickled(files[0].name)}")
    raise ValueError(f"The bundle {folder.name} has no models/model.safetensors, and no models/model.ts.")


def read_network(folder: Path) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of the network in the inference config, as `monai:NAME` has them.

    Raises ValueError, which names the key, for what is no plain value.
    """
    config = _inference(folder)
    if not isinstance(config.get("network_def"), dict):
        raise ValueError(f"The inference config of {folder.name} has no network_def.")
    definition = {**config["network_def"]}
    target = str(definition.pop("_target_", ""))
    network = target.removeprefix(PLACE).rpartition(".")[2] if target.startswith(PLACE) else target
    if network not in NETWORKS:
        raise ValueError(
            f"The network_def of {folder.name} is {target!r}; these are known here: {', '.join(NETWORKS)}. "
            "Another one can be deployed as a black box, by its model.ts."
        )
    try:
        arguments = {
            key: _plain(config, value, f"network_def::{key}") for key, value in definition.items() if key != "_desc_"
        }
    except ValueError as error:
        raise ValueError(f"In the inference config of {folder.name} {error}.") from None
    if arguments.pop("spatial_dims", None) != 2:
        raise ValueError(
            f"The network of {folder.name} is of volumes; here networks are of two dimensions (spatial_dims)."
        )
    return NETWORKS[network], arguments


def _inference(folder: Path) -> dict[str, Any]:
    file = next((file for name in CONFIGS if (file := folder / name).is_file()), None)
    if file is None:
        raise ValueError(f"The bundle {folder.name} has no {CONFIGS[0]}.")
    if file.suffix == ".json":
        return read_json(file)
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"The {file.name} of {folder.name} is not YAML: {error}.") from error
    return config if isinstance(config, dict) else {}


def _plain(config: Mapping[str, Any], value: Any, key: str, followed: tuple[str, ...] = ()) -> Any:
    """A value without expressions, its references followed. Raises ValueError that names the key."""
    if isinstance(value, dict):
        if odd := next((name for name in value if str(name).startswith("_")), None):
            raise ValueError(f"{key} has {odd}, and only plain values are read")
        return {name: _plain(config, one, f"{key}::{name}", followed) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(config, one, f"{key}::{i}", followed) for i, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    if value.startswith(("$", "%")):
        what = "an expression, which is not evaluated" if value[0] == "$" else "a part of another file"
        raise ValueError(f"{key} is {what}: write its value there")
    if not value.startswith("@"):
        return value
    if value in followed:
        raise ValueError(f"{key} refers to itself by {value}")
    return _plain(config, _referred(config, value, key), value[1:], (*followed, value))


def _followed(config: Mapping[str, Any], value: Any, key: str) -> Any:
    """The value that a reference, or one of a reference, stands for; any other as it is."""
    seen: list[str] = []
    while isinstance(value, str) and value.startswith("@"):
        if value in seen:
            raise ValueError(f"{key} refers to itself by {value}")
        seen.append(value)
        value = _referred(config, value, key)
    return value


def _referred(config: Mapping[str, Any], reference: str, key: str) -> Any:
    found: Any = config
    for step in reference[1:].replace("#", "::").split("::"):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (LookupError, ValueError, TypeError):
            raise ValueError(f"{key} refers to {reference}, which is not there") from None
    return found
