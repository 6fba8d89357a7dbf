"""Fixed prompts with known truth: what a model is asked for when it is measured, and what a right answer looks like."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sfumato.data.backgrounds import COLOURS, Background
from sfumato.data.compose import Scene, compose, compose_pair, compose_person
from sfumato.data.facts import RELATIONS
from sfumato.data.primer.library import SPLITS, IconRecord, Primer
from sfumato.data.scenes import PAIR_GROUPS, people_of
from sfumato.errors import ConfigError, DataError
from sfumato.runtime.seeding import derive_seed

PromptKind = Literal["icon", "pair", "character"]
PROMPT_KINDS: tuple[PromptKind, ...] = ("icon", "pair", "character")


def prompts(primer: Primer, kind: PromptKind, count: int, seed: int, split: str = "train") -> list[Scene]:
    """Draw prompts that say everything that matters, each with a real scene of what it asks for.

    Why: whether a generated picture is right can be read off `scene.facts`, and `scene.image` shows what right looks
    like. No icon is asked for twice before every other one was; grounds are plain and colours take turns.

    Args:
        primer: The training set.
        kind: `icon`: one icon on a plain ground; `pair`: two icons of one style in a relation, on white; `character`: a
            drawn person on a plain ground.
        count: How many, 1 or more.
        seed: Decides which ones.
        split: Where the (first) thing comes from, as in `SceneSampler`.

    Returns:
        Scenes; `caption` is the prompt.

    Raises:
        ConfigError: Unknown kind or split, or count below 1.
        DataError: The set has nothing of this kind in this split.
    """
    if kind not in PROMPT_KINDS:
        raise ConfigError(f"Prompt kind '{kind}' is not one of {', '.join(PROMPT_KINDS)}.", field="kind")
    if split not in SPLITS:
        raise ConfigError(f"Split '{split}' is not one of {', '.join(SPLITS)}.", field="split")
    if count < 1:
        raise ConfigError(f"{count} prompts were asked for; at least 1 is needed.", field="count")
    rng = np.random.default_rng(derive_seed(seed, f"prompts/{kind}/{split}"))
    if kind == "character":
        return _people(primer, count, rng, split)
    icons = [icon for icon in primer.icons if icon.split == split and (kind == "icon" or icon.group in PAIR_GROUPS)]
    if not icons:
        raise DataError(f"{primer.folder} has no icons in split '{split}' to ask for.", hint="Build the set again.")
    chosen = [icons[i] for i in _turns(rng, len(icons), count)]
    if kind == "pair":
        return [_pair(primer, icon, rng, number) for number, icon in enumerate(chosen)]
    return [
        compose(primer, icon.concept, icon.style, background=_plain(primer, icon.file, rng, number), seed=number)
        for number, icon in enumerate(chosen)
    ]


def _people(primer: Primer, count: int, rng: np.random.Generator, split: str) -> list[Scene]:
    """Ask for drawn people, one picture of each before a second of any."""
    people = people_of(primer, split)
    if not people:
        raise DataError(f"{primer.folder} has no characters in split '{split}' to ask for.", hint="Build them too.")
    scenes = []
    for number, index in enumerate(_turns(rng, len(people), count)):
        variants = people[index]
        file = variants[int(rng.integers(len(variants)))]["file"]
        scenes.append(compose_person(primer, file, background=_plain(primer, file, rng, number), seed=number))
    return scenes


def _pair(primer: Primer, icon: IconRecord, rng: np.random.Generator, number: int) -> Scene:
    """Ask for an icon beside a known one of the same style; relations take turns."""
    known = [
        other
        for other in primer.icons
        if other.split == "train"
        and other.style == icon.style
        and other.group in PAIR_GROUPS
        and other.concept != icon.concept
    ]
    if not known:
        raise DataError(f"{primer.folder} has no second icon in style '{icon.style}'.", hint="Build the set again.")
    other = known[int(rng.integers(len(known)))]
    relation = RELATIONS[number % len(RELATIONS)]
    pair = ((icon.concept, icon.style), (other.concept, other.style))
    return compose_pair(primer, pair[0], relation, pair[1], seed=number)


def _plain(primer: Primer, file: str, rng: np.random.Generator, number: int) -> Background:
    """Take the next colour on which the thing can be seen; the named colour itself, without a shade."""
    names = list(COLOURS)
    free = [name for name in names if name not in primer.sprite(file).hidden_by] or names
    wanted = names[number % len(names)]
    return Background("plain", (wanted if wanted in free else free[int(rng.integers(len(free)))],))


def _turns(rng: np.random.Generator, length: int, count: int) -> list[int]:
    """Draw indices so that each comes once before any comes again."""
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(length).tolist()
    return order[:count]
