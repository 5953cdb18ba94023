"""Commands about API keys."""

from typing import Annotated

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.extras import require
from app.cli.output import AsJson, say, table, when
from app.local.address import admin_key
from app.settings import get_settings

app = typer.Typer(help="API keys; a key with scope admin is needed.")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    with connect() as client:
        listed = client.keys()
    if as_json:
        output.print_json(listed)
        return
    rows = (
        (k["id"], k["name"], " ".join(k["scopes"]), when(k["last_used_at"]), when(k["revoked_at"]))
        for k in listed
    )
    table(("key", "name", "scopes", "last used", "revoked"), rows)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For people")] = "admin",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="jobs:read, jobs:write, datasets:read, datasets:write, admin; repeat it"),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="The very first key, made in the database itself")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key; its secret is shown this once."""
    if first:
        say(_first_key())
        return
    with connect() as client:
        key = client.create_key(name, scope or ["jobs:read", "jobs:write", "datasets:read"])
    if as_json:
        output.print_json(key)
        return
    say(f"{key['id']} may {', '.join(key['scopes'])}")
    say(key["key"])


def _first_key() -> str:
    """The admin key of a new installation; needs the database, not a running API."""
    require("server", "alembic", "sqlalchemy")
    from app.db import migrate
    from app.db.session import get_engine, make_session
    from app.private import keep_private
    from app.services.keys import ensure_admin_key

    keep_private()
    migrate.upgrade(get_engine())
    with make_session() as session:
        created = ensure_admin_key(session)
    key = created or admin_key(get_settings())
    if key is None:
        raise ValueError("there are keys already; make more with an admin key in SEXTANT_KEY")
    return key


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key")]) -> None:
    """Revoke a key at once."""
    with connect() as client:
        client.revoke_key(key_id)
    say(f"{key_id} is revoked")
