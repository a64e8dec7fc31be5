"""A value that is never shown, and how settings refer to it: by a variable's or a file's name."""

import hmac
import json
import re
from pathlib import Path
from typing import Any, Literal, cast

from proxy.kinds import Kind, Place, Refused, file_path


class Secret:
    """A value that is shown to nobody: only `reveal()` gives it. `origin` says where it was read, as TOML."""

    __hash__ = None  # type: ignore[assignment]  # a hash would be a fingerprint
    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: tuple[Literal["env", "file"], str] | None = None) -> None:
        self._value = value
        self.origin = origin

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())


def _read_secret(raw: Any, place: Place) -> Secret | None:
    """A secret by reference; None if the variable it names is not set. No message repeats what was found."""
    reference = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else ("", "")
    source, name = reference
    if source not in {"env", "file"} or not isinstance(name, str) or not name:
        raise Refused('secrets are written by reference: { env = "NAME" } or { file = "/path" }')
    if source == "env":
        value = place.environ.get(name, "").strip()
        if not value:
            return None
    else:
        name = str(file_path(name, place))
        try:
            value = Path(name).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise Refused("the file it names cannot be read") from None
        if not value:
            raise Refused("the file it names is empty")
    if re.fullmatch(r"[\x21-\x7e]+", value) is None:
        raise Refused("holds spaces or characters that no header may carry")
    return Secret(value, (cast(Literal["env", "file"], source), name))


def _read_needed_secret(raw: Any, place: Place) -> Secret | None:
    secret = _read_secret(raw, place)
    if secret is None and place.needs_secrets:
        raise Refused(f"the variable {raw['env']} is not set")
    return secret


def _mask(secret: Secret | None) -> str:
    if secret is None:
        return "unset"
    return f"set ({' '.join(secret.origin)})" if secret.origin else "set"


def _toml_of_secret(secret: Secret) -> str:
    source, name = secret.origin or ("env", "…")
    return f"{{ {source} = {json.dumps(name)} }}"


SECRET = Kind('{ env = "NAME" } or { file = "/path" }', _read_secret, shown=_mask, toml=_toml_of_secret)
"""None if the variable is not set: a key that only one mode needs."""
NEEDED_SECRET = Kind('{ env = "NAME" } or { file = "/path" }', _read_needed_secret, shown=_mask, toml=_toml_of_secret)
"""Who refers to it means it: without the variable, one replica would go on with a secret of its own."""
