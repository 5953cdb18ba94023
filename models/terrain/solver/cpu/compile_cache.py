"""Compiled entry points, kept on disk between processes."""

import hashlib
from pathlib import Path
from types import FunctionType
from typing import Any

from models.core.compiled import compile_cached
from models.terrain.solver.cpu.tile import MATH

SOURCES = ("pointers", "tile", "arrays", "step", "loop", "adjoint")


def _digest() -> str:
    """Of all compiled sources: numba's cache looks only at the file of the function itself."""
    found = hashlib.sha256()
    for name in SOURCES:
        found.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return found.hexdigest()[:12]


DIGEST = _digest()


def cached(function: FunctionType, variant: str = "", **options: Any) -> Any:
    """:func:`models.core.compiled.compile_cached`, anew where any of the sources changed.

    Args:
        function: the entry point; what it calls is compiled into it.
        variant: tells apart two ways to compile one function.
        options: of ``numba.njit``.
    """
    name = f"{function.__name__}{variant}_{DIGEST}"
    twin = FunctionType(function.__code__, function.__globals__, name)
    twin.__qualname__, twin.__module__ = name, function.__module__
    return compile_cached(twin, fastmath=MATH, **options)
