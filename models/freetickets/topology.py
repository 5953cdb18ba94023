"""The masks of a net in training: which weights live, and everything that changes them.

Masks act on gradients inside of the step: with weight, momentum and masked gradient at 0, decay
and step leave them at 0, bit for bit, for one multiplication in place of two (weight, momentum).
In a step before an update gradients stay dense, since growth wants them; masks then act after it.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.core import checkpoint, ranks
from models.core.device import generator
from models.freetickets import masks
from models.freetickets.densities import MaskableLayer, can_cap
from models.freetickets.spec import FreeTicketsTrain
from models.supervised.average import Average
from models.supervised.steps import moments


class UpdateStats(NamedTuple):
    """An update in numbers: share asked for, weights dropped, weights regrown at once."""

    rate: float
    dropped: int
    regrown: int


class Topology:
    """Masks of one net and the rules of their changes.

    Args:
        net: whose layers are masked, on its device.
        layers: of the net, in order.
        spec: names seed, growth and structure.

    Attributes:
        parameters: names of the weights in the net, by layer name.
        masks: bool by layer name, of the weight's shape.
        pending: masks chosen and not yet applied; those of an escape wait for the next step.
        surviving: positions whose value outlives the change to the pending masks.
        seen: positions that were active at least once since the member began.
        average: of the net's weights, if one is kept: masked as the weights are.
        dense_gradients: whether the present step leaves gradients as they are.
    """

    def __init__(
        self, net: nn.Module, layers: Sequence[MaskableLayer], spec: FreeTicketsTrain
    ) -> None:
        self.spec, self.layers = spec, list(layers)
        self.active = dict(zip([x.name for x in layers], spec.active(self.layers), strict=True))
        self.parameters = _parameters(net, layers)
        self.weights = {name: net.get_parameter(p) for name, p in self.parameters.items()}
        shares = spec.shares(self.layers)
        cap = spec.structure == "cap24" and spec.is_sparse
        self.capped = {
            x.name for x, share in zip(layers, shares, strict=True) if cap and can_cap(x, share)
        }
        self.masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}
        self.pending = {name: mask.clone() for name, mask in self.masks.items()}
        self.surviving = {name: mask.clone() for name, mask in self.masks.items()}
        self.seen = {name: mask.clone() for name, mask in self.masks.items()}
        self.average: Average | None = None
        self.dense_gradients = False
        self._optimizer: torch.optim.Optimizer | None = None
        self._net = net

    @property
    def open_layers(self) -> list[str]:
        """Layers with a weight to spare: the others are dense, and no update touches them."""
        return [name for name, w in self.weights.items() if self.active[name] < w.numel()]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Mask the gradients of every step from now on, also in a recorded one."""
        self._optimizer = optimizer
        pairs = [(self.weights[name], self.masks[name]) for name in self.open_layers]

        def mask_gradients(*_: object) -> None:
            if self.dense_gradients:
                return
            for weight, mask in pairs:
                if weight.grad is not None:
                    weight.grad.mul_(mask)

        if pairs:
            optimizer.register_step_pre_hook(mask_gradients)

    @torch.no_grad()
    def draw(self, member: int) -> None:
        """New random masks with the exact counts, keyed by (seed, layer, member); apply them."""
        for name, weight in self.weights.items():
            numbers = generator(self.spec.seed, f"mask.{name}", member)
            if name in self.capped:
                mask = masks.capped_mask(weight.shape, self.active[name], numbers)
            else:
                mask = masks.random_mask(weight.numel(), self.active[name], numbers)
            self.masks[name].copy_(mask.view(weight.shape))
            self.seen[name].copy_(self.masks[name])
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Zero weights, their moments and their average outside of the masks."""
        buffers = self._followers()
        for name in self.open_layers:
            self.weights[name].mul_(self.masks[name])
            for buffer in buffers.get(name, []):
                buffer.mul_(self.masks[name])

    def _followers(self) -> dict[str, list[Tensor]]:
        """Whatever else has the shape of a weight, by layer: the optimizer's state, the average."""
        state = moments(self._net, self._optimizer) if self._optimizer else {}
        mean = self.average.tensors if self.average else {}
        return {
            name: [*state.get(parameter, []), *([mean[parameter]] if mean else [])]
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self, rate: float, number: int) -> UpdateStats:
        """One ordinary update, in place: needs the dense gradients of the step just done."""
        stats = self._changed(
            rate, number, self.spec.growth, "grow", regrow=self.spec.regrow_dropped
        )
        self._install()
        return stats

    @torch.no_grad()
    def plan_escape(self, number: int) -> UpdateStats:
        """Choose the masks after an escape while the gradients are there; nothing changes yet."""
        escape = self.spec.escape
        growth = self.spec.growth if escape.growth == "same" else escape.growth
        return self._changed(
            escape.fraction, number, growth, "escape", regrow=escape.regrow_dropped
        )

    @torch.no_grad()
    def escape(self) -> None:
        """Move the net out of its basin: applies the masks chosen by :meth:`plan_escape`."""
        if self.spec.escape.reset_momentum:
            self.forget()
        self._install()

    def forget(self) -> None:
        """Set all moments to 0."""
        if self._optimizer is not None:
            for buffers in moments(self._net, self._optimizer).values():
                for buffer in buffers:
                    buffer.zero_()

    def _changed(
        self, rate: float, number: int, growth: str, purpose: str, *, regrow: bool
    ) -> UpdateStats:
        """Fill ``pending``; the same on all ranks.

        Raises:
            DivergedError: if weights or gradients are not finite, which have no order.
        """
        self.apply()  # the step has moved weights outside of the masks
        self._check_finite()
        dropped, regrown = 0, torch.zeros((), dtype=torch.long)
        for name in self.open_layers:
            weight, mask = self.weights[name], self.masks[name]
            wish = self._wish(name, growth, f"{purpose}.{name}", number)
            update = masks.change(
                weight,
                mask,
                wish,
                rate,
                regrow_dropped=regrow,
                capped=name in self.capped,
                active=self.active[name],
            )
            self.pending[name].copy_(update.mask)
            keeps = self.spec.regrown_value == "keep"
            self.surviving[name].copy_(update.mask if keeps else update.kept)
            dropped += update.dropped
            regrown = regrown.to(weight.device) + update.regrown
        share_masks(
            [group[n] for group in (self.pending, self.surviving) for n in self.open_layers]
        )
        return UpdateStats(rate, dropped, int(regrown))

    def _check_finite(self) -> None:
        weights = {self.parameters[name]: self.weights[name] for name in self.open_layers}
        gradients = {f"{name} (gradient)": w.grad for name, w in weights.items()}
        checkpoint.check_finite(
            weights | {name: x for name, x in gradients.items() if x is not None},
            "the net at a change of its masks",
        )

    def _wish(self, name: str, growth: str, stream: str, number: int) -> Tensor:
        weight = self.weights[name]
        if growth == "gradient":
            return cast("Tensor", weight.grad).abs()  # of the step just done
        numbers = generator(self.spec.seed, stream, number)
        return torch.rand(weight.shape, generator=numbers).to(weight.device)

    def _install(self) -> None:
        """Apply the pending masks; what was grown begins at 0, its momentum and average too."""
        buffers = self._followers()
        for name in self.open_layers:
            self.masks[name].copy_(self.pending[name])
            self.seen[name] |= self.pending[name]
            self.weights[name].mul_(self.surviving[name])
            for buffer in buffers.get(name, []):
                buffer.mul_(self.surviving[name])

    def named_masks(self) -> dict[str, Tensor]:
        """The masks, bool [out, in, ...], by the names of the weights in the net."""
        return {self.parameters[name]: mask for name, mask in self.masks.items()}

    def explored(self) -> float:
        """Share of all maskable positions that were active at least once: R_s."""
        seen = torch.stack([seen.sum() for seen in self.seen.values()]).sum()
        return int(seen) / sum(seen.numel() for seen in self.seen.values())

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the masks; restored in place.

        Bool masks of the shape [out, in, ...] of their weights.
        """
        if not self.spec.is_sparse:
            return {}
        groups = {"mask": self.masks, "seen": self.seen}
        if self.spec.variant == "edst":
            groups |= {"pending": self.pending, "surviving": self.surviving}
        return {
            f"{group}.{name}": by_layer[name]
            for group, by_layer in groups.items()
            for name in by_layer
        }


def _parameters(net: nn.Module, layers: Sequence[MaskableLayer]) -> dict[str, str]:
    """Layers by module have their ``weight``; others are a parameter of another name."""
    names = {name for name, _ in net.named_parameters()}
    own = {layer.name: f"{layer.name}.weight" for layer in layers}
    return {name: weight if weight in names else name for name, weight in own.items()}


def share_masks(tensors: Sequence[Tensor]) -> None:
    """Replace masks by those of the first process, as packed bits: an eighth of a byte each.

    Masks are bool [...], in the same order on all processes.
    """
    if ranks.world_size() == 1 or not tensors:
        return
    flat = torch.cat([mask.reshape(-1) for mask in tensors]).cpu()
    packed = torch.from_numpy(np.packbits(flat.numpy()))
    dist.broadcast(packed, src=0)
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=flat.numel())).bool()
    for mask, part in zip(tensors, bits.split([mask.numel() for mask in tensors]), strict=True):
        mask.copy_(part.view(mask.shape))
