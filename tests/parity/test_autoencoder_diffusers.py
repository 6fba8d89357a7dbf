"""Our autoencoders against those of diffusers: same keys, same numbers, on tiny random configurations."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig

TOLERANCE = 1e-5

KL_CASES = {
    "f1": AutoencoderConfig(channels=(16,), blocks_per_level=1, norm_groups=4),
    "f2": AutoencoderConfig(channels=(8, 16), norm_groups=4, latent_channels=2),
    "f4 attention on two levels": AutoencoderConfig(
        channels=(8, 8, 16), norm_groups=4, latent_channels=3, attention_levels=(1, 2)
    ),
    "f8 without attention": AutoencoderConfig(
        channels=(8, 16, 24, 32), norm_groups=8, blocks_per_level=1, mid_attention=False, latent_channels=16
    ),
    "f8 without quant convs": AutoencoderConfig(
        channels=(8, 16, 16, 24), norm_groups=2, blocks_per_level=1, quant_conv=False, post_quant_conv=False
    ),
    "f32": AutoencoderConfig(channels=(8, 8, 16, 16, 16, 32), norm_groups=4, blocks_per_level=1),
}
VQ_CASES = {
    "f4": AutoencoderConfig(kind="vq", channels=(8, 16, 16), norm_groups=4, latent_channels=3, codebook_size=50),
    "f4 without attention": AutoencoderConfig(
        kind="vq", channels=(8, 16, 16), norm_groups=4, latent_channels=3, codebook_size=50, mid_attention=False
    ),
    "f8 attention, other width of codes": AutoencoderConfig(
        kind="vq",
        channels=(8, 16, 16, 24),
        norm_groups=4,
        blocks_per_level=1,
        latent_channels=4,
        embed_dim=6,
        codebook_size=20,
        attention_levels=(3,),
    ),
}


def their_options(config: AutoencoderConfig) -> dict[str, Any]:
    """The configuration in the words of diffusers."""
    levels = len(config.channels)
    kinds = ["Attn" if level in config.attention_levels else "" for level in range(levels)]
    return {
        "down_block_types": tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
        "block_out_channels": config.channels,
        "layers_per_block": config.blocks_per_level,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "mid_block_add_attention": config.mid_attention,
    }


def pair(config: AutoencoderConfig) -> tuple[Autoencoder, Any]:
    """Both models with the same random weights, loaded strictly from ours to theirs and back."""
    torch.manual_seed(0)
    ours, options = Autoencoder(config).eval(), their_options(config)
    if config.kind == "kl":
        theirs = diffusers.AutoencoderKL(
            **options, use_quant_conv=config.quant_conv, use_post_quant_conv=config.post_quant_conv
        )
    else:
        theirs = diffusers.VQModel(**options, num_vq_embeddings=config.codebook_size, vq_embed_dim=config.embed_dim)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.08)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert [*ours.state_dict()] and set(ours.state_dict()) == set(theirs.state_dict())
    return ours, theirs.eval()


def pictures(config: AutoencoderConfig) -> torch.Tensor:
    """Two random pictures that are not square."""
    f = config.downsample_factor
    size = (3 * f, 2 * f) if f > 4 else (24, 16)
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("config", KL_CASES.values(), ids=KL_CASES.keys())
@torch.no_grad()
def test_kl_autoencoder_gives_the_same_posterior_and_pictures(config: AutoencoderConfig) -> None:
    ours, theirs = pair(config)
    images = pictures(config)
    posterior, expected = ours.encode(images), theirs.encode(images).latent_dist
    assert posterior.mean.shape[2] == images.shape[2] // config.downsample_factor
    torch.testing.assert_close(posterior.mean, expected.mean, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(posterior.logvar, expected.logvar, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(posterior.kl(), expected.kl(), atol=TOLERANCE, rtol=TOLERANCE)
    z = torch.randn(posterior.mean.shape)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("config", VQ_CASES.values(), ids=VQ_CASES.keys())
@torch.no_grad()
def test_vq_autoencoder_gives_the_same_latents_codes_and_pictures(config: AutoencoderConfig) -> None:
    ours, theirs = pair(config)
    images = pictures(config)
    z, expected = ours.encode(images).mode(), theirs.encode(images).latents
    torch.testing.assert_close(z, expected, atol=TOLERANCE, rtol=TOLERANCE)
    z = torch.randn(z.shape) * 0.1
    _, _, (_, _, indices) = theirs.quantize(z)
    assert ours.quantize is not None
    assert torch.equal(ours.quantize.nearest(z).flatten(), indices)
    assert indices.unique().numel() > 3
    torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, atol=TOLERANCE, rtol=TOLERANCE)
    plain = theirs.decode(z, force_not_quantize=True).sample
    torch.testing.assert_close(ours.decode(z, quantize=False), plain, atol=TOLERANCE, rtol=TOLERANCE)


def test_quantiser_loss_is_that_of_the_non_legacy_layer() -> None:
    ours, theirs = pair(VQ_CASES["f4"])
    assert ours.quantize is not None
    theirs.quantize.legacy = False
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    mine, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = ours.quantize(mine).loss()
    _, expected, _ = theirs.quantize(other)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(mine.grad, other.grad)
    torch.testing.assert_close(ours.quantize.embedding.weight.grad, theirs.quantize.embedding.weight.grad)
