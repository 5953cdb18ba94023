"""The order of images: a permutation that is a function of (seed, epoch, position)."""

import pytest
import torch

from models.core.device import generator
from models.data import order


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000, 4097])
@pytest.mark.parametrize("listed", [0, order.LISTED])
def test_is_a_permutation_however_it_is_cut(count, listed):
    whole = order.chosen(count, 3, 1, 0, count, listed)
    assert sorted(whole.tolist()) == list(range(count))
    cut = [order.chosen(count, 3, 1, k, k + 5, listed) for k in range(0, count, 5)]
    assert torch.equal(torch.cat(cut), whole)


@pytest.mark.parametrize("listed", [0, order.LISTED])
def test_differs_by_epoch_and_seed(listed):
    orders = [order.chosen(500, *key, 0, 500, listed).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert all(sum(a == b for a, b in zip(orders[0], x, strict=True)) < 10 for x in orders[1:])


def test_small_sets_keep_their_order():
    expected = torch.randperm(50, generator=generator(1, "order", 2))
    assert torch.equal(order.chosen(50, 1, 2, 0, 50), expected)


def test_of_a_large_set_little_is_computed():
    """Positions alone are computed: of 10^12 images a list would take 8 TB."""
    some = order.chosen(10**12, 0, 0, 10**11, 10**11 + 1000)
    assert len(set(some.tolist())) == 1000
    assert 0.4e12 < some.double().mean() < 0.6e12


def test_a_computed_order_is_spread_evenly():
    """The mean place of each tenth of the positions is that of a random permutation, 5 sigma."""
    n = 100_000
    places = order.chosen(n, 0, 0, 0, n, 0).double().view(10, -1).mean(1) / n
    assert (places - 0.5).abs().max() < 5 * (1 / 12 / (n / 10)) ** 0.5
