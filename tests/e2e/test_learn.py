"""Learn a subject through the command line and from Python, use it, replay it; the demo; the examples."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato as package
from sfumato.errors import ConfigError, SfumatoError
from sfumato.events import Artifact, Checkpoint, Notice
from sfumato.formats.png_recipe import read_recipe
from sfumato.operations.demo import demo, written
from sfumato.operations.learn import learn as lesson
from sfumato.requests import DemoRequest, LearnRequest

Run = Callable[..., Any]
EXAMPLES = Path(__file__).parents[2] / "examples"
FOX = ("--as", "<fox>", "--class", "fox", "--steps", 3, "--batch-size", 2, "--no-verdict")


def test_learn_and_use(sfumato: Run, base: Path, photos: Path) -> None:
    answer = sfumato("learn", photos, *FOX, "--base", base)
    assert answer.code == 0, answer.err
    assert "concept: fox.safetensors" in answer.out
    assert not Path("fox.run").exists()
    prompt = ("generate", "a <fox> on a green background", "--base", base, "--steps", 2)
    assert sfumato(*prompt, "--concept", "fox.safetensors:0.8", "-n", 2).code == 0
    path = Path("out/a-fox-on-a-green-background-1.png")
    (used,) = read_recipe(path)["concepts"]
    assert (used["path"], used["strength"], len(used["hash"])) == ("fox.safetensors", 0.8, 64)
    with Image.open(path) as picture:
        assert f'Lora hashes: "fox: {used["hash"][:12]}"' in picture.text["parameters"]  # type: ignore[attr-defined]
    assert sfumato("replay", path).code == 0
    Path("fox.safetensors").unlink()
    missing = sfumato("replay", path)
    assert missing.code == 2 and "concept 1 is missing: 'fox.safetensors'" in missing.err


def test_one_lesson_at_a_time_for_a_result(base: Path, photos: Path, tmp_path: Path) -> None:
    values = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "base": str(base), "steps": 3}
    output = tmp_path / "fox.safetensors"
    request = LearnRequest.model_validate({**values, "verdict": False, "output": output})
    first = lesson(request)
    next(first)
    for more in ({}, {"resume": True}):
        with pytest.raises(ConfigError, match=rf"Another run works in '{tmp_path}/fox.run' \(process {os.getpid()}\)"):
            next(lesson(request.model_copy(update=more)))
    list(first)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]  # neither run folder nor lock
    list(lesson(request))


def test_a_word_alone_is_learned_and_used(sfumato: Run, base: Path, photos: Path) -> None:
    words = (*FOX, "--method", "textual-inversion", "--num-vectors", 2, "--templates", "object", "--base", base)
    assert sfumato("learn", photos, *words).code == 0
    prompt = ("generate", "a <fox> on a green background", "--base", base, "--steps", 2)
    assert sfumato(*prompt, "--concept", "fox.safetensors").code == 0
    assert sfumato("replay", "out/a-fox-on-a-green-background-0.png").code == 0
    refused = sfumato("learn", photos, *words, "--identifier", "rare", "-o", "b.safetensors")
    assert refused.code == 2 and "which learns no vectors" in refused.err


def test_learning_is_repeatable(sfumato: Run, base: Path, photos: Path) -> None:
    for name in ("one", "two"):
        assert sfumato("learn", photos, *FOX, "--base", base, "-o", f"{name}.safetensors").code == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("empty", *FOX), "empty holds no pictures (0 other entries)"),
        (("nowhere", *FOX), "nowhere does not exist; a folder of pictures is needed"),
        (("broken", *FOX), "a.png is not a readable picture"),
        (("broken", "--as", "<>", "--class", "fox"), "--as: given '<>'; needed a word with at least one letter"),
        (("broken", "--class", "fox"), "--as is missing; needed a text of at least 1 character"),
        (("broken", *FOX, "-o", "fox.pt"), "fox.pt"),
        (
            ("broken", *FOX, "--method", "lore"),
            "--method: given 'lore'; needed one of lora, pivotal, textual-inversion, custom-diffusion, dreambooth "
            "(Did you mean 'lora'?)",
        ),
    ],
)
def test_bad_lessons(words: tuple[object, ...], message: str, sfumato: Run, base: Path) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no picture")
    answer = sfumato("learn", *words, "--base", base)
    assert answer.code == 2 and message in answer.err, answer.err
    assert answer.err.count("\n") == 1
    assert not list(Path().glob("*.safetensors"))


def test_another_base_is_refused(sfumato: Run, base: Path, photos: Path) -> None:
    bundle = package.load_bundle(base)
    bundle.unet.conv_in.weight.mul_(2)
    package.save_bundle(bundle, Path("other"))
    assert sfumato("learn", photos, *FOX, "--base", base).code == 0
    answer = sfumato("generate", "a <fox>", "--base", "other", "--concept", "fox.safetensors", "--steps", 2)
    assert answer.code == 2 and "The concept <fox> was learned on base 'tiny'" in answer.err


def test_an_older_result_is_kept_with_its_report(base: Path, photos: Path, sfumato: Run) -> None:
    few = ("--steps", 2, "--batch-size", 1, "--rank", 1, "--verdict-steps", 1, "--base", base)
    first = sfumato("learn", photos, "--as", "<fox>", "--class", "fox", *few)
    older, page = Path("fox.safetensors").read_bytes(), Path("fox.verdict/scores.json").read_bytes()
    second = sfumato("learn", photos, "--as", "<fox>", "--class", "fox", *few, "--seed", 1)
    assert (first.code, second.code) == (0, 0), second.err
    assert "'fox.safetensors' was there before; the old one is now 'fox-1.safetensors'." in second.out
    assert Path("fox-1.safetensors").read_bytes() == older != Path("fox.safetensors").read_bytes()
    assert Path("fox-1.verdict/scores.json").read_bytes() == page
    assert Path("fox.verdict/report.html").is_file()
    page = Path("fox.verdict/scores.json").read_bytes()
    third = sfumato("learn", photos, "--as", "<fox>", "--class", "fox", *few, "--seed", 2, "--no-verdict")
    assert third.code == 0 and Path("fox-2.verdict/scores.json").read_bytes() == page
    assert not Path("fox.verdict").exists(), "it would be taken for the report on the new one"
    for name in ("moved", "taken"):  # what it is a report on has gone; and a name that is taken already
        Path("fox.verdict").mkdir()
        Path("fox.verdict", name).touch()
        Path("fox.safetensors").unlink(missing_ok=True)
        assert sfumato("learn", photos, *FOX, "--base", base, "--no-verdict", "--seed", len(name)).code == 0
        assert not Path("fox.verdict").exists() and len(list(Path().glob(f"fox-*.verdict/{name}"))) == 1


def test_a_concept_is_exported_for_other_programs(base: Path, photos: Path, sfumato: Run) -> None:
    assert sfumato("learn", photos, *FOX, "--base", base, "--rank", 2).code == 0
    before = Path("fox.safetensors").read_bytes()
    answer = sfumato("export", "fox.safetensors")
    assert answer.code == 0, answer.err
    assert "In a prompt there: 'fox-word fox'. Files of words go into the folder of embeddings." in answer.out
    assert Path("fox-kohya.safetensors").is_file() and Path("fox-word.safetensors").is_file()
    assert Path("fox.safetensors").read_bytes() == before
    same = sfumato("export", "fox.safetensors", "-o", "fox.safetensors")
    assert same.code == 2 and "'fox.safetensors' is the concept itself" in same.err
    again = sfumato("export", "fox-kohya.safetensors")
    assert again.code == 2 and "a concept that sfumato learned was needed" in again.err


def test_the_change_of_all_weights_is_exported_too(base: Path, photos: Path, sfumato: Run) -> None:
    words = ("--method", "dreambooth", "-o", "fox-word.safetensors")
    assert sfumato("learn", photos, *FOX, "--base", base, "--rank", 2, *words).code == 0
    before = Path("fox-word.safetensors").read_bytes()
    answer = sfumato("export", "fox-word.safetensors")
    assert answer.code == 0, answer.err
    assert "Left out, since the layout has no name for them: position_embedding (" in answer.out
    assert Path("fox-word-kohya.safetensors").is_file() and Path("fox-word.safetensors").read_bytes() == before


LONG = ("--as", "<fox>", "--class", "fox", "--steps", "120", "--batch-size", "1", "--rank", "1", "--no-verdict")


def interrupted(base: Path, photos: Path, folder: Path, sent: signal.Signals, sign: str) -> tuple[int, str, str]:
    """Learn in a process of its own and send it a signal as soon as a file of its run folder is there."""
    command = [sys.executable, "-m", "sfumato", "learn", str(photos), *LONG, "--base", str(base)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in (folder / "fox.run").glob(sign)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def assert_resumes_to_the_same_bytes(sfumato: Run, base: Path, photos: Path) -> None:
    """Go on with the interrupted lesson and compare with one that was not interrupted."""
    again = sfumato("learn", photos, *LONG, "--base", base)
    said = "already holds a run. Resume it (--resume), remove it, or name another output (-o)."
    assert again.code == 2 and said in again.err
    assert sfumato("learn", photos, *LONG, "--base", base, "--resume").code == 0
    assert sfumato("learn", photos, *LONG, "--base", base, "-o", "whole.safetensors").code == 0
    assert Path("fox.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


def test_ctrl_c_saves_and_resume_gives_the_same_bytes(base: Path, photos: Path, tmp_path: Path, sfumato: Run) -> None:
    code, out, err = interrupted(base, photos, tmp_path, signal.SIGINT, "events.jsonl")
    assert code == 130, err
    assert "Resume goes on" in out and "Traceback" not in err
    assert_resumes_to_the_same_bytes(sfumato, base, photos)


def test_a_killed_lesson_resumes_to_the_same_bytes(base: Path, photos: Path, tmp_path: Path, sfumato: Run) -> None:
    code, _, _ = interrupted(base, photos, tmp_path, signal.SIGKILL, "checkpoints/step-*/*")
    assert code == -signal.SIGKILL
    assert not Path("fox.safetensors").exists()
    assert_resumes_to_the_same_bytes(sfumato, base, photos)


class Killed(BaseException):
    """Ends a command at once, as SIGKILL would."""


def test_a_lesson_killed_while_it_clears_up_resumes_to_the_same_bytes(
    base: Path, photos: Path, sfumato: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("asked.txt").write_text("a {} on a blue background\na big {}\n")
    verdict = ("--verdict", "--verdict-steps", 1, "--verdict-prompts", "asked.txt")
    few = ("--steps", 4, "--save-every", 2, "--batch-size", 1, "--rank", 1, *verdict, "--base", base)
    remove = shutil.rmtree

    def cut_short(path: Path, **options: bool) -> None:
        """Remove the scores of every look before anything else, and get no further."""
        if not (path / "looks").is_dir():
            remove(path, **options)
            return
        for scores in path.glob("looks/*/scores.json"):
            scores.unlink()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", cut_short)
        sfumato("learn", photos, *FOX, *few)
    written = Path("fox.safetensors").read_bytes()
    answer = sfumato("learn", photos, *FOX, *few, "--resume")
    assert answer.code == 0, answer.err
    assert Path("fox.safetensors").read_bytes() == written


@pytest.fixture(autouse=True)
def short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo asks for, in few enough of the tiny base's tokens."""
    monkeypatch.setattr("sfumato.operations.demo.PROMPTS", tuple(f"a <unicorn> {n}" for n in range(4)))


def test_demo(sfumato: Run, base: Path) -> None:
    answer = sfumato("demo", "--base", base, "--steps", 2)
    assert answer.code == 0, answer.err
    assert "report: out/demo/contact-sheet.png" in answer.out
    with Image.open("out/demo/contact-sheet.png") as sheet:
        assert sheet.width > 900 and sheet.height > 1000
    assert len(list(Path("out/demo").glob("a-*.png"))) == 20


def test_the_sheet_of_another_demo_stays(tmp_path: Path) -> None:
    place, one, other = (
        tmp_path / "contact-sheet.png",
        Image.new("RGB", (8, 8), "red"),
        Image.new("RGB", (8, 8), "blue"),
    )
    for sheet in (one, one):
        assert [type(event) for event in written(sheet, place)] == [Artifact], "the same sheet again"
    before = place.read_bytes()
    notice, artifact = written(other, place)
    assert isinstance(notice, Notice) and "the old one is now 'contact-sheet-1.png'" in notice.message
    assert isinstance(artifact, Artifact) and (tmp_path / "contact-sheet-1.png").read_bytes() == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_demo_after_one_that_was_left(sfumato: Run, base: Path, seed: int) -> None:
    left = demo(DemoRequest(base=str(base), steps=2, seed=seed))
    assert next(event for event in left if isinstance(event, Checkpoint)).step == 2
    left.close()
    assert (Path("out/demo/unicorn.run") / "checkpoints").is_dir()
    answer = sfumato("demo", "--base", base, "--steps", 2)
    assert answer.code == 0, answer.err
    assert "report: out/demo/contact-sheet.png" in answer.out
    begins_anew = "seed: 1 → 0. The unfinished run in 'out/demo/unicorn.run' was removed, and the demo begins anew."
    assert (begins_anew in answer.out, "Resumed from" in answer.out) == (seed == 1, seed == 0)
    assert not Path("out/demo/unicorn.run").exists()


def test_python_interface(base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = package.load(base)
    before, after = package.generate("a fox", base=pipeline, count=2, steps=2, seed=3)
    assert (before.seed, after.seed, before.image.size) == (3, 4, (32, 32))
    assert package.generate("a fox", base=base, steps=2, seed=4)[0].image.tobytes() == after.image.tobytes()
    concept = package.learn(photos, placeholder="<fox>", class_noun="fox", base=pipeline, steps=2, rank=2)
    assert package.generate("a fox", base=pipeline, steps=2, seed=4)[0].image.tobytes() == after.image.tobytes()
    (fox,) = package.generate("a <fox>", base=pipeline, concepts=[concept], steps=2)
    assert package.read_recipe(fox.save("fox.png")) == fox.recipe
    with pytest.raises(ConfigError, match="unknown key 'stpes'. Did you mean 'steps'?"):
        package.generate("a fox", base=pipeline, stpes=2)
    with pytest.raises(ConfigError, match="The name 'fox.jpg' was given; needed: one that ends in .png"):
        fox.save("fox.jpg")


def test_python_interface_returns_the_whole_base(base: Path, photos: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"placeholder": "<fox>", "class_noun": "fox", "base": base, "steps": 1, "verdict": False}
    made = package.learn(photos, method="dreambooth", output=tmp_path / "fox", **asked)
    assert made == tmp_path / "fox" and package.load_bundle(made).words[0].placeholder == "<fox>"
    assert not (tmp_path / "fox.run").exists()
    with pytest.raises(SfumatoError, match="Learning <fox> was stopped before its last step. Go on with resume=True."):
        package.learn(photos, output=tmp_path / "b.safetensors", loop={"max_seconds": 1e-9}, **asked)


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_examples(name: str, base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    given: dict[str, tuple[object, ...]] = {
        "draw_and_learn": (str(photos), str(base), 2),
        "average_bases": (str(base), str(base), "averaged"),
    }
    main(*given.get(name, (str(base),)))
    if name == "average_bases":  # the mean of a base and itself
        assert package.load_bundle("averaged").base_hash == package.load_bundle(base).base_hash
    if name == "draw_and_learn":
        assert read_recipe(Path("fox.png"))["request"]["prompt"] == "a <fox> on a green background"
    if name == "follow_events":
        assert [path.name for path in Path("out").iterdir()] == ["a-rocket-0.png"]
