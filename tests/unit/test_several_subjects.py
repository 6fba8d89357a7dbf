"""Several subjects in one lesson: what each is asked for in a verdict, and how often each is shown."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from drawn_primer import write
from painted_lesson import Grid
from sfumato.errors import ConfigError
from sfumato.evaluation.encoders import Encoders, NamedEncoder
from sfumato.evaluation.joint_probe import JointProbe
from sfumato.evaluation.plan import Drawing
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.verdict_plan import PROMPTS, VerdictPlan, filled, read_prompts, without_words
from sfumato.events import Event
from sfumato.formats.bundle import Bundle
from sfumato.operations.learn import judge, parse_subject, verdict_plan
from sfumato.operations.learn_plan import LearnPlan
from sfumato.operations.plan_lesson import plan_lesson
from sfumato.operations.rehearsal import OutOfRoom
from sfumato.requests import LearnRequest
from sfumato.runtime.json_values import flattened
from sfumato.training.sample_set import AnySamples, BucketedSamples, Samples
from sfumato.training.subject import joined, read_subject
from tiny import tiny_bundle

# ── what each is asked for ───────────────────────────────────────────────────────────────────────

CAT = "cats:<cat>:tom cat"
LINES = """# mine
a <fox> beside a <CAT>
a <cat> tom cat in snow
a <fox> fox on grey
a {} near a <cat>
a {} on red
"""


def asked(file: Path | None = None, **values: Any) -> LearnRequest:
    fox = {"folder": Path("photos"), "placeholder": "<fox>", "class_noun": "fox", "verdict_prompts": file}
    return LearnRequest.model_validate({**fox, **values})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text(LINES)
    return tmp_path / "prompts.txt"


def test_every_subject_is_asked_what_names_it(file: Path) -> None:
    fox, cat = (verdict_plan(asked(file, also=(CAT,)), one) for one in (None, parse_subject(CAT)))
    assert filled(fox.prompts, "<fox>") == [
        "a <fox> beside a <CAT>",
        "a <fox> fox on grey",
        "a <fox> near a <cat>",
        "a <fox> on red",
    ]
    assert without_words(fox, "fox") == [
        "a fox beside a tom cat",
        "a fox on grey",
        "a fox near a tom cat",
        "a fox on red",
    ]
    assert filled(cat.prompts, "<cat>") == ["a <fox> beside a <cat>", "a <cat> tom cat in snow", "a <cat> on red"]
    assert without_words(cat, "tom cat") == ["a fox beside a tom cat", "a tom cat in snow", "a tom cat on red"]


def test_a_probe_draws_and_judges_by_these_sentences(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = NamedEncoder("grid", Grid())
    monkeypatch.setattr("sfumato.operations.learn.choose_encoders", lambda *_, **__: Encoders(grid))
    shorter = VerdictPlan(drawing=Drawing(steps=1))
    for plan in (None, shorter):
        joint = judge(asked(file, also=(CAT,)), plan)
        assert isinstance(joint, JointProbe)
        fox, cat = joint.subjects
        assert fox.texts()[:5] == [*without_words(fox.plan, "fox"), "a <fox> beside a <CAT>"]
        assert cat.texts()[:4] == [*without_words(cat.plan, "tom cat"), "a <fox> beside a <cat>"]
        assert (len(fox.own), len(cat.own)) == (8, 6) and fox.plan.drawing == cat.plan.drawing
        assert (fox.plan.drawing.steps == 1) == (plan is not None)
    alone = judge(asked())
    assert isinstance(alone, SubjectProbe) and alone.plan.prompts == PROMPTS


def test_words_are_found_as_they_are_when_drawn(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a rex beside a trex\nmany rexes and a REX\na {} with a rex\n")
    assert read_prompts(tmp_path / "p.txt", "rex") == ("a {} beside a trex", "many rexes and a {}", "a {} with a {}")


@pytest.mark.parametrize(
    ("lines", "also", "message", "hint"),
    [
        (
            "a <cat>\na <cat> on red\na <fox> asleep",
            (CAT,),
            "has 1 prompts of <fox>; a verdict needs at least 2 of every subject.",
            "Write more lines with <fox>, or with {} for any subject.",
        ),
        ("a <fox>\na dog", (CAT,), "the prompt 'a dog' does not name a subject.", "Write <fox>, <cat> or {} where"),
        ("a <fox>\na <cat>", (), "the prompt 'a <cat>' does not name the subject.", "Write <fox> or {} where"),
    ],
)
def test_prompts_that_leave_a_subject_out(
    lines: str, also: tuple[str, ...], message: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text(lines)
    with pytest.raises(ConfigError) as caught:
        verdict_plan(asked(tmp_path / "p.txt", also=also))
    assert message in caught.value.message and hint in str(caught.value.hint)
    assert caught.value.field == "verdict_prompts"


def test_what_was_scored_before_is_still_asked(file: Path) -> None:
    """A run that began when plans had no other words goes on: nothing new stands in what its scores are compared by."""
    for request in (asked(), asked(also=(CAT,)), asked(style=True)):
        assert not [key for key in flattened(verdict_plan(request).model_dump(mode="json")) if "others" in key]
    plan = verdict_plan(asked(file, also=(CAT,)))
    assert flattened(plan.model_dump(mode="json"))["others.<cat>"] == "tom cat"


# ── how often each is shown ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def folder(place: Path, name: str, count: int) -> Path:
    """Write pictures into a numbered folder below a place."""
    for number in range(count):
        write(place / name / f"{number}.png", Image.new("RGB", (32, 32), (200, 40 * number, 40)))
    return place


def both(bundle: Bundle, tmp_path: Path, dogs: int, men: int) -> tuple[Path, Path, AnySamples]:
    """Pictures of two subjects, those of each in a folder with a number of repeats."""
    dog = folder(tmp_path / f"dogs{dogs}", f"{dogs}_sks dog", 1)
    man = folder(tmp_path / f"men{men}", f"{men}_ohwx man", 3)
    read = [read_subject(dog, "<dog>", "dog", bundle), read_subject(man, "<man>", "man", bundle)]
    return dog, man, joined(read)


def test_repeats_balance_several_subjects(bundle: Bundle, tmp_path: Path) -> None:
    dog, man, samples = both(bundle, tmp_path, 6, 2)
    assert samples.repeats == (3, 1, 1, 1) and isinstance(samples, Samples) and samples.round == [0, 0, 0, 1, 2, 3]
    assert both(bundle, tmp_path, 3, 1)[2].data_hash == samples.data_hash
    even = both(bundle, tmp_path, 2, 2)[2]
    assert even.repeats == (1, 1, 1, 1) and even.data_hash != samples.data_hash
    assert even.data_hash == both(bundle, tmp_path, 1, 1)[2].data_hash

    def out_of_room(_: LearnRequest) -> Generator[Event, None, OutOfRoom]:
        yield from ()
        return OutOfRoom(1)

    request = asked(folder=dog, placeholder="<dog>", class_noun="dog", also=(f"{man}:<man>:man",))
    *_, plan = plan_lesson(request, None, out_of_room)
    assert isinstance(plan, LearnPlan) and plan.pictures == len(samples.round) == 6


def test_one_subject_stays_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    alone = [read_subject(folder(tmp_path / n, f"{n}_sks dog", 2), "<dog>", "dog", bundle) for n in ("1", "7")]
    once, often = (joined([one]) for one in alone)
    assert once is alone[0] and often.repeats == (1, 1) and often.data_hash == once.data_hash


def test_pictures_of_several_sizes_keep_their_proportions() -> None:
    def samples(height: int, *repeats: int) -> Samples:
        names = tuple(map(str, range(len(repeats))))
        return Samples(torch.zeros(len(repeats), 1, height, 2), None, names, names, "x", repeats)

    mixed = BucketedSamples((samples(2, 4), samples(3, 6)), "y")
    alone, several = joined([mixed]), joined([mixed, samples(2, 10)])
    assert alone.repeats == (2, 3) and alone.data_hash == "y"
    assert isinstance(several, BucketedSamples) and several.repeats == (2, 5, 3)
    assert several.data_hash == several.buckets[0].data_hash == several.buckets[1].data_hash
    assert several.data_hash != joined([mixed, samples(2, 2)]).data_hash
