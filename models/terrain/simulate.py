"""Runs ``terrain.simulate``: one flood, its depths over time and its water balance."""

import csv
import json
from typing import Any

import numpy as np
import torch

from models.core.errors import DataError
from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.rasters import Elevation
from models.terrain.figures import animation, floods
from models.terrain.solver.engines import advance_to_times, scenario_of
from models.terrain.solver.validity import supercritical_share, warn_if_supercritical
from models.terrain.spec.floods import TerrainSimulate


def simulate(spec: TerrainSimulate, run: Run) -> None:
    """Flood the terrain; each raster is written at its output time, so a stop keeps them.

    Raises:
        SpecError: if the water does not fit the terrain.
        DataError: if the terrain cannot be used.
        UnstableError: if the flood blows up.
        StoppedError: if a stop was requested.
    """
    ground = rasters.load(spec.terrain, run, spec.seed)
    if ground.missing.any():
        run.warn(
            "nodata_filled", f"{int(ground.missing.sum())} cells without height: no result there"
        )
    flood = scenario_of(spec, ground, spec.wet_depth_m, run).open(ground.z, ground.dx)
    times = [spec.duration_s * (k + 1) / spec.outputs for k in range(spec.outputs)]
    rows: list[dict[str, float]] = []
    frames: list[np.ndarray] = []

    def report_progress(t: float) -> None:
        run.progress(round(t), round(spec.duration_s), phase="flood", unit="s")

    for index, t in enumerate(advance_to_times(flood, times, run, report_progress), 1):
        depth = flood.depth[0].numpy()
        row = _row(flood, t, spec.wet_depth_m)
        rows.append(row)
        run.log(index, **row)
        name = f"depth/t{round(t):08d}.tif"
        rasters.write(run.dir / name, depth, ground, time_s=t, quantity="depth in m")
        run.artifact(name, role="raster", time_s=t)
        frames.append(depth)
    _write_results(spec, run, ground, flood, rows, frames)


def _row(flood: Any, t: float, wet_m: float) -> dict[str, float]:
    """Figures of an output time.

    Raises:
        DataError: if a depth is not finite.
    """
    depth, totals = flood.depth[0], flood.totals
    if not bool(torch.isfinite(depth).all()):
        raise DataError(f"a depth is not finite at {t:g} s")
    volume = flood.volume
    return {
        "time_s": t,
        "volume_m3": volume,
        "entered_m3": totals.entered,
        "left_m3": totals.left,
        "balance_error": abs(volume - totals.entered + totals.left) / max(totals.entered, 1e-9),
        "wet_share": float((depth > wet_m).double().mean()),
        "deepest_m": float(depth.max()),
        "supercritical_share": supercritical_share(flood.state, wet_m),
    }


def _write_results(
    spec: TerrainSimulate,
    run: Run,
    ground: Elevation,
    flood: Any,
    rows: list[dict[str, float]],
    frames: list[np.ndarray],
) -> None:
    """Write the rasters, table and pictures of the whole flood, and the report."""
    peak, arrival = flood.peak.numpy(), flood.arrival.numpy()
    rasters.write(run.dir / "max_depth.tif", peak, ground, quantity="greatest depth in m")
    run.artifact("max_depth.tif", role="raster")
    rasters.write(run.dir / "arrival.tif", arrival, ground, quantity="s until wet")
    run.artifact("arrival.tif", role="raster")
    with (run.dir / "volume.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    run.artifact("volume.csv", role="table")
    base_map = floods.BaseMap(ground.z, ground.dx, ground.missing)
    panels = [floods.Panel("greatest depth", peak)]
    shown = sorted({0, (len(frames) - 1) // 2, len(frames) - 1})
    panels += [floods.Panel(f"after {rows[k]['time_s']:.0f} s", frames[k]) for k in shown]
    floods.depths(run.dir / "flood.png", base_map, panels, f"Flood on {ground.name}")
    run.artifact("flood.png", role="image")
    if spec.animation:
        animation.write(run.dir / "flood.gif", base_map, [row["time_s"] for row in rows], frames)
        run.artifact("flood.gif", role="image")
    fastest = max(row["supercritical_share"] for row in rows)
    warn_if_supercritical(run, fastest)
    result = rows[-1] | {"steps": flood.totals.steps, "cells": int(ground.z.size)}
    result["supercritical_share"] = fastest
    report: dict[str, Any] = {
        "result": result,
        "spec": spec.model_dump(mode="json"),
        "dx": ground.dx,
    }
    report |= {"torch": torch.__version__, "nodata_cells": int(ground.missing.sum())}
    (run.dir / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    run.artifact("report.json", role="report")
    run.result(**result)
