"""The rotating pool of encoded pictures that a denoiser learns from.

Encoding at every use would cost as much as a part of the training itself, so pictures are encoded once, in shards of N.
At any time W shards are in the pool; every R steps the oldest one gives way to the next. Which picture a step sees is a
function of the step, so a resumed run sees the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sfumato.errors import CheckpointError, ConfigError, StorageError
from sfumato.events import Event, Notice, Progress
from sfumato.formats.safe_io import read_header, read_safetensors, write_safetensors
from sfumato.runtime.seeding import generator
from sfumato.tensors import Latents
from sfumato.training.pictures import PictureBatch
from sfumato.training.section import Section
from sfumato.training.stream import Prefetched

_TIMES_HELD = 16
"""How often a pool holds each of a few pictures: often enough that all are shown alike, mirrored and not."""


class LatentPoolConfig(Section):
    """Size and turnover of the pool.

    Attributes:
        folder: Where shards are kept; `None` keeps them in the run's folder.
        shard_size: Pictures per shard, a multiple of `encode_batch`.
        window: Shards in the pool.
        rotate_every: Steps between renewals of one shard; 0 never renews.
        encode_batch: Pictures encoded at once.
        keep: Shards that have left the pool: `window` removes them, `all` keeps them for other runs.
    """

    folder: Path | None = None
    shard_size: int = Field(default=1024, ge=1)
    window: int = Field(default=16, ge=1)
    rotate_every: int = Field(default=0, ge=0)
    encode_batch: int = Field(default=32, ge=1)
    keep: Literal["window", "all"] = "window"

    @model_validator(mode="after")
    def _check(self) -> LatentPoolConfig:
        """Refuse a shard that whole batches do not fill: what is left of the last would be encoded and never shown."""
        size, batch = self.shard_size, self.encode_batch
        if size % batch:
            whole = max(1, size // batch) * batch
            raise ConfigError(
                f"latents.shard_size is {size} and latents.encode_batch {batch}; needed: a multiple of it.",
                field="latents.shard_size",
                hint=f"Set latents.shard_size={whole} or latents.encode_batch={math.gcd(size, batch)}.",
            )
        return self


@dataclass(frozen=True)
class Shard:
    """Encoded pictures.

    Attributes:
        mean: Mean of the scaled latents, float16.
        std: Their standard deviation, float16; `None` for latents without spread.
        features: Image features for `alignment`, float16; `None` without it.
        captions: One each.
        first: Number of the first picture.
    """

    mean: Float[Tensor, "n c h w"]
    std: Float[Tensor, "n c h w"] | None
    features: Float[Tensor, "n d i j"] | None
    captions: tuple[str, ...]
    first: int


@dataclass(frozen=True)
class LatentBatch:
    """What one step sees.

    Attributes:
        x_0: Scaled latents drawn from their distribution, float32.
        features: Image features for `alignment`; `None` without it.
        captions: One each.
        ids: A name for each, for messages.
    """

    x_0: Latents
    features: Float[Tensor, "b _d _i _j"] | None
    captions: tuple[str, ...]
    ids: tuple[str, ...]


def check_pool(config: LatentPoolConfig, pictures: int | None) -> None:
    """Refuse a pool that never holds some of the pictures.

    Args:
        config: Size and turnover.
        pictures: How many there are to learn from; None where they do not end.

    Raises:
        ConfigError: There are more than the pool holds, and it is never renewed.
    """
    held = config.window * config.shard_size
    if pictures is None or config.rotate_every or pictures <= held:
        return
    raise ConfigError(
        f"The pool holds {held:,} pictures (latents.window × latents.shard_size) and is never renewed, but there are "
        f"{pictures:,} to learn from; the others would never be seen.",
        field="latents.window",
        hint=f"Set latents.window={-(-pictures // config.shard_size)}, or a number of steps as latents.rotate_every.",
    )


def fitted(config: LatentPoolConfig, pictures: int | None) -> LatentPoolConfig:
    """Return the pool that few pictures need: each in it some 16 times, mirrored or not, and not some hundred times.

    Args:
        config: Size and turnover as asked for.
        pictures: How many there are to learn from; None where they do not end.
    """
    wanted = config.window * config.shard_size if pictures is None else _TIMES_HELD * max(1, pictures)
    if wanted >= config.window * config.shard_size:
        return config
    whole = -(-wanted // config.encode_batch) * config.encode_batch
    size = min(config.shard_size, whole)
    return config.model_copy(update={"shard_size": size, "window": min(config.window, -(-wanted // size))})


Encode = Callable[[PictureBatch], Mapping[str, Tensor]]
"""Returns `mean` and, where there are any, `std` of the scaled latents and `features` of some pictures."""


class LatentPool:
    """A window of shards that moves with the step.

    Args:
        config: Size and turnover.
        folder: Where shards are kept.
        identity: What decides the content: data, autoencoder. Shards of another identity lie in another folder.
        pictures: Gives picture batches of `encode_batch` by index.
        encode: Encodes one batch.
        seed: Seed of the order.
    """

    def __init__(
        self,
        config: LatentPoolConfig,
        folder: Path,
        identity: Mapping[str, Any],
        pictures: Prefetched[PictureBatch],
        encode: Encode,
        seed: int,
    ) -> None:
        key = json.dumps({**identity, "shard_size": config.shard_size, "batch": config.encode_batch}, sort_keys=True)
        self._config, self._pictures, self._encode, self._seed = config, pictures, encode, seed
        self._folder = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._slots: list[tuple[int, Shard] | None] = [None] * config.window
        self._order: tuple[int, Tensor] | None = None
        self._told_unwritten = False

    @property
    def size(self) -> int:
        """Number of pictures in the pool."""
        return self._config.window * self._config.shard_size

    def move_to(self, step: int) -> Iterator[Event]:
        """Bring the window to where it stands at a step.

        Args:
            step: Index of the step about to be taken.

        Yields:
            `Progress` for every shard that had to be made or read; `Notice` for the first one that cannot be written.
        """
        every = self._config.rotate_every
        oldest = step // every if every else 0
        missing = [k for k in range(oldest, oldest + self._config.window) if not self._holds(k)]
        for done, k in enumerate(missing):
            shard = yield from self._shard(k, step)
            self._slots[k % self._config.window] = (k, shard)
            yield Progress("latents", done + 1, len(missing))
        if missing:
            if self._config.keep == "window":
                for k in range(max(0, oldest - len(missing)), oldest):
                    self._remove(k)
            if every and not self._path(oldest + self._config.window).is_file():  # another run may have made it
                self._pictures.order(self._batches(oldest + self._config.window))

    def batch(self, draw: int, batch_size: int) -> LatentBatch:
        """Return the batch of a draw: every picture of the pool once per round, each round in a new order.

        Args:
            draw: Number of the draw.
            batch_size: Pictures per batch.
        """
        places = [self._place(n) for n in range(draw * batch_size, (draw + 1) * batch_size)]
        rows = [(self._shard_at(p // self._config.shard_size), p % self._config.shard_size) for p in places]
        x_0 = torch.stack([shard.mean[row] for shard, row in rows]).float()
        if rows[0][0].std is not None:
            std = torch.stack([shard.std[row] for shard, row in rows if shard.std is not None]).float()
            x_0 = x_0 + std * torch.randn(x_0.shape, generator=generator(self._seed, "train/posterior", draw))
        features = None
        if rows[0][0].features is not None:
            features = torch.stack([shard.features[row] for shard, row in rows if shard.features is not None]).float()
        captions = tuple(shard.captions[row] for shard, row in rows)
        names = [f"picture {shard.first + row} ({shard.captions[row]})" for shard, row in rows]
        return LatentBatch(x_0, features, captions, tuple(names))

    def _place(self, number: int) -> int:
        """Return the place in the pool of the n-th picture shown."""
        turn, position = divmod(number, self.size)
        if self._order is None or self._order[0] != turn:
            self._order = (turn, torch.randperm(self.size, generator=generator(self._seed, "train/order", turn)))
        return int(self._order[1][position])

    def _holds(self, k: int) -> bool:
        """Say whether shard k is in its slot."""
        slot = self._slots[k % self._config.window]
        return slot is not None and slot[0] == k

    def _shard_at(self, slot: int) -> Shard:
        """Return the shard of a slot."""
        held = self._slots[slot]
        assert held is not None, "move_to comes before batch"
        return held[1]

    def _path(self, k: int) -> Path:
        """Return the file of shard k."""
        return self._folder / f"shard-{k:06d}.safetensors"

    def _batches(self, k: int) -> range:
        """Return the numbers of the picture batches of shard k."""
        count = -(-self._config.shard_size // self._config.encode_batch)
        return range(k * count, (k + 1) * count)

    def _remove(self, k: int) -> None:
        """Remove the file of shard k; one that cannot be removed takes room and does no other harm."""
        with suppress(OSError):
            self._path(k).unlink(missing_ok=True)

    def _shard(self, k: int, step: int) -> Generator[Event, None, Shard]:
        """Read shard k, or make and write it; what is used is bit for bit what is written."""
        path = self._path(k)
        if path.is_file():
            try:
                return self._read(k)
            except CheckpointError:
                self._remove(k)
        tensors, captions = self._made(k)
        try:
            write_safetensors(path, tensors, {"captions": json.dumps(captions)})
            self._told_unwritten = False
        except StorageError as error:
            if not self._told_unwritten:
                self._told_unwritten = True
                yield Notice(step, f"{error} The run goes on: what it has encoded is in memory.")
        return self._shard_of(k, tensors, captions)

    def _read(self, k: int) -> Shard:
        """Read shard k."""
        tensors, header = read_safetensors(self._path(k)), read_header(self._path(k))
        return self._shard_of(k, tensors, json.loads(header.metadata["captions"]))

    def _shard_of(self, k: int, tensors: Mapping[str, Tensor], captions: Sequence[str]) -> Shard:
        """Return shard k with memory of its own, laid out as in a file; last bits depend on the layout."""
        own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        first = k * self._config.shard_size
        return Shard(own["mean"], own.get("std"), own.get("features"), tuple(captions), first)

    @torch.no_grad()
    def _made(self, k: int) -> tuple[dict[str, Tensor], list[str]]:
        """Compose and encode shard k."""
        parts: list[Mapping[str, Tensor]] = []
        captions: list[str] = []
        for index in self._batches(k):
            batch = self._pictures.get(index)
            parts.append({name: value.half().cpu() for name, value in self._encode(batch).items()})
            captions += batch.captions
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, captions
