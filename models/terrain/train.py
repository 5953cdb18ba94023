"""Carries out ``terrain.train``: the gradient of the coarse flood's error trains the net."""

import copy
import csv
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from models.core import checkpoint, device
from models.core.errors import DivergedError, SpecError
from models.core.run import Run, StoppedError
from models.terrain import measures, trained, truths
from models.terrain.coarse_floods import CoarseFloods
from models.terrain.losses import CLIP_NORM, LOSSES, regulariser, tamed
from models.terrain.net import Downsampler, coarse
from models.terrain.spec import TerrainTrain
from models.terrain.truths import Lesson

SKIPS_ALLOWED = 20  # in a row; then the training has diverged


class Plan(NamedTuple):
    """What stays the same during a training."""

    spec: TerrainTrain
    run: Run
    net: Downsampler
    optimiser: torch.optim.Adam
    floods: CoarseFloods
    train: list[Lesson]
    test: list[Lesson]

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(len(self.train) / self.spec.batch_size)


@dataclass
class State:
    """What changes; ``depths`` are the fine floods that are done, pooled, training ones first."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    in_a_row: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    depths: list[Tensor] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)


def train(spec: TerrainTrain, run: Run) -> None:
    """Fine floods first, then epochs of coarse ones; leaves weights, history and report.

    Raises:
        SpecError: if terrains and water do not fit each other.
        DataError: if a raster or the checkpoint cannot be used.
        DivergedError: if too many steps in a row have no finite gradient.
        StoppedError: if a stop was requested.
    """
    device.seed_all(spec.seed)
    lessons = truths.load(spec, run)
    net = Downsampler(spec.factor, spec.width, spec.norm).to(run.device)
    optimiser = torch.optim.Adam(net.parameters(), lr=spec.lr)
    floods = CoarseFloods(lessons[0], spec, run.device)
    plan, state = Plan(spec, run, net, optimiser, floods, *lessons), State()
    if run.resume is not None:
        _restore(plan, state)
    _flood_fine(plan, state)
    state.baseline = state.baseline or _test(plan, state, None)
    total = spec.epochs * plan.per_epoch
    while state.step < total:
        _step(plan, state, total)
        if state.step % plan.per_epoch == 0:
            _end_epoch(plan, state)
        run.progress(state.step, total, epoch=state.step // plan.per_epoch, phase="train")
        if run.stop_wants_checkpoint or run.checkpoint_due() or state.step == total:
            _save(plan, state)
        run.check_stop()
    _leave(plan, state)


def _flood_fine(plan: Plan, state: State) -> None:
    """Flood the fine terrains that are not yet done; a stop keeps those that are.

    Raises:
        StoppedError: if a stop was requested.
    """
    lessons = plan.train + plan.test
    try:
        for lesson in lessons[len(state.depths) :]:
            state.depths.append(truths.fine_depths(plan.spec, plan.run, lesson))
            plan.run.progress(len(state.depths), len(lessons), phase="fine floods", unit="flood")
    except StoppedError:
        if plan.run.stop_wants_checkpoint:
            _save(plan, state)
        raise


def _step(plan: Plan, state: State, total: int) -> None:
    """One batch; left out when loss or gradient are not finite.

    Raises:
        DivergedError: if too many in a row were left out.
    """
    spec = plan.spec
    epoch, place = divmod(state.step, plan.per_epoch)
    order = torch.randperm(len(plan.train), generator=device.generator(spec.seed, "order", epoch))
    chosen = order[place * spec.batch_size : (place + 1) * spec.batch_size].tolist()
    plan.optimiser.param_groups[0]["lr"] = (
        spec.lr * (1 + math.cos(math.pi * state.step / total)) / 2
    )
    plan.net.train()
    loss = _loss(plan, state, chosen)
    plan.optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(plan.net.parameters(), CLIP_NORM)
    state.step += 1
    if math.isfinite(float(loss.detach())) and math.isfinite(float(norm)):
        plan.optimiser.step()
        state.losses.append(float(loss.detach()))
        state.in_a_row = 0
        return
    state.skipped, state.in_a_row = state.skipped + 1, state.in_a_row + 1
    if state.in_a_row >= SKIPS_ALLOWED:
        raise DivergedError(f"{SKIPS_ALLOWED} steps in a row without a gradient", hint="lower lr")


def _loss(plan: Plan, state: State, chosen: list[int]) -> Tensor:
    """Distance of coarse and pooled fine depths, and the pull towards mean pooling."""
    spec, run = plan.spec, plan.run
    z = torch.stack([plan.train[k].z for k in chosen]).to(run.device)
    bed = coarse(plan.net, z)
    bed.register_hook(tamed)
    said = plan.floods(bed, chosen)
    truth = torch.stack([state.depths[k] for k in chosen], 1).to(said.device)
    loss = LOSSES[spec.loss](said, truth)
    if spec.terrain_weight:
        loss = loss + spec.terrain_weight * regulariser(bed, z, spec.factor).to(loss.device)
    return loss


def _coarse_bed(plan: Plan, lesson: Lesson, net: nn.Module | None) -> np.ndarray:
    """Coarse heights of a lesson; mean pooling without a net."""
    with torch.inference_mode():
        if net is None:
            made = F.avg_pool2d(lesson.z[None], plan.spec.factor)[0]
        else:
            made = coarse(net, lesson.z[None].to(plan.run.device))[0].cpu()
    return made.numpy() + np.float32(lesson.datum)


def _test(plan: Plan, state: State, net: nn.Module | None) -> dict[str, float]:
    """Mean errors on the held-out terrains."""
    found = []
    for lesson, truth in zip(plan.test, state.depths[len(plan.train) :], strict=True):
        flood = lesson.scene.open(_coarse_bed(plan, lesson, net), lesson.dx, coarse=True)
        flood.advance(plan.spec.duration_s, 2**62)
        found.append(measures.errors(flood.depth[0].numpy(), truth[-1].numpy()))
    return {name: float(np.mean([row[name] for row in found])) for name in ("mae_m", "csi_01")}


def _end_epoch(plan: Plan, state: State) -> None:
    """Test, report, remember the best net."""
    plan.net.eval()
    errors = _test(plan, state, plan.net)
    row = {
        "loss": float(np.mean(state.losses)) if state.losses else math.nan,
        "test_mae_m": errors["mae_m"],
        "error_ratio": errors["mae_m"] / max(state.baseline["mae_m"], 1e-12),
        "test_csi_01": errors["csi_01"],
        "skipped": float(state.skipped),
    }
    if all(row["test_mae_m"] < old["test_mae_m"] for old in state.history):
        state.best = copy.deepcopy(plan.net.state_dict())
    state.history.append({"epoch": state.step // plan.per_epoch, **row})
    state.losses.clear()
    plan.run.log(state.step, **row)


def _digest(spec: TerrainTrain) -> str:
    return hashlib.sha256(spec.model_dump_json(exclude={"resume_from"}).encode()).hexdigest()


def _save(plan: Plan, state: State) -> None:
    """Write a checkpoint and hand it over."""
    name = checkpoint.name_of(state.step)
    tensors = {f"net.{k}": v for k, v in plan.net.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    tensors |= {f"depths.{k:06d}": v for k, v in enumerate(state.depths)}
    for index, moments in plan.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": value for key, value in moments.items()}
    tensors |= checkpoint.random_state(plan.run.device)
    spec = plan.spec
    told = trained.describe(spec.factor, spec.width, spec.norm, spec.solver) | {
        "step": state.step,
        "spec_sha256": _digest(spec),
        "losses": state.losses,
        "skips": [state.skipped, state.in_a_row],
        "history": state.history,
        "baseline": state.baseline,
    }
    checkpoint.write(plan.run.dir / name, tensors, told)
    plan.run.artifact(name, role="checkpoint", step=state.step)


def _restore(plan: Plan, state: State) -> None:
    """Bring everything to where a checkpoint was written.

    Raises:
        SpecError: if it comes from another spec: its fine floods would be of other terrains.
    """
    assert plan.run.resume is not None  # noqa: S101  # the caller's word
    tensors, told = checkpoint.read(plan.run.resume)
    if told.get("spec_sha256") != _digest(plan.spec):
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
    state.step, state.losses, state.history = told["step"], told["losses"], told["history"]
    (state.skipped, state.in_a_row), state.baseline = told["skips"], told["baseline"]


def _leave(plan: Plan, state: State) -> None:
    """The best net's weights, history as table and picture, report."""
    spec, run = plan.spec, plan.run
    told = trained.describe(spec.factor, spec.width, spec.norm, spec.solver)
    best = min(state.history, key=lambda row: row["test_mae_m"])
    data = truths.digest(plan.train + plan.test)
    told |= {"data_sha256": data, "best_epoch": best["epoch"]}
    checkpoint.write(run.dir / "weights.safetensors", state.best, told)
    run.artifact("weights.safetensors", role="weights", step=state.step)
    with (run.dir / "history.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(state.history[0]))
        table.writeheader()
        table.writerows(state.history)
    run.artifact("history.csv", role="table")
    _draw(plan, state)
    found: dict[str, Any] = {f"best_{name}": value for name, value in best.items()}
    found |= {
        "mean_pool_mae_m": state.baseline["mae_m"],
        "mean_pool_csi_01": state.baseline["csi_01"],
        "steps": state.step,
        "skipped": state.skipped,
        "parameters": sum(p.numel() for p in plan.net.parameters()),
    }
    report: dict[str, Any] = {
        "result": found,
        "spec": spec.model_dump(mode="json"),
        "data_sha256": data,
    }
    report |= {"train": [x.name for x in plan.train], "test": [x.name for x in plan.test]}
    report |= {"device": device.describe(run.device)}
    (run.dir / "report.json").write_text(json.dumps(report, indent=1))
    run.artifact("report.json", role="report")
    run.result(**found)


def _draw(plan: Plan, state: State) -> None:
    """Loss and error ratio over the epochs."""
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in state.history]
    left.semilogy(epochs, [row["loss"] for row in state.history], marker="o", markersize=3)
    left.set_ylabel(f"training loss ({plan.spec.loss}, mean of an epoch)")
    right.plot(epochs, [row["error_ratio"] for row in state.history], marker="o", markersize=3)
    right.axhline(1.0, color="grey", linestyle="--", label="mean pooling")
    right.set_ylabel("MAE of depth on held-out terrains,\nover that of mean pooling")
    right.set_ylim(bottom=0)
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.suptitle(f"terrain.train, factor {plan.spec.factor}", fontsize=11)
    figure.savefig(plan.run.dir / "history.png", metadata={"Software": None})
    plan.run.artifact("history.png", role="image")
