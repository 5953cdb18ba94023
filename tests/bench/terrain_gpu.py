"""The flood solver's torch step on a GPU, and the quality of a net trained there.

    python -m tests.bench.terrain_gpu --out FILE.json [--quick] [--quality] [--budget-s 240]

First checks the step on the device against the CPU, then times it eager and under torch.compile.
``--quality`` trains ``terrain.train`` (net on the device, coarse floods on the cores) and compares
the net with every baseline on held-out terrains, also under other water than in training.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from models.core.run import Run
from models.terrain import measures, trained
from models.terrain.parts import Rain, Solver, SyntheticTerrain, Valley
from models.terrain.pooling import BASELINES
from models.terrain.rasters import load
from models.terrain.scheme import Ground, Physics, State, dry, step
from models.terrain.simulate import scene_of
from models.terrain.spec import TerrainCompare, TerrainTrain
from models.terrain.train import train


def case(b, n, device):
    z = torch.randn(b, n, n, generator=torch.Generator().manual_seed(0)) * 0.2
    h = 0.5 + torch.rand(z.shape, generator=torch.Generator().manual_seed(1))
    start = State(h, *dry(z)[1:])
    return Ground(z.to(device), 0.05, 8.0), State(*(field.to(device) for field in start))


def correct(device):
    """Greatest difference after 100 steps between the device and the CPU."""
    ends = []
    for place in ("cpu", device):
        ground, state = case(2, 64, place)
        dt = torch.full((2,), 0.5, dtype=torch.float64, device=place)
        for _ in range(100):
            state, _ = step(state, ground, dt, 0.0, Physics())
        ends.append(state.h.cpu())
    gap = float((ends[0] - ends[1]).abs().max())
    assert gap < 1e-5, gap
    return {"max_depth_gap_m": gap}


def rate(function, b, n, device, steps):
    """Cell-steps a second, the best of three rounds."""
    ground, state = case(b, n, device)
    dt = torch.full((b,), 0.5, dtype=torch.float64, device=device)
    best = 0.0
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            for _ in range(steps):
                state, _ = function(state, ground, dt, 0.0, Physics())
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, b * n * n * steps / (time.perf_counter() - began))
    return best


def speed(device, quick):
    shapes = [(1, 32)] if quick else [(1, 125), (64, 125), (1, 512), (1, 2000)]
    functions = {"eager": step}
    if device == "cuda":
        functions["compiled"] = torch.compile(step)
    return {
        f"{name}_{b}x{n}x{n}": rate(function, b, n, device, 3 if quick else 50)
        for name, function in functions.items()
        for b, n in shapes
    }


def quality(device, quick, factor, epochs):
    """Train, then mean errors on held-out terrains, by method and kind of water."""
    made = {"rows": 64, "columns": 64, "cell_size_m": 8.0} if quick else {"cell_size_m": 8.0}
    counts = {"train": 4, "test": 2} if quick else {"train": 256, "test": 24}
    spec = TerrainTrain.model_validate(
        {
            "kind": "terrain.train",
            "scenes": {"synthetic": made, **counts},
            "factor": factor,
            "duration_s": 120.0 if quick else 3600.0,
            "epochs": epochs,
            "batch_size": 16,
            "loss": "l1",
            "width": 8 if quick else 64,
            "water": [{"type": "valley", "discharge_m3_s": 60.0}],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device=device)
        train(spec, run)
        net = trained.load(Path(folder) / "weights.safetensors", device)
        waters = {
            "as trained": [Valley(type="valley", discharge_m3_s=60.0)],
            "twice the inflow": [Valley(type="valley", discharge_m3_s=120.0)],
            "rain": [Rain(type="rain", mm_per_h=35.0)],
        }
        return {
            name: held_out(spec, run, net, water, counts["train"], counts["test"])
            for name, water in waters.items()
        }


def held_out(spec, run, net, water, first, count):
    """Mean MAE of every method on the test terrains, and its ratio to mean pooling."""
    rows = {name: [] for name in (*BASELINES, "net")}
    for k in range(count):
        made = spec.scenes.synthetic.model_copy(update={"variant": first + k})
        fine = load(SyntheticTerrain(synthetic=made), run, spec.seed)
        flooding = TerrainCompare(
            kind="terrain.compare",
            terrain=SyntheticTerrain(synthetic=made),
            water=water,
            solver=Solver(),
            duration_s=spec.duration_s,
        )
        scene = scene_of(flooding, fine, 0.1)
        flood = scene.open(fine.z, fine.dx)
        flood.advance(spec.duration_s, 2**62)
        truth = measures.pooled(flood.depth[0], spec.factor).numpy()
        z = torch.from_numpy(fine.z)
        beds = {name: maker(z, spec.factor).numpy() for name, maker in BASELINES.items()}
        beds["net"] = trained.apply(net, z, run.device)
        for name, bed in beds.items():
            coarse = scene.open(bed, fine.dx * spec.factor, coarse=True)
            coarse.advance(spec.duration_s, 2**62)
            rows[name].append(measures.errors(coarse.depth[0].numpy(), truth)["mae_m"])
    mean = {name: float(np.mean(values)) for name, values in rows.items()}
    return {"mae_m": mean, "ratio": {name: v / mean["mean"] for name, v in mean.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--factor", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--budget-s", type=float, default=240.0)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    found = {"device": name, "torch": str(torch.__version__)}
    began = time.perf_counter()
    sections = {
        "correct": lambda: correct(device),
        "cell_steps_per_s": lambda: speed(device, options.quick),
    }
    if options.quality:
        epochs = 2 if options.quick else options.epochs
        factor = 8 if options.quick else options.factor
        sections["quality"] = lambda: quality(device, options.quick, factor, epochs)
    for section, work in sections.items():
        if time.perf_counter() - began < options.budget_s:
            found[section] = work()
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
