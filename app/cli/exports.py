"""The command that writes a job where another tool reads it."""

from typing import Annotated

import typer

from app.cli import refs
from app.cli.connect import connect
from app.cli.jobs import JobRef
from app.cli.output import say
from sextant_client.exports import FORMS
from sextant_client.exports import export as export_job


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    ref: JobRef,
    to: Annotated[str, typer.Option(metavar="TARGET", help=FORMS)],
    files: Annotated[bool, typer.Option(help="Send the job's files to MLflow too")] = True,
) -> None:
    """Write a job for TensorBoard, MLflow or Hugging Face's hub, or bring that up to date."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        say(f"{job_id} is at {export_job(client, job_id, to, files=files)}")
