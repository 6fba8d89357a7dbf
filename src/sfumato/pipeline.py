"""Text to pictures: a base model and the concepts that are switched on.

Pictures depend on their own seed alone: the same bytes come out whether a picture is drawn by itself or among others.
Noise is drawn picture by picture on the CPU, texts are encoded one by one, and pictures share a batch only where the
kernels of this machine were seen to give the same bits (`docs/decisions/0002-same-bytes-at-any-batch-size.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.adapters.tokens import expand_words
from sfumato.diffusion.levels import spaced_levels
from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.process import q_sample
from sfumato.errors import ConfigError, ShapeError
from sfumato.events import Event, Step
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept
from sfumato.formats.finite_picture import check_finite
from sfumato.models.denoiser import Condition
from sfumato.runtime.in_use import Claim, in_use
from sfumato.runtime.memory import keep_freed_memory
from sfumato.runtime.out_of_memory import fitting_into_memory
from sfumato.runtime.recent import Recent
from sfumato.runtime.seeding import noise
from sfumato.samplers import find_sampler, inpaint, kept_latents
from sfumato.tensors import Context, Images, Latents

Mask = Float[Tensor, "_b 1 _H _W"]
Pictures = Float[Tensor, "_b 3 _H _W"]
MOST_TEXTS = 256  # that a pipeline keeps encoded
_SMALLER = "Use a smaller size or batch size."


@dataclass(frozen=True)
class Drawn(Event):
    """A finished picture.

    Attributes:
        index: Its number within the call.
        prompt: What was drawn.
        seed: Its seed.
        image: The picture, `(3, H, W)` in [-1, 1].
    """

    index: int
    prompt: str
    seed: int
    image: Tensor


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; the same for all pictures of a call.

    Args:
        steps: Sampler steps of a full run.
        sampler: One of `SAMPLERS`.
        guidance_scale: 1 = off; more follows the text more strictly.
        negative: What to keep away from; the empty text by default.
        size: Width and height in pixels; None for the base's own.
        strength: Share of the run to keep when there is an initial picture, in (0, 1].
        spacing: `trailing`, `leading` or `linspace`.
        karras: Karras spacing instead.
        guidance_rescale: Share of the standard deviation to restore after guidance, 0 to 1.
        guidance_interval: Noise levels sigma at which guidance acts.
        batch_size: Most pictures computed at once; changes the speed, never the pictures.
        options: Options of the sampler, such as `eta`.

    Raises:
        ConfigError: batch_size is below 1.
    """

    steps: int = 20
    sampler: str = "dpm++2m"
    guidance_scale: float = 4.0
    negative: str = ""
    size: tuple[int, int] | None = None
    strength: float = 0.75
    spacing: str = "trailing"
    karras: bool = False
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; needed: at least 1.", field="batch_size")


@dataclass(frozen=True)
class _Job:
    """What is drawn, apart from which pictures share a batch."""

    settings: Settings
    prompts: Sequence[str]
    contexts: Mapping[str, Float[Tensor, "1 _l _d"]]
    seeds: Sequence[int]
    levels: list[Level]
    latent_shape: tuple[int, int, int]
    init_image: Pictures | None
    original: Latents | None
    mask: Mask | None
    keep: Tensor | None


class Pipeline:
    """Draw pictures with a base model.

    From the first pipeline on, the process keeps freed memory for the next tensor (`runtime/memory.py`).

    Args:
        bundle: The base. Its networks are used as they are; adapters may be attached.
        claim: The claim on the U-Net within which it draws, such as that of a lesson; None for a pipeline of its own.

    Attributes:
        concepts: Those that are switched on.
    """

    def __init__(self, bundle: Bundle, claim: Claim | None = None) -> None:
        keep_freed_memory()  # not before the weights are there: what loading them frees should go back to the system
        self.bundle = bundle
        self._use, self._owner = in_use(bundle.unet), claim or self
        self.concepts: list[Concept] = []
        self._contexts: Recent[tuple[int, str], Context] = Recent(MOST_TEXTS)
        self._same_bits: dict[tuple[int, tuple[int, int, int], bool, int, int], bool] = {}

    @contextmanager
    def using(self, *concepts: tuple[Concept, float], any_base: bool = False) -> Iterator[None]:
        """Switch concepts on for the length of a `with` block.

        Their factors are merged into copies of the weights, so they cost nothing per step; at the end the base is
        restored bit for bit. Weights held in bf16 would round them away: there they are attached. Without concepts
        nothing is changed, and other threads may draw with the same pipeline.

        Args:
            *concepts: Concepts, each with its strength; 1 is as learned.
            any_base: Accept a base that a concept was not learned on.

        Raises:
            WrongBase: A concept was learned on another base.
            ConfigError: Concepts share a word, one without factors has a strength, or the pipeline is busy.
            AdapterError: A concept does not fit the base.
        """
        if not concepts:
            yield
            return
        _ = self.bundle.base_hash  # kept from now on: asked for later, it would be that of merged weights
        if not any_base:
            for concept, _ in concepts:
                concept.check_base(self.bundle)
        with ExitStack() as stack:
            stack.enter_context(self._use.changed(self._owner))
            for concept, strength in concepts:
                self._switch_on(stack, concept, strength)
            yield

    def forget(self) -> None:
        """Forget what was made of the weights (texts, packed kernels, hash); call it after you have changed any."""
        self._contexts.clear()
        self.bundle.forget()

    def expand(self, prompt: str) -> str:
        """Return the text that the tokenizer sees: placeholders written out."""
        learned = (word for concept in self.concepts for word in concept.words)
        return expand_words(prompt, chain(learned, self.bundle.words))

    @torch.no_grad()
    def context(self, prompt: str) -> Context:
        """Encode one text; the last `MOST_TEXTS` results are kept until concepts are switched, a lesson, or `forget`.

        Args:
            prompt: The text, with placeholders.

        Returns:
            Features, `(1, l, d)`.

        Raises:
            DataError: The text is too long; the message names what would be cut.
            ConfigError: The pipeline is busy.
        """

        def encoded() -> Context:
            tokens = self.bundle.tokenizer.encode([self.expand(prompt)])
            words = (word for concept in self.concepts for word in concept.words)
            rows = [word.rows for word in words if word.rows is not None]
            return self.bundle.encode(tokens, torch.cat(rows) if rows else None).context

        return self._contexts.get((self._use.checked(self._owner), prompt), encoded)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings | None = None,
        *,
        init_image: Pictures | None = None,
        mask: Mask | None = None,
        decode: bool = True,
    ) -> Iterator[Event]:
        """Draw pictures.

        Args:
            prompts: One text per picture, or one for all.
            seeds: One seed per picture.
            settings: How; the defaults if left out.
            init_image: Picture to start from, `(1 or n, 3, H, W)` in [-1, 1]. Its size counts.
            mask: 1 where `init_image` is drawn anew, 0 where it stays, between for a soft seam.
            decode: False to stop at the latents of the last `Step`, without `Drawn`.

        Yields:
            `Step` for every sampler step of every batch, and `Drawn` for every finished picture, in order.

        Raises:
            ConfigError: Unknown sampler or option, a value out of range, or the pipeline is busy.
            ShapeError: The size is no multiple of what the networks need, or picture and mask do not fit.
            DataError: A text is too long.
            OutOfMemory: The pictures do not fit into memory.
            CheckpointError: A picture holds numbers that are not finite.
        """
        settings, changes = settings or Settings(), self._use.checked(self._owner)
        if self._owner is self:  # not in a lesson, whose memory counts
            self.bundle.keep_packed(True)
        with _fitting(settings, len(seeds)):
            job = self._plan(prompts, seeds, settings, init_image, mask)
        return self._use.drawing(self._owner, changes, self._run(job, decode))

    def images(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: Settings | None = None, **pictures: Any
    ) -> Images:
        """Draw pictures and return them together, `(n, 3, H, W)` in [-1, 1]; see `generate`."""
        events = self.generate(prompts, seeds, settings, **pictures)
        return torch.stack([event.image for event in events if isinstance(event, Drawn)])

    def _switch_on(self, stack: ExitStack, concept: Concept, strength: float) -> None:
        """Merge one concept in and let its placeholder be understood, until the stack closes."""
        concept.check_words(self.concepts)
        concept.check_strength(strength)
        for lora in concept.adapters(self.bundle).values():
            lora.strength = strength
            stack.enter_context(lora.attached() if self.bundle.held_in == "bf16" else lora.merged())
        for word in concept.words:
            if word.rows is not None:
                self.bundle.tokenizer.add_placeholder(word.placeholder, len(word.rows))
                stack.callback(self.bundle.tokenizer.remove_placeholder, word.placeholder)
        self.concepts.append(concept)
        stack.callback(self.concepts.pop)

    def _plan(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        init_image: Pictures | None,
        mask: Mask | None,
    ) -> _Job:
        """Check everything that can be checked before the first step."""
        count = len(seeds)
        if not count or len(prompts) not in (1, count):
            raise ConfigError(
                f"{len(prompts)} prompts and {count} seeds given; needed: one seed per picture, and one prompt per "
                "picture or one for all.",
                field="prompts",
            )
        prompts = list(prompts) * (count // len(prompts))
        find_sampler(settings.sampler)
        if mask is not None and init_image is None:
            raise ConfigError("A mask was given without an initial picture.", field="mask", hint="Give init_image too.")
        width, height = self._size(settings, init_image)
        contexts = {prompt: self.context(prompt) for prompt in {*prompts, settings.negative}}
        original = None if init_image is None else self._original(init_image, count)
        factor, channels = self.bundle.autoencoder.downsample_factor, self.bundle.unet.config.in_channels
        strength = settings.strength if init_image is not None else 1.0
        levels = spaced_levels(
            self.bundle.schedule, settings.steps, settings.spacing, karras=settings.karras, strength=strength
        )
        shape = (channels, height // factor, width // factor)
        keep = None if mask is None else kept_latents(mask, count, (height, width), shape[1:])
        init_image = None if init_image is None else init_image.expand(count, -1, -1, -1)
        mask = None if mask is None else mask.clamp(0, 1).expand(count, -1, -1, -1)
        return _Job(settings, prompts, contexts, list(seeds), levels, shape, init_image, original, mask, keep)

    def _size(self, settings: Settings, init_image: Pictures | None) -> tuple[int, int]:
        """Return width and height, which must cut into whole latents at every level of the U-Net."""
        width, height = settings.size or (self.bundle.native_size,) * 2
        if init_image is not None:
            height, width = init_image.shape[2:]
            if settings.size not in (None, (width, height)):
                raise ShapeError(
                    f"The initial picture is {width}x{height}, size is {settings.size[0]}x{settings.size[1]}.",
                    field="size",
                    hint="Leave size out, or scale the picture first.",
                )
        factor = self.bundle.downsample_factor
        if width % factor or height % factor or min(width, height) < factor:
            near = "x".join(str(max(factor, round(side / factor) * factor)) for side in (width, height))
            raise ShapeError(
                f"The size is {width}x{height}; base '{self.bundle.name}' needs multiples of {factor}.",
                field="size",
                hint=f"The nearest such size is {near}.",
            )
        return width, height

    @torch.no_grad()
    def _original(self, init_image: Pictures, count: int) -> Latents:
        """Encode the initial pictures one by one."""
        given = len(init_image)
        if given not in (1, count):
            raise ShapeError(f"{given} initial pictures for {count} to draw; needed: 1 or {count}.", field="init_image")
        latents = torch.cat([self.bundle.autoencoder.to_latents(row[None]) for row in init_image])
        return latents.expand(count, -1, -1, -1)

    def _run(self, job: _Job, decode: bool) -> Iterator[Event]:
        """Draw batch after batch."""
        batch = job.settings.batch_size
        for first in range(0, len(job.seeds), batch):
            rows = range(first, min(first + batch, len(job.seeds)))
            x_t = None
            with _fitting(job.settings, len(rows)):
                for step in self._steps(job, rows):
                    yield step
                    x_t = step.x_t
                assert x_t is not None
                for row, latents in zip(rows, x_t, strict=True) if decode else ():
                    yield Drawn(row, job.prompts[row], job.seeds[row], self._picture(job, row, latents))

    def _steps(self, job: _Job, rows: range) -> Iterator[Step]:
        """Run the sampler for the pictures of one batch."""
        settings, seeds = job.settings, [job.seeds[row] for row in rows]
        x_t = eps = noise(job.latent_shape, seeds)
        original = None if job.original is None else job.original[rows.start : rows.stop]
        if original is not None and settings.strength < 1:  # at 1 nothing of it stays, also where alpha ends above 0
            x_t = q_sample(original, eps, job.levels[0].alpha, job.levels[0].sigma)
        sampler, denoise = find_sampler(settings.sampler), self._denoise(job, rows)

        def draw(step: int) -> Tensor:
            return noise(job.latent_shape, seeds, "sampler", step)

        if job.keep is None or original is None:
            return sampler(denoise, x_t, job.levels, draw=draw, **settings.options)
        keep = job.keep[rows.start : rows.stop]
        return inpaint(
            sampler, denoise, x_t, job.levels, draw=draw, original=original, keep=keep, eps=eps, **settings.options
        )

    def _denoise(self, job: _Job, rows: range) -> Denoise:
        """Give the guided network for a batch: all rows at once where that gives the same bits, else one by one."""
        together = self._bound(job, rows)
        if len(rows) == 1:
            return together
        alone = [self._bound(job, range(row, row + 1)) for row in rows]
        settings, (low, high) = job.settings, job.settings.guidance_interval
        attached = self._use.changes if self.bundle.held_in == "bf16" else 0  # beside the weights: other kernels

        def split(x_t: Tensor, level: Level) -> Tensor:
            return torch.cat([one(row[None], level) for one, row in zip(alone, x_t, strict=True)])

        def denoise(x_t: Tensor, level: Level) -> Tensor:
            guided = settings.guidance_scale not in (0, 1) and low <= level.sigma <= high
            key = (len(rows), job.latent_shape, guided, torch.get_num_threads(), attached)
            if key not in self._same_bits:
                separate = split(x_t, level)
                self._same_bits[key] = torch.equal(together(x_t, level), separate)
                return separate
            return together(x_t, level) if self._same_bits[key] else split(x_t, level)

        return denoise

    def _bound(self, job: _Job, rows: range) -> Denoise:
        """Bind the conditions of some pictures."""
        settings = job.settings
        cond = Condition(torch.cat([job.contexts[job.prompts[row]] for row in rows]))
        uncond = Condition(job.contexts[settings.negative].expand(len(rows), -1, -1))
        scale, rescale, interval = settings.guidance_scale, settings.guidance_rescale, settings.guidance_interval
        return torch.no_grad()(self.bundle.denoiser().bind_guided(cond, uncond, scale, rescale, interval))

    @torch.no_grad()
    def _picture(self, job: _Job, row: int, latents: Tensor) -> Tensor:
        """Decode one picture; what the mask keeps is taken from the initial picture, pixel by pixel."""
        image = self.bundle.autoencoder.to_images(latents[None])[0].clamp(-1, 1)
        check_finite(image, job.seeds[row], self.bundle, self.concepts, in_lesson=self._owner is not self)
        if job.mask is None or job.init_image is None:
            return image
        mask, original = job.mask[row], job.init_image[row]
        return torch.where(mask == 0, original, mask * image + (1 - mask) * original)


def _fitting(settings: Settings, count: int) -> AbstractContextManager[None]:
    """Say what to change when drawing so many pictures runs out of memory."""
    return fitting_into_memory(f"Drawing {min(settings.batch_size, count)} picture(s) at once", _SMALLER)
