"""A caller of the Images API without an SDK: one request, and every byte of its answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from tests.support.process import Proxy

CREDENTIAL = "Bearer sk-test-of-the-system"


@dataclass(frozen=True)
class Reply:
    """Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def cache(self) -> str:
        """The word in `X-Imagegate-Cache`; empty where there is none."""
        return self.headers.get("x-imagegate-cache", "")

    @property
    def is_stored(self) -> bool:
        return "stored" in self.headers.get("cache-status", "").split("; ")

    @property
    def error(self) -> dict[str, Any]:
        """The error object, which must have OpenAI's four members."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        return error


def request_of(prompt: str, members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", "quality": "low", **(members or {})}


def ask(
    proxy: Proxy,
    prompt: str,
    *,
    headers: Mapping[str, str | None] | None = None,
    seconds: float = 60.0,
    members: Mapping[str, Any] | None = None,
) -> Reply:
    """One request on a connection of its own. A header given as None is not sent."""
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=seconds)
    try:
        return ask_on(connection, prompt, headers=headers, members=members)
    finally:
        connection.close()


def ask_on(
    connection: HTTPConnection,
    prompt: str,
    *,
    headers: Mapping[str, str | None] | None = None,
    members: Mapping[str, Any] | None = None,
) -> Reply:
    """One request on an open connection, which stays open."""
    given = {"content-type": "application/json", "authorization": CREDENTIAL, **(headers or {})}
    sent = {name: value for name, value in given.items() if value is not None}
    connection.request("POST", "/v1/images/generations", json.dumps(request_of(prompt, members)), sent)
    response = connection.getresponse()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, named, response.read())


@contextmanager
def asking(proxy: Proxy, prompts: Sequence[str], **named: Any) -> Iterator[list[Future[Reply]]]:
    """The same as `ask`, for all prompts at once, while the context lasts."""
    with ThreadPoolExecutor(max(1, len(prompts))) as pool:
        yield [pool.submit(ask, proxy, prompt, **named) for prompt in prompts]
