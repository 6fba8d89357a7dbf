"""Autoencoder, text encoder and scheduler of the diffusers folder layout, read into ours and written from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.formats.strict_json import Json, check_kinds, checked, flags, one_of, uniform, unsupported
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.text_encoder import TextEncoderConfig

_VAE_FIXED: Json = {"in_channels": 3, "out_channels": 3, "act_fn": "silu", "latents_mean": None, "latents_std": None}
_VAE_READ: Json = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_VQ_FIXED: Json = {"norm_type": "group", "lookup_from_codebook": False}
_VQ_READ: Json = {"num_vq_embeddings": 256, "vq_embed_dim": None, "latent_channels": 3}
_OTHER_SCHEDULERS = ("FlowMatch", "EDM", "CosineDPM")
"""What the names of schedulers begin with that have no betas; their files would be read as the usual ones."""
_BETA_SCHEDULERS = ("DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
_ENDS: Json = {"beta_start": 0.0001, "beta_end": 0.02}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_CLIP_READ: Json = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read_autoencoder_config(given: Mapping[str, Any], source: str) -> AutoencoderConfig:
    """Read `vae/config.json` of an `AutoencoderKL` or a `VQModel`.

    Args:
        given: The file's content.
        source: Its path, for messages.

    Returns:
        Our configuration.

    Raises:
        UnknownFormat: A key or value that our autoencoder cannot follow.
    """
    name = one_of({**_VAE_READ, **given}, "_class_name", ("AutoencoderKL", "VQModel"), source)
    is_vq = name == "VQModel"
    fixed, read = (_VAE_FIXED | _VQ_FIXED, _VAE_READ | _VQ_READ) if is_vq else (_VAE_FIXED, _VAE_READ)
    values = checked(given, fixed, read, source)
    down = values["down_block_types"]
    levels = flags(values, "down_block_types", {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}, source)
    up = flags(values, "up_block_types", {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}, source)
    if levels != up[::-1] or len(down) != len(values["block_out_channels"]):
        raise unsupported(source, "up_block_types", values["up_block_types"], ["the mirror of down_block_types"])
    return AutoencoderConfig(
        kind="vq" if is_vq else "kl",
        channels=tuple(values["block_out_channels"]),
        blocks_per_level=uniform(values, "layers_per_block", source),
        latent_channels=values["latent_channels"],
        embed_dim=values["vq_embed_dim"] if is_vq else None,
        codebook_size=values["num_vq_embeddings"] if is_vq else None,
        attention_levels=tuple(level for level, has in enumerate(levels) if has),
        mid_attention=values["mid_block_add_attention"],
        norm_groups=values["norm_num_groups"],
        quant_conv=values["use_quant_conv"],
        post_quant_conv=values["use_post_quant_conv"],
        scaling_factor=float(values["scaling_factor"]),
        shift_factor=float(values["shift_factor"] or 0.0),
    )


def write_autoencoder_config(config: AutoencoderConfig, sample_size: int) -> Json:
    """Write `vae/config.json`.

    Args:
        config: Our configuration.
        sample_size: Side of the pictures that it was trained on, in pixels.

    Returns:
        The file's content, of class `AutoencoderKL` or `VQModel`.
    """
    attention = [level in config.attention_levels for level in range(len(config.channels))]
    content: Json = {
        "_class_name": "AutoencoderKL" if config.kind == "kl" else "VQModel",
        "in_channels": 3,
        "out_channels": 3,
        "act_fn": "silu",
        "down_block_types": ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attention],
        "up_block_types": ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attention)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.blocks_per_level,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": sample_size,
        "scaling_factor": config.scaling_factor,
        "force_upcast": False,
        "mid_block_add_attention": config.mid_attention,
    }
    if config.kind == "vq":
        shift = {"shift_factor": config.shift_factor} if config.shift_factor else {}  # theirs has no such key
        fixed = {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.embed_dim}
        return {**content, **_VQ_FIXED, **shift, **fixed}
    return {
        **content,
        "shift_factor": config.shift_factor or None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
    }


def read_text_config(
    given: Mapping[str, Any], source: str, *, bos_id: int, eos_id: int, pad_id: int
) -> TextEncoderConfig:
    """Read `text_encoder/config.json` of a `CLIPTextModel`.

    Args:
        given: The file's content. Keys of training and of other heads of CLIP are not looked at.
        source: Its path, for messages.
        bos_id: Start token of the tokenizer; the ids in published configurations are wrong (`eos_token_id` 2).
        eos_id: End token of the tokenizer.
        pad_id: Padding of the tokenizer.

    Returns:
        Our configuration.

    Raises:
        UnknownFormat: Another kind of text encoder, or a value that ours cannot follow.
    """
    kind = given.get("model_type", "clip_text_model")
    if kind not in ("clip_text_model", "clip_text_model_with_projection"):
        raise unsupported(source, "model_type", kind, ["clip_text_model"])
    values = {**_CLIP_READ, **{key: given[key] for key in _CLIP_READ if key in given}}
    if missing := next((key for key, value in values.items() if value is None), None):
        raise unsupported(source, missing, None, ["a value"])
    check_kinds(values, _CLIP_READ, source)
    if values["layer_norm_eps"] != 1e-5:
        raise unsupported(source, "layer_norm_eps", values["layer_norm_eps"], [1e-5])
    return TextEncoderConfig(
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_width=values["intermediate_size"],
        context_length=values["max_position_embeddings"],
        activation=one_of(values, "hidden_act", ("quick_gelu", "gelu"), source),
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
    )


def write_text_config(config: TextEncoderConfig) -> Json:
    """Write `text_encoder/config.json`.

    Args:
        config: Our configuration.

    Returns:
        The file's content, of class `CLIPTextModel`.
    """
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "projection_dim": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.pad_id,
        "dtype": "float32",
    }


def read_scheduler(given: Mapping[str, Any], source: str) -> tuple[ScheduleConfig, Prediction]:
    """Read `scheduler/scheduler_config.json` of any scheduler class.

    Only what the network was trained with is read. How to step (class, spacing, thresholds) is chosen when pictures are
    made.

    Args:
        given: The file's content.
        source: Its path, for messages.

    Returns:
        The schedule, and what the network predicts.

    Raises:
        UnknownFormat: An unknown schedule or prediction, or a number of times or a beta that is none.
    """
    name = str(given.get("_class_name", ""))
    if name.startswith(_OTHER_SCHEDULERS):
        raise unsupported(source, "_class_name", name, _BETA_SCHEDULERS)
    values = {"beta_schedule": "linear", "prediction_type": "epsilon", **given}
    prediction = _PREDICTIONS[one_of(values, "prediction_type", list(_PREDICTIONS), source)]
    total = values.get("num_train_timesteps", 1000)
    if not isinstance(total, int):
        raise unsupported(source, "num_train_timesteps", total, ["a whole number"])
    zero = bool(values.get("rescale_betas_zero_snr", False))
    betas = values.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list):
            raise unsupported(source, "trained_betas", betas, ["a list of numbers"])
        config = ScheduleConfig(
            kind="given", num_train_steps=len(betas), zero_terminal_snr=zero, betas=tuple(map(float, betas))
        )
        return config, prediction
    kind = _SCHEDULES[one_of(values, "beta_schedule", list(_SCHEDULES), source)]
    ends = {**_ENDS, **{key: values[key] for key in _ENDS if key in values}}
    if missing := next((key for key, value in ends.items() if value is None), None):
        raise unsupported(source, missing, None, ["a number"])
    check_kinds(ends, _ENDS, source)
    return ScheduleConfig(kind, float(ends["beta_start"]), float(ends["beta_end"]), total, zero), prediction


def write_scheduler(config: ScheduleConfig, prediction: Prediction) -> Json:
    """Write `scheduler/scheduler_config.json` as a `DDIMScheduler` that steps as our `ddim` does.

    Args:
        config: The schedule.
        prediction: What the network predicts.

    Returns:
        The file's content.
    """
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    raw = Schedule(replace(config, zero_terminal_snr=False)).betas if config.kind not in names else None
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": config.num_train_steps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": names.get(config.kind, "linear"),
        "trained_betas": None if raw is None else raw.tolist(),
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[prediction],
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "timestep_spacing": "trailing",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "thresholding": False,
    }
