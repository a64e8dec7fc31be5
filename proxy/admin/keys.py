"""`/admin/v1/keys`: virtual keys made, listed, changed, rotated and revoked."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy import faults, keyfields
from proxy.admin import listing
from proxy.admin.desk import Desk
from proxy.admin.operation import Asked, Operation, Reply
from proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from proxy.keystore import KeyStore

_PATH = "/admin/v1/keys"
_ONE = f"{_PATH}/{{name}}"
_GRACE_SECONDS = 86_400


def operations(desk: Desk) -> Sequence[Operation]:
    keys = _Keys(desk)
    return (
        Operation(
            name="create_key",
            method="POST",
            path=_PATH,
            summary="Make a key. It is told once, as `key`.",
            handle=keys.create,
            body="KeyFields",
            answer="NewKey",
            status=201,
        ),
        Operation(
            name="list_keys",
            method="GET",
            path=_PATH,
            summary="Keys in order of creation, revoked ones too.",
            handle=keys.list,
            query=(*listing.PAGE, listing.text("team", "those of this team: its id or alias"), listing.ALIAS),
            answer="KeyList",
        ),
        # In front of what takes any name: a name may hold slashes.
        Operation(
            name="rotate_key",
            method="POST",
            path=f"{_ONE}/rotate",
            summary="A new key in the old one's place, told once; the old one works for `grace_seconds` more.",
            handle=keys.rotate,
            body="Rotation",
            needs_body=False,
            answer="NewKey",
        ),
        Operation(
            name="revoke_key",
            method="POST",
            path=f"{_ONE}/revoke",
            summary="Revoke a key for good. Doing it twice is no error.",
            handle=keys.revoke,
            body="Nothing",
            needs_body=False,
            answer="Key",
        ),
        Operation(name="get_key", method="GET", path=_ONE, summary="One key.", handle=keys.get, answer="KeyStanding"),
        Operation(
            name="update_key",
            method="PATCH",
            path=_ONE,
            summary="Change the fields that are given; `null` takes a limit away.",
            handle=keys.update,
            body="KeyChanges",
            answer="Key",
        ),
        Operation(
            name="delete_key", method="DELETE", path=_ONE, summary="The same as revoke.", handle=keys.drop, answer="Key"
        ),
    )


class _Keys:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, asked: Asked) -> Reply:
        fields, team = _with_team(asked.body)

        def work(store: "KeyStore") -> dict[str, Any]:
            record, key = store.create_key(fields, asked.actor, team=team)
            return {**record.as_json(), "key": key}

        return await self._change(work, team)

    async def list(self, asked: Asked) -> Reply:
        query = asked.query
        return await self._desk.ask(
            lambda store: listing.page(
                partial(store.list_keys, team=query.get("team"), alias_contains=query.get("alias", "")),
                query.get("limit", listing.USUAL),
                query.get("after"),
            )
        )

    async def get(self, asked: Asked) -> Reply:
        return await self._desk.ask(lambda store: listing.with_standing(store, store.get_key(asked.name)))

    async def update(self, asked: Asked) -> Reply:
        changes, revision = listing.revision_of(asked.body)
        fields, team = _with_team(changes)

        def work(store: "KeyStore") -> dict[str, Any]:
            return store.update_key(asked.name, fields, asked.actor, team=team, revision=revision).as_json()

        return await self._change(work, team)

    async def rotate(self, asked: Asked) -> Reply:
        grace = asked.body.get("grace_seconds", _GRACE_SECONDS)
        _only(asked.body, "grace_seconds")
        if type(grace) is not int:
            raise faults.wrong_type("grace_seconds", "an integer", grace)

        def work(store: "KeyStore") -> dict[str, Any]:
            record, key = store.rotate_key(asked.name, grace, asked.actor)
            return {**record.as_json(), "key": key}

        return await self._desk.change(work)

    async def revoke(self, asked: Asked) -> Reply:
        _only(asked.body)
        return await self.drop(asked)

    async def drop(self, asked: Asked) -> Reply:
        return await self._desk.change(lambda store: store.revoke_key(asked.name, asked.actor).as_json())

    async def _change(self, work: Any, team: str | None) -> Reply:
        try:
            return await self._desk.change(work)
        except InvalidRequest as error:
            if team is None or error.param != "team_alias":
                raise
            # The alias of the team that was to be made: its field has another name here.
            raise InvalidRequest(
                error.message.replace("'team_alias'", "'team'"), param="team", code=error.code
            ) from None


def _with_team(body: Any) -> tuple[dict[str, Any], str | None]:
    """The fields without `team`, which is the name of one, and that name. `null` is the same for `team` and `team_id`."""
    fields = dict(body)
    if "team" not in fields:
        return fields, None
    team = fields.pop("team")
    if team is None:
        return {"team_id": None, **fields}, None
    if not isinstance(team, str):
        raise faults.wrong_type("team", "a string", team)
    if not keyfields.is_name(team):
        raise InvalidRequest(
            "Invalid 'team': must have 1 to 128 printable characters.", param="team", code="invalid_value"
        )
    if "team_id" in fields:
        message = "Give 'team' or 'team_id', not both."
        raise InvalidRequest(message, param="team", code="mutually_exclusive_parameters")
    return fields, team


def _only(body: Any, *known: str) -> None:
    for name in body:
        if name not in known:
            raise faults.unknown(name)
