"""Drawn people: identities, their variants, what is true of them, and the options that draw them.

An *identity* fixes what a person keeps: hair, colours, skin, facial hair, nose. A *variant* fixes what may change:
expression, glasses, hat, accessory, clothing. Everything in between is decided by names alone, so that "this person,
now laughing" is one picture and always the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sfumato.data.primer.looks import COLOR_OF, IDENTITY_SLOTS, VARIANT_SLOTS, Look, Style, find_style
from sfumato.errors import DataError

COMMON_EXPRESSIONS = frozenset({"happy", "laughing", "neutral", "sad", "angry", "surprised"})
PROBABILITY = {"facial_hair": 0.22, "glasses": 0.3, "hat": 0.2, "accessory": 0.12}


@dataclass(frozen=True)
class IdentitySpec:
    """A drawn person: what stays the same in every picture.

    Attributes:
        name: Unique name; it also decides between options that the same words describe.
        style: Key of the style.
        looks: Names of looks by identity slot; slots without a look are left out.
        features: Unnamed options of the face.
    """

    name: str
    style: str
    looks: Mapping[str, str]
    features: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """Everything that is drawn of the identity: two people with the same key look the same."""
        return tuple(sorted(self.looks.items())) + tuple(sorted(self.features.items()))

    def changed(self, **looks: str | None) -> IdentitySpec:
        """Return the same person with other looks, for example `changed(hair_color="green")`; `None` removes one.

        Raises:
            DataError: The slot is not one of the identity, or the style has no such look.
        """
        style = find_style(self.style)
        for slot, name in looks.items():
            if slot not in IDENTITY_SLOTS:
                raise DataError(f"'{slot}' is no part of an identity; the parts are {', '.join(IDENTITY_SLOTS)}.")
            if name is not None:
                style.look(slot, name)
        merged: dict[str, str | None] = {**self.looks, **looks}
        return replace(self, looks={slot: name for slot, name in merged.items() if name is not None})

    def variant(self, **looks: str | None) -> Variant:
        """Return a variant of this person, checked: `variant(expression="laughing", glasses="round")`.

        An expression may also be a class such as `happy`: the first look of it that goes with the rest is taken.
        Colours that a look needs and that are not given are decided by the name of the person.

        Raises:
            DataError: Unknown slot or look, or looks that cannot be drawn together.
        """
        style = find_style(self.style)
        unknown = set(looks) - set(VARIANT_SLOTS)
        if unknown:
            raise DataError(f"'{min(unknown)}' is no part of a variant; the parts are {', '.join(VARIANT_SLOTS)}.")
        chosen = {slot: style.look(slot, name).name for slot, name in looks.items() if name is not None}
        chosen["expression"] = self._expression(looks.get("expression"), chosen)
        if "clothing" in style.slots:
            chosen.setdefault("clothing", next(iter(style.slots["clothing"])))
        _fill_colors(style, chosen, random.Random(f"{self.name}/colors"))
        problem = conflict(self, chosen)
        if problem is not None:
            raise DataError(f"The person '{self.name}' cannot be drawn like that: {problem}.")
        return Variant(chosen)

    def _expression(self, wanted: str | None, others: Mapping[str, str]) -> str:
        """Find the look of an expression; of several that were meant, the first that goes with the rest."""
        looks = find_style(self.style).slots["expression"]
        meant = [name for name, look in looks.items() if wanted in (name, look.coarse, None)]
        fitting = (name for name in meant if conflict(self, {**others, "expression": name}) is None)
        return next(fitting, meant[0])


@dataclass(frozen=True)
class Variant:
    """One way to show a person: names of looks by variant slot; slots without a look are left out."""

    looks: Mapping[str, str]


@dataclass(frozen=True)
class OptionSet:
    """One drawing, as the drawing program takes it: a style, its options, and the part of the drawing to keep."""

    style: str
    options: Mapping[str, Any]
    view: str | None = None


def draw_identity(style: Style, name: str, rng: random.Random) -> IdentitySpec:
    """Draw a person of a style; choices that would not show are left out, so that `key` tells people apart.

    Args:
        style: The style.
        name: Name of the person.
        rng: Decides every choice.

    Returns:
        The person.
    """
    looks = {"hair": _pick(style, "hair", rng)}
    if "facial_hair" in style.slots and rng.random() < PROBABILITY["facial_hair"]:
        beard = _pick(style, "facial_hair", rng)
        if conflict(IdentitySpec(name, style.key, looks), {"facial_hair": beard}) is None:
            looks["facial_hair"] = beard
    hair = [style.slots[slot][name] for slot, name in looks.items()]
    if "skin" in style.slots:
        looks["skin"] = _pick_color(style, "skin", hair, rng)
    if "hair_color" in style.slots and any(look.tint for look in hair):
        skin = [style.slots["skin"][looks["skin"]]] if "skin" in looks else []
        looks["hair_color"] = _pick_color(style, "hair_color", hair + skin, rng)
    features = {option: rng.choice(values) for option, values in style.features.items()}
    return IdentitySpec(name, style.key, looks, features)


def draw_variant(identity: IdentitySpec, rng: random.Random, *, plain: bool = False) -> Variant:
    """Draw a variant of a person that can be drawn as its words say.

    Args:
        identity: The person.
        rng: Decides every choice.
        plain: Without glasses, hat and accessory, so that the person is fully seen.

    Returns:
        The variant.
    """
    style = find_style(identity.style)
    looks: dict[str, str] = {}
    if "clothing" in style.slots:
        looks["clothing"] = _pick(style, "clothing", rng)
    extras = [slot for slot in ("glasses", "hat", "accessory") if slot in style.slots and not plain]
    for slot in extras:
        if rng.random() < PROBABILITY[slot]:
            name = _pick(style, slot, rng)
            if conflict(identity, {**looks, slot: name}) is None:
                looks[slot] = name
    fitting = [
        look
        for look in style.slots["expression"].values()
        if conflict(identity, {**looks, "expression": look.name}) is None
    ]
    classes = sorted({str(look.coarse) for look in fitting})
    weights = [1.0 if name in COMMON_EXPRESSIONS else 0.4 for name in classes]
    wanted = rng.choices(classes, weights)[0]
    looks["expression"] = rng.choice([look.name for look in fitting if look.coarse == wanted])
    _fill_colors(style, looks, rng)
    return Variant(looks)


def conflict(identity: IdentitySpec, looks: Mapping[str, str]) -> str | None:
    """Say why looks cannot be drawn together with their words staying true, or return `None`.

    Args:
        identity: The person.
        looks: Names of looks by variant slot.

    Returns:
        The reason, or `None` if all is well.
    """
    style = find_style(identity.style)
    chosen = [(slot, style.look(slot, name)) for slot, name in {**identity.looks, **looks}.items()]
    if "hat" in looks and style.look("hair", identity.looks["hair"]).headwear:
        return f"a hat does not go with {style.look('hair', identity.looks['hair']).words}"
    for place, (slot, look) in enumerate(chosen):
        for other_slot, other in chosen[place + 1 :]:
            shown = (set(look.shows) & set(other.hides)) | (set(look.hides) & set(other.shows))
            if shown:
                return f"the {min(shown)} cannot be seen with both {slot} '{look.name}' and {other_slot} '{other.name}'"
            shared = set(look.options) & set(other.options)
            replaced = {*look.hides, *other.hides}
            if shared and not (shared | {slot, other_slot}) & replaced:
                return f"{slot} '{look.name}' and {other_slot} '{other.name}' are drawn in the same place"
    return None


def drawing(identity: IdentitySpec, variant: Variant) -> OptionSet:
    """Return the options that draw a person in a variant.

    Values that the same words describe are decided by the person's name, the slot and the look, so one choice never
    moves another.

    Args:
        identity: The person.
        variant: How to show it.

    Returns:
        Options without any chance left in them.
    """
    style = find_style(identity.style)
    options: dict[str, Any] = {"seed": "sfumato"}
    for slot in ("facial_hair", "glasses", "hat", "accessory"):
        for look in style.slots.get(slot, {}).values():
            options |= {f"{option}Probability": 0 for option in look.options if not option.endswith("Color")}
    for option, value in style.fixed.items():
        options[option] = value if option.endswith("Probability") else [value]
    options |= {option: [value] for option, value in identity.features.items()}
    for slot, look in _in_order(style, {**identity.looks, **variant.looks}):
        for option, values in look.options.items():
            # All options of a colour take the same shade.
            place = f"{identity.name}/{slot}/{look.name}" + (
                "" if slot in (*COLOR_OF.values(), "skin") else f"/{option}"
            )
            options[option] = [values[int(random.Random(place).random() * len(values))]]
            if f"{option}Probability" in options:
                options[f"{option}Probability"] = 100
    return OptionSet(identity.style, options, style.view)


def attributes(identity: IdentitySpec, variant: Variant) -> dict[str, Any]:
    """Say what is true of a picture, in words and in classes that all styles share.

    `hair`, `skin`, `glasses` … are words (`None`: not there, hidden, or not nameable in this style); `has_glasses`,
    `has_hat`, `has_beard`, `hair_color` and `expression` are classes (`None`: not to be judged).

    Args:
        identity: The person.
        variant: How it is shown.

    Returns:
        Plain data.
    """
    style = find_style(identity.style)
    looks = dict(_in_order(style, {**identity.looks, **variant.looks}))
    hidden = {part for look in looks.values() for part in look.hides}
    hair = None if "hair" in hidden or looks["hair"].headwear else looks["hair"]
    hat = looks["hair"] if looks["hair"].headwear else looks.get("hat")
    hair_color = None
    if hair is not None and "{}" in hair.words:
        hair_color = hair.color or identity.looks.get("hair_color")
    return {
        "hair": _words(hair),
        "hair_color": hair_color,
        "skin": identity.looks.get("skin"),
        "facial_hair": _words(looks.get("facial_hair")),
        "expression": looks["expression"].coarse,
        "expression_words": looks["expression"].words,
        "glasses": _words(looks.get("glasses")),
        "hat": _words(hat, variant.looks.get("hat_color")),
        "accessory": _words(looks.get("accessory")),
        "clothing": _words(looks.get("clothing"), variant.looks.get("clothing_color")),
        "clothing_color": variant.looks.get("clothing_color"),
        "has_glasses": "glasses" in looks,
        "has_hat": None if hat is not None and hat.headwear else hat is not None,
        "has_beard": "facial_hair" in looks and looks["facial_hair"].beard,
    }


def _words(look: Look | None, color: str | None = None) -> str | None:
    """Write the words of a look with its colour, without the leading article."""
    if look is None:
        return None
    words = look.words.replace("{}", f"{color} " if color else "")
    return words.removeprefix("a ").removeprefix("an ")


def _in_order(style: Style, looks: Mapping[str, str]) -> Iterator[tuple[str, Look]]:
    """Yield chosen looks so that what replaces an option comes after what it replaces."""
    for slot in (*IDENTITY_SLOTS, *VARIANT_SLOTS):
        if slot in looks:
            yield slot, style.look(slot, looks[slot])


def _pick(style: Style, slot: str, rng: random.Random) -> str:
    """Pick words first, then one of the looks that these words describe: many short cuts do not crowd out the rest."""
    by_words: dict[str, list[str]] = {}
    for look in style.slots[slot].values():
        by_words.setdefault(look.words, []).append(look.name)
    weights = [len(names) ** 0.5 for names in by_words.values()]
    return rng.choice(rng.choices(list(by_words.values()), weights)[0])


def _fill_colors(style: Style, looks: dict[str, str], rng: random.Random) -> None:
    """Choose the colours that hat and clothing need and that are not chosen yet."""
    for slot in ("hat", "clothing"):
        if slot not in looks or not style.slots[slot][looks[slot]].colored or COLOR_OF[slot] in looks:
            continue
        looks[COLOR_OF[slot]] = _pick_color(style, COLOR_OF[slot], [style.slots[slot][looks[slot]]], rng)


def _pick_color(style: Style, slot: str, beside: Sequence[Look], rng: random.Random) -> str:
    """Pick a colour in which everything beside it can be seen."""
    barred = {color for look in beside for color in look.not_color}
    return rng.choice([name for name in style.slots[slot] if name not in barred])
