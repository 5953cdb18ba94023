"""Functions compiled by numba, kept on disk between processes."""

from typing import Any

from numba import njit


def compile_cached(function: Any, **options: Any) -> Any:
    """Compile on the first call; later processes find the machine code on disk.

    Where no folder for the code can be written (a read-only installation without a home) every
    process compiles anew.

    Args:
        function: in the Python that numba reads; what it calls is compiled into it.
        options: of ``numba.njit``, beside those that all loops share.
    """
    options = {"nogil": True, "error_model": "numpy"} | options
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba: no locator available
        return njit(**options)(function)
