"""Bodies of multipart/form-data as clients write them, and as no client should."""

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"


@dataclass(frozen=True)
class FormPart:
    """One part as it goes on the wire: its header lines, and its bytes."""

    headers: Sequence[str]
    content: bytes

    def encoded(self) -> bytes:
        return "".join(f"{line}\r\n" for line in self.headers).encode() + b"\r\n" + self.content


def text(name: str, value: str) -> FormPart:
    return FormPart([f'Content-Disposition: form-data; name="{name}"'], value.encode())


def file(name: str, content: bytes, media_type: str | None = "image/png", filename: str | None = "upload") -> FormPart:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return FormPart([disposition, *([f"Content-Type: {media_type}"] if media_type else [])], content)


def form(*parts: FormPart, boundary: str = BOUNDARY) -> bytes:
    delimiter = b"--" + boundary.encode()
    return b"".join(delimiter + b"\r\n" + part.encoded() + b"\r\n" for part in parts) + delimiter + b"--\r\n"


def content_type(boundary: str = BOUNDARY) -> str:
    return f'multipart/form-data; boundary="{boundary}"'


async def chunked(body: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    """The body as it arrives."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


async def cut_at(body: bytes, places: Sequence[int]) -> AsyncIterator[bytes]:
    """The body in chunks that end at the given places."""
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    for start, stop in itertools.pairwise(edges):
        yield body[start:stop]
