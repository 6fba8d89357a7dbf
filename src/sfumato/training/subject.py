"""What a subject is learned from: its pictures as latents, and pictures of its class that the base draws itself."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.adapters.tokens import expand_placeholder
from sfumato.data.images import load_tensor
from sfumato.data.listing import list_entries
from sfumato.errors import CheckpointError
from sfumato.events import Event, Progress, Step
from sfumato.formats.bundle import Bundle
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.models.posterior import Posterior
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import derive_seed, generator
from sfumato.tensors import Latents

CLASS_SETTINGS = Settings(steps=20, guidance_scale=4.0, batch_size=4)


@dataclass(frozen=True)
class Samples:
    """Pictures as latents, with their captions.

    Attributes:
        mean: Mean of the scaled latents of every picture.
        std: Their standard deviation; None for latents without spread.
        captions: One each, placeholders not written out.
        names: One each, for messages.
        data_hash: SHA-256 of the files and captions.
        words: The placeholder of each; empty for pictures that have none.
        repeats: How often each is shown in a round; empty: once.
    """

    mean: Float[Tensor, "n c h w"]
    std: Float[Tensor, "n c h w"] | None
    captions: tuple[str, ...]
    names: tuple[str, ...]
    data_hash: str = ""
    repeats: tuple[int, ...] = ()
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def round(self) -> list[int]:
        """The rows of one round, each as often as it is repeated."""
        return [row for row, times in enumerate(self.repeats or (1,) * len(self)) for _ in range(times)]

    def latents(self, rows: Sequence[int], draw: torch.Generator) -> Latents:
        """Draw latents of some pictures from their distribution."""
        picked = list(rows)
        mean = self.mean[picked]
        if self.std is None:
            return mean
        return mean + self.std[picked] * torch.randn(mean.shape, generator=draw)


def read_subject(
    folder: Path, placeholder: str, class_noun: str, bundle: Bundle, *, flip: bool = False, is_style: bool = False
) -> Samples:
    """Read the pictures of a subject and encode each once.

    A picture's caption is the text file beside it, its entry in `metadata.jsonl`, or the text in its folder's name. If
    that does not name the placeholder, its first class noun becomes the placeholder; without either,
    `a <placeholder>, ` is put in front. Pictures without a caption get `a <placeholder>`. A style is named at the end
    instead: `a picture, <placeholder> style`.

    Args:
        folder: Pictures, cropped to their middle square and scaled to the base's native size.
        placeholder: Such as `<fox>`.
        class_noun: Such as `fox`.
        bundle: Gives the autoencoder.
        flip: Add every picture mirrored.
        is_style: The pictures share a style, not a subject.

    Returns:
        The pictures as latents.

    Raises:
        EmptyDataset: There is no picture.
        UnreadableImage: A picture cannot be read.
        DataError: A caption cannot be read, `metadata.jsonl` or the name of a folder is wrong.
    """
    means: list[Tensor] = []
    stds: list[Tensor] = []
    captions: list[str] = []
    names: list[str] = []
    digest = hashlib.sha256(f"{bundle.native_size}/{flip}".encode())
    entries = list_entries(folder)
    unit = math.gcd(*(entry.repeats for entry in entries))  # only the proportions count
    repeats: list[int] = []
    for entry in entries:
        image = load_tensor(entry.path, bundle.native_size)
        if is_style:
            caption = style_caption(entry.caption("a picture"), placeholder)
        else:
            caption = subject_caption(entry.caption(f"a {placeholder}"), placeholder, class_noun)
        times = entry.repeats // unit
        digest.update(entry.path.read_bytes() + caption.encode() + (b"" if times == 1 else f"×{times}".encode()))
        for mirrored in (False, True) if flip else (False,):
            mean, std = _moments(bundle, image.flip(-1) if mirrored else image)
            means.append(mean)
            stds += [] if std is None else [std]
            captions.append(caption)
            names.append(f"{entry.name}{' (mirrored)' if mirrored else ''}")
            repeats.append(times)
    spread = torch.cat(stds) if stds else None
    said, words = tuple(captions), (placeholder,) * len(captions)
    return Samples(torch.cat(means), spread, said, tuple(names), digest.hexdigest(), tuple(repeats), words)


def joined(several: Sequence[Samples]) -> Samples:
    """Put the pictures of several subjects together.

    Args:
        several: At least one; all with spread or all without.

    Returns:
        Their pictures in order.
    """
    if len(several) == 1:
        return several[0]
    spreads = [samples.std for samples in several if samples.std is not None]
    return Samples(
        torch.cat([samples.mean for samples in several]),
        torch.cat(spreads) if spreads else None,
        *(tuple(chain.from_iterable(getattr(samples, name) for samples in several)) for name in ("captions", "names")),
        hashlib.sha256("/".join(samples.data_hash for samples in several).encode()).hexdigest(),
        tuple(chain.from_iterable(samples.repeats or (1,) * len(samples) for samples in several)),
        tuple(chain.from_iterable(samples.words for samples in several)),
    )


def subject_caption(caption: str, placeholder: str, class_noun: str) -> str:
    """Make sure that a caption names the placeholder.

    Args:
        caption: The user's text.
        placeholder: Such as `<fox>`.
        class_noun: Such as `fox`.

    Returns:
        A text that names it.
    """
    if expand_placeholder(caption, placeholder, "", "") != caption:
        return caption
    named, count = re.subn(rf"(?<!\w){re.escape(class_noun)}(?!\w)", placeholder, caption, count=1, flags=re.IGNORECASE)
    if count:
        return named
    return f"a {placeholder}, {caption}"


def style_caption(caption: str, placeholder: str) -> str:
    """Make sure that a caption names the style.

    Args:
        caption: The user's text.
        placeholder: Such as `<ink>`.

    Returns:
        A text that names it; at the end where it did not.
    """
    if expand_placeholder(caption, placeholder, "", "") != caption:
        return caption
    return f"{caption}, {placeholder} style"


def class_samples(pipeline: Pipeline, prompt: str, count: int, seed: int, folder: Path) -> Iterator[Event | Samples]:
    """Let the base draw its own idea of the class, once ([ruiz2023] 3.2).

    The latents that the sampler ends with are taken as they are; no picture is decoded. They are kept in `folder` under
    a name made of everything that decides them.

    Args:
        pipeline: The base, without any adapter.
        prompt: Such as `a fox`.
        count: Number of pictures.
        seed: Seed of the set.
        folder: Where they are kept.

    Yields:
        `Progress` while they are drawn; the samples last.
    """
    base = pipeline.bundle
    key = f"{base.base_hash}/{prompt}/{count}/{seed}/{CLASS_SETTINGS}/{base.native_size}"
    path = folder / f"class-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    mean = _kept(path)
    if mean is None:
        drawn: list[Tensor] = []
        seeds = [derive_seed(seed, "class pictures", index) for index in range(count)]
        for event in pipeline.generate([prompt], seeds, CLASS_SETTINGS, decode=False):
            if isinstance(event, Step) and event.step == event.steps - 1:
                drawn.append(event.x_t)
                yield Progress("class pictures", sum(map(len, drawn)), count)
        write_safetensors(path, {"mean": torch.cat(drawn)}, {"prompt": prompt})
        mean = torch.cat(drawn)
    names = tuple(f"class picture {index}" for index in range(count))
    yield Samples(mean, None, (prompt,) * count, names)


def pick(count: int, rows: int, seed: int, purpose: str, draw: int) -> list[int]:
    """Choose the rows of a draw: every one once per round, each round in a new order.

    Args:
        count: Rows to choose from.
        rows: Rows of the batch.
        seed: Seed of the run.
        purpose: Name of the stream.
        draw: Number of the draw.

    Returns:
        Row numbers; a batch may span two rounds.
    """
    chosen: list[int] = []
    for number in range(draw * rows, (draw + 1) * rows):
        turn, place = divmod(number, count)
        chosen.append(int(torch.randperm(count, generator=generator(seed, purpose, turn))[place]))
    return chosen


@torch.no_grad()
def _moments(bundle: Bundle, image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return mean and standard deviation of the scaled latents of one picture."""
    autoencoder = bundle.autoencoder
    posterior: Posterior = autoencoder.encode(image[None])
    factor, shift = autoencoder.config.scaling_factor, autoencoder.config.shift_factor
    std = None if posterior.logvar is None else (0.5 * posterior.logvar).exp() * factor
    return (posterior.mean - shift) * factor, std


def _kept(path: Path) -> Tensor | None:
    """Read class latents from an earlier run, unless there are none or they are damaged."""
    try:
        return read_safetensors(path)["mean"].clone() if path.is_file() else None
    except CheckpointError:
        return None
