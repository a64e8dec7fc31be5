"""One stored reply, several faces, and the file behind a link."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from proxy.model import Rendering
from proxy.settings import RenderSection, ServerSection
from proxy.stores.purges import Purge, PurgeLog
from tests.support.application import GENERATIONS, Gate, RawCall, gate, generation, settings_over
from tests.support.counting import CountingUpstream, Said
from tests.support.images import MEDIA_TYPES, picture, reply

pytestmark = pytest.mark.anyio

KINDS = ("png", "jpeg", "webp", "gif", "svg")
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp", "gif": "gif", "svg": "svg"}
ONE, TWO = picture("one", size=3001), picture("two", size=2_500_000)


@pytest.fixture
async def gallery(proxy: Gate, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    """Every purchase is the same two pictures: a small one, and one of several windows."""
    upstream.script = lambda call: Said(reply(ONE, TWO, background="opaque"))
    yield proxy


async def face(proxy: Gate, rendering: str, **body: Any) -> httpx.Response:
    answer: httpx.Response = await proxy.ask(n=2, headers={"x-imagegate-response-format": rendering}, **body)
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


# --- the three faces --------------------------------------------------------------------------------------------------


async def test_b64_json_is_the_upstreams_body_to_the_byte(gallery: Gate, upstream: CountingUpstream) -> None:
    for _ in range(3):  # bought, from disk, from memory
        assert (await face(gallery, "b64_json")).content == upstream.replies[0]


async def test_data_url_goes_in_the_member_url_and_changes_nothing_else(
    gallery: Gate, upstream: CountingUpstream
) -> None:
    expected = json.loads(reply(ONE, TWO, background="opaque"))
    expected["data"] = [{"url": f"data:image/png;base64,{base64_of(each)}"} for each in (ONE, TWO)]
    for _ in range(3):
        assert (await face(gallery, "data_url")).json() == expected


async def test_data_url_can_go_in_b64_json(tmp_path: Path, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(ONE, TWO))
    render = RenderSection(default=Rendering.DATA_URL, data_url_field="b64_json")
    async with gate(settings_over(tmp_path, upstream, render=render)) as proxy:
        answers = [await face(proxy, "data_url"), await proxy.ask(n=2)]
    for answer in answers:
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert [list(item) for item in answer.json()["data"]] == [["b64_json"], ["b64_json"]]
        assert answer.json()["data"][0]["b64_json"] == f"data:image/png;base64,{base64_of(ONE)}"


async def test_url_is_a_link_to_the_very_bytes(gallery: Gate) -> None:
    for _ in range(3):
        answer = await face(gallery, "url")
        assert [list(item) for item in answer.json()["data"]] == [["url"], ["url"]]
        assert answer.json()["usage"] == json.loads(reply(ONE))["usage"]
        for item, content in zip(answer.json()["data"], (ONE, TWO), strict=True):
            file = await gallery.client.get(item["url"])
            assert file.status_code == 200
            assert file.content == content
            assert int(file.headers["content-length"]) == len(content)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_media_type_is_the_images_own(proxy: Gate, upstream: CountingUpstream, kind: str) -> None:
    content = picture("x", kind)
    upstream.script = lambda call: Said(reply(content))
    as_data = await proxy.ask(headers={"x-imagegate-response-format": "data_url"})
    assert as_data.json()["data"][0]["url"] == f"data:{MEDIA_TYPES[kind]};base64,{base64_of(content)}"
    link = (await proxy.ask(headers={"x-imagegate-response-format": "url"})).json()["data"][0]["url"]
    assert link.endswith("." + EXTENSIONS[kind])
    file = await proxy.client.get(link)
    assert (file.headers["content-type"], file.content) == (MEDIA_TYPES[kind], content)


async def test_a_face_is_no_part_of_the_key(gallery: Gate, upstream: CountingUpstream) -> None:
    for rendering in Rendering:
        await face(gallery, rendering.value)
    await gallery.ask(n=2, response_format="url")
    assert len(upstream.calls) == 1


async def test_followers_have_faces_of_their_own(gallery: Gate, upstream: CountingUpstream) -> None:
    key = await gallery.key_of(n=2)
    upstream.hold()
    tasks = {}
    for count, rendering in enumerate(Rendering, 1):
        tasks[rendering] = gallery.asking(n=2, headers={"x-imagegate-response-format": rendering.value})
        await gallery.waiting(key, count)
    upstream.release()
    first = {rendering: (await task).json()["data"][0] for rendering, task in tasks.items()}
    assert first[Rendering.B64_JSON]["b64_json"] == base64_of(ONE)
    assert first[Rendering.DATA_URL]["url"] == f"data:image/png;base64,{base64_of(ONE)}"
    assert (await gallery.client.get(first[Rendering.URL]["url"])).content == ONE


async def test_header_before_body_before_configuration(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream, render=RenderSection(default=Rendering.DATA_URL))
    async with gate(settings) as proxy:
        plain = await proxy.ask()
        by_body = await proxy.ask(response_format="b64_json")
        by_header = await proxy.ask(response_format="b64_json", headers={"x-imagegate-response-format": "url"})
    assert plain.json()["data"][0]["url"].startswith("data:")
    assert by_body.json()["data"][0].keys() == {"b64_json"}
    assert by_header.json()["data"][0]["url"].startswith("http://gate.test/")


@pytest.mark.parametrize("word", ["png", "URL", "", "b64_json,url"])
async def test_a_face_that_is_none_is_refused(proxy: Gate, upstream: CountingUpstream, word: str) -> None:
    answer = await proxy.ask(headers={"x-imagegate-response-format": word})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_header"
    assert upstream.calls == []
    assert proxy.total("imagegate_validation_rejections_total", reason="invalid_header") == 1


async def test_what_is_not_stored_has_no_link_and_is_still_an_address(gallery: Gate) -> None:
    headers = {"x-imagegate-response-format": "url", "cache-control": "no-store"}
    answer = await gallery.ask(n=2, headers=headers)
    assert answer.json()["data"][0] == {"url": f"data:image/png;base64,{base64_of(ONE)}"}
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("rendering", ["b64_json", "data_url", "url"])
async def test_an_url_beside_the_base64_is_cut_only_where_we_write_our_own(
    proxy: Gate, upstream: CountingUpstream, rendering: str
) -> None:
    item = {"revised_prompt": "A fox.", "url": "https://example.com/x", "b64_json": base64_of(ONE), "n": 1}
    upstream.script = lambda call: Said(json.dumps({"created": 1, "data": [item]}).encode())
    answer = await proxy.ask(headers={"x-imagegate-response-format": rendering})
    assert int(answer.headers["content-length"]) == len(answer.content)
    (shown,) = answer.json()["data"]
    assert (shown["revised_prompt"], shown["n"]) == ("A fox.", 1)
    assert answer.text.count('"url"') == 1
    assert ("b64_json" in shown) is (rendering == "b64_json")


async def test_escaped_base64_has_every_face(proxy: Gate, upstream: CountingUpstream) -> None:
    content = picture("\xff\xfe\xfd?>", size=5000) + b"\xff" * 300
    assert "/" in base64_of(content)
    escaped = base64_of(content).replace("/", "\\/")
    body = b'{"data":[{"b64_json":"%s"}]}' % escaped.encode()
    upstream.script = lambda call: Said(body)
    assert (await proxy.ask()).content == body
    as_data = await proxy.ask(headers={"x-imagegate-response-format": "data_url"})
    assert as_data.json()["data"][0]["url"] == f"data:image/png;base64,{base64_of(content)}"
    assert int(as_data.headers["content-length"]) == len(as_data.content)
    link = (await proxy.ask(headers={"x-imagegate-response-format": "url"})).json()["data"][0]["url"]
    file = await proxy.client.get(link)
    assert file.content == content
    assert int(file.headers["content-length"]) == len(content)


# --- where links lead -------------------------------------------------------------------------------------------------


async def origin_of(proxy: Gate, *headers: tuple[bytes, bytes], peer: str = "192.0.2.7") -> str:
    call = RawCall(proxy.app)
    given = [(b"content-type", b"application/json"), (b"x-imagegate-response-format", b"url"), *headers]
    call.start(generation(), headers=given, client=(peer, 1))
    await call.over()
    parts = urlsplit(json.loads(call.body)["data"][0]["url"])
    return f"{parts.scheme}://{parts.netloc}"


FORWARDED = ((b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"images.example, inner.example"))


async def test_links_begin_with_the_host_that_was_called(proxy: Gate) -> None:
    assert await origin_of(proxy) == "http://gate.test"


async def test_what_a_stranger_says_was_forwarded_is_not_believed(proxy: Gate) -> None:
    assert await origin_of(proxy, *FORWARDED) == "http://gate.test"


async def test_a_trusted_proxy_is_believed(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(trusted_proxies=("192.0.2.0/24",))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        assert await origin_of(proxy, *FORWARDED) == "https://images.example"
        assert await origin_of(proxy, *FORWARDED, peer="198.51.100.1") == "http://gate.test"


async def test_the_configured_address_goes_before_all(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(public_url="https://public.example/images/", trusted_proxies=("0.0.0.0/0",))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        answer = await proxy.ask(headers={"x-imagegate-response-format": "url", "x-forwarded-host": "evil.example"})
    assert answer.json()["data"][0]["url"].startswith("https://public.example/images/v1/images/files/")


@pytest.mark.parametrize("host", ['evil"><script>', "a b", "user@evil.example", "x/y", "x:99999999"])
async def test_a_host_that_is_none_does_not_get_into_a_link(
    tmp_path: Path, upstream: CountingUpstream, host: str
) -> None:
    server = ServerSection(trusted_proxies=("192.0.2.0/24",))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        assert await origin_of(proxy, (b"x-forwarded-host", host.encode())) == "http://127.0.0.1:8080"


# --- files ------------------------------------------------------------------------------------------------------------


async def link_to(proxy: Gate) -> str:
    link: str = (await face(proxy, "url")).json()["data"][0]["url"]
    return link


async def test_a_file_is_served_as_what_it_is_and_as_nothing_else(gallery: Gate) -> None:
    file = await gallery.client.get(await link_to(gallery))
    assert file.headers["content-type"] == "image/png"
    assert file.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in file.headers["content-security-policy"]
    assert file.headers["cache-control"] == "private, max-age=3600, immutable"
    assert file.headers["x-request-id"]


async def test_head_tells_of_a_file_without_sending_it(gallery: Gate) -> None:
    link = await link_to(gallery)
    head, file = await gallery.client.head(link), await gallery.client.get(link)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "content-type", "etag", "cache-control"):
        assert head.headers[name] == file.headers[name]


async def test_every_byte_of_a_name_is_signed(gallery: Gate) -> None:
    link = await link_to(gallery)
    path, _, extension = link.rpartition(".")
    stem, _, name = path.rpartition("/")
    assert len(name) == 84
    for position, character in enumerate(name):
        tampered = name[:position] + ("A" if character != "A" else "B") + name[position + 1 :]
        answer = await gallery.client.get(f"{stem}/{tampered}.{extension}")
        assert answer.status_code == 404, position
        assert answer.json()["error"]["code"] == "file_not_found"


@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "no extension", "another", "upper", "other base64"])
async def test_any_other_name_is_a_404(gallery: Gate, change: str) -> None:
    path, _, extension = (await link_to(gallery)).rpartition(".")
    changed = {
        "longer": f"{path}A.{extension}",
        "shorter": f"{path[:-4]}.{extension}",
        "empty": f"{path[:-72]}.{extension}",
        "no extension": path,
        "another": f"{path}.jpg",
        "upper": f"{path}.PNG",
        "other base64": f"{path[:-72]}{'+' * 72}.{extension}",
    }[change]
    assert (await gallery.client.get(changed)).status_code == 404


async def test_a_link_of_another_secret_is_a_404(gallery: Gate, tmp_path: Path, upstream: CountingUpstream) -> None:
    link = await link_to(gallery)
    async with gate(settings_over(tmp_path / "elsewhere", upstream)) as other:
        assert (await other.client.get(link)).status_code == 404


async def test_a_link_expires(gallery: Gate) -> None:
    link = await link_to(gallery)
    gallery.clock.advance(3599)
    almost = await gallery.client.get(link)
    assert (almost.status_code, almost.headers["cache-control"]) == (200, "private, max-age=1, immutable")
    gallery.clock.advance(1)
    expired = await gallery.client.get(link)
    assert (expired.status_code, expired.json()["error"]["code"]) == (410, "link_expired")
    assert (await gallery.client.head(link)).status_code == 410
    assert (await gallery.client.get(await link_to(gallery))).status_code == 200


async def test_a_link_to_what_was_forgotten_is_a_404(gallery: Gate) -> None:
    link = await link_to(gallery)
    PurgeLog(gallery.directory).append(Purge("all", at=gallery.clock.wall()))
    await gallery.app.store.poll()
    for stored in gallery.directory.rglob("*.val"):
        stored.unlink()
    answer = await gallery.client.get(link)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


async def test_a_link_needs_no_credential_and_outlives_a_restart(tmp_path: Path, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(ONE, TWO))
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as before:
        link = await link_to(before)
    async with gate(replace(settings, auth=replace(settings.auth, mode="passthrough"))) as after:
        assert (await after.client.get(link)).content == ONE


async def test_a_link_shows_the_picture_it_was_made_for_or_none(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(picture(f"of call {call.number}")))
    link = (await proxy.ask(headers={"x-imagegate-response-format": "url"})).json()["data"][0]["url"]
    proxy.clock.advance(1)
    await proxy.ask(headers={"cache-control": "no-cache"})
    file = await proxy.client.get(link)
    assert file.status_code == 404 or file.content == picture("of call 1")


async def test_another_picture_has_another_etag(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(picture(f"of call {call.number}")))
    etags = set()
    for control in ("", "no-cache"):
        headers = {"x-imagegate-response-format": "url", "cache-control": control}
        link = (await proxy.ask(headers=headers)).json()["data"][0]["url"]
        etags.add((await proxy.client.get(link)).headers["etag"])
        etags.add((await proxy.client.get(link)).headers["etag"])
        proxy.clock.advance(1)
    assert len(etags) == 2


async def test_a_picture_is_not_counted_as_an_answer(gallery: Gate) -> None:
    link = await link_to(gallery)
    before = gallery.total("imagegate_requests_total")
    await gallery.client.get(link)
    assert gallery.total("imagegate_requests_total") == before
    assert GENERATIONS not in link
