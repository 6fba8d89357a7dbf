"""The small Python interface: what the command line does, with values in place of files where that is handier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import ConfigError, SfumatoError
from sfumato.events import Artifact
from sfumato.formats.bundle import load_bundle
from sfumato.formats.concept import Concept
from sfumato.operations.concept_uses import concept_uses
from sfumato.operations.learn import is_result
from sfumato.operations.learn import learn as learn_subject
from sfumato.operations.learn_plan import LearnPlan
from sfumato.operations.pictures import Picture, check_choices, draw
from sfumato.operations.plan_lesson import plan_lesson
from sfumato.operations.recorded_base import recorded_base
from sfumato.pipeline import Pipeline
from sfumato.requests import GenerateRequest, LearnRequest
from sfumato.resolve import resolve

OneConcept = str | Path | Concept
"""A concept file, or what `load_concept` returned."""


def load(base: str | Path = "primer") -> Pipeline:
    """Load a base model once, for many calls.

    Args:
        base: `primer`, or a folder in diffusers layout.

    Returns:
        A pipeline; its `bundle` holds the networks, plain torch modules. Threads may draw with it at the same time as
        long as none uses concepts or learns.

    Raises:
        CheckpointError: The base is missing, damaged or of another kind.
    """
    return Pipeline(load_bundle(base))


def generate(
    prompt: str,
    *,
    base: str | Path | Pipeline = "primer",
    concepts: OneConcept | tuple[OneConcept, float] | Sequence[OneConcept | tuple[OneConcept, float]] = (),
    **options: Any,
) -> list[Picture]:
    """Draw pictures.

    Args:
        prompt: What to draw.
        base: A loaded pipeline, `primer`, or a folder in diffusers layout.
        concepts: Concept files, or concepts that `load_concept` returned, each alone or with its strength; one or more.
        **options: Other fields of `GenerateRequest`, such as `count`, `seed`, `steps`, `size` or `init_image`.

    Returns:
        Pictures; `image` is a PIL image, `save` writes a PNG with the recipe inside.

    Raises:
        ConfigError: An option is unknown or out of range, a concept is not that of a file, or the pipeline is busy.
        SfumatoError: A file or the base is not usable.
    """
    if "output" in options:
        raise ConfigError(
            "output was given; `generate` writes no files.",
            field="output",
            hint="Save each picture with `picture.save(path)`, or write all with `sfumato.run(GenerateRequest(...))`.",
        )
    pipeline = base if isinstance(base, Pipeline) else None
    name = str(base) if pipeline is None else recorded_base(pipeline.bundle)
    given = {"prompt": prompt, "base": name, "concepts": concept_uses(concepts), **options}
    request = resolve(GenerateRequest, flags=given).request
    check_choices(request)
    return [event for event in draw(request, pipeline) if isinstance(event, Picture)]


def learn(
    folder: str | Path, *, placeholder: str, class_noun: str, base: str | Path | Pipeline = "primer", **options: Any
) -> Path:
    """Learn a subject from the pictures in a folder.

    Args:
        folder: 3 to 5 pictures; a text file beside a picture is its caption.
        placeholder: Word that will stand for the subject, such as `<fox>`.
        class_noun: What it is, such as `fox`.
        base: A loaded pipeline, `primer`, or a folder in diffusers layout; it is left as it was. A loaded one draws for
            nobody else meanwhile and keeps its weights as they are held, so that with `precision="bf16"` only one that
            is named takes half the memory.
        **options: Other fields of `LearnRequest`, such as `steps`, `rank`, `seed` or `output`.

    Returns:
        The concept file; with `method="dreambooth"` and a folder as `output` that folder, which is a base.

    Raises:
        ConfigError: An option is unknown or out of range, `output` would take something else's place, or the pipeline
            is busy.
        SfumatoError: A picture or the base is not usable, or the run did not come to its end.
    """
    pipeline = base if isinstance(base, Pipeline) else None
    given = {"folder": folder, "placeholder": placeholder, "class_noun": class_noun, **options}
    if pipeline is None:
        given["base"] = str(base)
    request = resolve(LearnRequest, flags=given).request
    written = None
    for event in learn_subject(request, None if pipeline is None else pipeline.bundle):
        if isinstance(event, Artifact) and is_result(event):
            written = event.path
    if written is None:
        raise SfumatoError(f"Learning {placeholder} was stopped before its last step.", hint="Go on with resume=True.")
    return written


def plan(
    folder: str | Path, *, placeholder: str, class_noun: str, base: str | Path = "primer", **options: Any
) -> LearnPlan:
    """Say what a lesson would need, from three steps that are taken for real in a process of their own.

    Args:
        folder: As for `learn`.
        placeholder: As for `learn`.
        class_noun: As for `learn`.
        base: `primer`, or a folder in diffusers layout.
        **options: Other fields of `LearnRequest`; `memory`, such as `"6GB"`, is what it should fit into.

    Returns:
        Steps, time, memory, disk, every setting, and switches that fit if it does not.

    Raises:
        ConfigError: An option is unknown or out of range.
        SfumatoError: What the lesson itself would complain about.
    """
    given = {"folder": folder, "placeholder": placeholder, "class_noun": class_noun, "base": str(base), **options}
    request = resolve(LearnRequest, flags=given).request
    made = [event for event in plan_lesson(request) if isinstance(event, LearnPlan)]
    return made[-1]
