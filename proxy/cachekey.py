"""The cache key: one digest for one answer, over everything that shapes it and nothing that does not.

Fields are length-prefixed, so that no two different lists of fields give the same bytes. What is hashed is what is sent:
the canonical body itself. Raise KEY_VERSION whenever the same request would hash differently or mean something else.
"""

import hashlib
import struct
from dataclasses import replace

from proxy.model import ImageRequest

KEY_VERSION = 1


def cache_key(request: ImageRequest, *, scope: str, cache_group: str, openai_beta: str = "") -> str:
    """64 hex digits naming the answer to `request` within `scope`, as given by the upstreams of `cache_group`."""
    digest = hashlib.sha256()
    for part in (
        str(KEY_VERSION),
        request.table_digest,
        scope,
        cache_group,
        request.operation.value,
        openai_beta,
        request.variant or "",
    ):
        _field(digest, part.encode())
    _field(digest, request.canonical)
    return digest.hexdigest()


def fingerprint(request: ImageRequest, *, openai_beta: str = "") -> str:
    """64 hex digits naming what is asked, whoever asks, whoever may answer, and whatever the defaults are."""
    return cache_key(replace(request, table_digest=""), scope="", cache_group="", openai_beta=openai_beta)


def _field(digest: "hashlib._Hash", value: bytes) -> None:
    digest.update(struct.pack(">Q", len(value)))
    digest.update(value)
