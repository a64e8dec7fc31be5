"""What is wrong with one value, in the API's words: each function gives the error that the API itself would answer.

Source of the wording: OpenAI Images API, observed answers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from proxy import rule
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import Operation
from proxy.rule import ParameterRule
from proxy.sizes import Grid, SizeRule
from proxy.targets import Target

_SHOWN_CHARACTERS = 200
_MOST_LEVELS = 32
_A_TYPE: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "a boolean",
    float: "a decimal number",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def unknown(name: str) -> InvalidRequest:
    return InvalidRequest(f"Unknown parameter: {_quoted(name)}.", param=cut(name), code="unknown_parameter")


def wrong_type(name: str, expected: str, value: object) -> InvalidRequest:
    got = _A_TYPE[type(value)] if is_json(value) else "a file"
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return InvalidRequest(message, param=name, code="invalid_type")


def not_an_integer(name: str) -> InvalidRequest:
    """A field of a form, where every value is a string."""
    message = (
        f"Invalid type for '{name}': expected an integer, but got a string value that could not be converted into an"
        " integer."
    )
    return InvalidRequest(message, param=name, code="invalid_type")


def no_such_model(name: str) -> UnsupportedByModel:
    return UnsupportedByModel(f"The model {_quoted(name)} does not exist.", param="model", code="invalid_value")


def no_such_endpoint(name: str, operation: Operation) -> UnsupportedByModel:
    message = f"The model {_quoted(name)} is not supported on {Target(operation).route}."
    return UnsupportedByModel(message, param="model", code="invalid_value")


def of_type(parameter: ParameterRule, value: object) -> RequestError | None:
    if type(value) is rule.TYPES[parameter.type] and is_json(value):
        return None
    expected = _A_TYPE[rule.TYPES[parameter.type]]
    if parameter.values and parameter.type == "string":
        expected = f"one of {_enumerated(parameter.values, 'or')}"
    return wrong_type(parameter.name, expected, value)


def of_value(parameter: ParameterRule, value: object) -> RequestError | None:
    """For a value of the right type."""
    if isinstance(value, str):
        return _of_text(parameter, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _of_integer(parameter, value)
    return None


def of_size(limits: SizeRule, size: str, default: object) -> RequestError | None:
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


def _of_text(parameter: ParameterRule, value: str) -> RequestError | None:
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


def _of_integer(parameter: ParameterRule, value: int) -> RequestError | None:
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


def is_json(value: Any, levels: int = _MOST_LEVELS) -> bool:
    """It can be written as JSON, no deeper than a body may be: a file in the place of a value cannot."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        keys = value if isinstance(value, dict) else ()
        return levels > 0 and all(type(key) is str for key in keys) and all(is_json(each, levels - 1) for each in inner)
    return type(value) in _A_TYPE and (type(value) is not float or math.isfinite(value))


def cut(value: str) -> str:
    return value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"


def _quoted(value: str) -> str:
    return f"'{cut(value)}'"


def _enumerated(values: Sequence[str], last: str) -> str:
    """'a', 'b', and 'c' — or 'a' and 'b', or 'a'."""
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return f" {last} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {last} {quoted[-1]}"
