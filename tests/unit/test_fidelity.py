"""Formulas of a verdict against closed forms, and the laws that they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.evaluation.fidelity import (
    class_preservation,
    class_shift,
    diversity,
    own_fidelity,
    perceptual_distances,
    prompt_fidelity,
    prompt_margin,
    prompt_means,
    reference_margin,
    share,
    subject_fidelity,
)
from sfumato.evaluation.measures import bootstrap, mean_interval, paired_difference
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.models.perceptual import PerceptualLoss


def at(*degrees: float) -> Tensor:
    """Unit vectors in a plane: the cosine of two is that of the angle between them."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_subject_fidelity_is_the_mean_pairwise_cosine() -> None:
    found = subject_fidelity(at(0, 90), at(30, 60))
    assert found.tolist() == pytest.approx([(cos(30) + cos(60)) / 2, (cos(60) + cos(30)) / 2])
    assert class_preservation(at(10), at(10, 70)).tolist() == pytest.approx([(1 + cos(60)) / 2])


def test_length_of_features_does_not_count() -> None:
    assert torch.allclose(subject_fidelity(at(0, 50) * 7, at(20) * 0.1), subject_fidelity(at(0, 50), at(20)))


def test_own_fidelity_leaves_the_picture_itself_out() -> None:
    assert own_fidelity(at(0, 30, 90)).tolist() == pytest.approx(
        [(cos(30) + cos(90)) / 2, (cos(30) + cos(60)) / 2, (cos(90) + cos(60)) / 2]
    )
    assert own_fidelity(at(40)).tolist() == [1.0]


def test_prompt_fidelity_and_margin() -> None:
    drawn, texts, own = at(0, 80), at(10, 90), torch.tensor([0, 1])
    assert prompt_fidelity(drawn, texts).tolist() == pytest.approx([cos(10), cos(10)], abs=1e-6)
    assert prompt_margin(drawn, texts, own).tolist() == pytest.approx([cos(10) - cos(90), cos(10) - cos(70)], abs=1e-6)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 360), min_size=2, max_size=5), st.integers(0, 4))
def test_margins_of_a_picture_sum_to_zero_over_all_prompts(angles: list[float], picture: int) -> None:
    """A picture that fits one prompt better fits the others worse: the mean over what it might be is 0."""
    texts, count = at(*angles), len(angles)
    drawn = at(*[37.0 * (picture + 1)]).repeat(count, 1)
    assert float(prompt_margin(drawn, texts, torch.arange(count)).sum()) == pytest.approx(0, abs=1e-4)


def test_one_prompt_has_no_margin() -> None:
    with pytest.raises(ConfigError, match="1 prompt was given; a margin needs at least 2"):
        prompt_margin(at(0), at(0), torch.tensor([0]))


def test_pictures_stand_for_their_prompts() -> None:
    drawn, own = at(0, 20, 90, 110), torch.tensor([0, 0, 1, 1])
    means = prompt_means(drawn, own)
    assert torch.allclose(means[0] / means[0].norm(), at(10)[0], atol=1e-6)
    # The picture at 0° is compared with the other one of its prompt (20°) and with both of the other prompt (100°).
    assert reference_margin(drawn, drawn, own).tolist() == pytest.approx(
        [cos(20) - cos(100), cos(20) - cos(80), cos(20) - cos(80), cos(20) - cos(100)], abs=1e-6
    )
    with pytest.raises(ConfigError, match="A prompt has 1 picture; needed: at least 2"):
        reference_margin(at(0, 20, 90), at(0, 20, 90), torch.tensor([0, 0, 1]))


def test_what_is_drawn_as_well_as_the_known_pictures_reaches_what_they_reach() -> None:
    """The picture of the same prompt and seed does not stand for the prompt, at the base and at every step."""
    own, source = torch.arange(4).repeat_interleave(2), torch.Generator().manual_seed(0)
    prompts = torch.randn(4, 64, generator=source).repeat_interleave(2, dim=0)

    def drawn() -> Tensor:
        return prompts + torch.randn(8, 64, generator=source)

    pairs = [(drawn(), drawn()) for _ in range(300)]
    of_base = torch.stack([reference_margin(base, base, own) for base, _ in pairs])
    of_step = torch.stack([reference_margin(step, base, own) for base, step in pairs])
    assert float(of_step.mean() / of_base.mean()) == pytest.approx(1, abs=0.05)
    # With the counterpart in the mean, the same pictures would seem to follow their prompts better than themselves.
    base, _ = pairs[0]
    assert float(prompt_margin(base, prompt_means(base, own), own).mean() / of_base[0].mean()) > 1.5


def test_class_shift() -> None:
    assert class_shift(at(0, 60), at(0, 0)).tolist() == pytest.approx([0, 0.5], abs=1e-6)


def test_diversity_is_the_mean_over_pairs() -> None:
    distances = torch.tensor([[0.0, 1, 2], [1, 0, 6], [2, 6, 0]])
    assert diversity(distances) == pytest.approx(3)
    with pytest.raises(ConfigError, match="1 picture of a prompt was given; diversity needs at least 2"):
        diversity(torch.zeros(1, 1))


def test_perceptual_distances_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    loss, images = PerceptualLoss(network, (0, 2)), torch.rand(3, 3, 32, 32) * 2 - 1
    found = perceptual_distances(images, loss)
    for row in range(3):
        assert torch.allclose(found[row], loss(images, images[row : row + 1].expand(3, -1, -1, -1)), atol=1e-6)
    assert torch.allclose(found, found.T, atol=1e-6) and not found.diagonal().any()


def test_shares_lie_between_what_is_known() -> None:
    found = share(torch.tensor([0.2, 0.5, 0.8, 1.1]), 0.2, 0.8)
    assert found is not None and found.tolist() == pytest.approx([0, 0.5, 1, 1.5])
    assert share(torch.tensor([0.5]), 0.6, 0.6) is None
    assert share(torch.tensor([0.5]), 0.6, 0.4) is None


def test_paired_intervals_are_narrow_where_pictures_share_their_spread() -> None:
    rng = np.random.default_rng(0)
    of_prompt = rng.normal(0, 10, 40)
    a, b = of_prompt + 1 + rng.normal(0, 0.1, 40), of_prompt
    low, high = paired_difference(a.tolist(), b.tolist())
    assert 0.9 < low < 1 < high < 1.1
    unpaired = mean_interval(a.tolist())
    assert unpaired[1] - unpaired[0] > 20 * (high - low)


def test_mean_interval_is_the_bootstrap_of_the_mean() -> None:
    values = 4 * [0.1, 0.5, 0.9, 0.4, 0.2, 0.6, 0.3, 0.8]
    assert mean_interval(values) == bootstrap(lambda rows: float(np.array(values)[rows].mean()), 32)
    assert mean_interval([0.3, 0.3]) == pytest.approx((0.3, 0.3)) and mean_interval([0.3]) == (0.3, 0.3)


def test_intervals_of_few_values_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for count in (*range(2, 9), 11, 16, 30):
        found = [mean_interval(rng.normal(1, 1, count).tolist()) for _ in range(1000)]
        assert 0.93 < np.mean([low <= 1 <= high for low, high in found]) < 0.97, count
