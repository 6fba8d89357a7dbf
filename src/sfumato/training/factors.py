"""Make what learns beside the weights of a base, as the method and the settings ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.kinds import KINDS
from sfumato.adapters.lora import LoRA
from sfumato.errors import ConfigError
from sfumato.runtime.seeding import generator
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS

_OF_FACTORS = ("adapter", "init", "rank_stabilised", "alpha", "targets")


def make_adapters(config: LearnConfig, modules: Mapping[str, nn.Module]) -> dict[str, LoRA]:
    """Make the adapters of a run, not attached yet.

    Args:
        config: Method, kind, rank, targets and so on.
        modules: The parts of the base by name.

    Returns:
        One adapter per part that learns; none where the method has no factors.

    Raises:
        ConfigError: A setting has no meaning for the method.
        NoTargetMatched: A pattern fits no layer.
        AdapterError: A layer cannot be changed.
    """
    method = METHODS[config.method]
    if method.full or not method.factors:
        _check_unused(config)
    if not method.factors:
        return {}
    chosen = {"unet": config.targets} | ({"text_encoder": ("attention",)} if config.text_encoder else {})
    form = LoRAConfig(
        config.rank,
        config.alpha,
        config.dropout,
        init=config.init or KINDS[config.adapter].USUAL_INIT,
        rank_stabilised=config.rank_stabilised,
        kind=config.adapter,
    )
    if method.full:
        chosen, form = {"unet": method.full}, LoRAConfig(dropout=config.dropout, kind="full")
    return {
        part: LoRA(modules[part], replace(form, targets=targets), generator=generator(config.seed, f"train/{part}"))
        for part, targets in chosen.items()
    }


def _check_unused(config: LearnConfig) -> None:
    """Refuse settings of factors where there are none."""
    for name in _OF_FACTORS:
        given, default = getattr(config, name), LearnConfig.model_fields[name].default
        if given != default:
            raise ConfigError(
                f"{name} is {given!r} but the method '{config.method}' learns no factors.",
                field=name,
                hint=f"Leave it out, or use a method with factors: {', '.join(_with_factors())}.",
            )


def _with_factors() -> list[str]:
    """Name the methods whose factors can be chosen."""
    return [name for name, method in METHODS.items() if method.factors and not method.full]
