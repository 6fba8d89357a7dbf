"""Laws of the first stage: closed forms of the posterior, straight-through gradients, codebook choice and use."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from sfumato.errors import ConfigError
from sfumato.models.posterior import Posterior
from sfumato.models.quantizer import VectorQuantizer, codebook_use

SEEDS = st.integers(0, 2**16)


def randn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=SEEDS, spread=st.floats(0.01, 3.0))
def test_kl_is_the_closed_form_of_two_gaussians(seed: int, spread: float) -> None:
    mean, logvar = randn(seed, 2, 3, 4, 5) * 2, randn(seed + 1, 2, 3, 4, 5) * spread
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Posterior(mean, logvar).kl(), expected, rtol=1e-4, atol=1e-4)


@given(seed=SEEDS)
def test_kl_is_never_negative_and_zero_only_for_the_standard_normal(seed: int) -> None:
    zero = torch.zeros(1, 2, 3, 3)
    assert Posterior(zero, zero).kl().item() == 0.0
    assert Posterior(randn(seed, 1, 2, 3, 3), randn(seed + 1, 1, 2, 3, 3)).kl().item() > 0.0


@given(seed=SEEDS)
def test_samples_are_affine_in_the_noise(seed: int) -> None:
    mean, logvar, eps = randn(seed, 1, 2, 3, 3), randn(seed + 1, 1, 2, 3, 3), randn(seed + 2, 1, 2, 3, 3)
    posterior = Posterior(mean, logvar)
    torch.testing.assert_close(posterior.sample(torch.zeros_like(eps)), posterior.mode())
    torch.testing.assert_close((posterior.sample(eps) - mean) / eps, (0.5 * logvar).exp(), rtol=1e-3, atol=1e-3)


@given(seed=SEEDS, size=st.integers(2, 40), width=st.integers(1, 5))
def test_the_nearest_code_is_chosen(seed: int, size: int, width: int) -> None:
    quantizer = VectorQuantizer(size, width).double()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(randn(seed, size, width))
    z = randn(seed + 1, 2, width, 3, 2).double()
    result = quantizer(z)
    distances = torch.cdist(z.movedim(1, -1).reshape(-1, width), quantizer.embedding.weight)
    assert torch.equal(result.indices.flatten(), distances.argmin(dim=1))
    torch.testing.assert_close(result.latents, quantizer.lookup(result.indices))
    again = quantizer(result.latents.detach())
    assert torch.equal(again.indices, result.indices)
    assert float(again.loss().detach()) == pytest.approx(0.0, abs=1e-12)


@given(seed=SEEDS, beta=st.floats(0.0, 2.0))
def test_gradients_go_straight_through_and_each_term_moves_its_own_side(seed: int, beta: float) -> None:
    quantizer = VectorQuantizer(6, 3, beta=beta)
    z, upstream = randn(seed, 2, 3, 2, 2).requires_grad_(), randn(seed + 1, 2, 3, 2, 2)
    (quantizer(z).latents * upstream).sum().backward()
    torch.testing.assert_close(z.grad, upstream)
    assert quantizer.embedding.weight.grad is None

    z.grad = None
    result = quantizer(z)
    result.codebook_loss.backward(retain_graph=True)
    assert z.grad is None
    assert quantizer.embedding.weight.grad is not None
    quantizer.embedding.weight.grad = None
    result.commitment_loss.backward()
    assert quantizer.embedding.weight.grad is None
    e = quantizer.lookup(result.indices)
    torch.testing.assert_close(z.grad, 2 * beta * (z - e).detach() / z.numel())


@given(size=st.integers(2, 30), repeats=st.integers(1, 4))
def test_even_use_has_full_perplexity(size: int, repeats: int) -> None:
    use = codebook_use(torch.arange(size).repeat(repeats), size)
    assert use.used == 1.0
    assert use.perplexity == pytest.approx(size)


def test_perplexity_of_an_uneven_choice() -> None:
    use = codebook_use(torch.tensor([[0, 0, 0, 2]]), 8)
    assert use.used == 0.25
    assert use.perplexity == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert codebook_use(torch.zeros(5, dtype=torch.long), 8).perplexity == pytest.approx(1.0)


def test_a_codebook_starts_evenly_around_zero() -> None:
    weight = VectorQuantizer(100, 8).embedding.weight.detach()
    assert weight.abs().max() <= 0.01
    assert float(weight.abs().mean()) == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize(("size", "width", "beta"), [(1, 3, 0.25), (4, 0, 0.25), (4, 3, -1.0)])
def test_unusable_codebooks_are_refused(size: int, width: int, beta: float) -> None:
    with pytest.raises(ConfigError, match=f"size {size}, width {width}, beta {beta}"):
        VectorQuantizer(size, width, beta)


def test_the_nearest_code_is_found_in_float32_whatever_is_computed_around_it() -> None:
    quantizer = VectorQuantizer(2, 1)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[0.9990], [1.0040]]))
    with torch.autocast("cpu", torch.bfloat16):
        assert quantizer.nearest(torch.ones(1, 1, 1, 1)).item() == 0
