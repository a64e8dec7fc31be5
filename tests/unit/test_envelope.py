"""The envelope gives back exactly what was sealed, or says that it is damaged."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import envelope
from proxy.errors import StoreError
from proxy.model import EventMembers, ImageSpan, Metadata, Usage
from tests.support.store import metadata

texts = st.text(max_size=20)
counts = st.integers(0, 2**53)
seconds = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spans(draw: st.DrawFn, body_bytes: int) -> ImageSpan:
    def within() -> tuple[int, int]:
        start = draw(st.integers(0, body_bytes))
        return start, draw(st.integers(start, body_bytes))

    url = within() if draw(st.booleans()) else None
    return ImageSpan(within(), within(), url, draw(texts), draw(counts), draw(st.booleans()))


@st.composite
def events(draw: st.DrawFn, body_bytes: int) -> EventMembers:
    def within() -> tuple[int, int] | None:
        start = draw(st.integers(0, body_bytes))
        return draw(st.none() | st.just((start, draw(st.integers(start, body_bytes)))))

    return EventMembers(within(), within())


@st.composite
def replies(draw: st.DrawFn) -> tuple[Metadata, bytes]:
    body = draw(st.binary(max_size=200))
    images = tuple(draw(st.lists(spans(len(body)), max_size=3)))
    return (
        Metadata(
            key=draw(texts),
            scope=draw(texts),
            purchase_id=draw(texts),
            stored_at=draw(seconds),
            expires_at=draw(seconds),
            operation=draw(texts),
            model=draw(texts),
            upstream=draw(texts),
            cache_group=draw(texts),
            size=draw(texts),
            quality=draw(texts),
            images=images,
            usage=draw(st.none() | st.builds(Usage, *[counts] * 6)),
            cost=draw(st.none() | st.decimals(allow_nan=False, allow_infinity=False)),
            price_version=draw(texts),
            upstream_request_id=draw(st.none() | texts),
            upstream_seconds=draw(seconds),
            request=draw(st.dictionaries(texts, json_values, max_size=4)),
            event=draw(events(len(body))) if len(images) == 1 and draw(st.booleans()) else None,
            begun_at=draw(seconds),
        ),
        body,
    )


@given(replies())
def test_what_is_sealed_is_read_back_exactly(reply: tuple[Metadata, bytes]) -> None:
    sealed = envelope.encode(*reply)
    found, body = envelope.decode(sealed)
    assert (found, body) == reply
    assert repr(found.cost) == repr(reply[0].cost)
    assert envelope.encode(found, body) == sealed


SEALED = envelope.encode(metadata(), b"the body, as it came")


def test_every_flipped_bit_is_found() -> None:
    for at in range(len(SEALED)):
        for bit in range(8):
            damaged = bytearray(SEALED)
            damaged[at] ^= 1 << bit
            with pytest.raises(StoreError, match="damaged"):
                envelope.decode(bytes(damaged))


def test_every_truncation_is_found() -> None:
    for stop in range(len(SEALED)):
        with pytest.raises(StoreError, match="damaged"):
            envelope.decode(SEALED[:stop])
        with pytest.raises(StoreError, match="damaged"):
            envelope.decode(SEALED[len(SEALED) - stop :])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_damage_and_nothing_worse(junk: bytes) -> None:
    for sealed in (junk, junk + SEALED[-40:], SEALED + junk if junk else b"", SEALED[:8] + junk + SEALED[-40:]):
        with pytest.raises(StoreError, match="damaged"):
            envelope.decode(sealed)


@given(st.binary(max_size=100) | json_values.map(lambda value: repr(value).encode()))
def test_arbitrary_metadata_is_damage_and_nothing_worse(header: bytes) -> None:
    with pytest.raises(StoreError, match="damaged"):
        envelope.decode_header(header, 10)


@given(field=st.sampled_from(sorted(Metadata.__dataclass_fields__)), value=json_values)
def test_metadata_of_the_wrong_type_is_damage_and_nothing_worse(field: str, value: object) -> None:
    import json

    members = json.loads(envelope.encode_header(metadata()))
    members[field] = value
    try:
        found = envelope.decode_header(json.dumps(members).encode(), 20)
    except StoreError:
        return
    assert envelope.decode_header(envelope.encode_header(found), 20) == found


def test_deep_nesting_in_metadata_is_damage() -> None:
    with pytest.raises(StoreError, match="damaged"):
        envelope.decode_header(b"[" * 200_000, 10)


def test_an_image_outside_the_body_is_damage() -> None:
    outside = replace(metadata(), images=(ImageSpan((0, 1), (1, 22), None, "image/png", 3),))
    with pytest.raises(StoreError, match="outside the body"):
        envelope.encode(outside, b"the body, as it came")
    with pytest.raises(StoreError, match="outside the body"):
        envelope.decode_header(envelope.encode_header(outside), 20)


@pytest.mark.parametrize(
    "event", [EventMembers((0, 21), None), EventMembers(None, (20, 21)), EventMembers((5, 4), None)]
)
def test_a_member_of_an_event_outside_the_body_is_damage(event: EventMembers) -> None:
    outside = replace(metadata(), event=event)
    with pytest.raises(StoreError, match="outside the body"):
        envelope.encode(outside, b"the body, as it came")
    with pytest.raises(StoreError, match="outside the body"):
        envelope.decode_header(envelope.encode_header(outside), 20)


def test_an_event_holds_one_image() -> None:
    for images in ((), metadata().images * 2):
        with pytest.raises(StoreError, match="one image"):
            envelope.encode(replace(metadata(), event=EventMembers(None, None), images=images), b"the body, as it came")


def test_a_later_version_is_not_guessed_at() -> None:
    footer = bytearray(SEALED[-40:])
    footer[12] += 1
    with pytest.raises(StoreError, match="version 2"):
        envelope.layout(bytes(footer), len(SEALED))


def test_metadata_that_cannot_be_read_back_is_not_written() -> None:
    for request in ({"seed": float("nan")}, {"seed": {1, 2}}):
        with pytest.raises(StoreError):
            envelope.encode(replace(metadata(), request=request), b"")


def test_members_of_a_later_release_are_ignored_and_those_of_an_earlier_one_defaulted() -> None:
    header = envelope.encode_header(metadata())
    later = header[:-1] + b',"tint":"blue"}'
    assert envelope.decode_header(later, 20) == metadata()
    earlier = header.replace(b'"price_version":"",', b"").replace(b'"cost":"0.041",', b"")
    assert envelope.decode_header(earlier, 20) == replace(metadata(), cost=None)
    assert b'"begun_at":0.0' in header
    assert envelope.decode_header(header.replace(b',"begun_at":0.0', b""), 20) == metadata()
    assert b'"event":null' in header
    assert envelope.decode_header(header.replace(b',"event":null', b""), 20) == metadata()
    with pytest.raises(StoreError):
        envelope.decode_header(header.replace(b'"scope"', b'"scape"'), 20)


def test_money_is_exact() -> None:
    cost = Decimal("0.100000000000000000000000000000000001")
    found, _ = envelope.decode(envelope.encode(replace(metadata(), cost=cost, images=()), b""))
    assert found.cost == cost
