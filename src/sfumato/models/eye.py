"""What a frozen ImageNet network sees in a picture, place by place: the input of the dual encoder's picture side.

A globally pooled vector forgets where things are, so that "left of" and "right of" look the same. Here the picture is
seen as a small grid of cells, each with maps from several depths and with its mean colour (which the deep maps hardly
keep), and one vector for the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.models.efficientnet import STAGE_CHANNELS, STAGE_STRIDES, EfficientNetLite0, check_stages
from sfumato.tensors import Images

Picture = UInt8[np.ndarray, "_H _W 3"]

_LAST_STAGE = len(STAGE_CHANNELS) - 1


@dataclass(frozen=True)
class EyeConfig:
    """How a picture is looked at.

    Args:
        side: Side in pixels to which pictures are scaled; a multiple of 32.
        stages: Stages of EfficientNet-Lite0 whose maps are kept, ascending; the last one must be among them.
        grid: Cells along each side.

    Raises:
        ConfigError: A value is out of range.
    """

    side: int = 192
    stages: tuple[int, ...] = (3, 5, 7)
    grid: int = 6

    def __post_init__(self) -> None:
        check_stages(self.stages)
        if self.stages[-1] != _LAST_STAGE:
            raise ConfigError(
                f"stages ends with {self.stages[-1]}; the vector of the whole picture is made from stage "
                f"{_LAST_STAGE}, which must be the last.",
                field="stages",
            )
        stride = STAGE_STRIDES[-1]
        if self.side < stride or self.side % stride:
            raise ConfigError(
                f"side is {self.side}; the network needs a multiple of {stride} pixels, such as 192.", field="side"
            )
        if not 1 <= self.grid <= self.side // stride:
            raise ConfigError(
                f"grid is {self.grid}; the last map of a picture of {self.side} pixels has {self.side // stride} cells "
                "along each side, so a number from 1 to that is needed.",
                field="grid",
            )

    @property
    def cell_channels(self) -> int:
        """Numbers per cell: the maps, and red, green and blue."""
        return 3 + sum(STAGE_CHANNELS[stage] for stage in self.stages)


class Sights(NamedTuple):
    """What was seen in some pictures."""

    cells: Float[Tensor, "n c g g"]
    """Every cell of the grid."""
    whole: Float[Tensor, "n 1280"]
    """The picture as a whole."""


class Eye:
    """Looks at pictures; nothing in it learns.

    Args:
        config: How.
        network: The network to look through; by default EfficientNet-Lite0 with its ImageNet weights.
    """

    def __init__(self, config: EyeConfig, network: EfficientNetLite0 | None = None) -> None:
        self.config = config
        self.network = network or EfficientNetLite0.pretrained()

    @torch.no_grad()
    def look(self, images: Images) -> Sights:
        """Look at pictures.

        Args:
            images: Pictures in [-1, 1] of any size.

        Returns:
            Their sights, float32.
        """
        scaled = _scaled(images, self.config.side)
        maps = self.network.stages(scaled, self.config.stages)
        whole = F.relu6(self.network.head(maps[-1])).float().mean(dim=(2, 3))
        cells = [F.adaptive_avg_pool2d(kept.float(), self.config.grid) for kept in (scaled, *maps)]
        return Sights(torch.cat(cells, dim=1), whole)

    def look_at(self, pictures: Sequence[Picture]) -> Sights:
        """Look at pictures given as bytes.

        Args:
            pictures: RGB pictures, at least one; their sizes may differ.
        """
        side = self.config.side
        return self.look(torch.cat([_scaled(_floats(picture), side) for picture in pictures]))


def joined(sights: Sequence[Sights]) -> Sights:
    """Put the sights of several batches behind one another."""
    return Sights(torch.cat([part.cells for part in sights]), torch.cat([part.whole for part in sights]))


def _floats(picture: Picture) -> Images:
    """Return a picture as floats in [-1, 1], a batch of one."""
    copied = torch.from_numpy(np.array(picture))
    return copied.permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)


def _scaled(images: Images, side: int) -> Float[Tensor, "b 3 {side} {side}"]:
    """Scale pictures to the side at which they are looked at."""
    images = images.to(memory_format=torch.channels_last)
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
