"""Units in states that training brings about, and a second way to compute what they do."""

import torch
from torch.nn import functional

from models.nets.selective.unit import SelectiveUnit


def make_unit(c_in, c_out, kernel=1, *, moved=(), closed=(), seed=0, dtype=torch.float64):
    """A unit with random weights and statistics; ``moved`` slots read random channels, shifted."""
    numbers = torch.Generator().manual_seed(seed)
    unit = SelectiveUnit(c_in, c_out, kernel).to(dtype)
    with torch.no_grad():
        for tensor in (unit.norm.weight, unit.norm.bias, unit.norm.running_mean, unit.conv.weight):
            tensor.copy_(torch.randn(tensor.shape, generator=numbers))
        unit.norm.running_var.copy_(0.5 + torch.rand(c_in, generator=numbers))
        for slot in moved:
            unit.source[slot] = torch.randint(c_in, (), generator=numbers)
            unit.shift[slot] = 4 * torch.rand(2, generator=numbers) - 2
        unit.gate[list(closed)] = 0
    return unit


def sampled(x, source, shift):
    """Slots by ``grid_sample``, which shares no line with the product."""
    n, _, h, w = x.shape
    slots = []
    for slot, root in enumerate(source.tolist()):
        if root < 0:
            slots.append(x[:, slot])
            continue
        columns = (torch.arange(w) + shift[slot, 0]) / (w - 1) * 2 - 1
        rows = (torch.arange(h) + shift[slot, 1]) / (h - 1) * 2 - 1
        grid = torch.stack([columns.expand(h, w), rows[:, None].expand(h, w)], -1)
        slots.append(
            functional.grid_sample(
                x[:, root : root + 1],
                grid.expand(n, -1, -1, -1),
                padding_mode="border",
                align_corners=True,
            )[:, 0]
        )
    return torch.stack(slots, 1)


def reference(unit, x):
    """The whole unit, the gate on the activation."""
    z = sampled(x, unit.source, unit.shift)
    a = torch.relu(unit.norm(z)) * unit.gate[:, None, None]
    return functional.conv2d(a, unit.conv.weight, padding=unit.conv.weight.shape[-1] // 2)
