"""Questions to nets that workers keep loaded, by way of the broker; losing one costs only time.

A question lies under a key of its own for as long as somebody waits, its id in one list for all
workers; the answer comes in a list of its own.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.queue import AsyncBytesClient, BytesClient

SERVING = "sextant.questions.serving"  # is there while a worker takes questions
WAITING = "sextant.questions.waiting"
SERVING_S = 5
WAITING_LIMIT = 16  # more would only fill the broker's memory
ANSWER_KEPT_S = 10
MARGIN_S = 1.0  # beyond the broker's own time


class Question(NamedTuple):
    """What a net is asked.

    Attributes:
        tenant_id: whose; no other tenant's questions reach the same process.
        kind: that answers, such as ``classify.predict``.
        model: reference to the file of the net, with its SHA-256.
        options: fields of the kind.
        contents: files that are asked about.
    """

    tenant_id: str
    kind: str
    model: Mapping[str, Any]
    options: Mapping[str, Any]
    contents: Sequence[bytes]

    def pack(self) -> bytes:
        """As bytes: a line of JSON, then the files."""
        sizes = {"sizes": [len(content) for content in self.contents]}
        head = json.dumps(self._asdict() | {"contents": None} | sizes)
        return b"\n".join([head.encode(), b"".join(self.contents)])


def unpack(packed: bytes) -> Question:
    """What :meth:`Question.pack` made."""
    line, _, rest = packed.partition(b"\n")
    head = json.loads(line)
    contents, at = [], 0
    for size in head.pop("sizes"):
        contents.append(rest[at : at + size])
        at += size
    return Question(**head | {"contents": contents})


async def ask(client: AsyncBytesClient, question: Question, wait_s: float) -> Any:
    """What a worker answers; None if none serves, too many wait, or none answered in time.

    Raises:
        BrokerError: if the broker is away.
    """
    mine = uuid.uuid4().hex
    async with client.pipeline() as sends:
        sends.set(_question(mine), question.pack(), px=int(wait_s * 1000))
        sends.rpush(WAITING, mine)
        sends.exists(SERVING)
        _, waiting, serving = await sends.execute()
    came = None
    if serving and waiting <= WAITING_LIMIT:
        came = await _come(client, mine, wait_s)
    if came is not None:
        return json.loads(came)
    async with client.pipeline(transaction=False) as takes_back:
        takes_back.delete(_question(mine))
        takes_back.lrem(WAITING, 0, mine)
        await takes_back.execute()
    return None


async def _come(client: AsyncBytesClient, question_id: str, wait_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(wait_s + MARGIN_S):
            came: Any = await client.blpop([_answer(question_id)], timeout=wait_s)
    except TimeoutError:
        return None
    return None if came is None else came[1]


def say_serving(client: BytesClient) -> None:
    """Say that a worker takes questions, for the next five seconds.

    Raises:
        BrokerError: if the broker is away.
    """
    client.set(SERVING, 1, ex=SERVING_S)


class Taken(NamedTuple):
    """A question that somebody waits for: its id, and for how many seconds still."""

    question_id: str
    question: Question
    left_s: float


def take(client: BytesClient, wait_s: int) -> Taken | None:
    """The oldest question for which somebody waits; waits at most ``wait_s`` for one.

    Raises:
        BrokerError: if the broker is away.
    """
    popped: Any = client.blpop([WAITING], timeout=wait_s)
    if popped is None:
        return None
    question_id = popped[1].decode()
    with client.pipeline() as takes:
        takes.pttl(_question(question_id))
        takes.getdel(_question(question_id))
        left_ms, packed = takes.execute()
    return None if packed is None else Taken(question_id, unpack(packed), left_ms / 1000)


def answer(client: BytesClient, question_id: str, reply: Mapping[str, Any]) -> None:
    """Answer a question.

    Raises:
        BrokerError: if the broker is away.
    """
    with client.pipeline() as sends:
        sends.rpush(_answer(question_id), json.dumps(reply))
        sends.expire(_answer(question_id), ANSWER_KEPT_S)
        sends.execute()


def _question(question_id: str) -> str:
    return f"sextant.questions.asked.{question_id}"


def _answer(question_id: str) -> str:
    return f"sextant.questions.answered.{question_id}"
