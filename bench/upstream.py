"""A fast upstream to measure against: every call gets an image reply of a fixed size after a fixed latency, and is counted.

    python bench/upstream.py --port 9100 --bytes 3000000 --latency 0.05

`GET /calls` gives the number of calls so far. The picture is noise behind a PNG signature: nobody looks at it.
"""

import argparse
import asyncio
import base64
import os


def reply_of(size: int) -> bytes:
    """A whole HTTP response whose JSON body has about `size` bytes."""
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(max(3, size * 3 // 4))
    text = base64.b64encode(picture[: len(picture) // 3 * 3])
    usage = b'{"input_tokens":10,"output_tokens":1756,"total_tokens":1766}'
    body = b'{"created":1790000000,"data":[{"b64_json":"%s"}],"usage":%s}' % (text, usage)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


class Upstream:
    """Keep-alive, no parsing beyond what finds the end of a request."""

    def __init__(self, reply: bytes, latency: float) -> None:
        self.reply = reply
        self.latency = latency
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET"):
                    text = b"%d" % self.calls
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
                    continue
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.calls += 1
                if self.latency:
                    await asyncio.sleep(self.latency)
                writer.write(self.reply)
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
    options = parser.parse_args()
    upstream = Upstream(reply_of(options.bytes), options.latency)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", options.port, limit=1 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
