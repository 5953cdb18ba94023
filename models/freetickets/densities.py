"""How many weights of each layer are active: ERK, ER and uniform, in exact numbers. Torch-free."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from models.nets.spec import ResidualNet, WideResNet, conv_shapes


class MaskableLayer(NamedTuple):
    """A layer whose weight may be masked.

    Attributes:
        name: of the module.
        c_out: rows of the weight.
        c_in: columns of the weight.
        kernel: side of the filter, its height where it is no square; 0 for a linear layer.
        macs: multiply-accumulates of a forward pass over one image, dense.
        width: of a filter that is no square.
    """

    name: str
    c_out: int
    c_in: int
    kernel: int
    macs: int
    width: int | None = None

    @property
    def size(self) -> int:
        """Elements of the weight."""
        return self.c_out * self.c_in * math.prod(max(1, side) for side in self.sides)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the filter; 0 and 0 for a linear layer."""
        return self.kernel, self.kernel if self.width is None else self.width


def layers_of(
    net: ResidualNet | WideResNet, channels: int, classes: int, height: int, width: int
) -> list[MaskableLayer]:
    """Every convolution and the classifier, in order; biases and norms are never masked.

    Args:
        net: which net.
        channels: of its images.
        classes: outputs of the classifier.
        height: of the images, in pixels.
        width: likewise.
    """
    layers = []
    for shape in conv_shapes(net, channels, height, width):
        macs = math.prod(shape.out) * shape.c_out * shape.c_in * shape.kernel**2
        layers.append(MaskableLayer(shape.name, shape.c_out, shape.c_in, shape.kernel, macs))
    head = MaskableLayer("head", classes, net.features, 0, classes * net.features)
    return [*layers, head]


def densities(
    layers: Sequence[MaskableLayer],
    sparsity: float,
    distribution: str,
    keep_dense: Sequence[str] = (),
) -> list[float]:
    """Share of active weights of each layer, in (0, 1], with sum d_l n_l = (1 - S) N.

    ERK makes them proportional to (out + in + kh + kw) / (out in kh kw), ER to
    (out + in) / (out in), uniform to one number; what would pass 1 is dense.

    Args:
        layers: of the net.
        sparsity: S in [0, 1).
        distribution: ``erk``, ``er`` or ``uniform``.
        keep_dense: patterns of names of layers that stay dense.

    Raises:
        ValueError: if the dense layers alone have more weights than may be active.
    """
    raw = [_raw(layer, distribution) for layer in layers]
    named = {i for i, x in enumerate(layers) if any(fnmatchcase(x.name, p) for p in keep_dense)}
    dense = set(named)
    while True:
        rest = [i for i in range(len(layers)) if i not in dense]
        budget = (1 - sparsity) * sum(layers[i].size for i in rest)
        budget -= sparsity * sum(layers[i].size for i in dense)
        if (not rest and len(named) < len(layers)) or sparsity == 0:
            return [1.0] * len(layers)
        if budget <= 0:
            raise ValueError(
                f"keep_dense leaves no weight for the other layers at sparsity {sparsity}:"
                " lower sparsity or keep fewer layers dense"
            )
        scale = budget / sum(raw[i] * layers[i].size for i in rest)
        top = max(raw[i] for i in rest)
        if top * scale <= 1:
            return [1.0 if i in dense else raw[i] * scale for i in range(len(layers))]
        dense |= {i for i in rest if raw[i] == top}


def _raw(layer: MaskableLayer, distribution: str) -> float:
    if distribution == "uniform":
        return 1.0
    if distribution == "er":
        return (layer.c_out + layer.c_in) / (layer.c_out * layer.c_in)
    return (layer.c_out + layer.c_in + sum(layer.sides)) / layer.size


def counts(layers: Sequence[MaskableLayer], shares: Sequence[float], sparsity: float) -> list[int]:
    """Active weights of each layer: floor, then largest remainders up to floor((1 - S) N + 1/2).

    Ties go to the lower index, so the total is exact and the same everywhere.
    """
    exact = [share * layer.size for share, layer in zip(shares, layers, strict=True)]
    whole = [math.floor(x + 1e-9) for x in exact]
    total = math.floor((1 - sparsity) * sum(layer.size for layer in layers) + 0.5)
    order = sorted(range(len(layers)), key=lambda i: (whole[i] - exact[i], i))
    open_ = [i for i in order if whole[i] < layers[i].size]
    for i in open_[: total - sum(whole)]:
        whole[i] += 1
    return whole


def can_cap(layer: MaskableLayer, share: float) -> bool:
    """Whether at most 2 of 4 neighbouring inputs can be active: density and inputs allow it."""
    return share <= 0.5 and layer.c_in % 4 == 0
