"""A lesson begins with a look at its folders: what could spoil it is said once, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broken_folders import good_folder, photo

Run = Callable[..., Any]
FOX = ("--as", "<fox>", "--class", "fox", "--steps", 2, "--batch-size", 2, "--rank", 1, "--no-verdict")
SAID = "2 things are worth a look. Smaller than it will be learned: 'tiny.png' (20 × 20 pixels, "


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """Return a folder with two pictures that are nearly the same, and a tiny one."""
    folder = good_folder(tmp_path / "flawed", 3)
    again = photo(0)
    again.putpixel((5, 5), (0, 0, 0))
    again.save(folder / "0b.png")
    photo(9, 20, 20).save(folder / "tiny.png")
    return folder


def test_what_could_spoil_a_lesson_is_said_and_changes_nothing(
    sfumato: Run, base: Path, flawed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(flawed.iterdir())
    answer = sfumato("learn", "flawed", *FOX, "--base", base, "-o", "one.safetensors")
    assert answer.code == 0, answer.err
    command = f"sfumato data doctor flawed --as '<fox>' --class fox --base {base} --batch-size 2"
    assert answer.out.splitlines()[0].startswith(f"flawed: {SAID}")
    assert f"Nearly the same picture: '0b.png' (like '0.png'). See: {command}\n" in answer.out
    assert answer.out.count("sfumato data doctor") == 1
    assert sorted(flawed.iterdir()) == before and not list(Path().glob("*.run"))
    with monkeypatch.context() as patch:
        patch.setattr("sfumato.operations.learn.folder_notices", lambda *_: ())
        without = sfumato("learn", "flawed", *FOX, "--base", base, "-o", "two.safetensors")
    assert without.code == 0 and "worth a look" not in without.out
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()


def test_the_command_that_is_named_finds_the_same(sfumato: Run, base: Path, flawed: Path) -> None:
    answer = sfumato("data", "doctor", flawed, *FOX[:4], "--base", base, "--batch-size", 2, "--json")
    found = [line for line in map(json.loads, answer.out.splitlines()) if line["event"] == "finding"]
    assert [(one["kind"], Path(one["path"]).name) for one in found] == [
        ("small", "tiny.png"),
        ("near-duplicate", "0b.png"),
    ]


def test_of_a_clean_folder_nothing_is_said(sfumato: Run, base: Path, tmp_path: Path) -> None:
    answer = sfumato("learn", good_folder(tmp_path / "clean", 3), *FOX, "--base", base)
    assert answer.code == 0, answer.err
    assert "worth a look" not in answer.out and "data doctor" not in answer.out


def test_a_lesson_that_goes_on_says_nothing_again(sfumato: Run, base: Path, flawed: Path) -> None:
    stopped = sfumato("learn", flawed, *FOX, "--base", base, "--set", "loop.max_seconds=1e-9")
    assert "Resume goes on" in stopped.out and stopped.out.count(SAID) == 1
    resumed = sfumato("learn", flawed, *FOX, "--base", base, "--resume")
    assert resumed.code == 0, resumed.err
    assert "Resumed from" in resumed.out and "worth a look" not in resumed.out
    fresh = sfumato("learn", flawed, *FOX, "--base", base, "--resume", "-o", "new.safetensors")
    assert "the run begins" in fresh.out and fresh.out.count(SAID) == 1


def test_machines_get_one_event_for_each_folder(sfumato: Run, base: Path, flawed: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        good_folder(tmp_path / name, 2)
    Image.new("RGB", (64, 64)).save(tmp_path / "cat" / "black.png")
    also = ("--also", "cat:<cat>:cat", "--also", "dog:<dog>:dog", "--json")
    answer = sfumato("learn", flawed, *FOX, "--base", base, *also)
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    said = [line for line in lines if "worth a look" in line.get("message", "")]
    assert [(line["event"], line["step"]) for line in said] == [("notice", 0)] * 2
    assert SAID in said[0]["message"] and "'black.png' (sharpness 0.0 at 32 × 32)" in said[1]["message"]
    assert lines.index(said[0]) == 1  # the settings are accepted, and no picture has been encoded


def test_what_was_refused_is_refused_in_the_same_words(sfumato: Run, base: Path, flawed: Path) -> None:
    (flawed / "broken.png").write_bytes(b"no picture")
    answer = sfumato("learn", flawed, *FOX, "--base", base)
    assert answer.code == 2 and "broken.png is not a readable picture" in answer.err
    assert answer.err.count("\n") == 1 and "broken" not in answer.out
    refused = sfumato("learn", flawed, *FOX, "--base", base, "--prior-weight", 0, "--class-prompts", "captions")
    assert refused.code == 2 and "worth a look" not in refused.out
