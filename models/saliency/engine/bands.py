"""Chains of local steps executed band by band, so that intermediate values stay in cache.

The first feature maps of a net are its largest: several megabytes per image, which a CPU otherwise
writes to memory after one operation and reads back for the next. A band of rows of a chain's
result needs a band of its input that is a few rows higher for each kernel. All steps are executed
on one band before the next band begins; rows at the seams are computed twice. Exact in real
arithmetic.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.saliency.engine.conv import POINT_WINDOW, Conv
from models.saliency.engine.step import PlanStep

ITEM = 4  # bytes of a float32; only float32 kernels gain from bands
CACHE = 3 * 2**20  # bytes that a step may read and write in a band
LARGE = 2**20  # bytes of an intermediate map above which a chain outweighs its seams

Shapes = Mapping[str, tuple[int, int, int]]


class InputRows(NamedTuple):
    """Rows of an input that a step reads for a band of its result.

    Attributes:
        low: first row.
        high: one past the last row.
        pads: columns left and right, rows above and below, read beyond the map.
    """

    low: int
    high: int
    pads: tuple[int, int, int, int]


class Chain:
    """Consecutive steps whose intermediate values no other step reads.

    Args:
        steps: in order; each reads the result of the one before.
        shapes: channels, height and width of every value the steps read or compute.
    """

    def __init__(self, steps: Sequence[PlanStep], shapes: Shapes) -> None:
        self.steps, self.shape = steps, shapes[steps[-1].name]
        inner = {step.name for step in steps}
        names = (name for step in steps for name in step.inputs if name not in inner)
        self.inputs = tuple(dict.fromkeys(names))
        height = self.shape[1]
        rows = _height(steps, shapes)
        edges = [(low, min(height, low + rows)) for low in range(0, height, rows)]
        self.bands = [(low, high, _needs(steps, shapes, low, high)) for low, high in edges]

    def __call__(self, *maps: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n c h w"]:
        """The result of the last step, computed image by image."""
        first = maps[0]
        channels, height, width = self.shape
        out = first.new_empty((len(first), height, width, channels)).permute(0, 3, 1, 2)
        for index in range(len(first)):
            single = [x[index : index + 1] for x in maps]
            for low, high, needs in self.bands:
                out[index : index + 1, :, low:high] = self._band(single, needs)
        return out

    def _band(self, maps: list[Tensor], needs: list[list[InputRows]]) -> Tensor:
        known = dict(zip(self.inputs, maps, strict=True))
        for step, rows in zip(self.steps, needs, strict=True):
            inputs = [
                known[name][:, :, part.low : part.high] if name in self.inputs else known[name]
                for name, part in zip(step.inputs, rows, strict=True)
            ]
            known[step.name] = _local(step, inputs, rows[0].pads)
        return known[self.steps[-1].name]


def _local(step: PlanStep, inputs: list[Tensor], pads: tuple[int, int, int, int]) -> Tensor:
    """One step on a band; a kernel with equal padding left and right pads the columns itself."""
    left, right, above, below = pads
    if isinstance(step.call, Conv) and left == right and above == below == 0:
        return step.call.valid(*inputs, columns=left)
    if any(pads):
        fill = step.window.fill if step.window else 0.0
        inputs[0] = F.pad(inputs[0], pads, value=fill)
    return (step.local or step.call)(*inputs)


def _needs(steps: Sequence[PlanStep], shapes: Shapes, low: int, high: int) -> list[list[InputRows]]:
    """Rows that each step reads of its inputs for rows ``low`` to ``high`` of the result."""
    needs = []
    for step in reversed(steps):
        (kh, kw), (sh, sw), (top, left), _ = step.window or POINT_WINDOW
        _, height, width = shapes[step.inputs[0]]
        first, last = low * sh - top, (high - 1) * sh - top + kh
        right = (shapes[step.name][2] - 1) * sw + kw - left - width
        inside = InputRows(
            max(0, first), min(height, last), (left, right, max(0, -first), max(0, last - height))
        )
        others = [InputRows(low, high, (0, 0, 0, 0)) for _ in step.inputs[1:]]
        needs.append([inside, *others])
        low, high = inside.low, inside.high
    return needs[::-1]


def _height(steps: Sequence[PlanStep], shapes: Shapes) -> int:
    """Largest number of result rows per band with which every step fits the cache."""
    height = shapes[steps[-1].name][1]
    rows = height
    while rows > 1 and _largest(steps, shapes, (height - rows) // 2, (height + rows) // 2) > CACHE:
        rows -= 1
    return rows


def _largest(steps: Sequence[PlanStep], shapes: Shapes, low: int, high: int) -> int:
    """Bytes that the largest step reads and writes in a band."""
    needs = _needs(steps, shapes, low, high)
    read = [rows[0].high - rows[0].low for rows in needs]
    made = [*read[1:], high - low]
    return max(
        ITEM * (count * _width(shapes[step.inputs[0]]) + other * _width(shapes[step.name]))
        for step, count, other in zip(steps, read, made, strict=True)
    )


def _width(shape: tuple[int, int, int]) -> int:
    """Values in one row of a map, all channels."""
    return shape[0] * shape[2]


def banded(steps: Sequence[PlanStep], shapes: Shapes) -> list[PlanStep]:
    """The steps of a plan, with those that pass large maps to each other joined into chains.

    Args:
        steps: of a plan.
        shapes: channels, height and width of the values that are maps.
    """
    readers = Counter(name for step in steps for name in step.inputs)
    result: list[PlanStep] = []
    chain: list[PlanStep] = []
    for step in steps:
        fits = _banding(step, shapes)
        if chain and not (fits and _goes_on(chain[-1], step, readers, shapes)):
            result += _joined(chain, shapes)
            chain = []
        (chain if fits else result).append(step)
    return result + _joined(chain, shapes)


def _goes_on(last: PlanStep, step: PlanStep, readers: Counter[str], shapes: Shapes) -> bool:
    """Whether the result of ``last`` is large, and only read by ``step``, as its first input."""
    large = ITEM * math.prod(shapes[last.name]) > LARGE
    return large and step.inputs[:1] == (last.name,) and readers[last.name] == 1


def _banding(step: PlanStep, shapes: Shapes) -> bool:
    """Whether a step can be executed on a band, with a kernel that gains from it.

    A convolution padded by its kernel size or more is excluded: some of its result rows depend on
    no row of the input.
    """
    if step.local is None or not all(name in shapes for name in (step.name, *step.inputs)):
        return False
    if not isinstance(step.call, Conv):
        return True
    above, _, below, _ = step.call.pads
    return step.call.backend == "mkldnn" and max(above, below) < step.call.window.kernel[0]


def _joined(chain: list[PlanStep], shapes: Shapes) -> list[PlanStep]:
    """The chain as one step, or its only step."""
    if len(chain) < 2:
        return chain
    whole = Chain(chain, shapes)
    return [PlanStep(chain[-1].name, whole.inputs, whole)]
