"""The figures that a training with cheap steps leaves: result, ``report.json``, ``history.csv``."""

import csv
import math
from typing import Any

from models.core import device
from models.core.run import Run
from models.data import images
from models.dynamic_downsampling import schedule
from models.dynamic_downsampling.setup import Setup
from models.supervised import curves
from models.supervised.clock import StepClock
from models.supervised.evaluate import Scores, predict, score
from models.supervised.loop import Fitted
from models.supervised.state import spec_digest
from models.supervised.steps import FULL


def values(setup: Setup, fitted: Fitted, scores: Scores) -> dict[str, Any]:
    """The figures that need no plain run beside the method's.

    Args:
        setup: of the training.
        fitted: what the training came to.
        scores: of the final net, after any re-estimation of batch-norm statistics.
    """
    figures = {
        "test_accuracy": scores.accuracy,
        "test_nll": scores.nll,
        "test_ece": scores.ece,
        "test_accuracy_as_trained": fitted.scores.accuracy,
        **_best(fitted, scores),
        "ended_by": fitted.ended_by,
        "decisions_sha256": schedule.digest(setup.decisions),
        **_speed(setup, fitted),
    }
    if setup.spec.downsample.bn_mode == "split":
        figures["cheap_test_accuracy"] = _cheap_scores(setup).accuracy
    return figures


def _best(fitted: Fitted, scores: Scores) -> dict[str, float | int]:
    """Of the tests that steered the training; that of the final net is one, if of the same part."""
    best = fitted.best_accuracy
    if fitted.watched == "test":
        best = max(best, scores.accuracy)
    return {f"best_{fitted.watched}_accuracy": best, "best_step": fitted.best_step}


def _speed(setup: Setup, fitted: Fitted) -> dict[str, Any]:
    """Steps, times and operations by mode, and the saving that they predict: p (1 - r).

    p is the share of batches in cheap steps, r a cheap batch's cost over a full one's.
    """
    clock, modes = fitted.clock, [FULL, *setup.cheap_modes()]
    ms = {mode.name: clock.median_ms(mode.name) for mode in modes}
    ratios = ratios_of(setup, clock, setup.decisions[: fitted.steps])
    per_ms = 1000 * setup.spec.batch(len(setup.data.train))
    speeds = [x.batches * per_ms / t if (t := ms[x.name]) else None for x in modes]
    costs = setup.costs()
    macs = [each.cheap_macs for each in costs]
    return {
        "steps": {mode.name: clock.counts.get(mode.name, 0) for mode in modes},
        "median_step_ms": ms,
        "images_per_s": dict(zip(ms, speeds, strict=True)),
        "train_seconds": clock.seconds,
        "warmup_seconds": clock.warmup_seconds,
        "peak_gpu_bytes": clock.peak_bytes,
        "forward_macs": dict(zip(ms, [costs[0].full_macs, *macs], strict=True)),
        **ratios,
    }


def ratios_of(setup: Setup, clock: StepClock, decisions: bytes) -> dict[str, float | None]:
    """Mean cost r of a cheap batch by operations and by the clock, and the saving of both.

    Args:
        setup: of the training.
        clock: has timed the modes; r is None before each has a sample.
        decisions: whose cheap batches count.
    """
    shares = [decisions.count(1 + k) / len(decisions) for k in range(len(setup.sizes))]
    full = clock.median_ms(FULL.name)
    cheap = [(clock.median_ms(mode.name), mode.batches) for mode in setup.cheap_modes()]
    timed = [ms / full / count if ms and full else math.nan for ms, count in cheap]
    figures: dict[str, float | None] = {}
    for name, predicted, ratios in (
        ("flop_ratio", "predicted_saving", [costs.ratio for costs in setup.costs()]),
        ("measured_ratio", "predicted_saving_measured_ratio", timed),
    ):
        ratio = schedule.mean_ratio(ratios, shares)
        figures[name] = None if math.isnan(ratio) else ratio
        figures[predicted] = None if math.isnan(ratio) else sum(shares) * (1 - ratio)
    return figures


def _cheap_scores(setup: Setup) -> Scores:
    """Scores of the cheap mode itself, which has statistics of its own under ``split``."""
    pairs = images.evaluation_batches(setup.data)
    batches = ((setup.small(x), labels) for x, labels in pairs)
    with setup.mode.cheap(), device.autocast(setup.spec.precision, setup.device):
        return score(*predict(setup.net, batches))


def comparison(fitted: Fitted, scores: Scores, plain: Fitted, shorter: Fitted) -> dict[str, Any]:
    """The plain runs beside the method's; seconds leave out tests and checkpoints.

    Args:
        fitted: with cheap steps.
        scores: of its final net.
        plain: of as many steps.
        shorter: plain, cut to the time of ``fitted``.
    """
    return {
        "baseline_test_accuracy": plain.scores.accuracy,
        "baseline_test_nll": plain.scores.nll,
        "baseline_train_seconds": plain.clock.seconds,
        "baseline_warmup_seconds": plain.clock.warmup_seconds,
        "baseline_median_step_ms": plain.clock.median_ms("full"),
        "saving": 1 - fitted.clock.seconds / plain.clock.seconds,
        "accuracy_change": scores.accuracy - plain.scores.accuracy,
        "shorter_steps": shorter.steps,
        "shorter_test_accuracy": shorter.scores.accuracy,
        "shorter_test_nll": shorter.scores.nll,
        "shorter_train_seconds": shorter.clock.seconds,
        "gain_over_shorter": scores.accuracy - shorter.scores.accuracy,
    }


def write(setup: Setup, arms: dict[str, Fitted], figures: dict[str, Any], run: Run) -> None:
    """Leave ``report.json``, ``history.csv`` and ``curves.png`` as artifacts of the run.

    Args:
        setup: of the training with cheap steps.
        arms: that training, then plain ones if there were any, by their names in the picture.
        figures: of the result.
        run: takes the files.
    """
    contents = {
        "result": figures,
        "spec": setup.spec.model_dump(mode="json"),
        "spec_sha256": spec_digest(setup.spec),
        "device": device.describe(run.device),
        "layers": [layer._asdict() for layer in setup.layers],
        "cheap_sizes": [list(size) for size in setup.sizes],
        "fresh_parameters": setup.fresh,
    }
    run.report("report.json", contents)
    rows = _rows(setup, next(iter(arms.values())))
    with (run.dir / "history.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    run.artifact("history.csv", role="table")
    model, data = setup.spec.model, setup.spec.data.dataset
    histories = {name: arm.history for name, arm in arms.items()}
    curves.draw(run.dir / "curves.png", histories, curves.finding(str(model.name), data, histories))
    run.figure("curves.png", data=True)


def _rows(setup: Setup, fitted: Fitted) -> list[dict[str, float | int]]:
    """The history with the steps of each mode and the operations until then."""
    costs, batch = setup.costs(), setup.spec.batch(len(setup.data.train))
    pairs = zip(setup.cheap_modes(), costs, strict=True)
    modes = [(mode.name, mode.batches * each.cheap_macs) for mode, each in pairs]
    rows = []
    for row in fitted.history:
        taken, full = row["steps"], row["steps"].get(FULL.name, 0)
        macs = full * costs[0].full_macs + sum(taken.get(name, 0) * x for name, x in modes)
        cheap = sum(taken.get(name, 0) for name, _ in modes)
        counts = {"full_steps": full, "cheap_steps": cheap, "forward_gmacs": macs * batch / 1e9}
        rows.append({name: x for name, x in row.items() if name != "steps"} | counts)
    return rows
