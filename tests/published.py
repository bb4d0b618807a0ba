"""Detectors as their libraries save them, for tests: a RetinaNet over a small ResNet, and a tiny YOLOS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

SIDE = 64


def retinanet(outputs: int = 3, constant: bool = False, grouped: bool = False) -> RetinaNet:
    """By torchvision's own functions, over its smallest ResNet; sure enough of some boxes, and not of all."""
    norm: Any = partial(FrozenBatchNorm2d, eps=0.0) if constant else nn.BatchNorm2d
    beyond = LastLevelP6P7(512 if grouped else 256, 256)
    body = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=norm, returned_layers=[2, 3, 4], extra_blocks=beyond
    )
    head = RetinaNetHead(256, 9, outputs, norm_layer=partial(nn.GroupNorm, 32) if grouped else None)
    network = RetinaNet(body, outputs, head=head, min_size=SIDE, max_size=SIDE, detections_per_img=10**6).eval()
    with torch.no_grad():
        for layer in head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        head.classification_head.cls_logits.bias.fill_(-3)
        head.regression_head.bbox_reg.weight.mul_(0.3)
    return network


def yolos(middle: bool = False, outputs: int = 2) -> YolosForObjectDetection:
    """Two layers, twelve detection tokens, weights that make its answers differ."""
    network = YolosForObjectDetection(
        YolosConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=[SIDE, 96],
            patch_size=16,
            num_detection_tokens=12,
            num_labels=outputs,
            use_mid_position_embeddings=middle,
            initializer_range=0.3,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "position" in name or "token" in name:
                weight.normal_()
    return network


def retinanet_file(folder: Path, **others: Any) -> str:
    save_file(retinanet(**others).state_dict(), folder / "retinanet.safetensors")
    return str(folder / "retinanet.safetensors")


def yolos_folder(folder: Path, **others: Any) -> str:
    yolos(**others).save_pretrained(folder)
    YolosImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 96}).save_pretrained(folder)
    return str(folder)


LOCAL: dict[str, Callable[..., str]] = {"retinanet": retinanet_file, "yolos": yolos_folder}
