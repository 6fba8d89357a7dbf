"""Pictures of one red disc that stands a little elsewhere in each, on grounds from dark to light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_discs(folder: Path, count: int) -> Path:
    """Draw 40×40 pictures `0.png` and on into a folder."""
    y, x = np.mgrid[:40, :40]
    for index in range(count):
        pixels = np.full((40, 40, 3), 60 * index + 60, np.uint8)
        pixels[(y - 20) ** 2 + (x - 18 - index) ** 2 < 120] = (220, 30, 40)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder
