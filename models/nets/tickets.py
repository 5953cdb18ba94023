"""Tickets without their zeros: active values, masks as bits, and what is never masked.

The same form is kept in checkpoints and is the file of the ensemble. A ticket at sparsity 0.8
takes .23 of a dense float32 net: .2 of the values and 1/32 of the positions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.core import checkpoint
from models.core.errors import DataError
from models.nets.build import build_net


class Form(NamedTuple):
    """What all tickets of a job share: masked weights in order, with shapes, and active counts."""

    shapes: dict[str, tuple[int, ...]]
    active: int

    @property
    def size(self) -> int:
        """Elements of all masked weights."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


Ticket = dict[str, Tensor]  # "values" float32 [active], "bits" uint8 [size / 8], "rest.<name>"


def empty(net: nn.Module, form: Form) -> Ticket:
    """Room for a ticket on the CPU, all zeros."""
    rest = {
        f"rest.{name}": torch.zeros_like(x, device="cpu", memory_format=torch.contiguous_format)
        for name, x in net.state_dict().items()
        if name not in form.shapes
    }
    bits = torch.zeros(-(-form.size // 8), dtype=torch.uint8)
    return {"values": torch.zeros(form.active), "bits": bits, **rest}


def keep(net: nn.Module, masks: Mapping[str, Tensor], form: Form, into: Ticket) -> None:
    """Fill a ticket with the present net.

    Args:
        net: its masked weights are 0 outside of the masks.
        masks: bool [out, in, ...] by name of the weight.
        form: of all tickets of the job.
        into: filled in place.
    """
    state = net.state_dict()
    flat = torch.cat([masks[name].cpu().reshape(-1) for name in form.shapes])
    whole = torch.cat([state[name].cpu().reshape(-1) for name in form.shapes])
    into["values"].copy_(whole[flat])
    into["bits"].copy_(torch.from_numpy(np.packbits(flat.numpy())))
    for name, tensor in into.items():
        if name.startswith("rest."):
            tensor.copy_(state[name.removeprefix("rest.")])


def masks_of(ticket: Ticket, form: Form) -> dict[str, Tensor]:
    """Bool masks [out, in, ...] by name of the weight, on the CPU."""
    flat = torch.from_numpy(np.unpackbits(ticket["bits"].numpy(), count=form.size)).bool()
    parts = flat.split([int(np.prod(shape)) for shape in form.shapes.values()])
    return {n: part.view(s) for (n, s), part in zip(form.shapes.items(), parts, strict=True)}


def state_of(ticket: Ticket, form: Form) -> dict[str, Tensor]:
    """The state dict of the plain net, zeros and all; weights are [out, in, ...]."""
    masks = masks_of(ticket, form)
    sizes = [int(mask.sum()) for mask in masks.values()]
    state = checkpoint.part(ticket, "rest")
    for (name, mask), part in zip(masks.items(), ticket["values"].split(sizes), strict=True):
        state[name] = torch.zeros(mask.shape).masked_scatter_(mask, part)
    return state


def digest(tickets: Sequence[Ticket]) -> str:
    """SHA-256 over all tensors of all tickets, by name, in hex."""
    sha256 = hashlib.sha256()
    for ticket in tickets:
        for name in sorted(ticket):
            sha256.update(name.encode())
            sha256.update(ticket[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def write(path: Path, tickets: Sequence[Ticket], form: Form, description: Mapping[str, Any]) -> str:
    """Write the ensemble file; gives the checksum of its content.

    Args:
        path: of the file.
        tickets: in the order of the members.
        form: that they share.
        description: of net and data.
    """
    tensors = {f"ticket.{m}.{k}": x for m, ticket in enumerate(tickets) for k, x in ticket.items()}
    checksum = digest(tickets)
    summary = {"tickets": len(tickets), "form": form._asdict(), "content_sha256": checksum}
    checkpoint.write(path, tensors, {**description, "ensemble": summary})
    return checksum


class LoadedEnsemble(NamedTuple):
    """An ensemble file: nets in eval mode, and the description of the file."""

    nets: list[nn.Module]
    description: dict[str, Any]


def load(path: Path, device: str = "cpu") -> LoadedEnsemble:
    """Rebuild the members of an ensemble file, bit for bit.

    Raises:
        DataError: if the file is damaged or no ensemble.
    """
    tensors, description = checkpoint.read(path)
    if "ensemble" not in description:
        raise DataError(f"{path.name} is no ensemble file", hint="name ensemble.safetensors")
    ensemble = description["ensemble"]
    shapes = {name: tuple(shape) for name, shape in ensemble["form"]["shapes"].items()}
    form = Form(shapes, ensemble["form"]["active"])
    packed = [checkpoint.part(tensors, f"ticket.{m}") for m in range(ensemble["tickets"])]
    if digest(packed) != ensemble["content_sha256"]:
        raise DataError(f"{path.name}: its checksum does not fit its content")
    return LoadedEnsemble(
        [rebuild(ticket, form, description, device) for ticket in packed], description
    )


def rebuild(ticket: Ticket, form: Form, description: Mapping[str, Any], device: str) -> nn.Module:
    """The plain net of a ticket, in eval mode, its zeros written out.

    Args:
        ticket: active values, masks and what is not masked.
        form: of all tickets of the job.
        description: of net and data, as files keep it.
        device: torch device.
    """
    shown, classes = description["input"], description["classes"]
    size = (shown["height"], shown["width"])
    net = build_net(description["net"], len(classes), shown["channels"], size)
    net.load_state_dict(state_of(ticket, form))
    return net.to(device).eval()
