"""A compact unit in operations that every runtime has: for ONNX and programs of torch.export."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.nets.selective.reference import taps
from models.nets.selective.unit import CompactUnit


class PortableUnit(nn.Module):
    """Slots that read their channel as it is come first, interpolated ones after them.

    Args:
        unit: whose function it is.
    """

    def __init__(self, unit: CompactUnit) -> None:
        super().__init__()
        moved = unit.shift.abs().amax(1) > 0
        order = torch.cat([(~moved).nonzero().flatten(), moved.nonzero().flatten()])
        still = int((~moved).sum())
        self.still: Tensor
        self.root: Tensor
        self.shift: Tensor
        self.scale: Tensor
        self.offset: Tensor
        self.weight: Tensor
        self.register_buffer("still", unit.root[order[:still]])
        self.register_buffer("root", unit.root[order[still:]])
        self.register_buffer("shift", unit.shift[order[still:]])
        self.register_buffer("scale", unit.scale[order][:, None, None])
        self.register_buffer("offset", unit.offset[order][:, None, None])
        self.register_buffer("weight", unit.weight[:, order])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        parts = [x.index_select(1, self.still)] if len(self.still) else []
        if len(self.root):
            parts.append(self._moved(x))
        z = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        a = torch.relu(z * self.scale + self.offset)
        return functional.conv2d(a, self.weight, padding=self.weight.shape[-1] // 2)

    def _moved(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b moved h w"]:
        """What ``reference.sample`` gives, by indices that are the same for all images."""
        h, w = int(x.shape[2]), int(x.shape[3])  # a tracer gives tensors
        top, bottom, fy = taps(self.shift[:, 1], h)
        left, right, fx = taps(self.shift[:, 0], w)
        flat, first = x.flatten(1), (self.root * (h * w))[:, None, None]

        def at(rows: Tensor, columns: Tensor) -> Tensor:
            index = first + rows[:, :, None] * w + columns[:, None, :]
            return flat.index_select(1, index.flatten()).unflatten(1, (len(first), h, w))

        fx, fy = fx[:, None, :], fy[:, :, None]
        upper = at(top, left) * (1 - fx) + at(top, right) * fx
        lower = at(bottom, left) * (1 - fx) + at(bottom, right) * fx
        return upper * (1 - fy) + lower * fy


def portable(net: nn.Module) -> nn.Module:
    """A copy on the CPU whose compact units are portable; the same function in eval mode."""
    net = copy.deepcopy(net).cpu().eval()
    for name, module in list(net.named_modules()):
        if isinstance(module, CompactUnit):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, PortableUnit(module))
    return net
