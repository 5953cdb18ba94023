"""Floods of ``terrain.simulate`` against published solutions: channels, rain on a plane, a plain.

    python -m tests.bench.terrain_published --out FILE.json

Steady channels after MacDonald et al. 1997, the kinematic wave of rain on a plane, and test 4 of
the Environment Agency's benchmarks of 2-D packages (SC080035). Its tests 1, 2 and 5 are defined by
files of heights and series, which are not part of this project; what test 1 must end with follows
from its sill and its levels alone, so a bed of our own with these stands for it.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from scipy.integrate import cumulative_trapezoid
from scipy.optimize import brentq

from tests.bench.terrain_validation import G, flooded, readings, ref

# Test 4, depth in m along the middle line at 1 h by distance from the inflow in m: the range of the
# packages in the report's figure, as another project read it off by eye, to 0.02 m
SPREAD = {
    25: (0.32, 0.46), 50: (0.29, 0.36), 100: (0.25, 0.29), 150: (0.21, 0.25), 200: (0.18, 0.21),
    250: (0.15, 0.18), 300: (0.11, 0.14), 350: (0.06, 0.10), 400: (0.00, 0.04),
}  # fmt: skip
READ_OFF_M = 0.02


def channel(folder: Path, low: float, high: float) -> dict[str, float]:
    """A bed made for a given steady depth, low + high exp(-16 (x / L - 1/2)^2), q = 2 m2/s.

    dz/dx = (Fr^2 - 1) dh/dx - Sf: exact for the full equations. Without Fr^2 dh/dx, the convection
    that local inertia leaves out, the depth on that bed is another one, ``inertial``.
    """
    q, n, length, dx = 2.0, 0.033, 1000.0, 5.0
    nx = int(length / dx)
    edges = np.linspace(0, length, 40 * nx + 1)
    bump = high * np.exp(-16 * (edges / length - 0.5) ** 2)
    h, rise = low + bump, -32 * (edges / length - 0.5) / length * bump
    froude2 = q * q / (G * h**3)
    fall = (froude2 - 1) * rise - n * n * q * q / h ** (10 / 3)
    z = cumulative_trapezoid(fall, edges, initial=0)
    centres = (np.arange(nx) + 0.5) * dx
    bed, exact = np.interp(centres, edges, z), np.interp(centres, edges, h)
    bed -= bed.min()
    flooded(
        folder, np.tile(bed, (3, 1)), dx, {"first": np.tile(exact, (3, 1))}, duration_s=14_400.0,
        outputs=1, solver={"manning": n}, start={"depth_map": ref("first", dx)},
        water=[{"type": "inflow", "edge": "left", "discharge_m3_s": q * 3 * dx},
               {"type": "level", "edge": "right", "level_m": float(bed[-1] + exact[-1])}],
    )  # fmt: skip
    with rasterio.open(folder / "depth" / "t00014400.tif") as raster:
        depth = raster.read(1)[1]
    gap, off = (depth - exact)[2:], (depth - inertial(bed, float(exact[-1]), q, n, dx))[2:]
    return {
        "greatest_froude": float(np.sqrt(froude2.max())), "least_depth_m": float(exact.min()),
        "rmse_m": float(np.sqrt(np.mean(gap**2))), "largest_m": float(np.abs(gap).max()),
        "rmse_from_inertial_m": float(np.sqrt(np.mean(off**2))),
    }  # fmt: skip


def inertial(bed: np.ndarray, last: float, q: float, n: float, dx: float) -> np.ndarray:
    """Steady depths without convection, dw/dx = -Sf, from the last one upstream."""
    level = np.empty(len(bed))
    level[-1] = bed[-1] + last
    for k in range(len(bed) - 1, 0, -1):
        top = max(bed[k], bed[k - 1])

        def rest(w: float, k: int = k, top: float = top) -> float:
            depth = max(w, level[k]) - top
            return w - level[k] - dx * n * n * q * q / depth ** (10 / 3)

        level[k - 1] = brentq(rest, max(level[k], top) + 1e-9, level[k] + 5)
    return level - bed


def gentle_channel(folder: Path) -> dict[str, float]:
    """Froude numbers up to 0.35."""
    return channel(folder, 1.5, 0.5)


def published_channel(folder: Path) -> dict[str, float]:
    """The subcritical one of MacDonald et al.: nearly critical at both ends."""
    critical = (4 / G) ** (1 / 3)
    return channel(folder, critical, critical / 2)


def rain_on_a_plane(folder: Path, soaking_mm_h: float = 0.0) -> dict[str, float]:
    """Half an hour of rain on a plane: rise, equilibrium and fall of the kinematic wave.

    q = a h^(5/3), a = sqrt(S) / n, i: rain less what goes into the ground. At x = L, h = i t
    until i L = q; after the rain L = a h^(5/3) / i + 5/3 a h^(2/3) t' if the ground takes none.
    """
    slope, n, dx, nx, rain_s = 0.01, 0.03, 2.0, 101, 1800.0
    length, mm_h = (nx - 1) * dx, 60.0
    z = np.tile(slope * dx * np.arange(nx)[::-1], (3, 1))
    moments = [(0, mm_h), (rain_s, mm_h), (rain_s + 1e-6, 0)]
    soil = {"type": "constant", "mm_per_h": soaking_mm_h} if soaking_mm_h else None
    flooded(
        folder, z, dx, {}, duration_s=3600.0, outputs=1, gauge_every_s=20.0, infiltration=soil,
        solver={"manning": n},
        water=[{"type": "rain", "series": [{"time_s": t, "value": v} for t, v in moments]},
               {"type": "outflow", "edge": "right", "slope": slope}],
        gauges=[{"name": "end", "line_m": [[length, 3 * dx], [length, 0]]}],
    )  # fmt: skip
    table, a, i = readings(folder), np.sqrt(slope) / n, (mm_h - soaking_mm_h) / 3.6e6
    t, q = table["time_s"], table["end discharge_m3_s"] / (3 * dx)
    exact = np.minimum(a * (i * t) ** (5 / 3), i * length)
    for k in np.flatnonzero(t > rain_s):

        def rest(h: float, late: float = t[k] - rain_s) -> float:
            return a * h ** (5 / 3) / i + 5 / 3 * a * h ** (2 / 3) * late - length

        exact[k] = a * brentq(rest, 0, 1) ** (5 / 3)
    wanted = t <= rain_s if soaking_mm_h else t >= 0
    gap = (q - exact)[wanted] / (i * length)
    return {
        "equilibrium_s": float((length / (a * i ** (2 / 3))) ** 0.6),
        "rmse_over_equilibrium": float(np.sqrt(np.mean(gap**2))),
        "largest_over_equilibrium": float(np.abs(gap).max()),
        "discharge_at_the_end_of_the_rain_over_exact": float(
            np.interp(rain_s, t, q) / (i * length)
        ),
    }


def rain_on_soil(folder: Path) -> dict[str, float]:
    """The same where 20 mm/h go into the ground, until the rain ends."""
    return rain_on_a_plane(folder, 20.0)


def test_4(folder: Path) -> dict[str, object]:
    """Speed of propagation over a plain of 1 x 2 km, level and dry, n = 0.05, cells of 5 m.

    20 m3/s at most enter through 20 m in the middle of the western edge, a trapezoid of 5 h.
    """
    dx, hydrograph = 5.0, [(0, 0), (3600, 20), (14_400, 20), (18_000, 0)]
    flooded(
        folder, np.zeros((400, 200)), dx, {}, duration_s=18_000.0, outputs=5,
        solver={"manning": 0.05},
        water=[{"type": "inflow", "edge": "left", "centre_m": 1000.0, "length_m": 20.0,
                "series": [{"time_s": t, "value": v} for t, v in hydrograph]}],
    )  # fmt: skip
    lines = {}
    for hour in (1, 3):
        with rasterio.open(folder / "depth" / f"t{3600 * hour:08d}.tif") as raster:
            lines[hour] = raster.read(1)[199:201].mean(0)
    x = (np.arange(200) + 0.5) * dx
    ours = {at: float(np.interp(at, x, lines[1])) for at in SPREAD}
    beyond = [max(low - ours[at], ours[at] - high, 0.0) for at, (low, high) in SPREAD.items()]
    fronts = {f"front_of_15_cm_at_{hour}_h_m": float(x[lines[hour] >= 0.15][-1]) for hour in lines}
    report = json.loads((folder / "report.json").read_text())["result"]
    return {
        "depth_m_at_1_h": ours, "places": len(beyond), **fronts,
        "within_spread": sum(gap == 0 for gap in beyond),
        "within_spread_as_read": sum(gap <= READ_OFF_M for gap in beyond),
        "balance_error": report["balance_error"], "steps": report["steps"],
        "supercritical_share": report["supercritical_share"],
    }  # fmt: skip


def pond_behind_a_sill(folder: Path) -> dict[str, float]:
    """After test 1: a level at the left edge floods a pond behind a sill, and leaves it full.

    700 x 100 m, n = 0.03, cells of 10 m, sill at 10.25 m. The level rises from 9.7 to 10.35 m in an
    hour, stays for ten, falls within one; at 20 h 10.25 m are left behind the sill and 9.7 m before
    it. The bed beside the sill, lines from 9.0 m up to it and down to 9.5 m, is ours.
    """
    dx, sill = 10.0, 10.25
    x = (np.arange(70) + 0.5) * dx
    bed = np.interp(x, [5.0, 305.0, 505.0, 695.0], [9.0, sill, 9.5, 10.0])
    moments = [(0, 9.7), (3600, 10.35), (39_600, 10.35), (43_200, 9.7), (72_000, 9.7)]
    level = {"type": "level", "edge": "left"}
    flooded(
        folder, np.tile(bed, (10, 1)), dx, {}, duration_s=72_000.0, outputs=1,
        solver={"manning": 0.03}, start={"level_m": 9.7}, gauge_every_s=600.0,
        water=[level | {"series": [{"time_s": t, "value": w} for t, w in moments]}],
        gauges=[{"name": "pond", "x_m": 505.0, "y_m": 50.0},
                {"name": "before", "x_m": 105.0, "y_m": 50.0}],
    )  # fmt: skip
    table = readings(folder)
    report = json.loads((folder / "report.json").read_text())["result"]
    pond = table["pond stage_m"]
    return {
        "pond_at_10_h_less_exact_m": float(np.interp(36_000, table["time_s"], pond) - 10.35),
        "highest_less_exact_m": float(np.nanmax(pond) - 10.35),
        "pond_at_end_less_exact_m": float(pond[-1] - sill),
        "before_at_end_less_exact_m": float(table["before stage_m"][-1] - 9.7),
        "balance_error": report["balance_error"],
    }


CASES = (
    gentle_channel, published_channel, rain_on_a_plane, rain_on_soil, test_4, pond_behind_a_sill,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", default="", help="some of them; the file keeps the others")
    options = parser.parse_args()
    out, wanted = options.out, options.cases.split(",")
    rows = json.loads(out.read_text())["cases"] if options.cases and out.exists() else {}
    for case in (case for case in CASES if not options.cases or case.__name__ in wanted):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            rows[case.__name__] = case(Path(folder) / "run")
            rows[case.__name__]["cpu_s"] = time.process_time() - began
        print(case.__name__, rows[case.__name__], flush=True)
        machine = {"processor": platform.machine(), "python": platform.python_version()}
        out.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
