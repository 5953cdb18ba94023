"""Lines of the child's event pipe: the one place where they are read, filtered and validated.

What leaves this module can be stored: no NUL, no half surrogate, no NaN, numbers in their ranges,
names and roles that are known. A line that is not well formed becomes a :class:`BrokenLine`.
"""

import json
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
)

from app.schemas.errors import ReportedError
from app.services.storage_keys import checked_name
from app.texts import storable, without_paths
from models.catalog import kinds

STEP_LIMIT = 2**53  # JSON numbers are exact below it
PROBLEM_CHARS = 300
ESSENTIAL = ("artifact", "result", "error")  # without one of these a run's outcome is wrong


def _known_role(role: str) -> str:
    if role not in roles():
        raise ValueError(f"the role {role!r} is not one of {', '.join(sorted(roles()))}")
    return role


@cache
def roles() -> frozenset[str]:
    """What a file of a run may be: every role that a kind declares."""
    return frozenset(info.role for spec in kinds().values() for info in spec.artifacts)


def _clipped(text: Any) -> Any:
    return text[:200] if isinstance(text, str) else text


Step = Annotated[int, Field(ge=0, lt=STEP_LIMIT)]
Short = Annotated[str, BeforeValidator(_clipped)]


class ChildLine(BaseModel):
    """A line; its size in bytes is what it takes of a batch."""

    _size_bytes: int = PrivateAttr(0)

    @property
    def size_bytes(self) -> int:
        """Bytes of the line as it came."""
        return self._size_bytes


class HelloLine(ChildLine):
    """The child has begun."""

    type: Literal["hello"]


class ByeLine(ChildLine):
    """The child has ended its work."""

    type: Literal["bye"]


class MetricLine(ChildLine):
    """Named numbers at a step; non-finite ones arrive as words."""

    type: Literal["metric"]
    step: Step
    at: float | None = Field(default=None, ge=0, lt=2**33)
    values: dict[
        Annotated[str, Field(pattern=r"^[^\x00]{1,200}$")], float | Literal["nan", "inf", "-inf"]
    ]


class ProgressLine(ChildLine):
    """So many steps of so many."""

    type: Literal["progress"]
    step: Step
    total_steps: Step | None = None
    epoch: Step | None = None
    phase: Short | None = None
    unit: str = Field(default="step", max_length=40)


class EventLine(ChildLine):
    """A warning, the lineage, or another fact, with fields of its own."""

    model_config = ConfigDict(extra="allow")

    type: Literal["event"]
    event: str = Field(max_length=40)


class ArtifactLine(ChildLine):
    """A file in the run's folder that does not change any more."""

    type: Literal["artifact"]
    name: Annotated[str, AfterValidator(checked_name)]
    role: Annotated[str, AfterValidator(_known_role)]
    step: Step | None = None
    metadata: dict[str, Any] = {}


class ResultLine(ChildLine):
    """The numbers a user asks for first."""

    type: Literal["result"]
    values: dict[str, Any]


class ErrorLine(ChildLine, ReportedError):  # noqa: N818  # a line, no exception
    """Why the child ends."""

    type: Literal["error"]

    def reported(self) -> ReportedError:
        """The error alone."""
        return ReportedError(code=self.code, message=self.message, hint=self.hint)


class BrokenLine(NamedTuple):
    """A line that is not well formed.

    Attributes:
        type: what it says it is; empty where it is no JSON object with a type.
        problem: what is wrong with it.
        size_bytes: as it came.
    """

    type: str
    problem: str
    size_bytes: int

    @property
    def essential(self) -> bool:
        """Whether the run's outcome is wrong without it."""
        return self.type in ESSENTIAL


WellFormed = (
    HelloLine
    | ByeLine
    | MetricLine
    | ProgressLine
    | EventLine
    | ArtifactLine
    | ResultLine
    | ErrorLine
)
Line = WellFormed | BrokenLine
LINE: TypeAdapter[WellFormed] = TypeAdapter(Annotated[WellFormed, Field(discriminator="type")])


def read_line(text: bytes) -> Line:
    """Read one line of the event pipe; whatever it holds, this raises nothing."""
    kind = ""
    try:
        value = json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            kind = storable(value["type"])[:40]
        line = LINE.validate_python(_filtered(value))
    except ValidationError as error:
        return BrokenLine(kind, _problem(error), len(text))
    except (ValueError, RecursionError) as error:
        return BrokenLine(kind, str(storable(str(error)))[:PROBLEM_CHARS], len(text))
    line._size_bytes = len(text)  # no field: a child cannot send it
    return line


def _filtered(value: Any) -> Any:
    """The JSON value as it may be stored; the message of a warning shows no path of the server."""
    value = storable(value)
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        value["message"] = without_paths(value["message"])
    return value


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"[:PROBLEM_CHARS]
