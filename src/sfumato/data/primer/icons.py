"""Icons: find each concept's drawing in five icon sets and render it.

The sets are in the Iconify format: one JSON file with the body of an SVG per name, sizes, and aliases.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data.primer.concepts import read_json

ICON_SIZE = 128

STYLES: dict[str, str] = {
    "noto": "@iconify-json/noto",
    "blob": "@iconify-json/noto-v1",
    "fluent": "@iconify-json/fluent-emoji",
    "flat": "@iconify-json/fluent-emoji-flat",
    "twemoji": "@iconify-json/twemoji",
}
"""What captions call each set, and the package that holds it."""


@dataclass(frozen=True)
class Drawing:
    """One icon to render: where it goes and its SVG."""

    style: str
    concept: str
    svg: str


@dataclass(frozen=True)
class Rendered:
    """One icon after rendering: PNG bytes, or the reason why there are none."""

    style: str
    concept: str
    png: bytes | None
    problem: str | None = None


class IconSet:
    """One icon set in the Iconify format.

    Args:
        content: The parsed `icons.json`.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._icons: Mapping[str, Mapping[str, Any]] = content["icons"]
        self._aliases: Mapping[str, Mapping[str, Any]] = content.get("aliases", {})
        self._width = content.get("width", 16)
        self._height = content.get("height", 16)

    @classmethod
    def open(cls, modules: Path, package: str) -> IconSet:
        """Read the set from its package.

        Raises:
            DataError: The file is missing or is not JSON.
        """
        return cls(read_json(modules / package / "icons.json"))

    def svg(self, names: Iterable[str], size: int = ICON_SIZE) -> str | None:
        """Return the SVG of the first name that the set knows.

        Args:
            names: Names to try, best first.
            size: Width and height of the picture, in pixels; the drawing keeps its proportions.

        Returns:
            A complete SVG document, or `None` if no name is known.
        """
        for name in names:
            found = self._resolve(name)
            if found is not None:
                return self._document(found, size)
        return None

    def _resolve(self, name: str, depth: int = 0) -> dict[str, Any] | None:
        """Follow aliases to an icon, gathering flips and quarter turns; hidden (withdrawn) icons are not found."""
        if name in self._icons:
            icon = dict(self._icons[name])
            return None if icon.get("hidden") else icon
        if name not in self._aliases or depth > 4:
            return None
        alias = self._aliases[name]
        icon_or_none = self._resolve(alias["parent"], depth + 1)
        if icon_or_none is None or alias.get("hidden"):
            return None
        for flip in ("hFlip", "vFlip"):
            icon_or_none[flip] = bool(icon_or_none.get(flip)) != bool(alias.get(flip))
        icon_or_none["rotate"] = (icon_or_none.get("rotate", 0) + alias.get("rotate", 0)) % 4
        icon_or_none.update({k: v for k, v in alias.items() if k in ("left", "top", "width", "height")})
        return icon_or_none

    def _document(self, icon: Mapping[str, Any], size: int) -> str:
        """Wrap the body of an icon into an SVG document."""
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = icon.get("width", self._width), icon.get("height", self._height)
        body = icon["body"]
        turns = []
        if icon.get("rotate"):
            turns.append(f"rotate({90 * icon['rotate']} {left + width / 2} {top + height / 2})")
        if icon.get("hFlip"):
            turns.append(f"translate({2 * left + width} 0) scale(-1 1)")
        if icon.get("vFlip"):
            turns.append(f"translate(0 {2 * top + height}) scale(1 -1)")
        if turns:
            body = f'<g transform="{" ".join(turns)}">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}">{body}</svg>'
        )


def render(drawing: Drawing) -> Rendered:
    """Render one icon to PNG bytes; a drawing that cannot be rendered is reported, not raised."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=drawing.svg, skip_system_fonts=True)
    except (ValueError, RuntimeError) as error:
        return Rendered(drawing.style, drawing.concept, None, str(error))
    return Rendered(drawing.style, drawing.concept, bytes(png))


def render_all(drawings: Iterable[Drawing], workers: int) -> Iterator[Rendered]:
    """Render icons in order; the renderer holds the interpreter lock, so several cores need several processes.

    Args:
        drawings: What to render.
        workers: Number of processes; 1 renders in this one.

    Returns:
        One result for each drawing, in the same order.
    """
    if workers <= 1:
        yield from map(render, drawings)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(render, drawings, chunksize=32)
