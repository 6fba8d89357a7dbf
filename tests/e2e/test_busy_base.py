"""A lesson has its base for itself, and gives it back however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import ConfigError, DataError
from sfumato.events import Event, Metric, Preview, Progress, Verdict
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord
from sfumato.operations.pictures import draw
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import GenerateRequest
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.subject import read_subject
from tiny import tiny_bundle
from tiny_pictures import draw_discs

pytestmark = pytest.mark.usefixtures("base_stays")

FAST = Settings(steps=2)
LEARNS = "^The pipeline is busy: a lesson learns on its base"
WAYS = {
    "factors": {"rank": 2, "prior_weight": 1.0, "num_class_images": 2},
    "all-weights": {"method": "dreambooth", "optim": OptimConfig(lr=1e-3)},
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of one red disc."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return draw_discs(folder, 2)


def config(folder: Path, way: str = "factors") -> LearnConfig:
    """A lesson of two steps that draws whatever a lesson can draw."""
    loop = LoopConfig(steps=2, save_every=1, log_every=1, preview_every=1, tensorboard=False)
    output = folder.parent / ("fox.safetensors" if way == "factors" else "fox")
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 1}
    return LearnConfig(**{**values, "loop": loop, "preview_prompts": ("a <fox>",), **WAYS[way]})  # type: ignore[arg-type]


def test_concepts_of_another_thread_make_a_pipeline_busy(bundle: Bundle) -> None:
    pipeline, asked = Pipeline(bundle), GenerateRequest(prompt="a fox", steps=2)
    concept = Concept((LearnedWord("<fox>", "fox", "zq fox"),), {}, {}, bundle.name, bundle.base_hash)
    with pipeline.using((concept, 1.0)):
        with pytest.raises(ConfigError, match="inside of `using`") as own:
            list(draw(asked, pipeline))
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: list(draw(asked, pipeline))).exception()
    assert isinstance(other, ConfigError) and (other.field, own.value.field) == ("base", "concepts")
    assert "busy" in other.message


class Looks:
    """A judge that draws with what it is given, and finds every step as good as the next."""

    def __init__(self) -> None:
        self.drawn: list[torch.Tensor] = []

    def texts(self) -> tuple[str, ...]:
        return ("a fox", "a <fox>")

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        self.drawn.append(pipeline.images(["a fox"], [0], FAST))
        yield Progress("the base", 1, 1)

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        with drawing as pipeline:
            self.drawn.append(pipeline.images(["a <fox>"], [0], FAST))
            yield Progress("a step", 1, 1)

    def recall(self, step: int, folder: Path) -> None:
        pass

    def forget(self, step: int) -> None:
        raise AssertionError

    def leader(self) -> int:
        return 2

    def settled(self) -> str | None:
        return None

    def verdict(self) -> Verdict:
        return Verdict(2, "It is as good as the other.", {}, ())


def drawn(bundle: Bundle) -> torch.Tensor:
    return Pipeline(bundle).images(["a fox"], [0], FAST)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_else_draws_while_a_lesson_learns(bundle: Bundle, pictures: Path, tmp_path: Path, way: str) -> None:
    pipeline = Pipeline(bundle)
    before, planned = pipeline.images(["a fox"], [0], FAST), pipeline.generate(["a fox"], [0], FAST)
    probe = Looks()
    run = learn(config(pictures, way), bundle, tmp_path / "run", probe=probe)
    next(run)  # it has not looked at a picture yet
    seen: list[Event] = []
    for event in run:
        seen.append(event)
        with pytest.raises(ConfigError, match=LEARNS) as caught:
            pipeline.images(["a fox"], [0], FAST)
        assert caught.value.field == "base" and "Wait until that is done" in str(caught.value.hint)
        with pytest.raises(ConfigError, match=LEARNS):
            pipeline.context("a fox in the snow")
    assert len([event for event in seen if isinstance(event, Preview)]) == 2
    assert len(probe.drawn) == 3 and torch.equal(probe.drawn[0], before)
    is_class = [isinstance(event, Progress) and event.phase == "class pictures" for event in seen]
    assert any(is_class) == (way == "factors")
    with pytest.raises(ConfigError, match="a lesson began or ended, after `generate` was called"):
        next(planned)
    assert torch.equal(pipeline.images(["a fox"], [0], FAST), before)


def test_a_lesson_may_go_from_thread_to_thread(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    run, seen = learn(config(pictures), bundle, tmp_path / "run"), []
    while True:
        with ThreadPoolExecutor(1) as pool:
            event = pool.submit(next, run, None).result()
        if event is None:
            break
        seen.append(event)
    assert len([event for event in seen if isinstance(event, Preview)]) == 2


def test_a_lesson_does_not_begin_on_a_base_that_is_in_use(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen, pipeline = config(pictures), Pipeline(bundle)
    cat = Concept((LearnedWord("<cat>", "cat", "two cat"),), {}, {}, bundle.name, bundle.base_hash)

    def refused(message: str) -> None:
        with pytest.raises(ConfigError, match=f"^The pipeline is busy: {message}") as caught:
            list(learn(chosen, bundle, tmp_path / "run"))
        assert caught.value.field == "base"

    events = pipeline.generate(["a fox"], [0], FAST)
    next(events)
    refused("its base draws pictures that are not finished; nothing can be learned meanwhile")
    events.close()  # type: ignore[attr-defined]
    with pipeline.using((cat, 1.0)):
        refused("concepts are switched on in its base")
    first = learn(chosen, bundle, tmp_path / "first")
    next(event for event in first if isinstance(event, Progress) and event.done)
    refused("a lesson learns on its base")
    first.close()
    assert not (tmp_path / "run" / "cache" / "class").exists()  # no class picture was drawn
    list(learn(chosen, bundle, tmp_path / "run"))


@pytest.mark.parametrize("kind", [Progress, Metric, Preview])
def test_a_lesson_that_is_closed_gives_the_base_back(
    bundle: Bundle, pictures: Path, tmp_path: Path, kind: type[Event]
) -> None:
    before, run = drawn(bundle), learn(config(pictures), bundle, tmp_path / "run")
    next(event for event in run if isinstance(event, kind) and getattr(event, "done", 1))
    run.close()
    assert torch.equal(drawn(bundle), before)


def test_a_lesson_that_fails_gives_the_base_back(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn(bundle)
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    with pytest.raises(DataError, match="^What class pictures are asked by"):
        Learner(config(pictures), bundle, samples, ["a fox " * 40])
    assert torch.equal(drawn(bundle), before)

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    for name in ("loss", "preview"):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a bug"):
            patch.setattr(Learner, name, broken)
            list(learn(config(pictures), bundle, tmp_path / name))
        assert torch.equal(drawn(bundle), before)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a bug"):
        patch.setattr("sfumato.training.learner.WholeWeights", broken)
        Learner(config(pictures), bundle, samples)
    assert torch.equal(drawn(bundle), before)
