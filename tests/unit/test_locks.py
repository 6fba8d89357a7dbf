"""One run at a time in a folder, and nothing that blocks after a run has ended, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.errors import ConfigError
from sfumato.runtime import locks
from sfumato.runtime.locks import lock_file, only_one

HOLD = "import sys, time, pathlib; from sfumato.runtime.locks import only_one\n"
HOLD += "with only_one(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_the_first_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "there" / "fox.run"
    with only_one(folder):
        assert lock_file(folder).is_file() and not folder.exists()
        with pytest.raises(ConfigError) as caught, only_one(folder):
            raise AssertionError
        assert caught.value.message == (
            f"Another run works in '{folder}' (process {os.getpid()}); a folder has room for one."
        )
        assert caught.value.field == "output" and "name another output" in str(caught.value.hint)
        with only_one(tmp_path / "there" / "cat.run"):
            pass
        assert lock_file(folder).is_file()
    assert not list(tmp_path.iterdir())
    with only_one(folder):
        (tmp_path / "there" / "result").touch()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["result"]


def test_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"\(process {process.pid}\)"), only_one(tmp_path / "run"):
        raise AssertionError
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock_file(tmp_path / "run").is_file()
    with only_one(tmp_path / "run"):
        assert lock_file(tmp_path / "run").read_text() == f"{os.getpid()}\n"
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_it_was_waited_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = locks._take, []

    def late(file: object) -> None:
        if not taken:
            lock_file(tmp_path / "run").unlink()
        taken.append(file)
        take(file)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "_take", late)
    with only_one(tmp_path / "run"):
        assert len(taken) == 2 and lock_file(tmp_path / "run").is_file()


def test_where_there_can_be_no_lock_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with only_one(tmp_path / "file" / "run"):
        pass

    def unknown(file: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks, "_take", unknown)
    with only_one(tmp_path / "run"), only_one(tmp_path / "run"):
        pass
