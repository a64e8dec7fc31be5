"""W3C Trace Context: what is believed of a caller's header, what is told to others, and what it costs to tell nobody."""

import asyncio
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import tracing
from proxy.tracing import UNTOLD, TraceContext, child_of, current, enter, leave, received, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True), ("fe", False)]
)
def test_of_the_flags_only_the_lowest_bit_is_read(flags: str, is_sampled: bool) -> None:
    assert received([f"00-{TRACE}-{SPAN}-{flags}".encode()]) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD.replace("0af7", "0AF7"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}",
        f"00_{TRACE}_{SPAN}_01",
        GOOD + "-extra",
        GOOD + "-",
        GOOD + ",",
        GOOD + "\n",
        " 00-" + GOOD,
        f"{GOOD}, {GOOD}",
        f"cc-{TRACE}-{SPAN}-01extra",
        f"cc-{TRACE}-{SPAN}-0",
        f"cc-{'0' * 32}-{SPAN}-01-what",
        f"CC-{TRACE}-{SPAN}-01",
        "0٠-" + GOOD[3:],
    ],
)
def test_a_malformed_header_is_none(malformed: str) -> None:
    assert received([malformed.encode()]) is None


@pytest.mark.parametrize("more", ["", "-", "-what the future holds", "-\xff"])
def test_of_a_later_version_what_version_00_has_is_read(more: str) -> None:
    assert received([f"cc-{TRACE}-{SPAN}-01{more}".encode("latin-1")]) == TraceContext(TRACE, SPAN, True)


def test_two_headers_are_none_and_white_space_around_one_is_nothing() -> None:
    assert received([GOOD.encode()] * 2) is None
    assert received([]) is None
    assert received([f" {GOOD}\t".encode()]) == TraceContext(TRACE, SPAN, True)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    found = received([value])
    assert found is None or found.trace_id.encode() in value


@given(st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_what_is_read_is_told_again_as_version_00(value: bytes) -> None:
    found = received([value])
    if found is None:
        assert value.startswith(b"ff") or b"0" * 16 in value
        return
    token = enter(found)
    told = traceparent()["traceparent"]
    leave(token)
    assert received([told.encode()]) == found
    assert told.startswith("00-") and told[-2:] in ("00", "01")


def test_a_child_stays_in_its_trace_and_one_without_a_parent_begins_one_that_nobody_records() -> None:
    parent = TraceContext(TRACE, SPAN, True)
    child, orphan = child_of(parent), child_of(None)
    assert (child.trace_id, child.is_sampled) == (TRACE, True)
    assert child.span_id != SPAN
    assert not orphan.is_sampled
    for each in (child, orphan):
        assert received([f"00-{each.trace_id}-{each.span_id}-00".encode()]) is not None
    assert len({child_of(None) for _ in range(1000)}) == 1000


async def _begun() -> TraceContext | None:
    return current()


@pytest.mark.anyio
async def test_what_a_request_begins_is_in_its_trace_and_what_comes_after_it_is_not() -> None:
    assert current() is None
    assert traceparent() == {}
    here = child_of(None)
    token = enter(here)
    task = asyncio.create_task(_begun())
    leave(token)
    assert await task == here
    assert current() is None


@pytest.mark.anyio
async def test_telling_nobody_costs_a_hit_less_than_two_microseconds() -> None:
    def as_a_hit_does() -> None:
        with UNTOLD.request(None, "POST", "/v1/images/generations"):
            with UNTOLD.span("authenticate and validate"):
                pass
            with UNTOLD.span("look up"):
                pass
            UNTOLD.span("answer").end()

    rounds = 2000
    assert min(timeit.repeat(as_a_hit_does, number=rounds, repeat=15)) / rounds < 2e-6
    await UNTOLD.close()


def test_the_tracer_that_tells_nobody_takes_everything() -> None:
    with UNTOLD.call("generate_content x", {}) as span:
        span.tell({"a": 1})
        span.fail("b")
    with UNTOLD.wait("key", joins=True) as span:
        assert span.context is None
    assert not UNTOLD.forwards
    assert tracing.Untold(forwards=True).forwards
