"""Training with dynamic input and kernel downsampling (Poulos et al., arXiv 1910.06548)."""

from collections.abc import Callable, Iterator
from itertools import accumulate

from torch import Tensor, nn

from models.core import device, ranks
from models.core.run import Run
from models.data import images, order
from models.dynamic_downsampling import baselines, gradients, report
from models.dynamic_downsampling.norms import reestimate
from models.dynamic_downsampling.setup import Setup, prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.supervised import outputs, source
from models.supervised.assess import assess
from models.supervised.evaluate import Scores
from models.supervised.hooks import Hooks, SubRun
from models.supervised.loop import Fitted, fit, test
from models.supervised.steps import FULL, Batch, Mode, cross_entropy, learning_rate


def train(spec: DynamicDownsamplingTrain, run: Run) -> None:
    """Train as the spec says, then plain nets beside it when asked; leave weights and report.

    Raises:
        SpecError: if the data or the net cannot be downsampled as asked.
        DataError: if the data or the checkpoint to go on from cannot be used.
        DivergedError: if a loss is not finite.
        StoppedError: if a stop was requested.
    """
    ranks.start(run.device)
    data = source.load(spec, run)
    setup = prepare(spec, data, run)
    total = 3 * len(setup.decisions) if spec.compare_baseline else None  # at most
    fitted = fit_cheap(setup, run, SubRun(total=total))
    scores = finish(setup, fitted)
    values = report.values(setup, fitted, scores)
    if ranks.is_first():
        values |= assess(setup.net, data, spec, run)
        values |= outputs.leave(setup.net, spec, data, run, values, fitted.steps)
    arms = {"some steps cheap": fitted}
    if spec.compare_baseline:
        plain = baselines.train_plain(setup, run)
        shorter = baselines.train_shorter(setup, run, fitted, plain)
        values |= report.comparison(fitted, scores, plain, shorter)
        arms |= {"plain": plain, "plain, cut to equal time": shorter}
    if ranks.is_first():
        report.write(setup, arms, values, run)
        run.result(**values)


def fit_cheap(setup: Setup, run: Run, sub_run: SubRun) -> Fitted:
    """The supervised loop, with cheap steps where the schedule wants them."""
    down, matcher = setup.spec.downsample, setup.matcher
    modes = [FULL, *setup.cheap_modes()]
    probes = _probe_steps(down.gradient_probes, setup.decisions)

    def forward(net: nn.Module, batch: Batch, mode: Mode) -> Tensor:
        if matcher:
            matcher.prepare(cheap=mode is not FULL)
        if mode is FULL:
            return cross_entropy(net, batch)
        with setup.mode.cheap():
            return cross_entropy(net, batch)

    def after_step(done: int, mode: Mode) -> None:
        if matcher:
            matcher.update(cheap=mode is not FULL)
        if probes.intersection(range(done - mode.batches + 1, done + 1)):
            cosine, ratio = gradients.agreement(setup)
            run.log(done, gradient_cosine=cosine, gradient_norm_ratio=ratio)

    hooks = Hooks(
        forward=forward,
        prepare=lambda x, step: setup.small(x, step) if setup.decisions[step] else x,
        mode_of=lambda step: modes[setup.decisions[step]],
        size_of=setup.decoded_size,
        after_step=after_step,
        rate=rate_over_operations(setup) if down.rate_over == "operations" else None,
        extras=setup.extras(),
        notes={"slow_layers": setup.slow_layers()},
        sub_run=sub_run,
    )
    return fit(setup.net, setup.data, setup.spec, run, hooks)


def rate_over_operations(setup: Setup) -> Callable[[int], float]:
    """Learning rate of each step: its schedule at the share of all operations done before.

    With cheap steps first, a schedule over steps is nearly over when the full ones begin. A cheap
    step counts r, its operations over those of a full one; without cheap steps nothing changes.
    """
    total = len(setup.decisions)
    costs = [1.0, *(each.ratio for each in setup.costs())]
    before = list(accumulate((costs[kind] for kind in setup.decisions), initial=0.0))
    scale = total / before[-1]
    return lambda step: learning_rate(setup.spec.optimizer, before[step] * scale, total)


def _probe_steps(probes: int, decisions: bytes) -> set[int]:
    """Steps after which gradients are compared, evenly spread; none without cheap steps."""
    if not any(decisions):
        return set()
    return {max(1, len(decisions) * k // probes) for k in range(1, probes + 1)}


def finish(setup: Setup, fitted: Fitted) -> Scores:
    """Scores of the final net, after batch-norm statistics were estimated anew if asked."""
    if setup.spec.downsample.reestimate_batches == 0:
        return fitted.scores
    with device.autocast(setup.spec.precision, setup.device):
        reestimate(setup.net, _full_batches(setup, fitted.steps))
    return test(setup.net, setup.data, setup.spec, setup.device, "test")


def _full_batches(setup: Setup, steps: int) -> Iterator[Tensor]:
    """Training batches at full size, augmented, as if training went on."""
    spec, data = setup.spec, setup.data
    size, (per_epoch, _) = spec.batch(len(data.train)), spec.steps(len(data.train))
    for step in range(steps, steps + spec.downsample.reestimate_batches):
        epoch, index = divmod(step, per_epoch)
        ends = index * size, (index + 1) * size
        chosen = order.chosen(len(data.train), spec.seed, epoch, *ends)
        yield images.batch(data, chosen, spec.images.augment, spec.seed, step)[0]
