"""Commands about API keys."""

from typing import Annotated, Any

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.database import operator_session
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
    tenant: Annotated[
        str | None, typer.Option(help="A key of this tenant, made in the database itself")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key; its secret is shown this once."""
    if first:
        say(_first_key())
        return
    scopes = scope or ["jobs:read", "jobs:write", "datasets:read"]
    if tenant is not None:
        key = _key_of(tenant, name, scopes)
    else:
        with connect() as client:
            key = client.create_key(name, scopes)
    if as_json:
        output.print_json(key)
        return
    say(f"{key['id']} may {', '.join(key['scopes'])}")
    output.say_secret(key["key"])


def _first_key() -> str:
    """The admin key of a new installation; needs the database, not a running API."""
    with operator_session() as session:
        from app.services.keys import ensure_admin_key

        created = ensure_admin_key(session)
    key = created or admin_key(get_settings())
    if key is None:
        raise ValueError("there are keys already; make more with an admin key in SEXTANT_KEY")
    return key


def _key_of(tenant: str, name: str, scopes: list[str]) -> dict[str, Any]:
    """A key of a tenant, from the database itself: no key of another tenant can make it."""
    with operator_session() as session:
        from app.schemas.keys import KeyCreate, KeyCreated, KeyRead
        from app.services import keys, tenants

        asked = KeyCreate.model_validate({"name": name, "scopes": scopes})
        owner = tenants.find(session, tenant)
        made, token = keys.create(session, owner.id, asked.name, list(asked.scopes))
        fields = KeyRead.model_validate(made).model_dump()
    return KeyCreated(**fields, key=token).model_dump(mode="json")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key")]) -> None:
    """Revoke a key at once."""
    with connect() as client:
        client.revoke_key(key_id)
    say(f"{key_id} is revoked")
