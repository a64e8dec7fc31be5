"""What a call to the sandbox may ask for: the proxy's own rules, without the proxy's own extras.

The real API takes no `response_format` on its image models, knows every model it has, and names no nearest size.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.catalogue import Catalogue
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import ImageRequest, Operation, Usage
from proxy.rule import ModelRule, estimate
from proxy.sandbox.options import SandboxOptions
from proxy.settings import RulesSection
from proxy.sizes import Grid, parse
from proxy.strictjson import parse_object
from proxy.validation import Validator

_OURS = ("response_format", "imagegate_variant")
_FORMATS = ("png", "jpeg", "webp")
_STAND_IN = "gpt-image-2"
"""Its token formula and its sizes serve for models whose own are not known."""
_HINT = re.compile(r" (?:Nearest valid size: \d+x\d+\.|It is a preview, .*)\Z")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid call, with everything resolved that the caller left to the model."""

    model: str
    prompt: str = field(repr=False)
    n: int
    width: int
    height: int
    quality: str
    output_format: str
    compression: int
    background: str
    stream: bool
    partial_images: int
    safety_identifier: str | None = field(repr=False)
    canonical: bytes = field(repr=False)
    usage: Usage

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


class Believer:
    """Turns a parsed body into an Order, or raises what the real API would answer."""

    def __init__(self, catalogue: Catalogue, options: SandboxOptions) -> None:
        rules = RulesSection(unknown_model="reject", allow_previews=options.allow_previews)
        self._validator = Validator(catalogue, rules)
        self._catalogue = catalogue
        self._vendor = options.vendor

    def order(self, document: Mapping[str, Any]) -> Order:
        """Raises RequestError. The order of checks is the API's: model, unknown keys, then the rest."""
        asked = dict(document)
        rule = self._rule(asked)
        if rule is not None:
            _refuse_ours(asked, rule)
        stream = asked.get("stream") is True
        asked["stream"] = None if stream else asked.get("stream")
        try:
            request = self._validator.validate(asked, Operation.GENERATION, self._vendor)
        except RequestError as error:
            raise _without_hint(error) from None
        if stream and request.n != 1:
            raise InvalidRequest("Streaming is only supported with n=1.", param="n", code="invalid_value")
        return self._resolve(request, stream, (asked.get("partial_images") or 0) if stream else 0)

    def _rule(self, document: Mapping[str, Any]) -> ModelRule | None:
        model = document.get("model")
        rule = self._catalogue.rule(self._vendor, model) if isinstance(model, str) else None
        return None if rule is None or rule.retired else rule

    def _resolve(self, request: ImageRequest, stream: bool, partials: int) -> Order:
        body = parse_object(request.canonical)
        width, height = self._pixels(request.size)
        if request.output_format not in _FORMATS:
            message = f"Invalid value: '{request.output_format}'. Supported values are: 'png', 'jpeg', and 'webp'."
            raise InvalidRequest(message, param="output_format", code="invalid_value")
        quality = "low" if request.quality == "auto" else request.quality
        transparent = body.get("background") == "transparent"
        identifier = request.unkeyed.get("safety_identifier") or request.unkeyed.get("user")
        return Order(
            model=request.model,
            prompt=request.prompt,
            n=request.n,
            width=width,
            height=height,
            quality=quality,
            output_format=request.output_format,
            compression=body.get("output_compression", 100),
            background="transparent" if transparent else "opaque",
            stream=stream,
            partial_images=partials,
            safety_identifier=identifier,
            canonical=request.canonical,
            usage=self._usage(request, f"{width}x{height}", quality, partials),
        )

    def _pixels(self, size: str) -> tuple[int, int]:
        """What `auto` becomes; and a bound for models whose own sizes nobody has confirmed."""
        parsed = (1024, 1024) if size == "auto" else parse(size)
        stand_in = self._catalogue.rule("openai", _STAND_IN)
        most = stand_in.size.max_pixels if stand_in and isinstance(stand_in.size, Grid) else 1024 * 1024
        if parsed is None or max(parsed) > 16 * min(parsed):
            message = f"Invalid size '{size[:200]}'. Expected WIDTHxHEIGHT, for example '1824x1024'."
            raise UnsupportedByModel(message, param="size", code="invalid_value")
        if parsed[0] * parsed[1] > most:
            message = f"Invalid size '{size[:200]}'. Requested resolution exceeds the current pixel budget."
            raise UnsupportedByModel(message, param="size", code="invalid_value")
        return parsed

    def _usage(self, request: ImageRequest, size: str, quality: str, partials: int) -> Usage:
        """Output tokens by the catalogue's formula; input tokens at four bytes each, as English text has them."""
        text_in = request.n * (-(-len(request.prompt.encode("utf-8", "surrogatepass")) // 4) + 3)
        for vendor, model in ((self._vendor, request.model), ("openai", _STAND_IN)):
            rule = self._catalogue.rule(vendor, model)
            if rule is None:
                continue
            expected = estimate(rule, size=size, quality=quality, n=request.n, prompt=request.prompt, partials=partials)
            if expected is not None:
                return Usage(text_in=text_in, image_out=expected.image_out)
        return Usage(text_in=text_in, image_out=request.n * 1056)


def _refuse_ours(document: Mapping[str, Any], rule: ModelRule) -> None:
    endpoint = rule.endpoints.get(Operation.GENERATION)
    for key in _OURS:
        taken = key == "response_format" and endpoint is not None and endpoint.takes_response_format
        if key in document and not taken:
            raise InvalidRequest(f"Unknown parameter: '{key}'.", param=key, code="unknown_parameter")


def _without_hint(error: RequestError) -> RequestError:
    """The API's own words: what the proxy adds is a sentence of its own at the end."""
    twin = error.again()
    assert isinstance(twin, RequestError)
    twin.message = _HINT.sub("", twin.message)
    return twin
