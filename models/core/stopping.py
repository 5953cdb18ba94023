"""The end of a step: whether to save and to stop, decided by the first rank for all."""

from typing import NamedTuple

from models.core import ranks
from models.core.run import Run


class StepEnd(NamedTuple):
    """What the first rank decided; clocks and stop requests differ between ranks.

    Attributes:
        stops: whether a stop was requested.
        stop_saves: whether that stop asks for a checkpoint.
        checkpoint_due: whether the checkpoint interval has passed.
        over_time: whether the training has used up its seconds, where they are limited.
    """

    stops: bool
    stop_saves: bool
    checkpoint_due: bool
    over_time: bool

    @classmethod
    def decide(cls, run: Run, *, over_time: bool = False) -> "StepEnd":
        """Call once a step, on every rank."""
        flags = (run.stopping, run.stop_wants_checkpoint, run.checkpoint_due(), over_time)
        return cls(*ranks.broadcast_flags(*flags))

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is due or asked for."""
        return self.stop_saves or self.checkpoint_due

    def stop_if_requested(self, run: Run) -> None:
        """End this rank's run where the first rank decided to stop; call after saving.

        Raises:
            StoppedError: if a stop was requested.
        """
        if not self.stops:
            return
        if not run.stopping:
            run.request_stop("the first rank was asked to stop", save=self.stop_saves)
        run.check_stop()
