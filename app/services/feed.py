"""The events of a tenant in one order, so that a reader who knows a position misses nothing.

Numbers that are given before a commit become visible out of order: a reader of 7 would never see
the 6 that is committed later. So events are held back and numbered as the last thing that their
transaction does, under the lock of the tenant's row in ``feeds``; whoever has that lock waits for
nothing but the commit.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import event as session_event
from sqlalchemy import literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, SessionTransaction, load_only

from app.db.tables import Base, Event, Feed, Job
from app.schemas.events import FeedEvent, FeedJob, FeedPage
from app.services.paging import refused_query

INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
HELD = "events_of_the_feed"  # in Session.info: events, each with the savepoint it was made in


# -- writing ---------------------------------------------------------------------------------


def add(session: Session, events: Iterable[Event]) -> None:
    """Add events when the transaction ends, each with the next position of its tenant."""
    if HELD not in session.info:
        session.info[HELD] = []
        session_event.listen(session, "before_commit", _number)
        session_event.listen(session, "after_soft_rollback", _forget)
    savepoint = session.get_nested_transaction()
    session.info[HELD] += [(event, savepoint) for event in events]


def _number(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint alone is released
        return
    by_tenant: dict[str, list[Event]] = defaultdict(list)
    for event, _savepoint in session.info[HELD]:
        by_tenant[event.tenant_id].append(event)
    session.info[HELD].clear()
    session.flush()  # whatever may wait for a lock does so before
    for tenant_id, events in sorted(by_tenant.items()):  # in one order: nobody waits in a circle
        last = _advance(session, tenant_id, len(events))
        for position, event in enumerate(events, start=last - len(events) + 1):
            event.position = position
        session.add_all(events)


def _forget(session: Session, ended: SessionTransaction) -> None:
    """Drop what was rolled back: all, or what a savepoint held."""
    held = session.info[HELD]
    held[:] = [each for each in held if ended.nested and each[1] is not ended]


def _advance(session: Session, tenant_id: str, count: int) -> int:
    """The newest position after ``count`` more; the row stays locked until the commit."""
    table = Base.metadata.tables[Feed.__tablename__]
    insert = INSERT[session.get_bind().dialect.name](table)
    return session.execute(
        insert.values(tenant_id=tenant_id, position=count)
        .on_conflict_do_update(
            index_elements=[table.c.tenant_id], set_={"position": table.c.position + count}
        )
        .returning(table.c.position)
    ).scalar_one()


# -- reading ---------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """Which events a reader wants: changes of a status alone, of jobs of one kind alone."""

    only_status: bool = False
    kind: str | None = None


ALL = Wanted()


def latest(session: Session, tenant_id: str) -> int:
    """The position of the tenant's newest event; 0 before the first."""
    return session.scalar(select(Feed.position).where(Feed.tenant_id == tenant_id)) or 0


def check(session: Session, tenant_id: str, after: int) -> int:
    """The position of the tenant's newest event, which ``after`` must not exceed.

    Raises:
        InvalidError: for a position that this database never gave.
    """
    newest = latest(session, tenant_id)
    if after > newest:
        detail = f"the newest event is {newest}: the service was set back; begin anew from there"
        raise refused_query("/after", detail, "invalid")
    return newest


def page(
    session: Session, tenant_id: str, after: int, limit: int, wanted: Wanted = ALL
) -> FeedPage:
    """At most ``limit`` events of a tenant behind a position, in order; of deleted jobs none.

    Where nothing more is wanted, the next position is the newest: what was passed over is not
    read again.

    Raises:
        InvalidError: as :func:`check`.
    """
    newest = check(session, tenant_id, after)
    query = (
        select(Event, Job)
        .join(Job, Job.id == Event.job_id)
        .options(load_only(Job.kind, Job.name, Job.labels))
        .where(Event.tenant_id == tenant_id, Event.position > after, Job.deleted_at.is_(None))
        .order_by(Event.position)
        .limit(limit + 1)
    )
    if wanted.only_status:
        query = query.where(Event.type == literal_column("'status'"))
    if wanted.kind is not None:
        query = query.where(Job.kind == wanted.kind)
    rows = [_read(event, job) for event, job in session.execute(query)]
    data = rows[:limit]
    more = len(rows) > limit
    following = data[-1].position if data else after
    if not more:
        following = max(following, newest)
    latest = max(newest, following)
    return FeedPage(data=data, has_more=more, next_after=following, latest=latest)


def _read(event: Event, job: Job) -> FeedEvent:
    names = FeedEvent.model_fields.keys() - {"job"}
    about = FeedJob(id=job.id, kind=job.kind, name=job.name, metadata=job.labels)
    return FeedEvent(job=about, **{name: getattr(event, name) for name in names})


def positions(session: Session, tenant_ids: Iterable[str]) -> dict[str, int]:
    """The position of the newest event of each tenant that has any, by id."""
    query = select(Feed.tenant_id, Feed.position).where(Feed.tenant_id.in_([*tenant_ids]))
    return {row.tenant_id: row.position for row in session.execute(query)}
