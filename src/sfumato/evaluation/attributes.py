"""Which attributes of a drawn person a caption states, and what the truth is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.data.primer.looks import find_style

ATTRIBUTES = ("has_glasses", "has_hat", "has_beard", "hair_color", "expression")
NAMES = {
    "has_glasses": "glasses",
    "has_hat": "hat",
    "has_beard": "beard",
    "hair_color": "hair colour",
    "expression": "expression",
}
_SLOTS = {"has_glasses": "glasses", "has_hat": "hat", "has_beard": "facial_hair"}


def stated(record: Mapping[str, Any], caption: str) -> frozenset[str]:
    """Find the attributes that a caption says something about.

    Captions say what is there and deny nothing. So glasses, a hat or a beard count as stated where the caption names
    them, and their absence where it does not and they are not there.

    Args:
        record: A record of `characters.jsonl`.
        caption: What was written about it.

    Returns:
        Names out of `ATTRIBUTES`.
    """
    facts, style = record["attributes"], find_style(record["style"])
    found = set()
    for name, slot in _SLOTS.items():
        if facts[name] is None or slot not in style.slots:
            continue
        beard = name == "has_beard" and "bearded" in caption
        if not facts[name] or beard or (facts[slot] is not None and facts[slot] in caption):
            found.add(name)
    color = facts["hair_color"]
    if color is not None:
        cut = style.look("hair", record["looks"]["hair"]).words.replace("{}", f"{color} ")
        if f"{color} hair" in caption or (color in cut and cut in caption):
            found.add("hair_color")
    if facts["expression"] is not None and facts["expression_words"] in caption:
        found.add("expression")
    return frozenset(found)


def label(record: Mapping[str, Any], attribute: str) -> str | None:
    """Return the truth about an attribute in words, or `None` where it cannot be judged."""
    facts, slot = record["attributes"], _SLOTS.get(attribute)
    if facts[attribute] is None or (slot is not None and slot not in find_style(record["style"]).slots):
        return None
    return str(facts[attribute])
