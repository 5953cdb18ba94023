"""Flood solver against the authors' torch scheme and landlab's OverlandFlow, one thread.

    python -m tests.bench.terrain [--quick] [--out FILE] [--reference FOLDER] [--sections a,b]

FOLDER: a checkout of the authors' code (tech-submissions/physics-aware-downsampling); without it
the project's own transcription of their scheme is used, which the result states. Competitors
run interleaved in one process and one thread; CPU seconds of that thread, minimum and median of
rounds. Two threads are timed last and by wall time: waiting OpenMP threads would take CPU time from
the others.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numba import threading_layer

from models.terrain.dem.synthetic import generate
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.cpu.rollout import BoundaryConditions, rollout
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import FlowState, Ground, Physics, authors_physics, dry, step
from models.terrain.solver.time_stepping import Clock, advance
from models.terrain.spec.solver import AUTHORS_THETA
from models.terrain.spec.terrains import Synthetic

MANNING, DX = 0.05, 8.0


def measure(works, rounds, clock=time.thread_time):
    """CPU and wall seconds of each of several works, interleaved."""
    times = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), clock()
            work()
            times[name].append((clock() - cpu, time.perf_counter() - wall))
    return {
        name: {
            "cpu_s_min": min(cpu for cpu, _ in pairs),
            "cpu_s_median": statistics.median(cpu for cpu, _ in pairs),
            "wall_s_min": min(wall for _, wall in pairs),
        }
        for name, pairs in times.items()
    }


def wet_case(n):
    """Water everywhere, 0.5 to 1.5 m, on rough ground: every cell works."""
    z = generate(Synthetic(rows=n, columns=n, cell_size_m=DX), 0)[None].contiguous()
    h = 0.5 + torch.rand(z.shape, generator=torch.Generator().manual_seed(0))
    return z, FlowState(h, *dry(z)[1:])


class Authors:
    """The authors' own modules, from a checkout."""

    def __init__(self, folder, z, start, dt):
        sys.path.insert(0, str(folder))
        from hydraulics.boundary import RainBoundaryConditions
        from hydraulics.saint_venant import SaintVenantFlux

        self.solver = SaintVenantFlux(z.shape[-1], DX, 0.7)
        self.solver.boundary_conditions = RainBoundaryConditions(torch.zeros(1))
        self.z, self.dt = z[:, None], torch.full((1, 1, 1, 1), dt)
        self.state = [field[:, None] for field in start]

    def run(self, steps):
        with torch.no_grad():
            for _ in range(steps):
                self.state = self.solver(self.z, *self.state, self.dt)


class Transcribed:
    """Our reference step in the authors' mode."""

    def __init__(self, z, start, dt):
        self.ground, self.state = Ground(z, MANNING, DX), start
        self.dt = torch.tensor([dt], dtype=torch.float64)

    def run(self, steps):
        with torch.no_grad():
            for _ in range(steps):
                self.state, _ = step(self.state, self.ground, self.dt, 0.0, authors_physics())


def landlab_run(z, start, dt):
    """OverlandFlow of landlab on the same bed and water; None where it is not installed."""
    try:
        from landlab import RasterModelGrid
        from landlab.components import OverlandFlow
    except ImportError:
        return None
    grid = RasterModelGrid(z.shape[1:], xy_spacing=DX)
    grid.add_field("topographic__elevation", z[0].double().numpy().ravel(), at="node")
    grid.add_field("surface_water__depth", start.h[0].double().numpy().ravel(), at="node")
    grid.set_closed_boundaries_at_grid_edges(True, True, True, True)
    flow = OverlandFlow(grid, mannings_n=MANNING, theta=0.7, steep_slopes=False)

    def run(steps):
        for _ in range(steps):
            flow.run_one_step(dt=dt)

    return run


def throughput(n, steps, rounds, folder):
    """Cell-steps a second at identical steps, every cell wet."""
    z, start = wet_case(n)
    dt = 0.9 * float(0.7 * DX / (9.8 * 4.0) ** 0.5)
    same = Physics(theta=AUTHORS_THETA, limiter=False, dt_max=dt)
    engines = {
        "ours_limiter": FusedFlood(Ground(z, MANNING, DX), Forcing(), Physics(dt_max=dt), start),
        "ours": FusedFlood(Ground(z, MANNING, DX), Forcing(), same, start),
    }
    peer = Authors(folder, z, start, dt) if folder else Transcribed(z, start, dt)
    works = {name: lambda e=engine: e.advance(1e12, 20 * steps) for name, engine in engines.items()}
    works["authors"] = lambda: peer.run(steps)
    landlab = landlab_run(z, start, dt)
    if landlab is not None:
        works["landlab"] = lambda: landlab(steps)
    check = FusedFlood(Ground(z, MANNING, DX), Forcing(), same, start)
    check.advance(1e12, steps)
    own = Transcribed(z, start, dt)
    own.run(steps), peer.run(steps)
    gap, friction_gap = (
        float((depth - peer.state[0].reshape(check.depth.shape)).abs().max())
        for depth in (own.state.h, check.depth)
    )
    assert gap < 1e-4, gap
    measure(works, 1)
    timings = measure(works, rounds)
    for name, row in timings.items():
        count = n * n * steps * (20 if name.startswith("ours") else 1)
        row["mcell_steps_per_cpu_s"] = count / row["cpu_s_min"] / 1e6
        row["mcell_steps_per_wall_s"] = count / row["wall_s_min"] / 1e6
    ratios = {
        f"ours_over_{name}": timings["ours"]["mcell_steps_per_cpu_s"]
        / timings[name]["mcell_steps_per_cpu_s"]
        for name in ("authors", "landlab")
        if name in timings
    }
    source = "authors' modules" if folder else "our transcription of the authors' scheme"
    gaps = {"transcription_gap_m": gap, "friction_gap_m": friction_gap}
    return {"n": n, "dt_s": dt, "peer": source, "runs": timings} | ratios | gaps


def two_threads(n, steps, rounds):
    """Wall seconds of one and two threads on the same work, every cell wet."""
    z, start = wet_case(n)
    floods = {
        f"threads_{k}": FusedFlood(Ground(z, MANNING, DX), Forcing(), Physics(dt_max=0.5), start, k)
        for k in (1, 2)
    }
    works = {name: lambda f=flood: f.advance(1e12, steps) for name, flood in floods.items()}
    measure(works, 1)
    timings = measure(works, rounds)
    for row in timings.values():
        row.pop("cpu_s_min"), row.pop("cpu_s_median")
    speed_up = timings["threads_1"]["wall_s_min"] / timings["threads_2"]["wall_s_min"]
    load = {"load_average": os.getloadavg()[0], "layer": threading_layer()}
    return {"n": n, "runs": timings, "speed_up": speed_up} | load


def end_to_end(n, ours_s, theirs_s):
    """Simulated seconds a CPU second: inflow into a dry valley, each with its own steps."""
    z = generate(Synthetic(rows=n, columns=n, cell_size_m=DX), 1)[None].contiguous()
    rows = tuple(range(n // 2 - 6, n // 2 + 6))
    forcing = Forcing((Inlet(constant(60.0), rows, (0,) * len(rows)),))
    ground = Ground(z, MANNING, DX)
    warm = FusedFlood(ground, forcing, Physics())
    warm.advance(1.0)
    flood = FusedFlood(ground, forcing, Physics())
    began = time.thread_time()
    flood.advance(ours_s)
    ours = ours_s / (time.thread_time() - began)
    state, clock = flood.state, Clock.start(1)
    began = time.thread_time()
    with torch.no_grad():
        _, clock = advance(state, clock, ground, forcing, authors_physics(0.01), theirs_s)
    theirs = theirs_s / (time.thread_time() - began)
    wet = float((flood.depth > 0).float().mean())
    result = {"ours_simulated_s_per_cpu_s": ours, "theirs_simulated_s_per_cpu_s": theirs}
    result |= {
        "ratio": ours / theirs,
        "wet_share_at_end": wet,
        "deepest_m": float(flood.depth.max()),
    }
    return result | {"our_steps": flood.totals.steps, "our_s": ours_s, "their_s": theirs_s}


def gradient(n, seconds):
    """Forward and backward over forward alone."""
    z, _ = wet_case(n)
    forcing = Forcing((Inlet(constant(60.0), (n // 2,), (0,)),), constant(1e-5))
    boundary = BoundaryConditions(Ground(z, MANNING, DX), forcing)

    def forward():
        FusedFlood(Ground(z, MANNING, DX), forcing, Physics()).advance(seconds)

    def both(span):
        bed = z.clone().requires_grad_()
        rollout(bed, [boundary], Physics(), [seconds], span).sum().backward()

    works = {
        "forward": forward,
        "both_whole_tape": lambda: both(None),
        "both_spans": lambda: both(64),
    }
    measure(works, 1)
    timings = measure(works, 3, time.process_time)  # backward has threads of its own
    base = timings["forward"]["cpu_s_min"]
    return {"n": n, "seconds": seconds, "runs": timings} | {
        f"{name}_over_forward": timings[name]["cpu_s_min"] / base
        for name in ("both_whole_tape", "both_spans")
    }


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine():
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    packages = ("torch", "numba", "numpy", "landlab")
    return {
        "cpu": model,
        "cores": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: installed(name) for name in packages},
    }


SECTIONS = ("throughput", "end_to_end", "gradient", "two_threads")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    options = parser.parse_args()
    results = {"machine": machine(), "load_average_before": os.getloadavg()}
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    sizes = [64] if options.quick else [125, 512, 1024]
    rounds = (3, 2) if options.quick else (10, 5)
    times = (30.0, 5.0) if options.quick else (1800.0, 20.0)
    works = {
        "throughput": lambda: [throughput(n, *rounds, options.reference) for n in sizes],
        "end_to_end": lambda: end_to_end(64 if options.quick else 512, *times),
        "gradient": lambda: gradient(*((64, 60.0) if options.quick else (125, 1800.0))),
        "two_threads": lambda: [two_threads(n, 2**20 // n**2 * 50, 9) for n in sizes[-2:]],
    }
    for name in options.sections.split(","):
        results[name] = works[name]()
        results["load_average"] = os.getloadavg()
        text = json.dumps(results, indent=1)
        if options.out:
            options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
