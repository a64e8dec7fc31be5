"""Believing a request: a JSON object becomes an ImageRequest, or the error that the API itself would answer.

The law: the order of checks is the API's (model, unknown keys, prompt, n, quality, output_compression, size, the rest,
combinations), status, type, param, code and wording are the API's, and a rule that is not confirmed never refuses.
Pure: any object ends in an ImageRequest or a RequestError. Source of the wording: OpenAI Images API, observed answers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy import rule, strictjson
from proxy.catalogue import Catalogue
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import ImageRequest, Operation
from proxy.rule import Combination, Endpoint, ModelRule, ParameterRule
from proxy.settings import RulesSection
from proxy.sizes import Grid, SizeRule, parse

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_SHOWN_CHARACTERS = 200
_MODEL_CHARACTERS = 256
_SHOWN_ADJUSTMENTS = 20
# Without these there is no request: refused even where `rules.on_invalid` lets the rest through.
_INDISPENSABLE = ("prompt", "n")
_A_TYPE = {str: "a string", int: "an integer", bool: "a boolean", float: "a decimal number", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Validator:
    """The rules in force: a catalogue, and what the operator wants done about it."""

    catalogue: Catalogue
    rules: RulesSection

    def model_of(self, document: Mapping[str, Any]) -> str:
        """The model that is asked for, after aliases; empty if none is named."""
        asked = document.get("model")
        return self.rules.aliases.get(asked, asked) if isinstance(asked, str) else ""

    def validate(self, document: Mapping[str, Any], operation: Operation, vendor: str) -> ImageRequest:
        """Raises InvalidRequest or UnsupportedByModel, worded as the API words it."""
        asked = _asked_model(document)
        name = self.rules.aliases.get(asked, asked)
        model = self.catalogue.rule(vendor, name)
        if not name or (model and model.retired) or (model is None and self.rules.unknown_model == "reject"):
            raise _no_such_model(name)
        model = model or rule.shape_only(vendor, name)
        endpoint = model.endpoints.get(operation)
        if endpoint is None:
            raise _no_such_model(name)
        draft = _Draft(model, endpoint, self.rules, _without_nulls(document, endpoint))
        draft.check(document)
        return draft.request(operation, asked)


def validate(
    document: Mapping[str, Any], *, operation: Operation, vendor: str, catalogue: Catalogue, rules: RulesSection
) -> ImageRequest:
    """One request, judged by these rules. Raises InvalidRequest or UnsupportedByModel."""
    return Validator(catalogue, rules).validate(document, operation, vendor)


def variant(value: str) -> str:
    """A variant's name, from the header or the body: a token of 1 to 128 characters (RFC 9110 §5.6.2)."""
    if not _TOKEN.fullmatch(value):
        message = "Invalid 'imagegate_variant': expected a token of 1 to 128 letters, digits or punctuation marks."
        raise InvalidRequest(message, param="imagegate_variant", code="invalid_value")
    return value


def _asked_model(document: Mapping[str, Any]) -> str:
    asked = document.get("model")
    if asked is None:
        raise _missing("model")
    if not isinstance(asked, str):
        raise _wrong_type("model", "a string", asked)
    if len(asked) > _MODEL_CHARACTERS:
        raise _no_such_model(_cut(asked))
    return asked


def _without_nulls(document: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """`null` on a known optional parameter is the same as leaving it out."""
    known = endpoint.parameters
    return {
        key: value
        for key, value in document.items()
        if key != "model" and (value is not None or key not in known or known[key].required)
    }


@dataclass(slots=True)
class _Draft:
    """A request while it is being judged: `fields` are what remains of the caller's."""

    model: ModelRule
    endpoint: Endpoint
    rules: RulesSection
    fields: dict[str, Any]
    adjusted: list[str] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)

    def check(self, document: Mapping[str, Any]) -> None:
        self._unknown_keys(document)
        for name, parameter in self.endpoint.parameters.items():
            if name in self.fields:
                self._parameter(parameter, self.fields[name])
            elif parameter.required:
                raise _missing(name)
        for combination in self.model.refused:
            self._combination(combination)
        self._stream()

    def resolved(self, name: str) -> Any:
        """The parameter as the model will read it: what the caller wrote, else the documented default."""
        parameter = self.endpoint.parameters.get(name)
        return self.fields.get(name, parameter.default if parameter else None)

    def _unknown_keys(self, document: Mapping[str, Any]) -> None:
        known = self.endpoint.parameters
        unknown = [key for key in document if key not in known and key != "model"]
        if not unknown:
            return
        for key in unknown:
            if self._lets_through(key):
                continue
            fault = InvalidRequest(f"Unknown parameter: {_quoted(key)}.", param=_cut(key), code="unknown_parameter")
            self._refuse(fault, drop=key)
        for key in unknown:
            if self.fields.get(key, ...) is None:
                del self.fields[key]

    def _lets_through(self, key: str) -> bool:
        return self.endpoint.open or self.rules.unknown_parameter == "pass" or key in self.rules.extra_parameters

    def _parameter(self, parameter: ParameterRule, value: Any) -> None:
        name = parameter.name
        fault = _type_fault(parameter, value)
        if fault is not None:
            self._refuse(fault, always=name in _INDISPENSABLE or parameter.role != "keyed")
            return
        fault = _value_fault(parameter, value)
        if fault is not None:
            drop = name if fault.code == "invalid_value" else None
            self._refuse(fault, drop=drop, always=parameter.role != "keyed")
        elif name == "size" and self.model.size is not None:
            self._size(self.model.size, value)
        elif name == "imagegate_variant":
            variant(value)

    def _size(self, limits: SizeRule, size: str) -> None:
        fault = _size_fault(limits, size, self.endpoint.parameters["size"].default)
        if fault is None:
            return
        wanted = parse(size)
        nearest = limits.nearest(*wanted) if wanted else None
        if nearest is None:
            self._refuse(fault)
            return
        snapped = "{}x{}".format(*nearest)
        if self.rules.on_invalid == "adjust":
            self.fields["size"] = snapped
            self.adjusted.append(f"size={size}->{snapped}")
            return
        self._refuse(type(fault)(f"{fault.message} Nearest valid size: {snapped}.", param="size", code=fault.code))

    def _combination(self, combination: Combination) -> None:
        if not all(condition.holds(self.resolved(condition.parameter)) for condition in combination.when):
            return
        message = combination.message
        if combination.preview:
            names = {f"{name}:{combination.setting}" for name in (self.model.name, self.model.base)}
            if names & set(self.rules.allow_previews):
                return
            message += (
                " It is a preview, which the operator of this proxy may allow:"
                f' rules.allow_previews = ["{self.model.name}:{combination.setting}"].'
            )
        fault = UnsupportedByModel(message, param=combination.parameter, code=combination.code)
        self._refuse(fault, drop=combination.parameter)

    def _stream(self) -> None:
        if self.fields.get("stream") is not True:
            return
        if self.fields.get("n", 1) != 1:
            raise InvalidRequest("Streaming is only supported with n=1.", param="n", code="invalid_value")
        message = 'This version of imagegate does not serve streams yet; send "stream": false.'
        raise InvalidRequest(message, param="stream", code="unsupported_value")

    def _refuse(self, fault: RequestError, *, drop: str | None = None, always: bool = False) -> None:
        """Raises the fault, or does instead what `rules.on_invalid` says: drops the parameter, or lets it through."""
        if always or self.rules.on_invalid == "reject":
            raise fault
        if self.rules.on_invalid == "pass":
            self.violations.append((fault.param or "", fault.code or ""))
        elif drop is not None and drop in self.fields:
            del self.fields[drop]
            self.adjusted.append(f"{drop} dropped" if _TOKEN.fullmatch(drop) else "a parameter dropped")
        else:
            raise fault

    # --- the result ---------------------------------------------------------------------------------------------------

    def request(self, operation: Operation, asked: str) -> ImageRequest:
        n = self.resolved("n")
        images = n if isinstance(n, int) and n > 0 else 1
        size, quality = self._word("size"), self._word("quality")
        prompt: str = self.fields["prompt"]
        return ImageRequest(
            operation=operation,
            vendor=self.model.vendor,
            model=self.model.name,
            asked_model=asked,
            canonical=self._canonical(),
            prompt=prompt,
            unkeyed=self._of_role("unkeyed"),
            n=images,
            size=size,
            quality=quality,
            table_digest=self.endpoint.table_digest,
            output_format=self._word("output_format", "png"),
            wants_b64_json=self.endpoint.takes_response_format,
            response_format=self.fields.get("response_format"),
            variant=self.fields.get("imagegate_variant"),
            price=self.model.price,
            estimate=rule.estimate(self.model, size=size, quality=quality, n=images, prompt=prompt),
            known=self.model.known,
            shutdown_date=self.model.shutdown_date,
            announced_date=self.model.announced_date,
            adjusted=_first_few(self.adjusted),
            violations=tuple(self.violations),
        )

    def _canonical(self) -> bytes:
        body: dict[str, Any] = {"model": self.model.name}
        for key, value in self.fields.items():
            parameter = self.endpoint.parameters.get(key)
            if parameter is None or (parameter.role == "keyed" and not _same(value, parameter.default)):
                body[key] = value
        return strictjson.canonical(body)

    def _of_role(self, role: str) -> dict[str, Any]:
        known = self.endpoint.parameters
        return {key: value for key, value in self.fields.items() if key in known and known[key].role == role}

    def _word(self, name: str, otherwise: str = "auto") -> str:
        value = self.resolved(name)
        return value if isinstance(value, str) else otherwise


# --- what is wrong with one value, in the API's words -----------------------------------------------------------------


def _type_fault(parameter: ParameterRule, value: Any) -> RequestError | None:
    if type(value) is rule.TYPES[parameter.type]:
        return None
    expected = _A_TYPE[rule.TYPES[parameter.type]]
    if parameter.values and parameter.type == "string":
        expected = f"one of {_enumerated(parameter.values, 'or')}"
    return _wrong_type(parameter.name, expected, value)


def _value_fault(parameter: ParameterRule, value: Any) -> RequestError | None:
    if isinstance(value, str):
        return _text_fault(parameter, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer_fault(parameter, value)
    return None


def _text_fault(parameter: ParameterRule, value: str) -> RequestError | None:
    name, least, most = parameter.name, parameter.min_length, parameter.max_length
    if parameter.values and value not in parameter.values and value not in parameter.unconfirmed:
        supported = _enumerated(parameter.values, "and")
        message = f"Invalid value: {_quoted(value)}. Supported values are: {supported}."
        return InvalidRequest(message, param=name, code="invalid_value")
    if least and not value:
        message = (
            f"Invalid '{name}': empty string. Expected a string with minimum length {least}, but got an empty string"
            " instead."
        )
        return InvalidRequest(message, param=name, code="empty_string")
    if most is not None and len(value) > most:
        message = (
            f"Invalid '{name}': string too long. Expected a string with maximum length {most}, but got a string with"
            f" length {len(value)} instead."
        )
        return InvalidRequest(message, param=name, code="string_above_max_length")
    return None


def _integer_fault(parameter: ParameterRule, value: int) -> RequestError | None:
    name, least, most = parameter.name, parameter.minimum, parameter.maximum
    if most is not None and value > most:
        message = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        return InvalidRequest(message, param=name, code="integer_above_max_value")
    if least is not None and value < least:
        message = (
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        return InvalidRequest(message, param=name, code="integer_below_min_value")
    return None


def _size_fault(limits: SizeRule, size: str, default: object) -> RequestError | None:
    if not limits.confirmed or size == default:
        return None
    if isinstance(limits, Grid):
        sentence = limits.fault(size)
        message = f"Invalid size {_quoted(size)}. {sentence}"
        return UnsupportedByModel(message, param="size", code="invalid_value") if sentence else None
    if size in limits.sizes:
        return None
    message = f"Invalid value: {_quoted(size)}. Supported values are: {_enumerated(limits.sizes, 'and')}."
    return InvalidRequest(message, param="size", code="invalid_value")


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def _wrong_type(name: str, expected: str, value: Any) -> InvalidRequest:
    got = "null" if value is None else _A_TYPE.get(type(value), "an array")
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return InvalidRequest(message, param=name, code="invalid_type")


def _no_such_model(name: str) -> UnsupportedByModel:
    return UnsupportedByModel(f"The model {_quoted(name)} does not exist.", param="model", code="invalid_value")


def _enumerated(values: Sequence[str], last: str) -> str:
    """'a', 'b', and 'c' — or 'a' and 'b', or 'a'."""
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return f" {last} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {last} {quoted[-1]}"


def _quoted(value: str) -> str:
    return f"'{_cut(value)}'"


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"


def _same(value: object, default: object) -> bool:
    """Equal and of one type: to JSON, `1`, `1.0` and `true` are three values."""
    return type(value) is type(default) and value == default


def _first_few(adjusted: Sequence[str]) -> tuple[str, ...]:
    """What was adjusted, in a number that fits a header."""
    left = len(adjusted) - _SHOWN_ADJUSTMENTS
    return (*adjusted[:_SHOWN_ADJUSTMENTS], *([f"{left} more"] if left > 0 else []))
