"""Subjects with their pictures in memory, before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from sfumato.data.backgrounds import Background
from sfumato.data.benchmark.schema import Prompt, PromptKind, Subject, TrainingPicture
from sfumato.data.captions import describe_ground
from sfumato.data.compose import Scene

Pixels = UInt8[np.ndarray, "128 128 3"]


@dataclass(frozen=True)
class MadeTraining:
    """A picture to learn from, with its caption, its ground in words and the size of what it shows."""

    pixels: Pixels
    caption: str
    ground: str
    size: float


@dataclass(frozen=True)
class MadePrompt:
    """A prompt with its true pictures; see `schema.Prompt`."""

    kind: PromptKind
    text: str
    words: str
    truths: tuple[Pixels, ...]
    unchanged: Pixels
    expects: dict[str, str]


@dataclass(frozen=True)
class Made:
    """A subject; see `schema.Subject`."""

    name: str
    kind: Literal["character", "icon"]
    style: str
    class_noun: str
    class_prompt: str
    licence: str
    training: Sequence[MadeTraining]
    prompts: Sequence[MadePrompt]

    def files(self) -> tuple[Subject, dict[str, Pixels]]:
        """Name a file for every picture.

        Returns:
            The entry for `benchmark.json`, and the pictures by file.
        """
        pictures: dict[str, Pixels] = {}
        training = []
        for number, made in enumerate(self.training):
            file = f"{self.name}/train/{number}.png"
            pictures[file] = made.pixels
            training.append(TrainingPicture(file=file, caption=made.caption, ground=made.ground, size=made.size))
        prompts = []
        for place, prompt in enumerate(self.prompts):
            number = 1 + sum(other.kind == prompt.kind for other in self.prompts[:place])
            name = f"{prompt.kind}-{number}"
            truths = [f"{self.name}/truth/{name}-{index}.png" for index in range(len(prompt.truths))]
            unchanged = f"{self.name}/truth/{name}-unchanged.png"
            pictures |= {**dict(zip(truths, prompt.truths, strict=True)), unchanged: prompt.unchanged}
            prompts.append(
                Prompt(
                    name=name,
                    kind=prompt.kind,
                    text=prompt.text,
                    words=prompt.words,
                    truths=tuple(truths),
                    expects=prompt.expects,
                    unchanged=unchanged,
                )
            )
        entry = Subject(
            name=self.name,
            kind=self.kind,
            style=self.style,
            class_noun=self.class_noun,
            class_prompt=self.class_prompt,
            licence=self.licence,
            pictures=tuple(training),
            prompts=tuple(prompts),
        )
        return entry, pictures


def made_training(scene: Scene, ground: Background, side: float | None = None) -> MadeTraining:
    """Take a scene as a picture to learn from.

    Args:
        scene: The picture and its caption.
        ground: What lies behind.
        side: Size of the subject's frame as a share of the picture; `None` measures the subject.
    """
    box = scene.boxes[0]
    size = side or max(box.right - box.left, box.bottom - box.top) / scene.image.shape[0]
    return MadeTraining(scene.image, scene.caption, describe_ground(ground), round(size, 3))


def made_prompt(
    kind: PromptKind, text: str, words: str, scenes: Sequence[Scene], unchanged: Scene, expects: dict[str, str]
) -> MadePrompt:
    """Take scenes as the truths of a prompt, and one as the subject without the change."""
    return MadePrompt(kind, text, words, tuple(scene.image for scene in scenes), unchanged.image, expects)
