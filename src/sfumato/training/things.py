"""Every single thing of the training set once, alone on white, encoded; and captions of scenes that show one of them.

What a caption means is learned soonest from a picture that shows the same whatever else the caption says. Painting and
encoding are done once, so that a caption then costs its words alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.data.compose import compose, compose_person
from sfumato.data.primer.library import IconRecord
from sfumato.data.scenes import SceneSampler, people_of
from sfumato.errors import CheckpointError, ConfigError
from sfumato.events import Event, Progress
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.training.pictures import DataConfig, PictureBatch, fingerprint, open_source
from sfumato.training.stream import Prefetched

_PURPOSE, _BATCH, _KEY = "things", 64, "mean"


@dataclass(frozen=True)
class Naming:
    """Captions and the thing that each is about.

    Attributes:
        captions: What is said of a scene with one thing.
        files: Picture of the thing, one each.
    """

    captions: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class NamingBatches:
    """Makes batch number n of captions. Picklable; the training set is opened where it is used.

    Attributes:
        config: Which scenes; those with two things are left out.
        batch_size: Captions per batch.
    """

    config: DataConfig
    batch_size: int

    def __call__(self, index: int) -> Naming:
        """Return batch number `index`."""
        plans = [self._scenes.plan(number) for number in range(index * self.batch_size, (index + 1) * self.batch_size)]
        return Naming(tuple(plan.caption for plan in plans), tuple(plan.facts.things[0].file for plan in plans))

    @cached_property
    def _scenes(self) -> SceneSampler:
        """The scenes of single things."""
        return scenes_of(self.config)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was opened behind when going to another process."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


@dataclass(frozen=True)
class ThingPictures:
    """Paints batch number n of the things of the training set, each large, in the middle, on white. Picklable."""

    config: DataConfig

    def __call__(self, index: int) -> PictureBatch:
        """Return batch number `index`; its names are the files."""
        primer, icons = self._scenes.primer, self._icons
        files = self.files[index * _BATCH : (index + 1) * _BATCH]
        scenes = [
            compose(primer, icons[file].concept, icons[file].style) if file in icons else compose_person(primer, file)
            for file in files
        ]
        return PictureBatch(np.stack([scene.image for scene in scenes]), tuple(s.caption for s in scenes), files)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The pictures of all things that training scenes may show."""
        primer = self._scenes.primer
        people = [record["file"] for variants in people_of(primer, self.config.split) for record in variants]
        return tuple([icon.file for icon in primer.icons if icon.split == self.config.split] + people)

    @cached_property
    def _icons(self) -> dict[str, IconRecord]:
        """Every icon by its file."""
        return {icon.file: icon for icon in self._scenes.primer.icons}

    @cached_property
    def _scenes(self) -> SceneSampler:
        """The scenes whose things are painted."""
        return scenes_of(self.config)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was opened behind when going to another process."""
        return {"config": self.config}


class ThingTable:
    """The latents of every thing, made once and kept on disk.

    Args:
        config: The training set.
        folder: Where they are kept.
        encoder_id: Hash of what encodes.
        encode: Encodes one batch; its `mean` is kept.
    """

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        encoder_id: str,
        encode: Callable[[PictureBatch], Mapping[str, Tensor]],
    ) -> None:
        pictures = fingerprint(config).get("manifest")
        key = hashlib.sha256(f"{pictures}/{config.split}/{encoder_id}".encode()).hexdigest()
        self._file = folder / f"{_PURPOSE}-{key[:16]}.safetensors"
        self._pictures, self._workers, self._encode = ThingPictures(config), config.workers, encode
        self._means: Tensor | None = None

    def fill(self) -> Iterator[Event]:
        """Read the table, or make it; yields `Progress` in things."""
        if self._means is not None:
            return
        try:
            self._means = read_safetensors(self._file)[_KEY].clone()
        except (CheckpointError, KeyError):
            yield from self._make()

    def latents(self, files: tuple[str, ...]) -> Float[Tensor, "n c h w"]:
        """Return the latents of some things, float32; `fill` comes first."""
        assert self._means is not None, "fill comes before latents"
        return self._means[[self._row[file] for file in files]].float()

    @cached_property
    def _row(self) -> dict[str, int]:
        """Row of each picture."""
        return {file: row for row, file in enumerate(self._pictures.files)}

    @torch.no_grad()
    def _make(self) -> Iterator[Event]:
        """Paint, encode and write everything."""
        count, rows = len(self._pictures.files), []
        with Prefetched(self._pictures, self._workers) as pictures:
            for index in range(-(-count // _BATCH)):
                rows.append(self._encode(pictures.get(index))[_KEY].half().cpu())
                yield Progress(_PURPOSE, min((index + 1) * _BATCH, count), count)
        self._means = torch.cat(rows)
        write_safetensors(self._file, {_KEY: self._means})


def scenes_of(config: DataConfig) -> SceneSampler:
    """Open the training scenes with one thing each.

    Raises:
        ConfigError: The data is not of a kind that says which things its scenes show.
    """
    if config.kind != "primer":
        raise ConfigError(
            f"data.kind is {config.kind!r}; text_regression needs scenes that state their things, kind 'primer'.",
            field="data.kind",
            hint="Set text_regression.weight=0.",
        )
    single = replace(config.scenes, pair_weight=0.0)
    source = open_source(config.model_copy(update={"scenes": single}), _PURPOSE)
    assert isinstance(source, SceneSampler), "the kind was checked"
    return source
