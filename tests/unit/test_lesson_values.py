"""What a request becomes: what suits an optimizer, and values that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError
from sfumato.formats.bundle import Bundle
from sfumato.operations.learn import lesson_config, verdict_plan
from sfumato.requests import LearnRequest
from sfumato.training.learn_config import LearnConfig
from sfumato.training.words import check_words
from tiny import tiny_bundle
from tiny_pictures import draw_discs


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_discs(tmp_path, 2)


def asked(photos: Path, **values: Any) -> LearnRequest:
    return LearnRequest.model_validate({"folder": photos, "placeholder": "<fox>", "class_noun": "fox", **values})


def made(bundle: Bundle, photos: Path, **values: Any) -> LearnConfig:
    return lesson_config(asked(photos, **values), bundle)


def test_prodigy_has_the_steps_that_it_needs_to_find_its_rate(bundle: Bundle, photos: Path) -> None:
    usual = made(bundle, photos).loop.steps
    assert made(bundle, photos, optimizer="prodigy").loop.steps == 2 * usual
    assert made(bundle, photos, overrides=("optim.name=prodigy",)).loop.steps == 2 * usual
    assert made(bundle, photos, optimizer="prodigy", steps=30).loop.steps == 30
    assert made(bundle, photos, optimizer="lion").loop.steps == usual


def test_times_that_are_chosen_are_not_moved(bundle: Bundle, photos: Path) -> None:
    usual = made(bundle, photos).objective.shift
    assert usual != 1
    assert made(bundle, photos, times="uniform").objective.shift == 1
    assert made(bundle, photos, overrides=("objective.times=logit_normal",)).objective.shift == 1
    assert made(bundle, photos, objective={"times": "logit_normal"}).objective.shift == 1
    assert made(bundle, photos, times="logit_normal", overrides=("objective.shift=0.5",)).objective.shift == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "prodigy", "lr": 1e-4}, "lr is 0.0001 but the optimizer is 'prodigy'"),
        ({"style": True, "templates": "object"}, "templates is 'object' but the lesson is of a style"),
        ({"templates": "style"}, "templates is 'style' but the lesson is of a subject"),
        ({"init": "pissa", "overrides": ("optim.weight_decay=0.1",)}, "weight_decay is 0.1 but init is 'pissa'"),
    ],
)
def test_values_that_would_spoil_a_lesson_are_refused(
    bundle: Bundle, photos: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(bundle, photos, **values)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fox", "The word 'fox' stands in the class noun 'red fox'"),
        ("a <fox>", "The word '<fox>' stands in the word 'a <fox>'"),
    ],
)
def test_a_word_of_the_users_stands_in_nothing_else(bundle: Bundle, photos: Path, word: str, message: str) -> None:
    config = made(bundle, photos, method="dreambooth", class_noun="red fox", word=word, output=Path("a.safetensors"))
    with pytest.raises(ConfigError, match=message) as caught:
        check_words(config)
    assert caught.value.field == "word"
    check_words(config.model_copy(update={"word": "zq"}))


def test_more_pictures_of_a_prompt_are_more_of_the_plain_class(photos: Path) -> None:
    assert [verdict_plan(asked(photos, verdict_seeds=count)).class_seeds for count in (2, 3, 16)] == [3, 3, 16]
