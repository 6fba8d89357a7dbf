"""Write pictures that carry their recipe, and read it back.

Two text chunks: `sfumato` holds everything needed to draw the picture again, as JSON; `parameters` says the same in the
form that other tools show to their users. The same picture and recipe always give the same bytes: no date, no name of
the machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import ConfigError, StorageError, UnreadableImage
from sfumato.formats.atomic import atomic_write_new, nearest_existing

RECIPE_VERSION = 1

# The names under which other tools list the same samplers.
SAMPLER_TITLES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "plms": "PLMS",
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "heun": "Heun",
    "dpm++2m": "DPM++ 2M",
    "dpm++2m-sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
# What stands in a recipe where it is not the usual, so that all other pictures keep the bytes of versions without it.
UNUSUAL_TITLES = {
    "spacing": "Schedule type",
    "eta": "Eta",
    "guidance_rescale": "CFG Rescale",
    "guidance_interval": "CFG interval",
}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def parameters_text(recipe: Mapping[str, Any]) -> str:
    """Write a recipe in the `parameters` form that other tools show.

    Args:
        recipe: As `encode_png` takes it.

    Returns:
        The prompt, a `Negative prompt:` line when there is one, and one line of `Key: value` pairs.
    """
    request = recipe["request"]
    pairs = {
        "Steps": request["steps"],
        "Sampler": SAMPLER_TITLES.get(request["sampler"], request["sampler"]),
        "CFG scale": f"{request['guidance_scale']:g}",
        "Seed": request["seed"],
        "Size": request["size"],
        "Model hash": recipe["base"]["hash"][:10],
        "Model": recipe["base"]["name"],
    }
    if "init_image" in recipe:
        pairs["Denoising strength"] = f"{request['strength']:g}"
    for key, title in UNUSUAL_TITLES.items():
        if key in request:
            pairs[title] = request[key]
    pairs["RNG"] = "CPU"
    if recipe["concepts"]:
        names = ", ".join(f"{Path(used['path']).stem}: {used['hash'][:12]}" for used in recipe["concepts"])
        pairs["Lora hashes"] = names
    pairs["Version"] = f"sfumato {recipe['sfumato']}"
    lines = [request["prompt"]]
    if request["negative_prompt"]:
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items()))
    return "\n".join(lines)


def encode_png(picture: Image.Image, recipe: Mapping[str, Any]) -> bytes:
    """Encode a picture with its recipe inside.

    Args:
        picture: The picture, 8 bits a channel.
        recipe: `version`, `sfumato`, `torch`, `request` (of this one picture), `base` and `concepts` with hashes, and
            `init_image` and `mask` with hashes where they were used.

    Returns:
        The bytes of the PNG file.
    """
    chunks = PngInfo()
    chunks.add_text("parameters", parameters_text(recipe))
    chunks.add_text("sfumato", json.dumps(recipe, sort_keys=True, separators=(",", ":")))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=chunks, compress_level=6)
    return buffer.getvalue()


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe inside a picture.

    Args:
        path: A PNG that sfumato wrote.

    Returns:
        The recipe, as `encode_png` took it.

    Raises:
        UnreadableImage: The file is missing or no picture.
        ConfigError: The picture carries no recipe, or one of another version of the form.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get("sfumato")
    except FileNotFoundError as error:
        raise UnreadableImage(f"{path} does not exist; a PNG was needed.", hint="Check the path.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage(f"{path} is not a readable picture: {error}.", hint="A PNG was needed.") from error
    if text is None:
        raise ConfigError(
            f"{path} carries no recipe.", hint="Only PNGs written by sfumato do; editors and chat programs remove it."
        )
    try:
        recipe = json.loads(text)
        version = recipe["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"The recipe in {path} is damaged.", hint="Use the picture as sfumato wrote it.") from error
    if version != RECIPE_VERSION:
        raise ConfigError(
            f"The recipe in {path} has form {version}; this sfumato reads form {RECIPE_VERSION}.",
            hint="Use the version of sfumato that wrote it.",
        )
    return dict(recipe)


def check_folder(folder: Path) -> None:
    """Refuse a place where no picture could be written, before time is spent on one; nothing is made there.

    Args:
        folder: Where pictures are to go; it need not exist.

    Raises:
        StorageError: A file is in the way, or nothing may be written there.
    """
    try:
        nearest = nearest_existing(folder)
        if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
            return
        problem = "nothing may be written there" if nearest.is_dir() else "a file is in the way"
    except OSError as error:
        nearest, problem = folder, error.strerror or str(error)
    raise StorageError(
        f"Pictures cannot be written to '{folder}': '{nearest}': {problem}.",
        field="output",
        hint="Name another folder with -o. Nothing was drawn.",
    )


def place_picture(folder: Path, stem: str, data: bytes) -> Path:
    """Write a PNG under a name that is free, or leave it where the very same bytes lie already.

    Another process may take a name at the same moment: no file that is there is ever replaced.

    Args:
        folder: Where to; made when it is missing.
        stem: Wanted name without ending; `-2`, `-3` … is added when another picture has it.
        data: The bytes of the PNG.

    Returns:
        The path of the file.

    Raises:
        StorageError: The file cannot be written.
    """
    number = 1
    while True:
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        if (not path.exists() and atomic_write_new(path, data)) or _holds(path, data):
            return path
        number += 1


def _holds(path: Path, data: bytes) -> bool:
    """Say whether a file holds these very bytes; one that cannot be read is another."""
    try:
        return path.is_file() and path.read_bytes() == data
    except OSError:
        return False


def _quoted(value: str) -> str:
    """Quote a value that holds a separator."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value
