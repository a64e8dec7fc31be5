"""Rows of the ledger, put into a database as they are, without anybody having bought anything."""

import itertools
from typing import Any

from sqlalchemy import insert

from proxy.database.engine import Database
from proxy.database.tables import PURCHASES, TALLIES, TOKEN_COLUMNS

NOON = 1_795_348_800.0
"""2026-11-22 12:00:00Z."""
_NUMBERS = itertools.count(1)


def bought(database: Database, at: float = NOON, **fields: Any) -> str:
    """One purchase, settled for $0.05 unless `fields` say otherwise; its id."""
    row = purchase(at, **fields)
    buy(database, row)
    return str(row["id"])


def buy(database: Database, *rows: dict[str, Any]) -> None:
    with database.writing() as connection:
        connection.execute(insert(PURCHASES), list(rows))


def purchase(at: float = NOON, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"buy_{next(_NUMBERS):08}",
        "outcome": "settled",
        "opened_at": at,
        "closed_at": at + 20,
        "lease_until": at + 650,
        "instance": "0123456789abcdef",
        "key_id": None,
        "team_id": None,
        "operation": "image_generation",
        "model": "gpt-image-2",
        "upstream": "openai",
        "size": "1024x1024",
        "quality": "high",
        "n": 1,
        "images": 1,
        "cache_keys": ["ab" * 32],
        "request_id": "req_1",
        "upstream_request_id": None,
        **dict.fromkeys(TOKEN_COLUMNS, 0),
        "estimate": 60_000_000,
        "cost": 50_000_000,
        "price_version": "2026-11-01",
        "seconds": 19.5,
        "error": None,
        "tags": [],
        **fields,
    }


def tallied(database: Database, hour: float = NOON, **fields: Any) -> None:
    """One hit in the hour that begins then, of an image that had cost $0.05 and 1,000 tokens."""
    row = {
        "hour": int(hour),
        "key_id": "",
        "team_id": "",
        "operation": "image_generation",
        "model": "gpt-image-2",
        "size": "1024x1024",
        "quality": "high",
        "how": "hit",
        "answers": 1,
        "images": 1,
        "tokens": 1000,
        "saved": 50_000_000,
        **fields,
    }
    with database.writing() as connection:
        connection.execute(insert(TALLIES), row)
