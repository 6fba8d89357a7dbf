"""Two that use one base do not get in each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import ConfigError, SfumatoError
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.pipeline import Pipeline, Settings
from tiny import tiny_bundle

FAST = Settings(steps=2)


@pytest.fixture
def bundle() -> Bundle:
    return tiny_bundle()


def concept(bundle: Bundle, word: str) -> Concept:
    lora = LoRA(bundle.unet, LoRAConfig(2))
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bare = Concept((LearnedWord(word, "fox", f"{word} fox"),), {}, {}, bundle.name, bundle.base_hash)
    return taken_from(bare, {"unet": lora})


def weights(bundle: Bundle) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in bundle.unet.parameters()]


def test_another_thread_is_refused_and_the_base_comes_back(bundle: Bundle) -> None:
    pipeline, found = Pipeline(bundle), []
    one, other, before = concept(bundle, "<a>"), concept(bundle, "<b>"), weights(bundle)

    def second() -> None:
        for work in (lambda: pipeline.using((other, 1.0)).__enter__(), lambda: pipeline.images(["a fox"], [0], FAST)):
            try:
                work()
            except SfumatoError as error:
                found.append(error.message)

    with pipeline.using((one, 1.0)):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        pipeline.images(["a <a>"], [0], FAST)
    assert found == ["The base is in use with concepts that another thread or pipeline has switched on."] * 2
    assert all(torch.equal(a, b) for a, b in zip(before, bundle.unet.parameters(), strict=True))
    thread = threading.Thread(target=lambda: found.append(str(len(pipeline.images(["a fox"], [0], FAST)))))
    thread.start()
    thread.join()
    assert found[-1] == "1"


def test_another_pipeline_on_the_same_base_is_refused(bundle: Bundle) -> None:
    with Pipeline(bundle).using((concept(bundle, "<a>"), 1.0)), pytest.raises(ConfigError, match="another thread or"):
        Pipeline(bundle).images(["a fox"], [0], FAST)
    assert len(Pipeline(bundle).images(["a fox"], [0], FAST)) == 1


def test_concepts_are_not_switched_while_pictures_are_drawn(bundle: Bundle) -> None:
    pipeline = Pipeline(bundle)
    events = pipeline.generate(["a fox"], [0], FAST)
    next(events)
    with pytest.raises(ConfigError, match="draws pictures that are not finished"), pipeline.using():
        pass
    assert isinstance(events, Iterator)
    events.close()  # type: ignore[attr-defined]
    with pipeline.using((concept(bundle, "<a>"), 1.0)), pipeline.using((concept(bundle, "<b>"), 0.5)):
        assert len(pipeline.images(["a <a> and a <b>"], [0], FAST)) == 1


def test_events_are_taken_within_the_block(bundle: Bundle) -> None:
    pipeline, one = Pipeline(bundle), concept(bundle, "<a>")
    with pipeline.using((one, 1.0)):
        late = pipeline.generate(["a <a>"], [0], FAST)
        begun = pipeline.generate(["a <a>"], [0], FAST)
        next(begun)
    for events in (late, begun):
        with pytest.raises(ConfigError, match="switched on or off after `generate` was called"):
            next(events)
