"""Which weights move; `__all__` is the registry of this mechanism."""

from strategies.parameter.full import Full
from strategies.parameter.linear_probe import LinearProbe
from strategies.parameter.lora import LoRA

__all__ = ["LinearProbe", "LoRA", "Full"]
