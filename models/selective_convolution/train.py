"""Training with selective allocation of channels (Jeong and Shin, ICML 2019)."""

from typing import Any

from torch import nn

from models.core import checkpoint, device, ranks
from models.core.run import Run
from models.data.images import ImageData
from models.nets.build import build_net
from models.nets.selective.portable import portable
from models.nets.selective.unit import SelectiveUnit
from models.selective_convolution import report
from models.selective_convolution.export import compact
from models.selective_convolution.rounds import Rounds
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.supervised import card, outputs, source
from models.supervised.assess import assess
from models.supervised.hooks import Hooks, SubRun
from models.supervised.loop import Fitted, fit, test

EXPORT = "export.safetensors"


def train(spec: SelectiveConvolutionTrain, run: Run) -> None:
    """Train as the spec says, then a plain net beside it when asked; leave weights and report.

    Raises:
        SpecError: if the run would have no round of allocation.
        DataError: if the data or the checkpoint to go on from cannot be used.
        DivergedError: if a loss is not finite.
        StoppedError: if a stop was requested.
    """
    ranks.start(run.device)
    if spec.channels_last is None:  # the order that the loops, or the programs, read
        spec = spec.model_copy(update={"channels_last": run.device == "cuda"})
    data = source.load(spec, run)
    spec.check_rounds(len(data.train))
    net = new_net(spec, data, run.device)
    _, total = spec.steps(len(data.train))
    whole = 2 * total if spec.compare_with_plain else None
    rounds, fitted = fit_selective(net, spec, data, run, SubRun(total=whole))
    figures = report.values(spec, data, net, rounds, fitted)
    if ranks.is_first():
        figures |= assess(net, data, spec, run)
        portable = portable_of(net, spec, data) if rounds.units else None
        figures |= outputs.leave(net, spec, data, run, figures, fitted.steps, portable)
    if spec.export != "none":
        figures |= _export(net, spec, data, run)
    arms = {"selective" if spec.selective.enabled else "plain": fitted}
    if spec.compare_with_plain:  # starts anew when a run is resumed in it
        sub_run = SubRun("baseline_", total, total=whole, saves_checkpoints=False)
        baseline = plain_net(spec, data, run.device)
        plain = fit(baseline, data, spec, run, Hooks(sub_run=sub_run))
        figures |= report.comparison(fitted, plain)
        arms["plain, same seed"] = plain
    if ranks.is_first():
        report.write(spec, data, rounds, arms, figures, run)
        run.result(**figures)


def new_net(spec: SelectiveConvolutionTrain, data: ImageData, on: str) -> nn.Module:
    """The net with the initial weights of the seed, on the device."""
    device.seed_all(spec.seed)
    return build_net(spec.net(), len(data.classes), data.channels).to(on)


def plain_net(spec: SelectiveConvolutionTrain, data: ImageData, on: str) -> nn.Module:
    """The plain net with the same initial weights."""
    device.seed_all(spec.seed)
    return build_net(spec.model.model_dump(), len(data.classes), data.channels).to(on)


def fit_selective(
    net: nn.Module, spec: SelectiveConvolutionTrain, data: ImageData, run: Run, sub_run: SubRun
) -> tuple[Rounds, Fitted]:
    """The supervised loop, with rounds of allocation between epochs.

    Args:
        net: on the device of the run.
        spec: of the job.
        data: on that device.
        run: takes metrics, progress and checkpoints.
        sub_run: place of the training in the job.
    """
    rounds = Rounds(spec, net, len(data.train), run)
    shifts = [name for name, _ in net.named_parameters() if name.endswith(".shift")]
    hooks = Hooks(
        before_step=rounds.before_step,
        weight_decays=dict.fromkeys(shifts, spec.selective.shift_weight_decay),
        extras=rounds.extras(),
        sub_run=sub_run,
    )
    fitted = fit(net, data, spec, run, hooks)
    reuses = spec.selective.opens and any(
        isinstance(unit, SelectiveUnit) for unit in rounds.units.values()
    )
    if rounds.units and not report.slots(rounds)["reallocated" if reuses else "closed"]:
        run.warn(
            "nothing_reallocated",
            "no slot was closed and used again, so this was the training of a plain net or of a"
            " pruned one: raise selective.threshold, the width of the net or the number of epochs",
        )
    return rounds, fitted


def portable_of(net: nn.Module, spec: SelectiveConvolutionTrain, data: ImageData) -> nn.Module:
    """The trained net without closed slots, in operations that other programs have."""
    small, _ = compact(net, spec.model, len(data.classes), data.channels, whole=False)
    return portable(small)


def _export(
    net: nn.Module, spec: SelectiveConvolutionTrain, data: ImageData, run: Run
) -> dict[str, Any]:
    """Leave the net for inference as an artifact; its figures."""
    whole = spec.export == "integer_shift"
    small, units = compact(net, spec.model, len(data.classes), data.channels, whole=whole)
    scores = test(small, data, spec, run.device, "test")
    if ranks.is_first():
        figures = {"test_accuracy": scores.accuracy, "test_nll": scores.nll}
        description = card.make(spec, data, net, run.device, outputs.figures_of(figures))
        description["net"] = spec.model.model_dump() | {"units": units.model_dump()}
        checkpoint.write(run.dir / EXPORT, small.state_dict(), description)
        run.artifact(EXPORT, role="weights", form=spec.export)
    return {"export_test_accuracy": scores.accuracy, "export_test_nll": scores.nll}
