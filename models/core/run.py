"""The handle of a method: it reports numbers, files and warnings, and receives stop requests.

Torch-free. With a worker the lines go to its event pipe, by hand to ``RUN_DIR/events.jsonl``.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from models.core.finite import check_figures
from models.core.spec import ArtifactRef, DatasetRef

LINE_LIMIT_BYTES = 65_536  # the runner refuses longer lines
CHECKPOINT_INTERVAL_S = 60.0
VIEW = "view.json"


class StoppedError(Exception):
    """The run was asked to stop and has left what it was asked to leave; exit code 75."""


class Run:
    """One execution of a spec in a folder of its own.

    Attributes:
        dir: the run's folder: ``spec.json``, ``inputs/``, ``resume/``, and all it produces.
        device: ``cpu`` or ``cuda``, the torch device of this run.

    Args:
        folder: the run's folder.
        events: takes the lines of the event protocol; the folder's ``events.jsonl`` if None.
        device: ``cpu`` or ``cuda``.
        checkpoint_interval_s: seconds between checkpoints; None reads the environment.
    """

    def __init__(
        self,
        folder: Path,
        events: TextIO | None = None,
        device: str = "cpu",
        checkpoint_interval_s: float | None = None,
    ) -> None:
        self.dir = folder
        self.device = device
        self._events = events or (folder / "events.jsonl").open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._stop: dict[str, Any] | None = None
        self._interval_s = (
            float(os.environ.get("SEXTANT_CHECKPOINT_INTERVAL_S", CHECKPOINT_INTERVAL_S))
            if checkpoint_interval_s is None
            else checkpoint_interval_s
        )
        self._saved_at = time.monotonic()
        self._progress: dict[str, Any] = {}
        self._steps = 0

    # -- what the method reports ---------------------------------------------------------------

    def log(self, step: int, **values: float) -> None:
        """Report named numbers at a step (from 1).

        Raises:
            DivergedError: if one is not finite.
        """
        numbers = {name: float(value) for name, value in values.items()}
        check_figures(numbers, f"metrics of step {step}")
        self.emit("metric", step=step, at=time.time(), values=numbers)

    def progress(
        self,
        step: int,
        total_steps: int,
        *,
        epoch: int | None = None,
        phase: str | None = None,
        unit: str = "step",
    ) -> None:
        """Report that ``step`` of ``total_steps`` is done; the service works out rate and ETA.

        Args:
            step: steps done.
            total_steps: of the whole job.
            epoch: epochs done, where there are any.
            phase: which part of the job this is.
            unit: what ``step`` counts.
        """
        self._progress = {"total_steps": total_steps, "epoch": epoch, "phase": phase, "unit": unit}
        self._steps = step
        self.emit("progress", step=step, **self._progress)

    def complete_progress(self) -> None:
        """Report that all is done, where the work ended before its last step; once, at the end."""
        total = self._progress.get("total_steps")
        if total is not None and self._steps != total:
            self.emit("progress", step=total, **self._progress)

    def say(self, line: str) -> None:
        """Write a line for people into the log."""
        sys.stderr.write(f"{line}\n")

    def artifact(self, name: str, role: str, step: int | None = None, **metadata: Any) -> None:
        """Hand over the file ``dir / name``; it must not change afterwards.

        Raises:
            FileNotFoundError: if there is no such file in the run's folder.
        """
        if not (self.dir / name).is_file():
            raise FileNotFoundError(self.dir / name)
        self.emit("artifact", name=name, role=role, step=step, metadata=metadata)

    def figure(self, name: str, *, data: bool = False, **metadata: Any) -> None:
        """Hand over a figure that :func:`models.core.figures.save` has written.

        Args:
            name: of the PNG; the SVG stands beside it.
            data: whether a CSV with what it shows stands beside it too.
            metadata: of the PNG.
        """
        self.artifact(name, role="image", **metadata)
        for ending in (".svg", ".csv") if data else (".svg",):
            self.artifact(name.removesuffix(".png") + ending, role="figure")

    def warn(self, code: str, message: str) -> None:
        """Tell the user of something that does not end the run."""
        self.emit("event", event="warning", code=code, message=message)

    def result(self, **values: Any) -> None:
        """Report the job's result: the numbers a user asks for first.

        Raises:
            DivergedError: if one is not finite.
        """
        check_figures(values, "result")
        self.emit("result", values=values)

    def report(self, name: str, contents: Mapping[str, Any]) -> None:
        """Leave a report, ``dir / name``, as an artifact: JSON, which knows no NaN.

        Raises:
            DivergedError: if a figure is not finite.
        """
        check_figures(contents, name)
        (self.dir / name).write_text(json.dumps(contents, indent=1, allow_nan=False))
        self.artifact(name, role="report")

    def view(self, viewer: str, contents: Mapping[str, Any]) -> None:
        """Leave ``view.json``: what a viewer of the page shows of the files left before.

        Args:
            viewer: its name; docs/web.md says which there are and what each one reads.
            contents: names of files with their parts, titles and units.

        Raises:
            DivergedError: if a figure is not finite.
        """
        check_figures(contents, VIEW)
        text = json.dumps(contents, separators=(",", ":"), allow_nan=False)
        (self.dir / VIEW).write_text(text)
        self.artifact(VIEW, role="view", viewer=viewer)

    # -- what the method receives -------------------------------------------------------------

    def input(self, ref: ArtifactRef | DatasetRef) -> Path:
        """Path to the bytes of a reference; the runner has placed them by their SHA-256.

        Raises:
            FileNotFoundError: if the reference was not resolved or its bytes are not there.
        """
        path = self.dir / "inputs" / str(ref.sha256)
        if not path.is_file():
            raise FileNotFoundError(f"the bytes of {ref.model_dump()} are not in {path.parent}")
        return path

    @property
    def resume(self) -> Path | None:
        """The checkpoint to go on from, or None for a run from the start."""
        checkpoints = sorted((self.dir / "resume").glob("*.safetensors"))
        return checkpoints[-1] if checkpoints else None

    def checkpoint_due(self) -> bool:
        """Whether the checkpoint interval has passed since this last answered True."""
        due = time.monotonic() - self._saved_at >= self._interval_s
        if due:
            self._saved_at = time.monotonic()
        return due

    def request_stop(self, reason: str, *, save: bool = True) -> None:
        """Ask the method to stop at its next step; called from signal handler and pipe thread."""
        self._stop = {"reason": reason, "save": save}

    @property
    def stop_wants_checkpoint(self) -> bool:
        """Whether a requested stop asked for a checkpoint."""
        return bool(self._stop and self._stop["save"])

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop is not None

    def check_stop(self) -> None:
        """Call once a step, after saving what :attr:`stop_wants_checkpoint` asks for.

        Raises:
            StoppedError: if a stop was requested.
        """
        if self._stop is not None:
            raise StoppedError(self._stop["reason"])

    # -- the wire ----------------------------------------------------------------------------

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one line of the event protocol, ``{"type": kind, ...}``."""
        line = json.dumps({"type": kind, **fields}, allow_nan=False, default=str)
        if len(line) >= LINE_LIMIT_BYTES:
            raise ValueError(f"a line of {len(line)} bytes; the limit is {LINE_LIMIT_BYTES}")
        with self._lock:
            self._events.write(line + "\n")
            self._events.flush()
