"""What a report needs of a base: that it draws, that it sends pictures through its autoencoder, and its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sfumato.data.backgrounds import SIZE
from sfumato.data.compose import Scene
from sfumato.data.images import resize, to_pixels
from sfumato.errors import DataError
from sfumato.evaluation.distance import Reconstruct
from sfumato.evaluation.features import Measuring
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.evaluation.questions import Answer, picture_seed
from sfumato.events import Event, Notice, Progress
from sfumato.pipeline import Drawn, Pipeline, Settings

Draw = Callable[[Sequence[str], Sequence[int], Settings], Iterator[Event]]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: Name of the base.
        base_hash: Hash of its weights.
        draw: Draws prompts with seeds and yields a `Drawn` for each, in order.
        reconstruct: Encodes and decodes pictures in [-1, 1].
        fits: Says whether a prompt is short enough.
    """

    name: str
    base_hash: str
    draw: Draw
    reconstruct: Reconstruct
    fits: Callable[[str], bool]


def subject_of(pipeline: Pipeline) -> Subject:
    """Wrap a pipeline.

    Args:
        pipeline: A loaded base, with the concepts that are switched on.
    """
    bundle = pipeline.bundle

    def fits(prompt: str) -> bool:
        try:
            pipeline.context(prompt)
        except DataError:
            return False
        return True

    return Subject(
        bundle.name,
        bundle.base_hash,
        pipeline.generate,
        lambda images: bundle.autoencoder.to_images(bundle.autoencoder.to_latents(images)),
        fits,
    )


def draw_answers(subject: Subject, kind: str, scenes: Sequence[Scene], plan: EvaluationPlan) -> Measuring[list[Answer]]:
    """Let a base answer questions of one kind.

    Args:
        subject: The base.
        kind: Name of the kind; decides the seeds.
        scenes: The questions.
        plan: How to draw.

    Yields:
        `Progress`, and a `Notice` if prompts are too long for the base and are left out.

    Returns:
        The answers.
    """
    asked = [(number, scene) for number, scene in enumerate(scenes) if subject.fits(scene.caption)]
    if len(asked) < len(scenes):
        yield Notice(0, f"{len(scenes) - len(asked)} of {len(scenes)} prompts for {kind} are too long for the base.")
    if not asked:
        return []
    settings = Settings(**plan.drawing.model_dump())
    seeds = [picture_seed(plan, kind, number) for number, _ in asked]
    answers: list[Answer] = []
    for event in subject.draw([scene.caption for _, scene in asked], seeds, settings):
        if isinstance(event, Drawn):
            answers.append(Answer(asked[event.index][1], resize(to_pixels(event.image), SIZE)))
            yield Progress(f"drawing {kind}", len(answers), len(asked))
    return answers
