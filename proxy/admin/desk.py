"""Where questions to the database are handed in: asked and put into JSON in its threads, never on the event loop."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy.admin.operation import Reply, encoded
from proxy.admin.parts import AdminParts
from proxy.errors import ImagegateError

if TYPE_CHECKING:
    from proxy.database.engine import Database
    from proxy.keystore import KeyStore

logger = logging.getLogger("imagegate")


class Desk:
    """Every method raises DatabaseUnavailable, or whatever the work raises."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts

    async def read(self, work: "Callable[[Database], bytes]") -> bytes:
        return await self._parts.database.run(work)

    async def report(self, work: "Callable[[Database], bytes]") -> bytes:
        """What may take long, and must not keep a revocation waiting."""
        return await self._parts.reports.run(work)

    async def ask(self, work: "Callable[[KeyStore], Any]") -> Reply:
        """What `work` gives, as JSON."""

        def asked(database: "Database") -> bytes:
            from proxy.keystore import KeyStore  # with SQLAlchemy, in the thread that needs it

            return encoded(work(KeyStore(database, self._parts.clock)))

        return Reply(await self.read(asked))

    async def change(self, work: "Callable[[KeyStore], Any]") -> Reply:
        """The same for work that changes keys or teams: this process has heard of it when it is answered."""
        reply = await self.ask(work)
        try:
            await self._parts.on_change()
        except ImagegateError as error:
            logger.warning("a change to keys is not known here yet", extra={"error": error.code})
        return reply
