"""The Python of README and docs runs as it stands there, and their command lines are understood."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

import sfumato
from sfumato.cli.main import build_parser, find_command
from sfumato.errors import ConfigError
from sfumato.operations.learn import lesson_config
from sfumato.operations.overrides import key_and_value
from sfumato.requests import LearnRequest, TrainRequest
from sfumato.resolve import resolve
from sfumato.training.recipe_file import RECIPES, load_recipe

ROOT = Path(__file__).parents[2]
PATHS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PATHS}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Given = dict[str, Any]


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """Yield the code blocks of a page in one language, each with the number of lines before it."""
    for found in BLOCK.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)), found[2]


def run_python(text: str, page: str, given: Given) -> None:
    """Run the Python of a page, one block after the other, with some names given."""
    for lines, source in blocks(text, "python"):
        exec(compile("\n" * lines + source, page, "exec"), given)


@pytest.fixture
def there(base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the pages speak of, where `primer` is the tiny base and lessons are short."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "primer")  # a base of that name in the folder wins over the embedded one
    for name in ("photos", "pictures"):
        shutil.copytree(photos, name)
    monkeypatch.setitem(vars(sfumato), "learn", partial(sfumato.learn, steps=2, verdict=False))
    monkeypatch.setattr(Image.Image, "show", lambda picture: picture.load())
    return tmp_path


def a_pipeline_of_diffusers() -> Given:
    from their_pipeline import their_pipeline

    sfumato.learn("photos", placeholder="<fox>", class_noun="fox")
    return {"pipe": their_pipeline(Path("primer")), "safetensors": safetensors}


def pictures_and_prompts() -> Given:
    with Image.open("photos/0.png") as photo:
        picture = np.asarray(photo.convert("RGB"))
    return {"picture": picture, "pictures": [picture, 255 - picture], "prompts": ["a dog", "a red ball"]}


GIVEN: dict[str, Callable[[], Given]] = {
    "docs/how-to/use-stable-diffusion.md": a_pipeline_of_diffusers,
    "docs/how-to/measure-prompt-fidelity.md": pictures_and_prompts,
}
"""What a page takes for granted, beside `sfumato` itself."""


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```python" in text])
def test_the_python_of_a_page_runs(page: str, there: Path) -> None:
    given = {"sfumato": sfumato, **GIVEN.get(page, dict)()}
    assert len(list(blocks(PAGES[page], "python"))) == PAGES[page].count("```python")
    run_python(PAGES[page], page, given)
    if page == "README.md":
        assert sfumato.read_recipe(Path("apple.png"))["request"]["seed"] == 7
        assert [path.name for path in Path("out").iterdir()] == ["a-rocket-0.png"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('sfumato.generate("a fox", cuont=4)', "unknown key 'cuont'. Did you mean 'count'?"),
        ('sfumato.GenerateRequest(prompt="a fox", size=32).sise', "has no attribute 'sise'"),
        ("sfumato.StepEvent()", "module 'sfumato' has no attribute 'StepEvent'"),
        ("from sfumato.pipeline import Pipe", "cannot import name 'Pipe'"),
        ('sfumato.plan("photos", placeholder="<fox>", class_noun="fox", memry="6GB")', "unknown key 'memry'"),
        ("def half(:", "invalid syntax"),
    ],
)
def test_a_line_that_is_out_of_date_is_found(line: str, problem: str) -> None:
    text = f"# A page\n\n```python\nimport sfumato\n\n{line}\n```\n"
    with pytest.raises(Exception, match=re.escape(problem)) as caught:
        run_python(text, "page.md", {})
    last = caught.traceback[-1] if caught.type is SyntaxError else caught.traceback[2]
    assert (getattr(caught.value, "lineno", None) or last.lineno + 1) == 6, "the line of the page is named"


def test_the_settings_of_the_page_are_taken(there: Path) -> None:
    ((_, content),) = blocks(PAGES["docs/how-to/learn-settings.md"], "toml")
    Path("how.toml").write_text(content)
    words = {"folder": "photos", "placeholder": "<fox>", "class_noun": "fox"}
    config = lesson_config(resolve(LearnRequest, file=Path("how.toml"), flags=words).request)
    assert config.rank == 8 and config.optim.weight_decay == 0.1 and config.objective.delta == 0.3


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every `sfumato` command in the blocks of a page."""
    for _, block in blocks(text, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("sfumato "):
                yield shlex.split(line, comments=True)[1:]


def understand(words: list[str]) -> None:
    """Read a command line as the program does, up to where it would begin to work.

    Of a training that is also the recipe that it names, and of a lesson the settings of the trainer, where the embedded
    base stands in for one that need not be there.
    """
    command, request_class, rest = find_command(words)
    assert isinstance(request_class, type), words
    flags = vars(build_parser(command, request_class).parse_intermixed_args(rest))
    settings = {name: value for name, value in flags.items() if name not in ("config", "explain", "json")}
    request = resolve(request_class, flags=settings).request
    if isinstance(request, TrainRequest):
        changes = dict(key_and_value(text) for text in request.overrides)
        load_recipe(ROOT / request.recipe, RECIPES[request.part], changes)
    if isinstance(request, LearnRequest):
        lesson_config(request.model_copy(update={"base": "primer"}))


def test_every_table_has_a_head() -> None:
    for page, text in PAGES.items():
        lines = [""] + [line.strip() for line in text.splitlines()]
        for above, line, below in zip(lines, lines[1:], [*lines[2:], ""], strict=False):
            if line.startswith("|") and not above.startswith("|"):
                assert set(below) <= set("|-: ") and below.count("|") == line.replace("\\|", "").count("|"), (
                    page,
                    line,
                )


def test_no_page_waits_for_a_number() -> None:
    assert not {page: found for page, text in PAGES.items() if (found := re.findall(r"@[A-Z]+@", text))}


def test_the_command_lines_of_every_page_are_understood() -> None:
    for page, text in PAGES.items():
        if not page.startswith("docs/decisions/"):  # these tell what was run then
            for words in command_lines(text):
                understand(words)
    assert len(list(command_lines(PAGES["README.md"]))) == 5


@pytest.mark.parametrize(
    "line",
    [
        "sfumato lern photos",
        "sfumato learn photos --as '<fox>' --clas fox",
        "sfumato generate fox --steps many",
        "sfumato train denoiser recipes/tiny.toml --set loop.step=4",
        "sfumato learn photos --as '<fox>' --class fox --set optim.weight_decai=0.01",
        "sfumato learn photos --as '<fox>' --class fox --base models/sd15 --set loop.step=4",
    ],
)
def test_a_command_line_that_is_out_of_date_is_found(line: str) -> None:
    (words,) = command_lines(f"```\n{line}  # what it does\n```\n")
    with pytest.raises(ConfigError):
        understand(words)
