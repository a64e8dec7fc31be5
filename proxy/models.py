"""`GET /v1/models` as data: what may be asked for here, in the shape of OpenAI's Model object.

The law of this file: names mean what they mean on the request path. An alias goes before a model of that name, of several
upstreams the most preferred one speaks, and what it would refuse as retired is not listed.
"""

from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.catalogue import Catalogue
from proxy.errors import NotFound
from proxy.rule import ModelRule
from proxy.settings import UpstreamSection

Model = dict[str, Any]

_PATTERN_SIGNS = frozenset("*?[")


def listing(catalogue: Catalogue, upstreams: Sequence[UpstreamSection], aliases: Mapping[str, str]) -> list[Model]:
    """Every model by its id, sorted: those of the catalogue, those that an operator named, and aliases."""
    preferred = sorted(upstreams, key=lambda section: section.priority)
    known = _known(catalogue, preferred)
    found = {name: rule for name, rule in known.items() if not rule.retired}
    models = {name: _model(name, rule.vendor, rule) for name, rule in found.items()}
    for name in _named(preferred):
        if name not in known:
            models[name] = _unlisted(name, preferred)
    targets = dict(models)
    for alias, target in aliases.items():
        models.pop(alias, None)
        if target in targets:
            models[alias] = {**targets[target], "id": alias}
        elif target not in known and any(section.serves(target) for section in preferred):
            models[alias] = _unlisted(target, preferred) | {"id": alias}
    return [models[name] for name in sorted(models)]


def find(catalogue: Catalogue, upstreams: Sequence[UpstreamSection], aliases: Mapping[str, str], model: str) -> Model:
    """One of them. Raises NotFound, worded as the API words it."""
    for found in listing(catalogue, upstreams, aliases):
        if found["id"] == model:
            return found
    raise unknown(model)


def unknown(model: str) -> NotFound:
    return NotFound(
        f"The model '{model[:200]}' does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


def _known(catalogue: Catalogue, preferred: Iterable[UpstreamSection]) -> dict[str, ModelRule]:
    """What the catalogue says of each model, retired ones included, by the most preferred upstream that lists it."""
    known: dict[str, ModelRule] = {}
    for section in preferred:
        for rule in catalogue.models(section.vendor):
            if section.serves(rule.name):
                known.setdefault(rule.name, rule)
    return known


def _named(preferred: Iterable[UpstreamSection]) -> list[str]:
    """Patterns that are no patterns: names that the operator wrote out."""
    return [name for section in preferred for name in section.models if not _PATTERN_SIGNS & set(name)]


def _unlisted(name: str, preferred: Iterable[UpstreamSection]) -> Model:
    """A model of which nothing is known but who serves it."""
    return _model(name, next(section.vendor for section in preferred if section.serves(name)), None)


def _model(name: str, vendor: str, rule: ModelRule | None) -> Model:
    created = rule.checked if rule else None
    shutdown = rule.shutdown_date if rule else None
    return {
        "id": name,
        "object": "model",
        # Not every vendor says when a model was born: the day on which our facts about it were checked stands for it.
        "created": timegm(created.timetuple()) if created else 0,
        "owned_by": vendor,
        "shutdown_date": shutdown.isoformat() if shutdown else None,
    }
