"""Teach a base one subject from a few pictures: factors beside its weights, a word for the subject, or both."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from sfumato.events import Event, Notice, Progress
from sfumato.formats.bundle import Bundle
from sfumato.pipeline import Pipeline
from sfumato.training.cache import TensorCache
from sfumato.training.factors import check_factors
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import train
from sfumato.training.probe import Probe, Trial
from sfumato.training.refusals import check_config, check_start
from sfumato.training.sample_set import AnySamples
from sfumato.training.subject import Samples, class_prompts, class_samples, joined, read_subject


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
        `Progress` while pictures are prepared, the events of `loop.train`, and an `Artifact` of kind `concept`
        or `bundle`.

    Raises:
        EmptyDataset: The folder holds no picture.
        UnreadableImage: A picture cannot be read.
        DataError: A caption, a preview prompt or a text that the probe draws is too long for the base.
        ConfigError: Two settings do not go together, the output would take something else's place, or a word cannot
            be learned.
        NoTargetMatched: `targets` fits no layer.
        AdapterError: A layer cannot be changed.
        CannotResume: The folder holds a run and `resume` is off, or that run had other settings.
        SfumatoError: See `loop.train`.
    """
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
        with learner.set_aside():
            if asked:
                learner.prior = yield from _class_pictures(config, asked, bundle, kept)
            if probe is not None:
                yield from probe.begin(Pipeline(bundle))
        task = learner.task() if probe is None else Trial(probe, learner, config.loop).task()
        yield from train(task, config.loop, run_dir, settings=learner.settings, resume=resume)
    finally:
        learner.close()


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


def _class_prompts(config: LearnConfig, samples: AnySamples) -> list[tuple[str, ...]]:
    """Return what the pictures of every class are asked by, each class once."""
    captions = samples if config.class_prompts == "captions" else None
    asked = [class_prompts(one, captions, is_style=config.kind == "style") for one in config.subjects]
    return list(dict.fromkeys(asked))


def _class_pictures(
    config: LearnConfig, asked: Sequence[tuple[str, ...]], bundle: Bundle, cache: TensorCache
) -> Generator[Event, None, AnySamples]:
    """Let the base draw every class once and return the pictures."""
    drawn: list[Samples] = []
    for prompts in asked:
        for event in class_samples(Pipeline(bundle), prompts, config.num_class_images, config.seed, cache):
            if isinstance(event, Samples):
                drawn.append(event)
            else:
                yield event
    return joined(drawn)
