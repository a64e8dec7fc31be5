"""OpenAI's organization usage and costs: a query string read into a bucketed query, and sums made into its pages. Pure.

Source: OpenAI API reference, "Usage" (`GET /organization/usage/images`, `GET /organization/costs`) and the result types of
its Python SDK. Buckets are multiples of their width since the epoch; the first begins at `start_time` and the last ends at
`end_time`, as OpenAI's do.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy import faults
from proxy.errors import InvalidRequest
from proxy.model import Operation
from proxy.purchase import usd
from proxy.rule import ParameterRule

_WIDTHS = {"1m": 60, "1h": 3600, "1d": 86_400}
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999
_MOST_VALUES = 100
_MOST_CHARACTERS = 256
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)
_PAGE = re.compile(r"page_([A-Za-z0-9_-]{1,64})", re.ASCII)
_DIGEST_BYTES = 12
_SOURCES = {
    "image.generation": Operation.GENERATION.value,
    "image.edit": Operation.EDIT.value,
    "image.variation": None,  # nobody can buy one here
}
_SOURCE_OF = {operation: source for source, operation in _SOURCES.items() if operation is not None}
_UNLABELED = "unlabeled"


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What one of the two takes. `limits` are the default and the most, by width."""

    name: str
    limits: Mapping[str, tuple[int, int]]
    groups: tuple[str, ...]
    filters: tuple[str, ...]


_IMAGES = _Endpoint(
    name="usage/images",
    limits={"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)},
    groups=("project_id", "user_id", "api_key_id", "model", "size", "source"),
    filters=("models", "sizes", "sources", "project_ids", "api_key_ids", "user_ids"),
)
_COSTS = _Endpoint(
    name="costs",
    limits={"1d": (7, 180)},
    groups=("project_id", "user_id", "line_item", "api_key_id", "api_source"),
    filters=("line_items", "project_ids", "api_key_ids", "user_ids"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketQuery:
    """One page: the buckets of [start, end), whole seconds since the epoch. A filter that is None lets everything pass."""

    start: int
    end: int
    width_seconds: int
    group_by: frozenset[str] = frozenset()
    """OpenAI's names."""
    models: tuple[str, ...] | None = None
    """For costs: the line items."""
    sizes: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    project_ids: tuple[str, ...] | None = None
    api_key_ids: tuple[str, ...] | None = None
    is_of_users: bool = False
    """It asks for certain users, whom nobody here knows: nothing is found."""
    next_page: str | None = None

    def is_grouped_by(self, *names: str) -> bool:
        return not self.group_by.isdisjoint(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSum:
    """What one bucket holds of one group; what was not grouped by is None. `bucket` is a multiple of the query's width."""

    bucket: int
    project_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None
    size: str | None = None
    operation: str | None = None
    images: int = 0
    calls: int = 0
    cost: int = 0
    """Nano-dollars."""


def images_query(pairs: Sequence[tuple[str, str]], now: float) -> BucketQuery:
    """From the pairs of a query string, in their order. Raises InvalidRequest."""
    return _Reader(_IMAGES, pairs).query(now)


def costs_query(pairs: Sequence[tuple[str, str]], now: float) -> BucketQuery:
    """The same for costs."""
    return _Reader(_COSTS, pairs).query(now)


def images_page(query: BucketQuery, sums: Sequence[BucketSum]) -> dict[str, Any]:
    return _page(query, sums, _images_result)


def costs_page(query: BucketQuery, sums: Sequence[BucketSum]) -> dict[str, Any]:
    return _page(query, sums, _costs_result)


class _Reader:
    """A query string. Names of lists may end in `[]`, as the SDKs write them."""

    def __init__(self, endpoint: _Endpoint, pairs: Sequence[tuple[str, str]]) -> None:
        self._endpoint = endpoint
        self._single: dict[str, str] = {}
        self._lists: dict[str, list[str]] = {}
        lists = ("group_by", *endpoint.filters)
        for written, value in pairs:
            name = written.removesuffix("[]")
            if name in lists:
                self._lists.setdefault(name, []).append(value)
            elif written not in ("start_time", "end_time", "bucket_width", "limit", "page"):
                raise faults.unknown(written)
            elif written in self._single:
                raise _invalid(written, "expected one value, but got several")
            else:
                self._single[written] = value

    def query(self, now: float) -> BucketQuery:
        start = self._integer("start_time", 0, _LAST_MOMENT)
        if start is None:
            raise faults.missing("start_time")
        asked_end = self._integer("end_time", 0, _LAST_MOMENT)
        if asked_end is not None and asked_end <= start:
            raise _invalid("end_time", "must be after 'start_time'")
        width = self._choice("bucket_width", tuple(self._endpoint.limits), "1d")
        default, most = self._endpoint.limits[width]
        limit = self._integer("limit", 1, most) or default
        groups = frozenset(self._choices("group_by", self._endpoint.groups) or ())
        filters = {name: self._filter(name) for name in self._endpoint.filters}
        seconds = _WIDTHS[width]
        # What is to come holds nothing: an end far away must not be paged to.
        end = min(asked_end or _LAST_MOMENT, (int(now) // seconds + 1) * seconds)
        cursor = _Cursor(self._endpoint.name, start, asked_end, width, limit, tuple(sorted(groups)), filters)
        first = self._first(cursor, start, seconds)
        stop = min(end, (first // seconds + limit) * seconds)
        return BucketQuery(
            start=first,
            end=stop,
            width_seconds=seconds,
            group_by=groups,
            models=filters.get("models") or filters.get("line_items"),
            sizes=filters.get("sizes"),
            operations=_operations(filters.get("sources")),
            project_ids=filters["project_ids"],
            api_key_ids=filters["api_key_ids"],
            is_of_users=filters["user_ids"] is not None,
            next_page=cursor.page(stop) if stop < end else None,
        )

    def _first(self, cursor: "_Cursor", start: int, seconds: int) -> int:
        page = self._single.get("page")
        if page is None:
            return start
        first = cursor.read(page)
        if first is None or first <= start or first % seconds:
            raise _invalid("page", "is no 'next_page' of this query; every other parameter must stay as it was")
        return first

    def _integer(self, name: str, least: int, most: int) -> int | None:
        text = self._single.get(name)
        if text is None:
            return None
        if _INTEGER.fullmatch(text) is None:
            raise faults.not_an_integer(name)
        refusal = faults.of_value(ParameterRule(name=name, type="integer", minimum=least, maximum=most), int(text))
        if refusal is not None:
            raise refusal
        return int(text)

    def _choice(self, name: str, supported: tuple[str, ...], default: str) -> str:
        text = self._single.get(name, default)
        _check_choice(name, text, supported)
        return text

    def _choices(self, name: str, supported: tuple[str, ...]) -> tuple[str, ...] | None:
        values = self._lists.get(name)
        for value in values or ():
            _check_choice(name, value, supported)
        return tuple(values) if values else None

    def _filter(self, name: str) -> tuple[str, ...] | None:
        values = self._lists.get(name)
        if values is None:
            return None
        if len(values) > _MOST_VALUES:
            raise _invalid(name, f"expected at most {_MOST_VALUES} values, but got {len(values)}")
        if any(not value.isprintable() or not 0 < len(value) <= _MOST_CHARACTERS for value in values):
            raise _invalid(name, f"expected texts of 1 to {_MOST_CHARACTERS} printable characters")
        if name == "sources":
            self._choices(name, tuple(_SOURCES))
        return tuple(sorted(set(values)))


@dataclass(frozen=True, slots=True)
class _Cursor:
    """All of a query that must stay the same from page to page."""

    endpoint: str
    start: int
    end: int | None
    width: str
    limit: int
    groups: tuple[str, ...]
    filters: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)

    def page(self, first: int) -> str:
        """An opaque text: where the next page begins, and a digest of the query."""
        content = first.to_bytes(8, "big") + self._digest()
        return "page_" + base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")

    def read(self, page: str) -> int | None:
        """None for what is not of this query."""
        match = _PAGE.fullmatch(page)
        if match is None or len(match[1]) % 4 == 1:
            return None
        content = base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
        first = int.from_bytes(content[:8], "big")
        return first if self.page(first) == page and first <= _LAST_MOMENT else None

    def _digest(self) -> bytes:
        whole = (self.endpoint, self.start, self.end, self.width, self.limit, self.groups, sorted(self.filters.items()))
        return hashlib.sha256(json.dumps(whole).encode()).digest()[:_DIGEST_BYTES]


def _check_choice(name: str, value: str, supported: tuple[str, ...]) -> None:
    refusal = faults.of_value(ParameterRule(name=name, type="string", values=supported), value)
    if refusal is not None:
        raise refusal


def _operations(sources: Sequence[str] | None) -> tuple[str, ...] | None:
    if sources is None:
        return None
    return tuple(operation for operation in (_SOURCES[source] for source in sources) if operation is not None)


def _page(query: BucketQuery, sums: Sequence[BucketSum], result: Any) -> dict[str, Any]:
    by_bucket: dict[int, list[BucketSum]] = {}
    for each in sums:
        by_bucket.setdefault(each.bucket, []).append(each)
    width = query.width_seconds
    data = [
        {
            "object": "bucket",
            "start_time": max(bucket, query.start),
            "end_time": min(bucket + width, query.end),
            "results": [result(query, each) for each in sorted(by_bucket.get(bucket, ()), key=_order)],
        }
        for bucket in range(query.start // width * width, query.end, width)
    ]
    return {"object": "page", "data": data, "has_more": query.next_page is not None, "next_page": query.next_page}


def _order(each: BucketSum) -> tuple[str, ...]:
    return tuple(
        value or "" for value in (each.project_id, each.api_key_id, each.model, each.size, each.operation or "")
    )


def _images_result(query: BucketQuery, each: BucketSum) -> dict[str, Any]:
    return {
        "object": "organization.usage.images.result",
        "images": each.images,
        "num_model_requests": each.calls,
        "size": each.size,
        "source": None if each.operation is None else _SOURCE_OF.get(each.operation, each.operation),
        "project_id": each.project_id,
        "user_id": None,
        "api_key_id": each.api_key_id,
        "model": each.model,
    }


def _costs_result(query: BucketQuery, each: BucketSum) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": float(usd(each.cost)), "currency": "usd"},
        "line_item": each.model,
        "project_id": each.project_id,
        "user_id": None,
        "api_key_id": each.api_key_id,
        "api_source": _UNLABELED if query.is_grouped_by("api_source") else None,
        "quantity": None,
        "quantity_unit": None,
    }


def _invalid(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{name}': {problem}.", param=name, code="invalid_value")
