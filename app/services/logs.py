"""Text output of runs, read from the store: while a run goes on, and afterwards."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.db.tables import FINAL, Job
from app.errors import NotFoundError
from app.services.storage_keys import log_key

BLOCK_BYTES = 2**16
FOLLOW_BYTES = 2**18  # text of one streamed event at most


def find(job: Job, run_number: int | None) -> storage.Info:
    """The log of a run, of the newest when None.

    Raises:
        NotFoundError: if the job has no such run, or that has not written yet.
    """
    number = job.run_number if run_number is None else run_number
    try:
        return storage.head(log_key(job.tenant_id, job.id, number))
    except FileNotFoundError as error:
        raise NotFoundError(f"run {number} of the job {job.id} has written no log") from error


def tail_start(log: storage.Info, lines: int) -> int:
    """Offset in bytes at which the last ``lines`` lines begin."""
    start, wanted = log.size_bytes, lines
    while start > 0:
        begin = max(start - BLOCK_BYTES, 0)
        block = b"".join(storage.open(log.key, begin, start))
        if start == log.size_bytes and block.endswith(b"\n"):
            wanted += 1  # the newline that ends the last line begins no other
        if block.count(b"\n") >= wanted:
            for _ in range(wanted):
                block = block[: block.rindex(b"\n")]
            return begin + len(block) + 1
        wanted -= block.count(b"\n")
        start = begin
    return 0


class Growth(NamedTuple):
    """Text that came to a log, and whether there is more already."""

    text: bytes
    more: bool


def growth(tenant_id: str, job_id: str, run_number: int, offset: int, *, last: bool) -> Growth:
    """What came to a run's log after ``offset`` bytes: whole lines, at most 256 KiB.

    Args:
        tenant_id: the owner.
        job_id: the job.
        run_number: of the run.
        offset: up to which the reader has it.
        last: whether nothing will follow; then a line without its end is given too.
    """
    key = log_key(tenant_id, job_id, run_number)
    try:
        size = storage.head(key).size_bytes
        end = max(offset, min(size, offset + FOLLOW_BYTES))
        text = b"".join(storage.open(key, offset, end))
    except FileNotFoundError:  # it has not written yet
        return Growth(b"", more=False)
    whole = text[: text.rfind(b"\n") + 1]
    if whole and (end < size or not last):
        return Growth(whole, end < size)
    return Growth(text if last or end < size else b"", end < size)


def over(session: Session, tenant_id: str, job_id: str, number: int) -> bool:
    """Whether the job has ended or a later run has begun, so that this log will not grow."""
    job = session.execute(
        select(Job.status, Job.run_number).where(
            Job.id == job_id, Job.tenant_id == tenant_id, Job.deleted_at.is_(None)
        )
    ).one_or_none()
    return job is None or job.status in FINAL or job.run_number > number
