"""Several processes for one run, one a GPU, under torchrun.

torchrun gives each rank a session of its own and passes no descriptors. So this process keeps the
event and control pipes and speaks to the ranks through FIFOs in the run's folder: rank 0 reports
through one; stop requests reach each rank through one of its own, whose end of file says that this
process is gone.
"""

import json
import os
import selectors
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from models.core.run import Run, StoppedError

EVENTS = "ranks.events"
EXIT_CODE = "ranks.exit"
TICK_S = 0.2
OWN_LINES = ("hello", "bye")  # this process sends its own


class RanksEndedError(Exception):
    """The ranks failed and have reported why; this process ends with the exit code of rank 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the ranks ended with exit code {exit_code}")
        self.exit_code = exit_code


def torchrun(run: Run, ranks: int) -> None:
    """Carry out the run in ``ranks`` processes and relay what rank 0 reports.

    Raises:
        StoppedError: if a stop was requested and the ranks obeyed.
        RanksEndedError: if they failed.
    """
    for name in (EVENTS, *(control_name(rank) for rank in range(ranks))):
        (run.dir / name).unlink(missing_ok=True)
        os.mkfifo(run.dir / name)
    (run.dir / EXIT_CODE).unlink(missing_ok=True)
    with ExitStack() as stack:
        # Read and write at once: opening waits for nobody, and nobody's leaving ends the stream.
        fifos = [_open(run.dir / control_name(rank), stack) for rank in range(ranks)]
        events = _open(run.dir / EVENTS, stack)
        # torchrun leaves the folder of its logs, which here are none, behind
        logs = stack.enter_context(TemporaryDirectory(prefix="sextant-ranks-"))
        command = ["--standalone", f"--nproc-per-node={ranks}", f"--log-dir={logs}"]
        command += ["-m", "models", "run", str(run.dir)]
        process = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *command])  # noqa: S603  # our own
        _relay(run, process, events, fifos)
    if process.returncode == 0:
        return
    if run.stopping:
        raise StoppedError("the ranks have stopped")
    code = run.dir / EXIT_CODE
    if not code.exists():
        raise RuntimeError("a rank died without a word; the log tells what torchrun saw")
    # Once rank 0 is done all is written, whatever becomes of the others.
    if exit_code := int(code.read_text()):
        raise RanksEndedError(exit_code)


def control_name(rank: int) -> str:
    """Name of the FIFO through which stop requests reach a rank."""
    return f"ranks.control-{rank}"


def _open(path: Path, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    stack.callback(os.close, descriptor)
    return descriptor


def _relay(run: Run, process: subprocess.Popen[bytes], events: int, fifos: list[int]) -> None:
    """Pass lines up and a stop request down until the ranks have ended and all lines are read."""
    forwarded, rest = False, b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            if run.stopping and not forwarded:
                request = {"reason": "relayed", "save": run.stop_wants_checkpoint}
                for fifo in fifos:
                    os.write(fifo, json.dumps({"stop": request}).encode() + b"\n")
                forwarded = True
            if selector.select(0 if ended else TICK_S):
                *lines, rest = (rest + os.read(events, 65_536)).split(b"\n")
                for line in lines:
                    _pass_on(run, json.loads(line))
            elif ended:
                return


def _pass_on(run: Run, event: dict[str, object]) -> None:
    kind = str(event.pop("type"))
    if kind not in OWN_LINES:
        run.emit(kind, **event)


class Rank:
    """This process as one of several: where it reports, and how it tells how it ended.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = int(os.environ["RANK"])

    def open_events(self) -> int:
        """Descriptor to report to; nobody listens to ranks other than 0."""
        name = str(self.folder / EVENTS) if self.index == 0 else os.devnull
        return os.open(name, os.O_WRONLY)

    def open_control(self) -> int:
        """Descriptor of stop requests; it ends when the launching process does."""
        return os.open(self.folder / control_name(self.index), os.O_RDONLY)

    def leave(self, exit_code: int) -> None:
        """Tell the launching process, which sees only torchrun's own exit code."""
        if self.index == 0:
            (self.folder / EXIT_CODE).write_text(str(exit_code))


def this_rank(folder: Path) -> Rank | None:
    """The rank that torchrun started this process as; None in an ordinary process."""
    return Rank(folder) if "TORCHELASTIC_RUN_ID" in os.environ else None
