"""Jobs by a part of their name, or by what their id begins with.

On PostgreSQL an index of pieces of three letters or digits (extension ``pg_trgm``) serves a part
of a name that has one. For others, without the extension and on SQLite all names are read.
"""

import re

from sqlalchemy import ColumnElement, and_, or_, text
from sqlalchemy.orm import Session

from app.db.tables import Job

ID_BEGINNING = re.compile("job_[0-9a-f]{8,32}")
SHORT_BEGINNING = re.compile("j|jo|job|job_[0-9a-f]{0,7}", re.IGNORECASE)
AFTER_HEX = "g"
PIECE = re.compile(r"[^\W_]{3}")
INDEX = "ix_jobs_search"
MAKE = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"CREATE INDEX IF NOT EXISTS {INDEX} ON jobs USING gin (name gin_trgm_ops) "
    "WHERE deleted_at IS NULL",
)


def condition(part: str) -> ColumnElement[bool]:
    """Jobs whose id begins with a text, or whose name holds it in any case."""
    if ID_BEGINNING.fullmatch(part):
        return and_(Job.id >= part, Job.id < part + AFTER_HEX)
    in_name = Job.name.icontains(part, autoescape=True)
    if PIECE.search(part) and not SHORT_BEGINNING.fullmatch(part):
        return in_name
    # also where no id can begin so: alone, a text without a piece would read all of that index
    return or_(in_name, Job.id.startswith(part, autoescape=True))


def is_indexed(session: Session) -> bool:
    """Whether this PostgreSQL need not read every name of a tenant."""
    return session.scalar(text("SELECT to_regclass(:name)"), {"name": INDEX}) is not None
