"""Where training pictures come from: a source that gives picture and caption by index, in batches by index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from sfumato.data.backgrounds import SIZE
from sfumato.data.caption_files import caption_files
from sfumato.data.findings import refusal, unopened
from sfumato.data.folder import FolderSampler
from sfumato.data.images import is_picture, list_images
from sfumato.data.listing import visible
from sfumato.data.metadata import METADATA, TABLE
from sfumato.data.primer.library import Primer
from sfumato.data.scenes import SceneConfig, SceneSampler
from sfumato.data.shapes import ShapeSampler
from sfumato.errors import ConfigError, DataError
from sfumato.events import Event, Notice, Progress
from sfumato.runtime.seeding import derive_seed
from sfumato.tensors import Images
from sfumato.training.section import Section, checked_keys

_BITMAP = b"BM"
_END_BYTES = 65_536
_FAULTS_NAMED = 10
_TOLD_EVERY = 32


class DataConfig(Section):
    """Which pictures are learned from.

    Attributes:
        kind: `primer` (scenes composed from the folder that `sfumato data primer` wrote), `folder` (your pictures, with
            captions in text files of the same name or in `metadata.jsonl`) or `shapes` (drawn in code).
        folder: The folder, for `primer` and `folder`.
        seed: Seed of the pictures.
        split: Which part of the pictures may appear: of a primer `train`, `held_out_pair` or `held_out_concept`; of a
            folder `train`, `held_out` or `all`, and validation always shows those that are held out.
        scenes: What the primer's scenes are made of.
        size: Height and width of `shapes` and `folder`, in pixels; the primer's is fixed.
        caption: Caption of the pictures of a `folder` that have none.
        flip: Mirror half of the pictures of a `folder`.
        workers: Processes that compose pictures ahead; 0 composes when needed.
    """

    kind: Literal["primer", "folder", "shapes"] = "primer"
    folder: Path | None = None
    seed: int = 0
    split: str = "train"
    scenes: Annotated[SceneConfig, checked_keys(SceneConfig)] = SceneConfig()
    size: int = Field(default=128, ge=8)
    caption: str = ""
    flip: bool = False
    workers: int = Field(default=1, ge=0, le=16)

    @property
    def side(self) -> int:
        """Height and width of the pictures, in pixels."""
        return SIZE if self.kind == "primer" else self.size


@runtime_checkable
class Picture(Protocol):
    """One picture with its caption."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture, uint8 `(H, W, 3)`."""
        ...

    @property
    def caption(self) -> str:
        """What is there."""
        ...


@runtime_checkable
class Source(Protocol):
    """Anything that gives pictures by index; picture i is always the same."""

    def scene(self, index: int) -> Picture:
        """Return picture number `index`."""
        ...


@dataclass(frozen=True)
class PictureBatch:
    """Some pictures.

    Attributes:
        pixels: uint8 `(b, H, W, 3)`.
        captions: One each.
        ids: A name for each, for messages.
    """

    pixels: NDArray[np.uint8]
    captions: tuple[str, ...]
    ids: tuple[str, ...]

    def images(self) -> Images:
        """Return the pictures as floats in [-1, 1], laid out channels last."""
        pixels = torch.from_numpy(self.pixels).permute(0, 3, 1, 2)
        return pixels.float().div_(127.5).sub_(1.0)


def open_source(config: DataConfig, purpose: str = "") -> Source:
    """Open the pictures of a recipe.

    Args:
        config: Which pictures.
        purpose: A word such as `validation` gives other pictures of the same kind than the training pictures; of a
            folder `validation` gives those that are held out, any other word the training pictures in another order.

    Raises:
        ConfigError: The folder is not given.
    """
    seed = derive_seed(config.seed, purpose) % 2**31 if purpose else config.seed
    if config.kind == "shapes":
        return ShapeSampler(seed, config.size)
    if config.folder is None:
        wanted = "`sfumato data primer OUT` wrote" if config.kind == "primer" else "holds your pictures"
        raise ConfigError(
            f"data.folder is missing; data of kind {config.kind!r} needs the folder that {wanted}.",
            field="data.folder",
            hint="Set it in the recipe or with --set data.folder=OUT.",
        )
    if config.kind == "folder":
        split = "held_out" if purpose == "validation" else config.split
        flip = config.flip and not purpose
        return FolderSampler(config.folder, seed, config.size, caption=config.caption, flip=flip, split=split)
    return SceneSampler(Primer.open(config.folder), seed, config.split, config.scenes)


def number_to_learn(config: DataConfig) -> int | None:
    """Return how many pictures of a folder are learned from; None where pictures do not end.

    Args:
        config: Which pictures.

    Raises:
        SfumatoError: See `open_source`; or the folder cannot be opened.
    """
    source = open_source(config) if config.kind == "folder" else None
    return len(source.files) if isinstance(source, FolderSampler) else None


def check_pictures(config: DataConfig, *, are_captions_read: bool) -> Iterator[Event]:
    """Open the pictures, and read all of a folder with their captions: a broken one would end the run in its midst.

    Args:
        config: Which pictures.
        are_captions_read: Something is learned from their captions.

    Yields:
        `Progress` in pictures of a `folder`; a `Notice` of what lies in it and is not read, of what is held out, and of
        missing captions.

    Raises:
        SfumatoError: See `open_source`; or the folder cannot be opened.
        DataError: Its `metadata.jsonl` is wrong; or some of its pictures cannot be learned from, and the first ten are
            named.
    """
    source = open_source(config)
    if not isinstance(source, FolderSampler):
        return
    for problem in source.problems if are_captions_read else ():
        if problem.severity == "error":
            raise refusal(problem, "data.folder")
    total, faults = len(source.listed), list[str]()
    yield Progress("pictures", 0, total)
    for done, fault in enumerate(source.faults(), 1):
        if fault is not None:
            faults.append(fault.rstrip("."))
        if done % _TOLD_EVERY == 0 or done == total:
            yield Progress("pictures", done, total)
    if not faults:
        yield from _said_of_folder(config, source, are_captions_read=are_captions_read)
        return
    named = "; ".join(faults[:_FAULTS_NAMED])
    more = f"; and {len(faults) - _FAULTS_NAMED} more" if len(faults) > _FAULTS_NAMED else ""
    raise DataError(
        f"{len(faults)} of {total} pictures in {config.folder} cannot be learned from: {named}{more}.",
        field="data.folder",
        hint=f"Mend them or take them out; `sfumato data doctor {config.folder}` says what to do about each.",
    )


def _said_of_folder(config: DataConfig, source: FolderSampler, *, are_captions_read: bool) -> Iterator[Event]:
    """Say which pictures below a folder are not read, and how many of those in it are held out or have no caption."""
    if config.folder is None:
        return
    below = sum(is_picture(path) and path.parent != config.folder for path in visible(config.folder))
    if below:
        yield Notice(0, f"Pictures in folders below {config.folder} are not learned from: {below}. Move them up.")
    bare, total = source.uncaptioned, len(source.listed)
    if source.held_out and config.split == "train":
        kept = len(source.held_out)
        yield Notice(0, f"{kept} of {total} pictures are held out for validation: nothing is learned from them.")
    else:
        yield Notice(0, f"Of {total} pictures none is held out: validation is measured on training pictures.")
    if bare and are_captions_read and not config.caption:
        yield Notice(
            0, f"{bare} of {total} pictures have no caption and are learned with none (data.caption is empty)."
        )


def fingerprint(config: DataConfig) -> Mapping[str, Any]:
    """Return what identifies the pictures, wherever the folder lies."""
    only_for_folders = {"caption": config.caption, "flip": config.flip}
    facts = config.model_dump(mode="json", exclude={"folder", "workers", *only_for_folders})
    if config.kind == "folder" and config.folder is not None:
        facts |= only_for_folders
        facts["files"] = _hash_of_pictures(config.folder)
    manifest = None if config.folder is None else config.folder / "manifest.json"
    if config.kind == "primer" and manifest is not None and manifest.is_file():
        facts["manifest"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return facts


def _hash_of_pictures(folder: Path) -> str:
    """Hash a folder: names and sizes of all pictures, their first and last bytes, and captions.

    Reading a hundred thousand pictures whole would take minutes at every start; packed pictures that differ do so at
    their ends or in size. A bitmap is not packed: it is hashed whole.

    Raises:
        DataError: A file cannot be opened.
    """
    digest = hashlib.sha256()
    pictures = list_images(folder)
    texts = caption_files(pictures)
    for path in pictures:
        with _opening(path), path.open("rb") as file:
            size, head = path.stat().st_size, file.read(_END_BYTES)
            digest.update(os.fsencode(path.name) + f" {size}\n".encode() + head)
            if not head.startswith(_BITMAP):
                file.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(file.read())
        for caption in texts.get(path, ()):
            with _opening(caption):
                digest.update(b"\n" + hashlib.sha256(caption.read_bytes()).digest())
    for name in (METADATA, TABLE):
        if (folder / name).is_file():
            with _opening(folder / name):
                digest.update(b"\n" + hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turn what the system says of a file within the block into a refusal that names the file."""
    try:
        yield
    except OSError as error:
        raise refusal(unopened(path, error), "data.folder") from error


@dataclass(frozen=True)
class PictureBatches:
    """Makes batch number n: pictures `[n·size, (n+1)·size)`. Picklable; the source is opened where it is used.

    Attributes:
        config: Which pictures.
        batch_size: Pictures per batch.
        purpose: See `open_source`.
    """

    config: DataConfig
    batch_size: int
    purpose: str = ""

    def __call__(self, index: int) -> PictureBatch:
        """Return batch number `index`."""
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        scenes = [self._source.scene(number) for number in numbers]
        name = self.purpose or "picture"
        return PictureBatch(
            np.stack([scene.image for scene in scenes]),
            tuple(scene.caption for scene in scenes),
            tuple(f"{name} {number} ({scene.caption})" for number, scene in zip(numbers, scenes, strict=True)),
        )

    @cached_property
    def _source(self) -> Source:
        """The opened source."""
        return open_source(self.config, self.purpose)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened source behind when going to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_source"}
