"""HTTP/1.1 with bounded request line and headers; what cannot be parsed is answered by a problem.

uvicorn's faster parser (httptools) joins the pieces of a header that comes in many reads, which is
quadratic: one of 64 MiB kept the event loop for 9 s. h11 gives up at a limit.
"""

import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.http import problems
from app.services.idempotency import Answer

HEADERS_LIMIT_BYTES = 65_536


class BoundedH11Protocol(H11Protocol):
    """uvicorn's protocol over h11, with answers in the form of all others."""

    def send_400_response(self, msg: str) -> None:
        """Answer 431 where request line and headers are too long, else 400; close the connection.

        Args:
            msg: what uvicorn says of any request that h11 refuses.
        """
        refusal = _refusal(msg, len(self.conn.trailing_data[0]))
        body = json.dumps(refusal.body).encode()
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        reason = HTTPStatus(refusal.status_code).phrase.encode()
        start = h11.Response(status_code=refusal.status_code, headers=headers, reason=reason)
        for event in (start, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _refusal(message: str, unparsed_bytes: int) -> Answer:
    if unparsed_bytes <= HEADERS_LIMIT_BYTES:
        return problems.answer("", "invalid_request", message)
    detail = f"request line and headers are longer than {HEADERS_LIMIT_BYTES} bytes; shorten them"
    return problems.answer("", "headers_too_large", detail)
