"""Addresses in settings: hosts, networks, URLs, origins, and what the proxy listens on."""

import ipaddress
import re
from typing import Any, cast
from urllib.parse import urlsplit

from proxy.kinds import Kind, Place, Refused, many, toml_text

_SQLITE = "sqlite:///"
_DATABASE = re.compile(r"sqlite:///[^\0\r\n]+|postgres(ql)?://[\x21-\x7e]+")
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(
            r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", text
        ) is not None and not re.fullmatch(r"[\d.]+", text)
    return True


def is_authority(text: str) -> bool:
    """A host, with or without a port, as a `Host` header names it (RFC 9110 §7.2)."""
    return _AUTHORITY.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9090` or `[::1]:9090`. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):(\d{1,5})", text, re.ASCII)
    if match is None or not is_host(match[1] or match[2]) or int(match[3]) > 65_535:
        raise ValueError("must be host:port")
    return match[1] or match[2], int(match[3])


def _read_host(raw: Any, place: Place) -> str:
    if not isinstance(raw, str) or not is_host(raw):
        raise Refused("must be an IP address or a host name, without scheme or port")
    return raw


def _read_network(raw: Any, place: Place) -> str:
    if not isinstance(raw, str):
        raise Refused("must be a list of addresses or networks such as 10.0.0.0/8")
    try:
        return str(ipaddress.ip_network(raw))
    except ValueError as error:
        raise Refused(f"{raw!r} is not an address or a network such as 10.0.0.0/8") from error


def _read_url(raw: Any, place: Place) -> str:
    """An http(s) URL without a trailing slash. What was written is not repeated: it may hold a credential."""
    if not isinstance(raw, str) or re.fullmatch(r"[\x21-\x7e]+", raw) is None:
        raise Refused("must be an http or https URL")
    try:
        parts = urlsplit(raw)
        port = parts.port
    except ValueError as error:
        raise Refused("must be an http or https URL with a valid host and port") from error
    if parts.scheme not in {"http", "https"} or not is_host(parts.hostname or "") or port == 0:
        raise Refused("must be an http or https URL with a host")
    if "@" in parts.netloc:
        raise Refused("must not hold a credential")
    if "?" in raw or "#" in raw:
        raise Refused("must not hold a query or a fragment")
    return raw.rstrip("/")


def _read_optional_url(raw: Any, place: Place) -> str:
    return "" if raw == "" else _read_url(raw, place)


def _read_origin(raw: Any, place: Place) -> str:
    if raw == "*":
        return "*"
    url = _read_url(raw, place)
    if urlsplit(url).path or raw != url:
        raise Refused("must be origins such as https://app.example.org, without a path, or *")
    return url


def _read_listen(raw: Any, place: Place) -> str:
    try:
        if raw != "":
            listen_address(raw)
    except (TypeError, ValueError) as error:
        raise Refused("must be host:port, such as 127.0.0.1:9090 or [::1]:9090") from error
    return cast(str, raw)


def _without_login(url: str) -> str:
    """SQLite has no login; of other databases only the kind is shown, because a password may stand anywhere."""
    return url if url.startswith("sqlite") else url.partition("://")[0] + "://…"


def _read_database_url(raw: Any, place: Place) -> str:
    """With the path of a SQLite file counted from the place's folder, as every path. Nothing of it is repeated."""
    if not isinstance(raw, str) or _DATABASE.fullmatch(raw) is None:
        raise Refused("must be sqlite:///path/to/file.db or postgresql://user:password@host/database")
    path = raw.removeprefix(_SQLITE)
    if path in {"/", ":memory:"} or path.endswith("/"):
        raise Refused("must name a file: a database in memory would forget its keys")
    return f"{_SQLITE}{place.folder / path}" if raw.startswith(_SQLITE) else raw


HOST = Kind("a host", _read_host)
NETWORKS = many("networks", _read_network)
ORIGINS = many("origins", _read_origin)
LISTEN = Kind("host:port or empty", _read_listen)
URL = Kind("an http or https URL", _read_url)
OPTIONAL_URL = Kind("a URL or empty", _read_optional_url)
DATABASE_URL = Kind(
    "a database URL",
    _read_database_url,
    shown=_without_login,
    toml=lambda url: toml_text(_without_login(url)),
)
