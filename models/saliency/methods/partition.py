"""Partition SHAP: Owen values of cells under the hierarchy of halves of a grid."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency.methods.baselines import Replacement
from models.saliency.methods.case import Case
from models.saliency.methods.segments import segment
from models.saliency.methods.surrogates import coalition_scores
from models.saliency.spec.masks import GridSegments
from models.saliency.spec.partition import PartitionShap


class Hierarchy(NamedTuple):
    """The coalitions of a hierarchy, and where each cell finds its own.

    Attributes:
        kept: each coalition, cells that are kept.
        without: coalition of each cell and context: its siblings on the way up, kept or not.
        including: the same with the cell.
    """

    kept: Bool[Tensor, "n cells"]
    without: Int64[Tensor, "cells contexts"]
    including: Int64[Tensor, "cells contexts"]


def partition_shap(part: PartitionShap, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """Owen values (Owen 1977) at each pixel, float64; they sum to ``f(x) - f(b)`` over cells.

    The value of a cell is the mean of its contribution over all contexts in which each of its
    siblings on the way from the whole grid is kept or replaced as a whole (eq. 25).
    """
    labels = segment(GridSegments(id="grid", rows=part.grid), case)
    tree = hierarchy(part.grid)
    scores = coalition_scores(tree.kept.to(case.x.device), labels, case, b)
    gains = scores[tree.including] - scores[tree.without]  # [cells, contexts, k]
    return gains.mean(1).T[:, labels]


def hierarchy(grid: int) -> Hierarchy:
    """Halve the longer side of every node, rows first, down to the cells.

    A node with its contexts passes to each half two for each: the other half replaced or kept. So
    each level has as many contexts as nodes, and two new coalitions for every node and context.

    Args:
        grid: cells along each side, a power of two.
    """
    cells = torch.arange(grid**2).view(grid, grid)
    everything = torch.ones(1, grid**2, dtype=torch.bool)
    rows = [~everything, everything]
    count = 2
    nodes = [(cells, torch.tensor([0]), torch.tensor([1]))]  # cells, without, including
    while nodes[0][0].numel() > 1:
        level = []
        for own, without, including in nodes:
            halves = own.chunk(2, dim=0 if own.shape[0] >= own.shape[1] else 1)
            contexts = torch.cat(rows)[without]
            added = []
            for half in halves:
                kept = contexts.clone()
                kept[:, half.flatten()] = True
                rows.append(kept)
                added.append(torch.arange(count, count + len(kept)))
                count += len(kept)
            for half, alone, other in zip(halves, added, reversed(added), strict=True):
                level.append((half, torch.cat([without, other]), torch.cat([alone, including])))
        rows, nodes = [torch.cat(rows)], level
    nodes.sort(key=lambda node: int(node[0]))
    return Hierarchy(
        rows[0], torch.stack([node[1] for node in nodes]), torch.stack([node[2] for node in nodes])
    )
