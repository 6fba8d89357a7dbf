"""Grounds of a benchmark: what pictures to learn from stand on, and what is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from sfumato.data.backgrounds import COLOURS, Background, Kind, draw_background

_CALM = ("white", "beige", "grey", "yellow", "pink")
_PLAIN: dict[Kind, float] = {"plain": 1.0}
_PATTERNED: dict[Kind, float] = {"stripes": 1.0, "dots": 1.0, "checks": 1.0, "gradient": 1.0}
_ANY: dict[Kind, float] = {"plain": 2.0, "split": 1.0, "gradient": 1.0, "stripes": 1.0, "dots": 1.0, "checks": 1.0}
_TRIES = 100


def asked_ground(hidden: Collection[str]) -> Background:
    """Choose the plain ground on which a subject is asked for when the ground is not what changes.

    Args:
        hidden: Colours that would hide the subject.
    """
    calm = [name for name in _CALM if name not in hidden]
    return Background("plain", ((calm or [name for name in COLOURS if name not in hidden] or ["white"])[0],))


def training_grounds(
    rng: np.random.Generator, hidden: Collection[str], asked: Background, count: int
) -> list[Background]:
    """Draw grounds to learn from, no colour of which is the first of another, and none is the one asked for.

    Args:
        rng: Where the randomness comes from.
        hidden: Colours that would hide the subject.
        asked: The ground that prompts ask for.
        count: How many.
    """
    avoid = {*hidden, *asked.colours}
    grounds: list[Background] = []
    for _ in range(count):
        grounds.append(draw_background(rng, _ANY, frozenset(avoid), white_share=0.0))
        avoid.add(grounds[-1].colours[0])
    return grounds


def new_ground(
    rng: np.random.Generator,
    hidden: Collection[str],
    known: Sequence[Background],
    kind: Literal["plain", "patterned"],
) -> Background:
    """Draw a ground that is unlike all that are known: a plain one of a named colour, or a pattern.

    Args:
        rng: Where the randomness comes from.
        hidden: Colours that would hide the subject.
        known: Grounds to learn from and those asked for already.
        kind: Which of the two.
    """
    used = {name for ground in known for name in ground.colours}
    for number in range(_TRIES):
        avoid = frozenset({*hidden, *used} if number < _TRIES // 2 else hidden)
        drawn = draw_background(rng, _PLAIN if kind == "plain" else _PATTERNED, avoid, white_share=0.0)
        exact = Background(drawn.kind, drawn.colours, drawn.direction, drawn.period)
        if all((exact.kind, exact.colours) != (ground.kind, ground.colours) for ground in known):
            break
    return exact
