"""Scenes with known truth: icons and drawn people on many grounds, composed on the fly with caption, boxes and masks.

A scene is a function of (seed, split, index), so training can resume anywhere and a test set needs no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from sfumato.data.backgrounds import KINDS, Background, Kind, draw_background, pick
from sfumato.data.captions import describe, describe_fully
from sfumato.data.compose import (
    Scene,
    compose,
    compose_pair,
    compose_person,
    icon_thing,
    pair_facts,
    person_thing,
    portrait_box,
    render,
)
from sfumato.data.facts import RELATIONS, SIZES, Facts, SizeName
from sfumato.data.layout import between, draw_place, draw_side, fit, place_one
from sfumato.data.primer.characters import describe as describe_person
from sfumato.data.primer.library import SPLITS, IconRecord, Primer
from sfumato.errors import ConfigError
from sfumato.runtime.seeding import derive_seed

__all__ = ["Plan", "Primer", "Scene", "SceneConfig", "SceneSampler", "compose", "compose_pair", "compose_person"]

SceneKind = Literal["icon", "pair", "character"]
SCENE_KINDS: tuple[SceneKind, ...] = get_args(SceneKind)
PAIR_GROUPS = {"smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"}


def _icon_groups() -> dict[str, float]:
    """Pictograms are many, alike and easy; animals and food are what people ask for first."""
    return {"people-body": 0.7, "symbols": 0.6, "flags": 0.6, "animals-nature": 1.4, "food-drink": 1.2}


def _ground_kinds() -> dict[Kind, float]:
    """Half the grounds are plain; the other half is shared by two-tone and patterned ones."""
    return {"plain": 0.5, "split": 0.08, "gradient": 0.14, "stripes": 0.09, "dots": 0.07, "checks": 0.06, "grain": 0.06}


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are made of. All weights are relative to one another.

    Attributes:
        icon_weight: Scenes with one icon.
        pair_weight: Scenes with two icons in a relation.
        character_weight: Scenes with a drawn person; set it to 0 for a training set without characters.
        size_weights: Sizes of single icons.
        centered: Probability that a single icon stands in the middle.
        background_weights: Kinds of background.
        group_weights: How often icons of an emoji group are drawn; groups not named have 1.
        same_style: Probability that two icons share one style.
        character_sides: Smallest and largest side of a portrait, as shares of the picture.
        settled: Share of scenes whose things stand exactly where and exactly as large as the words say: the middle of
            every range. A model learns these sooner, since one caption then means one picture.
        full_captions: Share of scenes whose caption is the plain one that says everything, in one order of words.
        full_caption_kinds: The kinds of scene that this share is of; the others keep their varied words.
    """

    icon_weight: float = 0.62
    pair_weight: float = 0.13
    character_weight: float = 0.25
    size_weights: Mapping[SizeName, float] = field(
        default_factory=lambda: {"small": 0.15, "medium": 0.4, "large": 0.45}
    )
    centered: float = 0.55
    background_weights: Mapping[Kind, float] = field(default_factory=_ground_kinds)
    group_weights: Mapping[str, float] = field(default_factory=_icon_groups)
    same_style: float = 0.8
    character_sides: tuple[float, float] = (0.85, 1.0)
    settled: float = 0.0
    full_captions: float = 0.0
    full_caption_kinds: tuple[SceneKind, ...] = SCENE_KINDS

    def __post_init__(self) -> None:
        scenes = ("icon_weight", "pair_weight", "character_weight")
        _check_weights("scene weights", {name: getattr(self, name) for name in scenes}, scenes)
        _check_weights("size_weights", self.size_weights, tuple(SIZES))
        _check_weights("background_weights", self.background_weights, KINDS)
        _check_weights("group_weights", self.group_weights, tuple(self.group_weights))
        for name in ("centered", "same_style", "settled", "full_captions"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is {share}; a probability from 0 to 1 is needed.", field=name)
        for kind in self.full_caption_kinds:
            if kind not in SCENE_KINDS:
                raise ConfigError(
                    f"full_caption_kinds names '{kind}'; known: {', '.join(SCENE_KINDS)}.", field="full_caption_kinds"
                )
        low, high = self.character_sides
        if not 0.5 <= low <= high <= 1:
            raise ConfigError(
                f"character_sides is {low} to {high}; two shares are needed, 0.5 <= smallest <= largest <= 1.",
                field="character_sides",
            )


def _check_weights(name: str, weights: Mapping[Any, float], known: Sequence[str]) -> None:
    """Refuse weights of unknown things, negative ones, and all 0; groups that are not named count as 1."""
    for key, weight in weights.items():
        if key not in known:
            raise ConfigError(f"{name} names '{key}'; known: {', '.join(known)}.", field=name)
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"{name}: '{key}' is {weight}; a weight is a number from 0 on.", field=name)
    if name != "group_weights" and not sum(weights.values()) > 0:
        raise ConfigError(f"{name}: all are 0; at least one must be more.", field=name)


class Plan(NamedTuple):
    """A scene that is not painted yet."""

    facts: Facts
    """What it will show, exactly."""
    caption: str
    """What it will show, in words."""


class SceneSampler:
    """Draws scenes from a training set.

    Args:
        primer: The training set.
        seed: Together with the index it decides the whole scene.
        split: `train` shows training pictures only. `held_out_pair` and `held_out_concept` show icons of that split; a
            second icon beside them may be a known one. People are from held-out identities in both.
        config: What scenes are made of.

    Raises:
        ConfigError: Unknown split, or the configuration asks for what the set does not hold.
    """

    def __init__(self, primer: Primer, seed: int, split: str = "train", config: SceneConfig | None = None) -> None:
        if split not in SPLITS:
            raise ConfigError(f"Split '{split}' is not one of {', '.join(SPLITS)}.", field="split")
        self.primer, self.seed, self.split = primer, seed, split
        self.config = config or SceneConfig()
        weights = self.config.group_weights
        self._icons = _Pool([i for i in primer.icons if i.split == split], weights)
        self._first = _Pool([i for i in self._icons.icons if i.group in PAIR_GROUPS], weights)
        self._second = _Pool([i for i in primer.icons if i.split == "train" and i.group in PAIR_GROUPS], weights)
        self._people = people_of(primer, split)
        wanted: tuple[tuple[str, float, int], ...] = (
            ("icon_weight", self.config.icon_weight, len(self._icons.icons)),
            ("pair_weight", self.config.pair_weight, min(len(self._first.icons), self._second.concepts - 1)),
            ("character_weight", self.config.character_weight, len(self._people)),
        )
        for name, weight, found in wanted:
            if weight > 0 and found < 1:
                raise ConfigError(
                    f"{name} is {weight}, but {primer.folder} has no pictures for it in split '{split}'.",
                    field=name,
                    hint=f"Set {name} to 0, or build the whole set.",
                )

    def scene(self, index: int) -> Scene:
        """Return one scene; the same index always gives the same scene.

        Args:
            index: Number of the scene, from 0 on.
        """
        plan = self.plan(index)
        return render(self.primer, plan.facts, plan.caption)

    def plan(self, index: int) -> Plan:
        """Return what one scene shows, without painting it.

        Args:
            index: Number of the scene, from 0 on.
        """
        rng = np.random.default_rng(derive_seed(self.seed, f"scene/{self.split}", index))
        config = self.config
        kind = pick(rng, (config.icon_weight, config.pair_weight, config.character_weight))
        spread = 0.0 if config.settled and rng.random() < config.settled else 1.0
        return (self._icon_scene, self._pair_scene, self._person_scene)[kind](rng, spread)

    def _icon_scene(self, rng: np.random.Generator, spread: float) -> Plan:
        """Plan one icon at some size and place."""
        icon = self._icons.draw(rng)
        sizes = tuple(self.config.size_weights)
        size = sizes[pick(rng, tuple(self.config.size_weights.values()))]
        sprite = self.primer.sprite(icon.file)
        width, height = fit(*sprite.image.size, draw_side(rng, size, spread))
        place = draw_place(rng, width, height, self.config.centered)
        thing = icon_thing(icon, place_one(rng, width, height, place, spread), size, place)
        facts = Facts((thing,), self._background(rng, sprite.hidden_by))
        return Plan(facts, self._caption("icon", facts, rng))

    def _pair_scene(self, rng: np.random.Generator, spread: float) -> Plan:
        """Plan two different icons in a relation."""
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        one, other = self._first.draw(rng), self._second.draw(rng)
        while other.concept == one.concept:
            other = self._second.draw(rng)
        if rng.random() < self.config.same_style:
            other = self._in_style(other, one.style)
        if rng.random() < 0.5 and self.split == "train":
            one, other = other, one
        hidden = self.primer.sprite(one.file).hidden_by | self.primer.sprite(other.file).hidden_by
        facts = pair_facts(self.primer, one, other, relation, self._background(rng, hidden), rng, spread)
        return Plan(facts, self._caption("pair", facts, rng))

    def _person_scene(self, rng: np.random.Generator, spread: float) -> Plan:
        """Plan a drawn person, nearly as large as the picture."""
        variants = self._people[int(rng.integers(len(self._people)))]
        record = variants[int(rng.integers(len(variants)))]
        low, high = self.config.character_sides
        sprite = self.primer.sprite(record["file"])
        thing = person_thing(record, portrait_box(rng, sprite, between(rng, low, high, spread), spread))
        facts = Facts((thing,), self._background(rng, sprite.hidden_by))
        return Plan(facts, self._caption("character", facts, rng, lambda draws: describe_person(record, draws)))

    def _caption(
        self,
        kind: SceneKind,
        facts: Facts,
        rng: np.random.Generator,
        person: Callable[[np.random.Generator], str] | None = None,
    ) -> str:
        """Say everything, or some of it in one of many ways."""
        share = self.config.full_captions if kind in self.config.full_caption_kinds else 0.0
        if share and rng.random() < share:
            return describe_fully(facts, person, int(rng.integers(2**32)))
        return describe(facts, rng, person)

    def _background(self, rng: np.random.Generator, avoid: frozenset[str]) -> Background:
        """Draw a background on which the things can be seen."""
        return draw_background(rng, self.config.background_weights, avoid)

    def _in_style(self, icon: IconRecord, style: str) -> IconRecord:
        """Return the same concept in another style, if it may be shown; else the icon itself."""
        found = self.primer.by_pair.get((icon.concept, style))
        return found if found is not None and found.split == icon.split else icon


class _Pool:
    """Icons with the chance of each."""

    def __init__(self, icons: Sequence[IconRecord], weights: Mapping[str, float]) -> None:
        self.icons = [icon for icon in icons if weights.get(icon.group, 1.0) > 0]
        self.concepts = len({icon.concept for icon in self.icons})
        self._bars = np.array(list(accumulate(weights.get(icon.group, 1.0) for icon in self.icons)))

    def draw(self, rng: np.random.Generator) -> IconRecord:
        """Draw one icon."""
        index = int(np.searchsorted(self._bars, rng.random() * self._bars[-1], side="right"))
        return self.icons[min(index, len(self.icons) - 1)]


def people_of(primer: Primer, split: str) -> list[list[Mapping[str, Any]]]:
    """Group the people of a split by identity, so that each is drawn equally often."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in primer.characters:
        if (record["split"] == "train") == (split == "train"):
            groups[record["identity"]].append(record)
    return list(groups.values())
