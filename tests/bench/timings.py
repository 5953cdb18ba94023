"""What runs of every kind take on a CPU: the rates that estimates start from.

    python -m tests.bench.timings            # every kind, small and larger, some ten minutes

Each run is a child as a worker starts it, on one thread; its CPU seconds are kept, which other
load of the machine changes little. On two idle cores the wall seconds lie between half of them and
all of them, inside of the factor 2 that every estimate leaves. Writes ``models/timings.json``.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import models
from models.catalog import JobSpec, kinds
from models.core.spec import DatasetRef, Spec
from models.data.builtin import BUILTIN
from tests.smallest import smallest

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TILE = {"rows": 256, "columns": 256, "cell_size_m": 10.0}
OCCLUSION = [{"id": "occlusion", "window": 64, "stride": 24}, {"id": "random"}]
# what makes the smallest spec of a kind a larger one
LARGER: dict[str, dict[str, Any]] = {
    "dynamic_downsampling.train": {
        "max_steps": 200,
        "batch_size": 64,
        "images": {"image_size": 16},
    },
    "dynamic_downsampling.plan": {"images": {"image_size": 32}, "batch_size": 64},
    "selective_convolution.train": {"epochs": 10, "images": {}, "batch_size": 64},
    "saliency.map": {"methods": [{"id": "rise", "masks": 400}]},
    "saliency.evaluate": {"methods": OCCLUSION},
    "saliency.sweep": {"methods": [*OCCLUSION, {"id": "rise", "masks": 100}]},
    "saliency.roar": {"max_steps": 40, "shares": [0.3, 0.6]},
    "terrain.train": {
        "scenes": {"synthetic": TILE, "train": 8, "test": 2},
        "duration_s": 600.0,
        "factor": 16,
    },
    "terrain.downsample": {"terrain": {"synthetic": {**TILE, "rows": 1024, "columns": 1024}}},
    "terrain.simulate": {"terrain": {"synthetic": TILE}, "duration_s": 3600.0},
    "terrain.compare": {"terrain": {"synthetic": TILE}, "duration_s": 1800.0},
    "freetickets.train": {"max_steps": 300, "batch_size": 64, "images": {}},
    "lcw.train": {
        "phase1": {"max_steps": 600, "batch_size": 128},
        "phase2": {"max_steps": 600, "batch_size": 128},
        "images": {},
    },
    "classify.predict": {"data": {"dataset": "digits"}},
    "lcw.sample": {"count": 100_000},
}


def cpu_seconds(spec: Spec) -> float:
    """CPU seconds of a child that carries the spec out, without compiling anything anew."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="sx-bench-") as folder:
        (Path(folder) / "spec.json").write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "models", "run", folder]
        subprocess.run(command, env=os.environ | ONE_THREAD, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run every kind once at each size."""
    seconds: dict[str, dict[str, list[list[float]]]] = {}
    for kind in kinds():
        for more in ({}, LARGER[kind]):
            fields = {**smallest(kind), **more}
            spec = TypeAdapter(JobSpec).validate_python(fields)
            refs = [ref for _, ref in spec.references() if isinstance(ref, DatasetRef)]
            cost = spec.estimate({ref.dataset: BUILTIN[ref.dataset].counts for ref in refs})
            taken = cpu_seconds(spec)
            print(kind, cost.work, cost.work_unit, round(taken, 2), flush=True)
            of_unit = seconds.setdefault(kind, {}).setdefault(cost.work_unit, [])
            of_unit.append([cost.work, round(taken, 2)])
    result = {
        "what": "python -m tests.bench.timings; per kind and unit: work, CPU seconds of one thread",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "numba", "numpy")},
        "seconds": seconds,
    }
    path = Path(models.__file__).with_name("timings.json")
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
