"""One step of the flood on a GPU: the Triton programs of :mod:`models.terrain.gpu`.

Imported only where a GPU is. Fields are padded by walls (bed at 1e6 m, no water), so that no load
needs a mask. A tile works out each face twice, once for either cell, and takes for granted that no
cell gives more than it has; where one does, tiles are marked and done again with the limiter. That
keeps the usual step at one pass over memory: four loads and three stores a cell.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def cube_root_inverse(x):
    """x^(-1/3) of a positive float32, within 2e-7: bits / 3, then five terms of (1 - e)^(-1/3)."""
    b = x.to(tl.int32, bitcast=True)
    y = (0x54A20000 - tl.umulhi(b, 0x55555556)).to(tl.float32, bitcast=True)
    e = 1.0 - x * y * y * y
    terms = 0.14403292 + 0.12483 * e
    terms = 0.22222222 + e * (0.17283951 + e * terms)
    return y + y * e * (0.33333333 + e * terms)


@triton.jit
def power(x, LOG: tl.constexpr):
    """x^(7/3) of a positive float32."""
    if LOG:
        p = x * x * tl.exp2(tl.log2(x) * 0.3333333333333333)
    else:
        y = cube_root_inverse(x)
        p = x * x * x * y * y
    return p


@triton.jit
def face(
    za, ha, zb, hb, own, beside, crossing, rough, g_dt_dx, theta, rest, eps, h_dry,
    LOG: tl.constexpr,
):  # fmt: skip
    """New discharge between cells a and b before the limiter; ``rough``: g dt n^2."""
    wa, wb = za + ha, zb + hb
    hf = tl.maximum(wa, wb) - tl.maximum(za, zb)
    wet = hf > h_dry
    x = tl.where(wet, hf, 1.0)
    p = power(x, LOG)
    qt = crossing * 0.25
    norm = tl.sqrt(own * own + qt * qt + eps)
    push = theta * own + rest * beside - g_dt_dx * x * (wb - wa)
    return tl.where(wet, push * p / (p + rough * norm), 0.0)


@triton.jit
def friction(n, a, b, g_dt, ROUGH: tl.constexpr):
    """G dt n^2 of the face between two cells; ``n`` is a map, or one number."""
    if ROUGH:
        twice = tl.load(n + a) + tl.load(n + b)
        found = (0.25 * g_dt) * (twice * twice)
    else:
        one = tl.load(n)
        found = g_dt * (one * one)
    return found


@triton.jit
def around(
    z, h, qx, qy, n, o, i, j, ny, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge east, west, south, north of the cells at ``o``, and their depth."""
    x2, x1, x0, x3 = tl.load(qx + o - 2), tl.load(qx + o - 1), tl.load(qx + o), tl.load(qx + o + 1)
    y2, y1 = tl.load(qy + o - 2 * pitch), tl.load(qy + o - pitch)
    y0, y3 = tl.load(qy + o), tl.load(qy + o + pitch)
    z0, h0 = tl.load(z + o), tl.load(h + o)
    east = face(
        z0, h0, tl.load(z + o + 1), tl.load(h + o + 1), x0,
        tl.where(j == 0, x0, x1) + tl.where(j == nx - 2, x0, x3),
        (y1 + tl.load(qy + o - pitch + 1)) + (y0 + tl.load(qy + o + 1)),
        friction(n, o, o + 1, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    west = face(
        tl.load(z + o - 1), tl.load(h + o - 1), z0, h0, x1,
        tl.where(j == 1, x1, x2) + tl.where(j == nx - 1, x1, x0),
        (tl.load(qy + o - pitch - 1) + y1) + (tl.load(qy + o - 1) + y0),
        friction(n, o - 1, o, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    south = face(
        z0, h0, tl.load(z + o + pitch), tl.load(h + o + pitch), y0,
        tl.where(i == 0, y0, y1) + tl.where(i == ny - 2, y0, y3),
        (x1 + tl.load(qx + o + pitch - 1)) + (x0 + tl.load(qx + o + pitch)),
        friction(n, o, o + pitch, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    north = face(
        tl.load(z + o - pitch), tl.load(h + o - pitch), z0, h0, y1,
        tl.where(i == 1, y1, y2) + tl.where(i == ny - 1, y1, y0),
        (tl.load(qx + o - pitch - 1) + x1) + (tl.load(qx + o - pitch) + x0),
        friction(n, o - pitch, o, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    return east, west, south, north, h0


@triton.jit
def outlet(drain, o, h, h_dry):
    """Discharge through a cell's open edges in m2/s: Manning's normal depth."""
    wet = h > h_dry
    x = tl.where(wet, h, 1.0)
    y = cube_root_inverse(x)
    root = x * y * y
    return tl.where(wet, tl.load(drain + o) * x * root * root, 0.0)


@triton.jit
def supply(east, west, south, north, out, h, dt_dx):
    """Share of the wanted outflow that a cell can feed."""
    wanted = tl.maximum(east, 0.0) + tl.maximum(-west, 0.0)
    wanted += tl.maximum(south, 0.0) + tl.maximum(-north, 0.0)
    wanted = dt_dx * (wanted + out)
    short = wanted > h
    return tl.where(short, h / tl.where(short, wanted, 1.0), 1.0)


@triton.jit
def x_face(
    z, h, qx, qy, n, o, j, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge right of the cells at ``o``."""
    own = tl.load(qx + o)
    beside = tl.where(j == 0, own, tl.load(qx + o - 1))
    beside += tl.where(j == nx - 2, own, tl.load(qx + o + 1))
    crossing = tl.load(qy + o - pitch) + tl.load(qy + o - pitch + 1)
    crossing += tl.load(qy + o) + tl.load(qy + o + 1)
    return face(
        tl.load(z + o), tl.load(h + o), tl.load(z + o + 1), tl.load(h + o + 1), own, beside,
        crossing, friction(n, o, o + 1, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip


@triton.jit
def y_face(
    z, h, qx, qy, n, o, i, ny, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge below the cells at ``o``."""
    own = tl.load(qy + o)
    beside = tl.where(i == 0, own, tl.load(qy + o - pitch))
    beside += tl.where(i == ny - 2, own, tl.load(qy + o + pitch))
    crossing = tl.load(qx + o - 1) + tl.load(qx + o + pitch - 1)
    crossing += tl.load(qx + o) + tl.load(qx + o + pitch)
    return face(
        tl.load(z + o), tl.load(h + o), tl.load(z + o + pitch), tl.load(h + o + pitch), own,
        beside, crossing, friction(n, o, o + pitch, g_dt, ROUGH), g_dt_dx, theta, rest, eps,
        h_dry, LOG,
    )  # fmt: skip


@triton.jit
def greatest(h):
    """Greatest depth of a tile; NaN counts as infinite."""
    return tl.max(tl.max(tl.where(h == h, h, float("inf")), 1), 0)


@triton.jit
def any_of(flags):
    """Whether one of a tile's flags is set, as an integer."""
    return tl.max(tl.max(flags, 1), 0)


@triton.jit
def place(program, b, rows, pitch, left, pad, across, BY: tl.constexpr, BX: tl.constexpr):
    """Row and column numbers of a tile's cells, and their offsets in a padded field."""
    i = (program // across) * BY + tl.arange(0, BY)[:, None]
    j = (program % across) * BX + tl.arange(0, BX)[None, :]
    return i, j, (b * rows + i + pad) * pitch + left + j


@triton.jit
def enqueue(marks, queue, t, flag):
    """Put a tile on the list of those to be done again, once; its first number is the length."""
    if flag:
        if tl.atomic_xchg(marks + t, 1) == 0:
            tl.store(queue + 1 + tl.atomic_add(queue, 1), t)


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def sweep(  # noqa: C901  # one program
    old,  # [3, b, rows, pitch] depth and discharges before the step
    new,  # the same after it
    z,  # [b, rows, pitch] bed
    n,  # roughness: a map, or one number
    drain,  # [b, rows, pitch] coefficients of outlets
    drains,  # [b, tiles] whether a tile or one beside it has any
    deepest,  # [b, tiles] out: greatest depth
    awake,  # [b, tiles] 0: the tile is dry all around, both states are zero there
    shares,  # [b, rows, pitch] out, in the tiles marked in ``short``: share of the limiter
    short,  # [b, tiles] out
    marks,  # [b, tiles] out: tile is in the queue
    queue,  # out: number of tiles to be done again, then the tiles
    lost,  # [b, tiles] m3 through outlets, float64
    peak,  # [b, rows, pitch] greatest depth so far
    arrival,  # [b, rows, pitch] s
    dts,  # [b] s, float64
    rains,  # [b] m/s, float64
    times,  # [b] s, before the step
    numbers,  # float64: dx, gravity, theta, eps, h_dry, wet_m, ...
    plane, rows, pitch, left, pad, ny, nx, down, across, backwards,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr, LIMITED: tl.constexpr, LAZY: tl.constexpr, NOTE: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """One tile: faces, depths; marks the tiles where the limiter is needed."""
    if ALIGNED:  # lets a thread have four neighbouring cells
        pitch, left = tl.multiple_of(pitch, 32), tl.multiple_of(left, 32)
    program, b = tl.program_id(0), tl.program_id(1)
    program = tl.where(backwards != 0, down * across - 1 - program, program)
    t = b * down * across + program
    dt, rain = tl.load(dts + b), tl.load(rains + b)
    busy = True
    if LAZY:
        busy = tl.load(awake + t) != 0
    if busy:
        dx, gravity = tl.load(numbers), tl.load(numbers + 1)
        theta = tl.load(numbers + 2).to(tl.float32)
        eps, h_dry = tl.load(numbers + 3).to(tl.float32), tl.load(numbers + 4).to(tl.float32)
        rest = (1.0 - theta) * 0.5
        g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
        dt_dx, dt_rain = (dt / dx).to(tl.float32), (dt * rain).to(tl.float32)
        i, j, o = place(program, b, rows, pitch, left, pad, across, BY, BX)
        east, west, south, north, h = around(
            z, old, old + plane, old + 2 * plane, n, o, i, j, ny, nx, pitch,
            g_dt, g_dt_dx, theta, rest, eps, h_dry, ROUGH, LOG,
        )  # fmt: skip
        if NOTE:
            wet_m, now = tl.load(numbers + 5).to(tl.float32), tl.load(times + b).to(tl.float32)
            tl.store(peak + o, tl.maximum(tl.load(peak + o), h))
            first = tl.load(arrival + o)
            tl.store(arrival + o, tl.where((h > wet_m) & (first == float("inf")), now, first))
        out = tl.zeros_like(h)
        if DRAIN:
            if tl.load(drains + t) != 0:
                out = outlet(drain, o, h, h_dry)
        share = supply(east, west, south, north, out, h, dt_dx)
        gone = out
        if LIMITED:
            gone = out * share
        if DRAIN:
            if tl.load(drains + t) != 0:
                leaves = tl.sum(tl.sum(gone.to(tl.float64), 1), 0) * dt * dx
                tl.store(lost + t, tl.load(lost + t) + leaves)
        inside = (i < ny) & (j < nx)
        found = h + tl.where(inside, dt_rain, 0.0)
        found -= dt_dx * (((east - west) + (south - north)) + gone)
        if LIMITED:
            found = tl.where(found < 0.0, 0.0, found)
        if dt == 0.0:  # at its target time: nothing moves
            east, south = tl.load(old + plane + o), tl.load(old + 2 * plane + o)
        tl.store(new + o, found)
        tl.store(new + plane + o, east)
        tl.store(new + 2 * plane + o, south)
        tl.store(deepest + t, greatest(found))
        if LIMITED:
            lacks = (share < 1.0).to(tl.int32)
            some = any_of(lacks)
            tl.store(short + t, some)
            if some > 0:
                tl.store(shares + o, share)
                row, column = program // across, program % across
                last_i, last_j = row * BY + BY - 1, column * BX + BX - 1
                enqueue(marks, queue, t, True)
                up = any_of(tl.where(i == row * BY, lacks, 0)) > 0
                enqueue(marks, queue, t - across, (row > 0) & up)
                low = any_of(tl.where(i == last_i, lacks, 0)) > 0
                enqueue(marks, queue, t + across, (row < down - 1) & low)
                before = any_of(tl.where(j == column * BX, lacks, 0)) > 0
                enqueue(marks, queue, t - 1, (column > 0) & before)
                after = any_of(tl.where(j == last_j, lacks, 0)) > 0
                enqueue(marks, queue, t + 1, (column < across - 1) & after)


@triton.jit
def share_of(
    shares, short, o, first, i, j, down, across, BY: tl.constexpr, BX: tl.constexpr
):  # fmt: skip
    """Shares at ``o``; 1 in tiles where no cell lacks water, and beyond the grid."""
    row, column = i // BY, j // BX
    there = (i >= 0) & (j >= 0) & (row < down) & (column < across)
    lacking = tl.load(short + first + row * across + column, there, 0)
    return tl.load(shares + o, lacking != 0, 1.0)


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def limit(
    old, new, z, n, drain, drains, deepest, shares, short, marks, queue, dts, rains, numbers,
    plane, rows, pitch, left, pad, ny, nx, down, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr,
):  # fmt: skip
    """The queued tiles again, with the shares of their cells and of those around them.

    A tile reads the unlimited discharge of its own faces from the new state, where nobody else
    does; the faces of its left and upper neighbours, who may have limited them, it works out.
    """
    tiles, dx, gravity = down * across, tl.load(numbers), tl.load(numbers + 1)
    theta = tl.load(numbers + 2).to(tl.float32)
    eps, h_dry = tl.load(numbers + 3).to(tl.float32), tl.load(numbers + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    for place_in_queue in range(tl.program_id(0), tl.load(queue), tl.num_programs(0)):
        t = tl.load(queue + 1 + place_in_queue)
        tl.store(marks + t, 0)
        b, first = t // tiles, t // tiles * tiles
        dt = tl.load(dts + b)
        g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
        dt_dx, dt_rain = (dt / dx).to(tl.float32), (dt * tl.load(rains + b)).to(tl.float32)
        i, j, o = place(t % tiles, b, rows, pitch, left, pad, across, BY, BX)
        h, qx, qy = tl.load(old + o), old + plane, old + 2 * plane
        out = tl.zeros_like(h)
        if DRAIN:
            if tl.load(drains + t) != 0:
                out = outlet(drain, o, h, h_dry)
        share = share_of(shares, short, o, first, i, j, down, across, BY, BX)
        right = share_of(shares, short, o + 1, first, i, j + 1, down, across, BY, BX)
        before = share_of(shares, short, o - 1, first, i, j - 1, down, across, BY, BX)
        below = share_of(shares, short, o + pitch, first, i + 1, j, down, across, BY, BX)
        above = share_of(shares, short, o - pitch, first, i - 1, j, down, across, BY, BX)
        east, south = tl.load(new + plane + o), tl.load(new + 2 * plane + o)
        west = x_face(
            z, old, qx, qy, n, o - 1, j - 1, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
            ROUGH, LOG,
        )  # fmt: skip
        north = y_face(
            z, old, qx, qy, n, o - pitch, i - 1, ny, pitch, g_dt, g_dt_dx, theta, rest, eps,
            h_dry, ROUGH, LOG,
        )  # fmt: skip
        east = east * tl.where(east > 0, share, right)
        west = west * tl.where(west > 0, before, share)
        south = south * tl.where(south > 0, share, below)
        north = north * tl.where(north > 0, above, share)
        inside = (i < ny) & (j < nx)
        found = h + tl.where(inside, dt_rain, 0.0)
        found -= dt_dx * (((east - west) + (south - north)) + out * share)
        found = tl.where(found < 0.0, 0.0, found)
        tl.store(new + o, found)
        tl.store(new + plane + o, east)
        tl.store(new + 2 * plane + o, south)
        tl.store(deepest + t, greatest(found))


@triton.jit
def value_at(moments, values, k, t, POINTS: tl.constexpr):
    """Series ``k`` at time t: linear between its points, constant before and after."""
    found = tl.load(values + k * POINTS)
    for s in range(POINTS - 1):
        at = k * POINTS + s
        begin, low = tl.load(moments + at), tl.load(values + at)
        span = tl.load(moments + at + 1) - begin
        share = tl.minimum(tl.maximum((t - begin) / span, 0.0), 1.0)
        found += share * (tl.load(values + at + 1) - low)
    return found


@triton.jit
def clock(
    h,  # [b, rows, pitch] depth after the step
    deepest,  # [b, tiles] after the step
    awake,  # [b, tiles] out: see sweep
    age,  # [b, tiles] steps since the tile was dry all around
    queue,
    cells,  # [b, CELLS] offsets in a sample of cells with inflow; -1: none
    cell_tiles,  # [b, CELLS] their tiles
    gain,  # [b, CELLS] m/s per unit of the series, float64
    series,  # [b, CELLS] which series of the sample
    moments,  # [b, SERIES, POINTS] s, float64; the first series is the rain
    values,
    dts, dts_next, rains, times,  # [b] float64
    until,  # [b] s
    steps,  # [b] int64
    entered,  # [b] m3
    bad,  # [b] int32, out: the water is no longer water
    numbers,  # float64: dx, gravity, ..., from 6: courant, h_floor, dt_cap, area, cells
    down,
    across,
    stride,
    CELLS: tl.constexpr,
    SERIES: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    AUTHORS: tl.constexpr,
    LAZY: tl.constexpr,
):  # fmt: skip
    """After a step, one program a sample: inflow, totals, the next step's length."""
    b, tiles = tl.program_id(0), down * across
    if b == 0:
        tl.store(queue, 0)
    dx, gravity = tl.load(numbers), tl.load(numbers + 1)
    courant, floor = tl.load(numbers + 6), tl.load(numbers + 7)
    cap, area, count = tl.load(numbers + 8), tl.load(numbers + 9), tl.load(numbers + 10)
    dt, now, end, rain = (
        tl.load(dts + b), tl.load(times + b), tl.load(until + b), tl.load(rains + b),
    )  # fmt: skip
    k = b * CELLS + tl.arange(0, CELLS)
    at = tl.load(cells + k)
    feeds = tl.where(dt > 0, at, -1) >= 0
    which = b * SERIES + tl.load(series + k)
    rise = dt * tl.load(gain + k) * value_at(moments, values, which, now + dt / 2, POINTS)
    rise = tl.where(feeds, rise, 0.0)
    found = tl.atomic_add(h + b * stride + at, rise.to(tl.float32), feeds) + rise.to(tl.float32)
    found = tl.where(feeds, found, 0.0)
    tl.atomic_max(deepest + b * tiles + tl.load(cell_tiles + k), found, feeds)
    most = tl.max(found, 0)
    for start in range(0, tiles, BLOCK):
        index = start + tl.arange(0, BLOCK)
        block = tl.load(deepest + b * tiles + index, index < tiles, 0.0)
        most = tl.maximum(most, tl.max(block, 0))
    deep = tl.maximum(most.to(tl.float64), floor)
    tl.store(entered + b, tl.load(entered + b) + tl.sum(rise, 0) * area + dt * rain * area * count)
    now = tl.where(dt == end - now, end, now + dt)
    tl.store(times + b, now)
    tl.store(steps + b, tl.load(steps + b) + (dt > 0).to(tl.int64))
    if AUTHORS:
        step = courant * dx / (gravity + deep)
    else:
        root = tl.sqrt((gravity * deep).to(tl.float32)).to(tl.float64)
        root = 0.5 * (root + gravity * deep / root)  # the root of a float64, by Newton
        step = courant * dx / root
    step = tl.minimum(step, cap)
    rest = end - now
    step = tl.where(step >= rest * (1 - 1e-9), rest, step)
    fine = most < 1e5
    step = tl.where(fine, tl.maximum(step, 0.0), 0.0)
    tl.store(bad + b, tl.where(fine, tl.load(bad + b), 1))
    tl.store(dts_next + b, step)
    rain = value_at(moments, values, b * SERIES, now + step / 2, POINTS)
    tl.store(rains + b, rain)
    if LAZY:
        tl.debug_barrier()  # inflow may have wetted a tile
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
