"""`python -m benchmarks settings` with a tiny random base: arms beside the first of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.settings import arm_of, differences, main

from sfumato.errors import ConfigError
from sfumato.formats.concept import load_concept
from tiny_characters import write_characters


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_characters(tmp_path_factory.mktemp("characters"))


def test_an_arm_is_a_name_and_words_of_learn() -> None:
    assert arm_of("as it is:").settings == {}
    arm = arm_of('far: --lr 1e-2 --steps 3 --set objective.shift=2 --set "objective.loss=huber" --no-text-encoder')
    assert arm.label == "far" and dict(arm.settings) == {
        "lr": "1e-2",
        "steps": "3",
        "overrides": ["objective.shift=2", "objective.loss=huber"],
        "text_encoder": False,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lr 1e-3", "needed NAME: WORDS"),
        ("far --lr 1e-3", "needed NAME: WORDS"),
        ("far: --lr '1e-3", "No closing quotation"),
        ("far: --speed 3", "--speed"),
        ("far: -o other.safetensors", "'output' is not for an arm to say"),
        ("far: --plan", "'plan' is not for an arm to say"),
        ("far: pictures/", "'folder' is not for an arm to say"),
    ],
)
def test_other_words_are_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arm_of(words)
    assert said in str(caught.value)


def test_differences_are_those_of_the_same_pictures() -> None:
    of = {f"s{i}": [0.1 * i, 0.2 * i] for i in range(6)}
    nearer = {name: [value - 0.05 for value in values] for name, values in of.items()}
    some = {"s0": [1.0], "s1": [2.0]}
    values = {"first": {"a": of, "c": some}, "other": {"a": nearer, "b": of, "c": {"s1": [5.0]}}}
    found = differences(values, "first", ["other"], 0)
    assert list(found["other"]) == ["a", "c"], "the first arm has no column b"
    assert found["other"]["c"].mean == 3.0 and found["other"]["c"].subjects == 1
    one = found["other"]["a"]
    assert one.mean == pytest.approx(-0.05) and one.interval == pytest.approx((-0.05, -0.05)) and one.subjects == 6


def test_every_arm_learns_every_subject(
    characters: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--characters", str(characters), "--base", str(base), "--tiny", "--threads", "1", "-o", str(tmp_path)]
    arms = ["--arm", "usual:", "--arm", "half: --strength 0.5 --steps 2"]
    assert main([*command, *arms]) == 0
    report = json.loads((tmp_path / "settings.json").read_text())
    assert [arm["label"] for arm in report["arms"]] == ["usual", "half"]
    assert {"base in words", "base with the class noun", "usual", "half"} < report["pictures"].keys()
    assert report["beside_first"].keys() == {"half"} and "truth_features" in report["beside_first"]["half"]
    learned = [load_concept(file).lineage for file in sorted((tmp_path / "lessons").rglob("*.safetensors"))]
    assert sorted(lineage["steps"] for lineage in learned) == [1, 2]
    page, shown = (tmp_path / "settings.md").read_text(), capsys.readouterr().out
    assert "Beside usual" in page and "Beside usual" in shown


def test_bad_input(characters: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--characters", str(characters), "--base", str(base)]
    for arms, said in (
        (["one:", "one: --lr 1e-3"], "'one' names more than one row"),
        (["base in words:"], "'base in words' names more than one row"),
        (["one: --rank x"], "one"),
    ):
        assert main([*command, *(word for arm in arms for word in ("--arm", arm))]) == 2
        assert said in capsys.readouterr().err
