"""The original layout of SAM's and MedSAM's checkpoints, told from its keys and brought to that of transformers.

Kirillov and others 2023 and Ma and others 2024 publish the same names; the sizes (vit_b, vit_l, vit_h, or a tiny one)
are those of the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
HEADS = 8  # of the mask decoder: no shape tells it, and every published one has eight

# Each module of the original, as a pattern, and what transformers calls it.
MODULES = (
    (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"image_encoder\.", "vision_encoder."),
    (re.escape(POSITIONS), "prompt_encoder.shared_embedding.positional_embedding"),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)  # fmt: skip
# A chain of layers.0, layers.1, ... is proj_in, layers.0, ..., proj_out there.
PERCEPTRON = re.compile(r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(.*)")


def is_original(names: Collection[str]) -> bool:
    """Whether these are the names of a checkpoint as SAM's and MedSAM's authors publish it."""
    return any(name.startswith("image_encoder.") for name in names) and POSITIONS in names


def converted(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors by the names of transformers; a name that is not known stays as it is."""
    deepest: dict[str, int] = {}
    for name in weights:
        if found := PERCEPTRON.fullmatch(name):
            deepest[found[1]] = max(deepest.get(found[1], 0), int(found[2]))
    return {_name(name, deepest): tensor for name, tensor in weights.items()}


def _name(name: str, deepest: Mapping[str, int]) -> str:
    if found := PERCEPTRON.fullmatch(name):
        owner, place, rest = found[1], int(found[2]), found[3]
        if place == 0:
            return f"{owner}.proj_in.{rest}"
        return f"{owner}.proj_out.{rest}" if place == deepest[owner] else f"{owner}.layers.{place - 1}.{rest}"
    for pattern, ours in MODULES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name, count=1)
    return name


def config_of(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """The three configurations of a SamConfig, from the shapes of a checkpoint in the original layout.

    Raises ValueError where a tensor that tells a size is missing, or not of its number of dimensions.
    """
    try:
        return _config_of({name: tuple(tensor.shape) for name, tensor in weights.items()})
    except KeyError as error:
        raise ValueError(f"The checkpoint lacks the tensor {error}: it is no whole SAM or MedSAM.") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"The checkpoint's shapes are not those of SAM or MedSAM: {error}.") from error


def _config_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    width, _, patch, _ = shapes["image_encoder.patch_embed.proj.weight"]
    _, grid, _, _ = shapes["image_encoder.pos_embed"]
    layers = _count(shapes, r"image_encoder\.blocks\.(\d+)\.")
    reach = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(layers)]
    heads = width // reach[0][1]
    everywhere = [i for i, (positions, _) in enumerate(reach) if positions == 2 * grid - 1]
    windows = {(positions + 1) // 2 for i, (positions, _) in enumerate(reach) if i not in everywhere}
    if len(windows) > 1:
        raise ValueError(f"it has windows of {sorted(windows)} places")
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    crossed = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    return {
        "vision_config": {
            "hidden_size": width,
            "output_channels": shapes["image_encoder.neck.0.weight"][0],
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": grid * patch,
            "patch_size": patch,
            "window_size": max(windows, default=14),
            "global_attn_indexes": everywhere,
            "num_pos_feats": shapes[POSITIONS][1],
            "mlp_dim": shapes["image_encoder.blocks.0.mlp.lin1.weight"][0],
        },
        "prompt_encoder_config": {
            "hidden_size": hidden,
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
        },
        "mask_decoder_config": {
            "hidden_size": hidden,
            "mlp_dim": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            "num_hidden_layers": _count(shapes, r"mask_decoder\.transformer\.layers\.(\d+)\."),
            "num_attention_heads": HEADS,
            "attention_downsample_rate": hidden // crossed,
            "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
            "iou_head_depth": _count(shapes, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
            "layer_norm_eps": 1e-5,  # torch's own, as the original has it; transformers' folders say 1e-6
        },
    }


def _count(shapes: Collection[str], pattern: str) -> int:
    return len({found[1] for name in shapes if (found := re.match(pattern, name))})
