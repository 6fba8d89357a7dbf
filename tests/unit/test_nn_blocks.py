"""Blocks and attention: closed forms, memory layout, refused values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.nn.attention import Attention, GatedLinear, SpatialTransformer, attend, to_map, to_tokens
from sfumato.nn.blocks import AttentionBlock, Downsample, ResBlock, Upsample, group_norm
from sfumato.nn.embeddings import sinusoidal


def channels_last(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def test_sinusoids_have_cosines_first() -> None:
    embedding = sinusoidal(torch.tensor([0.0, 3.0]), 5)
    assert embedding[0].tolist() == [1, 1, 0, 0, 0]
    expected = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0]
    torch.testing.assert_close(embedding[1], torch.tensor(expected))


def test_tokens_and_map_are_views_of_channels_last_memory() -> None:
    x = channels_last(2, 6, 3, 4)
    tokens = to_tokens(x)
    assert tokens.data_ptr() == x.data_ptr()
    assert torch.equal(tokens[1, 5], x[1, :, 1, 1])
    back = to_map(tokens, 3, 4)
    assert back.data_ptr() == x.data_ptr()
    assert torch.equal(back, x)


def test_attention_is_softmax_of_scaled_products() -> None:
    q, k, v = (torch.randn(2, 3, length, 4) for length in (5, 7, 7))
    weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    expected = (weights @ v).transpose(1, 2).reshape(2, 5, 12)
    torch.testing.assert_close(attend(q, k, v), expected)


def test_causal_attention_does_not_see_what_follows() -> None:
    q, k, v = (torch.randn(1, 1, 4, 2) for _ in range(3))
    before = attend(q, k, v, causal=True)
    k[:, :, 2:], v[:, :, 2:] = 9.0, 9.0
    torch.testing.assert_close(attend(q, k, v, causal=True)[:, :2], before[:, :2])


def test_gated_linear_uses_exact_gelu_of_the_second_half() -> None:
    layer, x = GatedLinear(3, 2), torch.randn(1, 4, 3)
    hidden = layer.proj(x)
    gate = 0.5 * hidden[..., 2:] * (1 + torch.erf(hidden[..., 2:] / math.sqrt(2)))
    torch.testing.assert_close(layer(x), hidden[..., :2] * gate)


@pytest.mark.parametrize(
    "block",
    [
        ResBlock(8, 16, groups=4),
        ResBlock(8, groups=4, resample="up"),
        ResBlock(8, groups=4, resample="down"),
        AttentionBlock(8, groups=4),
        SpatialTransformer(8, heads=2, context_width=5, norm_groups=4),
        SpatialTransformer(8, heads=2, context_width=5, norm_groups=4, linear_projection=True),
        Downsample(8),
        Downsample(8, asymmetric=True),
        Upsample(8),
    ],
    ids=lambda block: type(block).__name__,
)
def test_blocks_keep_channels_last_memory(block: nn.Module) -> None:
    x = channels_last(2, 8, 4, 4)
    block = block.to(memory_format=torch.channels_last)
    out = block(x, torch.randn(2, 3, 5)) if isinstance(block, SpatialTransformer) else block(x)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_residual_block_follows_its_formula() -> None:
    x, time = channels_last(2, 4, 4, 4), torch.randn(2, 6)
    block = ResBlock(4, 8, time_width=6, groups=2, scale_shift=True)
    h = block.conv1(F.silu(block.norm1(x)))
    scale, shift = block.time_emb_proj(time)[:, :, None, None].chunk(2, 1)
    h = block.conv2(F.silu(block.norm2(h) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, time), F.conv2d(x, block.conv_shortcut.weight, block.conv_shortcut.bias) + h)


def test_zero_init_makes_the_identity() -> None:
    x = channels_last(1, 8, 4, 4)
    assert torch.equal(ResBlock(8, groups=4, zero_init=True)(x), x)
    assert torch.equal(AttentionBlock(8, groups=4, zero_init=True)(x), x)
    assert torch.equal(SpatialTransformer(8, heads=2, context_width=5, norm_groups=4)(x, torch.randn(1, 2, 5)), x)
    assert not torch.equal(ResBlock(8, groups=4)(x), x)


def test_asymmetric_downsampling_pads_right_and_bottom() -> None:
    layer = Downsample(1, asymmetric=True)
    nn.init.zeros_(layer.conv.bias)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 0, 0] = 1.0
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(layer(x), x[:, :, ::2, ::2])


def test_norm_epsilons() -> None:
    assert group_norm(32, eps=1e-6).eps == 1e-6
    assert ResBlock(32).norm1.eps == ResBlock(32).norm2.eps == AttentionBlock(32).group_norm.eps == 1e-5
    assert ResBlock(32, eps=1e-6).norm2.eps == 1e-6
    assert SpatialTransformer(32, heads=1, context_width=3).norm.eps == 1e-6


def test_values_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="32 norm groups do not divide 40 channels"):
        group_norm(40)
    with pytest.raises(ConfigError, match="3 attention heads do not divide 8 channels"):
        Attention(8, heads=3)
    with pytest.raises(ConfigError, match="5 attention heads do not divide 32 channels"):
        AttentionBlock(32, heads=5)
