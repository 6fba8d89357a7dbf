"""What looks like a word of a concept or like the syntax of another program, and is not known here."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Run

FOX = ("--as", "<fox>", "--class", "fox", "--steps", 2, "--no-verdict")


def test_a_word_that_nothing_knows_is_named(sfumato: Run, base: Path, photos: Path) -> None:
    said = "Neither the base nor a concept knows <fox>: it is read as plain text"
    answer = sfumato("generate", "a <fox> by a <fox>", "--base", base, "--steps", 2, "--negative", "a <cat>")
    assert answer.code == 0 and answer.out.count(f"{said} (prompt).") == 1
    assert "knows <cat>: it is read as plain text (--negative)." in answer.out
    assert sfumato("learn", photos, *FOX, "--base", base).code == 0
    for prompt in ("a <fox>", "a <FOX> asleep", "3 < 4 > 2"):
        answer = sfumato("generate", prompt, "--base", base, "--steps", 2, "--concept", "fox.safetensors")
        assert answer.code == 0 and "plain text" not in answer.out


@pytest.mark.parametrize(
    ("prompt", "use"),
    [
        ("a fox <lora:red-fox:0.8>, asleep", "--concept red-fox.safetensors:0.8"),
        ("a fox <LoRA:fox>", "--concept fox.safetensors"),
        ("a fox <lyco:fox:1:0.5>", "--concept fox.safetensors:1"),
    ],
)
def test_a_file_in_a_prompt_is_refused(sfumato: Run, base: Path, prompt: str, use: str) -> None:
    for words in ((prompt,), ("a fox", "--negative", prompt)):
        answer = sfumato("generate", *words, "--base", base, "--steps", 2)
        assert answer.code == 2 and "which is no text here" in answer.err and use in answer.err
    assert not list(Path().rglob("*.png"))


def test_weights_of_words_are_named(sfumato: Run, base: Path) -> None:
    answer = sfumato("generate", "a (red:1.3) fox (at 10:30) (ratio 16:9)", "--base", base, "--steps", 2)
    assert answer.code == 0 and "(red:1.3) is read as plain text: words have no weights here" in answer.out
    assert answer.out.count("plain text") == 1
