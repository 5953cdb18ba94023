"""Optimizers of torch that do not load its compiler.

torch wraps the methods of its optimizers so that its compiler leaves them alone, and loads the
compiler for this at their first call: as long again as torch itself, at the start of every run. No
step here is compiled, so these call what is under the wrappers.
"""

from inspect import unwrap

import torch
from torch import optim


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
