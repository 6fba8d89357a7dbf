"""Encoder and decoder of the autoencoders ([rombach2022] appendix G, the convolutional net of VQGAN).

The names of the parts are a file format: they give the state-dict keys of the diffusers layout.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.nn.blocks import AttentionBlock, Downsample, ResBlock, Upsample, group_norm
from sfumato.nn.recomputed import norm_silu
from sfumato.nn.stored import Conv2d

_EPS = 1e-6
_IMAGE_CHANNELS = 3


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if wanted, then a change of size if wanted."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        attention: bool,
        groups: int,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(in_channels if i == 0 else out_channels, out_channels, groups=groups, eps=_EPS)
            for i in range(blocks)
        )
        if attention:
            self.attentions = nn.ModuleList(
                AttentionBlock(out_channels, groups=groups, eps=_EPS) for _ in range(blocks)
            )
        if downsample:
            self.downsamplers = nn.ModuleList([Downsample(out_channels, asymmetric=True)])
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample(out_channels)])
        self.has_attention, self.resizes = attention, downsample or upsample

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o u v"]:
        """Apply the level."""
        for i, block in enumerate(self.resnets):
            x = block(x)
            if self.has_attention:
                x = self.attentions[i](x)
        if self.resizes:
            x = (self.downsamplers if hasattr(self, "downsamplers") else self.upsamplers)[0](x)
        return x


class Middle(nn.Module):
    """Residual block, attention if wanted, residual block, at the lowest resolution."""

    def __init__(self, channels: int, *, attention: bool, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, groups=groups, eps=_EPS) for _ in range(2))
        self.attentions = nn.ModuleList([AttentionBlock(channels, groups=groups, eps=_EPS)] if attention else [])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Apply the middle."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


class Encoder(nn.Module):
    """Pictures to feature maps that are 2^(levels - 1) times smaller.

    Args:
        channels: Width of each level, full resolution first.
        out_channels: Channels of the result.
        blocks_per_level: Residual blocks per level.
        attention_levels: Levels with attention after each residual block, 0 = full resolution.
        mid_attention: Attention between the two middle blocks.
        groups: Norm groups; must divide every width.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        *,
        blocks_per_level: int,
        attention_levels: Sequence[int],
        mid_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(_IMAGE_CHANNELS, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                channels[max(i - 1, 0)],
                width,
                blocks=blocks_per_level,
                attention=i in attention_levels,
                groups=groups,
                downsample=i < len(channels) - 1,
            )
            for i, width in enumerate(channels)
        )
        self.mid_block = Middle(channels[-1], attention=mid_attention, groups=groups)
        self.conv_norm_out = group_norm(channels[-1], groups, _EPS)
        self.conv_out = Conv2d(channels[-1], out_channels, 3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Encode pictures in [-1, 1]."""
        x = self.conv_in(images)
        for level in self.down_blocks:
            x = level(x)
        out: Tensor = self.conv_out(norm_silu(self.conv_norm_out, self.mid_block(x)))
        return out


class Decoder(nn.Module):
    """Feature maps back to pictures: the encoder's mirror with one more residual block per level.

    Args: as for `Encoder`, except
        in_channels: Channels of the input.
    """

    def __init__(
        self,
        channels: Sequence[int],
        in_channels: int,
        *,
        blocks_per_level: int,
        attention_levels: Sequence[int],
        mid_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(in_channels, channels[-1], 3, padding=1)
        self.mid_block = Middle(channels[-1], attention=mid_attention, groups=groups)
        self.up_blocks = nn.ModuleList(
            Level(
                channels[min(i + 1, len(channels) - 1)],
                channels[i],
                blocks=blocks_per_level + 1,
                attention=i in attention_levels,
                groups=groups,
                upsample=i > 0,
            )
            for i in reversed(range(len(channels)))
        )
        self.conv_norm_out = group_norm(channels[0], groups, _EPS)
        self.conv_out = Conv2d(channels[0], _IMAGE_CHANNELS, 3, padding=1)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode to pictures, about in [-1, 1], not clamped."""
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        out: Tensor = self.conv_out(norm_silu(self.conv_norm_out, x))
        return out
