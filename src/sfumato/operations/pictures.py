"""From a request to finished pictures with their recipes, in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import __version__
from sfumato.data.images import load_image, resize, to_pixels, to_tensor
from sfumato.data.masks import MOST_LABELS
from sfumato.errors import ConfigError, ShapeError
from sfumato.events import Event, Notice, Step
from sfumato.formats.bundle import load_bundle
from sfumato.formats.concept import Concept, load_concept
from sfumato.formats.png_recipe import RECIPE_VERSION, UNUSUAL_TITLES, encode_png, file_hash, place_picture
from sfumato.operations.prompt_words import check_files_in_prompts, unknown_words
from sfumato.operations.recorded_base import recorded_base
from sfumato.pipeline import Drawn, Pipeline, Settings
from sfumato.requests import MOST_SEED, GenerateRequest, flag_of
from sfumato.runtime.file_stem import file_stem
from sfumato.runtime.in_use import in_use

BLACK = (0, 0, 0)
OF_ONE_PICTURE = ("prompt", "negative_prompt", "steps", "sampler", "guidance_scale")
_CUT = 0.02  # shares of a picture that nobody misses


@dataclass(frozen=True)
class Picture(Event):
    """A finished picture.

    Attributes:
        image: The picture, RGB.
        seed: Its seed.
        recipe: Everything needed to draw it again.
    """

    image: Image.Image
    seed: int
    recipe: dict[str, Any]

    @property
    def stem(self) -> str:
        """Name for its file, made of the prompt and the seed."""
        words = file_stem(self.recipe["request"]["prompt"])
        return f"{words[:48].rstrip('-_') or 'picture'}-{self.seed}"

    def to_png(self) -> bytes:
        """Return the bytes of a PNG with the recipe inside."""
        return encode_png(self.image, self.recipe)

    def save(self, path: Path | str) -> Path:
        """Write a PNG with the recipe inside; an existing file is never replaced.

        Args:
            path: Where to; `-2` is added to the name when another picture has it already.

        Returns:
            Where it lies.

        Raises:
            ConfigError: The name does not end in .png.
            StorageError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ConfigError(f"The name '{path.name}' was given; needed: one that ends in .png.", field="path")
        return place_picture(path.parent, path.stem, self.to_png())


def check_choices(request: GenerateRequest) -> None:
    """Refuse what would change nothing, before anything is loaded.

    Args:
        request: What is to be drawn.

    Raises:
        ConfigError: A file in a prompt, a mask or a strength without an initial picture, a value that only guidance
            uses without guidance, or more pictures than there are seeds.
    """
    check_files_in_prompts(request)
    _check_starts_from_a_picture(request)
    _check_is_guided(request)
    last = request.seed + request.count - 1
    if last > MOST_SEED:
        raise ConfigError(
            f"--seed {request.seed} with {request.count} pictures ends at seed {last}; needed: at most {MOST_SEED}.",
            field="seed",
        )


def draw(
    request: GenerateRequest, pipeline: Pipeline | None = None, *, is_new: bool = True
) -> Generator[Notice | Step | Picture, None, None]:
    """Draw the pictures of a request.

    Args:
        request: What to draw. Its `output` plays no part here.
        pipeline: A loaded base to use instead of the one that the request names.
        is_new: Refuse a mask that marks nothing; a picture that has been drawn is drawn again with any.

    Yields:
        A `Notice` where the initial picture is cut or nothing knows a word of a prompt, a `Step` for every sampler step
        and a `Picture` for every finished picture.

    Raises:
        SfumatoError: A file cannot be read, the base or a concept is not usable, or values do not fit together.
    """
    if pipeline is not None and pipeline.concepts:
        in_use(pipeline.bundle.unet).checked(pipeline)  # another thread's concepts mean that it is busy
        raise ConfigError(
            "The pipeline draws with concepts inside of `using`; no recipe could name these.",
            field="concepts",
            hint="Give concepts=, or draw with `Pipeline.images`, which writes no recipe.",
        )
    inputs = _Inputs.read(request, is_new)
    concepts = [(load_concept(use.path), use.strength) for use in request.concepts]
    pipeline = pipeline or Pipeline(load_bundle(request.base))
    recipe = _recipe(request, pipeline, inputs)
    yield from unknown_words(request, pipeline, (w.placeholder for concept, _ in concepts for w in concept.words))
    yield from _drawn(request, pipeline, concepts, inputs, recipe)


def _check_starts_from_a_picture(request: GenerateRequest) -> None:
    """Refuse what only changes a picture where there is none."""
    if request.init_image is not None:
        return
    usual = GenerateRequest.model_fields["strength"].default
    given = f"--mask {request.mask}" if request.mask is not None else f"--strength {request.strength:g}"
    if request.mask is not None or request.strength != usual:
        raise ConfigError(
            f"{given} was given without --init-image.",
            field="mask" if request.mask is not None else "strength",
            hint="Name the picture that is changed with --init-image.",
        )


def _check_is_guided(request: GenerateRequest) -> None:
    """Refuse what only changes guidance where there is none."""
    unused = {1.0: ("negative_prompt", "guidance_rescale", "guidance_interval"), 0.0: ("guidance_rescale",)}
    fields = GenerateRequest.model_fields
    for key in unused.get(request.guidance_scale, ()):
        if getattr(request, key) != fields[key].default:
            given = request.model_dump(mode="json")[key]
            raise ConfigError(
                f"{flag_of(key, fields[key]).names[-1]} {given} was given with --guidance {request.guidance_scale:g}, "
                "which switches guidance off.",
                field=key,
                hint="Give --guidance above 1, or leave the other out.",
            )


@dataclass(frozen=True)
class _Inputs:
    """The picture to start from and the mask, as they are in their files."""

    picture: np.ndarray | None = None
    mask: np.ndarray | None = None
    is_new: bool = True

    @classmethod
    def read(cls, request: GenerateRequest, is_new: bool) -> _Inputs:
        """Read the files that a request names."""
        if request.init_image is None:
            return cls()
        picture = load_image(request.init_image).rgb
        if request.mask is None:
            return cls(picture)
        mask = load_image(request.mask, BLACK).rgb
        (height, width), (mask_height, mask_width) = picture.shape[:2], mask.shape[:2]
        if abs(width * mask_height - mask_width * height) > max(width, mask_width):
            raise ShapeError(
                f"The mask {request.mask} is {mask_width}x{mask_height}, the picture {request.init_image} is "
                f"{width}x{height}; needed: the same proportions.",
                field="mask",
            )
        if is_new:
            _check_marks(int(mask.max()), request)
        return cls(picture, mask, is_new)

    def cut(self, request: GenerateRequest, size: tuple[int, int]) -> Iterator[Notice]:
        """Say what of the picture is lost where its proportions are not those of the size."""
        if self.picture is None:
            return
        (height, width), (wanted_width, wanted_height) = self.picture.shape[:2], size
        shares = wanted_width * height / (wanted_height * width), wanted_height * width / (wanted_width * height)
        lost = 1 - min(shares)
        if lost > _CUT:
            text = f"{request.init_image} is {width}x{height}: its middle is cut to {wanted_width}x{wanted_height}, "
            yield Notice(0, f"{text}{lost:.0%} of it is left out. Give --size in its proportions to keep all of it.")

    def fitted(self, size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """Crop the middle and scale it: picture `(1, 3, H, W)` in [-1, 1], mask `(1, 1, H, W)` in [0, 1]."""
        picture = None if self.picture is None else to_tensor(resize(self.picture, *size))[None]
        if self.mask is None:
            return picture, None
        mask = to_tensor(resize(self.mask, *size, Image.Resampling.BOX))
        grey = (mask.mean(0)[None, None] + 1) / 2
        if self.is_new and not bool(grey.any()):
            raise ConfigError(
                "The mask marks nothing in the middle of the picture, which is what is left of it at this size.",
                field="mask",
                hint="Give --size in the proportions of the picture.",
            )
        return picture, grey


def _check_marks(brightest: int, request: GenerateRequest) -> None:
    """Refuse a mask by which nothing would be drawn, or nothing that is seen."""
    if brightest <= MOST_LABELS:
        what = f"nowhere white (its highest value is {brightest} of 255)" if brightest else "black everywhere"
        raise ConfigError(
            f"The mask {request.mask} is {what}: nothing would be drawn.",
            field="mask",
            hint="Where something is to be drawn it must be white.",
        )


def _drawn(
    request: GenerateRequest,
    pipeline: Pipeline,
    concepts: list[tuple[Concept, float]],
    inputs: _Inputs,
    recipe: dict[str, Any],
) -> Generator[Notice | Step | Picture, None, None]:
    """Run the pipeline and turn what it draws into pictures."""
    size = _size(request, pipeline)
    init_image, mask = inputs.fitted(size)
    yield from inputs.cut(request, size)
    seeds = [request.seed + number for number in range(request.count)]
    with pipeline.using(*concepts):
        events = pipeline.generate([request.prompt], seeds, _settings(request, size), init_image=init_image, mask=mask)
        for event in events:
            if isinstance(event, Step):
                yield event
            elif isinstance(event, Drawn):
                own = {**recipe, "request": {**recipe["request"], "seed": event.seed}}
                yield Picture(Image.fromarray(to_pixels(event.image)), event.seed, own)


def _size(request: GenerateRequest, pipeline: Pipeline) -> tuple[int, int]:
    """Return width and height: those of the request or the base's own."""
    native = pipeline.bundle.native_size
    return request.size or (native, native)


def _settings(request: GenerateRequest, size: tuple[int, int]) -> Settings:
    """Return how the pipeline shall draw."""
    return Settings(
        steps=request.steps,
        sampler=request.sampler,
        guidance_scale=request.guidance_scale,
        guidance_rescale=request.guidance_rescale,
        guidance_interval=(request.guidance_interval.low, request.guidance_interval.high),
        spacing="trailing" if request.spacing == "karras" else request.spacing,
        karras=request.spacing == "karras",
        options={} if request.eta is None else {"eta": request.eta},
        negative=request.negative_prompt,
        size=size,
        strength=request.strength,
        batch_size=request.batch_size,
    )


def _recipe(request: GenerateRequest, pipeline: Pipeline, inputs: _Inputs) -> dict[str, Any]:
    """Return everything that decides the pictures of a request, but for the seed."""
    values = request.model_dump(mode="json")
    width, height = _size(request, pipeline)
    bundle, fields = pipeline.bundle, GenerateRequest.model_fields
    unusual = {key: values[key] for key in UNUSUAL_TITLES if getattr(request, key) != fields[key].default}
    recipe: dict[str, Any] = {
        "version": RECIPE_VERSION,
        "sfumato": __version__,
        "torch": torch.__version__,
        "request": {key: values[key] for key in OF_ONE_PICTURE} | unusual | {"size": f"{width}x{height}"},
        "base": {"path": recorded_base(bundle), "name": bundle.name, "hash": bundle.base_hash},
        "concepts": [
            {"path": str(use.path), "hash": file_hash(use.path), "strength": use.strength} for use in request.concepts
        ],
    }
    if bundle.computes_in != "fp32":
        recipe["base"]["held_in"] = bundle.held_in
    if request.init_image is not None:
        recipe["request"]["strength"] = request.strength
        recipe["init_image"] = {"path": str(request.init_image), "hash": file_hash(request.init_image)}
    if request.mask is not None:
        recipe["mask"] = {"path": str(request.mask), "hash": file_hash(request.mask)}
    return recipe
