"""The API's end of questions to loaded nets; in the event loop, so that no thread waits."""

from typing import Any

import structlog

from app import questions, queue
from app.settings import get_settings

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
    try:
        return await questions.ask(_Asker.client, question, get_settings().predict_wait_s)
    except (queue.BrokerError, OSError) as error:
        log.warning("broker_away", error=str(error))
        return None
