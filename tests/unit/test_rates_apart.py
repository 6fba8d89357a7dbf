"""Learning rates in one lesson: an optimizer that suits factors moves vectors of words as their method has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.formats.bundle import Bundle
from sfumato.operations.learn import lesson_config
from sfumato.requests import LearnRequest
from sfumato.training.factors import rates
from sfumato.training.learner import Learner
from sfumato.training.optim import Optimizers, build_optimizers
from sfumato.training.subject import read_subject
from tiny import tiny_bundle
from tiny_pictures import draw_discs


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_discs(tmp_path, 2)


def lesson(bundle: Bundle, photos: Path, **values: Any) -> tuple[Learner, Optimizers]:
    """Begin a lesson, and make its optimizers."""
    fox = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "rank": 2}
    config = lesson_config(LearnRequest.model_validate({**fox, **values}), bundle)
    learner = Learner(config, bundle, read_subject(photos, "<fox>", "fox", bundle))
    return learner, build_optimizers(learner.learning, rates(config))


def peaks(optimizers: Optimizers) -> dict[str, float]:
    """Return the highest rate of every weight."""
    return {
        optimizers.names[weight]: group["peak_lr"]
        for part in optimizers.parts
        for group in part.param_groups
        for weight in group["params"]
    }


@pytest.mark.parametrize(
    ("values", "factors", "word"),
    [
        ({"optimizer": "adamw"}, 2e-3, 2e-3),
        ({"optimizer": "adafactor"}, 0.2, 0.02),
        ({"optimizer": "adafactor", "init": "pissa"}, 0.02, 0.02),
        ({"optimizer": "muon"}, 6e-3, 2e-3),
        ({"optimizer": "muon", "init": "pissa"}, 6e-3, 2e-3),
        ({"optimizer": "adafactor", "optim": {"lr_factors": {"*.up": 2.0}}}, 0.2, 0.2),
    ],
)
def test_words_have_a_rate_of_their_own(
    values: dict[str, Any], factors: float, word: float, bundle: Bundle, photos: Path
) -> None:
    learner, optimizers = lesson(bundle, photos, **values)
    try:
        found = peaks(optimizers)
        assert found["learned-word.rows"] == pytest.approx(word)
        downs = {rate for name, rate in found.items() if name.endswith(".down")}
        assert len(downs) == 1 and downs.pop() == pytest.approx(factors)
    finally:
        learner.close()


def test_adafactor_does_not_carry_a_word_off(bundle: Bundle, photos: Path) -> None:
    learner, optimizers = lesson(bundle, photos, optimizer="adafactor")
    try:
        assert learner.words.rows is not None
        rows = learner.words.rows.rows
        start = rows.detach().clone()
        for step in range(8):
            optimizers.set_lr(step, 100)
            rows.grad = torch.ones_like(rows)
            optimizers.step()
        moved = float((rows.detach() - start).norm() / start.norm())
        assert 0.01 < moved < 0.3
    finally:
        learner.close()


def test_lengths_of_dora_are_no_matrices(bundle: Bundle, photos: Path) -> None:
    learner, optimizers = lesson(bundle, photos, optimizer="muon", adapter="dora")
    try:
        lengths = {rate for name, rate in peaks(optimizers).items() if name.endswith(".magnitude")}
        assert len(lengths) == 1 and lengths.pop() == pytest.approx(2e-3)
    finally:
        learner.close()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_word_alone_decays_where_that_is_asked(decay: float, bundle: Bundle, photos: Path) -> None:
    values = {"method": "textual-inversion", "rank": None, "optim": {"weight_decay": decay}}
    learner, optimizers = lesson(bundle, photos, **values)
    try:
        ((group,),) = (part.param_groups for part in optimizers.parts)
        assert group["weight_decay"] == decay
    finally:
        learner.close()
