"""What a newcomer waits for: whole commands from process start to their end, beside the times that were promised."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cold_start import seconds_of
from benchmarks.options import parser
from benchmarks.side import ROOT

_PICTURES = ROOT / "src" / "sfumato" / "assets" / "demo" / "unicorn"


@dataclass(frozen=True)
class Wait:
    """A command and how long it may take.

    Attributes:
        name: What it does.
        words: The command, behind `sfumato`; `{}` stands for a new folder.
        short: Words that make it so small that only the benchmark is tested.
        seconds: The time that was promised on two cores.
    """

    name: str
    words: tuple[str, ...]
    short: tuple[str, ...]
    seconds: float


WAITS = (
    Wait("demo", ("demo", "-o", "{}"), ("--steps", "1"), 240),
    Wait(
        "a lesson and its verdict",
        ("learn", str(_PICTURES), "--as", "<unicorn>", "--class", "horse face", "-o", "{}/unicorn.safetensors"),
        ("--steps", "2", "--verdict-steps", "1"),
        90,
    ),
    Wait(
        "training from scratch, recipes/tiny.toml",
        ("train", "denoiser", str(ROOT / "recipes" / "tiny.toml"), "-o", "{}"),
        ("--set", "loop.steps=1", "--set", "data.workers=0"),
        20,
    ),
)


def measured(wait: Wait, repeats: int, threads: int, *, tiny: bool) -> float:
    """Run a command in new folders and return the median of its seconds."""
    taken = []
    for _ in range(repeats):
        folder = tempfile.mkdtemp()
        words = [word.replace("{}", folder) for word in (*wait.words, *(wait.short if tiny else ()))]
        taken.append(seconds_of([sys.executable, "-m", "sfumato", *words], threads))
        shutil.rmtree(folder)
    return median(taken)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        words: Options.

    Returns:
        Exit code 0; 1 where a command fails or takes longer than was promised.
    """
    options = parser("waits", __doc__, repeats=1).parse_args(words)
    code = 0
    for wait in WAITS:
        try:
            seconds = measured(wait, options.repeats, options.threads, tiny=options.tiny)
        except subprocess.CalledProcessError as error:
            sys.stdout.write(f"  {wait.name}: FAILED\n{error.stderr.decode(errors='replace')}\n")
            code = 1
            continue
        holds = seconds <= wait.seconds
        code = code if holds else 1
        said = "holds" if holds else "TOO LONG"
        sys.stdout.write(f"  {wait.name}: {seconds:.1f} s, promised {wait.seconds:.0f} s: {said}\n")
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
