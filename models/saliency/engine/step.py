"""One step of an execution plan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.saliency.engine.conv import KernelWindow


@dataclass(frozen=True)
class PlanStep:
    """The computation of one value of a net.

    Attributes:
        name: of the value.
        inputs: names of the values it is computed from.
        call: computes the value from whole inputs.
        local: computes a box of the value from boxes of its inputs; None if it needs whole inputs.
        window: kernel, stride and padding for the first input, None for pointwise. All other
            inputs are read pointwise.
    """

    name: str
    inputs: tuple[str, ...]
    call: Callable[..., Any]
    local: Callable[..., Tensor] | None = None
    window: KernelWindow | None = None
