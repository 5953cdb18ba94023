"""Which errors of a database pass by themselves, and which come again with the same statement."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

# classes of SQLSTATE: connection, transaction state, rollback, resources, locks, operator, system
POSTGRESQL_TEMPORARY = {"08", "25", "40", "53", "55", "57", "58"}
# BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
SQLITE_TEMPORARY = {5, 6, 7, 8, 9, 10, 13, 14, 15}


def is_temporary(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the database is away, locked, full or slow.

    Anything else (a value it cannot hold, a broken constraint, a defect of ours) stays wrong.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if (number := getattr(error.orig, "sqlite_errorcode", None)) is not None:
        return number & 0xFF in SQLITE_TEMPORARY
    if (state := getattr(error.orig, "sqlstate", None)) is not None:
        return state[:2] in POSTGRESQL_TEMPORARY
    return isinstance(error, OperationalError | InterfaceError)
