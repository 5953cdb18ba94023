"""Pre-activation nets: the authors' sizes, shapes as told without torch, every form of unit."""

import pytest
import torch
from torch import nn

from models.nets.build import build_net
from models.nets.preactivation_spec import DenseNetSpec, unit_shapes

PARAMETERS = [  # name, classes, channels, plain, selective
    ("densenet40", 10, 3, 211_978, 216_514),
    ("densenet40", 100, 3, 233_668, None),
    ("densenet40", 10, 1, 211_546, None),
    ("densenet100", 10, 3, 995_698, 1_025_074),
    ("densenet100", 100, 3, 1_049_788, None),
    ("densenet_bc190", 10, 3, 25_624_430, None),
]


@pytest.mark.parametrize(("name", "classes", "channels", "plain", "selective"), PARAMETERS)
def test_parameters_are_the_authors(name, classes, channels, plain, selective):
    """Section 5 of the specification, counted in the authors' nets."""
    for form, count in (("plain", plain), ("selective", selective)):
        if count is not None:
            with torch.device("meta"):
                net = build_net({"name": name, "units": {"form": form}}, classes, channels)
            assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(("name", "macs"), [("densenet40", 71.3e6), ("densenet100", 286.4e6)])
def test_operations_are_the_authors(name, macs):
    found = sum(shape.macs for shape in unit_shapes(DenseNetSpec(name=name)))
    assert found == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize("compression", [None, 0.5])
def test_shapes_are_those_of_the_net(compression):
    """Names, channels, kernels, groups and map sizes of all convolutions, at an odd size."""
    spec = DenseNetSpec(name="densenet40", growth=4, layers=2, compression=compression)
    net, seen = build_net(spec.model_dump(), 5, channels=2).eval(), {}
    for place, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            seen[place.removesuffix(".conv")] = module
    shapes = {shape.name: shape for shape in unit_shapes(spec, 2, 21, 18)}
    assert shapes.keys() == seen.keys()
    sizes = {}
    for name in shapes:
        owner = net.get_submodule(name)
        owner.register_forward_hook(lambda *seen, name=name: sizes.update({name: seen[2].shape}))
    assert net(torch.zeros(1, 2, 21, 18)).shape == (1, 5)
    for name, shape in shapes.items():
        conv = seen[name]
        assert (conv.in_channels, conv.out_channels) == (shape.c_in, shape.c_out)
        assert (conv.kernel_size[0], conv.groups) == (shape.kernel, shape.groups)
        assert sizes[name][1:] == (shape.c_out, shape.height, shape.width)


@pytest.mark.parametrize("form", ["plain", "selective"])
def test_every_parameter_gets_a_gradient(form):
    """Shifts get zeros as long as no slot reads elsewhere."""
    fields = {"name": "densenet40", "growth": 4, "layers": 1, "compression": 0.5, "dropout": 0.1}
    net = build_net(fields | {"units": {"form": form}}, 3)
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    for name, p in net.named_parameters():
        assert name.endswith(".shift") or p.grad.abs().sum() > 0, name
