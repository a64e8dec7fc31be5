"""`/admin/v1/teams`: teams and their budgets."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.admin import listing
from proxy.admin.desk import Desk
from proxy.admin.operation import Asked, Operation, Reply

if TYPE_CHECKING:
    from proxy.keystore import KeyStore

_PATH = "/admin/v1/teams"
_ONE = f"{_PATH}/{{name}}"


def operations(desk: Desk) -> Sequence[Operation]:
    teams = _Teams(desk)
    return (
        Operation(
            name="create_team",
            method="POST",
            path=_PATH,
            summary="Make a team.",
            handle=teams.create,
            body="TeamFields",
            answer="Team",
            status=201,
        ),
        Operation(
            name="list_teams",
            method="GET",
            path=_PATH,
            summary="Teams in order of creation.",
            handle=teams.list,
            query=(*listing.PAGE, listing.ALIAS),
            answer="TeamList",
        ),
        Operation(
            name="get_team", method="GET", path=_ONE, summary="One team.", handle=teams.get, answer="TeamStanding"
        ),
        Operation(
            name="update_team",
            method="PATCH",
            path=_ONE,
            summary="Change the fields that are given; `null` takes a limit away.",
            handle=teams.update,
            body="TeamChanges",
            answer="Team",
        ),
    )


class _Teams:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, asked: Asked) -> Reply:
        return await self._desk.change(lambda store: store.create_team(asked.body, asked.actor).as_json())

    async def list(self, asked: Asked) -> Reply:
        query = asked.query
        return await self._desk.ask(
            lambda store: listing.page(
                partial(store.list_teams, alias_contains=query.get("alias", "")),
                query.get("limit", listing.USUAL),
                query.get("after"),
            )
        )

    async def get(self, asked: Asked) -> Reply:
        return await self._desk.ask(lambda store: listing.with_standing(store, store.get_team(asked.name)))

    async def update(self, asked: Asked) -> Reply:
        changes, revision = listing.revision_of(asked.body)

        def work(store: "KeyStore") -> dict[str, Any]:
            return store.update_team(asked.name, changes, asked.actor, revision=revision).as_json()

        return await self._desk.change(work)
