"""What the caller's tenant uses of its quotas."""

from fastapi import APIRouter

from app.http.deps import JobsRead, ReadSession
from app.http.strict import StrictRoute
from app.schemas.usage import UsageRead
from app.services import quotas

router = APIRouter(prefix="/v1/usage", tags=["usage"], route_class=StrictRoute)


@router.get("")
def read_usage(principal: JobsRead, session: ReadSession) -> UsageRead:
    """Read the tenant's quotas and how much of each is used; `null` is no limit."""
    usage = quotas.usage(session, principal.tenant_id)
    uses = {name: use._asdict() for name, use in usage.uses.items()}
    return UsageRead.model_validate(usage._asdict() | uses)
