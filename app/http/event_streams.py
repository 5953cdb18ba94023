"""Live streams: server-sent events, woken by the broker and by one query a second.

One listener thread per process receives the broker's announcements and wakes the coroutines that
wait for a job. Whatever the broker loses is made good by a single query a second over all jobs
that somebody waits for; so streams need no polling of their own and no database connection
while they wait.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, NamedTuple

import structlog
from fastapi import Header
from fastapi.exceptions import HTTPException
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from app import queue
from app.db.session import make_session
from app.errors import UnauthorizedError
from app.http.auth import ANYONE
from app.services import changes, events, feed, keys, logs
from app.settings import get_settings

STREAM = "text/event-stream"
FIELDS = ("id", "event", "data")
LIVE = {  # OpenAPI 3.1: the schema of a stream is that of each event
    "schema": {"type": "object", "properties": {name: {"type": "string"} for name in FIELDS}}
}
LastEventId = Annotated[
    str | None,
    Header(pattern=r"^[0-9]{1,18}$", description="`id` of the last event; wins over the query"),
]
MAX_STREAMS = 200
MAX_STREAMS_PER_KEY = 10
PING_S = 15.0
POLL_S = 1.0
CHANGES_EVERY_S = 0.5  # least time between two events of a stream of changes
KEYS_EVERY_S = 0.5  # a revoked key's streams end within a second
LISTENER_STOP_S = 2.0  # it checks for a stop twice a second
FEED_ROWS = 100
SEND_S = 30.0  # a reader that takes nothing for so long is dropped; it reconnects by id
CHUNK_BYTES = 2**20  # unsent bytes held for one reader at most

log = structlog.get_logger(__name__)


class SlowReaderError(Exception):
    """A reader took nothing of its stream for too long."""


class StreamChunk(NamedTuple):
    """What a stream sends next.

    Attributes:
        data: encoded events, possibly none.
        more: whether there is more already.
        end: data of the event ``end``, once nothing will follow.
    """

    data: bytes = b""
    more: bool = False
    end: dict[str, Any] | None = None


class Waiter(asyncio.Event):
    """Set at a change; remembers of what."""

    def __init__(self) -> None:
        super().__init__()
        self._changed: set[str] = set()

    def wake(self, changed_id: str) -> None:
        """Note a change and wake who waits."""
        self._changed.add(changed_id)
        self.set()

    def take(self) -> list[str]:
        """Ids of what has changed since the last call, sorted; later changes wake again."""
        changed = sorted(self._changed)
        self._changed.clear()
        self.clear()
        return changed


class Hub:
    """Which coroutines wait for which job; used in the event loop only, except :meth:`notify`.

    Who waits for a tenant is woken by its new jobs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, set[Waiter]] = {}
        self._known: dict[str, tuple[Any, ...]] = {}
        self._stop = threading.Event()
        self.streams: Counter[str] = Counter()
        self.polls: Counter[str] = Counter()  # reads of a job that wait for a change
        self.refused: set[str] = set()  # keys of either that are no longer valid
        self._tasks = [loop.create_task(self._poll()), loop.create_task(self._check_keys())]
        self._listener = threading.Thread(
            target=queue.listen, args=(self.notify, self._stop), name="listener", daemon=True
        )
        if get_settings().broker_url:
            self._listener.start()

    @property
    def stopped(self) -> bool:
        """Whether the process shuts down; streams end then."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End every stream, the listener and the polling."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        self._wake_all()
        if self._listener.is_alive():
            self._listener.join(LISTENER_STOP_S)

    @contextmanager
    def watch(self, *ids: str) -> Generator[Waiter]:
        """Set at every change of these jobs, and at new jobs of these tenants, while it lasts."""
        waiter = Waiter()
        for each in ids:
            self._waiting.setdefault(each, set()).add(waiter)
        try:
            yield waiter
        finally:
            for each in ids:
                self._leave(each, waiter)

    def _leave(self, watched: str, waiter: Waiter) -> None:
        self._waiting[watched].discard(waiter)
        if not self._waiting[watched]:
            del self._waiting[watched]
            self._known.pop(watched, None)

    def notify(self, job_id: str) -> None:
        """Wake the waiters of a job; may be called from any thread."""
        if not self.stopped:
            self._loop.call_soon_threadsafe(self._wake, job_id)

    def _wake(self, job_id: str) -> None:
        for waiter in self._waiting.get(job_id, ()):
            waiter.wake(job_id)

    def _wake_all(self) -> None:
        for job_id in self._waiting:
            self._wake(job_id)

    async def _check_keys(self) -> None:
        """Find the keys that were revoked or have expired while something of theirs is open."""
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            used = (self.streams + self.polls).keys() - {ANYONE.key_id}
            try:
                self.refused = await run_in_threadpool(_invalid_keys, [*used]) if used else set()
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error))
                continue
            if self.refused:
                self._wake_all()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if self._waiting:
                try:
                    marks = await run_in_threadpool(_change_marks, [*self._waiting])
                except SQLAlchemyError as error:
                    log.warning("database_away", error=str(error))
                    continue
                self._compare(marks)

    def _compare(self, marks: dict[str, tuple[Any, ...]]) -> None:
        """Wake who waits for a changed job; one seen first may have changed just before."""
        for job_id in [*self._waiting]:
            mark = marks.get(job_id, ())
            if self._known.get(job_id) != mark:
                self._known[job_id] = mark
                self._wake(job_id)


def _invalid_keys(key_ids: list[str]) -> set[str]:
    with make_session(write=False) as session:
        return keys.invalid_of(session, key_ids)


def _change_marks(ids: list[str]) -> dict[str, tuple[Any, ...]]:
    with make_session(write=False) as session:
        return changes.marks(session, ids)


_hubs: list[Hub] = []  # the one of this process, while it runs


def start() -> None:
    """Begin to listen; called in the event loop, at the start of the API."""
    _hubs.append(Hub(asyncio.get_running_loop()))


def stop() -> None:
    """End all streams and the listener; called in the event loop, at the end of the API."""
    _hubs.pop().stop()


def _hub() -> Hub:
    if not _hubs:
        raise RuntimeError("event_streams.start() was not called in the lifespan of the API")
    return _hubs[-1]


async def wait_for_update(key_id: str, job_id: str, timeout_s: float) -> None:
    """Return when something of a job may have changed, at the latest after ``timeout_s`` seconds.

    It may return early without any change: read, compare, and wait again.

    Raises:
        UnauthorizedError: if the key was revoked meanwhile.
    """
    hub = _hub()
    hub.polls[key_id] += 1
    try:
        with hub.watch(job_id) as changed:
            await _wait(changed, timeout_s)
    finally:
        hub.polls[key_id] -= 1
    if key_id in hub.refused:
        raise UnauthorizedError("this key is no longer valid; use another")


async def _wait(changed: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    except TimeoutError:
        return


async def _frames(
    key_id: str, job_id: str, next_chunk: Callable[[], StreamChunk], poll_every_s: float = PING_S
) -> AsyncGenerator[bytes]:
    """Bytes of a stream: ``next_chunk``'s, called in a thread, never concurrently.

    It is called at each change, and every ``poll_every_s`` seconds without one.
    """
    hub, ping_at = _hub(), time.monotonic() + PING_S
    with hub.watch(job_id) as changed:
        while not hub.stopped and key_id not in hub.refused:
            changed.clear()  # before reading: a change during it wakes us again
            try:
                chunk = await run_in_threadpool(next_chunk)
            except (SQLAlchemyError, OSError) as error:  # the reader reconnects by id
                log.warning("stream_broken_off", job_id=job_id, error=str(error))
                return
            quiet = time.monotonic() >= ping_at
            if frame := chunk.data or (KEEPALIVE_COMMENT if quiet else b""):
                yield frame
                ping_at = time.monotonic() + PING_S
            if chunk.end is not None:
                yield format_sse_event(event="end", data_str=json.dumps(chunk.end))
                return
            if not chunk.more:
                await _wait(changed, min(poll_every_s, ping_at - time.monotonic()))


async def _change_frames(key_id: str, ids: list[str]) -> AsyncGenerator[bytes]:
    """An event for each change, with the ids of what has changed; no statement for any of them."""
    hub = _hub()
    with hub.watch(*ids) as waiter:
        for each in ids:  # it may have changed before the stream opened
            waiter.wake(each)
        while not hub.stopped and key_id not in hub.refused:
            await _wait(waiter, PING_S)
            changed = waiter.take()
            data = json.dumps(changed)
            yield format_sse_event(event="changed", data_str=data) if changed else KEEPALIVE_COMMENT
            await asyncio.sleep(CHANGES_EVERY_S)


class EventStream(EventSourceResponse):
    """A stream of server-sent events under the limits of the process and of the key."""

    def __init__(self, key_id: str, frames: AsyncGenerator[bytes]) -> None:
        self._key_id = key_id
        self._frames = frames
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._frames, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, the reader leaves, or it takes nothing for 30 seconds."""

        async def send_soon(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_S):
                    await send(message)
            except TimeoutError as error:
                raise SlowReaderError from error

        with _admitted(self._key_id):
            try:
                async with aclosing(self._frames):
                    await super().__call__(scope, receive, send_soon)
            except SlowReaderError:
                log.info("slow_reader_dropped", key_id=self._key_id)


@contextmanager
def _admitted(key_id: str) -> Generator[None]:
    """Count a stream while it lasts.

    Raises:
        HTTPException: 503 when the process, 429 when the key has too many.
    """
    streams = _hub().streams
    if streams.total() >= MAX_STREAMS:
        raise HTTPException(503, f"{MAX_STREAMS} streams are open here", {"Retry-After": "5"})
    if streams[key_id] >= MAX_STREAMS_PER_KEY:
        detail = f"this key has {MAX_STREAMS_PER_KEY} streams open; close one"
        raise HTTPException(429, detail, {"Retry-After": "5"})
    streams[key_id] += 1
    try:
        yield
    finally:
        streams[key_id] -= 1


def open_streams() -> int:
    """Streams of this process, for its metrics."""
    return _hub().streams.total() if _hubs else 0


def job_log(key_id: str, tenant_id: str, job_id: str, run: int, offset: int) -> EventStream:
    """The stream of a run's log from ``offset`` on, ``id`` being the offset reached."""
    reached = offset

    def next_chunk() -> StreamChunk:
        nonlocal reached
        with make_session(write=False) as session:
            over = logs.over(session, tenant_id, job_id, run)
        growth = logs.growth(tenant_id, job_id, run, reached, last=over)
        reached += len(growth.text)
        data = json.dumps({"text": growth.text.decode(errors="replace")})
        frame = format_sse_event(id=str(reached), event="log", data_str=data)
        end = {"run": run} if over and not growth.more else None
        return StreamChunk(frame if growth.text else b"", growth.more, end)

    return EventStream(key_id, _frames(key_id, job_id, next_chunk, POLL_S))


def job_events(key_id: str, tenant_id: str, job_id: str, after: int) -> EventStream:
    """The stream of a job's events with ``seq > after``; ends after the final status."""
    seen = after

    def next_chunk() -> StreamChunk:
        nonlocal seen
        with make_session(write=False) as session:
            updates = events.updates(session, tenant_id, job_id, seen)
        frames, more = bytearray(), updates.more
        for row in updates.rows:
            if len(frames) >= CHUNK_BYTES:
                more = True
                break
            data = json.dumps({**row.data, "at": row.at.isoformat()})
            frames += format_sse_event(id=str(row.seq), event=row.type, data_str=data)
            seen = row.seq
        end = {"status": updates.final} if updates.final and not more else None
        return StreamChunk(bytes(frames), more, end)

    return EventStream(key_id, _frames(key_id, job_id, next_chunk))


def tenant_events(key_id: str, tenant_id: str, after: int, wanted: feed.Wanted) -> EventStream:
    """The stream of the events of all jobs of a tenant behind a position; it has no end."""
    seen = after

    def next_chunk() -> StreamChunk:
        nonlocal seen
        with make_session(write=False) as session:
            page = feed.page(session, tenant_id, seen, FEED_ROWS, wanted)
        frames = bytearray()
        for each in page.data:
            data = each.model_dump_json(exclude={"position", "type"})
            frames += format_sse_event(id=str(each.position), event=each.type, data_str=data)
        seen = page.next_after
        return StreamChunk(bytes(frames), page.has_more)

    return EventStream(key_id, _frames(key_id, changes.FEED + tenant_id, next_chunk))


def job_changes(key_id: str, tenant_id: str, job_ids: list[str]) -> EventStream:
    """The stream of changes of some jobs of a tenant, and of its list of jobs.

    Each event ``changed`` holds the ids of the jobs that have changed, the id of the tenant for
    new jobs; the first one all of them.
    """
    return EventStream(key_id, _change_frames(key_id, [tenant_id, *job_ids]))
