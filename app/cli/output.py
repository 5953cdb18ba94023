"""What the commands print: text for people, JSON for machines."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

# C0 and C1 without tab and newline, and the marks that reverse the direction of writing
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
BREAKS = re.compile("[\t-\r\x1c-\x1e\x85\u2028\u2029]+")  # what ends a line or jumps in it
WIDE = 120  # characters of a line from which tables have all their columns
WATCH_EVERY_S = 2.0
PIPE_WIDTH = 200  # a file or a pipe has no width of its own


def _console(*, stderr: bool) -> Console:
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, width=width)


console = _console(stderr=False)
errors = _console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it anew until Ctrl-C")]
COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "ready": "green",
}


def plain(value: Any) -> Text:
    """A value as text: no markup is read in it, control characters are gone."""
    return value if isinstance(value, Text) else Text(printable(str(value)))


def printable(text: str) -> str:
    """The text without control characters, which could move the cursor or retitle a terminal."""
    return CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Printable, with a space for each break of the line and each tab."""
    return printable(BREAKS.sub(" ", text))


def cell(value: Any) -> Text:
    """A value as text that cannot split the row it is in."""
    return value if isinstance(value, Text) else Text(one_line(str(value)))


def say(*texts: str | Text) -> None:
    """A line for people."""
    console.print(*map(plain, texts), soft_wrap=True)


def say_secret(secret: str | None) -> None:
    """What the service shows once: in the first answer, which may have been lost on the way."""
    say(secret or "its secret was in an answer that got lost: delete it, and make another")


def complain(text: str, label: str = "error") -> None:
    """A line on standard error."""
    errors.print(Text(f"{label}:", "bold red"), plain(text), soft_wrap=True)


def echo(text: str) -> None:
    """A job's own text: unchanged into a file or a pipe, printable on a terminal."""
    typer.echo(printable(text) if console.is_terminal else text, nl=False)


def print_json(value: Any) -> None:
    """One JSON document, never wrapped or coloured."""
    typer.echo(json.dumps(value, indent=2, default=str))


def coloured(status: str) -> Text:
    """A status in its colour."""
    return Text(printable(status), COLOURS.get(status, "white"))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns without lines."""
    console.print(made(columns, rows))


def show(make: Callable[[], RenderableType], watch: bool) -> None:
    """Print what ``make`` gives; with ``watch`` in place, every 2 s, until Ctrl-C."""
    if not watch:
        console.print(make())
        return
    with suppress(KeyboardInterrupt), Live(make(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_EVERY_S)
            live.update(make(), refresh=True)


def made(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Aligned columns without lines."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*("" if each is None else cell(each) for each in row))
    return table


def size(count: float | None) -> str:
    """Bytes as people read them: ``12.3 MB``."""
    value = float(count or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds as people read them: ``2 min 05 s``."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def when(text: str | None) -> str:
    """A time of the service in the zone of this machine, to the second."""
    if not text:
        return ""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def number(value: Any) -> str:
    """A figure with four digits that count."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fields(values: Mapping[str, Any]) -> None:
    """Names and values, one a line; empty ones left out."""
    made = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        if value not in (None, "", {}, []):
            shown = number(value) if isinstance(value, float) else value
            made.add_row(Text(one_line(name), "bold"), cell(shown))
    console.print(made)


def series(answer: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Finite points (step, value) of each metric, from the answer of ``/metrics``."""
    points = {
        name: [(p["step"], p["value"]) for p in values if p["value"] is not None]
        for name, values in answer["series"].items()
    }
    return {name: values for name, values in points.items() if values}


def summary(values: dict[str, Any]) -> str:
    """Figures in one line; whole ones with all their digits."""
    return ", ".join(f"{name} {_whole(value)}" for name, value in values.items())


def _whole(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return f"{value:.0f}" if whole else number(value)
