"""Fetches the picture behind an address that an upstream answered with, and nothing else that an address can reach.

The guard against server-side request forgery: https and public addresses only, or the upstream's own host; no credential,
no redirect; and the address that was checked is the one that is connected to, so that a name cannot change in between.
A picture goes to a file of its own, as base64, while it arrives: what is held of it in memory does not grow with it.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import pybase64

from proxy.errors import ImagegateError, InvalidRequest, StoreError, UpstreamError
from proxy.reply import media_type_of
from proxy.spool import Spool, Spools
from proxy.upstream.slots import ReceiveSlots
from proxy.upstream.wire import Post, Wire

MAX_PICTURE_BYTES = 50_000_000
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
FETCHES = 16
"""Pictures that are read at once, of all replies together; one that hardly moves does not count."""
WINDOW_BYTES = 3 << 15
"""A multiple of 3, so that the base64 of the windows is the base64 of the whole."""


_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotFetchable(ImagegateError):
    """This address is not fetched, or gave nothing; the reply passes through as it is and is not stored."""


@dataclass(slots=True)
class Room:
    """How many bytes the pictures of one reply may still take, as base64."""

    left_bytes: int

    def take(self, count: int) -> None:
        if count > self.left_bytes:
            raise NotFetchable("the pictures of one reply are too large together")
        self.left_bytes -= count


class Fetcher:
    """Fetches pictures; its slots bound how many are read at once, and so their memory."""

    def __init__(self, wire: Wire, spools: Spools) -> None:
        self._wire = wire
        self._spools = spools
        self._slots = ReceiveSlots(FETCHES)

    async def fetch(self, url: str, room: Room, *, upstream_base_url: str) -> Spool:
        """The picture at `url`, as base64; the spool is the caller's to discard. Raises NotFetchable."""
        spool = self._spools.open()
        try:
            post = await _guarded(url, upstream_base_url)
            await self._read(post, spool, room)
        except (UpstreamError, InvalidRequest, StoreError) as error:
            spool.discard()
            raise NotFetchable("the address of the picture could not be fetched") from error
        except BaseException:
            spool.discard()
            raise
        return spool

    async def _read(self, post: Post, spool: Spool, room: Room) -> None:
        async with self._wire.exchange(post, connect_seconds=CONNECT_SECONDS, io_seconds=READ_SECONDS) as reply:
            if reply.status != 200:
                raise NotFetchable(f"the address of the picture answered {reply.status}")
            # Who has not begun to answer takes no place.
            async with self._slots.receiving() as slot:
                text = _Base64(spool, room)
                async for chunk in reply.chunks(MAX_PICTURE_BYTES):
                    await slot.moved(len(chunk))
                    await text.write(chunk)
                await text.finish()


class _Base64:
    """A picture on its way into a spool, in windows; the first must begin as pictures do."""

    def __init__(self, spool: Spool, room: Room) -> None:
        self._spool = spool
        self._room = room
        self._window = bytearray()

    async def write(self, chunk: bytes) -> None:
        self._window += chunk
        while len(self._window) >= WINDOW_BYTES:
            await self._encode(WINDOW_BYTES)

    async def finish(self) -> None:
        await self._encode(len(self._window))
        await self._spool.finish()

    async def _encode(self, count: int) -> None:
        part = bytes(self._window[:count])
        del self._window[:count]
        if not self._spool.size and media_type_of(part[:256]) is None:
            raise NotFetchable("the address of the picture holds none")
        text = pybase64.b64encode(part)
        self._room.take(len(text))
        await self._spool.write(text)
        if self._spool.error is not None:
            # A link that may expire, rather than megabytes in memory for each picture while the disk is full.
            raise NotFetchable("the disk has no room for the picture")


async def _guarded(url: str, upstream_base_url: str) -> Post:
    """The request to make, with the host replaced by an address that was checked."""
    try:
        parts, own = urlsplit(url), urlsplit(upstream_base_url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        own_port = own.port or (443 if own.scheme == "https" else 80)
    except ValueError as error:
        raise NotFetchable("the address of the picture is malformed") from error
    own_host = (parts.scheme, host, port) == (own.scheme, own.hostname, own_port)
    if not host or parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        raise NotFetchable("the address of the picture is malformed")
    if parts.scheme != "https" and not own_host:
        raise NotFetchable("the address of the picture is not https")
    address = await _checked_address(host, port, must_be_public=not own_host)
    literal = f"[{address}]" if ":" in address else address
    target = urlunsplit((parts.scheme, f"{literal}:{port}", parts.path or "/", parts.query, ""))
    headers = {"host": parts.netloc, "accept": "image/*", "accept-encoding": "identity"}
    return Post("GET", target, headers, server_name=host)


async def _checked_address(host: str, port: int, *, must_be_public: bool) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotFetchable("the host of the picture's address is unknown") from error
    addresses = [str(entry[4][0]) for entry in found]
    # All of them must be public: a name with one public and one private address is a trap, not a mirror.
    if not addresses or (must_be_public and not all(_is_public(address) for address in addresses)):
        raise NotFetchable("the address of the picture is not public")
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        # A tunnelled IPv4 address is judged as itself (RFC 4291 §2.5.5, RFC 6052, RFC 3056).
        embedded = parsed.ipv4_mapped or parsed.sixtofour
        if embedded is None and parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if embedded is not None:
            return _is_public(str(embedded))
        # What is not global unicast (RFC 4291 §2.4) is nobody's public address, whatever `is_global` says of it:
        # IPv4-compatible, IPv4-translated, local-use NAT64, site-local.
        if parsed not in _UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast
