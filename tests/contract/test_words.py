"""The code keeps to the words of ARCHITECTURE.md: one word for one thing, no filler names."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "models", "workers")
# a row of the database and the handle of a run; that of a job and the client's; a figure's panel;
# helpers of two modules each
TWICE = {"Run", "Job", "Panel", "_Graph", "_Rollout"}
# the client's types of what the service's schemas are: the same things under the same names
GENERATED = {"answers.py", "requests.py"}
# what each word of the table may not be called in code
AVOIDED = {"found": 5, "told": 5, "said": 5, "place": 5, "lesson": 0, "sights": 0, "smallest": 5}


def trees() -> Iterator[tuple[Path, ast.AST]]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def bindings(tree: ast.AST) -> Iterator[str]:
    """Names that a source binds: variables, parameters, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.fixture(scope="module")
def counted() -> Counter[str]:
    return Counter(name for _, tree in trees() for name in bindings(tree))


@pytest.mark.parametrize(("word", "most"), AVOIDED.items())
def test_names_say_what_they_hold(counted, word, most):
    assert counted[word] <= most


def test_a_class_name_means_one_thing():
    homes = defaultdict(list)
    for path, tree in trees():
        for node in ast.walk(tree) if path.name not in GENERATED else ():
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(str(path))
    assert {n: p for n, p in homes.items() if len(p) > 1 and n not in TWICE} == {}


def test_the_name_of_a_net_is_net(counted):
    """``model`` is the field of a spec and the folder, never a variable that holds a module."""
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "model" for t in node.targets)
        and isinstance(node.value, ast.Call)
        and "net" in ast.dump(node.value.func).lower()
    ]
    assert wrong == []
