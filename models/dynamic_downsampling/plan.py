"""What a training with cheap steps would save, from a few timed steps (README, plan)."""

from dataclasses import replace
from itertools import accumulate
from typing import Any

from models.core import device, ranks
from models.core.run import Run
from models.data import images
from models.dynamic_downsampling import report, schedule
from models.dynamic_downsampling.cheap import LayerTimes
from models.dynamic_downsampling.fields import Downsample, Schedule
from models.dynamic_downsampling.setup import (
    Setup,
    layer_times,
    leave_full,
    prepare,
    slower_pooled,
)
from models.dynamic_downsampling.spec import DynamicDownsamplingPlan
from models.dynamic_downsampling.train import fit_cheap
from models.supervised import source
from models.supervised.hooks import SubRun
from models.supervised.loop import Fitted
from models.supervised.spec import Budget
from models.supervised.steps import FULL

TESTED = 16  # images: the loop tests at the end of epochs, which a plan does not need
OFF = Schedule(type="off")


def plan(spec: DynamicDownsamplingPlan, run: Run) -> None:
    """Time steps of both kinds and each layer; leave the prediction as result and ``plan.json``.

    Raises:
        SpecError: if the data or the net cannot be downsampled as asked.
        DataError: if the data cannot be used.
        StoppedError: if a stop was requested.
    """
    ranks.start(run.device)
    data = source.load(spec, run)
    setup, times = _prepared(spec, data, run)
    probe = _probe(setup, spec.probe_steps)
    sub_run = SubRun("probe_", total=len(probe.decisions), saves_checkpoints=False)
    fitted = fit_cheap(probe, run, sub_run)
    result = prediction(setup, fitted)
    if ranks.is_first():
        contents = {"result": result, "layers": _layers(setup, times), "cheap_sizes": setup.sizes}
        contents |= {"spec": spec.model_dump(mode="json"), "device": device.describe(run.device)}
        run.report("plan.json", contents)
        run.result(**result)


def _prepared(
    spec: DynamicDownsamplingPlan, data: images.ImageData, run: Run
) -> tuple[Setup, dict[str, LayerTimes]]:
    """Setup of the training, and the times of its layers, from which ``auto`` chooses."""
    auto = spec.downsample.kernel_layers == "auto"
    every = spec.downsample.model_copy(update={"kernel_layers": "all"}) if auto else spec.downsample
    setup = prepare(spec.model_copy(update={"downsample": every}), data, run)
    times = layer_times(setup)
    if auto:
        leave_full(setup, slower_pooled(times))
    return setup, times


def _probe(setup: Setup, total: int) -> Setup:
    """A short training in which full steps and cheap ones of each size take turns.

    A plan without cheap steps has full ones only.
    """
    down, data = setup.spec.downsample, setup.data
    k = down.cheap_batch_multiplier
    turns = Schedule(type="periodic", period=2 * k, n_cheap=k) if any(setup.decisions) else OFF
    short = Downsample(schedule=turns, refine_fraction=0.0, cheap_batch_multiplier=k)
    per_epoch = setup.spec.steps(len(data.train))[0]
    spec = setup.spec.model_copy(
        update={
            "epochs": None,
            "max_steps": total,
            "budget": Budget(),
            "downsample": down.model_copy(update={"gradient_probes": 0}),
        }
    )
    parts = ("test", "test_labels", "validation", "validation_labels")
    few = replace(data, **{name: getattr(data, name)[:TESTED] for name in parts})
    turn = schedule.decide(short, total, per_epoch, setup.spec.seed)
    taken = accumulate(turn)  # cheap batches up to each; k of them are a unit
    decisions = [
        cheap and 1 + (count - 1) // k % len(setup.sizes)
        for cheap, count in zip(turn, taken, strict=True)
    ]
    return replace(setup, spec=spec, data=few, decisions=bytes(decisions))


def prediction(setup: Setup, fitted: Fitted) -> dict[str, Any]:
    """What the training would save: by operations, and by the times of the probe.

    With a share p of cheap batches and r their cost over full ones, p (1 - r); seconds leave out
    tests, checkpoints and the first steps of each kind.

    Args:
        setup: of the training.
        fitted: what the probe came to.
    """
    clock, total = fitted.clock, len(setup.decisions)
    ratios = report.ratios_of(setup, clock, setup.decisions)
    if not any(setup.decisions):
        ratios["predicted_saving_measured_ratio"] = 0.0
    saving = ratios["predicted_saving_measured_ratio"]
    return {
        "cheap_share": 1 - setup.decisions.count(0) / total,
        **ratios,
        **_seconds(setup, clock.median_ms(FULL.name), saving),
        "steps": total,
        "median_step_ms": {mode: clock.median_ms(mode) for mode in clock.counts},
        "peak_gpu_bytes": clock.peak_bytes,
    }


def _seconds(setup: Setup, full_ms: float | None, saving: float | None) -> dict[str, Any]:
    """Predicted seconds of the training, of the plain one and of the job; empty if not known."""
    if full_ms is None or saving is None:
        return {}
    total = len(setup.decisions)
    plain_s = total * full_ms / 1000
    train_s = plain_s * (1 - saving)
    beside_s = plain_s + train_s if setup.spec.compare_baseline else 0.0
    return {
        "plain_seconds": plain_s,
        "train_seconds": train_s,
        "job_seconds": train_s + beside_s,
        "equal_time_plain_steps": round(total * (1 - saving)),
    }


def _layers(setup: Setup, times: dict[str, LayerTimes]) -> list[dict[str, Any]]:
    """Each convolution: what cheap steps do with it and, where it can be pooled, both times."""
    rows = []
    for layer in setup.layers:
        row = layer._asdict()
        if (timed := times.get(layer.name)) is not None:
            row |= {"full_ms": 1000 * timed.full_s, "pooled_ms": 1000 * timed.pooled_s}
            row["auto"] = "full" if timed.is_slower_pooled else "pooled"
        rows.append(row)
    return rows
