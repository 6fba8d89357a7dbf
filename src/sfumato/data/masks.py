"""Masks of pictures: what of a picture is to be learned, from its alpha channel or from a file of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from sfumato.data.findings import finding, refusal
from sfumato.data.images import EXTENSIONS, MASK_ENDINGS, Picture, is_mask, is_picture, load_image, require_folder
from sfumato.data.listing import visible
from sfumato.errors import DataError
from sfumato.events import Finding

MaskSource = Literal["none", "alpha", "file"]

_BLACK = (0, 0, 0)
_MASK_STEMS = (".mask", "-masklabel", "-condlabel")
MOST_LABELS = 16
"""A mask file that is nowhere brighter marks nothing that can be seen: its values may be labels, such as 0 and 1."""


def mask_file(picture: Path) -> Path | None:
    """Return the mask beside a picture: `fox.mask.png` or `fox-masklabel.png` for `fox.jpg`; `None` without one."""
    places = (picture.with_name(f"{picture.stem}{ending}") for ending in MASK_ENDINGS)
    return next((place for place in places if place.is_file()), None)


def find_masks(folder: Path, pictures: Iterable[Path], masks: Path | None = None) -> dict[Path, Path]:
    """Find the mask of every picture of a folder.

    Args:
        folder: The folder.
        pictures: The pictures in it and in folders below.
        masks: A folder of masks, laid out like the folder, where they have the names of their pictures, whatever the
            ending, as kohya's `conditioning_data_dir`; `None` for masks beside the pictures.

    Returns:
        The mask of each picture.

    Raises:
        DataError: A picture has no mask, there is a mask without a picture, or the two folders are one.
    """
    check_mask_folder(folder, masks)
    pictures = list(pictures)
    found, orphans = masks_of(folder, pictures, masks)
    for picture in pictures:
        if picture not in found:
            names = " or ".join(f"{picture.stem}{ending}" for ending in MASK_ENDINGS)
            place = f"beside it: neither {names}"
            if masks is not None:
                place = f"of its name in {masks / picture.parent.relative_to(folder)}"
            raise DataError(
                f"{picture} has no mask {place} (masks is 'file').",
                field="masks",
                hint="Paint one, white where the subject is, or use masks 'none'.",
            )
    for orphan in orphans:
        raise refusal(orphan)
    return found


def check_mask_folder(folder: Path, masks: Path | None) -> None:
    """Refuse a folder of masks that is not there, or is that of the pictures.

    Raises:
        DataError: It does not exist, is a file, or is the folder itself.
    """
    if masks is None:
        return
    require_folder(masks)
    if masks.samefile(folder):
        raise DataError(
            f"mask_folder is {masks}, where the pictures themselves are; needed another folder.",
            field="mask_folder",
            hint="Leave it out for masks beside the pictures, NAME.mask.png.",
        )


def masks_of(folder: Path, pictures: Sequence[Path], masks: Path | None) -> tuple[dict[Path, Path], list[Finding]]:
    """Find the masks of pictures that have one.

    Args:
        folder: The folder.
        pictures: The pictures in it and in folders below.
        masks: A folder of masks, see `find_masks`; `None` for masks beside the pictures.

    Returns:
        The masks by picture, and masks that no picture reads; those beside pictures that are not asked for are none.
    """
    files = visible(folder if masks is None else masks)
    if masks is None:
        beside = {picture: mask for picture in pictures if (mask := mask_file(picture)) is not None}
        others = {(file.parent, file.stem) for file in files if is_picture(file)} - {
            (picture.parent, picture.stem) for picture in pictures
        }
        loose = (file for file in files if is_mask(file) and (file.parent, _owner(file)) not in others)
        return beside, check_masks(loose, set(beside.values()))
    named = {file.with_suffix(""): file for file in reversed(files) if file.suffix.lower() in EXTENSIONS}
    places = {picture: masks / picture.relative_to(folder).with_suffix("") for picture in pictures}
    found = {picture: named[place] for picture, place in places.items() if place in named}
    return found, check_masks(files, set(found.values()))


def check_masks(files: Iterable[Path], read: Collection[Path]) -> list[Finding]:
    """Name masks that no picture reads.

    Args:
        files: Masks; of other files those that are no pictures are left out.
        read: The masks that are read.
    """
    found = []
    for file in files:
        if file in read or file.suffix.lower() not in EXTENSIONS:
            continue
        others = (mask.name for mask in sorted(read) if mask.parent == file.parent and _owner(mask) == _owner(file))
        other = next(others, None)
        why = f"no picture is named '{_owner(file)}'" if other is None else f"'{other}' is read in its place"
        found.append(finding("mask-orphan", file, why))
    return found


def load_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    """Read what a mask marks, 0 to 255: its red channel; where the file is see-through nothing is marked.

    Raises:
        DataError: It does not exist or is a folder.
        UnreadableImage: It cannot be read.
    """
    return load_image(path, _BLACK).rgb[..., 0]


def read_mask(picture: Picture, file: Path | None) -> UInt8[np.ndarray, "H W"]:
    """Read the mask of a picture.

    Args:
        picture: The picture.
        file: What is white in it (in the red channel) is learned; `None`: what is solid in the picture's alpha channel.

    Returns:
        How much each pixel counts, 0 to 255.

    Raises:
        DataError: The picture has no alpha channel, or the mask has another size or leaves nothing.
        UnreadableImage: The file cannot be read.
    """
    path = picture.path
    if file is None:
        if picture.alpha is None:
            raise DataError(
                f"{path} has no transparency, but masks are taken from it (masks is 'alpha').",
                field="masks",
                hint="Save it with a transparent ground, or use masks 'file' or 'none'.",
            )
        mask, file = picture.alpha, path
    else:
        mask = load_mask(file)
    height, width = picture.rgb.shape[:2]
    fault = fault_of(mask, width, height, is_file=file != path)
    if fault is not None:
        raise DataError(
            f"The mask {file} is {fault}.",
            field="masks",
            hint="Save it in the size of its picture, white where the subject is.",
        )
    return mask


def fault_of(mask: UInt8[np.ndarray, "_h _w"], width: int, height: int, *, is_file: bool = True) -> str | None:
    """Say what is wrong with the mask of a picture of a size in pixels, of its alpha if it is no file of its own.

    Returns:
        The fault; `None` if the mask can be used.
    """
    if mask.shape != (height, width):
        return f"{mask.shape[1]} × {mask.shape[0]} pixels, its picture {width} × {height}"
    brightest = int(mask.max())
    if brightest == 0:
        return "black everywhere, nothing would be learned"
    is_faint = is_file and brightest <= MOST_LABELS
    return f"nowhere white (its highest value is {brightest} of 255)" if is_faint else None


def is_named_like_mask(path: Path, pictures: Collection[Path]) -> bool:
    """Say whether a picture is called like the mask of another, with an ending that masks do not have."""
    end = next((end for end in _MASK_STEMS if path.stem.lower().endswith(end)), None)
    if end is None:
        return False
    owner = path.stem[: -len(end)]
    return any(other.parent == path.parent and other.stem == owner for other in pictures)


def _owner(mask: Path) -> str:
    """Return the name, without its ending, of the picture that a mask is for."""
    ending = next((ending for ending in MASK_ENDINGS if mask.name.lower().endswith(ending)), mask.suffix)
    return mask.name[: -len(ending)]
