"""The Triton programs of :mod:`models.nets.selective.norm_gpu`. Imported only where they run.

Maps are matrices [pixels, channels] in memory, P = n h w pixels. A program that reads them goes
along channels. Re-used slots are computed along pixels, from the channels that they read, kept one
after the other: ``planes`` [k, P]. No atomics, so results repeat bit for bit.
"""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

# rows of the table of C channels and as many slots, int32; then two counts: re-used slots, planes
SLOT = tl.constexpr(0)  # [m] the re-used slots, those of a plane one after the other
PLANE = tl.constexpr(1)  # [m] the plane that each reads
PLANE_OF = tl.constexpr(2)  # [C] plane of a channel, or -1
CHANNEL = tl.constexpr(3)  # [k] the channel of each plane, in order
FIRST = tl.constexpr(4)  # [k] the first re-used slot of each plane
FLAG = tl.constexpr(5)  # [C] whether a channel is read
COUNTS = tl.constexpr(6)
# rows of the coefficients, float32 [C]
MEAN = tl.constexpr(0)
RSTD = tl.constexpr(1)
SCALE = tl.constexpr(2)
OFFSET = tl.constexpr(3)


@triton.jit(do_not_specialize=["C"])
def mark(source, table, C, BC: tl.constexpr):
    """One program: a table of zeros but for ones where a channel is read."""
    c = tl.arange(0, BC)
    for start in range(0, C * COUNTS + 2, BC):
        tl.store(table + start + c, tl.zeros([BC], tl.int32), start + c < C * COUNTS + 2)
    tl.debug_barrier()
    root = tl.load(source + c, c < C, -1).to(tl.int32)
    tl.store(table + FLAG * C + root, tl.full([BC], 1, tl.int32), root >= 0)


@triton.jit(do_not_specialize=["C"])
def tabulate(source, table, C, BC: tl.constexpr, BI: tl.constexpr):
    """Some slots and channels of a marked table: their positions among all, by counting."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    root = tl.load(source + c, c < C, -1).to(tl.int32)
    moved = root >= 0
    before = tl.zeros([BC, BI], tl.int32)  # re-used slots of channels before this one's
    rank = tl.zeros([BC, BI], tl.int32)  # of the same channel, before this one
    plane = tl.zeros([BC, BI], tl.int32)  # channels read before this channel
    read = tl.zeros([BC, BI], tl.int32)  # before that of this slot
    slots = tl.zeros([BI], tl.int32)
    planes = tl.zeros([BI], tl.int32)
    for start in range(0, C, BI):
        i = start + tl.arange(0, BI)
        other = tl.load(source + i, i < C, -1).to(tl.int32)
        flag = tl.load(table + FLAG * C + i, i < C, 0)
        slots += (other >= 0).to(tl.int32)
        planes += flag
        i, other, flag = i[None, :], other[None, :], flag[None, :]
        before += ((other >= 0) & (other < root[:, None])).to(tl.int32)
        rank += ((other == root[:, None]) & (i < c[:, None])).to(tl.int32)
        plane += tl.where(i < c[:, None], flag, 0)
        read += tl.where(i < root[:, None], flag, 0)
    first, turn, own = tl.sum(before, 1), tl.sum(rank, 1), tl.sum(plane, 1)
    position, seen = first + turn, tl.sum(read, 1)
    flagged = tl.load(table + FLAG * C + c, c < C, 0) > 0
    tl.store(table + PLANE_OF * C + c, tl.where(flagged, own, -1), c < C)
    tl.store(table + CHANNEL * C + own, c, flagged)
    tl.store(table + SLOT * C + position, c, moved)
    tl.store(table + PLANE * C + position, seen, moved)
    tl.store(table + FIRST * C + seen, first, moved & (turn == 0))
    if tl.program_id(0) == 0:
        tl.store(table + COUNTS * C, tl.sum(slots, 0))
        tl.store(table + COUNTS * C + 1, tl.sum(planes, 0))


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
def taps(at, h, w, ix, iy, mask, H: tl.constexpr, W: tl.constexpr):
    """The four neighbours of shifted pixels (h, w) of images that start at ``at``."""
    top, bottom = _inside(h + iy, H) * W, _inside(h + iy + 1, H) * W
    left, right = _inside(w + ix, W), _inside(w + ix + 1, W)
    a = tl.load(at + (top + left), mask, 0.0).to(tl.float32)
    b = tl.load(at + (top + right), mask, 0.0).to(tl.float32)
    c = tl.load(at + (bottom + left), mask, 0.0).to(tl.float32)
    d = tl.load(at + (bottom + right), mask, 0.0).to(tl.float32)
    return a, b, c, d


@triton.jit
def moved_tile(
    planes, table, shift, P, C, p, here, first, count, BM: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """Re-used slots from ``first`` on at pixels p: slots [BM], mask [BM, BP], values [BM, BP]."""
    j = first + tl.arange(0, BM)
    real = j < count
    slot = tl.load(table + SLOT * C + j, real, 0)
    plane = tl.load(table + PLANE * C + j, real, 0)
    ix, iy, fx, fy = shift_of(shift, slot, real, H, W)
    q = p % (H * W)
    at = planes + plane.to(tl.int64)[:, None] * P + (p - q)[None, :]
    mask = real[:, None] & here[None, :]
    h, w = (q // W)[None, :], (q % W)[None, :]
    a, b, c, d = taps(at, h, w, ix[:, None], iy[:, None], mask, H, W)
    upper = a + (b - a) * fx[:, None]
    lower = c + (d - c) * fx[:, None]
    return slot, real, mask, upper + (lower - upper) * fy[:, None]


@triton.jit
def scan(
    x, source, table, planes, partial, P, CA, ROWS, SPLITS, ALIGN: tl.constexpr,
    STATS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Copy the channels that are read to planes; mean and squares of the channels by parts."""
    C = CA * ALIGN
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < C
    plane = tl.load(table + PLANE_OF * C + c, inside, -1)
    read = plane >= 0
    pivot = tl.load(x + first.to(tl.int64) * C + c, inside, 0.0).to(tl.float32)
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
        count = (end - first).to(tl.float32)
        total = tl.sum(sums, 0)
        own = inside & (tl.load(source + c, inside, 0) < 0)
        row = partial + tl.program_id(0) * C + c
        tl.store(row, pivot + total / count, own)
        tl.store(row + SPLITS * C, tl.sum(squares, 0) - total * total / count, own)


@triton.jit
def scan_moved(
    planes, table, shift, partial, P, C, ROWS, SPLITS, H: tl.constexpr, W: tl.constexpr,
    BM: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Mean and squares of the re-used slots by parts."""
    first = tl.program_id(0) * ROWS
    end = tl.minimum(first + ROWS, P)
    count = tl.load(table + COUNTS * C)
    for j in range(tl.program_id(1) * BM, count, tl.num_programs(1) * BM):
        sums = tl.zeros([BM, BP], tl.float32)
        squares = tl.zeros([BM, BP], tl.float32)
        p = first + tl.arange(0, BP)
        slot, real, mask, z = moved_tile(planes, table, shift, P, C, p, p < end, j, count, BM, H, W)
        pivot = tl.sum(tl.where(tl.arange(0, BP)[None, :] == 0, z, 0.0), 1)
        for start in range(first, end, BP):
            p = start + tl.arange(0, BP)
            slot, real, mask, z = moved_tile(
                planes, table, shift, P, C, p, p < end, j, count, BM, H, W
            )
            gap = tl.where(mask, z - pivot[:, None], 0.0)
            sums += gap
            squares += gap * gap
        total = tl.sum(sums, 1)
        pixels = (end - first).to(tl.float32)
        row = partial + tl.program_id(0) * C + slot
        tl.store(row, pivot + total / pixels, real)
        tl.store(row + SPLITS * C, tl.sum(squares, 1) - total * total / pixels, real)


@triton.jit
def finish(
    partial, weight, bias, mean, var, coefficients, batch, eps, P, C, ROWS, SPLITS,
    STATS: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Coefficients of the batch norm; ``batch``: mean and unbiased variance, or what is given."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < C
    if STATS:
        s = tl.arange(0, BS)
        mask = (s < SPLITS)[:, None] & inside[None, :]
        at = partial + s[:, None] * C + c[None, :]
        pixels = tl.maximum(tl.minimum(P - s * ROWS, ROWS), 0).to(tl.float32)[:, None]
        part = tl.load(at, mask, 0.0)
        middle = tl.sum(part * (pixels / P), 0)
        gap = part - middle[None, :]
        squares = tl.sum(
            tl.where(mask, tl.load(at + SPLITS * C, mask, 0.0) + pixels * gap * gap, 0.0), 0
        )
        spread = tl.maximum(squares, 0.0) / P
        tl.store(batch + C + c, tl.maximum(squares, 0.0) / tl.maximum(P - 1, 1), inside)
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
    x, planes, table, shift, coefficients, out, P, CA, ALIGN: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Write ReLU(scale z + offset) of all slots at some pixels."""
    C = CA * ALIGN
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    here = p < P
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = c < C
        scale = tl.load(coefficients + SCALE * C + c, inside, 0.0)
        offset = tl.load(coefficients + OFFSET * C + c, inside, 0.0)
        at = p.to(tl.int64)[:, None] * C + c[None, :]
        mask = here[:, None] & inside[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32) * scale[None, :] + offset[None, :]
        tl.store(out + at, tl.maximum(value, 0.0).to(out.dtype.element_ty), mask)
    count = tl.load(table + COUNTS * C)
    tl.debug_barrier()  # the slots written over were written by other threads
    for j in range(0, count, BM):
        slot, real, mask, z = moved_tile(planes, table, shift, P, C, p, here, j, count, BM, H, W)
        scale = tl.load(coefficients + SCALE * C + slot, real, 0.0)
        offset = tl.load(coefficients + OFFSET * C + slot, real, 0.0)
        value = tl.maximum(z * scale[:, None] + offset[:, None], 0.0)
        there = out + p.to(tl.int64)[:, None] * C + slot[None, :]
        tl.store(there, tl.trans(value).to(out.dtype.element_ty), here[:, None] & real[None, :])
