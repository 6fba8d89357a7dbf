"""A folder that we wrote opens in diffusers and gives the same picture, and the other way round."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion.guidance import guide
from sfumato.diffusion.levels import spaced_levels
from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
from sfumato.samplers import SAMPLERS
from their_pipeline import their_pipeline
from tiny import tiny_bundle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

pytestmark = pytest.mark.filterwarnings("ignore")


@torch.no_grad()
def our_picture(bundle: Bundle, prompt: str, x_t: torch.Tensor, steps: int, scale: float) -> torch.Tensor:
    cond, uncond = (bundle.text_encoder(bundle.tokenizer.encode([text])).context for text in (prompt, ""))
    denoiser = bundle.denoiser()
    one, other = denoiser.bind(cond), denoiser.bind(uncond)
    levels = spaced_levels(bundle.schedule, steps)
    for step in SAMPLERS["ddim"](
        lambda x, level: guide(one(x, level), other(x, level), scale), x_t, levels, draw=torch.zeros
    ):
        x_t = step.x_t
    return bundle.autoencoder.to_images(x_t)


@pytest.mark.parametrize(("prediction", "dtype"), [("v", torch.float16), ("eps", torch.float32)])
def test_diffusers_opens_our_folder_and_draws_the_same_picture(
    tmp_path: Path, prediction: Any, dtype: torch.dtype
) -> None:
    bundle = tiny_bundle(3, prediction, zero_snr=prediction == "v")
    save_bundle(bundle, tmp_path / "base", dtype)
    pipeline = their_pipeline(tmp_path / "base")
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        "a red fox in the snow",
        num_inference_steps=8,
        guidance_scale=4.0,
        latents=x_t,
        output_type="pt",
        height=32,
        width=32,
    ).images
    ours = our_picture(load_bundle(tmp_path / "base"), "a red fox in the snow", x_t, 8, 4.0)
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    assert (theirs - (ours / 2 + 0.5).clamp(0, 1)).abs().max() <= 1e-4


def test_we_open_a_folder_that_diffusers_wrote(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_bundle(bundle, tmp_path / "ours", torch.float32)
    their_pipeline(tmp_path / "ours").save_pretrained(str(tmp_path / "theirs"), safe_serialization=True)
    loaded = load_bundle(tmp_path / "theirs")
    assert loaded.base_hash == bundle.base_hash
    assert loaded.unet.config == bundle.unet.config
    assert loaded.autoencoder.config == bundle.autoencoder.config
    assert loaded.text_encoder.config == bundle.text_encoder.config
    assert loaded.schedule.config == bundle.schedule.config
    assert loaded.prediction == "v"
    assert loaded.native_size == 32
    text = ["a blue robot"]
    assert torch.equal(loaded.tokenizer.encode(text), bundle.tokenizer.encode(text))


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_bundle(bundle, tmp_path / "base", torch.float32)
    pipeline = their_pipeline(tmp_path / "base")
    for file in (tmp_path / "base" / "unet").iterdir():
        file.unlink()
    pipeline.unet.save_pretrained(str(tmp_path / "base" / "unet"), max_shard_size="500KB")
    assert len(list((tmp_path / "base" / "unet").glob("*-of-*.safetensors"))) > 1
    assert load_bundle(tmp_path / "base").base_hash == bundle.base_hash


def test_vq_autoencoder_opens_in_diffusers(tmp_path: Path) -> None:
    from sfumato.formats.diffusers_config import read_autoencoder_config, write_autoencoder_config
    from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig

    torch.manual_seed(0)
    config = AutoencoderConfig(
        kind="vq", channels=(32, 32), blocks_per_level=1, latent_channels=3, codebook_size=16, attention_levels=(1,)
    )
    content = write_autoencoder_config(config, 32)
    assert read_autoencoder_config(content, "vae") == config
    ours, theirs = Autoencoder(config).eval(), diffusers.VQModel.from_config(content).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = theirs(images).sample
        given = ours.decode(ours.encode(images).mode())
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
