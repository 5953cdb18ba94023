"""What a method adds to the steps of a supervised training, and its place in a larger job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.supervised.average import Average
from models.supervised.steps import FULL, Forward, Mode, cross_entropy


class SubRun(NamedTuple):
    """One training of a job that trains more than once.

    Attributes:
        prefix: of its metrics.
        step_offset: steps of the job before it.
        total: steps of the whole job; None when there is nothing else.
        saves_checkpoints: whether it resumes from checkpoints and leaves them.
    """

    prefix: str = ""
    step_offset: int = 0
    total: int | None = None
    saves_checkpoints: bool = True


ONLY = SubRun()  # of a job that trains once


@dataclass(frozen=True)
class Hooks:
    """What ``fit`` of ``models/supervised/loop.py`` calls and keeps for a method; empty by default.

    Attributes:
        forward: loss of a batch (net, batch, mode); may be recorded as a CUDA graph once a mode.
        prepare: (images [b, c, h, w], step) to the images of the step; steps count from 0.
        mode_of: mode of a step, from 0; all ranks must agree. After one of several batches the
            next step counts as many more.
        size_of: height and width at which the images of a step, from 0, are decoded where they are
            decoded as they are needed; None: those of the data. ``prepare`` gets them so.
        before_step: called with (step, moments by parameter name) after the test and the
            checkpoint that end an epoch; may change net and moments in place, on all ranks alike.
        after_step: called with (steps done, mode of the last); gradients are still there.
        rate: learning rate of a step, from 0; None takes the optimizer's schedule.
        attach: called with the optimizer, once, when everything is restored.
        weight_decays: weight decay of parameters, by name, that do not take the spec's.
        extras: further tensors of the method to save and, on resuming, to restore in place.
        average: of the net's weights, made by a method that changes it too; None leaves it to the
            loop.
        notes: what the method wants to read back from a checkpoint, as JSON can hold it.
        sub_run: where the training stands in a job that trains more than once.
    """

    forward: Forward = cross_entropy
    prepare: Callable[[Tensor, int], Tensor] = lambda images, _: images
    mode_of: Callable[[int], Mode] = lambda _: FULL
    size_of: Callable[[int], tuple[int, int] | None] = lambda _: None
    before_step: Callable[[int, Mapping[str, list[Tensor]]], None] = lambda *_: None
    after_step: Callable[[int, Mode], None] = lambda *_: None
    rate: Callable[[int], float] | None = None
    attach: Callable[[torch.optim.Optimizer], None] = lambda _: None
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    average: Average | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    sub_run: SubRun = ONLY
