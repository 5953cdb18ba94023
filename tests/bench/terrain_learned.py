"""How much of a subgrid's learned sills and friction follows from fine heights: sites left out.

    python -m tests.bench.terrain_learned --out FOLDER [--rasters FOLDER ...] [--quick]
        [--workers 16] [--factors 8,16,4] [--seconds 560]

Models map features of the fine heights beside a face to its sill shift and frictions. They are
trained through the coarse floods of all sites but one and judged on that one, under waters trained
on and others. Call it again to go on: every unit is a file of FOLDER. ``--rasters`` are needed only
where ``windows.npz`` is missing there. Windows of a raster are blocks: some overlap, which
``overlap`` says, and intervals resample them whole.
"""

import argparse
import functools
import io
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from models.core.run import Run
from models.terrain.learning.coarse_floods import depths_by_faces
from models.terrain.learning.faces import FloodConstants, faces_of, learn
from models.terrain.learning.losses import relative
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.scheme import Ground
from models.terrain.solver.subgrid import subgrid_of
from models.terrain.solver.time_stepping import BoundaryConditions
from tests.bench.terrain_learned_models import initial, six_of
from tests.bench.terrain_learned_scenes import (
    COARSE,
    FINE,
    MANNING,
    SITES,
    TRAINED,
    UNSEEN,
    Window,
    cut,
)
from tests.bench.terrain_learned_summary import summary

RATES = {"constants": 0.03, "linear": 0.01, "net": 0.005}
SEEDS = {"constants": 1, "linear": 1, "net": 3}
STEPS, WATERS_A_STEP = 300, 3
TUNED_FACTOR = 8  # at which scenes are tuned too, the bound of what can be learned
EVERYWHERE = "none"  # left out: the nets that are shipped


def faces_by(model: str, parameters, window: Window):
    x, y = (six_of(model, parameters, some) for some in window.features)
    return faces_of([*(v[None] for v in x), *(v.mT[None] for v in y)])


def train(
    folder: Path,
    factor: int,
    model: str,
    left_out: str,
    seed: int,
    steps: int,
    until: float,
    names: list[str],
) -> bool:
    """Train one model without one site; False if the time ended first."""
    torch.set_num_threads(1)
    path = folder / f"model-{factor}-{model}-{left_out}-{seed}.json"
    state = (
        json.loads(path.read_text()) if path.exists() else {"step": 0, "cpu_s": 0.0, "losses": []}
    )
    if state["step"] >= steps:
        return True
    generator = torch.Generator().manual_seed(1000 * seed + 1)
    parameters = [p.requires_grad_() for p in initial(model, generator)]
    optimiser = torch.optim.Adam(parameters, lr=RATES[model])
    if state["step"]:
        for p, values in zip(parameters, state["parameters"], strict=True):
            p.data.copy_(torch.tensor(values))
        moments = {
            k: dict(zip(("step", "exp_avg", "exp_avg_sq"), map(torch.tensor, one), strict=True))
            for k, one in enumerate(state["moments"])
        }
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"param_groups": groups, "state": moments})
    sites = sorted({name.rsplit("-", 1)[0] for name in names} - {left_out})
    windows = {
        site: [Window(folder, n, factor) for n in names if n.rsplit("-", 1)[0] == site]
        for site in sites
    }
    began, waters = time.process_time(), list(TRAINED)
    while state["step"] < steps and time.time() < until:
        step = state["step"]
        choice = np.random.default_rng([seed, step])
        site = sites[int(choice.integers(len(sites)))]
        window = windows[site][int(choice.integers(len(windows[site])))]
        some = window.matches(list(choice.choice(waters, WATERS_A_STEP, replace=False)))
        x, y = faces_by(model, parameters, window)
        b = len(some.boundaries)
        spread = [type(faces)(*(field.expand(b, -1, -1) for field in faces)) for faces in (x, y)]
        got = depths_by_faces(*spread, some.boundaries, COARSE, [window.duration])
        loss = relative(got, some.target, some.units)
        optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimiser.param_groups[0]["lr"] = RATES[model] * (
            0.55 + 0.45 * math.cos(math.pi * step / steps)
        )
        if math.isfinite(norm):
            optimiser.step()
        state["step"] += 1
        state["losses"].append(round(float(loss.detach()), 4))
        if state["step"] % 20 == 0 or state["step"] == steps:
            _keep(path, state, parameters, optimiser, began)
            began = time.process_time()
    return state["step"] >= steps


def _keep(path, state, parameters, optimiser, began):
    state["parameters"] = [p.detach().tolist() for p in parameters]
    moments = optimiser.state_dict()["state"]
    state["moments"] = [
        [float(m["step"]), m["exp_avg"].tolist(), m["exp_avg_sq"].tolist()]
        for _, m in sorted(moments.items())
    ]
    state["cpu_s"] += time.process_time() - began
    part = path.with_suffix(".part")
    part.write_text(json.dumps(state))
    part.replace(path)


def judge(folder: Path, factor: int, name: str, models: list[str]) -> None:
    """Errors in one window by everything trained without its site, and by tuning to the window."""
    torch.set_num_threads(1)
    window = Window(folder, name, factor)
    faces = {"mean": "mean", "untrained": None}
    faces |= {f"physical {a:g}": faces_by("physical", a, window) for a in (0.25, 0.5, 1.0)}
    for model in models:
        for path in sorted(folder.glob(f"model-{factor}-{model}-{window.site}-*.json")):
            parameters = [torch.tensor(p) for p in json.loads(path.read_text())["parameters"]]
            faces[path.stem.removeprefix(f"model-{factor}-").replace(f"-{window.site}", "")] = (
                faces_by(model, parameters, window)
            )
    if factor == TUNED_FACTOR:
        constants = FloodConstants(COARSE, window.duration, by_reference=False)
        floods = window.matches(list(TRAINED))
        best = learn(window.terrain, floods, None, constants, 30, Run(folder, events=io.StringIO()))
        faces["tuned"] = faces_of(best.values)
    with torch.no_grad():
        rows = {
            water: {by: window.errors(water, some) for by, some in faces.items()}
            for water in TRAINED | UNSEEN
        }
    (folder / f"judge-{factor}-{name}.json").write_text(
        json.dumps({"site": window.site, "errors": rows})
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rasters", type=Path, nargs="+", default=[Path("../shared/data/terrain")])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--factors", default="8,16,4")
    parser.add_argument("--models", default="constants,linear,net")
    parser.add_argument("--sites", default=",".join(SITES))
    parser.add_argument("--windows", type=int, default=12, help="most of a site")
    parser.add_argument("--seeds", type=int, default=max(SEEDS.values()))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=560.0)
    o = parser.parse_args()
    until, folder = time.time() + o.seconds, o.out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (folder / "windows.npz").exists():
        cut(o.rasters, folder)
    factors, models, sites = (
        [int(f) for f in o.factors.split(",")],
        o.models.split(","),
        o.sites.split(","),
    )
    if o.quick:
        factors, sites, o.windows, o.seeds, o.steps = [8], ["catchment", "marsh"], 1, 1, 2
    names = [f"{site}-{k}" for site in sites for k in range(min(o.windows, len(SITES[site][3])))]
    everything = [Window(folder, name, f) for f in factors for name in names]
    missing = {
        (w.name, w.n): w
        for w in everything
        if not (folder / f"floods-{w.name}-{w.n}.json").exists()
    }
    if missing:
        warm_up(folder, factors[0])
    with ProcessPoolExecutor(o.workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(Window.flood_fine, missing.values()))
        done = True
        for factor in factors:
            list(pool.map(Window.prepare, [w for w in everything if w.factor == factor]))
            units = [
                (folder, factor, m, s, seed, o.steps, until, names)
                for m in models
                for s in [*sites, EVERYWHERE]
                for seed in range(min(o.seeds, SEEDS[m]))
            ]
            done = all(list(pool.map(train, *zip(*units, strict=True)))) and done
            todo = [n for n in names if not (folder / f"judge-{factor}-{n}.json").exists()]
            if not done or time.time() > until:
                print(f"time is over before factor {factor} was judged: call it again")
                return
            list(pool.map(functools.partial(judge, folder, factor, models=models), todo))
            (folder / f"summary-{factor}.json").write_text(
                json.dumps(summary(folder, factor), indent=1)
            )
    print("done")


def warm_up(folder: Path, factor: int) -> None:
    """Compile once, before the workers start."""
    window = Window(folder, "catchment-0", factor)
    z = window.z[:32, :32]
    ground = Ground(z[None], MANNING, 10.0)
    FusedFlood(ground, Forcing(), FINE).advance(1.0)
    terrain = subgrid_of(z, 4)
    on = BoundaryConditions(
        Ground(terrain.lowest, MANNING, 40.0, subgrid=terrain.tables), Forcing()
    )
    x = torch.zeros(1, 8, 7, requires_grad=True)
    y = torch.zeros(1, 7, 8)
    got = depths_by_faces(*faces_of([x, x, x, y, y, y]), [on], COARSE, [10.0])
    got.sum().backward()


if __name__ == "__main__":
    main()
