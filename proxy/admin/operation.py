"""The nouns of the admin API: an operation as data, what it is asked, and what it replies."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Schema = Mapping[str, Any]
"""JSON Schema 2020-12, as OpenAPI 3.1 has it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the query. `schema` is what the document says and what is checked: `integer`, or `string`."""

    name: str
    help: str
    schema: Schema
    is_needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that was let in. `query` holds what was given of the operation's parameters, `pairs` is the same unread."""

    actor: str
    name: str = ""
    """What stands in the path: an id, an alias, a key of the cache."""
    query: Mapping[str, Any] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    content: bytes
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `answer` and `body` name schemas of the document."""

    name: str
    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    summary: str
    handle: Callable[[Asked], Awaitable[Reply]]
    answer: str
    status: int = 200
    query: Sequence[Parameter] = ()
    reads_pairs: bool = False
    """It reads `Asked.pairs` by itself: `query` is for the document alone."""
    body: str | None = None
    needs_body: bool = True
    media_types: Sequence[str] = ("application/json",)
    is_public: bool = False
    """It takes no token."""


def encoded(value: Any) -> bytes:
    """ASCII, so that no text that was once stored can keep the rest from being told."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
