"""What collection would remove now, without removing anything."""

from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from sqlalchemy import func, select

from app import storage
from app.db.session import database_now, make_session
from app.db.tables import Artifact, Job
from app.services import collection
from app.settings import get_settings


class Garbage(NamedTuple):
    """Numbers and bytes.

    Attributes:
        deleted_jobs: jobs that were deleted and whose rows and files are still there.
        replaced_files: files that were replaced or hidden, and that no job needs.
        lost_objects: objects of the store that no row names, older than an upload may take.
    """

    deleted_jobs: int
    replaced_files: int
    replaced_bytes: int
    lost_objects: int
    lost_bytes: int


def find() -> Garbage:
    """Look for all of it; lists the whole store."""
    size = func.coalesce(func.sum(Artifact.size_bytes), 0)
    replaced = select(func.count(), size).where(Artifact.status == "deleted", ~collection.held())
    deleted = select(func.count()).select_from(Job).where(Job.deleted_at.is_not(None))
    with make_session(write=False) as session:
        files, file_bytes = session.execute(replaced).one()
        jobs = session.scalars(deleted).one()
    lost = [info.size_bytes for info in _lost()]
    return Garbage(jobs, files, int(file_bytes), len(lost), sum(lost))


def _lost() -> list[storage.Info]:
    with make_session(write=False) as session:
        now = database_now(session)
    before = now - timedelta(hours=get_settings().retention_pending_h)
    objects, lost = storage.list("t"), []
    while some := [*islice(objects, collection.SWEPT_AT_ONCE)]:
        old = [info for info in some if info.modified_at < before]
        with make_session(write=False) as session:
            named = collection.named_of(session, [info.key for info in old])
        lost += [info for info in old if info.key not in named]
    return lost
