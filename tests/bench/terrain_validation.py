"""Floods of ``terrain.simulate`` against analytic solutions: a tide, a bowl, a backwater.

    python -m tests.bench.terrain_validation --out FILE.json

Each case is a job's spec with its files, run as a child runs it; its gauges and rasters are
compared with the solution.
"""

import argparse
import csv
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from pydantic import TypeAdapter

from models.catalog import JobSpec
from models.core.run import Run
from models.stored import load_entry

G = 9.8
DIGESTS = {name: f"{k:064x}" for k, name in enumerate(("dem", "first", "tide"), 1)}


def ref(name: str, dx: float) -> dict[str, object]:
    return {"dataset": name, "sha256": DIGESTS[name], "cell_size_m": dx}


def flooded(
    folder: Path, z: np.ndarray, dx: float, files: dict[str, object], **fields: object
) -> None:
    """Run a flood on heights z [ny, nx] in m; its files are left in ``folder``."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    for name, given in {"dem": z, **files}.items():
        with (inputs / DIGESTS[name]).open("wb") as file:
            if isinstance(given, np.ndarray):
                np.save(file, given.astype(np.float32))
            else:
                file.write(str(given).encode())
    spec = {"kind": "terrain.simulate", "terrain": ref("dem", dx), "animation": False, **fields}
    job = TypeAdapter(JobSpec).validate_python(spec)
    with (folder / "events.jsonl").open("w") as events:
        load_entry(job)(job, Run(folder, events))


def readings(folder: Path) -> dict[str, np.ndarray]:
    rows = list(csv.reader((folder / "gauges.csv").read_text().splitlines()))
    return dict(zip(rows[0], np.array(rows[1:], float).T, strict=True))


def tide(folder: Path) -> dict[str, float]:
    """A standing tide in a closed channel of constant depth, linear and without friction.

    eta = a cos(k (L - x)) / cos(k L) cos(w t) with k = w / sqrt(g H): 52 % more at its end.
    """
    length, depth, a, dx, period = 60_000.0, 20.0, 0.1, 500.0, 31_600.0
    k = 2 * np.pi / period / np.sqrt(G * depth)
    nx = int(length / dx)
    x = (np.arange(nx) + 0.5) * dx
    shape = a * np.cos(k * (length - x)) / np.cos(k * (length - dx / 2))
    t = np.arange(0, 2 * period + 1, 60.0)
    series = "time_s,tide_m\n" + "\n".join(
        f"{s:g},{a * np.cos(2 * np.pi / period * s):.9f}" for s in t
    )
    first = np.tile(shape, (3, 1))
    gauges = [{"name": "end", "x_m": length - dx / 2, "y_m": dx * 1.5},
              {"name": "middle", "x_m": length / 2, "y_m": dx * 1.5}]  # fmt: skip
    flooded(
        folder, np.full((3, nx), -depth), dx, {"first": first, "tide": series},
        water=[{"type": "level", "edge": "left",
                "series": {"dataset": "tide", "sha256": DIGESTS["tide"]}}],
        start={"level_map": ref("first", dx)}, gauges=gauges, duration_s=2 * period, outputs=1,
        solver={"manning": 1e-3}, gauge_every_s=period / 100,
    )  # fmt: skip
    table = readings(folder)
    swing = np.cos(2 * np.pi / period * table["time_s"])
    gaps = {
        "end": table["end stage_m"] - shape[-1] * swing,
        "middle": table["middle stage_m"] - np.interp(length / 2 + dx / 2, x, shape) * swing,
    }
    amplified = np.ptp(table["end stage_m"][100:]) / 2 / a
    figures = {
        f"rmse_{name}_over_amplitude": float(np.sqrt(np.mean(gap**2))) / a
        for name, gap in gaps.items()
    }
    return figures | {"amplification": float(amplified), "exact": float(shape[-1] / a)}


def bowl(folder: Path, eta: float = 0.5) -> dict[str, float]:
    """Thacker 1981: a plane surface that sways in a parabolic channel, with dry banks.

    z = D (x / a)^2, surface D - s x cos(wt) with w = sqrt(2 g D) / a: exact for the full equations
    but for a rise and fall of s^2 a^2 / 4 D; local inertia leaves out terms of s^2 too. ``eta``:
    rise of the surface at x = a, m.
    """
    d, a, dx = 10.0, 3000.0, 25.0
    omega = np.sqrt(2 * G * d) / a
    nx = int(2.6 * a / dx) // 2 * 2
    x = (np.arange(nx) + 0.5) * dx - nx * dx / 2
    z = np.tile(d * (x / a) ** 2, (3, 1))
    tilt = -eta / a
    surface = d + tilt * x
    depth = np.tile(np.maximum(surface - z[0], 0), (3, 1))
    period = 2 * np.pi / omega
    flooded(
        folder, z, dx, {"first": depth}, water=[], start={"depth_map": ref("first", dx)},
        duration_s=2 * period, outputs=8, solver={"manning": 1e-3}, gauge_every_s=period / 200,
        gauges=[{"name": "bank", "x_m": nx * dx / 2 + 0.8 * a, "y_m": 1.5 * dx}],
    )  # fmt: skip
    table = readings(folder)
    exact = d + tilt * (0.8 * a + dx / 2) * np.cos(omega * table["time_s"])
    gap = table["bank stage_m"] - exact
    swing = abs(tilt) * 0.8 * a
    last = table["time_s"] > period
    return {
        "rmse_over_amplitude": float(np.sqrt(np.mean(gap**2))) / swing,
        "amplitude_of_second_period": float(np.ptp(table["bank stage_m"][last]) / 2 / swing),
        "shoreline_travel_cells": float(eta * a / d / dx),
    }


def high_bowl(folder: Path) -> dict[str, float]:
    """The same with four times the amplitude, where the terms of s^2 count."""
    return bowl(folder, 2.0)


def backwater(folder: Path) -> dict[str, float]:
    """Steady flow to a lake: the level along a channel against dh/dx = (S0 - Sf) / (1 - Fr^2)."""
    q, n, s0, dx, nx, lake = 2.0, 0.03, 5e-4, 50.0, 200, 4.0
    x = (np.arange(nx) + 0.5) * dx
    z = np.tile(s0 * (nx * dx - x), (3, 1))
    exact = np.empty(nx)
    exact[-1] = lake - z[0, -1]
    for k in range(nx - 1, 0, -1):
        h = exact[k]
        for _ in range(20):  # the trapezoidal rule, by iteration
            rates = [
                (s0 - n * n * q * q / y ** (10 / 3)) / (1 - q * q / (G * y**3))
                for y in (exact[k], h)
            ]
            h = exact[k] - dx * sum(rates) / 2
        exact[k - 1] = h
    flooded(
        folder, z, dx, {}, duration_s=40_000.0, outputs=1, solver={"manning": n},
        water=[{"type": "inflow", "edge": "left", "discharge_m3_s": q * 3 * dx},
               {"type": "level", "edge": "right", "level_m": lake}],
        start={"level_m": lake}, gauges=[{"name": "middle", "line_m": [[5000, 150], [5000, 0]]}],
    )  # fmt: skip
    with rasterio.open(folder / "depth" / "t00040000.tif") as raster:
        gap = raster.read(1)[1] - exact
    carried = readings(folder)["middle discharge_m3_s"][-1]
    return {
        "rmse_m": float(np.sqrt(np.mean(gap[1:] ** 2))), "largest_m": float(np.abs(gap[1:]).max()),
        "normal_depth_m": float((q * n / np.sqrt(s0)) ** 0.6),
        "discharge_over_exact": float(carried / (q * 3 * dx)),
        "froude": float(q / np.sqrt(G * exact[0] ** 3)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out, rows = parser.parse_args().out, {}
    for case in (tide, bowl, high_bowl, backwater):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            rows[case.__name__] = case(Path(folder) / "run")
            rows[case.__name__]["seconds"] = time.perf_counter() - began
        print(case.__name__, rows[case.__name__], flush=True)
        machine = {"processor": platform.machine(), "python": platform.python_version()}
        out.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
