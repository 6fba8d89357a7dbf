"""Open a built training set: its records by split, and its pictures, decoded once and kept while there is room."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sfumato.data.backgrounds import COLOURS
from sfumato.data.primer.build import FORMAT, read_records, vocabulary_hash
from sfumato.errors import DataError, UnreadableImage

SPLITS = ("train", "held_out_pair", "held_out_concept")
_VISIBLE = 12
_RARE = 4


@dataclass(frozen=True)
class IconRecord:
    """One icon of the set; `rare_keywords` add to the label and are shared by at most four concepts."""

    concept: str
    style: str
    label: str
    group: str
    keywords: tuple[str, ...]
    synonyms: tuple[str, ...]
    rare_keywords: tuple[str, ...]
    split: str
    file: str


@dataclass(frozen=True)
class Sprite:
    """A picture cut to what is visible of it.

    Attributes:
        image: Premultiplied colours and alpha (mode `RGBa`).
        left: Column of the cut within the whole picture, in pixels.
        top: Row of the cut.
        frame: Width and height of the whole picture.
        hidden_by: Named colours on which most of it would not be seen.
    """

    image: Image.Image
    left: int
    top: int
    frame: tuple[int, int]
    hidden_by: frozenset[str]


class Primer:
    """A built training set.

    Args:
        folder: The folder that `build_primer` wrote.
        icons: Records of the icons.
        characters: Records of the drawn people, as they stand in `characters.jsonl`.
        manifest: Content of `manifest.json`.
        cache_bytes: Room for decoded pictures.
    """

    def __init__(
        self,
        folder: Path,
        icons: Sequence[IconRecord],
        characters: Sequence[Mapping[str, Any]],
        manifest: Mapping[str, Any],
        cache_bytes: int = 512 * 2**20,
    ) -> None:
        self.folder = folder
        self.icons = tuple(icons)
        self.characters = tuple(characters)
        self.manifest = manifest
        self._cache: OrderedDict[str, Sprite] = OrderedDict()
        self._cache_bytes = cache_bytes
        self.used_bytes = 0  # of the decoded pictures that are kept

    @classmethod
    def open(cls, folder: Path | str, *, cache_bytes: int = 512 * 2**20) -> Primer:
        """Open a folder that `build_primer` has finished.

        Args:
            folder: The folder.
            cache_bytes: Room for decoded pictures; those used longest ago are decoded again.

        Raises:
            DataError: The folder is missing, unfinished, of another format or vocabulary, or a record is damaged.
        """
        folder = Path(folder)
        hint = "Build it with 'sfumato data primer'."
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is not a finished training set: manifest.json cannot be read.", hint=hint
            ) from error
        if manifest.get("format") != FORMAT:
            raise DataError(f"{folder} has format {manifest.get('format')}; this version reads {FORMAT}.", hint=hint)
        if manifest["characters"] and manifest.get("vocabulary") != vocabulary_hash():
            raise DataError(
                f"The characters in {folder} were drawn with another vocabulary than this version has "
                f"(hash {str(manifest.get('vocabulary'))[:8]} instead of {vocabulary_hash()[:8]}).",
                hint="Build the set again with 'sfumato data primer'.",
            )
        records = read_records(folder / "icons.jsonl")
        people = read_records(folder / "characters.jsonl") if manifest["characters"] else []
        try:
            return cls(folder, _icon_records(records), people, manifest, cache_bytes)
        except KeyError as error:
            raise DataError(f"{folder}/icons.jsonl: a record lacks {error}.", hint=hint) from error

    @cached_property
    def by_pair(self) -> dict[tuple[str, str], IconRecord]:
        """Icons by (concept, style)."""
        return {(icon.concept, icon.style): icon for icon in self.icons}

    @cached_property
    def by_file(self) -> dict[str, Mapping[str, Any]]:
        """Records of the drawn people by file."""
        return {person["file"]: person for person in self.characters}

    def icon(self, concept: str, style: str) -> IconRecord:
        """Return one icon.

        Raises:
            DataError: The set has no such concept, or not in this style.
        """
        found = self.by_pair.get((concept, style))
        if found is None:
            styles = sorted(s for c, s in self.by_pair if c == concept)
            known = f"it has the styles {', '.join(styles)}" if styles else "it has no such concept"
            raise DataError(f"The training set {self.folder} has no icon '{concept}' in style '{style}': {known}.")
        return found

    def sprite(self, file: str) -> Sprite:
        """Return a picture of the set, cut to what is visible.

        Args:
            file: Path within the set, as it stands in the records.

        Raises:
            UnreadableImage: The file is missing or damaged.
        """
        if file in self._cache:
            self._cache.move_to_end(file)
            return self._cache[file]
        sprite = _read_sprite(self.folder / file)
        self._cache[file] = sprite
        self.used_bytes += _bytes(sprite)
        while self.used_bytes > self._cache_bytes and len(self._cache) > 1:
            self.used_bytes -= _bytes(self._cache.popitem(last=False)[1])
        return sprite


def _icon_records(records: Sequence[Mapping[str, Any]]) -> list[IconRecord]:
    """Turn JSON records into icon records, and find out which keywords are rare."""
    concepts = {record["concept"]: record["keywords"] for record in records}
    shared = Counter(word for words in concepts.values() for word in words)
    return [
        IconRecord(
            record["concept"],
            record["style"],
            record["label"],
            record["group"],
            tuple(record["keywords"]),
            tuple(record["synonyms"]),
            tuple(w for w in record["keywords"] if shared[w] <= _RARE and not _repeats(w, record["label"])),
            record["split"],
            record["file"],
        )
        for record in records
    ]


def _repeats(word: str, label: str) -> bool:
    """Tell whether a keyword is only a word of the label again, or its plural, as `dogs` for `dog`."""
    return word.rstrip("s") in {part.rstrip("s") for part in label.split()}


def _read_sprite(path: Path) -> Sprite:
    """Decode a picture and cut it to its visible part."""
    try:
        with Image.open(path) as opened:
            whole = opened.convert("RGBA")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UnreadableImage(
            f"{path} of the training set cannot be read: {error}.", hint="Build the set again."
        ) from error
    box = whole.getchannel("A").point(lambda alpha: 255 if alpha > _VISIBLE else 0).getbbox()
    if box is None:
        raise UnreadableImage(f"{path} of the training set is empty: nothing in it is visible.")
    part = whole.crop(box)
    return Sprite(part.convert("RGBa"), box[0], box[1], whole.size, _hidden_by(part))


def _hidden_by(image: Image.Image) -> frozenset[str]:
    """Name the colours that are near to most of the visible pixels."""
    pixels = np.asarray(image.resize((24, 24), Image.Resampling.BOX), dtype=np.float32).reshape(-1, 4)
    visible = pixels[pixels[:, 3] > 127, :3]
    if len(visible) == 0:
        return frozenset()
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    distance = np.linalg.norm(visible[:, None] - palette[None], axis=2)
    near = (distance < 60).mean(axis=0)
    return frozenset(name for name, share in zip(COLOURS, near, strict=True) if share > 0.45)


def _bytes(sprite: Sprite) -> int:
    """Return the memory that a sprite takes."""
    return sprite.image.width * sprite.image.height * 4
