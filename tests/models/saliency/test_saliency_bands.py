"""Chains of steps executed band by band give the numbers of step-by-step execution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.saliency.engine import bands
from models.saliency.engine.bands import Chain
from models.saliency.engine.conv import Conv, kernel_of
from models.saliency.engine.plan import last_uses
from models.saliency.engine.trace import trace
from tests.models.saliency.saliency_nets import noise


class Blocks(nn.Module):
    """Uneven padding, depthwise and dilated kernels, an addition, pools, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.wide = nn.Conv2d(8, 24, 1)
        self.deep = nn.Conv2d(24, 24, 5, padding=4, dilation=2, groups=24)
        self.back = nn.Conv2d(24, 8, 1)
        self.last = nn.Conv2d(16, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu6(self.stem(F.pad(x, (0, 1, 0, 1))))
        x = x + self.back(F.relu6(self.deep(F.relu6(self.wide(x)))))
        y = F.max_pool2d(F.silu(x) - 1, 3, 1, 1)
        y = F.relu(self.last(torch.cat([y, F.avg_pool2d(x, 3, 1, 1)], 1)))
        return self.fc(y.mean((2, 3)))


def plan_of(net, height, width, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = net().to(dtype).eval()
    return net, trace(net, (3, height, width))


def run(steps, plan, x):
    """The output with these steps in place of the plan's."""
    plan.__dict__["_whole"] = (steps, last_uses(steps, plan.output))
    return plan(x)


def chains(steps):
    return [step.call for step in steps if isinstance(step.call, Chain)]


@pytest.mark.skipif(kernel_of("cpu", torch.float32) != "mkldnn", reason="oneDNN is not in torch")
@pytest.mark.parametrize("cache", [1, 5_000, 20_000, 60_000])
@pytest.mark.parametrize(("height", "width"), [(17, 30), (24, 17), (33, 33), (58, 41)])
@torch.no_grad()
def test_bands_of_any_height_give_the_same_maps(height, width, cache):
    """Property 8: seams, borders and the last band change nothing, at any cache size."""
    net, plan = plan_of(Blocks, height, width)
    x = noise(3, 3, height, width, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "LARGE", 0)
        patch.setattr(bands, "CACHE", cache)
        steps = bands.banded(plan.steps, plan.shapes)
    assert sum(len(chain.steps) for chain in chains(steps)) >= 5
    torch.testing.assert_close(run(steps, plan, x), net(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_band_holds_no_more_than_the_cache():
    """No step reads and writes more than the cache; a smaller cache gives more bands."""
    _, plan = plan_of(Blocks, 64, 64)
    counts = []
    for cache in (10_000, 80_000, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bands, "LARGE", 0)
            patch.setattr(bands, "CACHE", cache)
            (chain, *_) = chains(bands.banded(plan.steps, plan.shapes))
        counts.append(len(chain.bands))
    assert counts[0] > counts[1] > counts[2] == 1


def test_values_that_are_read_twice_or_small_end_a_chain():
    """The stem's map is read twice; nothing is joined if no map is large."""
    _, plan = plan_of(Blocks, 64, 64)
    assert bands.banded(plan.steps, plan.shapes) == plan.steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "LARGE", 0)
        steps = bands.banded(plan.steps, plan.shapes)
    readers = [name for step in plan.steps for name in step.inputs]
    inner = [part.name for chain in chains(steps) for part in chain.steps[:-1]]
    assert inner
    assert all(readers.count(name) == 1 for name in inner)


@torch.no_grad()
def test_nets_in_float64_go_step_by_step():
    """Their kernels do not gain from bands, and their maps keep the accuracy of float64."""
    net, plan = plan_of(Blocks, 64, 64, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "LARGE", 0)
        steps = bands.banded(plan.steps, plan.shapes)
    joined = [step.call for chain in chains(steps) for step in chain.steps]
    assert not any(isinstance(call, Conv) for call in joined)
    x = noise(2, 3, 64, 64)
    torch.testing.assert_close(run(steps, plan, x), net(x), atol=1e-12, rtol=0)
