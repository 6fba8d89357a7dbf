"""The whole way from pictures to a verdict, with a painter in place of a base: what he paints decides what is found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.errors import CheckpointError
from sfumato.evaluation.encoders import Encoders, NamedEncoder
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.scores import columns
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.evaluation.verdict_report import write_report
from sfumato.events import Artifact, Event, Metric, Notice
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.pipeline import Drawn, Pipeline, Settings

COLOURS = {"purple": (130, 60, 170), "green": (60, 160, 70), "grey": (140, 140, 140), "white": (255, 255, 255)}
SUBJECT, CLASS = (230, 30, 40), (30, 40, 60)
PROMPTS = ("a {} on purple", "a {} on green", "a {} on grey")


def paint(ground: tuple[int, int, int], thing: tuple[int, int, int], seed: int, stripes: bool) -> np.ndarray:
    """A thing in the middle, somewhat moved by the seed; the subject has stripes."""
    picture = np.full((32, 32, 3), ground, np.uint8)
    at = 8 + seed % 3
    picture[8:24, at : at + 16] = thing
    if stripes:
        picture[8:24:4, at : at + 16] = (250, 220, 60)
    return picture


class Painter(Pipeline):
    """Paints what a step of a lesson would: `obeys` the prompt or not, the class `leaks`, photographs are `copied`."""

    def __init__(
        self, knows: float = 0, *, obeys: bool = True, leaks: bool = False, copied: Sequence[Any] = ()
    ) -> None:
        self.bundle: Any = SimpleNamespace(native_size=32)
        self.knows, self.obeys, self.leaks, self.copied = knows, obeys, leaks, copied

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], settings: Any = None, **_: Any) -> Iterator[Event]:
        assert isinstance(settings, Settings)
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            yield Drawn(index, prompt, seed, to_tensor(self.picture(prompt, seed)))

    def picture(self, prompt: str, seed: int) -> np.ndarray:
        word = "<fox>" in prompt
        if self.copied and word:
            return self.copied[seed % len(self.copied)]
        ground = next((COLOURS[name] for name in COLOURS if name in prompt and self.obeys), COLOURS["white"])
        share = self.knows if word or self.leaks else 0.0
        thing = tuple(round((1 - share) * a + share * b) for a, b in zip(CLASS, SUBJECT, strict=True))
        return paint(ground, thing, seed, stripes=share > 0.5)  # type: ignore[arg-type]


class Grid:
    """Features that are the colours of a coarse grid, around grey; a text is the colour that it names, everywhere."""

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        rows = [torch.from_numpy(picture[1::3, 1::3].astype(np.float32)).flatten() - 128 for picture in pictures]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        grounds = [next(COLOURS[name] for name in COLOURS if name in text) for text in texts]
        return self.embed_pictures([np.full((32, 32, 3), ground, np.uint8) for ground in grounds])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, ground in enumerate(((52, 112, 224), (252, 216, 62), (20, 150, 150))):
        Image.fromarray(paint(ground, SUBJECT, index, True)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def eye() -> FeatureExtractor:
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return FeatureExtractor(network, side=32)


def judged(
    photos: Path, eye: FeatureExtractor, folder: Path, painters: dict[int, Painter], *, texts: bool = False
) -> tuple[SubjectProbe, list[Event]]:
    """Let a probe look at what painters paint."""
    grid = NamedEncoder("grid", Grid())
    plan = VerdictPlan(prompts=PROMPTS)
    encoders = Encoders(grid, grid if texts else None)
    probe = SubjectProbe(plan, photos, "<fox>", "fox", lambda: (encoders, eye))
    events = list(probe.begin(Painter()))
    for step, painter in painters.items():
        (folder / str(step)).mkdir(parents=True)
        events += probe.look(step, nullcontext(painter), folder / str(step))
    return probe, events


@pytest.mark.parametrize("texts", [False, True])
def test_a_healthy_lesson(texts: bool, photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    painters = {50: Painter(0.4), 100: Painter(1.0), 150: Painter(1.0, obeys=False)}
    probe, events = judged(photos, eye, tmp_path, painters, texts=texts)
    verdict = probe.verdict()
    assert verdict.step == 100 and verdict.alarms == ()
    assert verdict.scores["drift_share"] == pytest.approx(0, abs=1e-6) and verdict.scores["leaks"] == 0
    assert verdict.scores["prompt_share"] > 0.8 and verdict.scores["subject_share"] > 0.8
    assert 150 not in verdict.front or "prompt fidelity" in verdict.reason
    assert columns(probe.steps[150], probe.yardstick)["prompt_share"][0] < 0.3
    assert [event.step for event in events if isinstance(event, Metric)] == [50, 100, 150]
    said = [event.message for event in events if isinstance(event, Notice)]
    note = "Prompt fidelity is measured against what the base draws for the same prompts, not by texts."
    assert said == ([] if texts else [note])


def test_a_memorised_set_raises_the_alarm(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    known = [np.asarray(Image.open(path)) for path in sorted(photos.iterdir())]
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.6), 100: Painter(copied=known)})
    assert any("Memorised" in alarm for alarm in probe.yardstick.alarms(probe.steps[100]))
    assert probe.verdict().step == 50
    alone, _ = judged(photos, eye, tmp_path / "alone", {100: Painter(copied=known)})
    assert "6 of 6 pictures in new settings" in alone.verdict().alarms[0]
    assert alone.verdict().reason.startswith("No saved step keeps the bounds")


def test_a_leaking_lesson_raises_the_alarm_and_drifts(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.4), 100: Painter(1.0, leaks=True)})
    assert columns(probe.steps[100], probe.yardstick)["drift_share"][0] > 0.8
    assert [alarm.split()[0] for alarm in probe.yardstick.alarms(probe.steps[100])] == ["Leaked"]
    verdict = probe.verdict()
    assert verdict.step == 50 and verdict.reason.endswith("Step 100 is nearer to the subject, but out by drift.")


def test_a_run_that_only_leaks_further_ends(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    painters = {50: Painter(1.0), 100: Painter(1.0, leaks=True), 150: Painter(1.0, leaks=True)}
    probe, _ = judged(photos, eye, tmp_path, painters)
    assert "steps 100, 150 lie outside the bounds" in str(probe.settled())


def test_recalled_scores_are_the_same(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.4), 100: Painter(1.0)})
    other, _ = judged(photos, eye, tmp_path / "other", {})
    for step in (50, 100):
        other.recall(step, tmp_path / str(step))
    assert other.verdict() == probe.verdict()
    for a, b in zip(other.drawn[100], probe.drawn[100], strict=True):
        assert np.array_equal(a, b)


def test_a_report_leaves_open_what_a_step_could_not_tell(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    """At step 50 the word has gained nothing, so whether it leaks cannot be told."""
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.0), 100: Painter(1.0)})
    files = [event.path.name for event in write_report(probe, tmp_path / "report") if isinstance(event, Artifact)]
    assert files == ["report.html", "report.png"]
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("<td>–</td>") == 1 and "<b>Use step 100.</b>" in page
    content = json.loads((tmp_path / "report/scores.json").read_text())
    assert ["leaks" in step["means"] for step in content["steps"]] == [False, True]


def test_damaged_scores_are_named(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.4)})
    file = tmp_path / "50" / "scores.json"
    content = json.loads(file.read_text())
    del content["scores"]["word"]
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"The scores of step 50 in '.*50' cannot be read: TypeError"):
        probe.recall(50, tmp_path / "50")


def test_one_picture_and_a_class_that_is_the_subject(eye: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(paint(COLOURS["white"], CLASS, 0, False)).save(tmp_path / "photos/0.png")
    Image.fromarray(paint(COLOURS["white"], SUBJECT, 2, True)).save(tmp_path / "photos/1.png")
    _, events = judged(tmp_path / "photos", eye, tmp_path, {})
    assert any("Drift is left out" in event.message for event in events if isinstance(event, Notice))
    (tmp_path / "photos/0.png").unlink()
    probe, events = judged(tmp_path / "photos", eye, tmp_path, {})
    assert any("There is one picture of the subject" in event.message for event in events if isinstance(event, Notice))
    assert probe.yardstick.kin.source == "class"
