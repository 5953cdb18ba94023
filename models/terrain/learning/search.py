"""The search of all tuning: Adam on coarse floods, the best step under held-out floods is kept."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core import optimizers
from models.core.run import Run
from models.terrain.solver.engines import Scenario
from models.terrain.solver.subgrid import Subgrid
from models.terrain.solver.time_stepping import BoundaryConditions

LAST_SHARE = 0.1  # of the step of Adam, at the end


class TuningTask(NamedTuple):
    """A flood to match: its scenario, pooled fine depth in m [nyc, nxc], unit of the error in m."""

    scenario: Scenario
    target: np.ndarray
    unit: float


class Matches(NamedTuple):
    """Coarse floods to match: boundary conditions, depths in m at the end, units of errors in m."""

    boundaries: list[BoundaryConditions]
    target: Float[Tensor, "1 b ny nx"]
    units: Float[Tensor, "b"]


class Searched(NamedTuple):
    """The best values of a search.

    Attributes:
        values: of the leaves.
        error: mean over the floods that judged, in their units.
        first: that of the values the search began with.
        step: after which they were found; 0: the first ones.
    """

    values: list[Tensor]
    error: float
    first: float
    step: int


def matches(
    tasks: list[TuningTask],
    bed: Float[Tensor, "1 ny nx"],
    datum: float,
    dx: float,
    grid: Subgrid | None = None,
) -> Matches:
    """The coarse floods of tasks.

    Args:
        tasks: at least one.
        bed: coarse heights over ``datum``, or the lowest ones of a subgrid, m.
        datum: m.
        dx: side of a coarse cell, m.
        grid: tables over ``datum``; None: none.
    """
    return Matches(
        [task.scenario.boundary_conditions(bed, datum, dx, grid) for task in tasks],
        torch.from_numpy(np.stack([task.target for task in tasks]))[None],
        torch.tensor([task.unit for task in tasks]),
    )


def search(
    leaves: list[Tensor],
    rates: list[float],
    error: Callable[[Matches], Tensor],
    floods: Matches,
    held_out: Matches | None,
    steps: int,
    run: Run,
) -> Searched:
    """Minimize the error of floods; of all steps, keep the best under the held-out ones.

    So the result is no worse there than what the search began with.

    Args:
        leaves: what is optimized, with gradients.
        rates: steps of Adam of each, falling to a tenth of it.
        error: of some floods at the present values.
        floods: whose error is minimized.
        held_out: that judge; None: the same ones do.
        steps: of Adam.
        run: checked for a stop.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    optimiser = optimizers.Adam(
        [{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates, strict=True)]
    )
    best = Searched([], float("inf"), float("inf"), 0)
    for step in range(steps + 1):
        run.check_stop()
        loss = error(floods)
        judged = loss.item() if held_out is None else _judged(error, held_out)
        first = judged if step == 0 else best.first
        if judged < best.error:
            best = Searched([leaf.detach().clone() for leaf in leaves], judged, first, step)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - (1 - LAST_SHARE) * step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        run.progress(min(step + 1, steps), steps, phase="tune")
    return best


def _judged(error: Callable[[Matches], Tensor], held_out: Matches) -> float:
    with torch.no_grad():
        return error(held_out).item()
