"""The step and its adjoint, compiled by numba for CPUs."""
