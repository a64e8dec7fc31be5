"""The list of models with the official SDKs."""

from tests.clients.sdk import Client


def test_the_list_names_the_models_of_the_catalogue(client: Client) -> None:
    listed = client.models()
    assert listed["ok"], listed
    assert {"gpt-image-2", "gpt-image-2.6-flare"} <= set(listed["ids"])


def test_a_model_says_who_owns_it_and_when_it_goes(client: Client) -> None:
    living, leaving = (client.model(name)["model"] for name in ("gpt-image-2", "gpt-image-1.5"))
    assert (living["id"], living["object"], living["shutdown_date"]) == ("gpt-image-2", "model", None)
    assert isinstance(living["created"], int) and living["owned_by"]
    assert (leaving["id"], leaving["shutdown_date"]) == ("gpt-image-1.5", "2026-12-01")


def test_an_unknown_model_is_not_found(client: Client) -> None:
    refused = client.model("gpt-image-99")
    assert (refused["name"], refused["status"], refused["code"]) == ("NotFoundError", 404, "model_not_found")
