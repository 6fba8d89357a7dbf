"""Two that use one base do not get in each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import ConfigError, SfumatoError
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.operations.pictures import Picture, draw
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import GenerateRequest
from sfumato.runtime.in_use import InUse
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
    assert found == ["The pipeline is busy: concepts are switched on in its base elsewhere."] * 2
    assert all(torch.equal(a, b) for a, b in zip(before, bundle.unet.parameters(), strict=True))
    thread = threading.Thread(target=lambda: found.append(str(len(pipeline.images(["a fox"], [0], FAST)))))
    thread.start()
    thread.join()
    assert found[-1] == "1"


def test_another_pipeline_on_the_same_base_is_refused(bundle: Bundle) -> None:
    other = Pipeline(bundle)
    with Pipeline(bundle).using((concept(bundle, "<a>"), 1.0)):
        for work in (lambda: other.images(["a fox"], [0], FAST), lambda: other.context("a fox")):
            with pytest.raises(ConfigError, match="^The pipeline is busy: concepts are switched on") as caught:
                work()
            assert caught.value.field == "base" and "one pipeline per thread" in str(caught.value.hint)
    assert len(Pipeline(bundle).images(["a fox"], [0], FAST)) == 1


def test_concepts_are_not_switched_while_pictures_are_drawn(bundle: Bundle) -> None:
    pipeline = Pipeline(bundle)
    events = pipeline.generate(["a fox"], [0], FAST)
    next(events)
    one = concept(bundle, "<a>")
    with (
        pytest.raises(
            ConfigError, match="busy: its base draws pictures that are not finished; concepts cannot"
        ) as caught,
        pipeline.using((one, 1.0)),
    ):
        pass
    assert caught.value.field == "base" and "one pipeline per thread" in str(caught.value.hint)
    assert isinstance(events, Iterator)
    events.close()  # type: ignore[attr-defined]
    with pipeline.using((one, 1.0)), pipeline.using((concept(bundle, "<b>"), 0.5)):
        assert len(pipeline.images(["a <a> and a <b>"], [0], FAST)) == 1


def test_events_are_taken_within_the_block(bundle: Bundle) -> None:
    pipeline, one = Pipeline(bundle), concept(bundle, "<a>")
    with pipeline.using((one, 1.0)):
        late = pipeline.generate(["a <a>"], [0], FAST)
        begun = pipeline.generate(["a <a>"], [0], FAST)
        next(begun)
    for events in (late, begun):
        with pytest.raises(ConfigError, match="switched on or off, .* after `generate` was called"):
            next(events)


def test_without_concepts_two_threads_draw_with_one_pipeline(bundle: Bundle) -> None:
    pipeline, request = Pipeline(bundle), GenerateRequest(prompt="a fox", base="tiny", steps=2, count=2, batch_size=1)

    def pngs() -> list[bytes]:
        return [event.to_png() for event in draw(request, pipeline) if isinstance(event, Picture)]

    wanted, mine = pngs(), draw(request, pipeline)
    first = next(mine)  # has begun and is not finished
    with ThreadPoolExecutor(2) as pool:
        assert [one.result() for one in [pool.submit(pngs), pool.submit(pngs)]] == [wanted] * 2
    assert [event.to_png() for event in (first, *mine) if isinstance(event, Picture)] == wanted


def test_texts_that_were_encoded_with_a_concept_are_not_taken_for_the_base(bundle: Bundle) -> None:
    pipeline, other = Pipeline(bundle), Pipeline(bundle)
    lora = LoRA(bundle.text_encoder, LoRAConfig(2))
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loud = taken_from(concept(bundle, "<a>"), {"text_encoder": lora})
    plain = [one.context("a fox") for one in (pipeline, other)]
    with pipeline.using((loud, 1.0)):
        assert not torch.equal(pipeline.context("a fox"), plain[0])
    assert all(torch.equal(one.context("a fox"), before) for one, before in zip((pipeline, other), plain, strict=True))


def test_a_claim_belongs_to_its_holder_in_any_thread() -> None:
    use = InUse()
    claim = use.claim("a lesson learns on its base")
    with pytest.raises(ConfigError, match="^The pipeline is busy: a lesson learns on its base"):
        use.checked(object())
    with pytest.raises(ConfigError, match="^The pipeline is busy: a lesson learns on its base"):
        use.claim("another lesson")
    with ThreadPoolExecutor(1) as pool, use.changed(claim):
        assert pool.submit(use.checked, claim).result() == use.changes
        assert pool.submit(lambda: list(use.drawing(claim, use.changes, iter("ab")))).result() == ["a", "b"]
    use.release(claim)
    assert use.checked(object()) == 4
