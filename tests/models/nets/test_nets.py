"""Residual nets: shapes as told without torch, forward and backward, every builder."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.nets.build import build_net
from models.nets.spec import BLOCKS, ResidualNet, WideResNet, conv_shapes

SHAPES = [
    (name, stem)
    for name, blocks in BLOCKS.items()
    for stem in (["3x3"] if len(blocks) == 3 else ["3x3", "7x7"])  # small nets have no 7x7 stem
]


@pytest.mark.parametrize(("name", "stem"), SHAPES)
def test_shapes_are_those_of_the_net(name, stem):
    """Names, channels, kernels, strides and input sizes of all convolutions, at an odd size."""
    spec = ResidualNet(name=name, width=16, stem=stem)
    net, seen = build_net(spec.model_dump(), 5, channels=2).eval(), {}
    for layer, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, args, out, layer=layer: seen.update({layer: (conv, args[0], out)})
            )
    out = net(torch.zeros(1, 2, 41, 36))
    assert out.shape == (1, 5)
    shapes = conv_shapes(spec, 2, 41, 36)
    assert {shape.name for shape in shapes} == set(seen)
    for shape in shapes:
        conv, x, y = seen[shape.name]
        assert (conv.in_channels, conv.out_channels) == (shape.c_in, shape.c_out)
        assert conv.kernel_size == (shape.kernel,) * 2
        assert conv.stride == (shape.stride,) * 2
        assert x.shape[2:] == (shape.height, shape.width)
        assert y.shape[2:] == shape.out
    assert net.head.in_features == spec.features


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50"])
def test_every_parameter_gets_a_gradient(name):
    net = build_net({"name": name, "width": 16}, 3)
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_known_parameter_counts():
    """ResNet-18 and 50 of ImageNet have 11,689,512 and 25,557,032 parameters (torchvision)."""
    for name, count in (("resnet18", 11_689_512), ("resnet50", 25_557_032)):
        with torch.device("meta"):
            net = build_net({"name": name, "stem": "7x7"}, 1000)
        assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(("depth", "widen"), [(10, 1), (16, 2)])
def test_shapes_of_wide_nets(depth, widen):
    """Names, channels and output sizes of all convolutions, at an odd size; gradients to all."""
    spec = WideResNet(name="wide_resnet", depth=depth, widen=widen)
    net, seen = build_net(spec.model_dump(), 5, channels=2), {}
    for layer, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, out, layer=layer: seen.update({layer: (conv, out)})
            )
    net(torch.randn(2, 2, 21, 18)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    shapes = conv_shapes(spec, 2, 21, 18)
    assert [shape.name for shape in shapes] == list(seen)
    for shape in shapes:
        conv, out = seen[shape.name]
        assert (conv.in_channels, conv.out_channels) == (shape.c_in, shape.c_out)
        assert out.shape[2:] == shape.out


def test_wide_nets_as_published():
    """WRN-28-10 has 36.5 million parameters, WRN-16-4 2.75; depths are 6 n + 4."""
    for depth, widen, count in ((28, 10, 36_479_194), (16, 4, 2_748_890)):
        with torch.device("meta"):
            net = build_net({"name": "wide_resnet", "depth": depth, "widen": widen}, 10)
        assert sum(p.numel() for p in net.parameters()) == count
    with pytest.raises(ValidationError, match="nearest are 16 and 22"):
        WideResNet(name="wide_resnet", depth=20)


def test_unknown_net_is_refused():
    with pytest.raises(ValueError, match="no net is called 'vgg'"):
        build_net({"name": "vgg"}, 10)
