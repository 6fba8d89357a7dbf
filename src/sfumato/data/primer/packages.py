"""The npm packages that the training pictures are drawn from: exact versions, installed once into a cache folder.

The icon sets are data and are read directly; the characters are drawn by JavaScript, so Node is needed anyway.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sfumato.errors import DataError
from sfumato.events import Event, Progress

NODE_MAJOR = 20
INSTALL_TIMEOUT_S = 900.0
_INSTALL_NODE = f"Install Node.js {NODE_MAJOR} or newer, which brings npm, and try again."


@dataclass(frozen=True)
class Package:
    """One npm package and what its licence asks of whoever uses the pictures.

    Attributes:
        name: Name of the package.
        version: The exact version.
        licence: Licence of the pictures or texts in it (SPDX name where there is one).
        attribution: Whom to name, in one line.
    """

    name: str
    version: str
    licence: str
    attribution: str


PACKAGES: tuple[Package, ...] = (
    Package("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji by Google Inc"),
    Package("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji (v1, the blobs) by Google Inc"),
    Package("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Fluent Emoji by Microsoft Corporation"),
    Package("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji Flat by Microsoft Corporation"),
    Package("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji by Twitter, Inc. and other contributors"),
    Package("emojibase-data", "17.0.0", "MIT", "Emojibase by Miles Johnson (labels and keywords)"),
    Package("@dicebear/core", "9.4.3", "MIT", "DiceBear by Florian Körner (draws the characters)"),
    Package("@dicebear/collection", "9.4.3", "MIT", "DiceBear collection; each style has its own artist and licence"),
)


def ensure_packages(
    cache: Path | None = None, packages: tuple[Package, ...] = PACKAGES
) -> Generator[Event, None, Path]:
    """Install the packages into a cache folder, unless they are there; the generator returns `node_modules`.

    Args:
        cache: Folder that keeps the packages between runs; `None` takes `default_cache()`.
        packages: What to install, with exact versions.

    Yields:
        Progress of the installation.

    Returns:
        The `node_modules` folder, through `yield from`.

    Raises:
        DataError: Node or npm is missing or too old, or npm failed.
    """
    wanted = {package.name: package.version for package in packages}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    home = (cache or default_cache()) / f"packages-{digest}"
    modules = home / "node_modules"
    if _wrong_versions(modules, packages):
        npm = require_npm()
        yield Progress("install packages", 0, len(packages))
        home.mkdir(parents=True, exist_ok=True)
        manifest = {"name": "sfumato-primer", "private": True, "dependencies": wanted}
        (home / "package.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        _install(home, npm)
        yield Progress("install packages", len(packages), len(packages))
    check_packages(modules, packages)
    return modules


def check_packages(modules: Path, packages: tuple[Package, ...] = PACKAGES) -> None:
    """Refuse a `node_modules` folder that lacks a package or has another version of it.

    Why: the pictures, and so the weights trained on them, are only reproducible from the very same drawings.

    Args:
        modules: A `node_modules` folder.
        packages: What must be in it.

    Raises:
        DataError: A package is missing or has another version.
    """
    wrong = _wrong_versions(modules, packages)
    if wrong:
        raise DataError(
            f"{modules} does not hold the packages of the training set: {'; '.join(wrong)}.",
            field="packages",
            hint="Leave the option away so that they are installed, or install exactly these versions.",
        )


def require_node(environment: Mapping[str, str] | None = None) -> str:
    """Return the path of Node after checking that it is there and new enough.

    Args:
        environment: Variables to look for `PATH` in; `None` takes those of this process.

    Raises:
        DataError: Node is missing, or older than 20.
    """
    node = _program("node", "the characters are drawn with it", environment)
    run = subprocess.run(
        [node, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    answer = run.stdout.strip()
    match = re.match(r"v?(\d+)\.", answer)
    if match is None or int(match.group(1)) < NODE_MAJOR:
        raise DataError(
            f"Node {answer or 'of unknown version'} was found; {NODE_MAJOR} or newer is needed.", hint=_INSTALL_NODE
        )
    return node


def require_npm(environment: Mapping[str, str] | None = None) -> str:
    """Return the path of npm after checking that it is there, with a Node that is new enough.

    Args:
        environment: Variables to look for `PATH` in; `None` takes those of this process.

    Raises:
        DataError: Node or npm is missing, or Node is older than 20.
    """
    require_node(environment)
    return _program("npm", "the packages are installed with it", environment)


def renderer_version() -> str:
    """Return the name of the renderer and its version, which decides about the pixels.

    Raises:
        DataError: It is not installed.
    """
    try:
        return f"resvg_py {version('resvg_py')}"
    except PackageNotFoundError as error:
        raise DataError(
            "The package 'resvg_py', which renders the pictures, is not installed.",
            hint="Run in the repository: pip install --editable '.[train]'",
        ) from error


def default_cache() -> Path:
    """Return the folder for things that can be fetched again: `$XDG_CACHE_HOME/sfumato` or `~/.cache/sfumato`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sfumato"


def _program(name: str, purpose: str, environment: Mapping[str, str] | None) -> str:
    """Return the path of a program."""
    found = shutil.which(name, path=(environment or os.environ).get("PATH", ""))
    if found is None:
        raise DataError(f"The program '{name}' was not found; {purpose}.", hint=_INSTALL_NODE)
    return found


def _install(home: Path, npm: str) -> None:
    """Run npm in the folder; its scripts stay off, since the packages are only read."""
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    shown = f"npm {' '.join(command[1:])}"
    try:
        run = subprocess.run(
            command,
            cwd=home,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"'{shown}' in {home} did not finish within {INSTALL_TIMEOUT_S:.0f} s.",
            hint="Check the network connection and try again.",
        ) from error
    if run.returncode != 0:
        lines = re.sub(r"\S+://\S+", "<address>", run.stderr or run.stdout).strip().splitlines()
        raise DataError(
            f"'{shown}' in {home} failed with exit code {run.returncode}: {' | '.join(lines[:4])[:600]}",
            hint="Check the network connection, or pass a node_modules folder that has the packages.",
        )


def _wrong_versions(modules: Path, packages: tuple[Package, ...]) -> list[str]:
    """Describe each package that is missing or has another version."""
    wrong = []
    for package in packages:
        description = modules / package.name / "package.json"
        found = _read(description).get("version") if description.is_file() else None
        if found != package.version:
            wrong.append(f"{package.name} {package.version} needed, {found or 'nothing'} found")
    return wrong


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; an unreadable one counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
