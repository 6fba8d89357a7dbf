"""Pictures of the user: read safely, oriented, cropped to size, turned into tensors.

Whatever is wrong with a file is said once, with its name; a picture is never silently skipped, stretched or cut short.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from sfumato.data.findings import refusal, unopened
from sfumato.errors import ConfigError, DataError, EmptyDataset, UnreadableImage

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp")
MASK_ENDINGS = (".mask.png", "-masklabel.png")
"""What follows the name of a picture in that of its mask: ours, and OneTrainer's."""

_NO_PICTURES = (*MASK_ENDINGS, "-condlabel.png")
"""Files beside pictures that are none of their own: masks, and what OneTrainer conditions on."""

MAX_PIXELS = 100_000_000
"""Pictures with more pixels are refused before they are decoded: a small file can unpack to any size."""

READING = 2
"""Raised when the bytes of a picture or mask come to be read as other pixels: what is kept was made of the old ones.

2: by colour profiles, and see-through parts of masks mark nothing."""

SCALE_DOWN = "Scale it down first."
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_WHITE = (255, 255, 255)
_WITH_PROFILE = ("RGB", "RGBA", "CMYK")
"""Colour modes that a profile is used for."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by the number that the camera noted; 1 is upright."""


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        rgb: Its colours, see-through parts filled.
        alpha: How solid each pixel is, 0 to 255; `None` when the file has no transparency.
        path: Where it came from.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    path: Path


def require_folder(folder: Path) -> None:
    """Refuse a path that is no folder.

    Raises:
        DataError: The folder does not exist, is a file or lies where nothing can be read.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise refusal(unopened(folder, error)) from error
    if not is_folder:
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; a folder of pictures is needed.", hint="Check the path.")


def is_picture(path: Path) -> bool:
    """Say whether a file's name is that of a picture that is read; masks are no pictures."""
    return path.suffix.lower() in EXTENSIONS and not is_beside(path)


def is_mask(path: Path) -> bool:
    """Say whether a file's name is that of a mask beside a picture."""
    return path.name.lower().endswith(MASK_ENDINGS)


def is_beside(path: Path) -> bool:
    """Say whether a file's name is that of something beside a picture that is none of its own, such as a mask."""
    return path.name.lower().endswith(_NO_PICTURES)


def list_images(folder: Path | str) -> list[Path]:
    """List the pictures of a folder, sorted by name, without those in folders below it.

    Args:
        folder: The folder.

    Returns:
        Files that end in .png, .jpg, .jpeg, .jfif, .webp or .bmp in upper or lower case; hidden files and masks are
        left out.

    Raises:
        DataError: The folder does not exist, is a file or cannot be read.
        EmptyDataset: There is no picture in it.
    """
    folder = Path(folder)
    require_folder(folder)
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
        found = sorted(path for path in entries if is_picture(path) and path.is_file())
    except OSError as error:
        raise refusal(unopened(folder, error)) from error
    if not found:
        raise EmptyDataset(
            f"{folder} holds no pictures ({len(entries)} other entries); files ending in {', '.join(EXTENSIONS)} "
            "are read.",
            hint="Put 3 to 5 pictures of the subject there.",
        )
    return found


def load_image(path: Path | str, fill: tuple[int, int, int] = _WHITE) -> Picture:
    """Read a picture, turned the way the camera was held.

    Colours are those of sRGB: a picture with a profile of other colours, such as a telephone's, is converted by it.

    Why the alpha is kept: a subject on a transparent ground can be put before other grounds.

    Args:
        path: A PNG, JPEG, WebP or BMP file; of an animation the first frame is taken.
        fill: Colour that shows through where the picture is transparent, 0 to 255 each.

    Returns:
        The picture.

    Raises:
        DataError: The file does not exist or is a folder.
        UnreadableImage: It is no picture, is damaged or cut short, or has too many pixels.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"The picture {path} {what}.", hint="Check the path.")
    with explained(path), Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise UnreadableImage(
                f"{path} has {opened.width} × {opened.height} pixels; at most {MAX_PIXELS} are read.",
                hint=SCALE_DOWN,
            )
        opened.load()
        turn = _UPRIGHT.get(orientation(opened))
        image = _in_srgb(opened if turn is None else opened.transpose(turn))
        if not image.has_transparency_data:
            return Picture(_to_rgb(image), None, path)
        solid = image.convert("RGBA")
    ground = Image.new("RGBA", solid.size, (*fill, 255))
    rgb = Image.alpha_composite(ground, solid).convert("RGB")
    return Picture(np.asarray(rgb), np.asarray(solid.getchannel("A")), path)


def orientation(image: Image.Image) -> int:
    """Return how the camera was held, 1 to 8 as EXIF counts; 1, upright, where nothing that can be read says more.

    Why nothing is raised: the pixels of a picture with a damaged EXIF block are sound.
    """
    try:
        number = image.getexif().get(_ORIENTATION, 1)
        return int(number) if number in _UPRIGHT else 1
    except Exception:  # a parser of damaged bytes may end in any of them
        return 1


def colour_profile(image: Image.Image) -> str | None:
    """Name the profile by which the colours of a picture are converted to sRGB.

    Returns:
        Such as `Display P3`; `None` where its colours are read as they are, since there is no profile, it is that of
        sRGB or cannot be read, or the picture is of greys or of a palette.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in _WITH_PROFILE:
        return None
    try:
        name = ImageCms.getProfileDescription(_opened(profile)).strip()
    except (ImageCms.PyCMSError, OSError, TypeError):
        return None
    return None if name.lower().startswith("srgb") else name


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert a picture by its profile; it stays as it is where that cannot be done."""
    if colour_profile(image) is None:
        return image
    source = image.convert("RGBA") if image.has_transparency_data else image
    mode = "RGBA" if source.mode == "RGBA" else "RGB"
    try:
        made = ImageCms.profileToProfile(
            source, _opened(image.info["icc_profile"]), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except ImageCms.PyCMSError:
        return image
    return image if made is None else made


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    """Open a profile that lies in a picture."""
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def crop_box(width: int, height: int, aspect: float = 1.0) -> tuple[int, int, int, int]:
    """Return the largest centred box of an aspect ratio: left, top, right, bottom in pixels.

    Args:
        width: Width of the picture.
        height: Height of the picture.
        aspect: Width divided by height of the box.
    """
    box_width = min(width, max(1, round(height * aspect)))
    box_height = min(height, max(1, round(box_width / aspect)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def resize(
    pixels: UInt8[np.ndarray, "H W 3"],
    width: int,
    height: int | None = None,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> UInt8[np.ndarray, "height_out width_out 3"]:
    """Crop the middle to the wanted proportions and scale it.

    Args:
        pixels: The picture.
        width: Width of the result, in pixels.
        height: Height of the result; `None` makes a square.
        resampling: Lanczos keeps pictures sharp; with `BOX` no pixel takes from outside its own area, so that black
            parts of a mask stay black.

    Returns:
        The picture in the new size.

    Raises:
        ConfigError: A side is smaller than 1.
    """
    height = width if height is None else height
    if width < 1 or height < 1:
        raise ConfigError(
            f"A picture of {width} × {height} pixels was asked for; each side needs 1 or more.", field="size"
        )
    image = Image.fromarray(pixels)
    box = crop_box(image.width, image.height, width / height)
    return np.asarray(image.crop(box).resize((width, height), resampling))


def to_tensor(pixels: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 H W"]:
    """Return the picture as float32 in [-1, 1], channels first."""
    copied = torch.from_numpy(np.array(pixels))
    return copied.permute(2, 0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_pixels(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture in [-1, 1] as bytes; values outside are clipped. Undoes `to_tensor` exactly."""
    scaled = image.detach().to("cpu", torch.float32).add(1.0).mul(127.5).round().clamp(0, 255)
    pixels = scaled.to(torch.uint8).permute(1, 2, 0).contiguous()
    return np.asarray(pixels)


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def load_tensor(path: Path | str, size: int, fill: tuple[int, int, int] = _WHITE) -> Float[Tensor, "3 size size"]:
    """Read a picture, crop its middle square and scale it.

    Args:
        path: The file.
        size: Width and height of the result, in pixels.
        fill: Colour behind transparent parts.

    Returns:
        The picture in [-1, 1].

    Raises:
        DataError: The file does not exist.
        UnreadableImage: It cannot be read.
    """
    return to_tensor(resize(load_image(path, fill).rgb, size))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever the decoder says within the block into one error that names the file.

    Raises:
        UnreadableImage: It is no picture, is damaged or cut short, or has too many pixels.
    """
    hint = "Open it in a picture viewer to check it, save it again as PNG, or take it out of the folder."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size has a limit of ours; damage that matters raises
            yield
    except (UnreadableImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path} has too many pixels: {error}", hint=SCALE_DOWN) from error
    except UnidentifiedImageError as error:
        size = path.stat().st_size
        reason = "it is empty" if size == 0 else f"its {size} bytes are no PNG, JPEG, WebP or BMP"
        raise UnreadableImage(f"{path} is not a readable picture: {reason}.", hint=hint) from error
    except Exception as error:  # damaged bytes make a decoder fail in ways that it does not list
        is_told = isinstance(error, OSError | SyntaxError | ValueError) and str(error)
        reason = str(error).rstrip(".") if is_told else f"its decoder failed ({type(error).__name__}: {error})"
        raise UnreadableImage(f"{path} is not a readable picture: {reason}.", hint=hint) from error


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Convert any colour mode; 16-bit greys are scaled instead of clipped."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32) / 257.0
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))
