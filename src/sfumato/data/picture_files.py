"""Read picture files: every one that cannot be used is named, with the reason."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from sfumato.errors import EmptyDataset, UnreadableImage

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_image(path: Path, ground: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Read a picture as RGB, upright as the camera meant it, transparent parts filled.

    Args:
        path: The file.
        ground: Colour behind transparent parts.

    Returns:
        The picture, mode RGB.

    Raises:
        UnreadableImage: The file is missing, no picture, or damaged.
    """
    picture = ImageOps.exif_transpose(_load(path))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Image.new("RGBA", above.size, (*ground, 255))
        picture.alpha_composite(above)
    return picture.convert("RGB")


def read_mask(path: Path) -> Image.Image:
    """Read a mask: grey values, white where something is drawn anew; transparent parts count as black.

    Args:
        path: The file.

    Returns:
        The mask, mode L.

    Raises:
        UnreadableImage: The file is missing, no picture, or damaged.
    """
    return read_image(path, ground=(0, 0, 0)).convert("L")


def picture_files(folder: Path) -> list[Path]:
    """List the pictures in a folder, sorted by name; hidden files and folders within are left out.

    Args:
        folder: The folder.

    Returns:
        At least one path.

    Raises:
        EmptyDataset: The folder is missing, no folder, or holds no picture.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise EmptyDataset(f"'{folder}' {kind}; a folder with pictures was needed.", hint="Check the path.")
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    pictures = [entry for entry in entries if entry.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise EmptyDataset(
            f"'{folder}' holds no picture ({len(entries)} files); needed: at least one of "
            f"{', '.join(suffix[1:] for suffix in PICTURE_SUFFIXES)}.",
            hint="Put 3 to 5 pictures of the subject there.",
        )
    return pictures


def _load(path: Path) -> Image.Image:
    """Open a file and decode it whole, so that damage shows here and not later."""
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened.copy()
    except FileNotFoundError as error:
        raise UnreadableImage(f"'{path}' does not exist; a picture was needed.", hint="Check the path.") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"'{path}' is no picture that can be read.", hint="Needed: PNG, JPEG, WebP or another common format."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(
            f"'{path}' is a damaged picture: {str(error).rstrip('.')}.", hint="Copy or save it again."
        ) from error
