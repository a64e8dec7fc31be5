"""The JSON body of an edit, read but for its pictures: what it says, and where the base64 of each picture stands.

The law: megabytes are walked over, never parsed; what is parsed is parsed strictly (proxy/strictjson.py), its long names and
texts included. Pure, and meant for a worker thread.

Source: OpenAI API reference, "EditImageBodyJsonParam".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.errors import ImagegateError, InvalidRequest, PayloadTooLarge
from proxy.model import Reference
from proxy.skeleton import Skeleton
from proxy.uploads.dataurl import beginning

MAX_URL_CHARACTERS = 20_971_520
_SCHEME_CHARACTERS = len("https://")
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Inline:
    """A picture that stands in the body: its data URL is the bytes [start, stop) of `text`, or else of the body."""

    where: str
    """`images[0].image_url`"""
    start: int
    stop: int
    escaped: bool = False
    text: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outline:
    """A Document (proxy/model.py) in which each picture is an Inline."""

    fields: Mapping[str, Any]
    images: tuple[Any, ...] | None
    mask: Any


def outline(view: memoryview, *, max_text_bytes: int, max_pictures: int) -> Outline:
    """Reads a whole body. Raises InvalidRequest, or PayloadTooLarge if it is large without its pictures."""
    reading = _Reading(Skeleton(view, _refused, max_text_bytes=max_text_bytes), max_text_bytes)
    members = reading.members(reading.skeleton.document(), "")
    images = members.pop("images") if isinstance(members.get("images"), list) else None
    if images is not None and len(images) > max_pictures:
        raise too_many("images", max_pictures, len(images))
    mask = members.pop("mask", None)
    return Outline(
        fields={name: reading.value(value, name[:_SHOWN_CHARACTERS]) for name, value in members.items()},
        images=None if images is None else tuple(reading.picture(each, "images", i) for i, each in enumerate(images)),
        mask=reading.picture(mask, "mask"),
    )


def too_many(param: str, maximum: int, length: int) -> InvalidRequest:
    """More pictures than an edit takes."""
    return InvalidRequest(
        f"Invalid '{param}': array too long. Expected an array with maximum length {maximum}, but got an array with "
        f"length {length} instead.",
        param=param,
        code="array_above_max_length",
    )


def bad_data_url(where: str, what: str) -> InvalidRequest:
    """`what` came where a picture was expected."""
    return InvalidRequest(
        f"Invalid '{where}'. Expected a base64-encoded data URL with an image MIME type (e.g. "
        f"'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got {what}.",
        param=param_of(where),
        code="invalid_value",
    )


def too_long(where: str, maximum: int, length: int | None = None) -> InvalidRequest:
    """A text longer than is read."""
    found = "a longer string" if length is None else f"a string with length {length}"
    return InvalidRequest(
        f"Invalid '{where}': string too long. Expected a string with maximum length {maximum}, but got {found} instead.",
        param=param_of(where),
        code="string_above_max_length",
    )


def param_of(where: str) -> str:
    """The top-level member that a path begins with."""
    return where.partition("[")[0].partition(".")[0]


class _Reading:
    """A body's members on their way from the skeleton to what they were."""

    def __init__(self, skeleton: Skeleton, max_text_bytes: int) -> None:
        self.skeleton = skeleton
        self._max_text_bytes = max_text_bytes
        self._text_bytes = 0
        self._add(len(skeleton.text), "")

    def members(self, value: Mapping[str, Any], param: str) -> dict[str, Any]:
        """An object's members by their names as they were; the parser has not seen the long ones."""
        found: dict[str, Any] = {}
        for spelled, member in value.items():
            name = self._text(spelled, param)
            if name in found:
                raise _refused(f"has the duplicate key '{name[:_SHOWN_CHARACTERS]}'")
            found[name] = member
        return found

    def value(self, value: Any, param: str) -> Any:
        """A value as it was."""
        if isinstance(value, str):
            return self._text(value, param)
        if isinstance(value, list):
            return [self.value(element, param) for element in value]
        if isinstance(value, dict):
            return {name: self.value(member, param) for name, member in self.members(value, param).items()}
        return value

    def picture(self, value: Any, param: str, index: int | None = None) -> Any:
        """An Inline, a Reference, or whatever else is there, to be refused. `null` is the same as leaving out."""
        if not isinstance(value, dict):
            return self.value(value, param)
        members = self.members(value, param)
        given = {name: member for name, member in members.items() if member is not None}
        match given:
            case {"image_url": str(url)} if len(given) == 1 and url:
                where = f"{param}.image_url" if index is None else f"{param}[{index}].image_url"
                return self._at_url(url, where)
            case {"file_id": str(file_id)} if len(given) == 1 and file_id:
                return Reference({"file_id": self._text(file_id, param)})
        return {name: self.value(member, param) for name, member in members.items()}

    def _at_url(self, url: str, where: str) -> Any:
        number = self.skeleton.long_string(url)
        if number is None:
            scheme, inline = url, Inline(where, 0, len(url.encode()), text=url.encode())
        else:
            (start, stop), escaped = self.skeleton.take(number)
            scheme = beginning(bytes(self.skeleton.view[start:stop][:64]), _SCHEME_CHARACTERS)
            inline = Inline(where, start, stop, escaped)
        scheme = scheme[:_SCHEME_CHARACTERS].lower()
        if scheme.startswith("data:"):
            if not inline.escaped and inline.stop - inline.start > MAX_URL_CHARACTERS:
                raise too_long(where, MAX_URL_CHARACTERS, inline.stop - inline.start)
            return inline
        if scheme.startswith(("http://", "https://")):
            return Reference({"image_url": self._text(url, where)})
        if inline.stop - inline.start > self._max_text_bytes:
            raise bad_data_url(where, "a value without the 'data:' prefix")
        return {"image_url": self._text(url, where)}

    def _text(self, value: str, where: str) -> str:
        number = self.skeleton.long_string(value)
        if number is None:
            return value
        (start, stop), _ = self.skeleton.take(number)
        self._add(stop - start, where)
        return self.skeleton.string(value)

    def _add(self, size: int, where: str) -> None:
        if size > self._max_text_bytes and where:
            raise too_long(where, self._max_text_bytes)
        self._text_bytes += size
        if self._text_bytes > self._max_text_bytes:
            limit = self._max_text_bytes
            raise PayloadTooLarge(f"The JSON body of your request is larger than {limit} bytes without its pictures.")


def _refused(what: str) -> ImagegateError:
    return InvalidRequest(f"We could not parse the JSON body of your request: it {what}.")
