"""Which steps of `migrations/` a database has seen, and the rest of them.

The one row of `schema_version` is compared first: alembic is imported only when there is something to do.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from proxy.errors import ConfigurationError

HEAD = "0002"
"""The newest step that this imagegate knows."""

_ADVISORY_LOCK = 0x696D6767  # "imgg"


def is_current(connection: Connection) -> bool:
    """Raises ConfigurationError for a database that is ahead of us: we do not know what its tables mean."""
    found = _version(connection)
    if found is not None and not (found.isdecimal() and found <= HEAD):
        raise ConfigurationError(
            [
                f"database.url: the database was made by a newer imagegate (schema {found}, this one knows {HEAD})."
                " Upgrade imagegate, or use another database."
            ]
        )
    return found == HEAD


def upgrade(connection: Connection) -> None:
    """In the transaction of `connection`: all steps or none. Of two processes at once, the second finds it done."""
    if connection.dialect.name == "postgresql":
        # Both are bounded for everyday statements; a step may take its time, and so may waiting for who came first.
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
    if not is_current(connection):
        _run_steps(connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("schema_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM schema_version")).scalar()
    return found


def _run_steps(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign in a path would be taken for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
