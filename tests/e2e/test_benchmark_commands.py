"""`data characters`, `evaluate characters` and `evaluate dreambench` with a tiny random base, from end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fake_node import install_fake_node
from sfumato.cli.main import main
from sfumato.data.benchmark.schema import open_benchmark
from sfumato.formats.bundle import save_bundle
from sfumato.models.text_encoder import TextEncoder
from sfumato.models.tokenizer import Tokenizer
from tiny import tiny_bundle
from tiny_encoders import save_encoders
from tiny_primer import build_tiny_primer

Run = Callable[..., Any]
BUDGET = ("--steps", 2, "--batch-size", 1, "--rank", 1, "--draw-steps", 1, "--num-class-images", 1, "--prompts", 2)
PROMPTS = """Classes

subject_name,class
rex,dog
boot,boot

Object Prompts
'a {0} {1} under a tree'.format(unique_token, class_token),
'a shiny {0} {1}'.format(unique_token, class_token),
Live Subject Prompts
'a {0} {1} with a scarf'.format(unique_token, class_token)
"""


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_primer(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def benchmark(primer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        packages = install_fake_node(folder / "node", patch)
        words = ("data", "characters", folder / "set", "--primer", primer, "--packages", packages, "--count", 1)
        assert main([str(word) for word in words]) == 0
    yield folder / "set"


@pytest.fixture(scope="module")
def reader(benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base that can read the prompts."""
    texts = [prompt.words for subject in open_benchmark(benchmark).subjects for prompt in subject.prompts]
    bundle = tiny_bundle()
    tokenizer = Tokenizer.train([*texts, *PROMPTS.splitlines()], vocab_size=1200, context_length=64)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    config = replace(bundle.text_encoder.config, vocab_size=tokenizer.vocab_size, context_length=64, **ids)
    folder = tmp_path_factory.mktemp("bases") / "reader"
    torch.manual_seed(0)
    save_bundle(replace(bundle, tokenizer=tokenizer, text_encoder=TextEncoder(config)), folder, torch.float32)
    return folder


def test_characters_from_pictures_to_a_report(sfumato: Run, benchmark: Path, reader: Path, primer: Path) -> None:
    command = ("evaluate", "characters", benchmark, "--base", reader, "--methods", "lora+prior", "--subjects", 2)
    answer = sfumato(*command, *BUDGET, "--primer", primer, "-o", "report", "--json")
    assert answer.code == 0, answer.out
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert [event["event"] for event in events].count("artifact") == 2 + 3, "a concept for each subject, three files"
    report = json.loads(Path("report/characters.json").read_text())
    assert list(report["means"]) == ["base in words", "base with the class noun", "lora+prior", "the truth itself"]
    learned = report["means"]["lora+prior"]
    assert learned["seconds"] > 0 and learned["file_kib"] > 1 and 50 < learned["peak_mib"] < 4000
    for key in ("truth_features", "truth_perceptual", "truth_pixels", "drift", "div"):
        assert learned[key] > 0
    for base in ("base in words", "base with the class noun"):
        assert report["means"][base]["drift"] == pytest.approx(0, abs=1e-6)
        assert report["means"][base]["truth_features"] > 0
    words, noun = (report["means"][base]["truth_pixels"] for base in ("base in words", "base with the class noun"))
    assert words != noun, "another text draws another picture"
    assert report["learned"] == {"lora+prior": "not shown"}, "two subjects prove nothing"
    assert "lora+prior is not shown to have learned: truth, features" in answer.out
    assert {entry["kind"] for entry in report["subjects"]} == {"characters", "icons"}
    page = Path("report/characters.md").read_text()
    assert "## Learned, against the base with the class noun\n\n- **lora+prior** is not shown to have learned" in page
    assert "## Against the base in words\n\n- **lora+prior** " in page
    with Image.open("report/characters.png") as sheet:
        assert sheet.height > 4 * 112 and sheet.width > 5 * 112, "truth, pictures to learn from and three rows"
    again = sfumato(*command, *BUDGET, "--primer", primer, "-o", "report", "--json")
    assert again.code == 0
    kinds = [json.loads(line)["event"] for line in again.out.splitlines()]
    assert "step" not in kinds and "metric" not in kinds, "what is finished is not run again"
    assert json.loads(Path("report/characters.json").read_text()) == report
    before = {path: path.stat().st_mtime_ns for path in Path("report").rglob("*-[01].png")}
    shutil.rmtree("report/pictures/base-with-the-class-noun")
    answer = sfumato(*command, *BUDGET, "--primer", primer, "-o", "report", "--json")
    assert answer.code == 0 and '"kind": "concept"' not in answer.out
    assert json.loads(Path("report/characters.json").read_text()) == report
    after = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert after and {path.parts[2] for path in after} == {"base-with-the-class-noun"}, "only that row is drawn"


def save_photos() -> None:
    """Save two subjects with their prompts into the folder `photos`."""
    for name in ("rex", "boot"):
        (Path("photos") / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 48), (250 * number, 90, 30)).save(Path("photos") / name / f"{number}.jpg")
    Path("photos/prompts_and_classes.txt").write_text(PROMPTS)


def test_equal_lessons_are_learned_once(sfumato: Run, reader: Path) -> None:
    save_photos()
    command = ("evaluate", "dreambench", "photos", "--base", reader, "--no-baseline", "--subjects", 1, "--pictures", 1)
    answer = sfumato(*command, *BUDGET, "--methods", "lora,pivotal,pivotal+prior", "-o", "report", "--json")
    assert answer.code == 0, answer.out
    assert answer.out.count('"kind": "concept"') == 2
    means = json.loads(Path("report/dreambench.json").read_text())["means"]
    same = "pivotal (the same lesson as lora)"
    assert list(means) == ["lora", same, "pivotal+prior", "real pictures"]
    assert means["lora"] == means[same] != means["pivotal+prior"]
    assert {path.parent.name for path in Path("report/lessons").glob("*/*.safetensors")} == {"lora", "lora-prior"}
    assert f"| {same} |" in Path("report/dreambench.md").read_text()
    answer = sfumato(*command, *BUDGET, "--methods", "lora+prior", "-o", "report", "--json")
    assert answer.code == 0 and '"kind": "concept"' not in answer.out, "that of pivotal+prior is taken"
    kept = ("--methods", "lora+prior", "--cache", "kept", "--json")
    answer = sfumato(*command, *BUDGET, *kept, "-o", "report")
    assert answer.code == 0 and '"kind": "concept"' not in answer.out, "what is kept elsewhere makes no other lesson"
    drawn = '"phase": "class pictures"'
    for output in ("other", "third"):
        answer = sfumato(*command, *BUDGET, *kept, "-o", output)
        assert answer.code == 0 and answer.out.count('"kind": "concept"') == 1
        assert (drawn in answer.out) == (output == "other"), "class pictures are drawn once"
        assert len(list(Path("kept/class").glob("*.safetensors"))) == 1
    records = [json.loads(next(Path(o).glob("lessons/*/*.json")).read_text()) for o in ("other", "report")]
    assert [record["has_cache"] for record in records] == [True, False]
    first, second = (next(Path(o).glob("lessons/lora-prior/*.safetensors")) for o in ("other", "third"))
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


def test_dreambench_goes_on_where_it_stopped(sfumato: Run, reader: Path) -> None:
    save_photos()
    command = ("evaluate", "dreambench", "photos", "--base", reader, "--methods", "textual-inversion", *BUDGET)
    assert sfumato(*command, "--pictures", 2, "-o", "report", "--subjects", 1).code == 0
    first = json.loads(Path("report/dreambench.json").read_text())
    assert first["benchmark"]["subjects"] == ["rex"]
    assert list(first["means"]) == ["base in words", "textual-inversion", "real pictures"], "the words are the noun"
    answer = sfumato(*command, "--pictures", 2, "-o", "report", "--json")
    assert answer.code == 0, answer.out
    learned = [json.loads(line) for line in answer.out.splitlines() if '"kind": "concept"' in line]
    assert len(learned) == 1 and "boot" in learned[0]["path"], "rex is not learned again"
    report = json.loads(Path("report/dreambench.json").read_text())
    assert {entry["case"] for entry in report["subjects"]} == {"rex", "boot"}
    mine = next(e for e in report["subjects"] if e["case"] == "rex" and e["method"] == "textual-inversion")
    assert mine == next(e for e in first["subjects"] if e["method"] == "textual-inversion")
    assert -1 <= mine["values"]["subject_EfficientNet-Lite0"] <= 1 and mine["values"]["div"] > 0
    assert report["means"]["real pictures"]["subject_EfficientNet-Lite0"] > 0
    assert "## live subjects" in Path("report/dreambench.md").read_text()
    wrong = sfumato(*command, "--live", "Dog")
    assert wrong.code == 2 and "--live: given 'Dog'; needed: classes out of " in wrong.err
    before = {path: path.stat().st_mtime_ns for path in Path("report/pictures").rglob("*.png")}
    assert sfumato(*command, "--pictures", 3, "-o", "report", "--subjects", 1).code == 0
    after = {path: path.stat().st_mtime_ns for path in Path("report/pictures").rglob("*.png")}
    assert before.items() < after.items(), "a larger budget draws what is missing"
    judges = save_encoders(Path("judges"))
    by_others = ("--judge-pictures", f"{judges}/dino,{judges}/clip", "--judge-texts", f"{judges}/clip")
    answer = sfumato(*command, "--pictures", 2, "-o", "report", *by_others, "--json")
    assert answer.code == 0 and '"kind": "concept"' not in answer.out, "nothing is learned again"
    means = json.loads(Path("report/dreambench.json").read_text())["means"]["textual-inversion"]
    assert {"subject_DINO (dino)", "subject_CLIP (clip)", "text", "pres"} <= set(means)
    assert "prompt fidelity (CLIP (clip))" in Path("report/dreambench.md").read_text()
    answer = sfumato(*command, "-o", "other", "--judge-pictures", "nowhere")
    assert answer.code == 2 and "'nowhere' is no folder of an encoder" in answer.err
    assert not Path("other").exists(), "found before the first lesson"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", "characters", "new", "--primer", "nowhere"), "nowhere is not a finished training set"),
        (("data", "characters", "new", "--count", "-1"), "--count: given '-1'; needed a whole number from 0 to 420"),
        (("evaluate", "characters", "nowhere"), "nowhere is no benchmark: benchmark.json cannot be read"),
        (("evaluate", "characters", "nowhere", "--methods", "lore"), "given 'lore'; needed names out of lora"),
        (("evaluate", "dreambench", "nowhere"), "nowhere does not exist"),
        (("evaluate", "dreams"), "Unknown evaluate command 'dreams'"),
    ],
)
def test_bad_input(words: tuple[object, ...], message: str, sfumato: Run) -> None:
    answer = sfumato(*words)
    assert answer.code == 2 and message in answer.err, answer.err
    assert answer.err.count("\n") == 1


def test_people_need_node(sfumato: Run, primer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    answer = sfumato("data", "characters", "new", "--primer", primer, "--packages", "x", "--count", 1)
    assert answer.code == 2 and "The program 'node' was not found; the characters are drawn with it." in answer.err
    assert not Path("new").exists()
    assert sfumato("data", "characters", "icons", "--primer", primer, "--count", 0).code == 0


def test_another_training_set_is_refused(
    sfumato: Run, benchmark: Path, reader: Path, primer: Path, tmp_path: Path
) -> None:
    other = build_tiny_primer(tmp_path / "other", characters=False, seed=3)
    answer = sfumato("evaluate", "characters", benchmark, "--base", reader, "--primer", other)
    assert answer.code == 2 and "; the benchmark was made from " in answer.err


def test_prompts_that_a_base_cannot_read(sfumato: Run, benchmark: Path, base: Path) -> None:
    answer = sfumato("evaluate", "characters", benchmark, "--base", base, *BUDGET)
    assert answer.code == 2, answer.out
    assert "too long for base 'tiny'" in answer.err
