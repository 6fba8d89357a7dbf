"""What is kept of a weight while a change is merged into it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.learned_path import aside, plain_weight
from sfumato.adapters.lora import LoRA


def bits(weight: Tensor) -> Tensor:
    return weight.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1.5, -0.0, 2**-24, 65504.0], torch.float16),
        ([1.0 + 2**-12], torch.float32),
        ([1e-9], torch.float32),
        ([70000.0], torch.float32),
        ([float("inf"), -1.0], torch.float16),
        ([float("nan")], torch.float32),
    ],
)
def test_half_the_memory_only_where_every_bit_comes_back(values: list[float], kept: torch.dtype) -> None:
    weight = torch.tensor(values)
    copy = aside(weight)
    assert copy.dtype == kept and copy.data_ptr() != weight.data_ptr()
    assert torch.equal(bits(copy.to(torch.float32)), bits(weight))


@pytest.mark.parametrize("is_stored_in_half", [True, False])
def test_nested_merges_give_every_bit_back(is_stored_in_half: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    if is_stored_in_half:
        model.half().float()
    before = [weight.clone() for weight in model.parameters()]
    adapters = [LoRA(model, LoRAConfig(rank=2, targets=("all",))) for _ in range(2)]
    for adapter in adapters:
        for tensor in adapter.state().values():
            tensor.data.normal_()
    with adapters[0].merged(), adapters[1].merged():
        assert not torch.equal(model[0].weight, before[0])
        assert torch.equal(bits(plain_weight(model[0])), bits(before[0])), "what a nested change is measured from"
    assert all(torch.equal(bits(now), bits(old)) for now, old in zip(model.parameters(), before, strict=True))
