"""LangChain's image tool, which was made for models that are gone: imagegate makes its calls fit the present ones."""

from collections.abc import Callable, Iterator

import pytest

from tests.clients.sdk import LANGCHAIN, Client, Sdk
from tests.support.process import Proxy, write_config
from tests.support.upstream_process import UpstreamProcess, image_of


@pytest.fixture(scope="module")
def adjusting(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    """A proxy that drops what a model does not take: the tool always sends `style`."""
    folder = tmp_path_factory.mktemp("adjusting")
    config = write_config(folder / "imagegate.toml", upstream.url, {"rules": {"on_invalid": "adjust"}})
    process = Proxy("--config", str(config), log=folder / "imagegate.log")
    yield process
    process.kill()


@pytest.fixture
def tool(started: Callable[[str, list[str]], Sdk], adjusting: Proxy) -> Client:
    return Client(started("langchain", LANGCHAIN), adjusting.url)


def test_the_tool_gets_a_link_to_a_picture_of_a_model_that_gives_none(
    tool: Client, adjusting: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = tool.prompt("a tool's picture")
    for _ in range(2):
        link = tool.generate(prompt, quality="high", dallEResponseFormat="url")["answer"]
        status, headers, picture = adjusting.get(link.removeprefix(adjusting.url.removesuffix("/v1")))
        assert (status, headers["content-type"], picture) == (200, "image/png", image_of(prompt))
    assert upstream.bodies(prompt) == [
        {"model": "gpt-image-2", "prompt": prompt, "quality": "high", "size": "1024x1024"}
    ]


def test_without_adjusting_its_style_is_refused_before_it_costs(
    started: Callable[[str, list[str]], Sdk], proxy: Proxy, upstream: UpstreamProcess
) -> None:
    tool = Client(started("langchain", LANGCHAIN), proxy.url)
    prompt = tool.prompt("a tool's style")
    refused = tool.generate(prompt, quality="high")
    assert (refused["name"], refused["status"], refused["param"]) == ("BadRequestError", 400, "style")
    assert upstream.calls(prompt) == 0
