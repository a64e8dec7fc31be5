"""Settings as they are shown: every one, readable again, and no secret."""

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path

from proxy.configuration import load
from proxy.description import describe, toml_of
from proxy.settings import sections
from tests.support.configuration import MARKED, OPENAI, settings

SECRETIVE = {
    "IMAGEGATE_UPSTREAMS__0__API_KEY": MARKED,
    "IMAGEGATE_CACHE__SECRET": MARKED,
    "IMAGEGATE_METRICS__TOKEN": MARKED,
    "IMAGEGATE_DATABASE__URL": f"postgresql://imagegate:{MARKED}@db.example/imagegate",
}


def test_no_description_holds_a_secret() -> None:
    read = load(None, SECRETIVE)
    for shown in (repr(read), str(read), json.dumps(describe(read)), toml_of(read)):
        assert MARKED not in shown
    described = describe(read)
    assert described["upstreams"][0]["api_key"] == "set (env IMAGEGATE_UPSTREAMS__0__API_KEY)"
    assert described["metrics"]["token"] == "set (env IMAGEGATE_METRICS__TOKEN)"
    assert describe(load(None, {}))["cache"]["secret"] == "unset"


def test_what_is_described_is_every_setting() -> None:
    described = describe(load(None, {}))
    for name, kind in sections():
        found = described[name][0] if name == "upstreams" else described[name]
        assert list(found) == [item.name for item in fields(kind)]
    json.dumps(described)


def test_the_settings_written_as_toml_read_back_the_same(tmp_path: Path) -> None:
    environ = {"MY_KEY": MARKED}
    toml = (
        "[auth]\nmode = 'open'\n[rules.aliases]\n'dall-e-3' = 'gpt-image-2'\n"
        + "[server]\ntrusted_proxies = ['10.0.0.0/8']\n"
        + OPENAI
        + "api_key = { env = 'MY_KEY' }\nmodels = ['gpt-*']\n"
    )
    read = settings(toml, tmp_path, environ)
    again = settings(toml_of(read), tmp_path, environ)
    assert again == replace(read, file=again.file)
    assert tomllib.loads(toml_of(read))["rules"]["aliases"] == {"dall-e-3": "gpt-image-2"}
