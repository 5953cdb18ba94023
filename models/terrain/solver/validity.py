"""Where the local-inertial equations do not hold: supercritical flow."""

from models.core.run import Run
from models.terrain.solver.maxima import cell_discharge, wet_part
from models.terrain.solver.scheme import FlowState
from models.terrain.solver.subgrid import SubgridTerrain

GRAVITY = 9.8
MOST_SUPERCRITICAL = 0.05


def supercritical_share(
    state: FlowState, wet_m: float, subgrid: SubgridTerrain | None = None
) -> float:
    """Share of the wet cells whose Froude number |q| / (h sqrt(g h)) is above 1.

    The discharge of a cell is the mean of its two faces in each direction; edges are closed. With a
    subgrid the number is the speed of the water in its wet part over sqrt(g depth).

    Args:
        state: of one sample; h [1, ny, nx] in m.
        wet_m: depth above which a cell counts, m.
        subgrid: of the flood.
    """
    wet = state.h > wet_m
    if not bool(wet.any()):
        return 0.0
    if subgrid is None:
        fast = cell_discharge(state) ** 2 > GRAVITY * state.h**3
    else:
        depth, speed = wet_part(state, subgrid, wet_m)
        fast = speed**2 > GRAVITY * depth
    return float((fast & wet).sum() / wet.sum())


def warn_if_supercritical(run: Run, share: float) -> None:
    """Warn if more than 5 % of the wet cells were supercritical: the equations do not hold."""
    if share > MOST_SUPERCRITICAL:
        run.warn(
            "supercritical",
            f"{share:.0%} of the wet cells have a Froude number above 1; local inertia has no"
            " convection, so waves grow on such flow by themselves, to many times its depth: set"
            " solver.froude to 1, which bounds the speed, so that steep ground carries critical"
            " depth. Bores, hydraulic jumps, weirs and dam-break fronts stay wrong (a front on dry"
            " ground goes a third of its way): they need full shallow-water equations",
        )
