"""A file imports only from lower floors; siblings on a floor do not import one another; there are no cycles.

Imports inside functions and under TYPE_CHECKING count as well: a dependency is a dependency.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
PACKAGE = SRC / "sfumato"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "events", "tensors", "runtime"),
    ("diffusion", "nn"),
    ("models", "samplers", "adapters", "data"),
    ("formats",),
    ("pipeline",),
    ("training", "evaluation"),
    (
        "flags",
        "request_values",
        "learn_settings",
        "requests",
        "benchmark_requests",
        "concept_requests",
        "resolve",
        "operations",
    ),
    ("api", "cli", "__main__"),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}

# The few steps within a floor that are allowed, all in one direction.
WITHIN_A_FLOOR = {
    ("events", "tensors"),
    ("runtime", "errors"),
    ("runtime", "tensors"),
    ("learn_settings", "flags"),
    ("requests", "flags"),
    ("requests", "request_values"),
    ("requests", "learn_settings"),
    ("resolve", "requests"),
    ("benchmark_requests", "requests"),
    ("concept_requests", "requests"),
    ("operations", "benchmark_requests"),
    ("operations", "concept_requests"),
    ("operations", "requests"),
    ("__main__", "cli"),
}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(source: str, modules: set[str], importer: str) -> set[str]:
    """Return the modules of the package that a source text imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sfumato"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: write the full name instead of a relative import"
            if (node.module or "").split(".")[0] != "sfumato":
                continue
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    found.add(inner)
                elif not (node.module == "sfumato" and alias.name == "__version__"):
                    found.add(str(node.module))
    return found - {importer}


def unit_of(module: str) -> str:
    """Return the part of the package a module belongs to: `sfumato.models.unet` → `models`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def violation(importer: str, imported: str) -> str | None:
    """Say why an import is not allowed, or return None."""
    source, target = unit_of(importer), unit_of(imported)
    if source in (
        "",
        target,
    ):  # the package's own __init__ offers names from every floor; a part may import itself
        return None
    if target == "":
        return f"{importer} imports the package itself; import the module that defines the name"
    unknown = [name for name in (source, target) if name not in FLOOR_OF]
    if unknown:
        return f"{importer} imports {imported}, but {unknown[0]!r} stands on no floor"
    here, there = FLOOR_OF[source], FLOOR_OF[target]
    if there < here or (source, target) in WITHIN_A_FLOOR:
        return None
    relation = "its sibling" if there == here else "the higher floor's"
    return f"{importer} (floor {here}) imports {relation} {imported} (floor {there})"


def graph() -> dict[str, set[str]]:
    """Return who imports whom, without the package's own __init__."""
    names = set(FILES)
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items() if name != "sfumato"}
    return {name: imported_modules(text, names, name) for name, text in texts.items()}


def find_cycle(edges: dict[str, set[str]]) -> list[str] | None:
    """Return the first import cycle found as a list of modules, or None."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return None
        for target in sorted(edges.get(module, ())):
            cycle = visit(target, [*path, module])
            if cycle:
                return cycle
        finished.add(module)
        return None

    for module in sorted(edges):
        cycle = visit(module, [])
        if cycle:
            return cycle
    return None


def test_imports_go_downwards() -> None:
    problems = [
        problem
        for importer, targets in graph().items()
        for imported in sorted(targets)
        if (problem := violation(importer, imported))
    ]
    assert not problems, "\n".join(problems)


def test_no_import_cycles() -> None:
    assert find_cycle(graph()) is None


def test_floors_and_package_have_the_same_names() -> None:
    units = {unit_of(name) for name in FILES} - {""}
    assert units - set(FLOOR_OF) == set(), "they stand on no floor"
    assert set(FLOOR_OF) - units == set(), "there is nothing of that name"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("sfumato.models.unet", "sfumato.nn.blocks", True),
        ("sfumato.models.unet", "sfumato.models.denoiser", True),
        ("sfumato.operations.learn", "sfumato.requests", True),
        ("sfumato.nn.blocks", "sfumato.models.unet", False),
        ("sfumato.training.loop", "sfumato.evaluation.fid", False),
        ("sfumato.data.cache", "sfumato.models.autoencoder", False),
        ("sfumato.requests", "sfumato.operations.learn", False),
        ("sfumato.pipeline", "sfumato", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert (violation(importer, imported) is None) is allowed


def test_imports_inside_functions_are_seen() -> None:
    source = "def f():\n    from sfumato.models import unet\n    import sfumato.cli.main\n"
    assert imported_modules(source, {"sfumato.models.unet"}, "sfumato.nn.blocks") == {
        "sfumato.models.unet",
        "sfumato.cli.main",
    }


def test_cycles_are_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
