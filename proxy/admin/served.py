"""Every operation of the admin API, and the routes that they make."""

from collections.abc import Sequence

from starlette.routing import Route

from proxy.admin import audit, cache, keys, openapi, teams, usage
from proxy.admin.attempts import Attempts
from proxy.admin.desk import Desk
from proxy.admin.door import Door
from proxy.admin.operation import Operation
from proxy.admin.parts import AdminParts
from proxy.admin.resource import Resource


def routes(parts: AdminParts) -> list[Route]:
    """Of `/admin/v1` and `/v1/organization`, in an order in which no path hides another."""
    door = Door(parts.settings, Attempts(parts.clock), parts.metrics)
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations(parts):
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [
        # Names have slashes in them if they like; clients percent-encode those.
        Route(path.replace("{name}", "{name:path}"), Resource(path, by_method, door, parts.settings.server))
        for path, by_method in by_path.items()
    ]


def operations(parts: AdminParts) -> Sequence[Operation]:
    desk = Desk(parts)
    served = [
        *keys.operations(desk),
        *teams.operations(desk),
        *audit.operations(desk),
        *cache.operations(desk, parts.settings.cache.directory, parts.clock),
        *usage.operations(desk, parts.clock),
    ]
    return [*served, openapi.operation(served)]
