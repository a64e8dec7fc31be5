"""Edits as curl -F sends them."""

import json
from pathlib import Path

from tests.clients.curl import curl, needs_curl
from tests.clients.expected import pictures_in, sent
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of, event_of

pytestmark = needs_curl


def form(prompt: str, *fields: str) -> list[str]:
    given = [f"prompt={prompt}", "model=gpt-image-2", *fields]
    return [word for field in given for word in ("-F", field)]


def test_equal_forms_are_bought_once_whatever_the_file_is_called(
    proxy: Proxy, upstream: UpstreamProcess, photos: Path
) -> None:
    prompt = "curl, edit"
    for name, cache in ("photo.png", b"miss"), ("holiday.png", b"hit"):
        fields = form(prompt, f"image=@{photos / 'photo.png'};filename={name}")
        got = curl(f"{proxy.url}/images/edits", *fields)
        assert (got.status, got.body) == (200, body_of(prompt))
        assert b"x-imagegate-cache: " + cache in got.head
    [body] = upstream.bodies(prompt)
    assert pictures_in(body) == [sent("image", photos / "photo.png", "image/png")]


def test_several_pictures_and_a_mask(proxy: Proxy, upstream: UpstreamProcess, photos: Path) -> None:
    prompt, photo, hat, mask = "curl, hat", photos / "photo.png", photos / "hat.jpg", photos / "mask.png"
    got = curl(f"{proxy.url}/images/edits", *form(prompt, f"image[]=@{photo}", f"image[]=@{hat}", f"mask=@{mask}"))
    assert (got.status, got.body) == (200, body_of(prompt))
    [body] = upstream.bodies(prompt)
    wanted = [sent("image[]", photo, "image/png"), sent("image[]", hat, "image/jpeg"), sent("mask", mask, "image/png")]
    assert pictures_in(body) == wanted


def test_a_streamed_edit(proxy: Proxy, photos: Path) -> None:
    prompt = "curl, streamed edit"
    fields = form(prompt, f"image=@{photos / 'photo.png'}", "stream=true", "partial_images=1")
    got = curl("-N", f"{proxy.url}/images/edits", *fields)
    events = [event_of(prompt, index, operation="image_edit") for index in (0, None)]
    assert got.body == b"".join(events)


def test_a_file_that_is_no_picture_is_refused(proxy: Proxy, upstream: UpstreamProcess, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    got = curl(f"{proxy.url}/images/edits", *form("curl, notes", f"image=@{tmp_path / 'notes.txt'}"))
    error = json.loads(got.body)["error"]
    assert (got.status, error["type"], error["param"]) == (400, "invalid_request_error", "image")
    assert upstream.calls("curl, notes") == 0
