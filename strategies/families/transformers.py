"""Vision transformers of the transformers library: a local folder, a hub id, or the name of one we can build offline.

Images are resized whole to the processor's input size; the processor's own resize-then-crop would drop the border.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from strategies.families.backbone import ChainedBackbone, ClassToken, Encoder, width_of
from strategies.families.weights import read_json, read_weights
from strategies.model import head_from
from strategies.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from strategies.protocols import Preprocessing

# Where the layers of a model type stand; all of them have `embeddings` before and `layernorm` behind.
LAYERS: dict[str, Callable[[Any], nn.ModuleList]] = {
    "dinov2": lambda network: network.encoder.layer,
    "dinov2_with_registers": lambda network: network.encoder.layer,
    "vit": lambda network: network.layers,
}

# DINOv2's sizes (Oquab and others 2023), and a tiny one for machines without an accelerator.
DINOV2: dict[str, dict[str, Any]] = {
    "dinov2-tiny": {
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "patch_size": 8,
        "image_size": 96,
    },
    "dinov2-small": {"hidden_size": 384, "num_attention_heads": 6, "image_size": 98},
    "dinov2-base": {"hidden_size": 768, "num_attention_heads": 12, "image_size": 98},
}


class ClassAndMean(nn.Module):
    """[b, tokens, d] -> [b, 2 d]: the class token beside the mean of the others, as DINOv2's classifiers have it."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)


POOLINGS: dict[str, type[nn.Module]] = {"class": ClassToken, "class_and_mean": ClassAndMean}


class TransformersFamily:
    """`path/to/folder`, `dinov2-small`, `facebook/dinov2-small`."""

    name = "transformers"

    def claims(self, spec: str) -> bool:
        if Path(spec).is_dir():
            return "model_type" in read_json(Path(spec) / "config.json")
        owner, _, name = spec.partition("/")
        return spec in DINOV2 or bool(owner and name and "/" not in name and ":" not in spec and not Path(spec).suffix)

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError where the model is of another kind, is not there, or its weights are not whole."""
        from transformers import AutoConfig, AutoModel, Dinov2Config
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if spec in DINOV2 and not pretrained:
            config: Any = Dinov2Config(**DINOV2[spec])
            config.pooling = "class"
            _known(config, spec)
            network = AutoModel.from_config(config)
            return _backbone(network, Preprocessing(size=config.image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD))
        place = f"facebook/{spec}" if spec in DINOV2 else spec
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            _known(config, spec)
            if not hasattr(config, "pooling"):
                concatenates = any(kind.endswith("ForImageClassification") for kind in config.architectures or ())
                config.pooling = (
                    "class_and_mean" if concatenates and config.model_type.startswith("dinov2") else "class"
                )
            extra = {"add_pooling_layer": False} if config.model_type == "vit" else {}
            network, found = AutoModel.from_pretrained(
                place, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **extra
            )
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise ValueError(f"The model {Path(spec).name} can't be loaded: {first_line(error)}") from error
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise ValueError(
                f"The weights of {Path(spec).name} lack {missing[0]!r} and {len(missing) - 1} more tensors."
            )
        return _backbone(network, preprocessing_of(place, config.image_size))

    def head(self, spec: str) -> nn.Module:
        """The linear classifier of a local `...ForImageClassification` folder. Raises ValueError without one."""
        weights = read_weights(Path(spec) / "model.safetensors")
        head = {
            key.removeprefix("classifier."): tensor for key, tensor in weights.items() if key.startswith("classifier.")
        }
        if not head:
            raise ValueError(f"{Path(spec).name} holds an encoder without a head.")
        return head_from(["linear"], head)


def _backbone(network: Any, preprocessing: Preprocessing) -> ChainedBackbone:
    module = Encoder(network, _chain)
    return ChainedBackbone(module, width_of(module, preprocessing.size), preprocessing, write)


def _chain(network: Any) -> list[nn.Module]:
    last = nn.Sequential(network.layernorm, POOLINGS[network.config.pooling]())
    return [network.embeddings, *LAYERS[network.config.model_type](network), last]


def write(network: Any, preprocessing: Preprocessing, folder: Path) -> None:
    """As transformers saves a model and the processor beside it."""
    from transformers import ViTImageProcessor

    network.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": preprocessing.size, "width": preprocessing.size},
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
    ).save_pretrained(folder)


def preprocessing_of(place: str, usual: int) -> Preprocessing:
    """What the processor beside a model says; `usual` is the side where there is none."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError):  # a folder of weights without a processor: the architecture says the size
        return Preprocessing(size=usual, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    size = getattr(processor, "crop_size", None) or processor.size
    side = next(size[key] for key in ("height", "shortest_edge") if size.get(key))
    return Preprocessing(size=side, mean=tuple(processor.image_mean), std=tuple(processor.image_std))


def _known(config: Any, spec: str) -> None:
    if config.model_type not in LAYERS:
        known = ", ".join(LAYERS)
        raise ValueError(f"{Path(spec).name} is of the type {config.model_type!r}; those that can be adapted: {known}.")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
