"""A folder of the user's pictures as an endless series that is a function of (seed, index)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sfumato.data.caption_files import caption_files, read_caption
from sfumato.data.images import list_images, load_image, resize
from sfumato.data.metadata import read_metadata
from sfumato.errors import ConfigError, DataError
from sfumato.runtime.seeding import derive_seed

HELD_OUT_SHARE = 0.05
SPLITS = ("train", "held_out", "all")


@dataclass(frozen=True)
class FolderPicture:
    """One picture, cropped to a square, with its caption."""

    image: UInt8[np.ndarray, "s s 3"]
    caption: str


class FolderSampler:
    """Shows the pictures of a folder round after round, each round in a new order.

    One picture in twenty, chosen by its file name, is held out, so that loss and reconstruction can be measured on
    pictures that were never learned; adding files moves no other picture across that line.

    Args:
        folder: Pictures, with captions in text files of the same name, see `caption_files`.
        seed: Seed of the order and of the flips.
        size: Height and width of the squares, in pixels.
        caption: Caption of pictures that have none, in a text file or in `metadata.jsonl`; `None` makes one necessary.
        flip: Mirror half of the pictures.
        split: `train`, `held_out` or `all`. A folder too small for a held-out picture shows all in every split.

    Attributes:
        listed: All pictures of the folder, sorted by name.
        files: Those of the split.
        held_out: Those that split `train` never shows; none in a folder too small for one.
        uncaptioned: How many of all have no caption of their own.
        problems: What is wrong with `metadata.jsonl` or `metadata.csv`.

    Raises:
        ConfigError: Unknown split.
        DataError: The folder does not exist.
        EmptyDataset: It holds no pictures.
    """

    def __init__(
        self,
        folder: Path | str,
        seed: int,
        size: int,
        *,
        caption: str | None = "",
        flip: bool = False,
        split: str = "train",
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split is {split!r}; needed: one of {', '.join(SPLITS)}.", field="split")
        self.listed = files = list_images(folder)
        held_out = [path for path in files if derive_seed(0, _hashable(path.name)) % 1000 < 1000 * HELD_OUT_SHARE]
        self.held_out = held_out if len(held_out) < len(files) else []
        if split == "all" or not self.held_out:
            self.files = files
        else:
            chosen = set(held_out)
            self.files = [path for path in files if (path in chosen) == (split == "held_out")]
        self._texts, (self._metadata, self.problems) = caption_files(self.listed), read_metadata(Path(folder))
        self.uncaptioned = sum(path not in self._texts and path not in self._metadata for path in self.listed)
        self._seed, self._size, self._caption, self._flip = seed, size, caption, flip
        self._round: tuple[int, list[int]] | None = None

    def scene(self, index: int) -> FolderPicture:
        """Return picture number `index` of the series.

        Raises:
            UnreadableImage: The file is not a readable picture.
            CaptionMissing: It has no caption and none was given for all.
            DataError: Its caption cannot be read, or there are two that differ.
        """
        turn, place = divmod(index, len(self.files))
        if self._round is None or self._round[0] != turn:
            order = np.random.default_rng(derive_seed(self._seed, "data/order", turn)).permutation(len(self.files))
            self._round = (turn, order.tolist())
        path = self.files[self._round[1][place]]
        image = resize(load_image(path).rgb, self._size)
        if self._flip and derive_seed(self._seed, "data/flip", index) % 2:
            image = np.ascontiguousarray(image[:, ::-1])
        return FolderPicture(image, self._said_of(path))

    def faults(self) -> Iterator[str | None]:
        """Read every picture of `listed` and its caption once, whatever the split.

        Yields:
            What keeps each from being learned from, in the order of `listed`; `None` where nothing does.
        """
        for path in self.listed:
            try:
                load_image(path)
                self._said_of(path)
            except DataError as error:
                yield error.message
            else:
                yield None

    def _said_of(self, path: Path) -> str:
        """Read the caption of a picture."""
        return read_caption(path, self._texts.get(path, ()), self._metadata.get(path, "") or self._caption)


def _hashable(name: str) -> str:
    """Return a name as text that has a UTF-8 form, also where the file's name has none."""
    return os.fsencode(name).decode(errors="backslashreplace")
