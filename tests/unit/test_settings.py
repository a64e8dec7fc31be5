"""Reading settings: order, references, every problem at once, and no secret in anything that is printed."""

import fnmatch
import json
import tomllib
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ConfigurationError
from proxy.model import Rendering
from proxy.settings import (
    Secret,
    Settings,
    UpstreamSection,
    listen_address,
    load,
    may_overlap,
    parse_seconds,
    parse_size,
    sections,
    size_text,
)

MARKED = "sk-marked-0123456789abcdef"


def problems(toml: str | None, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        settings(toml, folder, environ)
    return caught.value.problems


def settings(toml: str | None, folder: Path, environ: Mapping[str, str] | None = None) -> Settings:
    if toml is None:
        return load(None, environ or {})
    file = folder / "imagegate.toml"
    file.write_text(toml, "utf-8")
    return load(file, environ or {})


OPENAI = '[[upstreams]]\nname = "openai"\nbase_url = "https://api.openai.com/v1"\n'


# --- Order ------------------------------------------------------------------------------------------------------------


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


def test_every_section_is_frozen_and_has_no_room_for_more() -> None:
    for name, kind in sections():
        section: Any = load(None, {}).upstreams[0] if name == "upstreams" else kind()
        assert not hasattr(section, "__dict__")
        with pytest.raises(FrozenInstanceError):
            setattr(section, fields(kind)[0].name, 0)


# --- Values -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**15))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert parse_size(size_text(size)) == size


@given(st.integers(0, 10**6), st.sampled_from([("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("GiB", 2**30)]))
def test_units_of_size_multiply(amount: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_size(f"{amount}{name}") == parse_size(f" {amount} {name.lower()} ") == amount * factor


@given(st.integers(0, 10**6), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("w", 604800)]))
def test_units_of_time_multiply(amount: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_seconds(f"{amount}{name}") == amount * factor


@pytest.mark.parametrize("text", ["", "GB", "-1MB", "1 PB", "1e3", "0x10", "1.5", "0.0001kB", "1MB1", "٣MB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_seconds):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith("must")  # either way is right


@given(st.integers(1, 65_535))
def test_a_number_reads_the_same_from_the_environment_as_from_the_file(port: int) -> None:
    assert load(None, {"IMAGEGATE_SERVER__PORT": str(port)}).server.port == port


names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


@given(st.lists(names, max_size=4))
def test_a_list_in_the_environment_may_have_commas_or_be_json(values: list[str]) -> None:
    for text in (",".join(values), " , ".join(values), json.dumps(values)):
        read = load(None, {"IMAGEGATE_RULES__EXTRA_PARAMETERS": text})
        assert read.rules.extra_parameters == tuple(values)


every_setting = st.sampled_from([(name, item.name) for name, kind in sections() for item in fields(kind)])


@given(st.text(max_size=40), every_setting)
def test_no_text_in_a_variable_does_more_than_raise_a_configuration_error(text: str, setting: tuple[str, str]) -> None:
    section, name = setting
    index = "0__" if section == "upstreams" else ""
    try:
        load(None, {f"IMAGEGATE_{section}__{index}{name}".upper(): text})
    except ConfigurationError as error:
        assert all(problem.startswith(f"{section}.") for problem in error.problems)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_flag_in_the_environment_is_a_word_or_a_digit(text: str, value: bool) -> None:
    assert load(None, {"IMAGEGATE_CACHE__KEEP_PROMPTS": text}).cache.keep_prompts is value


def test_aliases_in_the_environment_are_json() -> None:
    read = load(None, {"IMAGEGATE_RULES__ALIASES": '{"dall-e-3": "gpt-image-2"}'})
    assert read.rules.aliases == {"dall-e-3": "gpt-image-2"}


def test_sizes_and_durations_may_be_texts(tmp_path: Path) -> None:
    read = settings('[cache]\nmax_bytes = "50GB"\nmemory_bytes = 1000\nttl_seconds = "7d"\n', tmp_path)
    assert (read.cache.max_bytes, read.cache.memory_bytes, read.cache.ttl_seconds) == (50 * 10**9, 1000, 604_800)


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
    ("[auth]\nmode = 'keys'", "auth.mode: virtual keys are not served by this version; use passthrough or open"),
    ("[sever]\nport = 1", "sever: no such section; did you mean server?"),
    ("server = 1", "server: must be a table"),
    ("upstreams = []", "upstreams: there must be at least one"),
    ("[upstreams]\nname = 'a'", "upstreams: must be an array of tables"),
    (OPENAI + "api_kye = { env = 'X' }", "upstreams.0.api_kye: no such setting; did you mean api_key?"),
    (
        OPENAI + "vendor = 'openia'",
        "upstreams.0.vendor: must be openai or apiyi, or come from rules.catalogue; did you",
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


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    toml = """
    [server]
    port = 99999
    prot = 1
    [auth]
    mode = "keys"
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


# --- Rules between settings -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("url", OURSELVES)
def test_a_shell_that_leads_its_programs_to_this_proxy_may_start_it_too(url: str) -> None:
    assert load(None, {"OPENAI_BASE_URL": url}).upstreams == load(None, {}).upstreams


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


# --- Secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_to_nobody() -> None:
    secret = Secret(MARKED, ("env", "OPENAI_API_KEY"))
    assert [str(secret), repr(secret), f"{secret}", f"{[secret]}"] == ["Secret(…)"] * 3 + ["[Secret(…)]"]
    assert secret.reveal() == MARKED
    assert secret == Secret(MARKED)
    assert secret != Secret(MARKED + "x")
    assert secret != MARKED


def test_a_secret_is_written_by_reference_only(tmp_path: Path) -> None:
    (found,) = problems(OPENAI + f"api_key = '{MARKED}'\n", tmp_path)
    assert found.startswith("upstreams.0.api_key: secrets are written by reference: { env =")
    assert MARKED not in found


def test_a_secret_in_a_file_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(MARKED + "\n")
    assert settings(OPENAI + "api_key = { file = 'key' }\n", tmp_path).upstreams[0].api_key == Secret(MARKED)


def test_a_variable_that_is_not_set_leaves_the_secret_unset(tmp_path: Path) -> None:
    for environ in ({}, {"MY_KEY": ""}):
        assert settings(OPENAI + "api_key = { env = 'MY_KEY' }\n", tmp_path, environ).upstreams[0].api_key is None


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("{ file = 'none' }", "the file it names cannot be read"),
        ("{ file = 'empty' }", "the file it names is empty"),
        ("{ env = 'SPLIT' }", "holds spaces or characters that no header may carry"),
        ("{ evn = 'X' }", "secrets are written by reference"),
        ("{ env = 'X', file = 'Y' }", "secrets are written by reference"),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_mistake(reference: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found = problems(OPENAI + f"api_key = {reference}\n", tmp_path, {"SPLIT": f"{MARKED}\nX-Injected: 1"})
    assert [line for line in found if line.startswith(f"upstreams.0.api_key: {problem}")]
    assert MARKED not in " ".join(found)


def test_the_secret_of_the_cache_is_long_enough() -> None:
    with pytest.raises(ConfigurationError, match=r"cache.secret: must be at least 16 characters"):
        load(None, {"IMAGEGATE_CACHE__SECRET": "short"})


SECRETIVE = {
    "IMAGEGATE_UPSTREAMS__0__API_KEY": MARKED,
    "IMAGEGATE_CACHE__SECRET": MARKED,
    "IMAGEGATE_METRICS__TOKEN": MARKED,
    "IMAGEGATE_DATABASE__URL": f"postgresql://imagegate:{MARKED}@db.example/imagegate",
}


def test_no_description_holds_a_secret() -> None:
    read = load(None, SECRETIVE)
    for shown in (repr(read), str(read), json.dumps(read.describe()), read.toml()):
        assert MARKED not in shown
    described = read.describe()
    assert described["upstreams"][0]["api_key"] == "set (env IMAGEGATE_UPSTREAMS__0__API_KEY)"
    assert described["metrics"]["token"] == "set (env IMAGEGATE_METRICS__TOKEN)"
    assert load(None, {}).describe()["cache"]["secret"] == "unset"


@pytest.mark.parametrize("name", [*SECRETIVE, "IMAGEGATE_SERVER__HOST", "IMAGEGATE_AUTH__MODE", "OPENAI_BASE_URL"])
def test_no_problem_repeats_what_stands_in_a_variable(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {name: f"{MARKED} {MARKED}"})
    assert MARKED not in str(caught.value)


def test_what_is_described_is_every_setting() -> None:
    described = load(None, {}).describe()
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
    again = settings(read.toml(), tmp_path, environ)
    assert again == replace(read, file=again.file)
    assert tomllib.loads(read.toml())["rules"]["aliases"] == {"dall-e-3": "gpt-image-2"}
