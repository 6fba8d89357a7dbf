"""The base that ships with sfumato: within its size, alike in diffusers, and able to draw what it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as package
from sfumato.evaluation.grounds import ground_name
from sfumato.formats.bundle import find_bundle
from sfumato.models.tokenizer import Tokenizer
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import noise

Run = Callable[..., Any]
README = Path(__file__).resolve().parents[2] / "README.md"
MOST_BYTES = 64_000_000
DOG = "a dog, noto style, on a blue background"


@pytest.fixture(scope="module")
def primer() -> Pipeline:
    """The embedded base."""
    return package.load()


def test_the_base_keeps_within_its_size_and_names_what_it_was_made_from() -> None:
    folder = find_bundle("primer")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"vocabulary {Tokenizer.load(folder / 'tokenizer').vocab_size:,}," in card
    for word in (
        "Apache-2.0",
        "CC-BY 4.0",
        "Noto Emoji",
        "Twemoji",
        "avataaars by Pablo Stanley",
        "held out",
        "Limits",
    ):
        assert word in card


def test_the_readme_says_what_the_card_has_measured() -> None:
    card = (find_bundle("primer") / "README.md").read_text(encoding="utf-8")
    readme = " ".join(README.read_text(encoding="utf-8").split())
    for measure, said in (
        ("style: accuracy", "tells the style in {:.0f} %"),
        ("concept of training pairs: top-5", "for {:.0f} % of the icons"),
        ("concept of training pairs: top-1", "for {:.0f} % it is the first"),
    ):
        row = next(line for line in card.splitlines() if line.startswith(f"| {measure} |"))
        value = float(row.split("|")[3].split()[0])
        assert said.format(value) in readme, measure


def test_grounds_have_the_colour_that_was_asked_for(primer: Pipeline) -> None:
    settings = Settings(steps=12, batch_size=4)
    colours = ("blue", "yellow", "green", "red")
    prompts = [f"a dog, noto style, on a {colour} background" for colour in colours]
    images = primer.images(prompts, range(4), settings)
    pixels = ((images / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert sum(ground_name(picture) == colour for picture, colour in zip(pixels, colours, strict=True)) >= 3


def test_words_and_guidance_change_the_picture(primer: Pipeline) -> None:
    settings = Settings(steps=8, batch_size=4)
    dog, car, again = (
        primer.images([prompt], [5], settings)[0] for prompt in (DOG, "a car, noto style, on a blue background", DOG)
    )
    assert torch.equal(dog, again)
    assert float((dog - car).abs().mean()) > 0.05
    weak = primer.images([DOG], [5], Settings(steps=8, guidance_scale=1.0))[0]
    assert not torch.equal(dog, weak)


def test_one_seed_one_picture_at_any_batch_size(primer: Pipeline) -> None:
    together = primer.images([DOG], range(3), Settings(steps=4, batch_size=3))
    alone = [primer.images([DOG], [seed], Settings(steps=4, batch_size=1))[0] for seed in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_the_command_line_draws_with_it_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sfumato: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sfumato("generate", DOG, "--steps", 4, "-n", 2).code == 0
    path = Path("out/a-dog-noto-style-on-a-blue-background-1.png")
    with Image.open(path) as picture:
        assert picture.size == (128, 128) and np.asarray(picture).std() > 10
    assert sfumato("replay", path).code == 0


def test_diffusers_draws_the_same_picture(primer: Pipeline) -> None:
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(find_bundle("primer")), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        DOG, num_inference_steps=10, guidance_scale=4.0, latents=noise((16, 8, 8), [3]), output_type="pt"
    ).images[0]
    ours = primer.images([DOG], [3], Settings(steps=10, sampler="ddim", guidance_scale=4.0))[0] / 2 + 0.5
    assert float((ours - expected).abs().max()) <= 1e-3
