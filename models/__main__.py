"""The child process of a run, and the same by hand.

``python -m models run RUN_DIR`` carries out ``RUN_DIR/spec.json``; ``check DIR`` validates an
uploaded dataset; ``fetch NAME DIR`` downloads a public one and converts it; ``export DIR`` writes
one for Hugging Face's hub; ``serve DIR`` keeps the net of ``DIR/serve.json`` loaded and answers for
it.
"""

import argparse
import errno
import json
import math
import os
import platform
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.core import launch, serving
from models.core.errors import RunError
from models.core.run import Run, StoppedError
from models.core.spec import ArtifactRef
from models.stored import load_entry, load_serving, load_stored

EXIT_DONE, EXIT_SPEC, EXIT_INTERNAL, EXIT_STOPPED = 0, 64, 70, 75


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, do the work, and turn every end into an exit code."""
    options = _parser().parse_args(argv)
    folder = options.folder.resolve()
    rank = launch.this_rank(folder)
    if rank is not None:
        options.events, options.control = rank.open_events(), rank.open_control()
    events = open(options.events, "w", encoding="utf-8") if options.events is not None else None  # noqa: PTH123, SIM115  # a descriptor, not a path
    run = Run(folder, events)
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop("terminated"))
    signal.signal(signal.SIGINT, lambda *_: run.request_stop("interrupted"))
    if options.control is not None:
        threading.Thread(target=_obey, args=(run, options.control), daemon=True).start()
    exit_code = _guarded(run, lambda: options.action(run, options))
    if rank is not None:
        rank.leave(exit_code)
        if exit_code in (EXIT_DONE, EXIT_STOPPED):  # of all ranks; after an error some may wait
            from models.core import ranks

            ranks.leave()
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    parser.add_argument("--events", type=int, help="descriptor of the event pipe")
    parser.add_argument("--control", type=int, help="descriptor of the control pipe")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="carry out RUN_DIR/spec.json")
    run.add_argument("folder", type=Path, metavar="RUN_DIR")
    run.add_argument("--ranks", type=int, default=1, help="processes, one a GPU, under torchrun")
    run.set_defaults(action=_run)
    check = commands.add_parser("check", help="validate the dataset in DIR")
    check.add_argument("folder", type=Path, metavar="DIR")
    check.set_defaults(action=_check)
    serve = commands.add_parser("serve", help="answer for the net of DIR/serve.json")
    serve.add_argument("folder", type=Path, metavar="DIR")
    serve.set_defaults(action=_serve)
    fetch = commands.add_parser("fetch", help="download a public dataset into DIR")
    fetch.add_argument("name")
    fetch.add_argument("folder", type=Path, metavar="DIR")
    fetch.set_defaults(action=_fetch)
    export = commands.add_parser("export", help="write DIR/dataset.json for the hub into DIR/hub")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.set_defaults(action=_export)
    return parser


def _run(run: Run, options: argparse.Namespace) -> None:
    spec, warnings = load_stored(json.loads((run.dir / "spec.json").read_bytes()))
    run.emit("hello", pid=os.getpid(), versions={"python": platform.python_version()})
    if options.ranks > 1:
        launch.torchrun(run, options.ranks)
        return
    for warning in warnings:
        run.warn("spec_upgraded", warning)
    entry = load_entry(spec)
    from models.core import device  # loads torch

    run.device = device.pick()
    device.use_threads(spec.threads)
    if spec.deterministic:
        device.make_deterministic()
    described = device.describe(run.device)
    run.emit("event", event="lineage", **described)
    sys.stderr.write(f"{spec.kind} with {json.dumps(described)}\n")  # the first line of the log
    entry(spec, run)
    run.complete_progress()


def _check(run: Run, _options: argparse.Namespace) -> None:
    from models.data import files

    run.emit("hello", pid=os.getpid(), versions={"python": platform.python_version()})
    request = json.loads((run.dir / "dataset.json").read_bytes())
    options = request.get("options") or {}
    picture = run.dir / "preview.jpg"
    run.result(**files.check(run.dir / "content", request["format"], options, picture))


def _serve(run: Run, _options: argparse.Namespace) -> None:
    wires = serving.take_wires()
    request = json.loads((run.dir / "serve.json").read_bytes())
    open_net = load_serving(request["kind"])
    from models.core import device  # loads torch

    run.device = device.pick()
    serving.serve(wires, lambda: open_net(ArtifactRef(**request["model"]), run))


def _fetch(run: Run, options: argparse.Namespace) -> None:
    from models.data import fetch

    run.result(**fetch.fetch(options.name, run.dir, run))


def _export(run: Run, _options: argparse.Namespace) -> None:
    from models.data import hub

    dataset = json.loads((run.dir / "dataset.json").read_bytes())
    run.result(**hub.export(dataset, run.dir / "content", run.dir / "hub"))


def _obey(run: Run, control: int) -> None:
    """Read the worker's requests; leave at once when it is gone or has been silent too long.

    The worker says ``alive_s`` with every renewal of its lease. Without it another worker may
    already hold the job, so this process must not go on.
    """
    silent_at = math.inf
    rest = b""
    while time.monotonic() < silent_at:
        if not select.select([control], [], [], 1.0)[0]:
            continue
        if not (data := os.read(control, 4096)):
            break
        *lines, rest = (rest + data).split(b"\n")
        for request in map(json.loads, lines):
            if "alive_s" in request:
                silent_at = time.monotonic() + request["alive_s"]
            if "stop" in request:
                run.request_stop(request["stop"]["reason"], save=request["stop"]["save"])
    _leave()


def _leave() -> None:
    """End this process and, where it leads a group of its own, everything it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_STOPPED)


def _guarded(run: Run, work: Callable[[], None]) -> int:
    """Run ``work``; every exception becomes an error line and the exit code of its class."""
    try:
        work()
    except StoppedError:
        return EXIT_STOPPED
    except launch.RanksEndedError as ended:  # rank 0 has reported the error
        return ended.exit_code
    except BaseException as error:  # the last line of defence of the process
        traceback.print_exc()
        return _report(run, error)
    run.emit("bye")
    return EXIT_DONE


def _report(run: Run, error: BaseException) -> int:
    fields: dict[str, Any] = {"message": str(error)[:4000] or type(error).__name__, "hint": None}
    exit_code = EXIT_INTERNAL
    if isinstance(error, RunError):
        fields |= {"code": error.code, "hint": error.hint}
        exit_code = error.exit_code
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fields |= {"code": "storage_full", "hint": "free space in the worker's state directory"}
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        hint = (
            "a file over SEXTANT_WORKER_FILE_LIMIT_BYTES; ask for less, or whoever runs the worker"
        )
        fields |= {"code": "storage_full", "hint": f"{hint} raises it"}
    elif isinstance(error, MemoryError):
        fields["code"] = "host_out_of_memory"
    elif type(error).__name__ == "OutOfMemoryError":  # torch.cuda's, which this module never loads
        fields |= {"code": "gpu_out_of_memory", "hint": "use a smaller batch_size"}
    else:
        fields |= {"code": "internal", "message": f"{type(error).__name__}: {fields['message']}"}
    run.emit("error", **fields)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
