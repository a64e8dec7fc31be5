"""Believing a request: a document becomes an ImageRequest, or the error that the API itself would answer.

The law: status, type, param, code and wording are the API's, and so is the order of checks, which begins with the model
(the rest is in `proxy.draft`). Pure: any document ends in an ImageRequest or a RequestError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy import faults, pictures, rule, strictjson
from proxy.catalogue import Catalogue
from proxy.draft import Draft, variant
from proxy.model import Document, ImageRequest, Operation, Usage
from proxy.settings import RulesSection

__all__ = ["Validator", "validate", "variant"]

_MODEL_CHARACTERS = 256
_SHOWN_ADJUSTMENTS = 20


@dataclass(frozen=True, slots=True)
class Validator:
    """The rules in force: a catalogue, and what the operator wants done about it."""

    catalogue: Catalogue
    rules: RulesSection

    def model_of(self, document: Document) -> str:
        """The model that is asked for, after aliases; empty if none is named."""
        asked = document.fields.get("model")
        return self.rules.aliases.get(asked, asked) if isinstance(asked, str) else ""

    def validate(self, document: Document, operation: Operation, vendor: str) -> ImageRequest:
        """Raises InvalidRequest or UnsupportedByModel, worded as the API words it."""
        asked = _asked_model(document.fields)
        name = self.rules.aliases.get(asked, asked)
        model = self.catalogue.rule(vendor, name)
        if not name or (model and model.retired) or (model is None and self.rules.unknown_model == "reject"):
            raise faults.no_such_model(name)
        model = model or self.catalogue.unlisted(vendor, name)
        endpoint = model.endpoints.get(operation)
        if endpoint is None:
            raise faults.no_such_endpoint(name, operation)
        draft = Draft(model, endpoint, self.rules, operation, document)
        draft.check()
        return _request(draft, asked)


def validate(
    document: Document, *, operation: Operation, vendor: str, catalogue: Catalogue, rules: RulesSection
) -> ImageRequest:
    """One request, judged by these rules. Raises InvalidRequest or UnsupportedByModel."""
    return Validator(catalogue, rules).validate(document, operation, vendor)


def _asked_model(fields: Mapping[str, Any]) -> str:
    asked = fields.get("model")
    if asked is None:
        raise faults.missing("model")
    if not isinstance(asked, str):
        raise faults.wrong_type("model", "a string", asked)
    if len(asked) > _MODEL_CHARACTERS or not asked.isprintable():
        raise faults.no_such_model(faults.cut(asked))
    return asked


def _request(draft: Draft, asked: str) -> ImageRequest:
    """What a draft without faults asks for."""
    model, document = draft.model, draft.document
    prompt = draft.resolved("prompt")
    return ImageRequest(
        operation=draft.operation,
        vendor=model.vendor,
        model=model.name,
        asked_model=asked,
        canonical=_canonical(draft),
        prompt=prompt if isinstance(prompt, str) else "",
        unkeyed=draft.of_role("unkeyed"),
        n=draft.n,
        size=draft.word("size"),
        quality=draft.word("quality"),
        table_digest=draft.endpoint.table_digest,
        output_format=draft.word("output_format", "png"),
        wants_b64_json=draft.endpoint.takes_response_format,
        response_format=draft.fields.get("response_format"),
        variant=draft.fields.get("imagegate_variant"),
        price=model.price,
        estimate=_estimate(draft, prompt if isinstance(prompt, str) else ""),
        known=model.known,
        shutdown_date=model.shutdown_date,
        announced_date=model.announced_date,
        adjusted=_first_few(draft.adjusted),
        violations=tuple(draft.violations),
        stream=draft.streams,
        partial_images=draft.partials,
        images=tuple(document.images or ()),
        mask=document.mask,
        container=document.container,
    )


def _canonical(draft: Draft) -> bytes:
    body: dict[str, Any] = {"model": draft.model.name}
    for key, value in draft.fields.items():
        parameter = draft.endpoint.parameters.get(key)
        if parameter is None or (parameter.role == "keyed" and not _same(value, parameter.default)):
            body[key] = value
    if draft.document.images:
        body["images"] = [pictures.member(picture) for picture in draft.document.images]
    if draft.document.mask is not None:
        body["mask"] = pictures.member(draft.document.mask)
    return strictjson.canonical(body)


def _estimate(draft: Draft, prompt: str) -> Usage | None:
    size, quality, n = draft.word("size"), draft.word("quality"), draft.n
    usage = rule.estimate(draft.model, size=size, quality=quality, n=n, prompt=prompt, partials=draft.partials)
    if draft.operation is not Operation.EDIT:
        return usage
    count = len(draft.document.images or ()) + (draft.document.mask is not None)
    fidelity = draft.resolved("input_fidelity")
    return rule.with_pictures(usage, draft.model, n=n, pictures=count, fidelity=fidelity)


def _same(value: object, default: object) -> bool:
    """Equal and of one type: to JSON, `1`, `1.0` and `true` are three values."""
    return type(value) is type(default) and value == default


def _first_few(adjusted: Sequence[str]) -> tuple[str, ...]:
    """What was adjusted, in a number that fits a header."""
    left = len(adjusted) - _SHOWN_ADJUSTMENTS
    return (*adjusted[:_SHOWN_ADJUSTMENTS], *([f"{left} more"] if left > 0 else []))
