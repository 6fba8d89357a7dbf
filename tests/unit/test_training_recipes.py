"""Recipes that cannot work, or that ask for what does nothing, are refused before anything is computed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from sfumato.errors import ConfigError, UnknownFormat
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.unet_config import UNetConfig
from sfumato.training.denoiser_checks import check_fit, check_recipe
from sfumato.training.pictures import DataConfig
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, parse_recipe
from tiny_stages import DATA, FIRST, SECOND, first

VQ = {**FIRST["autoencoder"], "kind": "vq", "codebook_size": 32}
PLAIN = UNetConfig(4, 4, (32, 64), num_heads=2)


def denoiser(**changes: Any) -> DenoiserRecipe:
    """A second stage whose first is still to be trained."""
    return parse_recipe({**SECOND, "autoencoder_recipe": "first.toml", **changes}, DenoiserRecipe, "second")


def unet(**changes: Any) -> dict[str, Any]:
    """The U-Net of the second stage, with changes."""
    return {**SECOND["unet"], **changes}


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_does_not_compute_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as refused:
        first(device=device)
    assert refused.value.field == "device" and refused.value.hint == "Set device='cpu'."
    assert f"first: device is {device!r}, which cannot be used here (" in refused.value.message
    assert refused.value.message.endswith("); there are cpu, cuda:0, cuda:1.")


def test_the_devices_that_are_there_are_named() -> None:
    assert first(device="cpu").device == "cpu"
    if not torch.accelerator.is_available():
        with pytest.raises(ConfigError, match=r"device is 'cuda', which cannot be used here .*; there are cpu\."):
            first(device="cuda")


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("in_channels", 0, "at least 1"),
        ("out_channels", -4, "at least 1"),
        ("blocks_per_level", 0, "at least 1"),
        ("norm_groups", 0, "at least 1"),
        ("num_heads", 0, "at least 1"),
        ("context_dim", 0, "at least 1"),
        ("num_classes", 0, "at least 1"),
        ("vector_width", 0, "at least 1"),
        ("concat_channels", -1, "at least 0"),
        ("transformer_depth", -1, "at least 0"),
        ("dropout", 1.5, "at least 0 and below 1"),
        ("dropout", -0.1, "at least 0 and below 1"),
        ("transformer_dropout", 1.0, "at least 0 and below 1"),
    ],
)
def test_numbers_that_no_unet_has_are_refused(field: str, value: float, needed: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{field} is {value}; needed: {needed}.")) as refused:
        replace(PLAIN, **{field: value})
    assert refused.value.field == field
    with pytest.raises(ConfigError, match=re.escape(f"second: {field} is {value}; needed: {needed}.")):
        denoiser(unet=unet(**{field: value}))


def test_the_width_of_a_head_is_at_least_1() -> None:
    with pytest.raises(ConfigError, match=r"head_width is 0; needed: at least 1\."):
        UNetConfig(4, 4, (32,), head_width=0)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"latent_noise": 0.2, "autoencoder": VQ}, "latent_noise", r"latent_noise is 0\.2 but the kind is 'vq'"),
        ({"shift": True, "learns": "decoder", "init_from": "x"}, "shift", r"shift is true but learns is 'decoder'"),
        (
            {"shift": True, "autoencoder": {**FIRST["autoencoder"], "post_quant_conv": False}},
            "shift",
            r"shift is true but the autoencoder has no post_quant_conv",
        ),
        (
            {"shift": True, "autoencoder": {**FIRST["autoencoder"], "quant_conv": False, "post_quant_conv": False}},
            "shift",
            r"shift is true but the autoencoder has no quant_conv",
        ),
    ],
)
def test_first_stages_that_ask_for_nothing_are_refused(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"first: {message}") as refused:
        first(**changes)
    assert refused.value.field == field and refused.value.hint


def test_first_stages_with_what_they_use_are_taken() -> None:
    assert first(latent_noise=0.2).latent_noise == 0.2
    assert first(shift=True).shift and first(shift=True, autoencoder=VQ).shift
    decoder = first(learns="decoder", init_from="x", scaling_pictures=1024)  # the recipe that its encoder came from
    assert isinstance(decoder, AutoencoderRecipe)
    without = {**FIRST["autoencoder"], "quant_conv": False, "post_quant_conv": False}
    assert not first(autoencoder=without).shift


def test_shards_that_batches_do_not_fill_are_refused() -> None:
    message = r"latents\.shard_size is 100 and latents\.encode_batch 32; needed: a multiple of it\."
    with pytest.raises(ConfigError, match=message) as refused:
        denoiser(latents={"shard_size": 100})
    assert refused.value.field == "latents.shard_size" and "Set latents.shard_size=96" in str(refused.value.hint)
    with pytest.raises(ConfigError, match=r"Set latents\.shard_size=32 or latents\.encode_batch=16\."):
        denoiser(latents={"shard_size": 16})
    assert denoiser(latents={"shard_size": 96}).latents.shard_size == 96


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"unet": unet(num_classes=10)}, "unet.num_classes", r"unet\.num_classes is 10, but a denoiser .* captions"),
        ({"unet": unet(vector_width=8)}, "unet.vector_width", r"unet\.vector_width is 8, but a denoiser"),
        ({"unet": unet(concat_channels=5)}, "unet.concat_channels", r"unet\.concat_channels is 5, but a denoiser"),
        ({"unet": unet(context_dim=64)}, "unet.context_dim", r"unet\.context_dim is 64; .* need 32\."),
        ({"unet": unet(context_dim=None)}, "unet.context_dim", r"unet\.context_dim is None; .* need 32\."),
        ({"text_encoder": None}, "unet.context_dim", r"unet\.context_dim is 32; .* need None\."),
        ({"unet": unet(num_heads=3)}, "num_heads", r"3 attention heads do not divide 32 channels"),
        (
            {"text_encoder": {**SECOND["text_encoder"], "heads": 5}},
            "num_heads",
            r"5 attention heads do not divide 32 channels",
        ),
    ],
)
def test_what_the_recipe_alone_shows_is_refused(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        check_recipe(denoiser(**changes))
    assert refused.value.field == field


def test_a_network_that_no_model_folder_can_express_is_refused_where_one_is_made() -> None:
    with pytest.raises(UnknownFormat, match=r"cannot express resblock_updown=True"):
        check_recipe(denoiser(unet=unet(resblock_updown=True)))
    check_recipe(denoiser(unet=unet(resblock_updown=True, context_dim=None), text_encoder=None))


@pytest.mark.parametrize(
    ("channels", "data", "needed"),
    [
        ((16, 32, 32, 32, 32), DATA, "needed: a multiple of 32"),
        ((16, 32), {**DATA, "size": 18}, "needed: a multiple of 4"),
        ((16, 32), {**DATA, "size": 17}, "needed: a multiple of 4"),
        ((16,) * 8, {"kind": "primer"}, "needed: a multiple of 256"),
    ],
)
def test_latents_that_cannot_be_halved_so_often_are_refused(
    channels: tuple[int, ...], data: dict[str, Any], needed: str
) -> None:
    recipe = denoiser(unet=unet(channels=channels), data=data)
    with pytest.raises(ConfigError, match=needed) as refused:
        check_fit(recipe, first().autoencoder)
    side, halved = recipe.data.side, len(channels) - 1
    assert f"The pictures are {side} × {side} pixels; the autoencoder makes them 2 times" in refused.value.message
    assert f"U-Net halves that {halved} time" in refused.value.message
    assert refused.value.field == "unet.channels"
    assert ("data.size" in str(refused.value.hint)) == (data["kind"] != "primer")


def test_latents_that_can_be_halved_down_to_one_number_are_taken() -> None:
    check_fit(denoiser(unet=unet(channels=(16, 32, 32, 32))), first().autoencoder)
    check_fit(denoiser(), AutoencoderConfig(**{**FIRST["autoencoder"], "channels": (8,)}))


def test_latents_of_other_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unet\.in_channels is 3; .* need 4\.") as refused:
        check_fit(denoiser(unet=unet(in_channels=3)), first().autoencoder)
    assert refused.value.field == "unet.in_channels"
    with pytest.raises(ConfigError, match=r"unet\.out_channels is 8; .* need 4\."):
        check_fit(denoiser(unet=unet(out_channels=8)), first().autoencoder)


def test_the_side_of_the_pictures_is_known_without_them() -> None:
    assert DataConfig(kind="folder", size=64).side == DataConfig(kind="shapes", size=64).side == 64
    assert DataConfig(kind="primer", size=64).side == 128
