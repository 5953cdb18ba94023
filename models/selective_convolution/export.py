"""The trained net for inference: open slots alone, batch norm folded (README, section 5)."""

import torch
from torch import Tensor, nn

from models.nets.build import build_net
from models.nets.preactivation_spec import PreactivationNet, Units
from models.nets.selective.unit import GatedUnit, SelectiveUnit
from models.selective_convolution.rounds import units_of


def compact(
    net: nn.Module, model: PreactivationNet, classes: int, channels: int, *, whole: bool
) -> tuple[nn.Module, Units]:
    """The same function in eval mode without closed slots, gates and the batch norms of units.

    Args:
        net: selective, trained.
        model: what it was built from.
        classes: outputs of its classifier.
        channels: of its input images.
        whole: round shifts to whole pixels; slots then are copied, not interpolated.

    Returns:
        The net in eval mode, and how ``nets.build`` makes its units.
    """
    units = units_of(net)
    states = {name: folded(unit, whole=whole) for name, unit in units.items()}
    form = Units(form="compact", open=[len(state["root"]) for state in states.values()])
    small = build_net(model.model_dump() | {"units": form.model_dump()}, classes, channels)
    inside = tuple(f"{name}." for name in units)
    kept = {name: x for name, x in net.state_dict().items() if not name.startswith(inside)}
    parts = {f"{name}.{key}": x for name, state in states.items() for key, x in state.items()}
    small.load_state_dict(kept | parts)
    return small.to(next(net.parameters()).device).eval(), form


@torch.no_grad()
def folded(unit: GatedUnit, *, whole: bool) -> dict[str, Tensor]:
    """State of the ``CompactUnit`` that does what ``unit`` does in eval mode.

    Of s open slots: ``root``, ``scale``, ``offset`` [s], ``shift`` [s, 2], ``weight`` [o, s, k, k].
    """
    norm, weight = unit.norm, unit.conv.weight
    kept = unit.gate.nonzero().flatten()
    if len(kept) == 0:  # the output is zero; a slot of zero weights says so
        kept, weight = unit.gate.new_zeros(1).long(), torch.zeros_like(weight)
    root, shift = kept, unit.gate.new_zeros(len(kept), 2)
    if isinstance(unit, SelectiveUnit):
        source = unit.source[kept]
        root = torch.where(source < 0, kept, source)
        shift = torch.where((source < 0)[:, None], 0.0, unit.shift[kept])
    mean, var = norm.running_mean[kept], norm.running_var[kept]  # ty: ignore[not-subscriptable]
    scale = norm.weight[kept] * (var + norm.eps).rsqrt()
    return {
        "root": root,
        "shift": shift.round() if whole else shift,
        "scale": scale,
        "offset": norm.bias[kept] - mean * scale,
        "weight": weight[:, kept],
    }
