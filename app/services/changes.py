"""Marks that differ whenever something has changed: of jobs, of a tenant's list and feed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Job
from app.services import events, feed

JOB = "job_"  # what the ids of jobs begin with
FEED = "feed_"  # before the id of a tenant: all its events


def marks(session: Session, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """A mark for each id: of a job by whatever it holds, of a tenant by its newest job.

    Of a feed by its newest event.
    """
    jobs = [each for each in ids if each.startswith(JOB)]
    by_id = events.change_marks(session, jobs) if jobs else {}
    feeds = [each for each in ids if each.startswith(FEED)]
    if feeds:
        newest_of = feed.positions(session, [each.removeprefix(FEED) for each in feeds])
        by_id |= {f"{FEED}{tenant_id}": (at,) for tenant_id, at in newest_of.items()}
    for tenant_id in set(ids) - {*jobs, *feeds}:
        newest = select(func.max(Job.id)).where(Job.tenant_id == tenant_id)
        by_id[tenant_id] = (session.scalar(newest),)
    return by_id


def own_jobs(session: Session, tenant_id: str, job_ids: Sequence[str]) -> list[str]:
    """Those of the jobs that are the tenant's."""
    own = select(Job.id).where(Job.id.in_(job_ids), Job.tenant_id == tenant_id)
    return list(session.scalars(own))
