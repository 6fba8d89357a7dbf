"""Captions are dropped as often as asked for, in the training of a base and in lessons, and the network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sfumato.formats.bundle import Bundle
from sfumato.training.autoencoder import train_autoencoder
from sfumato.training.denoiser import DenoiserTrainer
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.parts import load_autoencoder
from sfumato.training.subject import read_subject
from sfumato.training.text import learned_tokenizer
from tiny import tiny_bundle
from tiny_stages import SECOND, first, second

CHANCES = [(0.0, 0.0, 0.0), (0.3, 0.2, 0.4), (1.0, 1.0, 1.0)]
"""A probability, and between which shares of some 200 captions it lies."""
DRAWS = 50


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a first stage."""
    folder = tmp_path_factory.mktemp("first")
    list(train_autoencoder(first(), folder))
    return folder


@pytest.mark.parametrize(("chance", "least", "most"), CHANCES)
def test_of_a_base(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch, chance: float, least: float, most: float
) -> None:
    recipe = second(autoencoder, objective={**SECOND["objective"], "text_dropout": chance})
    trainer = DenoiserTrainer(recipe, tmp_path, load_autoencoder(autoencoder), learned_tokenizer(recipe, tmp_path))
    list(trainer.pool.move_to(0))
    seen: list[str] = []
    context = trainer._context

    def recorded(captions: Sequence[str]) -> Any:
        seen.extend(captions)
        return context(captions)

    monkeypatch.setattr(trainer, "_context", recorded)
    told = [caption for draw in range(DRAWS) for caption in trainer.pool.batch(draw, recipe.batch_size).captions]
    for draw in range(DRAWS):
        trainer.loss(draw)
    assert all(now in ("", before) for now, before in zip(seen, told, strict=True))
    assert all(told) and least <= seen.count("") / len(seen) <= most


@pytest.fixture
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.mark.parametrize(("chance", "least", "most"), CHANCES)
def test_of_a_lesson(
    photos: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, chance: float, least: float, most: float
) -> None:
    config = LearnConfig.model_validate(
        {
            "folder": photos,
            "placeholder": "<fox>",
            "class_noun": "fox",
            "output": "fox.safetensors",
            "batch_size": 4,
            "objective": {"text_dropout": chance},
        }
    )
    learner = Learner(config, bundle, read_subject(photos, "<fox>", "fox", bundle))
    seen: list[str] = []
    context = learner.words.context

    def recorded(captions: Sequence[str], *args: Any, **options: Any) -> Any:
        seen.extend(captions)
        return context(captions, *args, **options)

    monkeypatch.setattr(learner.words, "context", recorded)
    for draw in range(DRAWS):
        learner._losses(draw)
    assert len(seen) == 4 * DRAWS and least <= seen.count("") / len(seen) <= most
    assert all("fox" in caption for caption in seen if caption)
