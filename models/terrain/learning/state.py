"""State of a terrain training, its fine floods and its files."""

import csv
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from models.core import checkpoint, device, figures, origin, ranks
from models.core.errors import SpecError
from models.core.run import Run, StoppedError
from models.terrain.learning import samples, weights
from models.terrain.learning.coarse_floods import CoarseFloods
from models.terrain.learning.face_net import FaceNet
from models.terrain.learning.face_training import FaceFloods
from models.terrain.learning.net import Downsampler
from models.terrain.learning.samples import TrainingSample
from models.terrain.spec.train import TerrainTrain


class TrainingPlan(NamedTuple):
    """The constant part of a training: spec, run, net, optimizer, samples."""

    spec: TerrainTrain
    run: Run
    net: Downsampler | FaceNet
    optimiser: torch.optim.Adam
    floods: CoarseFloods | FaceFloods
    train: list[TrainingSample]
    test: list[TrainingSample]

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(len(self.train) / self.spec.batch_size)


@dataclass
class TrainingState:
    """The changing part of a training.

    ``depths``: pooled fine floods done so far [times, nyc, nxc], those of training samples first.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    in_a_row: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    depths: list[Tensor] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    units: list[float] = field(default_factory=list)  # of the training samples, m


def run_fine_floods(plan: TrainingPlan, state: TrainingState) -> None:
    """Simulate the missing fine floods, split among the processes; a stop keeps those done.

    Raises:
        StoppedError: if a stop was requested.
    """
    data, known = plan.train + plan.test, _known(plan)
    while len(state.depths) < len(data):
        first = len(state.depths)
        mine = min(first + ranks.rank(), len(data) - 1)
        key = samples.key_of(plan.spec, data[mine])
        depth = known[key] if key in known else _fine_depth(plan, data[mine])
        gathered = _gather_depths(depth, plan, data[mine])
        if gathered is None:
            if plan.run.stop_wants_checkpoint:
                save(plan, state)
            raise StoppedError("a stop was requested among the fine floods")
        state.depths += gathered[: len(data) - first]
        plan.run.progress(len(state.depths), len(data), phase="fine floods", unit="flood")
    if ranks.is_first():
        _write_floods(plan, state)


def _known(plan: TrainingPlan) -> dict[str, Tensor]:
    """Pooled fine floods of another training, by their keys.

    Raises:
        DataError: if the file is damaged.
    """
    ref = plan.spec.floods
    return {} if ref is None else checkpoint.read(plan.run.input(ref))[0]


def _fine_depth(plan: TrainingPlan, sample: TrainingSample) -> Tensor | None:
    """One fine flood, pooled; None if a stop was requested before its end."""
    try:
        return samples.fine_depths(plan.spec, plan.run, sample)
    except StoppedError:
        return None


def _gather_depths(
    depth: Tensor | None, plan: TrainingPlan, sample: TrainingSample
) -> list[Tensor] | None:
    """The floods of all processes in rank order; None if one of them was stopped."""
    if ranks.world_size() == 1:
        return None if depth is None else [depth]
    shape = (plan.spec.targets, *sample.boundary.ground.z.shape[1:])
    mine = torch.full(shape, torch.nan) if depth is None else depth.contiguous()
    gathered = [torch.empty(shape) for _ in range(ranks.world_size())]
    dist.all_gather(gathered, mine)
    return gathered if all(bool(x.isfinite().all()) for x in gathered) else None


def _write_floods(plan: TrainingPlan, state: TrainingState) -> None:
    """Write the fine floods as an artifact that other trainings can use."""
    keys = (samples.key_of(plan.spec, sample) for sample in plan.train + plan.test)
    floods = dict(zip(keys, state.depths, strict=True))
    checkpoint.write(plan.run.dir / "floods.safetensors", floods, {"floods": len(floods)})
    plan.run.artifact("floods.safetensors", role="samples")


def _digest(spec: TerrainTrain) -> str:
    left_out = {"resume_from", "threads"}
    if spec.learn == "heights":  # as checkpoints of earlier releases have it
        left_out.add("learn")
    kept = spec.model_dump_json(exclude=left_out)
    return hashlib.sha256(kept.encode()).hexdigest()


def save(plan: TrainingPlan, state: TrainingState) -> None:
    """Write a checkpoint as an artifact, in the first process only."""
    if not ranks.is_first():
        return
    name = checkpoint.name_of(state.step)
    tensors = {f"net.{k}": v for k, v in plan.net.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    tensors |= {f"depths.{k:06d}": v for k, v in enumerate(state.depths)}
    for index, moments in plan.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": value for key, value in moments.items()}
    tensors |= checkpoint.random_state(plan.run.device)
    metadata = weights.describe(plan.spec) | {
        "step": state.step,
        "spec_sha256": _digest(plan.spec),
        "losses": state.losses,
        "skips": [state.skipped, state.in_a_row],
        "history": state.history,
        "baseline": state.baseline,
        "units": state.units,
        "origin": origin.describe(plan.run),
    }
    checkpoint.write(plan.run.dir / name, tensors, metadata)
    plan.run.artifact(name, role="checkpoint", step=state.step)


def restore(plan: TrainingPlan, state: TrainingState) -> None:
    """Restore net, optimizer, random state and progress from a checkpoint.

    Raises:
        SpecError: if it comes from another number of processes, or from another spec, whose fine
            floods are of other terrains.
    """
    assert plan.run.resume is not None  # noqa: S101  # guaranteed by the caller
    tensors, metadata = checkpoint.read(plan.run.resume)
    origin.check(metadata, plan.run)
    if metadata.get("spec_sha256") != _digest(plan.spec):
        raise SpecError("resume_from: the checkpoint comes from another spec; submit the same one")
    plan.net.load_state_dict(checkpoint.part(tensors, "net"))
    saved = plan.optimiser.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in checkpoint.part(tensors, "adam").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    plan.optimiser.load_state_dict({**saved, "state": moments})
    checkpoint.restore_random_state(tensors, plan.run.device)
    state.best = checkpoint.part(tensors, "best")
    state.depths = [value for _, value in sorted(checkpoint.part(tensors, "depths").items())]
    state.step, state.losses = metadata["step"], metadata["losses"]
    state.history, state.units = metadata["history"], metadata["units"]
    (state.skipped, state.in_a_row), state.baseline = metadata["skips"], metadata["baseline"]


def write_results(plan: TrainingPlan, state: TrainingState) -> None:
    """Write the best net's weights, the history as table and picture, and the report."""
    spec, run = plan.spec, plan.run
    best = min(state.history, key=lambda row: row["test_mae_m"])
    data_digest = samples.digest(plan.train + plan.test)
    metadata = weights.describe(spec) | {"data_sha256": data_digest, "best_epoch": best["epoch"]}
    checkpoint.write(run.dir / "weights.safetensors", state.best, metadata)
    run.artifact("weights.safetensors", role="weights", step=state.step)
    with (run.dir / "history.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(state.history[0]))
        table.writeheader()
        table.writerows(state.history)
    run.artifact("history.csv", role="table")
    _draw(plan, state)
    result: dict[str, Any] = {f"best_{name}": value for name, value in best.items()}
    result |= {
        "mean_pool_mae_m": state.baseline["mae_m"],
        "mean_pool_csi_01": state.baseline["csi_01"],
        **{k: v for k, v in state.baseline.items() if k.startswith("subgrid")},
        "steps": state.step,
        "skipped": state.skipped,
        "parameters": sum(p.numel() for p in plan.net.parameters()),
    }
    report: dict[str, Any] = {
        "result": result,
        "spec": spec.model_dump(mode="json"),
        "data_sha256": data_digest,
    }
    report |= {"train": [x.name for x in plan.train], "test": [x.name for x in plan.test]}
    report |= {"device": device.describe(run.device)}
    run.report("report.json", report)
    run.result(**result)


@figures.styled
def _draw(plan: TrainingPlan, state: TrainingState) -> None:
    """Loss and error ratio over the epochs."""
    figure = figures.new(9, 4)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in state.history]
    learned = [(row["epoch"], row["loss"]) for row in state.history if row["loss"] is not None]
    figures.line(left, [x for x, _ in learned], [y for _, y in learned], 0)
    figures.log_scale(left)
    left.set_ylabel(f"training loss ({plan.spec.loss}, mean of an epoch)")
    ratios = [row["error_ratio"] for row in state.history]
    figures.line(right, epochs, ratios, 0, label="learned")
    right.axhline(1.0, color="grey", linestyle="--", label="mean pooling")
    right.set_ylabel("MAE of depth on held-out terrains,\nover that of mean pooling")
    right.set_ylim(0, 1.1 * max([1.0, *ratios]))
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
    best = min(ratios)
    summary = (
        f"{abs(1 - best):.0%} {'less' if best < 1 else 'more'} error of depth than mean pooling"
    )
    figures.title(figure, f"{summary} on held-out terrains, best epoch, factor {plan.spec.factor}")
    figures.save(figure, plan.run.dir / "history.png")
    plan.run.figure("history.png")
