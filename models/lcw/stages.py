"""One loop for all that is trained here: autoencoder, latent generator, baselines.

Batches and noise depend on (seed, stage, step) alone, so a resumed run ends, on a CPU, with the
bits of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from models.core import checkpoint, optimizers, origin, ranks
from models.core.device import generator
from models.core.errors import DivergedError, SpecError
from models.core.graphs import GraphedStep
from models.core.run import Run
from models.core.stopping import StepEnd
from models.lcw.fields import PhaseSpec
from models.lcw.spec import LcwTrain
from models.supervised.steps import decay

LOG_EVERY = 20  # steps, at least


class Inputs(NamedTuple):
    """What changes from step to step: rows of the data, normal numbers; either may be empty."""

    rows: Tensor
    draws: Tensor


@dataclass(frozen=True)
class TrainingStage:
    """One of the trainings of a job.

    Attributes:
        name: ``autoencoder``, ``generator``, or that of a baseline.
        nets: names of those that it trains.
        spec: rate, batch, patience.
        steps: at most.
        rows: of its training data; an epoch is all of them in a new order.
        inputs: (this process's rows of the batch, step) to what the loss takes.
        loss: of this process's part; the mean over the processes is the loss of the batch.
        validate: the objective on held-out data.
        waits: whether the loss reads numbers back from the device.
    """

    name: str
    nets: tuple[str, ...]
    spec: PhaseSpec
    steps: int
    rows: int
    inputs: Callable[[Int64[Tensor, "b"], int], Inputs]
    loss: Callable[[Inputs], Tensor]
    validate: Callable[[], float]
    waits: bool = False

    @property
    def batch(self) -> int:
        """Rows of a step, over all processes together."""
        return min(self.spec.batch_size, self.rows)

    @property
    def prefix(self) -> str:
        """Of its metrics."""
        return self.name if self.name in ("autoencoder", "generator") else "baseline"


@dataclass
class StageProgress:
    """Where a staged training stands, besides tensors.

    Attributes:
        stage: number of the stage, from 0.
        step: done in it.
        best: least validation of the stage.
        validations_without_improvement: since then.
        history: by stage, rows of step, loss, validation.
    """

    stage: int = 0
    step: int = 0
    best: float | None = None
    validations_without_improvement: int = 0
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps, under the keys of its format."""
        values = dict(vars(self))
        values["stale"] = values.pop("validations_without_improvement")
        return values

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> "StageProgress":
        """Undo :meth:`stored`."""
        values = dict(stored)
        return cls(validations_without_improvement=values.pop("stale"), **values)


class StageLoss(nn.Module):
    """A loss as a module, which torch's engine for several processes wants.

    Args:
        nets: that the loss trains.
        loss: of :class:`TrainingStage`.
    """

    def __init__(self, nets: list[nn.Module], loss: Callable[[Inputs], Tensor]) -> None:
        super().__init__()
        self.nets, self.loss = nn.ModuleList(nets), loss

    def forward(self, rows: Tensor, draws: Tensor) -> Float[Tensor, ""]:
        return self.loss(Inputs(rows, draws))


class StagedTraining:
    """The nets of a run, its progress through the stages, and its checkpoints.

    Args:
        spec: of the job.
        run: takes metrics, progress and checkpoints.
        nets: all that is trained, in a fixed order.
        description: further metadata of a checkpoint.
    """

    def __init__(
        self, spec: LcwTrain, run: Run, nets: nn.ModuleDict, description: dict[str, Any]
    ) -> None:
        self.spec, self.run, self.nets, self.description = spec, run, nets, description
        self.state = StageProgress()
        self.sizes = list(spec.steps().values())
        self._order: tuple[str, int, Tensor] | None = None
        self.kept: dict[str, Tensor] = {}
        if run.resume is not None:
            self._restore(checkpoint.read(run.resume))

    def done(self) -> int:
        """Steps of the whole job; a stage that ended early counts in full."""
        return sum(self.sizes[: self.state.stage]) + self.state.step

    def train(self, number: int, stage: TrainingStage) -> None:
        """Carry out a stage, or what is left of it, and leave a checkpoint.

        Raises:
            DivergedError: if a loss is not finite.
            SpecError: if a batch does not divide over the processes.
            StoppedError: if a stop was requested.
        """
        if self.state.stage > number:
            return
        nets = [self.nets[name] for name in stage.nets]
        if stage.batch % ranks.world_size():
            raise SpecError(
                f"the {stage.name} has {stage.batch} rows a step, which must be a multiple of the"
                f" {ranks.world_size()} devices: change batch_size"
            )
        optimizer = self._optimizer(nets, stage.spec.lr)
        for net in nets:
            net.train()
        advance = self._stepper(stage, optimizer)
        losses: list[Tensor] = []
        started = time.perf_counter()
        while self.state.step < stage.steps and not self._is_out_of_patience(stage):
            factor = decay(stage.spec.schedule, self.state.step / stage.steps)
            optimizer.param_groups[0]["lr"].fill_(stage.spec.lr * factor)
            losses.append(advance(stage.name, self._inputs(stage)))
            self.state.step += 1
            if len(losses) >= LOG_EVERY or self._validates(stage):
                started = self._report(stage, losses, started)
            self._end_of_step(optimizer)
        for net in nets:
            net.eval()
        self.state.stage, self.state.step = number + 1, 0
        self.state.best, self.state.validations_without_improvement = None, 0
        self.save(None)

    def _optimizer(self, nets: list[nn.Module], lr: float) -> torch.optim.Adam:
        on_gpu = self.run.device == "cuda"  # then a graph may hold the step
        parameters = [p for net in nets for p in net.parameters()]
        lr_on_device = torch.tensor(lr, device=self.run.device)  # a graph reads it anew each step
        optimizer = optimizers.Adam(parameters, lr=lr_on_device, capturable=on_gpu)
        for name, tensor in self.kept.items():
            index, key = name.split(".")
            parameter = optimizer.param_groups[0]["params"][int(index)]
            device = "cpu" if key == "step" and not on_gpu else parameter.device
            optimizer.state[parameter][key] = tensor.to(device)
        self.kept = {}
        return optimizer

    def _stepper(
        self, stage: TrainingStage, optimizer: torch.optim.Adam
    ) -> Callable[[str, Inputs], Tensor]:
        """The step, as a CUDA graph on a GPU, where launches of kernels would limit these nets."""
        module = ranks.parallel(StageLoss([self.nets[name] for name in stage.nets], stage.loss))

        def step(_: str, inputs: Inputs) -> Tensor:
            optimizer.zero_grad(set_to_none=False)  # a CUDA graph holds the addresses
            loss = module(*inputs)
            loss.backward()
            optimizer.step()
            return loss.detach()

        if self.run.device != "cuda" or stage.waits:
            return step
        return GraphedStep(step, lambda reason: self.run.warn("no_cuda_graphs", reason))

    def _inputs(self, stage: TrainingStage) -> Inputs:
        size = stage.batch
        epoch, batch_index = divmod(self.state.step, stage.rows // size)
        batch = self._ordered(stage, epoch)[batch_index * size : (batch_index + 1) * size]
        return stage.inputs(ranks.share(batch), self.state.step)

    def _ordered(self, stage: TrainingStage, epoch: int) -> Int64[Tensor, "n"]:
        """Order of the rows in an epoch; made once."""
        if self._order is None or self._order[:2] != (stage.name, epoch):
            draws = generator(self.spec.seed, f"{stage.name} order", epoch)
            order = torch.randperm(stage.rows, generator=draws).to(self.run.device)
            self._order = (stage.name, epoch, order)
        return self._order[2]

    def _validates(self, stage: TrainingStage) -> bool:
        return self.state.step % stage.spec.validate_every == 0 or self.state.step == stage.steps

    def _is_out_of_patience(self, stage: TrainingStage) -> bool:
        return (
            stage.spec.patience is not None
            and self.state.validations_without_improvement >= stage.spec.patience
        )

    def _report(self, stage: TrainingStage, losses: list[Tensor], started: float) -> float:
        """Log the mean loss, the rate, and the validation where it is time."""
        stacked = torch.stack(losses)
        ranks.all_reduce_mean([stacked])
        state, values = self.state, stacked.tolist()
        losses.clear()
        if not all(map(math.isfinite, values)):
            raise DivergedError(
                f"the loss of the {stage.name} was not finite before step {state.step}",
                hint="lower lr, or raise eps",
            )
        mean = sum(values) / len(values)
        spent = time.perf_counter() - started
        rate = len(values) * stage.batch / spent
        self.run.log(self.done(), **{f"{stage.prefix}_loss": mean, "images_per_s": rate})
        row: dict[str, Any] = {"step": state.step, "loss": mean}
        if self._validates(stage):
            row["validation"] = self._validate(stage)
        state.history.setdefault(stage.name, []).append(row)
        self.run.progress(self.done(), sum(self.sizes), phase=stage.name)
        return time.perf_counter()

    def _validate(self, stage: TrainingStage) -> float:
        nets = [self.nets[name] for name in stage.nets]
        ranks.broadcast(list(self.nets.buffers()))
        for net in nets:
            net.eval()
        with torch.no_grad():
            value = stage.validate()
        for net in nets:
            net.train()
        self.run.log(self.done(), **{f"{stage.prefix}_validation": value})
        if ranks.is_first():
            self.run.say(
                f"{stage.name}, step {self.state.step} of {stage.steps}: validation {value:.4g}"
            )
        if self.state.best is None or value < self.state.best:
            self.state.best, self.state.validations_without_improvement = value, 0
        else:
            self.state.validations_without_improvement += 1
        return value

    def _end_of_step(self, optimizer: torch.optim.Adam) -> None:
        end = StepEnd.decide(self.run)
        if end.saves:
            self.save(optimizer)
        end.stop_if_requested(self.run)

    def save(self, optimizer: torch.optim.Adam | None) -> None:
        """Write a checkpoint, in the first process; without an optimizer, one between stages."""
        ranks.broadcast(list(self.nets.buffers()))
        if not ranks.is_first():
            return
        tensors = {f"net.{name}": tensor for name, tensor in self.nets.state_dict().items()}
        if optimizer is not None:
            for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
                for key, tensor in optimizer.state[parameter].items():
                    tensors[f"adam.{index}.{key}"] = tensor
        name, state = checkpoint.name_of(self.done()), self.state.stored()
        about = self.description | {"state": state, "origin": origin.describe(self.run)}
        checkpoint.write(self.run.dir / name, tensors, about)
        self.run.artifact(name, role="checkpoint", step=self.done())

    def _restore(self, saved: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
        tensors, description = saved
        origin.check(description, self.run)
        if description.get("lcw") != self.description["lcw"]:
            raise SpecError(
                f"the checkpoint is of {description.get('lcw') or description.get('net')}",
                hint="ask for the same architecture and baselines, or leave resume_from out",
            )
        self.nets.load_state_dict(checkpoint.part(tensors, "net"))
        self.kept = checkpoint.part(tensors, "adam")
        self.state = StageProgress.restored(description["state"])


def noise(
    seed: int, stage: str, step: int, shape: tuple[int, int], on: str
) -> Float[Tensor, "n d"]:
    """Normal numbers of a step, keyed by (seed, stage, step).

    Args:
        seed: of the job.
        stage: name of the stage or of another use.
        step: of the stage, from 0.
        shape: rows and columns.
        on: torch device.
    """
    return torch.randn(*shape, generator=generator(seed, f"{stage} noise", step)).to(on)
