"""The list of models as curl shows it."""

import json

from tests.clients.curl import curl, needs_curl
from tests.support.process import Proxy

pytestmark = needs_curl


def test_the_list_and_one_of_it(proxy: Proxy) -> None:
    listed = json.loads(curl(f"{proxy.url}/models").body)
    assert listed["object"] == "list"
    [model] = [model for model in listed["data"] if model["id"] == "gpt-image-2"]
    assert json.loads(curl(f"{proxy.url}/models/gpt-image-2").body) == model
    assert curl(f"{proxy.url}/models/gpt-image-99").status == 404
