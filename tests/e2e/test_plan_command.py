"""Plans through the command line: measured for real, nothing written, switches that fit, and what cannot fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato as package
from sfumato.events import Progress
from sfumato.formats.concept import load_concept
from sfumato.operations.own_process import running
from sfumato.operations.plan_lesson import plan_lesson
from sfumato.operations.rehearsal import OutOfRoom, rehearse
from sfumato.requests import LearnRequest
from sfumato.training.methods import METHODS, MethodName

Run = Callable[..., Any]
WORD = ("--as", "<fox>", "--class", "fox")
FOX = (*WORD, "--rank", 2, "--plan", "--json")
MB = 10**6


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary files that can be looked into."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def everything(*folders: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def plan_in(answer: Any) -> dict[str, Any]:
    """The plan, which is told last."""
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert lines[-1]["event"] == "learnplan" and {line["event"] for line in lines[:-1]} == {"notice", "progress"}
    return dict(lines[-1])


def test_a_plan_is_measured_and_nothing_is_written(sfumato: Run, base: Path, photos: Path, temporary: Path) -> None:
    before = everything(base, photos)
    words = ("learn", photos, *FOX, "--base", base, "--steps", 120, "--save-every", 50, "--verdict-steps", 4)
    answer = sfumato(
        *words, "--prior-weight", 1, "--num-class-images", 8, "--cache", "kept", "-o", "there/fox.safetensors"
    )
    assert answer.code == 0, answer.err
    assert everything(base, photos) == before
    assert [path.name for path in Path().iterdir()] == ["temporary"] and not list(temporary.iterdir())
    plan = plan_in(answer)
    assert (plan["steps"], plan["shown"], plan["pictures"], plan["rounds"]) == (120, 480, 3, 160)
    assert (plan["is_whole"], plan["fits_memory"], plan["is_possible"], plan["tried"]) == (True, True, True, [])
    time = {part["name"]: part for part in plan["time"]}
    counts = {name: part["times"] for name, part in time.items() if part["times"] != 1}
    assert counts == {"class pictures": 8, "step": 120, "saving": 3, "look at a saved state": 3}
    assert all(part["each_s"] > 0 for part in plan["time"]) and time["step"]["each_s"] == plan["step_s"]
    assert plan["seconds"] == pytest.approx(sum(part["each_s"] * part["times"] for part in plan["time"]))
    assert 50 * MB < plan["peak_bytes"] < 4000 * MB and plan["peak_part"] in time
    disk = {part["name"]: part for part in plan["disk"]}
    assert disk["saved states"]["count"] == 3 and disk["encoded pictures and texts"]["stays"]
    assert all(part["each_bytes"] > 0 for part in plan["disk"])
    settings = {item["name"]: (item["value"], item["source"]) for item in plan["settings"]}
    assert settings["rank"] == (2, "--rank") and settings["optim.lr"] == (2e-3, "method and base")


@pytest.mark.parametrize("method", METHODS)
def test_the_sizes_are_those_of_the_lesson(method: MethodName, sfumato: Run, base: Path, photos: Path) -> None:
    rank = ("--rank", 2) if METHODS[method].has_factors else ()
    words = ("learn", photos, *WORD, *rank, "--json", "--base", base, "--steps", 5, "--no-verdict", "--method", method)
    folder = "tuned" if method == "dreambooth" else "fox.safetensors"
    plan = plan_in(sfumato(*words, "--plan", "-o", folder))
    assert sfumato(*words, "-o", folder).code == 0
    written = sum(len(content) for content in everything(Path(folder)).values()) or Path(folder).stat().st_size
    assert plan["left_bytes"] == pytest.approx(written, rel=0.01)


def test_a_limit_forces_a_switch_and_an_impossible_one_is_told(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, *FOX, "--base", base, "--no-verdict", "--batch-size", 256)
    peak = plan_in(sfumato(*words))["peak_bytes"]
    answer = sfumato(*words, "--memory", f"{peak * 0.9 / MB:.0f}MB")
    plan = plan_in(answer)
    assert answer.code == 0 and plan["is_possible"] and not plan["fits_memory"]
    assert plan["switches"] == plan["tried"][-1] and plan["switches"]["fits"] and not plan["switches"]["loses"]
    assert plan["tried"][0]["flags"] == ["--batch-size 128", "--accumulate 2"]
    assert plan["switches"]["peak_bytes"] <= plan["limit_bytes"] < plan["peak_bytes"]
    answer = sfumato(*words[:-2], "--memory", "50MB")
    plan = plan_in(answer)
    assert answer.code == 1 and not plan["is_possible"] and plan["switches"] is None
    assert "no switch can help" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory", "6"), "--memory: given '6'; needed a size above 0 with its unit, for example 6GB"),
        (("--set", "optim.lrr=1"), "settings: unknown key 'optim.lrr'. Did you mean 'lr'?"),
        (("--word", "zzz"), "word is 'zzz' but identifier is 'new'"),
        (("--num-class-images", 8), "num_class_images is 8 but prior_weight is 0"),
        (("--progressive-steps", 5), "progressive_steps is 5 but num_vectors is 1"),
        (("-o", "fox.txt"), "does not end in .safetensors"),
        (("-o", "."), "The output '.' does not end in .safetensors. Use 'concept.safetensors'."),
        (("--base", "nowhere"), "nowhere"),
    ],
)
def test_what_learn_refuses_a_plan_refuses(
    words: tuple[object, ...], message: str, sfumato: Run, base: Path, photos: Path
) -> None:
    answer = sfumato("learn", photos, "--as", "<fox>", "--class", "fox", "--plan", "--base", base, *words)
    assert answer.code == 2 and message in answer.err, answer.err
    assert answer.err.count("\n") == 1


def test_a_plan_says_which_rare_word_is_found(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, *WORD, "--identifier", "rare", "--base", base, "--steps", 1, "--no-verdict", "--json")
    settings = {item["name"]: item for item in plan_in(sfumato(*words, "--preview", "a <fox>", "--plan"))["settings"]}
    assert settings["word"]["source"] == "base, pictures and seed"
    assert sfumato(*words).code == 0
    assert load_concept(Path("fox.safetensors")).main.expansion == f"{settings['word']['value']} fox"


def test_pictures_that_cannot_be_read(sfumato: Run, base: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    answer = sfumato("learn", "broken", *FOX, "--base", base)
    assert answer.code == 2 and json.loads(answer.out.splitlines()[-1])["error"] == "UnreadableImage"


def lesson(base: Path, photos: Path, output: Path) -> LearnRequest:
    values = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "base": str(base), "output": output}
    return LearnRequest.model_validate({**values, "plan": True, "verdict": False})


def test_a_plan_that_is_interrupted_leaves_no_process_and_no_file(base: Path, photos: Path, temporary: Path) -> None:
    events = plan_lesson(lesson(base, photos, temporary / "fox.safetensors"))
    next(event for event in events if isinstance(event, Progress))
    assert running() and list(temporary.iterdir())
    events.close()
    assert not running() and not list(temporary.iterdir())


def test_ctrl_c_ends_the_measured_process_too(base: Path, photos: Path, temporary: Path) -> None:
    slow = ("--steps", 9, "--batch-size", 64, "--accumulate", 32)  # the signal must arrive before the plan is done
    words = [str(word) for word in ("learn", photos.resolve(), *FOX, "--base", base, *slow)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and
    try:  # what is ignored stays so in a new process
        process = subprocess.Popen(
            [sys.executable, "-m", "sfumato", *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=temporary,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    next(line for line in process.stdout if '"progress"' in line)
    process.send_signal(signal.SIGINT)  # to the one process: the measured one hears nothing of it
    out, _ = process.communicate(timeout=60)  # returns when nobody holds the pipe any more
    assert process.returncode == 130 and '"interrupted"' in out and "learnplan" not in out
    assert not list(temporary.glob("sfumato-plan-*")) and not list(temporary.glob("fox*"))


def test_a_process_that_the_system_ends_ran_out_of_memory(base: Path, photos: Path, temporary: Path) -> None:
    events = rehearse(lesson(base, photos, temporary / "fox.safetensors").model_copy(update={"plan": False}))
    next(events)
    for process in running():
        process.kill()
    with pytest.raises(StopIteration) as stopped:
        while True:
            next(events)
    assert isinstance(stopped.value.value, OutOfRoom) and not list(temporary.iterdir())


def test_a_plan_does_not_run_the_script_again(base: Path, photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    asked = f"{str(photos)!r}, placeholder='<fox>', class_noun='fox', base={str(base)!r}, verdict=False"
    script.write_text(f"open('runs.txt', 'a').write('|')\nimport sfumato\nprint(sfumato.plan({asked}).steps)\n")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "100\n", done.stderr
    assert (tmp_path / "runs.txt").read_text() == "|"


def test_from_python(base: Path, photos: Path) -> None:
    plan = package.plan(photos, placeholder="<fox>", class_noun="fox", base=base, verdict=False, memory="20GB")
    assert plan.is_possible and plan.fits_memory and plan.steps == 100 and plan.limit_bytes == 20 * 10**9
    assert next(item.source for item in plan.settings if item.name == "placeholder") == "given"
