"""Installing the npm packages, with stand-ins for node and npm."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

import sfumato.data.primer.packages as packages_module
from sfumato.data.primer.packages import (
    PACKAGES,
    check_packages,
    default_cache,
    ensure_packages,
    require_node,
    require_npm,
)
from sfumato.errors import DataError
from sfumato.events import Event, Progress
from tiny_primer import write_packages


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    program(folder, "node", "echo v22.1.0")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def install(cache: Path) -> tuple[list[Event], Path]:
    """Run the installation to its end."""
    events = []
    steps = ensure_packages(cache)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def test_packages_are_installed_once(tmp_path: Path, programs: Path) -> None:
    ready = write_packages(tmp_path / "ready")
    program(programs, "npm", f'echo "$@" > arguments; cp -r {ready} node_modules')
    events, modules = install(tmp_path / "cache")
    assert [type(event) for event in events] == [Progress, Progress]
    wanted = json.loads((modules.parent / "package.json").read_text())["dependencies"]
    assert wanted == {package.name: package.version for package in PACKAGES}
    assert "install --ignore-scripts" in (modules.parent / "arguments").read_text()
    program(programs, "npm", "exit 1")
    assert install(tmp_path / "cache") == ([], modules)


def test_a_failed_installation_shows_command_and_reason(tmp_path: Path, programs: Path) -> None:
    program(
        programs, "npm", 'echo "npm error code E404" >&2; echo "npm error 404 https://somewhere.test/x" >&2; exit 7'
    )
    with pytest.raises(DataError) as caught:
        install(tmp_path / "cache")
    message = str(caught.value)
    assert "'npm install --ignore-scripts --no-audit --no-fund --loglevel=error' in" in message
    assert "failed with exit code 7: npm error code E404 | npm error 404 <address>" in message


def test_an_installation_that_hangs_is_stopped(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs, "npm", "exec sleep 30")
    monkeypatch.setattr(packages_module, "INSTALL_TIMEOUT_S", 0.2)
    with pytest.raises(DataError, match=r"'npm install .*' in .* did not finish within 0 s"):
        install(tmp_path / "cache")


def test_an_installation_of_something_else_is_noticed(tmp_path: Path, programs: Path) -> None:
    program(programs, "npm", "mkdir node_modules")
    with pytest.raises(DataError, match=r"@iconify-json/noto 1\.2\.9 needed, nothing found"):
        install(tmp_path / "cache")


def test_programs_that_are_missing_or_old_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    path = {"PATH": str(folder)}
    for require in (require_node, require_npm):
        with pytest.raises(DataError, match=r"'node' was not found; .*Install Node\.js 20 or newer"):
            require(path)
    for answer, named in (("echo v18.20.2", r"Node v18\.20\.2"), ("exit 1", "Node of unknown version")):
        program(folder, "node", answer)
        for require in (require_node, require_npm):
            with pytest.raises(DataError, match=f"{named} was found; 20 or newer is needed"):
                require(path)
    program(folder, "node", "echo v20.0.0")
    assert require_node(path) == str(folder / "node")
    with pytest.raises(DataError, match="'npm' was not found"):
        require_npm(path)
    program(folder, "npm", "true")
    assert require_npm(path) == str(folder / "npm")


def test_packages_that_are_there_need_no_programs(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = write_packages(tmp_path / "ready")
    program(programs, "npm", f"cp -r {ready} node_modules")
    _, modules = install(tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(tmp_path / "cache") == ([], modules)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    modules = write_packages(tmp_path)
    check_packages(modules)
    (modules / "@iconify-json/noto/package.json").write_text('{"version": "1.2.8"}')
    (modules / "emojibase-data/package.json").write_text("broken")
    with pytest.raises(
        DataError, match=r"noto 1\.2\.9 needed, 1\.2\.8 found; emojibase-data 17\.0\.0 needed, nothing found"
    ):
        check_packages(modules)


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "sfumato"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "sfumato"
