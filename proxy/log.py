"""JSON lines: one per event, one canonical line per request, written by a thread of its own.

Laws of the module: a field that is not on a list here is not written, so no prompt, image or credential has a way in;
what is written in free text (messages, exceptions, names sent by clients) passes `redact` all the same; and a reader
of the log that stops reading costs lines, which are counted, never a stall of the event loop.
"""

import logging
import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import PurePath
from typing import Any, TextIO

from proxy import accessline, tracing
from proxy.accessline import AccessLine
from proxy.errors import ImagegateError
from proxy.redaction import quoted, text, timestamp

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

_ACCESS = logging.getLogger(accessline.LOGGER)
_QUIET = dict.fromkeys(("alembic", "httpx", "httpcore", "urllib3", "uvicorn.access", "uvicorn.error"), logging.WARNING)
_JOINED = ("uvicorn", "uvicorn.asgi", "asyncio", *_QUIET)
_QUEUE_LINES = 4096
_BATCH_LINES = 512
GATHER_SECONDS = 0.02
_STOP_SECONDS = 2.0
_MAX_TEXT = 4096
_MAX_FIELD = 256
_MAX_FRAMES = 40
_MAX_EXCEPTIONS = 8


# The line of a request


def access(line: AccessLine, at: float) -> None:
    """Writes the line of a request that was over `at` (wall clock); the level is always INFO, the logger `imagegate.access`.

    Straight to the queue: a LogRecord on its way through the loggers costs several times the line.
    """
    if _ACCESS.isEnabledFor(logging.INFO):
        for handler in logging.root.handlers:
            if isinstance(handler, _Queue):
                handler.tell(accessline.written(line, at))


# Any other line


class JsonLines(logging.Formatter):
    """A record as one line of ASCII JSON: no text can start a second line or reach a terminal's control codes."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            f'{{"ts":"{timestamp(record.created)}","level":"{record.levelname.lower()}"',
            f'"logger":{quoted(record.name)},"msg":{text(record.getMessage(), _MAX_TEXT)}',
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
    told = ",".join(quoted(frame) for frame in frames[-_MAX_FRAMES:])
    return f'{{"type":{quoted(type(error).__qualname__)},"message":{text(message, _MAX_TEXT)},"frames":[{told}]}}'


def _json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return format(value, "f") if isinstance(value, Decimal) else repr(float(value))
    return text(str(value), _MAX_FIELD)


# The way out


class _Queue(logging.Handler):
    """Formats where the event happened and never waits: a line that finds the queue full is dropped and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.has_news = threading.Event()
        self._lines: deque[str] = deque()  # appending is one step, also for a destructor that logs inside of another's
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.tell(self.format(record))
        except Exception:  # noqa: BLE001 - the standard library would print the record, unredacted
            self.lost(1)

    def tell(self, line: str) -> None:
        if len(self._lines) >= _QUEUE_LINES:
            self.lost(1)
            return
        self._lines.append(line)
        if not self.has_news.is_set():
            self.has_news.set()

    def take(self) -> list[str]:
        """What has been told, up to now. For the one thread that writes."""
        self.has_news.clear()
        return [self._lines.popleft() for _ in range(min(len(self._lines), _BATCH_LINES))]

    def lost(self, count: int) -> None:
        self.acquire()  # the lock that `emit` runs under
        self._dropped += count
        self.release()

    def take_dropped(self) -> int:
        self.acquire()
        count, self._dropped = self._dropped, 0
        self.release()
        return count


class _Writer(threading.Thread):
    """Takes lines from the queue to the stream. What comes within a moment is written together: to wake a thread for each
    line would cost more than the line."""

    def __init__(self, source: _Queue, stream: TextIO) -> None:
        super().__init__(name="log", daemon=True)
        self._source = source
        self._stream = stream
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.is_set():
            self._source.has_news.wait()
            self._is_over.wait(GATHER_SECONDS)
            self._pass_on()

    def stop(self) -> None:
        """Writes what is queued, unless the stream is stuck: the process must be able to leave."""
        self._is_over.set()
        self._source.has_news.set()
        self.join(_STOP_SECONDS)
        if not self.is_alive():
            self._pass_on()

    def _pass_on(self) -> None:
        while lines := self._source.take():
            self._write(lines)
        count = self._source.take_dropped()
        if count:
            told = {"name": "imagegate.log", "levelno": logging.WARNING, "levelname": "WARNING", "count": count}
            record = logging.makeLogRecord({**told, "msg": "log lines were dropped"})
            self._write([self._source.format(record)])

    def _write(self, lines: Sequence[str]) -> None:
        try:
            self._stream.write("".join([line + "\n" for line in lines]))
            self._stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream was closed
            self._source.lost(len(lines))


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
    source = _Queue()
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
