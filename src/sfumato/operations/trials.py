"""Run the trials of a benchmark: each method learns each subject and draws each prompt; what is finished is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from sfumato.benchmark_requests import PRIOR, BenchmarkRequest
from sfumato.data.images import png_bytes, to_pixels
from sfumato.data.listing import list_entries
from sfumato.errors import ConfigError, DataError
from sfumato.evaluation.trial import BASELINE, BASES, Asked, Case, Cost, PictureFiles, Trial, in_turns
from sfumato.events import Event, Notice, Progress, Step
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import load_concept
from sfumato.operations.learn import lesson_config
from sfumato.operations.measured_lesson import Teach, learn_measured
from sfumato.pipeline import Drawn, Pipeline, Settings
from sfumato.requests import LearnRequest, choices_of
from sfumato.runtime.seeding import derive_seed
from sfumato.runtime.suggestions import did_you_mean
from sfumato.training.methods import METHODS, MethodName

OF_ALL_WEIGHTS = "dreambooth draws with the file of low-rank factors that is nearest to the change of all weights."
"""What a reader of a report must know where a method that learns all weights is in it."""
PLACEHOLDER = "<subject>"
CLASS = "class"
"""Names the plain class among the texts of a subject."""
_BATCH = 8
_NOT_DECIDING = {"folder", "output", "resume", "plan", "memory"}
_MEANT = {"method", "identifier"}
"""Fields that decide by what they mean, not by how they are given."""
_DEFAULTS_OF_METHOD = {"rows", "small", "wide", "schedule", "rank"}
"""Columns of a method that say what its lessons get unless told."""


@dataclass(frozen=True)
class Arm:
    """One way to learn that is tried on every subject.

    Attributes:
        label: What reports call it; no other arm of the same run has it.
        settings: Fields of `LearnRequest`, in place of those that the benchmark gives every lesson.
        by_subject: Further ones for single subjects, by their names.
    """

    label: str
    settings: Mapping[str, object] = field(default_factory=dict)
    by_subject: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @classmethod
    def of_method(cls, name: str, request: BenchmarkRequest) -> Arm:
        """Read a method as `--methods` has it, such as `lora+prior`."""
        weight = request.prior_weight if name.endswith(PRIOR) else 0.0
        return cls(name, {"method": name.removesuffix(PRIOR), "prior_weight": weight})


def check_methods(request: BenchmarkRequest) -> None:
    """Refuse methods that cannot be learned, before any time is spent.

    Raises:
        ConfigError: A name is unknown or comes twice.
    """
    known = choices_of(LearnRequest.model_fields["method"])
    for method in request.methods:
        name = method.removesuffix(PRIOR)
        if name not in known:
            raise ConfigError(
                f"--methods: given {method!r}; needed names out of {', '.join(known)}, each alone or with {PRIOR}.",
                field="methods",
                hint=did_you_mean(name, known),
            )
    has_prior = any(method.endswith(PRIOR) for method in request.methods)
    if not has_prior and request.prior_weight != type(request).model_fields["prior_weight"].default:
        raise ConfigError(
            f"prior_weight is {request.prior_weight} but none of the methods learns beside class pictures.",
            field="prior_weight",
            hint=f"Leave it out, or give a method with {PRIOR}.",
        )
    twice = [method for method in request.methods if request.methods.count(method) > 1]
    if twice:
        raise ConfigError(f"--methods: {twice[0]!r} was given twice; needed: each once.", field="methods")


def notes_on(methods: Sequence[str]) -> list[str]:
    """Return what a reader must know of some methods, as `--methods` has them."""
    return [OF_ALL_WEIGHTS] if any(method.removesuffix(PRIOR) == "dreambooth" for method in methods) else []


def run_trials(
    request: BenchmarkRequest,
    cases: Sequence[Case],
    bundle: Bundle,
    arms: Sequence[Arm] | None = None,
    teach: Teach = learn_measured,
    bases: Sequence[str] = BASES,
) -> Generator[Event, None, list[Trial]]:
    """Run every method on every subject.

    A lesson, and the pictures drawn with it, are kept under names made of everything that decides them: the same
    command goes on where it was interrupted, and another plan in the same folder replaces nothing.

    Args:
        request: Methods and budget.
        cases: The subjects.
        bundle: The base.
        arms: What is tried; the methods of the request if it is not given.
        teach: How a lesson is run.
        bases: Rows of the untrained base, out of `BASES`; none where the request wants no baseline.

    Yields:
        Progress, and the events of the lessons.

    Returns:
        Trials, subject by subject, the rows of the base first.

    Raises:
        ConfigError: A method is unknown, a setting of an arm is not one of a lesson, or no prompt of a subject fits the
            base.
        SfumatoError: A lesson cannot be learned.
    """
    if arms is None:
        check_methods(request)
        arms = _arms_of_methods(request, cases, bundle)
    cases = yield from fitting(request, cases, arms, bundle)
    tried: list[Arm | str] = [*(bases if request.baseline else ()), *arms]
    trials: list[Trial] = []
    pipeline = Pipeline(bundle)
    for case in cases:
        for one in tried:
            trials.append((yield from _trial(request, case, one, pipeline, teach)))
            yield Progress("trials", len(trials), len(cases) * len(tried))
    return trials


def _arms_of_methods(request: BenchmarkRequest, cases: Sequence[Case], bundle: Bundle) -> list[Arm]:
    """Read the methods; one whose lessons are all those of another before it says so in its label."""
    first: dict[tuple[str, ...], str] = {}
    arms = []
    for name in request.methods:
        arm = Arm.of_method(name, request)
        lessons = tuple(_lesson_file(request, case, arm, bundle)[1] for case in cases)
        same = first.setdefault(lessons, name)
        arms.append(arm if same == name else replace(arm, label=f"{name} (the same lesson as {same})"))
    return arms


def fitting(
    request: BenchmarkRequest, cases: Sequence[Case], arms: Sequence[Arm], bundle: Bundle
) -> Generator[Event, None, list[Case]]:
    """Leave out prompts that are too long for the base, for every arm alike, and then those beyond the budget.

    Args:
        request: The budget.
        cases: The subjects.
        arms: What is tried.
        bundle: The base.

    Yields:
        A `Notice` for every subject whose prompts are too long.

    Returns:
        The subjects with the prompts that are left.

    Raises:
        ConfigError: No prompt of a subject fits.
    """
    chosen = []
    for case in cases:
        lessons = [lesson_of(request, case, arm, Path("x.safetensors")) for arm in arms]
        said = {" ".join(["x"] * lesson.num_vectors + [lesson.class_noun]) for lesson in lessons}
        said.add(f"x {case.class_noun}")
        short = [asked for asked in case.asked if _fits(asked, said, bundle)]
        if len(short) < len(case.asked):
            left_out = ", ".join(asked.name for asked in case.asked if asked not in short)
            yield Notice(0, f"{case.name}: too long for base '{bundle.name}' and left out: {left_out}.")
        if not short:
            raise ConfigError(
                f"All {len(case.asked)} prompts of '{case.name}' are too long for base '{bundle.name}', whose texts "
                f"have at most {bundle.tokenizer.context_length} pieces.",
                field="base",
            )
        asked = in_turns(short, request.prompts)
        chosen.append(replace(case, asked=asked))
    return chosen


def _fits(asked: Asked, said: set[str], bundle: Bundle) -> bool:
    """Say whether the base can read a prompt, also with what may be said in the place of the subject."""
    try:
        bundle.tokenizer.encode([asked.words])
        for words in said:
            bundle.tokenizer.encode([asked.text.format(words)])
    except DataError:
        return False
    return True


def _trial(
    request: BenchmarkRequest, case: Case, one: Arm | str, pipeline: Pipeline, teach: Teach
) -> Generator[Event, None, Trial]:
    """Learn and draw, or read what an earlier run has drawn; a name is that of a row of the base, which only draws."""
    label = one if isinstance(one, str) else one.label
    concept, cost, key, folder = None, None, "", _slug(label)
    if isinstance(one, Arm):
        concept, key = _lesson_file(request, case, one, pipeline.bundle)
        cost = yield from _learned(request, case, one, concept, teach)
        folder = concept.parent.name
    texts = texts_of(case, label if concept is None else None)
    settings = drawing_of(request)
    plan = _hash([pipeline.bundle.base_hash, pipeline.bundle.use_hash, key, case.name, request.seed, repr(settings)])
    place = request.output / "pictures" / folder / f"{case.name}-{plan[:8]}"
    stems = {name: f"{name}-{_hash(text)[:6]}" for name, text in texts.items()}
    files = {name: [place / f"{stems[name]}-{number}.png" for number in range(request.pictures)] for name in texts}
    if not all(path.is_file() for paths in files.values() for path in paths):
        used: AbstractContextManager[None] = nullcontext()
        if concept is not None:
            used = pipeline.using((load_concept(concept), 1.0))
        with used:
            yield from _draw(request, case, texts, files, pipeline, settings)
    pictures = {name: PictureFiles(files[name]) for name in texts}
    shown = pictures.pop(CLASS)
    return Trial(case, label, pictures, shown, cost)


def _lesson_file(request: BenchmarkRequest, case: Case, arm: Arm, bundle: Bundle) -> tuple[Path, str]:
    """Name the concept file of a lesson by everything that decides it; also return that as a hash.

    Neither its label nor the name of its method is part of it, only what they mean: arms that ask for the same lesson
    share it, and it lies under the first method of that meaning. Nor is the cache, which changes no result.
    """
    lesson = lesson_of(request, case, arm, Path("x.safetensors")).model_copy(update={"cache": None})
    entries = [
        (entry.name, hashlib.sha256(entry.path.read_bytes()).hexdigest(), entry.caption(""))
        for entry in list_entries(lesson.folder)
    ]
    asked = lesson.model_dump(mode="json", exclude=_NOT_DECIDING | _MEANT)
    config = lesson_config(lesson, bundle)
    usual = config.model_dump(mode="json", exclude=_NOT_DECIDING | _MEANT)  # defaults may change
    meaning = _meaning(lesson.method)
    key = _hash([bundle.base_hash, bundle.use_hash, asked, usual, meaning, config.chosen_identifier, entries])
    method = next(name for name in METHODS if _meaning(name) == meaning)
    folder = _slug(f"{method}{PRIOR if lesson.prior_weight else ''}")
    return request.output / "lessons" / folder / f"{case.name}-{key[:8]}.safetensors", key


def _meaning(method: MethodName) -> list[object]:
    """Return what a method decides by itself; identifier, rate, steps and so on stand in the settings of a lesson."""
    row = METHODS[method]
    return [getattr(row, column.name) for column in fields(row) if column.name not in _DEFAULTS_OF_METHOD]


def lesson_of(request: BenchmarkRequest, case: Case, arm: Arm, output: Path) -> LearnRequest:
    """Write the request of a lesson.

    Args:
        request: The budget that all lessons share.
        case: The subject.
        arm: What this lesson has in their place.
        output: Its file.

    Raises:
        ConfigError: A setting of the arm is not one of a lesson.
    """
    own = {**arm.settings, **arm.by_subject.get(case.name, {})}
    values: dict[str, Any] = {
        "folder": case.folder,
        "placeholder": PLACEHOLDER,
        "class_noun": case.class_noun,
        "base": request.base,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "lr": request.lr,
        **({"num_class_images": request.num_class_images} if own.get("prior_weight") else {}),
        "seed": request.seed,
        "verdict": False,  # the benchmark judges by itself, and its seconds are those of the lesson
        "output": output,
        "resume": output.with_suffix(".run").is_dir(),
        "cache": request.cache,
        "rank": request.rank,
        **own,
    }
    try:
        lesson = LearnRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise ConfigError(
            f"{case.name}, {arm.label}: {name} is {problem['input']!r}; {problem['msg']}.", field=name
        ) from error
    # a rank that decides nothing makes no lesson another one
    return lesson if METHODS[lesson.method].has_rank else lesson.model_copy(update={"rank": None})


def _learned(request: BenchmarkRequest, case: Case, arm: Arm, path: Path, teach: Teach) -> Generator[Event, None, Cost]:
    """Learn, unless it has been learned; what it took is kept beside the concept."""
    record = path.with_suffix(".json")
    if not (record.is_file() and path.is_file()):
        lesson = lesson_of(request, case, arm, path)
        resumed = lesson.resume
        yield Notice(0, f"{case.name}: {arm.label}{' goes on' if resumed else ''}")
        spent = yield from teach(lesson)
        cost = Cost(spent.seconds, spent.peak_bytes, path.stat().st_size, resumed)
        content = {**asdict(cost), "has_cache": lesson.cache is not None}
        atomic_write_bytes(record, (json.dumps(content, indent=2) + "\n").encode())
        return cost
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        numbers = float(content["seconds"]), int(content["peak_bytes"]), int(content["file_bytes"])
        return Cost(*numbers, bool(content.get("is_resumed", False)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{record} does not say what the lesson took.", hint="Delete it, and the lesson is learned again."
        ) from error


def _draw(
    request: BenchmarkRequest,
    case: Case,
    texts: dict[str, str],
    files: dict[str, list[Path]],
    pipeline: Pipeline,
    settings: Settings,
) -> Generator[Event, None, None]:
    """Draw the pictures that are missing; each has the same seed whatever the method."""
    jobs, seeds = jobs_of(request, case, texts)
    missing = [place for place, (name, number) in enumerate(jobs) if not files[name][number].is_file()]
    prompts = [texts[jobs[place][0]] for place in missing]
    for event in pipeline.generate(prompts, [seeds[place] for place in missing], settings):
        if isinstance(event, Step):
            yield event
        elif isinstance(event, Drawn):
            name, number = jobs[missing[event.index]]
            atomic_write_bytes(files[name][number], png_bytes(Image.fromarray(to_pixels(event.image))))


def texts_of(case: Case, base: str | None = None) -> dict[str, str]:
    """Return what is drawn of a subject by name: every prompt, and the plain class under `CLASS`.

    Args:
        case: The subject.
        base: Which of `BASES` is asked, and so without the subject's word.
    """
    return {**{asked.name: _said(case, asked, base) for asked in case.asked}, CLASS: case.class_prompt}


def _said(case: Case, asked: Asked, base: str | None) -> str:
    """Return the text of one prompt; see `texts_of`."""
    if base is None:
        return asked.text.format(PLACEHOLDER)
    return asked.words if base == BASELINE else asked.with_noun(case.class_noun)


def drawing_of(request: BenchmarkRequest) -> Settings:
    """Return how every picture of a benchmark is drawn."""
    return Settings(steps=request.draw_steps, guidance_scale=request.guidance_scale, batch_size=_BATCH)


def jobs_of(request: BenchmarkRequest, case: Case, names: Iterable[str]) -> tuple[list[tuple[str, int]], list[int]]:
    """List the pictures of some texts, by name and number, and their seeds: the same whatever draws them."""
    jobs = [(name, number) for name in names for number in range(request.pictures)]
    return jobs, [derive_seed(request.seed, f"benchmark/{case.name}/{name}", number) for name, number in jobs]


def _hash(content: object) -> str:
    """Hash plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _slug(words: str) -> str:
    """Name a folder."""
    return words.replace("+", "-").replace(" ", "-")
