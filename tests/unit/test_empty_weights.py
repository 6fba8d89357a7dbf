"""Networks without weights: shapes are there, nothing is drawn, the compiler stays out."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from sfumato.runtime.empty_weights import empty_weights


def test_shapes_without_memory() -> None:
    with empty_weights():
        layer, table = nn.Linear(3, 5), nn.Embedding(7, 2)
        nn.init.trunc_normal_(layer.weight)
        nn.init.kaiming_normal_(tensor=layer.weight)
    assert layer.weight.is_meta and layer.weight.shape == (5, 3)
    assert table.weight.is_meta and isinstance(table.weight, nn.Parameter)


def test_afterwards_everything_is_as_before() -> None:
    with empty_weights():
        pass
    weight = nn.init.normal_(torch.zeros(100))
    assert weight.std() > 0.5 and not nn.Linear(2, 2).weight.is_meta


def test_the_compiler_is_not_imported() -> None:
    code = (
        "import sys; from torch import nn; from sfumato.runtime.empty_weights import empty_weights\n"
        "with empty_weights(): nn.Linear(3, 5), nn.Embedding(7, 2), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
