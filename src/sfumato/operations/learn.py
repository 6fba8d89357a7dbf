"""Teach a base a subject from a few pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain, count
from pathlib import Path

from sfumato.errors import ConfigError
from sfumato.evaluation.encoders import Encoders, choose_encoders
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.joint_probe import JointProbe
from sfumato.evaluation.plan import Drawing
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.verdict import Rule
from sfumato.evaluation.verdict_plan import STYLE_PROMPTS, VerdictPlan, named, read_prompts
from sfumato.evaluation.verdict_report import write_report
from sfumato.events import Artifact, Event, Notice, Progress
from sfumato.formats.atomic import remove_folder
from sfumato.formats.bundle import Bundle, load_bundle
from sfumato.formats.bundle_unet import read_bundle_unet
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.operations.folder_notice import folder_notices
from sfumato.operations.learn_values import with_settings
from sfumato.operations.stream import Events
from sfumato.requests import LearnRequest, flag_of
from sfumato.runtime.byte_sizes import bytes_text
from sfumato.runtime.file_stem import file_stem
from sfumato.runtime.locks import only_one
from sfumato.training.learn_config import LearnConfig, SubjectConfig
from sfumato.training.personalise import learn as learn_subject
from sfumato.training.picture_config import PictureConfig

_OF_VERDICT = (
    *("verdict_prompts", "verdict_seeds", "verdict_steps", "judge_pictures", "judge_texts"),
    *("min_prompt", "max_drift", "early_stop"),
)
_SMALL_JUDGES = {"embedded", "dual", "auto", "none"}
"""They load in a fifth of a second; an encoder of the field is loaded once and kept."""
_WHOLE = PictureConfig()

_SETTLED = Progress("pictures", 0, 1)
"""What the trainer tells first: its settings are accepted, and it is about to read the pictures."""


def learn(request: LearnRequest, bundle: Bundle | None = None) -> Events:
    """Learn a subject and write it as one file, or with `dreambooth` as a whole base if the output is a folder.

    A lesson begins, unless it goes on, with a look at its folders as `sfumato data doctor` has it. Every saved state is
    scored and the best one is written, unless `verdict` is off; a report with scores and pictures lies beside the file
    in a folder that ends in `.verdict`. The state of an unfinished run lies beside it in a folder that ends in `.run`,
    until the file is written.

    Args:
        request: What to learn, how, and where to.
        bundle: A loaded base to use instead of the one that the request names; it is left as it was, bit for bit. With
            `precision` bf16 a base that is loaded here holds its frozen weights in bf16; one that is handed in keeps
            them as they are, so that in float32 they take as much memory as ever.

    Yields:
        The events of the training, a `Notice` for each folder in which something could spoil the result, and an
        `Artifact` of kind `concept` or `bundle`; with a verdict also `Verdict` and two of kind `report`.

    Raises:
        ConfigError: Another process learns the same.
        SfumatoError: A picture or the base is not usable, or the file cannot be written.
    """
    _check_plan(request)
    config = lesson_config(request, bundle)
    with only_one(run_folder(config.output)):
        yield from _lesson(request, config, bundle)


def _lesson(request: LearnRequest, config: LearnConfig, bundle: Bundle | None) -> Events:
    """Learn, report and clear up."""
    output, run_dir, probe = config.output, run_folder(config.output), judge(request, pictures=config.pictures)
    is_alone = not output.exists()
    finished, goes_on = False, request.resume and run_dir.is_dir()
    yield from _said_of_no_verdict(request)
    base = bundle or load_bundle(request.base, held_in=config.held_in)
    for event in learn_subject(config, base, run_dir, resume=request.resume, cache=request.cache, probe=probe):
        report = None
        if isinstance(event, Artifact) and is_result(event):
            report = _report_folder(output, event, is_alone=is_alone)
        yield event
        if event == _SETTLED and not goes_on:
            yield from folder_notices(config, base)
        if report is not None:
            finished = True
            if probe is not None:
                yield from write_report(probe, report)
    if finished:
        remove_folder(run_dir)


def _said_of_no_verdict(request: LearnRequest) -> Iterator[Notice]:
    """Say what only a verdict would use; that is not refused, since a lesson may go on without one."""
    fields = LearnRequest.model_fields
    given = [name for name in _OF_VERDICT if getattr(request, name) != fields[name].default]
    if given and not request.verdict:
        names = ", ".join(flag_of(name, fields[name]).names[-1] for name in given)
        yield Notice(0, f"Without a verdict {names} {'change' if len(given) > 1 else 'changes'} nothing.")


def _report_folder(output: Path, result: Artifact, *, is_alone: bool) -> Path:
    """Name the folder of the report on a result; a report on an older one keeps its own under another name.

    Args:
        output: Where the result is.
        result: What was written.
        is_alone: There was no older result when the lesson began: a report that lies there is on one that has gone.
    """
    folder, kept = output.parent / f"{output.stem}.verdict", result.info.get("kept")
    if folder.is_dir() and (kept is not None or is_alone):
        wanted = f"{output.stem}-1" if kept is None else Path(kept).stem
        names = chain((wanted,), (f"{wanted}-{number}" for number in count(1)))
        free = next(name for name in names if not (output.parent / f"{name}.verdict").exists())
        folder.rename(output.parent / f"{free}.verdict")
    return folder


def lesson_config(request: LearnRequest, bundle: Bundle | None = None) -> LearnConfig:
    """Return everything that decides a lesson, as the trainer takes it.

    Args:
        request: The lesson.
        bundle: A loaded base to use instead of the one that the request names.

    Raises:
        CheckpointError: The base is not there, or without its configuration.
        ConfigError: A key is unknown, or a value is out of range or does not fit another.
    """
    config = _config(request, request.output or concept_file(request.placeholder))
    unet = read_bundle_unet(request.base) if bundle is None else bundle.unet.config
    return with_settings(config, request, unet)


def run_folder(output: Path) -> Path:
    """Name the folder of an unfinished run after its result."""
    return output.parent / f"{output.stem}.run"


def is_result(event: Event) -> bool:
    """Say whether an event tells that what was learned is written: a concept, or the whole base."""
    return isinstance(event, Artifact) and event.kind in ("concept", "bundle")


def concept_file(placeholder: str) -> Path:
    """Name the file of a concept after its word.

    Args:
        placeholder: Such as `<fox>`.

    Returns:
        Such as `fox.safetensors`.

    Raises:
        ConfigError: The word holds no letter and no digit.
    """
    stem = file_stem(placeholder)
    if not stem:
        raise ConfigError(
            f"--as: given {placeholder!r}; needed a word with at least one letter or digit.",
            field="placeholder",
            hint='For example --as "<fox>".',
        )
    return Path(f"{stem}.safetensors")


def parse_subject(text: str) -> SubjectConfig:
    """Read `FOLDER:WORD:NOUN`.

    Args:
        text: Such as `photos/cat:<cat>:cat`.

    Returns:
        The subject.

    Raises:
        ConfigError: A part is missing.
    """
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigError(
            f"--also: given {text!r}; needed FOLDER:WORD:NOUN.",
            field="also",
            hint="For example 'photos/cat:<cat>:cat'.",
        )
    folder, placeholder, noun = parts
    return SubjectConfig(folder=Path(folder), placeholder=placeholder, class_noun=noun)


def verdict_plan(request: LearnRequest, subject: SubjectConfig | None = None) -> VerdictPlan:
    """Return what the verdict of a lesson asks of a subject.

    Args:
        request: The lesson.
        subject: One of its subjects; None for the main one.

    Raises:
        ConfigError: The file of prompts is not usable.
    """
    default, file = VerdictPlan(), request.verdict_prompts
    words = {one.placeholder: one.class_noun for one in map(parse_subject, request.also)}
    words[request.placeholder] = request.class_noun
    word = request.placeholder if subject is None else subject.placeholder
    others = {other: noun for other, noun in words.items() if other != word}
    prompts = STYLE_PROMPTS if request.style else default.prompts
    if file is not None:
        prompts = read_prompts(file, word, others)
    return VerdictPlan(
        prompts=prompts,
        others=named(prompts, others),
        plain="a picture, {} style" if request.style else default.plain,
        plain_class="a picture" if request.style else None,
        seeds=request.verdict_seeds,
        class_seeds=max(default.class_seeds, request.verdict_seeds),
        drawing=Drawing(steps=request.verdict_steps, batch_size=min(default.drawing.batch_size, request.batch_size)),
        rule=Rule(
            min_prompt=request.min_prompt,
            max_drift=request.max_drift,
            patience=default.rule.patience if request.early_stop else 0,
        ),
    )


def judge(
    request: LearnRequest, plan: VerdictPlan | None = None, pictures: PictureConfig = _WHOLE
) -> SubjectProbe | JointProbe | None:
    """Make the judge of a lesson; None where no verdict is wanted. Several subjects are judged together.

    Args:
        request: The lesson.
        plan: What is asked for in place of what the request says, prompts apart.
        pictures: How the lesson masks its pictures.
    """
    if not request.verdict:
        return None

    def opens() -> tuple[Encoders, FeatureExtractor]:
        eye = FeatureExtractor()
        return choose_encoders(request.judge_pictures, request.judge_texts, eye=eye, dual=load_dual_encoder), eye

    masks = pictures.masks, pictures.mask_folder
    are_small = {request.judge_pictures, request.judge_texts} <= _SMALL_JUDGES
    judges = opens if are_small else cache(opens)

    def probe(one: SubjectConfig) -> SubjectProbe:
        asked = verdict_plan(request, one)
        if plan is not None:
            asked = plan.model_copy(update={"prompts": asked.prompts, "others": asked.others})
        return SubjectProbe(asked, one.folder, one.placeholder, one.class_noun, judges, *masks)

    main = SubjectConfig(folder=request.folder, placeholder=request.placeholder, class_noun=request.class_noun)
    further = list(map(parse_subject, request.also))
    return JointProbe(list(map(probe, (main, *further)))) if further else probe(main)


def _check_plan(request: LearnRequest) -> None:
    """Refuse a wish for a plan where a lesson would begin instead."""
    if request.plan:
        raise ConfigError("plan is on, but this learns.", field="plan", hint="Use sfumato.plan, or leave it out.")
    if request.memory is not None:
        raise ConfigError(
            f"--memory: given {bytes_text(request.memory)} without --plan; it is what a plan compares with.",
            field="memory",
            hint="Add --plan, or leave it out.",
        )


def _config(request: LearnRequest, output: Path) -> LearnConfig:
    """Translate a request for the trainer; what it does not name keeps the trainer's default, for `with_settings`."""
    return LearnConfig(
        method=request.method,
        kind="style" if request.style else "subject",
        further=tuple(map(parse_subject, request.also)),
        folder=request.folder,
        placeholder=request.placeholder,
        class_noun=request.class_noun,
        output=output,
        identifier=request.identifier,
        num_vectors=request.num_vectors,
        progressive_steps=request.progressive_steps,
        per_image_words=request.per_image_words,
        initializer=request.initializer,
        anchor_weight=request.anchor_weight,
        templates=request.templates,
        adapter=request.adapter,
        init=request.init,
        alpha=request.alpha,
        rank_stabilised=request.rank_stabilised,
        dropout=request.dropout,
        lora_plus=request.lora_plus,
        text_encoder=request.text_encoder,
        prior_weight=request.prior_weight,
        num_class_images=request.num_class_images,
        class_prompts=request.class_prompts,
        batch_size=request.batch_size,
        flip=request.flip,
        seed=request.seed,
    )
