"""The broker: wake-ups for workers, announcements for streams. Losing either costs only time.

Both are sent by one background thread, so that no request waits for the broker; a message that
is lost is made good by the dispatcher (wake-ups) or by polling (announcements).
"""

import atexit
import queue as queues
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
import redis.asyncio.retry
import structlog
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.settings import get_settings

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage

TASK = "claim"
CHANNEL = "sextant:jobs"
PREFIX = "sextant.queue."  # the broker's other keys (unacked, _kombu...) are out of reach
WAITING_LIMIT = 1000  # wake-ups of one queue on the broker; more would say the same
CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
COUNT_TIMEOUT_S = 0.25  # every request waits for it
COUNT_CONNECTIONS = 8
QUESTION_CONNECTIONS = 64  # of one API process: each waits for one answer
LISTEN_RETRY_S = 1.0
DRAIN_S = 2.0

BrokerError = redis.RedisError  # whatever is wrong with it
BytesClient = redis.Redis
AsyncBytesClient = redis.asyncio.Redis

log = structlog.get_logger(__name__)


@cache
def make_celery() -> Celery:
    """The Celery application that sends; the worker adds its task and settings."""
    app = Celery("sextant", broker=get_settings().broker_url or "memory://", set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        broker_transport_options={
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
        },
    )
    return app


@cache
def make_redis() -> redis.Redis:
    """A client of the broker for publishing and listening."""
    url = get_settings().broker_url.replace("redis+socket://", "unix://", 1)
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def make_count_pool() -> redis.asyncio.BlockingConnectionPool:
    """The API's connections for counting requests: few, so that a burst opens no others."""
    return redis.asyncio.BlockingConnectionPool.from_url(
        get_settings().broker_url.replace("redis+socket://", "unix://", 1),
        max_connections=COUNT_CONNECTIONS,
        timeout=COUNT_TIMEOUT_S,
        socket_connect_timeout=COUNT_TIMEOUT_S,
        socket_timeout=COUNT_TIMEOUT_S,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
    )


def make_count_storage(pool: redis.asyncio.BlockingConnectionPool) -> "RedisStorage":
    """Where requests are counted: in the broker, which answers at once or not at all."""
    from limits.aio.storage import RedisStorage  # a third of a second that only the API needs

    options: Any = {"connection_pool": pool}
    return RedisStorage(
        "async+redis://", implementation="redispy", key_prefix="sextant.requests", **options
    )


def make_question_client() -> AsyncBytesClient:
    """The API's client for :mod:`app.questions`: its connections wait for answers."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        get_settings().broker_url.replace("redis+socket://", "unix://", 1),
        max_connections=QUESTION_CONNECTIONS,
        timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=None,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
    )
    return redis.asyncio.Redis(connection_pool=pool)


@cache
def make_answer_client() -> BytesClient:
    """A worker's client for :mod:`app.questions`."""
    url = get_settings().broker_url.replace("redis+socket://", "unix://", 1)
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


class _Sender(threading.Thread):
    """Sends what is put into its box, in order; while the broker is away it drops."""

    def __init__(self) -> None:
        super().__init__(name="broker-sender", daemon=True)
        self.box: queues.SimpleQueue[Callable[[], Any] | None] = queues.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (send := self.box.get()) is not None:
            try:
                send()
            except Exception as error:  # whatever the broker does, go on
                log.warning("broker_away", error=str(error))

    def stop(self) -> None:
        self.box.put(None)
        self.join(DRAIN_S)


@cache
def _sender() -> _Sender:
    sender = _Sender()
    atexit.register(sender.stop)
    return sender


def warm() -> None:
    """Open the connections now: the first publish of a process costs up to 0.7 s."""
    if get_settings().broker_url:
        _sender().box.put(make_redis().ping)
        _sender().box.put(
            lambda: make_celery().connection_for_write().ensure_connection(max_retries=1)
        )


def enqueue(queue: str) -> None:
    """Wake a worker of ``queue``; returns at once, sends in the background."""
    if get_settings().broker_url:
        _sender().box.put(lambda: _send_claim(queue))


def broker_name(queue: str) -> str:
    """What a queue is called on the broker."""
    return f"{PREFIX}{queue}"


def _send_claim(queue: str) -> None:
    name = broker_name(queue)
    if make_redis().llen(name) >= WAITING_LIMIT:
        return
    make_celery().send_task(
        TASK, args=[queue], queue=name, ignore_result=True, retry=False, expires=3600
    )


def announce(job_id: str) -> None:
    """Announce to every listening stream that a job has changed; returns at once."""
    if get_settings().broker_url:
        _sender().box.put(lambda: make_redis().publish(CHANNEL, job_id))


def listen(on_announcement: Callable[[str], None], stop: threading.Event) -> None:
    """Call ``on_announcement(job_id)`` for every announcement until ``stop`` is set; blocks.

    While the broker is away it tries again every second; streams poll meanwhile.
    """
    while not stop.is_set():
        try:
            with make_redis().pubsub(ignore_subscribe_messages=True) as channel:
                channel.subscribe(CHANNEL)
                while not stop.is_set():
                    message = channel.get_message(timeout=0.5)
                    if message is not None:
                        on_announcement(message["data"])
        except redis.RedisError as error:
            log.warning("broker_away", error=str(error))
            stop.wait(LISTEN_RETRY_S)
