"""Values given by key on the command line: `--set loop.steps=500`."""

from __future__ import annotations

from collections.abc import Iterable

from sfumato.errors import ConfigError


def key_and_value(text: str) -> tuple[str, str]:
    """Split `loop.steps=500`.

    Raises:
        ConfigError: There is no `=` or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set: given {text!r}; needed KEY=VALUE.", field="overrides", hint="For example --set loop.steps=500."
        )
    return key.strip(), value.strip()


def overridden_keys(texts: Iterable[str]) -> set[str]:
    """Return the keys of some `loop.steps=500`.

    Raises:
        ConfigError: See `key_and_value`.
    """
    return {key_and_value(text)[0] for text in texts}
