"""Fréchet distance, probes and recall against closed forms and planted truths."""

from __future__ import annotations

import pytest
import torch

from sfumato.errors import DataError, ShapeError
from sfumato.evaluation.frechet import frechet_distance
from sfumato.evaluation.probes import LinearProbe
from sfumato.evaluation.recall import Gallery, top_k


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    features = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_a_shift_is_its_squared_length() -> None:
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features + 2.0) == pytest.approx(5 * 4.0, rel=1e-6)


def test_frechet_distance_agrees_with_the_matrix_square_root() -> None:
    from scipy.linalg import sqrtm

    gen = torch.Generator().manual_seed(1)
    a = torch.randn(200, 6, generator=gen).double()
    b = (torch.randn(150, 6, generator=gen) @ torch.randn(6, 6, generator=gen) + 0.3).double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((cov_a @ cov_b).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_names_the_sizes_given() -> None:
    with pytest.raises(ShapeError, match="given 1 and 3"):
        frechet_distance(torch.zeros(1, 4), torch.zeros(3, 4))


def test_probe_reads_a_planted_direction_and_not_noise() -> None:
    gen = torch.Generator().manual_seed(2)
    labels = ["yes" if i % 2 else "no" for i in range(200)]
    noise = torch.randn(200, 16, generator=gen)
    planted = noise + torch.tensor([[1.0 if label == "yes" else -1.0] for label in labels])

    def read_right(features: torch.Tensor) -> float:
        read = LinearProbe(features[:100], labels[:100]).predict(features[100:])
        return sum(one == label for one, label in zip(read, labels[100:], strict=True)) / 100

    assert read_right(planted) > 0.95
    assert read_right(noise) < 0.7


def test_probe_needs_two_labels() -> None:
    with pytest.raises(DataError, match=r"given \['hat'\] on 3 pictures"):
        LinearProbe(torch.zeros(3, 2), ["hat"] * 3)


def test_ranks_count_the_nearer_concepts_not_the_nearer_pictures() -> None:
    features = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.6, 0.8], [0.0, 1.0]])
    gallery = Gallery(features, ("dog", "dog", "cat", "fish"))
    ranks = gallery.ranks(torch.tensor([[2.0, 0.1], [2.0, 0.1], [2.0, 0.1]]), ["dog", "cat", "fish"])
    assert ranks == [1, 2, 3]
    assert top_k(ranks, 2) == pytest.approx(2 / 3)
    assert top_k([], 5) == 0.0


def test_ranks_refuse_a_concept_without_picture() -> None:
    gallery = Gallery(torch.eye(2), ("dog", "cat"))
    with pytest.raises(DataError, match="gallery of 2 concepts has no picture of unicorn"):
        gallery.ranks(torch.eye(2)[:1], ["unicorn"])
