"""What routes ask for: a session, a principal, idempotency."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.db.session import make_session
from app.http import problems
from app.http.auth import Caller, Principal, require
from app.services import idempotency
from app.services.idempotency import Answer

JobsRead = Annotated[Principal, Depends(require("jobs:read"))]
JobsWrite = Annotated[Principal, Depends(require("jobs:write"))]
DatasetsRead = Annotated[Principal, Depends(require("datasets:read"))]
DatasetsWrite = Annotated[Principal, Depends(require("datasets:write"))]
Admin = Annotated[Principal, Depends(require("admin"))]


def read_session() -> Iterator[Session]:
    """A session that takes no write lock."""
    with make_session(write=False) as session:
        yield session


def write_session() -> Iterator[Session]:
    """A session that commits when the route returns."""
    with make_session() as session:
        yield session


def durable_session() -> Iterator[Session]:
    """The same, flushed to the disk before the answer: what was answered with 201 is never lost."""
    with make_session(durable=True) as session:
        yield session


# scope "function": the commit comes before the answer; by default it would come after it
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
DurableSession = Annotated[Session, Depends(durable_session, scope="function")]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x20-\x7e]{1,255}$",
        description="Client-chosen key; repeating the request with the same key returns the "
        "original response",
    ),
]


async def idempotent(
    request: Request, session: DurableSession, principal: Caller, key: IdempotencyKey = None
) -> Callable[[Callable[[], Answer]], Response]:
    """Dependency of a POST that creates: a function that runs its work once for each key."""
    path = request.url.path
    body = b""
    if key is not None:
        sent = await request.json() if await request.body() else None
        body = json.dumps(sent, sort_keys=True).encode()

    def run(work: Callable[[], Answer]) -> Response:
        if key is None:
            answer = work()
        else:
            hashed = idempotency.request_hash(request.method, path, body)
            claim = idempotency.Claim(principal.tenant_id, key, hashed)
            answer = idempotency.answer_once(
                session, claim, work, lambda error: problems.refusal(path, error)
            )
        session.commit()  # here, in the route's thread: the write lock is not held while waiting
        return problems.respond(answer)

    return run


Idempotent = Annotated[
    Callable[[Callable[[], Answer]], Response], Depends(idempotent, scope="function")
]
