"""What a request becomes: what suits an optimizer, and values that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError
from sfumato.operations.learn import lesson_config, verdict_plan
from sfumato.requests import LearnRequest
from sfumato.training.learn_config import LearnConfig
from sfumato.training.words import check_words


def asked(**values: Any) -> LearnRequest:
    return LearnRequest.model_validate(
        {"folder": Path("photos"), "placeholder": "<fox>", "class_noun": "fox", **values}
    )


def made(**values: Any) -> LearnConfig:
    """Return the settings of a lesson on the embedded base; pictures and weights are not read for them."""
    return lesson_config(asked(**values))


def test_prodigy_has_the_steps_that_it_needs_to_find_its_rate() -> None:
    usual = made().loop.steps
    assert made(optimizer="prodigy").loop.steps == 2 * usual
    assert made(overrides=("optim.name=prodigy",)).loop.steps == 2 * usual
    assert made(optimizer="prodigy", steps=30).loop.steps == 30
    assert made(optimizer="lion").loop.steps == usual


def test_times_that_are_chosen_are_not_moved() -> None:
    usual = made().objective.shift
    assert usual != 1
    assert made(times="uniform").objective.shift == 1
    assert made(overrides=("objective.times=logit_normal",)).objective.shift == 1
    assert made(objective={"times": "logit_normal"}).objective.shift == 1
    assert made(times="logit_normal", overrides=("objective.shift=0.5",)).objective.shift == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "prodigy", "lr": 1e-4}, "lr is 0.0001 but the optimizer is 'prodigy'"),
        ({"style": True, "templates": "object"}, "templates is 'object' but the lesson is of a style"),
        ({"templates": "style"}, "templates is 'style' but the lesson is of a subject"),
        ({"init": "pissa", "overrides": ("optim.weight_decay=0.1",)}, "weight_decay is 0.1 but init is 'pissa'"),
    ],
)
def test_values_that_would_spoil_a_lesson_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**values)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fox", "The word 'fox' stands in the class noun 'red fox'"),
        ("a <fox>", "The word '<fox>' stands in the word 'a <fox>'"),
    ],
)
def test_a_word_of_the_users_stands_in_nothing_else(word: str, message: str) -> None:
    config = made(method="dreambooth", class_noun="red fox", word=word, output=Path("a.safetensors"))
    with pytest.raises(ConfigError, match=message) as caught:
        check_words(config)
    assert caught.value.field == "word"
    check_words(config.model_copy(update={"word": "zq"}))


def test_more_pictures_of_a_prompt_are_more_of_the_plain_class() -> None:
    assert [verdict_plan(asked(verdict_seeds=count)).class_seeds for count in (2, 3, 16)] == [3, 3, 16]
