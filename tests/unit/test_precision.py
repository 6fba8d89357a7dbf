"""Numbers of the computation: float32 or bf16 products, weights and losses in float32, equal attention either way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato.nn import attention
from sfumato.nn.attention import attend
from sfumato.runtime.precision import computing_in
from sfumato.training.optim_own import Muon, orthogonalized

CPU = torch.device("cpu")


def test_products_are_computed_in_the_numbers_that_were_asked_for() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    with computing_in("fp32", CPU):
        assert layer(x).dtype == torch.float32
    with computing_in("bf16", CPU):
        out = layer(x)
        with computing_in("fp32", CPU):
            assert layer(x).dtype == torch.float32, "also inside the other"
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.dtype == torch.float32 and layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("queries", "keys", "causal"), [(5, 5, False), (7, 3, False), (6, 6, True)])
def test_attention_in_bf16_learns_like_the_fused_kernel(queries: int, keys: int, causal: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 3, queries, 8), (2, 3, keys, 8), (2, 3, keys, 8))
    sides = [torch.randn(shape, generator=draw).bfloat16() for shape in shapes]
    ours = [side.clone().requires_grad_() for side in sides]
    exact = [side.double().requires_grad_() for side in sides]
    out = attend(*ours, causal=causal)
    wanted = F.scaled_dot_product_attention(*exact, is_causal=causal).transpose(1, 2).flatten(2)
    assert out.dtype == torch.bfloat16 and out.shape == (2, queries, 24)
    torch.testing.assert_close(out.double(), wanted, atol=0.02, rtol=0.02)
    slope = torch.randn(wanted.shape, generator=draw).double()
    wanted.backward(slope)
    out.backward(slope.bfloat16())
    for got, want in zip(ours, exact, strict=True):
        assert got.grad is not None and want.grad is not None
        torch.testing.assert_close(got.grad.double(), want.grad, atol=0.05, rtol=0.05)


def test_many_scores_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    sides = [torch.randn(2, 3, rows, 8, generator=draw).bfloat16() for rows in (7, 5, 5)]
    slope = torch.randn(2, 7, 24, generator=draw).bfloat16()
    found = []
    for most in (2**26, 1):
        monkeypatch.setattr(attention, "_MOST_SCORES", most)
        monkeypatch.setattr(attention, "_PART_SCORES", 10)  # two of seven queries at a time
        given = [side.clone().requires_grad_() for side in sides]
        out = attend(*given)
        nodes: list[Any] = [out.grad_fn]
        while nodes[-1] is not None and nodes[-1].next_functions:
            nodes.append(nodes[-1].next_functions[0][0])
        assert any("_InParts" in type(node).__name__ for node in nodes) == (most == 1)
        out.backward(slope)
        found.append([out.detach(), *(side.grad for side in given)])
    for whole, parted in zip(*found, strict=True):
        assert parted.dtype == torch.bfloat16
        torch.testing.assert_close(parted.float(), whole.float(), atol=0.02, rtol=0.02)


def test_muon_in_bf16_turns_singular_values_to_one_too() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalized(matrix[None], precision="bf16"))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    weights = [nn.Parameter(torch.zeros(24, 40)) for _ in range(2)]
    for weight, precision in zip(weights, ("fp32", "bf16"), strict=True):
        weight.grad = matrix.clone()
        Muon([weight], lr=1.0, precision=precision).step()  # type: ignore[arg-type]
        assert weight.dtype == torch.float32
    cosine = F.cosine_similarity(weights[0].detach().flatten(), weights[1].detach().flatten(), dim=0)
    assert float(cosine) > 0.99


FREED = """
import resource, torch
from sfumato.runtime.memory import keep_freed_memory
assert keep_freed_memory()
faults = []
for _ in range(24):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20 * 2**20)  # 80 MiB, far above what the allocator would keep by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[-8:]) * resource.getpagesize())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
def test_freed_memory_serves_the_next_tensor() -> None:
    """In a process of its own: what other tests have left in the heap decides where a block of this size fits.

    glibc asks for a little more than an aligned block takes, so that the first ones may each need new memory.
    """
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 2**20


HANDED_BACK = """
import torch
from sfumato.runtime.memory import hand_back_memory, keep_freed_memory
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
assert keep_freed_memory()
parts = [torch.ones(2**18) for _ in range(64)]  # 64 MiB in pieces
last = torch.ones(2**18)
before = held()
del parts
kept = held()
assert hand_back_memory()
print((before - kept) * 4096, (before - held()) * 4096, float(last.sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_goes_back_on_demand() -> None:
    done = subprocess.run([sys.executable, "-c", HANDED_BACK], capture_output=True, text=True, check=True)
    kept, handed_back, _ = map(float, done.stdout.split())
    assert kept < 2**20
    assert handed_back > 60 * 2**20
