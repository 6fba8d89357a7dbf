"""What a paper reports of made-up numbers: found, not found, or within chance."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.orderings import Difference, difference, together
from benchmarks.paper_experiments import EXPERIMENTS, Claim, Experiment, Link, choose
from benchmarks.paper_report import PaperReport, Values

from sfumato.errors import ConfigError
from sfumato.evaluation.characters import TRUTH
from sfumato.evaluation.measures import mean_interval, nested_interval
from sfumato.evaluation.trial import BASELINE
from sfumato.operations.trials import Arm

LOW = {f"s{number}": np.random.default_rng(number).normal(0.3, 0.1, 8).tolist() for number in range(6)}


def moved(by: float, noise: float = 0.02, seed: int = 100) -> dict[str, list[float]]:
    """Move all values, each by a little more or less."""
    rng = np.random.default_rng(seed)
    return {name: [value + by + noise * rng.normal() for value in values] for name, values in LOW.items()}


@pytest.mark.parametrize(
    ("by", "slack", "verdict"),
    [
        (0.05, 0.0, "found"),
        (-0.05, 0.0, "not found"),
        (0.0, 0.0, "within chance"),
        (-0.02, 0.05, "found"),
        (-0.1, 0.05, "not found"),
        (-0.05, 0.05, "within chance"),
    ],
)
def test_an_ordering_of_two_rows(by: float, slack: float, verdict: str) -> None:
    found = difference(moved(by), LOW, slack)
    assert found.verdict == verdict, found
    assert found.mean == pytest.approx(by, abs=0.01) and found.pairs == 48
    assert found.interval[0] < found.mean < found.interval[1]


def test_pairs_cancel_what_both_rows_share() -> None:
    spread = max(map(max, LOW.values())) - min(map(min, LOW.values()))
    assert spread > 0.3 and difference(moved(0.03), LOW).verdict == "found"


def test_few_subjects_prove_nothing() -> None:
    assert Difference(0.5, (0.4, 0.6), 4, 400).verdict == "within chance"
    assert Difference(0.5, (0.4, 0.6), 5, 5).verdict == "found"
    same = difference(LOW, LOW)
    assert same.verdict == "within chance" and same.interval == (0.0, 0.0)


def test_subjects_that_disagree_are_not_outvoted_by_their_pictures() -> None:
    groups = [[0.10] * 50, [0.12] * 50, [-0.08] * 50]
    flat = [value for group in groups for value in group]
    assert mean_interval(flat)[0] > 0, "150 pictures seem sure"
    low, high = nested_interval(groups)
    assert low < 0 < high, "3 subjects are not"
    assert nested_interval([[1.0, 1.0]]) == (1.0, 1.0)
    low, high = nested_interval([flat])
    assert (low, high) == pytest.approx(mean_interval(flat), abs=0.01), "one group is a plain bootstrap"


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"The subjects differ: \['a'\] and \['b'\]"):
        difference({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(ValueError, match="shorter"):
        difference({"a": [1.0, 2.0]}, {"a": [1.0]})


def test_several_orderings_as_one() -> None:
    assert together(["found", "found"]) == "found"
    assert together(["found", "within chance"]) == "within chance"
    assert together(["found", "within chance", "not found"]) == "not found"


ARMS = {"much": Arm("much of it"), "some": Arm("some"), "none": Arm("none")}
CLAIMS = (
    Claim("much > some > none", (Link("much", "some", "subject"), Link("some", "none", "subject"))),
    Claim("some is enough", (Link("some", "much", "subject", is_close=True),)),
    Claim("texts", (Link("much", "none", "text"),)),
)


def made_up(much: float, some: float) -> PaperReport:
    """A report of one experiment, whose scale reaches from 0.3 to 0.9."""
    subjects = {"much of it": moved(much), "some": moved(some, seed=101), "none": LOW}
    subjects |= {BASELINE: LOW, TRUTH: moved(0.6, 0.0)}
    values: Values = {method: {"subject": columns} for method, columns in subjects.items()}
    experiment = Experiment("made", "made up", ARMS, CLAIMS)
    return PaperReport("Title", [experiment], values, {"plan": {}}, notes=("A note.",))


@pytest.mark.parametrize(
    ("much", "some", "order", "enough", "whole"),
    [
        (0.2, 0.17, "found", "found", "found"),
        (0.3, 0.1, "found", "not found", "not found"),
        (0.1, 0.3, "not found", "found", "not found"),
        (0.2, 0.2, "within chance", "found", "within chance"),
    ],
)
def test_the_sentence_of_an_experiment(much: float, some: float, order: str, enough: str, whole: str) -> None:
    report = made_up(much, some)
    assert report.slack == pytest.approx(0.06)
    (experiment,) = report.experiments
    sentence = report.sentence(experiment)
    assert sentence.startswith(f"made up: {whole}. much > some > none: {order} (")
    assert f". some is enough: {enough} (" in sentence and "down to -0.060 allowed)" in sentence
    assert sentence.endswith("texts: not measured."), "no encoder of texts"
    plain = json.loads(report.to_json())["experiments"][0]
    assert plain["verdict"] == whole and [claim["verdict"] for claim in plain["claims"]] == [order, enough, None]
    assert plain["rows"][0]["label"] == "much of it" and plain["rows"][0]["means"]["pres"] is None
    page = report.to_markdown()
    assert "| experiment | row | subject fidelity ↑ |" in page and "| made | much |" in page and "|  | some |" in page
    assert f"- **made**: made up: {whole}." in page and "- A note." in page


def test_what_has_no_value_is_null() -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    report = made_up(0.2, 0.1)
    some = {**report.values["some"], "seconds": {"s0": [math.nan]}}
    known = replace(report, values={**report.values, "some": some})
    plain = json.loads(known.to_json(), parse_constant=refuse)
    assert plain["pictures"]["some"]["seconds"] == {"s0": [None]}
    assert plain["experiments"][0]["rows"][1]["means"]["seconds"] is None


def test_a_scale_that_is_upside_down_allows_no_loss() -> None:
    report = made_up(0.2, 0.1)
    assert replace(report, values={**report.values, TRUTH: report.values[BASELINE]}).slack == 0.0


def test_names_of_experiments() -> None:
    assert choose(None) == tuple(EXPERIMENTS) and choose(" rank, prior,rank") == ("rank", "prior")
    with pytest.raises(ConfigError, match="--only: given 'rink'; needed names out of prior, noun, rank") as caught:
        choose("prior,rink")
    assert caught.value.hint is not None and "'rank'" in caught.value.hint
    with pytest.raises(ConfigError, match="--only: given ''; needed names out of prior"):
        choose(",")
