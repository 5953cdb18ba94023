"""When what happens: phases, tickets, updates of the masks. Torch-free, a function of the spec.

A job is one training of ``total`` steps. An EDST run (README, equation 5) is an exploration
and M refinements; the other variants are M members one after the other. A phase ends with a ticket,
except for the exploration.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from models.core.errors import SpecError
from models.freetickets.fields import PruneRate, Rates


class Phase(NamedTuple):
    """Steps ``start`` <= step < ``stop`` of the job.

    Attributes:
        name: ``explore``, ``refine``, ``member`` or ``cycle``.
        ticket: number of the ticket left at its end, from 0; None for the exploration.
        start: first step, from 0.
        middle: first step of the second half.
        stop: step after the last.
    """

    name: str
    ticket: int | None
    start: int
    middle: int
    stop: int

    @property
    def length(self) -> int:
        """Steps of the phase."""
        return self.stop - self.start


class Lengths(NamedTuple):
    """How a run is to be divided, in units.

    Attributes:
        variant: of the spec.
        members: tickets M.
        total: units of the run.
        explore: of the exploration of ``edst``; None for what refine leaves, or a third.
        refine: of each refinement of ``edst``; None for an equal share.
        unit: ``epochs`` or ``steps``, for messages.
    """

    variant: str
    members: int
    total: int
    explore: int | None
    refine: int | None
    unit: str


def explored(asked: Lengths) -> int:
    """Units of the exploration; 0 for all variants but ``edst``.

    Raises:
        SpecError: if the phases do not add up, or the run is too short for them.
    """
    variant, m, total, explore, refine, unit = asked
    if variant != "edst":
        if explore is not None or refine is not None:
            raise SpecError(
                f"explore and refine are phases of edst; {variant} splits the run evenly: leave"
                " them out"
            )
        _must_hold(asked, total, m, "")
        return 0
    if explore is not None and refine is not None and explore + m * refine != total:
        raise SpecError(
            f"explore {explore} + {m} members x refine {refine} = {explore + m * refine}, but the"
            f" run has {total} {unit}: change one of them, or leave refine out"
        )
    first = explore or (total - m * refine if refine else -(-total // 3))
    _must_hold(asked, total - first if first > 0 else 0, 2 * m, "an exploration and ")
    return first


def _must_hold(asked: Lengths, rest: int, least: int, before: str) -> None:
    if rest < least:
        field = "max_steps" if asked.unit == "steps" else "epochs"
        raise SpecError(
            f"{asked.total} {asked.unit} do not hold {before}{asked.members} phases: raise {field},"
            " or lower members or explore"
        )


def phases(variant: str, members: int, total: int, explore: int, scale: int) -> list[Phase]:
    """The phases of a job; boundaries between whole units are rounded up, as in the authors' code.

    Args:
        variant: of the spec.
        members: tickets M.
        total: units (epochs, or steps) of the job.
        explore: units of the exploration T0; 0 for all variants but ``edst``.
        scale: steps of a unit.
    """
    name = {"edst": "refine", "snapshot": "cycle"}.get(variant, "member")
    length = (total - explore) / members

    def edge(count: int | float) -> int:
        return scale * min(total, explore + math.ceil(count * length - 1e-9))

    exploration = [Phase("explore", None, 0, scale * explore, scale * explore)] if explore else []
    edges = [(m, edge(m), edge(m + 0.5), edge(m + 1)) for m in range(members)]
    return exploration + [Phase(name, *bounds) for bounds in edges]


class Update(NamedTuple):
    """A change of the masks after a step: number from 0, and share p."""

    number: int
    rate: float


def updates(
    plan: Sequence[Phase], interval: int, prune: PruneRate, freeze: float, *, restarts: bool
) -> dict[int, Update]:
    """The ordinary updates by steps done.

    Args:
        plan: phases of the job.
        interval: steps between updates; counted anew for each member if ``restarts``.
        prune: share of the active weights that an update changes.
        freeze: share of each phase, at its end, in which the masks rest: a weight grown in the
            last steps of a ticket would be noise.
        restarts: whether each phase is a training of its own.
    """
    by_step: dict[int, Update] = {}
    for phase in plan:
        origin = phase.start if restarts else 0
        changing = (1 - freeze) * phase.length
        for done in range(phase.start + 1, phase.stop):
            if (done - origin) % interval == 0 and done - phase.start <= changing:
                share = _rate(prune, (done - phase.start) / max(1.0, changing))
                by_step[done] = Update(len(by_step), share)
    return by_step


def _rate(prune: PruneRate, x: float) -> float:
    if prune.schedule == "constant":
        return prune.initial
    return _cosine(prune.initial, prune.final, x)


def refined(rates: Rates, phase: Phase, step: int) -> float:
    """Factor on the learning rate in a refinement: the authors' two steps, or a cosine."""
    if rates.shape == "steps":
        return rates.high if step < phase.middle else rates.low
    return _cosine(rates.high, rates.low, (step - phase.start) / phase.length)


def _cosine(first: float, last: float, x: float) -> float:
    """From ``first`` at x = 0 to ``last`` at x = 1."""
    return last + (first - last) * (1 + math.cos(math.pi * x)) / 2


def phase_at(plan: Sequence[Phase], step: int) -> Phase:
    """The phase of a step, from 0."""
    return plan[bisect_right([phase.start for phase in plan], step) - 1]
