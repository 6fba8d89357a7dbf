"""Run all benchmarks, or those named: `python -m benchmarks [NAME ...] [--tiny] [options of the one named]`."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("machine", "generate", "cold_start", "waits", "training_step", "unet_step", "lora_step", "kills")
WHEN_NAMED = ("diffusers_scripts", "first_stage", "paper", "settings", "verdict")
"""Those that need files which are not part of this repository; they run only when they are named."""


def main(words: list[str]) -> int:
    """Run benchmarks one after the other.

    Args:
        words: Names of benchmarks, then options for them; all of `NAMES` if none is named.

    Returns:
        Exit code: 0, 1 when results of the two sides differ, 2 for an unknown name or files that are missing or bad.
    """
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names, options = words[:first], words[first:]
    known = (*NAMES, *WHEN_NAMED)
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.stderr.write(f"Unknown benchmark {unknown[0]!r}; there are {', '.join(known)}.\n")
        return 2
    code = 0
    for name in names or NAMES:
        sys.stdout.write(f"\n{name}\n")
        sys.stdout.flush()
        code = max(code, import_module(f"benchmarks.{name}").main(options))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
