"""The Triton programs of the way back through :mod:`models.nets.shifted_norm_gpu`."""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.nets.shifted_norm_kernels import (
    COUNTS,
    FIRST,
    MEAN,
    OFFSET,
    PLACE,
    PLANE_OF,
    RSTD,
    SCALE,
    beside_columns,
    columns,
    row_of,
    slots_of,
)

# rows of the partial sums, float32 [C, parts]; g is the gradient behind the ReLU
G = tl.constexpr(0)  # g
GZ = tl.constexpr(1)  # g (z - mean); the others are of re-used slots alone
GX = tl.constexpr(2)  # g dz/dshift along the width, GX + 1 along the height
DX = tl.constexpr(4)  # dz/dshift
ZX = tl.constexpr(6)  # (z - mean) dz/dshift


@triton.jit
def reduce(
    x, grad, table, source, coefficients, planes, beside, partial, P, CA, ROWS, PARTS,
    ALIGN: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums over pixels of g and of g (z - mean) of the slots that read their own channel.

    ``planes`` takes the channels that are read, ``beside`` [P, m] gradients of re-used slots.
    """
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    plane = tl.load(table + PLANE_OF * C + c, inside, -1)
    place = tl.load(table + PLACE * C + c, inside, -1)
    scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)[None, :]
    offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)[None, :]
    mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)[None, :]
    sums = tl.zeros([BP, BC], tl.float32)
    products = tl.zeros([BP, BC], tl.float32)
    for start in range(first, end, BP):
        p = start + tl.arange(0, BP)
        here = (p < end)[:, None]
        row = p.to(tl.int64)[:, None] * C
        value = tl.load(x + row + c[None, :], here & inside[None, :], 0.0)
        g = tl.load(grad + row + c[None, :], here & inside[None, :], 0.0)
        copy = planes + plane.to(tl.int64)[None, :] * P + p[:, None]
        tl.store(copy, value, here & (plane >= 0)[None, :])
        tl.store(beside + row + place[None, :], g, here & (place >= 0)[None, :])
        value = value.to(tl.float32)
        g = tl.where(value * scale + offset > 0, g.to(tl.float32), 0.0)
        sums += g
        products += g * (value - mean)
    own = inside & (tl.load(source + c, inside, 0) < 0)
    keep = partial + c * PARTS + tl.program_id(0)
    tl.store(keep + G * C * PARTS, tl.sum(sums, 0), own)
    tl.store(keep + GZ * C * PARTS, tl.sum(products, 0), own)


@triton.jit
def reduce_moved(
    planes, table, shift, coefficients, beside, kept, partial, P, CA, PARTS, RH,
    ALIGN: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """The sums of the re-used slots; ``kept`` [m, P] takes g."""
    C = CA * ALIGN
    begin, w, here = columns(P, H, W, BQ)
    top = tl.program_id(2) * RH
    count = tl.load(table + COUNTS * C)
    for first in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        j, real, slot, plane, ix, iy, fx, fy = slots_of(table, shift, first, count, C, BM, H, W)
        base, left, right = beside_columns(planes, plane, begin, w, ix, P, W)
        mask = real[:, None] & here[None, :]
        scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)[:, None]
        offset = tl.load(coefficients + OFFSET * C + slot, real, 0.0)[:, None]
        mean = tl.load(coefficients + MEAN * C + slot, real, 0.0)[:, None]
        fy = fy[:, None]
        zero = tl.zeros([BM, BQ], tl.float32)
        s_g, s_gz, gx, gy, dx, dy, zx, zy = zero, zero, zero, zero, zero, zero, zero, zero
        upper, slope = row_of(base, left, right, top, iy, fx, mask, H, W)
        for row in range(top, tl.minimum(top + RH, H)):
            lower, below = row_of(base, left, right, row + 1, iy, fx, mask, H, W)
            d_y = lower - upper
            d_x = slope + (below - slope) * fy
            z = (upper + d_y * fy).to(planes.dtype.element_ty).to(tl.float32)
            upper, slope = lower, below
            p = begin + row * W
            at = beside + p.to(tl.int64)[:, None] * C + j[None, :]
            g = tl.trans(tl.load(at, here[:, None] & real[None, :], 0.0))
            g = tl.where(z * scale + offset > 0, g, 0.0)
            tl.store(kept + j.to(tl.int64)[:, None] * P + p[None, :], g, mask)
            g = g.to(tl.float32)
            gap = tl.where(mask, z - mean, 0.0)
            s_g += g
            s_gz += g * gap
            gx += g * d_x
            gy += g * d_y
            dx += d_x
            dy += d_y
            zx += gap * d_x
            zy += gap * d_y
        part = tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)
        keep = partial + slot * PARTS + part
        tl.store(keep + G * C * PARTS, tl.sum(s_g, 1), real)
        tl.store(keep + GZ * C * PARTS, tl.sum(s_gz, 1), real)
        tl.store(keep + GX * C * PARTS, tl.sum(gx, 1), real)
        tl.store(keep + (GX + 1) * C * PARTS, tl.sum(gy, 1), real)
        tl.store(keep + DX * C * PARTS, tl.sum(dx, 1), real)
        tl.store(keep + (DX + 1) * C * PARTS, tl.sum(dy, 1), real)
        tl.store(keep + ZX * C * PARTS, tl.sum(zx, 1), real)
        tl.store(keep + (ZX + 1) * C * PARTS, tl.sum(zy, 1), real)


@triton.jit
def _total(partial, row, c, s, mask, C, PARTS):
    at = partial + (row * C + c[:, None]) * PARTS + s[None, :]
    return tl.sum(tl.load(at, mask, 0.0), 1)


@triton.jit
def finish_reduce(
    partial, source, coefficients, sums, shift_grad, P, C, OWN, MOVED, PARTS,
    TRAINING: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of the batch norm's bias and weight, ``sums`` [2, C], and of the shifts [C, 2]."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < C
    moved = inside & (tl.load(source + c, inside, -1) >= 0)
    s = tl.arange(0, BS)
    mask = (s[None, :] < tl.where(moved, MOVED, OWN)[:, None]) & inside[:, None]
    scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)
    rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
    bias = _total(partial, G, c, s, mask, C, PARTS)
    weight = _total(partial, GZ, c, s, mask, C, PARTS) * rstd
    tl.store(sums + c, bias, inside)
    tl.store(sums + C + c, weight, inside)
    mask = mask & moved[:, None]
    for axis in tl.static_range(2):
        found = _total(partial, GX + axis, c, s, mask, C, PARTS)
        if TRAINING:
            found -= bias / P * _total(partial, DX + axis, c, s, mask, C, PARTS)
            found -= weight / P * rstd * _total(partial, ZX + axis, c, s, mask, C, PARTS)
        tl.store(shift_grad + 2 * c + axis, found * scale, inside)


@triton.jit
def settle(
    planes, table, shift, coefficients, sums, kept, P, CA, RH, ALIGN: tl.constexpr,
    TRAINING: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BM: tl.constexpr,
    BQ: tl.constexpr,
):  # fmt: skip
    """From g in front of the batch norm to the gradient behind it, of the re-used slots."""
    C = CA * ALIGN
    begin, w, here = columns(P, H, W, BQ)
    top = tl.program_id(2) * RH
    count = tl.load(table + COUNTS * C)
    for first in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        j, real, slot, plane, ix, iy, fx, fy = slots_of(table, shift, first, count, C, BM, H, W)
        base, left, right = beside_columns(planes, plane, begin, w, ix, P, W)
        mask = real[:, None] & here[None, :]
        scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)[:, None]
        mean = tl.load(coefficients + MEAN * C + slot, real, 0.0)[:, None]
        rstd = tl.load(coefficients + RSTD * C + slot, real, 0.0)
        level = (tl.load(sums + slot, real, 0.0) / P)[:, None]
        steep = (tl.load(sums + C + slot, real, 0.0) / P * rstd)[:, None]
        upper, _ = row_of(base, left, right, top, iy, fx, mask, H, W)
        for row in range(top, tl.minimum(top + RH, H)):
            at = kept + j.to(tl.int64)[:, None] * P + (begin + row * W)[None, :]
            g = tl.load(at, mask, 0.0).to(tl.float32)
            if TRAINING:
                lower, _ = row_of(base, left, right, row + 1, iy, fx, mask, H, W)
                z = upper + (lower - upper) * fy[:, None]
                upper = lower
                g = g - level - (z - mean) * steep
            tl.store(at, (g * scale).to(kept.dtype.element_ty), mask)


@triton.jit
def _reads(index, whole, part, size: tl.constexpr):
    """Weights of the places ``index - whole`` and the one before it, which read ``index``."""
    last = tl.where(index == size - 1, 1.0, 1 - part)
    first = tl.where(index == 0, 1.0, part)
    place = index - whole
    last = tl.where((place >= 0) & (place < size), last, 0.0)
    return last, tl.where((place >= 1) & (place <= size), first, 0.0)


@triton.jit
def _clamped(index, whole, e, size: tl.constexpr):
    """The e-th of the other places that read a border pixel, and whether ``index`` is that one."""
    low = (whole < 0) & (index == 0) & (e < -whole - 1)
    high = (whole > 0) & (index == size - 1) & (e < whole)
    return tl.where(whole < 0, e, size - 1 - e), low | high


@triton.jit
def _row_behind(
    base, place, w, ix, here, before, edges, row, mask, H: tl.constexpr, W: tl.constexpr
):
    """What columns w of planes get from row ``row`` of the slots that read them."""
    at = place + (row * W)[:, None]
    mask = mask & ((row >= 0) & (row < H))[:, None]
    near = base + (at + w[None, :] - ix[:, None])
    total = here * tl.load(near, mask & (here > 0), 0.0).to(tl.float32)
    total += before * tl.load(near - 1, mask & (before > 0), 0.0).to(tl.float32)
    for e in range(edges):
        k, clamped = _clamped(w[None, :], ix[:, None], e, W)
        total += tl.load(base + (at + k), mask & clamped, 0.0).to(tl.float32)
    return total


@triton.jit
def back_moved(
    table, shift, kept, back, P, C, RH: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    BM: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Gradients of the planes, ``back`` [k, P]: a pixel gathers from the slots that read it."""
    begin, w, here = columns(P, H, W, BQ)
    top = tl.program_id(2) * RH
    count = tl.load(table + COUNTS * C)
    planes = tl.load(table + COUNTS * C + 1)
    for plane in range(tl.program_id(1), planes, tl.num_programs(1)):
        start = tl.load(table + FIRST * C + plane)
        end = tl.load(table + FIRST * C + plane + 1, plane + 1 < planes, count)
        for first in range(start, end, BM):
            j, real, _, _, ix, iy, fx, fy = slots_of(table, shift, first, end, C, BM, H, W)
            base = kept + j.to(tl.int64)[:, None] * P
            place, mask = (begin - w)[None, :], real[:, None] & here[None, :]
            at, before = _reads(w[None, :], ix[:, None], fx[:, None], W)
            across, down = tl.max(tl.maximum(-ix - 1, ix), 0), tl.max(tl.maximum(-iy - 1, iy), 0)
            above = _row_behind(base, place, w, ix, at, before, across, top - iy - 1, mask, H, W)
            for row in range(top, tl.minimum(top + RH, H)):
                now = _row_behind(base, place, w, ix, at, before, across, row - iy, mask, H, W)
                total = tl.where(row == H - 1, 1.0, 1 - fy)[:, None] * now
                total += tl.where(row == 0, 1.0, fy)[:, None] * above
                above = now
                for e in range(tl.where((row == 0) | (row == H - 1), down, 0)):
                    i, clamped = _clamped(row, iy, e, H)
                    total += _row_behind(
                        base, place, w, ix, at, before, across, i, mask & clamped[:, None], H, W
                    )
                found = tl.sum(total, 0)
                there = back + tl.cast(plane, tl.int64) * P + begin + row * W
                if first > start:
                    found += tl.load(there, here, 0.0).to(tl.float32)
                tl.store(there, found.to(back.dtype.element_ty), here)
            tl.debug_barrier()  # threads that hold the same pixel may store it for one another


@triton.jit
def back_own(
    x, grad, table, source, coefficients, sums, back, out, P, CA, ALIGN: tl.constexpr,
    TRAINING: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input: from the slots that read their own channel, and from the planes."""
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
    g = tl.where(value * scale + offset > 0, g, 0.0)
    if TRAINING:
        mean = tl.load(coefficients + MEAN * C + c, inside, 0.0)
        rstd = tl.load(coefficients + RSTD * C + c, inside, 0.0)
        level = tl.load(sums + c, inside, 0.0) / P
        slope = tl.load(sums + C + c, inside, 0.0) / P * rstd
        g = g - level[None, :] - (value - mean[None, :]) * slope[None, :]
    own = tl.load(source + c, inside, 0) < 0
    g = tl.where(own[None, :], g * scale, 0.0)
    plane = tl.load(table + PLANE_OF * C + c, inside, -1)
    read = plane.to(tl.int64)[None, :] * P + p[:, None]
    g += tl.load(back + read, here[:, None] & (plane >= 0)[None, :], 0.0).to(tl.float32)
    tl.store(out + at, g.to(out.dtype.element_ty), mask)
