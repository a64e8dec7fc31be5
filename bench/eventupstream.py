"""An upstream whose replies are streams of events, of a fixed size, after a fixed latency and at a fixed pace.

    python bench/eventupstream.py --port 9100 --bytes 3000000 --latency 0.05

A call with `stream: true` gets events, the first after the latency, each other one `--gap` later; any other call gets its
image after the latency. `GET /calls` gives the number of calls so far. The picture is noise behind a PNG signature.
"""

import argparse
import asyncio
import base64
import json
import os
from collections.abc import Sequence

USAGE = b'{"input_tokens":10,"output_tokens":1756,"total_tokens":1766}'


def reply_of(size: int) -> bytes:
    """A whole HTTP response whose JSON body has about `size` bytes."""
    body = b'{"created":1790000000,"data":[{"b64_json":"%s"}],"usage":%s}' % (_picture(size), USAGE)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


def events_of(size: int, partials: int) -> list[bytes]:
    """A chunked HTTP response of partial images and a whole one, about `size` bytes each, cut where a pause may be."""
    events = [_event("partial_image", b'"partial_image_index":%d' % index, size) for index in range(partials)]
    events.append(_event("completed", b'"usage":%s' % USAGE, size))
    parts = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    parts[0] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + parts[0]
    parts[-1] += b"0\r\n\r\n"
    return parts


def _event(kind: str, member: bytes, size: int) -> bytes:
    name = f"image_generation.{kind}".encode()
    data = b'{"type":"%s","b64_json":"%s","created_at":1790000000,%s}' % (name, _picture(size), member)
    return b"event: %s\ndata: %s\n\n" % (name, data)


def _picture(size: int) -> bytes:
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(max(3, size * 3 // 4))
    return base64.b64encode(picture[: len(picture) // 3 * 3])


class Upstream:
    """Keep-alive, no parsing beyond what finds the end of a request."""

    def __init__(self, reply: bytes, events: Sequence[bytes], latency: float, gap: float) -> None:
        self.reply = reply
        self.events = events
        self.latency = latency
        self.gap = gap
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    text = b"%d" % self.calls
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
                    continue
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                self.calls += 1
                if self.latency:
                    await asyncio.sleep(self.latency)
                for number, part in enumerate(self.events if asked.get("stream") else (self.reply,)):
                    if number:
                        await asyncio.sleep(self.gap)
                    writer.write(part)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bytes", type=int, default=3_000_000)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--partials", type=int, default=2)
    parser.add_argument("--gap", type=float, default=0.0)
    options = parser.parse_args()
    events = events_of(options.bytes, options.partials)
    upstream = Upstream(reply_of(options.bytes), events, options.latency, options.gap)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", options.port, limit=1 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
