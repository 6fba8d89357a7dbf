"""What a plan says of values that were left open is what the lesson takes, with what they go by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from drawn_primer import write
from sfumato.formats.bundle import Word, load_bundle, save_bundle
from sfumato.operations.effective_settings import effective_settings
from sfumato.operations.learn import lesson_config
from sfumato.requests import LearnRequest
from sfumato.training.factors import make_adapters
from sfumato.training.sample_set import joined
from sfumato.training.subject import read_subject
from sfumato.training.words import Words
from tiny import tiny_bundle

OPEN = (None, "default")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of a fox, with those of a cat beside them."""
    for name in ("photos/a.png", "photos/b.png", "cats/a.png"):
        write(tmp_path / name, Image.new("RGB", (32, 32), (200, 40, 40)))
    return tmp_path


def asked(folder: Path, **values: Any) -> LearnRequest:
    fox = {"folder": folder / "photos", "placeholder": "<fox>", "class_noun": "fox"}
    return LearnRequest.model_validate({**fox, **values})


def told(request: LearnRequest) -> dict[str, tuple[Any, str]]:
    settings = effective_settings(request, lesson_config(request))
    return {item.name: (item.value, item.source) for item in settings}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (
            {},
            {"init": ("kaiming", "adapter"), "alpha": (8, "rank"), "initializer": ("fox", "class noun"), "word": OPEN},
        ),
        ({"adapter": "loha", "rank": 4}, {"init": ("gaussian", "adapter"), "alpha": (4, "rank")}),
        ({"init": "pissa", "alpha": 2.0}, {"init": ("pissa", "given"), "alpha": (2.0, "given")}),
        ({"initializer": "wolf"}, {"initializer": ("wolf", "given")}),
        ({"method": "custom-diffusion"}, {"init": OPEN, "alpha": OPEN, "initializer": ("fox", "class noun")}),
        ({"method": "textual-inversion"}, {"init": OPEN, "optim.schedule": ("constant", "method")}),
        ({"method": "dreambooth"}, {"initializer": OPEN, "optim.schedule": ("cosine", "method")}),
        ({"method": "dreambooth", "word": "zq"}, {"word": ("zq", "given")}),
        ({"optimizer": "schedule-free"}, {"optim.schedule": ("constant", "optimizer")}),
        ({"schedule": "linear"}, {"optim.schedule": ("linear", "given")}),
        ({"preview_prompts": ("a <fox>",)}, {"loop.preview_every": (50, "loop.save_every")}),
        ({}, {"loop.preview_every": (0, "default"), "factor": OPEN}),
        ({"adapter": "lokr", "factor": 4}, {"factor": (4, "given")}),
    ],
)
def test_what_is_in_effect_has_its_source(folder: Path, values: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = told(asked(folder, **values))
    assert {name: found[name] for name in wanted} == wanted


def test_every_subject_starts_from_its_noun(folder: Path) -> None:
    found = told(asked(folder, also=(f"{folder}/cats:<cat>:cat",)))
    assert found["initializer"] == (["fox", "cat"], "class noun")


@pytest.mark.parametrize("adapter", ["lora", "dora", "loha", "lokr"])
def test_start_and_scale_are_those_of_the_factors(folder: Path, adapter: str) -> None:
    request = asked(folder, adapter=adapter, rank=2)
    made = make_adapters(lesson_config(request), tiny_bundle().modules)["unet"].config
    found = told(request)
    assert (found["init"][0], found["alpha"][0]) == (made.init, made.numerator)


@pytest.mark.parametrize("style", [False, True])
def test_the_rare_words_are_those_of_the_lesson(folder: Path, style: bool) -> None:
    bundle, seen = tiny_bundle(), list[str]()
    for number in range(3):
        save_bundle(bundle, folder / f"base{number}", torch.float32)
        request = asked(
            folder,
            base=str(folder / f"base{number}"),
            style=style,
            identifier="rare",
            also=(f"{folder}/cats:<cat>:cat",),
        )
        base, config = load_bundle(request.base), lesson_config(request)
        samples = joined(
            [read_subject(one.folder, one.placeholder, one.class_noun, base, is_style=style) for one in config.subjects]
        )
        words = [word.expansion.split(" ")[0] for word in Words(config, base, samples).words]
        assert told(request)["word"] == (words, "base, pictures and seed")
        assert words[0] not in seen
        seen.append(words[0])
        if number == 0:  # what the base says already, and then what a caption says, is not taken
            bundle = replace(bundle, words=(Word("<owl>", f"{words[0]} owl", "owl"),))
        (folder / "photos/a.txt").write_text(f"a <fox> {words[0]}")
    alone = asked(folder, base=str(folder / "base0"), method="dreambooth")
    assert isinstance(told(alone)["word"][0], str)
