"""One path of the admin API: method, token, query, body, and then the operation; refusals are raised, as everywhere."""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.admin import intake
from proxy.admin.door import Door
from proxy.admin.operation import Asked, Operation
from proxy.bodies import ClientGone, Incoming
from proxy.errors import MethodNotAllowed
from proxy.middleware import Call, call_of, headers_of
from proxy.settings import ServerSection

_KNOWN = {
    name.encode(): name
    for name in (
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "x-forwarded-for",
        "x-imagegate-actor",
    )
}


class Resource:
    """An ASGI application. `operations` by their method; where there is a GET there is a HEAD."""

    def __init__(self, path: str, operations: Mapping[str, Operation], door: Door, server: ServerSection) -> None:
        self.path = path
        self.operations = operations
        self._door = door
        self._server = server
        self._methods = [name for method in operations for name in (method, *(["HEAD"] if method == "GET" else []))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        call.route = self.path
        operation = self.operations.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if operation is None:
            raise MethodNotAllowed(
                f"Not allowed to {scope['method']} on {self.path}. It takes {' and '.join(self._methods)}.",
                headers={"allow": ", ".join(self._methods)},
            )
        try:
            asked = await self._asked(operation, scope, receive, call)
        except ClientGone:
            call.gone = True
            return
        reply = await operation.handle(asked)
        headers = {"content-type": reply.media_type, "cache-control": "no-store"}
        await Response(reply.content, operation.status, headers)(scope, receive, send)

    async def _asked(self, operation: Operation, scope: Scope, receive: Receive, call: Call) -> Asked:
        headers = headers_of(scope, _KNOWN)
        actor = "" if operation.is_public else self._door.admit(scope, headers)
        pairs = intake.pairs_of(scope["query_string"])
        query = {} if operation.reads_pairs else intake.query_of(pairs, operation.query)
        body = {}
        if operation.body is not None:
            incoming = Incoming(receive, self._server.receive_timeout_seconds)
            try:
                limit = self._server.max_json_bytes
                body = await intake.body_of(headers, incoming, limit, is_needed=operation.needs_body)
            finally:
                call.received_bytes = incoming.received_bytes
        name = next(iter(scope["path_params"].values()), "")
        return Asked(actor=actor, name=name, query=query, pairs=pairs, body=body)
