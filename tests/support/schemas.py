"""Checks values by the part of JSON Schema 2020-12 that our OpenAPI document uses; a word it does not know is an error."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_ANNOTATIONS = {"description", "default", "examples"}
_MEMBERS = {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}
_CHECKED = {
    *{"type", "const", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum"},
    *{"items", "minItems", "maxItems", "$ref"},
    *_MEMBERS,
}


def problems(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any], at: str = "$") -> Iterator[str]:
    """What is wrong, each with its place. `document` is what references point into."""
    unknown = schema.keys() - _CHECKED - _ANNOTATIONS
    if unknown:
        yield f"{at}: the schema says {unknown}, which is not checked"
    if "$ref" in schema:
        yield from problems(value, resolved(schema["$ref"], document), document, at)
    if "type" in schema and not _is_of(value, schema["type"]):
        yield f"{at}: {value!r} is no {schema['type']}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    yield from (f"{at}: {value!r} {fault}" for fault in _beyond(value, schema))
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from problems(each, schema.get("items", {}), document, f"{at}[{number}]")
    if isinstance(value, dict):
        yield from _of_members(value, schema, document, at)


def resolved(reference: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    assert isinstance(found, Mapping)
    return found


def _of_members(
    value: Mapping[str, Any], schema: Mapping[str, Any], document: Mapping[str, Any], at: str
) -> Iterator[str]:
    known = schema.get("properties", {})
    yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, each in value.items():
        inner = known.get(name, schema.get("additionalProperties", True))
        if inner is False:
            yield f"{at}: {name} should not be there"
        elif inner is not True:
            yield from problems(each, inner, document, f"{at}.{name}")


def _is_of(value: Any, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _beyond(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    size = len(value) if isinstance(value, str | list | dict) else None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    for kind, measured in (("Length", str), ("Items", list), ("Properties", dict)):
        if isinstance(value, measured) and size is not None:
            if size < schema.get(f"min{kind}", 0):
                yield f"is shorter than min{kind}"
            if size > schema.get(f"max{kind}", size):
                yield f"is longer than max{kind}"
    if number is not None and not schema.get("minimum", number) <= number <= schema.get("maximum", number):
        yield "is out of range"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"does not match {schema['pattern']}"
