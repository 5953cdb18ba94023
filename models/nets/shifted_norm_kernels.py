"""The Triton programs of :mod:`models.nets.shifted_norm_gpu`. Imported only where they run.

Maps are matrices [pixels, channels] in memory, P = n h w pixels. Programs over whole maps walk
along channels, as a plain unit's do. Re-used slots are computed down the columns of the images, row
by row, from the channels that they read, kept one after the other: ``planes`` [k, P]. Two rows of a
plane give one of a slot, and the second is the first of the next one. Their values are left side
by side, ``beside`` [P, m], for the programs that walk along channels. No atomics, so results repeat
bit for bit.
"""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

# rows of the table of C channels, int32; two counts follow: of re-used slots and of planes.
# There are as many slots as channels but in nets for inference, which have no more of them.
SLOT = tl.constexpr(0)  # [m] the re-used slots, ordered by the channel that they read
PLANE = tl.constexpr(1)  # [m] the plane that each reads
PLANE_OF = tl.constexpr(2)  # [C] plane of a channel, or -1
FIRST = tl.constexpr(3)  # [k] the first m that reads a plane
PLACE = tl.constexpr(4)  # [C] m of a slot, or -1
FLAG = tl.constexpr(5)  # [C] whether a channel is read; then the sorted channels
COUNTS = tl.constexpr(6)
# rows of the coefficients, float32 [C]
MEAN = tl.constexpr(0)
RSTD = tl.constexpr(1)
SCALE = tl.constexpr(2)
OFFSET = tl.constexpr(3)


@triton.jit
def tabulate(source, table, S, C, BC: tl.constexpr):
    """One program: which of S slots are re-used, which channels they read."""
    c = tl.arange(0, BC)
    inside = c < C
    root = tl.load(source + c, c < S, -1).to(tl.int32)
    moved = root >= 0
    tl.store(table + FLAG * C + c, tl.zeros([BC], tl.int32), inside)
    tl.store(table + PLACE * C + c, tl.full([BC], -1, tl.int32), inside)
    tl.debug_barrier()
    tl.store(table + FLAG * C + root, tl.full([BC], 1, tl.int32), moved)
    tl.debug_barrier()
    flag = tl.load(table + FLAG * C + c, inside, 0)
    plane_of = tl.where(flag > 0, tl.cumsum(flag, 0) - 1, -1)
    tl.store(table + PLANE_OF * C + c, plane_of, inside)
    count = tl.sum(moved.to(tl.int32), 0)
    key = tl.sort(tl.where(moved, root * BC + c, BC * BC))
    real = c < count
    slot, root = key % BC, key // BC
    tl.store(table + SLOT * C + c, slot, real)
    tl.store(table + PLACE * C + slot, c, real)
    tl.debug_barrier()  # flags were read, planes were written
    tl.store(table + FLAG * C + c, root, real)
    tl.debug_barrier()
    plane = tl.load(table + PLANE_OF * C + root, real, 0)
    tl.store(table + PLANE * C + c, plane, real)
    before = tl.load(table + FLAG * C + c - 1, real & (c > 0), -1)
    tl.store(table + FIRST * C + plane, c, real & (before != root))
    tl.store(table + COUNTS * C, count)
    tl.store(table + COUNTS * C + 1, tl.sum(flag, 0))


@triton.jit
def shift_of(shift, slot, mask, H: tl.constexpr, W: tl.constexpr):
    """Whole pixels and fractions along the width and the height; beyond the map all is border."""
    sx = tl.minimum(tl.maximum(tl.load(shift + 2 * slot, mask, 0.0), -W), W)
    sy = tl.minimum(tl.maximum(tl.load(shift + 2 * slot + 1, mask, 0.0), -H), H)
    ix, iy = tl.floor(sx), tl.floor(sy)
    return ix.to(tl.int32), iy.to(tl.int32), sx - ix, sy - iy


@triton.jit
def _inside(i, size: tl.constexpr):
    return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def columns(P, H: tl.constexpr, W: tl.constexpr, BQ: tl.constexpr):
    """Columns of the program: their first pixels and places along the width, and which exist."""
    q = tl.program_id(0) * BQ + tl.arange(0, BQ)
    return (q // W) * (H * W) + q % W, q % W, q < P // H


@triton.jit
def slots_of(table, shift, first, count, C, BM: tl.constexpr, H: tl.constexpr, W: tl.constexpr):
    """Re-used slots from ``first`` on: their numbers m, which exist, slots, planes, shifts."""
    j = first + tl.arange(0, BM)
    real = j < count
    slot = tl.load(table + SLOT * C + j, real, 0)
    plane = tl.load(table + PLANE * C + j, real, 0)
    ix, iy, fx, fy = shift_of(shift, slot, real, H, W)
    return j, real, slot, plane, ix, iy, fx, fy


@triton.jit
def beside_columns(planes, plane, begin, w, ix, P, W: tl.constexpr):
    """Planes [BM, 1]; first pixels in them of left and right neighbours of shifted columns."""
    start = (begin - w)[None, :]
    left = start + _inside(w[None, :] + ix[:, None], W)
    right = start + _inside(w[None, :] + ix[:, None] + 1, W)
    return planes + plane.to(tl.int64)[:, None] * P, left, right


@triton.jit
def row_of(base, left, right, row, iy, fx, mask, H: tl.constexpr, W: tl.constexpr):
    """Row ``row`` of planes shifted along the width, and its derivative by that shift."""
    at = (_inside(row + iy, H) * W)[:, None]
    a = tl.load(base + (left + at), mask, 0.0).to(tl.float32)
    b = tl.load(base + (right + at), mask, 0.0).to(tl.float32)
    return a + (b - a) * fx[:, None], b - a


@triton.jit
def scan(
    x, source, table, planes, partial, P, CA, ROWS, PARTS, ALIGN: tl.constexpr,
    STATS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Copy the channels that are read to planes; sums and squares of the channels by parts.

    Sums are of distances to the channel's first value.
    """
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    plane = tl.load(table + PLANE_OF * C + c, inside, -1)
    read = plane >= 0
    pivot = tl.load(x + c, inside, 0.0).to(tl.float32)
    sums = tl.zeros([BP, BC], tl.float32)
    squares = tl.zeros([BP, BC], tl.float32)
    for start in range(first, end, BP):
        p = start + tl.arange(0, BP)
        here = p < end
        at = x + p.to(tl.int64)[:, None] * C + c[None, :]
        wanted = here[:, None] & inside[None, :]
        if not STATS:
            wanted = wanted & read[None, :]
        value = tl.load(at, wanted, 0.0)
        copy = planes + plane.to(tl.int64)[None, :] * P + p[:, None]
        tl.store(copy, value, here[:, None] & read[None, :])
        if STATS:
            gap = tl.where(here[:, None], value.to(tl.float32) - pivot[None, :], 0.0)
            sums += gap
            squares += gap * gap
    if STATS:
        own = inside & (tl.load(source + c, inside, 0) < 0)
        row = partial + c * PARTS + tl.program_id(0)
        tl.store(row, tl.sum(sums, 0), own)
        tl.store(row + C * PARTS, tl.sum(squares, 0), own)


@triton.jit
def scan_moved(
    planes, table, shift, beside, partial, P, CA, SA, PARTS, RH, ALIGN: tl.constexpr,
    SALIGN: tl.constexpr, STATS: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    BM: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Values of the re-used slots, ``beside`` [P, S]; their sums and squares by parts."""
    C = CA * ALIGN
    S = SA * SALIGN
    begin, w, here = columns(P, H, W, BQ)
    top = tl.program_id(2) * RH
    count = tl.load(table + COUNTS * C)
    for first in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        j, real, slot, plane, ix, iy, fx, fy = slots_of(table, shift, first, count, C, BM, H, W)
        base, left, right = beside_columns(planes, plane, begin, w, ix, P, W)
        mask = real[:, None] & here[None, :]
        pivot = tl.load(planes + plane.to(tl.int64) * P, real, 0.0).to(tl.float32)
        sums = tl.zeros([BM, BQ], tl.float32)
        squares = tl.zeros([BM, BQ], tl.float32)
        upper, _ = row_of(base, left, right, top, iy, fx, mask, H, W)
        for row in range(top, tl.minimum(top + RH, H)):
            lower, _ = row_of(base, left, right, row + 1, iy, fx, mask, H, W)
            z = upper + (lower - upper) * fy[:, None]
            upper = lower
            at = beside + (begin + row * W).to(tl.int64)[:, None] * S + j[None, :]
            kept = z.to(beside.dtype.element_ty)
            tl.store(at, tl.trans(kept), here[:, None] & real[None, :])
            if STATS:
                gap = tl.where(mask, kept.to(tl.float32) - pivot[:, None], 0.0)
                sums += gap
                squares += gap * gap
        if STATS:
            part = tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)
            keep = partial + slot * PARTS + part
            tl.store(keep, tl.sum(sums, 1), real)
            tl.store(keep + C * PARTS, tl.sum(squares, 1), real)


@triton.jit
def finish(
    x, source, partial, weight, bias, mean, var, coefficients, batch, eps, P, C, OWN, MOVED,
    PARTS, STATS: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Coefficients of the batch norm; ``batch``: mean and unbiased variance, or what is given.

    There are OWN parts of the sums of a channel, MOVED ones of those of a re-used slot.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < C
    if STATS:
        root = tl.load(source + c, inside, -1).to(tl.int32)
        pivot = tl.load(x + tl.where(root < 0, c, root), inside, 0.0).to(tl.float32)
        parts = tl.where(root < 0, OWN, MOVED)
        s = tl.arange(0, BS)
        mask = (s[None, :] < parts[:, None]) & inside[:, None]
        at = partial + c[:, None] * PARTS + s[None, :]
        gap = tl.sum(tl.load(at, mask, 0.0), 1) / P
        spread = tl.sum(tl.load(at + C * PARTS, mask, 0.0), 1) / P - gap * gap
        spread = tl.maximum(spread, 0.0)
        middle = pivot + gap
        unbiased = spread * P / tl.maximum(P - 1, 1)
        tl.store(batch + C + c, unbiased, inside)
    else:
        middle = tl.load(mean + c, inside, 0.0).to(tl.float32)
        spread = tl.load(var + c, inside, 0.0).to(tl.float32)
        tl.store(batch + C + c, spread, inside)
    tl.store(batch + c, middle, inside)
    rstd = 1.0 / tl.sqrt(spread + eps)
    scale = tl.load(weight + c, inside, 0.0).to(tl.float32) * rstd
    offset = tl.load(bias + c, inside, 0.0).to(tl.float32) - middle * scale
    tl.store(coefficients + MEAN * C + c, middle, inside)
    tl.store(coefficients + RSTD * C + c, rstd, inside)
    tl.store(coefficients + SCALE * C + c, scale, inside)
    tl.store(coefficients + OFFSET * C + c, offset, inside)


@triton.jit
def apply(
    x, root, beside, table, coefficients, out, P, CA, SA, ALIGN: tl.constexpr,
    SALIGN: tl.constexpr, GATHER: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write ReLU(scale z + offset) of S slots: re-used ones from ``beside``, the others from x.

    Those read ``root``, with ``GATHER``, or the channel of their number.
    """
    C = CA * ALIGN
    S = SA * SALIGN
    p = (tl.program_id(0) * BP + tl.arange(0, BP)).to(tl.int64)
    s = tl.program_id(1) * BC + tl.arange(0, BC)
    here, inside = p < P, s < S
    mask = here[:, None] & inside[None, :]
    c = s
    if GATHER:
        c = tl.load(root + s, inside, 0).to(tl.int32)
    value = tl.load(x + p[:, None] * C + c[None, :], mask, 0.0).to(tl.float32)
    place = tl.load(table + PLACE * C + s, inside, -1)
    moved = here[:, None] & (place >= 0)[None, :]
    z = tl.load(beside + p[:, None] * S + place[None, :], moved, 0.0).to(tl.float32)
    value = tl.where(moved, z, value)
    scale = tl.load(coefficients + SCALE * S + s, inside, 0.0)
    offset = tl.load(coefficients + OFFSET * S + s, inside, 0.0)
    value = tl.maximum(value * scale[None, :] + offset[None, :], 0.0)
    tl.store(out + p[:, None] * S + s[None, :], value.to(out.dtype.element_ty), mask)
