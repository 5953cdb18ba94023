"""Compiled entry points, kept on disk between processes."""

import hashlib
from pathlib import Path
from types import FunctionType
from typing import Any

from models.core.compiled import compile_cached
from models.terrain.solver.cpu.tile import MATH

SOURCES = (
    "pointers",
    "tile",
    "arrays",
    "subgrid",
    "soil",
    "step",
    "loop",
    "adjoint",
    "subgrid_adjoint",
)


def _digest() -> str:
    """Hash of all compiled sources: numba's cache checks only the file of the function itself."""
    sha = hashlib.sha256()
    for name in SOURCES:
        sha.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return sha.hexdigest()[:12]


DIGEST = _digest()


def cached(function: FunctionType, variant: str = "", **options: Any) -> Any:
    """:func:`models.core.compiled.compile_cached`, compiled again when any source changed.

    Args:
        function: the entry point; the functions it calls are compiled into it.
        variant: suffix that distinguishes two compilations of one function.
        options: of ``numba.njit``.
    """
    name = f"{function.__name__}{variant}_{DIGEST}"
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__qualname__, copy.__module__ = name, function.__module__
    return compile_cached(copy, fastmath=MATH, **options)
