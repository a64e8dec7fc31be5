"""Fetches the picture behind an address that an upstream answered with, and nothing else that an address can reach.

The guard against server-side request forgery: https and public addresses only, or the upstream's own host; no credential,
no redirect; and the address that was checked is the one that is connected to, so that a name cannot change in between.
"""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

import pybase64

from proxy.errors import ImagegateError, UpstreamError
from proxy.reply import media_type_of
from proxy.upstream.wire import Post, Wire

MAX_PICTURE_BYTES = 50_000_000
FETCH_SECONDS = 60.0
CONNECT_SECONDS = 10.0


_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotFetchable(ImagegateError):
    """This address is not fetched, or gave nothing; the reply passes through as it is and is not stored."""


async def fetch_base64(wire: Wire, url: str, *, upstream_base_url: str) -> bytes:
    """The picture at `url`, as base64. Raises NotFetchable."""
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            post = await _guarded(url, upstream_base_url)
            content = await _read(wire, post)
    except TimeoutError:
        raise NotFetchable("the address of the picture did not answer in time") from None
    except UpstreamError as error:
        raise NotFetchable("the address of the picture could not be fetched") from error
    if media_type_of(content[:256]) is None:
        raise NotFetchable("the address of the picture holds none")
    encoded: bytes = await asyncio.get_running_loop().run_in_executor(None, pybase64.b64encode, content)
    return encoded


async def _read(wire: Wire, post: Post) -> bytes:
    async with wire.exchange(post, connect_seconds=CONNECT_SECONDS, io_seconds=FETCH_SECONDS) as reply:
        if reply.status != 200:
            raise NotFetchable(f"the address of the picture answered {reply.status}")
        parts = [chunk async for chunk in reply.chunks(MAX_PICTURE_BYTES)]
    return b"".join(parts)


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
