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

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA


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


def change_of_peft(wrapped: nn.Module, name: str) -> dict[str, Tensor]:
    """Read every LyCORIS factor of one of peft's modules."""
    layer = wrapped.get_submodule(f"base_model.model.{name}")
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
    held = {own: getattr(layer, own) for own in names if hasattr(layer, own)}
    return {f"{name}.{own}": factors["default"].detach() for own, factors in held.items() if "default" in factors}


def compare(ours: nn.Module, lora: LoRA, wrapped: nn.Module) -> None:
    """Compare output, gradients of the input's embeddings and merged weights."""
    with lora.attached():
        torch.testing.assert_close(ours(TOKENS), wrapped(TOKENS), atol=1e-5, rtol=1e-5)
    merged = wrapped.merge_and_unload().state_dict()
    with lora.merged():
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, merged[name], atol=1e-5, rtol=1e-5)


def pair() -> tuple[Net, Net]:
    """Two equal nets."""
    torch.manual_seed(0)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("rank", "alpha", "rslora"), [(1, 1, False), (4, 8, False), (3, 6, True)])
def test_dora_equals_that_of_peft(rank: int, alpha: int, rslora: bool) -> None:
    ours, theirs = pair()
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=rslora, use_dora=True, target_modules=["words", "conv", "fc"]
    )
    wrapped = peft.get_peft_model(theirs, config).train()
    lora = LoRA(ours, LoRAConfig(rank, float(alpha), targets=("all",), rank_stabilised=rslora, kind="dora"))
    start = {name: tensor.clone() for name, tensor in lora.state().items() if name.endswith("magnitude")}
    for name in lora.names:
        theirs_start = wrapped.get_submodule(f"base_model.model.{name}").lora_magnitude_vector["default"].weight
        torch.testing.assert_close(start[f"{name}.magnitude"], theirs_start.detach().flatten())
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn(parameter.shape) * 0.3
    state = {}
    for name in lora.names:
        layer = wrapped.get_submodule(f"base_model.model.{name}")
        table = name == "words"
        state[f"{name}.down"] = layer.lora_embedding_A["default"] if table else layer.lora_A["default"].weight
        state[f"{name}.up"] = layer.lora_embedding_B["default"] if table else layer.lora_B["default"].weight
        state[f"{name}.magnitude"] = layer.lora_magnitude_vector["default"].weight.flatten()
    lora.load_state({name: tensor.detach().clone() for name, tensor in state.items()})
    with lora.attached():
        ours(TOKENS).square().sum().backward()
    wrapped(TOKENS).square().sum().backward()
    for name, path in zip(lora.names, lora.paths, strict=True):
        layer = wrapped.get_submodule(f"base_model.model.{name}")
        theirs_grad = layer.lora_magnitude_vector["default"].weight.grad.flatten()
        torch.testing.assert_close(path.magnitude.grad, theirs_grad, atol=1e-4, rtol=1e-4)
    fc, layer = lora.paths[list(lora.names).index("fc")], wrapped.base_model.model.fc
    torch.testing.assert_close(fc.down.grad, layer.lora_A["default"].weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fc.up.grad, layer.lora_B["default"].weight.grad, atol=1e-4, rtol=1e-4)
    compare(ours, lora, wrapped)


@pytest.mark.parametrize(
    ("kind", "rank", "alpha", "options"),
    [
        ("loha", 2, 2, {}),
        ("loha", 4, 8, {}),
        ("lokr", 1, 1, {}),
        ("lokr", 1, 3, {"factor": 1}),
        ("lokr", 4, 2, {}),
    ],
)
def test_products_equal_those_of_peft(kind: str, rank: int, alpha: int, options: dict[str, int]) -> None:
    ours, theirs = pair()
    chosen = {"r": rank, "alpha": alpha, "target_modules": ["conv", "fc"], "init_weights": False}
    if kind == "loha":
        config = peft.LoHaConfig(**chosen)
    else:
        config = peft.LoKrConfig(**chosen, decompose_factor=options.get("factor", -1))
    wrapped = peft.get_peft_model(theirs, config)
    lora = LoRA(ours, LoRAConfig(rank, float(alpha), targets=("conv", "fc"), kind=kind, **options))
    state = {key: tensor for name in lora.names for key, tensor in change_of_peft(wrapped, name).items()}
    assert {key: tensor.shape for key, tensor in lora.state().items()} == {k: t.shape for k, t in state.items()}
    lora.load_state(state)
    before = ours(TOKENS)
    compare(ours, lora, wrapped)
    with lora.attached():
        assert (ours(TOKENS) - before).abs().max() > 1e-3


def test_pissa_equals_that_of_peft() -> None:
    """Theirs changes the base's weight, ours keeps it: same factors at the start, same output after a change."""
    ours, theirs = pair()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["fc"], init_lora_weights="pissa")
    wrapped = peft.get_peft_model(theirs, config)
    lora = LoRA(ours, LoRAConfig(2, 6.0, targets=("fc",), init="pissa"))
    layer = wrapped.base_model.model.fc
    factors = {"fc.down": layer.lora_A["default"].weight, "fc.up": layer.lora_B["default"].weight}
    for name, tensor in factors.items():
        torch.testing.assert_close(lora.state()[name], tensor.detach(), atol=1e-5, rtol=1e-5)
        tensor.data += torch.randn(tensor.shape) * 0.3
    lora.load_state(lora.state() | {name: tensor.detach() for name, tensor in factors.items()})
    compare(ours, lora, wrapped)


def test_linear_follows_the_formula_of_the_paper() -> None:
    """h = W0 x + (alpha / r) B A x ([hu2021] eq. 3), as loralib computes it."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 4))
    lora = LoRA(model, LoRAConfig(rank=2, alpha=16.0, targets=("all",)))
    down, up = torch.randn(2, 6), torch.randn(4, 2)
    lora.load_state({"0.down": down, "0.up": up})
    x = torch.randn(3, 6)
    weight = model[0].weight.detach().clone()
    expected = F.linear(x, weight, model[0].bias) + (x @ down.T @ up.T) * (16 / 2)
    with lora.attached():
        torch.testing.assert_close(model(x), expected)
    with lora.merged():
        torch.testing.assert_close(model[0].weight, weight + 8 * up @ down)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
