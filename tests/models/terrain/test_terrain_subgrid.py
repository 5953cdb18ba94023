"""Subgrid tables against brute force, and the reference step on them."""

import numpy as np
import pytest
import torch

from models.terrain.dem.pooling import mean
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import Ground, Physics, dry, stable_step, step, water_depth
from models.terrain.solver.subgrid import (
    FaceChange,
    changed,
    depth_over_lowest,
    face_shape,
    mean_depth,
    storage_slope,
    tables_of,
)
from models.terrain.solver.time_stepping import (
    Clock,
    UnstableError,
    advance,
)
from tests.models.terrain.flood_cases import flood, hills, puddles

DOUBLE, SINGLE = torch.float64, torch.float32


def valley(ny=6, nx=8, factor=8, dtype=DOUBLE, depth=3.0, seed=2):
    """Rough ground with a channel two fine cells wide that winds through all columns."""
    z = hills(ny * factor, nx * factor, seed=seed, height=1.5, dtype=DOUBLE)
    j = torch.arange(nx * factor)
    middle = ny * factor / 2 + ny * factor / 4 * torch.sin(j / nx / factor * 6.3)
    away = (torch.arange(ny * factor)[:, None] + 0.5 - middle).abs()
    return torch.where(away[None] < 1.2, z - depth, z).to(dtype)


def blocks(z, factor):
    """Fine heights of each coarse cell [ny, nx, cells]."""
    _, ny, nx = z.shape
    cut = z[0].numpy().reshape(ny // factor, factor, nx // factor, factor)
    return cut.transpose(0, 2, 1, 3).reshape(ny // factor, nx // factor, -1)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize("entries", [16, 64])
def test_storage_is_exact_at_the_entries_and_above(factor, entries):
    """The volume of brute force: above the highest cell to 1e-12, at every entry to its rounding.

    Levels are rounded to 1/65535 of the last entry, mean depths are then as exact.
    """
    z = valley(4, 5, factor)
    lowest, grid = tables_of(z, factor, entries)
    heights = blocks(z, factor)
    np.testing.assert_array_equal(lowest[0], heights.min(-1))
    share = (np.arange(entries) / (entries - 1)) ** 2
    for k in range(entries):
        level = (lowest + grid.storage[..., k])[0].numpy()
        depth = np.maximum(level[..., None] - heights, 0).mean(-1)
        rounding = grid.storage[0, ..., -1].numpy() / 2 / 65535 if 0 < k < entries - 1 else 1e-12
        assert (np.abs(depth - grid.full[0].numpy() * share[k]) <= rounding).all()
    above = grid.full * 1.7 + 0.3
    level = (lowest + depth_over_lowest(above, grid))[0].numpy()
    stored = np.maximum(level[..., None] - heights, 0).mean(-1)
    np.testing.assert_allclose(stored, above[0], rtol=0, atol=1e-12)


def test_storage_rises_and_is_inverted():
    """Level and mean depth rise together; each function is the other's inverse; slope is >= 1."""
    _, grid = tables_of(valley(), 8)
    h = torch.linspace(0, 4, 400, dtype=DOUBLE)[:, None, None].expand(-1, 6, 8)
    many = grid._replace(full=grid.full.expand_as(h), storage=grid.storage.expand(*h.shape, -1))
    d = depth_over_lowest(h, many)
    assert (d[1:] > d[:-1]).all()
    torch.testing.assert_close(mean_depth(d, many), h, rtol=0, atol=1e-12)
    slope = storage_slope(h, many)
    assert (slope >= 1 - 1e-12).all()
    assert (slope[-1] == 1).all()


@pytest.mark.parametrize("factor", [2, 8])
def test_faces_are_exact_at_the_entries_and_above(factor):
    """Flow depth and conveyance of brute force over the higher of both halves' sorted heights."""
    z = valley(4, 5, factor)
    _, grid = tables_of(z, factor)
    half = factor // 2
    cut = z[0].numpy().reshape(4, factor, 5, factor)
    for i, j in ((0, 0), (2, 3), (3, 1)):
        before, after = cut[i, :, j, half:], cut[i, :, j + 1, :half]
        paths = np.maximum(np.sort(before, None), np.sort(after, None))
        faces = type(grid.x)(*(field[:, i : i + 1, j : j + 1] for field in grid.x))
        for k in [*range(16), 40, 200]:
            level = faces.sill + faces.span * k / 15
            depth, friction = face_shape(level, faces)
            depths = np.maximum(float(level) - paths, 0)
            assert float(depth) == pytest.approx(depths.mean(), rel=1e-4, abs=2e-8)
            if k > 15:
                assert float(depth) == pytest.approx(depths.mean(), abs=1e-12)
            if k == 0 or depths.mean() < 1e-9:
                continue
            exact = (depths.mean() ** (5 / 3) / (depths ** (5 / 3)).mean()) ** 2
            assert float(friction) == pytest.approx(exact, rel=3e-3 if k < 16 else 0.03)


def test_between_the_entries_tables_are_near_brute_force():
    """16 entries: flow depth within 4 % of the span's, 64 within 1 %; the level likewise."""
    z = valley()
    heights = blocks(z, 8)
    for entries, bound in ((16, 0.04), (64, 0.01)):
        lowest, grid = tables_of(z, 8, entries)
        for share in np.linspace(0.01, 0.99, 37):
            level = (lowest + grid.storage[..., -1] * share)[0].numpy()
            exact = np.maximum(level[..., None] - heights, 0).mean(-1)
            got = mean_depth(grid.storage[..., -1] * share, grid)[0].numpy()
            assert np.abs(got - exact).max() <= bound * float(grid.full.max())
            assert (got >= exact - 1e-4).all()  # a chord of a convex function is above it


@pytest.mark.parametrize("physics", [Physics(), Physics(froude=0.7), Physics(limiter=False)])
def test_level_cells_give_the_plain_scheme(physics):
    """Constant heights in each cell: the plain step to rounding, with all boundaries."""
    ground, forcing = flood(10, 12)
    fine = ground.z.repeat_interleave(4, 1).repeat_interleave(4, 2)
    lowest, grid = tables_of(fine, 4)
    torch.testing.assert_close(lowest, ground.z, rtol=0, atol=0)
    level = torch.full_like(ground.z, -torch.inf)
    level[:, 0, :3] = float(ground.z[:, 0, :3].max()) + 0.2
    plain = ground._replace(level=level)
    ends = [
        advance(dry(ground.z), Clock.start(1), case, forcing, physics, 60.0)
        for case in (plain, plain._replace(subgrid=grid))
    ]
    assert ends[0][1].steps == ends[1][1].steps
    for a, b in zip(ends[0][0], ends[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def subgrid_flood(dtype=DOUBLE, batch=1, **ground):
    """Inflow, rain and an outlet on a valley of 6 x 8 coarse cells."""
    z = torch.cat([valley(dtype=dtype, seed=2 + k) for k in range(batch)])
    lowest, grid = tables_of(z, 8)
    plain, forcing = flood(6, 8, dtype, 40.0, batch)
    inlets = tuple(one._replace(rows=(1, 2), columns=(0, 0)) for one in forcing.inlets)
    return (
        plain._replace(z=lowest, subgrid=grid, **ground),
        forcing._replace(inlets=inlets),
    )


@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 1e-6)])
def test_volume_is_what_entered_less_what_left(dtype, bound):
    """Property 1 with a subgrid, a held level included."""
    ground, forcing = subgrid_flood(dtype)
    level = torch.full_like(ground.z, -torch.inf)
    level[:, -1, 2:4] = ground.z[:, -1, 2:4] + 1
    ground = ground._replace(level=level)
    state, clock = advance(dry(ground.z), Clock.start(1), ground, forcing, Physics(), 400.0)
    volume = state.h.sum(dtype=DOUBLE) * ground.dx**2
    assert clock.left > 0
    assert abs(volume - clock.entered + clock.left) <= bound * clock.entered
    assert state.h.min() >= 0
    held = mean_depth(level - ground.z, ground.subgrid)[:, -1, 2:4]
    torch.testing.assert_close(state.h[:, -1, 2:4], held)


@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 2e-5)])
def test_lake_at_rest_stays(dtype, bound):
    """Property 2 with a subgrid: partly wet cells and dry islands, 300 steps."""
    z = valley(dtype=dtype)
    lowest, grid = tables_of(z, 8)
    ground = Ground(lowest, 0.03, 40.0, subgrid=grid)
    h = mean_depth(float(z.quantile(0.4)) - lowest, grid)
    assert ((h > 0) & (h < grid.full)).float().mean() > 0.05
    state = dry(lowest)._replace(h=h)
    dt = stable_step(water_depth(h, ground), 40.0, Physics())
    for _ in range(300):
        state, _ = step(state, ground, dt, 0.0, Physics())
    assert (state.h - h).abs().max() <= bound


def test_depths_are_never_negative():
    """Property 5 with a subgrid: steps beyond the stable one on steep ground."""
    z = hills(48, 64, height=40.0)
    lowest, grid = tables_of(z, 8)
    state = puddles(lowest, deepest=0.3)
    volume, dt = state.h.sum(), 3 * stable_step(lowest * 0 + 5, 10.0, Physics())
    for _ in range(60):
        state, _ = step(state, Ground(lowest, 0.02, 10.0, subgrid=grid), dt, 0.0, Physics())
        assert state.h.min() >= 0
    torch.testing.assert_close(state.h.sum(), volume, rtol=1e-9, atol=0)


@pytest.mark.parametrize("depth", [0.2, 3.0])
def test_noise_on_a_lake_calms_down(depth):
    """Property 12 with a subgrid: partly wet cells, steps from the depth over the lowest height."""
    z = valley()
    lowest, grid = tables_of(z, 8)
    ground = Ground(lowest, 0.03, 40.0, subgrid=grid)
    noise = 1e-4 * torch.randn(lowest.shape, generator=torch.Generator().manual_seed(0))
    level = float(lowest.min()) + depth + 2
    state = dry(lowest)._replace(h=mean_depth(level + noise - lowest, grid))
    physics = Physics(dt_max=1e9)
    state, _ = advance(state, Clock.start(1), ground, Forcing(), physics, 1e12, 300)
    wet = state.h > 0
    stage = (lowest + water_depth(state.h, ground))[wet]
    assert (stage - stage.mean()).abs().max() < 2e-4


def test_the_step_cannot_follow_from_the_flow_depth_of_faces():
    """Property 12: a channel an eighth of the width is as fast as its depth, not its mean depth."""
    z = torch.zeros(1, 8, 64, dtype=DOUBLE)
    z[:, 3] = -4.0
    lowest, grid = tables_of(z, 8)
    ground = Ground(lowest, 0.03, 40.0, subgrid=grid)
    noise = 1e-4 * torch.randn(lowest.shape, generator=torch.Generator().manual_seed(0))
    start = dry(lowest)._replace(h=mean_depth(3.0 + noise.double(), grid))
    growth = {}
    for name, depth in (("lowest", 3.0), ("faces", 3.0 / 8)):
        state = start
        dt = stable_step(torch.full_like(lowest, depth), 40.0, Physics(dt_max=1e9))
        for _ in range(150):
            state, _ = step(state, ground, dt, 0.0, Physics())
        growth[name] = float((water_depth(state.h, ground) - 3).abs().max())
    assert growth["lowest"] < 2e-4
    assert growth["faces"] > 0.1


def test_changes_of_faces_shift_sills_and_scale_friction():
    """Zero changes nothing; a sill ends at the lowest heights; films and deep water differ."""
    z = valley()
    lowest, grid = tables_of(z, 8)

    def change(shift, film, deep):
        like = torch.ones_like
        x, y = ((shift * like(f.sill), film * like(f.sill), deep * like(f.sill)) for f in grid[2:])
        return changed(grid, lowest, FaceChange(*x), FaceChange(*y))

    same = change(0.0, 0.0, 0.0)
    for a, b in zip([*same.x, *same.y], [*grid.x, *grid.y], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    low = change(-100.0, 0.0, 0.0)
    torch.testing.assert_close(low.x.sill, torch.maximum(lowest[:, :, 1:], lowest[:, :, :-1]))
    level = grid.x.sill + 3e-3
    thin = face_shape(level, change(0.0, 1.0, 0.0).x).friction / face_shape(level, grid.x).friction
    deep = face_shape(level + 90, change(0.0, 1.0, 0.0).x).friction
    assert (thin > 2.5).all()
    assert (deep < 1.8).all()


def test_coarse_terrain_of_a_subgrid_is_mean_pooling_when_full():
    """Fully wet cells have the level of mean pooling plus the depth."""
    z = valley()
    lowest, grid = tables_of(z, 8)
    h = grid.full + 1
    level = lowest + depth_over_lowest(h, grid)
    torch.testing.assert_close(level[0], mean(z[0], 8) + h[0], rtol=0, atol=1e-12)


def rough_ground(ny=35, nx=180, factor=4):
    """More than a tile, every boundary at work, as float32."""
    plain, forcing = flood(ny, nx, SINGLE)
    lowest, grid = tables_of(hills(ny * factor, nx * factor, height=6.0, dtype=SINGLE), factor)
    level = torch.full_like(lowest, -torch.inf)
    level[:, 0, -3:] = lowest[:, 0, -3:] + 0.5
    n = 0.02 + 0.05 * torch.rand(lowest.shape, generator=torch.Generator().manual_seed(0))
    ground = plain._replace(z=lowest, subgrid=grid, manning=n, level=level)
    return ground, forcing._replace(rain_map=torch.rand(ny, nx))


@pytest.mark.parametrize("physics", [Physics(dt_max=2.0), Physics(froude=0.5, dt_max=2.0)])
def test_the_compiled_engine_equals_the_reference(physics):
    """Property 6 with a subgrid: 1e-5 after the same steps; volumes; threads change no bit."""
    ground, forcing = rough_ground()
    start = dry(ground.z)._replace(h=puddles(ground.z, deepest=0.5).h)
    engines = [FusedFlood(ground, forcing, physics, start, k) for k in (1, 2)]
    for engine in engines:
        assert engine.advance(50.0)
    state, clock = advance(start, Clock.start(1), ground, forcing, physics, 50.0)
    assert engines[0].totals.steps == int(clock.steps)
    for a, b, c in zip(engines[0].state, state, engines[1].state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        assert torch.equal(a, c)
    begin = float(start.h.sum(dtype=DOUBLE)) * ground.dx**2
    entered, left = engines[0].totals.entered, engines[0].totals.left
    assert abs(engines[0].volume - begin - entered + left) <= 1e-6 * (begin + entered)
    assert float(engines[0].depth.min()) >= 0


@pytest.mark.parametrize("has_subgrid", [False, True])
def test_a_drop_on_a_cell_that_owes_more_leaves_it_dry(has_subgrid):
    """What an emptied cell carries may lie below zero: rain and inflow pay that first."""
    ground, forcing = rough_ground()
    if not has_subgrid:
        ground = ground._replace(subgrid=None)
    drop = constant(1e-9)
    inlets = tuple(one._replace(series=drop) for one in forcing.inlets)
    forcing = forcing._replace(rain=drop, inlets=inlets)
    level = torch.full_like(ground.level, -torch.inf)
    engine = FusedFlood(ground._replace(level=level), forcing, Physics(dt_max=2.0), None, 1)
    engine.arrays.remainder[:] = -1e-6
    owed = engine.volume
    assert engine.advance(20.0)
    assert float(engine.depth.min()) == 0
    assert engine.volume == pytest.approx(owed + engine.totals.entered - engine.totals.left)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_water_that_is_no_number_ends_the_run(bad):
    """It looks nothing up outside of the tables, which would end the process."""
    ground, forcing = rough_ground()
    engine = FusedFlood(ground, forcing, Physics(dt_max=2.0), None, 1)
    engine.arrays.h[:] = bad
    engine.arrays.max_depth_bits[:] = 1
    with pytest.raises(UnstableError):
        engine.advance(50.0)


def test_a_lake_rests_on_the_compiled_engine():
    """Properties 2 and 12 with a subgrid: partly wet cells, noise of 0.1 mm, 2000 steps."""
    z = valley(dtype=SINGLE)
    lowest, grid = tables_of(z, 8)
    ground = Ground(lowest, 0.03, 40.0, subgrid=grid)
    noise = 1e-4 * torch.randn(lowest.shape, generator=torch.Generator().manual_seed(0))
    level = float(z.quantile(0.4))
    for by, bound in ((0.0, 2e-5), (1.0, 2e-4)):
        h = mean_depth(level + by * noise - lowest, grid)
        engine = FusedFlood(ground, Forcing(), Physics(dt_max=1e9), dry(lowest)._replace(h=h))
        engine.advance(1e12, 2000)
        stage = (lowest + water_depth(engine.depth, ground))[engine.depth > 0]
        assert (stage - level).abs().max() <= bound


def test_inflow_into_a_partly_wet_cell_counts_as_depth():
    """Property 15 with a subgrid: the first steps of the engines are the same."""
    ground, _ = subgrid_flood(SINGLE)
    forcing = Forcing((Inlet(constant(300.0), (3,), (4,)),), constant(1e-5))
    flood = FusedFlood(ground, forcing, Physics(), wet_m=0.05)
    flood.advance(60.0)
    _, clock = advance(dry(ground.z), Clock.start(1), ground, forcing, Physics(), 60.0)
    assert flood.totals.steps == int(clock.steps)
    assert float(flood.peak.max()) > 0.05
