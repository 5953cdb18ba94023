"""The fused kernel of a GPU against the blocks; correctness in more shapes is in the benchmark."""

import pytest
import torch

from models.lcw import fused, profile
from models.lcw.distance import two_sample


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["asymptotic", "exact"])
def test_fused_is_float64(mode):
    """Value and gradients of both samples to 1e-5 of the float64 blocks, twice the same bits."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 40, generator=g).cuda().requires_grad_() for n in (300, 217))
    wide = [p.detach().double().requires_grad_() for p in (x, y)]
    value, again = (two_sample(x, y, 0.1, mode) for _ in range(2))
    expected = two_sample(*wide, 0.1, mode)
    assert value.item() == again.item() == pytest.approx(expected.item(), rel=1e-5)
    for actual, true in zip(
        torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, wide), strict=True
    ):
        assert (actual - true).norm() <= 1e-5 * true.norm()


def test_blocks_do_what_the_kernel_cannot():
    """A CPU, float64 and the closed forms of D = 2, 3 stay with the blocks."""
    assert not fused.fits(torch.zeros(4, 66), profile.Profile())
    assert fused.tile_of(64) != fused.tile_of(256)
