"""Sizes of files and functions, forbidden names, no prints, no paths of anyone's machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
LIBRARY = [path for path in CODE if path.is_relative_to(ROOT / "src")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_CODE_LINES = 400
MAX_TEST_LINES = 500
MAX_FUNCTION_LINES = 50
FORBIDDEN_STEMS = {"utils", "util", "common", "misc", "helpers", "helper"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def line_count(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def function_lengths(source: str) -> dict[str, int]:
    """Return the number of lines of every function, its docstring not counted."""
    lengths: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring = line_count(first) if has_docstring else 0
            lengths[f"{node.name}:{node.lineno}"] = line_count(node) - docstring
    return lengths


def tracked_texts() -> dict[str, str]:
    """Return the text files of the repository: those git tracks, or every file where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode != 0:
        folders = [ROOT / name for name in ("src", "tests", "docs", "examples", "recipes", "benchmarks")]
        names = [relative(path) for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts: dict[str, str] = {}
    for name in names:
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 4_000_000:
            continue
        try:
            texts[name] = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
    return texts


@pytest.mark.parametrize(("files", "limit"), [(CODE, MAX_CODE_LINES), (TESTS, MAX_TEST_LINES)])
def test_files_are_short(files: list[Path], limit: int) -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {name: lines for name, lines in lengths.items() if lines > limit}


def test_functions_are_short() -> None:
    too_long = {
        f"{relative(path)}:{name}": lines
        for path in CODE
        for name, lines in function_lengths(path.read_text(encoding="utf-8")).items()
        if lines > MAX_FUNCTION_LINES
    }
    assert not too_long


def test_docstrings_do_not_count_as_code() -> None:
    assert function_lengths('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n') == {"f:1": 2}


def test_names_say_what_is_inside() -> None:
    bad = [relative(p) for p in [*CODE, *TESTS] if FORBIDDEN_STEMS & {p.stem, p.parent.name}]
    assert not bad


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in TESTS if path.name.startswith("test_")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


def test_the_library_never_prints() -> None:
    prints = [
        f"{relative(path)}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints


def test_importing_has_no_side_effects() -> None:
    """Module level holds definitions and constants; a bare call there would run at import."""
    calls = [
        f"{relative(path)}:{node.lineno}"
        for path in LIBRARY
        if path.stem != "__main__"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert not calls


def test_no_machine_paths() -> None:
    """A path such as a home folder works on one machine only."""
    roots = "|".join(("home", "root", "Users", "work", "tmp", "mnt"))
    pattern = re.compile(r"(?<![\w.~/:)}\]-])/(?:" + roots + r")/[\w.]")
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_source_is_listed() -> None:
    """A key such as [ho2020] in a docstring or page stands in docs/sources.md, and what stands there is used."""
    key = re.compile(r"\[([a-z]+(?:19|20)\d\d[a-z]?)\]")
    texts = tracked_texts()
    listed = set(key.findall(texts.pop("docs/sources.md")))
    used = {found for name, text in texts.items() if name.endswith((".py", ".md")) for found in key.findall(text)}
    assert used - listed == set() and listed - used == set()
