"""The figures and files that a training with selective channels leaves."""

import csv
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from models.core import device
from models.core.run import Run
from models.data.images import ImageData
from models.nets.preactivation_spec import unit_shapes
from models.nets.selective.unit import SelectiveUnit
from models.selective_convolution import pictures
from models.selective_convolution.rounds import COLUMNS, Rounds
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.supervised import curves
from models.supervised.loop import Fitted
from models.supervised.state import spec_digest


def values(
    spec: SelectiveConvolutionTrain,
    data: ImageData,
    net: nn.Module,
    rounds: Rounds,
    fitted: Fitted,
) -> dict[str, Any]:
    """The figures that need no plain run beside the method's; the last test's come first.

    Args:
        spec: of the job.
        data: that it was trained on.
        net: after the training.
        rounds: after the training.
        fitted: what the training came to.
    """
    clock = fitted.clock
    return {
        "test_accuracy": fitted.scores.accuracy,
        "test_nll": fitted.scores.nll,
        "test_ece": fitted.scores.ece,
        f"best_{fitted.watched}_accuracy": fitted.best_accuracy,
        "best_step": fitted.best_step,
        "ended_by": fitted.ended_by,
        "train_seconds": clock.seconds,
        "warmup_seconds": clock.warmup_seconds,
        "median_step_ms": clock.median_ms("full"),
        "peak_gpu_bytes": clock.peak_bytes,
        "median_round_ms": 1000 * median(rounds.seconds) if rounds.seconds else None,
        **slots(rounds),
        **_sizes(spec, data, net, rounds),
    }


def slots(rounds: Rounds) -> dict[str, int]:
    """Slots over all units: how often closed and used again in the run, and what they are now."""
    table = dict(zip(COLUMNS, rounds.record.sum((0, 1)).tolist(), strict=True))
    return {
        "rounds": int(rounds.done),
        "slots": rounds.slots,
        "closed": int(table["closed_now"]),
        "reallocated": int(table["reallocated_now"]),
        "open_at_the_end": sum(int(unit.gate.sum()) for unit in rounds.units.values()),
        "copies_at_the_end": sum(
            int((unit.source >= 0).sum())
            for unit in rounds.units.values()
            if isinstance(unit, SelectiveUnit)
        ),
    }


def _sizes(
    spec: SelectiveConvolutionTrain, data: ImageData, net: nn.Module, rounds: Rounds
) -> dict[str, int]:
    """Numbers stored and numbers that matter; operations of the whole net and of open slots."""
    shapes = unit_shapes(spec.model, data.channels, *data.size)
    parts = {
        shape.name: unit.gate.mean().item() if (unit := rounds.units.get(shape.name)) else 1.0
        for shape in shapes
    }
    stored = sum(parameter.numel() for parameter in net.parameters())
    shifts = sum(p.numel() for name, p in net.named_parameters() if name.endswith(".shift"))
    return {
        "parameters": stored,
        "plain_parameters": stored - shifts,
        "shifts_in_use": 2 * slots(rounds)["copies_at_the_end"],
        "convolution_weights": sum(shape.weights for shape in shapes),
        "effective_weights": round(sum(shape.weights * parts[shape.name] for shape in shapes)),
        "forward_macs": sum(shape.macs for shape in shapes),
        "effective_macs": round(sum(shape.macs * parts[shape.name] for shape in shapes)),
    }


def comparison(fitted: Fitted, plain: Fitted) -> dict[str, Any]:
    """The plain run beside the method's; seconds leave out tests and checkpoints."""
    return {
        "baseline_test_accuracy": plain.scores.accuracy,
        "baseline_test_nll": plain.scores.nll,
        "baseline_train_seconds": plain.clock.seconds,
        "baseline_median_step_ms": plain.clock.median_ms("full"),
        "accuracy_change": fitted.scores.accuracy - plain.scores.accuracy,
        "time_ratio": fitted.clock.seconds / plain.clock.seconds,
    }


def write(
    spec: SelectiveConvolutionTrain,
    data: ImageData,
    rounds: Rounds,
    arms: Mapping[str, Fitted],
    figures: Mapping[str, Any],
    run: Run,
) -> None:
    """Leave report, tables and pictures as artifacts of the run.

    Args:
        spec: of the job.
        data: that it was trained on.
        rounds: after the training.
        arms: the training, then the plain one if there was one, by their names in the picture.
        figures: of the result.
        run: takes the files.
    """
    contents = {
        "result": figures,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec_digest(spec),
        "device": device.describe(run.device),
        "units": [s._asdict() for s in unit_shapes(spec.model, data.channels, *data.size)],
    }
    run.report("report.json", contents)
    history = next(iter(arms.values())).history
    rows = [{name: x for name, x in row.items() if name != "steps"} for row in history]
    _table(run, "history.csv", list(rows[0]), [list(row.values()) for row in rows])
    histories = {name: arm.history for name, arm in arms.items()}
    title = curves.finding(str(spec.model.name), spec.data.dataset, histories)
    curves.draw(run.dir / "curves.png", histories, title)
    run.figure("curves.png", data=True)
    if rounds.units:
        _allocation(spec, rounds, run)


def _allocation(spec: SelectiveConvolutionTrain, rounds: Rounds, run: Run) -> None:
    """What became of the slots: a table of rounds, the arrays of each unit, a picture."""
    record = rounds.record[: int(rounds.done)]
    rows = [
        [number, name, *values]
        for number, round_ in enumerate(record.tolist(), 1)
        for name, values in zip(rounds.units, round_, strict=True)
    ]
    _table(run, "allocation.csv", ["round", "unit", *COLUMNS], rows)
    arrays = {
        f"{name}.{part}": x.cpu().numpy()
        for name, unit in rounds.units.items()
        for part, x in unit.state_dict().items()
        if part in ("gate", "source", "shift")
    }
    np.savez(run.dir / "allocation.npz", allow_pickle=False, **arrays)
    run.artifact("allocation.npz", role="table")
    named = f"{spec.model.name} on {spec.data.dataset}, threshold {spec.selective.threshold:g}"
    pictures.draw(run.dir / "allocation.png", rounds.units, record.numpy(), named)
    run.figure("allocation.png")


def _table(run: Run, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with (run.dir / name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)
    run.artifact(name, role="table")
