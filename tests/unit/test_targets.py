"""Paths: whose calls of the Images API they are."""

import pytest

from proxy.model import Operation
from proxy.targets import Target, target_of

GENERATION, EDIT = Operation.GENERATION, Operation.EDIT


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/images/generations", Target(GENERATION)),
        ("/images/generations", Target(GENERATION)),
        ("/v1/images/edits", Target(EDIT)),
        ("/images/edits", Target(EDIT)),
        ("/openai/v1/images/generations", Target(GENERATION)),
        ("/openai/v1/images/edits", Target(EDIT)),
        ("/openai/deployments/gpt-image-2/images/generations", Target(GENERATION, "gpt-image-2")),
        ("/openai/deployments/my deployment/images/edits", Target(EDIT, "my deployment")),
    ],
)
def test_a_path_names_a_call(path: str, target: Target) -> None:
    assert target_of(path) == target
    assert target.route in ("/v1/images/generations", "/v1/images/edits")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/images",
        "/v1/images/variations",
        "/v1/images/generations/",
        "/v1/v1/images/generations",
        "/v2/images/generations",
        "/openai/deployments//images/generations",
        "/openai/deployments/a/b/images/generations",
        "/openai/deployments/a/images/variations",
        "/v1/images/generations\n",
    ],
)
def test_other_paths_are_none(path: str) -> None:
    assert target_of(path) is None
