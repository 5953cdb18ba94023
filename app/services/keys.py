"""API keys: made once, kept as a keyed hash, checked in constant time."""

import hashlib
import hmac
import secrets
import string
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.failures import is_temporary
from app.db.session import database_now, make_session
from app.db.tables import ApiKey, Tenant, new_id, utc_now
from app.errors import ConflictError, NotFoundError, UnauthorizedError, invalid
from app.services import paging, tenants
from app.services.pepper import pepper, write_private
from app.settings import get_settings

DEFAULT_TENANT = "tenant_default"
SECRET_CHARS = 43  # of 62: just over 256 bits
LAST_USED_EVERY = timedelta(seconds=60)
BASE62 = string.digits + string.ascii_letters

log = structlog.get_logger(__name__)


def digest(token: str) -> str:
    """HMAC-SHA-256 of a key under the pepper, in hex."""
    return hmac.new(pepper(), token.encode(), hashlib.sha256).hexdigest()


def create(
    session: Session,
    tenant_id: str,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret form ``sx_<id>_<43 base62>``, which is not kept.

    Raises:
        InvalidError: if it would have expired already.
    """
    if expires_at is not None and expires_at <= (now := database_now(session)):
        detail = f"{_shown(expires_at)} is past, it is {_shown(now)}; give a later time, or null"
        raise invalid("/expires_at", detail, "past")
    key_id = new_id("key")
    secret = "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARS))
    token = f"sx_{key_id.removeprefix('key_')}_{secret}"
    key = ApiKey(
        id=key_id,
        tenant_id=tenant_id,
        name=name,
        key_hash=digest(token),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, token


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def verify(session: Session, token: str) -> ApiKey:
    """The key that ``token`` is the secret form of.

    Raises:
        UnauthorizedError: if there is none, it is expired or revoked, or its tenant is disabled.
    """
    prefix, _, rest = token.partition("_")
    key = session.get(ApiKey, f"key_{rest.partition('_')[0]}") if prefix == "sx" else None
    # the hash is worked out and compared for unknown ids too: the same time for all
    same = hmac.compare_digest(digest(token), key.key_hash if key else "0" * 64)
    if key is None or not same:
        raise UnauthorizedError("this key is not known; make one with POST /v1/keys")
    if key.revoked_at is not None:
        raise UnauthorizedError("this key was revoked; use another")
    if key.expires_at is not None and key.expires_at <= database_now(session):
        raise UnauthorizedError(f"this key expired at {_shown(key.expires_at)}")
    if session.get_one(Tenant, key.tenant_id).disabled_at is not None:
        raise UnauthorizedError("the tenant of this key is disabled; ask the operator")
    return key


def invalid_of(session: Session, key_ids: Sequence[str]) -> set[str]:
    """Those of the keys that are revoked, expired, unknown or of a disabled tenant."""
    valid = select(ApiKey.id).where(
        ApiKey.id.in_(key_ids),
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > database_now(session)),
        ApiKey.tenant_id.not_in(tenants.disabled()),
    )
    return set(key_ids) - set(session.scalars(valid))


def note_use(key: ApiKey) -> None:
    """Write ``last_used_at``, at most once a minute; not at all while the database is busy."""
    now = utc_now()
    if key.last_used_at is not None and now - key.last_used_at < LAST_USED_EVERY:
        return
    try:
        with make_session() as session:
            session.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=now))
    except SQLAlchemyError as error:
        if not is_temporary(error):
            raise
        log.warning("use_of_key_not_noted", key_id=key.id, error=str(error)[:200])


def revoke(session: Session, tenant_id: str, key_id: str, by: str) -> None:
    """End a key's validity; again is no error.

    ``by``, the key that asks, must be another one, so that nobody locks himself out.

    Raises:
        NotFoundError: if the tenant has no such key.
        ConflictError: if the key would revoke itself.
    """
    if key_id == by:
        raise ConflictError("a key cannot revoke itself; use another admin key")
    key = session.get(ApiKey, key_id)
    if key is None or key.tenant_id != tenant_id:
        raise NotFoundError(f"no key {key_id}")
    key.revoked_at = key.revoked_at or utc_now()


def list_page(session: Session, tenant_id: str, limit: int, cursor: str | None) -> paging.RowPage:
    """One page of the tenant's keys, newest first."""
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id)
    return paging.fetch(session, query, ApiKey.id, limit=limit, cursor=cursor)


def ensure_tenant(session: Session) -> None:
    """Make the default tenant where it is missing."""
    if session.get(Tenant, DEFAULT_TENANT) is None:
        session.add(Tenant(id=DEFAULT_TENANT, name="default"))
        session.flush()


def ensure_admin_key(session: Session) -> str | None:
    """At the very first start, make an admin key and write it to ``state_dir/admin.key`` (0600).

    Returns:
        The key, to be shown once; None when the default tenant has a key already.
    """
    ensure_tenant(session)
    if session.scalar(select(ApiKey.id).where(ApiKey.tenant_id == DEFAULT_TENANT).limit(1)):
        return None
    _, token = create(session, DEFAULT_TENANT, "admin", ["admin"])
    path = get_settings().state_dir / "admin.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, token + "\n")
    return token
