"""`python -m benchmarks paper` with a tiny random base: all experiments from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.paper import main
from benchmarks.paper_experiments import EXPERIMENTS, Setup, noun, pictures
from PIL import Image

from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.data.benchmark.schema import FILE, Benchmark
from sfumato.data.listing import list_entries
from sfumato.errors import ConfigError
from sfumato.evaluation.characters import cases_of
from sfumato.formats.concept import load_concept
from sfumato.training.subject import subject_caption
from tiny_characters import GROUNDS, write_characters


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_characters(tmp_path_factory.mktemp("characters"))


def test_all_experiments_to_the_end(
    characters: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--characters", str(characters), "--base", str(base), "--tiny", "--threads", "1", "-o", str(tmp_path)]
    command += ["--cache", str(tmp_path / "cache")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "paper.json").read_text(encoding="utf-8"))
    assert [experiment["name"] for experiment in report["experiments"]] == list(EXPERIMENTS)
    for experiment in report["experiments"]:
        assert experiment["verdict"] in ("found", "not found", "within chance")
        assert f"{experiment['title']}: {experiment['verdict']}. " in shown
        assert all(row["means"]["subject"] is not None for row in experiment["rows"])
        assert all(claim["differences"] for claim in experiment["claims"]), "every column was measured"
    rows = {row["label"]: row for experiment in report["experiments"] for row in experiment["rows"]}
    assert len(rows) == 23, "the plain lessons are shared"
    lessons = sorted((tmp_path / "lessons").rglob("*.safetensors"))
    assert len(lessons) == 21, "four pictures are all that there are, and one step leaves vectors no time to join"
    assert [row["title"] for row in report["experiments"][-1]["rows"]] == [
        "1 picture",
        "2 pictures",
        "3 pictures",
        "4 pictures",
    ]
    assert report["pictures"]["4 pictures"]["subject"] == report["pictures"]["lora"]["subject"]
    for label, settings in (("rank 4", {"rank": 4, "alpha": 8}), ("no class noun", {"say_class": False})):
        assert settings.items() <= rows[label]["settings"].items()
    kept = {path.parent.name: load_concept(path).request["num_class_images"] for path in lessons}
    assert (kept["lora"], kept["lora-prior"]) == (32, 1), "class pictures are for lessons that learn them"
    assert len(list((tmp_path / "cache/class").iterdir())) == 1, "drawn once for both methods"
    assert {path.name for path in (tmp_path / "pictures").glob("base-*")} == {"base-in-words"}
    learned = [load_concept(path).main for path in lessons if path.parent.name == "textual-inversion"]
    counts = sorted(len(word.rows) for word in learned if word.rows is not None)
    assert counts == [1] * 4 + [2, 4], "one step leaves vectors no time to join one by one"
    said = {load_concept(path).main.expansion for path in lessons if path.parent.name == "dreambooth"}
    assert sum(" " not in words for words in said) == 1 and any(words.endswith(" robot") for words in said)
    page = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert "| rank | rank 1 |" in page and "## What the papers report" in page
    for name in EXPERIMENTS:
        assert f"(paper-{name}.png)" in page
        with Image.open(tmp_path / f"paper-{name}.png") as sheet:
            assert sheet.width == 2160 and np.asarray(sheet.convert("RGB")).std() > 0
    before = {path: path.stat().st_mtime_ns for path in lessons}
    assert main([*command, "--only", "rank,noun"]) == 0
    assert "lora" not in capsys.readouterr().out.split("The papers' experiments")[0], "nothing is learned again"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "lessons").rglob("*.safetensors")} == before
    assert len(json.loads((tmp_path / "paper.json").read_text(encoding="utf-8"))["experiments"]) == 2


def test_a_wrong_noun_is_learned_with_captions_that_do_not_say_the_right_one(characters: Path, tmp_path: Path) -> None:
    request = BenchmarkRequest(folder=characters, output=tmp_path)
    benchmark = Benchmark.model_validate_json((characters / FILE).read_text(encoding="utf-8"))
    setup = Setup(request, benchmark, cases_of(characters, benchmark), 8)
    wrong = noun(setup).arms["wrong noun"].by_subject
    assert (wrong["ann"]["class_noun"], wrong["box"]["class_noun"]) == ("robot", "person")
    folder = wrong["ann"]["folder"]
    assert isinstance(folder, Path)
    captions = [entry.caption() for entry in list_entries(folder)]
    assert captions == [f"a <subject> on {ground}" for ground in GROUNDS]
    right = [entry.caption() for entry in list_entries(characters / "ann/train")]
    assert captions == [subject_caption(caption, "<subject>", "person") for caption in right]
    alone = benchmark.model_copy(update={"subjects": benchmark.subjects[:1]})
    with pytest.raises(ConfigError, match="All subjects of the benchmark are called 'person'"):
        noun(Setup(request, alone, setup.cases[:1], 8))


@pytest.mark.parametrize(
    ("count", "claim"),
    [
        (1, "3 > 2 > 1"),
        (4, "4 > 3 > 2 > 1"),
        (5, "4 > 3 > 2 > 1, and 5 as near as 4"),
        (6, "4 > 3 > 2 > 1, and 5 as near as 4"),
    ],
)
def test_one_to_five_pictures_where_a_subject_has_them(
    count: int, claim: str, characters: Path, tmp_path: Path
) -> None:
    benchmark = Benchmark.model_validate_json((characters / FILE).read_text(encoding="utf-8"))
    cases = []
    for case, most in zip(cases_of(characters, benchmark), (count, 3), strict=True):
        folder = tmp_path / case.name
        folder.mkdir()
        for number in range(most):
            Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(folder / f"{number}.png")
        cases.append(replace(case, folder=folder))
    request = BenchmarkRequest(folder=characters, output=tmp_path / "out")
    experiment = pictures(Setup(request, benchmark, cases, 8))
    assert experiment.claims[0].text == f"subject fidelity: {claim}"
    held = [
        [len(list_entries(Path(str(arm.by_subject[case.name]["folder"])))) for arm in experiment.arms.values()]
        for case in cases
    ]
    numbers = range(1, len(experiment.arms) + 1)
    assert held == [[min(number, count) for number in numbers], [min(number, 3) for number in numbers]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--only", "rang"), "--only: given 'rang'; needed names out of prior, noun"),
        (("--steps", "0"), "--steps: given '0'; needed a whole number from 1 to 1000000"),
        (("--characters", "nowhere"), "nowhere is no benchmark"),
    ],
)
def test_bad_input(
    more: tuple[str, ...], message: str, characters: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--characters", str(characters), "--base", str(base), *more]) == 2
    assert message in capsys.readouterr().err
