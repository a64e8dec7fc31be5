"""The database: keys and teams, and who changed them.

SQLAlchemy is imported by the modules of this package alone, and not by this one: a proxy that needs no database starts
without it.
"""

from proxy.errors import InternalError, Unavailable

RETRY_AFTER_SECONDS = 5


class DatabaseUnavailable(Unavailable):
    """The database is locked, full, damaged or gone. `reason` is the database's own word, for the operator alone."""

    code = "database_unavailable"

    def __init__(self, reason: str) -> None:
        message = "The database cannot be used right now. Please try again."
        super().__init__(message, headers={"retry-after": str(RETRY_AFTER_SECONDS)})
        self.reason = reason


class StatementRefused(InternalError):
    """The database works, and refused what it was asked: a defect of ours. `reason` names no values."""

    def __init__(self, reason: str) -> None:
        super().__init__("The database refused what it was asked. This is a defect of imagegate.")
        self.reason = reason
