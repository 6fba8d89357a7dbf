"""Make what learns beside the weights of a base, as the method and the settings ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from sfumato.adapters.config import LINEAR, PAIRED, LoRAConfig
from sfumato.adapters.kinds import KINDS
from sfumato.adapters.lora import LoRA
from sfumato.adapters.targets import find_targets
from sfumato.errors import ConfigError
from sfumato.runtime.seeding import generator
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim import OptimConfig

OF_TEXT = "text_encoder."
"""What a pattern begins with that chooses layers of the text encoder."""
_USUAL_OF_TEXT = ("attention",)
_OF_FACTORS = (
    "adapter",
    "rank",
    "init",
    "rank_stabilised",
    "alpha",
    "factor",
    "targets",
    "lora_plus",
    "dropout",
    "strength",
)

_APART: Mapping[str, Mapping[str, float]] = {
    "adafactor": {"*.magnitude": 0.01, "learned-word.*": 0.1},
    "muon": {"*.magnitude": 1 / 3, "learned-word.*": 1 / 3},
}
"""Factors on rates that optimizers have for what starts at zero, or for matrices: for what is neither."""


def check_factors(config: LearnConfig, modules: Mapping[str, nn.Module]) -> None:
    """Refuse settings of factors that would do nothing, before any time is spent.

    Args:
        config: Method, kind, rank, targets and so on.
        modules: The parts of the base by name.

    Raises:
        ConfigError: The method has no use for a setting, or two do not go together.
        NoTargetMatched: A pattern fits no layer.
    """
    method = METHODS[config.method]
    used = {"rank": method.has_rank, "dropout": method.factors}
    for name in _OF_FACTORS:
        given, default = getattr(config, name), LearnConfig.model_fields[name].default
        if given != default and not used.get(name, method.has_factors):
            learns = "whole matrices" if method.full else "all weights" if method.weights else "the word alone"
            raise ConfigError(
                f"{name} is {given!r} but the method '{config.method}' learns {learns}, no factors.",
                field=name,
                hint=f"Leave it out, or use a method with factors: {', '.join(_with_factors())}.",
            )
    if method.has_factors:
        for part, targets in _chosen(config).items():
            find_targets(modules[part], targets, prefix=OF_TEXT if part == "text_encoder" else "")
    if config.strength != 1 and config.adapter not in LINEAR:
        raise ConfigError(
            f"strength is {config.strength:g} but the change of '{config.adapter}' does not go with a scale.",
            field="strength",
            hint=f"Leave it out, or use one of the adapters {', '.join(LINEAR)}.",
        )
    if config.lora_plus is not None:
        _check_ratio(config, config.lora_plus)


def make_adapters(config: LearnConfig, modules: Mapping[str, nn.Module]) -> dict[str, LoRA]:
    """Make the adapters of a run that `check_factors` has passed, not attached yet.

    Args:
        config: Method, kind, rank, targets and so on.
        modules: The parts of the base by name.

    Returns:
        One adapter per part that learns; none where the method has no factors.

    Raises:
        ConfigError: Two settings of the factors do not go together.
        NoTargetMatched: A pattern fits no layer.
        AdapterError: A layer cannot be changed.
    """
    method = METHODS[config.method]
    if not method.factors:
        return {}
    form = LoRAConfig(
        config.rank,
        config.alpha,
        config.dropout,
        init=config.init or KINDS[config.adapter].USUAL_INIT,
        rank_stabilised=config.rank_stabilised,
        kind=config.adapter,
        factor=config.factor,
    )
    if method.full:
        form = LoRAConfig(dropout=config.dropout, kind="full")
    chosen = {"unet": method.full} if method.full else _chosen(config)
    return {
        part: LoRA(modules[part], replace(form, targets=targets), generator=generator(config.seed, f"train/{part}"))
        for part, targets in chosen.items()
    }


def is_of_text(pattern: str) -> bool:
    """Say whether a pattern of `targets`, with or without `!`, chooses layers of the text encoder."""
    return pattern.removeprefix("!").startswith(OF_TEXT)


def starts_at_zero(config: LearnConfig) -> bool:
    """Say whether what is learned is added to the weights and starts at zero; PiSSA's factors hold the weights."""
    return METHODS[config.method].factors and config.init != "pissa"


def rates(config: LearnConfig) -> OptimConfig:
    """Return the settings of the optimizer, with the rates that are apart.

    That of `up` where LoRA+ is asked for; and those of the lengths of DoRA and of the vectors beside factors, where an
    optimizer's rate is made for factors. Where vectors alone learn, weight decay is theirs.
    """
    method, factors = METHODS[config.method], dict(config.optim.lr_factors)
    if config.lora_plus is not None:
        factors["*.up"] = config.lora_plus
    if not config.optim.lr_factors:
        name, has_own = config.optim.name, config.optim.muon_lr is not None
        suits = starts_at_zero(config) if name == "adafactor" else not has_own
        apart = _APART.get(name, {}) if suits else {}
        learns = {
            "*.magnitude": config.adapter == "dora",
            "learned-word.*": method.factors and config.chosen_identifier == "new",
        }
        factors |= {pattern: factor for pattern, factor in apart.items() if learns[pattern]}
    alone = not (method.factors or method.weights)
    return config.optim.model_copy(update={"lr_factors": factors, "decay_all": config.optim.decay_all or alone})


def _chosen(config: LearnConfig) -> dict[str, tuple[str, ...]]:
    """Return the patterns for the layers of each part that learns, without the name of the part.

    Where no pattern chooses layers of the text encoder these are the usual ones, less what patterns with `!` take away.
    """
    of_text = tuple(pattern for pattern in config.targets if is_of_text(pattern))
    chosen = {"unet": tuple(pattern for pattern in config.targets if not is_of_text(pattern))}
    if of_text and not config.text_encoder:
        raise ConfigError(
            f"targets holds '{of_text[0]}' but text_encoder is off: no layer of the text encoder learns.",
            field="targets",
            hint="Leave the pattern out, or let the text encoder learn.",
        )
    if config.text_encoder:
        usual = () if any(not pattern.startswith("!") for pattern in of_text) else _USUAL_OF_TEXT
        chosen["text_encoder"] = (*usual, *(pattern.replace(OF_TEXT, "", 1) for pattern in of_text))
    return chosen


def _check_ratio(config: LearnConfig, ratio: float) -> None:
    """Refuse LoRA+ where the factors are no pair, or where rates are given in another way too."""
    if config.adapter not in PAIRED:
        raise ConfigError(
            f"lora_plus is {ratio:g} but the adapter '{config.adapter}' has no inner and outer factor.",
            field="lora_plus",
            hint=f"Leave it out, or use one of the adapters {', '.join(PAIRED)}.",
        )
    if config.optim.lr_factors:
        raise ConfigError(
            f"lora_plus is {ratio:g} and optim.lr_factors is {config.optim.lr_factors}; needed one of them.",
            field="lora_plus",
            hint="Leave lora_plus out and give its ratio to '*.up' in optim.lr_factors.",
        )


def _with_factors() -> list[str]:
    """Name the methods whose factors can be chosen."""
    return [name for name, method in METHODS.items() if method.has_factors]
