"""Numbers of all jobs, runs and files, kept as they change: counting them takes seconds.

A change is a row of its own, written in the transaction of what it counts, so it is there exactly
if that is, and no two transactions wait for one another. The sum of the rows is the number; a
chore sums them up now and then.
"""

from collections import Counter as Sums
from collections.abc import Iterable

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from app.db.tables import Artifact, Counter, Job, JobStatus, Run

JOBS = "jobs"  # kind, status, queue; deleted ones do not count
RUNS = "runs"  # outcome; those of deleted jobs too
ARTIFACT_BYTES = "artifact_bytes"  # tenant
COMPACTED_AT_ONCE = 5_000
Labels = tuple[str, ...]


def add(session: Session, name: str, changes: Iterable[tuple[Labels, int]]) -> None:
    """Change the numbers of some labels; none may hold a space."""
    rows = [
        {"name": name, "labels": " ".join(labels), "value": value}
        for labels, value in changes
        if value
    ]
    if rows:
        session.execute(insert(Counter), rows)


def read(session: Session, name: str) -> dict[Labels, int]:
    """The numbers of a name by their labels, those that are not zero."""
    query = (
        select(Counter.labels, func.sum(Counter.value))
        .where(Counter.name == name)
        .group_by(Counter.labels)
    )
    return {
        tuple(labels.split(" ")): int(value) for labels, value in session.execute(query) if value
    }


def queued(session: Session) -> dict[str, int]:
    """Jobs that wait, by queue."""
    depths: Sums[str] = Sums()
    for (_kind, status, queue), count in read(session, JOBS).items():
        depths[queue] += count * (status == JobStatus.QUEUED)
    return dict(+depths)


def total(session: Session, name: str, labels: Labels) -> int:
    """The number of a name and these labels."""
    of_these = (Counter.name == name, Counter.labels == " ".join(labels))
    return int(session.scalar(select(func.sum(Counter.value)).where(*of_these)) or 0)


def compact(session: Session) -> bool:
    """Replace some rows by their sums; whether there may be more to do. Safe in parallel."""
    rows = session.execute(
        select(Counter.id, Counter.name, Counter.labels, Counter.value)
        .order_by(Counter.id)
        .limit(COMPACTED_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    sums: Sums[tuple[str, str]] = Sums()
    for row in rows:
        sums[row.name, row.labels] += row.value
    if len(sums) == len(rows):
        return False
    session.execute(delete(Counter).where(Counter.id.in_([row.id for row in rows])))
    for (name, labels), value in sums.items():
        add(session, name, [((labels,), value)])
    return len(rows) == COMPACTED_AT_ONCE


def recount(session: Session) -> dict[str, dict[Labels, int]]:
    """What the numbers must be, by counting every row; of runs, those whose jobs are there."""
    jobs = (
        select(Job.kind, Job.status, Job.queue, func.count())
        .where(Job.deleted_at.is_(None))
        .group_by(Job.kind, Job.status, Job.queue)
    )
    runs = select(Run.outcome, func.count()).where(Run.ended_at.is_not(None)).group_by(Run.outcome)
    sizes = (
        select(Artifact.tenant_id, func.sum(Artifact.size_bytes))
        .where(Artifact.status == "ready")
        .group_by(Artifact.tenant_id)
    )
    queries = {JOBS: jobs, RUNS: runs, ARTIFACT_BYTES: sizes}
    return {
        name: {tuple(map(str, row[:-1])): int(row[-1]) for row in session.execute(query) if row[-1]}
        for name, query in queries.items()
    }
