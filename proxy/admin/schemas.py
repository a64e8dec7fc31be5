"""The schemas of what the admin API takes and gives, by name, for its OpenAPI document."""

from collections.abc import Mapping
from typing import Any

_Schema = Mapping[str, Any]

_TEXT: _Schema = {"type": "string"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_FLAG: _Schema = {"type": "boolean"}
_MOMENT: _Schema = {"type": "number", "description": "Seconds since the epoch."}
_DOLLARS: _Schema = {"type": "number", "minimum": 0, "description": "US dollars."}
_NAME: _Schema = {"type": "string", "minLength": 1, "maxLength": 128}


def _or_null(schema: _Schema) -> _Schema:
    return {
        **schema,
        "type": [schema["type"], "null"],
        **({"enum": [*schema["enum"], None]} if "enum" in schema else {}),
    }


def _object(properties: Mapping[str, _Schema], *optional: str, closed: bool = True) -> _Schema:
    """Every property is there but those that are `optional`, and no other."""
    needed = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": needed,
        **({"additionalProperties": False} if closed else {}),
    }


def _fields(properties: Mapping[str, _Schema], *needed: str) -> _Schema:
    """What may be sent: nothing else is taken."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(needed)} if needed else {}),
    }


def _list(name: str, last: _Schema = _TEXT) -> _Schema:
    return _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _of(name)},
            "has_more": _FLAG,
            "last_id": {**_or_null(last), "description": "Ask for the next page with it; null of an empty page."},
        }
    )


def _of(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: _Schema) -> _Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": 100}


_LIMIT: _Schema = _or_null({"type": "integer", "minimum": 1, "maximum": 2**31 - 1})
_AMOUNT: _Schema = {
    "type": ["number", "string", "null"],
    "description": "US dollars, at most six decimal places; null for no limit.",
}
_METADATA: _Schema = {"type": "object", "description": "Anything; at most 16 KiB of JSON."}
_PERIOD: _Schema = {"type": ["string", "null"], "description": "Such as 1d, 30d or 1mo; null: never renewed."}
_SCOPE: _Schema = _or_null({"type": "string", "enum": ["key", "team", "org"]})
_ID_OF_TEAM: _Schema = _or_null({"type": "string", "pattern": "^team_[0-9a-f]{32}$"})
_REVISION: _Schema = {
    "type": ["integer", "null"],
    "description": "Only if it is still the one that was read; else 400 `changed_meanwhile`.",
}

_BUDGET_FIELDS: Mapping[str, _Schema] = {
    "max_budget": _AMOUNT,
    "soft_budget": _AMOUNT,
    "budget_duration": _PERIOD,
    "blocked": _FLAG,
    "metadata": {**_METADATA, "type": ["object", "null"]},
}
_TEAM_FIELDS: Mapping[str, _Schema] = {"team_alias": _NAME, **_BUDGET_FIELDS}
_KEY_FIELDS: Mapping[str, _Schema] = {
    "key_alias": _NAME,
    "team": {**_or_null(_NAME), "description": "Id or alias of a team; one of that alias is made if it is missing."},
    "team_id": _ID_OF_TEAM,
    "models": _or_null(_array(_NAME)),
    **_BUDGET_FIELDS,
    "rpm_limit": {**_LIMIT, "description": "Requests a minute."},
    "ipm_limit": {**_LIMIT, "description": "Images a minute."},
    "max_parallel_requests": _LIMIT,
    "max_n": _LIMIT,
    "allowed_sizes": _or_null(_array(_TEXT)),
    "allowed_qualities": _or_null(_array(_NAME)),
    "cache_scope": {**_SCOPE, "description": "Null for what `cache.scope` says."},
    "expires": {
        "type": ["number", "string", "null"],
        "description": "Seconds since the epoch, a date, a time with its zone, or a period from now on such as 30d.",
    },
}
_OF_RECORDS: Mapping[str, _Schema] = {
    "id": _TEXT,
    "max_budget": _or_null(_DOLLARS),
    "soft_budget": _or_null(_DOLLARS),
    "budget_duration": _or_null(_TEXT),
    "blocked": _FLAG,
    "metadata": {"type": "object"},
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
    "revision": _COUNT,
}
_STANDING: Mapping[str, _Schema] = {
    "spent_usd": {**_DOLLARS, "description": "US dollars, in the present window of its budget."},
    "reserved_usd": {**_DOLLARS, "description": "US dollars, for calls in flight."},
    "remaining_usd": _or_null({"type": "number", "description": "US dollars; below 0 after an overshoot."}),
    "budget_resets_at": _or_null(_MOMENT),
}
_TEAM: Mapping[str, _Schema] = {**_OF_RECORDS, "team_alias": _TEXT}
_KEY: Mapping[str, _Schema] = {
    **_OF_RECORDS,
    "key_alias": _TEXT,
    "shown": {**_TEXT, "description": "The key's beginning and end, to know it by."},
    "team_id": _or_null(_TEXT),
    "previous_until": {**_or_null(_MOMENT), "description": "How long the key before the last rotation works."},
    "models": _or_null(_array(_TEXT)),
    "rpm_limit": _LIMIT,
    "ipm_limit": _LIMIT,
    "max_parallel_requests": _LIMIT,
    "max_n": _LIMIT,
    "allowed_sizes": _or_null(_array(_TEXT)),
    "allowed_qualities": _or_null(_array(_TEXT)),
    "cache_scope": _SCOPE,
    "expires": _or_null(_MOMENT),
    "revoked_at": _or_null(_MOMENT),
}
_CACHE_ENTRY: Mapping[str, _Schema] = {
    "key": _TEXT,
    "scope": _TEXT,
    "model": _TEXT,
    "size": _TEXT,
    "quality": _TEXT,
    "images": _COUNT,
    "bytes": _COUNT,
    "tokens": _or_null(_COUNT),
    "cost_usd": {**_or_null(_TEXT), "description": "An exact decimal."},
    "upstream": _TEXT,
    "cache_group": _TEXT,
    "purchase_id": _TEXT,
    "upstream_request_id": _or_null(_TEXT),
    "stored_at": _MOMENT,
    "expires_at": _MOMENT,
}
_COUNTS = (
    *("calls", "images", "hits", "coalesced", "cached_images", "text_in", "cached_text_in", "image_in"),
    *(
        "cached_image_in",
        "unknown_in",
        "text_out",
        "image_out",
        "saved_tokens",
        "unpriced_calls",
        "failed",
        "open_calls",
    ),
)
_AMOUNTS = ("cost_usd", "estimated_usd", "unknown_usd", "saved_usd", "reserved_usd")
_DIMENSIONS = (*("day", "hour", "key", "key_id", "team", "team_id", "model", "size", "quality", "operation"),)


def _page_of(result: _Schema) -> _Schema:
    bucket = _object(
        {
            "object": {"const": "bucket"},
            "start_time": _COUNT,
            "end_time": _COUNT,
            "results": {"type": "array", "items": result},
        }
    )
    return _object(
        {
            "object": {"const": "page"},
            "data": {"type": "array", "items": bucket},
            "has_more": _FLAG,
            "next_page": _or_null(_TEXT),
        }
    )


_GROUPS: Mapping[str, _Schema] = {
    "project_id": {**_or_null(_TEXT), "description": "The id of a team."},
    "user_id": {"type": "null"},
    "api_key_id": _or_null(_TEXT),
}

SCHEMAS: Mapping[str, _Schema] = {
    "Key": _object(_KEY),
    "KeyStanding": _object({**_KEY, **_STANDING}),
    "NewKey": _object({**_KEY, "key": {**_TEXT, "description": "The key itself, told this once."}}),
    "KeyFields": _fields(_KEY_FIELDS, "key_alias"),
    "KeyChanges": _fields({**_KEY_FIELDS, "revision": _REVISION}),
    "KeyList": _list("Key"),
    "Rotation": _fields({"grace_seconds": {"type": "integer", "minimum": 0, "maximum": 7_776_000, "default": 86_400}}),
    "Nothing": _fields({}),
    "Team": _object(_TEAM),
    "TeamStanding": _object({**_TEAM, **_STANDING}),
    "TeamFields": _fields(_TEAM_FIELDS, "team_alias"),
    "TeamChanges": _fields({**_TEAM_FIELDS, "revision": _REVISION}),
    "TeamList": _list("Team"),
    "AuditLine": _object(
        {
            "id": _COUNT,
            "at": _MOMENT,
            "actor": _TEXT,
            "action": {**_TEXT, "description": "create, update, rotate, revoke, purge."},
            "kind": {"type": "string", "enum": ["key", "team", "cache"]},
            "target_id": _TEXT,
            "before": _or_null({"type": "object"}),
            "after": _or_null({"type": "object"}),
        }
    ),
    "AuditList": _list("AuditLine", _COUNT),
    "CacheStats": _object(
        {
            "directory": _TEXT,
            "entries": _COUNT,
            "bytes": _COUNT,
            "quarantined_bytes": _COUNT,
            "oldest_stored_at": _or_null(_MOMENT),
            "newest_stored_at": _or_null(_MOMENT),
            "entries_by_model": {"type": "object", "additionalProperties": _COUNT},
        }
    ),
    "CacheEntry": _object(_CACHE_ENTRY),
    "CacheEntryDetails": _object({**_CACHE_ENTRY, "request": {"type": "object"}}),
    "CacheEntryList": _list("CacheEntry"),
    "Purge": {
        **_fields(
            {
                "key": {
                    "type": "string",
                    "pattern": "^[0-9A-Fa-f]{8,64}$",
                    "description": "A key, or its first digits.",
                },
                "model": _NAME,
                "scope": _NAME,
                "older_than_seconds": {"type": "integer", "minimum": 0, "maximum": 10**10},
                "all": {"const": True},
            }
        ),
        "minProperties": 1,
        "maxProperties": 1,
    },
    "Purged": _object({"removed": _COUNT}),
    "UsageRow": _object(
        {
            **{name: _or_null(_TEXT) for name in _DIMENSIONS},
            **dict.fromkeys(_COUNTS, _COUNT),
            **dict.fromkeys(_AMOUNTS, _DOLLARS),
        },
        *_DIMENSIONS,
    ),
    "UsageList": _object(
        {
            "object": {"const": "list"},
            "by": {"type": "array", "items": _TEXT},
            "since": _MOMENT,
            "until": _MOMENT,
            "data": {"type": "array", "items": _of("UsageRow")},
        }
    ),
    "ImagesPage": _page_of(
        _object(
            {
                "object": {"const": "organization.usage.images.result"},
                "images": _COUNT,
                "num_model_requests": _COUNT,
                "size": _or_null(_TEXT),
                "source": _or_null(_TEXT),
                "model": _or_null(_TEXT),
                **_GROUPS,
            }
        )
    ),
    "CostsPage": _page_of(
        _object(
            {
                "object": {"const": "organization.costs.result"},
                "amount": _object({"value": {"type": "number"}, "currency": {"const": "usd"}}),
                "line_item": _or_null(_TEXT),
                "api_source": _or_null(_TEXT),
                "quantity": {"type": "null"},
                "quantity_unit": {"type": "null"},
                **_GROUPS,
            }
        )
    ),
    "Document": _object({"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}}, closed=False),
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)},
            )
        }
    ),
}
