"""Subgrid tables in the tiles of the fused CPU engine, compiled.

The tables lie in padded fields of the whole grid, closed faces around it, in which cell (row, k)
of a tile's plane has the index ``at + row * pitch + k``. A lookup is a gather without a search.
"""

from typing import no_type_check

from numba import float32, int32

from models.terrain.solver.cpu.pointers import (
    bits,
    from_bits,
    load_constant,
    load_shorts,
    pointer,
    square_root,
)
from models.terrain.solver.cpu.tile import (
    FLOW_X,
    FLOW_Y,
    FRICTION_X,
    FRICTION_Y,
    LEFT,
    ONE,
    STRIDE,
    TOP,
    TWO,
    ZERO,
    D,
    H,
    Z,
    compiled,
    inlined,
    load,
    store,
)  # fmt: skip
from models.terrain.solver.subgrid import (
    DEPTH_BIAS,
    DEPTH_EXPONENT,
    FRICTION_EXPONENT,
    STORAGE_UNITS,
)

UNIT = float32(1 / STORAGE_UNITS)


@inlined
@no_type_check
def face_entry(level, fields, p, cells, last):
    """Position of a level in the table of face p: first entry, share of the next, if above all.

    Within the table whatever the level is, NaN included: that is found after the step.
    """
    x = (level - load_constant(fields, p)) * load_constant(fields, cells + p)
    inside = min(max(ZERO, x), float32(last))
    k = min(int32(inside), int32(last - 1))
    return k, inside - float32(k), x > float32(last)


@inlined
@no_type_check
def depth_of(word):
    """Flow depth of a packed entry."""
    upper = ((word >> int32(12)) & int32(0xFFFFF)) << int32(8)
    return from_bits(int32(upper + int32(DEPTH_EXPONENT))) - float32(DEPTH_BIAS)


@inlined
@no_type_check
def friction_of(word):
    """Friction factor of a packed entry."""
    lower = (word & int32(0xFFF)) << int32(15)
    return from_bits(int32(lower + int32(FRICTION_EXPONENT)))


@inlined
@no_type_check
def face_at(level, fields, shapes, p, cells, last):
    """Flow depth and friction factor of face p: :func:`models.terrain.solver.subgrid.face_shape`.

    ``fields``: sill, entries a metre, mean, far and fall [5, cells]; ``shapes``: packed depths and
    frictions [cells, last + 1]; friction above the table is far - fall / depth^2.
    """
    k, share, above = face_entry(level, fields, p, cells, last)
    entry = p * (last + 1) + k
    word, following = bits(load_constant(shapes, entry)), bits(load_constant(shapes, entry + 1))
    low, high = depth_of(word), depth_of(following)
    rough, next_rough = friction_of(word), friction_of(following)
    mean = level - load_constant(fields, 2 * cells + p)
    depth = max(low + (high - low) * share, mean)
    within = rough + (next_rough - rough) * share
    safe = depth if above else ONE
    deep = load_constant(fields, 3 * cells + p) - load_constant(fields, 4 * cells + p) / (
        safe * safe
    )
    return depth, deep if above else within


@compiled
@no_type_check
def face_row(s, row, width, at, pitch, next_cell, fields, shapes, cells, last):
    """Look up the faces of a row of cells: to the right, or below with ``next_cell`` of a row."""
    base, p0 = row * STRIDE + 2, at + row * pitch + 2
    flow = FLOW_X if next_cell == 1 else FLOW_Y
    friction = FRICTION_X if next_cell == 1 else FRICTION_Y
    for j in range(width):
        a = base + j
        b = a + next_cell
        level = max(load(s, Z + a) + load(s, D + a), load(s, Z + b) + load(s, D + b))
        depth, factor = face_at(level, fields, shapes, p0 + j, cells, last)
        store(s, flow + a, depth)
        store(s, friction + a, factor)


@inlined
@no_type_check
def depth_at(h, fields, storage, p, cells, last):
    """Depth over the lowest height: :func:`models.terrain.solver.subgrid.depth_over_lowest`.

    ``fields``: last^2 / full, full, rise of a full cell [3, cells]; ``storage``: 16-bit shares of
    the last entry [cells, last + 1]. The entry lies within it whatever ``h`` is, NaN included.
    """
    x = h * load_constant(fields, p)
    k = int32(min(square_root(max(ZERO, x)), float32(last - 1)))
    i = float32(k)
    entries = load_shorts(storage, p * (last + 1) + k)
    low, high = float32(entries & 0xFFFF), float32((entries >> 16) & 0xFFFF)
    full, rise = load_constant(fields, cells + p), load_constant(fields, 2 * cells + p)
    share = low + (high - low) * (x - i * i) / (TWO * i + ONE)
    return share * UNIT * (full + rise) if h < full else h + rise


@compiled
@no_type_check
def depth_row(s, row, columns, at, pitch, fields, storage, cells, last):
    """Depths over the lowest heights of a row of cells, from their new mean depths."""
    base, p0 = row * STRIDE + LEFT, at + row * pitch + LEFT
    for j in range(columns):
        h = load(s, H + base + j)
        store(s, D + base + j, depth_at(h, fields, storage, p0 + j, cells, last))


@compiled
@no_type_check
def cell_depth(g, layout, cell, h):
    """Water depth of one cell of the grid with mean depth ``h``, over its lowest height."""
    if layout.entries == 0:
        return h
    p, cells = padded(layout, cell), cells_of(g)
    rounded = float32(h)
    return depth_at(
        rounded, pointer(g.cell_fields), pointer(g.storage), p, cells, layout.entries - 1
    )


@compiled
@no_type_check
def mean_depth_over(g, layout, cell, d):
    """Mean depth of a cell of the grid with water ``d`` m deep over its lowest height."""
    if layout.entries == 0 or not d > ZERO:
        return max(d, ZERO)
    p, last, cells = padded(layout, cell), layout.entries - 1, cells_of(g)
    full, rise = g.cell_fields[cells + p], g.cell_fields[2 * cells + p]
    whole = full + rise
    if not (full > ZERO and d < whole):
        return d - rise
    storage, k = pointer(g.storage), int32(0)
    share = d / whole / UNIT
    while k < last - 1 and share >= ((load_shorts(storage, p * (last + 1) + k) >> 16) & 0xFFFF):
        k += int32(1)
    entries = load_shorts(storage, p * (last + 1) + k)
    low, high = float32(entries & 0xFFFF), float32((entries >> 16) & 0xFFFF)
    part = min((share - low) / max(high - low, ONE), ONE)
    i = float32(k)
    return (i * i + (TWO * i + ONE) * part) / g.cell_fields[p]


@compiled
@no_type_check
def padded(layout, cell):
    """Index of a cell of the grid in the padded fields."""
    return (cell // layout.nx + TOP) * layout.table_pitch + cell % layout.nx + LEFT


@compiled
@no_type_check
def cells_of(g):
    """Number of cells of a padded field."""
    return len(g.cell_fields) // 3


@compiled
@no_type_check
def wet_slope(g, layout, cell, h):
    """Rise of the level over that of the mean depth."""
    p, last = padded(layout, cell), layout.entries - 1
    cells, per_depth = cells_of(g), g.cell_fields[p]
    full = g.cell_fields[cells + p]
    if not 0 <= h < full:
        return 1.0
    k = min(int(square_root(h * per_depth)), last - 1)
    entry = p * layout.entries + k
    entries = load_shorts(pointer(g.storage), entry)
    rise = ((entries >> 16) & 0xFFFF) - (entries & 0xFFFF)
    return rise / STORAGE_UNITS * (full + g.cell_fields[2 * cells + p]) * per_depth / (2 * k + 1)
