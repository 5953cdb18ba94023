"""One value of a net's plan: what computes it, and where that looks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.saliency.engine.conv import KernelWindow


@dataclass(frozen=True)
class PlanStep:
    """One value of the net.

    Attributes:
        name: of the value.
        inputs: names of the values it is computed from.
        call: computes it from the whole values.
        local: computes a box of it from boxes of its inputs, None where it needs them whole.
        window: where it looks in its first input; None means at the same place. All other inputs
            are read at the place of the output.
    """

    name: str
    inputs: tuple[str, ...]
    call: Callable[..., Any]
    local: Callable[..., Tensor] | None = None
    window: KernelWindow | None = None
