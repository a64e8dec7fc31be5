"""`/admin/v1/openapi.json`: the operations as an OpenAPI 3.1 document."""

import re
from collections.abc import Sequence
from typing import Any

from proxy import __version__
from proxy.admin.operation import Asked, Operation, Parameter, Reply, encoded
from proxy.admin.schemas import SCHEMAS

_DESCRIPTION = (
    "Keys, teams, the audit log, the cache and what was spent. Names in paths are ids or aliases, percent-encoded. "
    "Send X-Imagegate-Actor with a name to have it in the audit log."
)
_REFUSALS = {
    400: "The request cannot be understood, or a value will not do; `param` names it.",
    401: "The admin token is wrong or missing.",
    403: "No admin token is configured: the admin API is off.",
    404: "There is nothing of this name.",
    408: "The body did not arrive in time.",
    413: "The body is larger than `server.max_json_bytes`.",
    415: "The body is not plain JSON.",
    429: "Too many attempts with a wrong token from this address; `Retry-After` says how long to wait.",
    503: "The database, or the cache, cannot be used right now.",
}


def operation(served: Sequence[Operation]) -> Operation:
    async def read(asked: Asked) -> Reply:
        return reply

    itself = Operation(
        name="get_openapi",
        method="GET",
        path="/admin/v1/openapi.json",
        summary="This document. It takes no token.",
        handle=read,
        answer="Document",
        is_public=True,
    )
    reply = Reply(encoded(document([*served, itself])))
    return itself


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "imagegate admin API", "version": __version__, "description": _DESCRIPTION},
        "security": [{"adminToken": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "adminToken": {"type": "http", "scheme": "bearer", "description": "The value of `auth.admin_token`."}
            },
            "schemas": SCHEMAS,
        },
    }


def _described(each: Operation) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", each.path)
    found: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "parameters": [*map(_in_path, names), *map(_in_query, each.query)],
        "responses": {
            str(each.status): _response("Done.", each.answer, each.media_types),
            **{str(status): _response(_REFUSALS[status], "Error") for status in _refusals(each, names)},
        },
    }
    if each.body is not None:
        content = {"application/json": {"schema": _reference(each.body)}}
        found["requestBody"] = {"required": each.needs_body, "content": content}
    if each.is_public:
        found["security"] = []
    return found


def _refusals(each: Operation, names: Sequence[str]) -> Sequence[int]:
    if each.is_public:
        return (400,)
    of_body = (408, 413, 415) if each.body is not None else ()
    finds = names or {"team", "key", "target"} & {parameter.name for parameter in each.query}
    return (400, 401, 403, *((404,) if finds else ()), *of_body, 429, 503)


def _response(text: str, schema: str, media_types: Sequence[str] = ("application/json",)) -> dict[str, Any]:
    content = {
        media_type: {"schema": _reference(schema) if media_type == "application/json" else {"type": "string"}}
        for media_type in media_types
    }
    return {"description": text, "content": content}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.help,
        "required": parameter.is_needed,
        "schema": parameter.schema,
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
