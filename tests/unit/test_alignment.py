"""Alignment of the denoiser's middle to image features: what is wanted, how far it is, what learns from it."""

from __future__ import annotations

import pytest
import torch

from sfumato.models.efficientnet import STAGE_CHANNELS
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig
from sfumato.training.alignment import Aligner, AlignmentConfig, build_projector

SMALL = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(16, 32),
    blocks_per_level=1,
    attention_downsamples=(2,),
    num_heads=2,
    norm_groups=8,
)


def pictures(count: int, side: int = 64) -> torch.Tensor:
    """Random pictures."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def aligned(weight: float = 1.0) -> tuple[Aligner, UNet]:
    """A U-Net with an aligner."""
    torch.manual_seed(0)
    unet = UNet(SMALL)
    config = AlignmentConfig(weight=weight, width=8)
    return Aligner(config, unet, build_projector(config, SMALL), pictures(8)), unet


def test_features_have_mean_0_and_spread_1_on_the_reference_pictures() -> None:
    aligner, _ = aligned()
    features = aligner.features(pictures(8))
    assert features.shape == (8, STAGE_CHANNELS[6], 2, 2)
    assert float(features.mean((0, 2, 3)).abs().max()) < 1e-4
    assert float((features.std((0, 2, 3)) - 1).abs().max()) < 1e-2


def test_distance_is_0_for_what_the_projector_says_and_2_for_the_opposite() -> None:
    aligner, unet = aligned()
    seen: list[torch.Tensor] = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    x_t = torch.randn(3, 4, 8, 8)
    for sign, expected in ((1.0, 0.0), (-1.0, 2.0)):
        unet(x_t, torch.tensor([1, 2, 3]))
        wanted = sign * aligner.projector(seen[-1]).detach()
        assert aligner.distance(wanted).tolist() == pytest.approx([expected] * 3, abs=1e-5)


def test_what_lies_before_the_middle_learns_and_what_lies_behind_does_not() -> None:
    aligner, unet = aligned()
    unet(torch.randn(2, 4, 8, 8), 5)
    aligner.distance(aligner.features(pictures(2))).mean().backward()
    assert unet.conv_in.weight.grad is not None and bool(unet.conv_in.weight.grad.any())
    assert unet.conv_out.weight.grad is None
    assert all(weight.grad is not None for weight in aligner.projector.parameters())


def test_descending_the_distance_brings_the_map_nearer() -> None:
    aligner, unet = aligned()
    wanted, x_t = aligner.features(pictures(4)), torch.randn(4, 4, 8, 8)
    optimizer = torch.optim.Adam([*unet.parameters(), *aligner.projector.parameters()], lr=3e-3)
    values = []
    for _ in range(100):
        unet(x_t, 5)
        loss = aligner.distance(wanted).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[0] > 0.8 and values[-1] < 0.5 * values[0]


def test_a_pass_without_gradients_is_not_kept() -> None:
    aligner, unet = aligned()
    with torch.no_grad():
        unet(torch.randn(1, 4, 8, 8), 5)
    with pytest.raises(AssertionError, match="U-Net comes first"):
        aligner.distance(torch.zeros(1, STAGE_CHANNELS[6], 2, 2))
