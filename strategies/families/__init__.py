"""Model families, one file each. `__all__` is the registry, in the order in which they are asked.

`load_backbone` takes what a user names: a local folder, a weights file, an architecture, or a hub id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.families.black_box import BlackBoxFamily
from strategies.families.bundle import BundleFamily
from strategies.families.lwnet import LwnetFamily
from strategies.families.monai import MonaiFamily
from strategies.families.retinanet import RetinanetFamily
from strategies.families.sam import SamFamily
from strategies.families.timm import TimmFamily
from strategies.families.torchvision import TorchvisionFamily
from strategies.families.transformers import TransformersFamily
from strategies.families.yolos import YolosFamily

if TYPE_CHECKING:
    from strategies.protocols import Backbone, Family

__all__ = [
    "BlackBoxFamily",
    "BundleFamily",
    "SamFamily",
    "LwnetFamily",
    "RetinanetFamily",
    "YolosFamily",
    "TorchvisionFamily",
    "TimmFamily",
    "TransformersFamily",
    "MonaiFamily",
]


def families() -> list[Family]:
    """One of each registered family."""
    return [globals()[name]() for name in __all__]


def family_of(spec: str) -> Family:
    """The first family that claims `spec`. Raises ValueError where none does."""
    for family in families():
        if family.claims(spec):
            return family
    names = ", ".join(family.name for family in families())
    raise ValueError(f"No model family knows {spec!r}: it is no model folder, weights file or architecture of {names}.")


def load_backbone(spec: str, *, pretrained: bool = False) -> Backbone:
    """The encoder that `spec` names. `pretrained` lets an architecture's name fetch its published weights."""
    return family_of(spec).load(spec, pretrained=pretrained)
