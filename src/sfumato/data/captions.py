"""Captions for scenes: varied, short, and never untrue.

A caption says some of the facts in one of many natural ways. It keeps below `MAX_WORDS` words (commas count) so that it
fits the context of the text encoder: what does not fit is left out, never cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from sfumato.data.backgrounds import Background, Kind
from sfumato.data.facts import Facts, Relation, Thing

MAX_WORDS = 27

_PLURAL = re.compile(r"(?<![su])s$|^(people|men|women|children)\b|\b(men|women|people)$")
_SOUNDS_LIKE_CONSONANT = re.compile(r"^(uni|one|once|eu|uk|us[ei]|u-)")
_SOUNDS_LIKE_VOWEL = re.compile(r"^([aeio]|u|hour|honest|[aefhilmnorsx]\b|sos|ng|ufo)")
_BARE = re.compile(r"^(no|non|not|input|play|fast|next|on|up|down|end|back|soon|top|kiss with)\b|'s clothes$")
_RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over"),
    "below": ("below", "under", "underneath"),
    "next to": ("next to", "beside"),
    "on top of": ("on top of", "standing on"),
}
_PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "center": ("in the middle", "in the center", "centered"),
    "left": ("on the left", "at the left edge", "on the left side"),
    "right": ("on the right", "at the right edge", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "top left": ("in the top left corner", "in the upper left", "top left"),
    "top right": ("in the top right corner", "in the upper right", "top right"),
    "bottom left": ("in the bottom left corner", "in the lower left", "bottom left"),
    "bottom right": ("in the bottom right corner", "in the lower right", "bottom right"),
}
_SIZE_WORDS = {"small": ("small", "small", "little"), "large": ("large", "big")}
_GROUNDS: dict[Kind, tuple[str, ...]] = {
    "plain": (
        "on {a_one} background",
        "on {a_one} background",
        ", {one} background",
        "on a plain {one} background",
        "on {one}",
        "against {a_one} background",
        "in front of {a_one} wall",
    ),
    "grain": ("on a grainy {one} background", "on a speckled {one} background", ", textured {one} background"),
    "gradient": (
        "on {a_one} to {two} gradient",
        ", background fading from {one} to {two}",
        "on a gradient background from {one} to {two}",
        ", {one} to {two} gradient {way}",
    ),
    "split": (
        "on a half {one}, half {two} background",
        ", background {one} {first} and {two} {second}",
        "on a split {one} and {two} background",
    ),
    "stripes": (
        "on {a_one} and {two} striped background",
        ", striped {one} and {two} background",
        "on {direction} {one} and {two} stripes",
        "on {one} and {two} stripes",
    ),
    "checks": (
        "on {a_one} and {two} checkered background",
        ", {one} and {two} checks",
        "on a checkerboard of {one} and {two}",
    ),
    "dots": (
        "on {a_one} background with {two} dots",
        ", {one} background with {two} polka dots",
        "on {one} with {two} dots",
    ),
}
_SHORT_GROUNDS: dict[Kind, str] = {
    "plain": "on {a_one} background",
    "grain": "on a grainy {one} background",
    "gradient": "on {a_one} to {two} gradient",
    "split": "on a half {one}, half {two} background",
    "stripes": "on {direction} {one} and {two} stripes",
    "checks": "on {one} and {two} checks",
    "dots": "on {one} with {two} dots",
}
_DRAWING = ("icon", "icon", "icon", "emoji", "drawing", "picture")


def describe(facts: Facts, rng: np.random.Generator, person: Callable[[np.random.Generator], str] | None = None) -> str:
    """Write a caption for a scene.

    Args:
        facts: What is true of the scene.
        rng: Decides what is said and how.
        person: Says what a drawn person looks like; needed when the scene shows one.

    Returns:
        Lower-case words, at most `MAX_WORDS` of them.
    """
    if facts.relation is not None:
        options = [_two(facts, rng), _background(facts.background, rng)]
        said = 1 if rng.random() < 0.15 else 2
        return _fit(options[:said])
    thing = facts.things[0]
    if thing.kind == "character":
        assert person is not None
        if rng.random() < 0.2:
            return person(rng).lower()
        return _portrait(person, [_background(facts.background, rng), describe_ground(facts.background)], rng)
    if rng.random() < 0.08:
        return thing.label
    if rng.random() < 0.12:
        return _fit([_single(thing, rng)])
    return _fit([_single(thing, rng), _background(facts.background, rng)])


def describe_fully(facts: Facts, person: Callable[[np.random.Generator], str] | None = None, seed: int = 0) -> str:
    """Write a plain caption that says style, name, size, place and background: for prompts whose truth is known.

    Args:
        facts: What is true of the scene.
        person: Says what a drawn person looks like; needed when the scene shows one.
        seed: Decides how the person is described.

    Returns:
        Lower-case words, at most `MAX_WORDS` of them.
    """
    ground = describe_ground(facts.background)
    if facts.relation is not None:
        one, other = facts.things
        verb = _RELATION_WORDS[facts.relation][0]
        if one.style == other.style:
            return _fit(
                [
                    f"{with_article(one.style)} icon of {with_article(one.label)} {verb} {with_article(other.label)}",
                    ground,
                ]
            )
        subject = f"{with_article(one.style)} style {one.label} {verb} {with_article(other.style)} style {other.label}"
        return _fit([subject, ground])
    thing = facts.things[0]
    if thing.kind == "character":
        assert person is not None
        return _portrait(person, [ground], np.random.default_rng(seed))
    adjective = "" if thing.size == "medium" else f"{thing.size} "
    subject = f"{with_article(adjective + thing.style)} icon of {with_article(thing.label)}"
    where = "" if thing.place in ("center", "free") else _PLACE_WORDS[thing.place][0]
    return _fit([f"{subject} {where}".strip(), ground])


def with_article(words: str) -> str:
    """Put `a` or `an` before a noun, and nothing before plurals and phrases that take none."""
    if _BARE.search(words) or _PLURAL.search(words):
        return words
    return f"{_article(words)} {words}"


def class_phrase(noun: str) -> str:
    """Put `a` or `an` before a class noun, always one of them: a lesson's prompts have one in every place."""
    return f"{_article(noun.lower())} {noun}"


def with_right_article(text: str, noun: str) -> str:
    """Say the right one of `a` and `an` before a class noun that was put in the place of another word."""
    article = _article(noun.lower())
    before = re.compile(rf"(?<!\w)(a)n?(?=\s+{re.escape(noun)}(?!\w))", re.IGNORECASE)
    return before.sub(lambda said: said[1] + article[1:], text)


def _article(words: str) -> str:
    """Return `an` where words sound as if they began with a vowel, else `a`."""
    vowel = _SOUNDS_LIKE_VOWEL.search(words) and not _SOUNDS_LIKE_CONSONANT.search(words)
    return "an" if vowel else "a"


def count_words(caption: str) -> int:
    """Count words and marks as a tokenizer sees them before it splits rare words."""
    return len(re.findall(r"[a-z0-9]+|[^\sa-z0-9]+", caption.lower()))


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Draw one of the phrases."""
    return options[int(rng.integers(len(options)))]


def _name(thing: Thing, rng: np.random.Generator) -> str:
    """Name an icon: mostly its label, sometimes another name of it or a keyword that few others share."""
    chance = rng.random()
    synonyms, keywords = thing.attributes.get("synonyms", ()), thing.attributes.get("rare_keywords", ())
    if chance < 0.06 and synonyms:
        return _choose(rng, synonyms)
    if chance > 0.98 and keywords:
        return _choose(rng, keywords)
    return thing.label


def _single(thing: Thing, rng: np.random.Generator) -> str:
    """Say what the one icon is, with style, and sometimes size and place."""
    name, style = _name(thing, rng), thing.style
    size = ""
    if thing.size in _SIZE_WORDS and rng.random() < 0.5:
        size = _choose(rng, _SIZE_WORDS[thing.size]) + " "
    drawing = _choose(rng, _DRAWING)
    form = int(rng.integers(9))
    if form <= 2:
        subject = f"{with_article(f'{size}{style}')} {drawing} of {with_article(name)}"
    elif form == 3:
        subject = f"{with_article(f'{size}{style}')} style {name}"
    elif form == 4:
        subject = f"{style} {drawing}: {with_article(size + name)}"
    elif form == 5:
        subject = f"{with_article(size + name)} in {style} style"
    elif form == 6:
        subject = f"{size}{style} style {name}"
    elif form == 7:
        subject = f"{with_article(size + name)}, {style} style"
    else:
        subject = with_article(size + name)
    keywords = thing.attributes.get("keywords", ())
    if keywords and name == thing.label and rng.random() < 0.05:
        subject += f" ({_choose(rng, keywords)})"
    said = 0.12 if thing.place == "center" else 0.6
    if thing.place in _PLACE_WORDS and rng.random() < said:
        subject += f" {_choose(rng, _PLACE_WORDS[thing.place])}"
    return subject


def _two(facts: Facts, rng: np.random.Generator) -> str:
    """Say how two icons lie to each other, with their styles most of the time."""
    assert facts.relation is not None
    one, other = facts.things
    relation: Relation = facts.relation
    if relation == "next to" and rng.random() < 0.5:
        one, other = other, one
    verb = _choose(rng, _RELATION_WORDS[relation])
    first, second = with_article(one.label), with_article(other.label)
    if one.style != other.style:
        return f"{with_article(one.style)} style {one.label} {verb} {with_article(other.style)} style {other.label}"
    form = int(rng.integers(6))
    style = one.style
    if form == 0:
        return f"{first} {verb} {second}"
    if form == 1:
        return f"{first} {verb} {second}, {style} style"
    if form == 2:
        return f"{style} {_choose(rng, ('icons', 'style'))}: {first} {verb} {second}"
    if form == 3 and relation == "next to":
        return f"{style} style {one.label} and {other.label} {_choose(rng, ('side by side', 'next to each other'))}"
    if form <= 4:
        return f"{with_article(style)} style {one.label} {verb} {second}"
    return f"{with_article(style)} {_choose(rng, ('icon', 'drawing', 'picture'))} of {first} {verb} {second}"


def _background(ground: Background, rng: np.random.Generator) -> str:
    """Describe the background in one of several ways; starts with a comma where it reads as an afterthought."""
    swapped = ground.kind in ("stripes", "checks") and rng.random() < 0.5  # neither colour comes first
    return _fill(_choose(rng, _GROUNDS[ground.kind]), ground, swapped)


def describe_ground(ground: Background) -> str:
    """Describe the background in the fewest words that say it all."""
    return _fill(_SHORT_GROUNDS[ground.kind], ground)


def _fill(template: str, ground: Background, swapped: bool = False) -> str:
    """Put colours and directions into a phrase."""
    colours = ground.colours[::-1] if swapped else ground.colours
    one, two = colours[0], colours[-1]
    across = ground.direction == "horizontal"
    return template.format(
        one=one,
        two=two,
        a_one=with_article(one),
        direction=ground.direction,
        way="from left to right" if across else "from top to bottom",
        first="on the left" if across else "at the top",
        second="on the right" if across else "at the bottom",
    )


def _join(parts: Sequence[str]) -> str:
    """Join phrases; one that brings its own comma follows without a space."""
    return " ".join(parts).replace(" ,", ",")


def _fit(parts: Sequence[str]) -> str:
    """Join as many of the phrases as fit."""
    for count in range(len(parts), 1, -1):
        caption = _join(parts[:count])
        if count_words(caption) <= MAX_WORDS:
            return caption
    return parts[0]


def _portrait(person: Callable[[np.random.Generator], str], grounds: Sequence[str], rng: np.random.Generator) -> str:
    """Describe a person and the ground; a description that leaves no room for the ground is drawn anew."""
    for _ in range(8):
        subject = person(rng).lower()
        for ground in grounds:
            caption = _join([subject, ground])
            if count_words(caption) <= MAX_WORDS:
                return caption
    return subject
