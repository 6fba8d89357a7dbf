"""Read TOML files, with one clear error when that is not possible."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sfumato.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.

    Returns:
        Its tables as plain data.

    Raises:
        ConfigError: The file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"'{path}' does not exist; a TOML file was needed.", hint="Check the path.") from error
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}.", hint="A TOML file was needed.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not TOML: {error}.", hint="Correct the line it names.") from error
