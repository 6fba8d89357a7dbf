"""The pipeline: bytes by seed, picture-to-picture, inpainting, concepts, and errors that help."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import ConfigError, DataError, ShapeError, WrongBase
from sfumato.events import Step
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.pipeline import MOST_TEXTS, Drawn, Pipeline, Settings
from sfumato.samplers import SAMPLERS
from tiny import tiny_bundle

QUICK = Settings(steps=3)
FOX = "a red fox in the snow"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle)


def concept(bundle: Bundle, expansion: str, placeholder: str = "<fox>", rows: int = 0, seed: int = 1) -> Concept:
    """A concept with random factors on U-Net and text encoder."""
    generator = torch.Generator().manual_seed(seed)
    adapters = {part: LoRA(bundle.modules[part], LoRAConfig(rank=2)) for part in ("unet", "text_encoder")}
    for lora in adapters.values():
        for parameter in lora.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    vectors = torch.randn(rows, 32, generator=generator) * 0.1 if rows else None
    return taken_from(
        Concept((LearnedWord(placeholder, "fox", expansion, vectors),), {}, {}, bundle.name, bundle.base_hash), adapters
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_seed_one_picture_whatever_its_neighbours(pipeline: Pipeline, sampler: str) -> None:
    settings = replace(QUICK, sampler=sampler, batch_size=3)
    prompts, seeds = [FOX, "a blue robot", "photo of a fox"], [7, 8, 9]
    together = pipeline.images(prompts, seeds, settings)
    assert not torch.equal(together[0], together[1])
    alone = pipeline.images([prompts[1]], [seeds[1]], settings)
    assert alone[0].numpy().tobytes() == together[1].numpy().tobytes()
    if sampler == "dpm++2m":
        assert torch.equal(pipeline.images(prompts, seeds, replace(settings, batch_size=2)), together)


@pytest.mark.parametrize(
    "options", [{"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"guidance_interval": (0.2, 0.9)}]
)
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_bytes_do_not_depend_on_the_batch_for_any_guidance_and_size(
    pipeline: Pipeline, options: dict[str, float], size: tuple[int, int]
) -> None:
    settings = replace(QUICK, size=size, batch_size=5, **options)
    together = pipeline.images([FOX], [3, 4, 5, 6, 7], settings)
    assert together.shape == (5, 3, size[1], size[0])
    for index, seed in ((0, 3), (4, 7)):
        assert torch.equal(pipeline.images([FOX], [seed], settings)[0], together[index])


def test_bytes_do_not_depend_on_the_batch_on_two_threads(pipeline: Pipeline) -> None:
    settings = replace(QUICK, batch_size=5)
    torch.set_num_threads(2)  # conftest brings one back
    together = pipeline.images([FOX], [3, 4, 5, 6, 7], settings)
    for index, seed in ((0, 3), (2, 5), (4, 7)):
        assert torch.equal(pipeline.images([FOX], [seed], settings)[0], together[index])


def test_batches_that_would_change_bits_are_split(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = pipeline.bundle.unet
    forward, rows_seen = unet.forward, []

    def unsteady(x_t: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        rows_seen.append(len(x_t))
        out: torch.Tensor = forward(x_t, *args, **kwargs)
        return out * (1 + 1e-6 * len(x_t))

    monkeypatch.setattr(unet, "forward", unsteady)
    settings = replace(QUICK, batch_size=3)
    together = pipeline.images([FOX], [1, 2, 3], settings)
    assert rows_seen == [2, 2, 2, 6, 2, 2, 2, 2, 2, 2]  # compared once, then one by one
    assert torch.equal(pipeline.images([FOX], [2], settings)[0], together[1])


def test_events_come_in_order_and_can_be_cancelled(pipeline: Pipeline) -> None:
    events = list(pipeline.generate([FOX], [1, 2, 3], replace(QUICK, batch_size=2)))
    assert [type(event) for event in events] == [Step] * 3 + [Drawn] * 2 + [Step] * 3 + [Drawn]
    drawn = [event for event in events if isinstance(event, Drawn)]
    assert [(event.index, event.seed, event.prompt) for event in drawn] == [(0, 1, FOX), (1, 2, FOX), (2, 3, FOX)]
    assert all(event.image.shape == (3, 32, 32) and event.image.abs().max() <= 1 for event in drawn)
    run = pipeline.generate([FOX], [1], QUICK)
    assert isinstance(run, Iterator)
    assert isinstance(next(run), Step)
    run.close()


def test_encoded_texts_are_bounded_and_a_job_keeps_its_own(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_TEXTS == 256
    monkeypatch.setattr("sfumato.pipeline.MOST_TEXTS", 2)
    pipeline, encode, encoded = Pipeline(bundle), bundle.encode, []

    def counted(*tokens: object) -> object:
        encoded.append(tokens)
        return encode(*tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle, "encode", counted)
    prompts = [FOX, "a blue robot", "photo of a fox", "an owl", "a fox"]
    together = pipeline.images(prompts, range(5), replace(QUICK, batch_size=2))
    assert (len(encoded), len(pipeline._contexts)) == (6, 2)  # the negative text too, and none of them twice
    alone = [Pipeline(bundle).images([prompt], [seed], QUICK)[0] for seed, prompt in enumerate(prompts)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_guidance_and_negative_text_matter(pipeline: Pipeline) -> None:
    plain, strong, away = (
        pipeline.images([FOX], [1], replace(QUICK, **options))
        for options in ({"guidance_scale": 1.0}, {"guidance_scale": 6.0}, {"negative": "a blue robot"})
    )
    assert not torch.equal(plain, strong)
    assert not torch.equal(strong, away)


def test_picture_to_picture_keeps_more_at_low_strength(pipeline: Pipeline) -> None:
    start = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = Settings(steps=10, guidance_scale=1.0)
    with torch.no_grad():
        autoencoder = pipeline.bundle.autoencoder
        kept = autoencoder.to_images(autoencoder.to_latents(start)).clamp(-1, 1)
    distances = []
    for strength in (0.1, 0.5, 1.0):
        image = pipeline.images([FOX], [1], replace(settings, strength=strength), init_image=start)
        assert image.shape == (1, 3, 24, 32)
        distances.append(float((image - kept).abs().mean()))
    assert distances[0] < distances[1] < distances[2]


def test_inpainting_keeps_every_pixel_outside_the_mask(pipeline: Pipeline) -> None:
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 9:20, 5:30] = 1
    mask[..., 20:22, 5:30] = 0.5
    settings = replace(QUICK, strength=1.0, batch_size=2)
    images = pipeline.images([FOX], [1, 2], settings, init_image=start, mask=mask)
    outside = (mask == 0).expand(2, 3, -1, -1)
    assert torch.equal(images[outside], start.expand(2, -1, -1, -1)[outside])
    assert (images - start)[~outside].abs().mean() > 0.05
    assert torch.equal(pipeline.images([FOX], [2], settings, init_image=start, mask=mask)[0], images[1])


@pytest.mark.parametrize("grey", [0.1, 0.5, 0.9])
def test_a_grey_mask_mixes_finished_pictures_once(pipeline: Pipeline, grey: float) -> None:
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    white = torch.zeros(1, 1, 32, 32)
    white[..., 8:24, 8:24] = 1
    settings = replace(QUICK, strength=1.0)
    (anew,) = pipeline.images([FOX], [1], settings, init_image=start, mask=white)
    (mixed,) = pipeline.images([FOX], [1], settings, init_image=start, mask=white * grey)
    torch.testing.assert_close(mixed, grey * anew + (1 - grey) * start[0])
    assert float((anew - start[0]).abs().mean()) > 0.05


def test_concept_acts_inside_its_block_only(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle
    before = {part: copy.deepcopy(module.state_dict()) for part, module in bundle.modules.items()}
    plain = pipeline.images(["a zq fox"], [1], QUICK)
    fox = concept(bundle, "zq fox")
    with pipeline.using((fox, 1.0)):
        assert pipeline.expand("A <Fox> in the snow") == "A zq fox in the snow"
        assert pipeline.expand("a <fox> fox") == "a zq fox"
        with_fox = pipeline.images(["a <fox>"], [1], QUICK)
    with pipeline.using((fox, 0.0)):
        assert torch.equal(pipeline.images(["a <fox>"], [1], QUICK), plain)
    assert not torch.equal(with_fox, plain)
    assert torch.equal(pipeline.images(["a zq fox"], [1], QUICK), plain)
    for part, state in before.items():
        assert all(torch.equal(tensor, state[name]) for name, tensor in bundle.modules[part].state_dict().items())


def test_merged_concept_draws_what_the_attached_adapter_draws(pipeline: Pipeline) -> None:
    fox = concept(pipeline.bundle, "zq fox")
    with pipeline.using((fox, 0.7)):
        merged = pipeline.images(["a <fox>"], [1], QUICK)
    adapters = fox.adapters(pipeline.bundle)
    for lora in adapters.values():
        lora.strength = 0.7
        lora.attach()
    attached = pipeline.images(["a zq fox"], [1], QUICK)
    for lora in adapters.values():
        lora.detach()
    pipeline.forget()
    torch.testing.assert_close(merged, attached, atol=1e-4, rtol=1e-4)


def test_concepts_with_their_own_rows_stack(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle
    fox = concept(bundle, "<fox> fox", rows=2)
    owl = concept(bundle, "<owl>", "<owl>", rows=1, seed=2)
    owl = replace(owl, words=(replace(owl.main, class_noun="owl"),))
    with pipeline.using((fox, 1.0), (owl, 0.5)):
        both = pipeline.images(["a <fox> and an <owl>"], [1], QUICK)
        ids = bundle.tokenizer.encode([pipeline.expand("<fox> <owl>")])[0].tolist()
        assert [index - bundle.tokenizer.vocab_size for index in ids if index >= bundle.tokenizer.vocab_size] == [
            0,
            1,
            2,
        ]
    assert bundle.tokenizer.placeholders == {}
    with pipeline.using((fox, 1.0)):
        assert not torch.equal(pipeline.images(["a <fox> and an owl"], [1], QUICK), both)


def test_wrong_base_and_equal_placeholders_are_refused(pipeline: Pipeline) -> None:
    other = tiny_bundle(5)
    fox = concept(other, "zq fox")
    with (
        pytest.raises(WrongBase, match=f"{other.base_hash[:12]}.*{pipeline.bundle.base_hash[:12]}"),
        pipeline.using((fox, 1.0)),
    ):
        pass
    with pipeline.using((fox, 1.0), any_base=True):
        pass
    mine = concept(pipeline.bundle, "zq fox")
    with (
        pytest.raises(ConfigError, match="Two concepts have the placeholder '<FOX>'"),
        pipeline.using((mine, 1.0), (replace(mine, words=(replace(mine.main, placeholder="<FOX>"),)), 1.0)),
    ):
        pass
    assert pipeline.expand("<fox>") == "<fox>"


@pytest.mark.parametrize(
    ("error", "message", "prompts", "seeds", "settings", "pictures"),
    [
        (ConfigError, "There is no sampler 'dpm2m'", [FOX], [1], {"sampler": "dpm2m"}, {}),
        (ConfigError, "Sampler dpm\\+\\+2m has no option eta", [FOX], [1], {"options": {"eta": 1.0}}, {}),
        (ConfigError, "steps is 0", [FOX], [1], {"steps": 0}, {}),
        (ConfigError, "strength is 0.0", [FOX], [1], {"strength": 0.0}, {"init_image": torch.zeros(1, 3, 32, 32)}),
        (ConfigError, "2 prompts and 3 seeds", [FOX, FOX], [1, 2, 3], {}, {}),
        (ConfigError, "1 prompts and 0 seeds", [FOX], [], {}, {}),
        (ShapeError, "The size is 33x40; base 'tiny' needs multiples of 8", [FOX], [1], {"size": (33, 40)}, {}),
        (ShapeError, "The size is 0x32", [FOX], [1], {"size": (0, 32)}, {}),
        (DataError, "this would be cut: 'ends here'", ["fox " * 29 + "a ends here"], [1], {}, {}),
        (ConfigError, "A mask was given without", [FOX], [1], {}, {"mask": torch.zeros(1, 1, 32, 32)}),
        (
            ShapeError,
            r"The mask has shape \(1, 1, 16, 32\); needed: \(1 or 1, 1, 32, 32\)",
            [FOX],
            [1],
            {},
            {"init_image": torch.zeros(1, 3, 32, 32), "mask": torch.zeros(1, 1, 16, 32)},
        ),
        (ShapeError, "2 initial pictures for 1", [FOX], [1], {}, {"init_image": torch.zeros(2, 3, 32, 32)}),
        (
            ShapeError,
            "The initial picture is 32x24, size is 32x32",
            [FOX],
            [1],
            {"size": (32, 32)},
            {"init_image": torch.zeros(1, 3, 24, 32)},
        ),
    ],
)
def test_errors_come_before_the_first_step(
    pipeline: Pipeline,
    error: type[Exception],
    message: str,
    prompts: list[str],
    seeds: list[int],
    settings: dict[str, object],
    pictures: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(error, match=message):
        next(pipeline.generate(prompts, seeds, replace(QUICK, **settings), **pictures))


def test_batch_size_is_checked() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Settings(batch_size=0)
