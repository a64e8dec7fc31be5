"""A vendor as the upstream door needs it; each field's default is OpenAI's own way (apiyi's too)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from proxy.model import Operation
from proxy.settings import UpstreamSection

Refusal = tuple[int, dict[str, Any]]
"""A status, and the error object that belongs into `{"error": …}`."""


class Target(Protocol):
    def __call__(self, section: UpstreamSection, operation: Operation, model: str) -> str: ...


def path(operation: Operation) -> str:
    """Of the Images API, without a slash in front."""
    return f"images/{operation.endpoint}"


def openai_target(section: UpstreamSection, operation: Operation, model: str) -> str:
    return f"{section.base_url.rstrip('/')}/{path(operation)}"


def bearer(key: str) -> tuple[str, str]:
    return "authorization", f"Bearer {key}"


def same(members: Mapping[str, Any]) -> dict[str, Any]:
    return dict(members)


def no_refusal(document: Mapping[str, Any]) -> Refusal | None:
    return None


def no_cost(usage: Mapping[str, Any]) -> Decimal | None:
    return None


@dataclass(frozen=True, slots=True)
class Vendor:
    """What differs between vendors that speak almost one language."""

    target: Target = openai_target
    """The URL of a call. Raises UnsupportedByModel for a model that cannot be named in it."""
    key_header: Callable[[str], tuple[str, str]] = bearer
    """The header, lower-case, that our own key is shown in."""
    members: Callable[[Mapping[str, Any]], dict[str, Any]] = same
    """The JSON members as this vendor spells them, from our canonical ones; any members will do."""
    is_plain: bool = True
    """`members` changes nothing: the canonical bytes can be sent as they are."""
    edits_in_json: bool = True
    """Edits may come as JSON; else they go out as multipart, however they came."""
    adds_created: bool = False
    """Replies may come without `created`, which OpenAI's clients expect: it is added."""
    refusal_in: Callable[[Mapping[str, Any]], Refusal | None] = no_refusal
    """A refusal dressed as a 200: what it should have been. The document may have placeholders for its pictures."""
    cost_of: Callable[[Mapping[str, Any]], Decimal | None] = no_cost
    """USD that the vendor itself says it charged for the whole call, in the reply's `usage`; None if it does not say."""
