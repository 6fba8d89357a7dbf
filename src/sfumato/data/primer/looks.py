"""The vocabulary of drawn people: for each avatar style the looks it can draw, and the words that are true of them.

A *look* is a named choice in a *slot* (hair, glasses, expression, …). The words were written while looking at renders;
options whose look is ambiguous, or covers what another slot names, are left out of the vocabulary and so never drawn.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import DataError

VOCABULARY = Path(__file__).with_name("characters.json")
IDENTITY_SLOTS = ("hair", "hair_color", "skin", "facial_hair")
VARIANT_SLOTS = ("expression", "glasses", "hat", "hat_color", "accessory", "clothing", "clothing_color")
COLOR_OF = {"hair": "hair_color", "hat": "hat_color", "clothing": "clothing_color"}
EXPRESSIONS = (
    "happy", "laughing", "neutral", "sad", "angry", "surprised", "scared", "worried", "loving", "sleepy", "playful",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One named choice in a slot.

    Attributes:
        name: Name within the slot.
        options: Options of the drawing program, each with the values that look alike in words.
        words: What a caption says; `{}` stands where a colour goes.
        color: Colour that the drawing always has, if it cannot be chosen.
        tint: Whether the hair colour shows in it.
        coarse: Expression class shared by all styles.
        beard: Whether it is a beard (a moustache is not).
        headwear: Whether it covers the head without being a hat (hijab, turban).
        shows: Parts of the face that must be visible for the words to be true.
        hides: Parts that it covers, or slots and options that it replaces.
        not_color: Colours that would make it invisible: of the cloth below a print, of
            skin and hair around a beard, of the hair on a skin.
    """

    name: str
    options: Mapping[str, tuple[str, ...]]
    words: str
    color: str | None = None
    tint: bool = True
    coarse: str | None = None
    beard: bool = False
    headwear: bool = False
    shows: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    not_color: tuple[str, ...] = ()

    @property
    def colored(self) -> bool:
        """Whether a chosen colour belongs into the words."""
        return "{}" in self.words and self.color is None


@dataclass(frozen=True)
class Style:
    """One avatar style: what captions call it, who drew it, and its looks.

    Attributes:
        key: Name of the drawing package, such as `open-peeps`.
        name: What captions say, such as `open peeps`.
        licence: Licence of the drawings.
        author: Who drew them.
        view: Part of the drawing that is kept (SVG view box), or `None` for all of it.
        fixed: Options that are the same for everyone.
        slots: Looks by slot and name.
        features: Options of a face that belong to the identity and that no caption names.
    """

    key: str
    name: str
    licence: str
    author: str
    view: str | None
    fixed: Mapping[str, Any]
    slots: Mapping[str, Mapping[str, Look]]
    features: Mapping[str, tuple[str, ...]]

    def look(self, slot: str, name: str) -> Look:
        """Return a look by name; for `expression`, a class such as `happy` gives the first look of that class.

        Raises:
            DataError: The style has no such slot or look.
        """
        looks = self.slots.get(slot)
        if not looks:
            raise DataError(f"The style '{self.key}' has no slot '{slot}'; it has {', '.join(self.slots)}.", field=slot)
        if name in looks:
            return looks[name]
        for look in looks.values():
            if slot == "expression" and look.coarse == name:
                return look
        raise DataError(
            f"The style '{self.key}' has no {slot} '{name}'; it has {', '.join(looks)}.",
            field=slot,
        )


@functools.cache
def load_styles() -> Mapping[str, Style]:
    """Read the vocabulary that ships with the package: every style by its key."""
    content = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    return {key: _style(key, entry) for key, entry in content.items()}


def find_style(key: str) -> Style:
    """Return a style by its key.

    Raises:
        DataError: There is no such style.
    """
    styles = load_styles()
    if key not in styles:
        raise DataError(f"There is no style '{key}'; the styles are {', '.join(styles)}.", field="style")
    return styles[key]


def _style(key: str, entry: Mapping[str, Any]) -> Style:
    """Build a style from its entry in the vocabulary."""
    slots = {**entry["identity"], **entry["variant"]}
    return Style(
        key=key,
        name=entry["name"],
        licence=entry["licence"],
        author=entry["author"],
        view=entry.get("view"),
        fixed=entry["fixed"],
        slots={slot: {name: _look(name, look) for name, look in looks.items()} for slot, looks in slots.items()},
        features={option: tuple(values) for option, values in entry.get("features", {}).items()},
    )


def _look(name: str, entry: Mapping[str, Any]) -> Look:
    """Build a look from its entry; an option may be one value or a list of values that look alike."""
    options = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in entry["set"].items()}
    others = {key: value for key, value in entry.items() if key != "set"}
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in others.items()}
    return Look(name=name, options=options, **plain)
