"""Steps of a call, and how a request is repeated. Nothing here touches the network."""

import random
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from sextant_client.errors import ApiError

T = TypeVar("T")
V = TypeVar("V", covariant=True)  # what a frozen Emit holds

PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # between repetitions of a failed request
RETRYABLE = {429, 502, 503, 504}  # statuses of a passing condition
RETRY_AFTER_MAX_S = 30.0
IN_FLIGHT = "idempotency_in_flight"


@dataclass(frozen=True)
class Request:
    """Send it and read the whole answer.

    Attributes:
        body: makes the bytes to send, anew for every repetition.
        read_s: seconds without a byte of the answer after which the request has failed.
    """

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterator[bytes]] | None = None
    read_s: float = 30.0


@dataclass(frozen=True)
class Open:
    """Send a request and keep its answer open for :class:`Read`; closes the one before."""

    request: Request


@dataclass(frozen=True)
class Read:
    """The next bytes of the open answer; None at its end."""


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Together:
    """Carry out several flows at once."""

    flows: "tuple[Flow[Any], ...]"


@dataclass(frozen=True)
class Emit(Generic[V]):
    """Hand a value to the caller."""

    value: V


Action = Request | Open | Read | Pause | Together
# a transport error comes back as the answer of its step, not as an exception
Flow = Generator[Action | Emit[Any], Any, T]
Emits = Generator[Action | Emit[T], Any, None]
Progress = Callable[[int, int], None]  # bytes done, bytes in all


def send(request: Request) -> Flow[httpx.Response]:
    """Send a request, again after a while where that may help, and check its answer.

    Raises:
        ApiError: if the service refuses it or stays out of reach.
    """
    answer = yield request
    for pause_s in PAUSES_S:
        if not _may_help(answer):
            break
        yield Pause(_pause_s(answer, pause_s))
        answer = yield request
    return checked(answer)


def checked(answer: httpx.Response | httpx.TransportError) -> httpx.Response:
    """The answer, if it is a good one.

    Raises:
        ApiError: if it is a refusal, or an error of the connection.
    """
    if isinstance(answer, httpx.TransportError):
        reason = str(answer) or type(answer).__name__
        raise ApiError.own("unreachable", f"the service cannot be reached: {reason}") from answer
    if answer.status_code >= 400:
        raise ApiError.of(answer)
    return answer


def _may_help(answer: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(answer, httpx.TransportError) or answer.status_code in RETRYABLE:
        return True
    # an earlier sending of the same POST is being carried out: its answer will be ours
    return answer.status_code == httpx.codes.CONFLICT and ApiError.of(answer).code == IN_FLIGHT


def _pause_s(answer: httpx.Response | httpx.TransportError, pause_s: float) -> float:
    """What the service asks for, else ``pause_s``; spread, so that callers do not come at once."""
    if isinstance(answer, httpx.Response):
        asked = answer.headers.get("retry-after", "")
        if asked.isdecimal():
            return min(float(asked), RETRY_AFTER_MAX_S)
    return pause_s * random.uniform(0.8, 1.2)  # noqa: S311  # spread of retries, no secret


def emit_result(flow: Flow[T]) -> Emits[T]:
    """The flow, with its result emitted at the end."""
    yield Emit((yield from flow))


def with_callback(flow: Flow[T], callback: Callable[[Any], None]) -> Flow[T]:
    """The flow, with what it emits given to ``callback`` instead of the caller."""
    answer = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(step, Emit):
            answer = callback(step.value)
        else:
            answer = yield step
