"""The common base of every table in a recipe file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sfumato.errors import ConfigError
from sfumato.runtime.suggestions import did_you_mean


class Section(BaseModel):
    """One table of a recipe: unknown keys are refused and values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def checked_keys(kind: type) -> BeforeValidator:
    """Make the check that a table has only the keys of a dataclass, which pydantic alone would let pass.

    Args:
        kind: The dataclass that the table becomes.
    """
    known = [item.name for item in fields(kind)]

    def check(value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in known:
                    raise ConfigError(f"unknown key {key!r}.", field=str(key), hint=did_you_mean(str(key), known))
        return value

    return BeforeValidator(check)
