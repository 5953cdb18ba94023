"""Questions to nets that workers keep loaded, by way of the broker; losing one costs only time.

A question lies under a key of its own for as long as somebody waits, its id in one sorted set for
all workers; the answer comes in a list of its own. Tenants take turns: start-time fair queueing
(Goyal, Vin and Cheng 1996), each question one unit long. How many a tenant may have waiting is a
dynamic threshold (Choudhury and Hahne 1998): fewer than there are free, so some always are.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.queue import AsyncBytesClient, BytesClient

SERVING = "sextant.questions.serving"  # is there while a worker takes questions
WAITING = "sextant.questions.waiting_by_turn"  # "tenant id" by the start tag
CLOCK = "sextant.questions.turn"  # start tag of who comes now and has none waiting
SERVING_S = 5
WAITING_LIMIT = 32  # of all tenants; more would only fill the broker's memory
ANSWER_KEPT_S = 10
MARGIN_S = 1.0  # beyond the broker's own time


# KEYS: SERVING, WAITING, CLOCK, the question; ARGV: "tenant ", id, question, milliseconds, limit
ADMIT = """
local waiting = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local own, tag = 0, tonumber(redis.call('GET', KEYS[3]) or '0')
for i = 1, #waiting, 2 do
  if string.sub(waiting[i], 1, #ARGV[1]) == ARGV[1] then
    own, tag = own + 1, math.max(tag, tonumber(waiting[i + 1]) + 1)
  end
end
local free = tonumber(ARGV[5]) - #waiting / 2
if redis.call('EXISTS', KEYS[1]) == 0 or own >= free then return 0 end
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], tag, ARGV[1] .. ARGV[2])
return 1
"""


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
    admit = client.register_script(ADMIT)
    keys = [SERVING, WAITING, CLOCK, _question(mine)]
    whose = f"{question.tenant_id} "
    values = [whose, mine, question.pack(), int(wait_s * 1000), WAITING_LIMIT]
    if not await admit(keys, values):
        return None
    came = await _come(client, mine, wait_s)
    if came is not None:
        return json.loads(came)
    async with client.pipeline(transaction=False) as takes_back:
        takes_back.delete(_question(mine))
        takes_back.zrem(WAITING, whose + mine)
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
    """The question whose turn it is, if somebody waits for it; waits at most ``wait_s`` for one.

    Raises:
        BrokerError: if the broker is away.
    """
    popped: Any = client.bzpopmin([WAITING], timeout=wait_s)
    if popped is None:
        return None
    _, waited, tag = popped
    question_id = waited.decode().rpartition(" ")[2]
    with client.pipeline() as takes:
        takes.set(CLOCK, tag + 1)  # its tenant comes behind all that wait for this turn
        takes.pttl(_question(question_id))
        takes.getdel(_question(question_id))
        _, left_ms, packed = takes.execute()
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
