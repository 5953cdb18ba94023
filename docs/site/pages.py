"""Lay out the pages of the documentation site: ``python docs/site/pages.py build/docs``.

The Markdown of the repository, as it lies there; the files that it links to (pictures, figures,
code); the notebooks as pages; and three pages of reference, made from the code.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath

from app.http.problems import PROBLEMS
from app.main import create_app

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)")
NOTEBOOK = re.compile(r"\]\(([^)#\s]+)\.ipynb\)")
CLIENT = """# Client

`pip install sextant-jobs`: httpx and little else, without torch.

A call is written once for both clients: where a signature below gives `Flow[T]`, `Client` gives a
`T` and `AsyncClient` an awaitable of it; where it gives `Emits[T]`, an iterator and an asynchronous
one. Type checkers see those types. Dictionaries are those of `sextant_client.answers`, named as in
`/openapi.json`; what a file holds (`load()`) is `Any`.

::: sextant_client.Client

::: sextant_client.AsyncClient

::: sextant_client.Job

::: sextant_client.AsyncJob

::: sextant_client.files.Files

::: sextant_client.files.File

::: sextant_client.Metrics

::: sextant_client.ApiError
"""


def main() -> None:
    """Fill a new folder, the first argument."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    target, pages = folder / "pages", _known("*.md")
    for name in {*pages, *(linked for page in pages for linked in _links(page))}:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    for page in pages:
        text = (target / page).read_text()
        (target / page).write_text(NOTEBOOK.sub(r"](\1.md)", text))
    for name in _known("docs/notebooks/*.ipynb"):
        (target / name).with_suffix(".md").write_text(_notebook(ROOT / name))
        picture = Path(name).with_suffix(".jpg")
        if (ROOT / picture).is_file():
            shutil.copyfile(ROOT / picture, target / picture)
    shutil.copyfile(Path(__file__).with_name("mkdocs.yml"), folder / "mkdocs.yml")
    (target / "reference").mkdir()
    for name, text in {"api": _operations(), "problems": _problems(), "client": CLIENT}.items():
        (target / "reference" / f"{name}.md").write_text(text)


def _known(pattern: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    done = subprocess.run(  # noqa: S603  # words of this module
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def _links(page: str) -> Iterator[str]:
    """Files of the repository that a page links to."""
    for target in LINK.findall((ROOT / page).read_text()):
        name = normpath(PurePosixPath(page).parent / target)
        if not name.startswith("..") and (ROOT / name).is_file():
            yield name


def _notebook(path: Path) -> str:
    """A notebook as a page: text, code, and the picture that its last cell shows, if it does."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    if path.with_suffix(".jpg").is_file():
        parts.append(f"![What the last cell shows]({path.stem}.jpg)")
    parts.append(f"[This notebook]({path.name})")
    return "\n\n".join(parts) + "\n"


def _operations() -> str:
    """The table of all operations, from the document that the service answers."""
    document = create_app().openapi()
    lines = [
        "# Operations",
        "",
        "A running service shows all of them with their schemas and examples at `/docs`, and as"
        " OpenAPI at `/openapi.json`.",
    ]
    for tag in document["tags"]:
        lines += ["", f"## {tag['name'].capitalize()}", "", tag["description"], ""]
        lines += ["| | | |", "| --- | --- | --- |"]
        lines += [
            f"| `{method.upper()}` | `{path}` | {operation['summary']} |"
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation.get("tags", ())
        ]
    return "\n".join(lines)


def _problems() -> str:
    """What each code of an error means, from where the service reads it."""
    lines = [
        "# Errors",
        "",
        "Every error is `application/problem+json` (RFC 9457) with a `code` of these; `detail` says"
        " what was wrong, and `errors` names fields by JSON pointers.",
        "",
        "| code | status | title | what to do |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{code}` | {kind.status} | {kind.title} | {kind.text} |"
        for code, kind in PROBLEMS.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
