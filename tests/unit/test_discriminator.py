"""The patch discriminator and its losses against closed forms."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss

REAL = torch.tensor([2.0, 0.5, -1.0, 1.0]).view(1, 1, 2, 2)
FAKE = torch.tensor([-3.0, -0.5, 0.0, 1.0]).view(1, 1, 2, 2)


@pytest.mark.parametrize(("layers", "parameters"), [(2, 663_361), (3, 2_765_633)])
def test_size_of_the_published_network(layers: int, parameters: int) -> None:
    with torch.device("meta"):
        discriminator = PatchDiscriminator(64, layers)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_one_verdict_sees_as_many_pixels_as_the_paper_says(layers: int, field: int) -> None:
    discriminator = PatchDiscriminator(8, layers, norm="group").eval()
    for i, part in enumerate(discriminator.main):
        if isinstance(part, nn.GroupNorm):
            discriminator.main[i] = nn.Identity()
    images = torch.randn(1, 3, 128, 128, requires_grad=True)
    verdicts = discriminator(images)
    verdicts[0, 0, verdicts.shape[2] // 2, verdicts.shape[3] // 2].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min() + 1) == field


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_options_reach_their_destination_and_weights_start_small(norm: str, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(32, 2, norm=norm, image_channels=5)
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in discriminator.modules() if isinstance(m, kind)]
    assert [c.in_channels for c in convolutions] == [5, 32, 64, 128]
    assert len(norms) == 2
    for convolution in convolutions:
        assert float(convolution.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    for layer in norms:
        assert float(layer.weight.detach().mean()) == pytest.approx(1.0, abs=0.01)
        assert not layer.bias.detach().any()
    assert discriminator(torch.zeros(2, 5, 32, 48)).shape == (2, 1, 6, 10)


def test_group_norm_judges_each_picture_alone() -> None:
    discriminator = PatchDiscriminator(16, 2, norm="group")
    images = torch.randn(3, 3, 24, 24)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]))


def test_hinge_loss_is_its_closed_form() -> None:
    expected = 0.5 * ((0.0 + 0.5 + 2.0 + 0.0) / 4 + (0.0 + 0.5 + 1.0 + 2.0) / 4)
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx(expected)


def test_vanilla_loss_is_cross_entropy() -> None:
    real = [math.log1p(math.exp(-v)) for v in REAL.flatten().tolist()]
    fake = [math.log1p(math.exp(v)) for v in FAKE.flatten().tolist()]
    expected = 0.5 * (sum(real) + sum(fake)) / 4
    assert discriminator_loss(REAL, FAKE, "vanilla").item() == pytest.approx(expected)


def test_generator_loss_is_minus_the_mean_verdict() -> None:
    assert generator_loss(FAKE).item() == pytest.approx(2.5 / 4)


def test_adaptive_weight_balances_the_gradients() -> None:
    layer = nn.Parameter(torch.tensor([3.0, 4.0]))
    rec, gan = 6.0 * layer.sum(), (2.0 * layer).sum()
    weight = adaptive_weight(rec, gan, layer)
    assert weight.item() == pytest.approx(6 * math.sqrt(2) / (2 * math.sqrt(2) + 1e-4), rel=1e-6)
    assert not weight.requires_grad
    (rec + weight * gan).backward()
    assert layer.grad is not None
    torch.testing.assert_close(layer.grad, torch.full((2,), 6.0 + 2.0 * weight.item()))


def test_adaptive_weight_is_clamped() -> None:
    layer = nn.Parameter(torch.ones(2))
    assert adaptive_weight(1e9 * layer.sum(), 0.0 * layer.sum(), layer).item() == 1e4
    assert adaptive_weight(0.0 * layer.sum(), layer.sum(), layer).item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "channels 64, layers 0, norm 'batch'"),
        ({"channels": 0}, "channels 0, layers 3"),
        ({"channels": 12, "norm": "group"}, "channels 12, layers 3, norm 'group'"),
        ({"norm": "layer"}, "norm is 'layer'; needed: 'batch' or 'group'"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PatchDiscriminator(**options)


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss is 'wgan'; needed: 'hinge' or 'vanilla'"):
        discriminator_loss(REAL, FAKE, "wgan")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_picture_gives_one_verdict_and_smaller_ones_are_refused(layers: int) -> None:
    discriminator = PatchDiscriminator(8, layers, norm="group")
    side = 3 * 2**layers
    assert discriminator.main(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(
        ShapeError, match=f"{side}×{side - 1}; a discriminator of {layers} layers needs at least {side}"
    ):
        discriminator(torch.zeros(1, 3, side, side - 1))
