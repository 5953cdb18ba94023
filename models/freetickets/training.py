"""The state of a FreeTickets job: net, masks, timetable, tickets."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from models.core import checkpoint
from models.core.run import Run
from models.data.images import ImageData
from models.freetickets.spec import FreeTicketsTrain
from models.freetickets.timetable import Phase, Update
from models.freetickets.topology import Topology
from models.nets import tickets
from models.nets.tickets import Form, Ticket
from models.supervised import card

CHANGE_COLUMNS = ("step", "escape", "prune_rate", "dropped", "regrown")


@dataclass
class Training:
    """A net on its way to tickets.

    Attributes:
        plan: phases of the job.
        updates: ordinary updates by steps done.
        kept: room for each ticket; filled in order.
        change_rows: a row of CHANGE_COLUMNS for each change of the masks, zeros until then.
        change_ms: milliseconds of each change in this process.
        unmasked: further weights of a net of a library, by name, with why they stay dense.
        fresh: tensors of its classifier that do not come from the weights of the spec.
    """

    spec: FreeTicketsTrain
    data: ImageData
    run: Run
    net: nn.Module
    topology: Topology
    form: Form
    plan: list[Phase]
    updates: dict[int, Update]
    kept: list[Ticket]
    change_rows: Tensor
    change_ms: list[float] = field(default_factory=list)
    unmasked: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    def extras(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps beside net and optimizer.

        Masks [out, in, ...], tickets (flat values and bits), and the rows [changes, columns].
        """
        packed = {f"ticket.{m}.{k}": x for m, t in enumerate(self.kept) for k, x in t.items()}
        return {**self.topology.tensors(), **packed, "told": self.change_rows}

    @property
    def total(self) -> int:
        """Steps of the job."""
        return self.plan[-1].stop

    @property
    def whole(self) -> int:
        """Steps of progress: of the training, and one for each test after it."""
        return self.total + self.spec.tests

    def changes(self) -> list[dict[str, int | float]]:
        """Each change of the masks so far, in order."""
        rows = self.change_rows[self.change_rows[:, 0] > 0].tolist()
        whole = {"step", "escape", "dropped", "regrown"}
        names = CHANGE_COLUMNS
        return [
            {n: int(x) if n in whole else x for n, x in zip(names, row, strict=True)}
            for row in rows
        ]

    def leave_ticket(self, number: int, done: int) -> None:
        """Write a ticket as the weights of a plain net, for any kind that takes one."""
        name = f"tickets/ticket-{number}.safetensors"
        about = card.make(
            self.spec, self.data, self.net, self.run.device, {}
        )  # it is tested at the end
        about |= {"ticket": number, "step": done}
        state = tickets.state_of(self.kept[number], self.form)
        checkpoint.write(self.run.dir / name, state, about)
        self.run.artifact(name, role="weights", step=done, ticket=number)

    @property
    def ends(self) -> dict[int, Phase]:
        """Phases by the steps done at their end."""
        return {phase.stop: phase for phase in self.plan}
