"""What a verdict asks for: prompts, seeds, how pictures are drawn, and the rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from sfumato.adapters.tokens import expand_placeholder
from sfumato.data.captions import with_right_article
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
        others: Other words that are learned in the same lesson and stand in `prompts`, with their class nouns.
        plain: The plain sentence with the word.
        plain_class: The plain sentence without it, where the class noun stands in its place; None fills `plain`.
        seeds: Pictures of every prompt; at least two.
        class_seeds: Pictures of each plain sentence.
        seed: The first seed; picture i of a prompt has seed + i.
        drawing: How every picture is drawn.
        rule: The bounds.
    """

    prompts: tuple[str, ...] = Field(default=PROMPTS, min_length=2)
    others: Mapping[str, str] = {}
    plain: str = "a {}"
    plain_class: str | None = None
    seeds: int = Field(default=2, ge=2)
    class_seeds: int = Field(default=3, ge=2)
    seed: int = Field(default=0, ge=0)
    drawing: Drawing = Drawing(steps=8, batch_size=4)
    rule: Rule = Rule()


def read_prompts(path: Path, placeholder: str, others: Collection[str] = ()) -> tuple[str, ...]:
    """Read what is asked of a subject from a text file, one prompt a line; empty lines and those with # are left out.

    Where there are several subjects, a line is asked of those that it names, and with `{}` of all others: `a <fox>
    beside a <cat>` of both, `a {} beside a <cat>` of every one but the cat.

    Args:
        path: The file.
        placeholder: The word for the subject.
        others: The words for other subjects of the lesson.

    Returns:
        The prompts, with `{}` for the subject.

    Raises:
        ConfigError: The file cannot be read, has fewer than two prompts of the subject, or a line names no subject.
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
    _check_named(prompts, (placeholder, *others), path)
    found = [_with_gap(prompt, placeholder) for prompt in prompts if _is_asked(prompt, placeholder, others)]
    if len(found) < 2:
        raise ConfigError(
            f"{path} has {len(found)} prompts of {placeholder}; a verdict needs at least 2 of every subject.",
            field="verdict_prompts",
            hint=f"Write more lines with {placeholder}, or with {{}} for any subject.",
        )
    return tuple(found)


def filled(prompts: Sequence[str], subject: str) -> list[str]:
    """Put the subject into prompts."""
    return [prompt.replace("{}", subject) for prompt in prompts]


def without_words(plan: VerdictPlan, class_noun: str) -> list[str]:
    """Say the prompts of a plan as the base is asked: class nouns in place of all words.

    A noun that follows its word is said once: `a {} fox in snow` becomes `a fox in snow`.

    Args:
        plan: The plan.
        class_noun: What the subject is.
    """
    prompts = list(plan.prompts)
    for word, noun in (*plan.others.items(), ("{}", class_noun)):
        prompts = [with_right_article(expand_placeholder(prompt, word, noun, noun), noun) for prompt in prompts]
    return filled(prompts, class_noun)


def named(prompts: Sequence[str], words: Mapping[str, str]) -> dict[str, str]:
    """Return those of some words, with their class nouns, that stand in prompts."""
    return {word: noun for word, noun in words.items() if any(_with_gap(text, word) != text for text in prompts)}


def _with_gap(prompt: str, placeholder: str) -> str:
    """Return a prompt with `{}` for the subject; what is found is what drawing will find (`expand_placeholder`)."""
    return expand_placeholder(prompt, placeholder, "{}", "")


def _is_asked(prompt: str, placeholder: str, others: Collection[str]) -> bool:
    """Say whether a prompt is asked of a subject; beside others, `{}` in it stands for one that it does not name."""
    is_named, is_open = _with_gap(prompt, placeholder) != prompt, "{}" in prompt
    return is_named != is_open if others else is_named or is_open


def _check_named(prompts: Sequence[str], words: Sequence[str], path: Path) -> None:
    """Refuse a prompt that names no subject."""
    for prompt in prompts:
        if not any("{}" in _with_gap(prompt, word) for word in words):
            raise ConfigError(
                f"{path}: the prompt '{prompt}' does not name {'the' if len(words) == 1 else 'a'} subject.",
                field="verdict_prompts",
                hint=f"Write {', '.join(words)} or {{}} where it stands.",
            )
