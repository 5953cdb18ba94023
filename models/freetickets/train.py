"""FreeTickets: ensembles from dynamic sparse training (Liu et al., arXiv 2106.14568).

All variants are one training of phases, so one loop, one progress and one way to resume serve them.
"""

import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from models.core import device, ranks
from models.core.errors import SpecError
from models.core.run import Run
from models.data.images import ImageData
from models.freetickets import layers, report
from models.freetickets.spec import IN_MEMORY, FreeTicketsTrain
from models.freetickets.timetable import Phase, Update, phase_at, refined
from models.freetickets.topology import Topology, UpdateStats
from models.freetickets.training import CHANGE_COLUMNS, Training
from models.nets import tickets
from models.nets.build import build_net
from models.nets.library_spec import GivenNet
from models.nets.tickets import Form
from models.supervised import source
from models.supervised.average import Average
from models.supervised.hooks import Hooks, SubRun
from models.supervised.initial import Initial, admit, given_net, in_safe_order
from models.supervised.loop import Fitted, fit
from models.supervised.steps import FULL, Batch, Mode, cross_entropy, learning_rate

CHANGING = Mode("update")  # a step whose gradients stay dense, since the masks change after it


def train(spec: FreeTicketsTrain, run: Run) -> None:
    """Train as the spec says; leave tickets, ensemble, report and pictures.

    Raises:
        SpecError: if phases or interval do not fit the data.
        DataError: if the data or the checkpoint to go on from cannot be used.
        DivergedError: if a loss is not finite.
        StoppedError: if a stop was requested.
    """
    ranks.start(run.device)
    data = source.load(spec, run)
    if data.digest and spec.evaluate.corruptions:
        raise SpecError(IN_MEMORY, pointer="/evaluate/corruptions")
    training = prepare(spec, data, run)
    fitted = fit_tickets(training)
    if ranks.is_first():
        report.finish(training, fitted)


def prepare(spec: FreeTicketsTrain, data: ImageData, run: Run) -> Training:
    """Net, masks and timetable of a job.

    Raises:
        SpecError: if phases or interval do not fit the data.
    """
    device.seed_all(spec.seed)
    per_epoch, _ = spec.steps(len(data.train))
    plan = spec.phases(per_epoch)
    spec.check_interval(plan)
    initial = new_net(spec, data, run, 0)
    net = initial.net.to(run.device)
    if isinstance(spec.model, GivenNet):
        admit(initial, spec.model, data, run)
    spec = in_safe_order(spec, net, data, run)
    if spec.channels_last:  # before the masks, which then lie in memory as the weights do
        net.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]  # a torch gap
    found = layers.find(net, spec, data)
    topology = Topology(net, found.layers, spec)
    topology.draw(0)
    if spec.ema is not None:
        topology.average = Average(net, spec.ema)
    shapes = {name: tuple(mask.shape) for name, mask in topology.named_masks().items()}
    form = Form(shapes, sum(topology.active.values()))
    kept = [tickets.empty(net, form) for _ in range(spec.tickets)]
    updates = spec.updates(plan)
    change_rows = torch.zeros(len(updates) + spec.tickets, len(CHANGE_COLUMNS), dtype=torch.float64)
    training = Training(spec, data, run, net, topology, form, plan, updates, kept, change_rows)
    training.unmasked, training.fresh = found.unmasked, initial.fresh
    return training


def new_net(spec: FreeTicketsTrain, data: ImageData, run: Run, member: int) -> Initial:
    """The plain net with the initial weights of a member, on the CPU.

    Members that start from weights of a file share them, but for a new classifier.

    Raises:
        DataError: if the weights do not fit the net.
    """
    with torch.random.fork_rng(devices=[]):
        key = device.generator(spec.seed, "weights", member)
        device.seed_all(int(torch.randint(2**62, (), generator=key)))
        if isinstance(spec.model, GivenNet):
            return given_net(spec.model, data, run)
        return Initial(build_net(spec.model.model_dump(), len(data.classes), data.channels), [])


def fit_tickets(training: Training) -> Fitted:
    """The supervised loop over all phases."""
    spec, topology = training.spec, training.topology
    starts = {phase.start: phase for phase in training.plan[1:]}
    changing = set(training.updates) | _escapes(training)

    def begin(x: Tensor, step: int) -> Tensor:
        if step in starts:
            _begin_phase(training, starts[step])
        return x

    def mode_of(step: int) -> Mode:
        return CHANGING if step + 1 in changing else FULL

    def forward(net: nn.Module, batch: Batch, mode: Mode) -> Tensor:
        topology.dense_gradients = mode is CHANGING
        return cross_entropy(net, batch)

    def after_step(done: int, _: Mode) -> None:
        if done in training.updates:
            _change(training, done, training.updates[done])
        if done in training.ends:
            _end_phase(training, done)

    hooks = Hooks(
        forward=forward,
        prepare=begin,
        mode_of=mode_of,
        after_step=after_step,
        rate=lambda step: rate(spec, training.plan, step),
        attach=topology.attach,
        extras=training.extras(),
        average=topology.average,
        sub_run=SubRun(total=training.whole),
    )
    return fit(training.net, training.data, spec, training.run, hooks)


def rate(spec: FreeTicketsTrain, plan: list[Phase], step: int) -> float:
    """Learning rate of a step, from 0: the table of EDST, or the optimizer's own in each phase."""
    phase = phase_at(plan, step)
    if phase.name == "refine":
        return spec.optimizer.lr * refined(spec.rates, phase, step)
    constant = spec.optimizer.model_copy(update={"schedule": "constant"})
    optimizer = constant if phase.name == "explore" else spec.optimizer
    return learning_rate(optimizer, step - phase.start, phase.length)


def _escapes(training: Training) -> set[int]:
    """Steps done at the ends of refinements that another one follows."""
    if training.spec.variant != "edst":
        return set()
    return {phase.stop for phase in training.plan[1:-1]}


def _change(training: Training, done: int, update: Update) -> None:
    started = _now(training.run)
    stats = training.topology.update(update.rate, update.number)
    _record_change(training, done, stats, 1000 * (_now(training.run) - started), is_escape=False)


def _record_change(
    training: Training, done: int, stats: UpdateStats, ms: float, *, is_escape: bool
) -> None:
    row = int((training.change_rows[:, 0] > 0).sum())
    numbers = [done, float(is_escape), stats.rate, stats.dropped, stats.regrown]
    training.change_ms.append(ms)
    training.change_rows[row] = torch.tensor(numbers, dtype=torch.float64)
    share = stats.regrown / stats.dropped if stats.dropped else 0.0
    explored = training.topology.explored()
    training.run.log(done, prune_rate=stats.rate, regrown=share, explored=explored)


def _now(run: Run) -> float:
    """Seconds of a clock, once the device has done what it was asked to."""
    if run.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _end_phase(training: Training, done: int) -> None:
    """Keep the ticket; choose the masks of an escape while the gradients are there."""
    phase, topology = training.ends[done], training.topology
    if phase.ticket is not None:
        ranks.broadcast(list(training.net.buffers()))
        topology.apply()
        kept, average = training.kept[phase.ticket], topology.average
        with average.installed() if average else nullcontext():
            tickets.keep(training.net, topology.named_masks(), training.form, kept)
        if ranks.is_first():
            training.leave_ticket(phase.ticket, done)
    if done in _escapes(training):
        started = _now(training.run)
        stats = topology.plan_escape(phase.ticket or 0)
        _record_change(training, done, stats, 1000 * (_now(training.run) - started), is_escape=True)


def _begin_phase(training: Training, phase: Phase) -> None:
    """Before the first step of a further phase: escape, start anew, or go on (snapshot).

    An average begins anew: a ticket is one of its own phase.
    """
    if training.spec.variant == "edst":
        if phase.ticket:  # after the exploration the same net is refined
            training.topology.escape()
    elif training.spec.restarts and phase.ticket is not None:
        fresh = new_net(training.spec, training.data, training.run, phase.ticket).net
        training.net.load_state_dict(fresh.state_dict())
        training.topology.forget()
        training.topology.draw(phase.ticket)
    if training.topology.average:
        training.topology.average.restart()
