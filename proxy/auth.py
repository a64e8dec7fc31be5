"""Who is calling: turns the credential of a request into a Principal.

`passthrough` believes nothing and needs to: the credential goes upstream, and the caller's share of the cache is named by
an HMAC of that very credential, so that only who holds it can see what it bought. `open` lets everybody in, as one.
"""

import hashlib
import hmac
import struct
from collections.abc import Mapping
from typing import Literal

from proxy.errors import Unauthenticated
from proxy.model import Credential, Principal

MISSING_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


class Authenticator:
    """`secret` keys the HMAC that names scopes: without it, a scope says nothing about a credential."""

    def __init__(self, mode: Literal["passthrough", "open"], secret: bytes) -> None:
        self._mode = mode
        self._secret = secret
        self._everybody = Principal(scope=self._scope_of("open"))

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated (401) when a credential is needed and there is none."""
        if self._mode == "open":
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

    def _scope_of(self, *parts: str) -> str:
        message = b"".join(struct.pack(">Q", len(part)) + part for part in (text.encode("latin-1") for text in parts))
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def _credential_of(headers: Mapping[str, str]) -> Credential | None:
    header: Literal["authorization", "api-key"] = "authorization" if headers.get("authorization") else "api-key"
    value = headers.get(header, "").strip()
    if not value or value.lower() == "bearer":
        return None
    return Credential(
        header=header,
        value=value,
        organization=headers.get("openai-organization"),
        project=headers.get("openai-project"),
    )
