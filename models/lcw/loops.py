"""The elementwise part of :mod:`models.lcw.pairs` on a CPU: one compiled pass through a block.

The flags leave NaN and infinity alone, so that a training which diverges is seen to do so; they let
the compiler take the processor's estimate of a reciprocal root, with one step of Newton's.
Coefficients are tuples: their number is then known to the compiler, which unrolls the polynomials.
"""

from typing import Any, no_type_check

import numpy as np

from models.core.compiled import compile_cached

FLAGS = {"reassoc", "contract", "arcp", "afn", "nsz"}


@no_type_check
def _fold(  # noqa: C901  # one pass
    block: np.ndarray,
    half_a: np.ndarray,
    half_b: np.ndarray,
    value: tuple[float, ...],
    slope: tuple[float, ...],
    total: np.ndarray,
    factor: float,
    first: int,
    last: int,
    shift: int,
    slopes: bool,  # numba knows no keywords here
) -> float:
    """Sum of phi over some columns of a block, in float64; products become weighted slopes.

    Args:
        block: [n, m], a_i . b_j; becomes factor V where slopes are wanted.
        half_a: [n], (1 + |a|^2) / 2.
        half_b: [m], likewise.
        value: coefficients of Q in 2 v^2 - 1, the highest power first.
        slope: coefficients of R, likewise.
        total: [n], to which the weighted slopes of each row are added.
        factor: weight of the slopes.
        first: column.
        last: column, not included.
        shift: row i and column i + shift are the same point, whose kernel is 1 and slope 0.
        slopes: whether they are wanted; the value alone is cheaper.
    """
    value_sum, one, columns = 0.0, half_a.dtype.type(1), last - first
    halves = half_b[first:last]  # indices from 0 are known not to wrap, so the loops are vectors'
    for i in range(block.shape[0]):
        row, half, itself = block[i, first:last], half_a[i], i + shift - first
        for j in range(columns):
            q = half + halves[j] - row[j]
            row[j] = one if q < one else q  # noqa: FURB136  # max would hide a NaN
        if 0 <= itself < columns:
            row[itself] = one
        for j in range(columns):
            v = one / np.sqrt(row[j])
            y = v * v + v * v - one
            polynomial = value[0]
            for k in range(1, len(value)):
                polynomial = polynomial * y + value[k]
            value_sum += v * polynomial
            if slopes:
                polynomial = slope[0]
                for k in range(1, len(slope)):
                    polynomial = polynomial * y + slope[k]
                row[j] = factor * v * v * v * polynomial
        if slopes:
            if 0 <= itself < columns:
                row[itself] = 0  # exactly: leave no rounding of it
            weight = half_a.dtype.type(0)
            for j in range(columns):
                weight += row[j]
            total[i] += weight
    return value_sum


@no_type_check
def _prepare(
    points: np.ndarray,
    centre: np.ndarray,
    scale: float,
    p: np.ndarray,
    half: np.ndarray,
) -> None:
    """Writes p_i = scale (point_i - centre) and half_i = (1 + |p_i|^2) / 2.

    Args:
        points: [n, D].
        centre: [D].
        scale: of the same format.
        p: [n, D], written.
        half: [n], written.
    """
    one = half.dtype.type(1)
    for i in range(points.shape[0]):
        row, to, square = points[i], p[i], one - one
        for k in range(points.shape[1]):
            to[k] = scale * (row[k] - centre[k])
            square += to[k] * to[k]
        half[i] = (one + square) / (one + one)


@no_type_check
def _finish_gradient(p: np.ndarray, near: np.ndarray, total: np.ndarray, scale: float) -> None:
    """Makes ``near``, [n, D], the gradient: scale (near_i - total_i p_i)."""
    for i in range(p.shape[0]):
        row, to, weight = p[i], near[i], total[i]
        for k in range(p.shape[1]):
            to[k] = scale * (to[k] - weight * row[k])


fold: Any = compile_cached(_fold, fastmath=FLAGS)
prepare: Any = compile_cached(_prepare, fastmath=FLAGS)
finish_gradient: Any = compile_cached(_finish_gradient, fastmath=FLAGS)
