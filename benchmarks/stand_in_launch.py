"""Run a script with the stand-in for torchvision: `python stand_in_launch.py SCRIPT [options of the script]`.

The libraries decide first, without it, whether torchvision is there: they would ask for more than it has.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the script that the command line names as the main program."""
    here = Path(__file__).resolve().parent
    script = sys.argv[1]
    sys.path[0] = str(Path(script).resolve().parent)
    from diffusers.utils import is_torchvision_available as seen_by_diffusers
    from transformers.utils import is_torchvision_available as seen_by_transformers

    seen_by_diffusers()
    seen_by_transformers()  # both keep their answer
    sys.path.append(str(here / "stand_in"))
    sys.argv = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
