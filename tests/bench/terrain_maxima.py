"""What looking at speeds every 32 steps costs a flood on a CPU, by pairs of the same steps.

python -m tests.bench.terrain_maxima --out FILE.json
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.engines import TRACKED_STEPS
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.scheme import Ground, Physics, dry

SIZES, ROUNDS, LOOKS = (125, 512), 5, {125: 20, 512: 3}


def seconds(n: int, tracked: bool) -> float:
    """CPU seconds of the steps of a flood whose cells are all wet."""
    g = torch.Generator().manual_seed(0)
    z = torch.rand(1, n, n, generator=g)
    start = dry(z)._replace(h=0.5 + torch.rand(1, n, n, generator=g))
    flood = FusedFlood(Ground(z, 0.05, 10.0), Forcing(), Physics(), start, 1, 0.05)
    maxima = Maxima((n, n), 0.05)
    flood.advance(1e9, TRACKED_STEPS)
    flood.track(maxima)
    began = time.process_time()
    for _ in range(LOOKS[n]):
        flood.advance(1e9, TRACKED_STEPS)
        if tracked:
            flood.track(maxima)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out, rows = parser.parse_args().out, []
    for n in SIZES:
        pairs = [[seconds(n, False), seconds(n, True)] for _ in range(ROUNDS)]
        ratios = sorted(after / before for before, after in pairs)
        row = {"n": n, "steps": LOOKS[n] * TRACKED_STEPS, "cpu_s": pairs, "ratio_min": ratios[0]}
        rows.append(row | {"ratio_median": statistics.median(ratios), "ratio_max": ratios[-1]})
        print(n, rows[-1]["ratio_median"], flush=True)
    machine = {"processor": platform.machine(), "python": platform.python_version()}
    out.write_text(
        json.dumps({"machine": machine, "load": os.getloadavg(), "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
