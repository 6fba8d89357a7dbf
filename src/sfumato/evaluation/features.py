"""What pictures look like to a frozen network, with the features of real pictures kept on disk.

Thousands of real pictures are looked at for every report and never change, so their features are stored by a hash of
their pixels and of the network: a second report is quick, and a stale value cannot be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.errors import CheckpointError, StorageError
from sfumato.events import Event, Notice, Progress
from sfumato.formats.safe_io import content_hash, read_safetensors, write_safetensors
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.tensors import Images

Picture = UInt8[np.ndarray, "_H _W 3"]
Features = Float[Tensor, "n d"]
Result = TypeVar("Result")
Measuring = Generator[Event, None, Result]
"""Work that tells how far it is and returns a result."""

SIDE = 192
"""Side in pixels at which pictures are looked at: real icons are found across styles 5 points oftener than at 128."""

_CHUNK = 128
_KEY = "features"


class FeatureExtractor:
    """Turns pictures into feature vectors.

    Args:
        network: The eye; by default EfficientNet-Lite0 with its ImageNet weights.
        cache: Folder for the features of real pictures; `None` keeps nothing.
        side: Side in pixels to which pictures are scaled.
        batch_size: Pictures looked at together. Features of a picture do not depend on it beyond rounding.
    """

    def __init__(
        self,
        network: EfficientNetLite0 | None = None,
        cache: Path | None = None,
        *,
        side: int = SIDE,
        batch_size: int = 2,
    ) -> None:
        self.network = network or EfficientNetLite0.pretrained()
        self.side, self.batch_size = side, batch_size
        self._cache = cache

    @torch.no_grad()
    def look(self, pictures: Iterable[Picture]) -> Float[Tensor, "n 1280"]:
        """Return the features of pictures, one row each.

        Args:
            pictures: RGB pictures of one size.
        """
        rows = [self.network(_scaled(batch, self.side)) for batch in _chunks(pictures, self.batch_size)]
        return torch.cat(rows) if rows else torch.empty(0, 1280)

    def look_at_real(self, pictures: Iterable[Picture], count: int, phase: str) -> Measuring[Features]:
        """Return the features of real pictures, from disk where they have been seen before.

        Args:
            pictures: RGB pictures of one size; made one by one, so that they need not fit into memory.
            count: How many there are.
            phase: What the progress is called.

        Yields:
            `Progress`; one `Notice` if the features cannot be kept.

        Returns:
            Features, `(count, 1280)`.
        """
        rows: list[Tensor] = []
        done = 0
        for chunk in _chunks(pictures, _CHUNK):
            file = self._file(chunk)
            features = _read(file)
            if features is None:
                features = self.look(chunk)
                yield from self._keep(file, features)
            rows.append(features)
            done += len(chunk)
            yield Progress(phase, done, count)
        return torch.cat(rows) if rows else torch.empty(0, 1280)

    @cached_property
    def _identity(self) -> str:
        """The hash of the network's weights."""
        return content_hash(dict(self.network.state_dict()))

    def _file(self, chunk: list[Picture]) -> Path | None:
        """Name the file for the features of some pictures."""
        if self._cache is None:
            return None
        digest = hashlib.sha256(f"{self._identity}/{self.side}".encode())
        for picture in chunk:
            digest.update(str(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).data)
        return self._cache / f"{digest.hexdigest()[:32]}.safetensors"

    def _keep(self, file: Path | None, features: Tensor) -> Iterator[Event]:
        """Store features; a place that cannot be written costs time, not the report."""
        if file is None:
            return
        try:
            write_safetensors(file, {_KEY: features})
        except StorageError as error:
            self._cache = None
            yield Notice(0, f"Features of real pictures are not kept for the next report. {error.message}")


def _scaled(batch: list[Picture], side: int) -> Images:
    """Stack pictures and scale them to the side at which they are looked at."""
    images = torch.stack([to_tensor(picture) for picture in batch])
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)


def _read(file: Path | None) -> Tensor | None:
    """Read stored features; a damaged file counts as none."""
    if file is None or not file.is_file():
        return None
    try:
        return read_safetensors(file)[_KEY]
    except (CheckpointError, KeyError):
        return None


def _chunks(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Cut a stream into lists."""
    stream = iter(pictures)
    while chunk := list(islice(stream, size)):
        yield chunk
