"""What wins where a setting is given more than once, and what `--set` leaves to arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError
from sfumato.operations.learn import lesson_config
from sfumato.requests import LearnRequest, TrainRequest
from sfumato.resolve import resolve

FOX = {"folder": "photos", "placeholder": "<fox>", "class_noun": "fox"}


@pytest.mark.parametrize(
    ("text", "argument", "field"),
    [
        ("folder=others", "the argument DIR", "folder"),
        ("placeholder=<cat>", "--as", "placeholder"),
        ("class_noun=cat", "--class", "class_noun"),
        ("kind=style", "--style", "style"),
        ("further=[]", "--also", "also"),
        ("method=dreambooth", "--method", "method"),
        ("output=cat.safetensors", "--output", "output"),
    ],
)
def test_what_has_an_argument_is_not_set(text: str, argument: str, field: str) -> None:
    request = LearnRequest.model_validate({**FOX, "overrides": (text,)})
    with pytest.raises(ConfigError) as caught:
        lesson_config(request)
    key = text.partition("=")[0]
    assert caught.value.message == (
        f"--set: given '{text}'; '{key}' is not the trainer's alone and is set by {argument}."
    )
    assert (caught.value.field, caught.value.hint) == (field, f"Give {argument} instead.")


def of_file(tmp_path: Path, content: str, **flags: Any) -> LearnRequest:
    """Resolve a lesson from a file and flags."""
    (tmp_path / "how.toml").write_text(content)
    return resolve(LearnRequest, file=tmp_path / "how.toml", flags={**FOX, **flags}).request


def test_flags_win_over_the_keys_of_a_file(tmp_path: Path) -> None:
    lines = 'overrides = ["optim.lr = 0.5", "rank=3", "optim.eps=1e-3", "loop.keep=4"]\nlr = 0.1\n'
    alone = lesson_config(of_file(tmp_path, lines))
    assert (alone.optim.lr, alone.rank, alone.optim.eps, alone.loop.keep) == (0.5, 3, 1e-3, 4)
    flagged = lesson_config(of_file(tmp_path, lines, lr="0.01", rank="5", overrides=["optim.eps=1e-4"]))
    assert (flagged.optim.lr, flagged.rank, flagged.optim.eps, flagged.loop.keep) == (0.01, 5, 1e-4, 4)
    with pytest.raises(ConfigError, match="--lr and --set optim.lr=0.02 set the same"):
        of_file(tmp_path, lines, lr="0.01", overrides=["optim.lr=0.02"])


@pytest.mark.parametrize("value", ['"optim.lr=1"', "[1]", "3"])
def test_keys_of_a_file_that_are_no_texts_are_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overrides"):
        of_file(tmp_path, f"overrides = {value}\n")


def test_changes_to_a_recipe_are_joined_too(tmp_path: Path) -> None:
    (tmp_path / "how.toml").write_text('overrides = ["loop.steps=4"]\n')
    flags = {"part": "denoiser", "recipe": "a.toml", "overrides": ["loop.keep=1"]}
    request = resolve(TrainRequest, file=tmp_path / "how.toml", flags=flags).request
    assert request.overrides == ("loop.steps=4", "loop.keep=1")
