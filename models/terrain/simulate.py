"""Runs ``terrain.simulate``: one flood, its depths over time and its water balance."""

import csv
import math
from typing import Any, NamedTuple

import numpy as np
import torch

from models.core.errors import DataError
from models.core.run import Run
from models.terrain import observations, view
from models.terrain.dem import rasters
from models.terrain.dem.netcdf import DepthStack, depth_stack
from models.terrain.dem.rasters import Elevation
from models.terrain.figures import animation, floods, maps, readings
from models.terrain.solver.engines import Flood, advance_to_times, scenario_of
from models.terrain.solver.gauges import Readings, stations
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.placement import placement
from models.terrain.solver.start import save_state
from models.terrain.solver.subgrid import SubgridTerrain
from models.terrain.solver.validity import supercritical_share, warn_if_supercritical
from models.terrain.spec.floods import TerrainSimulate

SOLVED, ALL = 900, 1000  # progress at the last step, and when all files are written
DEPTH = rasters.BandInfo("depth of water", "m")
MAXIMA = {
    "max_speed.tif": ("greatest speed of water", "m/s"),
    "max_discharge.tif": ("greatest discharge per metre, depth times speed", "m2/s"),
    "max_hazard.tif": ("greatest depth times (speed + 0.5 m/s)", "m2/s"),
    "duration.tif": ("time wet", "s"),
}
DRAWN = (
    ("max_speed.tif", "greatest speed", "m/s"),
    ("max_hazard.tif", "hazard h (v + 0.5 m/s)", "m²/s"),
    ("arrival.tif", "arrival", "s"),
    ("duration.tif", "time wet", "s"),
)


def simulate(spec: TerrainSimulate, run: Run) -> None:
    """Flood the terrain; each raster is written at its output time, so a stop keeps them.

    Raises:
        SpecError: if the water does not fit the terrain.
        DataError: if the terrain cannot be used.
        UnstableError: if the flood blows up.
        StoppedError: if a stop was requested.
    """
    ground = rasters.load(spec.terrain, run, spec.seed)
    rasters.warn_of(ground, run)
    seen = observations.seen_on(spec.observed, ground, run)
    local = ground.subgrid and ground.subgrid.over(float(ground.z.mean()))
    gauges = Readings(stations(spec.gauges, ground), ground.dx, local)
    scenario = scenario_of(spec, ground, spec.wet_depth_m, run)
    subgrid = ground.subgrid is not None
    where = placement(scenario, run, subgrid=subgrid, heights=not subgrid)
    flood = scenario.open(ground.z, ground.dx, subgrid=ground.subgrid)
    maxima = Maxima(ground.z.shape, spec.wet_depth_m, local) if spec.maxima else None
    result = Flooded(ground, flood, flood.volume, [], gauges, maxima, seen, local, where)
    outputs = set(_output_times(spec))
    times = sorted({*outputs, *spec.readings_s})

    def report_progress(t: float) -> None:
        run.progress(round(SOLVED * t / spec.duration_s), ALL, phase="flood", unit="per mille")

    with depth_stack(run.dir / "depth.nc", ground) as stack:
        for t in advance_to_times(flood, times, run, report_progress, result.maxima):
            if spec.gauges:
                gauges.take(flood, t)
            if t in outputs:
                _output(spec, run, result, t, stack)
    _write_results(spec, run, result)


class Flooded(NamedTuple):
    """A flood and what is kept of it.

    Attributes:
        ground: the terrain.
        flood: on its engine.
        first_m3: water at 0 s.
        rows: figures of the output times.
        readings: of the gauges.
        maxima: None where the spec asks for none.
        seen: observations; None without any.
        local: the terrain's subgrid with heights around 0 m.
        where: part of the report, where it runs.
    """

    ground: Elevation
    flood: Flood
    first_m3: float
    rows: list[dict[str, float]]
    readings: Readings
    maxima: Maxima | None
    seen: observations.Seen | None
    local: SubgridTerrain | None
    where: dict[str, Any]


def _output_times(spec: TerrainSimulate) -> list[float]:
    return [spec.duration_s * (k + 1) / spec.outputs for k in range(spec.outputs)]


def _output(spec: TerrainSimulate, run: Run, result: Flooded, t: float, stack: DepthStack) -> None:
    """Log, depth raster and slice of the stack at an output time."""
    depth = result.flood.depth[0].numpy()
    result.rows.append(_row(result, t, spec.wet_depth_m))
    run.log(len(result.rows), **result.rows[-1])
    name = _depth_name(t)
    rasters.write(run.dir / name, depth, result.ground, DEPTH, time_s=t)
    run.artifact(name, role="raster", time_s=t)
    stack.append(t, depth)


def _depth_name(t: float) -> str:
    return f"depth/t{round(t):08d}.tif"


def _row(result: Flooded, t: float, wet_m: float) -> dict[str, float]:
    """Figures of an output time.

    Raises:
        DataError: if a depth is not finite.
    """
    ground, flood = result.ground, result.flood
    depth, totals = flood.depth[0], flood.totals
    if not math.isfinite(float(depth.max() + depth.min())):
        raise DataError(f"a depth is not finite at {t:g} s")
    volume = flood.volume
    soaked = {} if flood.infiltrated is None else {"infiltrated_m3": totals.infiltrated}
    return {
        "time_s": t,
        "volume_m3": volume,
        "entered_m3": totals.entered,
        "left_m3": totals.left,
        **soaked,
        "balance_error": abs(
            volume - result.first_m3 - totals.entered + totals.left + totals.infiltrated
        )
        / max(result.first_m3 + totals.entered, 1e-9),
        "wet_share": int(torch.count_nonzero(depth > wet_m)) / int((~ground.missing).sum()),
        "deepest_m": float(depth.max()),
        "supercritical_share": supercritical_share(flood.state, wet_m, result.local),
    }


def _write_results(spec: TerrainSimulate, run: Run, result: Flooded) -> None:
    """Write the rasters, tables and pictures of the whole flood, and the report."""
    run.artifact("depth.nc", role="raster")
    _write_rasters(run, result)
    _write_tables(run, result)
    if spec.save_state:
        path = run.dir / "state.safetensors"
        save_state(path, result.flood.state, result.ground, spec.duration_s)
        run.artifact(path.name, role="state", time_s=spec.duration_s)
    run.progress((SOLVED + ALL) // 2, ALL, phase="report", unit="per mille")
    _draw(spec, run, result)
    _leave_view(run, result)
    _report(spec, run, result)
    run.progress(ALL, ALL, phase="report", unit="per mille")


def _write_rasters(run: Run, result: Flooded) -> None:
    """Greatest depth and level, arrival and, where they were kept, the maxima."""
    ground, flood, wet_m = result.ground, result.flood, 0.0
    peak, fields = flood.peak.numpy(), {}
    fields["max_depth.tif"] = (peak, "greatest depth of water", "m")
    fields["arrival.tif"] = (flood.arrival.numpy(), "time until wet", "s")
    if result.maxima is not None:
        wet_m = result.maxima.wet_m
        for name, values in zip(MAXIMA, result.maxima.fields, strict=True):
            fields[name] = (values.cpu().numpy(), *MAXIMA[name])
    if flood.infiltrated is not None:
        gone = flood.infiltrated.numpy()
        fields["infiltrated.tif"] = (gone, "water that went into the ground", "m")
    level = np.where(peak > wet_m, ground.bed_under(peak) + peak, np.nan)
    fields["max_level.tif"] = (level, "greatest level of water", "m")
    for name, (values, words, unit) in fields.items():
        rasters.write(run.dir / name, values, ground, rasters.BandInfo(words, unit))
        run.artifact(name, role="raster")


def _write_tables(run: Run, result: Flooded) -> None:
    """Volumes over time, readings of gauges, surveyed levels."""
    with (run.dir / "volume.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(result.rows[0]))
        table.writeheader()
        table.writerows(result.rows)
    run.artifact("volume.csv", role="table")
    gauges = result.readings
    if gauges.stations:
        with (run.dir / "gauges.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["time_s", *gauges.columns])
            for t, row in zip(gauges.times, gauges.rows, strict=True):
                lines.writerow([f"{t:.10g}", *(f"{value:.6g}" for value in row)])
        run.artifact("gauges.csv", role="table")
    if result.seen is not None and len(result.seen.level_m):
        peak = result.flood.peak.numpy()
        observations.write_marks(
            run.dir / "marks.csv", result.seen, result.ground.bed_under(peak), peak
        )
        run.artifact("marks.csv", role="table")


def _draw(spec: TerrainSimulate, run: Run, result: Flooded) -> None:
    """Pictures of the wet part, from the rasters that are written already."""
    ground, times = result.ground, [row["time_s"] for row in result.rows]
    part = maps.wet_part((result.flood.peak.numpy() > floods.SHOWN_M) & ~ground.missing)
    base_map = maps.base_map(ground, part)
    greatest = maps.read_part(run.dir / "max_depth.tif", part)
    panels = [floods.Panel("greatest depth", greatest)]
    for t in (times[k] for k in sorted({0, (len(times) - 1) // 2, len(times) - 1})):
        depth = maps.read_part(run.dir / _depth_name(t), part)
        panels.append(floods.Panel(f"after {t:.0f} s", depth))
    floods.depths(run.dir / "flood.png", base_map, panels, _finding(result))
    run.figure("flood.png")
    _draw_more(run, result, base_map, part)
    if spec.animation:
        small = animation.LONGEST_PX
        frames = maps.Frames([run.dir / _depth_name(t) for t in times], part, small)
        for name in ("flood.gif", "flood.webp"):
            animation.write(run.dir / name, maps.base_map(ground, part, small), times, frames)
            run.artifact(name, role="image")


def _finding(result: Flooded) -> str:
    """How much ground was under water and how deep, for titles."""
    ground, peak = result.ground, result.flood.peak.numpy()
    known = np.where(ground.missing, 0.0, peak)
    area_km2 = float((known > floods.SHOWN_M).sum()) * (ground.dx / 1000) ** 2
    area = f"{area_km2:.3g} km²" if area_km2 >= 0.1 else f"{1e6 * area_km2:,.0f} m²"
    return f"Flood on {ground.name}: {area} under water, at most {known.max():.3g} m deep"


def _draw_more(run: Run, result: Flooded, base_map: maps.BaseMap, part: maps.View) -> None:
    """Maxima, gauges and the observed extent, where there are any."""
    title = _finding(result)
    if result.maxima is not None:
        drawn = [
            floods.Scale(*scale[1:], maps.read_part(run.dir / scale[0], part)) for scale in DRAWN
        ]
        floods.scales(run.dir / "maxima.png", base_map, drawn, title)
        run.figure("maxima.png")
    if result.readings.stations:
        readings.draw(run.dir / "gauges.png", result.readings)
        run.figure("gauges.png")
    seen = result.seen
    if seen is not None and seen.wet is not None:
        either = (result.flood.peak.numpy() > floods.SHOWN_M) | seen.wet
        whole = maps.base_map(result.ground, maps.wet_part(either & ~result.ground.missing))
        part = maps.wet_part(either & ~result.ground.missing)
        peak = maps.read_part(run.dir / "max_depth.tif", part)
        truth = maps.sample_part(seen.wet * 2.0 * seen.wet_m, part)
        floods.extents(
            run.dir / "extent.png", whole, truth, [floods.Panel("observed extent", peak)],
            seen.wet_m, title,
        )  # fmt: skip
        run.figure("extent.png")


def _leave_view(run: Run, result: Flooded) -> None:
    """The flood over time, its greatest depth, arrival and other maxima, for the page."""
    flood = result.flood
    peak, times = flood.peak.numpy(), [row["time_s"] for row in result.rows]
    high = floods.full_depth([peak])
    layers = [
        view.ViewLayer("depth", "m", "water", [(_depth_name(t), t) for t in times], high),
        view.ViewLayer("greatest depth", "m", "water", [("max_depth.tif", None)], high),
        view.measure("arrival", "s", "arrival.tif", flood.arrival.numpy()),
    ]
    if flood.infiltrated is not None:
        gone = flood.infiltrated.numpy()
        layers.append(view.measure("into the ground", "m", "infiltrated.tif", gone))
    if result.maxima is not None:
        for name, values in zip(MAXIMA, result.maxima.fields, strict=True):
            layers.append(view.measure(*MAXIMA[name], name, values.cpu().numpy()))
    view.write(run, result.ground, layers, ("depth", None), result.readings.stations)


def _report(spec: TerrainSimulate, run: Run, result: Flooded) -> None:
    ground, flood, rows = result.ground, result.flood, result.rows
    fastest = max(row["supercritical_share"] for row in rows)
    warn_if_supercritical(run, fastest)
    hidden = float(flood.depth[0].numpy()[ground.missing].sum(dtype=np.float64)) * ground.dx**2
    figures = rows[-1] | {"supercritical_share": fastest, "hidden_m3": hidden}
    figures |= {"start_m3": result.first_m3, "wet_ever_share": _wet_ever(result, spec.wet_depth_m)}
    figures |= {"steps": flood.totals.steps, "cells": int(ground.z.size)}
    if result.seen is not None:
        peak = flood.peak.numpy()
        figures |= observations.scores(result.seen, ground.bed_under(peak), peak)
    report: dict[str, Any] = {
        "result": figures,
        "spec": spec.model_dump(mode="json"),
        "dx": ground.dx,
        "assumed": ground.notes,
    }
    report |= result.where
    report |= {"torch": torch.__version__, "nodata_cells": int(ground.missing.sum())}
    run.report("report.json", report)
    run.result(**figures)


def _wet_ever(result: Flooded, wet_m: float) -> float:
    """Share of the cells that were wet at any time."""
    wet = (result.flood.peak.numpy() > wet_m) & ~result.ground.missing
    return int(wet.sum()) / int((~result.ground.missing).sum())
