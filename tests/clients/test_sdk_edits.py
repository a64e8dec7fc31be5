"""Edits with the official SDKs: pictures as files, in a form."""

from pathlib import Path

from tests.clients.expected import picture_of, pictures_in, sent
from tests.clients.sdk import Client
from tests.support.upstream_process import UpstreamProcess


def test_one_picture_is_edited_once_for_two_equal_calls(
    client: Client, upstream: UpstreamProcess, photos: Path
) -> None:
    prompt = client.prompt("edit, one picture")
    first, second = (client.edit(prompt, image=str(photos / "photo.png")) for _ in range(2))
    assert first["pictures"] == second["pictures"] == [picture_of(prompt)]
    assert (first["cache"], second["cache"]) == ("MISS", "HIT")
    [body] = upstream.bodies(prompt)
    assert pictures_in(body) == [sent("image", photos / "photo.png", "image/png")]
    assert upstream.edits(prompt) == 1
    assert (body["model"], body["size"]) == ("gpt-image-2", "1024x1024")


def test_several_pictures_and_a_mask_are_sent_on_in_their_order(
    client: Client, upstream: UpstreamProcess, photos: Path
) -> None:
    prompt = client.prompt("edit, a hat")
    pictures = [str(photos / "photo.png"), str(photos / "hat.jpg")]
    outcome = client.edit(prompt, image=pictures, mask=str(photos / "mask.png"))
    assert outcome["pictures"] == [picture_of(prompt)]
    [body] = upstream.bodies(prompt)
    assert pictures_in(body) == [
        sent("image[]", photos / "photo.png", "image/png"),
        sent("image[]", photos / "hat.jpg", "image/jpeg"),
        sent("mask", photos / "mask.png", "image/png"),
    ]


def test_another_mask_is_another_edit(client: Client, upstream: UpstreamProcess, photos: Path) -> None:
    prompt = client.prompt("edit, two masks")
    for mask, cache in ("mask.png", "MISS"), ("other-mask.png", "MISS"), ("mask.png", "HIT"):
        assert client.edit(prompt, image=str(photos / "photo.png"), mask=str(photos / mask))["cache"] == cache
    assert upstream.calls(prompt) == 2


def test_an_edit_that_the_model_would_refuse_is_a_bad_request_that_was_never_sent(
    client: Client, upstream: UpstreamProcess, photos: Path
) -> None:
    prompt = client.prompt("edit, refused")
    refused = client.edit(prompt, image=str(photos / "photo.png"), input_fidelity="high")
    assert (refused["name"], refused["status"], refused["param"]) == ("BadRequestError", 400, "input_fidelity")
    assert refused["code"] == "invalid_input_fidelity_model"
    assert upstream.calls(prompt) == 0
