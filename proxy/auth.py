"""Who is calling: turns the credential of a request into a Principal.

`passthrough` believes nothing and needs to: the credential goes upstream, and the caller's share of the cache is named by
an HMAC of that very credential, so that only who holds it can see what it bought. `open` lets everybody in, as one; but a
web page is not everybody: whoever opens it would pay for what its author asks.
"""

import hashlib
import hmac
import struct
from collections.abc import Collection, Mapping
from typing import Literal

from proxy.errors import Forbidden, Unauthenticated
from proxy.model import Credential, Principal

MISSING_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


class Authenticator:
    """`secret` keys the HMAC that names scopes: without it, a scope says nothing about a credential.

    `origins` are the web origins whose pages may call in mode `open`; `*` stands for all of them.
    """

    def __init__(self, mode: Literal["passthrough", "open"], secret: bytes, *, origins: Collection[str] = ()) -> None:
        self._mode = mode
        self._secret = secret
        self._origins = frozenset(origins)
        self._everybody = Principal(scope=self._scope_of("open"))

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated (401) when a credential is needed and there is none, Forbidden (403) for a web page."""
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


def _credential_of(headers: Mapping[str, str]) -> Credential | None:
    names: tuple[Literal["authorization", "api-key"], ...] = ("authorization", "api-key")
    for header in names:
        value = headers.get(header, "").strip()
        if value and value.lower() != "bearer":
            return Credential(header, value, headers.get("openai-organization"), headers.get("openai-project"))
    return None
