"""Pictures with numbers that are none are refused by whatever draws them, and a step that draws some is not scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from painted_lesson import PROMPTS, SUBJECT, Grid, Painter, random_eye, write_photos
from sfumato.errors import CheckpointError, Diverged
from sfumato.evaluation.encoders import Encoders, NamedEncoder
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.subject import draw_answers, subject_of
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.events import Event, Notice
from sfumato.formats.finite_picture import check_finite
from sfumato.pipeline import Pipeline, Settings
from sfumato.training.probe import Trial
from tiny import tiny_bundle


def broken() -> Pipeline:
    """A base with one weight that is no number."""
    bundle = tiny_bundle()
    bundle.unet.state_dict()["conv_out.bias"][0] = float("nan")
    return Pipeline(bundle)


def test_a_broken_base_draws_nothing() -> None:
    with pytest.raises(CheckpointError) as caught:
        broken().images(["a red fox"], [3], Settings(steps=1))
    assert caught.value.message == "The picture of seed 3 holds numbers that are not finite."
    assert caught.value.field == "base"
    assert str(caught.value.hint).startswith("Base 'tiny' is damaged, or was converted to too few bits: copy or conv")


def test_a_broken_base_gets_no_report() -> None:
    scene: Any = SimpleNamespace(caption="a red fox")
    plan = EvaluationPlan.model_validate({"drawing": {"steps": 1}})
    with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
        list(draw_answers(subject_of(broken()), "known icons", [scene], plan))


@pytest.mark.parametrize(
    ("with_concept", "in_lesson", "field", "hint"),
    [
        (False, False, "base", "Base 'tiny' is damaged"),
        (True, False, "concepts", "Draw without the concept: if that works, lower its strength or learn it again."),
        (True, True, None, "Lower the learning rate. Where nothing has been learned yet: base 'tiny' is damaged"),
    ],
)
def test_who_is_at_fault(with_concept: bool, in_lesson: bool, field: str | None, hint: str) -> None:
    bundle: Any = SimpleNamespace(name="tiny")
    concepts: list[Any] = [object()] if with_concept else []
    check_finite(torch.zeros(3, 2, 2), 3, bundle, concepts, in_lesson=in_lesson)
    for number in (float("nan"), float("inf")):
        with pytest.raises(CheckpointError) as caught:
            check_finite(torch.full((3, 2, 2), number), 3, bundle, concepts, in_lesson=in_lesson)
        assert caught.value.field == field and str(caught.value.hint).startswith(hint)


class Overflown(Painter):
    """Paints no pictures as soon as the word is said."""

    def generate(self, prompts: Any, seeds: Any, settings: Any = None, **_: Any) -> Iterator[Event]:
        if any("<fox>" in prompt for prompt in prompts):
            raise CheckpointError("The picture of seed 3 holds numbers that are not finite.", hint="Copy it again.")
        yield from super().generate(prompts, seeds, settings)


def test_a_step_that_draws_no_pictures_is_not_scored(tmp_path: Path) -> None:
    photos, grid = write_photos(tmp_path / "photos", SUBJECT), NamedEncoder("grid", Grid())
    eye = random_eye()
    plan = VerdictPlan.model_validate({"prompts": PROMPTS})
    probe = SubjectProbe(plan, photos, "<fox>", "fox", lambda: (Encoders(grid, None), eye))
    list(probe.begin(Overflown()))
    with pytest.raises(Diverged) as caught:
        list(probe.look(50, nullcontext(Overflown()), tmp_path))
    assert str(caught.value) == "The picture of seed 3 holds numbers that are not finite. Lower the learning rate."


def test_a_lesson_goes_on_past_such_a_step(tmp_path: Path) -> None:
    forgotten = []

    def look(step: int, drawing: Any, folder: Path) -> Iterator[Event]:
        yield Notice(step, "drawing")
        raise Diverged("The picture holds no numbers.", hint="Lower the learning rate.")

    probe: Any = SimpleNamespace(look=look, forget=forgotten.append)
    learner: Any = SimpleNamespace(learning={}, drawing=lambda step: nullcontext())
    loop: Any = SimpleNamespace(save_every=2, steps=6)
    trial = Trial(probe, learner, loop)
    for step in (2, 6):
        said = [event.message for event in trial.after_save(step, tmp_path) if isinstance(event, Notice)]
        assert said[-1] == f"Step {step} is not scored: The picture holds no numbers. Lower the learning rate."
    assert forgotten == [2, 6] and not list((tmp_path / "looks").iterdir())
    with pytest.raises(Diverged, match="No saved step up to step 6 holds finite numbers"):
        list(trial.finish(6, tmp_path))
