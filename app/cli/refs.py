"""Which job is meant: by its id, the beginning of it, its name, or ``@last``."""

import re
from itertools import islice

from sextant_client import Client

WHOLE = re.compile(r"job_[0-9a-f]{32}")
BEGINNING = re.compile(r"(job_)?[0-9a-f]{4,32}")
LAST = "@last"
NAMED = 5  # of several that are meant, in the message


def job_id(client: Client, ref: str) -> str:
    """The id of the job that is meant.

    Args:
        client: of the service.
        ref: id; the beginning of one, with or without ``job_``; a name; ``@last``, the newest.

    Raises:
        ValueError: if there is no such job, or several.
    """
    if WHOLE.fullmatch(ref):
        return ref
    meant = _meant(client, ref)
    if not meant:
        raise ValueError(f"no job {ref!r}: give its id, the beginning of it, its name or {LAST}")
    if len(meant) > 1:
        more = ", ..." if len(meant) > NAMED else ""
        raise ValueError(f"{ref!r} may be {', '.join(meant[:NAMED])}{more}: give more of the id")
    return meant[0]


def _meant(client: Client, ref: str) -> list[str]:
    """Ids of the jobs that may be meant, newest first: by name, else by their beginning."""
    if ref == LAST:
        return [job["id"] for job in client.jobs(1)]
    named = [job["id"] for job in client.jobs(NAMED + 1, name=ref)]
    if named or not BEGINNING.fullmatch(ref):
        return named
    beginning = f"job_{ref.removeprefix('job_')}"
    hits = (job["id"] for job in client.jobs(search=beginning))
    return list(islice((each for each in hits if each.startswith(beginning)), NAMED + 1))


def short(ids: list[str], least: int = 16) -> list[str]:
    """Each id cut to a beginning that tells it from the others, of ``least`` characters or more."""
    length = least
    while len({each[:length] for each in ids}) < len(set(ids)):
        length += 1
    return [each[:length] for each in ids]
