"""Same factors, same output as peft and as the published formula."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft

from sfumato.adapters.lora import LoRA, LoRAConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.conv = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(self.words(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out


TOKENS = torch.arange(72).reshape(2, 6, 6) % 9


def copy_from_peft(lora: LoRA, model: nn.Module) -> None:
    """Read every factor out of peft's modules."""
    state = {}
    for name in lora.names:
        layer = model.get_submodule(f"base_model.model.{name}")
        if hasattr(layer, "lora_embedding_A") and len(layer.lora_embedding_A):
            state[f"{name}.down"] = layer.lora_embedding_A["default"]
            state[f"{name}.up"] = layer.lora_embedding_B["default"]
        else:
            state[f"{name}.down"] = layer.lora_A["default"].weight
            state[f"{name}.up"] = layer.lora_B["default"].weight
    lora.load_state({name: tensor.detach().clone() for name, tensor in state.items()})


@pytest.mark.parametrize(("rank", "alpha", "rslora"), [(1, 1, False), (4, 8, False), (3, 16, True)])
def test_forward_merge_and_gradients_equal_those_of_peft(rank: int, alpha: int, rslora: bool) -> None:
    torch.manual_seed(0)
    ours = Net()
    theirs = Net()
    theirs.load_state_dict(ours.state_dict())
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=["words", "conv", "fc"], lora_dropout=0.0
    )
    wrapped = peft.get_peft_model(theirs, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    lora = LoRA(ours, LoRAConfig(rank=rank, alpha=float(alpha), rank_stabilised=rslora, targets=("all",)))
    copy_from_peft(lora, wrapped)
    lora.attach()
    expected, given = wrapped(TOKENS), ours(TOKENS)
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=1e-5)

    expected.square().sum().backward()
    given.square().sum().backward()
    fc = lora.paths[list(lora.names).index("fc")]
    layer = wrapped.base_model.model.fc
    torch.testing.assert_close(fc.down.grad, layer.lora_A["default"].weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fc.up.grad, layer.lora_B["default"].weight.grad, atol=1e-5, rtol=1e-4)

    merged = wrapped.merge_and_unload()
    with lora.merged():
        for name, tensor in merged.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_linear_follows_the_formula_of_the_paper() -> None:
    """h = W0 x + (alpha / r) B A x ([hu2021] eq. 3), as loralib computes it."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 4))
    lora = LoRA(model, LoRAConfig(rank=2, alpha=16.0, targets=("all",)))
    down, up = torch.randn(2, 6), torch.randn(4, 2)
    lora.load_state({"0.down": down, "0.up": up})
    x = torch.randn(3, 6)
    expected = F.linear(x, model[0].weight, model[0].bias) + (x @ down.T @ up.T) * (16 / 2)
    with lora.attached():
        torch.testing.assert_close(model(x), expected)
    with lora.merged():
        torch.testing.assert_close(model[0].weight, model[0].weight)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
