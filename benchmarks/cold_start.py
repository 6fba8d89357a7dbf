"""From starting the process to the first PNG on disk: whole commands, 20 steps with guidance, one picture."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.options import parser
from benchmarks.random_base import PROMPTS, write_random_base
from benchmarks.side import ROOT

_DIFFUSERS = """
import sys
import torch
torch.set_num_threads(int(sys.argv[3]))
from pathlib import Path
from benchmarks.diffusers_side import load_pipeline
pipeline = load_pipeline(Path(sys.argv[1]))
draw = torch.Generator().manual_seed(0)
images = pipeline(sys.argv[4], num_inference_steps=int(sys.argv[5]), guidance_scale=4.0, generator=draw).images
images[0].save(sys.argv[2])
"""


def commands(base: Path, folder: Path, threads: int, steps: int) -> dict[str, list[str]]:
    """Return the command of each side."""
    ours = [sys.executable, "-m", "sfumato", "generate", PROMPTS[0], "--base", str(base), "-o", str(folder / "ours")]
    theirs = [sys.executable, "-c", _DIFFUSERS, str(base), str(folder / "theirs.png"), str(threads)]
    return {
        "sfumato": [*ours, "--steps", str(steps), "--sampler", "ddim", "--seed", "0"],
        "diffusers": [*theirs, PROMPTS[0], str(steps)],
    }


def seconds_of(command: Sequence[str], threads: int) -> float:
    """Run a command to its end, with so many threads, and return its seconds."""
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def main(words: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        words: Options.

    Returns:
        Exit code 0.
    """
    made = parser("cold_start", __doc__, repeats=5)
    made.add_argument("--base", type=Path, help="folder of a base (default: random weights, the embedded base's shape)")
    made.add_argument("--steps", type=int, default=20, help="must divide 1000 (default: 20)")
    options = made.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or folder / "base"
        if options.base is None:
            write_random_base(base, tiny=options.tiny)
        sides = commands(base.resolve(), folder, options.threads, options.steps)
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(options.repeats + 1):
            for side, command in sides.items():
                seconds = seconds_of(command, options.threads)
                if repeat:  # the first fills the file cache
                    taken[side].append(seconds)
    ours, theirs = (median(taken[side]) for side in ("sfumato", "diffusers"))
    sys.stdout.write(f"  cold start to the first PNG: sfumato {ours:.2f} s, diffusers {theirs:.2f} s, ")
    sys.stdout.write(f"ratio {theirs / ours:.2f} (medians of {options.repeats})\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
