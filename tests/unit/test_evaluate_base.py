"""The instruments measure: perfect pictures reach the ceiling, noise and swapped pictures only chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drawn_primer import drawn_primer
from sfumato.data.images import to_tensor
from sfumato.data.primer.library import Primer
from sfumato.evaluation.base import evaluate_base
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.measures import Measure
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.evaluation.questions import Answer, questions, real_answers
from sfumato.evaluation.relation import arrangements, measure_relations, real_things
from sfumato.evaluation.report import Report
from sfumato.evaluation.subject import Subject
from sfumato.events import Artifact, Done, Event, Metric, Notice, Progress
from sfumato.pipeline import Drawn, Settings

PLAN = EvaluationPlan.model_validate(
    {
        "pictures": {"known_icons": 16, "held_out_icons": 8, "pairs": 16, "people": 24, "scenes": 24},
        "probes": {"icons": 40, "people": 100},
    }
)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return drawn_primer(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    return FeatureExtractor(cache=tmp_path_factory.mktemp("features"), side=64)


Paint = Callable[[str, int], Tensor]


def subject(paint: Paint, *, room: int = 1000) -> Subject:
    """Make a base out of a function from prompt and seed to picture."""

    def draw(prompts: Sequence[str], seeds: Sequence[int], settings: Settings) -> Iterator[Event]:
        assert settings.steps == 20
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            yield Drawn(index, prompt, seed, paint(prompt, seed))

    return Subject("fake", "f" * 64, draw, lambda images: images, lambda prompt: len(prompt) <= room)


def perfect(primer: Primer, *, shift: int = 0) -> Paint:
    """Return the real picture of the prompt, or that of a later prompt of the same kind."""
    pictures = {}
    for scenes in questions(primer, PLAN).values():
        for number, scene in enumerate(scenes):
            pictures[scene.caption] = to_tensor(scenes[(number + shift) % len(scenes)].image)
    return lambda prompt, seed: pictures[prompt]


def noise(prompt: str, seed: int) -> Tensor:
    return torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(seed % 2**31)) * 2 - 1


def finish(events: Generator[Event, None, Any]) -> tuple[list[Event], Any]:
    """Run to the end and return the events and the result."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value


def evaluated(paint: Paint, primer: Primer, eye: FeatureExtractor, folder: Path) -> dict[str, Measure]:
    _, report = finish(evaluate_base(subject(paint), primer, PLAN, folder, eye))
    return {measure.name: measure for measure in report.measures}


def test_perfect_pictures_reach_the_ceiling(primer: Primer, eye: FeatureExtractor, tmp_path: Path) -> None:
    found = evaluated(perfect(primer), primer, eye, tmp_path)
    assert found["concept of training pairs: top-1"].value >= 0.8
    assert found["colour of a plain background"].value == 1.0
    assert found["two things in the relation asked for"].value >= 0.9
    assert found["two things in the relation asked for, both recognised"].value >= 0.5
    assert found["people, glasses: accuracy"].value >= 0.9
    assert found["people, mean of the shares"].value == pytest.approx(1.0)
    for name, measure in found.items():
        if measure.ceiling is not None and not name.startswith("style"):
            assert measure.value == pytest.approx(measure.ceiling, abs=1e-4), name
        if measure.interval is not None:
            assert measure.interval[0] <= measure.value + 1e-9
            assert measure.value <= measure.interval[1] + 1e-9
    assert found["style: accuracy"].value >= 0.7
    assert found["Fréchet distance of other real scenes"].value > 0


def test_noise_gets_no_further_than_chance(primer: Primer, eye: FeatureExtractor, tmp_path: Path) -> None:
    found = evaluated(noise, primer, eye, tmp_path)
    for name in ("training pairs", "held-out pairs"):
        assert found[f"concept of {name}: top-1"].value <= 0.26
        assert found[f"concept of {name}: top-5"].value <= 0.65
    assert found["style: accuracy"].value <= 0.5
    assert found["colour of a plain background"].value <= 0.2
    assert found["two things in the relation asked for"].value <= 0.5
    assert found["two things in the relation asked for, both recognised"].value <= 0.1
    assert found["people, glasses: accuracy"].value <= 0.75
    assert found["people, mean of the shares"].value <= 0.65
    assert found["people, mean of the shares"].is_reached is False
    scale = found["Fréchet distance of other real scenes"].value
    assert found["Fréchet distance to real scenes"].value > 1.2 * scale


def test_pictures_of_other_prompts_get_no_further_than_chance(
    primer: Primer, eye: FeatureExtractor, tmp_path: Path
) -> None:
    found = evaluated(perfect(primer, shift=1), primer, eye, tmp_path)
    assert found["concept of training pairs: top-1"].value <= 0.2
    assert found["two things in the relation asked for"].value <= 0.55
    assert found["two things in the relation asked for, both recognised"].value <= 0.15
    assert found["people, mean of the shares"].value <= 0.8
    assert found["Fréchet distance to real scenes"].value == pytest.approx(0.0, abs=1e-3)  # the same set of pictures


def test_mirrored_pairs_swap_left_and_right(primer: Primer, eye: FeatureExtractor) -> None:
    scenes = questions(primer, PLAN)["pairs"]
    _, references = finish(real_things(primer, eye, scenes))
    for number, scene in enumerate(scenes[:10]):
        relation = scene.facts.relation
        mirrored = np.ascontiguousarray(scene.image[:, ::-1])
        sideways = relation in ("left of", "right of")
        [upright], [turned] = (arrangements(eye, [p], references, number) for p in (scene.image, mirrored))
        assert upright.answers(scene)
        assert turned.answers(scene) is not sideways


def test_one_thing_or_none_is_no_relation(primer: Primer, eye: FeatureExtractor) -> None:
    scenes = questions(primer, PLAN)["pairs"]
    answers = [replace(answer, picture=np.full((128, 128, 3), 255, np.uint8)) for answer in real_answers(scenes)]
    _, (measure, strict) = finish(measure_relations(primer, eye, answers, 0))
    assert (measure.value, strict.value) == (0.0, 0.0)
    assert measure.ceiling is not None
    assert measure.ceiling >= 0.9


def test_the_report_is_written_and_repeats(primer: Primer, eye: FeatureExtractor, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"pictures": PLAN.pictures.model_copy(update={"scenes": 0, "people": 0})})
    events, report = finish(evaluate_base(subject(noise), primer, plan, tmp_path / "one", eye))
    finish(evaluate_base(subject(noise), primer, plan, tmp_path / "two", eye))
    assert isinstance(report, Report)
    for name in ("base.json", "base.md", "sheet.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    content = json.loads((tmp_path / "one" / "base.json").read_text())
    assert content["base"] == {"name": "fake", "hash": "f" * 64}
    assert content["plan"]["pictures"]["pairs"] == 16
    assert {m["name"] for m in content["measures"]} == {measure.name for measure in report.measures}
    assert content["notes"] == [
        "people: not measured; the plan asks for none, or the data have no drawn people.",
        "scenes: not measured; the plan asks for none.",
    ]
    page = (tmp_path / "one" / "base.md").read_text()
    assert "| concept of training pairs: top-5 | ≥ 70.0 % |" in page
    assert "- people: not measured" in page
    kinds = [type(event) for event in events]
    assert kinds.count(Artifact) == 3
    assert kinds.count(Notice) == 2
    assert Metric in kinds
    assert Progress in kinds
    assert kinds[-1] is Done


def test_data_without_people_and_prompts_that_are_too_long(eye: FeatureExtractor, tmp_path: Path) -> None:
    primer = drawn_primer(tmp_path / "data", people=False)
    plan = EvaluationPlan.model_validate({"pictures": {"known_icons": 8, "held_out_icons": 0, "pairs": 4, "scenes": 4}})
    longest = max(len(scene.caption) for scene in questions(primer, plan)["pairs"])
    events, report = finish(evaluate_base(subject(noise, room=longest - 1), primer, plan, tmp_path / "out", eye))
    assert any("people: not measured" in note for note in report.notes)
    assert any(note.startswith("held-out icons: ") and "style is not measured either" in note for note in report.notes)
    assert any("of 4 prompts are too long for the base and were left out" in note for note in report.notes)
    assert any(isinstance(e, Notice) and "of 4 prompts for pairs are too long" in e.message for e in events)
    names = {measure.name for measure in report.measures}
    assert not any(name.startswith("people") for name in names)
    assert "Fréchet distance to real scenes" in names


def test_features_of_real_pictures_are_kept(primer: Primer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [scene.image for scene in questions(primer, PLAN)["pairs"][:3]]
    eye = FeatureExtractor(cache=tmp_path / "kept", side=64)
    events, first = finish(eye.look_at_real(iter(pictures), 3, "pairs"))
    assert events == [Progress("pairs", 3, 3)]
    assert first.shape == (3, 1280)
    again = FeatureExtractor(eye.network, tmp_path / "kept", side=64)
    monkeypatch.setattr(again, "look", lambda chunk: pytest.fail("looked again"))
    assert torch.equal(finish(again.look_at_real(iter(pictures), 3, "pairs"))[1], first)
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(b"damaged")
    monkeypatch.undo()
    assert torch.equal(finish(again.look_at_real(iter(pictures), 3, "pairs"))[1], first)


def test_a_cache_that_cannot_be_written_is_no_obstacle(primer: Primer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    eye = FeatureExtractor(cache=tmp_path / "file" / "cache", side=64)
    events, features = finish(eye.look_at_real([np.zeros((128, 128, 3), np.uint8)], 1, "one"))
    assert features.shape == (1, 1280)
    assert isinstance(events[0], Notice)
    assert "not kept for the next report" in events[0].message
    assert str(tmp_path / "file") in events[0].message


def test_a_smaller_plan_asks_the_first_of_the_same_questions(primer: Primer) -> None:
    small = PLAN.model_copy(update={"pictures": PLAN.pictures.model_copy(update={"known_icons": 5, "people": 6})})
    many, few = questions(primer, PLAN), questions(primer, small)
    for kind in ("known icons", "people"):
        asked = [scene.caption for scene in few[kind]]
        assert asked == [scene.caption for scene in many[kind][: len(asked)]]
    assert {scene.facts.things[0].split for scene in many["held-out icons"]} == {"held_out_pair"}
    assert {scene.facts.things[0].split for scene in many["people"]} == {"held_out_identity"}
    assert isinstance(real_answers(many["pairs"])[0], Answer)
