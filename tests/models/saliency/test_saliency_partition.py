"""Partition SHAP: Owen values of a hierarchy of halves, against all orders that respect it."""

import itertools

import pytest
import torch

from models.saliency.methods.baselines import replacements_of
from models.saliency.methods.partition import hierarchy
from models.saliency.methods.registry import compute_map
from models.saliency.net.space import Space
from models.saliency.spec.fields import LocalMean
from models.saliency.spec.partition import PartitionShap
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise


def orders(cells):
    """Every order of the cells in which those of each node follow each other."""
    if cells.numel() == 1:
        return [[int(cells)]]
    halves = cells.chunk(2, dim=0 if cells.shape[0] >= cells.shape[1] else 1)
    one, other = (orders(half) for half in halves)
    pairs = list(itertools.product(one, other))
    return [a + b for a, b in pairs] + [b + a for a, b in pairs]


@torch.no_grad()
def test_values_are_mean_contributions_over_all_orders_that_respect_the_halves():
    net, x, b = conv_net().double(), noise(3, 12, 12), 0.2 * noise(3, 12, 12, seed=1)
    part = PartitionShap(id="partition_shap", grid=2)
    actual = compute_map(part, case(net, x, targets=(3, 1)), b)
    values = torch.zeros(2, 4, dtype=torch.float64)
    every = orders(torch.arange(4).view(2, 2))
    assert len(every) == 8
    for order in every:
        image = b.clone()
        before = net(image[None])[0, [3, 1]]
        for cell in order:
            rows, columns = 6 * (cell // 2), 6 * (cell % 2)
            image[:, rows : rows + 6, columns : columns + 6] = x[
                :, rows : rows + 6, columns : columns + 6
            ]
            after = net(image[None])[0, [3, 1]]
            values[:, cell] += (after - before) / len(every)
            before = after
    torch.testing.assert_close(actual[:, ::6, ::6].flatten(1), values)


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_the_hierarchy_has_each_coalition_once_and_as_many_rows_as_estimated(grid):
    part, tree = PartitionShap(id="partition_shap", grid=grid), hierarchy(grid)
    assert len(tree.kept) == part.rows(32, 32) == len(tree.kept.unique(dim=0))
    assert tree.without.shape == (grid**2, 2**part.depth)
    cells = torch.arange(grid**2)[:, None]
    added = tree.kept[tree.including] ^ tree.kept[tree.without]
    assert torch.equal(added.sum(2), torch.ones_like(tree.without))
    assert added[cells, torch.arange(2**part.depth), cells].all()


@torch.no_grad()
def test_values_sum_to_the_drop_and_are_exact_for_a_linear_score():
    x, b = noise(3, 8, 8), noise(3, 8, 8, seed=1)
    part = PartitionShap(id="partition_shap", grid=4)
    one = case(conv_net().double(), x)
    (values,) = compute_map(part, one, b)
    drop = one.full[0] - one.score(b[None])[0, 0]
    torch.testing.assert_close(values[::2, ::2].sum(), drop, rtol=0, atol=1e-12)
    w = noise(1, 3, 8, 8, seed=2)
    (values,) = compute_map(part, case(Linear(w), x), b)
    by_cell = (w[0] * (x - b)).sum(0).view(4, 2, 4, 2).sum((1, 3))
    torch.testing.assert_close(values[::2, ::2], by_cell)


@torch.no_grad()
def test_nothing_to_explain_gives_zeros_and_local_baselines_work():
    part = PartitionShap(id="partition_shap", grid=2)
    flat = torch.full((3, 8, 8), 0.5, dtype=torch.float64)
    assert not compute_map(part, case(conv_net().double(), flat), flat).any()
    x = noise(3, 8, 8)
    (b,) = replacements_of(LocalMean(id="local_mean"), x, Space([0.5] * 3, [0.25] * 3), 0)
    assert compute_map(part, case(conv_net().double(), x), b).abs().max() > 0
