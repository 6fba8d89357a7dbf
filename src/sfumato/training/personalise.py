"""Teach a base one subject from a few pictures: factors beside its weights, a word for the subject, or both."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from sfumato.errors import Diverged
from sfumato.events import Event, Notice, Progress
from sfumato.formats.bundle import Bundle
from sfumato.pipeline import Pipeline
from sfumato.training.cache import TensorCache
from sfumato.training.factors import check_factors
from sfumato.training.in_use import check_in_use
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import USE, Learner
from sfumato.training.loop import train
from sfumato.training.probe import Probe, Trial
from sfumato.training.refusals import check_config, check_start
from sfumato.training.sample_set import AnySamples
from sfumato.training.subject import (
    CLASS_SETTINGS,
    Samples,
    class_prompts,
    class_samples,
    joined,
    plain_caption,
    read_subject,
    subject_entries,
)

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def learn(
    config: LearnConfig,
    bundle: Bundle,
    run_dir: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    probe: Probe | None = None,
) -> Generator[Event, None, None]:
    """Learn a subject; at the end the concept file (or the whole base) is written, opened again and compared.

    The base itself is not changed: its weights stay bit-identical and nothing remains attached, however the run ends.
    What can be refused is refused before anything is drawn. A whole base may replace the folder of an earlier one; no
    other folder with something inside is replaced, see `refusals.check_output`.

    Args:
        config: What and how.
        bundle: The base. With `precision` bf16 it may be held in bf16 (`load_bundle`), which takes half the memory; one
            in float32 stays so, and its weights are rounded at each use.
        run_dir: Folder of checkpoints, previews and class pictures.
        resume: Go on from the newest checkpoint; the result has the same bytes as that of an uninterrupted run.
        cache: Folder where encoded pictures and texts are kept for other runs; by default they go with the run.
        probe: Judges every saved step; what is written at the end is then the step that it chooses.

    Yields:
        `Progress` while pictures are prepared, a `Notice` where only some have a caption, the events of `loop.train`,
        and an `Artifact` of kind `concept` or `bundle`.

    Raises:
        EmptyDataset: The folder holds no picture.
        UnreadableImage: A picture cannot be read.
        DataError: A caption, a preview prompt or a text that the probe draws is too long for the base; see also
            `read_subject`.
        ConfigError: Two settings do not go together, one would change nothing, the output would take something else's
            place, a word cannot be learned, or the base is in use.
        NoTargetMatched: `targets` fits no layer.
        AdapterError: A layer cannot be changed.
        CannotResume: The folder holds a run and `resume` is off, or that run had other settings.
        Diverged: See `loop.train`; where steps were scored before, the hint says how to get the best of them.
        SfumatoError: See `loop.train`.
    """
    check_in_use(config)
    check_config(config, bundle)
    check_factors(config, bundle.modules)
    bundle.freeze()
    yield Progress("pictures", 0, 1)
    kept = TensorCache(run_dir / "cache" if cache is None else cache)
    samples = _read(config, bundle, kept)
    asked = _class_prompts(config, samples) if config.prior_weight else []
    class_texts = [text for prompts in asked for text in prompts[: config.num_class_images]]
    learner = Learner(config, bundle, samples, class_texts, kept)
    try:
        check_start(learner, run_dir, resume=resume, judged=() if probe is None else probe.texts())
        yield Progress("pictures", 1, 1)
        yield from _said_of_weights(samples)
        yield from _said_of_captions(config)
        with learner.set_aside():
            if asked:
                learner.prior = yield from _class_pictures(config, asked, Pipeline(bundle, learner.claim), kept)
            if probe is not None:
                yield from probe.begin(Pipeline(bundle, learner.claim))
        if kept.problem is not None:
            yield Notice(0, f"{kept.problem} The lesson goes on; what could not be kept is made anew.")
        yield from _train(learner, probe, run_dir, resume=resume)
    finally:
        learner.close()


def _train(learner: Learner, probe: Probe | None, run_dir: Path, *, resume: bool) -> Iterator[Event]:
    """Take the steps, judged if there is a judge; if they cannot go on, say what scored ones can still give."""
    loop = learner.config.loop
    trial = None if probe is None else Trial(probe, learner, loop)
    task = learner.task() if trial is None else trial.task()
    try:
        yield from train(task, loop, run_dir, settings=learner.settings, defaults=(USE,), resume=resume)
    except Diverged as error:
        way_out = None if trial is None else trial.way_out()
        if way_out is None:
            raise
        raise Diverged(error.message, field=error.field, hint=" ".join(filter(None, (error.hint, way_out)))) from error


def _read(config: LearnConfig, bundle: Bundle, cache: TensorCache) -> AnySamples:
    """Read the pictures of all subjects and encode each once."""
    return joined(
        [
            read_subject(
                one.folder,
                one.placeholder,
                one.class_noun,
                bundle,
                flip=config.flip,
                is_style=config.kind == "style",
                pictures=config.pictures,
                seed=config.seed,
                cache=cache,
            )
            for one in config.subjects
        ]
    )


def _said_of_weights(samples: AnySamples) -> Iterator[Event]:
    """Say how often pictures are shown where that differs."""
    if len(set(samples.repeats)) > 1:
        often = f"{min(samples.repeats)} to {max(samples.repeats)} times"
        yield Notice(0, f"Folder names give weights: a round shows each of {len(samples)} pictures {often}.")


def _said_of_captions(config: LearnConfig) -> Iterator[Event]:
    """Say how many pictures lack a caption where others have one, and which name a side that mirroring exchanges.

    Sentences of `templates` take the place of all.
    """
    if config.templates != "none":
        return
    is_style = config.kind == "style"
    entries = [
        entry
        for one in config.subjects
        for entry in subject_entries(one.folder, one.placeholder, one.class_noun, is_style=is_style)
    ]
    count = sum(bool(entry.caption("")) for entry in entries)
    if 0 < count < len(entries):
        plain = " or ".join(f"'{plain_caption(one.placeholder, is_style=is_style)}'" for one in config.subjects)
        have = "has" if count == 1 else "have"
        yield Notice(0, f"{count} of {len(entries)} pictures {have} a caption; the others are learned as {plain}.")
    sided = [entry for entry in entries if config.flip and _SIDES.search(entry.caption(""))]
    if sided:
        others = f" and {len(sided) - 1} more" if len(sided) > 1 else ""
        told = (
            f"The caption of {sided[0].name}{others} names a side; with --flip it is said of the mirrored picture too."
        )
        yield Notice(0, f"{told} Leave --flip out, or do not say left and right.")


def _class_prompts(config: LearnConfig, samples: AnySamples) -> list[tuple[str, ...]]:
    """Return what the pictures of every class are asked by, each class once."""
    captions = samples if config.class_prompts == "captions" else None
    is_style = config.kind == "style"
    asked = [class_prompts(one, captions, config.subjects, is_style=is_style) for one in config.subjects]
    return list(dict.fromkeys(asked))


def _class_pictures(
    config: LearnConfig, asked: Sequence[tuple[str, ...]], pipeline: Pipeline, cache: TensorCache
) -> Generator[Event, None, AnySamples]:
    """Let the base draw every class once and return the pictures."""
    drawn: list[Samples] = []
    at_once = min(config.batch_size, CLASS_SETTINGS.batch_size)
    for prompts in asked:
        for event in class_samples(pipeline, prompts, config.num_class_images, config.seed, cache, at_once):
            if isinstance(event, Samples):
                drawn.append(event)
            else:
                yield event
    return joined(drawn)
