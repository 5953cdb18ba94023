"""The fast engine against the plain net: equal numbers for nets of every structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models.nets.build import build_net
from models.nets.efficientnet_lite import InvertedResidual
from models.saliency.engine import incremental, threads
from models.saliency.engine.boxes import Boxes, Intervals, groups, regions_of
from models.saliency.engine.conv import Conv, _with
from models.saliency.engine.routes import find_route
from models.saliency.engine.trace import NotTraceableError, trace
from models.saliency.methods.registry import compute_map
from models.saliency.net import run
from models.saliency.net.scores import Scorer
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.masks import FeatureAblation, GridSegments, Occlusion, Rise
from tests.models.saliency.saliency_nets import case, conv_net, noise


class Mixed(nn.Module):
    """Concatenation, depthwise and dilated convolutions, pools, a gate over all pixels."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.side = nn.Conv2d(8, 4, 1)
        self.last = nn.Conv2d(12, 6, (1, 3), padding="same")
        self.fc, self.gated = nn.Linear(6, 4), gated

    def forward(self, x):
        x = F.silu(self.norm(F.pad(self.stem(x), (0, 1, 0, 1))))
        y = torch.cat([F.relu(self.deep(x), inplace=True), self.side(x).sigmoid()], 1)
        y = F.max_pool2d(y, 3, 2, 1) + F.avg_pool2d(y, 3, 2, 1)
        y = F.hardtanh(self.last(y), -0.5, 2.0)
        if self.gated:
            y = y * y.mean((2, 3), keepdim=True).sigmoid()
        return self.fc(y.mean((2, 3)))


class Efficient(nn.Module):
    """Inverted residuals with TensorFlow's uneven padding."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            InvertedResidual(3, 8, 3, 2, 4), InvertedResidual(8, 8, 5, 1, 4)
        )
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.blocks(x).mean((2, 3)))


def nets():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nets_by_name = {
            "plain": conv_net(),
            "residual": build_net({"name": "resnet8", "width": 16}, 4),
            "bottleneck": build_net({"name": "resnet50", "width": 16, "stem": "7x7"}, 4),
            "mixed": Mixed(),
            "gated": Mixed(gated=True),
            "depthwise": Efficient(),
        }
    for net in nets_by_name.values():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):  # statistics that are not the initial ones
                part.running_mean.copy_(noise(part.num_features, seed=3) * 0.1)
                part.running_var.copy_(noise(part.num_features, seed=4).square() + 0.5)
        net.eval()
    return nets_by_name


NETS = nets()


@pytest.fixture(scope="module", params=NETS)
def traced(request):
    net = NETS[request.param].double()
    return net, trace(net, (3, 40, 36))


def test_plan_agrees_with_the_net(traced):
    """Folding, fused activations and padding are exact in real arithmetic: 1e-10 in float64."""
    net, plan = traced
    for count in (1, 3):
        x = noise(count, 3, 40, 36)
        with torch.no_grad():
            torch.testing.assert_close(plan(x), net(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("cut", [0.0, 0.5, 2.0])
def test_boxes_agree_with_whole_images(traced, cut):
    """Windows at any position and of any size, at any switch to whole maps."""
    net, plan = traced
    x, b = noise(3, 40, 36), noise(3, 40, 36, seed=1)
    masks = torch.zeros(11, 40, 36, dtype=torch.bool)
    windows = [(0, 0, 7, 7), (33, 29, 7, 7), (0, 30, 9, 6), (12, 15, 4, 4), (20, 3, 1, 1)]
    windows += [(i * 5, i * 4, 8, 8) for i in range(5)]
    for mask, (top, left, height, width) in zip(masks, windows, strict=False):
        mask[top : top + height, left : left + width] = True
    masks[3, 13, 16] = False  # a window with a hole; the last mask is empty
    changes = incremental.Changes(plan, regions_of(masks), 4, cut)
    with torch.no_grad():
        base = incremental.BaseActivations(plan, x)
        actual = incremental.in_order(list(changes.outputs(base, b)))
        expected = net(torch.where(masks[:, None], b, x))
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def test_boxes_propagate_through_local_steps_and_stop_at_global_ones(traced):
    """The engine saves work where it can: at least the first convolution computes boxes."""
    net, plan = traced
    masks = torch.zeros(2, 40, 36, dtype=torch.bool)
    masks[:, 4:8, 4:8] = True
    regions = regions_of(masks)
    route = find_route(plan, regions, np.arange(2), 0.9, torch.device("cpu"))
    by_boxes = [step.local for step in route.work]
    assert by_boxes[0]
    assert not by_boxes[-1]
    assert sum(by_boxes) >= (1 if isinstance(net, Mixed) else 2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 9), st.integers(1, 3), st.integers(0, 4), st.integers(0, 29)
)
def test_box_rule_holds_every_changed_output(length, kernel, stride, pad, start):
    """README, eq. 19: exactly the outputs whose window meets the changed interval."""
    kernel, pad, start = min(kernel, length), min(pad, kernel - 1), min(start, length - 1)
    stop = min(length, start + 3)
    size = (length + 2 * pad - kernel) // stride + 1
    result = Intervals(np.array([start]), np.array([stop]), length).propagate(
        kernel, stride, pad, size
    )
    windows = [range(i * stride - pad, i * stride - pad + kernel) for i in range(size)]
    touched = [i for i, w in enumerate(windows) if set(w) & set(range(start, stop))]
    if touched:
        assert (result.low[0], result.high[0]) == (touched[0], touched[-1] + 1)
    assert 0 <= result.low[0] < result.high[0] <= size


@given(st.integers(1, 60), st.integers(1, 20))
def test_groups_hold_every_region_once(count, size):
    low = np.arange(count) * 7 % 31
    axis = Intervals(low, low + 2, 40)
    batches = groups(Boxes(axis, axis), size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert max(map(len, batches)) <= size


@pytest.mark.parametrize(
    "part",
    [
        Occlusion(id="occlusion", window=9, stride=5),
        FeatureAblation(id="feature_ablation", segments=GridSegments(id="grid", rows=5)),
    ],
)
def test_float32_maps_agree_with_the_plain_net(part):
    """Property 8 with the fused kernels of this machine: 1e-5 in probability."""
    net = NETS["residual"].float()
    x, b = noise(3, 40, 36, dtype=torch.float32), torch.zeros(3, 40, 36)
    plain = case(net, x, "prob", (2, 0))
    fast = case(net, x, "prob", (2, 0))
    fast.scorer = Scorer(net, "prob", plan=trace(net, (3, 40, 36)))
    for _ in range(2):  # the second time with cached routes
        torch.testing.assert_close(
            compute_map(part, fast, b), compute_map(part, plain, b), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    "part", [Occlusion(id="occlusion", window=9, stride=5), Rise(id="rise", masks=24)]
)
def test_maps_do_not_depend_on_the_number_of_threads(part):
    """Property 8: by plan and boxes, within 1e-5 in float32."""
    net = NETS["residual"].float()
    x, b = noise(3, 40, 36, dtype=torch.float32), torch.zeros(3, 40, 36)
    one = case(net, x, "prob", (2, 0))
    before, maps = torch.get_num_threads(), []
    try:
        for threads_used in (1, 2, 3):
            torch.set_num_threads(threads_used)
            one.scorer = Scorer(net, "prob", plan=trace(net, (3, 40, 36)))
            maps.append(compute_map(part, one, b))
    finally:
        torch.set_num_threads(before)
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], atol=1e-5, rtol=0)


def test_net_that_cannot_be_traced_says_why():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            x = x.mean((2, 3))
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    with pytest.raises(NotTraceableError, match=r"\w+: \w+"):
        trace(Branches().eval(), (3, 8, 8))


def test_parts_on_the_cores_keep_their_order_and_may_have_parts_of_their_own():
    """Nested calls run in their thread; otherwise all threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sums = list(
            threads.each(
                lambda i: sum(threads.each(lambda j: i * j, range(4), "cpu")), range(40), "cpu"
            )
        )
        under_way = []
        for _ in threads.each(under_way.append, range(1000), "cpu"):
            break
    finally:
        torch.set_num_threads(before)
    assert sums == [6 * i for i in range(40)]
    assert len(under_way) < 10


def test_a_batch_that_does_not_fit_the_memory_is_halved():
    """With the error that a GPU raises when its memory is exhausted."""
    net, sizes = conv_net(), []

    def forward(images):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("exhausted")
        return net(images)

    scorer = Scorer(net, "logit")
    scorer._run = forward
    x = noise(7, 3, 12, 12, dtype=torch.float32)
    torch.testing.assert_close(scorer.outputs(x), net(x).double(), atol=1e-6, rtol=1e-5)
    assert max(sizes[1:]) < 7
    assert scorer.outputs(x[:1]).shape == (1, 5)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_lower_precision_is_used_on_request_and_its_difference_reported(precision):
    net, x = conv_net(), noise(4, 3, 12, 12, dtype=torch.float32)
    fields = {"kind": "saliency.map", "model": {"pretrained": "efficientnet_lite0"}}
    spec = SaliencyMap.model_validate(fields | {"precision": precision})
    lower = run._lower(net) if precision == "bf16" else None
    scorer = Scorer(net, "logit", lower=lower)
    gap = run.precision_gap(scorer, spec, x)
    wanted = (scorer.outputs(x) - net(x)).abs().max().item()
    assert gap == pytest.approx(wanted, abs=1e-12)
    assert (gap > 1e-5) == (precision == "bf16")  # a CPU has no TF32
    assert run.precision_gap(scorer, spec.model_copy(update={"precision": "fp32"}), x) is None


def test_memory_of_a_row_is_that_of_the_maps_that_live_at_once():
    plan = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1)).eval(), (3, 5, 5))
    assert plan.row_bytes(4) == 4 * 25 * (4 + 4)  # the widest step: a map and its tanh


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("clamp", [None, (0.0, float("inf")), (0.0, 6.0)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_over_the_pixels_is_the_convolution(stride, clamp, biased):
    """The path of 1x1 kernels in full float32 on a GPU, run on a CPU, with and without addition."""
    weight, bias = noise(6, 4, 1, 1, dtype=torch.float32), noise(6, dtype=torch.float32)
    x = noise(2, 4, 7, 8, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    plain = Conv(weight, bias if biased else None, stride, (0, 0, 0, 0), (1, 1), 1, clamp)
    product = replace(plain, backend="product")
    with torch.backends.cudnn.flags(allow_tf32=False):
        for other in (None, torch.ones_like(plain(x))):
            expected = plain(x, other)
            torch.testing.assert_close(product(x, other), expected, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(product.valid(x, other), expected, atol=1e-6, rtol=1e-6)


def test_only_kernels_of_one_pixel_become_products():
    """Whole maps, groups, padding and other number formats keep cuDNN's kernels."""
    weight = noise(4, 4, 1, 1, dtype=torch.float32)
    conv = Conv(weight, None, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    others = [
        replace(conv, weight=noise(4, 4, 3, 3, dtype=torch.float32)),
        replace(conv, weight=weight[:, :1], groups=4),
        replace(conv, pads=(1, 1, 1, 1)),
        replace(conv, weight=weight.bfloat16()),
    ]
    assert [_with(one, "cudnn", (8, 8)).backend for one in (conv, *others)] == [
        "product", "cudnn", "cudnn", "cudnn", "cudnn",
    ]  # fmt: skip
