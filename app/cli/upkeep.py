"""Commands that keep the state safe: backup, restore, verify, gc; for the operator's machine."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.database import open_database
from app.cli.output import AsJson, complain, fields, say

Folder = Annotated[Path, typer.Argument(help="Folder of the backup")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (backup, restore, verify, gc):
        app.command()(command)


def backup(
    folder: Folder,
    files: Annotated[
        bool, typer.Option(help="Copy the store too; without, a bucket needs a copy of its own")
    ] = True,
) -> None:
    """Copy database and files into a new folder while the service runs.

    Exit code 1 if a file is missing or damaged in the store; all others are in the backup.
    """
    open_database()
    from app.services import backup as backups

    made = backups.make(folder, files=files)
    rows = sum(each.rows for each in made.manifest.tables.values())
    say(f"{folder}: {rows} rows, {made.manifest.files} files, {output.size(made.manifest.bytes)}")
    say("the pepper is not in it: keep SEXTANT_AUTH_PEPPER, or the file pepper, elsewhere")
    _end(made.faults)


def restore(folder: Folder) -> None:
    """Fill an empty database and store from a backup; no service may run on them."""
    open_database()
    from app.services.restore import restore as bring_back

    manifest = bring_back(folder)
    rows = sum(each.rows for each in manifest.tables.values())
    say(f"{rows} rows and {manifest.files} files of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC")
    say("jobs that ran are queued again; start the service with the pepper of the old one")


def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A backup; the service's own store where left out")
    ] = None,
) -> None:
    """Read every file and compare it with its SHA-256; exit code 1 if one is wrong."""
    open_database()
    from app.services import backup as backups
    from app.services import verify as verification

    if folder is not None:
        faults = [*backups.check(folder)]
    else:
        checked = [*verification.faults()]
        say(f"{len(checked)} files read")
        faults = [fault for fault in checked if fault is not None]
    if not faults:
        say("all is as it should be")
    _end(faults)


def _end(faults: list[str]) -> None:
    for fault in faults:
        complain(fault)
    if faults:
        raise typer.Exit(1)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nobody needs any more; workers do it by themselves now and then."""
    open_database()
    from app.services import collection, garbage

    waiting = garbage.find()
    if as_json:
        output.print_json(waiting._asdict())
    else:
        fields(
            {
                "deleted jobs": waiting.deleted_jobs,
                "replaced files": _counted(waiting.replaced_files, waiting.replaced_bytes),
                "objects without a row": _counted(waiting.lost_objects, waiting.lost_bytes),
            }
        )
    if dry_run:
        return
    for chore in (collection.collect, collection.sweep):
        for _ in chore():
            pass


def _counted(count: int, size_bytes: int) -> str:
    return f"{count} ({output.size(size_bytes)})"
