"""Values of requests that are written as one text: sizes, concepts with their strength, intervals of noise levels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator


def _parse_size(value: object) -> object:
    """Turn `128` or `160x96` (width x height) into two numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        parts = value.lower().replace("×", "x").split("x")
        if len(parts) in (1, 2) and all(part.strip().isdigit() for part in parts):
            return (int(parts[0]), int(parts[-1]))
    if isinstance(value, list | tuple) and len(value) == 2:
        return tuple(value)
    raise ValueError("needed one number or WIDTHxHEIGHT, for example 128 or 160x96")


Size = Annotated[
    tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]],
    BeforeValidator(_parse_size),
    PlainSerializer(lambda size: f"{size[0]}x{size[1]}", return_type=str),
]
"""Width and height in pixels."""


class ConceptUse(BaseModel):
    """A learned concept and how strongly it acts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    in_words: ClassVar[str] = "a concept file, with a strength from -4 to 4 after a colon"

    path: Path
    strength: Annotated[float, Field(ge=-4, le=4)] = 1.0


def _parse_concept(value: object) -> object:
    """Turn `fox.safetensors:0.8` into a path and a strength."""
    if not isinstance(value, str):
        return value
    path, colon, strength = value.rpartition(":")
    if colon and path:
        try:
            return {"path": path, "strength": float(strength)}
        except ValueError:
            pass
    return {"path": value}


Concept = Annotated[ConceptUse, BeforeValidator(_parse_concept)]


class NoiseInterval(BaseModel):
    """Two noise levels."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    in_words: ClassVar[str] = "two noise levels from 0 to 1, the lower one first, as 0.2:0.9"

    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    high: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _rises(self) -> NoiseInterval:
        if self.low >= self.high:
            raise ValueError("needed: the lower level first")
        return self


def _parse_interval(value: object) -> object:
    """Turn `0.2:0.9`, or two numbers, into two noise levels."""
    if not isinstance(value, str | list | tuple):
        return value
    try:
        low, high = map(float, value.split(":") if isinstance(value, str) else value)
    except (ValueError, TypeError):
        low, high = 0.0, 0.0
    if not 0 <= low < high <= 1:
        raise ValueError(f"needed {NoiseInterval.in_words}")
    return {"low": low, "high": high}


def _exactly(level: float) -> str:
    """Write a noise level as short as it can be read back."""
    short = f"{level:g}"
    return short if float(short) == level else repr(level)


Interval = Annotated[
    NoiseInterval,
    BeforeValidator(_parse_interval),
    PlainSerializer(lambda levels: f"{_exactly(levels.low)}:{_exactly(levels.high)}", return_type=str),
]
