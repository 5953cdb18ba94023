"""Carries out ``terrain.train``: the gradient of the coarse flood's error trains the net."""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.core import device, optimizers, ranks
from models.core.errors import DivergedError
from models.core.run import Run
from models.core.stopping import StepEnd
from models.terrain import measures
from models.terrain.learning import losses, samples
from models.terrain.learning.coarse_floods import CoarseFloods
from models.terrain.learning.net import Downsampler, coarse
from models.terrain.learning.samples import Lesson
from models.terrain.learning.state import Plan, State, flood_fine, leave, restore, save
from models.terrain.spec.train import TerrainTrain

SKIPS_ALLOWED = 20  # in a row; then the training has diverged


def train(spec: TerrainTrain, run: Run) -> None:
    """Fine floods first, then epochs of coarse ones; leaves weights, history and report.

    Several processes share the fine floods, the samples of a batch and the tests.

    Raises:
        SpecError: if terrains and water do not fit each other.
        DataError: if a raster or the checkpoint cannot be used.
        DivergedError: if too many steps in a row have no finite gradient.
        StoppedError: if a stop was requested.
    """
    plan, state = prepare(spec, run)
    total = spec.epochs * plan.per_epoch
    while state.step < total:
        _step(plan, state, total)
        if state.step % plan.per_epoch == 0:
            _end_epoch(plan, state)
        run.progress(state.step, total, epoch=state.step // plan.per_epoch, phase="train")
        _look_up(plan, state, total)
    if ranks.is_first():
        leave(plan, state)


def prepare(spec: TerrainTrain, run: Run) -> tuple[Plan, State]:
    """Net, lessons with their fine floods, and mean pooling's errors; from a checkpoint if any.

    Raises:
        SpecError: if terrains and water do not fit each other.
        DataError: if a raster, the floods or the checkpoint cannot be used.
        StoppedError: if a stop was requested.
    """
    device.seed_all(spec.seed)
    ranks.start(run.device)
    lessons = samples.load(spec, run)
    net = Downsampler(spec.factor, spec.width, spec.norm, spec.inputs).to(run.device)
    optimiser = optimizers.Adam(net.parameters(), lr=spec.lr)
    floods = CoarseFloods(lessons[0], spec, run.device)
    plan, state = Plan(spec, run, net, optimiser, floods, *lessons), State()
    if run.resume is not None:
        restore(plan, state)
    flood_fine(plan, state)
    state.baseline = state.baseline or _test(plan, state, None)
    if spec.loss == "relative" and not state.units:
        state.units = _units(plan, state)
    return plan, state


def _look_up(plan: Plan, state: State, total: int) -> None:
    """Save and stop where this is the time; the same in all processes.

    Raises:
        StoppedError: if a stop was requested.
    """
    end = StepEnd.decide(plan.run)
    if end.saves or state.step == total:
        save(plan, state)
    end.stop_if_requested(plan.run)


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
    loss, norm = _gradient(plan, state, chosen)
    state.step += 1
    if math.isfinite(loss) and math.isfinite(norm):
        plan.optimiser.step()
        state.losses.append(loss)
        state.in_a_row = 0
        return
    state.skipped, state.in_a_row = state.skipped + 1, state.in_a_row + 1
    if state.in_a_row >= SKIPS_ALLOWED:
        raise DivergedError(f"{SKIPS_ALLOWED} steps in a row without a gradient", hint="lower lr")


def _gradient(plan: Plan, state: State, chosen: list[int]) -> tuple[float, float]:
    """Loss and norm of the clipped gradient of a batch, of which each process does its part."""
    mine = chosen[ranks.rank() :: ranks.world_size()]
    share = (
        len(mine) * ranks.world_size() / len(chosen)
    )  # so that the processes' mean is the batch's
    plan.net.train()
    loss = share * _loss(plan, state, mine or chosen[:1])
    plan.optimiser.zero_grad()
    loss.backward()
    told = loss.detach().clone()
    ranks.all_reduce_mean([told, *(p.grad for p in plan.net.parameters() if p.grad is not None)])
    norm = nn.utils.clip_grad_norm_(plan.net.parameters(), losses.CLIP_NORM)
    return float(told), float(norm)


def _loss(plan: Plan, state: State, chosen: list[int]) -> Tensor:
    """Distance of coarse and pooled fine depths, and the pull towards mean pooling."""
    spec = plan.spec
    z, flow = _seen(plan, [plan.train[k] for k in chosen])
    bed = coarse(plan.net, z, flow)
    bed.register_hook(lambda grad: losses.tamed(grad, plan.floods.batch))
    said = plan.floods(bed, chosen)
    truth = torch.stack([state.depths[k] for k in chosen], 1).to(said.device)
    if spec.loss == "relative":
        units = torch.tensor([state.units[k] for k in chosen], device=said.device)
        loss = losses.relative(said, truth, units)
    else:
        loss = losses.LOSSES[spec.loss](said, truth)
    if spec.terrain_weight:
        pull = losses.regulariser(bed, z, spec.factor)
        loss = loss + spec.terrain_weight * pull.to(loss.device)
    return loss.to(bed.device)


def _seen(plan: Plan, lessons: list[Lesson]) -> tuple[Tensor, Tensor | None]:
    """Heights [b, h, w] and flow [b, 2, h, w] of some lessons, on the device."""
    on = plan.run.device
    flows = [lesson.flow for lesson in lessons if lesson.flow is not None]
    flow = torch.stack(flows).to(on) if flows else None
    return torch.stack([lesson.z for lesson in lessons]).to(on), flow


def _coarse_bed(plan: Plan, lesson: Lesson, net: nn.Module | None) -> np.ndarray:
    """Coarse heights of a lesson; mean pooling without a net."""
    with torch.inference_mode():
        if net is None:
            made = F.avg_pool2d(lesson.z[None], plan.spec.factor)[0]
        else:
            made = coarse(net, *_seen(plan, [lesson]))[0].cpu()
    return made.numpy() + np.float32(lesson.datum)


def _errors(
    plan: Plan, net: nn.Module | None, lessons: list[Lesson], depths: list[Tensor]
) -> Tensor:
    """MAE in m and CSI at 0.1 m of each lesson [lessons, 2]; each process does a part."""
    found = torch.zeros(len(lessons), 2, dtype=torch.float64)
    for k in range(ranks.rank(), len(lessons), ranks.world_size()):
        lesson = lessons[k]
        flood = lesson.scene.open(_coarse_bed(plan, lesson, net), lesson.dx, coarse=True)
        flood.advance(plan.spec.duration_s, 2**62)
        row = measures.errors(flood.depth[0].numpy(), depths[k][-1].numpy())
        found[k] = torch.tensor([row["mae_m"], row["csi_01"]])
    ranks.all_reduce_mean([found])
    return found * ranks.world_size()


def _test(plan: Plan, state: State, net: nn.Module | None) -> dict[str, float]:
    """Mean errors on the held-out terrains."""
    mae, csi = _errors(plan, net, plan.test, state.depths[len(plan.train) :]).mean(0).tolist()
    return {"mae_m": mae, "csi_01": csi}


def _units(plan: Plan, state: State) -> list[float]:
    """What the relative loss divides the error of each training lesson by, m."""
    errors = _errors(plan, None, plan.train, state.depths[: len(plan.train)])[:, 0]
    waters = len(samples.waters_of(plan.spec))
    by_water = errors.view(-1, waters).mT  # a terrain's lessons follow each other
    return losses.units(by_water).mT.flatten().tolist()


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
