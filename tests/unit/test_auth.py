"""Authentication: in passthrough a share of the cache is named by the credential itself, and by nothing weaker."""

import itertools

import pytest

from proxy.auth import Authenticator
from proxy.errors import Unauthenticated

PASSTHROUGH = Authenticator("passthrough", b"secret")
KEY = "Bearer sk-example-1"


def test_the_credential_is_carried_as_it_came() -> None:
    headers = {"authorization": KEY, "openai-organization": "org-1", "openai-project": "proj-1", "cookie": "a=b"}
    credential = PASSTHROUGH.authenticate(headers).credential
    assert credential is not None
    assert (credential.header, credential.value) == ("authorization", KEY)
    assert (credential.organization, credential.project) == ("org-1", "proj-1")


def test_an_api_key_header_is_a_credential_too_but_authorization_goes_before_it() -> None:
    only = PASSTHROUGH.authenticate({"api-key": "k"}).credential
    both = PASSTHROUGH.authenticate({"api-key": "k", "authorization": KEY}).credential
    assert only is not None
    assert both is not None
    assert (only.header, only.value, both.value) == ("api-key", "k", KEY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "   "},
        {"authorization": "Bearer"},
        {"authorization": "bearer  "},
        {"api-key": ""},
        {"api-key": " "},
        {"x-api-key": "k"},
        {"openai-organization": "org-1"},
    ],
)
def test_without_a_credential_there_is_no_entry(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        PASSTHROUGH.authenticate(headers)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_every_part_of_a_credential_names_another_scope() -> None:
    callers: list[dict[str, str]] = [
        {"authorization": KEY},
        {"authorization": "Bearer sk-example-2"},
        {"api-key": KEY},
        {"authorization": KEY, "openai-organization": "a"},
        {"authorization": KEY, "openai-project": "a"},
        {"authorization": KEY, "openai-organization": "a", "openai-project": "b"},
        {"authorization": KEY, "openai-organization": "ab"},
        {"authorization": KEY + "a"},
    ]
    scopes = [PASSTHROUGH.authenticate(caller).scope for caller in callers]
    assert all(one != other for one, other in itertools.combinations(scopes, 2))
    assert scopes == [PASSTHROUGH.authenticate(dict(caller)).scope for caller in callers]


def test_a_scope_says_nothing_without_the_secret() -> None:
    other = Authenticator("passthrough", b"another").authenticate({"authorization": KEY}).scope
    mine = PASSTHROUGH.authenticate({"authorization": KEY}).scope
    assert mine != other
    assert len(mine) == 64
    assert int(mine, 16)


def test_a_credential_of_any_bytes_that_a_header_can_hold_has_a_scope() -> None:
    assert PASSTHROUGH.authenticate({"authorization": "Bearer ÿé"}).scope


def test_a_principal_never_shows_its_credential() -> None:
    principal = PASSTHROUGH.authenticate({"authorization": KEY})
    assert "sk-example" not in repr(principal)
    assert "sk-example" not in principal.scope


def test_open_lets_everybody_in_as_one_and_forwards_no_credential() -> None:
    door = Authenticator("open", b"secret")
    one, other = door.authenticate({}), door.authenticate({"authorization": KEY})
    assert one == other
    assert one.credential is None
    assert one.scope != PASSTHROUGH.authenticate({"authorization": "open"}).scope
