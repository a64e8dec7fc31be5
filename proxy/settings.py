"""All that an operator may decide: one frozen section for each TOML table, each field with its kind and its help."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from proxy.addresses import DATABASE_URL, HOST, LISTEN, NETWORKS, OPTIONAL_URL, ORIGINS, URL
from proxy.kinds import (
    ALIASES,
    FILE,
    FILES,
    FLAG,
    FOLDER,
    NAMES,
    OPTIONAL_TOKEN,
    PATTERNS,
    PREVIEWS,
    RATIO,
    TOKEN,
    Kind,
    byte_size,
    choice,
    seconds,
    whole_number,
)
from proxy.model import Rendering
from proxy.secret import NEEDED_SECRET, SECRET, Secret

OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_DATABASE_URL = "sqlite:///var/imagegate.db"
ADMIN_TOKEN_VARIABLE = "IMAGEGATE_ADMIN_TOKEN"  # noqa: S105  # the name of a variable
_CENTURY_SECONDS = 100 * 365 * 86_400


def _is(kind: Kind, help_line: str) -> dict[str, Any]:
    return {"kind": kind, "help": help_line}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSection:
    """Where the proxy listens, and how long it waits for whom."""

    host: str = field(default="127.0.0.1", metadata=_is(HOST, "address to listen on"))
    port: int = field(default=8080, metadata=_is(whole_number(0, 65_535), "port to listen on; 0 takes a free one"))
    max_json_bytes: int = field(default=2**20, metadata=_is(byte_size(1024), "largest JSON request body"))
    max_edit_json_bytes: int = field(
        default=64 * 2**20, metadata=_is(byte_size(1024), "largest JSON body of an edit, which holds its pictures")
    )
    max_multipart_bytes: int = field(
        default=850 * 10**6, metadata=_is(byte_size(1024), "largest multipart body of an edit")
    )
    receive_timeout_seconds: float = field(
        default=60, metadata=_is(seconds(0.1), "longest wait for a caller to send a request's head and body")
    )
    send_timeout_seconds: float = field(
        default=60, metadata=_is(seconds(0.1), "a caller that takes nothing for this long is disconnected")
    )
    drain_seconds: float = field(
        default=600, metadata=_is(seconds(0), "longest wait at shutdown for calls in flight to be finished and stored")
    )
    drain_delay_seconds: float = field(
        default=0, metadata=_is(seconds(0), "at shutdown, keep accepting this long while /readyz says 503")
    )
    tcp_keepalive_seconds: int = field(
        default=30, metadata=_is(whole_number(1, 7200), "probe idle connections this often, on both sides")
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(), metadata=_is(NETWORKS, "peers whose X-Forwarded-* headers are believed")
    )
    public_url: str = field(
        default="", metadata=_is(OPTIONAL_URL, "base of image URLs; empty takes the request's host")
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata=_is(ORIGINS, "web origins whose scripts may call; * for any")
    )
    tls_certificate: Path | None = field(
        default=None, metadata=_is(FILE, "PEM file with the certificate chain; set it to serve https")
    )
    tls_key: Path | None = field(default=None, metadata=_is(FILE, "PEM file with the certificate's private key"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSection:
    """Who may call, and whose credential goes upstream."""

    mode: Literal["passthrough", "keys", "open"] = field(
        default="passthrough",
        metadata=_is(
            choice("passthrough", "keys", "open"),
            "passthrough forwards the caller's credential; keys asks for a virtual key; open for none",
        ),
    )
    allow_open: bool = field(default=False, metadata=_is(FLAG, "let mode open listen beyond this machine"))
    admin_token: Secret | None = field(
        default=None, metadata=_is(SECRET, "bearer token of the admin API and of the usage API; unset: both are off")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSection:
    """An API to buy images from. `cache_group` is the name unless set."""

    name: str = field(metadata=_is(TOKEN, "what it is called in metrics, logs and cache entries"))
    vendor: str = field(
        default="openai",
        metadata=_is(TOKEN, "whose rules and wire apply: openai, apiyi, azure, xai, together, generic"),
    )
    base_url: str = field(metadata=_is(URL, "its address, with /v1 (Azure: see docs/vendors.md)"))
    api_version: str = field(
        default="", metadata=_is(OPTIONAL_TOKEN, "Azure's api-version; empty takes the one this release was made for")
    )
    api_key: Secret | None = field(
        default=None, metadata=_is(SECRET, "the key to pay with in the modes keys and open; passthrough never uses it")
    )
    models: tuple[str, ...] = field(default=("*",), metadata=_is(PATTERNS, "the models it may be asked for"))
    priority: int = field(default=0, metadata=_is(whole_number(-1000, 1000), "who is asked first: the lowest number"))
    cache_group: str = field(
        default="",
        metadata=_is(
            OPTIONAL_TOKEN,
            "upstreams of one group answer alike and share entries; empty takes the name",
        ),
    )
    connect_timeout_seconds: float = field(default=10, metadata=_is(seconds(0.1), "longest wait for a connection"))
    total_timeout_seconds: float = field(
        default=590, metadata=_is(seconds(0.2), "longest wait for a whole reply; below the 600 of the SDKs")
    )
    max_connections: int = field(
        default=100, metadata=_is(whole_number(1, 100_000), "calls at once; more wait in a queue")
    )
    max_retries: int = field(
        default=1, metadata=_is(whole_number(0, 10), "further tries of what cannot have been billed")
    )
    max_retry_wait_seconds: float = field(
        default=2, metadata=_is(seconds(0, 60), "longest Retry-After that is waited for")
    )

    def serves(self, model: str) -> bool:
        """Whether one of its patterns names the model."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def __post_init__(self) -> None:
        if not self.cache_group:
            object.__setattr__(self, "cache_group", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSection:
    """Where replies are kept, how many, how long, and who shares them."""

    directory: Path = field(default=Path("var/cache"), metadata=_is(FOLDER, "where replies are kept"))
    max_bytes: int = field(
        default=20 * 10**9, metadata=_is(byte_size(10**6), "most bytes on disk; least used go first")
    )
    min_free_bytes: int = field(default=10**9, metadata=_is(byte_size(), "leave this much of the disk free"))
    memory_bytes: int = field(default=256 * 10**6, metadata=_is(byte_size(), "most bytes of hot replies in memory"))
    ttl_seconds: int = field(
        default=2_592_000,
        metadata=_is(seconds(1, _CENTURY_SECONDS, whole=True), "how long a reply is served (30 days)"),
    )
    scope: Literal["team", "key", "org"] = field(
        default="team",
        metadata=_is(choice("team", "key", "org"), "who shares replies; in passthrough always the credential"),
    )
    keep_prompts: bool = field(default=True, metadata=_is(FLAG, "keep prompts beside images; false keeps a digest"))
    secret: Secret | None = field(
        default=None,
        metadata=_is(NEEDED_SECRET, "signs image URLs and separates credentials; unset: made in the directory"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesSection:
    """What is done with requests that a model would refuse, and with what the catalogue does not know."""

    on_invalid: Literal["reject", "adjust", "pass"] = field(
        default="reject",
        metadata=_is(choice("reject", "adjust", "pass"), "what to do with a request the model would refuse"),
    )
    unknown_model: Literal["pass", "reject"] = field(
        default="pass", metadata=_is(choice("pass", "reject"), "what to do with a model the catalogue does not list")
    )
    unknown_parameter: Literal["pass", "reject"] = field(
        default="reject", metadata=_is(choice("pass", "reject"), "what to do with a parameter the model does not list")
    )
    extra_parameters: tuple[str, ...] = field(default=(), metadata=_is(NAMES, "parameters let through all the same"))
    allow_previews: tuple[str, ...] = field(
        default=(), metadata=_is(PREVIEWS, "previews to let through, as model:parameter=value")
    )
    aliases: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}),
        metadata=_is(
            ALIASES,
            "model names to read as others",
        ),
    )
    catalogue: tuple[Path, ...] = field(default=(), metadata=_is(FILES, "your own models, rules and prices"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSection:
    """The face of replies."""

    default: Rendering = field(
        default=Rendering.B64_JSON,
        metadata=_is(choice(*Rendering, into=Rendering), "how images are returned when the caller does not say"),
    )
    data_url_field: Literal["url", "b64_json"] = field(
        default="url", metadata=_is(choice("url", "b64_json"), "the member that a data URL is written to")
    )
    url_ttl_seconds: int = field(
        default=3600, metadata=_is(seconds(1, _CENTURY_SECONDS, whole=True), "how long an image URL works")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsSection:
    """What holds for every key; the limits of one are its own."""

    unpriced: Literal["reject", "allow"] = field(
        default="reject",
        metadata=_is(choice("reject", "allow"), "what to do under a money budget with a model that has no price"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSection:
    """Where keys and the ledger are kept."""

    url: str = field(
        default=DEFAULT_DATABASE_URL,
        repr=False,
        metadata=_is(DATABASE_URL, "keys and ledger: a SQLite file, or postgresql://user:password@host/database"),
    )
    retention_seconds: int = field(
        default=0,
        metadata=_is(
            seconds(0, _CENTURY_SECONDS, whole=True), "purchases and counts older than this are deleted; 0 keeps them"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSection:
    """Who may read `/metrics`, and where."""

    token: Secret | None = field(
        default=None, metadata=_is(NEEDED_SECRET, "bearer token for readers from elsewhere; unset: this machine only")
    )
    listen: str = field(default="", metadata=_is(LISTEN, "an address of its own, as host:port; empty: the main port"))
    per_key: bool = field(default=False, metadata=_is(FLAG, "count cost and tokens by virtual key, too"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSection:
    """Whether spans are sent to an OpenTelemetry collector; never a prompt, an image or a credential."""

    enabled: bool = field(default=False, metadata=_is(FLAG, "send spans; needs pip install imagegate[otel]"))
    endpoint: str = field(
        default="", metadata=_is(OPTIONAL_URL, "OTLP/HTTP address of the collector; empty: OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    sample_ratio: float = field(
        default=1.0,
        metadata=_is(RATIO, "share of the traces begun here that is recorded; a caller's own decision stands"),
    )
    forward: bool = field(default=False, metadata=_is(FLAG, "send traceparent to upstreams, with or without spans"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSection:
    """What is written to standard error, as JSON lines; never a prompt, an image or a credential."""

    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=_is(choice("debug", "info", "warning", "error"), "the least level that is written")
    )
    access: bool = field(default=True, metadata=_is(FLAG, "write a line for each request"))


_DEFAULT_UPSTREAM = UpstreamSection(name="openai", base_url=OPENAI_URL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator may decide. `file` is where it was read from."""

    server: ServerSection = ServerSection()
    auth: AuthSection = AuthSection()
    upstreams: tuple[UpstreamSection, ...] = (_DEFAULT_UPSTREAM,)
    cache: CacheSection = CacheSection()
    rules: RulesSection = RulesSection()
    render: RenderSection = RenderSection()
    limits: LimitsSection = LimitsSection()
    database: DatabaseSection = DatabaseSection()
    metrics: MetricsSection = MetricsSection()
    tracing: TracingSection = TracingSection()
    log: LogSection = LogSection()
    file: Path | None = None


def sections() -> tuple[tuple[str, type[Any]], ...]:
    """The TOML tables by name, in the order of the documentation; `upstreams` is an array of tables."""
    return (
        ("server", ServerSection),
        ("auth", AuthSection),
        ("upstreams", UpstreamSection),
        ("cache", CacheSection),
        ("rules", RulesSection),
        ("render", RenderSection),
        ("limits", LimitsSection),
        ("database", DatabaseSection),
        ("metrics", MetricsSection),
        ("tracing", TracingSection),
        ("log", LogSection),
    )


def default_of(item: Field[Any]) -> Any:
    """The default of a section's field, or `dataclasses.MISSING` if it must be set."""
    return item.default_factory() if item.default_factory is not MISSING else item.default
