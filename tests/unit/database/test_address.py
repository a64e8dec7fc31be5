"""Where the database is: what is taken, and what is refused without a word of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.database.address import Address, parse_address
from proxy.database.engine import Database
from proxy.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/imagegate.db", "var/imagegate.db"),
        ("sqlite:////srv/a b%20?#.db", "/srv/a b%20?#.db"),
    ],
)
def test_a_file_by_three_strokes_and_its_path(url: str, path: str) -> None:
    assert parse_address(url) == Address(path=Path(path))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_server_by_the_url_that_its_own_tools_take(scheme: str) -> None:
    assert parse_address(f"{scheme}://a:b@c/d") == Address(postgresql="postgresql://a:b@c/d")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://x",
        "sqlite:///a/",
        "mysql://a/b",
        "a.db",
        "sqlite:///\0",
    ],
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^database\.url: "):
        parse_address(url)


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@[::1/d", "postgresql://u:hunter2@h:port/d"])
def test_a_server_that_nobody_could_find_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert "hunter2" not in repr(caught.value) + str(caught.value)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for url in (text, f"sqlite:///{text}", f"postgresql://{text}"):
        try:
            address = parse_address(url)
            assert address.path or repr(address) == "Address(path=None)"
        except ConfigurationError:
            pass
