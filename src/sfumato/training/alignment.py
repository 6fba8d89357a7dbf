"""Pull an inner map of the denoiser towards what a trained eye sees in the clean picture.

A denoiser spends much of its training on finding out what is in a picture. Frozen image features know that already, and
the closer the inner map comes to them, the sooner pictures are right ([yu2024] representation alignment; for U-Nets the
middle is the place, [tian2025]).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfumato.models.efficientnet import STAGE_CHANNELS, EfficientNetLite0
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig
from sfumato.tensors import Images, PerRow
from sfumato.training.section import Section

FeatureMap = Float[Tensor, "b _c _h _w"]


class AlignmentConfig(Section):
    """Alignment of the middle of the U-Net to EfficientNet-Lite0.

    Attributes:
        weight: Factor on the term; 0 leaves it out.
        stage: Inner map of EfficientNet-Lite0, 0 to 7; 6 is 32 times smaller than the picture.
        width: Hidden channels of the projector.
    """

    weight: float = Field(default=0.0, ge=0)
    stage: int = Field(default=6, ge=0, le=7)
    width: int = Field(default=256, ge=1)


def build_projector(config: AlignmentConfig, unet: UNetConfig) -> nn.Sequential:
    """Build the small network that reads features from the inner map; it is not part of the result."""
    inner, wanted = unet.channels[-1], STAGE_CHANNELS[config.stage]
    return nn.Sequential(nn.Conv2d(inner, config.width, 1), nn.SiLU(), nn.Conv2d(config.width, wanted, 1))


class Aligner:
    """Makes the wanted features and measures how far the inner map is from them.

    Args:
        config: What is aligned.
        unet: The network; its middle block is observed from here on.
        projector: Reads features from the inner map; learns with the network.
        images: Pictures that mean and spread of each feature are taken from.
    """

    def __init__(self, config: AlignmentConfig, unet: UNet, projector: nn.Module, images: Images) -> None:
        self.config, self.projector = config, projector
        self._eye = EfficientNetLite0.pretrained().to(images.device)
        raw = self._raw(images)
        self._mean, self._std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True) + 1e-6
        self._inner: Tensor | None = None
        unet.mid_block.register_forward_hook(self._keep)

    @torch.no_grad()
    def features(self, images: Images) -> FeatureMap:
        """Return what the inner map of these pictures should tell: each feature with mean 0 and spread 1."""
        return (self._raw(images) - self._mean) / self._std

    def distance(self, wanted: FeatureMap) -> PerRow:
        """Measure 1 - cosine between projected inner map and wanted features, mean over the places of each picture.

        Args:
            wanted: `features` of the pictures of the U-Net's last call; brought to the size of the inner map.
        """
        assert self._inner is not None, "the U-Net comes first"
        given: Tensor = self.projector(self._inner).float()
        wanted = F.adaptive_avg_pool2d(wanted.float(), (given.shape[2], given.shape[3]))
        self._inner = None
        return 1 - F.cosine_similarity(given, wanted, dim=1).mean((1, 2))

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Remember the inner map of this call."""
        if torch.is_grad_enabled():
            self._inner = output

    @torch.no_grad()
    def _raw(self, images: Images) -> FeatureMap:
        """Return the features as the network gives them."""
        features: Tensor = self._eye.stages(images, [self.config.stage])[0]
        return features.float()
