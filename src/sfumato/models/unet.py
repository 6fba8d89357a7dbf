"""The U-Net that predicts the noise in latents ([rombach2022] 3.2-3.3, [dhariwal2021] 3).

State-dict keys are those of the diffusers `UNet2DConditionModel`, so that a saved folder loads there unchanged;
plain attention blocks and resampling residual blocks use the keys of its `UNet2DModel`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.errors import ShapeError
from sfumato.models.unet_config import UNetConfig
from sfumato.nn.attention import Attention, ContextCache, SpatialTransformer
from sfumato.nn.blocks import (
    AttentionBlock,
    Downsample,
    Resample,
    ResBlock,
    Upsample,
    group_norm,
    zero_parameters,
)
from sfumato.nn.embeddings import TimeEmbedding, sinusoidal
from sfumato.nn.recomputed import norm_silu
from sfumato.nn.stored import Conv2d
from sfumato.tensors import Context, Latents

__all__ = ["UNet", "UNetConfig"]

Run = Callable[..., Tensor]
FeatureMap = Float[Tensor, "b _c _h _w"]
TimeVector = Float[Tensor, "_b _d"]
"""One row per picture, or a single row when all share one time."""
AnyContext = Float[Tensor, "_b _l _d"] | ContextCache
Labels = Int[Tensor, "_b"]
AnyTimes = Float[Tensor, "_b"] | Int[Tensor, "_b"] | float | int


def direct(module: nn.Module, *args: object) -> Tensor:
    """Call a module."""
    out: Tensor = module(*args)
    return out


def checkpointed(module: nn.Module, *args: object) -> Tensor:
    """Call a module and forget what is inside until the gradient needs it."""
    out: Tensor = checkpoint(module, *args, use_reentrant=False)
    return out


class Level(nn.Module):
    """Residual blocks with optional attention, the part that all levels have in common."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self._config = config
        self.resnets = nn.ModuleList()
        self.attentions = nn.ModuleList()

    def _res_block(self, in_channels: int, out_channels: int, resample: Resample | None = None) -> ResBlock:
        """Build one residual block."""
        config = self._config
        return ResBlock(
            in_channels,
            out_channels,
            time_width=config.time_width,
            groups=config.norm_groups,
            dropout=config.dropout,
            scale_shift=config.scale_shift_norm,
            resample=resample,
            zero_init=True,
        )

    def _attention(self, channels: int, depth: int) -> nn.Module:
        """Build one attention over positions, with cross-attention if there is a context."""
        config, heads = self._config, self._config.heads(channels)
        if config.context_dim is None:
            return AttentionBlock(channels, heads=heads, groups=config.norm_groups, zero_init=True)
        return SpatialTransformer(
            channels,
            heads=heads,
            context_width=config.context_dim,
            depth=depth,
            linear_projection=config.linear_projection,
            norm_groups=config.norm_groups,
            dropout=config.transformer_dropout,
        )

    def _attend(self, index: int, h: FeatureMap, context: AnyContext | None, run: Run) -> FeatureMap:
        """Apply the attention behind a residual block, if the level has attention."""
        if not self.attentions:
            return h
        return run(self.attentions[index], h) if context is None else run(self.attentions[index], h, context)


class DownLevel(Level):
    """One level on the way down.

    Args:
        config: The whole network.
        level: Index of the level, 0 is the finest.
    """

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__(config)
        width = config.channels[level]
        for in_channels in (config.channels[max(level - 1, 0)], *[width] * (config.blocks_per_level - 1)):
            self.resnets.append(self._res_block(in_channels, width))
            if config.has_attention(level):
                self.attentions.append(self._attention(width, config.depths[level]))
        self.downsamplers = nn.ModuleList()
        if level < len(config.channels) - 1:
            by_block = config.resblock_updown
            self.downsamplers.append(self._res_block(width, width, "down") if by_block else Downsample(width))

    def forward(self, h: FeatureMap, time: TimeVector, context: AnyContext | None, run: Run) -> list[FeatureMap]:
        """Return the map behind every block; the last one goes on."""
        maps = []
        for index, resnet in enumerate(self.resnets):
            h = self._attend(index, run(resnet, h, time), context, run)
            maps.append(h)
        maps.extend(run(downsampler, h, time) for downsampler in self.downsamplers)
        return maps


class MidLevel(Level):
    """Residual block, attention, residual block at the coarsest size."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        width = config.channels[-1]
        self.attentions.append(self._attention(width, config.depths[-1]))
        self.resnets.extend(self._res_block(width, width) for _ in range(2))

    def forward(self, h: FeatureMap, time: TimeVector, context: AnyContext | None, run: Run) -> FeatureMap:
        """Apply the three blocks."""
        h = self._attend(0, run(self.resnets[0], h, time), context, run)
        return run(self.resnets[1], h, time)


class UpLevel(Level):
    """One level on the way up.

    Args:
        config: The whole network.
        level: Index of the level, 0 is the finest.
        skips: Channels of the maps kept on the way down; those used here are taken from the end.
    """

    def __init__(self, config: UNetConfig, level: int, skips: list[int]) -> None:
        super().__init__(config)
        width = config.channels[level]
        in_channels = config.channels[min(level + 1, len(config.channels) - 1)]
        for _ in range(config.blocks_per_level + 1):
            self.resnets.append(self._res_block(in_channels + skips.pop(), width))
            in_channels = width
            if config.has_attention(level):
                self.attentions.append(self._attention(width, config.depths[level]))
        self.upsamplers = nn.ModuleList()
        if level > 0:
            by_block = config.resblock_updown
            self.upsamplers.append(self._res_block(width, width, "up") if by_block else Upsample(width))

    def forward(
        self, h: FeatureMap, time: TimeVector, context: AnyContext | None, run: Run, skips: list[FeatureMap]
    ) -> FeatureMap:
        """Join each block's input with the last map of `skips`, which is removed there."""
        for index, resnet in enumerate(self.resnets):
            h = torch.cat((h, skips.pop()), dim=1)
            h = self._attend(index, run(resnet, h, time), context, run)
        for upsampler in self.upsamplers:
            h = run(upsampler, h, time)
        return h


class UNet(nn.Module):
    """Predict noise, `x_0` or `v` from noisy latents.

    The memory layout follows the weights: after `unet.to(memory_format=torch.channels_last)` all maps inside are
    channels-last.

    Args:
        config: Shape of the network.
    """

    gradient_checkpointing: bool
    """Trade time for memory in training: keep only block borders and compute the inside again."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        widths, levels = config.channels, range(len(config.channels))
        self.conv_in = Conv2d(config.in_channels + config.concat_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], config.time_width)
        if config.num_classes is not None:
            self.class_embedding = nn.Embedding(config.num_classes, config.time_width)
        if config.vector_width is not None:
            self.add_embedding = TimeEmbedding(config.vector_width, config.time_width)
        self.down_blocks = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.mid_block = MidLevel(config)
        skips = [widths[0]]
        for level in levels:
            skips += [widths[level]] * (config.blocks_per_level + (level < len(widths) - 1))
        self.up_blocks = nn.ModuleList(UpLevel(config, level, skips) for level in reversed(levels))
        self.conv_norm_out = group_norm(widths[0], config.norm_groups)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)
        zero_parameters(self.conv_out)

    def prepare_context(self, context: Context) -> ContextCache:
        """Compute the keys and values of a context once for all steps of a sampler.

        Args:
            context: Features of the condition.

        Returns:
            What `forward` takes instead of the context.

        Raises:
            ShapeError: The network takes no context, or one of another width.
        """
        self._check_context(context, len(context))
        attentions = (module for module in self.modules() if isinstance(module, Attention))
        cross = [attention for attention in attentions if attention.context_width is not None]
        return ContextCache({attention: attention.project(context) for attention in cross}, len(context))

    def forward(
        self,
        x_t: Latents,
        t: AnyTimes,
        context: AnyContext | None = None,
        *,
        class_labels: Labels | None = None,
        concat: Float[Tensor, "_b _c _h _w"] | None = None,
        vector: Float[Tensor, "_b _d"] | None = None,
    ) -> Float[Tensor, "b _c h w"]:
        """Predict from noisy latents.

        Args:
            x_t: Noisy latents; height and width must be multiples of `config.downsample_factor`.
            t: Training time in [0, T), one for all rows or one per row.
            context: Features of the condition, or their `prepare_context`; exactly when `context_dim` is set.
            class_labels: One class per row; exactly when `num_classes` is set.
            concat: Maps of the size of `x_t`; exactly when `concat_channels` is set.
            vector: One vector per row; exactly when `vector_width` is set.

        Returns:
            The prediction, as large as `x_t`, `out_channels` wide.

        Raises:
            ShapeError: A condition is missing, is not taken, or does not fit.
        """
        rows, config = len(x_t), self.config
        self._check_latents(x_t)
        self._check_context(context, rows)
        concat_shape = (rows, config.concat_channels, *x_t.shape[2:]) if config.concat_channels else None
        check_condition("concat", concat, concat_shape)
        check_condition("class_labels", class_labels, None if config.num_classes is None else (rows,))
        check_condition("vector", vector, None if config.vector_width is None else (rows, config.vector_width))
        x = x_t if concat is None else torch.cat((x_t, concat), dim=1)
        time = self._time_vector(x_t, t, class_labels, vector)
        run = checkpointed if self.gradient_checkpointing and torch.is_grad_enabled() else direct
        h = self.conv_in(x)
        skips = [h]
        for down in self.down_blocks:
            skips.extend(down(h, time, context, run))
            h = skips[-1]
        h = self.mid_block(h, time, context, run)
        for up in self.up_blocks:
            h = up(h, time, context, run, skips)
        out: Tensor = self.conv_out(norm_silu(self.conv_norm_out, h))
        return out.contiguous()

    def _time_vector(self, x_t: Latents, t: AnyTimes, class_labels: Tensor | None, vector: Tensor | None) -> TimeVector:
        """Sum the embeddings of time, class and vector; SiLU once for all blocks."""
        times = torch.as_tensor(t, device=x_t.device)
        if times.ndim and times.shape != x_t.shape[:1]:
            raise ShapeError(
                f"t has shape {tuple(times.shape)}, x_t has {len(x_t)} rows.",
                field="t",
                hint="Give one time, or one per row.",
            )
        # One time for all rows is embedded once: less work, and the same bits for any number of rows.
        embedding = sinusoidal(times.reshape(-1), self.config.channels[0]).to(x_t.dtype)
        total: Tensor = self.time_embedding(embedding)
        if class_labels is not None:
            total = total + self.class_embedding(class_labels)
        if vector is not None:
            total = total + self.add_embedding(vector)
        return F.silu(total)

    def _check_latents(self, x_t: Latents) -> None:
        """Refuse latents that the network cannot halve or that have other channels."""
        channels, (height, width) = self.config.in_channels, x_t.shape[2:]
        factor = self.config.downsample_factor
        if x_t.shape[1] != channels:
            raise ShapeError(
                f"x_t has {x_t.shape[1]} channels, the network takes {channels}.",
                field="x_t",
                hint="Pass extra channels as concat.",
            )
        if height % factor or width % factor:
            raise ShapeError(
                f"x_t is {height}x{width}; both sides must be multiples of {factor}.",
                field="x_t",
                hint=f"The next size that fits is {-(-height // factor) * factor}x{-(-width // factor) * factor}.",
            )

    def _check_context(self, context: AnyContext | None, rows: int) -> None:
        """Refuse a context that is missing, not taken, or does not fit."""
        needed = self.config.context_dim
        if context is None or needed is None:
            if context is None and needed is None:
                return
            raise ShapeError(
                f"The network needs a context {needed} wide, but none was given."
                if context is None
                else "The network takes no context (context_dim is None), but one was given.",
                field="context",
            )
        given = context.batch if isinstance(context, ContextCache) else len(context)
        if given != rows:
            raise ShapeError(f"The context has {given} rows, x_t has {rows}.", field="context")
        if isinstance(context, Tensor) and context.shape[-1] != needed:
            raise ShapeError(
                f"The context is {context.shape[-1]} wide, the network needs {needed}.",
                field="context",
                hint="Use the text encoder that the network was trained with.",
            )


def check_condition(name: str, value: Tensor | None, shape: tuple[int, ...] | None) -> None:
    """Refuse a condition that is missing, not taken (`shape` None), or of another shape."""
    given = None if value is None else tuple(value.shape)
    if given == shape:
        return
    if shape is None:
        raise ShapeError(f"The network takes no {name}, but one of shape {given} was given.", field=name)
    raise ShapeError(f"The network needs {name} of shape {shape}, given was {given}.", field=name)
