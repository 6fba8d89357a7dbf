"""Effective values know their source; wrong ones are explained with their values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sfumato.errors import ConfigError
from sfumato.requests import GenerateRequest, LearnRequest
from sfumato.resolve import resolve
from sfumato.runtime.suggestions import did_you_mean
from sfumato.runtime.toml_file import read_toml
from sfumato.training.optim import OptimConfig


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "fox.toml"
    file.write_text('prompt = "a fox"\nsteps = 9\nseed = 5\n')
    resolved = resolve(GenerateRequest, preset={"steps": 3, "sampler": "ddim"}, file=file, flags={"seed": "7"})
    request, sources = resolved.request, resolved.sources
    assert (request.prompt, request.steps, request.sampler, request.seed) == ("a fox", 9, "ddim", 7)
    assert (sources["count"], sources["sampler"], sources["steps"], sources["seed"]) == (
        "default",
        "preset",
        "file",
        "flag",
    )
    assert ("steps", "9", "file") in resolved.explain()


@pytest.mark.parametrize(
    ("flags", "message", "field"),
    [
        ({"prompt": "a", "steps": "0"}, "--steps: given '0'; needed a whole number from 1 to 1000.", "steps"),
        ({"prompt": "a", "steps": "x"}, "--steps: given 'x'; needed a whole number from 1 to 1000.", "steps"),
        ({}, "prompt is missing; needed a text.", "prompt"),
        ({"prompt": "a \udcff"}, "needed text in UTF-8; character 3 is none", "prompt"),
        ({"prompt": "a", "sampler": "eulr"}, "(Did you mean 'euler'?)", "sampler"),
        ({"prompt": "a", "sampler": "zzzz"}, "--sampler: given 'zzzz'; needed one of ddpm, ddim", "sampler"),
        ({"prompt": "a", "size": "12y"}, "--size: given '12y'; needed one number or WIDTHxHEIGHT", "size"),
        (
            {"prompt": "a", "concepts": ["f:9"]},
            "--concept: given 9.0; needed a concept file, with a strength",
            "concepts",
        ),
        (
            {"prompt": "a", "seed": -1, "count": 0},
            "--count: given 0; needed a whole number from 1 to 10000; --seed",
            "count",
        ),
    ],
)
def test_wrong_values_are_explained(flags: dict[str, object], message: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(GenerateRequest, flags=flags)
    assert message in str(caught.value)
    assert caught.value.field == field


def test_unknown_key_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('prompt = "a"\nsamplr = "ddim"\n')
    with pytest.raises(ConfigError) as caught:
        resolve(GenerateRequest, file=file)
    assert str(caught.value) == f"{file}: unknown key 'samplr'. Did you mean 'sampler'?"


def test_wrong_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('prompt = "a"\nsteps = 0\n')
    with pytest.raises(ConfigError, match="a.toml: steps: given 0; needed"):
        resolve(GenerateRequest, file=file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml' does not exist; a TOML file was needed. Check the path."):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="' cannot be read: Is a directory"):
        read_toml(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken.toml' is not TOML: .*line 1"):
        read_toml(broken)


def test_a_file_from_windows_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('prompt = "a fox"\nsteps = 3\n', encoding="utf-8-sig")
    assert read_toml(file) == {"prompt": "a fox", "steps": 3}


def test_missing_flags_have_their_own_names() -> None:
    with pytest.raises(ConfigError, match=r"folder is missing; .*--as is missing; .*--class is missing"):
        resolve(LearnRequest)


def test_suggestions() -> None:
    assert did_you_mean("stpes", ["steps", "seed"]) == "Did you mean 'steps'?"
    assert did_you_mean("qqq", ["steps", "seed"]) == "Known: steps, seed."


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(value: str) -> None:
    for flags in ({"prompt": "a", "guidance_scale": value}, {"prompt": "a", "eta": value}):
        with pytest.raises(ConfigError):
            resolve(GenerateRequest, flags=flags)
    for settings in ({"lr": value}, {"decay_steps": value}, {"lr_factors": {"*": value}}, {"betas": [0.9, value]}):
        with pytest.raises((ValidationError, ConfigError)):
            OptimConfig.model_validate(settings)


def test_a_key_is_set_once() -> None:
    fox = {"folder": "photos", "placeholder": "<fox>", "class_noun": "fox"}
    for flags, said in (
        ({"lr": "1e-3", "overrides": ["optim.lr=2e-3"]}, "--lr and --set optim.lr=2e-3 set the same"),
        ({"rank": "4", "overrides": ["objective.shift=1", "rank = 8"]}, "--rank and --set rank = 8 set the same"),
        ({"flip": False, "overrides": ["flip=true"]}, "--flip and --set flip=true set the same"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve(LearnRequest, flags={**fox, **flags})
    resolve(LearnRequest, flags={**fox, "lr": "1e-3", "overrides": ["optim.eps=1e-6", "rank=8"]})
