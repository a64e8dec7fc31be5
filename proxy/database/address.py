"""Where the database is: the URL of `database.url`, read. Its password is in no message and no repr."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from proxy.errors import ConfigurationError

_EXPECTED = "database.url: must be sqlite:///path/to/file.db or postgresql://user:password@host/database"
_URL = re.compile(r"(sqlite|postgresql|postgres)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Either a SQLite file, or the URL of a PostgreSQL server's database as psycopg takes it."""

    path: Path | None = None
    postgresql: str = field(default="", repr=False)


def parse_address(url: str) -> Address:
    """Raises ConfigurationError, which does not repeat the URL."""
    match = _URL.fullmatch(url)
    if match is None or "\0" in url:
        raise ConfigurationError([_EXPECTED])
    scheme, rest = match.groups()
    if scheme != "sqlite":
        return Address(postgresql=f"postgresql://{rest}")
    if not rest.startswith("/") or rest in {"/", "/:memory:"} or rest.endswith("/"):
        raise ConfigurationError([_EXPECTED + " (a database in memory would forget its keys)"])
    return Address(path=Path(rest[1:]))
