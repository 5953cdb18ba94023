"""Runs a job again and says whether the same bits came out and, if not, what was different."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.follow import follow
from app.cli.output import AsJson, say, table
from sextant_client import Client

ROLES = ("weights", "raster", "samples", "saliency_map")  # files that hold results alone, no times
FREE = ("threads", "resume_from")  # of a spec: set here so that the run is the same


def reproduce(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job")],
    as_json: AsJson = False,
) -> None:
    """Run a job's spec again and compare the digests of what came out; exit code 1 if they differ.

    Raises:
        ValueError: if the job has not succeeded or left nothing to compare.
    """
    with connect() as client:
        first = client.get(job_id)
        digests = _digests(client, first)
        if first["status"] != "succeeded" or not digests:
            raise ValueError(
                f"{job_id} is {first['status']} and left {len(digests)} files of"
                f" {', '.join(ROLES)}: only a job that succeeded and left some can be reproduced"
            )
        again = client.retry(job_id, start="scratch", overrides=_overrides(first))
        second = client.wait(again["id"]) if as_json else follow(client, again)
        verdict = compare(first, second, digests, _digests(client, second))
    if as_json:
        output.print_json(verdict)
    else:
        _print(verdict)
    if not verdict["same"]:
        raise typer.Exit(1)


def _overrides(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a retry would else leave open: the threads that the run had, where it went on from."""
    chosen = {
        "threads": job["resolved_spec"].get("threads") or job["lineage"].get("threads"),
        "resume_from": job["resolved_spec"].get("resume_from"),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _digests(client: Client, job: Mapping[str, Any]) -> dict[str, str]:
    listed = client.artifacts(job["id"])
    return {each["name"]: each["sha256"] for each in listed if each["role"] in ROLES}


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    expected: Mapping[str, str],
    actual: Mapping[str, str],
) -> dict[str, Any]:
    """Which files are the same, and what of the two runs is not.

    Args:
        first: the job that is reproduced.
        second: the job that was made from it.
        expected: SHA-256 by file of the first.
        actual: of the second.
    """
    names = sorted(expected.keys() | actual.keys())
    files = {name: expected.get(name) == actual.get(name) for name in names}
    return {
        "job": first["id"],
        "again": second["id"],
        "status": second["status"],
        "same": second["status"] == "succeeded" and all(files.values()),
        "files": files,
        "differs": dict(_differences(first, second)),
        "deterministic": bool(first["resolved_spec"].get("deterministic")),
    }


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[tuple[str, list[Any]]]:
    """Fields of lineage and resolved spec with both values, where they are not equal."""
    for group in ("lineage", "resolved_spec"):
        a, b = first[group], second[group]
        for name in sorted(a.keys() | b.keys()):
            skipped = group == "resolved_spec" and name in FREE
            if not skipped and a.get(name) != b.get(name):
                yield name if group == "lineage" else f"spec.{name}", [a.get(name), b.get(name)]


def _print(verdict: Mapping[str, Any]) -> None:
    rows = ((name, "same" if same else "differs") for name, same in verdict["files"].items())
    table(("file", "bits"), rows)
    for name, (was, now) in verdict["differs"].items():
        say(f"{name}: {was} -> {now}")
    if verdict["same"]:
        say(f"{verdict['again']} gave the bits of {verdict['job']}")
    elif verdict["status"] != "succeeded":
        say(f"{verdict['again']} is {verdict['status']}")
    elif not verdict["differs"] and not verdict["deterministic"]:
        say("device, versions and threads are the same: on a GPU only deterministic runs repeat")
