"""`sfumato evaluate base` with a tiny random base and a tiny training set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.data.primer.library import Primer
from sfumato.evaluation.plan import load_plan
from sfumato.evaluation.questions import questions
from sfumato.formats.bundle import save_bundle
from sfumato.models.text_encoder import TextEncoder
from sfumato.models.tokenizer import Tokenizer
from tiny import tiny_bundle
from tiny_primer import build_tiny_primer

Run = Callable[..., Any]
RECIPE = """
[drawing]
steps = 1
batch_size = 2
[pictures]
known_icons = 4
held_out_icons = 0
pairs = 2
people = 2
scenes = 3
[probes]
people = 21
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_primer(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "few.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def reader(data: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base that can read the prompts."""
    asked = questions(Primer.open(data), load_plan(recipe))
    captions = [scene.caption for scenes in asked.values() for scene in scenes]
    bundle = tiny_bundle()
    tokenizer = Tokenizer.train(captions, vocab_size=1200, context_length=64)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    config = replace(bundle.text_encoder.config, vocab_size=tokenizer.vocab_size, context_length=64, **ids)
    folder = tmp_path_factory.mktemp("bases") / "reader"
    text_encoder = TextEncoder(config)
    save_bundle(replace(bundle, tokenizer=tokenizer, text_encoder=text_encoder), folder, torch.float32)
    return folder


def test_evaluate_writes_a_report(sfumato: Run, reader: Path, data: Path, recipe: Path) -> None:
    answer = sfumato("evaluate", "base", "--base", reader, "--data", data, "--recipe", recipe, "-o", "report", "--json")
    assert answer.code == 0, answer.out
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["event"] for line in lines].count("artifact") == 3
    assert lines[-1]["event"] == "done"
    report = json.loads(Path("report/base.json").read_text())
    names = {measure["name"] for measure in report["measures"]}
    assert "concept of training pairs: top-5" in names
    assert "colour of a plain background" in names
    assert "two things in the relation asked for" in names
    assert "Fréchet distance to real scenes" in names
    assert report["base"]["name"] == "tiny"
    assert report["data"]["hash"] == Primer.open(data).manifest["sha256"]
    with Image.open("report/sheet.png") as sheet:
        assert sheet.width > 128
    assert "held-out icons: not measured" in Path("report/base.md").read_text()
    assert list((data / "cache").glob("*.safetensors"))


def test_evaluate_without_data_says_how_to_get_them(sfumato: Run, reader: Path) -> None:
    answer = sfumato("evaluate", "base", "--base", reader, "--data", "nowhere")
    assert answer.code == 2
    assert "nowhere is not a finished training set" in answer.err
    assert "sfumato data primer" in answer.err


def test_evaluate_with_a_recipe_that_makes_no_sense(sfumato: Run, reader: Path, data: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[pictures]\nicons = 3\n")
    answer = sfumato("evaluate", "base", "--base", reader, "--data", data, "--recipe", wrong)
    assert answer.code == 2
    assert "unknown key 'pictures.icons'" in answer.err


@pytest.mark.parametrize("command", [("base", "--data", "none"), ("characters", "none"), ("dreambench", "none")])
def test_a_place_that_cannot_be_written_is_found_first(sfumato: Run, base: Path, command: tuple[str, ...]) -> None:
    Path("place").write_text("in the way")
    answer = sfumato("evaluate", *command, "--base", base, "-o", "place")
    assert answer.code == 2 and "cannot be written to 'place'" in answer.err, answer.err
    assert "a file is in the way" in answer.err
