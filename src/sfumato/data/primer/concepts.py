"""What the icons show: one concept for each emoji, with its label, keywords and split.

The five sets name their icons differently, so the code point is the key, and names are only ways to find a drawing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sfumato.errors import DataError
from sfumato.runtime.seeding import derive_seed

HELD_OUT_CONCEPTS: dict[str, tuple[str, ...]] = {
    "unicorn": ("unicorn",),
    "octopus": ("octopus",),
    "robot": ("robot",),
    "teddy-bear": ("teddy",),
    "red-apple": ("apple",),
}
"""Concepts in no training picture, and the words that no other concept may carry as keyword or synonym."""

HELD_OUT_SHARE = 0.05
_LEFT_OUT_GROUPS = {"component"}
_LEFT_OUT_SUBGROUPS = {"country-flag", "subdivision-flag", "keycap"}
_LEFT_OUT_LABELS = re.compile(r"facing right$|^(kiss|couple with heart|family): |“")
_MAX_WORDS = 12


@dataclass(frozen=True)
class Concept:
    """One thing that an icon can show.

    Attributes:
        key: Name used for files and in requests, such as `red-apple`.
        label: How a caption names it, lower case, such as `red apple`.
        hexcode: Code points in lower case without variation selectors.
        group: Emoji group, such as `food-drink`.
        keywords: Words that go with it, such as `fruit`.
        synonyms: Other names of the same thing, such as `unicorn face`.
        names: Names under which an icon set may file it, best first.
    """

    key: str
    label: str
    hexcode: str
    group: str
    keywords: tuple[str, ...]
    synonyms: tuple[str, ...]
    names: tuple[str, ...]


def read_concepts(modules: Path, icon_packages: Sequence[str]) -> list[Concept]:
    """Read the concepts from the emoji data, with every name that the icon sets have for them.

    Skin-tone variants, country flags and keycaps are left out; so are the drawings that a short caption cannot tell
    apart: families and couples listed by member, mirrored people and buttons with Japanese writing.

    Args:
        modules: The `node_modules` folder.
        icon_packages: Packages whose names count as synonyms.

    Returns:
        Concepts in the order of the emoji standard.

    Raises:
        DataError: A file of the packages cannot be read.
    """
    data = modules / "emojibase-data"
    messages = read_json(data / "en/messages.json")
    groups = {item["order"]: item["key"] for item in messages["groups"]}
    subgroups = {item["order"]: item["key"] for item in messages["subgroups"]}
    entries = [
        entry
        for entry in read_json(data / "en/data.json")
        if "group" in entry
        and groups[entry["group"]] not in _LEFT_OUT_GROUPS
        and subgroups[entry["subgroup"]] not in _LEFT_OUT_SUBGROUPS
        and not _LEFT_OUT_LABELS.search(entry["label"])
    ]
    keys = {slug(entry["label"]) for entry in entries}
    named, aliases = _names_by_code(modules, icon_packages)
    unicode_names = {_code(k): slug(v) for k, v in read_json(data / "meta/unicode-names.json").items()}
    return [_concept(entry, groups[entry["group"]], keys, named, aliases, unicode_names) for entry in entries]


def split_pairs(pairs: Iterable[tuple[str, str]], seed: int) -> dict[tuple[str, str], str]:
    """Assign every (concept, style) pair to `train`, `held_out_pair` or `held_out_concept`.

    A concept loses at most one style, and only if two or more are left to learn it from: the question is whether a
    known concept can be drawn in a known style that it was never seen in.

    Args:
        pairs: Every (concept, style) with a picture.
        seed: Decides which 5 % are held out.

    Returns:
        The split of each pair.
    """
    known = sorted(set(pairs))
    styles: dict[str, list[str]] = defaultdict(list)
    for concept, style in known:
        styles[concept].append(style)
    splits = {pair: "held_out_concept" if pair[0] in HELD_OUT_CONCEPTS else "train" for pair in known}
    random = Random(derive_seed(seed, "primer/held-out-pairs"))
    candidates = [
        concept for concept in sorted(styles) if concept not in HELD_OUT_CONCEPTS and len(styles[concept]) >= 3
    ]
    random.shuffle(candidates)
    for concept in candidates[: round(HELD_OUT_SHARE * len(known))]:
        splits[concept, random.choice(styles[concept])] = "held_out_pair"
    return splits


def slug(text: str) -> str:
    """Return the text as lower-case ASCII words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", _ascii(text).replace("'", "")).strip("-")


def read_json(path: Path) -> Any:
    """Read a JSON file of a package.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {error}.", hint="Delete the folder of packages and build again."
        ) from error


def _concept(
    entry: Mapping[str, Any],
    group: str,
    keys: set[str],
    named: Mapping[str, set[str]],
    aliases: Mapping[str, set[str]],
    unicode_names: Mapping[str, str],
) -> Concept:
    """Turn one entry of the emoji data into a concept."""
    key, code = slug(entry["label"]), _code(entry["hexcode"])
    taken = keys - {key}  # another concept's own name is never a way to find this one
    names = named.get(code, set()) - taken - {key}
    older = {alias for name in {key, *names} for alias in aliases.get(name, ())} - taken - names - {key}
    formal = ({unicode_names[code]} if code in unicode_names else set()) - taken - names - older - {key}
    words = [_ascii(tag) for tag in entry.get("tags", ())]
    label = natural_label(entry["label"])
    synonyms = [name.replace("-", " ") for name in sorted(names | older)]
    return Concept(
        key,
        label,
        code,
        group,
        tuple(w for w in words if w != label and _allowed(key, w))[:_MAX_WORDS],
        tuple(s for s in synonyms if s != label and _allowed(key, s))[:_MAX_WORDS],
        (key, *sorted(names), *sorted(older), *sorted(formal)),
    )


def natural_label(label: str) -> str:
    """Write a label of the emoji standard as it would stand in a sentence, such as `man with red hair`."""
    text = _ascii(label)
    text = re.sub(r"^(\w+): bald$", r"bald \1", text)
    text = re.sub(r"^(\w+): (.+)$", r"\1 with \2", text)
    text = re.sub(r"^(.+) \((.+)\)$", r"\2 \1", text)
    return " ".join(re.sub(r"[^a-z0-9' -]+", " ", text).split())


def _allowed(key: str, words: str) -> bool:
    """Tell whether the words give away no held-out concept; its own words are its own."""
    parts = set(re.split(r"[^a-z0-9]+", words))
    return not any(parts & set(secret) for owner, secret in HELD_OUT_CONCEPTS.items() if owner != key)


def _names_by_code(modules: Path, packages: Sequence[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Collect names by code point, and the older names of each name, from all icon sets."""
    named: dict[str, set[str]] = defaultdict(set)
    aliases: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        for code, name in read_json(modules / package / "chars.json").items():
            named[_code(code)].add(name)
        for alias, target in read_json(modules / package / "icons.json").get("aliases", {}).items():
            if set(target) == {"parent"}:
                aliases[target["parent"]].add(alias)
    return named, aliases


def _code(hexcode: str) -> str:
    """Lower case, without the selectors that only choose a colour drawing."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _ascii(text: str) -> str:
    """Lower-case ASCII with straight apostrophes."""
    plain = text.replace("’", "'").lower()
    return unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
