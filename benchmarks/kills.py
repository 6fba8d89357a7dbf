"""Kill lessons with SIGKILL at random moments, resume them, and compare every byte with lessons left alone.

Every method of `sfumato learn`, and combinations that carry more state (batches that make one step, averages, class
pictures, masks, variants, words that grow), on a tiny random base, through the command line. Compared are the result,
the report of the verdict and the last saved state with the moments of the optimizer.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.killed_lesson import PHASES, Lesson, Moment, clear, command_of, learn_killed, learn_whole, moments
from benchmarks.options import parser
from benchmarks.random_base import write_random_base
from sfumato.training.methods import METHODS

STEPS, SAVE_EVERY = 6, 3
_SHARED = (
    *("--steps", str(STEPS), "--save-every", str(SAVE_EVERY), "--batch-size", "2"),
    *("--verdict-steps", "2", "--set", "loop.log_every=1", "--set", "loop.threads=1"),
)
_FEW = ("--num-class-images", "3")
"""For lessons with class pictures; another one refuses it."""
_RANK = ("--rank", "2")
"""For every method whose file holds factors; a word alone refuses one."""
_PROMPTS = "a {} on a blue background\na big {}\n"
COMBINED = (
    Lesson("lora, accumulated, averaged", (*_RANK, "--accumulate", "2", "--ema", "0.9", "--flip")),
    Lesson(
        "lora with prior, schedule-free",
        (*_RANK, "--prior-weight", "0.5", *_FEW, "--optimizer", "schedule-free", "--no-verdict"),
    ),
    Lesson(
        "pivotal, masks, variants",
        (
            *("--method", "pivotal", *_RANK, "--masks", "alpha", "--variants", "2", "--crop", "0.2"),
            *("--set", "dropout=0.1"),
        ),
    ),
    Lesson(
        "textual-inversion, growing words",
        (
            *("--method", "textual-inversion", "--num-vectors", "3", "--progressive-steps", "2"),
            *("--per-image-words", "--anchor-weight", "0.1", "--templates", "object"),
        ),
    ),
    Lesson(
        "dreambooth with prior, whole base",
        ("--method", "dreambooth", "--prior-weight", "1", *_FEW),
        output="fox",
    ),
)


def lessons() -> tuple[Lesson, ...]:
    """Return a plain lesson of every method, then the combined ones."""
    plain = (Lesson(name, ("--method", name, *(_RANK if method.has_rank else ()))) for name, method in METHODS.items())
    return (*plain, *COMBINED)


def draw_photos(folder: Path) -> None:
    """Draw three pictures of one subject with see-through ground, so that masks can be taken from them."""
    folder.mkdir(parents=True)
    for number in range(3):
        picture = Image.new("RGBA", (48, 48), (60 * number, 80, 200 - 50 * number, 0))
        ImageDraw.Draw(picture).ellipse((8 + 4 * number, 10, 36 + 2 * number, 40), fill=(220, 40, 40, 255))
        picture.save(folder / f"{number}.png")


def shares(kills: int, count: int) -> list[int]:
    """Share kills among lessons, the first ones getting one more where it does not divide."""
    return [kills // count + (number < kills % count) for number in range(count)]


def prove(lesson: Lesson, folder: Path, kills: int, seed: int) -> tuple[list[Moment], str]:
    """Run one lesson alone and once more with kills.

    Returns:
        The moments, and what went wrong, empty if nothing.
    """
    shared = (*_SHARED, "--verdict-prompts", str(folder / "prompts.txt"))
    command = command_of(lesson, folder / "base", folder / "photos", shared)
    places = [folder / name / lesson.title.replace(" ", "-").replace(",", "") for name in ("alone", "killed")]
    for place in places:
        clear(place)
    whole = learn_whole(lesson, command, places[0])
    chosen = moments(whole, kills, random.Random(f"{seed}/{lesson.title}"))
    return chosen, learn_killed(lesson, command, places[1], chosen, whole)


def row(lesson: Lesson, chosen: Sequence[Moment], problem: str) -> str:
    """Write one line of the table."""
    often = Counter(moment.phase for moment in chosen)
    phases = ", ".join(f"{often[phase]} {phase}" for phase in PHASES if often[phase])
    steps = " ".join(str(moment.step) for moment in chosen)
    return f"  {lesson.title:34} {len(chosen):2} kills ({phases}; after step {steps}): {problem or 'exact'}\n"


def main(words: Sequence[str] | None = None) -> int:
    """Kill, resume, compare and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0; 1 when a lesson could not be resumed or ended with other bytes; 2 when none was chosen.
    """
    made = parser("kills", __doc__)
    made.add_argument("--kills", type=int, default=50, help="kills over all lessons (default: 50)")
    made.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="lessons whose title begins so (default: all)"
    )
    made.add_argument("--seed", type=int, default=0, help="decides the moments (default: 0)")
    options = made.parse_args(words)
    chosen = [one for one in lessons() if not options.only or one.title.startswith(tuple(options.only))]
    if not chosen or options.kills < 1:
        titles = ", ".join(one.title for one in lessons())
        sys.stderr.write(
            f"No lesson begins with --only {' '.join(options.only)}, or --kills is 0; there are {titles}.\n"
        )
        return 2
    chosen = chosen[:1] if options.tiny and not options.only else chosen
    counts = shares(3 if options.tiny else options.kills, len(chosen))
    os.environ["OMP_NUM_THREADS"] = "1"
    exact, problems = 0, 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(max(1, options.threads)) as pool:
        folder = Path(name)
        write_random_base(folder / "base", tiny=True)
        draw_photos(folder / "photos")
        (folder / "prompts.txt").write_text(_PROMPTS, encoding="utf-8")
        running = [
            pool.submit(prove, one, folder, count, options.seed) for one, count in zip(chosen, counts, strict=True)
        ]
        for lesson, future in zip(chosen, running, strict=True):
            killed, problem = future.result()
            exact += len(killed) if not problem else 0
            problems += bool(problem)
            sys.stdout.write(row(lesson, killed, problem))
            sys.stdout.flush()
    sys.stdout.write(f"  {sum(counts)} kills, {exact} exact resumes\n")
    return 0 if exact == sum(counts) and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
