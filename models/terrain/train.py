"""Runs ``terrain.train``: trains the net by the gradient of the coarse flood's error."""

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
from models.terrain.learning.face_net import FaceNet
from models.terrain.learning.face_training import FaceFloods
from models.terrain.learning.net import Downsampler, coarse
from models.terrain.learning.samples import TrainingSample
from models.terrain.learning.state import (
    TrainingPlan,
    TrainingState,
    restore,
    run_fine_floods,
    save,
    write_results,
)
from models.terrain.spec.train import TerrainTrain

SKIPS_ALLOWED = 20  # in a row; then the training has diverged


def train(spec: TerrainTrain, run: Run) -> None:
    """Simulate the fine floods, then train on coarse ones; write weights, history and report.

    With several processes, each takes a part of the fine floods, of every batch and of the tests.

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
        _checkpoint_or_stop(plan, state, total)
    if ranks.is_first():
        write_results(plan, state)


def prepare(spec: TerrainTrain, run: Run) -> tuple[TrainingPlan, TrainingState]:
    """Net, samples with their fine floods, and errors of mean pooling; from a checkpoint if any.

    Raises:
        SpecError: if terrains and water do not fit each other.
        DataError: if a raster, the floods or the checkpoint cannot be used.
        StoppedError: if a stop was requested.
    """
    device.seed_all(spec.seed)
    ranks.start(run.device)
    train_and_test = samples.load(spec, run)
    net: Downsampler | FaceNet
    floods: CoarseFloods | FaceFloods
    if spec.learn == "faces":
        net, floods = FaceNet(spec.factor), FaceFloods(train_and_test[0], spec, run)
    else:
        net = Downsampler(spec.factor, spec.width, spec.norm, spec.inputs).to(run.device)
        floods = CoarseFloods(train_and_test[0], spec, run.device)
    optimiser = optimizers.Adam(net.parameters(), lr=spec.lr)
    plan, state = TrainingPlan(spec, run, net, optimiser, floods, *train_and_test), TrainingState()
    if run.resume is not None:
        restore(plan, state)
    run_fine_floods(plan, state)
    state.baseline = state.baseline or _baseline(plan, state)
    if spec.loss == "relative" and not state.units:
        state.units = _units(plan, state)
    return plan, state


def _baseline(plan: TrainingPlan, state: TrainingState) -> dict[str, float]:
    """Errors of mean pooling; where faces are learned, of the untrained subgrid too."""
    errors = _test(plan, state, None)
    if isinstance(plan.net, FaceNet):
        untrained = _test(plan, state, FaceNet(plan.spec.factor))
        errors |= {f"subgrid_{name}": value for name, value in untrained.items()}
    return errors


def _checkpoint_or_stop(plan: TrainingPlan, state: TrainingState, total: int) -> None:
    """Save a checkpoint if one is due and stop if requested; all processes agree on both.

    Raises:
        StoppedError: if a stop was requested.
    """
    end = StepEnd.decide(plan.run)
    if end.saves or state.step == total:
        save(plan, state)
    end.stop_if_requested(plan.run)


def _step(plan: TrainingPlan, state: TrainingState, total: int) -> None:
    """One optimizer step; skipped if the loss or the gradient is not finite.

    Raises:
        DivergedError: if too many steps in a row were skipped.
    """
    spec = plan.spec
    epoch, batch_index = divmod(state.step, plan.per_epoch)
    order = torch.randperm(len(plan.train), generator=device.generator(spec.seed, "order", epoch))
    chosen = order[batch_index * spec.batch_size : (batch_index + 1) * spec.batch_size].tolist()
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


def _gradient(plan: TrainingPlan, state: TrainingState, chosen: list[int]) -> tuple[float, float]:
    """Loss of a batch and norm of its gradient before clipping; each process does a part."""
    mine = chosen[ranks.rank() :: ranks.world_size()]
    # makes the mean over the processes the mean over the batch
    share = len(mine) * ranks.world_size() / len(chosen)
    plan.net.train()
    loss = share * _loss(plan, state, mine or chosen[:1])
    plan.optimiser.zero_grad()
    loss.backward()
    reported = loss.detach().clone()
    ranks.all_reduce_mean(
        [reported, *(p.grad for p in plan.net.parameters() if p.grad is not None)]
    )
    norm = nn.utils.clip_grad_norm_(plan.net.parameters(), losses.CLIP_NORM)
    return float(reported), float(norm)


def _loss(plan: TrainingPlan, state: TrainingState, chosen: list[int]) -> Tensor:
    """Distance between coarse and pooled fine depths, plus the terrain regularizer."""
    spec = plan.spec
    prediction, regularizer = _prediction(plan, chosen)
    truth = torch.stack([state.depths[k] for k in chosen], 1).to(prediction.device)
    if spec.loss == "relative":
        units = torch.tensor([state.units[k] for k in chosen], device=prediction.device)
        loss = losses.relative(prediction, truth, units)
    else:
        loss = losses.LOSSES[spec.loss](prediction, truth)
    if regularizer is not None:
        loss = loss + spec.terrain_weight * regularizer.to(loss.device)
    return loss.to(next(plan.net.parameters()).device)


def _prediction(plan: TrainingPlan, chosen: list[int]) -> tuple[Tensor, Tensor | None]:
    """Coarse depths [times, b, ny, nx] of some samples, and the regularizer of their heights."""
    net, floods, spec = plan.net, plan.floods, plan.spec
    if isinstance(floods, FaceFloods):
        assert isinstance(net, FaceNet)  # noqa: S101  # made together
        return floods(net, chosen), None
    z, flow = _net_inputs(plan, [plan.train[k] for k in chosen])
    bed = coarse(net, z, flow)
    bed.register_hook(lambda grad: losses.clip_per_sample(grad, floods.batch))
    depths = floods(bed, chosen)
    return depths, losses.regulariser(bed, z, spec.factor) if spec.terrain_weight else None


def _net_inputs(plan: TrainingPlan, batch: list[TrainingSample]) -> tuple[Tensor, Tensor | None]:
    """Heights [b, h, w] and flow [b, 2, h, w] of some samples, on the device."""
    device_name = plan.run.device
    flows = [sample.flow for sample in batch if sample.flow is not None]
    flow = torch.stack(flows).to(device_name) if flows else None
    return torch.stack([sample.z for sample in batch]).to(device_name), flow


def _coarse_bed(plan: TrainingPlan, sample: TrainingSample, net: nn.Module | None) -> np.ndarray:
    """Coarse heights of a sample in m; by mean pooling if there is no net."""
    with torch.inference_mode():
        if net is None:
            z_coarse = F.avg_pool2d(sample.z[None], plan.spec.factor)[0]
        else:
            z_coarse = coarse(net, *_net_inputs(plan, [sample]))[0].cpu()
    return z_coarse.numpy() + np.float32(sample.datum)


def _depth_at_end(plan: TrainingPlan, sample: TrainingSample, net: nn.Module | None) -> np.ndarray:
    """Depth of a sample's coarse flood at the end, m [nyc, nxc]; without a net by mean pooling."""
    if isinstance(net, FaceNet) and isinstance(plan.floods, FaceFloods):
        return plan.floods.at_end(net, sample)
    flood = sample.scenario.open(_coarse_bed(plan, sample, net), sample.dx, coarse=True)
    flood.advance(plan.spec.duration_s, 2**62)
    return flood.depth[0].numpy()


def _errors(
    plan: TrainingPlan,
    net: nn.Module | None,
    test_samples: list[TrainingSample],
    depths: list[Tensor],
) -> Tensor:
    """MAE in m and CSI at 0.1 m of each sample [samples, 2]; each process does a part."""
    errors = torch.zeros(len(test_samples), 2, dtype=torch.float64)
    for k in range(ranks.rank(), len(test_samples), ranks.world_size()):
        row = measures.errors(_depth_at_end(plan, test_samples[k], net), depths[k][-1].numpy())
        errors[k] = torch.tensor([row["mae_m"], row["csi_01"]])
    ranks.all_reduce_mean([errors])
    return errors * ranks.world_size()


def _test(plan: TrainingPlan, state: TrainingState, net: nn.Module | None) -> dict[str, float]:
    """Mean errors on the held-out terrains."""
    mae, csi = _errors(plan, net, plan.test, state.depths[len(plan.train) :]).mean(0).tolist()
    return {"mae_m": mae, "csi_01": csi}


def _units(plan: TrainingPlan, state: TrainingState) -> list[float]:
    """Unit of the error of each training sample in the relative loss, m."""
    errors = _errors(plan, None, plan.train, state.depths[: len(plan.train)])[:, 0]
    waters = len(samples.waters_of(plan.spec))
    by_water = errors.view(-1, waters).mT  # the samples of a terrain are adjacent
    return losses.units(by_water).mT.flatten().tolist()


def _end_epoch(plan: TrainingPlan, state: TrainingState) -> None:
    """Test, log the metrics, keep the weights of the best epoch."""
    plan.net.eval()
    errors = _test(plan, state, plan.net)
    row: dict[str, float | None] = {
        "loss": float(np.mean(state.losses)) if state.losses else None,  # all steps were skipped
        "test_mae_m": errors["mae_m"],
        "error_ratio": errors["mae_m"] / max(state.baseline["mae_m"], 1e-12),
        "test_csi_01": errors["csi_01"],
        "skipped": float(state.skipped),
    }
    if all(row["test_mae_m"] < old["test_mae_m"] for old in state.history):
        state.best = copy.deepcopy(plan.net.state_dict())
    state.history.append({"epoch": state.step // plan.per_epoch, **row})
    state.losses.clear()
    known = {name: x for name, x in row.items() if x is not None}
    plan.run.log(state.step, **known)
    if ranks.is_first():
        shown = ", ".join(f"{name} {x:.4g}" for name, x in known.items())
        plan.run.say(f"epoch {state.step // plan.per_epoch} of {plan.spec.epochs}: {shown}")
