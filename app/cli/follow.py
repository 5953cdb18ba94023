"""Follows a job on the terminal: progress bar, rate, time left, loss; then what came of it."""

from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from app.cli.output import (
    coloured,
    console,
    duration,
    fields,
    one_line,
    plain,
    printable,
    say,
    size,
    table,
)
from sextant_client import Client
from sextant_client.stream import StreamedEvent

SHOWN_FIGURES = 24
INTERRUPTED = 130  # exit code of what Ctrl-C ended
FINAL = {"succeeded", "failed", "cancelled"}
LINE_EVERY_S = 10.0  # where no bar can move, in a file or a pipe


FIELDS = ("state", "rate", "left", "loss")


class Watcher:
    """Turns the events of a job into one line that moves, and a few that stay."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._title = one_line(title)
        self._printed_at = monotonic()
        self._task = bar.add_task(self._title, total=None, state="", rate="", left="", loss="")

    def on_event(self, event: StreamedEvent) -> None:
        """Take one event of the job."""
        data = event["data"]
        if event["type"] == "progress":
            self._progress(data)
        elif event["type"] == "metric":
            self._metric(data.get("values") or {})
        elif event["type"] == "status":
            reason = data.get("status_reason")
            state = f"{data['status']} ({reason})" if reason else data["status"]
            self._bar.update(self._task, state=state)
            if data["status"] in FINAL:
                self._bar.update(self._task, left="")
            # the last progress may have come before the last step
            if data["status"] == "succeeded":
                total = self._bar.tasks[self._task].total or 1
                self._bar.update(self._task, completed=total, total=total)
        elif event["type"] == "warning":
            self._bar.console.print(Text("warning:", "yellow"), plain(data.get("message")))
        self._print_line()

    def _print_line(self) -> None:
        """A line now and then where the bar cannot be seen."""
        if self._bar.console.is_terminal or monotonic() - self._printed_at < LINE_EVERY_S:
            return
        self._printed_at = monotonic()
        task = self._bar.tasks[self._task]
        shown = [f"{task.percentage:.0f} %", *(task.fields[name] for name in FIELDS)]
        say(f"{self._title}: {', '.join(filter(None, shown))}")

    def _progress(self, data: dict[str, Any]) -> None:
        rate, left = data.get("rate"), data.get("eta_s")
        unit = data.get("rate_unit") or "1/s"
        self._bar.update(
            self._task,
            state=printable(data.get("phase") or "running"),
            completed=data.get("step") or 0,
            total=data.get("total_steps"),
            rate=f"{rate:.3g} {unit}" if rate else "",
            left=f"{duration(left)} left" if left else "",
        )

    def _metric(self, values: dict[str, Any]) -> None:
        for name in ("loss", "baseline_loss"):
            if isinstance(values.get(name), float | int):
                self._bar.update(self._task, loss=f"{name} {values[name]:.4f}")


def follow(client: Client, job: dict[str, Any], title: str | None = None) -> dict[str, Any]:
    """Watch a job until it is final; returns it then.

    Raises:
        Exit: after Ctrl-C, which leaves the job alone.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[state]}", style="cyan", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[loss]}", style="magenta"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        watcher = Watcher(bar, title or job["name"] or job["kind"])
        try:
            return client.wait(job["id"], on_event=watcher.on_event)
        except KeyboardInterrupt:
            bar.stop()
            _leave(job["id"])
            raise typer.Exit(INTERRUPTED) from None


def _leave(job_id: str) -> None:
    """What goes on without the watcher, and the ways back."""
    say("stopped watching; the job goes on:")
    say(f"  sextant follow {job_id}   watches it again")
    say(f"  sextant cancel {job_id}   ends it")


def report(client: Client, job: dict[str, Any]) -> None:
    """What came of a final job: its figures, its files, or why it failed."""
    say(job["id"], coloured(job["status"]))
    if error := job["error"]:
        say(f"{error['code']}: {error['message']}")
        if error.get("hint"):
            say(f"hint: {error['hint']}")
    figures = list(flat(job["result"] or {}))
    fields(dict(figures[:SHOWN_FIGURES]))
    if (more := len(figures) - SHOWN_FIGURES) > 0:
        say(f"and {more} more figures, by sextant show {job['id']} --json")
    artifacts = client.artifacts(job["id"])
    table(
        ("role", "file", "size"),
        ((each["role"], each["name"], size(each["size_bytes"])) for each in artifacts),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | int | str]]:
    """Numbers and texts of a result, those of groups as ``group.name``; lists are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, float | int | str):
            yield f"{prefix}{name}", value
