"""Name of a net to its constructor: the one way from a description in a file to a net."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from models.nets.bottleneck_net import BottleneckNet
from models.nets.densenet import DenseNet
from models.nets.library import build_foreign
from models.nets.preactivation import MakeUnit, Unit
from models.nets.preactivation_spec import (
    DENSE_LAYERS,
    BottleneckNetSpec,
    PreactivationNet,
    Role,
    Units,
)
from models.nets.resnet import ResNet
from models.nets.selective.unit import CompactUnit, GatedUnit, SelectiveUnit
from models.nets.spec import BLOCKS, ResidualNet, WideResNet
from models.nets.trainable import NET, from_architecture
from models.nets.wide_resnet import WideNet

Builder = Callable[[Mapping[str, Any], int, int], nn.Module]


def _residual(spec: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    return ResNet(ResidualNet.model_validate(dict(spec)), num_classes, channels)


def _wide(spec: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    return WideNet(WideResNet.model_validate(dict(spec)), num_classes, channels)


def _preactivation(spec: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    fields = dict(spec)
    units = Units.model_validate(fields.pop("units", {}))
    shape = TypeAdapter(PreactivationNet).validate_python(fields)
    make = _unit_maker(units, shape.dropout)
    if isinstance(shape, BottleneckNetSpec):
        return BottleneckNet(shape, num_classes, channels, make)
    return DenseNet(shape, num_classes, channels, make)


def _unit_maker(units: Units, dropout: float) -> MakeUnit:
    """Makes each unit in the form asked for; compact ones take their slots in the net's order."""
    slots = iter(units.open or ())

    def make(c_in: int, c_out: int, kernel: int, role: Role, groups: int = 1) -> nn.Module:
        if role == "plain":  # beside units that may choose, these drop nothing
            return Unit(c_in, c_out, kernel, groups)
        if units.form == "plain":
            return Unit(c_in, c_out, kernel, groups, dropout)
        if units.form == "compact":
            return CompactUnit(c_in, next(slots), c_out, kernel)
        if role == "reallocate" or units.everywhere:
            return SelectiveUnit(c_in, c_out, kernel, dropout)
        return GatedUnit(c_in, c_out, kernel, dropout)

    return make


BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(BLOCKS, _residual),
    **dict.fromkeys((*DENSE_LAYERS, "condensenet182", "resnet164", "resnext29"), _preactivation),
    "wide_resnet": _wide,
}


def build_net(
    spec: Mapping[str, Any],
    num_classes: int,
    channels: int = 3,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """A net with fresh weights.

    Args:
        spec: ``name`` and the net's own fields, as in a job's ``model``; with ``library`` a net of
            that library; the ``architecture`` of an exported program, whose weights are zeros.
        num_classes: outputs of the classifier.
        channels: of the input images.
        size: height and width of the images in pixels; some nets of libraries are made for one.

    Raises:
        ValueError: if no net has that name or a field is wrong.
    """
    if "library" in spec:
        return build_foreign(spec, num_classes, channels, size)
    name = spec.get("name")
    if name == NET:
        return from_architecture(spec)
    if name not in BUILDERS:
        raise ValueError(f"no net is called {name!r}; there are {', '.join(BUILDERS)}")
    return BUILDERS[name](spec, num_classes, channels)
