"""The layers of a net on the device whose weights may be masked, and those that stay dense."""

from typing import NamedTuple

from torch import nn

from models.core.errors import SpecError
from models.data.images import ImageData
from models.freetickets import densities
from models.freetickets.densities import MaskableLayer
from models.freetickets.spec import FreeTicketsTrain
from models.nets.layers import Layer
from models.nets.layers import layers_of as layers_read
from models.nets.library_spec import GivenNet

LEAST = 0.5  # of the trained matrices: below, a sparse ticket would be a dense net by another name


class Found(NamedTuple):
    """What there is to mask, in the net's order, and why further weights stay dense, by name."""

    layers: list[MaskableLayer]
    unmasked: dict[str, str]


def find(net: nn.Module, spec: FreeTicketsTrain, data: ImageData) -> Found:
    """The layers of a net of the project by its spec, of a library from one pass.

    Raises:
        SpecError: if too few weights can be masked, or fields do not fit the layers.
    """
    if not isinstance(spec.model, GivenNet):
        own = densities.layers_of(spec.model, data.channels, len(data.classes), *data.size)
        return Found(own, {})
    read = layers_read(net, data.channels, data.size)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    layers = [_maskable(layer) for layer in read if layer.parameter in trained]
    unmasked = _unmasked(net, {layer.parameter for layer in read})
    if not layers:
        raise SpecError(
            "model.freeze leaves no weight of a convolution or linear layer to train: name fewer",
            pointer="/model/freeze",
        )
    if spec.is_sparse:
        _check_share(layers, unmasked, net, spec.model.name)
    spec.check_layers(layers)
    return Found(layers, unmasked)


def _maskable(layer: Layer) -> MaskableLayer:
    c_out, c_in, *sides = layer.shape
    height, width = sides or (0, 0)
    across = width if width != height else None
    return MaskableLayer(layer.name, c_out, c_in, height, layer.macs, across)


def _unmasked(net: nn.Module, used: set[str]) -> dict[str, str]:
    """Of parameters with two axes and more, those that no mask touches."""
    reasons = {}
    for name, weight in net.named_parameters():
        if weight.ndim < 2:
            continue
        if not weight.requires_grad:
            reasons[name] = "frozen"
        elif name not in used:
            reasons[name] = "no convolution or linear layer uses it as it is"
    return reasons


def _check_share(
    layers: list[MaskableLayer], unmasked: dict[str, str], net: nn.Module, name: str
) -> None:
    masked = sum(layer.size for layer in layers)
    dense = {n: net.get_parameter(n) for n, reason in unmasked.items() if reason != "frozen"}
    trained = masked + sum(weight.numel() for weight in dense.values())
    if masked < LEAST * trained:
        raise SpecError(
            f"model.name: masks reach {masked} of the {trained} trained weights of {name}; the"
            f" others are computed with before a layer uses them, the largest is"
            f" {max(dense, key=lambda n: dense[n].numel())}, so that a zero in them is none in the"
            " filter",
            hint="name a net without standardised or normed filters, or variant dense_ensemble",
            pointer="/model/name",
        )
