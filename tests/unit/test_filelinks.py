"""Links to single images: what was not signed here does not exist, and what is old has expired."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LinkExpired, NotFound
from proxy.filelinks import FileLink, FileLinks

LINKS = FileLinks(b"secret")
LINK = FileLink("0123456789abcdef" * 4, b"purchase", 3, 1_795_000_000)
NOW = 1_794_999_999.0
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 255), st.integers(1, 2**40 - 1))
def test_a_name_gives_back_its_link(key: bytes, index: int, expires_at: int) -> None:
    link = FileLink(key.hex(), b"purchase", index, expires_at)
    name = LINKS.name(link)
    assert LINKS.read(name, now=expires_at - 1) == link
    assert set(name) <= set(ALPHABET)


def test_a_link_ends_at_its_second() -> None:
    name = LINKS.name(LINK)
    assert LINKS.read(name, now=LINK.expires_at - 0.01) == LINK
    for now in (LINK.expires_at, LINK.expires_at + 10**9):
        with pytest.raises(LinkExpired) as caught:
            LINKS.read(name, now=now)
        assert caught.value.status == 410


def test_a_name_with_any_character_changed_is_unknown() -> None:
    name = LINKS.name(LINK)
    for at in range(len(name)):
        other = name[:at] + ("A" if name[at] != "A" else "B") + name[at + 1 :]
        with pytest.raises(NotFound):
            LINKS.read(other, now=NOW)


@pytest.mark.parametrize(
    "change", [lambda n: n[:-1], lambda n: n + "A", lambda n: n + "=", lambda n: n + "AAAA", str.lower]
)
def test_a_name_of_another_shape_is_unknown(change: "type[str]") -> None:
    with pytest.raises(NotFound):
        LINKS.read(change(LINKS.name(LINK)), now=NOW)


@pytest.mark.parametrize(
    "name", ["", "é" * 72, "A" * 72, "." * 72, "=" * 72, "A" * 100_000, "A" * 71 + "\n", "\x00" * 72]
)
def test_nonsense_is_unknown(name: str) -> None:
    with pytest.raises(NotFound):
        LINKS.read(name, now=NOW)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(name: str) -> None:
    with pytest.raises(NotFound):
        LINKS.read(name, now=NOW)


def test_an_expired_forgery_is_unknown_and_not_expired() -> None:
    forged = FileLinks(b"another secret").name(FileLink(LINK.key, LINK.purchase, 0, 1))
    with pytest.raises(NotFound):
        LINKS.read(forged, now=NOW)


def test_links_of_another_secret_are_unknown() -> None:
    with pytest.raises(NotFound):
        FileLinks(b"other").read(LINKS.name(LINK), now=NOW)
