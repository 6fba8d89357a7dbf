"""Settings that would change nothing: lessons refuse them, since somebody meant something by each; runs name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from sfumato.errors import ConfigError
from sfumato.events import Notice
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS, Method
from sfumato.training.objectives import DenoisingConfig
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, DualEncoderRecipe
from sfumato.training.section import Section

AnyConfig = LearnConfig | AutoencoderRecipe | DenoiserRecipe | DualEncoderRecipe


def check_in_use(config: LearnConfig) -> None:
    """Refuse settings of a lesson that would change nothing, those of factors apart (`check_factors`).

    Args:
        config: The lesson.

    Raises:
        ConfigError: A setting is not at its default, and the lesson lacks what it needs.
    """
    _check(config, (*_OF_LESSONS, *_OF_TABLES))
    _check_joining(config)
    _check_decay(config)


def said_of_tables(recipe: AutoencoderRecipe | DenoiserRecipe | DualEncoderRecipe) -> Iterator[Notice]:
    """Say what in a recipe changes nothing.

    Why nothing is refused: a recipe is a file, of which `--set` may change one half, and a fall of the learning rate
    may be given when the run goes on.

    Args:
        recipe: The recipe.
    """
    is_denoising = isinstance(getattr(recipe, "objective", None), DenoisingConfig)
    needs = [need for need in _OF_TABLES if is_denoising or need.settings[0].startswith("optim.")]
    own = next((of_kind for kind, of_kind in _OF_RECIPES.items() if isinstance(recipe, kind)), ())
    for need in (*needs, *_OF_DATA, *own):
        for _, message in _unmet(recipe, need):
            yield Notice(0, f"{message}. It changes nothing.")


def _check(config: LearnConfig, needs: Sequence[_Need]) -> None:
    """Refuse the first setting whose need is not met."""
    for need in needs:
        for key, message in _unmet(config, need):
            raise ConfigError(
                f"{message}.", field=key, hint=f"Leave it out, or {need.remedy}." if need.remedy else "Leave it out."
            )


def _unmet(config: AnyConfig, need: _Need) -> Iterator[tuple[str, str]]:
    """Yield the settings of a need that is not met, with what is wrong, without a full stop."""
    subjects = len(config.subjects) if isinstance(config, LearnConfig) else 0
    for key in need.settings:
        value = _value(config, key)
        if value in _defaults(config, key) or need.is_met(config):
            continue
        yield key, f"{key} is {_said(value)} but {need.instead.format(config, subjects=subjects)}"


def _said(value: object) -> str:
    """Say a value as it is given in a file; of a table only that it is given."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "given" if is_dataclass(value) else repr(str(value) if isinstance(value, Path) else value)


def _value(config: Section, key: str) -> object:
    """Return a setting by dotted key."""
    return reduce(getattr, key.split("."), config)


def _defaults(config: Section, key: str) -> tuple[object, ...]:
    """Return what a setting is where nobody gave it: in such a run, and in a table that was made anew for one."""
    name, *inner = key.split(".")
    default = type(config).model_fields[name].default
    anew = type(default).model_fields if isinstance(default, Section) else {}
    return reduce(getattr, inner, default), *(anew[one].default for one in inner if one in anew)


def _check_joining(config: LearnConfig) -> None:
    """Refuse vectors that would join when the last step is behind them."""
    later, steps, joins_at = config.num_vectors - 1, config.loop.steps, config.joins_at
    if joins_at >= steps:
        most, longer = (steps - 1) // later, f"give the lesson more than {joins_at} steps"
        raise ConfigError(
            f"progressive_steps is {config.progressive_steps}, so that the last of {config.num_vectors} vectors would "
            f"join after {joins_at} steps, but the lesson has {steps}.",
            field="progressive_steps",
            hint=f"Set it to {most} or less, or {longer}." if most else f"Leave it out, or {longer}.",
        )


def _check_decay(config: LearnConfig) -> None:
    """Refuse a decay that would wear off the base: PiSSA's factors hold the strongest part of its weights."""
    if config.init == "pissa" and config.optim.weight_decay > 0:
        raise ConfigError(
            f"optim.weight_decay is {config.optim.weight_decay:g} but init is 'pissa', whose factors begin as part of "
            "the base's weights: their decay would take that part away.",
            field="optim.weight_decay",
            hint="Leave it out, or use init 'kaiming'.",
        )


@dataclass(frozen=True)
class _Need:
    """What some settings need to change anything.

    Attributes:
        settings: Their dotted keys.
        is_met: Whether a lesson has it.
        instead: What the lesson has in its place, with its fields in braces.
        remedy: What to do where they are wanted; empty where nothing would help.
    """

    settings: tuple[str, ...]
    is_met: Callable[[Any], bool]
    instead: str
    remedy: str = ""


def _method(config: LearnConfig) -> Method:
    """Return the row of the method."""
    return METHODS[config.method]


def _never(_: LearnConfig) -> bool:
    """Say no: a lesson has no use for the setting at all."""
    return False


_OF_VECTORS = ("num_vectors", "progressive_steps", "per_image_words", "initializer", "anchor_weight")
_OF_LESSONS = (
    _Need(
        _OF_VECTORS,
        lambda config: _method(config).rows != "never",
        "the method '{0.method}' learns no vectors of a word",
        "use the method 'lora'",
    ),
    _Need(
        _OF_VECTORS,
        lambda config: config.chosen_identifier == "new",
        "identifier is '{0.identifier}', which learns no vectors",
        "set identifier to 'new'",
    ),
    _Need(
        ("progressive_steps",),
        lambda config: config.num_vectors > 1,
        "num_vectors is 1, so no vector can join later",
        "set num_vectors to 2 or 3",
    ),
    _Need(
        ("rank",),
        lambda config: not config.writes_base or config.rank == _method(config).rank,
        "the output '{0.output}' is a folder for the whole base, which holds no factors",
        "give an output that ends in .safetensors",
    ),
    _Need(
        ("word",),
        lambda config: _method(config).rows != "always",
        "the method '{0.method}' makes a word of its own",
        "use the method 'lora' with identifier 'rare'",
    ),
    _Need(
        ("word",),
        lambda config: config.chosen_identifier == "rare",
        "identifier is 'new', which makes its own",
        "set identifier to 'rare'",
    ),
    _Need(
        ("word",),
        lambda config: not config.further,
        "there are {subjects} subjects, and it is for one: without it each gets a rare word",
    ),
    _Need(
        ("initializer",),
        lambda config: not config.further,
        "there are {subjects} subjects, and it is for one: without it each starts from its class noun",
    ),
    _Need(
        ("templates",),
        lambda config: (config.templates == "style") == (config.kind == "style"),
        "the lesson is of a {0.kind}: the verdict and your prompts would say what it never taught",
        "use templates 'style' for a style (--style), 'object' for a subject",
    ),
    _Need(("say_class",), lambda config: config.kind == "subject", "a style says no class noun anyway"),
    _Need(
        ("say_class",),
        lambda config: _method(config).says_class,
        "the method '{0.method}' says no class noun anyway",
    ),
    _Need(
        ("text_encoder",),
        lambda config: _method(config).has_rank,
        "the method '{0.method}' leaves the text encoder as it is anyway",
    ),
    _Need(
        ("factor",),
        lambda config: config.adapter == "lokr" or not _method(config).has_factors,
        "the adapter is '{0.adapter}', which has no small matrix",
        "set adapter to 'lokr'",
    ),
    _Need(
        ("prior_weight",),
        lambda config: _method(config).factors or _method(config).weights,
        "the method '{0.method}' learns a word alone, which no class picture says",
        "use the method 'pivotal'",
    ),
    _Need(
        ("ema.warmup",),
        lambda config: config.ema.decay > 0,
        "ema.decay is 0, so no average is formed",
        "set ema.decay to 0.97",
    ),
    _Need(
        ("num_class_images", "class_prompts"),
        lambda config: config.prior_weight > 0,
        "prior_weight is 0, so no class picture is drawn",
        "set prior_weight to 1",
    ),
    _Need(
        ("pictures.unmasked_weight",),
        lambda config: config.pictures.masks != "none",
        "pictures.masks is 'none', so all of a picture counts",
        "set pictures.masks to 'alpha' or 'file'",
    ),
    _Need(
        ("preview_prompts",),
        lambda config: config.loop.preview_every > 0,
        "loop.preview_every is 0, so no preview is drawn",
        "set loop.preview_every to the steps between two previews",
    ),
    _Need(
        ("loop.preview_every",),
        lambda config: bool(config.preview_prompts),
        "there is nothing to draw",
        "give texts for preview_prompts",
    ),
    _Need(
        ("optim.name",),
        lambda config: config.optim.name != "muon" or _method(config).factors or _method(config).weights,
        "the method '{0.method}' learns vectors alone, and Muon moves matrices",
        "use the method 'pivotal'",
    ),
    _Need(("loop.validate_every",), _never, "a lesson measures nothing on fixed data"),
    _Need(
        ("optim.schedule",),
        lambda config: config.optim.schedule != "trapezoid" or config.optim.decay_steps > 0,
        "optim.decay_steps is 0, so the learning rate never falls",
        "set optim.decay_steps to the steps of the fall",
    ),
)
"""What has no effect in a lesson without something else; all rows with a setting must be met."""

_OF_TABLES = (
    _Need(
        ("optim.decay_all",),
        lambda config: config.optim.weight_decay > 0,
        "optim.weight_decay is 0",
        "set optim.weight_decay to 0.01",
    ),
    _Need(
        ("objective.gamma",),
        lambda config: config.objective.weighting == "min_snr",
        "objective.weighting is '{0.objective.weighting}', which has no ceiling",
        "set objective.weighting to 'min_snr'",
    ),
    _Need(
        ("objective.delta",),
        lambda config: config.objective.loss in ("huber", "pseudo_huber"),
        "objective.loss is '{0.objective.loss}', which turns linear nowhere",
        "set objective.loss to 'huber'",
    ),
    _Need(
        ("objective.logit_mean", "objective.logit_std"),
        lambda config: config.objective.times == "logit_normal",
        "objective.times is '{0.objective.times}'",
        "set objective.times to 'logit_normal'",
    ),
    _Need(
        ("optim.decay_steps",),
        lambda config: config.optim.schedule == "trapezoid",
        "optim.schedule is '{0.optim.schedule}'",
        "set optim.schedule to 'trapezoid'",
    ),
    _Need(
        ("optim.final_lr",),
        lambda config: config.optim.name != "schedule-free",
        "optim.name is 'schedule-free', whose learning rate does not fall",
    ),
    _Need(
        ("optim.final_lr",),
        lambda config: config.optim.schedule != "constant",
        "optim.schedule is 'constant', so the learning rate does not fall",
        "set optim.schedule to 'cosine'",
    ),
    _Need(
        ("optim.muon_lr", "optim.muon_momentum", "optim.muon_precision", "optim.muon_exclude"),
        lambda config: config.optim.name == "muon",
        "optim.name is '{0.optim.name}'",
        "set optim.name to 'muon'",
    ),
    _Need(
        ("optim.betas",),
        lambda config: config.optim.name != "adafactor",
        "optim.name is 'adafactor', which has no moments of that kind",
        "set optim.name to 'adamw'",
    ),
    _Need(
        ("optim.eps",),
        lambda config: config.optim.name not in ("adafactor", "lion"),
        "optim.name is '{0.optim.name}', which does not take it",
        "set optim.name to 'adamw'",
    ),
)
"""The same of tables that lessons and recipes share."""

_OF_DATA = (
    _Need(
        ("data.flip", "data.caption"),
        lambda recipe: recipe.data.kind == "folder",
        "data.kind is '{0.data.kind}', and it is for 'folder'",
    ),
    _Need(
        ("data.size",),
        lambda recipe: recipe.data.kind != "primer",
        "data.kind is 'primer', whose pictures have {0.data.side} pixels a side",
    ),
    _Need(
        ("data.scenes",),
        lambda recipe: recipe.data.kind == "primer",
        "data.kind is '{0.data.kind}', and it is for 'primer'",
    ),
    _Need(
        ("data.folder", "data.split"),
        lambda recipe: recipe.data.kind != "shapes",
        "data.kind is 'shapes', which are drawn in code",
    ),
)
"""The same of the pictures of recipes."""

_OF_RECIPES: Mapping[type[Section], Sequence[_Need]] = {
    DenoiserRecipe: (
        _Need(
            ("loop.preview_every",),
            lambda recipe: bool(recipe.preview.prompts) or recipe.text_encoder is None,
            "preview.prompts is empty, so there is nothing to draw",
        ),
        _Need(
            ("objective.text_dropout",),
            lambda recipe: recipe.text_encoder is not None,
            "there is no text_encoder, so that no text is dropped",
        ),
        _Need(
            ("schedule.beta_start", "schedule.beta_end"),
            lambda recipe: recipe.schedule.kind not in ("cosine", "given"),
            "schedule.kind is '{0.schedule.kind}', which has betas of its own",
        ),
    ),
    AutoencoderRecipe: (
        _Need(
            ("objective.adversarial_start", "objective.gan_loss"),
            lambda recipe: recipe.objective.adversarial_weight > 0,
            "objective.adversarial_weight is 0",
        ),
        _Need(
            ("objective.kl_weight",),
            lambda recipe: recipe.autoencoder.kind == "kl" and recipe.learns == "all",
            "autoencoder.kind is '{0.autoencoder.kind}' and learns is '{0.learns}', and it is for 'kl' and 'all'",
        ),
        _Need(
            ("objective.codebook_weight",),
            lambda recipe: recipe.autoencoder.kind == "vq",
            "autoencoder.kind is '{0.autoencoder.kind}', and it is for 'vq'",
        ),
        _Need(
            ("scaling_pictures",),
            lambda recipe: recipe.learns == "all",
            "learns is '{0.learns}', which keeps the scale that it is given",
        ),
    ),
}
"""The same of recipes of one kind."""
