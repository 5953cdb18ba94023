"""No import cycle anywhere: imports inside of functions and for type checking included."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"app": ROOT, "models": ROOT, "workers": ROOT, "sextant_client": ROOT / "app/client"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package stands for its ``__init__.py``."""
    every = {}
    for package, base in PACKAGES.items():
        for path in (base / package).rglob("*.py"):
            if package == "app" and "client" in path.parts:
                continue
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            every[name.removesuffix(".__init__")] = path
    return every


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Modules of ours that a source imports, by statement or by ``import_module("...")``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _name(node.func) == "import_module":
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph as a list of names, empty where there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph[name]):
            if around := visit(other):
                return around
        path.pop()
        done.add(name)
        return []

    return next(filter(None, map(visit, sorted(graph))), [])


def test_a_cycle_would_be_seen():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    source = "def f():\n    from importlib import import_module\n    import_module('x.y')"
    assert "x.y" in set(imported(ast.parse(source), set()))


def test_no_module_imports_itself_by_a_detour():
    every = modules()
    assert len(every) > 300
    graph = {
        name: {m for m in imported(ast.parse(path.read_text()), set(every)) if m in every} - {name}
        for name, path in every.items()
    }
    assert cycle(graph) == []
