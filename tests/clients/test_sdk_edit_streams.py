"""Streamed edits with the official SDKs."""

from pathlib import Path

from tests.clients.expected import TOKENS, picture_of
from tests.clients.sdk import Client
from tests.support.upstream_process import UpstreamProcess


def test_a_streamed_edit_gives_its_events_and_then_serves_the_same_edit_without_a_stream(
    client: Client, upstream: UpstreamProcess, photos: Path
) -> None:
    prompt, image = client.prompt("edit, streamed"), str(photos / "photo.png")
    outcome = client.stream_edit(prompt, image=image, partial_images=1)
    assert [(event["type"], event["picture"]) for event in outcome["events"]] == [
        ("image_edit.partial_image", picture_of(prompt, 0)),
        ("image_edit.completed", picture_of(prompt)),
    ]
    assert outcome["events"][-1]["tokens"] == TOKENS
    whole = client.edit(prompt, image=image)
    assert (whole["cache"], whole["pictures"]) == ("HIT", [picture_of(prompt)])
    assert upstream.calls(prompt) == 1


def test_an_edit_that_was_not_streamed_serves_a_stream(client: Client, upstream: UpstreamProcess, photos: Path) -> None:
    prompt, image = client.prompt("edit, whole, then streamed"), str(photos / "photo.png")
    assert client.edit(prompt, image=image)["cache"] == "MISS"
    [event] = client.stream_edit(prompt, image=image, partial_images=2)["events"]
    assert (event["type"], event["picture"]) == ("image_edit.completed", picture_of(prompt))
    assert upstream.calls(prompt) == 1
