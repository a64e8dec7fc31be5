"""The nouns of the request path, as frozen values; nothing here does anything."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Protocol

from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.noun import noun


class Operation(StrEnum):
    """What is asked of the Images API; also the metric label `operation`."""

    GENERATION = "image_generation"
    EDIT = "image_edit"

    @property
    def endpoint(self) -> str:
        """`generations` or `edits`: the last word of its path, and its table in a catalogue."""
        return "generations" if self is Operation.GENERATION else "edits"


class Rendering(StrEnum):
    """The face of a stored reply (`data[i]` holds …)."""

    B64_JSON = "b64_json"
    DATA_URL = "data_url"
    URL = "url"


class Forward(StrEnum):
    """Why a request was sent on instead of being answered from the store (RFC 9211 §2.2)."""

    URI_MISS = "uri-miss"
    STALE = "stale"
    REQUEST = "request"
    BYPASS = "bypass"

    def label(self, *, collapsed: bool) -> Literal["miss", "refresh", "bypass", "coalesced"]:
        """The same in the words of the metric label, the log and `X-Imagegate-Cache`."""
        if collapsed:
            return "coalesced"
        match self:
            case Forward.REQUEST:
                return "refresh"
            case Forward.BYPASS:
                return "bypass"
            case _:
                return "miss"


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """The caller's own credential, to be forwarded in passthrough mode. Its repr says nothing."""

    header: Literal["authorization", "api-key"]
    value: str
    organization: str | None = None
    project: str | None = None

    def __repr__(self) -> str:
        return "Credential(…)"


@dataclass(frozen=True, slots=True)
class Holder:
    """A virtual key that works, and the team it belongs to."""

    key: KeyRecord
    team: TeamRecord | None = None

    @property
    def records(self) -> tuple[KeyRecord | TeamRecord, ...]:
        """Whose budgets its purchases touch."""
        return (self.key,) if self.team is None else (self.key, self.team)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is authenticated. `scope` is the share of the cache that this principal may see, as hex digits."""

    scope: str
    team: str = "none"
    """Its alias: a label of metrics."""
    name: str = ""
    """The id of its key."""
    credential: Credential | None = None
    holder: Holder | None = None
    """Whose key it is, in mode `keys`."""


@dataclass(slots=True)
class Progress:
    """What has been learnt about a call so far, for the log line and the metrics of a call that ends early.

    The one mutable noun: the pipeline fills it in, the edge reads it when the call is over.
    """

    model: str = ""
    key: str = ""
    size: str = ""
    quality: str = ""
    team: str = ""
    key_id: str = ""
    """Of the virtual key that asks."""
    prompt_characters: int = 0
    forward: Forward | None = None
    """Why the call was sent on, once it was."""
    collapsed: bool = False
    """It joined a flight in the air."""
    standing: "Standing | None" = None
    """How the caller's key stood when the call was sent on."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture that a caller sent: one to be edited, or a mask. Named by its bytes, never by its file's name."""

    media_type: str
    """As its sender declared it, lower-case, without parameters: a multipart part's content type, or a data URL's."""
    sha256: str
    """Hex digest of its bytes."""
    body: "Body" = field(repr=False)
    """Its bytes; on disk, without a name, and gone with the last reference."""
    found_type: str | None = None
    """Its media type by its own first bytes; None if it is no image we know."""
    width: int | None = None
    """Pixels, as stored, before any orientation; None where the head does not tell."""
    height: int | None = None
    has_alpha: bool | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that a caller only names: `{"image_url": "https://…"}` or `{"file_id": "file-…"}`, as it came."""

    member: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """A request's body, read and not yet believed.

    `fields` are its members but for pictures. In multipart every field is a string: the validator makes it what the
    catalogue says it is. `images` and `mask` hold what came in the places of pictures (`image`, `image[]` and `mask` in
    multipart; `images` and `mask` in JSON): an InputImage, a Reference, or whatever else was there, to be refused.
    """

    fields: Mapping[str, Any] = field(repr=False)
    images: tuple[Any, ...] | None = field(default=None, repr=False)
    """None if there was none; empty for an empty array."""
    mask: Any = field(default=None, repr=False)
    container: Literal["json", "multipart"] = "json"

    def deployed(self, model: str | None) -> "Document":
        """The same, asking for the model that the path names, if it names one: it goes before the body's."""
        return self if model is None else replace(self, fields={**self.fields, "model": model})


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A JSON body as it came, whole, into which nobody has looked yet. `deployment` is the model that the path names."""

    content: bytes = field(repr=False)
    deployment: str | None = None


@noun
class Inbound:
    """The call as it arrives, unbelieved. Header names are lower-case; `arrived` is wall clock, in seconds.

    `read` gives the body, once: nobody's megabyte is read before it is known who they are, or held while they wait.
    """

    operation: Operation
    headers: Mapping[str, str] = field(repr=False)
    read: Callable[[], Awaitable[Document | Unparsed]]
    arrived: float
    progress: Progress = field(default_factory=Progress)
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call by class; disjoint, so that they add up to what was billed.

    The `cached_*` counts are subsets of the input counts beside them. Source: OpenAI API reference,
    "ImagesResponse.usage".
    """

    text_in: int = 0
    image_in: int = 0
    text_out: int = 0
    image_out: int = 0
    cached_text_in: int = 0
    cached_image_in: int = 0
    unknown_in: int = 0
    """Input of an edit whose reply does not say what of it was text: billed as the dearer of both."""

    @property
    def total(self) -> int:
        return self.text_in + self.image_in + self.unknown_in + self.text_out + self.image_out


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs: USD per million tokens by class, or flat. `version` names the table it was read from."""

    text_in: Decimal = Decimal(0)
    cached_text_in: Decimal = Decimal(0)
    image_in: Decimal = Decimal(0)
    cached_image_in: Decimal = Decimal(0)
    text_out: Decimal = Decimal(0)
    image_out: Decimal = Decimal(0)
    per_call: Decimal = Decimal(0)
    per_image: Decimal = Decimal(0)
    per_partial: Decimal = Decimal(0)
    version: str = ""

    def cost(self, usage: Usage | None, images: int, partials: int = 0) -> Decimal:
        """USD for one call that returned `images` images and `partials` partial images."""
        flat = self.per_call + self.per_image * images + self.per_partial * partials
        if usage is None:
            return flat
        tokens = (
            (usage.text_in - usage.cached_text_in) * self.text_in
            + usage.cached_text_in * self.cached_text_in
            + (usage.image_in - usage.cached_image_in) * self.image_in
            + usage.cached_image_in * self.cached_image_in
            + usage.unknown_in * max(self.text_in, self.image_in)
            + usage.text_out * self.text_out
            + usage.image_out * self.image_out
        )
        return flat + tokens / 1_000_000


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A call that was believed: valid for its model at one vendor, in canonical form.

    `canonical` is the JSON body that is hashed: sorted keys, no nulls, documented defaults left out. Without pictures it
    is what is sent; a picture stands in it by its digest, `{"sha256": …, "type": …}` in `images` and `mask`, and is sent
    as it came. `unkeyed` travels upstream beside it and is no part of the key (`user`, `safety_identifier`).
    """

    operation: Operation
    vendor: str
    model: str
    asked_model: str
    canonical: bytes = field(repr=False)
    prompt: str = field(repr=False)
    unkeyed: Mapping[str, Any] = field(repr=False)
    n: int
    size: str
    quality: str
    table_digest: str
    """Hex digest of the model's table of defaults: part of the key, so that a changed default is a changed answer."""
    output_format: str = "png"
    wants_b64_json: bool = False
    """The model takes `response_format`; we then send `b64_json`, whatever the caller wrote."""
    response_format: str | None = None
    """What the caller wrote in `response_format`, consumed here: chooses the rendering."""
    variant: str | None = None
    price: Price | None = None
    estimate: Usage | None = None
    """Expected tokens by the catalogue's formula; None where no formula is known."""
    known: bool = True
    """False for a model that the catalogue does not list."""
    shutdown_date: date | None = None
    announced_date: date | None = None
    adjusted: tuple[str, ...] = ()
    """What `rules.on_invalid = "adjust"` changed, one clause each."""
    violations: tuple[tuple[str, str], ...] = ()
    """What `rules.on_invalid = "pass"` let through, as (param, code)."""
    stream: bool = False
    """The caller wants events (`stream: true`). No part of the key: an event is another shape of the same answer."""
    partial_images: int = 0
    """How many pictures on the way there were asked for, with `stream`."""
    images: tuple["InputImage | Reference", ...] = field(default=(), repr=False)
    """What is to be edited, in the caller's order."""
    mask: "InputImage | Reference | None" = field(default=None, repr=False)
    container: Literal["json", "multipart"] = "json"
    """How the request came, and goes out."""

    @property
    def is_by_reference(self) -> bool:
        """It names pictures instead of sending them: the same name may hold another picture tomorrow."""
        pictures = (*self.images, self.mask)
        return pictures != (None,) and any(isinstance(picture, Reference) for picture in pictures)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An upstream that may answer, the request as that upstream's vendor takes it, and the key of its answer."""

    upstream: str
    cache_group: str
    request: ImageRequest
    key: str


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where one image stands in a reply's body. Ranges are [start, stop) in bytes."""

    key: tuple[int, int]
    """The member's name with its quotes: `"b64_json"`."""
    value: tuple[int, int]
    """The base64 text between the quotes."""
    url: tuple[int, int] | None
    """A sibling `url` member with one comma, to be cut when `url` is written."""
    media_type: str
    size: int
    """Bytes of the decoded image."""
    escaped: bool = False
    """The base64 text holds JSON escapes (`\\/`)."""


@dataclass(frozen=True, slots=True)
class EventMembers:
    """A body that is the data of a stream's last event: where what an ordinary reply has otherwise stands in it."""

    type: tuple[int, int] | None
    """The `type` member with one comma: no member of a reply."""
    created: tuple[int, int] | None
    """The name `"created_at"` with its quotes: a reply says `"created"`."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is kept beside a reply's body in its envelope."""

    key: str
    scope: str
    purchase_id: str
    stored_at: float
    expires_at: float
    operation: str
    model: str
    upstream: str
    cache_group: str
    size: str
    quality: str
    images: tuple[ImageSpan, ...]
    usage: Usage | None = None
    cost: Decimal | None = None
    """USD; None for a model without a price."""
    price_version: str = ""
    upstream_request_id: str | None = None
    upstream_seconds: float = 0.0
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The canonical request; with `cache.keep_prompts = false` its prompt is a digest."""
    event: EventMembers | None = None
    """Set if the body is not a reply but the data of a stream's `completed` event (one image, `b64_json` at the top)."""
    begun_at: float = 0.0
    """Not later than its purchase began: what was to be forgotten since then includes it. 0 if unknown."""


class Body(Protocol):
    """A reply's bytes, wherever they lie, readable in windows."""

    @property
    def window_bytes(self) -> int:
        """How much to ask for at once: what a slow reader holds, twice."""

    def __len__(self) -> int:
        """Bytes in all."""

    async def window(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes [start, stop). Raises StoreError if the medium gave out."""

    def reading(self) -> AbstractContextManager[None]:
        """Held while a client is being served, so that a memory limit can count what cannot be freed."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A reply and its metadata. `tier` is where it lies: `memory`, `disk`, or `none` if it could not be stored."""

    metadata: Metadata
    body: Body
    tier: Literal["memory", "disk", "none"]


@dataclass(frozen=True, slots=True)
class Relay:
    """What of an upstream's reply concerns this one call only, and is never stored.

    `headers` may be passed to the caller who paid, and `content_type` with a body that goes out as it came. `echo` is the
    `safety_identifier` member that was cut out of the body: where it stood, and its bytes.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    echo: tuple[int, bytes] | None = field(default=None, repr=False)


@noun
class Outcome:
    """A reply and how the cache took part (RFC 9211): `forward` is None for a hit."""

    entry: Entry
    forward: Forward | None
    stored: bool = False
    collapsed: bool = False
    ttl_seconds: int | None = None
    age_seconds: int = 0
    cost: Decimal | None = None
    saved: Decimal | None = None
    upstream_seconds: float = 0.0
    relay: Relay = field(default_factory=Relay)

    @property
    def label(self) -> Literal["hit", "miss", "refresh", "bypass", "coalesced"]:
        """The one word for it in the metric label, the log and (upper-case) `X-Imagegate-Cache`."""
        return "hit" if self.forward is None else self.forward.label(collapsed=self.collapsed)


@noun
class Standing:
    """How a virtual key stands, as far as this process knows: what its callers are told in headers."""

    spent: Decimal
    """USD in the present window."""
    max_budget: Decimal | None = None
    is_past_soft_budget: bool = False
    limits: Mapping[str, str] = field(default_factory=dict)
    """`x-ratelimit-*`, where the key has such limits."""


@noun
class Answer:
    """What a caller gets: the outcome, the request that it answers, and how the caller's key stands."""

    request: ImageRequest
    outcome: Outcome
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a dry run found: nothing was sent."""

    candidate: Candidate
    forward: Forward | None
    """Why it would be sent on; None if it would be a hit."""
