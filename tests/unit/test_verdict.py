"""The rule on curves whose right step is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.evaluation.memorisation import Kin, Nearest
from sfumato.evaluation.scores import StepScores, Yardstick, columns
from sfumato.evaluation.verdict import Candidate, Joint, Rule, best, excess, pareto_front, reason, settled

RULE = Rule(min_prompt=0.6, max_drift=0.5, max_copies=0.25, patience=2)
SPREAD = (-0.02, 0.0, 0.02, 0.0)


def at(
    step: int, fidelity: float, prompt: float | None = 0.9, drift: float | None = 0.1, copies: float = 0.0
) -> Candidate:
    """A step whose pictures lie around given means."""

    def around(mean: float | None) -> list[float] | None:
        return None if mean is None else [mean + off for off in SPREAD]

    rows = around(fidelity)
    assert rows is not None
    return Candidate(step, rows, around(prompt), around(drift), copies)


RISING = [
    at(50, 0.3),
    at(100, 0.6, drift=0.2),
    at(150, 0.8, 0.7, 0.4),
    at(200, 0.9, 0.5, 0.45),
    at(250, 0.95, 0.4, 0.7),
]


def test_the_best_within_the_bounds_wins() -> None:
    assert best(RISING, RULE).step == 150
    assert best(RISING, Rule(min_prompt=0, max_drift=1)).step == 250
    assert best(RISING, Rule(min_prompt=0.8)).step == 100
    assert best(RISING, Rule(max_drift=0.15)).step == 50


def test_copies_put_a_step_out() -> None:
    assert best([at(50, 0.3), at(100, 0.9, copies=0.25)], RULE).step == 50
    assert best([at(50, 0.3), at(100, 0.9, copies=0.2)], RULE).step == 100


def test_copies_count_by_how_far_they_are_out() -> None:
    copied, vague = at(50, 0.3, copies=0.3), at(100, 0.8, 0.45)
    assert excess(copied, RULE) == {"copies": pytest.approx(0.05)}
    assert best([copied, vague], RULE).step == 50  # out by 0.05, not by 0.15
    reached = at(150, 0.9, copies=0.25)  # out, but by next to nothing
    assert best([vague, copied, reached], RULE).step == 150 and excess(reached, RULE)["copies"] > 0


def test_between_equals_the_earlier() -> None:
    assert best([at(100, 0.5), at(50, 0.5)], RULE).step == 50


def test_where_none_keeps_the_bounds_the_nearest_to_them() -> None:
    steps = [at(50, 0.3, 0.5), at(100, 0.6, 0.55), at(150, 0.8, 0.1)]
    assert best(steps, RULE).step == 100
    assert excess(steps[0], RULE) == {"prompt fidelity": pytest.approx(0.1)}
    assert reason(steps, RULE) == (
        "No saved step keeps the bounds (prompt 0.55 of at least 0.6, drift 0.10 of at most 0.5, copies 0% of less "
        "than 25%). Step 100 comes nearest to them; it is out by prompt fidelity, with subject fidelity 0.60 of the "
        "way from the class to the subject."
    )


def test_what_is_left_out_bounds_nothing_and_is_said() -> None:
    steps = [at(50, 0.3, None, None), at(100, 0.6, None, None)]
    assert best(steps, RULE).step == 100
    assert "prompt fidelity is left out, drift is left out" in reason(steps, RULE)


numbers = st.floats(0, 1, width=32)
steps_of_a_run = st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from([0.0, 0.5])), min_size=2, max_size=6)


@settings(max_examples=40)
@given(steps_of_a_run, st.integers(1, 5))
def test_only_the_leader_need_be_kept(values: list[tuple[float, float, float, float]], cut: int) -> None:
    """The best of all is the best of the rest and the best so far, wherever the run is cut."""
    steps = [Candidate(50 * n + 50, [f], [p], [d], c) for n, (f, p, d, c) in enumerate(values)]
    early, late = steps[:cut], steps[cut:]
    assert best([best(early, RULE), *late], RULE) == best(steps, RULE)


@settings(max_examples=40)
@given(steps_of_a_run)
def test_the_front_holds_the_best_within_the_bounds(values: list[tuple[float, float, float, float]]) -> None:
    steps = [Candidate(n, [f], [p], [d]) for n, (f, p, d, _) in enumerate(values)]
    front = pareto_front(steps)
    assert front
    inside = [one for one in steps if not excess(one, RULE)]
    if inside:
        highest = max(one.fidelity[0] for one in inside)
        assert any(one.step in front and one.fidelity[0] >= highest for one in inside)


def test_the_front() -> None:
    steps = [at(1, 0.3, 0.9, 0.1), at(2, 0.5, 0.8, 0.2), at(3, 0.4, 0.7, 0.3), at(4, 0.9, 0.2, 0.9)]
    assert pareto_front(steps) == [1, 2, 4]
    assert pareto_front([at(1, 0.5), at(2, 0.5)]) == [1, 2]


def test_a_step_out_of_bounds_is_no_alternative() -> None:
    early = replace(at(50, 0.79), fidelity=[0.85, 0.74, 0.83, 0.74])
    steps = [early, at(100, 0.80), at(150, 0.795, drift=0.8)]
    assert "Step 50 cannot be told from it" in reason(steps, RULE) and "150" not in reason(steps, RULE)
    assert "cannot be told" not in reason(steps[1:], RULE), "nothing else keeps the bounds"
    assert "Step 150 is nearer to the subject, but out by drift" in reason([*steps[:2], at(150, 0.9, drift=0.8)], RULE)


def test_a_run_ends_when_two_steps_are_lost() -> None:
    lost = [at(50, 0.5), at(100, 0.8), at(150, 0.79, drift=0.8), at(200, 0.8, drift=0.9)]
    assert settled(lost, RULE) == (
        "No later step can win: steps 150, 200 lie outside the bounds with their whole intervals, and none of them is "
        "provably nearer to the subject than step 100."
    )
    assert settled(lost[:3], RULE) is None  # one lost step is not two
    assert settled(lost, Rule(patience=0)) is None


@pytest.mark.parametrize(
    "last",
    [
        at(200, 0.95, drift=0.9),  # still coming nearer to the subject
        at(200, 0.8, drift=0.49),  # within the bounds
        at(200, 0.8, drift=0.505),  # out, but not with the whole interval
    ],
)
def test_a_run_goes_on_while_a_step_may_still_win(last: Candidate) -> None:
    assert settled([at(50, 0.5), at(100, 0.8), at(150, 0.81, drift=0.8), last], RULE) is None


def test_a_run_without_a_step_within_the_bounds_goes_on() -> None:
    assert settled([at(50, 0.5, 0.1), at(100, 0.5, 0.1), at(150, 0.5, 0.1)], RULE) is None


def test_the_reason_names_what_speaks_against() -> None:
    assert reason(RISING, RULE) == (
        "It has the highest subject fidelity (0.80 of the way from the class to the subject) of the 3 of 5 saved steps "
        "that keep the bounds (prompt 0.70 of at least 0.6, drift 0.40 of at most 0.5, copies 0% of less than 25%). "
        "Step 250 is nearer to the subject, but out by prompt fidelity, drift."
    )
    close = [Candidate(100, [0.5] * 4, [0.9], [0.1]), Candidate(50, [0.6, 0.4, 0.55, 0.41], [0.9], [0.1])]
    assert "Step 50 cannot be told from it in fidelity with this few pictures (difference 0.01," in reason(close, RULE)
    assert reason([at(50, 0.5)], RULE).startswith("It is the only saved step; it keeps the bounds")


# ── several subjects ─────────────────────────────────────────────────────────────────────────────


def both(fox: Candidate, cat: Candidate) -> Joint:
    return Joint({"<fox>": fox, "<cat>": cat})


def test_a_step_must_keep_the_bounds_for_every_subject() -> None:
    steps = [
        both(at(50, 0.3), at(50, 0.3)),
        both(at(100, 0.4), at(100, 0.8)),
        both(at(150, 0.9), at(150, 0.9, drift=0.6)),
        both(at(200, 0.9, 0.5), at(200, 0.9, drift=0.7)),
    ]
    assert [one.step for one in steps] == [50, 100, 150, 200] and best(steps, RULE).step == 100
    assert best(steps[2:], RULE).step == 150  # out by 0.1, not by 0.1 and 0.2
    assert excess(steps[3], RULE) == {
        "prompt fidelity of <fox>": pytest.approx(0.1),
        "drift of <cat>": pytest.approx(0.2),
    }
    assert pareto_front(steps) == [100, 150]
    assert reason(steps, RULE) == (
        "It has the highest subject fidelity (0.60 of the way from the class to the subject, the mean of 2 subjects) "
        "of the 2 of 4 saved steps that keep the bounds (<fox>: prompt 0.90 of at least 0.6, drift 0.10 of at most "
        "0.5, copies 0% of less than 25%; <cat>: prompt 0.90 of at least 0.6, drift 0.10 of at most 0.5, copies 0% of "
        "less than 25%). Step 150 is nearer to the subjects in the mean, but out by drift of "
        "<cat>."
    )


def test_the_mean_over_subjects_decides_and_a_cosine_does_not_count_beside_shares() -> None:
    steps = [both(at(50, 0.9), at(50, 0.5)), both(at(100, 0.7), at(100, 0.8))]
    assert best(steps, RULE).step == 100
    raw = [replace(at(50, 0.5), is_scaled=False), replace(at(100, 0.8), is_scaled=False)]
    mixed = [both(at(50, 0.9), raw[0]), both(at(100, 0.7), raw[1])]
    assert best(mixed, RULE).step == 50 and mixed[0].is_scaled
    assert "to the subject, without <cat>, which cannot be told from what the base draws) of" in reason(mixed, RULE)
    alone = [both(*raw[:1] * 2), both(*raw[1:] * 2)]
    assert best(alone, RULE).step == 100 and "(0.80 (cosine), the mean of 2 subjects)" in reason(alone, RULE)


def test_a_subject_with_more_pictures_counts_as_much() -> None:
    many = Candidate(50, [0.2] * 6, [0.9], [0.1])
    assert both(many, Candidate(50, [0.8] * 2, [0.9], [0.1])).fidelity == pytest.approx([0.2 * 4 / 6] * 6 + [1.6] * 2)
    assert np.mean(both(many, Candidate(50, [0.8] * 2, [0.9], [0.1])).fidelity) == pytest.approx(0.5)
    alike = both(at(50, 0.3), at(50, 0.7))
    assert alike.fidelity == [*at(50, 0.3).fidelity, *at(50, 0.7).fidelity]


def test_one_subject_out_ends_the_run_unless_another_comes_nearer() -> None:
    kept, out = [at(50, 0.5), at(100, 0.8)], [at(150, 0.8, drift=0.8), at(200, 0.8, drift=0.9)]
    still = [at(50, 0.5), at(100, 0.8), at(150, 0.8), at(200, 0.8)]
    assert settled([both(*pair) for pair in zip([*kept, *out], still, strict=True)], RULE) == (
        "No later step can win: steps 150, 200 lie outside the bounds with their whole intervals, and none of them is "
        "provably nearer to any subject than step 100."
    )
    rising = [*still[:3], at(200, 0.95)]
    assert settled([both(*pair) for pair in zip([*kept, *out], rising, strict=True)], RULE) is None
    inside = [both(*pair) for pair in zip([*kept, out[0], at(200, 0.8)], still, strict=True)]
    assert settled(inside, RULE) is None


steps_of_two = st.lists(st.tuples(*[numbers] * 6), min_size=2, max_size=6)


@settings(max_examples=40)
@given(steps_of_two, st.integers(1, 5))
def test_only_the_leader_of_several_subjects_need_be_kept(values: list[tuple[float, ...]], cut: int) -> None:
    steps = [
        both(Candidate(n, [row[0]], [row[1]], [row[2]]), Candidate(n, [row[3]], [row[4]], [row[5]]))
        for n, row in enumerate(values)
    ]
    early, late = steps[:cut], steps[cut:]
    assert best([best(early, RULE), *late], RULE) == best(steps, RULE)


# ── the scale from 0 to 1 ────────────────────────────────────────────────────────────────────────


def scores(step: int, **values: Any) -> StepScores:
    usual: dict[str, Any] = {
        "fidelity": (0.4, 0.4),
        "prompt": (0.2, 0.2),
        "word": (0.3, 0.5),
        "preservation": (0.3, 0.5),
        "shift": (0.0, 0.0),
        "diversity": (0.7,),
        "nearest": (Nearest(0, 0.3, 0.3), Nearest(1, 0.3, 0.3)),
    }
    return StepScores(step, **usual | values)


STICK = Yardstick(scores(0), (0.8, 0.8), Kin(0.2, 0.2), "a fox")


def test_shares_begin_at_the_base_and_end_at_the_subject() -> None:
    now = scores(
        50, fidelity=(0.6, 0.8), prompt=(0.1, 0.2), preservation=(0.5, 0.5), nearest=(Nearest(0, 0.05, 0.05),) * 2
    )
    one = STICK.candidate(now)
    assert list(one.fidelity) == pytest.approx([0.5, 1.0])
    assert one.prompt is not None and list(one.prompt) == pytest.approx([0.5, 1.0])
    assert one.drift is not None and list(one.drift) == pytest.approx([0.5, 0.0])  # paired: from what its seed gave
    assert one.copies == 1
    base = STICK.candidate(scores(0))
    assert [sum(values) for values in (base.fidelity, base.drift or ())] == pytest.approx([0, 0])


def test_columns_and_alarms() -> None:
    near = (Nearest(0, 0.05, 0.05),) * 2
    now = scores(50, fidelity=(0.8, 0.7), word=(0.8, 0.8), preservation=(0.7, 0.7), nearest=near)
    found = columns(now, STICK)
    assert found["pres"][0] == pytest.approx(0.7) and found["drift_share"][0] == pytest.approx(0.75)
    assert found["copies"] == (1, None) and found["leaks"] == (1, None)
    assert [alarm.split()[0] for alarm in STICK.alarms(now)] == ["Memorised", "Leaked"]
    assert [alarm.split()[0] for alarm in STICK.alarms(scores(50))] == ["Nothing"], "as the base before learning"


def test_what_cannot_be_measured_is_left_out() -> None:
    stick = Yardstick(scores(0, prompt=(-0.1, 0.1)), (0.3, 0.3), Kin(0.2, 0.2), "a fox")
    one = stick.candidate(scores(50))
    assert (one.prompt, one.drift, one.is_scaled, list(one.fidelity)) == (None, None, False, [0.4, 0.4])
    assert not {"prompt_share", "drift_share", "subject_share", "leaks"} & set(columns(scores(50), stick))
    assert "subject fidelity 0.40 (cosine)" in reason([one], RULE)


@pytest.mark.parametrize(
    ("own", "fidelity", "preservation", "scaled", "drifts"),
    [
        ((0.5, 0.502), (0.498, 0.502), (0.498, 0.502), False, False),  # 0.001 apart, within what pictures spread
        ((0.5, 0.502), (0.499, 0.4995), (0.498, 0.502), True, False),
        ((0.5, 0.502), (0.498, 0.502), (0.499, 0.4995), False, True),
        ((0.6, 0.6), (0.4, 0.7), (0.5, 0.59), False, True),
        ((1.0,), (0.9, 0.98), (0.95, 0.99), True, True),  # a single picture: 1 without a spread of its own
        ((1.0,), (1.0, 1.0), (0.95, 1.0), False, False),
    ],
)
def test_a_scale_needs_ends_that_can_be_told_apart(
    own: tuple[float, ...],
    fidelity: tuple[float, ...],
    preservation: tuple[float, ...],
    scaled: bool,
    drifts: bool,
) -> None:
    stick = Yardstick(scores(0, fidelity=fidelity, preservation=preservation), own, Kin(0.2, 0.2), "a fox")
    now = scores(50, preservation=tuple(value + 0.0005 for value in preservation))
    one = stick.candidate(now)
    assert (one.is_scaled, one.drift is not None) == (scaled, drifts)


def test_scores_survive_json() -> None:
    import json

    one = scores(50, prompt=None)
    assert StepScores.from_dict(json.loads(json.dumps(one.to_dict()))) == one
