"""A CPU step of the flood solver in two checkouts, in turn: seconds of one thread, ratio by pairs.

    python -m tests.bench.terrain_scheme --before FOLDER --out FILE.json

FOLDER holds ``models`` of an earlier commit (git archive COMMIT models | tar x -C FOLDER). Every
cell is wet, steps have one length that is stable in both, the compiled code is loaded first.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

SIZES, ROUNDS, STEPS = (125, 512), 7, {125: 2000, 512: 150}
STEP = """
import sys, time, torch
try:
    from models.terrain.solver.cpu.engine import FusedFlood
    from models.terrain.solver import scheme
    from models.terrain.solver.forcing import Forcing
except ModuleNotFoundError:
    from models.terrain.fused import FusedFlood
    from models.terrain import scheme
    from models.terrain.forcing import Forcing
n, steps, limiter = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "limiter"
g = torch.Generator().manual_seed(0)
z = torch.rand(1, n, n, generator=g)
start = scheme.dry(z)._replace(h=0.5 + torch.rand(1, n, n, generator=g))
physics = scheme.Physics(theta=0.7, alpha=0.5, limiter=limiter, dt_max=0.4)
flood = FusedFlood(scheme.Ground(z, 0.05, 10.0), Forcing(), physics, start, 1)
flood.advance(1e9, 10)
began = time.process_time()
flood.advance(1e9, steps)
print(time.process_time() - began)
"""


def seconds(tree: Path, n: int, limiter: str) -> float:
    command = [sys.executable, "-c", STEP, str(n), str(STEPS[n]), limiter]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    here, rows = Path(__file__).parents[2], []
    for n in SIZES:
        for limiter in ("limiter", "none"):
            for tree in (options.before, here):  # compiles
                seconds(tree, n, limiter)
            pairs = [
                [seconds(t, n, limiter) for t in (options.before, here)] for _ in range(ROUNDS)
            ]
            ratios = sorted(after / before for before, after in pairs)
            row = {"n": n, "steps": STEPS[n], "limiter": limiter == "limiter", "cpu_s": pairs}
            row |= {"ratio_min": ratios[0], "ratio_median": statistics.median(ratios)}
            rows.append(row | {"ratio_max": ratios[-1]})
            print(n, limiter, rows[-1]["ratio_median"], flush=True)
    machine = {"processor": platform.machine(), "python": platform.python_version()}
    result = {"machine": machine, "load": os.getloadavg(), "rows": rows}
    options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
