"""Requests: ranges, forms of writing, words for people."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from sfumato import requests
from sfumato.cli.main import leaves
from sfumato.formats.png_recipe import SAMPLER_TITLES
from sfumato.requests import ConceptUse, GenerateRequest, expected, flag_of
from sfumato.samplers import SAMPLERS

REQUESTS = [request for _, request in leaves()]


@pytest.mark.parametrize(
    ("given", "size"),
    [("128", (128, 128)), ("160x96", (160, 96)), ("64×32", (64, 32)), (64, (64, 64)), ([8, 16], (8, 16))],
)
def test_sizes(given: object, size: tuple[int, int]) -> None:
    assert GenerateRequest(prompt="", size=given).size == size  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["12y", "1x2x3", "", "-8", True, 7, "8192", [1, 2, 3]])
def test_bad_sizes(given: object) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest(prompt="", size=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "path", "strength"),
    [
        ("fox.safetensors", "fox.safetensors", 1.0),
        ("fox.safetensors:0.8", "fox.safetensors", 0.8),
        ("fox.safetensors:-1", "fox.safetensors", -1.0),
        ("C:fox.safetensors", "C:fox.safetensors", 1.0),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_concepts(given: str, path: str, strength: float) -> None:
    request = GenerateRequest.model_validate({"prompt": "", "concepts": [given]})
    assert request.concepts == (ConceptUse(path=Path(path), strength=strength),)


def test_requests_survive_json() -> None:
    request = GenerateRequest.model_validate({"prompt": "a", "size": "64x32", "concepts": ["b:0.5"], "mask": "m.png"})
    assert GenerateRequest.model_validate(request.model_dump(mode="json")) == request


def test_requests_refuse_unknown_keys_and_changes() -> None:
    with pytest.raises(ValidationError, match="stpes"):
        GenerateRequest.model_validate({"prompt": "a", "stpes": 3})
    with pytest.raises(ValidationError, match="frozen"):
        GenerateRequest(prompt="a").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("request_class", REQUESTS)
def test_every_field_is_described(request_class: type[requests.Request]) -> None:
    for name, field in request_class.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert flag_of(name, field).names or flag_of(name, field).positional
        assert "a value" not in expected(field), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("steps", "a whole number from 1 to 1000"),
        ("strength", "a number above 0 and at most 1"),
        ("size", "one number or WIDTHxHEIGHT, each from 8 to 4096"),
        ("mask", "a path"),
        ("prompt", "a text"),
    ],
)
def test_expected_in_words(name: str, words: str) -> None:
    assert expected(GenerateRequest.model_fields[name]) == words


def test_sampler_names_are_those_of_the_catalogue() -> None:
    assert set(get_args(requests.SamplerName)) == set(SAMPLERS) == set(SAMPLER_TITLES)
