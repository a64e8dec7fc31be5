"""What the scripted upstream makes of a prompt and a file, as a client and the upstream itself should see it."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support.upstream_process import event_of, image_of

TOKENS = 207


def picture_of(prompt: str, partial: int | None = None) -> str:
    """SHA-256 of the picture made for a prompt, or of a partial one on the way to it."""
    if partial is None:
        return hashlib.sha256(image_of(prompt)).hexdigest()
    event = json.loads(event_of(prompt, partial).partition(b"data: ")[2])
    return hashlib.sha256(base64.b64decode(event["b64_json"])).hexdigest()


def sent(field: str, file: Path, media_type: str) -> dict[str, Any]:
    """A file as it arrives at the upstream, whatever it is called."""
    content = file.read_bytes()
    return {"field": field, "type": media_type, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def pictures_in(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of a form at the upstream, mask last, without their names."""
    files = [*body["images"], *([body["mask"]] if "mask" in body else [])]
    return [{name: value for name, value in file.items() if name != "filename"} for file in files]
