"""The flood solver on one GPU: correctness, cell-steps a second beside its peers, the gradient.

    python -m tests.bench.terrain_gpu --out FILE.json [--quick] [--budget-s 240] [--sections a,b]

Checks the fused engine against the reference step first; then times it beside the plain torch step,
eager and under torch.compile, and beside a device copy, all in one call. ``--quick`` runs the
same code at small sizes; on a CPU under Triton's interpreter.
"""

import argparse
import json
import os
import statistics
import time
import traceback
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from models.terrain.dem.synthetic import generate
from models.terrain.solver.adjoint import step_vjp
from models.terrain.solver.forcing import Forcing, Inlet, Series, constant
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.gpu.layout import Tuning
from models.terrain.solver.gpu.rollout import GpuTape
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry, step
from models.terrain.solver.time_stepping import Clock, advance
from models.terrain.spec.terrains import Synthetic

MANNING, DX = 0.05, 8.0
BYTES = 36  # a cell-step that reads z, h, qx, qy, remainder and writes all but z once
TUNINGS = [
    Tuning(down, across, warps, lazy=lazy)
    for down, across, warps, lazy in (
        (4, 64, 4, False),
        (4, 64, 4, True),
        (4, 32, 2, False),
        (8, 32, 4, False),
        (8, 64, 8, False),
        (4, 128, 8, False),
        (4, 32, 4, False),
        (8, 32, 8, False),
        (2, 128, 4, False),
        (16, 32, 8, False),
        (8, 64, 4, False),
        (1, 128, 4, False),
    )
]
CUTS = [(4, 32, 4), (8, 32, 8), (4, 32, 2), (2, 32, 2), (4, 64, 4)]  # of the derivative


class Bench:
    """The device, its sizes, and the results."""

    def __init__(self, options):
        self.quick, self.began, self.budget = options.quick, time.monotonic(), options.budget_s
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.results, self.out, self.best = {}, options.out, Tuning()

    def left(self):
        return self.budget - (time.monotonic() - self.began)

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def keep(self):
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def seconds(self, work, rounds=5):
        """Least and median wall seconds after one round to warm up."""
        taken = []
        for _ in range((1 if self.quick else rounds) + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return {"min_s": min(taken[1:]), "median_s": statistics.median(taken[1:])}


def wet_case(b, n, device):
    """Water everywhere, 0.5 to 1.5 m, on rough ground: every cell works."""
    made = Synthetic(rows=max(n, 8), columns=max(n, 8), cell_size_m=DX)
    z = torch.stack([generate(made.model_copy(update={"variant": k % 4}), 0) for k in range(b)])
    h = 0.5 + torch.rand(z.shape, generator=torch.Generator().manual_seed(0))
    start = FlowState(*(field.to(device) for field in FlowState(h, *dry(z)[1:])))
    return Ground(z.to(device), MANNING, DX), start


def on(device, ground, start):
    """The same case on another device."""
    moved = {k: v.to(device) for k, v in ground._asdict().items() if isinstance(v, torch.Tensor)}
    return ground._replace(**moved), FlowState(*(field.to(device) for field in start))


def hilly(n, batch, dtype=torch.float32):
    """Inflow by hydrograph, rain, an outlet, roughness by cell, puddles on steep ground."""
    g = torch.Generator().manual_seed(1)
    made = Synthetic(rows=n, columns=n + 4, cell_size_m=4.0, relief_m=8.0, channel_depth_m=1.0)
    z = torch.stack([generate(made.model_copy(update={"variant": k}), 0) for k in range(batch)])
    h = torch.rand(z.shape, generator=g) * (torch.rand(z.shape, generator=g) < 0.4)
    h[:, :, : n // 3] = 0
    drain = torch.zeros_like(z)
    drain[:, n // 4 : n // 2, -1] = 0.6
    manning = 0.02 + 0.05 * torch.rand(z.shape, generator=g)
    inlet = Inlet(Series((0.0, 60.0, 600.0), (0.0, 40.0, 10.0)), (n // 2, n // 2 + 1), (0, 0))
    forcing = Forcing((inlet,), constant(30 / 3.6e6))
    ground = Ground(z.to(dtype), manning.to(dtype), 4.0, drain.to(dtype))
    start = dry(z)._replace(h=h)
    return ground, FlowState(*(field.to(dtype) for field in start)), forcing


def correct(bench):
    """The engine against the reference step on the CPU, limiter and boundaries at work."""
    n, until = (10, 4.0) if bench.quick else (96, 400.0)
    rows = bench.results["correct"] = []
    cases = {
        "limiter": Physics(dt_max=0.2),
        "no limiter": Physics(limiter=False, dt_max=0.2),
        "own steps": Physics(alpha=0.5),  # at 0.7 float32 and float64 part on ground as steep
        "authors' steps": Physics(cfl="reference"),
    }
    other = bench.best._replace(log=False, lazy=False)
    for name, physics in cases.items():
        ground, start, forcing = hilly(n, 2)
        ends = advance(start, Clock.start(2), ground, forcing, physics, until)
        for tuning in (bench.best, other) if name == "limiter" else (bench.best,):
            rows.append({"physics": name, "tuning": tuning._asdict()})
            rows[-1] |= against(bench, (ground, start, forcing), physics, until, ends, tuning)
            bench.keep()
    failed = [r for r in rows if max(r["gaps_h_qx_qy"]) > 5e-5 or not r["same_steps"]]
    return {"cases": rows, "failures": len(failed), "batch": same_alone(bench)}


def against(bench, case, physics, until, ends, tuning):
    """Differences of states, totals and volumes to the reference's end."""
    (ground, start, forcing), (state, clock) = case, ends
    there, begin = on(bench.device, ground, start)
    flood = GpuFlood(there, [forcing] * 2, physics, begin, tuning=tuning)
    flood.advance(until)
    entered, left = (torch.tensor([row[k] for row in flood.totals]) for k in (2, 3))
    area = ground.dx**2
    volume, first = torch.tensor(flood.volume), start.h.double().sum((1, 2)).cpu() * area
    gaps = [float((a.cpu() - b).abs().max()) for a, b in zip(flood.state, state, strict=True)]
    return {
        "steps": clock.steps.tolist(),
        "same_steps": clock.steps.tolist() == [total.steps for total in flood.totals],
        "gaps_h_qx_qy": gaps,
        "least_depth_m": float(flood.depth.min()),
        "entered_gap_m3": float((clock.entered - entered).abs().max()),
        "left_gap_m3": float((clock.left - left).abs().max()),
        "balance_error": float(((volume - first - entered + left) / volume).abs().max()),
    }


def same_alone(bench):
    """Property 11: a batch is its single runs, bit for bit; repeats are too."""
    n, until = (9, 2.0) if bench.quick else (140, 100.0)
    ground, start, forcing = hilly(n, 3)
    ends = []
    for part in (slice(0, 3), slice(0, 3), slice(1, 2)):
        one = ground._replace(**{k: getattr(ground, k)[part] for k in ("z", "manning", "drain")})
        there, begin = on(bench.device, one, FlowState(*(field[part] for field in start)))
        flood = GpuFlood(there, [forcing] * len(one.z), Physics(), begin, tuning=bench.best)
        flood.advance(until)
        ends.append(flood.depth)
    return {
        "repeats": bool(torch.equal(ends[0], ends[1])),
        "alone": bool(torch.equal(ends[0][1:2], ends[2])),
    }


def correct_gradient(bench):
    """The adjoint against float64 autograd through the reference, whole tape and spans."""
    n, until = (8, 3.0) if bench.quick else (40, 120.0)
    ground, _, forcing = hilly(n, 2, torch.float64)
    weight = torch.randn(ground.z.shape, generator=torch.Generator().manual_seed(2)).double()
    rows = []
    for physics in (Physics(dt_max=0.5), Physics(limiter=False, dt_max=0.5)):
        bed = ground.z.clone().requires_grad_()
        state, clock = advance(
            dry(bed), Clock.start(2), ground._replace(z=bed), forcing, physics, until
        )
        (expected,) = torch.autograd.grad((state.h * weight).sum(), bed)
        single = ground._replace(
            z=ground.z.float(), manning=ground.manning.float(), drain=ground.drain.float()
        )
        there, _ = on(bench.device, single, dry(single.z))
        for steps in (None, 64):
            tape = GpuTape(there, [forcing] * 2, physics, steps, bench.best)
            grads = []
            for _ in range(2):
                bed = there.z.clone().requires_grad_()
                depth = tape(bed, [until])[0]
                grads += torch.autograd.grad((depth * weight.to(depth)).sum(), bed)
            gradient = grads[0].double().cpu()
            rows.append({
                "limiter": physics.limiter, "tape_steps": tape.blocks * tape.block,
                "steps": clock.steps.tolist(),
                "relative_l2": float((gradient - expected).norm() / expected.norm()),
                "repeats": bool(torch.equal(*grads)),
            })  # fmt: skip
            del tape
            if bench.quick:
                break
    return {"cases": rows}


def fixed(limiter=True):
    """Steps of one length, shorter than the stable one while the water is below 4 m."""
    return Physics(limiter=limiter, dt_max=0.9 * Physics().courant * DX / (9.8 * 4.0) ** 0.5)


def copy_rate(bench):
    """Bytes a second of a device copy."""
    count = 2**16 if bench.quick else 2**28
    a = torch.zeros(count, device=bench.device)
    b = torch.empty_like(a)
    return 8 * count / bench.seconds(lambda: b.copy_(a))["min_s"]


def engine_rate(bench, b, n, tuning, limiter=True, steps=None):
    """Cell-steps a second of the fused engine, every cell wet."""
    ground, start = wet_case(b, n, bench.device)
    flood = GpuFlood(ground, [Forcing()] * b, fixed(limiter), start, tuning=tuning)
    flood.aim(1e12)
    block = 2 if bench.quick else 32
    repeats = 1 if bench.quick else max(1, (steps or 256) // block)
    flood.run(0, block)

    def work():
        for _ in range(repeats):
            flood.run(0, block)

    timing = bench.seconds(work)
    flood.arrived()
    timing["tiles_with_limited_cells"] = float((flood.short > 0).float().mean())
    timing["cell_steps_per_s"] = b * n * n * block * repeats / timing["min_s"]
    timing["us_per_step"] = timing["min_s"] / (block * repeats) * 1e6
    return timing


def tune(bench):
    """Launch parameters at 2000 x 2000, without the limiter; the best ones with it."""
    n, rows = (12 if bench.quick else 2000), []
    for tuning in TUNINGS[:2] if bench.quick else TUNINGS:
        if bench.left() < 60 and not bench.quick:
            break
        row = {"tuning": tuning._asdict()}
        try:
            row |= engine_rate(bench, 1, n, tuning, limiter=False)
        except Exception as error:  # a tile that does not fit the device
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        print(row, flush=True)
        rows.append(row)
        bench.results["tune"] = {"n": n, "rows": rows}
        bench.keep()
    good = sorted((r for r in rows if "min_s" in r), key=lambda r: r["min_s"])
    if not good:
        return {"left_out": "no time left"}
    bench.best = Tuning(**good[0]["tuning"])
    options = {}
    for name, change in (("turning off", {"turning": False}), ("eager tiles", {"lazy": False})):
        tuning = bench.best._replace(**change)
        options[name] = engine_rate(bench, 1, n, tuning, limiter=False)
        if options[name]["min_s"] < good[0]["min_s"] * 0.99:
            bench.best = tuning
    return {"n": n, "rows": rows, "options": options, "best": bench.best._asdict()}


def plain_rate(bench, function, b, n, steps):
    """Cell-steps a second of the plain torch step."""
    ground, state = wet_case(b, n, bench.device)
    dt = torch.full((b,), fixed().dt_max, dtype=torch.float64, device=bench.device)

    def work():
        nonlocal state
        with torch.no_grad():
            for _ in range(steps):
                state, _ = function(state, ground, dt, 0.0, fixed(limiter=False))

    timing = bench.seconds(work, 3)
    timing["cell_steps_per_s"] = b * n * n * steps / timing["min_s"]
    return timing


def same_answer(bench, n):
    """Greatest depth difference to the plain torch step after 64 steps of one length."""
    ground, start = wet_case(1, n, bench.device)
    flood = GpuFlood(ground, [Forcing()], fixed(), start, tuning=bench.best)
    flood.aim(1e12)
    steps = 2 if bench.quick else 64
    flood.run(0, steps)
    dt = torch.full((1,), fixed().dt_max, dtype=torch.float64, device=bench.device)
    with torch.no_grad():
        for _ in range(steps):
            start, _ = step(start, ground, dt, 0.0, fixed())
    return float((flood.depth - start.h).abs().max())


def speed(bench):
    """Every size: ours with and without limiter, eager, compiled; the copy bound."""
    sizes = [(1, 10)] if bench.quick else [(1, 2000), (64, 125), (1, 512), (1, 125)]
    copy = copy_rate(bench)
    result = {"copy_bytes_per_s": copy, "bound_cell_steps_per_s": copy / BYTES, "sizes": {}}
    compiled = torch.compile(step, dynamic=False) if bench.device == "cuda" else None
    for b, n in sizes:
        row = result["sizes"][f"{b}x{n}x{n}"] = {}
        bench.results["speed"] = result
        row["max_depth_gap_m"] = same_answer(bench, n)
        row["ours"] = engine_rate(bench, b, n, bench.best, steps=1024)
        row["ours_no_limiter"] = engine_rate(bench, b, n, bench.best, limiter=False, steps=1024)
        row["torch_eager"] = plain_rate(bench, step, b, n, 2 if bench.quick else 20)
        bench.keep()
        if compiled is not None and bench.left() > 30:
            row["torch_compiled"] = plain_rate(bench, compiled, b, n, 50)
        bench.keep()
    return result


def gradient(bench):
    """Forward and backward over forward alone: coarse floods, 64 at once."""
    b, n = (1, 8) if bench.quick else (64, 125)
    ground, _ = wet_case(b, n, bench.device)
    inlet = Inlet(constant(60.0), (n // 2,), (0,))
    forcings = [Forcing((inlet,), constant(1e-5))] * b
    until = 2.0 if bench.quick else 300.0
    rows = []
    for cut in CUTS[:1] if bench.quick else CUTS:
        flood = GpuFlood(ground, forcings, Physics(), tuning=bench.best._replace(lazy=False))
        tape = GpuTape(ground, forcings, Physics(), None, bench.best, cut)

        def alone(flood=flood):
            flood.clear()
            flood.advance(until)

        def both(tape=tape):
            bed = ground.z.clone().requires_grad_()
            tape(bed, [until]).sum().backward()

        for work in (alone, both):
            work()  # compiles and records
        row = {"cut": cut, "steps": int(flood.steps.max())}
        row |= {"forward": bench.seconds(alone, 3), "both": bench.seconds(both, 3)}
        row["ratio"] = row["both"]["min_s"] / row["forward"]["min_s"]
        rows.append(row)
        print(row, flush=True)
        bench.results["gradient"] = {"batch": b, "n": n, "until_s": until, "rows": rows}
        bench.keep()
        del flood, tape
        if bench.left() < 60:
            break
    return bench.results["gradient"]


def reference_gradient(bench):
    """The hand-written derivative in plain torch, eager and compiled: cell-steps a second."""
    b, n, steps = (1, 8, 1) if bench.quick else (64, 125, 10)
    ground, state = wet_case(b, n, bench.device)
    dt = torch.full((b,), fixed().dt_max, dtype=torch.float64, device=bench.device)
    grad = FlowState(*(torch.ones_like(field) for field in state))
    result = {}
    ways = {"eager": step_vjp}
    if bench.device == "cuda" and bench.left() > 60:
        ways["compiled"] = torch.compile(step_vjp, dynamic=False)
    for name, way in ways.items():

        def work(way=way):
            with torch.no_grad():
                for _ in range(steps):
                    way(state, ground, dt, fixed(), grad)

        result[name] = bench.seconds(work, 3)
        result[name]["cell_steps_per_s"] = b * n * n * steps / result[name]["min_s"]
    return result


def valley(bench):
    """End to end: inflow into a dry valley of 2000 x 2000 cells; simulated seconds a second."""
    n, until = (12, 20.0) if bench.quick else (2000, 900.0)
    ground, _ = wet_case(1, n, bench.device)
    rows = tuple(range(n // 2 - 3, n // 2 + 3))
    forcing = Forcing((Inlet(constant(60.0), rows, (0,) * 6),))
    result = {}
    for name, lazy in (("wet tiles", True), ("all tiles", False)):
        flood = GpuFlood(ground, [forcing], Physics(), tuning=bench.best._replace(lazy=lazy))
        flood.advance(1.0)
        bench.wait()
        began = time.perf_counter()
        flood.advance(until)
        bench.wait()
        took = time.perf_counter() - began
        result[name] = {
            "seconds": took, "simulated_s_per_s": until / took, "steps": flood.totals[0].steps,
            "wet_share": float((flood.depth > 0).float().mean()),
        }  # fmt: skip
    return result


SECTIONS = {
    "correct": correct,
    "correct_gradient": correct_gradient,
    "tune": tune,
    "speed": speed,
    "gradient": gradient,
    "valley": valley,
    "reference_gradient": reference_gradient,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections")
    parser.add_argument("--budget-s", type=float, default=240.0)
    options = parser.parse_args()
    bench = Bench(options)
    name = torch.cuda.get_device_name() if bench.device == "cuda" else "cpu"
    bench.results |= {"device": name, "torch": str(torch.__version__), "quick": options.quick}
    for section in (options.sections or ",".join(SECTIONS)).split(","):
        if bench.left() < 10:
            bench.results[section] = {"left_out": "no time left"}
            continue
        began = time.monotonic()
        try:
            bench.results[section] = SECTIONS[section](bench)
        except Exception as error:  # the next section may still work
            failure = {"error": f"{type(error).__name__}: {error}"[:2000]}
            failure["where"] = traceback.format_exc()[-3000:]
            bench.results[section] = {"partial": bench.results.get(section)} | failure
            print(failure["where"], flush=True)
        bench.results[section]["took_s"] = time.monotonic() - began
        bench.keep()
        print(section, f"{time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
