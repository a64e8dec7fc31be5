"""What a log line looks like, what never stands in one, and that nobody waits for whoever reads it."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import accessline, log
from proxy.accessline import AccessLine, Same
from proxy.errors import UpstreamConnectionLost
from proxy.log import access, configure
from proxy.redaction import redact
from proxy.tracing import TraceContext, enter, leave

IMAGE = "iVBORw0KGgo" + "aB3+/9zZ" * 60
SECRETS = (
    "sk-proj-Abc_123-xyz",
    "sk-ig-0123456789abcdefABCDEF",
    "Bearer zzTOPsecret.value~1",
    "bearer%20zzTOPsecretValue",
    "Basic dXNlcjpwYXNz",
    "api-key: zzTOPsecret",
    "x-api-key=zzTOPsecret",
    '{"api_key": "zzTOPsecret"}',
    "(b'authorization', b'zzTOPsecret')",
    "Set-Cookie: session=zzTOPsecret; Path=/",
    "https://blob.example/x.png?se=1&sig=zzTOP%2Fsecret&sp=r",
    "https://blob.example/x.png?X-Amz-Signature=zzTOPsecret",
    "https://example/?key=zzTOPsecret",
    "data:image/png;base64,zzTOPsecret",
    IMAGE,
    IMAGE.replace("/", "\\/"),
    "\r\n".join(IMAGE[at : at + 76] for at in range(0, len(IMAGE), 76)),
)
MARKS = ("zzTOP", "Abc_123", "0123456789abcdefABCDEF", "dXNlcjpwYXNz", "aB3+", "9zZa")
TOLD_FIELDS = {*Same._fields, *(field.name for field in fields(AccessLine))} - {"same"}
TEXT_FIELDS = [name for name, kind in (Same.__annotations__ | AccessLine.__annotations__).items() if "str" in str(kind)]
TEXT_FIELDS.remove("same")


class Lines(io.StringIO):
    """A stream that can be read as JSON lines."""

    def read_json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


class StuckPipe(Lines):
    """A reader that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = threading.Event()

    def write(self, text: str) -> int:
        assert self.taken.wait(10)
        return super().write(text)


class ClosedPipe(Lines):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@contextmanager
def logging_to(stream: Lines, level: str = "info") -> Iterator[logging.Logger]:
    stop = configure(level, stream)
    try:
        yield logging.getLogger("imagegate.test")
    finally:
        stop()


def written(**attributes: Any) -> str:
    """The line of a record with these attributes."""
    return log.JsonLines().format(logging.makeLogRecord({"name": "imagegate.test", "levelname": "INFO", **attributes}))


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception, as if it came from somewhere."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def line(**given: Any) -> AccessLine:
    usual: dict[str, Any] = {"method": "POST", "route": "/v1/images/generations", "status": 200}
    same = accessline.told(Same(**usual | {name: value for name, value in given.items() if name in Same._fields}))
    own = {name: value for name, value in given.items() if name not in Same._fields}
    return AccessLine(**{"same": same, "request_id": "req_1", "duration_ms": 1.23456, **own})


def assert_no_secret(text: str) -> None:
    for mark in MARKS:
        assert mark not in text, mark


def test_an_event_is_one_line_of_json_with_listed_fields_only() -> None:
    with logging_to(stream := Lines()) as logger:
        logger.warning("disk %s", "full", extra={"tier": "disk", "count": 3, "prompt": "a cat", "seconds": 0.25})
    (told,) = stream.read_json()
    assert told.pop("ts").endswith("Z")
    assert told == {
        "level": "warning",
        "logger": "imagegate.test",
        "msg": "disk full",
        "tier": "disk",
        "count": 3,
        "seconds": 0.25,
    }


def test_time_is_rfc_3339_in_utc_to_the_millisecond() -> None:
    assert json.loads(written(msg="x", created=1_800_000_000.0625))["ts"] == "2027-01-15T08:00:00.062Z"


def test_a_request_is_one_line_with_every_field() -> None:
    with logging_to(stream := Lines()):
        access(
            line(cache="hit", cache_key="0123456789ab", cost_usd=Decimal(0), saved_usd=Decimal("0.0534"), images=1),
            0,
        )
    (told,) = stream.read_json()
    assert told["logger"] == "imagegate.access"
    assert set(told) - {"ts", "level", "logger", "msg"} == TOLD_FIELDS
    assert told["cache_key"] == "0123456789ab"
    assert (told["duration_ms"], told["cost_usd"], told["saved_usd"]) == (1.235, 0, 0.0534)
    assert told["model"] is None


@given(st.fixed_dictionaries({name: st.text(max_size=300) for name in TEXT_FIELDS}))
@settings(max_examples=100, deadline=None)
def test_whatever_stands_in_a_field_a_request_is_one_ascii_line_of_json(texts: dict[str, str]) -> None:
    told_line = accessline.written(line(**texts), 0)
    assert told_line.isascii() and "\n" not in told_line
    told = json.loads(told_line)
    assert all(told[name] is None or len(told[name]) <= 300 for name in TEXT_FIELDS)


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_comes_through_a_field(secret: str) -> None:
    for name in TEXT_FIELDS:
        assert_no_secret(accessline.written(line(**{name: secret}), 0))
    for name in log.EXTRA_FIELDS:
        assert_no_secret(written(msg="x", **{name: secret}))


@given(st.sampled_from(SECRETS), st.text(max_size=400), st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_secret_comes_through_text_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    text = f"{before} {secret} {after}"
    group = BaseExceptionGroup(text, [raised(ValueError(text), raised(RuntimeError(text)))])
    told = written(msg="%s", args=(text,), exc_info=(type(group), group, None))
    for mark in MARKS:
        if mark not in before + after:
            assert mark not in told, mark
    assert [one["type"] for one in json.loads(told)["exceptions"]] == ["ExceptionGroup", "ValueError", "RuntimeError"]


def test_redaction_leaves_plain_words_alone() -> None:
    for text in (
        "the disk-cache is full: disk-full-now",
        "tokens: 4000, max_tokens=5, monkeys, signal 15",
        "GET /v1/images/files/a1b2.png",
        "x" * 256,
    ):
        assert redact(text) == text


@given(st.text(alphabet="ab+/=\\\r\n -:&'\"sk", max_size=2000))
@settings(max_examples=50)
def test_redaction_takes_any_text_and_is_stable(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_an_exception_is_told_with_its_frames_and_its_cause() -> None:
    with logging_to(stream := Lines()) as logger:
        error = raised(ValueError("two\nlines"), raised(KeyError("api-key: zzTOPsecret")))
        logger.error("it broke", exc_info=error)
    (told,) = stream.read_json()
    outer, cause = told["exceptions"]
    assert (outer["type"], outer["message"]) == ("ValueError", "two\nlines")
    assert outer["frames"][0].startswith("unit/test_log.py:")
    assert cause["type"] == "KeyError"
    assert_no_secret(stream.getvalue())


def test_an_exception_whose_message_cannot_be_had_is_told_all_the_same() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    told = json.loads(written(msg="x", exc_info=(BrokenError, BrokenError(), None)))
    assert "RuntimeError" in told["exceptions"][0]["message"]


def test_a_message_that_cannot_be_made_is_counted_and_printed_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(stream := Lines()) as logger:
        ours = logging.getLogger().handlers[-1]
        ours.handle(logging.makeLogRecord({"msg": "%d of them", "args": ("Bearer zzTOPsecret",)}))
        logger.info("next")
    told = stream.read_json()
    assert [one["msg"] for one in told] == ["next", "log lines were dropped"]
    assert capsys.readouterr() == ("", "")


def test_a_stuck_reader_stops_nobody_and_what_it_missed_is_told_in_one_line() -> None:
    with logging_to(stream := StuckPipe()) as logger:
        for n in range(6000):
            logger.info("line %d", n)
        stream.taken.set()
    told = stream.read_json()
    (report,) = [one for one in told if one["msg"] == "log lines were dropped"]
    lines = [one["msg"] for one in told if one is not report]
    assert lines == [f"line {n}" for n in range(len(lines))]
    assert len(lines) + report["count"] == 6000
    assert report["count"] > 1000


def test_a_reader_that_has_gone_is_no_error() -> None:
    with logging_to(ClosedPipe()) as logger:
        logger.info("nobody reads this")


def test_the_servers_and_the_clients_own_loggers_join_and_the_chatty_ones_are_quiet() -> None:
    uvicorn = logging.getLogger("uvicorn")
    theirs = logging.StreamHandler(io.StringIO())
    uvicorn.addHandler(theirs)
    try:
        with logging_to(stream := Lines(), "debug"):
            uvicorn.info("Started server process")
            logging.getLogger("asyncio").error("Task exception was never retrieved")
            logging.getLogger("httpx").info("HTTP Request: POST https://example/?sig=zzTOPsecret")
            logging.getLogger("httpcore.connection").debug("connect_tcp.started")
            logging.getLogger("uvicorn.access").info("GET /?sig=zzTOPsecret")
        assert [one["logger"] for one in stream.read_json()] == ["uvicorn", "asyncio"]
        assert uvicorn.handlers == [theirs]
    finally:
        uvicorn.removeHandler(theirs)


def test_a_level_hides_what_is_below_it_and_stopping_leaves_everything_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    with logging_to(stream := Lines(), "warning") as logger:
        logger.info("hidden")
        access(line(), 0)
        logger.error("shown")
    assert [one["msg"] for one in stream.read_json()] == ["shown"]
    assert (root.level, root.handlers[:]) == before


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure("loud", Lines())


def test_the_server_does_not_report_what_the_access_line_has_told() -> None:
    server = logging.getLogger("uvicorn.error")
    with logging_to(stream := Lines()):
        for error in (UpstreamConnectionLost("cut"), ZeroDivisionError("a defect")):
            server.error("Exception in ASGI application", exc_info=error)
    (only,) = stream.read_json()
    assert "ZeroDivisionError" in json.dumps(only)


def test_a_line_that_is_written_on_behalf_of_a_request_has_its_trace() -> None:
    token = enter(TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True))
    with logging_to(stream := Lines()) as logger:
        logger.error("within")
        logger.error("of another", extra={"span_id": "0123456789abcdef"})
        leave(token)
        logger.error("outside")
    within, other, outside = stream.read_json()
    assert (within["trace_id"], within["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (other["trace_id"], other["span_id"]) == (within["trace_id"], "0123456789abcdef")
    assert "trace_id" not in outside


def test_an_access_line_has_the_ids_it_was_given() -> None:
    with logging_to(stream := Lines()):
        access(line(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331"), 0)
        access(line(), 0)
    traced, untraced = stream.read_json()
    assert (traced["trace_id"], traced["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (untraced["trace_id"], untraced["span_id"]) == (None, None)
