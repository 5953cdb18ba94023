"""HTTP/1.1 with bounded request line, headers and trailers; refusals in the form of all others.

httptools joins the pieces of a header that comes in many reads, which is quadratic: one of 64 MiB
kept the event loop for seconds. Here the parser gets at most 64 KiB without giving anything back.
"""

import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http import problems

HEADERS_LIMIT_BYTES = 65_536


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with a limit before the parser."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unparsed_bytes = 0  # since the parser last gave headers, body or an end

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece until it has had too much for nothing."""
        for start in range(0, len(data), HEADERS_LIMIT_BYTES):
            piece = data[start : start + HEADERS_LIMIT_BYTES]
            self._unparsed_bytes += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._unparsed_bytes > HEADERS_LIMIT_BYTES:
                detail = f"request line, headers or trailers exceed {HEADERS_LIMIT_BYTES} bytes"
                self._refuse("headers_too_large", f"{detail}; shorten them")
                return

    def on_headers_complete(self) -> None:
        """Headers were read; what follows is counted anew."""
        self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body was read."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request was read."""
        self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed; ``msg`` is uvicorn's only one."""
        self._refuse("invalid_request", msg)

    def _refuse(self, code: str, detail: str) -> None:
        refusal = problems.answer("", code, detail)
        body = json.dumps(refusal.body).encode()
        lines = (
            f"HTTP/1.1 {refusal.status_code} {HTTPStatus(refusal.status_code).phrase}",
            f"Content-Type: {problems.MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            "Connection: close\r\n\r\n",
        )
        self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()
