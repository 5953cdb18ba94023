"""Checks annotations while the tests run: shapes by jaxtyping, types by beartype.

Importing this module installs the hook where ``TEST_TYPES`` is set, as ``make test-slow`` does over
all tests of ``models``: checks take a quarter of their time. Modules with Triton programs are left
out: Triton compiles the source and the annotations of a program itself, and cannot do so once they
are wrapped.
"""

import os
import sys
from pathlib import Path

from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
TYPECHECKER = "beartype.beartype"


def has_programs(file: Path) -> bool:
    """Whether a module defines Triton programs."""
    return "@triton.jit" in file.read_text()


def modules(*, programs: bool) -> list[str]:
    """Names of the modules of ``models`` with Triton programs, or of those without."""
    files = sorted((ROOT / "models").rglob("*.py"))
    # the hook takes a name with all names below it, so that packages are not listed
    leaves = (file for file in files if file.stem != "__init__" and has_programs(file) is programs)
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in leaves]


if os.environ.get("TEST_TYPES"):
    if "models" in sys.modules:
        raise RuntimeError("models was imported before the hook that checks its annotations")
    install_import_hook(modules(programs=False), TYPECHECKER)
