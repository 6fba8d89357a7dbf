"""The adversary of the first stage: it judges patches, so the decoder learns texture, not the mean of textures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import ConfigError, ShapeError

Verdicts = Float[Tensor, "b 1 h w"]

_GROUP_CHANNELS = 16


def smallest_side(layers: int) -> int:
    """Return how many pixels a side a discriminator needs for one verdict, by its layers of stride 2."""
    return 3 << layers


class PatchDiscriminator(nn.Module):
    """PatchGAN: one verdict per overlapping patch, high for real ([isola2017]).

    With three strided layers a verdict sees 70×70 pixels. Keys are those of the `NLayerDiscriminator` of the released
    code (`main.0.weight`, …).

    Args:
        channels: Width of the first layer (`ndf`); doubles per layer up to 8 times.
        layers: Number of strided layers, ≥ 1; the receptive field grows with it. 3 for pictures of 256, 2 for 128.
        norm: `batch` as in the paper, or `group`, which does not depend on the other pictures of the batch.
        image_channels: Channels of the input; more than 3 when a condition is stacked on the pictures.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, channels: int = 64, layers: int = 3, *, norm: str = "batch", image_channels: int = 3) -> None:
        super().__init__()
        if layers < 1 or channels < 1 or (norm == "group" and channels % 8):
            raise ConfigError(
                f"The discriminator has channels {channels}, layers {layers}, norm {norm!r}; needed: layers ≥ 1, "
                "channels ≥ 1, with channels a multiple of 8 for norm 'group'.",
                field="layers" if layers < 1 else "channels",
            )
        if norm not in ("batch", "group"):
            raise ConfigError(f"norm is {norm!r}; needed: 'batch' or 'group'.", field="norm")
        self.layers = layers
        widths = [channels * min(2**n, 8) for n in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            parts += [
                nn.Conv2d(widths[n - 1], widths[n], 4, stride, 1, bias=False),
                _normalisation(norm, widths[n]),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        parts.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.main = nn.Sequential(*parts)
        self.apply(_init)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Verdicts:
        """Judge pictures in [-1, 1].

        Raises:
            ShapeError: If the pictures are too small for one verdict.
        """
        smallest = smallest_side(self.layers)
        if min(images.shape[-2:]) < smallest:
            raise ShapeError(
                f"The pictures are {images.shape[-2]}×{images.shape[-1]}; a discriminator of "
                f"{self.layers} layers needs at least {smallest} pixels a side.",
                hint="Use fewer layers.",
            )
        verdicts: Tensor = self.main(images)
        return verdicts


def discriminator_loss(real: Verdicts, fake: Verdicts, kind: str = "hinge") -> Float[Tensor, ""]:
    """Return the loss of the discriminator.

    hinge: 1/2 (mean max(0, 1 - real) + mean max(0, 1 + fake));
    vanilla: 1/2 (mean softplus(-real) + mean softplus(fake)), which is cross-entropy.

    Args:
        real: Verdicts on real pictures.
        fake: Verdicts on decoded pictures, which must be detached from the decoder.
        kind: `hinge` or `vanilla`.

    Raises:
        ConfigError: If the kind is not known.
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    if kind == "vanilla":
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    raise ConfigError(f"The GAN loss is {kind!r}; needed: 'hinge' or 'vanilla'.", field="gan_loss")


def generator_loss(fake: Verdicts) -> Float[Tensor, ""]:
    """Return the adversarial loss of the decoder, -mean(fake), used with both discriminator losses."""
    return -fake.mean()


def adaptive_weight(
    rec_loss: Float[Tensor, ""], gan_loss: Float[Tensor, ""], last_layer: nn.Parameter
) -> Float[Tensor, ""]:
    """Weigh the adversarial loss so that both losses pull equally hard at the last layer of the decoder.

    w = |grad rec| / (|grad gan| + 1e-4), clamped to [0, 1e4], without gradient ([esser2021], with the 1e-4 of
    its released code where the paper has 1e-6). Costs one extra backward pass through the discriminator.

    Args:
        rec_loss: Reconstruction loss (pixels and perceptual) whose graph holds the last layer.
        gan_loss: Adversarial loss of the decoder.
        last_layer: Weight of the last layer, `Autoencoder.last_layer`.

    Returns:
        The weight, a scalar. Both graphs can still be walked by `backward`.
    """
    (rec_grad,) = torch.autograd.grad(rec_loss, last_layer, retain_graph=True)
    (gan_grad,) = torch.autograd.grad(gan_loss, last_layer, retain_graph=True)
    weight: Tensor = rec_grad.norm() / (gan_grad.norm() + 1e-4)
    return weight.clamp(0.0, 1e4).detach()


def _normalisation(norm: str, channels: int) -> nn.Module:
    """The normalisation of one layer."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, channels // _GROUP_CHANNELS), channels)


def _init(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) and zero bias for norms, as the paper starts."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
