"""CPU seconds that the compiled loops of floods take to compile, nothing on disk before.

    python -m tests.bench.terrain_compile --out FILE.json

``loops``: each entry point after those before it in one process. ``backward_5_arrays``: the plain
derivative given the five arrays it reads in place of all of a flood, in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch


class Read(NamedTuple):
    """What the plain derivative reads of a flood's arrays."""

    z: np.ndarray
    n: np.ndarray
    drain: np.ndarray
    held: np.ndarray
    level: np.ndarray


def small_flood():
    from models.terrain.solver.cpu.engine import FusedFlood
    from models.terrain.solver.scheme import Physics
    from tests.models.terrain.flood_cases import flood

    ground, forcing = flood(12, 12, torch.float32)
    return FusedFlood(ground, forcing, Physics())


def loops(_):
    from models.terrain.solver.cpu.rollout import rollout, rollout_of_faces
    from models.terrain.solver.scheme import Physics
    from models.terrain.solver.subgrid import FaceChange
    from models.terrain.solver.time_stepping import BoundaryConditions
    from tests.models.terrain.flood_cases import flood
    from tests.models.terrain.test_terrain_subgrid_adjoint import changes, rough_flood

    ground, forcing = flood(12, 12, torch.float32)
    marks = [time.process_time()]
    small_flood().advance(5.0)
    marks.append(time.process_time())
    bed = ground.z.clone().requires_grad_()
    depths = rollout(bed, [BoundaryConditions(ground, forcing)], Physics(), [5.0])
    marks.append(time.process_time())
    depths.sum().backward()
    marks.append(time.process_time())
    leaves = changes(12, 14, 0.1)
    faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
    rollout_of_faces(*faces, rough_flood(12, 14), Physics(), [5.0]).sum().backward()
    marks.append(time.process_time())
    names = ("advance", "record", "backward", "subgrid_backward")
    return dict(zip(names, np.diff(marks).tolist(), strict=True))


def backward(few):
    from models.terrain.solver.cpu import adjoint

    flood = small_flood()
    arrays = flood.arrays
    if few:
        arrays = Read(*(getattr(arrays, name) for name in Read._fields))
    fields = [np.zeros(k * 144, np.float32) for k in (6, 6, 1)]
    work = np.zeros(adjoint.BUFFER, np.float32)
    began = time.process_time()
    adjoint.backward_steps(
        arrays, flood.layout, flood.constants, fields[0], np.ones(2), 2, *fields[1:], work
    )
    return time.process_time() - began


def cold(function, argument=None):
    """The result of a function in a new process with an empty folder for machine code."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, (argument,))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    result = {"loops": cold(loops), "backward_all_arrays": cold(backward, False),
              "backward_5_arrays": cold(backward, True)}  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
