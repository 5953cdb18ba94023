"""Cheap passes by intercepted calls: the same bits as layers written out, any class of module."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.dynamic_downsampling.cheap import plan_layers
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.fields import Downsample
from models.dynamic_downsampling.pooled_conv import HIGH, LOW, pool_filter
from models.nets.build import build_net
from models.nets.layers import layers_of


class NormAct(nn.BatchNorm2d):
    """A norm with its activation inside, as timm has it."""

    def forward(self, x):
        return super().forward(x).relu()


class Standardised(nn.Conv2d):
    """A convolution whose filter is computed from its parameter."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


def foreign():
    """Layers of classes that are not torch's own."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), NormAct(4), Standardised(4, 4, 3, padding=1), nn.Flatten(2)
    )


def mode_of(net, size, norms="skip", **fields):
    poolings, layers = plan_layers(net, Downsample(**fields), *size)
    return CheapMode(net, poolings, norms), layers


def test_cheap_passes_are_those_of_the_pooled_layers_written_out():
    """Two convolutions, two norms: every bit of the output and of the gradients."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
    )
    x = torch.randn(4, 3, 8, 8)
    mode, _ = mode_of(net, (3, (16, 16)))
    with mode.cheap():
        out = net(x)
    expected = x
    for conv, norm, (low, high) in ((net[0], net[1], LOW), (net[3], net[4], HIGH)):
        padded = functional.pad(expected, (low, high, low, high))
        filtered = functional.conv2d(padded, pool_filter(conv.weight, 2, "avg", 1.0))
        expected = functional.batch_norm(
            filtered, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        expected = expected.relu() if norm is net[1] else expected
    assert torch.equal(out, expected)
    weights = list(net.parameters())
    grads = [torch.autograd.grad(y.square().sum(), weights) for y in (out, expected)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("norms", ["shared", "skip", "split"])
def test_statistics_of_cheap_passes(norms):
    """Running statistics and their counts move under ``shared`` alone."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    mode, _ = mode_of(net, (1, (8, 8)), norms)
    before = {name: x.clone() for name, x in net.named_buffers()}
    with mode.cheap():
        net(torch.randn(4, 1, 4, 4))
    moved = [name for name, x in net.named_buffers() if not torch.equal(x, before[name])]
    assert bool(moved) == (norms == "shared")
    assert set(mode.statistics()) == (
        {"1.running_mean", "1.running_var"} if norms == "split" else set()
    )
    net(torch.randn(4, 1, 8, 8))
    assert int(net[1].num_batches_tracked) == 1 + (norms == "shared")


def test_layers_of_other_classes_keep_what_they_do():
    """A full pass is the net's own, and a cheap one keeps activation and computed filters."""
    net, x = foreign(), torch.randn(2, 1, 8, 8)
    plain = foreign()(x)
    mode, layers = mode_of(net, (1, (8, 8)))
    assert [layer.name for layer in layers] == ["0"]  # the other filter has no name
    assert torch.equal(net(x), plain)
    with mode.cheap():
        inside = net[:2](x)
    assert (inside >= 0).all()
    assert torch.equal(net.state_dict()["0.weight"], foreign().state_dict()["0.weight"])


def test_layers_of_a_pass():
    """Convolutions, linear layers and attention, with exact operations."""
    net = build_net({"name": "resnet8", "width": 16}, 5)
    layers = layers_of(net, 3, (12, 8))
    assert [x.kind for x in layers].count("linear") == 1
    stem, head = layers[0], layers[-1]
    assert (stem.parameter, stem.shape, stem.macs) == ("stem.weight", (16, 3, 3, 3), 432 * 96)
    assert (head.name, head.macs) == ("head", 64 * 5)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = attention

        def forward(self, x):
            tokens = x.flatten(2).movedim(1, 2)
            return self.inner(tokens, tokens, tokens, need_weights=False)[0]

    rows = layers_of(Attends(), 8, (2, 3))
    named = {x.parameter: x.macs for x in rows}
    assert named == {"inner.in_proj_weight": 6 * 192, "inner.out_proj.weight": 6 * 64}
