"""The API's end of questions to loaded nets; in the event loop, so that no thread waits."""

import asyncio
from typing import Any

import structlog

from app import questions, queue
from app.settings import get_settings

FROZEN_S = 3.0

log = structlog.get_logger(__name__)


class _Asker:
    client: queue.AsyncBytesClient | None = None


def start() -> None:
    """Make the client of the broker, if there is one."""
    if get_settings().broker_url:
        _Asker.client = queue.make_question_client()


async def stop() -> None:
    """Close its connections."""
    if _Asker.client is not None:
        await _Asker.client.aclose()
        await _Asker.client.connection_pool.disconnect()
        _Asker.client = None


async def ask(question: questions.Question) -> Any:
    """What a worker answers; None if none does within ``predict_wait_s``."""
    if _Asker.client is None:
        return None
    wait_s = get_settings().predict_wait_s
    try:
        async with asyncio.timeout(wait_s + FROZEN_S):  # a broker that stands still
            return await questions.ask(_Asker.client, question, wait_s)
    except (queue.BrokerError, OSError) as error:
        log.warning("broker_away", error=str(error))
        return None
