"""A lesson that is judged ends with the best saved step, however it was interrupted; the judge here is scripted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import CannotResume, Diverged, OutOfMemory, StorageError
from sfumato.events import Done, Event, Notice, Preview, Progress, Verdict
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import load_concept
from sfumato.formats.safe_io import content_hash, read_safetensors
from sfumato.pipeline import Pipeline, Settings
from sfumato.training.ema import EmaConfig
from sfumato.training.journal import read_events
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.probe import LOOKS, Trial
from sfumato.training.sheets import save_sheet
from sfumato.training.subject import read_subject
from sfumato.training.task import LossReport
from tiny import tiny_bundle

pytestmark = pytest.mark.usefixtures("base_stays")


class Scripted:
    """A judge that knows its scores beforehand, and draws one picture at each look to see what is attached."""

    def __init__(self, scores: Mapping[int, float], stop_after: int | None = None) -> None:
        self.scores, self.stop_after = scores, stop_after
        self.seen: dict[int, str] = {}
        self.looked: list[int] = []

    def texts(self) -> tuple[str, ...]:
        return ("a fox", "a <fox>")

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        self.base = content_hash({"latents": latents(pipeline, "a fox")})
        yield Progress("the base", 1, 1)

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        with drawing as pipeline:
            picture = content_hash({"latents": latents(pipeline, "a <fox>")})
        yield Progress(f"step {step}", 1, 1)
        (folder / "scores.json").write_text(picture)
        self.looked.append(step)
        self.seen[step] = picture

    def forget(self, step: int) -> None:
        self.seen.pop(step, None)

    def recall(self, step: int, folder: Path) -> None:
        self.seen[step] = (folder / "scores.json").read_text()

    def leader(self) -> int:
        return max(self.seen, key=lambda step: self.scores[step])

    def settled(self) -> str | None:
        return "No later step can win." if self.stop_after in self.seen else None

    def verdict(self) -> Verdict:
        return Verdict(
            self.leader(), "It is the best.", {"subject": self.scores[self.leader()]}, ("An alarm.",), (2, 4)
        )


def latents(pipeline: Pipeline, prompt: str) -> torch.Tensor:
    *_, last = pipeline.generate([prompt], [0], Settings(steps=2), decode=False)
    return last.x_t  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        Image.fromarray(np.full((32, 32, 3), 60 * index + 60, np.uint8)).save(folder / f"{index}.png")
    return folder


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = LoopConfig(steps=6, log_every=1, save_every=2, keep=9, tensorboard=False)
    usual: dict[str, Any] = {
        "folder": folder,
        "placeholder": "<fox>",
        "class_noun": "fox",
        "output": output,
        "rank": 2,
        "batch_size": 1,
        "optim": OptimConfig(lr=1e-2, weight_decay=0.0),
        "loop": loop,
    }
    return LearnConfig(**usual | changes)


SCORES = {2: 0.1, 4: 0.9, 6: 0.5}
PREVIEW = Settings(steps=16, batch_size=4)


@pytest.fixture(scope="module")
def whole(bundle: Bundle, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lesson that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    list(learn(config(pictures, folder / "fox.safetensors"), bundle, folder / "run", probe=Scripted(SCORES)))
    return folder


def test_the_chosen_step_is_what_is_written(whole: Path) -> None:
    concept = load_concept(whole / "fox.safetensors")
    assert concept.lineage["steps"] == 4
    assert concept.lineage["verdict"] == {
        "reason": "It is the best.",
        "scores": {"subject": 0.9},
        "alarms": ["An alarm."],
        "front": [2, 4],
        "steps": [2, 4, 6],
    }
    written = {tensor.numpy().tobytes() for tensor in concept.factors["unet"].values()}
    assert written == saved_bytes(whole / "run/checkpoints/step-00000004")
    assert written != saved_bytes(whole / "run/checkpoints/step-00000006")


def saved_bytes(checkpoint: Path) -> set[bytes]:
    """The factors of the U-Net in a checkpoint, whatever their names."""
    tensors = read_safetensors(checkpoint / "learned-unet.safetensors")
    return {tensor.numpy().tobytes() for tensor in tensors.values()}


def test_the_verdict_is_in_the_record_of_the_run(whole: Path) -> None:
    (line,) = [event for event in read_events(whole / "run") if event["event"] == "Verdict"]
    assert (line["step"], line["reason"], line["alarms"], line["front"]) == (
        4,
        "It is the best.",
        ["An alarm."],
        [2, 4],
    )


def test_only_the_leader_keeps_its_weights(whole: Path) -> None:
    kept = {path.parent.name for path in (whole / "run" / LOOKS).glob("*/learned-*")}
    assert kept == {"step-00000004"}


def test_a_look_sees_what_the_finished_concept_draws(
    bundle: Bundle, pictures: Path, tmp_path: Path, whole: Path
) -> None:
    concept = load_concept(whole / "fox.safetensors")
    pipeline = Pipeline(bundle)
    with pipeline.using((concept, 1.0)):
        drawn = content_hash({"latents": latents(pipeline, "a <fox>")})
    assert (whole / "run" / LOOKS / "step-00000004/scores.json").read_text() == drawn


@pytest.mark.parametrize(("event", "looked"), [("step 2", [2, 4, 6]), ("step 4", [4, 6]), ("step 6", [6])])
def test_closed_in_the_middle_of_a_look(
    event: str, looked: list[int], bundle: Bundle, pictures: Path, tmp_path: Path, whole: Path
) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    run = learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES))
    for seen in run:
        if isinstance(seen, Progress) and seen.phase == event:
            break
    run.close()
    assert not (tmp_path / "run" / LOOKS / f"step-0000000{event[-1]}").exists()
    probe = Scripted(SCORES)
    list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=probe))
    assert probe.looked == looked
    assert chosen.output.read_bytes() == (whole / "fox.safetensors").read_bytes()


def test_closed_between_two_saved_steps(bundle: Bundle, pictures: Path, tmp_path: Path, whole: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    run = learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES))
    for event in run:
        if getattr(event, "step", 0) == 3:
            break
    run.close()
    probe = Scripted(SCORES)
    list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=probe))
    assert probe.looked == [4, 6]  # step 3 was saved, but only because the run was interrupted there
    assert chosen.output.read_bytes() == (whole / "fox.safetensors").read_bytes()


def test_looks_after_the_saved_step_are_repeated(bundle: Bundle, pictures: Path, tmp_path: Path, whole: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    list(learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES)))
    for step in (4, 6):  # the machine crashed and lost them
        (tmp_path / f"run/checkpoints/step-0000000{step}/state.json").write_text("cut sh")
    probe = Scripted(SCORES)
    list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=probe))
    assert probe.looked == [4, 6]
    assert chosen.output.read_bytes() == (whole / "fox.safetensors").read_bytes()


def test_a_run_ends_early_and_is_complete(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    events = list(learn(chosen, bundle, tmp_path / "run", probe=Scripted({2: 0.9, 4: 0.1}, stop_after=4)))
    assert [event.message for event in events if isinstance(event, Notice)] == ["No later step can win."]
    assert isinstance(events[-1], Done) and events[-1].info == {"step": 4, "steps": 6, "stopped": None}
    assert load_concept(chosen.output).lineage["steps"] == 2
    probe = Scripted({2: 0.9, 4: 0.1}, stop_after=4)
    again = list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=probe))
    assert probe.looked == [] and isinstance(again[-1], Done) and again[-1].info["step"] == 4


def test_what_was_saved_without_a_score_is_said(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    run = learn(chosen, bundle, tmp_path / "run")
    for event in run:
        if getattr(event, "step", 0) == 5:
            break
    run.close()
    events = list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=Scripted(SCORES)))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said[1:] == ["Steps 2, 4 were not scored; the verdict is without them."]
    assert load_concept(chosen.output).lineage["steps"] == 6


def broken_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let what is learned hold a number that is not finite when these steps are looked at."""
    after_save = Trial.after_save

    def spoiled(self: Trial, step: int, run_dir: Path) -> Iterator[Event]:
        weight = next(iter(next(iter(self.learner.learning.values())).parameters()))
        kept = weight.detach().clone()
        if step in steps:
            weight.data.view(-1)[0] = float("nan")
        yield from after_save(self, step, run_dir)
        weight.data.copy_(kept)

    monkeypatch.setattr(Trial, "after_save", spoiled)


def test_a_step_that_is_not_finite_is_not_looked_at(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 4)
    probe = Scripted(SCORES)
    events = list(learn(config(pictures, tmp_path / "fox.safetensors"), bundle, tmp_path / "run", probe=probe))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said == ["Step 4 is not scored: what was learned holds numbers that are not finite."]
    assert probe.looked == [2, 6] and load_concept(tmp_path / "fox.safetensors").lineage["steps"] == 6
    broken_at(monkeypatch, 2, 4, 6)
    with pytest.raises(Diverged, match="No saved step up to step 6 holds finite numbers"):
        list(learn(config(pictures, tmp_path / "a.safetensors"), bundle, tmp_path / "b", probe=Scripted(SCORES)))


def test_a_run_that_diverges_late_says_how_to_get_the_best_of_its_steps(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Learner.loss

    def spoiled(self: Learner, draw: int) -> LossReport:
        report = loss(self, draw)
        return replace(report, loss=report.loss * (float("nan") if draw >= 4 else 1))

    chosen = config(pictures, tmp_path / "fox.safetensors")
    chosen = chosen.model_copy(
        update={"loop": chosen.loop.model_copy(update={"steps": 30, "save_every": 2, "keep": 1})}
    )
    monkeypatch.setattr(Learner, "loss", spoiled)
    scores = {2: 0.9, 4: 0.1, 6: 0.1, 8: 0.1, 10: 0.1}
    for resume in (False, True):
        with pytest.raises(Diverged, match="8 steps up to step 12 were not finite") as caught:
            list(learn(chosen, bundle, tmp_path / "run", resume=resume, probe=Scripted(scores)))
    assert caught.value.hint is not None and caught.value.hint.endswith(
        " Step 10 was saved and scored, and its numbers were finite: the same command with '--resume --steps 10' "
        "writes the best of the steps so far."
    )
    assert not chosen.output.exists()
    shorter = chosen.model_copy(update={"loop": chosen.loop.model_copy(update={"steps": 10})})
    list(learn(shorter, bundle, tmp_path / "run", resume=True, probe=Scripted(scores)))
    assert load_concept(chosen.output).lineage["steps"] == 2
    with pytest.raises(Diverged) as bare:
        list(learn(chosen, bundle, tmp_path / "unjudged"))
    assert bare.value.hint is not None and "--resume" not in bare.value.hint


def test_a_lesson_that_diverges_before_all_vectors_joined_is_not_told_to_end_there(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors", num_vectors=3, progressive_steps=2)
    learner = Learner(chosen, bundle, read_subject(pictures, "<fox>", "fox", bundle))
    try:
        trial = Trial(Scripted(SCORES), learner, chosen.loop)
        trial._seen = {2, 4}
        assert trial.way_out() is None
        trial._seen = {2, 4, 5}
        assert "--resume --steps 5" in str(trial.way_out())
    finally:
        learner.close()


def test_a_look_that_cannot_be_written_ends_no_lesson(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Trial._look

    def full(trial: Trial, step: int, run_dir: Path) -> Iterator[Event]:
        if step == 4:
            raise StorageError("Could not write 'looks': the disk is full.")
        yield from look(trial, step, run_dir)

    monkeypatch.setattr(Trial, "_look", full)
    probe = Scripted(SCORES)
    events = list(learn(config(pictures, tmp_path / "fox.safetensors"), bundle, tmp_path / "run", probe=probe))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said == ["Could not write 'looks': the disk is full. Step 4 is not scored; the run goes on."]
    assert probe.looked == [2, 6]


def test_memory_that_a_look_lacks_is_no_end(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(trial: Trial, step: int, run_dir: Path) -> Iterator[Event]:
        raise OutOfMemory("Drawing 4 picture(s) at once does not fit into memory.", hint="Use a smaller size.")
        yield

    chosen = config(pictures, tmp_path / "fox.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "_look", large)
        with pytest.raises(OutOfMemory) as caught:
            list(learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES)))
    assert caught.value.hint is not None and "Step 2 is saved" in caught.value.hint
    assert "'--resume --no-verdict' goes on" in caught.value.hint
    list(learn(chosen, bundle, tmp_path / "run", resume=True))
    assert chosen.output.is_file()


def test_weights_that_are_gone_are_missed(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    list(learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES)))
    (tmp_path / "run" / LOOKS / "step-00000004/learned-unet.safetensors").unlink()
    with pytest.raises(CannotResume, match=r"for step 4, but '.*step-00000004/learned-unet.safetensors' is gone"):
        list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=Scripted(SCORES)))


def test_other_bounds_are_refused_where_their_best_step_lost_its_weights(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors")
    run = learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES))
    for event in run:
        if getattr(event, "step", 0) == 5:
            break
    run.close()
    with pytest.raises(CannotResume) as caught:
        list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=Scripted({2: 0.9, 4: 0.1, 6: 0.5})))
    assert caught.value.message == (
        "By the bounds given now step 2 is the best so far, but its weights are gone; by those of then step 4 was the "
        "best, and only its weights were kept."
    )
    assert "--min-prompt, --max-drift" in str(caught.value)
    probe = Scripted({2: 0.1, 4: 0.4, 6: 0.5})
    list(learn(chosen, bundle, tmp_path / "run", resume=True, probe=probe))
    assert probe.looked == [6] and load_concept(chosen.output).lineage["steps"] == 6


def test_where_all_weights_learn_the_chosen_ones_are_written(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e-3, weight_decay=0.0)
    chosen = config(pictures, tmp_path / "fox", method="dreambooth", rank=METHODS["dreambooth"].rank, optim=optim)
    list(learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES)))
    saved = read_safetensors(tmp_path / "run/checkpoints/step-00000004/learned-unet.safetensors")
    (file,) = (tmp_path / "fox/unet").glob("*.safetensors")
    written = read_safetensors(file)
    assert all(torch.equal(saved[name].half(), written[name].half()) for name in set(saved) & set(written))
    assert set(saved) & set(written)


ALL_WEIGHTS: dict[str, Any] = {"method": "dreambooth", "optim": OptimConfig(lr=1e-2, weight_decay=0.0)}


def test_a_look_at_all_weights_sees_what_the_file_draws(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors", **ALL_WEIGHTS, preview_prompts=("a <fox>",))
    chosen = chosen.model_copy(update={"loop": chosen.loop.model_copy(update={"preview_every": 4})})
    events = list(learn(chosen, bundle, tmp_path / "run", probe=Scripted(SCORES)))
    concept, pipeline = load_concept(chosen.output), Pipeline(bundle)
    assert concept.lineage["steps"] == 4 and concept.lineage["change_held"] < 1
    with pipeline.using((concept, 1.0)):
        drawn = content_hash({"latents": latents(pipeline, "a <fox>")})
        sheet = save_sheet([pipeline.images(["a <fox>"], range(4), PREVIEW)], tmp_path / "sheet.png")
    assert (tmp_path / "run" / LOOKS / "step-00000004/scores.json").read_text() == drawn
    shown = next(event.path for event in events if isinstance(event, Preview) and event.step == 4)
    assert shown.read_bytes() == sheet.read_bytes()

    changes = {**ALL_WEIGHTS, "rank": METHODS["dreambooth"].rank}  # the same weights, drawn with as they are
    base = config(pictures, tmp_path / "fox", **changes)
    list(learn(base, bundle, tmp_path / "base", probe=Scripted(SCORES)))
    assert (tmp_path / "base" / LOOKS / "step-00000004/scores.json").read_text() != drawn


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_looks_through_factors_leave_the_weights_as_they_are(
    ema: float, bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    changes = {**ALL_WEIGHTS, "ema": EmaConfig(decay=ema)}
    for name, probe in (("seen", Scripted(SCORES)), ("unseen", None)):
        chosen = config(pictures, tmp_path / f"{name}.safetensors", **changes)
        list(learn(chosen, bundle, tmp_path / name, probe=probe))
    seen, unseen = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "checkpoints/step-00000006").glob("*.safetensors")}
        for name in ("seen", "unseen")
    )
    assert seen == unseen and {"learned-unet.safetensors", "learned-text_encoder.safetensors"} <= set(seen)
    parted = config(pictures, tmp_path / "parted.safetensors", **changes)
    run = learn(parted, bundle, tmp_path / "parted", probe=Scripted(SCORES))
    next(event for event in run if isinstance(event, Progress) and event.phase == "step 4")
    run.close()
    list(learn(parted, bundle, tmp_path / "parted", resume=True, probe=Scripted(SCORES)))
    assert parted.output.read_bytes() == (tmp_path / "seen.safetensors").read_bytes()


def test_no_lesson_ends_before_all_vectors_have_joined(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    word = {"method": "textual-inversion", "rank": METHODS["textual-inversion"].rank}
    for name, joining, last in (("at-once", {}, 2), ("joining", {"num_vectors": 3, "progressive_steps": 2}, 6)):
        chosen = config(pictures, tmp_path / f"{name}.safetensors", **word, **joining)
        judge = Scripted({2: 0.9, 4: 0.5, 6: 0.1}, stop_after=2)
        list(learn(chosen, bundle, tmp_path / name, probe=judge))
        assert max(judge.looked) == last, name
