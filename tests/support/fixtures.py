"""What tests of the running system share: an upstream for each worker, proxies for each test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.process import Proxy, Sections, serving, write_config
from tests.support.upstream_process import UpstreamProcess

Start = Callable[..., Proxy]


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamProcess]:
    """One upstream for a whole worker: prompts tell the tests apart."""
    process = UpstreamProcess()
    yield process
    process.stop()


@pytest.fixture
def start(tmp_path: Path, upstream: UpstreamProcess) -> Iterator[Start]:
    """Starts proxies over the upstream, all on the cache directory of this test; whatever is left is killed."""
    started: list[Proxy] = []
    numbers = itertools.count(1)

    def start_one(sections: Sections | None = None, **environ: str) -> Proxy:
        number = next(numbers)
        config = write_config(tmp_path / f"imagegate-{number}.toml", upstream.url, sections)
        proxy = Proxy("--config", str(config), log=tmp_path / f"imagegate-{number}.log", environ=environ)
        started.append(proxy)
        return proxy

    yield start_one
    for proxy in started:
        proxy.kill()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    """One proxy with ordinary settings for all tests of a module that need no other; it must leave with 0."""
    with serving(tmp_path_factory.mktemp("proxy"), upstream.url) as process:
        yield process
