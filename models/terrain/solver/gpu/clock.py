"""Between two steps on a GPU: inflow, totals, length of the next step (Triton)."""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def last_moment(moments, k, t, POINTS: tl.constexpr):
    """Position of the last moment of series ``k`` at or before time t; the first before it."""
    at = k * POINTS
    for s in tl.static_range(1, 21):
        if (POINTS >> s) > 0:
            probe = at + (POINTS >> s)
            at = tl.where(tl.load(moments + probe) <= t, probe, at)
    return at


@triton.jit
def value_at(moments, values, k, t, POINTS: tl.constexpr):
    """Series ``k`` at time t: linear between its points, constant before and after."""
    at = last_moment(moments, k, t, POINTS)
    after = tl.minimum(at + 1, k * POINTS + POINTS - 1)
    begin, low = tl.load(moments + at), tl.load(values + at)
    span = tl.where(after > at, tl.load(moments + after) - begin, 1.0)
    share = tl.minimum(tl.maximum((t - begin) / span, 0.0), 1.0)
    return low + share * (tl.load(values + after) - low)


@triton.jit
def integral(moments, values, integrals, k, t, POINTS: tl.constexpr):
    """Of series ``k`` from its first moment to time t."""
    at = last_moment(moments, k, t, POINTS)
    both = tl.load(values + at) + value_at(moments, values, k, t, POINTS)
    return tl.load(integrals + at) + (t - tl.load(moments + at)) * both / 2


@triton.jit
def mean_value(moments, values, integrals, k, t, dt, POINTS: tl.constexpr):
    """Mean of series ``k`` from t to t + dt."""
    first, last = last_moment(moments, k, t, POINTS), last_moment(moments, k, t + dt, POINTS)
    inside = tl.where(first == last, t - tl.load(moments + first), -1.0) >= 0
    whole = integral(moments, values, integrals, k, t + dt, POINTS)
    whole -= integral(moments, values, integrals, k, t, POINTS)
    middle = value_at(moments, values, k, t + dt / 2, POINTS)
    mean = tl.where(inside, middle, whole / tl.where(dt > 0, dt, 1.0))
    return tl.where(dt > 0, mean, middle)


@triton.jit
def highest_rate(moments, values, k, t, dt, POINTS: tl.constexpr):
    """The larger value of series ``k`` at the beginning and in the middle of a step."""
    middle = value_at(moments, values, k, t + dt / 2, POINTS)
    return tl.maximum(value_at(moments, values, k, t, POINTS), middle)


@triton.jit
def step_for(depth, dx, gravity, courant, h_floor, cap, AUTHORS: tl.constexpr):
    """The stable step for water of this greatest depth, s."""
    h = tl.maximum(depth, h_floor)
    if AUTHORS:
        step = courant * dx / (gravity + h)
    else:
        root = tl.sqrt((gravity * h).to(tl.float32)).to(tl.float64)
        root = 0.5 * (root + gravity * h / root)  # square root in float64: one Newton step
        step = courant * dx / root
    return tl.minimum(step, cap)


@triton.jit
def clock(
    h,  # [b, rows, pitch] depth after the step
    remainder,  # [b, rows, pitch] depth that rounding left over
    deepest,  # [b, tiles] after the step
    awake,  # [b, tiles] out: see step_tiles
    age,  # [b, tiles] steps since the tile and its surroundings became dry
    queue,
    cells,  # [b, CELLS] offsets in a sample of cells with inflow; -1: none
    cell_tiles,  # [b, CELLS] their tiles
    gain,  # [b, CELLS] m/s per unit of the series, float64
    shared,  # [b, CELLS] entries of the same cell
    series,  # [b, CELLS] which series of the sample
    moments,  # [b, SERIES, POINTS] s, float64; the first series is the rain
    values,
    integrals,  # of each series from its first moment
    dts, dts_next, rains, times,  # [b] float64
    until,  # [b] s
    steps,  # [b] int64
    entered,  # [b] m3
    bad,  # [b] int32, out: a depth is not finite or too large
    constants,  # float64: dx, gravity, ..., from 6: courant, h_floor, dt_cap, area, cells
    down,
    across,
    stride,
    CELLS: tl.constexpr,
    SERIES: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    AUTHORS: tl.constexpr,
    CARRY: tl.constexpr,
    LAZY: tl.constexpr,
):  # fmt: skip
    """After a step, one program per sample: inflow, totals, length of the next step."""
    b, tiles = tl.program_id(0), down * across
    if b == 0:
        tl.store(queue, 0)
    dx, gravity = tl.load(constants), tl.load(constants + 1)
    courant, h_floor = tl.load(constants + 6), tl.load(constants + 7)
    cap, area, count = tl.load(constants + 8), tl.load(constants + 9), tl.load(constants + 10)
    dt, now, end, rain = (
        tl.load(dts + b), tl.load(times + b), tl.load(until + b), tl.load(rains + b),
    )  # fmt: skip
    k = b * CELLS + tl.arange(0, CELLS)
    at = tl.load(cells + k)
    feeds = tl.where(dt > 0, at, -1) >= 0
    which = b * SERIES + tl.load(series + k)
    rate = mean_value(moments, values, integrals, which, now, dt, POINTS)
    rise = dt * tl.load(gain + k) * rate
    rise = tl.where(feeds, rise, 0.0)
    before = tl.atomic_add(h + b * stride + at, rise.to(tl.float32), feeds)
    depth = before + rise.to(tl.float32)
    if CARRY:
        left_over = rise - (depth.to(tl.float64) - before.to(tl.float64))
        tl.atomic_add(remainder + b * stride + at, left_over.to(tl.float32), feeds)
    still = tl.load(h + b * stride + at, tl.where(dt > 0, -1, at) >= 0, 0.0)
    depth = tl.where(feeds, depth, still)
    tl.atomic_max(deepest + b * tiles + tl.load(cell_tiles + k), depth, feeds)
    most = tl.max(depth, 0)
    for start in range(0, tiles, BLOCK):
        index = start + tl.arange(0, BLOCK)
        block = tl.load(deepest + b * tiles + index, index < tiles, 0.0)
        most = tl.maximum(most, tl.max(block, 0))
    tl.store(entered + b, tl.load(entered + b) + tl.sum(rise, 0) * area + dt * rain * area * count)
    now = tl.where(dt == end - now, end, now + dt)
    tl.store(times + b, now)
    tl.store(steps + b, tl.load(steps + b) + (dt > 0).to(tl.int64))
    step = step_for(most.to(tl.float64), dx, gravity, courant, h_floor, cap, AUTHORS)
    # what enters within a step counts as depth; at most all entries of a cell are as its largest
    entering = step * tl.load(gain + k) * highest_rate(moments, values, which, now, step, POINTS)
    after = depth.to(tl.float64) + tl.where(at >= 0, entering * tl.load(shared + k), 0.0)
    after = tl.maximum(tl.max(after, 0), most.to(tl.float64))
    after += step * highest_rate(moments, values, b * SERIES, now, step, POINTS)
    step = step_for(after, dx, gravity, courant, h_floor, cap, AUTHORS)
    rest = end - now
    step = tl.where(step >= rest * (1 - 1e-9), rest, step)
    fine = most < 1e5
    step = tl.where(fine, tl.maximum(step, 0.0), 0.0)
    tl.store(bad + b, tl.where(fine, tl.load(bad + b), 1))
    tl.store(dts_next + b, step)
    rain = mean_value(moments, values, integrals, b * SERIES, now, step, POINTS)
    tl.store(rains + b, rain)
    if LAZY:
        tl.debug_barrier()  # inflow can wet a tile
        for start in range(0, tiles, BLOCK):
            index = start + tl.arange(0, BLOCK)
            here, t = index < tiles, b * tiles + index
            row, column = index // across, index % across
            near = tl.load(deepest + t, here, 0.0)
            near = tl.maximum(near, tl.load(deepest + t - across, here & (row > 0), 0.0))
            near = tl.maximum(near, tl.load(deepest + t + across, here & (row < down - 1), 0.0))
            near = tl.maximum(near, tl.load(deepest + t - 1, here & (column > 0), 0.0))
            last = column < across - 1
            near = tl.maximum(near, tl.load(deepest + t + 1, here & last, 0.0))
            busy = tl.where(rain > 0, 1.0, near) > 0
            calm = tl.where(busy, 0, tl.load(age + t, here, 0) + 1)
            tl.store(age + t, calm, here)
            tl.store(awake + t, (calm <= 2).to(tl.int32), here)
