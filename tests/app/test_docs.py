"""The documents name every setting, kind and role; the README is short and its example a script."""

import ast
import builtins
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.settings import FOREIGN, Settings
from models.catalog import kinds
from models.data.builtin import BUILTIN

ROOT = Path(__file__).parents[2]
IMPORTS = (ast.Import, ast.ImportFrom)
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
KINDS = (ROOT / "docs/kinds.md").read_text()
RESULTS = (ROOT / "docs/results.md").read_text()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")]


def between(start: str, end: str) -> str:
    found = re.search(f"<!-- {start} -->\n(.*?)<!-- {end} -->", README, re.DOTALL)
    assert found is not None
    return found[1]


def setting_row(name: str) -> str:
    field = Settings.model_fields[name]
    default: Any = field.get_default()
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    shown = f"`{default}`" if str(default) else "empty"
    return f"| `SEXTANT_{name.upper()}` | {shown} | {field.description} |"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_its_row(name):
    assert setting_row(name) in OPERATIONS.splitlines()


def test_no_row_of_a_setting_that_is_gone():
    named = set(re.findall(r"SEXTANT_[A-Z_]+[A-Z]", README + OPERATIONS))
    assert named <= {f"SEXTANT_{name.upper()}" for name in Settings.model_fields} | FOREIGN


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_has_its_row_with_its_roles(kind):
    row = next(line for line in KINDS.splitlines() if line.startswith(f"| `{kind}` |"))
    roles = {artifact.role for artifact in kinds()[kind].artifacts}
    assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == roles
    assert (ROOT / "models" / kind.partition(".")[0] / "README.md").is_file()


def test_every_role_is_explained():
    explained = " ".join(KINDS[KINDS.index("Files have a role") :].split())
    roles = {artifact.role for spec in kinds().values() for artifact in spec.artifacts}
    assert {role for role in roles if f"`{role}` (" not in explained} == set()


def test_every_builtin_dataset_is_named():
    assert {name for name in BUILTIN if f"`{name}`" not in KINDS} == set()


def test_the_example_is_a_script_that_names_every_step():
    script = between("curl:start", "curl:end").strip().removeprefix("```bash\n").removesuffix("```")
    for step in ("/v1/jobs", "wait_s", "text/event-stream", "checkpoints/latest", "saliency_map"):
        assert step in script
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_snippets_are_complete(monkeypatch):
    """The kind is one that there is; the script in Python uses no name that it does not make."""
    (kind,) = re.findall(r"^sextant new (\S+) > spec\.json", README, re.MULTILINE)
    assert kind in kinds()
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    tree = ast.parse(script)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {
        each.name for node in ast.walk(tree) if isinstance(node, IMPORTS) for each in node.names
    }
    assert {node.id for node in names} - made - set(dir(builtins)) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_fits_a_screen_or_two():
    """At most 150 lines, with a picture, and at most eight headline figures."""
    assert len(README.splitlines()) <= 150
    assert "![" in README
    table = README[README.index("## Headline figures") :]
    assert len(re.findall(r"^\| (?!what|---)", table, re.MULTILINE)) <= 8


def test_every_result_names_a_file_that_is_there():
    """Names in the last column, with any date."""
    rows = [
        line for line in RESULTS.splitlines() if line.startswith("| ") and "| --- |" not in line
    ]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[5])}
    assert len(names) > 20
    assert {
        n for n in names if not list((ROOT / "tests/bench/results").glob(f"{n}_*.json"))
    } == set()


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", README)) <= targets
