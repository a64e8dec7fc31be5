"""A process that fills a store until it is killed: `python -m tests.support.store_process DIRECTORY FIRST SIZE`.

Prints the number of each reply once it is stored, on a line of its own.
"""

import asyncio
import sys
from pathlib import Path

from proxy import ids
from proxy.clock import SystemClock
from proxy.store import Store
from tests.support.store import Witness, body_of, metadata, section


async def fill(directory: Path, first: int, size: int) -> None:
    clock = SystemClock()
    store = Store(section(directory), clock, instance_id=ids.instance_id(), observer=Witness())
    await store.start()
    number = first
    while True:
        spool = store.spools.open()
        body = body_of(number, size)
        for at in range(0, size, 100_000):
            await spool.write(body[at : at + 100_000])
        now = clock.wall()
        described = metadata(number, stored_at=now, expires_at=now + 86_400)
        _, stored = await store.commit(spool, described, begun_epoch=store.epoch())
        sys.stdout.write(f"{number}\n" if stored else f"refused {number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
