"""Commands about webhooks."""

from typing import Annotated

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.output import AsJson, say, say_secret, table, when
from sextant_client.answers import DeliveryRead, WebhookRead

app = typer.Typer(help="Addresses that are told of jobs; a key with scope admin is needed.")

WebhookRef = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="https address that takes POST")],
    progress: Annotated[bool, typer.Option("--progress", help="Also tell progress")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a webhook; its secret is shown this once."""
    with connect() as client:
        made = client.create_webhook(url, progress=progress)
    if as_json:
        output.print_json(made)
        return
    say(f"{made['id']} tells {made['url']}")
    say_secret(made["secret"])


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List the webhooks, without their secrets."""
    with connect() as client:
        listed = client.webhooks()
    if as_json:
        output.print_json(listed)
        return
    rows = ((w["id"], w["url"], _state(w), when(w["created_at"])) for w in listed)
    table(("webhook", "address", "state", "created"), rows)


def _state(webhook: WebhookRead) -> str:
    if webhook["disabled_at"]:
        return f"disabled {when(webhook['disabled_at'])}"
    since = webhook["failing_since"]
    return f"failing since {when(since)}" if since else "works"


@app.command()
def secret() -> None:
    """Print the secret that signs the messages to the field webhook of jobs."""
    with connect() as client:
        say(client.webhook_secret()["secret"])


@app.command()
def test(ref: WebhookRef) -> None:
    """Send a test now; exit code 1 unless it arrives."""
    with connect() as client:
        result = client.test_webhook(ref)
    say(f"answered {result['status_code']}" if result["delivered"] else str(result["error"]))
    if not result["delivered"]:
        raise typer.Exit(1)


@app.command()
def deliveries(
    ref: WebhookRef,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest messages and what became of them."""
    with connect() as client:
        listed = list(client.deliveries(ref, limit))
    if as_json:
        output.print_json(listed)
        return
    rows = ((d["id"], d["type"], d["job"], d["tries"], _end(d)) for d in listed)
    table(("message", "type", "job", "tries", "state"), rows)


def _end(delivery: DeliveryRead) -> str:
    if delivery["delivered_at"]:
        return f"arrived {when(delivery['delivered_at'])}"
    following = delivery["next_try_at"]
    state = f"next try {when(following)}" if following else "given up"
    return f"{state}: {delivery['error']}" if delivery["error"] else state


@app.command()
def resend(
    ref: WebhookRef, message: Annotated[str, typer.Argument(help="Id of the message")]
) -> None:
    """Send a message once more."""
    with connect() as client:
        client.resend(ref, message)
    say(f"{message} is sent again")


@app.command()
def delete(ref: WebhookRef) -> None:
    """Delete a webhook."""
    with connect() as client:
        client.delete_webhook(ref)
    say(f"{ref} is deleted")
