"""Requests a minute of each key, by a moving window: counted in the broker, for all processes.

While the broker is away each process counts for itself: the limits hold less exactly, and no
request waits or fails for it.
"""

import math
import time
from collections.abc import Mapping

import structlog
from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app import queue
from app.errors import TooManyRequestsError
from app.settings import get_settings

WINDOW_S = 60
AWAY_S = 5.0  # for so long nobody asks a broker that did not answer
READS = {"GET", "HEAD", "OPTIONS"}

log = structlog.get_logger(__name__)


class RateCounter:
    """Counts requests; used in the event loop only."""

    def __init__(self) -> None:
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._pool = queue.make_count_pool() if get_settings().broker_url else None
        self._shared = None
        if self._pool is not None:
            self._shared = MovingWindowRateLimiter(queue.make_count_storage(self._pool))
        self._ask_at = 0.0  # monotonic; the broker is left alone before

    async def count(self, limit: int, name: str, key_id: str) -> tuple[bool, int, float]:
        """Count a request if it is within the limit.

        Args:
            limit: requests in any 60 seconds.
            name: of the limit.
            key_id: whose requests.

        Returns:
            Whether it is within, how many more are, and after how many seconds one more will be.
        """
        item = RateLimitItemPerMinute(limit, namespace="sextant")
        if self._shared is not None and time.monotonic() >= self._ask_at:
            try:
                return await _count(self._shared, item, name, key_id)
            except (queue.BrokerError, OSError) as error:
                self._leave_alone(error)
        return await _count(self._own, item, name, key_id)

    def _leave_alone(self, error: Exception) -> None:
        if time.monotonic() >= self._ask_at:  # of many requests at once the first says it
            log.warning("broker_away", counting="in this process", error=str(error))
        self._ask_at = time.monotonic() + AWAY_S

    async def close(self) -> None:
        """Close the connections to the broker."""
        if self._pool is not None:
            await self._pool.disconnect()


async def _count(
    limiter: MovingWindowRateLimiter, item: RateLimitItemPerMinute, name: str, key_id: str
) -> tuple[bool, int, float]:
    within = await limiter.hit(item, name, key_id)
    reset_at, remaining = await limiter.get_window_stats(item, name, key_id)
    return within, remaining, max(0.0, reset_at - time.time())


_counters: list[RateCounter] = []  # the one of this process, while it runs


def start() -> None:
    """Begin to count; called in the event loop, at the start of the API."""
    _counters.append(RateCounter())


async def stop() -> None:
    """Forget the counts; called in the event loop, at the end of the API."""
    await _counters.pop().close()


async def admit(request: Request, key_id: str, quotas: Mapping[str, int | None]) -> None:
    """Count a request of a key; its answer gets the header fields `RateLimit`.

    Args:
        request: to be counted as read or write.
        key_id: whose it is.
        quotas: of the tenant: ``reads_a_minute``, ``writes_a_minute``; None or missing: no limit.

    Raises:
        TooManyRequestsError: beyond the limit.
    """
    name = "reads" if request.method in READS else "writes"
    limit = quotas.get(f"{name}_a_minute")
    if limit is None:
        return
    # a limit of 0 is nothing to count: the library wants one of 1 or more
    counted = await _counters[-1].count(limit, name, key_id) if limit else (False, 0, WINDOW_S)
    within, remaining, wait_s = counted
    wait = max(1, math.ceil(wait_s))
    request.state.answer_headers = [
        (b"ratelimit-policy", f'"{name}";q={limit};w={WINDOW_S}'.encode()),
        (b"ratelimit", f'"{name}";r={remaining};t={wait}'.encode()),
    ]
    if not within:
        raise TooManyRequestsError(
            f"this key has made {limit} {name} within a minute, its limit ({name}_a_minute); go on "
            f"after {wait} s, or ask the operator for more",
            wait,
        )
