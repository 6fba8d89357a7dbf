"""`unet/config.json` of the diffusers folder layout, read into ours and written from ours.

The names in these files are a published format with its own history. The best known trap: `attention_head_dim` holds
the *number* of heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sfumato.errors import UnknownFormat
from sfumato.formats.strict_json import Json, checked, flags, one_of, uniform, unsupported
from sfumato.models.unet_config import UNetConfig

# Keys whose one supported value is the second entry; None as a value always means "not used".
_UNET_FIXED: Json = {
    "_class_name": "UNet2DConditionModel",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
_UNET_READ: Json = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "use_linear_projection": False,
    "num_class_embeds": None,
    "upcast_attention": False,
    "resnet_time_scale_shift": "default",
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "addition_embed_type_num_heads": 64,
}


def read_unet_config(given: Mapping[str, Any], source: str) -> UNetConfig:
    """Read `unet/config.json`.

    Args:
        given: The file's content.
        source: Its path, for messages.

    Returns:
        Our configuration.

    Raises:
        UnknownFormat: A key or value that our U-Net cannot follow.
    """
    values = checked(given, _UNET_FIXED, _UNET_READ, source)
    channels = tuple(values["block_out_channels"])
    out_channels = values["out_channels"]
    in_channels = min(values["in_channels"], out_channels)
    if values["addition_embed_type"] not in (None, "text_time"):
        raise unsupported(source, "addition_embed_type", values["addition_embed_type"], [None, "text_time"])
    shift = one_of(values, "resnet_time_scale_shift", ("default", "scale_shift"), source)
    depth = values["transformer_layers_per_block"]
    attention = _attention_levels(values, len(channels), source)
    heads, head_width = _heads(values, channels, {factor.bit_length() - 1 for factor in attention}, source)
    return UNetConfig(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        blocks_per_level=uniform(values, "layers_per_block", source),
        attention_downsamples=attention,
        transformer_depth=tuple(depth) if isinstance(depth, list | tuple) else depth,
        context_dim=uniform(values, "cross_attention_dim", source),
        linear_projection=values["use_linear_projection"],
        scale_shift_norm=shift == "scale_shift",
        num_classes=values["num_class_embeds"],
        vector_width=values["projection_class_embeddings_input_dim"] if values["addition_embed_type"] else None,
        concat_channels=values["in_channels"] - in_channels,
        dropout=float(values["dropout"]),
        norm_groups=values["norm_num_groups"],
        num_heads=heads,
        head_width=head_width,
    )


def read_sample_size(given: Mapping[str, Any], source: str) -> int:
    """Read the side of the latents that a U-Net was trained on from `unet/config.json`; 64 where it is not said.

    Raises:
        UnknownFormat: It is no number, or two that differ.
    """
    size = given.get("sample_size") or 64
    sides = set(size) if isinstance(size, list) else {size}
    if len(sides) != 1 or not all(isinstance(side, int) for side in sides):
        raise unsupported(source, "sample_size", size, ["one number"])
    return int(sides.pop())


def write_unet_config(config: UNetConfig, sample_size: int) -> Json:
    """Write `unet/config.json`.

    Args:
        config: Our configuration.
        sample_size: Side of the latents that the network was trained on.

    Returns:
        The file's content.

    Raises:
        UnknownFormat: The layout has no key for an option of this network.
    """
    if config.context_dim is None or config.resblock_updown:
        option = "context_dim=None" if config.context_dim is None else "resblock_updown=True"
        raise UnknownFormat(
            f"The diffusers layout of a text-to-image U-Net cannot express {option}.",
            hint="Save such a network with formats.safe_io.write_safetensors instead.",
        )
    heads = [config.heads(width) for width in config.channels]
    attention = [config.has_attention(level) for level in range(len(config.channels))]
    return {
        **_UNET_FIXED,
        "sample_size": sample_size,
        "in_channels": config.in_channels + config.concat_channels,
        "out_channels": config.out_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.blocks_per_level,
        "dropout": config.dropout,
        "norm_num_groups": config.norm_groups,
        "cross_attention_dim": config.context_dim,
        "transformer_layers_per_block": (
            config.transformer_depth if isinstance(config.transformer_depth, int) else list(config.depths)
        ),
        "attention_head_dim": heads[0] if config.num_heads is not None else heads,
        "num_attention_heads": None,
        "use_linear_projection": config.linear_projection,
        "num_class_embeds": config.num_classes,
        "upcast_attention": False,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift_norm else "default",
        "addition_embed_type": None if config.vector_width is None else "text_time",
        "addition_time_embed_dim": None if config.vector_width is None else 256,
        "projection_class_embeddings_input_dim": config.vector_width,
    }


def _attention_levels(values: Mapping[str, Any], levels: int, source: str) -> tuple[int, ...]:
    """Read which levels have attention, as downsample factors."""
    down = flags(values, "down_block_types", {"CrossAttnDownBlock2D": True, "DownBlock2D": False}, source)
    up = flags(values, "up_block_types", {"CrossAttnUpBlock2D": True, "UpBlock2D": False}, source)
    if down != up[::-1] or len(down) != levels:
        raise unsupported(source, "up_block_types", values["up_block_types"], ["the mirror of down_block_types"])
    return tuple(2**level for level, has in enumerate(down) if has)


def _heads(
    values: Mapping[str, Any], channels: tuple[int, ...], levels_used: Collection[int], source: str
) -> tuple[int | None, int | None]:
    """Read number and width of heads, one of them None; `num_attention_heads` wins where it is given.

    What is said of levels without attention only counts where it agrees with the rest.
    """
    key = "attention_head_dim" if values["num_attention_heads"] is None else "num_attention_heads"
    heads = values[key]
    if isinstance(heads, int):
        return heads, None
    if len(heads) == len(channels):
        last = len(channels) - 1  # the middle has attention as wide as the last level
        for used in (range(last + 1), {level for level in levels_used if level <= last} | {last}):
            if len({heads[level] for level in used}) == 1:
                return heads[last], None
            widths = {divmod(channels[level], heads[level]) for level in used}
            if len(widths) == 1 and next(iter(widths))[1] == 0:
                return None, next(iter(widths))[0]
    raise unsupported(source, key, heads, ["one number of heads", "heads of one width at every level"])
