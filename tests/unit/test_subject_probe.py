"""The whole way from pictures to a verdict, with a painter in place of a base: what he paints decides what is found."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from painted_lesson import CLASS, COLOURS, PROMPTS, SUBJECT, Grid, Painter, paint, random_eye, write_photos
from sfumato.data.masks import MaskSource
from sfumato.errors import CannotResume, CheckpointError
from sfumato.evaluation.encoders import Encoders, NamedEncoder
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.scores import columns
from sfumato.evaluation.verdict import Rule
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.evaluation.verdict_report import write_report
from sfumato.events import Artifact, Event, Metric, Notice


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), SUBJECT)


@pytest.fixture(scope="module")
def eye() -> FeatureExtractor:
    return random_eye()


def judged(
    photos: Path,
    eye: FeatureExtractor,
    folder: Path,
    painters: dict[int, Painter],
    *,
    texts: bool = False,
    **asked: Any,
) -> tuple[SubjectProbe, list[Event]]:
    """Let a probe look at what painters paint."""
    grid = NamedEncoder("grid", Grid())
    plan = VerdictPlan.model_validate({"prompts": PROMPTS, **asked})
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
    probe, events = judged(photos, eye, tmp_path, painters, texts=texts, seeds=3)
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


@pytest.mark.parametrize("texts", [False, True])
def test_a_step_that_draws_what_the_base_draws_follows_prompts_as_it_does(
    texts: bool, photos: Path, eye: FeatureExtractor, tmp_path: Path
) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.0)}, texts=texts, seeds=3)
    assert probe.steps[50].prompt == probe.yardstick.base.prompt
    assert columns(probe.steps[50], probe.yardstick)["prompt_share"][0] == 1


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


def test_another_rule_goes_on_with_the_same_scores(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.4), 100: Painter(0.5, leaks=True)})
    assert probe.verdict().step == 50
    other, _ = judged(photos, eye, tmp_path / "other", {}, rule=Rule(max_drift=1, patience=0))
    for step in (50, 100):
        other.recall(step, tmp_path / str(step))
    assert other.steps == probe.steps and other.verdict().step == 100


def test_what_was_scored_otherwise_is_named_in_words(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    judged(photos, eye, tmp_path, {50: Painter(0.4)})
    changed = {"rule": Rule(max_drift=1), "seeds": 3, "drawing": {"steps": 9, "batch_size": 4}}
    other, _ = judged(photos, eye, tmp_path / "other", {}, **changed)
    with pytest.raises(CannotResume) as caught:
        other.recall(50, tmp_path / "50")
    assert caught.value.message == (
        "Step 50 was scored otherwise than is asked for now: pictures of each prompt 2, now 3; sampler steps 8, now 9."
    )
    assert caught.value.field == "verdict_seeds" and "--no-verdict" in str(caught.value)
    seeded, _ = judged(photos, eye, tmp_path / "seeded", {}, seed=7)
    with pytest.raises(CannotResume, match=r"Step 50 was .* for now: plan\.seed 0, now 7\.") as caught:
        seeded.recall(50, tmp_path / "50")
    assert caught.value.field is None, "no option sets it"


def test_scores_of_another_judge_are_not_mixed_with_new_ones(
    photos: Path, eye: FeatureExtractor, tmp_path: Path
) -> None:
    judged(photos, eye, tmp_path, {50: Painter(0.4)})
    file = tmp_path / "50/scores.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "scale": [value - 0.1 for value in content["scale"]]}))
    other, _ = judged(photos, eye, tmp_path / "other", {})
    with pytest.raises(CannotResume, match="Step 50 was scored by another judge") as caught:
        other.recall(50, tmp_path / "50")
    assert caught.value.field == "judge_pictures"
    del content["scale"], content["asked"]["masks"]
    file.write_text(json.dumps(content))
    other.recall(50, tmp_path / "50")  # of a version before
    content["asked"]["masks"] = "alpha"
    file.write_text(json.dumps(content))
    with pytest.raises(CannotResume, match="for now: masks 'alpha', now 'none'"):
        other.recall(50, tmp_path / "50")


def test_what_masks_leave_out_is_not_compared_with(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "masked").mkdir()
    for path in photos.iterdir():
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)  # a ground that is not plain
        pixels[8:24, 8:24] = np.asarray(Image.open(path))[8:24, 8:24]
        Image.fromarray(pixels).save(tmp_path / "masked" / path.name)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 8:24] = 255
        Image.fromarray(mask).save(tmp_path / "masked" / f"{path.stem}.mask.png")
    encoders = Encoders(NamedEncoder("grid", Grid()))
    choices: tuple[MaskSource, ...] = ("none", "file")
    found = {}
    for masks in choices:
        plan = VerdictPlan(prompts=PROMPTS)
        probe = SubjectProbe(plan, tmp_path / "masked", "<fox>", "fox", lambda: (encoders, eye), masks)
        list(probe.begin(Painter()))
        (tmp_path / masks).mkdir()
        list(probe.look(50, nullcontext(Painter(1.0)), tmp_path / masks))
        found[masks] = float(np.mean(probe.steps[50].fidelity))
    assert found["file"] > 0.9 > 0.6 > found["none"], "the subject on white, and on noise"


def bursts(photos: Path, folder: Path, copies: int) -> Path:
    """Write every photograph, and beside it the same with a little noise."""
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        pixels = np.asarray(Image.open(path)).astype(np.int16)
        for number in range(copies + 1):
            noise = np.random.default_rng(number).integers(-3, 4, pixels.shape) if number else 0
            Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(folder / f"{path.stem}-{number}.png")
    return folder


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_bursts_do_not_switch_the_alarm_off(copies: int, photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    known = [np.asarray(Image.open(path)) for path in sorted(photos.iterdir())]
    folder = bursts(photos, tmp_path / "bursts", copies)
    probe, events = judged(folder, eye, tmp_path, {100: Painter(copied=known)})
    assert "6 of 6 pictures in new settings" in probe.verdict().alarms[0]
    alone, _ = judged(photos, eye, tmp_path / "alone", {})
    assert probe.yardstick.kin == alone.yardstick.kin
    said = [event.message for event in events if isinstance(event, Notice)][1:]
    note = (
        f"Only 3 of the {3 * copies + 3} pictures of the subject are different, the others are nearly the same as one "
        "of these; how near a copy lies is measured among the different ones."
    )
    assert said == ([note] if copies else [])


def test_twins_alone_are_as_a_single_picture(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/0.png").write_bytes((photos / "0.png").read_bytes())
    single, _ = judged(tmp_path / "one", eye, tmp_path / "single", {})
    (tmp_path / "one/1.png").write_bytes((photos / "0.png").read_bytes())
    probe, events = judged(tmp_path / "one", eye, tmp_path, {})
    assert probe.yardstick.kin == single.yardstick.kin and probe.yardstick.kin.source == "class"
    assert (
        "All 2 pictures of the subject are nearly the same; how near a copy lies is measured against what the base "
        "draws of the class, as for a single picture."
    ) in [event.message for event in events if isinstance(event, Notice)]


def test_where_copies_cannot_be_told_that_is_said(eye: FeatureExtractor, tmp_path: Path) -> None:
    """The base draws the subject already, to the pixel."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(Painter().picture("a fox", 0)).save(tmp_path / "photos/0.png")
    probe, events = judged(tmp_path / "photos", eye, tmp_path, {}, class_seeds=2)
    note = "Copies cannot be told: the picture and the base's class lie at no distance from each other."
    assert probe.yardstick.kin.is_blind
    assert note in [event.message for event in events if isinstance(event, Notice)]


def test_a_report_leaves_open_what_a_step_could_not_tell(photos: Path, eye: FeatureExtractor, tmp_path: Path) -> None:
    """At step 50 the word has gained nothing, so whether it leaks cannot be told."""
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.0), 100: Painter(1.0)})
    files = [event.path.name for event in write_report(probe, tmp_path / "report") if isinstance(event, Artifact)]
    assert files == ["report.html", "report.png"]
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("<td>–</td>") == 1 and "<b>Use step 100.</b>" in page
    content = json.loads((tmp_path / "report/scores.json").read_text())
    assert ["leaks" in step["means"] for step in content["steps"]] == [False, True]


@pytest.mark.parametrize(("prompts", "seeds", "shown"), [(3, 60, 33), (40, 2, 34), (3, 2, 12)])
def test_no_picture_of_a_report_is_too_small(
    prompts: int, seeds: int, shown: int, eye: FeatureExtractor, photos: Path, tmp_path: Path
) -> None:
    probe, _ = judged(photos, eye, tmp_path, {50: Painter(0.4)})
    many = [*PROMPTS, *(f"a {{}} on {number}" for number in range(37))][:prompts]
    plan = VerdictPlan(prompts=tuple(many), seeds=seeds)
    whole = prompts * seeds + 6
    probe.plan, picture = plan, probe.drawn[50][0]
    probe.drawn = {0: [picture] * (whole - 3), 50: [picture] * whole}
    probe.steps[50] = replace(probe.steps[50], nearest=probe.steps[50].nearest[:1] * (whole - 6))
    list(write_report(probe, tmp_path / "report"))
    page = (tmp_path / "report/report.html").read_text()
    sides = [float(side) for side in re.findall(r'<image [^>]*width="([^"]+)"', page)]
    assert min(sides) >= 24 and len(sides) == (2 * shown - 3) + (shown - 6) + len(probe.subject)
    said = f"Shown are {shown} of the {whole} pictures of a row; all of them are scored."
    assert (said in page) == (shown < whole)


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
