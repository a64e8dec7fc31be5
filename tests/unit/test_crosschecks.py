"""Rules between settings: who pays whom, who may reach what, and what comes together."""

import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.configuration import load
from proxy.crosschecks import check_vendors, may_overlap
from proxy.errors import ConfigurationError
from proxy.settings import UpstreamSection
from tests.support.configuration import MARKED, OPENAI, problems, settings


def two(first: str, second: str) -> str:
    return "".join(
        f"[[upstreams]]\nname = '{name}'\nbase_url = 'https://{name}.example/v1'\nmodels = ['{models}']\n"
        for name, models in (("a", first), ("b", second))
    )


@pytest.mark.parametrize("pair", [("*", "*"), ("*", "flux"), ("gpt-*", "*-2"), ("gpt-image-?", "gpt-image-[12]")])
def test_in_passthrough_two_upstreams_that_may_serve_one_model_are_refused(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    (found,) = problems(two(*pair), tmp_path)
    assert found.startswith("upstreams.1.models: overlaps upstreams.0.models")


def test_in_passthrough_two_upstreams_may_serve_different_models(tmp_path: Path) -> None:
    assert len(settings(two("gpt-*", "flux-*"), tmp_path).upstreams) == 2


def test_in_mode_open_two_upstreams_may_serve_one_model(tmp_path: Path) -> None:
    toml = "[auth]\nmode = 'open'\n" + two("*", "*")
    keys = {f"IMAGEGATE_UPSTREAMS__{index}__API_KEY": MARKED for index in range(2)}
    assert len(settings(toml, tmp_path, keys).upstreams) == 2


globs = st.text("ab*?", max_size=6)


@given(globs, globs, st.text("ab", max_size=6))
def test_patterns_that_match_one_name_overlap(one: str, other: str, name: str) -> None:
    if fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, other):
        assert may_overlap(one, other)
    assert may_overlap(one, other) == may_overlap(other, one)
    assert may_overlap(one, one)
    assert may_overlap(name, one) == fnmatch.fnmatchcase(name, one)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "images.example"])
def test_mode_open_beyond_this_machine_needs_a_word_of_consent(host: str, tmp_path: Path) -> None:
    toml = f"[server]\nhost = '{host}'\n[auth]\nmode = 'open'\n"
    environ = {"OPENAI_API_KEY": MARKED}
    (found,) = problems(toml, tmp_path, environ)
    assert found.startswith(f"auth.mode: open on {host} would let anyone pay with your key")
    assert settings(toml + "allow_open = true\n", tmp_path, environ).auth.allow_open


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_mode_open_on_this_machine_is_fine(host: str, tmp_path: Path) -> None:
    toml = f"[server]\nhost = '{host}'\n[auth]\nmode = 'open'\n"
    assert settings(toml, tmp_path, {"OPENAI_API_KEY": MARKED}).auth.mode == "open"


def test_mode_open_needs_a_key_to_pay_with_unless_the_upstream_is_on_this_machine() -> None:
    with pytest.raises(ConfigurationError, match=r"upstreams.0.api_key: must be set in mode open"):
        load(None, {"IMAGEGATE_AUTH__MODE": "open"})
    read = load(None, {"IMAGEGATE_AUTH__MODE": "open", "OPENAI_BASE_URL": "http://127.0.0.1:9000/v1"})
    assert read.upstreams[0].api_key is None


OURSELVES = ["http://127.0.0.1:8080/v1", "http://localhost:8080/v1", "http://[::1]:8080"]


@pytest.mark.parametrize("url", OURSELVES)
def test_an_upstream_that_is_this_proxy_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="own address"):
        load(None, {"IMAGEGATE_UPSTREAMS__0__BASE_URL": url})
    assert load(None, {"IMAGEGATE_UPSTREAMS__0__BASE_URL": url, "IMAGEGATE_SERVER__PORT": "80"}).upstreams


def test_names_of_upstreams_are_unique(tmp_path: Path) -> None:
    toml = two("gpt-*", "flux-*").replace("'b'", "'a'")
    assert problems(toml, tmp_path) == ("upstreams.1.name: 'a' is already the name of upstreams.0",)


def test_a_catalogue_of_ones_own_may_bring_a_vendor(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    toml = "[rules]\ncatalogue = ['mine.toml']\n" + OPENAI + "vendor = 'mine'\n"
    assert settings(toml, tmp_path).upstreams[0].vendor == "mine"


@pytest.mark.parametrize("present", ["tls_certificate", "tls_key"])
def test_a_certificate_and_its_key_come_together(present: str, tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch()
    (found,) = problems(f"[server]\n{present} = 'a.pem'\n", tmp_path)
    assert found.endswith(f"must be set when server.{present} is")


def test_a_rule_between_settings_is_silent_while_one_of_them_is_unreadable(tmp_path: Path) -> None:
    toml = OPENAI + "connect_timeout_seconds = 700\ntotal_timeout_seconds = 'long'\n"
    (found,) = problems(toml, tmp_path)
    assert found.startswith("upstreams.0.total_timeout_seconds: must be a duration")


def test_the_secret_of_the_cache_is_long_enough() -> None:
    with pytest.raises(ConfigurationError, match=r"cache.secret: must be at least 16 characters"):
        load(None, {"IMAGEGATE_CACHE__SECRET": "short"})


def test_the_catalogue_has_the_vendor_of_every_upstream() -> None:
    upstreams = [UpstreamSection(name=name, vendor=name, base_url="https://a.example") for name in ("one", "two")]
    check_vendors(upstreams, ("one", "two"))
    with pytest.raises(ConfigurationError) as caught:
        check_vendors(upstreams, ("one", "three"))
    assert caught.value.problems == ("upstreams.1.vendor: 'two' is not in the catalogue (one, three)",)
