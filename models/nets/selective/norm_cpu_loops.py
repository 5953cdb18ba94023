"""The loops of :mod:`models.nets.selective.norm_cpu`, compiled by numba.

All data of a slot fits a cache, so its statistics and its result cost one pass through memory.
Maps are flat: a shift reads whole planes at an offset, and values that cross the border of a row
are corrected afterwards. Slices begin where they are read, so that loops over them are vectorised.

The equations, of one slot with shift (ix + fx, iy + fy) that reads the plane x of height H:

    r[h, w] = x[h + iy, w] + fy (x[h + iy + 1, w] - x[h + iy, w])          rows, clamped to the map
    d[h, w] = r[h, w + ix + 1] - r[h, w + ix],   0 where both are the border
    z[h, w] = r[h, w + ix] + fx d[h, w]                                    columns, clamped likewise
    a = ReLU(scale z + offset),   scale = gain / std,   offset = bias - mean scale

Backward, with g = grad where scale z + offset > 0, else 0, and n values of the slot:

    d bias = sum g,   d gain = sum g (z - mean) / std
    level = sum g / n,   slope = sum g (z - mean) / (n std^2),   both 0 in evaluation
    dz = scale (g - level - (z - mean) slope)
    d sx = sum dz d,   dr = transpose of the columns' interpolation applied to dz
    d sy = sum dr (x[h + iy + 1, w] - x[h + iy, w]),   dx = transpose of the rows' applied to dr
"""

# ruff: noqa: ANN001, ANN202, ANN201  # compiled by numba, which infers types
from functools import partial
from typing import no_type_check

import numpy as np

from models.core.compiled import compile_cached

MATH = {"contract", "reassoc", "nsz", "arcp"}  # infinities and NaN stay what they are
_compiled = partial(compile_cached, fastmath=MATH)


@_compiled
@no_type_check
def _whole(shift, size):
    """Whole pixels of a shift, no more than the size of the map; beyond it all is border."""
    return 0 if np.isnan(shift) else int(np.floor(min(max(shift, -size), size)))


@_compiled
@no_type_check
def _between(start, size):
    """The k for which start + k and start + k + 1 both lie on an axis of ``size``: from, to."""
    first = min(max(-start, 0), size)
    return first, max(first, min(size, size - 1 - start))


@_compiled
@no_type_check
def _mix(a, b, share, out):
    """``out`` = a + share (b - a)."""
    for k in range(len(out)):
        out[k] = a[k] + share * (b[k] - a[k])


@_compiled
@no_type_check
def _blend(plane, width, iy, fy, out):
    """``out`` = r: rows iy + fy further down."""
    height = len(plane) // width
    first, end = _between(iy, height)
    for h in range(first):
        out[h * width : (h + 1) * width] = plane[:width]
    if end > first:
        start = (first + iy) * width
        _mix(plane[start:], plane[start + width :], fy, out[first * width : end * width])
    for h in range(end, height):
        out[h * width : (h + 1) * width] = plane[(height - 1) * width :]


@_compiled
@no_type_check
def _differ(rows, width, ix, gap):
    """``gap`` = d: difference of columns ix + 1 and ix further right; 0 at the border."""
    lo, hi = max(0, -ix), min(len(rows), len(rows) - 1 - ix)
    if hi > lo:
        inner, a, b = gap[lo:hi], rows[lo + ix :], rows[lo + ix + 1 :]
        for k in range(len(inner)):
            inner[k] = b[k] - a[k]
    first, end = _between(ix, width)
    for h in range(0, len(rows), width):
        row = gap[h : h + width]
        for w in range(first):
            row[w] = 0
        for w in range(end, width):
            row[w] = 0


@_compiled
@no_type_check
def _slide(rows, gap, width, ix, fx, out):
    """``out`` = z = r[h, w + ix] + fx d: columns ix + fx further right."""
    lo, hi = max(0, -ix), min(len(rows), len(rows) - 1 - ix)
    if hi > lo:
        inner, a, b = out[lo:hi], rows[lo + ix :], gap[lo:]
        for k in range(len(inner)):
            inner[k] = a[k] + fx * b[k]
    first, end = _between(ix, width)
    for h in range(0, len(rows), width):
        row, left, right = out[h : h + width], rows[h], rows[h + width - 1]
        for w in range(first):
            row[w] = left
        for w in range(end, width):
            row[w] = right


@_compiled
@no_type_check
def _move(plane, width, shift, rows, gap, out):
    """``out`` = ``plane`` moved by a shift in pixels; ``rows`` and ``gap`` as the parts need."""
    ix, iy = _whole(shift[0], width), _whole(shift[1], len(plane) // width)
    gap[0], gap[1] = min(max(shift[0] - ix, 0), 1), min(max(shift[1] - iy, 0), 1)
    fx, fy = gap[0], gap[1]  # of the type of the map, or the loops get wider numbers
    _blend(plane, width, iy, fy, rows)
    _differ(rows, width, ix, gap)
    _slide(rows, gap, width, ix, fx, out)
    if np.isnan(shift[0] + shift[1]):  # borders too, or a training that diverges is not seen to
        out[:] = np.nan
    return ix, iy, fx, fy


@_compiled
@no_type_check
def _activate(plane, out, scale, offset):
    """``out`` = ReLU(scale plane + offset)."""
    for k in range(len(out)):
        value = plane[k] * scale + offset
        out[k] = 0 if value < 0 else value  # noqa: FURB136  # NaN stays


@_compiled
@no_type_check
def _activate_there(plane, scale, offset):
    """The same in place; a loop that may overlap itself would not become vector instructions."""
    for k in range(len(plane)):
        value = plane[k] * scale + offset
        plane[k] = 0 if value < 0 else value  # noqa: FURB136  # NaN stays


@_compiled
@no_type_check
def _statistics(x, c):
    """Mean and variance of channel c, from gaps to its first value x_0.

    mean = x_0 + sum (x - x_0) / n, n var = sum (x - x_0)^2 - (sum (x - x_0))^2 / n.
    """
    images, _, size = x.shape
    pivot, total, squares = x[0, c, 0], 0.0, 0.0
    for i in range(images):
        plane, part, square = x[i, c], pivot * 0, pivot * 0
        for k in range(size):
            gap = plane[k] - pivot
            part += gap
            square += gap * gap
        total += part
        squares += square
    count = images * size
    spread = squares - total * total / count
    return pivot + total / count, (0.0 if spread < 0 else spread) / count  # max would hide a NaN


@_compiled
@no_type_check
def forward(
    x, a, width, source, shift, weight, bias, mean, var, eps, training, first, end
):  # fmt: skip
    """Slots from ``first`` to ``end``: activations, and statistics of the batch in training."""
    images, _, size = x.shape
    rows, gap, affine = np.empty(size, x.dtype), np.empty(size + 2, x.dtype), np.empty(2, x.dtype)
    for c in range(first, end):
        root = source[c]
        if root >= 0:
            for i in range(images):
                _move(x[i, root], width, shift[c], rows, gap, a[i, c])
        if training:
            mean[c], var[c] = _statistics(a if root >= 0 else x, c)
        # scale = gain / sqrt(var + eps), offset = bias - mean scale
        affine[0] = weight[c] / np.sqrt(var[c] + eps)
        affine[1] = bias[c] - mean[c] * affine[0]
        for i in range(images):
            if root >= 0:
                _activate_there(a[i, c], affine[0], affine[1])
            else:
                _activate(x[i, c], a[i, c], affine[0], affine[1])


@_compiled
@no_type_check
def gather(x, out, width, root, shift, scale, offset, first, end):
    """``out`` = ReLU(scale z + offset) of slots z that read channel ``root`` at ``shift``."""
    rows, gap = np.empty(x.shape[2], x.dtype), np.empty(x.shape[2] + 2, x.dtype)
    for i in range(x.shape[0]):
        for c in range(first, end):
            if shift[c, 0] == 0 and shift[c, 1] == 0:
                _activate(x[i, root[c]], out[i, c], scale[c], offset[c])
            else:
                _move(x[i, root[c]], width, shift[c], rows, gap, out[i, c])
                _activate_there(out[i, c], scale[c], offset[c])


@_compiled
@no_type_check
def _slope(plane, grad, out, mean, scale, offset, level, slope):
    """``out`` = dz = scale (g - level - (z - mean) slope), from the gradient of the activation."""
    for k in range(len(out)):
        kept = scale * 0 if plane[k] * scale + offset <= 0 else grad[k]  # NaN stays
        out[k] = scale * (kept - level - (plane[k] - mean) * slope)


@_compiled
@no_type_check
def backward(x, grad, out, width, source, shift, table, sums, slopes, training, first, end):
    """Slots from ``first`` to ``end``: sums for all, the input's gradient for those that stay.

    ``table`` [4, c]: mean, 1 / std, scale, offset; ``sums`` [2, c]: gradients of bias and weight;
    ``slopes`` [2, c]: what the statistics take off.
    """
    images, _, size = x.shape
    rows, gap, z = np.empty(size, x.dtype), np.empty(size + 2, x.dtype), np.empty(size, x.dtype)
    for c in range(first, end):
        root, mean, scale, offset = source[c], table[0, c], table[2, c], table[3, c]
        total, product = 0.0, 0.0
        for i in range(images):
            plane, g = x[i, c], grad[i, c]
            if root >= 0:
                _move(x[i, root], width, shift[c], rows, gap, z)
                plane = z
            part, other = mean * 0, mean * 0
            # sum g and sum g (z - mean) of an image
            for k in range(len(g)):
                kept = mean * 0 if plane[k] * scale + offset <= 0 else g[k]
                part += kept
                other += kept * (plane[k] - mean)
            total += part
            product += other
        # d bias, d gain = sum g (z - mean) / std; then level and slope of dz
        sums[0, c], sums[1, c] = total, product * table[1, c]
        slopes[0, c] = training * total / (images * size)
        slopes[1, c] = training * product * table[1, c] * table[1, c] / (images * size)
        for i in range(images):
            if root >= 0:
                out[i, c, :] = 0
            else:
                _slope(
                    x[i, c], grad[i, c], out[i, c], mean, scale, offset, slopes[0, c], slopes[1, c]
                )


@_compiled
@no_type_check
def backward_moved(x, grad, out, width, slots, source, shift, table, slopes, d_shift, first, end):
    """Images from ``first`` to ``end``: what re-used slots add to the input's gradient.

    ``d_shift`` [images, c, 2] takes the gradients of the shifts.
    """
    size = x.shape[2]
    rows, gap, z = np.empty(size, x.dtype), np.empty(size + 2, x.dtype), np.empty(size, x.dtype)
    padded, across = np.zeros(size + 2, x.dtype), np.empty(size, x.dtype)
    for i in range(first, end):
        for c in slots:
            plane, plane_grad = x[i, source[c]], out[i, source[c]]
            ix, iy, fx, fy = _move(plane, width, shift[c], rows, gap, z)
            g, mean, scale, offset = padded[1:-1], table[0, c], table[2, c], table[3, c]
            _slope(z, grad[i, c], g, mean, scale, offset, slopes[0, c], slopes[1, c])
            along = mean * 0  # d sx = sum dz d
            for k in range(len(g)):
                along += g[k] * gap[k]
            _slide_backward(padded, width, ix, fx, across)
            d_shift[i, c, 0] = along
            d_shift[i, c, 1] = _blend_backward(plane, across, width, iy, fy, plane_grad)


@_compiled
@no_type_check
def _slide_backward(padded, width, ix, fx, out):
    """``out`` = dr, the transpose of :func:`_slide` applied to dz.

    ``padded`` is dz with a 0 before and after it. Inside the map dr[v] = dz[v - ix] +
    fx (dz[v - ix - 1] - dz[v - ix]); pixels clamped to the border add to it.
    """
    first, last = _between(ix, width)
    out[:] = 0
    for h in range(0, len(out), width):  # what reads the border goes there, and nowhere else
        row = padded[h + 1 : h + 1 + width]
        for w in range(first):
            out[h] += row[w]
            row[w] = 0
        for w in range(last, width):
            out[h + width - 1] += row[w]
            row[w] = 0
    start, end = max(0, ix), min(len(out), len(out) + ix + 1)
    if end > start:
        inner, a, b = out[start:end], padded[start - ix + 1 :], padded[start - ix :]
        for k in range(len(inner)):
            inner[k] += a[k] + fx * (b[k] - a[k])


@_compiled
@no_type_check
def _blend_backward(plane, grad, width, iy, fy, out):
    """Add dx, the transpose of :func:`_blend` applied to dr; gives d sy.

    Row h adds (1 - fy) dr[h] to row h + iy of ``out`` and fy dr[h] to the next; rows clamped to the
    border add to it. d sy = sum dr (x[h + iy + 1] - x[h + iy]).
    """
    height = len(plane) // width
    first, end = _between(iy, height)
    total = grad[0] * 0
    for k in range(first * width):
        out[k % width] += grad[k]
    for k in range(end * width, len(grad)):
        out[len(grad) - width + k % width] += grad[k]
    if end > first:
        start, inner = (first + iy) * width, grad[first * width : end * width]
        a, b = plane[start:], plane[start + width :]
        to_a, to_b = out[start:], out[start + width :]
        for k in range(len(inner)):
            total += inner[k] * (b[k] - a[k])
        for k in range(len(inner)):
            to_a[k] += inner[k] - fy * inner[k]
        for k in range(len(inner)):
            to_b[k] += fy * inner[k]
    return total
