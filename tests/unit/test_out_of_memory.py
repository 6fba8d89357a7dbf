"""When memory runs out, one error says so and what to change, whoever ran out of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from sfumato.errors import OutOfMemory
from sfumato.formats.bundle import Bundle
from sfumato.operations import rehearsal
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import LearnRequest
from sfumato.runtime.in_use import in_use
from sfumato.runtime.out_of_memory import is_out_of_memory
from tiny import tiny_bundle

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
FULL = [
    RuntimeError(ALLOCATOR),
    RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
]
THREE = Settings(steps=2, batch_size=2)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def test_every_way_to_say_it_is_known() -> None:
    assert all(map(is_out_of_memory, [*FULL, OutOfMemory("A step does not fit.")]))
    assert not any(map(is_out_of_memory, [RuntimeError("another bug"), ValueError(ALLOCATOR), KeyboardInterrupt()]))


@pytest.mark.parametrize("error", FULL, ids=["linux", "windows", "cuda", "python"])
@pytest.mark.parametrize("network", ["unet", "text_encoder", "autoencoder"])
def test_a_drawing_that_does_not_fit_says_what_to_change(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, network: str, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    place = "to_images" if network == "autoencoder" else "forward"
    monkeypatch.setattr(getattr(bundle, network), place, full)
    with pytest.raises(OutOfMemory, match=r"^Drawing 2 picture\(s\) at once does not fit into memory: ") as caught:
        Pipeline(bundle).images(["a fox"], [0, 1, 2], THREE)
    assert caught.value.hint == "Use a smaller size or batch size." and caught.value.field == "batch_size"
    assert caught.value.__cause__ is error
    in_use(bundle.unet).release(in_use(bundle.unet).claim("nothing is left open"))


def test_other_errors_of_a_drawing_pass_through(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("another bug")

    monkeypatch.setattr(bundle.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="^another bug$"):
        Pipeline(bundle).images(["a fox"], [0], THREE)


def test_a_rehearsal_without_room_is_told_from_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = LearnRequest(folder=tmp_path, placeholder="<fox>", class_noun="fox")
    job = rehearsal._Job(request, tmp_path, time.time())
    monkeypatch.setattr(rehearsal, "be_ended_first", lambda: None)
    for error in (*FULL, OutOfMemory("A step does not fit."), RuntimeError("another bug")):

        def rehearsed(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(rehearsal, "_rehearsed", rehearsed)
        if "bug" in str(error):
            with pytest.raises(RuntimeError, match="another bug"):
                rehearsal._rehearse(job, lambda event: None)
        else:
            assert isinstance(rehearsal._rehearse(job, lambda event: None), rehearsal.OutOfRoom)
