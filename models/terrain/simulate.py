"""Runs ``terrain.simulate``: one flood, its depths over time and its water balance."""

import csv
import json
import math
from typing import Any

import numpy as np
import torch

from models.core.errors import DataError
from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.netcdf import depth_stack
from models.terrain.dem.rasters import Elevation
from models.terrain.figures import animation, floods, maps
from models.terrain.solver.engines import advance_to_times, scenario_of
from models.terrain.solver.validity import supercritical_share, warn_if_supercritical
from models.terrain.spec.floods import TerrainSimulate

SOLVED, ALL = 900, 1000  # progress at the last step, and when all files are written
DEPTH = rasters.BandInfo("depth of water", "m")


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
    scenario = scenario_of(spec, ground, spec.wet_depth_m, run)
    flood = scenario.open(ground.z, ground.dx, subgrid=ground.subgrid)
    times = [spec.duration_s * (k + 1) / spec.outputs for k in range(spec.outputs)]
    rows: list[dict[str, float]] = []

    def report_progress(t: float) -> None:
        run.progress(round(SOLVED * t / spec.duration_s), ALL, phase="flood", unit="per mille")

    with depth_stack(run.dir / "depth.nc", ground) as stack:
        for index, t in enumerate(advance_to_times(flood, times, run, report_progress), 1):
            depth = flood.depth[0].numpy()
            rows.append(_row(flood, ground, t, spec.wet_depth_m))
            run.log(index, **rows[-1])
            name = _depth_name(t)
            rasters.write(run.dir / name, depth, ground, DEPTH, time_s=t)
            run.artifact(name, role="raster", time_s=t)
            stack.append(t, depth)
    _write_results(spec, run, ground, flood, rows)


def _depth_name(t: float) -> str:
    return f"depth/t{round(t):08d}.tif"


def _row(flood: Any, ground: Elevation, t: float, wet_m: float) -> dict[str, float]:
    """Figures of an output time.

    Raises:
        DataError: if a depth is not finite.
    """
    depth, totals = flood.depth[0], flood.totals
    if not math.isfinite(float(depth.max() + depth.min())):
        raise DataError(f"a depth is not finite at {t:g} s")
    volume = flood.volume
    return {
        "time_s": t,
        "volume_m3": volume,
        "entered_m3": totals.entered,
        "left_m3": totals.left,
        "balance_error": abs(volume - totals.entered + totals.left) / max(totals.entered, 1e-9),
        "wet_share": int(torch.count_nonzero(depth > wet_m)) / int((~ground.missing).sum()),
        "deepest_m": float(depth.max()),
        "supercritical_share": supercritical_share(flood.state, wet_m),
    }


def _write_results(
    spec: TerrainSimulate, run: Run, ground: Elevation, flood: Any, rows: list[dict[str, float]]
) -> None:
    """Write the rasters, table and pictures of the whole flood, and the report."""
    run.artifact("depth.nc", role="raster")
    for name, values, band in (
        ("max_depth.tif", flood.peak, rasters.BandInfo("greatest depth of water", "m")),
        ("arrival.tif", flood.arrival, rasters.BandInfo("time until wet", "s")),
    ):
        rasters.write(run.dir / name, values.numpy(), ground, band)
        run.artifact(name, role="raster")
    with (run.dir / "volume.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    run.artifact("volume.csv", role="table")
    run.progress((SOLVED + ALL) // 2, ALL, phase="report", unit="per mille")
    _draw(spec, run, ground, flood.peak.numpy(), [row["time_s"] for row in rows])
    _report(spec, run, ground, flood, rows)
    run.progress(ALL, ALL, phase="report", unit="per mille")


def _draw(
    spec: TerrainSimulate, run: Run, ground: Elevation, peak: np.ndarray, times: list[float]
) -> None:
    """Pictures of the wet part, from the rasters that are written already."""
    part = maps.wet_part((peak > floods.SHOWN_M) & ~ground.missing)
    base_map = maps.base_map(ground, part)
    greatest = maps.read_part(run.dir / "max_depth.tif", part)
    panels = [floods.Panel("greatest depth", greatest)]
    for t in (times[k] for k in sorted({0, (len(times) - 1) // 2, len(times) - 1})):
        depth = maps.read_part(run.dir / _depth_name(t), part)
        panels.append(floods.Panel(f"after {t:.0f} s", depth))
    floods.depths(run.dir / "flood.png", base_map, panels, f"Flood on {ground.name}")
    run.artifact("flood.png", role="image")
    if spec.animation:
        small = animation.LONGEST_PX
        frames = maps.Frames([run.dir / _depth_name(t) for t in times], part, small)
        base_map = maps.base_map(ground, part, small)
        animation.write(run.dir / "flood.gif", base_map, times, frames)
        run.artifact("flood.gif", role="image")


def _report(
    spec: TerrainSimulate, run: Run, ground: Elevation, flood: Any, rows: list[dict[str, float]]
) -> None:
    fastest = max(row["supercritical_share"] for row in rows)
    warn_if_supercritical(run, fastest)
    hidden = float(flood.depth[0].numpy()[ground.missing].sum(dtype=np.float64)) * ground.dx**2
    result = rows[-1] | {"supercritical_share": fastest, "hidden_m3": hidden}
    result |= {"steps": flood.totals.steps, "cells": int(ground.z.size)}
    report: dict[str, Any] = {
        "result": result,
        "spec": spec.model_dump(mode="json"),
        "dx": ground.dx,
        "assumed": ground.notes,
    }
    report |= {"torch": torch.__version__, "nodata_cells": int(ground.missing.sum())}
    (run.dir / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    run.artifact("report.json", role="report")
    run.result(**result)
