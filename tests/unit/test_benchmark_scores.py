"""The numbers of the benchmarks: likeness, reading changes off pictures, tables and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drawn_primer import drawn_primer, portrait, write
from sfumato.data.benchmark.schema import Benchmark, Licence, Prompt, Subject, TrainingPicture
from sfumato.data.compose import compose
from sfumato.data.facts import PLACES
from sfumato.data.images import load_image
from sfumato.data.primer.library import Primer
from sfumato.evaluation.characters import TRUTH, Scorer, cases_of, wanted_attributes
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.likeness import (
    PictureDistance,
    cosines,
    mean_prompt_fidelity,
    mean_subject_fidelity,
    means,
    real_fidelity,
)
from sfumato.evaluation.reading import Reader, fit_reader, place_of
from sfumato.evaluation.scoreboard import Column, Entry, Scoreboard
from sfumato.evaluation.trial import BASELINE, NOUN_BASELINE, Asked, Cost, Picture, Trial, cost_values, in_turns

numbers = st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 0.01), min_size=3, max_size=3)
rows = st.lists(numbers, min_size=1, max_size=5).map(torch.tensor)


@given(rows, rows)
@settings(max_examples=40, deadline=None)
def test_laws_of_likeness(one: Tensor, other: Tensor) -> None:
    assert mean_subject_fidelity(one, other) == pytest.approx(mean_subject_fidelity(other, one), abs=1e-9)
    assert mean_subject_fidelity(3 * one, other) == pytest.approx(mean_subject_fidelity(one, other), abs=1e-6)
    assert -1 - 1e-9 <= mean_subject_fidelity(one, other) <= 1 + 1e-9
    assert mean_prompt_fidelity(one, one) == pytest.approx(1, abs=1e-9)
    assert mean_subject_fidelity(one, other) == pytest.approx(float(cosines(one, other).mean()), abs=1e-9)


def test_real_pictures_are_compared_with_other_real_pictures_only() -> None:
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert real_fidelity(real) == pytest.approx(1 / 3)
    assert real_fidelity(real[:1]) is None


def test_distance_and_diversity() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(2))
    distance = PictureDistance()
    near, far = distance.between([one, one], [one, other])
    assert near == pytest.approx(0, abs=1e-6) and far > 0.01
    assert distance.diversities([[one, other], [one]]) == pytest.approx([far], rel=1e-5)
    assert distance.diversities([[one, one, other], [one, other]]) == pytest.approx([2 * far / 3, far], rel=1e-5)
    assert means({"div": distance.diversities([[one], [other]]), "pres": [1.0, 2.0]}) == {"pres": 1.5}


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return drawn_primer(tmp_path_factory.mktemp("drawn"))


@pytest.mark.parametrize("place", list(PLACES))
def test_a_place_is_read_back(place: str, primer: Primer) -> None:
    for seed in range(3):
        scene = compose(primer, "crimson-disc", "flat", size="small", place=place, seed=seed)  # type: ignore[arg-type]
        assert place_of(scene.image) == place


def test_nothing_stands_nowhere() -> None:
    assert place_of(np.full((128, 128, 3), 200, np.uint8)) is None


def test_changes_are_read_off_pictures(primer: Primer) -> None:
    eye = FeatureExtractor(side=96)
    style = "avataaars"
    events = fit_reader(primer, eye, {(style, "has_glasses"), ("lorelei", "has_glasses")}, size=100)
    try:
        while True:
            next(events)
    except StopIteration as stop:
        reader = stop.value
    facts = {"hair_color": None, "has_beard": False, "has_hat": False, "expression": "happy"}
    pictures = []
    for worn in (True, False):
        image = portrait({**facts, "has_glasses": worn})
        ground = np.full((128, 128, 3), 255, np.uint8)
        alpha = np.asarray(image)[..., 3:] / 255
        pictures.append(np.asarray(alpha * np.asarray(image)[..., :3] + (1 - alpha) * ground, dtype=np.uint8))
    assert reader.right(style, {"has_glasses": "True"}, pictures) == [True, False]
    assert reader.right(style, {"has_glasses": "True", "ground": "red"}, pictures) == [False, False]
    assert reader.right(style, {"has_glasses": "perhaps"}, pictures) == [None, None]
    assert reader.right("lorelei", {"has_glasses": "True"}, pictures) == [None, None]
    assert reader.right(style, {}, pictures) == [None, None]
    assert Reader().right(style, {"ground": "white"}, pictures) == [True, True]
    assert Reader().right(style, {"has_glasses": "True"}, pictures) == [None, None]


class Mean:
    """Encodes a picture by its mean colour."""

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        return torch.stack([torch.tensor(picture.reshape(-1, 3).mean(0) + 1.0) for picture in pictures])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[255.0, 1.0, 1.0] if "red" in text else [1.0, 1.0, 255.0] for text in texts])


def plain(red: int, green: int, blue: int) -> Picture:
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


def test_scores_of_trials(tmp_path: Path) -> None:
    from PIL import Image

    colours = {"s/train/0.png": (200, 0, 0), "s/truth/background-1-0.png": (0, 0, 255), "s/truth/b.png": (255, 0, 0)}
    for file, colour in colours.items():
        write(tmp_path / file, Image.new("RGB", (32, 32), colour))
    prompts = (
        Prompt(
            name="background-1",
            kind="background",
            text="a {} on blue",
            words="a dog on blue",
            truths=("s/truth/background-1-0.png",),
            expects={"ground": "blue"},
            unchanged="s/train/0.png",
        ),
        Prompt(
            name="place-1",
            kind="place",
            text="a red {}",
            words="a red dog",
            truths=("s/truth/b.png",) * 2,
            unchanged="s/truth/background-1-0.png",
        ),
    )
    subject = Subject(
        name="s",
        kind="icon",
        style="flat",
        class_noun="dog",
        class_prompt="a dog",
        licence="flat",
        pictures=(TrainingPicture(file="s/train/0.png", caption="a dog", ground="on red", size=0.5),),
        prompts=prompts,
    )
    licences = {"flat": Licence(licence="MIT", attribution="someone")}
    benchmark = Benchmark(seed=0, primer="", subjects=(subject,), licences=licences)
    (case,) = cases_of(tmp_path, benchmark)
    assert (case.folder, case.kind) == (tmp_path / "s" / "train", "icons")
    assert wanted_attributes(benchmark, [case]) == set()
    drawn = {"background-1": [plain(0, 0, 255), plain(0, 0, 255)], "place-1": [plain(255, 0, 0), plain(0, 255, 0)]}
    base = Trial(case, BASELINE, {name: [plain(0, 255, 0)] * 2 for name in drawn}, [plain(9, 9, 9)])
    mine = Trial(case, "lora", drawn, [plain(200, 0, 0)], Cost(2.5, 3 * 2**20, 2048))
    assert cost_values(mine) == {"seconds": 2.5, "peak_mib": 3, "file_kib": 2}
    assert cost_values(replace(mine, cost=Cost(2.5, 3 * 2**20, 2048, is_resumed=True))) == {"file_kib": 2}
    scorer = Scorer(tmp_path, benchmark, Mean(), PictureDistance(), Reader(), Mean())
    rows = scorer.rows([base, mine])
    assert list(rows) == [BASELINE, "lora", TRUTH]
    assert rows["lora"]["changed"] == [1.0, 1.0, 1.0, 0.0], "picture by picture, prompt by prompt"
    assert [len(rows["lora"][key]) for key in ("subject", "text", "pres", "drift", "div")] == [4, 4, 1, 1, 2]
    first, second, best = scorer.score([base, mine])
    assert [entry.method for entry in (first, second, best)] == [BASELINE, "lora", TRUTH]
    assert second.values["truth_pixels"] == pytest.approx(np.sqrt(2 / 3) / 4), "three of four are the truth itself"
    assert first.values["truth_features"] == pytest.approx(1 - 513 / (256**2 + 2), abs=1e-6)
    assert second.values["changed"] == 0.75, "green is as near to red as to blue"
    assert second.values["truth_features_background"] == pytest.approx(0, abs=1e-9)
    assert second.values["truth_features_place"] == pytest.approx(second.values["truth_features"] * 2)
    assert (first.values["prompt"], second.values["prompt"], best.values["prompt"]) == (0.0, 1.0, 1.0)
    assert second.values["pres"] == pytest.approx(1) and first.values["drift"] == pytest.approx(0, abs=1e-9)
    assert second.values["drift"] > 0.3 and second.values["div"] > 0 == pytest.approx(first.values["div"], abs=1e-6)
    assert best.values["text"] == pytest.approx(1, abs=1e-4) and second.values["text"] > first.values["text"]
    assert {key: second.values[key] for key in ("seconds", "peak_mib", "file_kib")} == {
        "seconds": 2.5,
        "peak_mib": 3.0,
        "file_kib": 2.0,
    }
    assert "seconds" not in first.values
    assert load_image(tmp_path / "s/train/0.png").rgb.shape == (32, 32, 3)


COLUMNS = (Column("far", "distance", "less", of_subject=True), Column("share", "read", "more", "%"))


def board(gain: float) -> Scoreboard:
    entries = [
        Entry(f"s{i}", "icons" if i % 2 else "characters", method, {"far": 1.0 + 0.1 * i - shift, "share": 0.5})
        for method, shift in ((BASELINE, 0.0), ("lora", gain))
        for i in range(6)
    ]
    return Scoreboard("Title", COLUMNS, entries, {"plan": {}}, ("A note.",))


@given(st.floats(-0.5, 0.5).filter(lambda x: abs(x) > 0.01))
@settings(max_examples=10, deadline=None)
def test_comparisons_are_paired(gain: float) -> None:
    (found,) = board(gain).compare(BASELINE)
    assert (found.method, found.column, found.count) == ("lora", "far", 6)
    assert found.gain == pytest.approx(gain) and found.interval == pytest.approx((gain, gain))


def test_the_board_in_words_and_as_data() -> None:
    page = board(0.25).to_markdown(BASELINE)
    assert "| method | distance ↓ | read ↑ |" in page and "| lora | 1.000 | 50 % |" in page
    assert "## icons" in page and "## characters" in page and "- A note." in page
    assert "- **lora** beats it in every column: distance better (+0.250)." in page
    assert "**lora** does not beat it in every column: distance not better (-0.250)." in board(-0.25).to_markdown(
        BASELINE
    )
    few = Scoreboard("Title", COLUMNS, board(0.25).entries[:2] + board(0.25).entries[6:8], {})
    assert "distance better (+0.250, may be chance)" in few.to_markdown(BASELINE), "two subjects prove nothing"
    known = replace(board(0.25), ceiling="lora", details=(Column("share", "place", "more"),))
    assert not known.compare(BASELINE), "what is right is no method"
    assert "## By kind of prompt\n\n| method | place ↑ |" in known.to_markdown(BASELINE)
    assert Column("x", "x").show(-1e-9) == "0.000"
    content = json.loads(board(0.25).to_json(BASELINE))
    assert content["means"]["lora"] == {"far": pytest.approx(1.0), "share": 0.5}
    assert len(content["subjects"]) == 12 and content["against_base"][0]["gain"] == pytest.approx(0.25)
    assert COLUMNS[0].show(None) == COLUMNS[0].show(math.nan) == "–"


def board_of(gains: dict[str, tuple[float, float]], subjects: int = 6) -> Scoreboard:
    """Return a board where methods are better by some gains; the last one differs from subject to subject."""
    columns = (*COLUMNS, Column("near", "likeness", "more", of_subject=True))
    spreads = {method: 0.5 * (method == list(gains)[-1]) for method in gains}
    entries = [
        Entry(f"s{i}", "icons", method, {"far": 1.0 - far, "near": near + spreads[method] * (-1) ** i, "share": 0.5})
        for method, (far, near) in gains.items()
        for i in range(subjects)
    ]
    return Scoreboard("Title", columns, entries, {"plan": {}}, ("A note.",))


def test_whether_a_method_has_learned() -> None:
    gains = {
        BASELINE: (0.3, 0.3),
        NOUN_BASELINE: (0.0, 0.0),
        "lora": (0.25, 0.125),
        "dreambooth": (0.25, -0.125),
        "custom-diffusion": (-0.25, -0.125),
        "pivotal": (0.25, 0.0625),
    }
    known = board_of(gains)
    expected = {
        "lora": "learned",
        "dreambooth": "learned in part",
        "custom-diffusion": "not shown",
        "pivotal": "learned in part",
    }
    assert known.learned() == expected, "rows of the base are no methods"
    page = known.to_markdown(BASELINE)
    assert f"| {NOUN_BASELINE} | 1.000 | 50 % | 0.000 |" in page
    learned, words = page.split(f"## Learned, against the {NOUN_BASELINE}\n\n")[1].split(f"## Against the {BASELINE}\n")
    assert learned.splitlines()[:4] == [
        "- **lora** learned: distance better (+0.250); likeness better (+0.125).",
        "- **dreambooth** learned in part (1 of 2 columns): distance better (+0.250); likeness not better (-0.125).",
        "- **custom-diffusion** is not shown to have learned: distance not better (-0.250); "
        "likeness not better (-0.125).",
        "- **pivotal** learned in part (1 of 2 columns): distance better (+0.250); "
        "likeness better (+0.062, may be chance).",
    ]
    assert NOUN_BASELINE not in words, "the words are for methods to beat"
    assert known.told()["lora"] == "learned: distance better (+0.250); likeness better (+0.125)"
    content = json.loads(known.to_json(BASELINE))
    assert content["learned"] == expected and content["means"][NOUN_BASELINE]["far"] == 1.0
    assert [(item["method"], item["column"], item["gain"]) for item in content["against_noun"]][:2] == [
        ("lora", "far", 0.25),
        ("lora", "near", 0.125),
    ]
    assert {item["method"] for item in content["against_base"]} == set(expected)
    assert set(board_of(gains, subjects=4).learned().values()) == {"not shown"}, "four subjects prove nothing"
    without = board(0.25)
    assert not without.learned() and "## Learned" not in without.to_markdown(BASELINE)
    assert json.loads(without.to_json(BASELINE))["learned"] == {}


def test_a_prompt_with_the_class_noun_alone() -> None:
    asked = Asked("place-1", "place", "a small flat icon of a {} on a white ground", "x")
    assert asked.with_noun("bear") == "a small flat icon of a bear on a white ground"
    assert asked.with_noun("alien monster") == "a small flat icon of an alien monster on a white ground"
    assert Asked("a", "b", "my extra {} here", "x").with_noun("alien") == "my extra alien here"


def test_budgets_take_a_bit_of_everything() -> None:
    asked = [Asked(f"{kind}-{n}", kind, "{}", "x") for kind in "abc" for n in (1, 2)]
    assert [item.name for item in in_turns(asked, 4)] == ["a-1", "a-2", "b-1", "c-1"]
    assert in_turns(asked, None) == in_turns(asked, 99) == tuple(asked)
    for fewer in range(1, 6):
        assert set(in_turns(asked, fewer)) < set(in_turns(asked, fewer + 1)), "a larger budget holds the smaller"
