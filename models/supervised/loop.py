"""fit(): the one supervised loop. Methods differ in the functions they pass, nothing else.

The loop is a function of (spec, data): batches, augmentation and rates depend on the step alone, so
a run resumed from a checkpoint ends, on a CPU, with the bits of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import device, ranks
from models.core.errors import DivergedError, SpecError
from models.core.graphs import GraphedStep
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.supervised import evaluate
from models.supervised.clock import StepClock
from models.supervised.spec import SupervisedSpec
from models.supervised.state import Arm, Plan, State, is_over_time, restore, save
from models.supervised.steps import (
    FULL,
    Batch,
    Forward,
    Mode,
    cross_entropy,
    learning_rate,
    make_optimizer,
    make_step,
    momentum,
)

LOG_EVERY = 20  # steps, at least; reading a loss makes the host wait for the GPU
LOGGED = 1000  # reports of the loss in a run, at most about
KEPT_EPOCHS = 5  # checkpoints at ends of epochs, at most, besides those by time


class Fitted(NamedTuple):
    """What a training came to; ``history`` has a row a test, in order."""

    scores: evaluate.Scores
    best_accuracy: float
    best_step: int
    steps: int
    ended_by: str
    history: list[dict[str, Any]]
    clock: StepClock


def fit(
    net: nn.Module,
    data: ImageData,
    spec: SupervisedSpec,
    run: Run,
    *,
    forward: Forward = cross_entropy,
    prepare: Callable[[Tensor, int], Tensor] = lambda images, _: images,
    mode_of: Callable[[int], Mode] = lambda _: FULL,
    before_step: Callable[[int, Mapping[str, Tensor]], None] = lambda *_: None,
    after_step: Callable[[int, Mode], None] = lambda *_: None,
    rate: Callable[[int], float] | None = None,
    attach: Callable[[torch.optim.SGD], None] = lambda _: None,
    decays: Mapping[str, float] = MappingProxyType({}),
    extras: Mapping[str, Tensor] = MappingProxyType({}),
    notes: Mapping[str, Any] = MappingProxyType({}),
    arm: Arm = Arm(),  # noqa: B008  # immutable
) -> Fitted:
    """Train ``net`` in place on ``data`` as ``spec`` says; report and save through ``run``.

    Args:
        net: on the run's device.
        data: on the run's device.
        spec: length, batch, optimizer, precision, budget.
        run: told of metrics, progress and checkpoints; asked about stops and resuming.
        forward: loss of a batch (net, batch, mode); may be recorded as a CUDA graph once a mode.
        prepare: (images [b, c, h, w], step) to the images of the step; steps count from 0.
        mode_of: mode of a step, from 0; all ranks must agree. After one of several batches the
            next step counts as many more.
        before_step: told of (step, momentum by parameter name) after the test and the checkpoint
            that end an epoch; may change net and momentum in place, on all ranks alike.
        after_step: told of (steps done, mode of the last); gradients are still there.
        rate: learning rate of a step, from 0, in place of the optimizer's schedule.
        attach: told of the optimizer, once, when everything is restored.
        decays: weight decay of parameters, by name, that do not take the spec's.
        extras: further tensors of the method to save and, on resuming, to restore in place.
        notes: what the method wants to read back from a checkpoint, as JSON can hold it.
        arm: place in a job that trains more than once.

    Raises:
        DivergedError: if a loss is not finite.
        SpecError: if the batch does not divide over the ranks or a checkpoint is of another net.
        StoppedError: if a stop was requested.
    """
    plan = _plan(net, data, spec, run, arm, decays, extras, notes)
    state = State(StepClock(run.device))
    if arm.keeps and run.resume is not None:
        restore(plan, state, run.resume)
    attach(plan.optimizer)
    rate = rate or (lambda step: learning_rate(spec.optimizer, step, plan.total))
    advance, moving = _stepper(plan, forward), momentum(net, plan.optimizer)
    net.train()
    while not (ended_by := _ended(plan, state)):
        started = time.perf_counter()
        before_step(state.step, moving)
        mode = mode_of(state.step)
        with state.clock.step(mode.name):
            batch = _batch(plan, state, prepare, mode.batches)
            state.rate = rate(state.step)
            # one tensor, shared by all groups
            plan.optimizer.param_groups[0]["lr"].fill_(state.rate * mode.lr_scale)
            state.losses.append((mode.batches, advance(mode, batch)))
            state.step += mode.batches
            after_step(state.step, mode)
        epoch_ends = state.step % plan.per_epoch == 0
        if epoch_ends or len(state.losses) >= max(LOG_EVERY, plan.total // LOGGED):
            _flush(plan, state)
        state.clock.seconds += time.perf_counter() - started
        _end_of_step(plan, state, epoch_ends=epoch_ends)
    last = state.history[-1]
    scores = evaluate.Scores(last["test_accuracy"], last["test_nll"], last["test_ece"])
    best = (state.best_accuracy, state.best_step)
    return Fitted(scores, *best, state.step, ended_by, state.history, state.clock)


def _plan(
    net: nn.Module,
    data: ImageData,
    spec: SupervisedSpec,
    run: Run,
    arm: Arm,
    decays: Mapping[str, float],
    extras: Mapping[str, Tensor],
    notes: Mapping[str, Any],
) -> Plan:
    device.tune(run.device)
    ranks.start(run.device)
    batch = spec.batch(len(data.train))
    if batch % ranks.size():
        raise SpecError(f"batch_size {batch} must be a multiple of the {ranks.size()} devices")
    if spec.channels_last:
        net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # a torch gap
    optimizer = make_optimizer(net, spec.optimizer, decays)
    return Plan(net, data, spec, run, arm, optimizer, extras, notes, *spec.steps(len(data.train)))


def _stepper(plan: Plan, forward: Forward) -> Callable[[Mode, Batch], Tensor]:
    """The step, as CUDA graphs where the spec and the machine allow."""
    spec, run = plan.spec, plan.run
    step = make_step(plan.net, plan.optimizer, forward, spec, run.device)
    if spec.compile == "off":
        return step
    if run.device == "cuda" and ranks.size() == 1:
        return GraphedStep(step, lambda reason: run.warn("no_cuda_graphs", reason))
    if spec.compile == "graphs":
        run.warn("no_cuda_graphs", "compile graphs needs exactly one GPU; steps run without")
    return step


def _batch(plan: Plan, state: State, prepare: Callable[[Tensor, int], Tensor], count: int) -> Batch:
    """This rank's part of the next ``count`` batches as one, on the device."""
    data, spec = plan.data, plan.spec
    epoch, place = divmod(state.step, plan.per_epoch)
    if state.order is None or place == 0:
        state.order = images.order(len(data.train), spec.seed, epoch)
    size = spec.batch(len(data.train))
    taken = state.order[place * size : (place + count) * size]
    chosen = [part[ranks.index() :: ranks.size()] for part in taken.split(size)]
    draws = [(state.step + k) * ranks.size() + ranks.index() for k in range(count)]
    x, labels = images.batches(data, chosen, spec.images.augment, spec.seed, draws)
    x = prepare(x, state.step)
    layout = torch.channels_last if spec.channels_last else torch.contiguous_format
    return Batch(x.contiguous(memory_format=layout), labels)


def _ended(plan: Plan, state: State) -> str | None:
    """Why the training is over, or None; told from the state alone."""
    budget = plan.spec.budget
    if state.step >= plan.total:
        return "steps"
    if budget.target_accuracy is not None and state.best_accuracy >= budget.target_accuracy:
        return "target_accuracy"
    return "max_seconds" if state.over_time else None


def _end_of_step(plan: Plan, state: State, *, epoch_ends: bool) -> None:
    """Test, save and stop where this is the time; the same on all ranks.

    Raises:
        StoppedError: if a stop was requested.
    """
    run = plan.run
    stop, wanted, due, state.over_time = ranks.agree(
        run.stopping, run.stop_wants_checkpoint, run.checkpoint_due(), is_over_time(plan, state)
    )
    ended = _ended(plan, state) is not None
    if epoch_ends or ended:
        _test(plan, state)
        ended = _ended(plan, state) is not None  # the test may have reached the target
    if plan.arm.keeps and (wanted or due or ended or (epoch_ends and _is_kept(plan, state))):
        _flush(plan, state)
        save(plan, state)
    if stop:
        if not run.stopping:
            run.request_stop("the first rank was asked to stop", save=wanted)
        run.check_stop()


def _flush(plan: Plan, state: State) -> None:
    """Report the losses since the last report.

    Raises:
        DivergedError: at the first loss that is not finite.
    """
    if not state.losses:
        return
    run, arm = plan.run, plan.arm
    loss, batches = _mean_loss(state)
    state.clock.collect()
    spent = state.clock.seconds - state.logged_seconds
    state.logged_seconds = state.clock.seconds
    reported = {"loss": loss, "lr": state.rate}
    if spent > 0:
        reported["images_per_s"] = batches * plan.spec.batch(len(plan.data.train)) / spent
    run.log(arm.first + state.step, **_named(arm, reported))
    _tell_progress(plan, state)


def _mean_loss(state: State) -> tuple[float, int]:
    """Mean of the losses not yet reported, over all ranks, and how many batches they are of.

    Raises:
        DivergedError: at the first that is not finite.
    """
    counts, losses = zip(*state.losses, strict=True)
    stacked = torch.stack(losses)
    ranks.average([stacked])
    state.losses.clear()
    values, batches = stacked.tolist(), sum(counts)
    step, total = state.step - batches, 0.0
    for count, value in zip(counts, values, strict=True):
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss became {value} in step {step + 1}", hint="lower optimizer.lr"
            )
        step += count
        total += count * value
        state.loss_sum += count * value
    state.loss_count += batches
    return total / batches, batches


def _tell_progress(plan: Plan, state: State) -> None:
    """At most once a second, and at the end."""
    now, arm = time.monotonic(), plan.arm
    if now - state.told_at >= 1 or state.step == plan.total:
        state.told_at = now
        plan.run.progress(
            arm.first + state.step,
            arm.total or plan.total,
            epoch=state.step // plan.per_epoch,
            phase=arm.prefix.rstrip("_") or "train",
        )


def _named(arm: Arm, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{arm.prefix}{name}": value for name, value in values.items()}


def _test(plan: Plan, state: State) -> None:
    """Test the net on all test images and add a row to the history."""
    _flush(plan, state)
    scores = test(plan.net, plan.data, plan.spec, plan.run.device)
    if scores.accuracy > state.best_accuracy:
        state.best_accuracy, state.best_step = scores.accuracy, state.step
    reported = {"test_accuracy": scores.accuracy, "test_nll": scores.nll}
    plan.run.log(plan.arm.first + state.step, **_named(plan.arm, reported))
    row = {"step": state.step, "epoch": state.step / plan.per_epoch, "lr": state.rate}
    row |= {"seconds": state.clock.seconds, "loss": state.loss_sum / max(1, state.loss_count)}
    row |= {**reported, "test_ece": scores.ece}
    state.loss_sum, state.loss_count = 0.0, 0
    state.history.append(row | {"steps": dict(state.clock.counts)})


def test(net: nn.Module, data: ImageData, spec: SupervisedSpec, on: str) -> evaluate.Scores:
    """Scores over all test images, in eval mode and the spec's precision, on every rank alike."""
    ranks.share_first(list(net.buffers()))
    with device.autocast(spec.precision, on):
        return evaluate.score(*evaluate.predict(net, images.evaluation_batches(data)))


def _is_kept(plan: Plan, state: State) -> bool:
    """Whether the present end of an epoch is one of the few that leave a checkpoint."""
    epochs = math.ceil(plan.total / plan.per_epoch)
    epoch = state.step // plan.per_epoch
    return epoch * KEPT_EPOCHS // epochs > (epoch - 1) * KEPT_EPOCHS // epochs
