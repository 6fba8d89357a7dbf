"""Masks of pictures: what of a picture is to be learned, from its alpha channel or from a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from sfumato.data.images import MASK_ENDINGS, Picture, load_image
from sfumato.errors import DataError

MaskSource = Literal["none", "alpha", "file"]


def mask_file(picture: Path) -> Path | None:
    """Return the mask beside a picture: `fox.mask.png` or `fox-masklabel.png` for `fox.jpg`; `None` without one."""
    places = (picture.with_name(f"{picture.stem}{ending}") for ending in MASK_ENDINGS)
    return next((place for place in places if place.is_file()), None)


def read_mask(picture: Picture, source: Literal["alpha", "file"]) -> UInt8[np.ndarray, "H W"]:
    """Read the mask of a picture.

    Args:
        picture: The picture.
        source: `alpha`: what is solid is learned. `file`: what is white (in the red channel) in the file beside it.

    Returns:
        How much each pixel counts, 0 to 255.

    Raises:
        DataError: There is no mask, it has another size, or it leaves nothing.
        UnreadableImage: The file cannot be read.
    """
    path = picture.path
    if source == "alpha":
        if picture.alpha is None:
            raise DataError(
                f"{path} has no transparency, but masks are taken from it (masks is 'alpha').",
                field="masks",
                hint="Save it with a transparent ground, or use masks 'file' or 'none'.",
            )
        mask = picture.alpha
    else:
        file = mask_file(path)
        if file is None:
            names = " or ".join(f"{path.stem}{ending}" for ending in MASK_ENDINGS)
            raise DataError(
                f"{path} has no mask beside it: neither {names} (masks is 'file').",
                field="masks",
                hint="Paint one, white where the subject is, or use masks 'none'.",
            )
        mask = load_image(file).rgb[..., 0]
        if mask.shape != picture.rgb.shape[:2]:
            raise DataError(
                f"{file} is {mask.shape[1]} × {mask.shape[0]} pixels; its picture {path.name} is "
                f"{picture.rgb.shape[1]} × {picture.rgb.shape[0]}.",
                field="masks",
                hint="Save the mask in the size of the picture.",
            )
        path = file
    if not mask.any():
        raise DataError(
            f"The mask of {path} is black everywhere: nothing would be learned.",
            field="masks",
            hint="Paint white what is to be learned.",
        )
    return mask
