"""The line of a request: one JSON object that tells of it when it is over, and tells no secret.

Most of a line is the same from one call of a client to the next. Its texts are searched for secrets and quoted together,
once, and kept; numbers and ids are put beside them.
"""

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from proxy.redaction import quoted, redact, shortened, text, timestamp

LOGGER = "imagegate.access"
_MAX_FIELD = 256
_MOST_KEPT = 1024
_LONGEST_KEPT = 512
"""Characters of the texts of a line: what is kept of them is bounded."""


@dataclass(slots=True, kw_only=True)
class AccessLine:
    """What is told of one request, when it is over. Times in milliseconds, sizes in bytes, money in USD.

    `error_code` is the code of the error object sent; `cache` the word of the metric label; `cache_key` is cut to 12
    hex digits; `tokens` what the reply's usage adds up to; `client` the peer's address; `prompt_len` counts characters.
    """

    request_id: str
    method: str
    route: str
    status: int
    duration_ms: float
    cache: str = "none"
    error_code: str | None = None
    upstream_ms: float | None = None
    overhead_ms: float | None = None
    cache_key: str | None = None
    model: str | None = None
    upstream: str | None = None
    upstream_request_id: str | None = None
    images: int | None = None
    size: str | None = None
    quality: str | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    team: str | None = None
    key_id: str | None = None
    client: str | None = None
    prompt_len: int | None = None
    trace_id: str | None = None
    span_id: str | None = None


_TEMPLATE = (
    '{"ts":"%s","level":"info","logger":"imagegate.access","msg":"request","request_id":%s,%s'
    '"status":%d,"duration_ms":%.3f,"upstream_ms":%s,"overhead_ms":%s,"images":%s,"tokens":%s,'
    '"cost_usd":%s,"saved_usd":%s,"bytes_in":%s,"bytes_out":%s,"prompt_len":%s,"trace_id":%s,"span_id":%s}'
)
_TEXTS_TEMPLATE = (
    '"method":%s,"route":%s,"error_code":%s,"cache":%s,"cache_key":%s,"model":%s,"upstream":%s,'
    '"upstream_request_id":%s,"size":%s,"quality":%s,"team":%s,"key_id":%s,"client":%s,'
)
_Texts = tuple[str | None, ...]


def written(line: AccessLine, at: float) -> str:
    """The line as JSON; `at` is the wall clock when the request was over."""
    return _TEMPLATE % (
        timestamp(at),
        _id(line.request_id),
        _texts(line),
        line.status,
        line.duration_ms,
        _milliseconds(line.upstream_ms),
        _milliseconds(line.overhead_ms),
        _number(line.images),
        _number(line.tokens),
        _number(line.cost_usd),
        _number(line.saved_usd),
        _number(line.bytes_in),
        _number(line.bytes_out),
        _number(line.prompt_len),
        _id(line.trace_id),
        _id(line.span_id),
    )


def _texts(line: AccessLine) -> str:
    values = (
        *(line.method, line.route, line.error_code, line.cache, line.cache_key),
        *(line.model, line.upstream, line.upstream_request_id, line.size, line.quality),
        *(line.team, line.key_id, line.client),
    )
    is_short = len("".join([value for value in values if value])) <= _LONGEST_KEPT
    return _kept(values) if is_short else _quoted(values)


def _quoted(values: _Texts) -> str:
    """The texts in the order of the template. Searched for secrets together: cheaper than one by one."""
    values = (*values[:4], (values[4] or "")[:12], *values[5:])
    together = " ".join([value for value in values if value])
    if len(together) <= _MAX_FIELD and redact(together) is together:
        return _TEXTS_TEMPLATE % tuple([quoted(value) if value else "null" for value in values])
    return _TEXTS_TEMPLATE % tuple([quoted(shortened(value, _MAX_FIELD)) if value else "null" for value in values])


_kept = lru_cache(maxsize=_MOST_KEPT)(_quoted)


def _milliseconds(value: float | None) -> str:
    return "null" if value is None else f"{value:.3f}"


def _number(value: int | Decimal | None) -> str:
    return "null" if value is None else format(value, "f") if isinstance(value, Decimal) else str(value)


def _id(value: str | None) -> str:
    """An id of ours: what is one short run of letters and digits holds nothing that `redact` could see."""
    if value is None:
        return "null"
    run = value[4:] if value.startswith("req_") else value
    return f'"{value}"' if len(run) <= 32 and run.isascii() and run.isalnum() else text(value, _MAX_FIELD)
