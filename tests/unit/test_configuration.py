"""Reading the configuration: order, every problem at once with its path, and no secret in any of them."""

from pathlib import Path

import pytest

from proxy.configuration import load
from proxy.errors import ConfigurationError
from proxy.model import Rendering
from proxy.secret import Secret
from proxy.settings import UpstreamSection
from tests.support.configuration import MARKED, OPENAI, problems, settings


def test_without_a_file_it_calls_openai() -> None:
    read = load(None, {})
    assert read.server.host == "127.0.0.1"
    assert read.server.port == 8080
    assert read.auth.mode == "passthrough"
    assert read.upstreams == (UpstreamSection(name="openai", base_url="https://api.openai.com/v1"),)
    assert read.cache.directory == Path.cwd() / "var" / "cache"
    assert read.render.default is Rendering.B64_JSON
    assert read.file is None


def test_without_a_file_the_variables_of_the_openai_sdks_are_respected() -> None:
    read = load(None, {"OPENAI_BASE_URL": "http://images.example:9000/v1/", "OPENAI_API_KEY": MARKED})
    assert read.upstreams[0].base_url == "http://images.example:9000/v1"
    assert read.upstreams[0].api_key == Secret(MARKED)


def test_upstreams_in_the_file_leave_the_variables_of_the_openai_sdks_alone(tmp_path: Path) -> None:
    read = settings(OPENAI, tmp_path, {"OPENAI_BASE_URL": "http://elsewhere.example/v1", "OPENAI_API_KEY": MARKED})
    assert read.upstreams[0].base_url == "https://api.openai.com/v1"
    assert read.upstreams[0].api_key is None


def test_the_environment_overrides_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    toml = "[server]\nport = 9000\nhost = 'localhost'\n"
    read = settings(toml, tmp_path, {"IMAGEGATE_SERVER__PORT": "9001"})
    assert (read.server.port, read.server.host, read.server.drain_seconds) == (9001, "localhost", 600)


def test_a_variable_without_two_underscores_is_no_setting() -> None:
    environ = {"IMAGEGATE_CONFIG": "x", "IMAGEGATE_PORT": "tcp://10.0.0.1:80", "IMAGEGATE_SERVICE_HOST": "10.0.0.1"}
    assert load(None, environ) == load(None, {})


def test_upstreams_are_counted_in_the_environment() -> None:
    environ = {
        "IMAGEGATE_UPSTREAMS__0__MODELS": "gpt-image-*, chatgpt-image-latest",
        "IMAGEGATE_UPSTREAMS__1__NAME": "apiyi",
        "IMAGEGATE_UPSTREAMS__1__VENDOR": "apiyi",
        "IMAGEGATE_UPSTREAMS__1__BASE_URL": "https://api.apiyi.com/v1",
        "IMAGEGATE_UPSTREAMS__1__MODELS": '["flux-*"]',
        "IMAGEGATE_UPSTREAMS__1__API_KEY": MARKED,
    }
    first, second = load(None, environ).upstreams
    assert (first.name, first.models) == ("openai", ("gpt-image-*", "chatgpt-image-latest"))
    assert (second.name, second.cache_group, second.models) == ("apiyi", "apiyi", ("flux-*",))
    assert second.api_key == Secret(MARKED)


def test_eleven_upstreams_are_taken_in_the_order_of_their_numbers() -> None:
    environ = {}
    for index in range(11):
        environ[f"IMAGEGATE_UPSTREAMS__{index}__NAME"] = f"u{index}"
        environ[f"IMAGEGATE_UPSTREAMS__{index}__BASE_URL"] = f"https://u{index}.example/v1"
        environ[f"IMAGEGATE_UPSTREAMS__{index}__MODELS"] = f"model-{index}"
    assert [upstream.name for upstream in load(None, environ).upstreams] == [f"u{index}" for index in range(11)]


def test_relative_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    read = settings("[rules]\ncatalogue = ['mine.toml']\n", tmp_path)
    assert read.cache.directory == tmp_path / "var" / "cache"
    assert read.rules.catalogue == (tmp_path / "mine.toml",)
    assert read.file == tmp_path / "imagegate.toml"


WRONG = [
    ("[server]\nport = 65536", "server.port: must be a whole number"),
    ("[server]\nport = true", "server.port: must be a whole number"),
    ("[server]\nport = '80'", "server.port: must be a whole number"),
    ("[server]\nhost = 'http://x'", "server.host: must be an IP address or a host name"),
    ("[server]\nhost = '1.2.3'", "server.host: must be an IP address or a host name"),
    ("[server]\nsend_timeout_seconds = 0", "server.send_timeout_seconds: must be seconds from 0.1"),
    ("[server]\nsend_timeout_seconds = nan", "server.send_timeout_seconds: must be seconds from 0.1"),
    ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies: '10.0.0.1/8' is not"),
    ("[server]\ncors_origins = ['https://a.example/']", "server.cors_origins: must be origins"),
    ("[server]\ncors_origins = 'https://a.example'", "server.cors_origins: must be a list of origins"),
    ("[server]\npublic_url = 'images.example'", "server.public_url: must be an http or https URL"),
    ("[server]\ntls_certificate = 'none.pem'", "server.tls_certificate: there is no file"),
    ("[cache]\nscope = 'teem'", "cache.scope: must be team, key or org; did you mean team?"),
    ("[cache]\nmax_bytes = '20XB'", "cache.max_bytes: must be a size"),
    ("[cache]\nmax_bytes = 1", "cache.max_bytes: must be from 1MB"),
    ("[cache]\nttl_seconds = 0", "cache.ttl_seconds: must be whole seconds from 1"),
    ("[cache]\nttl_seconds = 1.5", "cache.ttl_seconds: must be whole seconds from 1"),
    ("[cache]\ndirectory = '~/cache'", "cache.directory: must be written in full"),
    ("[cache]\nkeep_prompts = 'no'", "cache.keep_prompts: must be true or false"),
    ("[rules]\naliases = ['a']", "rules.aliases: must be a table"),
    ("[rules.aliases]\na = 'b'\nb = 'c'", "rules.aliases: 'a' points to 'b', which is an alias itself"),
    ("[rules]\nallow_previews = ['transparent']", "rules.allow_previews: must be a list of model:parameter=value"),
    ("[rules]\ncatalogue = ['none.toml']", "rules.catalogue: there is no file"),
    ("[render]\ndefault = 'base64'", "render.default: must be b64_json, data_url or url"),
    ("[metrics]\nlisten = '9090'", "metrics.listen: must be host:port"),
    ("[metrics]\nlisten = '127.0.0.1:8080'", "metrics.listen: is the server's own address"),
    ("[log]\nlevel = 'INFO'", "log.level: must be debug, info, warning or error; did you mean info?"),
    ("[auth]\nmode = 'key'", "auth.mode: must be passthrough, keys or open; did you mean keys?"),
    ("[database]\nurl = 'mysql://u@h/d'", "database.url: must be sqlite:///path/to/file.db or postgresql://"),
    ("[database]\nurl = 'sqlite:///:memory:'", "database.url: must name a file"),
    ("[database]\nretention_seconds = -1", "database.retention_seconds: must be whole seconds"),
    ("[limits]\nunpriced = 'free'", "limits.unpriced: must be reject or allow"),
    ("[sever]\nport = 1", "sever: no such section; did you mean server?"),
    ("server = 1", "server: must be a table"),
    ("upstreams = []", "upstreams: there must be at least one"),
    ("[upstreams]\nname = 'a'", "upstreams: must be an array of tables"),
    (OPENAI + "api_kye = { env = 'X' }", "upstreams.0.api_kye: no such setting; did you mean api_key?"),
    (
        OPENAI + "vendor = 'openia'",
        "upstreams.0.vendor: must be one of apiyi, azure, generic, openai, together, xai, or come from rules.catalogue; did",
    ),
    (OPENAI + "connect_timeout_seconds = 590", "upstreams.0.total_timeout_seconds: must be greater than"),
    (OPENAI + "name = 'x'", "is not TOML"),
    ("[[upstreams]]\nname = 'a b'\nbase_url = 'https://x'", "upstreams.0.name: must be a plain word"),
    ("[[upstreams]]\nbase_url = 'https://x'", "upstreams.0.name: must be set"),
    ("[[upstreams]]\nname = 'a'", "upstreams.0.base_url: must be set"),
]


@pytest.mark.parametrize(("toml", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_each_mistake_is_named_with_its_path(toml: str, problem: str, tmp_path: Path) -> None:
    assert [found for found in problems(toml, tmp_path) if problem in found]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    toml = """
    [server]
    port = 99999
    prot = 1
    [auth]
    mode = "key"
    [cache]
    scope = "everyone"
    [[upstreams]]
    name = "one"
    base_url = "nowhere"
    [[upstreams]]
    name = "one"
    vendor = "unheard-of"
    base_url = "https://x.example/v1"
    """
    found = problems(toml, tmp_path, {"IMAGEGATE_LOG__LEVEL": "loud", "IMAGEGATE_NOWHERE__X": "1"})
    paths = {problem.partition(":")[0] for problem in found}
    assert paths == {
        "server.port", "server.prot", "auth.mode", "cache.scope", "upstreams.0.base_url", "upstreams.1.vendor",
        "log.level", "nowhere",
    }  # fmt: skip
    assert [problem for problem in found if "(from IMAGEGATE_LOG__LEVEL)" in problem]
    assert [problem for problem in found if "(from IMAGEGATE_NOWHERE__X)" in problem]


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("IMAGEGATE_SERVER__PRT", "server.prt: no such setting; did you mean port? (from IMAGEGATE_SERVER__PRT)"),
        ("IMAGEGATE_SERVER__PORT__X", "server.port.x: no such setting (from IMAGEGATE_SERVER__PORT__X)"),
        (
            "IMAGEGATE_UPSTREAMS__BASE_URL",
            "upstreams.base_url: upstreams are counted: IMAGEGATE_UPSTREAMS__0__BASE_URL",
        ),
        ("IMAGEGATE_UPSTREAMS__7__NAME", "upstreams.7.name: there is no upstream 1 before it"),
        ("IMAGEGATE_RULES__ALIASES", "rules.aliases: is not valid JSON (from IMAGEGATE_RULES__ALIASES)"),
    ],
)
def test_a_variable_that_sets_nothing_is_a_mistake(variable: str, problem: str, tmp_path: Path) -> None:
    assert [found for found in problems(None, tmp_path, {variable: "x"}) if found.startswith(problem)]


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigurationError, match=r"latin.toml: is not UTF-8"):
        load(tmp_path / "latin.toml", {})


OURSELVES = ["http://127.0.0.1:8080/v1", "http://localhost:8080/v1", "http://[::1]:8080"]


@pytest.mark.parametrize("url", OURSELVES)
def test_a_shell_that_leads_its_programs_to_this_proxy_may_start_it_too(url: str) -> None:
    assert load(None, {"OPENAI_BASE_URL": url}).upstreams == load(None, {}).upstreams


@pytest.mark.parametrize(
    "name",
    [
        *("IMAGEGATE_UPSTREAMS__0__API_KEY", "IMAGEGATE_CACHE__SECRET", "IMAGEGATE_METRICS__TOKEN"),
        *("IMAGEGATE_DATABASE__URL", "IMAGEGATE_SERVER__HOST", "IMAGEGATE_AUTH__MODE", "OPENAI_BASE_URL"),
    ],
)
def test_no_problem_repeats_what_stands_in_a_variable(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {name: f"{MARKED} {MARKED}"})
    assert MARKED not in str(caught.value)
