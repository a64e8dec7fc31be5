"""Who comes in: the admin token in constant time, guesses limited by address, and the name that the audit log gets."""

import hashlib
import ipaddress
import math
from collections.abc import Mapping, Sequence
from hmac import compare_digest

from starlette.types import Scope

from proxy import virtualkey
from proxy.admin.attempts import Attempts
from proxy.errors import Forbidden, TooManyAttempts, Unauthenticated
from proxy.metrics import Metrics
from proxy.settings import ADMIN_TOKEN_VARIABLE, Settings

_MOST_NAME_CHARACTERS = 64
_NOBODY_KNOWS = "unknown"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Door:
    """Lets in who shows the token."""

    def __init__(self, settings: Settings, attempts: Attempts, metrics: Metrics) -> None:
        self._token = settings.auth.admin_token
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in settings.server.trusted_proxies]
        self._attempts = attempts
        self._metrics = metrics

    def admit(self, scope: Scope, headers: Mapping[str, str]) -> str:
        """Who it is, for the audit log. Raises Forbidden, TooManyAttempts and Unauthenticated."""
        if self._token is None:
            message = (
                "The admin API is off: no token is set. Set auth.admin_token, which unless configured otherwise is read"
                f" from the environment variable {ADMIN_TOKEN_VARIABLE}, and start imagegate again."
            )
            raise Forbidden(message, code="admin_api_off")
        address = _client(scope, headers, self._trusted)
        client = _limited_by(address)
        wait = self._attempts.wait_seconds(client)
        if wait:
            raise TooManyAttempts(
                "Too many attempts with a wrong admin token from your address. Please try again later.",
                headers={"retry-after": str(math.ceil(wait))},
            )
        given = headers.get("authorization", "")
        if not _is_bearer(given, self._token.reveal()):
            if _is_guess(given):
                self._attempts.failed(client)
            self._metrics.auth_failed("admin")
            raise Unauthenticated(
                "Incorrect or missing admin token. Send the one set as auth.admin_token: Authorization: Bearer TOKEN.",
                code="invalid_admin_token",
                headers={"www-authenticate": "Bearer"},
            )
        return _actor(headers.get("x-imagegate-actor", ""), address)


def _is_bearer(given: str, token: str) -> bool:
    """Digests are compared: the time it takes does not even tell the token's length."""
    scheme, _, value = given.partition(" ")
    same = compare_digest(_digest(value.strip()), _digest(token))
    return same and scheme.lower() == "bearer"


def _is_guess(given: str) -> bool:
    """Who sends nothing, or a virtual key, took a wrong door: that must not lock out who comes from the same address."""
    value = given.partition(" ")[2].strip()
    return bool(value) and not value.startswith(virtualkey.PREFIX)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _actor(name: str, address: Address | None) -> str:
    """`admin:alice@10.0.0.1`. What comes after the last `@` is ours."""
    text = name.encode("latin-1").decode("utf-8", "replace")[:_MOST_NAME_CHARACTERS]
    shown = "".join(each if each.isprintable() else "?" for each in text)
    return f"admin{shown and ':'}{shown}@{address or _NOBODY_KNOWS}"


def _client(scope: Scope, headers: Mapping[str, str], trusted: Sequence[Network]) -> Address | None:
    """The peer, or whom the last trusted proxy has seen: what stands further left anybody may have written."""
    peer = scope["client"][0] if scope.get("client") else ""
    address = _address(peer)
    for text in reversed(headers.get("x-forwarded-for", "").split(",")):
        if address is None or not any(address in network for network in trusted):
            break
        if (hop := _address(text)) is None:
            break  # what stands left of an entry that nobody can read, nobody can vouch for
        address = hop
    return address


def _address(text: str) -> Address | None:
    """With or without a port, as some proxies write it."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _limited_by(address: Address | None) -> str:
    """Of IPv6 the /64: one customer has all of its addresses (RFC 6177)."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or _NOBODY_KNOWS)
