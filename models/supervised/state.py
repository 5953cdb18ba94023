"""State of a supervised training, and its way into a checkpoint and back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import checkpoint, ranks
from models.core.errors import SpecError
from models.core.run import Run
from models.data.images import ImageData
from models.supervised.clock import StepClock
from models.supervised.spec import SupervisedSpec
from models.supervised.steps import momentum


class Arm(NamedTuple):
    """Place of a training in its job, where a job trains more than once.

    Attributes:
        prefix: of its metrics.
        first: steps of the job before it.
        total: steps of the whole job; None when there is nothing else.
        keeps: whether it resumes and leaves checkpoints.
    """

    prefix: str = ""
    first: int = 0
    total: int | None = None
    keeps: bool = True


class Plan(NamedTuple):
    """What stays the same during a training."""

    net: nn.Module
    data: ImageData
    spec: SupervisedSpec
    run: Run
    arm: Arm
    optimizer: torch.optim.SGD
    extras: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    per_epoch: int
    total: int


@dataclass
class State:
    """All that changes during a training besides tensors.

    ``step`` counts batches: a step of several counts as many.
    """

    clock: StepClock
    step: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[tuple[int, Tensor]] = field(default_factory=list)  # batches; not yet reported
    loss_sum: float = 0.0  # of the reported losses of batches since the last test
    loss_count: int = 0
    rate: float = 0.0
    logged_seconds: float = 0.0
    told_at: float = 0.0
    over_time: bool = False
    order: Tensor | None = None  # of the images in the present epoch


def is_over_time(plan: Plan, state: State) -> bool:
    limit = plan.spec.budget.max_seconds
    return limit is not None and state.clock.seconds >= limit


def describe(spec: SupervisedSpec, data: ImageData) -> dict[str, Any]:
    """What a file must tell to rebuild the net and to feed it (``checkpoint.load_net``)."""
    height, width = data.size
    shown = {
        "height": height,
        "width": width,
        "channels": data.channels,
        "mean": data.mean,
        "std": data.std,
    }
    return {"net": spec.net(), "classes": data.classes, "input": shown}


def spec_digest(spec: SupervisedSpec) -> str:
    """SHA-256 of a spec without the checkpoint it goes on from, in hex."""
    return hashlib.sha256(spec.model_dump_json(exclude={"resume_from"}).encode()).hexdigest()


def save(plan: Plan, state: State) -> None:
    """Write a checkpoint and hand it over; the losses so far were reported, hence are finite."""
    net, run = plan.net, plan.run
    ranks.share_first(list(net.buffers()))
    if not ranks.is_first():
        return
    groups = {
        "net": net.state_dict(),
        "momentum": momentum(net, plan.optimizer),
        "extra": plan.extras,
    }
    tensors = {f"{group}.{key}": x for group, part in groups.items() for key, x in part.items()}
    name = checkpoint.name_of(state.step)
    description = describe(plan.spec, plan.data) | {
        "spec_sha256": spec_digest(plan.spec),
        "step": state.step,
        "epoch": state.step // plan.per_epoch,
        "best": {"accuracy": state.best_accuracy, "step": state.best_step},
        "history": state.history,
        "since_test": [state.loss_sum, state.loss_count],
        "clock": state.clock.state(),
        "notes": dict(plan.notes),
    }
    tensors |= checkpoint.random_state(run.device)
    checkpoint.write(run.dir / name, tensors, description)
    run.artifact(name, role="checkpoint", step=state.step, best=state.best_step == state.step)


def restore(plan: Plan, state: State, path: Path) -> None:
    """Bring tensors and state to where the checkpoint was written.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it is of another net.
    """
    tensors, saved = checkpoint.read(path)
    if saved["net"] != plan.spec.net() or saved["classes"] != plan.data.classes:
        raise SpecError(
            f"the checkpoint is of the net {saved['net']} with {len(saved['classes'])} classes",
            hint="ask for the same model and data, or leave resume_from out",
        )
    if saved["spec_sha256"] != spec_digest(plan.spec):
        plan.run.warn("resumed_with_other_spec", "the checkpoint comes from another spec")
    plan.net.load_state_dict(checkpoint.part(tensors, "net"))
    kept = {"momentum": momentum(plan.net, plan.optimizer), "extra": plan.extras}
    for group, present in kept.items():
        found = checkpoint.part(tensors, group)
        for name, tensor in present.items():
            tensor.copy_(found[name])
    checkpoint.restore_random_state(tensors, plan.run.device)
    state.step, state.history = saved["step"], saved["history"]
    state.best_accuracy, state.best_step = saved["best"]["accuracy"], saved["best"]["step"]
    state.loss_sum, state.loss_count = saved["since_test"]
    state.clock.restore(saved["clock"])
    state.logged_seconds = state.clock.seconds
    state.over_time = is_over_time(plan, state)
