"""A POST that creates, carried out once for an ``Idempotency-Key``.

The first answer is written in the transaction of what it created: both exist or neither.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import IdempotencyKey
from app.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidError,
    ServiceError,
)
from app.settings import get_settings

FORGOTTEN_AT_ONCE = 500
REPLAYED = "Idempotent-Replayed"  # header of a repetition's answer


class InFlightError(ConflictError):
    """The first request with this key has not been answered yet."""

    code = "idempotency_in_flight"


@dataclass(frozen=True)
class Answer:
    """What a POST answers.

    Attributes:
        kept: the body that a repetition gets, where the first one holds a secret.
    """

    status_code: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    resource_id: str | None = None
    kept: dict[str, Any] | None = None


class Claim(NamedTuple):
    """Whose key, and for which request."""

    tenant_id: str
    key: str
    request_hash: str


def request_hash(verb: str, path: str, body: bytes) -> str:
    """Digest of what must be equal in a repetition; ``body`` in a canonical form."""
    return hashlib.sha256(b"\n".join([verb.encode(), path.encode(), body])).hexdigest()


def answer_once(
    session: Session,
    claim: Claim,
    work: Callable[[], Answer],
    refusal: Callable[[ServiceError], Answer],
) -> Answer:
    """The first answer to this claim: ``work``'s now, or the one kept from before.

    What ``work`` wrote before it refused is taken back; its refusal is kept.

    Raises:
        InFlightError: while the first request is still being carried out.
        IdempotencyMismatchError: if the key came with another request before.
    """
    _lock(session, claim)
    if (first := session.get(IdempotencyKey, (claim.tenant_id, claim.key))) is not None:
        return _replay(first, claim)
    try:
        with session.begin_nested():
            answer = work()
    except (ConflictError, InvalidError) as error:
        answer = refusal(error)
    session.add(
        IdempotencyKey(
            **claim._asdict(),
            resource_id=answer.resource_id,
            status_code=answer.status_code,
            headers=answer.headers,
            body=answer.body if answer.kept is None else answer.kept,
            expires_at=database_now(session)
            + timedelta(hours=get_settings().retention_idempotency_h),
        )
    )
    return answer


def first_answer(session: Session, claim: Claim) -> Answer | None:
    """The answer kept for this claim, if the request was answered before.

    Raises:
        IdempotencyMismatchError: if the key came with another request before.
    """
    first = session.get(IdempotencyKey, (claim.tenant_id, claim.key))
    if first is None or first.expires_at < database_now(session):
        return None
    return _replay(first, claim)


def _lock(session: Session, claim: Claim) -> None:
    """Let one request at a time have the key; SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        named = f"{claim.tenant_id} {claim.key}"
        lock = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:named, 0))")
        if not session.scalar(lock, {"named": named}):
            raise InFlightError("the first request with this Idempotency-Key is in flight; retry")
    session.execute(
        delete(IdempotencyKey).where(
            IdempotencyKey.tenant_id == claim.tenant_id,
            IdempotencyKey.key == claim.key,
            IdempotencyKey.expires_at < database_now(session),
        )
    )


def _replay(first: IdempotencyKey, claim: Claim) -> Answer:
    if first.request_hash != claim.request_hash:
        raise IdempotencyMismatchError(
            "this Idempotency-Key came with another request before; use a new key"
        )
    return Answer(
        first.status_code,
        first.body,
        {**first.headers, REPLAYED: "true"},
        first.resource_id,
    )


def forget_expired(session: Session) -> bool:
    """Remove some answers that are no longer repeated; whether there may be more."""
    expired = (
        select(IdempotencyKey.tenant_id, IdempotencyKey.key)
        .where(IdempotencyKey.expires_at < database_now(session))
        .order_by(IdempotencyKey.expires_at)
        .limit(FORGOTTEN_AT_ONCE)
    )
    rows = [tuple(row) for row in session.execute(expired)]
    session.execute(
        delete(IdempotencyKey).where(tuple_(IdempotencyKey.tenant_id, IdempotencyKey.key).in_(rows))
    )
    return len(rows) == FORGOTTEN_AT_ONCE
