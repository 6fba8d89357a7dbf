"""Captions of drawn people: varied, short, and only what the record says is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sfumato.data.primer.looks import find_style

MAX_WORDS = 22
_OPENINGS = (
    "{style} style portrait of {who}",
    "{style} style portrait of {who}",
    "{style} portrait of {who}",
    "a {style} portrait of {who}",
    "a {style} avatar of {who}",
    "{style} drawing of {who}",
    "portrait of {who} in {style} style",
    "{style} style, {who}",
)
_PLURALS = ("glasses", "sunglasses", "overalls", "hair", "buns", "braids", "pigtails", "dreadlocks", "twists", "curls")


@runtime_checkable
class Draws(Protocol):
    """A source of random numbers: `random.Random` and `numpy.random.Generator` are ones."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


def describe(record: Mapping[str, Any], rng: Draws) -> str:
    """Write a caption that is true of a picture.

    Sometimes few attributes are named, sometimes many; the style always is. Nothing is said about what is hidden, and
    nothing is denied.

    Args:
        record: A line of `characters.jsonl`: `style`, `looks` and `attributes` are read.
        rng: Decides what is named and how.

    Returns:
        At most 22 words, in lower case.

    Raises:
        DataError: The record names a style or look that the vocabulary does not have.
    """
    talk = rng.random() ** 0.7  # how much is said
    who, named_expression = _subject(record["attributes"], rng, talk)
    items = [item for item in _items(record, rng) if rng.random() < 0.35 + 0.65 * talk]
    garment = _garment(record["attributes"], rng, talk)
    closing = "" if named_expression else _expression(record["attributes"], rng, talk)
    opening = _OPENINGS[int(rng.random() * len(_OPENINGS))]
    wearing = rng.random() < 0.4
    while True:
        person = who + _with(items, wearing) + garment
        caption = opening.format(style=find_style(record["style"]).name, who=person) + closing
        caption = re.sub(r"\ba (?=[aeiou])", "an ", caption)
        if len(caption.split()) <= MAX_WORDS:
            return caption
        if items:
            items.pop(int(rng.random() * len(items)))
        else:
            garment = ""


def state(record: Mapping[str, Any], noun: str, named: Iterable[str] = ()) -> str:
    """Say all that changes from picture to picture of a person, and of what it keeps only what is asked for.

    Why: where a person has a word of its own, that word says what it keeps; the rest has to be said. Nothing here is
    left to chance, so that the same picture is always asked for in the same words.

    Args:
        record: A line of `characters.jsonl`: `style`, `looks` and `attributes` are read.
        noun: What the person is called, such as `person` or a placeholder.
        named: Slots of the identity to name: `hair`, `hair_color`, `facial_hair`, `skin`.

    Returns:
        Such as `avataaars style portrait of a person with green hair in a red hoodie, smiling`.
    """
    facts, looks, style, wanted = record["attributes"], record["looks"], find_style(record["style"]), set(named)
    items: list[tuple[str, bool]] = []
    if facts["hair"] is not None and "hair" in wanted:
        words = style.look("hair", looks["hair"]).words
        color = facts["hair_color"]
        items.append((words.replace("{}", f"{color} " if color else ""), False))
    elif facts["hair_color"] is not None and "hair_color" in wanted:
        items.append((f"{facts['hair_color']} hair", False))
    if facts["facial_hair"] is not None and "facial_hair" in wanted:
        items.append((style.look("facial_hair", looks["facial_hair"]).words, False))
    if facts["skin"] is not None and "skin" in wanted:
        items.append((f"{facts['skin']} skin", False))
    items += [(_article(facts[slot]), True) for slot in ("glasses", "hat", "accessory") if facts[slot] is not None]
    garment = f" in {_article(facts['clothing'])}" if facts["clothing"] is not None else ""
    text = f"{style.name} style portrait of a {noun}{_with(items, False)}{garment}, {facts['expression_words']}"
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _subject(facts: Mapping[str, Any], rng: Draws, talk: float) -> tuple[str, bool]:
    """Name the person, sometimes with its expression or beard; also tell whether the expression is named."""
    adjectives = []
    words = facts["expression_words"]
    single = " " not in words and rng.random() < 0.45 * (0.4 + talk)
    if single:
        adjectives.append(words)
    if facts["has_beard"] and rng.random() < 0.35:
        adjectives.append("bearded")
    noun = "person" if rng.random() < 0.85 else "character"
    return " ".join(["a", *adjectives, noun]), single


def _items(record: Mapping[str, Any], rng: Draws) -> list[tuple[str, bool]]:
    """List what the person has, each with whether it is worn, in the usual order."""
    facts, looks, style = record["attributes"], record["looks"], find_style(record["style"])
    items: list[tuple[str, bool]] = []
    if facts["hair"] is not None:
        look, color = style.look("hair", looks["hair"]), facts["hair_color"]
        if color is not None and not look.words.startswith("a bald") and rng.random() < 0.25:
            items.append((f"{color} hair", False))
        else:
            shown = color is not None and rng.random() < 0.8
            items.append((look.words.replace("{}", f"{color} " if shown else ""), False))
            if items[-1][0] == "hair":
                items[-1] = (f"{color or 'black'} hair", False)
    if facts["facial_hair"] is not None:
        items.append((style.look("facial_hair", looks["facial_hair"]).words, False))
    if facts["skin"] is not None and rng.random() < 0.3:
        items.append((f"{facts['skin']} skin", False))
    items += [(_article(facts[slot]), True) for slot in ("glasses", "hat", "accessory") if facts[slot] is not None]
    return items


def _garment(facts: Mapping[str, Any], rng: Draws, talk: float) -> str:
    """Say what the person wears, sometimes."""
    if facts["clothing"] is None or rng.random() > 0.2 + 0.5 * talk:
        return ""
    return f" in {_article(facts['clothing'])}"


def _expression(facts: Mapping[str, Any], rng: Draws, talk: float) -> str:
    """Say how the person looks, usually."""
    return f", {facts['expression_words']}" if rng.random() < 0.35 + 0.55 * talk else ""


def _with(items: Sequence[tuple[str, bool]], wearing: bool) -> str:
    """Join what the person has: `with a long afro, wearing round glasses and a beanie`."""
    had = [words for words, worn in items if not (worn and wearing)]
    worn = [words for words, is_worn in items if is_worn and wearing]
    text = f" with {_and(had)}" if had else ""
    if worn:
        text += f"{',' if had else ''} wearing {_and(worn)}"
    return text


def _and(parts: Sequence[str]) -> str:
    """Join words as in speech."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _article(words: str) -> str:
    """Put `a` before a thing that is counted."""
    head = words.split(" with ")[0].split(" in ")[0].split()[-1]
    plain = head in _PLURALS or head in ("flowers", "ears", "earrings")
    return words if plain else f"a {words}"
