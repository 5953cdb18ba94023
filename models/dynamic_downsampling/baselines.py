"""Plain trainings that one with cheap steps is compared with (README, comparison)."""

from models.core.run import Run
from models.dynamic_downsampling.setup import Setup
from models.supervised.hooks import Hooks, SubRun
from models.supervised.initial import initial_net
from models.supervised.loop import Fitted, fit


def train_plain(setup: Setup, run: Run) -> Fitted:
    """As many full steps as the method's run had steps; starts anew when a run is resumed in it."""
    total = len(setup.decisions)
    sub_run = SubRun("baseline_", step_offset=total, total=3 * total, saves_checkpoints=False)
    net = initial_net(setup.spec, setup.data, run).net
    return fit(net, setup.data, setup.spec, run, Hooks(sub_run=sub_run))


def train_shorter(setup: Setup, run: Run, fitted: Fitted, plain: Fitted) -> Fitted:
    """Plain training cut to the time of ``fitted``, its learning rates over that length.

    Whoever wants to save time can do this without any method. Where cheap steps saved no time,
    it is the plain run itself, which is not repeated.

    Args:
        setup: of the training with cheap steps.
        run: takes metrics and progress.
        fitted: the training with cheap steps.
        plain: plain training of as many steps.
    """
    total, steps = len(setup.decisions), equal_time_steps(fitted, plain)
    if steps >= plain.steps:
        run.progress(2 * total, 2 * total)
        return plain
    spec = setup.spec.model_copy(update={"epochs": None, "max_steps": steps})
    sub_run = SubRun("shorter_", 2 * total, total=2 * total + steps, saves_checkpoints=False)
    net = initial_net(spec, setup.data, run).net
    return fit(net, setup.data, spec, run, Hooks(sub_run=sub_run))


def equal_time_steps(fitted: Fitted, plain: Fitted) -> int:
    """Plain steps that take as long as ``fitted`` did; the first steps of each kind left out."""
    share = _steady_seconds(fitted) / _steady_seconds(plain)
    return max(1, round(plain.steps * share))


def _steady_seconds(fitted: Fitted) -> float:
    return fitted.clock.seconds - fitted.clock.warmup_seconds
