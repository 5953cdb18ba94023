"""Commands that run the service or look after it."""

import os
import signal
import sys
import threading
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.text import Text

from app.cli import connect, output
from app.cli.extras import require
from app.cli.output import AsJson, say, table
from app.settings import Settings, get_settings, unknown_variables

MARKS = {True: Text("ok", "green"), False: Text("FAIL", "red"), None: Text("none", "yellow")}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, demo, worker, doctor, version):
        app.command()(command)
    config = typer.Typer(help="Settings.")
    config.command("check")(check)
    app.add_typer(config, name="config")


def up(
    bind: Annotated[str | None, typer.Option(help="host:port of the API")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    require("embedded", "sqlalchemy", "uvicorn", "torch")
    from app.local.up import running

    if bind is not None:
        os.environ["SEXTANT_BIND"] = bind
    _interruptible()
    try:
        with running(say) as address:
            state = get_settings().state_dir
            say(f"Sextant is ready at {address.url} (interactive docs: {address.url}/docs)")
            if address.key:
                say(f"key: {address.key}")
            say(f"state: {state.resolve()}, logs in its folder logs; Ctrl-C stops everything")
            threading.Event().wait()
    except KeyboardInterrupt:
        say("stopped")


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Train on these images: a folder of images by class, of train and test parquet, "
            "or one file that `datasets import` takes",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--output", help="Folder for everything it makes")] = Path(
        "demo-output"
    ),
) -> None:
    """Start a service, run real jobs over HTTP, download their results, exit."""
    require("embedded,samples", "sqlalchemy", "uvicorn", "torch", "sklearn")
    from app.cli import demo as demonstration

    _interruptible()
    if not demonstration.run(folder, data):
        raise typer.Exit(1)


def _interruptible() -> None:
    """SIGTERM and a closed terminal end the process as Ctrl-C does: in order."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def worker(
    drain_after: Annotated[
        float | None,
        typer.Option(
            min=1, help="Leave after so many seconds; runs are saved and go back to the queue"
        ),
    ] = None,
    leave_idle: Annotated[
        float | None, typer.Option(min=1, help="Leave after so many seconds without work")
    ] = None,
) -> None:
    """Run a worker; it takes the place of this process."""
    require("worker", "celery", "torch")
    if drain_after is not None:
        os.environ["SEXTANT_WORKER_DRAIN_AFTER_S"] = str(drain_after)
    if leave_idle is not None:
        os.environ["SEXTANT_WORKER_LEAVE_IDLE_S"] = str(leave_idle)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers"])  # noqa: S606  # our own command


def doctor(
    only: Annotated[list[str] | None, typer.Option(help="Only this check; repeatable")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this installation, and the running service if there is one."""
    from app.local import doctor as examination

    findings = examination.examine(only)
    if as_json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        table(("", "check", "found"), ((MARKS[f.ok], f.check, f.found) for f in findings))
        for finding in findings:
            if finding.hint:
                say(Text(f"{finding.check}:", "bold"), finding.hint)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def check(as_json: AsJson = False) -> None:
    """Print the settings in effect, secrets masked; complain of unknown ones."""
    if unknown := unknown_variables():
        known = ", ".join(f"SEXTANT_{name.upper()}" for name in Settings.model_fields)
        raise ValueError(f"unknown settings {', '.join(unknown)}; there are {known}")
    settings = get_settings()
    values = {name: _masked(getattr(settings, name)) for name in Settings.model_fields}
    address = {"url": connect.service_url(), "key": _masked(SecretStr(connect.service_key() or ""))}
    if as_json:
        output.print_json(values | address)
        return
    meanings = {name: field.description for name, field in Settings.model_fields.items()} | {
        "url": "Service that the commands talk to",
        "key": "Key that they send",
    }
    rows = (
        (f"SEXTANT_{name.upper()}", value, meanings[name])
        for name, value in (address | values).items()
    )
    table(("setting", "value", "meaning"), rows)


def _masked(value: Any) -> Any:
    """Without secrets, those inside of addresses too."""
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, str) and "@" in value and "://" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://********@{rest.rpartition('@')[2]}"
    return value


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


def about(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version"),
    ] = False,
) -> None:
    """Train and analyse neural networks by published methods, as a service."""


def version() -> None:
    """Print the version."""
    say(f"sextant {version_of('sextant-jobs')}")
