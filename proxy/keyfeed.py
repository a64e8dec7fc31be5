"""Keeps the keyring up to date: reads the database's keys at the start, and twice a second what has changed since.

A key that is revoked anywhere stops here within a second. While the database is gone, the keys that are known go on
working; what needs the database (every purchase) is refused where it needs it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.database.background import BackgroundDatabase
from proxy.errors import DatabaseUnavailable, ImagegateError
from proxy.keyring import Keyring

if TYPE_CHECKING:
    from proxy.keystore import Changes

logger = logging.getLogger("imagegate")

POLL_SECONDS = 0.5
_NEVER = -1


@dataclass(slots=True)
class KeyFeed:
    """Belongs to one event loop."""

    database: BackgroundDatabase
    keyring: Keyring
    clock: Clock
    met_team: Callable[[str], None] = lambda alias: None
    """Called with the alias of each team that is new or has changed."""
    _revision: int = field(default=_NEVER, init=False)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _following: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def start(self) -> None:
        """Reads all keys, if the database has them for us; else that is tried again until it does.

        Raises ConfigurationError for a database that is not ours to read.
        """
        try:
            await self.poll()
        except DatabaseUnavailable as error:
            logger.error("the keys cannot be read yet", extra={"reason": error.reason})
        self._following = asyncio.create_task(self._follow(), name="keys")

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    async def poll(self) -> None:
        """Everything that was committed before this call is known after it. Raises DatabaseUnavailable."""
        async with self._reading:
            changes = await self._read()
            if changes.is_complete:
                self.keyring.replace(changes.keys, changes.teams)
            elif changes.keys or changes.teams:
                self.keyring.apply(changes.keys, changes.teams)
            for team in changes.teams:
                self.met_team(team.team_alias)
            self._revision = changes.revision

    async def _read(self) -> "Changes":
        def work(database: object) -> "Changes":
            from proxy.database.engine import Database
            from proxy.keystore import KeyStore

            assert isinstance(database, Database)
            store = KeyStore(database, self.clock)
            return store.all() if self._revision == _NEVER else store.changes_since(self._revision)

        return await self.database.run(work)

    async def _follow(self) -> None:
        told = None
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.poll()
                told = None
            except DatabaseUnavailable:
                pass  # the database's `problem` says why; those who need it are told
            except Exception as error:  # noqa: BLE001 - if this ended, keys that are revoked would work for ever
                # Of a defect only its name: its words may hold what was read.
                known = isinstance(error, ImagegateError)
                reason = getattr(error, "reason", str(error)) if known else type(error).__name__
                if reason != told:
                    logger.error("the keys cannot be read", extra={"reason": reason})
                told = reason
