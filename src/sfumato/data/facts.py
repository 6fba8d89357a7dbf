"""What is true of a scene: the ground truth beside every picture that is composed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sfumato.data.backgrounds import Background

SizeName = Literal["small", "medium", "large"]
PlaceName = Literal[
    "center", "left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "free"
]
Relation = Literal["left of", "right of", "above", "below", "next to", "on top of"]

SIZES: dict[SizeName, tuple[float, float]] = {"small": (0.30, 0.42), "medium": (0.48, 0.72), "large": (0.78, 0.94)}
"""Longer side of a thing as a share of the picture."""

PLACES: dict[PlaceName, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
}
"""Where a thing stands, as shares of the free room beside and above it."""

RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below", "next to", "on top of")


@dataclass(frozen=True)
class Box:
    """The smallest rectangle around what is drawn, in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box, x then y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Thing:
    """One thing in a scene.

    Attributes:
        kind: An icon or a drawn person.
        name: Concept of an icon, identity of a character.
        style: How captions call the style.
        label: How captions call the thing; of a character, what its style is called and what can be seen.
        box: Where it is.
        size: Its size in words.
        place: Where it stands in words; `free` is somewhere in between.
        file: Picture it was drawn from, within the training set.
        split: The split that the picture belongs to.
        attributes: What is known of a character; keywords and group of an icon.
    """

    kind: Literal["icon", "character"]
    name: str
    style: str
    label: str
    box: Box
    size: SizeName
    place: PlaceName
    file: str
    split: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything true of a scene.

    Attributes:
        things: From back to front.
        background: What lies behind them.
        relation: How the first thing lies to the second, if there are two.
    """

    things: tuple[Thing, ...]
    background: Background
    relation: Relation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data for JSON."""
        return asdict(self)
