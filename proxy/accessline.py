"""The line of a request: one JSON object that tells of it when it is over, and tells no secret.

Most of a line is the same from one call of a client to the next. Its texts are searched for secrets and quoted together,
once, and kept; what names the call and its times are put beside them.
"""

from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from proxy.noun import noun
from proxy.redaction import quoted, redact, shortened, text, timestamp

LOGGER = "imagegate.access"
_MAX_FIELD = 256
_MOST_KEPT = 1024


class Same(NamedTuple):
    """What is told alike of calls that are alike. Times in milliseconds, sizes in bytes, money in USD."""

    method: str
    route: str
    status: int
    cache: str = "none"
    """The word of the metric label."""
    error_code: str | None = None
    """Of the error object sent."""
    cache_key: str | None = None
    """The first 12 hex digits."""
    model: str | None = None
    upstream: str | None = None
    upstream_request_id: str | None = None
    upstream_ms: float | None = None
    images: int | None = None
    size: str | None = None
    quality: str | None = None
    tokens: int | None = None
    """What the reply's usage adds up to."""
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    team: str | None = None
    key_id: str | None = None
    client: str | None = None
    """The peer's address."""
    prompt_len: int | None = None
    """Characters."""


@noun
class AccessLine:
    """What is told of one request, when it is over: `same` is what `told` makes of a Same."""

    same: str
    request_id: str
    duration_ms: float
    overhead_ms: float | None = None
    trace_id: str | None = None
    span_id: str | None = None


_TEMPLATE = (
    '{"ts":"%s","level":"info","logger":"imagegate.access","msg":"request","request_id":%s,'
    '"trace_id":%s,"span_id":%s,"duration_ms":%.3f,"overhead_ms":%s,%s}'
)


def written(line: AccessLine, at: float) -> str:
    """The line as JSON; `at` is the wall clock when the request was over."""
    return _TEMPLATE % (
        timestamp(at),
        *_ids(line.request_id, line.trace_id, line.span_id),
        line.duration_ms,
        _number(line.overhead_ms),
        line.same,
    )


def told(same: Same) -> str:
    """As members of the line. Kept, unless somebody else's words in it are long."""
    words = (same.model, same.size, same.quality, same.upstream_request_id)
    return _kept(same) if sum([len(word) for word in words if word]) <= _MAX_FIELD else _told(same)


def _told(same: Same) -> str:
    texts = [value for value in same if isinstance(value, str)]
    together = " ".join(texts)  # searched together: cheaper than one by one
    is_plain = len(together) <= _MAX_FIELD and redact(together) is together
    limit = None if is_plain else _MAX_FIELD
    return ",".join([f'"{name}":{_json(value, limit)}' for name, value in zip(same._fields, same, strict=True)])


_kept = lru_cache(maxsize=_MOST_KEPT)(_told)


def _json(value: object, limit: int | None) -> str:
    """A text of at most `limit` characters, redacted; as it is without a limit."""
    if isinstance(value, str):
        return quoted(value if limit is None else shortened(value, limit))
    return _number(value)


def _number(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.3f}"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _ids(request_id: str, trace_id: str | None, span_id: str | None) -> tuple[str, str, str]:
    if trace_id is not None and span_id is not None and request_id.startswith("req_"):
        run = request_id[4:] + trace_id + span_id
        if len(run) == 80 and run.isascii() and run.isalnum():  # all of them ours
            return f'"{request_id}"', f'"{trace_id}"', f'"{span_id}"'
    return _id(request_id), _id(trace_id), _id(span_id)


def _id(value: str | None) -> str:
    """An id of ours: what is one short run of letters and digits holds nothing that `redact` could see."""
    if value is None:
        return "null"
    run = value[4:] if value.startswith("req_") else value
    return f'"{value}"' if len(run) <= 32 and run.isascii() and run.isalnum() else text(value, _MAX_FIELD)
