"""Rounds of closing and re-use between epochs (README, section 3), and the record of them."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.core import device, ranks
from models.core.run import Run
from models.nets.selective.unit import GatedUnit, SelectiveUnit
from models.selective_convolution.allocate import copies, deallocate, reallocate
from models.selective_convolution.spec import SelectiveConvolutionTrain

COLUMNS = (
    "open",
    "closed_now",
    "reallocated_now",
    "copies",
    "channels_copied",
    "most_copies",
    "mean_abs_shift",
    "max_abs_shift",
)


def units_of(net: nn.Module) -> dict[str, GatedUnit]:
    """The units that may close slots, by name, in the order of the net."""
    return {name: m for name, m in net.named_modules() if isinstance(m, GatedUnit)}


class Rounds:
    """Changes the units of a net after the epochs that the spec names.

    A round comes before the first step of the next epoch, so that what was tested is what was
    saved. Its draws depend on seed, round and unit alone, so all ranks and a resumed run agree.

    Args:
        spec: of the job.
        net: its units are changed in place.
        images: number of training images.
        run: takes metrics.

    Attributes:
        units: of the net, by name.
        record: float32 [rounds, units, columns], kept in checkpoints; rows to come are 0.
        done: number of rounds so far, int64 [], kept likewise.
        seconds: wall time of each round of this run.
    """

    def __init__(
        self, spec: SelectiveConvolutionTrain, net: nn.Module, images: int, run: Run
    ) -> None:
        self.spec, self.run = spec, run
        self.units = units_of(net)
        self.slots = sum(len(unit.gate) for unit in self.units.values())
        self.per_epoch, self.total = spec.steps(images)
        self.record = torch.zeros(spec.rounds(images), len(self.units), len(COLUMNS))
        self.done = torch.zeros((), dtype=torch.int64)
        self.seconds: list[float] = []

    def extras(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps beside net and optimizer.

        The record [rounds, units, columns] and the number of rounds [].
        """
        return {"rounds.record": self.record, "rounds.done": self.done}

    def before_step(self, step: int, moments: Mapping[str, list[Tensor]]) -> None:
        """Do the round that is due before a step, if any: a hook of ``fit``.

        Moments have the shapes [...] of their parameters.
        """
        epoch, batch_index = divmod(step, self.per_epoch)
        due = epoch > 0 and batch_index == 0 and self.units
        if not due or not self.spec.selective.is_round(epoch - 1, self.total / self.per_epoch):
            return
        started = time.perf_counter()
        number = int(self.done)
        rows = [self._change(*item, moments) for item in enumerate(self.units.items())]
        self.record[number] = torch.stack(rows).cpu()  # the one time that the host waits
        self.done += 1
        self.seconds.append(time.perf_counter() - started)
        self._report(step, self.record[number])

    def _change(
        self, index: int, item: tuple[str, GatedUnit], moments: Mapping[str, list[Tensor]]
    ) -> Tensor:
        """A round of one unit; its row of the record."""
        chosen, (name, unit) = self.spec.selective, item
        closed = deallocate(unit, chosen.threshold, chosen.score)
        opened = torch.zeros_like(closed)
        if isinstance(unit, SelectiveUnit) and chosen.opens:
            numbers = device.generator(
                self.spec.seed, "reallocate", int(self.done) * len(self.units) + index
            )
            opened = reallocate(
                unit,
                chosen.top_k,
                chosen.shift_init,
                numbers,
                score=chosen.score,
                max_copies=chosen.max_copies,
            )
            if chosen.reset_optimizer_state:
                _forget(name, opened, moments)
        ranks.broadcast([*unit.parameters(), *unit.buffers()])
        return torch.stack(
            [x.float() for x in (unit.gate.sum(), closed.sum(), opened.sum())] + _shape(unit)
        )

    def _report(self, step: int, rows: Tensor) -> None:
        table = dict(zip(COLUMNS, rows.T, strict=True))
        copied = table["copies"].sum()
        self.run.log(
            step,
            closed=table["closed_now"].sum().item(),
            reallocated=table["reallocated_now"].sum().item(),
            open_share=table["open"].sum().item() / self.slots,
            copy_share=copied.item() / self.slots,
            mean_abs_shift=(
                (table["mean_abs_shift"] * table["copies"]).sum() / copied.clamp(1)
            ).item(),
        )


def _forget(name: str, opened: Tensor, moments: Mapping[str, list[Tensor]]) -> None:
    """Zero the moments of re-used slots, which would move their zero weights at the next step."""
    parts = {"conv.weight": opened[:, None, None], "shift": opened[:, None]}
    parts |= {"norm.weight": opened, "norm.bias": opened}
    for part, slots in parts.items():
        for moment in moments[f"{name}.{part}"]:
            moment.masked_fill_(slots, 0)


@torch.no_grad()
def _shape(unit: GatedUnit) -> list[Tensor]:
    """Copies, distinct channels copied, most copies of one, mean and greatest |shift| of copies."""
    if not isinstance(unit, SelectiveUnit):
        return [unit.gate.new_zeros(()) for _ in range(5)]
    counts, reads = copies(unit), unit.source >= 0
    size = unit.shift.abs().amax(1) * reads
    mean = size.sum() / reads.sum().clamp(min=1)
    return [reads.sum().float(), (counts > 0).sum().float(), counts.max(), mean, size.max()]
