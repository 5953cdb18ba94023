"""What a job over a range of images has done: numbers, warnings, maps of the open chunk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.core import checkpoint
from models.core.errors import DataError
from models.core.run import Run


@dataclass
class RangeProgress:
    """All that a later run of the same job needs; chunks that are full are files already.

    Attributes:
        targets: of each image, int64 [k].
        numbers: of each image, float64 [k, columns].
        pending: maps of the images of the chunk that is not full yet, float32 [cells, k, h, w].
        rows: rows through the net.
        warned: by code, how often, and the text of the first.
    """

    targets: list[np.ndarray] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    pending: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    warned: dict[str, tuple[int, str]] = field(default_factory=dict)

    def count_warnings(self, warn: Callable[[str, str], None]) -> Callable[[str, str], None]:
        """A function that passes the first warning of each code on, and counts the others."""

        def counted(code: str, message: str) -> None:
            if code not in self.warned:
                warn(code, message)
            count, first = self.warned.get(code, (0, message))
            self.warned[code] = count + 1, first

        return counted

    def save(self, run: Run) -> None:
        """Leave a checkpoint."""
        done = len(self.targets)
        tensors: dict[str, Tensor] = {
            name: torch.from_numpy(np.stack(values))
            for name, values in (
                ("targets", self.targets),
                ("numbers", self.numbers),
                ("pending", self.pending),
            )
            if values
        }
        name = checkpoint.name_of(done)
        about = {"rows": self.rows, "warned": self.warned}
        checkpoint.write(run.dir / name, tensors or {"none": torch.zeros(1)}, {"range": about})
        run.artifact(name, role="checkpoint", step=done)

    @staticmethod
    def restored(run: Run) -> "RangeProgress":
        """What an earlier run of the job has left, or nothing.

        Raises:
            DataError: if the file is damaged or of another kind of job.
        """
        if run.resume is None:
            return RangeProgress()
        tensors, about = checkpoint.read(run.resume)
        if "range" not in about:
            raise DataError(f"{run.resume.name} is no checkpoint of maps of a range of images")
        kept: Any = about["range"]
        lists = [
            list(tensors[name].numpy()) if name in tensors else []
            for name in ("targets", "numbers", "pending")
        ]
        warned = {code: (count, first) for code, (count, first) in kept["warned"].items()}
        return RangeProgress(*lists, kept["rows"], warned)
