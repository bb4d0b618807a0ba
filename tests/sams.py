"""A tiny SAM of the true architecture for tests, with weights drawn at random, in both layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SIDE = 32


def tiny(seed: int = 0, **vision: Any) -> Any:
    """A SamModel of 32 pixels a side: two layers, the first within windows."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(seed)
    config = SamConfig(
        vision_config={"hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1],
                       "num_pos_feats": 16, "mlp_dim": 32} | vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 8, "iou_head_hidden_dim": 16,
                             "layer_norm_eps": 1e-5},
    )  # fmt: skip
    network = SamModel(config)
    frequencies = network.shared_image_embedding.positional_embedding
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
            elif weight is not frequencies:
                weight.normal_(std=0.3 if weight.ndim < 2 else weight[0].numel() ** -0.5)
        frequencies.normal_()
    return network.eval()


def folder(path: Path, seed: int = 0) -> Path:
    """As transformers saves it, with its processor."""
    from transformers import SamImageProcessor

    tiny(seed).save_pretrained(path)
    SamImageProcessor().save_pretrained(path)
    return path


def original(network: Any) -> dict[str, torch.Tensor]:
    """The state of a SamModel by the names that SAM's authors gave, written out backwards and by hand."""
    named = {}
    for name, tensor in network.state_dict().items():
        if name == "shared_image_embedding.positional_embedding":
            continue
        for theirs, ours in BACK:
            name = re.sub(theirs, ours, name)
        named[name] = tensor.clone().contiguous()
    return named


BACK = [
    (r"^vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder\.pos_embed", "image_encoder.pos_embed"),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"(transformer\.layers\.\d+)\.layer_norm(\d)", r"\1.norm\2"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"(mlps\.\d+|iou_prediction_head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d+|iou_prediction_head)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d+|iou_prediction_head)\.proj_out", r"\1.layers.2"),
]


def checkpoint(path: Path, seed: int = 0) -> Path:
    """One file in the original layout."""
    save_file(original(tiny(seed)), path)
    return path
