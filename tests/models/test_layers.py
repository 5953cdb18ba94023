"""Imports that import-linter cannot see."""

import ast
from pathlib import Path

import models

ROOT = Path(str(models.__file__)).parent
BY_NAME = {"import_module", "__import__"}


def dynamic_imports(path):
    """The expressions that a file hands to functions which import by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in BY_NAME:
                yield node.args[0]


def test_only_the_table_of_kinds_imports_our_modules_by_name():
    """So the layers contract of pyproject.toml covers dynamic imports too."""
    paths = set(ROOT.rglob("*.py")) - {ROOT / "stored.py"}
    names = [(path, name) for path in paths for name in dynamic_imports(path)]
    assert names, "some files import libraries by name"
    for path, name in names:
        texts = [x.value for x in ast.walk(name) if isinstance(x, ast.Constant)]
        assert texts, f"{path}: the name of a module comes from elsewhere"
        assert not any(str(text).startswith("models") for text in texts), path
