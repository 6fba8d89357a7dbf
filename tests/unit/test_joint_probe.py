"""Two subjects that are learned together are judged together; what a painter paints of each decides what is found."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from painted_lesson import OTHER, PROMPTS, SUBJECT, Grid, Painter, random_eye, write_photos
from sfumato.errors import CannotResume, CheckpointError
from sfumato.evaluation.encoders import Encoders, NamedEncoder
from sfumato.evaluation.joint_probe import JointProbe
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.verdict import Rule
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.evaluation.verdict_report import write_report
from sfumato.events import Artifact, Event, Metric, Notice, Progress
from sfumato.training.probe import Probe

BOTH = {"<fox>": SUBJECT, "<cat>": OTHER}


class Subjects:
    """Photographs of both subjects, and probes for them."""

    def __init__(self, folder: Path) -> None:
        self.folders = {word: write_photos(folder / word[1:-1], colour) for word, colour in BOTH.items()}
        self.eye = random_eye()

    def probe(self, word: str, seeds: int = 2, rule: Rule | None = None) -> SubjectProbe:
        encoders = Encoders(NamedEncoder("grid", Grid()), NamedEncoder("grid", Grid()))
        plan = VerdictPlan(prompts=PROMPTS, seeds=seeds, rule=rule or Rule())
        return SubjectProbe(plan, self.folders[word], word, word[1:-1], lambda: (encoders, self.eye))

    def joint(self, **asked: int) -> JointProbe:
        return JointProbe([self.probe(word, **asked) for word in BOTH])


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    return Subjects(tmp_path_factory.mktemp("photos"))


@contextmanager
def opened_once(painter: Painter, opened: list[Painter]) -> Iterator[Painter]:
    """Give a painter, as the trainer gives what draws: it can be opened once, and it is told when."""
    assert painter not in opened
    opened.append(painter)
    yield painter


def judged(probe: JointProbe | SubjectProbe, folder: Path, painters: dict[int, Painter]) -> list[Event]:
    """Let a probe look at what painters paint."""
    opened: list[Painter] = []
    events = list(probe.begin(Painter()))
    for step, painter in painters.items():
        (folder / str(step)).mkdir(parents=True)
        events += probe.look(step, opened_once(painter, opened), folder / str(step))
    return events


LESSON = {
    50: Painter(0.3),
    100: Painter({"<fox>": 0.9, "<cat>": 0.5}),
    150: Painter({"<fox>": 1.0, "<cat>": 1.0}, leaks={"<cat>"}),
}


def test_the_step_must_suit_both(subjects: Subjects, tmp_path: Path) -> None:
    """The fox alone would take step 150; there the cat has leaked."""
    alone, joint = subjects.probe("<fox>"), subjects.joint()
    judged(alone, tmp_path / "alone", LESSON)
    assert alone.verdict().step == 150
    events = judged(joint, tmp_path / "both", LESSON)
    assert isinstance(joint, Probe)
    verdict = joint.verdict()
    assert verdict.step == 100 and verdict.alarms == () and 150 in verdict.front
    assert verdict.reason.endswith("Step 150 is nearer to the subjects in the mean, but out by drift of <cat>.")
    parts = joint.candidates()[1].parts
    assert np.mean(parts["<fox>"].fidelity) == pytest.approx(verdict.scores["<fox>/subject_share"], abs=1e-5)
    assert np.mean(parts["<cat>"].fidelity) == pytest.approx(verdict.scores["<cat>/subject_share"], abs=1e-5)
    mean = float(np.mean(joint.candidates()[1].fidelity))
    assert f"({mean:.2f} of the way from the class to the subject, the mean of 2 subjects)" in verdict.reason
    metrics = [event.values for event in events if isinstance(event, Metric)]
    assert len(metrics) == 3 and metrics[1]["verdict/<fox>/copies"] == metrics[1]["verdict/<cat>/copies"] == 0
    phases = {event.phase for event in events if isinstance(event, Progress)}
    assert {"the base, for the verdict, <cat>", "step 50, <fox>, for the verdict"} <= phases


def test_each_subject_is_measured_as_if_it_were_alone(subjects: Subjects, tmp_path: Path) -> None:
    joint = subjects.joint()
    judged(joint, tmp_path / "both", LESSON)
    for number, word in enumerate(BOTH, start=1):
        alone = subjects.probe(word)
        judged(alone, tmp_path / word[1:-1], LESSON)
        assert alone.steps == joint.subjects[number - 1].steps
        for step in LESSON:
            for file in ("scores.json", "pictures.png"):
                kept = tmp_path / f"both/{step}/subject-{number}/{file}"
                assert kept.read_bytes() == (tmp_path / word[1:-1] / str(step) / file).read_bytes()


def test_alarms_and_notices_name_the_subject(subjects: Subjects, tmp_path: Path) -> None:
    photos = sorted(subjects.folders["<cat>"].iterdir())
    known = [np.asarray(Image.open(path)) for path in photos]
    joint = subjects.joint()
    judged(joint, tmp_path / "both", {100: Painter(1.0, copied=known)})
    fox, cat = (alarm for alarm in joint.verdict().alarms if "Memorised" in alarm)
    assert cat.startswith("<cat>: Memorised (rule 'closer than kin'): 6 of 6 pictures")
    assert fox.startswith("<fox>: Memorised (rule 'closer than kin'): 6 of 6 pictures")
    assert re.search(r"Copied: \d\.png of <cat> \(\d\), ", fox), "what the fox draws are the pictures of the cat"
    assert list(write_report(joint, tmp_path / "report")), "the nearest picture of the fox is one of the cat"
    (tmp_path / "one").mkdir()
    (tmp_path / "one/0.png").write_bytes(photos[0].read_bytes())
    single = subjects.probe("<cat>", seeds=3)
    single.folder = tmp_path / "one"
    events = list(JointProbe([subjects.probe("<fox>", seeds=3), single]).begin(Painter()))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said == ["<cat>: There is one picture of the subject; its fidelity to itself is taken as 1."]


def test_one_subject_that_leaks_ends_the_run_for_both(subjects: Subjects, tmp_path: Path) -> None:
    leaks = {"knows": {"<fox>": 0.9, "<cat>": 0.9}, "leaks": {"<cat>"}}
    joint = subjects.joint()
    judged(joint, tmp_path / "a", {50: Painter(0.9), 100: Painter(**leaks), 150: Painter(**leaks)})
    assert joint.settled() == (
        "No later step can win: steps 100, 150 lie outside the bounds with their whole intervals, and none of them is "
        "provably nearer to any subject than step 50."
    )
    rising = {50: Painter({"<fox>": 0.3, "<cat>": 0.9}), 100: Painter(**leaks), 150: Painter(**leaks)}
    joint = subjects.joint()
    judged(joint, tmp_path / "b", rising)
    assert joint.settled() is None  # the fox is still learned


def test_recalled_scores_are_the_same(subjects: Subjects, tmp_path: Path) -> None:
    joint, other = subjects.joint(), subjects.joint()
    judged(joint, tmp_path, LESSON)
    list(other.begin(Painter()))
    for step in LESSON:
        other.recall(step, tmp_path / str(step))
    assert other.verdict() == joint.verdict() and other.leader() == 100
    changed = subjects.joint(seeds=3)
    list(changed.begin(Painter()))
    with pytest.raises(CannotResume, match="for now: pictures of each prompt 2, now 3"):
        changed.recall(50, tmp_path / "50")
    (tmp_path / "50/subject-2/scores.json").unlink()
    with pytest.raises(CheckpointError, match=r"The scores of step 50 in '.*subject-2' cannot be read"):
        other.recall(50, tmp_path / "50")


def test_the_report_has_a_section_for_each_subject(subjects: Subjects, tmp_path: Path) -> None:
    joint = subjects.joint()
    judged(joint, tmp_path, LESSON)
    files = [event.path.name for event in write_report(joint, tmp_path / "report") if isinstance(event, Artifact)]
    assert files == ["report.html", "report.png"]
    page = (tmp_path / "report/report.html").read_text()
    assert "<h1>Verdict on &lt;fox&gt; and &lt;cat&gt;</h1><p><b>Use step 100.</b>" in page
    assert page.count("<h1>&lt;fox&gt;</h1><h2>Curves and pictures</h2>") == 1
    assert page.count("<h1>&lt;cat&gt;</h1><h2>Curves and pictures</h2>") == 1
    content = json.loads((tmp_path / "report/scores.json").read_text())
    assert content["step"] == 100 and [one["placeholder"] for one in content["subjects"]] == list(BOTH)
    assert all([step["step"] for step in one["steps"]] == [50, 100, 150] for one in content["subjects"])
    alone = subjects.probe("<fox>")
    judged(alone, tmp_path / "alone", LESSON)
    list(write_report(alone, tmp_path / "single"))
    single = json.loads((tmp_path / "single/scores.json").read_text())
    assert {key: content["subjects"][0][key] for key in ("base", "kin", "steps", "asked")} == {
        key: single[key] for key in ("base", "kin", "steps", "asked")
    }
    with Image.open(io.BytesIO((tmp_path / "report/report.png").read_bytes())) as sheet:
        assert sheet.width == 2160 and sheet.height > 2 * 1000
