"""Teach a base one subject from a few pictures: factors beside its weights, a word for the subject, or both."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from sfumato.errors import ConfigError
from sfumato.events import Event, Notice, Progress
from sfumato.formats.bundle import Bundle
from sfumato.pipeline import Pipeline
from sfumato.training.cache import TensorCache
from sfumato.training.factors import check_factors
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import train
from sfumato.training.methods import METHODS
from sfumato.training.probe import Probe, Trial
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
        DataError: A caption is too long for the base.
        ConfigError: Two settings do not go together.
        NoTargetMatched: `targets` fits no layer.
        SfumatoError: See `loop.train`.
    """
    _check_output(config)
    _check_pictures(config)
    _check_class_prompts(config)
    _check_base(config, bundle)
    check_factors(config, bundle.modules)
    bundle.freeze()
    yield Progress("pictures", 0, 1)
    kept = TensorCache(run_dir / "cache" if cache is None else cache)
    samples = joined(
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
                cache=kept,
            )
            for one in config.subjects
        ]
    )
    yield Progress("pictures", 1, 1)
    if len(set(samples.repeats)) > 1:
        often = f"{min(samples.repeats)} to {max(samples.repeats)} times"
        yield Notice(0, f"Folder names give weights: a round shows each of {len(samples)} pictures {often}.")
    prior = None
    if config.prior_weight:
        prior = yield from _class_pictures(config, samples, bundle, kept)
    if probe is not None:
        yield from probe.begin(Pipeline(bundle))
    learner = Learner(config, bundle, samples, prior, kept)
    try:
        task = learner.task() if probe is None else Trial(probe, learner, config.loop).task()
        yield from train(task, config.loop, run_dir, settings=learner.settings, resume=resume)
    finally:
        learner.close()


def _class_pictures(
    config: LearnConfig, samples: AnySamples, bundle: Bundle, cache: TensorCache
) -> Generator[Event, None, AnySamples]:
    """Let the base draw every class once and return the pictures."""
    drawn: list[Samples] = []
    captions = samples if config.class_prompts == "captions" else None
    asked = [class_prompts(one, captions, is_style=config.kind == "style") for one in config.subjects]
    for prompts in dict.fromkeys(asked):
        for event in class_samples(Pipeline(bundle), prompts, config.num_class_images, config.seed, cache):
            if isinstance(event, Samples):
                drawn.append(event)
            else:
                yield event
    return joined(drawn)


def _check_output(config: LearnConfig) -> None:
    """Refuse a name that does not say what will be there: a file ends in .safetensors, a folder in nothing."""
    output = config.output
    if output.suffix == ".safetensors" or (METHODS[config.method].weights and not output.suffix):
        return
    folder = f", or '{output.with_suffix('')}' for the whole base" if METHODS[config.method].weights else ""
    raise ConfigError(
        f"The output '{output}' does not end in .safetensors.",
        field="output",
        hint=f"Use '{output.with_suffix('.safetensors')}'{folder}.",
    )


def _check_pictures(config: LearnConfig) -> None:
    """Refuse one folder of masks for several subjects."""
    if config.pictures.mask_folder is not None and config.further:
        raise ConfigError(
            f"mask_folder is '{config.pictures.mask_folder}' but there are {len(config.subjects)} subjects; one folder "
            "holds the masks of one.",
            field="mask_folder",
            hint="Leave it out and put the masks beside the pictures, as NAME.mask.png.",
        )


def _check_class_prompts(config: LearnConfig) -> None:
    """Refuse captions for class pictures where the subject's pictures are not learned by theirs."""
    if config.class_prompts == "captions" and config.templates != "none":
        raise ConfigError(
            f"class_prompts is 'captions' but templates is '{config.templates}': captions are not said.",
            field="class_prompts",
            hint="Leave one of them out.",
        )


def _check_base(config: LearnConfig, bundle: Bundle) -> None:
    """Refuse a base whose weights are held in fewer bits than the lesson needs."""
    if bundle.held_in not in ("fp32", config.held_in):
        raise ConfigError(
            f"The weights of base '{bundle.name}' are held in {bundle.held_in}, but method '{config.method}' with "
            f"precision '{config.precision}' needs {config.held_in}.",
            field="precision",
            hint=f"Load the base without held_in='{bundle.held_in}'.",
        )
