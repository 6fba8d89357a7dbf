"""Pairs of captions that differ in one fact: one is true of a scene, the other is not.

They sharpen an image-text encoder where it matters, and they show whether it can be trusted: a caption that is wrong in
everything is easily told apart, one that is wrong in one colour or in left and right is not ([yuksekgonul2023] in
`sfumato.models`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from sfumato.data.backgrounds import COLOURS
from sfumato.data.captions import describe, with_article
from sfumato.data.compose import icon_thing
from sfumato.data.facts import PLACES, Facts, Relation, SizeName, Thing
from sfumato.data.primer.attributes import Variant, conflict
from sfumato.data.primer.characters import describe as describe_person
from sfumato.data.primer.characters import identity_of, record_of
from sfumato.data.primer.library import IconRecord, Primer
from sfumato.data.primer.looks import IDENTITY_SLOTS, VARIANT_SLOTS, find_style, load_styles

FactKind = Literal["object", "style", "background", "relation", "place", "size", "attribute"]
FACT_KINDS: tuple[FactKind, ...] = ("object", "style", "background", "relation", "place", "size", "attribute")

_TRIES = 24
_ADDED = 0.25
"""Share of the false attributes that add something; the others replace what is there."""
_FAR = 0.7
"""Distance of two places, in shares of the free room, from which on they cannot be taken for each other."""
_UNTRUE: dict[Relation, tuple[Relation, ...]] = {
    "left of": ("right of", "right of", "above", "below"),
    "right of": ("left of", "left of", "above", "below"),
    "above": ("below", "below", "left of", "right of"),
    "below": ("above", "above", "on top of", "left of", "right of"),
    "next to": ("above", "below", "on top of"),
    "on top of": ("below", "below", "left of", "right of"),
}
"""Relations that are not true where another is; the opposite is drawn oftener."""
_SAID_AS = {"expression": "expression_words"}
"""Where the words of a slot stand among the attributes, if not under its own name."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Contrast:
    """Two captions of one scene that differ in one fact.

    Attributes:
        kind: The fact.
        right: Says only what is true.
        wrong: Says the same, but for one fact.
    """

    kind: FactKind
    right: str
    wrong: str


class Contrasts:
    """Writes contrasts for the scenes of a training set.

    Args:
        primer: The training set; its other icons and looks are what the wrong captions name.
    """

    def __init__(self, primer: Primer) -> None:
        self._primer = primer
        self._styles = tuple(dict.fromkeys(icon.style for icon in primer.icons))
        by_concept = {icon.concept: icon for icon in primer.icons}
        self._concepts = tuple(by_concept.values())
        self._groups: dict[str, list[IconRecord]] = {}
        for icon in self._concepts:
            self._groups.setdefault(icon.group, []).append(icon)

    def draw(self, facts: Facts, rng: np.random.Generator, kind: FactKind | None = None) -> Contrast | None:
        """Write a contrast.

        Args:
            facts: What is true of the scene.
            rng: Decides the words, and the false fact.
            kind: The fact that is changed; `None` draws one that the scene has.

        Returns:
            The contrast; `None` if the scene has no such fact, or nothing else to say in its place was found.
        """
        possible = kinds_of(facts)
        if kind is None:
            kind = possible[int(rng.integers(len(possible)))]
        if kind not in possible:
            return None
        record = self._record(facts)
        told = _by_label(facts) if kind == "object" else facts
        for _ in range(_TRIES):
            seed = int(rng.integers(2**31))
            right = write(told, record, seed)
            wrong = self._wrong(kind, facts, record, rng, seed, right)
            if wrong is not None and wrong != right:
                return Contrast(kind, right, wrong)
        return None

    def _record(self, facts: Facts) -> Record | None:
        """Return the record of the person in a scene, if there is one."""
        thing = facts.things[0]
        return self._primer.by_file[thing.file] if thing.kind == "character" else None

    def _wrong(
        self, kind: FactKind, facts: Facts, record: Record | None, rng: np.random.Generator, seed: int, right: str
    ) -> str | None:
        """Write the same caption with one fact changed, or nothing when that did not work out."""
        if record is not None and kind == "style":
            return _in_other_style(right, record["style"], rng)
        if record is not None and kind == "attribute":
            return _with_other_attribute(facts, record, rng, seed, right)
        changed = self._changed(kind, facts, rng)
        return None if changed is None else write(changed, record, seed)

    def _changed(self, kind: FactKind, facts: Facts, rng: np.random.Generator) -> Facts | None:
        """Return facts of which one is not true."""
        first = facts.things[0]
        if kind == "object":
            return self._with_other_object(facts, rng)
        if kind == "style":
            shown = {thing.style for thing in facts.things}
            style = _pick([style for style in self._styles if style not in shown], rng)
            things = [replace(thing, style=style) if thing.style == first.style else thing for thing in facts.things]
            return None if style is None else replace(facts, things=tuple(things))
        if kind == "background":
            return _with_other_colour(facts, rng)
        if kind == "relation":
            assert facts.relation is not None
            return replace(facts, relation=_pick(_UNTRUE[facts.relation], rng))
        if kind == "place":
            return replace(facts, things=(replace(first, place=_pick(far_places(first.place), rng)),))
        size: SizeName = "large" if first.size == "small" else "small"
        return replace(facts, things=(replace(first, size=size),))

    def _with_other_object(self, facts: Facts, rng: np.random.Generator) -> Facts | None:
        """Replace one of the things by another, half of the time of the same group."""
        place = int(rng.integers(len(facts.things)))
        old = facts.things[place]
        pool = self._groups[old.attributes["group"]] if rng.random() < 0.5 else self._concepts
        taken = {thing.name for thing in facts.things}
        for _ in range(_TRIES):
            icon = pool[int(rng.integers(len(pool)))]
            if icon.concept not in taken and not _may_be_the_same(old, icon):
                new = replace(icon_thing(icon, old.box, old.size, old.place), style=old.style)
                things = [new if number == place else thing for number, thing in enumerate(facts.things)]
                return _by_label(replace(facts, things=tuple(things)))
        return None


def kinds_of(facts: Facts) -> tuple[FactKind, ...]:
    """List the facts of a scene that can be changed; those that are harder to see stand there more than once."""
    first = facts.things[0]
    if first.kind == "character":
        return ("style", "background", "attribute", "attribute", "attribute")
    if facts.relation is not None:
        return ("object", "style", "background", "relation", "relation")
    kinds: list[FactKind] = ["object", "style", "background"]
    if far_places(first.place) and first.place != "center":
        kinds += ["place", "place"]
    if first.size != "medium":
        kinds.append("size")
    return tuple(kinds)


def write(facts: Facts, record: Record | None, seed: int) -> str:
    """Write a caption; the same seed says the same kind of things in the same way.

    Args:
        facts: What the caption may say.
        record: The record of the person in the scene, if there is one.
        seed: Decides what is said and how.
    """
    person = None if record is None else partial(describe_person, record)
    return describe(facts, np.random.default_rng(seed), person)


def far_places(place: str) -> tuple[Any, ...]:
    """List the places that cannot be taken for this one; none for a thing that stands anywhere."""
    if place not in PLACES:
        return ()
    x, y = PLACES[place]
    return tuple(name for name, (u, v) in PLACES.items() if math.hypot(u - x, v - y) >= _FAR)


def _with_other_colour(facts: Facts, rng: np.random.Generator) -> Facts:
    """Replace one of the colours of the background."""
    ground = facts.background
    place = int(rng.integers(len(ground.colours)))
    other = _pick([name for name in COLOURS if name not in ground.colours], rng)
    colours = tuple(other if number == place else name for number, name in enumerate(ground.colours))
    return replace(facts, background=replace(ground, colours=colours))


def _by_label(facts: Facts) -> Facts:
    """Leave other names and keywords out, so that the captions of two objects have the same form."""
    plain = {"keywords": (), "synonyms": (), "rare_keywords": ()}
    things = tuple(replace(thing, attributes={**thing.attributes, **plain}) for thing in facts.things)
    return replace(facts, things=things)


def _may_be_the_same(thing: Thing, icon: IconRecord) -> bool:
    """Say whether the name of an icon may be true of a thing too: `cat` of a `cat face`."""
    names = {thing.label, *thing.attributes["synonyms"]}
    others = {icon.label, *icon.synonyms}
    if others & set(thing.attributes["keywords"]) or names & set(icon.keywords):
        return True
    return any(_within(one, other) for one in names for other in others)


def _within(one: str, other: str) -> bool:
    """Say whether all words of one phrase are in the other, either way."""
    words, others = set(_words(one)), set(_words(other))
    return words <= others or others <= words


def _in_other_style(caption: str, style: str, rng: np.random.Generator) -> str | None:
    """Name another style of drawn people."""
    name = find_style(style).name.lower()
    other = _pick([known.name.lower() for known in load_styles().values() if known.name.lower() != name], rng)
    article = re.search(rf"\ban? (?={re.escape(name)}\b)", caption)
    if other is None or name not in caption:
        return None
    if article is not None:
        return caption.replace(article.group() + name, with_article(other), 1)
    return caption.replace(name, other, 1)


def _with_other_attribute(facts: Facts, record: Record, rng: np.random.Generator, seed: int, right: str) -> str | None:
    """Say something else of a person; nothing if the caption does not name what is changed.

    What is replaced is all that differs. What is added (glasses that are not there) may come in other words.
    """
    looks = find_style(record["style"]).slots
    named = [slot for slot in looks if (_said(record, slot) or "\n") in right]
    absent = [slot for slot in looks if _said(record, slot) is None and not slot.endswith("_color")]
    slot = _pick(absent if absent and rng.random() < _ADDED else named, rng)
    changed = None if slot is None else _changed_record(record, slot, rng)
    if slot is None or changed is None:
        return None
    wrong, before, now = write(facts, changed, seed), _said(record, slot), str(_said(changed, slot))
    if before is None:
        return wrong if now in wrong else None
    return wrong if _words(right) - _words(before) == _words(wrong) - _words(now) else None


def _words(text: str) -> Counter[str]:
    """Count the words of a text, articles left out."""
    return Counter(word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an"))


def _said(record: Record, slot: str) -> str | None:
    """Return the words for a slot of a person."""
    words = record["attributes"].get(_SAID_AS.get(slot, slot))
    return None if words is None else str(words)


def _changed_record(record: Record, slot: str, rng: np.random.Generator) -> Record | None:
    """Return the record of the same person with another look in one slot, or nothing if that cannot be drawn."""
    looks, person = find_style(record["style"]).slots[slot], identity_of(record)
    name = _pick([name for name in looks if name != record["looks"].get(slot)], rng)
    if name is None:
        return None
    variant = {key: look for key, look in record["looks"].items() if key in VARIANT_SLOTS}
    if slot in IDENTITY_SLOTS:
        person = person.changed(**{slot: name})
    else:
        variant[slot] = name
    if conflict(person, variant) is not None:
        return None
    changed = record_of(person, Variant(variant), 0, record["split"])
    before, now = _said(record, slot), _said(changed, slot)
    coarse = record["attributes"]["expression"] == changed["attributes"]["expression"]
    if now is None or (before is not None and _within(before, now)) or (slot == "expression" and coarse):
        return None
    return changed


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """Draw one of several things; nothing from nothing."""
    return options[int(rng.integers(len(options)))] if options else None


def contrasts_of(contrasts: Contrasts, facts: Facts, rng: np.random.Generator) -> Iterator[Contrast]:
    """Write one contrast of every kind that a scene has."""
    for kind in dict.fromkeys(kinds_of(facts)):
        found = contrasts.draw(facts, rng, kind)
        if found is not None:
            yield found
