"""The adapted part of a vision transformer, computed with what its training needs and no more.

A low-rank adapter's training on cached inputs spends its time on weights that never move. Here they are kept in
bfloat16 where the processor multiplies that faster than float32, attention keeps its probabilities for the way back,
and of the last block only what the class token reads is computed. The weights that move are shared with the network,
in float32, so what is trained here is what peft saves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strategies.families.backbone import ClassToken


def lean(suffix: nn.Sequential, moving: Iterable[nn.Parameter]) -> nn.Module:
    """`suffix`, [b, tokens, d] -> [b, d], up to rounding, with the same moving weights; without dropout.

    `suffix` itself where it is no chain of known blocks, or something in it moves that is no plain LoRA of peft's.
    """
    if type(suffix) is not nn.Sequential:  # several slices, which are brought together behind the blocks
        return suffix
    read = [_READERS.get(type(block).__name__, _unknown)(block) for block in suffix[:-1]]
    blocks = [block for block in read if block is not None]
    shared: dict[int, Any] = {id(weight): weight for weight in moving}
    inside = {id(weight) for weight in suffix.parameters()} & shared.keys()
    if not inside or len(blocks) < len(read) or any(layer._forward_hooks for layer in suffix.modules()):
        return suffix
    adapted = [layer for layer in suffix.modules() if _is_plain_lora(layer)]
    if not inside <= {id(weight) for layer in adapted for weight in layer.parameters()}:
        return suffix
    blocks[-1].first_only = isinstance(suffix[-1], nn.Sequential) and ClassToken in map(type, suffix[-1])
    # What deepcopy finds in its memo it takes for the copy: moving weights are shared, adapted layers replaced.
    body = copy.deepcopy(nn.Sequential(*blocks), shared | {id(layer): LowRank(layer) for layer in adapted})
    dtype = torch.bfloat16 if _fast_in_bfloat16() else torch.float32
    for weight in body.parameters():
        if id(weight) not in shared:
            weight.data = weight.data.to(dtype)
    return Lean(body, suffix[-1], dtype)


class Lean(nn.Module):
    """`body` in `dtype`, then `pooling` in float32."""

    def __init__(self, body: nn.Module, pooling: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.pooling, self.dtype = body, pooling, dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.pooling(self.body(tokens.to(self.dtype)).float())


class LowRank(nn.Module):
    """peft's LoRA of a linear layer, W x + s B A x, with the layer's weight and peft's A and B."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        name = layer.active_adapters[0]
        self.weight = nn.Parameter(layer.base_layer.weight.detach(), requires_grad=False)
        bias = layer.base_layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.down, self.up, self.scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down, up = self.down.to(x.dtype), (self.up * self.scale).to(x.dtype)
        return _LowRank.apply(x.flatten(0, -2), self.weight, self.bias, down, up).view(*x.shape[:-1], -1)


class _LowRank(torch.autograd.Function):
    """x [t, i], weight [o, i], bias [o], down [r, i], up [o, r] -> [t, o]; no gradient for weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, down: torch.Tensor, up: torch.Tensor
    ) -> Any:
        low = x @ down.T
        ctx.save_for_backward(x, weight, down, up, low)
        return functional.linear(x, weight, bias).addmm_(low, up.T)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, down, up, low = ctx.saved_tensors
        (gradient,) = gradients
        back = gradient @ up
        to_x = (gradient @ weight).addmm_(back, down) if ctx.needs_input_grad[0] else None
        return to_x, None, None, back.T @ x, gradient.T @ low


class Joint(nn.Module):
    """Queries, keys and values by one layer, as in timm."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.layer, self.heads = attention.qkv, attention.num_heads
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, x: torch.Tensor, queries: int) -> tuple[torch.Tensor, ...]:
        q, k, v = self.layer(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        return self.q_norm(q[:, :, :queries]), self.k_norm(k), v


class Apart(nn.Module):
    """Queries, keys and values by a layer each, as in transformers."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q, self.k, self.v = attention.q_proj, attention.k_proj, attention.v_proj
        self.heads = attention.num_attention_heads

    def forward(self, x: torch.Tensor, queries: int) -> tuple[torch.Tensor, ...]:
        q, k, v = self.q(x[:, :queries]), self.k(x), self.v(x)
        return tuple(t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))


class TokenBlock(nn.Module):
    """A pre-norm block (Dosovitskiy and others 2021), [b, tokens, d] -> [b, tokens, d], by its layers.

    `project` gives queries, keys and values, [b, heads, tokens, d / heads] each. Where `first_only`, the answer is that
    of the first token alone, [b, 1, d].
    """

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module],
        project: nn.Module,
        out: nn.Module,
        mlp: nn.Module,
        scales: tuple[nn.Module, nn.Module],
    ) -> None:
        super().__init__()
        self.norm, self.second_norm = norms
        self.project, self.out, self.mlp = project, out, mlp
        self.scale, self.second_scale = scales
        self.first_only = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = 1 if self.first_only else x.shape[1]
        q, k, v = self.project(self.norm(x), queries)
        # torch's fused attention computes the probabilities anew on the way back, at thrice the time on a processor.
        seen = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x[:, :queries] + self.scale(self.out(seen.transpose(1, 2).flatten(2)))
        return x + self.second_scale(self.mlp(self.second_norm(x)))


def _timm(block: Any) -> TokenBlock | None:
    attention = block.attn
    if type(attention).__name__ != "Attention" or getattr(attention, "gate", None) is not None:
        return None
    out = nn.Sequential(getattr(attention, "norm", nn.Identity()), attention.proj)
    norms, scales = (block.norm1, block.norm2), (block.ls1, block.ls2)
    return TokenBlock(norms, Joint(attention), out, block.mlp, scales)


def _dinov2(block: Any) -> TokenBlock:
    norms, scales = (block.norm1, block.norm2), (block.layer_scale1, block.layer_scale2)
    return TokenBlock(norms, Apart(block.attention), block.attention.o_proj, block.mlp, scales)


def _vit(block: Any) -> TokenBlock:
    norms, scales = (block.layernorm_before, block.layernorm_after), (nn.Identity(), nn.Identity())
    return TokenBlock(norms, Apart(block.attention), block.attention.o_proj, block.mlp, scales)


_READERS: dict[str, Callable[[Any], TokenBlock | None]] = {
    "Block": _timm,
    "Dinov2Layer": _dinov2,
    "Dinov2WithRegistersLayer": _dinov2,
    "ViTLayer": _vit,
}


def _unknown(_: nn.Module) -> None:
    return None


def _is_plain_lora(layer: nn.Module) -> bool:
    from peft.tuners.lora import Linear

    return (
        type(layer) is Linear
        and type(layer.base_layer) is nn.Linear
        and len(layer.active_adapters) == 1
        and not layer.lora_variant
        and not layer.merged
        and isinstance(layer.lora_dropout[layer.active_adapters[0]], nn.Identity)
    )


def _fast_in_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; without them it is slower than float32."""
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
