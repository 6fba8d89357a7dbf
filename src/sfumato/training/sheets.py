"""Put pictures on one sheet, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sfumato.data.images import png_bytes, to_pixels
from sfumato.formats.atomic import atomic_write_bytes

Row = Float[Tensor, "_b 3 H W"]
_GAP = 2


def save_sheet(rows: Sequence[Row], path: Path) -> Path:
    """Write rows of pictures as one PNG.

    Args:
        rows: Pictures in [-1, 1], one entry a row, all of one size.
        path: The PNG.

    Returns:
        The path.

    Raises:
        StorageError: The file could not be written.
    """
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + _GAP), j * (width + _GAP)
            sheet[top : top + height, left : left + width] = to_pixels(picture)
    atomic_write_bytes(path, png_bytes(Image.fromarray(sheet)))
    return path


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in decibels.

    `10 log10(2² / mean squared error)`: the peak of pictures in [-1, 1] is 2.

    Args:
        images: Pictures in [-1, 1].
        target: What they should be.

    Returns:
        `(b,)`.
    """
    errors = (images.clamp(-1, 1) - target).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / errors.clamp(min=1e-10))
