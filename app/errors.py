"""What the services refuse. No HTTP here: ``app/http/problems.py`` maps each class to a status."""

from typing import Any, ClassVar


class ServiceError(Exception):
    """A refusal with a stable code; ``errors`` lists wrong fields with their JSON pointers."""

    code: ClassVar[str] = "internal"
    retry_after_s: int | None = None  # seconds after which it may be otherwise
    quota: dict[str, Any] | None = None  # name, limit and present use of what is full

    def __init__(self, detail: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []


class NotFoundError(ServiceError):
    """No such row, or it belongs to someone else."""

    code = "not_found"


class ConflictError(ServiceError):
    """The row's present state does not allow it."""

    code = "conflict"


class InvalidError(ServiceError):
    """The request is well formed but cannot be carried out."""

    code = "validation_failed"


class PreconditionError(ServiceError):
    """The row is no longer the version that the caller has seen."""

    code = "precondition_failed"


class IdempotencyMismatchError(ServiceError):
    """The same idempotency key came with another request."""

    code = "idempotency_mismatch"


class UnauthorizedError(ServiceError):
    """No key, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class ForbiddenError(ServiceError):
    """The key lacks the scope."""

    code = "forbidden"


class TooLargeError(ServiceError):
    """More bytes than allowed."""

    code = "too_large"


class TooManyRequestsError(ServiceError):
    """A key made more requests a minute than it may."""

    code = "too_many"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QuotaExceededError(ServiceError):
    """A quota of the tenant is full; it empties by itself."""

    code = "quota_exceeded"
    retry_after_s = 10

    def __init__(self, detail: str, quota: dict[str, Any]) -> None:
        super().__init__(detail)
        self.quota = quota


class StorageQuotaError(QuotaExceededError):
    """The tenant has stored all it may; waiting does not help, deleting does."""

    code = "storage_quota_exceeded"
    retry_after_s = None


class UnavailableError(ServiceError):
    """A part of the service is away for the moment; try again."""

    code = "unavailable"


def invalid(pointer: str, detail: str, code: str = "invalid") -> InvalidError:
    """An :class:`InvalidError` about one field."""
    return InvalidError(detail, [{"pointer": pointer, "code": code, "detail": detail}])
