"""The models page lists what may be asked for here, each model once, in OpenAI's shape."""

from datetime import date
from typing import Any

import pytest

from proxy.catalogue import from_documents, load
from proxy.errors import NotFound
from proxy.models import find, listing
from proxy.settings import UpstreamSection

_ENDPOINT = {"prompt": {"type": "string"}}
CATALOGUE = from_documents(
    [
        (
            "acme.toml",
            {
                "vendor": "acme",
                "checked": date(2026, 11, 22),
                "model": {
                    "paint-2": {"generations": _ENDPOINT, "snapshots": ["paint-2-2026-01-01"]},
                    "paint-1": {"generations": _ENDPOINT, "shutdown_date": date(2026, 12, 1)},
                    "paint-0": {"generations": _ENDPOINT, "retired": True},
                },
            },
        ),
        (
            "bravo.toml",
            {
                "vendor": "bravo",
                "model": {
                    "paint-2": {"generations": _ENDPOINT},
                    "paint-0": {"generations": _ENDPOINT},
                    "sketch": {"generations": _ENDPOINT},
                },
            },
        ),
    ]
)


def upstream(vendor: str, *models: str, priority: int = 0) -> UpstreamSection:
    return UpstreamSection(
        name=vendor, vendor=vendor, base_url="https://api.example/v1", models=models or ("*",), priority=priority
    )


def owners(*upstreams: UpstreamSection, **aliases: str) -> dict[str, str]:
    found = listing(CATALOGUE, upstreams, {alias.replace("_", "-"): target for alias, target in aliases.items()})
    ids = [model["id"] for model in found]
    assert ids == sorted(set(ids))
    return {model["id"]: model["owned_by"] for model in found}


def test_a_model_has_openais_shape() -> None:
    assert listing(CATALOGUE, [upstream("acme", "paint-1", "paint-2")], {}) == [
        {"id": "paint-1", "object": "model", "created": 1795305600, "owned_by": "acme", "shutdown_date": "2026-12-01"},
        {"id": "paint-2", "object": "model", "created": 1795305600, "owned_by": "acme", "shutdown_date": None},
    ]


def test_a_fact_without_a_date_counts_from_the_beginning() -> None:
    assert find(CATALOGUE, [upstream("bravo")], {}, "sketch")["created"] == 0


def test_retired_models_are_left_out_and_snapshots_are_there() -> None:
    assert owners(upstream("acme")) == dict.fromkeys(("paint-1", "paint-2", "paint-2-2026-01-01"), "acme")


def test_the_patterns_of_an_upstream_narrow_its_vendors_models() -> None:
    assert owners(upstream("acme", "paint-2*")) == {"paint-2": "acme", "paint-2-2026-01-01": "acme"}
    assert owners(upstream("acme", "PAINT-*")) == {}
    assert owners() == {}


def test_of_two_upstreams_the_preferred_one_speaks() -> None:
    acme, bravo = upstream("acme", "paint-?"), upstream("bravo", priority=1)
    assert owners(bravo, acme) == {"paint-1": "acme", "paint-2": "acme", "sketch": "bravo"}
    acme, bravo = upstream("acme", "paint-?", priority=1), upstream("bravo")
    assert owners(acme, bravo) == {"paint-0": "bravo", "paint-1": "acme", "paint-2": "bravo", "sketch": "bravo"}


def test_what_the_preferred_upstream_would_refuse_as_retired_is_not_listed_for_another() -> None:
    assert "paint-0" not in owners(upstream("acme"), upstream("bravo"))


def test_a_name_that_the_operator_wrote_out_is_listed_though_no_catalogue_knows_it() -> None:
    assert owners(upstream("acme", "my-deployment", "other-*", "paint-0")) == {"my-deployment": "acme"}
    found = find(CATALOGUE, [upstream("generic", "my-deployment")], {}, "my-deployment")
    assert found == {
        "id": "my-deployment",
        "object": "model",
        "created": 0,
        "owned_by": "generic",
        "shutdown_date": None,
    }


def test_a_name_that_some_catalogue_knows_belongs_to_who_lists_it() -> None:
    assert owners(upstream("generic", "sketch"), upstream("bravo", "sketch", priority=1)) == {"sketch": "bravo"}


def test_an_alias_is_listed_under_its_own_name_with_what_is_known_of_its_target() -> None:
    sections = [upstream("acme")]
    alias, target = (find(CATALOGUE, sections, {"old": "paint-1"}, name) for name in ("old", "paint-1"))
    assert alias == {**target, "id": "old"}
    assert alias["shutdown_date"] == "2026-12-01"


def test_an_alias_of_nothing_that_is_served_is_not_listed() -> None:
    assert "mine" not in owners(upstream("acme"), mine="paint-0")
    assert "mine" not in owners(upstream("acme", "paint-1"), mine="paint-2")
    assert "mine" not in owners(upstream("acme", "paint-*"), mine="unknown")


def test_an_alias_of_a_model_that_only_a_pattern_covers_is_listed() -> None:
    assert owners(upstream("acme", "new-*"), mine="new-thing") == {"mine": "acme"}


def test_an_alias_goes_before_a_model_of_its_name_and_is_followed_once() -> None:
    assert owners(upstream("acme", "paint-?"), upstream("bravo", "sketch"), paint_2="sketch", a="paint-2") == {
        "a": "acme",
        "paint-1": "acme",
        "paint-2": "bravo",
        "sketch": "bravo",
    }
    assert "paint-2" not in owners(upstream("acme", "paint-?"), paint_2="paint-0")


def test_an_alias_may_bring_a_retired_name_back() -> None:
    assert owners(upstream("acme", "paint-*"), paint_0="paint-2")["paint-0"] == "acme"


@pytest.mark.parametrize("model", ["nobody", "paint-0", "", "Paint-1", "paint-*"])
def test_an_unknown_model_is_not_found_in_the_apis_words(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        find(CATALOGUE, [upstream("acme")], {}, model)
    error: dict[str, Any] = caught.value.body()["error"]
    assert error == {
        "message": f"The model '{model}' does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert caught.value.status == 404


def test_a_page_of_a_model_is_not_echoed_at_any_length() -> None:
    with pytest.raises(NotFound) as caught:
        find(CATALOGUE, [upstream("acme")], {}, "x" * 10_000)
    assert len(caught.value.message) < 300


def test_the_shipped_catalogue_makes_a_page() -> None:
    page = listing(load(), [UpstreamSection(name="openai", base_url="https://api.openai.com/v1")], {})
    ids = {model["id"] for model in page}
    assert "gpt-image-2" in ids and not ids & {"dall-e-2", "dall-e-3", "gpt-image-1"}
    assert all(model["created"] > 0 and model["owned_by"] == "openai" for model in page)
