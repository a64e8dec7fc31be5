"""Takes in a reply: its body into a spool, or an error as it came."""

import json
import re
from collections.abc import Mapping

from proxy import mediatype
from proxy.errors import UpstreamConnectionLost, UpstreamInvalidResponse, UpstreamRefusal
from proxy.spool import Spool
from proxy.upstream.slots import ReceiveSlots
from proxy.upstream.wire import Reply

REPLY_BYTES_PER_IMAGE = 64 * 1024 * 1024
"""The largest picture of any model, 8.3 megapixels of RGBA that do not compress, is 44 MB in base64."""
MAX_REFUSAL_BYTES = 1 << 20

_JSON = "application/json"
_RELAYED = ("openai-processing-ms", "openai-version")
_RELAYED_WITH_REFUSALS = ("retry-after", "retry-after-ms", "x-should-retry")
_RELAYED_PREFIX = "x-ratelimit-"
_MAX_RELAYED_BYTES = 256
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_UNREAD = (
    b'{"error":{"message":"The upstream\'s error could not be read.","type":"server_error","param":null,"code":null}}'
)


async def receive(reply: Reply, spool: Spool, slots: ReceiveSlots, *, images: int) -> None:
    """Reads the body of a 200 into the spool, which is not finished yet when its last byte has arrived.

    Raises UpstreamInvalidResponse when it is no JSON or too large, UpstreamConnectionLost when it ends early.
    """
    limit = reply_limit(images)
    if not mediatype.is_json(mediatype.of(reply.headers)):
        raise UpstreamInvalidResponse("The upstream answered 200 with something that is not JSON.")
    if (reply.announced_bytes or 0) > limit:
        raise UpstreamInvalidResponse(f"The upstream's reply is larger than {limit} bytes.")
    async with slots.receiving() as slot:
        async for chunk in reply.chunks(limit):
            await slot.moved(len(chunk))
            await spool.write_behind(chunk)


def reply_limit(images: int) -> int:
    """The most bytes of a reply with so many images."""
    return REPLY_BYTES_PER_IMAGE * max(1, images)


def is_refusal(reply: Reply) -> bool:
    """Anything else that is no 200 is no answer to a request."""
    return 400 <= reply.status <= 599


async def refusal(reply: Reply, *, secret: str | None) -> UpstreamRefusal:
    """The upstream's own error, to be passed on as it came, but for our key if the upstream quotes it in full."""
    try:
        content = b"".join([chunk async for chunk in reply.chunks(MAX_REFUSAL_BYTES)])
    except (UpstreamConnectionLost, UpstreamInvalidResponse):
        return unread_refusal(reply)
    if secret:
        content = content.replace(secret.encode(), b"[our key]")
    media_type = reply.headers.get("content-type", _JSON)
    told = UpstreamRefusal(reply.status, content, media_type, relayed_with_id(reply.headers, refused=True))
    told.type, told.code = _names_in(content)
    return told


def _names_in(content: bytes) -> tuple[str, str | None]:
    """The upstream's own type and code for what is wrong, as far as they are fit for a log."""
    try:
        error = json.loads(content)["error"]
        found = [error.get(name) for name in ("type", "code")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = [None, None]
    kind, code = (name if isinstance(name, str) and _NAME.fullmatch(name) else None for name in found)
    return kind or UpstreamRefusal.type, code


def unread_refusal(reply: Reply) -> UpstreamRefusal:
    """The upstream said no; why, did not arrive."""
    return UpstreamRefusal(reply.status, _UNREAD, _JSON, relayed_with_id(reply.headers, refused=True))


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The upstream's own request id, if it is fit for a header and a log."""
    value = headers.get("x-request-id")
    return value if value and len(value) <= 128 and value.isascii() and value.isprintable() else None


def relayed(headers: Mapping[str, str], *, refused: bool = False) -> dict[str, str]:
    """The headers of one upstream reply that may reach the caller who paid for it; an allow-list.

    What the body is called is not among them: whoever writes the body says what it is.
    """
    names = _RELAYED + (_RELAYED_WITH_REFUSALS if refused else ())
    return {
        name: value
        for name, value in headers.items()
        if (name in names or name.startswith(_RELAYED_PREFIX)) and _is_fit(name, value)
    }


def relayed_with_id(headers: Mapping[str, str], *, refused: bool = False) -> dict[str, str]:
    """The same, with the upstream's request id: for where no stored reply is there to name it."""
    request_id = request_id_of(headers)
    own = {"x-imagegate-upstream-request-id": request_id} if request_id else {}
    return {**relayed(headers, refused=refused), **own}


def content_type_of(headers: Mapping[str, str]) -> str:
    """What the upstream calls the body of its reply, if that is fit to be relayed."""
    value = headers.get("content-type", _JSON)
    return value if _is_fit("content-type", value) else _JSON


def _is_fit(name: str, value: str) -> bool:
    return len(name) + len(value) <= _MAX_RELAYED_BYTES and value.isascii() and value.isprintable()
