"""Commands about registered models."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output, refs
from app.cli.connect import connect
from app.cli.output import AsJson, complain, fields, say, size, table, when
from sextant_client import Client
from sextant_client.answers import ClassProbability, ModelRead

app = typer.Typer(help="Registered models: names for trained nets, with versions and aliases.")

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model")]
Version = Annotated[int, typer.Argument(min=1, help="Number of a version")]
Alias = Annotated[str, typer.Argument(help="Such as production")]
NETS = ("weights", "checkpoint")  # roles of files that may be registered


@app.command("list")
def list_models(
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    as_json: AsJson = False,
) -> None:
    """List models, newest first."""
    with connect() as client:
        listed = list(client.models(limit))
    if as_json:
        output.print_json(listed)
        return
    rows = ((m["name"], m["latest_version"], _aliases(m), when(m["updated_at"])) for m in listed)
    table(("model", "newest", "aliases", "changed"), rows)


def _aliases(model: ModelRead) -> str:
    return ", ".join(f"{alias} = {number}" for alias, number in model["aliases"].items())


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a model with its versions, newest first."""
    with connect() as client:
        model = client.get_model(name)
        versions = list(client.versions(name))
    if as_json:
        output.print_json(model | {"versions": versions})
        return
    shown = {name: model[name] for name in ("name", "description", "metadata")}
    fields(shown | {"aliases": _aliases(model)})
    rows = (
        (
            v["version"],
            ", ".join(v["aliases"]),
            v["kind"],
            v["job"],
            v["artifact"],
            size(v["size_bytes"]),
            when(v["created_at"]),
        )
        for v in versions
    )
    table(("version", "aliases", "kind", "job", "file", "size", "registered"), rows)


@app.command()
def register(
    name: Name,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id, beginning of one, name, or @last")],
    file: Annotated[
        str | None, typer.Argument(help="Its weights or a checkpoint; else its only weights")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Is moved to the new version; repeatable")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a file of a job the next version of a model; a new name makes the model."""
    with connect() as client:
        job_id = refs.job_id(client, job)
        chosen = file or _weights(client, job_id)
        made = client.register(name, job_id, chosen, description=description, aliases=alias or ())
    if as_json:
        output.print_json(made)
    else:
        say(f"{made['reference']} is {made['artifact']} of {made['job']}")


def _weights(client: Client, job_id: str) -> str:
    """The file that is meant where a job left only one that may be."""
    left = client.artifacts(job_id)
    nets = [each["name"] for each in left if each["role"] == NETS[0]]
    if len(nets) == 1:
        return nets[0]
    there = ", ".join(each["name"] for each in left if each["role"] in NETS) or "none"
    raise ValueError(f"name the file; weights and checkpoints of {job_id}: {there}")


@app.command("alias")
def move_alias(
    name: Name,
    alias: Alias,
    version: Version,
    expect: Annotated[
        int | None, typer.Option(min=0, help="Only if it points at this version now; 0: nowhere")
    ] = None,
) -> None:
    """Let an alias point at a version."""
    with connect() as client:
        client.move_alias(name, alias, version, expected_version=expect)
    say(f"model:{name}@{alias} is version {version}")


@app.command()
def unalias(name: Name, alias: Alias) -> None:
    """Delete an alias; the version stays."""
    with connect() as client:
        client.delete_alias(name, alias)
    say(f"model:{name}@{alias} is deleted")


@app.command()
def delete(
    name: Name,
    version: Annotated[
        int | None, typer.Option(min=1, help="This version alone, not the whole model")
    ] = None,
) -> None:
    """Delete a model with all versions, or one version; jobs and their files stay."""
    with connect() as client:
        if version is None:
            client.delete_model(name)
        else:
            client.delete_version(name, version)
    say(f"model:{name}{f'/{version}' if version else ''} is deleted")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="MODEL@ALIAS or MODEL/3: a classifier")],
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Pictures")],
    top: Annotated[int, typer.Option(min=1, max=100, help="Likeliest classes to name")] = 3,
    as_json: AsJson = False,
) -> None:
    """Classify pictures by a registered classifier."""
    with connect() as client:
        reply = client.predict(model, [file.read_bytes() for file in files], top=top)
        if reply["object"] == "job":
            complain(f"no net that is loaded answered; the job {reply['id']} does it", "note")
            reply = client.wait(reply["id"])
    if as_json:
        output.print_json(reply)
    elif reply["object"] == "prediction":
        rows = zip(files, reply["predictions"], strict=True)
        table(("picture", "classes"), ((file.name, _classes(row)) for file, row in rows))
    else:
        rows_of_job = (reply["result"] or {}).get("predictions", [])
        table(("picture", "classes"), ((each["image"], _classes([each])) for each in rows_of_job))


def _classes(row: list[ClassProbability]) -> str:
    return ", ".join(f"{each['class']} {each['probability']:.1%}" for each in row)
