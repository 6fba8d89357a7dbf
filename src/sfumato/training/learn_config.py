"""The settings of a run that teaches a base a subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Literal

from pydantic import Field

from sfumato.adapters.config import InitName
from sfumato.data.templates import TemplateSet
from sfumato.errors import ConfigError
from sfumato.runtime.precision import Holding, Precision
from sfumato.training.ema import EmaConfig
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS, Identifier, Method, MethodName
from sfumato.training.objectives import DenoisingConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.picture_config import PictureConfig
from sfumato.training.section import Section


class SubjectConfig(Section):
    """One subject of a run.

    Attributes:
        folder: Its pictures, with captions beside them if there are any.
        placeholder: The user's word for it, such as `<fox>`.
        class_noun: What it is, in the base's words.
    """

    folder: Path
    placeholder: str = Field(min_length=1)
    class_noun: str = Field(min_length=1)


class LearnConfig(Section):
    """How a subject is learned.

    Attributes:
        method: What learns, a row of `METHODS`.
        kind: A `subject`, or a `style`: then captions end in the word, and the class noun is only where it starts.
        folder: Its pictures, with captions beside them if there are any.
        placeholder: The user's word for it, such as `<fox>`.
        class_noun: What it is, in the base's words.
        further: More subjects that are learned in the same run, each with a word of its own.
        output: The concept file; for a method whose weights all learn also a folder, the whole base as it has become.
        identifier: `new` gives the word vectors of its own, started from the class noun; `rare` uses a word that the
            base hardly knows; None takes what suits the method.
        word: The rare word to use; None picks one by the paper's rule.
        say_class: The class noun follows the word in every text, where the method does that; off shows what the noun is
            good for ([ruiz2023] table 4).
        num_vectors: Vectors of a new word.
        progressive_steps: Steps after which one more of them joins, beginning with one; 0 for all from the start.
        per_image_words: Give every picture a word of its own beside the subject's, said in a quarter of its captions:
            it takes up what that picture alone shows, and is thrown away at the end. A mirrored copy has that of its
            file.
        initializer: Word that a new word starts from; None for the class noun. For one subject alone, as `word` is.
        anchor_weight: Weight of the squared distance of the new word's vectors from where they started, in units of the
            token table's variance; keeps a word editable ([gal2022] regularisation). Words of single pictures go free.
        templates: Sentences that take the place of the pictures' captions, another one each time a picture is seen.
        rank: Rank of the factors; where all weights learn, that of the file taken from their difference.
        adapter: Their kind, a row of `adapters.kinds.KINDS`.
        init: How they start, see `LoRAConfig`; None takes what suits the kind.
        alpha: Their scale is alpha / rank; None for a scale of 1.
        rank_stabilised: Their scale is alpha / sqrt(rank) instead.
        factor: Side of the small matrix of `lokr`, see `LoRAConfig`; None for the divisor next to the square root.
        dropout: Rate on their input.
        targets: Layers of the U-Net that learn, and with `text_encoder.` in front those of the text encoder; without
            any of these it is that encoder's attention.
        lora_plus: Learning rate of `up` over that of `down` ([hayou2024] LoRA+); None for the same.
        text_encoder: Learn in the text encoder too.
        strength: How much of what factors have learned the file holds, see `Usual`.
        prior_weight: Weight of the class pictures that keep the class as it was; 0 for none.
        num_class_images: How many of them.
        class_prompts: What they are asked by: the plain noun ([ruiz2023] 3.2), or the captions of the subject's
            pictures with the noun in place of the word.
        batch_size: Pictures of the subject per step, and as many of the class.
        flip: Add every picture mirrored; not for subjects whose sides differ.
        seed: Seed of everything drawn.
        pictures: How they are cut, masked and varied.
        gradient_checkpointing: Save memory for time in the U-Net.
        precision: Numbers in which U-Net and text encoder compute; what learns and losses stay in float32.
        ema: Average of what learns, which is previewed and becomes the result; a decay of 0 for none.
        objective: The loss.
        optim: The optimizer.
        loop: How long, how often.
        preview_prompts: Texts that are drawn at every preview.
    """

    method: MethodName = "lora"
    kind: Literal["subject", "style"] = "subject"
    folder: Path
    placeholder: str = Field(min_length=1)
    class_noun: str = Field(min_length=1)
    further: tuple[SubjectConfig, ...] = ()
    output: Path
    identifier: Identifier | None = None
    word: str | None = None
    say_class: bool = True
    num_vectors: int = Field(default=1, ge=1)
    progressive_steps: int = Field(default=0, ge=0)
    per_image_words: bool = False
    initializer: str | None = None
    anchor_weight: float = Field(default=0.0, ge=0)
    templates: TemplateSet = "none"
    rank: int = Field(default=Method.rank, ge=1)
    adapter: Literal["lora", "dora", "loha", "lokr"] = "lora"
    init: InitName | None = None
    alpha: float | None = Field(default=None, gt=0)
    rank_stabilised: bool = False
    factor: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("attention",)
    lora_plus: float | None = Field(default=None, gt=0)
    text_encoder: bool = True
    strength: float = Field(default=1.0, gt=0, le=2)
    prior_weight: float = Field(default=0.0, ge=0)
    num_class_images: int = Field(default=32, ge=1)
    class_prompts: Literal["noun", "captions"] = "noun"
    batch_size: int = Field(default=4, ge=1)
    flip: bool = False
    seed: int = 0
    pictures: PictureConfig = PictureConfig()
    gradient_checkpointing: bool = False
    precision: Precision = "fp32"
    ema: EmaConfig = EmaConfig(decay=0.0)
    objective: DenoisingConfig = DenoisingConfig(text_dropout=0.0)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0, warmup_steps=5, schedule="cosine", final_lr=0.1)
    loop: LoopConfig = LoopConfig(steps=150, log_every=10, save_every=50, tensorboard=False)
    preview_prompts: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[SubjectConfig, ...]:
        """All subjects, the main one first."""
        main = SubjectConfig(folder=self.folder, placeholder=self.placeholder, class_noun=self.class_noun)
        return (main, *self.further)

    @property
    def chosen_identifier(self) -> Identifier:
        """The identifier, given or by the method."""
        return self.identifier or METHODS[self.method].identifier

    @property
    def held_in(self) -> Holding:
        """Numbers to hold a base in that is loaded for this lesson: float32 where its own weights learn."""
        if METHODS[self.method].weights:
            return "fp32"
        return "bf16" if self.precision == "bf16" else "stored"


def check_in_use(config: LearnConfig) -> None:
    """Refuse settings that would change nothing, those of factors apart (`check_factors`).

    Args:
        config: The lesson.

    Raises:
        ConfigError: A setting is not at its default, and the lesson lacks what it needs.
    """
    for need in _NEEDS:
        for key in need.settings:
            value = _value(config, key)
            if value in _defaults(key) or need.is_met(config):
                continue
            said = ("on" if value else "off") if isinstance(value, bool) else repr(value)
            instead = need.instead.format(config, subjects=len(config.subjects))
            raise ConfigError(
                f"{key} is {said} but {instead}.",
                field=key,
                hint=f"Leave it out, or {need.remedy}." if need.remedy else "Leave it out.",
            )
    _check_joining(config)


def _value(config: Section, key: str) -> object:
    """Return a setting by dotted key."""
    return reduce(getattr, key.split("."), config)


def _defaults(key: str) -> tuple[object, ...]:
    """Return what a setting is where nobody gave it: in a lesson, and in a table that was made anew for one."""
    name, *inner = key.split(".")
    default = LearnConfig.model_fields[name].default
    return reduce(getattr, inner, default), *(type(default).model_fields[one].default for one in inner)


def _check_joining(config: LearnConfig) -> None:
    """Refuse vectors that would join when the last step is behind them."""
    later, steps = config.num_vectors - 1, config.loop.steps
    joins_at = later * config.progressive_steps
    if joins_at >= steps:
        most, longer = (steps - 1) // later, f"give the lesson more than {joins_at} steps"
        raise ConfigError(
            f"progressive_steps is {config.progressive_steps}, so that the last of {config.num_vectors} vectors would "
            f"join after {joins_at} steps, but the lesson has {steps}.",
            field="progressive_steps",
            hint=f"Set it to {most} or less, or {longer}." if most else f"Leave it out, or {longer}.",
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
    is_met: Callable[[LearnConfig], bool]
    instead: str
    remedy: str = ""


def _method(config: LearnConfig) -> Method:
    """Return the row of the method."""
    return METHODS[config.method]


def _writes_base(config: LearnConfig) -> bool:
    """Say whether the result is the whole base."""
    return _method(config).weights and not config.output.suffix


def _never(_: LearnConfig) -> bool:
    """Say no: a lesson has no use for the setting at all."""
    return False


_OF_VECTORS = ("num_vectors", "progressive_steps", "per_image_words", "initializer", "anchor_weight")
_NEEDS = (
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
        lambda config: not _writes_base(config) or config.rank == _method(config).rank,
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
        ("num_class_images", "class_prompts"),
        lambda config: config.prior_weight > 0,
        "prior_weight is 0, so no class picture is drawn",
        "set prior_weight to 1",
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
        ("pictures.unmasked_weight",),
        lambda config: config.pictures.masks != "none",
        "pictures.masks is 'none', so all of a picture counts",
        "set pictures.masks to 'alpha' or 'file'",
    ),
    _Need(
        ("optim.decay_steps",),
        lambda config: config.optim.schedule == "trapezoid",
        "optim.schedule is '{0.optim.schedule}'",
        "set optim.schedule to 'trapezoid'",
    ),
    _Need(
        ("optim.schedule",),
        lambda config: config.optim.schedule != "trapezoid" or config.optim.decay_steps > 0,
        "optim.decay_steps is 0, so the learning rate never falls",
        "set optim.decay_steps to the steps of the fall",
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
    _Need(("loop.validate_every",), _never, "a lesson measures nothing on fixed data"),
)
"""What has no effect without something else; a setting may stand in several rows, all of which must be met."""
