"""Which machine part a flood runs on, and why the GPU is not used where there is one."""

from typing import Any

from models.core.run import Run
from models.terrain.solver.engines import Scenario
from models.terrain.spec.water import Level


def reasons(scenario: Scenario) -> list[str]:
    """What of a scenario only the engines of the CPU can do; empty: nothing."""
    solver = scenario.solver
    conditions = {
        "a stack of rain": scenario.stack is not None,
        "infiltration": scenario.soil is not None,
        "a held level": any(isinstance(item, Level) for item in scenario.water),
        "rain that differs from cell to cell": scenario.maps.rain is not None,
        "solver.froude": solver.froude is not None,
        "solver.reference_mode": solver.reference_mode,
        "a flood too small to be worth loading the GPU for": (
            scenario.by_reference and not solver.reference_mode
        ),
    }
    return [reason for reason, holds in conditions.items() if holds]


def placement(scenario: Scenario, run: Run, *, subgrid: bool, heights: bool) -> dict[str, Any]:
    """Part of a report: where the floods run; warns where a GPU is left idle.

    Args:
        scenario: of the floods.
        run: of the job.
        subgrid: whether one of the terrains has a subgrid.
        heights: whether one has none.
    """
    if not run.device.startswith("cuda"):
        return {"runs_on": "cpu"}
    why = reasons(scenario)
    if subgrid and heights and not why:
        run.warn("on_cpu", "floods on a subgrid run on the CPU, those on heights on the GPU")
        return {"runs_on": "gpu, on a subgrid cpu"}
    why += ["a subgrid"] if subgrid else []
    if not why:
        return {"runs_on": "gpu"}
    run.warn("on_cpu", f"the GPU is not used: {', '.join(why)} runs on the CPU")
    return {"runs_on": "cpu", "not_on_gpu": why}
