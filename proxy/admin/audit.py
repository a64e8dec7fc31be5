"""`/admin/v1/audit`: who changed what, the newest first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.admin import listing
from proxy.admin.desk import Desk
from proxy.admin.operation import Asked, Operation, Parameter, Reply

if TYPE_CHECKING:
    from proxy.keystore import KeyStore

_LAST_LINE = 2**63 - 1
_BEFORE = Parameter(
    "before",
    "go on with what is older than this id: `last_id` of the page before",
    {"type": "integer", "minimum": 1, "maximum": _LAST_LINE},
)


def operations(desk: Desk) -> Sequence[Operation]:
    async def read(asked: Asked) -> Reply:
        limit = asked.query.get("limit", listing.USUAL)

        def work(store: "KeyStore") -> dict[str, Any]:
            target = asked.query.get("target")
            lines = store.audit(limit=limit, before=asked.query.get("before"), target=target)
            last = lines[-1].id if lines else None
            more = len(lines) == limit and last != 1 and bool(store.audit(limit=1, before=last, target=target))
            return listing.listed([line._asdict() for line in lines], last, more=more)

        return await desk.ask(work)

    return (
        Operation(
            name="list_audit",
            method="GET",
            path="/admin/v1/audit",
            summary="Who changed what, the newest first.",
            handle=read,
            query=(listing.LIMIT, _BEFORE, listing.text("target", "of the key or team of this id or alias")),
            answer="AuditList",
        ),
    )
