"""Tenants: owners of rows, made and disabled by the operator alone, never over HTTP."""

import re
from collections.abc import Mapping

from pydantic import ValidationError
from sqlalchemy import Select, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Tenant, new_id
from app.errors import ConflictError, NotFoundError, invalid
from app.schemas.usage import QuotaValues

DEFAULT = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def create(session: Session, name: str) -> Tenant:
    """A tenant without keys.

    Raises:
        InvalidError: for a name that is no plain word.
        ConflictError: if there is one of this name.
    """
    if not NAME.fullmatch(name):
        raise invalid(
            "/name", f"{name!r}: use 1 to 120 of A-Z, a-z, 0-9, '.', '_' and '-', no mark in front"
        )
    tenant = Tenant(id=new_id("tenant"), name=name)
    session.add(tenant)
    try:
        session.flush()
    except IntegrityError as error:
        raise ConflictError(f"there is a tenant {name!r} already; choose another name") from error
    return tenant


def find(session: Session, ref: str) -> Tenant:
    """The tenant of this name or id.

    Raises:
        NotFoundError: naming those there are.
    """
    tenant = session.scalar(select(Tenant).where(or_(Tenant.name == ref, Tenant.id == ref)))
    if tenant is None:
        names = ", ".join(each.name for each in list_all(session))
        raise NotFoundError(f"no tenant {ref!r}; there are {names}")
    return tenant


def list_all(session: Session) -> list[Tenant]:
    """Every tenant by name."""
    return list(session.scalars(select(Tenant).order_by(Tenant.name)))


def disable(session: Session, tenant: Tenant) -> None:
    """Refuse the tenant's keys and start none of its jobs, until it is enabled; again is no error.

    Queued jobs wait, running ones go on to their end.
    """
    tenant.disabled_at = tenant.disabled_at or database_now(session)


def enable(tenant: Tenant) -> None:
    """Take back :func:`disable`: the same keys are valid, waiting jobs start."""
    tenant.disabled_at = None


def set_quotas(tenant: Tenant, values: Mapping[str, int | str | None]) -> None:
    """Change some quotas of a tenant.

    Args:
        tenant: whose.
        values: by name of the quota: a number, None for no limit, or ``"default"``.

    Raises:
        InvalidError: for a name or number that is none.
    """
    merged = {**tenant.quotas, **values}
    kept = {name: value for name, value in merged.items() if value != DEFAULT}
    try:
        checked = QuotaValues.model_validate(kept)
    except ValidationError as error:
        wrong = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())
        names = ", ".join(QuotaValues.model_fields)
        raise invalid("/quotas", f"{wrong}; there are {names}") from error
    tenant.quotas = checked.model_dump(exclude_unset=True)


def disabled() -> Select[str]:
    """Ids of the disabled tenants."""
    return select(Tenant.id).where(Tenant.disabled_at.is_not(None))
