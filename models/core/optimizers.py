"""Optimizers of torch that do not load its compiler.

torch wraps the methods of its optimizers so that its compiler leaves them alone, and loads the
compiler for this at their first call: as long again as torch itself, at the start of every run. No
step here is compiled, so these call what is under the wrappers.
"""

from collections.abc import Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, optim


class _Bare(optim.Optimizer):
    add_param_group = unwrap(optim.Optimizer.add_param_group)
    zero_grad = unwrap(optim.Optimizer.zero_grad)
    state_dict = unwrap(optim.Optimizer.state_dict)
    load_state_dict = unwrap(optim.Optimizer.load_state_dict)


class Sgd(_Bare, optim.SGD):
    """``torch.optim.SGD``."""

    step = torch.no_grad()(unwrap(optim.SGD.step))


class AdamW(_Bare, optim.AdamW):
    """``torch.optim.AdamW``."""

    step = torch.no_grad()(unwrap(optim.AdamW.step))


class Adam(_Bare, optim.Adam):
    """``torch.optim.Adam``."""

    step = torch.no_grad()(unwrap(optim.Adam.step))


class Lamb(_Bare):
    """LAMB (You et al., arXiv 1904.00962, algorithm 2): Adam's direction at the scale of a weight.

    Weights of two and more axes move by the rate times their norm over that of the direction,
    decay included; norms and biases by the rate alone, as implementations do.

    Args:
        params: groups with ``weight_decay``; the state of each parameter is there from the start:
            ``exp_avg``, ``exp_avg_sq`` and ``step``, a number on the device.
        lr: learning rate, on the device.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        """Move the weights; never waits for a GPU.

        Args:
            closure: none is taken: the loss is not computed again.
        """
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                weight.sub_(self._move(weight, group))

    def _move(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient, (beta1, beta2) = self.state[weight], weight.grad, group["betas"]
        step = state["step"].add_(1)
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        move = (mean / (1 - beta1**step)).div_(root).add_(weight, alpha=group["weight_decay"])
        if weight.ndim > 1:
            norm, length = weight.norm(), move.norm()
            move.mul_(torch.where((norm > 0) & (length > 0), norm / length, 1.0))
        return move.mul_(group["lr"])
