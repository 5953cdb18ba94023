"""Time integration with the reference step: output times, volumes, detection of blow-ups."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import RunError
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.scheme import (
    Exchange,
    FlowState,
    Ground,
    Physics,
    stable_step,
    step,
    step_for,
    water_depth,
    wet_share,
)

STEP_SLACK = 1e-9  # relative: a shorter remainder is added to the last step


class UnstableError(RunError):
    """The water became NaN, infinite or absurdly deep."""

    code = "diverged"


class Clock(NamedTuple):
    """Time, steps and volumes of a batch of simulations.

    Attributes:
        t: s since the start, float64 [b].
        steps: taken by each sample, int64 [b].
        entered: m3 of rain, inflow and from cells of a held level, float64 [b].
        left: m3 through outlets and into cells of a held level, float64 [b].
    """

    t: Tensor
    steps: Tensor
    entered: Tensor
    left: Tensor

    @staticmethod
    def start(batch: int, device: torch.device | str = "cpu") -> "Clock":
        """Time 0, nothing entered or left."""
        zero = torch.zeros(batch, dtype=torch.float64, device=device)
        return Clock(zero, zero.long(), zero.clone(), zero.clone())


class BoundaryConditions(NamedTuple):
    """Everything a flood needs besides its bed: ``ground`` (its ``z`` is not used) and forcing."""

    ground: Ground
    forcing: Forcing


class Totals(NamedTuple):
    """Of one flood: time in s, steps, m3 that entered, that left, that went into the ground."""

    t: float
    steps: int
    entered: float
    left: float
    infiltrated: float = 0.0


def next_dt(
    h: Float[Tensor, "b ny nx"],
    t: Float[Tensor, "b"],
    until: float,
    ground: Ground,
    physics: Physics,
    forcing: Forcing,
) -> Float[Tensor, "b"]:
    """The stable step in s, cut so that it ends at ``until``; 0 for samples that are there.

    What enters within the step counts as depth: with dt_0 the step for the present depth, the step
    is that for the greatest depth after an inflow and rain of dt_0.

    Args:
        h: mean depth, m.
        t: time of each sample, s.
        until: target time, s.
        ground: side of a cell, subgrid.
        physics: constants.
        forcing: water entering.
    """
    remaining, dx = until - t, ground.dx
    dt = stable_step(water_depth(h.detach(), ground), dx, physics)
    if forcing.inlets or forcing.rain is not None or forcing.piece is not None:
        dt = step_for(_depth_after(h.detach(), t, dt, ground, forcing), dx, physics)
    return torch.where(dt >= remaining * (1 - STEP_SLACK), remaining, dt).clamp(min=0)


def _depth_after(h: Tensor, t: Tensor, dt: Tensor, ground: Ground, forcing: Forcing) -> Tensor:
    """Greatest depth of each sample [b] if nothing flows during a step, m.

    Rates are the larger of those at the beginning and in the middle of the step. Rain, little in a
    step, counts as if the deepest cell were level.
    """
    shape, inflow = (h.shape[1], h.shape[2]), forcing._replace(rain=None, piece=None)
    at = torch.zeros_like(dt)
    rates = [inflow.rate(shape, ground.dx, x, at, torch.float64) for x in (t, t + dt / 2)]
    rise = torch.maximum(*(torch.as_tensor(rate, dtype=torch.float64) for rate in rates))
    after = h.double() + dt[:, None, None] * rise
    deepest = water_depth(after.to(h), ground).double().amax((1, 2))
    if forcing.piece is not None:
        weights = [field.weight for field in forcing.piece.fields]
        most = sum(torch.maximum(weight.at(t), weight.at(t + dt / 2)) for weight in weights)
        return deepest + dt * forcing.piece.most * most
    if forcing.rain is None:
        return deepest
    most = 1.0 if forcing.rain_map is None else float(forcing.rain_map.max())
    return deepest + dt * most * torch.maximum(forcing.rain.at(t), forcing.rain.at(t + dt / 2))


def advance(
    state: FlowState,
    clock: Clock,
    ground: Ground,
    forcing: Forcing,
    physics: Physics,
    until: float,
    max_steps: int | None = None,
    after: Callable[[FlowState, Clock], None] = lambda *_: None,
) -> tuple[FlowState, Clock]:
    """Step all samples to time ``until``, each with its own step lengths.

    Args:
        state: at ``clock``.
        clock: of the state.
        ground: bed, roughness, outlets.
        forcing: water entering; its rate in a step is the mean over the step. Of a stack of rain
            the piece counts that is set.
        physics: constants.
        until: target time, s; finished samples take steps of length 0.
        max_steps: stop after this many steps; None: no bound.
        after: called with each new state and clock.

    Raises:
        UnstableError: if water is NaN, infinite or beyond all bounds.
    """
    shape, taken = (ground.z.shape[1], ground.z.shape[2]), 0
    while bool((clock.t < until).any()) and taken != max_steps:
        check(state.h, clock)
        dt = next_dt(state.h, clock.t, until, ground, physics, forcing)
        if ground.soil is not None:
            left = ground.soil.soak(state.h, dt, wet_share(state.h, ground))
            state = state._replace(h=left)
        source = forcing.rate(shape, ground.dx, clock.t, dt, state.h.dtype)
        held = forcing.ground_at(ground, clock.t + dt)
        state, exchange = step(state, held, dt, source, physics)
        clock = _tick(clock, dt, source, exchange, until, ground.dx)
        after(state, clock)
        taken += 1
    check(state.h, clock)
    return state, clock


DEEPEST_M = 1e5


def check(h: Float[Tensor, "b ny nx"], clock: Clock) -> None:
    """Raise if a state is not finite or too deep.

    Raises:
        UnstableError: with the number of the step.
    """
    highest = h.detach().amax((1, 2))
    bad = ~(highest < DEEPEST_M) | ~torch.isfinite(h.detach().sum((1, 2)))
    if bool(bad.any()):
        sample = int(bad.nonzero()[0, 0])
        raise UnstableError(
            f"the simulation blew up in step {int(clock.steps[sample])} at "
            f"{float(clock.t[sample]):.1f} s",
            hint="raise manning, set solver.froude to 1, or leave the limiter on",
        )


def _tick(
    clock: Clock, dt: Tensor, source: Tensor | float, exchange: Exchange, until: float, dx: float
) -> Clock:
    """The clock after a step; a cell of a held level gives water or takes it, by the sign."""
    area = dx * dx

    def total(rate: Tensor) -> Tensor:
        return rate.detach().sum((1, 2), dtype=torch.float64)

    if isinstance(source, Tensor):
        rate = total(source)
    else:
        rate = torch.zeros_like(dt) + source * exchange.held[0].numel()
    into, out = total((-exchange.held).clamp(min=0)), total(exchange.held.clamp(min=0))
    t = clock.t + dt
    return Clock(
        torch.where(t >= until * (1 - 1e-14), torch.full_like(t, until), t),
        clock.steps + (dt > 0),
        clock.entered + dt * (rate + into) * area,
        clock.left + dt * (total(exchange.outlets) + out) * area,
    )
