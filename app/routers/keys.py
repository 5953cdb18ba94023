"""API keys of the caller's tenant."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.http.deps import Admin, DurableSession, Idempotent, ReadSession, WriteSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.keys import KeyCreate, KeyCreated, KeyFilters, KeyRead
from app.schemas.page import Page
from app.services import keys
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=StrictRoute)

KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-f]{32}$", description="Id of a key")]


@router.post("", status_code=201, response_model=KeyCreated, responses=problems(400, 409, 413, 415))
def create_key(
    body: KeyCreate, principal: Admin, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Make a key. Its secret is in this answer alone; only a hash of it is kept."""

    def work() -> Answer:
        made, token = keys.create(
            session, principal.tenant_id, body.name, list(body.scopes), body.expires_at
        )
        fields = KeyRead.model_validate(made).model_dump(mode="json")
        return Answer(
            201, {**fields, "key": token}, resource_id=made.id, kept={**fields, "key": None}
        )

    return idempotent(work)


@router.get("")
def list_keys(
    filters: Annotated[KeyFilters, Query()], principal: Admin, session: ReadSession
) -> Page[KeyRead]:
    """List keys, newest first, revoked ones included."""
    rows, next_cursor = keys.list_page(session, principal.tenant_id, filters.limit, filters.cursor)
    data = [KeyRead.model_validate(row) for row in rows]
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.delete("/{key_id}", status_code=204, responses=problems(404, 409))
def revoke_key(key_id: KeyId, principal: Admin, session: WriteSession) -> None:
    """Revoke another key; it ends within a second. Repeating it does no harm."""
    keys.revoke(session, principal.tenant_id, key_id, by=principal.key_id)
