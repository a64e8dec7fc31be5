"""The official Python SDK in a process of its own: reads one call a line from stdin, writes what came of it to stdout.

One text for every major version of the SDK, and for both of its clients: `images.py sync` and `images.py async`.
"""

import asyncio
import base64
import hashlib
import inspect
import json
import sys
from typing import Any

import openai

CLIENTS: dict[tuple[str, bool], Any] = {
    ("sync", False): openai.OpenAI,
    ("async", False): openai.AsyncOpenAI,
    ("sync", True): openai.AzureOpenAI,
    ("async", True): openai.AsyncAzureOpenAI,
}


async def done(result: Any) -> Any:
    """The result itself, from the one client and from the other."""
    return await result if inspect.isawaitable(result) else result


def digest(picture: str) -> str:
    return hashlib.sha256(base64.b64decode(picture)).hexdigest()


def with_files(request: dict[str, Any]) -> dict[str, Any]:
    """The request with open files in the places of their paths; they are closed when it is forgotten."""
    opened = dict(request)
    for name in ("image", "mask"):
        paths = opened.get(name)
        if isinstance(paths, list):
            opened[name] = [open(path, "rb") for path in paths]  # noqa: SIM115 - for the time of the call
        elif paths is not None:
            opened[name] = open(paths, "rb")  # noqa: SIM115
    return opened


async def whole(raw: Any) -> dict[str, Any]:
    reply = await done(raw.parse())
    return {
        "pictures": [digest(item.b64_json) for item in reply.data if item.b64_json],
        "urls": [item.url for item in reply.data if item.url],
        "cache": raw.headers.get("x-imagegate-cache"),
        "tokens": reply.usage.total_tokens if reply.usage else None,
        "request_id": reply._request_id,
    }


async def streamed(stream: Any, events: list[dict[str, Any]]) -> dict[str, Any]:
    def told(event: Any) -> dict[str, Any]:
        usage = getattr(event, "usage", None)
        return {
            "type": event.type,
            "index": getattr(event, "partial_image_index", None),
            "picture": digest(event.b64_json),
            "tokens": usage.total_tokens if usage else None,
        }

    if hasattr(stream, "__aiter__"):
        async for event in stream:
            events.append(told(event))
    else:
        events.extend(map(told, stream))
    return {}


async def made(client: Any, call: str, request: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    match call:
        case "models":
            listed = client.models.list()
            return {
                "ids": [model.id async for model in listed] if hasattr(listed, "__aiter__") else [m.id for m in listed]
            }
        case "model":
            return {"model": (await done(client.models.retrieve(**request))).model_dump()}
        case "stream":
            return await streamed(await done(client.images.generate(**request, stream=True)), events)
        case "edit":
            return await whole(await done(client.images.with_raw_response.edit(**with_files(request))))
        case "stream_edit":
            return await streamed(await done(client.images.edit(**with_files(request), stream=True)), events)
        case _:
            return await whole(await done(client.images.with_raw_response.generate(**request)))


async def outcome(kind: str, asked: dict[str, Any]) -> dict[str, Any]:
    options = {"api_key": "sk-of-the-python-sdk", **asked["options"]}
    is_azure = "azure_endpoint" in options
    client = CLIENTS[kind, is_azure](**({} if is_azure else {"base_url": asked["base_url"]}), **options)
    events: list[dict[str, Any]] = []
    try:
        return {"ok": True, "events": events, **await made(client, asked["call"], asked["request"], events)}
    except Exception as error:  # whatever an application would have to catch
        response = getattr(error, "response", None)
        told = {name: getattr(error, name, None) for name in ("type", "param", "code")}
        return {
            "ok": False,
            "events": events,
            "name": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "message": str(error),
            "error": getattr(error, "body", None),
            "headers": dict(response.headers) if response is not None else {},
            **told,
        }
    finally:
        await done(client.close())


for line in sys.stdin:
    print(json.dumps(asyncio.run(outcome(sys.argv[1], json.loads(line)))), flush=True)  # noqa: T201 - it is read there
