"""SAM and MedSAM: a folder of transformers, or a checkpoint in the original layout as `.safetensors` or `.npz`.

Their images are resized whole to a square, as MedSAM's were and as everything here is: the masks, the digest and the
other families know one square, and SAM's padding of the shorter side would spend its share of the pixels on nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from strategies.families.backbone import ChainedBackbone, Encoder, Pooled
from strategies.families.sam_layout import config_of, converted, is_original
from strategies.families.weights import pickled, read_json, read_weights, tensor_names
from strategies.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from strategies.protocols import Preprocessing

HUB = ("facebook/sam-vit-base", "facebook/sam-vit-large", "facebook/sam-vit-huge", "wanglab/medsam-vit-base")
# What the authors' code feeds: SAM's images are normalised as ImageNet's, MedSAM's lie in 0..1 as they are.
FED = {"sam": (IMAGENET_MEAN, IMAGENET_STD), "medsam": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}
EMBEDDING = "prompt_encoder.shared_embedding.positional_embedding"
TIED = "shared_image_embedding.positional_embedding"


class SamFamily:
    """`path/to/folder`, `sam:sam_vit_b.safetensors`, `medsam:medsam_vit_b.safetensors`, `facebook/sam-vit-base`.

    A checkpoint without a word before it is taken for SAM's: the names and shapes of MedSAM's are the same.
    """

    name = "sam"

    def claims(self, spec: str) -> bool:
        path = Path(spec)
        if path.is_dir():
            return read_json(path / "config.json").get("model_type") == "sam"
        if spec in HUB or spec.partition(":")[0] in FED:
            return True
        return (path.suffix == ".pth" and ":" not in spec) or (path.is_file() and is_original(tensor_names(path)))

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError for a pickle, and where tensors are missing, too many or of other shapes."""
        kind, colon, rest = spec.partition(":")
        kind, place = (kind, rest) if colon and kind in FED else ("sam", spec)
        if Path(place).suffix in (".pth", ".pt"):
            raise ValueError(f"{pickled(Path(place).name)} After 'medsam:', where it is MedSAM's.")
        if Path(place).is_dir() or place in HUB:
            return sam_backbone(*_from_transformers(place))
        return sam_backbone(*_from_original(Path(place), kind))

    def head(self, spec: str) -> nn.Module:
        raise ValueError(f"{Path(spec).name} answers prompts and has no classes: `fit` trains a head for them.")


def sam_backbone(network: Any, preprocessing: Preprocessing) -> ChainedBackbone:
    """Dense features of a SamModel, whose modules are changed in place: see `_apart`.

    The last two blocks are the decoder. The features are those that SAM's masks are read from, and the masks that it
    gives without a prompt: [b, c / 8 + m, s / 4, s / 4] at patches of 16 pixels.
    """
    _apart(network)
    decoder = network.config.mask_decoder_config
    width = decoder.hidden_size // 8 + decoder.num_multimask_outputs + 1
    stride = network.config.vision_config.patch_size // 4
    return ChainedBackbone(Encoder(network, _chain), width, preprocessing, _write, stride, _sensor, _adapted, decoder=2)


def _chain(network: Any) -> list[nn.Module]:
    return [*_encoder(network), DefaultPrompt(network), MaskFeatures(network)]


def _encoder(network: Any) -> list[nn.Module]:
    vision = network.vision_encoder
    return [Patches(vision), *(Places(layer) for layer in vision.layers), Neck(vision.neck)]


def _sensor(network: nn.Module) -> nn.Module:
    return Pooled(network, _embedded)


def _embedded(network: Any, images: torch.Tensor) -> torch.Tensor:
    for block in _encoder(network):
        images = block(images)
    return images


class Projection(nn.Linear):
    """Queries or values of the image encoder: what SAMed's adapters (Zhang and Liu 2023) touch, and nothing else."""


class Apart(nn.Module):
    """Queries, keys and values by a layer each in place of the joint one; [..., d] -> [..., 3 d] as before."""

    def __init__(self, joint: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = Projection(1, 1), nn.Linear(1, 1), Projection(1, 1)
        weights = joint.weight.detach().chunk(3)
        biases = (None,) * 3 if joint.bias is None else joint.bias.detach().chunk(3)
        for layer, weight, bias in zip((self.q, self.k, self.v), weights, biases, strict=True):
            layer.out_features, layer.in_features = weight.shape
            layer.weight = nn.Parameter(weight.clone())
            layer.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class Patches(nn.Module):
    """Images [b, 3, s, s] -> [b, d, g, g], with the positions; of another size than the model's own interpolated."""

    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.projection, self.positions = vision.patch_embed.projection, vision.pos_embed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patch, side = self.projection.stride[0], images.shape[-1]
        if side % patch:
            raise ValueError(f"{side} pixels are no whole number of patches of {patch}.")
        maps = self.projection(images)
        positions = self.positions.permute(0, 3, 1, 2)
        if positions.shape[2:] != maps.shape[2:]:
            positions = functional.interpolate(positions, maps.shape[2:], mode="bilinear", align_corners=False)
        return maps + positions


class Places(nn.Module):
    """A layer of transformers', on maps [b, d, g, g] rather than [b, g, g, d]: only the view is another."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layer(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Neck(nn.Module):
    """[b, d, g, g] -> image embedding [b, c, g, g]."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.neck(maps.permute(0, 2, 3, 1))


class DefaultPrompt(nn.Module):
    """The image embedding [b, c, g, g] with what SAM adds where no mask is given as a prompt."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.no_mask = network.prompt_encoder.no_mask_embed

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.no_mask.weight.view(1, -1, 1, 1)


class MaskFeatures(nn.Module):
    """Prompted embedding [b, c, g, g] -> [b, c / 8 + m, 4 g, 4 g]: the upscaled features, then all masks' logits over
    the root of c / 8, so that products of c / 8 terms do not drown the others.

    transformers' mask decoder gives the masks alone; these are its steps, without the prediction of their quality.
    What a mask token asks of an image stays an image's own, as in SAMed, where each class has such a token.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        decoder = network.mask_decoder
        self.iou_token, self.mask_tokens, self.transformer = decoder.iou_token, decoder.mask_tokens, decoder.transformer
        self.first, self.norm, self.second = decoder.upscale_conv1, decoder.upscale_layer_norm, decoder.upscale_conv2
        self.masks, self.embedding = decoder.output_hypernetworks_mlps, network.prompt_encoder.shared_embedding

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        b, c, *places = maps.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(b, 1, -1, -1)
        where = positions(self.embedding, places[0]).expand(b, -1, -1, -1)
        said, seen = self.transformer(tokens, maps, where, attention_similarity=None)
        maps = seen[:, 0].transpose(1, 2).reshape(b, c, *places)
        maps = functional.gelu(self.second(functional.gelu(self.norm(self.first(maps)))))
        weights = torch.stack([mlp(said[:, 0, 1 + i]) for i, mlp in enumerate(self.masks)], dim=1)
        masks = torch.einsum("bmc,bchw->bmhw", weights, maps) / maps.shape[1] ** 0.5
        return torch.cat([maps, masks], dim=1)


def positions(embedding: nn.Module, grid: int) -> torch.Tensor:
    """[1, c, grid, grid]: the embedding of the middle of every place."""
    middle = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


def _adapted(layer: nn.Module) -> bool:
    return isinstance(layer, Projection)


def _apart(network: Any) -> None:
    """Takes q, k and v apart, which peft can't adapt by thirds, and makes the random frequencies the buffer that they
    are in the original: one tensor by one name, and nothing that a training moves."""
    for layer in network.vision_encoder.layers:
        layer.attn.qkv = Apart(layer.attn.qkv)
    embedding = network.prompt_encoder.shared_embedding
    frequencies = embedding.positional_embedding.detach().clone()
    del embedding.positional_embedding, network.shared_image_embedding
    embedding.register_buffer("positional_embedding", frequencies)


def joint(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a network that `sam_backbone` took apart, by the names and in the form of transformers."""
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        owner, dot, rest = name.partition(".qkv.")
        layer, _, kind = rest.partition(".")
        if not dot:
            whole[name] = tensor
        elif layer == "q":
            whole[f"{owner}.qkv.{kind}"] = torch.cat([weights[f"{owner}.qkv.{one}.{kind}"] for one in "qkv"])
    return whole | {TIED: weights[EMBEDDING].clone()}


def _write(network: Any, preprocessing: Preprocessing, folder: Path) -> None:
    from transformers import SamImageProcessor

    network.config.architectures = ["SamModel"]
    network.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in joint(network.state_dict()).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    side = preprocessing.size
    SamImageProcessor(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
    ).save_pretrained(folder)


def _from_transformers(place: str) -> tuple[nn.Module, Preprocessing]:
    from transformers import SamModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        loaded: Any = SamModel.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"The model {Path(place).name} can't be loaded: {reason}") from error
    network, found = loaded
    _exactly(set(found["missing_keys"]) - {TIED, EMBEDDING}, found["unexpected_keys"], Path(place).name)
    size = int(network.config.vision_config.image_size)
    fed = read_json(Path(place) / "preprocessor_config.json")
    mean, std = FED["sam"] if fed.get("do_normalize", True) else FED["medsam"]
    mean, std = tuple(fed.get("image_mean", mean)), tuple(fed.get("image_std", std))
    return network.eval(), Preprocessing(size=size, mean=mean, std=std)


def _from_original(file: Path, kind: str) -> tuple[nn.Module, Preprocessing]:
    from transformers import SamConfig, SamModel

    weights = read_weights(file)
    if not is_original(weights):
        raise ValueError(f"{file.name} is no checkpoint of SAM or MedSAM: it has no image_encoder and prompt_encoder.")
    told: dict[str, Any] = config_of(weights)
    config: Any = SamConfig(**told)
    with torch.device("meta"):
        network: Any = SamModel(config)
    own, given = network.state_dict(), converted(weights)
    given[TIED] = given[EMBEDDING].clone()
    _exactly(own.keys() - given.keys(), given.keys() - own.keys(), file.name)
    other = sorted(name for name, tensor in own.items() if tensor.shape != given[name].shape)
    if other:
        raise ValueError(f"{file.name} has tensors of other shapes than SAM's: {_some(other)}.")
    network.load_state_dict({name: tensor.float() for name, tensor in given.items()}, assign=True)
    mean, std = FED[kind]
    return network.eval(), Preprocessing(size=config.vision_config.image_size, mean=mean, std=std)


def _exactly(missing: Iterable[str], extra: Iterable[str], what: str) -> None:
    said = [
        f"{fault} {_some(names)}"
        for fault, names in (("lacks", sorted(missing)), ("has besides", sorted(extra)))
        if names
    ]
    if said:
        raise ValueError(f"{what} is not just a SAM: it {' and '.join(said)}.")


def _some(names: list[str], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
