"""The database for one command: opened, changed in the name of whoever runs it, its refusals in words of commands."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.addresses import DATABASE_URL
from proxy.clock import SystemClock
from proxy.errors import DatabaseUnavailable, ImagegateError, RequestError, StatementRefused
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.database.engine import Database
    from proxy.keystore import KeyStore

_FLAGS = {
    "key_alias": "--alias",
    "team_id": "--team",
    "grace_seconds": "--grace",
}
_ADVICE = {
    "key_not_found": "`imagegate keys list` shows those there are.",
    "team_not_found": "`imagegate teams list` shows those there are.",
    "not_found": "`imagegate keys list` and `imagegate teams list` show those there are.",
    "alias_in_use": "Choose another one.",
    "key_revoked": "`imagegate keys create` makes another one.",
}


def actor() -> str:
    """Whoever runs the command, for the audit log."""
    import getpass
    import os

    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError, ImportError):
        return f"cli:{os.getuid()}"  # a user without a name, as in a container


@contextmanager
def key_store(settings: Settings, *, makes: bool = False, team_flag: str = "--team") -> "Iterator[KeyStore]":
    """The same with the store of keys in it."""
    from proxy.keystore import KeyStore

    with opened(settings, makes=makes, team_flag=team_flag) as database:
        yield KeyStore(database, SystemClock())


@contextmanager
def opened(
    settings: Settings, *, makes: bool = False, team_flag: str = "--team", wait_seconds: float = 5.0
) -> "Iterator[Database]":
    """What is refused in the block is raised as an error in one line that says what to do.

    A SQLite database that is not there is made only if the command `makes` something: looking must not create one.
    `team_flag` is the option that says what a team is called.
    """
    url = settings.database.url
    from proxy.database.address import parse_address
    from proxy.database.engine import Database

    path = parse_address(url).path
    if path and not makes and not path.is_file():
        raise ImagegateError(
            f"there is no database at {path}: is this the proxy's --config? `imagegate keys create` makes one"
        )
    database = Database(url, wait_seconds=wait_seconds)
    try:
        database.open()
        yield database
    except RequestError as error:
        raise ImagegateError(_in_words(error, team_flag)) from error
    except (DatabaseUnavailable, StatementRefused) as error:
        hint = "try again, or look at database.url" if isinstance(error, DatabaseUnavailable) else "please report this"
        raise ImagegateError(f"{DATABASE_URL.shown(url)}: {error.reason}: {hint}") from error
    finally:
        database.close()


def _in_words(error: RequestError, team_flag: str) -> str:
    """Errors name fields; whoever runs a command knows its options."""
    flags = {**_FLAGS, "team_alias": team_flag}
    told = re.sub(
        r"'([a-z_]+)'", lambda quoted: flags.get(quoted[1], "--" + quoted[1].replace("_", "-")), error.message
    )
    return f"{told} {_ADVICE.get(error.code or '', '')}".rstrip()
