"""Perceptual distance: two pictures are near when a trained eye sees the same in them.

Pixel losses alone give blurred pictures, because the mean of all sharp candidates is blurred. Here both pictures go
through a frozen ImageNet network and the inner maps are compared, as LPIPS does on VGG.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.efficientnet import EfficientNetLite0, check_stages
from sfumato.tensors import Images, PerRow

_NORM_EPS = 1e-4


class PerceptualLoss(nn.Module):
    """Distance of pictures in the inner maps of EfficientNet-Lite0.

    d(a, b) = sum_s w_s mean_{h,w} sum_c (f_s(a) / |f_s(a)| - f_s(b) / |f_s(b)|)^2  ([zhang2018] eq. 1, with one fixed
    weight a stage instead of learned channel weights).

    Args:
        network: The frozen network; loaded from its package when not given.
        stages: Which inner maps are compared, ascending, 0 to 7. Low ones see edges and texture at high resolution,
            high ones see objects; the cost grows with the last one chosen.
        weights: One factor ≥ 0 per stage; by default equal and summing to 1, so that the loss keeps its scale whatever
            stages are chosen.

    Raises:
        ConfigError: If stages and weights do not fit each other or are out of range.
    """

    def __init__(
        self,
        network: EfficientNetLite0 | None = None,
        stages: Sequence[int] = (0, 2, 3, 4),
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_stages(stages)
        weights = [1.0 / len(stages)] * len(stages) if weights is None else list(weights)
        if len(weights) != len(stages) or min(weights) < 0:
            raise ConfigError(
                f"weights is {tuple(weights)} for the stages {tuple(stages)}; needed: one number ≥ 0 per stage.",
                field="weights",
            )
        self.network = EfficientNetLite0.pretrained() if network is None else network
        self.network.requires_grad_(False)
        self.stages, self.weights = tuple(stages), tuple(weights)

    def maps(self, images: Images) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return the compared maps: inner maps with unit length over the channels."""
        return [_unit(features) for features in self.network.stages(images, self.stages)]

    def forward(self, images: Images, target: Float[Tensor, "_b 3 _H _W"]) -> PerRow:
        """Measure the distance of each picture from its target.

        Args:
            images: Pictures in [-1, 1]; gradients flow into these.
            target: Pictures to be reached, same shape; no gradient.

        Returns:
            Distances ≥ 0, one per picture, `(b,)`.

        Raises:
            ShapeError: If the two shapes differ.
        """
        if images.shape != target.shape:
            raise ShapeError(
                f"images are {tuple(images.shape)}, target is {tuple(target.shape)}; needed: equal shapes."
            )
        with torch.no_grad():
            wanted = self.maps(target)
        distance = images.new_zeros(images.shape[0])
        for weight, a, b in zip(self.weights, self.maps(images), wanted, strict=True):
            distance = distance + weight * (a - b).square().sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Divide each pixel's feature vector by its length."""
    return features * (features.square().sum(dim=1, keepdim=True) + _NORM_EPS).rsqrt()
