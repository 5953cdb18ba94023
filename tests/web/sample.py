"""Jobs in every status with numbers, files and logs, for the page to show."""

import csv
import io
import json
import math
import struct
import zlib
from pathlib import Path

from app.db.session import make_session
from app.db.tables import JobStatus
from app.schemas.errors import ReportedError
from app.services import artifacts, events, jobs, lifecycle
from models.catalog import kinds
from tests.app.factories import add_job, line, start_run, write
from tests.smallest import smallest

TRAIN = "dynamic_downsampling.train"
SPEC = smallest(TRAIN)
REPORT = """<!doctype html>
<html><head><title>r</title><style>body { font: 16px sans-serif }</style></head>
<body><h1>A report</h1><p id="words">Its own style, no script.</p>
<script>document.getElementById("words").textContent = "ran";</script>
</body></html>"""


def png(width: int = 120, height: int = 80) -> bytes:
    """A picture of a slope of colours."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (x * 255 // width, y * 255 // height, 140))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def table() -> bytes:
    """A CSV file of a few rows."""
    text = io.StringIO()
    rows = [("step", "loss"), *((step, round(1 / (step + 1), 4)) for step in range(12))]
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def report_steps(run, first: int, last: int, pace: float = 90) -> None:
    """Numbers and progress of the steps ``first`` to ``last - 1`` of 400; losses fall by pace."""
    lines = []
    for step in range(first, last):
        wave = 0.08 * math.sin(step * 1.7) * math.sin(step * 0.31)
        values = {"loss": 2.3 * math.exp(-step / pace) + 0.06 + wave, "lr": 0.1 * (1 - step / 400)}
        values["baseline_loss"] = 2.3 * math.exp(-step / (1.45 * pace)) + 0.09 + wave / 2
        if step % 20 == 19:
            values["test_accuracy"] = 0.98 - 0.88 * math.exp(-step / (0.9 * pace))
            values["baseline_test_accuracy"] = 0.965 - 0.86 * math.exp(-step / (1.2 * pace))
        lines.append(line(type="metric", step=step, values=values))
    lines.append(line(type="progress", step=last, total_steps=400, phase="training", unit="step"))
    with make_session() as session:
        assert events.record_many(session, run, lines)


def put(run, folder: Path, name: str, role: str, content: bytes) -> None:
    """A file of a run."""
    assert artifacts.store(run, write(folder / name, content), role, name)


def put_log(run, folder: Path, lines: int = 60) -> None:
    """The log of a run."""
    text = "".join(f"step {n:4d}  loss {1 / (n + 1):.4f}\n" for n in range(lines))
    artifacts.put_log(run, write(folder / "log.txt", text.encode()))


def training(
    folder: Path,
    name: str = "digits, periodic 3 of 5",
    steps: int = 400,
    pace: float = 90,
    **values,
):
    """A run of a training with numbers, files and a log; still running."""
    run = start_run(
        name=name,
        kind=TRAIN,
        method="dynamic_downsampling",
        spec=SPEC,
        resolved_spec=kinds()[TRAIN].model_validate(SPEC).model_dump(mode="json"),
        **values,
    )
    with make_session() as session:
        lifecycle.mark_running(session, run)
    report_steps(run, 0, steps, pace)
    put_log(run, folder)
    put(run, folder, "curves.png", "image", png())
    put(run, folder, "curves.svg", "figure", b"<svg/>")
    put(run, folder, "history.csv", "table", table())
    put(run, folder, "report.json", "report", json.dumps({"test_accuracy": 0.977}).encode())
    put(run, folder, "report.html", "report", REPORT.encode())
    put(run, folder, "weights.safetensors", "weights", b"0" * 4096)
    return run


def end(run, **outcome) -> None:
    """End a run, and with it its job."""
    with make_session() as session:
        lifecycle.finish(session, run, lifecycle.Outcome(**outcome))


def every_status(folder: Path) -> dict[JobStatus, str]:
    """One job of each status, by status; the running one has half of its steps."""
    succeeded = training(folder)
    result = {"test_accuracy": 0.9775, "time_saved_share": 0.396, "seconds": 41.7, "steps": 400}
    end(succeeded, exit_code=0, result=result)
    failed = start_run(name="lost its data")
    gone = ReportedError(
        code="data_missing",
        message="the bytes of dataset 'roads' are gone",
        hint="upload it again, or name another dataset",
    )
    end(failed, exit_code=65, error=gone)
    cancelled = start_run(name="not wanted any more")
    with make_session() as session:
        jobs.cancel(session, cancelled.tenant_id, cancelled.job_id, "graceful", save=True)
    end(cancelled, exit_code=75, stop_reason="cancel")
    running = training(folder, "a longer one", 200)
    queued = add_job(name="waits for its turn")
    return {
        JobStatus.SUCCEEDED: succeeded.job_id,
        JobStatus.FAILED: failed.job_id,
        JobStatus.CANCELLED: cancelled.job_id,
        JobStatus.RUNNING: running.job_id,
        JobStatus.QUEUED: queued,
    }
