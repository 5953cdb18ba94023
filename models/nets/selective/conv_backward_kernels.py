"""The Triton programs of the backward pass of :mod:`models.nets.selective.conv_gpu`.

The output is y[p, o] = sum_c w[o, c] a[p, c] with a = ReLU(scale z + offset), scale = gain / std.
With dy its gradient and 1[p, c] = 1 where scale z + offset > 0, else 0, two products give all sums
over pixels:

    masked[o, c] = sum_p dy[p, o] 1[p, c] z[p, c],   masks[o, c] = sum_p dy[p, o] 1[p, c],
    dw[o, c] = sum_p dy a = scale masked + offset masks,
    g[p, c] = 1[p, c] sum_o w[o, c] dy[p, o],
    d bias = sum_p g = sum_o w masks,   sum_p g z = sum_o w masked,
    d gain = (sum_p g z - mean sum_p g) / std,
    dz = scale (g - d bias / P - (z - mean) d gain / (P std)) in training, scale g in evaluation.

Shifts and planes get their gradients from dz as in
:mod:`models.nets.selective.norm_backward_kernels`. ``moved`` [m, P] is g of the re-used slots, row
by row as in ``z``.
"""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.nets.selective.conv_kernels import SIZES, slots_of
from models.nets.selective.norm_backward_kernels import reading_pixel
from models.nets.selective.norm_kernels import (
    COUNTS,
    FIRST,
    MEAN,
    OFFSET,
    PLANE_OF,
    RSTD,
    SCALE,
    SLOT,
    shift_of,
    taps,
)


@triton.jit
def _passes(value, scale, offset, dtype):
    """1[scale z + offset > 0] as a mask; 1 z and 1 in the format of the products."""
    passes = value.to(tl.float32) * scale + offset > 0
    return passes, tl.where(passes, value, 0.0).to(dtype), passes.to(dtype)


@triton.jit(do_not_specialize=SIZES)
def reduce_own(
    x, grad, source, coefficients, partial, P, CA, ROWS, ALIGN: tl.constexpr, OUT: tl.constexpr,
    BO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """``masked`` and ``masks`` by parts [splits, 2, OUT, C], of slots that read their own channel.

    All that the backward pass sums over pixels follows from these two (:func:`finish_products`).
    """
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    o = tl.arange(0, BO)
    wanted = o < OUT
    scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)[None, :]
    offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)[None, :]
    masked = tl.zeros([BO, BC], tl.float32)
    masks = tl.zeros([BO, BC], tl.float32)
    for start in range(first, end, BP):
        p = start + tl.arange(0, BP)
        here = p < end
        at = p.to(tl.int64)[:, None]
        value = tl.load(x + at * C + c[None, :], here[:, None] & inside[None, :], 0.0)
        dy = tl.load(grad + at * OUT + o[None, :], here[:, None] & wanted[None, :], 0.0)
        # masked += dy^T (1 x), masks += dy^T 1
        _, kept, ones = _passes(value, scale, offset, dy.dtype)
        dy = tl.trans(dy)
        masked = tl.dot(dy, kept, masked, input_precision="ieee")
        masks = tl.dot(dy, ones, masks, input_precision="ieee")
    own = inside & (tl.load(source + c, inside, 0) < 0)
    there = partial + (tl.program_id(0) * 2 * OUT + o)[:, None] * C + c[None, :]
    tl.store(there, masked, wanted[:, None] & own[None, :])
    tl.store(there + OUT * C, masks, wanted[:, None] & own[None, :])


@triton.jit(do_not_specialize=SIZES)
def reduce_moved(
    z, grad, weight, table, coefficients, moved, partial, P, C, ROWS, OUT: tl.constexpr,
    BO: tl.constexpr, BP: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """The same products of the re-used slots; ``moved`` takes their g, the gradient before ReLU."""
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    o = tl.arange(0, BO)
    wanted = o < OUT
    count = tl.load(table + COUNTS * C)
    for j in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        rows = j + tl.arange(0, BM)
        slot, real, scale, offset = slots_of(table, coefficients, rows, count, C)
        filled = real[:, None] & wanted[None, :]
        w = tl.load(weight + slot[:, None] * OUT + o[None, :], filled, 0.0)
        masked = tl.zeros([BM, BO], tl.float32)
        masks = tl.zeros([BM, BO], tl.float32)
        for start in range(first, end, BP):
            p = start + tl.arange(0, BP)
            here = p < end
            mask = real[:, None] & here[None, :]
            row = rows.to(tl.int64)[:, None] * P + p[None, :]
            value = tl.load(z + row, mask, 0.0)
            at = grad + p.to(tl.int64)[:, None] * OUT + o[None, :]
            dy = tl.load(at, here[:, None] & wanted[None, :], 0.0)
            # masked += (1 z)^T dy, masks += 1^T dy, g = 1 (w dy^T)
            passes, kept, ones = _passes(value, scale[:, None], offset[:, None], dy.dtype)
            masked = tl.dot(kept, dy, masked, input_precision="ieee")
            masks = tl.dot(ones, dy, masks, input_precision="ieee")
            g = tl.dot(w, tl.trans(dy), input_precision="ieee")
            tl.store(moved + row, tl.where(passes, g, 0.0).to(moved.dtype.element_ty), mask)
        there = partial + (tl.program_id(0) * 2 * OUT + o)[None, :] * C + slot[:, None]
        tl.store(there, masked, filled)
        tl.store(there + OUT * C, masks, filled)


@triton.jit(do_not_specialize=SIZES)
def finish_products(
    products, weight, coefficients, sums, gradient, C, OUT: tl.constexpr, BO: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """Sums [2, C]: gradients of bias and gain of the batch norm; that [OUT, C] of the weights."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    o = tl.arange(0, BO)
    inside = c < C
    mask = (o < OUT)[:, None] & inside[None, :]
    at = o[:, None] * C + c[None, :]
    masked = tl.load(products + at, mask, 0.0)
    masks = tl.load(products + OUT * C + at, mask, 0.0)
    w = tl.load(weight + c[None, :] * OUT + o[:, None], mask, 0.0).to(tl.float32)
    # sum_p g = sum_o w masks, sum_p g z = sum_o w masked
    total, with_z = tl.sum(w * masks, 0), tl.sum(w * masked, 0)
    mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)
    rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
    # d bias = sum_p g, d gain = (sum_p g z - mean sum_p g) / std
    tl.store(sums + c, total, inside)
    tl.store(sums + C + c, (with_z - mean * total) * rstd, inside)
    scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)
    offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)
    # dw = scale masked + offset masks
    tl.store(gradient + at, scale[None, :] * masked + offset[None, :] * masks, mask)


@triton.jit
def _gradient(moved, z, at, mask, level, slope):
    """G - level - slope z: dz without its factor ``scale`` (:func:`_norm_of`)."""
    g = tl.load(moved + at, mask, 0.0).to(tl.float32) - level
    return g - slope * tl.load(z + at, mask, 0.0).to(tl.float32)


@triton.jit
def _norm_of(coefficients, sums, slot, real, P, C, TRAINING: tl.constexpr):
    """Scale, level and slope of dz = scale (g - level - slope z).

    slope = d gain / (P std), level = d bias / P - slope mean; both 0 in evaluation.
    """
    scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)
    level, slope = scale * 0.0, scale * 0.0
    if TRAINING:
        rstd = tl.load(coefficients + RSTD * C + slot, real, 0.0)
        slope = tl.load(sums + C + slot, real, 0.0) / P * rstd
        mean = tl.load(coefficients + MEAN * C + slot, real, 0.0)
        level = tl.load(sums + slot, real, 0.0) / P - slope * mean
    return scale, level, slope


@triton.jit(do_not_specialize=SIZES)
def planes_backward(
    planes, z, table, shift, coefficients, sums, moved, plane_grad, shift_parts, P, C,
    TRAINING: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Gradients of planes and shifts, from that of the re-used slots, at some pixels of an image.

    ``plane_grad`` [k, P] takes the first, ``shift_parts`` [C, 2, n tiles] the second. A pixel of a
    plane gathers from the pixels of slots that read it.
    """
    image, tile, size = tl.program_id(0), tl.program_id(1), H * W
    parts = tl.num_programs(0) * tl.num_programs(1)
    q = tile * BP + tl.arange(0, BP)
    h, w = (q // W)[None, :], (q % W)[None, :]
    count, read = tl.load(table + COUNTS * C), tl.load(table + COUNTS * C + 1)
    for plane in range(tl.program_id(2), read, tl.num_programs(2)):
        base = tl.cast(plane, tl.int64) * P + image * size
        end = tl.load(table + FIRST * C + plane + 1, plane + 1 < read, count)
        total = tl.zeros([BP], tl.float32)
        for j in range(tl.load(table + FIRST * C + plane), end, BM):
            rows = j + tl.arange(0, BM)
            real = rows < end
            slot = tl.load(table + SLOT * C + rows, real, 0)
            ix, iy, fx, fy = shift_of(shift, slot, real, H, W)
            sx, sy = (ix + fx)[:, None], (iy + fy)[:, None]
            fx, fy = fx[:, None], fy[:, None]
            scale, level, slope = _norm_of(coefficients, sums, slot, real, P, C, TRAINING)
            level, slope = level[:, None], slope[:, None]
            mask = real[:, None] & (q < size)[None, :]
            row = (rows.to(tl.int64) * P + image * size)[:, None]
            g = _gradient(moved, z, row + q[None, :], mask, level, slope)
            g = tl.where(mask, g * scale[:, None], 0.0)
            a, b, c, d = taps(planes + base, h, w, ix[:, None], iy[:, None], mask, H, W)
            # d sx = sum dz ((1 - fy) (b - a) + fy (d - c))
            # d sy = sum dz ((1 - fx) (c - a) + fx (d - b))
            part = shift_parts + slot * 2 * parts + image * tl.num_programs(1) + tile
            tl.store(part, tl.sum(g * ((b - a) * (1 - fy) + (d - c) * fy), 1), real)
            tl.store(part + parts, tl.sum(g * ((c - a) * (1 - fx) + (d - b) * fx), 1), real)
            # dx[q] = sum over slots and pixels p of dz[p] wy(p, q) wx(p, q)
            gathered = tl.zeros([BM, BP], tl.float32)
            steps_x = 2 + tl.max(tl.floor(tl.abs(sx)).to(tl.int32))
            for ky in range(2 + tl.max(tl.floor(tl.abs(sy)).to(tl.int32))):
                i, wy = reading_pixel(h, sy, H, ky)
                for kx in range(steps_x):
                    k, wx = reading_pixel(w, sx, W, kx)
                    share = tl.where(mask, wy * wx, 0.0)
                    near = row + i * W + k
                    gathered += share * _gradient(moved, z, near, share > 0, level, slope)
            total += tl.sum(gathered * scale[:, None], 0)
        tl.store(plane_grad + base + q, total, q < size)


@triton.jit(do_not_specialize=SIZES)
def own_backward(
    x, grad, weight, table, source, coefficients, sums, plane_grad, out, P, CA, ALIGN: tl.constexpr,
    TRAINING: tl.constexpr, OUT: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input: of the slots that read their own channel, plus that of the planes."""
    C = CA * ALIGN
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    o = tl.arange(0, BO)
    wanted = o < OUT
    here = p < P
    at = p.to(tl.int64)[:, None]
    dy = tl.load(grad + at * OUT + o[None, :], here[:, None] & wanted[None, :], 0.0)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = c < C
        mask = here[:, None] & inside[None, :]
        scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)[None, :]
        offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)[None, :]
        value = tl.load(x + at * C + c[None, :], mask, 0.0).to(tl.float32)
        w = tl.load(weight + c[:, None] * OUT + o[None, :], inside[:, None] & wanted[None, :], 0.0)
        # g = 1 (dy w), dx = scale (g - level - slope x)
        g = tl.dot(dy, tl.trans(w), input_precision="ieee")
        g = tl.where(value * scale + offset > 0, g, 0.0)
        if TRAINING:
            mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)
            rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
            slope = tl.load(sums + C + c, inside, 0.0) / P * rstd
            level = tl.load(sums + c, inside, 0.0) / P - slope * mean
            g = g - level[None, :] - value * slope[None, :]
        own = tl.load(source + c, inside, 0) < 0
        g = tl.where(own[None, :], g * scale, 0.0)
        # plus the planes' gradient: the planes of these channels are consecutive
        plane = tl.load(table + PLANE_OF * C + c, inside, -1)
        last = tl.max(plane, 0)
        for k in range(tl.min(tl.where(plane >= 0, plane, last + 1), 0), last + 1):
            here_too = tl.load(plane_grad + tl.cast(k, tl.int64) * P + p, here, 0.0)
            g += tl.where((plane == k)[None, :], here_too[:, None], 0.0)
        tl.store(out + at * C + c[None, :], g.to(out.dtype.element_ty), mask)
