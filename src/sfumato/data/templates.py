"""Sentences around a placeholder, for pictures without captions of their own ([gal2022] 4, lists written anew).

A word that is learned in one sentence alone takes over what the sentence says; many sentences leave to the word what
all the pictures share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

TemplateSet = Literal["none", "object", "style"]

_OBJECT = (
    "a {}",
    "one {}",
    "the {}",
    "this is a {}",
    "a picture of a {}",
    "a clean picture of a {}",
    "a drawing of a {}",
    "an image showing a {}",
    "a view of the {}",
    "a {} up close",
    "a {} in full",
    "a {} in the middle",
    "a nice {}",
    "my {}",
    "a {} on its own",
    "a good picture of the {}",
)
_STYLE = (
    "a picture in the style of {}",
    "a drawing in the style of {}",
    "something in {} style",
    "a {} style picture",
    "a scene drawn in {} style",
    "an image made in the manner of {}",
    "a small work in {} style",
    "a detail in {} style",
)

TEMPLATES: Mapping[TemplateSet, tuple[str, ...]] = {"none": (), "object": _OBJECT, "style": _STYLE}
"""Sentences with one `{}` for the placeholder; `none` leaves the caption of each picture."""
