"""Constants of the shallow-water scheme and their stable range. Torch-free."""

import math
from typing import Any

from pydantic import Field, model_validator

from models.core.spec import SpecGroup

CELL_STEPS = 1e13  # what one job may ask of the solver; hours on a GPU, a day on a few cores
THETA, THETA_MAX = 0.8, 0.95
AUTHORS_THETA, AUTHORS_ALPHA = 0.7, 0.7  # of the authors' code, with their step


def alpha_max(theta: float, *, authors_step: bool = False) -> float:
    """Largest Courant number with a margin of 10 % to the limit of linear stability.

    Args:
        theta: weight of a face's own discharge, 0..1.
        authors_step: for steps dx / (g + h), at most half of dx / sqrt(g h).
    """
    return min(1.0, (1.8 if authors_step else 0.9) * math.sqrt(theta / 2))


class Solver(SpecGroup):
    """Constants of the shallow-water scheme.

    The scheme is linearly stable in two dimensions for Courant numbers up to sqrt(theta / 2), of
    steps dx / sqrt(g h); friction does not lower the limit. At theta 1 waves of finite height grow
    at every Courant number.
    """

    manning: float = Field(default=0.05, gt=0, le=1, description="Roughness, s/m^(1/3)")
    theta: float | None = Field(
        default=None,
        gt=0,
        le=THETA_MAX,
        description="Weight of a face's own discharge; 0.8 where left out, 0.7 in reference_mode;"
        " 0.9 suits floods of streets without bores",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Courant number, at most 0.9 sqrt(theta / 2), the default; 1.8 sqrt(theta / 2)"
        " and 0.7 in reference_mode",
    )
    h_dry_m: float = Field(default=1e-5, ge=1e-7, le=0.01, description="No flow below this depth")
    limiter: bool = Field(default=True, description="No cell gives more water than it has")
    froude: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Largest Froude number |q| / (h sqrt(g h)). Steep ground needs 1: well"
        " above it waves grow by themselves to many times the depth",
    )
    reference_mode: bool = Field(
        default=False,
        description="The authors' scheme: their time step, friction and outflow, no dry rule,"
        " no limiter",
    )

    @property
    def own_weight(self) -> float:
        """``theta``, or its default."""
        if self.theta is not None:
            return self.theta
        return AUTHORS_THETA if self.reference_mode else THETA

    @property
    def courant(self) -> float:
        """``alpha``, or its default."""
        if self.alpha is not None:
            return self.alpha
        most = alpha_max(self.own_weight, authors_step=self.reference_mode)
        return min(AUTHORS_ALPHA, most) if self.reference_mode else most

    @model_validator(mode="after")
    def _stable(self) -> "Solver":
        most = alpha_max(self.own_weight, authors_step=self.reference_mode)
        if self.alpha is not None and self.alpha > most:
            raise ValueError(
                f"alpha: {self.alpha} makes deep water unstable; at most {most:.4g} at theta"
                f" {self.own_weight}: lower it, or leave it out"
            )
        return self


def cap_solver(solver: Any) -> list[str]:
    """Bring a stored solver (JSON) within the stability limits, in place; return the warnings."""
    if not isinstance(solver, dict):
        return []
    theta, authors, warnings = solver.get("theta"), bool(solver.get("reference_mode")), []
    if theta is not None and theta > THETA_MAX:
        warnings.append(f"solver.theta {theta} is unstable; {THETA_MAX} is used")
        theta = solver["theta"] = THETA_MAX
    weight = Solver(theta=theta, reference_mode=authors).own_weight
    most = alpha_max(weight, authors_step=authors)
    if (solver.get("alpha") or 0.0) > most:
        warnings.append(
            f"solver.alpha {solver['alpha']} makes deep water unstable; {most:.4g} is used"
        )
        solver["alpha"] = most
    return warnings
