"""What is known of one model at one vendor, as frozen values: what it takes, what it refuses, what it should cost."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from proxy.model import Operation, Price, Usage
from proxy.sizes import SizeRule, parse
from proxy.strictjson import canonical

ParameterType = Literal["string", "integer", "boolean", "object"]
Role = Literal["keyed", "unkeyed", "consumed"]

FRAMING_TOKENS = 32
"""Added to a prompt's upper bound, for the text that the API puts around it."""

_ORDER_OF_CHECKS = ("prompt", "n", "quality", "output_compression", "size")
TYPES: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool, "object": dict}
ROLES: Mapping[str, Role] = {
    "user": "unkeyed",
    "safety_identifier": "unkeyed",
    "stream": "consumed",
    "partial_images": "consumed",
    "response_format": "consumed",
    "imagegate_variant": "consumed",
}


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """One parameter. `unconfirmed` values are let through and never named in an error."""

    name: str
    type: ParameterType
    required: bool = False
    default: str | int | bool | None = None
    values: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    role: Role = "keyed"
    """`keyed`: sent and hashed; `unkeyed`: sent beside the key; `consumed`: meant for this proxy."""


# What is checked of a model that the catalogue does not know, and of one that is `open`.
_SHAPE = (
    ParameterRule("prompt", "string", required=True, min_length=1),
    ParameterRule("n", "integer", minimum=1),
    ParameterRule("quality", "string"),
    ParameterRule("size", "string"),
    ParameterRule("output_format", "string"),
    ParameterRule("user", "string", role="unkeyed"),
    ParameterRule("safety_identifier", "string", role="unkeyed"),
    ParameterRule("stream", "boolean", role="consumed"),
    ParameterRule("partial_images", "integer", minimum=0, role="consumed"),
)
# What this proxy takes itself, on every model.
_OURS = (
    ParameterRule("response_format", "string", values=("b64_json", "data_url", "url"), role="consumed"),
    ParameterRule("imagegate_variant", "string", role="consumed"),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds when a parameter's resolved value is `equals`, or an integer beyond a limit; or when it was `given` at all."""

    parameter: str
    equals: str | int | bool | None = None
    below: int | None = None
    above: int | None = None
    given: bool = False

    def holds(self, value: object, *, given: bool) -> bool:
        if self.given:
            return given
        if self.below is not None:
            return type(value) is int and value < self.below
        if self.above is not None:
            return type(value) is int and value > self.above
        return type(value) is type(self.equals) and value == self.equals


@dataclass(frozen=True, slots=True)
class Combination:
    """Parameters that are valid one by one and refused together; `parameter` is the one to blame, or to drop.

    `{model}` in the message stands for the model's name.
    """

    parameter: str
    when: tuple[Condition, ...]
    message: str
    code: str = "invalid_value"
    preview: bool = False

    @property
    def setting(self) -> str:
        """The blamed parameter with its value, as `rules.allow_previews` writes it: `background=transparent`."""
        value = next((condition.equals for condition in self.when if condition.parameter == self.parameter), None)
        return f"{self.parameter}={value}"


@dataclass(frozen=True, slots=True)
class Extras:
    """Tokens beside those of the images asked for; 0 where nobody knows."""

    per_partial: int = 0
    """Out, for each picture on the way."""
    per_input_image: int = 0
    """In, at most, for each picture to be edited, and for a mask."""
    per_input_image_high: int = 0
    """The same with `input_fidelity` high, where that is more."""


_NONE = Extras()


@dataclass(frozen=True, slots=True)
class Formula:
    """Tokens of one image from its size, by a factor per quality (see `image_tokens`)."""

    factors: Mapping[str, int]
    extras: Extras = _NONE

    def image_tokens(self, size: str, quality: str) -> int | None:
        """ceil(q * s * (2,000,000 + W*H) / 4,000,000), where s is q * short side / long side, rounded half up."""
        parsed, q = parse(size), self.factors.get(quality)
        if parsed is None or q is None:
            return None
        long, short = max(parsed), min(parsed)
        units = (2 * q * short + long) // (2 * long)
        return -(-q * units * (2_000_000 + long * short) // 4_000_000)


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Tokens of one image, listed by size and quality."""

    images: Mapping[str, Mapping[str, int]]
    extras: Extras = _NONE

    def image_tokens(self, size: str, quality: str) -> int | None:
        return self.images.get(size, {}).get(quality)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of a model: its parameters in the order in which they are checked."""

    parameters: Mapping[str, ParameterRule]
    open: bool = False
    """Parameters that are not listed pass."""
    takes_response_format: bool = False
    table_digest: str = ""


@dataclass(frozen=True, slots=True)
class ModelRule:
    """One model at one vendor. `base` is the model whose dated snapshot this is, else its own name."""

    vendor: str
    name: str
    base: str
    endpoints: Mapping[Operation, Endpoint]
    size: SizeRule | None = None
    presets: tuple[str, ...] = ()
    refused: tuple[Combination, ...] = ()
    price: Price | None = None
    tokens: Formula | TokenTable | None = None
    auto_estimate: Mapping[str, str] = field(default_factory=dict)
    """`size` and `quality` to reckon with where the caller leaves them to the model."""
    shutdown_date: date | None = None
    announced_date: date | None = None
    retired: bool = False
    known: bool = True
    source: str = ""
    checked: date | None = None


def endpoint(declared: Mapping[str, ParameterRule], *, is_open: bool) -> Endpoint:
    """Puts our own parameters beside the declared ones, in the order of checks."""
    ours = {rule.name: rule for rule in _OURS}
    shape = {rule.name: rule for rule in _SHAPE} if is_open else {}
    rules = {**shape, **declared, **ours}
    ordered = [name for name in _ORDER_OF_CHECKS if name in rules]
    ordered += [name for name in rules if name not in _ORDER_OF_CHECKS]
    defaults = {name: rule.default for name, rule in rules.items() if rule.role == "keyed" and rule.default is not None}
    digest = hashlib.sha256(canonical(defaults)).hexdigest()[:16]
    return Endpoint({name: rules[name] for name in ordered}, is_open, "response_format" in declared, digest)


def shape_only(vendor: str, model: str) -> ModelRule:
    """The rule for a model that no catalogue lists: shapes are checked, everything else passes."""
    shape = endpoint({}, is_open=True)
    return ModelRule(vendor, model, model, dict.fromkeys(Operation, shape), known=False)


def estimate(rule: ModelRule, *, size: str, quality: str, n: int, prompt: str, partials: int = 0) -> Usage | None:
    """Expected tokens of one call; None where no formula is known, or where it does not reach.

    The input is an upper bound: every token of a byte-pair encoding stands for at least one byte, so a prompt has no
    more tokens than bytes in UTF-8; `FRAMING_TOKENS` more for what is put around it. n images are billed like n calls.
    """
    if rule.tokens is None:
        return None
    size = rule.auto_estimate.get("size", size) if size == "auto" else size
    quality = rule.auto_estimate.get("quality", quality) if quality == "auto" else quality
    image = rule.tokens.image_tokens(size, quality)
    if image is None:
        return None
    text = len(prompt.encode("utf-8", "surrogatepass")) + FRAMING_TOKENS
    return Usage(text_in=n * text, image_out=n * image + partials * rule.tokens.extras.per_partial)


def with_pictures(usage: Usage | None, rule: ModelRule, *, n: int, pictures: int, fidelity: object) -> Usage | None:
    """The estimate of an edit: an upper bound for its pictures beside the rest; None where no bound is known."""
    if usage is None or rule.tokens is None:
        return None
    extras = rule.tokens.extras
    each = (extras.per_input_image_high if fidelity == "high" else 0) or extras.per_input_image
    return replace(usage, image_in=n * pictures * each) if each else None
