"""The one exception of the client: a refusal of the service, or the service out of reach."""

from collections.abc import Mapping
from typing import Any

import httpx


class ApiError(Exception):
    """What went wrong, as the service's problem document (RFC 9457) states it.

    Attributes:
        status: HTTP status; 0 when there was no answer, or when the client itself gave up.
        problem: the document, or one of the client's own with at least ``code`` and ``title``.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = dict(problem)

    @classmethod
    def own(cls, code: str, title: str) -> "ApiError":
        """An error of the client itself: ``unreachable``, ``timeout``, ``checksum``, ..."""
        return cls(0, {"code": code, "title": title})

    @classmethod
    def of(cls, answer: httpx.Response) -> "ApiError":
        """The error in an answer of status 400 or more; proxies may answer without a document."""
        fallback = {"code": "http", "title": f"{answer.status_code} {answer.reason_phrase}"}
        try:
            problem = answer.json()
        except ValueError:
            problem = None
        return cls(answer.status_code, problem if isinstance(problem, dict) else fallback)

    @property
    def code(self) -> str:
        """The stable name of the problem, for example ``validation_failed``."""
        return str(self.problem.get("code", "http"))

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The wrong fields: ``pointer``, ``detail`` and what was sent."""
        return self.problem.get("errors") or []

    def __str__(self) -> str:
        """What a person wants to read: title and detail, or one line for each wrong field."""
        title, detail = self.problem.get("title"), self.problem.get("detail")
        if self.errors:
            lines = [
                f"  {each.get('pointer') or '/'}: {each.get('detail')}" for each in self.errors
            ]
            return "\n".join([str(title or self.code), *lines])
        return ": ".join(str(part) for part in (title, detail) if part) or self.code
