"""From Python: loaded concepts and pipelines in place of names, and refusals in place of tracebacks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato
from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import CheckpointError, ConfigError
from sfumato.events import Artifact
from sfumato.formats.concept import Concept, LearnedWord, load_concept, save_concept, taken_from
from sfumato.formats.png_recipe import read_recipe
from sfumato.operations.concept_uses import concept_uses
from sfumato.pipeline import Pipeline

FOX = "a <fox> on a blue background"


@pytest.fixture(scope="module")
def pipeline(base: Path) -> Pipeline:
    return sfumato.load(base)


@pytest.fixture(scope="module")
def kept(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept file with random factors and a vector of its own."""
    bundle, lora = pipeline.bundle, LoRA(pipeline.bundle.unet, LoRAConfig(2))
    torch.manual_seed(0)
    for parameter in lora.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    word = LearnedWord("<fox>", "fox", "<fox> fox", torch.full((1, 32), 0.02))
    path = tmp_path_factory.mktemp("concepts") / "fox.safetensors"
    save_concept(taken_from(Concept((word,), {}, {}, bundle.name, bundle.base_hash), {"unet": lora}), path)
    return path


@pytest.fixture
def file(kept: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copy(kept, tmp_path / "fox.safetensors"))


def draws(pipeline: Pipeline, concepts: Any) -> bytes:
    (picture,) = sfumato.generate(FOX, base=pipeline, concepts=concepts, steps=2)
    return picture.to_png()


def test_concepts_are_files_or_loaded_ones_one_or_more(pipeline: Pipeline, file: Path) -> None:
    fox = load_concept(file)
    assert fox.source == file
    wanted = draws(pipeline, [file])
    assert all(draws(pipeline, given) == wanted for given in (file, str(file), [str(file)], fox, [fox], (fox, 1.0)))
    weaker = draws(pipeline, [(file, 0.5)])
    assert weaker != wanted
    assert all(draws(pipeline, given) == weaker for given in ((file, 0.5), (fox, 0.5), [(fox, 0.5)]))
    (picture,) = sfumato.generate(FOX, base=pipeline, concepts=fox, steps=2)
    assert picture.recipe["concepts"][0]["path"] == str(file)


def test_a_bare_name_is_one_concept(pipeline: Pipeline) -> None:
    with pytest.raises(CheckpointError, match=r"'?nowhere\.safetensors'?"):
        sfumato.generate(FOX, base=pipeline, concepts="nowhere.safetensors", steps=2)


def test_a_concept_that_no_recipe_could_name_is_refused(pipeline: Pipeline, file: Path) -> None:
    fox = load_concept(file)
    with pytest.raises(ConfigError, match="^The concept <fox> was not loaded from a file") as caught:
        draws(pipeline, [replace(fox, source=None)])
    assert caught.value.field == "concepts" and "`save_concept`" in str(caught.value.hint)
    louder = {part: {name: tensor * 2 for name, tensor in one.items()} for part, one in fox.factors.items()}
    for changed in (replace(fox, factors=louder), replace(fox, words=(replace(fox.main, rows=None),))):
        with pytest.raises(ConfigError, match=f"^The concept <fox> is not what its file '{file}' holds"):
            draws(pipeline, [changed])
    save_concept(replace(fox, factors=louder), file)
    with pytest.raises(ConfigError, match="one of them was changed after loading"):
        draws(pipeline, (fox, 0.5))
    file.unlink()
    with pytest.raises(CheckpointError):
        draws(pipeline, fox)


def test_a_concept_that_stands_in_no_recipe_is_refused(pipeline: Pipeline, file: Path) -> None:
    with pipeline.using((load_concept(file), 1.0)), pytest.raises(ConfigError, match="inside of `using`") as caught:
        sfumato.generate(FOX, base=pipeline, steps=1)
    assert caught.value.field == "concepts"
    assert not pipeline.concepts and len(sfumato.generate("a fox", base=pipeline, steps=1)) == 1


@pytest.mark.parametrize(
    "given", [3, None, [3], [None], ["a.safetensors", 3.0, "b"], [("a", 1.0, 2.0)], {"a": 1}.items]
)
def test_what_is_no_concept_is_refused_with_what_is_needed(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^concepts: given a \w+; needed concept files or loaded concepts") as caught:
        concept_uses(given)
    assert caught.value.field == "concepts" and "('owl.safetensors', 0.5)" in str(caught.value.hint)


def test_events_of_a_loaded_pipeline(pipeline: Pipeline, base: Path, tmp_path: Path) -> None:
    request = sfumato.GenerateRequest(prompt="a fox", steps=2, output=tmp_path)
    events = list(sfumato.run(request, pipeline=pipeline))
    (artifact,) = [event for event in events if isinstance(event, Artifact)]
    recipe = read_recipe(artifact.path)
    assert recipe["base"] == {"path": base.as_posix(), "name": "tiny", "hash": pipeline.bundle.base_hash}
    list(sfumato.run(sfumato.ReplayRequest(picture=artifact.path)))
    with pytest.raises(ConfigError, match="output was given; `generate` writes no files"):
        sfumato.generate("a fox", base=pipeline, output=tmp_path)
    lesson = sfumato.LearnRequest(folder=tmp_path, placeholder="<fox>", class_noun="fox")
    with pytest.raises(
        ConfigError, match="^A pipeline was given with a LearnRequest; only a GenerateRequest"
    ) as caught:
        sfumato.run(lesson, pipeline=pipeline)
    assert caught.value.field == "pipeline"
