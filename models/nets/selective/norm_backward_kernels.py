"""The Triton programs of the backward pass of :mod:`models.nets.selective.norm_gpu`.

Of a slot with values z at P pixels, a = ReLU(scale z + offset), scale = gain / std and
u = (z - mean) / std. With g = grad where scale z + offset > 0, else 0, the gradients are

    d bias = sum g,   d gain = sum g u,
    dz = scale (g - d bias / P - u d gain / P) in training, scale g in evaluation.

A slot of shift (sx, sy) = (ix + fx, iy + fy) reads a plane x at the four neighbours a, b (upper
row) and c, d (lower row) of (w + sx, h + sy), clamped to the map:

    z = (1 - fy) ((1 - fx) a + fx b) + fy ((1 - fx) c + fx d),
    dz/dsx = (1 - fy) (b - a) + fy (d - c),   dz/dsy = (1 - fx) (c - a) + fx (d - b),
    dx[q] = sum over slots and pixels p of dz[p] wy(p, q) wx(p, q),
    wx = max(0, 1 - |clamp(w_p + sx) - w_q|), wy likewise.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.nets.selective.norm_kernels import (
    COUNTS,
    MEAN,
    OFFSET,
    PLANE,
    PLANE_OF,
    RSTD,
    SCALE,
    SLOT,
    moved_tile,
    shift_of,
    taps,
)


@triton.jit
def reduce(
    x, planes, table, source, shift, coefficients, grad, moved, partial, P, CA, ROWS, SPLITS,
    ALIGN: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """Sums over a part of the pixels for the gradients of bias and gain of the batch norm.

    ``moved`` [m, P] takes g, the gradient before the ReLU, of the re-used slots.
    """
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    # Slots that read their own channel: sum g and sum g (x - mean) / std.
    for begin in range(0, C, BC):
        c = begin + tl.arange(0, BC)
        inside = c < C
        scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)[None, :]
        offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)[None, :]
        sums = tl.zeros([BP, BC], tl.float32)
        products = tl.zeros([BP, BC], tl.float32)
        mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)[None, :]
        for start in range(first, end, BP):
            p = start + tl.arange(0, BP)
            mask = (p < end)[:, None] & inside[None, :]
            at = p.to(tl.int64)[:, None] * C + c[None, :]
            value = tl.load(x + at, mask, 0.0).to(tl.float32)
            g = tl.load(grad + at, mask, 0.0).to(tl.float32)
            # g = 1[scale x + offset > 0] grad
            g = tl.where(value * scale + offset > 0, g, 0.0)
            sums += g
            products += g * (value - mean)
        rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
        own = inside & (tl.load(source + c, inside, 0) < 0)
        row = partial + tl.program_id(0) * C + c
        tl.store(row, tl.sum(sums, 0), own)
        tl.store(row + SPLITS * C, tl.sum(products, 0) * rstd, own)
    # Re-used slots: the same sums, z interpolated anew from the planes.
    count = tl.load(table + COUNTS * C)
    for j in range(0, count, BM):
        sums = tl.zeros([BM, BP], tl.float32)
        products = tl.zeros([BM, BP], tl.float32)
        rows = j + tl.arange(0, BM)
        real = rows < count
        slot = tl.load(table + SLOT * C + rows, real, 0)
        scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)
        offset = tl.load(coefficients + OFFSET * C + slot, real, 0.0)
        mean = tl.load(coefficients + MEAN * C + slot, real, 0.0)
        for start in range(first, end, BP):
            p = start + tl.arange(0, BP)
            here = p < end
            _, _, mask, z = moved_tile(planes, table, shift, P, C, p, here, j, count, BM, H, W)
            at = grad + p.to(tl.int64)[:, None] * C + slot[None, :]
            g = tl.trans(tl.load(at, here[:, None] & real[None, :], 0.0)).to(tl.float32)
            # g = 1[scale z + offset > 0] grad
            g = tl.where(z * scale[:, None] + offset[:, None] > 0, g, 0.0)
            keep = moved + rows.to(tl.int64)[:, None] * P + p[None, :]
            tl.store(keep, g.to(moved.dtype.element_ty), mask)
            sums += g
            products += tl.where(mask, g * (z - mean[:, None]), 0.0)
        rstd = tl.load(coefficients + RSTD * C + slot, real, 0.0)
        row = partial + tl.program_id(0) * C + slot
        tl.store(row, tl.sum(sums, 1), real)
        tl.store(row + SPLITS * C, tl.sum(products, 1) * rstd, real)


@triton.jit
def finish_reduce(partial, sums, C, SPLITS, BS: tl.constexpr, BC: tl.constexpr):
    """Sums [2, C] over the parts s: d bias = sum_s sum g and d gain = sum_s sum g u."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < C
    s = tl.arange(0, BS)
    mask = (s < SPLITS)[:, None] & inside[None, :]
    at = partial + s[:, None] * C + c[None, :]
    tl.store(sums + c, tl.sum(tl.load(at, mask, 0.0), 0), inside)
    tl.store(sums + C + c, tl.sum(tl.load(at + SPLITS * C, mask, 0.0), 0), inside)


@triton.jit
def reading_pixel(index, s, size: tl.constexpr, k):
    """The k-th pixel i that may read pixel ``index`` at shift s along an axis, and its weight.

    The weight is max(0, 1 - |clamp(i + s) - index|), 0 for an i beyond the map.
    """
    base = tl.floor(index - s).to(tl.int32)
    i = tl.where(s >= 0, base + k, base + 1 - k)
    position = tl.minimum(tl.maximum(i + s, 0.0), size - 1.0)
    weight = tl.maximum(1.0 - tl.abs(position - index), 0.0)
    return i, tl.where((i >= 0) & (i < size), weight, 0.0)


@triton.jit
def moved_backward(  # noqa: C901  # one program
    planes, table, shift, coefficients, sums, moved, scratch, plane_grad, shift_parts, P, C,
    TRAINING: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Gradients of the planes and of the shifts, from that of the re-used slots, of one image.

    ``plane_grad`` [k, P] takes the first, ``shift_parts`` [n, C, 2] the second. A pixel of a plane
    gathers from the slots that read it, through ``scratch``, one image a program: a gather needs
    no atomics.
    """
    image, size = tl.program_id(0), H * W
    lane = tl.program_id(1)
    kept = scratch + (image * tl.num_programs(1) + lane) * size
    count = tl.load(table + COUNTS * C)
    for plane in range(lane, tl.load(table + COUNTS * C + 1), tl.num_programs(1)):
        base = tl.cast(plane, tl.int64) * P + image * size
        for start in range(0, size, BP):
            q = start + tl.arange(0, BP)
            tl.store(plane_grad + base + q, tl.zeros([BP], tl.float32), q < size)
        for j in range(count):
            if tl.load(table + PLANE * C + j) == plane:
                slot = tl.load(table + SLOT * C + j)
                ix, iy, fx, fy = shift_of(shift, slot, j < count, H, W)
                mean = tl.load(coefficients + MEAN * C + slot)
                rstd = tl.load(coefficients + RSTD * C + slot)
                scale = tl.load(coefficients + SCALE * C + slot)
                d_x = tl.zeros([BP], tl.float32)
                d_y = tl.zeros([BP], tl.float32)
                for start in range(0, size, BP):
                    q = start + tl.arange(0, BP)
                    real = q < size
                    a, b, c, d = taps(planes + base, q // W, q % W, ix, iy, real, H, W)
                    upper = a + (b - a) * fx
                    lower = c + (d - c) * fx
                    g = tl.load(moved + tl.cast(j, tl.int64) * P + image * size + q, real, 0.0)
                    g = g.to(tl.float32)
                    # dz = scale (g - d bias / P - u d gain / P); here z is u, weight d gain / P
                    if TRAINING:
                        z = (upper + (lower - upper) * fy - mean) * rstd
                        bias, weight = tl.load(sums + slot) / P, tl.load(sums + C + slot) / P
                        g = g - bias - z * weight
                    g = tl.where(real, g * scale, 0.0)
                    # d sx = sum dz ((1 - fy) (b - a) + fy (d - c)), d sy = sum dz (lower - upper)
                    d_x += g * ((b - a) * (1 - fy) + (d - c) * fy)
                    d_y += g * (lower - upper)
                    tl.store(kept + q, g, real)
                part = shift_parts + (image * C + slot) * 2
                tl.store(part, tl.sum(d_x, 0))
                tl.store(part + 1, tl.sum(d_y, 0))
                tl.debug_barrier()
                # dx[q] += sum_p dz[p] wy(p, q) wx(p, q), over the few pixels p that may read q
                sx, sy = ix + fx, iy + fy
                for start in range(0, size, BP):
                    q = start + tl.arange(0, BP)
                    real = q < size
                    h, w = q // W, q % W
                    total = tl.load(plane_grad + base + q, real, 0.0)
                    for ky in range(2 + tl.floor(tl.abs(sy)).to(tl.int32)):
                        i, wy = reading_pixel(h, sy, H, ky)
                        for kx in range(2 + tl.floor(tl.abs(sx)).to(tl.int32)):
                            k, wx = reading_pixel(w, sx, W, kx)
                            share = wy * wx
                            total += share * tl.load(kept + i * W + k, real & (share > 0), 0.0)
                    tl.store(plane_grad + base + q, total, real)
                tl.debug_barrier()


@triton.jit
def own_backward(
    x, grad, table, source, coefficients, sums, plane_grad, out, P, CA, ALIGN: tl.constexpr,
    TRAINING: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input: of the slots that read their own channel, plus that of the planes."""
    C = CA * ALIGN
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    here = p < P
    mask = here[:, None] & inside[None, :]
    at = p.to(tl.int64)[:, None] * C + c[None, :]
    scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)[None, :]
    offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)[None, :]
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    g = tl.load(grad + at, mask, 0.0).to(tl.float32)
    # dx = scale (g - d bias / P - (x - mean) d gain / (P std)); ``level``, ``slope`` the last two
    g = tl.where(value * scale + offset > 0, g, 0.0)
    if TRAINING:
        mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)
        rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
        level = tl.load(sums + c, inside, 0.0) / P
        slope = tl.load(sums + C + c, inside, 0.0) / P * rstd
        g = g - level[None, :] - (value - mean[None, :]) * slope[None, :]
    own = tl.load(source + c, inside, 0) < 0
    g = tl.where(own[None, :], g * scale, 0.0)
    # plus what the re-used slots that read this channel pass on, already summed by plane
    plane = tl.load(table + PLANE_OF * C + c, inside, -1)
    read = plane.to(tl.int64)[None, :] * P + p[:, None]
    g += tl.load(plane_grad + read, here[:, None] & (plane >= 0)[None, :], 0.0)
    tl.store(out + at, g.to(out.dtype.element_ty), mask)
