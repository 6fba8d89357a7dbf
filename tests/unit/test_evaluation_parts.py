"""Parts of a report by themselves: the plan, stated attributes, grounds, intervals, the table."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data.backgrounds import Background, paint
from sfumato.errors import ConfigError
from sfumato.evaluation.attributes import label, stated
from sfumato.evaluation.grounds import cut_out, foreground, ground_name, ground_rgb, on_white
from sfumato.evaluation.measures import Measure, balanced_accuracy, bootstrap, share
from sfumato.evaluation.people import Readings, _measures
from sfumato.evaluation.plan import EvaluationPlan, load_plan
from sfumato.evaluation.probes import check_available
from sfumato.evaluation.report import Report
from sfumato.evaluation.scoreboard import Column, Entry, Scoreboard
from sfumato.runtime.json_values import json_value

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_recipe_is_the_default() -> None:
    assert load_plan(RECIPES / "evaluate-base.toml") == EvaluationPlan() == load_plan(None)


def test_the_quick_recipe_asks_for_a_sixth() -> None:
    quick, usual = load_plan(RECIPES / "evaluate-base-quick.toml"), EvaluationPlan()
    ratio = sum(usual.pictures.model_dump().values()) / sum(quick.pictures.model_dump().values())
    assert 5.5 <= ratio <= 6.5
    assert (quick.seed, quick.drawing) == (usual.seed, usual.drawing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede = 1", r"plan.toml: unknown key 'sede'. Did you mean 'seed'\?"),
        ("[pictures]\npair = 1", r"unknown key 'pictures.pair'. Did you mean 'pairs'\?"),
        ("[pictures]\npairs = -1", r"pictures.pairs is -1; input should be greater than or equal to 0"),
        ("[drawing]\nsteps = 0", r"drawing.steps is 0; input should be greater than or equal to 1"),
        ("[drawing]\nguidance_scale = inf", r"drawing.guidance_scale is inf; input should be a finite number"),
        ("[drawing]\nguidance_interval = [0, nan]", r"drawing.guidance_interval.1 is nan; input should be a finite"),
    ],
)
def test_a_plan_that_makes_no_sense(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_plan(path)


def person(**facts: Any) -> dict[str, Any]:
    """Make a record of an open-peeps person."""
    attributes = {
        "hair": "long afro", "hair_color": None, "facial_hair": None, "expression": "happy", "hat": None,
        "expression_words": "smiling", "glasses": None, "has_glasses": False, "has_hat": False, "has_beard": False,
    }  # fmt: skip
    return {"style": "open-peeps", "looks": {"hair": "buns"}, "attributes": attributes | facts}


def test_what_is_there_counts_only_where_it_is_named() -> None:
    wearer = person(glasses="round glasses", has_glasses=True)
    assert "has_glasses" in stated(wearer, "portrait of a person with round glasses")
    assert "has_glasses" not in stated(wearer, "portrait of a person")
    assert "has_glasses" in stated(person(), "portrait of a person")
    assert "has_hat" not in stated(person(has_hat=None), "portrait of a person")


def test_beards_expressions_and_hair_colours_are_found_in_captions() -> None:
    bearded = person(facial_hair="full beard", has_beard=True)
    assert "has_beard" in stated(bearded, "portrait of a bearded person")
    assert "has_beard" in stated(bearded, "a person with a full beard")
    assert "has_beard" not in stated(bearded, "a person")
    assert "expression" in stated(person(), "a smiling person")
    assert "expression" not in stated(person(), "a person")
    ginger = person(hair_color="ginger", hair="small buns")
    assert "hair_color" in stated(ginger, "a person with ginger hair")
    assert "hair_color" in stated(ginger, "a person with small ginger buns")
    assert "hair_color" not in stated(ginger, "a person in a ginger shirt with small buns")
    assert "hair_color" not in stated(person(), "a person with ginger hair")


def test_labels_are_words_or_none() -> None:
    assert label(person(has_glasses=True), "has_glasses") == "True"
    assert label(person(has_hat=None), "has_hat") is None
    assert label(person(hair_color="red"), "hair_color") == "red"
    assert label({**person(), "style": "lorelei"}, "has_hat") is None  # this style draws no hats


def disc_on(name: str) -> np.ndarray:
    """Paint a small crimson square on a plain ground."""
    picture = paint(Background("plain", (name,)))
    picture[30:60, 40:90] = (200, 20, 60)
    return picture


def test_the_ground_is_named_and_whitened() -> None:
    picture = disc_on("teal")
    assert ground_rgb(picture) == (24.0, 148.0, 152.0)
    assert ground_name(picture) == "teal"
    white = on_white(picture)
    assert (white[0, 0] == 255).all()
    assert (white[45, 60] == (200, 20, 60)).all()


def test_the_foreground_is_found_without_specks() -> None:
    picture = disc_on("navy")
    picture[100, 100] = 255
    mask = foreground(picture)
    assert not mask[100, 100]
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 59, 40, 89)
    part = cut_out(picture, mask)
    seen = np.flatnonzero((part < 250).any(axis=(0, 2)))
    assert 0.8 * 128 <= len(seen) <= 0.9 * 128


def test_balanced_accuracy_counts_every_label_alike() -> None:
    labels = np.array(["no"] * 9 + ["yes"])
    right = np.array([True] * 9 + [False])
    assert balanced_accuracy(right, labels) == 0.5
    assert np.isnan(balanced_accuracy(right[:0], labels[:0]))


def test_intervals_hold_the_truth_and_repeat() -> None:
    measure = share("x", [True] * 80 + [False] * 20, target=0.9, ceiling=1.0, chance=0.5, seed=3)
    assert measure.value == 0.8
    assert measure.interval is not None
    assert 0.68 <= measure.interval[0] <= 0.75
    assert 0.85 <= measure.interval[1] <= 0.92
    assert measure == share("x", [True] * 80 + [False] * 20, target=0.9, ceiling=1.0, chance=0.5, seed=3)
    assert measure.is_reached is False
    assert bootstrap(lambda rows: 2.0, 5) == (2.0, 2.0)


def test_the_table_shows_targets_and_marks() -> None:
    measures = [
        Measure("a", 0.5, 10, (0.4, 0.6), target=0.4, ceiling=0.9, chance=0.0006),
        Measure("b", 12.345, 10, ceiling=3.0, is_distance=True),
        Measure("c", 4.0, 10, target=3.0, is_distance=True),
    ]
    page = Report("primer", "ab" * 32, "cd" * 32, {"seed": 7}, measures, ["people: not measured."]).to_markdown()
    assert "1 of 2 targets are reached. Base abababababab, data cdcdcdcdcdcd, seed 7." in page
    assert "| a | ≥ 40.0 % | 50.0 % ✓ | 40.0 % to 60.0 % | 90.0 % | 0.06 % | 10 |" in page
    assert "| b | – | 12.35 | – | 3.00 | – | 10 |" in page
    assert "| c | ≤ 3.00 | 4.00 ✗ |" in page
    assert "- people: not measured." in page


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_what_no_real_picture_shows_has_no_value() -> None:
    unread = Readings(np.arange(4), np.array(list("abab")), np.zeros(4, bool), np.ones(4, bool))
    accuracy, share_of_real, mean = _measures({"hair_color": unread}, 4, 0)
    assert accuracy.value == 1.0
    for measure in (share_of_real, mean):
        assert math.isnan(measure.value) and measure.is_reached is None and measure.target == 0.8
        assert measure.interval is not None and all(map(math.isnan, measure.interval))
    report = Report("primer", "ab" * 32, "cd" * 32, {"seed": 7}, [accuracy, share_of_real, mean])
    written = strict(report.to_json())["measures"]
    assert [(item["value"], item["interval"]) for item in written] == [(1.0, [1.0, 1.0])] + [(None, [None, None])] * 2
    assert "| people, mean of the shares | ≥ 80.0 % | – | – | 100.0 % | – | 4 |" in report.to_markdown()
    distance = Measure("d", math.nan, 0, is_distance=True)
    assert "| d | – | – | – | – | – | 0 |" in Report("primer", "", "", {}, [distance]).to_markdown()


def test_a_scoreboard_writes_null_for_what_has_no_value() -> None:
    board = Scoreboard("t", [Column("x", "x")], [Entry("fox", "icon", "base", {"x": math.nan})], {})
    assert strict(board.to_json("base"))["means"] == {"base": {"x": None}}


def test_values_as_json_knows_them() -> None:
    values = {"a": math.nan, 3: (math.inf, [-math.inf, 0.5]), "p": Path("a/b"), "s": {1}}
    assert strict(json.dumps(json_value(values))) == {"a": None, "3": [None, [None, 0.5]], "p": "a/b", "s": "{1}"}
    measure = strict(json.dumps(json_value({"m": Measure("x", math.nan, 2)})))["m"]
    assert (measure["name"], measure["value"], measure["count"]) == ("x", None, 2)


def test_missing_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the package scikit-learn.*pip install --editable '\.\[train\]'"):
        check_available()
