"""`python -m benchmarks verdict` with a tiny random base, and the arithmetic of regret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.regret import DISTANCES, Lesson, by_bounds, choices, latest_alike
from benchmarks.verdict import main

from sfumato.evaluation.verdict import Candidate, Rule
from sfumato.events import Done
from tiny_characters import write_characters


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_characters(tmp_path_factory.mktemp("characters"))


def lesson() -> Lesson:
    """Step 30 has drifted far and is the nearest to the subject; step 20 is the nearest to the truth."""
    distances = {10: (0.5, 0.4), 20: (0.25, 0.3), 30: (0.75, 0.6)}
    steps = {step: dict(zip(DISTANCES, values, strict=True)) for step, values in distances.items()}
    candidates = [
        Candidate(10, [0.1, 0.1], [1.0, 1.0], [0.0, 0.0]),
        Candidate(20, [0.5, 0.5], [0.7, 0.7], [0.2, 0.2]),
        Candidate(30, [0.9, 0.9], [0.5, 0.5], [0.8, 0.8]),
    ]
    return Lesson("fox", "lora", dict.fromkeys(DISTANCES, 1.0), steps, candidates, 20)


def test_regret_is_how_much_further_than_the_nearest() -> None:
    one = lesson()
    assert [one.regret(step, "truth_features") for step in (10, 20, 30)] == [0.25, 0.0, 0.5]
    found = {choice.name: choice.regrets["truth_features"] for choice in choices([one, one])}
    assert found == {
        "the verdict": [0.0, 0.0],
        "the latest step that cannot be told from the verdict's": [0.0, 0.0],
        "the last step": [0.5, 0.5],
        "the first saved step": [0.25, 0.25],
        "any step": [0.25, 0.25],
    }


def test_the_latest_step_that_cannot_be_told_from_the_best() -> None:
    best, kept, lost = [0.9, 0.5, 0.7, 0.6], [0.8, 0.6, 0.5, 0.7], [0.7, 0.3, 0.5, 0.4]

    def steps(*fidelities: list[float], prompt: float = 1.0) -> list[Candidate]:
        return [Candidate(10 * i, row, [prompt] * 4, [0.0] * 4) for i, row in enumerate(fidelities, 1)]

    assert latest_alike(steps(kept, best, kept), Rule()).step == 30
    assert latest_alike(steps(kept, best, lost), Rule()).step == 20, "0.2 lower for every picture"
    out = Candidate(40, best, [0.1] * 4, [0.0] * 4)
    assert latest_alike([*steps(kept, best, kept), out], Rule()).step == 30, "step 40 ignores the prompt"
    assert latest_alike(steps(kept, best, kept, prompt=0.1), Rule()).step == 20, "none keeps the bounds"


def test_bounds_are_tried_on_the_same_lessons() -> None:
    one = lesson()
    assert one.by_rule(Rule()) == 20 and one.by_rule(Rule(min_prompt=0.8)) == 10
    found = dict(by_bounds([one], "truth_features"))
    assert found[0.0] == [0.25, 0.0, 0.0, 0.0, 0.5], "without bounds the step that drifted wins"
    assert found[0.8][-1] == 0.25


def test_every_saved_step_is_judged_and_compared(
    characters: Path, base: Path, two_prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--characters", str(characters), "--base", str(base), "--tiny", "--threads", "1", "--saves", "2"]
    command += ["--methods", "lora,textual-inversion", "-o", str(tmp_path)]
    assert main([*command, "--verdict-prompts", str(two_prompts)]) == 0
    report = json.loads((tmp_path / "verdict.json").read_text())
    assert [one["method"] for one in report["lessons"]] == ["lora", "textual-inversion"]
    for one in report["lessons"]:
        assert list(one["steps"]) == ["1", "2"] and one["chosen"] in (1, 2)
        assert [candidate["step"] for candidate in one["candidates"]] == [1, 2]
        assert all(values[column] > 0 for values in one["steps"].values() for column in DISTANCES)
    page, shown = (tmp_path / "verdict.md").read_text(), capsys.readouterr().out
    assert "| the verdict |" in page and "the verdict names" in page and "Regret over 2 lessons" in shown


def test_it_ends_when_a_lesson_is_told_to_stop(
    characters: Path,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[object] = []

    def stopped(*given: object, **named: object) -> Iterator[Done]:
        begun.append(given)
        yield Done(1.0, {"step": 1, "stopped": "SIGINT"})

    monkeypatch.setattr("benchmarks.verdict.learn", stopped)
    command = ["--characters", str(characters), "--base", str(base), "--tiny", "--threads", "1", "-o", str(tmp_path)]
    assert main([*command, "--methods", "lora,textual-inversion"]) == 2
    assert len(begun) == 1 and "was stopped, and the benchmark with it" in capsys.readouterr().err


def test_bad_input(characters: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--characters", str(characters), "--base", str(base), "--methods", "lorra"]) == 2
    assert "--methods: given 'lorra'" in capsys.readouterr().err
    assert main(["--characters", str(characters), "--base", str(base), "--saves", "0"]) == 2
    assert "--saves: given 0; needed a whole number from 1" in capsys.readouterr().err
