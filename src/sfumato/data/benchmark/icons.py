"""The held-out icons as subjects: one drawn style of each is learned, the same icon elsewhere is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from sfumato.data.backgrounds import Background
from sfumato.data.benchmark.grounds import asked_ground, new_ground, training_grounds
from sfumato.data.benchmark.pictures import Made, MadePrompt, made_prompt, made_training
from sfumato.data.benchmark.schema import PICTURES, PromptKind
from sfumato.data.captions import describe_fully, describe_ground, with_article
from sfumato.data.compose import Scene, compose, compose_pair
from sfumato.data.facts import PlaceName, Relation, SizeName
from sfumato.data.primer.concepts import HELD_OUT_CONCEPTS
from sfumato.data.primer.library import Primer
from sfumato.data.scenes import PAIR_GROUPS
from sfumato.errors import DataError
from sfumato.runtime.seeding import derive_seed

WORDS: dict[str, tuple[str, str]] = {
    "unicorn": ("horse face", "white horse face with a bright mane and a golden horn"),
    "octopus": ("squid", "squid with eight arms and a big round head"),
    "robot": ("alien monster", "square metal face with round eyes and an antenna"),
    "teddy-bear": ("bear", "brown toy bear with round ears and a dark nose"),
    "red-apple": ("peach", "round red fruit with a green leaf"),
}
"""For each held-out concept a class noun that the base knows, and a description in words that it knows."""

_SHOWN: tuple[tuple[SizeName, PlaceName], ...] = (
    ("large", "center"),
    ("medium", "left"),
    ("medium", "top right"),
    ("small", "bottom"),
    ("small", "top"),
)
_PLACES: tuple[PlaceName, ...] = ("top left", "bottom right", "right", "bottom left")
_RELATIONS: tuple[Relation, ...] = ("left of", "above", "right of", "below")
_PER_KIND = 2
Option = TypeVar("Option")


def make_icons(primer: Primer, seed: int, pictures: int = PICTURES) -> list[Made]:
    """Compose the pictures of every held-out concept and write its prompts.

    Args:
        primer: The training set.
        seed: Decides styles, grounds, places and neighbours.
        pictures: How many pictures of each there are to learn from, at most `MOST_PICTURES`.

    Raises:
        DataError: The set has no icon of a held-out concept.
    """
    made = []
    for concept in HELD_OUT_CONCEPTS:
        styles = sorted(style for name, style in primer.by_pair if name == concept)
        if not styles:
            raise DataError(
                f"{primer.folder} has no icon of the held-out concept '{concept}'.",
                hint="Build the set again with 'sfumato data primer'.",
            )
        made.append(_make(primer, concept, styles, derive_seed(seed, f"benchmark/{concept}"), pictures))
    return made


def _make(primer: Primer, concept: str, styles: Sequence[str], seed: int, pictures: int) -> Made:
    """Make one subject."""
    rng = np.random.default_rng(seed)
    style = styles[int(rng.integers(len(styles)))]
    noun, description = WORDS[concept]
    hidden = primer.sprite(primer.icon(concept, style).file).hidden_by
    asked = asked_ground(hidden)
    grounds = training_grounds(rng, hidden, asked, pictures)
    plain = _alone(primer, concept, style, asked, seed)
    training = []
    for number, ((size, place), ground) in enumerate(zip(_SHOWN, grounds, strict=False)):
        scene = compose(primer, concept, style, background=ground, size=size, place=place, seed=seed + number)
        training.append(made_training(replace(scene, caption=_called(scene, noun)), ground))
    prompts: list[MadePrompt] = []
    known = [*grounds, asked]
    for kind in ("plain", "patterned"):
        ground = new_ground(rng, hidden, known, "plain" if kind == "plain" else "patterned")
        known.append(ground)
        expects = {"ground": ground.colours[0]} if kind == "plain" else {}
        prompts.append(
            _asked("background", [_alone(primer, concept, style, ground, seed)], plain, description, expects)
        )
    for place in _some(rng, _PLACES):
        truths = [_alone(primer, concept, style, asked, seed + number, "small", place) for number in range(2)]
        prompts.append(_asked("place", truths, plain, description, {"place": place}))
    for relation in _some(rng, _RELATIONS):
        prompts.append(
            _asked("beside", _beside(primer, (concept, style), relation, asked, rng), plain, description, {})
        )
    for other in _some(rng, [name for name in styles if name != style]):
        prompts.append(_asked("style", [_alone(primer, concept, other, asked, seed)], plain, description, {}))
    class_prompt = f"{with_article(style)} icon of {with_article(noun)} {describe_ground(asked)}"
    return Made(concept, "icon", style, noun, class_prompt, style, training, prompts)


def _alone(
    primer: Primer,
    concept: str,
    style: str,
    ground: Background,
    seed: int,
    size: SizeName = "large",
    place: PlaceName = "center",
) -> Scene:
    """Compose the icon by itself."""
    return compose(primer, concept, style, background=ground, size=size, place=place, seed=seed)


def _beside(
    primer: Primer, icon: tuple[str, str], relation: Relation, ground: Background, rng: np.random.Generator
) -> list[Scene]:
    """Compose the icon beside one that the base knows in the same style, twice a little differently."""
    known = [
        other
        for other in primer.icons
        if other.split == "train" and other.style == icon[1] and other.group in PAIR_GROUPS
    ]
    visible = [other for other in known if ground.colours[0] not in primer.sprite(other.file).hidden_by] or known
    if not visible:
        raise DataError(f"{primer.folder} has no icon in style '{icon[1]}' to stand beside '{icon[0]}'.")
    other = visible[int(rng.integers(len(visible)))]
    pair = (other.concept, other.style)
    seed = int(rng.integers(2**31))
    return [compose_pair(primer, icon, relation, pair, background=ground, seed=seed + number) for number in range(2)]


def _asked(
    kind: PromptKind, truths: Sequence[Scene], plain: Scene, description: str, expects: dict[str, str]
) -> MadePrompt:
    """Write a prompt for scenes that differ only by chance."""
    text, words = _called(truths[0], "{}"), _called(truths[0], description)
    return made_prompt(kind, text, words, truths, plain, expects)


def _called(scene: Scene, noun: str) -> str:
    """Describe a scene with another name for its first thing."""
    first, *rest = scene.facts.things
    return describe_fully(replace(scene.facts, things=(replace(first, label=noun), *rest)))


def _some(rng: np.random.Generator, options: Sequence[Option]) -> list[Option]:
    """Choose a few of some options."""
    return [options[index] for index in rng.permutation(len(options))[:_PER_KIND].tolist()]
