"""The command line: flags come from the requests, problems are one message, machines get JSON lines."""

from __future__ import annotations

import errno
import io
import json
import math
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from sfumato import operations
from sfumato.cli.main import COMMANDS, build_parser, find_command, leaves, main
from sfumato.cli.render import JsonRenderer
from sfumato.errors import DataError
from sfumato.events import Artifact, Checkpoint, Done, Event, Metric, Notice, Preview, Progress, Step, Verdict
from sfumato.requests import DemoRequest, DoctorRequest, GenerateRequest, Request, flag_of
from sfumato.runtime import interrupt
from sfumato.runtime.interrupt import StopRequest

EVENTS: tuple[Event, ...] = (
    Progress("rendering", 1, 2),
    Step(0, 2, torch.zeros(1), torch.zeros(1)),
    Metric(10, {"loss": 0.5}),
    Notice(3, "something [happened]"),
    Preview(4, Path("p.png")),
    Checkpoint(5, Path("run/step-5")),
    Verdict(5, "the best likeness", {"likeness": 0.9}, ("It has leaked.",), (4, 5)),
    Artifact(Path("out/a.png"), "image", {"seed": 3}),
    Done(1.25, {"pictures": 1}),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Replace the operations by one that tells fixed events; return the requests it gets."""
    requests: list[Request] = []

    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        requests.append(request)
        yield from EVENTS

    monkeypatch.setattr(operations, "run", run)
    return requests


def test_flags_become_a_request(asked: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    words = "a red fox|--concept|f:0.5|--concept|g|-n|3|--guidance|2.5|--negative|blue|-o|there|--size|64x32"
    assert main(["generate", *words.split("|")]) == 0
    (request,) = asked
    assert isinstance(request, GenerateRequest)
    assert (request.prompt, request.count, request.guidance_scale, request.size) == ("a red fox", 3, 2.5, (64, 32))
    assert [(str(use.path), use.strength) for use in request.concepts] == [("f", 0.5), ("g", 1.0)]
    out = capsys.readouterr().out
    assert "something [happened]" in out and "image: out/a.png" in out and "done in 1.2 s" in out
    assert "best step 5: the best likeness\nalarm: It has leaked.\n" in out


def test_json_lines(asked: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [type(event).__name__.lower() for event in EVENTS]
    assert lines[1] == {"event": "step", "step": 0, "steps": 2}
    assert (lines[6]["alarms"], lines[6]["front"]) == (["It has leaked."], [4, 5])
    assert lines[7] == {"event": "artifact", "path": "out/a.png", "kind": "image", "info": {"seed": 3}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generat"], "Unknown command 'generat'. Did you mean 'generate'?"),
        (["generate", "a", "--step", "3"], "sfumato generate: unexpected '--step'. Did you mean '--steps'?"),
        (["generate", "a", "--step=3"], "sfumato generate: unexpected '--step'. Did you mean '--steps'?"),
        (["generate", "a", "b"], "unexpected 'b'. Put quotes around a text with spaces."),
        (["generate", "a", "--steps"], "Argument --steps: expected one argument. See 'sfumato generate --help'."),
        (["generate"], "prompt is missing; needed a text."),
        (["generate", "a", "--sampler", "eular"], "--sampler: given 'eular'; needed one of ddpm"),
        (["generate", "a", "--config", "no.toml"], "'no.toml' does not exist"),
        (["data", "primr", "x"], "Unknown data command 'primr'. Did you mean 'primer'?"),
        (["data", "photos"], "Unknown data command 'photos'. Known: characters, doctor, primer."),
        (["data", "doctor"], "folder is missing; needed a path."),
        (["data", "doctor", "x", "--sise", "9"], "sfumato data doctor: unexpected '--sise'. Did you mean '--size'?"),
        (["data", "doctor", "x", "--size", "9"], "--size: given '9'; needed a whole number from 16 to 4096"),
        (["train", "denoizer", "x"], "part: given 'denoizer'; needed one of autoencoder, denoiser"),
    ],
)
def test_wrong_words(words: list[str], message: str, asked: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("sfumato: ") and captured.err.count("\n") == 1 and not captured.out
    assert not asked


def test_a_problem_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        yield Progress("reading", 0, 1)
        raise DataError("photo.png is empty.", field="folder", hint="Copy it again.")

    monkeypatch.setattr(operations, "run", run)
    assert main(["generate", "a"]) == 2
    assert capsys.readouterr().err == "sfumato: photo.png is empty. Copy it again.\n"
    assert main(["generate", "a", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == {
        "event": "error",
        "error": "DataError",
        "message": "photo.png is empty.",
        "field": "folder",
        "hint": "Copy it again.",
    }
    assert not captured.err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        yield Progress("reading", 0, 1)
        raise ZeroDivisionError

    monkeypatch.setattr(operations, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["generate", "a"])


def test_a_path_that_may_not_be_looked_at_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        yield Progress("reading", 0, 1)
        raise PermissionError(errno.EACCES, "Permission denied", "closed/fox.png")

    monkeypatch.setattr(operations, "run", run)
    assert main(["generate", "a"]) == 2
    assert capsys.readouterr().err == "sfumato: 'closed/fox.png': Permission denied.\n"


def test_json_lines_hold_no_nan() -> None:
    out = io.StringIO()
    JsonRenderer(out).show(Metric(3, {"loss": math.nan, "scale": math.inf, "rate": 0.5}))
    assert out.getvalue() == ('{"event": "metric", "step": 3, "values": {"loss": null, "scale": null, "rate": 0.5}}\n')


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_interrupted(json_flag: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def run(request: Request, sources: Mapping[str, str]) -> Generator[Event, None, None]:
        try:
            yield Checkpoint(5, Path("run/step-5"))
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr(operations, "run", run)
    assert main(["train", "denoiser", "x.toml", *json_flag]) == 130
    assert closed
    captured = capsys.readouterr()
    if json_flag:
        assert json.loads(captured.out.splitlines()[-1]) == {"event": "interrupted", "checkpoint": "run/step-5"}
    else:
        assert captured.err == ("sfumato: interrupted. State of step 5 is saved in run/step-5; go on with --resume.\n")


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_the_first_ctrl_c_says_at_once_what_it_does(
    json_flag: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            told.append(capsys.readouterr().err)
            yield Done(1.0, {"stopped": stop.reason})

    monkeypatch.setattr(operations, "run", run)
    assert main(["train", "denoiser", "x.toml", *json_flag]) == 130
    assert ("stopping when this step is done and saved. Ctrl-C again" in told[0]) == (not json_flag)
    assert not interrupt.listeners and not capsys.readouterr().err


@pytest.mark.parametrize(("reason", "code"), [("SIGINT was received", 130), ("the time limit is reached", 0)])
def test_a_run_that_stopped_itself(reason: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        yield Done(1.0, {"step": 3, "steps": 9, "stopped": reason})

    monkeypatch.setattr(operations, "run", run)
    assert main(["train", "denoiser", "x.toml"]) == code


def test_explain_shows_sources(tmp_path: Path, asked: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "a.toml"
    config.write_text('prompt = "a fox"\nsteps = 9\n')
    assert main(["generate", "--config", str(config), "--seed", "4", "--explain"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["steps", "9", "file"] in rows and ["seed", "4", "flag"] in rows and ["count", "1", "default"] in rows
    assert not asked


def test_explain_gives_machines_one_object_a_setting(asked: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a fox", "--concept", "f:0.5", "--seed", "4", "--explain", "--json"]) == 0
    captured = capsys.readouterr()
    settings = [json.loads(line) for line in captured.out.splitlines()]
    assert {tuple(setting) for setting in settings} == {("event", "name", "value", "source")}
    assert {setting["event"] for setting in settings} == {"setting"}
    assert [setting["name"] for setting in settings] == list(GenerateRequest.model_fields)
    told = {setting["name"]: (setting["value"], setting["source"]) for setting in settings}
    assert told["prompt"] == ("a fox", "flag") and told["seed"] == (4, "flag") and told["count"] == (1, "default")
    ((concept,), source) = told["concepts"]
    assert (concept["path"], concept["strength"], source) == ("f", 0.5, "flag") and told["size"] == (None, "default")
    assert not asked and not captured.err


@pytest.mark.parametrize(("command", "request_class"), leaves())
def test_help_lists_every_flag(command: str, request_class: type[Request], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    for name, field in request_class.model_fields.items():
        flag = flag_of(name, field)
        assert flag.file_only or all(written in out for written in flag.names)
    assert build_parser(command, request_class).prog == f"sfumato {command}"


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(out.count(f"\n  {command} ") == 2 for command, _ in leaves())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "sfumato 0.1.0\n"


def test_overview_of_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: sfumato data COMMAND [options]\n")
    assert out.endswith("\nsfumato data COMMAND --help shows the options of a command.\n")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == ["characters", "doctor", "primer"]
    assert main(["data"]) == 2
    assert capsys.readouterr().out == out


def test_words_lead_to_a_request() -> None:
    assert find_command(["data", "doctor", "x", "--help"]) == ("data doctor", DoctorRequest, ["x", "--help"])
    assert find_command(["data"]) == ("data", COMMANDS["data"], [])
    assert find_command(["demo", "demo"]) == ("demo", DemoRequest, ["demo"])
    assert find_command(["-h"]) == ("", COMMANDS, ["-h"])


def test_complaints_and_help_load_no_torch() -> None:
    code = (
        "import sys; from sfumato.cli.main import main; main(['generate', '--help']); "
        "main(['generate', 'a', '--steps', '0']); sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
