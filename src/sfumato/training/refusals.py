"""Refuse a lesson that cannot end well before it takes time or takes anything away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError, ConfigError, DataError
from sfumato.formats.bundle import Bundle
from sfumato.training import state
from sfumato.training.factors import rates
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import PHASE, USE, Learner
from sfumato.training.loop import MAY_CHANGE
from sfumato.training.methods import METHODS
from sfumato.training.optim import build_optimizers, check_average
from sfumato.training.words import check_words

_INDEX = "model_index.json"
_VERSION_CONTROL = (".git", ".hg", ".svn", ".jj", ".bzr", "_darcs", "CVS")
_OF_THE_SYSTEM = (".DS_Store", "Thumbs.db")


def check_config(config: LearnConfig, bundle: Bundle) -> None:
    """Refuse what settings and base alone show to be wrong, those of factors apart.

    Args:
        config: The lesson.
        bundle: The base.

    Raises:
        ConfigError: See `check_output` and `check_words`; a word of the base is to be learned again, settings do not go
            together, or the base is held in too few bits.
    """
    check_output(config, bundle.source)
    _check_pictures(config)
    _check_class_prompts(config)
    _check_base(config, bundle)
    check_words(config)
    _check_new_words(config, bundle)


def check_output(config: LearnConfig, base: Path | None) -> None:
    """Refuse a place where the result would take away something else than a result.

    A file ends in .safetensors, a folder in nothing. The whole base is written to a new or empty folder, or replaces
    one that holds a base (`model_index.json`), such as an earlier result, but never a clone of a repository. A concept
    file replaces a file of its name.

    Args:
        config: The lesson.
        base: Folder of the base that it starts from, if known.

    Raises:
        ConfigError: The name does not say what will be there; a file stands where a folder is to come, or a folder
            where a file is; the folder holds anything but a base, a repository's history, the pictures, their masks,
            or the base that the lesson starts from.
    """
    output, is_base = config.output, config.writes_base
    if not is_base and output.suffix != ".safetensors":
        named = output / "concept" if output.name in ("", "..") else output
        folder = f", or '{named.with_suffix('')}' for the whole base" if METHODS[config.method].weights else ""
        raise ConfigError(
            f"The output '{output}' does not end in .safetensors.",
            field="output",
            hint=f"Use '{named.with_suffix('.safetensors')}'{folder}.",
        )
    if not is_base and output.is_dir():
        raise ConfigError(
            f"The output '{output}' is a folder; a concept is one file.",
            field="output",
            hint="Choose another name.",
        )
    if is_base:
        _check_folder(config, base)


def check_start(learner: Learner, run_dir: Path, *, resume: bool, judged: Sequence[str] = ()) -> None:
    """Refuse what the loop would refuse, before anything is drawn for it.

    Args:
        learner: What learns.
        run_dir: Folder of the run; only the settings of its newest checkpoint are read.
        resume: Whether the run is to go on.
        judged: Texts that are drawn to judge what is learned.

    Raises:
        DataError: A text that is drawn on the way is too long for the base.
        ConfigError: The optimizer is not installed, does not go with a moving average, or a pattern of learning rates
            fits nothing.
        CannotResume: The folder holds a run and `resume` is off, or that run had other settings.
    """
    _check_texts(learner, judged)
    check_average({PHASE: build_optimizers(learner.learning, rates(learner.config))}, learner.config.ema.decay)
    found = state.checkpoints_of(run_dir)
    if found and not resume:
        raise state.already_there(run_dir)
    saved = next((settings for _, folder in found if (settings := _settings(folder)) is not None), None)
    if saved is not None:
        state.check_settings(saved, learner.settings, MAY_CHANGE, (USE,))


def _check_texts(learner: Learner, judged: Sequence[str]) -> None:
    """Refuse texts to draw that are too long once the words of the lesson are written out."""
    config = learner.config
    previewed = config.preview_prompts if config.loop.preview_every else ()
    for what, field, texts, other in (
        ("preview prompt", "preview_prompts", previewed, "leave it out"),
        ("verdict's prompt", "verdict_prompts", judged, "learn without a verdict (--no-verdict)"),
    ):
        for text in texts:
            excess = learner.words.excess(text)
            if excess is not None:
                raise DataError(
                    f"The {what} {text!r} has {excess}.",
                    field=field,
                    hint=f"Shorten it or the words for the subject, or {other}.",
                )


def _settings(checkpoint: Path) -> Mapping[str, Any] | None:
    """Read the settings of a checkpoint; None where it is damaged, which is for the loop to say."""
    try:
        return state.read_state(checkpoint).settings
    except CheckpointError:
        return None


def _check_folder(config: LearnConfig, base: Path | None) -> None:
    """Refuse a folder for the whole base that holds what must stay."""
    output = config.output
    if output.name in ("", ".."):
        raise ConfigError(
            f"The output '{output}' is no new name; the whole base is written to a folder of its own.",
            field="output",
            hint="Choose a name such as 'fox-base'.",
        )
    masks = config.pictures.mask_folder
    staying = [(one.folder, "the pictures to learn from") for one in config.subjects]
    staying += [] if masks is None else [(masks, "their masks")]
    staying += [] if base is None else [(base, "the base that the lesson starts from")]
    for place, what in staying:
        if place.resolve().is_relative_to(output.resolve()):
            raise ConfigError(
                f"The output '{output}' would replace '{place}', {what}.",
                field="output",
                hint="Choose a new folder; nothing was changed.",
            )
    if output.exists() and not output.is_dir():
        raise ConfigError(
            f"The output '{output}' is a file; the whole base is written as a folder.",
            field="output",
            hint=f"Choose another name, or '{output}.safetensors' for factors.",
        )
    names = [path.name for path in output.iterdir()] if output.is_dir() else []
    for name in _VERSION_CONTROL:
        if name in names:
            raise ConfigError(
                f"The output '{output}' holds '{name}', the history of a repository; the whole base would replace it.",
                field="output",
                hint="Choose a new folder, and copy the base from there; nothing was changed.",
            )
    count = sum(name not in _OF_THE_SYSTEM and not name.endswith(".partial") for name in names)
    if count and not (output / _INDEX).is_file():
        raise ConfigError(
            f"The output '{output}' is a folder with {count} entries and no {_INDEX}; the whole base would replace "
            "them.",
            field="output",
            hint="Choose a new or empty folder, or one that holds a base; nothing was changed.",
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
    """Refuse a base whose weights are held in fewer bits than the lesson needs, or that has a time without a loss."""
    if bundle.prediction == "eps" and bool((bundle.schedule.alphas_cumprod == 0).any()):
        raise ConfigError(
            f"Base '{bundle.name}' predicts eps, but its schedule ends in pure noise, where there is nothing to learn.",
            field="base",
            hint="In scheduler/scheduler_config.json set prediction_type to what it was trained for, probably "
            "v_prediction, or rescale_betas_zero_snr to false.",
        )
    fits = {"fp32": ("fp32",), "stored": ("fp32", "stored"), "bf16": ("fp32", "stored", "bf16")}[config.held_in]
    if bundle.held_in not in fits:
        raise ConfigError(
            f"The weights of base '{bundle.name}' are held in {bundle.held_in}, but method '{config.method}' with "
            f"precision '{config.precision}' needs {' or '.join(fits)}.",
            field="precision",
            hint=f"Load the base without held_in='{bundle.held_in}'.",
        )


def _check_new_words(config: LearnConfig, bundle: Bundle) -> None:
    """Refuse a word that the base has learned already: in a prompt it would stand for two things."""
    known = {word.placeholder.lower(): word for word in bundle.words}
    for subject in config.subjects:
        word = known.get(subject.placeholder.lower())
        if word is not None:
            raise ConfigError(
                f"Base '{bundle.name}' has learned the word '{word.placeholder}' already, as '{word.expansion}'.",
                field="placeholder",
                hint="Choose another word, or learn on the base that this one was made from.",
            )
    said = {word.expansion.lower().split()[0]: word for word in bundle.words}
    taken = None if config.word is None else said.get(config.word.lower())
    if taken is not None:
        raise ConfigError(
            f"The word '{config.word}' stands for '{taken.placeholder}' in base '{bundle.name}' already.",
            field="word",
            hint="Choose another one, or leave it out.",
        )
