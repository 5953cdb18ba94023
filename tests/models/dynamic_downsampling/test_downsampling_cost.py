"""Operation counts against the table of the method (property 14) and against the nets."""

import pytest

from models.dynamic_downsampling import cost
from models.dynamic_downsampling.cheap import plan_layers
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.fields import Downsample
from models.nets.build import build_net
from models.nets.layers import macs_of
from models.nets.spec import ResidualNet


def count(name, size, classes=10, stem="3x3", **down):
    net = ResidualNet(name=name, stem=stem)
    spec = Downsample(**down)
    return cost.step_costs(net, spec, (3, size, size), classes, spec.input_scale)


@pytest.mark.parametrize(
    ("name", "gmacs", "ratio"),
    [
        ("resnet8", 0.0125, 0.114),
        ("resnet14", 0.0267, 0.113),
        ("resnet20", 0.0408, 0.112),
        ("resnet56", 0.1257, 0.111),
    ],
)
def test_small_nets(name, gmacs, ratio):
    """Property 14."""
    assert count(name, 32).full_macs / 1e9 == pytest.approx(gmacs, abs=5e-5)
    assert count(name, 32).ratio == pytest.approx(ratio, abs=6e-4)
    assert count(name, 32, kernel_pool="none").ratio == pytest.approx(0.25, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "gmacs", "ratios"),
    [
        ("resnet18", 1.814, (0.268, 0.130, 0.119)),
        ("resnet34", 3.664, (0.264, 0.123, 0.117)),
        ("resnet50", 4.089, (0.2636, 0.1972, 0.1923)),
    ],
)
def test_imagenet_nets(name, gmacs, ratios):
    """Property 14: input only; with 3x3 filters pooled; with the 7x7 stem pooled too."""
    wanted = [{"kernel_pool": "none"}, {"kernel_layers": ["stages.*"]}, {}]
    costs = [count(name, 224, 1000, "7x7", **down) for down in wanted]
    assert costs[0].full_macs / 1e9 == pytest.approx(gmacs, abs=5e-4)
    assert [c.ratio for c in costs] == [pytest.approx(ratio, abs=6e-4) for ratio in ratios]


@pytest.mark.parametrize(
    ("name", "size", "ratios"),
    [
        ("resnet18", 128, (0.327, 0.159, 0.145)),
        ("resnet50", 128, (0.327, 0.245, 0.239)),
        ("resnet18", 160, (0.510, 0.248, 0.226)),
        ("resnet50", 160, (0.510, 0.382, 0.372)),
    ],
)
def test_other_sizes(name, size, ratios):
    """Property 14."""
    wanted = [{"kernel_pool": "none"}, {"kernel_layers": ["stages.*"]}, {}]
    for down, ratio in zip(wanted, ratios, strict=True):
        actual = count(name, 224, 1000, "7x7", input_scale=size / 224, **down)
        assert actual.ratio == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize(
    ("name", "stem", "rule"), [("resnet14", "3x3", "half"), ("resnet50", "7x7", "minus_one")]
)
def test_counts_are_those_of_the_net_that_runs(name, stem, rule):
    """Both modes against what torch itself multiplies, at an odd size."""
    model = ResidualNet(name=name, stem=stem, width=16)
    down = Downsample(kernel_rule=rule, size_multiple=1)
    costs = cost.step_costs(model, down, (3, 45, 51), 7, 0.5)
    net = build_net(model.model_dump(), 7)
    mode = CheapMode(net, plan_layers(net, down, 3, (45, 51))[0])
    assert macs_of(net, 3, (45, 51)) == costs.full_macs
    with mode.cheap():
        assert macs_of(net, 3, cost.cheap_size(45, 51, 0.5, 1)) == costs.cheap_macs


@pytest.mark.parametrize(
    ("size", "scale", "multiple", "expected"),
    [
        ((32, 32), 0.5, 4, (16, 16)),
        ((31, 33), 0.5, 4, (16, 16)),
        ((8, 12), 0.5, 4, (4, 8)),
        ((6, 6), 0.5, 8, (6, 6)),
        ((31, 33), 1.0, 4, (31, 33)),
    ],
)
def test_cheap_sizes(size, scale, multiple, expected):
    assert cost.cheap_size(*size, scale, multiple) == expected


@pytest.mark.parametrize(
    ("kernel", "half", "minus_one"), [(1, 1, 1), (3, 2, 2), (5, 3, 4), (7, 4, 6)]
)
def test_rules(kernel, half, minus_one):
    assert cost.pooled_kernel(kernel, "half") == half
    assert cost.pooled_kernel(kernel, "minus_one") == minus_one
