"""The shapes that OpenAI's Images API speaks: replies, events, errors and headers (API reference, 2026-11)."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy import ids
from proxy.errors import ImagegateError
from proxy.model import Usage
from proxy.sandbox.believe import Order


class Refusal(Exception):
    """An answer that is not a picture: a status, an error object, and headers that go with it."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.error = dict(error)
        self.headers = dict(headers or {})


def error_object(kind: str, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The inner error object; all four keys are always there."""
    return {"message": message, "type": kind, "param": param, "code": code}


def from_error(error: ImagegateError) -> Refusal:
    """The same answer that the proxy would give."""
    return Refusal(error.status, error.body()["error"], error.headers)


def missing_key() -> Refusal:
    message = (
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY)."
    )
    return Refusal(401, error_object("invalid_request_error", message, code="invalid_api_key"))


def wrong_key(key: str) -> Refusal:
    shown = key[:8] + "*" * max(0, min(24, len(key) - 12)) + key[-4:] if len(key) > 12 else key[:3] + "***"
    message = (
        f"Incorrect API key provided: {shown}. "
        "You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return Refusal(401, error_object("invalid_request_error", message, code="invalid_api_key"))


def unsupported_content_type(kind: str, taken: Sequence[str]) -> Refusal:
    supported = " or ".join(f"'{each}'" for each in taken)
    message = (
        f"Unsupported content type: '{kind[:100]}'. This API method only accepts {supported} requests, but "
        f"you specified the header 'Content-Type: {kind[:100]}'. Please try again with a supported content type."
    )
    return Refusal(400, error_object("invalid_request_error", message, code="unsupported_content_type"))


def too_large() -> Refusal:
    return Refusal(413, error_object("invalid_request_error", "Request body is too large."))


def rate_limited(model: str) -> Refusal:
    message = (
        f"Rate limit reached for {model} (in organization org-sandbox) on input-images per min: "
        "Limit 250, Used 250, Requested 1. Please try again in 240ms."
    )
    headers = {
        "retry-after": "1",
        "retry-after-ms": "240",
        "x-ratelimit-limit-input-images": "250",
        "x-ratelimit-remaining-input-images": "0",
        "x-ratelimit-reset-input-images": "240ms",
    }
    return Refusal(429, error_object("input-images", message, code="rate_limit_exceeded"), headers)


def server_error(request_id: str) -> Refusal:
    message = (
        "An error occurred while processing your request. You can retry your request, or contact us through our help "
        f"center at help.openai.com if the error persists. Please include the request ID {request_id} in your message."
    )
    return Refusal(500, error_object("server_error", message))


def moderation_blocked(request_id: str, stage: str) -> Refusal:
    message = (
        "Your request was rejected by the safety system. If you believe this is an error, contact us at "
        f"help.openai.com and include the request ID {request_id}. safety_violations=[violence]."
    )
    error = error_object("image_generation_user_error", message, code="moderation_blocked")
    error["moderation_details"] = {"moderation_stage": stage, "categories": ["violence"]}
    return Refusal(400, error)


def stream_failure() -> dict[str, Any]:
    """The data of an error event: the status line said 200 long ago."""
    message = "The image generation failed. Please try again."
    return {
        "type": "error",
        "error": error_object("image_generation_server_error", message, code="image_generation_failed"),
    }


def reply(order: Order, images: Sequence[bytes], urls: Sequence[str], created: int, *, usage: bool) -> bytes:
    """The body of a call that did not ask for a stream; `urls`, if any, stand in for the images themselves."""
    body: dict[str, Any] = {
        "created": created,
        "background": order.background,
        "data": [{"url": url} for url in urls] if urls else [{"b64_json": _base64(image)} for image in images],
        "output_format": order.output_format,
        "quality": order.quality,
        "size": order.size,
    }
    if usage:
        body["usage"] = usage_object(order.usage, detailed=True)
    if order.safety_identifier:
        body["safety_identifier"] = order.safety_identifier
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


def partial_event(order: Order, image: bytes, index: int, created: int) -> bytes:
    """`index` counts from 0."""
    return _event("partial_image", order, image, created, {"partial_image_index": index})


def completed_event(order: Order, image: bytes, created: int, *, usage: bool) -> bytes:
    """The last event: the whole picture and the bill."""
    more: dict[str, Any] = {"usage": usage_object(order.usage, detailed=False)} if usage else {}
    if order.safety_identifier:
        more["safety_identifier"] = order.safety_identifier
    return _event("completed", order, image, created, more)


def _event(what: str, order: Order, image: bytes, created: int, more: Mapping[str, Any]) -> bytes:
    kind = f"{order.operation}.{what}"
    data = {
        "type": kind,
        "b64_json": _base64(image),
        "created_at": created,
        "size": order.size,
        "quality": order.quality,
        "background": order.background,
        "output_format": order.output_format,
        **more,
    }
    return framed(kind, data)


def framed(kind: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event: its name, one line of JSON, an empty line."""
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def usage_object(usage: Usage, *, detailed: bool) -> dict[str, Any]:
    """Streams leave out the details of the output."""
    body: dict[str, Any] = {
        "input_tokens": usage.text_in + usage.image_in,
        "input_tokens_details": {"image_tokens": usage.image_in, "text_tokens": usage.text_in},
        "output_tokens": usage.text_out + usage.image_out,
        "total_tokens": usage.total,
    }
    if detailed:
        body["output_tokens_details"] = {"image_tokens": usage.image_out, "text_tokens": usage.text_out}
    return body


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode("ascii")


def headers(request_id: str, seconds: float, calls: int) -> dict[str, str]:
    """What surrounds every answer of the API, with the cookie and the tenant's name that must go no further."""
    left = str(max(0, 250 - calls % 250))
    return {
        "x-request-id": request_id,
        "openai-processing-ms": str(round(seconds * 1000)),
        "openai-version": "2020-10-01",
        "openai-organization": "org-sandbox",
        "x-ratelimit-limit-requests": "250",
        "x-ratelimit-remaining-requests": left,
        "x-ratelimit-reset-requests": "240ms",
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "x-content-type-options": "nosniff",
        "cf-cache-status": "DYNAMIC",
        "cf-ray": hashlib.sha256(request_id.encode()).hexdigest()[:16] + "-SBX",
        "set-cookie": f"__cf_bm={ids.instance_id()}; path=/; HttpOnly; Secure; SameSite=None",
    }
