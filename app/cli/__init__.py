"""The console script ``sextant``: runs the service, and talks to it over HTTP.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the service cannot be reached.
"""

import sys

import typer

from app.cli import (
    datasets,
    edits,
    exports,
    happenings,
    jobs,
    keys,
    kinds,
    models,
    pipelines,
    service,
    starts,
    sweeps,
    tenants,
    top,
    upkeep,
    usage,
    webhooks,
)
from app.cli.extras import MissingExtraError
from app.cli.output import complain
from app.cli.wording import HINTS, worded
from app.local.address import StartError
from sextant_client import ApiError

app = typer.Typer(
    name="sextant",
    help="Train and analyse neural networks by published methods, as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.callback()(service.about)
service.register(app)
jobs.register(app)
pipelines.register(app)
edits.register(app)
exports.register(app)
happenings.register(app)
kinds.register(app)
starts.register(app)
top.register(app)
upkeep.register(app)
usage.register(app)
app.add_typer(datasets.app, name="datasets")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(sweeps.app, name="sweeps")
app.add_typer(tenants.app, name="tenants")
app.add_typer(webhooks.app, name="webhooks")


def main() -> None:
    """Run a command; every refusal becomes one line and an exit code."""
    try:
        app()
    except ApiError as error:
        complain(worded(error))
        if hint := HINTS.get(error.code):
            complain(hint, label="hint")
        sys.exit(3 if error.code == "unreachable" else 1)
    except (MissingExtraError, StartError, ValueError, OSError) as error:
        complain(str(error))
        sys.exit(1)
