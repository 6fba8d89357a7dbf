"""The verdict through the command line: the chosen step in the file, the report, and the same after an interruption."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.events import Progress, Verdict
from sfumato.formats.concept import load_concept
from sfumato.operations.learn import learn, lesson_config, verdict_plan
from sfumato.requests import LearnRequest

Run = Callable[..., Any]
LESSON = ("--as", "<fox>", "--class", "fox", "--steps", 4, "--save-every", 2, "--batch-size", 1, "--rank", 1)
SHORT = ("--verdict-steps", 2)
FILES = ["report.html", "report.png", "scores.json"]


def test_verdict_report_and_interruption(sfumato: Run, base: Path, photos: Path) -> None:
    answer = sfumato("learn", photos, *LESSON, *SHORT, "--base", base, "--lr", 0.05, "--json")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    (verdict,) = [line for line in lines if line["event"] == "verdict"]
    assert verdict["step"] in (2, 4) and verdict["reason"].startswith(("It ", "No saved step"))
    assert {"subject_fidelity", "subject_fidelity_low", "pres", "div", "copies"} <= set(verdict["scores"])
    assert verdict["step"] in verdict["front"] and isinstance(verdict["alarms"], list)
    assert [line["path"] for line in lines if line["event"] == "artifact"] == [
        "fox.safetensors",
        "fox.verdict/report.html",
        "fox.verdict/report.png",
    ]
    assert not Path("fox.run").exists()
    lineage = load_concept(Path("fox.safetensors")).lineage
    assert lineage["steps"] == verdict["step"] and lineage["verdict"]["steps"] == [2, 4]
    assert lineage["verdict"]["scores"] == verdict["scores"]
    assert_report_is_whole(Path("fox.verdict"), verdict)
    before = {name: Path("fox.verdict", name).read_bytes() for name in FILES}
    concept = Path("fox.safetensors").read_bytes()

    words = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "steps": 4, "save_every": 2}
    words |= {"batch_size": 1, "rank": 1, "lr": 0.05, "verdict_steps": 2, "base": str(base)}
    words |= {"output": Path("again/fox.safetensors")}
    interrupted(words)
    assert Path("again/fox.run").exists() and not Path("again/fox.safetensors").exists()
    resumed = (*LESSON, "--base", base, "--lr", 0.05, "--resume", "-o", "again/fox.safetensors")
    changed = sfumato("learn", photos, *resumed, "--verdict-steps", 3)
    assert (
        changed.code == 2
        and "Step 2 was scored otherwise than is asked for now: sampler steps 2, now 3." in changed.err
    )
    assert "resume with --no-verdict" in changed.err
    events = list(learn(LearnRequest.model_validate(words | {"resume": True})))
    (repeated,) = [event for event in events if isinstance(event, Verdict)]
    assert (repeated.step, repeated.reason, repeated.scores) == (verdict["step"], verdict["reason"], verdict["scores"])
    assert Path("again/fox.safetensors").read_bytes() == concept
    assert {name: Path("again/fox.verdict", name).read_bytes() for name in FILES} == before


def interrupted(words: dict[str, Any]) -> None:
    """Begin a lesson and leave it while the second saved step draws."""
    run = learn(LearnRequest.model_validate(words))
    for event in run:
        if isinstance(event, Progress) and event.phase.startswith("step 4") and event.done == 3:
            break
    run.close()


def test_an_interrupted_lesson_goes_on_with_other_bounds(sfumato: Run, base: Path, photos: Path) -> None:
    words = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "steps": 4, "save_every": 2}
    words |= {"batch_size": 1, "rank": 1, "verdict_steps": 2, "base": str(base), "output": Path("fox.safetensors")}
    interrupted(words)
    resumed = ("learn", photos, *LESSON, *SHORT, "--base", base, "--resume", "-o", "fox.safetensors")
    answer = sfumato(*resumed, "--max-drift", 0.9, "--min-prompt", 0.1, "--no-early-stop")
    assert answer.code == 0, answer.err
    assert "of at most 0.9" in answer.out
    looks = json.loads(Path("fox.verdict/scores.json").read_text())["steps"]
    assert [look["step"] for look in looks] == [2, 4]


def assert_report_is_whole(folder: Path, verdict: dict[str, Any]) -> None:
    """The page needs nothing but itself and says what the verdict says."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    page = (folder / "report.html").read_text()
    assert f"Use step {verdict['step']}." in page and verdict["reason"].split("(")[0] in page
    assert not re.search(r'(src|href)="(?!data:)', page) and page.count("data:image/png") == 11 + 2 * 14 + 8 + 3
    with Image.open(folder / "report.png") as sheet:
        assert sheet.width == 2160 and sheet.height > 1000
    content = json.loads((folder / "scores.json").read_text())
    assert content["step"] == verdict["step"] and [one["step"] for one in content["steps"]] == [2, 4]
    assert len(content["base"]["fidelity"]) == 8 and len(content["base"]["preservation"]) == 3
    chosen = next(one for one in content["steps"] if one["step"] == verdict["step"])
    assert chosen["means"]["pres"]["value"] == verdict["scores"]["pres"]


def test_prompts_of_the_user(sfumato: Run, base: Path, photos: Path) -> None:
    Path("prompts.txt").write_text("# mine\na <FOX> on a green background\n\na blue {}\n")
    words = ("learn", photos, *LESSON, *SHORT, "--base", base, "--verdict-prompts", "prompts.txt")
    assert sfumato(*words, "--steps", 2).code == 0
    asked = json.loads(Path("fox.verdict/scores.json").read_text())["asked"]
    assert asked["plan"]["prompts"] == ["a {} on a green background", "a blue {}"]


def test_a_style_is_judged_as_one(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, *LESSON, *SHORT, "--base", base, "--style", "--steps", 2)
    answer = sfumato(*words)
    assert answer.code == 0, answer.err
    content = json.loads(Path("fox.verdict/scores.json").read_text())
    plan = content["asked"]["plan"]
    assert (plan["plain"], plan["plain_class"]) == ("a picture, {} style", "a picture")
    assert all("{} style" in prompt for prompt in plan["prompts"])


def test_several_subjects_are_judged_together(sfumato: Run, base: Path, photos: Path, two_prompts: Path) -> None:
    words = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "also": (f"{photos}:<robot>:robot",)}
    words |= {"method": "pivotal", "steps": 4, "save_every": 2, "batch_size": 1, "rank": 1, "verdict_steps": 2}
    words |= {
        "base": str(base),
        "early_stop": False,
        "output": Path("both.safetensors"),
        "verdict_prompts": two_prompts,
    }
    events = list(learn(LearnRequest.model_validate(words)))
    (verdict,) = [event for event in events if isinstance(event, Verdict)]
    assert {"<fox>/subject_fidelity", "<robot>/subject_fidelity", "<robot>/pres_high"} <= set(verdict.scores)
    assert "<fox>: " in verdict.reason and "<robot>: " in verdict.reason
    lineage = load_concept(Path("both.safetensors")).lineage
    assert lineage["steps"] == verdict.step and lineage["verdict"]["scores"] == verdict.scores
    assert sorted(path.name for path in Path("both.verdict").iterdir()) == FILES
    content = json.loads(Path("both.verdict/scores.json").read_text())
    assert [one["placeholder"] for one in content["subjects"]] == ["<fox>", "<robot>"]
    interrupted(words | {"output": Path("again/both.safetensors")})
    look = Path("again/both.run/looks/step-00000002")
    assert [sorted(path.name for path in (look / f"subject-{n}").iterdir()) for n in (1, 2)] == [
        ["pictures.png", "scores.json"]
    ] * 2
    list(learn(LearnRequest.model_validate(words | {"output": Path("again/both.safetensors"), "resume": True})))
    assert Path("again/both.safetensors").read_bytes() == Path("both.safetensors").read_bytes()
    assert [Path("again/both.verdict", name).read_bytes() for name in FILES] == [
        Path("both.verdict", name).read_bytes() for name in FILES
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {} on red\n", "prompts.txt has 1 prompts; a verdict needs at least 2, one a line."),
        ("a {} on red\na dog\n", "the prompt 'a dog' does not name the subject. Write <fox> or {} where it stands."),
        (None, "The prompts in 'prompts.txt' cannot be read as UTF-8 text"),
    ],
)
def test_prompts_that_cannot_be_used(text: str | None, message: str, sfumato: Run, base: Path, photos: Path) -> None:
    if text is not None:
        Path("prompts.txt").write_text(text)
    answer = sfumato("learn", photos, *LESSON, "--base", base, "--verdict-prompts", "prompts.txt")
    assert answer.code == 2 and message in answer.err, answer.err


def test_without_a_verdict_the_last_step_is_written(sfumato: Run, base: Path, photos: Path) -> None:
    answer = sfumato("learn", photos, *LESSON, "--base", base, "--no-verdict")
    assert answer.code == 0 and "best step" not in answer.out and not Path("fox.verdict").exists()
    lineage = load_concept(Path("fox.safetensors")).lineage
    assert lineage["steps"] == 4 and "verdict" not in lineage


def test_long_lessons_are_saved_four_times(photos: Path) -> None:
    def every(**words: Any) -> int:
        request = LearnRequest(folder=photos, placeholder="<fox>", class_noun="fox", **words)
        return lesson_config(request).loop.save_every

    assert [every(), every(steps=1000), every(steps=1001), every(steps=1000, save_every=10)] == [50, 250, 251, 10]


def test_what_was_asked_of_a_verdict_reaches_its_rule(photos: Path) -> None:
    names = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox"}
    usual = verdict_plan(LearnRequest(**names))
    assert (usual.rule.patience, usual.seeds, usual.drawing.batch_size) == (2, 2, 4)
    asked = {"early_stop": False, "min_prompt": 0.1, "max_drift": 0.9, "verdict_seeds": 5, "batch_size": 1}
    plan = verdict_plan(LearnRequest(**names, **asked))
    assert (plan.rule.patience, plan.rule.min_prompt, plan.rule.max_drift) == (0, 0.1, 0.9)
    assert (plan.seeds, plan.drawing.batch_size) == (5, 1)
