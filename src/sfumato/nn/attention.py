"""Attention over feature maps and texts ([rombach2022] 3.3, [vaswani2017] 3.2).

In channels-last memory (`unet.to(memory_format=torch.channels_last)`) a feature map `(b, c, h, w)` and its token view
`(b, h*w, c)` are the same numbers in the same order, and changing between them costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfumato.errors import ConfigError, ShapeError
from sfumato.nn.packed import Packs, is_packable, multiply
from sfumato.nn.recomputed import geglu
from sfumato.nn.stored import Conv2d, Linear

TRANSFORMER_NORM_EPS = 1e-6
"""GroupNorm epsilon in front of a spatial transformer; residual blocks use 1e-5."""

_MOST_SCORES, _PART_SCORES = 2**26, 2**21
"""Scores of an attention that are kept for the gradient, and scores in a part where there are more."""

_PART_NUMBERS = 2**22
"""Numbers of one picture in the widest map of a feed-forward that exist at a time."""


def to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l c"]:
    """View a feature map as one token per position; a copy only when the memory is not channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Float[Tensor, "b l c"], height: int, width: int) -> Float[Tensor, "b c {height} {width}"]:
    """View tokens as a channels-last feature map, the inverse of `to_tokens`."""
    return tokens.reshape(tokens.shape[0], height, width, -1).permute(0, 3, 1, 2)


def split_heads(tokens: Float[Tensor, "b l c"], heads: int) -> Float[Tensor, "b {heads} l d"]:
    """View the channels as `heads` groups, heads in front of tokens."""
    batch, length, _ = tokens.shape
    return tokens.reshape(batch, length, heads, -1).transpose(1, 2)


def attend(
    q: Float[Tensor, "b n lq d"],
    k: Float[Tensor, "b n lk d"],
    v: Float[Tensor, "b n lk d"],
    *,
    causal: bool = False,
) -> Float[Tensor, "b lq c"]:
    """Let each query look at all keys: `softmax(q k^T / sqrt(d)) v` ([vaswani2017] eq. 1), then join heads."""
    learning = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if learning and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        out = _by_products(q, k, v, causal=causal)
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def _by_products(
    q: Float[Tensor, "b n lq d"], k: Float[Tensor, "b n lk d"], v: Float[Tensor, "b n lk d"], *, causal: bool
) -> Float[Tensor, "b n lq d"]:
    """Attend by matrix products: in bf16 on processors the gradient of the fused kernel takes up to 13 times longer.

    Where the scores are many, a part of them is computed at a time, and again for the gradient: kept whole, those of
    one attention over 4096 tokens with 8 heads take half a gigabyte.
    """
    if not causal and q.shape[:-1].numel() * k.shape[-2] > _MOST_SCORES:
        parted: Tensor = _InParts.apply(q, k, v)
        return parted
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores + torch.full_like(scores[0, 0], -torch.inf).triu(1)
    return torch.softmax(scores, dim=-1) @ v


class _InParts(torch.autograd.Function):
    """Attention that keeps queries, keys and values alone; some rows of scores exist at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend part by part."""
        ctx.save_for_backward(q, k, v)
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
        for head, rows in _parts(q, k):
            out[head][rows] = _shares(q[head][rows], k[head]) @ v[head]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute each part again, and its gradients from it; sums over parts are in float32."""
        q, k, v = ctx.saved_tensors
        scale, sums = q.shape[-1] ** -0.5, {"dtype": torch.float32, "device": q.device}
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros(k.shape, **sums), torch.zeros(v.shape, **sums)
        for head, rows in _parts(q, k):
            shares, above = _shares(q[head][rows], k[head]), grad[head][rows].to(v.dtype)
            v_grad[head] += shares.t() @ above
            scores = torch._softmax_backward_data(above @ v[head].t(), shares, -1, shares.dtype)
            q_grad[head][rows] = (scores @ k[head]) * scale
            k_grad[head] += scores.t() @ (q[head][rows] * scale)
        return q_grad, k_grad.to(k.dtype), v_grad.to(v.dtype)


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[int, int], slice]]:
    """Yield row of the batch and head, and the queries of each part."""
    count = max(1, _PART_SCORES // k.shape[-2])
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for first in range(0, q.shape[2], count):
                yield (row, head), slice(first, first + count)


def _shares(q: Tensor, k: Tensor) -> Tensor:
    """Return how much each query looks at each key."""
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.t(), dim=-1)


class KeyValue(NamedTuple):
    """Keys and values of one attention, heads split."""

    k: Float[Tensor, "b n l d"]
    v: Float[Tensor, "b n l d"]


@dataclass(frozen=True, eq=False)
class ContextCache:
    """Keys and values of one context for every cross-attention of a network.

    They do not depend on the picture or on the time, so a sampler computes them once instead of at each step.
    A cache belongs to the weights it was made with: make a new one after training or after an adapter is
    attached.

    Args:
        entries: Keys and values by the attention that made them.
        batch: Rows of the context.
    """

    entries: Mapping[nn.Module, KeyValue]
    batch: int

    def of(self, attention: nn.Module) -> KeyValue:
        """Return the keys and values of one attention.

        Raises:
            ShapeError: The cache was made by another network.
        """
        try:
            return self.entries[attention]
        except KeyError:
            raise ShapeError(
                f"The context cache holds {len(self.entries)} attentions, but not this one of width "
                f"{getattr(attention, 'width', '?')}: it was made by another network.",
                field="context",
                hint="Call prepare_context of the same network.",
            ) from None


class Attention(Packs, nn.Module):
    """Multi-head attention from tokens to themselves or to a context.

    Args:
        width: Channels of the tokens.
        heads: Number of heads; must divide `width`.
        context_width: Channels of the context; None for self-attention.
        dropout: Rate behind the output layer.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, *, heads: int, context_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(width, heads)
        self.width = width
        self.heads = heads
        self.context_width = context_width
        key_width = width if context_width is None else context_width
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(key_width, width, bias=False)
        self.to_v = Linear(key_width, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width), nn.Dropout(dropout))

    def project(self, context: Float[Tensor, "b l d"]) -> KeyValue:
        """Compute keys and values of a context."""
        return KeyValue(split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads))

    def forward(
        self, tokens: Float[Tensor, "b lq c"], context: Float[Tensor, "b lk d"] | ContextCache | None = None
    ) -> Float[Tensor, "b lq c"]:
        """Attend to the context, to its cached keys and values, or (None) to the tokens themselves."""
        if isinstance(context, ContextCache):
            q, (k, v) = split_heads(self.to_q(tokens), self.heads), context.of(self)
        elif context is None and self.packing is not None and self._are_plain(tokens):
            joint = multiply(
                (self.to_q.weight, self.to_k.weight, self.to_v.weight),
                None,
                self.packing,
                tokens,
                lambda: torch.cat((self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)), dim=-1),
            )
            q, k, v = (split_heads(part, self.heads) for part in joint.chunk(3, dim=-1))
        else:
            q = split_heads(self.to_q(tokens), self.heads)
            k, v = self.project(tokens if context is None else context)
        out: Tensor = self.to_out(attend(q, k, v))
        return out

    def _are_plain(self, tokens: Tensor) -> bool:
        """Tell whether queries, keys and values are products with weights alone, without what an adapter adds."""
        layers = (self.to_q, self.to_k, self.to_v)
        plain = all(type(layer) is Linear and not layer.weight.is_inference() for layer in layers)
        plain = plain and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
        return plain and is_packable(self.to_q.weight, tokens, len(layers))


def check_heads(width: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the width."""
    if heads < 1 or width % heads:
        raise ConfigError(
            f"{heads} attention heads do not divide {width} channels.",
            field="num_heads",
            hint="Choose a divisor, or set head_width instead.",
        )


class GatedLinear(nn.Module):
    """GEGLU: one half of a linear layer gated by the exact GELU of the other ([shazeer2020] eq. 6)."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = Linear(in_width, 2 * out_width)

    def forward(self, x: Float[Tensor, "b l d_in"]) -> Float[Tensor, "b l d_out"]:
        """Project, split, gate."""
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """Widen four times with a gate, then narrow again.

    Args:
        width: Channels in and out.
        dropout: Rate between the two layers.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width, 4 * width), nn.Dropout(dropout), Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Apply the layers; where no gradient is asked for, to a part of the tokens at a time if they are many."""
        parts = 1 if torch.is_grad_enabled() else -(-x.shape[1] * 8 * x.shape[2] // _PART_NUMBERS)
        if parts < 2:
            out: Tensor = self.net(x)
            return out
        return torch.cat([self.net(some) for some in x.chunk(parts, dim=1)], dim=1)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a LayerNorm and added to its input.

    The order follows the released code; [rombach2022] table 16 lists the feed-forward between the attentions.

    Args:
        width: Channels of the tokens.
        heads: Number of heads.
        context_width: Channels of the context.
        dropout: Rate in attention outputs and feed-forward.
    """

    def __init__(self, width: int, *, heads: int, context_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads=heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads=heads, context_width=context_width, dropout=dropout)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, dropout)

    def forward(
        self, tokens: Float[Tensor, "b l c"], context: Float[Tensor, "b lk d"] | ContextCache
    ) -> Float[Tensor, "b l c"]:
        """Apply the three parts."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        out: Tensor = tokens + self.ff(self.norm3(tokens))
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map ([rombach2022] 3.3 and appendix E.2.1).

    Starts as the identity: `proj_out` is zero.

    Args:
        channels: Channels of the map.
        heads: Number of heads.
        context_width: Channels of the context.
        depth: Number of transformer blocks.
        linear_projection: True for linear layers around the blocks (Stable Diffusion 2), False for 1x1
            convolutions.
        norm_groups: Groups of the first norm.
        dropout: Rate inside the blocks.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context_width: int,
        depth: int = 1,
        linear_projection: bool = False,
        norm_groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(norm_groups, channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = self._projection(channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads=heads, context_width=context_width, dropout=dropout) for _ in range(depth)
        )
        self.proj_out = self._projection(channels)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def _projection(self, channels: int) -> nn.Module:
        """Return a layer that mixes channels at each position."""
        return Linear(channels, channels) if self.linear_projection else Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b l d"] | ContextCache
    ) -> Float[Tensor, "b c h w"]:
        """Refine the map in view of the context."""
        height, width = x.shape[2:]
        h = self.norm(x)
        tokens = self.proj_in(to_tokens(h)) if self.linear_projection else to_tokens(self.proj_in(h))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self.linear_projection:
            return x + to_map(self.proj_out(tokens), height, width)
        out: Tensor = x + self.proj_out(to_map(tokens, height, width))
        return out
