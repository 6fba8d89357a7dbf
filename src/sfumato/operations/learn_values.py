"""Bring the settings of a request into those of the trainer: defaults, then what suits the optimizer, file, flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.adapters.config import LINEAR
from sfumato.errors import ConfigError
from sfumato.models.unet_config import UNetConfig
from sfumato.operations.overrides import key_and_value, overridden_keys
from sfumato.requests import LearnRequest, flag_of
from sfumato.training.factors import is_of_text
from sfumato.training.in_use import check_in_use
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim_library import LONGER, SUITED, suited_factor
from sfumato.training.recipe_file import parse_recipe, set_value

PLACES: Mapping[str, str] = LearnRequest.places
"""Where a field of the request stands among the trainer's settings."""
_ARGUMENTS = {
    "folder": "folder",
    "placeholder": "placeholder",
    "class_noun": "class_noun",
    "kind": "style",
    "further": "also",
    "method": "method",
    "output": "output",
}
"""Keys of the trainer that the verdict and what is usual go by too: fields of the request, not for `--set`."""
_LEAST_FACTOR = 0.05
"""Least `lr` of Prodigy."""
TABLES = ("optim", "objective", "pictures", "ema", "loop")


def with_settings(config: LearnConfig, request: LearnRequest, unet: UNetConfig) -> LearnConfig:
    """Return the trainer's settings with those of a request in them.

    Args:
        config: The trainer's settings so far.
        request: What was asked for; fields that were not given change nothing.
        unet: That of the base, whose width decides what is usual.

    Raises:
        ConfigError: A key is unknown or has an argument of its own, or a value is out of range, does not fit another or
            would change nothing.
    """
    content = config.model_dump()
    overrides = dict(key_and_value(text) for text in request.overrides)
    _check_arguments(overrides)
    name = overrides.get("optim.name") or request.optimizer or request.optim.get("name") or config.optim.name
    name = str(name).strip("\"'")
    method = METHODS[config.method]
    usual = method.usual(unet.widest)
    known = {str(key): key for key in SUITED}.get(name)  # an unknown one is refused below
    from_zero = method.factors and str(overrides.get("init", request.init)).strip("\"'") != "pissa"
    factor = 1.0 if known is None else suited_factor(known, from_zero=from_zero)
    suited = {} if known is None else {key: value for key, value in SUITED[known].items() if key != "lr_factor"}
    longer = 1 if known is None else LONGER.get(known, 1)
    content["optim"] |= {"lr": usual.lr * factor, "schedule": method.schedule, **suited}
    if not times_are_chosen(request):
        content["objective"]["shift"] = usual.shift
    content["loop"]["steps"] = usual.steps * longer
    del content["loop"]["save_every"], content["loop"]["preview_every"]
    content["rank"] = request.rank or method.rank
    content["targets"] = request.targets or usual.targets
    for table in TABLES:
        content[table] |= getattr(request, table)
    for field, place in PLACES.items():
        value = getattr(request, field)
        if field in request.model_fields_set and value is not None:
            _put(content, place, value)
    for key, text in overrides.items():
        set_value(content, key, text)
    if method.has_factors:
        content["targets"] = _with_usual(content["targets"], usual.targets)
    if isinstance(content["loop"], dict):  # what is no table is refused below
        _set_intervals(content["loop"], config.loop.save_every, draws=bool(content["preview_prompts"]))
    if request.strength is None and "strength" not in overrides:
        content["strength"] = usual.strength if content["adapter"] in LINEAR else 1.0
    made = parse_recipe(content, LearnConfig, "settings")
    check_in_use(made)
    _check_prodigy(made)
    return made


def times_are_chosen(request: LearnRequest) -> bool:
    """Say whether a request names the distribution of times, by flag, file or `--set`; it is not moved then."""
    given = request.model_fields_set | request.objective.keys()
    return "times" in given or "objective.times" in overridden_keys(request.overrides)


def _check_prodigy(config: LearnConfig) -> None:
    """Refuse the rate of another optimizer for Prodigy, which takes a factor on the rate that it finds itself."""
    if config.optim.name == "prodigy" and config.optim.lr < _LEAST_FACTOR:
        raise ConfigError(
            f"lr is {config.optim.lr:g} but the optimizer is 'prodigy', whose lr is a factor on the rate that it "
            f"finds: with less than {_LEAST_FACTOR:g} next to nothing is learned.",
            field="lr",
            hint="Leave it out: it is 1 then.",
        )


def _check_arguments(overrides: Mapping[str, str]) -> None:
    """Refuse to set what more than the trainer goes by."""
    for key, value in overrides.items():
        name = _ARGUMENTS.get(key.partition(".")[0])
        if name is None:
            continue
        flag = flag_of(name, LearnRequest.model_fields[name])
        argument = f"the argument {flag.metavar}" if flag.positional else flag.names[-1]
        raise ConfigError(
            f"--set: given '{key}={value}'; '{key}' is not the trainer's alone and is set by {argument}.",
            field=name,
            hint=f"Give {argument} instead.",
        )


def _with_usual(targets: object, usual: tuple[str, ...]) -> object:
    """Let the usual layers of the U-Net learn where all patterns are for the text encoder."""
    if not isinstance(targets, list | tuple) or not targets:
        return targets  # what is no list is refused later
    of_text = (isinstance(pattern, str) and is_of_text(pattern) for pattern in targets)
    return [*usual, *targets] if all(of_text) else targets


def _set_intervals(loop: dict[str, Any], shortest: int, *, draws: bool) -> None:
    """Save at every quarter, but not more often than every `shortest` steps, and preview at every save, unless told."""
    loop.setdefault("save_every", max(shortest, _quarter(loop.get("steps"))))
    loop.setdefault("preview_every", loop["save_every"] if draws else 0)


def _quarter(steps: object) -> int:
    """Return a quarter of a number of steps, rounded up; 0 of what is none, which is refused later."""
    return -(-steps // 4) if isinstance(steps, int) else 0


def _put(content: dict[str, Any], place: str, value: Any) -> None:
    """Set a value as it is by dotted key."""
    table, _, key = place.rpartition(".")
    (content[table] if table else content)[key] = value
