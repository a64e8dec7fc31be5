"""Where a call goes and with which key: one table, and no model's name can lead it anywhere else."""

from urllib.parse import unquote, urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy import vendors
from proxy.errors import UnsupportedByModel
from proxy.model import Operation
from proxy.settings import UpstreamSection

GENERATION, EDIT = Operation.GENERATION, Operation.EDIT
AZURE = "https://r.openai.azure.com"
FOUNDRY = "https://r.services.ai.azure.com/api/projects/p"


def target(vendor: str, base_url: str, operation: Operation, model: str = "gpt-image-2", version: str = "") -> str:
    section = UpstreamSection(name="u", vendor=vendor, base_url=base_url, api_version=version)
    return vendors.of(vendor).target(section, operation, model)


@pytest.mark.parametrize("vendor", ["openai", "apiyi", "xai", "together", "generic", "my-own"])
def test_most_vendors_have_openai_s_paths(vendor: str) -> None:
    assert target(vendor, "https://api.example/v1", GENERATION) == "https://api.example/v1/images/generations"
    assert target(vendor, "https://api.example/v1/", EDIT) == "https://api.example/v1/images/edits"


@pytest.mark.parametrize(
    ("base_url", "operation", "version", "expected"),
    [
        (f"{AZURE}/openai/v1", GENERATION, "", f"{AZURE}/openai/v1/images/generations?api-version=preview"),
        (f"{AZURE}/openai/v1/", EDIT, "", f"{AZURE}/openai/v1/images/edits?api-version=preview"),
        (f"{AZURE}/openai/v1", GENERATION, "v1", f"{AZURE}/openai/v1/images/generations?api-version=v1"),
        (f"{FOUNDRY}/openai/v1", GENERATION, "", f"{FOUNDRY}/openai/v1/images/generations?api-version=preview"),
        (AZURE, GENERATION, "", f"{AZURE}/openai/deployments/d/images/generations?api-version=2025-04-01-preview"),
        (f"{AZURE}/", EDIT, "", f"{AZURE}/openai/deployments/d/images/edits?api-version=2025-04-01-preview"),
        (f"{AZURE}/openai", EDIT, "2026-01-01", f"{AZURE}/openai/deployments/d/images/edits?api-version=2026-01-01"),
    ],
)
def test_azure_has_two_kinds_of_addresses(base_url: str, operation: Operation, version: str, expected: str) -> None:
    assert target("azure", base_url, operation, "d", version) == expected


@pytest.mark.parametrize(
    ("model", "segment"),
    [
        ("my-images", "my-images"),
        ("gpt-image-1.5", "gpt-image-1.5"),
        ("a b", "a%20b"),
        ("a/b?c=d#e", "a%2Fb%3Fc%3Dd%23e"),
        ("%2e%2e", "%252e%252e"),
        ("...", "..."),
    ],
)
def test_a_deployment_is_one_segment_of_the_path(model: str, segment: str) -> None:
    assert f"/deployments/{segment}/images/" in target("azure", AZURE, GENERATION, model)


@pytest.mark.parametrize("model", ["", ".", "..", "a/..", "../b", "a/../../b", "a//b", "..\\b", "a/./b"])
def test_a_deployment_that_would_be_read_as_a_step_up_does_not_exist(model: str) -> None:
    with pytest.raises(UnsupportedByModel, match="does not exist") as caught:
        target("azure", AZURE, GENERATION, model)
    assert (caught.value.param, caught.value.code) == ("model", "invalid_value")


@given(st.text(st.characters() | st.sampled_from("./\\%?#&;:@ "), max_size=30), st.sampled_from(list(Operation)))
@example("\ud800", GENERATION)
@example("..;/..", GENERATION)
def test_no_model_can_leave_its_place_in_the_path_or_add_to_the_query(model: str, operation: Operation) -> None:
    try:
        url = target("azure", AZURE, operation, model)
    except UnsupportedByModel:
        return
    place = operation.value.removeprefix("image_") + "s"
    for path, query in ((urlsplit(url).path, urlsplit(url).query), _as_sent(url)):
        empty, openai, deployments, segment, images, last = path.split("/")
        assert (empty, openai, deployments, images, last) == ("", "openai", "deployments", "images", place)
        assert unquote(segment, errors="surrogatepass") == model
        assert query == "api-version=2025-04-01-preview"
    assert urlsplit(url).netloc == "r.openai.azure.com"
    assert not urlsplit(url).fragment


@given(st.text(max_size=30))
def test_a_model_in_the_body_is_no_part_of_the_address(model: str) -> None:
    for vendor in ("openai", "xai", "together", "generic"):
        assert target(vendor, "https://api.example/v1", GENERATION, model).endswith("/v1/images/generations")
    assert target("azure", f"{AZURE}/openai/v1", GENERATION, model).endswith("/generations?api-version=preview")


@pytest.mark.parametrize("vendor", ["openai", "apiyi", "xai", "together", "generic", "my-own"])
def test_most_vendors_take_the_key_as_a_bearer_token(vendor: str) -> None:
    assert vendors.of(vendor).key_header("k") == ("authorization", "Bearer k")


def test_azure_takes_the_key_in_a_header_of_its_own() -> None:
    assert vendors.of("azure").key_header("k") == ("api-key", "k")


def _as_sent(url: str) -> tuple[str, str]:
    """Path and query as the client puts them on the wire, after whatever it normalises."""
    path, _, query = httpx.URL(url).raw_path.decode("ascii").partition("?")
    return path, query
