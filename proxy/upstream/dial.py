"""Connects a socket to the first address of a host that answers.

The event loop cannot: uvloop tries the addresses one after the other, each for as long as the kernel does, and a family
without a route would use up the time for all. So they race, as in RFC 8305, "Happy Eyeballs".
"""

import asyncio
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

NEXT_ADDRESS_SECONDS = 0.25
"""Source: RFC 8305 section 5, "Connection Attempt Delay"."""

SocketOption = tuple[int, int, int]
Address = tuple[Any, Any, int, str, Any]
"""As `getaddrinfo` gives it: family, kind, protocol, canonical name, where."""


async def connected(host: str, port: int, options: Iterable[SocketOption]) -> socket.socket:
    """Raises OSError, or UnicodeError for what cannot be a name."""
    addresses = alternating(await resolved(host, port))
    if len(addresses) == 1:
        return await _connected_to(addresses[0], options)
    return await _first_connected(addresses, options)


async def resolved(host: str, port: int) -> Sequence[Address]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def alternating(found: Sequence[Address]) -> list[Address]:
    """The families take turns: one without a route costs one delay, not one for each of its addresses."""
    first = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    return [address for pair in zip_longest(first, others) for address in pair if address is not None]


async def _first_connected(addresses: Sequence[Address], options: Iterable[SocketOption]) -> socket.socket:
    """The next address is tried when one has failed, or is late."""
    attempts: list[asyncio.Task[socket.socket]] = []
    waiting, pending = deque(addresses), set[asyncio.Task[socket.socket]]()
    chosen: socket.socket | None = None
    error: BaseException = OSError("The host has no address.")
    try:
        while chosen is None and (waiting or pending):
            if waiting:
                attempts.append(asyncio.create_task(_connected_to(waiting.popleft(), options)))
                pending.add(attempts[-1])
            patience = NEXT_ADDRESS_SECONDS if waiting else None
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (failure := task.exception()) is not None:
                    error = failure
                else:
                    chosen = task.result()
    finally:
        for task in attempts:
            task.cancel()
        for outcome in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(outcome, socket.socket) and outcome is not chosen:
                outcome.close()
    if chosen is None:
        raise error
    return chosen


async def _connected_to(address: Address, options: Iterable[SocketOption]) -> socket.socket:
    family, kind, protocol, _, where = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        for option in options:
            made.setsockopt(*option)
        await asyncio.get_running_loop().sock_connect(made, where)
    except BaseException:
        made.close()
        raise
    return made
