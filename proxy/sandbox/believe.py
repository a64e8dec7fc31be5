"""What a call to the sandbox may ask for: the proxy's own rules, without the proxy's own extras.

The real API takes no `response_format` on its image models, knows every model it has, and names no nearest size.
"""

import math
import re
from dataclasses import dataclass, field

from proxy.catalogue import Catalogue
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import Document, ImageRequest, Operation, Usage
from proxy.rule import estimate
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.originals import Originals
from proxy.sandbox.tokens import image_tokens
from proxy.settings import RulesSection
from proxy.sizes import Grid, Listed, SizeRule, parse
from proxy.strictjson import parse_object
from proxy.validation import Validator

_OURS = ("response_format", "imagegate_variant")
_FORMATS = ("png", "jpeg", "webp")
_STAND_IN = "gpt-image-2"
"""Its token formula and its sizes serve for models whose own are not known."""
_USUAL_SIDE = 1024
_HINT = re.compile(r" (?:Nearest valid size: \d+x\d+\.|It is a preview, .*)\Z")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid call, with everything resolved that the caller left to the model."""

    operation: Operation
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
    usage: Usage
    originals: Originals = field(default_factory=Originals)

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


class Believer:
    """Turns a body into an Order, or raises what the real API would answer."""

    def __init__(self, catalogue: Catalogue, options: SandboxOptions) -> None:
        rules = RulesSection(unknown_model="reject", allow_previews=options.allow_previews)
        self._validator = Validator(catalogue, rules)
        self._catalogue = catalogue
        self._vendor = options.vendor

    def request(self, document: Document, operation: Operation) -> ImageRequest:
        """Raises RequestError. The order of checks is the API's: model, unknown keys, then the rest."""
        self._refuse_ours(document, operation)
        try:
            request = self._validator.validate(document, operation, self._vendor)
        except RequestError as error:
            raise _without_hint(error) from None
        if request.is_by_reference:
            message = "The sandbox fetches nothing and keeps no files: send each picture itself, or as a data URL."
            raise InvalidRequest(message, param="images", code="invalid_value")
        return request

    def order(self, request: ImageRequest, originals: Originals) -> Order:
        """`originals` are the request's pictures, opened. Raises RequestError for what nobody can paint."""
        body = parse_object(request.canonical)
        width, height = self._pixels(request, originals)
        if request.output_format not in _FORMATS:
            message = f"Invalid value: '{request.output_format}'. Supported values are: 'png', 'jpeg', and 'webp'."
            raise InvalidRequest(message, param="output_format", code="invalid_value")
        quality = "low" if request.quality == "auto" else request.quality
        return Order(
            operation=request.operation,
            model=request.model,
            prompt=request.prompt,
            n=request.n,
            width=width,
            height=height,
            quality=quality,
            output_format=request.output_format,
            compression=body.get("output_compression", 100),
            background="transparent" if body.get("background") == "transparent" else "opaque",
            stream=request.stream,
            partial_images=request.partial_images,
            safety_identifier=request.unkeyed.get("safety_identifier") or request.unkeyed.get("user"),
            usage=Usage(
                text_in=request.n * (-(-len(request.prompt.encode("utf-8", "surrogatepass")) // 4) + 3),
                image_in=self._image_in(request, originals, is_faithful=body.get("input_fidelity") == "high"),
                image_out=self._image_out(request, f"{width}x{height}", quality),
            ),
            originals=originals,
        )

    def _refuse_ours(self, document: Document, operation: Operation) -> None:
        model = document.fields.get("model")
        rule = self._catalogue.rule(self._vendor, model) if isinstance(model, str) else None
        endpoint = None if rule is None or rule.retired else rule.endpoints.get(operation)
        if endpoint is None:
            return
        for key in _OURS:
            if key in document.fields and not (key == "response_format" and endpoint.takes_response_format):
                raise InvalidRequest(f"Unknown parameter: '{key}'.", param=key, code="unknown_parameter")

    def _limits(self, model: str) -> SizeRule | None:
        rule = self._catalogue.rule(self._vendor, model)
        return rule.size if rule is not None else None

    def _stand_in(self) -> Grid | None:
        """The sizes of a model whose own nobody has confirmed."""
        rule = self._catalogue.rule("openai", _STAND_IN)
        return rule.size if rule is not None and isinstance(rule.size, Grid) else None

    def _pixels(self, request: ImageRequest, originals: Originals) -> tuple[int, int]:
        """What `auto` becomes; and a bound for models whose own sizes nobody has confirmed."""
        size, stand_in = request.size, self._stand_in()
        parsed = self._like(request.model, originals) if size == "auto" else parse(size)
        most = stand_in.max_pixels if stand_in else _USUAL_SIDE**2
        if parsed is None or max(parsed) > 16 * min(parsed):
            message = f"Invalid size '{size[:200]}'. Expected WIDTHxHEIGHT, for example '1824x1024'."
            raise UnsupportedByModel(message, param="size", code="invalid_value")
        if parsed[0] * parsed[1] > most:
            message = f"Invalid size '{size[:200]}'. Requested resolution exceeds the current pixel budget."
            raise UnsupportedByModel(message, param="size", code="invalid_value")
        return parsed

    def _like(self, model: str, originals: Originals) -> tuple[int, int]:
        """What `auto` becomes: the valid size of the usual area that is most like the first picture; else a square."""
        limits = self._limits(model) or self._stand_in()
        if not originals.pictures or limits is None:
            return _USUAL_SIDE, _USUAL_SIDE
        width, height = originals.pictures[0].size
        if isinstance(limits, Listed):
            listed = [size for size in map(parse, limits.sizes) if size is not None]
            return min(
                listed,
                default=(_USUAL_SIDE, _USUAL_SIDE),
                key=lambda size: abs(math.log(size[0] * height / (size[1] * width))),
            )
        scale = _USUAL_SIDE / math.sqrt(width * height)
        nearest = limits.nearest(max(1, round(width * scale)), max(1, round(height * scale)))
        return nearest or (_USUAL_SIDE, _USUAL_SIDE)

    def _image_in(self, request: ImageRequest, originals: Originals, *, is_faithful: bool) -> int:
        """n images are billed like n calls."""
        limits = self._limits(request.model)
        each = (image_tokens(picture.size, limits, high_fidelity=is_faithful) for picture in originals.pictures)
        return request.n * sum(each)

    def _image_out(self, request: ImageRequest, size: str, quality: str) -> int:
        """By the catalogue's formula."""
        n, partials = request.n, request.partial_images
        for vendor, model in ((self._vendor, request.model), ("openai", _STAND_IN)):
            rule = self._catalogue.rule(vendor, model)
            if rule is None:
                continue
            expected = estimate(rule, size=size, quality=quality, n=n, prompt="", partials=partials)
            if expected is not None:
                return expected.image_out
        return request.n * 1056


def _without_hint(error: RequestError) -> RequestError:
    """The API's own words: what the proxy adds is a sentence of its own at the end."""
    twin = error.again()
    assert isinstance(twin, RequestError)
    twin.message = _HINT.sub("", twin.message)
    return twin
