"""The coarse terrains that ``terrain.compare`` floods, in the order of its report."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from models.core.errors import SpecError
from models.core.run import Run
from models.core.spec import ArtifactRef
from models.terrain.dem import subgrid_file
from models.terrain.dem.pooling import BASELINES, mean
from models.terrain.learning import face_net, tuning, weights
from models.terrain.learning.search import TuningTask
from models.terrain.solver.engines import Scenario
from models.terrain.solver.subgrid import SubgridTerrain, subgrid_of
from models.terrain.spec.floods import TerrainCompare

SAME_HEIGHT_M = 1e-3


class Candidate(NamedTuple):
    """A coarse terrain: heights in m [ny, nx], the mean ones where it has a subgrid."""

    name: str
    z: np.ndarray
    subgrid: SubgridTerrain | None = None


def candidates(
    spec: TerrainCompare, run: Run, z: Tensor, scenario: Scenario, truth: np.ndarray, dx: float
) -> Iterator[Candidate]:
    """Every coarse terrain that a spec asks for.

    Args:
        spec: methods, subgrids, nets, steps of the optimizer.
        run: gives access to their files.
        z: fine heights in m, sides multiples of the factor.
        scenario: of the floods.
        truth: pooled depth of the fine flood, m.
        dx: side of a coarse cell, m.

    Raises:
        SpecError: if a net or a subgrid is for another factor, or a subgrid of another terrain.
        DataError: if a file cannot be used.
    """
    start = mean(z, spec.factor).numpy()
    untrained = subgrid_of(z, spec.factor) if spec.on_subgrid else None
    for name in spec.methods:
        if name == "subgrid":
            yield Candidate(name, start, untrained)
        elif name == "learned":
            assert untrained is not None  # noqa: S101  # it is a subgrid
            net = face_net.shipped(spec.factor)
            tables = face_net.improved(net, z, untrained, dx, run.check_stop)
            yield Candidate(name, start, tables)
        else:
            yield Candidate(name, BASELINES[name](z, spec.factor).numpy())
    for index, ref in enumerate(spec.subgrids):
        assert untrained is not None  # noqa: S101  # where there are subgrids
        given = _given(ref, run, untrained, f"subgrids.{index}")
        yield Candidate(_numbered("given subgrid", index, spec.subgrids), start, given)
    for index, ref in enumerate(spec.nets):
        net = weights.load_for(spec, ref, run, spec.solver)
        heights = weights.apply(net, z, run.device)
        start = heights if index == 0 else start
        yield Candidate(_numbered("net", index, spec.nets), heights)
    if spec.optimise_steps:
        task = TuningTask(scenario, truth, 1.0)
        heights, _ = tuning.improve(start, dx, [task], spec.optimise_steps, run)
        yield Candidate("optimised", heights)


def _numbered(name: str, index: int, refs: list[ArtifactRef]) -> str:
    return f"{name} {index + 1}" if len(refs) > 1 else name


def _given(ref: ArtifactRef, run: Run, own: SubgridTerrain, field: str) -> SubgridTerrain:
    """The subgrid of a file, which must be of the terrain whose untrained one is ``own``."""
    made = subgrid_file.read(run.input(ref), ref.artifact).subgrid
    assert made is not None  # noqa: S101  # of that reader
    if made.factor != own.factor:
        raise SpecError(f"{field}: it was made with factor {made.factor}, this is {own.factor}")
    cells, here = list(made.lowest.shape[1:]), list(own.lowest.shape[1:])
    if cells != here or bool(((made.lowest - own.lowest).abs() > SAME_HEIGHT_M).any()):
        raise SpecError(
            f"{field}: its lowest heights are not those of this terrain: name the terrain, area and"
            " edges that it was made of"
        )
    return made
