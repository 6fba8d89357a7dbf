"""Compose one scene from facts: state what is there and where, then paint it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from sfumato.data.backgrounds import SIZE, Background, paint
from sfumato.data.captions import describe_fully
from sfumato.data.facts import PLACES, RELATIONS, SIZES, Box, Facts, PlaceName, Relation, SizeName, Thing
from sfumato.data.layout import PAIR_SIDES, between, draw_side, fit, place_one, place_pair, size_name
from sfumato.data.primer.characters import describe as describe_person
from sfumato.data.primer.library import IconRecord, Primer, Sprite
from sfumato.errors import ConfigError, DataError
from sfumato.runtime.seeding import derive_seed


@dataclass(frozen=True)
class Scene:
    """A picture and everything known about it.

    Attributes:
        image: RGB, 128 × 128.
        caption: What it shows, in words.
        facts: What it shows, exactly.
        masks: For each thing of `facts.things`, where it is seen.
    """

    image: UInt8[np.ndarray, "128 128 3"]
    caption: str
    facts: Facts
    masks: Bool[np.ndarray, "n 128 128"]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Box of each thing."""
        return tuple(thing.box for thing in self.facts.things)


def compose(
    primer: Primer,
    concept: str,
    style: str,
    *,
    background: Background | None = None,
    size: SizeName = "large",
    place: PlaceName = "center",
    seed: int = 0,
    caption: str | None = None,
) -> Scene:
    """Make a scene of one icon from facts, for prompts whose truth is known.

    Args:
        primer: The training set; icons of every split may be asked for.
        concept: What to show.
        style: In which style.
        background: What lies behind it; `None` is plain white.
        size: How large it is.
        place: Where it stands.
        seed: Decides the exact size and position.
        caption: What to say of it; `None` says everything.

    Raises:
        DataError: The set has no such icon.
        ConfigError: Unknown size or place.
    """
    _check("size", size, tuple(SIZES))
    _check("place", place, (*PLACES, "free"))
    icon = primer.icon(concept, style)
    rng = np.random.default_rng(derive_seed(seed, f"compose/{concept}/{style}"))
    width, height = fit(*primer.sprite(icon.file).image.size, draw_side(rng, size))
    thing = icon_thing(icon, place_one(rng, width, height, place), size, place)
    facts = Facts((thing,), background or Background())
    return render(primer, facts, caption or describe_fully(facts))


def compose_pair(
    primer: Primer,
    first: tuple[str, str],
    relation: Relation,
    second: tuple[str, str],
    *,
    background: Background | None = None,
    seed: int = 0,
    caption: str | None = None,
) -> Scene:
    """Make a scene of two icons from facts.

    Args:
        primer: The training set.
        first: Concept and style of the first icon.
        relation: How the first lies to the second.
        second: Concept and style of the second icon.
        background: What lies behind them; `None` is plain white.
        seed: Decides the exact sizes and positions.
        caption: What to say of it; `None` says everything.

    Raises:
        DataError: The set has no such icon.
        ConfigError: Unknown relation.
    """
    _check("relation", relation, RELATIONS)
    rng = np.random.default_rng(derive_seed(seed, f"compose/{first}/{relation}/{second}"))
    facts = pair_facts(primer, primer.icon(*first), primer.icon(*second), relation, background or Background(), rng)
    return render(primer, facts, caption or describe_fully(facts))


def compose_person(
    primer: Primer,
    file: str,
    *,
    background: Background | None = None,
    side: float = 0.95,
    seed: int = 0,
    caption: str | None = None,
) -> Scene:
    """Make a scene of one drawn person from facts.

    Args:
        primer: The training set.
        file: The picture of the person, as in `characters.jsonl`.
        background: What lies behind; `None` is plain white.
        side: Size of the portrait as a share of the picture.
        seed: Decides the position and the words.
        caption: What to say of it; `None` says what can be seen.

    Raises:
        DataError: The set has no such picture.
    """
    record = primer.by_file.get(file)
    if record is None:
        raise DataError(
            f"The training set {primer.folder} has no character '{file}' among its {len(primer.characters)}."
        )
    rng = np.random.default_rng(derive_seed(seed, f"compose/{file}"))
    thing = person_thing(record, portrait_box(rng, primer.sprite(file), side))
    facts = Facts((thing,), background or Background())
    return render(primer, facts, caption or describe_fully(facts, lambda draws: describe_person(record, draws)))


def icon_thing(icon: IconRecord, box: Box, size: SizeName, place: PlaceName) -> Thing:
    """State what is known of an icon in a scene."""
    more = {
        "group": icon.group,
        "keywords": icon.keywords,
        "synonyms": icon.synonyms,
        "rare_keywords": icon.rare_keywords,
    }
    return Thing("icon", icon.concept, icon.style, icon.label, box, size, place, icon.file, icon.split, more)


def person_thing(record: Mapping[str, Any], box: Box) -> Thing:
    """State what is known of a drawn person in a scene."""
    return Thing(
        "character",
        record["identity"],
        record["style"],
        f"{record['style'].replace('-', ' ')} style portrait of a person",
        box,
        "large",
        "center",
        record["file"],
        record["split"],
        record["attributes"],
    )


def pair_facts(
    primer: Primer,
    one: IconRecord,
    other: IconRecord,
    relation: Relation,
    background: Background,
    rng: np.random.Generator,
    spread: float = 1.0,
) -> Facts:
    """Draw sizes and places of two icons in a relation; `spread` is how much these vary."""
    sides = [between(rng, low, high, spread) for low, high in PAIR_SIDES[relation]]
    icons = (one, other)
    extents = [fit(*primer.sprite(i.file).image.size, side) for i, side in zip(icons, sides, strict=True)]
    boxes = place_pair(rng, relation, extents[0], extents[1], spread)
    things = [
        icon_thing(icon, box, size_name(side), "free") for icon, box, side in zip(icons, boxes, sides, strict=True)
    ]
    return Facts((things[0], things[1]), background, relation)


def portrait_box(rng: np.random.Generator, sprite: Sprite, side: float, spread: float = 1.0) -> Box:
    """Place a portrait: what was cut off at an edge of its frame stays at that edge of the picture.

    Args:
        rng: Where the randomness comes from.
        sprite: The portrait and where it lies in its frame.
        side: Side of the frame, as a share of the picture.
        spread: How much of the free room is used; 0 is its middle.
    """
    width, height = sprite.image.size
    if sprite.left == 0 or sprite.left + width == sprite.frame[0]:
        side = 1.0
    factor = side * SIZE / sprite.frame[0]
    across, down = (between(rng, 0.0, 1.0, spread) * (1 - side) * SIZE for _ in range(2))
    w, h = max(4, round(width * factor)), max(4, round(height * factor))
    left = min(round(sprite.left * factor + across), SIZE - w)
    stands = sprite.top + height >= sprite.frame[1] - 1
    top = SIZE - h if stands else min(round(sprite.top * factor + down), SIZE - h)
    return Box(left, top, left + w, top + h)


def render(primer: Primer, facts: Facts, caption: str) -> Scene:
    """Paint the facts, things in order from back to front except that the upper of two lies in front."""
    canvas = paint(facts.background)
    masks = np.zeros((len(facts.things), SIZE, SIZE), dtype=np.bool_)
    for number in reversed(range(len(facts.things))):
        thing = facts.things[number]
        box = thing.box
        image = primer.sprite(thing.file).image
        size = (box.right - box.left, box.bottom - box.top)
        scaled = np.asarray(image.resize(size, Image.Resampling.LANCZOS) if image.size != size else image)
        region = np.s_[box.top : box.bottom, box.left : box.right]
        alpha = scaled[..., 3:].astype(np.uint16)
        behind = canvas[region].astype(np.uint16) * (255 - alpha) + 127
        canvas[region] = np.minimum(behind // 255 + scaled[..., :3], 255).astype(np.uint8)
        seen = alpha[..., 0] > 127
        for other in range(number + 1, len(facts.things)):
            masks[other][region] &= ~seen
        masks[number][region] = seen
    return Scene(canvas, caption, facts, masks)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not one of those allowed."""
    if value not in allowed:
        raise ConfigError(f"{name} '{value}' is not one of {', '.join(allowed)}.", field=name)
