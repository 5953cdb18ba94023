"""The notebooks that need a service: their cells, run one after the other without Jupyter.

    python -m tests.packaging.notebooks URL KEY

runs all of them at a service and writes the last picture of each beside it, for the site.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
OF_FILES = "saliency_sweep"  # which tests/models/saliency/test_saliency_effects.py runs
NAMES = sorted({path.stem for path in FOLDER.glob("*.ipynb")} - {OF_FILES})
WIDTH = 1200  # pixels of a picture of the site
# values are shown as a notebook shows them, the last one is kept as a picture
SHOW = """
def shown(value):
    global last
    last = value
    print(repr(value)[:2000])
"""
SAVE = """
if hasattr(last, "savefig"):
    last.savefig("{path}", dpi=130)
else:
    last.convert("RGB").save("{path}")
client.close()
"""


def cells(name: str, kind: str) -> Iterator[str]:
    """The sources of the cells of a kind: ``code`` or ``markdown``."""
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == kind:
            yield "".join(cell["source"])


def program(name: str, picture: Path) -> str:
    """A notebook as one program, which saves what its last cell shows as a picture."""
    parts = [SHOW]
    for source in cells(name, "code"):
        tree = ast.parse(source)
        if isinstance(last := tree.body[-1], ast.Expr):
            call = ast.Call(ast.Name("shown", ast.Load()), [last.value], [])
            tree.body[-1] = ast.Expr(call)
        parts.append(ast.unparse(ast.fix_missing_locations(tree)))
    return "\n".join([*parts, SAVE.format(path=picture)])


def execute(name: str, picture: Path, url: str, key: str) -> str:
    """Run a notebook in a process of its own; what it showed.

    Raises:
        CalledProcessError: if a cell fails.
    """
    env = {**os.environ, "SEXTANT_URL": url, "SEXTANT_KEY": key, "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", "-c", program(name, picture)]
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Make the pictures of all notebooks anew."""
    from PIL import Image

    for name in NAMES:
        path = FOLDER / f"{name}.jpg"
        execute(name, path.with_suffix(".png"), *sys.argv[1:])
        with Image.open(path.with_suffix(".png")) as picture:
            picture.thumbnail((WIDTH, WIDTH))
            picture.convert("RGB").save(path, quality=80)
        path.with_suffix(".png").unlink()


if __name__ == "__main__":
    main()
