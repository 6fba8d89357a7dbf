"""Scenes seen once by a frozen eye and kept on disk, in shards, so that the heads of a dual encoder train in minutes.

A shard that is there is never made again: the work can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from sfumato.data.compose import render
from sfumato.data.primer.library import Primer
from sfumato.data.scenes import Plan, SceneSampler
from sfumato.errors import CheckpointError, ConfigError
from sfumato.events import Event, Progress
from sfumato.formats.safe_io import content_hash, read_safetensors, write_safetensors
from sfumato.models.eye import Eye, Sights, joined
from sfumato.runtime.precision import Precision, computing_in
from sfumato.runtime.seeding import derive_seed
from sfumato.training.pictures import DataConfig, PictureBatch, fingerprint, open_source
from sfumato.training.section import Section
from sfumato.training.stream import Prefetched


class SightsConfig(Section):
    """Which scenes are looked at, and where what was seen is kept.

    Attributes:
        folder: Where shards are kept; `None` keeps them in the run's folder.
        scenes: Number of training scenes.
        shard_size: Scenes per file.
        batch_size: Scenes looked at together.
        softened: Share of the training pictures whose detail is blurred, because pictures that a small model draws are
            softer than those it learned from.
        extra_concepts: Share of the training scenes that show a concept kept from the base. An instrument must know
            what the base has still to learn.
    """

    folder: Path | None = None
    scenes: int = Field(default=16_384, ge=1)
    shard_size: int = Field(default=512, ge=1)
    batch_size: int = Field(default=16, ge=1)
    softened: float = Field(default=0.3, ge=0, le=1)
    extra_concepts: float = Field(default=0.03, ge=0, le=1)


@dataclass(frozen=True)
class SceneSource:
    """Plans scenes and paints them, by index. Picklable; the training set is opened where it is used.

    Attributes:
        data: Which scenes.
        config: How many are softened or show a concept kept from the base; training scenes only.
        purpose: `""` for training, or a word such as `validation` for other scenes.
    """

    data: DataConfig
    config: SightsConfig
    purpose: str = ""

    def plan(self, index: int) -> Plan:
        """Return what scene number `index` shows."""
        if not self.purpose and self._share("extra_concepts", index) < self.config.extra_concepts:
            return self._kept_from_base.plan(index)
        return self._scenes.plan(index)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Paint scene number `index`."""
        plan = self.plan(index)
        image = render(self.primer, plan.facts, plan.caption).image
        chance = self._share("softened", index)
        if self.purpose or chance >= self.config.softened:
            return image
        return softened(image, 0.2 + 0.5 * chance / self.config.softened)

    @property
    def primer(self) -> Primer:
        """The training set."""
        return self._scenes.primer

    def _share(self, choice: str, index: int) -> float:
        """Return a number in [0, 1) that decides something about a scene."""
        return derive_seed(self.data.seed, f"sights/{choice}", index) / 2**63

    @cached_property
    def _scenes(self) -> SceneSampler:
        """The sampler of the recipe."""
        source = open_source(self.data, self.purpose)
        if not isinstance(source, SceneSampler):
            raise ConfigError(
                f"data.kind is {self.data.kind!r}; a dual encoder learns from captions that differ in one fact, "
                "and only scenes of kind 'primer' state their facts.",
                field="data.kind",
                hint="Use kind = 'primer' with the folder that `sfumato data primer` wrote.",
            )
        return source

    @cached_property
    def _kept_from_base(self) -> SceneSampler:
        """Scenes of the concepts that the base never sees."""
        config = replace(self._scenes.config, character_weight=0.0)
        return SceneSampler(self.primer, self.data.seed, "held_out_concept", config)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was opened behind when going to another process."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


@dataclass(frozen=True)
class SceneBatches:
    """Paints batch number n of a source: pictures `[n·size, (n+1)·size)`."""

    source: SceneSource
    batch_size: int

    def __call__(self, index: int) -> PictureBatch:
        """Return batch number `index`."""
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        return PictureBatch(
            np.stack([self.source.picture(number) for number in numbers]),
            tuple(self.source.plan(number).caption for number in numbers),
            tuple(f"scene {number}" for number in numbers),
        )


def softened(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Take detail away from a picture: scale it down and up again.

    Args:
        image: The picture.
        share: Size of the small picture as a share of the whole.

    Returns:
        The picture at its old size.
    """
    picture = Image.fromarray(image)
    small = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    resized = picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


class SightStore:
    """The sights of the first `count` scenes of a source.

    Args:
        source: The scenes.
        eye: Looks at them.
        count: How many scenes.
        folder: Where shards are kept; those of another source or eye lie in another folder below it.
        precision: In which numbers the eye computes.
    """

    def __init__(self, source: SceneSource, eye: Eye, count: int, folder: Path, precision: Precision = "fp32") -> None:
        self.source, self.count = source, count
        self._eye, self._precision = eye, precision
        self._folder = folder / self._identity()[:16]
        self._sights: Sights | None = None

    def fill(self, phase: str) -> Iterator[Event]:
        """Look at every scene that has not been looked at yet.

        Args:
            phase: What the progress is called.

        Yields:
            `Progress` in scenes.
        """
        size = self.source.config.shard_size
        shards = range(-(-self.count // size))
        batches = SceneBatches(self.source, self.source.config.batch_size)
        found = []
        with Prefetched(batches, self.source.data.workers) as pictures:
            for k in shards:
                kept = _read(self._path(k))
                if kept is None:
                    yield from self._make(k, pictures, phase)
                    kept = _read(self._path(k))
                assert kept is not None, "a shard is read as it was written"
                found.append(kept)
        whole = joined(found)
        self._sights = Sights(whole.cells[: self.count], whole.whole[: self.count])

    @property
    def sights(self) -> Sights:
        """All sights, float16; `fill` comes first."""
        assert self._sights is not None, "fill comes before sights"
        return self._sights

    def rows(self, numbers: Tensor) -> Sights:
        """Return the sights of some scenes, float32."""
        return Sights(self.sights.cells[numbers].float(), self.sights.whole[numbers].float())

    def _make(self, k: int, pictures: Prefetched[PictureBatch], phase: str) -> Iterator[Event]:
        """Paint, look at and write shard k."""
        size, batch = self.source.config.shard_size, self.source.config.batch_size
        if size % batch:
            raise ConfigError(
                f"sights.shard_size is {size} and sights.batch_size {batch}; a shard is a whole number of batches.",
                field="sights.batch_size",
            )
        seen = []
        for done, index in enumerate(range(k * size // batch, (k + 1) * size // batch)):
            with computing_in(self._precision, torch.device("cpu")):
                seen.append(self._eye.look(pictures.get(index).images()))
            yield Progress(phase, min(k * size + (done + 1) * batch, self.count), self.count)
        whole = joined(seen)
        write_safetensors(self._path(k), {"cells": whole.cells.half(), "whole": whole.whole.half()})

    def _path(self, k: int) -> Path:
        """Return the file of shard k."""
        return self._folder / f"shard-{k:06d}.safetensors"

    def _identity(self) -> str:
        """Return the hash of everything that decides what is seen."""
        facts: Mapping[str, Any] = {
            "data": fingerprint(self.source.data),
            "sights": self.source.config.model_dump(mode="json", exclude={"folder", "scenes"}),
            "purpose": self.source.purpose,
            "eye": [self._eye.config.side, self._eye.config.stages, self._eye.config.grid],
            "network": content_hash(dict(self._eye.network.state_dict())),
            "precision": self._precision,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Sights | None:
    """Read a shard; a damaged one counts as none."""
    if not path.is_file():
        return None
    try:
        tensors = read_safetensors(path)
        return Sights(tensors["cells"], tensors["whole"])
    except (CheckpointError, KeyError):
        path.unlink(missing_ok=True)
        return None
