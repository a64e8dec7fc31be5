"""Who is calling: turns the credential of a request into a Principal.

`keys` knows every virtual key by its digest; the caller's share of the cache is their team's, their key's or everybody's.
`passthrough` believes nothing and needs to: the credential goes upstream, and the caller's share of the cache is named by
an HMAC of that very credential, so that only who holds it can see what it bought. `open` lets everybody in, as one; but a
web page is not everybody: whoever opens it would pay for what its author asks.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from proxy import allowance, virtualkey
from proxy.clock import Clock
from proxy.errors import DatabaseUnavailable, Forbidden, Unauthenticated
from proxy.keyrecord import CacheScope
from proxy.keyring import Keyring
from proxy.model import Credential, Holder, Principal

MISSING_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


@dataclass(frozen=True, slots=True)
class VirtualKeys:
    """What mode `keys` needs: who holds which key, and who shares the cache by default."""

    keyring: Keyring
    scope: CacheScope
    clock: Clock


class Authenticator:
    """`secret` keys the HMAC that names scopes: without it, a scope says nothing about a credential.

    `origins` are the web origins whose pages may call in mode `open`; `*` stands for all of them. `keys` is set in mode
    `keys`.
    """

    def __init__(
        self,
        mode: Literal["passthrough", "keys", "open"],
        secret: bytes,
        *,
        origins: Collection[str] = (),
        keys: VirtualKeys | None = None,
    ) -> None:
        self._mode = mode
        self._secret = secret
        self._origins = frozenset(origins)
        self._everybody = Principal(scope=self._scope_of("open"))
        self._keys = keys
        self._scopes: dict[tuple[str, ...], str] = {}
        """Of keys, so that a hit costs no HMAC. As many as there are keys and teams that call."""
        self._principals: dict[str, Principal] = {}
        """The last one of each key that calls, by its id."""

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated (401) when a credential is needed and there is none, or none that is known; Forbidden
        (403) for a web page; DatabaseUnavailable (503) as long as no keys could be read.
        """
        if self._keys is not None:
            return self._by_key(self._keys, headers)
        if self._mode == "open":
            self._refuse_strange_pages(headers.get("origin"))
            return self._everybody
        credential = _credential_of(headers)
        if credential is None:
            raise Unauthenticated(MISSING_KEY)
        scope = self._scope_of(
            "passthrough",
            credential.header,
            credential.value,
            credential.organization or "",
            credential.project or "",
        )
        return Principal(scope=scope, credential=credential)

    def _by_key(self, keys: VirtualKeys, headers: Mapping[str, str]) -> Principal:
        text = _virtual_key_of(headers)
        if text is None:
            raise Unauthenticated(MISSING_KEY)
        if not keys.keyring.is_loaded:
            raise DatabaseUnavailable("the keys have not been read yet")
        holder = keys.keyring.find(text, keys.clock.wall())
        principal = self._principals.get(holder.key.id)
        if principal is None or principal.holder is not holder:
            principal = self._principals[holder.key.id] = self._principal_of(holder, keys.scope)
        return principal

    def witness(self, headers: Mapping[str, str], principal: Principal) -> Callable[[], bool]:
        """Tells, whenever it is asked, whether who calls with these headers would still be taken for `principal`, who they
        were a moment ago. Knows a key by its digest."""
        text = _virtual_key_of(headers)
        if self._keys is None or text is None:
            return lambda: True  # what else lets somebody in stands in the headers, and does not change
        keyring, clock, digest = self._keys.keyring, self._keys.clock, virtualkey.digest(text)
        return lambda: keyring.still(digest, clock.wall()) is principal.holder

    def _principal_of(self, holder: Holder, default_scope: CacheScope) -> Principal:
        parts = allowance.scope_parts(holder, default_scope)
        scope = self._scopes.get(parts)
        if scope is None:
            scope = self._scopes[parts] = self._scope_of("keys", *parts)
        team = holder.team.team_alias if holder.team is not None else "none"
        return Principal(scope=scope, team=team, name=holder.key.id, holder=holder)

    def _refuse_strange_pages(self, origin: str | None) -> None:
        """By the page's own name (RFC 6454 §7): DNS, and so our `Host`, may be the page's author's to choose."""
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        raise Forbidden(
            "Web pages of this origin may not use this proxy. Its operator may allow it: server.cors_origins.",
            code="origin_not_allowed",
        )

    def _scope_of(self, *parts: str) -> str:
        message = b"".join(struct.pack(">Q", len(part)) + part for part in (text.encode("latin-1") for text in parts))
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def _virtual_key_of(headers: Mapping[str, str]) -> str | None:
    """What was sent as a key: of several headers, the one that holds a virtual key."""
    found = [headers.get(name, "").strip() for name in ("authorization", "api-key", "x-api-key")]
    scheme, _, token = found[0].partition(" ")
    found[0] = token.strip() if scheme.lower() == "bearer" else found[0]
    sent = [text for text in found if text]
    return next((text for text in sent if text.startswith(virtualkey.PREFIX)), sent[0] if sent else None)


def _credential_of(headers: Mapping[str, str]) -> Credential | None:
    names: tuple[Literal["authorization", "api-key"], ...] = ("authorization", "api-key")
    for header in names:
        value = headers.get(header, "").strip()
        if value and value.lower() != "bearer":
            return Credential(header, value, headers.get("openai-organization"), headers.get("openai-project"))
    return None
