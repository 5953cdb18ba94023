"""Functions compiled by numba, kept on disk between processes."""

from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numba import njit
from numba.core.compiler_lock import global_compiler_lock

PATIENCE_S = 300.0  # with a process that compiles, and may be frozen


def compile_cached(function: Any, **options: Any) -> Any:
    """Compile on the first call; later processes find the machine code on disk.

    One process at a time compiles a function: the others wait for it. Where no folder
    for the code can be written (a read-only installation without a home) every process compiles
    anew.

    Args:
        function: in the Python that numba reads; what it calls is compiled into it.
        options: of ``numba.njit``, beside those that all loops share.
    """
    options = {"nogil": True, "error_model": "numpy"} | options
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # numba: no locator available
        return njit(**options)(function)
    folder = Path(compiled._cache.cache_path)  # numba names it nowhere else
    lock = folder / f"{function.__name__}.lock"
    compiled.compile = partial(_compile_alone, compiled.compile, lock)
    return compiled


def _compile_alone(compile_for: Any, lock: Path, types: Any) -> Any:
    """Compile for the types of some arguments, or load what was compiled for them.

    numba numbers the files of a function by what it finds in the folder. Two processes that
    compile it for different types at once could take the same number, and a later one would run
    the code of the wrong types.
    """
    with global_compiler_lock, ExitStack() as held:
        with suppress(Timeout):
            held.enter_context(_lock(lock).acquire(timeout=PATIENCE_S))
        return compile_for(types)


@lru_cache
def _lock(path: Path) -> FileLock:
    """Of all threads of this process; numba's own lock lets one of them in, also repeatedly."""
    return FileLock(path, thread_local=False)
