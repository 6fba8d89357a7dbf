"""The proof by kills: its moments reach every phase in order, and a resume that is not exact is found out."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from benchmarks.killed_lesson import PHASES, Lesson, Moment, clear, learn_killed, learn_whole, moments
from benchmarks.kills import lessons, main, shares

from sfumato.training.methods import METHODS

LESSON = Lesson("fake", ())
PROGRAM = """
import json, sys, time
from pathlib import Path
with open("starts", "a") as file: file.write("|")
starts = Path("starts").read_text()
def tell(**event): print(json.dumps(event), flush=True); time.sleep(0.02)
tell(event="progress", phase="pictures", done=1, total=1)
for step in (1, 2): tell(event="metric", step=step, values={"learn/loss": 1.0})
state = Path("fox.run/checkpoints/step-00000002"); state.mkdir(parents=True, exist_ok=True)
(state / "moments").write_text(starts if BAD == "state" else "same")
tell(event="checkpoint", step=2, path="x")
tell(event="progress", phase="step 2, for the verdict", done=1, total=1)
tell(event="metric", step=2, values={"verdict/div": 1.0})
tell(event="artifact", path="fox.safetensors", kind="concept", info={})
if BAD == "code" and len(starts) > 1: sys.exit("no scores")
Path("fox.safetensors").write_text(starts if BAD == "result" else "same")
tell(event="done", seconds=1.0, info={})
"""


def proved(tmp_path: Path, bad: str, kills: int = 2) -> str:
    """Run the fake lesson alone and with kills; `bad` says what its resume does wrong."""
    command = [sys.executable, "-c", PROGRAM.replace("BAD", repr(bad))]
    for name in ("alone", "killed"):
        clear(tmp_path / name)
    whole = learn_whole(LESSON, command, tmp_path / "alone")
    assert set(whole.hashes) == {"fox.safetensors", "kept/checkpoints/step-00000002/moments"}
    chosen = moments(whole, kills, random.Random(0))
    return learn_killed(LESSON, command, tmp_path / "killed", chosen, whole)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("", ""),
        ("result", "other bytes in fox.safetensors"),
        ("state", "other bytes in kept/checkpoints/step-00000002/moments"),
        ("code", "exit code 1: no scores"),
    ],
)
def test_a_resume_that_is_not_exact_is_found_out(tmp_path: Path, bad: str, problem: str) -> None:
    found = proved(tmp_path, bad)
    assert found.endswith(problem) and bool(found) == bool(problem), found


def test_a_lesson_that_cannot_be_killed_in_time_is_not_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("BAD", "''")]
    for name in ("alone", "killed"):
        clear(tmp_path / name)
    whole = learn_whole(LESSON, command, tmp_path / "alone")
    never = Moment("ending", "an event that never comes", 0.0, 0, 0)
    assert "ended 8 times before it could be killed" in learn_killed(
        LESSON, command, tmp_path / "killed", [never], whole
    )


def test_moments_come_in_order_and_reach_every_phase(tmp_path: Path) -> None:
    clear(tmp_path / "alone")
    whole = learn_whole(LESSON, [sys.executable, "-c", PROGRAM.replace("BAD", "''")], tmp_path / "alone")
    for seed in range(20):
        chosen = moments(whole, 12, random.Random(seed))
        later = [moment for moment in chosen if moment.phase != "start-up"]
        assert [moment.place for moment in later] == sorted(moment.place for moment in later)
        assert {moment.phase for moment in chosen} == set(PHASES)
        assert all(moment.delay_s <= whole.gaps[moment.place].seconds for moment in chosen)


@pytest.mark.parametrize("words", [["--only", "loar"], ["--kills", "0"]])
def test_nothing_to_kill_is_no_success(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2 and "No lesson begins with" in capsys.readouterr().err


def test_every_method_is_killed() -> None:
    plain = [lesson.words for lesson in lessons() if lesson.title in METHODS]
    assert [words[:2] for words in plain] == [("--method", name) for name in METHODS]
    assert {words[1] for words in plain if "--rank" in words} == {name for name in METHODS if METHODS[name].has_rank}
    assert shares(50, 9) == [6] * 5 + [5] * 4
