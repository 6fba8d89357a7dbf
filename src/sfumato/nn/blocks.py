"""Convolutional blocks shared by the U-Net and the autoencoders."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.nn.attention import attend, check_heads, split_heads, to_map, to_tokens
from sfumato.nn.convolution import Conv3x3
from sfumato.nn.recomputed import norm_silu
from sfumato.nn.stored import Conv2d, Linear

Resample = Literal["up", "down"]


def group_norm(channels: int, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """Build a GroupNorm.

    Args:
        channels: Channels of the map.
        groups: Number of groups; must divide `channels`.
        eps: Added to the variance: 1e-5 in the U-Net, 1e-6 in autoencoders and spatial transformers.

    Returns:
        The layer.

    Raises:
        ConfigError: `groups` does not divide `channels`.
    """
    if groups < 1 or channels % groups:
        raise ConfigError(
            f"{groups} norm groups do not divide {channels} channels.",
            field="norm_groups",
            hint="Use channel counts that are multiples of norm_groups, or fewer groups.",
        )
    return nn.GroupNorm(groups, channels, eps=eps)


def zero_parameters(module: nn.Module) -> None:
    """Set all parameters to zero, so that a residual branch starts silent."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class ResBlock(nn.Module):
    """Two norm-SiLU-convolution pairs around a shortcut, steered by the time if there is one.

    The time vector is added between the pairs, or with `scale_shift` used as `norm2(h) * (1 + scale) + shift`
    ([dhariwal2021] 3, AdaGN).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result; None for the same.
        time_width: Length of the time vector; None for a block without one (autoencoders).
        groups: Norm groups.
        eps: Norm epsilon: 1e-5 in the U-Net, 1e-6 in autoencoders.
        dropout: Rate before the second convolution.
        scale_shift: Use the time vector as scale and shift.
        resample: Also double ("up", nearest) or halve ("down", mean of 2x2) the size.
        zero_init: Start with a zero second convolution, as the U-Net does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        time_width: int | None = None,
        groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Resample | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = group_norm(in_channels, groups, eps)
        self.conv1 = Conv3x3(in_channels, out_channels)
        if time_width is not None:
            self.time_emb_proj = Linear(time_width, (2 if scale_shift else 1) * out_channels)
        self.norm2 = group_norm(out_channels, groups, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.conv_shortcut = None if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        if zero_init:
            zero_parameters(self.conv2)

    def forward(
        self, x: Float[Tensor, "b c_in h_in w_in"], time: Float[Tensor, "_b d"] | None = None
    ) -> Float[Tensor, "b c_out h_out w_out"]:
        """Transform a feature map.

        Args:
            x: The map.
            time: Time vector with its SiLU already applied, which all blocks of a network share; one row per map
                or a single row for all.

        Returns:
            The new map.
        """
        h = norm_silu(self.norm1, x)
        if self.resample is not None:
            h, x = resized(h, self.resample), resized(x, self.resample)
        h = self.conv1(h)
        if time is not None and self.scale_shift:
            scale, shift = self.time_emb_proj(time)[:, :, None, None].chunk(2, dim=1)
            h = F.silu(self.norm2(h) * (1 + scale) + shift)
        else:
            if time is not None:
                h += self.time_emb_proj(time)[:, :, None, None]
            h = norm_silu(self.norm2, h)
        h = self.conv2(self.dropout(h))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + h
        return out


def resized(x: Float[Tensor, "b c h_in w_in"], resample: Resample) -> Float[Tensor, "b c h_out w_out"]:
    """Double (nearest) or halve (mean of 2x2) a feature map."""
    if resample == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(x, 2)


class Downsample(nn.Module):
    """Halve a feature map with a strided 3x3 convolution.

    Args:
        channels: Channels in and out.
        asymmetric: Pad only right and bottom (autoencoders) instead of all sides (U-Net).
    """

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(
        self, x: Float[Tensor, "b c h_in w_in"], time: Float[Tensor, "_b d"] | None = None
    ) -> Float[Tensor, "b c h_out w_out"]:
        """Halve; the time is accepted and not used, so that a `ResBlock` can take this place."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return out


class Upsample(nn.Module):
    """Double a feature map by nearest neighbour, then smooth with a 3x3 convolution.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(
        self, x: Float[Tensor, "b c h_in w_in"], time: Float[Tensor, "_b d"] | None = None
    ) -> Float[Tensor, "b c h_out w_out"]:
        """Double; the time is accepted and not used, so that a `ResBlock` can take this place."""
        out: Tensor = self.conv(resized(x, "up"))
        return out


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a feature map, added to its input.

    Args:
        channels: Channels of the map.
        heads: Number of heads; autoencoders use one.
        groups: Norm groups.
        eps: Norm epsilon: 1e-5 in the U-Net, 1e-6 in autoencoders.
        zero_init: Start as the identity, as the U-Net does.

    Raises:
        ConfigError: `heads` does not divide `channels`.
    """

    def __init__(
        self, channels: int, *, heads: int = 1, groups: int = 32, eps: float = 1e-5, zero_init: bool = False
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads = heads
        self.group_norm = group_norm(channels, groups, eps)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.Sequential(Linear(channels, channels))
        if zero_init:
            zero_parameters(self.to_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Let every position look at every other."""
        height, width = x.shape[2:]
        tokens = to_tokens(self.group_norm(x))
        q, k, v = (split_heads(layer(tokens), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        return x + to_map(self.to_out(attend(q, k, v)), height, width)
