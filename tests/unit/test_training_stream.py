"""Batches made ahead in worker processes, when something comes from outside: signals, an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.errors import TrainingError
from sfumato.training.stream import Prefetched


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in a terminal reaches every process; what the parent still needs for its step must come."""
    script = (
        "import os, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        "from sfumato.training.stream import Prefetched\n"
        "from waits import Waits\n"
        "if __name__ == '__main__':\n"
        "    folder, seen = Path(sys.argv[1]), []\n"
        f"    signal.signal({int(number)}, lambda number, frame: seen.append(number))\n"
        "    def send():\n"
        "        while not (folder / 'began-1').exists():\n"
        "            time.sleep(0.01)\n"
        f"        os.killpg(os.getpgid(0), {int(number)})\n"
        "    threading.Thread(target=send).start()\n"
        "    with Prefetched(Waits(folder), workers=1, ahead=1) as stream:\n"
        "        print([stream.get(index) for index in range(4)], len(seen))\n"
    )
    source = (
        "import time\n"
        "class Waits:\n"
        "    def __init__(self, folder):\n"
        "        self.folder = folder\n"
        "    def __call__(self, index):\n"
        "        (self.folder / f'began-{index}').touch()\n"
        "        time.sleep(0.3)\n"
        "        return index\n"
    )
    (tmp_path / "waits.py").write_text(source)
    (tmp_path / "main.py").write_text(script)
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.stdout.strip(), done.returncode) == ("[0, 1, 2, 3] 1", 0), done.stderr


class Ends:
    """Ends its process."""

    def __call__(self, index: int) -> int:
        os._exit(1)


def test_a_worker_that_was_ended_is_told_in_one_message() -> None:
    with Prefetched(Ends(), workers=1) as stream, pytest.raises(TrainingError, match="ended from outside") as told:
        stream.get(0)
    assert told.value.field == "data.workers" and "`if __name__ == '__main__':`" in (told.value.hint or "")


class EndsLater:
    """Makes one batch, and dies at the next."""

    def __call__(self, index: int) -> int:
        if index:
            os._exit(1)
        return index


def test_a_worker_that_has_worked_has_a_guard() -> None:
    with Prefetched(EndsLater(), workers=1, ahead=0) as stream:
        assert stream.get(0) == 0
        with pytest.raises(TrainingError) as told:
            stream.get(1)
    assert "__main__" not in (told.value.hint or "")
