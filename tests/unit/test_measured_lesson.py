"""Lessons in a process of their own: what they cost, what goes wrong in them; names of methods."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from drawn_primer import write
from sfumato.benchmark_requests import BenchmarkRequest, EvaluateCharactersRequest, EvaluateDreamBenchRequest
from sfumato.errors import ConfigError, EmptyDataset, TrainingError
from sfumato.evaluation.trial import Case
from sfumato.events import Metric, Progress
from sfumato.formats.bundle import save_bundle
from sfumato.operations.learn import lesson_config
from sfumato.operations.measured_lesson import learn_measured
from sfumato.operations.own_process import running
from sfumato.operations.trials import Arm, check_methods, lesson_of
from sfumato.requests import LearnRequest
from sfumato.runtime.peak_memory import peak_memory_bytes
from sfumato.training.methods import METHODS
from tiny import tiny_bundle


def test_peak_memory_only_grows() -> None:
    code = "from sfumato.runtime.peak_memory import peak_memory_bytes as peak; before = peak(); "
    code += "block = bytearray(b'x') * 150_000_000; held = peak(); del block; print(before, held, peak())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, held, after = map(int, told.split())
    assert before + 140_000_000 <= held < before + 300_000_000
    assert after >= held - 1_000_000  # Linux counts pages in lots


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


@pytest.fixture
def lesson(tmp_path: Path) -> LearnRequest:
    """A lesson of a second or two on a tiny base."""
    save_bundle(tiny_bundle(), tmp_path / "base", torch.float32)
    write(tmp_path / "photos" / "a.png", Image.new("RGB", (32, 32), (200, 40, 40)))
    values = {"folder": tmp_path / "photos", "placeholder": "<it>", "class_noun": "fox", "base": str(tmp_path / "base")}
    return LearnRequest.model_validate(
        {**values, "steps": 60, "batch_size": 1, "rank": 1, "verdict": False, "output": tmp_path / "it.safetensors"}
    )


def test_a_lesson_that_is_closed_goes_on_to_the_same_bytes(lesson: LearnRequest, tmp_path: Path) -> None:
    events = learn_measured(lesson)
    next(event for event in events if isinstance(event, Metric))
    events.close()
    assert not running()
    assert lesson.output is not None and not lesson.output.exists() and (tmp_path / "it.run").is_dir()
    list(learn_measured(lesson.model_copy(update={"resume": True})))
    whole = tmp_path / "whole.safetensors"
    spent = None
    events = learn_measured(lesson.model_copy(update={"output": whole}))
    try:
        while True:
            next(events)
    except StopIteration as stop:
        spent = stop.value
    assert whole.read_bytes() == lesson.output.read_bytes()
    assert spent is not None and spent.seconds > 0.1 and spent.peak_bytes > 50_000_000


def test_a_lesson_whose_process_dies_is_reported(lesson: LearnRequest) -> None:
    events = learn_measured(lesson)
    next(event for event in events if isinstance(event, Progress))
    (process,) = running()
    process.kill()
    with pytest.raises(
        TrainingError, match=f"The lesson for '{lesson.output}' ended with exit code -9 before it was"
    ) as e:
        list(events)
    assert e.value.hint is not None and "this one goes on" in e.value.hint


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


def test_settings_of_class_pictures_need_a_method_that_learns_them() -> None:
    given = {"folder": "x", "methods": "lora", "prior_weight": 2.0}
    with pytest.raises(ConfigError, match=r"prior_weight is 2.0 but none of the methods learns beside class pictures"):
        check_methods(EvaluateCharactersRequest.model_validate(given))
    check_methods(EvaluateCharactersRequest.model_validate({**given, "methods": "lora,lora+prior"}))


def test_every_method_is_tried_unless_told() -> None:
    request = EvaluateDreamBenchRequest(folder=Path("x"))
    check_methods(request)
    assert set(request.methods) == {*METHODS, "lora+prior", "dreambooth+prior"}
    assert request.methods == EvaluateCharactersRequest(folder=Path("x")).methods
    assert len(request.methods) == len(METHODS) + 2


def test_class_pictures_are_asked_for_where_they_are_learned() -> None:
    request = EvaluateCharactersRequest(folder=Path("x"), num_class_images=5)
    case = Case("a", Path("photos"), "fox", "a fox", (), "icon")
    arms = [Arm.of_method(name, request) for name in ("lora", "lora+prior")]
    arms.append(Arm("late", {}, {"a": {"prior_weight": 0.5, "num_class_images": 3}}))
    lessons = [lesson_of(request, case, arm, Path("a.safetensors")) for arm in arms]
    assert [lesson.num_class_images for lesson in lessons] == [32, 5, 3]
    assert all(lesson_config(lesson) for lesson in lessons)


@pytest.mark.parametrize("kind", [BenchmarkRequest, EvaluateCharactersRequest, EvaluateDreamBenchRequest])
def test_lessons_share_a_cache(kind: type[BenchmarkRequest]) -> None:
    case = Case("a", Path("photos"), "fox", "a fox", (), "icon")
    for cache in (None, Path("kept")):
        request = kind(folder=Path("x"), cache=cache)
        assert lesson_of(request, case, Arm.of_method("lora+prior", request), Path("a.safetensors")).cache == cache
    own = Arm("own", {"cache": Path("elsewhere")})
    assert lesson_of(request, case, own, Path("a.safetensors")).cache == Path("elsewhere")
    said, known = (fields["cache"] for fields in (kind.model_fields, LearnRequest.model_fields))
    assert said.description == known.description


def test_methods_with_commas_and_repeated() -> None:
    request = EvaluateCharactersRequest.model_validate({"folder": "x", "methods": ["lora, pivotal", "lora+prior"]})
    assert request.methods == ("lora", "pivotal", "lora+prior")
    check_methods(request)
