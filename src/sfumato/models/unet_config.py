"""Shape of a U-Net, apart from the network so that reading a configuration costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import ConfigError

_AT_LEAST_1 = (
    "in_channels",
    "out_channels",
    "blocks_per_level",
    "num_heads",
    "head_width",
    "context_dim",
    "num_classes",
    "vector_width",
    "norm_groups",
)


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    Args:
        in_channels: Channels of the noisy latents.
        out_channels: Channels of the prediction.
        channels: Width of every level, finest first; each must be a multiple of `norm_groups`.
        blocks_per_level: Residual blocks of a level on the way down (one more on the way up).
        attention_downsamples: Levels with attention, as downsample factors 1, 2, 4 …; factors that no level has
            are ignored, as in the released configurations. The middle always has attention.
        num_heads: Attention heads at every level; None when `head_width` is given.
        head_width: Channels per head; None when `num_heads` is given.
        transformer_depth: Transformer blocks per attention, one number or one per level.
        context_dim: Channels of the context; None for plain self-attention blocks and no context.
        linear_projection: Linear layers instead of 1x1 convolutions around the transformer blocks.
        scale_shift_norm: Use the time vector as scale and shift of the second norm.
        resblock_updown: Change sizes inside residual blocks instead of by single convolutions.
        num_classes: Rows of a class embedding that is added to the time vector; None for none.
        vector_width: Length of a vector per row that is embedded and added to the time vector (Stable Diffusion
            XL: pooled text and sizes); None for none.
        concat_channels: Channels concatenated to the latents (low-resolution picture, masked picture, …).
        dropout: Rate in residual blocks.
        transformer_dropout: Rate in transformer blocks.
        norm_groups: Groups of every GroupNorm; less than 32 only for small models.

    Raises:
        ConfigError: A value is out of range, or the values contradict one another.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks_per_level: int = 2
    attention_downsamples: tuple[int, ...] = (1, 2, 4)
    num_heads: int | None = None
    head_width: int | None = None
    transformer_depth: int | tuple[int, ...] = 1
    context_dim: int | None = None
    linear_projection: bool = False
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    num_classes: int | None = None
    vector_width: int | None = None
    concat_channels: int = 0
    dropout: float = 0.0
    transformer_dropout: float = 0.0
    norm_groups: int = 32

    def __post_init__(self) -> None:
        self._check_ranges()
        if (self.num_heads is None) == (self.head_width is None):
            raise ConfigError(
                f"num_heads is {self.num_heads} and head_width is {self.head_width}: exactly one is needed.",
                field="num_heads",
                hint="Give the number of heads or the channels per head, and leave the other at None.",
            )
        if not self.channels:
            raise ConfigError("channels is empty: a U-Net needs at least one level.", field="channels")
        for width in self.channels:
            if width < 1 or width % self.norm_groups:
                raise ConfigError(
                    f"channels {self.channels}: {width} is not a multiple of norm_groups {self.norm_groups}.",
                    field="channels",
                    hint="Change the width or the number of groups.",
                )
        self._check_head_width()
        if len(self.depths) != len(self.channels):
            raise ConfigError(
                f"transformer_depth {self.transformer_depth} has {len(self.depths)} entries for "
                f"{len(self.channels)} levels.",
                field="transformer_depth",
                hint="Give one number, or one for every entry of channels.",
            )

    def _check_head_width(self) -> None:
        """Refuse heads of a width that no whole number of them fills, where there is attention."""
        levels = [level for level in range(len(self.channels)) if self.has_attention(level)]
        for width in dict.fromkeys(self.channels[level] for level in (*levels, len(self.channels) - 1)):
            if self.head_width is not None and width % self.head_width:
                raise ConfigError(
                    f"head_width is {self.head_width} but a level with attention has {width} channels; needed: a "
                    "divisor of them.",
                    field="head_width",
                    hint="Change head_width, or give num_heads in its place.",
                )

    def _check_ranges(self) -> None:
        """Refuse numbers that no network has."""
        needed = dict.fromkeys(_AT_LEAST_1, 1) | {"concat_channels": 0}
        for field, least in needed.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise ConfigError(f"{field} is {value}; needed: at least {least}.", field=field)
        if any(depth < 0 for depth in self.depths):
            raise ConfigError(
                f"transformer_depth is {self.transformer_depth}; needed: at least 0.", field="transformer_depth"
            )
        for field in ("dropout", "transformer_dropout"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise ConfigError(f"{field} is {value}; needed: at least 0 and below 1.", field=field)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer depth of every level."""
        if isinstance(self.transformer_depth, int):
            return (self.transformer_depth,) * len(self.channels)
        return self.transformer_depth

    @property
    def downsample_factor(self) -> int:
        """How much smaller the middle is than the latents."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def widest(self) -> int:
        """Channels where they are most."""
        return max(self.channels)

    @property
    def time_width(self) -> int:
        """Length of the time vector."""
        return 4 * self.channels[0]

    def has_attention(self, level: int) -> bool:
        """Tell whether a level has attention."""
        return 2**level in self.attention_downsamples

    def heads(self, width: int) -> int:
        """Return the number of heads for a width."""
        return self.num_heads if self.num_heads is not None else max(1, width // (self.head_width or 1))
