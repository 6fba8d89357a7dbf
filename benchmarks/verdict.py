"""Is the step that a verdict names near the truth? Lessons on subjects whose true pictures are known.

Every saved step draws the prompts of the benchmark, which the verdict never sees, and the distance of its pictures from
the true ones is measured. The regret of a way to choose is how much further from the truth its step is than the nearest
one: told are that of the verdict, of the last step, of any step, and of the rule with other bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.budget import offer_budget, run_on_budget
from benchmarks.options import parser
from benchmarks.paper import scorer_of
from benchmarks.regret import DISTANCES, DRIFT_BOUNDS, Lesson, by_bounds, choices
from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.data.benchmark.schema import open_benchmark
from sfumato.data.images import to_pixels
from sfumato.errors import ConfigError, TrainingError
from sfumato.evaluation.characters import Scorer, cases_of
from sfumato.evaluation.markdown_table import markdown_table
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.trial import BASELINE, Case, Trial, in_turns
from sfumato.events import Artifact, Done, Event, Metric, Notice, Table, Verdict
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.formats.bundle import Bundle, load_bundle
from sfumato.operations.benchmark_report import facts_of
from sfumato.operations.learn import is_result, judge, lesson_config
from sfumato.operations.stream import Events
from sfumato.operations.trials import (
    CLASS,
    Arm,
    check_methods,
    drawing_of,
    fitting,
    jobs_of,
    lesson_of,
    texts_of,
)
from sfumato.pipeline import Pipeline
from sfumato.requests import LearnRequest
from sfumato.runtime.json_values import json_value
from sfumato.training.personalise import learn

_OFFERED = (
    *("base", "methods", "subjects", "prompts", "pictures", "steps", "batch_size", "lr", "num_class_images"),
    *("draw_steps", "seed", "output"),
)
_USUAL = {"output": "out/verdict", "methods": "lora"}
_TINY = {
    "subjects": 1,
    "prompts": 2,
    "pictures": 1,
    "steps": 2,
    "batch_size": 1,
    "num_class_images": 1,
    "draw_steps": 1,
}


class Witness:
    """A judge of a lesson that also lets every saved step draw what the benchmark asks for.

    Args:
        probe: The judge.
        case: The subject.
        request: How many pictures, and how they are drawn.
    """

    def __init__(self, probe: SubjectProbe, case: Case, request: BenchmarkRequest) -> None:
        self.probe, self.case, self.request = probe, case, request
        self.trials: list[Trial] = []

    def texts(self) -> list[str]:
        """Return everything that the verdict asks for."""
        return self.probe.texts()

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        """Look at the base, and let it draw, the subject described in words."""
        yield from self.probe.begin(pipeline)
        self._draw(pipeline, BASELINE)

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        """Score a saved step, and let it draw."""
        with drawing as pipeline:
            yield from self.probe.look(step, nullcontext(pipeline), folder)
            self._draw(pipeline, str(step))

    def recall(self, step: int, folder: Path) -> None:
        """Read the scores of a step."""
        self.probe.recall(step, folder)

    def forget(self, step: int) -> None:
        """Forget a step whose look could not be finished."""
        self.probe.forget(step)

    def leader(self) -> int:
        """Return the best step so far."""
        return self.probe.leader()

    def settled(self) -> str | None:
        """Let every lesson go on to its end."""
        return None

    def verdict(self) -> Verdict:
        """Return the step to use."""
        return self.probe.verdict()

    def _draw(self, pipeline: Pipeline, name: str) -> None:
        """Draw every prompt with the same seeds, whatever the step."""
        asked = texts_of(self.case, BASELINE if name == BASELINE else None)
        jobs, seeds = jobs_of(self.request, self.case, asked)
        images = pipeline.images([asked[prompt] for prompt, _ in jobs], seeds, drawing_of(self.request))
        drawn = {
            prompt: [to_pixels(i) for i, (p, _) in zip(images, jobs, strict=True) if p == prompt] for prompt in asked
        }
        shown = drawn.pop(CLASS)
        self.trials.append(Trial(self.case, name, drawn, shown))


def verdict(request: BenchmarkRequest, saves: int, kept_prompts: Path | None) -> Events:
    """Run lessons and write `verdict.json` and `verdict.md`.

    Args:
        request: Benchmark, base and budget.
        saves: Saved steps of a lesson.
        kept_prompts: Prompts of the verdict; its usual ones if not given.

    Yields:
        The events of lessons, the tables, the files and `Done`.

    Raises:
        ConfigError: Fewer than one saved step is asked for.
        SfumatoError: The benchmark, the base or a lesson is not usable.
        TrainingError: It was told to stop.
    """
    started = time.perf_counter()
    if saves < 1:
        raise ConfigError(f"--saves: given {saves}; needed a whole number from 1.", field="saves")
    check_methods(request)
    benchmark = open_benchmark(request.folder)
    cases = in_turns(cases_of(request.folder, benchmark), request.subjects)
    bundle, scorer = load_bundle(request.base), scorer_of(request, benchmark)
    wanted = {"verdict": True, "early_stop": False, "verdict_prompts": kept_prompts}
    arms = [Arm.of_method(name, request) for name in request.methods]
    arms = [Arm(arm.label, {**arm.settings, **wanted}) for arm in arms]
    cases = yield from fitting(request, cases, arms, bundle)
    lessons: list[Lesson] = []
    for case in cases:
        for arm in arms:
            with TemporaryDirectory() as folder:
                lesson = lesson_of(request, case, arm, Path(folder) / "concept.safetensors")
                every = -(-lesson_config(lesson, bundle).loop.steps // saves)
                lesson = lesson.model_copy(update={"save_every": every})
                lessons.append((yield from _judged(request, case, arm, lesson, bundle, scorer)))
            yield Notice(0, _line(lessons[-1]))
    facts = facts_of(request, bundle, {"seed": benchmark.seed, "primer": benchmark.primer})
    yield from _written(lessons, facts, request.output)
    yield Done(time.perf_counter() - started, {"lessons": len(lessons)})


def _judged(
    request: BenchmarkRequest, case: Case, arm: Arm, lesson: LearnRequest, bundle: Bundle, scorer: Scorer
) -> Generator[Event, None, Lesson]:
    """Run one lesson and compare every saved step with the truth."""
    config = lesson_config(lesson, bundle)
    probe = judge(lesson, pictures=config.pictures)
    assert probe is not None
    witness = Witness(probe, case, request)
    assert lesson.output is not None
    is_finished = False
    for event in learn(config, bundle, lesson.output.with_suffix(".run"), probe=witness):
        is_finished = is_finished or is_result(event)
        if isinstance(event, Done) and "asked_to_stop" in event.info:
            is_finished = False
        if isinstance(event, Metric | Notice):
            yield event
    if not is_finished:
        raise TrainingError(
            f"The lesson for {case.name} was stopped, and the benchmark with it.",
            hint="It keeps nothing of a lesson: the same command starts anew.",
        )
    measured = {
        name: {column: fmean(rows[column]) for column in DISTANCES}
        for name, rows in scorer.rows(witness.trials).items()
        if DISTANCES[0] in rows
    }
    in_words = measured.pop(BASELINE)
    steps = {int(name): values for name, values in measured.items()}
    return Lesson(case.name, arm.label, in_words, steps, probe.candidates(), probe.leader())


def _line(lesson: Lesson) -> str:
    """Say how one lesson went."""
    column = DISTANCES[0]
    near = min(lesson.steps, key=lambda step: lesson.steps[step][column])
    course = ", ".join(f"{step}: {values[column]:.3f}" for step, values in sorted(lesson.steps.items()))
    return (
        f"{lesson.subject}, {lesson.method}: from the truth in words {lesson.in_words[column]:.3f}; by step {course}; "
        f"the verdict names {lesson.chosen}, nearest is {near}."
    )


def _written(lessons: Sequence[Lesson], facts: dict[str, object], folder: Path) -> Iterator[Event]:
    """Show the tables, and write them with all numbers."""
    titles = {"truth_features": "features", "truth_perceptual": "perceptual"}
    found = [(choice.name, *(choice.show(column) for column in DISTANCES)) for choice in choices(lessons)]
    title = f"Regret over {len(lessons)} lessons: how much further from the truth than the nearest step"
    tables = [Table(title, ("step", *(titles[column] for column in DISTANCES)), tuple(found))]
    for column in DISTANCES:
        tables.append(
            Table(
                f"Regret in {titles[column]} of the rule with other bounds: least prompt fidelity, largest drift",
                ("prompt", *(f"drift {drift:g}" for drift in DRIFT_BOUNDS)),
                tuple((f"{p:g}", *(f"{value:.4f}" for value in row)) for p, row in by_bounds(lessons, column)),
            )
        )
    yield from tables
    content = {**facts, "lessons": [asdict(lesson) for lesson in lessons], "tables": [asdict(t) for t in tables]}
    lines = ["# Is the step that a verdict names near the truth?", ""]
    for table in tables:
        lines += [table.title, "", *markdown_table(table.columns, table.rows, texts=len(table.columns)), ""]
    lines += [f"- {_line(lesson)}" for lesson in lessons]
    for name, text in (("verdict.json", json.dumps(json_value(content), indent=1)), ("verdict.md", "\n".join(lines))):
        atomic_write_bytes(folder / name, (text + "\n").encode())
        yield Artifact(folder / name, "report")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    made = parser("verdict", __doc__)
    offer_budget(made, _OFFERED)
    made.add_argument("--saves", type=int, default=5, help="most saved steps of each lesson (default: 5)")
    made.add_argument("--verdict-prompts", type=Path, metavar="FILE", help="prompts of the verdict, one a line")
    return made.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the lessons and print what they say.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 2 when something given is not usable.
    """
    options = _options(words)
    return run_on_budget(
        "verdict",
        options,
        _OFFERED,
        _USUAL,
        _TINY,
        lambda request: verdict(request, options.saves, options.verdict_prompts),
    )


if __name__ == "__main__":
    sys.exit(main())
