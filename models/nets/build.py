"""Name of a net to its constructor: the one way from a description in a file to a net."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from models.nets.resnet import ResNet
from models.nets.spec import BLOCKS, ResidualNet, WideResNet
from models.nets.wide_resnet import WideNet

Builder = Callable[[Mapping[str, Any], int, int], nn.Module]


def _residual(spec: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    return ResNet(ResidualNet.model_validate(dict(spec)), num_classes, channels)


def _wide(spec: Mapping[str, Any], num_classes: int, channels: int) -> nn.Module:
    return WideNet(WideResNet.model_validate(dict(spec)), num_classes, channels)


BUILDERS: dict[str, Builder] = {**dict.fromkeys(BLOCKS, _residual), "wide_resnet": _wide}


def build_net(spec: Mapping[str, Any], num_classes: int, channels: int = 3) -> nn.Module:
    """A net with fresh weights.

    Args:
        spec: ``name`` and the net's own fields, as in a job's ``model``.
        num_classes: outputs of the classifier.
        channels: of the input images.

    Raises:
        ValueError: if no net has that name or a field is wrong.
    """
    name = spec.get("name")
    if name not in BUILDERS:
        raise ValueError(f"no net is called {name!r}; there are {', '.join(BUILDERS)}")
    return BUILDERS[name](spec, num_classes, channels)
