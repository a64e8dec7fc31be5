"""A request while it is being judged: what is asked for, held against the rules of its model and of the operator.

The law: the order of checks is the API's (unknown keys, prompt, images, n, quality, output_compression, size, the rest,
mask, combinations), and a rule that is not confirmed never refuses. Pure.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy import faults, pictures, strictjson
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import Document, Operation
from proxy.rule import Combination, Endpoint, ModelRule, ParameterRule
from proxy.settings import RulesSection
from proxy.sizes import SizeRule, parse

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_INTEGER = re.compile(rf"-?[0-9]{{1,{strictjson.MAX_INTEGER_DIGITS}}}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
# Without these there is no request: refused even where `rules.on_invalid` lets the rest through.
_WORD_CHARACTERS = 64
_MOST_COUNTED = 2**31 - 1
_INDISPENSABLE = ("prompt", "n")


def variant(value: str) -> str:
    """A variant's name, from the header or the body: a token of 1 to 128 characters (RFC 9110 §5.6.2)."""
    if not _TOKEN.fullmatch(value):
        message = "Invalid 'imagegate_variant': expected a token of 1 to 128 letters, digits or punctuation marks."
        raise InvalidRequest(message, param="imagegate_variant", code="invalid_value")
    return value


@dataclass(slots=True)
class Draft:
    """`fields` are what remains of the caller's, without model and pictures; in a form they become what they stand for."""

    model: ModelRule
    endpoint: Endpoint
    rules: RulesSection
    operation: Operation
    document: Document
    fields: dict[str, Any] = field(init=False)
    adjusted: list[str] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """`null` on a known optional parameter is the same as leaving it out."""
        known, apart = self.endpoint.parameters, ("model", *self._places())
        self.fields = {
            key: value
            for key, value in self.document.fields.items()
            if key not in apart and (value is not None or key not in known or known[key].required)
        }

    def check(self) -> None:
        self._unknown_keys()
        rules = self.endpoint.parameters.values()
        self._parameters(parameter for parameter in rules if parameter.name == "prompt")
        self._pictures(pictures.of_images)
        self._parameters(parameter for parameter in rules if parameter.name != "prompt")
        self._pictures(pictures.of_mask)
        for combination in self.model.refused:
            self._combination(combination)
        if self.streams and self.fields.get("n", 1) != 1:
            raise InvalidRequest("Streaming is only supported with n=1.", param="n", code="invalid_value")

    @property
    def streams(self) -> bool:
        return self.resolved("stream") is True

    def resolved(self, name: str) -> Any:
        """The parameter as the model will read it: what the caller wrote, else the documented default."""
        parameter = self.endpoint.parameters.get(name)
        return self.fields.get(name, parameter.default if parameter else None)

    @property
    def n(self) -> int:
        n = self.resolved("n")
        return min(n, _MOST_COUNTED) if type(n) is int and n > 0 else 1

    @property
    def partials(self) -> int:
        """Only a stream has pictures on the way."""
        partials = self.resolved("partial_images")
        return partials if self.streams and type(partials) is int else 0

    def of_role(self, role: str) -> dict[str, Any]:
        known = self.endpoint.parameters
        return {key: value for key, value in self.fields.items() if key in known and known[key].role == role}

    def word(self, name: str, otherwise: str = "auto") -> str:
        """A value by which requests are counted and kept: what is no such word, of a model not listed, is `other`."""
        value = self.resolved(name)
        if not isinstance(value, str):
            return otherwise
        return value if len(value) <= _WORD_CHARACTERS and value.isprintable() else "other"

    # --- the checks ---------------------------------------------------------------------------------------------------

    def _places(self) -> tuple[str, ...]:
        return pictures.places(self.document.container) if self.operation is Operation.EDIT else ()

    def _unknown_keys(self) -> None:
        known = self.endpoint.parameters
        unknown = [key for key in self.fields if key not in known]
        for key in unknown:
            if self.operation is Operation.EDIT and (fault := pictures.misplaced(key, self.document.container)):
                raise fault
            # A caller who asked for events waits for events; and a file is no value that could be sent on.
            always = key == "stream" or not faults.is_json(self.fields[key])
            if always or not self._lets_through(key):
                self._refuse(faults.unknown(key), drop=key, always=always)
        for key in unknown:
            if self.fields.get(key, ...) is None:
                del self.fields[key]
        if self.operation is not Operation.EDIT and (self.document.images, self.document.mask) != (None, None):
            name = "mask" if self.document.images is None else pictures.places(self.document.container)[0]
            raise faults.unknown(name)

    def _lets_through(self, key: str) -> bool:
        return self.endpoint.open or self.rules.unknown_parameter == "pass" or key in self.rules.extra_parameters

    def _pictures(self, rules: Callable[..., pictures.Faults]) -> None:
        """Nothing can be put right about a picture: it is refused, or (where it can be sent at all) let through."""
        if self.operation is Operation.EDIT:
            for fault, can_be_sent in rules(self.document, is_open=self.endpoint.open):
                self._refuse(fault, always=not can_be_sent)

    def _parameters(self, rules: Iterable[ParameterRule]) -> None:
        for parameter in rules:
            if parameter.name in self.fields:
                self._parameter(parameter, self._read(parameter, self.fields[parameter.name]))
            elif parameter.required:
                raise faults.missing(parameter.name)

    def _read(self, parameter: ParameterRule, value: Any) -> Any:
        """In a form every value is a string; what it stands for is for the catalogue to say."""
        if self.document.container == "multipart" and isinstance(value, str):
            if parameter.type == "integer" and _INTEGER.fullmatch(value):
                value = int(value)
            elif parameter.type == "boolean":
                value = _BOOLEANS.get(value, value)
            self.fields[parameter.name] = value
        return value

    def _parameter(self, parameter: ParameterRule, value: Any) -> None:
        name = parameter.name
        fault = faults.of_type(parameter, value)
        if fault is not None:
            if parameter.type == "integer" and isinstance(value, str) and self.document.container == "multipart":
                fault = faults.not_an_integer(name)
            always = name in _INDISPENSABLE or parameter.role != "keyed" or not faults.is_json(value)
            self._refuse(fault, always=always)
            return
        fault = faults.of_value(parameter, value)
        if fault is not None:
            drop = name if fault.code == "invalid_value" else None
            self._refuse(fault, drop=drop, always=parameter.role != "keyed")
        elif name == "size" and self.model.size is not None:
            self._size(self.model.size, value)
        elif name == "imagegate_variant":
            variant(value)

    def _size(self, limits: SizeRule, size: str) -> None:
        fault = faults.of_size(limits, size, self.endpoint.parameters["size"].default)
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
        if not all(
            condition.holds(self.resolved(condition.parameter), given=self._is_given(condition.parameter))
            for condition in combination.when
        ):
            return
        message = combination.message.replace("{model}", self.model.name)
        if combination.preview:
            names = {f"{name}:{combination.setting}" for name in (self.model.name, self.model.base)}
            if names & set(self.rules.allow_previews):
                return
            message += (
                " It is a preview, which the operator of this proxy may allow:"
                f' rules.allow_previews = ["{self.model.name}:{combination.setting}"].'
            )
        name = combination.parameter
        parameter = self.endpoint.parameters.get(name)
        may_go = parameter is not None and parameter.role == "keyed" and name not in _INDISPENSABLE
        fault = UnsupportedByModel(message, param=name, code=combination.code)
        self._refuse(fault, drop=name if may_go else None)

    def _is_given(self, name: str) -> bool:
        if name in self._places():
            return (self.document.mask if name == "mask" else self.document.images) is not None
        return name in self.endpoint.parameters and name in self.fields

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
