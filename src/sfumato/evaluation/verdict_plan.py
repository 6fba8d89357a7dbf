"""What a verdict asks for: prompts, seeds, how pictures are drawn, and the rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from sfumato.errors import ConfigError
from sfumato.evaluation.plan import Drawing, Table
from sfumato.evaluation.verdict import Rule

PROMPTS = (
    "a {} on a purple background",
    "a small {} on a green background",
    "a {} next to a house",
    "a {}, flat style",
)
"""What is asked for unless told: two grounds, something beside it, another style. `{}` is the subject."""

STYLE_PROMPTS = (
    "a house, {} style",
    "a dog on a purple background, {} style",
    "a person, {} style",
    "a tree next to a car, {} style",
)
"""The same for a style: four different things. `{}` is the style."""


class VerdictPlan(Table):
    """Everything that decides a verdict, apart from the base, the pictures and the encoders.

    Attributes:
        prompts: Each with `{}` where the subject stands; at least two.
        plain: The plain sentence with the word.
        plain_class: The plain sentence without it, where the class noun stands in its place; None fills `plain`.
        seeds: Pictures of every prompt; at least two.
        class_seeds: Pictures of each plain sentence.
        seed: The first seed; picture i of a prompt has seed + i.
        drawing: How every picture is drawn.
        rule: The bounds.
    """

    prompts: tuple[str, ...] = Field(default=PROMPTS, min_length=2)
    plain: str = "a {}"
    plain_class: str | None = None
    seeds: int = Field(default=2, ge=2)
    class_seeds: int = Field(default=3, ge=2)
    seed: int = Field(default=0, ge=0)
    drawing: Drawing = Drawing(steps=8, batch_size=4)
    rule: Rule = Rule()


def read_prompts(path: Path, placeholder: str) -> tuple[str, ...]:
    """Read prompts from a text file, one a line; empty lines and lines that begin with # are left out.

    Args:
        path: The file.
        placeholder: The word for the subject; every prompt names it or has `{}` in its place.

    Returns:
        The prompts, with `{}` for the subject.

    Raises:
        ConfigError: The file cannot be read, has fewer than two prompts, or a line does not name the subject.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The prompts in '{path}' cannot be read as UTF-8 text: {error}.", field="verdict_prompts"
        ) from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if len(prompts) < 2:
        raise ConfigError(
            f"{path} has {len(prompts)} prompts; a verdict needs at least 2, one a line.", field="verdict_prompts"
        )
    return tuple(_with_gap(prompt, placeholder, path) for prompt in prompts)


def filled(prompts: Sequence[str], subject: str) -> list[str]:
    """Put the subject into prompts."""
    return [prompt.replace("{}", subject) for prompt in prompts]


def _with_gap(prompt: str, placeholder: str, path: Path) -> str:
    """Return a prompt with `{}` for the subject."""
    found = prompt if "{}" in prompt else re.sub(re.escape(placeholder), "{}", prompt, flags=re.IGNORECASE)
    if "{}" not in found:
        raise ConfigError(
            f"{path}: the prompt '{prompt}' does not name the subject.",
            field="verdict_prompts",
            hint=f"Write {placeholder} or {{}} where it stands.",
        )
    return found
