"""The Triton programs of :mod:`models.nets.selective.conv_gpu`. Imported only where they run.

Maps are matrices [pixels, channels] in memory, P = n h w pixels; ``weight`` is [channels, OUT].
Re-used slots are rows along pixels: of ``planes`` [k, P] what they read, of ``z`` [m, P] what they
are. Products take them from there: they never lie between other channels. No atomics, so results
repeat bit for bit.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.nets.selective.norm_kernels import (
    CHANNEL,
    COUNTS,
    OFFSET,
    PLANE,
    SCALE,
    SLOT,
    shift_of,
    taps,
)

SIZES = ["C", "CA", "ROWS", "SPLITS"]  # one program for all of them; P is aligned for rows


@triton.jit(do_not_specialize=SIZES)
def measure(
    x, source, partial, P, CA, ROWS, SPLITS, ALIGN: tl.constexpr, BP: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """Mean and squares by parts, of slots that read their own channel."""
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    pivot = tl.load(x + first.to(tl.int64) * C + c, inside, 0.0).to(tl.float32)
    sums = tl.zeros([BP, BC], tl.float32)
    squares = tl.zeros([BP, BC], tl.float32)
    for start in range(first, end, BP):
        p = start + tl.arange(0, BP)
        here = p < end
        at = x + p.to(tl.int64)[:, None] * C + c[None, :]
        value = tl.load(at, here[:, None] & inside[None, :], 0.0).to(tl.float32)
        gap = tl.where(here[:, None], value - pivot[None, :], 0.0)
        sums += gap
        squares += gap * gap
    count = (end - first).to(tl.float32)
    total = tl.sum(sums, 0)
    own = inside & (tl.load(source + c, inside, 0) < 0)
    row = partial + tl.program_id(0) * C + c
    tl.store(row, pivot + total / count, own)
    tl.store(row + SPLITS * C, tl.sum(squares, 0) - total * total / count, own)


@triton.jit(do_not_specialize=SIZES)
def lift(x, table, planes, P, C, BP: tl.constexpr, BM: tl.constexpr):
    """Copy the channels that are read to planes, some pixels a program."""
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    here = p < P
    count = tl.load(table + COUNTS * C + 1)
    for k in range(0, count, BM):
        rows = k + tl.arange(0, BM)
        real = rows < count
        c = tl.load(table + CHANNEL * C + rows, real, 0)
        mask = here[:, None] & real[None, :]
        value = tl.load(x + p.to(tl.int64)[:, None] * C + c[None, :], mask, 0.0)
        copy = planes + rows.to(tl.int64)[:, None] * P + p[None, :]
        tl.store(copy, tl.trans(value), real[:, None] & here[None, :])


@triton.jit(do_not_specialize=SIZES)
def fill_slots(
    planes, table, shift, z, partial, P, C, ROWS, SPLITS, H: tl.constexpr, W: tl.constexpr,
    STATS: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Values of the re-used slots; their mean and squares by parts."""
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    count = tl.load(table + COUNTS * C)
    for j in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        sums = tl.zeros([BM, BP], tl.float32)
        squares = tl.zeros([BM, BP], tl.float32)
        rows = j + tl.arange(0, BM)
        real = rows < count
        slot = tl.load(table + SLOT * C + rows, real, 0)
        plane = tl.load(table + PLANE * C + rows, real, 0).to(tl.int64) * P
        ix, iy, fx, fy = shift_of(shift, slot, real, H, W)
        ix, iy, fx, fy = ix[:, None], iy[:, None], fx[:, None], fy[:, None]
        pivot = tl.load(planes + plane + first, real, 0.0).to(tl.float32)[:, None]
        for start in range(first, end, BP):
            p = start + tl.arange(0, BP)
            mask = real[:, None] & (p < end)[None, :]
            q = p % (H * W)
            at = planes + plane[:, None] + (p - q)[None, :]
            a, b, c, d = taps(at, (q // W)[None, :], (q % W)[None, :], ix, iy, mask, H, W)
            upper = a + (b - a) * fx
            value = (upper + (c + (d - c) * fx - upper) * fy).to(z.dtype.element_ty)
            tl.store(z + rows.to(tl.int64)[:, None] * P + p[None, :], value, mask)
            gap = tl.where(mask, value.to(tl.float32) - pivot, 0.0)
            sums += gap
            squares += gap * gap
        if STATS:
            total = tl.sum(sums, 1)
            pixels = (end - first).to(tl.float32)
            row = partial + tl.program_id(0) * C + slot
            tl.store(row, tl.sum(pivot, 1) + total / pixels, real)
            tl.store(row + SPLITS * C, tl.sum(squares, 1) - total * total / pixels, real)


@triton.jit
def slots_of(table, coefficients, rows, count, C):
    """Re-used slots of some rows, which rows are real, scale and offset; 0 where they are not."""
    real = rows < count
    slot = tl.load(table + SLOT * C + rows, real, 0)
    scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)
    offset = tl.load(coefficients + OFFSET * C + slot, real, 0.0)
    return slot, real, scale, offset


@triton.jit(do_not_specialize=SIZES)
def mix(
    x, source, z, table, coefficients, weight, out, P, CA, ALIGN: tl.constexpr, OUT: tl.constexpr,
    BO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Outputs at some pixels: ReLU(scale z + offset) of all slots times the weights."""
    C = CA * ALIGN
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    here = p < P
    o = tl.arange(0, BO)
    wanted = o < OUT
    sums = tl.zeros([BP, BO], tl.float32)
    at = x + p.to(tl.int64)[:, None] * C
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = c < C
        own = inside & (tl.load(source + c, inside, 0) < 0)
        scale = tl.where(own, tl.load(coefficients + SCALE * C + c, inside, 0.0), 0.0)
        offset = tl.where(own, tl.load(coefficients + OFFSET * C + c, inside, 0.0), 0.0)
        value = tl.load(at + c[None, :], here[:, None] & inside[None, :], 0.0).to(tl.float32)
        a = tl.maximum(value * scale[None, :] + offset[None, :], 0.0).to(weight.dtype.element_ty)
        w = tl.load(weight + c[:, None] * OUT + o[None, :], inside[:, None] & wanted[None, :], 0.0)
        sums = tl.dot(a, w, sums, input_precision="ieee")
    count = tl.load(table + COUNTS * C)
    for j in range(0, count, BM):
        rows = j + tl.arange(0, BM)
        slot, real, scale, offset = slots_of(table, coefficients, rows, count, C)
        mask = real[:, None] & here[None, :]
        value = tl.load(z + rows.to(tl.int64)[:, None] * P + p[None, :], mask, 0.0)
        a = tl.maximum(value.to(tl.float32) * scale[:, None] + offset[:, None], 0.0)
        w = tl.load(weight + slot[:, None] * OUT + o[None, :], real[:, None] & wanted[None, :], 0.0)
        sums = tl.dot(tl.trans(a.to(weight.dtype.element_ty)), w, sums, input_precision="ieee")
    there = out + p.to(tl.int64)[:, None] * OUT + o[None, :]
    tl.store(there, sums.to(out.dtype.element_ty), here[:, None] & wanted[None, :])
