"""Whole lessons beside diffusers' own training scripts, from the command line to the file, judged by one instrument.

`lora` against `train_dreambooth_lora.py` with `--train_text_encoder`, `textual-inversion` against
`textual_inversion.py`: the same pictures, base, seed, steps, batch size and rank; theirs once with its own learning
rate and once with ours. Both files are drawn by one pipeline with the same prompts and seeds. The scripts are not part
of this repository: give the folder in which they lie with `--scripts`. Exit code 0 whatever comes out, 1 when a lesson
fails, 2 when files or options are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.judged import JUDGE_SEED, Entry, Judge, demands
from benchmarks.options import parser
from benchmarks.random_base import write_random_base
from benchmarks.side import ROOT
from benchmarks.their_files import EMBEDDING_FILE, LORA_FILE, read_embedding, read_lora
from benchmarks.watched import Watched, watch
from sfumato.adapters.tokens import rare_identifier
from sfumato.data.listing import list_entries
from sfumato.evaluation.plan import Drawing
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.formats.bundle import Bundle, find_bundle, load_bundle
from sfumato.formats.concept import Concept, LearnedWord, load_concept
from sfumato.operations.demo import CLASS_NOUN, PHOTOS, PLACEHOLDER
from sfumato.pipeline import Pipeline
from sfumato.training.methods import METHODS, MethodName

SCRIPTS: dict[MethodName, str] = {"lora": "train_dreambooth_lora.py", "textual-inversion": "textual_inversion.py"}
LAUNCHER = Path(__file__).resolve().parent / "stand_in_launch.py"


@dataclass(frozen=True)
class Lesson:
    """What both sides are told.

    Attributes:
        options: The options of the benchmark.
        base: Folder of the base.
        pictures: Folder with the subject's pictures alone, for their side.
        taught: The folder for our side: the same one, or one with captions beside the pictures.
        word: The word, the class noun, and what their LoRA script is told in its place: a rare word and the noun.
        start: The single token from which their new word starts, and ours with `--start`.
        launch: What their scripts are started with.
    """

    options: argparse.Namespace
    base: Path
    pictures: Path
    taught: Path
    word: LearnedWord
    start: str
    launch: tuple[str, ...]

    def ours(self, method: MethodName, output: Path, *, verdict: bool) -> list[str]:
        """Return the command line of our lesson."""
        word, options = self.word, self.options
        command = [sys.executable, "-m", "sfumato", "learn", str(self.taught), "--as", word.placeholder]
        command += ["--class", word.class_noun, "--base", str(self.base), "--method", method]
        command += ["--steps", str(options.steps), "--batch-size", str(options.batch), "--seed", str(options.seed)]
        command += ["--rank", str(options.rank)] if method == "lora" else []
        command += ["--initializer", self.start] if method == "textual-inversion" and options.start else []
        command += ["--verdict-steps", "2"] if options.tiny else []
        return [*command, *(() if verdict else ("--no-verdict",)), "-o", str(output)]

    def theirs(self, method: MethodName, output: Path, size: int, lr: float | None) -> list[str]:
        """Return the command line of their lesson; without `lr` the script uses its own."""
        options = self.options
        command = [*self.launch, str(options.scripts.resolve() / SCRIPTS[method])]
        command += ["--pretrained_model_name_or_path", str(self.base), "--output_dir", str(output)]
        command += ["--resolution", str(size), "--center_crop", "--seed", str(options.seed)]
        command += ["--train_batch_size", str(options.batch), "--max_train_steps", str(options.their_steps)]
        command += [] if lr is None else ["--learning_rate", str(lr)]
        if method == "lora":
            prompt = f"a {self.word.expansion}"
            command += ["--instance_data_dir", str(self.pictures), "--instance_prompt", prompt]
            return [*command, "--train_text_encoder", "--rank", str(options.rank)]
        command += ["--train_data_dir", str(self.pictures), "--placeholder_token", self.word.placeholder]
        return [*command, "--initializer_token", self.start]


def main(words: Sequence[str] | None = None) -> int:
    """Learn on both sides, judge and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0 when everything ran, whichever side is better; 2 when files or options are missing.
    """
    options = _options(words)
    missing = _missing(options)
    if missing:
        sys.stderr.write(f"{missing}\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = (options.output or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        base = folder / "base"
        if options.tiny and options.base is None:
            write_random_base(base, tiny=True)
        else:
            base = find_bundle(options.base or "primer").resolve()
        bundle = load_bundle(base)
        lesson = _lesson(options, bundle, base, folder)
        sys.stdout.write(_heading(lesson, bundle))
        for method in options.methods:
            _compare(lesson, method, bundle, folder)
    return 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; tiny sizes where the benchmark itself is tested."""
    made = parser("diffusers_scripts", __doc__, repeats=1)
    made.add_argument("--scripts", type=Path, help=f"folder with {' and '.join(SCRIPTS.values())} of diffusers")
    made.add_argument("--methods", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS), help="default: both")
    made.add_argument("--pictures", type=Path, help="pictures of a subject (default: those of `sfumato demo`)")
    made.add_argument("--class", dest="noun", help="what it is, with --pictures")
    made.add_argument(
        "--start",
        help="start new words of both sides from this (default: theirs from the first word of the "
        "noun that is one token, ours from the whole noun)",
    )
    made.add_argument("--captions", action="store_true", help="leave captions to our side; theirs reads none")
    made.add_argument("--base", help="name or folder of a base (default: primer)")
    made.add_argument("--steps", type=int, default=None, help="optimizer steps (default: 60)")
    made.add_argument("--their-steps", type=int, default=None, help="steps of their side (default: as many as ours)")
    made.add_argument("--batch", type=int, default=None, help="pictures a step (default: 4)")
    made.add_argument("--rank", type=int, default=None, help="rank of the factors (default: 8)")
    made.add_argument("--seeds", type=int, default=None, help="pictures of each prompt that are judged (default: 4)")
    made.add_argument("--seed", type=int, default=0, help="seed of both sides (default: 0)")
    made.add_argument("--output", type=Path, help="new folder that keeps what both sides write")
    options = made.parse_args(words)
    usual, tiny = {"steps": 60, "batch": 4, "rank": 8, "seeds": 4}, {"steps": 2, "batch": 1, "rank": 2, "seeds": 2}
    for key, value in (tiny if options.tiny else usual).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    options.their_steps = options.their_steps or options.steps
    return options


def _missing(options: argparse.Namespace) -> str:
    """Say what is missing; empty where nothing is."""
    wanted = [SCRIPTS[method] for method in options.methods]
    if options.scripts is None:
        return f"diffusers_scripts needs --scripts FOLDER with {' and '.join(wanted)} from diffusers' examples."
    for name in wanted:
        if not (options.scripts / name).is_file():
            return f"--scripts: given {options.scripts}, which has no {name}; it is among the examples of diffusers."
    if options.pictures is not None and options.noun is None:
        return f"--pictures: given {options.pictures} without --class, which says what they show."
    if options.output is not None and options.output.exists():
        return f"--output: given {options.output}, which is there already; needed: a new folder."
    return ""


def _lesson(options: argparse.Namespace, bundle: Bundle, base: Path, folder: Path) -> Lesson:
    """Copy the pictures and choose the words."""
    source = options.pictures or PHOTOS
    noun = options.noun or ("dog" if options.tiny else CLASS_NOUN)
    pictures = taught = folder / "pictures"
    pictures.mkdir()
    for entry in list_entries(source):
        shutil.copy(entry.path, pictures)
    if options.captions:
        taught = Path(shutil.copytree(source, folder / "captioned"))
    rare = rare_identifier(bundle.tokenizer.vocabulary, seed=options.seed, avoid=(noun,))
    starts = [word for word in (options.start or noun).split() if len(bundle.tokenizer.pieces(word)) == 1]
    if not starts and "textual-inversion" in options.methods:
        given, script = options.start or noun, SCRIPTS["textual-inversion"]
        raise SystemExit(f"No word of '{given}' is one token of this base; {script} needs one: give --start.")
    launch = (sys.executable,) if has_torchvision() else (sys.executable, str(LAUNCHER))
    word = LearnedWord(PLACEHOLDER, noun, f"{rare} {noun}")
    return Lesson(options, base, pictures, taught, word, next(iter(starts), ""), launch)


def has_torchvision() -> bool:
    """Say whether torchvision can be imported; a build for another torch is there and cannot."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    tried = subprocess.run([sys.executable, "-c", "import torchvision.transforms"], capture_output=True, check=False)
    return tried.returncode == 0


def _heading(lesson: Lesson, bundle: Bundle) -> str:
    """Say what is compared."""
    options, word = lesson.options, lesson.word
    given = f"{len(list(lesson.pictures.iterdir()))} pictures of one {word.class_noun}"
    given += ", captions for our side alone" if options.captions else ", no captions"
    theirs = "" if options.their_steps == options.steps else f", theirs {options.their_steps},"
    how = f"{options.steps} steps{theirs} of {options.batch}, rank {options.rank}, seed {options.seed}"
    also = "and ours too" if options.start else "ours from the noun"
    lines = [
        f"{given}; base {bundle.name}, {how}, {options.threads} threads",
        f"their LoRA is told 'a {word.expansion}'; their new word starts from '{lesson.start}', {also}",
    ]
    if len(lesson.launch) > 1:
        lines.append("torchvision cannot be imported: their scripts run with a stand-in for its picture operations")
    return "".join(f"  {line}\n" for line in lines)


def _compare(lesson: Lesson, method: MethodName, bundle: Bundle, folder: Path) -> None:
    """Run the lessons of one method, judge them and print."""
    options, place = lesson.options, folder / method
    place.mkdir()
    ran = list(_lessons(lesson, method, bundle, place))
    drawing = Drawing(steps=2 if options.tiny else 12, batch_size=4)
    plan = VerdictPlan(seeds=options.seeds, class_seeds=2, seed=JUDGE_SEED, drawing=drawing)
    judge = Judge(Pipeline(bundle), lesson.pictures, lesson.word, plan, place / "judged")
    entries = []
    for number, (title, watched, concept) in enumerate(ran):
        scores = judge.scores(concept, str(number))
        assert scores.prompt is not None, "the dual encoder ships with sfumato"
        entries.append(Entry(title, watched.seconds, watched.peak_bytes, scores.fidelity, scores.prompt))
    sys.stdout.write(f"\n  {method} and {SCRIPTS[method]}\n{judge.lines()}")
    sys.stdout.writelines(entry.line() for entry in entries)
    for theirs in entries[2:]:
        sys.stdout.write(f"    {entries[0].title} beside {theirs.title}:\n")
        for demand in demands(entries[0], theirs):
            answer = "holds" if demand.holds else "DOES NOT HOLD"
            sys.stdout.write(f"      {demand.wanted}: {answer}, {demand.found}\n")
    sys.stdout.flush()


def _lessons(
    lesson: Lesson, method: MethodName, bundle: Bundle, folder: Path
) -> Iterator[tuple[str, Watched, Concept]]:
    """Run our lesson with and without a verdict, then theirs with both learning rates."""
    for verdict in (True, False):
        output = folder / ("verdict" if verdict else "last") / "concept.safetensors"
        watched = _run(lesson, lesson.ours(method, output, verdict=verdict), output.parent)
        concept = load_concept(output)
        step = concept.lineage["steps"]
        title = f"sfumato, its verdict (step {step})" if verdict else f"sfumato, no verdict (step {step})"
        yield title, watched, concept
    for lr in (None, METHODS[method].usual(bundle.unet.config.widest).lr):
        output = folder / ("their-rate" if lr is None else "our-rate")
        watched = _run(lesson, lesson.theirs(method, output, bundle.native_size, lr), output)
        read, file = (read_lora, LORA_FILE) if method == "lora" else (read_embedding, EMBEDDING_FILE)
        title = "diffusers, its own learning rate" if lr is None else f"diffusers, ours ({lr:g})"
        yield title, watched, read(output / file, bundle, lesson.word)


def _run(lesson: Lesson, command: Sequence[str], output: Path) -> Watched:
    """Run a lesson as often as wanted, from an empty folder each time, and take the medians."""
    threads = str(lesson.options.threads)
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
    }
    taken = []
    for _ in range(lesson.options.repeats):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        taken.append(watch(command, ROOT, environment))
    return Watched(median(one.seconds for one in taken), int(median(one.peak_bytes for one in taken)))


if __name__ == "__main__":
    sys.exit(main())
