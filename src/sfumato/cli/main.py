"""The command line: flags are generated from the requests, events are shown as they come.

Start-up counts, so a command imports only what it needs: `--help` and complaints about options load no torch.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from sfumato import __version__
from sfumato.benchmark_requests import CharactersDataRequest, EvaluateCharactersRequest, EvaluateDreamBenchRequest
from sfumato.cli.render import Renderer, make_renderer
from sfumato.concept_requests import ExportRequest
from sfumato.errors import ConfigError, SfumatoError, StorageError
from sfumato.events import Done
from sfumato.operations.learn_plan import LearnPlan
from sfumato.requests import (
    DemoRequest,
    DoctorRequest,
    EvaluateRequest,
    GenerateRequest,
    LearnRequest,
    PrimerDataRequest,
    ReplayRequest,
    Request,
    TrainRequest,
    choices_of,
    expected,
    flag_of,
    is_list,
    is_switch,
)
from sfumato.resolve import Resolved, resolve
from sfumato.runtime.interrupt import listeners
from sfumato.runtime.json_values import json_value
from sfumato.runtime.suggestions import did_you_mean

Commands: TypeAlias = Mapping[str, "type[Request] | Commands"]

COMMANDS: Commands = {
    "generate": GenerateRequest,
    "learn": LearnRequest,
    "train": TrainRequest,
    "data": {"characters": CharactersDataRequest, "doctor": DoctorRequest, "primer": PrimerDataRequest},
    "evaluate": {
        "base": EvaluateRequest,
        "characters": EvaluateCharactersRequest,
        "dreambench": EvaluateDreamBenchRequest,
    },
    "demo": DemoRequest,
    "export": ExportRequest,
    "replay": ReplayRequest,
}

EXIT_OK, EXIT_DOES_NOT_FIT, EXIT_PROBLEM, EXIT_INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are errors of sfumato."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.", hint=f"See '{self.prog} --help'.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `sfumato`; by default those of this process.

    Returns:
        Exit code: 0 done, 1 a plan that nothing makes fit, 2 a problem the user can act on, 130 interrupted. A bug
        keeps its traceback (1).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no command
    renderer = make_renderer(json_lines="--json" in words)
    try:
        return _run(words, renderer)
    except SfumatoError as error:
        renderer.problem(error)
        return EXIT_PROBLEM
    except KeyboardInterrupt:
        renderer.interrupted()
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_OK
    except OSError as error:  # a path that may not be looked at, or is too long; anything else is a bug
        if error.filename is None:
            raise
        renderer.problem(StorageError(f"'{error.filename}': {error.strerror or error}."))
        return EXIT_PROBLEM


def _run(words: list[str], renderer: Renderer) -> int:
    """Choose the command, build its request and show its events."""
    if words[:1] == ["--version"]:
        sys.stdout.write(f"sfumato {__version__}\n")
        return EXIT_OK
    command, found, rest = find_command(words)
    if not isinstance(found, type):
        sys.stdout.write(_overview(command, found))
        return EXIT_OK if rest else EXIT_PROBLEM
    request_class = found
    parser = build_parser(command, request_class)
    try:
        parsed = vars(_parse(parser, rest))
    except SystemExit:  # argparse has shown the help
        return EXIT_OK
    explain, config = parsed.pop("explain"), parsed.pop("config", None)
    as_json = parsed.pop("json")
    resolved = resolve(request_class, file=config, flags=parsed)
    if explain:
        sys.stdout.write(_json_explanation(resolved) if as_json else _explanation(resolved))
        return EXIT_OK
    return _follow(resolved, renderer)


def _follow(resolved: Resolved[Request], renderer: Renderer) -> int:
    """Run the operation of a request and show its events; closing it on the way out lets it save its state."""
    from sfumato.operations import run  # brings torch: not before the request is known to be sound

    code = EXIT_OK
    events = run(resolved.request, resolved.sources)
    with renderer:
        listeners.append(renderer.stopping)
        try:
            for event in events:
                renderer.show(event)
                if isinstance(event, Done) and str(event.info.get("stopped")).startswith("SIG"):
                    code = EXIT_INTERRUPTED  # a trainer finishes its step and saves when it is asked to stop
                if isinstance(event, LearnPlan) and not event.is_possible:
                    code = EXIT_DOES_NOT_FIT
        finally:
            events.close()
            listeners.remove(renderer.stopping)
    return code


def find_command(words: Sequence[str]) -> tuple[str, type[Request] | Commands, list[str]]:
    """Follow the first words to a command.

    Args:
        words: The words after `sfumato`.

    Returns:
        The command's words with spaces between; its request, or the commands below it where the words end or ask for
        help; the words that are left.

    Raises:
        ConfigError: A word is no command there.
    """
    node: type[Request] | Commands = COMMANDS
    path: list[str] = []
    for word in words:
        if isinstance(node, type) or word in ("-h", "--help"):
            break
        if word not in node:
            kind = " ".join([*path, "command"])
            raise ConfigError(f"Unknown {kind} {word!r}.", hint=did_you_mean(word, node))
        node = node[word]
        path.append(word)
    return " ".join(path), node, list(words[len(path) :])


def leaves(commands: Commands = COMMANDS) -> list[tuple[str, type[Request]]]:
    """Return every command that does something: its words and its request."""
    found: list[tuple[str, type[Request]]] = []
    for word, node in commands.items():
        below = [("", node)] if isinstance(node, type) else leaves(node)
        found += [(f"{word} {words}".rstrip(), request) for words, request in below]
    return found


def build_parser(command: str, request_class: type[Request]) -> Parser:
    """Build the parser of one command from the fields of its request.

    Args:
        command: Name of the command.
        request_class: Its request.

    Returns:
        A parser whose values are still text; the request gives them their types and ranges.
    """
    parser = Parser(
        prog=f"sfumato {command}",
        description=request_class.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in request_class.model_fields.items():
        flag = flag_of(name, field)
        if flag.file_only:
            continue
        metavar = flag.metavar or (name.upper() if not choices_of(field) else "|".join(choices_of(field)))
        text = _help_text(request_class, name)
        if flag.positional:
            # Whether it must be there is the request's to say, so that a file may give it.
            parser.add_argument(name, metavar=metavar, nargs="?", help=text)
        elif is_switch(field):
            parser.add_argument(*flag.names, dest=name, action=argparse.BooleanOptionalAction, help=text)
        elif is_list(field):
            parser.add_argument(*flag.names, dest=name, metavar=metavar, action="append", help=text)
        else:
            parser.add_argument(*flag.names, dest=name, metavar=metavar, help=text)
    parser.add_argument("--config", metavar="FILE.toml", type=Path, help="take values from a file; flags win")
    parser.add_argument(
        "--explain", action="store_true", default=False, help="show every value and its source, do nothing"
    )
    parser.add_argument("--json", action="store_true", default=False, help="one JSON object a line, for machines")
    return parser


def _parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Parse the words of a command; an unknown flag gets a hint."""
    parsed, rest = parser.parse_known_intermixed_args(words)
    if rest:
        known = [name for action in parser._actions for name in action.option_strings]
        unknown = next((word for word in rest if word.startswith("-")), rest[0])
        name = unknown.split("=")[0]
        hint = did_you_mean(name, known) if name.startswith("-") else "Put quotes around a text with spaces."
        raise ConfigError(f"{parser.prog}: unexpected {name!r}.", field=name, hint=hint)
    return parsed


def _help_text(request_class: type[Request], name: str) -> str:
    """Describe one field with its range and default."""
    field = request_class.model_fields[name]
    parts = [(field.description or "").replace("%", "%%")]
    needed = expected(field)
    if any(digit in needed for digit in "0123456789") and not choices_of(field):
        parts.append(f"[{needed}]")
    if not field.is_required() and field.default not in (None, (), ""):
        default = field.default
        parts.append(f"(default: {str(default).lower() if isinstance(default, bool) else default})")
    return " ".join(parts)


def _overview(command: str, commands: Commands) -> str:
    """List the commands of the program or below one of its words."""
    called = f"sfumato {command}".rstrip()
    rows = leaves(commands)
    width = max(len(words) for words, _ in rows) + 1
    lines = [f"usage: {called} COMMAND [options]", ""]
    lines += [] if command else ["A workbench for latent diffusion.", ""]
    lines += [f"  {words:{width}} {request.__doc__}" for words, request in rows]
    version = "" if command else "; sfumato --version the version"
    lines += ["", f"{called} COMMAND --help shows the options of a command{version}.", ""]
    return "\n".join(lines)


def _explanation(resolved: Resolved[Request]) -> str:
    """Show every value of a request with its source."""
    rows = resolved.explain()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}\n" for name, value, source in rows)


def _json_explanation(resolved: Resolved[Request]) -> str:
    """Show every value of a request with its source, one JSON object a line."""
    values = json_value(resolved.request.model_dump(mode="json"))
    settings = [
        {"event": "setting", "name": name, "value": values[name], "source": source}
        for name, source in resolved.sources.items()
    ]
    return "".join(json.dumps(setting) + "\n" for setting in settings)
