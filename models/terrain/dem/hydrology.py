"""Depressions of a terrain and flow accumulation."""

from heapq import heappop, heappush
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.compiled import compile_cached


@no_type_check
def _fill_depressions(flat, ny, nx, heap, seen, order, level, next_cell):
    """Priority flood: pop the lowest cell of the heap and push its unvisited neighbours."""
    for k in range(flat.size):
        height, cell = heappop(heap)
        order[k], level[cell] = cell, height
        i, j = cell // nx, cell % nx
        for a in range(max(i - 1, 0), min(i + 2, ny)):
            for b in range(max(j - 1, 0), min(j + 2, nx)):
                other = a * nx + b
                if not seen[other]:
                    seen[other], next_cell[other] = True, cell
                    heappush(heap, (max(flat[other], height), other))


fill_depressions = compile_cached(_fill_depressions)


@no_type_check
def _accumulate(z, level, area):
    """Fill depressions from the border inwards, lowest first; accumulate flow in reverse order.

    A cell drains to the neighbour from which it was reached, so that flow paths cross depressions
    to their outlet and every path ends at the border.
    """
    ny, nx = z.shape
    flat, order, next_cell = z.ravel(), np.empty(z.size, np.int64), np.full(z.size, -1)
    seen, heap = np.zeros(z.size, np.bool_), [(flat[0], 0)]
    seen[0] = True
    for cell in range(1, z.size):
        if cell < nx or cell >= z.size - nx or cell % nx == 0 or cell % nx == nx - 1:
            seen[cell] = True
            heappush(heap, (flat[cell], cell))
    fill_depressions(flat, ny, nx, heap, seen, order, level, next_cell)
    for k in range(z.size - 1, -1, -1):
        if next_cell[order[k]] >= 0:
            area[next_cell[order[k]]] += area[order[k]]


accumulate = compile_cached(_accumulate)


def flow_accumulation(z: Float[Tensor, "ny nx"]) -> Float[Tensor, "2 ny nx"]:
    """Depression depth in m, and flow accumulation in cells, each cell counting itself.

    Depressions are filled to their outlet; water can leave over the whole border. Filling by a
    priority queue follows Barnes, Lehman, Mulla 2014 (doi 10.1016/j.cageo.2013.04.024).
    """
    heights = z.double().numpy()
    level, area = np.zeros(z.numel()), np.ones(z.numel())
    accumulate(heights, level, area)
    depth = level.reshape(heights.shape) - heights
    return torch.from_numpy(np.stack([depth, area.reshape(heights.shape)])).float()
