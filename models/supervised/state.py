"""State of a supervised training, and its way into a checkpoint and back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import checkpoint, origin, ranks
from models.core.errors import SpecError
from models.core.run import Run
from models.core.spec import Optimizer
from models.data.images import ImageData
from models.data.spec import Augment
from models.nets.trainable import TrainableProgram
from models.supervised.average import Average
from models.supervised.clock import StepClock
from models.supervised.feed import ImageFeed, Plan
from models.supervised.hooks import Hooks, SubRun
from models.supervised.spec import SupervisedSpec
from models.supervised.steps import optimizer_tensors

# fields of the optimizer that earlier releases did not have
ADDED = ("beta2", "decay", "clip_norm", "warmup_steps")
ADDED_CHANGES = ("resized_crop", "trivial", "erase", "mixup", "cutmix")  # likewise, of the images
# further fields that they did not have, with what they did
PLAIN: Mapping[str, Any] = {"accumulate": 1, "ema": None}


class FitContext(NamedTuple):
    """What stays the same during a training."""

    net: nn.Module
    data: ImageData
    spec: SupervisedSpec
    run: Run
    hooks: Hooks
    optimizer: torch.optim.Optimizer
    per_epoch: int
    total: int
    average: Average | None
    plan: Plan
    feed: ImageFeed | None

    @property
    def sub_run(self) -> SubRun:
        """Its place in the job."""
        return self.hooks.sub_run


@dataclass
class FitState:
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
    progress_at: float = 0.0
    over_time: bool = False


def is_over_time(context: FitContext, state: FitState) -> bool:
    limit = context.spec.budget.max_seconds
    return limit is not None and state.clock.seconds >= limit


def describe(spec: SupervisedSpec, data: ImageData, net: nn.Module) -> dict[str, Any]:
    """What a file must tell to rebuild the net and to feed it (``checkpoint.load_net``)."""
    height, width = data.size
    shown = {
        "height": height,
        "width": width,
        "channels": data.channels,
        "mean": data.mean,
        "std": data.std,
        "fit": spec.images.fit,
    }
    about = net.architecture if isinstance(net, TrainableProgram) else spec.net()
    return {"net": about, "classes": data.classes, "input": shown}


def shown(net: Mapping[str, Any]) -> dict[str, Any]:
    """A net as messages tell it: without the text of a program."""
    return {name: value for name, value in net.items() if name != "graph"}


def spec_digest(spec: SupervisedSpec) -> str:
    """SHA-256 of a spec without the checkpoint it goes on from and threads, in hex."""
    left_out: dict[str, Any] = {"resume_from": True, "threads": True, "loading": True}
    if not spec.validation:  # as of earlier releases, whose digests hold
        left_out["validation"] = True
    if not spec.label_smoothing:
        left_out["label_smoothing"] = True
    left_out |= {name: True for name in PLAIN if getattr(spec, name) == PLAIN[name]}
    plain = Augment()
    images: dict[str, Any] = {
        "augment": {
            name
            for name in ADDED_CHANGES
            if getattr(spec.images.augment, name) == getattr(plain, name)
        }
    }
    if spec.images.fit == "squash":
        images["fit"] = True
    left_out["images"] = images
    if spec.budget.patience is None:
        left_out["budget"] = {"patience"}
    usual = Optimizer()
    left_out["optimizer"] = {
        name for name in ADDED if getattr(spec.optimizer, name) == getattr(usual, name)
    }
    kept = spec.model_dump_json(exclude=left_out)
    return hashlib.sha256(kept.encode()).hexdigest()


def check_state(context: FitContext, state: FitState) -> None:
    """Refuse to go on with weights, statistics or momentum that are not finite.

    Raises:
        DivergedError: naming the first.
    """
    checkpoint.check_finite(tensors_of(context), f"the net after step {state.step}")


def tensors_of(context: FitContext) -> dict[str, Tensor]:
    """Everything that a checkpoint keeps besides random states, by name; no copies."""
    groups = {
        "net": context.net.state_dict(),
        **optimizer_tensors(context.net, context.optimizer),
        "extra": context.hooks.extras,
        "average": context.average.state() if context.average else {},
    }
    return {f"{group}.{key}": x for group, part in groups.items() for key, x in part.items()}


def save(context: FitContext, state: FitState) -> None:
    """Write a checkpoint and hand it over; the losses so far were reported, hence are finite."""
    run = context.run
    ranks.broadcast(list(context.net.buffers()))
    if not ranks.is_first():
        return
    tensors = tensors_of(context)
    name = checkpoint.name_of(state.step)
    description = describe(context.spec, context.data, context.net) | {
        "spec_sha256": spec_digest(context.spec),
        "step": state.step,
        "epoch": state.step // context.per_epoch,
        "best": {"accuracy": state.best_accuracy, "step": state.best_step},
        "history": state.history,
        "validation": context.spec.validation,
        "since_test": [state.loss_sum, state.loss_count],
        "clock": state.clock.state(),
        "notes": dict(context.hooks.notes),
        "origin": origin.describe(run),
        "source": context.plan.describe(),
    }
    tensors |= checkpoint.random_state(run.device)
    checkpoint.write(run.dir / name, tensors, description)
    run.artifact(name, role="checkpoint", step=state.step, best=state.best_step == state.step)


def restore(context: FitContext, state: FitState, path: Path) -> None:
    """Bring tensors and state to where the checkpoint was written.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it is of another net or number of processes.
    """
    tensors, saved = checkpoint.read(path)
    origin.check(saved, context.run)
    here = describe(context.spec, context.data, context.net)
    if any(saved[name] != here[name] for name in ("net", "classes")):
        raise SpecError(
            f"the checkpoint is of the net {shown(saved['net'])} with {len(saved['classes'])}"
            " classes",
            hint="ask for the same model and data, or leave resume_from out",
        )
    if saved.get("validation", 0.0) != context.spec.validation:
        raise SpecError(
            f"the checkpoint's training held out {saved.get('validation', 0.0)} of its images: give"
            " the same validation, or leave resume_from out",
            pointer="/validation",
        )
    context.plan.check(saved.get("source"))
    if saved["spec_sha256"] != spec_digest(context.spec):
        context.run.warn("resumed_with_other_spec", "the checkpoint comes from another spec")
    context.net.load_state_dict(checkpoint.part(tensors, "net"))
    kept = optimizer_tensors(context.net, context.optimizer) | {"extra": context.hooks.extras}
    kept["average"] = context.average.state() if context.average else {}
    for group, present in kept.items():
        stored = checkpoint.part(tensors, group)
        if present and not stored:
            field = "ema" if group == "average" else "optimizer.name"
            raise SpecError(
                f"the checkpoint's training kept no {group}: ask for the same {field}, or leave"
                " resume_from out",
                pointer=f"/{field.replace('.', '/')}",
            )
        for name, tensor in present.items():
            tensor.copy_(stored[name])
    checkpoint.restore_random_state(tensors, context.run.device)
    state.step, state.history = saved["step"], saved["history"]
    state.best_accuracy, state.best_step = saved["best"]["accuracy"], saved["best"]["step"]
    state.loss_sum, state.loss_count = saved["since_test"]
    state.clock.restore(saved["clock"])
    state.logged_seconds = state.clock.seconds
    state.over_time = is_over_time(context, state)
