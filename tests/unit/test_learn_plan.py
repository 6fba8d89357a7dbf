"""The arithmetic of a plan and the choice of switches, with rehearsals that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from drawn_primer import write
from sfumato.cli.plan_text import duration_text, plan_text
from sfumato.cli.render import event_record
from sfumato.errors import CannotResume, ConfigError, Diverged
from sfumato.events import Checkpoint, Event, Metric, Notice, Preview, Progress, Verdict
from sfumato.models.unet_config import UNetConfig
from sfumato.operations.effective_settings import effective_settings
from sfumato.operations.learn import learn, lesson_config
from sfumato.operations.learn_plan import LearnPlan, TimePart, fits, saves, scaled_look, total_seconds
from sfumato.operations.learn_values import with_settings
from sfumato.operations.plan_lesson import plan_lesson, time_parts
from sfumato.operations.rehearsal import OutOfRoom, Rehearsed, Sizes, rehearsal_config
from sfumato.operations.stopwatch import (
    BASE_LOOK,
    CLASS_PICTURES,
    END,
    LOOK,
    PICTURES,
    PREPARATION,
    PREVIEW,
    SAVING,
    START,
    STEP,
    Look,
    NetworkTime,
    Stopwatch,
    part_of,
)
from sfumato.operations.switches import Found, Switches, smaller
from sfumato.requests import LearnRequest
from sfumato.resolve import resolve
from sfumato.training import state
from sfumato.training.methods import METHODS

GB = 10**9
SIZES = Sizes(1000, 5000, 700, 3000, 40, 60, 800, 90, 32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures; two of them are shown twice as often as the third."""
    monkeypatch.chdir(tmp_path)
    for name in ("4_a fox/a.png", "4_a fox/b.png", "2_a red fox/c.png"):
        write(tmp_path / "photos" / name, Image.new("RGB", (32, 32), (200, 40, 40)))
    return Path("photos")


def asked(folder: Path, **values: Any) -> LearnRequest:
    return LearnRequest.model_validate({"folder": folder, "placeholder": "<fox>", "class_noun": "fox", **values})


def rehearsed(peaks: tuple[int, int, int, int] = (1, 2, 3, 4), *, step_s: float = 0.5) -> Rehearsed:
    """What a rehearsal would find; peaks in GB before the look at the base, after it, after the steps, at the end."""
    seconds = {START: 3.0, PICTURES: 1.0, CLASS_PICTURES: 2.0, PREPARATION: 0.2, BASE_LOOK: 4.0}
    seconds |= {STEP: 9.0, SAVING: 0.3, LOOK: 6.0, PREVIEW: 1.5, END: 0.7}
    parts = (START, BASE_LOOK, STEP, LOOK)
    marks = [(part, peak * GB) for part, peak in zip(parts, peaks, strict=True)]
    watch = Stopwatch(0.0, seconds, [step_s + 0.1, step_s, step_s], marks)
    return Rehearsed(watch, Look(4.0, 2.5), Look(6.0, 5.0), 2, 4, SIZES)


def plan_of(
    request: LearnRequest, answer: Callable[[LearnRequest], Rehearsed | OutOfRoom]
) -> tuple[LearnPlan, list[LearnRequest]]:
    """Plan with made-up rehearsals; return the plan and what was rehearsed."""
    seen: list[LearnRequest] = []

    def rehearsal(one: LearnRequest) -> Generator[Event, None, Rehearsed | OutOfRoom]:
        seen.append(one)
        yield Progress("pictures", 1, 1)
        return answer(one)

    *_, last = plan_lesson(request, None, rehearsal)
    assert isinstance(last, LearnPlan)
    return last, seen


@pytest.mark.parametrize(
    ("first", "steps", "every", "count"),
    [
        (0, 150, 50, 3),
        (0, 151, 50, 4),
        (0, 20, 50, 1),
        (50, 150, 50, 2),
        (60, 150, 50, 2),
        (60, 70, 50, 1),
        (70, 70, 50, 0),
    ],
)
def test_how_often_a_lesson_saves(first: int, steps: int, every: int, count: int) -> None:
    assert saves(first, steps, every) == count


def test_only_the_network_is_scaled_in_a_look() -> None:
    assert scaled_look(6.0, 5.0, 6.0) == 1 + 5 * 6
    assert scaled_look(6.0, 5.0, 1.0) == 6


def test_fits() -> None:
    assert fits(5, True, None) and fits(5, True, 5) and not fits(6, True, 5) and not fits(1, False, None)


def test_time_memory_and_disk_of_a_whole_lesson(folder: Path) -> None:
    lesson = {"steps": 100, "batch_size": 2, "accumulate": 3, "prior_weight": 1.0, "num_class_images": 20, "flip": True}
    request = asked(folder, verdict_steps=12, **lesson)
    request = request.model_copy(
        update={"save_every": 40, "loop": {"preview_every": 50}, "preview_prompts": ("a <fox>",)}
    )
    plan, seen = plan_of(request, lambda _: rehearsed())
    assert len(seen) == 1 and not seen[0].plan
    assert (plan.pictures, plan.shown, plan.rounds) == (10, 600, 60)
    assert {part.name: (round(part.each_s, 6), part.times) for part in plan.time} == {
        START: (3.0, 1),
        PICTURES: (1.0, 1),
        CLASS_PICTURES: (0.5, 20),
        PREPARATION: (0.3, 1),
        BASE_LOOK: (1.5 + 2.5 * 6, 1),
        STEP: (0.5, 100),
        SAVING: (0.3, 3),
        LOOK: (1 + 5 * 6, 3),
        PREVIEW: (1.5, 2),
        END: (0.7, 1),
    }
    assert plan.seconds == pytest.approx(3 + 1 + 10 + 0.3 + 16.5 + 50 + 0.9 + 93 + 3 + 0.7)
    assert plan.seconds == total_seconds(plan.time)
    assert {part.name: (part.each_bytes, part.count, part.stays) for part in plan.disk} == {
        "result": (1000, 1, True),
        "saved states": (5000, 3, False),
        "weights of the best look": (700, 2, False),
        "looks": (40, 3, False),
        "report on the verdict": (1600, 1, True),
        "previews": (60, 2, False),
        "encoded pictures and texts": (90, 1, False),
        "class pictures": (160, 1, False),
    }
    assert (plan.disk_bytes, plan.left_bytes) == (1000 + 15000 + 1400 + 120 + 1600 + 120 + 90 + 160, 2600)
    assert (plan.peak_bytes, plan.peak_part, plan.fits_memory, plan.is_possible) == (4 * GB, LOOK, True, True)


def test_a_plan_without_a_verdict_has_no_looks_and_a_cache_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    request = asked(folder, verdict=False, cache=tmp_path / "kept", steps=10)
    bare = rehearsed()
    bare = Rehearsed(bare.watch, None, None, 2, 0, Sizes(1000, 5000, 0, 3000, 0, 0, 0, 90, 0))
    plan, _ = plan_of(request, lambda _: bare)
    assert not {BASE_LOOK, LOOK, CLASS_PICTURES} & {part.name for part in plan.time}
    assert [(part.name, part.count) for part in plan.disk] == [
        ("result", 1),
        ("saved states", 1),
        ("encoded pictures and texts", 1),
    ]
    assert plan.left_bytes == 1090
    assert plan.notes == (f"Planned as if '{tmp_path / 'kept'}' were empty; what it holds already saves preparation.",)


def test_too_little_room_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.operations.plan_lesson.free_bytes", lambda output: 5000)
    plan, _ = plan_of(asked(folder), lambda _: rehearsed())
    assert plan.fits_memory and not plan.fits_disk and not plan.is_possible
    assert "5.00 KB are free — too little" in plan_text(plan)


def test_an_interrupted_run_is_planned_to_its_end(folder: Path, tmp_path: Path) -> None:
    state.save(Path("fox.run"), state.RunState(60, {}), {"x": torch.nn.Linear(1, 1)}, 2)
    with pytest.raises(CannotResume, match="'fox.run' already holds a run. Resume it") as caught:
        plan_of(asked(folder), lambda _: rehearsed())
    assert caught.value.hint == "Resume it (--resume), remove it, or name another output (-o)."
    plan, _ = plan_of(asked(folder, resume=True, steps=150), lambda _: rehearsed())
    assert (plan.first_step, plan.steps, plan.shown) == (60, 150, 360)
    assert {part.name: part.times for part in plan.time}[SAVING] == 2
    assert "steps 61 to 150" in plan_text(plan)


def flags_of(request: LearnRequest, found: Found) -> list[str]:
    return [" ".join(one.flags(request)) for one in smaller(request, lesson_config(request), found)]


SMALL = Found(4 * GB, 10**6, 2 * 10**6)
LARGE = Found(4 * GB, GB, 2 * GB)


def test_switches_come_in_order_of_cost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "torchao" or None)
    parts, twice = "--batch-size 1 --accumulate 4", "--gradient-checkpointing"
    both = f"{parts} {twice}"
    first = ["--batch-size 2 --accumulate 2", parts, twice, both]
    assert flags_of(asked(folder), SMALL) == [
        *first,
        f"{both} --no-verdict",
        f"{both} --no-verdict --no-text-encoder",
    ]
    assert flags_of(asked(folder, ema_decay=0.9, verdict=False), LARGE) == [
        *first,
        f"{both} --optimizer adamw-8bit",
        f"{both} --optimizer adamw-8bit --ema 0",
        f"{both} --optimizer adamw-8bit --ema 0 --no-text-encoder",
        f"{both} --optimizer adamw-8bit --ema 0 --no-text-encoder --rank 4",
    ]
    assert flags_of(asked(folder, method="textual-inversion", gradient_checkpointing=True, batch_size=9), SMALL) == [
        "--batch-size 3 --accumulate 3",
        "--batch-size 1 --accumulate 9",
        "--batch-size 1 --accumulate 9 --no-verdict",
    ]
    only = asked(folder, batch_size=1, gradient_checkpointing=True, text_encoder=False, verdict=False)
    assert flags_of(only, SMALL) == []
    unjudged = flags_of(asked(folder, batch_size=3), Found(4 * GB, looks_are_too_large=True))
    assert unjudged[:2] == ["--no-verdict", "--no-verdict --batch-size 1 --accumulate 3"]
    assert all(flags.count("--no-verdict") == 1 for flags in unjudged)


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"optimizer": "lion"}, "--optimizer adafactor"),
        ({"optimizer": "lion", "lr": 1e-3}, "--optimizer adafactor --lr 0.2"),
        ({"optimizer": "prodigy"}, "--optimizer adafactor"),
        ({"overrides": ("optim.lr=2e-3",)}, "--optimizer adafactor --set optim.lr=0.2"),
    ],
)
def test_another_optimizer_keeps_its_rate(
    folder: Path, given: dict[str, Any], flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    request = asked(folder, batch_size=1, gradient_checkpointing=True, **given)
    first = next(iter(smaller(request, lesson_config(request), LARGE)))
    assert " ".join(first.flags(request)) == flags
    config = lesson_config(first.applied(request))
    wanted = lesson_config(asked(folder, optimizer="adafactor")).optim.lr
    assert config.optim.name == "adafactor" and config.optim.lr == pytest.approx(wanted)


@pytest.mark.parametrize(
    "given", [{"optimizer": "prodigy", "lr": 0.5}, {"optimizer": "adafactor"}, {"optimizer": "adamw-8bit"}]
)
def test_some_optimizers_stay(folder: Path, given: dict[str, Any]) -> None:
    assert not any("--optimizer" in flags for flags in flags_of(asked(folder, **given), LARGE))


def test_a_text_encoder_whose_layers_are_named_goes_on_learning(folder: Path) -> None:
    assert any("--no-text-encoder" in flags for flags in flags_of(asked(folder), LARGE))
    named = asked(folder, targets=("text_encoder.all",))
    assert not any("--no-text-encoder" in flags for flags in flags_of(named, LARGE))
    assert lesson_config(named).targets == ("blocks", "text_encoder.all")


def test_switches_win_over_values_that_were_set(folder: Path) -> None:
    request = asked(folder, overrides=("loop.accumulate=2", "batch_size=6"), loop={"keep": 1})
    first = next(iter(smaller(request, lesson_config(request), SMALL)))
    assert first == Switches((("batch_size", 3), ("accumulate", 4)))
    assert first.flags(request) == ("--set batch_size=3", "--set loop.accumulate=4")
    config = lesson_config(first.applied(request))
    assert (config.batch_size, config.loop.accumulate, config.loop.keep) == (3, 4, 1)


def test_the_first_switches_that_fit_are_proposed(folder: Path) -> None:
    def answer(request: LearnRequest) -> Rehearsed | OutOfRoom:
        if request.gradient_checkpointing:
            return rehearsed((1, 1, 2, 2), step_s=0.75)
        return OutOfRoom(5 * GB) if request.batch_size == 1 else rehearsed((1, 2, 6, 6))

    plan, seen = plan_of(asked(folder, memory="2.5GB", steps=150), answer)
    assert [(one.batch_size, one.gradient_checkpointing) for one in seen] == [
        (4, False),
        (2, False),
        (1, False),
        (4, True),
    ]
    assert not plan.fits_memory and plan.is_possible and plan.limit_bytes == 2_500_000_000
    assert [(one.fits, one.peak_bytes // GB, one.step_s) for one in plan.tried] == [
        (False, 6, 0.5),
        (False, 5, None),
        (True, 2, 0.75),
    ]
    assert plan.switches is not None and plan.switches.flags == ("--gradient-checkpointing",)
    text = plan_text(plan)
    assert (
        "Add: --gradient-checkpointing\nWall time is then " in text
        and "37.5 s more than without; the result is" in text
    )
    assert "> 5.00 GB" in text and "does not fit into 2.50 GB" in text
    record = json.loads(json.dumps(event_record(plan), default=lambda value: getattr(value, "__dict__", str(value))))
    assert record["is_possible"] and record["switches"]["flags"] == ["--gradient-checkpointing"]


def test_nothing_fits(folder: Path) -> None:
    peaks = iter(((1, 2, 6, 6), (1, 2, 5, 5), (1, 2, 4, 4)))
    last = rehearsed((1, 2, 4, 4))
    plan, seen = plan_of(asked(folder, memory="3GB"), lambda _: rehearsed(next(peaks, (1, 2, 4, 4))))
    assert len(seen) == 7 and not plan.is_possible and plan.switches is None
    assert plan.smallest_bytes == last.peak_bytes
    assert "Nothing fits. The smallest peak that was measured is 4.00 GB." in plan_text(plan)


def test_what_no_switch_can_help_is_not_tried(folder: Path) -> None:
    plan, seen = plan_of(asked(folder, memory="0.5GB"), lambda _: rehearsed())
    assert len(seen) == 1 and plan.tried == () and not plan.is_possible


def test_looks_that_are_too_large_are_left_out_first(folder: Path) -> None:
    for peaks in ((1, 3, 3, 3), (1, 1, 2, 4)):
        _, seen = plan_of(
            asked(folder, memory="2.5GB"),
            lambda request, found=peaks: rehearsed(found if request.verdict else (1, 1, 2, 2)),
        )
        assert [one.verdict for one in seen] == [True, False]


def test_memory_that_runs_out_is_a_plan_too(folder: Path) -> None:
    plan, seen = plan_of(asked(folder), lambda request: rehearsed() if request.batch_size < 4 else OutOfRoom(7 * GB))
    assert (plan.is_whole, plan.seconds, plan.step_s, plan.peak_bytes) == (False, None, None, 7 * GB)
    assert plan.is_possible and len(seen) == 2
    text = plan_text(plan)
    assert "memory ran out in the first steps; the process had 7.00 GB by then." in text
    assert "Add: --batch-size 2 --accumulate 2" in text


@pytest.mark.parametrize(
    ("asked", "steps", "save_every"),
    [
        ({}, 100, 50),
        ({"steps": 400}, 400, 100),
        ({"overrides": ("loop.steps=400",)}, 400, 100),
        ({"loop": {"steps": 400}}, 400, 100),
        ({"steps": 20, "overrides": ("loop.steps=400",)}, 400, 100),
        ({"steps": 400, "save_every": 7}, 400, 7),
        ({"steps": 400, "overrides": ("loop.save_every=9",)}, 400, 9),
        ({"steps": 400, "loop": {"save_every": 11}}, 400, 11),
    ],
)
def test_saved_steps_go_by_the_steps_however_these_are_given(
    asked: dict[str, Any], steps: int, save_every: int
) -> None:
    request = LearnRequest(folder=Path("photos"), placeholder="<fox>", class_noun="fox", **asked)
    loop = lesson_config(request).loop
    assert (loop.steps, loop.save_every) == (steps, save_every)


@pytest.mark.parametrize("steps", ["0", "-4", "many", "1.5"])
def test_steps_that_are_no_number_of_steps_are_refused(steps: str) -> None:
    request = LearnRequest(
        folder=Path("photos"), placeholder="<fox>", class_noun="fox", overrides=(f"loop.steps={steps}",)
    )
    with pytest.raises(ConfigError, match="steps"):
        lesson_config(request)


def test_a_loop_that_is_no_table_is_refused() -> None:
    request = LearnRequest(folder=Path("photos"), placeholder="<fox>", class_noun="fox", overrides=("loop=3",))
    with pytest.raises(ConfigError, match="loop"):
        lesson_config(request)


def test_every_value_has_its_source(folder: Path) -> None:
    Path("how.toml").write_text("seed = 3\n[optim]\ndecay_all = true\n[loop.guard]\nmax_bad = 3\n")
    flags = {"folder": "photos", "placeholder": "<fox>", "class_noun": "fox", "optimizer": "lion", "steps": "20"}
    flags |= {"overrides": ["optim.weight_decay=0.1"], "style": "true"}
    found = resolve(LearnRequest, file=Path("how.toml"), flags=flags)
    config = lesson_config(found.request)
    settings = {
        item.name: (item.value, item.source) for item in effective_settings(found.request, config, found.sources)
    }
    assert settings["folder"] == ("photos", "argument") and settings["kind"] == ("style", "--style")
    assert settings["optim.name"] == ("lion", "--optimizer") and settings["loop.steps"] == (20, "--steps")
    assert settings["optim.lr"] == (1e-3, "method, base and optimizer") and settings["optim.betas"] == (
        [0.9, 0.99],
        "optimizer",
    )
    assert settings["optim.decay_all"] == (True, "file") and settings["loop.guard.max_bad"] == (3, "file")
    assert settings["seed"] == (3, "file") and settings["optim.weight_decay"] == (0.1, "--set")
    assert settings["loop.save_every"] == (50, "steps") and settings["output"] == ("fox.safetensors", "word")
    assert settings["identifier"] == ("new", "method") and settings["rank"] == (8, "method")
    assert settings["verdict_steps"] == (8, "default") and settings["base"] == ("primer", "default")
    assert not {"plan", "memory", "overrides", "optim", "steps"} & set(settings)
    untold = effective_settings(found.request, config)
    assert next(item.source for item in untold if item.name == "optim.name") == "given"


@pytest.mark.parametrize(
    ("given", "small", "wide"),
    [
        ({}, METHODS["lora"].small.lr, 1e-4),
        ({"method": "dreambooth"}, METHODS["dreambooth"].small.lr, 5e-6),
        ({"optimizer": "lion"}, METHODS["lora"].small.lr / 2, 5e-5),
        ({"lr": 0.02}, 0.02, 0.02),
    ],
)
def test_what_is_usual_goes_by_the_width_of_the_base(
    folder: Path, given: dict[str, Any], small: float, wide: float
) -> None:
    request = asked(folder, **given)
    assert lesson_config(request).optim.lr == pytest.approx(small)
    unet = UNetConfig(4, 4, (320, 640, 1280, 1280), num_heads=8, context_dim=768)
    on_wide = with_settings(lesson_config(request), request, unet)
    assert on_wide.optim.lr == pytest.approx(wide)
    has_factors = METHODS[request.method].has_factors
    assert lesson_config(request).targets == (("blocks",) if has_factors else ("attention",))
    assert on_wide.targets == ("attention",)
    usual = lesson_config(request)
    assert (usual.loop.steps, usual.strength, usual.objective.shift) == (
        (100, 0.8, 0.4) if has_factors else (150, 1, 1)
    )
    assert (on_wide.loop.steps, on_wide.strength, on_wide.objective.shift) == (500 if has_factors else 400, 1, 1)
    named = asked(folder, targets=("to_k",))
    assert lesson_config(named).targets == with_settings(lesson_config(named), named, unet).targets == ("to_k",)


def test_the_usual_rank_goes_by_the_method(folder: Path) -> None:
    ranks = {method: lesson_config(asked(folder, method=method)).rank for method in ("lora", "pivotal", "dreambooth")}
    assert ranks == {"lora": 8, "pivotal": 8, "dreambooth": 16}
    assert lesson_config(asked(folder, method="dreambooth", rank=4)).rank == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plan": True}, "plan is on, but this learns"),
        ({"memory": "6GB"}, "--memory: given 6.00 GB without --plan"),
    ],
)
def test_a_lesson_takes_no_plan(folder: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(learn(asked(folder, **given)))


def test_a_rehearsal_keeps_what_decides_the_cost_of_a_step(folder: Path) -> None:
    request = asked(folder, accumulate=3, prior_weight=1.0, num_vectors=2, progressive_steps=5, preview_prompts=("a",))
    config = lesson_config(request)
    short = rehearsal_config(config, Path("there"))
    assert (short.output, short.num_class_images, short.progressive_steps) == (Path("there/fox.safetensors"), 4, 0)
    assert (short.loop.steps, short.loop.save_every, short.loop.preview_every) == (3, 3, 3)
    same = {"output", "num_class_images", "progressive_steps", "loop"}
    assert short.model_dump(exclude=same) == config.model_dump(exclude=same)
    assert short.loop.accumulate == 3 and short.loop.guard == config.loop.guard


def test_parts_are_told_by_events() -> None:
    events = [
        (Progress("pictures", 0, 1), START),
        (Progress("pictures", 1, 1), PICTURES),
        (Progress("class pictures", 4, 4), CLASS_PICTURES),
        (Metric(1, {"learn/loss": 0.3}), STEP),
        (Checkpoint(3, Path("x")), SAVING),
        (Verdict(3, "why"), SAVING),
        (Preview(3, Path("x")), PREVIEW),
    ]
    assert [part_of(event) for event, _ in events] == [part for _, part in events]
    watch = Stopwatch(0.0)
    for event, _ in events:
        watch.note(event)
        watch.note(Notice(0, "something"))
    assert [part for part, _ in watch.peaks] == [part for _, part in events]
    assert len(watch.steps) == 1 and watch.step_s == watch.steps[0]
    assert watch.seconds[START] > 1e9 and watch.peak_before(STEP) == watch.peaks[2][1] and watch.peak_before(START) == 0


def test_steps_without_finite_numbers_give_no_plan(folder: Path) -> None:
    found, request = rehearsed(), asked(folder)
    found.watch.steps.clear()
    with pytest.raises(Diverged, match="in 0 of the measured steps; a plan needs at least 1 step"):
        plan_of(request, lambda _: found)
    with pytest.raises(Diverged, match="in 0 of"):
        time_parts(request, lesson_config(request), found, 0)


def test_the_peak_is_in_the_part_that_reached_it() -> None:
    watch = Stopwatch(0.0, peaks=[(START, 50), (STEP, 996), (LOOK, 1000)])
    assert (watch.peak_bytes, watch.peak_part) == (1000, STEP)


def test_only_what_draws_is_timed() -> None:
    network = torch.nn.Linear(400, 400)
    timed = NetworkTime(network)
    network(torch.zeros(400, 400))
    assert timed.seconds == 0
    with torch.no_grad():
        network(torch.zeros(400, 400))
    assert timed.seconds > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1134, "0.113 s"), (42.25, "42.2 s"), (99.6, "1 min 40 s"), (3599.6, "1 h 00 min"), (7500.0, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert TimePart("x", seconds / 2, 2).seconds == seconds
