"""All configuration: one frozen section per TOML table, read from defaults, then a file, then the environment.

The law of the module: what is accepted here is acted upon; every problem is reported at once, with its path; and no
message, repr or description ever holds a secret.
"""

import difflib
import functools
import hmac
import ipaddress
import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from proxy.errors import ConfigurationError
from proxy.model import Rendering

PREFIX = "IMAGEGATE_"
VENDORS = ("openai", "apiyi")
"""The vendors of the catalogue that is shipped; `rules.catalogue` may add others."""

_OPENAI_URL = "https://api.openai.com/v1"
_CENTURY_SECONDS = 100 * 365 * 86_400
_PETABYTE = 10**15
_LEAST_SECRET = 16
_WILDCARD = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


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


# --- Quantities -------------------------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECOND_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_size(text: str) -> int:
    """Bytes of `20GB` (10⁹), `1MiB` (2²⁰), `1.5 MB` or `4096`. Raises ValueError."""
    return _quantity(text, _SIZE_UNITS, "a size such as 20GB, 256MB, 1MiB or a number of bytes")


def parse_seconds(text: str) -> int:
    """Seconds of `30d`, `12h`, `10m`, `45s`, `2w` or `45`. Raises ValueError."""
    return _quantity(text, _SECOND_UNITS, "a duration such as 30d, 12h, 10m, 45s or a number of seconds")


def size_text(size: int) -> str:
    """The shortest text that `parse_size` reads back as `size`."""
    for unit in ("TB", "TiB", "GB", "GiB", "MB", "MiB", "kB", "KiB"):
        factor = _SIZE_UNITS[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _quantity(text: str, units: Mapping[str, int], expects: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"must be {expects}")
    amount = Decimal(match[1]) * factor
    if amount != int(amount):
        raise ValueError("must come to a whole number")
    return int(amount)


# --- Kinds of settings ------------------------------------------------------------------------------------------------


def _toml_text(value: Any) -> str:
    """Text, numbers, booleans and lists of them: there TOML and JSON agree."""
    return json.dumps(value, ensure_ascii=False)


class _RefusedError(ValueError):
    """What is wrong with one value, in words that go behind its path."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where values are read: the folder that relative paths count from, and the environment of secrets."""

    folder: Path
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of setting.

    `expects` names it to people; `read` turns what TOML holds into the value, or raises ValueError; `of_text` turns a
    variable's text into what TOML would hold; `shown` is the value as JSON, without anything secret; `toml` the same
    as TOML.
    """

    expects: str
    read: Callable[[Any, _Place], Any]
    of_text: Callable[[str], Any] = str
    shown: Callable[[Any], Any] = lambda value: value
    toml: Callable[[Any], str] = _toml_text


def _number_of_text(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _matching(pattern: str, expects: str) -> Kind:
    def read(raw: Any, place: _Place) -> str:
        if not isinstance(raw, str) or re.fullmatch(pattern, raw) is None:
            raise _RefusedError(f"must be {expects}")
        return raw

    return Kind(expects, read)


def _choice(*names: str, into: Callable[[str], str] = str) -> Kind:
    expects = ", ".join(names[:-1]) + " or " + names[-1]

    def read(raw: Any, place: _Place) -> str:
        if raw not in names:
            raise _RefusedError(f"must be {expects}{_did_you_mean(raw, names)}")
        return into(raw)

    return Kind(expects, read)


def _read_mode(raw: Any, place: _Place) -> str:
    if raw == "keys":
        raise _RefusedError("virtual keys are not served by this version; use passthrough or open")
    return cast(str, _choice("passthrough", "open").read(raw, place))


def _read_flag(raw: Any, place: _Place) -> bool:
    if not isinstance(raw, bool):
        raise _RefusedError("must be true or false")
    return raw


def _flag_of_text(text: str) -> bool | str:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)


def _whole(least: int, most: int) -> Kind:
    expects = f"a whole number from {least} to {most}"

    def read(raw: Any, place: _Place) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
            raise _RefusedError(f"must be {expects}")
        return raw

    return Kind(expects, read, _number_of_text)


def _bytes(least: int = 0) -> Kind:
    def read(raw: Any, place: _Place) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise _RefusedError("must be a size such as 20GB, 256MB, 1MiB or a number of bytes")
        size = parse_size(raw) if isinstance(raw, str) else raw
        if not least <= size <= _PETABYTE:
            raise _RefusedError(f"must be from {size_text(least)} to {size_text(_PETABYTE)}")
        return size

    return Kind("a size (GB = 10⁹, GiB = 2³⁰)", read, _number_of_text, toml=lambda size: json.dumps(size_text(size)))


def _seconds(least: float, most: float = 86_400, whole: bool = False) -> Kind:
    def read(raw: Any, place: _Place) -> float:
        kinds = int if whole else (int, float)
        value = parse_seconds(raw) if isinstance(raw, str) else raw
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise _RefusedError(
                f"must be {'whole ' if whole else ''}seconds from {least} to {most}, or a text such as 30d"
            )
        return value

    return Kind("seconds, or a text such as 30d or 12h", read, _number_of_text)


def _file_path(raw: Any, place: _Place) -> Path:
    """Made absolute, not resolved: a mounted volume may change what a link points to."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise _RefusedError("must be a path")
    if raw.startswith("~"):
        raise _RefusedError("must be written in full: ~ is not expanded")
    return place.folder / raw


def _readable_file(raw: Any, place: _Place) -> Path:
    path = _file_path(raw, place)
    if not path.is_file():
        raise _RefusedError(f"there is no file {path}")
    return path


def _many(expects: str, read_one: Callable[[Any, _Place], Any]) -> Kind:
    def read(raw: Any, place: _Place) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise _RefusedError(f"must be a list of {expects}")
        return tuple(read_one(item, place) for item in raw)

    def of_text(text: str) -> Any:
        if text.lstrip().startswith("["):
            return _json_of_text(text)
        return [item.strip() for item in text.split(",") if item.strip()]

    def shown(values: Iterable[Any]) -> list[str]:
        return [str(value) for value in values]

    return Kind(f"a list of {expects}", read, of_text, shown, lambda values: _toml_text(shown(values)))


def _json_of_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _RefusedError("is not valid JSON") from error


def _read_host(raw: Any, place: _Place) -> str:
    if not isinstance(raw, str) or not _is_host(raw):
        raise _RefusedError("must be an IP address or a host name, without scheme or port")
    return raw


def _read_network(raw: Any, place: _Place) -> str:
    if not isinstance(raw, str):
        raise _RefusedError("must be a list of addresses or networks such as 10.0.0.0/8")
    try:
        return str(ipaddress.ip_network(raw))
    except ValueError as error:
        raise _RefusedError(f"{raw!r} is not an address or a network such as 10.0.0.0/8") from error


def _read_url(raw: Any, place: _Place) -> str:
    """An http(s) URL without a trailing slash. What was written is not repeated: it may hold a credential."""
    if not isinstance(raw, str) or re.fullmatch(r"[\x21-\x7e]+", raw) is None:
        raise _RefusedError("must be an http or https URL")
    try:
        parts = urlsplit(raw)
        port = parts.port
    except ValueError as error:
        raise _RefusedError("must be an http or https URL with a valid host and port") from error
    if parts.scheme not in {"http", "https"} or not _is_host(parts.hostname or "") or port == 0:
        raise _RefusedError("must be an http or https URL with a host")
    if "@" in parts.netloc:
        raise _RefusedError("must not hold a credential")
    if "?" in raw or "#" in raw:
        raise _RefusedError("must not hold a query or a fragment")
    return raw.rstrip("/")


def _read_optional_url(raw: Any, place: _Place) -> str:
    return "" if raw == "" else _read_url(raw, place)


def _read_origin(raw: Any, place: _Place) -> str:
    if raw == "*":
        return "*"
    url = _read_url(raw, place)
    if urlsplit(url).path or raw != url:
        raise _RefusedError("must be origins such as https://app.example.org, without a path, or *")
    return url


def _read_listen(raw: Any, place: _Place) -> str:
    try:
        if raw != "":
            listen_address(raw)
    except (TypeError, ValueError) as error:
        raise _RefusedError("must be host:port, such as 127.0.0.1:9090 or [::1]:9090") from error
    return cast(str, raw)


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9090` or `[::1]:9090`. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):(\d{1,5})", text, re.ASCII)
    if match is None or not _is_host(match[1] or match[2]) or int(match[3]) > 65_535:
        raise ValueError("must be host:port")
    return match[1] or match[2], int(match[3])


def _read_aliases(raw: Any, place: _Place) -> Mapping[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(name, str) and name for pair in raw.items() for name in pair):
        raise _RefusedError('must be a table such as { "dall-e-3" = "gpt-image-2" }')
    for name, target in raw.items():
        if target in raw:
            raise _RefusedError(f"{name!r} points to {target!r}, which is an alias itself; name the model")
    return MappingProxyType(dict(raw))


def _toml_of_aliases(aliases: Mapping[str, str]) -> str:
    if not aliases:
        return "{}"
    return "{ " + ", ".join(f"{json.dumps(name)} = {json.dumps(target)}" for name, target in aliases.items()) + " }"


def _read_secret(raw: Any, place: _Place) -> Secret | None:
    """A secret by reference; None if the variable it names is not set. No message repeats what was found."""
    reference = next(iter(raw.items())) if isinstance(raw, dict) and len(raw) == 1 else ("", "")
    source, name = reference
    if source not in {"env", "file"} or not isinstance(name, str) or not name:
        raise _RefusedError('secrets are written by reference: { env = "NAME" } or { file = "/path" }')
    if source == "env":
        value = place.environ.get(name, "").strip()
        if not value:
            return None
    else:
        name = str(_file_path(name, place))
        try:
            value = Path(name).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise _RefusedError("the file it names cannot be read") from None
        if not value:
            raise _RefusedError("the file it names is empty")
    if re.fullmatch(r"[\x21-\x7e]+", value) is None:
        raise _RefusedError("holds spaces or characters that no header may carry")
    return Secret(value, (cast(Literal["env", "file"], source), name))


def _without_login(url: str) -> str:
    """SQLite has no login; of other databases only the kind is shown, because a password may stand anywhere."""
    return url if url.startswith("sqlite") else url.partition("://")[0] + "://…"


def _mask(secret: Secret | None) -> str:
    if secret is None:
        return "unset"
    return f"set ({' '.join(secret.origin)})" if secret.origin else "set"


def _toml_of_secret(secret: Secret) -> str:
    source, name = secret.origin or ("env", "…")
    return f"{{ {source} = {json.dumps(name)} }}"


_FLAG = Kind("true or false", _read_flag, _flag_of_text)
_FOLDER = Kind("a path", _file_path, shown=str, toml=lambda path: _toml_text(str(path)))
_FILE = Kind("a path to a file", _readable_file, shown=str, toml=lambda path: _toml_text(str(path)))
_URL = Kind("an http or https URL", _read_url)
_SECRET = Kind('{ env = "NAME" } or { file = "/path" }', _read_secret, shown=_mask, toml=_toml_of_secret)
_DATABASE_URL = Kind(
    "a database URL",
    _matching(r"[a-z0-9+]+://\S*", "a database URL").read,
    shown=_without_login,
    toml=lambda url: _toml_text(_without_login(url)),
)
_TOKEN = _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a plain word of at most 63 letters, digits, _ . -")
_NAMES = _many("names", _matching(r"[A-Za-z_][A-Za-z0-9_]*", "a list of parameter names").read)
_PATTERNS = _many("model names, with * and ?", _matching(r"[\x21-\x7e]+", "a list of model names or patterns").read)
_PREVIEWS = _many(
    "previews such as gpt-image-2:background=transparent",
    _matching(r"[^\s:=]+:[^\s:=]+=\S+", "a list of model:parameter=value").read,
)


def _is(kind: Kind, help_line: str) -> dict[str, Any]:
    return {"kind": kind, "help": help_line}


# --- The sections -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSection:
    """Where the proxy listens, and how long it waits for whom."""

    host: str = field(default="127.0.0.1", metadata=_is(Kind("a host", _read_host), "address to listen on"))
    port: int = field(default=8080, metadata=_is(_whole(0, 65_535), "port to listen on; 0 takes a free one"))
    max_json_bytes: int = field(default=2**20, metadata=_is(_bytes(1024), "largest JSON request body"))
    receive_timeout_seconds: float = field(
        default=60, metadata=_is(_seconds(0.1), "longest wait for a caller to send a request's head and body")
    )
    send_timeout_seconds: float = field(
        default=60, metadata=_is(_seconds(0.1), "a caller that takes nothing for this long is disconnected")
    )
    drain_seconds: float = field(
        default=600, metadata=_is(_seconds(0), "longest wait at shutdown for calls in flight to be finished and stored")
    )
    drain_delay_seconds: float = field(
        default=0, metadata=_is(_seconds(0), "at shutdown, keep accepting this long while /readyz says 503")
    )
    tcp_keepalive_seconds: int = field(
        default=30, metadata=_is(_whole(1, 7200), "probe idle connections this often, on both sides")
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(), metadata=_is(_many("networks", _read_network), "peers whose X-Forwarded-* headers are believed")
    )
    public_url: str = field(
        default="",
        metadata=_is(Kind("a URL or empty", _read_optional_url), "base of image URLs; empty takes the request's host"),
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata=_is(_many("origins", _read_origin), "web origins whose scripts may call; * for any")
    )
    tls_certificate: Path | None = field(
        default=None, metadata=_is(_FILE, "PEM file with the certificate chain; set it to serve https")
    )
    tls_key: Path | None = field(default=None, metadata=_is(_FILE, "PEM file with the certificate's private key"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSection:
    """Who may call, and whose credential goes upstream."""

    mode: Literal["passthrough", "open"] = field(
        default="passthrough",
        metadata=_is(
            Kind("passthrough or open", _read_mode), "passthrough forwards the caller's credential; open asks for none"
        ),
    )
    allow_open: bool = field(default=False, metadata=_is(_FLAG, "let mode open listen beyond this machine"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSection:
    """An API to buy images from. `cache_group` is the name unless set."""

    name: str = field(metadata=_is(_TOKEN, "what it is called in metrics, logs and cache entries"))
    vendor: str = field(default="openai", metadata=_is(_TOKEN, "whose rules of the catalogue apply: openai or apiyi"))
    base_url: str = field(metadata=_is(_URL, "its address, with /v1"))
    api_key: Secret | None = field(
        default=None, metadata=_is(_SECRET, "the key to pay with in mode open; passthrough never uses it")
    )
    models: tuple[str, ...] = field(default=("*",), metadata=_is(_PATTERNS, "the models it may be asked for"))
    priority: int = field(default=0, metadata=_is(_whole(-1000, 1000), "who is asked first: the lowest number"))
    cache_group: str = field(
        default="",
        metadata=_is(
            Kind("a plain word", lambda raw, place: raw and _TOKEN.read(raw, place)),
            "upstreams of one group answer alike and share entries; empty takes the name",
        ),
    )
    connect_timeout_seconds: float = field(default=10, metadata=_is(_seconds(0.1), "longest wait for a connection"))
    total_timeout_seconds: float = field(
        default=590, metadata=_is(_seconds(0.2), "longest wait for a whole reply; below the 600 of the SDKs")
    )
    max_connections: int = field(default=100, metadata=_is(_whole(1, 100_000), "calls at once; more wait in a queue"))
    max_retries: int = field(default=1, metadata=_is(_whole(0, 10), "further tries of what cannot have been billed"))
    max_retry_wait_seconds: float = field(
        default=2, metadata=_is(_seconds(0, 60), "longest Retry-After that is waited for")
    )

    def __post_init__(self) -> None:
        if not self.cache_group:
            object.__setattr__(self, "cache_group", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSection:
    """Where replies are kept, how many, how long, and who shares them."""

    directory: Path = field(default=Path("var/cache"), metadata=_is(_FOLDER, "where replies are kept"))
    max_bytes: int = field(default=20 * 10**9, metadata=_is(_bytes(10**6), "most bytes on disk; least used go first"))
    min_free_bytes: int = field(default=10**9, metadata=_is(_bytes(), "leave this much of the disk free"))
    memory_bytes: int = field(default=256 * 10**6, metadata=_is(_bytes(), "most bytes of hot replies in memory"))
    ttl_seconds: int = field(
        default=2_592_000,
        metadata=_is(_seconds(1, _CENTURY_SECONDS, whole=True), "how long a reply is served (30 days)"),
    )
    scope: Literal["team", "key", "org"] = field(
        default="team",
        metadata=_is(_choice("team", "key", "org"), "who shares replies; in passthrough always the credential"),
    )
    keep_prompts: bool = field(default=True, metadata=_is(_FLAG, "keep prompts beside images; false keeps a digest"))
    secret: Secret | None = field(
        default=None,
        metadata=_is(_SECRET, "signs image URLs and separates credentials; unset: made in the directory"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesSection:
    """What is done with requests that a model would refuse, and with what the catalogue does not know."""

    on_invalid: Literal["reject", "adjust", "pass"] = field(
        default="reject",
        metadata=_is(_choice("reject", "adjust", "pass"), "what to do with a request the model would refuse"),
    )
    unknown_model: Literal["pass", "reject"] = field(
        default="pass", metadata=_is(_choice("pass", "reject"), "what to do with a model the catalogue does not list")
    )
    unknown_parameter: Literal["pass", "reject"] = field(
        default="reject", metadata=_is(_choice("pass", "reject"), "what to do with a parameter the model does not list")
    )
    extra_parameters: tuple[str, ...] = field(default=(), metadata=_is(_NAMES, "parameters let through all the same"))
    allow_previews: tuple[str, ...] = field(
        default=(), metadata=_is(_PREVIEWS, "previews to let through, as model:parameter=value")
    )
    aliases: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata=_is(
            Kind("a table of names", _read_aliases, _json_of_text, dict, _toml_of_aliases),
            "model names to read as others",
        ),
    )
    catalogue: tuple[Path, ...] = field(
        default=(), metadata=_is(_many("paths to files", _readable_file), "your own models, rules and prices")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSection:
    """The face of replies."""

    default: Rendering = field(
        default=Rendering.B64_JSON,
        metadata=_is(_choice(*Rendering, into=Rendering), "how images are returned when the caller does not say"),
    )
    data_url_field: Literal["url", "b64_json"] = field(
        default="url", metadata=_is(_choice("url", "b64_json"), "the member that a data URL is written to")
    )
    url_ttl_seconds: int = field(
        default=3600, metadata=_is(_seconds(1, _CENTURY_SECONDS, whole=True), "how long an image URL works")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSection:
    """The ledger's place; nothing is written to it yet."""

    url: str = field(
        default="sqlite:///var/imagegate.db",
        repr=False,
        metadata=_is(_DATABASE_URL, "reserved for the ledger; not used yet"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSection:
    """Who may read `/metrics`, and where."""

    token: Secret | None = field(
        default=None, metadata=_is(_SECRET, "bearer token for readers from elsewhere; unset: this machine only")
    )
    listen: str = field(
        default="",
        metadata=_is(
            Kind("host:port or empty", _read_listen), "an address of its own, as host:port; empty: the main port"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSection:
    """What is written to standard error, as JSON lines; never a prompt, an image or a credential."""

    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=_is(_choice("debug", "info", "warning", "error"), "the least level that is written")
    )
    access: bool = field(default=True, metadata=_is(_FLAG, "write a line for each request"))


_DEFAULT_UPSTREAM = UpstreamSection(name="openai", base_url=_OPENAI_URL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator may decide. `file` is where it was read from."""

    server: ServerSection = ServerSection()
    auth: AuthSection = AuthSection()
    upstreams: tuple[UpstreamSection, ...] = (_DEFAULT_UPSTREAM,)
    cache: CacheSection = CacheSection()
    rules: RulesSection = RulesSection()
    render: RenderSection = RenderSection()
    database: DatabaseSection = DatabaseSection()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
    file: Path | None = None

    def describe(self) -> dict[str, Any]:
        """Every setting as JSON takes it; of a secret only where it was read."""
        described: dict[str, Any] = {}
        for name, _ in sections():
            value = getattr(self, name)
            described[name] = [_described(one) for one in value] if isinstance(value, tuple) else _described(value)
        return described

    def toml(self) -> str:
        """Every setting as a file that reads back the same; secrets by reference, what is unset as a comment."""
        lines = []
        for name, _ in sections():
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                lines += ["", f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]"]
                lines += [toml_line(item, getattr(one, item.name)) for item in fields(one)]
        return "\n".join(lines[1:]) + "\n"


def sections() -> tuple[tuple[str, type[Any]], ...]:
    """The TOML tables by name, in the order of the documentation; `upstreams` is an array of tables."""
    return (
        ("server", ServerSection),
        ("auth", AuthSection),
        ("upstreams", UpstreamSection),
        ("cache", CacheSection),
        ("rules", RulesSection),
        ("render", RenderSection),
        ("database", DatabaseSection),
        ("metrics", MetricsSection),
        ("log", LogSection),
    )


def default_of(item: Field[Any]) -> Any:
    """The default of a section's field, or `dataclasses.MISSING` if it must be set."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def toml_line(item: Field[Any], value: Any) -> str:
    """`name = value` as TOML; commented out where there is no value."""
    return f"# {item.name} =" if value is None else f"{item.name} = {item.metadata['kind'].toml(value)}"


def _described(section: Any) -> dict[str, Any]:
    described = {}
    for item in fields(section):
        kind, value = item.metadata["kind"], getattr(section, item.name)
        described[item.name] = None if value is None and kind is not _SECRET else kind.shown(value)
    return described


# --- Loading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Variable:
    """An environment variable standing where TOML's value would."""

    name: str
    text: str = field(repr=False)


class _Problems:
    """What is wrong, by path, in the order found."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, path: str, message: str, raw: Any = None) -> None:
        variable = _variable_in(raw)
        self._found.append((path, message + (f" (from {variable.name})" if variable else "")))

    def sound(self, *paths: str) -> bool:
        """Whether all of these were read without a problem, so that a rule between them may be judged."""
        return not any(found == path or path.startswith(found + ".") for found, _ in self._found for path in paths)

    def report(self) -> None:
        if self._found:
            raise ConfigurationError([f"{path}: {message}" for path, message in self._found])


def environment() -> Mapping[str, str]:
    """The process's environment: the only place where imagegate reads it."""
    return MappingProxyType(dict(os.environ))


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings from defaults, then the file if there is one, then the environment.

    Raises ConfigurationError with every problem found. Relative paths count from the file's folder, or from the
    working directory without a file.
    """
    file = None if path is None else path.absolute()
    place = _Place(file.parent if file else Path.cwd(), environ)
    tree = {} if file is None else _read_file(file)
    tree.setdefault("upstreams", [_default_upstream(environ)])
    problems = _Problems()
    _overlay(tree, environ, problems)
    known = dict(sections())
    for name in sorted(tree.keys() - known.keys()):
        problems.add(name, "no such section" + _did_you_mean(name, known), tree[name])
    upstreams = _read_upstreams(tree["upstreams"], place, problems)
    read = {
        name: _read_section(kind, name, tree.get(name, {}), place, problems) or kind()
        for name, kind in known.items()
        if name != "upstreams"
    }
    _look_past_ourselves(upstreams, tree["upstreams"], read["server"])
    settings = Settings(**read, upstreams=tuple(upstreams.values()), file=file)
    _check(settings, upstreams, problems)
    problems.report()
    return settings


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{file}: is not UTF-8"]) from error
    except OSError as error:
        raise ConfigurationError([f"{file}: cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{file}: is not TOML: {error}"]) from error


def _default_upstream(environ: Mapping[str, str]) -> dict[str, Any]:
    """What an OpenAI SDK would call in this environment."""
    base_url = environ.get("OPENAI_BASE_URL", "").strip()
    return {
        "name": "openai",
        "base_url": _Variable("OPENAI_BASE_URL", base_url) if base_url else _OPENAI_URL,
        "api_key": {"env": "OPENAI_API_KEY"},
    }


def _look_past_ourselves(upstreams: dict[int, UpstreamSection], tables: Any, server: ServerSection) -> None:
    """A shell whose OPENAI_BASE_URL leads its programs to this proxy starts the proxy too: there it means OpenAI."""
    url = tables[0].get("base_url") if upstreams.get(0) else None
    if isinstance(url, _Variable) and url.name == "OPENAI_BASE_URL" and _leads_to(server, upstreams[0]):
        upstreams[0] = replace(upstreams[0], base_url=_OPENAI_URL)


def _overlay(tree: dict[str, Any], environ: Mapping[str, str], problems: _Problems) -> None:
    """Lays the variables over the file's tables. Sorted by index, so that upstreams may be appended one by one."""
    found = [(name.removeprefix(PREFIX).lower().split("__"), name) for name in environ if name.startswith(PREFIX)]
    for parts, name in sorted(found, key=lambda pair: [(len(part), part) for part in pair[0]]):
        variable = _Variable(name, environ[name])
        match parts:
            case [_]:
                continue
            case ["upstreams", index, key] if index.isdecimal():
                _overlay_upstream(tree["upstreams"], int(index), key, variable, problems)
            case ["upstreams", *rest]:
                problems.add(
                    ".".join(("upstreams", *rest)), f"upstreams are counted: {PREFIX}UPSTREAMS__0__BASE_URL", variable
                )
            case [section, key]:
                table = tree.setdefault(section, {})
                if isinstance(table, dict):
                    table[key] = variable
            case _:
                problems.add(".".join(parts), "no such setting", variable)


def _overlay_upstream(upstreams: Any, index: int, key: str, variable: _Variable, problems: _Problems) -> None:
    if not isinstance(upstreams, list):
        return
    if index > len(upstreams):
        problems.add(f"upstreams.{index}.{key}", f"there is no upstream {len(upstreams)} before it", variable)
        return
    if index == len(upstreams):
        upstreams.append({})
    if isinstance(upstreams[index], dict):
        upstreams[index][key] = variable


def _read_upstreams(tables: Any, place: _Place, problems: _Problems) -> dict[int, UpstreamSection]:
    """Those that could be read, by their index in the file."""
    if not isinstance(tables, list):
        problems.add("upstreams", "must be an array of tables, each under [[upstreams]]")
        return {}
    if not tables:
        problems.add("upstreams", "there must be at least one")
    found = {
        index: _read_section(UpstreamSection, f"upstreams.{index}", table, place, problems)
        for index, table in enumerate(tables)
    }
    return {index: upstream for index, upstream in found.items() if upstream is not None}


def _read_section(kind: type[Any], path: str, table: Any, place: _Place, problems: _Problems) -> Any:
    """The section, with defaults in the place of what cannot be read; None if even that cannot be made."""
    if not isinstance(table, dict):
        problems.add(path, "must be a table")
        return None
    known = {item.name: item for item in fields(kind)}
    for name in sorted(table.keys() - known.keys()):
        problems.add(f"{path}.{name}", "no such setting" + _did_you_mean(name, known), table[name])
    values = {}
    for name, item in known.items():
        if name in table:
            try:
                values[name] = _read_value(item.metadata["kind"], table[name], place)
            except ValueError as error:
                problems.add(f"{path}.{name}", str(error), table[name])
        elif default_of(item) is MISSING:
            problems.add(f"{path}.{name}", "must be set")
        elif isinstance(default_of(item), Path):
            values[name] = place.folder / default_of(item)
    missing = [name for name, item in known.items() if name not in values and default_of(item) is MISSING]
    return None if missing else kind(**values)


def _read_value(kind: Kind, raw: Any, place: _Place) -> Any:
    if isinstance(raw, _Variable):
        raw = {"env": raw.name} if kind is _SECRET else kind.of_text(raw.text)
    return kind.read(raw, place)


def _variable_in(raw: Any) -> _Variable | None:
    if isinstance(raw, dict):
        return next((value for value in raw.values() if isinstance(value, _Variable)), None)
    return raw if isinstance(raw, _Variable) else None


def _did_you_mean(written: object, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(written).lower(), list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


# --- Rules between settings -------------------------------------------------------------------------------------------


def _check(settings: Settings, upstreams: Mapping[int, UpstreamSection], problems: _Problems) -> None:
    """What one value alone cannot show. A rule is judged only where all that it looks at was read."""
    _check_server(settings.server, settings.metrics, problems)
    _check_reach(settings, problems)
    secret = settings.cache.secret
    if secret is not None and len(secret.reveal()) < _LEAST_SECRET:
        problems.add("cache.secret", f"must be at least {_LEAST_SECRET} characters")
    names: dict[str, int] = {}
    for index, upstream in upstreams.items():
        _check_upstream(f"upstreams.{index}", upstream, settings, problems)
        first = names.setdefault(upstream.name, index)
        if first != index:
            problems.add(f"upstreams.{index}.name", f"{upstream.name!r} is already the name of upstreams.{first}")
    if settings.auth.mode == "passthrough" and problems.sound("auth.mode"):
        _check_one_payee(upstreams, problems)


def _check_server(server: ServerSection, metrics: MetricsSection, problems: _Problems) -> None:
    if (server.tls_certificate is None) != (server.tls_key is None) and problems.sound(
        "server.tls_key", "server.tls_certificate"
    ):
        missing, present = ("tls_key", "tls_certificate") if server.tls_certificate else ("tls_certificate", "tls_key")
        problems.add(f"server.{missing}", f"must be set when server.{present} is")
    if metrics.listen and listen_address(metrics.listen) == (server.host, server.port) and server.port:
        problems.add("metrics.listen", "is the server's own address; leave it empty to serve /metrics there")


def _check_reach(settings: Settings, problems: _Problems) -> None:
    auth, host = settings.auth, settings.server.host
    exposed = auth.mode == "open" and not auth.allow_open and not _is_loopback(host)
    if exposed and problems.sound("auth.mode", "auth.allow_open", "server.host"):
        problems.add(
            "auth.mode", f"open on {host} would let anyone pay with your key; auth.allow_open = true if you mean it"
        )


def _check_upstream(path: str, upstream: UpstreamSection, settings: Settings, problems: _Problems) -> None:
    total, connect = f"{path}.total_timeout_seconds", f"{path}.connect_timeout_seconds"
    if upstream.total_timeout_seconds <= upstream.connect_timeout_seconds and problems.sound(total, connect):
        problems.add(total, "must be greater than connect_timeout_seconds")
    shipped_only = not settings.rules.catalogue and problems.sound("rules.catalogue")
    if upstream.vendor not in VENDORS and shipped_only:
        near = _did_you_mean(upstream.vendor, VENDORS)
        problems.add(f"{path}.vendor", f"must be {' or '.join(VENDORS)}, or come from rules.catalogue{near}")
    if _leads_to(settings.server, upstream) and problems.sound("server.host", "server.port"):
        problems.add(f"{path}.base_url", "is this proxy's own address")
    host = urlsplit(upstream.base_url).hostname or ""
    needs_key = settings.auth.mode == "open" and not _is_loopback(host)
    if needs_key and upstream.api_key is None and problems.sound("auth.mode", f"{path}.api_key"):
        problems.add(f"{path}.api_key", "must be set in mode open, and the variable it names too")


def _check_one_payee(upstreams: Mapping[int, UpstreamSection], problems: _Problems) -> None:
    for (one, first), (other, second) in itertools.combinations(upstreams.items(), 2):
        paths = f"upstreams.{one}.models", f"upstreams.{other}.models"
        if problems.sound(*paths) and any(may_overlap(a, b) for a in first.models for b in second.models):
            problems.add(
                paths[1],
                f"overlaps {paths[0]}: in mode passthrough only one upstream may serve a model, "
                "or a caller's credential would reach another vendor",
            )


def may_overlap(one: str, other: str) -> bool:
    """Whether some name could match both globs; a `[set]` is taken for any character."""
    first, second = (re.sub(r"\[[^\]]+\]", "?", pattern) for pattern in (one, other))

    @functools.cache
    def meet(i: int, j: int) -> bool:
        if i == len(first) and j == len(second):
            return True
        if i < len(first) and first[i] == "*":
            return meet(i + 1, j) or (j < len(second) and meet(i, j + 1))
        if j < len(second) and second[j] == "*":
            return meet(i, j + 1) or (i < len(first) and meet(i + 1, j))
        if i == len(first) or j == len(second):
            return False
        return ("?" in (first[i], second[j]) or first[i] == second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(
            r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", text
        ) is not None and not re.fullmatch(r"[\d.]+", text)
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _leads_to(server: ServerSection, upstream: UpstreamSection) -> bool:
    """Whether a call to the upstream would arrive at this proxy itself."""
    parts = urlsplit(upstream.base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if port != server.port:
        return False
    return host == server.host or (_is_loopback(host) and (_is_loopback(server.host) or server.host in _WILDCARD))
