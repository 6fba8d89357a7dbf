"""Choosing modules by pattern: strict, and helpful when nothing fits."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.adapters.targets import PRESETS, find_targets
from sfumato.errors import AdapterError, NoTargetMatched


def block() -> nn.ModuleDict:
    attention = nn.ModuleDict(
        {
            "to_q": nn.Linear(2, 2),
            "to_k": nn.Linear(2, 2),
            "to_v": nn.Linear(2, 2),
            "to_out": nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
            "norm": nn.LayerNorm(2),
        }
    )
    return nn.ModuleDict({"attn1": attention, "conv": nn.Conv2d(2, 2, 1), "words": nn.Embedding(3, 2)})


def model() -> nn.ModuleDict:
    return nn.ModuleDict({"down": nn.ModuleList([block(), block()]), "up": nn.ModuleList([block()])})


@pytest.mark.parametrize(
    ("patterns", "count", "first"),
    [
        (("attention",), 12, "down.0.attn1.to_q"),
        (("to_q",), 3, "down.0.attn1.to_q"),
        (("down.0.*",), 6, "down.0.attn1.to_q"),
        (("*",), 18, "down.0.attn1.to_q"),
        (("all", "!attention"), 6, "down.0.conv"),
        (("conv", "words"), 6, "down.0.conv"),
        (("up.0.attn1.to_out.0",), 1, "up.0.attn1.to_out.0"),
        (("to_[kv]", "!up.*"), 4, "down.0.attn1.to_k"),
    ],
)
def test_patterns(patterns: tuple[str, ...], count: int, first: str) -> None:
    names = find_targets(model(), patterns)
    assert len(names) == count
    assert names[0] == first
    assert list(names) == [name for name, _ in model().named_modules() if name in names]


@pytest.mark.parametrize(
    ("patterns", "message", "near"),
    [
        (("to_qq",), "The pattern 'to_qq' matches no Linear, Conv2d or Embedding among the model's 18", "to_q"),
        (("to_q", "attn.to_k"), "The pattern 'attn.to_k'", "attn1.to_k"),
        (("atention",), "The pattern 'atention'", "attention"),
        (("norm",), "The pattern 'norm' matches 3 modules, but none is Linear", "Nearest names"),
        (("cross-attention",), "The pattern 'cross-attention' matches no", "Nearest names"),
        (("q",), "The pattern 'q' matches no", "Nearest names"),
        (("to_q", "!to_*"), "The patterns to_q, !to_* choose no module", "attention"),
        (("to_q", "!dwn.*"), "The pattern '!dwn.*' matches no Linear, Conv2d or Embedding among the", "down.*"),
        (("to_q", "!norm"), "The pattern '!norm' matches 3 modules, but none is Linear", "Nearest names"),
        ((), "The patterns (none) choose no module", "attention"),
    ],
)
def test_no_match_names_the_pattern_and_what_is_near(patterns: tuple[str, ...], message: str, near: str) -> None:
    with pytest.raises(NoTargetMatched, match=re.escape(message)) as caught:
        find_targets(model(), patterns)
    assert near in (caught.value.hint or "")
    assert caught.value.field == "targets"


def test_an_exclusion_may_take_nothing_away() -> None:
    assert find_targets(model(), ("to_q", "!conv")) == find_targets(model(), ("to_q",))


@pytest.mark.parametrize(
    ("patterns", "message", "near"),
    [
        (("wrds",), "The pattern 'part.wrds' matches no", "Nearest names: part.words, "),
        (("words", "!dwn.*"), "The pattern '!part.dwn.*' matches no", "Nearest names: part.down.*"),
        (("words", "!words"), "The patterns part.words, !part.words choose no module", "or names such as part.down.0"),
    ],
)
def test_messages_show_patterns_as_they_were_given(patterns: tuple[str, ...], message: str, near: str) -> None:
    with pytest.raises(NoTargetMatched, match=re.escape(message)) as caught:
        find_targets(model(), patterns, prefix="part.")
    assert near in (caught.value.hint or "")


def test_model_without_such_layers() -> None:
    with pytest.raises(NoTargetMatched, match="among the model's 0") as caught:
        find_targets(nn.Sequential(nn.ReLU()), ("all",))
    assert caught.value.hint == "The model has no such layers."


def test_names_stay_the_same_while_another_adapter_is_attached() -> None:
    net = model()
    names = find_targets(net, ("all",))
    LoRA(net, LoRAConfig(targets=("all",))).attach()
    assert find_targets(net, ("all",)) == names


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_model_is_refused() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(AdapterError, match="compiled"):
        find_targets(nn.ModuleDict({"inner": compiled}), ("all",))
    with pytest.raises(AdapterError, match="compiled"):
        find_targets(compiled, ("all",))


def test_every_preset_is_a_tuple_of_patterns() -> None:
    assert all(isinstance(patterns, tuple) and patterns for patterns in PRESETS.values())
