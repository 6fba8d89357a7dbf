"""Lessons in a process of their own: what they cost, what goes wrong in them; names of methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.benchmark_requests import EvaluateCharactersRequest
from sfumato.errors import ConfigError, EmptyDataset
from sfumato.operations.measured_lesson import learn_measured
from sfumato.operations.trials import check_methods
from sfumato.requests import LearnRequest
from sfumato.runtime.peak_memory import peak_memory_bytes


def test_peak_memory_only_grows() -> None:
    before = peak_memory_bytes()
    block = torch.ones(40_000_000)
    assert peak_memory_bytes() >= before + 100_000_000 or before > 4 * block.numel()
    del block
    assert peak_memory_bytes() >= before


def test_peak_memory_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert peak_memory_bytes(tmp_path / "status") == 2048 * 1024
    assert peak_memory_bytes(tmp_path / "nothing") > 10_000_000


def test_a_problem_keeps_its_kind_field_and_hint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lesson = LearnRequest(
        folder=tmp_path / "empty", placeholder="<it>", class_noun="fox", output=tmp_path / "a.safetensors"
    )
    with pytest.raises(EmptyDataset, match="empty holds no pictures") as caught:
        list(learn_measured(lesson))
    assert caught.value.hint == "Put 3 to 5 pictures of the subject there."


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("lore", "--methods: given 'lore'; needed names out of lora, .* Did you mean 'lora'?"),
        ("lora,pivotal+prio", "--methods: given 'pivotal[+]prio'"),
        ("lora,lora+prior,lora", "--methods: 'lora' was given twice"),
    ],
)
def test_methods_that_cannot_be_run(methods: str, message: str) -> None:
    request = EvaluateCharactersRequest.model_validate({"folder": "x", "methods": methods})
    with pytest.raises(ConfigError, match=message):
        check_methods(request)


def test_methods_with_commas_and_repeated() -> None:
    request = EvaluateCharactersRequest.model_validate({"folder": "x", "methods": ["lora, pivotal", "lora+prior"]})
    assert request.methods == ("lora", "pivotal", "lora+prior")
    check_methods(request)
