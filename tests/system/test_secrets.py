"""Marked credentials, keys, prompts and images go down every path, and are looked for wherever they must not be."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.caller import Reply, ask
from tests.support.polling import eventually
from tests.support.process import Proxy, write_config
from tests.support.raw import message, tell
from tests.support.upstream_process import UpstreamProcess, body_of

CREDENTIAL = "sk-proj-MARKEDcredential0123456789"
API_KEY = "sk-proj-MARKEDapikey0123456789"
METRICS_TOKEN = "MARKEDmetricstoken0123456789"
PROMPT = "MARKEDprompt of a secret product"
MARKS = ("MARKED", "MARKEDcredential", "MARKEDapikey", "MARKEDmetricstoken", "MARKEDprompt")
AUTHORIZATION: dict[str, str | None] = {"authorization": f"Bearer {CREDENTIAL}"}

MODES: dict[str, dict[str, dict[str, Any]]] = {
    "passthrough": {},
    "open": {"auth": {"mode": "open"}},
}


@dataclass(frozen=True)
class Marked:
    """A proxy that logs all it can, and the calls to make of it."""

    proxy: Proxy
    upstream: UpstreamProcess
    mode: str

    def ask(self, name: str, *plans: dict[str, object], **named: object) -> tuple[str, Reply]:
        prompt = f"{PROMPT}, {self.mode}, {name}"
        if plans:
            self.upstream.plan(prompt, *plans)
        return prompt, ask(self.proxy, prompt, headers=AUTHORIZATION, **named)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=list(MODES))
def marked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess
) -> Iterator[Marked]:
    folder = tmp_path_factory.mktemp("marked")
    sections: dict[str, dict[str, Any]] = {
        "upstream": {
            "api_key": {"env": "MARKED_KEY"},
            "connect_timeout_seconds": 0.5,
            "total_timeout_seconds": 2,
        },
        "metrics": {"token": {"env": "MARKED_TOKEN"}},
        "server": {"receive_timeout_seconds": 1},
        "log": {"level": "debug"},
        **MODES[request.param],
    }
    config = write_config(folder / "imagegate.toml", upstream.url, sections)
    environ = {"MARKED_KEY": API_KEY, "MARKED_TOKEN": METRICS_TOKEN}
    proxy = Proxy("--config", str(config), log=folder / "imagegate.log", environ=environ)
    try:
        yield Marked(proxy, upstream, request.param)
        assert proxy.stop() == 0
        _look_through(proxy.log_text(), "the log")
        assert proxy.log_lines(), "there was a log to look through"
    finally:
        proxy.kill()


@pytest.fixture(autouse=True)
def nothing_is_told(marked: Marked) -> Iterator[None]:
    """After each path: not in the log, and not in the metrics."""
    yield
    status, _, page = marked.proxy.get("/metrics")
    assert status == 200
    _look_through(page.decode(), "the metrics")
    _look_through(marked.proxy.log_text(), "the log")


def _look_through(text: str, where: str) -> None:
    for mark in MARKS:
        assert mark.lower() not in text.lower(), f"{mark} stands in {where}"
    assert "iVBORw0KGgo" not in text, f"an image stands in {where}"


def _headers_of(reply: Reply) -> str:
    return json.dumps(dict(reply.headers))


def test_a_miss_a_hit_and_a_follower_tell_nothing(marked: Marked) -> None:
    prompt, miss = marked.ask("plain", {"blocks": 2})
    _, hit = marked.ask("plain")
    assert (miss.cache, hit.cache) == ("MISS", "HIT")
    assert miss.body == hit.body == body_of(prompt, 2)
    for reply in (miss, hit):
        _look_through(_headers_of(reply), "the headers")
    wanted = f"Bearer {CREDENTIAL if marked.mode == 'passthrough' else API_KEY}"
    assert marked.upstream.credentials(prompt) == [wanted]


@pytest.mark.parametrize("fault", ["truncated", "reset", "html", "error-in-200", "not-base64", "no-image"])
def test_errors_of_ours_about_the_upstream_tell_nothing(marked: Marked, fault: str) -> None:
    _, refused = marked.ask(fault, {"fault": fault})
    assert refused.status == 502
    _look_through(refused.body.decode() + _headers_of(refused), "the error")


def test_a_timeout_tells_nothing(marked: Marked) -> None:
    _, refused = marked.ask("timeout", {"hold": True})
    assert refused.status == 504
    _look_through(refused.body.decode() + _headers_of(refused), "the error")


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
def test_an_error_that_quotes_its_caller_reaches_that_caller_alone(marked: Marked, status: int) -> None:
    plan = {
        "status": status,
        "body": '{"error":{"message":"Incorrect: {echo}","type":"x","param":null,"code":"y"}}',
        "headers": {"x-echo": CREDENTIAL, "x-request-id": "req_of_the_upstream", "retry-after": "30"},
    }
    prompt, refused = marked.ask(f"refused {status}", plan)
    assert refused.status == status
    quoted = f"Bearer {CREDENTIAL}" if marked.mode == "passthrough" else "Bearer [our key]"
    assert refused.error["message"] == f"Incorrect: {quoted} {prompt}", "as it came, but for a key of ours"
    _look_through(_headers_of(refused), "the headers")


def test_errors_about_the_request_tell_nothing(marked: Marked) -> None:
    refusals = [
        marked.ask("size", members={"size": "MARKED"})[1],
        marked.ask("type", members={"n": PROMPT})[1],
        marked.ask("long", members={"prompt": PROMPT * 4000})[1],
        marked.ask("deep", members={"user": [PROMPT]})[1],
    ]
    for refused in refusals[1:]:
        assert refused.status == 400
        _look_through(refused.body.decode() + _headers_of(refused), "the error")
    assert refusals[0].status == 400  # a value that is refused is named to who sent it, as OpenAI does


def test_messages_that_are_no_requests_tell_nothing(marked: Marked) -> None:
    sound = message(PROMPT, extra=b"X-Secret: " + CREDENTIAL.encode() + b"\r\n")
    for data in (
        sound.replace(b"HTTP/1.1", b"HTTP/9.9"),
        sound.replace(b"\r\n\r\n{", b"\r\n\r\n{{"),
        sound.replace(b"Host:", b"Host: a\r\nHost:"),
        sound.replace(b"Authorization: Bearer ", b"Authorization: Bearer \xff" + CREDENTIAL.encode()),
        sound.replace(b"/v1/images/generations", b"/v1/" + CREDENTIAL.encode() + b"?key=" + CREDENTIAL.encode()),
        sound[:-20],
        sound.replace(b"Content-Length: ", b"Content-Length: 9"),
    ):
        reply = tell(marked.proxy, data)
        assert reply.status in (400, 404, 408, 413)
        if reply.status != 404:  # an unknown path is named to who asked for it, as OpenAI does
            _look_through(reply.body.decode() + json.dumps(reply.headers), "the error")


def test_a_client_that_hangs_up_leaves_nothing_in_the_log(marked: Marked) -> None:
    with pytest.raises(TimeoutError):
        marked.ask("hangs up", {"seconds": 0.6}, seconds=0.2)
    eventually(lambda: marked.proxy.metric("imagegate_flights_in_flight") == 0)


def test_a_wrong_metrics_token_is_not_repeated(marked: Marked) -> None:
    for token in ("MARKEDmetricstokenwrong", METRICS_TOKEN + "x"):
        status, headers, body = marked.proxy.get("/metrics", {"authorization": f"Bearer {token}"})
        assert status == 401
        _look_through(body.decode() + json.dumps(headers), "the error")


def test_links_to_images_are_not_logged(marked: Marked) -> None:
    _, reply = marked.ask("linked", {})
    headers = {**AUTHORIZATION, "x-imagegate-response-format": "url"}
    linked = ask(marked.proxy, f"{PROMPT}, {marked.mode}, linked", headers=headers)
    url = json.loads(linked.body)["data"][0]["url"]
    name = url.rsplit("/", 1)[1]
    assert marked.proxy.get(f"/v1/images/files/{name}")[0] == 200
    assert marked.proxy.get(f"/v1/images/files/{name[:-6]}x.png")[0] in (403, 404)
    assert name[:40] not in marked.proxy.log_text()
    assert reply.status == 200


def test_what_is_kept_on_disk_holds_no_credential(
    start: Callable[..., Proxy], upstream: UpstreamProcess, tmp_path: Path
) -> None:
    proxy = start(
        {"upstream": {"api_key": {"env": "MARKED_KEY"}}, "cache": {"keep_prompts": False}}, MARKED_KEY=API_KEY
    )
    ask(proxy, f"{PROMPT}, on disk", headers=AUTHORIZATION)
    proxy.stop()
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) > 2
    for path in files:
        content = path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0, path
        for mark in MARKS:
            assert mark.encode() not in content, f"{mark} stands in {path.name}"
    for folder in (tmp_path / "cache", *(path for path in (tmp_path / "cache").rglob("*") if path.is_dir())):
        assert folder.stat().st_mode & 0o077 == 0, folder
