"""fit(): the one supervised loop. Methods differ in their :class:`Hooks`, nothing else.

The loop is a function of (spec, data): batches, augmentation and rates depend on the step alone, so
a run resumed from a checkpoint ends, on a CPU, with the bits of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.core import device, ranks
from models.core.errors import DivergedError, SpecError
from models.core.finite import check_figures
from models.core.graphs import GraphedStep
from models.core.run import Run
from models.core.stopping import StepEnd
from models.data import images
from models.data.augment import mixed
from models.data.images import ImageData
from models.data.stored import StoredImages
from models.supervised import evaluate
from models.supervised.average import Average
from models.supervised.clock import StepClock
from models.supervised.feed import ImageFeed, Plan
from models.supervised.hooks import Hooks, SubRun
from models.supervised.spec import SupervisedSpec
from models.supervised.state import (
    FitContext,
    FitState,
    check_state,
    is_over_time,
    restore,
    save,
)
from models.supervised.steps import (
    FULL,
    Batch,
    Mode,
    learning_rate,
    make_optimizer,
    make_step,
    moments,
)

LOG_EVERY = 20  # steps, at least; reading a loss makes the host wait for the GPU
LOGGED = 1000  # reports of the loss in a run, at most about
KEPT_EPOCHS = 5  # checkpoints at ends of epochs, at most, besides those by time


class Fitted(NamedTuple):
    """What a training came to.

    Attributes:
        scores: on the test images, at the end.
        watched: part by which it was steered, ``validation`` or ``test``.
        best_accuracy: on that part.
        best_step: after which it was reached.
        steps: done.
        ended_by: ``steps``, ``target_accuracy``, ``patience`` or ``max_seconds``.
        history: a row a test of that part, in order.
        clock: times of the steps.
    """

    scores: evaluate.Scores
    watched: Literal["validation", "test"]
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
    hooks: Hooks = Hooks(),  # noqa: B008  # immutable
) -> Fitted:
    """Train ``net`` in place on ``data`` as ``spec`` says; report and save through ``run``.

    Args:
        net: on the run's device.
        data: on the run's device.
        spec: length, batch, optimizer, precision, budget.
        run: takes metrics, progress and checkpoints; knows of stops and resuming.
        hooks: what the method adds to the steps.

    Raises:
        DivergedError: if a loss is not finite.
        SpecError: if the batch does not divide over the ranks or a checkpoint is of another net.
        StoppedError: if a stop was requested.
    """
    context = _context(net, data, spec, run, hooks)
    state = FitState(StepClock(run.device))
    if hooks.sub_run.saves_checkpoints and run.resume is not None:
        restore(context, state, run.resume)
    hooks.attach(context.optimizer)
    rate = hooks.rate or (lambda step: learning_rate(spec.optimizer, step, context.total))
    advance, moving = _stepper(context), moments(net, context.optimizer)
    net.train()
    while not (ended_by := _ended(context, state)):
        started = time.perf_counter()
        hooks.before_step(state.step, moving)
        mode = hooks.mode_of(state.step)
        with state.clock.step(mode.name):
            batch = _batch(context, state, mode.batches)
            state.rate = rate(state.step)
            # one tensor, shared by all groups
            context.optimizer.param_groups[0]["lr"].fill_(state.rate * mode.lr_scale)
            state.losses.append((mode.batches, advance(mode, batch)))
            if context.average:
                context.average.update()
            state.step += mode.batches
            hooks.after_step(state.step, mode)
        epoch_ends = state.step % context.per_epoch == 0
        if epoch_ends or len(state.losses) >= max(LOG_EVERY, context.total // LOGGED):
            _flush(context, state)
        state.clock.seconds += time.perf_counter() - started
        _end_of_step(context, state, epoch_ends=epoch_ends)
    best = (state.best_accuracy, state.best_step)
    scores, watched = _final_scores(context, state), data.watched
    if context.average:
        context.average.install()
    return Fitted(scores, watched, *best, state.step, ended_by, state.history, state.clock)


def _context(
    net: nn.Module, data: ImageData, spec: SupervisedSpec, run: Run, hooks: Hooks
) -> FitContext:
    device.tune(run.device)
    ranks.start(run.device)
    batch = spec.batch(len(data.train))
    if batch % (ranks.world_size() * spec.accumulate):
        parts = f" times accumulate {spec.accumulate}" if spec.accumulate > 1 else ""
        raise SpecError(
            f"batch_size {batch} must be a multiple of the {ranks.world_size()} devices{parts}"
        )
    if spec.channels_last:
        net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # a torch gap
    optimizer = make_optimizer(net, spec.optimizer, hooks.weight_decays)
    average = hooks.average
    if average is None and spec.ema is not None:
        average = Average(net, spec.ema)
    lengths = spec.steps(len(data.train))
    plan = Plan(data, spec, hooks)
    feed = ImageFeed(data.train, plan) if isinstance(data.train, StoredImages) else None
    return FitContext(net, data, spec, run, hooks, optimizer, *lengths, average, plan, feed)


def _stepper(context: FitContext) -> Callable[[Mode, Batch], Tensor]:
    """The step, as CUDA graphs where the spec and the machine allow."""
    spec, run = context.spec, context.run
    net = ranks.parallel(context.net)
    step = make_step(net, context.optimizer, context.hooks.forward, spec, run.device)
    if spec.compile == "off":
        return step
    if run.device == "cuda":
        return GraphedStep(step, lambda reason: run.warn("no_cuda_graphs", reason))
    if spec.compile == "graphs":
        run.warn("no_cuda_graphs", "compile graphs needs a GPU; steps run without")
    return step


def _batch(context: FitContext, state: FitState, count: int) -> Batch:
    """This rank's part of the next ``count`` batches as one, on the device."""
    data, spec = context.data, context.spec
    chosen = context.plan.chosen(state.step, count)
    draws, augment = context.plan.draws(state.step, count), spec.images.augment
    pixels = context.feed.take(state.step) if context.feed else None
    x, labels = images.batches(data, chosen, augment, spec.seed, draws, pixels)
    x = context.hooks.prepare(x, state.step)
    layout = torch.channels_last if spec.channels_last else torch.contiguous_format
    if spec.label_smoothing or augment.mixes:
        labels = _smoothed(labels, len(data.classes), spec.label_smoothing)
    if augment.mixes:
        x, labels = mixed(x, labels, augment, spec.seed, draws[0])
    return Batch(x.contiguous(memory_format=layout), labels)


def _smoothed(labels: Tensor, classes: int, share: float) -> Tensor:
    """Shares [b, classes]: 1 - s of the true class and s over all alike."""
    return functional.one_hot(labels, classes) * (1 - share) + share / classes


def _ended(context: FitContext, state: FitState) -> str | None:
    """Why the training is over, or None; depends on the state alone."""
    budget = context.spec.budget
    if state.step >= context.total:
        return "steps"
    if budget.target_accuracy is not None and state.best_accuracy >= budget.target_accuracy:
        return "target_accuracy"
    if budget.patience is not None and _tests_since_best(context, state) >= budget.patience:
        return "patience"
    return "max_seconds" if state.over_time else None


def _tests_since_best(context: FitContext, state: FitState) -> int:
    """Epochs since the best accuracy.

    A test within an epoch does not count, nor one after an epoch without full steps, in which the
    statistics of batch norms may rest.
    """
    count = before = 0
    for row in state.history:
        full = row["steps"].get(FULL.name, 0)
        is_whole = row["step"] % context.per_epoch == 0
        count += row["step"] > state.best_step and is_whole and full > before
        before = full
    return count


def _end_of_step(context: FitContext, state: FitState, *, epoch_ends: bool) -> None:
    """Test, save and stop where this is the time; the same on all ranks.

    Raises:
        StoppedError: if a stop was requested.
    """
    end = StepEnd.decide(context.run, over_time=is_over_time(context, state))
    state.over_time = end.over_time
    ended = _ended(context, state) is not None
    if epoch_ends or ended:
        _test(context, state)
        ended = _ended(context, state) is not None  # the test may have reached the target
    saves = end.saves or ended or (epoch_ends and _is_kept(context, state))
    if saves and context.sub_run.saves_checkpoints:
        _flush(context, state)
        save(context, state)
    end.stop_if_requested(context.run)


def _flush(context: FitContext, state: FitState) -> None:
    """Report the losses since the last report.

    Raises:
        DivergedError: at the first loss that is not finite.
    """
    if not state.losses:
        return
    run, sub_run = context.run, context.sub_run
    loss, batches = _mean_loss(state)
    state.clock.collect()
    spent = state.clock.seconds - state.logged_seconds
    state.logged_seconds = state.clock.seconds
    reported = {"loss": loss, "lr": state.rate}
    if spent > 0:
        reported["images_per_s"] = batches * context.spec.batch(len(context.data.train)) / spent
    run.log(sub_run.step_offset + state.step, **_named(sub_run, reported))
    _report_progress(context, state)


def _mean_loss(state: FitState) -> tuple[float, int]:
    """Mean of the losses not yet reported, over all ranks, and how many batches they are of.

    Raises:
        DivergedError: at the first that is not finite.
    """
    counts, losses = zip(*state.losses, strict=True)
    stacked = torch.stack(losses)
    ranks.all_reduce_mean([stacked])
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


def _report_progress(context: FitContext, state: FitState) -> None:
    """At most once a second, and at the end."""
    now, sub_run = time.monotonic(), context.sub_run
    if now - state.progress_at >= 1 or state.step == context.total:
        state.progress_at = now
        context.run.progress(
            sub_run.step_offset + state.step,
            sub_run.total or context.total,
            epoch=state.step // context.per_epoch,
            phase=sub_run.prefix.rstrip("_") or "train",
        )


def _named(sub_run: SubRun, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{sub_run.prefix}{name}": value for name, value in values.items()}


def _test(context: FitContext, state: FitState) -> None:
    """Test the net on the part that steers the training and add a row to the history."""
    _flush(context, state)
    check_state(context, state)
    scores = _scores(context, state, context.data.watched)
    if scores.accuracy > state.best_accuracy:
        state.best_accuracy, state.best_step = scores.accuracy, state.step
    part = context.data.watched
    reported = {f"{part}_accuracy": scores.accuracy, f"{part}_nll": scores.nll}
    context.run.log(context.sub_run.step_offset + state.step, **_named(context.sub_run, reported))
    row = {"step": state.step, "epoch": state.step / context.per_epoch, "lr": state.rate}
    row |= {"seconds": state.clock.seconds, "loss": state.loss_sum / max(1, state.loss_count)}
    row |= {**reported, f"{part}_ece": scores.ece}
    state.loss_sum, state.loss_count = 0.0, 0
    state.history.append(row | {"steps": dict(state.clock.counts)})
    _say(context, row)


def _say(context: FitContext, row: Mapping[str, Any]) -> None:
    """A line of the log for each test, which comes at the end of an epoch."""
    if ranks.is_first():
        name, epochs = context.sub_run.prefix, context.total / context.per_epoch
        shown = ", ".join(
            f"{key} {x:.4g}" for key, x in row.items() if key not in ("step", "epoch")
        )
        context.run.say(f"{name}epoch {row['epoch']:.4g} of {epochs:.4g}: {shown}")


def _scores(
    context: FitContext, state: FitState, part: Literal["validation", "test"]
) -> evaluate.Scores:
    """Scores of a part.

    Raises:
        DivergedError: if one is not finite.
    """
    with context.average.installed() if context.average else nullcontext():
        scores = test(context.net, context.data, context.spec, context.run.device, part)
    check_figures(scores._asdict(), f"{part} figures after step {state.step}")
    return scores


def _final_scores(context: FitContext, state: FitState) -> evaluate.Scores:
    """Scores on the test images, which are read here for the first time if others steered."""
    last = state.history[-1]
    if context.data.watched == "test":
        return evaluate.Scores(last["test_accuracy"], last["test_nll"], last["test_ece"])
    scores = _scores(context, state, "test")
    reported = {"test_accuracy": scores.accuracy, "test_nll": scores.nll}
    context.run.log(context.sub_run.step_offset + state.step, **_named(context.sub_run, reported))
    return scores


def test(
    net: nn.Module,
    data: ImageData,
    spec: SupervisedSpec,
    on: str,
    part: Literal["validation", "test"],
) -> evaluate.Scores:
    """Scores over a part, in eval mode and the spec's precision, on every rank alike.

    Args:
        net: its mode is kept.
        data: on the device.
        spec: names the precision.
        on: torch device, ``cpu`` or ``cuda``.
        part: whose images are tested.
    """
    ranks.broadcast(list(net.buffers()))
    with device.autocast(spec.precision, on):
        return evaluate.score(*evaluate.predict(net, images.evaluation_batches(data, part=part)))


def _is_kept(context: FitContext, state: FitState) -> bool:
    """Whether the present end of an epoch is one of the few that leave a checkpoint."""
    epochs = math.ceil(context.total / context.per_epoch)
    epoch = state.step // context.per_epoch
    return epoch * KEPT_EPOCHS // epochs > (epoch - 1) * KEPT_EPOCHS // epochs
