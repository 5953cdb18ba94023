"""A child without torch: the real entry point ``models.__main__`` around a stub method.

Started by ``SEXTANT_WORKER_COMMAND="python stub.py BEHAVIOUR"``; see BEHAVIOURS at the end.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import models.__main__ as entry
from models.core.errors import DataError
from models.core.run import Run, StoppedError

STEPS = int(os.environ.get("LC_STUB_STEPS", "20"))  # LC_ passes the runner's allow-list
STEP_S = float(os.environ.get("LC_STUB_STEP_S", "0.02"))
HOLD = Path(os.environ.get("LC_STUB_JOURNAL", "nowhere"), "hold")  # while it is there nobody passes


def steps(spec, run: Run) -> None:
    """Count to STEPS, with a checkpoint each 5; the last file tells the sum of all steps.

    Halfway it waits as long as the test holds it.
    """
    first, total = 1, 0
    if run.resume:
        first, total = (int(word) for word in run.resume.read_text().split())
    for step in range(first, STEPS + 1):
        time.sleep(STEP_S)
        total += step
        run.log(step, loss=1.0 / step)
        run.progress(step, STEPS)
        if step % 5 == 0:
            _save(run, step, total)
        while step == STEPS // 2 and HOLD.exists() and not run.stopping:
            time.sleep(0.02)
        if run.stopping:
            if run.stop_wants_checkpoint and step % 5:
                _save(run, step, total)
            run.check_stop()
    (run.dir / "weights.safetensors").write_text(str(total))
    run.artifact("weights.safetensors", "weights")
    run.result(total=total)


def _save(run: Run, step: int, total: int) -> None:
    name = f"checkpoints/step-{step:08d}.safetensors"
    (run.dir / "checkpoints").mkdir(exist_ok=True)
    (run.dir / name).write_text(f"{step + 1} {total}")
    run.artifact(name, "checkpoint", step=step)


def crash(spec, run: Run) -> None:
    """Die like a segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)


def deaf(spec, run: Run) -> None:
    """Never look at a stop, not even at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


def flood(spec, run: Run) -> None:
    """Pour out 64 MiB of log and some broken event lines."""
    print("first line")  # noqa: T201
    for _ in range(64):
        os.write(1, b"x" * 2**20)
    run._events.write("this is no JSON\n" + "y" * 70_000 + "\n")
    run._events.flush()
    print("\nlast line")  # noqa: T201
    run.result(done=True)


def full(spec, run: Run) -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def greedy(spec, run: Run) -> None:
    """Hold 400 MiB until stopped."""
    held = bytearray(400 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    while not run.stopping:
        time.sleep(0.05)
    raise StoppedError


def parent(spec, run: Run) -> None:
    """Leave a grandchild behind that holds every descriptor open."""
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"], close_fds=False
    )
    (run.dir / "sleeper").write_text(str(sleeper.pid))
    run.artifact("sleeper", "report")
    run.result(sleeper=sleeper.pid)


def big(spec, run: Run) -> None:
    """Leave a file of 2 MiB."""
    (run.dir / "weights.safetensors").write_bytes(bytes(2 * 2**20))
    run.artifact("weights.safetensors", "weights")
    run.result(done=True)


def nul(spec, run: Run) -> None:
    """End with a text that no database holds."""
    raise DataError("the tensor x\0y \ud800 is not finite")


def storm(spec, run: Run) -> None:
    """Send warnings as fast as the pipe takes them, until stopped."""
    number = 0
    while not run.stopping:
        number += 1
        run.warn("storm", f"warning {number} {'x' * 200}")
    raise StoppedError


def many(spec, run: Run) -> None:
    """Leave 3,000 small files at once."""
    for number in range(3000):
        (run.dir / f"{number}.txt").write_text(str(number))
        run.artifact(f"{number}.txt", "report")
    run.result(done=True)


def slip(spec, run: Run) -> None:
    """Send a line that is too long, whose end would be an event by itself, and one more."""
    forged = '{"type": "result", "values": {"forged": true}}'
    run._events.write("z" * 65_536 + forged + "\n")
    run._events.flush()
    run.warn("after", "the next line counts again")


def reach(spec, run: Run) -> None:
    """Try what a child must not do, each named in LC_REACH; tell what came of it."""
    tries = json.loads(os.environ["LC_REACH"])
    found = {name: _outcome(name, argument) for name, argument in tries.items()}
    run.result(**found)


def _outcome(name: str, argument: str) -> str:
    try:
        ATTEMPTS[name.partition("_")[0]](argument)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


ATTEMPTS = {
    "read": lambda path: Path(path).read_bytes(),
    "write": lambda path: Path(path).write_bytes(b"changed"),
    "list": os.listdir,
    "chmod": lambda path: Path(path).chmod(0o666),
    "remove": os.unlink,
    "kill": lambda pid: os.kill(int(pid), signal.SIGCONT),
    "tcp": lambda port: socket.create_connection(("127.0.0.1", int(port)), 5),
    "udp": lambda _port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda path: socket.socket(socket.AF_UNIX).connect(path),
    "trace": lambda _: _checked_call(101 if os.uname().machine == "x86_64" else 117),
}


def _checked_call(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 16, os.getppid(), 0, 0) < 0:  # ptrace: attach
        raise OSError(ctypes.get_errno(), "refused")


def daemon(spec, run: Run) -> None:
    """Leave a grandchild with a session of its own, which no signal to a group reaches."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            for descriptor in range(3, 64):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            time.sleep(300)
        os._exit(0)
    pid = int(os.read(reader, 20))
    (run.dir / "daemon").write_text(str(pid))
    run.result(daemon=pid)
    if os.environ.get("LC_STAY"):
        time.sleep(300)


def huge(spec, run: Run) -> None:
    """Make a file of 10 GiB, of which nothing lies on the disk."""
    with (run.dir / "huge").open("wb") as file:
        file.truncate(10 * 2**30)


BEHAVIOURS = {
    f.__name__: f
    for f in (
        *(steps, crash, deaf, flood, full, greedy, parent, big, nul, storm, many, slip),
        *(reach, daemon, huge),
    )
}


def watch_for_overlap() -> object | None:
    """Hold a lock on the job's name for life; a second process at the same time leaves a mark."""
    journal = os.environ.get("LC_STUB_JOURNAL")
    if journal is None or "run" not in sys.argv:  # a check may not write there
        return None
    folder = Path(sys.argv[-1]).name
    job, _, _number = folder.rpartition("-r")
    lock = (Path(journal) / f"{job}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (Path(journal) / f"{job}.overlap").touch()
    (Path(journal) / f"{folder}.started").touch()
    return lock


if __name__ == "__main__":
    held = watch_for_overlap()
    behaviour = sys.argv.pop(1)
    stub_device = types.ModuleType("models.core.device")
    stub_device.pick = lambda: "cpu"
    stub_device.describe = lambda _device: {"device_name": "stub"}
    stub_device.make_deterministic = lambda: None
    stub_device.use_threads = lambda _count: None
    sys.modules["models.core.device"] = stub_device
    import models.core

    models.core.device = stub_device
    entry.load_entry = lambda _spec: BEHAVIOURS[behaviour]
    sys.exit(entry.main())
