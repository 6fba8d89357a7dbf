"""What a subject is learned from: its pictures as latents, and pictures of its class that the base draws itself."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sfumato.adapters.tokens import expand_placeholder
from sfumato.data.captions import class_phrase, with_right_article
from sfumato.data.listing import Entry, list_entries
from sfumato.data.masks import find_masks
from sfumato.data.numbered_folders import of_one_subject
from sfumato.events import Event, Progress, Step
from sfumato.formats.bundle import Bundle
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import derive_seed
from sfumato.training import sample_set
from sfumato.training.cache import TensorCache
from sfumato.training.encoded import PictureEncoder, latent_weights
from sfumato.training.learn_config import SubjectConfig
from sfumato.training.picture_config import PictureConfig
from sfumato.training.sample_set import AnySamples, BucketedSamples, Samples, pick

__all__ = [
    "BucketedSamples",
    "Samples",
    "class_caption",
    "class_prompts",
    "class_samples",
    "joined",
    "learned_caption",
    "pick",
    "plain_caption",
    "read_subject",
    "style_caption",
    "subject_caption",
    "subject_entries",
]

DEFAULT, NO_CACHE = PictureConfig(), TensorCache(None)
CLASS_SETTINGS = Settings(steps=20, guidance_scale=4.0, batch_size=4)


def read_subject(
    folder: Path,
    placeholder: str,
    class_noun: str,
    bundle: Bundle,
    *,
    flip: bool = False,
    is_style: bool = False,
    pictures: PictureConfig = DEFAULT,
    seed: int = 0,
    cache: TensorCache = NO_CACHE,
) -> Samples | BucketedSamples:
    """Read the pictures of a subject and encode each once.

    A picture's caption is the text file beside it, its entry in `metadata.jsonl`, or the text in its folder's name,
    unless that is kohya's word for the subject (`subject_entries`). If it does not name the placeholder, its first
    class noun becomes the placeholder; without either, `a <placeholder>, ` is put in front. Pictures without a caption
    get `a <placeholder>`. A style is named at the end instead: `a picture, <placeholder> style`.

    Args:
        folder: Pictures, cropped to their middle square and scaled to the base's native size, or to buckets of about
            the same area.
        placeholder: Such as `<fox>`.
        class_noun: Such as `fox`.
        bundle: Gives the autoencoder.
        flip: Add every picture mirrored.
        is_style: The pictures share a style, not a subject.
        pictures: Masks, buckets, variants.
        seed: Seed of the variants.
        cache: Where encoded pictures are kept.

    Returns:
        The pictures as latents, those of one size together. Each is shown in a round as often as its folder's name
        says; `joined` makes proportions of that.

    Raises:
        EmptyDataset: There is no picture.
        UnreadableImage: A picture cannot be read.
        DataError: A caption or mask is missing or cannot be read, two captions of a picture differ, a mask has no
            picture or leaves nothing of it, latents are not finite, `metadata.jsonl` or the name of a folder is wrong,
            numbered folders are of several subjects.
    """
    changed = "" if pictures == DEFAULT else f"/{pictures.model_dump_json(exclude={'mask_folder'})}/{seed}"
    digest = hashlib.sha256(f"{bundle.native_size}/{flip}{changed}".encode())
    entries = subject_entries(folder, placeholder, class_noun, is_style=is_style)
    unit = math.gcd(*(entry.repeats for entry in entries))  # among them only the proportions count
    groups: dict[tuple[int, int], _Group] = {}
    encoder = PictureEncoder(bundle, pictures, seed, cache)
    masks: dict[Path, Path] = {}
    if pictures.masks == "file":
        masks = find_masks(folder, [entry.path for entry in entries], pictures.mask_folder)
    for entry in entries:
        read = encoder.read(entry.path, masks.get(entry.path))
        caption = learned_caption(entry, placeholder, class_noun, is_style=is_style)
        times = entry.repeats // unit
        digest.update(read.content + caption.encode() + (b"" if times == 1 else f"×{times}".encode()))
        for mirrored in (False, True) if flip else (False,):
            group = groups.setdefault(read.size, _Group(placeholder))
            group.tensors.append(encoder.encode(read, mirrored))
            group.captions.append(caption)
            group.names.append(f"{entry.name}{' (mirrored)' if mirrored else ''}")
            group.repeats.append(entry.repeats)
    buckets = tuple(groups[size].samples(pictures, digest.hexdigest()) for size in sorted(groups))
    return buckets[0] if len(buckets) == 1 else BucketedSamples(buckets, digest.hexdigest())


def joined(several: Sequence[AnySamples]) -> AnySamples:
    """Put the pictures of all subjects of a lesson together; how often each is shown is in proportion to all others.

    Args:
        several: At least one; all with spread, variants and weights, or all without.

    Returns:
        Their pictures, see `sample_set.joined`.
    """
    whole = sample_set.joined(several)
    units = [math.gcd(*(samples.repeats or (1,))) for samples in several]
    unit, data_hash = math.gcd(*units), whole.data_hash
    if len(set(units)) > 1:  # what each subject was made of does not tell their proportions
        proportions = "/".join(str(one // unit) for one in units)
        data_hash = hashlib.sha256(f"{data_hash}/{proportions}".encode()).hexdigest()
    return whole if unit == 1 and data_hash == whole.data_hash else _shown_less(whole, unit, data_hash)


def _shown_less(samples: AnySamples, unit: int, data_hash: str) -> AnySamples:
    """Show every picture of a set less often, in the same proportions."""
    if isinstance(samples, BucketedSamples):
        buckets = tuple(_one_size_less(bucket, unit, data_hash) for bucket in samples.buckets)
        return BucketedSamples(buckets, data_hash)
    return _one_size_less(samples, unit, data_hash)


def _one_size_less(samples: Samples, unit: int, data_hash: str) -> Samples:
    """Show every picture of one size less often."""
    return replace(samples, repeats=tuple(times // unit for times in samples.repeats), data_hash=data_hash)


@dataclass
class _Group:
    """Pictures of one size while they are read."""

    placeholder: str
    tensors: list[dict[str, Tensor]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)

    def samples(self, pictures: PictureConfig, data_hash: str) -> Samples:
        """Put the pictures together; a mask becomes weights with the floor that is asked for."""
        whole = {name: torch.cat([part[name] for part in self.tensors]) for name in self.tensors[0]}
        mask = whole.get("mask")
        weights = None if mask is None else latent_weights(mask, pictures.unmasked_weight)
        return Samples(
            whole["mean"],
            whole.get("std"),
            tuple(self.captions),
            tuple(self.names),
            data_hash,
            tuple(self.repeats),
            (self.placeholder,) * len(self.captions),
            weights,
            pictures.variants,
        )


def subject_entries(folder: Path, placeholder: str, class_noun: str, *, is_style: bool = False) -> list[Entry]:
    """List the pictures of a subject with what their captions are.

    Args:
        folder: The pictures.
        placeholder: Such as `<fox>`.
        class_noun: Such as `fox`; a folder named `10_sks fox` gives its pictures no caption.
        is_style: The pictures share a style: they may show anything, and every name of a folder is a caption.

    Returns:
        At least one picture.

    Raises:
        EmptyDataset: There is no picture.
        DataError: See `list_entries`; one of several numbered folders does not name the subject.
    """
    entries = list_entries(folder)
    return entries if is_style else of_one_subject(folder, entries, placeholder, class_noun)


def plain_caption(placeholder: str, *, is_style: bool = False) -> str:
    """Return the caption of a picture that has none, such as `a <fox>`, or of a style `a picture, <ink> style`."""
    return style_caption("a picture", placeholder) if is_style else f"a {placeholder}"


def learned_caption(entry: Entry, placeholder: str, class_noun: str, *, is_style: bool = False) -> str:
    """Return what is learned of a picture in words: its caption, or the plain one, with the placeholder in it.

    Raises:
        DataError: Its caption cannot be read.
    """
    caption = entry.caption(plain_caption(placeholder, is_style=is_style))
    return style_caption(caption, placeholder) if is_style else subject_caption(caption, placeholder, class_noun)


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


def class_caption(caption: str, placeholder: str, class_noun: str, *, is_style: bool = False) -> str:
    """Say the caption of a picture without its subject: what a picture of the class in the same setting is asked by.

    Args:
        caption: Such as `a <fox> in the snow`.
        placeholder: Such as `<fox>`.
        class_noun: Such as `fox`.
        is_style: The word stands for a style and is left out with what belongs to it.

    Returns:
        Such as `a fox in the snow`.
    """
    if not is_style:
        return with_right_article(expand_placeholder(caption, placeholder, class_noun, class_noun), class_noun)
    of = r"(?:\b(?:(?:made|drawn|painted)\s+)?in\s+)?(?:\b(?:(?:the|a)\s+)?(?:style|manner)\s+of\s+)?(?:\bthe\s+)?"
    said = rf"[\s,]*{of}{re.escape(placeholder)}(?!\w)(?:\s+style\b)?"
    return re.sub(said, "", caption, flags=re.IGNORECASE).strip(" ,") or "a picture"


def class_prompts(
    subject: SubjectConfig, samples: AnySamples | None, others: Iterable[SubjectConfig] = (), *, is_style: bool = False
) -> tuple[str, ...]:
    """Return what pictures of the class of a subject are asked by, each once.

    Args:
        subject: The subject.
        samples: Its pictures, perhaps beside others, whose captions are said without it; None for the plain noun.
        others: Subjects that its captions may name too; these are said without them as well.
        is_style: See `class_caption`.
    """
    if samples is None:
        return ("a picture" if is_style else class_phrase(subject.class_noun),)
    captions = [text for text, word in zip(samples.captions, samples.words, strict=True) if word == subject.placeholder]
    for one in (subject, *others):
        captions = [class_caption(text, one.placeholder, one.class_noun, is_style=is_style) for text in captions]
    return tuple(dict.fromkeys(captions))


def class_samples(
    pipeline: Pipeline,
    prompts: Sequence[str],
    count: int,
    seed: int,
    cache: TensorCache,
    batch_size: int = CLASS_SETTINGS.batch_size,
) -> Iterator[Event | Samples]:
    """Let the base draw its own idea of the class, once ([ruiz2023] 3.2).

    The latents that the sampler ends with are taken as they are; no picture is decoded. Each is kept as soon as it is
    drawn, under a name made of everything that decides it: an interrupted set goes on, a larger one draws the rest.

    Args:
        pipeline: The base, without any adapter.
        prompts: Such as `a fox`; several take turns.
        count: Number of pictures.
        seed: Seed of the set.
        cache: Where they are kept.
        batch_size: Pictures drawn at once; it changes none of them.

    Yields:
        `Progress` while they are drawn; the samples last.
    """
    captions = tuple(prompts[index % len(prompts)] for index in range(count))
    seeds = [derive_seed(seed, "class pictures", index) for index in range(count)]
    keys = _class_keys(pipeline, captions, seeds)
    found = {index: cache.find("class", key) for index, key in enumerate(keys)}
    kept = {index: one["mean"] for index, one in found.items() if one is not None}
    wanted = [index for index in found if index not in kept]
    missing = iter(wanted)
    asked = [captions[index] for index in wanted], [seeds[index] for index in wanted]
    settings = replace(CLASS_SETTINGS, batch_size=batch_size)
    for event in pipeline.generate(*asked, settings, decode=False) if wanted else ():
        if isinstance(event, Step) and event.step == event.steps - 1:
            for latent, index in zip(event.x_t, missing, strict=False):  # the batch ends first
                kept[index] = cache.keep("class", keys[index], {"mean": latent[None]})["mean"]
            yield Progress("class pictures", len(kept), count)
    names = tuple(f"class picture {index}" for index in range(count))
    yield Samples(torch.cat([kept[index] for index in range(count)]), None, captions, names)


def _class_keys(pipeline: Pipeline, captions: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Name everything that decides each class picture: the weights, how they are used, the text's tokens, the seed."""
    base = pipeline.bundle
    used = f"{base.schedule.config}/{base.prediction}/{base.unet.config}/{base.text_encoder.config}"
    common = f"{base.base_hash}/{base.computes_in}/{hashlib.sha256(used.encode()).hexdigest()[:16]}"
    drawn = f"{CLASS_SETTINGS}/{base.native_size}"
    tokens = {
        text: base.tokenizer.encode([pipeline.expand(text), CLASS_SETTINGS.negative]).tolist() for text in set(captions)
    }
    return [f"{common}/{tokens[text]}/{seed}/{drawn}" for text, seed in zip(captions, seeds, strict=True)]
