"""JSON lines: one per event, one canonical line per request, written by a thread of its own.

Laws of the module: a field that is not on a list here is not written, so no prompt, image or credential has a way in;
what is written in free text (messages, exceptions, names sent by clients) passes `redact` all the same; and a reader
of the log that stops reading costs lines, which are counted, never a stall of the event loop.
"""

import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from json.encoder import encode_basestring_ascii as _quoted
from logging.handlers import QueueHandler, QueueListener
from pathlib import PurePath
from queue import SimpleQueue
from typing import Any, TextIO

from proxy import tracing
from proxy.errors import ImagegateError

EXTRA_FIELDS = (
    *(
        "request_id",
        "purchase_id",
        "cache_key",
        "operation",
        "model",
        "upstream",
        "upstream_request_id",
        "team",
        "key",
        "tier",
    ),
    *(
        "status",
        "error_code",
        "reason",
        "stage",
        "attempt",
        "count",
        "bytes",
        "seconds",
        "path",
        "setting",
        "address",
        "spent_usd",
    ),
    *("trace_id", "span_id"),
    *("instance", "version", "signal", "url", "problems"),
)
"""What `extra=` may add to a line; anything else given there is left out. A line of a request has its trace by itself."""

_ACCESS = "imagegate.access"
_QUIET = dict.fromkeys(("alembic", "httpx", "httpcore", "urllib3", "uvicorn.access", "uvicorn.error"), logging.WARNING)
_JOINED = ("uvicorn", "uvicorn.asgi", "asyncio", *_QUIET)
_QUEUE_LINES = 4096
_STOP_SECONDS = 2.0
_MAX_TEXT = 4096
_MAX_FIELD = 256
_MAX_FRAMES = 40
_MAX_EXCEPTIONS = 8


# Redaction

_NAMES = "api[-_]?key|authorization|password|passwd|secret|credential|signature|token"
_VALUE = r"""[^\s"',;&<>(){}\[\]]+"""
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"base64,[a-z0-9+/=_\\-]+", "base64,[redacted]"),
        # Backslashes and line ends belong to the run: PHP writes `\/`, MIME wraps at 76.
        (r"(?<![a-z0-9+/_\\-])[a-z0-9+/_\\\r\n-]{257,}={0,2}", "[redacted base64]"),
        (r"\b(bearer|basic)(?:\s|%20|\+)+(?:" + _VALUE + ")", r"\1 [redacted]"),
        (r"\b((?:set-)?cookie[\"']?\s*[:=,]\s*)[^\r\n]+", r"\1[redacted]"),
        (r"((?:" + _NAMES + r")[\"']?\s*[:=,]\s*(?:b?[\"'])?)(?:(?:bearer|basic)\s+)?" + _VALUE, r"\1[redacted]"),
        (r"((?:key|sig)=)[^\s\"'&<>]+", r"\1[redacted]"),
        # Inside a word (`disk-cache`) only what is long enough to be a key.
        (r"(?<![a-z0-9])sk-[a-z0-9_-]+|sk-[a-z0-9_-]{16,}", "[redacted key]"),
    )
)
_HINTS = (
    *("sk-", "key", "sig", "token", "bearer", "basic", "auth"),
    *("cookie", "passw", "secret", "credential", "base64,"),
)
"""Every rule but the one for long runs needs one of these words, in lower case."""


def redact(text: str) -> str:
    """The text without what looks like a credential, a signed link or an image. A last resort, not a licence."""
    if len(text) <= 256 and not _is_suspicious(text.lower()):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def _is_suspicious(lowered: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110 - `any` with a generator takes twice the time
        if hint in lowered:
            return True
    return False


# The line of a request


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


_ACCESS_TEMPLATE = (
    '{"ts":"%s","level":"%s","logger":"%s","msg":"request",'
    '"request_id":%s,"method":%s,"route":%s,"error_code":%s,"cache":%s,"cache_key":%s,"model":%s,"upstream":%s,'
    '"upstream_request_id":%s,"size":%s,"quality":%s,"team":%s,"key_id":%s,"client":%s,'
    '"status":%d,"duration_ms":%.3f,"upstream_ms":%s,"overhead_ms":%s,"images":%s,"tokens":%s,'
    '"cost_usd":%s,"saved_usd":%s,"bytes_in":%s,"bytes_out":%s,"prompt_len":%s,'
    '"trace_id":%s,"span_id":%s}'
)


def access(fields: AccessLine) -> None:
    """Writes the line of a request; the level is always INFO, the logger `imagegate.access`."""
    logger = logging.getLogger(_ACCESS)
    if logger.isEnabledFor(logging.INFO):
        # Made by hand: Logger.info would walk the stack for a file name that nobody prints.
        record = logging.LogRecord(_ACCESS, logging.INFO, "", 0, "request", None, None)
        record.__dict__["access"] = fields
        logger.handle(record)


def _access_line(record: logging.LogRecord, line: AccessLine) -> str:
    texts = _texts(line)
    return _ACCESS_TEMPLATE % (
        _timestamp(record.created),
        record.levelname.lower(),
        record.name,
        *texts,
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
        _hex(line.trace_id),
        _hex(line.span_id),
    )


def _texts(line: AccessLine) -> tuple[str, ...]:
    """The texts in the order of the template. Searched for secrets together: cheaper than one by one."""
    values = (
        *(line.request_id, line.method, line.route, line.error_code, line.cache, (line.cache_key or "")[:12]),
        *(line.model, line.upstream, line.upstream_request_id, line.size, line.quality),
        *(line.team, line.key_id, line.client),
    )
    together = " ".join([value for value in values if value])
    if len(together) <= _MAX_FIELD and redact(together) is together:
        return tuple([_quoted(value) if value else "null" for value in values])
    return tuple([_quoted(_shortened(value, _MAX_FIELD)) if value else "null" for value in values])


# Any other line


class JsonLines(logging.Formatter):
    """A record as one line of ASCII JSON: no text can start a second line or reach a terminal's control codes."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.__dict__.get("access")
        if isinstance(line, AccessLine):
            return _access_line(record, line)
        parts = [
            f'{{"ts":"{_timestamp(record.created)}","level":"{record.levelname.lower()}"',
            f'"logger":{_quoted(record.name)},"msg":{_text(record.getMessage(), _MAX_TEXT)}',
        ]
        given = record.__dict__
        here = tracing.current()
        if here is not None:
            given = {"trace_id": here.trace_id, "span_id": here.span_id, **given}
        parts += [f'"{name}":{_json(given[name])}' for name in EXTRA_FIELDS if name in given]
        if record.exc_info and record.exc_info[1]:
            parts.append(f'"exceptions":[{",".join(_exceptions(record.exc_info[1]))}]')
        return ",".join(parts) + "}"


def _exceptions(error: BaseException) -> Iterator[str]:
    """The exception, what it came from and what it holds, outermost first."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_EXCEPTIONS:
        error = waiting.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield _exception(error)
        origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        waiting += [origin] if origin else []
        waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _exception(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - whatever a foreign __str__ raises, the line is written
        message = f"(its message cannot be had: {type(broken).__name__})"
    frames = [
        f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-2:])}:{number} {frame.f_code.co_name}"
        for frame, number in traceback.walk_tb(error.__traceback__)
    ]
    told = ",".join(_quoted(frame) for frame in frames[-_MAX_FRAMES:])
    return f'{{"type":{_quoted(type(error).__qualname__)},"message":{_text(message, _MAX_TEXT)},"frames":[{told}]}}'


def _timestamp(seconds: float) -> str:
    """RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _milliseconds(value: float | None) -> str:
    return "null" if value is None else f"{value:.3f}"


def _number(value: int | Decimal | None) -> str:
    return "null" if value is None else format(value, "f") if isinstance(value, Decimal) else str(value)


def _hex(value: str | None) -> str:
    """An id of ours: what is one short run of letters and digits holds nothing that `redact` could see."""
    if value is None:
        return "null"
    return f'"{value}"' if len(value) <= 32 and value.isascii() and value.isalnum() else _text(value, _MAX_FIELD)


def _text(value: str, limit: int) -> str:
    return _quoted(_shortened(value, limit))


def _shortened(value: str, limit: int) -> str:
    """At most `limit` characters, redacted. Cut before it is searched: a client's megabyte must not stop the event loop."""
    longest = 4 * limit
    if len(value) > longest:
        # Without the last word, which may be half a secret.
        value = value[:longest].rpartition(" ")[0] or value[:longest]
    return redact(value)[:limit]


def _json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return format(value, "f") if isinstance(value, Decimal) else repr(float(value))
    return _text(str(value), _MAX_FIELD)


# The way out


class _Enqueue(QueueHandler):
    """Formats where the event happened and never waits: a line that finds the queue full is dropped and counted."""

    def __init__(self) -> None:
        self.lines: SimpleQueue[Any] = SimpleQueue()  # unlike Queue, safe when a destructor logs inside put
        super().__init__(self.lines)
        self.setFormatter(JsonLines())
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> str:
        return self.format(record)

    def enqueue(self, record: Any) -> None:
        if self.lines.qsize() < _QUEUE_LINES:
            self.lines.put(record)
        else:
            self._dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """A record that cannot be formatted. The standard library would print it, unredacted."""
        del record
        self._dropped += 1

    def lost(self, count: int) -> None:
        self.acquire()  # the lock that `emit` runs under
        self._dropped += count
        self.release()

    def take_dropped(self) -> int:
        self.acquire()
        count, self._dropped = self._dropped, 0
        self.release()
        return count


class _Writer(QueueListener):
    """Takes lines from the queue to the stream, in a thread."""

    def __init__(self, source: _Enqueue, stream: TextIO) -> None:
        super().__init__(source.lines)
        self._source = source
        self._stream = stream
        self._unreported = 0

    def handle(self, record: object) -> None:
        self._write(str(record))
        self._unreported += 1
        idle = self._source.lines.empty()
        if idle or self._unreported >= _QUEUE_LINES:  # once in a while, else the report would add to the flood
            self._unreported = 0
            self._report()
        if idle:
            self._flush()

    def stop(self) -> None:
        """Writes what is queued, unless the stream is stuck: the process must be able to leave."""
        if self._thread is not None:
            self.enqueue_sentinel()
            self._thread.join(_STOP_SECONDS)
            if not self._thread.is_alive():
                self._report()
                self._flush()
            self._thread = None

    def _report(self) -> None:
        count = self._source.take_dropped()
        if count:
            told = {"name": "imagegate.log", "levelno": logging.WARNING, "levelname": "WARNING", "count": count}
            record = logging.makeLogRecord({**told, "msg": "log lines were dropped"})
            self._write(self._source.format(record))

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
        except (OSError, ValueError):  # the reader has gone, or the stream was closed
            self._source.lost(1)

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass


class _Known(logging.Filter):
    """A stream that was cut upstream is left broken by an error of ours on purpose; its access line has told it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ImagegateError))


def configure(level: str, stream: TextIO | None = None) -> Callable[[], None]:
    """Sends every logger of the process to `stream` (default: stderr), as JSON lines; returns what undoes it.

    Raises ValueError for a level that is none.
    """
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, _JOINED)]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    root.setLevel(level.upper())
    for logger in loggers[1:]:
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for name, floor in _QUIET.items():
        logging.getLogger(name).setLevel(max(floor, root.level))
    server, known = logging.getLogger("uvicorn.error"), _Known()
    server.addFilter(known)
    source = _Enqueue()
    writer = _Writer(source, stream if stream is not None else sys.stderr)
    root.addHandler(source)
    writer.start()

    def stop() -> None:
        for logger, former_level, propagate, handlers in before:
            logger.setLevel(former_level)
            logger.propagate = propagate
            if logger is not root:
                logger.handlers[:] = handlers
        server.removeFilter(known)
        root.removeHandler(source)
        writer.stop()

    return stop
