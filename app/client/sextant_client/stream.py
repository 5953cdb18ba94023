"""Reads server-sent events and goes on after a lost connection where it stopped."""

import json
from collections.abc import Generator, Iterator
from typing import Any, TypedDict

import httpx

from sextant_client.errors import ApiError
from sextant_client.flow import (
    PAUSES_S,
    Action,
    Emit,
    Emits,
    Open,
    Pause,
    Read,
    Request,
    checked,
)

SILENCE_S = 45.0  # the service sends a comment each 15 s


class StreamedEvent(TypedDict):
    """Something that happened to a job; ``seq`` is None where the service numbers it not."""

    seq: int | None
    type: str
    data: dict[str, Any]


class Parser:
    """Events of a stream (HTML standard, 9.2.6), as far as the service uses it.

    Attributes:
        last: id of the last event, from which a new stream goes on.
        ended: whether the service said that no event will follow.
    """

    def __init__(self, last: str) -> None:
        self.last = last
        self.ended = False
        self.restart()

    def restart(self) -> None:
        """Forget an event that was cut off."""
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[StreamedEvent]:
        """The events that ``data`` completes: ``seq``, ``type`` and ``data``."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode()
            if text:
                self._add(text)
            elif event := self._finish():
                yield event

    def _add(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and "data" in self._fields:
            value = f"{self._fields['data']}\n{value}"
        if name:  # a line that begins with a colon only keeps the connection alive
            self._fields[name] = value

    def _finish(self) -> StreamedEvent | None:
        fields, self._fields = self._fields, {}
        self.last = fields.get("id", self.last)
        if fields.get("event") == "end":
            self.ended = True
            return None
        if "data" not in fields:
            return None
        seq = int(fields["id"]) if fields.get("id", "").isdecimal() else None
        kind = fields.get("event", "message")
        return {"seq": seq, "type": kind, "data": json.loads(fields["data"])}


def follow(path: str, last: str = "", **params: Any) -> Emits[StreamedEvent]:
    """Emit the events of a stream until the service ends it; connects anew when it breaks off.

    Raises:
        ApiError: if the service refuses, or several connections in a row bring nothing.
    """
    parser, failed_attempts = Parser(last), 0
    while not parser.ended:
        headers = {"Accept": "text/event-stream"}
        if parser.last:
            headers["Last-Event-ID"] = parser.last
        request = Request("GET", path, params=params, headers=headers, read_s=SILENCE_S)
        received = yield from _one_connection(request, parser)
        failed_attempts = 0 if received else failed_attempts + 1
        if failed_attempts > len(PAUSES_S):
            raise ApiError.own("unreachable", f"the stream {path} breaks off again and again")
        if not parser.ended:
            yield Pause(PAUSES_S[max(failed_attempts - 1, 0)])


def _one_connection(
    request: Request, parser: Parser
) -> Generator[Action | Emit[StreamedEvent], Any, bool]:
    """Emit what one connection brings; returns whether it brought anything."""
    received = False
    answer = yield Open(request)
    if isinstance(answer, httpx.TransportError) or answer.status_code >= 500:
        return False
    checked(answer)
    parser.restart()
    while isinstance(data := (yield Read()), bytes):
        for event in parser.feed(data):
            received = True
            yield Emit(event)
    return received
