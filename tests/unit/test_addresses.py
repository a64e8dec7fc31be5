"""Addresses: which texts are hosts, URLs and places to listen on."""

from pathlib import Path

import pytest

from proxy.addresses import is_host, is_loopback, listen_address
from tests.support.configuration import problems


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        ("[::1]:9090", ("::1", 9090)),
        ("metrics.internal:1", ("metrics.internal", 1)),
    ],
)
def test_an_address_to_listen_on_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize(
    "url",
    [
        *("api.openai.com", "ftp://x/v1", "https:///v1", "https://x:0/v1", "https://x:99999/v1", "https://x /v1"),
        *("https://u:hunter2@x/v1", "https://x/v1?key=hunter2", "https://x/v1#hunter2", "", "https://[::1/v1"),
    ],
)
def test_an_address_of_an_upstream_is_http_with_a_host_and_nothing_else(url: str, tmp_path: Path) -> None:
    found = problems(f"[[upstreams]]\nname = 'a'\nbase_url = '{url}'\n", tmp_path)
    assert [problem for problem in found if problem.startswith("upstreams.0.base_url: must")]
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    "text", ["9090", ":9090", "127.0.0.1:", "127.0.0.1:65536", "::1:9090", "[::1]", "a b:1", "x:٣"]
)
def test_what_is_no_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        listen_address(text)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        *((text, True) for text in ("127.0.0.1", "::1", "localhost", "images.example.", "a_b.c-d")),
        *((text, False) for text in ("", "1.2.3", "-x", "a..b", "http://x", "x:80", "[::1]")),
    ],
)
def test_a_host_is_an_address_or_a_name(text: str, verdict: bool) -> None:
    assert is_host(text) is verdict


@pytest.mark.parametrize(
    ("host", "verdict"),
    [("127.0.0.9", True), ("::1", True), ("LocalHost.", True), ("0.0.0.0", False), ("localhost.example", False)],
)
def test_loopback_is_this_machine_alone(host: str, verdict: bool) -> None:
    assert is_loopback(host) is verdict
