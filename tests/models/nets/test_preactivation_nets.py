"""Pre-activation nets: the authors' sizes, shapes as told without torch, every form of unit."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from models.nets.build import build_net
from models.nets.preactivation import Unit
from models.nets.preactivation_spec import PreactivationNet, unit_shapes
from models.nets.selective.unit import GatedUnit, SelectiveUnit

PARAMETERS = [  # name, classes, channels, plain, selective
    ("densenet40", 10, 3, 211_978, 216_514),
    ("densenet40", 100, 3, 233_668, None),
    ("densenet40", 10, 1, 211_546, None),
    ("densenet100", 10, 3, 995_698, 1_025_074),
    ("densenet100", 100, 3, 1_049_788, None),
    ("densenet_bc190", 10, 3, 25_624_430, None),
    ("resnet164", 10, 3, 1_661_274, 1_680_954),
    ("resnet164", 100, 3, 1_684_404, None),
    ("resnet164", 10, 1, 1_660_986, None),
    ("resnext29", 10, 3, 33_751_370, 33_781_706),
    ("resnext29", 100, 3, 33_843_620, None),
    ("condensenet182", 10, 3, None, 13_792_906),
]
OPERATIONS = [
    ("densenet40", 71.3e6),
    ("densenet100", 286.4e6),
    ("resnet164", 239.3e6),
    ("resnext29", 4_900.7e6),
    ("condensenet182", 1_615.3e6),
]
SMALL = [
    {"name": "densenet40", "growth": 4, "layers": 2},
    {"name": "densenet40", "growth": 4, "layers": 2, "compression": 0.5},
    {"name": "condensenet182", "growth": 4, "layers": 2},
    {"name": "resnet164", "width": 4, "blocks": 2},
    {"name": "resnext29", "width": 2, "blocks": 2},
]
read = TypeAdapter(PreactivationNet).validate_python


@pytest.mark.parametrize(("name", "classes", "channels", "plain", "selective"), PARAMETERS)
def test_parameters_are_the_authors(name, classes, channels, plain, selective):
    """Sizes counted in the authors' nets (README of selective_convolution, section 4)."""
    for form, count in (("plain", plain), ("selective", selective)):
        if count is not None:
            with torch.device("meta"):
                net = build_net({"name": name, "units": {"form": form}}, classes, channels)
            assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(("name", "macs"), OPERATIONS)
def test_operations_are_the_authors(name, macs):
    actual = sum(shape.macs for shape in unit_shapes(read({"name": name})))
    assert actual == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize("fields", SMALL)
def test_shapes_are_those_of_the_net(fields):
    """Names, channels, kernels, groups and map sizes of all convolutions, at an odd size."""
    spec = read(fields)
    net, seen = build_net(spec.model_dump(), 5, channels=2).eval(), {}
    for layer, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            seen[layer.removesuffix(".conv")] = module
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


@pytest.mark.parametrize("fields", SMALL)
def test_every_convolution_has_its_role(fields):
    """The table of section 4 there: which units may re-use slots, which only close them."""
    net = build_net(fields | {"units": {"form": "selective"}}, 3)
    for shape in unit_shapes(read(fields))[1:]:
        actual = type(net.get_submodule(shape.name))
        assert (
            actual is {"reallocate": SelectiveUnit, "prune": GatedUnit, "plain": Unit}[shape.role]
        )
        if fields["name"] == "condensenet182":
            assert shape.role == ("prune" if shape.kernel == 1 else "plain")
        else:
            grouped = "prune" if shape.groups == 1 else "plain"
            assert shape.role == ("reallocate" if shape.kernel == 1 else grouped)


def test_only_the_1x1_of_a_condensenet_drop():
    """Section 4 there: dropout is inside of the gated 1x1."""
    net = build_net({"name": "condensenet182", "growth": 4, "layers": 1}, 3)
    drops = {name: m.dropout for name, m in net.named_modules() if isinstance(m, Unit)}
    assert drops == {name: 0.1 if name.endswith("reduce") else 0.0 for name in drops}


def test_a_wider_shortcut_is_filled_with_zeros():
    """Section 4 there: with units that give nothing, a stage passes its input on."""
    net = build_net({"name": "resnet164", "width": 4, "blocks": 1}, 3)
    block, x = net.features.stage0[0], torch.randn(2, 4, 8, 8)
    torch.nn.init.zeros_(block.expand.conv.weight)
    assert torch.equal(block(x), torch.cat([x, torch.zeros(2, 12, 8, 8)], 1))


@pytest.mark.parametrize("form", ["plain", "selective"])
@pytest.mark.parametrize("fields", SMALL)
def test_every_parameter_gets_a_gradient(form, fields):
    """Shifts get zeros as long as no slot reads elsewhere."""
    net = build_net(fields | {"units": {"form": form}}, 3)
    net(torch.randn(2, 3, 8, 8)).square().sum().backward()
    for name, p in net.named_parameters():
        assert name.endswith(".shift") or p.grad.abs().sum() > 0, name
