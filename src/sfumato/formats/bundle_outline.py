"""How a base reads captions and in which sizes it takes pictures, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfumato.formats.bundle import Word, find_bundle, read_words
from sfumato.formats.bundle_unet import read_bundle_unet
from sfumato.formats.diffusers_config import read_autoencoder_config
from sfumato.formats.diffusers_unet import read_sample_size
from sfumato.models.tokenizer import Tokenizer
from sfumato.runtime.json_file import naming, read_json


@dataclass(frozen=True)
class BundleOutline:
    """What of a base decides which captions and pictures fit.

    Attributes:
        tokenizer: Text to token ids.
        native_size: Side in pixels of the pictures that it was trained on.
        downsample_factor: Pixels that a side of a picture must be a multiple of.
        words: Words that its weights have learned, beside those of its tokenizer.
    """

    tokenizer: Tokenizer
    native_size: int
    downsample_factor: int
    words: tuple[Word, ...] = ()


def read_bundle_outline(name_or_path: str | Path) -> BundleOutline:
    """Read the tokenizer and the sizes of a base, in a moment; `load_bundle` gives the same with the networks.

    Args:
        name_or_path: `primer`, or a folder in diffusers layout.

    Raises:
        CheckpointError: There is no such base, or a file of it is missing or damaged.
        UnknownFormat: It is something else, or a configuration that our networks cannot follow.
        UnsafeFile: It is a pickle.
    """
    folder, unet = find_bundle(name_or_path), read_bundle_unet(name_or_path)
    file = folder / "vae" / "config.json"
    with naming(file):
        autoencoder = read_autoencoder_config(read_json(file), str(file))
    file = folder / "unet" / "config.json"
    with naming(file):
        side = read_sample_size(read_json(file), str(file))
    return BundleOutline(
        tokenizer=Tokenizer.load(folder / "tokenizer"),
        native_size=side * autoencoder.downsample_factor,
        downsample_factor=autoencoder.downsample_factor * unet.downsample_factor,
        words=read_words(folder),
    )
