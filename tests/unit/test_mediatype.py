"""Media types: read from whatever headers a peer sends."""

import pytest
from starlette.datastructures import Headers

from proxy import mediatype


@pytest.mark.parametrize(
    ("sent", "media_type"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        (" text/event-stream ;charset=utf-8", "text/event-stream"),
        ("multipart/form-data; boundary=a;b", "multipart/form-data"),
        ("; charset=utf-8", ""),
        ("", ""),
    ],
)
def test_a_media_type_is_lower_case_and_without_parameters(sent: str, media_type: str) -> None:
    assert mediatype.of({"content-type": sent}) == media_type
    assert mediatype.of(Headers({"Content-Type": sent})) == media_type


def test_headers_that_name_none_have_an_empty_one() -> None:
    assert mediatype.of({}) == ""


@pytest.mark.parametrize("media_type", ["application/json", "application/vnd.images+json"])
def test_json_is_known_by_its_name_and_by_its_suffix(media_type: str) -> None:
    assert mediatype.is_json(media_type)


@pytest.mark.parametrize("media_type", ["", "text/json", "application/json-seq", "application/x+json+xml", "json"])
def test_what_only_looks_like_json_is_none(media_type: str) -> None:
    assert not mediatype.is_json(media_type)
