"""Commands about tenants, in the database itself: they are the operator's, not a key's."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import output
from app.cli.database import operator_session
from app.cli.output import AsJson, say, table, when

if TYPE_CHECKING:
    from app.db.tables import Tenant

NO_LIMIT, DEFAULT = "none", "default"

app = typer.Typer(help="Tenants; works in the service's database, on its machine.")

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name or id of the tenant")]


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List the tenants."""
    from app.services import tenants

    with operator_session() as session:
        listed = [_described(tenant) for tenant in tenants.list_all(session)]
    if as_json:
        output.print_json(listed)
        return
    rows = ((t["name"], t["id"], when(t["disabled_at"]), _quotas(t["quotas"])) for t in listed)
    table(("tenant", "id", "disabled", "quotas of its own"), rows)


def _described(tenant: "Tenant") -> dict[str, Any]:
    disabled_at = tenant.disabled_at and tenant.disabled_at.isoformat()
    return {
        "id": tenant.id,
        "name": tenant.name,
        "disabled_at": disabled_at,
        "quotas": tenant.quotas,
    }


def _quotas(quotas: dict[str, int | None]) -> str:
    return " ".join(f"{n}={NO_LIMIT if v is None else v}" for n, v in quotas.items())


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_' and '-'")],
    as_json: AsJson = False,
) -> None:
    """Make a tenant; `sextant keys create --tenant` makes its first key."""
    from app.services import tenants

    with operator_session() as session:
        made = _described(tenants.create(session, name))
    if as_json:
        output.print_json(made)
        return
    say(f"{made['name']} is {made['id']}")
    say(f"its first key: sextant keys create admin --tenant {name} --scope admin")


@app.command("set")
def set_quotas(
    name: TenantName,
    quotas: Annotated[
        list[str], typer.Argument(metavar="QUOTA=VALUE", help="a number, `none` or `default`")
    ],
) -> None:
    """Set quotas of a tenant: queued_jobs=500 stored_bytes=none writes_a_minute=default."""
    from app.services import tenants

    with operator_session() as session:
        tenant = tenants.find(session, name)
        tenants.set_quotas(tenant, dict(map(_parse, quotas)))
        said = _quotas(tenant.quotas)
    say(f"{tenant.name}: {said or 'every quota is the default'}")


def _parse(text: str) -> tuple[str, int | str | None]:
    name, _, value = text.partition("=")
    if value.isascii() and value.isdecimal():
        return name, int(value)
    if value not in (NO_LIMIT, DEFAULT):
        raise ValueError(f"{text!r}: write QUOTA=VALUE with a number, {NO_LIMIT} or {DEFAULT}")
    return name, None if value == NO_LIMIT else DEFAULT


@app.command()
def disable(
    name: TenantName,
    stop_jobs: Annotated[
        bool, typer.Option("--stop-jobs", help="Cancel its queued and running jobs too")
    ] = False,
) -> None:
    """Refuse the tenant's keys and start none of its jobs, until it is enabled."""
    from app.services import jobs, sweeps, tenants

    with operator_session() as session:
        tenant = tenants.find(session, name)
        tenants.disable(session, tenant)
        if stop_jobs:
            sweeps.cancel_all(session, tenant.id)  # first: they would make others
        stopped = jobs.cancel_all(session, tenant.id) if stop_jobs else None
    say(f"{tenant.name} is disabled: its keys are refused, its queued jobs wait")
    if stopped is not None:
        say(f"asked {stopped} jobs to stop")


@app.command()
def enable(name: TenantName) -> None:
    """Take a disable back: the same keys are valid again, waiting jobs start."""
    from app.services import tenants

    with operator_session() as session:
        tenants.enable(tenants.find(session, name))
    say(f"{name} is enabled")
