"""Autoencoders: published sizes, shapes, scaling, and every refusal."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from sfumato.errors import ConfigError, DataError, ShapeError
from sfumato.models.autoencoder import AUTOENCODERS, Autoencoder, AutoencoderConfig, vq_f8
from sfumato.models.posterior import Posterior, measure_scaling

PARAMETERS = {
    "kl-f4": (55_312_063, 4, 3),
    "kl-f8": (83_653_863, 8, 4),
    "kl-f16": (69_610_963, 16, 16),
    "kl-f32": (103_880_131, 32, 64),
    "vq-f4": (55_322_782, 4, 3),
    "vq-f4-noattn": (53_219_486, 4, 3),
    "vq-f8": (67_717_295, 8, 4),
    "vq-f16": (69_593_371, 16, 8),
}


def tiny(**options: Any) -> AutoencoderConfig:
    """A small configuration."""
    return AutoencoderConfig(**({"channels": (8, 16), "norm_groups": 4, "blocks_per_level": 1} | options))


def test_every_published_configuration_is_listed() -> None:
    assert set(AUTOENCODERS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_configurations_have_the_published_sizes(name: str) -> None:
    parameters, factor, channels = PARAMETERS[name]
    with torch.device("meta"):
        autoencoder = Autoencoder(AUTOENCODERS[name]())
    assert sum(p.numel() for p in autoencoder.parameters()) == parameters
    assert autoencoder.downsample_factor == factor
    assert autoencoder.config.denoiser_channels == channels


def test_small_codebook_changes_only_the_codebook() -> None:
    with torch.device("meta"):
        small, large = Autoencoder(vq_f8(256)), Autoencoder(vq_f8())
    sizes = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    assert sizes[1] - sizes[0] == (16384 - 256) * 4


@pytest.mark.parametrize("levels", range(1, 7))
def test_shape_at_every_factor(levels: int) -> None:
    autoencoder = Autoencoder(tiny(channels=(8,) * levels, latent_channels=2))
    f = autoencoder.downsample_factor
    assert f == 2 ** (levels - 1)
    images = torch.zeros(1, 3, 2 * f, 3 * f)
    assert autoencoder.encode(images).mean.shape == (1, 2, 2, 3)
    assert autoencoder(images).images.shape == images.shape


def test_options_reach_their_destination() -> None:
    autoencoder = Autoencoder(
        tiny(channels=(8, 16, 24), norm_groups=2, blocks_per_level=3, attention_levels=(1,), mid_attention=False)
    )
    names = set(autoencoder.state_dict())
    assert "encoder.down_blocks.1.attentions.2.to_q.weight" in names
    assert "decoder.up_blocks.1.attentions.3.to_out.0.bias" in names
    assert not any("mid_block.attentions" in name or "down_blocks.0.att" in name for name in names)
    norms = [m for m in autoencoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {2}
    assert {norm.eps for norm in norms} == {1e-6}
    assert autoencoder.last_layer is autoencoder.decoder.conv_out.weight


def test_encoder_pads_right_and_bottom_only() -> None:
    autoencoder = Autoencoder(tiny())
    downsample = autoencoder.encoder.down_blocks[0].downsamplers[0]
    torch.nn.init.zeros_(downsample.conv.bias)
    with torch.no_grad():
        downsample.conv.weight.fill_(1 / 8)
    out = downsample(torch.ones(1, 8, 4, 4))
    assert out[0, 0].tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_latents_are_shifted_and_scaled() -> None:
    autoencoder = Autoencoder(tiny(scaling_factor=0.5, shift_factor=0.25)).eval()
    images, eps = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 4, 4, 4)
    posterior = autoencoder.encode(images)
    torch.testing.assert_close(autoencoder.to_latents(images), (posterior.mean - 0.25) * 0.5)
    torch.testing.assert_close(autoencoder.to_latents(images, eps), (posterior.sample(eps) - 0.25) * 0.5)
    latents = autoencoder.to_latents(images)
    torch.testing.assert_close(autoencoder.to_images(latents), autoencoder.decode(posterior.mean))
    autoencoder.set_scaling(2.0)
    assert (autoencoder.config.scaling_factor, autoencoder.config.shift_factor) == (2.0, 0.0)
    torch.testing.assert_close(autoencoder.to_latents(images), posterior.mean * 2.0)


def test_forward_uses_the_noise() -> None:
    autoencoder = Autoencoder(tiny())
    images, eps = torch.rand(1, 3, 8, 8), torch.randn(1, 4, 4, 4)
    result = autoencoder(images, eps)
    assert result.quantized is None
    torch.testing.assert_close(result.images, autoencoder.decode(result.posterior.sample(eps)))
    torch.testing.assert_close(autoencoder(images).images, autoencoder.decode(result.posterior.mean))


def test_vq_decodes_codes_and_is_deterministic() -> None:
    autoencoder = Autoencoder(tiny(kind="vq", codebook_size=7, embed_dim=5))
    images, eps = torch.rand(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    result = autoencoder(images)
    assert result.quantized is not None
    torch.testing.assert_close(autoencoder.to_latents(images, eps), autoencoder.to_latents(images))
    torch.testing.assert_close(autoencoder.to_images(result.posterior.mean), result.images)
    assert result.posterior.logvar is None
    with pytest.raises(ConfigError, match="no KL term"):
        result.posterior.kl()


def test_log_variance_is_clamped() -> None:
    moments = torch.tensor([1.0, -100.0, 2.0, 50.0]).view(1, 4, 1, 1)
    posterior = Posterior.from_moments(moments[:, [0, 2, 1, 3]])
    assert posterior.logvar is not None
    assert posterior.mean.flatten().tolist() == [1.0, 2.0]
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            (63, 50),
            "63×50 (height × width); both sides must be multiples of 8. Nearest legal sizes: 56 or 64 × 48 or 56.",
        ),
        ((64, 50), "64×50 (height × width); both sides must be multiples of 8. Nearest legal sizes: 64 × 48 or 56."),
        ((5, 8), "5×8 (height × width); both sides must be multiples of 8. Nearest legal sizes: 8 × 8."),
    ],
)
def test_other_sizes_are_refused_with_the_nearest_legal_ones(size: tuple[int, int], message: str) -> None:
    autoencoder = Autoencoder(tiny(channels=(8, 8, 8, 8)))
    with pytest.raises(ShapeError, match=re.escape(message)):
        autoencoder.encode(torch.zeros(1, 3, *size))


def test_wrong_latent_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match="have 5 channels, this autoencoder needs 4"):
        Autoencoder(tiny()).decode(torch.zeros(1, 5, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ae"}, "kind is 'ae'"),
        ({"channels": ()}, "channels is ()"),
        (
            {"channels": (8, 18)},
            "channels is (8, 18); needed: at least one level, every width a multiple of norm_groups = 4",
        ),
        ({"norm_groups": 0}, "norm_groups is 0; needed: at least 1"),
        ({"blocks_per_level": 0}, "blocks_per_level is 0; needed: at least 1"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"attention_levels": (2,)}, "attention_levels is (2,); needed: numbers from 0 to 1"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0.0, shift_factor is 0.0"),
        ({"shift_factor": float("nan")}, "shift_factor is nan"),
        ({"kind": "vq"}, "codebook_size is not given"),
        ({"kind": "vq", "codebook_size": 8, "quant_conv": False}, "always has quant_conv"),
        ({"codebook_size": 8}, "codebook_size is 8 but kind is 'kl'"),
        ({"embed_dim": 3}, "embed_dim is 3, latent_channels is 4"),
        ({"kind": "vq", "codebook_size": 8, "embed_dim": 0}, "embed_dim is 0"),
    ],
)
def test_unusable_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        tiny(**options)


def test_scaling_is_one_over_the_standard_deviation() -> None:
    z = torch.randn(6, 4, 5, 3, generator=torch.Generator().manual_seed(0)) * 3 + 2
    whole, parts = measure_scaling([z]), measure_scaling([z[:1], z[1:4], z[4:]])
    assert whole.std == pytest.approx(float(z.double().std(correction=0)), rel=1e-12)
    assert whole.mean == pytest.approx(float(z.double().mean()), rel=1e-12)
    assert (parts.mean, parts.std) == (pytest.approx(whole.mean), pytest.approx(whole.std))
    assert whole.scaling_factor == pytest.approx(1 / whole.std)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([], "0 latent numbers is 0.0"),
        ([torch.ones(1, 2, 2, 2)], "8 latent numbers is 0.0"),
        ([torch.full((1, 1, 1, 2), float("inf"))], "2 latent numbers is nan"),
    ],
)
def test_scaling_of_unusable_latents_is_refused(latents: list[torch.Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure_scaling(latents)
