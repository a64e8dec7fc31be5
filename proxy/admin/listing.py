"""Lists in OpenAI's shape, a page at a time, and the parameters that every list has."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proxy import faults
from proxy.admin.operation import Parameter
from proxy.keyrecord import KeyRecord, TeamRecord

if TYPE_CHECKING:
    from proxy.keystore import KeyStore

USUAL, MOST = 100, 1000
LIMIT = Parameter("limit", "at most so many", {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL})


def text(name: str, help_line: str) -> Parameter:
    return Parameter(name, help_line, {"type": "string", "minLength": 1, "maxLength": 128})


PAGE = (LIMIT, text("after", "go on behind this id: `last_id` of the page before"))
ALIAS = text("alias", "those whose alias holds this text; case makes no difference in ASCII")


def page(list_them: Callable[..., Sequence[KeyRecord | TeamRecord]], limit: int, after: str | None) -> dict[str, Any]:
    """`list_them` takes `limit` and `after`."""
    found = list_them(limit=limit, after=after)
    more = len(found) == limit and bool(list_them(limit=1, after=found[-1].id))
    return listed([each.as_json() for each in found], found[-1].id if found else None, more=more)


def with_standing(store: "KeyStore", record: KeyRecord | TeamRecord) -> dict[str, Any]:
    """A record, and what it has spent of its budget."""
    return {**record.as_json(), **store.standing(record)}


def listed(data: Sequence[Any], last: str | int | None, *, more: bool) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": more, "last_id": last}


def revision_of(body: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The fields without `revision`, and that. `null` is as good as nothing."""
    fields = dict(body)
    revision = fields.pop("revision", None)
    if revision is not None and type(revision) is not int:
        raise faults.wrong_type("revision", "an integer", revision)
    return fields, revision
